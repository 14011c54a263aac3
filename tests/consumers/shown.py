"""Prints the start of every event that a reader shows of a calendar, one per line, sorted.

usage: shown.py READER FILE
"""

import pathlib
import sys
import warnings
from datetime import datetime, timezone

warnings.filterwarnings("ignore")
# A reader module has the same name as a file beside this one.
sys.path.pop(0)
FROM, TO = (datetime(year, 1, 1, tzinfo=timezone.utc) for year in (2020, 2040))


def recurring(text):
    import icalendar
    import recurring_ical_events

    for event in recurring_ical_events.of(icalendar.Calendar.from_ical(text)).between(FROM, TO):
        yield event["DTSTART"].dt


def vobject(text):
    import vobject

    for calendar in vobject.readComponents(text):
        for event in getattr(calendar, "vevent_list", []):
            yield event.dtstart.value


def home_assistant(text):
    from ical.calendar_stream import IcsCalendarStream

    for event in IcsCalendarStream.calendar_from_ics(text).timeline.overlapping(FROM, TO):
        yield event.dtstart


READERS = {"recurring-ical-events": recurring, "vobject": vobject, "ical": home_assistant}


def written(at):
    if isinstance(at, datetime):
        return at.astimezone(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    return at.strftime("%Y%m%d")


text = pathlib.Path(sys.argv[2]).read_bytes().decode()
print("\n".join(sorted(written(at) for at in READERS[sys.argv[1]](text))))
