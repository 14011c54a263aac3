//! The store with the real sled on a real file system: its guarantees, its life, and what its
//! machine does to it; and with an engine in memory whose power is cut at every operation.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a failed unwrap is a failed test")]

mod compaction;
mod crash;
mod export;
mod faults;
mod feed;
mod fleets;
mod full;
mod guarantees;
mod kit;
mod life;
mod model;
mod open;
mod power;
