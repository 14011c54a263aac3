//! Whatever a `Retry-After` says, the wait is between nothing and an hour.
#![no_main]

use calmirror::graph::retry_after::{LONGEST, parse};
use jiff::Timestamp;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (i64, &str)| {
    let (second, value) = input;
    let now = Timestamp::from_second(second.rem_euclid(4_000_000_000)).expect("in range");
    if let Some(wait) = parse(value, now) {
        assert!(wait <= LONGEST);
    }
});
