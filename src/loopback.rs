//! Recognises the hosts that are this machine, or that only this machine reaches. Plain HTTP to
//! them shows nothing to others.

use std::net::IpAddr;

/// Whether a host, spelled as in an address (IPv6 in brackets or not), is this machine.
pub(crate) fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Whether a host is a link-local IPv4 address, below which Azure serves a machine's own identity
/// (fact 141). No router forwards it, and no proxy reaches it.
pub(crate) fn is_link_local(host: &str) -> bool {
    host.parse::<std::net::Ipv4Addr>().is_ok_and(|address| address.is_link_local())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_link_local_addresses_are_link_local() {
        for (host, local) in [
            ("169.254.169.254", true),
            ("169.254.130.2", true),
            ("169.255.1.1", false),
            ("169.254.169.254.evil", false),
            ("metadata", false),
        ] {
            assert_eq!(is_link_local(host), local, "{host}");
        }
    }

    #[test]
    fn only_addresses_of_this_machine_are_loopback() {
        for host in ["localhost", "LOCALHOST", "127.0.0.1", "127.9.9.9", "[::1]", "::1"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["", "localhost.evil", "127.0.0.1.evil", "127.1", "0.0.0.0", "10.0.0.1", "[::]"]
        {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
