//! The person who signed in to an account with `calmirror login`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::diagnostic::Issue;
use crate::sign_in_record::SignInRecord;

/// The directory of the files of accounts, in the store's directory.
const DIRECTORY: &str = "accounts";

/// The file of an account, whose name has only letters, digits, `-` and `_`.
pub(super) fn file(store: Option<&Path>, account: &str) -> PathBuf {
    // Without the store's path there is already an error.
    store.unwrap_or(Path::new("")).join(DIRECTORY).join(account)
}

/// The object id of the person who signed in, and what is wrong with the sign-in. That is only worth
/// a warning: the daemon runs, and the account's windows wait for a sign-in.
///
/// # Errors
/// The person is not known. Without the person the windows would count as those of another
/// one, and lose their events.
pub(super) fn user(
    file: &Path,
    tenant: &str,
    client_id: &str,
) -> Result<(Option<Arc<str>>, Option<Issue>), Issue> {
    let wrong = |problem: String| {
        let remedy = "run `calmirror login` for this account once the daemon runs";
        Some(Issue::new(problem, remedy))
    };
    let record = SignInRecord::read(file).map_err(|error| {
        let problem = format!("{} cannot be read: {error}", file.display());
        Issue::new(
            problem,
            "let the daemon's user read it, restore it, or delete it and sign in again",
        )
    })?;
    Ok(match record {
        None => (None, wrong("no person has signed in yet".to_owned())),
        Some(record) if record.tenant != tenant || record.client_id != client_id => {
            (None, wrong("the sign-in was made for another tenant or application".to_owned()))
        }
        Some(record) => {
            let signed_out = record.refresh_token.is_none();
            let wrong = if signed_out { wrong("no person is signed in".to_owned()) } else { None };
            (Some(record.user_id.into()), wrong)
        }
    })
}
