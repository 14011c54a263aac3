//! Signs people in to the accounts in force.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::BoxFuture;
use jiff::SignedDuration;

use crate::api::{CompletedLogin, LoginApi, LoginRefusal, StartedLogin};
use crate::env::Env;
use crate::graph::{SignedInUser, Tokens};
use crate::reload::ReloadHandle;

/// The accounts in force, by name.
type Accounts = BTreeMap<Arc<str>, Arc<Tokens>>;

/// The accounts in force. Cheap to clone; clones share them.
#[derive(Clone)]
pub(super) struct AccountRegistry {
    accounts: Arc<Mutex<Accounts>>,
    reloads: ReloadHandle,
    env: Env,
}

impl AccountRegistry {
    pub(super) fn new(accounts: Accounts, reloads: ReloadHandle, env: Env) -> Self {
        Self { accounts: Arc::new(Mutex::new(accounts)), reloads, env }
    }

    /// Every account.
    pub(super) fn all(&self) -> Accounts {
        self.lock().clone()
    }

    /// Puts other accounts in force.
    pub(super) fn replace(&self, accounts: Accounts) {
        *self.lock() = accounts;
    }

    fn lock(&self) -> MutexGuard<'_, Accounts> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, account: &str) -> Result<Arc<Tokens>, LoginRefusal> {
        let found = self.lock().get(account).cloned();
        found.ok_or_else(|| LoginRefusal::UnknownAccount(account.to_owned()))
    }
}

impl LoginApi for AccountRegistry {
    fn login(
        &self,
        account: String,
        replace: bool,
    ) -> BoxFuture<'_, Result<StartedLogin, LoginRefusal>> {
        let refused = |error: crate::graph::LoginError| LoginRefusal::Refused(error.to_string());
        Box::pin(async move {
            let tokens = self.find(&account)?;
            let code = tokens.begin_login().await.map_err(refused)?;
            let life = SignedDuration::try_from(code.expires_in).unwrap_or(SignedDuration::MAX);
            let (verification_uri, user_code) =
                (code.verification_uri.clone(), code.user_code.clone());
            let reloads = self.reloads.clone();
            let outcome = async move {
                let signed_in = tokens.finish_login(code, replace).await.map_err(refused)?;
                let SignedInUser { name: user, replaced } = signed_in;
                tracing::info!(%account, replaced, "a person signed in");
                // The configuration names the person, and whose events the windows have depends on
                // it: a reload puts both in force.
                match reloads.ask_after_sign_in(&account).await {
                    Ok(_) => Ok(CompletedLogin { user, replaced }),
                    Err(error) => Err(LoginRefusal::NotReloaded { user, error }),
                }
            };
            Ok(StartedLogin {
                verification_uri,
                user_code,
                expires_at: self.env.now().saturating_add(life).unwrap_or(self.env.now()),
                outcome: Box::pin(outcome),
            })
        })
    }

    fn logout(&self, account: String) -> BoxFuture<'_, Result<Option<String>, LoginRefusal>> {
        Box::pin(async move {
            let out = self.find(&account)?.logout().await;
            let out = out.map_err(|error| LoginRefusal::Refused(error.to_string()))?;
            if out.is_some() {
                tracing::info!(%account, "signed out");
            }
            Ok(out)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::script::{self, Script};
    use crate::reload::ReloadQueue;

    #[tokio::test(start_paused = true)]
    async fn only_accounts_in_force_that_people_sign_in_to_can_be_used() {
        let script = Script::new([], []);
        let tokens = script::tokens(&script);
        let accounts = [("contoso".into(), tokens)].into();
        let reloads = ReloadQueue::default().handle();
        let registry = AccountRegistry::new(accounts, reloads, script::env());
        let refused = registry.login("contoso".into(), false).await.err();
        assert!(matches!(refused, Some(LoginRefusal::Refused(_))), "{refused:?}");
        assert!(matches!(registry.logout("contoso".into()).await, Err(LoginRefusal::Refused(_))));
        let unknown = LoginRefusal::UnknownAccount("other".into());
        assert_eq!(registry.logout("other".into()).await, Err(unknown));
        registry.replace(Accounts::new());
        assert!(registry.all().is_empty());
        let gone = registry.login("contoso".into(), false).await.err();
        assert_eq!(gone, Some(LoginRefusal::UnknownAccount("contoso".into())));
        assert!(script.asked().is_empty());
    }
}
