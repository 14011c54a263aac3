// Shows the view that the address names and keeps it fresh. One view runs at a time; it ends when
// the address changes or the page is hidden, and restarts when it fails.

import * as api from "./api.js";
import * as availability from "./availability.js";
import * as board from "./board.js";
import * as calendar from "./calendar.js";
import * as connection from "./connection.js";
import { lasting, moment, zone } from "./dates.js";
import * as event from "./event.js";
import * as fleet from "./fleet.js";
import * as health from "./health.js";
import { h, morph, tell } from "./markup.js";
import * as route from "./route.js";
import { tick } from "./words.js";

const VIEWS = { fleet, health, calendar, availability, board };
const main = document.getElementById("main");

let place = null;
let running = new AbortController();
// A new view was requested: its heading gets the focus as soon as it exists.
let arriving = false;

// Renders the content into the page; elements that stay keep their focus.
function show(content, { busy = false } = {}) {
  const wanted = h("main", null, content);
  morph(main, wanted);
  main.toggleAttribute("aria-busy", busy);
  if (!arriving) return;
  arriving = busy;
  document.getElementById("title")?.focus({ preventScroll: true });
}

let before = null;
connection.watch((state) => {
  const { alive } = state;
  document.getElementById("live").className = alive ? "live good" : "live bad";
  document.getElementById("live-word").textContent = alive ? "Live" : "Not connected";
  document.body.classList.toggle("stale", !alive);
  if (!alive) main.removeAttribute("aria-busy");
  lacking(state);
  notice(state);
  if (before === null ? !alive : before !== alive) tell(alive ? "Connected again" : "The daemon does not answer; what is shown is old");
  before = alive;
});

// Updates the banner that names the shards that do not answer. The view of one window needs no
// other shard, and asks for none: it would not notice when one is back.
function lacking({ missing: shards }) {
  const banner = document.getElementById("missing");
  banner.hidden = shards.length === 0 || ["health", "calendar"].includes(place?.view);
  const [subject, whose] = shards.length === 1 ? [`Shard ${shards[0]} does`, "Its"] : [`Shards ${shards.join(", ")} do`, "Their"];
  const text = banner.hidden ? "" : `${subject} not answer. ${whose} windows are missing or unknown.`;
  if (banner.textContent === text) return;
  banner.textContent = text;
  if (text || shards.length === 0) tell(text || "No shard is missing");
}

// Updates the banner that says how long the daemon has not answered.
function notice({ alive, why, heard, loaded }) {
  const away = document.getElementById("away");
  away.hidden = alive !== false;
  if (away.hidden) return;
  const said = why ? `The daemon cannot answer: ${why}` : "The daemon does not answer";
  const ago = lasting((Date.now() - heard) / 1000);
  // What was heard last may be the answer to another view.
  const age = why && !loaded ? "was loaded earlier" : `is ${ago} old, from ${moment(heard)}`;
  away.textContent = `${said}. What is shown ${age}. The page continues by itself as soon as the daemon answers.`;
}

// Ages keep counting with or without responses.
setInterval(() => {
  if (document.hidden) return;
  notice(connection.look());
  tick();
  // A board follows the clock.
  const again = VIEWS[place?.view]?.redraw?.(place);
  if (again) show(again);
}, 1000);

// Runs one view until `signal` aborts.
async function run(view, here, signal) {
  let patience = 300;
  connection.begin();
  while (!signal.aborted) {
    try {
      await view.run(here, (content) => {
        if (signal.aborted) return;
        patience = 300;
        connection.loaded();
        show(content);
      }, signal);
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof api.Refusal && error.status < 500) {
        show(refused(error, here));
      } else {
        // The daemon or the network is down, or a proxy says so; the shown content stays.
        if (![api.Refusal, TypeError].some((kind) => error instanceof kind) && !["AbortError", "TimeoutError"].includes(error.name)) console.error(error);
        connection.lost(error instanceof api.Refusal ? error.message : null);
        if (main.querySelector("#title") === null || arriving) show(view.recall(here) ?? unseen(view.title(here)));
      }
    }
    await api.pause(patience, signal);
    patience = Math.min(patience * 2, 3000);
  }
}

function refused(error, here) {
  const unknown = error.status === 404 && ["health", "calendar"].includes(here.view);
  return h("div", { class: "empty" },
    h("h1", { id: "title", tabindex: "-1" }, unknown ? "No such window" : "The daemon refused"),
    h("p", null, unknown ? `No window is named “${here.name}”. It may have left the configuration.` : error.message),
    error.status === 401 && h("p", null, "Load the page again to sign in."),
    h("p", null, h("a", { href: "#/" }, "All windows")));
}

function unseen(title) {
  return h("div", { class: "empty" }, h("h1", { id: "title", tabindex: "-1" }, title),
    h("p", null, "This has not been loaded yet. It appears as soon as the daemon answers."));
}

function lost() {
  return h("div", { class: "empty" }, h("h1", { id: "title", tabindex: "-1" }, "Nothing is here"),
    h("p", null, "This address means nothing. ", h("a", { href: "#/" }, "All windows")));
}

// Starts the view that the address names.
function navigate() {
  const before = place;
  place = route.parse(location.hash);
  const same = before && place && before.view === place.view && before.name === place.name && before.span === place.span;
  lacking(connection.look());
  const onlyEvent = same && place.view === "calendar" && before.date === place.date;
  event.show(place, onlyEvent);
  if (onlyEvent) return;
  document.body.classList.toggle("wall", place?.view === "board");
  running.abort();
  running = new AbortController();
  if (place === null) {
    document.title = "calmirror";
    show(lost());
    return;
  }
  const view = VIEWS[place.view];
  document.title = `${view.title(place)} – calmirror`;
  const title = view.title(place);
  if (!same && before) arriving = true;
  if (before && !connection.isAlive()) {
    // The daemon does not answer: show what was seen before.
    show(view.recall(place) ?? unseen(title));
  } else if (!same && before) {
    show(view.recall(place) ?? h("div", null, h("h1", { id: "title", tabindex: "-1" }, title)), { busy: true });
  }
  if (!same && before) scrollTo(0, 0);
  if (same && place.date) tell(title);
  if (!document.hidden) run(view, place, running.signal);
}

// A hidden page holds no connection: browsers allow six per host across all tabs.
document.addEventListener("visibilitychange", () => {
  running.abort();
  if (document.hidden || place === null) return;
  running = new AbortController();
  run(VIEWS[place.view], place, running.signal);
});

// Searches 200 ms after the last keystroke, without adding history entries.
let typing = 0;
document.addEventListener("input", ({ target }) => {
  if (target.id !== "q") return;
  clearTimeout(typing);
  typing = setTimeout(() => {
    history.replaceState(null, "", route.fleet({ q: target.value.trim(), state: place.state }));
    navigate();
  }, 200);
});
document.addEventListener("submit", (submitted) => submitted.preventDefault());

document.getElementById("skip").addEventListener("click", (clicked) => {
  clicked.preventDefault();
  main.focus();
});

async function about() {
  try {
    const { version, commit } = await api.status();
    document.getElementById("about").textContent = `calmirror ${version} (${commit})`;
  } catch {
    // The footer is not essential.
  }
}

document.getElementById("zone").textContent = zone;
addEventListener("hashchange", navigate);
event.begin(() => place);
navigate();
// Readers of a board may be refused the status.
if (place?.view !== "board") about();
