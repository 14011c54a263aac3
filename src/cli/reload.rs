//! `reload`: reloads the configuration, as SIGHUP does, and reports what changed or why not.

use std::io::Write;

use serde_json::Value;

use super::client::{ApiClient, parse};
use super::exit::{CliError, DONE};
use super::terminal::printable;
use crate::reload::{ReloadSummary, WindowChange, WindowEffect};

/// Requests a reload, waits until it ends and prints the result.
pub(super) async fn reload(
    client: &ApiClient,
    accept_drops: bool,
    json: bool,
    out: &mut impl Write,
) -> Result<u8, CliError> {
    let more = if accept_drops { "?accept_drops=true" } else { "" };
    let answer: Value = client.post(&format!("/v1/reload{more}")).await?.json()?;
    if json {
        writeln!(out, "{answer}")?;
    } else {
        let applied: ReloadSummary = parse(&answer)?;
        out.write_all(describe(&applied).as_bytes())?;
    }
    Ok(DONE)
}

/// What changed, one line per window.
fn describe(applied: &ReloadSummary) -> String {
    let mut lines: Vec<String> =
        applied.warnings.iter().map(|warning| format!("warning: {warning}")).collect();
    lines.extend(applied.changes.iter().map(line));
    let counts = applied.windows;
    let changed =
        counts.added + counts.removed + counts.replaced + counts.resynced + counts.retimed;
    if changed > applied.changes.len() {
        lines.push(format!("  … and {} more", changed - applied.changes.len()));
    }
    lines.push(format!("reloaded in {} ms; {}", applied.took_ms, applied.summary()));
    lines.iter().map(|line| printable(line) + "\n").collect()
}

fn line(change: &WindowChange) -> String {
    let (sign, effect) = match change.change {
        WindowEffect::Added => ('+', ""),
        WindowEffect::Removed => ('-', ""),
        WindowEffect::Retimed => ('~', ""),
        WindowEffect::Replaced => ('~', ": another calendar, all its events are replaced"),
        WindowEffect::Resynced => ('~', ": is enumerated again"),
    };
    let keys = match change.keys.as_slice() {
        [] => String::new(),
        keys => format!(" ({})", keys.join(", ")),
    };
    format!("  {sign} {}{keys}{effect}", change.window)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reload::WindowChangeCounts;

    #[test]
    fn each_change_of_a_reload_is_one_line() {
        let change = |window: &str, change, keys: &[&str]| WindowChange {
            window: window.into(),
            change,
            keys: keys.iter().map(|key| (*key).to_owned()).collect(),
        };
        let applied = ReloadSummary {
            took_ms: 12,
            windows: WindowChangeCounts {
                added: 1,
                removed: 3,
                resynced: 1,
                retimed: 1,
                ..WindowChangeCounts::default()
            },
            changes: vec![
                change("new", WindowEffect::Added, &[]),
                change("gone", WindowEffect::Removed, &[]),
                change("alice", WindowEffect::Resynced, &["start", "end"]),
                change("bob\n", WindowEffect::Retimed, &["interval"]),
            ],
            settings: vec!["log.level".to_owned()],
            ..ReloadSummary::default()
        };
        let expected = [
            "  + new",
            "  - gone",
            "  ~ alice (start, end): is enumerated again",
            "  ~ bob  (interval)",
            "  … and 2 more",
            "reloaded in 12 ms; windows: 1 added, 3 removed, 1 resynced, 1 retimed, 0 unchanged, also log.level",
        ];
        assert_eq!(describe(&applied).lines().collect::<Vec<_>>(), expected);
    }
}
