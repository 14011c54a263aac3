//! `GET /v1/windows` of all shards.

use std::collections::BTreeSet;

use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::super::extract::ApiRequest;
use super::super::model::WindowJson;
use super::super::problem::Problem;
use super::super::windows::{self, ListOrder, SortKey};
use super::gathered::{GatheredParts, names, tag_of};
use super::peers::ShardPart;
use crate::mirror::status::WindowStatus;

/// A shard's page.
#[derive(Deserialize)]
struct WindowListPart<'a> {
    #[serde(borrow)]
    value: Vec<&'a RawValue>,
    total: usize,
    next: Option<String>,
}

/// The page of all shards.
#[derive(Serialize)]
struct MergedWindows<'a> {
    value: Vec<&'a RawValue>,
    total: usize,
    next: Option<String>,
    incomplete: Vec<String>,
}

/// `GET /v1/windows`. The place where a page ends is the same in every shard, so each continues
/// after it.
pub(in crate::api) async fn list(request: ApiRequest) -> Result<Response, Problem> {
    if !request.is_merged() {
        return windows::list(request).await;
    }
    let parameters = request.parameters(&windows::PARAMETERS)?;
    let (limit, order) = (parameters.limit()?, ListOrder::parse(&parameters)?);
    let own = windows::list(request.of_this_shard(request.query().to_owned()));
    let target = |_| Some(format!("{}?{}", request.path, request.query()));
    let gathered = GatheredParts::gather(&request, request.all_shards(), target, own).await?;
    let (parts, missing) = gathered.split();
    let tag = tag_of(&parts, &missing, &());
    if let Some(answer) = request.not_modified(&tag) {
        return Ok(answer);
    }
    let merging = async move { Ok((merged(&parts, missing, limit, order), ())) };
    let (body, ()) = request.app.limits.unsliced(merging).await?;
    Ok(tag.json(body))
}

fn merged(
    parts: &[ShardPart],
    mut missing: BTreeSet<u32>,
    limit: usize,
    order: ListOrder,
) -> Vec<u8> {
    let mut windows: Vec<(SortKey, &RawValue)> = Vec::new();
    let (mut total, mut more) = (0, false);
    // What is behind the end of a shard's page is not known.
    let mut known_until: Option<SortKey> = None;
    for (shard, part, _) in GatheredParts::read::<WindowListPart<'_>>(parts, &mut missing) {
        let keyed = part.value.into_iter().map(|raw| {
            let window = serde_json::from_str::<WindowJson>(raw.get()).ok()?;
            Some((SortKey::of(&WindowStatus::from(window), order), raw))
        });
        let Some(keyed) = keyed.collect::<Option<Vec<_>>>() else {
            tracing::warn!(shard, "shard is missing in a list: its windows could not be read");
            missing.insert(shard);
            continue;
        };
        if part.next.is_some() {
            more = true;
            let end = keyed.last().map(|(key, _)| key.clone());
            known_until = [known_until, end].into_iter().flatten().min();
        }
        windows.extend(keyed);
        total += part.total;
    }
    windows.sort_by(|(a, _), (b, _)| a.cmp(b));
    windows.retain(|(key, _)| known_until.as_ref().is_none_or(|end| key <= end));
    more |= windows.len() > limit;
    windows.truncate(limit);
    let next = windows.last().filter(|_| more).map(|(key, _)| key.encode(order));
    let value = windows.into_iter().map(|(_, raw)| raw).collect();
    let list = MergedWindows { value, total, next, incomplete: names(&missing) };
    // Texts and numbers always serialize.
    serde_json::to_vec(&list).unwrap_or_default()
}
