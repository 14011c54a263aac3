//! `sync` and `resync`: requests rounds, waits for them, and reports each in one line.

use std::io::Write;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use http::StatusCode;
use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Deserialize;
use serde_json::Value;
use tokio::time::timeout;

use super::arguments::WindowSelection;
use super::client::{ApiClient, parse};
use super::exit::{CliError, DONE, FAILED};
use super::shards::MissingShards;
use super::terminal::printable;
use super::{status, suggest};
use crate::api::model;
use crate::mirror::failure::{ErrorClass, ErrorKind};
use crate::mirror::status::{WindowState, WindowStatus};
use crate::percent;

/// The longest wait that the API grants.
const WAIT: &str = "5m";

/// How long a wait is silent before its reason is asked for.
const SILENCE: Duration = Duration::from_secs(2);

/// How often the progress bar is redrawn without progress.
const TICK: Duration = Duration::from_millis(200);

/// Windows requested concurrently.
const MAX_CONCURRENT: usize = 16;

/// The response of the API to a requested round.
#[derive(Deserialize)]
struct RequestedRound {
    round: u64,
    #[serde(default)]
    state: Option<model::StrJson<WindowState>>,
    #[serde(default)]
    held_until: Option<Timestamp>,
    #[serde(default)]
    last_round: Option<model::RoundJson>,
    #[serde(default)]
    last_error: Option<model::ErrorJson>,
}

/// Starts a round of each window: a `sync`, or a `resync` with further parameters.
pub(super) async fn request_rounds(
    client: &ApiClient,
    which: &WindowSelection,
    what: &str,
    more: &str,
    json: bool,
    out: &mut impl Write,
) -> Result<u8, CliError> {
    let (names, missing) = match which.all {
        true => suggest::all_names(client).await?,
        false => (which.windows.clone(), MissingShards::default()),
    };
    let progress = &progress(what, names.len());
    let mut answers = stream::iter(names)
        .map(|name| async move {
            let path = format!("/v1/windows/{}/{what}?wait={WAIT}{more}", percent::encode(&name));
            let mut answer = std::pin::pin!(client.post(&path));
            let early = timeout(SILENCE, &mut answer).await;
            if early.is_err()
                && let Some(line) = pause(client, &name).await
            {
                // Standard error may be closed.
                progress.suspend(|| writeln!(anstream::stderr(), "calmirror: {line}").ok());
            }
            let answer = match early {
                Ok(answer) => answer,
                Err(_) => answer.await,
            };
            let answer = match answer {
                Ok(answer) => suggest::or_suggestion(client, &name, answer).await,
                Err(failure) => Err(failure),
            };
            (name, answer)
        })
        .buffer_unordered(MAX_CONCURRENT);
    let mut exit = DONE;
    if let Some(line) = missing.line() {
        progress.suspend(|| writeln!(anstream::stderr(), "calmirror: {line}"))?;
        exit = FAILED;
    }
    while let Some((name, answer)) = answers.next().await {
        let answer = match answer {
            Ok(answer) => answer,
            // One unknown window must not prevent the reports of the others.
            Err(failure) if failure.exit == FAILED => {
                let line = format!("{}: {failure}", printable(&name));
                progress.suspend(|| writeln!(anstream::stderr(), "{line}"))?;
                progress.inc(1);
                exit = FAILED;
                continue;
            }
            Err(failure) => return Err(failure),
        };
        let over = answer.status == StatusCode::OK;
        let value: Value = answer.json()?;
        let (line, done) = describe(&name, over, &value)?;
        if !done {
            exit = FAILED;
        }
        progress.suspend(|| {
            if json {
                writeln!(out, "{value}")?
            } else {
                writeln!(out, "{line}")?
            }
            out.flush()
        })?;
        progress.inc(1);
    }
    Ok(exit)
}

/// What a window in a pause waits for; `None` if it is in none, or the daemon does not say.
async fn pause(client: &ApiClient, name: &str) -> Option<String> {
    let window = client.get(&format!("/v1/windows/{}", percent::encode(name))).await.ok()?;
    let error = WindowStatus::from(window.json::<model::WindowJson>().ok()?).last_error?;
    let until = error.retry_at.filter(|_| error.kind == ErrorKind::Graph(ErrorClass::Throttled))?;
    let (name, why) = (printable(name), printable(&error.message));
    let until = status::full(until, &TimeZone::system());
    Some(format!("{name}: waiting for its mailbox, which pauses until about {until}: {why}"))
}

/// A progress bar on standard error, if that is a terminal.
fn progress(what: &str, windows: usize) -> ProgressBar {
    let windows = windows.try_into().unwrap_or(u64::MAX);
    let bar = ProgressBar::new(windows).with_finish(ProgressFinish::AndClear);
    let template = "{spinner} {prefix} {wide_bar} {pos}/{len} {elapsed}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_prefix(what.to_owned());
    bar.enable_steady_tick(TICK);
    bar
}

/// One line about a round, and whether the request succeeded.
fn describe(name: &str, over: bool, value: &Value) -> Result<(String, bool), CliError> {
    let asked: RequestedRound = parse(value)?;
    let command = status::shell_quote(name);
    let name = printable(name);
    if over && asked.state == Some(WindowState::Held.into()) {
        // `last_round` is an earlier round if this one made no request.
        let done = asked.last_round.filter(|round| round.number == asked.round);
        let done =
            done.map(|round| format!("{}; ", status::report(&round.into()))).unwrap_or_default();
        let until = asked
            .held_until
            .map_or("the next round".to_owned(), |until| status::full(until, &TimeZone::system()));
        let line = format!(
            "{name}: {done}held: more than half of the events would be removed, none is removed \
             before {until}; to accept it now: calmirror resync {command} --accept-removals"
        );
        return Ok((line, false));
    }
    Ok(match (over, asked.last_round, asked.last_error) {
        (false, ..) => (format!("{name}: round {} is still running", asked.round), true),
        (true, _, Some(error)) => {
            (format!("{name}: round {} failed: {}", asked.round, printable(&error.message)), false)
        }
        (true, Some(round), None) => (format!("{name}: {}", status::report(&round.into())), true),
        (true, None, None) => (format!("{name}: round {} has ended", asked.round), true),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_round_is_printed_in_one_line() {
        let round = json!({"number": 982, "at": "2026-11-21T10:00:00Z", "took_ms": 180, "requests": 1,
            "pages": 1, "created": 0, "updated": 1, "removed": 0});
        let error = json!({"at": "2026-11-21T10:00:00Z", "kind": "gone", "status": 404, "code": null,
            "message": "the mailbox is gone", "request_id": null, "retry_at": null});
        for (over, value, line, done) in [
            (
                true,
                json!({"round": 982, "last_round": round, "last_error": null}),
                "alice: round 982, 1 request, +0 ~1 -0 in 180 ms",
                true,
            ),
            (
                true,
                json!({"round": 983, "last_round": round, "last_error": error}),
                "alice: round 983 failed: the mailbox is gone",
                false,
            ),
            (false, json!({"round": 984}), "alice: round 984 is still running", true),
        ] {
            assert_eq!(describe("alice", over, &value), Ok((line.to_owned(), done)));
        }
    }

    #[test]
    fn a_held_window_prints_its_end_and_its_remedy() {
        let round = json!({"number": 981, "at": "2026-11-21T10:00:00Z", "took_ms": 180, "requests": 1,
            "pages": 1, "created": 0, "updated": 1, "removed": 0});
        let value = |number: u64| {
            json!({"round": number, "state": "held", "held_until": "2026-11-21T10:10:00Z",
                "last_round": round, "last_error": null})
        };
        let until = status::full("2026-11-21T10:10:00Z".parse().unwrap(), &TimeZone::system());
        let held = format!(
            "held: more than half of the events would be removed, none is removed \
             before {until}; to accept it now: calmirror resync 'it is mine' --accept-removals"
        );
        // Round 982 made no request: the result of round 981 is not reported as its own.
        let told = describe("it is mine", true, &value(982)).unwrap();
        assert_eq!(told, (format!("it is mine: {held}"), false));
        let (line, _) = describe("it is mine", true, &value(981)).unwrap();
        assert_eq!(line, format!("it is mine: round 981, 1 request, +0 ~1 -0 in 180 ms; {held}"));
    }
}
