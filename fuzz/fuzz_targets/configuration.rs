//! Any file gives a configuration or a list of diagnostics, and both can be printed.
#![no_main]

use std::collections::BTreeMap;

use calmirror::config::{Config, Sources};
use jiff::Timestamp;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let file = folder.path().join("calmirror.toml");
    std::fs::write(&file, data).expect("a temporary file");
    let sources = Sources { file, environment: BTreeMap::new() };
    match Config::load(&sources, Timestamp::UNIX_EPOCH) {
        Ok(config) => drop(format!("{config:?} {:?}", config.explained)),
        Err(faults) => drop(faults.to_string()),
    }
});
