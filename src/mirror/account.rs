//! An account: what signs in to Graph, and with which credential.

use std::path::PathBuf;
use std::sync::Arc;

/// The maximum size of a file with a secret, a token or a certificate; a larger one is the wrong file.
pub const MAX_SECRET_BYTES: u64 = 256 * 1024;

/// An application registered in a tenant, or an access token that another program renews.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The name in `[account.NAME]`.
    pub name: Arc<str>,
    /// The tenant's id or domain; empty if the credential makes it unnecessary.
    pub tenant: Arc<str>,
    /// The application's id; empty if the credential makes it unnecessary.
    pub client_id: String,
    /// The credential to sign in with.
    pub credential: Credential,
    /// The object id of the person who signed in ([`Credential::DeviceCode`]); `None` before that.
    pub user: Option<Arc<str>>,
    /// Through which proxy its requests go.
    pub proxy: ProxySettings,
    /// Whether any window is the calendar of a group, for which a person grants more.
    pub reads_groups: bool,
}

impl Account {
    /// What the ids of its windows' events belong to: the tenant, and the person if one signed in.
    pub fn realm(&self) -> Arc<str> {
        match &self.user {
            Some(user) => format!("{}/{user}", self.tenant).into(),
            None => self.tenant.clone(),
        }
    }
}

/// Through which proxy an account's requests go. Names a file with a secret and never holds one, so
/// it may be shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxySettings {
    /// `http://HOST:PORT` or `https://HOST:PORT` without a user; `None`: the proxy of the environment,
    /// if it names one.
    pub address: Option<String>,
    /// A private file with `user:password` for the proxy. It is read for every new connection.
    pub credentials_file: Option<PathBuf>,
}

/// Where an account's credential is. It names secrets and never holds one, so it may be shown.
///
/// When the configuration is loaded, files are checked to be readable, private and not empty. They
/// are read again at each use and may have changed by then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// A file with the client secret.
    SecretFile(PathBuf),
    /// The name of the environment variable with the client secret.
    SecretEnv(String),
    /// A PEM or PFX file with an RSA private key and its certificate.
    CertificateFile {
        /// The file.
        path: PathBuf,
        /// A file with the password of an encrypted file.
        password_file: Option<PathBuf>,
    },
    /// A file with a token of another identity provider, which the application trusts (workload
    /// identity federation, fact 140). It is renewed by others, for example by Kubernetes.
    FederatedTokenFile(PathBuf),
    /// The identity that Azure gives to this machine or application (facts 141-144): the
    /// user-assigned one with the account's `client_id`, or the system-assigned one without.
    ManagedIdentity(IdentityEndpoint),
    /// A person signs in with `calmirror login` (facts 145-147); the file has the refresh token.
    DeviceCode(PathBuf),
    /// A file with an access token that another program renews.
    AccessTokenFile(PathBuf),
    /// A program and its arguments; it prints an access token.
    AccessTokenCommand(Arc<[String]>),
}

impl Credential {
    /// Whether its tokens may be those of a signed-in user, who alone has a mailbox `me` (fact 20).
    pub fn may_be_a_user(&self) -> bool {
        matches!(self, Self::DeviceCode(_) | Self::AccessTokenFile(_) | Self::AccessTokenCommand(_))
    }
}

/// What grants tokens to a managed identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdentityEndpoint {
    /// The metadata service of a virtual machine (IMDS), at this address without a trailing slash.
    MachineMetadata(String),
    /// App Service, Functions and Container Apps.
    AppService {
        /// The complete address: the value of `IDENTITY_ENDPOINT`.
        url: String,
        /// The name of the environment variable with its key.
        key: &'static str,
    },
    /// The agent of Azure Arc.
    Arc {
        /// The complete address of its token endpoint.
        url: String,
        /// The directory of the files with which a caller proves that it may use the identity.
        keys: PathBuf,
    },
}
