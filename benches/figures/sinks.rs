//! `sinks`: how fast each type of sink sends a snapshot, how long it takes from a commit to the
//! receiver, and what ten sinks cost; each beside the plain feed in the same run.
//!
//! PostgreSQL is `CALMIRROR_TEST_POSTGRES`, or the local one; NATS is a server of this process,
//! `CALMIRROR_TEST_NATS` or that of the path. A type without its server is left out.

mod cost;
mod delay;
#[path = "../../tests/support/nats_server.rs"]
mod nats_server;
mod places;
mod snapshot;
mod stream;

use calmirror::mirror::commit::Commit;
use calmirror::mirror::position::WindowId;

use crate::query::{item, now, settled};
use crate::table::Table;

/// The names to select these figures by.
pub(crate) const NAMES: [&str; 3] = [snapshot::NAME, delay::NAME, cost::NAME];
/// Bytes of each event that is committed here.
const BYTES: usize = 1500;

pub(crate) async fn run(table: &mut Table) {
    if table.wants(snapshot::NAME) {
        snapshot::run(table).await;
    }
    if table.wants(delay::NAME) {
        delay::run(table).await;
    }
    if table.wants(cost::NAME) {
        cost::run(table).await;
    }
}

/// A commit of the new events with these numbers.
fn created(window: WindowId, numbers: std::ops::Range<usize>) -> Commit {
    let mut commit = settled(Commit::new(window, 0, now()));
    let event = |number| item(&format!("{}-{number}", window.0), number, 0, BYTES);
    commit.upserts = numbers.map(event).collect();
    commit
}
