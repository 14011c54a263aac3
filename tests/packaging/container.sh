#!/usr/bin/env bash
# Builds the image from the Dockerfile and runs it: as an unprivileged user, without capabilities,
# on a read-only root, with its own resolver and a Graph over TLS. Neither Docker nor a registry is
# needed: the builder image is made here from a Debian tree and this machine's Rust.
#
#   CALMIRROR_CARGO_FLAGS   additional cargo flags for the build in the image
. "$(dirname "$0")/kit.sh"

need_root
need buildah buildah
need podman podman
need runc runc
need python3 python3-minimal
need openssl openssl
need ip iproute2
need curl curl
need nsenter util-linux
need mmdebstrap mmdebstrap

kept=$TREES/containers
mkdir -p "$kept"
storage=(--root "$kept/storage" --runroot "$kept/run" --storage-driver vfs)
image=localhost/calmirror:test

# The builder: Debian with a C compiler and make, and this machine's Rust.
if ! buildah "${storage[@]}" inspect --type image localhost/builder >/dev/null 2>&1; then
    mmdebstrap --quiet --variant=minbase --include=gcc,make,libc6-dev,ca-certificates bookworm \
        "$SCRATCH/builder" >"$SCRATCH/log" 2>&1 || skip "no Debian tree: $(tail -n 1 "$SCRATCH/log")"
    rust=$(rustc --print sysroot)
    mkdir -p "$SCRATCH/builder/usr/local/rust"
    cp -a "$rust/bin" "$rust/lib" "$SCRATCH/builder/usr/local/rust/"
    builder=$(buildah "${storage[@]}" from scratch)
    buildah "${storage[@]}" add --quiet "$builder" "$SCRATCH/builder" / >/dev/null
    buildah "${storage[@]}" config --env PATH=/usr/local/rust/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        --env CARGO_HOME=/usr/local/cargo "$builder"
    buildah "${storage[@]}" commit --quiet "$builder" localhost/builder >/dev/null
    buildah "${storage[@]}" rm "$builder" >/dev/null
    rm -rf "$SCRATCH/builder"
fi

# Downloads and build results are kept between runs; the image contains none of them.
mkdir -p "$kept/target"
begun=$(now_ms)
buildah "${storage[@]}" bud --quiet --isolation chroot --format docker --network host \
    --build-arg BUILDER=localhost/builder --build-arg COMMIT=test \
    --build-arg CARGO_FLAGS="${CALMIRROR_CARGO_FLAGS:-}" \
    --volume "${CARGO_HOME:-$HOME/.cargo}:/usr/local/cargo" --volume "$kept/target:/src/target" \
    -t "$image" -f Dockerfile . >"$SCRATCH/build.log" 2>&1 ||
    { tail -n 20 "$SCRATCH/build.log"; fail "the image is built"; }
proved "the image is built ($(since "$begun") s)"

buildah "${storage[@]}" push --quiet "$image" "oci-archive:$SCRATCH/image.tar"
bytes=$(podman "${storage[@]}" image inspect --format '{{.Size}}' "$image")
below "$bytes" 25000000 || fail "the image has $bytes bytes, more than 25 MB"
proved "size: $((bytes / 1000000)) MB, compressed $(($(stat -c %s "$SCRATCH/image.tar") / 1000000)) MB"
asked() { podman "${storage[@]}" image inspect --format "$1" "$image"; }
[ "$(asked '{{.Config.User}}')" = 65532:65532 ] || fail "the user"
[ "$(asked '{{.Config.StopSignal}}')" = SIGTERM ] || fail "the stop signal"
[ "$(asked '{{.HealthCheck.Test}}')" = '[CMD /usr/bin/calmirror health]' ] || fail "the health check"
proved "user 65532, SIGTERM, HEALTHCHECK calmirror health, volumes $(asked '{{.Config.Volumes}}')"

# A network namespace that contains only a resolver, a Graph behind TLS, and the container.
ip netns add "calmirror-$$"
at_end "ip netns del calmirror-$$"
net() { ip netns exec "calmirror-$$" "$@"; }
net ip link set lo up
# started COMMAND...: runs it in that namespace until the end. It does not use `net`: killing a
# function in the background would kill the shell instead of the program.
started() {
    ip netns exec "calmirror-$$" "$@" >>"$SCRATCH/servers.log" 2>&1 &
    at_end "kill $! 2>/dev/null"
}
cat >"$SCRATCH/resolver.py" <<'P'
"""Resolves the A record of graph.calmirror.test to 127.0.0.7; other queries get no answer records."""
import socket, struct
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.53", 53))
while True:
    question, asker = server.recvfrom(512)
    at, labels = 12, []
    while question[at]:
        labels.append(question[at + 1:at + 1 + question[at]].decode())
        at += 1 + question[at]
    kind = struct.unpack(">H", question[at + 1:at + 3])[0]
    name = ".".join(labels).lower()
    ours = name == "graph.calmirror.test" and kind == 1
    print("asked for", name, kind, flush=True)
    flags = 0x8180 if name == "graph.calmirror.test" else 0x8183
    answer = question[:2] + struct.pack(">HHHHH", flags, 1, int(ours), 0, 0) + question[12:at + 5]
    if ours:
        answer += b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 60, 4) + bytes([127, 0, 0, 7])
    server.sendto(answer, asker)
P
cat >"$SCRATCH/front.py" <<'P'
"""TLS in front of the simulated Graph, with another address."""
import http.server, ssl, sys, urllib.error, urllib.request
inside, outside = b"http://127.0.0.1:8081", b"https://graph.calmirror.test"
class Front(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def pass_on(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "accept-encoding", "connection")}
        request = urllib.request.Request(inside.decode() + self.path, body or None, headers, method=self.command)
        try:
            answer = urllib.request.urlopen(request)
        except urllib.error.HTTPError as error:
            answer = error
        text = answer.read().replace(inside, outside)
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "date"):
                self.send_header(name, value)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)
    do_GET = do_POST = pass_on
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(("127.0.0.7", 443), Front)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1], sys.argv[2])
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
P
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj "/CN=test authority" \
    -keyout "$SCRATCH/ca.key" -out "$SCRATCH/ca.pem" 2>/dev/null
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=graph.calmirror.test" \
    -keyout "$SCRATCH/tls.key" -out "$SCRATCH/tls.csr" 2>/dev/null
openssl x509 -req -in "$SCRATCH/tls.csr" -CA "$SCRATCH/ca.pem" -CAkey "$SCRATCH/ca.key" -CAcreateserial \
    -days 2 -extfile <(echo "subjectAltName=DNS:graph.calmirror.test") -out "$SCRATCH/tls.pem" 2>/dev/null

# The image's own program serves as the simulated Graph: it is static and runs anywhere.
mounted=$(podman "${storage[@]}" image mount "$image")
at_end "podman ${storage[*]} image unmount $image >/dev/null"
install -m 755 "$mounted/usr/bin/calmirror" "$SCRATCH/calmirror"
[ -s "$mounted/etc/ssl/certs/ca-certificates.crt" ] || fail "the roots of the web's authorities"
started "$SCRATCH/calmirror" simulate --people 4 --rooms 1 --mutate-every 0s
started python3 "$SCRATCH/resolver.py"
started python3 "$SCRATCH/front.py" "$SCRATCH/tls.pem" "$SCRATCH/tls.key"
eventually 20 grep -q '^mailbox' "$SCRATCH/servers.log" || fail "the simulated Graph starts"

mkdir -p "$SCRATCH/etc" "$SCRATCH/secrets"
echo "any secret is accepted" >"$SCRATCH/secrets/contoso"
chmod 444 "$SCRATCH/secrets/contoso" # as Docker mounts them
configure() {
    {
        cat <<'C'
[graph]
base_url = "https://graph.calmirror.test/v1.0"
login_url = "https://graph.calmirror.test"
[defaults]
interval = "1s"
[account.contoso]
tenant = "00000000-0000-0000-0000-000000000000"
client_id = "11111111-1111-1111-1111-111111111111"
client_secret_file = "/run/secrets/contoso"
C
        sed -n 's/^mailbox = /&/p' "$SCRATCH/servers.log" | head -n "$1" |
            sed 's/^/[[window]]\naccount = "contoso"\n/'
    } >"$SCRATCH/etc/calmirror.toml"
}
configure 4
echo "nameserver 127.0.0.53" >"$SCRATCH/resolv.conf"
chmod 755 "$SCRATCH"

podman_run() {
    podman "${storage[@]}" --cgroup-manager cgroupfs --runtime runc --log-level error run \
        --ulimit nofile=1024:1024 --ulimit nproc=4096:4096 --no-healthcheck \
        --network "ns:/run/netns/calmirror-$$" --read-only --read-only-tmpfs=false --cap-drop=all \
        --security-opt no-new-privileges --pids-limit 64 --log-driver k8s-file "$@"
}
container() { podman "${storage[@]}" --cgroup-manager cgroupfs --runtime runc "$@"; }
at_end "podman ${storage[*]} --cgroup-manager cgroupfs --runtime runc rm --force --time 1 calmirror >/dev/null 2>&1; podman ${storage[*]} volume rm --force calmirror-store calmirror-run >/dev/null 2>&1"
podman_run --detach --name calmirror --hostname calmirror \
    -v "$SCRATCH/etc:/etc/calmirror:ro" -v "$SCRATCH/secrets:/run/secrets:ro" \
    -v "$SCRATCH/resolv.conf:/etc/resolv.conf:ro" \
    -v "$SCRATCH/ca.pem:/etc/ssl/certs/ca-certificates.crt:ro" \
    -v calmirror-store:/var/lib/calmirror -v calmirror-run:/run/calmirror \
    "$image" >/dev/null || fail "the container starts"
inside() { container exec calmirror /usr/bin/calmirror "$@"; }
logs() { container logs calmirror 2>&1; }
healthy() { inside status; }

begun=$(now_ms)
eventually 30 healthy || { logs | tail -n 5; inside status --json | tail -c 1500; fail "every window settles"; }
grep -q 'asked for graph.calmirror.test' "$SCRATCH/servers.log" || fail "the resolver was asked"
proved "name by the resolver in resolv.conf, TLS by the roots in the image's place, all windows settled after $(since "$begun") s"
inside health | grep -q ok || fail "health"
proved "HEALTHCHECK's command answers: $(inside health)"

pid=$(container inspect --format '{{.State.Pid}}' calmirror)
grep -q '^Uid:\s*65532\s*65532' "/proc/$pid/status" || fail "runs as 65532"
grep -q '^CapBnd:\s*0*$' "/proc/$pid/status" || fail "no capabilities"
grep -q '^NoNewPrivs:\s*1$' "/proc/$pid/status" || fail "no new privileges"
awk '$2 == "/" { exit !($4 ~ /(^|,)ro(,|$)/) }' "/proc/$pid/mounts" || fail "the root is read-only"
proved "runs as 65532 with no capabilities on a read-only root"
zoned=$(container exec --env TZ=Pacific/Auckland calmirror /usr/bin/calmirror status "$(sed -n 's/^mailbox = "\(.*\)"/\1/p' "$SCRATCH/etc/calmirror.toml" | head -n 1)" | sed -n 's/^from *//p')
utc=$(inside status "$(sed -n 's/^mailbox = "\(.*\)"/\1/p' "$SCRATCH/etc/calmirror.toml" | head -n 1)" | sed -n 's/^from *//p')
[ "$zoned" != "$utc" ] || fail "time zones are known"
proved "time zones without files: $utc in UTC is $zoned in Auckland"

configure 3
container kill --signal HUP calmirror >/dev/null
fewer() { [ "$(inside status --json | grep -o '"mailbox":' | wc -l)" = 3 ]; }
eventually 10 fewer || fail "SIGHUP reloads"
[ "$(container inspect --format '{{.State.Pid}}' calmirror)" = "$pid" ] || fail "a reload keeps the process"
proved "reloaded by SIGHUP, same process: $(logs | grep -o '"configuration reloaded".*' | tail -n 1)"
echo 'intervall = "1m"' >>"$SCRATCH/etc/calmirror.toml"
if refusal=$(inside reload 2>&1); then fail "a bad configuration is refused"; fi
inside status >/dev/null || fail "after a refused reload all goes on"
proved "refused reload: $(printf '%s' "$refusal" | tr '\n' ' ')"
configure 3

enumerations() {
    net curl -fsS http://127.0.0.1:8081/control/statistics |
        sed 's/.*"total":{\([^}]*\).*/\1/; s/.*"enumerations":\([0-9]*\).*/\1/'
}
before=$(enumerations)
begun=$(now_ms)
container stop --time 30 calmirror >/dev/null
took=$(since "$begun")
[ "$(container inspect --format '{{.State.ExitCode}}' calmirror)" = 0 ] || fail "stop exits 0"
below "$took" 5 || fail "stop took $took s"
proved "stopped cleanly in $took s"
container start calmirror >/dev/null
eventually 30 healthy || fail "healthy after a restart"
sleep 1.5
after=$(enumerations)
[ "$before" = "$after" ] || fail "the restart enumerated again: $before, $after"
proved "restarted with the mirror it had: no new enumeration ($after)"

# compose.yaml: validated by Compose, and run unchanged by podman-compose, if they are available.
container rm --force --time 10 calmirror >/dev/null
project=$SCRATCH/compose
mkdir -p "$project/etc"
cp compose.yaml Dockerfile "$project/"
sed 's|https://graph.calmirror.test|http://127.0.0.1:8081|' "$SCRATCH/etc/calmirror.toml" >"$project/etc/calmirror.toml"
echo "any secret is accepted" >"$project/contoso.secret"
chown 65532 "$project/contoso.secret" && chmod 400 "$project/contoso.secret"
if (need docker-compose docker-compose); then
    docker-compose --file "$project/compose.yaml" config >"$SCRATCH/compose.log" 2>&1 ||
        { cat "$SCRATCH/compose.log"; fail "Compose understands compose.yaml"; }
    proved "Compose understands compose.yaml: $(grep -cE 'read_only: true|cap_drop|no-new-privileges|stop_grace_period' "$SCRATCH/compose.log") of 4 hardening keys in what it made of it"
fi
if (need podman-compose podman-compose); then
    # Uses this test's image storage, and a network that already exists.
    cat >"$SCRATCH/podman" <<P
#!/usr/bin/env bash
podman=(podman ${storage[*]} --cgroup-manager cgroupfs --runtime runc --log-level error)
[ "\$1" != network ] || exit 0
[ "\$1" = run ] || exec "\${podman[@]}" "\$@"
shift
options=()
while [ \$# -gt 0 ]; do
    case \$1 in
    --net | --network-alias) shift ;;
    *) options+=("\$1") ;;
    esac
    shift
done
exec "\${podman[@]}" run --network "ns:/run/netns/calmirror-$$" --no-healthcheck \\
    --ulimit nofile=1024:1024 --ulimit nproc=4096:4096 --read-only-tmpfs=false \\
    --log-driver k8s-file "\${options[@]}"
P
    chmod 755 "$SCRATCH/podman"
    container tag "$image" localhost/calmirror:latest
    compose() { (cd "$project" && podman-compose --podman-path "$SCRATCH/podman" "$@" >>"$SCRATCH/compose.log" 2>&1); }
    at_end "compose down --volumes"
    compose up --detach --no-build || { tail -n 5 "$SCRATCH/compose.log"; fail "podman-compose up"; }
    service=compose_calmirror_1
    up() { container exec "$service" /usr/bin/calmirror status; }
    eventually 30 up || { tail -n 5 "$SCRATCH/compose.log"; container logs "$service" 2>&1 | tail -n 5; fail "compose.yaml: every window settles"; }
    pid=$(container inspect --format '{{.State.Pid}}' "$service")
    grep -q '^CapBnd:\s*0*$' "/proc/$pid/status" || fail "compose.yaml: no capabilities"
    grep -q '^NoNewPrivs:\s*1$' "/proc/$pid/status" || fail "compose.yaml: no new privileges"
    awk '$2 == "/" { exit !($4 ~ /(^|,)ro(,|$)/) }' "/proc/$pid/mounts" || fail "compose.yaml: the root is read-only"
    proved "compose.yaml as it stands: $(up | sed -n 1p), no capabilities, a read-only root, the secret of mode 0400"
    # As an editor saves: a new file replaces the old one.
    sed 's/^interval = "1s"/interval = "2s"/' "$project/etc/calmirror.toml" >"$project/etc/new" &&
        mv "$project/etc/new" "$project/etc/calmirror.toml"
    reloaded=$(container exec "$service" /usr/bin/calmirror reload 2>&1) || fail "compose.yaml: reload"
    case $reloaded in
    *" retimed"*) proved "compose.yaml: a reload sees a file that was replaced" ;;
    *) fail "compose.yaml: a reload sees a file that was replaced: $reloaded" ;;
    esac
    compose down || fail "podman-compose down"
    proved "podman-compose down: the volume of the store stays: $(container volume ls --quiet | grep -c compose_store)"
fi
