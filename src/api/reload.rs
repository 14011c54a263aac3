//! Reloads the configuration on request.

use axum::Json;

use super::extract::ApiRequest;
use super::problem::Problem;
use crate::reload::ReloadSummary;

/// `POST /v1/reload`: waits for earlier reloads and for its own end, and returns what changed or
/// why nothing did; `accept_drops=true` allows dropping most of the fleet.
pub(super) async fn reload(request: ApiRequest) -> Result<Json<ReloadSummary>, Problem> {
    let accept_drops = request.parameters(&["accept_drops"])?.flag("accept_drops")?;
    Ok(Json(request.app.reloads.ask(accept_drops).await?))
}
