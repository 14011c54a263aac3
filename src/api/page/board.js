// A board for a wall display: whether each window of a group is free now, until when, and what is
// next. It needs no hands, and a reader of the level `busy` may show it.

import * as api from "./api.js";
import { oldness, unknown } from "./availability.js";
import * as connection from "./connection.js";
import * as dates from "./dates.js";
import { h } from "./markup.js";
import { where } from "./words.js";

const MINUTE_MS = 60_000;
const PAUSE_MS = 5000;
// More rows start another column.
const ROWS = 12;
// Time is taken in these states; `tentative` too, as for `/v1/free`.
const TAKEN = ["busy", "oof", "tentative"];

export const title = ({ name }) => name;

// The answer seen last.
let seen = { key: null };
const keyOf = ({ name, select }) => `${name} ${select}`;

// The content by the clock, from the answer seen last; null if there is none. The page shows it
// every second, so that a meeting begins on time even if the daemon does not answer.
export const recall = (place) => (seen.key === keyOf(place) ? render(place, seen) : null);
export const redraw = recall;

export async function run(place, show, signal) {
  for (;;) {
    const began = performance.now();
    const from = Math.floor(Date.now() / MINUTE_MS) * MINUTE_MS;
    const to = dates.startOf(dates.addDays(dates.dayOf(from), 1));
    const select = `${new URLSearchParams({ group: place.name })}&${place.select}`;
    try {
      const { windows } = await api.availability(select, { from, to, minutes: 1 }, signal);
      seen = { key: keyOf(place), windows, to };
    } catch (error) {
      // Refused: what was seen is no longer for this reader.
      if (error instanceof api.Refusal && error.status < 500) seen = { key: null };
      throw error;
    }
    show(render(place, seen));
    await api.pause(connection.rest(PAUSE_MS, performance.now() - began), signal);
    if (signal.aborted) return;
  }
}

// The meetings of a window that are not over: times that are taken without a gap are one.
function meetings({ busy }, now) {
  const joined = [];
  for (const one of busy.filter(({ showAs }) => TAKEN.includes(showAs))) {
    const [start, end] = [Date.parse(one.start), Date.parse(one.end)];
    if (joined.at(-1)?.end === start) joined.at(-1).end = end;
    else joined.push({ start, end });
  }
  return joined.filter(({ end }) => end > now);
}

// What a row says: its tone, what is now, and what is next.
function standing(window, now) {
  if (unknown(window)) return ["unsure", "Unknown", unknown(window)];
  const [first, second] = meetings(window, now);
  const until = (instant) => (dates.dayOf(instant) === dates.dayOf(now) ? `until ${dates.clock(instant)}` : "for the rest of the day");
  const meeting = (one) => one && `next ${dates.clock(one.start)} – ${dates.clock(one.end)}`;
  if (!first) return ["good", "Free for the rest of the day", null];
  if (first.start > now) return ["good", `Free ${until(first.start)}`, meeting(first)];
  return ["bad", `Busy ${until(first.end)}`, meeting(second)];
}

function render({ name }, { windows, to }) {
  const now = Date.now();
  const columns = Math.min(4, Math.ceil(windows.length / ROWS));
  const row = (window) => {
    // Nothing is known of a day that was not loaded.
    const [tone, word, next] = now < to ? standing(window, now) : ["unsure", "Unknown", null];
    return h("li", { key: window.window, class: tone },
      h("h2", null, window.window, h("span", { class: "quiet" }, where(window))),
      h("p", { class: "standing" }, h("span", { class: "dot", "aria-hidden": "true" }), h("span", null, word)),
      h("p", { class: "quiet" }, [next, oldness(window)].filter(Boolean).join("; ")));
  };
  return [
    h("div", { class: "heading", key: "heading" },
      h("h1", { id: "title", tabindex: "-1" }, name),
      h("p", { class: "clock" }, dates.clock(now))),
    windows.length === 0 && h("p", { class: "notice", key: "none" }, "No windows."),
    h("ul", { class: "board", key: "board", style: { "--columns": columns, "--rows": Math.ceil(windows.length / columns) } }, windows.map(row)),
  ];
}
