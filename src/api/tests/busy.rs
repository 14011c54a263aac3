//! Busy time of windows that take more than one slice to read.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::*;

fn event(id: &str, hour: i64) -> Value {
    let moment = |hour: i64| {
        let at = at("2026-01-01T00:00:00Z") + jiff::SignedDuration::from_hours(hour);
        json!({"dateTime": at.strftime("%Y-%m-%dT%H:%M:%S").to_string(), "timeZone": "UTC"})
    };
    json!({"id": id, "showAs": "busy", "start": moment(hour), "end": moment(hour + 1)})
}

// Two threads: in simulated time no other task runs while one of them reads.
#[test]
fn an_event_that_moves_during_the_read_is_counted_once() {
    const EVENTS: i64 = 4300;
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let reading = runtime();
    let fixture = reading.block_on(Fixture::new());
    let alice = fixture.id("alice");
    // Events of an hour with an hour between them, and one that moves back and forth between both
    // ends.
    let mut events: Vec<Value> = (1..=EVENTS).map(|n| event(&format!("e{n}"), n * 2)).collect();
    events.push(event("moving", 0));
    reading.block_on(fixture.put(alice, &events));
    let over = AtomicBool::new(false);
    let counts: Vec<usize> = thread::scope(|scope| {
        scope.spawn(|| {
            let moving = runtime();
            for turn in (1..).take_while(|_| !over.load(Ordering::Relaxed)) {
                let there = event("moving", (turn % 2) * (EVENTS + 1) * 2);
                moving.block_on(fixture.put(alice, &[there]));
                // An event that changes with every commit keeps moving in the feed.
                for n in 1..=3 {
                    let mut renamed = event(&format!("e{n}"), n * 2);
                    renamed["subject"] = json!(turn);
                    moving.block_on(fixture.put(alice, &[renamed]));
                }
            }
        });
        let count = |busy: (StatusCode, HeaderMap, String)| busy.2.matches("showAs").count();
        let all =
            (0..12).map(|_| count(reading.block_on(fixture.ask("GET", "/v1/windows/alice/busy"))));
        let all = all.collect();
        over.store(true, Ordering::Relaxed);
        all
    });
    assert_eq!(counts, [EVENTS as usize + 1; 12]);
}
