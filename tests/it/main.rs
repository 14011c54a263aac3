//! Tests across modules: the whole daemon over an in-memory Graph in paused time, over real HTTP
//! bodies, and as the real binary.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod answers;
mod article;
mod audit;
mod clock;
mod commands;
mod compare;
mod configuration;
mod consumers;
mod converge;
mod copies;
mod daemon;
mod documented;
mod edits;
mod export;
mod fairness;
mod fleets;
mod full;
mod golden;
mod group_calendar;
mod hostile;
mod interrupted;
mod kill;
mod killed;
mod lies;
mod listings;
mod logs;
mod long;
mod memory;
mod metrics;
#[path = "../support/nats_server.rs"]
mod nats_server;
mod partial;
mod peak;
mod process;
mod proxy;
mod readers;
mod reform;
mod reload;
mod rig;
mod seams;
mod seeds;
mod shards;
mod sign_in;
mod signals;
mod sinks;
mod sinks_chaos;
mod socket;
mod spin;
mod stores;
mod structure;
mod stuck;
mod window_fixture;
