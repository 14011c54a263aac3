//! The responses of faults, with Graph's statuses, codes and messages.

use std::sync::LazyLock;

use bytes::Bytes;
use http::StatusCode;

use super::access_token::unauthorized;
use super::faults::{DeadLinkAnswer, Fault, MailboxFault};
use super::graph::{badly_formed, not_found};
use super::request::{RenderedResponse, ResponsePayload, SimulatedRequest};
use super::state::SimulatorState;

impl SimulatorState {
    /// The response of a fault that replaces the regular response; `None` for any other fault.
    pub(super) fn refuse(
        &mut self,
        call: &SimulatedRequest,
        fault: &Fault,
    ) -> Option<RenderedResponse> {
        let status = |code| StatusCode::from_u16(code).unwrap_or(StatusCode::BAD_GATEWAY);
        let after = |reply: RenderedResponse, value: &Option<String>| match value {
            Some(value) => reply.header("retry-after", value.clone()),
            None => reply,
        };
        Some(match fault {
            Fault::Throttled { retry_after } => after(
                RenderedResponse::error(status(429), "TooManyRequests", "Please retry again later."),
                retry_after,
            ),
            Fault::UnavailableEmpty => RenderedResponse::empty(status(503)),
            Fault::Unavailable { retry_after } => after(
                RenderedResponse::error(status(503), "ServiceUnavailable", "Service is not available."),
                retry_after,
            ),
            Fault::UnknownError => RenderedResponse::error(status(503), "UnknownError", ""),
            Fault::GatewayTimeout => RenderedResponse::error(status(504), "UnknownError", ""),
            Fault::StickyGatewayTimeout { above } => {
                self.sticky_faults.insert(call.link_hash(), (*above, Fault::GatewayTimeout));
                return self.refuse(call, &Fault::GatewayTimeout);
            }
            Fault::StickyInternalError { above } => {
                self.sticky_faults.insert(call.link_hash(), (*above, Fault::InternalError));
                return self.refuse(call, &Fault::InternalError);
            }
            Fault::BadGateway => RenderedResponse::text(
                status(502),
                "text/html",
                "<html><head><title>502 Bad Gateway</title></head><body>Bad Gateway</body></html>",
            ),
            Fault::InternalError => RenderedResponse::error(
                status(500),
                "ErrorInternalServerError",
                "An internal server error occurred. The operation failed.",
            ),
            Fault::RequestTimeout => RenderedResponse::empty(status(408)),
            Fault::BandwidthExceeded => RenderedResponse::empty(status(509)),
            Fault::BadRequest => {
                RenderedResponse::error(status(400), "ErrorInvalidUrlQuery", "The request is not understood.")
            }
            Fault::NotJson => RenderedResponse::text(status(200), "text/html", "<!doctype html><p>Hello"),
            Fault::Unauthorized => unauthorized("Access token has expired or is not yet valid."),
            Fault::ClaimsChallenge => RenderedResponse::error(
                status(401),
                "InvalidAuthenticationToken",
                "Continuous access evaluation resulted in challenge.",
            )
            .header(
                "www-authenticate",
                "Bearer realm=\"\", authorization_uri=\"https://login.microsoftonline.com/common/oauth2/authorize\", \
                 client_id=\"00000003-0000-0000-c000-000000000000\", error=\"insufficient_claims\", \
                 claims=\"eyJhY2Nlc3NfdG9rZW4iOnsiYWNycyI6eyJlc3NlbnRpYWwiOnRydWUsInZhbHVlIjoiY3AxIn19fQ==\"",
            ),
            Fault::DeadLink { how } => self.dead_link_response(call, *how),
            Fault::Mailbox { how } => mailbox_fault_response(*how),
            Fault::SignIn { how } => {
                let now = self.env.now();
                self.sign_in.refuse(*how, now)
            }
            Fault::Identity { how } => {
                self.sign_in.identity_endpoints.faulty(call.service(), *how)
            }
            Fault::Bomb => bomb(call.gzip),
            _ => return None,
        })
    }

    fn dead_link_response(&self, call: &SimulatedRequest, how: DeadLinkAnswer) -> RenderedResponse {
        let (status, code, message) = match how {
            DeadLinkAnswer::Generation => (
                StatusCode::GONE,
                "SyncStateNotFound",
                "The sync state generation is not found; generation=149;[highest=157][157][155][156].",
            ),
            DeadLinkAnswer::RootFolder => {
                (StatusCode::GONE, "SyncStateNotFound", "The sync state root folder is not found.")
            }
            DeadLinkAnswer::Invalid => {
                (StatusCode::GONE, "SyncStateInvalid", "The sync state is invalid.")
            }
            DeadLinkAnswer::ResyncRequired => {
                (StatusCode::GONE, "resyncRequired", "Resync required. Replace any local items.")
            }
            DeadLinkAnswer::ApplyDifferences => {
                (StatusCode::GONE, "resyncApplyDifferences", "Resync required.")
            }
            DeadLinkAnswer::UploadDifferences => {
                (StatusCode::GONE, "resyncUploadDifferences", "Resync required.")
            }
            DeadLinkAnswer::BadRequest => {
                (StatusCode::BAD_REQUEST, "syncStateNotFound", "The sync state is not found.")
            }
            DeadLinkAnswer::InvalidDeltaToken => (
                StatusCode::BAD_REQUEST,
                "InvalidDeltaToken",
                "The value '...' of parameter '$deltaToken' is invalid.",
            ),
            DeadLinkAnswer::BadlyFormed => return badly_formed(),
            DeadLinkAnswer::InvalidData => (
                StatusCode::BAD_REQUEST,
                "ErrorInvalidSyncStateData",
                "The sync state data is corrupted or otherwise invalid.",
            ),
        };
        let reply = RenderedResponse::error(status, code, message);
        if how == DeadLinkAnswer::ResyncRequired {
            // A link to another host, which a client must not follow (fact 101).
            let path = call.path.clone();
            return reply
                .header("location", format!("https://elsewhere.example{path}?$deltatoken="));
        }
        reply
    }
}

fn mailbox_fault_response(how: MailboxFault) -> RenderedResponse {
    let (status, code, message) = match how {
        MailboxFault::NotEnabled => {
            (404, "MailboxNotEnabledForRESTAPI", "REST API is not yet supported for this mailbox.")
        }
        MailboxFault::Inactive => (
            404,
            "MailboxNotEnabledForRESTAPI",
            "The mailbox is either inactive, soft-deleted, or is hosted on-premise.",
        ),
        MailboxFault::ResourceNotFound => {
            (404, "ResourceNotFound", "Resource could not be discovered.")
        }
        MailboxFault::InvalidUser => {
            (404, "ErrorInvalidUser", "The requested user 'somebody' is invalid.")
        }
        MailboxFault::RequestResourceNotFound => {
            (404, "Request_ResourceNotFound", "Resource does not exist.")
        }
        MailboxFault::Empty => return RenderedResponse::empty(StatusCode::NOT_FOUND),
        MailboxFault::ItemNotFound => return not_found(),
        MailboxFault::AccessDenied => (403, "ErrorAccessDenied", "Access to OData is disabled."),
        MailboxFault::DelegatedDenied => (
            403,
            "DelegatedCalendarAccessDenied",
            "Access is denied. Check credentials and try again.",
        ),
        MailboxFault::InsufficientClaims => {
            (403, "insufficient_claims", "Access is blocked by conditional access.")
        }
    };
    RenderedResponse::error(
        StatusCode::from_u16(status).unwrap_or(StatusCode::NOT_FOUND),
        code,
        message,
    )
}

/// A body of 128 MiB of spaces.
fn bomb(gzip: bool) -> RenderedResponse {
    let mut reply = RenderedResponse::text(StatusCode::OK, "application/json", "");
    let raw: u64 = 128 << 20;
    reply.body = if gzip {
        // Compressed once for all requests.
        static COMPRESSED: LazyLock<Bytes> = LazyLock::new(|| {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            let piece = [b' '; 1 << 16];
            let written = std::iter::repeat_n(piece, 128 << 4)
                .try_for_each(|piece| std::io::Write::write_all(&mut encoder, &piece))
                .and_then(|()| encoder.finish());
            written.unwrap_or_default().into()
        });
        ResponsePayload::Ready { encoded: COMPRESSED.clone(), gzip: true, raw }
    } else {
        ResponsePayload::Ready { encoded: Bytes::from(vec![b' '; raw as usize]), gzip: false, raw }
    };
    reply
}
