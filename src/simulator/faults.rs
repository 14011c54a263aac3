//! Faults to inject: with a probability, or planned for a mailbox or a path.
//!
//! Faults are separate from the [`Behaviour`](super::Behaviour): a Graph without faults may behave
//! unusually, but all its responses are correct.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::identity_fault::IdentityFault;
use super::lies::Lie;

/// One kind of failure. A fault that does not fit the request it was drawn for (such as a foreign
/// link for a response without links) has no effect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "fault", deny_unknown_fields)]
pub enum Fault {
    /// 429 `TooManyRequests` (facts 117, 118, 120).
    Throttled {
        /// The value of the header; `date:5` is an HTTP date 5 s ahead. `None`: no header.
        retry_after: Option<String>,
    },
    /// 503 with an empty body (fact 122).
    UnavailableEmpty,
    /// 503 with a body and a `Retry-After`.
    Unavailable {
        /// As in `Throttled`.
        retry_after: Option<String>,
    },
    /// 503 `UnknownError` (fact 121).
    UnknownError,
    /// 502 with an HTML page (fact 128).
    BadGateway,
    /// 504 `UnknownError`.
    GatewayTimeout,
    /// 504 that a link keeps while the requested page size is more than `above` (fact 121).
    StickyGatewayTimeout {
        /// The largest page size that works.
        above: usize,
    },
    /// 500 that a link keeps while the requested page size is more than `above`, as with a damaged
    /// item (fact 197).
    StickyInternalError {
        /// The largest page size that works.
        above: usize,
    },
    /// 500 `ErrorInternalServerError` (fact 124).
    InternalError,
    /// 408.
    RequestTimeout,
    /// 509 without a body.
    BandwidthExceeded,
    /// 400 with an unexpected code.
    BadRequest,
    /// The connection closes without a response (fact 126).
    Reset,
    /// The request never gets a response.
    Stall,
    /// The connection closes in the middle of the body.
    Truncated,
    /// The body is sent in a hundred pieces.
    SlowBody {
        /// The delay before each piece, in milliseconds.
        every: u64,
    },
    /// The body never ends.
    EndlessBody,
    /// 200 with a body that is not JSON.
    NotJson,
    /// A delta page without any link.
    NeitherLink,
    /// A delta page with both links.
    BothLinks,
    /// A delta page with an additional item that cannot be parsed.
    UnreadableItem {
        /// What is wrong with the item.
        how: CorruptItem,
    },
    /// A delta page with impossible content.
    Lie {
        /// Which lie.
        how: Lie,
    },
    /// A delta page whose link leads to another origin.
    ForeignLink {
        /// Which origin.
        how: ForeignLink,
    },
    /// A body of some KiB that inflates to 128 MiB; plain if the client does not accept gzip.
    Bomb,
    /// A page of more than 64 MiB, of a delta round or a view, while the requested page size is
    /// more than `above`.
    HugePage {
        /// The largest page size that works.
        above: usize,
    },
    /// A delta page with 100,000 additional events (48 MB), while the requested page size is more
    /// than `above`.
    CrowdedPage {
        /// The largest page size that works.
        above: usize,
    },
    /// The link is dead (facts 93 to 101). Only for requests with a link.
    DeadLink {
        /// Which response.
        how: DeadLinkAnswer,
    },
    /// 401 `InvalidAuthenticationToken` (fact 150).
    Unauthorized,
    /// 401 with a claims challenge (fact 151).
    ClaimsChallenge,
    /// The mailbox or calendar is not available.
    Mailbox {
        /// Which response.
        how: MailboxFault,
    },
    /// Every page is the same and has a new next link, and there is no delta link, while the
    /// requested page size is less than `below` (facts 172, 173).
    EndlessPaging {
        /// The smallest page size that works.
        below: usize,
    },
    /// Every page is empty and has a new next link, while the requested page size is less than
    /// `below` (facts 56, 175).
    EndlessEmpty {
        /// The smallest page size that works.
        below: usize,
    },
    /// Every page has a new next link and ids of the same page, but never the same set twice in a
    /// row, while the requested page size is less than `below`.
    EndlessOld {
        /// The smallest page size that works.
        below: usize,
    },
    /// The token endpoint refuses the request. Only for requests to the token endpoint.
    SignIn {
        /// Which response.
        how: SignInRefusal,
    },
    /// An endpoint of managed identities fails. Only for requests to these.
    Identity {
        /// Which response.
        how: IdentityFault,
    },
}

impl Fault {
    /// Whether the fault changes how a response is sent, and not the response itself.
    pub(super) fn is_of_connection(&self) -> bool {
        matches!(
            self,
            Self::Reset | Self::Stall | Self::Truncated | Self::SlowBody { .. } | Self::EndlessBody
        )
    }

    fn is_of_sign_in(&self) -> bool {
        matches!(self, Self::SignIn { .. } | Self::Identity { .. })
    }
}

/// What is wrong with an item that cannot be parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum CorruptItem {
    /// It is not an object.
    NotAnObject,
    /// It has no id.
    NoId,
    /// Its id is a number.
    NumberId,
    /// Its start is not a date.
    BadDate,
}

/// The origin of a link that must not be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum ForeignLink {
    /// Another host.
    Host,
    /// The same host with another scheme.
    Scheme,
    /// The same host with another port.
    Port,
    /// Another host, with the right host as user information.
    UserInfo,
}

/// The response for a dead link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum DeadLinkAnswer {
    /// 410 `SyncStateNotFound`, generations.
    Generation,
    /// 410 `SyncStateNotFound`, root folder.
    RootFolder,
    /// 410 `SyncStateInvalid`.
    Invalid,
    /// 410 `resyncRequired` with a `Location` to somewhere else.
    ResyncRequired,
    /// 410 `resyncApplyDifferences`.
    ApplyDifferences,
    /// 410 `resyncUploadDifferences`.
    UploadDifferences,
    /// 400 `syncStateNotFound`.
    BadRequest,
    /// 400 `InvalidDeltaToken`.
    InvalidDeltaToken,
    /// 400 "Badly formed token."
    BadlyFormed,
    /// 400 `ErrorInvalidSyncStateData`.
    InvalidData,
}

/// The response for a mailbox or calendar that is not available.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MailboxFault {
    /// 404 `MailboxNotEnabledForRESTAPI` (fact 105).
    NotEnabled,
    /// The same with a newer message (fact 106).
    Inactive,
    /// 404 `ResourceNotFound` (fact 107).
    ResourceNotFound,
    /// 404 `ErrorInvalidUser` (fact 107).
    InvalidUser,
    /// 404 `Request_ResourceNotFound` (fact 107).
    RequestResourceNotFound,
    /// 404 without a body (fact 107).
    Empty,
    /// 404 `ErrorItemNotFound` (fact 103).
    ItemNotFound,
    /// 403 `ErrorAccessDenied` (fact 109).
    AccessDenied,
    /// 403 `DelegatedCalendarAccessDenied` (fact 16).
    DelegatedDenied,
    /// 403 `insufficient_claims` (fact 153).
    InsufficientClaims,
}

impl MailboxFault {
    /// Every response.
    pub const ALL: [Self; 10] = [
        Self::NotEnabled,
        Self::Inactive,
        Self::ResourceNotFound,
        Self::InvalidUser,
        Self::RequestResourceNotFound,
        Self::Empty,
        Self::ItemNotFound,
        Self::AccessDenied,
        Self::DelegatedDenied,
        Self::InsufficientClaims,
    ];
}

/// How a sign-in is refused (facts 147 to 149).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SignInRefusal {
    /// 401 `invalid_client`, AADSTS7000215.
    WrongSecret,
    /// 401 `invalid_client`, AADSTS7000222.
    ExpiredSecret,
    /// 400 `unauthorized_client`, AADSTS700016.
    UnknownApplication,
    /// 400 `invalid_request`, AADSTS90002.
    UnknownTenant,
    /// 400 `invalid_grant`, AADSTS700082.
    InvalidGrant,
    /// 400 `invalid_grant`, AADSTS50173: the person's tokens were revoked.
    GrantRevoked,
    /// 401 `invalid_client`, AADSTS7000218: the application allows no sign-in without a secret.
    PublicClientDisabled,
    /// 400 `invalid_grant`, AADSTS65001.
    ConsentRequired,
    /// 400 `invalid_grant`, AADSTS53003.
    BlockedByPolicy,
    /// 400 `interaction_required`, AADSTS50076.
    InteractionRequired,
    /// 503 `temporarily_unavailable`.
    TemporarilyUnavailable,
}

/// A fault planned for the requests that match it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlannedFault {
    /// The fault.
    #[serde(flatten)]
    pub fault: Fault,
    /// Only for that mailbox (address or object id).
    #[serde(default)]
    pub mailbox: Option<String>,
    /// Only for requests whose path and query, including links, contain this text in any case.
    #[serde(default)]
    pub path: Option<String>,
    /// How many matching requests pass before the fault.
    #[serde(default)]
    pub skip: u32,
    /// How many requests get the fault; `None`: all until cleared.
    #[serde(default)]
    pub times: Option<u32>,
}

impl PlannedFault {
    /// The fault for the next request of any kind.
    pub fn once(fault: Fault) -> Self {
        Self { fault, mailbox: None, path: None, skip: 0, times: Some(1) }
    }

    /// The fault for every request until cleared.
    pub fn always(fault: Fault) -> Self {
        Self { times: None, ..Self::once(fault) }
    }

    /// Only for that mailbox (address or object id).
    #[must_use]
    pub fn mailbox(self, mailbox: &str) -> Self {
        Self { mailbox: Some(mailbox.to_owned()), ..self }
    }

    /// Only for paths that contain `part`.
    #[must_use]
    pub fn path(self, part: &str) -> Self {
        Self { path: Some(part.to_owned()), ..self }
    }

    /// For that many requests.
    #[must_use]
    pub fn times(self, times: u32) -> Self {
        Self { times: Some(times), ..self }
    }

    /// After that many matching requests.
    #[must_use]
    pub fn skip(self, skip: u32) -> Self {
        Self { skip, ..self }
    }
}

/// A fault with its probability.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FaultRate {
    /// The fault.
    #[serde(flatten)]
    pub fault: Fault,
    /// The probability per request, in `[0, 1]`.
    pub probability: f64,
}

/// All faults to inject.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// Random faults, drawn for every request.
    pub rates: Vec<FaultRate>,
    /// Planned faults; a request gets the first that matches.
    pub planned: Vec<PlannedFault>,
}

impl Faults {
    /// Random transient faults: with `probability` a request draws one of [`Faults::passing`],
    /// which include dead links.
    pub fn by_rate(probability: f64) -> Self {
        let faults = Self::passing();
        let each = probability / faults.len() as f64;
        let rates =
            faults.into_iter().map(|fault| FaultRate { fault, probability: each }).collect();
        Self { rates, planned: Vec::new() }
    }

    /// One of each transient fault: it goes away when the request is repeated or the round is
    /// started again, and the client does not have to change its requests.
    pub fn passing() -> Vec<Fault> {
        let after = |text: &str| Some(text.to_owned());
        let mut faults = vec![
            Fault::Throttled { retry_after: after("3") },
            Fault::Throttled { retry_after: after("2.128") },
            Fault::Throttled { retry_after: after("date:4") },
            Fault::Throttled { retry_after: None },
            Fault::Throttled { retry_after: after("-5") },
            Fault::UnavailableEmpty,
            Fault::Unavailable { retry_after: after("1") },
            Fault::UnknownError,
            Fault::BadGateway,
            Fault::GatewayTimeout,
            Fault::InternalError,
            Fault::RequestTimeout,
            Fault::BandwidthExceeded,
            Fault::Reset,
            Fault::Truncated,
            Fault::SlowBody { every: 10 },
            Fault::NotJson,
            Fault::NeitherLink,
            Fault::BothLinks,
            Fault::Unauthorized,
        ];
        faults.extend(every(|how| Fault::UnreadableItem { how }));
        faults.extend(every(|how| Fault::ForeignLink { how }));
        faults.extend(every(|how| Fault::DeadLink { how }));
        faults
    }

    /// Draws the fault for a request, if any: a planned one, else a random one. `is_mailbox` says
    /// whether a name is the request's mailbox, `fits` whether a fault applies to the request. The
    /// endpoints that grant tokens get only their own faults and faults planned for their paths.
    pub(super) fn draw(
        &mut self,
        rng: &mut fastrand::Rng,
        target: &str,
        sign_in: bool,
        is_mailbox: impl Fn(&str) -> bool,
        fits: impl Fn(&Fault) -> bool,
    ) -> Option<Fault> {
        let mut drawn = None;
        for planned in &mut self.planned {
            let matches = planned.mailbox.as_deref().is_none_or(&is_mailbox)
                && planned
                    .path
                    .as_ref()
                    .is_none_or(|part| target.to_lowercase().contains(&part.to_lowercase()))
                && fits(&planned.fault)
                && (!sign_in || planned.path.is_some() || planned.fault.is_of_sign_in());
            if !matches {
                continue;
            }
            if planned.skip > 0 {
                planned.skip -= 1;
                continue;
            }
            planned.times = planned.times.map(|times| times.saturating_sub(1));
            drawn = Some(planned.fault.clone());
            break;
        }
        self.planned.retain(|planned| planned.times != Some(0));
        if drawn.is_some() || self.rates.is_empty() {
            return drawn;
        }
        let mut chance = rng.f64();
        for rate in &self.rates {
            chance -= rate.probability;
            if chance < 0.0 {
                let fits = fits(&rate.fault) && (!sign_in || rate.fault.is_of_sign_in());
                return fits.then(|| rate.fault.clone());
            }
        }
        None
    }
}

/// The faults that `fault` makes of all values of an enum.
fn every<E: ValueEnum + 'static>(fault: impl Fn(E) -> Fault) -> impl Iterator<Item = Fault> {
    E::value_variants().iter().cloned().map(fault)
}
