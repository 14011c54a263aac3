//! Which seeds a test with real processes plays, and what it says about them.

use std::ops::Range;

use jiff::Timestamp;

/// The seeds that a variable names: `20` for 1 to 20, `17..18` for 17 alone.
pub(crate) fn named_by(variable: &str, usual: &str) -> Range<u64> {
    let seeds = std::env::var(variable).unwrap_or_else(|_| usual.to_owned());
    let number = |text: &str| text.parse::<u64>().expect("a number");
    match seeds.split_once("..") {
        Some((first, end)) => number(first)..number(end),
        None => 1..number(&seeds) + 1,
    }
}

#[expect(clippy::print_stderr, reason = "shown only if the test fails")]
pub(crate) fn tell(what: &str) {
    eprintln!("{} {what}", Timestamp::now());
}
