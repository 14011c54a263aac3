// Shows one event in a dialog. Its contents are untrusted: they are shown as text, never as markup.
// The only link is the one to the online meeting, which is https and shows where it leads.

import * as api from "./api.js";
import * as dates from "./dates.js";
import { h } from "./markup.js";
import * as route from "./route.js";

const dialog = document.getElementById("event");
let place = () => null;
let shown = null;
// Whether the previous history entry is the same calendar without the event.
let stepped = false;

const SHOW_AS = { free: "free", tentative: "tentative", busy: "busy", oof: "out of office", workingElsewhere: "working elsewhere", unknown: "busy" };

export const showAs = (event) => (event.showAs in SHOW_AS ? event.showAs : "busy");
export const showAsWord = (event) => SHOW_AS[showAs(event)];

const isPrivate = (event) => event.sensitivity === "private" || event.sensitivity === "confidential";

// Whether the daemon masks the contents (`mask_private`).
export const isMasked = (event) => isPrivate(event) && !("subject" in event);

export function subject(event) {
  if (isMasked(event)) return event.sensitivity === "private" ? "Private" : "Confidential";
  return event.subject?.trim() || "(no subject)";
}

// `here` returns the place that is shown now.
export function begin(here) {
  place = here;
  dialog.addEventListener("close", () => {
    shown = null;
    const now = place();
    if (!now?.id) return;
    if (stepped) history.back();
    else location.replace(route.calendar(now.name, now.span, now.date));
  });
  dialog.addEventListener("click", ({ target }) => {
    if (target === dialog || target.closest("button")) dialog.close();
  });
}

// Opens or closes the dialog for a place; `step`: only the event differs from the previous place.
export function show(now, step) {
  if (!now?.id) {
    if (dialog.open) dialog.close();
    return;
  }
  stepped = step;
  shown = { name: now.name, id: now.id };
  load();
}

// Handles a change from the feed: reloads the open event if it is the one that changed.
export function changed(change) {
  if (shown && change.window === shown.name && change.id === shown.id) load();
}

async function load() {
  const wanted = shown;
  let content;
  try {
    const [event, { join_url: join }] = await Promise.all([api.event(wanted.name, wanted.id), api.joinLink(wanted.name, wanted.id)]);
    await dates.learn([event.start?.timeZone, event.end?.timeZone].filter(Boolean), api.ianaZone);
    content = details(event, join);
  } catch (error) {
    const gone = error instanceof api.Refusal && error.status === 404;
    const said = error instanceof api.Refusal ? `The daemon cannot answer: ${error.message}.` : "The daemon does not answer now.";
    content = [title(gone ? "Not in the mirror" : "Not available"), h("p", null, gone
      ? "This event is not in the mirror, or no longer." : `${said} Close this and try again.`)];
  }
  if (shown !== wanted) return;
  dialog.replaceChildren(h("article", null, content, h("button", { type: "button", class: "close" }, "Close")));
  if (!dialog.open) dialog.showModal();
}

const title = (text) => h("h2", { id: "event-title" }, text);

function when(event) {
  const start = dates.instantOf(event.start);
  const end = dates.instantOf(event.end);
  if (Number.isNaN(start) || Number.isNaN(end)) return "at a time that cannot be read";
  if (event.isAllDay) {
    const first = event.start.dateTime.slice(0, 10);
    const last = dates.addDays(event.end.dateTime.slice(0, 10), -1);
    return last <= first ? `${dates.longDay(first)}, all day` : `${dates.longDay(first)} – ${dates.longDay(last)}, all day`;
  }
  const [first, last] = [dates.dayOf(start), dates.dayOf(end)];
  const until = first === last ? dates.clock(end) : `${dates.longDay(last)}, ${dates.clock(end)}`;
  return `${dates.longDay(first)}, ${dates.clock(start)} – ${until}`;
}

const KINDS = { occurrence: "of a series", exception: "of a series, changed by itself", singleInstance: "by itself", seriesMaster: "a series" };
const RESPONSES = { accepted: "accepted", declined: "declined", tentativelyAccepted: "tentative", organizer: "organiser" };

const person = (one) => one?.emailAddress?.name || one?.emailAddress?.address || "somebody";

function details(event, join) {
  const facts = [
    ["Shown as", [showAsWord(event), event.isCancelled && "cancelled"].filter(Boolean).join(", ")],
    ["Where", [event.location?.displayName, ...(event.locations ?? []).map((one) => one.displayName)].filter((one, index, all) => one && all.indexOf(one) === index).join("; ")],
    ["Join", join && h("a", { href: join, rel: "noreferrer", target: "_blank" }, new URL(join).host)],
    ["Organiser", event.organizer && person(event.organizer)],
    ["Occurs", KINDS[event.type]],
    ["Sensitivity", isPrivate(event) && event.sensitivity],
    ["Importance", event.importance === "high" && "high"],
    ["Categories", event.categories?.join(", ")],
  ].filter(([, value]) => value);
  const people = event.attendees ?? [];
  const text = event.body?.contentType === "text" ? event.body.content : event.bodyPreview;
  return [
    title(subject(event)),
    h("p", { class: "when" }, when(event)),
    isMasked(event) && h("p", { class: "notice" }, "Only times of private and confidential events are shown."),
    h("dl", null, facts.map(([name, value]) => h("div", null, h("dt", null, name), h("dd", null, value)))),
    people.length > 0 && h("section", null, h("h3", null, "Attendees"), h("ul", { class: "people" }, people.slice(0, 100).map((one) =>
      h("li", null, person(one), h("span", { class: "quiet" }, ` ${[RESPONSES[one.status?.response], one.type === "required" ? null : one.type].filter(Boolean).join(", ")}`))),
      people.length > 100 && h("li", { class: "quiet" }, `and ${people.length - 100} more`))),
    text?.trim() && h("section", null, h("h3", null, event.body?.contentType === "text" ? "Text" : "How the text begins"), h("p", { class: "text" }, text.slice(0, 20_000))),
  ];
}
