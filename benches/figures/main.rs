//! Measures the figures of `docs/figures.md`: `cargo bench`, or `cargo bench -- NAME` for those
//! whose name contains it.
//!
//! Each figure is compared with a baseline of the same run, so that a slow or busy machine affects
//! both alike. The daemon is the built binary as a separate process; Graph is the simulator in this
//! process. A figure over its limit is reported as a reason to investigate; it does not fail the
//! run.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark that cannot continue panics"
)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark prints a table")]
#![allow(clippy::disallowed_methods, reason = "real time is measured")]

mod availability;
mod bare;
mod beside;
mod commit;
mod daemon;
mod disk;
mod feed;
mod filtered;
mod graph;
mod idle;
mod initial;
mod million;
mod parse;
mod process;
mod query;
mod quiet;
mod reload;
mod shards;
mod sinks;
mod sql;
mod stages;
mod table;

use std::time::Instant;

use table::{Table, note};

/// The daemon's allocator, because the store fills and commits in this process too.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() {
    if bare::be() {
        return;
    }
    // Cargo adds options of its own, such as --bench.
    let wanted = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let mut table = Table::new(wanted);
    let began = Instant::now();
    table.head();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        if table.wants(parse::NAME) {
            parse::run(&mut table).await;
        }
        if table.wants(commit::NAME) {
            commit::run(&mut table).await;
        }
        if table.wants(initial::NAME) {
            initial::run(&mut table).await;
        }
        if table.wants(disk::NAME) {
            disk::run(&mut table).await;
        }
        if table.wants(query::NAME) {
            query::run(&mut table).await;
        }
        if availability::NAMES.iter().any(|name| table.wants(name)) {
            availability::run(&mut table).await;
        }
        if table.wants(feed::NAME) {
            feed::run(&mut table).await;
        }
        if table.wants(filtered::NAME) {
            filtered::run(&mut table).await;
        }
        if table.wants(sql::NAME) {
            sql::run(&mut table).await;
        }
        if sinks::NAMES.iter().any(|name| table.wants(name)) {
            sinks::run(&mut table).await;
        }
        if table.wants(shards::MERGED) {
            shards::merged(&mut table).await;
        }
        if table.names(shards::RESTART) {
            shards::restart(&mut table).await;
        }
        if table.wants(reload::NAME) {
            reload::run(&mut table).await;
        }
        if table.wants(idle::NAME) {
            idle::run(&mut table).await;
        }
        if table.wants(idle::MOST) {
            idle::most(&mut table).await;
        }
        if table.names(million::SETTLED_NAME) {
            million::settled_memory(&mut table).await;
        }
        if table.names(beside::NAME) {
            beside::run(&mut table).await;
        }
        // Filling a million windows takes many times as long as all others, so it runs only if named.
        if table.names(million::NAME) {
            million::run(&mut table).await;
        }
    });
    let over = table.over();
    note(format_args!("{over} over their limit; took {:.0} s", began.elapsed().as_secs_f64()));
}
