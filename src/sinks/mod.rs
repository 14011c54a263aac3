//! Sends changes on: to webhooks, databases and message logs, each sink in a task of its own.
//!
//! A sink is a reader of the feed like any other, whose position is durable. It starts with a
//! snapshot of its windows, and again if its windows, filter or level changed or if it was away for
//! longer than removals are kept.

pub mod batch;
pub mod error;
pub mod secret;
pub mod target;
pub mod webhook;
