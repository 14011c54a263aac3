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
    stream TEXT, sequence INTEGER, complete_at REAL, pass INTEGER, snapshot TEXT, state TEXT);
"""


class Again(Exception):
    """Something may have been missed: read again, from the saved position or from the start."""


class Copy:
    """The copy. Events that do not come in a pass are deleted when it is whole, and not before."""

    def __init__(self, path):
        self.db = sqlite3.connect(path)
        self.db.executescript(TABLES)
        row = self.db.execute("SELECT * FROM position").fetchone()
        self.stream, self.sequence, self.complete_at, self.passes, self.snapshot, self.state = (
            row or ("", 0, 0, 0, "", "")
        )

    def start_over(self):
        """Reads everything again, beside what is there."""
        self.sequence, self.snapshot, self.state = 0, "", "reading"
        self.passes += 1

    def begin(self, info, retention_s):
        stream = str(info.created)
        # A day of reserve: removals disappear after the retention, by the server's clock.
        late = time.time() - self.complete_at > max(retention_s - 86400, retention_s / 2)
        if stream != self.stream or info.state.last_seq < self.sequence or late:
            self.stream = stream
            self.start_over()

    def apply(self, messages, at_end):
        with self.db:
            for message in messages:
                self.sequence = message.metadata.sequence.stream
                try:
                    line = json.loads(message.data)
                    change = line["change"]
                except (ValueError, LookupError, TypeError):
                    continue  # not of calmirror
                if change in ("snapshot_begins", "snapshot_ends"):
                    self.mark(change, line["snapshot"] + line["pass"])
                elif change == "removed":
                    key = (line["window"], line["id"])
                    self.db.execute("DELETE FROM event WHERE window = ? AND id = ?", key)
                else:
                    row = (line["window"], line["id"], json.dumps(line["event"]), self.passes)
                    self.db.execute("INSERT OR REPLACE INTO event VALUES (?, ?, ?, ?)", row)
            if at_end:
                if self.state == "marked":
                    # What the stream does not have any more.
                    self.db.execute("DELETE FROM event WHERE pass <> ?", (self.passes,))
                    self.state = "whole"
                if self.state == "whole":
                    self.complete_at = time.time()
            self.save()

    def mark(self, change, snapshot):
        if self.state == "reading":
            # From the start: whole at the end, unless a snapshot is under way.
            self.snapshot, self.state = snapshot, "marked" if change == "snapshot_ends" else "reading"
        elif snapshot != self.snapshot:
            if change == "snapshot_ends":
                # Its beginning is missing: the stream was restored, or this reader was away.
                self.start_over()
                self.save()
                raise Again
            self.passes += 1
            self.snapshot, self.state = snapshot, "reading"

    def save(self):
        self.db.execute("DELETE FROM position")
        row = (self.stream, self.sequence, self.complete_at, self.passes, self.snapshot, self.state)
        self.db.execute("INSERT INTO position VALUES (?, ?, ?, ?, ?, ?)", row)


async def follow(copy, options):
    # A connection that reconnects by itself would go on behind what was lost with the old one.
    client = await nats.connect(
        options.url, user_credentials=options.credentials, allow_reconnect=False
    )
    try:
        jetstream = client.jetstream()
        copy.begin(await jetstream.stream_info(options.stream), options.retention_days * 86400)
        config = ConsumerConfig(
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=copy.sequence + 1,
            ack_policy=AckPolicy.NONE,
            inactive_threshold=300,
            filter_subjects=[f"{options.subject}.*.*", f"{options.subject}.snapshot"],
        )
        consumer = await jetstream.pull_subscribe("", stream=options.stream, config=config)
        delivered = 0
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
                pending = messages[-1].metadata.num_pending
            else:
                # Without an answer of the server, the silence may be that of a lost consumer.
                info = await consumer.consumer_info()
                if info.delivered.consumer_seq != delivered:
                    raise Again
                pending = info.num_pending
            copy.apply(messages, at_end=pending == 0)
            if options.once and pending == 0 and copy.state == "whole":
                return
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
        except (nats.errors.Error, OSError) as error:
            if options.once:
                raise SystemExit(f"{type(error).__name__}: {error}")
            print(f"tries again: {type(error).__name__}: {error}", flush=True)
            copy = Copy(options.db)
            time.sleep(2)


if __name__ == "__main__":
    main()
