//! Reduces events for readers that may see their time and busy state, but no content or people:
//! private and confidential events with `mask_private`, and all events for consumers of the level
//! `times`. The store keeps the full events.

use bytes::Bytes;
use serde::Serialize;

use crate::json::JsonMembers;

/// How much of events is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) enum Detail {
    /// Everything.
    All,
    /// Everything but the content of private and confidential events.
    MaskPrivate,
    /// No content.
    Times,
}

impl Detail {
    /// Whether all members of an event are shown.
    pub(super) fn shows_all(self, event: &[u8]) -> bool {
        match self {
            Self::All => true,
            Self::MaskPrivate => JsonMembers::parse(event).is_ok_and(|event| !is_hidden(&event)),
            Self::Times => false,
        }
    }
}

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

/// The event as a reader may see it. A reduced event that does not parse becomes `{}`.
pub(super) fn shown(event: Bytes, detail: Detail) -> Bytes {
    if detail.shows_all(&event) {
        return event;
    }
    match JsonMembers::parse(&event) {
        Ok(members) => members.only(&KEPT).into(),
        Err(_) => Bytes::from_static(b"{}"),
    }
}

/// Whether a reduced event keeps the member.
pub(super) fn is_kept(member: &str) -> bool {
    KEPT.contains(&member)
}

/// Whether [`shown`] reduced this event. Graph's events have both members, even without a subject.
pub(super) fn is_reduced(event: &JsonMembers<'_>) -> bool {
    event.get("subject").is_none() && event.get("iCalUId").is_none()
}

fn is_hidden(event: &JsonMembers<'_>) -> bool {
    let sensitivity = event.get("sensitivity").map(|raw| raw.get());
    matches!(sensitivity, Some("\"private\"" | "\"confidential\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_events_show_only_time_and_busy_state() {
        let event = br#"{"@odata.etag":"e","id":"1","subject":"secret","body":{"content":"x"},"sensitivity":"private","showAs":"busy","start":{"dateTime":"a"},"end":{"dateTime":"b"},"location":{"displayName":"clinic"}}"#;
        let shown = shown(Bytes::from_static(event), Detail::MaskPrivate);
        assert_eq!(
            std::str::from_utf8(&shown),
            Ok(
                r#"{"@odata.etag":"e","id":"1","start":{"dateTime":"a"},"end":{"dateTime":"b"},"showAs":"busy","sensitivity":"private"}"#
            )
        );
    }

    #[test]
    fn other_events_are_not_redacted() {
        for (event, detail) in [
            (r#"{"id":"1","subject":"s","sensitivity":"normal"}"#, Detail::MaskPrivate),
            (r#"{"id":"1","subject":"s"}"#, Detail::MaskPrivate),
            (r#"{"id":"1","subject":"s","sensitivity":"private"}"#, Detail::All),
        ] {
            assert_eq!(shown(Bytes::from_static(event.as_bytes()), detail), event.as_bytes());
        }
    }
}
