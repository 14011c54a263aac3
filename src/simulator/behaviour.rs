//! How this Graph behaves where Graph's behaviour is known in more than one reading.
//!
//! Nothing here is a fault: every combination is a Graph that works, and from every one of them a
//! client that reconciles series through the master and its `/instances` reaches the same truth.

use serde::{Deserialize, Serialize};

/// Where a series master stands among the items of a round (facts 67, 68).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MasterOnPage {
    /// Before its instances; with `split_series`, at the very beginning of the round.
    First,
    /// After its instances; with `split_series`, at the very end of the round.
    Last,
    /// Never: it has to be fetched by id.
    Absent,
}

/// What a delta round carries of a series that changed (facts 65, 69).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resend {
    /// The whole series as it is now, without tombstones for occurrences that left.
    Whole,
    /// The items that changed, and a tombstone for each that left.
    Tombstones,
    /// Only the items whose own content changed, and no tombstone but the master's.
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
    /// Like all others.
    Readable,
    /// Delta pages and plain listings contain them. By id, and in a series' listing, they are
    /// not found.
    ListedOnly,
}

/// One reading of Graph. Probabilities are per page, in `[0, 1]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Behaviour {
    /// Where masters stand.
    pub master: MasterOnPage,
    /// What comes of a changed series.
    pub resend: Resend,
    /// Whether a series may be cut at a page's end (fact 70). If not, it is expanded whole on one
    /// page, even past the page size (fact 42).
    pub split_series: bool,
    /// Whether exceptions come bare, like occurrences (fact 73).
    pub bare_exceptions: bool,
    /// Whether occurrences come whole in delta pages, as the documentation has it (fact 66).
    pub whole_occurrences: bool,
    /// What the listing of a series' instances contains.
    pub instances: InstanceListing,
    /// How events with the sensitivity `private` are shown.
    pub private_events: PrivateEvents,
    /// Whether a series' instances may be listed over 1825 days only, like a view (fact 31).
    pub limited_instances: bool,
    /// Whether events outside the window that were merely created or edited, and events deleted
    /// before an enumeration, come as tombstones (facts 62, 64).
    pub foreign_tombstones: bool,
    /// The probability that a page repeats an item of the round, and that a round replays an
    /// unchanged item (fact 58).
    pub duplicates: f64,
    /// The probability that an empty page with a next link comes first (fact 56).
    pub empty_pages: f64,
    /// Whether items come in no order (fact 59).
    pub shuffle: bool,
    /// How many generations of a stream's links still work (facts 91, 95); at least 1.
    pub kept_tokens: usize,
    /// The largest page size the hint is honoured for.
    pub max_page_size: usize,
    /// The longest window there is a view of, in days (fact 31).
    pub max_days: u32,
    /// Requests in flight for one mailbox before it is throttled (fact 112).
    pub max_concurrent_per_mailbox: usize,
    /// Requests for one mailbox in any 10 minutes before it is throttled (fact 112).
    pub max_requests_per_mailbox: u64,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self::calm()
    }
}

impl Behaviour {
    /// What is most commonly reported, without any nastiness: a good first acquaintance.
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

    /// Any reading, with any amount of nastiness, as `seed` has it.
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
    /// name such as `last-tombstones-split-bare`; otherwise calm.
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
