//! Tests the guarantees of the protocol, one by one.

use std::io::Read;

use serde_json::json;

use super::*;

fn series(simulator: &Simulator, start: &str, until: Option<&str>) -> String {
    edit(
        simulator,
        Edit::CreateSeries {
            subject: "Standup".to_owned(),
            start: at(start),
            minutes: 15,
            repeats: Pattern::Daily { every: 1 },
            until: until.map(|date| date.parse().unwrap()),
            all_day: false,
        },
    )
}

/// All bodies of an enumeration and some rounds.
async fn transcript(seed: u64, behaviour: Behaviour) -> Vec<Bytes> {
    let simulator = small(seed, behaviour);
    simulator.set_faults(Faults::by_rate(0.2));
    let (mut bodies, mut url) = (Vec::new(), window_url(ALICE));
    for _ in 0..60 {
        match simulator.answer(request(&simulator.access_token(), &url, "")).await {
            SimulatedResponse::Response(response) if response.status() == 200 => {
                let body: Value = serde_json::from_slice(response.body()).unwrap_or_default();
                for name in ["@odata.nextLink", "@odata.deltaLink"] {
                    if let Some(link) = body[name].as_str()
                        && link.starts_with("https://graph.example/v1.0/")
                    {
                        url = link.to_owned();
                    }
                }
                bodies.push(response.into_body());
            }
            SimulatedResponse::Response(response) => bodies.push(response.into_body()),
            other => bodies.push(format!("{other:?}").into()),
        }
        simulator.mutate_randomly().unwrap();
    }
    bodies
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_and_the_same_calls_give_the_same_bytes() {
    for seed in [1, 2] {
        let behaviour = Behaviour::by_seed(seed);
        let first = transcript(seed, behaviour.clone()).await;
        assert_eq!(first, transcript(seed, behaviour.clone()).await);
        assert_ne!(first, transcript(seed + 100, behaviour).await);
    }
}

#[tokio::test(start_paused = true)]
async fn only_the_newest_generations_of_links_work() {
    let simulator = small(1, Behaviour { kept_tokens: 3, ..Behaviour::calm() });
    let mut client = Client::new(&simulator, 50);
    let mut links = Vec::new();
    for _ in 0..5 {
        client.round().await;
        links.push(client.link.clone());
    }
    for (age, link) in links.iter().enumerate() {
        // A request with a live link starts a generation too, so only the first two are checked.
        let (status, body) = get(&simulator, link, "").await;
        if age < 2 {
            assert_eq!((status, code(&body)), (410, "SyncStateNotFound"));
        }
    }
    let newest = Client::new(&simulator, 50);
    let (status, _) = get(&simulator, &newest.link, "").await;
    assert_eq!(status, 200);
    client.round_fails(410).await;
}

impl Client {
    async fn round_fails(&self, expected: u16) {
        let (status, _) = get(&self.simulator, &self.link, "").await;
        assert_eq!(status, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn killed_links_are_dead_and_a_new_enumeration_works() {
    let simulator = small(1, Behaviour::calm());
    let mut client = Client::new(&simulator, 50);
    client.round().await;
    simulator.kill_tokens(Some("bob@contoso.example"));
    client.round().await;
    simulator.kill_tokens(Some(ALICE));
    client.round_fails(410).await;
    Client::new(&simulator, 50).round().await;
}

#[tokio::test(start_paused = true)]
async fn links_are_bound_to_their_mailbox_and_calendar_and_window() {
    let simulator = small(1, Behaviour::calm());
    let other = simulator.add_calendar(ALICE, "Other");
    let mut client = Client::new(&simulator, 50);
    client.round().await;
    for wrong in [
        client.link.replace(ALICE, "bob@contoso.example"),
        client.link.replace("/calendarView", &format!("/calendars/{}/calendarView", other)),
        client.link[..client.link.len() - 2].to_owned(),
        client.link.replace("R0usmc", "R0usmd"),
    ] {
        let (status, body) = get(&simulator, &wrong, "").await;
        assert_eq!(status, 400, "{wrong}");
        assert_eq!(body["error"]["message"], "Badly formed token.");
    }
    // Dates sent with a token are ignored: an event outside the token's window stays outside.
    edit(
        &simulator,
        Edit::CreateSingle {
            subject: "Late".to_owned(),
            start: at("2027-06-01T09:00:00Z"),
            minutes: 30,
        },
    );
    let widened = format!("{}&startDateTime={START}&endDateTime=2028-01-01", client.link);
    let (status, body) = get(&simulator, &widened, "").await;
    assert_eq!((status, body["value"].as_array().unwrap().len()), (200, 0));
}

#[tokio::test(start_paused = true)]
async fn the_page_size_is_the_hint_of_each_request() {
    let simulator = simulator(1, Behaviour { split_series: true, ..Behaviour::calm() });
    simulator.add_mailbox(ALICE);
    series(&simulator, "2026-02-20T09:00:00Z", Some("2026-03-19"));
    let (_, first) = get(&simulator, &window_url(ALICE), "odata.maxpagesize=4").await;
    assert_eq!(first["value"].as_array().unwrap().len(), 4);
    let next = first["@odata.nextLink"].as_str().unwrap();
    let (_, second) = get(&simulator, next, "").await;
    assert_eq!(second["value"].as_array().unwrap().len(), 10);

    simulator.set_behaviour(Behaviour::calm());
    let (_, whole) = get(&simulator, &window_url(ALICE), "odata.maxpagesize=4").await;
    assert_eq!(whole["value"].as_array().unwrap().len(), 29, "a series is expanded whole");
}

#[tokio::test(start_paused = true)]
async fn a_change_between_two_pages_belongs_to_the_next_round() {
    let simulator = small(1, Behaviour::calm());
    let (_, first) = get(&simulator, &window_url(ALICE), "odata.maxpagesize=1").await;
    let start = at("2026-03-03T09:00:00Z");
    let id = edit(
        &simulator,
        Edit::CreateSingle { subject: "Meanwhile".to_owned(), start, minutes: 30 },
    );
    let mut client = Client::new(&simulator, 1);
    client.link = first["@odata.nextLink"].as_str().unwrap().to_owned();
    client.round().await;
    assert!(!client.events.contains_key(&id));
    client.round().await;
    assert_eq!(client.events[&id]["subject"], "Meanwhile");
}

#[tokio::test(start_paused = true)]
async fn occurrences_and_tombstones_have_the_members_of_graph() {
    let simulator = simulator(1, Behaviour { resend: Resend::Tombstones, ..Behaviour::calm() });
    simulator.add_mailbox(ALICE);
    series(&simulator, "2026-02-25T09:00:00Z", Some("2026-02-27"));
    let (_, body) = get(&simulator, &window_url(ALICE), "").await;
    let items = body["value"].as_array().unwrap();
    let [master, occurrence, ..] = &items[..] else { panic!("{body}") };
    let names = |item: &Value| item.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(
        names(occurrence),
        ["@odata.etag", "@odata.type", "end", "id", "seriesMasterId", "start", "type"]
    );
    assert_eq!(occurrence["@odata.etag"], master["@odata.etag"]);
    assert_eq!(occurrence["seriesMasterId"], master["id"]);
    assert!(master.get("originalStart").is_none());
    assert!((20..=50).contains(&names(master).len()));

    let id = occurrence["id"].as_str().unwrap().to_owned();
    edit(&simulator, Edit::CancelOccurrence { occurrence: id.clone() });
    let (_, body) = get(&simulator, body["@odata.deltaLink"].as_str().unwrap(), "").await;
    let expected = json!({
        "@odata.type": "#microsoft.graph.event",
        "id": id,
        "@removed": {"reason": "deleted"},
    });
    let items = body["value"].as_array().unwrap();
    assert!(items.contains(&expected), "{body}");
    let again = items.iter().find(|item| item["type"] == "seriesMaster").unwrap();
    assert_ne!(again["@odata.etag"], master["@odata.etag"]);
    let (status, _) = get(
        &simulator,
        &format!("https://graph.example/v1.0/users/{ALICE}/events/{}", id.replace('=', "%3D")),
        "",
    )
    .await;
    assert_eq!(status, 404);
}

#[tokio::test(start_paused = true)]
async fn requests_that_graph_refuses_get_its_error_codes() {
    let simulator = small(1, Behaviour::calm());
    let delta =
        |query: &str| format!("https://graph.example/v1.0/users/{ALICE}/calendarView/delta{query}");
    let window = format!("?startDateTime={START}&endDateTime={END}");
    for (url, status, expected) in [
        (delta(""), 400, "ErrorInvalidParameter"),
        (delta("?startDateTime=2026-01-01"), 400, "ErrorInvalidParameter"),
        (
            delta("?startDateTime=2026-01-01T00:00:00+05:30&endDateTime=2026-02-01"),
            400,
            "ErrorInvalidParameter",
        ),
        (
            delta("?startDateTime=2026-01-01&endDateTime=2030-12-31T00:00:01Z"),
            400,
            "ErrorInvalidRequest",
        ),
        (delta(&format!("{window}&$select=subject")), 400, "ErrorInvalidUrlQuery"),
        (
            "https://graph.example/v1.0/users/nobody@contoso.example/calendarView".to_owned(),
            404,
            "ErrorInvalidUser",
        ),
        ("https://graph.example/v1.0/me/calendarView".to_owned(), 400, "BadRequest"),
        ("https://graph.example/v1.0/planets".to_owned(), 400, "BadRequest"),
        (
            format!("https://graph.example/v1.0/users/{ALICE}/calendars/x/calendarView{window}"),
            404,
            "ErrorItemNotFound",
        ),
    ] {
        let (got, body) = get(&simulator, &url, "").await;
        assert_eq!((got, code(&body)), (status, expected), "{url}");
    }
    for fine in [
        delta("?startDateTime=2026-01-01&endDateTime=2030-12-31T00:00:00Z"),
        delta("?STARTDATETIME=2026-01-01T00:00:00%2B05:30&enddatetime=2026-02-01"),
        delta(&window).replace("calendarView/delta", "calendarview/microsoft.graph.delta"),
        delta(&window).replace("calendarView", "calendar/calendarView"),
    ] {
        let (status, body) = get(&simulator, &fine, "").await;
        assert_eq!(status, 200, "{fine}: {body}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_shared_calendars_events_are_found_only_under_it() {
    let simulator = small(1, Behaviour::calm());
    let calendar = simulator.add_calendar(ALICE, "Team");
    assert!(simulator.set_shared(ALICE, &calendar, true));
    let event = simulator
        .mutate(Mutation {
            mailbox: ALICE.to_owned(),
            calendar: Some(calendar.clone()),
            edit: Edit::CreateSingle {
                subject: "Shared".to_owned(),
                start: at(START),
                minutes: 30,
            },
        })
        .unwrap();
    let user = format!("https://graph.example/v1.0/users/{ALICE}");
    assert_eq!(get(&simulator, &format!("{user}/events/{event}"), "").await.0, 404);
    assert_eq!(
        get(&simulator, &format!("{user}/calendars/{calendar}/events/{event}"), "").await.0,
        200
    );
    assert_eq!(get(&simulator, &format!("{user}/calendar/events/{event}"), "").await.0, 404);
    assert!(simulator.remove_calendar(ALICE, &calendar));
    assert_eq!(
        get(&simulator, &format!("{user}/calendars/{calendar}/events/{event}"), "").await.0,
        404
    );
}

#[tokio::test(start_paused = true)]
async fn preferences_change_the_response() {
    let simulator = small(1, Behaviour::calm());
    let event = edit(
        &simulator,
        Edit::CreateSingle {
            subject: "Abroad".to_owned(),
            start: at("2026-07-01T16:00:00Z"),
            minutes: 30,
        },
    );
    let url = format!("https://graph.example/v1.0/users/{ALICE}/events/{event}");
    let prefer = "outlook.timezone=\"Pacific Standard Time\", IdType=\"ImmutableId\", outlook.body-content-type=\"text\"";
    let (_, plain) = get(&simulator, &url, "").await;
    let (_, other) = get(&simulator, &url, prefer).await;
    assert_eq!(
        other["start"],
        json!({"dateTime": "2026-07-01T09:00:00.0000000", "timeZone": "Pacific Standard Time"})
    );
    assert_eq!(plain["start"]["timeZone"], "UTC");
    assert_eq!(other["body"]["contentType"], "text");
    assert_eq!(plain["body"]["contentType"], "html");
    let immutable = other["id"].as_str().unwrap();
    assert_ne!(other["id"], plain["id"]);
    let by_immutable = format!("https://graph.example/v1.0/users/{ALICE}/events/{immutable}");
    assert_eq!(get(&simulator, &by_immutable, "").await.1["id"], plain["id"]);
    assert_eq!(get(&simulator, &url, "outlook.timezone=\"Nowhere\"").await.0, 400);
}

#[tokio::test(start_paused = true)]
async fn compressed_pages_equal_plain_ones() {
    let simulator = small(1, Behaviour::calm());
    let ask = |gzip: bool| {
        let token = simulator.access_token();
        let mut request = request(&token, &window_url(ALICE), "odata.maxpagesize=20");
        if gzip {
            request.headers_mut().insert("accept-encoding", "gzip".parse().unwrap());
        }
        simulator.answer(request)
    };
    let value = |body: &[u8]| serde_json::from_slice::<Value>(body).unwrap()["value"].clone();
    let mut values = Vec::new();
    // The second response of each kind comes from the page cache.
    for gzip in [false, true, false, true] {
        let SimulatedResponse::Response(response) = ask(gzip).await else { panic!("no response") };
        assert_eq!(response.headers().contains_key("content-encoding"), gzip);
        let mut body = response.body().to_vec();
        if gzip {
            body.clear();
            flate2::read::GzDecoder::new(&response.body()[..]).read_to_end(&mut body).unwrap();
        }
        values.push(value(&body));
    }
    assert!(
        values.iter().all(|value| *value == values[0] && !value.as_array().unwrap().is_empty())
    );
}

#[tokio::test(start_paused = true)]
async fn the_truth_is_what_the_plain_view_lists_singles_first() {
    let simulator = small(1, Behaviour::calm());
    let mut listed = Vec::new();
    let mut url = format!(
        "https://graph.example/v1.0/users/{ALICE}/calendarView?startDateTime={START}&endDateTime={END}&$top=7"
    );
    loop {
        let (status, body) = get(&simulator, &url, "").await;
        assert_eq!(status, 200);
        listed.extend(body["value"].as_array().unwrap().clone());
        let Some(next) = body["@odata.nextLink"].as_str() else { break };
        url = next.to_owned();
    }
    assert_eq!(listed, simulator.truth(ALICE, None, at(START), at(END)));
    let first_series = listed.iter().position(|e| e["type"] != "singleInstance").unwrap();
    assert!(listed[first_series..].iter().all(|event| event["type"] != "singleInstance"));
    let selected = url.split("&$skip").next().unwrap().to_owned() + "&$select=subject";
    let (_, body) = get(&simulator, &selected, "").await;
    assert_eq!(body["value"][0].as_object().unwrap().len(), 3);
}
