//! The calmirror daemon and its command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    calmirror::cli::main(std::env::args_os())
}
