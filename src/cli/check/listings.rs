//! What the running daemon knows of the fleets: the last listing of each.

use std::fmt::Write as _;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use crate::api::FleetStatusJson;
use crate::cli::client::ApiClient;
use crate::cli::status::fleet_lines;
use crate::config::Config;

/// How long the daemon may take to answer: `check` is about the configuration.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The fleets of the running daemon, or why they are not known.
pub(super) type KnownFleets = Result<Vec<FleetStatusJson>, String>;

/// The part of `/v1/status` that is read.
#[derive(Deserialize)]
struct DaemonFleets {
    fleets: Vec<FleetStatusJson>,
    /// Only for a reader with all rights, which sees every fleet.
    consumers: Option<IgnoredAny>,
}

impl DaemonFleets {
    /// The fleets. A reader that may not see them gets an empty list.
    fn known(self) -> KnownFleets {
        if self.fleets.is_empty() && self.consumers.is_none() {
            let reason = "the daemon shows no fleets; it has none, or this token does not show \
                          them and the token of api.token_file does";
            return Err(reason.to_owned());
        }
        Ok(self.fleets)
    }
}

/// Asks the running daemon.
pub(super) async fn known(client: Result<&ApiClient, &String>) -> KnownFleets {
    let client = client.map_err(Clone::clone)?;
    let asking = async { client.get("/v1/status").await?.json::<DaemonFleets>() };
    match tokio::time::timeout(TIMEOUT, asking).await {
        Ok(Ok(status)) => status.known(),
        Ok(Err(failure)) => Err(failure.message),
        Err(_) => Err(format!("the daemon has not answered for {} s", TIMEOUT.as_secs())),
    }
}

/// The last listing of each fleet of the configuration, as `status` shows it.
pub(super) fn lines(
    config: &Config,
    known: &KnownFleets,
    now: Timestamp,
    zone: &TimeZone,
) -> String {
    let known = match known {
        Ok(known) => known,
        Err(reason) => return format!("the last listings of fleets are not known: {reason}\n"),
    };
    let mut text = String::new();
    for spec in &config.fleets {
        match known.iter().find(|fleet| *fleet.name == *spec.name) {
            Some(fleet) => {
                for line in fleet_lines(fleet, now, zone) {
                    writeln!(text, "{line}").ok();
                }
            }
            None => {
                writeln!(text, "fleet {}: new, the running daemon does not have it", spec.name)
                    .ok();
            }
        }
    }
    text
}

/// Adds the last listing to each fleet: as in `/v1/status`, or null.
pub(super) fn add_json(fleets: &mut Value, known: &KnownFleets) {
    let known = known.as_deref().unwrap_or_default();
    for fleet in fleets.as_array_mut().into_iter().flatten() {
        let listed = known.iter().find(|known| fleet["name"] == known.name);
        fleet["last_listing"] = json!(listed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::Sources;
    use crate::mirror::fleet::FleetSpec;
    use crate::tests::fleet_spec;

    /// A fleet as the daemon shows it.
    fn listed(name: &str) -> FleetStatusJson {
        let value = json!({
            "name": name, "account": "contoso", "members": 3, "windows": 2, "without_mailbox": 1,
            "listed_at": "2026-11-21T10:00:00Z", "next_due": null, "held": null,
            "calendars_held": {"missing": 30, "until": "2026-11-21T10:10:00Z"}, "failures": 0,
            "last_error": null, "faults": 0, "members_with_faults": [], "calendars_left_out": [],
        });
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn the_last_listing_is_shown_if_the_daemon_knows_it() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("calmirror.toml");
        std::fs::write(&file, "").unwrap();
        let now = "2026-11-21T10:01:00Z".parse().unwrap();
        let mut config =
            Config::load(&Sources::find(Some(&file), Default::default()), now).unwrap();
        let fleet = |name: &str| Arc::new(FleetSpec { name: name.into(), ..fleet_spec() });
        config.fleets = vec![fleet("rooms"), fleet("staff")];
        let shown = |known| lines(&config, &known, now, &TimeZone::UTC);
        assert_eq!(
            shown(Ok(vec![listed("old"), listed("staff")])),
            "fleet rooms: new, the running daemon does not have it\n\
             fleet staff: members: 3 (1 without a mailbox), windows: 2, listed 1m 0s ago\n\
             fleet staff: the listing lacks the calendars of 30 windows; they stay unless one after 2026-11-21 10:10:00 agrees\n"
        );
        assert_eq!(
            shown(Err("no daemon".to_owned())),
            "the last listings of fleets are not known: no daemon\n"
        );
        let mut fleets = json!([{"name": "rooms"}, {"name": "staff"}]);
        add_json(&mut fleets, &Ok(vec![listed("staff")]));
        assert!(fleets[0]["last_listing"].is_null());
        assert_eq!(fleets[1]["last_listing"]["members"], 3);
    }

    #[test]
    fn a_token_that_shows_no_fleets_does_not_make_them_new() {
        let known = |status: Value| {
            let status: DaemonFleets = serde_json::from_value(status).unwrap();
            status.known().map(|fleets| fleets.len())
        };
        assert_eq!(known(json!({"fleets": [listed("staff")]})), Ok(1));
        assert_eq!(known(json!({"fleets": [], "consumers": []})), Ok(0));
        let hidden = known(json!({"fleets": []})).unwrap_err();
        assert!(hidden.contains("this token does not show them"), "{hidden}");
    }

    #[tokio::test]
    async fn without_a_daemon_the_reason_is_known() {
        let failure = "no daemon".to_owned();
        assert_eq!(known(Err(&failure)).await, Err(failure.clone()));
    }
}
