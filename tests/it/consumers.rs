//! Consumers and groups with the real binary: what they see, and what a reload changes.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use crate::process::{DaemonFixture, eventually};

/// A configuration with three windows, of which these belong to the group `rooms`.
fn configuration(fixture: &DaemonFixture, rooms: &[&str], more: &str) -> String {
    let mut text = fixture.preamble();
    for name in ["alice", "room-1", "room-2"] {
        let groups = if rooms.contains(&name) { "groups = [\"rooms\"]\n" } else { "" };
        text.push_str(&format!(
            "[[window]]\nname = \"{name}\"\naccount = \"contoso\"\nmailbox = \"{name}@contoso.com\"\n{groups}"
        ));
    }
    text + more
}

/// The names of the windows in the lines of a feed response, and its cursor.
async fn windows_of(fixture: &DaemonFixture, path: &str) -> (BTreeSet<String>, String) {
    let answer = fixture.api.get(path).await;
    assert!(answer.status.is_success(), "{path}: {:?}", answer.body);
    let lines = answer.body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let name = |line: &[u8]| {
        let line: Value = serde_json::from_slice(line).unwrap();
        line["window"].as_str().unwrap().to_owned()
    };
    (lines.map(name).collect(), answer.cursor.unwrap())
}

async fn reload(fixture: &DaemonFixture) {
    let reloaded = fixture.cli(&["reload"]).await;
    assert!(reloaded.code == Some(0), "{}", reloaded.err);
}

#[tokio::test]
async fn a_group_that_grows_and_a_consumer_of_this_user() {
    let fixture = DaemonFixture::new(91, &[]).await;
    for mailbox in ["alice", "room-1", "room-2"] {
        fixture.populate(mailbox);
    }
    fixture.configure(&configuration(&fixture, &["room-1"], ""));
    let daemon = fixture.run().await;
    for window in ["alice", "room-1", "room-2"] {
        fixture.settle(window).await;
    }
    let feed = "/v1/changes?group=rooms&cancelled=false&limit=10000";
    let (windows, cursor) = windows_of(&fixture, feed).await;
    assert_eq!(windows, ["room-1".to_owned()].into());
    let after = format!("{feed}&after={cursor}");
    assert!(windows_of(&fixture, &after).await.0.is_empty());

    // The events of the second room lie below the cursor.
    fixture.configure(&configuration(&fixture, &["room-1", "room-2"], ""));
    reload(&fixture).await;
    let answer = fixture.api.get(&after).await;
    assert_eq!(answer.status.as_u16(), 410, "{:?}", answer.body);
    let (windows, _) = windows_of(&fixture, feed).await;
    assert_eq!(windows, ["room-1".to_owned(), "room-2".to_owned()].into());

    // From here on this user sees times of rooms only.
    let uid = rustix::process::geteuid().as_raw();
    let me = format!("[consumer.me]\nuid = {uid}\nwindows = [\"room-*\"]\nlevel = \"times\"\n");
    fixture.configure(&configuration(&fixture, &["room-1", "room-2"], &me));
    reload(&fixture).await;
    let list = fixture.api.get("/v1/windows").await.json();
    assert_eq!(list["total"], 2);
    let events = fixture.api.get("/v1/windows/room-1/events").await.json();
    let event = &events["value"][0];
    assert!(event["id"].is_string() && event.get("subject").is_none(), "{event}");
    for (path, status) in [
        ("/v1/windows/alice", 404),
        ("/v1/windows/alice/events", 404),
        ("/v1/windows/room-1/events?response=accepted", 403),
        ("/v1/export", 403),
        ("/metrics", 403),
    ] {
        assert_eq!(fixture.api.get(path).await.status.as_u16(), status, "{path}");
    }
    for path in ["/v1/reload", "/v1/windows/room-1/sync"] {
        assert_eq!(fixture.api.post(path).await.status.as_u16(), 403, "{path}");
    }
    let status = fixture.cli(&["status"]).await;
    assert!(status.out.contains("windows: 2"), "{}{}", status.out, status.err);
    let busy = fixture.cli(&["busy", "--windows", "room-*"]).await;
    assert!(busy.code == Some(0), "{}", busy.err);

    // A signal needs no rights of the API.
    fixture.configure(&configuration(&fixture, &["room-1", "room-2"], ""));
    daemon.signal("HUP");
    eventually("all rights are back", async || {
        (fixture.api.get("/v1/windows").await.json()["total"] == 3).then_some(())
    })
    .await;
    daemon.stop().await;
}

#[tokio::test]
async fn the_token_of_a_consumer_is_rotated_by_a_reload() {
    use std::os::unix::fs::PermissionsExt as _;

    let fixture = DaemonFixture::new(92, &[]).await;
    fixture.populate("room-1");
    let port = {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        free.local_addr().unwrap().port()
    };
    let write = |token: &str| {
        fs::write(fixture.path("lobby.token"), token).unwrap();
        let mode = fs::Permissions::from_mode(0o600);
        fs::set_permissions(fixture.path("lobby.token"), mode).unwrap();
    };
    write("first-token-of-the-lobby");
    let more = "[consumer.lobby]\ntoken_file = \"lobby.token\"\nlevel = \"busy\"\n";
    let text = configuration(&fixture, &[], more);
    let text = text.replace("[log]", &format!("listen = \"127.0.0.1:{port}\"\n[log]"));
    fixture.configure(&text);
    let daemon = fixture.run().await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let ask = async |path: &str, token: &str| {
        let url = format!("http://127.0.0.1:{port}{path}");
        client.get(url).bearer_auth(token).send().await.unwrap().status().as_u16()
    };
    let busy = "/v1/windows/room-1/busy";
    assert_eq!(ask(busy, "first-token-of-the-lobby").await, 200);
    assert_eq!(ask("/v1/windows/room-1/events", "first-token-of-the-lobby").await, 403);
    write("second-token-of-the-lobby");
    reload(&fixture).await;
    assert_eq!(ask(busy, "second-token-of-the-lobby").await, 200);
    assert_eq!(ask(busy, "first-token-of-the-lobby").await, 401);
    let status = fixture.api.get("/v1/status").await.json();
    assert_eq!(status["consumers"][0]["name"], "lobby");
    assert!(status["consumers"][0]["last_used"].is_string(), "{status}");
    daemon.stop().await;
}
