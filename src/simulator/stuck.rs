//! Faults that stall a stream: rounds that never end (facts 172, 173), and pages too large to read.
//!
//! Each depends on the requested page size, as with the real Graph: a client may escape by changing
//! the page size, unless the size that works is out of its reach.

use bytes::Bytes;

use super::faults::Fault;
use super::request::{RenderedResponse, ResponsePayload};

/// More bytes than any client should read.
pub(super) const HUGE: usize = 65 << 20;

/// How many items of a page a fault shows, and whether the next link leads to the same page.
pub(super) fn shown(fault: &Fault, turn: u32, size: usize) -> (usize, bool) {
    match fault {
        Fault::EndlessPaging { .. } => (usize::MAX, true),
        Fault::EndlessEmpty { .. } => (0, true),
        // Never the same page twice in a row, and never a new item: every second page of a round
        // has only the first half of the items.
        Fault::EndlessOld { .. } if turn % 2 == 1 => (size / 2, true),
        Fault::EndlessOld { .. } => (usize::MAX, true),
        _ => (usize::MAX, false),
    }
}

/// Adds items to those of a page.
pub(super) fn append_items(page: &mut Vec<u8>, items: &str) {
    if !page.ends_with(b"[") {
        page.push(b',');
    }
    page.extend_from_slice(items.as_bytes());
}

/// 100,000 events, 48 MB.
pub(super) fn crowd() -> String {
    let filler = "x".repeat(220);
    let events = (0..100_000).map(|n| {
        format!(
            "{{\"@odata.type\":\"#microsoft.graph.event\",\"id\":\"AAMkADCrowd{n:06}AAA=\",\
             \"type\":\"singleInstance\",\"subject\":\"{filler}\",\
             \"start\":{{\"dateTime\":\"2026-11-20T09:00:00.0000000\",\"timeZone\":\"UTC\"}},\
             \"end\":{{\"dateTime\":\"2026-11-20T10:00:00.0000000\",\"timeZone\":\"UTC\"}}}}"
        )
    });
    events.collect::<Vec<_>>().join(",")
}

/// Pads the body to the size that the fault needs, with white space, which has no meaning in JSON.
pub(super) fn pad_body(mut reply: RenderedResponse, fault: Option<&Fault>) -> RenderedResponse {
    if let (Some(Fault::HugePage { .. }), ResponsePayload::Plain(body)) = (fault, &reply.body) {
        let mut heavy = vec![b' '; HUGE];
        heavy.extend_from_slice(body);
        reply.body = ResponsePayload::Plain(Bytes::from(heavy));
    }
    reply
}
