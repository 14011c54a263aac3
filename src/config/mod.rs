//! Reads, validates and resolves the configuration.
//!
//! A configuration is one TOML file, the files of `conf.d` beside it, and the environment
//! ([`Sources`]). [`Config::load`] reads them all. It returns a [`Config`] in which everything is
//! resolved, or every error at once, each with its location and remedy. The rest of the crate does
//! not depend on the format of the files. A `Config` never holds a secret: it names the files and
//! variables that hold secrets, and loading checks that they are present.
//!
//! Rejected: unknown keys, secret files that others can read, plain `http` to other machines
//! (promise 7). Not done here: reading the process's environment, the clock, or a secret for use.

mod account;
mod api;
mod authorities;
mod certificate;
mod client;
mod consumers;
mod diagnostic;
mod diff;
mod edge;
mod entry;
mod file;
mod fleets;
mod graph;
mod groups;
mod layers;
mod mailboxes;
mod memory_limit;
mod origin;
mod platform_identity;
mod proxy;
mod reader;
mod secret;
mod sections;
mod settings;
mod shard;
mod signed_in;
mod sinks;
mod sources;
mod table;
mod token_command;
mod windows;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;

pub use api::ApiConfig;
pub use authorities::AuthorityFile;
pub use client::ClientConfig;
pub use consumers::{AccessLevel, ConsumerConfig, ConsumerKey};
pub use diagnostic::{Diagnostic, Diagnostics, Issue, nearest};
pub use diff::{ChangedWindow, ConfigDiff, diff};
pub use edge::edge;
pub use graph::GraphConfig;
pub use groups::WindowGroup;
pub use mailboxes::read_mailboxes;
pub use origin::{EffectiveValue, ValueOrigin};
pub use secret::trimmed;
pub use sections::{FeedConfig, LogConfig, LogFormat, Sections, StoreConfig, level};
pub use settings::{ReloadEffect, default_settings};
pub use shard::ShardConfig;
pub use sinks::{NatsConfig, SinkConfig, SinkTargetConfig, SinkUrl, WebhookConfig};
pub use sources::Sources;

use crate::mirror::account::Account;
use crate::mirror::fleet::FleetSpec;
use crate::mirror::shard::{Shard, WindowOwners};
use crate::mirror::window::{Window, WindowIdentity, group_id};
use consumers::ConsumerCollector;
use entry::EntryReader;
use fleets::FleetCollector;
use layers::Layers;
use origin::DiagnosticSink;
use sections::Section;
use settings::LayeredSettings;
use sinks::SinkCollector;
use windows::WindowCollector;

/// The validated and resolved configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The settings of the daemon: `[store]`, `[graph]`, `[api]`, `[feed]`, `[shard]`, `[log]`.
    pub sections: Sections,
    /// `[account.*]` by name.
    pub accounts: BTreeMap<Arc<str>, Account>,
    /// Every window, in the order of the configuration; names are unique. Those of fleets follow
    /// with [`Self::extend`].
    pub windows: Vec<Arc<Window>>,
    /// The windows of other shards, after [`Self::divide`].
    pub elsewhere: WindowOwners,
    /// Every fleet, in the order of the configuration; names are unique.
    pub fleets: Vec<Arc<FleetSpec>>,
    /// Groups by name: those that windows and fleets name, and one for each fleet.
    pub groups: BTreeMap<Arc<str>, WindowGroup>,
    /// Every `[consumer.*]`, ordered by name.
    pub consumers: Vec<ConsumerConfig>,
    /// Every `[sink.*]`, ordered by name.
    pub sinks: Vec<SinkConfig>,
    /// Settings that are valid but probably unintended.
    pub warnings: Vec<Diagnostic>,
    /// The main file.
    pub file: PathBuf,
    /// Every effective value and its origin: all sections, accounts, consumers and `[defaults]`, and for
    /// each `[[window]]` and `[[fleet]]` the keys that it does not inherit.
    pub explained: Vec<EffectiveValue>,
}

impl Config {
    /// Reads and validates everything. Relative edges are resolved against `now`, and certificates
    /// have to be valid then.
    ///
    /// # Errors
    /// All errors. If a file cannot be read or is not TOML, values are not validated.
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

    /// Takes the windows that are equal to those of `old` from there, so that a daemon with a
    /// million windows does not keep each of them twice after a reload.
    pub fn share_windows(&mut self, old: &Self) {
        let (known, _) = diff::pair(&old.windows, &self.windows);
        for (window, known) in self.windows.iter_mut().zip(known) {
            if let Some(known) = known.filter(|known| *known == window) {
                *window = Arc::clone(known);
            }
        }
    }

    /// The names of all windows. A window of a fleet can have none of them.
    pub fn window_names(&self) -> HashSet<Arc<str>> {
        self.windows.iter().map(|window| window.name.clone()).collect()
    }

    /// Appends the windows of fleets. Those whose names other windows have are left out and
    /// returned.
    pub fn extend(&mut self, windows: impl IntoIterator<Item = Window>) -> Vec<Window> {
        let mut windows = windows.into_iter().peekable();
        let mut refused = Vec::new();
        if windows.peek().is_none() {
            return refused;
        }
        let mut taken = self.window_names();
        for window in windows {
            if taken.insert(window.name.clone()) {
                self.windows.push(Arc::new(window));
            } else {
                refused.push(window);
            }
        }
        refused
    }

    /// Leaves the windows of this shard in [`Self::windows`], and notes which shards have the others.
    pub fn divide(&mut self) {
        let shard = self.sections.shard.of;
        if shard == Shard::ALONE {
            return;
        }
        let accounts = &self.accounts;
        let owner = |window: &Window| shard.owner(window, accounts.get(&window.account));
        self.windows.retain(|window| {
            let owner = owner(window);
            if owner != shard.ordinal() {
                self.elsewhere.insert(window.name.clone(), owner);
            }
            owner == shard.ordinal()
        });
        self.windows.shrink_to_fit();
    }

    /// Windows of this shard and of all others.
    pub fn all_windows(&self) -> usize {
        self.windows.len() + self.elsewhere.len()
    }

    /// This process's part of the requests that may be in flight.
    pub fn max_concurrent(&self) -> usize {
        self.sections.shard.of.share(self.sections.graph.max_concurrent)
    }

    /// The settings that identify the window's stream of ids.
    pub fn identity(&self, window: &Window) -> WindowIdentity {
        identity(window, self.realm(window))
    }

    /// What the window's ids belong to ([`Account::realm`]).
    fn realm(&self, window: &Window) -> Option<Arc<str>> {
        self.accounts.get(&window.account).map(Account::realm)
    }

    fn read(sources: &Sources, now: Timestamp, report: &mut DiagnosticSink) -> Option<Self> {
        let mut layers = Layers::read(sources, report)?;
        let has_token = layers.has_token();
        let sections = Sections::read(|section| layers.take(section), sources, report);
        if !has_token {
            api::refuse_open_listener(report);
        }
        let mut accounts = BTreeMap::new();
        let mut faulty = Vec::new();
        for (name, table) in &layers.accounts {
            match account::account(name, table, sections.as_ref(), sources, now, report) {
                Some(account) => drop(accounts.insert(account.name.clone(), account)),
                None => faulty.push(name.clone()),
            }
        }
        let defaults = LayeredSettings::defaults(&layers.take(Section::Defaults), report)?;
        let shared = EntryReader { defaults, accounts: &accounts, faulty, now };
        let mut windows = WindowCollector::new(&shared);
        for table in &layers.windows {
            windows.read(table, report);
        }
        let mut fleets = FleetCollector::new(&shared, std::mem::take(&mut windows.groups));
        for table in &layers.fleets {
            fleets.read(table, report);
        }
        let concurrency = windows.expected_concurrency();
        let (windows, groups, fleets) = (windows.all, fleets.groups, fleets.all);
        for window in windows.iter().filter(|window| group_id(&window.mailbox).is_some()) {
            if let Some(account) = accounts.get_mut(&window.account) {
                account.reads_groups = true;
            }
        }
        warn_unused(&layers, &windows, &fleets, report);
        let api = sections.as_ref().map(|sections| &sections.api);
        let has_fleets = !layers.fleets.is_empty();
        let mut consumers = ConsumerCollector::new(sources, &windows, has_fleets, api);
        for (name, table) in &layers.consumers {
            consumers.read(name, table, report);
        }
        let consumers = consumers.all;
        let mut sinks = SinkCollector::new(sources, &groups, sections.as_ref());
        for (name, table) in &layers.sinks {
            sinks.read(name, table, report);
        }
        let sinks = sinks.all;
        let sections = sections?;
        let graph = &sections.graph;
        if concurrency > graph.max_concurrent as f64 {
            let wrong = Issue::new(
                format!(
                    "{} windows at their intervals keep about {concurrency:.0} requests in flight, but only {} are allowed",
                    windows.len(),
                    graph.max_concurrent
                ),
                "raise graph.max_concurrent or the intervals",
            );
            let set = report.explained.iter().find(|one| one.key == "graph.max_concurrent");
            let origin = set.map_or(ValueOrigin::Default, |one| one.origin.clone());
            report.warn(&origin, "graph.max_concurrent", wrong);
        }
        Some(Self {
            sections,
            accounts,
            windows,
            elsewhere: WindowOwners::new(),
            fleets,
            groups,
            consumers,
            sinks,
            warnings: Vec::new(),
            file: sources.file.clone(),
            explained: Vec::new(),
        })
    }
}

fn identity(window: &Window, tenant: Option<Arc<str>>) -> WindowIdentity {
    WindowIdentity {
        account: window.account.clone(),
        tenant: tenant.unwrap_or_else(|| Arc::from("")),
        mailbox: window.mailbox.clone(),
        calendar: window.calendar.clone(),
        immutable_ids: window.settings.immutable_ids,
    }
}

/// Warns about a configuration without windows and fleets, and about accounts that none of them
/// uses.
fn warn_unused(
    layers: &Layers,
    windows: &[Arc<Window>],
    fleets: &[Arc<FleetSpec>],
    report: &mut DiagnosticSink,
) {
    if layers.windows.is_empty() && layers.fleets.is_empty() {
        let remedy = "write a [[window]] or a [[fleet]], or nothing is mirrored";
        report.warn(&ValueOrigin::Default, "window", Issue::new("there is no window", remedy));
        return;
    }
    // After an error the lists are incomplete, so an account may only look unused.
    if report.faults.is_empty() {
        for (name, table) in &layers.accounts {
            let of_a_window = windows.iter().any(|window| *window.account == **name);
            if !of_a_window && fleets.iter().all(|fleet| *fleet.account != **name) {
                let remedy = "remove it, or name it in a window or a fleet";
                report.warn(&table.origin, &table.path, Issue::new("no window uses it", remedy));
            }
        }
    }
}
