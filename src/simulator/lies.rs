//! Delta pages with impossible content in valid, or almost valid, JSON.
//!
//! A lie that alters an event alters the first one of the page, so that data the client already
//! has is at stake; if the page has none, the lie invents one. The other lies add invented items.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The impossible content of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Lie {
    /// Every id on the page has the case of its letters swapped.
    OtherCase,
    /// The first event twice: an older state with another etag, then the current one.
    Twice,
    /// A tombstone for the first event, then the event.
    RemovedAndThere,
    /// An invented event, then a tombstone with the same id.
    ThereAndRemoved,
    /// An occurrence that is its own master.
    OwnMaster,
    /// Two occurrences, each with the other as its master.
    Circle,
    /// An occurrence of a master that does not exist.
    Orphan,
    /// The first event's dates do not parse.
    BadDates,
    /// The first event ends before it starts.
    Backwards,
    /// The first event's start is in an unknown time zone.
    BadZone,
    /// An event whose id is empty.
    EmptyId,
    /// An event whose id has 5,000 characters.
    LongId,
    /// Null, a number, a string, a list and a boolean in place of events.
    NoObjects,
    /// The first event has a value nested 100,000 levels deep.
    Deep,
    /// An event that has all members twice, with two different ids.
    DoubleMembers,
    /// Ten thousand events.
    TenThousand,
    /// An event of 60 MiB.
    SixtyMebibytes,
}

impl Lie {
    /// Applies the lie to `head`, the page up to the end of its items.
    pub(super) fn apply(self, head: &[u8]) -> Vec<u8> {
        let text = [head, b"]}"].concat();
        let Ok(Value::Object(mut page)) = serde_json::from_slice(&text) else {
            return head.to_vec();
        };
        let Some(Value::Array(mut items)) = page.remove("value") else { return head.to_vec() };
        let first = items.iter().position(|item| item.get("@removed").is_none());
        let mut raw: Vec<String> = Vec::new();
        match self {
            Self::OtherCase => items.iter_mut().for_each(swap_case),
            Self::Twice => {
                let at = first.unwrap_or_else(|| push_invented(&mut items, "AAMkADTwiceAAA="));
                items.insert(at, older_state(&items[at]));
            }
            Self::RemovedAndThere => {
                let at = first.unwrap_or_else(|| push_invented(&mut items, "AAMkADTwiceAAA="));
                items.insert(at, tombstone(items[at]["id"].clone()));
            }
            Self::ThereAndRemoved => {
                items.push(invented_event("AAMkADCameAndWentAAA="));
                items.push(tombstone("AAMkADCameAndWentAAA=".into()));
            }
            Self::OwnMaster => items.push(occurrence("AAMkADOwnAAA=", "AAMkADOwnAAA=")),
            Self::Circle => {
                items.push(occurrence("AAMkADCircleAAA=", "AAMkADCircleBAA="));
                items.push(occurrence("AAMkADCircleBAA=", "AAMkADCircleAAA="));
            }
            Self::Orphan => items.push(occurrence("AAMkADOrphanAAA=", "AAMkADNobodyAAA=")),
            Self::BadDates | Self::Backwards | Self::BadZone => {
                let at = first.unwrap_or_else(|| push_invented(&mut items, "AAMkADDatesAAA="));
                self.falsify_times(&mut items[at]);
            }
            Self::EmptyId => items.push(invented_event("")),
            Self::LongId => items.push(invented_event(&"AAMk".repeat(1250))),
            Self::NoObjects => {
                items.extend([json!(null), json!(7), json!("event"), json!([1, {}]), json!(true)]);
            }
            Self::Deep => {
                let event = match first {
                    Some(at) => items.remove(at),
                    None => invented_event("AAMkADDeepAAA="),
                };
                raw.push(deeply_nested(event));
            }
            Self::DoubleMembers => raw.push(event_with_double_members()),
            Self::TenThousand => {
                items.extend((0..10_000).map(|n| invented_event(&format!("AAMkADMany{n:05}AAA="))));
            }
            Self::SixtyMebibytes => {
                let mut event = invented_event("AAMkADHugeAAA=");
                event["body"] = json!({"contentType": "html", "content": "x".repeat(60 << 20)});
                items.push(event);
            }
        }
        let context = page.get("@odata.context").cloned().unwrap_or_default();
        let items = items.iter().map(Value::to_string).chain(raw).collect::<Vec<_>>().join(",");
        format!("{{\"@odata.context\":{context},\"value\":[{items}").into_bytes()
    }

    /// Gives an event times that do not parse, contradict each other or are in an unknown zone.
    fn falsify_times(self, event: &mut Value) {
        match self {
            Self::BadDates => event["start"]["dateTime"] = "2026-02-31T25:61:00".into(),
            Self::Backwards => {
                event["end"] =
                    json!({"dateTime": "1999-12-31T23:59:59.0000000", "timeZone": "UTC"});
            }
            _ => event["start"]["timeZone"] = "Middle Earth Standard Time".into(),
        }
        // The dates of a master have no effect.
        if event["type"] == "seriesMaster" {
            event["type"] = "singleInstance".into();
        }
    }
}

/// Adds an invented event to a page without events. Returns its index.
fn push_invented(items: &mut Vec<Value>, id: &str) -> usize {
    items.push(invented_event(id));
    items.len() - 1
}

fn older_state(event: &Value) -> Value {
    let mut older = event.clone();
    older["@odata.etag"] = "W/\"older\"".into();
    older["subject"] = "An older state".into();
    older
}

/// The JSON of `event` with a value nested 100,000 levels deep.
fn deeply_nested(mut event: Value) -> String {
    event["extension"] = "DEEP".into();
    let nested = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    event.to_string().replace("\"DEEP\"", &nested)
}

/// The JSON of an event that has all members twice.
fn event_with_double_members() -> String {
    let one = invented_event("AAMkADDoubleAAA=").to_string();
    let two = invented_event("AAMkADDoubleBAA=").to_string();
    format!("{},{}", one.trim_end_matches('}'), two.trim_start_matches('{'))
}

/// An event that is in no calendar.
fn invented_event(id: &str) -> Value {
    json!({
        "@odata.type": "#microsoft.graph.event",
        "@odata.etag": "W/\"made-up\"",
        "id": id,
        "type": "singleInstance",
        "seriesMasterId": null,
        "subject": "There is no such event",
        "isAllDay": false,
        "start": {"dateTime": "2026-11-20T09:00:00.0000000", "timeZone": "UTC"},
        "end": {"dateTime": "2026-11-20T10:00:00.0000000", "timeZone": "UTC"},
    })
}

fn occurrence(id: &str, master: &str) -> Value {
    let mut event = invented_event(id);
    event["type"] = "occurrence".into();
    event["seriesMasterId"] = master.into();
    event
}

fn tombstone(id: Value) -> Value {
    json!({"@odata.type": "#microsoft.graph.event", "id": id, "@removed": {"reason": "deleted"}})
}

fn swap_case(item: &mut Value) {
    for name in ["id", "seriesMasterId"] {
        if let Some(Value::String(id)) = item.get_mut(name) {
            *id = id
                .chars()
                .map(|c| match c.is_ascii_lowercase() {
                    true => c.to_ascii_uppercase(),
                    false => c.to_ascii_lowercase(),
                })
                .collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lie_keeps_the_page_valid_and_its_link() {
        let event = invented_event("AAMkADThereAAA=");
        for items in [String::new(), event.to_string()] {
            let head = format!("{{\"@odata.context\":\"c\",\"value\":[{items}");
            for lie in Lie::value_variants().iter().filter(|lie| **lie != Lie::Deep) {
                let mut told = lie.apply(head.as_bytes());
                told.extend_from_slice(b"]}");
                let page: Value = serde_json::from_slice(&told).unwrap();
                assert_eq!(page["@odata.context"], "c", "{lie:?}");
                let unchanged = told == format!("{head}]}}").as_bytes();
                assert!(!unchanged || (*lie == Lie::OtherCase && items.is_empty()), "{lie:?}");
            }
        }
    }
}
