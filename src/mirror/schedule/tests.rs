//! Due times, from given times and random numbers.

use super::*;

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn delays_stay_within_half_the_jitter_on_both_sides() {
    assert_eq!(delay(MINUTE, 0.2, 0.0), Duration::from_secs(54));
    assert_eq!(delay(MINUTE, 0.2, 0.5), MINUTE);
    assert!(delay(MINUTE, 0.2, 0.999_999) < Duration::from_secs(66));
    assert_eq!(delay(MINUTE, 0.0, 0.7), MINUTE);
}

#[test]
fn a_changed_interval_keeps_the_share_that_is_left() {
    let hour = MINUTE * 60;
    assert_eq!(rescale(MINUTE * 30, hour, MINUTE), MINUTE / 2);
    assert_eq!(rescale(MINUTE / 2, MINUTE, hour), MINUTE * 30);
    assert_eq!(rescale(MINUTE, MINUTE, MINUTE), MINUTE);
    assert_eq!(rescale(Duration::ZERO, MINUTE, hour), Duration::ZERO);
    for new in [MINUTE / 2, hour * 24] {
        assert_eq!(rescale(hour, MINUTE, new), hour, "a back-off stays");
    }
    assert_eq!(rescale(hour, Duration::ZERO, hour), hour);
}

#[test]
fn backoff_doubles_up_to_its_ceiling() {
    let at = |failures| backoff(MINUTE, MAX_BACKOFF, failures, 0.5);
    assert_eq!([at(1), at(2), at(3)], [MINUTE, MINUTE * 2, MINUTE * 4]);
    assert_eq!(at(50), MAX_BACKOFF);
    assert_eq!(at(u32::MAX), MAX_BACKOFF);
}

#[test]
fn waits_end_at_multiples_of_ten_milliseconds() {
    let ms = Duration::from_millis;
    for (now, wait, expected) in [
        ("2026-11-02T12:00:00Z", ms(60_000), ms(60_000)),
        ("2026-11-02T12:00:00Z", ms(60_001), ms(60_010)),
        ("2026-11-02T12:00:00.004Z", ms(60_000), ms(60_006)),
        ("2026-11-02T12:00:00.004Z", ms(6), ms(6)),
        ("2026-11-02T12:00:00.004Z", Duration::ZERO, Duration::ZERO),
        ("1969-11-02T12:00:00.004Z", ms(1), ms(6)),
    ] {
        assert_eq!(to_grid(wait, now.parse().unwrap()), expected, "{now} {wait:?}");
    }
}

fn window(name: &str, move_every: Duration) -> Window {
    let days = |days| Edge::Relative { years: 0, months: 0, days };
    let mut window = crate::tests::window(name);
    let WindowSettings { start, end, .. } = window.settings_mut();
    (*start, *end) = (days(-30), days(365));
    window.settings_mut().move_every = move_every;
    window
}

#[test]
fn edges_move_at_their_own_hour_and_always_cover_the_configured_range() {
    let begun: Timestamp = "2026-11-02T12:00:00Z".parse().unwrap();
    for hours in [1, 24, 36, 48, 7 * 24] {
        let every = Duration::from_secs(hours * 3600);
        let mut at = std::collections::BTreeSet::new();
        for name in ["alice", "bob", "carol", "dave"] {
            let window = window(name, every);
            let mut computed = begun;
            for n in 0..20 {
                let due = next_move(&window, computed).unwrap();
                assert!(due > computed, "{name}, {hours} h");
                let asked = edges(&window, computed);
                // The range is covered until the last instant before the move.
                let before = due.checked_sub(SignedDuration::from_secs(1)).unwrap();
                assert!(asked.end >= window.settings.end.resolve(before), "{name}, {hours} h");
                assert_ne!(edges(&window, due), asked, "{name}, {hours} h: it does move");
                if n > 0 && hours >= 24 {
                    let days = due.duration_since(computed).as_secs_f64() / 86_400.0;
                    let whole = (hours / 24) as f64;
                    assert!((whole - days).abs() < 1e-3, "{name}, {hours} h: {days} days");
                }
                at.insert(due.to_zoned_datetime(TimeZone::UTC).time());
                computed = due;
            }
        }
        assert!(at.len() >= 4, "{hours} h: four windows, four times of day");
    }
}

#[test]
fn edges_computed_under_a_wrong_clock_move_back() {
    let window = window("alice", Duration::from_secs(7 * 86_400));
    let now: Timestamp = "2026-11-02T12:00:00Z".parse().unwrap();
    let day = SignedDuration::from_hours(24);
    let right = edges(&window, now);
    assert_eq!(due_move(&window, right, now, now), None);
    for days in [1, 8, 3650] {
        let wrong = now.checked_add(day * days).unwrap();
        let ahead = edges(&window, wrong);
        assert_eq!(due_move(&window, ahead, wrong, now), Some(right), "{days} days ahead");
        // The recorded time of computation does not matter.
        assert_eq!(due_move(&window, ahead, now, now), Some(right), "{days} days ahead");
    }
    // Edges computed a year in the past move forward as usual.
    let wrong = now.checked_sub(day * 365).unwrap();
    assert_eq!(due_move(&window, edges(&window, wrong), wrong, now), Some(right));
    // Only the end is relative.
    let mut fixed = window.clone();
    fixed.settings_mut().start = Edge::At(now);
    let wrong = now.checked_add(day * 3650).unwrap();
    let ahead = edges(&fixed, wrong);
    assert_eq!(due_move(&fixed, ahead, wrong, now), Some(edges(&fixed, now)));
    // An empty window starts at its fixed end and does not move.
    let mut empty = window;
    empty.settings_mut().end = Edge::At("2026-10-01T00:00:00Z".parse().unwrap());
    assert_eq!(due_move(&empty, edges(&empty, now), now, now), None);
}

#[test]
fn a_clock_set_back_by_minutes_at_midnight_moves_no_edges() {
    let window = window("alice", Duration::from_secs(7 * 86_400));
    let computed: Timestamp = "2026-11-02T00:00:01Z".parse().unwrap();
    let now = computed.checked_sub(SignedDuration::from_mins(9)).unwrap();
    assert_eq!(due_move(&window, edges(&window, computed), computed, now), None);
}

#[test]
fn an_audit_recorded_under_a_wrong_clock_is_due() {
    let now: Timestamp = "2026-11-02T12:00:00Z".parse().unwrap();
    let ahead = now.checked_add(SignedDuration::from_hours(24 * 3650)).unwrap();
    let week = Duration::from_secs(7 * 86_400);
    let due = |since, at| {
        let record = AuditRecord { since, at, differences: 0 };
        is_audit_due("alice", &record, week, now)
    };
    assert!(!due(now, None) && !due(now, Some(now)));
    assert!(due(ahead, None) && due(now, Some(ahead)));
}

#[test]
fn distant_segments_are_polled_less_often() {
    let at = |year: i16| format!("{year}-01-01T00:00:00Z").parse::<Timestamp>().unwrap();
    let segments = Edges { start: at(2020), end: at(2099) }.segments();
    let every = |interval, index| segment_interval(interval, &segments, index, at(2027));
    let minutes: Vec<u64> =
        (0..segments.len()).map(|index| every(MINUTE, index).as_secs() / 60).collect();
    assert_eq!(minutes[..9], [2, 1, 2, 4, 8, 16, 32, 60, 60]);
    // No segment is polled more often than the window's interval.
    assert_eq!(every(MINUTE * 120, 9), MINUTE * 120);
    let past = |now| segment_interval(MINUTE, &segments, segments.len() - 1, now);
    assert_eq!(past(at(2150)), MINUTE, "the last segment is the nearest");
}

#[test]
fn audits_run_once_per_period_spread_over_half_of_it() {
    let since: Timestamp = "2026-11-02T12:00:00Z".parse().unwrap();
    let week = Duration::from_secs(7 * 86_400);
    let days = |from: Timestamp, to: Timestamp| to.duration_since(from).as_secs_f64() / 86_400.0;
    let mut firsts = Vec::new();
    for n in 0..100 {
        let name = format!("room{n}");
        let mut record = AuditRecord { since, at: None, differences: 0 };
        let first = next_audit(&name, &record, week);
        assert!((3.5..7.0).contains(&days(since, first)));
        firsts.push(first);
        for _ in 0..5 {
            let last = next_audit(&name, &record, week);
            record.at = Some(last);
            let wait = days(last, next_audit(&name, &record, week));
            assert!((6.3..7.7).contains(&wait), "{wait} days");
        }
    }
    firsts.sort();
    let apart = firsts.windows(2).map(|pair| days(pair[0], pair[1]));
    assert!(apart.fold(0.0, f64::max) < 0.4, "spread evenly");
}

#[test]
fn retries_use_full_jitter() {
    assert_eq!(retry_delay(0, 0.0), Duration::ZERO);
    assert_eq!(retry_delay(3, 0.5), Duration::from_secs(4));
    assert!(retry_delay(u32::MAX, 0.999) < Duration::from_secs(1024));
}
