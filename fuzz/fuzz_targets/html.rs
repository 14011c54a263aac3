//! For any HTML body, its text is no longer than the body allows, has no trailing white space, and
//! stays the same, except for white space, when it is written as HTML and extracted again.
#![no_main]

use calmirror::api::ics::text_of_html;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let html = String::from_utf8_lossy(data);
    let text = text_of_html(&html, usize::MAX);
    assert!(text.len() <= 3 * html.len(), "{} of {}", text.len(), html.len());
    assert_eq!(text, text.trim_end());
    assert!(text_of_html(&html, 100).len() <= 3 * html.len());
    let again = format!("<pre>\n{}", text.replace('&', "&amp;").replace('<', "&lt;"));
    let squeezed = |text: &str| text.replace(char::is_whitespace, "");
    assert_eq!(squeezed(&text_of_html(&again, usize::MAX)), squeezed(&text));
});
