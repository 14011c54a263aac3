//! A configuration with many faults: `check` and `run` report all of them at once, with places and
//! remedies.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::Value;

use crate::process::DaemonFixture;

const WINDOWS: &str = r#"
[account.fabrikam]
tenant = "00000000-0000-0000-0000-000000000000"
client_id = "11111111-1111-1111-1111-111111111111"
client_secret_file = "nowhere.secret"

[account.woodgrove]
tenant = "00000000-0000-0000-0000-000000000000"
client_id = "11111111-1111-1111-1111-111111111111"
client_secret_file = "open.secret"

[[window]]
name = "alice"
account = "contoso"
mailbox = "alice@contoso.com"
intervall = "1m"

[[window]]
name = "bob"
account = "contoso"
mailbox = "bob@contoso.com"
start = "the day after tomorrow"

[[window]]
name = "carol"
account = "contoso"
mailbox = "carol@contoso.com"
start = "2026-06-01"
end = "2026-05-01"

[[window]]
name = "alice"
account = "contoso"
mailbox = "alice.too@contoso.com"

[[window]]
name = "dave"
account = "contso"
mailbox = "dave@contoso.com"
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_and_run_report_every_fault_at_once() {
    let fixture = DaemonFixture::new(61, &[]).await;
    fixture.configure(&(fixture.preamble() + WINDOWS));
    fs::write(fixture.path("open.secret"), "s3cret").unwrap();
    fs::set_permissions(fixture.path("open.secret"), fs::Permissions::from_mode(0o644)).unwrap();
    let directory = fixture.directory.path().display().to_string();

    let checked = fixture.cli(&["check"]).await;
    assert_eq!(checked.code, Some(78), "{checked:?}");
    insta::assert_snapshot!(checked.out.replace(&directory, "DIR"));

    let run = fixture.cli(&["run"]).await;
    assert_eq!(run.code, Some(78), "{run:?}");
    let last: Value = serde_json::from_str(run.err.lines().last().unwrap()).unwrap();
    assert_eq!((&last["level"], &last["exit"]), (&"ERROR".into(), &78.into()), "{last}");

    let json = fixture.cli(&["check", "--json"]).await;
    assert_eq!(json.code, Some(78));
    let json: Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(last["faults"], json["faults"], "run reports other faults than check");
    let text = fs::read_to_string(&fixture.config).unwrap();
    fixture.configure(&text.replace("format = \"json\"", "format = \"text\""));
    let run = fixture.cli(&["run"]).await;
    assert!(run.err.contains(&checked.out), "run reports them in the log's format: {}", run.err);
    let faults = json["faults"].as_array().unwrap();
    assert_eq!(faults.len(), checked.out.lines().count());
    for fault in faults {
        assert!(fault["file"].as_str().unwrap().ends_with("calmirror.toml"), "{fault}");
        assert!(fault["line"].as_u64().is_some(), "{fault}");
        for name in ["key", "problem", "remedy"] {
            assert!(!fault[name].as_str().unwrap().is_empty(), "{fault}");
        }
    }
    assert!(!fixture.path("store").exists(), "the store was created");
    assert!(!fixture.path("api.sock").exists());
    assert_eq!(fixture.simulator.statistics().total.requests, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_or_malformed_file_is_reported_with_its_name() {
    let fixture = DaemonFixture::new(62, &[]).await;
    fixture.configure("[store\npath = 1");
    for command in ["check", "run"] {
        let outcome = fixture.cli(&[command]).await;
        assert_eq!(outcome.code, Some(78), "{outcome:?}");
        let told = outcome.out + &outcome.err;
        let place = if command == "run" { "\"line\":1," } else { "calmirror.toml:1" };
        assert!(told.contains(place) && told.contains("calmirror.toml"), "{told}");
    }
    fs::remove_file(&fixture.config).unwrap();
    for command in ["check", "run"] {
        let outcome = fixture.cli(&[command]).await;
        assert_eq!(outcome.code, Some(78), "{outcome:?}");
        assert!((outcome.out + &outcome.err).contains("calmirror.toml"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_valid_configuration_shows_its_windows_and_the_origin_of_values() {
    let fixture = DaemonFixture::new(63, &["alice"]).await;
    let checked = fixture.cli(&["check"]).await;
    assert_eq!(checked.code, Some(0), "{checked:?}");
    assert!(checked.out.contains("alice@contoso.com"), "{}", checked.out);
    let explained = fixture.cli(&["check", "--explain"]).await;
    assert_eq!(explained.code, Some(0));
    let interval = explained.out.lines().find(|l| l.starts_with("defaults.interval "));
    assert!(interval.unwrap().contains("calmirror.toml:"), "{}", explained.out);
    let mut command = fixture.command();
    command.env("CALMIRROR__DEFAULTS__INTERVAL", "7m").args(["check", "--json", "--explain"]);
    let json: Value =
        serde_json::from_str(&crate::process::finish(&mut command).await.out).unwrap();
    assert_eq!(json["valid"], true);
    assert_eq!(json["windows"][0]["interval_s"], 420.0);
}
