//! The section `[graph]`: Microsoft's clouds, and validation of custom addresses (facts 134, 135).

use std::time::Duration;

use http::Uri;

use super::authorities::{AuthorityFile, authorities};
use super::diagnostic::Issue;
use super::diff::ConfigDiff;
use super::origin::DiagnosticSink;
use super::reader::TableReader;
use super::sources::Sources;
use super::table::{ConfigKey, LayeredTable, changes};
use crate::loopback::is_loopback;

/// `[graph]`, with the cloud resolved to addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GraphConfig {
    /// The cloud's name, whether its addresses are used or not.
    pub cloud: &'static str,
    /// Graph's address with its version, without a trailing slash:
    /// `https://graph.microsoft.com/v1.0`.
    pub base_url: String,
    /// The sign-in address, without a trailing slash: `https://login.microsoftonline.com`.
    pub login_url: String,
    /// The scope of tokens: the origin of `base_url` and `/.default` (fact 135).
    pub scope: String,
    /// Requests in flight over all mailboxes, at least 1.
    pub max_concurrent: usize,
    /// Requests in flight to one mailbox, 1 to 4.
    pub max_concurrent_per_mailbox: usize,
    /// How long one request may take.
    pub request_timeout: Duration,
    /// Authorities that are trusted in addition to the system's.
    pub ca_file: Option<AuthorityFile>,
}

/// The addresses of Graph and its sign-in in one cloud.
#[derive(Clone, Copy, Debug)]
struct Cloud {
    name: &'static str,
    graph: &'static str,
    login: &'static str,
    /// Other hosts of the same sign-in, which Azure's SDKs and its Kubernetes webhook use.
    login_aliases: &'static [&'static str],
}

/// All clouds; the first is the default.
const CLOUDS: [Cloud; 4] = [
    Cloud {
        name: "global",
        graph: "https://graph.microsoft.com",
        login: "https://login.microsoftonline.com",
        login_aliases: &["login.microsoft.com", "login.windows.net", "sts.windows.net"],
    },
    Cloud {
        name: "us-gov-l4",
        graph: "https://graph.microsoft.us",
        login: "https://login.microsoftonline.us",
        login_aliases: &["login.usgovcloudapi.net"],
    },
    Cloud {
        name: "us-gov-l5",
        graph: "https://dod-graph.microsoft.us",
        login: "https://login.microsoftonline.us",
        login_aliases: &["login.usgovcloudapi.net"],
    },
    Cloud {
        name: "china",
        graph: "https://microsoftgraph.chinacloudapi.cn",
        login: "https://login.partner.microsoftonline.cn",
        login_aliases: &["login.chinacloudapi.cn"],
    },
];

/// The version of Graph that the daemon uses.
const VERSION: &str = "/v1.0";

/// The versions with which the path of a Graph address may end.
const VERSIONS: [&str; 2] = [VERSION, "/beta"];

/// A request that takes longer than this is lost, so a longer timeout is rejected.
const MAX_REQUEST_TIMEOUT: Duration = Duration::from_secs(3600);

impl GraphConfig {
    pub(super) const KEYS: &[ConfigKey] = &[
        ConfigKey::with_default("cloud", r#""global""#),
        ConfigKey::without_default("base_url"),
        ConfigKey::without_default("login_url"),
        ConfigKey::with_default("max_concurrent", "256"),
        ConfigKey::with_default("max_concurrent_per_mailbox", "3"),
        ConfigKey::with_default("request_timeout", r#""100s""#),
        ConfigKey::without_default("ca_file"),
    ];

    pub(super) fn read(
        table: &LayeredTable,
        _: &Sources,
        report: &mut DiagnosticSink,
    ) -> Option<Self> {
        let mut reader = TableReader::new(table, report);
        let clouds = CLOUDS.map(|cloud| (cloud.name, cloud));
        let cloud = reader.read("cloud", |written| written.choice(&clouds));
        let base = reader.read("base_url", |written| address(written.text()?));
        let login = reader.read("login_url", |written| address(written.text()?));
        let all = reader.read("max_concurrent", |written| written.integer(1..=100_000));
        let each = reader.read("max_concurrent_per_mailbox", |written| written.integer(1..=4));
        let timeout = reader.read("request_timeout", |written| {
            let timeout = written.duration(Duration::from_secs(1))?;
            if timeout > MAX_REQUEST_TIMEOUT {
                return Err(Issue::new("too long", "write at most 1h"));
            }
            Ok(timeout)
        });
        let ca_file = authorities("ca_file", &mut reader);
        if let Some((url, origin)) = &base
            && !VERSIONS.iter().any(|version| url.ends_with(version))
        {
            let problem = format!("{url} names no version of Graph");
            let remedy = format!("write {origin}{VERSION}, unless a proxy adds the version");
            reader.warn("base_url", Issue::new(problem, remedy));
        }
        let cloud = cloud?;
        let (base_url, origin) =
            base.unwrap_or_else(|| (format!("{}{VERSION}", cloud.graph), cloud.graph.to_owned()));
        Some(Self {
            cloud: cloud.name,
            base_url,
            login_url: login.map_or_else(|| cloud.login.to_owned(), |(login, _)| login),
            scope: format!("{origin}/.default"),
            max_concurrent: all?,
            max_concurrent_per_mailbox: each?,
            request_timeout: timeout?,
            ca_file,
        })
    }

    /// Why the sign-in that `AZURE_AUTHORITY_HOST` names is not this one: tokens are requested only
    /// from the configured cloud. The text is not quoted, because it may contain a password.
    pub(super) fn other_authority(&self, named: &str) -> Option<Issue> {
        let named = host(named);
        let is_named = |cloud: &&Cloud| {
            host(cloud.login) == named || cloud.login_aliases.contains(&named.as_str())
        };
        let clouds: Vec<_> = CLOUDS.iter().filter(is_named).map(|cloud| cloud.name).collect();
        if host(&self.login_url) == named || clouds.contains(&self.cloud) {
            return None;
        }
        let other = match clouds.as_slice() {
            [] => "the cloud of that sign-in".to_owned(),
            names => format!("\"{}\"", names.join("\" or \"")),
        };
        let cloud = self.cloud;
        Some(Issue::new(
            format!("AZURE_AUTHORITY_HOST names the sign-in of another cloud than {cloud:?}"),
            format!("set graph.cloud to {other}, unless the tenant is in {cloud:?}"),
        ))
    }

    // With another address, every stored link would point to a foreign origin, so another
    // address needs another store. The scope follows from it.
    changes!("graph", {
        cloud: refused,
        base_url: refused,
        login_url: settings,
        max_concurrent: settings,
        max_concurrent_per_mailbox: settings,
        request_timeout: settings,
        ca_file: settings,
        _: scope
    });
}

/// The host of an address with or without `https`, in lower case.
fn host(address: &str) -> String {
    let address = address.trim().to_ascii_lowercase();
    address.strip_prefix("https://").unwrap_or(&address).trim_end_matches('/').to_owned()
}

/// Returns an address without its trailing slash, and its origin. Requires `https`, or `http` to
/// loopback (promise 7); rejects user info, queries and fragments. Errors do not quote the text,
/// because it may contain a password.
fn address(text: &str) -> Result<(String, String), Issue> {
    let uri: Uri = text.trim().parse().map_err(|_| {
        Issue::new("not an address", "write it like https://graph.microsoft.com/v1.0")
    })?;
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(Issue::new("not a complete address", "begin it with https:// and the host"));
    };
    if authority.as_str().contains('@') {
        return Err(Issue::new(
            "an address with a user or a password in it",
            "write scheme, host, port and path only",
        ));
    }
    if uri.query().is_some() || text.contains('#') {
        return Err(Issue::new("an address with a query or a fragment", "write it without"));
    }
    match scheme.to_ascii_lowercase().as_str() {
        "https" => {}
        "http" if is_loopback(authority.host()) => {}
        "http" => {
            return Err(Issue::new(
                "plain http to another machine",
                "use https; http is only for loopback, such as http://127.0.0.1:8081",
            ));
        }
        _ => return Err(Issue::new("neither https nor http", "begin it with https://")),
    }
    let origin = format!("{scheme}://{authority}").to_ascii_lowercase();
    let path = uri.path().trim_end_matches('/');
    Ok((format!("{origin}{path}"), origin))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_normalised() {
        for (text, expected, origin) in [
            (
                "https://Graph.Microsoft.com/v1.0/",
                "https://graph.microsoft.com/v1.0",
                "https://graph.microsoft.com",
            ),
            ("http://127.0.0.1:8081", "http://127.0.0.1:8081", "http://127.0.0.1:8081"),
            ("http://[::1]:1/v1.0", "http://[::1]:1/v1.0", "http://[::1]:1"),
            ("http://LOCALHOST:1/", "http://localhost:1", "http://localhost:1"),
        ] {
            let (address, from) = address(text).unwrap();
            assert_eq!((address.as_str(), from.as_str()), (expected, origin));
        }
    }

    #[test]
    fn addresses_that_would_leak_are_refused() {
        for text in [
            "",
            "graph.microsoft.com",
            "/v1.0",
            "http://graph.microsoft.com",
            "ftp://127.0.0.1/",
            "http://127.0.0.1@example.com/",
            "https://user:word@example.com/",
            "https://a/?b=c",
            "http://localhost.example.com",
            "http://127.0.0.1.example.com",
            "https://a/#b",
            "https://",
        ] {
            assert!(address(text).is_err(), "{text:?}");
        }
    }
}
