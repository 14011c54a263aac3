//! Signs a person in to an account by device code, and out.
//!
//! A sign-in takes as long as the person does, so its response is a stream of lines: the code, a
//! line now and then, and the outcome. A client that goes away gives the sign-in up.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

use super::AppState;
use super::extract::ApiRequest;
use super::login::{CompletedLogin, LoginRefusal, StartedLogin};
use super::problem::Problem;

/// How often a waiting response sends a line, so that nothing on the way takes it for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(25);

/// `POST /v1/accounts/{name}/login`; `replace=true` allows another person than before.
pub(super) async fn login(request: ApiRequest) -> Result<Response, Problem> {
    let replace = request.parameters(&["replace"])?.flag("replace")?;
    let ApiRequest { app, name, .. } = request;
    let started = app.logins.login(name, replace).await?;
    let StartedLogin { verification_uri, user_code, expires_at, outcome } = started;
    let first = json!({
        "state": "pending",
        "verification_uri": verification_uri,
        "user_code": user_code,
        "expires_at": expires_at,
    });
    let waiting = WaitingLogin { app, first: Some(first), outcome: Some(outcome) };
    let lines = futures_util::stream::unfold(waiting, |waiting| async move {
        let (line, waiting) = waiting.next().await?;
        Some((Ok::<_, Infallible>(Bytes::from(format!("{line}\n"))), waiting))
    });
    let headers =
        [(header::CONTENT_TYPE, "application/x-ndjson"), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, Body::from_stream(lines)).into_response())
}

/// The lines of a response that are still to be sent.
struct WaitingLogin {
    app: Arc<AppState>,
    first: Option<Value>,
    /// `None` once the last line is sent.
    outcome: Option<BoxFuture<'static, Result<CompletedLogin, LoginRefusal>>>,
}

impl WaitingLogin {
    async fn next(mut self) -> Option<(Value, Self)> {
        if let Some(first) = self.first.take() {
            return Some((first, self));
        }
        let mut outcome = self.outcome.take()?;
        let ended = tokio::select! {
            biased;
            ended = &mut outcome => ended.map_err(Problem::from),
            () = self.app.stopping.given() => Err(Problem::Stopping),
            () = sleep_until(Instant::now() + KEEP_ALIVE) => {
                self.outcome = Some(outcome);
                return Some((json!({ "state": "pending" }), self));
            }
        };
        let line = match ended {
            Ok(CompletedLogin { user, replaced }) => {
                json!({ "state": "signed_in", "user": user, "replaced": replaced })
            }
            Err(problem) => json!({ "state": "failed", "problem": problem.json() }),
        };
        Some((line, self))
    }
}

/// `POST /v1/accounts/{name}/logout`.
pub(super) async fn logout(request: ApiRequest) -> Result<Json<Value>, Problem> {
    request.parameters(&[])?;
    let user = request.app.logins.logout(request.name).await?;
    Ok(Json(json!({ "user": user })))
}
