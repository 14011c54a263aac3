//! Writes content lines (RFC 5545, 3.1): at most 75 octets each without the line end, never broken
//! within a character or an escape.
//!
//! Makes one pass over the value, so the time is proportional to its length for any content.

/// The longest line, in octets, without its CRLF.
const MAX_OCTETS: usize = 75;

/// One property under construction. Its last method writes the value and ends the line.
#[must_use]
pub(super) struct ContentLine<'a> {
    out: &'a mut String,
    /// Octets left on the physical line.
    room: usize,
}

impl<'a> ContentLine<'a> {
    /// Begins the property `name` at the end of `out`.
    pub(super) fn new(out: &'a mut String, name: &str) -> Self {
        let mut line = Self { out, room: MAX_OCTETS };
        line.all(name);
        line
    }

    /// Adds a parameter whose value is a token, such as `VALUE=DATE`.
    pub(super) fn parameter(mut self, name: &str, token: &str) -> Self {
        for part in [";", name, "=", token] {
            self.all(part);
        }
        self
    }

    /// Adds a parameter whose value is text: quoted, and encoded as in RFC 6868.
    pub(super) fn quoted(mut self, name: &str, text: &str) -> Self {
        for part in [";", name, "=\""] {
            self.all(part);
        }
        let mut last = None;
        for c in characters(text) {
            last = Some(c);
            match c {
                '^' => self.unit("^^"),
                '\n' => self.unit("^n"),
                '"' => self.unit("^'"),
                c => self.one(c),
            }
        }
        // A backslash is not special here, but ical.js reads one before the quote as an escape.
        self.unit(if last == Some('\\') { " \"" } else { "\"" });
        self
    }

    /// Ends the line with a value of a type without escapes: a time, a number, a URI. White space
    /// is invalid in all of them and is omitted.
    pub(super) fn value(mut self, value: &str) {
        self.unit(":");
        for c in characters(value).filter(|c| !c.is_whitespace()) {
            self.one(c);
        }
        self.end();
    }

    /// Ends the line with a value of type TEXT (RFC 5545, 3.3.11).
    pub(super) fn text(self, text: &str) {
        self.texts([text]);
    }

    /// Ends the line with a list of values of type TEXT.
    pub(super) fn texts<'t>(mut self, texts: impl IntoIterator<Item = &'t str>) {
        let mut before = ":";
        for text in texts {
            self.unit(before);
            before = ",";
            for c in characters(text) {
                match c {
                    '\\' => self.unit("\\\\"),
                    ';' => self.unit("\\;"),
                    ',' => self.unit("\\,"),
                    '\n' => self.unit("\\n"),
                    c => self.one(c),
                }
            }
        }
        self.end();
    }

    fn end(self) {
        self.out.push_str("\r\n");
    }

    fn all(&mut self, text: &str) {
        text.chars().for_each(|c| self.one(c));
    }

    fn one(&mut self, c: char) {
        self.unit(c.encode_utf8(&mut [0; 4]));
    }

    /// Writes a unit of at most four octets that must not be split over lines.
    fn unit(&mut self, unit: &str) {
        if unit.len() > self.room {
            self.out.push_str("\r\n ");
            // The continuation space counts.
            self.room = MAX_OCTETS - 1;
        }
        self.room -= unit.len();
        self.out.push_str(unit);
    }
}

/// The text as a reader of the line decodes it.
pub(super) fn sanitized(text: &str) -> String {
    characters(text).collect()
}

/// The characters of a text as a line can carry them: every kind of line end becomes `\n`; control
/// characters and noncharacters are omitted.
fn characters(text: &str) -> impl Iterator<Item = char> {
    let mut rest = text.chars().peekable();
    std::iter::from_fn(move || {
        loop {
            match rest.next()? {
                '\r' => {
                    rest.next_if_eq(&'\n');
                    return Some('\n');
                }
                '\n' | '\u{85}' | '\u{2028}' | '\u{2029}' => return Some('\n'),
                '\t' => return Some('\t'),
                c if c.is_control() || is_noncharacter(c) => {}
                c => return Some(c),
            }
        }
    })
}

/// Code points that Unicode reserves and XML cannot carry, such as U+FFFE and U+FFFF.
fn is_noncharacter(c: char) -> bool {
    let code = u32::from(c);
    code & 0xFFFE == 0xFFFE || (0xFDD0..=0xFDEF).contains(&code)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(text: &str) -> String {
        let mut out = String::new();
        ContentLine::new(&mut out, "SUMMARY").text(text);
        out
    }

    #[test]
    fn folding_multi_byte_characters_terminates() {
        for subject in [
            "ж".repeat(72) + &" -".repeat(38),
            "ж".repeat(72) + &"\u{a0}".repeat(80),
            "ж".repeat(10) + &"\u{a0}".repeat(132),
            "🎉".repeat(200),
            "x".repeat(66),
            "x".repeat(67),
        ] {
            let line = text(&subject);
            assert!(line.split("\r\n").all(|line| line.len() <= MAX_OCTETS), "{line}");
            assert_eq!(line.replace("\r\n ", ""), format!("SUMMARY:{subject}\r\n"));
        }
    }

    #[test]
    fn characters_not_allowed_in_a_line_are_dropped() {
        let line = text("a\u{fffe}b\u{ffff}c\u{1ffff}d\u{fdd0}e\0f\u{7}g\u{fffd}h\ti");
        assert_eq!(line, "SUMMARY:abcdefg\u{fffd}h\ti\r\n");
        assert_eq!(text("a\r\nb\rc\nd\u{2028}e\u{85}f"), "SUMMARY:a\\nb\\nc\\nd\\ne\\nf\r\n");
        let mut out = String::new();
        ContentLine::new(&mut out, "URL").value(" https://a.example/\r\nX:y\u{ffff} ");
        ContentLine::new(&mut out, "ATTENDEE").quoted("CN", "a\"^\nb\u{fffe}").value("mailto:a");
        ContentLine::new(&mut out, "ATTENDEE").quoted("CN", "a\\").value("mailto:a");
        assert_eq!(
            out,
            "URL:https://a.example/X:y\r\nATTENDEE;CN=\"a^'^^^nb\":mailto:a\r\n\
             ATTENDEE;CN=\"a\\ \":mailto:a\r\n"
        );
    }

    proptest! {
        #[test]
        fn lines_are_folded_and_unfold_to_the_value(
            value in "[\\PC&&[^\u{2028}\u{2029}]]{0,300}", name in "[A-Z]{1,90}",
            parameter in "[\\PC&&[^\u{2028}\u{2029}]]{0,100}",
        ) {
            let mut out = "before\r\n".to_owned();
            ContentLine::new(&mut out, &name).quoted("CN", &parameter).texts([&*value, "b"]);
            let folded = out.strip_prefix("before\r\n").unwrap_or_default();
            for line in folded.split("\r\n") {
                prop_assert!(line.len() <= MAX_OCTETS, "{} octets: {line}", line.len());
                prop_assert!(!line.contains(['\r', '\n']));
            }
            let whole = folded.replace("\r\n ", "");
            let text = value.replace('\\', "\\\\").replace(';', "\\;").replace(',', "\\,");
            let cn = parameter.replace('^', "^^").replace('"', "^'");
            let cn = if cn.ends_with('\\') { cn + " " } else { cn };
            prop_assert_eq!(whole, format!("{name};CN=\"{cn}\":{text},b\r\n"));
        }
    }
}
