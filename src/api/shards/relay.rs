//! Requests about a window of another shard: the reader is sent there, or its request is passed on.
//!
//! A request that was passed on says so, and is not passed on again: two shards that disagree about
//! the owner of a window answer 421 instead of asking each other for ever.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{FromRequestParts as _, MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use futures_util::{FutureExt as _, StreamExt as _, stream};

use super::super::AppState;
use super::super::changes;
use super::super::extract::{ApiRequest, OF_A_WINDOW};
use super::super::problem::Problem;
use super::super::selection::{SELECTION, SelectedWindows};
use super::super::stop_signal::StopSignal;
use crate::mirror::shard::Shard;

/// With `1`: a request about a window of another shard is passed on instead of redirected. Browsers
/// and most clients do not send credentials to the host of a redirect.
const RELAY: HeaderName = HeaderName::from_static("calmirror-relay");

/// Which of several shards has answered, as `3/8`.
pub(super) const SHARD: HeaderName = HeaderName::from_static("calmirror-shard");

/// The headers of a request that the other shard needs, beside the credentials.
const SENT: [HeaderName; 4] = [
    header::ACCEPT,
    header::ACCEPT_ENCODING,
    header::IF_NONE_MATCH,
    HeaderName::from_static("last-event-id"),
];

/// The headers of an answer that concern a connection and not the reader.
const OF_CONNECTION: [HeaderName; 4] =
    [header::CONNECTION, header::TRANSFER_ENCODING, header::TRAILER, header::UPGRADE];

/// The value of [`SHARD`].
pub(super) fn shard_name(shard: Shard) -> HeaderValue {
    // Two numbers and a slash.
    HeaderValue::from_str(&shard.to_string()).unwrap_or(HeaderValue::from_static(""))
}

/// Adds the name of the shard to a response; a relayed one has that of the shard that made it.
pub(in crate::api) fn name_shard(shard: Shard, mut response: Response) -> Response {
    response.headers_mut().entry(SHARD).or_insert(shard_name(shard));
    response
}

/// The middleware in front of the routes of one window.
pub(in crate::api) async fn pass_on(
    State(app): State<Arc<AppState>>,
    request: Request,
    next: Next,
) -> Response {
    let (mut parts, body) = request.into_parts();
    let route = parts.extensions.get::<MatchedPath>();
    let is_of_window = route.is_some_and(|route| route.as_str().starts_with(OF_A_WINDOW));
    if is_of_window
        // The route itself reports what is wrong with the request or its reader.
        && let Ok(asked) = ApiRequest::from_request_parts(&mut parts, &app).await
        && let Some(owner) = app.elsewhere.owner(&asked.name)
    {
        let window = asked.name.clone();
        return elsewhere(&asked, window, owner, true).await;
    }
    next.run(Request::from_parts(parts, body)).await
}

/// `GET /v1/changes`: of this shard, or of the one that has the only windows asked for.
pub(in crate::api) async fn changes(request: ApiRequest) -> Response {
    match owners_of_names(&request) {
        Some((window, owners)) => {
            let owner = owners.first().copied().unwrap_or_default();
            elsewhere(&request, window, owner, owners.len() == 1).await
        }
        None => changes::read(request).await,
    }
}

/// If only names are selected and none is that of a window here: the first one that another shard
/// has, and the owners of all these.
fn owners_of_names(request: &ApiRequest) -> Option<(String, BTreeSet<u32>)> {
    let (app, access) = (&request.app, &request.access);
    // What is wrong with the request is reported by the route.
    let known = [&changes::PARAMETERS[..], &SELECTION].concat();
    let (parameters, _) = request.viewed(&known).ok()?;
    let states = parameters.flag("states").ok()?;
    access.check_feed(states, parameters.text("upcoming").is_some()).ok()?;
    let selection = SelectedWindows::parse(&parameters, None, app, access).ok()?;
    let names = selection.only_names()?;
    let owner = |name: &String| app.elsewhere.owner(name).filter(|_| access.sees(name));
    if names
        .iter()
        .any(|name| access.sees(name) && owner(name).is_none() && app.fleet.id(name).is_some())
    {
        return None;
    }
    let first = names.iter().find(|name| owner(name).is_some())?.clone();
    Some((first, names.iter().filter_map(owner).collect()))
}

/// The answer to a request about a window of another shard. `is_whole`: that shard can answer all of
/// it.
async fn elsewhere(request: &ApiRequest, window: String, owner: u32, is_whole: bool) -> Response {
    let is_asked = request.headers.get(RELAY).is_some_and(|value| value == "1");
    let can_be_sent = is_whole && !request.is_part() && !has_steps(&request.path);
    let target = match request.query() {
        "" => request.path.clone(),
        query => format!("{}?{query}", request.path),
    };
    // Clients take it for a slash.
    let target = target.replace('\\', "%5C");
    let address = request.app.settings.shard.address(owner).filter(|_| can_be_sent);
    match address {
        Some(_) if is_asked => relay(request, owner, &target).await,
        address => {
            let location = address.map(|address| address + &target);
            Problem::OtherShard { window, shard: owner, location }.into_response()
        }
    }
}

/// Whether clients take a part of a path for a step up or for none, such as the name `..`.
fn has_steps(path: &str) -> bool {
    let mut parts = path.split('/').map(|part| part.to_ascii_lowercase().replace("%2e", "."));
    parts.any(|part| matches!(&*part, "." | ".."))
}

/// Passes a request on and streams the answer back.
async fn relay(request: &ApiRequest, owner: u32, target: &str) -> Response {
    let mut headers = HeaderMap::new();
    for name in SENT {
        for value in request.headers.get_all(&name) {
            headers.append(&name, value.clone());
        }
    }
    let peers = &request.app.settings.peers;
    let method = request.method.clone();
    let answer = match peers.send(owner, request, (method, target), headers).await {
        Ok(answer) => answer,
        Err(error) => {
            let reason = error.to_string();
            return Problem::ShardUnreachable { shard: owner, reason }.into_response();
        }
    };
    let (status, mut headers) = (answer.status(), answer.headers().clone());
    for name in OF_CONNECTION {
        headers.remove(name);
    }
    let stopping = request.app.stopping.clone();
    let mut response = Response::new(streamed(answer, stopping));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// The body of an answer as it arrives. It is cut off if it is not over soon after `stopping`.
fn streamed(answer: reqwest::Response, stopping: StopSignal) -> Body {
    let receiving = Some((answer.bytes_stream().boxed(), stopping.grace_over().boxed()));
    let body = stream::unfold(receiving, async |receiving| {
        let (mut bytes, mut cut) = receiving?;
        tokio::select! {
            biased;
            () = &mut cut => Some((Err(axum::Error::new(RelayCutOff)), None)),
            next = bytes.next() => match next? {
                Ok(next) => Some((Ok(next), Some((bytes, cut)))),
                Err(error) => Some((Err(axum::Error::new(error)), None)),
            },
        }
    });
    Body::from_stream(body.fuse())
}

/// Aborts a relayed answer, so that its reader notices.
#[derive(Debug, thiserror::Error)]
#[error("the relayed answer was cut off")]
struct RelayCutOff;
