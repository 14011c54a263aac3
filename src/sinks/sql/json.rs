//! JSON that the databases can hold. PostgreSQL's `jsonb` refuses NUL characters, halves of
//! surrogate pairs, numbers beyond its range and very deep nesting, and one such event would stop
//! the sink.

use std::borrow::Cow;
use std::ops::Range;

use memchr::memchr2;
use serde_json::value::RawValue;

/// Far below what the databases can nest, and far above what events have.
const MAX_DEPTH: usize = 500;
/// The most characters, and the largest exponent, of a number.
const MAX_NUMBER: usize = 300;

/// The JSON of an event: NUL and halves of surrogate pairs become U+FFFD, numbers of more than 300
/// digits become null. `None` if it is no JSON or nests too deep.
pub(super) fn storable(json: &[u8]) -> Option<Cow<'_, str>> {
    let text = serde_json::from_slice::<&RawValue>(json).ok()?.get();
    let faults = faults(text.as_bytes())?;
    if faults.is_empty() {
        return Some(Cow::Borrowed(text));
    }
    let (mut clean, mut copied) = (String::with_capacity(text.len()), 0);
    for (fault, replacement) in faults {
        clean.push_str(&text[copied..fault.start]);
        clean.push_str(replacement);
        copied = fault.end;
    }
    clean.push_str(&text[copied..]);
    Some(Cow::Owned(clean))
}

/// Text without NUL characters.
pub(super) fn without_nul(text: &str) -> Cow<'_, str> {
    if text.contains('\0') {
        Cow::Owned(text.replace('\0', "\u{fffd}"))
    } else {
        Cow::Borrowed(text)
    }
}

/// What has to be replaced in valid JSON, and by what; `None` if it nests too deep.
fn faults(json: &[u8]) -> Option<Vec<(Range<usize>, &'static str)>> {
    let (mut found, mut depth, mut at) = (Vec::new(), 0_usize, 0);
    while let Some(byte) = json.get(at) {
        let from = at;
        at += 1;
        match byte {
            b'"' => at = string_end(json, at, &mut found),
            b'[' | b'{' => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return None;
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            b'-' | b'0'..=b'9' => {
                let is_part =
                    |byte: &&u8| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
                at += json[at..].iter().take_while(is_part).count();
                if is_extreme(&json[from..at]) {
                    found.push((from..at, "null"));
                }
            }
            _ => {}
        }
    }
    Some(found)
}

/// Walks over a string to behind its closing quote.
fn string_end(json: &[u8], mut at: usize, found: &mut Vec<(Range<usize>, &'static str)>) -> usize {
    while let Some(next) = memchr2(b'"', b'\\', json.get(at..).unwrap_or_default()) {
        at += next;
        if json[at] == b'"' {
            return at + 1;
        }
        match escaped_unit(json, at) {
            None => at += 2,
            Some(0xD800..=0xDBFF)
                if matches!(escaped_unit(json, at + 6), Some(0xDC00..=0xDFFF)) =>
            {
                at += 12;
            }
            Some(0 | 0xD800..=0xDFFF) => {
                found.push((at..at + 6, "\\ufffd"));
                at += 6;
            }
            Some(_) => at += 6,
        }
    }
    json.len()
}

/// The code unit of an escape `\uXXXX` at a place.
fn escaped_unit(json: &[u8], at: usize) -> Option<u16> {
    let digits = json.get(at..at + 6)?.strip_prefix(b"\\u")?;
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

fn is_extreme(number: &[u8]) -> bool {
    let exponent = number.iter().position(|byte| matches!(byte, b'e' | b'E'));
    let is_large = exponent.is_some_and(|at| {
        let digits = number[at + 1..].strip_prefix(b"-").unwrap_or(&number[at + 1..]);
        let text = std::str::from_utf8(digits).unwrap_or_default();
        text.parse::<usize>().map_or(true, |exponent| exponent > MAX_NUMBER)
    });
    number.len() > MAX_NUMBER || is_large
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_jsonb_refuses_is_replaced_and_nothing_else() {
        let same =
            r#"{"a":"\\u0000 \n \ud83d\ude00 \u00e9 é","b":[1,-2.5e+3,1e300,null,true],"c":{}}"#;
        assert!(matches!(storable(same.as_bytes()), Some(Cow::Borrowed(text)) if text == same));
        for (json, clean) in [
            (r#"{"a":"x\u0000y\u0000"}"#, r#"{"a":"x\ufffdy\ufffd"}"#),
            (r#"{"a\u0000":"\\\u0000"}"#, r#"{"a\ufffd":"\\\ufffd"}"#),
            (
                r#"["\ud83d","\ude00\ud83d","\uD83Dx\uDE00"]"#,
                r#"["\ufffd","\ufffd\ufffd","\ufffdx\ufffd"]"#,
            ),
            (r#"[1e301,-1E-999999999999999999999,12]"#, "[null,null,12]"),
        ] {
            assert_eq!(storable(json.as_bytes()).as_deref(), Some(clean), "{json}");
        }
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert_eq!(storable(nested(501).as_bytes()), None);
        assert!(storable(nested(500).as_bytes()).is_some());
        for broken in [&b"{\"a\":"[..], b"\"\xff\"", b""] {
            assert_eq!(storable(broken), None);
        }
        let long = "9".repeat(301);
        assert_eq!(storable(long.as_bytes()).as_deref(), Some("null"));
        assert_eq!(without_nul("a\0b"), "a\u{fffd}b");
    }
}
