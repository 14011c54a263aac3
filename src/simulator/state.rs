//! The simulator's state, behind one lock, and the handling of requests.
//!
//! A request is handled in two steps: on arrival it is counted and may be throttled, and after the
//! latency it is answered.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use jiff::SignedDuration;

use crate::env::Env;

use super::SimulatorSettings;
use super::access_token::TokenHolder;
use super::behaviour::Behaviour;
use super::calendar::Calendar;
use super::content::{EventBody, Person};
use super::delegation::Delegation;
use super::directory::Directory;
use super::event::CalendarContext;
use super::faults::{Fault, Faults};
use super::ids::{guid, mix};
use super::page_cache::PageCache;
use super::request::{RenderedResponse, SimulatedRequest};
use super::response::SimulatedResponse;
use super::service::RequestedService;
use super::sign_in::SignIn;
use super::statistics::{MailboxCounter, Statistics};
use super::zone::Zone;

/// The mailbox of a person, a room or a group.
#[derive(Debug)]
pub(super) struct Mailbox {
    /// The number that all its ids depend on.
    pub(super) number: u64,
    pub(super) object_id: String,
    pub(super) is_group: bool,
    /// The name and address of the owner.
    pub(super) person: Person,
    pub(super) zone: Arc<Zone>,
    /// The first is the default one.
    pub(super) calendars: Vec<Calendar>,
    pub(super) metrics: MailboxCounter,
}

/// The state of a simulator.
#[derive(Debug)]
pub(super) struct SimulatorState {
    pub(super) seed: u64,
    pub(super) env: Env,
    pub(super) behaviour: Behaviour,
    pub(super) latency: std::ops::Range<Duration>,
    pub(super) mailboxes: Vec<Mailbox>,
    /// Mailboxes by address and object id, in lower case; those of groups by `group:{id}` only.
    pub(super) names: BTreeMap<String, usize>,
    /// The mailbox behind `/me`.
    pub(super) me: Option<usize>,
    pub(super) faults: Faults,
    /// Links with a sticky fault: the largest page size that works, and the fault.
    pub(super) sticky_faults: BTreeMap<u64, (usize, Fault)>,
    pub(super) sign_in: SignIn,
    pub(super) delegation: Delegation,
    pub(super) directory: Directory,
    pub(super) total: MailboxCounter,
    pub(super) statistics: Statistics,
    /// Links answered with a page.
    pub(super) answered_links: BTreeSet<u64>,
    pub(super) page_cache: PageCache,
    pub(super) bodies: BTreeMap<(usize, u64), Arc<EventBody>>,
    /// The base address of links, including `/v1.0`.
    pub(super) base: Option<Arc<str>>,
    /// The generator for changes to calendars.
    pub(super) mutation_rng: fastrand::Rng,
    /// The generator for faults and latencies.
    pub(super) fault_rng: fastrand::Rng,
    pub(super) requests: u64,
    /// How far the `Date` header of responses is ahead of `env`.
    pub(super) date_ahead: SignedDuration,
}

/// A request between its arrival and its response.
#[derive(Debug)]
pub(super) struct RequestTicket {
    pub(super) mailbox: Option<usize>,
    pub(super) latency: Duration,
    refusal: Option<RenderedResponse>,
}

impl SimulatorState {
    pub(super) fn new(settings: SimulatorSettings) -> Self {
        let SimulatorSettings { seed, behaviour, latency, env } = settings;
        Self {
            seed,
            env,
            behaviour,
            latency,
            mailboxes: Vec::new(),
            names: BTreeMap::new(),
            me: None,
            faults: Faults::default(),
            sticky_faults: BTreeMap::new(),
            sign_in: SignIn::new(seed),
            delegation: Delegation::default(),
            directory: Directory::new(seed),
            total: MailboxCounter::default(),
            statistics: Statistics::default(),
            answered_links: BTreeSet::new(),
            page_cache: PageCache::new(),
            bodies: BTreeMap::new(),
            base: None,
            mutation_rng: fastrand::Rng::with_seed(mix(&[seed, 1])),
            fault_rng: fastrand::Rng::with_seed(mix(&[seed, 2])),
            requests: 0,
            date_ahead: SignedDuration::ZERO,
        }
    }

    pub(super) fn add_mailbox(&mut self, address: &str, name: &str) -> usize {
        if let Some(known) = self.mailbox(address) {
            return known;
        }
        let person = Person { name: name.into(), address: address.into() };
        let at = self.push_mailbox(person, None);
        self.names.insert(address.to_lowercase(), at);
        self.names.insert(self.mailboxes[at].object_id.clone(), at);
        at
    }

    /// Adds the mailbox of a person or room, or that of the group with this id. Returns its index.
    pub(super) fn push_mailbox(&mut self, person: Person, group: Option<String>) -> usize {
        let at = self.mailboxes.len();
        let number = mix(&[self.seed, at as u64, 0x6d61_696c]);
        let place = CalendarContext { mailbox: number, calendar: 0 };
        self.mailboxes.push(Mailbox {
            number,
            is_group: group.is_some(),
            object_id: group.unwrap_or_else(|| guid(&[number])),
            person,
            zone: Arc::new(Zone::any(number)),
            calendars: vec![Calendar::new(place, "Calendar")],
            metrics: MailboxCounter::default(),
        });
        at
    }

    /// The index of the mailbox with that address or object id.
    pub(super) fn mailbox(&self, name: &str) -> Option<usize> {
        self.names.get(name).or_else(|| self.names.get(&name.to_lowercase())).copied()
    }

    /// The index of a mailbox's calendar with that id, or of the default one.
    pub(super) fn calendar(&self, mailbox: usize, calendar: Option<&str>) -> Option<usize> {
        let calendars = &self.mailboxes[mailbox].calendars;
        let at = match calendar {
            None => 0,
            Some(id) => calendars.iter().position(|calendar| calendar.id == id)?,
        };
        (!calendars.get(at)?.deleted).then_some(at)
    }

    /// The indexes of a mailbox and its calendar, by name.
    pub(super) fn resolve(&self, mailbox: &str, calendar: Option<&str>) -> Option<(usize, usize)> {
        let mailbox = self.mailbox(mailbox)?;
        let calendar = calendar.filter(|id| !id.eq_ignore_ascii_case("default"));
        Some((mailbox, self.calendar(mailbox, calendar)?))
    }

    /// A mailbox's calendar, by name.
    pub(super) fn find_calendar(
        &mut self,
        mailbox: &str,
        calendar: Option<&str>,
    ) -> Option<&mut Calendar> {
        let (mailbox, calendar) = self.resolve(mailbox, calendar)?;
        Some(&mut self.mailboxes[mailbox].calendars[calendar])
    }

    /// Counts a request and decides whether it is throttled.
    pub(super) fn arrive(&mut self, call: &SimulatedRequest) -> RequestTicket {
        let now = self.env.now();
        let latency = if self.latency.is_empty() {
            self.latency.start
        } else {
            let span = (self.latency.end - self.latency.start).as_micros() as u64;
            self.latency.start + Duration::from_micros(self.fault_rng.u64(..span.max(1)))
        };
        let mut ticket = RequestTicket { mailbox: None, latency, refusal: None };
        match call.service() {
            RequestedService::Graph => {}
            service => {
                let statistics = &mut self.statistics;
                *match service {
                    RequestedService::DeviceAuthorization => &mut statistics.device_code_requests,
                    _ if service.is_managed_identity() => &mut statistics.identity_requests,
                    _ => &mut statistics.token_requests,
                } += 1;
                return ticket;
            }
        }
        let prefer = &mut self.statistics.prefer;
        if !prefer.contains(&call.prefer) && prefer.len() < 1000 {
            prefer.insert(call.prefer.clone());
        }
        self.total.arrive(now);
        ticket.mailbox = self.mailbox_of(call);
        if is_delta(call) {
            self.count(ticket.mailbox, |metrics| metrics.counts.delta_requests += 1);
        }
        if let Some(mailbox) = ticket.mailbox.and_then(|m| self.mailboxes.get_mut(m)) {
            let recent = mailbox.metrics.arrive(now);
            let throttled = |limit: &str, retry_after: &str| {
                let message = format!("Application is over its {limit} limit.");
                let status = StatusCode::TOO_MANY_REQUESTS;
                RenderedResponse::error(status, "ApplicationThrottled", &message)
                    .header("retry-after", retry_after)
            };
            if mailbox.metrics.in_flight > self.behaviour.max_concurrent_per_mailbox {
                ticket.refusal = Some(throttled("MailboxConcurrency", "1"));
            } else if recent > self.behaviour.max_requests_per_mailbox {
                ticket.refusal = Some(throttled("MailboxRequests", "10"));
            }
        }
        ticket
    }

    /// Ends a request that was answered, or whose client disconnected.
    pub(super) fn leave(&mut self, call: &SimulatedRequest, ticket: &RequestTicket) {
        if call.service() != RequestedService::Graph {
            return;
        }
        self.count(ticket.mailbox, |metrics| metrics.in_flight -= 1);
    }

    /// The mailbox that a path addresses.
    fn mailbox_of(&self, call: &SimulatedRequest) -> Option<usize> {
        match call.segments.first().map(|first| first.to_lowercase()).as_deref() {
            Some("users") => {
                self.mailbox(call.segments.get(1)?).filter(|at| !self.mailboxes[*at].is_group)
            }
            Some("groups") => self.group_mailbox(call),
            Some("me") => match self.sign_in.access_tokens.holder(call) {
                Some(TokenHolder::Person { object_id, .. }) => self.mailbox(object_id),
                _ => self.me,
            },
            _ => None,
        }
    }

    /// Answers a request.
    pub(super) fn respond(
        &mut self,
        call: &SimulatedRequest,
        body: &Bytes,
        ticket: &mut RequestTicket,
    ) -> SimulatedResponse {
        self.requests += 1;
        let service = call.service();
        let sign_in = service != RequestedService::Graph;
        let fault = self.draw(call, ticket);
        let refusal = ticket.refusal.take();
        let mut reply = match refusal.or_else(|| self.refuse(call, fault.as_ref()?)) {
            Some(refusal) => refusal,
            None if sign_in => self.grant(call, body),
            None => match self.graph(call, ticket.mailbox, fault.as_ref()) {
                Ok(reply) | Err(reply) => reply,
            },
        };
        self.pause(ticket.mailbox, &mut reply);
        let response = self.finish(call, ticket.mailbox, reply, sign_in);
        let status = match fault {
            Some(Fault::Reset | Fault::Stall | Fault::Truncated | Fault::EndlessBody) => 0,
            _ => response.status().as_u16(),
        };
        let answer = match fault {
            Some(Fault::Reset) => SimulatedResponse::Reset,
            Some(Fault::Stall) => SimulatedResponse::Stall,
            Some(Fault::Truncated) => {
                let after = response.body().len() / 2;
                SimulatedResponse::Truncated { response, after }
            }
            Some(Fault::SlowBody { every }) => {
                SimulatedResponse::Slow { response, every: Duration::from_millis(every) }
            }
            Some(Fault::EndlessBody) => SimulatedResponse::Endless { response },
            _ => SimulatedResponse::Response(response),
        };
        self.count(ticket.mailbox, |metrics| {
            *metrics.counts.statuses.entry(status).or_default() += 1
        });
        if status == 200 && call.token().is_some() {
            if !self.answered_links.insert(call.link_hash()) {
                self.count(ticket.mailbox, |metrics| metrics.counts.links_used_again += 1);
            }
            if self.answered_links.len() > 1_000_000 {
                self.answered_links.pop_first();
            }
        }
        answer
    }

    /// Answers a request to an endpoint that grants tokens.
    fn grant(&mut self, call: &SimulatedRequest, body: &Bytes) -> RenderedResponse {
        let now = self.env.now();
        if !call.service().is_managed_identity() {
            return self.sign_in.answer(call, body, now);
        }
        let base = self.base(call);
        let graph = [base.trim_end_matches("/v1.0"), call.origin()];
        let SignIn { identity_endpoints, access_tokens, .. } = &mut self.sign_in;
        identity_endpoints.answer(call, &graph, access_tokens, now)
    }

    /// Completes a response with the login service's metadata, which belongs to neither Graph nor
    /// the token endpoint: it is not counted and has no faults.
    pub(super) fn metadata(
        &mut self,
        call: &SimulatedRequest,
        reply: RenderedResponse,
    ) -> http::Response<Bytes> {
        self.requests += 1;
        self.finish(call, None, reply, true)
    }

    fn draw(&mut self, call: &SimulatedRequest, ticket: &RequestTicket) -> Option<Fault> {
        if ticket.refusal.is_some() {
            return None;
        }
        let mut faults = std::mem::take(&mut self.faults);
        let mut weather = self.fault_rng.clone();
        let size = self.page_size(call);
        let has_token = call.token().is_some();
        let delta = is_delta(call);
        let service = call.service();
        let fault = faults.draw(
            &mut weather,
            &call.target,
            service != RequestedService::Graph,
            |name| ticket.mailbox.is_some() && self.mailbox(name) == ticket.mailbox,
            |fault| match fault {
                Fault::SignIn { .. } => service.is_entra(),
                Fault::Identity { how } if how.is_of_challenge() => {
                    service == RequestedService::Arc && call.basic.is_none()
                }
                Fault::Identity { .. } => service.is_managed_identity(),
                Fault::DeadLink { .. } => delta && has_token,
                Fault::NeitherLink
                | Fault::BothLinks
                | Fault::UnreadableItem { .. }
                | Fault::ForeignLink { .. }
                | Fault::Lie { .. }
                | Fault::Bomb => delta,
                Fault::StickyGatewayTimeout { above }
                | Fault::StickyInternalError { above }
                | Fault::CrowdedPage { above } => delta && size > *above,
                Fault::HugePage { above } => (delta || is_view(call)) && size > *above,
                Fault::EndlessPaging { below }
                | Fault::EndlessEmpty { below }
                | Fault::EndlessOld { below } => delta && size < *below,
                _ => true,
            },
        );
        self.faults = faults;
        self.fault_rng = weather;
        fault
    }

    /// Counts something for all mailboxes together, and for `mailbox`.
    pub(super) fn count(&mut self, mailbox: Option<usize>, count: impl Fn(&mut MailboxCounter)) {
        count(&mut self.total);
        if let Some(mailbox) = mailbox {
            count(&mut self.mailboxes[mailbox].metrics);
        }
    }
}

/// Whether a request belongs to a delta round.
pub(super) fn is_delta(call: &SimulatedRequest) -> bool {
    call.segments.last().is_some_and(|last| {
        let last = last.trim_end_matches("()");
        last.eq_ignore_ascii_case("delta") || last.eq_ignore_ascii_case("microsoft.graph.delta")
    })
}

/// Whether a request lists a view.
fn is_view(call: &SimulatedRequest) -> bool {
    call.segments.last().is_some_and(|last| last.eq_ignore_ascii_case("calendarview"))
}
