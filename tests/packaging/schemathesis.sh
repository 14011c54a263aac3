#!/usr/bin/env bash
# Tests the API against its own description: schemathesis (PyPI) makes valid and invalid requests
# from /openapi.json, and every response has to be a described one in the described form. Over TCP,
# with the token. First with arbitrary parameters, then for an existing window and an existing
# event.
#
#   CALMIRROR_BIN         the program to test (default: built here, dev profile)
#   CALMIRROR_EXAMPLES    requests of each kind and operation (50)
. "$(dirname "$0")/kit.sh"

need curl curl
need python3 python3-minimal
program=$(realpath "$(program)")
examples=${CALMIRROR_EXAMPLES:-50}
python3 -m venv "$SCRATCH/venv" >"$SCRATCH/venv.log" 2>&1 ||
    skip "no Python environment: $(tail -n 1 "$SCRATCH/venv.log")"
"$SCRATCH/venv/bin/pip" install --quiet 'schemathesis>=4,<5' >"$SCRATCH/pip.log" 2>&1 ||
    skip "schemathesis cannot be had: $(tail -n 1 "$SCRATCH/pip.log")"

simulated --people 4 --rooms 2 --mutate-every 300ms
(umask 077 && echo token >"$SCRATCH/token")
# Port 0 would not tell us which port was chosen.
port=$("$SCRATCH/venv/bin/python" -c 'import socket
s = socket.socket()
s.bind(("127.0.0.1", 0))
print(s.getsockname()[1])')
{
    of_simulated "listen = \"127.0.0.1:$port\"
token_file = \"$SCRATCH/token\""
    cat <<C
[log]
format = "json"
[defaults]
interval = "2s"
[[window]]
mailboxes_file = "$SCRATCH/mailboxes"
account = "test"
C
} >"$SCRATCH/calmirror.toml"
serving
url=http://127.0.0.1:$port
ask() { curl -sSf -H 'Authorization: Bearer token' "$url$1"; }

# Well-formed cursors, pages and durations without meaning are refused, as they should be. A schema
# cannot express this, so it is not a failure.
cat >"$SCRATCH/schemathesis.toml" <<C
[checks]
positive_data_acceptance.expected-statuses = ["2xx", "304", "400", "404", "410"]
C
name=$(head -n 1 "$SCRATCH/mailboxes")
id=$(ask "/v1/windows/$name/events?limit=1" | grep -o '"id":"[^"]*"' | head -n 1 | cut -d '"' -f 4)
{
    cat "$SCRATCH/schemathesis.toml"
    printf '[parameters]\nname = "%s"\nid = "%s"\nwait = "10ms"\nafter = "now"\n' "$name" "$id"
} >"$SCRATCH/there.toml"

for what in schemathesis there; do
    "$SCRATCH/venv/bin/schemathesis" --config-file "$SCRATCH/$what.toml" run "$url/openapi.json" \
        --header 'Authorization: Bearer token' --checks all --max-examples "$examples" --seed 1 \
        --phases examples,coverage,fuzzing --workers 2 --no-color --request-timeout 30 \
        --generation-database none >"$SCRATCH/$what.log" 2>&1 || {
        sed -n '/FAILURES/,$p' "$SCRATCH/$what.log" | head -n "${CALMIRROR_LINES:-120}" >&2
        tail -n 30 "$SCRATCH/$what.log" >&2
        fail "the API is not what it says it is"
    }
    # Beside warnings it does not say that there are no issues.
    grep -qE 'No issues found|\b([0-9]+) generated, \1 passed' "$SCRATCH/$what.log" || fail "no verdict: $(tail -n 3 "$SCRATCH/$what.log")"
    proved "$(grep -E '[0-9]+ generated' "$SCRATCH/$what.log" | tail -n 1 | sed 's/^ *//'), no failures" \
        "($([ "$what" = there ] && echo 'of a window and an event that are there' || echo 'every parameter at will'))"
done
ask /healthz >/dev/null || fail "the daemon did not live through it"
proved "the daemon lives and serves"
