//! The JSON of the API (`docs/api.md`), shared by the server and the CLI.
//!
//! The member names are a contract, defined only here. The type names of `mirror` and the format on
//! disk can change independently of them.

use std::borrow::Cow;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::mirror::failure::ErrorKind;
use crate::mirror::outcome::{RoundOutcome, SegmentMode};
use crate::mirror::status::{
    AuditStatus, LastError, LastResync, LastRound, PastRound, PastRounds, ResyncReason,
    SegmentStatus, WindowState, WindowStatus,
};

/// A value that JSON represents as one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StrJson<T>(pub T);

/// An enum with a word for each value.
pub trait StrEnum: Copy {
    /// Every value.
    fn all() -> impl IntoIterator<Item = Self>;
    /// The word.
    fn word(self) -> &'static str;
    /// The value that a word names, if any.
    fn from_word(word: &str) -> Option<Self> {
        Self::all().into_iter().find(|value| value.word() == word)
    }
}

/// Enums that JSON represents as a word, each with its values.
macro_rules! words {
    ($($name:ident: $all:expr;)*) => {$(
        impl StrEnum for $name {
            fn all() -> impl IntoIterator<Item = Self> {
                $all
            }
            fn word(self) -> &'static str {
                self.as_str()
            }
        }

        impl From<StrJson<Self>> for $name {
            fn from(StrJson(value): StrJson<Self>) -> Self {
                value
            }
        }
    )*};
}

words! {
    WindowState: Self::ALL;
    ResyncReason: Self::ALL;
    RoundOutcome: Self::counted().chain([Self::Crashed]);
    ErrorKind: Self::all();
    SegmentMode: Self::ALL;
}

impl<T: StrEnum> Serialize for StrJson<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.word())
    }
}

impl<'de, T: StrEnum> Deserialize<'de> for StrJson<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let word = Cow::<str>::deserialize(deserializer)?;
        let unknown = || format!("unknown word {word:?}, the daemon has another version");
        T::from_word(&word).map(Self).ok_or_else(|| de::Error::custom(unknown()))
    }
}

/// A window: see [`WindowStatus`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "documented at WindowStatus")]
pub struct WindowJson {
    pub name: String,
    pub account: String,
    pub mailbox: String,
    pub calendar: String,
    pub start: Timestamp,
    pub end: Timestamp,
    pub state: StrJson<WindowState>,
    pub events: u64,
    pub segments: Vec<SegmentJson>,
    pub last_round: Option<RoundJson>,
    pub last_success: Option<Timestamp>,
    pub stale_s: Option<f64>,
    pub next_due: Option<Timestamp>,
    #[serde(default)]
    pub held_until: Option<Timestamp>,
    pub failures: u32,
    pub resyncs: u64,
    pub last_resync: Option<ResyncStatusJson>,
    pub last_error: Option<ErrorJson>,
    #[serde(default)]
    pub audit: AuditStatusJson,
    #[serde(default)]
    pub unreadable: u32,
    #[serde(default)]
    pub settled_once: bool,
    #[serde(default)]
    pub interval_s: f64,
}

/// A segment: see [`SegmentStatus`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "documented at SegmentStatus")]
pub struct SegmentJson {
    pub start: Timestamp,
    pub end: Timestamp,
    pub mode: StrJson<SegmentMode>,
    #[serde(default)]
    pub interval_s: f64,
}

/// A finished round: see [`LastRound`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "documented at LastRound")]
pub struct RoundJson {
    pub number: u64,
    pub at: Timestamp,
    pub took_ms: u64,
    pub requests: u32,
    pub pages: u32,
    pub created: u32,
    pub updated: u32,
    pub removed: u32,
}

/// A resync: see [`LastResync`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "documented at LastResync")]
pub struct ResyncStatusJson {
    pub at: Timestamp,
    pub reason: StrJson<ResyncReason>,
}

/// A failure: see [`LastError`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "documented at LastError")]
pub struct ErrorJson {
    pub at: Timestamp,
    pub kind: StrJson<ErrorKind>,
    pub status: Option<u16>,
    pub code: Option<String>,
    pub message: String,
    pub request_id: Option<String>,
    pub retry_at: Option<Timestamp>,
}

/// Drift audits: see [`AuditStatus`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "documented at AuditStatus")]
pub struct AuditStatusJson {
    pub at: Option<Timestamp>,
    pub differences: u64,
    pub next_due: Option<Timestamp>,
}

/// A recorded round: see [`PastRound`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "documented at PastRound")]
pub struct PastRoundJson {
    #[serde(flatten)]
    pub round: RoundJson,
    pub outcome: StrJson<RoundOutcome>,
    pub resync: Option<StrJson<ResyncReason>>,
}

/// The recorded rounds of a window: see [`PastRounds`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "documented at PastRounds")]
pub struct PastRoundsJson {
    pub value: Vec<PastRoundJson>,
    pub quiet: u64,
}

impl<T> From<T> for StrJson<T> {
    fn from(value: T) -> Self {
        Self(value)
    }
}

/// Converts between two structs in both directions, member by member. A member that only one of
/// them has is a compile error.
macro_rules! twins {
    ($model:ident, $word:ident {
        same: [$($same:ident),*],
        into: [$($into:ident),*],
        optional: [$($optional:ident),*],
        listed: [$($listed:ident),*]$(,)?
    }) => {
        twins!(@ $word, $model, [$($same),*], [$($into),*], [$($optional),*], [$($listed),*]);
        twins!(@ $model, $word, [$($same),*], [$($into),*], [$($optional),*], [$($listed),*]);
    };
    (@ $from:ident, $to:ident, [$($same:ident),*], [$($into:ident),*], [$($optional:ident),*],
        [$($listed:ident),*]) => {
        impl From<$from> for $to {
            fn from(value: $from) -> Self {
                let $from { $($same,)* $($into,)* $($optional,)* $($listed,)* } = value;
                Self {
                    $($same,)*
                    $($into: $into.into(),)*
                    $($optional: $optional.map(Into::into),)*
                    $($listed: $listed.into_iter().map(Into::into).collect(),)*
                }
            }
        }
    };
}

twins!(
    WindowJson,
    WindowStatus {
        same: [
            name,
            account,
            mailbox,
            calendar,
            start,
            end,
            events,
            last_success,
            stale_s,
            next_due,
            held_until,
            failures,
            resyncs,
            unreadable,
            settled_once,
            interval_s
        ],
        into: [state, audit],
        optional: [last_round, last_resync, last_error],
        listed: [segments],
    }
);
twins!(
    SegmentJson,
    SegmentStatus { same: [start, end, interval_s], into: [mode], optional: [], listed: [] }
);
twins!(
    RoundJson,
    LastRound {
        same: [number, at, took_ms, requests, pages, created, updated, removed],
        into: [],
        optional: [],
        listed: [],
    }
);
twins!(ResyncStatusJson, LastResync { same: [at], into: [reason], optional: [], listed: [] });
twins!(
    ErrorJson,
    LastError {
        same: [at, status, code, message, request_id, retry_at],
        into: [kind],
        optional: [],
        listed: [],
    }
);
twins!(
    AuditStatusJson,
    AuditStatus { same: [at, differences, next_due], into: [], optional: [], listed: [] }
);
twins!(
    PastRoundJson,
    PastRound { same: [], into: [round, outcome], optional: [resync], listed: [] }
);
twins!(PastRoundsJson, PastRounds { same: [quiet], into: [], optional: [], listed: [value] });
