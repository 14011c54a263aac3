//! Percent-encoding for addresses, queries and forms.
//!
//! The crate `form_urlencoded` is not used: it encodes other characters (a space becomes `+`, `*` is
//! kept, `~` is not) and accepts malformed input.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// Everything but the unreserved characters (RFC 3986, section 2.3).
pub(crate) const RESERVED: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Encodes everything but the unreserved characters.
pub(crate) fn encode(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

/// Decodes a text; `None` if it is malformed or not UTF-8.
pub(crate) fn decode(text: &str) -> Option<String> {
    // The crate keeps a `%` without two hexadecimal digits as it is.
    let is_escape = |rest: &str| {
        rest.as_bytes().first_chunk::<2>().is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit))
    };
    if !text.split('%').skip(1).all(is_escape) {
        return None;
    }
    percent_decode_str(text).decode_utf8().ok().map(Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unreserved_characters_are_kept() {
        assert_eq!(encode("aZ09-._~"), "aZ09-._~");
        assert_eq!(encode("a b+c*/@=,%\u{e9}\0"), "a%20b%2Bc%2A%2F%40%3D%2C%25%C3%A9%00");
    }

    #[test]
    fn decoding_is_strict() {
        for text in ["%", "%2", "%zz", "%+1", "%%41", "%4%31", "%\u{e9}", "%FF", "%C3%28"] {
            assert_eq!(decode(text), None, "{text}");
        }
        assert_eq!(decode("%c3%A9+\u{e9}%2541").as_deref(), Some("\u{e9}+\u{e9}%41"));
    }
}
