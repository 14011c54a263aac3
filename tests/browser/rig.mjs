// The page's test environment: the simulated Graph and the daemon as separate processes, and the
// API to compare the page with.

import { spawn } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";

export const TOKEN = "a-token-for-the-test";

export function fail(what) {
  throw new Error(what);
}

export function check(what, holds, why = "") {
  if (!holds) fail(`${what}${why === "" ? "" : `: ${why}`}`);
  console.log(`proved: ${what}`);
}

export const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// Polls until `look` returns something truthy and returns it, or fails with the name of the
// condition.
export async function until(what, look, ms = 10_000) {
  const end = Date.now() + ms;
  for (;;) {
    const seen = await look();
    if (seen) return seen;
    if (Date.now() > end) fail(`not within ${ms} ms: ${what}`);
    await sleep(20);
  }
}

function portAt(host, wanted) {
  return new Promise((resolve, reject) => {
    const server = createServer().on("error", reject).listen(wanted, host, () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}

// A port that is free at all these addresses.
export async function freePort(hosts) {
  for (;;) {
    const port = await portAt(hosts[0], 0);
    const others = await Promise.allSettled(hosts.slice(1).map((host) => portAt(host, port)));
    if (others.every(({ status }) => status === "fulfilled")) return port;
  }
}

export class Rig {
  constructor(program, directory) {
    this.program = program;
    this.directory = directory;
    this.children = new Set();
    mkdirSync(directory, { recursive: true });
  }

  start(...args) {
    const child = spawn(this.program, args, { stdio: ["ignore", "pipe", "pipe"] });
    child.said = "";
    const hear = (piece) => (child.said = (child.said + piece).slice(-20_000));
    child.stdout.on("data", hear);
    child.stderr.on("data", hear);
    child.ended = new Promise((resolve) => child.on("exit", resolve));
    this.children.add(child);
    return child;
  }

  async simulate(...args) {
    const child = this.start("simulate", "--listen", "127.0.0.1:0", ...args);
    const [, origin] = await until("the simulated Graph answers", () => child.said.match(/(http:\/\/[\d.:]+)\/v1\.0/));
    this.graph = origin;
  }

  async control(path, body, method = "POST") {
    const answer = await fetch(`${this.graph}/control/${path}`, { method, body: body === undefined ? undefined : JSON.stringify(body) });
    if (!answer.ok) fail(`${path}: ${answer.status} ${await answer.text()}`);
    return answer.json().catch(() => null);
  }

  async configure({ mailboxes, extra = "", api = "", interval = "2s", origin }) {
    this.origin = origin ?? `http://127.0.0.1:${await freePort(["127.0.0.1"])}`;
    const put = (name, text) => writeFileSync(join(this.directory, name), text, { mode: 0o600 });
    put("secret", "any\n");
    put("token", `${TOKEN}\n`);
    put("mailboxes", `${mailboxes.join("\n")}\n`);
    put("calmirror.toml", `
[store]
path = "${this.directory}/store"
[graph]
base_url = "${this.graph}/v1.0"
login_url = "${this.graph}"
[api]
socket = "${this.directory}/api.sock"
listen = "${this.origin.replace("http://", "")}"
token_file = "${this.directory}/token"
${api}
[defaults]
interval = "${interval}"
start = "-40d"
end = "+60d"
[account.test]
tenant = "00000000-0000-0000-0000-000000000000"
client_id = "11111111-1111-1111-1111-111111111111"
client_secret_file = "${this.directory}/secret"
[[window]]
mailboxes_file = "${this.directory}/mailboxes"
account = "test"
${extra}
`);
  }

  async run() {
    this.daemon = this.start("--config", join(this.directory, "calmirror.toml"), "run");
    await until("the daemon answers", async () => {
      if (this.daemon.exitCode !== null) fail(`the daemon ended: ${this.daemon.said.slice(-2000)}`);
      return this.api("/readyz").then(() => true, () => false);
    }, 120_000);
  }

  async kill() {
    this.daemon.kill("SIGKILL");
    await this.daemon.ended;
  }

  ask(path, headers = {}) {
    return fetch(this.origin + path, { headers: { authorization: `Bearer ${TOKEN}`, ...headers } });
  }

  async api(path) {
    const answer = await this.ask(path);
    if (!answer.ok) fail(`${path}: ${answer.status}`);
    return answer.json();
  }

  async settled() {
    await until("every window settles", () => this.ask("/readyz?settled=1").then((answer) => answer.ok, () => false), 120_000);
  }

  async sync(name) {
    const path = `/v1/windows/${encodeURIComponent(name)}/sync?wait=30s`;
    const answer = await fetch(this.origin + path, { method: "POST", headers: { authorization: `Bearer ${TOKEN}` } });
    if (!answer.ok) fail(`${path}: ${answer.status}`);
  }

  // All events of a window between two instants, from the API.
  async events(name, from, to) {
    const query = `from=${new Date(from).toISOString()}&to=${new Date(to).toISOString()}&limit=10000`;
    return (await this.api(`/v1/windows/${encodeURIComponent(name)}/events?${query}`)).value;
  }

  // Waits until another reader of the feed sees the change. Returns that time.
  async feed(after, wanted) {
    for (let cursor = after; ; ) {
      const answer = await this.ask(`/v1/changes?after=${cursor}&wait=20s`);
      const lines = (await answer.text()).split("\n").filter(Boolean).map((line) => JSON.parse(line));
      if (lines.some(wanted)) return Date.now();
      cursor = answer.headers.get("x-calmirror-cursor");
    }
  }

  async now() {
    const answer = await this.ask("/v1/changes?after=now");
    await answer.text();
    return answer.headers.get("x-calmirror-cursor");
  }

  async stop() {
    for (const child of this.children) {
      if (child.exitCode === null && child.signalCode === null) child.kill("SIGTERM");
    }
    const all = Promise.all([...this.children].map((child) => child.ended));
    await Promise.race([all, sleep(8000)]);
    for (const child of this.children) child.kill("SIGKILL");
  }
}
