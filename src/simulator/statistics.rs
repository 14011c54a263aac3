//! Counts what clients do.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use jiff::Timestamp;
use serde::Serialize;

/// Request counts of one mailbox, or of all of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RequestCounts {
    /// Requests to Graph, including refused ones.
    pub requests: u64,
    /// The most requests that were in flight at the same time.
    pub max_concurrent: usize,
    /// Requests made before a `Retry-After` (at most 1 h) had passed.
    pub during_pause: u64,
    /// The most requests in any 10 minutes.
    pub max_in_10_minutes: u64,
    /// Requests to the delta function, links included.
    pub delta_requests: u64,
    /// Enumerations started, that is, requests for a first page.
    pub enumerations: u64,
    /// Repeated requests for a link that had already been answered with a page.
    pub links_used_again: u64,
    /// Requests with a link for another zone, body format or kind of ids than the first request of
    /// the stream. A mirror that sends them mixes representations.
    pub mixed_forms: u64,
    /// Responses by status; 0 counts resets, stalls, and truncated and endless bodies.
    pub statuses: BTreeMap<u16, u64>,
    /// Bytes of bodies before compression.
    pub bytes_raw: u64,
    /// Bytes of bodies as sent.
    pub bytes_sent: u64,
}

/// Everything counted since the start or the last reset.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Statistics {
    /// All mailboxes together, and requests that address no mailbox.
    pub total: RequestCounts,
    /// The counts by mailbox: its address, or `group:{id}`.
    pub mailboxes: BTreeMap<String, RequestCounts>,
    /// Requests to the token endpoint.
    pub token_requests: u64,
    /// Requests for device codes.
    pub device_code_requests: u64,
    /// Requests to the endpoints of managed identities.
    pub identity_requests: u64,
    /// The different `Prefer` headers seen (joined if there were several), at most 1000.
    pub prefer: BTreeSet<String>,
    /// Requests with a token that this server did not issue.
    pub unknown_tokens: u64,
}

/// The counts of one mailbox, with the state needed to keep them.
#[derive(Debug, Default)]
pub(super) struct MailboxCounter {
    pub(super) counts: RequestCounts,
    pub(super) in_flight: usize,
    pub(super) pause_until: Option<Timestamp>,
    /// Requests by second, of the last 10 minutes.
    recent: VecDeque<(i64, u64)>,
    in_recent: u64,
}

impl MailboxCounter {
    /// Counts a request. Returns the number of requests in the last 10 minutes, including this one.
    pub(super) fn arrive(&mut self, now: Timestamp) -> u64 {
        let second = now.as_second();
        while let Some((first, count)) = self.recent.front().copied()
            && first <= second - 600
        {
            self.in_recent -= count;
            self.recent.pop_front();
        }
        match self.recent.back_mut() {
            Some((last, count)) if *last == second => *count += 1,
            _ => self.recent.push_back((second, 1)),
        }
        self.in_recent += 1;
        self.in_flight += 1;
        let tally = &mut self.counts;
        tally.requests += 1;
        tally.max_concurrent = tally.max_concurrent.max(self.in_flight);
        tally.max_in_10_minutes = tally.max_in_10_minutes.max(self.in_recent);
        if self.pause_until.is_some_and(|until| now < until) {
            tally.during_pause += 1;
        }
        self.in_recent
    }
}
