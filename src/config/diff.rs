//! Computes what a reload has to do: the difference between two configurations.
//!
//! Windows, accounts, fleets and consumers are matched by name. The daemon adds the windows of fleets to both
//! configurations before they are compared ([`Config::extend`]). Secrets are not compared: they are
//! read again at each use.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::Config;
use super::groups;
use super::settings::{ReloadEffect, changed_keys};
use crate::mirror::fleet::FleetSpec;
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
    /// How many of the windows that are gone another shard has.
    pub moved: usize,
    /// How many windows of other shards are gone.
    pub gone_elsewhere: usize,
    /// How many windows do not change.
    pub unchanged: usize,
    /// Accounts that are new, gone, or have different settings; by name.
    pub accounts: Vec<Arc<str>>,
    /// Fleets that are new, gone, or have different settings; by name.
    pub fleets: Vec<Arc<str>>,
    /// Keys outside of accounts, windows and fleets that differ and take effect at once. A consumer
    /// is listed as `consumer.NAME`, and a change of any group as `groups`.
    pub settings: Vec<String>,
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
    /// The keys that differ; `tenant` if the window's account moved to another tenant or person.
    pub keys: Vec<&'static str>,
}

/// Compares two configurations. Windows are ordered by name.
pub fn diff(old: &Config, new: &Config) -> ConfigDiff {
    let (accounts, fleets) = (accounts(old, new), fleets(old, new));
    let mut difference = ConfigDiff { accounts, fleets, ..ConfigDiff::default() };
    old.sections.changes(&new.sections, &mut difference);
    difference.settings.extend(consumers(old, new));
    difference.settings.extend(sinks(old, new));
    if groups::differ(&old.groups, &new.groups) {
        difference.settings.push("groups".to_owned());
    }
    // Only an address that is set is a difference of its own: otherwise the cloud decides it.
    let is_set = |config: &Config| config.explained.iter().any(|one| one.key == "graph.base_url");
    if !is_set(old) && !is_set(new) {
        difference.refused.retain(|key| *key != "graph.base_url");
    }
    let (known, removed) = pair(&old.windows, &new.windows);
    for (window, was) in new.windows.iter().zip(known) {
        let Some(was) = was else {
            difference.added.push(window.clone());
            continue;
        };
        let moved = old.realm(was) != new.realm(window);
        if (Arc::ptr_eq(was, window) || was == window) && !moved {
            difference.unchanged += 1;
            continue;
        }
        let (effect, keys) = compare(was, window, moved);
        let (old, new) = (was.clone(), window.clone());
        difference.changed.push(ChangedWindow { old, new, effect, keys });
    }
    difference.removed = removed.into_iter().cloned().collect();
    let has_moved = |window: &&Arc<Window>| new.elsewhere.contains_key(&window.name);
    difference.moved = difference.removed.iter().filter(has_moved).count();
    difference.gone_elsewhere = gone_elsewhere(old, new);
    // Only a few windows differ, so sorting them is cheaper than sorting all.
    difference.added.sort_by(|a, b| a.name.cmp(&b.name));
    difference.changed.sort_by(|a, b| a.new.name.cmp(&b.new.name));
    difference.removed.sort_by(|a, b| a.name.cmp(&b.name));
    difference
}

impl ConfigDiff {
    /// Whether there is nothing to apply; `refused` does not count.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty()
            && self.removed.is_empty()
            && self.changed.is_empty()
            && self.accounts.is_empty()
            && self.fleets.is_empty()
            && self.settings.is_empty()
    }

    /// How many windows drop their events, of all shards: the removed and the replaced ones. Those that
    /// only belong to another person of the account `signed_in` do not count.
    pub fn drops_besides(&self, signed_in: Option<&str>) -> usize {
        let meant = |changed: &&ChangedWindow| {
            changed.keys == ["tenant"] && signed_in == Some(&*changed.new.account)
        };
        let replaced = self
            .changed
            .iter()
            .filter(|changed| changed.effect == ReloadEffect::Replaced && !meant(changed));
        self.removed.len() - self.moved + self.gone_elsewhere + replaced.count()
    }
}

/// How many windows of other shards are in no shard any more.
fn gone_elsewhere(old: &Config, new: &Config) -> usize {
    if old.elsewhere.is_empty() {
        return 0;
    }
    let own: HashSet<&str> = new.windows.iter().map(|window| &*window.name).collect();
    let is_known = |name: &str| new.elsewhere.contains_key(name) || own.contains(name);
    old.elsewhere.keys().filter(|name| !is_known(name)).count()
}

/// For every new window the old one of its name, and the old windows without a new one. Most lists
/// differ in few lines, and a window that follows its predecessor is found without hashing a name.
pub(super) fn pair<'a>(
    old: &'a [Arc<Window>],
    new: &[Arc<Window>],
) -> (Vec<Option<&'a Arc<Window>>>, Vec<&'a Arc<Window>>) {
    let mut known = vec![None; new.len()];
    let (mut elsewhere, mut ahead) = (Vec::new(), old);
    let mut before: HashMap<&str, &Arc<Window>> = HashMap::new();
    for (window, known) in new.iter().zip(&mut known) {
        match ahead {
            [was, rest @ ..] if was.name == window.name => (*known, ahead) = (Some(was), rest),
            [left, was, rest @ ..] if was.name == window.name => {
                before.insert(&left.name, left);
                (*known, ahead) = (Some(was), rest);
            }
            _ => elsewhere.push((window, known)),
        }
    }
    before.extend(ahead.iter().map(|window| (&*window.name, window)));
    for (window, known) in elsewhere {
        *known = before.remove(&*window.name);
    }
    (known, before.into_values().collect())
}

/// The keys in which two windows of one name differ, and their strongest effect.
fn compare(old: &Window, new: &Window, moved: bool) -> (ReloadEffect, Vec<&'static str>) {
    // Without `..`: a new field has to be compared.
    let Window { name: _, account, mailbox, calendar, settings } = old;
    let stream = [
        ("account", *account != new.account),
        ("tenant", moved && *account == new.account),
        ("mailbox", *mailbox != new.mailbox),
        ("calendar", *calendar != new.calendar),
    ];
    let differing = stream.into_iter().filter(|(_, differs)| *differs);
    let mut changed: Vec<(&str, ReloadEffect)> =
        differing.map(|(key, _)| (key, ReloadEffect::Replaced)).collect();
    changed.extend(changed_keys(settings, &new.settings));
    changed.sort_by_key(|(_, effect)| Reverse(*effect));
    let effect = changed.first().map_or(ReloadEffect::Retimed, |(_, effect)| *effect);
    (effect, changed.into_iter().map(|(key, _)| key).collect())
}

fn accounts(old: &Config, new: &Config) -> Vec<Arc<str>> {
    let names: BTreeSet<&Arc<str>> = old.accounts.keys().chain(new.accounts.keys()).collect();
    let differs = |name: &&Arc<str>| old.accounts.get(*name) != new.accounts.get(*name);
    names.into_iter().filter(differs).cloned().collect()
}

/// The consumers that are new, gone, or have different settings.
fn consumers(old: &Config, new: &Config) -> BTreeSet<String> {
    let (old, new) = (&old.consumers, &new.consumers);
    let gone = old.iter().filter(|one| !new.contains(one));
    let added = new.iter().filter(|one| !old.contains(one));
    gone.chain(added).map(|one| format!("consumer.{}", one.name)).collect()
}

/// The sinks that are new, gone, or have different settings.
fn sinks(old: &Config, new: &Config) -> BTreeSet<String> {
    let (old, new) = (&old.sinks, &new.sinks);
    let gone = old.iter().filter(|one| !new.contains(one));
    let added = new.iter().filter(|one| !old.contains(one));
    gone.chain(added).map(|one| format!("sink.{}", one.name)).collect()
}

fn fleets(old: &Config, new: &Config) -> Vec<Arc<str>> {
    let by_name = |config: &Config| -> BTreeMap<Arc<str>, Arc<FleetSpec>> {
        config.fleets.iter().map(|fleet| (fleet.name.clone(), fleet.clone())).collect()
    };
    let (old, new) = (by_name(old), by_name(new));
    let names: BTreeSet<&Arc<str>> = old.keys().chain(new.keys()).collect();
    names.into_iter().filter(|name| old.get(*name) != new.get(*name)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::window;

    #[test]
    fn every_window_is_found_wherever_its_line_is() {
        let list = |names: &str| -> Vec<Arc<Window>> {
            names.chars().map(|name| Arc::new(window(&name.to_string()))).collect()
        };
        for (old, new, removed) in [
            ("abcd", "abcd", ""),
            ("abcd", "bcde", "a"),
            ("abcd", "axbcd", ""),
            ("abcd", "xbcd", "a"),
            ("abcdef", "aef", "bcd"),
            ("abcd", "dcba", ""),
            ("abcd", "bxa", "cd"),
            ("", "ab", ""),
            ("ab", "", "ab"),
        ] {
            let (old, new) = (list(old), list(new));
            let (known, gone) = pair(&old, &new);
            for (window, known) in new.iter().zip(known) {
                let expected = old.iter().find(|known| known.name == window.name);
                assert_eq!(known, expected, "{new:?}");
            }
            let gone: BTreeSet<&str> = gone.iter().map(|window| &*window.name).collect();
            assert_eq!(gone, removed.split("").filter(|name| !name.is_empty()).collect());
        }
    }
}
