//! Recognises the hosts that are this machine. Plain HTTP to them shows nothing to others.

use std::net::IpAddr;

/// Whether a host, spelled as in an address (IPv6 in brackets or not), is this machine.
pub(crate) fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

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
