//! Busy times, and how those of a window are merged for booking screens.
//!
//! At every instant the strongest state counts: `oof`, then `busy`, `tentative`,
//! `workingElsewhere`. Time outside the intervals is free. An unknown state counts as busy, to
//! prevent double booking.

use jiff::Timestamp;

use super::availability::ShowAs;

/// The states that are shown, weakest first.
const STATES: [ShowAs; 4] =
    [ShowAs::WorkingElsewhere, ShowAs::Tentative, ShowAs::Busy, ShowAs::Oof];

/// The time of an event that is not cancelled, `[start, end)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BusyTime {
    /// Inclusive.
    pub start: Timestamp,
    /// Exclusive.
    pub end: Timestamp,
    /// How the time is taken.
    pub show_as: ShowAs,
}

/// Merges times into intervals that do not overlap, in order, cut at `from` and `to`. Free times
/// and times without length are left out.
pub fn merge(times: &[BusyTime], from: Timestamp, to: Timestamp) -> Vec<BusyTime> {
    // When a state begins (1) or ends (-1).
    let mut edges: Vec<(Timestamp, usize, i32)> = Vec::with_capacity(2 * times.len());
    for time in times {
        let Some(state) = state(time.show_as) else { continue };
        let (start, end) = (time.start.max(from), time.end.min(to));
        if start < end {
            edges.extend([(start, state, 1), (end, state, -1)]);
        }
    }
    edges.sort_unstable();
    let mut merged: Vec<BusyTime> = Vec::new();
    let mut open = [0; STATES.len()];
    let mut since: Option<(Timestamp, ShowAs)> = None;
    for edges in edges.chunk_by(|a, b| a.0 == b.0) {
        let Some((at, ..)) = edges.first() else { continue };
        for (_, state, step) in edges {
            if let Some(count) = open.get_mut(*state) {
                *count += step;
            }
        }
        let strongest = STATES.iter().zip(open).rev().find(|(_, count)| *count > 0);
        let now = strongest.map(|(state, _)| *state);
        if since.map(|(_, state)| state) == now {
            continue;
        }
        if let Some((start, show_as)) = since {
            merged.push(BusyTime { start, end: *at, show_as });
        }
        since = now.map(|state| (*at, state));
    }
    merged
}

/// The index in [`STATES`] that a value counts as; `None` for free.
fn state(show_as: ShowAs) -> Option<usize> {
    let shown = match show_as {
        ShowAs::Free => return None,
        ShowAs::Other => ShowAs::Busy,
        known => known,
    };
    STATES.iter().position(|state| *state == shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(events: &[(&str, &str, ShowAs)]) -> Vec<String> {
        let at = |hour: &str| format!("2026-11-21T{hour}:00Z").parse::<Timestamp>().unwrap();
        let time = |&(start, end, show_as): &(&str, &str, ShowAs)| BusyTime {
            start: at(start),
            end: at(end),
            show_as,
        };
        let times: Vec<BusyTime> = events.iter().map(time).collect();
        let clock = |at: Timestamp| at.strftime("%H:%M").to_string();
        let text = |i: BusyTime| format!("{}-{} {:?}", clock(i.start), clock(i.end), i.show_as);
        merge(&times, at("08:00"), at("20:00")).into_iter().map(text).collect()
    }

    #[test]
    fn the_busiest_state_wins_at_every_instant() {
        use ShowAs::{Busy, Free, Oof, Other, Tentative, WorkingElsewhere};
        for (events, expected) in [
            (&[("09:00", "10:00", Busy), ("10:00", "11:00", Busy)][..], &["09:00-11:00 Busy"][..]),
            (
                &[("09:00", "12:00", Tentative), ("10:00", "11:00", Busy)],
                &["09:00-10:00 Tentative", "10:00-11:00 Busy", "11:00-12:00 Tentative"],
            ),
            (
                &[
                    ("09:00", "12:00", Oof),
                    ("10:00", "13:00", Busy),
                    ("08:30", "14:00", WorkingElsewhere),
                ],
                &[
                    "08:30-09:00 WorkingElsewhere",
                    "09:00-12:00 Oof",
                    "12:00-13:00 Busy",
                    "13:00-14:00 WorkingElsewhere",
                ],
            ),
            (&[("09:00", "10:00", Free)], &[]),
            (&[("09:00", "10:00", Other)], &["09:00-10:00 Busy"]),
            (
                &[("06:00", "09:00", Busy), ("19:00", "23:00", Oof)],
                &["08:00-09:00 Busy", "19:00-20:00 Oof"],
            ),
            (&[("06:00", "08:00", Busy), ("20:00", "21:00", Busy), ("09:00", "09:00", Busy)], &[]),
            (&[("09:00", "11:00", Busy), ("09:00", "10:00", Busy)], &["09:00-11:00 Busy"]),
        ] {
            assert_eq!(merged(events), expected, "{events:?}");
        }
    }
}
