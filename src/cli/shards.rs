//! What commands say about shards that are missing in an answer.

use serde::Deserialize;

use super::terminal::printable;

/// The shards that an answer lacks; none if there are no shards.
#[derive(Debug, Default, Deserialize)]
pub(super) struct MissingShards {
    #[serde(default)]
    incomplete: Vec<String>,
}

impl MissingShards {
    /// Whether every shard has answered.
    pub(super) fn is_empty(&self) -> bool {
        self.incomplete.is_empty()
    }

    /// Adds those of another answer.
    pub(super) fn add(&mut self, other: Self) {
        for shard in other.incomplete {
            if !self.incomplete.contains(&shard) {
                self.incomplete.push(shard);
            }
        }
    }

    /// One line about them.
    pub(super) fn line(&self) -> Option<String> {
        match self.incomplete.as_slice() {
            [] => None,
            [shard] => {
                let shard = printable(shard);
                Some(format!(
                    "shard {shard} is missing with its windows; the log of the shard that answered says why"
                ))
            }
            several => {
                let shards = printable(&several.join(", "));
                Some(format!(
                    "shards {shards} are missing with their windows; the log of the shard that answered says why"
                ))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use anstream::adapter::strip_str;
    use axum::routing::{get, post};
    use axum::{Json, Router};
    use clap::Parser as _;
    use serde_json::{Value, json};

    use crate::cli::arguments::{Arguments, Command};
    use crate::cli::client::ApiClient;
    use crate::cli::endpoint::Endpoint;
    use crate::cli::exit::{DONE, FAILED};
    use crate::cli::{availability, status, sync};

    /// A shard that answers for all, as far as they answer.
    fn stand_in(incomplete: Value) -> Router {
        let counts = json!({"total": 3, "unhealthy": 0});
        let shard = |ordinal: &str| json!({"ordinal": ordinal, "version": "0.2.0", "uptime_s": 61, "windows": counts});
        let sink = json!({"name": "crm", "type": "webhook", "to": "https://crm.contoso.com",
            "state": "running", "snapshot": false, "pending": 0, "behind_s": 0.0, "sent": 7,
            "cursor": null, "last_error": null, "next_attempt": null, "attempts": [], "shard": "1"});
        let status = json!({"version": "0.2.0", "uptime_s": 3600, "windows": counts,
            "shard": "0/3", "shards": [shard("0"), shard("1")], "sinks": [sink], "incomplete": incomplete});
        let list = json!({"value": [], "total": 0, "next": null, "incomplete": incomplete});
        let busy = json!({"value": [], "incomplete": incomplete});
        let free = json!({"value": [], "from": "2026-11-23T00:00:00Z", "to": "2026-11-24T00:00:00Z",
            "need": 1, "unknown": [{"window": "bob", "reason": "shard_missing"}], "incomplete": incomplete});
        let mut routes = Router::new().route("/v1/windows/{name}/sync", post(async || "{}"));
        for (path, body) in [("status", status), ("windows", list), ("busy", busy), ("free", free)]
        {
            routes = routes.route(&format!("/v1/{path}"), get(async move || Json(body)));
        }
        routes
    }

    /// What a command prints, and its exit code.
    async fn run(client: &ApiClient, command: &str, json: bool) -> (u8, String) {
        let words = std::iter::once("calmirror").chain(command.split(' '));
        let mut out = Vec::new();
        let exit = match Arguments::parse_from(words).command {
            Command::Status(args) => status::status(client, &args, json, &mut out).await,
            Command::Busy(args) => availability::busy(client, &args, json, &mut out).await,
            Command::Free(args) => availability::free(client, &args, json, &mut out).await,
            Command::Sync(which) => {
                sync::request_rounds(client, &which, "sync", "", json, &mut out).await
            }
            _ => panic!("{command}"),
        };
        (exit.unwrap(), strip_str(&String::from_utf8(out).unwrap()).to_string())
    }

    #[tokio::test]
    async fn commands_name_the_shards_that_are_missing_and_fail() {
        for (incomplete, exit, line) in [
            (json!([]), DONE, ""),
            (
                json!(["2"]),
                FAILED,
                "shard 2 is missing with its windows; the log of the shard that answered says why\n",
            ),
            (
                json!(["1", "2"]),
                FAILED,
                "shards 1, 2 are missing with their windows; the log of the shard that answered says why\n",
            ),
        ] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let place = Endpoint::Tcp(listener.local_addr().unwrap().to_string());
            let routes = stand_in(incomplete);
            let serving = tokio::spawn(async { axum::serve(listener, routes).await });
            let client = ApiClient::new(place, None);
            for command in ["status", "busy --windows a", "free --windows a", "sync --all"] {
                let (code, text) = run(&client, command, false).await;
                assert_eq!(code, exit, "{command}");
                let is_shown = command == "sync --all" || text.contains(line);
                assert!(is_shown, "{command}: {text}");
                assert_eq!(run(&client, command, true).await.0, exit, "{command} --json");
            }
            let (_, text) = run(&client, "status", false).await;
            let shard = "shard 1: calmirror 0.2.0, up 1m 1s, windows: 3, healthy: 3\n";
            assert!(text.contains(shard), "{text}");
            assert!(text.contains("shard 1: sink crm"), "{text}");
            let (_, text) = run(&client, "free --windows a", false).await;
            assert!(text.contains("not judged: bob: its shard is missing"), "{text}");
            serving.abort();
        }
    }
}
