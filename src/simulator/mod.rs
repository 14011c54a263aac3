//! Our own Microsoft Graph for calendars, with its token endpoint.
//!
//! It is stateful (mailboxes, calendars, events and series that change), deterministic (the same
//! seed and the same calls give the same bytes) and as nasty as Graph has been seen to be: see
//! [`Behaviour`] for the ways in which Graph is odd and right, [`Fault`] for the ways in which it
//! fails. It shares no code with the client it is there to test. `docs/simulator.md` describes it
//! as a tool of its own.
//!
//! It refuses what Graph refuses, and everything it does not know, with Graph's own words.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::env::Env;

mod behaviour;
mod calendar;
mod command;
mod control;
mod delta;
mod discovery;
mod event;
mod fault_response;
mod faults;
mod graph;
mod ids;
mod lies;
mod link;
mod listing;
mod mutation;
mod page_cache;
mod population;
mod random_mutation;
mod request;
mod response;
mod round;
mod series;
mod serve;
mod sign_in;
mod state;
mod statistics;
mod stuck;
#[cfg(test)]
mod tests;
mod zone;

pub use behaviour::{Behaviour, InstanceListing, MasterOnPage, PrivateEvents, Resend};
pub use command::{SimulateArgs, Simulation};
pub use faults::{
    CorruptItem, DeadLinkAnswer, Fault, FaultRate, Faults, ForeignLink, MailboxFault, PlannedFault,
    SignInRefusal,
};
pub use lies::Lie;
pub use mutation::{Edit, Mutation, MutationError};
pub use population::Population;
pub use response::SimulatedResponse;
pub use series::Pattern;
pub use sign_in::Application;
pub use statistics::{RequestCounts, Statistics};

use event::EventForm;
use ids::MailboxIds;
use request::GraphRequest;
use state::SimulatorState;

/// What a simulator is made with.
#[derive(Clone, Debug)]
pub struct SimulatorSettings {
    /// All chance comes from it.
    pub seed: u64,
    /// How Graph behaves where it is known to behave in several ways.
    pub behaviour: Behaviour,
    /// How long each answer takes, by tokio's clock; `ZERO..ZERO` for not at all.
    pub latency: Range<Duration>,
    /// The wall clock.
    pub env: Env,
}

impl SimulatorSettings {
    /// The calm behaviour, without latency.
    pub fn new(seed: u64, env: Env) -> Self {
        Self { seed, behaviour: Behaviour::calm(), latency: Duration::ZERO..Duration::ZERO, env }
    }
}

/// A simulated Graph. A cheap handle: clones are the same Graph.
#[derive(Clone, Debug)]
pub struct Simulator {
    state: Arc<Mutex<SimulatorState>>,
}

impl Simulator {
    /// A Graph without any mailboxes.
    pub fn new(settings: SimulatorSettings) -> Self {
        Self { state: Arc::new(Mutex::new(SimulatorState::new(settings))) }
    }

    fn state(&self) -> MutexGuard<'_, SimulatorState> {
        // Tests that fail elsewhere must not fail here as well.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One request, one answer, without a socket. Waits out the latency by tokio's clock.
    pub async fn answer(&self, request: http::Request<Bytes>) -> SimulatedResponse {
        let call = GraphRequest::read(&request);
        if !call.versioned && call.segments.first().is_some_and(|first| first == "control") {
            return SimulatedResponse::Response(self.control(&call, request.body()));
        }
        if let Some(reply) = discovery::answer(&call) {
            return SimulatedResponse::Response(self.state().metadata(&call, reply));
        }
        let ticket = self.state().arrive(&call);
        // Leaves when dropped, also when the client goes away while it waits.
        let mut visit = InFlightRequest { simulator: self, call: &call, ticket };
        if !visit.ticket.latency.is_zero() {
            tokio::time::sleep(visit.ticket.latency).await;
        }
        self.state().respond(&call, request.body(), &mut visit.ticket)
    }

    /// The address that links are rendered with, `/v1.0` included, such as
    /// `http://127.0.0.1:8081/v1.0`. Until it is set, the request's own address or `Host` is used.
    pub fn set_base_url(&self, base: &str) {
        let mut state = self.state();
        state.base = Some(base.trim_end_matches('/').into());
    }

    /// Adds a mailbox with an empty default calendar, unless there is one of that address.
    /// Returns its object id; address and object id both address all calls.
    pub fn add_mailbox(&self, address: &str) -> String {
        let mut state = self.state();
        let name = address.split('@').next().unwrap_or(address);
        let at = state.add_mailbox(address, name);
        state.mailboxes[at].object_id.clone()
    }

    /// Adds a calendar to a mailbox; returns its id, empty if there is no such mailbox.
    pub fn add_calendar(&self, mailbox: &str, name: &str) -> String {
        let mut state = self.state();
        let Some(at) = state.mailbox(mailbox) else { return String::new() };
        let owner = &mut state.mailboxes[at];
        let id =
            MailboxIds::calendar(owner.number, u16::try_from(owner.calendars.len()).unwrap_or(0));
        owner.calendars.push(calendar::Calendar::new(id.clone(), name.to_owned()));
        id
    }

    /// Deletes a calendar (not the default one); whether there was one.
    pub fn remove_calendar(&self, mailbox: &str, calendar: &str) -> bool {
        let mut state = self.state();
        let Some((mailbox, calendar)) = state.place(mailbox, Some(calendar)) else { return false };
        let found = calendar > 0;
        if found {
            state.mailboxes[mailbox].calendars[calendar].gone = true;
        }
        found
    }

    /// Says whether events of a calendar are found only under the calendar's own path, as with
    /// calendars shared by others; whether there is such a calendar.
    pub fn set_shared(&self, mailbox: &str, calendar: &str, shared: bool) -> bool {
        let mut state = self.state();
        let Some((mailbox, calendar)) = state.place(mailbox, Some(calendar)) else { return false };
        state.mailboxes[mailbox].calendars[calendar].shared = shared;
        true
    }

    /// The mailbox that `/me` means; `None` makes `/me` an error, as for application tokens.
    pub fn set_me(&self, mailbox: Option<&str>) {
        let mut state = self.state();
        state.me = mailbox.and_then(|mailbox| state.mailbox(mailbox));
    }

    /// The addresses of all mailboxes, in the order they were added.
    pub fn mailboxes(&self) -> Vec<String> {
        self.state().mailboxes.iter().map(|m| m.person.address.to_string()).collect()
    }

    /// Fills a calendar (`None`: the default one) as if it had always been so: links given
    /// before are dead. Does nothing if there is no such calendar.
    pub fn populate(&self, mailbox: &str, calendar: Option<&str>, plan: Population) {
        let mut state = self.state();
        if let Some((mailbox, calendar)) = state.place(mailbox, calendar) {
            state.populate(mailbox, calendar, &plan);
        }
    }

    /// Adds people and rooms with believable names and calendars; returns their addresses.
    pub fn organisation(&self, people: usize, rooms: usize, around: Timestamp) -> Vec<String> {
        self.state().organisation(people, rooms, around)
    }

    /// One change somewhere, as the seed has it; `None` only if there are no mailboxes.
    pub fn mutate_randomly(&self) -> Option<Mutation> {
        self.state().step()
    }

    /// A change of one's own; returns the id of the event or instance concerned.
    ///
    /// # Errors
    /// If what it speaks of does not exist, or is not of the type needed.
    pub fn mutate(&self, mutation: Mutation) -> Result<String, MutationError> {
        self.state().mutate(&mutation)
    }

    /// Delta lies: no stream ever speaks of the last change made in a calendar (`None`: the default
    /// one), though everything that is asked anew shows it. Whether there was one to keep quiet.
    pub fn suppress_change(&self, mailbox: &str, calendar: Option<&str>) -> bool {
        let mut state = self.state();
        let Some((mailbox, calendar)) = state.place(mailbox, calendar) else { return false };
        state.mailboxes[mailbox].calendars[calendar].suppress_last_change()
    }

    /// What plain `calendarView` would list at this moment, in UTC with HTML bodies. Empty if
    /// there is no such calendar.
    pub fn truth(
        &self,
        mailbox: &str,
        calendar: Option<&str>,
        start: Timestamp,
        end: Timestamp,
    ) -> Vec<Value> {
        let state = self.state();
        match state.place(mailbox, calendar) {
            Some((mailbox, calendar)) => {
                state.truth(mailbox, calendar, (start, end), &EventForm::plain())
            }
            None => Vec::new(),
        }
    }

    /// The ids that plain `calendarView` would list at this moment, of either kind.
    pub fn listed(
        &self,
        mailbox: &str,
        calendar: Option<&str>,
        start: Timestamp,
        end: Timestamp,
        immutable: bool,
    ) -> BTreeSet<String> {
        let state = self.state();
        let Some((mailbox, calendar)) = state.place(mailbox, calendar) else {
            return BTreeSet::new();
        };
        let place = state.rendering(mailbox, calendar);
        let form = EventForm { immutable, ..EventForm::plain() };
        let id = |(item, part): &(Arc<event::CalendarItem>, event::ItemPart)| {
            place.id(&form, item.key, part.day())
        };
        state.view(mailbox, calendar, (start, end)).iter().map(id).collect()
    }

    /// The behaviour in force.
    pub fn behaviour(&self) -> Behaviour {
        self.state().behaviour.clone()
    }

    /// Behaves differently from now on.
    pub fn set_behaviour(&self, behaviour: Behaviour) {
        let mut state = self.state();
        state.behaviour = behaviour;
        state.shelf.clear();
    }

    /// Answers say another time in `Date` from now on than its clock shows: so much later.
    pub fn set_date_ahead(&self, by: SignedDuration) {
        self.state().date_ahead = by;
    }

    /// Answers after another latency from now on.
    pub fn set_latency(&self, latency: Range<Duration>) {
        self.state().latency = latency;
    }

    /// How many bytes of rendered pages are kept for the next client that asks the same.
    pub fn set_page_cache(&self, bytes: usize) {
        self.state().shelf.limit = bytes;
    }

    /// What is to go wrong, as it stands: planned faults that happened are gone from it.
    pub fn faults(&self) -> Faults {
        self.state().faults.clone()
    }

    /// Replaces everything that is to go wrong.
    pub fn set_faults(&self, faults: Faults) {
        self.state().faults = faults;
    }

    /// Adds a fault that waits for its requests.
    pub fn plan(&self, fault: PlannedFault) {
        self.state().faults.planned.push(fault);
    }

    /// Nothing goes wrong any more; links that were stuck work again.
    pub fn clear_faults(&self) {
        let mut state = self.state();
        state.faults = Faults::default();
        state.stuck.clear();
    }

    /// Every link given so far, of that mailbox or of all, is dead from now on.
    pub fn kill_tokens(&self, mailbox: Option<&str>) {
        let mut state = self.state();
        let only = mailbox.map(|mailbox| state.mailbox(mailbox));
        for (at, owner) in state.mailboxes.iter_mut().enumerate() {
            if only.is_none_or(|only| only == Some(at)) {
                owner.calendars.iter_mut().for_each(calendar::Calendar::kill_streams);
            }
        }
    }

    /// A fresh access token, without asking the token endpoint.
    pub fn access_token(&self) -> String {
        let mut state = self.state();
        let now = state.env.now();
        state.sign_in.grant(now)
    }

    /// Accepts an access token of one's own making until `until`.
    pub fn accept_token(&self, token: &str, until: Timestamp) {
        self.state().sign_in.accept(token, until);
    }

    /// Every access token given so far has expired.
    pub fn expire_tokens(&self) {
        self.state().sign_in.expire();
    }

    /// How long access tokens given from now on live, in whole seconds.
    pub fn set_token_lifetime(&self, lifetime: Duration) {
        self.state().sign_in.lifetime = lifetime;
    }

    /// Registers an application. Until there is one, every sign-in with any secret is good.
    pub fn add_application(&self, application: Application) {
        self.state().sign_in.applications.push(application);
    }

    /// Replaces all registered applications.
    pub fn set_applications(&self, applications: Vec<Application>) {
        self.state().sign_in.applications = applications;
    }

    /// What clients did so far.
    pub fn statistics(&self) -> Statistics {
        let state = self.state();
        let mut statistics = state.statistics.clone();
        statistics.total = state.total.tally.clone();
        for mailbox in &state.mailboxes {
            let tally = &mailbox.metrics.tally;
            statistics.total.during_pause += tally.during_pause;
            if tally.requests > 0 {
                statistics.mailboxes.insert(mailbox.person.address.to_string(), tally.clone());
            }
        }
        statistics
    }

    /// Counts from zero again.
    pub fn reset_statistics(&self) {
        let mut state = self.state();
        state.statistics = Statistics::default();
        state.total.tally = RequestCounts::default();
        for mailbox in &mut state.mailboxes {
            mailbox.metrics.tally = RequestCounts::default();
        }
    }
}

/// A request that is in flight as long as this lives.
struct InFlightRequest<'a> {
    simulator: &'a Simulator,
    call: &'a GraphRequest,
    ticket: state::RequestTicket,
}

impl Drop for InFlightRequest<'_> {
    fn drop(&mut self) {
        self.simulator.state().leave(self.call, &self.ticket);
    }
}
