#!/usr/bin/env python3
"""Keeps an exact copy of the events in calmirror's NATS stream, in a SQLite file.

    pip install nats-py
    consume-nats.py copy.sqlite nats://127.0.0.1:4222 [--credentials FILE]

The stream has one message for each event, so reading it from its beginning gives every event. The
position is the number of the last message that was applied, and is saved with it in one
transaction. A copy begins again if the stream is another one than before, or if it was away for so
long that removals may have expired meanwhile.
"""

import argparse
import asyncio
import json
import sqlite3
import time

import nats
from nats.errors import TimeoutError
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

TABLES = """
CREATE TABLE IF NOT EXISTS event (
    window TEXT, id TEXT, event TEXT, copy INTEGER, PRIMARY KEY (window, id));
CREATE TABLE IF NOT EXISTS position (
    stream TEXT, sequence INTEGER, read_at REAL, copy INTEGER, whole INTEGER);
"""


class Copy:
    def __init__(self, path, retention_days):
        self.db = sqlite3.connect(path)
        self.db.executescript(TABLES)
        self.retention = retention_days * 86400
        row = self.db.execute("SELECT * FROM position").fetchone()
        self.stream, self.sequence, self.read_at, self.copy, self.whole = row or ("", 0, 0, 0, 0)

    def begin(self, info):
        """Goes on where it was, or from the beginning beside what it has."""
        stream = str(info.created)
        late = time.time() - self.read_at > self.retention
        if stream != self.stream or info.state.last_seq < self.sequence or late:
            self.stream, self.sequence, self.whole = stream, 0, 0
            self.copy += 1

    def apply(self, messages, at_end):
        with self.db:
            for message in messages:
                self.sequence = message.metadata.sequence.stream
                try:
                    line = json.loads(message.data)
                    key = (line["window"], line["id"])
                except (ValueError, LookupError, TypeError):
                    continue  # not of calmirror
                if line["change"] == "removed":
                    self.db.execute("DELETE FROM event WHERE window = ? AND id = ?", key)
                else:
                    row = (*key, json.dumps(line["event"]), self.copy)
                    self.db.execute("INSERT OR REPLACE INTO event VALUES (?, ?, ?, ?)", row)
            if at_end and not self.whole:
                # What the stream does not have any more.
                self.db.execute("DELETE FROM event WHERE copy <> ?", (self.copy,))
                self.whole = 1
            self.read_at = time.time()
            self.db.execute("DELETE FROM position")
            row = (self.stream, self.sequence, self.read_at, self.copy, self.whole)
            self.db.execute("INSERT INTO position VALUES (?, ?, ?, ?, ?)", row)


async def follow(copy, options):
    client = await nats.connect(options.url, user_credentials=options.credentials)
    try:
        jetstream = client.jetstream()
        copy.begin(await jetstream.stream_info(options.stream))
        config = ConsumerConfig(
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=copy.sequence + 1,
            ack_policy=AckPolicy.NONE,
            inactive_threshold=300,
        )
        consumer = await jetstream.pull_subscribe(
            f"{options.subject}.*.*", stream=options.stream, config=config
        )
        while True:
            try:
                messages = await consumer.fetch(500, timeout=1)
            except TimeoutError:
                messages = []
            if not messages:
                # An answer of the server: without one, the silence may be that of a lost consumer.
                pending = (await consumer.consumer_info()).num_pending
                copy.apply([], at_end=pending == 0)
                if pending == 0 and options.once:
                    return
            else:
                copy.apply(messages, at_end=messages[-1].metadata.num_pending == 0)
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
    parser.add_argument("--once", action="store_true", help="end when everything is read")
    options = parser.parse_args()
    copy = Copy(options.db, options.retention_days)
    while True:
        try:
            return asyncio.run(follow(copy, options))
        except (nats.errors.Error, OSError) as error:
            if options.once:
                raise SystemExit(f"{type(error).__name__}: {error}")
            print(f"tries again: {type(error).__name__}: {error}", flush=True)
            time.sleep(2)


if __name__ == "__main__":
    main()
