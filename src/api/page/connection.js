// Tracks whether the daemon answers, and since when it does not. A page without a daemon must not
// look up to date.

// Views send a request every few seconds, so a daemon that is silent for longer does not answer.
const SILENCE_MS = 15_000;

const state = { alive: null, why: null, heard: performance.timeOrigin, asked: Date.now(), missing: [], loaded: false };
const watchers = [];

// Calls `watcher` with the state whenever it changes.
export const watch = (watcher) => watchers.push(watcher);

export const isAlive = () => state.alive !== false;

function become(alive, why) {
  if (state.alive === alive && state.why === why) return;
  Object.assign(state, { alive, why });
  for (const watcher of watchers) watcher(state);
}

// Records a response of the daemon.
export function heard() {
  state.heard = Date.now();
  become(true, null);
}

// Records which shards an answer lacks.
export function lacks(shards) {
  if (String(shards) === String(state.missing)) return;
  state.missing = shards;
  for (const watcher of watchers) watcher(state);
}

// Records that the daemon does not answer, or answers that it cannot (`why`).
export const lost = (why = null) => become(false, why);

// Records the start of a view: silence before it, when there were no requests, does not count.
export const begin = () => Object.assign(state, { asked: Date.now(), loaded: false });

// Records that the view shows what it has just loaded.
export const loaded = () => (state.loaded = true);

// How long a view waits before its next request, after one that took `took` ms: a slow daemon gets
// fewer requests, but is asked before it counts as silent. Of several shards, one that hangs delays
// an answer of all by 5 s.
export const rest = (least, took) => Math.max(least, Math.min(took * 10, 6000));

// Called every second while the page is shown.
export function look() {
  if (Date.now() - Math.max(state.heard, state.asked) > SILENCE_MS) lost(state.why);
  return state;
}
