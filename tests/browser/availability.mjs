// The busy times of several windows on the page, the board for a wall display, and the room display
// of docs/consume. Run by page.mjs.

import { readFileSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { join } from "node:path";

import { check, fail, same, until } from "./rig.mjs";

const TOKEN = "a-token-of-the-lobby";
// This name must stay text.
const NEVER = "room-<img src=x onerror=alert(1)>";
const SHORT = "room-short";
const DAY = 86_400_000;
const MINUTE = 60_000;

// A zone in which it is about noon, so that the next hours are of the same day.
const ahead = 12 - new Date().getUTCHours();
const zone = `Etc/GMT${ahead > 0 ? "-" : "+"}${Math.abs(ahead)}`;
const midnight = (instant) => Math.floor((instant + ahead * 3_600_000) / DAY) * DAY - ahead * 3_600_000;
const clock = (instant) => new Date(instant).toLocaleTimeString("en-GB", { timeZone: zone, hour: "2-digit", minute: "2-digit" });
const iso = (instant) => new Date(instant).toISOString();

// Serves the room display, set up for a daemon.
async function site(rig) {
  const text = readFileSync("docs/consume/room.html", "utf8");
  if (text.trimEnd().split("\n").length > 60) fail("the room display is longer than 60 lines");
  const [api, token] = ["https://mirror.contoso.com", "the token of the consumer"];
  if (!text.includes(`"${api}"`) || !text.includes(`"${token}"`)) fail("the room display has no address or token to set");
  const server = createServer((_, answer) => answer.writeHead(200, { "content-type": "text/html" }).end(text.replace(api, rig.origin).replace(token, TOKEN)));
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return { server, origin: `http://127.0.0.1:${server.address().port}` };
}

// The daemon mirrors its rooms as a fleet, one that is unknown to Graph, and one that
// has ended.
async function configure(rig, mailboxes, origin) {
  const token = join(rig.directory, "lobby.token");
  writeFileSync(token, `${TOKEN}\n`, { mode: 0o600 });
  await rig.configure({
    mailboxes,
    extra: `
[[window]]
name = "${NEVER}"
mailbox = "nobody@contoso.example"
account = "test"
groups = ["lobby"]
[[window]]
name = "${SHORT}"
mailbox = "${mailboxes[0]}"
account = "test"
start = "${iso(Date.now() - 9 * DAY)}"
end = "${iso(Date.now() - 2 * DAY)}"
groups = ["lobby"]
[[fleet]]
name = "rooms"
account = "test"
rooms = true
groups = ["lobby"]
[consumer.lobby]
token_file = "${token}"
windows = ["room-*"]
level = "busy"
origins = ["${origin}"]
`,
  });
  await rig.run();
  await until("the rooms are listed", async () => (await rig.api("/v1/busy?group=rooms")).value.length >= 4, 30_000);
  await rig.settled();
}

// What a display has to say about a window, computed from `/v1/free`; null if it cannot be known.
async function expected(rig, name) {
  const from = Math.floor(Date.now() / MINUTE) * MINUTE;
  const to = midnight(from) + DAY;
  const query = `windows=${encodeURIComponent(name)}&from=${iso(from)}&to=${iso(to)}&duration=1m`;
  const { value, unknown } = await rig.api(`/v1/free?${query}`);
  if (unknown.length > 0) return "Unknown";
  const until = (at) => (at && Date.parse(at) < to ? `until ${clock(Date.parse(at))}` : "for the rest of the day");
  if (value[0] && Date.parse(value[0].start) <= Date.now()) return `Free ${until(value[0].end)}`;
  return `Busy ${until(value[0]?.start)}`;
}

// Compares the chart of a day with the API.
async function chart(rig, page, date) {
  const from = Date.parse(date) - ahead * 3_600_000;
  const { value } = await rig.api(`/v1/busy?group=lobby&from=${iso(from)}&to=${iso(from + DAY)}`);
  const wanted = value.map(({ window, busy }) => [window, ...busy.map(({ start, end }) => `${clock(Date.parse(start))} – ${clock(Date.parse(end))}`)]);
  const shown = () => page.locator("table.chart tbody tr").evaluateAll((rows) => rows.map((row) =>
    [row.querySelector("th").firstChild.data, ...[...row.querySelectorAll("li")].map((item) => item.firstChild.data)]));
  await until(`the busy times of ${date}`, async () => same(await shown(), wanted));
  return wanted.flatMap(([, ...times]) => times).length;
}

async function rows(rig, { open, go, accessible, plus, forms }, away) {
  const date = new Date(Date.now() + ahead * 3_600_000).toISOString().slice(0, 10);
  const page = await open(rig, `#/availability?group=lobby&day=${date}`, { timezoneId: zone });
  await page.waitForSelector("table.chart");
  const count = await chart(rig, page, date);
  await page.click("nav a[aria-label='Next day']");
  await until("the next day", () => page.url().endsWith(plus(date, 1)));
  const next = await chart(rig, page, plus(date, 1));
  check(`a row for each window shows the API's busy times, ${count} today and ${next} tomorrow`, count > 0 && next > 0);
  const row = (name) => page.locator("table.chart tbody tr", { hasText: name });
  const [never, short] = await Promise.all([NEVER, SHORT].map((name) => row(name).textContent()));
  check("windows of which the busy times are not known say so", never.includes("not read completely") && short.includes("not mirrored completely"), `${never} ${short}`);
  const unknown = await page.locator("table.chart tbody tr.unknown").count();
  const free = await page.locator("[data-key=free]").textContent();
  check("with such a window no time is called free", unknown === 2 && free.includes("not known"), `${unknown} ${free}`);
  const place = (await rig.api("/v1/busy?group=rooms")).value[0].place ?? fail("the rooms have no place");
  check("rooms show their place", (await page.locator("table.chart tbody tr").allTextContents()).some((text) => text.includes(`${place.building}, floor ${place.floor}, ${place.capacity} people`)));

  away(true);
  await page.fill("#group", "nothing");
  await page.press("#group", "Enter");
  await page.waitForSelector("[data-key=refused]");
  check("an unknown group is refused beside its field", (await page.textContent("[data-key=refused]")).includes("nothing") && (await page.inputValue("#group")) === "nothing");

  await page.fill("#group", "rooms");
  await page.press("#group", "Enter");
  await until("the group changes", async () => page.url().includes("group=rooms") && (await page.locator("table.chart tbody tr").count()) === 6);
  away(false);
  const from = Date.parse(plus(date, 1)) - ahead * 3_600_000;
  const { value: slots } = await rig.api(`/v1/free?group=rooms&from=${iso(from)}&to=${iso(from + DAY)}`);
  const wanted = slots.map(({ start, end }) => `${clock(Date.parse(start))} – ${clock(Date.parse(end))}`);
  await until("the times at which all are free", async () => (await page.locator("[data-key=free]").textContent()).includes(wanted.slice(0, 8).join(", ")));
  check(`a line says when all are free, ${wanted.length} times`, wanted.length > 0);
  await page.click("text=Board for a wall display");
  await page.waitForSelector(".board li");
  check("it leads to the board of the group", page.url().endsWith("#/board/rooms"), page.url());
  await go(page, "#/?q=room-");
  await page.waitForSelector("table.fleet tbody tr");
  const names = (await page.locator("table.fleet tbody th a").allTextContents()).sort();
  await page.click("text=When they are free");
  await page.waitForSelector("table.chart");
  const listed = await page.locator("table.chart tbody th").evaluateAll((heads) => heads.map((head) => head.firstChild.data));
  check("the list of the fleet leads to the rows of its windows", same(listed, names), listed.join());
  await page.context().close();

  for (const [form, options] of Object.entries(forms)) {
    const page = await open(rig, "", { ...options, timezoneId: zone });
    for (const [hash, there] of [[`#/availability?group=lobby&day=${date}`, "table.chart tbody tr"], ["#/board/lobby", ".board li"]]) {
      await go(page, hash);
      await page.waitForSelector(there);
      const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
      if (wide > 0) fail(`${hash} (${form}) is ${wide} px too wide`);
      await accessible(page, `${hash} (${form})`);
      if (!process.env.CALMIRROR_SCREENSHOTS) continue;
      await go(page, hash.replace("lobby", "rooms"));
      await until("the rooms", async () => (await page.locator(there).count()) === 6);
      await page.screenshot({ path: join(process.env.CALMIRROR_SCREENSHOTS, `${hash.match(/[a-z]+/)}-${form}.png`) });
    }
    await page.context().close();
  }
  check("rows and board pass axe, light, dark and narrow, and are not too wide", true);
}

async function board(rig, { browser, open, accessible }, away) {
  const asked = [];
  const page = await open(rig, "#/board/lobby", { timezoneId: zone, httpCredentials: { username: "", password: TOKEN } }, async (page) => {
    page.on("request", (request) => asked.push(new URL(request.url()).pathname));
    await page.clock.install();
  });
  await page.waitForSelector(".board li");
  const shown = () => page.locator(".board li").evaluateAll((items) => Object.fromEntries(items.map((item) =>
    [item.querySelector("h2").firstChild.data, item.querySelector(".standing").textContent])));
  const names = (await rig.api("/v1/busy?group=lobby")).value.map(({ window }) => window);
  let said;
  await until("the board says what the API says", async () => {
    said = Object.fromEntries(await Promise.all(names.map(async (name) => [name, await expected(rig, name)])));
    return same(await shown(), said);
  });
  const kinds = new Set(Object.values(said).map((text) => text.split(" ")[0]));
  check(`a board says what is free, busy and unknown: ${Object.values(said).join(", ")}`, kinds.size === 3 && said[NEVER] === "Unknown" && said[SHORT] === "Unknown");
  const data = [...new Set(asked.filter((path) => path.startsWith("/v1/")))].sort();
  check("a board needs nothing beyond the level busy", same(data, ["/v1/busy", "/v1/free"]), data.join());
  const tall = await page.evaluate(() => document.documentElement.scrollHeight - document.documentElement.clientHeight);
  check("a board fits on the screen", tall <= 0, tall);

  away(true);
  await rig.kill();
  await page.waitForSelector("#away:not([hidden])", { timeout: 30_000 });
  const last = await page.locator(".board .standing span:last-child").first().evaluate((span) => getComputedStyle(span, "::before").content);
  check("without a daemon the board says that it is old", last.includes("Last known"), last);
  await accessible(page, "a board without a daemon");
  const busy = Object.keys(said).find((name) => said[name].startsWith("Busy until")) ?? fail("no room is busy now");
  const over = said[busy].slice(-5);
  await page.clock.fastForward(Date.parse(`2000-01-01T${over}Z`) - Date.parse(`2000-01-01T${clock(Date.now())}Z`));
  await until("the meeting ends on time without a daemon", async () => (await shown())[busy].startsWith("Free"), 15_000);
  await page.clock.fastForward(DAY);
  await until("nothing is known of the next day", async () => Object.values(await shown()).every((text) => text === "Unknown"), 5000);
  check("the board goes by the clock, and calls nothing free on a day that was not loaded", true);
  await rig.run();
  await page.clock.setSystemTime(Date.now());
  await until("the board continues", async () => !(await page.locator("#away").isVisible()) && (await shown())[busy] === said[busy], 30_000);
  away(false);

  const old = Date.now() - 2 * 3_600_000;
  await page.route("**/v1/busy?*", async (route) => {
    const response = await route.fetch();
    const json = await response.json();
    json.value[1].as_of = iso(old);
    await route.fulfill({ response, json });
  });
  await until("old data", async () => (await page.locator(".board li").nth(1).textContent()).includes("data from"));
  const texts = await page.locator(".board li").allTextContents();
  check("a row whose data is old says from when it is", texts[1].includes(clock(old)) && texts.filter((text) => text.includes("data from")).length === 1, texts.join());
  away(true);
  await page.unroute("**/v1/busy?*");
  await page.route("**/v1/busy?*", (route) => route.fulfill({ status: 403, json: { detail: "not for this reader" } }));
  await until("the refusal", async () => (await page.textContent("main")).includes("not for this reader"));
  await page.evaluate(() => new MutationObserver(() => (globalThis.again ||= document.querySelector(".board li") !== null)).observe(document.getElementById("main"), { childList: true }));
  await page.clock.runFor(5000);
  check("a refused board shows nothing that it knew", !(await page.evaluate(() => globalThis.again)));
  await page.context().close();
  away(false);

  const kiosk = await browser.newPage();
  await kiosk.goto(`${rig.origin.replace("//", `//:${TOKEN}@`)}/#/board/lobby`);
  await kiosk.waitForSelector(".board li");
  check("a browser without a keyboard has the token in the address", true);
  await kiosk.close();
}

async function room(rig, { browser }, { origin }, away) {
  const busy = (await rig.api("/v1/busy?group=rooms")).value.map(({ window }) => window);
  const context = await browser.newContext({ timezoneId: zone, locale: "en-GB" });
  const page = await context.newPage();
  await page.clock.install();
  const said = () => page.textContent("#now");
  for (const name of [...busy, NEVER, SHORT]) {
    await page.goto(`${origin}/#${encodeURIComponent(name)}`);
    await page.reload();
    await until(`the display of ${name}`, async () => (await said()) === (await expected(rig, name)));
  }
  check(`the room display in ${readFileSync("docs/consume/room.html", "utf8").trimEnd().split("\n").length} lines says what the API says of ${busy.length + 2} rooms`, true);
  const now = await (async () => {
    await page.goto(`${origin}/#${encodeURIComponent(busy[0])}`);
    await page.reload();
    return until("the display", async () => /^(Busy|Free)/.test(await said()) && said());
  })();
  check(`it shows the next meeting and the age: ${now}; ${await page.textContent("#next")}; ${await page.textContent("#age")}`, (await page.textContent("#age")).startsWith("Calendar of"));
  away(true);
  await rig.kill();
  await page.clock.fastForward(2 * MINUTE);
  await until("the room display says that it does not know", async () => (await said()) === "Unknown", 5000);
  check("without a daemon the room display calls nothing free", (await page.evaluate(() => document.body.className)) === "");
  await context.close();
  await rig.run();
  away(false);

  // Another origin.
  const other = await browser.newContext({ timezoneId: zone });
  const stranger = await other.newPage();
  await stranger.goto(`${origin.replace("127.0.0.1", "localhost")}/#${encodeURIComponent(busy[0])}`);
  await until("another origin", async () => (await stranger.textContent("#now")) === "Unknown");
  check("a page of another origin may not read", (await stranger.textContent("#age")).includes("fetch"));
  await other.close();
}

// `kit` has the means of page.mjs; `away` says that failing requests are expected.
export async function availability(rig, mailboxes, kit, away) {
  const own = await site(rig);
  try {
    await configure(rig, mailboxes.filter((mailbox) => !mailbox.startsWith("room")), own.origin);
    const [one] = (await rig.api("/v1/busy?group=rooms")).value.map(({ window }) => window);
    await rig.control("mutate", { mailbox: one, edit: "create_single", subject: "Now", start: iso(Math.floor(Date.now() / MINUTE - 5) * MINUTE), minutes: 40 });
    await rig.sync(one);
    await rows(rig, kit, away);
    await board(rig, kit, away);
    await room(rig, kit, own, away);
  } finally {
    own.server.close();
  }
}
