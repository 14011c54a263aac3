# Shared functions of the packaging tests. Each test installs its prerequisites, reports results in
# lines beginning with "proved:", and exits with 0, with 1 at the first failure, or with 77 if this
# machine cannot run it.
#
#   CALMIRROR_BIN     the program to test (default: built here, dev profile)
#   CALMIRROR_TREES   where Debian trees are kept between runs
# shellcheck shell=bash

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

TREES=${CALMIRROR_TREES:-${XDG_CACHE_HOME:-$HOME/.cache}/calmirror-trees}
SCRATCH=$(mktemp -d)
at_end=()

finish() {
    local code=$? one
    set +e
    for ((one = ${#at_end[@]} - 1; one >= 0; one--)); do eval "${at_end[one]}"; done
    rm -rf "$SCRATCH"
    exit "$code"
}
trap finish EXIT

# at_end COMMAND: runs it when the script ends, in whatever way; the last one first.
at_end() { at_end+=("$1"); }

proved() { printf 'proved: %s\n' "$*"; }

skip() {
    printf 'skipped: %s\n' "$*"
    exit 77
}

fail() {
    printf 'FAILED: %s\n' "$*" >&2
    exit 1
}

# check WHAT COMMAND...: fails the test unless the command succeeds.
check() {
    local what=$1
    shift
    "$@" || fail "$what"
    proved "$what"
}

# eventually SECONDS COMMAND...: repeats the command until it succeeds or the time is over.
eventually() {
    local until=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$until" ] || return 1
        sleep 0.1
    done
}

now_ms() { date +%s%3N; }

# since MS: the seconds since then, with one decimal.
since() { awk -v a="$1" -v b="$(now_ms)" 'BEGIN { printf "%.1f", (b - a) / 1000 }'; }

# below SECONDS LIMIT: succeeds if SECONDS is at most LIMIT.
below() { awk -v a="$1" -v b="$2" 'BEGIN { exit !(a <= b) }'; }

need_root() { [ "$(id -u)" = 0 ] || skip "needs root"; }

# need COMMAND PACKAGE...: installs the packages with apt if the command is missing.
need() {
    local command=$1
    shift
    command -v "$command" >/dev/null 2>&1 && return 0
    command -v apt-get >/dev/null 2>&1 || skip "$command is not here, and no apt-get to install $*"
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" \
        </dev/null >"$SCRATCH/apt.log" 2>&1 ||
        { apt-get update -qq && apt-get install -y -qq --no-install-recommends "$@"; } \
            </dev/null >>"$SCRATCH/apt.log" 2>&1 ||
        skip "$command cannot be installed ($*): $(tail -n 1 "$SCRATCH/apt.log")"
}

# program: prints the path of the program to test.
program() {
    if [ -n "${CALMIRROR_BIN:-}" ]; then
        printf '%s\n' "$CALMIRROR_BIN"
        return
    fi
    cargo build --locked --quiet >&2
    printf '%s/debug/calmirror\n' "${CARGO_TARGET_DIR:-target}"
}

# simulated OPTIONS...: starts a simulated Graph on this machine and sets $graph to its address.
# Needs $program. Writes its mailboxes to $SCRATCH/mailboxes.
simulated() {
    need curl curl
    "$program" simulate --listen 127.0.0.1:0 "$@" >"$SCRATCH/graph.log" 2>&1 &
    at_end "kill $!"
    eventually 20 grep -q '/v1.0' "$SCRATCH/graph.log" || fail "the simulated Graph does not start"
    graph=$(grep -o 'http://[0-9.:]*' "$SCRATCH/graph.log" | head -n 1)
    curl -sS "$graph/control/mailboxes" | grep -o '[a-z.-]*@contoso.example' | sort -u \
        >"$SCRATCH/mailboxes"
}

# of_simulated [API-LINES]: prints the beginning of a configuration for the simulated Graph: store,
# socket and the account `test`, all in $SCRATCH, with additional lines of [api].
of_simulated() {
    (umask 077 && echo secret >"$SCRATCH/secret")
    cat <<C
[store]
path = "$SCRATCH/store"
[graph]
base_url = "$graph/v1.0"
login_url = "$graph"
[account.test]
tenant = "00000000-0000-0000-0000-000000000000"
client_id = "11111111-1111-1111-1111-111111111111"
client_secret_file = "$SCRATCH/secret"
[api]
socket = "$SCRATCH/api.sock"
${1:-}
C
}

# serving: starts the daemon with $SCRATCH/calmirror.toml and waits until all windows are settled.
serving() {
    "$program" --config "$SCRATCH/calmirror.toml" run >"$SCRATCH/daemon.log" 2>&1 &
    at_end "kill $!; wait $! 2>/dev/null"
    settled() { curl -sSf --unix-socket "$SCRATCH/api.sock" 'http://localhost/readyz?settled=1'; }
    eventually 120 settled || fail "the windows do not settle: $(tail -n 2 "$SCRATCH/daemon.log")"
}

# tree SUITE: makes a fresh Debian with systemd from a kept tree and sets $tree to its directory.
tree() {
    local suite=$1 kept=$TREES/$1
    need mmdebstrap mmdebstrap
    if [ ! -d "$kept" ]; then
        mkdir -p "$TREES"
        mmdebstrap --quiet --variant=minbase \
            --include=systemd,systemd-sysv,dbus,ca-certificates,procps "$suite" "$kept.new" \
            >"$SCRATCH/mmdebstrap.log" 2>&1 ||
            { rm -rf "$kept.new" && skip "no Debian tree: $(tail -n 1 "$SCRATCH/mmdebstrap.log")"; }
        mv "$kept.new" "$kept"
    fi
    tree=$SCRATCH/$suite
    mkdir -p "$tree" "$SCRATCH/$suite.upper" "$SCRATCH/$suite.work"
    if mount -t overlay overlay \
        -o "lowerdir=$kept,upperdir=$SCRATCH/$suite.upper,workdir=$SCRATCH/$suite.work" \
        "$tree" 2>/dev/null; then
        at_end "umount '$tree'"
    else
        cp -a "$kept/." "$tree/"
    fi
}

# boot: starts the systemd of $tree in a network namespace with only a loopback. Sets $inside to the
# id of its first process as seen from here.
boot() {
    need systemd-nspawn systemd-container
    systemd-nspawn --quiet --directory="$tree" --boot --register=no --keep-unit \
        --private-network --console=pipe </dev/null >"$SCRATCH/boot.log" 2>&1 &
    local nspawn=$!
    at_end "kill -KILL $nspawn 2>/dev/null; wait $nspawn 2>/dev/null"
    leader() { inside=$(pgrep -P "$nspawn" | head -n 1) && [ -n "$inside" ]; }
    eventually 20 leader || skip "systemd-nspawn does not start: $(tail -n 1 "$SCRATCH/boot.log")"
    inside=$(pgrep -P "$nspawn" | head -n 1)
    # It outlives a killed nspawn.
    at_end "[ \"\$(ps -o args= -p $inside)\" != /usr/lib/systemd/systemd ] || kill -KILL $inside"
    is_up() { run systemctl is-system-running | grep -qE 'running|degraded'; }
    eventually 60 is_up ||
        skip "the systemd in the container does not come up: $(tail -n 1 "$SCRATCH/boot.log")"
}

# halt: stops the container that `boot` started.
halt() {
    run systemctl --no-block halt || true
    gone() { [ ! -e "/proc/$inside" ]; }
    eventually 15 gone || kill -KILL "$inside" || true
}

# run COMMAND...: runs it inside the booted tree.
run() { nsenter -t "$inside" -a -- env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 "$@"; }

# property UNIT NAME: prints the property's value.
property() { run systemctl show --property="$2" --value "$1"; }

# graph_unit: prints a unit with a simulated Graph: always the same organisation, without changes.
graph_unit() {
    cat <<'U'
[Service]
ExecStart=/usr/bin/calmirror simulate --people 4 --rooms 1 --mutate-every 0s
[Install]
WantedBy=multi-user.target
U
}

# mailboxes: prints that Graph's mailboxes. Needs $program.
mailboxes() {
    if [ ! -s "$SCRATCH/mailboxes" ]; then
        "$program" simulate --listen 127.0.0.1:0 --people 4 --rooms 1 --mutate-every 0s \
            >"$SCRATCH/banner" 2>/dev/null &
        local pid=$!
        eventually 20 grep -q mailbox "$SCRATCH/banner" || true
        sleep 0.2
        kill "$pid"
        sed -n 's/^mailbox = "\(.*\)"$/\1/p' "$SCRATCH/banner" >"$SCRATCH/mailboxes"
    fi
    cat "$SCRATCH/mailboxes"
}

# configuration SECRET-FILE [LINES]: prints a configuration that mirrors it, with additional lines
# at its end.
configuration() {
    cat <<C
[graph]
base_url = "http://127.0.0.1:8081/v1.0"
login_url = "http://127.0.0.1:8081"
[defaults]
interval = "1s"
[account.contoso]
tenant = "00000000-0000-0000-0000-000000000000"
client_id = "11111111-1111-1111-1111-111111111111"
client_secret_file = "$1"
C
    for mailbox in $(mailboxes); do
        printf '[[window]]\naccount = "contoso"\nmailbox = "%s"\n' "$mailbox"
    done
    printf '%s\n' "${2:-}"
}

# enumerations: prints how many enumerations the simulated Graph in the booted tree has served.
enumerations() {
    nsenter -t "$inside" -n curl -fsS http://127.0.0.1:8081/control/statistics |
        sed 's/.*"total":{\([^}]*\).*/\1/; s/.*"enumerations":\([0-9]*\).*/\1/'
}
