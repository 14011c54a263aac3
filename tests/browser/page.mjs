// Tests the page in a real browser, against the API. Run by tests/packaging/browser.sh.
//
//   node page.mjs PROGRAM SCRATCH MODULES CHROMIUM
//
// CALMIRROR_SCREENSHOTS   a directory for screenshots of every view
// CALMIRROR_WINDOWS       the number of windows of the large fleet (100000)
// CALMIRROR_ONLY          a pattern of the checks to run: fleet, calendars, live, dead, months, states, rounds, keyboard, forms, masked, availability, shards, large
// CALMIRROR_PAGE          a directory with files that replace the daemon's page, for experiments

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

import { availability } from "./availability.mjs";
import { Rig, TOKEN, check, fail, same, sleep, until } from "./rig.mjs";
import { shards } from "./shards.mjs";

const [program, scratch, modules, chrome] = process.argv.slice(2);
const require = createRequire(join(modules, "x.js"));
const { chromium } = require("playwright-core");
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

const DAY = 86_400_000;
const WHERE = { light: { viewport: { width: 1280, height: 860 } }, dark: { viewport: { width: 1280, height: 860 }, colorScheme: "dark" }, phone: { viewport: { width: 390, height: 844 } } };

const browser = await chromium.launch({ executablePath: chrome, args: ["--no-sandbox", "--disable-gpu", "--disable-quic"] });
// Errors that the browser reports: a violated policy, a failing script.
const complaints = [];
// Failing requests are expected while the daemon is down.
let away = false;

// `before` prepares the page before it is loaded.
async function open(rig, hash, options = {}, before = async () => {}) {
  const context = await browser.newContext({
    ...WHERE.light, timezoneId: "Europe/Berlin", locale: "en-GB", httpCredentials: { username: "", password: TOKEN }, ...options,
  });
  if (process.env.CALMIRROR_PAGE) await context.route(/\/(page\/[a-z]+\.[a-z]+)?$/, instead);
  const page = await context.newPage();
  page.on("console", (said) => {
    if (said.type() === "error" && !(away && said.text().startsWith("Failed to load resource"))) complaints.push(said.text());
  });
  page.on("pageerror", (error) => complaints.push(error.message));
  page.on("dialog", (dialog) => {
    complaints.push("a script of an event ran");
    dialog.dismiss();
  });
  page.on("request", (request) => {
    if (!request.url().startsWith(rig.origin)) complaints.push(`asked ${request.url()}`);
  });
  await page.addInitScript(() => addEventListener("securitypolicyviolation", (event) => console.error(`violates ${event.violatedDirective}`)));
  await before(page);
  await page.goto(`${rig.origin}/${hash}`);
  await ready(page);
  return page;
}

// The daemon's response headers with another body.
async function instead(route) {
  const name = new URL(route.request().url()).pathname.replace(/^\/(page\/)?/, "") || "index.html";
  const response = await route.fetch().catch(() => null);
  if (response === null) return route.abort();
  await route.fulfill({ response, body: readFileSync(join(process.env.CALMIRROR_PAGE, name)) });
}

const ready = (page) => page.waitForSelector("main:not([aria-busy]) #title", { timeout: 20_000 });
const ways = { health: "", day: "/day/", week: "/week/", month: "/month/" };
const at = (name, view, day) => `#/windows/${encodeURIComponent(name)}${ways[view]}${view === "health" ? "" : day}`;

async function go(page, hash) {
  await page.evaluate((to) => (location.hash = to), hash);
  await ready(page);
}

// Closes an event. The page goes back in history a moment later, which would undo a navigation made
// meanwhile.
async function escape(page, address) {
  await page.keyboard.press("Escape");
  await until("the dialog closes", async () => (await page.locator("dialog[open]").count()) === 0);
  await until("the address is the calendar's again", () => page.url().endsWith(address));
}

// ---- the days of a zone, computed independently of the page

const civil = (zone, instant) => new Date(instant).toLocaleString("sv-SE", { timeZone: zone });
const dayIn = (zone, instant) => civil(zone, instant).slice(0, 10);
const plus = (day, count) => new Date(Date.parse(day) + count * DAY).toISOString().slice(0, 10);

// The first and the last day of an event.
function daysOf(zone, event) {
  const [start, end] = [event.start, event.end].map(({ dateTime }) => Date.parse(`${dateTime.slice(0, 19)}Z`));
  if (event.isAllDay) return [event.start.dateTime.slice(0, 10), plus(event.end.dateTime.slice(0, 10), -1)];
  return [dayIn(zone, start), dayIn(zone, Math.max(start, end - 1))];
}

const monday = (day) => plus(day, -((new Date(day).getUTCDay() + 6) % 7));

async function expected(rig, zone, name, first, last) {
  const all = await rig.events(name, Date.parse(first) - 2 * DAY, Date.parse(last) + 3 * DAY);
  const on = new Map();
  for (let day = first; day <= last; day = plus(day, 1)) {
    on.set(day, all.filter((event) => {
      const [from, to] = daysOf(zone, event);
      return from <= day && day <= to;
    }));
  }
  return on;
}

const idOf = (href) => decodeURIComponent(href.split("/").at(-1));

// ---- the checks

async function fleet(rig) {
  const page = await open(rig, "");
  await page.waitForSelector("table.fleet tbody tr");
  const { windows } = await rig.api("/v1/status");
  const rows = await page.locator("table.fleet tbody tr").count();
  check("the fleet shows as many windows as the API", rows === Math.min(50, windows.total), `${rows} of ${windows.total}`);
  const names = await page.locator("table.fleet tbody th a").allTextContents();
  const listed = (await rig.api("/v1/windows?order=trouble&limit=50")).value.map(({ name }) => name);
  check("the fleet is in the API's order", same([...names].sort(), [...listed].sort()));
  check("the filter says how many there are", (await page.locator(".chip b").first().textContent()) === String(windows.total));

  const wanted = names[Math.floor(names.length / 2)];
  await page.fill("#q", wanted.slice(0, 6));
  const matching = (await rig.api(`/v1/windows?q=${encodeURIComponent(wanted.slice(0, 6))}`)).value.map(({ name }) => name);
  await until("the search narrows the fleet", async () => same((await page.locator("table.fleet tbody th a").allTextContents()).sort(), matching.sort()));
  check("searching shows what the API finds, and the address says so", page.url().includes("q="), page.url());
  await page.reload();
  check("a search is in the address, and survives a reload", (await page.inputValue("#q")) === wanted.slice(0, 6));
  await page.fill("#q", "nobody is called this");
  await page.waitForSelector(".empty");
  await page.fill("#q", "");

  // Failing windows come first, with their state in words.
  const victim = names.at(-1);
  await rig.control("faults", { fault: "mailbox", how: "access_denied", mailbox: victim });
  await until("trouble comes first", async () => (await page.locator("table.fleet tbody tr").first().textContent()).includes(victim), 15_000);
  const first = await page.locator("table.fleet tbody tr").first().textContent();
  check("a window in trouble comes first and says so in words", first.includes("quarantined"), first);
  await page.click("a.chip.bad");
  await until("the filter leaves those in trouble", async () => (await page.locator("table.fleet tbody tr").count()) === 1);
  await rig.control("faults", undefined, "DELETE");
  check("the filter leaves those in trouble", true);
  await page.context().close();
  await refused(rig);
  return victim;
}

// A list that is refused is asked for again and again, and must not hold a request each time: browsers
// allow six connections.
async function refused(rig) {
  const held = new Set();
  away = true;
  const page = await open(rig, "#/?state=nonsense", {}, async (page) => {
    page.on("request", (request) => request.url().includes("/v1/changes") && held.add(request));
    page.on("requestfinished", (request) => held.delete(request));
    page.on("requestfailed", (request) => held.delete(request));
  });
  let most = 0;
  for (const end = Date.now() + 10_000; Date.now() < end; await sleep(100)) most = Math.max(most, held.size);
  check(`while a list is refused the page holds ${most} request at most`, most <= 2);
  await page.context().close();
  away = false;
}

async function calendars(rig, name, day) {
  for (const zone of ["Europe/Berlin", "America/Los_Angeles", "Asia/Kolkata"]) {
    const page = await open(rig, at(name, "week", day), { timezoneId: zone });
    await page.waitForSelector(".grid");
    const first = monday(day);
    const week = await expected(rig, zone, name, first, plus(first, 6));
    const shown = await page.evaluate(() => [...document.querySelectorAll(".column")].map((column) =>
      [column.dataset.key, [...new Set([...column.querySelectorAll("a.event")].map((link) => link.getAttribute("href")))]]));
    for (const [key, hrefs] of shown) {
      const ids = hrefs.map(idOf).sort();
      const api = week.get(key).map(({ id }) => id).sort();
      if (!same(ids, api)) fail(`${zone}, ${key}: the page shows ${ids.length}, the API has ${api.length}`);
    }
    const bars = new Set((await page.locator(".bars a.event").evaluateAll((links) => links.map((link) => link.getAttribute("href")))).map(idOf));
    const long = new Set([...week.values()].flat().filter((event) => event.isAllDay || Date.parse(event.end.dateTime) - Date.parse(event.start.dateTime) >= DAY).map(({ id }) => id));
    if (!same([...bars].sort(), [...long].sort())) fail(`${zone}: ${bars.size} bars for ${long.size} long events`);
    let times = 0;
    for (const event of [...week.values()].flat()) {
      if (long.has(event.id)) continue;
      const clock = civil(zone, Date.parse(`${event.start.dateTime.slice(0, 19)}Z`)).slice(11, 16);
      const texts = await page.locator(`.column ol a.event[href$="/${encodeURIComponent(event.id)}"] .time`).allTextContents();
      if (!texts.some((text) => text.startsWith(clock))) fail(`${zone}: ${clock} is shown as ${texts}`);
      times += 1;
    }
    const count = [...week.values()].flat().length;
    check(`a week in ${zone} shows the API's events on their days, ${count} of them, ${times} with their time, ${long.size} as bars`, times > 5 && long.size > 2);

    await go(page, at(name, "month", day));
    await page.waitForSelector("table.month");
    const cells = await page.evaluate(() => [...document.querySelectorAll("table.month td")].map((cell) => [cell.dataset.key, cell.querySelector(".number").getAttribute("aria-label")]));
    const month = await expected(rig, zone, name, cells[0][0], cells.at(-1)[0]);
    for (const [key, label] of cells) {
      const number = Number(label.match(/(\d+) events?$/)[1]);
      if (number !== month.get(key).length) fail(`${zone}, ${key}: ${label}, the API has ${month.get(key).length}`);
    }
    const more = await page.locator("table.month .more").count();
    check(`a month in ${zone} counts the API's events on ${cells.length} days; ${more} have more than fit`, cells.length >= 28);

    await go(page, at(name, "day", day));
    await page.waitForSelector(".grid.day");
    const ids = (await page.locator(".column a.event").evaluateAll((links) => links.map((link) => link.getAttribute("href")))).map(idOf);
    const api = (await expected(rig, zone, name, day, day)).get(day).map(({ id }) => id);
    check(`a day in ${zone} shows the API's events`, same([...new Set(ids)].sort(), api.sort()), `${ids.length} for ${api.length}`);
    await page.context().close();
  }
}

// Overlapping events are placed side by side: no two overlap on the page.
async function beside(page) {
  const boxes = await page.evaluate(() => [...document.querySelectorAll(".column")].map((column) => [...column.querySelectorAll("ol a.event")].map((link) => {
    const { x, y, right, bottom } = link.getBoundingClientRect();
    return { x, y, right, bottom };
  })));
  let beside = 0;
  for (const column of boxes) {
    for (const [index, a] of column.entries()) {
      for (const b of column.slice(index + 1)) {
        const vertical = Math.min(a.bottom, b.bottom) - Math.max(a.y, b.y);
        const horizontal = Math.min(a.right, b.right) - Math.max(a.x, b.x);
        if (vertical > 3 && horizontal > 1) fail(`two events overlap by ${horizontal} × ${vertical} px`);
        if (vertical > 3) beside += 1;
      }
    }
  }
  return beside;
}

async function live(rig, name, day) {
  const page = await open(rig, at(name, "week", day));
  await page.waitForSelector(".grid");
  await sleep(500);
  const start = `${day}T10:00:00Z`;
  const hostile = `<img src=x onerror=alert(1)><script>alert(2)</script> "Ünïcode" & 'quotes'`;
  const steps = [
    ["created", { edit: "create_single", subject: "A first look", start, minutes: 45 }, () => page.locator("a.event", { hasText: "A first look" }).count()],
    ["beside it", { edit: "create_single", subject: hostile, start, minutes: 60 }, () => page.locator("a.event", { hasText: hostile }).count()],
    ["renamed", { edit: "rename", subject: "Another name" }, () => page.locator("a.event", { hasText: "Another name" }).count()],
    ["deleted", { edit: "delete" }, async () => (await page.locator("a.event", { hasText: "Another name" }).count()) === 0],
  ];
  let event = null;
  let slowest = 0;
  for (const [what, mutation, seen] of steps) {
    const cursor = await rig.now();
    const told = rig.feed(cursor, (change) => change.window === name);
    const done = await rig.control("mutate", { mailbox: name, ...(mutation.edit.startsWith("create") ? {} : { event }), ...mutation });
    if (what === "created") event = done.id;
    rig.sync(name).catch(() => {});
    const committed = await told;
    await until(`${what} is seen`, seen);
    slowest = Math.max(slowest, Date.now() - committed);
  }
  check(`what is created, renamed and deleted is seen within a second of the feed (slowest ${slowest} ms)`, slowest < 1000);
  const text = await page.locator("a.event .subject", { hasText: "Ünïcode" }).first().textContent();
  check("markup in a subject is text", text === hostile, text);
  check(`overlapping events stand beside each other`, (await beside(page)) >= 0);

  // An event, its dialog, and back.
  const link = page.locator("ol a.event", { hasText: "Ünïcode" }).first();
  await link.focus();
  await page.keyboard.press("Enter");
  await page.waitForSelector("dialog[open] #event-title");
  check("an event opens in a dialog and has an address", (await page.locator("dialog #event-title").textContent()) === hostile && page.url().split("/").length > 7);
  const bookmark = page.url();
  await escape(page, `/week/${day}`);
  check("Escape closes it and gives the focus back", await link.evaluate((node) => node === document.activeElement));
  await page.goto(bookmark);
  await page.reload();
  await page.waitForSelector("dialog[open] #event-title");
  check("a bookmark of an event opens it", true);
  await escape(page, `/week/${day}`);

  // The daemon is killed, the calendar changes, the daemon comes back.
  await page.reload();
  await page.waitForSelector(".grid");
  away = true;
  await rig.kill();
  await until("the page says that it is not connected", async () => (await page.locator("#live-word").textContent()) === "Not connected");
  const kept = await page.locator("a.event").count();
  await rig.control("mutate", { mailbox: name, edit: "create_single", subject: "While you were away", start, minutes: 30 });
  await rig.run();
  const back = Date.now();
  await until("what changed meanwhile is shown", async () => (await page.locator("a.event", { hasText: "While you were away" }).count()) > 0, 20_000);
  away = false;
  check(`a page outlives kill -9 of its daemon: what was shown stayed, and ${((Date.now() - back) / 1000).toFixed(1)} s after the restart it shows what changed meanwhile`,
    kept > 0 && (await page.locator("#live-word").textContent()) === "Live");

  // Another store at the same address: cursors of the old one are invalid there.
  const fleetPage = await open(rig, "");
  away = true;
  await rig.kill();
  await until("the fleet says that it is not connected", async () => (await fleetPage.locator("#live-word").textContent()) === "Not connected");
  await rig.run();
  await until("the fleet is live again", async () => (await fleetPage.locator("#live-word").textContent()) === "Live", 20_000);
  away = false;
  check("the fleet outlives it as well", true);
  await fleetPage.context().close();

  // A hidden page closes its connection, a visible one opens it again.
  await page.evaluate(() => {
    Object.defineProperty(document, "hidden", { value: true, configurable: true });
    document.dispatchEvent(new Event("visibilitychange"));
  });
  await rig.control("mutate", { mailbox: name, edit: "create_single", subject: "While you looked away", start, minutes: 30 });
  await rig.sync(name);
  await sleep(300);
  const unseen = await page.locator("a.event", { hasText: "While you looked away" }).count();
  await page.evaluate(() => {
    delete document.hidden;
    document.dispatchEvent(new Event("visibilitychange"));
  });
  await until("it is shown again", async () => (await page.locator("a.event", { hasText: "While you looked away" }).count()) > 0);
  check("a hidden page asks nothing, a shown one catches up", unseen === 0);
  await page.context().close();
}

// A page without its daemon says so and since when, does not look live, keeps every view, and
// continues by itself.
async function dead(rig, name, day) {
  const page = await open(rig, "");
  await page.waitForSelector("table.fleet tbody tr");
  const shows = { fleet: "table.fleet tbody tr", health: "#facts", day: ".grid.day", week: ".grid.week", month: "table.month" };
  const hashOf = (view) => (view === "fleet" ? "#/" : at(name, view, day));
  for (const view of ["week", "month", "fleet"]) {
    await go(page, hashOf(view));
    await page.waitForSelector(shows[view]);
  }
  const colour = () => page.locator("table.fleet .state .dot").first().evaluate((dot) => getComputedStyle(dot).color);
  const alive = await colour();
  check("while the daemon answers there is no notice", !(await page.locator("#away").isVisible()));
  away = true;
  await rig.kill();
  await page.waitForSelector("#away:not([hidden])");
  const grey = await page.evaluate(() => {
    const probe = document.body.appendChild(document.createElement("i"));
    probe.className = "quiet";
    const { color } = getComputedStyle(probe);
    probe.remove();
    return color;
  });
  check("states turn grey", (await colour()) === grey && grey !== alive, `${await colour()}, not ${grey}`);
  const box = await page.locator("#away").boundingBox();
  check("the notice is as wide as the page", box.width === page.viewportSize().width, JSON.stringify(box));
  const seconds = (text) => Number(text.match(/(\d+) s/)?.[1]);
  const told = async () => seconds(await page.locator("#away").textContent());
  const first = await told();
  const age = () => page.locator("table.fleet tbody td[data-label='Last success'] [data-since]").first().textContent();
  const young = await age();
  await until("the notice and the ages count on", async () => (await told()) > first + 1 && (await age()) !== young);
  check("the notice says for how long, and ages count on", true);
  for (const [view, shown] of Object.entries(shows)) {
    await page.evaluate((to) => (location.hash = to), hashOf(view));
    await page.waitForSelector(shown, { timeout: 3000 });
    const empty = await page.locator(".empty").count();
    check(`without a daemon ${view} shows what is known, and the notice`, empty === 0 && (await page.locator("#away").isVisible()));
    await accessible(page, `${view} without a daemon`);
  }
  const far = at(name, "week", plus(day, 400));
  await page.evaluate((to) => (location.hash = to), far);
  await page.waitForSelector(".notice[data-key=partial]", { timeout: 3000 });
  check("days that were never loaded are said to be missing", true);
  await rig.run();
  await until("the page goes on", async () => !(await page.locator("#away").isVisible()), 20_000);
  await until("the missing days are loaded", async () => (await page.locator(".notice[data-key=partial]").count()) === 0, 20_000);
  check("when the daemon is back the page continues by itself", (await page.locator("#live-word").textContent()) === "Live");

  // A hanging daemon accepts connections and does not respond.
  await go(page, "#/");
  rig.daemon.kill("SIGSTOP");
  await page.waitForSelector("#away:not([hidden])", { timeout: 30_000 });
  check("a daemon that hangs is noticed", true);
  rig.daemon.kill("SIGCONT");
  await until("it goes on", async () => !(await page.locator("#away").isVisible()), 30_000);
  away = false;
  await page.context().close();
}

// Weeks of a month have equal heights and show the events that fit; "+N" leads to the day.
async function months(rig, name, day) {
  for (const height of [700, 900, 1500]) {
    const page = await open(rig, at(name, "month", day), { viewport: { width: 1280, height } });
    await page.waitForSelector("table.month");
    const rows = await page.locator("table.month tbody tr").evaluateAll((all) => all.map((row) => row.getBoundingClientRect().height));
    const spread = Math.max(...rows) - Math.min(...rows);
    const blank = await page.locator("table.month td:has(.more)").evaluateAll((cells) =>
      cells.map((cell) => cell.getBoundingClientRect().bottom - cell.querySelector(".more").getBoundingClientRect().bottom));
    const line = await page.locator("table.month li").first().evaluate((item) => item.getBoundingClientRect().height + 2);
    check(`at ${height} px all weeks of a month are of one height and full (${Math.round(rows[0])} px, ${blank.length} with more)`,
      spread <= 2 && blank.every((rest) => rest >= 0 && rest < line + 12), `${rows}; ${blank.map(Math.round)}`);
    if (blank.length > 0 && height === 700) {
      const more = page.locator("table.month .more").first();
      const cell = await page.locator("table.month td:has(.more)").first().getAttribute("data-key");
      await more.click();
      await page.waitForSelector(".grid.day");
      check("+N opens the day", page.url().endsWith(`/day/${cell}`), page.url());
    }
    await page.context().close();
  }
}

// The health view of each state says since when, until when and what to do.
async function states(rig, name, day) {
  const page = await open(rig, "");
  let pretended = {};
  await page.route(`**/v1/windows/${encodeURIComponent(name)}`, async (route) => {
    const response = await route.fetch();
    await route.fulfill({ response, json: { ...(await response.json()), ...pretended } });
  });
  const told = new Set();
  for (const state of ["settled", "following", "enumerating", "backing_off", "held", "quarantined", "sign_in_required", "store_full", "stale"]) {
    pretended = state === "stale" ? { state: "settled", stale_s: 99_999 } : { state };
    await go(page, "#/");
    await go(page, at(name, "health", day));
    await page.waitForSelector("#facts");
    const section = page.locator("section[aria-labelledby=trouble]");
    const text = await section.locator("p").first().textContent();
    const times = await section.locator("dl").textContent();
    if (text.length < 30 || !times.includes("Last success") || !times.includes("Next attempt")) fail(`${state}: ${text} ${times}`);
    const command = /calmirror (sync|resync)|nothing to do|Free disk space/.test(text);
    if (!command) fail(`${state} has no remedy: ${text}`);
    told.add(text);
  }
  check("the health of each state says when and what to do", told.size === 9);
  await page.context().close();
}

// The recorded rounds of a window, also for a screen reader.
async function rounds(rig, name, day) {
  const page = await open(rig, at(name, "health", day));
  const path = `/v1/windows/${encodeURIComponent(name)}/rounds`;
  for (const subject of ["One", "Two"]) {
    await rig.control("mutate", { mailbox: name, edit: "create_single", subject, start: `${day}T05:00:00Z`, minutes: 15 });
    await rig.sync(name);
  }
  const { value } = await rig.api(path);
  check("the daemon remembers the rounds in which something happened", value.length >= 2 && value.every((round) => round.created > 0 || round.requests > 1), JSON.stringify(value));
  const row = (round) => `${round.number} ${round.requests} ${round.created}`;
  const shown = () => page.locator("table.rounds tbody tr:not(.still)").evaluateAll((rows) => rows.map((row) => {
    const [number, , , requests, , outcome] = [...row.children].map((cell) => cell.textContent.replaceAll(",", ""));
    return `${number} ${requests} ${outcome.match(/(\d+) created/)?.[1] ?? 0}`;
  }));
  await until("the page shows them", async () => same(await shown(), value.map(row)));
  await until("quiet rounds", async () => (await page.locator("table.rounds tr.still").first().textContent()).includes("in which nothing changed; the last ended"));
  const table = await page.getByRole("region", { name: "Table of rounds" }).getByRole("table").ariaSnapshot();
  check("the page shows them newest first, counts the quiet ones, and says so in a table", table.includes("columnheader \"Outcome\"") && table.includes("something happened"), table);
  await page.context().close();
}

// From the fleet to an event and back with the keyboard only.
async function keyboard(rig, name, day) {
  const page = await open(rig, "");
  await page.waitForSelector("table.fleet tbody tr");
  const focused = () => page.evaluate(() => {
    const on = document.activeElement;
    return { text: on.textContent.trim(), id: on.id, tag: on.tagName, outlined: getComputedStyle(on).outlineStyle !== "none" };
  });
  const tabTo = async (what, found) => {
    for (let tries = 0; tries < 120; tries += 1) {
      await page.keyboard.press("Tab");
      const on = await focused();
      if (found(on)) {
        if (!on.outlined) fail(`the focus on ${what} cannot be seen`);
        return;
      }
    }
    fail(`${what} cannot be reached by Tab`);
  };
  await tabTo("the skip link", (on) => on.id === "skip");
  await page.keyboard.press("Enter");
  check("the first Tab is a way past the head", (await focused()).tag === "MAIN" && !page.url().includes("#main"));
  await tabTo("the search", (on) => on.id === "q");
  await page.keyboard.type(name);
  await until("one is left", async () => (await page.locator("table.fleet tbody tr").count()) === 1);
  check("typing keeps the focus while the fleet is drawn anew", (await focused()).id === "q");
  await tabTo("the window", (on) => on.text === name);
  await page.keyboard.press("Enter");
  await page.waitForSelector("section[aria-labelledby=facts]");
  check("a new view takes the focus to its heading", (await focused()).id === "title");
  await tabTo("Week", (on) => on.text === "Week");
  await page.keyboard.press("Enter");
  await page.waitForSelector(".grid");
  await go(page, at(name, "week", day));
  await page.waitForSelector("ol a.event");
  await tabTo("next week", (on) => on.text === "›");
  await page.keyboard.press("Enter");
  await until("the next week", () => page.url().endsWith(plus(day, 7)));
  const back = page.locator("a", { hasText: "‹" });
  await until("the next week's links", async () => (await back.getAttribute("href")).endsWith(day));
  check("going on a week keeps the focus where it was", (await focused()).text === "›");
  await page.keyboard.press("Shift+Tab");
  await page.keyboard.press("Shift+Tab");
  await page.keyboard.press("Enter");
  await until("back to the week", () => page.url().endsWith(day));
  await page.waitForSelector(".column ol a.event");
  await tabTo("an event", (on) => on.tag === "A" && on.text.includes("–"));
  await page.keyboard.press("Enter");
  await page.waitForSelector("dialog[open]");
  const inside = () => page.evaluate(() => document.querySelector("dialog").contains(document.activeElement));
  const took = await inside();
  for (let step = 0; step < 4; step += 1) {
    await page.keyboard.press("Tab");
    // Between the dialog's last and first element the browser's own controls have the focus; here
    // that is the body.
    if (!(await inside()) && (await focused()).tag !== "BODY") fail("the focus leaves the dialog for what is below it");
  }
  check("the dialog takes and keeps the focus", took);
  await escape(page, `/week/${day}`);
  for (let step = 0; step < 12 && !page.url().match(/#\/(\?|$)/); step += 1) {
    await page.goBack();
    await sleep(100);
  }
  await page.waitForSelector("table.fleet");
  check("back leads through the views to the fleet", page.url().includes("#/"));
  await page.context().close();
}

// Every view in every form: nothing overflows, and the accessibility checker finds nothing.
async function forms(rig, name, day, victim) {
  const views = { fleet: "#/", trouble: at(victim, "health", day), health: at(name, "health", day), day: at(name, "day", day), week: at(name, "week", day), month: at(name, "month", day) };
  let passes = 0;
  const grounds = {};
  for (const [form, options] of Object.entries(WHERE)) {
    const page = await open(rig, "", options);
    for (const [view, hash] of Object.entries(views)) {
      await go(page, hash);
      await page.waitForSelector({ fleet: "table.fleet tbody tr", trouble: "#facts", health: "#facts", month: "table.month" }[view] ?? ".grid");
      await sleep(150);
      const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
      if (wide > 0) fail(`${view} (${form}) is ${wide} px too wide`);
      passes += await accessible(page, `${view} (${form})`);
      if (view === "week") {
        const link = form === "phone" ? page.locator(".column a.event").first() : page.locator("ol a.event").first();
        await link.click();
        await page.waitForSelector("dialog[open] #event-title");
        passes += await accessible(page, `event (${form})`);
        await escape(page, `/week/${day}`);
      }
    }
    grounds[form] = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    await page.context().close();
  }
  check("nothing is wider than the screen, 390 px included", true);
  check(`axe has no objection to any view, light, dark and narrow (${passes} rules passed)`, passes > 0);
  check("dark is dark", grounds.dark !== grounds.light, JSON.stringify(grounds));

  const page = await open(rig, at(name, "week", day), { reducedMotion: "reduce" });
  const moving = await page.evaluate(() => [...document.querySelectorAll("*")].filter((one) => getComputedStyle(one).animationName !== "none").length);
  check("nothing moves for those who want it so", moving === 0, moving);
  await page.context().close();
}

async function accessible(page, what) {
  // Content scrolled away under the headers is unreachable, which axe reports as too small.
  await page.evaluate(() => document.querySelector(".grid")?.scrollTo(0, 0));
  await page.evaluate(axe);
  const { violations, passes } = await page.evaluate(() => globalThis.axe.run({ runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"] }));
  if (violations.length > 0) {
    fail(`${what}: ${violations.map(({ id, nodes }) => `${id} at ${nodes.slice(0, 3).map(({ target, failureSummary }) => `${target} (${failureSummary})`).join(" | ")}`).join("; ")}`);
  }
  return passes.length;
}

// Private events when the daemon masks them.
async function masked(rig, name, day) {
  const first = monday(day);
  const events = await rig.events(name, Date.parse(first), Date.parse(first) + 60 * DAY);
  const one = events.find((event) => event.sensitivity === "private" && !event.isAllDay) ?? fail("no private event to look at");
  if ("subject" in one) fail("the API does not mask");
  const page = await open(rig, `${at(name, "day", one.start.dateTime.slice(0, 10))}`);
  const link = page.locator(`.column a.event.masked[href$="/${encodeURIComponent(one.id)}"]`).first();
  check("a masked event is shown as private and as nothing else", (await link.locator(".subject").textContent()) === "Private" && (await link.locator(".where").count()) === 0);
  await page.context().close();
}

async function large(rig, count) {
  const page = await open(rig, "");
  await page.waitForSelector("table.fleet tbody tr");
  const { windows } = await rig.api("/v1/status");
  if (windows.total !== count) fail(`${windows.total} windows, not ${count}`);
  const took = {};
  const time = async (what, act, done) => {
    const began = Date.now();
    await act();
    await until(what, done, 20_000);
    took[what] = Date.now() - began;
  };
  await time("open", () => page.reload(), async () => (await page.locator("table.fleet tbody tr").count()) === 50);
  const wanted = `user${String(count - 77).padStart(6, "0")}`;
  await time("search", () => page.fill("#q", wanted), async () => (await page.locator("table.fleet tbody th a").allTextContents()).join() === `${wanted}@contoso.example`);
  await time("all again", () => page.fill("#q", ""), async () => (await page.locator("table.fleet tbody tr").count()) === 50);
  const first = await page.locator("table.fleet tbody th a").first().textContent();
  await time("next page", () => page.click(".pager a"), async () => (await page.locator("table.fleet tbody th a").first().textContent()) !== first);
  const nodes = await page.evaluate(() => document.querySelectorAll("*").length);
  const said = Object.entries(took).map(([what, ms]) => `${what} ${ms} ms`).join(", ");
  check(`${count.toLocaleString("en")} windows: ${said}; ${nodes} elements`, nodes < 2500 && Object.values(took).every((ms) => ms < 5000), said);
  await page.context().close();
}

async function pictures(rig, name, day, directory) {
  const [first, second] = (await rig.api("/v1/windows?q=room")).value.map((window) => window.name);
  await rig.control("faults", { fault: "mailbox", how: "access_denied", mailbox: first });
  await rig.control("faults", { fault: "throttled", retry_after: "30", mailbox: second });
  await until("trouble", async () => (await rig.api("/v1/status")).windows.unhealthy >= 2, 20_000);
  for (const [form, options] of Object.entries(WHERE)) {
    const page = await open(rig, "", options);
    for (const view of ["fleet", "week", "month", "day", "health"]) {
      await go(page, view === "fleet" ? "#/" : at(view === "health" ? second : name, view, day));
      await page.waitForSelector({ fleet: "table.fleet tbody tr", health: "#facts", month: "table.month" }[view] ?? ".grid");
      await sleep(800);
      await page.screenshot({ path: join(directory, `${view}-${form}.png`), fullPage: view === "health" });
    }
    await page.context().close();
  }
  await rig.control("faults", undefined, "DELETE");
}

// ---- all of it

const only = new RegExp(process.env.CALMIRROR_ONLY ?? "");
const wants = ({ name }) => only.test(name);
const rig = new Rig(program, join(scratch, "rig"));
const many = new Rig(program, join(scratch, "many"));
try {
  await rig.simulate("--people", "24", "--rooms", "6", "--mutate-every", "0s", "--seed", "11");
  const mailboxes = (await rig.control("mailboxes", undefined, "GET")).map((one) => one.address ?? one);
  await rig.configure({ mailboxes });
  await rig.run();
  await rig.settled();
  const windows = (await rig.api("/v1/windows")).value;
  const name = windows.reduce((most, one) => (one.events > most.events ? one : most)).name;
  const day = plus(new Date().toISOString().slice(0, 10), 3);

  // Events that the simulated organisation may lack: all-day ones over a weekend, and one of more
  // than 24 hours.
  const week = monday(day);
  await rig.control("mutate", { mailbox: name, edit: "create_all_day", subject: "Offsite", date: plus(week, 5), days: 3 });
  await rig.control("mutate", { mailbox: name, edit: "create_all_day", subject: "Holiday", date: plus(week, 1), days: 1 });
  await rig.control("mutate", { mailbox: name, edit: "create_single", subject: "Night train", start: `${plus(week, 2)}T20:00:00Z`, minutes: 1700 });
  await rig.control("mutate", { mailbox: name, edit: "create_single", subject: "Past midnight", start: `${plus(week, 1)}T21:30:00Z`, minutes: 240 });
  await rig.sync(name);

  const denied = await fetch(`${rig.origin}/`);
  check("over TCP the page needs the token", denied.status === 401);
  const victim = wants(fleet) ? await fleet(rig) : name;
  if (wants(calendars)) await calendars(rig, name, day);
  if (wants(live)) await live(rig, name, day);
  if (wants(dead)) await dead(rig, name, day);
  if (wants(months)) await months(rig, name, day);
  if (wants(states)) await states(rig, name, day);
  if (wants(rounds)) await rounds(rig, name, day);
  if (wants(keyboard)) await keyboard(rig, name, day);
  if (wants(forms)) await forms(rig, name, day, victim);
  if (process.env.CALMIRROR_SCREENSHOTS) await pictures(rig, name, day, process.env.CALMIRROR_SCREENSHOTS);
  await rig.kill();

  if (wants(masked)) {
    await rig.configure({ mailboxes, api: "mask_private = true" });
    await rig.run();
    await rig.settled();
    await masked(rig, name, day);
    await rig.kill();
  }

  const kit = { browser, open, go, at, escape, accessible, plus, monday, expected, idOf, forms: WHERE };
  const expect = (failures) => (away = failures);
  if (wants(availability)) await availability(rig, mailboxes, kit, expect);
  await rig.stop();
  if (wants(shards)) await shards(program, join(scratch, "shards"), kit, expect);

  // Most of these mailboxes are unknown to the simulated Graph: a fleet with many failing windows.
  const count = Number(process.env.CALMIRROR_WINDOWS ?? 100_000);
  if (wants(large) && count > 0) {
    await many.simulate("--people", "0", "--rooms", "0", "--mutate-every", "0s");
    await many.configure({ mailboxes: Array.from({ length: count }, (_, number) => `user${String(number).padStart(6, "0")}@contoso.example`), interval: "1h" });
    await many.run();
    await large(many, count);
  }
  check("no script failed, nothing violated the policy, nobody else was asked", complaints.length === 0, complaints.slice(0, 5).join(" | "));
} catch (error) {
  console.error(`FAILED: ${error.message}`);
  for (const page of browser.contexts().flatMap((context) => context.pages())) console.error(`a page was at ${page.url()}`);
  if (complaints.length > 0) console.error(`complaints: ${complaints.slice(0, 5).join(" | ")}`);
  process.exitCode = 1;
} finally {
  await browser.close();
  await rig.stop();
  await many.stop();
}
