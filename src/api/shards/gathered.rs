//! The parts of an answer of all shards.

use std::collections::BTreeSet;

use axum::http::StatusCode;
use axum::response::Response;
use futures_util::future::join_all;
use serde::Deserialize;

use super::super::etag::{ETag, ETagBuilder};
use super::super::extract::ApiRequest;
use super::super::problem::Problem;
use super::peers::{PeerError, ShardPart};

/// What every part can be read as; borrowed from its body.
pub(super) type ReadPart<'a, T> = (u32, T, &'a ShardPart);

/// The parts that came, and who did not answer.
#[derive(Debug, Default)]
pub(super) struct GatheredParts {
    /// In the order of the shards.
    parts: Vec<ShardPart>,
    missing: BTreeSet<u32>,
}

/// The members of a problem of another shard.
#[derive(Deserialize)]
struct PeerProblem {
    r#type: String,
    detail: String,
    parameter: Option<String>,
}

impl GatheredParts {
    /// The parts of these shards, all at the same time. `target` is what the others are asked for; a
    /// shard without one counts as missing. `own` is the part of this shard, if it is one of them.
    ///
    /// # Errors
    /// The problem of this shard; one of another that is about the request; 503 if too many answers
    /// are merged at this time.
    pub(super) async fn gather(
        request: &ApiRequest,
        shards: BTreeSet<u32>,
        target: impl Fn(u32) -> Option<String>,
        own: impl Future<Output = Result<Response, Problem>>,
    ) -> Result<Self, Problem> {
        let peers = &request.app.settings.peers;
        let here = request.app.settings.shard.of.ordinal();
        let has_own = shards.contains(&here);
        let mut gathered = Self::default();
        let mut asking = Vec::new();
        for other in shards.into_iter().filter(|shard| *shard != here) {
            let Some(target) = target(other) else {
                gathered.missing.insert(other);
                continue;
            };
            asking.push(async move { (other, peers.part(other, request, &target).await) });
        }
        // An own problem is the answer, without waiting for the others.
        let own = async {
            let part = match has_own {
                true => Some((here, peers.own_part(here, own.await?).await)),
                false => None,
            };
            Ok(part)
        };
        let asking = async { Ok::<_, Problem>(join_all(asking).await) };
        let (own, others) = futures_util::try_join!(own, asking)?;
        for (shard, part) in others.into_iter().chain(own) {
            match part {
                Ok(part) => gathered.parts.push(part),
                Err(error) => gathered.add_missing(shard, error)?,
            }
        }
        gathered.parts.sort_unstable_by_key(|part| part.shard);
        Ok(gathered)
    }

    fn add_missing(&mut self, shard: u32, error: PeerError) -> Result<(), Problem> {
        if let PeerError::NoRoom = error {
            return Err(Problem::Busy);
        }
        if let PeerError::Refused(status, body) = &error
            && let Some(problem) = problem_of_request(*status, body)
        {
            return Err(problem);
        }
        tracing::debug!(shard, reason = error.to_string(), "shard is missing in an answer");
        self.missing.insert(shard);
        Ok(())
    }

    /// The parts, each read as a `T`. One that cannot be read counts as missing.
    pub(super) fn read<'a, T: Deserialize<'a>>(
        parts: &'a [ShardPart],
        missing: &mut BTreeSet<u32>,
    ) -> Vec<ReadPart<'a, T>> {
        let mut read = Vec::with_capacity(parts.len());
        for part in parts {
            match serde_json::from_slice(&part.body) {
                Ok(value) => read.push((part.shard, value, part)),
                Err(error) => {
                    let reason = PeerError::Malformed(error.to_string()).to_string();
                    tracing::warn!(shard = part.shard, reason, "shard is missing in an answer");
                    missing.insert(part.shard);
                }
            }
        }
        read
    }

    /// The parts and the shards that are missing.
    pub(super) fn split(self) -> (Vec<ShardPart>, BTreeSet<u32>) {
        (self.parts, self.missing)
    }
}

/// The tag of an answer made of parts: it changes with theirs, with what is missing, and with
/// `more`. So it says the same as theirs: ages do not change it.
pub(super) fn tag_of(
    parts: &[ShardPart],
    missing: &BTreeSet<u32>,
    more: &impl serde::Serialize,
) -> ETag {
    let mut tag = ETagBuilder::new("shards together");
    for part in parts {
        let own = part.tag.as_ref().and_then(|tag| tag.to_str().ok());
        // A part without a tag has no age.
        let of_body = || serde_json::to_value(String::from_utf8_lossy(&part.body)).ok();
        tag.add(&(part.shard, own, own.is_none().then(of_body)));
    }
    tag.add(&(missing, more));
    tag.done()
}

/// The shards as an answer names them.
pub(super) fn names(shards: &BTreeSet<u32>) -> Vec<String> {
    shards.iter().map(u32::to_string).collect()
}

/// A problem that is the request's and not the shard's: it would be the same for all of them.
fn problem_of_request(status: StatusCode, body: &[u8]) -> Option<Problem> {
    let problem: PeerProblem = serde_json::from_slice(body).ok()?;
    let slug = problem.r#type.rsplit('/').next()?;
    match (status, slug) {
        (StatusCode::BAD_REQUEST, "bad-parameter") => {
            Some(Problem::bad_parameter(&problem.parameter?, problem.detail))
        }
        (StatusCode::GONE, _) => Some(Problem::SnapshotRequired),
        _ => None,
    }
}
