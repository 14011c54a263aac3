//! The routes of sinks.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};

use super::extract::ApiRequest;
use super::problem::Problem;
use super::sink_status::{ReplayFrom, SinkCommand, SinkRefusal};

/// `GET /v1/sinks`.
pub(super) async fn list(request: ApiRequest) -> Result<Response, Problem> {
    request.parameters(&[])?;
    let sinks = request.app.sinks.list();
    Ok(Json(serde_json::json!({ "value": sinks })).into_response())
}

/// `POST /v1/sinks/{name}/test`.
pub(super) async fn test(request: ApiRequest) -> Result<Response, Problem> {
    request.parameters(&[])?;
    ask(request, SinkCommand::Test).await
}

/// `POST /v1/sinks/{name}/pause`.
pub(super) async fn pause(request: ApiRequest) -> Result<Response, Problem> {
    request.parameters(&[])?;
    ask(request, SinkCommand::Pause).await
}

/// `POST /v1/sinks/{name}/resume`.
pub(super) async fn resume(request: ApiRequest) -> Result<Response, Problem> {
    request.parameters(&[])?;
    ask(request, SinkCommand::Resume).await
}

/// `POST /v1/sinks/{name}/replay?from=CURSOR|TIME`.
pub(super) async fn replay(request: ApiRequest) -> Result<Response, Problem> {
    let parameters = request.parameters(&["from"])?;
    let from = match parameters.text("from") {
        None | Some("start") => ReplayFrom::Start,
        Some("") => return Err(Problem::bad_parameter("from", "must be a cursor or a time")),
        Some(text) => match parameters.time("from", request.app.env.now()) {
            Ok(Some(time)) => ReplayFrom::Time(time),
            _ => ReplayFrom::Cursor(text.to_owned()),
        },
    };
    ask(request, SinkCommand::Replay(from)).await
}

async fn ask(request: ApiRequest, command: SinkCommand) -> Result<Response, Problem> {
    let sinks = request.app.sinks.clone();
    match sinks.ask(request.name, command).await {
        Ok(status) => Ok((StatusCode::OK, Json(status)).into_response()),
        Err(SinkRefusal::BadPlace(detail)) => Err(Problem::bad_parameter("from", detail)),
        Err(refusal) => Err(refusal.into()),
    }
}
