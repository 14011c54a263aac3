//! The calmirror daemon and its command line.

use std::process::ExitCode;

/// The daemon makes many small allocations on one thread and frees them on another. With the
/// system allocator each window costs more memory and each round more time (docs/figures.md).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    calmirror::cli::main(std::env::args_os())
}
