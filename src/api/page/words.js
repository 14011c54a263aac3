// What things are called, for people.

import { lasting } from "./dates.js";

// Each state: its word, what it means, and its tone (colour never says it alone).
export const STATES = {
  settled: ["settled", "everything is here and fresh", "good"],
  following: ["following", "asking for changes now", "good"],
  enumerating: ["enumerating", "reading everything from the beginning", "busy"],
  backing_off: ["backing off", "the last attempt failed; it is tried again", "bad"],
  held: ["held", "a removal too large to believe is being confirmed", "bad"],
  quarantined: ["quarantined", "the mailbox or calendar is gone or forbidden; it is retried slowly and the copy is kept", "bad"],
  sign_in_required: ["sign-in required", "somebody has to sign in or consent", "bad"],
  store_full: ["store full", "the disk is too full to write", "bad"],
};

export const TROUBLE = Object.keys(STATES).filter((state) => STATES[state][2] === "bad");

export const isStale = (window) => window.stale_s !== null && window.stale_s > 3 * window.interval_s;

// How a window is, in a word and a tone.
export function condition(window) {
  const [word, meaning, tone] = STATES[window.state] ?? [window.state, "", "busy"];
  if (tone !== "bad" && isStale(window)) return [`${word}, stale`, "no round has succeeded for more than three intervals", "bad"];
  return [word, meaning, tone];
}

export const since = (seconds) => (seconds === null || seconds === undefined ? "never" : `${lasting(seconds)} ago`);

export function until(time) {
  if (!time) return "–";
  const seconds = (Date.parse(time) - Date.now()) / 1000;
  return seconds < 1 ? "now" : `in ${lasting(seconds)}`;
}

export const count = (number) => number.toLocaleString();

export const many = (number, one, more = `${one}s`) => `${count(number)} ${number === 1 ? one : more}`;

const NOTHING = "no change";

// What a round did, short.
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
  requested: "somebody asked",
  round_stuck: "a round would not end",
  page_stuck: "a page could not be had",
  snapshot: "everything is listed in each round",
  segment_too_long: "Graph does not answer for so long a time at once",
  delta_retry: "delta is tried again",
  confirm: "a large removal was being confirmed",
  drift: "the audit found many differences",
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
  const anew = round.resync && `everything read anew: ${reason(round.resync)}`;
  const did = outcomeSaid(round);
  return [end, anew, (end === null || did !== NOTHING) && did].filter(Boolean).join("; ");
}

export const reason = (word) => REASONS[word] ?? word.replaceAll("_", " ");
