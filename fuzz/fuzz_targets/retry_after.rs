//! For any `Retry-After`, the wait is between zero and one hour.
#![no_main]

use calmirror::graph::retry_after::{MAX_WAIT, parse};
use jiff::Timestamp;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (i64, &str)| {
    let (second, value) = input;
    let now = Timestamp::from_second(second.rem_euclid(4_000_000_000)).expect("in range");
    if let Some(wait) = parse(value, now) {
        assert!(wait <= MAX_WAIT);
    }
});
