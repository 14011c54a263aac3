// One window: its state, its details and the results of its rounds.

import * as api from "./api.js";
import * as connection from "./connection.js";
import * as dates from "./dates.js";
import { h } from "./markup.js";
import * as route from "./route.js";
import { condition, count, ending, many, reason, remedy, since, until, where } from "./words.js";

export const title = ({ name }) => name;

// The last known state of each window.
const seen = new Map();

// Remembers a window that a view received.
export function remember(window, past = seen.get(window.name)?.past ?? null) {
  seen.set(window.name, { window, past });
}

export const windowSeen = (name) => seen.get(name)?.window ?? null;

// The content to show before the daemon answers, or while it does not; null if there is none.
export function recall({ name }) {
  const known = seen.get(name);
  return known ? render({ name }, known) : null;
}

function render(place, { window, past }) {
  return [heading(place, window, "health"), standing(window), facts(window), rounds(window, past)];
}

export async function run(place, show, signal) {
  let past = null;
  let known = "";
  for (;;) {
    const began = performance.now();
    const window = await api.window(place.name, signal);
    // Requested only when another round has ended.
    const over = `${window.last_round?.number} ${window.last_error?.at}`;
    if (over !== known) past = await api.rounds(place.name, signal);
    known = over;
    remember(window, past);
    show(render(place, { window, past }));
    await api.pause(connection.rest(800, performance.now() - began), signal);
    if (signal.aborted) return;
  }
}

// The heading of all views of a window: its name, its state and the tabs.
export function heading(place, window, current) {
  const [word, meaning, tone] = condition(window);
  const day = place.date ?? dates.today();
  const tab = (text, view, href) => h("li", null, h("a", { href, "aria-current": view === current ? "page" : null }, text));
  return [
    h("div", { class: "heading", key: "heading" },
      h("p", { class: "crumb" }, h("a", { href: "#/" }, "Windows")),
      h("h1", { id: "title", tabindex: "-1" }, window.name),
      h("p", { class: "lead" },
        h("span", { class: `state ${tone}`, title: meaning }, h("span", { class: "dot", "aria-hidden": "true" }), word),
        h("span", { class: "quiet" }, " last success ", since(window)))),
    h("nav", { class: "tabs", "aria-label": "Ways to look at it", key: "tabs" }, h("ul", null,
      tab("Health", "health", route.health(window.name)),
      route.SPANS.map((span) => tab(span[0].toUpperCase() + span.slice(1), span, route.calendar(window.name, span, day))))),
  ];
}

// The state of the window, its last success, what happens next, what to do, and the last failure.
function standing(window) {
  const [word, meaning, tone] = condition(window);
  const error = window.last_error;
  const title = tone === "bad" ? "What is wrong" : "State";
  return h("section", { class: tone === "bad" ? "trouble" : "calm", "aria-labelledby": "trouble", key: "trouble" },
    h("h2", { id: "trouble" }, title),
    h("p", null, `${word[0].toUpperCase()}${word.slice(1)}: ${meaning}. `, remedy(window)),
    error && h("p", { class: "said" }, tone === "bad" ? error.message : `The last failure: ${error.message}`),
    list([
      ["Last success", window.last_success ? [since(window), ` (${at(window.last_success)})`] : "never"],
      ["Next attempt", window.next_due ? [until(window.next_due), ` (${at(window.next_due)})`] : "under way, or not planned"],
      ...(error ? [
        ["Kind", [error.kind.replaceAll("_", " "), error.status && `status ${error.status}`, error.code].filter(Boolean).join(", ")],
        ["Failed", at(error.at)],
        ["Failures in a row", count(window.failures)],
        ["Graph’s request-id", error.request_id && h("code", null, error.request_id)],
      ] : []),
    ]));
}

const at = (time) => dates.moment(Date.parse(time));

const list = (pairs) => h("dl", null, pairs.filter(([, value]) => value).map(([name, value]) => h("div", null, h("dt", null, name), h("dd", null, value))));

function facts(window) {
  return h("section", { "aria-labelledby": "facts", key: "facts" },
    h("h2", { id: "facts" }, "Details"),
    list([
      ["Events", window.settled_once ? count(window.events) : `${count(window.events)} so far`],
      ["Interval", `every ${dates.lasting(window.interval_s)}`],
      ["Mailbox", window.mailbox],
      ["Calendar", window.calendar],
      ["Account", window.account],
      ["Fleet", window.fleet && h("a", { href: route.availability(String(new URLSearchParams({ group: window.fleet }))) }, window.fleet)],
      ["Place", where(window)],
      ["Mirrored from", at(window.start)],
      ["Mirrored until", at(window.end)],
      ["Delta streams", window.segments.map(({ mode }) => mode).join(", ")],
      ["Resyncs", window.last_resync
        ? `${count(window.resyncs)}; the last ${at(window.last_resync.at)}: ${reason(window.last_resync.reason)}`
        : "none"],
    ]));
}

// The rounds with changes, and between them the number of rounds without any.
function rounds({ last_round: last }, past) {
  if (past === null) return null;
  const { value, quiet } = past;
  const head = ["Round", "Ended", "Took", "Requests", "Pages", "Outcome"];
  const numbers = ["Round", "Took", "Requests", "Pages"];
  const still = (number, key, more = "") => number > 0 && h("tr", { key, class: "still" },
    h("td", { colspan: head.length }, `${many(number, "round")} in which nothing changed${more}`));
  const rows = value.flatMap((round, index) => [
    index > 0 && still(value[index - 1].number - round.number - 1, `before ${value[index - 1].number}`),
    h("tr", { key: String(round.number) },
      h("th", { scope: "row", class: "number" }, count(round.number)),
      h("td", null, at(round.at)),
      h("td", { class: "number" }, `${count(round.took_ms)} ms`),
      h("td", { class: "number" }, count(round.requests)),
      h("td", { class: "number" }, count(round.pages)),
      h("td", null, ending(round))),
  ]);
  return h("section", { "aria-labelledby": "rounds", key: "rounds" },
    h("h2", { id: "rounds" }, "Recent rounds"),
    value.length === 0 && quiet === 0
      ? h("p", { class: "quiet" }, "None has ended since the daemon started.")
      : h("div", { class: "sheet", tabindex: "0", role: "region", "aria-label": "Table of rounds" }, h("table", { class: "rounds" },
        h("caption", null, "The newest rounds in which something happened, and how many between them were quiet"),
        h("thead", null, h("tr", null, head.map((word) => h("th", { scope: "col", class: numbers.includes(word) ? "number" : null }, word)))),
        h("tbody", null, still(quiet, "since", last ? `; the last ended ${at(last.at)}, took ${count(last.took_ms)} ms and ${many(last.requests, "request")}` : ""), rows))));
}
