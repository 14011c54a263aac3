#!/usr/bin/env bash
# Windows as iCalendar, read by another's parser (the `icalendar` of PyPI) and compared with the
# same windows as JSON: in UTC and in other zones, with occurrences in both forms, over a few
# thousand simulated events.
#
#   CALMIRROR_BIN     the program to test (default: built here, dev profile)
. "$(dirname "$0")/kit.sh"

need curl curl
need python3 python3-minimal
program=$(realpath "$(program)")
python3 -m venv "$SCRATCH/venv" >"$SCRATCH/venv.log" 2>&1 ||
    skip "no Python environment: $(tail -n 1 "$SCRATCH/venv.log")"
"$SCRATCH/venv/bin/pip" install --quiet 'icalendar>=6' tzdata >"$SCRATCH/pip.log" 2>&1 ||
    skip "icalendar cannot be had: $(tail -n 1 "$SCRATCH/pip.log")"

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

"$SCRATCH/venv/bin/python" tests/consumers/ical.py "$SCRATCH/api.sock" >"$SCRATCH/said" ||
    fail "the calendars are not the windows"
proved "$(cat "$SCRATCH/said")"

first=$(curl -sSf --unix-socket "$SCRATCH/api.sock" 'http://localhost/v1/windows?limit=1' |
    grep -o '"name":"[^"]*"' | cut -d '"' -f 4)
"$program" --api "$SCRATCH/api.sock" events "$first" --ics >"$SCRATCH/first.ics"
curl -sSf --unix-socket "$SCRATCH/api.sock" "http://localhost/v1/windows/$first/calendar.ics" |
    cmp - "$SCRATCH/first.ics" || fail "events --ics is not what the API says"
proved "calmirror events --ics prints what calendar programs get"
