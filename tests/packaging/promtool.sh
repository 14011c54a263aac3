#!/usr/bin/env bash
# Checks docs/monitoring with Prometheus' own promtool: the alert rules are well formed and pass
# their tests, each alert has a test, and /metrics of a running daemon is valid and has every metric
# that the rules use.
. "$(dirname "$0")/kit.sh"

# Only this program of the package: a Prometheus started as a service is of no use here.
if ! command -v promtool >/dev/null 2>&1; then
    command -v apt-get >/dev/null 2>&1 || skip "promtool is not here, and no apt-get to fetch it"
    (
        cd "$SCRATCH"
        apt-get download -qq prometheus || { apt-get update -qq && apt-get download -qq prometheus; }
        dpkg -x prometheus_*.deb prometheus
    ) >"$SCRATCH/apt.log" 2>&1 || skip "promtool cannot be had: $(tail -n 1 "$SCRATCH/apt.log")"
    PATH=$SCRATCH/prometheus/usr/bin:$PATH
fi
need curl curl
program=$(realpath "$(program)")
rules=docs/monitoring/calmirror.rules.yml
tests=docs/monitoring/calmirror.rules.test.yml

check "the alert rules are well formed" promtool check rules --lint-fatal "$rules"
check "the alert rules pass their tests" promtool test rules "$tests"
alerts=$(sed -n 's/^ *- alert: //p' "$rules")
for alert in $alerts; do
    grep -q "^  - name: $alert\$" "$tests" || fail "$alert has no test"
    grep -q "\`$alert\`" docs/monitoring/README.md || fail "$alert is not in the README"
done
proved "each of the $(wc -w <<<"$alerts") alerts has a test and a remedy"

"$program" demo --dir "$SCRATCH/demo" --listen 127.0.0.1:0 >"$SCRATCH/demo.log" 2>&1 &
demo=$!
at_end "kill $demo 2>/dev/null; wait $demo 2>/dev/null"
ask() { curl --silent --show-error --fail --unix-socket "$SCRATCH/demo/api.sock" "http://localhost$1"; }
eventually 60 ask '/readyz?settled=1' || fail "the demo does not settle: $(tail -n 3 "$SCRATCH/demo.log")"
ask /metrics >"$SCRATCH/first"
series=$(grep -vc '^#' "$SCRATCH/first")
check "promtool finds nothing to say about the $series series of a running daemon" \
    promtool check metrics <"$SCRATCH/first"

rounds() { sed -n 's/^calmirror_rounds_total{outcome="settled"} //p' "$1"; }
more_rounds() { ask /metrics >"$SCRATCH/later" && [ "$(rounds "$SCRATCH/later")" -gt "$(rounds "$SCRATCH/first")" ]; }
eventually 30 more_rounds || fail "rounds are not counted"
proved "counters move: $(rounds "$SCRATCH/first") settled rounds, then $(rounds "$SCRATCH/later")"

names() { sed -n 's/^# TYPE \([a-z_]*\) .*/\1/p' "$1"; }
for name in $(grep -o '\bcalmirror_[a-z_]*\|\bprocess_[a-z_]*' "$rules" | sed 's/_bucket$//' | sort -u); do
    names "$SCRATCH/later" | grep -qx "$name" || fail "the rules ask for $name, which there is not"
done
proved "every metric that the rules ask for is there"
