// Dates and times. Days are "YYYY-MM-DD" in the browser's zone, instants are milliseconds.

export const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
const locale = navigator.language || "en";

const two = (number) => String(number).padStart(2, "0");

export function isDate(text) {
  if (!/^\d{4}-\d{2}-\d{2}$/.test(text)) return false;
  const time = Date.parse(`${text}T00:00:00Z`);
  return !Number.isNaN(time) && new Date(time).toISOString().startsWith(text);
}

export function dayOf(instant) {
  const date = new Date(instant);
  return `${String(date.getFullYear()).padStart(4, "0")}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
}

export const today = () => dayOf(Date.now());

// The instant at which a day begins in the browser's zone.
export function startOf(day) {
  const [year, month, date] = day.split("-").map(Number);
  return new Date(year, month - 1, date).getTime();
}

export function addDays(day, count) {
  const [year, month, date] = day.split("-").map(Number);
  return new Date(Date.UTC(year, month - 1, date + count)).toISOString().slice(0, 10);
}

export function addMonths(day, count) {
  const [year, month, date] = day.split("-").map(Number);
  const last = new Date(Date.UTC(year, month + count, 0)).getUTCDate();
  return new Date(Date.UTC(year, month - 1 + count, Math.min(date, last))).toISOString().slice(0, 10);
}

const weekday = (day) => new Date(`${day}T00:00:00Z`).getUTCDay();

// The first day of the week in the user's locale, 0 for Sunday; Monday if the browser lacks it.
function firstWeekday() {
  try {
    const known = new Intl.Locale(locale);
    return (known.getWeekInfo?.() ?? known.weekInfo).firstDay % 7;
  } catch {
    return 1;
  }
}

export function weekOf(day) {
  const first = addDays(day, -((weekday(day) - firstWeekday() + 7) % 7));
  return Array.from({ length: 7 }, (_, number) => addDays(first, number));
}

// The whole weeks that contain the month of a day.
export function weeksOf(day) {
  const first = `${day.slice(0, 7)}-01`;
  const weeks = [weekOf(first)];
  for (let next = addDays(weeks[0][0], 7); next.slice(0, 7) === day.slice(0, 7); next = addDays(next, 7)) {
    weeks.push(weekOf(next));
  }
  return weeks;
}

// Minutes since midnight on the local clock.
export function minutesOf(instant) {
  const date = new Date(instant);
  return date.getHours() * 60 + date.getMinutes();
}

const written = (options) => {
  const format = new Intl.DateTimeFormat(locale, options);
  return (instant) => format.format(instant);
};
const writtenDay = (options) => {
  const format = new Intl.DateTimeFormat(locale, { ...options, timeZone: "UTC" });
  return (day) => format.format(Date.parse(`${day}T00:00:00Z`));
};

export const clock = written({ hour: "2-digit", minute: "2-digit" });
export const moment = written({ dateStyle: "medium", timeStyle: "medium" });
export const longDay = writtenDay({ weekday: "long", day: "numeric", month: "long", year: "numeric" });
export const shortWeekday = writtenDay({ weekday: "short" });
export const longWeekday = writtenDay({ weekday: "long" });
export const shortDay = writtenDay({ day: "numeric", month: "short", year: "numeric" });
export const month = writtenDay({ month: "long", year: "numeric" });
export const numberOf = (day) => String(Number(day.slice(8)));

const hourFormat = new Intl.DateTimeFormat(locale, { hour: "numeric", timeZone: "UTC" });
export const hour = (number) => hourFormat.format(number * 3_600_000);

// A duration in the coarsest useful unit.
export function lasting(seconds) {
  if (seconds < 100) return `${Math.max(0, Math.round(seconds))} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172_800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86_400)} d`;
}

// How far a zone is ahead of UTC at an instant, in milliseconds.
function ahead(format, instant) {
  const parts = Object.fromEntries(format.formatToParts(instant).map(({ type, value }) => [type, Number(value)]));
  const shown = Date.UTC(parts.year, parts.month - 1, parts.day, parts.hour, parts.minute, parts.second);
  return shown - Math.floor(instant / 1000) * 1000;
}

const formats = new Map([["UTC", null]]);

// Loads zones by the names that Graph uses; `ask` resolves Windows names through the daemon. An
// unknown zone counts as UTC.
export async function learn(names, ask) {
  for (const name of new Set(names)) {
    if (formats.has(name)) continue;
    let format = formatIn(name);
    if (format === undefined) {
      const known = await ask(name);
      format = known ? formatIn(known) : null;
    }
    formats.set(name, format ?? null);
  }
}

function formatIn(timeZone) {
  try {
    return new Intl.DateTimeFormat("en-US", {
      timeZone, hourCycle: "h23", year: "numeric", month: "numeric", day: "numeric", hour: "numeric", minute: "numeric", second: "numeric",
    });
  } catch {
    return undefined;
  }
}

// The instant of Graph's {"dateTime", "timeZone"}; NaN if it is invalid.
export function instantOf(when) {
  const civil = Date.parse(`${String(when?.dateTime).slice(0, 19)}Z`);
  const format = formats.get(when?.timeZone ?? "UTC");
  if (!format || Number.isNaN(civil)) return civil;
  // Computed twice, because the offset may change between the guess and the instant.
  const guess = civil - ahead(format, civil);
  return civil - ahead(format, guess);
}
