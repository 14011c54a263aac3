// Computes where events are placed in a calendar. Pure: no elements, no clock.

import { addDays, dayOf, instantOf, minutesOf } from "./dates.js";

const DAY_MS = 86_400_000;
// Shorter events are drawn, and placed beside others, as if they were this long.
const LEAST_MIN = 30;

// The layout data of an event: its first and last day (inclusive, in the browser's zone; those of
// an all-day event are the same in every zone), and whether it is drawn as a bar over days.
export function blockOf(event) {
  const start = instantOf(event.start);
  const end = Math.max(start, instantOf(event.end));
  if (Number.isNaN(start) || Number.isNaN(end)) return null;
  if (event.isAllDay) {
    const first = event.start.dateTime.slice(0, 10);
    const last = addDays(event.end.dateTime.slice(0, 10), -1);
    return { event, start, end, first, last: last < first ? first : last, bar: true };
  }
  const last = dayOf(end > start ? end - 1 : start);
  return { event, start, end, first: dayOf(start), last, bar: end - start >= DAY_MS };
}

export const isOn = (block, day) => block.first <= day && day <= block.last;

// Bars first, then by start; longer before shorter; then by id, so that the order is stable.
export function order(a, b) {
  return b.bar - a.bar || a.start - b.start || b.end - a.end || (a.event.id < b.event.id ? -1 : 1);
}

// Places bars over consecutive days in as few lanes as possible: each gets its first and last
// column and its lane.
export function lanes(blocks, days) {
  const free = [];
  const placed = [];
  for (const block of [...blocks].sort((a, b) => (a.first < b.first ? -1 : a.first > b.first ? 1 : 0) || order(a, b))) {
    const from = days.findIndex((day) => day >= block.first);
    const to = days.findLastIndex((day) => day <= block.last);
    if (from < 0 || to < from) continue;
    let lane = free.findIndex((until) => until < from);
    if (lane < 0) lane = free.length;
    free[lane] = to;
    placed.push({ block, from, to, lane, before: block.first < days[from], after: block.last > days[to] });
  }
  return { placed, lanes: free.length };
}

// Places a day's timed events, side by side where they overlap: each gets its top and bottom in
// minutes of the day, its column, and the number of columns of its group.
export function columns(blocks, day) {
  const placed = blocks
    .filter((block) => !block.bar && isOn(block, day))
    .map((block) => {
      const top = block.first < day ? 0 : minutesOf(block.start);
      const bottom = block.last > day ? 1440 : block.end > block.start ? minutesOf(block.end) || 1440 : top;
      return { block, top: Math.min(top, 1440 - LEAST_MIN), bottom: Math.max(bottom, top + LEAST_MIN), column: 0, columns: 1 };
    })
    .sort((a, b) => a.top - b.top || b.bottom - a.bottom || order(a.block, b.block));
  let cluster = [];
  let ends = [];
  const close = () => {
    for (const item of cluster) item.columns = ends.length;
    cluster = [];
    ends = [];
  };
  for (const item of placed) {
    if (ends.length > 0 && ends.every((end) => end <= item.top)) close();
    let column = ends.findIndex((end) => end <= item.top);
    if (column < 0) column = ends.length;
    ends[column] = item.bottom;
    item.column = column;
    cluster.push(item);
  }
  close();
  return placed;
}
