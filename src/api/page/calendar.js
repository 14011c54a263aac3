// A window's calendar by day, week and month: a snapshot, then every change from the feed.

import * as api from "./api.js";
import * as connection from "./connection.js";
import * as dates from "./dates.js";
import * as event from "./event.js";
import * as head from "./health.js";
import { columns, blockOf, isOn, lanes, order } from "./layout.js";
import { h, tell } from "./markup.js";
import * as route from "./route.js";
import { many } from "./words.js";

// All-day events are days, not instants, so the requested range is 14 h wider on both sides.
const MARGIN_MS = 14 * 3_600_000;
// A day shows at most this many events; more would not be usable on a page.
const MOST = 300;
// How long a changed event is highlighted.
const FRESH_MS = 4000;

export function title({ name, span, date }) {
  if (span === "day") return `${dates.longDay(date)}, ${name}`;
  if (span === "month") return `${dates.month(date)}, ${name}`;
  return `${stretch(dates.weekOf(date))}, ${name}`;
}

const stretch = (days) => `${dates.shortDay(days[0])} – ${dates.shortDay(days.at(-1))}`;

function daysOf({ span, date }) {
  if (span === "day") return [date];
  return span === "week" ? dates.weekOf(date) : dates.weeksOf(date).flat();
}

// The events seen last, by window and days; beyond MOST_SEEN the oldest entry is dropped.
const seen = new Map();
const MOST_SEEN = 24;

const rangeOf = (days) => [dates.startOf(days[0]) - MARGIN_MS, dates.startOf(dates.addDays(days.at(-1), 1)) + MARGIN_MS];

function remember(place, from, to, shown) {
  const key = `${from} ${to} ${place.name}`;
  seen.delete(key);
  seen.set(key, { name: place.name, from, to, shown });
  if (seen.size > MOST_SEEN) seen.delete(seen.keys().next().value);
}

// The content to show before the daemon answers, or while it does not; null if there is none.
export function recall(place) {
  const days = daysOf(place);
  const [from, to] = rangeOf(days);
  const mine = [...seen.values()].filter((one) => one.name === place.name);
  const whole = mine.findLast((one) => one.from <= from && one.to >= to);
  if (whole) return render(place, days, whole.shown);
  const window = mine.at(-1)?.shown.window ?? head.windowSeen(place.name);
  if (window === null) return null;
  // These days were never loaded completely: show the events that are known.
  const events = new Map(mine.flatMap((one) => [...one.shown.events]));
  return render(place, days, { window, complete: window.settled_once, partial: true, events, fresh: new Map() });
}

export async function run(place, show, signal) {
  const days = daysOf(place);
  const [from, to] = rangeOf(days);
  const [window, snapshot] = await Promise.all([api.window(place.name, signal), api.events(place.name, from, to, signal)]);
  const shown = { window, complete: snapshot.complete, events: new Map(snapshot.events.map((one) => [one.id, one])), fresh: new Map() };
  const draw = async () => {
    const zones = [...shown.events.values()].flatMap((one) => [one.start?.timeZone, one.end?.timeZone]).filter(Boolean);
    await dates.learn(zones, api.ianaZone);
    if (signal.aborted) return;
    show(render(place, days, shown));
    scrollToMorning();
  };
  head.remember(window);
  remember(place, from, to, shown);
  await draw();
  // One redraw for changes that arrive together.
  let drawing = 0;
  const soon = (ms) => {
    drawing ||= setTimeout(() => {
      drawing = 0;
      draw();
    }, ms);
  };
  // Redraw on resize, and every 5 s for the current time and the window's state.
  const resized = () => soon(50);
  addEventListener("resize", resized);
  const clock = setInterval(async () => {
    try {
      shown.window = await api.window(place.name, signal);
      head.remember(shown.window);
      shown.complete ||= shown.window.settled_once;
    } catch (error) {
      // The change stream detects whether the daemon answers, but not why it cannot.
      if (!signal.aborted && error instanceof api.Refusal && error.status >= 500) connection.lost(error.message);
    }
    soon(0);
  }, 5000);
  try {
    await api.follow(place.name, snapshot.cursor, (change) => {
      apply(shown, change);
      event.changed(change);
      soon(60);
      setTimeout(() => soon(0), FRESH_MS + 100);
    }, signal);
  } finally {
    removeEventListener("resize", resized);
    clearInterval(clock);
    clearTimeout(drawing);
  }
}

function apply(shown, change) {
  if (change.change === "removed") shown.events.delete(change.id);
  else shown.events.set(change.id, change.event);
  shown.fresh.set(change.id, Date.now());
}

function render(place, days, shown) {
  const blocks = [...shown.events.values()].map(blockOf)
    .filter((block) => block && block.first <= days.at(-1) && block.last >= days[0])
    .sort(order);
  const now = Date.now();
  for (const [id, at] of shown.fresh) if (now - at > FRESH_MS) shown.fresh.delete(id);
  for (const block of blocks) block.fresh = shown.fresh.has(block.event.id);
  return [
    head.heading(place, shown.window, place.span),
    toolbar(place, days),
    notices(days, shown, blocks),
    place.span === "month" ? month(place, blocks) : hours(place, days, blocks),
  ];
}

function toolbar(place, days) {
  const { span, date, name } = place;
  const step = { day: (n) => dates.addDays(date, n), week: (n) => dates.addDays(date, 7 * n), month: (n) => dates.addMonths(date, n) }[span];
  const to = (day) => route.calendar(name, span, day);
  const words = { day: dates.longDay(date), week: stretch(days), month: dates.month(date) };
  return h("div", { class: "toolbar", key: "toolbar" },
    h("h2", null, words[span]),
    h("nav", { "aria-label": "Dates" },
      h("a", { class: "step", href: to(step(-1)), "aria-label": `Previous ${span}` }, h("span", { "aria-hidden": "true" }, "‹")),
      h("a", { class: "step wide", href: to(dates.today()), "aria-current": days.includes(dates.today()) ? "date" : null }, "Today"),
      h("a", { class: "step", href: to(step(1)), "aria-label": `Next ${span}` }, h("span", { "aria-hidden": "true" }, "›")),
      h("label", { class: "unseen", for: "date" }, "Go to date"),
      h("input", { id: "date", type: "date", value: date, required: true })));
}

function notices(days, { window, complete, partial = false }, blocks) {
  const before = dates.startOf(days[0]) < Date.parse(window.start);
  const after = dates.startOf(dates.addDays(days.at(-1), 1)) > Date.parse(window.end);
  const edges = `${dates.shortDay(dates.dayOf(Date.parse(window.start)))} to ${dates.shortDay(dates.dayOf(Date.parse(window.end)))}`;
  return [
    partial && h("p", { class: "notice", key: "partial" }, "Not all of these days have been loaded; the rest appears when the daemon answers."),
    !complete && h("p", { class: "notice", key: "incomplete" }, "This window is still being read for the first time; not everything is here yet."),
    (before || after) && h("p", { class: "notice", key: "edges" }, `Mirrored is ${edges}; what lies outside is not known here.`),
    blocks.length === 0 && complete && !partial && h("p", { class: "notice calm", key: "none" }, "No events."),
  ];
}

const time = (block) => (block.bar ? barTime(block) : `${dates.clock(block.start)} – ${dates.clock(block.end)}`);

function barTime({ event: one, start, end, first, last }) {
  if (!one.isAllDay) return `${dates.shortDay(first)} ${dates.clock(start)} – ${dates.shortDay(last)} ${dates.clock(end)}`;
  return first === last ? "all day" : `${dates.shortDay(first)} – ${dates.shortDay(last)}, all day`;
}

// One event: a link to its details. Its style shows the availability, and hidden words say the
// same to screen readers.
function link(place, block, clock) {
  const { event: one } = block;
  const looks = ["event", event.showAs(one), one.isCancelled && "cancelled", event.isMasked(one) && "masked", block.fresh && "fresh"];
  const said = [event.showAs(one) === "busy" ? null : event.showAsWord(one), one.isCancelled && "cancelled"].filter(Boolean);
  const where = one.location?.displayName;
  return h("a", { class: looks.filter(Boolean).join(" "), href: route.calendar(place.name, place.span, place.date, one.id) },
    clock && h("span", { class: "time" }, clock, " "),
    h("span", { class: "subject" }, event.subject(one)),
    where && h("span", { class: "where" }, h("span", { class: "unseen" }, ", at"), " ", where),
    said.length > 0 && h("span", { class: "unseen" }, `, ${said.join(", ")}`));
}

function hours(place, days, blocks) {
  const bars = lanes(blocks.filter((block) => block.bar), days);
  const today = dates.today();
  return h("div", {
    class: `grid ${place.span}`, key: `grid-${place.span}`, style: { "--days": days.length, "--lanes": bars.lanes }, tabindex: "0", role: "region", "aria-label": "Calendar",
  },
    h("div", { class: "heads", "aria-hidden": "true" }, h("span", { class: "corner" }),
      days.map((day) => h("span", { class: day === today ? "head today" : "head" }, dates.shortWeekday(day), " ", h("b", null, dates.numberOf(day))))),
    bars.lanes > 0 && h("section", { class: "bars", "aria-label": "All day", key: "bars" },
      h("span", { class: "corner", "aria-hidden": "true" }, "all day"),
      h("ul", null, bars.placed.slice(0, MOST).map(({ block, from, to, lane, before, after }) =>
        h("li", { key: block.event.id, class: [before && "before", after && "after"].filter(Boolean).join(" ") || null, style: { "grid-column": `${from + 1} / ${to + 2}`, "grid-row": String(lane + 1) } },
          link(place, block, null), h("span", { class: "unseen" }, `, ${time(block)}`))))),
    h("div", { class: "hours" },
      h("div", { class: "axis", "aria-hidden": "true" }, Array.from({ length: 23 }, (_, number) => h("span", { style: { "--at": number + 1 } }, dates.hour(number + 1)))),
      days.map((day) => column(place, day, blocks, today))));
}

function column(place, day, blocks, today) {
  const placed = columns(blocks, day);
  const bars = blocks.filter((block) => block.bar && isOn(block, day));
  const left = placed.length - MOST;
  return h("section", { class: day === today ? "column today" : "column", key: day, "aria-labelledby": `day-${day}` },
    h("h3", { id: `day-${day}` }, place.span === "day" ? dates.longDay(day) : h("a", { href: route.calendar(place.name, "day", day) }, dates.longDay(day)),
      day === today && h("span", { class: "badge" }, " today")),
    day === today && h("div", { class: "now", "aria-hidden": "true", style: { "--top": nowMinutes() } }),
    // A narrow screen stacks the days and has no row of bars.
    bars.length > 0 && h("ul", { class: "stacked" }, bars.slice(0, MOST).map((block) => h("li", { key: block.event.id }, link(place, block, time(block))))),
    placed.length === 0 && bars.length === 0 && h("p", { class: "free" }, "No events"),
    placed.length > 0 && h("ol", null, placed.slice(0, MOST).map(({ block, top, bottom, column: number, columns: all }) =>
      h("li", { key: block.event.id, class: [bottom - top < 45 && "short", all > 2 && place.span === "week" && "crowded"].filter(Boolean).join(" ") || null, style: { "--top": top, "--height": bottom - top, "--column": number, "--columns": all } },
        link(place, block, time(block))))),
    left > 0 && h("p", { class: "left" }, `${many(left, "more event")} not shown`));
}

const nowMinutes = () => dates.minutesOf(Date.now());

// How many lines fit into a day of a month with that many weeks: the height that its style
// (calendar.css, "Month") gives to a week, without the day's number and the padding.
function linesOf(weeks) {
  const rem = parseFloat(getComputedStyle(document.documentElement).fontSize);
  const row = (Math.max(34 * rem, innerHeight - 14.5 * rem) - 2.4 * rem) / weeks;
  return Math.max(2, Math.floor((row - 2.85 * rem) / (1.5 * rem + 2)));
}

function month(place, blocks) {
  const weeks = dates.weeksOf(place.date);
  const most = linesOf(weeks.length);
  const today = dates.today();
  const inMonth = place.date.slice(0, 7);
  const cell = (day) => {
    const on = blocks.filter((block) => isOn(block, day));
    const lines = on.length > most ? most - 1 : most;
    const looks = [day === today && "today", day.slice(0, 7) !== inMonth && "other"].filter(Boolean).join(" ");
    const toDay = route.calendar(place.name, "day", day);
    return h("td", { class: looks || null, key: day },
      h("a", { class: "number", href: toDay, "aria-label": `${dates.longDay(day)}, ${many(on.length, "event")}`, "aria-current": day === today ? "date" : null },
        dates.numberOf(day)),
      on.length > 0 && h("ul", null, on.slice(0, lines).map((block) =>
        h("li", { key: block.event.id }, link(place, block, block.bar ? null : dates.clock(block.start))))),
      on.length > lines && h("a", { class: "more", href: toDay, "aria-hidden": "true", tabindex: "-1" }, `+${on.length - lines} more`),
      on.length > 0 && h("span", { class: "dots", "aria-hidden": "true" }, on.slice(0, 3).map(() => h("span", { class: "dot" })), on.length > 3 && "+"));
  };
  return h("div", { class: "sheet", key: "month" }, h("table", { class: "month", style: { "--weeks": weeks.length } },
    h("caption", { class: "unseen" }, dates.month(place.date)),
    h("thead", null, h("tr", null, weeks[0].map((day) => h("th", { scope: "col", abbr: dates.longWeekday(day) }, dates.shortWeekday(day))))),
    h("tbody", null, weeks.map((week) => h("tr", { key: week[0] }, week.map(cell))))));
}

// Scrolls a new grid of hours to the morning, once, so that no short event is half hidden under
// the heads; after that the user scrolls.
const opened = new WeakSet();
function scrollToMorning() {
  const grid = document.querySelector(".grid");
  if (!grid || opened.has(grid)) return;
  opened.add(grid);
  const hour = grid.querySelector(".hours").offsetHeight / 24;
  let top = hour * 6.75;
  const short = [...grid.querySelectorAll(".column li")].filter((item) => item.offsetHeight <= 2 * hour);
  for (const item of short.sort((a, b) => b.offsetTop - a.offsetTop)) {
    if (item.offsetTop < top && item.offsetTop + item.offsetHeight > top) top = item.offsetTop;
  }
  grid.scrollTop = top;
}

document.addEventListener("change", ({ target }) => {
  if (target.id !== "date" || !dates.isDate(target.value)) return;
  const place = route.parse(location.hash);
  if (place?.view !== "calendar") return;
  location.hash = route.calendar(place.name, place.span, target.value);
  tell(dates.longDay(target.value));
});
