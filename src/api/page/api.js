// The daemon's API as the page uses it. Nothing is cached here and nothing is retried, except
// that a broken stream is taken up again where it was.

import * as connection from "./connection.js";

export class Refusal extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

// A request that takes longer is given up and made again.
const PATIENCE_MS = 20_000;

async function refuse(answer) {
  let detail = answer.statusText;
  try {
    detail = (await answer.json()).detail ?? detail;
  } catch {
    // Not a problem document; the status has to do.
  }
  throw new Refusal(answer.status, detail);
}

async function get(path, signal, cache = "default") {
  const late = AbortSignal.timeout(PATIENCE_MS);
  const end = signal ? AbortSignal.any([signal, late]) : late;
  const answer = await fetch(path, { signal: end, cache, headers: { accept: "application/json" } });
  if (!answer.ok) return refuse(answer);
  const value = await answer.json();
  connection.heard();
  return value;
}

const windowPath = (name) => `/v1/windows/${encodeURIComponent(name)}`;

export const status = (signal) => get("/v1/status", signal);
export const window = async (name, signal) => received(await get(windowPath(name), signal));
export const rounds = (name, signal) => get(`${windowPath(name)}/rounds`, signal);
export const event = (name, id, signal) => get(`${windowPath(name)}/events/${encodeURIComponent(id)}`, signal);

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

// Remembers when a window was told, so that its age counts on from there.
function received(window) {
  window.received = Date.now();
  return window;
}

// The IANA zone behind a Windows zone's name, or null.
export async function ianaZone(name) {
  try {
    return (await get(`/page/zone/${encodeURIComponent(name)}`)).iana;
  } catch {
    return null;
  }
}

// All events of a window between two instants, and the cursor from which changes make up for what
// moved meanwhile. Never from the browser's cache: pages kept from two walks do not belong together.
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

// Resolves when something changed anywhere after this was asked, or nothing did for `seconds`.
// One line at most is transferred: this only wakes.
export async function changed(seconds, signal) {
  const answer = await fetch(`/v1/changes?after=now&limit=1&wait=${seconds}s`, { signal });
  if (!answer.ok) await refuse(answer);
  await answer.text();
}

// A stream that is silent for so long is dead: the daemon says something every 15 s.
const SILENCE_MS = 40_000;

// Reads the changes of a window from `cursor` on and hands each over, until `signal` ends it; an
// interruption is made up for. Returns when the cursor is too old (410): a new snapshot is needed.
export async function follow(name, cursor, take, signal) {
  let patience = 250;
  while (!signal.aborted) {
    const silence = new AbortController();
    const end = AbortSignal.any([signal, silence.signal]);
    let timer = 0;
    const heard = () => {
      clearTimeout(timer);
      timer = setTimeout(() => silence.abort(), SILENCE_MS);
    };
    try {
      heard();
      const answer = await fetch(`/v1/changes?window=${encodeURIComponent(name)}`, {
        signal: end,
        cache: "no-store",
        headers: { accept: "text/event-stream", "last-event-id": cursor },
      });
      if (!answer.ok) await refuse(answer);
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
    } finally {
      clearTimeout(timer);
    }
    if (signal.aborted) return;
    connection.lost();
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

// Waits, but not beyond the signal.
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
