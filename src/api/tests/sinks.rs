//! What people ask of sinks.

use futures_util::future::BoxFuture;

use super::*;

/// A sink named `crm`, which says what it was asked.
pub(super) struct ScriptedSinks;

impl SinkApi for ScriptedSinks {
    fn list(&self) -> Vec<SinkStatusJson> {
        let sink = json!({
            "name": "crm", "type": "webhook", "to": "https://crm.example", "state": "running",
            "snapshot": false, "pending": 0, "behind_s": 0.0, "sent": 7, "cursor": "c",
            "last_error": null, "next_attempt": null, "attempts": [],
        });
        vec![serde_json::from_value(sink).unwrap()]
    }

    fn ask(
        &self,
        sink: String,
        command: SinkCommand,
    ) -> BoxFuture<'_, Result<SinkStatusJson, SinkRefusal>> {
        Box::pin(async move {
            match (&*sink, command) {
                (name, _) if !["crm", "alice"].contains(&name) => Err(SinkRefusal::Unknown(sink)),
                (_, SinkCommand::Replay(ReplayFrom::Cursor(cursor))) if cursor != "AYdt.x" => {
                    Err(SinkRefusal::BadPlace("no cursor".to_owned()))
                }
                (_, SinkCommand::Test) => Err(SinkRefusal::Failed("no answer".to_owned())),
                (_, command) => {
                    let mut status = self.list().remove(0);
                    status.state = format!("{command:?}");
                    Ok(status)
                }
            }
        })
    }
}

#[tokio::test(start_paused = true)]
async fn sinks_are_listed_and_asked() {
    let fixture = Fixture::new().await;
    assert_eq!(fixture.get("/v1/sinks").await["value"][0]["sent"], 7);
    for (uri, status, wanted) in [
        ("crm/pause", 200, "\"Pause\""),
        ("crm/resume", 200, "\"Resume\""),
        ("crm/replay", 200, "Replay(Start)"),
        ("crm/replay?from=start", 200, "Replay(Start)"),
        ("crm/replay?from=2026-11-21T10:00:00Z", 200, "Replay(Time(2026-11-21T10:00:00Z))"),
        ("crm/replay?from=AYdt.x", 200, "Cursor(\\\"AYdt.x\\\")"),
        ("crm/replay?from=soon", 400, "no cursor"),
        ("crm/test", 422, "no answer"),
        ("erp/test", 404, "no sink is named"),
    ] {
        let (answered, _, body) = fixture.ask("POST", &format!("/v1/sinks/{uri}")).await;
        assert_eq!(answered.as_u16(), status, "{uri}: {body}");
        assert!(body.contains(wanted), "{uri}: {body}");
    }
}
