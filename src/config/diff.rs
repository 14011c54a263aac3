//! Computes what a reload has to do: the difference between two configurations.
//!
//! Windows are matched by name. Secrets are not compared: they are read again at each use.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::Config;
use super::origin::EffectiveValue;
use super::settings::{ReloadEffect, changed_keys};
use crate::mirror::window::Window;

/// The differences between two configurations.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ConfigDiff {
    /// Windows that are new.
    pub added: Vec<Arc<Window>>,
    /// Windows that are gone.
    pub removed: Vec<Arc<Window>>,
    /// Windows whose settings differ.
    pub changed: Vec<ChangedWindow>,
    /// How many windows do not change.
    pub unchanged: usize,
    /// Accounts that are new, gone, or have different settings; by name.
    pub accounts: Vec<Arc<str>>,
    /// Keys outside of accounts and windows that differ and take effect at once.
    pub settings: Vec<&'static str>,
    /// Keys that differ but cannot change while the daemon runs.
    pub refused: Vec<&'static str>,
}

/// A window whose settings differ.
#[derive(Clone, Debug, PartialEq)]
pub struct ChangedWindow {
    /// The old settings.
    pub old: Arc<Window>,
    /// The new settings.
    pub new: Arc<Window>,
    /// The strongest effect of the changed keys.
    pub effect: ReloadEffect,
    /// The keys that differ; `tenant` if the window's account moved to another tenant.
    pub keys: Vec<&'static str>,
}

/// Compares two configurations. Windows are ordered by name.
pub fn diff(old: &Config, new: &Config) -> ConfigDiff {
    let mut difference = ConfigDiff {
        accounts: accounts(old, new),
        settings: differing(&live(old, new)),
        refused: refused(old, new),
        ..ConfigDiff::default()
    };
    let by_name = |config: &Config| -> BTreeMap<Arc<str>, Arc<Window>> {
        config.windows.iter().map(|window| (window.name.clone(), window.clone())).collect()
    };
    let mut before = by_name(old);
    for (name, window) in by_name(new) {
        let Some(was) = before.remove(&name) else {
            difference.added.push(window);
            continue;
        };
        let moved = old.tenant(&was) != new.tenant(&window);
        if was == window && !moved {
            difference.unchanged += 1;
            continue;
        }
        let (effect, keys) = compare(&was, &window, moved);
        difference.changed.push(ChangedWindow { old: was, new: window, effect, keys });
    }
    difference.removed = before.into_values().collect();
    difference
}

impl ConfigDiff {
    /// Whether there is nothing to apply; `refused` does not count.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty()
            && self.removed.is_empty()
            && self.changed.is_empty()
            && self.accounts.is_empty()
            && self.settings.is_empty()
    }

    /// How many windows drop their events: the removed and the replaced ones.
    pub fn drops(&self) -> usize {
        let replaced =
            self.changed.iter().filter(|changed| changed.effect == ReloadEffect::Replaced);
        self.removed.len() + replaced.count()
    }
}

/// The keys in which two windows of one name differ, and their strongest effect.
fn compare(old: &Window, new: &Window, moved: bool) -> (ReloadEffect, Vec<&'static str>) {
    // Without `..`: a new field has to be compared.
    let Window { name: _, account, mailbox, calendar, settings } = old;
    let stream = differing(&[
        ("account", *account != new.account),
        ("tenant", moved && *account == new.account),
        ("mailbox", *mailbox != new.mailbox),
        ("calendar", *calendar != new.calendar),
    ]);
    let mut changed: Vec<(&str, ReloadEffect)> =
        stream.into_iter().map(|key| (key, ReloadEffect::Replaced)).collect();
    changed.extend(changed_keys(settings, &new.settings));
    changed.sort_by_key(|(_, effect)| Reverse(*effect));
    let effect = changed.first().map_or(ReloadEffect::Retimed, |(_, effect)| *effect);
    (effect, changed.into_iter().map(|(key, _)| key).collect())
}

fn accounts(old: &Config, new: &Config) -> Vec<Arc<str>> {
    let names =
        old.accounts.keys().chain(new.accounts.keys().filter(|n| !old.accounts.contains_key(*n)));
    let mut differing: Vec<Arc<str>> =
        names.filter(|name| old.accounts.get(*name) != new.accounts.get(*name)).cloned().collect();
    differing.sort();
    differing
}

fn live(old: &Config, new: &Config) -> [(&'static str, bool); 13] {
    let (graph, api) = ((&old.graph, &new.graph), (&old.api, &new.api));
    [
        ("graph.login_url", graph.0.login_url != graph.1.login_url),
        ("graph.max_concurrent", graph.0.max_concurrent != graph.1.max_concurrent),
        (
            "graph.max_concurrent_per_mailbox",
            graph.0.max_concurrent_per_mailbox != graph.1.max_concurrent_per_mailbox,
        ),
        ("graph.request_timeout", graph.0.request_timeout != graph.1.request_timeout),
        ("api.socket", api.0.socket != api.1.socket),
        ("api.socket_group", api.0.socket_group != api.1.socket_group),
        ("api.listen", api.0.listen != api.1.listen),
        ("api.hosts", api.0.hosts != api.1.hosts),
        ("api.token_file", api.0.token_file != api.1.token_file),
        ("api.read_token_file", api.0.read_token_file != api.1.read_token_file),
        ("api.mask_private", api.0.mask_private != api.1.mask_private),
        ("feed.retention", old.feed != new.feed),
        ("log.level", old.log.level != new.log.level),
    ]
}

/// The keys that are applied only at startup. With another Graph address, every stored link would
/// point to a foreign origin, so another address needs another store.
fn refused(old: &Config, new: &Config) -> Vec<&'static str> {
    let written = |config: &Config| {
        config.explained.iter().any(|one: &EffectiveValue| one.key == "graph.base_url")
    };
    let graph = if written(old) || written(new) { "graph.base_url" } else { "graph.cloud" };
    differing(&[
        ("store.path", old.store != new.store),
        (graph, old.graph.base_url != new.graph.base_url),
        ("log.format", old.log.format != new.log.format),
    ])
}

fn differing(keys: &[(&'static str, bool)]) -> Vec<&'static str> {
    keys.iter().filter(|(_, differs)| *differs).map(|(key, _)| *key).collect()
}
