//! The section `[shard]`: this process is one of several with the same configuration.

use http::Uri;

use super::diagnostic::Issue;
use super::diff::ConfigDiff;
use super::origin::DiagnosticSink;
use super::reader::{RawValue, TableReader};
use super::sources::Sources;
use super::table::{ConfigKey, LayeredTable, changes};
use crate::mirror::shard::{MAX_SHARDS, Shard};

/// `[shard]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardConfig {
    /// Which of the processes this is; [`Shard::ALONE`] without the section.
    pub of: Shard,
    /// The address of each shard's API, without a trailing slash, where `{ordinal}` stands for its
    /// number.
    pub url: Option<String>,
}

/// Is replaced by the number of a shard in its address.
const ORDINAL: &str = "{ordinal}";

impl Default for ShardConfig {
    fn default() -> Self {
        Self { of: Shard::ALONE, url: None }
    }
}

impl ShardConfig {
    pub(super) const KEYS: &[ConfigKey] =
        &[ConfigKey::without_default("of"), ConfigKey::without_default("url")];

    pub(super) fn read(
        table: &LayeredTable,
        _: &Sources,
        report: &mut DiagnosticSink,
    ) -> Option<Self> {
        let mut reader = TableReader::new(table, report);
        let has_of = reader.has("of");
        let of = reader.read("of", |written| shard(written, &host_name()));
        let url = reader.read("url", |written| template(written.text()?));
        if url.is_some() && !has_of {
            let remedy = "write of = \"ORDINAL/COUNT\", or remove url";
            reader.fault("url", Issue::new("there is only one process", remedy));
        }
        if !reader.has("url") && of.is_some_and(|of| of.count() > 1) {
            let remedy = "set url, like \"http://calmirror-{ordinal}.calmirror:8380\"; without it \
                          readers get the windows of this shard only, and are not sent to others";
            reader.warn("of", Issue::new("the other shards have no address", remedy));
        }
        match (has_of, of) {
            (true, None) => None,
            (_, of) => Some(Self { of: of.unwrap_or(Shard::ALONE), url }),
        }
    }

    /// The address of a shard's API.
    pub fn address(&self, ordinal: u32) -> Option<String> {
        Some(self.url.as_ref()?.replace(ORDINAL, &ordinal.to_string()))
    }

    /// The host of this shard's address, in lower case and without the port.
    pub fn own_host(&self) -> Option<String> {
        let address: Uri = self.address(self.of.ordinal())?.parse().ok()?;
        let host = address.host()?.trim_matches(['[', ']']);
        Some(host.to_lowercase())
    }

    // Windows of other shards are dropped when a daemon starts.
    changes!("shard", { of: refused, url: settings, });
}

/// The name of this machine, or in a container mostly of the container.
fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Reads `3/8` or, with the number at the end of the host name, `auto/8`.
fn shard(written: RawValue<'_>, host: &str) -> Result<Shard, Issue> {
    let text = written.text()?;
    let wrong = || Issue::new(format!("no share: {text:?}"), "write it like \"3/8\" or \"auto/8\"");
    let (ordinal, count) = text.split_once('/').ok_or_else(wrong)?;
    let number = |text: &str| text.trim().parse::<u32>().ok();
    let count = number(count).ok_or_else(wrong)?;
    if !(1..=MAX_SHARDS).contains(&count) {
        let remedy = format!("the count is at least 1 and at most {MAX_SHARDS}");
        return Err(Issue::new(format!("no share of {count} shards"), remedy));
    }
    let (ordinal, origin) = match ordinal.trim() {
        "auto" => {
            let digits = host.trim_end_matches(|c: char| c.is_ascii_digit()).len();
            let ordinal = number(&host[digits..]).ok_or_else(|| {
                let problem = format!("the host name {host:?} has no number at its end");
                Issue::new(problem, "write the ordinal instead of auto, or rename the host")
            })?;
            (ordinal, format!(" of the host name {host:?}"))
        }
        ordinal => (number(ordinal).ok_or_else(wrong)?, String::new()),
    };
    Shard::new(ordinal, count).ok_or_else(|| {
        let problem = format!("the ordinal {ordinal}{origin} is outside the count");
        let last = count - 1;
        Issue::new(problem, format!("{count} shards have the ordinals 0 to {last}"))
    })
}

/// An address with [`ORDINAL`] in its host or port. Errors do not quote it, because it may have a
/// password.
fn template(text: &str) -> Result<String, Issue> {
    let text = text.trim().trim_end_matches('/');
    let remedy = "write it like http://calmirror-{ordinal}.calmirror:8380";
    let wrong = |problem: &str| Issue::new(problem, remedy);
    if !text.contains(ORDINAL) {
        return Err(wrong("the same address for every shard"));
    }
    let uri: Uri = text.replace(ORDINAL, "0").parse().map_err(|_| wrong("not an address"))?;
    match (uri.scheme_str(), uri.authority()) {
        (Some("http" | "https"), Some(authority)) if authority.as_str().contains('@') => {
            Err(wrong("an address with a user or a password in it"))
        }
        (Some("http" | "https"), Some(_)) if uri.path() == "/" && uri.query().is_none() => {
            Ok(text.to_owned())
        }
        (Some("http" | "https"), Some(_)) => Err(wrong("an address with a path")),
        _ => Err(wrong("neither http nor https")),
    }
}

#[cfg(test)]
mod tests {
    use config::{Value, ValueKind};

    use super::*;

    fn read(text: &str, host: &str) -> Result<String, String> {
        let value = Value::new(None, ValueKind::String(text.to_owned()));
        let shard = shard(RawValue::of_default(&value.kind), host);
        shard.map(|shard| shard.to_string()).map_err(|wrong| wrong.problem)
    }

    #[test]
    fn a_share_is_written_or_follows_from_the_host_name() {
        for (text, host, expected) in [
            ("3/8", "host", Ok("3/8")),
            (" 0 / 1 ", "host", Ok("0/1")),
            ("auto/8", "calmirror-3", Ok("3/8")),
            ("auto/20", "node12", Ok("12/20")),
            ("auto/8", "calmirror", Err("the host name \"calmirror\" has no number at its end")),
            (
                "auto/8",
                "calmirror-8",
                Err("the ordinal 8 of the host name \"calmirror-8\" is outside the count"),
            ),
            (
                "auto/8",
                "n99999999999",
                Err("the host name \"n99999999999\" has no number at its end"),
            ),
            ("8/8", "", Err("the ordinal 8 is outside the count")),
            ("0/0", "", Err("no share of 0 shards")),
            ("0/257", "", Err("no share of 257 shards")),
            ("3", "", Err("no share: \"3\"")),
            ("-1/3", "", Err("no share: \"-1/3\"")),
            ("1/3/5", "", Err("no share: \"1/3/5\"")),
        ] {
            let expected = expected.map(str::to_owned).map_err(str::to_owned);
            assert_eq!(read(text, host), expected, "{text} on {host}");
        }
    }

    #[test]
    fn an_address_has_the_ordinal_and_nothing_behind_the_host() {
        let of = Shard::new(0, 12).unwrap();
        let config = |url: &str| ShardConfig { of, url: Some(template(url).unwrap()) };
        let address = config("http://calmirror-{ordinal}.calmirror:8380/").address(11);
        assert_eq!(address.as_deref(), Some("http://calmirror-11.calmirror:8380"));
        let host = config("http://Calmirror-{ordinal}.calmirror:8380/").own_host();
        assert_eq!(host.as_deref(), Some("calmirror-0.calmirror"));
        let address = config("https://[::1]:838{ordinal}").address(2);
        assert_eq!(address.as_deref(), Some("https://[::1]:8382"));
        for (url, problem) in [
            ("http://calmirror:8380", "the same address for every shard"),
            ("calmirror-{ordinal}:8380", "neither http nor https"),
            ("ftp://calmirror-{ordinal}", "neither http nor https"),
            ("http://calmirror-{ordinal}/api", "an address with a path"),
            ("http://calmirror-{ordinal}/?a", "an address with a path"),
            ("http://a:b@calmirror-{ordinal}", "an address with a user or a password in it"),
            ("http://calmirror {ordinal}", "not an address"),
        ] {
            assert_eq!(template(url).unwrap_err().problem, problem, "{url}");
        }
    }
}
