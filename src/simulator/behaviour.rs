//! Selects among the variants of behaviour that Graph is known to show.
//!
//! None of them is a fault: every combination is a Graph that works. With every one of them, a
//! client that reconciles series through the master and its `/instances` reaches the same truth.

use serde::{Deserialize, Serialize};

/// Where a round places a series master among its items (facts 67, 68).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MasterOnPage {
    /// Before its instances; with `split_series`, at the very beginning of the round.
    First,
    /// After its instances; with `split_series`, at the very end of the round.
    Last,
    /// Nowhere: the client has to fetch it by id.
    Absent,
}

/// What a delta round contains of a changed series (facts 65, 69).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resend {
    /// The whole current series, without tombstones for occurrences that left the view.
    Whole,
    /// The items that changed, and a tombstone for each item that left the view.
    Tombstones,
    /// Only the items whose own content changed, and no tombstone except the master's.
    ChangedOnly,
}

/// What the listing of a series' instances contains (facts 72, 196).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InstanceListing {
    /// Occurrences and exceptions.
    Complete,
    /// Occurrences only; empty where only exceptions fall into the range.
    WithoutExceptions,
    /// Occurrences only; 404 where none falls into the range.
    OccurrencesOrNotFound,
}

/// How private events of a mailbox are shown to a delegate (fact 180).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PrivateEvents {
    /// Like all other events.
    Readable,
    /// Delta pages and plain views contain them. Requests for the event by id, or for its
    /// instances, answer 404.
    ListedOnly,
}

/// One variant of Graph. Probabilities are per page, in `[0, 1]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Behaviour {
    /// Where a round places masters.
    pub master: MasterOnPage,
    /// What a round contains of a changed series.
    pub resend: Resend,
    /// Whether a page may end inside a series (fact 70). If not, the whole series is on one page,
    /// even beyond the page size (fact 42).
    pub split_series: bool,
    /// Whether exceptions are bare, like occurrences (fact 73).
    pub bare_exceptions: bool,
    /// Whether occurrences in delta pages are whole, as documented (fact 66).
    pub whole_occurrences: bool,
    /// What the listing of a series' instances contains.
    pub instances: InstanceListing,
    /// How events with the sensitivity `private` are shown.
    pub private_events: PrivateEvents,
    /// Whether the listing of a series' instances is limited to `max_days`, like a view (fact 31).
    pub limited_instances: bool,
    /// Whether there are tombstones for events outside the window that were only created or
    /// edited, and for events deleted before an enumeration (facts 62, 64).
    pub foreign_tombstones: bool,
    /// The probability that a page repeats an item of the round, and that a round replays an
    /// unchanged item (fact 58).
    pub duplicates: f64,
    /// The probability that an empty page with a next link precedes a page (fact 56).
    pub empty_pages: f64,
    /// Whether items are in random order (fact 59).
    pub shuffle: bool,
    /// How many of the newest generations of a stream's links work (facts 91, 95); at least 1.
    pub kept_tokens: usize,
    /// The largest page size; a larger hint is reduced to it.
    pub max_page_size: usize,
    /// The longest window that a view accepts, in days (fact 31).
    pub max_days: u32,
    /// How many requests a mailbox may have in flight; more are throttled (fact 112).
    pub max_concurrent_per_mailbox: usize,
    /// How many requests a mailbox accepts in any 10 minutes; more are throttled (fact 112).
    pub max_requests_per_mailbox: u64,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self::calm()
    }
}

impl Behaviour {
    /// The most commonly reported behaviour, without the difficult variants: a good start.
    pub fn calm() -> Self {
        Self {
            master: MasterOnPage::First,
            resend: Resend::Whole,
            split_series: false,
            bare_exceptions: false,
            whole_occurrences: false,
            instances: InstanceListing::Complete,
            private_events: PrivateEvents::Readable,
            limited_instances: true,
            foreign_tombstones: false,
            duplicates: 0.0,
            empty_pages: 0.0,
            shuffle: false,
            kept_tokens: 8,
            max_page_size: 1000,
            max_days: 1825,
            max_concurrent_per_mailbox: 4,
            max_requests_per_mailbox: 10_000,
        }
    }

    /// A random mixture of variants, chosen by `seed`.
    pub fn by_seed(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed ^ 0x6265_6861_7669_6f75);
        Self {
            master: [MasterOnPage::First, MasterOnPage::Last, MasterOnPage::Absent][rng.usize(..3)],
            resend: [Resend::Whole, Resend::Tombstones, Resend::ChangedOnly][rng.usize(..3)],
            split_series: rng.bool(),
            bare_exceptions: rng.bool(),
            foreign_tombstones: rng.bool(),
            duplicates: if rng.bool() { rng.f64() * 0.5 } else { 0.0 },
            empty_pages: if rng.bool() { rng.f64() * 0.5 } else { 0.0 },
            shuffle: rng.bool(),
            kept_tokens: rng.usize(2..9),
            whole_occurrences: rng.bool(),
            limited_instances: rng.bool(),
            instances: match rng.u8(0..6) {
                0 | 1 => InstanceListing::WithoutExceptions,
                2 => InstanceListing::OccurrencesOrNotFound,
                _ => InstanceListing::Complete,
            },
            private_events: match rng.u8(0..3) {
                0 => PrivateEvents::ListedOnly,
                _ => PrivateEvents::Readable,
            },
            ..Self::calm()
        }
    }

    /// Every combination of `master`, `resend`, `split_series` and `bare_exceptions`, each with a
    /// name such as `last-tombstones-split-bare`; the other members are calm.
    pub fn all() -> Vec<(String, Self)> {
        let mut all = Vec::new();
        for (master_name, master) in [
            ("first", MasterOnPage::First),
            ("last", MasterOnPage::Last),
            ("absent", MasterOnPage::Absent),
        ] {
            for (resend_name, resend) in [
                ("whole", Resend::Whole),
                ("tombstones", Resend::Tombstones),
                ("changed", Resend::ChangedOnly),
            ] {
                for (split_name, split_series) in [("glued", false), ("split", true)] {
                    for (bare_name, bare_exceptions) in [("full", false), ("bare", true)] {
                        all.push((
                            format!("{master_name}-{resend_name}-{split_name}-{bare_name}"),
                            Self { master, resend, split_series, bare_exceptions, ..Self::calm() },
                        ));
                    }
                }
            }
        }
        all
    }

    /// The behaviour called `name`: `calm`, `nasty`, a number (as [`Behaviour::by_seed`]), or one
    /// of [`Behaviour::all`]. `None` for any other.
    pub fn by_name(name: &str) -> Option<Self> {
        match name {
            "calm" => Some(Self::calm()),
            "nasty" => Some(Self {
                master: MasterOnPage::Absent,
                resend: Resend::ChangedOnly,
                split_series: true,
                bare_exceptions: true,
                foreign_tombstones: true,
                duplicates: 0.3,
                empty_pages: 0.3,
                shuffle: true,
                kept_tokens: 2,
                instances: InstanceListing::WithoutExceptions,
                private_events: PrivateEvents::ListedOnly,
                ..Self::calm()
            }),
            _ => match name.parse() {
                Ok(seed) => Some(Self::by_seed(seed)),
                Err(_) => Self::all().into_iter().find(|(known, _)| known == name).map(|(_, b)| b),
            },
        }
    }
}
