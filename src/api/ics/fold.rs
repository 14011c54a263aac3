//! Content lines as RFC 5545 (3.1) wants them: no longer than 75 octets without their end, never
//! broken within a character. The crate that writes them lets the last piece of a line have 76.

/// The longest line, octets.
const LONGEST: usize = 75;

/// Breaks what is too long of the lines in `text` from `from` on.
pub(super) fn fold(text: &mut String, from: usize) {
    let is_long = |line: &str| line.trim_end_matches("\r\n").len() > LONGEST;
    if !text[from..].split_inclusive("\r\n").any(is_long) {
        return;
    }
    let lines = text.split_off(from);
    for mut line in lines.split_inclusive("\r\n") {
        let mut room = LONGEST;
        while line.trim_end_matches("\r\n").len() > room {
            let (head, rest) = line.split_at(line.floor_char_boundary(room));
            text.push_str(head);
            text.push_str("\r\n ");
            line = rest;
            // The space before what goes on counts.
            room = LONGEST - 1;
        }
        text.push_str(line);
    }
}

#[cfg(test)]
mod tests {
    use icalendar::Property;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn lines_are_short_and_say_the_same(text in "[a-zé老🎉 ]{0,200}", before in "[a-z]{0,90}") {
            let line: Result<String, _> = Property::new("SUMMARY", &text).try_into();
            let mut folded = format!("{before}{}", line.unwrap_or_default());
            fold(&mut folded, before.len());
            for line in folded[before.len()..].split("\r\n") {
                prop_assert!(line.len() <= LONGEST, "{} octets: {line}", line.len());
            }
            prop_assert!(folded.ends_with("\r\n"));
            let whole = format!("{before}SUMMARY:{text}\r\n");
            prop_assert_eq!(folded.replace("\r\n ", ""), whole);
        }
    }
}
