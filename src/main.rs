//! The calmirror daemon and its command line.

use std::process::ExitCode;

/// Many small allocations, made by one thread and freed by another: with the system's own
/// allocator a further window costs more memory, and a round more time (docs/figures.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    calmirror::cli::main(std::env::args_os())
}
