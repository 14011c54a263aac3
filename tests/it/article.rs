//! The exchange documented in Microsoft's own article on delta queries for events, byte for byte:
//! five events over three pages of two, then a round with a tombstone and a new event.

use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use calmirror::env::Env;
use calmirror::graph::Tokens;
use calmirror::graph::transport::{BodyStream as Answer, Transport, TransportError};
use calmirror::mirror::account::Credential;
use calmirror::mirror::change::ChangeKind;
use calmirror::mirror::position::{Phase, WindowId};
use calmirror::mirror::status::RoundFigures;
use calmirror::mirror::window::{Edge, Window, WindowSettings};
use calmirror::store::{EventQuery, Store, StoreOptions};
use calmirror::supervisor::{Fleet, Supervisor};
use calmirror::worker::{Services, StateFeed};
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use serde_json::Value;

use crate::compare::{assert_same, changes_after, folded, mirror};
use crate::rig;

const BASE: &str = "https://graph.microsoft.com/v1.0";
const VIEW: &str = "https://graph.microsoft.com/v1.0/me/calendarView/delta?";
const PAGES: [&str; 4] = [
    include_str!("../fixtures/article/page1_nextlink.json"),
    include_str!("../fixtures/article/page2_nextlink.json"),
    include_str!("../fixtures/article/page3_deltalink.json"),
    include_str!("../fixtures/article/round2_removed_and_new.json"),
];

const QUESTION: &str = include_str!("../fixtures/question/page.json");

/// Answers exactly the requests of a documented exchange.
struct Article {
    asked: Mutex<Vec<http::Request<Bytes>>>,
    answers: &'static [(&'static str, &'static str)],
}

const ARTICLE: &[(&str, &str)] = &[
    ("startDateTime=2016-12-01T00%3A00%3A00Z&endDateTime=2016-12-30T00%3A00%3A00Z", PAGES[0]),
    ("$skiptoken=R0usmcCM996atia_s", PAGES[1]),
    ("$skiptoken=R0usmci39OQxqJrxK4", PAGES[2]),
    ("$deltatoken=R0usmcMDNGg0J1E", PAGES[3]),
];

impl Transport for Article {
    fn send(
        &self,
        request: http::Request<Bytes>,
    ) -> BoxFuture<'_, Result<http::Response<Answer>, TransportError>> {
        let uri = request.uri().to_string();
        self.asked.lock().unwrap().push(request);
        let query = uri.strip_prefix(VIEW).unwrap_or_else(|| panic!("not in the exchange: {uri}"));
        let Some((_, answer)) = self.answers.iter().find(|(asked, _)| *asked == query) else {
            panic!("not in the exchange: {uri}")
        };
        let response = http::Response::builder()
            .header("content-type", "application/json")
            .body(Answer::full(*answer))
            .unwrap();
        Box::pin(async { Ok(response) })
    }
}

async fn start(
    directory: &std::path::Path,
    article: &Arc<Article>,
    env: &Env,
    window: Window,
) -> (Store, Supervisor, WindowId) {
    let token = directory.join("token");
    std::fs::write(&token, "an-access-token").unwrap();
    let transport: Arc<dyn Transport> = article.clone();
    let options =
        StoreOptions { cache_bytes: 16 << 20, ..StoreOptions::new(directory.join("store")) };
    let (store, _) = Store::open(&options, env).unwrap();
    let client = rig::client(&transport, BASE, env);
    let mut supervisor = Supervisor::new(
        Services {
            store: store.clone(),
            client,
            env: env.clone(),
            metrics: Arc::default(),
            states: StateFeed::default(),
        },
        Duration::from_secs(86_400),
    );
    let sign_in = rig::sign_in(Credential::AccessTokenFile(token));
    let tokens = Tokens::new(sign_in, transport, env.clone());
    rig::start(&mut supervisor, vec![rig::spec(window, &tokens)]).await;
    let id = supervisor.fleet().id("me").unwrap();
    (store, supervisor, id)
}

/// The window that the article requests.
fn december() -> Window {
    Window {
        name: "me".into(),
        ..rig::window_with(
            "me",
            WindowSettings {
                page_size: 2,
                start: Edge::At("2016-12-01T00:00:00Z".parse().unwrap()),
                end: Edge::At("2016-12-30T00:00:00Z".parse().unwrap()),
                // The article has two rounds; no further round starts here.
                interval: Duration::from_secs(86_400),
                ..rig::window_settings()
            },
        )
    }
}

async fn first_round(fleet: &Fleet) -> RoundFigures {
    let settled = async {
        loop {
            if let Some(round) = fleet.window("me").unwrap().last_round {
                return round;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), settled).await.unwrap()
}

fn events_of(page: &str) -> Vec<Value> {
    let page: Value = serde_json::from_str(page).unwrap();
    let mut events = page["value"].as_array().unwrap().clone();
    events.retain(|event| event.get("@removed").is_none());
    for event in &mut events {
        event.as_object_mut().unwrap().remove("@odata.type");
    }
    events
}

#[tokio::test(start_paused = true)]
async fn the_documented_exchange_yields_exactly_the_events_of_the_article() {
    let directory = tempfile::tempdir().unwrap();
    let env = Env::simulated(1, rig::noon());
    let article = Arc::new(Article { asked: Mutex::default(), answers: ARTICLE });
    let (store, supervisor, id) = start(directory.path(), &article, &env, december()).await;
    let fleet = supervisor.fleet();
    // The first round starts without a request: five events, in order, and the stored link.
    let first = first_round(&fleet).await;
    assert_eq!((first.requests, first.pages, first.created), (3, 3, 5));
    let expected = |pages: &[&str]| {
        pages
            .iter()
            .flat_map(|page| events_of(page))
            .map(|e| (e["id"].as_str().unwrap().to_owned(), e))
            .collect()
    };
    assert_same("after the first round", &mirror(&store, id).await, &expected(&PAGES[..3]));
    let position = store.position(id, 0).await.unwrap().unwrap();
    let Phase::Settled { delta: Some(delta) } = position.phase else { panic!("not settled") };
    assert_eq!(
        delta.as_str(),
        "https://graph.microsoft.com/v1.0/me/calendarView/delta?$deltatoken=R0usmcMDNGg0J1E"
    );

    // The second round: its tombstone names an event that the mirror never had, and one event is
    // new.
    let second = fleet.sync("me", Some(Duration::from_secs(60))).await.unwrap().finished.unwrap();
    let round = second.last_round.unwrap();
    assert_eq!((round.requests, round.created, round.updated, round.removed), (1, 1, 0, 0));
    let mirrored = mirror(&store, id).await;
    assert_same("after the second round", &mirrored, &expected(&PAGES));
    assert_same("the feed", &folded(&store, id).await, &mirrored);
    let changes = changes_after(&store, 0, Some(id), 100).await;
    let subjects: Vec<String> = changes
        .value
        .iter()
        .map(|change| {
            assert_eq!(change.kind, ChangeKind::Created);
            let event: Value = serde_json::from_slice(change.event.as_ref().unwrap()).unwrap();
            event["subject"].as_str().unwrap().to_owned()
        })
        .collect();
    assert_eq!(
        subjects,
        [
            "Plan shopping list",
            "Pick up car",
            "Get food",
            "Prepare food",
            "Rest!",
            "Attend service"
        ]
    );
    let Phase::Settled { delta: Some(delta) } = store.position(id, 0).await.unwrap().unwrap().phase
    else {
        panic!("not settled")
    };
    assert_eq!(
        delta.as_str(),
        "https://graph.microsoft.com/v1.0/me/calendarView/delta?$deltatoken=R0usmcFuQtZdtpk4"
    );

    // Every request, links included, has the same `Prefer` header and carries the token.
    let requests = std::mem::take(&mut *article.asked.lock().unwrap());
    assert_eq!(requests.len(), 4);
    for request in &requests {
        assert_eq!(
            request.headers()["prefer"].to_str().unwrap(),
            requests[0].headers()["prefer"].to_str().unwrap()
        );
        assert!(request.headers()["prefer"].to_str().unwrap().contains("odata.maxpagesize=2"));
        assert_eq!(request.headers()["authorization"], "Bearer an-access-token");
    }
    assert!(supervisor.drain(Duration::from_secs(10)).await);
    store.close().await.unwrap();
}

/// Three typical single events of a first calendar: one of them all-day, in a zone requested by its
/// Windows name, across a change to summer time.
#[tokio::test(start_paused = true)]
async fn three_single_events_keep_their_zones_and_the_all_day_one_its_days() {
    let directory = tempfile::tempdir().unwrap();
    let env = Env::simulated(1, rig::noon());
    let answers: &[(&str, &str)] = &[(
        "startDateTime=2020-03-01T00%3A00%3A00Z&endDateTime=2020-04-01T00%3A00%3A00Z",
        QUESTION,
    )];
    let article = Arc::new(Article { asked: Mutex::default(), answers });
    let mut window = december();
    window.settings_mut().start = Edge::At("2020-03-01T00:00:00Z".parse().unwrap());
    window.settings_mut().end = Edge::At("2020-04-01T00:00:00Z".parse().unwrap());
    window.settings_mut().time_zone = "W. Europe Standard Time".into();
    let (store, supervisor, id) = start(directory.path(), &article, &env, window).await;
    assert_eq!(first_round(&supervisor.fleet()).await.created, 3);
    let expected = events_of(QUESTION)
        .into_iter()
        .map(|event| (event["id"].as_str().unwrap().to_owned(), event))
        .collect();
    assert_same("the mirror", &mirror(&store, id).await, &expected);
    let prefer = article.asked.lock().unwrap()[0].headers()["prefer"].to_str().unwrap().to_owned();
    assert!(prefer.contains(r#"outlook.timezone="W. Europe Standard Time""#), "{prefer}");

    // Instants are correct on both sides of the change: 01:30+01:00 to 03:30+02:00 is one hour.
    let at = |text: &str| Some(text.parse::<Timestamp>().unwrap());
    for (from, to, found) in [
        ("2020-03-29T00:30:00Z", "2020-03-29T00:31:00Z", vec!["Quarterly figures"]),
        ("2020-03-29T01:30:00Z", "2020-03-29T02:30:00Z", vec![]),
        ("2020-03-29T22:00:00Z", "2020-03-29T22:01:00Z", vec!["Public holiday"]),
        (
            "2020-03-30T07:00:00Z",
            "2020-03-30T07:30:00Z",
            vec!["Public holiday", "Call with the agency"],
        ),
        ("2020-03-30T22:00:00Z", "2020-03-31T00:00:00Z", vec![]),
    ] {
        let query = EventQuery {
            window: id,
            from: at(from),
            to: at(to),
            limit: 10,
            bytes: usize::MAX,
            after: None,
        };
        let events = store.events(query).await.unwrap();
        let subjects: Vec<Value> = events
            .value
            .iter()
            .map(|raw| serde_json::from_slice::<Value>(raw).unwrap()["subject"].clone())
            .collect();
        assert_eq!(subjects, found, "{from}");
    }
    assert!(supervisor.drain(Duration::from_secs(10)).await);
    store.close().await.unwrap();
}
