//! The JSON of the API (`docs/api.md`), shared by the server and the CLI.
//!
//! The member names are a contract, defined only here. The type names of `mirror` and the format on
//! disk can change independently of them.

use std::borrow::Cow;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::mirror::failure::ErrorKind;
use crate::mirror::fleet::Place;
use crate::mirror::outcome::{RoundOutcome, SegmentMode};
use crate::mirror::status::{
    AuditStatus, LastError, LastResync, PastRound, PastRounds, ResyncReason, RoundFigures,
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

impl<T> From<T> for StrJson<T> {
    fn from(value: T) -> Self {
        Self(value)
    }
}

/// Defines the JSON forms of structs of `mirror`, and converts each in both directions, member by
/// member. A member that only one of the two structs has is a compile error.
macro_rules! json_forms {
    ($(
        $(#[$meta:meta])*
        $form:ident of $original:ident {
            $($(#[$attribute:meta])* $member:ident: $kind:ty $(=> $how:ident)?,)*
        }
    )*) => {$(
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[expect(missing_docs, reason = "documented at the original")]
        pub struct $form {
            $($(#[$attribute])* pub $member: $kind,)*
        }

        impl From<$original> for $form {
            fn from($original { $($member),* }: $original) -> Self {
                Self { $($member: json_forms!(@convert $member $($how)?)),* }
            }
        }

        impl From<$form> for $original {
            fn from($form { $($member),* }: $form) -> Self {
                Self { $($member: json_forms!(@convert $member $($how)?)),* }
            }
        }
    )*};
    (@convert $member:ident) => { $member.into() };
    (@convert $member:ident optional) => { $member.map(Into::into) };
    (@convert $member:ident listed) => { $member.into_iter().map(Into::into).collect() };
}

json_forms! {
    /// A window: see [`WindowStatus`].
    WindowJson of WindowStatus {
        name: String,
        account: String,
        mailbox: String,
        calendar: String,
        start: Timestamp,
        end: Timestamp,
        state: StrJson<WindowState>,
        events: u64,
        segments: Vec<SegmentJson> => listed,
        last_round: Option<RoundJson> => optional,
        last_success: Option<Timestamp>,
        stale_s: Option<f64>,
        next_due: Option<Timestamp>,
        #[serde(default)]
        held_until: Option<Timestamp>,
        failures: u32,
        resyncs: u64,
        last_resync: Option<ResyncStatusJson> => optional,
        last_error: Option<ErrorJson> => optional,
        #[serde(default)]
        audit: AuditStatusJson,
        #[serde(default)]
        unreadable: u32,
        #[serde(default)]
        settled_once: bool,
        #[serde(default)]
        interval_s: f64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fleet: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        place: Option<PlaceJson> => optional,
    }

    /// A room: see [`Place`].
    PlaceJson of Place {
        building: Option<Arc<str>>,
        floor: Option<Arc<str>>,
        capacity: Option<u32>,
    }

    /// A segment: see [`SegmentStatus`].
    SegmentJson of SegmentStatus {
        start: Timestamp,
        end: Timestamp,
        mode: StrJson<SegmentMode>,
        #[serde(default)]
        interval_s: f64,
    }

    /// A finished round: see [`RoundFigures`].
    RoundJson of RoundFigures {
        number: u64,
        at: Timestamp,
        took_ms: u64,
        requests: u32,
        pages: u32,
        created: u32,
        updated: u32,
        removed: u32,
    }

    /// A resync: see [`LastResync`].
    ResyncStatusJson of LastResync {
        at: Timestamp,
        reason: StrJson<ResyncReason>,
    }

    /// A failure: see [`LastError`].
    ErrorJson of LastError {
        at: Timestamp,
        kind: StrJson<ErrorKind>,
        status: Option<u16>,
        code: Option<String>,
        message: String,
        request_id: Option<String>,
        retry_at: Option<Timestamp>,
    }

    /// Drift audits: see [`AuditStatus`].
    #[derive(Default)]
    AuditStatusJson of AuditStatus {
        at: Option<Timestamp>,
        differences: u64,
        next_due: Option<Timestamp>,
    }

    /// A recorded round: see [`PastRound`].
    PastRoundJson of PastRound {
        #[serde(flatten)]
        round: RoundJson,
        outcome: StrJson<RoundOutcome>,
        resync: Option<StrJson<ResyncReason>> => optional,
    }

    /// The recorded rounds of a window: see [`PastRounds`].
    PastRoundsJson of PastRounds {
        value: Vec<PastRoundJson> => listed,
        quiet: u64,
    }
}
