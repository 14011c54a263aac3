// Three daemons with the same configuration, each with its part of the windows: the page of one shows
// those of all. Run by page.mjs.

import { writeFileSync } from "node:fs";
import { join } from "node:path";

import { Rig, check, fail, freePort, same, sleep, until } from "./rig.mjs";

const ORDINALS = [0, 1, 2];
// This name must stay text, and is a part of paths.
const HOSTILE = String.raw`a%2Fb\c ?d=%41&<img src=x onerror=alert(1)> ü`;
const LOBBY = "a-token-of-the-lobby";
const DAY = 86_400_000;
// The content is that of this day.
const date = new Date(Date.now() + 3 * DAY).toISOString().slice(0, 10);
const ONLY = { "calmirror-shard-only": "1" };
const iso = (instant) => new Date(instant).toISOString();
const clock = (time) => iso(Date.parse(time)).slice(11, 16);

class Shards {
  constructor(program, directory) {
    this.all = ORDINALS.map((ordinal) => new Rig(program, join(directory, String(ordinal))));
    // The page is opened here.
    [this.asked] = this.all;
  }

  async start() {
    await this.asked.simulate("--people", "54", "--rooms", "6", "--mutate-every", "0s", "--seed", "12");
    const known = (await this.asked.control("mailboxes", undefined, "GET")).map((one) => one.address ?? one);
    const mailboxes = known.filter((mailbox) => !mailbox.startsWith("room"));
    const port = await freePort(ORDINALS.map((ordinal) => `127.0.1.${ordinal}`));
    await Promise.all(this.all.map(async (rig, ordinal) => {
      const token = join(rig.directory, "lobby.token");
      writeFileSync(token, `${LOBBY}\n`, { mode: 0o600 });
      rig.graph = this.asked.graph;
      await rig.configure({ mailboxes, origin: `http://127.0.1.${ordinal}:${port}`, extra: `
${mailboxes.slice(0, 3).map((mailbox, number) => `[[window]]
name = '${HOSTILE} ${number}'
mailbox = "${mailbox}"
account = "test"`).join("\n")}
[[fleet]]
name = "rooms"
account = "test"
rooms = true
[consumer.lobby]
token_file = "${token}"
windows = ["room-*"]
level = "busy"
[shard]
of = "${ordinal}/${ORDINALS.length}"
url = "http://127.0.1.{ordinal}:${port}"
` });
      await rig.run();
    }));
    await until("the rooms are listed", async () => (await this.asked.api("/v1/busy?group=rooms")).value.length === 6, 30_000);
    for (const rig of this.all) await rig.settled();
    // By window: its shard.
    this.owners = new Map();
    for (const rig of this.all) for (const { name } of await this.own(rig, "/v1/windows", "limit=1000")) this.owners.set(name, rig);
  }

  // The values of one shard alone.
  async own(rig, path, query = "") {
    const answer = await rig.ask(`${path}?${query}`, ONLY);
    if (!answer.ok) fail(`${path}: ${answer.status}`);
    return (await answer.json()).value;
  }

  // The values of each shard, put together here.
  async together(path, query) {
    return (await Promise.all(this.all.map((rig) => this.own(rig, path, query)))).flat();
  }

  ordinal(name) {
    return this.all.indexOf(this.owners.get(name));
  }

  // The windows of a shard, those with the most events first.
  async largest(ordinal) {
    const windows = await this.own(this.all[ordinal], "/v1/windows", "limit=1000");
    const usual = windows.filter(({ name }) => !name.startsWith(HOSTILE) && !name.startsWith("room"));
    return usual.sort((a, b) => b.events - a.events).map(({ name }) => name);
  }

  async stop() {
    await Promise.all(this.all.map((rig) => rig.stop()));
  }
}

const names = (page) => page.locator("table.fleet tbody th a").allTextContents();
const missing = (page) => page.locator("#missing:visible").allTextContents();
const live = async (page) => (await page.locator("#live-word").textContent()) === "Live" && !(await page.locator("#away").isVisible());

async function fleet(site, { open }) {
  const all = [...site.owners.keys()].sort();
  const shares = ORDINALS.map((ordinal) => all.filter((name) => site.ordinal(name) === ordinal).length);
  check(`each shard has windows of its own: ${shares.join(", ")}`, shares.every((share) => share > 0));
  const page = await open(site.asked, "");
  await page.waitForSelector("table.fleet tbody tr");
  const first = await names(page);
  await page.click("text=Next page");
  await until("the second page", async () => !same(await names(page), first) && (await page.locator("text=Last page").count()) === 1);
  check(`the pages of the fleet together have the ${all.length} windows of all shards`, same([...first, ...(await names(page))].sort(), all));
  check("they are counted together", (await page.locator(".chip b").first().textContent()) === String(all.length));

  for (const text of ["room-", HOSTILE, all.find((name) => site.ordinal(name) === 2)]) {
    await page.fill("#q", text);
    const wanted = all.filter((name) => name.includes(text));
    await until(`the search for ${text}`, async () => same((await names(page)).sort(), wanted));
    if (text === "room-") check("a search finds windows of several shards", new Set(wanted.map((name) => site.ordinal(name))).size > 1);
  }
  await page.fill("#q", "");

  // What fails at two of the others comes first.
  const victims = (await Promise.all([1, 2].map((ordinal) => site.largest(ordinal)))).map((own) => own.at(-1)).sort();
  for (const mailbox of victims) await site.asked.control("faults", { fault: "mailbox", how: "access_denied", mailbox });
  await until("those in trouble come first", async () => same((await names(page)).slice(0, 2), victims), 20_000);
  const summary = await page.locator(".heading .lead").textContent();
  check(`trouble of other shards comes first, in the order of the merged list: ${summary}`, summary === `2 of ${all.length} need a look.`);
  const listed = (await site.asked.api("/v1/windows?order=trouble&limit=50")).value.map(({ name }) => name);
  check("the page has the order of the API", same(await names(page), listed));
  await page.click("a.chip.bad");
  await until("only those in trouble", async () => same(await names(page), victims));
  await site.asked.control("faults", undefined, "DELETE");
  for (const name of victims) await site.owners.get(name).sync(name);
  await page.goto(`${site.asked.origin}/#/`);
  await until("all are healthy again", async () => (await page.locator(".heading .lead").textContent()) === `All ${all.length} are healthy.`, 20_000);

  // Nothing happens for longer than a held request: the list must still be asked for.
  const asked = [Date.now()];
  page.on("request", (request) => request.url().endsWith("/v1/status") && asked.push(Date.now()));
  await sleep(30_000);
  const pauses = asked.slice(1).map((at, index) => at - asked[index]);
  const silent = Math.max(...pauses, Date.now() - asked.at(-1));
  check(`in a quiet fleet the page asks at least every 5 s (at most ${silent} ms)`, silent < 5000, pauses);
  const [name] = await site.largest(1);
  const events = () => page.locator("table.fleet tbody tr", { hasText: name }).locator("td[data-label=Events]").textContent();
  await page.fill("#q", name);
  await until("the window", async () => (await names(page)).length === 1);
  const before = Number(await events());
  await site.asked.control("mutate", { mailbox: name, edit: "create_single", subject: "Counted", start: `${date}T04:00:00Z`, minutes: 15 });
  await site.owners.get(name).sync(name);
  const changed = Date.now();
  await until("the fleet counts it", async () => Number(await events()) === before + 1);
  check(`the fleet counts a new event of another shard after ${((Date.now() - changed) / 1000).toFixed(1)} s`, true);
  await page.context().close();
}

// Health, day, week and month of a window at another shard.
async function views(site, name, kit) {
  const { open, go, at, expected, idOf, monday, plus } = kit;
  const owner = site.owners.get(name);
  const page = await open(site.asked, at(name, "health", date));
  await page.waitForSelector("#facts");
  const [window, past] = [await owner.api(`/v1/windows/${encodeURIComponent(name)}`), await owner.api(`/v1/windows/${encodeURIComponent(name)}/rounds`)];
  const facts = await page.locator("section[aria-labelledby=facts] dl div").evaluateAll((rows) => Object.fromEntries(rows.map((row) => [...row.children].map((one) => one.textContent))));
  check("the health of a window at another shard has its facts", facts.Events === String(window.events) && facts.Mailbox === window.mailbox, JSON.stringify(facts));
  const rounds = await page.locator("table.rounds tbody tr:not(.still) th").allTextContents();
  check("and its rounds", rounds.length > 0 && same(rounds, past.value.map(({ number }) => String(number))), rounds.join());

  const first = monday(date);
  const ids = (events) => events.map(({ id }) => id).sort();
  const week = await expected(owner, "Europe/Berlin", name, first, plus(first, 6));
  const graph = await site.asked.control(`truth?mailbox=${encodeURIComponent(window.mailbox)}&start=${plus(first, -2)}T00:00:00Z&end=${plus(first, 9)}T00:00:00Z`, undefined, "GET");
  check("the shard has what the simulated Graph has", same(ids(await owner.events(name, Date.parse(plus(first, -2)), Date.parse(plus(first, 9)))), ids(graph.value)));
  const shown = () => page.locator(".column").evaluateAll((columns) => columns.map((column) =>
    [column.dataset.key, [...new Set([...column.querySelectorAll("a.event")].map((link) => link.getAttribute("href")))]]));
  const compared = async (days) => {
    for (const [key, hrefs] of await shown()) {
      if (!same(hrefs.map(idOf).sort(), ids(week.get(key)))) fail(`${name}, ${key}: the page shows ${hrefs.length}, the shard has ${week.get(key).length}`);
    }
    return (await shown()).length === days;
  };
  await go(page, at(name, "week", date));
  await page.waitForSelector(".grid.week");
  const some = [...week.values()].reduce((sum, events) => sum + events.length, 0);
  check(`its week shows the ${some} events of its shard`, some > 0 && (await compared(7)));
  await go(page, at(name, "day", date));
  await page.waitForSelector(".grid.day");
  check("its day too", await compared(1));
  await go(page, at(name, "month", date));
  await page.waitForSelector("table.month");
  const counts = await page.locator("table.month td").evaluateAll((cells) => cells.map((cell) =>
    [cell.dataset.key, Number(cell.querySelector(".number").getAttribute("aria-label").match(/(\d+) events?$/)[1])]));
  const month = await expected(owner, "Europe/Berlin", name, counts[0][0], counts.at(-1)[0]);
  check("and its month", same(counts, [...month].map(([day, events]) => [day, events.length])), JSON.stringify(counts));
  await page.context().close();
}

// A change is created, renamed and deleted at another shard; its event opens.
async function changes(site, name, { open, at, escape }) {
  const owner = site.owners.get(name);
  const { mailbox } = await owner.api(`/v1/windows/${encodeURIComponent(name)}`);
  const page = await open(site.asked, at(name, "week", date));
  await page.waitForSelector(".grid");
  await sleep(500);
  const steps = [
    ["create_single", { subject: "At another shard", start: `${date}T10:00:00Z`, minutes: 45 }, async (text) => (await text("At another shard")) > 0],
    ["rename", { subject: "Still there" }, async (text) => (await text("Still there")) > 0],
    ["delete", {}, async (text) => (await text("Still there")) === 0],
  ];
  let event = null;
  let slowest = 0;
  for (const [edit, more, seen] of steps) {
    const told = owner.feed(await owner.now(), (change) => change.window === name);
    const done = await site.asked.control("mutate", { mailbox, edit, ...(event && { event }), ...more });
    event ??= done.id;
    owner.sync(name).catch(() => {});
    const committed = await told;
    await until(`${edit} is seen`, () => seen((text) => page.locator("a.event", { hasText: text }).count()));
    slowest = Math.max(slowest, Date.now() - committed);
    if (edit !== "rename") continue;
    await page.locator("ol a.event", { hasText: "Still there" }).first().click();
    await page.waitForSelector("dialog[open] #event-title");
    check(`an event of ${name} opens`, (await page.locator("dialog #event-title").textContent()) === "Still there");
    await escape(page, `/week/${date}`);
  }
  check(`changes at another shard are seen within a second of its feed (slowest ${slowest} ms)`, slowest < 1000);
  await page.context().close();
}

// The rows of a day and the line above them.
async function rows(site, page, query) {
  const range = `from=${date}T00:00:00Z&to=${iso(Date.parse(date) + DAY)}`;
  const busy = await site.together("/v1/busy", `${query}&${range}`);
  const wanted = busy.sort((a, b) => (a.window < b.window ? -1 : 1)).map(({ window, busy }) => [window, ...busy.map(({ start, end }) => `${clock(start)} – ${clock(end)}`)]);
  await until(`the busy times of ${query}`, async () => same(await page.locator("table.chart tbody tr").evaluateAll((all) => all.map((row) =>
    [row.querySelector("th").firstChild.data, ...[...row.querySelectorAll("li")].map((item) => item.firstChild.data)])), wanted));
  const { value } = await site.asked.api(`/v1/free?${query}&${range}&duration=30m`);
  const line = await page.locator("[data-key=free]").textContent();
  const said = value.slice(0, 8).map(({ start, end }) => `${clock(start)} – ${clock(end)}`).join(", ");
  check(`rows of ${query} show the busy times of ${new Set(busy.map(({ window }) => site.ordinal(window))).size} shards, and when all are free`, value.length > 0 && line.startsWith(`All are free ${said}`), line);
}

async function availability(site, { open, go, plus }) {
  const page = await open(site.asked, `#/availability?group=rooms&day=${date}`, { timezoneId: "UTC" });
  await page.waitForSelector("table.chart");
  await rows(site, page, "group=rooms");
  const some = (await Promise.all(ORDINALS.map((ordinal) => site.largest(ordinal)))).map(([name]) => name).join();
  await go(page, `#/availability?windows=${some}&day=${date}`);
  await rows(site, page, `windows=${some}`);
  await go(page, `#/availability?windows=${encodeURIComponent("*")}&day=${plus(date, 1)}`);
  await until("rows of all windows", async () => (await page.locator("table.chart tbody tr").count()) === site.owners.size);
  check("a selection of all has the windows of all shards", true);
  await page.context().close();
}

// One shard is killed and started again, while pages of the others are open.
async function lost(site, kit, away) {
  const { open, go, at, escape, accessible, forms } = kit;
  const [gone, other] = [site.all[1], site.all[2]];
  const [[mine], [theirs]] = await Promise.all([1, 2].map((ordinal) => site.largest(ordinal)));
  const own = [...site.owners.keys()].filter((name) => site.owners.get(name) !== gone).sort();
  const overview = await open(site.asked, "");
  const calendar = await open(site.asked, at(mine, "week", date));
  const beside = await open(site.asked, at(theirs, "week", date));
  for (const page of [calendar, beside]) await page.waitForSelector("a.event");
  const kept = await calendar.locator("a.event").count();
  check("while all shards answer none is missing", (await missing(overview)).length === 0);

  away(true);
  await gone.kill();
  await until("the fleet says which is missing", async () => (await missing(overview)).join() === "Shard 1 does not answer. Its windows are missing or unknown.");
  await until("the others stay", async () => (await overview.locator(".chip b").first().textContent()) === String(own.length));
  const summary = await overview.locator(".heading .lead").textContent();
  check(`the fleet names the missing shard, keeps the windows of the others, and is live: ${summary}`, (await live(overview)) && summary === `All ${own.length} that are known are healthy.`);
  const listed = await names(overview);
  check("no window of the missing shard is listed", listed.length > 0 && listed.every((name) => site.owners.get(name) !== gone));
  await until("the calendar says why it is old", async () => (await calendar.locator("#away:visible").allTextContents()).join().includes("shard 1"));
  const notice = await calendar.locator("#away").textContent();
  check(`a calendar of the missing shard keeps its events and says that they are old: ${notice}`, (await calendar.locator("a.event").count()) === kept && !(await live(calendar)) && /What is shown is \d+ s old/.test(notice));
  check("it has one notice and not two", (await missing(calendar)).length === 0);
  await calendar.locator("ol a.event").first().click();
  await calendar.waitForSelector("dialog[open] #event-title");
  const dialog = await calendar.locator("dialog").textContent();
  check("an event of it says why it cannot be shown", dialog.includes("Not available") && dialog.includes("shard 1"), dialog);
  await escape(calendar, `/week/${date}`);

  // The other shard goes on.
  await site.asked.control("mutate", { mailbox: theirs, edit: "create_single", subject: "Meanwhile", start: `${date}T11:00:00Z`, minutes: 30 });
  await other.sync(theirs);
  await until("the change at the other shard", async () => (await beside.locator("a.event", { hasText: "Meanwhile" }).count()) > 0, 2000);
  check("a calendar of another shard stays live, without a notice", (await live(beside)) && (await missing(beside)).length === 0);

  // A window that was not opened before, and one of which nothing is known.
  for (const [form, options] of Object.entries(forms)) {
    const page = await open(site.asked, "", options);
    await until("the notice", async () => (await missing(page)).length === 1);
    await accessible(page, `the fleet without a shard (${form})`);
    const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
    if (wide > 0) fail(`the fleet without a shard (${form}) is ${wide} px too wide`);
    await page.evaluate((to) => (location.hash = to), at(mine, "health", date));
    await until("health of the missing shard", async () => (await page.locator("#away:visible").allTextContents()).join().includes("shard 1"));
    check(`a window of the missing shard is not called unknown (${form})`, (await page.locator("#title").textContent()) === mine && !(await page.textContent("main")).includes("No such window"));
    const said = await page.locator("#away").textContent();
    check("one notice says why, and does not give it the age of another view", (await missing(page)).length === 0 && said.includes("was loaded earlier"), said);
    await accessible(page, `a window of a missing shard (${form})`);
    await go(page, "#/");
    await until("the fleet again", async () => (await live(page)) && (await missing(page)).length === 1);
    await page.context().close();
  }

  const rooms = await open(site.asked, `#/availability?group=rooms&day=${date}`, { timezoneId: "UTC" });
  const theirRooms = [...site.owners].filter(([name, rig]) => name.startsWith("room-") && rig === gone).map(([name]) => name).sort();
  const unsure = () => rooms.locator("table.chart tbody tr.unknown th").evaluateAll((heads) => heads.map((head) => head.firstChild.data));
  await until("rooms of the missing shard are unknown", async () => same(await unsure(), theirRooms));
  check(`the ${theirRooms.length} rooms of the missing shard have rows that say so`, theirRooms.length > 0 && (await rooms.locator("table.chart tbody tr").count()) === 6 && (await rooms.locator("table.chart tbody tr.unknown").first().textContent()).includes("its shard does not answer"));
  check("no time is called free with them", (await rooms.locator("[data-key=free]").textContent()).includes("not known"));
  check("and the notice names the shard", (await missing(rooms)).length === 1);
  await accessible(rooms, "availability without a shard");
  const board = await open(site.asked, "#/board/rooms", { httpCredentials: { username: "", password: LOBBY } });
  const standing = () => board.locator(".board li").evaluateAll((items) => items.filter((item) => item.querySelector(".standing").textContent === "Unknown").map((item) => item.querySelector("h2").firstChild.data));
  await until("the board", async () => (await board.locator(".board li").count()) === 6 && same(await standing(), theirRooms));
  check("a board calls them unknown", (await missing(board)).length === 1);
  await accessible(board, "a board without a shard");

  await site.asked.control("mutate", { mailbox: mine, edit: "create_single", subject: "While it was away", start: `${date}T12:00:00Z`, minutes: 30 });
  await gone.run();
  const back = Date.now();
  await until("the calendar goes on", async () => (await live(calendar)) && (await calendar.locator("a.event", { hasText: "While it was away" }).count()) > 0, 20_000);
  for (const page of [overview, rooms, board]) await until("nothing is missing", async () => (await missing(page)).length === 0, 20_000);
  const all = site.owners.size;
  await until("all windows are back", async () => (await overview.locator(".heading .lead").textContent()) === `All ${all} are healthy.`, 30_000);
  await until("all rooms are known", async () => (await unsure()).length === 0 && (await standing()).length === 0, 20_000);
  check(`everything continues by itself ${((Date.now() - back) / 1000).toFixed(1)} s after the shard is back`, true);
  away(false);
  for (const page of [overview, beside, rooms, board]) await page.context().close();
  return calendar;
}

// A shard that accepts connections and does not respond.
async function hanging(site, { open, at }, away) {
  const [name] = await site.largest(2);
  const overview = await open(site.asked, "");
  const calendar = await open(site.asked, at(name, "day", date));
  await calendar.waitForSelector(".grid");
  await overview.waitForSelector("table.fleet tbody tr");
  away(true);
  site.all[2].daemon.kill("SIGSTOP");
  await until("the fleet says that a shard is missing", async () => (await missing(overview)).join().startsWith("Shard 2 "), 15_000);
  const alive = await overview.evaluate(() => {
    globalThis.dead = 0;
    new MutationObserver(() => (globalThis.dead += document.getElementById("live-word").textContent !== "Live")).observe(document.getElementById("live"), { subtree: true, childList: true, characterData: true });
    return document.getElementById("live-word").textContent;
  });
  await until("the calendar says why", async () => (await calendar.locator("#away:visible").allTextContents()).join().includes("shard 2"), 30_000);
  await sleep(30_000);
  check("while a shard hangs, the page of the others is never called dead", alive === "Live" && (await overview.evaluate(() => globalThis.dead)) === 0);
  site.all[2].daemon.kill("SIGCONT");
  await until("none is missing", async () => (await missing(overview)).length === 0, 30_000);
  await until("the calendar is live", () => live(calendar), 30_000);
  away(false);
  check("both continue when it does", true);
  for (const page of [overview, calendar]) await page.context().close();
}

// The shard that serves the page is started again, while its page follows a window of another.
async function served(site, page, away) {
  const [name] = await site.largest(1);
  away(true);
  await site.asked.kill();
  await until("the page notices", async () => !(await live(page)));
  await site.asked.run();
  await until("the page is live", () => live(page), 20_000);
  away(false);
  await site.asked.control("mutate", { mailbox: name, edit: "create_single", subject: "Served again", start: `${date}T13:00:00Z`, minutes: 30 });
  await site.owners.get(name).sync(name);
  await until("the change", async () => (await page.locator("a.event", { hasText: "Served again" }).count()) > 0, 2000);
  check("a page outlives a restart of the shard that serves it, and follows the other one", true);
  await page.context().close();
}

// `kit` has the means of page.mjs; `away` says that failing requests are expected.
export async function shards(program, directory, kit, away) {
  const site = new Shards(program, directory);
  try {
    await site.start();
    await fleet(site, kit);
    const [[first], [second]] = await Promise.all([1, 2].map((ordinal) => site.largest(ordinal)));
    for (const name of [first, second]) await views(site, name, kit);
    const far = [...site.owners.keys()].find((name) => name.startsWith(HOSTILE) && site.ordinal(name) !== 0) ?? fail("no window with a strange name is at another shard");
    for (const name of [first, far]) await changes(site, name, kit);
    await availability(site, kit);
    const page = await lost(site, kit, away);
    await served(site, page, away);
    await hanging(site, kit, away);
  } finally {
    await site.stop();
  }
}
