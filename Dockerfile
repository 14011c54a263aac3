# calmirror in a container: one static program on an empty file system, as nobody in particular.
#
#   docker build -t calmirror .
#   docker run --read-only --cap-drop all -v ./etc:/etc/calmirror:ro \
#       -v calmirror:/var/lib/calmirror calmirror
#
# ./etc holds calmirror.toml. Mounted is the directory, so that a reload sees a file that an editor
# put in the place of the old one.
#
# The builder is any Debian-like image with Rust and a C compiler; where no registry is at hand,
# one made on the spot (tests/packaging/container.sh does it). Its glibc is linked in, so it has
# to be 2.34 or newer: from there on, looking up names needs nothing from the file system.
ARG BUILDER=docker.io/library/rust:1-slim-trixie

FROM ${BUILDER} AS build
WORKDIR /src
COPY . .
# What `--version` tells; the context has no .git.
ARG COMMIT=unknown
# More for cargo, such as a faster build of a test.
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
# The store, to be kept; and the socket, which other containers may share.
VOLUME ["/var/lib/calmirror", "/run/calmirror"]
HEALTHCHECK --interval=30s --timeout=10s --start-period=2m CMD ["/usr/bin/calmirror", "health"]
# Reload: docker kill --signal HUP, or docker exec … calmirror reload.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/bin/calmirror"]
CMD ["run"]
