//! The mailboxes and tracked windows of a seed: few, but of every kind.

use std::time::Duration;

use calmirror::env::Env;
use calmirror::mirror::window::{
    BodyFormat, CalendarRef, Completion, Edge, Window, WindowSettings,
};
use calmirror::simulator::{Behaviour, Population, Simulator, SimulatorSettings};
use jiff::SignedDuration;

use crate::rig::{BASE, noon, window_settings, window_with};

/// A tracked window and its calendar; `None` is the default calendar.
pub(crate) struct Tracked {
    pub(crate) window: Window,
    pub(crate) calendar: Option<String>,
}

/// Mailboxes, calendars, and one or two windows on each of them.
pub(crate) fn organisation(
    seed: u64,
    rng: &mut fastrand::Rng,
    env: &Env,
) -> (Simulator, Vec<Tracked>) {
    let settings = SimulatorSettings {
        behaviour: Behaviour::by_seed(seed),
        latency: Duration::from_millis(1)..Duration::from_millis(900),
        ..SimulatorSettings::new(seed, env.clone())
    };
    let simulator = Simulator::new(settings);
    simulator.set_base_url(BASE);
    let mut tracked = Vec::new();
    for person in &["alice@contoso.com", "bob@contoso.com"][..rng.usize(1..3)] {
        simulator.add_mailbox(person);
        let mut calendars = vec![(None, "default")];
        if rng.bool() {
            let side = simulator.add_calendar(person, "Side");
            simulator.set_shared(person, &side, rng.bool());
            calendars.push((Some(side), "side"));
        }
        for (calendar, name) in calendars {
            let plan = Population {
                singles: rng.usize(0..30),
                series: rng.usize(0..6),
                all_day: rng.usize(0..5),
                body_bytes: 60,
                around: noon(),
                spread_days: 90,
            };
            simulator.populate(person, calendar.as_deref(), plan);
            for number in 0..rng.usize(1..3) {
                let window = any_window(person, calendar.as_deref(), rng);
                let name = format!("{person}:{name}:{number}").into();
                tracked.push(Tracked {
                    window: Window { name, ..window },
                    calendar: calendar.clone(),
                });
            }
        }
    }
    (simulator, tracked)
}

fn any_window(person: &str, calendar: Option<&str>, rng: &mut fastrand::Rng) -> Window {
    let days = |days: i64| SignedDuration::from_hours(24 * days);
    let ordinary = window_settings();
    let (start, end) = match rng.u8(0..8) {
        // Edges that move with the days.
        0 | 1 => {
            let relative = |days| Edge::Relative { years: 0, months: 0, days };
            (relative(-rng.i32(5..40)), relative(rng.i32(20..100)))
        }
        // Longer than Graph's limit, with a segment boundary near today.
        2 => {
            let seam = noon() + days(rng.i64(-20..20));
            (Edge::At(seam - days(1825)), Edge::At(seam + days(rng.i64(40..100))))
        }
        _ => (ordinary.start, ordinary.end),
    };
    let settings = WindowSettings {
        start,
        end,
        move_every: Duration::from_secs(86_400 * rng.u64(1..8)),
        page_size: rng.u32(3..60),
        complete: if rng.u8(0..4) == 0 { Completion::Exact } else { Completion::Master },
        body: [BodyFormat::Html, BodyFormat::Html, BodyFormat::Text, BodyFormat::None]
            [rng.usize(0..4)],
        time_zone: ["UTC", "UTC", "Tokyo Standard Time", "Europe/Berlin"][rng.usize(0..4)].into(),
        immutable_ids: rng.u8(0..4) == 0,
        interval: Duration::from_secs(rng.u64(20..300)),
        confirm_after: Duration::from_secs(120),
        audit: rng.bool().then(|| Duration::from_secs(3600 * rng.u64(1..12))),
        ..ordinary
    };
    let calendar = calendar.map_or(CalendarRef::Default, |id| CalendarRef::Id(id.into()));
    Window { calendar, ..window_with(person, settings) }
}
