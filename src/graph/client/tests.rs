//! Requests to Graph, and the meaning of every answer.
use std::time::Duration;

use http::Request;
use proptest::prelude::*;

use super::*;
use crate::graph::script::{
    BASE, Script, ScriptedResponse, client, edges, granted, options, reply, tokens,
};
use crate::mirror::window::BodyFormat;
use crate::tests::{Lines, capture_log};

const LINK: &str =
    "https://graph.example/v1.0/users/room-7/calendarView/delta?$deltatoken=canary-1.b_C";
const EMPTY: &str =
    r#"{"value":[],"@odata.deltaLink":"https://graph.example/v1.0/x?$deltatoken=new"}"#;

fn target(
    client: &GraphClient,
    script: &Arc<Script>,
    mailbox: &str,
    calendar: CalendarRef,
) -> Target {
    client.target(&tokens(script), &mailbox.into(), calendar)
}

fn room(client: &GraphClient, script: &Arc<Script>) -> Target {
    target(client, script, "room-7", CalendarRef::Default)
}

/// The outcome of one page request from a link, with these answers.
async fn follow(
    answers: impl IntoIterator<Item = ScriptedResponse>,
) -> (Arc<Script>, Result<Page, GraphError>) {
    let script = Script::new([granted("t1", 3600), granted("t2", 3600)], answers);
    let client = client(&script);
    let target = room(&client, &script);
    let link = Link::new(LINK);
    let outcome = client.page(&target, &options(), PageStart::Link(&link), false).await;
    assert_eq!(target.requests.load(Ordering::Relaxed), script.urls().len() as u64);
    (script, outcome.map(|(page, _)| page))
}

fn header<'a>(request: &'a Request<Bytes>, name: &str) -> &'a str {
    let values: Vec<_> = request.headers().get_all(name).iter().collect();
    assert_eq!(values.len(), 1, "{name}");
    values[0].to_str().unwrap()
}

#[tokio::test(start_paused = true)]
async fn every_request_has_its_url() {
    let listing = r#"{"value":[]}"#;
    let event = r#"{"id":"m","type":"seriesMaster"}"#;
    let script = Script::new(
        [(); 4].map(|()| granted("t", 3600)),
        [EMPTY, event, listing, listing, EMPTY, event, EMPTY, listing, listing, event, listing]
            .map(|body| reply(200, body)),
    );
    let client = client(&script);
    let (options, edges) = (options(), edges());
    let start = || PageStart::Window(edges);
    let id = EventId::new("AAMk/+A==");

    let plain = target(&client, &script, "alice+x@contoso.com", CalendarRef::Default);
    client.page(&plain, &options, start(), false).await.unwrap();
    client.event(&plain, &options, &id, false).await.unwrap().unwrap();
    client.instances(&plain, &options, &id, edges, None, false).await.unwrap().unwrap();
    client.calendar_view(&plain, &options, edges, Some("id,type"), None, false).await.unwrap();
    let named = target(&client, &script, "g#EXT#@x", CalendarRef::Id("AQ/ %".into()));
    client.page(&named, &options, start(), false).await.unwrap();
    client.event(&named, &options, &id, false).await.unwrap().unwrap();
    let me = target(&client, &script, "me", CalendarRef::Default);
    client.page(&me, &options, start(), false).await.unwrap();
    client.calendar_view(&me, &options, edges, None, None, false).await.unwrap();
    let group = target(&client, &script, "group:02bd-a315", CalendarRef::Default);
    client.calendar_view(&group, &options, edges, None, None, false).await.unwrap();
    client.event(&group, &options, &id, false).await.unwrap().unwrap();
    client.instances(&group, &options, &id, edges, None, false).await.unwrap().unwrap();

    let range = "startDateTime=2026-01-01T00%3A00%3A00Z&endDateTime=2027-01-01T00%3A00%3A00Z";
    let expected = [
        format!("/users/alice%2Bx@contoso.com/calendarView/delta?{range}"),
        "/users/alice%2Bx@contoso.com/events/AAMk%2F%2BA==".into(),
        format!("/users/alice%2Bx@contoso.com/events/AAMk%2F%2BA==/instances?{range}"),
        format!("/users/alice%2Bx@contoso.com/calendarView?{range}&$select=id,type"),
        format!("/users/g%23EXT%23@x/calendars/AQ%2F%20%25/calendarView/delta?{range}"),
        "/users/g%23EXT%23@x/calendars/AQ%2F%20%25/events/AAMk%2F%2BA==".into(),
        format!("/me/calendarView/delta?{range}"),
        format!("/me/calendarView?{range}"),
        format!("/groups/02bd-a315/calendarView?{range}"),
        "/groups/02bd-a315/events/AAMk%2F%2BA==".into(),
        format!("/groups/02bd-a315/events/AAMk%2F%2BA==/instances?{range}"),
    ];
    assert_eq!(script.urls(), expected.map(|path| format!("{BASE}{path}")));
    assert_eq!(plain.requests.load(Ordering::Relaxed), 4);
}

#[tokio::test(start_paused = true)]
async fn every_request_has_the_same_preferences_and_its_own_id() {
    let script = Script::new([granted("t", 3600)], [reply(200, EMPTY), reply(200, EMPTY)]);
    let client = client(&script);
    let target = room(&client, &script);
    let options = RequestOptions {
        page_size: 50,
        body: BodyFormat::None,
        time_zone: "W. Europe Standard Time".into(),
        immutable_ids: true,
    };
    client.page(&target, &options, PageStart::Window(edges()), false).await.unwrap();
    client.page(&target, &options, PageStart::Link(&Link::new(LINK)), true).await.unwrap();
    let asked: Vec<_> =
        script.asked().into_iter().filter(|r| !r.uri().path().contains("/oauth2/")).collect();
    for request in &asked {
        assert_eq!(
            header(request, "prefer"),
            "odata.maxpagesize=50, outlook.timezone=\"W. Europe Standard Time\", \
             outlook.body-content-type=\"text\", IdType=\"ImmutableId\""
        );
        assert_eq!(header(request, "authorization"), "Bearer t");
        assert_eq!(request.method(), http::Method::GET);
    }
    assert_ne!(header(&asked[0], "client-request-id"), header(&asked[1], "client-request-id"));
    assert!(asked[0].extensions().get::<FreshConnection>().is_none());
    assert!(asked[1].extensions().get::<FreshConnection>().is_some());
    assert_eq!(asked[1].uri().to_string(), LINK, "a link is followed byte for byte");
}

#[tokio::test(start_paused = true)]
async fn a_link_to_another_origin_is_never_requested() {
    let script = Script::new([], []);
    let client = client(&script);
    let target = room(&client, &script);
    for link in
        ["https://evil.example/v1.0/x?$deltatoken=canary", "http://graph.example/v1.0/x", "x"]
    {
        let link = Link::new(link);
        let page =
            client.page(&target, &options(), PageStart::Link(&link), false).await.unwrap_err();
        let id = EventId::new("m");
        let listed = client
            .instances(&target, &options(), &id, edges(), Some(&link), false)
            .await
            .unwrap_err();
        let viewed = client
            .calendar_view(&target, &options(), edges(), None, Some(&link), false)
            .await
            .unwrap_err();
        for error in [page, listed, viewed] {
            assert_eq!(error.class(), ErrorClass::ForeignLink);
            assert!(!format!("{error} {error:?} {}", error.message()).contains("canary"));
        }
    }
    assert!(script.asked().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_link_to_another_origin_is_never_stored() {
    let evil = r#"{"value":[],"@odata.nextLink":"https://evil.example/?$skiptoken=canary"}"#;
    let (script, outcome) = follow([reply(200, evil)]).await;
    assert_eq!(outcome.unwrap_err().class(), ErrorClass::ForeignLink);
    assert_eq!(script.urls(), [LINK]);
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_is_renewed_once_and_the_request_repeated_once() {
    let expired = || reply(401, r#"{"error":{"code":"InvalidAuthenticationToken"}}"#);
    let (script, outcome) = follow([expired(), reply(200, EMPTY)]).await;
    outcome.unwrap();
    assert_eq!((script.urls().len(), script.sign_ins()), (2, 2));
    let bearers: Vec<_> =
        script.asked().iter().filter_map(|r| r.headers().get("authorization").cloned()).collect();
    assert_eq!(bearers, ["Bearer t1", "Bearer t2"]);

    let (script, outcome) = follow([expired(), expired()]).await;
    let error = outcome.unwrap_err();
    assert_eq!((error.class(), error.status()), (ErrorClass::SignIn, Some(401)));
    assert_eq!((script.urls().len(), script.sign_ins()), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn a_claims_challenge_needs_a_person() {
    for status in [401, 403] {
        let challenge = reply(status, "").with(
            "www-authenticate",
            r#"Bearer realm="", error="insufficient_claims", claims="e30=""#,
        );
        let (script, outcome) = follow([challenge]).await;
        assert_eq!(outcome.unwrap_err().class(), ErrorClass::SignIn);
        assert_eq!((script.urls().len(), script.sign_ins()), (1, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn no_other_request_is_repeated() {
    let coded = |code: &str| format!(r#"{{"error":{{"code":"{code}","message":"m"}}}}"#);
    for (answer, class, kind) in [
        (reply(403, coded("ErrorAccessDenied")), ErrorClass::Forbidden, "forbidden"),
        (reply(404, ""), ErrorClass::Gone, "gone"),
        (reply(404, coded("ErrorItemNotFound")), ErrorClass::Gone, "gone"),
        (reply(410, ""), ErrorClass::LinkDead, "link_dead"),
        (reply(400, coded("InvalidDeltaToken")), ErrorClass::LinkDead, "link_dead"),
        (reply(400, coded("Other")), ErrorClass::Refused, "refused"),
        (reply(501, ""), ErrorClass::Refused, "refused"),
        (
            reply(302, "").with("location", "https://graph.example/v1.0/y"),
            ErrorClass::Transient,
            "transient",
        ),
        (reply(500, "x"), ErrorClass::Transient, "transient"),
        (reply(503, ""), ErrorClass::Transient, "transient"),
        (reply(503, "").with("retry-after", "7"), ErrorClass::Throttled, "throttled"),
        (reply(429, ""), ErrorClass::Throttled, "throttled"),
        (reply(200, "<html>"), ErrorClass::MalformedPage, "malformed_page"),
        (reply(204, ""), ErrorClass::MalformedPage, "malformed_page"),
        (reply(200, r#"{"value":[]}"#), ErrorClass::MalformedPage, "malformed_page"),
        (ScriptedResponse::Fault(TransportErrorKind::Connect), ErrorClass::Transient, "transient"),
        (ScriptedResponse::Fault(TransportErrorKind::Reset), ErrorClass::Transient, "transient"),
        (
            ScriptedResponse::Broken(200, EMPTY, TransportErrorKind::Body),
            ErrorClass::Transient,
            "transient",
        ),
        (
            ScriptedResponse::Broken(410, "", TransportErrorKind::Reset),
            ErrorClass::LinkDead,
            "link_dead",
        ),
        (ScriptedResponse::Silence, ErrorClass::Transient, "transient"),
        (ScriptedResponse::Headless(200), ErrorClass::Transient, "transient"),
        (ScriptedResponse::Headless(410), ErrorClass::LinkDead, "link_dead"),
        (ScriptedResponse::Endless, ErrorClass::TooLarge, "too_large"),
    ] {
        let (script, outcome) = follow([answer]).await;
        let error = outcome.unwrap_err();
        assert_eq!((error.class(), error.class().as_str()), (class, kind), "{error}");
        assert_eq!((script.urls().len(), script.sign_ins()), (1, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_whole_request_takes_no_longer_than_its_timeout() {
    let began = Instant::now();
    for answer in [ScriptedResponse::Silence, ScriptedResponse::Headless(200)] {
        let (_, outcome) = follow([answer]).await;
        assert!(
            matches!(outcome, Err(GraphError::Transport(e)) if e.kind() == TransportErrorKind::Timeout)
        );
    }
    assert_eq!(began.elapsed(), Duration::from_secs(200));
}

#[tokio::test(start_paused = true)]
async fn throttling_pauses_the_mailbox_and_returns_the_wait() {
    let script = Script::new(
        [granted("t", 36_000)],
        [
            reply(429, "").with("retry-after", "17"),
            reply(200, EMPTY),
            reply(429, "").with("retry-after", "Sun, 01 Mar 2026 00:02:17 GMT"),
            reply(200, EMPTY),
            reply(429, "").with("retry-after", "-3"),
            reply(200, EMPTY),
        ],
    );
    let client = client(&script);
    let target = room(&client, &script);
    let link = Link::new(LINK);
    let options = options();
    for (asked_for, at_least) in [(Some(17), 17), (Some(120), 120), (None, 0)] {
        let page = || client.page(&target, &options, PageStart::Link(&link), false);
        let error = page().await.unwrap_err();
        assert_eq!(error.retry_after().map(|d| d.as_secs()), asked_for);
        let began = Instant::now();
        page().await.unwrap();
        let waited = began.elapsed();
        assert!(waited >= Duration::from_secs(at_least), "{waited:?}");
        assert!(
            waited > Duration::ZERO && waited <= Duration::from_secs(at_least + 1),
            "{waited:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_mailbox_has_at_most_three_concurrent_requests() {
    let script = Script::new([granted("t", 3600)], (0..5).map(|_| ScriptedResponse::Silence));
    let client = client(&script);
    let target = room(&client, &script);
    let id = EventId::new("x");
    let options = options();
    let asking: Vec<_> =
        (0..5).map(|_| Box::pin(client.event(&target, &options, &id, false))).collect();
    let all = futures_util::future::join_all(asking);
    assert!(timeout(Duration::from_secs(50), all).await.is_err());
    assert_eq!(script.urls().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_missing_item_is_none_and_an_unreachable_one_an_error() {
    let missing = || reply(404, r#"{"error":{"code":"ErrorItemNotFound","message":"not found"}}"#);
    let script = Script::new(
        [granted("t", 3600)],
        [missing(), missing(), reply(404, ""), reply(404, ""), missing()],
    );
    let client = client(&script);
    let target = room(&client, &script);
    let id = EventId::new("m");
    let gone = ErrorClass::Gone;
    assert!(client.event(&target, &options(), &id, false).await.unwrap().is_none());
    assert!(
        client.instances(&target, &options(), &id, edges(), None, false).await.unwrap().is_none()
    );
    assert_eq!(client.event(&target, &options(), &id, false).await.unwrap_err().class(), gone);
    let instances = client.instances(&target, &options(), &id, edges(), None, false).await;
    assert_eq!(instances.unwrap_err().class(), gone);
    let view = client.calendar_view(&target, &options(), edges(), None, None, false).await;
    assert_eq!(view.unwrap_err().class(), gone);
}

#[tokio::test(start_paused = true)]
async fn ids_with_path_traversal_are_not_requested() {
    let script = Script::new([granted("t", 3600)], []);
    let client = client(&script);
    let target = room(&client, &script);
    for id in ["", ".", ".."] {
        let outcome = client.event(&target, &options(), &EventId::new(id), false).await;
        assert_eq!(outcome.unwrap_err().class().as_str(), "refused");
    }
    let odd = RequestOptions { time_zone: "UTC\", IdType=\"x".into(), ..options() };
    let outcome = client.page(&target, &odd, PageStart::Window(edges()), false).await;
    assert_eq!(outcome.unwrap_err().class().as_str(), "refused");
    assert!(script.urls().is_empty());
}

#[tokio::test(start_paused = true)]
async fn errors_and_debug_output_show_no_token_secret_or_link() {
    const TOKEN: &str = "canary-token-1";
    let echo = format!("{TOKEN} {LINK} the link canary-1.b_C");
    let said = serde_json::json!({"error": {"code": TOKEN, "message": echo, "innerError": {"request-id": TOKEN}}});
    let mut shown = String::new();
    for status in [400, 401, 403, 404, 410, 418, 429, 500, 501, 503] {
        let answers = [reply(status, said.to_string()), reply(status, said.to_string())];
        let script = Script::new([granted(TOKEN, 3600), granted(TOKEN, 3600)], answers);
        let client = client(&script);
        let target = room(&client, &script);
        let link = Link::new(LINK);
        let start = PageStart::Link(&link);
        let error = client.page(&target, &options(), start, false).await.unwrap_err();
        shown += &format!(
            "{error} {error:?} {} {:?} {:?} {client:?} {target:?} {start:?}\n",
            error.message(),
            error.code(),
            error.request_id()
        );
        let token = target.tokens.token().await.unwrap();
        shown += &format!("{token:?} {:?}\n", token.bearer());
    }
    assert!(!shown.contains("canary"), "{shown}");
    let path = std::env::var("PATH").unwrap();
    assert!(!shown.contains(&path), "the secret is shown");
}

#[tokio::test(start_paused = true)]
async fn only_well_formed_request_ids_are_logged() {
    const TOKEN: &str = "canary-token-1";
    let lines = Lines::default();
    let log = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(std::sync::Mutex::new(lines.clone()))
        .finish();
    let _guard = capture_log(log);
    let ids =
        ["0b3f-77", TOKEN, "canary@contoso.com", "canary said: \"two words\"", "canary-1.b_C"];
    let answers = ids.map(|id| reply(200, EMPTY).with("request-id", id));
    let script = Script::new([granted(TOKEN, 3600)], answers);
    let client = client(&script);
    let target = room(&client, &script);
    for _ in ids {
        client.page(&target, &options(), PageStart::Link(&Link::new(LINK)), false).await.unwrap();
    }
    let lines = lines.text();
    assert!(lines.matches("graph answered").count() >= ids.len(), "{lines}");
    assert!(lines.contains("0b3f-77") && !lines.contains("canary"), "{lines}");
}

#[tokio::test(start_paused = true)]
async fn a_page_with_too_many_items_is_too_large() {
    let page = |count: usize| {
        let items = vec!["{}"; count].join(",");
        reply(200, format!(r#"{{"value":[{items}],"@odata.deltaLink":"{LINK}"}}"#))
    };
    let (_, outcome) = follow([page(50_000)]).await;
    assert_eq!(outcome.unwrap().unreadable.len(), 50_000);
    let (_, outcome) = follow([page(50_001)]).await;
    let error = outcome.unwrap_err();
    assert_eq!((error.class(), error.class().as_str()), (ErrorClass::TooLarge, "too_large"));
    assert!(error.message().contains("50,000 items"), "{}", error.message());
}

#[tokio::test(start_paused = true)]
async fn responses_being_processed_share_one_memory_limit() {
    let page = || reply(200, EMPTY.to_owned() + &" ".repeat(40 << 20));
    let script = Script::new([granted("t", 36_000)], [page(), page(), page(), page()]);
    let client = client(&script);
    let target = room(&client, &script);
    let (link, options) = (Link::new(LINK), options());
    let asking = || client.page(&target, &options, PageStart::Link(&link), false);
    let first = asking().await.unwrap();
    // One answer may exceed the shared budget.
    let second = asking().await.unwrap();
    let third = tokio::time::timeout(Duration::from_secs(3600), asking()).await;
    assert!(third.is_err(), "there is no memory left, and waiting for it is not a timeout");
    drop(first);
    asking().await.unwrap();
    drop(second);
}

#[tokio::test(start_paused = true)]
async fn a_base_address_must_be_safe() {
    let script = Script::new([], []);
    let make = |base: &str| {
        let budgets = Budgets::new(1, 1);
        let env = crate::graph::script::env();
        GraphClient::new(script.clone(), base, budgets, env, Duration::from_secs(1)).is_ok()
    };
    assert!(make("https://graph.microsoft.com/v1.0/"));
    assert!(make("http://127.0.0.1:8081/v1.0"));
    assert!(!make("http://graph.microsoft.com/v1.0"));
    assert!(!make("https://user:pass@graph.microsoft.com/v1.0"));
    assert!(!make("graph.microsoft.com"));
}

proptest! {
    #[test]
    fn path_segments_cannot_change_the_path(text in "\\PC{1,40}") {
        prop_assume!(text != "." && text != "..");
        let mut url = "https://graph.example/v1.0/users/".to_owned();
        push_segment(&mut url, &text).unwrap();
        url.push_str("/events");
        let parsed = reqwest::Url::parse(&url).unwrap();
        let segments: Vec<_> = parsed.path_segments().unwrap().collect();
        prop_assert_eq!(segments.len(), 4);
        prop_assert_eq!(parsed.query(), None);
        prop_assert_eq!(parsed.as_str(), url);
    }
}
