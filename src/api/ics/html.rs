//! HTML bodies as plain text: what a person reads, without any markup.
//!
//! Not a browser: tags go, those that begin a line leave a line's end, references to characters are
//! resolved. Scripts, styles and the document's head are not text. Always ends, whatever it is
//! given, in time that grows with its length.

/// Elements whose content is not shown.
const UNSHOWN: [&str; 5] = ["head", "script", "style", "title", "template"];
/// Elements that stand on lines of their own.
const BLOCKS: [&str; 22] = [
    "address",
    "article",
    "blockquote",
    "dd",
    "div",
    "dl",
    "dt",
    "footer",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "header",
    "hr",
    "li",
    "ol",
    "p",
    "table",
    "tr",
    "ul",
];

/// The text of an HTML document or fragment.
pub(super) fn text(html: &str) -> String {
    let mut out = Text::default();
    let mut rest = html;
    while let Some(at) = rest.find('<') {
        let (before, markup) = rest.split_at(at);
        out.put(before);
        if let Some(comment) = markup.strip_prefix("<!--") {
            rest = comment.split_once("-->").map_or("", |(_, after)| after);
            continue;
        }
        let is_tag =
            markup[1..].starts_with(|c: char| c.is_ascii_alphabetic() || "/!?".contains(c));
        if !is_tag {
            out.put("<");
            rest = &markup[1..];
            continue;
        }
        let Some((tag, after)) = markup[1..].split_once('>') else {
            // What a tag that never ends leaves is not text.
            return out.finish();
        };
        rest = after;
        let name = tag.trim_start_matches('/');
        let end = name.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(name.len());
        let name = name[..end].to_ascii_lowercase();
        if UNSHOWN.contains(&&*name) && !tag.starts_with('/') && !tag.ends_with('/') {
            rest = skip(after, &name);
        } else if name == "br" {
            out.end_line();
        } else if BLOCKS.contains(&&*name) {
            out.begin_block();
        } else if matches!(&*name, "td" | "th") && !tag.starts_with('/') {
            out.put(" ");
        }
    }
    out.put(rest);
    out.finish()
}

/// What comes after the end of an element.
fn skip<'a>(html: &'a str, name: &str) -> &'a str {
    let mut rest = html;
    while let Some((_, after)) = rest.split_once("</") {
        let is_it = after.get(..name.len()).is_some_and(|tag| tag.eq_ignore_ascii_case(name));
        if is_it {
            return after.split_once('>').map_or("", |(_, rest)| rest);
        }
        rest = after;
    }
    ""
}

/// Text under construction: white space is one space, lines have none at their ends.
#[derive(Default)]
struct Text {
    out: String,
    space: bool,
}

impl Text {
    fn put(&mut self, html: &str) {
        let mut rest = html;
        while let Some(c) = rest.chars().next() {
            let (c, length) = match c {
                '&' => reference(rest).unwrap_or(('&', 1)),
                c => (c, c.len_utf8()),
            };
            rest = &rest[length..];
            if c.is_ascii_whitespace() {
                self.space = true;
                continue;
            }
            if std::mem::take(&mut self.space) && !self.out.is_empty() && !self.out.ends_with('\n')
            {
                self.out.push(' ');
            }
            self.out.push(if c == '\u{a0}' { ' ' } else { c });
        }
    }

    fn end_line(&mut self) {
        self.space = false;
        self.out.push('\n');
    }

    fn begin_block(&mut self) {
        self.space = false;
        if !self.out.is_empty() && !self.out.ends_with('\n') {
            self.out.push('\n');
        }
    }

    /// At most one empty line in a row.
    fn finish(self) -> String {
        let mut lines = Vec::new();
        for line in self.out.lines().map(str::trim_end) {
            let again = line.is_empty() && lines.last().is_none_or(|last: &&str| last.is_empty());
            if !again {
                lines.push(line);
            }
        }
        lines.join("\n").trim_end().to_owned()
    }
}

/// The character that a reference at the start of `html` means, and the reference's length.
fn reference(html: &str) -> Option<(char, usize)> {
    // The longest name known here has six letters, the longest number ten.
    let end = html.bytes().take(12).position(|byte| byte == b';')?;
    let name = html.get(1..end)?;
    let number = match name.strip_prefix('#') {
        Some(number) => Some(match number.strip_prefix(['x', 'X']) {
            Some(hex) => u32::from_str_radix(hex, 16).ok()?,
            None => number.parse().ok()?,
        }),
        None => None,
    };
    let c = match number {
        Some(number) => char::from_u32(number)?,
        None => named(name)?,
    };
    Some((c, end + 1))
}

fn named(name: &str) -> Option<char> {
    Some(match name {
        "amp" => '&',
        "lt" => '<',
        "gt" => '>',
        "quot" => '"',
        "apos" => '\'',
        "nbsp" => '\u{a0}',
        "copy" => '©',
        "reg" => '®',
        "euro" => '€',
        "pound" => '£',
        "sect" => '§',
        "deg" => '°',
        "middot" => '·',
        "bull" => '•',
        "hellip" => '…',
        "ndash" => '–',
        "mdash" => '—',
        "lsquo" => '‘',
        "rsquo" => '’',
        "ldquo" => '“',
        "rdquo" => '”',
        "laquo" => '«',
        "raquo" => '»',
        "times" => '×',
        "auml" => 'ä',
        "ouml" => 'ö',
        "uuml" => 'ü',
        "Auml" => 'Ä',
        "Ouml" => 'Ö',
        "Uuml" => 'Ü',
        "szlig" => 'ß',
        "eacute" => 'é',
        "egrave" => 'è',
        "agrave" => 'à',
        "ccedil" => 'ç',
        "ntilde" => 'ñ',
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::text;

    #[test]
    fn markup_becomes_what_a_person_reads() {
        for (html, expected) in [
            ("plain", "plain"),
            (
                "<html><head><title>t</title><style>p{}</style></head><body><p>One</p><p>Two</p></body></html>",
                "One\nTwo",
            ),
            ("a<br>b<br/>c<BR />d", "a\nb\nc\nd"),
            ("<div>a</div>\r\n\r\n<div>b</div>", "a\nb"),
            ("a <b>bold</b>\n  word", "a bold word"),
            ("<p>a</p><p>&nbsp;</p><br><br><p>b</p>", "a\n\nb"),
            ("x &lt;y&gt; &amp; &#228;&#xe4;&auml; &unknown; & &#0;", "x <y> & äää &unknown; & \0"),
            ("1 < 2 and 3 > 2", "1 < 2 and 3 > 2"),
            ("a<!-- <p>no</p> -->b", "ab"),
            ("a<script>if (a</b) {}</script>b", "ab"),
            ("a<a href=\"x\">link</a>", "alink"),
            ("<table><tr><td>1</td><td>2</td></tr><tr><td>3</td></tr></table>", "1 2\n3"),
            ("a <never ends", "a"),
            ("a<!-- never ends", "a"),
            ("a<style> never ends", "a"),
            ("&#xD83D;&", "&#xD83D;&"),
            ("日本<b>語</b>", "日本語"),
            ("", ""),
        ] {
            assert_eq!(text(html), expected, "{html}");
        }
    }

    #[test]
    fn a_hostile_body_takes_no_longer_than_its_length() {
        // Each of these would take minutes if any of them were looked at again for every sign.
        for unit in ["<", "</", "<!--", "<style>", "&", "<p", "<p>"] {
            let hostile = unit.repeat(200_000);
            assert!(text(&hostile).len() <= hostile.len());
        }
    }
}
