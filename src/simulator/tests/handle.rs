//! Tests the handle: statistics, limits, the control plane, the replay of random changes by name,
//! and generated organisations.

use serde_json::json;

use super::*;

#[tokio::test(start_paused = true)]
async fn statistics_count_the_requests_of_clients() {
    let simulator = small(1, Behaviour { max_concurrent_per_mailbox: 2, ..Behaviour::calm() });
    simulator.set_latency(Duration::from_millis(50)..Duration::from_millis(50));
    let url = window_url(ALICE);
    let asks = (0..3).map(|_| get(&simulator, &url, "odata.maxpagesize=5"));
    let answers = futures_util::future::join_all(asks).await;
    let statuses: Vec<u16> = answers.iter().map(|(status, _)| *status).collect();
    assert_eq!(statuses, [200, 200, 429]);
    assert_eq!(code(&answers[2].1), "ApplicationThrottled");
    get(&simulator, &url, "").await;
    tokio::time::advance(Duration::from_secs(2)).await;
    let (_, page) = get(&simulator, &url, "odata.maxpagesize=5").await;
    let next = page["@odata.nextLink"].as_str().unwrap();
    get(&simulator, next, "").await;
    get(&simulator, next, "").await;

    let statistics = simulator.statistics();
    let tally = &statistics.mailboxes[ALICE];
    assert_eq!(tally.requests, 7);
    assert_eq!(tally.max_concurrent, 3);
    assert_eq!(tally.during_pause, 1, "one request came before Retry-After had passed");
    assert_eq!(tally.enumerations, 4);
    assert_eq!(tally.links_used_again, 1);
    assert_eq!(tally.max_in_10_minutes, 7);
    assert_eq!(tally.statuses, BTreeMap::from([(200, 6), (429, 1)]));
    assert!(tally.bytes_raw > 1000 && tally.bytes_raw == tally.bytes_sent);
    assert_eq!(statistics.prefer, ["", "odata.maxpagesize=5"].map(str::to_owned).into());
    assert_eq!(statistics.total.requests, 7);
    simulator.reset_statistics();
    assert_eq!(simulator.statistics(), Statistics::default());
}

#[tokio::test(start_paused = true)]
async fn more_requests_than_allowed_in_ten_minutes_are_throttled() {
    let simulator = small(1, Behaviour { max_requests_per_mailbox: 5, ..Behaviour::calm() });
    for _ in 0..5 {
        assert_eq!(get(&simulator, &window_url(ALICE), "").await.0, 200);
    }
    assert_eq!(get(&simulator, &window_url(ALICE), "").await.0, 429);
    tokio::time::advance(Duration::from_secs(601)).await;
    assert_eq!(get(&simulator, &window_url(ALICE), "").await.0, 200);
}

#[tokio::test(start_paused = true)]
async fn the_control_plane_does_what_the_handle_does() {
    let simulator = simulator(1, Behaviour::calm());
    let control = async |method: &str, path: &str, body: Value| {
        let request = http::Request::builder()
            .method(method)
            .uri(format!("http://localhost/control/{path}"))
            .body(Bytes::from(if body.is_null() { String::new() } else { body.to_string() }))
            .unwrap();
        let SimulatedResponse::Response(response) = simulator.answer(request).await else {
            panic!("none")
        };
        let body: Value = serde_json::from_slice(response.body()).unwrap();
        (response.status().as_u16(), body)
    };
    let (status, _) = control("POST", "mailboxes", json!({"address": ALICE})).await;
    assert_eq!(status, 200);
    let plan = json!({"mailbox": ALICE, "singles": 3, "series": 1, "all_day": 0,
        "body_bytes": 100, "around": START, "spread_days": 10});
    assert_eq!(control("POST", "populate", plan).await.0, 200);
    let (_, steps) = control("POST", "step?count=3", Value::Null).await;
    assert_eq!(steps.as_array().unwrap().len(), 3);
    let mutation = json!({"mailbox": ALICE, "edit": "create_single", "subject": "Hi",
        "start": START, "minutes": 30});
    let (status, made) = control("POST", "mutate", mutation).await;
    assert_eq!(status, 200, "{made}");
    let path = format!("truth?mailbox={ALICE}&start={START}&end={END}");
    let (_, truth) = control("GET", &path, Value::Null).await;
    let events = truth["value"].as_array().unwrap();
    assert!(events.iter().any(|event| event["id"] == made["id"]));
    let fault = json!({"fault": "throttled", "retry_after": "2", "mailbox": ALICE, "times": 1});
    assert_eq!(control("POST", "faults", fault).await.0, 200);
    assert_eq!(get(&simulator, &window_url(ALICE), "").await.0, 429);
    assert_eq!(control("PUT", "behaviour", json!({"name": "nasty"})).await.0, 200);
    assert_eq!(control("PUT", "behaviour", json!({"name": "nice"})).await.0, 404);
    assert_eq!(control("GET", "behaviour", Value::Null).await.1["master"], "absent");
    let (_, statistics) = control("GET", "statistics", Value::Null).await;
    assert_eq!(statistics["total"]["requests"], 1);
    assert_eq!(control("POST", "faults", json!({"fault": "none"})).await.0, 400);
    assert_eq!(control("GET", "nothing", Value::Null).await.0, 404);
}

#[test]
fn random_mutations_can_be_repeated_by_name() {
    let (one, other) = (small(5, Behaviour::calm()), small(5, Behaviour::calm()));
    let view = |simulator: &Simulator| {
        simulator
            .truth(ALICE, None, at(START), at(END))
            .into_iter()
            .map(|event| (event["id"].clone(), event["start"].clone(), event["type"].clone()))
            .collect::<Vec<_>>()
    };
    for _ in 0..100 {
        let mutation = one.mutate_randomly().unwrap();
        let written = serde_json::to_string(&mutation).unwrap();
        other.mutate(serde_json::from_str(&written).unwrap()).unwrap();
        assert_eq!(view(&one), view(&other), "{mutation:?}");
    }
}

#[test]
fn an_organisation_has_realistic_and_distinct_mailboxes() {
    let simulator = simulator(1, Behaviour::calm());
    let mailboxes = simulator.organisation(60, 20, at(START));
    let distinct: BTreeSet<_> = mailboxes.iter().collect();
    assert_eq!(distinct.len(), 80);
    for mailbox in &mailboxes {
        assert!(mailbox.is_ascii(), "{mailbox}");
        assert!(simulator.truth(mailbox, None, at(START), at(END)).len() > 5, "{mailbox}");
    }
}
