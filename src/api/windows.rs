//! The daemon's status, the list of windows, and single windows.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};

use super::AppState;
use super::access::{Access, Rights};
use super::consumers::ConsumerJson;
use super::etag::{ETag, ETagBuilder};
use super::extract::ApiRequest;
use super::fleets::FleetStatusJson;
use super::limits::end_list;
use super::model::{StrEnum as _, StrJson, WindowJson};
use super::problem::Problem;
use super::query::Parameters;
use super::sink_status::SinkStatusJson;
use super::slice_run::SliceProducer;
use crate::mirror::shard::Shard;
use crate::mirror::status::{WindowState, WindowStatus};
use crate::reload::LastReload;
use crate::worker::WindowSummary;

/// The daemon's status.
#[derive(Serialize)]
pub(super) struct StatusJson {
    version: String,
    commit: String,
    target: String,
    incarnation: String,
    started: Timestamp,
    uptime_s: u64,
    healthy: bool,
    windows: StateCountsJson,
    clock: ClockJson,
    /// Which of several shards this is.
    #[serde(skip_serializing_if = "Option::is_none")]
    shard: Option<String>,
    last_reload: Option<LastReload>,
    fleets: Arc<[FleetStatusJson]>,
    /// For readers of all windows only.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    sinks: Vec<SinkStatusJson>,
    /// For readers with all rights only.
    #[serde(skip_serializing_if = "Option::is_none")]
    consumers: Option<Vec<ConsumerJson>>,
}

/// The wall clock compared with Graph's.
#[derive(Serialize)]
struct ClockJson {
    /// Seconds the wall clock is ahead; none before the first Graph response with a time.
    skew_s: Option<i64>,
    /// Whether the difference is too large to trust the clock; window edges do not move then.
    wrong: bool,
}

/// Windows by state.
#[derive(Serialize)]
struct StateCountsJson {
    total: usize,
    unhealthy: usize,
    #[serde(flatten)]
    states: BTreeMap<StrJson<WindowState>, usize>,
}

/// `GET /v1/status` of this shard.
pub(super) async fn status(request: ApiRequest) -> Result<Json<StatusJson>, Problem> {
    request.parameters(&[])?;
    let app = &request.app;
    let is_whole = request.access.sees_everything();
    let mut windows = app.fleet.summaries();
    windows.retain(|window| request.access.sees(&window.window.name));
    let count = |state| windows.iter().filter(|window| window.state == state).count();
    let states = WindowState::ALL.map(|state| (StrJson(state), count(state))).into();
    let unhealthy = windows.iter().filter(|w| !w.healthy).count();
    let (about, of) = (&app.build, app.settings.shard.of);
    let clock = app.metrics.graph.clock.check(app.env.now());
    Ok(Json(StatusJson {
        version: about.version.clone(),
        commit: about.commit.clone(),
        target: about.target.clone(),
        incarnation: app.store.incarnation(),
        started: about.started,
        uptime_s: about.since.elapsed().as_secs(),
        healthy: unhealthy == 0,
        windows: StateCountsJson { total: windows.len(), unhealthy, states },
        clock: ClockJson {
            skew_s: clock.skew().map(|skew| skew.as_secs()),
            wrong: clock.is_wrong(),
        },
        shard: (of != Shard::ALONE).then(|| of.to_string()),
        // Both name windows and accounts.
        last_reload: app.reloads.last().filter(|_| is_whole),
        fleets: if is_whole { app.fleets.fleets() } else { Arc::default() },
        sinks: if is_whole { app.sinks.list() } else { Vec::new() },
        consumers: (request.access.rights == Rights::Full)
            .then(|| app.consumers.status(&app.settings.consumers)),
    }))
}

/// The parameters of the list.
pub(super) const PARAMETERS: [&str; 5] = ["q", "state", "order", "limit", "page"];

/// `GET /v1/windows` of this shard: the windows that match `q` and `state`, by name or trouble first. A page
/// continues after the key of the last window of the previous page, wherever that window is by now.
pub(super) async fn list(request: ApiRequest) -> Result<Response, Problem> {
    let parameters = request.parameters(&PARAMETERS)?;
    let limit = parameters.limit()?;
    let wanted = parameters.text("q").unwrap_or_default().to_lowercase();
    let states = parameters.text("state").map(parse_states).transpose()?;
    let order = ListOrder::parse(&parameters)?;
    let after = parameters.text("page").map(|page| SortKey::parse(page, order)).transpose()?;

    let app = request.app.clone();
    let (work, stopping) = (app.limits.clone(), app.stopping.clone());
    let access = request.access.clone();
    let selection = WindowFilter { app, access, wanted, states, order };
    let choosing = async move {
        let selected = selection.keys(after.as_ref(), limit);
        let tag = selection.tag(&selected);
        (selection, selected, tag)
    };
    let (selection, SelectedKeys { keys, more, total }, tag) = work.run(choosing).await?;
    if let Some(answer) = request.not_modified(&tag) {
        return Ok(answer);
    }
    let next = keys.last().filter(|_| more).map(|key| key.encode(order));
    let page = WindowPageWriter {
        app: selection.app,
        keys: keys.into_iter(),
        tail: json!({ "total": total, "next": next }),
        begun: false,
        wrote: false,
        over: false,
    };
    Ok(tag.json(work.body(page, stopping).await?))
}

/// Selects and orders the listed windows.
struct WindowFilter {
    app: Arc<AppState>,
    access: Access,
    /// The search text, in lower case.
    wanted: String,
    states: Option<Vec<WindowState>>,
    order: ListOrder,
}

/// The windows of a page.
struct SelectedKeys {
    keys: Vec<SortKey>,
    /// Whether more follow.
    more: bool,
    /// Matching windows, on all pages.
    total: usize,
}

impl WindowFilter {
    /// The next windows after a key.
    fn keys(&self, after: Option<&SortKey>, limit: usize) -> SelectedKeys {
        let mut summaries = self.app.fleet.summaries();
        summaries.retain(|summary| {
            self.access.sees(&summary.window.name)
                && self.states.as_ref().is_none_or(|states| states.contains(&summary.state))
                && summary.matches(&self.wanted)
        });
        let total = summaries.len();
        let mut keys: Vec<SortKey> =
            summaries.iter().map(|summary| SortKey::of_summary(summary, self.order)).collect();
        keys.retain(|key| after.is_none_or(|after| key > after));
        keys.sort_unstable();
        let more = keys.len() > limit;
        keys.truncate(limit);
        keys.shrink_to_fit();
        SelectedKeys { keys, more, total }
    }

    fn tag(&self, page: &SelectedKeys) -> ETag {
        let mut tag = ETagBuilder::new("windows");
        for status in page.keys.iter().filter_map(|key| self.app.window(&key.name)) {
            tag.add(&without_staleness(&WindowJson::from(status)));
        }
        tag.add(&(page.total, page.more, page.keys.last().map(|key| &*key.name)));
        tag.done()
    }
}

/// Writes one page of windows.
struct WindowPageWriter {
    app: Arc<AppState>,
    /// The windows not written yet.
    keys: std::vec::IntoIter<SortKey>,
    /// The members after the windows.
    tail: Value,
    begun: bool,
    /// Whether a window was written.
    wrote: bool,
    over: bool,
}

impl SliceProducer for WindowPageWriter {
    async fn next(&mut self, bytes: usize) -> Result<Vec<u8>, Problem> {
        let mut slice = Vec::with_capacity(bytes + 4096);
        if !std::mem::replace(&mut self.begun, true) {
            slice.extend_from_slice(b"{\"value\":[");
        }
        while slice.len() < bytes {
            let Some(key) = self.keys.next() else {
                end_list(&mut slice, &self.tail);
                self.over = true;
                break;
            };
            // A window dropped meanwhile has no status.
            if let Some(status) = self.app.window(&key.name) {
                if std::mem::replace(&mut self.wrote, true) {
                    slice.push(b',');
                }
                // A status always serializes, and a Vec takes every byte.
                serde_json::to_writer(&mut slice, &WindowJson::from(status)).ok();
            }
        }
        Ok(slice)
    }

    fn is_over(&self) -> bool {
        self.over
    }
}

/// The order of the listed windows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ListOrder {
    /// By name.
    Name,
    /// Windows that need attention first.
    Trouble,
}

impl ListOrder {
    /// `order` of a request.
    pub(super) fn parse(parameters: &Parameters) -> Result<Self, Problem> {
        match parameters.text("order") {
            None | Some("name") => Ok(Self::Name),
            Some("trouble") => Ok(Self::Trouble),
            Some(_) => Err(Problem::bad_parameter("order", "must be name or trouble")),
        }
    }
}

/// The sort key of a window in the list.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SortKey {
    rank: u8,
    name: Arc<str>,
}

impl SortKey {
    /// The key of a window with this status.
    pub(super) fn of(status: &WindowStatus, order: ListOrder) -> Self {
        let rank = || rank(status.state, status.is_healthy(), status.settled_once);
        let rank = if order == ListOrder::Name { 0 } else { rank() };
        Self { rank, name: status.name.as_str().into() }
    }

    fn of_summary(summary: &WindowSummary, order: ListOrder) -> Self {
        let rank = || rank(summary.state, summary.healthy, summary.settled_once);
        let rank = if order == ListOrder::Name { 0 } else { rank() };
        Self { rank, name: summary.window.name.clone() }
    }

    /// The letter of the order, the rank, the name.
    pub(super) fn encode(&self, order: ListOrder) -> String {
        let letter = if order == ListOrder::Name { b'n' } else { b't' };
        URL_SAFE_NO_PAD.encode([&[letter, self.rank], self.name.as_bytes()].concat())
    }

    fn parse(page: &str, order: ListOrder) -> Result<Self, Problem> {
        let key = || {
            let bytes = URL_SAFE_NO_PAD.decode(page).ok()?;
            let (&[letter, rank], name) = bytes.split_first_chunk::<2>()?;
            let same = letter == if order == ListOrder::Name { b'n' } else { b't' };
            let name = std::str::from_utf8(name).ok().filter(|_| same)?;
            Some(Self { rank, name: name.into() })
        };
        let detail = "must be the next of a previous page with the same order";
        key().ok_or_else(|| Problem::bad_parameter("page", detail))
    }
}

/// Windows that need a person come first, then windows that recover by themselves, then late ones,
/// then windows that have never settled. All normal windows rank the same, so that rounds do not
/// reorder them.
fn rank(state: WindowState, healthy: bool, settled_once: bool) -> u8 {
    match state {
        WindowState::SignInRequired => 0,
        WindowState::StoreFull => 1,
        WindowState::Quarantined => 2,
        WindowState::Held => 3,
        WindowState::BackingOff => 4,
        WindowState::Enumerating | WindowState::Settled | WindowState::Following => {
            match (healthy, settled_once) {
                (false, _) => 5,
                (true, false) => 6,
                (true, true) => 7,
            }
        }
    }
}

/// `GET /v1/windows/{name}`.
pub(super) async fn one(request: ApiRequest) -> Result<Response, Problem> {
    request.parameters(&[])?;
    let status = WindowJson::from(request.window()?.1);
    let tag = ETag::of(&without_staleness(&status));
    Ok(request.not_modified(&tag).unwrap_or_else(|| tag.attach_to(Json(status).into_response())))
}

/// The status without its staleness, which changes with time alone.
fn without_staleness(status: &WindowJson) -> WindowJson {
    WindowJson { stale_s: None, ..status.clone() }
}

/// Parses states separated by commas.
fn parse_states(text: &str) -> Result<Vec<WindowState>, Problem> {
    text.split(',').map(WindowState::from_word).collect::<Option<_>>().ok_or_else(|| {
        let all = WindowState::ALL.map(WindowState::as_str).join(", ");
        let detail = format!("must be some of {all}, separated by commas");
        Problem::bad_parameter("state", detail)
    })
}
