"""A Graph with one mailbox of events that are hard to write as iCalendar. Prints its port.

Each event has a form that was observed or is possible. usage: odd.py
"""

import http.server
import json
import urllib.parse

GLOBAL = "040000008200E00074C5B7101A82E008"
TEXTS = [
    "ж" * 72 + " -" * 38, "ж" * 72 + "\xa0" * 80, "ж" * 10 + "\xa0" * 132, "🎉" * 90, "x" * 66, "x" * 67, "é" * 33 + "x",
    "", " ", None, "two\r\nlines", "bell\x07 and null\x00", "nonchar\ufffe\uffff\ufdd0", "para\u2029line\u2028next\x85end",
    "BEGIN:VEVENT", "END:VCALENDAR\r\nBEGIN:VCALENDAR", "a;b,c\\n d\\", '"quoted": ^^ ^n', "\ttab", "פגישה חשובה", "日本語の会議" * 20,
    "e\u0301" * 80, "👩‍👩‍👧‍👦" * 12, " leading", "trailing ", "http://a.example/?b=c&d;e", "#" * 500, "\u202eright to left", "%0D%0A", "=?utf-8?Q?x?=",
]
BODIES = [
    "<p>Caf&eacute; &rarr; &check; &amp;lt;</p>", "<pre>line 1\r\n  line 2</pre>", '<p title="a > b">shown</p>',
    '<a href="https://a.example/?x=1&amp;y=2">link</a>', "<!-- never ends", "<style>never ends", "ж" * 72 + "&nbsp;" * 80,
    "<div>" * 5000 + "deep", "<a href='https://b.example'>" * 50, "&#xFFFE;&#0;&#x1F389;", "",
]
SPELLINGS = [
    lambda at: {"dateTime": f"{at}.0000000", "timeZone": "UTC"},
    lambda at: {"dateTime": f"{at}+01:00", "timeZone": "W. Europe Standard Time"},
    lambda at: {"dateTime": f"{at}-0500", "timeZone": "Custom Zone"},
    lambda at: {"dateTime": f"{at}.12345678912", "timeZone": "UTC"},
    lambda at: {"datetime": at, "timezone": "India Standard Time"},
    lambda at: {"dateTime": f"{at}Z", "timeZone": "UTC"},
]
count = 0


def event(day, hour=9, **more):
    """A full event of one hour on a day of June 2026."""
    global count
    count += 1
    date = f"2026-06-{day:02}"
    spelled = more.pop("spelled", SPELLINGS[count % len(SPELLINGS)])
    spelled = SPELLINGS[0] if more.get("isAllDay") else spelled
    if more.get("isAllDay"):
        start, end = spelled(f"{date}T00:00:00"), spelled(f"2026-06-{day + 1:02}T00:00:00")
    else:
        start, end = spelled(f"{date}T{hour:02}:00:00"), spelled(f"{date}T{hour + 1:02}:00:00")
    text = TEXTS[count % len(TEXTS)]
    person = {"emailAddress": {"name": text, "address": "a b@c.example" if count % 3 else None}}
    return {
        "@odata.etag": f'W/"{count}"', "id": f"AAMk{count:06}_-AAA=", "type": "singleInstance", "seriesMasterId": None,
        "createdDateTime": "2026-01-01T00:00:00Z", "lastModifiedDateTime": "2026-01-02T00:00:00.1234567Z",
        "iCalUId": f"{GLOBAL}00000000{count:032X}", "subject": text, "bodyPreview": text, "isAllDay": False, "isCancelled": False,
        "body": {"contentType": "html", "content": BODIES[count % len(BODIES)]}, "showAs": ["busy", "unknown", "oof"][count % 3],
        "sensitivity": "normal", "importance": "high", "location": {"displayName": text}, "categories": [text or "", "a,b"],
        "webLink": text, "organizer": person, "attendees": [person | {"type": "required"}], "recurrence": None,
        "onlineMeeting": {"joinUrl": "https://teams.example/l/19%3ameeting?x={}"} if count % 2 else None,
        "start": start, "end": end,
    } | more


def occurrence(master, day, hour=9):
    one = event(day, hour, isAllDay=master["isAllDay"], spelled=SPELLINGS[0])
    kept = ("id", "start", "end")
    return {name: one[name] for name in kept} | {
        "@odata.etag": master["@odata.etag"], "type": "occurrence", "seriesMasterId": master["id"],
    }


def exception(master, day, original, **more):
    more = {"spelled": SPELLINGS[0], "iCalUId": master["iCalUId"]} | more
    return event(day, type="exception", seriesMasterId=master["id"], originalStart=original, **more)


def master(**more):
    return event(1, type="seriesMaster", recurrence={"pattern": {"type": "daily"}, "range": {"type": "noEnd"}}, **more)


def window():
    items = [event(1 + index % 27, index % 22) for index in range(300)]
    # Copies: one iCalUId for several events, at the same time and at different times, and no
    # iCalUId at all.
    for index in range(20):
        shared = {"iCalUId": f"copy-{index // 3}\x07" if index % 2 else f"copy-{index // 3}"}
        items.append(event(3 + index % 20, 4, createdDateTime=f"2026-01-{1 + index % 4:02}T00:00:00Z", **shared))
        items.append(event(4, 7, iCalUId=None))
    # All-day series created in different time zones, with one day moved, renamed, or turned into an
    # hour.
    midnights = [
        "09T23:00", "10T08:00", "10T10:00", "09T12:00", "09T11:00", "09T10:15", "09T10:00", "10T00:00", "09T18:30",
    ]
    for midnight in midnights:
        for change in ({"day": 10}, {"day": 9}, {"day": 20}, {"day": 20, "isAllDay": False}):
            series = master(isAllDay=True)
            change = {"isAllDay": True} | change
            items += [series, *(occurrence(series, day) for day in (8, 9, 11, 12))]
            items.append(exception(series, change.pop("day"), f"2026-06-{midnight}:00Z", **change))
    # Series with times, of which one instance became all-day; without a UID; two with the same UID.
    for index in range(10):
        shared = {"iCalUId": None if index % 3 == 0 else f"{GLOBAL}07EA0601{index // 2:032X}"}
        series = master(**shared)
        items += [series, *(occurrence(series, day) for day in (14, 15, 17))]
        items.append(exception(series, 16, "2026-06-16T09:00:00Z", isAllDay=bool(index % 2)))
    # In the night when clocks are set back, and events without duration.
    for start, end in (("02:45", "02:15"), ("02:15", "02:15"), ("01:00", "03:00")):
        moment = lambda time: {"dateTime": f"2026-10-25T{time}:00", "timeZone": "W. Europe Standard Time"}
        items.append(event(1, start=moment(start), end=moment(end)))
    return items


class Graph(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    items = window()

    def log_message(self, *arguments):
        pass

    def answer(self, body):
        body = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"] or 0))
        self.answer({"token_type": "Bearer", "expires_in": 3599, "access_token": "odd"})

    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        link = f"http://{self.headers['Host']}{url.path}?$deltatoken=1"
        is_first = "deltatoken" not in url.query
        self.answer({"value": self.items if is_first else [], "@odata.deltaLink": link})


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Graph)
print(server.server_port, flush=True)
server.serve_forever()
