#!/usr/bin/env python3
"""Keeps an exact copy of the events in calmirror's NATS stream, in a SQLite file.

    pip install nats-py
    consume-nats.py copy.sqlite nats://127.0.0.1:4222 [--credentials FILE] [--once]

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
-- The last marker of each shard.
CREATE TABLE IF NOT EXISTS marker (shard INTEGER PRIMARY KEY, sequence INTEGER, line TEXT);
-- One row. pass: how often the stream was read from its beginning; whole: whether the last time was
-- completed; current_at: when this was last known to have everything, or began to read everything.
CREATE TABLE IF NOT EXISTS position (
    stream TEXT, sequence INTEGER, pass INTEGER, whole INTEGER, current_at REAL);
"""


class Again(Exception):
    """Something may have been missed: go on from the saved position in a new connection."""


class Copy:
    def __init__(self, path):
        self.db = sqlite3.connect(path)
        self.db.executescript(TABLES)
        row = self.db.execute("SELECT * FROM position").fetchone()
        self.stream, self.sequence, self.passes, self.whole, self.current_at = row or ("", 0, 0, 0, 0)
        rows = self.db.execute("SELECT * FROM marker")
        self.markers = {shard: (number, json.loads(line)) for shard, number, line in rows}

    def begin(self, created, last, markers, retention_s):
        """Decides where to go on in the stream: after the position, or at the beginning."""
        # A day of reserve: removals disappear after the retention, by the server's clock.
        away = time.time() - self.current_at
        is_late = away > max(retention_s - 86400, retention_s / 2)
        is_same = created == self.stream and self.sequence <= last
        if is_same and not is_late and self.knows(markers):
            return
        self.stream, self.sequence, self.markers = created, 0, markers
        self.passes, self.whole, self.current_at = self.passes + 1, 0, time.time()

    def knows(self, markers):
        """Whether the stream with these last markers goes on from what was read of it."""
        if self.markers.keys() - markers.keys():
            return False
        for shard, (number, line) in markers.items():
            known_number, known = self.markers.get(shard, (0, None))
            goes_on = known and pass_of(line) == pass_of(known) and number >= known_number
            is_later = (line["began"] or number) > self.sequence
            is_other = known and line["writer"] != known["writer"]
            if is_other or not (goes_on or is_later):
                return False
        return True

    def apply(self, messages, at_end):
        if self.whole and not messages and time.time() < self.current_at + 60:
            return  # nothing new to save
        with self.db:
            for message in messages:
                self.sequence = message.metadata.sequence.stream
                try:
                    self.apply_line(message.subject, json.loads(message.data))
                except (ValueError, LookupError, TypeError):
                    continue  # not of calmirror
            if at_end:
                self.current_at = time.time()
            if at_end and not self.whole and is_whole(self.markers):
                # What was not in the stream.
                self.db.execute("DELETE FROM event WHERE pass <> ?", (self.passes,))
                self.whole = 1
            self.db.execute("DELETE FROM position")
            row = (self.stream, self.sequence, self.passes, self.whole, self.current_at)
            self.db.execute("INSERT INTO position VALUES (?, ?, ?, ?, ?)", row)
            self.db.execute("DELETE FROM marker")
            rows = [(shard, number, json.dumps(line)) for shard, (number, line) in self.markers.items()]
            self.db.executemany("INSERT INTO marker VALUES (?, ?, ?)", rows)

    def apply_line(self, subject, line):
        shard = shard_of(subject)
        if shard is not None and line["shard"]:
            self.markers[shard] = (self.sequence, line)
        elif line["change"] == "removed":
            key = (line["window"], line["id"])
            self.db.execute("DELETE FROM event WHERE window = ? AND id = ?", key)
        else:
            row = (line["window"], line["id"], json.dumps(line["event"]), self.passes)
            self.db.execute("INSERT OR REPLACE INTO event VALUES (?, ?, ?, ?)", row)


def shard_of(subject):
    """The shard whose markers have this subject; None if it is that of an event."""
    kind, last = subject.split(".")[-2:]
    return int(last) if kind == "snapshot" else None


def pass_of(marker):
    return marker["snapshot"], marker["pass"]


def is_whole(markers):
    """Whether every shard has sent everything. Those that are no more do not count."""
    shards = []
    for shard, (_, line) in markers.items():
        count = int(line["shard"].split("/")[1])
        if shard < count or line["change"] != "divided":
            shards.append((shard < count, count, line["change"]))
    return bool(shards) and all(one == (True, len(shards), "snapshot_ends") for one in shards)


async def last_markers(jetstream, options):
    """When the stream was created, its last number, and the last marker of each shard."""
    info = await jetstream.stream_info(options.stream, subjects_filter=f"{options.subject}.snapshot.*")
    markers = {}
    for subject in info.state.subjects or {}:
        found = await jetstream.get_last_msg(options.stream, subject)
        markers[shard_of(subject)] = (found.seq, json.loads(found.data))
    return str(info.created), info.state.last_seq, markers


async def follow(copy, options):
    # A connection that reconnects by itself would go on behind what was lost with the old one.
    client = await nats.connect(
        options.url.split(","), user_credentials=options.credentials, allow_reconnect=False
    )
    try:
        jetstream = client.jetstream()
        created, last, markers = await last_markers(jetstream, options)
        copy.begin(created, last, markers, options.retention_days * 86400)
        config = ConsumerConfig(
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=copy.sequence + 1,
            ack_policy=AckPolicy.NONE,
            inactive_threshold=60,
            filter_subject=f"{options.subject}.*.*",
        )
        consumer = await jetstream.pull_subscribe(
            config.filter_subject, stream=options.stream, config=config
        )
        if str((await jetstream.stream_info(options.stream)).created) != created:
            raise Again("the stream was replaced")
        messages, delivered, last_news = [], 0, time.monotonic()
        while True:
            for message in messages:
                delivered += 1
                if message.metadata.sequence.consumer != delivered:
                    raise Again("messages were lost on the way")
            if messages:
                pending, last_news = messages[-1].metadata.num_pending, time.monotonic()
            else:
                # Without an answer of the server, the silence may be that of a lost consumer.
                info = await consumer.consumer_info()
                if info.delivered.consumer_seq != delivered:
                    raise Again("messages were lost on the way")
                pending = info.num_pending
            copy.apply(messages, at_end=pending == 0)
            if options.once and pending == 0 and copy.whole and is_whole(copy.markers):
                return
            if options.once and time.monotonic() - last_news > 60:
                raise SystemExit("the stream is not whole: are all shards running?")
            try:
                # What is there, or else the next one.
                messages = await consumer.fetch(max(1, min(pending, 500)), timeout=1)
            except (nats.errors.TimeoutError, asyncio.TimeoutError):
                messages = []
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
    while True:
        try:
            return asyncio.run(follow(Copy(options.db), options))
        except (Again, nats.errors.Error, OSError, sqlite3.OperationalError) as error:
            if options.once:
                raise SystemExit(f"{type(error).__name__}: {error}")
            print(f"tries again: {type(error).__name__}: {error}", flush=True)
            time.sleep(2)


if __name__ == "__main__":
    main()
