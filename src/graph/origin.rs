//! Checks that an address leads to the configured origin, the only one that may see a token.
//!
//! Links come from the network and are requested byte for byte, so they are first checked as text:
//! scheme, host and port must be spelled as configured (except for letter case and the default
//! port), without user information, percent signs or anything else that parsers disagree about. A
//! link that passes is parsed again by the parser that opens the connection, and must have the same
//! meaning there. Only `https` is accepted, and plain `http` to loopback.

use std::net::Ipv6Addr;

use http::Uri;

use crate::loopback::is_loopback;

/// Scheme, host and port of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    https: bool,
    /// Lower case; IPv6 in brackets.
    host: String,
    port: u16,
}

/// A link or address that must not be requested. Does not show it, because links are secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OriginError {
    /// It is not an absolute `http` or `https` address in plain visible ASCII.
    #[error("not a usable address")]
    Malformed,
    /// It contains user information.
    #[error("the address carries user information")]
    UserInfo,
    /// Plain `http` to a host other than loopback.
    #[error("plain http is for loopback only")]
    Insecure,
    /// It points to another scheme, host or port.
    #[error("the link leads to another origin")]
    Foreign,
}

impl Origin {
    /// The origin of a configured address.
    ///
    /// # Errors
    /// Every [`OriginError`] except `Foreign`.
    pub fn of(address: &str) -> Result<Self, OriginError> {
        let origin = Self::read(address)?;
        if origin.https || is_loopback(&origin.host) {
            Ok(origin)
        } else {
            Err(OriginError::Insecure)
        }
    }

    /// Returns the link, ready to be requested, if it leads to this origin.
    ///
    /// # Errors
    /// Any fault of the link; it must not be requested then.
    pub fn admit(&self, link: &str) -> Result<Uri, OriginError> {
        if Self::read(link)? != *self {
            return Err(OriginError::Foreign);
        }
        // Check again with the parser that opens the connection.
        let url = reqwest::Url::parse(link).map_err(|_| OriginError::Malformed)?;
        let agree = url.scheme() == if self.https { "https" } else { "http" }
            && url.host_str() == Some(self.host.as_str())
            && url.port_or_known_default() == Some(self.port)
            && url.username().is_empty()
            && url.password().is_none();
        if !agree {
            return Err(OriginError::Foreign);
        }
        link.parse().map_err(|_| OriginError::Malformed)
    }

    /// Parses an address and checks it as text.
    fn read(address: &str) -> Result<Self, OriginError> {
        // No spaces, control characters or non-ASCII; no fragment; no backslash, which some parsers
        // read as a slash.
        if !address.bytes().all(|b| b.is_ascii_graphic() && b != b'\\' && b != b'#') {
            return Err(OriginError::Malformed);
        }
        let (scheme, rest) = address.split_once("://").ok_or(OriginError::Malformed)?;
        let https = if scheme.eq_ignore_ascii_case("https") {
            true
        } else if scheme.eq_ignore_ascii_case("http") {
            false
        } else {
            return Err(OriginError::Malformed);
        };
        let authority = rest.split(['/', '?']).next().unwrap_or_default();
        if authority.contains('@') {
            return Err(OriginError::UserInfo);
        }
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => {
                let (inner, after) = rest.split_once(']').ok_or(OriginError::Malformed)?;
                let address: Ipv6Addr = inner.parse().map_err(|_| OriginError::Malformed)?;
                let port = match after {
                    "" => None,
                    _ => Some(after.strip_prefix(':').ok_or(OriginError::Malformed)?),
                };
                (format!("[{address}]"), port)
            }
            None => match authority.split_once(':') {
                Some((host, port)) => (host.to_ascii_lowercase(), Some(port)),
                None => (authority.to_ascii_lowercase(), None),
            },
        };
        let named = host.starts_with('[')
            || (!host.is_empty()
                && host
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_')));
        if !named {
            return Err(OriginError::Malformed);
        }
        let port = match port {
            None if https => 443,
            None => 80,
            Some(digits) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => {
                digits.parse().map_err(|_| OriginError::Malformed)?
            }
            Some(_) => return Err(OriginError::Malformed),
        };
        Ok(Self { https, host, port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_of_the_origin_are_kept_byte_for_byte() {
        let origin = Origin::of("https://graph.microsoft.com/v1.0").unwrap();
        for link in [
            "https://graph.microsoft.com/v1.0/me/calendarView/delta?$skiptoken=R0usmcCM996atia_s",
            "https://graph.microsoft.com/v1.0/users/a@b.c/calendarView/delta()?%24deltatoken=a.b-c_d",
            "HTTPS://Graph.Microsoft.COM/beta/x",
            "https://graph.microsoft.com:443/v1.0/x?a=%2F%2Fevil.example",
            "https://graph.microsoft.com?x=https://evil.example/",
            "https://graph.microsoft.com/v1.0/users('a%40b')/x?y=user@evil.example",
        ] {
            let uri = origin.admit(link).unwrap();
            if link.starts_with("https://graph.microsoft.com/") {
                assert_eq!(uri.to_string(), link);
            }
        }
    }

    #[test]
    fn hostile_links_are_refused() {
        let origin = Origin::of("https://graph.microsoft.com/v1.0").unwrap();
        for link in [
            "",
            " ",
            "/v1.0/me/calendarView/delta",
            "//graph.microsoft.com/v1.0",
            "graph.microsoft.com/v1.0",
            "https:graph.microsoft.com/v1.0",
            "https:/graph.microsoft.com/v1.0",
            "https:///graph.microsoft.com/v1.0",
            "https://",
            "https://:443/",
            "http://graph.microsoft.com/v1.0",
            "http://graph.microsoft.com:443/v1.0",
            "ftp://graph.microsoft.com/v1.0",
            "file:///etc/passwd",
            "javascript://graph.microsoft.com/%0aalert(1)",
            "wss://graph.microsoft.com/v1.0",
            "https://graph.microsoft.com:8443/v1.0",
            "https://graph.microsoft.com:/v1.0",
            "https://graph.microsoft.com:0443x/v1.0",
            "https://graph.microsoft.com:+443/v1.0",
            "https://graph.microsoft.com:65979/v1.0",
            "https://graph.microsoft.com./v1.0",
            "https://graph.microsoft.com.evil.example/v1.0",
            "https://evil-graph.microsoft.com/v1.0",
            "https://graph.microsoft.co/v1.0",
            "https://microsoft.com/v1.0",
            "https://evil.example/graph.microsoft.com",
            "https://evil.example?graph.microsoft.com",
            "https://evil.example#@graph.microsoft.com/",
            "https://graph.microsoft.com@evil.example/v1.0",
            "https://graph.microsoft.com:443@evil.example/v1.0",
            "https://user@graph.microsoft.com/v1.0",
            "https://user:pass@graph.microsoft.com/v1.0",
            "https://@graph.microsoft.com/v1.0",
            "https://graph.microsoft.com\\@evil.example/v1.0",
            "https://evil.example\\.graph.microsoft.com/v1.0",
            "https:\\\\graph.microsoft.com\\v1.0",
            "https://graph.microsoft.com%2eevil.example/v1.0",
            "https://%67raph.microsoft.com/v1.0",
            "https://graph.microsoft.com%00.evil.example/",
            "https://graph.microsoft.com\t.evil.example/",
            "https://graph.microsoft.com/v1.0 HTTP/1.1\r\nHost: evil.example",
            "https://graph.microsoft.com/v1.0#fragment",
            " https://graph.microsoft.com/v1.0",
            "https://graph.micr\u{43e}soft.com/v1.0",
            "https://graph\u{3002}microsoft.com/v1.0",
            "https://graph.microsoft.com/\u{202e}",
            "https://xn--graph-microsoft-com/v1.0",
            "https://127.0.0.1/v1.0",
            "https://[::1]/v1.0",
            "https://[graph.microsoft.com]/v1.0",
            "https://169.254.169.254/metadata/identity",
        ] {
            assert!(origin.admit(link).is_err(), "{link:?} passed");
        }
    }

    #[test]
    fn plain_http_is_for_loopback_only() {
        for good in [
            "http://127.0.0.1:8081/v1.0",
            "http://localhost:1/",
            "http://[::1]:9",
            "http://127.9.9.9",
        ] {
            assert!(Origin::of(good).is_ok(), "{good}");
        }
        for bad in [
            "http://graph.microsoft.com",
            "http://10.0.0.1/",
            "http://0.0.0.0/",
            "http://localhost.evil/",
        ] {
            assert_eq!(Origin::of(bad), Err(OriginError::Insecure), "{bad}");
        }
    }

    #[test]
    fn another_loopback_port_or_spelling_is_another_origin() {
        let origin = Origin::of("http://127.0.0.1:8081/v1.0").unwrap();
        assert!(origin.admit("http://127.0.0.1:8081/v1.0/x").is_ok());
        for link in [
            "http://127.0.0.1:8082/v1.0/x",
            "http://localhost:8081/v1.0/x",
            "http://2130706433:8081/v1.0/x",
            "http://0x7f.1:8081/v1.0/x",
            "http://127.1:8081/v1.0/x",
            "http://[::ffff:127.0.0.1]:8081/v1.0/x",
            "https://127.0.0.1:8081/v1.0/x",
        ] {
            assert_eq!(origin.admit(link).err(), Some(OriginError::Foreign), "{link}");
        }
    }

    #[test]
    fn no_fault_shows_the_link() {
        let origin = Origin::of("https://graph.microsoft.com/v1.0").unwrap();
        let fault = origin.admit("https://canary.example/?$deltatoken=canary").unwrap_err();
        assert!(!format!("{fault} {fault:?}").contains("canary"));
    }

    proptest::proptest! {
        #[test]
        fn every_accepted_link_leads_to_the_origin_for_every_parser(
            before in "(https?|HTTPS)?(:|:/|://|:\\\\)?[@:/a-z0-9.%\\\\]{0,12}",
            after in "[@:/?#%.a-z0-9\\\\\\[\\]$=&' \t]{0,24}",
        ) {
            let origin = Origin::of("https://graph.example/v1.0").unwrap();
            for link in [format!("{before}graph.example{after}"), format!("https://graph.example{after}")] {
                let Ok(uri) = origin.admit(&link) else { continue };
                proptest::prop_assert_eq!(uri.scheme_str(), Some("https"));
                proptest::prop_assert_eq!(uri.host(), Some("graph.example"));
                proptest::prop_assert!(matches!(uri.port_u16(), None | Some(443)));
                let url = reqwest::Url::parse(&uri.to_string()).unwrap();
                proptest::prop_assert_eq!(url.host_str(), Some("graph.example"));
                proptest::prop_assert_eq!(url.port(), None);
            }
        }
    }
}
