//! Sinks: where changes are sent.

use super::*;
use crate::config::{AccessLevel, SinkTargetConfig, SinkUrl};

/// A configuration with the files of a webhook.
fn fixture(text: &str) -> ConfigFixture {
    let fixture = ConfigFixture::with(text);
    fixture.secret("crm.url", "https://crm.example/hook", 0o600);
    fixture.secret("crm.whsec", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", 0o600);
    fixture
}

#[track_caller]
fn check_sink(text: &str, expected: &[&str]) {
    let text = format!("[sink.crm]\n{text}\n");
    let faults = fixture(&text).faults();
    let short: Vec<&str> = faults.iter().map(|fault| fault.split_once(": ").unwrap().1).collect();
    assert_eq!(short, expected, "of\n{text}");
}

#[test]
fn a_sink_has_a_target_and_sends_everything_unless_it_is_limited() {
    let text = "[sink.crm]\ntype = \"webhook\"\nurl_file = \"crm.url\"\nsecret_file = \"crm.whsec\"\nwindows = [\"a\", \"room-*\"]\ngroups = [\"g\"]\nfilter = \"response=accepted,organizer&ignore=changeKey\"\nlevel = \"times\"\nbatch = \"5s\"\nformat = \"cloudevents\"\n[sink.copy]\ntype = \"sqlite\"\npath = \"/tmp/copy.sqlite\"\n[sink.db]\ntype = \"postgres\"\nurl = \"postgres://me:canary@db/x\"\n[[window]]\naccount = \"contoso\"\nmailbox = \"a\"\ngroups = [\"g\"]\n[account.contoso]\ntenant = \"t\"\nclient_id = \"c\"\nclient_secret_file = \"crm.whsec\"\n";
    let config = fixture(text).config();
    let [copy, crm, db] = &config.sinks[..] else { panic!("{:?}", config.sinks) };
    assert_eq!((&*copy.name, copy.level, copy.windows.len()), ("copy", AccessLevel::All, 0));
    assert_eq!((crm.level, crm.windows.len(), crm.groups.len()), (AccessLevel::Times, 2, 1));
    let SinkTargetConfig::Webhook(webhook) = &crm.target else { panic!("{crm:?}") };
    assert!(webhook.cloud_events && !webhook.allow_private);
    let SinkTargetConfig::Postgres { url: SinkUrl::Text(url), schema, .. } = &db.target else {
        panic!("{db:?}")
    };
    assert_eq!((&**url, &**schema), ("postgres://me:canary@db/x", "calmirror"));
    // An address is never shown.
    let explained = config.explained.iter().map(|value| format!("{}={}", value.key, value.value));
    let shown = format!("{:?} {:?}", config.sinks, explained.collect::<Vec<_>>());
    assert!(!shown.contains("canary") && shown.contains("sink.db.url=(hidden)"), "{shown}");
}

#[test]
fn what_is_wrong_with_a_sink_is_said_with_its_place() {
    check_sink(
        "",
        &["sink.crm: no type; write type = \"webhook\", \"postgres\", \"sqlite\" or \"nats\""],
    );
    check_sink(
        "type = \"kafka\"",
        &["sink.crm.type: unknown value \"kafka\"; write one of webhook, postgres, sqlite, nats"],
    );
    check_sink(
        "type = \"sqlite\"\npath = \"/tmp/x\"\nurl = \"x\"",
        &["sink.crm.url: not a key of this type of sink; remove the line"],
    );
    check_sink(
        "type = \"webhook\"\nsecret_file = \"crm.whsec\"",
        &["sink.crm: no url and no url_file; write exactly one of url_file, url"],
    );
    check_sink(
        "type = \"webhook\"\nurl_file = \"crm.url\"",
        &[
            "sink.crm: no secret_file; write secret_file, a file with the secret that signs requests",
        ],
    );
    let sqlite = "type = \"sqlite\"\npath = \"/tmp/x\"\n";
    for (line, fault) in [
        ("groups = [\"g\"]", "sink.crm.groups: no group is named \"g\""),
        ("filter = \"respons=accepted\"", "sink.crm.filter: \"respons\" is no key of a filter"),
        ("filter = \"response=yes\"", "sink.crm.filter: response: unknown value \"yes\""),
        ("filter = \"ignore=changeKey\"", "sink.crm.filter: \"ignore\" is no key of a filter"),
        ("windows = []", "sink.crm.windows: no windows"),
        ("level = \"busy\"", "sink.crm.level: unknown value \"busy\""),
    ] {
        let faults = fixture(&format!("[sink.crm]\n{sqlite}{line}\n")).faults();
        assert!(faults.len() == 1 && faults[0].contains(fault), "{line}: {faults:?}");
    }
    let faults = fixture(&format!("[sink.a]\n{sqlite}[sink.b]\n{sqlite}")).faults();
    assert!(faults[0].contains("sink.b.path: the same file as sink.a.path"), "{faults:?}");
    let schema = "type = \"postgres\"\nurl = \"x\"\nschema = \"Mine\"";
    let faults = fixture(&format!("[sink.crm]\n{schema}\n")).faults();
    assert!(faults[0].contains("not a name for a schema"), "{faults:?}");
    let nats = "type = \"nats\"\nurl = \"nats://canary@n\"\n";
    for (line, fault) in [
        ("stream = \"A.B\"", "sink.a.stream: not a name for a stream"),
        ("subject = \"cal..x\"", "sink.a.subject: not the beginning of subjects"),
        ("subject = \"cal.>\"", "sink.a.subject: not the beginning of subjects"),
        ("schema = \"x\"", "sink.a.schema: not a key of this type of sink"),
    ] {
        let faults = fixture(&format!("[sink.a]\n{nats}{line}\n")).faults();
        assert!(faults.len() == 1 && faults[0].contains(fault), "{line}: {faults:?}");
    }
    let faults = fixture(&format!("[sink.a]\n{nats}[sink.b]\n{nats}")).faults();
    let shared = "sink.b.subject: the same stream and subject as sink.a.subject";
    assert!(faults[0].contains(shared) && !faults[0].contains("canary"), "{faults:?}");
}

#[test]
fn a_stream_keeps_removals_as_long_as_the_feed() {
    let text = "[feed]\nretention = \"3d\"\n[sink.a]\ntype = \"nats\"\nurl = \"tls://n:4222\"\n                credentials_file = \"n.creds\"\nsubject = \"cal.prod\"\n[account.contoso]\n                tenant = \"t\"\nclient_id = \"c\"\nclient_secret_file = \"crm.whsec\"\n";
    let fixture = fixture(text);
    fixture.secret("n.creds", "canary", 0o600);
    let config = fixture.config();
    let SinkTargetConfig::Nats(nats) = &config.sinks[0].target else { panic!("{config:?}") };
    assert_eq!((&*nats.stream, &*nats.subject), ("CALMIRROR", "cal.prod"));
    assert_eq!(nats.retention, std::time::Duration::from_secs(3 * 24 * 3600));
    assert!(nats.credentials_file.as_ref().unwrap().ends_with("n.creds"));
}
