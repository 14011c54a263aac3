"""Reads windows as JSON and as iCalendar in both forms, and compares them event by event.

The parser is the `icalendar` of PyPI; the expected form of an event is computed here independently.
For other readers it writes each calendar to DIRECTORY, with the starts of the events that a reader
has to show: NAME.ics, NAME.linked.ics, NAME.starts.
usage: ical.py SOCKET DIRECTORY [--odd]    for odd events only their names and times are compared
"""

import hashlib
import html.parser
import http.client
import json
import pathlib
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
    """The text of a document; white space is ignored."""

    def __init__(self):
        super().__init__()
        self.text, self.hidden = [], 0

    def handle_starttag(self, tag, attributes):
        self.hidden += tag in ("head", "style", "script", "title")
        if tag == "a":
            self.link = dict(attributes).get("href")

    def handle_endtag(self, tag):
        self.hidden -= tag in ("head", "style", "script", "title")
        if tag == "a" and self.link:
            self.text.append(f"<{self.link}>")

    def handle_data(self, data):
        if not self.hidden:
            self.text.append(data)


def squeezed(text):
    return re.sub(r"\s", "", text)


def instant(moment, all_day, fold=0):
    moment = {name.lower(): value for name, value in moment.items()}
    text, zone = moment["datetime"], moment["timezone"]
    local = datetime.fromisoformat(text[:19])
    if all_day:
        assert local.time() == datetime.min.time()
        return local.date()
    offset = re.search(r"(Z|[+-]\d\d:?\d\d)$", text[19:])
    if offset:
        return datetime.fromisoformat(text[:19] + offset[1]).astimezone(timezone.utc)
    return local.replace(tzinfo=ZoneInfo(WINDOWS.get(zone, zone)), fold=fold).astimezone(timezone.utc)


INSTANCES = ("occurrence", "exception")


def carried(text):
    """The part of a text that iCalendar can represent."""
    text = re.sub("\r\n|[\r\x85\u2028\u2029]", "\n", text)
    return re.sub("[\0-\x08\x0b-\x1f\x7f-\x9f\ufdd0-\ufdef\ufffe\uffff]", "", text)


def owner(event):
    return event["seriesMasterId"] if event["type"] in INSTANCES else event["id"]


def uid(event):
    """Graph's UID, which is the same for all instances of a series."""
    given = carried(event["iCalUId"] or "")
    if event["type"] in INSTANCES and given.startswith("040000008200E00074C5B7101A82E008"):
        given = given[:32] + "00000000" + given[40:]
    return given or owner(event)


def uids(window):
    """The UID by owner: Graph's, which only the oldest owner keeps unchanged."""
    owners = {}
    for event in window:
        key = (uid(event), owner(event))
        owners[key] = min(owners.get(key, "9999"), event["createdDateTime"])
    oldest = {}
    for (name, id), created in owners.items():
        oldest[name] = min(oldest.get(name, ("9999~",)), (created, id))
    return {
        (name, id): name if oldest[name][1] == id else f"{name}/{hashlib.sha256(id.encode()).hexdigest()[:8]}"
        for name, id in owners
    }


def originals(window):
    """The starts of instances according to their series' rule, by id."""
    days = {owner(e) for e in window if e["type"] == "occurrence" and e["isAllDay"]}
    taken = {(owner(e), instant(e["start"], e["isAllDay"])) for e in window if e["type"] == "occurrence"}
    found = {}
    for event in window:
        if event["type"] == "occurrence":
            found[event["id"]] = instant(event["start"], event["isAllDay"])
        elif event["type"] == "exception":
            at = datetime.fromisoformat(event["originalStart"].replace("Z", "+00:00"))
            if owner(event) in days:
                possible = {(at + timedelta(hours=hours)).date() for hours in (0, 14)}
                midnight = lambda day: datetime(day.year, day.month, day.day, tzinfo=timezone.utc) - at
                possible = {day for day in possible if timedelta(hours=-12) <= midnight(day) <= timedelta(hours=14)}
                free = {day for day in possible if (owner(event), day) not in taken}
                assert len(free) == 1, (event["id"], free)
                at = free.pop()
            found[event["id"]] = at
    return found


def written(at):
    """A start in iCalendar's form."""
    return at.strftime("%Y%m%dT%H%M%SZ" if isinstance(at, datetime) else "%Y%m%d")


def body(event):
    content = event.get("body", {}).get("content", "")
    if event.get("body", {}).get("contentType") == "html":
        parser = Text()
        parser.feed(content)
        parser.close()
        content = "".join(parser.text)
    content = squeezed(content) or squeezed(event.get("bodyPreview", ""))
    join = (event["onlineMeeting"] or {}).get("joinUrl", "")
    return content if join in content else f"{content}Jointhemeeting<{join}>"


def stamp(text):
    return datetime.fromisoformat(text[:19]).replace(tzinfo=timezone.utc)


ANSWERS = {"accepted": "ACCEPTED", "organizer": "ACCEPTED", "declined": "DECLINED", "tentativelyAccepted": "TENTATIVE"}
ROLES = {"required": "REQ-PARTICIPANT", "optional": "OPT-PARTICIPANT", "resource": "NON-PARTICIPANT"}


def called(event, names, found, linked):
    """An event's UID and RECURRENCE-ID."""
    name = names[uid(event), owner(event)]
    original = found.get(event["id"])
    if linked or original is None:
        return name, original
    return f"{name}/{written(original)}", None


def when(event):
    all_day = event["isAllDay"]
    start, end = instant(event["start"], all_day), instant(event["end"], all_day)
    if end < start:
        # The second time that the clock shows this time.
        end = instant(event["end"], all_day, fold=1)
    return {
        "start": start,
        "end": end if end > start else None,
        "summary": carried(event["subject"] if (event["subject"] or "").strip() else ""),
    }


def expected(event):
    return when(event) | {
        "description": body(event),
        "location": event["location"]["displayName"],
        "categories": event["categories"],
        "class": {"normal": "PUBLIC", "personal": "PRIVATE"}.get(event["sensitivity"], event["sensitivity"].upper()),
        "transp": "TRANSPARENT" if event["showAs"] in ("free", "workingElsewhere") else "OPAQUE",
        "status": "CANCELLED" if event["isCancelled"] else "TENTATIVE" if event["showAs"] == "tentative" else "CONFIRMED",
        "stamp": stamp(event["lastModifiedDateTime"]),
        "created": stamp(event["createdDateTime"]),
        "url": event["webLink"],
        "join": (event["onlineMeeting"] or {}).get("joinUrl", ""),
        "organizer": person(event["organizer"]),
        "attendees": [
            person(a) + (ROLES[a["type"]], ANSWERS.get(a["status"]["response"], "NEEDS-ACTION"))
            for a in event["attendees"]
        ],
    }


def person(somebody):
    email = somebody["emailAddress"]
    return ("mailto:" + email["address"], email["name"])


def read(entry, odd):
    def at(name):
        value = entry.get(name)
        if value is None:
            return None
        value = value.dt
        return value if type(value) is date else value.astimezone(timezone.utc)

    def text(name):
        return str(entry.get(name, ""))

    shape = {
        "uid": text("UID"),
        "original": at("RECURRENCE-ID"),
        "start": at("DTSTART"),
        "end": at("DTEND"),
        "summary": text("SUMMARY"),
    }
    if odd:
        return shape
    categories = entry.get("CATEGORIES")
    attendees = entry.get("ATTENDEE", [])
    attendees = attendees if isinstance(attendees, list) else [attendees]
    return shape | {
        "description": squeezed(text("DESCRIPTION")),
        "location": text("LOCATION"),
        "categories": [str(one) for one in categories.cats] if categories else [],
        "class": text("CLASS"),
        "transp": text("TRANSP"),
        "status": text("STATUS"),
        "stamp": at("DTSTAMP"),
        "created": at("CREATED"),
        "url": text("URL"),
        "join": text("CONFERENCE"),
        "organizer": (str(entry["ORGANIZER"]), entry["ORGANIZER"].params.get("CN", "")),
        "attendees": [
            (str(a), a.params.get("CN", ""), a.params["ROLE"], a.params["PARTSTAT"]) for a in attendees
        ],
    }


def compare(name, raw, window, linked, odd):
    """Compares a calendar with the events that it has to contain."""
    assert raw.endswith(b"END:VCALENDAR\r\n"), raw[-80:]
    assert all(len(line) <= 75 for line in raw.split(b"\r\n")), "folded"
    calendar = icalendar.Calendar.from_ical(raw)
    assert not calendar.errors and str(calendar["X-WR-CALNAME"]) == name
    entries = {}
    for entry in calendar.walk("VEVENT"):
        assert not entry.errors, entry.errors
        assert "SUMMARY" in entry
        shape = read(entry, odd)
        key = (shape.pop("uid"), shape.pop("original"))
        assert key not in entries, f"{name}: two events are {key}"
        entries[key] = shape
    names, found = uids(window), originals(window)
    for event in window:
        wanted = when(event) if odd else expected(event)
        key = called(event, names, found, linked)
        shape = entries.pop(key, None)
        assert shape is not None, f"{name}: {key} is not in the calendar"
        for member in wanted:
            assert shape[member] == wanted[member], (name, member, shape[member], wanted[member])
    assert not entries, f"{name}: {len(entries)} more in the calendar than in the window"
    if linked:
        # All instances of a series have the same UID, and no other series has it.
        masters = {(owner(e), names[uid(e), owner(e)]) for e in window if e["type"] in INSTANCES}
        assert len(masters) == len({id for id, _ in masters}) == len({name for _, name in masters})


def main():
    directory, odd = pathlib.Path(sys.argv[2]), "--odd" in sys.argv
    compared = series = days = zoned = 0
    for index, name in enumerate(windows()):
        quoted = urllib.parse.quote(name, safe="")
        window = list(events(quoted))
        for linked in (False, True):
            raw = get(f"/v1/windows/{quoted}/calendar.ics{'?series=linked' * linked}")
            compare(name, raw, window, linked, odd)
            kind = "odd" if odd else "plain"
            (directory / f"{kind}{index}{'.linked' * linked}.ics").write_bytes(raw)
        starts = sorted(written(when(event)["start"]) for event in window)
        (directory / f"{kind}{index}.starts").write_text("".join(f"{start}\n" for start in starts))
        compared += len(window)
        series += sum(event["type"] in INSTANCES for event in window)
        days += sum(event["isAllDay"] for event in window)
        zoned += sum(not any(zone == "UTC" for zone in event["start"].values()) for event in window)
    assert compared > (300 if odd else 2000), compared
    print(f"{compared} events: same instants, same texts ({series} of series, {days} all day, {zoned} in other zones than UTC)")


main()
