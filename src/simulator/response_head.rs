//! Completes responses: the headers that all of them have, compression, and the pauses that they
//! announce.

use std::io::Write;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;

use super::ids::guid;
use super::request::{RenderedResponse, ResponsePayload, SimulatedRequest};
use super::state::SimulatorState;

/// Longest `Retry-After` during which requests are counted, in seconds.
const LONGEST_PAUSE: i64 = 3600;

impl SimulatorState {
    /// Records the pause that a `Retry-After` of the response sets for the mailbox.
    pub(super) fn pause(&mut self, mailbox: Option<usize>, reply: &mut RenderedResponse) {
        let now = self.env.now();
        let Some((_, value)) = reply.headers.iter_mut().find(|(name, _)| *name == "retry-after")
        else {
            return;
        };
        let seconds = match value.strip_prefix("date:") {
            Some(ahead) => {
                let ahead: i64 = ahead.parse().unwrap_or(0);
                let at = Timestamp::from_second(now.as_second() + ahead).unwrap_or(now);
                *value = http_date(at);
                // An HTTP date has no fractions: the pause is what the header says.
                at.duration_since(now).as_secs_f64()
            }
            None => value.parse().unwrap_or(0.0),
        };
        let pause = (seconds.clamp(0.0, LONGEST_PAUSE as f64) * 1000.0) as i64;
        let until = Timestamp::from_millisecond(now.as_millisecond() + pause).unwrap_or(now);
        if let Some(mailbox) = mailbox {
            let paused = &mut self.mailboxes[mailbox].metrics.pause_until;
            *paused = (*paused).max(Some(until));
        }
    }

    /// Adds the headers common to all responses, and compresses the body.
    pub(super) fn finish(
        &mut self,
        call: &SimulatedRequest,
        mailbox: Option<usize>,
        reply: RenderedResponse,
        sign_in: bool,
    ) -> http::Response<Bytes> {
        let now = self.env.now();
        let request_id = guid(&[self.seed, self.requests, 17]);
        let RenderedResponse { status, mut headers, body } = reply;
        let date = now.checked_add(self.date_ahead).unwrap_or(now);
        headers.push(("date", http_date(date)));
        headers.push(("request-id", request_id.clone()));
        if let Some(id) = &call.client_request_id {
            headers.push(("client-request-id", id.clone()));
        }
        if !sign_in {
            headers.push(("cache-control", "private".to_owned()));
            headers.push((
                "x-ms-ags-diagnostic",
                r#"{"ServerInfo":{"DataCenter":"Simulated","Slice":"E","Ring":"5","ScaleUnit":"001"}}"#
                    .to_owned(),
            ));
        }
        let (encoded, gzip, raw) = match body {
            ResponsePayload::Ready { encoded, gzip, raw } => (encoded, gzip, raw),
            ResponsePayload::Plain(body) => {
                let body = if status.is_client_error() || status.is_server_error() {
                    with_request_id(&body, &request_id, now)
                } else {
                    body
                };
                let raw = body.len() as u64;
                match (call.gzip && !body.is_empty()).then(|| compress(&body)).flatten() {
                    Some(encoded) => (encoded, true, raw),
                    None => (body, false, raw),
                }
            }
        };
        if gzip {
            headers.push(("content-encoding", "gzip".to_owned()));
        }
        if !sign_in {
            let sent = encoded.len() as u64;
            self.count(mailbox, |metrics| {
                metrics.counts.bytes_raw += raw;
                metrics.counts.bytes_sent += sent;
            });
        }
        let mut response = http::Response::new(encoded);
        *response.status_mut() = status;
        for (name, value) in headers {
            if let Ok(value) = http::HeaderValue::from_str(&value) {
                response.headers_mut().append(name, value);
            }
        }
        response
    }
}

fn compress(body: &[u8]) -> Option<Bytes> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::fast());
    encoder.write_all(body).ok()?;
    encoder.finish().ok().map(Bytes::from)
}

fn with_request_id(body: &Bytes, id: &str, now: Timestamp) -> Bytes {
    match std::str::from_utf8(body) {
        Ok(text) => text
            .replace(r#""request-id":"""#, &format!(r#""request-id":"{id}""#))
            .replace(r#""date":"""#, &format!(r#""date":"{}""#, now.strftime("%Y-%m-%dT%H:%M:%S")))
            .into(),
        Err(_) => body.clone(),
    }
}

/// Formats a date for HTTP headers.
fn http_date(at: Timestamp) -> String {
    at.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}
