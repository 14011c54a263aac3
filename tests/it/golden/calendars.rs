//! The windows of the golden stores, their events, and the commits that produced their state.

use calmirror::mirror::availability::Availability;
use calmirror::mirror::fallback::{Fallback, StallKind};
use calmirror::mirror::page::{EventId, EventKind, Item, Link, Page, PageEnd, Span};
use calmirror::mirror::position::{Phase, Position};
use calmirror::mirror::stall::StallDetector;
use calmirror::mirror::status::ResyncReason;
use calmirror::mirror::window::{
    BodyFormat, CalendarRef, Completion, Edge, Edges, EventShape, WindowIdentity,
};
use calmirror::store::WindowRegistration;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::rig::{BASE, noon};

/// An offset in minutes from the instant at which the golden stores were made.
pub(super) fn minutes(minutes: i64) -> Timestamp {
    noon() + SignedDuration::from_mins(minutes)
}

pub(super) fn instant(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// Windows with fixed edges and default settings, one for each situation that a store of format 1
/// can hold.
pub(super) const PLAIN: [&str; 15] = [
    "settled",
    "paused",
    "following",
    "completing",
    "enumerating",
    "resync",
    "sweeping",
    "sweeping-listed",
    "held",
    "snapshot",
    "smaller",
    "stuck",
    "unvisited",
    "replaced",
    "Büro 3",
];

/// Windows waiting for their first page, one for each resync reason.
pub(super) fn reasons() -> Vec<(String, ResyncReason)> {
    let named = |reason: ResyncReason| (format!("reason {}", reason.as_str()), reason);
    ResyncReason::ALL.map(named).into()
}

/// Windows that are no longer configured.
pub(super) const LEAVING: [&str; 2] = ["leaving", "dropping"];

fn identity(name: &str) -> WindowIdentity {
    WindowIdentity {
        account: "contoso".into(),
        tenant: "t".into(),
        mailbox: format!("{}@contoso.com", mailbox(name)).into(),
        calendar: CalendarRef::Default,
        immutable_ids: false,
    }
}

/// The local part of a window's mailbox address.
pub(super) fn mailbox(name: &str) -> String {
    name.replace(' ', "-").replace('ü', "ue").to_lowercase()
}

pub(super) fn plain(name: &str) -> WindowRegistration {
    let edges =
        Edges { start: instant("2026-10-01T00:00:00Z"), end: instant("2027-02-01T00:00:00Z") };
    WindowRegistration {
        name: name.into(),
        identity: identity(name),
        shape: EventShape {
            body: BodyFormat::Html,
            time_zone: "UTC".into(),
            complete: Completion::Master,
        },
        start: Edge::At(edges.start),
        end: Edge::At(edges.end),
        edges,
    }
}

/// Ten years, which make three segments.
pub(super) fn decade(name: &str) -> WindowRegistration {
    let edges = Edges { end: instant("2036-10-01T00:00:00Z"), ..plain(name).edges };
    WindowRegistration { end: Edge::At(edges.end), edges, ..plain(name) }
}

/// Every setting of a window differs from its default.
pub(super) fn relative(name: &str) -> WindowRegistration {
    let edges =
        Edges { start: instant("2026-10-03T00:00:00Z"), end: instant("2027-12-09T00:00:00Z") };
    let id = CalendarRef::Id("AAMkAGI1AAAoZCfHAAA=".into());
    WindowRegistration {
        identity: WindowIdentity { calendar: id, immutable_ids: true, ..identity(name) },
        shape: EventShape {
            body: BodyFormat::Text,
            time_zone: "W. Europe Standard Time".into(),
            complete: Completion::Exact,
        },
        start: Edge::Relative { years: 0, months: 0, days: -30 },
        end: Edge::Relative { years: 1, months: 1, days: 0 },
        edges,
        ..plain(name)
    }
}

pub(super) fn bodiless(name: &str) -> WindowRegistration {
    let shape = EventShape { body: BodyFormat::None, ..plain(name).shape };
    WindowRegistration { shape, ..plain(name) }
}

/// Every window in the configuration of the tests.
pub(super) fn wanted() -> Vec<WindowRegistration> {
    let mut wanted: Vec<WindowRegistration> = PLAIN.into_iter().map(plain).collect();
    wanted.extend(reasons().into_iter().map(|(name, _)| plain(&name)));
    wanted.extend([plain("halved"), plain("retired"), decade("decade")]);
    wanted.extend([relative("relative"), bodiless("bodiless")]);
    wanted
}

/// A link in Graph's form that is unique to this window.
pub(super) fn link(name: &str, kind: &str, number: u32) -> Link {
    let mailbox = mailbox(name);
    Link::new(format!(
        "{BASE}/users/{mailbox}%40contoso.com/calendarView/delta?${kind}={mailbox}.{number}"
    ))
}

pub(super) fn delta(name: &str, number: u32) -> Link {
    link(name, "deltatoken", number)
}

pub(super) fn next(name: &str, number: u32) -> Link {
    link(name, "skiptoken", number)
}

pub(super) fn settled(name: &str, number: u32) -> Position {
    Position::new(Phase::Settled { delta: Some(delta(name, number)) }, false)
}

pub(super) fn enumerating(name: &str, reason: ResyncReason, page: u32) -> Position {
    Position::new(Phase::Enumerating { next: Some(next(name, page)), reason, page }, false)
}

/// The stall detector's state after these pages of one event each.
pub(super) fn stall_after_pages(pages: &[&str]) -> StallDetector {
    let mut guard = StallDetector::default();
    let mut met = Default::default();
    for id in pages {
        let removed = if id.is_empty() { Vec::new() } else { vec![EventId::new(*id)] };
        let end = PageEnd::Next(Link::new("unused"));
        let page = Page { present: Vec::new(), removed, unreadable: Vec::new(), end };
        assert!(!guard.observe(&page, std::time::Duration::from_millis(1500), &mut met));
    }
    guard
}

/// The fallback of a segment after these stalls in order.
pub(super) fn fallback_after(ailments: &[StallKind]) -> Fallback {
    ailments
        .iter()
        .fold(Fallback::default(), |remedy, ailment| remedy.next(*ailment, 200, noon()).unwrap())
}

/// An event as Graph sends it, parsed as the store receives it.
fn item(id: String, kind: EventKind, of: Option<&str>, start: Timestamp, length: i64) -> Item {
    let end = start + SignedDuration::from_mins(length);
    let local = |at: Timestamp| json!({"dateTime": at.strftime("%Y-%m-%dT%H:%M:%S.0000000").to_string(), "timeZone": "UTC"});
    let word = match kind {
        EventKind::Single => "singleInstance",
        EventKind::Occurrence => "occurrence",
        EventKind::Exception => "exception",
        EventKind::Master => "seriesMaster",
    };
    let etag = format!("W/\"{}\"", of.unwrap_or(&id));
    let mut content = json!({"@odata.etag": etag, "id": id, "type": word});
    content["start"] = local(start);
    content["end"] = local(end);
    if let Some(master) = of {
        content["seriesMasterId"] = master.into();
    }
    if kind != EventKind::Occurrence {
        content["subject"] = format!("Subject of {id}").into();
    }
    if kind != EventKind::Occurrence && id.starts_with("settled") {
        content["isAllDay"] = (length == 1440).into();
        content["changeKey"] = format!("key of {id}").into();
        content["showAs"] = "busy".into();
        content["webLink"] = format!("https://outlook.office365.com/owa/?itemid={id}").into();
        content["body"] =
            json!({"contentType": "html", "content": "<p>Agenda: “Ärger” & 会議</p>"});
        content["somethingNew"] = json!({"kept": [1, 2.50, null]});
    }
    if kind == EventKind::Master {
        content["recurrence"] = json!({"pattern": {"type": "daily", "interval": 1}});
    }
    let content = content.to_string();
    Item {
        id: EventId::new(id),
        kind,
        master: of.map(EventId::new),
        etag: Some(etag.into()),
        span: Span { start, end },
        all_day: length == 1440,
        availability: Availability::of_event(content.as_bytes()),
        full: kind != EventKind::Occurrence,
        content: content.into(),
    }
}

pub(super) fn single(name: &str, id: &str, start: Timestamp) -> Item {
    item(format!("{name}/{id}="), EventKind::Single, None, start, 30)
}

/// One of many events with little content.
pub(super) fn small(name: &str, number: u32) -> Item {
    let item = single(name, &number.to_string(), instant("2026-11-05T07:00:00Z"));
    let content = json!({"id": item.id.as_str()}).to_string().into();
    Item { content, availability: None, ..item }
}

/// The id of a window's series.
pub(super) fn series(name: &str) -> String {
    format!("{name}/series=")
}

/// The master, two stub occurrences and an exception.
pub(super) fn instances(name: &str) -> Vec<Item> {
    let master = series(name);
    let of = Some(master.as_str());
    let day = |day: i64| instant("2026-11-10T10:00:00Z") + SignedDuration::from_hours(24 * day);
    let id = |id: &str| format!("{name}/{id}=");
    vec![
        item(master.clone(), EventKind::Master, None, day(0), 45),
        item(id("first"), EventKind::Occurrence, of, day(0), 45),
        item(id("second"), EventKind::Occurrence, of, day(1), 45),
        item(id("moved"), EventKind::Exception, of, day(2), 50),
    ]
}

/// The events of a window: a single event, an all-day event, and a series.
pub(super) fn calendar(name: &str) -> Vec<Item> {
    let mut items = instances(name);
    items.push(single(name, "single", instant("2026-11-03T09:00:00Z")));
    let day = instant("2026-12-24T00:00:00Z");
    items.push(item(format!("{name}/day="), EventKind::Single, None, day, 1440));
    items
}

/// An event whose value spans several keys of the store.
pub(super) fn large(name: &str) -> Item {
    let mut item = single(name, "large", instant("2026-11-04T09:00:00Z"));
    let mut content: Value = serde_json::from_slice(&item.content).unwrap();
    content["body"]["content"] = "<p>minutes</p> ".repeat(10_000).into();
    item.content = content.to_string().into();
    item
}

/// The configuration that matches [`wanted`].
pub(super) fn configuration(interval: &str) -> String {
    let mut text = format!(
        r#"
[store]
path = "store"
[graph]
base_url = "{BASE}"
login_url = "http://127.0.0.1:1"
[api]
socket = "api.sock"
[feed]
retention = "3650d"
[defaults]
start = "2026-10-01"
end = "2027-02-01"
interval = "{interval}"
audit = "off"
[account.contoso]
tenant = "t"
client_id = "c"
client_secret_file = "secret"
"#
    );
    for WindowRegistration { name, identity, .. } in wanted() {
        let more = match &*name {
            "decade" => "end = \"2036-10-01\"",
            "bodiless" => "body = \"none\"",
            "relative" => {
                "start = \"-30d\"\nend = \"+1y1mo\"\nbody = \"text\"\n\
                 time_zone = \"W. Europe Standard Time\"\ncomplete = \"exact\"\n\
                 immutable_ids = true\ncalendar = \"AAMkAGI1AAAoZCfHAAA=\""
            }
            _ => "",
        };
        let mailbox = &identity.mailbox;
        text.push_str(&format!(
            "[[window]]\nname = \"{name}\"\naccount = \"contoso\"\nmailbox = \"{mailbox}\"\n{more}\n"
        ));
    }
    text
}
