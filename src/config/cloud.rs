//! Microsoft's clouds, and validation of custom addresses (facts 134, 135).

use std::net::IpAddr;

use http::Uri;

use super::diagnostic::Issue;

/// The addresses of Graph and its sign-in in one cloud.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cloud {
    pub(super) name: &'static str,
    pub(super) graph: &'static str,
    pub(super) login: &'static str,
}

/// All clouds; the first is the default.
pub(super) const CLOUDS: [Cloud; 4] = [
    Cloud {
        name: "global",
        graph: "https://graph.microsoft.com",
        login: "https://login.microsoftonline.com",
    },
    Cloud {
        name: "us-gov-l4",
        graph: "https://graph.microsoft.us",
        login: "https://login.microsoftonline.us",
    },
    Cloud {
        name: "us-gov-l5",
        graph: "https://dod-graph.microsoft.us",
        login: "https://login.microsoftonline.us",
    },
    Cloud {
        name: "china",
        graph: "https://microsoftgraph.chinacloudapi.cn",
        login: "https://login.partner.microsoftonline.cn",
    },
];

/// The version of Graph that the daemon uses.
pub(super) const VERSION: &str = "/v1.0";

/// The versions with which the path of a Graph address may end.
pub(super) const VERSIONS: [&str; 2] = [VERSION, "/beta"];

/// Returns an address without its trailing slash, and its origin. Requires `https`, or `http` to
/// loopback (promise 7); rejects user info, queries and fragments. Errors do not quote the text,
/// because it may contain a password.
pub(super) fn address(text: &str) -> Result<(String, String), Issue> {
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
        "http" if loopback(authority.host()) => {}
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

fn loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_made_plain() {
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
