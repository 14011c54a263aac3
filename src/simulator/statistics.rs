//! What clients did, counted: the simulator's witness stand.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use jiff::Timestamp;
use serde::Serialize;

/// What was asked of one mailbox, or of all of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RequestCounts {
    /// Requests to Graph, refused ones included.
    pub requests: u64,
    /// The most requests that were in flight together.
    pub max_concurrent: usize,
    /// Requests made before a `Retry-After` (held below 1 h) was over.
    pub during_pause: u64,
    /// The most requests in any 10 minutes.
    pub max_in_10_minutes: u64,
    /// First pages of enumerations asked for: how many enumerations were started.
    pub enumerations: u64,
    /// Links asked again after they had been answered with a page.
    pub links_used_again: u64,
    /// Requests with a link that asked for another zone, body or kind of ids than the first
    /// request of the stream: such a mirror would mix them.
    pub mixed_forms: u64,
    /// Answers by status; 0 counts resets, stalls and bodies cut short.
    pub statuses: BTreeMap<u16, u64>,
    /// Bytes of bodies before compression.
    pub bytes_raw: u64,
    /// Bytes of bodies as sent.
    pub bytes_sent: u64,
}

/// Everything counted since the start or the last reset.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Statistics {
    /// All mailboxes together, and requests that named none.
    pub total: RequestCounts,
    /// By address.
    pub mailboxes: BTreeMap<String, RequestCounts>,
    /// Requests to the token endpoint.
    pub token_requests: u64,
    /// The different `Prefer` headers seen (joined if there were several), at most 1000.
    pub prefer: BTreeSet<String>,
    /// Requests that carried a token to this server which it had not given.
    pub unknown_tokens: u64,
}

/// Counts for one mailbox, with what is needed to count.
#[derive(Debug, Default)]
pub(super) struct MailboxCounter {
    pub(super) tally: RequestCounts,
    pub(super) in_flight: usize,
    pub(super) pause_until: Option<Timestamp>,
    /// Requests by second, of the last 10 minutes.
    recent: VecDeque<(i64, u64)>,
    in_recent: u64,
}

impl MailboxCounter {
    /// Counts a request; says how many the last 10 minutes have seen with it.
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
        let tally = &mut self.tally;
        tally.requests += 1;
        tally.max_concurrent = tally.max_concurrent.max(self.in_flight);
        tally.max_in_10_minutes = tally.max_in_10_minutes.max(self.in_recent);
        if self.pause_until.is_some_and(|until| now < until) {
            tally.during_pause += 1;
        }
        self.in_recent
    }
}
