//! An exact, always fresh local copy of Outlook / Microsoft 365 calendar windows.
//!
//! `docs/ARCHITECTURE.md` is the map of this crate. In short, imports point only downwards:
//! `cli` and `api` touch people and programs, `daemon`, `supervisor` and `worker` move,
//! `graph`, `store`, `config` and `platform` each know one foreign world, `world` holds the wall
//! clock and entropy as values, and `mirror` is the protocol as arithmetic.

pub mod api;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod env;
pub mod graph;
pub mod metrics;
pub mod mirror;
pub mod platform;
#[cfg(feature = "simulator")]
pub mod simulator;
pub mod store;
pub mod supervisor;
pub mod worker;
