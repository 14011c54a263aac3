//! The address of a receiver. Only its origin is ever shown.

use std::fmt;
use std::net::IpAddr;

use reqwest::Url;

use super::address::is_public;

/// What is wrong with an address; continues where it is written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum WebhookUrlProblem {
    #[error("is not an address such as https://hooks.example.com/calmirror")]
    Malformed,
    #[error("has an address that begins with neither https:// nor http://")]
    Scheme,
    #[error(
        "has an address with http://, which sends events readable by others; use https://, or set \
         allow_private = true if the receiver is on this machine or in a network that you trust"
    )]
    Plain,
    #[error("has an address with {0}, {NOT_PUBLIC}")]
    NotPublic(IpAddr),
}

/// Why an address is refused, and what to do; continues the address.
pub(super) const NOT_PUBLIC: &str =
    "which is not public; set allow_private = true if the receiver is in your own network";

/// The address of a receiver.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct WebhookUrl(Url);

impl WebhookUrl {
    /// Reads an address. Without `allow_private` it has to be HTTPS, and an address in numbers a
    /// public one.
    pub(super) fn parse(text: &str, allow_private: bool) -> Result<Self, WebhookUrlProblem> {
        // The parser would leave white space out.
        if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(WebhookUrlProblem::Malformed);
        }
        let url = Url::parse(text).map_err(|_| WebhookUrlProblem::Malformed)?;
        let plain = match url.scheme() {
            "https" => false,
            "http" => true,
            _ => return Err(WebhookUrlProblem::Scheme),
        };
        let url = Self(url);
        let number = url.ip().filter(|ip| !allow_private && !is_public(*ip));
        match number {
            Some(ip) => Err(WebhookUrlProblem::NotPublic(ip)),
            None if plain && !allow_private => Err(WebhookUrlProblem::Plain),
            None => Ok(url),
        }
    }

    /// The address itself, to send to it.
    pub(super) fn expose(&self) -> &Url {
        &self.0
    }

    /// Whether the connection has no TLS.
    pub(super) fn is_plain(&self) -> bool {
        self.0.scheme() == "http"
    }

    /// Scheme, host and port.
    pub(super) fn origin(&self) -> String {
        self.0.origin().ascii_serialization()
    }

    /// The host, as in the address.
    pub(super) fn host(&self) -> &str {
        self.0.host_str().unwrap_or_default()
    }

    /// The host if it is a number. The parser knows all spellings of one.
    fn ip(&self) -> Option<IpAddr> {
        self.host().trim_start_matches('[').trim_end_matches(']').parse().ok()
    }
}

impl fmt::Debug for WebhookUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WebhookUrl({}/…)", self.origin())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_origin_of_an_address_is_shown() {
        let text = "https://canary:canary@Hooks.Example.com:8443/canary?canary#canary";
        let url = WebhookUrl::parse(text, false).unwrap();
        assert_eq!(url.origin(), "https://hooks.example.com:8443");
        assert_eq!(format!("{url:?}"), "WebhookUrl(https://hooks.example.com:8443/…)");
        let plain = WebhookUrl::parse("http://[::1]:80/canary", true).unwrap();
        assert_eq!((plain.origin().as_str(), plain.is_plain()), ("http://[::1]", true));
    }

    #[test]
    fn an_address_that_cannot_be_used_is_explained_without_being_shown() {
        for text in [
            "",
            "canary",
            "hooks.example.com/canary",
            "https://",
            "https://canary host/",
            "https://a/canary\nhttps://b/",
            "https://a:canary/",
            "https://a:99999/canary",
        ] {
            let problem = WebhookUrl::parse(text, true).unwrap_err();
            assert_eq!(problem, WebhookUrlProblem::Malformed, "{text:?}");
            assert!(!format!("{problem} {problem:?}").contains("canary"));
        }
        for text in ["ftp://a/canary", "canary:secret", "file:///canary", "ws://a/canary"] {
            let problem = WebhookUrl::parse(text, true).unwrap_err();
            assert_eq!(problem, WebhookUrlProblem::Scheme, "{text:?}");
        }
        let plain = WebhookUrl::parse("http://hooks.example.com/", false);
        assert_eq!(plain, Err(WebhookUrlProblem::Plain));
        assert!(WebhookUrl::parse("http://hooks.example.com/", true).is_ok());
    }

    #[test]
    fn numbers_that_are_not_public_are_refused_in_every_spelling() {
        for host in [
            "127.0.0.1",
            "127.1",
            "2130706433",
            "0x7f000001",
            "0177.0.0.1",
            "127.0.0.1.",
            "①②⑦.0.0.1",
            "10.0.0.1",
            "169.254.169.254",
            "0",
            "[::1]",
            "[::]",
            "[fe80::1]",
            "[::ffff:10.0.0.1]",
            "[64:ff9b::7f00:1]",
            "[2002:a9fe:a9fe::]",
            "[fd00:ec2::254]",
        ] {
            let text = format!("https://{host}/canary");
            let refused = WebhookUrl::parse(&text, false).unwrap_err();
            assert!(matches!(refused, WebhookUrlProblem::NotPublic(_)), "{host}: {refused}");
            assert!(WebhookUrl::parse(&text, true).is_ok(), "{host}");
        }
        for host in ["8.8.8.8", "[2606:4700::1111]", "localhost", "metadata.google.internal"] {
            assert!(WebhookUrl::parse(&format!("https://{host}/"), false).is_ok(), "{host}");
        }
    }
}
