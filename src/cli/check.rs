//! `check`: validates the whole configuration, prints every fault, or the effective windows and the
//! fleets.

mod division;
mod listings;
mod online;

use std::fmt::Write as _;
use std::io::Write;
use std::sync::Arc;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use super::client::ApiClient;
use super::exit::{CONFIGURATION, CliError, DONE};
use super::terminal::{printable, printable_lines};
use crate::config::{Config, Diagnostic, Diagnostics, SinkConfig, Sources};
use crate::daemon::Loader;
use crate::env::Env;
use crate::mirror::fleet::{CalendarSelection, FleetSource, FleetSpec};
use crate::mirror::shard::Shard;
use crate::mirror::window::Window;
use crate::sinks;
use division::Division;

/// The function with which the daemon reloads its configuration.
pub(super) fn loader(sources: Sources, env: &Env) -> Loader {
    let env = env.clone();
    Arc::new(move || Config::load(&sources, env.now()))
}

/// Loads the configuration as `run` does.
///
/// # Errors
/// All faults, one per line, with [`CONFIGURATION`].
pub(super) fn load(sources: &Sources, now: Timestamp) -> Result<Config, CliError> {
    Config::load(sources, now).map_err(|faults| faulty(sources, faults))
}

/// The error of a faulty configuration.
pub(super) fn faulty(sources: &Sources, Diagnostics(faults): Diagnostics) -> CliError {
    let file = sources.file.display();
    let count = faults.len();
    let plural = if count == 1 { "" } else { "s" };
    let message = format!("{count} fault{plural} in {file}");
    CliError { faults, ..CliError::new(CONFIGURATION, message) }
}

/// What `check` does beside validating.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct CheckOptions {
    /// Print each value and where it comes from.
    pub(super) explain: bool,
    /// Sign in with every account.
    pub(super) online: bool,
    pub(super) json: bool,
}

/// Validates the configuration and prints the result. `client` is for the daemon that runs with it,
/// if there is one: it knows the last listings of the fleets.
pub(super) async fn check(
    sources: &Sources,
    options: CheckOptions,
    client: impl FnOnce() -> Result<ApiClient, CliError>,
    out: &mut impl Write,
) -> Result<u8, CliError> {
    let CheckOptions { explain: explained, online, json } = options;
    let now = Timestamp::now();
    match Config::load(sources, now) {
        Ok(mut config) => {
            let unusable: Vec<Diagnostic> = config.sinks.iter().flat_map(sink_warnings).collect();
            config.warnings.extend(unusable);
            let checked = match online {
                true => Some(online::checks(&config).await?),
                false => None,
            };
            let daemon = match config.fleets.as_slice() {
                [] => None,
                _ if explained && !json => None,
                _ => Some(client().map_err(|failure| failure.message)),
            };
            let (mut listed, mut members) = (None, None);
            if let Some(client) = &daemon {
                listed = Some(listings::known(client.as_ref()).await);
                if config.sections.shard.of != Shard::ALONE {
                    members = Some(division::member_windows(client.as_ref()).await);
                }
            }
            let division = Division::of(&config, members.as_ref());
            let text = if json {
                let mut answer = as_json(&config, explained, now);
                if let Some(listed) = &listed {
                    listings::add_json(&mut answer["fleets"], listed);
                    answer["listings_problem"] = json!(listed.as_ref().err());
                }
                if let Some(division) = &division {
                    answer["division"] = division.json();
                }
                if let Some(checked) = &checked {
                    answer["accounts"] = online::accounts_json(&checked.accounts);
                    answer["listed"] = online::fleets_json(&checked.fleets);
                }
                format!("{answer}\n")
            } else {
                let shown = if explained { explain(&config) } else { windows(&config, now) };
                let zone = TimeZone::system();
                let listed = listed.map(|known| listings::lines(&config, &known, now, &zone));
                let divided = division.as_ref().map(Division::lines).unwrap_or_default();
                let shown = shown + &listed.unwrap_or_default() + &divided;
                let online = checked.as_ref().map(online::lines).unwrap_or_default();
                printable_lines(&(warnings(&config) + &shown + &online))
            };
            out.write_all(text.as_bytes())?;
            Ok(checked.as_ref().map_or(DONE, online::exit))
        }
        Err(Diagnostics(faults)) => {
            // The faults are the requested output, so they go to `out`.
            if json {
                writeln!(out, "{}", json!({ "valid": false, "faults": faults }))?;
            } else {
                for fault in &faults {
                    writeln!(out, "{}", printable(&fault.to_string()))?;
                }
            }
            Ok(CONFIGURATION)
        }
    }
}

/// The daemon would start, and the sink would wait until its files are mended.
fn sink_warnings(sink: &SinkConfig) -> impl Iterator<Item = Diagnostic> {
    let key = format!("sink.{}", sink.name);
    sinks::problems(sink).into_iter().map(move |problem| Diagnostic {
        file: None,
        line: None,
        key: key.clone(),
        problem,
        remedy: "the sink sends nothing until then".to_owned(),
    })
}

/// The warnings (valid but probably unintended), one per line.
fn warnings(config: &Config) -> String {
    config.warnings.iter().map(|warning| format!("warning: {warning}\n")).collect()
}

/// The tables of the effective windows and of the fleets.
fn windows(config: &Config, now: Timestamp) -> String {
    let windows = config.windows.iter().map(|window| row(window, now));
    let fleets = config.fleets.iter().map(|fleet| fleet_row(fleet));
    let mut text = table(
        ["WINDOW", "MAILBOX", "CALENDAR", "FROM", "UNTIL", "EVERY", "SEGMENTS"],
        windows.collect(),
    );
    text += &table(["FLEET", "ACCOUNT", "MEMBERS OF", "CALENDARS", "EVERY"], fleets.collect());
    let count = config.windows.len();
    write!(text, "{}: valid, windows: {count}", config.file.display()).ok();
    if !config.fleets.is_empty() {
        write!(text, ", fleets: {}", config.fleets.len()).ok();
    }
    text.push('\n');
    text
}

/// The rows below their header; empty without rows.
fn table<const N: usize>(header: [&str; N], mut rows: Vec<[String; N]>) -> String {
    let mut text = String::new();
    if rows.is_empty() {
        return text;
    }
    rows.insert(0, header.map(str::to_owned));
    let widths: [usize; N] = std::array::from_fn(|column| {
        rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)
    });
    for row in &rows {
        for (cell, width) in row.iter().zip(widths) {
            write!(text, "{cell:<width$}  ").ok();
        }
        text.truncate(text.trim_end_matches(' ').len());
        text.push('\n');
    }
    text
}

fn fleet_row(fleet: &FleetSpec) -> [String; 5] {
    [
        fleet.name.to_string(),
        fleet.account.to_string(),
        fleet.source.to_string(),
        fleet.calendars.to_string(),
        humantime::format_duration(fleet.relist_every).to_string(),
    ]
}

fn row(window: &Window, now: Timestamp) -> [String; 7] {
    let (start, end) = (window.settings.start.resolve(now), window.settings.end.resolve(now));
    let segments = crate::mirror::window::Edges { start, end }.segments().len();
    let day = |at: Timestamp| at.strftime("%Y-%m-%d").to_string();
    [
        window.name.to_string(),
        window.mailbox.to_string(),
        window.calendar.to_string(),
        day(start),
        day(end),
        humantime::format_duration(window.settings.interval).to_string(),
        segments.to_string(),
    ]
}

/// Each value and where it comes from.
fn explain(config: &Config) -> String {
    let mut text = String::new();
    let explained = &config.explained;
    let width = explained.iter().map(|one| one.key.chars().count()).max().unwrap_or(0);
    for one in explained {
        writeln!(text, "{:<width$} = {}  ({})", one.key, one.value, one.origin).ok();
    }
    text
}

fn as_json(config: &Config, explain: bool, now: Timestamp) -> Value {
    let windows: Vec<_> = config
        .windows
        .iter()
        .map(|window| {
            json!({
                "name": &*window.name,
                "account": &*window.account,
                "mailbox": &*window.mailbox,
                "calendar": window.calendar.to_string(),
                "start": window.settings.start.resolve(now),
                "end": window.settings.end.resolve(now),
                "interval_s": window.settings.interval.as_secs_f64(),
            })
        })
        .collect();
    let fleets: Vec<_> = config.fleets.iter().map(|fleet| fleet_as_json(fleet)).collect();
    let warnings = &config.warnings;
    let mut answer =
        json!({ "valid": true, "warnings": warnings, "windows": windows, "fleets": fleets });
    if explain {
        let explained = config.explained.iter().map(
            |one| json!({ "key": one.key, "value": one.value, "origin": one.origin.to_string() }),
        );
        answer["explained"] = explained.collect();
    }
    answer
}

/// A fleet by the keys of the configuration.
fn fleet_as_json(fleet: &FleetSpec) -> Value {
    let calendars = match &fleet.calendars {
        CalendarSelection::Named(names) => json!(names),
        word => json!(word.to_string()),
    };
    json!({
        "name": &*fleet.name,
        "account": &*fleet.account,
        "source": match &fleet.source {
            FleetSource::Rooms => json!({ "rooms": true }),
            FleetSource::RoomList(list) => json!({ "room_list": &**list }),
            FleetSource::Members(group) => json!({ "members_of": &**group }),
            FleetSource::Users(filter) => json!({ "users": &**filter }),
            FleetSource::Mailbox(mailbox) => json!({ "calendars_of": &**mailbox }),
            FleetSource::File(file) => json!({ "mailboxes_file": file.display().to_string() }),
        },
        "calendars": calendars,
        "window_name": &*fleet.window_name,
        "relist_every_s": fleet.relist_every.as_secs_f64(),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::cli::exit::UNAVAILABLE;

    fn checked(text: &str, explain: bool, json: bool) -> (u8, String) {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("calmirror.toml");
        let secret = directory.path().join("secret");
        std::fs::write(&secret, "s").unwrap();
        std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&file, text.replace("SECRET", &secret.display().to_string())).unwrap();
        let mut out = Vec::new();
        let sources = Sources::find(Some(&file), BTreeMap::new());
        let options = CheckOptions { explain, json, ..CheckOptions::default() };
        let client = || Err(CliError::new(UNAVAILABLE, "no daemon answers"));
        let checked = check(&sources, options, client, &mut out);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let exit = runtime.block_on(checked).unwrap();
        let place = directory.path().display().to_string();
        (exit, String::from_utf8(out).unwrap().replace(&place, "DIR"))
    }

    const GOOD: &str = r#"
        [account.contoso]
        tenant = "00000000-0000-0000-0000-000000000000"
        client_id = "11111111-1111-1111-1111-111111111111"
        client_secret_file = "SECRET"
        [[window]]
        name = "alice"
        account = "contoso"
        mailbox = "alice@contoso.com"
        start = "2026-01-01"
        end = "2036-01-01"
        interval = "90s"
    "#;

    #[test]
    fn the_effective_windows_are_shown() {
        let (exit, text) = checked(GOOD, false, false);
        assert_eq!(exit, DONE);
        insta::assert_snapshot!(text);
    }

    const FLEETS: &str = r#"
        [[fleet]]
        name = "rooms"
        account = "contoso"
        rooms = true
        [[fleet]]
        name = "team"
        account = "contoso"
        members_of = "team@contoso.com"
        calendars = ["Team", "On call"]
        relist_every = "90m"
    "#;

    #[test]
    fn the_fleets_are_shown() {
        let (exit, text) = checked(&(GOOD.replace("2036", "2027") + FLEETS), false, false);
        assert_eq!(exit, DONE);
        insta::assert_snapshot!(text);
        let (_, text) = checked(&(GOOD.to_owned() + FLEETS), false, true);
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["fleets"][0]["source"], json!({ "rooms": true }));
        assert_eq!(value["fleets"][0]["calendars"], "default");
        let team = json!({
            "name": "team",
            "account": "contoso",
            "source": { "members_of": "team@contoso.com" },
            "calendars": ["Team", "On call"],
            "window_name": "{mailbox}:{calendar}",
            "relist_every_s": 5400.0,
            "last_listing": null,
        });
        assert_eq!(value["fleets"][1], team);
        assert_eq!(value["listings_problem"], "no daemon answers");
    }

    #[test]
    fn warnings_are_printed_and_are_not_errors() {
        let odd = GOOD.replace("alice@contoso.com", "alice\\u202e");
        for explain in [false, true] {
            let (exit, text) = checked(&odd, explain, false);
            assert_eq!(exit, DONE);
            let told = "warning: DIR/calmirror.toml:9: window[alice].mailbox: ";
            assert!(text.lines().any(|line| line.starts_with(told)), "{text}");
            assert!(!text.contains('\u{202e}'), "{text:?}");
        }
        let (exit, text) = checked(&odd, false, true);
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((exit, &value["valid"]), (DONE, &Value::Bool(true)));
        let warnings = value["warnings"].as_array().unwrap();
        let about = warnings.iter().find(|one| one["key"] == "window[alice].mailbox");
        assert_eq!(about.unwrap()["line"], 9);
        assert_eq!(value["windows"][0]["mailbox"], "alice\u{202e}", "JSON is exact");
    }

    #[test]
    fn sinks_that_could_not_send_are_warned_about_without_their_addresses() {
        let sinks = r#"
            [sink.crm]
            type = "webhook"
            url = "http://hooks.example.com/canary"
            secret_file = "SECRET"
            [sink.report]
            type = "postgres"
            url = "postgres://canary:canary@db.example.com/canary?sslmode=canary"
            [sink.copy]
            type = "sqlite"
            path = "/nowhere/copy.sqlite"
        "#;
        for explain in [false, true] {
            let (exit, text) = checked(&(GOOD.to_owned() + sinks), explain, false);
            let warnings = text.lines().filter_map(|line| line.strip_prefix("warning: sink."));
            let starts = [
                "copy: /nowhere/copy.sqlite cannot be made: its directory does not exist",
                "crm: url has an address with http://",
                "crm: DIR/secret has a secret of 1 bytes",
                "report: sslmode in the URL of the database has to be",
            ];
            let warnings: Vec<&str> = warnings.collect();
            let are_right =
                warnings.iter().zip(starts).all(|(line, start)| line.starts_with(start));
            assert!(exit == DONE && warnings.len() == starts.len() && are_right, "{text}");
            assert!(!text.contains("canary"), "{text}");
        }
    }

    #[test]
    fn each_value_says_where_it_came_from() {
        let (exit, text) = checked(GOOD, true, false);
        assert_eq!(exit, DONE);
        let line = text.lines().find(|line| line.starts_with("window[alice].interval")).unwrap();
        assert!(line.contains("90s") && line.contains("DIR/calmirror.toml:12"), "{line}");
    }

    #[test]
    fn every_fault_is_printed_and_sets_the_exit_code() {
        let bad = GOOD.replace("interval", "intervall").replace("2036-01-01", "soon");
        let (exit, text) = checked(&bad, false, false);
        assert_eq!(exit, CONFIGURATION);
        assert_eq!(text.lines().count(), 2, "{text}");
        let (exit, text) = checked(&bad, false, true);
        assert_eq!(exit, CONFIGURATION);
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["faults"].as_array().map(Vec::len), Some(2));
    }
}
