//! Limits concurrent requests: over all mailboxes, and to each mailbox.
//!
//! Graph allows an application four concurrent requests and 10,000 requests in ten minutes per
//! mailbox (facts 112, 113), and counts what is sent while it throttles (fact 119). A
//! [`MailboxBudget`] is shared by all windows of a mailbox. Requests wait there first, then for the
//! overall budget; both are first come, first served. No waiting request holds an overall permit
//! while its mailbox pauses, so one throttled mailbox never slows another.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio::time::Instant;

use super::retry_after::MAX_WAIT;

/// Graph's 10,000 in ten minutes, less a margin for requests that are not counted here, such as
/// repetitions inside the HTTP library.
const MAX_IN_TEN_MINUTES: u32 = 9_900;
/// Rounds that may be in progress for each request that may be in flight, and at least how many.
/// More would only wait in the memory of a round.
const ROUNDS_PER_REQUEST: usize = 4;
const MIN_ROUNDS: usize = 1024;
/// Ten full minutes, and the current one.
const MINUTES: usize = 11;

/// The budgets of a daemon. Cheap to clone; clones share everything.
#[derive(Clone, Debug)]
pub struct Budgets {
    overall: Arc<OverallBudget>,
    mailboxes: Arc<Mutex<MailboxBudgets>>,
}

#[derive(Debug)]
struct OverallBudget {
    requests: PermitPool,
    rounds: Arc<Semaphore>,
    /// The start of minute 0.
    epoch: Instant,
}

/// The mailboxes in use, by account and name.
#[derive(Debug)]
struct MailboxBudgets {
    /// Permits over all mailboxes, and of each one of them.
    overall: usize,
    per_mailbox: usize,
    /// Rounds that may be in progress: those of the highest limit so far.
    rounds: usize,
    known: BTreeMap<Arc<str>, BTreeMap<Arc<str>, Weak<MailboxBudget>>>,
    /// How many are known.
    count: usize,
    /// When this many are known, unused ones are removed.
    clear_at: usize,
}

/// The limits of one mailbox. Shared by its windows, and small while idle.
#[derive(Debug)]
pub struct MailboxBudget {
    overall: Arc<OverallBudget>,
    requests: PermitPool,
    ledger: Mutex<RequestLedger>,
}

#[derive(Debug, Default)]
struct RequestLedger {
    /// No request is sent before.
    paused_until: Option<Instant>,
    /// Throttled answers since the last successful one.
    throttled: u8,
    /// The last minute in `counts`.
    minute: u32,
    /// Requests per minute; the minute `m` is at `m % MINUTES`.
    counts: [u16; MINUTES],
}

/// Permission to send one request; held until its answer is read.
#[derive(Debug)]
pub struct Permit<'a> {
    _mailbox: Option<PoolPermit<'a>>,
    _overall: Option<PoolPermit<'a>>,
}

/// A number of permits that can change while some are held.
#[derive(Debug)]
struct PermitPool {
    permits: Semaphore,
    /// Held permits to be removed when they are returned.
    surplus: AtomicUsize,
}

#[derive(Debug)]
struct PoolPermit<'a> {
    pool: &'a PermitPool,
    permit: Option<SemaphorePermit<'a>>,
}

impl PermitPool {
    fn new(permits: usize) -> Self {
        Self { permits: Semaphore::new(permits), surplus: AtomicUsize::new(0) }
    }

    async fn acquire(&self) -> Option<PoolPermit<'_>> {
        // The semaphores are never closed. Without a permit there would be no limit, but no error.
        let permit = self.permits.acquire().await.ok()?;
        Some(PoolPermit { pool: self, permit: Some(permit) })
    }

    /// Changes the permits from `old` to `new`. Permits held beyond `new` are removed when
    /// returned.
    fn resize(&self, old: usize, new: usize) {
        if new < old {
            self.surplus.fetch_add(old - new, Ordering::Relaxed);
            // Free permits are removed at once.
            while self.take_surplus() {
                if self.permits.forget_permits(1) == 0 {
                    self.surplus.fetch_add(1, Ordering::Relaxed);
                    break;
                }
            }
        }
        for _ in old..new {
            if !self.take_surplus() {
                self.permits.add_permits(1);
            }
        }
    }

    /// Reduces the surplus by one; `false` if there is none.
    fn take_surplus(&self) -> bool {
        let less = |surplus: usize| surplus.checked_sub(1);
        self.surplus.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }
}

impl Drop for PoolPermit<'_> {
    fn drop(&mut self) {
        if self.pool.take_surplus()
            && let Some(permit) = self.permit.take()
        {
            permit.forget();
        }
    }
}

impl Budgets {
    /// At most `overall` concurrent requests, and at most `per_mailbox` to one mailbox. Zero counts
    /// as one.
    pub fn new(overall: usize, per_mailbox: usize) -> Self {
        let (overall, per_mailbox) = (permits(overall), permits(per_mailbox));
        let mailboxes = MailboxBudgets {
            overall,
            per_mailbox,
            rounds: rounds(overall),
            known: BTreeMap::new(),
            count: 0,
            clear_at: 0,
        };
        Self {
            overall: Arc::new(OverallBudget {
                requests: PermitPool::new(overall),
                rounds: Arc::new(Semaphore::new(rounds(overall))),
                epoch: Instant::now(),
            }),
            mailboxes: Arc::new(Mutex::new(mailboxes)),
        }
    }

    /// Changes both limits for waiting and later requests. Requests in flight are not aborted.
    pub fn resize(&self, overall: usize, per_mailbox: usize) {
        let (overall, per_mailbox) = (permits(overall), permits(per_mailbox));
        let mut mailboxes = self.mailboxes.lock().unwrap_or_else(PoisonError::into_inner);
        self.overall.requests.resize(mailboxes.overall, overall);
        // A lower limit of requests keeps the rounds: it makes them slower, not larger.
        let most = rounds(overall).max(mailboxes.rounds);
        self.overall.rounds.add_permits(most - mailboxes.rounds);
        mailboxes.rounds = most;
        if per_mailbox != mailboxes.per_mailbox {
            let known = mailboxes.known.values().flat_map(BTreeMap::values);
            for budget in known.filter_map(Weak::upgrade) {
                budget.requests.resize(mailboxes.per_mailbox, per_mailbox);
            }
        }
        (mailboxes.overall, mailboxes.per_mailbox) = (overall, per_mailbox);
    }

    /// Waits until another round may begin. A round keeps the permit until it ends. One whose
    /// mailbox has been throttled for long returns it early, so that others need not wait for it. May
    /// be dropped at any time.
    pub async fn admit_round(&self) -> Option<OwnedSemaphorePermit> {
        // The semaphore is never closed.
        self.overall.rounds.clone().acquire_owned().await.ok()
    }

    /// The budget of a mailbox: the same one as long as it is in use, in any letter case of the
    /// address.
    pub fn mailbox(
        &self,
        account: impl Into<Arc<str>>,
        mailbox: impl Into<Arc<str>>,
    ) -> Arc<MailboxBudget> {
        let (account, key) = (account.into(), lower_case(mailbox.into()));
        let mut mailboxes = self.mailboxes.lock().unwrap_or_else(PoisonError::into_inner);
        let known = mailboxes.known.get(&account).and_then(|known| known.get(&key));
        if let Some(known) = known.and_then(Weak::upgrade) {
            return known;
        }
        if mailboxes.count >= mailboxes.clear_at {
            mailboxes.clear();
        }
        let budget = Arc::new(MailboxBudget {
            requests: PermitPool::new(mailboxes.per_mailbox),
            overall: self.overall.clone(),
            ledger: Mutex::default(),
        });
        let known = mailboxes.known.entry(account).or_default();
        if known.insert(key, Arc::downgrade(&budget)).is_none() {
            mailboxes.count += 1;
        }
        budget
    }
}

impl MailboxBudgets {
    /// Removes the budgets that no window uses any more.
    fn clear(&mut self) {
        self.known.retain(|_, known| {
            known.retain(|_, budget| budget.strong_count() > 0);
            !known.is_empty()
        });
        self.count = self.known.values().map(BTreeMap::len).sum();
        self.clear_at = self.count * 2 + 64;
    }
}

/// The same text in lower case; mostly it is already, and then shared with the window.
fn lower_case(text: Arc<str>) -> Arc<str> {
    let is_lower = |byte: u8| byte.is_ascii() && !byte.is_ascii_uppercase();
    if text.bytes().all(is_lower) { text } else { text.to_lowercase().into() }
}

fn rounds(requests: usize) -> usize {
    permits(requests.saturating_mul(ROUNDS_PER_REQUEST).max(MIN_ROUNDS))
}

fn permits(n: usize) -> usize {
    n.clamp(1, Semaphore::MAX_PERMITS)
}

impl MailboxBudget {
    /// Waits until one more request may be sent, and counts it. May be dropped at any time.
    pub async fn acquire(&self) -> Permit<'_> {
        let mailbox = self.requests.acquire().await;
        loop {
            let open = self.ledger(|ledger, overall| ledger.check_open(overall.epoch));
            if let Err(at) = open {
                tokio::time::sleep_until(at).await;
                continue;
            }
            let overall = self.overall.requests.acquire().await;
            // A pause may have begun meanwhile; then the overall permit is returned.
            if self.ledger(|ledger, overall| ledger.try_count(overall.epoch)) {
                return Permit { _mailbox: mailbox, _overall: overall };
            }
        }
    }

    /// Records a successful answer, which resets the back-off.
    pub fn succeeded(&self) {
        self.ledger(|ledger, _| ledger.throttled = 0);
    }

    /// Records a throttled answer: no request is sent for the longer of `wait` and our own
    /// back-off (1 s doubling to an hour, of which `chance` in `[0, 1)` takes up to half). Returns
    /// the length of that pause.
    pub fn throttled(&self, wait: Duration, chance: f64) -> Duration {
        self.ledger(|ledger, _| {
            let doubled = Duration::from_secs(1 << ledger.throttled.min(12)).min(MAX_WAIT);
            ledger.throttled = ledger.throttled.saturating_add(1);
            let own = doubled.mul_f64(1.0 - chance.clamp(0.0, 1.0) / 2.0);
            let pause = wait.min(MAX_WAIT).max(own);
            let until = Instant::now() + pause;
            ledger.paused_until = Some(ledger.paused_until.map_or(until, |at| at.max(until)));
            pause
        })
    }

    /// Resumes a pause that Graph requested from an earlier process.
    pub fn pause(&self, left: Duration) {
        let until = Instant::now() + left.min(MAX_WAIT);
        self.ledger(|ledger, _| ledger.paused_until = ledger.paused_until.max(Some(until)));
    }

    /// When requests may be sent again; `None` if they may be sent now.
    pub fn paused_until(&self) -> Option<Instant> {
        self.ledger(|ledger, overall| ledger.check_open(overall.epoch)).err()
    }

    fn ledger<T>(&self, work: impl FnOnce(&mut RequestLedger, &OverallBudget) -> T) -> T {
        // No change of a ledger is left incomplete, so a poisoned lock is still usable.
        work(&mut self.ledger.lock().unwrap_or_else(PoisonError::into_inner), &self.overall)
    }
}

impl RequestLedger {
    /// Counts a request if it may be sent now.
    fn try_count(&mut self, epoch: Instant) -> bool {
        let open = self.check_open(epoch).is_ok();
        if open {
            self.counts[self.minute as usize % MINUTES] += 1;
        }
        open
    }

    /// `Ok` if a request may be sent now; otherwise the time of the next check.
    fn check_open(&mut self, epoch: Instant) -> Result<(), Instant> {
        let now = Instant::now();
        match self.paused_until {
            Some(until) if until > now => return Err(until),
            _ => self.paused_until = None,
        }
        let minute = u32::try_from(now.duration_since(epoch).as_secs() / 60).unwrap_or(u32::MAX);
        // Minutes without a request count zero.
        for passed in (self.minute.saturating_add(1)..=minute).take(MINUTES) {
            self.counts[passed as usize % MINUTES] = 0;
        }
        self.minute = self.minute.max(minute);
        let sent: u32 = self.counts.iter().map(|n| u32::from(*n)).sum();
        if sent < MAX_IN_TEN_MINUTES {
            return Ok(());
        }
        Err(epoch + Duration::from_secs((u64::from(self.minute) + 1) * 60))
    }
}

#[cfg(test)]
mod tests;
