//! Which events a reader wants: filters on a few members of an event, as queries and sinks write
//! them.
//!
//! A filter has rules, one for each key. An event matches a filter if it satisfies every rule. A
//! rule lists values; with `!` before each of them, it is satisfied by events with none of them.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use super::availability::Availability;
use crate::json::JsonMembers;

/// What a rule looks at. The words are those of Graph's `event` resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FilterKey {
    /// `responseStatus.response`; `none` without it.
    Response,
    /// `showAs`; `unknown` without it, and for words that are not known.
    ShowAs,
    /// Each of `categories`, exactly as it is written.
    Category,
    /// `sensitivity`; `normal` without it.
    Sensitivity,
    /// `isCancelled`; `false` without it.
    Cancelled,
    /// `type`; `singleInstance` without it. Series masters are not among the events.
    Type,
}

impl FilterKey {
    /// Every key.
    pub const ALL: [Self; 6] = [
        Self::Response,
        Self::ShowAs,
        Self::Category,
        Self::Sensitivity,
        Self::Cancelled,
        Self::Type,
    ];

    /// The name of every key.
    pub const NAMES: [&str; 6] = {
        let [a, b, c, d, e, f] = Self::ALL;
        [a.name(), b.name(), c.name(), d.name(), e.name(), f.name()]
    };

    /// The name of the key.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Response => "response",
            Self::ShowAs => "showAs",
            Self::Category => "category",
            Self::Sensitivity => "sensitivity",
            Self::Cancelled => "cancelled",
            Self::Type => "type",
        }
    }

    /// The member of the event that the key looks at.
    pub fn member(self) -> &'static str {
        match self {
            Self::Response => "responseStatus",
            Self::ShowAs => "showAs",
            Self::Category => "categories",
            Self::Sensitivity => "sensitivity",
            Self::Cancelled => "isCancelled",
            Self::Type => "type",
        }
    }

    /// The known values, that of an event without the member first; `None` if any text is one.
    fn values(self) -> Option<&'static [&'static str]> {
        match self {
            Self::Response => Some(&[
                "none",
                "organizer",
                "accepted",
                "tentativelyAccepted",
                "declined",
                "notResponded",
            ]),
            Self::ShowAs => {
                Some(&["unknown", "free", "tentative", "busy", "oof", "workingElsewhere"])
            }
            Self::Category => None,
            Self::Sensitivity => Some(&["normal", "personal", "private", "confidential"]),
            Self::Cancelled => Some(&["false", "true"]),
            Self::Type => Some(&["singleInstance", "occurrence", "exception"]),
        }
    }

    /// The values of an event.
    fn of<'a>(self, event: &JsonMembers<'a>) -> Vec<Cow<'a, str>> {
        let text = match self {
            Self::Category => {
                let all = event.get("categories").map_or("[]", |categories| categories.get());
                return serde_json::from_str::<Vec<String>>(all)
                    .map(|all| all.into_iter().map(Cow::from).collect())
                    .unwrap_or_default();
            }
            Self::Cancelled => event.get(self.member()).map(|flag| Cow::from(flag.get())),
            Self::Response => event.get(self.member()).and_then(|status| {
                let members = JsonMembers::parse(status.get().as_bytes()).ok()?;
                members.text("response")
            }),
            Self::ShowAs | Self::Sensitivity | Self::Type => event.text(self.member()),
        };
        // `null` and absent mean the same.
        let text =
            text.filter(|text| self != Self::Cancelled || matches!(&**text, "true" | "false"));
        let is_known = |text: &str| self.values().is_some_and(|known| known.contains(&text));
        let text = text.filter(|text| self != Self::ShowAs || is_known(text));
        let default = || self.values().and_then(<[_]>::first).map(|first| Cow::from(*first));
        text.or_else(default).into_iter().collect()
    }
}

/// Why the values of a key are refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterValueError {
    /// A value is empty.
    #[error("a value is empty: separate values by one comma")]
    Empty,
    /// `!` stands before some of the values only.
    #[error("write ! before every value or before none")]
    Mixed,
    /// The key has no such value.
    #[error("unknown value {value:?}: known are {known}")]
    Unknown {
        /// The value.
        value: String,
        /// The known values.
        known: String,
    },
}

/// The values of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
struct FilterRule {
    excludes: bool,
    values: BTreeSet<String>,
}

/// A filter. Without rules, it matches every event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventFilter {
    rules: BTreeMap<FilterKey, FilterRule>,
}

impl EventFilter {
    /// Adds the rule of a key: values separated by commas.
    ///
    /// # Errors
    /// See [`FilterValueError`].
    pub fn add(&mut self, key: FilterKey, values: &str) -> Result<(), FilterValueError> {
        let excludes = values.starts_with('!');
        let mut rule = FilterRule { excludes, values: BTreeSet::new() };
        for value in values.split(',') {
            if value.is_empty() || value == "!" {
                return Err(FilterValueError::Empty);
            }
            let value = match (value.strip_prefix('!'), excludes) {
                (Some(value), true) => value,
                (None, false) => value,
                _ => return Err(FilterValueError::Mixed),
            };
            if let Some(known) = key.values().filter(|known| !known.contains(&value)) {
                let (value, known) = (value.to_owned(), known.join(", "));
                return Err(FilterValueError::Unknown { value, known });
            }
            rule.values.insert(value.to_owned());
        }
        self.rules.insert(key, rule);
        Ok(())
    }

    /// Whether the filter matches every event.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The keys that the filter uses.
    pub fn keys(&self) -> impl Iterator<Item = FilterKey> {
        self.rules.keys().copied()
    }

    /// Whether the filter looks at nothing but the availability of events.
    pub fn is_of_availability(&self) -> bool {
        self.rules.keys().all(|key| matches!(key, FilterKey::ShowAs | FilterKey::Cancelled))
    }

    /// Whether an event with this availability matches. Rules on other members are ignored, and a
    /// `showAs` that is not known counts as `unknown`.
    pub fn matches_availability(&self, availability: Availability) -> bool {
        self.rules.iter().all(|(key, rule)| {
            let value = match key {
                FilterKey::ShowAs => availability.show_as.as_str(),
                FilterKey::Cancelled if availability.cancelled => "true",
                FilterKey::Cancelled => "false",
                _ => return true,
            };
            rule.values.contains(value) != rule.excludes
        })
    }

    /// Whether an event, a JSON object, matches. Anything else is treated as an empty object.
    pub fn matches(&self, event: &[u8]) -> bool {
        self.rules.is_empty() || {
            let event = JsonMembers::parse(event).unwrap_or(JsonMembers(Vec::new()));
            self.matches_members(&event)
        }
    }

    /// As [`EventFilter::matches`].
    pub fn matches_members(&self, event: &JsonMembers<'_>) -> bool {
        self.rules.iter().all(|(key, rule)| {
            key.of(event).iter().any(|value| rule.values.contains(&**value)) != rule.excludes
        })
    }

    /// The same parts for every way to write the same filter.
    pub fn canonical(&self) -> Vec<String> {
        let rule = |(key, rule): (&FilterKey, &FilterRule)| {
            let sign = if rule.excludes { "!" } else { "" };
            let values: Vec<String> =
                rule.values.iter().map(|value| format!("{sign}{value}")).collect();
            // No value has a comma.
            format!("{}={}", key.name(), values.join(","))
        };
        self.rules.iter().map(rule).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(rules: &[(FilterKey, &str)]) -> EventFilter {
        let mut filter = EventFilter::default();
        rules.iter().for_each(|(key, values)| filter.add(*key, values).unwrap());
        filter
    }

    #[test]
    fn an_event_matches_if_it_satisfies_every_rule() {
        let event = br#"{"responseStatus":{"response":"accepted"},"showAs":"busy",
            "categories":["Red","Blue, or not"],"sensitivity":"private","isCancelled":true,
            "type":"occurrence"}"#;
        for (key, values, matches) in [
            (FilterKey::Response, "accepted", true),
            (FilterKey::Response, "declined,accepted", true),
            (FilterKey::Response, "!declined", true),
            (FilterKey::Response, "!declined,!accepted", false),
            (FilterKey::ShowAs, "busy", true),
            (FilterKey::ShowAs, "!busy", false),
            (FilterKey::Category, "Red", true),
            (FilterKey::Category, "red", false),
            (FilterKey::Category, "!Red", false),
            (FilterKey::Category, "!Green", true),
            (FilterKey::Sensitivity, "normal,personal", false),
            (FilterKey::Cancelled, "false", false),
            (FilterKey::Cancelled, "true", true),
            (FilterKey::Type, "singleInstance", false),
        ] {
            let alone = filter(&[(key, values)]);
            assert_eq!(alone.matches(event), matches, "{key:?} {values}");
            let availability = Availability::of_event(event).unwrap();
            let ignored = !alone.is_of_availability();
            assert_eq!(alone.matches_availability(availability), matches || ignored, "{values}");
            for (other, both) in [("private", matches), ("normal", false)] {
                if key != FilterKey::Sensitivity {
                    let rules = [(key, values), (FilterKey::Sensitivity, other)];
                    assert_eq!(filter(&rules).matches(event), both, "{key:?} {values} {other}");
                }
            }
        }
        assert!(EventFilter::default().matches(b"no event"));
    }

    #[test]
    fn an_unknown_state_is_unknown() {
        let event = br#"{"showAs":"foo"}"#;
        assert!(filter(&[(FilterKey::ShowAs, "unknown")]).matches(event));
        assert!(!filter(&[(FilterKey::ShowAs, "!unknown")]).matches(event));
    }

    #[test]
    fn a_missing_member_means_its_default() {
        for event in [
            &b"{}"[..],
            b"not JSON",
            br#"{"responseStatus":null,"showAs":null,"categories":null,"isCancelled":null}"#,
        ] {
            for (key, values) in [
                (FilterKey::Response, "none"),
                (FilterKey::ShowAs, "unknown"),
                (FilterKey::Category, "!Red"),
                (FilterKey::Sensitivity, "normal"),
                (FilterKey::Cancelled, "false"),
                (FilterKey::Type, "singleInstance"),
            ] {
                assert!(filter(&[(key, values)]).matches(event), "{key:?}");
            }
            assert!(!filter(&[(FilterKey::Category, "Red")]).matches(event));
        }
    }

    #[test]
    fn wrong_values_are_refused() {
        let add = |key, values| EventFilter::default().add(key, values).unwrap_err();
        for values in ["", "accepted,", ",accepted", "!", "!accepted,!"] {
            assert_eq!(add(FilterKey::Response, values), FilterValueError::Empty, "{values:?}");
        }
        assert_eq!(add(FilterKey::Response, "accepted,!declined"), FilterValueError::Mixed);
        assert_eq!(add(FilterKey::Response, "!accepted,declined"), FilterValueError::Mixed);
        let unknown = add(FilterKey::Type, "seriesMaster").to_string();
        let known = "known are singleInstance, occurrence, exception";
        assert_eq!(unknown, format!("unknown value \"seriesMaster\": {known}"));
    }

    #[test]
    fn the_canonical_form_ignores_order() {
        let rules = [(FilterKey::Type, "exception"), (FilterKey::Response, "!none,!declined")];
        assert_eq!(filter(&rules).canonical(), ["response=!declined,!none", "type=exception"]);
        assert!(EventFilter::default().canonical().is_empty());
    }
}
