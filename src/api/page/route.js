// The address determines what is shown, so that back, forward and bookmarks work:
//   #/?q=…&state=…&page=…                 the fleet
//   #/windows/NAME                        a window's health
//   #/windows/NAME/week/2026-11-22[/ID]   its calendar (day, week, month), and one event of it
//   #/availability?group=…&day=…          when windows are busy; beside the day, what /v1/busy takes
//   #/board/GROUP                         a board for a wall display

import { isDate, today } from "./dates.js";

export const SPANS = ["day", "week", "month"];

// The place that an address names; null if it is invalid.
export function parse(hash) {
  const text = hash.replace(/^#\/?/, "");
  const cut = text.indexOf("?");
  const path = cut < 0 ? text : text.slice(0, cut);
  const query = new URLSearchParams(cut < 0 ? "" : text.slice(cut + 1));
  let parts;
  try {
    parts = path.split("/").filter((part) => part !== "").map(decodeURIComponent);
  } catch {
    return null;
  }
  if (parts.length === 0) {
    return { view: "fleet", q: query.get("q") ?? "", state: query.get("state") ?? "", page: query.get("page") ?? "" };
  }
  if (parts.length === 1 && parts[0] === "availability") {
    const date = query.get("day") ?? today();
    query.delete("day");
    return isDate(date) ? { view: "availability", select: query.toString(), date } : null;
  }
  if (parts.length === 2 && parts[0] === "board") return { view: "board", name: parts[1], select: query.toString() };
  const [windows, name, span, date, id, ...rest] = parts;
  if (windows !== "windows" || !name || rest.length > 0) return null;
  if (span === undefined) return { view: "health", name };
  if (!SPANS.includes(span)) return null;
  if (date !== undefined && !isDate(date)) return null;
  return { view: "calendar", name, span, date: date ?? today(), id: id ?? null };
}

export function fleet({ q = "", state = "", page = "" } = {}) {
  const query = new URLSearchParams();
  if (q) query.set("q", q);
  if (state) query.set("state", state);
  if (page) query.set("page", page);
  const text = query.toString();
  return text ? `#/?${text}` : "#/";
}

// `select`: parameters as `/v1/busy` takes them.
export const availability = (select, day = today()) => `#/availability?${select ? `${select}&` : ""}day=${day}`;

export const board = (group) => `#/board/${encodeURIComponent(group)}`;

export const health = (name) => `#/windows/${encodeURIComponent(name)}`;

export function calendar(name, span, date, id = null) {
  const path = `${health(name)}/${span}/${date}`;
  return id === null ? path : `${path}/${encodeURIComponent(id)}`;
}
