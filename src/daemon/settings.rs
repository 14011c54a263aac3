//! Turns a configuration into what the rooms below take: windows with their tokens, accounts, and
//! the settings of the API.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::StartError;
use crate::api::{ApiSettings, Consumer, ConsumerIdentity, Peers, TokenHash};
use crate::config::{self, Config, ConsumerConfig, ConsumerKey};
use crate::env::Env;
use crate::graph::transport::TransportError;
use crate::graph::{Route, RouteSettings, SignInSettings, Tokens, Transport};
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

/// The tokens of every account, which signs in as `sign_ins` says. Known accounts keep theirs.
pub(super) fn tokens(
    sign_ins: &BTreeMap<Arc<str>, SignInSettings>,
    known: &BTreeMap<Arc<str>, Arc<Tokens>>,
    transport: &Arc<dyn Transport>,
    env: &Env,
) -> BTreeMap<Arc<str>, Arc<Tokens>> {
    let tokens = |(name, sign_in): (&Arc<str>, &SignInSettings)| {
        let new = || Tokens::new(sign_in.clone(), transport.clone(), env.clone());
        (name.clone(), known.get(name).cloned().unwrap_or_else(new))
    };
    sign_ins.iter().map(tokens).collect()
}

/// Every account with the addresses at which it signs in and its way to the network. Accounts with
/// the same way share it and its connections; so do those of `known` that go on using it.
///
/// # Errors
/// A way that cannot be set up.
pub(super) fn sign_ins(
    config: &Config,
    known: &BTreeMap<Arc<str>, Arc<Tokens>>,
) -> Result<BTreeMap<Arc<str>, SignInSettings>, TransportError> {
    let mut routes: Vec<Arc<Route>> = known.values().filter_map(|tokens| tokens.route()).collect();
    let mut sign_ins = BTreeMap::new();
    for (name, account) in &config.accounts {
        let route = route(account, config, &mut routes)?;
        sign_ins.insert(name.clone(), sign_in(account, config, route));
    }
    Ok(sign_ins)
}

/// The way of an account's requests, one of `routes` if possible; `None` if nothing is configured.
fn route(
    account: &Account,
    config: &Config,
    routes: &mut Vec<Arc<Route>>,
) -> Result<Option<Arc<Route>>, TransportError> {
    let authorities = config.sections.graph.ca_file.as_ref().map(|file| file.certificates.clone());
    let authorities = authorities.unwrap_or_default();
    let settings = RouteSettings { proxy: account.proxy.clone(), authorities };
    if settings == RouteSettings::default() {
        return Ok(None);
    }
    if let Some(route) = routes.iter().find(|route| *route.settings() == settings) {
        return Ok(Some(route.clone()));
    }
    let route = Arc::new(Route::new(settings)?);
    routes.push(route.clone());
    Ok(Some(route))
}

/// An account with the addresses at which it signs in.
pub(super) fn sign_in(
    account: &Account,
    config: &Config,
    route: Option<Arc<Route>>,
) -> SignInSettings {
    SignInSettings {
        account: account.clone(),
        login_url: config.sections.graph.login_url.clone(),
        scope: config.sections.graph.scope.clone(),
        route,
    }
}

/// What the API needs of a configuration.
///
/// # Errors
/// [`StartError::Token`] and [`StartError::Shards`].
pub(super) fn api_settings(
    config: &Config,
    open_loopback: bool,
) -> Result<ApiSettings, StartError> {
    let read = |path: &Option<PathBuf>| path.as_deref().map(token).transpose();
    let mut hosts = config.sections.api.hosts.clone();
    // The other shards ask this one by this name.
    hosts.extend(config.sections.shard.own_host());
    let full = config.sections.api.token_file.as_deref().map(token_text).transpose()?;
    let shard = config.sections.shard.clone();
    Ok(ApiSettings {
        token: full.as_deref().map(TokenHash::new),
        peers: Peers::new(&shard, full.as_deref()).map_err(StartError::Shards)?,
        read_token: read(&config.sections.api.read_token_file)?,
        hosts,
        mask_private: config.sections.api.mask_private,
        groups: Arc::new(config.groups.clone()),
        consumers: config.consumers.iter().map(consumer).collect::<Result<_, _>>()?,
        open_loopback,
        shard,
    })
}

/// A consumer with its token.
fn consumer(config: &ConsumerConfig) -> Result<Consumer, StartError> {
    let key = match &config.key {
        ConsumerKey::TokenFile(path) => ConsumerIdentity::Token(token(path)?),
        ConsumerKey::Uid(uid) => ConsumerIdentity::Uid(*uid),
    };
    Ok(Consumer {
        name: config.name.clone(),
        key,
        windows: config.windows.as_deref().map(Arc::from),
        level: config.level,
        write: config.write,
        origins: config.origins.clone(),
    })
}

/// The token in a file.
fn token(path: &Path) -> Result<TokenHash, StartError> {
    token_text(path).map(|text| TokenHash::new(&text))
}

/// The text of a token file. An empty one is an error: it may have been truncated since the
/// configuration was validated.
fn token_text(path: &Path) -> Result<String, StartError> {
    let refuse = |source| StartError::Token { path: path.to_owned(), source };
    let text = std::fs::read_to_string(path).map_err(refuse)?;
    if config::trimmed(text.as_bytes()).is_empty() {
        let source = std::io::Error::new(std::io::ErrorKind::InvalidData, "it is empty");
        return Err(refuse(source));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use rcgen::{CertificateParams, KeyPair};

    use super::*;
    use crate::config::Sources;
    use crate::graph::script::{self, Script};
    use crate::tests::env;

    /// Accounts of these names, each with some more lines.
    fn accounts(directory: &Path, graph: &str, accounts: &[(&str, &str)]) -> Config {
        let secret = directory.join("secret");
        std::fs::write(&secret, "user:s3cret").unwrap();
        std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
        let mut text = format!("[graph]\n{graph}\n");
        for (name, more) in accounts {
            text += &format!(
                "[account.{name}]\ntenant = \"t\"\nclient_id = \"c\"\nclient_secret_file = \"secret\"\n{more}\n"
            );
        }
        let file = directory.join("calmirror.toml");
        std::fs::write(&file, text).unwrap();
        let now = env().now();
        Config::load(&Sources::find(Some(&file), BTreeMap::new()), now).unwrap()
    }

    fn authority(directory: &Path) {
        let params = CertificateParams::default();
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        std::fs::write(directory.join("ca.pem"), certificate.pem()).unwrap();
    }

    #[test]
    fn accounts_share_equal_ways_to_the_network_also_after_a_reload() {
        let directory = tempfile::tempdir().unwrap();
        let one = "proxy = \"http://one:3128\"";
        let with_user = format!("{one}\nproxy_credentials_file = \"secret\"");
        let names = [("a", one), ("b", one), ("c", &with_user), ("d", "")];
        let config = accounts(directory.path(), "", &names);
        let transport: Arc<dyn Transport> = Script::new([], []);
        let first = sign_ins(&config, &BTreeMap::new()).unwrap();
        let route = |of: &BTreeMap<Arc<str>, SignInSettings>, name: &str| of[name].route.clone();
        let is_same = |one: Option<Arc<Route>>, other: Option<Arc<Route>>| {
            one.zip(other).is_some_and(|(one, other)| Arc::ptr_eq(&one, &other))
        };
        assert!(is_same(route(&first, "a"), route(&first, "b")));
        assert!(!is_same(route(&first, "a"), route(&first, "c")));
        assert_eq!(route(&first, "d"), None);
        let known = tokens(&first, &BTreeMap::new(), &transport, &env());
        let names = [("b", one), ("d", ""), ("e", one), ("f", "proxy = \"http://two:3128\"")];
        let second = sign_ins(&accounts(directory.path(), "", &names), &known).unwrap();
        for name in ["b", "e"] {
            assert!(is_same(route(&first, "a"), route(&second, name)), "{name}");
        }
        assert!(!is_same(route(&second, "e"), route(&second, "f")));
        // Authorities concern every account.
        authority(directory.path());
        let third = accounts(directory.path(), "ca_file = \"ca.pem\"", &names);
        let third = sign_ins(&third, &known).unwrap();
        assert!(is_same(route(&third, "b"), route(&third, "e")));
        assert!(!is_same(route(&first, "a"), route(&third, "b")));
        assert!(route(&third, "d").is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn another_way_to_the_network_keeps_the_token_and_is_used_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let script = Script::new([script::granted("t", 3600), script::granted("u", 3600)], []);
        let transport: Arc<dyn Transport> = script.clone();
        let mut known = BTreeMap::new();
        let mut reload = |graph: &str, more: &str| {
            let config = accounts(directory.path(), graph, &[("a", more)]);
            let sign_ins = sign_ins(&config, &known).unwrap();
            known = tokens(&sign_ins, &known, &transport, &env());
            known["a"].reconfigure(sign_ins["a"].clone());
            known["a"].clone()
        };
        let ca_file = "ca_file = \"ca.pem\"";
        let tokens = reload("", "");
        let token = tokens.token().await.unwrap();
        assert_eq!(tokens.route(), None);
        authority(directory.path());
        let first = reload(ca_file, "").route().unwrap();
        // The same file with another content.
        authority(directory.path());
        let second = reload(ca_file, "").route().unwrap();
        assert_ne!(first, second);
        assert!(Arc::ptr_eq(&second, &reload(ca_file, "").route().unwrap()));
        let third = reload(ca_file, "proxy = \"http://one:3128\"").route().unwrap();
        assert_ne!(second, third);
        assert_eq!(tokens.token().await.unwrap(), token);
        tokens.refresh(&token).await.unwrap();
        let asked = script.asked();
        let used = |at: usize| asked[at].extensions().get::<Arc<Route>>().cloned();
        assert_eq!((asked.len(), used(0), used(1)), (2, None, Some(third)));
    }

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
