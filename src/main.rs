//! The calmirror daemon and its command line.
fn main() {}
