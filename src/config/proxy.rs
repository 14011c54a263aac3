//! Reads the proxy of an account.

use http::Uri;
use reqwest::Url;

use super::diagnostic::Issue;
use super::reader::{RawValue, TableReader};
use super::secret;
use super::sources::Sources;
use crate::mirror::account::ProxySettings;

const ADDRESS: &str = "proxy";
const CREDENTIALS: &str = "proxy_credentials_file";
/// The variables that name the proxy of the environment; the first that is set counts.
const VARIABLES: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];

/// Reads the proxy of an account; returns `None` after an error.
pub(super) fn proxy(reader: &mut TableReader<'_>, sources: &Sources) -> Option<ProxySettings> {
    let mut read = ProxySettings::default();
    if reader.has(ADDRESS) {
        read.address = Some(reader.read(ADDRESS, |written| address(written.text()?))?);
    }
    if reader.has(CREDENTIALS) {
        let own = read.address.is_some();
        let file = reader.read(CREDENTIALS, |written| {
            if !own {
                of_environment(sources)?;
            }
            credentials_file(written, sources)
        });
        read.credentials_file = Some(file?);
    }
    Some(read)
}

/// Checks the address of a proxy. Errors do not quote the text, because it may contain a password.
fn address(text: &str) -> Result<String, Issue> {
    const LIKE: &str = "write it like http://proxy.contoso.com:3128";
    let text = text.trim();
    if text.contains('@') {
        return Err(Issue::new(
            "an address with a user or a password in it",
            "write user:password into a file with mode 0600, and name it in proxy_credentials_file",
        ));
    }
    if text.starts_with("socks") {
        return Err(Issue::new("a SOCKS proxy, which is not supported", "name an HTTP proxy"));
    }
    if !["http://", "https://"].iter().any(|scheme| text.starts_with(scheme)) {
        return Err(Issue::new("neither http nor https", LIKE));
    }
    let uri = text.parse::<Uri>().ok().filter(|uri| uri.host().is_some_and(is_host));
    let (Some(uri), Ok(_)) = (uri, Url::parse(text)) else {
        return Err(Issue::new("not the address of a proxy", LIKE));
    };
    if uri.path() != "/" || uri.query().is_some() || text.contains('#') {
        return Err(Issue::new("an address with a path", "write scheme, host and port only"));
    }
    Ok(text.trim_end_matches('/').to_owned())
}

fn is_host(host: &str) -> bool {
    let written = host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b));
    written && !host.is_empty()
}

/// Checks that the environment names a proxy that gets the credentials.
fn of_environment(sources: &Sources) -> Result<(), Issue> {
    let set = VARIABLES.iter().find_map(|name| Some((name, sources.environment.get(*name)?)));
    let Some((name, written)) = set.filter(|(_, value)| !value.trim().is_empty()) else {
        return Err(Issue::new(
            "there is no proxy for it",
            "write proxy, or set HTTPS_PROXY in the daemon's environment",
        ));
    };
    // User and password in the variable are replaced by the file's.
    let bare = written.split_once("://").unwrap_or(("http", written.as_str()));
    let host = bare.1.rsplit_once('@').map_or(bare.1, |(_, host)| host);
    address(&format!("{}://{host}", bare.0)).map(drop).map_err(|wrong| Issue {
        problem: format!("it is for the proxy in {name}, which is {}", wrong.problem),
        remedy: wrong.remedy,
    })
}

fn credentials_file(written: RawValue<'_>, sources: &Sources) -> Result<std::path::PathBuf, Issue> {
    let path = secret::path(written, sources)?;
    let shown = path.display();
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    if text.trim().split_once(':').is_none_or(|(user, _)| user.is_empty()) {
        return Err(Issue::new(
            format!("{shown} does not hold a user and a password"),
            "write user:password into it, on one line",
        ));
    }
    if text.trim().contains(char::is_control) {
        return Err(Issue::new(
            format!("{shown} holds more than one line"),
            "write user:password into it, on one line",
        ));
    }
    Ok(path)
}
