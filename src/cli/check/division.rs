//! How the windows are divided among several shards.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::cli::client::ApiClient;
use crate::cli::exit::CliError;
use crate::cli::shards::MissingShards;
use crate::config::Config;
use crate::mirror::shard::Shard;

/// How long the daemon may take to list its windows: `check` is about the configuration.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A window of a fleet, as the daemon lists it.
#[derive(Deserialize)]
pub(super) struct FleetMemberWindow {
    account: String,
    mailbox: String,
    #[serde(default)]
    fleet: Option<String>,
}

/// A page of windows.
#[derive(Deserialize)]
struct MemberList {
    value: Vec<FleetMemberWindow>,
    next: Option<String>,
    #[serde(flatten)]
    missing: MissingShards,
}

/// The windows of fleets, or why they are not known.
pub(super) type MemberWindows = Result<Vec<FleetMemberWindow>, String>;

/// Asks the running daemon for the windows of fleets.
pub(super) async fn member_windows(client: Result<&ApiClient, &String>) -> MemberWindows {
    let client = client.map_err(Clone::clone)?;
    match tokio::time::timeout(TIMEOUT, fetch(client)).await {
        Ok(Ok((windows, missing))) => match missing.line() {
            Some(line) => Err(line),
            None => Ok(windows),
        },
        Ok(Err(failure)) => Err(failure.message),
        Err(_) => Err(format!("the daemon has not listed them for {} s", TIMEOUT.as_secs())),
    }
}

async fn fetch(client: &ApiClient) -> Result<(Vec<FleetMemberWindow>, MissingShards), CliError> {
    let (mut windows, mut missing, mut page) =
        (Vec::new(), MissingShards::default(), String::new());
    loop {
        let path = format!("/v1/windows?limit=1000{page}");
        let list: MemberList = client.get(&path).await?.json()?;
        windows.extend(list.value.into_iter().filter(|window| window.fleet.is_some()));
        missing.add(list.missing);
        match list.next {
            Some(next) => page = format!("&page={next}"),
            None => return Ok((windows, missing)),
        }
    }
}

/// How many windows each shard has.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Division {
    shard: Shard,
    /// By the number of the shard.
    windows: Vec<usize>,
    /// The mailbox with the most windows, which stay together: how many, and their shard.
    largest: Option<(String, usize, u32)>,
    /// Why the windows of fleets are not counted.
    without_fleets: Option<String>,
}

impl Division {
    /// The division of a configuration with several shards. `members` are the windows of fleets.
    pub(super) fn of(config: &Config, members: Option<&MemberWindows>) -> Option<Self> {
        let shard = config.sections.shard.of;
        if shard == Shard::ALONE {
            return None;
        }
        let of_config = config.windows.iter().map(|window| (&*window.account, &*window.mailbox));
        let listed = members.and_then(|members| members.as_ref().ok());
        let listed = listed.into_iter().flatten().map(|one| (&*one.account, &*one.mailbox));
        let mut windows = vec![0; shard.count() as usize];
        // Addresses are the same in capitals.
        let mut mailboxes: BTreeMap<(String, String), (usize, u32)> = BTreeMap::new();
        for (account, mailbox) in of_config.chain(listed) {
            let tenant = config.accounts.get(account).map_or("", |account| &*account.tenant);
            let owner = shard.owner_of_mailbox(tenant, mailbox, account);
            if let Some(count) = windows.get_mut(owner as usize) {
                *count += 1;
            }
            let person = if mailbox == "me" { account } else { "" };
            let key = (format!("{tenant} {person}"), mailbox.to_lowercase());
            mailboxes.entry(key).or_insert((0, owner)).0 += 1;
        }
        let largest = mailboxes.into_iter().max_by_key(|(_, (count, _))| *count);
        let largest = largest.map(|((_, mailbox), (count, owner))| (mailbox, count, owner));
        let without_fleets = members.and_then(|members| members.as_ref().err()).cloned();
        Some(Self { shard, windows, largest, without_fleets })
    }

    /// A line for each shard, and one for the largest mailbox.
    pub(super) fn lines(&self) -> String {
        let mut text = String::new();
        for (ordinal, windows) in self.windows.iter().enumerate() {
            let own = if ordinal == self.shard.ordinal() as usize { " (this one)" } else { "" };
            let count = self.shard.count();
            writeln!(text, "shard {ordinal}/{count}{own}: windows: {windows}").ok();
        }
        if let Some((mailbox, windows, shard)) = &self.largest {
            writeln!(text, "largest mailbox: {mailbox}, windows: {windows}, shard {shard}").ok();
        }
        if let Some(reason) = &self.without_fleets {
            writeln!(text, "the windows of fleets are not counted: {reason}").ok();
        }
        text
    }

    pub(super) fn json(&self) -> Value {
        let shards = self.windows.iter().enumerate();
        let shards: Vec<Value> = shards
            .map(|(ordinal, windows)| json!({ "ordinal": ordinal.to_string(), "windows": windows }))
            .collect();
        let largest = self.largest.as_ref().map(|(mailbox, windows, shard)| {
            json!({ "mailbox": mailbox, "windows": windows, "ordinal": shard.to_string() })
        });
        json!({
            "shard": self.shard.to_string(),
            "shards": shards,
            "largest_mailbox": largest,
            "without_fleets": self.without_fleets,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::Sources;
    use crate::mirror::window::Window;
    use crate::tests::window;

    /// A configuration with these mailboxes.
    fn config(shard: Shard, mailboxes: &[&str]) -> Config {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("calmirror.toml");
        std::fs::write(&file, "").unwrap();
        let now = "2026-11-21T10:01:00Z".parse().unwrap();
        let mut config =
            Config::load(&Sources::find(Some(&file), Default::default()), now).unwrap();
        config.sections.shard.of = shard;
        config.windows = (mailboxes.iter().zip(0..))
            .map(|(mailbox, n)| {
                let name = format!("window {n}");
                Arc::new(Window { mailbox: (*mailbox).into(), ..window(&name) })
            })
            .collect();
        config
    }

    #[test]
    fn every_window_is_counted_where_it_belongs() {
        let shard = Shard::new(1, 3).unwrap();
        let mailboxes: Vec<String> = (0..30).map(|n| format!("p{n}@contoso.com")).collect();
        let mut mailboxes: Vec<&str> = mailboxes.iter().map(String::as_str).collect();
        mailboxes.extend(["P7@contoso.com", "p7@Contoso.com"]);
        let config = config(shard, &mailboxes);
        let division = Division::of(&config, None).unwrap();
        let mut expected = vec![0; 3];
        for window in &config.windows {
            expected[shard.owner(window, None) as usize] += 1;
        }
        assert_eq!(division.windows, expected);
        let owner = shard.owner_of_mailbox("", "p7@contoso.com", "contoso");
        assert_eq!(division.largest, Some(("p7@contoso.com".to_owned(), 3, owner)));
        let [zero, one, two] = expected[..] else { panic!("{expected:?}") };
        let text = format!(
            "shard 0/3: windows: {zero}\nshard 1/3 (this one): windows: {one}\n\
             shard 2/3: windows: {two}\nlargest mailbox: p7@contoso.com, windows: 3, shard {owner}\n"
        );
        assert_eq!(division.lines(), text);
        let json = division.json();
        assert_eq!((&json["shard"], &json["shards"][2]["windows"]), (&json!("1/3"), &json!(two)));
        assert_eq!(json["largest_mailbox"]["ordinal"], owner.to_string());
    }

    #[test]
    fn windows_of_fleets_are_counted_if_they_are_known() {
        let config = config(Shard::new(0, 2).unwrap(), &["a@contoso.com"]);
        let member = |mailbox: &str| FleetMemberWindow {
            account: "contoso".to_owned(),
            mailbox: mailbox.to_owned(),
            fleet: Some("rooms".to_owned()),
        };
        let known = Ok(vec![member("r1@contoso.com"), member("r2@contoso.com")]);
        let division = Division::of(&config, Some(&known)).unwrap();
        assert_eq!(division.windows.iter().sum::<usize>(), 3);
        let division = Division::of(&config, Some(&Err("no daemon answers".to_owned()))).unwrap();
        assert_eq!(division.windows.iter().sum::<usize>(), 1);
        let last = "the windows of fleets are not counted: no daemon answers\n";
        assert!(division.lines().ends_with(last), "{}", division.lines());
        assert_eq!(division.json()["without_fleets"], "no daemon answers");
    }

    #[test]
    fn a_process_alone_is_not_divided() {
        assert_eq!(Division::of(&config(Shard::ALONE, &["a@contoso.com"]), None), None);
    }

    /// Pages of a daemon, of which only windows of fleets count.
    #[tokio::test]
    async fn windows_of_fleets_are_those_that_the_daemon_lists() {
        use axum::extract::RawQuery;
        use axum::{Json, Router, routing::get};

        let window = |mailbox: &str, fleet: Value| json!({"account": "contoso", "mailbox": mailbox, "fleet": fleet});
        let first =
            json!({"value": [window("a", json!("rooms")), window("b", Value::Null)], "next": "n"});
        let second = json!({"value": [window("c", json!("rooms"))], "next": null});
        let broken = json!({"value": [], "next": null, "incomplete": ["1"]});
        for (last, expected) in [
            (second, Ok(vec!["a".to_owned(), "c".to_owned()])),
            (broken, Err("shard 1 is missing with its windows; the log of the shard that answered says why".to_owned())),
        ] {
            let first = first.clone();
            let page = move |RawQuery(query): RawQuery| async move {
                Json(if query.unwrap().ends_with("&page=n") { last } else { first })
            };
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let place = listener.local_addr().unwrap().to_string();
            let routes = Router::new().route("/v1/windows", get(page));
            let serving = tokio::spawn(async { axum::serve(listener, routes).await });
            let client = ApiClient::new(crate::cli::endpoint::Endpoint::Tcp(place), None);
            let windows = member_windows(Ok(&client)).await;
            let mailboxes =
                windows.map(|all| all.into_iter().map(|one| one.mailbox).collect::<Vec<_>>());
            assert_eq!(mailboxes, expected);
            serving.abort();
        }
    }
}
