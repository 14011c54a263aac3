//! A round as a state machine: state and input in, state and effect out.
//!
//! ```text
//! Enumerating --page+next--> Enumerating     --page+delta--> Sweeping --series done--> sweep --> Settled
//! Settled --due--> page --next--> Following  --page+delta--> Completing --series done--> Settled
//! any --link dead--> Enumerating             any --transient--> the same, later
//! ```
//!
//! What is asked of Graph and of the store is an [`Effect`]; somebody else performs it and
//! comes back with an [`Input`]. Nothing is forgotten by a crash between the two: the state is
//! what the store holds (position and to-do), plus a memory of the masters this run has seen,
//! whose loss costs a request, never an event.
//!
//! A series is applied whole. In an incremental round everything that comes of a series waits in
//! the to-do until its master and its membership are at hand, and is then committed at once, so
//! that no reader sees half of a change. In an enumeration an occurrence waits only for its master.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::change::RemovalReason;
use super::commit::{Commit, Known, Removal};
use super::page::{End, EventHash, EventId, Item, Kind, Link, Page};
use super::position::{Phase, Position, SegmentIndex, Todo, TodoKey, WindowId};
use super::series::{self, Listed, Reconciliation, Row};
use super::status::ResyncReason;
use super::todo::{TodoList, agree, completable};
use super::window::{Complete, Edges};

/// A removal of fewer events than this is always believed.
pub const BELIEVED: usize = 20;
/// Rows that leave in one commit of a sweep.
const SLICE: usize = 256;

/// A round of one segment.
#[derive(Debug)]
pub struct Round {
    place: Place,
    phase: Phase,
    /// Masters that came in this run, with their etags.
    came: BTreeMap<EventHash, Option<Arc<str>>>,
    todo: TodoList,
    /// Rows the sweep found, not yet removed.
    sweep: Option<Vec<Removal>>,
    /// Events of the window before any of this round's removals, and how many it has removed.
    events: u64,
    removed: usize,
    /// Whether the sweep's removals have been judged.
    believed: bool,
    /// Removals that a listing found and no tombstone: a later listing may take them back.
    listed_out: BTreeSet<EventHash>,
    /// What to do once the commit under way is durable.
    after: After,
    /// See [`Position::held_until`].
    held_until: Option<Timestamp>,
}

/// Which segment of which window, and how it is kept.
#[derive(Clone, Debug)]
pub struct Place {
    /// The window.
    pub window: WindowId,
    /// The segment.
    pub segment: SegmentIndex,
    /// The segment's edges.
    pub edges: Edges,
    /// How occurrences are completed.
    pub complete: Complete,
    /// How long a removal too large to believe waits for its confirmation.
    pub confirm_after: SignedDuration,
    /// Whether the window has other segments. What leaves this one may have moved over the seam
    /// into another: removals are then published by themselves, when everything else of the round
    /// is durable, so that whoever performs the effects can have the others look first.
    pub seams: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    Continue,
    Settle,
    Hold,
}

/// What came of an effect.
#[derive(Debug)]
pub enum Input {
    /// Nothing yet: what is first?
    Start,
    /// The page that was asked for, and what the store knows of the ids of
    /// [`Round::questions`].
    Page {
        /// The page.
        page: Page,
        /// By id.
        known: BTreeMap<EventHash, Known>,
    },
    /// A master, or that it is no more.
    Master(Option<Item>),
    /// A series' instances (all pages) and the mirror's rows of it; or that the series is not found.
    Instances(Option<(Listed, Vec<Row>)>),
    /// The series is gone; the mirror's rows of it.
    Gone(Vec<Row>),
    /// What was asked about a series cannot be had now.
    Unavailable,
    /// What the sweep found.
    Unseen(Vec<Removal>),
    /// The commit is durable; events that readers now see in the window.
    Committed(u64),
    /// The link that was followed is dead.
    LinkDead,
}

/// What has to be done next.
#[derive(Debug)]
pub enum Effect {
    /// Ask for a page: from this link, or the first of an enumeration.
    Page(Option<Link>),
    /// Get a master by id.
    Master(EventId),
    /// List a series' instances and read the mirror's rows of it.
    Instances(EventId),
    /// Read the mirror's rows of a series that is gone.
    Rows(EventId),
    /// Find the rows that no seen list contains.
    Unseen,
    /// Write.
    Commit(Box<Commit>),
    /// The round is over.
    Over(Over),
}

/// How a round ended, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Over {
    /// Delta link stored, to-do empty.
    Settled,
    /// Delta link stored, but some series could not be completed now.
    Incomplete,
    /// It would have removed too much to be believed; an enumeration will confirm.
    Held,
}

impl Round {
    /// Takes a segment up where the store left it. `events`: what readers see of the window now.
    pub fn resume(place: Place, position: Option<Position>, todo: Vec<Todo>, events: u64) -> Self {
        let Position { phase, held_until, .. } =
            position.unwrap_or_else(|| Position::new(Phase::start(ResyncReason::New), false));
        let todo = TodoList::load(todo);
        // Tombstones do not outlive their round.
        let listed_out = match phase {
            Phase::Settled { .. } => todo.removals().clone(),
            _ => BTreeSet::new(),
        };
        Self {
            place,
            phase,
            came: BTreeMap::new(),
            todo,
            listed_out,
            sweep: None,
            events,
            removed: 0,
            believed: false,
            after: After::Continue,
            held_until,
        }
    }

    /// The phase as it will be stored next.
    pub fn phase(&self) -> &Phase {
        &self.phase
    }

    /// The ids of a page that the store must be asked about before the page is stepped.
    pub fn questions(&self, page: &Page) -> Vec<EventHash> {
        let mut ids: Vec<EventHash> = page.removed.iter().map(EventId::hash).collect();
        // Nothing can have changed its kind before it was first seen.
        if self.phase.enumeration() != Some(ResyncReason::New) {
            let may_have_changed = |item: &&Item| matches!(item.kind, Kind::Single | Kind::Master);
            ids.extend(page.present.iter().filter(may_have_changed).map(|i| i.id.hash()));
        }
        ids
    }

    /// One step. `at` is the wall-clock time that changes carry.
    pub fn step(mut self, input: Input, at: Timestamp) -> (Self, Effect) {
        let effect = match input {
            Input::Start => self.next(at),
            Input::Page { page, known } => self.page(page, &known, at),
            Input::Master(found) => self.master(found, at),
            Input::Instances(found) => self.instances(found, at),
            Input::Gone(rows) => self.gone(&rows, at),
            Input::Unavailable => self.unavailable(at),
            Input::Unseen(rows) => {
                self.sweep = Some(rows);
                self.next(at)
            }
            Input::Committed(events) => {
                if self.removed == 0 {
                    self.events = events;
                }
                match self.after {
                    After::Continue => self.next(at),
                    After::Hold => Effect::Over(Over::Held),
                    After::Settle if !self.todo.has_series() => Effect::Over(Over::Settled),
                    After::Settle => Effect::Over(Over::Incomplete),
                }
            }
            // Whoever confirms a removal goes on confirming it.
            Input::LinkDead => match self.phase.enumeration() {
                Some(ResyncReason::Confirm) => self.restart(ResyncReason::Confirm, at),
                _ => self.restart(ResyncReason::SyncStateNotFound, at),
            },
        };
        (self, effect)
    }

    /// Begins the enumeration anew. Rows stay: readers go on seeing the last good mirror.
    fn restart(&mut self, reason: ResyncReason, at: Timestamp) -> Effect {
        self.came.clear();
        self.listed_out.clear();
        self.todo = TodoList::default();
        self.sweep = None;
        self.believed = false;
        self.held_until = None;
        self.phase = Phase::start(reason);
        let mut commit = self.commit(at);
        commit.clear_todo = true;
        commit.clear_seen = true;
        commit.tally.resync = Some(reason);
        Effect::Commit(Box::new(commit))
    }

    fn next(&mut self, at: Timestamp) -> Effect {
        if self.held_until.is_some_and(|until| at < until) {
            return Effect::Over(Over::Held);
        }
        self.held_until = None;
        match &self.phase {
            Phase::Enumerating { next, .. } => Effect::Page(next.clone()),
            Phase::Following { next } => Effect::Page(Some(next.clone())),
            Phase::Settled { delta } => {
                let delta = delta.clone();
                // What an earlier round left is worked off before Graph is asked again.
                match self.pending() {
                    Some(effect) => effect,
                    None => Effect::Page(Some(delta)),
                }
            }
            Phase::Completing { .. } => match self.pending() {
                Some(effect) => effect,
                None => {
                    let removals = self.tombstones();
                    self.settle(self.commit(at), removals, at)
                }
            },
            Phase::Sweeping { reason, .. } => match (*reason, self.pending(), self.sweep.take()) {
                (_, Some(effect), sweep) => {
                    self.sweep = sweep;
                    effect
                }
                // The first enumeration found an empty mirror: there is nothing to sweep, and no
                // list of what it saw.
                (ResyncReason::New, None, _) => {
                    let removals = self.tombstones();
                    self.settle(self.commit(at), removals, at)
                }
                (_, None, None) => Effect::Unseen,
                (_, None, Some(rows)) => self.sweep_slice(rows, at),
            },
        }
    }

    /// What the next series on the to-do needs.
    fn pending(&mut self) -> Option<Effect> {
        let series = self.todo.current()?;
        let master = series.master.clone();
        if series.needs_master
            && let Some(carried) = series.carried_master().cloned()
        {
            series.needs_master = false;
            series.fetched = Some(carried);
        }
        Some(if series.needs_master || !series.needs_listing {
            Effect::Master(master)
        } else {
            Effect::Instances(master)
        })
    }

    fn page(&mut self, page: Page, known: &BTreeMap<EventHash, Known>, at: Timestamp) -> Effect {
        let mut commit = self.commit(at);
        let exact = self.place.complete == Complete::Exact;
        let idle = page.present.is_empty() && page.removed.is_empty() && page.unreadable.is_empty();
        let reason = self.phase.enumeration();
        if let (Phase::Enumerating { page: number, .. }, Some(reason)) = (&self.phase, reason) {
            // The first enumeration has nothing to sweep.
            if reason != ResyncReason::New {
                let mut seen: Vec<EventHash> = page
                    .present
                    .iter()
                    .filter(|i| i.kind != Kind::Master)
                    .map(|i| i.id.hash())
                    .collect();
                seen.extend(
                    page.unreadable.iter().filter_map(|u| u.id.as_ref()).map(EventId::hash),
                );
                commit.seen = Some((*number, seen));
            }
        }
        // What could not be read is there all the same.
        for unread in page.unreadable.iter().filter_map(|u| u.id.as_ref()) {
            self.todo.stay(unread.hash());
        }
        // Tombstones before masters, which release what waited for them.
        for id in page.removed {
            self.tombstone(&id, known.get(&id.hash()));
        }
        // Masters first: a page that carries both completes its occurrences at once.
        let (masters, instances): (Vec<Item>, Vec<Item>) =
            page.present.into_iter().partition(|item| item.kind == Kind::Master);
        for item in masters {
            if reason.is_some() {
                self.enumerated_master(item, &mut commit)
            } else {
                if exact && matches!(known.get(&item.id.hash()), Some(Known::Single)) {
                    // A single event that became a series: exact windows keep no masters in its place.
                    self.todo.leave(item.id.hash());
                }
                self.wait(item)
            }
        }
        for item in instances {
            // An occurrence looks the same whichever request brought it.
            let item =
                if item.kind == Kind::Occurrence && !exact { series::bare(item) } else { item };
            let id = item.id.hash();
            self.todo.stay(id);
            match (&item.master, item.kind) {
                (Some(master), Kind::Occurrence | Kind::Exception) if reason.is_some() => {
                    let master = master.clone();
                    self.enumerated_instance(item, &master, &mut commit);
                }
                (Some(_), Kind::Occurrence | Kind::Exception) => self.wait(item),
                _ if matches!(known.get(&id), Some(Known::Master)) => {
                    // A series that became a single event under the master's id: its occurrences
                    // leave first, and only the master can tell.
                    let id = item.id.clone();
                    self.wait(item);
                    self.todo.touch(&id).needs_master = true;
                }
                _ => commit.upserts.push(item),
            }
        }
        self.todo.write(&mut commit);
        match page.end {
            End::Next(next) => {
                self.phase = match (&self.phase, reason) {
                    (Phase::Enumerating { page, .. }, Some(reason)) => {
                        Phase::Enumerating { next: Some(next), reason, page: page + 1 }
                    }
                    _ => Phase::Following { next },
                };
                self.finish(commit)
            }
            End::Delta(delta) => match reason {
                Some(reason) => {
                    self.phase = Phase::Sweeping { delta, reason };
                    if reason == ResyncReason::New && self.todo.is_empty() {
                        return self.settle(commit, Vec::new(), at);
                    }
                    self.finish(commit)
                }
                None => {
                    self.phase = Phase::Completing { delta };
                    let apart = self.place.seams && !self.todo.removals().is_empty();
                    if self.todo.current().is_some() || apart {
                        return self.finish(commit);
                    }
                    commit.lazy = idle && self.todo.is_empty();
                    let removals = self.tombstones();
                    self.settle(commit, removals, at)
                }
            },
        }
    }

    /// A master in an enumeration completes what waits for it, and what is still to come.
    fn enumerated_master(&mut self, item: Item, commit: &mut Commit) {
        if self.place.complete == Complete::Exact {
            return;
        }
        if !item.whole {
            self.todo.touch(&item.id).needs_master = true;
            return;
        }
        let id = item.id.hash();
        commit.upserts.extend(self.todo.release(id, &item.etag));
        self.came.insert(id, item.etag.clone());
        commit.upserts.push(item);
    }

    /// An occurrence or exception in an enumeration: shown at once if its master came.
    fn enumerated_instance(&mut self, item: Item, master: &EventId, commit: &mut Commit) {
        let exact = self.place.complete == Complete::Exact;
        let hash = master.hash();
        let at_hand = match item.kind {
            Kind::Exception => item.whole,
            _ => !exact && self.came.get(&hash).is_some_and(|etag| agree(&item.etag, etag)),
        };
        if at_hand {
            self.todo.forget_waiting(hash, item.id.hash());
            commit.upserts.push(item);
            return;
        }
        let needs_listing = exact || item.kind == Kind::Exception;
        let series = self.todo.touch(master);
        series.needs_master |= !needs_listing;
        series.needs_listing |= needs_listing;
        self.todo.hold_back(master, item);
    }

    /// Anything of a series in an incremental round waits for the series to be whole.
    fn wait(&mut self, item: Item) {
        let master = match (&item.master, item.kind) {
            (Some(master), Kind::Occurrence | Kind::Exception) => master.clone(),
            _ => item.id.clone(),
        };
        self.doubt(&master);
        self.todo.hold_back(&master, item);
    }

    /// The mirror's idea of a series is no longer to be trusted.
    fn doubt(&mut self, master: &EventId) {
        let exact = self.place.complete == Complete::Exact;
        let series = self.todo.touch(master);
        series.needs_master = !exact;
        series.needs_listing = true;
        series.deferred = false;
    }

    fn tombstone(&mut self, id: &EventId, known: Option<&Known>) {
        let hash = id.hash();
        self.listed_out.remove(&hash);
        // The last word wins over what an earlier page carried.
        if let Some(master) = self.todo.holder(hash) {
            self.todo.forget_waiting(master, hash);
            self.todo.leave(hash);
        }
        match known {
            None | Some(Known::Unknown) => {}
            Some(Known::Master) => self.doubt(id),
            Some(Known::Single) => self.todo.leave(hash),
            Some(Known::Instance { master }) => {
                // In an enumeration the pages and the sweep decide who is a member.
                if self.phase.enumeration().is_none() {
                    self.doubt(master);
                }
                self.todo.leave(hash);
            }
        }
    }

    fn master(&mut self, found: Option<Item>, at: Timestamp) -> Effect {
        let Some(series) = self.todo.current() else { return self.next(at) };
        match found {
            // Something else under that id, or another id: a server in confusion. Later.
            Some(item)
                if item.id != series.master
                    || matches!(item.kind, Kind::Occurrence | Kind::Exception) =>
            {
                self.unavailable(at)
            }
            Some(item) if item.kind == Kind::Master => {
                series.needs_master = false;
                series.fetched = Some(item);
                if series.needs_listing {
                    Effect::Instances(series.master.clone())
                } else {
                    self.complete(None, at)
                }
            }
            // Gone, or no series any more.
            _ => Effect::Rows(series.master.clone()),
        }
    }

    fn instances(&mut self, found: Option<(Listed, Vec<Row>)>, at: Timestamp) -> Effect {
        let Some(series) = self.todo.current() else { return self.next(at) };
        match found {
            Some(found) => self.complete(Some(found), at),
            // Only the master can tell whether the series is gone.
            None if series.fetched.is_none() => {
                series.needs_master = true;
                self.next(at)
            }
            // The master is there, its listing is not: something is in motion. Later.
            None => self.unavailable(at),
        }
    }

    /// A series cannot be made whole in this run: what came and can be shown is shown, nobody
    /// leaves, and the series stays on the list.
    fn unavailable(&mut self, at: Timestamp) -> Effect {
        let master_kept = self.place.complete == Complete::Master;
        let Some(series) = self.todo.current() else { return self.next(at) };
        series.deferred = true;
        let master = series.fetched.take().filter(|_| master_kept);
        let mut upserts: Vec<Item> = series
            .waiting
            .values()
            .filter(|item| match item.kind {
                Kind::Exception => item.whole,
                Kind::Occurrence => item.whole || master.is_some(),
                Kind::Single | Kind::Master => false,
            })
            .cloned()
            .collect();
        if upserts.is_empty() && master.is_none() {
            return self.next(at);
        }
        upserts.extend(master);
        let mut commit = self.commit(at);
        commit.upserts = upserts;
        Effect::Commit(Box::new(commit))
    }

    /// Everything a series needs is at hand: it is applied in one commit.
    fn complete(&mut self, listing: Option<(Listed, Vec<Row>)>, at: Timestamp) -> Effect {
        let Some((hash, mut series)) = self.todo.take_current() else { return self.next(at) };
        let enumerating = self.phase.enumeration().is_some();
        let mut commit = self.commit(at);
        commit.done = series.keys(hash);
        series.waiting.remove(&hash);
        match listing {
            Some((listing, rows)) => {
                let tombstones: BTreeSet<EventHash> =
                    self.todo.removals().difference(&self.listed_out).copied().collect();
                let reconciled = Reconciliation {
                    edges: self.place.edges,
                    complete: self.place.complete,
                    membership: !enumerating,
                    waiting: &series.waiting,
                    tombstones: &tombstones,
                }
                .apply(listing, &rows);
                for item in &reconciled.upserts {
                    self.todo.stay(item.id.hash());
                }
                commit.upserts = reconciled.upserts;
                commit.removals = deleted(reconciled.removals);
            }
            None => {
                commit.upserts =
                    series.waiting.values().filter(|item| completable(item)).cloned().collect()
            }
        }
        if let Some(master) = series.fetched.take()
            && self.place.complete == Complete::Master
        {
            self.came.insert(hash, master.etag.clone());
            commit.upserts.push(master);
        }
        commit.orphans.push(hash);
        if self.place.seams {
            self.leave_later(&mut commit);
        }
        self.todo.write(&mut commit);
        if self.too_many(commit.removals.len()) {
            return self.hold(at);
        }
        self.removed += commit.removals.len();
        self.tombstones_done(&mut commit);
        commit.position = Some(self.position());
        Effect::Commit(Box::new(commit))
    }

    /// What a series no longer has here leaves with the round's other removals.
    fn leave_later(&mut self, commit: &mut Commit) {
        for removal in std::mem::take(&mut commit.removals) {
            if !self.todo.removals().contains(&removal.id) {
                self.listed_out.insert(removal.id);
                self.todo.leave(removal.id);
            }
        }
    }

    /// What leaves with its series need not leave, and be counted, once more at the round's end.
    fn tombstones_done(&mut self, commit: &mut Commit) {
        for removal in &commit.removals {
            if self.todo.removals().contains(&removal.id) {
                self.todo.stay(removal.id);
                commit.done.push(TodoKey::Removal(removal.id));
            }
        }
    }

    /// The series is no more: its rows leave, and what was a series may now be a single event.
    fn gone(&mut self, rows: &[Row], at: Timestamp) -> Effect {
        let Some((hash, series)) = self.todo.take_current() else { return self.next(at) };
        // Counted as one: a series ended, however many occurrences it had.
        if self.too_many(1) {
            return self.hold(at);
        }
        self.removed += 1;
        let mut commit = self.commit(at);
        commit.removals = deleted(rows.iter().map(|row| row.id));
        commit.upserts =
            series.waiting.values().filter(|item| item.kind == Kind::Single).cloned().collect();
        commit.orphans.push(hash);
        commit.done = series.keys(hash);
        self.tombstones_done(&mut commit);
        commit.position = Some(self.position());
        Effect::Commit(Box::new(commit))
    }

    fn sweep_slice(&mut self, mut rows: Vec<Removal>, at: Timestamp) -> Effect {
        let deleted = rows.iter().filter(|r| r.reason == RemovalReason::Deleted).count();
        if self.too_many(deleted) {
            return self.hold(at);
        }
        // Judged as a whole, not slice by slice.
        self.believed = true;
        let mut commit = self.commit(at);
        if rows.len() > SLICE {
            commit.removals = rows.split_off(rows.len() - SLICE);
            self.sweep = Some(rows);
            return Effect::Commit(Box::new(commit));
        }
        commit.removals = rows;
        let swept: BTreeSet<EventHash> = commit.removals.iter().map(|r| r.id).collect();
        let tombstones = self.tombstones().into_iter().filter(|r| !swept.contains(&r.id)).collect();
        self.settle(commit, tombstones, at)
    }

    /// The round's last commit.
    fn settle(&mut self, mut commit: Commit, removals: Vec<Removal>, at: Timestamp) -> Effect {
        if self.too_many(commit.removals.len() + removals.len()) {
            // What came is shown all the same.
            return match self.hold(at) {
                Effect::Commit(mut held) => {
                    held.upserts = commit.upserts;
                    Effect::Commit(held)
                }
                other => other,
            };
        }
        let upserted: BTreeSet<EventHash> =
            commit.upserts.iter().map(|item| item.id.hash()).collect();
        commit.removals.extend(removals.into_iter().filter(|r| !upserted.contains(&r.id)));
        commit.done.extend(self.todo.take_removals().into_iter().map(TodoKey::Removal));
        commit.todo.retain(|todo| !matches!(todo, Todo::Removal { .. }));
        commit.orphans.extend(self.came.keys().copied());
        let delta = match &self.phase {
            Phase::Completing { delta }
            | Phase::Sweeping { delta, .. }
            | Phase::Settled { delta } => delta.clone(),
            Phase::Enumerating { .. } | Phase::Following { .. } => return self.next(at),
        };
        commit.clear_seen = matches!(self.phase, Phase::Sweeping { .. });
        self.phase = Phase::Settled { delta };
        self.after = After::Settle;
        commit.position = Some(self.position());
        Effect::Commit(Box::new(commit))
    }

    /// Too large to believe: nothing leaves, and one more enumeration has to agree.
    fn hold(&mut self, at: Timestamp) -> Effect {
        let mut effect = self.restart(ResyncReason::Confirm, at);
        self.held_until = at.checked_add(self.place.confirm_after).ok();
        if let Effect::Commit(commit) = &mut effect {
            commit.position = Some(self.position());
        }
        self.after = After::Hold;
        effect
    }

    /// Until when the removal that was not believed waits for its confirmation.
    pub fn held_until(&self) -> Option<Timestamp> {
        self.held_until
    }

    fn too_many(&self, more: usize) -> bool {
        let removed = self.removed + more;
        !self.believed
            && self.phase.enumeration() != Some(ResyncReason::Confirm)
            && more > 0
            && removed >= BELIEVED
            && (removed as u64).saturating_mul(2) > self.events
    }

    fn tombstones(&self) -> Vec<Removal> {
        deleted(self.todo.removals().iter().copied())
    }

    fn finish(&mut self, mut commit: Commit) -> Effect {
        commit.position = Some(self.position());
        Effect::Commit(Box::new(commit))
    }

    fn position(&self) -> Position {
        Position {
            phase: self.phase.clone(),
            todo: !self.todo.is_empty(),
            held_until: self.held_until,
        }
    }

    fn commit(&self, at: Timestamp) -> Commit {
        let mut commit = Commit::new(self.place.window, self.place.segment, at);
        commit.position = Some(self.position());
        commit
    }
}

fn deleted(ids: impl IntoIterator<Item = EventHash>) -> Vec<Removal> {
    ids.into_iter().map(|id| Removal { id, reason: RemovalReason::Deleted }).collect()
}

#[cfg(test)]
mod tests;
