//! The output of the real process: complete, without repetition, and with the window concerned. It
//! never contains a secret, a token, a link or the content of an event, whatever happens and
//! whatever the log level.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use calmirror::api::TokenHash;
use calmirror::config::{Config, Sources};
use calmirror::env::Env;
use calmirror::graph::Tokens;
use calmirror::mirror::account::Credential;
use calmirror::mirror::status::WindowState;
use calmirror::simulator::{
    Fault, Faults, MailboxFault, PlannedFault, SignInRefusal, Simulator, SimulatorSettings,
};
use futures_util::future::join_all;
use serde_json::Value;

use crate::memory::Memory;
use crate::process::{DaemonFixture, DaemonProcess, eventually};
use crate::rig::{self, noon};

/// A secret with characters that need encoding, so that encoded forms are found too.
const SECRET: &str = "C4nary/s3cret+&";
const SECRETS: [&str; 3] = [SECRET, "C4nary%2Fs3cret", "C4nary"];
/// Parts of links and tokens; `InvalidDeltaToken` is an error code of Graph.
const LINKS: [&str; 7] =
    ["skiptoken=", "deltatoken=", "token%3d", "r0usmc", "bearer", "access_token", "eyj0exai"];

/// The text as `{:?}` shows bytes, which is how the storage engine logs its writes.
fn as_bytes(text: &str) -> String {
    format!("{:?}", text.as_bytes()).trim_matches(['[', ']']).to_owned()
}

/// Collects the texts of an event that people wrote or that identify people.
fn contents(event: &Value, into: &mut BTreeSet<String>) {
    fn texts(value: &Value, into: &mut BTreeSet<String>) {
        match value {
            Value::String(text) => drop(into.insert(text.trim().to_owned())),
            Value::Array(all) => all.iter().for_each(|value| texts(value, into)),
            Value::Object(all) => all
                .iter()
                .filter(|(key, _)| ["name", "address", "displayName", "content"].contains(&&***key))
                .chain(all.iter().filter(|(key, _)| **key == "emailAddress"))
                .for_each(|(_, value)| texts(value, into)),
            _ => {}
        }
    }
    for key in ["subject", "bodyPreview", "body", "location", "attendees", "organizer"] {
        texts(&event[key], into);
    }
}

fn write_secret(fixture: &DaemonFixture) {
    fs::write(fixture.path("secret"), SECRET).unwrap();
    fs::set_permissions(fixture.path("secret"), fs::Permissions::from_mode(0o600)).unwrap();
}

/// Plays every fault at the most verbose log level, then searches everything that was written.
async fn canary(seed: u64, format: &str) {
    let names = ["w1", "w2", "w3", "w4", "w5", "w6", "w7", "w8"];
    let fixture = DaemonFixture::new(seed, &names).await;
    let text = fs::read_to_string(&fixture.config).unwrap();
    let level =
        "trace,sled=trace,log=trace,hyper=trace,hyper_util=trace,reqwest=trace,rustls=trace";
    let log = format!("[log]\nlevel = \"{level}\"\nformat = \"{format}\"\n");
    fixture.configure(&text.replace("[log]\nformat = \"json\"\n", &log));
    write_secret(&fixture);
    let daemon = fixture.run().await;
    join_all(names.map(|name| fixture.settle(name))).await;

    let lasting =
        [MailboxFault::AccessDenied, MailboxFault::ItemNotFound, MailboxFault::InsufficientClaims];
    let lasting = lasting.into_iter().map(|how| Fault::Mailbox { how });
    let more = [Fault::BadRequest, Fault::Bomb, Fault::ClaimsChallenge];
    let all: Vec<Fault> = Faults::passing().into_iter().chain(lasting).chain(more).collect();
    for faults in all.chunks(names.len()) {
        for (name, fault) in names.iter().zip(faults) {
            fixture.simulator.mutate_randomly();
            let planned = PlannedFault::once(fault.clone()).path("delta");
            fixture.simulator.plan(planned.mailbox(&format!("{name}@contoso.com")));
        }
        join_all(names.map(|name| fixture.settle(name))).await;
    }
    // A failed sign-in, which is then fixed.
    fixture.simulator.plan(PlannedFault::once(Fault::SignIn { how: SignInRefusal::WrongSecret }));
    fixture.simulator.expire_tokens();
    eventually("the account cannot sign in", async || {
        let status = fixture.api.window("w1").await;
        (status.state == WindowState::SignInRequired).then_some(())
    })
    .await;
    let told = fixture.api.get("/v1/windows").await;
    write_secret(&fixture);
    join_all(names.map(|name| fixture.settle(name))).await;

    let mut forbidden = BTreeSet::new();
    for name in names {
        for event in fixture.api.events(name).await.values() {
            contents(event, &mut forbidden);
        }
    }
    // Short texts are common words, and windows have the names of their mailboxes.
    forbidden.retain(|text| text.len() > 10 && !names.iter().any(|name| text.starts_with(name)));
    assert!(forbidden.len() > 50, "{} texts", forbidden.len());
    let explained = fixture.cli(&["check", "--explain"]).await;
    let status = fixture.cli(&["status", "--json"]).await;
    let metrics = fixture.api.get("/metrics").await;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    // With `client_secret_env` the administrator puts the secret into the environment; calmirror
    // itself puts it neither there nor into the command line.
    let process = |what| text(&fs::read(format!("/proc/{}/{what}", daemon.id())).unwrap());
    let written = [
        ("the log", daemon.log()),
        ("check", explained.out + &explained.err),
        ("status", status.out + &status.err),
        ("metrics", text(&metrics.body)),
        ("windows in trouble", text(&told.body)),
        ("the command line", process("cmdline")),
        ("the environment", process("environ")),
    ];
    let log = &written[0].1;
    for wanted in ["graph answered", "round over", "sign-in failed", "sign-in works again"] {
        assert!(log.contains(wanted), "the log is not verbose enough: {wanted}");
    }
    for (where_, text) in &written {
        for line in text.lines() {
            let small = line.to_lowercase();
            for link in LINKS {
                assert!(!small.contains(link), "{link} in {where_}: {line}");
            }
            for secret in SECRETS {
                let tells = line.contains(secret) || line.contains(&as_bytes(secret));
                assert!(!tells, "the secret in {where_}: {line}");
            }
        }
        for content in &forbidden {
            let found = text.lines().find(|line| line.contains(content.as_str()));
            assert_eq!(found, None, "{content:?} in {where_}");
        }
    }
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn json_logs_at_trace_contain_no_secret_link_or_content() {
    canary(61, "json").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn text_logs_at_trace_contain_no_secret_link_or_content() {
    canary(62, "text").await;
}

/// The log lines with a message.
fn lines(daemon: &DaemonProcess, message: &str) -> Vec<Value> {
    let log = daemon.log();
    let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).expect(line));
    lines.filter(|line| line["message"] == message).collect()
}

fn span<'a>(line: &'a Value, name: &str, field: &str) -> &'a Value {
    let spans = line["spans"].as_array().unwrap();
    &spans.iter().find(|span| span["name"] == name).unwrap()[field]
}

async fn with_level(fixture: &DaemonFixture, level: &str) -> DaemonProcess {
    let text = fs::read_to_string(&fixture.config).unwrap();
    fixture.configure(&text.replace("[log]\n", &format!("[log]\nlevel = \"{level}\"\n")));
    fixture.run().await
}

/// The value in both debug formats, as in debugging and panics.
fn debug(what: &impl std::fmt::Debug) -> String {
    format!("{what:?} {what:#?}")
}

#[tokio::test(start_paused = true)]
async fn debug_output_of_values_and_errors_shows_no_secret() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    for name in ["secret", "wide", "api.token"] {
        fs::write(at(name), SECRET).unwrap();
        let mode = if name == "wide" { 0o644 } else { 0o600 };
        fs::set_permissions(at(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    let load = |account: &str| {
        let file = at("calmirror.toml");
        let text = format!(
            "[api]\nlisten = \"127.0.0.1:0\"\ntoken_file = \"api.token\"\n[account.contoso]\n\
             tenant = \"t\"\nclient_id = \"c\"\n{account}\n[[window]]\naccount = \"contoso\"\n\
             mailbox = \"alice@contoso.com\"\n"
        );
        fs::write(&file, text).unwrap();
        Config::load(&Sources::find(Some(&file), BTreeMap::new()), noon())
    };
    let mut seen = Vec::new();
    for key in ["client_secret_file", "certificate_file", "access_token_file"] {
        match load(&format!("{key} = \"secret\"")) {
            Ok(config) => {
                seen.extend([debug(&config), debug(&config.explained), debug(&config.accounts)]);
            }
            // It is no certificate.
            Err(faults) => seen.extend([debug(&faults), faults.to_string()]),
        }
        let faults = load(&format!("{key} = \"wide\"")).unwrap_err();
        seen.extend([debug(&faults), faults.to_string()]);
    }
    // A secret in the wrong place: in the configuration itself.
    for wrong in [format!("client_secret = \"{SECRET}\""), format!("client_secret = {SECRET}")] {
        let faults = load(&wrong).unwrap_err();
        seen.extend([debug(&faults), faults.to_string()]);
    }
    let env = Env::simulated(1, noon());
    let simulator = Simulator::new(SimulatorSettings::new(1, env.clone()));
    for credential in [
        Credential::SecretFile(at("secret")),
        Credential::CertificateFile { path: at("secret"), password_file: None },
        Credential::AccessTokenFile(at("secret")),
        Credential::SecretFile(at("none")),
    ] {
        let sign_in = rig::sign_in(credential);
        seen.push(debug(&sign_in));
        simulator.plan(PlannedFault::once(Fault::SignIn { how: SignInRefusal::WrongSecret }));
        let transport = Arc::new(Memory(simulator.clone()));
        let tokens = Tokens::new(sign_in, transport, env.clone());
        for _ in 0..2 {
            match tokens.token().await {
                Ok(token) => seen.push(debug(&token)),
                Err(error) => seen.extend([debug(&error), error.to_string()]),
            }
        }
        simulator.clear_faults();
    }
    seen.push(debug(&TokenHash::new(SECRET)));
    for text in &seen {
        for secret in SECRETS {
            assert!(!text.contains(secret) && !text.contains(&as_bytes(secret)), "{text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trouble_and_its_end_are_logged_once_with_the_window() {
    let fixture = DaemonFixture::new(63, &["alice", "bob"]).await;
    // With a low log level each line must still name the window.
    let daemon = with_level(&fixture, "warn,calmirror::worker=info").await;
    fixture.settle("alice").await;
    fixture.simulator.plan(
        PlannedFault::always(Fault::Mailbox { how: MailboxFault::AccessDenied })
            .mailbox("alice@contoso.com"),
    );
    for _ in 0..4 {
        fixture.api.post("/v1/windows/alice/sync?wait=30s").await;
    }
    assert!(fixture.api.window("alice").await.failures >= 4);
    fixture.simulator.clear_faults();
    fixture.settle("alice").await;
    let trouble = lines(&daemon, "window in trouble");
    assert_eq!(trouble.len(), 1, "{trouble:?}");
    assert_eq!(trouble[0]["level"], "WARN");
    assert_eq!(trouble[0]["kind"], "forbidden");
    assert_eq!(span(&trouble[0], "window", "window"), "alice");
    assert!(span(&trouble[0], "round", "round").as_u64().unwrap() > 0);
    let recovered = lines(&daemon, "window recovered");
    assert_eq!(recovered.len(), 1, "{recovered:?}");
    assert_eq!(recovered[0]["level"], "INFO");
    assert_eq!(span(&recovered[0], "window", "window"), "alice");
    assert!(lines(&daemon, "round over").is_empty());
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_sign_in_is_one_line_for_the_account() {
    let fixture = DaemonFixture::new(64, &["alice", "bob", "carol"]).await;
    let daemon = fixture.run().await;
    for name in ["alice", "bob", "carol"] {
        fixture.settle(name).await;
    }
    fixture
        .simulator
        .plan(PlannedFault::always(Fault::SignIn { how: SignInRefusal::ExpiredSecret }));
    fixture.simulator.expire_tokens();
    for name in ["alice", "bob", "carol"] {
        eventually("no window can sign in", async || {
            let state = fixture.api.window(name).await.state;
            (state == WindowState::SignInRequired).then_some(())
        })
        .await;
        // The secret file has changed, so the sign-in is tried again; the secret is still wrong.
        write_secret(&fixture);
        fixture.api.post(&format!("/v1/windows/{name}/sync?wait=30s")).await;
    }
    let failed = lines(&daemon, "sign-in failed");
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert_eq!((&failed[0]["level"], &failed[0]["account"]), (&"ERROR".into(), &"contoso".into()));
    assert_eq!(lines(&daemon, "window in trouble"), Vec::<Value>::new());
    fixture.simulator.clear_faults();
    write_secret(&fixture);
    for name in ["alice", "bob", "carol"] {
        fixture.settle(name).await;
    }
    assert_eq!(lines(&daemon, "sign-in works again").len(), 1);
    assert_eq!(lines(&daemon, "window recovered"), Vec::<Value>::new());
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_debug_a_round_is_one_line_of_its_window() {
    let fixture = DaemonFixture::new(65, &["alice"]).await;
    let daemon = with_level(&fixture, "debug").await;
    fixture.settle("alice").await;
    fixture.simulator.plan(PlannedFault::once(Fault::Mailbox { how: MailboxFault::AccessDenied }));
    fixture.api.post("/v1/windows/alice/sync?wait=30s").await;
    fixture.settle("alice").await;
    let last = fixture.api.window("alice").await.last_round.unwrap().number;
    let over = lines(&daemon, "round over");
    let numbers: Vec<u64> =
        over.iter().map(|line| span(line, "round", "round").as_u64().unwrap()).collect();
    assert!(numbers.len() as u64 >= last, "{numbers:?}");
    assert!(numbers.is_sorted_by(|a, b| a < b), "one line per round: {numbers:?}");
    let outcomes: BTreeSet<&str> =
        over.iter().map(|line| line["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["forbidden", "settled"].into());
    for line in &over {
        assert_eq!(
            (&line["level"], span(line, "window", "window")),
            (&"DEBUG".into(), &"alice".into())
        );
    }
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn text_logs_name_window_and_round_and_report_a_missing_journal() {
    let fixture = DaemonFixture::new(66, &["alice"]).await;
    let text = fs::read_to_string(&fixture.config).unwrap();
    let journald = "format = \"journald\"\nlevel = \"debug\"\n";
    fixture.configure(&text.replace("format = \"json\"\n", journald));
    if fs::exists("/run/systemd/journal/socket").unwrap() {
        // This machine has a journal: its entries are checked in a booted system.
        return;
    }
    let daemon = fixture.run().await;
    fixture.settle("alice").await;
    let log = daemon.log();
    assert!(log.lines().next().unwrap().contains("journal cannot be reached"), "{log}");
    let line = log.lines().find(|line| line.contains("round over")).unwrap();
    assert!(line.contains("window{window=alice}:round{round=1}"), "{line}");
    assert!(!log.contains('\u{1b}'), "colours");
    daemon.stop().await;
}
