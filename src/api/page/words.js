// Texts for the user.

import { isAlive } from "./connection.js";
import { lasting } from "./dates.js";
import { h } from "./markup.js";

// Each state: its word, its meaning, and its tone (never shown by colour alone).
export const STATES = {
  settled: ["settled", "everything is here and fresh", "good"],
  following: ["following", "asking for changes now", "good"],
  enumerating: ["enumerating", "reading everything from the beginning", "busy"],
  backing_off: ["backing off", "the last attempt failed; it is tried again", "bad"],
  held: ["held", "a removal too large to believe is being confirmed", "bad"],
  quarantined: ["quarantined", "the mailbox or calendar is gone or forbidden; it is retried slowly and the copy is kept", "bad"],
  sign_in_required: ["sign-in required", "a person has to sign in or consent", "bad"],
  store_full: ["store full", "the disk is too full to write", "bad"],
};

export const TROUBLE = Object.keys(STATES).filter((state) => STATES[state][2] === "bad");

const command = (...words) => h("code", null, words.join(" "));

// A name, quoted so that a shell reads it as one word.
const quoted = (name) => (/^[A-Za-z0-9@._+:][A-Za-z0-9@._+:-]*$/.test(name) ? name : `'${name.replaceAll("'", "'\\''")}'`);

const NOTHING_TO_DO = "There is nothing to do.";

// What to do about each state, in the order of STATES.
const REMEDIES = {
  settled: () => NOTHING_TO_DO,
  following: () => NOTHING_TO_DO,
  enumerating: () => "There is nothing to do; the window settles when everything is read.",
  backing_off: (name) => ["It is tried again by itself. To try now: ", command("calmirror sync", name), "."],
  held: (name) => ["Wait, and what Graph lists at the next round is believed. To believe the removal now: ", command("calmirror resync", name, "--accept-removals"), "."],
  quarantined: (name) => ["Look at the mailbox’s address and licence, and at what the application may read; if it is gone for good, take the window out of the configuration. To try now: ", command("calmirror sync", name), "."],
  sign_in_required: (name) => ["Renew the secret or certificate of the account, or have an administrator consent. Then: ", command("calmirror sync", name), "."],
  store_full: () => "Free disk space; writing resumes by itself.",
};

// What to do about a window in its current state: text and commands.
export function remedy(window) {
  const name = quoted(window.name);
  if (STATES[window.state]?.[2] !== "bad" && isStale(window)) {
    return ["The daemon may be short of requests (graph.max_concurrent) or its log may say more. To try now: ", command("calmirror sync", name), "."];
  }
  return REMEDIES[window.state]?.(name) ?? NOTHING_TO_DO;
}

export const isStale = (window) => window.stale_s !== null && window.stale_s > 3 * window.interval_s;

// The state of a window: its word, meaning and tone.
export function condition(window) {
  const [word, meaning, tone] = STATES[window.state] ?? [window.state, "", "busy"];
  if (tone !== "bad" && isStale(window)) return [`${word}, stale`, "no round has succeeded for more than three intervals", "bad"];
  return [word, meaning, tone];
}

// A window's last success, as an age that keeps counting while the page is shown.
export function since({ stale_s: stale, received }) {
  if (stale === null || stale === undefined) return "never";
  const at = received - stale * 1000;
  return h("span", { "data-since": at }, age(at));
}

// The time left until an instant; it counts down.
export function until(time) {
  if (!time) return "–";
  const at = Date.parse(time);
  return h("span", { "data-until": at }, remaining(at));
}

const age = (at) => `${lasting((Date.now() - at) / 1000)} ago`;

function remaining(at) {
  const seconds = (at - Date.now()) / 1000;
  if (seconds < -60 || (seconds < 1 && !isAlive())) return `was due ${lasting(-seconds)} ago`;
  return seconds < 1 ? "now" : `in ${lasting(seconds)}`;
}

// Updates every age on the page.
export function tick() {
  for (const [name, text] of [["since", age], ["until", remaining]]) {
    for (const element of document.querySelectorAll(`[data-${name}]`)) {
      const now = text(Number(element.dataset[name]));
      if (element.textContent !== now) element.textContent = now;
    }
  }
}

export const count = (number) => number.toLocaleString();

export const many = (number, one, more = `${one}s`) => `${count(number)} ${number === 1 ? one : more}`;

// Where a room is, and for how many people; nothing for other windows.
export const where = ({ place }) => place &&
  [place.building, place.floor && `floor ${place.floor}`, place.capacity && `${count(place.capacity)} people`].filter(Boolean).join(", ");

const NOTHING = "no change";

// What a round changed, in short.
export function outcome(round) {
  const parts = [["+", round.created], ["~", round.updated], ["−", round.removed]].filter(([, number]) => number > 0);
  return parts.length === 0 ? NOTHING : parts.map(([sign, number]) => `${sign}${count(number)}`).join(" ");
}

export function outcomeSaid(round) {
  const parts = [["created", round.created], ["updated", round.updated], ["removed", round.removed]].filter(([, number]) => number > 0);
  return parts.length === 0 ? NOTHING : parts.map(([word, number]) => `${count(number)} ${word}`).join(", ");
}

const REASONS = {
  new: "the first enumeration",
  sync_state_not_found: "Graph had forgotten the link",
  window_moved: "the edges moved",
  shape_changed: "what is asked for changed",
  requested: "requested by a user",
  round_stuck: "a round would not end",
  page_stuck: "a page could not be fetched",
  snapshot: "everything is listed in each round",
  segment_too_long: "Graph refuses segments this long",
  delta_retry: "delta is tried again",
  confirm: "a large removal was being confirmed",
  drift: "the audit found many differences",
  seam: "interrupted segments waited for each other",
};

const ENDINGS = {
  settled: null,
  incomplete: "some series could not be completed",
  held: "a removal too large to believe waits to be confirmed",
  other: "its worker failed and was started again",
};

// How a round ended, in words.
export function ending(round) {
  const end = round.outcome in ENDINGS ? ENDINGS[round.outcome] : `failed: ${round.outcome.replaceAll("_", " ")}`;
  const resync = round.resync && `enumerated again: ${reason(round.resync)}`;
  const did = outcomeSaid(round);
  return [end, resync, (end === null || did !== NOTHING) && did].filter(Boolean).join("; ");
}

export const reason = (word) => REASONS[word] ?? word.replaceAll("_", " ");
