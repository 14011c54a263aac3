//! Whether an event takes up its time: its `showAs` and `isCancelled`.

use crate::json::JsonMembers;

/// The `showAs` and `isCancelled` of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Availability {
    /// `showAs`.
    pub show_as: ShowAs,
    /// `isCancelled`.
    pub cancelled: bool,
}

/// A value of `showAs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShowAs {
    /// `free`
    Free,
    /// `tentative`
    Tentative,
    /// `busy`
    Busy,
    /// `oof`
    Oof,
    /// `workingElsewhere`
    WorkingElsewhere,
    /// Another value, or none.
    Other,
}

impl ShowAs {
    /// The value of an event without one, or with one that is not known.
    pub const UNKNOWN: &str = "unknown";

    /// The word, which filters use too.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Tentative => "tentative",
            Self::Busy => "busy",
            Self::Oof => "oof",
            Self::WorkingElsewhere => "workingElsewhere",
            Self::Other => Self::UNKNOWN,
        }
    }

    /// The value of a word; any other is [`Self::Other`].
    pub fn of_word(word: &str) -> Self {
        let known = [Self::Free, Self::Tentative, Self::Busy, Self::Oof, Self::WorkingElsewhere];
        known.into_iter().find(|known| known.as_str() == word).unwrap_or(Self::Other)
    }
}

impl Availability {
    /// The availability of an event that says nothing of it.
    pub const UNKNOWN: Self = Self { show_as: ShowAs::Other, cancelled: false };

    /// Reads the JSON of both members; `None` if the event has neither: a bare occurrence has those
    /// of its master.
    pub fn of(show_as: Option<&str>, cancelled: Option<&str>) -> Option<Self> {
        // `null` and absent mean the same.
        let [show_as, cancelled] = [show_as, cancelled].map(|raw| raw.filter(|raw| *raw != "null"));
        if show_as.is_none() && cancelled.is_none() {
            return None;
        }
        let word = show_as.and_then(|raw| raw.strip_prefix('"')?.strip_suffix('"'));
        let show_as = word.map_or(ShowAs::Other, ShowAs::of_word);
        Some(Self { show_as, cancelled: cancelled == Some("true") })
    }

    /// The same from the JSON of a whole event.
    pub fn of_event(json: &[u8]) -> Option<Self> {
        let members = JsonMembers::parse(json).ok()?;
        let raw = |name| members.get(name).map(|value| value.get());
        Self::of(raw("showAs"), raw("isCancelled"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_has_the_availability_of_its_members() {
        let of = |json: &str| Availability::of_event(json.as_bytes());
        for (word, show_as) in [
            ("free", ShowAs::Free),
            ("tentative", ShowAs::Tentative),
            ("busy", ShowAs::Busy),
            ("oof", ShowAs::Oof),
            ("workingElsewhere", ShowAs::WorkingElsewhere),
            ("unknown", ShowAs::Other),
        ] {
            for cancelled in [false, true] {
                let json = format!(r#"{{"showAs":"{word}","isCancelled":{cancelled}}}"#);
                assert_eq!(of(&json), Some(Availability { show_as, cancelled }), "{json}");
            }
        }
        let other = Availability { show_as: ShowAs::Other, cancelled: false };
        assert_eq!(of(r#"{"isCancelled":false,"showAs":null}"#), Some(other));
        assert_eq!(of(r#"{"isCancelled":null}"#), None);
        assert_eq!(of(r#"{"subject":"x"}"#), None);
    }
}
