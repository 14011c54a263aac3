//! `GET /v1/busy` of all shards.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::response::Response;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::super::busy::{self, BusyRange};
use super::super::extract::ApiRequest;
use super::super::model::PlaceJson;
use super::super::problem::Problem;
use super::super::query::rewritten;
use super::super::selection::{SELECTION, SelectedWindows};
use super::super::view::FILTER;
use super::gathered::{GatheredParts, names, tag_of};
use super::peers::ShardPart;

/// A shard's part: each window with what merging needs.
#[derive(Deserialize)]
pub(super) struct BusyPart<'a> {
    #[serde(borrow)]
    pub(super) value: Vec<WindowBusyPart<'a>>,
}

/// A window of a part.
#[derive(Deserialize, Serialize)]
pub(super) struct WindowBusyPart<'a> {
    pub(super) window: Arc<str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) place: Option<PlaceJson>,
    #[serde(borrow)]
    pub(super) busy: &'a RawValue,
    pub(super) complete: bool,
    pub(super) as_of: Option<Timestamp>,
    pub(super) unplaced: usize,
    /// Only other shards need it.
    #[serde(skip_serializing)]
    pub(super) settled_once: bool,
}

/// The windows of all shards.
#[derive(Serialize)]
struct MergedBusy<'a> {
    value: Vec<WindowBusyPart<'a>>,
    from: Timestamp,
    to: Timestamp,
    incomplete: Vec<String>,
}

/// `GET /v1/busy`.
pub(in crate::api) async fn many(request: ApiRequest) -> Result<Response, Problem> {
    if !request.is_merged() {
        return busy::many(request).await;
    }
    let known = [&["windows", "from", "to"], &SELECTION[..]].concat();
    let (parameters, _) = request.viewed(&known)?;
    let range = BusyRange::parse(&request, &parameters)?;
    let selection =
        SelectedWindows::parse(&parameters, Some("windows"), &request.app, &request.access)?;
    let gathered = gather(&request, &selection, range).await?;
    let (parts, missing) = gathered.split();
    let tag = tag_of(&parts, &missing, &());
    if let Some(answer) = request.not_modified(&tag) {
        return Ok(answer);
    }
    let merging = async move { Ok((merged(&parts, missing, range), ())) };
    let (body, ()) = request.app.limits.unsliced(merging).await?;
    Ok(tag.json(body))
}

/// The busy times of the selected windows in a range, as far as the request's filter accepts them:
/// one range for all shards, whatever their clocks say.
pub(super) async fn gather(
    request: &ApiRequest,
    selection: &SelectedWindows,
    BusyRange { from, to }: BusyRange,
) -> Result<GatheredParts, Problem> {
    let is_kept =
        |name: &str| name == "windows" || SELECTION.contains(&name) || FILTER.contains(&name);
    let range = [("from", from.to_string()), ("to", to.to_string())];
    let query = rewritten(request.query(), is_kept, &range);
    let own = busy::many(request.of_this_shard(query.clone()));
    let target = |_| Some(format!("/v1/busy?{query}"));
    GatheredParts::gather(request, selection.shards(), target, own).await
}

fn merged(parts: &[ShardPart], mut missing: BTreeSet<u32>, range: BusyRange) -> Vec<u8> {
    let parts = GatheredParts::read::<BusyPart<'_>>(parts, &mut missing);
    let mut value: Vec<WindowBusyPart<'_>> =
        parts.into_iter().flat_map(|(_, part, _)| part.value).collect();
    value.sort_by(|a, b| a.window.cmp(&b.window));
    let BusyRange { from, to } = range;
    let list = MergedBusy { value, from, to, incomplete: names(&missing) };
    // Texts, times and numbers always serialize.
    serde_json::to_vec(&list).unwrap_or_default()
}
