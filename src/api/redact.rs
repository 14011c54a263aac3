//! Masks private and confidential events when `mask_private` is set: readers get the time and the
//! busy state, but no content or people. The store keeps the full events.

use bytes::Bytes;

use crate::json::JsonMembers;
use crate::store::Change;

/// The members that are kept, in this order.
const KEPT: [&str; 10] = [
    "@odata.etag",
    "id",
    "type",
    "seriesMasterId",
    "start",
    "end",
    "isAllDay",
    "showAs",
    "isCancelled",
    "sensitivity",
];

/// The event as a reader may see it: unchanged, unless `mask` is set and it is private or
/// confidential. With `mask`, an event that does not parse becomes `{}`.
pub(super) fn shown(event: Bytes, mask: bool) -> Bytes {
    if mask { reduce(&event).unwrap_or(event) } else { event }
}

/// A change as a reader may see it: its event or summary as [`shown`]; of a masked event, the names
/// of changed members that readers do not see are left out.
pub(super) fn shown_change(change: Change, mask: bool) -> Change {
    if !mask {
        return change;
    }
    let visible = |json: Bytes| match reduce(&json) {
        Some(reduced) => (reduced, true),
        None => (json, false),
    };
    let event = change.event.map(visible);
    let is_hidden = event.as_ref().is_some_and(|(_, hidden)| *hidden);
    let seen = |name: &String| !is_hidden || KEPT.contains(&name.as_str());
    Change {
        event: event.map(|(event, _)| event),
        changed: change.changed.map(|names| names.into_iter().filter(seen).collect()),
        summary: change.summary.map(|summary| shown(summary, mask)),
        ..change
    }
}

/// Whether [`shown`] reduced this event. An event that merely has no subject is not reduced.
pub(super) fn is_reduced(event: &JsonMembers<'_>) -> bool {
    event.get("subject").is_none() && is_hidden(event)
}

fn is_hidden(event: &JsonMembers<'_>) -> bool {
    let sensitivity = event.get("sensitivity").map(|raw| raw.get());
    matches!(sensitivity, Some("\"private\"" | "\"confidential\""))
}

fn reduce(event: &[u8]) -> Option<Bytes> {
    let Ok(members) = JsonMembers::parse(event) else { return Some(Bytes::from_static(b"{}")) };
    is_hidden(&members).then(|| members.only(&KEPT).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_events_show_only_time_and_busy_state() {
        let event = br#"{"@odata.etag":"e","id":"1","subject":"secret","body":{"content":"x"},"sensitivity":"private","showAs":"busy","start":{"dateTime":"a"},"end":{"dateTime":"b"},"location":{"displayName":"clinic"}}"#;
        let shown = shown(Bytes::from_static(event), true);
        assert_eq!(
            std::str::from_utf8(&shown),
            Ok(
                r#"{"@odata.etag":"e","id":"1","start":{"dateTime":"a"},"end":{"dateTime":"b"},"showAs":"busy","sensitivity":"private"}"#
            )
        );
    }

    #[test]
    fn other_events_are_not_redacted() {
        for (event, mask) in [
            (r#"{"id":"1","subject":"s","sensitivity":"normal"}"#, true),
            (r#"{"id":"1","subject":"s"}"#, true),
            (r#"{"id":"1","subject":"s","sensitivity":"private"}"#, false),
        ] {
            assert_eq!(shown(Bytes::from_static(event.as_bytes()), mask), event.as_bytes());
        }
    }
}
