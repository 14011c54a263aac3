//! The export of the whole store, made while it is sent.
//!
//! It contains private events unmasked and Graph's links, so it needs full rights. Its end shows
//! whether it is complete. A response that fails on the way is cut off, which clients notice too.

use axum::body::Body;
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use tokio::sync::OwnedSemaphorePermit;

use super::extract::ApiRequest;
use super::problem::Problem;
use super::slice_run::SliceProducer;
use crate::error_chain::error_chain;
use crate::store::StoreExport;

/// `GET /v1/export`.
pub(super) async fn export(request: ApiRequest) -> Result<Response, Problem> {
    request.parameters(&[])?;
    let app = request.app;
    let permit = app.limits.begin_export()?;
    let body = ExportBody { export: app.store.export()?, bytes: 0, _permit: permit };
    tracing::info!("export begins");
    let body: Body = app.limits.body(body, app.stopping.clone()).await?;
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream"),
        (header::CONTENT_DISPOSITION, "attachment; filename=\"calmirror.export\""),
        (header::CACHE_CONTROL, "no-store"),
    ];
    Ok((headers, body).into_response())
}

/// The bytes of an export, and its permit.
struct ExportBody {
    export: StoreExport,
    /// Bytes so far.
    bytes: usize,
    _permit: OwnedSemaphorePermit,
}

impl SliceProducer for ExportBody {
    async fn next(&mut self, _: usize) -> Result<Vec<u8>, Problem> {
        let bytes = self.export.next().await.inspect_err(|error| {
            tracing::warn!(reason = %error_chain(error), "export failed");
        })?;
        self.bytes += bytes.len();
        if self.export.is_over() {
            tracing::info!(bytes = self.bytes, "export is complete");
        }
        Ok(bytes)
    }

    fn is_over(&self) -> bool {
        self.export.is_over()
    }
}
