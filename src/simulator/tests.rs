//! Tests the simulator with a minimal client that knows nothing of its internals: the client
//! upserts, applies tombstones, and takes a series from its listing.
use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use jiff::Timestamp;
use serde_json::Value;

use super::*;
use crate::env::Env;

mod assertions;
mod clients;
mod delegation;
mod device_code;
mod directory;
mod faults;
mod group_calendar;
mod handle;
mod managed_identity;
mod places;
mod protocol;
mod sign_in;
mod socket;

// Wide enough for changes at its edges, narrow enough for a fast test.
const START: &str = "2026-02-20T00:00:00Z";
const END: &str = "2026-03-20T00:00:00Z";

const ALICE: &str = "alice@contoso.example";

fn code(body: &Value) -> &str {
    body["error"]["code"].as_str().unwrap_or_default()
}

fn edit(simulator: &Simulator, edit: Edit) -> String {
    simulator.mutate(Mutation { mailbox: ALICE.to_owned(), calendar: None, edit }).unwrap()
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn simulator(seed: u64, behaviour: Behaviour) -> Simulator {
    let env = Env::simulated(seed, at("2026-03-02T08:00:00Z"));
    let simulator =
        Simulator::new(SimulatorSettings { behaviour, ..SimulatorSettings::new(seed, env) });
    simulator.set_base_url("https://graph.example/v1.0");
    simulator
}

/// Two mailboxes, the first with a small, varied calendar.
fn small(seed: u64, behaviour: Behaviour) -> Simulator {
    let simulator = simulator(seed, behaviour);
    simulator.add_mailbox("alice@contoso.example");
    simulator.add_mailbox("bob@contoso.example");
    let around = at("2026-03-02T08:00:00Z");
    let plan =
        Population { singles: 10, series: 3, all_day: 2, body_bytes: 300, around, spread_days: 40 };
    simulator.populate("alice@contoso.example", None, plan);
    simulator
}

fn request(token: &str, url: &str, prefer: &str) -> http::Request<Bytes> {
    http::Request::get(url)
        .header("authorization", format!("Bearer {token}"))
        .header("prefer", prefer)
        .body(Bytes::new())
        .unwrap()
}

async fn get(simulator: &Simulator, url: &str, prefer: &str) -> (u16, Value) {
    get_with(simulator, &simulator.access_token(), url, prefer).await
}

async fn get_with(simulator: &Simulator, token: &str, url: &str, prefer: &str) -> (u16, Value) {
    match simulator.answer(request(token, url, prefer)).await {
        SimulatedResponse::Response(response) => {
            let status = response.status().as_u16();
            (status, serde_json::from_slice(response.body()).unwrap_or(Value::Null))
        }
        other => panic!("not a plain response: {other:?}"),
    }
}

fn window_url(mailbox: &str) -> String {
    format!(
        "https://graph.example/v1.0/users/{mailbox}/calendarView/delta?startDateTime={START}&endDateTime={END}"
    )
}

/// A minimal mirror.
struct Client {
    simulator: Simulator,
    token: String,
    prefer: String,
    mailbox: &'static str,
    link: String,
    enumerating: bool,
    events: BTreeMap<String, Value>,
    pages: usize,
}

impl Client {
    fn new(simulator: &Simulator, page: usize) -> Self {
        Self {
            simulator: simulator.clone(),
            token: simulator.access_token(),
            prefer: format!("odata.maxpagesize={page}"),
            mailbox: "alice@contoso.example",
            link: window_url("alice@contoso.example"),
            enumerating: true,
            events: BTreeMap::new(),
            pages: 0,
        }
    }

    async fn round(&mut self) {
        let (mut seen, mut touched) = (BTreeSet::new(), BTreeSet::new());
        for page in 0.. {
            assert!(page < 2000, "the round does not end");
            self.pages += 1;
            let (status, body) =
                get_with(&self.simulator, &self.token, &self.link, &self.prefer).await;
            assert_eq!(status, 200, "{body}");
            for item in body["value"].as_array().unwrap() {
                let id = item["id"].as_str().unwrap().to_owned();
                if item.get("@removed").is_some() {
                    if let Some(gone) = self.events.remove(&id) {
                        touched.extend(gone["seriesMasterId"].as_str().map(str::to_owned));
                    }
                    touched.insert(id);
                    continue;
                }
                match item["type"].as_str().unwrap() {
                    "singleInstance" => {
                        let mut event = item.clone();
                        event.as_object_mut().unwrap().remove("@odata.type");
                        self.events.insert(id.clone(), event);
                        seen.insert(id);
                    }
                    "seriesMaster" => {
                        touched.insert(id);
                    }
                    _ => {
                        touched.insert(item["seriesMasterId"].as_str().unwrap().to_owned());
                    }
                }
            }
            if let Some(next) = body["@odata.nextLink"].as_str() {
                self.link = next.to_owned();
                continue;
            }
            self.link = body["@odata.deltaLink"].as_str().expect("a link").to_owned();
            break;
        }
        if self.enumerating {
            self.events.retain(|id, event| {
                seen.contains(id)
                    || touched.contains(event["seriesMasterId"].as_str().unwrap_or(""))
            });
        }
        self.enumerating = false;
        for master in touched {
            self.series(&master).await;
        }
    }

    /// Replaces a series with Graph's listing of it.
    async fn series(&mut self, master: &str) {
        let known = |event: &Value| event["seriesMasterId"] == master;
        self.events.retain(|_, event| !known(event));
        let mut url = format!(
            "https://graph.example/v1.0/users/{}/events/{}/instances?startDateTime={START}&endDateTime={END}&$top=50",
            self.mailbox,
            master.replace('=', "%3D")
        );
        loop {
            let (status, body) = get_with(&self.simulator, &self.token, &url, "").await;
            if status != 200 {
                // It is gone, or not a series.
                assert!(status == 404 || status == 400, "{body}");
                return;
            }
            for event in body["value"].as_array().unwrap() {
                self.events.insert(event["id"].as_str().unwrap().to_owned(), event.clone());
            }
            match body["@odata.nextLink"].as_str() {
                Some(next) => url = next.to_owned(),
                None => return,
            }
        }
    }

    fn check(&self, what: &str) {
        let truth: BTreeMap<String, Value> = self
            .simulator
            .truth(self.mailbox, None, at(START), at(END))
            .into_iter()
            .map(|event| (event["id"].as_str().unwrap().to_owned(), event))
            .collect();
        let ids = |events: &BTreeMap<String, Value>| events.keys().cloned().collect::<Vec<_>>();
        assert_eq!(ids(&self.events), ids(&truth), "{what}");
        for (id, event) in &truth {
            assert_eq!(&self.events[id], event, "{what}");
        }
    }
}

async fn converges(name: &str, seed: u64, behaviour: Behaviour, steps: usize) {
    let simulator = small(seed, behaviour);
    let mut client = Client::new(&simulator, 7);
    client.round().await;
    client.check(name);
    for step in 0..steps {
        let mutation = simulator.mutate_randomly().unwrap();
        if step % 8 == 7 {
            client.round().await;
        }
        if step % 40 == 39 {
            client.check(&format!("{name}, after {mutation:?}"));
        }
    }
}

async fn every_reading_with(master: MasterOnPage) {
    for (number, (name, behaviour)) in Behaviour::all().into_iter().enumerate() {
        if behaviour.master == master {
            converges(&name, number as u64, behaviour, 200).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_simple_client_converges_with_masters_first() {
    every_reading_with(MasterOnPage::First).await;
}

#[tokio::test(start_paused = true)]
async fn a_simple_client_converges_with_masters_last() {
    every_reading_with(MasterOnPage::Last).await;
}

#[tokio::test(start_paused = true)]
async fn a_simple_client_converges_without_masters() {
    every_reading_with(MasterOnPage::Absent).await;
}

#[tokio::test(start_paused = true)]
async fn a_simple_client_converges_under_all_faults() {
    // The listings of series have to be complete, since this client reads no plain view.
    let listed = |behaviour: Behaviour| Behaviour {
        instances: InstanceListing::Complete,
        private_events: PrivateEvents::Readable,
        ..behaviour
    };
    for seed in 100..108 {
        let behaviour = Behaviour { kept_tokens: 2, ..listed(Behaviour::by_seed(seed)) };
        converges(&format!("seed {seed}"), seed, behaviour, 200).await;
    }
    converges("nasty", 1, listed(Behaviour::by_name("nasty").unwrap()), 200).await;
}

/// Runs a client that uses only delta pages and no listings: a re-sent series replaces the stored
/// one (`whole`), or tombstones remove the items that left.
async fn pages_alone_suffice(name: &str, seed: u64, behaviour: Behaviour) {
    let whole = behaviour.resend == Resend::Whole;
    let simulator = small(seed, behaviour);
    let mut mirror: BTreeMap<String, Value> = BTreeMap::new();
    let (token, mut link) = (simulator.access_token(), window_url("alice@contoso.example"));
    for step in 0..100 {
        let mut sent = Vec::new();
        loop {
            let (status, body) = get_with(&simulator, &token, &link, "odata.maxpagesize=20").await;
            assert_eq!(status, 200);
            sent.extend(body["value"].as_array().unwrap().clone());
            if let Some(next) = body["@odata.nextLink"].as_str() {
                link = next.to_owned();
                continue;
            }
            link = body["@odata.deltaLink"].as_str().unwrap().to_owned();
            break;
        }
        if whole {
            let again: BTreeSet<String> = sent
                .iter()
                .filter_map(|item| item["seriesMasterId"].as_str().map(str::to_owned))
                .collect();
            mirror
                .retain(|_, event| !again.contains(event["seriesMasterId"].as_str().unwrap_or("")));
        }
        for item in sent {
            let id = item["id"].as_str().unwrap().to_owned();
            if item.get("@removed").is_some() {
                mirror.retain(|known, event| *known != id && event["seriesMasterId"] != id);
            } else if item["type"] != "seriesMaster" {
                mirror.insert(id, item);
            }
        }
        let essence =
            |event: &Value| ["id", "type", "start", "end"].map(|name| event[name].to_string());
        let mirrored: BTreeSet<_> = mirror.values().map(essence).collect();
        if step % 10 > 0 {
            simulator.mutate_randomly().unwrap();
            continue;
        }
        let truth = simulator.truth("alice@contoso.example", None, at(START), at(END));
        let truth: BTreeSet<_> = truth.iter().map(essence).collect();
        assert_eq!(mirrored, truth, "{name}, step {step}");
        simulator.mutate_randomly().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_resent_series_is_complete() {
    for (seed, (name, behaviour)) in Behaviour::all().into_iter().enumerate() {
        if behaviour.resend == Resend::Whole {
            pages_alone_suffice(&name, seed as u64, behaviour).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn tombstones_name_every_removed_event() {
    for (seed, (name, behaviour)) in Behaviour::all().into_iter().enumerate() {
        if behaviour.resend == Resend::Tombstones {
            pages_alone_suffice(&name, seed as u64, behaviour).await;
        }
    }
}
