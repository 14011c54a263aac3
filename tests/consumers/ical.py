"""Reads a window twice, as JSON and as iCalendar, and compares them event by event.

The parser is the `icalendar` of PyPI; what an event has to look like is worked out here anew.
usage: ical.py SOCKET
"""

import html.parser
import http.client
import json
import re
import socket
import sys
import urllib.parse
from datetime import date, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import icalendar

WINDOWS = {
    "UTC": "UTC",
    "W. Europe Standard Time": "Europe/Berlin",
    "Pacific Standard Time": "America/Los_Angeles",
    "India Standard Time": "Asia/Kolkata",
}


class Unix(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(sys.argv[1])


def get(path):
    connection = Unix("localhost")
    connection.request("GET", path)
    answer = connection.getresponse()
    body = answer.read()
    assert answer.status == 200, (path, answer.status, body[:300])
    return body


def windows():
    page = ""
    while page is not None:
        answer = json.loads(get(f"/v1/windows?limit=1000{page}"))
        yield from (window["name"] for window in answer["value"])
        page = answer["next"] and f"&page={answer['next']}"


def events(name):
    page = ""
    while page is not None:
        answer = json.loads(get(f"/v1/windows/{name}/events?limit=500{page}"))
        yield from answer["value"]
        page = answer["next"] and f"&page={answer['next']}"


class Text(html.parser.HTMLParser):
    """The text of a document; white space does not count."""

    def __init__(self):
        super().__init__()
        self.text, self.hidden = [], 0

    def handle_starttag(self, tag, attributes):
        self.hidden += tag in ("head", "style", "script", "title")

    def handle_endtag(self, tag):
        self.hidden -= tag in ("head", "style", "script", "title")

    def handle_data(self, data):
        if not self.hidden:
            self.text.append(data)


def squeezed(text):
    return re.sub(r"\s", "", text)


def instant(moment, all_day):
    local = datetime.fromisoformat(moment["dateTime"][:19])
    if all_day:
        assert local.time() == datetime.min.time()
        return local.date()
    zone = ZoneInfo(WINDOWS.get(moment["timeZone"], moment["timeZone"]))
    return local.replace(tzinfo=zone).astimezone(timezone.utc)


def uid(event):
    given = event["iCalUId"]
    return given[:32] + "00000000" + given[40:] if given.startswith("040000008200E00074C5B7101A82E008") else given


def body(event):
    content = event.get("body", {}).get("content", "")
    if event.get("body", {}).get("contentType") == "html":
        parser = Text()
        parser.feed(content)
        parser.close()
        content = "".join(parser.text)
    return squeezed(content) or squeezed(event.get("bodyPreview", ""))


def stamp(text):
    return datetime.fromisoformat(text[:19]).replace(tzinfo=timezone.utc)


ANSWERS = {"accepted": "ACCEPTED", "organizer": "ACCEPTED", "declined": "DECLINED", "tentativelyAccepted": "TENTATIVE"}
ROLES = {"required": "REQ-PARTICIPANT", "optional": "OPT-PARTICIPANT", "resource": "NON-PARTICIPANT"}


def expected(event):
    all_day = event["isAllDay"]
    start = instant(event["start"], all_day)
    original = None
    if event["type"] == "occurrence":
        original = start
    elif event["type"] == "exception":
        at = datetime.fromisoformat(event["originalStart"].replace("Z", "+00:00"))
        original = (at + timedelta(hours=12)).date() if all_day else at
    end = instant(event["end"], all_day)
    return {
        "uid": uid(event),
        "original": original,
        "start": start,
        "end": end if end > start else None,
        "summary": event["subject"].replace("\r\n", "\n"),
        "description": body(event),
        "location": event["location"]["displayName"],
        "categories": event["categories"],
        "class": {"normal": "PUBLIC", "personal": "PRIVATE"}.get(event["sensitivity"], event["sensitivity"].upper()),
        "transp": "TRANSPARENT" if event["showAs"] in ("free", "workingElsewhere") else "OPAQUE",
        "status": "CANCELLED" if event["isCancelled"] else "TENTATIVE" if event["showAs"] == "tentative" else "CONFIRMED",
        "stamp": stamp(event["lastModifiedDateTime"]),
        "created": stamp(event["createdDateTime"]),
        "url": event["webLink"],
        "organizer": person(event["organizer"]),
        "attendees": [
            person(a) + (ROLES[a["type"]], ANSWERS.get(a["status"]["response"], "NEEDS-ACTION"))
            for a in event["attendees"]
        ],
    }


def person(somebody):
    email = somebody["emailAddress"]
    return ("mailto:" + email["address"], email["name"])


def read(entry):
    def at(name):
        value = entry.get(name)
        if value is None:
            return None
        value = value.dt
        return value if type(value) is date else value.astimezone(timezone.utc)

    def text(name):
        return str(entry.get(name, ""))

    categories = entry.get("CATEGORIES")
    attendees = entry.get("ATTENDEE", [])
    attendees = attendees if isinstance(attendees, list) else [attendees]
    return {
        "uid": text("UID"),
        "original": at("RECURRENCE-ID"),
        "start": at("DTSTART"),
        "end": at("DTEND"),
        "summary": text("SUMMARY"),
        "description": squeezed(text("DESCRIPTION")),
        "location": text("LOCATION"),
        "categories": [str(one) for one in categories.cats] if categories else [],
        "class": text("CLASS"),
        "transp": text("TRANSP"),
        "status": text("STATUS"),
        "stamp": at("DTSTAMP"),
        "created": at("CREATED"),
        "url": text("URL"),
        "organizer": (str(entry["ORGANIZER"]), entry["ORGANIZER"].params.get("CN", "")),
        "attendees": [
            (str(a), a.params.get("CN", ""), a.params["ROLE"], a.params["PARTSTAT"]) for a in attendees
        ],
    }


def main():
    compared = series = days = zoned = 0
    for name in windows():
        quoted = urllib.parse.quote(name, safe="")
        raw = get(f"/v1/windows/{quoted}/calendar.ics")
        assert raw.endswith(b"END:VCALENDAR\r\n"), raw[-80:]
        assert all(len(line) <= 76 for line in raw.split(b"\r\n")), "folded"
        calendar = icalendar.Calendar.from_ical(raw)
        assert not calendar.errors and str(calendar["X-WR-CALNAME"]) == name
        entries = {}
        for entry in calendar.walk("VEVENT"):
            assert not entry.errors, entry.errors
            shape = read(entry)
            key = (shape["uid"], shape["original"])
            assert key not in entries, f"{name}: two events are {key}"
            entries[key] = shape
        masters = {}
        for event in events(quoted):
            wanted = expected(event)
            key = (wanted["uid"], wanted["original"])
            found = entries.pop(key, None)
            assert found is not None, f"{name}: {key} is not in the calendar"
            for member in wanted:
                assert found[member] == wanted[member], (name, member, found[member], wanted[member])
            if event["seriesMasterId"]:
                # All instances of a series have one UID, and no other series has it.
                assert masters.setdefault(event["seriesMasterId"], wanted["uid"]) == wanted["uid"]
                series += 1
            compared += 1
            days += event["isAllDay"]
            zoned += event["start"]["timeZone"] != "UTC"
        assert len(set(masters.values())) == len(masters)
        assert not entries, f"{name}: {len(entries)} more in the calendar than in the window"
    assert compared > 2000, compared
    print(f"{compared} events: same instants, same texts ({series} of series, {days} all day, {zoned} in other zones than UTC)")


main()
