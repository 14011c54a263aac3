//! `check --online`: prints whether each account can sign in and read, and each fleet be listed.

use std::fmt::Write as _;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::cli::exit::{CliError, DONE, FAILED, PERMISSION};
use crate::config::Config;
use crate::daemon::{AccountCheck, FleetCheck, OnlineChecks, OnlineFault, check_online};
use crate::env::Env;
use crate::error_chain::error_chain;
use crate::graph::HttpTransport;

/// Checks every account and every fleet.
pub(super) async fn checks(config: &Config) -> Result<OnlineChecks, CliError> {
    let transport = HttpTransport::new().map_err(|error| {
        CliError::new(FAILED, format!("cannot set up TLS: {}", error_chain(&error)))
    })?;
    let checked = check_online(config, Arc::new(transport), Env::real()).await;
    checked.map_err(|problem| CliError::new(FAILED, problem))
}

/// The exit code for these results: a person has to act, or it failed and may pass.
pub(super) fn exit(checked: &OnlineChecks) -> u8 {
    let of_accounts = checked.accounts.iter().filter_map(|one| one.fault.as_ref());
    let of_fleets = checked.fleets.iter().filter_map(|one| one.members.as_ref().err());
    let faults: Vec<_> = of_accounts.chain(of_fleets).collect();
    match faults.as_slice() {
        [] => DONE,
        faults if faults.iter().any(|fault| fault.needs_person) => PERMISSION,
        _ => FAILED,
    }
}

/// One line for each account and each fleet.
pub(super) fn lines(checked: &OnlineChecks) -> String {
    let mut text = String::new();
    for AccountCheck { account, window, fault } in &checked.accounts {
        let read = match window {
            Some(window) => format!("a page of {} ({})", window.mailbox, window.calendar),
            None => "nothing, because no window uses it".to_owned(),
        };
        match fault {
            None => writeln!(text, "account {account}: signed in, read {read}").ok(),
            Some(fault) => {
                // The errors of a sign-in name the account themselves.
                let named = fault.problem.starts_with(&format!("account {account}: "));
                let of = match (named, window) {
                    (true, _) => String::new(),
                    (false, Some(window)) => format!("account {account}: {}: ", window.mailbox),
                    (false, None) => format!("account {account}: "),
                };
                writeln!(text, "{of}{}", reason(fault)).ok()
            }
        };
    }
    for FleetCheck { fleet, members } in &checked.fleets {
        match members {
            Ok(count) => writeln!(text, "fleet {fleet}: listed, members: {count}").ok(),
            Err(fault) => writeln!(text, "fleet {fleet}: {}", reason(fault)).ok(),
        };
    }
    text
}

fn reason(fault: &OnlineFault) -> String {
    let remedy = fault.remedy.map(|remedy| format!("; {remedy}")).unwrap_or_default();
    format!("{}{remedy}", fault.problem)
}

/// The accounts as JSON.
pub(super) fn accounts_json(checked: &[AccountCheck]) -> Value {
    let account = |AccountCheck { account, window, fault }: &AccountCheck| {
        json!({
            "account": &**account,
            "ok": fault.is_none(),
            "mailbox": window.as_ref().map(|window| &*window.mailbox),
            "calendar": window.as_ref().map(|window| window.calendar.to_string()),
            "fault": fault.as_ref().map(fault_json),
        })
    };
    checked.iter().map(account).collect()
}

/// The fleets as JSON.
pub(super) fn fleets_json(checked: &[FleetCheck]) -> Value {
    let fleet = |FleetCheck { fleet, members }: &FleetCheck| {
        json!({
            "fleet": &**fleet,
            "ok": members.is_ok(),
            "members": members.as_ref().ok(),
            "fault": members.as_ref().err().map(fault_json),
        })
    };
    checked.iter().map(fleet).collect()
}

fn fault_json(fault: &OnlineFault) -> Value {
    json!({
        "needs_person": fault.needs_person,
        "status": fault.status,
        "code": fault.code,
        "problem": fault.problem,
        "remedy": fault.remedy,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::window;

    #[test]
    fn each_account_is_a_line_and_the_exit_code_says_whether_a_person_has_to_act() {
        let fault = |needs_person, problem: &str, remedy| OnlineFault {
            needs_person,
            status: Some(403),
            code: Some("ErrorAccessDenied".to_owned()),
            problem: problem.to_owned(),
            remedy,
        };
        let check = |account: &str, of: Option<&str>, fault| AccountCheck {
            account: account.into(),
            window: of.map(|name| Arc::new(window(name))),
            fault,
        };
        let good = check("a", Some("alice"), None);
        let unused = check("b", None, None);
        let denied =
            check("c", Some("bob"), Some(fault(true, "graph answered 403", Some("grant it"))));
        let refused =
            check("d", Some("bob"), Some(fault(true, "account d: sign-in was refused", None)));
        let down = check("e", None, Some(fault(false, "the request to graph failed", None)));
        let mailbox = window("alice").mailbox;
        let bob = window("bob").mailbox;
        let accounts = vec![good, unused, denied, refused, down];
        let fleet = |name: &str, members| FleetCheck { fleet: name.into(), members };
        let fleets = vec![
            fleet("x", Ok(3)),
            fleet("y", Err(fault(true, "graph answered 403", Some("grant that")))),
        ];
        let all = OnlineChecks { accounts, fleets };
        assert_eq!(
            lines(&all),
            format!(
                "account a: signed in, read a page of {mailbox} (default)\n\
                 account b: signed in, read nothing, because no window uses it\n\
                 account c: {bob}: graph answered 403; grant it\n\
                 account d: sign-in was refused\n\
                 account e: the request to graph failed\n\
                 fleet x: listed, members: 3\n\
                 fleet y: graph answered 403; grant that\n"
            )
        );
        let only = |accounts: &[AccountCheck], fleets: &[FleetCheck]| {
            exit(&OnlineChecks { accounts: accounts.to_vec(), fleets: fleets.to_vec() })
        };
        let (accounts, fleets) = (&all.accounts, &all.fleets);
        assert_eq!(only(&accounts[..2], &fleets[..1]), DONE);
        assert_eq!(only(&accounts[4..], &[]), FAILED);
        assert_eq!(only(&[accounts[4].clone(), accounts[2].clone()], &[]), PERMISSION);
        assert_eq!(only(&[], &fleets[1..]), PERMISSION);
        let json = accounts_json(accounts);
        assert_eq!(
            (&json[0]["ok"], &json[2]["fault"]["remedy"]),
            (&json!(true), &json!("grant it"))
        );
        assert_eq!(fleets_json(fleets)[0]["members"], 3);
    }
}
