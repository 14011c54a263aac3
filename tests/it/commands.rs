//! The command line against a running daemon: exit codes, JSON output, and resuming the feed
//! without a gap or a repetition.

use std::collections::BTreeMap;
use std::fs;

use calmirror::mirror::status::WindowState;
use calmirror::simulator::{Fault, MailboxFault, PlannedFault};
use serde_json::Value;

use crate::process::{CommandOutput, DaemonFixture, eventually, finish};
use crate::socket::FeedClient;

fn json(outcome: &CommandOutput) -> Value {
    serde_json::from_str(&outcome.out).unwrap_or_else(|error| panic!("{error}: {outcome:?}"))
}

fn lines(outcome: &CommandOutput) -> Vec<Value> {
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    outcome.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exit_codes_distinguish_healthy_unhealthy_and_unreachable() {
    let fixture = DaemonFixture::new(81, &["alice", "bob"]).await;
    for arguments in
        [&["status"][..], &["health"], &["events", "alice"], &["changes"], &["sync", "--all"]]
    {
        let outcome = fixture.cli(arguments).await;
        assert_eq!(outcome.code, Some(69), "{arguments:?}: {outcome:?}");
        assert!(outcome.err.contains("api.sock"), "does not name the endpoint: {}", outcome.err);
    }
    let daemon = fixture.run().await;
    fixture.settle("alice").await;
    fixture.settle("bob").await;
    assert_eq!(fixture.cli(&["health"]).await.code, Some(0));
    let status = fixture.cli(&["status"]).await;
    assert_eq!(status.code, Some(0), "{status:?}");
    assert!(status.out.contains("alice") && status.out.contains("bob"), "{}", status.out);

    let gone = Fault::Mailbox { how: MailboxFault::AccessDenied };
    fixture.simulator.plan(PlannedFault::always(gone).mailbox("bob@contoso.com"));
    let synced = fixture.cli(&["sync", "bob"]).await;
    assert_eq!(synced.code, Some(1), "{synced:?}");
    assert!(synced.out.contains("bob: round") && synced.out.contains("failed"), "{synced:?}");
    let status = fixture.cli(&["status"]).await;
    assert_eq!(status.code, Some(1), "{status:?}");
    assert!(status.out.contains("quarantined"), "{}", status.out);
    assert_eq!(fixture.cli(&["status", "bob"]).await.code, Some(1));
    assert_eq!(fixture.cli(&["status", "alice"]).await.code, Some(0));
    assert_eq!(
        fixture.cli(&["health"]).await.code,
        Some(0),
        "a failing window does not make the daemon unhealthy"
    );
    let unknown = fixture.cli(&["status", "eve"]).await;
    assert_eq!(unknown.code, Some(1));
    assert!(unknown.err.contains("eve"), "{unknown:?}");
    fixture.simulator.clear_faults();
    assert_eq!(fixture.cli(&["sync", "bob"]).await.code, Some(0));
    assert_eq!(fixture.cli(&["status"]).await.code, Some(0));
    daemon.stop().await;
    assert_eq!(fixture.cli(&["health"]).await.code, Some(69));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn json_output_has_the_documented_shapes() {
    let fixture = DaemonFixture::new(82, &["alice"]).await;
    let daemon = fixture.run().await;
    fixture.settle("alice").await;
    let fleet = json(&fixture.cli(&["status", "--json"]).await);
    assert_eq!(fleet["status"]["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(fleet["status"]["windows"]["total"], 1);
    let window = json(&fixture.cli(&["status", "alice", "--json"]).await);
    assert_eq!(fleet["value"][0]["name"], window["name"]);
    for member in [
        "name",
        "account",
        "mailbox",
        "calendar",
        "start",
        "end",
        "state",
        "events",
        "segments",
        "last_round",
        "last_success",
        "stale_s",
        "next_due",
        "failures",
        "resyncs",
        "last_resync",
        "last_error",
    ] {
        assert!(window.get(member).is_some(), "the window has no member {member}");
    }
    assert_eq!(window["start"], "2026-10-01T00:00:00Z");

    let synced = json(&fixture.cli(&["sync", "alice", "--json"]).await);
    assert_eq!(synced["window"], "alice");
    assert_eq!(synced["last_round"]["number"], synced["round"]);
    let resynced = json(&fixture.cli(&["resync", "alice", "--json"]).await);
    assert_eq!(resynced["state"], "settled");
    assert_eq!(resynced["last_round"]["created"], 0);
    assert!(resynced["last_round"]["pages"].as_u64().unwrap() > 3, "{resynced}");
    let window = json(&fixture.cli(&["status", "alice", "--json"]).await);
    assert_eq!(window["last_resync"]["reason"], "requested");

    let health = json(&fixture.cli(&["health", "--json"]).await);
    assert_eq!(health["status"], "ok");

    let all = ["events", "alice", "--from", "2026-10-01", "--to", "2027-02-01"];
    let mirrored = fixture.api.events("alice").await;
    let outcome = fixture.cli(&[&all[..], &["--json"]].concat()).await;
    let shown: BTreeMap<String, Value> = lines(&outcome)
        .into_iter()
        .map(|event| (event["id"].as_str().unwrap().to_owned(), event))
        .collect();
    assert_eq!(shown, mirrored);
    let agenda = fixture.cli(&all).await;
    assert_eq!(agenda.code, Some(0));
    for event in mirrored.values().take(5) {
        let subject = event["subject"].as_str().unwrap();
        assert!(agenda.out.contains(subject), "{subject} is missing from the agenda");
    }
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_saved_cursor_resumes_without_gap_or_repetition() {
    let fixture = DaemonFixture::new(83, &["alice", "bob"]).await;
    let mut daemon = fixture.run().await;
    let state = fixture.path("cursor");
    let state = state.to_str().unwrap();
    let mut held = FeedClient::default();
    for round in 0..4 {
        for _ in 0..10 {
            fixture.simulator.mutate_randomly();
        }
        fixture.settle("alice").await;
        fixture.settle("bob").await;
        let before = held.lines;
        let told = lines(&fixture.cli(&["changes", "--state", state]).await);
        told.iter().for_each(|line| held.apply(line));
        assert!(held.lines > before, "no change arrived");
        let again = fixture.cli(&["changes", "--state", state]).await;
        assert_eq!((again.code, &*again.out), (Some(0), ""), "a change was repeated");
        if round == 1 {
            // The cursor stays valid across a restart of the daemon.
            daemon.stop().await;
            daemon = fixture.run().await;
        }
    }
    for name in ["alice", "bob"] {
        assert_eq!(held.of(name), fixture.api.events(name).await, "{name}");
    }

    // One window only, then from the current position only.
    let alice = lines(&fixture.cli(&["changes", "--window", "alice"]).await);
    assert!(!alice.is_empty() && alice.iter().all(|line| line["window"] == "alice"));
    assert_eq!(lines(&fixture.cli(&["changes", "--after", "now"]).await).len(), 0);

    // A cursor of another store is rejected, and nothing is printed.
    fs::write(fixture.path("cursor"), "of-another-store").unwrap();
    let strange = fixture.cli(&["changes", "--state", state]).await;
    assert!(matches!(strange.code, Some(1 | 64)), "{strange:?}");
    assert_eq!(strange.out, "");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_pipe_is_not_a_failure() {
    let fixture = DaemonFixture::new(84, &["alice", "bob"]).await;
    let daemon = fixture.run().await;
    fixture.settle("alice").await;
    fixture.settle("bob").await;
    let all = fixture.cli(&["changes"]).await;
    assert!(all.out.len() > 2 * 65536, "must exceed a pipe's buffer: {}", all.out.len());
    let script = r#"{ "$0" --config "$1" changes; echo "exit $?" >&2; } | head -n 1"#;
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", script, env!("CARGO_BIN_EXE_calmirror")]).arg(&fixture.config);
    let outcome = finish(&mut shell).await;
    assert_eq!(outcome.out.lines().count(), 1);
    assert_eq!(outcome.err, "exit 0\n");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_arguments_are_usage_errors() {
    let fixture = DaemonFixture::new(85, &[]).await;
    for arguments in [
        &["no-such-command"][..],
        &["status", "--no-such-option"],
        &["sync"],
        &["sync", "alice", "--all"],
        &["events"],
        &[],
        &["--api", "https://mirror", "status"],
    ] {
        let outcome = fixture.cli(arguments).await;
        assert_eq!(outcome.code, Some(64), "{arguments:?}: {outcome:?}");
        assert_eq!(outcome.out, "");
        assert!(!outcome.err.is_empty());
    }
    let version = fixture.cli(&["--version"]).await;
    assert_eq!(version.code, Some(0));
    let said = version.out.trim();
    assert!(
        said.starts_with(&format!("calmirror {} (commit ", env!("CARGO_PKG_VERSION"))),
        "{said}"
    );
    assert!(said.ends_with(&format!("{})", calmirror::cli::arguments::TARGET)), "{said}");
    let help = fixture.cli(&["--help"]).await;
    assert_eq!(help.code, Some(0));
    assert!(help.out.contains("Exit codes"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_in_use_is_reported_with_a_remedy() {
    let fixture = DaemonFixture::new(87, &[]).await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for command in ["demo", "simulate"] {
        let refused = fixture.cli(&[command, "--listen", &address]).await;
        assert_eq!(refused.code, Some(1), "{refused:?}");
        for part in [&*format!("cannot listen on {address}"), "--listen 127.0.0.1:0"] {
            assert!(refused.err.contains(part), "{command}: {part} in {}", refused.err);
        }
    }
    let text = fs::read_to_string(&fixture.config).unwrap();
    let api = format!("[api]\nlisten = \"{address}\"\ntoken_file = \"secret\"\n");
    fixture.configure(&text.replace("[api]\n", &api));
    let refused = fixture.cli(&["run"]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.err.contains("set another api.listen"), "{}", refused.err);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sync_of_a_throttled_mailbox_prints_the_reason_for_its_wait() {
    let fixture = DaemonFixture::new(90, &["alice"]).await;
    let daemon = fixture.run().await;
    fixture.settle("alice").await;
    let retry_after = Some("10".to_owned());
    fixture.simulator.plan(PlannedFault::once(Fault::Throttled { retry_after }));
    eventually("alice's mailbox pauses", async || {
        let state = fixture.api.window("alice").await.state;
        (state == WindowState::BackingOff).then_some(())
    })
    .await;
    let synced = fixture.cli(&["sync", "alice"]).await;
    assert_eq!(synced.code, Some(0), "{synced:?}");
    let waits = "calmirror: alice: waiting for its mailbox, which pauses until about 20";
    assert!(synced.err.starts_with(waits), "{synced:?}");
    assert_eq!(synced.err.lines().count(), 1, "{synced:?}");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_logs_one_line_about_the_fleet() {
    let fixture = DaemonFixture::new(88, &["alice", "bob"]).await;
    let daemon = fixture.run().await;
    let log = daemon.log();
    let lines: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .filter(|line: &Value| line["message"] == "starting")
        .collect();
    let [line] = lines.as_slice() else { panic!("{log}") };
    assert_eq!(line["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!((line["windows"].as_u64(), line["accounts"].as_u64()), (Some(2), Some(1)));
    for (field, path) in [("store", "store"), ("socket", "api.sock"), ("config", "calmirror.toml")]
    {
        assert_eq!(line[field], fixture.path(path).display().to_string(), "{field}");
    }
    assert_eq!(line["listen"], Value::Null, "no listener is configured");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn empty_variables_count_as_unset_and_a_plain_token_is_warned_about() {
    let fixture = DaemonFixture::new(89, &[]).await;
    let daemon = fixture.run().await;
    let variables = ["CALMIRROR_API", "CALMIRROR_TOKEN", "CALMIRROR__API__SOCKET"];
    let mut command = fixture.command();
    let health = finish(command.arg("health").envs(variables.map(|name| (name, "")))).await;
    assert_eq!((health.code, &*health.err), (Some(0), ""), "{health:?}");
    let mut command = fixture.command();
    let socket = fixture.path("api.sock");
    let check =
        command.args(["--api", socket.to_str().unwrap(), "health"]).env("CALMIRROR_CONFIG", "");
    assert_eq!(finish(check).await.code, Some(0));

    let mut command = fixture.command();
    command.args(["--api", "http://mirror.invalid:1", "health"]).env("CALMIRROR_TOKEN", "t0ken");
    let told = finish(&mut command).await;
    assert_eq!(told.code, Some(69), "{told:?}");
    let warning =
        "calmirror: warning: $CALMIRROR_TOKEN goes to http://mirror.invalid:1 as clear text";
    assert!(told.err.starts_with(warning), "{}", told.err);
    assert!(!told.err.contains("t0ken"), "{}", told.err);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_resolve_socket_paths_relative_to_the_configuration_file() {
    let fixture = DaemonFixture::new(86, &["alice"]).await;
    let socket = fixture.path("api.sock").display().to_string();
    let text = fs::read_to_string(&fixture.config).unwrap();
    fixture.configure(&text.replace(&socket, "api.sock"));
    let daemon = fixture.run().await;
    let health = fixture.cli(&["health"]).await;
    assert_eq!(health.code, Some(0), "{health:?}");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_disconnects_is_not_an_error() {
    use std::io::Read as _;
    use std::process::Stdio;

    let fixture = DaemonFixture::new(86, &["alice"]).await;
    let daemon = fixture.run().await;
    fixture.settle("alice").await;
    for arguments in [
        &["changes"][..],
        &["changes", "--follow"],
        &["events", "alice", "--from", "2026-10-01", "--to", "2027-02-01"],
        &["status", "--watch"],
        &["completions", "bash"],
        &["man"],
        &["demo", "--listen", "127.0.0.1:0"],
        // This command prints nothing more, so it has to poll its stdout to notice.
        &["simulate", "--listen", "127.0.0.1:0", "--mutate-every", "0s"],
    ] {
        let (stdout, theirs) = std::io::pipe().unwrap();
        let mut command = fixture.command();
        command.args(arguments).stdout(theirs).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // `Command` also holds the writing end until it is dropped.
        drop(command);
        // Read part of the output, then close the pipe, as `| head -1` does.
        let mut stdout = stdout;
        assert!(stdout.read(&mut [0; 16]).unwrap() > 0, "{arguments:?}");
        drop(stdout);
        if arguments.contains(&"--follow") {
            // It notices the closed pipe at its next write.
            fixture.simulator.mutate_randomly();
        }
        let code =
            crate::process::eventually("the command ends", async || child.try_wait().unwrap())
                .await;
        let mut err = String::new();
        child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        assert_eq!((code.code(), &*err), (Some(0), ""), "{arguments:?}");
    }
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_fleet_is_filtered_and_mistyped_windows_get_a_suggestion() {
    let fixture = DaemonFixture::new(84, &["alice", "bob", "room-cedar"]).await;
    let daemon = fixture.run().await;
    for window in ["alice", "bob", "room-cedar"] {
        fixture.settle(window).await;
    }
    let gone = Fault::Mailbox { how: MailboxFault::AccessDenied };
    fixture.simulator.plan(PlannedFault::always(gone).mailbox("bob@contoso.com"));
    assert_eq!(fixture.cli(&["sync", "bob"]).await.code, Some(1));

    let named = |outcome: &CommandOutput| -> Vec<String> {
        let listed = json(outcome);
        let value = listed["value"].as_array().unwrap().iter();
        value.map(|window| window["name"].as_str().unwrap().to_owned()).collect()
    };
    for (arguments, names, code) in [
        (&["status", "--trouble"][..], &["bob"][..], 1),
        (&["status", "--state", "quarantined"], &["bob"], 1),
        (&["status", "--limit", "1"], &["bob"], 1),
        (&["status", "--limit", "2"], &["bob", "alice"], 1),
        (&["status", "--state", "held,store_full"], &[], 0),
        (&["status", "--state", "held", "--trouble", "--limit", "9"], &[], 0),
        (&["status"], &["alice", "bob", "room-cedar"], 1),
    ] {
        let outcome = fixture.cli(&[arguments, &["--json"]].concat()).await;
        assert_eq!(
            (named(&outcome), outcome.code),
            (names.iter().map(|n| (*n).to_owned()).collect(), Some(code)),
            "{arguments:?}"
        );
        // The text output lists the same windows and is not cut without a terminal.
        let told = fixture.cli(arguments).await;
        assert_eq!(told.code, Some(code), "{told:?}");
        for window in ["alice", "bob", "room-cedar"] {
            let shown = told.out.lines().any(|line| line.starts_with(window));
            assert_eq!(shown, names.contains(&window), "{arguments:?}: {}", told.out);
        }
        if names.contains(&"bob") {
            let whole = json(&fixture.cli(&["status", "bob", "--json"]).await);
            let message = whole["last_error"]["message"].as_str().unwrap();
            assert!(told.out.contains(message), "{message}: {}", told.out);
        }
    }
    let limited = fixture.cli(&["status", "--limit", "1"]).await;
    assert!(limited.out.ends_with("… and 2 more\n"), "{}", limited.out);

    for arguments in [
        &["status", "alcie"][..],
        &["events", "Alise"],
        &["events", "alicee", "--ics"],
        &["changes", "--window", "alic"],
        &["sync", "bob", "lice"],
        &["resync", "al1ce"],
    ] {
        let outcome = fixture.cli(arguments).await;
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        assert!(outcome.err.contains("did you mean `alice`?"), "{outcome:?}");
    }
    let outcome = fixture.cli(&["status", "quite another"]).await;
    assert!(outcome.err.contains("calmirror status lists the windows"), "{outcome:?}");

    // The request that a shell makes for Tab completion.
    let tab = async |words: &[&str]| {
        let mut command = fixture.command();
        let index = (words.len() - 1).to_string();
        command.env("CALMIRROR_COMPLETE", "bash").env("_CLAP_COMPLETE_INDEX", index);
        command.env("_CLAP_IFS", "\n").arg("--").args(words);
        let outcome = finish(&mut command).await;
        assert_eq!((outcome.code, &*outcome.err), (Some(0), ""), "{words:?}");
        outcome.out.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let config = fixture.config.to_str().unwrap();
    for command in ["status", "events", "sync", "resync"] {
        let found = tab(&["calmirror", "--config", config, command, "r"]).await;
        assert_eq!(found, ["room-cedar"], "{command}");
    }
    let all = tab(&["calmirror", "--config", config, "changes", "--window", ""]).await;
    assert_eq!(all, ["alice", "bob", "room-cedar"]);
    daemon.stop().await;
    assert_eq!(tab(&["calmirror", "--config", config, "sync", "r"]).await, [""; 0]);
}
