#!/usr/bin/env bash
# Runs the consumers of docs/consume through a chaos run: the simulated Graph changes and fails, the
# daemon and the consumers are killed repeatedly, and in the end both copies equal the mirror, and
# those of consumers with a filter the filtered events. Then the cases that the feed cannot bridge:
# trimmed removals, and another store.
#
#   CALMIRROR_BIN     the program to test (default: built here, dev profile)
#   CALMIRROR_KILLS   the number of kills (20)
. "$(dirname "$0")/kit.sh"

need curl curl
need sqlite3 sqlite3
need python3 python3-minimal
program=$(realpath "$(program)")
kills=${CALMIRROR_KILLS:-20}
socket=$SCRATCH/api.sock
python=$SCRATCH/python.sqlite
shell=$SCRATCH/shell.sqlite
filter='cancelled=false&response=!declined,!tentativelyAccepted&showAs=busy,oof,tentative'

# The clocks of the simulated Graph and of the daemon are set together.
need cc gcc
cc -O1 -shared -fPIC -o "$SCRATCH/shift.so" tests/it/clock/shift.c || fail "shift.c does not compile"
set_clocks() { python3 -c 'import struct, sys; open(sys.argv[1], "r+b").write(struct.pack("=q", int(sys.argv[2])))' "$SCRATCH/shift" "$1"; }
head -c 8 /dev/zero >"$SCRATCH/shift"
printf '#!/bin/sh\nexec env CLOCK_SHIFT_FILE="%s" LD_PRELOAD="%s" "%s" "$@"\n' \
    "$SCRATCH/shift" "$SCRATCH/shift.so" "$program" >"$SCRATCH/shifted"
chmod +x "$SCRATCH/shifted"
program=$SCRATCH/shifted

simulated --people 10 --rooms 3 --mutate-every 0s --faults 0.03 --behaviour nasty
{
    of_simulated
    cat <<C
[feed]
retention = "1h"
[defaults]
interval = "1s"
confirm_after = "1s"
start = "-60d"
end = "+90d"
[[window]]
mailboxes_file = "$SCRATCH/mailboxes"
account = "test"
C
} >"$SCRATCH/calmirror.toml"

# Processes to be killed have names: daemon, python, shell, and the last two with a filter. A shell
# has children, so each one gets its own process group.
declare -A process
start() {
    case $1 in
    daemon) setsid "$program" --config "$SCRATCH/calmirror.toml" run >>"$SCRATCH/daemon.log" 2>&1 & ;;
    python) setsid python3 docs/consume/consume.py --api "$socket" --db "$python" >>"$SCRATCH/python.log" 2>&1 & ;;
    shell) setsid docs/consume/consume.sh "$shell" "$socket" >>"$SCRATCH/shell.log" 2>&1 & ;;
    python-filter) setsid python3 docs/consume/consume.py --api "$socket" --db "$python.filter" --filter "$filter" >>"$SCRATCH/$1.log" 2>&1 & ;;
    shell-filter) setsid docs/consume/consume.sh "$shell.filter" "$socket" "$filter" >>"$SCRATCH/$1.log" 2>&1 & ;;
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

# quiet: waits until every change is in the mirror and the daemon is idle.
quiet() {
    curl -sSf -X DELETE "$graph/control/faults" >/dev/null
    eventually 60 settled || fail "the windows do not settle"
    local name
    for _ in 1 2; do
        while read -r name; do
            curl -sS --unix-socket "$socket" -X POST "http://localhost/v1/windows/$name/resync?wait=30s" >/dev/null
        done <"$SCRATCH/mailboxes"
    done
}
catch_up() {
    python3 docs/consume/consume.py --api "$socket" --db "$python" --once >>"$SCRATCH/python.log" 2>&1 &&
        CALMIRROR_ONCE=1 docs/consume/consume.sh "$shell" "$socket" >>"$SCRATCH/shell.log" 2>&1 &&
        python3 docs/consume/consume.py --api "$socket" --db "$python.filter" --filter "$filter" --once >>"$SCRATCH/python-filter.log" 2>&1 &&
        CALMIRROR_ONCE=1 docs/consume/consume.sh "$shell.filter" "$socket" "$filter" >>"$SCRATCH/shell-filter.log" 2>&1
}
# equal: checks that every copy equals the mirror, or what its filter leaves of it.
equal() {
    { python3 tests/consumers/verify.py "$socket" '' "$python" "$shell" &&
        python3 tests/consumers/verify.py "$socket" "$filter" "$python.filter" "$shell.filter"; } >"$SCRATCH/verify.log" ||
        { cat "$SCRATCH/verify.log"; tail -n 3 "$SCRATCH"/{python,shell}*.log; fail "a copy is not the mirror"; }
    proved "$(sed "s,$SCRATCH/,," "$SCRATCH/verify.log" | paste -sd';')"
}

# No daemon is running yet: both consumers report why, and end if they are to run once.
for program_of in "docs/consume/consume.sh $shell $socket" "python3 docs/consume/consume.py --db $python --api $socket"; do
    if said=$(ONCE=1 timeout 20 $program_of 2>&1); then fail "$program_of found a daemon"; else ended=$?; fi
    check "without a daemon it ends with 1 and says why: $said" [ "$ended" = 1 ]
    grep -Eq 'connect|No such file' <<<"$said" || fail "$program_of does not say why: $said"
done

start daemon
check "the daemon settles" eventually 90 settled
for name in python{,-filter} shell{,-filter}; do start "$name"; done

RANDOM=7
for ((number = 0; number < kills; number++)); do
    change $((5 + RANDOM % 30))
    sleep "0.$((RANDOM % 10))"
    victims=(daemon python shell python-filter shell-filter)
    victim=${victims[RANDOM % 5]}
    strike "$victim"
    change $((1 + RANDOM % 10))
    start "$victim"
    sleep 0.3
done
eventually 30 ask /readyz >/dev/null || fail "the daemon does not come back"
quiet
for name in python{,-filter} shell{,-filter}; do strike "$name"; done
catch_up || fail "a consumer did not get to the end: $(tail -n 3 "$SCRATCH"/{python,shell}*.log)"
proved "through $kills kills: $(grep -c changes "$SCRATCH/python.log") answers of changes to Python, $(grep -c changes "$SCRATCH/shell.log") to the shell"
equal
filtered=$(sqlite3 "$python.filter" 'SELECT count(*) FROM event')
check "the filter leaves $filtered of $(sqlite3 "$python" 'SELECT count(*) FROM event') events" \
    [ "$filtered" -lt "$(sqlite3 "$python" 'SELECT count(*) FROM event')" ]
if refused=$(ONCE=1 timeout 20 docs/consume/consume.sh "$shell.filter" "$socket" 2>&1); then fail "a copy took another filter"; fi
check "a copy keeps to its filter: $refused" grep -q 'filter' <<<"$refused"

# Removals are trimmed after an hour; two hours pass.
change 200
quiet
strike daemon
change 50
set_clocks 7200
start daemon
check "two hours later the daemon settles" eventually 90 settled
# Nothing is trimmed before Graph's clock agrees, which is checked every five seconds.
sleep 6
quiet
for ((number = 0; number < 3; number++)); do
    # Killed in the middle of the new snapshot.
    setsid python3 docs/consume/consume.py --api "$socket" --db "$python" --once >>"$SCRATCH/python.log" 2>&1 &
    process[python]=$!
    sleep "0.$((3 + number * 2))"
    kill -KILL -- "-${process[python]}" 2>/dev/null || true # it may have got to the end
    wait "${process[python]}" 2>/dev/null || true
    [ "$(sqlite3 "$python" 'SELECT count(*) > 0 FROM event')" = 1 ] || fail "a copy was empty"
done
catch_up || fail "a consumer did not get to the end"
check "removals are forgotten: a new snapshot, killed three times in its midst, its copy never empty" \
    grep -q 'new snapshot' "$SCRATCH/python.log"
check "the shell consumer read everything again" grep -q 'reading everything again' "$SCRATCH/shell.log"
equal

# Another store.
strike daemon
rm -rf "$SCRATCH/store"
: >"$SCRATCH/python.log"
start daemon
check "a new store settles" eventually 90 settled
quiet
catch_up || fail "a consumer did not get to the end"
check "the cursor of another store is recognised" grep -q 'new snapshot' "$SCRATCH/python.log"
equal
