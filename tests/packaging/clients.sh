#!/usr/bin/env bash
# Tests the simulated Graph with third-party clients made for Microsoft's Graph: msal (Python and
# Node, with a secret and with a certificate), msgraph-sdk, O365 and microsoft-graph-client. Each
# enumerates a window and applies an incremental round through a TLS proxy with a private authority,
# and must get exactly the events that the simulator lists. msgraph-sdk also lists what fleets
# consist of: members of groups, users, rooms, room lists and calendars.
#
#   CALMIRROR_BIN       the program to test (default: built here, dev profile)
#   CALMIRROR_CLIENTS   a directory where the clients are kept between runs (default: none)
. "$(dirname "$0")/kit.sh"

need curl curl
need openssl openssl
need python3 python3-minimal
program=$(realpath "$(program)")
here=$PWD/tests/consumers
clients=${CALMIRROR_CLIENTS:-$SCRATCH/clients}
mkdir -p "$clients"
reasons=()

python=$clients/venv/bin/python
has_python() { "$python" -c 'import msal, msgraph, O365, azure.identity.aio, aiohttp'; }
if ! has_python 2>/dev/null; then
    python3 -m venv "$clients/venv" >"$SCRATCH/venv.log" 2>&1 &&
        "$python" -m pip install --quiet msal requests azure-identity aiohttp msgraph-sdk O365 \
            >"$SCRATCH/pip.log" 2>&1 ||
        reasons+=("the Python clients cannot be had: $(cat "$SCRATCH"/venv.log "$SCRATCH"/pip.log 2>/dev/null | tail -n 1)")
fi
if ! command -v npm >/dev/null 2>&1; then
    reasons+=("npm is not here")
elif [ ! -d "$clients/node_modules/@azure/msal-node" ]; then
    (cd "$clients" && npm install --silent --no-audit --no-fund --no-package-lock --prefix . \
        @azure/msal-node @microsoft/microsoft-graph-client) >"$SCRATCH/npm.log" 2>&1 ||
        reasons+=("the Node clients cannot be had: $(tail -n 1 "$SCRATCH/npm.log")")
fi

# The proxy's authority, its certificate, and the application's own certificate.
(
    cd "$SCRATCH"
    openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 3 \
        -subj "/CN=A private authority" -addext basicConstraints=critical,CA:TRUE \
        -addext keyUsage=critical,keyCertSign,cRLSign
    openssl req -newkey rsa:2048 -nodes -keyout proxy.key -out proxy.csr -subj "/CN=proxy"
    printf '%s\n' "subjectAltName=DNS:localhost,DNS:graph.microsoft.com,DNS:login.microsoftonline.com,DNS:login.microsoft.com" \
        basicConstraints=CA:FALSE extendedKeyUsage=serverAuth authorityKeyIdentifier=keyid >extensions
    openssl x509 -req -in proxy.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 3 \
        -extfile extensions -out proxy.pem
    openssl req -x509 -newkey rsa:2048 -nodes -keyout app.key -out app.crt -days 3 -subj "/CN=app"
    cat app.key app.crt >app.pem
) >"$SCRATCH/openssl.log" 2>&1 || fail "no certificates: $(tail -n 1 "$SCRATCH/openssl.log")"

simulated --people 3 --rooms 1 --mutate-every 0s
python3 "$here/tls_proxy.py" "$SCRATCH/proxy.pem" "$SCRATCH/proxy.key" "${graph#http://}" \
    >"$SCRATCH/proxy.port" 2>"$SCRATCH/proxy.log" &
at_end "kill $!"
eventually 20 test -s "$SCRATCH/proxy.port" || fail "the proxy does not start: $(cat "$SCRATCH/proxy.log")"
port=$(cat "$SCRATCH/proxy.port")
mailbox=$(head -n 1 "$SCRATCH/mailboxes")
tenant=00000000-0000-0000-0000-000000000000

unset NO_PROXY no_proxy ALL_PROXY all_proxy https_proxy

# by_python SCRIPT ARGUMENTS...: runs it through the proxy; its output is in said and error.
by_python() {
    local script=$1
    shift
    HTTPS_PROXY=http://127.0.0.1:$port https_proxy=http://127.0.0.1:$port \
        REQUESTS_CA_BUNDLE=$SCRATCH/ca.pem SSL_CERT_FILE=$SCRATCH/ca.pem \
        "$python" "$here/$script" "$@" >"$SCRATCH/said" 2>"$SCRATCH/error"
}
if has_python 2>/dev/null; then
    for library in msal-secret msal-certificate msgraph-sdk O365; do
        by_python clients.py "$library" "$graph" "$mailbox" "$tenant" "$SCRATCH/app.pem" ||
            fail "$library: $(tail -n 5 "$SCRATCH/error")"
        proved "$library of Python has what there is: $(tail -n 1 "$SCRATCH/said")"
    done
    by_python listings.py "$graph" "$tenant" || fail "listings: $(tail -n 5 "$SCRATCH/error")"
    while read -r line; do proved "msgraph-sdk lists all $line"; done <"$SCRATCH/said"
fi
if [ -d "$clients/node_modules/@azure/msal-node" ]; then
    for credential in secret certificate; do
        (cd "$clients" && NODE_EXTRA_CA_CERTS=$SCRATCH/ca.pem node "$here/clients.mjs" "$credential" \
            "https://localhost:$port" "$graph" "$mailbox" "$tenant" "$SCRATCH/app.pem") \
            >"$SCRATCH/said" 2>"$SCRATCH/error" || fail "msal-node, $credential: $(tail -n 5 "$SCRATCH/error")"
        proved "msal-node ($credential) and microsoft-graph-client have what there is: $(tail -n 1 "$SCRATCH/said")"
    done
fi
[ ${#reasons[@]} = 0 ] || skip "${reasons[*]}"
