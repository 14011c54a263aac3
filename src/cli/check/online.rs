//! `check --online`: prints whether each account can sign in and read.

use std::fmt::Write as _;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::cli::exit::{CliError, DONE, FAILED, PERMISSION};
use crate::config::Config;
use crate::daemon::{AccountCheck, check_online};
use crate::env::Env;
use crate::error_chain::error_chain;
use crate::graph::HttpTransport;

/// Checks every account.
pub(super) async fn accounts(config: &Config) -> Result<Vec<AccountCheck>, CliError> {
    let transport = HttpTransport::new().map_err(|error| {
        CliError::new(FAILED, format!("cannot set up TLS: {}", error_chain(&error)))
    })?;
    let checked = check_online(config, Arc::new(transport), Env::real()).await;
    checked.map_err(|problem| CliError::new(FAILED, problem))
}

/// The exit code for these results: a person has to act, or it failed and may pass.
pub(super) fn exit(checked: &[AccountCheck]) -> u8 {
    let faults: Vec<_> = checked.iter().filter_map(|one| one.fault.as_ref()).collect();
    match faults.as_slice() {
        [] => DONE,
        faults if faults.iter().any(|fault| fault.needs_person) => PERMISSION,
        _ => FAILED,
    }
}

/// One line for each account.
pub(super) fn lines(checked: &[AccountCheck]) -> String {
    let mut text = String::new();
    for AccountCheck { account, window, fault } in checked {
        let read = match window {
            Some(window) => format!("a page of {} ({})", window.mailbox, window.calendar),
            None => "nothing, because no window uses it".to_owned(),
        };
        match fault {
            None => writeln!(text, "account {account}: signed in, read {read}").ok(),
            Some(fault) => {
                let remedy = fault.remedy.map(|remedy| format!("; {remedy}")).unwrap_or_default();
                let problem = &fault.problem;
                // The errors of a sign-in name the account themselves.
                let named = problem.starts_with(&format!("account {account}: "));
                let of = match (named, window) {
                    (true, _) => String::new(),
                    (false, Some(window)) => format!("account {account}: {}: ", window.mailbox),
                    (false, None) => format!("account {account}: "),
                };
                writeln!(text, "{of}{problem}{remedy}").ok()
            }
        };
    }
    text
}

/// The same as JSON.
pub(super) fn as_json(checked: &[AccountCheck]) -> Value {
    let account = |AccountCheck { account, window, fault }: &AccountCheck| {
        json!({
            "account": &**account,
            "ok": fault.is_none(),
            "mailbox": window.as_ref().map(|window| &*window.mailbox),
            "calendar": window.as_ref().map(|window| window.calendar.to_string()),
            "fault": fault.as_ref().map(|fault| json!({
                "needs_person": fault.needs_person,
                "status": fault.status,
                "code": fault.code,
                "problem": fault.problem,
                "remedy": fault.remedy,
            })),
        })
    };
    checked.iter().map(account).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::OnlineFault;
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
        let all = [good, unused, denied, refused, down];
        assert_eq!(
            lines(&all),
            format!(
                "account a: signed in, read a page of {mailbox} (default)\n\
                 account b: signed in, read nothing, because no window uses it\n\
                 account c: {bob}: graph answered 403; grant it\n\
                 account d: sign-in was refused\n\
                 account e: the request to graph failed\n"
            )
        );
        let [_, _, denied, _, down] = &all;
        assert_eq!(exit(&all[..2]), DONE);
        assert_eq!(exit(std::slice::from_ref(down)), FAILED);
        assert_eq!(exit(&[down.clone(), denied.clone()]), PERMISSION);
        let json = as_json(&all);
        assert_eq!(
            (&json[0]["ok"], &json[2]["fault"]["remedy"]),
            (&json!(true), &json!("grant it"))
        );
    }
}
