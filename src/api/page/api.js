// The page's client for the daemon's API. It caches nothing and retries nothing, except that a
// broken stream resumes at its cursor.

import * as connection from "./connection.js";

export class Refusal extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

// A request that takes longer is aborted; the view repeats it.
const PATIENCE_MS = 20_000;

async function refuse(answer, signal) {
  if (answer.status < 500) connection.heard();
  let detail = answer.statusText;
  try {
    detail = (await answer.json()).detail ?? detail;
  } catch {
    // Not a problem document: use the status text.
    signal.throwIfAborted();
  }
  throw new Refusal(answer.status, detail);
}

// Of several shards, the asked one passes requests on: a browser has no token for the others.
const RELAY = { "calmirror-relay": "1" };

// Without the user and password that the address of the page may have: browsers refuse them here.
const at = (path) => location.origin + path;

async function get(path, signal, cache = "default") {
  const late = AbortSignal.timeout(PATIENCE_MS);
  const end = signal ? AbortSignal.any([signal, late]) : late;
  const answer = await fetch(at(path), { signal: end, cache, headers: { ...RELAY, accept: "application/json" } });
  if (!answer.ok) return refuse(answer, end);
  const value = await answer.json();
  connection.heard();
  if (value.incomplete) connection.lacks(value.incomplete);
  return value;
}

const windowPath = (name) => `/v1/windows/${encodeURIComponent(name)}`;

export const status = (signal) => get("/v1/status", signal);
export const window = async (name, signal) => received(await get(windowPath(name), signal));
export const rounds = (name, signal) => get(`${windowPath(name)}/rounds`, signal);
export const event = (name, id, signal) => get(`${windowPath(name)}/events/${encodeURIComponent(id)}`, signal);

// The link to the online meeting of an event, wherever the event has it.
export const joinLink = (name, id) => get(`${windowPath(name)}/events/${encodeURIComponent(id)}?fields=join_url`);

// A page of windows, those in trouble first.
export async function windows({ q, state, page }, limit, signal) {
  const query = new URLSearchParams({ order: "trouble", limit });
  if (q) query.set("q", q);
  if (state) query.set("state", state);
  if (page) query.set("page", page);
  const list = await get(`/v1/windows?${query}`, signal);
  list.value.forEach(received);
  return list;
}

// Records when a window was received, so that its age keeps counting from there.
function received(window) {
  window.received = Date.now();
  return window;
}

// The IANA name of a Windows time zone, or null.
export async function ianaZone(name) {
  try {
    return (await get(`/page/zone/${encodeURIComponent(name)}`)).iana;
  } catch {
    return null;
  }
}

// When the windows of a selection are busy, and the times of at least `minutes` in which all are
// free. A window of which that is not known has the reason in `unknown`; one of a shard that does
// not answer is named only in the answer about free times. Needs only the level `busy`. It bypasses
// the browser's cache, in which the age of the data would be an old one.
export async function availability(select, { from, to, minutes }, signal) {
  const query = `${select}&from=${new Date(from).toISOString()}&to=${new Date(to).toISOString()}`;
  const [busy, free] = await Promise.all([
    get(`/v1/busy?${query}`, signal, "no-store"),
    get(`/v1/free?${query}&duration=${minutes}m`, signal, "no-store"),
  ]);
  const unknown = new Map(free.unknown.map(({ window, reason }) => [window, reason]));
  const windows = busy.value.map((one) => ({ ...one, unknown: unknown.get(one.window) ?? (one.complete ? null : "never_settled") }));
  const known = new Set(windows.map(({ window }) => window));
  const absent = free.unknown.filter(({ window, reason }) => reason === "shard_missing" && !known.has(window));
  if (absent.length > 0) {
    windows.push(...absent.map(({ window, reason }) => ({ window, busy: [], unknown: reason })));
    windows.sort((a, b) => (a.window < b.window ? -1 : 1));
  }
  return { windows, slots: free.value };
}

// Only asks whether the daemon answers.
export const ping = (signal) => get("/healthz", signal);

// All events of a window between two instants, and the cursor of the changes made meanwhile. It
// bypasses the browser's cache: cached pages of two different listings do not belong together.
export async function events(name, from, to, signal) {
  const found = [];
  let page = null;
  for (;;) {
    const query = new URLSearchParams({ from: new Date(from).toISOString(), to: new Date(to).toISOString(), limit: 5000 });
    if (page) query.set("page", page);
    const answer = await get(`${windowPath(name)}/events?${query}`, signal, "no-store");
    found.push(...answer.value);
    page = answer.next;
    if (!page) return { events: found, cursor: answer.cursor, complete: answer.complete };
  }
}

// Resolves at the next change in any window, or after `seconds` without one. It transfers at most
// one line, because it only wakes the caller.
export async function changed(seconds, signal) {
  // A daemon that is gone may leave the connection open.
  const end = AbortSignal.any([signal, AbortSignal.timeout(seconds * 1000 + PATIENCE_MS)]);
  const answer = await fetch(at(`/v1/changes?after=now&limit=1&wait=${seconds}s`), { signal: end, cache: "no-store", headers: RELAY });
  if (!answer.ok) await refuse(answer, end);
  await answer.text();
}

// A stream that is silent for this long is dead: the daemon sends something every 15 s.
const SILENCE_MS = 40_000;

// Passes each change of a window after `cursor` to `take`, until `signal` aborts; it reconnects
// after an interruption. Returns when the window is unknown (404) or the cursor is too old (410):
// a new snapshot is needed.
export async function follow(name, cursor, take, signal) {
  let patience = 250;
  while (!signal.aborted) {
    let why = null;
    const silence = new AbortController();
    const end = AbortSignal.any([signal, silence.signal]);
    let timer = 0;
    const heard = () => {
      clearTimeout(timer);
      timer = setTimeout(() => silence.abort(), SILENCE_MS);
    };
    try {
      heard();
      const answer = await fetch(at(`/v1/changes?window=${encodeURIComponent(name)}`), {
        signal: end,
        cache: "no-store",
        headers: { ...RELAY, accept: "text/event-stream", "last-event-id": cursor },
      });
      if (!answer.ok) await refuse(answer, end);
      connection.heard();
      patience = 250;
      for await (const frame of frames(answer.body)) {
        heard();
        connection.heard();
        if (frame.data) take(JSON.parse(frame.data));
        if (frame.id) cursor = frame.id;
      }
    } catch (error) {
      if (error instanceof Refusal && [404, 410].includes(error.status)) return;
      if (error instanceof Refusal && error.status === 401) throw error;
      if (error instanceof Refusal) why = error.message;
    } finally {
      clearTimeout(timer);
    }
    if (signal.aborted) return;
    connection.lost(why);
    await pause(patience, signal);
    patience = Math.min(patience * 2, 4000);
  }
}

// The frames of a stream of server-sent events.
async function* frames(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const pieces = (rest + value).split("\n\n");
    rest = pieces.pop();
    for (const piece of pieces) {
      const frame = { id: null, data: "" };
      for (const line of piece.split("\n")) {
        const colon = line.indexOf(":");
        const field = colon < 0 ? line : line.slice(0, colon);
        const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
        if (field === "id") frame.id = value;
        if (field === "data") frame.data += value;
      }
      yield frame;
    }
  }
}

// Waits, but at most until the signal aborts.
export function pause(ms, signal) {
  return new Promise((resolve) => {
    const over = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", over);
      resolve();
    };
    const timer = setTimeout(over, ms);
    signal?.addEventListener("abort", over);
  });
}
