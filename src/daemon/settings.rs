//! Turns a configuration into what the rooms below take: windows with their tokens, accounts, and
//! the settings of the API.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::StartError;
use crate::api::{ApiSettings, TokenHash};
use crate::config::{self, Config};
use crate::env::Env;
use crate::graph::{SignInSettings, Tokens, Transport};
use crate::mirror::account::Account;
use crate::mirror::window::Window;
use crate::supervisor::WindowSpec;

/// Windows with the tokens of their accounts. Windows share accounts, so each token is refreshed
/// once.
pub(super) fn window_specs<'a>(
    config: &Config,
    windows: impl IntoIterator<Item = &'a Arc<Window>>,
    accounts: &BTreeMap<Arc<str>, Arc<Tokens>>,
) -> Vec<WindowSpec> {
    windows
        .into_iter()
        .filter_map(|window| {
            let tokens = accounts.get(&window.account)?.clone();
            Some(WindowSpec { window: window.clone(), identity: config.identity(window), tokens })
        })
        .collect()
}

/// The tokens of every account. Known accounts keep theirs.
pub(super) fn tokens(
    config: &Config,
    known: &BTreeMap<Arc<str>, Arc<Tokens>>,
    transport: &Arc<dyn Transport>,
    env: &Env,
) -> BTreeMap<Arc<str>, Arc<Tokens>> {
    let tokens = |(name, account): (&Arc<str>, &Account)| {
        let new = || Tokens::new(sign_in(account, config), transport.clone(), env.clone());
        (name.clone(), known.get(name).cloned().unwrap_or_else(new))
    };
    config.accounts.iter().map(tokens).collect()
}

/// An account with the addresses at which it signs in.
pub(super) fn sign_in(account: &Account, config: &Config) -> SignInSettings {
    SignInSettings {
        account: account.clone(),
        login_url: config.sections.graph.login_url.clone(),
        scope: config.sections.graph.scope.clone(),
    }
}

/// What the API needs of a configuration.
///
/// # Errors
/// [`StartError::Token`].
pub(super) fn api_settings(
    config: &Config,
    open_loopback: bool,
) -> Result<ApiSettings, StartError> {
    let read = |path: &Option<PathBuf>| path.as_deref().map(token).transpose();
    Ok(ApiSettings {
        token: read(&config.sections.api.token_file)?,
        read_token: read(&config.sections.api.read_token_file)?,
        hosts: config.sections.api.hosts.clone(),
        mask_private: config.sections.api.mask_private,
        open_loopback,
    })
}

/// The token in a file. An empty file is an error: it may have been truncated since the
/// configuration was validated.
fn token(path: &Path) -> Result<TokenHash, StartError> {
    let refuse = |source| StartError::Token { path: path.to_owned(), source };
    let text = std::fs::read_to_string(path).map_err(refuse)?;
    if config::trimmed(text.as_bytes()).is_empty() {
        let source = std::io::Error::new(std::io::ErrorKind::InvalidData, "it is empty");
        return Err(refuse(source));
    }
    Ok(TokenHash::new(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_token_file_is_refused_like_an_unreadable_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        for text in [None, Some(""), Some(" \n"), Some("\u{b}"), Some("\u{a0}\r\n")] {
            if let Some(text) = text {
                std::fs::write(&path, text).unwrap();
            }
            let refused = token(&path);
            assert!(matches!(refused, Err(StartError::Token { .. })), "{text:?}");
        }
        std::fs::write(&path, "\u{a0}s3cret\n").unwrap();
        assert_eq!(token(&path).unwrap(), TokenHash::new("s3cret"));
    }
}
