//! Reloads the configuration on request.

use std::sync::Arc;

use axum::Json;
use axum::extract::{RawQuery, State};

use super::AppState;
use super::problem::Problem;
use super::query::Parameters;
use crate::reload::ReloadSummary;

/// `POST /v1/reload`: waits for earlier reloads and for its own end, and returns what changed or
/// why nothing did; `accept_drops=true` allows dropping most of the fleet.
pub(super) async fn reload(
    State(access): State<Arc<AppState>>,
    RawQuery(query): RawQuery,
) -> Result<Json<ReloadSummary>, Problem> {
    let parameters = Parameters::parse(query.as_deref(), &["accept_drops"])?;
    let accept_drops = parameters.flag("accept_drops")?;
    access.reloads.ask(accept_drops).await.map(Json).map_err(Problem::from)
}
