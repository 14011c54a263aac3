//! An exact, always fresh local copy of Outlook / Microsoft 365 calendar windows.
//!
//! `docs/ARCHITECTURE.md` describes the structure. In short, imports point only downwards:
//! `cli` and `api` serve people and programs; `daemon`, `supervisor` and `worker` run the tasks,
//! and `reload` is how the others request a new configuration of the daemon;
//! `graph`, `store`, `config` and `platform` each wrap one external system; `env` provides the
//! wall clock and entropy as values; `mirror` is the protocol as pure computation; `percent`
//! encodes and decodes parts of addresses, `certificate` reads keys, `loopback` recognises the hosts
//! that are this machine, `sign_in_record` is the file of an account that a person signed in to,
//! `error_chain` puts an error and its sources in one line.

pub mod api;
mod certificate;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod env;
mod error_chain;
pub mod graph;
pub mod json;
mod loopback;
pub mod metrics;
pub mod mirror;
mod percent;
pub mod platform;
pub mod reload;
mod sign_in_record;
#[cfg(feature = "simulator")]
pub mod simulator;
pub mod sinks;
pub mod store;
pub mod supervisor;
#[cfg(test)]
mod tests;
pub mod worker;
