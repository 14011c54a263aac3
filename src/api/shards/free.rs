//! `GET /v1/free` of all shards: the others say when their windows are busy, and the search is that
//! of one shard.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::response::Response;
use jiff::Timestamp;
use serde::Deserialize;

use super::super::busy::BusyRange;
use super::super::extract::ApiRequest;
use super::super::free::{self, FreeSearch, JudgedWindows, SEARCH, SearchedWindow, parse_need};
use super::super::problem::Problem;
use super::super::selection::{SELECTION, SelectedWindows};
use super::busy::{BusyPart, WindowBusyPart, gather};
use super::gathered::{GatheredParts, names, tag_of};
use crate::mirror::availability::ShowAs;
use crate::mirror::busy_time::BusyTime;

/// A time in which a window is busy.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct IntervalPart {
    start: Timestamp,
    end: Timestamp,
    show_as: String,
}

/// `GET /v1/free`.
pub(in crate::api) async fn free(request: ApiRequest) -> Result<Response, Problem> {
    if !request.is_merged() {
        return free::free(request).await;
    }
    let (parameters, _) = request.viewed(&[&SEARCH[..], &SELECTION].concat())?;
    let search = FreeSearch::parse(&parameters, request.app.env.now())?;
    let app = request.app.clone();
    let selection = SelectedWindows::parse(&parameters, Some("windows"), &app, &request.access)?;
    let asked = selection.clone();
    let finding = async move { Ok::<_, Problem>((asked.running()?.len(), asked.elsewhere())) };
    let (here, elsewhere) = app.limits.run(finding).await??;
    search.check_size(here + elsewhere.len())?;
    let (from, to) = search.widened();
    let gathered = gather(&request, &selection, BusyRange { from, to }).await?;
    let (parts, mut missing) = gathered.split();
    let need = parameters.text("need");
    let tag = tag_of(&parts, &missing, &(search.tag(), need, elsewhere.len()));
    if let Some(answer) = request.not_modified(&tag) {
        return Ok(answer);
    }
    let judging = async move {
        // A window that no answer has may be busy.
        let unknown = elsewhere.into_iter().map(|name| (name, None));
        let mut windows: BTreeMap<Arc<str>, Option<WindowBusyPart<'_>>> = unknown.collect();
        for (_, part, _) in GatheredParts::read::<BusyPart<'_>>(&parts, &mut missing) {
            windows.extend(part.value.into_iter().map(|one| (one.window.clone(), Some(one))));
        }
        let need = parse_need(&parameters, windows.len())?;
        search.check_size(windows.len())?;
        let mut judged = JudgedWindows::default();
        for (name, part) in windows {
            match part.and_then(searched) {
                Some(window) => judged.add(&search, window),
                None => judged.add_missing(name),
            }
        }
        Ok((judged.answer(&search, need, Some(&names(&missing)))?, ()))
    };
    let (answer, ()) = app.limits.unsliced(judging).await?;
    Ok(tag.json(answer))
}

/// A window of a part, whose times have been merged: at each instant the strongest state is left,
/// and a state that occupies a calendar is stronger than all that do not.
fn searched(part: WindowBusyPart<'_>) -> Option<SearchedWindow> {
    let times: Vec<IntervalPart> = serde_json::from_str(part.busy.get()).ok()?;
    let time = |IntervalPart { start, end, show_as }| BusyTime {
        start,
        end,
        show_as: ShowAs::of_word(&show_as),
    };
    Some(SearchedWindow {
        name: part.window,
        place: part.place,
        settled_once: part.settled_once,
        unplaced: part.unplaced,
        covers: part.complete,
        times: times.into_iter().map(time).collect(),
    })
}
