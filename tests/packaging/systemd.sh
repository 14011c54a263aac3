#!/usr/bin/env bash
# Tests the unit under real systemds, one without Type=notify-reload and one with it, booted in a
# container with only a loopback and a simulated Graph.
#
#   tests/packaging/systemd.sh [SUITE...]     default: bookworm (252) and trixie (257)
. "$(dirname "$0")/kit.sh"

need_root
need nsenter util-linux
need curl curl
need python3 python3-minimal
program=$(program)
suites=("$@")
[ ${#suites[@]} -gt 0 ] || suites=(bookworm trixie)

# Stops one thread of a process and keeps it stopped, while the rest of the process continues.
cat >"$SCRATCH/freeze.py" <<'P'
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
thread = int(sys.argv[1])
for request in (0x4206, 0x4207):  # PTRACE_SEIZE, PTRACE_INTERRUPT
    if libc.ptrace(request, thread, None, None) != 0:
        sys.exit(f"ptrace: errno {ctypes.get_errno()}")
WALL = 0x40000000
os.waitpid(thread, WALL)
print("frozen", flush=True)
# A tracer is notified of the thread's end first, and must reap it before the parent can.
os.waitpid(thread, WALL)
P

prepare() {
    install -m 755 "$program" "$tree/usr/bin/calmirror"
    install -m 644 systemd/calmirror.service "$tree/etc/systemd/system/"
    mkdir -p "$tree/etc/calmirror" "$tree/etc/systemd/system/calmirror.service.d"
    graph_unit >"$tree/etc/systemd/system/graph.service"
    # The test waits for the watchdog, and there is no network to wait for.
    cat >"$tree/etc/systemd/system/calmirror.service.d/test.conf" <<'U'
[Unit]
After=graph.service
[Service]
WatchdogSec=3s
RestartSec=500ms
LoadCredential=graph.secret:/etc/calmirror/graph.secret
U
    (umask 077 && echo "any secret is accepted" >"$tree/etc/calmirror/graph.secret")
    configure
    if [ "$version" -lt 253 ]; then
        install -m 644 systemd/before-253.conf "$tree/etc/systemd/system/calmirror.service.d/"
    fi
    mkdir -p "$tree/etc/systemd/system/multi-user.target.wants"
    ln -s /etc/systemd/system/calmirror.service /etc/systemd/system/graph.service \
        "$tree/etc/systemd/system/multi-user.target.wants/"
    rm -f "$tree/etc/machine-id" && : >"$tree/etc/machine-id"
}

# configure [LINES]: writes a valid configuration, with additional lines at its end.
configure() {
    configuration /run/credentials/calmirror.service/graph.secret "${1:-}" \
        >"$tree/etc/calmirror/calmirror.toml"
}

active() { [ "$(property calmirror ActiveState)" = active ]; }
healthy() { run calmirror status; }
status_says() { property calmirror StatusText | grep -q -- "$1"; }
main_pid() { property calmirror MainPID; }
restarts() { property calmirror NRestarts; }
# restarted COUNT: succeeds if the unit was restarted more often than that and serves again.
restarted() { [ "$(restarts)" -gt "$1" ] && active && healthy; }
journal() { run journalctl -u calmirror -o cat --no-pager; }

for suite in "${suites[@]}"; do
    tree "$suite"
    version=$(chroot "$tree" systemctl --version | sed -n '1s/systemd \([0-9]*\).*/\1/p')
    printf '\n-- systemd %s (%s)\n' "$version" "$suite"
    prepare

    # The only accepted complaint is that an older systemd does not know the type.
    said=$(chroot "$tree" systemd-analyze verify --man=no /etc/systemd/system/calmirror.service 2>&1 |
        grep -v 'Failed to parse service type, ignoring: notify-reload' || true)
    [ -z "$said" ] || fail "$version: systemd-analyze verify: $said"
    proved "$version: the unit is well-formed"
    exposure=$(chroot "$tree" systemd-analyze security --offline=true --threshold=15 --no-pager \
        /etc/systemd/system/calmirror.service 2>/dev/null | sed -n 's/.*Overall exposure level.*: \([0-9.]*\).*/\1/p') ||
        fail "$version: exposure is above 1.5"
    proved "$version: exposure $exposure of 10, at most 1.5"

    begun=$(now_ms)
    boot
    eventually 20 active || { journal | tail -n 20; fail "$version: ready"; }
    proved "$version: booted and ready $(since "$begun") s after power on"
    eventually 20 healthy || fail "$version: every window settles"
    eventually 15 status_says '5 windows: 5 settled' || fail "$version: STATUS is the fleet"
    proved "$version: systemctl status says: $(property calmirror StatusText)"

    # Access rights, tested from within its mount namespace.
    pid=$(main_pid)
    owner=$(property calmirror UID)
    [ "$owner" -gt 0 ] || fail "$version: runs as a user of its own, not as $owner"
    for place in /etc/calmirror/x /usr/x /var/lib/x /root/x /home/x; do
        if run nsenter -t "$pid" -m -S "$owner" -- touch "$place" 2>/dev/null; then
            fail "$version: $place is writable"
        fi
    done
    run grep -q '^CapBnd:\s*0*$' "/proc/$pid/status" || fail "$version: no capabilities"
    run grep -q '^NoNewPrivs:\s*1$' "/proc/$pid/status" || fail "$version: no new privileges"
    run grep -q '^Seccomp:\s*2$' "/proc/$pid/status" || fail "$version: system calls are filtered"
    if run cat "/proc/$pid/environ" | grep -qa 'any secret'; then fail "$version: a secret in the environment"; fi
    [ "$(run stat -c %a /run/calmirror/api.sock)" = 660 ] || fail "$version: mode of the socket"
    [ "$(run stat -c %a /var/lib/private/calmirror)" = 700 ] || fail "$version: mode of the store"
    proved "$version: sandbox: user $owner, no capabilities, system calls filtered, nothing writable but its own"

    pid=$(main_pid) before=$(enumerations)
    configure 'interval = "2s"'
    begun=$(now_ms)
    run systemctl reload calmirror || fail "$version: reload"
    took=$(since "$begun")
    below "$took" 1 || fail "$version: reload took $took s"
    [ "$(main_pid)" = "$pid" ] || fail "$version: reload keeps the process"
    run calmirror status room-aurora@contoso.example --json | grep -q '"interval_s":2.0' ||
        fail "$version: the new interval is in force"
    [ "$(enumerations)" = "$before" ] || fail "$version: a reload of an interval made it enumerate"
    proved "$version: systemctl reload in $took s, same process: $(journal | grep 'reloaded' | tail -n 1)"

    configure 'intervall = "1m"'
    if [ "$version" -lt 253 ]; then
        if run systemctl reload calmirror 2>/dev/null; then fail "$version: a refused reload fails"; fi
    else
        run systemctl reload calmirror || fail "$version: a refused reload is over"
    fi
    active && healthy >/dev/null && [ "$(main_pid)" = "$pid" ] || fail "$version: a refused reload changes nothing"
    run systemctl status calmirror | grep -q 'Status: "reload refused at .*intervall: unknown key' ||
        fail "$version: systemctl status shows why: $(property calmirror StatusText)"
    proved "$version: refused reload, all goes on; systemctl status says: $(property calmirror StatusText)"
    configure
    run systemctl reload calmirror || fail "$version: reload after a refused one"
    eventually 15 status_says '^5 windows' || fail "$version: the refusal is forgotten: $(property calmirror StatusText)"

    before=$(enumerations) count=$(restarts) begun=$(now_ms)
    run kill -KILL "$(main_pid)"
    eventually 20 restarted "$count" || fail "$version: restarts after kill -9"
    eventually 20 healthy || fail "$version: healthy again after kill -9"
    sleep 1.5 # a round of each window
    [ "$(enumerations)" = "$before" ] || fail "$version: kill -9 made it enumerate again"
    proved "$version: killed -9, healthy again after $(since "$begun") s with no new enumeration ($before)"

    count=$(restarts) begun=$(now_ms)
    run kill -STOP "$(main_pid)"
    eventually 20 restarted "$count" || fail "$version: the watchdog finds a hung process"
    took=$(since "$begun")
    run journalctl -u calmirror --no-pager | grep -q 'Watchdog timeout' || fail "$version: it was the watchdog"
    proved "$version: hung process restarted and healthy after $took s (WatchdogSec 3)"

    count=$(restarts) pid=$(main_pid)
    nsenter -t "$inside" -p -- python3 "$SCRATCH/freeze.py" "$pid" >"$SCRATCH/frozen" 2>&1 &
    freezer=$!
    if eventually 5 grep -q frozen "$SCRATCH/frozen"; then
        run calmirror health >/dev/null || fail "$version: the rest of the process goes on"
        eventually 20 restarted "$count" || fail "$version: the watchdog finds a stuck supervisor"
        proved "$version: supervisor stuck while the API answered: restarted by the watchdog"
    else
        printf 'skipped: stuck supervisor: %s\n' "$(head -n 1 "$SCRATCH/frozen")"
    fi
    kill "$freezer" 2>/dev/null || true
    wait "$freezer" 2>/dev/null || true

    begun=$(now_ms)
    run systemctl stop calmirror
    took=$(since "$begun")
    [ "$(property calmirror Result)" = success ] || fail "$version: stop is clean"
    [ "$(property calmirror ExecMainStatus)" = 0 ] || fail "$version: stop exits 0"
    below "$took" 3 || fail "$version: stop took $took s"
    proved "$version: stopped cleanly in $took s"

    configure 'intervall = "1m"'
    if run systemctl start calmirror 2>/dev/null; then fail "$version: starts with a bad configuration"; fi
    sleep 2
    [ "$(property calmirror ExecMainStatus)" = 78 ] || fail "$version: exit code of a bad configuration"
    [ "$(property calmirror ActiveState)" = failed ] || fail "$version: a bad configuration is not tried again"
    proved "$version: a bad configuration fails once: $(journal | grep -o 'calmirror.toml:[0-9]*: .*' | tail -n 1)"
    halt
done
