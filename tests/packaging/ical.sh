#!/usr/bin/env bash
# Windows as iCalendar, in both forms of series: a few thousand simulated events, and several
# hundred unusual ones. The `icalendar` of PyPI reads them, and every event is compared with the
# same window as JSON. Then other readers show the form that subscribers get; each has to show every
# event at its instant. A reader that cannot be installed makes this test a skip, after all others
# were tried.
#
#   CALMIRROR_BIN     the program to test (default: built here, dev profile)
. "$(dirname "$0")/kit.sh"

need curl curl
need python3 python3-minimal
program=$(realpath "$(program)")
python3 -m venv "$SCRATCH/venv" >"$SCRATCH/venv.log" 2>&1 ||
    skip "no Python environment: $(tail -n 1 "$SCRATCH/venv.log")"
python=$SCRATCH/venv/bin/python
"$SCRATCH/venv/bin/pip" install --quiet 'icalendar>=6' tzdata >"$SCRATCH/pip.log" 2>&1 ||
    skip "icalendar cannot be had: $(tail -n 1 "$SCRATCH/pip.log")"

mkdir "$SCRATCH/calendars"

# Unusual events, from a Graph of their own.
"$python" tests/consumers/odd.py >"$SCRATCH/odd.port" 2>"$SCRATCH/odd.log" &
at_end "kill $!"
eventually 20 grep -q . "$SCRATCH/odd.port" || fail "no odd Graph: $(tail -n 1 "$SCRATCH/odd.log")"
graph=http://127.0.0.1:$(cat "$SCRATCH/odd.port")
{
    of_simulated
    printf '[defaults]\nstart = "2026-01-01"\nend = "2027-01-01"\naudit = "off"\n'
    printf '[[window]]\naccount = "test"\nmailbox = "odd@contoso.example"\n'
} >"$SCRATCH/calmirror.toml"
serving
daemon=$!
"$python" tests/consumers/ical.py "$SCRATCH/api.sock" "$SCRATCH/calendars" --odd >"$SCRATCH/said" ||
    fail "the calendar of odd events is not the window"
proved "odd events, $(cat "$SCRATCH/said")"
kill "$daemon"
wait "$daemon" || fail "the daemon of the odd events did not end well"
rm -r "$SCRATCH/store"

simulated --people 12 --rooms 4 --mutate-every 0s
{
    of_simulated
    cat <<C
[defaults]
start = "-60d"
end = "+120d"
C
    zones=("UTC" "W. Europe Standard Time" "America/Los_Angeles" "India Standard Time")
    index=0
    while read -r mailbox; do
        complete=$([ $((index / 4 % 2)) = 0 ] && echo master || echo exact)
        body=$([ $((index / 8 % 2)) = 0 ] && echo html || echo text)
        printf '[[window]]\naccount = "test"\nmailbox = "%s"\ntime_zone = "%s"\ncomplete = "%s"\nbody = "%s"\n' \
            "$mailbox" "${zones[index % 4]}" "$complete" "$body"
        index=$((index + 1))
    done <"$SCRATCH/mailboxes"
} >"$SCRATCH/calmirror.toml"

serving

"$python" tests/consumers/ical.py "$SCRATCH/api.sock" "$SCRATCH/calendars" >"$SCRATCH/said" ||
    fail "the calendars are not the windows"
proved "$(cat "$SCRATCH/said")"

first=$(curl -sSf --unix-socket "$SCRATCH/api.sock" 'http://localhost/v1/windows?limit=1' |
    grep -o '"name":"[^"]*"' | cut -d '"' -f 4)
"$program" --api "$SCRATCH/api.sock" events "$first" --ics >"$SCRATCH/first.ics"
curl -sSf --unix-socket "$SCRATCH/api.sock" "http://localhost/v1/windows/$first/calendar.ics" |
    cmp - "$SCRATCH/first.ics" || fail "events --ics is not what the API says"
proved "calmirror events --ics prints what calendar programs get"

# The output of other readers.
untried=()

# shown NAME COMMAND...: checks that the command, given a calendar, prints the starts of its events.
shown() {
    local name=$1 calendar starts count=0
    shift
    for starts in "$SCRATCH"/calendars/*.starts; do
        calendar=${starts%.starts}.ics
        TZ=UTC "$@" "$calendar" 2>"$SCRATCH/reader.log" | sort | sed '/^$/d' >"$SCRATCH/shown" ||
            fail "$name cannot read $(basename "$calendar"): $(tail -n 3 "$SCRATCH/reader.log")"
        sort "$starts" | diff - "$SCRATCH/shown" >"$SCRATCH/differences" || {
            cat "$SCRATCH/reader.log" >&2
            fail "$name shows $(wc -l <"$SCRATCH/shown") of $(wc -l <"$starts") events of $(basename "$calendar"): $(head -n 6 "$SCRATCH/differences")"
        }
        count=$((count + $(wc -l <"$starts")))
    done
    proved "$name shows all $count events, at their instants"
}

# untried NAME WHY: reports a reader that could not be tried.
untried() {
    printf 'not tried: %s: %s\n' "$1" "$2"
    untried+=("$1")
}

for reader in recurring-ical-events vobject ical; do
    if "$SCRATCH/venv/bin/pip" install --quiet "$reader" >"$SCRATCH/pip.log" 2>&1; then
        shown "$reader" "$python" tests/consumers/shown.py "$reader"
    else
        untried "$reader" "$(tail -n 1 "$SCRATCH/pip.log")"
    fi
done
for reader in ical-expander node-ical; do
    if command -v npm >/dev/null 2>&1 &&
        npm install --silent --no-fund --no-audit --prefix "$SCRATCH/node" ical.js "$reader" >"$SCRATCH/npm.log" 2>&1; then
        NODE_PATH=$SCRATCH/node/node_modules shown "$reader" node tests/consumers/shown.cjs "$reader"
    else
        untried "$reader" "$(tail -n 1 "$SCRATCH/npm.log" 2>/dev/null || echo "there is no npm")"
    fi
done
# installed COMMAND PACKAGE...: succeeds if the packages can be installed. `need` ends a subshell
# that skips.
installed() {
    (
        trap - EXIT
        need "$1" "${@:2}"
    ) >/dev/null &&
        apt-get install -y -qq --no-install-recommends "${@:2}" </dev/null >"$SCRATCH/apt.log" 2>&1
}
if installed php php-cli php-sabre-vobject; then
    shown sabre/vobject php tests/consumers/shown.php
else
    untried sabre/vobject "php-sabre-vobject cannot be installed"
fi
if installed cc gcc libc6-dev libical-dev &&
    cc -o "$SCRATCH/libical" tests/consumers/shown.c -lical 2>"$SCRATCH/cc.log"; then
    shown libical "$SCRATCH/libical"
else
    untried libical "libical-dev cannot be installed, or there is no compiler"
fi

[ ${#untried[@]} -eq 0 ] || skip "readers that cannot be had: ${untried[*]}"
