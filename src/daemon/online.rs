//! Checks that every account can sign in and read (`check --online`). Nothing is stored, except
//! that the sign-in of a person is continued.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::{fleets, settings};
use crate::config::Config;
use crate::env::Env;
use crate::graph::{Budgets, GraphClient, GraphError, RequestOptions, Tokens, Transport, remedy};
use crate::mirror::account::{Account, Credential};
use crate::mirror::failure::ErrorClass;
use crate::mirror::window::{Edges, Window};

/// What the check of an account found.
#[derive(Clone, Debug)]
pub struct AccountCheck {
    /// The account.
    pub account: Arc<str>,
    /// The window whose calendar was read; `None` if no window uses the account.
    pub window: Option<Arc<Window>>,
    /// Why the account cannot be used.
    pub fault: Option<OnlineFault>,
}

/// What the check of a fleet found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetCheck {
    /// The fleet.
    pub fleet: Arc<str>,
    /// How many members are listed, or why none are.
    pub members: Result<usize, OnlineFault>,
}

/// What `check --online` found.
#[derive(Clone, Debug)]
pub struct OnlineChecks {
    /// Every account.
    pub accounts: Vec<AccountCheck>,
    /// Every fleet.
    pub fleets: Vec<FleetCheck>,
}

/// Why an account or a fleet cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnlineFault {
    /// Whether a person has to act; otherwise the reason may pass.
    pub needs_person: bool,
    /// The status of the answer.
    pub status: Option<u16>,
    /// The error code of the answer.
    pub code: Option<String>,
    /// What happened; with the remedy if no permission has to be granted.
    pub problem: String,
    /// What an administrator has to grant.
    pub remedy: Option<&'static str>,
}

impl OnlineFault {
    fn of(error: &GraphError, credential: &Credential, mailbox: &str) -> Self {
        let passing = matches!(
            error.class(),
            ErrorClass::Transient | ErrorClass::Throttled | ErrorClass::MalformedPage
        );
        Self {
            needs_person: !passing,
            status: error.status(),
            code: error.code().map(str::to_owned),
            problem: error.message(),
            remedy: remedy(error, credential, mailbox),
        }
    }
}

/// Signs in with every account, reads one page of one of its calendars, and lists every fleet.
///
/// # Errors
/// Graph's configured address cannot be used.
pub async fn check_online(
    config: &Config,
    transport: Arc<dyn Transport>,
    env: Env,
) -> Result<OnlineChecks, String> {
    let graph = &config.sections.graph;
    let budgets = Budgets::new(graph.max_concurrent, graph.max_concurrent_per_mailbox);
    let client = GraphClient::new(
        transport.clone(),
        &graph.base_url,
        budgets,
        env.clone(),
        graph.request_timeout,
    )
    .map_err(|error| format!("cannot use the configured Graph address: {error}"))?;
    let sign_ins = settings::sign_ins(config, &BTreeMap::new())
        .map_err(|error| format!("the network cannot be set up: {error}"))?;
    let accounts = settings::tokens(&sign_ins, &BTreeMap::new(), &transport, &env);
    let checks = config.accounts.values().map(|account| {
        let window = config.windows.iter().find(|window| window.account == account.name).cloned();
        check_account(account, accounts[&account.name].clone(), window, &client, env.now())
    });
    let fleets = config.fleets.iter().map(|spec| async {
        let tokens = &accounts[&spec.account];
        let (directory, credential) = (client.directory(tokens), tokens.credential());
        let listed = fleets::count_members(&directory, &credential, spec, &env).await;
        let members = listed.map_err(|error| OnlineFault {
            needs_person: !error.is_passing,
            status: error.status,
            code: error.code,
            problem: error.problem,
            remedy: error.remedy,
        });
        FleetCheck { fleet: spec.name.clone(), members }
    });
    let (accounts, fleets) = futures_util::future::join(
        futures_util::future::join_all(checks),
        futures_util::future::join_all(fleets),
    )
    .await;
    Ok(OnlineChecks { accounts, fleets })
}

async fn check_account(
    account: &Account,
    tokens: Arc<Tokens>,
    window: Option<Arc<Window>>,
    client: &GraphClient,
    now: Timestamp,
) -> AccountCheck {
    let checked = match &window {
        None => tokens.token().await.map(drop),
        Some(window) => {
            let target = client.target(&tokens, &window.mailbox, window.calendar.clone());
            let options = RequestOptions {
                page_size: 1,
                body: window.settings.body,
                time_zone: window.settings.time_zone.clone(),
                immutable_ids: window.settings.immutable_ids,
            };
            let end = now.saturating_add(SignedDuration::from_hours(24)).unwrap_or(now);
            let day = Edges { start: now, end };
            client.calendar_view(&target, &options, day, Some("id"), None, false).await.map(drop)
        }
    };
    let mailbox = window.as_ref().map_or("", |window| &*window.mailbox);
    let fault = checked.err().map(|error| OnlineFault::of(&error, &account.credential, mailbox));
    AccountCheck { account: account.name.clone(), window, fault }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::script::{self, Script, granted, reply};
    use crate::tests::window;

    #[tokio::test(start_paused = true)]
    async fn an_account_is_checked_by_a_page_of_a_calendar() {
        let denied = r#"{"error":{"code":"ErrorAccessDenied","message":"Access is denied."}}"#;
        for (answer, needs_person, remedy) in [
            (reply(200, r#"{"value":[]}"#), None, None),
            (reply(403, denied), Some(true), Some("Calendars.Read")),
            (reply(503, ""), Some(false), None),
        ] {
            let script = Script::new([granted("t", 3600)], [answer]);
            let tokens = script::tokens(&script);
            let account = script::sign_in(Credential::SecretEnv("PATH".into())).account;
            let client = script::client(&script);
            let window = Some(Arc::new(window("alice")));
            let now = script::env().now();
            let checked = check_account(&account, tokens, window, &client, now).await;
            let fault = checked.fault.as_ref();
            assert_eq!(fault.map(|fault| fault.needs_person), needs_person);
            let said = fault.and_then(|fault| fault.remedy).unwrap_or_default();
            assert!(said.contains(remedy.unwrap_or_default()), "{said}");
            assert_eq!(script.urls().len(), 1);
        }
    }
}
