//! Percent-encoding for addresses, queries and forms.
//!
//! The crate `form_urlencoded` is not used: it encodes other characters (a space becomes `+`, `*` is
//! kept, `~` is not).

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// Everything but the unreserved characters (RFC 3986, section 2.3).
pub(crate) const RESERVED: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Encodes everything but the unreserved characters.
pub(crate) fn encode(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unreserved_characters_are_kept() {
        assert_eq!(encode("aZ09-._~"), "aZ09-._~");
        assert_eq!(encode("a b+c*/@=,%\u{e9}\0"), "a%20b%2Bc%2A%2F%40%3D%2C%25%C3%A9%00");
    }
}
