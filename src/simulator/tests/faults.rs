//! Tests that every fault appears where it should, and only there.

use std::time::Duration;

use super::*;

const ALICE: &str = "alice@contoso.example";

async fn ask(simulator: &Simulator, url: &str, size: usize) -> SimulatedResponse {
    let prefer = format!("odata.maxpagesize={size}");
    simulator.answer(request(&simulator.access_token(), url, &prefer)).await
}

async fn response(simulator: &Simulator, url: &str, size: usize) -> http::Response<Bytes> {
    match ask(simulator, url, size).await {
        SimulatedResponse::Response(response) => response,
        other => panic!("not a plain response: {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_planned_fault_affects_its_requests_as_often_as_planned() {
    let simulator = small(1, Behaviour::calm());
    simulator.plan(
        PlannedFault::once(Fault::InternalError)
            .mailbox(ALICE)
            .path("calendarview")
            .skip(1)
            .times(2),
    );
    let mut statuses = Vec::new();
    for url in [
        window_url("bob@contoso.example"),
        window_url(ALICE),
        format!("https://graph.example/v1.0/users/{ALICE}/calendars"),
        window_url(ALICE),
        window_url(ALICE),
        window_url(ALICE),
    ] {
        statuses.push(response(&simulator, &url, 10).await.status().as_u16());
    }
    assert_eq!(statuses, [200, 200, 200, 500, 500, 200]);
    assert_eq!(simulator.faults(), Faults::default());
}

#[tokio::test(start_paused = true)]
async fn every_status_fault_has_its_status_and_retry_after() {
    let simulator = small(1, Behaviour::calm());
    let throttled =
        |value: Option<&str>| Fault::Throttled { retry_after: value.map(str::to_owned) };
    for (fault, status, retry_after) in [
        (throttled(Some("2.128")), 429, Some("2.128")),
        (throttled(Some("date:5")), 429, Some("Mon, 02 Mar 2026 08:00:05 GMT")),
        (throttled(None), 429, None),
        (Fault::UnavailableEmpty, 503, None),
        (Fault::Unavailable { retry_after: Some("1".to_owned()) }, 503, Some("1")),
        (Fault::UnknownError, 503, None),
        (Fault::BadGateway, 502, None),
        (Fault::GatewayTimeout, 504, None),
        (Fault::InternalError, 500, None),
        (Fault::RequestTimeout, 408, None),
        (Fault::BandwidthExceeded, 509, None),
        (Fault::BadRequest, 400, None),
        (Fault::Unauthorized, 401, None),
        (Fault::ClaimsChallenge, 401, None),
        (Fault::Mailbox { how: MailboxFault::NotEnabled }, 404, None),
        (Fault::Mailbox { how: MailboxFault::Empty }, 404, None),
        (Fault::Mailbox { how: MailboxFault::AccessDenied }, 403, None),
        (Fault::NotJson, 200, None),
    ] {
        simulator.plan(PlannedFault::once(fault.clone()));
        let response = response(&simulator, &window_url(ALICE), 10).await;
        assert_eq!(response.status().as_u16(), status, "{fault:?}");
        let header = response.headers().get("retry-after").map(|v| v.to_str().unwrap());
        assert_eq!(header, retry_after, "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn connection_faults_are_visible_in_the_response() {
    let simulator = small(1, Behaviour::calm());
    let url = window_url(ALICE);
    let next = async |fault| {
        simulator.plan(PlannedFault::once(fault));
        ask(&simulator, &url, 10).await
    };
    assert!(matches!(next(Fault::Reset).await, SimulatedResponse::Reset));
    assert!(matches!(next(Fault::Stall).await, SimulatedResponse::Stall));
    assert!(matches!(next(Fault::EndlessBody).await, SimulatedResponse::Endless { .. }));
    let SimulatedResponse::Truncated { response, after } = next(Fault::Truncated).await else {
        panic!("whole")
    };
    assert!(after > 0 && after < response.body().len());
    let SimulatedResponse::Slow { every, .. } = next(Fault::SlowBody { every: 7 }).await else {
        panic!("fast")
    };
    assert_eq!(every, Duration::from_millis(7));
    assert_eq!(simulator.statistics().total.statuses[&0], 4);
}

#[tokio::test(start_paused = true)]
async fn distorted_pages_lose_no_item() {
    let simulator = small(1, Behaviour::calm());
    let whole = get(&simulator, &window_url(ALICE), "odata.maxpagesize=5").await.1;
    let items = whole["value"].as_array().unwrap();
    let twisted = async |fault: Fault| -> Value {
        simulator.plan(PlannedFault::once(fault));
        get(&simulator, &window_url(ALICE), "odata.maxpagesize=5").await.1
    };
    let links = |page: &Value| {
        [page.get("@odata.nextLink").is_some(), page.get("@odata.deltaLink").is_some()]
    };
    assert_eq!(links(&whole), [true, false]);
    assert_eq!(links(&twisted(Fault::NeitherLink).await), [false, false]);
    assert_eq!(links(&twisted(Fault::BothLinks).await), [true, true]);
    for how in
        [CorruptItem::NotAnObject, CorruptItem::NoId, CorruptItem::NumberId, CorruptItem::BadDate]
    {
        let page = twisted(Fault::UnreadableItem { how }).await;
        let value = page["value"].as_array().unwrap();
        assert_eq!(value[..items.len()], items[..]);
        assert_eq!(value.len(), items.len() + 1);
    }
    for (how, start) in [
        (ForeignLink::Host, "https://elsewhere.example/v1.0/users/"),
        (ForeignLink::Scheme, "http://graph.example/v1.0/users/"),
        (ForeignLink::Port, "https://graph.example:4431/v1.0/users/"),
        (ForeignLink::UserInfo, "https://graph.example@elsewhere.example/v1.0/users/"),
    ] {
        let page = twisted(Fault::ForeignLink { how }).await;
        assert!(page["@odata.nextLink"].as_str().unwrap().starts_with(start), "{page}");
    }
}

#[tokio::test(start_paused = true)]
async fn dead_link_faults_have_every_form_and_affect_only_links() {
    let simulator = small(1, Behaviour::calm());
    let mut client = Client::new(&simulator, 50);
    client.round().await;
    for fault in Faults::passing() {
        let Fault::DeadLink { how } = fault else { continue };
        simulator.plan(PlannedFault::once(fault));
        assert_eq!(response(&simulator, &window_url(ALICE), 10).await.status(), 200);
        let dead = response(&simulator, &client.link, 10).await;
        assert!([400, 410].contains(&dead.status().as_u16()), "{how:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn paging_is_endless_until_the_page_is_large_enough() {
    let simulator = small(1, Behaviour::calm());
    simulator.plan(PlannedFault::always(Fault::EndlessPaging { below: 100 }).mailbox(ALICE));
    let (mut url, mut links, mut pages) = (window_url(ALICE), BTreeSet::new(), BTreeSet::new());
    for _ in 0..20 {
        let (_, page) = get(&simulator, &url, "odata.maxpagesize=5").await;
        pages.insert(page["value"].to_string());
        url = page["@odata.nextLink"].as_str().unwrap().to_owned();
        links.insert(url.clone());
    }
    assert_eq!((links.len(), pages.len()), (20, 1));
    Client::new(&simulator, 200).round().await;
}

#[tokio::test(start_paused = true)]
async fn a_gateway_timeout_repeats_for_its_link_until_the_page_is_small_enough() {
    let simulator = small(1, Behaviour::calm());
    let (_, page) = get(&simulator, &window_url(ALICE), "odata.maxpagesize=3").await;
    let next = page["@odata.nextLink"].as_str().unwrap();
    simulator.plan(PlannedFault::once(Fault::StickyGatewayTimeout { above: 10 }).path("skiptoken"));
    for (size, status) in [(100, 504), (50, 504), (11, 504), (10, 200)] {
        assert_eq!(response(&simulator, next, size).await.status().as_u16(), status);
    }
    assert_eq!(response(&simulator, &window_url(ALICE), 100).await.status(), 200);
}

#[tokio::test(start_paused = true)]
async fn oversized_pages_have_the_planned_size() {
    let simulator = small(1, Behaviour::calm());
    let limit = 64 << 20;
    simulator.plan(PlannedFault::always(Fault::HugePage { above: 10 }).path("delta"));
    assert!(response(&simulator, &window_url(ALICE), 11).await.body().len() > limit);
    assert!(response(&simulator, &window_url(ALICE), 10).await.body().len() < limit);
    simulator.clear_faults();
    simulator.plan(PlannedFault::once(Fault::Bomb));
    let mut request = request(&simulator.access_token(), &window_url(ALICE), "");
    request.headers_mut().insert("accept-encoding", "gzip".parse().unwrap());
    let SimulatedResponse::Response(response) = simulator.answer(request).await else {
        panic!("none")
    };
    assert!(response.body().len() < 2 << 20);
    let mut inflated = flate2::read::GzDecoder::new(&response.body()[..]);
    assert_eq!(std::io::copy(&mut inflated, &mut std::io::sink()).unwrap(), 128 << 20);
}

#[tokio::test(start_paused = true)]
async fn endless_rounds_have_empty_or_repeated_pages() {
    let simulator = small(1, Behaviour::calm());
    for (fault, kinds) in
        [(Fault::EndlessEmpty { below: 100 }, 1), (Fault::EndlessOld { below: 100 }, 2)]
    {
        simulator.clear_faults();
        simulator.plan(PlannedFault::always(fault.clone()).mailbox(ALICE));
        let (mut url, mut links) = (window_url(ALICE), BTreeSet::new());
        let (mut pages, mut ids, mut last) = (BTreeSet::new(), BTreeSet::new(), None);
        for _ in 0..20 {
            let (_, page) = get(&simulator, &url, "odata.maxpagesize=4").await;
            let events = page["value"].as_array().unwrap();
            ids.extend(events.iter().map(|event| event["id"].to_string()));
            let now = page["value"].to_string();
            assert!(kinds == 1 || last.as_ref() != Some(&now), "twice in a row");
            pages.insert(now.clone());
            last = Some(now);
            url = page["@odata.nextLink"].as_str().unwrap().to_owned();
            links.insert(url.clone());
        }
        assert_eq!((links.len(), pages.len()), (20, kinds), "{fault:?}");
        assert_eq!(ids.is_empty(), kinds == 1, "{fault:?}");
        Client::new(&simulator, 200).round().await;
    }
}

#[tokio::test(start_paused = true)]
async fn views_can_be_too_large_and_endless() {
    let simulator = small(1, Behaviour { max_days: 300, ..Behaviour::calm() });
    simulator.plan(PlannedFault::always(Fault::HugePage { above: 10 }));
    let view = window_url(ALICE).replace("/delta", "");
    assert!(response(&simulator, &view, 11).await.body().len() > 64 << 20);
    assert!(response(&simulator, &view, 10).await.body().len() < 1 << 20);
    for url in [view, window_url(ALICE)] {
        let longer = url.replace("endDateTime=2026", "endDateTime=2027");
        assert_ne!(longer, url);
        let (status, body) = get(&simulator, &longer, "").await;
        assert_eq!((status, &body["error"]["code"]), (400, &"ErrorInvalidRequest".into()));
        assert!(body["error"]["message"].as_str().unwrap().ends_with("days: 300"));
    }
}
