//! `status`: prints the fleet as a table, windows in trouble first, or one window in full.
//! `--watch` redraws it.

mod fleet;
mod format;
mod table;
mod window;

use std::io::Write;
use std::time::Duration;

use futures_util::StreamExt as _;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::Value;

use super::arguments::StatusArgs;
use super::client::{ApiClient, parse};
use super::exit::{CliError, DONE, FAILED, UNAVAILABLE};
use super::suggest;
use super::terminal::{TerminalSize, wrapped};
use crate::api::model::WindowJson;
use crate::mirror::status::WindowStatus;
use crate::percent;
use crate::platform::signals;
use fleet::FleetStatus;
pub(super) use fleet::fleet_lines;
pub(super) use format::{full, report};
use window::details;
pub(super) use window::shell_quote;

/// How often `--watch` fetches the status again.
const REDRAW: Duration = Duration::from_secs(2);

/// How long `--watch` keeps showing the last table while it waits for a response: an old table must
/// not look up to date.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);

/// The fetched status of the fleet or of a window.
#[derive(Debug)]
enum StatusView {
    Fleet(Box<FleetStatus>),
    Window { value: Value, status: Box<WindowStatus> },
}

/// Prints the status of the fleet or of a window.
pub(super) async fn status(
    client: &ApiClient,
    args: &StatusArgs,
    json: bool,
    out: &mut impl Write,
) -> Result<u8, CliError> {
    if args.watch {
        return watch(client, args, out).await;
    }
    let view = StatusView::fetch(client, args, json).await?;
    let text = if json { view.json() } else { view.text(TerminalSize::of_stdout()) };
    out.write_all(text.as_bytes())?;
    Ok(if view.is_healthy() { DONE } else { FAILED })
}

/// Fetches and draws the status until interrupted. Redraws when the terminal changes its size.
/// Waits for a daemon that restarts.
async fn watch(
    client: &ApiClient,
    args: &StatusArgs,
    out: &mut impl Write,
) -> Result<u8, CliError> {
    let mut resizes = signals::resizes()?;
    let mut reached = false;
    loop {
        let looking =
            tokio::time::timeout(RESPONSE_TIMEOUT, StatusView::fetch(client, args, false)).await;
        let view = looking.unwrap_or_else(|_| {
            let waited = RESPONSE_TIMEOUT.as_secs();
            let message = format!("the daemon has not answered for {waited} s");
            Err(CliError::new(UNAVAILABLE, message))
        });
        let view = match view {
            Err(failure) if !reached || failure.exit != UNAVAILABLE => return Err(failure),
            view => view,
        };
        reached = true;
        let mut over = std::pin::pin!(tokio::time::sleep(REDRAW));
        loop {
            let size = TerminalSize::of_stdout();
            let text = match &view {
                Ok(view) => view.text(size),
                Err(failure) => wrap_lines(&failure.to_string(), size),
            };
            draw(&text, size, out)?;
            tokio::select! {
                () = &mut over => break,
                Some(()) = resizes.next() => {}
            }
        }
    }
}

/// Replaces the content of the terminal with the text. Without a terminal, appends the text to the
/// output.
fn draw(text: &str, size: Option<TerminalSize>, out: &mut impl Write) -> Result<(), CliError> {
    let Some(size) = size else {
        out.write_all(text.as_bytes())?;
        return Ok(out.flush()?);
    };
    // Home, and clear from there on. Not through `out`, which would strip it like a colour.
    std::io::stdout().write_all(b"\x1b[H\x1b[J")?;
    out.write_all(truncate_lines(text, size.rows).as_bytes())?;
    Ok(out.flush()?)
}

/// The first lines of the text, as many as the terminal has rows. Windows in trouble come first.
fn truncate_lines(text: &str, rows: usize) -> String {
    let count = text.lines().count();
    if rows < 4 || count < rows {
        return text.to_owned();
    }
    let shown: Vec<&str> = text.lines().take(rows - 2).collect();
    format!("{}\n… and {} more lines\n", shown.join("\n"), count - shown.len())
}

/// The text with its lines wrapped to the width of the terminal.
fn wrap_lines(text: &str, size: Option<TerminalSize>) -> String {
    let columns = size.map_or(0, |size| size.columns);
    let lines = text.lines().flat_map(|line| {
        let indent = &line[..line.len() - line.trim_start().len()];
        wrapped(line, columns, indent)
    });
    lines.map(|line| line + "\n").collect()
}

impl StatusView {
    async fn fetch(client: &ApiClient, args: &StatusArgs, json: bool) -> Result<Self, CliError> {
        match &args.window {
            Some(name) => {
                let answer = client.get(&format!("/v1/windows/{}", percent::encode(name))).await?;
                let value: Value = suggest::or_suggestion(client, name, answer).await?.json()?;
                let status = Box::new(parse::<WindowJson>(&value)?.into());
                Ok(Self::Window { value, status })
            }
            None => Ok(Self::Fleet(Box::new(FleetStatus::fetch(client, args, json).await?))),
        }
    }

    fn is_healthy(&self) -> bool {
        match self {
            Self::Fleet(fleet) => fleet.is_healthy(),
            Self::Window { status, .. } => status.is_healthy(),
        }
    }

    fn json(&self) -> String {
        match self {
            Self::Fleet(fleet) => fleet.json(),
            Self::Window { value, .. } => format!("{value}\n"),
        }
    }

    fn text(&self, size: Option<TerminalSize>) -> String {
        let (now, zone) = (Timestamp::now(), TimeZone::system());
        let columns = size.map(|size| size.columns).filter(|columns| *columns > 0);
        match self {
            Self::Fleet(fleet) => fleet.text(now, &zone, columns),
            Self::Window { status, .. } => details(status, now, &zone, columns),
        }
    }
}

#[cfg(test)]
mod tests;
