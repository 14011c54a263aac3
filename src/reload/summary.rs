//! What a reload changed, as the requester and the status see it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::config::{ConfigDiff, Diagnostic, ReloadEffect};
use crate::mirror::window::Window;

/// The most changed windows that a summary names.
const MAX_NAMED: usize = 1000;

/// What a reload changed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ReloadSummary {
    /// How long it took in milliseconds, including reading the files.
    pub took_ms: u64,
    /// Windows, counted by effect.
    pub windows: WindowChangeCounts,
    /// The changed windows by name, at most 1000; more are only counted.
    pub changes: Vec<WindowChange>,
    /// Accounts whose sign-in changed, or that are new or gone.
    pub accounts: Vec<Arc<str>>,
    /// Fleets that are new or gone, or whose settings changed.
    #[serde(default)]
    pub fleets: Vec<Arc<str>>,
    /// Accounts that could not sign in before and try again now, changed or not.
    #[serde(default)]
    pub retried: Vec<Arc<str>>,
    /// Other keys that changed.
    pub settings: Vec<String>,
    /// Settings that are valid but probably not intended.
    pub warnings: Vec<Diagnostic>,
}

/// Windows, counted by the effect of a reload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowChangeCounts {
    /// New.
    pub added: usize,
    /// Gone: their events are removed from the feed.
    pub removed: usize,
    /// New under an old name: the old events are removed first.
    pub replaced: usize,
    /// Enumerated again.
    pub resynced: usize,
    /// Only the times or the requests of their rounds changed.
    pub retimed: usize,
    /// Not changed.
    pub unchanged: usize,
}

/// The effect of a reload on one window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WindowChange {
    /// Its name.
    pub window: Arc<str>,
    /// The effect.
    pub change: WindowEffect,
    /// The keys that changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<String>,
}

/// An effect, as described at [`WindowChangeCounts`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "described at WindowChangeCounts")]
pub enum WindowEffect {
    Added,
    Removed,
    Replaced,
    Resynced,
    Retimed,
}

impl From<ReloadEffect> for WindowEffect {
    fn from(effect: ReloadEffect) -> Self {
        match effect {
            ReloadEffect::Retimed => Self::Retimed,
            ReloadEffect::Resynced => Self::Resynced,
            ReloadEffect::Replaced => Self::Replaced,
        }
    }
}

/// Without the time it took, the warnings and the accounts that try again.
impl From<ConfigDiff> for ReloadSummary {
    fn from(difference: ConfigDiff) -> Self {
        let ConfigDiff {
            added,
            removed,
            changed,
            unchanged,
            accounts,
            fleets,
            settings,
            refused: _,
            moved: _,
            gone_elsewhere: _,
        } = difference;
        let of = |effect| changed.iter().filter(|changed| changed.effect == effect).count();
        let windows = WindowChangeCounts {
            added: added.len(),
            removed: removed.len(),
            replaced: of(ReloadEffect::Replaced),
            resynced: of(ReloadEffect::Resynced),
            retimed: of(ReloadEffect::Retimed),
            unchanged,
        };
        let without_keys = |windows: Vec<Arc<Window>>, change| {
            windows.into_iter().map(move |window| WindowChange {
                window: window.name.clone(),
                change,
                keys: Vec::new(),
            })
        };
        let others = changed.into_iter().map(|changed| WindowChange {
            window: changed.new.name.clone(),
            change: changed.effect.into(),
            keys: changed.keys.into_iter().map(str::to_owned).collect(),
        });
        let changes = without_keys(added, WindowEffect::Added)
            .chain(without_keys(removed, WindowEffect::Removed))
            .chain(others)
            .take(MAX_NAMED)
            .collect();
        Self { windows, changes, accounts, fleets, settings, ..Self::default() }
    }
}

impl ReloadSummary {
    /// What changed, in one sentence.
    pub fn summary(&self) -> String {
        let WindowChangeCounts { added, removed, replaced, resynced, retimed, unchanged } =
            self.windows;
        let mut parts: Vec<String> = [
            (added, "added"),
            (removed, "removed"),
            (replaced, "replaced"),
            (resynced, "resynced"),
            (retimed, "retimed"),
            (unchanged, "unchanged"),
        ]
        .into_iter()
        .filter(|(count, word)| *count > 0 || *word == "unchanged")
        .map(|(count, word)| format!("{count} {word}"))
        .collect();
        if !self.settings.is_empty() {
            parts.push(format!("also {}", self.settings.join(", ")));
        }
        if !self.accounts.is_empty() {
            parts.push(format!("accounts {}", self.accounts.join(", ")));
        }
        if !self.fleets.is_empty() {
            parts.push(format!("fleets {}", self.fleets.join(", ")));
        }
        if !self.retried.is_empty() {
            parts.push(format!("signing in again: {}", self.retried.join(", ")));
        }
        format!("windows: {}", parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ChangedWindow;
    use crate::tests::window;

    fn difference(added: usize) -> ConfigDiff {
        let named = |name: &str| Arc::new(window(name));
        let changed = |name: &str, effect, key| ChangedWindow {
            old: named(name),
            new: named(name),
            effect,
            keys: vec![key],
        };
        ConfigDiff {
            added: (0..added).map(|n| named(&format!("new{n}"))).collect(),
            removed: vec![named("gone")],
            changed: vec![
                changed("timed", ReloadEffect::Retimed, "interval"),
                changed("shaped", ReloadEffect::Resynced, "body"),
            ],
            unchanged: 4,
            accounts: vec!["contoso".into()],
            fleets: vec!["rooms".into()],
            settings: vec!["log.level".to_owned()],
            refused: Vec::new(),
            moved: 0,
            gone_elsewhere: 0,
        }
    }

    #[test]
    fn a_summary_names_each_change_with_its_effect() {
        let summary = ReloadSummary::from(difference(1));
        let changes: Vec<_> =
            summary.changes.iter().map(|one| (&*one.window, one.change, &one.keys[..])).collect();
        assert_eq!(
            changes,
            [
                ("new0", WindowEffect::Added, &[][..]),
                ("gone", WindowEffect::Removed, &[]),
                ("timed", WindowEffect::Retimed, &["interval".to_owned()]),
                ("shaped", WindowEffect::Resynced, &["body".to_owned()]),
            ]
        );
        assert_eq!(
            summary.summary(),
            "windows: 1 added, 1 removed, 1 resynced, 1 retimed, 4 unchanged, also log.level, \
             accounts contoso, fleets rooms"
        );
        assert_eq!(ReloadSummary::default().summary(), "windows: 0 unchanged");
    }

    #[test]
    fn more_windows_than_a_thousand_are_only_counted() {
        let summary = ReloadSummary::from(difference(1200));
        assert_eq!((summary.windows.added, summary.windows.removed), (1200, 1));
        assert_eq!(summary.changes.len(), MAX_NAMED);
    }
}
