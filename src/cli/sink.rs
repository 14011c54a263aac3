//! `sink`: shows the sinks of the running daemon, and what is asked of them.

use std::io::Write;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Deserialize;

use super::arguments::SinkRequestArgs;
use super::client::{ApiClient, with_query};
use super::exit::{CliError, DONE, FAILED};
use super::terminal::printable;
use crate::api::SinkStatusJson;
use crate::percent;

#[derive(Deserialize)]
struct SinkListJson {
    value: Vec<SinkStatusJson>,
}

/// Runs the command.
pub(super) async fn sink(
    client: &ApiClient,
    request: &SinkRequestArgs,
    json: bool,
    out: &mut impl Write,
) -> Result<u8, CliError> {
    let (name, what, from) = match request {
        SinkRequestArgs::List => return list(client, json, out).await,
        SinkRequestArgs::Test { name } => (name, "test", None),
        SinkRequestArgs::Pause { name } => (name, "pause", None),
        SinkRequestArgs::Resume { name } => (name, "resume", None),
        SinkRequestArgs::Replay { name, from } => (name, "replay", Some(from.as_str())),
    };
    let path = format!("/v1/sinks/{}/{what}", percent::encode(name));
    let answer = client.post(&with_query(&path, &[("from", from)])).await?.success()?;
    if json {
        out.write_all(&answer.body)?;
        writeln!(out)?;
        return Ok(DONE);
    }
    let status: SinkStatusJson = answer.json()?;
    let name = printable(&status.name);
    match what {
        "test" => writeln!(out, "{name}: the test was delivered to {}", printable(&status.to))?,
        "pause" => writeln!(out, "{name}: paused; `calmirror sink resume {name}` ends it")?,
        "resume" => writeln!(out, "{name}: sends again")?,
        _ => writeln!(out, "{name}: sends again from there")?,
    }
    Ok(DONE)
}

/// Shows all sinks; fails if one of them could not deliver.
async fn list(client: &ApiClient, json: bool, out: &mut impl Write) -> Result<u8, CliError> {
    let answer = client.get("/v1/sinks").await?.success()?;
    if json {
        out.write_all(&answer.body)?;
        writeln!(out)?;
        return Ok(DONE);
    }
    let SinkListJson { value } = answer.json()?;
    let (now, zone) = (Timestamp::now(), TimeZone::system());
    for sink in &value {
        write!(out, "{}", described(sink, now, &zone))?;
    }
    if value.is_empty() {
        writeln!(out, "no sinks are configured")?;
    }
    let in_trouble = |sink: &SinkStatusJson| matches!(&*sink.state, "waiting" | "stopped");
    Ok(if value.iter().any(in_trouble) { FAILED } else { DONE })
}

/// A sink in a line, and its last error in another.
pub(super) fn described(sink: &SinkStatusJson, now: Timestamp, zone: &TimeZone) -> String {
    let SinkStatusJson { name, r#type, to, state, pending, .. } = sink;
    let snapshot = if sink.snapshot { ", sends a snapshot" } else { "" };
    let left = match pending {
        0 => "everything sent".to_owned(),
        count => format!("about {count} to send, behind for {:.0} s", sink.behind_s),
    };
    let [name, to, state] = [&**name, to, state].map(printable);
    let mut text = format!("{name}: {state}{snapshot}, {left} ({} {to})\n", printable(r#type));
    if let Some(error) = &sink.last_error {
        let at = zone.to_datetime(error.at).strftime("%Y-%m-%d %H:%M:%S");
        text += &format!("  {at} {}: {}", printable(&error.kind), printable(&error.message));
        if let Some(next) = sink.next_attempt {
            let wait = next.duration_since(now).as_secs().max(0);
            text += &format!("; tries again in {wait} s");
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sink_is_a_line_and_its_error_another() {
        let mut sink: SinkStatusJson = serde_json::from_value(serde_json::json!({
            "name": "crm", "type": "webhook", "to": "https://crm.example", "state": "running",
            "snapshot": false, "pending": 0, "behind_s": 0.0, "sent": 7, "cursor": "c",
            "last_error": null, "next_attempt": null, "attempts": [],
        }))
        .unwrap();
        let now: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
        let shown = |sink: &SinkStatusJson| described(sink, now, &TimeZone::UTC);
        assert_eq!(shown(&sink), "crm: running, everything sent (webhook https://crm.example)\n");
        (sink.state, sink.pending, sink.behind_s) = ("waiting".to_owned(), 12, 61.2);
        sink.next_attempt = Some("2026-11-21T12:00:30Z".parse().unwrap());
        sink.last_error = serde_json::from_value(serde_json::json!({
            "at": "2026-11-21T11:59:00Z", "kind": "refused", "status": 403, "message": "no\u{1b}",
        }))
        .unwrap();
        let text = shown(&sink);
        let mut lines = text.lines();
        let first = "crm: waiting, about 12 to send, behind for 61 s (webhook https://crm.example)";
        assert_eq!(lines.next(), Some(first));
        let second = lines.next().unwrap();
        assert!(second.starts_with("  2026-11-21 11:59:00 refused: no"), "{second}");
        assert!(second.ends_with("; tries again in 30 s") && !second.contains('\u{1b}'));
    }
}
