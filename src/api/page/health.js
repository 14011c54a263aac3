// One window: how it is, where it stands, what its rounds did.

import * as api from "./api.js";
import * as dates from "./dates.js";
import { h } from "./markup.js";
import * as route from "./route.js";
import { condition, count, outcomeSaid, reason, since, until } from "./words.js";

export const title = ({ name }) => name;

// The API tells of the last round; the page remembers those it saw.
const seen = new Map();
const REMEMBERED = 20;

export async function run(place, show, signal) {
  for (;;) {
    const began = performance.now();
    const window = await api.window(place.name, signal);
    remember(window);
    show([heading(place, window, "health"), trouble(window), facts(window), rounds(window)]);
    const took = performance.now() - began;
    await api.pause(Math.max(800, took * 10), signal);
    if (signal.aborted) return;
  }
}

function remember({ name, last_round: round }) {
  const rounds = seen.get(name) ?? [];
  if (round && rounds[0]?.number !== round.number) seen.set(name, [round, ...rounds].slice(0, REMEMBERED));
}

// The head of everything about a window: its name, how it is, and the ways to look at it.
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
        h("span", { class: "quiet" }, ` last success ${since(window.stale_s)}`))),
    h("nav", { class: "tabs", "aria-label": "Ways to look at it", key: "tabs" }, h("ul", null,
      tab("Health", "health", route.health(window.name)),
      route.SPANS.map((span) => tab(span[0].toUpperCase() + span.slice(1), span, route.calendar(window.name, span, day))))),
  ];
}

function trouble(window) {
  const [, meaning, tone] = condition(window);
  const error = window.last_error;
  if (tone !== "bad" && !error) return null;
  return h("section", { class: "trouble", "aria-labelledby": "trouble", key: "trouble" },
    h("h2", { id: "trouble" }, tone === "bad" ? "What is wrong" : "The last failure"),
    tone === "bad" && h("p", null, `${meaning[0].toUpperCase()}${meaning.slice(1)}.`),
    error && [
      h("p", { class: "said" }, error.message),
      list([
        ["Kind", [error.kind.replaceAll("_", " "), error.status && `status ${error.status}`, error.code].filter(Boolean).join(", ")],
        ["When", at(error.at)],
        ["Tried again", error.retry_at && `${until(error.retry_at)} (${at(error.retry_at)})`],
        ["Failures since the last success", count(window.failures)],
        ["Graph’s request-id", error.request_id && h("code", null, error.request_id)],
      ]),
    ]);
}

const at = (time) => dates.moment(Date.parse(time));

const list = (pairs) => h("dl", null, pairs.filter(([, value]) => value).map(([name, value]) => h("div", null, h("dt", null, name), h("dd", null, value))));

function facts(window) {
  return h("section", { "aria-labelledby": "facts", key: "facts" },
    h("h2", { id: "facts" }, "Where it stands"),
    list([
      ["Events", window.settled_once ? count(window.events) : `${count(window.events)} so far`],
      ["Last success", window.last_success && `${since(window.stale_s)} (${at(window.last_success)})`],
      ["Next round", `${until(window.next_due)}, every ${dates.lasting(window.interval_s)}`],
      ["Mailbox", window.mailbox],
      ["Calendar", window.calendar],
      ["Account", window.account],
      ["Mirrored from", at(window.start)],
      ["Mirrored until", at(window.end)],
      ["Delta streams", window.segments.map(({ mode }) => mode).join(", ")],
      ["Resyncs", window.last_resync
        ? `${count(window.resyncs)}; the last ${at(window.last_resync.at)}: ${reason(window.last_resync.reason)}`
        : "none"],
    ]));
}

function rounds({ name }) {
  const known = seen.get(name) ?? [];
  return h("section", { "aria-labelledby": "rounds", key: "rounds" },
    h("h2", { id: "rounds" }, "Recent rounds"),
    known.length === 0
      ? h("p", { class: "quiet" }, "None has ended yet.")
      : h("div", { class: "sheet", tabindex: "0", role: "region", "aria-label": "Table of rounds" }, h("table", { class: "rounds" },
        h("caption", null, "The last round, and those before it that ended while this page was looking"),
        h("thead", null, h("tr", null, ["Round", "Ended", "Took", "Requests", "Pages", "Outcome"].map((word, index) =>
          h("th", { scope: "col", class: [0, 2, 3, 4].includes(index) ? "number" : null }, word)))),
        h("tbody", null, known.map((round) => h("tr", { key: String(round.number) },
          h("th", { scope: "row", class: "number" }, count(round.number)),
          h("td", null, at(round.at)),
          h("td", { class: "number" }, `${count(round.took_ms)} ms`),
          h("td", { class: "number" }, count(round.requests)),
          h("td", { class: "number" }, count(round.pages)),
          h("td", null, outcomeSaid(round))))))));
}
