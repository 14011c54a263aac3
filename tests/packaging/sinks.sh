#!/usr/bin/env bash
# Tests the webhook sink against libraries of others: the receivers of docs/sinks.md check its
# signatures with the official libraries of Standard Webhooks for Python and Node, and the
# CloudEvents SDK for Python reads its batches. The Code node of the n8n workflow runs in Node alone.
#
#   CALMIRROR_BIN       the program to test (default: built here, dev profile)
#   CALMIRROR_CLIENTS   a directory where the libraries are kept between runs (default: none)
. "$(dirname "$0")/kit.sh"

need curl curl
need openssl openssl
need python3 python3-minimal
program=$(realpath "$(program)")
clients=${CALMIRROR_CLIENTS:-$SCRATCH/clients}
mkdir -p "$clients"
clients=$(realpath "$clients")
reasons=()

python=$clients/venv/bin/python
has_python() { "$python" -c 'import standardwebhooks, cloudevents.http'; }
if ! has_python 2>/dev/null; then
    python3 -m venv "$clients/venv" >"$SCRATCH/venv.log" 2>&1 &&
        "$python" -m pip install --quiet standardwebhooks 'cloudevents<2' >"$SCRATCH/pip.log" 2>&1 ||
        reasons+=("the Python libraries cannot be had: $(cat "$SCRATCH"/venv.log "$SCRATCH"/pip.log 2>/dev/null | tail -n 1)")
fi
if ! command -v npm >/dev/null 2>&1; then
    reasons+=("npm is not here")
elif [ ! -d "$clients/node_modules/standardwebhooks" ]; then
    (cd "$clients" && npm install --silent --no-audit --no-fund --no-package-lock --prefix . standardwebhooks) \
        >"$SCRATCH/npm.log" 2>&1 ||
        reasons+=("the Node library cannot be had: $(tail -n 1 "$SCRATCH/npm.log")")
fi
# The receivers are on this machine.
unset HTTP_PROXY http_proxy HTTPS_PROXY https_proxy ALL_PROXY all_proxy

# block LANGUAGE: prints the block of code in that language in the documentation.
block() { sed -n "/^\`\`\`$1\$/,/^\`\`\`\$/p" docs/sinks.md | sed '1d;$d'; }
block python >"$SCRATCH/receive.py"
block js >"$clients/receive.mjs"

secret() { (umask 077 && echo "whsec_$(openssl rand -base64 32)" >"$SCRATCH/$1"); }
secret new
secret old
secret wrong
(umask 077 && cat "$SCRATCH/new" "$SCRATCH/old" >"$SCRATCH/both" && echo http://127.0.0.1:9/ >"$SCRATCH/url")

# received NAME SECRET COMMAND...: starts a receiver with that secret and sets $url and $log.
received() {
    local name=$1 key=$SCRATCH/$2
    shift 2
    log=$SCRATCH/$name.log
    "$@" "$key" 0 >"$log" 2>"$log.err" &
    receiver=$!
    at_end "kill $receiver 2>/dev/null"
    eventually 20 grep -q '^listening' "$log" || fail "$name does not start: $(tail -n 1 "$log.err")"
    url=http://127.0.0.1:$(sed -n 's/^listening on port //p' "$log")/
}

# A mirror of one calendar, with a sink whose receiver and format change.
simulated --people 1 --rooms 0 --mutate-every 0s
mailbox=$(head -n 1 "$SCRATCH/mailboxes")
configured() {
    of_simulated
    cat <<C
[defaults]
interval = "1s"
[[window]]
name = "alice"
account = "test"
mailbox = "$mailbox"
[sink.crm]
type = "webhook"
url_file = "$SCRATCH/url"
secret_file = "$SCRATCH/both"
allow_private = true
batch = "1s"
$*
C
}
configured >"$SCRATCH/calmirror.toml"
cm() { "$program" --config "$SCRATCH/calmirror.toml" "$@"; }
serving

# sends_to URL: the sink begins again, with a snapshot.
sends_to() {
    echo "$1" >"$SCRATCH/url"
    cm reload >"$SCRATCH/reload.log" 2>&1 || fail "the daemon does not reload: $(cat "$SCRATCH/reload.log")"
}
mutate() { curl -sSf "$graph/control/mutate" -d "{\"mailbox\":\"$mailbox\",$1}" | sed 's/.*"id":"\([^"]*\)".*/\1/'; }
# logged SECONDS TEXT: waits for a line of the receiver.
logged() { eventually "$1" grep -q "$2" "$log" || fail "no '$2' in: $(tail -n 3 "$log" "$log.err"; cm sink list)"; }
# copied: the events that the receiver has at the end of its log.
copied() {
    awk '$1 == "created" || $1 == "updated" { has[$3] = 1 }
        $1 == "removed" { delete has[$3] }
        END { for (id in has) print id }' "$log" | sort
}
mirrored() {
    cm events alice --json --from -1000d --to +1000d |
        python3 -c 'import json, sys; [print(json.loads(line)["id"]) for line in sys.stdin]' | sort
}

verified() {
    local name=$1 event
    shift
    for key in new old; do
        received "$name-$key" "$key" "$@"
        sends_to "$url"
        logged 30 '^snapshot_ends'
        cm sink test crm >"$SCRATCH/sent" 2>&1 || fail "$name, $key secret: $(cat "$SCRATCH/sent" "$log" "$log.err")"
        logged 5 '^test'
        event=$(mutate '"edit":"create_single","subject":"Übergabe 🗓","start":"'"$(date -u +%Y-%m-%dT12:00:00Z)"'","minutes":30')
        logged 30 "^created alice $event\$"
        mutate '"edit":"delete","event":"'"$event"'"' >/dev/null
        logged 30 "^removed alice $event\$"
        [ "$(sed -n 2p "$log" | cut -d ' ' -f 1)" = snapshot_begins ] || fail "$name: $(head -n 3 "$log")"
        [ "$(copied | wc -l)" -gt 5 ] || fail "$name has only $(copied)"
        diff <(mirrored) <(copied) >"$SCRATCH/differs" || fail "$name has not what the mirror has: $(cat "$SCRATCH/differs")"
        curl -sSf --unix-socket "$SCRATCH/api.sock" http://localhost/v1/sinks | grep -o 'msg_[0-9a-f]*' | sort >"$SCRATCH/ids"
        [ "$(wc -l <"$SCRATCH/ids")" -ge 4 ] && [ -z "$(uniq -d "$SCRATCH/ids")" ] || fail "ids: $(cat "$SCRATCH/ids")"
    done
    proved "$name verifies requests with the new and with the older secret of a rotation, and its $(copied | wc -l) events are those of the mirror"
    received "$name-wrong" wrong "$@"
    sends_to "$url"
    ! cm sink test crm >"$SCRATCH/sent" 2>&1 || fail "$name accepts another secret"
    grep -q 'refused: No matching signature found' "$log" || fail "$name: $(cat "$log" "$log.err")"
    grep -q 'answered 401' "$SCRATCH/sent" || fail "$(cat "$SCRATCH/sent")"
    proved "$name refuses another secret"
}

tried=0
if has_python 2>/dev/null; then
    verified "the library for Python" "$python" "$SCRATCH/receive.py"
    tried=$((tried + 1))
    # As the receiver of the documentation, but its lines are CloudEvents.
    cat >"$SCRATCH/events.py" <<'P'
import http.server
import json
import sys

from cloudevents.http import from_json
from standardwebhooks.webhooks import Webhook

webhook = Webhook(open(sys.argv[1]).readline().strip())


class Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        for event in webhook.verify(body, dict(self.headers)):
            event = from_json(json.dumps(event))
            print(self.headers["content-type"], event["type"], event["source"], event.data["change"], flush=True)
        self.send_response(204)
        self.end_headers()


server = http.server.HTTPServer(("127.0.0.1", int(sys.argv[2])), Receiver)
print("listening on port", server.server_port, flush=True)
server.serve_forever()
P
    received events new "$python" "$SCRATCH/events.py"
    configured 'format = "cloudevents"' >"$SCRATCH/calmirror.toml"
    sends_to "$url"
    logged 30 snapshot_ends
    cm sink test crm >"$SCRATCH/sent" 2>&1 || fail "$(cat "$SCRATCH/sent" "$log" "$log.err")"
    of() { printf 'application/cloudevents-batch+json dev.calmirror.%s %s %s\n' "$1" "$2" "$1"; }
    { of created /windows/alice; of removed /windows/alice; of snapshot_begins /sinks/crm; of snapshot_ends /sinks/crm; of test /sinks/crm; } \
        >"$SCRATCH/expected"
    check "the CloudEvents SDK reads each event of a batch" diff "$SCRATCH/expected" <(sed 1d "$log" | sort -u)
    configured >"$SCRATCH/calmirror.toml"
fi
if [ -d "$clients/node_modules/standardwebhooks" ] && command -v node >/dev/null 2>&1; then
    verified "the library for Node" node "$clients/receive.mjs"
    tried=$((tried + 1))
fi
if command -v node >/dev/null 2>&1; then
    # The Code node of the documentation, with what n8n gives it.
    cat >"$SCRATCH/n8n.mjs" <<'J'
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";

const [, , file, port] = process.argv;
const secret = readFileSync(file, "utf8").split("\n")[0].trim();
const workflow = JSON.parse(readFileSync("docs/consume/n8n.json", "utf8"));
const code = workflow.nodes.find((node) => node.name === "Verify").parameters.jsCode;
const AsyncFunction = Object.getPrototypeOf(async function () {}).constructor;
const verify = new AsyncFunction("$input", "require", code.replace("whsec_REPLACE", secret));

const server = createServer(async (request, response) => {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const node = { helpers: { getBinaryDataBuffer: async () => Buffer.concat(chunks) } };
  const input = { first: () => ({ json: { headers: request.headers } }) };
  const [{ json }] = await verify.call(node, input, createRequire(import.meta.url));
  if (json.status !== 204) console.log("refused: No matching signature found");
  for (const line of json.lines) console.log(line.change, line.window, line.id);
  response.writeHead(json.status).end();
});
server.listen(Number(port), "127.0.0.1", () => console.log("listening on port", server.address().port));
J
    verified "the Code node of the n8n workflow" node "$SCRATCH/n8n.mjs"
fi
[ "$tried" = 2 ] || skip "$(printf '%s; ' "${reasons[@]}")"
