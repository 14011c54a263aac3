//! When calendars are free together.
//!
//! A slot is a maximal interval in which enough calendars are free from its beginning to its end:
//! it lies within the open times, is long enough, and cannot begin earlier or end later. Slots may
//! overlap, because different calendars may be free in each. There is at most one for each time at
//! which a calendar becomes free.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::ControlFlow;

use jiff::{SignedDuration, Timestamp};

use super::availability::ShowAs;
use super::busy_time::BusyTime;
use super::page::Span;

/// Which slots are searched.
#[derive(Clone, Copy, Debug)]
pub struct SlotRule {
    /// The shortest slot; more than nothing.
    pub duration: SignedDuration,
    /// How many calendars have to be free. With 0 there are no slots.
    pub need: usize,
}

/// An interval in which enough calendars are free.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FreeSlot {
    /// From when to when.
    pub span: Span,
    /// The numbers of the calendars that are free during all of it.
    pub free: Vec<usize>,
}

/// Whether an event with this value occupies its time. Unknown values do.
pub fn occupies(show_as: ShowAs, tentative_is_free: bool) -> bool {
    match show_as {
        ShowAs::Free | ShowAs::WorkingElsewhere => false,
        ShowAs::Tentative => !tentative_is_free,
        ShowAs::Busy | ShowAs::Oof | ShowAs::Other => true,
    }
}

/// The times at which a calendar cannot be booked, each widened by `buffer` on both sides: in
/// order, apart from each other. `times` are those that occupy the calendar.
pub fn occupied(times: impl Iterator<Item = BusyTime>, buffer: SignedDuration) -> Vec<Span> {
    let widened = times.filter(|time| time.start < time.end).map(|time| Span {
        start: time.start.checked_sub(buffer).unwrap_or(Timestamp::MIN),
        end: time.end.checked_add(buffer).unwrap_or(Timestamp::MAX),
    });
    let mut spans: Vec<Span> = widened.collect();
    spans.sort_unstable_by_key(|span| span.start);
    spans.dedup_by(|next, before| {
        let touches = next.start <= before.end;
        if touches {
            before.end = before.end.max(next.end);
        }
        touches
    });
    spans
}

/// A time in which one calendar is free.
struct Gap {
    span: Span,
    calendar: usize,
}

/// Calls `found` with each slot in order of their beginnings, until it breaks. `calendars` are the
/// occupied times of each calendar, `open` the times at which slots may be; both in order and apart
/// from each other.
pub fn find<B>(
    calendars: &[Vec<Span>],
    open: &[Span],
    rule: SlotRule,
    mut found: impl FnMut(FreeSlot) -> ControlFlow<B>,
) -> ControlFlow<B> {
    if rule.need == 0 || rule.need > calendars.len() {
        return ControlFlow::Continue(());
    }
    for open in open {
        let mut gaps = Vec::new();
        for (calendar, occupied) in calendars.iter().enumerate() {
            let long = |span: &Span| span.end.duration_since(span.start) >= rule.duration;
            gaps.extend(gaps_of(occupied, *open).filter(long).map(|span| Gap { span, calendar }));
        }
        gaps.sort_unstable_by_key(|gap| gap.span.start);
        slots_of(&gaps, calendars.len(), rule, &mut found)?;
    }
    ControlFlow::Continue(())
}

/// What is left of `open` between the occupied times.
fn gaps_of(occupied: &[Span], open: Span) -> impl Iterator<Item = Span> {
    let first = occupied.partition_point(|span| span.end <= open.start);
    let within = occupied.get(first..).unwrap_or_default();
    let within = within.iter().take_while(move |span| span.start < open.end);
    let ends = within.clone().map(|span| span.start).chain([open.end]);
    let starts = [open.start].into_iter().chain(within.map(|span| span.end));
    starts.zip(ends).filter(|(start, end)| start < end).map(|(start, end)| Span { start, end })
}

/// The slots of gaps in order of their beginnings.
fn slots_of<B>(
    gaps: &[Gap],
    calendars: usize,
    rule: SlotRule,
    found: &mut impl FnMut(FreeSlot) -> ControlFlow<B>,
) -> ControlFlow<B> {
    // The latest ends of the gaps so far, as many as are needed. Gaps that are over do not matter:
    // their ends are too early for any further slot.
    let mut ends: BinaryHeap<Reverse<Timestamp>> = BinaryHeap::new();
    // When each calendar's latest gap ends.
    let mut free_until = vec![Timestamp::MIN; calendars];
    let mut last_end = Timestamp::MIN;
    for begun in gaps.chunk_by(|a, b| a.span.start == b.span.start) {
        for gap in begun {
            ends.push(Reverse(gap.span.end));
            if ends.len() > rule.need {
                ends.pop();
            }
            if let Some(until) = free_until.get_mut(gap.calendar) {
                *until = gap.span.end;
            }
        }
        let start = begun.first().map_or(Timestamp::MAX, |gap| gap.span.start);
        let Some(Reverse(end)) = ends.peek().filter(|_| ends.len() == rule.need) else { continue };
        // A slot that ends with an earlier one is a part of it.
        if end.duration_since(start) < rule.duration || *end <= last_end {
            continue;
        }
        last_end = *end;
        let free = free_until.iter().enumerate().filter(|(_, until)| *until >= end);
        let free = free.map(|(calendar, _)| calendar).collect();
        found(FreeSlot { span: Span { start, end: *end }, free })?;
    }
    ControlFlow::Continue(())
}

#[cfg(test)]
mod tests {
    use jiff::ToSpan as _;
    use proptest::prelude::*;

    use super::*;

    fn minute(minute: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + minute.minutes()
    }

    fn spans(minutes: &[(i64, i64)]) -> Vec<Span> {
        minutes.iter().map(|(a, b)| Span { start: minute(*a), end: minute(*b) }).collect()
    }

    /// The slots as (start, end, calendars) in minutes.
    fn slots(
        calendars: &[Vec<Span>],
        open: &[Span],
        minutes: i64,
        need: usize,
    ) -> Vec<(i64, i64, Vec<usize>)> {
        let mut all = Vec::new();
        let rule = SlotRule { duration: SignedDuration::from_mins(minutes), need };
        let collected = find::<()>(calendars, open, rule, |FreeSlot { span, free }| {
            let minutes = |at: Timestamp| at.as_second() / 60;
            all.push((minutes(span.start), minutes(span.end), free));
            ControlFlow::Continue(())
        });
        assert!(collected.is_continue());
        all
    }

    #[test]
    fn a_slot_is_as_long_as_enough_calendars_are_free() {
        let calendars =
            [spans(&[(0, 60), (120, 180)]), spans(&[(60, 90)]), spans(&[(30, 60), (200, 210)])];
        let open = spans(&[(0, 240)]);
        let all = |need| slots(&calendars, &open, 30, need);
        assert_eq!(all(3), [(90, 120, vec![0, 1, 2]), (210, 240, vec![0, 1, 2])]);
        let two = [(0, 30, [1, 2]), (60, 120, [0, 2]), (90, 200, [1, 2]), (180, 240, [0, 1])];
        assert_eq!(all(2), two.map(|(start, end, free)| (start, end, free.to_vec())));
        assert_eq!(all(1), [(0, 60, vec![1]), (60, 200, vec![2]), (90, 240, vec![1])]);
        assert_eq!((all(0), all(4)), (vec![], vec![]));
        assert_eq!(slots(&calendars, &open, 31, 3), []);
        let split = spans(&[(0, 70), (80, 240)]);
        assert_eq!(
            slots(&calendars, &split, 30, 1),
            [(0, 60, vec![1]), (80, 200, vec![2]), (90, 240, vec![1])]
        );
        assert_eq!(slots(&[vec![]], &split, 60, 1), [(0, 70, vec![0]), (80, 240, vec![0])]);
    }

    #[test]
    fn a_search_ends_when_it_is_told_to() {
        let rule = SlotRule { duration: SignedDuration::from_mins(1), need: 1 };
        let mut count = 0;
        let ended = find(&[vec![]], &spans(&[(0, 9), (10, 19)]), rule, |_| {
            count += 1;
            ControlFlow::Break("enough")
        });
        assert_eq!((ended, count), (ControlFlow::Break("enough"), 1));
    }

    #[test]
    fn what_occupies_is_widened_and_merged() {
        use ShowAs::{Busy, Free, Oof, Other, Tentative, WorkingElsewhere};
        let time = |a, b| BusyTime { start: minute(a), end: minute(b), show_as: Busy };
        let times = [time(60, 90), time(10, 20), time(100, 110), time(40, 40), time(62, 70)];
        let occupied = |buffer| occupied(times.into_iter(), SignedDuration::from_mins(buffer));
        assert_eq!(occupied(0), spans(&[(10, 20), (60, 90), (100, 110)]));
        assert_eq!(occupied(5), spans(&[(5, 25), (55, 115)]));
        for show_as in [Busy, Oof, Other] {
            assert!(occupies(show_as, false) && occupies(show_as, true));
        }
        for show_as in [Free, WorkingElsewhere] {
            assert!(!occupies(show_as, false) && !occupies(show_as, true));
        }
        assert!(occupies(Tentative, false) && !occupies(Tentative, true));
    }

    /// Of all minutes, the maximal intervals in which enough calendars are free.
    fn brute_force(
        calendars: &[Vec<Span>],
        open: &[Span],
        minutes: i64,
        need: usize,
    ) -> Vec<(i64, i64, Vec<usize>)> {
        let is_in = |spans: &[Span], at: i64| {
            spans.iter().any(|span| span.start <= minute(at) && minute(at) < span.end)
        };
        let free = |from: i64, to: i64| -> Vec<usize> {
            let is_free = |calendar: &usize| (from..to).all(|at| !is_in(&calendars[*calendar], at));
            let is_open = (from..to).all(|at| is_in(open, at));
            (0..calendars.len()).filter(|calendar| is_open && is_free(calendar)).collect()
        };
        let mut all: Vec<(i64, i64, Vec<usize>)> = Vec::new();
        for start in 0..60 {
            let ends = (start + minutes..=60).rev();
            let Some(end) = ends.into_iter().find(|end| free(start, *end).len() >= need) else {
                continue;
            };
            if all.iter().all(|(_, earlier, _)| *earlier < end) {
                all.push((start, end, free(start, end)));
            }
        }
        all
    }

    fn any_spans() -> impl Strategy<Value = Vec<Span>> {
        prop::collection::vec((0..55i64, 1..15i64), 0..5).prop_map(|all| {
            let time = |(start, length): (i64, i64)| BusyTime {
                start: minute(start),
                end: minute((start + length).min(60)),
                show_as: ShowAs::Busy,
            };
            occupied(all.into_iter().map(time), SignedDuration::ZERO)
        })
    }

    proptest! {
        #[test]
        fn slots_are_those_of_a_brute_force_over_minutes(
            calendars in prop::collection::vec(any_spans(), 1..6), closed in any_spans(),
            minutes in 1..20i64, need in 1..6usize,
        ) {
            let day = Span { start: minute(0), end: minute(60) };
            let open: Vec<Span> = gaps_of(&closed, day).collect();
            let expected = brute_force(&calendars, &open, minutes, need);
            prop_assert_eq!(slots(&calendars, &open, minutes, need), expected);
        }
    }
}
