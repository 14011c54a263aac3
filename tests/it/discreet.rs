//! The whole process at its most talkative says nothing that is not its own to tell.

use std::fs;

use crate::process::Ground;

/// How `{:?}` shows bytes.
fn bytes(text: &str) -> String {
    format!("{:?}", text.as_bytes()).trim_matches(['[', ']']).to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_level_trace_no_token_secret_link_or_event_is_logged() {
    let ground = Ground::new(71, &["alice"]).await;
    let secret = "canary-secret";
    fs::write(ground.path("secret"), secret).unwrap();
    let config = fs::read_to_string(&ground.config).unwrap();
    let loud = r#"level = "trace,sled=trace,hyper=trace,hyper_util=trace,reqwest=trace,log=trace""#;
    ground.configure(&config.replace("[log]\n", &format!("[log]\n{loud}\n")));

    let daemon = ground.run().await;
    ground.settle("alice").await;
    // Its token is refused, another is asked for.
    ground.simulator.expire_tokens();
    ground.settle("alice").await;
    let events = ground.api.events("alice").await;
    let log = daemon.log();
    daemon.stop().await;

    assert!(log.contains("graph answered"), "our own detail comes out");
    let sign_in = ground.simulator.access_token();
    let mut canaries = vec!["deltatoken", "skiptoken", "Bearer", secret, &sign_in[..12]];
    canaries.extend(["subject", "bodyPreview"]);
    let subjects: Vec<&str> =
        events.values().filter_map(|event| event["subject"].as_str()).collect();
    canaries.extend(subjects.iter().filter(|subject| subject.len() > 5));
    for canary in canaries {
        assert!(!log.contains(canary), "{canary}");
        assert!(!log.contains(&bytes(canary)), "{canary}, as bytes");
    }
}
