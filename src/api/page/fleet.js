// The fleet: the number of windows by state, and a page of windows, those in trouble first. The
// daemon searches, sorts and pages, so that 100,000 windows are as light as forty.

import * as api from "./api.js";
import * as connection from "./connection.js";
import { lasting, moment } from "./dates.js";
import * as health from "./health.js";
import { h, tell } from "./markup.js";
import * as route from "./route.js";
import { STATES, TROUBLE, condition, count, many, outcome, outcomeSaid, since, until } from "./words.js";

const ROWS = 50;

export const title = () => "Windows";

// The lists seen last, by search and filter; beyond MOST_SEEN the oldest entry is dropped.
const seen = new Map();
const MOST_SEEN = 20;
const keyOf = ({ q, state, page }) => JSON.stringify([q, state, page]);

function remember(place, status, list) {
  seen.delete(keyOf(place));
  seen.set(keyOf(place), { status, list });
  if (seen.size > MOST_SEEN) seen.delete(seen.keys().next().value);
  for (const window of list.value) health.remember(window);
}

// The content to show before the daemon answers, or while it does not; null if there is none. A
// search that is new shows the matching windows of the list seen last.
export function recall(place) {
  const exact = seen.get(keyOf(place));
  if (exact) return render(place, exact.status, exact.list);
  const last = [...seen.values()].at(-1);
  if (!last) return null;
  const wanted = place.q.toLowerCase();
  const states = place.state ? place.state.split(",") : null;
  const value = last.list.value.filter((window) =>
    (states === null || states.includes(window.state)) &&
    [window.name, window.mailbox, window.account].some((text) => text.toLowerCase().includes(wanted)));
  return render(place, last.status, { value, total: value.length, next: null });
}

// Fetches and renders the list repeatedly until `signal` aborts. A failure also ends the request that
// is held: the view is run again, and browsers allow six connections.
export async function run(place, show, signal) {
  const own = new AbortController();
  try {
    await poll(place, show, AbortSignal.any([signal, own.signal]));
  } finally {
    own.abort();
  }
}

async function poll(place, show, signal) {
  let total = null;
  let moved = null;
  for (;;) {
    const began = performance.now();
    // Requested before the list, so that no change in between is missed. One at a time.
    moved ??= api.changed(25, signal).catch(() => api.pause(2000, signal)).finally(() => (moved = null));
    const [status, list] = await Promise.all([api.status(signal), api.windows(place, ROWS, signal)]);
    remember(place, status, list);
    show(render(place, status, list));
    if (total !== null && total !== list.total && place.q) tell(found(list.total));
    total = list.total;
    // States change without a change in the feed. A slow daemon gets fewer requests.
    const took = performance.now() - began;
    await api.pause(Math.max(400, Math.min(took * 4, 2500)), signal);
    await Promise.race([moved, api.pause(connection.rest(2500, took), signal)]);
    if (signal.aborted) return;
  }
}

const found = (total) => (total === 1 ? "1 window found" : `${count(total)} windows found`);

function render(place, status, list) {
  return [
    h("div", { class: "heading" },
      h("h1", { id: "title", tabindex: "-1" }, "Windows"),
      h("p", { class: "lead" }, summary(status)),
      list.value.length > 0 && h("p", null, h("a", { href: route.availability(String(new URLSearchParams({ windows: list.value.map(({ name }) => name) }))) }, "When they are free"))),
    troubles(status),
    search(place),
    filters(place, status),
    list.value.length > 0 ? table(list) : nothing(place, status),
    pager(place, list),
  ];
}

function summary({ windows, incomplete }) {
  if (windows.total === 0) return isWhole(incomplete) ? "No window is configured." : "No window is known.";
  if (windows.unhealthy === 0) {
    const [one, all] = isWhole(incomplete) ? ["", ""] : [" that is known", " that are known"];
    return windows.total === 1 ? `The one window${one} is healthy.` : `All ${count(windows.total)}${all} are healthy.`;
  }
  return `${count(windows.unhealthy)} of ${count(windows.total)} ${windows.unhealthy === 1 ? "needs" : "need"} a look.`;
}

// Whether no shard is missing.
const isWhole = (incomplete) => (incomplete ?? []).length === 0;

// What keeps mailboxes from joining or leaving a [[fleet]], or from having a window.
function troubles({ fleets }) {
  const said = fleets.flatMap(({ name, last_error: error, held, calendars_held: calendars, faults, members_with_faults: members }) => [
    error && `${name} is not listed, members stay: ${[error.problem, error.remedy].filter(Boolean).join("; ")}`,
    held && `${name}: the listing lacks ${many(held.missing, "member")}, who stay unless one after ${at(held.until)} agrees`,
    calendars && `${name}: the listing lacks the calendars of ${many(calendars.missing, "window")}, which stay unless one after ${at(calendars.until)} agrees`,
    faults > 0 && `${name}: ${many(faults, "member")} without a window, such as ${members[0]}`,
  ].filter(Boolean));
  return said.length > 0 && h("section", { class: "trouble", "aria-labelledby": "fleets", key: "fleets" },
    h("h2", { id: "fleets" }, "Fleets"),
    said.map((text) => h("p", { class: "said", key: text }, text)));
}

const at = (time) => moment(Date.parse(time));

function search(place) {
  return h("form", { class: "search", role: "search", key: "search", id: "search" },
    h("label", { for: "q" }, "Search windows"),
    h("input", { id: "q", type: "search", value: place.q, placeholder: "Name, mailbox or account", autocomplete: "off", spellcheck: "false" }));
}

function filters(place, { windows }) {
  const trouble = TROUBLE.reduce((sum, state) => sum + (windows[state] ?? 0), 0);
  const chip = (word, states, number, tone) => {
    const on = place.state === states;
    return h("li", null, h("a", {
      class: `chip ${tone}`, href: route.fleet({ q: place.q, state: on ? "" : states }), "aria-current": on ? "true" : null,
    }, tone && h("span", { class: "dot", "aria-hidden": "true" }), word, " ", h("b", null, count(number))));
  };
  const some = Object.keys(STATES).filter((state) => windows[state] > 0 || place.state === state);
  return h("nav", { "aria-label": "Windows by state", key: "filters" }, h("ul", { class: "chips" },
    chip("all", "", windows.total, ""),
    (trouble > 0 || place.state === TROUBLE.join(",")) && chip("in trouble", TROUBLE.join(","), trouble, "bad"),
    some.map((state) => chip(STATES[state][0], state, windows[state], STATES[state][2]))));
}

// The roles are explicit because a narrow screen lays the table out as cards, and browsers drop
// the table semantics of another layout.
function table(list) {
  const head = ["Window", "State", "Last success", "Next round", "Events", "Last round"];
  return h("div", { key: "table", class: "sheet" }, h("table", { class: "fleet", role: "table" },
    h("caption", { class: "unseen" }, "Windows, those in trouble first"),
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" },
      head.map((word) => h("th", { scope: "col", role: "columnheader", class: word === "Events" ? "number" : null }, word)))),
    h("tbody", { role: "rowgroup" }, list.value.map(row))));
}

function row(window) {
  const [word, meaning, tone] = condition(window);
  const { last_round: round, last_error: error } = window;
  const cell = (label, ...content) => h("td", { role: "cell", "data-label": label, class: label === "Events" ? "number" : null }, content);
  return h("tr", { role: "row", key: window.name, class: tone },
    h("th", { scope: "row", role: "rowheader" },
      h("a", { href: route.health(window.name) }, window.name),
      window.mailbox !== window.name && h("span", { class: "quiet" }, window.mailbox)),
    h("td", { role: "cell", "data-label": "State" },
      h("span", { class: `state ${tone}`, title: meaning }, h("span", { class: "dot", "aria-hidden": "true" }), word),
      error && h("span", { class: "why" }, error.message)),
    cell("Last success", since(window)),
    cell("Next round", until(window.next_due)),
    cell("Events", window.settled_once ? count(window.events) : `${count(window.events)} so far`),
    cell("Last round", round
      ? h("span", { title: `${outcomeSaid(round)}; ${many(round.requests, "request")} in ${lasting(round.took_ms / 1000)}` }, outcome(round))
      : "none yet"));
}

function nothing(place, { windows, incomplete }) {
  if (windows.total === 0 && isWhole(incomplete)) {
    return h("div", { class: "empty" }, h("h2", null, "Nothing is mirrored yet"),
      h("p", null, "Add a [[window]] to the configuration and reload it: ", h("code", null, "calmirror reload")));
  }
  if (windows.total === 0) {
    return h("div", { class: "empty" }, h("h2", null, "No window is known"),
      h("p", null, "The shards that answer have none."));
  }
  return h("div", { class: "empty" }, h("h2", null, "No window is like that"),
    h("p", null, place.page ? "This page is empty by now. " : "None of them matches the search and the filter. ",
      h("a", { href: "#/" }, "Show all")));
}

function pager(place, list) {
  if (!place.page && !list.next) return null;
  return h("nav", { class: "pager", "aria-label": "Pages", key: "pager" },
    place.page ? h("a", { href: route.fleet({ q: place.q, state: place.state }) }, "First page") : h("span", null),
    h("span", { class: "quiet" }, many(list.total, "window")),
    list.next ? h("a", { href: route.fleet({ ...place, page: list.next }) }, "Next page") : h("span", { class: "quiet" }, "Last page"));
}
