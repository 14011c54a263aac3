//! The text extracted from HTML bodies, and the time it takes.

use proptest::prelude::*;

fn text(html: &str) -> String {
    super::text(html, usize::MAX)
}

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
fn an_element_that_never_ends_hides_nothing() {
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
fn links_keep_their_targets() {
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
fn a_text_ends_soon_after_it_is_long_enough() {
    let text = super::text(&"<p>a line of text</p>".repeat(1_000_000), 1000);
    assert!((1000..1100).contains(&text.len()), "{}", text.len());
}

proptest! {
    #[test]
    fn text_that_is_escaped_comes_back(text in "[\\PC&&[^\u{a0}]]{0,80}") {
        let html = text.replace('&', "&amp;").replace('<', "&lt;");
        let squeezed = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        prop_assert_eq!(squeezed(&super::text(&html, usize::MAX)), squeezed(&text));
    }
}
