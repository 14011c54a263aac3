# calmirror in a container: one static program on an empty file system, run as an unprivileged user.
#
#   docker build -t calmirror .
#   docker run -d --name calmirror --restart unless-stopped --read-only --cap-drop all \
#       --security-opt no-new-privileges -v "$PWD/etc:/etc/calmirror:ro" \
#       -v "$PWD/contoso.secret:/run/secrets/contoso:ro" \
#       -v calmirror:/var/lib/calmirror -v calmirror-run:/run/calmirror calmirror
#
# ./etc contains calmirror.toml. The directory is mounted instead of the file, so that a reload sees
# a file that an editor has replaced. The secret is as compose.yaml needs it.
#
# The builder is any Debian-like image with Rust, a C compiler and make; without a registry, a locally
# made one works too (see tests/packaging/container.sh). Its glibc is linked statically and has to
# be 2.34 or newer: from that version on, name lookups load nothing from the file system.
ARG BUILDER=docker.io/library/rust:1-trixie

FROM ${BUILDER} AS build
WORKDIR /src
COPY . .
# The commit shown by `--version`; the build context has no .git.
ARG COMMIT=unknown
# Additional flags for cargo, for example for a faster test build.
ARG CARGO_FLAGS=
RUN set -eu; \
    target=$(rustc -vV | sed -n 's/^host: //p'); \
    CALMIRROR_COMMIT="$COMMIT" CARGO_PROFILE_RELEASE_STRIP=true \
    RUSTFLAGS='-C target-feature=+crt-static' \
        cargo build --release --locked --bin calmirror --target "$target" $CARGO_FLAGS; \
    mkdir -p /image/usr/bin /image/etc/ssl/certs /image/etc/calmirror/conf.d \
        /own/var/lib/calmirror /own/run/calmirror; \
    cp "target/$target/release/calmirror" /image/usr/bin/; \
    cp /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/; \
    echo 'calmirror:x:65532:65532::/var/lib/calmirror:/' > /image/etc/passwd; \
    echo 'calmirror:x:65532:' > /image/etc/group; \
    echo 'hosts: files dns' > /image/etc/nsswitch.conf; \
    chmod 700 /own/var/lib/calmirror

FROM scratch
COPY --from=build /image/ /
COPY --from=build --chown=65532:65532 /own/ /
USER 65532:65532
ENV PATH=/usr/bin
# The persistent store, and the socket, which other containers may share.
VOLUME ["/var/lib/calmirror", "/run/calmirror"]
HEALTHCHECK --interval=30s --timeout=10s --start-period=2m CMD ["/usr/bin/calmirror", "health"]
# Reload: docker exec … calmirror reload.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/bin/calmirror"]
CMD ["run"]
