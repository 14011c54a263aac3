#!/usr/bin/env bash
# The page in real, headless Chromium, against the daemon and the simulated Graph: shows what the
# API says, lives, outlives a daemon, needs no mouse, has nothing to hide from a checker.
#
#   CALMIRROR_BIN           the program to test (default: built here, dev profile)
#   CALMIRROR_SCREENSHOTS   a directory for pictures of every view
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
