//! Builds the items of a delta round and splits them into pages.
//!
//! A round is a function of the calendar's log, the window, two versions and the [`Behaviour`]: a
//! repeated request gets the same round, and changes made meanwhile belong to the next one.

use std::sync::Arc;

use jiff::Timestamp;

use super::behaviour::{Behaviour, MasterOnPage, Resend};
use super::calendar::Calendar;
use super::event::{CalendarContext, CalendarItem, EventForm, ItemPart};
use super::ids::{happens, mix};

/// One item of a round.
#[derive(Clone, Debug)]
pub(super) enum RoundEntry {
    /// A single event, a master, or an instance of a series.
    Present(Arc<CalendarItem>, ItemPart),
    /// A tombstone for the item with that key, or for its instance of that day.
    Removed(u32, i32),
}

/// The items of a round in the order they are sent. The flag says that an entry must be on the
/// same page as the previous one.
#[derive(Debug, Default)]
pub(super) struct DeltaRound {
    pub(super) entries: Vec<(RoundEntry, bool)>,
    /// How many of the first entries are older states of later ones.
    pub(super) stale: usize,
}

/// The identity of a round within its calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RoundExtent {
    pub(super) window: (Timestamp, Timestamp),
    /// `None` for an enumeration.
    pub(super) from: Option<u64>,
    pub(super) to: u64,
}

impl RoundExtent {
    /// A hash of the round's identity, so that random choices repeat for the same round.
    pub(super) fn salt(&self, place: CalendarContext) -> u64 {
        mix(&[
            place.mailbox,
            u64::from(place.calendar),
            self.window.0.as_microsecond() as u64,
            self.window.1.as_microsecond() as u64,
            self.from.map_or(u64::MAX, |v| v),
            self.to,
        ])
    }
}

/// Collects the items of a round.
struct RoundBuilder<'a> {
    behaviour: &'a Behaviour,
    window: (Timestamp, Timestamp),
    salt: u64,
    blocks: Vec<Vec<RoundEntry>>,
    masters: Vec<RoundEntry>,
    /// Older states of items that follow later in the round: the last state counts (fact 58).
    stale: Vec<RoundEntry>,
}

impl DeltaRound {
    /// Builds the round of `calendar` over `extent`.
    pub(super) fn build(calendar: &Calendar, behaviour: &Behaviour, extent: RoundExtent) -> Self {
        let mut round = RoundBuilder {
            behaviour,
            window: extent.window,
            salt: extent.salt(calendar.place),
            blocks: Vec::new(),
            masters: Vec::new(),
            stale: Vec::new(),
        };
        match extent.from {
            None => round.enumerate(calendar, extent.to),
            Some(from) => round.changes(calendar, from, extent.to),
        }
        round.finish()
    }

    /// The entries of the page at `offset`, and the offset of the next page. The page has `size`
    /// items, or more where a series must not be split.
    pub(super) fn page(&self, offset: usize, size: usize) -> (&[(RoundEntry, bool)], usize) {
        let offset = offset.min(self.entries.len());
        let mut end = (offset + size.max(1)).min(self.entries.len());
        while self.entries.get(end).is_some_and(|(_, glued)| *glued) {
            end += 1;
        }
        (&self.entries[offset..end], end)
    }
}

impl RoundBuilder<'_> {
    fn enumerate(&mut self, calendar: &Calendar, to: u64) {
        let items = calendar.at(to);
        for item in items.values() {
            let instances = item.instances(self.window);
            if instances.is_empty() {
                continue;
            }
            if item.series.is_some() {
                self.series(item, instances);
            } else {
                self.blocks.push(vec![RoundEntry::Present(item.clone(), ItemPart::Itself)]);
            }
        }
        if self.behaviour.foreign_tombstones {
            let lately = to.saturating_sub(5);
            for (key, (_, after)) in calendar.changed_between(lately, to) {
                if after.is_none() {
                    self.blocks.push(vec![RoundEntry::Removed(key, 0)]);
                }
            }
        }
    }

    fn changes(&mut self, calendar: &Calendar, from: u64, to: u64) {
        let touched = calendar.changed_between(from, to);
        for (key, (before, after)) in &touched {
            let view = |item: &Option<Arc<CalendarItem>>| {
                item.as_ref().map(|item| item.instances(self.window)).unwrap_or_default()
            };
            let (was, is) = (view(before), view(after));
            let series =
                [before, after].iter().any(|i| i.as_ref().is_some_and(|i| i.series.is_some()));
            match (before, after) {
                _ if was.is_empty() && is.is_empty() => {
                    if self.behaviour.foreign_tombstones {
                        self.blocks.push(vec![RoundEntry::Removed(*key, 0)]);
                    }
                }
                (before, Some(after)) if !series => {
                    if let Some(before) = before
                        && !was.is_empty()
                        && happens(self.behaviour.duplicates, &[self.salt, u64::from(*key), 6])
                    {
                        self.stale.push(RoundEntry::Present(before.clone(), ItemPart::Itself));
                    }
                    self.blocks.push(vec![if is.is_empty() {
                        RoundEntry::Removed(*key, 0)
                    } else {
                        RoundEntry::Present(after.clone(), ItemPart::Itself)
                    }]);
                }
                (_, None) if !series => self.blocks.push(vec![RoundEntry::Removed(*key, 0)]),
                _ => self.changed_series(*key, before.as_ref(), after.as_ref(), &was, is),
            }
        }
        if happens(self.behaviour.duplicates, &[self.salt, 1]) {
            self.add_unchanged(calendar, to, |key| touched.contains_key(&key));
        }
    }

    /// Adds what is sent of a series that had the instances `was` and has the instances `is`.
    fn changed_series(
        &mut self,
        key: u32,
        before: Option<&Arc<CalendarItem>>,
        after: Option<&Arc<CalendarItem>>,
        was: &[ItemPart],
        is: Vec<ItemPart>,
    ) {
        let gone = || {
            was.iter()
                .filter(|part| !is.iter().any(|now| now.day() == part.day()))
                .map(|part| RoundEntry::Removed(key, part.day()))
        };
        let tombstones = self.behaviour.resend == Resend::Tombstones;
        let Some(after) = after.filter(|_| !is.is_empty()) else {
            // The series was deleted or left this view. With `Tombstones` its instances may get
            // tombstones too; for a deleted series the seed decides (fact 65).
            let mut block = vec![RoundEntry::Removed(key, 0)];
            if tombstones
                && (after.is_some() || mix(&[self.salt, u64::from(key)]).is_multiple_of(2))
            {
                block.extend(gone());
            }
            self.blocks.push(block);
            return;
        };
        if self.behaviour.resend == Resend::Whole {
            self.series(after, is);
            return;
        }
        let same = |part: &ItemPart| {
            before.is_some_and(|before| {
                was.contains(part)
                    && before.span_of(*part) == after.span_of(*part)
                    && match part {
                        ItemPart::Exception(day) => {
                            before.exception_change(*day) == after.exception_change(*day)
                        }
                        _ => true,
                    }
            })
        };
        let mut changed: Vec<ItemPart> = is.iter().copied().filter(|part| !same(part)).collect();
        let removed: Vec<RoundEntry> = if tombstones { gone().collect() } else { Vec::new() };
        if changed.is_empty() && removed.is_empty() && self.behaviour.master == MasterOnPage::Absent
        {
            // Without a master, an occurrence has to show that the series changed.
            changed.extend(is.first());
        }
        self.blocks.push(removed);
        self.series(after, changed);
    }

    /// Adds a series: its master where the behaviour places it, and the given instances.
    fn series(&mut self, item: &Arc<CalendarItem>, instances: Vec<ItemPart>) {
        let master = RoundEntry::Present(item.clone(), ItemPart::Itself);
        let mut block: Vec<RoundEntry> =
            instances.into_iter().map(|part| RoundEntry::Present(item.clone(), part)).collect();
        match self.behaviour.master {
            MasterOnPage::Absent => {}
            _ if self.behaviour.split_series => self.masters.push(master),
            MasterOnPage::First => block.insert(0, master),
            MasterOnPage::Last => block.push(master),
        }
        self.blocks.push(block);
    }

    /// Adds an item that did not change.
    fn add_unchanged(&mut self, calendar: &Calendar, to: u64, touched: impl Fn(u32) -> bool) {
        let items = calendar.at(to);
        let Some(last) = items.keys().next_back() else { return };
        let wanted = (mix(&[self.salt, 2]) % (u64::from(*last) + 1)) as u32;
        let found = items.range(wanted..).find(|(key, _)| !touched(**key));
        if let Some((_, item)) = found
            && let Some(part) = item.instances(self.window).first()
        {
            self.blocks.push(vec![RoundEntry::Present(item.clone(), *part)]);
        }
    }

    fn finish(self) -> DeltaRound {
        let Self { behaviour, salt, mut blocks, mut masters, stale, .. } = self;
        if behaviour.split_series {
            blocks = blocks.into_iter().flatten().map(|entry| vec![entry]).collect();
        }
        let mut rng = fastrand::Rng::with_seed(salt);
        if behaviour.shuffle {
            rng.shuffle(&mut blocks);
            rng.shuffle(&mut masters);
        }
        let masters = masters.into_iter().map(|master| vec![master]);
        let blocks: Vec<Vec<RoundEntry>> = match behaviour.master {
            MasterOnPage::Last => blocks.into_iter().chain(masters).collect(),
            _ => masters.chain(blocks).collect(),
        };
        let older = stale.len();
        let entries = stale
            .into_iter()
            .map(|entry| vec![entry])
            .chain(blocks)
            .flat_map(|block| block.into_iter().enumerate().map(|(at, entry)| (entry, at > 0)))
            .collect();
        DeltaRound { entries, stale: older }
    }
}

/// The JSON of one entry under the given behaviour.
pub(super) fn render(
    entry: &RoundEntry,
    place: CalendarContext,
    form: &EventForm,
    behaviour: &Behaviour,
) -> serde_json::Value {
    match entry {
        RoundEntry::Removed(key, day) => place.removed(*key, *day, form),
        RoundEntry::Present(item, part) => {
            let is_bare = match part {
                ItemPart::Itself => false,
                ItemPart::Occurrence(_) => !behaviour.whole_occurrences,
                ItemPart::Exception(_) => behaviour.bare_exceptions,
            };
            if is_bare {
                return place.bare(item, *part, form);
            }
            let mut event = place.whole(item, *part, form);
            event["@odata.type"] = "#microsoft.graph.event".into();
            event
        }
    }
}
