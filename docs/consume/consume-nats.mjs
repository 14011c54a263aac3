#!/usr/bin/env node
// Keeps an exact copy of the events in calmirror's NATS stream, in a SQLite file.
//
//     npm install @nats-io/transport-node @nats-io/jetstream better-sqlite3   # @12 for Node.js 20
//     consume-nats.mjs copy.sqlite nats://127.0.0.1:4222 [--credentials FILE] [--once]
//
// The stream has one message for each event, so reading it from its beginning gives every event. The
// position is the number of the last message that was applied, and is saved with it in one
// transaction. docs/sinks-nats.md has the rules that it follows.

import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { AckPolicy, DeliverPolicy, jetstream, jetstreamManager } from "@nats-io/jetstream";
import { connect, credsAuthenticator } from "@nats-io/transport-node";
import Database from "better-sqlite3";

const TABLES = `
CREATE TABLE IF NOT EXISTS event (
    window TEXT, id TEXT, event TEXT, pass INTEGER, PRIMARY KEY (window, id));
-- The last marker of each shard.
CREATE TABLE IF NOT EXISTS marker (shard INTEGER PRIMARY KEY, sequence INTEGER, line TEXT);
-- One row. pass: how often the stream was read from its beginning; whole: whether the last time was
-- completed; current_at: when this was last known to have everything, or began to read everything.
CREATE TABLE IF NOT EXISTS position (
    stream TEXT, sequence INTEGER, pass INTEGER, whole INTEGER, current_at REAL);
`;
const now = () => Date.now() / 1000;

class Copy {
  constructor(path) {
    this.db = new Database(path);
    this.db.exec(TABLES);
    const empty = { stream: "", sequence: 0, pass: 0, whole: 0, current_at: 0 };
    this.position = this.db.prepare("SELECT * FROM position").get() ?? empty;
    const rows = this.db.prepare("SELECT * FROM marker").all();
    this.markers = new Map(rows.map((row) => [row.shard, { sequence: row.sequence, line: JSON.parse(row.line) }]));
    this.replace = this.db.prepare("INSERT OR REPLACE INTO event VALUES (?, ?, ?, ?)");
    this.remove = this.db.prepare("DELETE FROM event WHERE window = ? AND id = ?");
  }

  // Decides where to go on in the stream: after the position, or at the beginning.
  begin(created, last, markers, retention) {
    // A day of reserve: removals disappear after the retention, by the server's clock.
    const isLate = now() - this.position.current_at > Math.max(retention - 86400, retention / 2);
    const isSame = created === this.position.stream && this.position.sequence <= last;
    if (isSame && !isLate && this.knows(markers)) return;
    const pass = this.position.pass + 1;
    this.position = { stream: created, sequence: 0, pass, whole: 0, current_at: now() };
    this.markers = markers;
  }

  // Whether the stream with these last markers goes on from what was read of it.
  knows(markers) {
    if ([...this.markers.keys()].some((shard) => !markers.has(shard))) return false;
    return [...markers].every(([shard, { sequence, line }]) => {
      const known = this.markers.get(shard);
      const isSamePass = line.snapshot === known?.line.snapshot && line.pass === known?.line.pass;
      const goesOn = known && isSamePass && sequence >= known.sequence;
      const isLater = (line.began || sequence) > this.position.sequence;
      const isOther = known && line.writer !== known.line.writer;
      return !isOther && (goesOn || isLater);
    });
  }

  apply(messages, atEnd) {
    if (this.position.whole && !messages.length && now() < this.position.current_at + 60) return; // nothing new to save
    this.db.transaction(() => {
      for (const message of messages) {
        this.position.sequence = message.seq;
        this.applyLine(message.subject, parse(message));
      }
      if (atEnd) this.position.current_at = now();
      if (atEnd && !this.position.whole && isWhole(this.markers)) {
        // What was not in the stream.
        this.db.prepare("DELETE FROM event WHERE pass <> ?").run(this.position.pass);
        this.position.whole = 1;
      }
      this.db.exec("DELETE FROM position; DELETE FROM marker");
      this.db
        .prepare("INSERT INTO position VALUES (@stream, @sequence, @pass, @whole, @current_at)")
        .run(this.position);
      const save = this.db.prepare("INSERT INTO marker VALUES (?, ?, ?)");
      for (const [shard, { sequence, line }] of this.markers) save.run(shard, sequence, JSON.stringify(line));
    })();
  }

  applyLine(subject, line) {
    const shard = shardOf(subject);
    if (shard !== null) {
      if (line?.shard) this.markers.set(shard, { sequence: this.position.sequence, line });
    } else if (line?.window && line.change === "removed") {
      this.remove.run(line.window, line.id);
    } else if (line?.window && line.id && line.event) {
      this.replace.run(line.window, line.id, JSON.stringify(line.event), this.position.pass);
    }
  }
}

// The line of a message; null if it is not of calmirror.
function parse(message) {
  try {
    return message.json();
  } catch {
    return null;
  }
}

// The shard whose markers have this subject; null if it is that of an event.
function shardOf(subject) {
  const [kind, last] = subject.split(".").slice(-2);
  return kind === "snapshot" ? Number(last) : null;
}

// Whether every shard has sent everything. Those that are no more do not count.
function isWhole(markers) {
  const shards = [];
  for (const [shard, { line }] of markers) {
    const count = Number(line.shard.split("/")[1]);
    if (shard < count || line.change !== "divided") shards.push({ shard, count, change: line.change });
  }
  const isIn = ({ shard, count, change }) => shard < count && count === shards.length && change === "snapshot_ends";
  return shards.length > 0 && shards.every(isIn);
}

// When the stream was created, its last number, and the last marker of each shard.
async function lastMarkers(manager, options) {
  const info = await manager.streams.info(options.stream, { subjects_filter: `${options.subject}.snapshot.*` });
  const markers = new Map();
  for (const subject of Object.keys(info.state.subjects ?? {})) {
    const found = await manager.streams.getMessage(options.stream, { last_by_subj: subject });
    if (found) markers.set(shardOf(subject), { sequence: found.seq, line: found.json() });
  }
  return { created: info.created, last: info.state.last_seq, markers };
}

async function follow(copy, options) {
  const servers = options.url.split(",").map((one) => new URL(one.trim()));
  const client = await connect({
    servers: servers.map((one) => one.host),
    tls: servers[0].protocol === "tls:" ? {} : undefined,
    user: decodeURIComponent(servers[0].username) || undefined,
    pass: decodeURIComponent(servers[0].password) || undefined,
    authenticator: options.credentials && credsAuthenticator(readFileSync(options.credentials)),
    // A connection that reconnects by itself would go on behind what was lost with the old one.
    reconnect: false,
  });
  try {
    const manager = await jetstreamManager(client, { checkAPI: false });
    const { created, last, markers } = await lastMarkers(manager, options);
    copy.begin(created, last, markers, options.retention);
    const name = randomUUID();
    await manager.consumers.add(options.stream, {
      name,
      deliver_policy: DeliverPolicy.StartSequence,
      opt_start_seq: copy.position.sequence + 1,
      ack_policy: AckPolicy.None,
      inactive_threshold: 60e9,
      filter_subject: `${options.subject}.*.*`,
    });
    const consumer = await jetstream(client, { checkAPI: false }).consumers.get(options.stream, name);
    if ((await manager.streams.info(options.stream)).created !== created) throw Error("the stream was replaced");
    let [messages, delivered, pending, lastNews] = [[], 0, 0, now()];
    for (;;) {
      for (const message of messages) {
        delivered += 1;
        if (message.info.deliverySequence !== delivered) throw Error("messages were lost on the way");
      }
      if (messages.length) {
        [pending, lastNews] = [messages.at(-1).info.pending, now()];
      } else {
        // Without an answer of the server, the silence may be that of a lost consumer.
        const info = await consumer.info();
        if (info.delivered.consumer_seq !== delivered) throw Error("messages were lost on the way");
        pending = info.num_pending;
      }
      copy.apply(messages, pending === 0);
      if (options.once && pending === 0 && copy.position.whole && isWhole(copy.markers)) return;
      if (options.once && now() - lastNews > 60) throw Error("the stream is not whole: are all shards running?");
      // What is there, or else the next one.
      messages = [];
      const fetched = await consumer.fetch({ max_messages: Math.max(1, Math.min(pending, 500)), expires: 1000 });
      for await (const message of fetched) messages.push(message);
    }
  } finally {
    await client.close();
  }
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    credentials: { type: "string" }, // a file with the JWT and the key of a user
    stream: { type: "string", default: "CALMIRROR" },
    subject: { type: "string", default: "calmirror" },
    "retention-days": { type: "string", default: "30" }, // feed.retention
    once: { type: "boolean", default: false }, // end when the copy is whole
  },
});
const [db, url] = positionals;
if (!url) {
  console.error("usage: consume-nats.mjs DB URL [--credentials FILE] [--stream NAME] [--subject PREFIX] [--retention-days N] [--once]");
  process.exit(2);
}
for (;;) {
  const copy = new Copy(db);
  try {
    await follow(copy, { ...values, url, retention: values["retention-days"] * 86400 });
    break;
  } catch (error) {
    if (values.once) {
      console.error(`${error.name}: ${error.message}`);
      process.exit(1);
    }
    console.log(`tries again: ${error.name}: ${error.message}`);
    await sleep(2000);
  } finally {
    copy.db.close();
  }
}
