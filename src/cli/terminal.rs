//! Terminal output: the terminal's size, text without control characters, and lines that fit.

use std::io;

use textwrap::{Options, WordSplitter};

pub(super) use textwrap::core::display_width as width;

/// The size of a terminal. An unknown dimension is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TerminalSize {
    pub(super) columns: usize,
    pub(super) rows: usize,
}

impl TerminalSize {
    /// The size of the terminal of standard output; `None` if that is not a terminal.
    pub(super) fn of_stdout() -> Option<Self> {
        let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
        Some(Self { columns: size.ws_col.into(), rows: size.ws_row.into() })
    }
}

/// Whether a terminal acts on the character instead of showing it: control characters, line and
/// paragraph separators, and characters that change the text direction (Unicode's `Bidi_Control`),
/// which can make a line look like another one.
pub(super) fn is_control(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') || is_bidi_control(c)
}

fn is_bidi_control(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Makes untrusted text safe for one line of a terminal: characters that change the text direction
/// are removed, other control characters become spaces.
pub(super) fn printable(text: &str) -> String {
    let shown = |c: char| match c {
        c if is_bidi_control(c) => None,
        c if is_control(c) => Some(' '),
        c => Some(c),
    };
    text.chars().filter_map(shown).collect()
}

/// Applies [`printable`] to each line of a text.
pub(super) fn printable_lines(text: &str) -> String {
    text.split('\n').map(printable).collect::<Vec<_>>().join("\n")
}

/// Escapes every character of a JSON text that a terminal acts on; the value stays the same. Line
/// breaks are kept: outside strings, JSON has no control characters except white space.
pub(super) fn escaped_json(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c != '\n' && is_control(c) {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            out.push(c);
        }
    }
    out
}

/// The text, cut to `columns` with a trailing `…` if it is too wide.
pub(super) fn cut(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let mut out = String::new();
    for c in text.chars() {
        if width(&out) + width(c.encode_utf8(&mut [0; 4])) >= columns {
            break;
        }
        out.push(c);
    }
    out + "…"
}

/// The text wrapped into lines of at most `columns` (0: one line), indented after the first.
pub(super) fn wrapped(text: &str, columns: usize, indent: &str) -> Vec<String> {
    // Do not wrap if a line has no room for words.
    if columns <= width(indent) + 10 {
        return vec![text.to_owned()];
    }
    let options =
        Options::new(columns).subsequent_indent(indent).word_splitter(WordSplitter::NoHyphenation);
    textwrap::wrap(text, options).into_iter().map(|line| line.into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRICK: &str =
        "a\u{202e}b\u{2066}c\u{2069}\u{200e}\u{200f}\u{61c}d\u{1b}[2Je\u{9b}f\u{7f}g\rh\u{2028}i";

    #[test]
    fn control_characters_are_never_printed() {
        assert_eq!(printable(TRICK), "abcd [2Je f g h i");
        assert!(!printable(TRICK).chars().any(is_control));
        assert_eq!(printable("שלום, Ünï 日本 👍🏽"), "שלום, Ünï 日本 👍🏽");
        assert_eq!(printable_lines("a\u{202e}\nb\r\n"), "a\nb \n");
    }

    #[test]
    fn json_escaped_for_a_terminal_keeps_its_value() {
        let line = serde_json::to_string(&TRICK).unwrap() + "\n";
        let escaped = escaped_json(&line);
        assert!(!escaped.trim_end().chars().any(is_control), "{escaped:?}");
        assert_eq!(escaped.matches('\n').count(), 1);
        assert_eq!(serde_json::from_str::<String>(&escaped).unwrap(), TRICK);
    }

    #[test]
    fn lines_fit_the_width_with_any_characters() {
        assert_eq!(cut("abcdef", 6), "abcdef");
        assert_eq!(cut("abcdefg", 6), "abcde…");
        assert_eq!(cut("日本語です", 6), "日本…");
        let text = "access is denied; ask the administrator of the tenant for Calendars.Read";
        let lines = wrapped(text, 30, "    ");
        assert!(lines.iter().all(|line| width(line) <= 30), "{lines:?}");
        assert!(lines[1..].iter().all(|line| line.starts_with("    ")), "{lines:?}");
        let joined = lines.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ");
        assert_eq!(joined, text);
        let long = "x".repeat(100);
        assert!(wrapped(&long, 30, "").iter().all(|line| width(line) <= 30));
        assert_eq!(wrapped(text, 0, "  "), [text]);
    }
}
