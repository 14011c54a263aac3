//! What somebody configured, as one validated value.
//!
//! A configuration is one TOML file, the files of `conf.d` beside it, and the environment
//! ([`Sources`]). [`Config::load`] reads them all and answers with a [`Config`] in which everything
//! is resolved, or with every fault at once, each with its place and its remedy. Nobody else needs
//! to know the files' form, and nothing that a `Config` holds is a secret: it knows where secrets
//! are, and that they were there when it was loaded.
//!
//! Refused: unknown keys, files of secrets that others can read, plain `http` to other machines
//! (promise 7). Not done here: reading the process's environment, the clock, or a secret for use.

mod account;
mod client;
mod cloud;
mod diagnostic;
mod diff;
mod edge;
mod file;
mod keys;
mod layers;
mod origin;
mod reader;
mod secret;
mod sections;
mod settings;
mod sources;
mod windows;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;

pub use account::{AccountConfig, CredentialConfig};
pub use client::ClientConfig;
pub use diagnostic::{Diagnostic, Diagnostics, Issue};
pub use diff::{ChangedWindow, ConfigDiff, ReloadEffect, diff};
pub use edge::edge;
pub use origin::{EffectiveValue, ValueOrigin};
pub use secret::trimmed;
pub use sections::{ApiConfig, FeedConfig, GraphConfig, LogConfig, LogFormat, StoreConfig, level};
pub use sources::Sources;

use crate::mirror::window::{Window, WindowIdentity};
use keys::Section;
pub use keys::nearest;
use layers::{LayeredTable, Layers};
use origin::DiagnosticSink;
use settings::WindowSettings;
use windows::WindowCollector;

/// Everything that was configured, valid and resolved.
#[derive(Clone, Debug)]
pub struct Config {
    /// `[store]`
    pub store: StoreConfig,
    /// `[graph]`
    pub graph: GraphConfig,
    /// `[api]`
    pub api: ApiConfig,
    /// `[feed]`
    pub feed: FeedConfig,
    /// `[log]`
    pub log: LogConfig,
    /// `[account.*]` by name.
    pub accounts: BTreeMap<Arc<str>, AccountConfig>,
    /// Every window, in the order in which they are written; names are unique.
    pub windows: Vec<Arc<Window>>,
    /// What is valid but hardly meant.
    pub warnings: Vec<Diagnostic>,
    /// The main file.
    pub file: PathBuf,
    /// See [`Config::explain`].
    pub explained: Vec<EffectiveValue>,
}

impl Config {
    /// Reads and validates everything. `now` is what relative edges are judged by.
    ///
    /// # Errors
    /// Every fault there is, unless a file cannot be read or is not TOML: then those first.
    pub fn load(sources: &Sources, now: Timestamp) -> Result<Self, Diagnostics> {
        let mut report = DiagnosticSink::default();
        let config = Self::read(sources, now, &mut report);
        let mut faults = report.faults;
        match config {
            Some(mut config) if faults.is_empty() => {
                config.warnings = report.warnings;
                config.explained = report.explained;
                Ok(config)
            }
            _ => {
                faults.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
                Err(Diagnostics(faults))
            }
        }
    }

    /// Every effective value and where it came from: all sections and accounts, `[defaults]`, and
    /// of each `[[window]]` what it sets itself.
    pub fn explain(&self) -> &[EffectiveValue] {
        &self.explained
    }

    /// What makes the window's ids a stream of their own.
    pub fn identity(&self, window: &Window) -> WindowIdentity {
        WindowIdentity {
            account: window.account.clone(),
            tenant: self.tenant(window).unwrap_or_else(|| Arc::from("")),
            mailbox: window.mailbox.clone(),
            calendar: window.calendar.clone(),
            immutable_ids: window.immutable_ids,
        }
    }

    /// The tenant of the window's account.
    fn tenant(&self, window: &Window) -> Option<Arc<str>> {
        self.accounts.get(&window.account).map(|account| account.tenant.clone())
    }

    fn read(sources: &Sources, now: Timestamp, report: &mut DiagnosticSink) -> Option<Self> {
        let mut layers = Layers::read(sources, report)?;
        let store = sections::store(&layers.take(Section::Store), report);
        let graph = sections::graph(&layers.take(Section::Graph), report);
        let api = sections::api(&layers.take(Section::Api), sources, report);
        let feed = sections::feed(&layers.take(Section::Feed), report);
        let log = sections::log(&layers.take(Section::Log), report);
        let mut accounts = BTreeMap::new();
        let mut faulty = Vec::new();
        for (name, table) in &layers.accounts {
            match account::account(name, table, sources, report) {
                Some(account) => drop(accounts.insert(account.name.clone(), account)),
                None => faulty.push(name.clone()),
            }
        }
        let settings = WindowSettings::defaults(&layers.take(Section::Defaults), report)?;
        let mut windows = WindowCollector::new(settings, &accounts, faulty, now);
        for table in &layers.windows {
            windows.read(table, report);
        }
        let load = windows.load();
        let windows = windows.all;
        advise(&layers, &accounts, &windows, report);
        let graph = graph?;
        if load > graph.max_concurrent as f64 {
            let wrong = Issue::new(
                format!(
                    "{} windows at their intervals keep about {load:.0} requests under way, and {} are allowed",
                    windows.len(),
                    graph.max_concurrent
                ),
                "raise graph.max_concurrent or the intervals",
            );
            report.warn(&graph_origin(report), "graph.max_concurrent", wrong);
        }
        Some(Self {
            store: store?,
            graph,
            api: api?,
            feed: feed?,
            log: log?,
            accounts,
            windows,
            warnings: Vec::new(),
            file: sources.file.clone(),
            explained: Vec::new(),
        })
    }
}

/// Where `graph.max_concurrent` was set.
fn graph_origin(report: &DiagnosticSink) -> ValueOrigin {
    let set = report.explained.iter().find(|one| one.key == "graph.max_concurrent");
    set.map_or(ValueOrigin::Default, |one| one.origin.clone())
}

/// Warns of what is there and does nothing.
fn advise(
    layers: &Layers,
    accounts: &BTreeMap<Arc<str>, AccountConfig>,
    windows: &[Arc<Window>],
    report: &mut DiagnosticSink,
) {
    if layers.windows.is_empty() {
        let wrong = Issue::new("there is no window", "write a [[window]], or nothing is mirrored");
        report.warn(&ValueOrigin::Default, "window", wrong);
        return;
    }
    // An account whose windows are at fault is not idle.
    if report.faults.is_empty() {
        for name in accounts.keys() {
            let origin =
                layers.accounts.get(&**name).map(|table: &LayeredTable| table.origin.clone());
            if windows.iter().all(|window| window.account != *name) {
                let wrong = Issue::new("no window uses it", "remove it, or name it in a window");
                let origin = origin.unwrap_or(ValueOrigin::Default);
                report.warn(&origin, &format!("account.{name}"), wrong);
            }
        }
    }
}
