// The address determines what is shown, so that back, forward and bookmarks work:
//   #/?q=…&state=…&page=…                 the fleet
//   #/windows/NAME                        a window's health
//   #/windows/NAME/week/2026-11-22[/ID]   its calendar (day, week, month), and one event of it

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

export const health = (name) => `#/windows/${encodeURIComponent(name)}`;

export function calendar(name, span, date, id = null) {
  const path = `${health(name)}/${span}/${date}`;
  return id === null ? path : `${path}/${encodeURIComponent(id)}`;
}
