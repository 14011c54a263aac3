#!/usr/bin/env bash
# Tests the page in real, headless Chromium, against the daemon and the simulated Graph: it shows
# the API's data, updates live, survives a restart of the daemon, works without a mouse, and passes
# an accessibility checker.
#
#   CALMIRROR_BIN           the program to test (default: built here, dev profile)
#   CALMIRROR_SCREENSHOTS   a directory for screenshots of every view
#   CALMIRROR_WINDOWS       windows of the large fleet (100000; 0: without it)
. "$(dirname "$0")/kit.sh"

need chromium chromium fonts-dejavu-core
need node nodejs
need npm npm
program=$(realpath "$(program)")
modules=${XDG_CACHE_HOME:-$HOME/.cache}/calmirror-browser
if [ ! -d "$modules/node_modules/axe-core" ]; then
    mkdir -p "$modules"
    npm install --prefix "$modules" --no-audit --no-fund --ignore-scripts \
        playwright-core@1 axe-core@4 >"$SCRATCH/npm.log" 2>&1 ||
        skip "playwright-core and axe-core cannot be had: $(tail -n 1 "$SCRATCH/npm.log")"
fi
[ -z "${CALMIRROR_SCREENSHOTS:-}" ] || mkdir -p "$CALMIRROR_SCREENSHOTS"
node tests/browser/page.mjs "$program" "$SCRATCH" "$modules" "$(command -v chromium)"
