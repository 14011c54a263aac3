#!/usr/bin/env python3
"""Keeps a copy of calmirror's mirror in SQLite, with nothing but Python's standard library.

    consume.py --db copy.sqlite [--api SOCKET-OR-URL] [--token-file FILE] [--filter FILTER] [--once]

It reads a snapshot first, then the feed. These rules keep the copy exact:

* The cursor is requested before the snapshot: changes made during the snapshot are repeated in
  the feed.
* The contents of a response and its cursor are stored in one transaction, after the complete
  response has arrived. After a kill at any moment, the next start continues from there.
* 410 means that the feed no longer has all changes since the cursor: a new snapshot is read
  beside the old copy, which is replaced at the end. Readers never see an empty copy.

The copy is the table `event(window, id, event)`; `event` is the JSON that Graph sent. With a
filter it has the events that match: one that no longer does is removed like any other.
"""

import argparse
import http.client
import json
import os
import re
import socket
import sqlite3
import sys
import time
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

SCHEMA = """
CREATE TABLE IF NOT EXISTS event (
    window TEXT NOT NULL, id TEXT NOT NULL, event TEXT NOT NULL,
    generation INTEGER NOT NULL,  -- the last snapshot with this event, or the running one
    PRIMARY KEY (window, id)) WITHOUT ROWID;
-- One row. `cursor`: where the feed continues; null until the first snapshot is complete.
-- `snapshot`: the cursor from which the feed continues once the running snapshot is complete.
CREATE TABLE IF NOT EXISTS place (
    one INTEGER PRIMARY KEY CHECK (one = 1), cursor TEXT, snapshot TEXT, generation INTEGER NOT NULL);
INSERT OR IGNORE INTO place VALUES (1, NULL, NULL, 0);
-- The windows that the running snapshot has read.
CREATE TABLE IF NOT EXISTS done (window TEXT PRIMARY KEY) WITHOUT ROWID;
"""


class SnapshotRequired(Exception):
    """The cursor is older than the retained removals, or belongs to another store."""


class Api:
    """The daemon, over a Unix socket or HTTP; each request has its own connection."""

    def __init__(self, where, token, filter=""):
        self.where, self.token, self.filter = where, token, dict(parse_qsl(filter))

    def connect(self, timeout):
        if self.where.startswith("http://"):
            return http.client.HTTPConnection(urlsplit(self.where).netloc, timeout=timeout)
        connection = http.client.HTTPConnection("localhost", timeout=timeout)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(timeout)
        connection.sock.connect(self.where)
        return connection

    def reason(self, error):
        """Why there was no response, and from which address."""
        text = str(error) or type(error).__name__
        return f"no response from {self.where}: {text}"

    def get(self, path, timeout=60, **parameters):
        """The body and the headers. Raises OSError or HTTPException for temporary errors."""
        query = urlencode({name: value for name, value in parameters.items() if value is not None})
        connection = self.connect(timeout)
        try:
            headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
            connection.request("GET", f"{path}?{query}" if query else path, headers=headers)
            answer = connection.getresponse()
            body = answer.read()  # complete, or IncompleteRead
            if answer.status == 410:
                raise SnapshotRequired
            if answer.status >= 500:
                raise OSError(f"{path}: {answer.status} {body.decode(errors='replace')}")
            if answer.status == 404:
                return None, answer.headers
            if answer.status != 200:
                sys.exit(f"{path}: {answer.status} {body.decode(errors='replace')}")
            return body, answer.headers
        finally:
            connection.close()


def pages(api, path, **parameters):
    """The values of all pages; none if the resource does not exist any more."""
    page = None
    while True:
        body, _ = api.get(path, page=page, **parameters)
        if body is None:
            return
        answer = json.loads(body)
        yield answer["value"]
        page = answer["next"]
        if page is None:
            return


def begin_snapshot(api, db):
    """Stores the cursor first: changes made during the snapshot are repeated in the feed."""
    _, headers = api.get("/v1/changes", after="now", **api.filter)
    with db:
        db.execute("DELETE FROM done")
        db.execute("UPDATE place SET snapshot = ?, generation = generation + 1",
                   (headers["X-Calmirror-Cursor"],))


def snapshot(api, db):
    """Reads every window that is not yet done, each in one transaction."""
    (generation,) = db.execute("SELECT generation FROM place").fetchone()
    done = {window for (window,) in db.execute("SELECT window FROM done")}
    for windows in pages(api, "/v1/windows", limit=1000):
        for window in (one["name"] for one in windows):
            if window in done:
                continue
            path = f"/v1/windows/{quote(window, safe='')}/events"
            with db:
                for events in pages(api, path, limit=1000, **api.filter):
                    db.executemany("INSERT OR REPLACE INTO event VALUES (?, ?, ?, ?)",
                                   ((window, one["id"], json.dumps(one), generation) for one in events))
                db.execute("INSERT INTO done VALUES (?)", (window,))
    with db:
        db.execute("DELETE FROM event WHERE generation < ?", (generation,))
        db.execute("UPDATE place SET cursor = snapshot, snapshot = NULL")
        db.execute("DELETE FROM done")
    count, = db.execute("SELECT count(*) FROM event").fetchone()
    print(f"snapshot: {count} events", flush=True)


def follow(api, db, cursor, wait):
    """Applies one response of the feed. Returns whether it contained changes."""
    body, headers = api.get("/v1/changes", after=cursor, limit=1000, wait=wait, **api.filter)
    lines = [json.loads(line) for line in body.splitlines()]
    with db:
        for line in lines:
            if line["change"] == "removed":
                db.execute("DELETE FROM event WHERE window = ? AND id = ?", (line["window"], line["id"]))
            else:
                db.execute("INSERT OR REPLACE INTO event SELECT ?, ?, ?, generation FROM place",
                           (line["window"], line["id"], json.dumps(line["event"])))
        db.execute("UPDATE place SET cursor = ?", (headers["X-Calmirror-Cursor"],))
    if lines:
        print(f"{len(lines)} changes", flush=True)
    return bool(lines)


def consume(api, db, once):
    delay = 0.5
    while True:
        try:
            cursor, running = db.execute("SELECT cursor, snapshot FROM place").fetchone()
            if running is not None:
                snapshot(api, db)
            elif cursor is None:
                begin_snapshot(api, db)
            elif not follow(api, db, cursor, None if once else "30s") and once:
                return
            delay = 0.5
        except SnapshotRequired:
            print("cursor expired, or another store: reading a new snapshot", flush=True)
            with db:
                db.execute("UPDATE place SET cursor = NULL, snapshot = NULL")
        except (OSError, http.client.HTTPException) as error:
            if once:
                sys.exit(api.reason(error))
            print(f"{api.reason(error)}; retrying in {delay:.1f} s", file=sys.stderr, flush=True)
            time.sleep(delay)
            delay = min(delay * 2, 30)


def main():
    parser = argparse.ArgumentParser(description="Keeps a copy of calmirror's mirror in SQLite.")
    parser.add_argument("--api", default="/run/calmirror/api.sock", help="socket, HOST:PORT or http://HOST:PORT")
    parser.add_argument("--token-file", help="for TCP")
    parser.add_argument("--db", required=True)
    parser.add_argument("--filter", default="", help="such as 'cancelled=false&response=!declined'")
    parser.add_argument("--once", action="store_true",
                        default=bool(os.environ.get("CALMIRROR_ONCE") or os.environ.get("ONCE")),
                        help="exit as soon as there is nothing left to read, with 1 if the daemon does "
                             "not respond; $CALMIRROR_ONCE=1 and $ONCE=1 do the same")
    options = parser.parse_args()
    token = open(options.token_file).read().strip() if options.token_file else None
    if not options.api.startswith("http://") and re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[\w.-]+):\d+", options.api):
        options.api = f"http://{options.api}"
    db = sqlite3.connect(options.db)
    db.execute("PRAGMA journal_mode = WAL")
    db.executescript(SCHEMA)
    try:
        consume(Api(options.api, token, options.filter), db, options.once)
    except KeyboardInterrupt:
        pass  # everything read so far is stored


if __name__ == "__main__":
    main()
