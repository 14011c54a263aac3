//! Converts HTML bodies to plain text.
//!
//! The tokenizer is `html5gum`, which follows the HTML standard and resolves character references.
//! The layout is done here: a block element begins a line, `<pre>` keeps its white space, and a
//! link keeps its target: `text <https://…>`. A pass over the tokens ends when the text is long
//! enough.
//!
//! A hidden element without an end tag would hide the rest of the body. Only scripts and styles may
//! do that. For the others, the start tag is ignored and the body is read again, at most once per
//! element name.

use std::borrow::Cow;
use std::collections::BTreeMap;

use html5gum::{StartTag, State, Token, Tokenizer};

/// Elements whose content is not shown.
const UNSHOWN: [&[u8]; 8] =
    [b"iframe", b"noembed", b"noframes", b"noscript", b"script", b"style", b"template", b"title"];
/// Hidden elements whose content is not markup, and which hide the rest if they do not end.
const RAW_HIDDEN: [&[u8]; 2] = [b"script", b"style"];
/// Elements that start and end a line.
const BLOCKS: [&[u8]; 28] = [
    b"address",
    b"article",
    b"aside",
    b"blockquote",
    b"center",
    b"dd",
    b"div",
    b"dl",
    b"dt",
    b"footer",
    b"h1",
    b"h2",
    b"h3",
    b"h4",
    b"h5",
    b"h6",
    b"header",
    b"hr",
    b"li",
    b"main",
    b"ol",
    b"p",
    b"pre",
    b"section",
    b"table",
    b"tr",
    b"ul",
    b"xmp",
];
/// Elements that keep their white space.
const PREFORMATTED: [&[u8]; 3] = [b"pre", b"textarea", b"xmp"];
/// Prefixes of link targets that are meaningful outside the page.
const SCHEMES: [&str; 4] = ["http://", "https://", "mailto:", "tel:"];

/// Per element name, how many elements hide their content. Other names are unlimited.
type HiddenCounts = BTreeMap<Vec<u8>, usize>;

/// The text of an HTML document or fragment. Stops soon after `enough` bytes of text.
pub(super) fn text(html: &str, enough: usize) -> String {
    let mut limits = HiddenCounts::new();
    loop {
        let mut layout = read(html, enough, &limits);
        match layout.hidden.take() {
            // Each name is limited once: the next pass is identical up to that start tag.
            Some((name, before)) if !RAW_HIDDEN.contains(&name.as_slice()) => {
                limits.insert(name, before);
            }
            _ => return layout.finish(),
        }
    }
}

/// Runs one pass over the tokens.
fn read(html: &str, enough: usize, limits: &HiddenCounts) -> TextLayout {
    let mut layout = TextLayout::default();
    let mut tokens = Tokenizer::new(html);
    while let Some(Ok(token)) = tokens.next() {
        match token {
            Token::StartTag(tag) => {
                layout.open(&tag, limits);
                if let Some(state) = layout.state_within(&tag.name) {
                    tokens.set_state(state);
                }
            }
            Token::EndTag(tag) => layout.close(&tag.name),
            Token::String(text) => layout.put(&String::from_utf8_lossy(&text)),
            Token::Comment(_) | Token::Doctype(_) | Token::Error(_) => {}
        }
        if layout.out.len() >= enough {
            break;
        }
    }
    layout
}

/// Text under construction.
#[derive(Default)]
struct TextLayout {
    out: String,
    /// White space was read, and is written before the next character.
    space: bool,
    /// The open element that hides its content, and how many of its name did so before.
    hidden: Option<(Vec<u8>, usize)>,
    /// Per element name, how many elements have hidden their content.
    hid: HiddenCounts,
    /// Open elements that keep their white space.
    preformatted: usize,
    /// The next text follows the start of such an element: its first line end is skipped.
    begins: bool,
    /// The target of the open link, and the offset of its text.
    link: Option<(String, usize)>,
}

impl TextLayout {
    fn open(&mut self, tag: &StartTag<()>, limits: &HiddenCounts) {
        let name: &[u8] = &tag.name;
        if self.hidden.is_some() {
            return;
        }
        if UNSHOWN.contains(&name) {
            let before = self.hid.entry(name.to_vec()).or_default();
            if limits.get(name).is_none_or(|limit| *before < *limit) {
                self.hidden = Some((name.to_vec(), *before));
                *before += 1;
            }
        } else if name == b"br" {
            self.end_line();
        } else if name == b"a" {
            self.end_link();
            let href = tag.attributes.get(&b"href"[..]);
            let target = href.and_then(|href| target(&String::from_utf8_lossy(href)));
            self.link = target.map(|target| (target, self.out.len()));
        } else if matches!(name, b"td" | b"th") {
            self.space = true;
        } else if BLOCKS.contains(&name) {
            self.begin_line();
        }
        if PREFORMATTED.contains(&name) {
            self.preformatted += 1;
            self.begins = true;
        }
    }

    /// The tokenizer state for the content of a newly opened element, if it is not plain markup.
    fn state_within(&self, name: &[u8]) -> Option<State> {
        if self
            .hidden
            .as_ref()
            .is_some_and(|(hidden, _)| hidden != name && !RAW_HIDDEN.contains(&name))
        {
            // Inside a hidden element only its own end tag matters.
            return None;
        }
        match name {
            b"script" => Some(State::ScriptData),
            b"style" | b"xmp" => Some(State::RawText),
            b"textarea" => Some(State::RcData),
            b"plaintext" => Some(State::PlainText),
            b"title" => self.hidden.is_some().then_some(State::RcData),
            b"iframe" | b"noembed" | b"noframes" => self.hidden.is_some().then_some(State::RawText),
            _ => None,
        }
    }

    fn close(&mut self, name: &[u8]) {
        if let Some((hidden, _)) = &self.hidden {
            if hidden == name {
                self.hidden = None;
            }
            return;
        }
        if name == b"a" {
            self.end_link();
        } else if BLOCKS.contains(&name) {
            self.begin_line();
        }
        if PREFORMATTED.contains(&name) {
            self.preformatted = self.preformatted.saturating_sub(1);
        }
    }

    fn put(&mut self, text: &str) {
        if self.hidden.is_some() {
            return;
        }
        // The tokenizer normalizes every line end to a line feed.
        let first = std::mem::take(&mut self.begins);
        let text = if first { text.strip_prefix('\n').unwrap_or(text) } else { text };
        for c in text.chars() {
            if self.preformatted == 0 && c.is_ascii_whitespace() {
                self.space = true;
                continue;
            }
            let begins_line = self.out.is_empty() || self.out.ends_with('\n');
            if std::mem::take(&mut self.space) && !begins_line {
                self.out.push(' ');
            }
            self.out.push(if c == '\u{a0}' { ' ' } else { c });
        }
    }

    fn end_line(&mut self) {
        self.space = false;
        self.out.push('\n');
    }

    fn begin_line(&mut self) {
        self.space = false;
        if !self.out.is_empty() && !self.out.ends_with('\n') {
            self.out.push('\n');
        }
    }

    /// Writes the target of the open link, unless the link's text is the target.
    fn end_link(&mut self) {
        let Some((target, from)) = self.link.take() else { return };
        let shown = self.out.get(from..).unwrap_or_default().trim();
        let bare = |text: &str| -> String {
            let text = SCHEMES.iter().find_map(|scheme| text.strip_prefix(scheme)).unwrap_or(text);
            text.trim_end_matches('/').to_owned()
        };
        if bare(shown) == bare(&target) {
            return;
        }
        if !(self.out.is_empty() || self.out.ends_with(char::is_whitespace)) {
            self.out.push(' ');
        }
        self.out.push('<');
        self.out.push_str(&target);
        self.out.push('>');
    }

    /// Trims line ends and collapses consecutive empty lines.
    fn finish(mut self) -> String {
        self.end_link();
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

/// A link's target for use in angle brackets, if it is meaningful outside the page.
fn target(href: &str) -> Option<String> {
    let href = href.trim();
    let is_known = SCHEMES.iter().any(|scheme| begins(href, scheme));
    let encoded = |c: char| match c {
        '<' => Some(Cow::Borrowed("%3C")),
        '>' => Some(Cow::Borrowed("%3E")),
        c if c.is_whitespace() || c.is_control() => None,
        c => Some(Cow::Owned(c.to_string())),
    };
    is_known.then(|| href.chars().filter_map(encoded).collect())
}

/// Whether a link is an HTTP or HTTPS URL.
pub(super) fn is_web(link: &str) -> bool {
    begins(link, "http://") || begins(link, "https://")
}

fn begins(link: &str, scheme: &str) -> bool {
    link.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    fn text(html: &str) -> String {
        super::text(html, usize::MAX)
    }

    #[test]
    fn html_becomes_readable_text() {
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
            (
                "x &lt;y&gt; &amp; &#228;&#xe4;&auml; &unknown; & &#0;",
                "x <y> & äää &unknown; & \u{fffd}",
            ),
            ("1 < 2 and 3 > 2", "1 < 2 and 3 > 2"),
            ("a<!-- <p>no</p> -->b", "ab"),
            ("a<script>if (a</b) {}</script>b", "ab"),
            ("<table><tr><td>1</td><td>2</td></tr><tr><td>3</td></tr></table>", "1 2\n3"),
            ("a <never ends", "a"),
            ("a<!-- never ends", "a"),
            ("a<style> never ends", "a"),
            ("&#xD83D;&", "\u{fffd}&"),
            ("日本<b>語</b>", "日本語"),
            ("", ""),
            // Entities with and without a semicolon, and double-encoded ones.
            (
                "Caf&eacute; &rarr; &check; &trade; &euro; &amp;lt; &copy &NotEqualTilde;",
                "Café → ✓ ™ € &lt; © ≂̸",
            ),
            ("<p title=\"a > b\">shown</p><p title='<p>'>too</p>", "shown\ntoo"),
            ("<p>a</p><pre>\r\nline 1\r\n  line  2</pre>b  c", "a\nline 1\n  line  2\nb c"),
            ("<textarea>a\n b</textarea>", "a\n b"),
            ("<svg><title>drawing</title></svg>Text", "Text"),
            ("<![if !mso]><p>x<o:p></o:p></p><![endif]><!--[if mso]><p>y</p><![endif]-->", "x"),
            ("<head><meta charset=utf-8><p>no end of the head", "no end of the head"),
        ] {
            assert_eq!(text(html), expected, "{html}");
        }
    }

    #[test]
    fn an_unclosed_element_hides_no_text() {
        for name in ["iframe", "noembed", "noframes", "noscript", "template", "title"] {
            for (html, expected) in [
                ("a<X>b", "ab"),
                ("a<X src=x />b <p>c</p>", "ab\nc"),
                ("a<X>no</X>b<X>c<p>d</p>", "abc\nd"),
                ("a<template>b<X>c<style>no</style>d</template", "abcd"),
                ("a<X>b<script>never ends", "ab"),
            ] {
                let html = html.replace('X', name);
                assert_eq!(text(&html), expected, "{html}");
            }
        }
        // Neither of these end tags is real.
        for name in ["noscript", "template"] {
            let html = format!("a<{name}>b<!-- </{name}> --><i title='</{name}>'>c</i>");
            assert_eq!(text(&html), "abc", "{html}");
        }
        assert_eq!(text("a<noscript><iframe src=x></noscript>b"), "ab");
        let all = "a<iframe>b<noembed>c<noframes>d<noscript>e<template>f<title>g";
        assert_eq!(text(all), "abcdefg");
    }

    #[test]
    fn links_in_html_keep_their_urls() {
        for (html, expected) in [
            (
                "a <a href=\"https://x.example/?a=1&amp;b=2\">link</a>.",
                "a link <https://x.example/?a=1&b=2>.",
            ),
            ("<a href='HTTPS://x.example'><img></a> b", "<HTTPS://x.example> b"),
            ("<a href=\"https://x.example/\">https://x.example</a>", "https://x.example"),
            ("<a href=\"https://x.example/\">x.example</a>", "x.example"),
            ("<a href=\"mailto:pat@b.example\">Pat</a>", "Pat <mailto:pat@b.example>"),
            ("<a href=\"mailto:pat@b.example\">pat@b.example</a>", "pat@b.example"),
            (
                "<a href=\"https://a.example\">a<a href=\"https://b.example\">b",
                "a <https://a.example>b <https://b.example>",
            ),
            ("<a href=\"https://a.example/<b> c\n\">a</a>", "a <https://a.example/%3Cb%3Ec>"),
            (
                "<a href=\"javascript:x()\">a</a><a href=\"#top\">b</a><a href=cid:1>c</a><a>d</a>",
                "abcd",
            ),
        ] {
            assert_eq!(text(html), expected, "{html}");
        }
    }

    #[test]
    fn a_hostile_body_takes_no_longer_than_its_length() {
        // Each of these would take minutes if the input were rescanned for every character.
        for unit in [
            "<",
            "</",
            "<!--",
            "<style>",
            "&",
            "<p",
            "<p>",
            "<a href=https://a>",
            "</a>",
            "<pre>",
            "<![CDATA[",
            "&#1",
            "<a b",
            " b=c",
            "<br>",
            "</style",
            "<script><!--",
            "<template>",
            "<noscript><iframe><noembed><noframes><template><title>",
            "<title></title><title>",
            "\u{a0}",
        ] {
            let hostile = unit.repeat(1_200_000 / unit.len().max(6));
            assert!(text(&hostile).len() <= 2 * hostile.len(), "{unit}");
            let tag = format!("<p {hostile}");
            assert!(text(&tag).len() <= 2 * tag.len(), "{unit}");
        }
    }

    #[test]
    fn long_text_is_cut_at_its_limit() {
        let text = super::text(&"<p>a line of text</p>".repeat(1_000_000), 1000);
        assert!((1000..1100).contains(&text.len()), "{}", text.len());
    }

    proptest! {
        #[test]
        fn escaped_text_round_trips(text in "[\\PC&&[^\u{a0}]]{0,80}") {
            let html = text.replace('&', "&amp;").replace('<', "&lt;");
            let squeezed = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
            prop_assert_eq!(squeezed(&super::text(&html, usize::MAX)), squeezed(&text));
        }
    }
}
