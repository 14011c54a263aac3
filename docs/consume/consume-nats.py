#!/usr/bin/env python3
"""Keeps an exact copy of the events in calmirror's NATS stream, in a SQLite file.

    pip install nats-py
    consume-nats.py copy.sqlite nats://127.0.0.1:4222 [--credentials FILE]

The stream has one message for each event, so reading it from its beginning gives every event. The
position is the number of the last message that was applied, and is saved with it in one
transaction. docs/sinks-nats.md has the rules that it follows.
"""

import argparse
import asyncio
import json
import sqlite3
import time

import nats
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

TABLES = """
CREATE TABLE IF NOT EXISTS event (
    window TEXT, id TEXT, event TEXT, pass INTEGER, PRIMARY KEY (window, id));
CREATE TABLE IF NOT EXISTS position (
    stream TEXT, sequence INTEGER, complete_at REAL, pass INTEGER, token TEXT, marker INTEGER,
    state TEXT, ended INTEGER);
"""


class Again(Exception):
    """Something may have been missed: go on from the saved position in a new connection."""


class Copy:
    """The copy. A pass is a reading of the whole stream, or a snapshot of the sink. Events that do
    not come in it are deleted when it is complete, and not before."""

    def __init__(self, path):
        self.db = sqlite3.connect(path)
        self.db.executescript(TABLES)
        row = self.db.execute("SELECT * FROM position").fetchone()
        # token: the snapshot of the last message; marker: the number of the last marker.
        (self.stream, self.sequence, self.complete_at, self.passes) = row[:4] if row else ("", 0, 0, 0)
        (self.token, self.marker, self.state, self.ended) = row[4:] if row else ("", 0, "", 0)

    def begin(self, created, last, marker, retention_s):
        """Decides where to go on, from the last marker in the stream."""
        number, line = marker
        # A day of reserve: removals disappear after the retention, by the server's clock.
        away = time.time() - self.complete_at
        is_late = self.state == "whole" and away > max(retention_s - 86400, retention_s / 2)
        is_same = created == self.stream and self.sequence <= last
        # In the snapshot that is known, or before the beginning of another one.
        is_known = token(line) == self.token and self.marker <= number
        is_before = (line.get("began") or number) > self.sequence
        if self.state and is_same and not is_late and (is_known or is_before):
            return
        self.stream, self.sequence, self.token, self.marker = created, 0, "", 0
        self.state, self.ended = "reading", 0
        self.passes += 1

    def apply(self, messages, at_end):
        with self.db:
            for message in messages:
                self.sequence = message.metadata.sequence.stream
                try:
                    self.apply_line(message, json.loads(message.data))
                except (ValueError, LookupError, TypeError):
                    continue  # not of calmirror
            if at_end and self.state != "whole" and self.ended:
                # What neither the stream nor the snapshot had.
                self.db.execute("DELETE FROM event WHERE pass <> ?", (self.passes,))
                self.state = "whole"
            if at_end and self.state == "whole":
                self.complete_at = time.time()
            self.db.execute("DELETE FROM position")
            row = (self.stream, self.sequence, self.complete_at, self.passes)
            row += (self.token, self.marker, self.state, self.ended)
            self.db.execute(f"INSERT INTO position VALUES ({', '.join('?' * len(row))})", row)

    def apply_line(self, message, line):
        change = line["change"]
        if change in ("snapshot_begins", "snapshot_ends"):
            self.see(token(line))
            self.marker, self.ended = self.sequence, int(change == "snapshot_ends")
            return
        window, id = line["window"], line["id"]
        came_in = (message.headers or {}).get("Calmirror-Snapshot")
        if came_in:
            self.see(came_in)
        if change == "removed":
            self.db.execute("DELETE FROM event WHERE window = ? AND id = ?", (window, id))
        else:
            row = (window, id, json.dumps(line["event"]), self.passes)
            self.db.execute("INSERT OR REPLACE INTO event VALUES (?, ?, ?, ?)", row)

    def see(self, seen):
        """A message of a snapshot. If it is another one than before, that begins."""
        if seen != self.token:
            self.token, self.ended = seen, 0
            if self.state == "whole":
                self.state = "snapshot"
            if self.state == "snapshot":
                self.passes += 1


def token(line):
    """What a marker has in common with the messages of its snapshot."""
    return f"{line['snapshot']}-{line['pass']}" if "pass" in line else ""


async def last_marker(jetstream, options):
    """The number and the line of the last marker; of none, 0 and {}."""
    try:
        found = await jetstream.get_last_msg(options.stream, f"{options.subject}.snapshot")
        line = json.loads(found.data)
        return found.seq, line if isinstance(line, dict) else {}
    except (nats.js.errors.NotFoundError, ValueError):
        return 0, {}


async def follow(copy, options):
    # A connection that reconnects by itself would go on behind what was lost with the old one.
    client = await nats.connect(
        options.url, user_credentials=options.credentials, allow_reconnect=False
    )
    try:
        jetstream = client.jetstream()
        # The marker first: what comes later is read.
        marker = await last_marker(jetstream, options)
        info = await jetstream.stream_info(options.stream)
        copy.begin(str(info.created), info.state.last_seq, marker, options.retention_days * 86400)
        config = ConsumerConfig(
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=copy.sequence + 1,
            ack_policy=AckPolicy.NONE,
            inactive_threshold=60,
            filter_subjects=[f"{options.subject}.*.*", f"{options.subject}.snapshot"],
        )
        consumer = await jetstream.pull_subscribe("", stream=options.stream, config=config)
        delivered, last_news = 0, time.monotonic()
        while True:
            try:
                messages = await consumer.fetch(500, timeout=1)
            except (nats.errors.TimeoutError, asyncio.TimeoutError):
                messages = []
            if messages:
                for message in messages:
                    delivered += 1
                    if message.metadata.sequence.consumer != delivered:
                        raise Again
                pending, last_news = messages[-1].metadata.num_pending, time.monotonic()
            else:
                # Without an answer of the server, the silence may be that of a lost consumer.
                info = await consumer.consumer_info()
                if info.delivered.consumer_seq != delivered:
                    raise Again
                pending = info.num_pending
            copy.apply(messages, at_end=pending == 0)
            if options.once and pending == 0 and copy.state == "whole":
                return
            if options.once and time.monotonic() - last_news > 60:
                raise SystemExit("the stream has no whole snapshot: is the sink running?")
    finally:
        await client.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("db")
    parser.add_argument("url")
    parser.add_argument("--credentials", help="a file with the JWT and the key of a user")
    parser.add_argument("--stream", default="CALMIRROR")
    parser.add_argument("--subject", default="calmirror")
    parser.add_argument("--retention-days", type=float, default=30, help="feed.retention")
    parser.add_argument("--once", action="store_true", help="end when the copy is whole")
    options = parser.parse_args()
    copy = Copy(options.db)
    while True:
        try:
            return asyncio.run(follow(copy, options))
        except Again:
            copy = Copy(options.db)
            time.sleep(1)
        except (nats.errors.Error, OSError) as error:
            if options.once:
                raise SystemExit(f"{type(error).__name__}: {error}")
            print(f"tries again: {type(error).__name__}: {error}", flush=True)
            copy = Copy(options.db)
            time.sleep(2)


if __name__ == "__main__":
    main()
