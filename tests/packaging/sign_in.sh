#!/usr/bin/env bash
# Tests sign-in with certificates against libraries of others: PyJWT and cryptography verify the
# assertions that the daemon sends, and msal signs in to the simulated Graph.
#
#   CALMIRROR_BIN       the program to test (default: built here, dev profile)
#   CALMIRROR_CLIENTS   a directory where the libraries are kept between runs (default: none)
. "$(dirname "$0")/kit.sh"

need curl curl
need openssl openssl
need python3 python3-minimal
program=$(realpath "$(program)")
script=$PWD/tests/consumers/sign_in.py
clients=${CALMIRROR_CLIENTS:-$SCRATCH/clients}
mkdir -p "$clients"
python=$clients/venv/bin/python
has_python() { "$python" -c 'import cryptography, jwt, msal, requests'; }
if ! has_python 2>/dev/null; then
    python3 -m venv "$clients/venv" >"$SCRATCH/venv.log" 2>&1 &&
        "$python" -m pip install --quiet PyJWT cryptography msal requests >"$SCRATCH/pip.log" 2>&1 ||
        skip "PyJWT and msal cannot be had: $(cat "$SCRATCH"/venv.log "$SCRATCH"/pip.log 2>/dev/null | tail -n 1)"
fi
# The daemon and the endpoints are on this machine.
unset HTTP_PROXY http_proxy HTTPS_PROXY https_proxy ALL_PROXY all_proxy

(
    cd "$SCRATCH"
    umask 077
    openssl rand -hex 16 >password
    for name in app other; do
        openssl req -x509 -newkey rsa:2048 -nodes -keyout $name.key -out $name.crt -days 90 -subj "/CN=$name"
    done
    cat app.key app.crt >app.pem
    openssl pkcs8 -topk8 -in app.key -passout file:password -out encrypted.key
    cat app.crt encrypted.key >encrypted.pem
    openssl pkcs12 -export -in app.pem -passout file:password -out app.pfx
    openssl pkcs12 -export -legacy -in app.pem -passout file:password -out legacy.pfx
    openssl pkcs12 -export -in app.pem -passout pass: -out open.pfx
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ec.key -out ec.crt -days 90 -subj /CN=ec
    cat ec.key ec.crt >ec.pem
    cat other.key app.crt >mismatch.pem
    openssl req -x509 -newkey rsa:2048 -nodes -keyout soon.key -out soon.crt -days 20 -subj /CN=soon
    cat soon.key soon.crt >soon.pem
) >"$SCRATCH/openssl.log" 2>&1 || fail "no certificates: $(tail -n 1 "$SCRATCH/openssl.log")"

simulated --people 6 --rooms 1 --mutate-every 0s

"$python" "$script" msal "$graph" "$SCRATCH" >"$SCRATCH/said" 2>"$SCRATCH/error" ||
    fail "msal: $(tail -n 5 "$SCRATCH/error")"
while read -r line; do proved "msal by $line"; done <"$SCRATCH/said"

"$python" "$script" verify "$graph" "$SCRATCH/app.crt" >"$SCRATCH/verified" 2>"$SCRATCH/error" &
at_end "kill $!"
eventually 20 test -s "$SCRATCH/verified" || fail "the token endpoint does not start: $(tail -n 1 "$SCRATCH/error")"
login=$(head -n 1 "$SCRATCH/verified")

# configured FILE [KEY-LINES]: prints an account and a window that sign in with the file; the account
# has the file's name.
configured() {
    cat <<C
[account.${1%.*}-${1##*.}]
tenant = "00000000-0000-0000-0000-000000000000"
client_id = "11111111-1111-1111-1111-$(printf %s "$1" | cksum | awk '{ printf "%012d", $1 }')"
certificate_file = "$SCRATCH/$1"
${2:-}
[[window]]
name = "$1"
account = "${1%.*}-${1##*.}"
mailbox = "$(sed -n "${3:-1}p" "$SCRATCH/mailboxes")"
C
}
password="certificate_password_file = \"$SCRATCH/password\""
{
    cat <<C
[store]
path = "$SCRATCH/store"
[graph]
base_url = "$graph/v1.0"
login_url = "$login"
[api]
socket = "$SCRATCH/api.sock"
C
    configured app.pem "" 1
    configured encrypted.pem "$password" 2
    configured app.pfx "$password" 3
    configured legacy.pfx "$password" 4
    configured open.pfx "" 5
} >"$SCRATCH/calmirror.toml"
serving
"$program" --config "$SCRATCH/calmirror.toml" status >"$SCRATCH/status" || fail "$(cat "$SCRATCH/status")"
verified() { grep -c '^11111111-.* CN=app$' "$SCRATCH/verified"; }
[ "$(verified)" = 5 ] || fail "$(verified) assertions, not 5: $(tail -n 3 "$SCRATCH/verified")"
proved "PyJWT verifies the assertions of PEM, encrypted PEM, PFX (AES), PFX (3DES, RC2) and PFX without a password"
curl -sS -X POST "$graph/control/expire-tokens" >/dev/null
# A round that was already under way may have begun with the old token.
renewed() { "$program" --config "$SCRATCH/calmirror.toml" sync --all && [ "$(verified)" = 10 ]; }
eventually 60 renewed || fail "$(verified) assertions, not 10: $(tail -n 3 "$SCRATCH/verified")"
! grep FAULT "$SCRATCH/verified" || fail "an assertion is not what it should be"
proved "each token request has an assertion of its own, with a new id"

# refused FILE TEXT [KEY-LINES]: succeeds if `check` refuses the file with that text.
refused() {
    configured "$1" "${3:-}" >"$SCRATCH/refused.toml"
    local code=0
    "$program" --config "$SCRATCH/refused.toml" check >"$SCRATCH/check" 2>&1 || code=$?
    [ "$code" = 78 ] && grep -qF "$2" "$SCRATCH/check" || { cat "$SCRATCH/check" && return 1; }
}
check "check refuses an EC key" refused ec.pem "only RSA keys sign assertions"
check "check refuses a key of another certificate" refused mismatch.pem "does not belong to its certificate"
check "check refuses a PFX file without its password" refused app.pfx "protected by a password"
(umask 077 && echo wrong >"$SCRATCH/wrong")
check "check refuses a wrong password" refused legacy.pfx "does not open the certificate" \
    "certificate_password_file = \"$SCRATCH/wrong\""
configured soon.pem >"$SCRATCH/soon.toml"
"$program" --config "$SCRATCH/soon.toml" check >"$SCRATCH/check" 2>&1 || fail "$(cat "$SCRATCH/check")"
check "check warns of a certificate that expires soon" \
    grep -qF "expires on $(date -u -d '+20 days' +%F)" "$SCRATCH/check"
