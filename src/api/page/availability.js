// When people and rooms are busy on one day: a row for each window of a selection. It asks only for
// what readers of the level `busy` may see.

import * as api from "./api.js";
import * as connection from "./connection.js";
import * as dates from "./dates.js";
import { showAsWord } from "./event.js";
import { h, tell } from "./markup.js";
import * as route from "./route.js";
import { count, many, where } from "./words.js";

// More rows, or more slots in the line above them, would not be usable on a page.
const MOST_ROWS = 200;
const MOST_SLOTS = 8;
const PAUSE_MS = 5000;
// Older data says its time.
const OLD_MS = 3_600_000;

export const title = ({ date }) => `Availability, ${dates.longDay(date)}`;

// The answer seen last.
let seen = { key: null };
const keyOf = ({ select, date }) => `${date} ${select}`;

// The content to show before the daemon answers, or while it does not; null if there is none.
export const recall = (place) => (seen.key === keyOf(place) ? render(place, seen.answer) : null);

export async function run(place, show, signal) {
  const [from, to] = rangeOf(place);
  for (;;) {
    const began = performance.now();
    const answer = await load(place.select, { from, to, minutes: 30 }, signal);
    seen = { key: keyOf(place), answer };
    show(render(place, answer));
    await api.pause(connection.rest(PAUSE_MS, performance.now() - began), signal);
    if (signal.aborted) return;
  }
}

// A selection that is refused can be corrected where it was made. Without a selection there would be
// a row for every window of the fleet.
async function load(select, range, signal) {
  if (!select) return api.ping(signal);
  try {
    return await api.availability(select, range, signal);
  } catch (error) {
    if (error instanceof api.Refusal && [400, 404].includes(error.status)) return { refused: error.message };
    throw error;
  }
}

const rangeOf = ({ date }) => [dates.startOf(date), dates.startOf(dates.addDays(date, 1))];

const UNKNOWN = {
  never_settled: "not read completely yet",
  unplaced_events: "has events that could not be read",
  range_not_covered: "this time is not mirrored completely",
  shard_missing: "its shard does not answer",
};

// Why it is not known when a window is free.
export const unknown = ({ unknown: reason }) => reason && (UNKNOWN[reason] ?? reason.replaceAll("_", " "));

// From when the data about a window is, if that is long ago.
export function oldness({ as_of: asOf }) {
  const at = Date.parse(asOf);
  return Date.now() - at > OLD_MS && `data from ${dates.moment(at)}`;
}

function render(place, answer) {
  const windows = answer.windows ?? [];
  return [
    h("div", { class: "heading", key: "heading" },
      h("p", { class: "crumb" }, h("a", { href: "#/" }, "Windows")),
      h("h1", { id: "title", tabindex: "-1" }, "Availability"),
      h("p", { class: "lead" }, answer.windows ? summary(windows) : "Choose a group or windows.")),
    selection(place),
    toolbar(place),
    answer.refused && h("p", { class: "notice", key: "refused" }, answer.refused),
    answer.windows && free(answer, windows),
    windows.length > 0 && chart(place, windows),
    windows.length > MOST_ROWS && h("p", { class: "notice", key: "more" }, `The first ${MOST_ROWS} are shown.`),
  ];
}

function summary(windows) {
  const unsure = windows.filter(unknown).length;
  return `${many(windows.length, "window")}${unsure > 0 ? `, ${count(unsure)} of them unknown` : ""}`;
}

const FIELDS = { group: "Group or fleet", windows: "Windows, such as room-*" };

function selection({ select }) {
  const query = new URLSearchParams(select);
  const group = query.getAll("group");
  const values = { group, windows: [...query.getAll("windows"), ...query.getAll("window")] };
  return h("form", { class: "selection", role: "search", key: "selection", id: "selection" },
    Object.entries(FIELDS).map(([id, label]) => h("div", null, h("label", { for: id }, label),
      h("input", { id, type: "search", value: values[id].join(","), autocomplete: "off", spellcheck: "false" }))),
    group.length === 1 && h("a", { href: route.board(group[0]) }, "Board for a wall display"));
}

function toolbar({ select, date }) {
  const to = (day) => route.availability(select, day);
  const today = dates.today();
  return h("div", { class: "toolbar", key: "toolbar" },
    h("h2", null, dates.longDay(date)),
    h("nav", { "aria-label": "Dates" },
      h("a", { class: "step", href: to(dates.addDays(date, -1)), "aria-label": "Previous day" }, h("span", { "aria-hidden": "true" }, "‹")),
      h("a", { class: "step wide", href: to(today), "aria-current": date === today ? "date" : null }, "Today"),
      h("a", { class: "step", href: to(dates.addDays(date, 1)), "aria-label": "Next day" }, h("span", { "aria-hidden": "true" }, "›")),
      h("label", { class: "unseen", for: "date" }, "Go to date"),
      h("input", { id: "date", type: "date", value: date, required: true })));
}

const span = ({ start, end }) => `${dates.clock(Date.parse(start))} – ${dates.clock(Date.parse(end))}`;

// The times at which all are free.
function free({ slots }, windows) {
  if (windows.length === 0) return h("p", { class: "notice calm", key: "free" }, "No windows.");
  if (windows.some(unknown)) return h("p", { class: "notice calm", key: "free" }, "It is not known when all of them are free.");
  const said = slots.slice(0, MOST_SLOTS).map(span).join(", ");
  const left = slots.length - MOST_SLOTS;
  return h("p", { class: "notice", key: "free" },
    slots.length > 0 ? `All are free ${said}${left > 0 ? ` and ${count(left)} more times` : ""}.` : "At no time are all of them free for half an hour.");
}

function chart(place, windows) {
  const [from, to] = rangeOf(place);
  const at = (instant) => `${((100 * (instant - from)) / (to - from)).toFixed(3)}%`;
  const now = Date.now();
  // A day on which the clocks change has 23 or 25 hours.
  const hours = Array.from({ length: Math.round((to - from) / 3_600_000) }, (_, number) => from + number * 3_600_000);
  const lines = hours.map((hour, number) => h("span", { class: number % 3 === 0 ? "labelled" : null, style: { "--at": at(hour) } }, dates.clock(hour)));
  const block = (one) => h("li", { class: `event ${one.showAs}`, title: `${span(one)} ${showAsWord(one)}`, style: { "--at": at(Date.parse(one.start)), "--until": at(Date.parse(one.end)) } },
    span(one), h("span", { class: "unseen" }, ` ${showAsWord(one)}`));
  const row = (window) => h("tr", { key: window.window, class: unknown(window) ? "unknown" : null },
    h("th", { scope: "row" }, window.window,
      [where(window), unknown(window) && `unknown: ${unknown(window)}`, oldness(window)].filter(Boolean).map((text) => h("span", { class: "quiet" }, text))),
    h("td", null, window.busy.length > 0 ? h("ul", null, window.busy.map(block)) : h("span", { class: "unseen" }, unknown(window) ? "unknown" : "free all day"),
      from <= now && now < to && h("span", { class: "present", "aria-hidden": "true", style: { "--at": at(now) } })));
  return h("div", { class: "sheet", key: "chart", tabindex: "0", role: "region", "aria-label": "Busy times" }, h("table", { class: "chart", style: { "--hours": hours.length } },
    h("caption", { class: "unseen" }, `Busy times on ${dates.longDay(place.date)}`),
    h("thead", null, h("tr", null, h("th", { scope: "col" }, "Window"),
      h("th", { scope: "col" }, h("span", { class: "unseen" }, "Busy times"), h("span", { class: "scale", "aria-hidden": "true" }, lines)))),
    h("tbody", null, windows.slice(0, MOST_ROWS).map(row))));
}

// A field applies when it is left, or at Enter.
document.addEventListener("change", ({ target }) => {
  const place = route.parse(location.hash);
  if (place?.view !== "availability") return;
  if (target.id === "date" && dates.isDate(target.value)) {
    location.hash = route.availability(place.select, target.value);
    tell(dates.longDay(target.value));
  } else if (target.id in FIELDS) {
    const query = new URLSearchParams();
    for (const id of Object.keys(FIELDS)) {
      const words = document.getElementById(id).value.split(",").map((word) => word.trim()).filter(Boolean);
      if (id === "group") words.forEach((word) => query.append(id, word));
      else if (words.length > 0) query.set(id, words.join(","));
    }
    location.hash = route.availability(query.toString(), place.date);
  }
});
