//! One calendar: its items, the log of its changes, and its delta streams.
//!
//! For every change the log keeps the previous state of the item. The calendar can therefore be
//! reconstructed at any version still in the log, and a delta round compares two versions and
//! needs no state of its own.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::event::{CalendarContext, CalendarItem, EventForm};
use super::ids::MailboxIds;
use super::link::LinkToken;

/// Number of changes in the log; links to older versions are dead (fact 91). Each change keeps an
/// old state of an item, so this bounds the memory of a simulator that runs for days.
const MAX_LOG_ENTRIES: usize = 1_000;
/// Number of live streams; beyond it the oldest stream dies (fact 91).
const MAX_STREAMS: usize = 256;

/// The state of an item before the change that led to `version`.
#[derive(Debug)]
struct ItemRevision {
    version: u64,
    key: u32,
    before: Option<Arc<CalendarItem>>,
}

/// A delta stream: one enumeration and the rounds that follow it.
#[derive(Debug)]
struct DeltaStream {
    /// The newest generation of its links.
    highest: u32,
    /// The form of its first request; its links do not contain it (facts 41, 46).
    form: EventForm,
}

/// A calendar of a mailbox.
#[derive(Debug)]
pub(super) struct Calendar {
    pub(super) place: CalendarContext,
    pub(super) id: String,
    pub(super) name: String,
    /// Whether its events are found only under the calendar's own path.
    pub(super) shared: bool,
    /// Whether nobody can edit it, as with birthdays and holidays.
    pub(super) read_only: bool,
    pub(super) deleted: bool,
    /// Incremented by every change.
    pub(super) version: u64,
    pub(super) items: BTreeMap<u32, Arc<CalendarItem>>,
    next_key: u32,
    log: VecDeque<ItemRevision>,
    /// The version before the oldest change in the log.
    min_version: u64,
    /// By number; the oldest comes first.
    streams: BTreeMap<u32, DeltaStream>,
    next_stream: u32,
    /// The numbers of single events and series after it was filled.
    initial_counts: (usize, usize),
}

impl Calendar {
    pub(super) fn new(place: CalendarContext, name: &str) -> Self {
        Self {
            place,
            id: MailboxIds::calendar(place.mailbox, place.calendar),
            name: name.to_owned(),
            shared: false,
            read_only: false,
            deleted: false,
            version: 0,
            items: BTreeMap::new(),
            next_key: 0,
            log: VecDeque::new(),
            min_version: 0,
            streams: BTreeMap::new(),
            next_stream: 0,
            initial_counts: (0, 0),
        }
    }

    /// Adds the item that `make` creates for a new key and version. Returns the key.
    pub(super) fn add(&mut self, make: impl FnOnce(u32, u64) -> CalendarItem) -> u32 {
        let key = self.next_key;
        self.next_key += 1;
        self.put(key, Some(make(key, self.version + 1)));
        key
    }

    /// Sets the state of an item at a new version; `None` deletes it.
    pub(super) fn put(&mut self, key: u32, item: Option<CalendarItem>) {
        self.version += 1;
        let before = match item {
            Some(item) => self.items.insert(key, Arc::new(item)),
            None => self.items.remove(&key),
        };
        self.log.push_back(ItemRevision { version: self.version, key, before });
        if self.log.len() > MAX_LOG_ENTRIES
            && let Some(oldest) = self.log.pop_front()
        {
            self.min_version = oldest.version;
        }
    }

    /// Hides the last change from all delta streams. Returns whether there was one.
    pub(super) fn suppress_last_change(&mut self) -> bool {
        let last = self.log.back().is_some_and(|change| change.version == self.version);
        last && self.log.pop_back().is_some()
    }

    /// Clears the log and the streams, as if the current items had always been there. Used after
    /// filling a calendar.
    pub(super) fn clear_history(&mut self) {
        self.initial_counts = self.count();
        self.log.clear();
        self.min_version = self.version;
        self.streams.clear();
    }

    /// The current numbers of single events and series.
    fn count(&self) -> (usize, usize) {
        let series = self.items.values().filter(|item| item.series.is_some()).count();
        (self.items.len() - series, series)
    }

    /// Whether random changes must add no more single events, and no more series. Without this
    /// limit a simulated organisation grows for as long as it runs.
    pub(super) fn at_capacity(&self) -> (bool, bool) {
        let (singles, series) = self.count();
        (
            singles > (self.initial_counts.0 * 2).max(60),
            series > (self.initial_counts.1 * 3 / 2).max(8),
        )
    }

    /// All items as they were at `version`.
    pub(super) fn at(&self, version: u64) -> BTreeMap<u32, Arc<CalendarItem>> {
        let mut items = self.items.clone();
        for (key, before) in self.states_before(version, self.version) {
            match before {
                Some(item) => items.insert(key, item),
                None => items.remove(&key),
            };
        }
        items
    }

    /// The items changed after `from` and up to `to`, with their states at `from` and at `to`.
    #[expect(clippy::type_complexity, reason = "a pair of states by key, used in one place")]
    pub(super) fn changed_between(
        &self,
        from: u64,
        to: u64,
    ) -> BTreeMap<u32, (Option<Arc<CalendarItem>>, Option<Arc<CalendarItem>>)> {
        let mut later = self.states_before(to, self.version);
        self.states_before(from, to)
            .into_iter()
            .map(|(key, before)| {
                let after = match later.remove(&key) {
                    Some(after) => after,
                    None => self.items.get(&key).cloned(),
                };
                (key, (before, after))
            })
            .collect()
    }

    /// The states at `from` of the items changed after `from` and up to `to`.
    fn states_before(&self, from: u64, to: u64) -> BTreeMap<u32, Option<Arc<CalendarItem>>> {
        let mut before = BTreeMap::new();
        let first = self.log.partition_point(|change| change.version <= from);
        for change in self.log.range(first..).take_while(|change| change.version <= to) {
            before.entry(change.key).or_insert_with(|| change.before.clone());
        }
        before
    }

    /// Opens a stream. Returns its number and the generation of its first links.
    pub(super) fn open_stream(&mut self, form: &EventForm) -> (u32, u32) {
        let number = self.next_stream;
        self.next_stream += 1;
        let highest = 1 + number % 150;
        self.streams.insert(number, DeltaStream { highest, form: form.clone() });
        if self.streams.len() > MAX_STREAMS {
            self.streams.pop_first();
        }
        (number, highest)
    }

    /// Whether `form` is the form of the stream's first request.
    pub(super) fn same_form(&self, number: u32, form: &EventForm) -> bool {
        self.streams.get(&number).is_none_or(|stream| stream.form == *form)
    }

    /// Checks that a link still works. The error is the newest generation of its stream (fact 93).
    pub(super) fn check_link(&self, link: &LinkToken, kept: usize) -> Result<(), u32> {
        let is_logged = link.from.or(link.to).unwrap_or(0) >= self.min_version;
        let highest = self.streams.get(&link.stream).ok_or(link.generation)?.highest;
        let age = highest.saturating_sub(link.generation) as usize;
        if age < kept.max(1) && is_logged { Ok(()) } else { Err(highest) }
    }

    /// Starts the next generation of a stream's links and returns it.
    pub(super) fn next_generation(&mut self, number: u32) -> u32 {
        self.streams.get_mut(&number).map_or(0, |stream| {
            stream.highest += 1;
            stream.highest
        })
    }

    /// Makes every link issued so far dead.
    pub(super) fn kill_streams(&mut self) {
        self.streams.clear();
    }
}
