//! The mirror's protocol as pure functions: what a window is, what a page contains, and what a
//! round does next.
//!
//! Nothing here is async, reads a clock, draws a random number or does I/O. Time and randomness
//! are arguments, and effects are values that the caller performs.

pub mod account;
pub mod audit;
pub mod availability;
pub mod busy_time;
pub mod change;
pub mod clock;
pub mod commit;
pub mod event;
pub mod event_filter;
pub mod event_time;
pub mod failure;
pub mod fallback;
pub mod fleet;
pub mod free_slots;
pub mod health;
pub mod join_link;
pub mod name_pattern;
pub mod open_hours;
pub mod outcome;
pub mod page;
mod pending;
pub mod position;
pub mod round;
pub mod schedule;
pub mod segment_set;
pub mod series;
pub mod shard;
pub mod stall;
pub mod state;
pub mod status;
pub(crate) mod str_enum;
pub mod window;
pub mod zone;
