//! `import`: makes the configured store from an exported file, without a daemon.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::check;
use super::exit::{CONFIGURATION, CliError, DONE, FAILED, STORE};
use super::export::{describe, interrupted};
use crate::config::{Sources, StoreConfig};
use crate::error_chain::error_chain;
use crate::store::{self, ExportSummary, ImportError, OpenFault, StoreOptions};

/// Imports `file` as the store of the configuration.
pub(super) async fn import(
    sources: &Sources,
    file: &Path,
    json: bool,
    out: &mut impl Write,
) -> Result<u8, CliError> {
    let StoreConfig { path, cache } =
        StoreConfig::find(sources).map_err(|faults| check::faulty(sources, faults))?;
    let options = StoreOptions { cache_bytes: cache, ..StoreOptions::new(&path) };
    let mut input = File::open(file).map_err(|error| {
        CliError::new(FAILED, format!("cannot read {}: {error}", file.display()))
    })?;
    let interrupted = interrupted()?;
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let importing =
        tokio::task::spawn_blocking(move || store::import(&mut input, &options, &stopped));
    let mut importing = std::pin::pin!(importing);
    let imported = tokio::select! {
        imported = &mut importing => imported,
        () = interrupted => {
            // What was made so far is removed before the process ends.
            stop.cancel();
            importing.await
        }
    };
    let imported = match imported {
        Ok(imported) => imported.map_err(|error| refusal(file, &error))?,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    };
    if json {
        let ExportSummary { windows, events, bytes } = imported;
        let text = json!({"store": path.display().to_string(), "windows": windows, "events": events, "bytes": bytes});
        writeln!(out, "{text}")?;
    } else {
        writeln!(out, "imported into {}; {}", path.display(), describe(&imported))?;
    }
    Ok(DONE)
}

fn refusal(file: &Path, error: &ImportError) -> CliError {
    let text = error_chain(error);
    match error {
        ImportError::Open(open) => {
            let exit = if open.why.is_configuration() { CONFIGURATION } else { STORE };
            let remedy = match open.why {
                OpenFault::Locked => "stop the daemon first".into(),
                _ => open.why.remedy(),
            };
            CliError::new(exit, text).remedy(remedy)
        }
        ImportError::NotEmpty(_) => CliError::new(STORE, text)
            .remedy("set store.path to another directory, or move this store away"),
        ImportError::Stopped => CliError::new(FAILED, "interrupted, nothing was imported"),
        _ => CliError::new(FAILED, format!("{}: {text}", file.display()))
            .remedy("nothing was imported; export again, with the same version or an older one"),
    }
}
