//! Busy time of windows that take more than one look.

use super::*;

fn event(id: &str, hour: i64) -> Value {
    let moment = |hour: i64| {
        let at = at("2026-01-01T00:00:00Z") + jiff::SignedDuration::from_hours(hour);
        json!({"dateTime": at.strftime("%Y-%m-%dT%H:%M:%S").to_string(), "timeZone": "UTC"})
    };
    json!({"id": id, "showAs": "busy", "start": moment(hour), "end": moment(hour + 1)})
}

#[tokio::test(start_paused = true)]
async fn an_event_that_moves_while_it_is_read_is_in_it_once() {
    const EVENTS: i64 = 4300;
    let fixture = Fixture::new().await;
    let alice = fixture.id("alice");
    // An hour each, with an hour between them, and one that goes to and fro between both ends.
    let mut events: Vec<Value> = (1..=EVENTS).map(|n| event(&format!("e{n}"), n * 2)).collect();
    events.push(event("moving", 0));
    fixture.put(alice, &events).await;
    let reading = async {
        for _ in 0..12 {
            let busy = fixture.get("/v1/windows/alice/busy").await;
            assert_eq!(busy["value"].as_array().unwrap().len() as i64, EVENTS + 1);
        }
    };
    let moving = async {
        for turn in 1.. {
            fixture.put(alice, &[event("moving", (turn % 2) * (EVENTS + 1) * 2)]).await;
        }
    };
    tokio::select! {
        () = reading => {}
        () = moving => {}
    }
}
