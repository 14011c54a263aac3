"""Compares consumers' copies with the mirror itself: verify.py SOCKET-OR-URL FILTER COPY.SQLITE...

Without a filter ('') it reads the windows one by one, with one the filtered /v1/events. Compares
event by event, as JSON values. Exits with 1 and prints the differences if there are any. Over TCP
it sends $CALMIRROR_TOKEN.
"""

import importlib.util
import json
import os
import pathlib
import sqlite3
import sys
from urllib.parse import quote

consumer = pathlib.Path(__file__).parents[2] / "docs/consume/consume.py"
spec = importlib.util.spec_from_file_location("consume", consumer)
consume = importlib.util.module_from_spec(spec)
sys.dont_write_bytecode = True
spec.loader.exec_module(consume)


def mirror(api):
    events = {}
    if api.filter:
        for page in consume.pages(api, "/v1/events", limit=1000, **api.filter):
            for one in page:
                events[one["window"], one["event"]["id"]] = one["event"]
        return events
    for windows in consume.pages(api, "/v1/windows", limit=1000):
        for window in (one["name"] for one in windows):
            for page in consume.pages(api, f"/v1/windows/{quote(window, safe='')}/events", limit=1000):
                for event in page:
                    events[window, event["id"]] = event
    return events


def copy(path):
    db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    return {(window, id): json.loads(event) for window, id, event in db.execute("SELECT window, id, event FROM event")}


wanted = mirror(consume.Api(sys.argv[1], os.environ.get("CALMIRROR_TOKEN"), sys.argv[2]))
bad = 0
for path in sys.argv[3:]:
    have = copy(path)
    missing, extra = wanted.keys() - have.keys(), have.keys() - wanted.keys()
    differ = [key for key in wanted.keys() & have.keys() if wanted[key] != have[key]]
    if missing or extra or differ or not wanted:
        bad += 1
        print(f"{path}: {len(missing)} missing, {len(extra)} too many, {len(differ)} different of {len(wanted)}")
    else:
        print(f"{path}: equal, {len(wanted)} events")
sys.exit(bool(bad))
