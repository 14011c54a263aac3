//! The durable mirror and its change feed. Only `engine` knows sled.
//!
//! A store is a directory that one process has open. It holds, for each window, every event as
//! Graph sent it and the position of each segment, and one feed over all windows. The feed has one
//! entry per existing event (its latest change) and one per removal. One thread writes:
//! [`Store::commit`] returns when the commit is durable. Readers see only whole commits that no
//! crash can take back.
//!
//! The store does not answer before a write is durable and does not continue after a failed write.
//! It does not touch a store that is locked, full, read-only or of a newer format, and never
//! deletes a damaged one.
//!
//! Files, from the bottom up: `engine` (what keeps the tree on disk); `keys`, `record`, `row` and
//! `batch` (what is written); `tree` (reading the tree) and `rows` (where a row lies); `parts`,
//! `plan`, `commit_applier`, `change_writer`, `feed_edit`, `register` and `purge` (from a request
//! to a batch); `job`, `writer` and `write_watcher` (the thread, its jobs, and the end of a write
//! that failed); `dictionary`, `row_commit` and `recompress` (compression); `shared` (state of
//! writer and readers); `handle` (the store's interface); `lookup` (what workers read);
//! `fleet_listing` (the last listings of fleets); `compare`
//! (what a start reads); `query`, `busy_times`, `render`, `feed`, `follower`, `change_line` and `cursor` (what
//! readers get); `directory`, `open`, `watermark` and `audit` (opening); `disk_space` and `reserve`
//! (full disks); `written_keys` and `copy` (a copy of the tree while it is written); `exchange`,
//! `compaction` and `compact` (giving space back); `export`, `export_file`, `export_reader` and
//! `import` (a store as a file).

mod audit;
mod batch;
mod busy_times;
mod change_line;
mod change_writer;
mod commit_applier;
mod compact;
mod compaction;
mod compare;
mod copy;
mod cursor;
mod deferred;
mod dictionary;
mod directory;
mod disk_space;
mod engine;
mod error;
mod exchange;
mod export;
mod export_file;
mod export_reader;
mod feed;
mod feed_edit;
mod fleet_listing;
mod follower;
mod handle;
mod import;
mod job;
mod keys;
mod lookup;
mod open;
mod parts;
mod pending;
mod plan;
mod purge;
mod query;
mod recompress;
mod record;
mod register;
mod render;
mod reserve;
mod result_page;
mod row;
mod row_commit;
mod row_header;
mod rows;
mod shared;
mod sink_record;
mod tree;
mod types;
mod watermark;
mod write_watcher;
mod writer;
mod written_keys;

pub use self::compact::{CompactionOutcome, SizeWatch};
pub use self::disk_space::Footprint;
#[cfg(any(test, feature = "simulator"))]
pub use self::engine::memory::{DiskFault, MemoryDisk};
pub use self::error::{FeedError, OpenError, OpenFault, StoreError};
pub use self::export::StoreExport;
pub use self::export_reader::{ExportFault, ExportFaultKind, ExportReader, ExportSummary};
pub use self::feed::{FeedFilter, NameFilter};
pub use self::follower::{BATCH_BYTES, Follower};
pub use self::handle::Store;
pub use self::import::{ImportError, import};
pub use self::recompress::RecompressPlace;
pub use self::types::{
    AuditRow, Change, Changes, ComparedWindows, EventQuery, Events, KnownWindow, OpenReport,
    OutsideCount, RegisteredWindow, StoreOptions, WantedWindows, WindowCount, WindowRegistration,
};
