//! A simulated Microsoft Graph for calendars, with its directory and what grants tokens for it.
//!
//! It is stateful (mailboxes, calendars, events and series that change), deterministic (the same
//! seed and the same calls give the same bytes) and as difficult as Graph is known to be:
//! [`Behaviour`] selects among unusual but correct behaviours, [`Fault`] makes requests fail. It
//! shares no code with the client that it tests. `docs/simulator.md` describes it as a standalone
//! tool.
//!
//! It refuses what Graph refuses, and every request it does not know, with Graph's own messages.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::env::Env;

mod access_token;
mod assertion;
mod behaviour;
mod calendar;
mod command;
mod content;
mod control;
mod control_directory;
mod control_people;
mod delegated_grant;
mod delegated_sign_in;
mod delegation;
mod delta;
mod device_code;
mod device_page;
mod directory;
mod directory_handle;
mod directory_page;
mod directory_routes;
mod discovery;
mod event;
mod fault_response;
mod faults;
mod graph;
mod group_calendar;
mod identity_fault;
mod ids;
mod lies;
mod link;
mod listing;
mod managed_identity;
mod mutation;
mod odata_filter;
mod page_cache;
mod people;
mod places;
mod population;
mod random_mutation;
mod refresh_token;
mod request;
mod response;
mod response_head;
mod round;
mod series;
mod serve;
mod service;
mod sign_in;
mod state;
mod statistics;
mod stuck;
#[cfg(test)]
mod tests;
mod token_error;
mod zone;

pub use assertion::{Federation, IssuerKeys};
pub use behaviour::{Behaviour, InstanceListing, MasterOnPage, PrivateEvents, Resend};
pub use command::{SimulateArgs, Simulation};
pub use directory::RoomPlace;
pub use faults::{
    CorruptItem, DeadLinkAnswer, Fault, FaultRate, Faults, ForeignLink, MailboxFault, PlannedFault,
    SignInRefusal,
};
pub use identity_fault::IdentityFault;
pub use lies::Lie;
pub use managed_identity::ManagedIdentities;
pub use mutation::{Edit, Mutation, MutationError};
pub use population::Population;
pub use response::SimulatedResponse;
pub use series::Pattern;
pub use sign_in::Application;
pub use statistics::{RequestCounts, Statistics};

use access_token::TokenHolder;
use calendar::Calendar;
use event::{CalendarContext, EventForm};
use request::SimulatedRequest;
use state::{Mailbox, SimulatorState};

/// The settings of a new [`Simulator`].
#[derive(Clone, Debug)]
pub struct SimulatorSettings {
    /// The seed of all random choices.
    pub seed: u64,
    /// Which of Graph's known variants of behaviour to simulate.
    pub behaviour: Behaviour,
    /// The delay before each response, on tokio's clock; `ZERO..ZERO` for none.
    pub latency: Range<Duration>,
    /// The wall clock.
    pub env: Env,
}

impl SimulatorSettings {
    /// [`Behaviour::calm`], without latency.
    pub fn new(seed: u64, env: Env) -> Self {
        Self { seed, behaviour: Behaviour::calm(), latency: Duration::ZERO..Duration::ZERO, env }
    }
}

/// A handle to a simulated Graph. Clones are cheap and share the same state.
#[derive(Clone, Debug)]
pub struct Simulator {
    state: Arc<Mutex<SimulatorState>>,
}

impl Simulator {
    /// Creates a Graph without mailboxes.
    pub fn new(settings: SimulatorSettings) -> Self {
        Self { state: Arc::new(Mutex::new(SimulatorState::new(settings))) }
    }

    fn state(&self) -> MutexGuard<'_, SimulatorState> {
        // A test that panicked while holding the lock must not fail here as well.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers one request without a socket, after the latency on tokio's clock.
    pub async fn answer(&self, request: http::Request<Bytes>) -> SimulatedResponse {
        let call = SimulatedRequest::read(&request);
        if !call.versioned && call.segments.first().is_some_and(|first| first == "control") {
            return SimulatedResponse::Response(self.control(&call, request.body()));
        }
        let page = self.device_page(&call, request.body());
        if let Some(reply) = page.or_else(|| discovery::answer(&call)) {
            return SimulatedResponse::Response(self.state().metadata(&call, reply));
        }
        let ticket = self.state().arrive(&call);
        // Dropping it ends the request, also when the client disconnects during the latency.
        let mut visit = InFlightRequest { simulator: self, call: &call, ticket };
        if !visit.ticket.latency.is_zero() {
            tokio::time::sleep(visit.ticket.latency).await;
        }
        self.state().respond(&call, request.body(), &mut visit.ticket)
    }

    /// Sets the base address of rendered links, including `/v1.0`, such as
    /// `http://127.0.0.1:8081/v1.0`. Until it is set, links use the address the client used.
    pub fn set_base_url(&self, base: &str) {
        let mut state = self.state();
        state.base = Some(base.trim_end_matches('/').into());
    }

    /// Adds a mailbox with an empty default calendar, unless the address exists already.
    /// Returns its object id. All calls accept the address or the object id.
    pub fn add_mailbox(&self, address: &str) -> String {
        let mut state = self.state();
        let name = address.split('@').next().unwrap_or(address);
        let at = state.add_mailbox(address, name);
        state.mailboxes[at].object_id.clone()
    }

    /// Adds a calendar to a mailbox. Returns its id, or an empty string for an unknown mailbox.
    pub fn add_calendar(&self, mailbox: &str, name: &str) -> String {
        let mut state = self.state();
        let Some(at) = state.mailbox(mailbox) else { return String::new() };
        let owner = &mut state.mailboxes[at];
        let calendar = u16::try_from(owner.calendars.len()).unwrap_or(0);
        let calendar = Calendar::new(CalendarContext { mailbox: owner.number, calendar }, name);
        let id = calendar.id.clone();
        owner.calendars.push(calendar);
        id
    }

    /// Deletes a calendar other than the default one. Returns whether it existed.
    pub fn remove_calendar(&self, mailbox: &str, calendar: &str) -> bool {
        let mut state = self.state();
        let found = state.find_calendar(mailbox, Some(calendar));
        found.filter(|found| found.place.calendar > 0).map(|found| found.deleted = true).is_some()
    }

    /// Sets whether events of a calendar are found only under the calendar's own path, as with
    /// calendars that other users share. Returns whether the calendar exists.
    pub fn set_shared(&self, mailbox: &str, calendar: &str, shared: bool) -> bool {
        let mut state = self.state();
        state.find_calendar(mailbox, Some(calendar)).map(|found| found.shared = shared).is_some()
    }

    /// Sets the mailbox behind `/me`; `None` makes `/me` an error, as for application tokens.
    pub fn set_me(&self, mailbox: Option<&str>) {
        let mut state = self.state();
        state.me = mailbox.and_then(|mailbox| state.mailbox(mailbox));
    }

    /// The addresses of all mailboxes of people and rooms, in the order they were added.
    pub fn mailboxes(&self) -> Vec<String> {
        let state = self.state();
        let people = state.mailboxes.iter().filter(|mailbox| !mailbox.is_group);
        people.map(Mailbox::name).collect()
    }

    /// Fills a calendar (`None`: the default one) and clears its history: links issued before are
    /// dead. Does nothing if the calendar does not exist.
    pub fn populate(&self, mailbox: &str, calendar: Option<&str>, plan: Population) {
        let mut state = self.state();
        if let Some((mailbox, calendar)) = state.resolve(mailbox, calendar) {
            state.populate(mailbox, calendar, &plan);
        }
    }

    /// Adds people and rooms with realistic names and calendars. Returns their addresses.
    pub fn organisation(&self, people: usize, rooms: usize, around: Timestamp) -> Vec<String> {
        self.state().organisation(people, rooms, around)
    }

    /// Makes one random change. Returns `None` if there are no mailboxes, or if no possible change
    /// was found in 100 attempts.
    pub fn mutate_randomly(&self) -> Option<Mutation> {
        self.state().mutate_randomly()
    }

    /// Makes the given change. Returns the id of the changed event or instance.
    ///
    /// # Errors
    /// If the calendar, event or instance does not exist, or has the wrong type for the edit.
    pub fn mutate(&self, mutation: Mutation) -> Result<String, MutationError> {
        self.state().mutate(&mutation)
    }

    /// Makes delta lie: no stream reports the last change made in a calendar (`None`: the default
    /// one), but views, listings and new enumerations show it. Returns whether there was a change.
    pub fn suppress_change(&self, mailbox: &str, calendar: Option<&str>) -> bool {
        let mut state = self.state();
        state.find_calendar(mailbox, calendar).is_some_and(Calendar::suppress_last_change)
    }

    /// The events that the plain `calendarView` would list now, in UTC with HTML bodies. Empty if
    /// the calendar does not exist.
    pub fn truth(
        &self,
        mailbox: &str,
        calendar: Option<&str>,
        start: Timestamp,
        end: Timestamp,
    ) -> Vec<Value> {
        let mut state = self.state();
        let Some(found) = state.find_calendar(mailbox, calendar) else { return Vec::new() };
        let form = EventForm::plain();
        let view = found.view((start, end)).into_iter();
        view.map(|(item, part)| found.place.whole(item, part, &form)).collect()
    }

    /// The ids that the plain `calendarView` would list now; `immutable` selects the kind of id.
    pub fn listed(
        &self,
        mailbox: &str,
        calendar: Option<&str>,
        start: Timestamp,
        end: Timestamp,
        immutable: bool,
    ) -> BTreeSet<String> {
        let mut state = self.state();
        let Some(found) = state.find_calendar(mailbox, calendar) else { return BTreeSet::new() };
        let form = EventForm { immutable, ..EventForm::plain() };
        let view = found.view((start, end)).into_iter();
        view.map(|(item, part)| found.place.id(&form, item.key, part.day())).collect()
    }

    /// The current behaviour.
    pub fn behaviour(&self) -> Behaviour {
        self.state().behaviour.clone()
    }

    /// Replaces the behaviour, for all later requests.
    pub fn set_behaviour(&self, behaviour: Behaviour) {
        let mut state = self.state();
        state.behaviour = behaviour;
        state.page_cache.clear();
    }

    /// Sets how far the `Date` header of later responses is ahead of the simulator's clock.
    pub fn set_date_ahead(&self, by: SignedDuration) {
        self.state().date_ahead = by;
    }

    /// Sets the latency of later requests.
    pub fn set_latency(&self, latency: Range<Duration>) {
        self.state().latency = latency;
    }

    /// Sets how many bytes of rendered pages are cached for identical requests.
    pub fn set_page_cache(&self, bytes: usize) {
        self.state().page_cache.limit = bytes;
    }

    /// The current fault settings. They do not include planned faults that are used up.
    pub fn faults(&self) -> Faults {
        self.state().faults.clone()
    }

    /// Replaces all fault settings.
    pub fn set_faults(&self, faults: Faults) {
        self.state().faults = faults;
    }

    /// Adds a fault for the requests that match it.
    pub fn plan(&self, fault: PlannedFault) {
        self.state().faults.planned.push(fault);
    }

    /// Removes all faults. Links with a sticky fault work again.
    pub fn clear_faults(&self) {
        let mut state = self.state();
        state.faults = Faults::default();
        state.sticky_faults.clear();
    }

    /// Makes every link issued so far dead, for one mailbox or (`None`) for all.
    pub fn kill_tokens(&self, mailbox: Option<&str>) {
        let mut state = self.state();
        let only = mailbox.map(|mailbox| state.mailbox(mailbox));
        for (at, owner) in state.mailboxes.iter_mut().enumerate() {
            if only.is_none_or(|only| only == Some(at)) {
                owner.calendars.iter_mut().for_each(Calendar::kill_streams);
            }
        }
    }

    /// Issues an access token without a request to the token endpoint.
    pub fn access_token(&self) -> String {
        let mut state = self.state();
        let now = state.env.now();
        state.sign_in.access_tokens.grant(TokenHolder::Application(String::new()), now)
    }

    /// Expires every access token issued so far.
    pub fn expire_tokens(&self) {
        self.state().sign_in.access_tokens.expire();
    }

    /// Sets the lifetime of access tokens issued from now on, in whole seconds.
    pub fn set_token_lifetime(&self, lifetime: Duration) {
        self.state().sign_in.access_tokens.lifetime = lifetime;
    }

    /// Replaces all registered applications. While there is none, any client signs in with any
    /// secret.
    pub fn set_applications(&self, applications: Vec<Application>) {
        self.state().sign_in.applications = applications;
    }

    /// The counts since the start or the last reset.
    pub fn statistics(&self) -> Statistics {
        let state = self.state();
        let mut statistics = state.statistics.clone();
        statistics.total = state.total.counts.clone();
        for mailbox in &state.mailboxes {
            let tally = &mailbox.metrics.counts;
            statistics.total.during_pause += tally.during_pause;
            if tally.requests > 0 {
                statistics.mailboxes.insert(mailbox.name(), tally.clone());
            }
        }
        statistics
    }

    /// Resets all counts to zero.
    pub fn reset_statistics(&self) {
        let mut state = self.state();
        state.statistics = Statistics::default();
        state.total.counts = RequestCounts::default();
        for mailbox in &mut state.mailboxes {
            mailbox.metrics.counts = RequestCounts::default();
        }
    }
}

/// Counts a request as in flight until dropped.
struct InFlightRequest<'a> {
    simulator: &'a Simulator,
    call: &'a SimulatedRequest,
    ticket: state::RequestTicket,
}

impl Drop for InFlightRequest<'_> {
    fn drop(&mut self) {
        self.simulator.state().leave(self.call, &self.ticket);
    }
}
