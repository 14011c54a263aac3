//! A person signs in on another device (RFC 8628, fact 145); refresh tokens continue the sign-in
//! (fact 146).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use tokio::time::{Instant, sleep};

use super::Tokens;
use super::endpoint::{self, Denial, Grant, TokenAnswer};
use super::grant::{SignInSettings, TenantEndpoint};
use crate::env::Env;
use crate::graph::error::TokenError;
use crate::graph::transport::Transport;
use crate::graph::wire::without_bom;
use crate::mirror::account::Credential;
use crate::sign_in_record::{LockedRecord, SignInRecord, SignInRecordError};

/// What the person grants: calendars, those that others share, and a refresh token. The last two
/// name the person.
const SCOPES: &str = "Calendars.Read Calendars.Read.Shared offline_access openid profile";
/// The same for accounts that also read group calendars, which an administrator has to consent to.
const SCOPES_WITH_GROUPS: &str =
    "Calendars.Read Calendars.Read.Shared Group.Read.All offline_access openid profile";

const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:device_code";

/// How often to ask whether the person has signed in, if the endpoint does not say, and how much
/// longer to wait after `slow_down` (RFC 8628, 3.2 and 3.5).
const INTERVAL: Duration = Duration::from_secs(5);
/// The longest time that a person is waited for.
const MAX_LIFE: Duration = Duration::from_secs(3600);

/// A code with which a person signs in.
#[derive(Debug)]
pub struct DeviceCode {
    /// Where the person enters the code.
    pub verification_uri: String,
    /// The code.
    pub user_code: String,
    /// How long the code is valid.
    pub expires_in: Duration,
    code: SecretString,
    interval: Duration,
    sign_in: Arc<SignInSettings>,
}

/// The person who signed in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedInUser {
    /// The name for signing in, such as `alice@contoso.com`.
    pub name: String,
    /// Whether another person was signed in before, whose events are to be replaced.
    pub replaced: bool,
}

/// Why a sign-in failed.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// The account signs in in another way.
    #[error("account {0} does not sign in by device code; set device_code = true to use login")]
    NotByPerson(Arc<str>),
    /// The endpoint refuses, or was not reached.
    #[error("{0}")]
    Token(TokenError),
    /// The person refused.
    #[error("the sign-in was declined")]
    Declined,
    /// The person took too long.
    #[error("no person signed in before the code expired; start again")]
    Expired,
    /// The answer does not name the person.
    #[error("the answer of the token endpoint does not name the person who signed in")]
    Unknown,
    /// Someone of another tenant signed in.
    #[error("{0} belongs to another tenant than the account; sign in as a user of its tenant")]
    OtherTenant(String),
    /// Another person than before signed in.
    #[error(
        "{name} signed in, but {before} did before; to drop the events of {before}, use --replace"
    )]
    OtherUser {
        /// The person who signed in now.
        name: String,
        /// The person who signed in before.
        before: String,
    },
    /// The sign-in could not be stored.
    #[error("the sign-in could not be stored in {path}: {reason}", path = path.display())]
    Store {
        /// The account's file.
        path: PathBuf,
        /// What the system says.
        reason: String,
    },
}

#[derive(Deserialize)]
struct DeviceCodeJson {
    device_code: String,
    user_code: String,
    verification_uri: String,
    expires_in: Option<serde_json::Value>,
    interval: Option<serde_json::Value>,
}

/// The claims of an id token that name the person.
#[derive(Deserialize)]
struct IdClaims {
    oid: String,
    tid: String,
    preferred_username: Option<String>,
}

impl Tokens {
    /// Requests a code with which a person signs in.
    ///
    /// # Errors
    /// The account signs in in another way, or the endpoint refuses.
    pub async fn begin_login(&self) -> Result<DeviceCode, LoginError> {
        let sign_in = self.cached().sign_in.clone();
        sign_in.record_file()?;
        let scopes = scopes(sign_in.account.reads_groups);
        let form = [("client_id", &*sign_in.account.client_id), ("scope", scopes)];
        let (head, body) = sign_in
            .send(TenantEndpoint::DeviceCode, &form, &*self.transport, &self.env)
            .await
            .map_err(LoginError::Token)?;
        let now = self.env.now();
        if head.status.is_success()
            && let Ok(json) = serde_json::from_slice::<DeviceCodeJson>(without_bom(&body))
        {
            let life = endpoint::seconds(json.expires_in).unwrap_or(MAX_LIFE).min(MAX_LIFE);
            let stated = json.interval.as_ref().and_then(endpoint::number);
            let interval =
                stated.map_or(INTERVAL, |s| Duration::from_secs(s.clamp(1.0, 600.0) as u64));
            return Ok(DeviceCode {
                verification_uri: json.verification_uri,
                user_code: json.user_code,
                expires_in: life,
                code: json.device_code.into(),
                interval: interval.clamp(Duration::from_secs(1), life),
                sign_in,
            });
        }
        Err(LoginError::Token(match endpoint::read(head.status, &head.headers, &body, now) {
            Err(denial) => sign_in.denied(&denial),
            Ok(_) => sign_in.fault("the answer of the token endpoint holds no code"),
        }))
    }

    /// Waits until the person has signed in, and stores the sign-in. A configuration that is loaded
    /// from then on knows the person, and its accounts use the sign-in.
    ///
    /// # Errors
    /// The previous sign-in, if any, stays in force: see [`LoginError`].
    pub async fn finish_login(
        &self,
        code: DeviceCode,
        replace: bool,
    ) -> Result<SignedInUser, LoginError> {
        let DeviceCode { sign_in, code, expires_in, mut interval, .. } = code;
        let until = Instant::now() + expires_in;
        let form = [
            ("grant_type", GRANT_TYPE),
            ("client_id", &*sign_in.account.client_id),
            ("device_code", code.expose_secret()),
        ];
        let answer = loop {
            if Instant::now() + interval > until {
                return Err(LoginError::Expired);
            }
            sleep(interval).await;
            match sign_in.ask(TenantEndpoint::Token, &form, &*self.transport, &self.env).await {
                Ok(Ok(answer)) => break answer,
                Ok(Err(denial)) => match denial.code.as_deref() {
                    Some("authorization_pending") => {}
                    Some("slow_down") => interval += INTERVAL,
                    Some("authorization_declined" | "access_denied") => {
                        return Err(LoginError::Declined);
                    }
                    Some("expired_token") => return Err(LoginError::Expired),
                    _ if denial.needs_person => {
                        return Err(LoginError::Token(sign_in.denied(&denial)));
                    }
                    _ => {}
                },
                // A fault of the network; the person may still be typing.
                Err(_) => {}
            }
        };
        self.store_sign_in(&sign_in, answer, replace).await
    }

    /// Forgets the refresh token and the access token; returns the name of the person who was signed
    /// in. A
    /// later sign-in of another person still needs permission to replace the events.
    ///
    /// # Errors
    /// The account signs in in another way, or its file cannot be changed.
    pub async fn logout(&self) -> Result<Option<String>, LoginError> {
        let _asking = self.request_lock.lock().await;
        let sign_in = self.cached().sign_in.clone();
        let file = sign_in.record_file()?;
        let Some(mut record) = read(file)? else { return Ok(None) };
        let was = record.refresh_token.take().map(|_| record.user_name.clone());
        self.write(record, file).await?;
        self.cached().sign_out();
        Ok(was)
    }

    /// Checks the person of a sign-in, and stores it.
    async fn store_sign_in(
        &self,
        sign_in: &SignInSettings,
        answer: TokenAnswer,
        replace: bool,
    ) -> Result<SignedInUser, LoginError> {
        let account = &sign_in.account;
        let claims = answer.id_token.as_ref().and_then(|token| claims(token.expose_secret()));
        let claims = claims.ok_or(LoginError::Unknown)?;
        let name = claims.preferred_username.unwrap_or_else(|| claims.oid.clone());
        // The endpoint of a domain grants nothing to users of another tenant.
        let named_by_id = uuid::Uuid::try_parse(&account.tenant).is_ok();
        if named_by_id && !claims.tid.eq_ignore_ascii_case(&account.tenant) {
            return Err(LoginError::OtherTenant(name));
        }
        let file = sign_in.record_file()?;
        let _asking = self.request_lock.lock().await;
        let before = read(file)?.filter(|before| before.user_id != claims.oid);
        if let Some(before) = before.as_ref().filter(|_| !replace) {
            let before = before.user_name.clone();
            return Err(LoginError::OtherUser { name, before });
        }
        let record = SignInRecord {
            tenant: account.tenant.to_string(),
            client_id: account.client_id.clone(),
            user_id: claims.oid,
            user_name: name.clone(),
            at: self.env.now(),
            reads_groups: account.reads_groups,
            refresh_token: Some(answer.refresh_token.ok_or(LoginError::Unknown)?),
        };
        self.write(record, file).await?;
        if before.is_none() {
            // The person may have granted more than the current token allows.
            self.cached().sign_out();
        }
        Ok(SignedInUser { name, replaced: before.is_some() })
    }

    async fn write(&self, record: SignInRecord, file: &Path) -> Result<(), LoginError> {
        let written = async {
            let locked = LockedRecord::open(file, &self.env).await?;
            self.env.compute(move || locked.write(&record)).await
        };
        let path = file.to_owned();
        written.await.map_err(|error| LoginError::Store { path, reason: error.to_string() })
    }
}

impl SignInSettings {
    /// The file of an account that a person signs in to.
    fn record_file(&self) -> Result<&Path, LoginError> {
        match &self.account.credential {
            Credential::DeviceCode(file) => Ok(file),
            _ => Err(LoginError::NotByPerson(self.account.name.clone())),
        }
    }

    /// Gets a token with the stored refresh token. The new refresh token is durable before the
    /// access token is used.
    pub(super) async fn continue_sign_in(
        &self,
        file: &Path,
        transport: &dyn Transport,
        env: &Env,
    ) -> Result<Grant, TokenError> {
        let name = &self.account.name;
        let login =
            |why: &str| self.person_needed(&format!("{why}; sign in with: calmirror login {name}"));
        let record = SignInRecord::read(file)
            .map_err(|error| login(&format!("{} cannot be read: {error}", file.display())))?;
        let Some(record) = record else { return Err(login("no person has signed in yet")) };
        // The windows' events are those of the person whom the configuration knows.
        if self.account.user.as_deref() != Some(&*record.user_id) {
            let why = "another person has signed in since the configuration was loaded; to use \
                       the new sign-in: calmirror reload";
            return Err(self.person_needed(why));
        }
        let Some(token) = record.refresh_token else { return Err(login("no person is signed in")) };
        let form = [
            ("grant_type", "refresh_token"),
            ("client_id", &*self.account.client_id),
            // What was granted: a scope that was not would end the sign-in for every window.
            ("scope", scopes(record.reads_groups)),
            ("refresh_token", token.expose_secret()),
        ];
        let TokenAnswer { grant, refresh_token, .. } = self
            .ask(TenantEndpoint::Token, &form, transport, env)
            .await?
            .map_err(|denial: Denial| self.denied(&denial))?;
        if let Some(new) = refresh_token {
            let rotated = async {
                let locked = LockedRecord::open(file, env).await?;
                env.compute(move || locked.rotate(&token, new)).await
            };
            // The old refresh token is still valid, so the next attempt begins anew.
            rotated.await.map_err(|error: SignInRecordError| {
                let file = file.display();
                self.fault(&format!("the new refresh token cannot be stored in {file}: {error}"))
            })?;
        }
        Ok(grant)
    }
}

/// The scopes to ask for.
fn scopes(groups: bool) -> &'static str {
    if groups { SCOPES_WITH_GROUPS } else { SCOPES }
}

fn read(file: &Path) -> Result<Option<SignInRecord>, LoginError> {
    SignInRecord::read(file)
        .map_err(|error| LoginError::Store { path: file.to_owned(), reason: error.to_string() })
}

/// The claims of an id token. It comes from the token endpoint itself, so its signature need not be
/// checked (OpenID Connect Core, 3.1.3.7).
fn claims(token: &str) -> Option<IdClaims> {
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    serde_json::from_slice(&payload).ok()
}

#[cfg(test)]
mod tests;
