//! What a reload has to do: the difference between two configurations.
//!
//! Windows are told apart by name. Accounts are not compared beyond what changes a window: their
//! secrets are read again whenever they are needed.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Config;
use crate::mirror::window::Window;

/// What changes from one configuration to the next.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Difference {
    /// Windows that are new.
    pub added: Vec<Arc<Window>>,
    /// Windows that are gone.
    pub removed: Vec<Arc<Window>>,
    /// Windows that are set otherwise, old and new. One whose account moved to another tenant is
    /// among them, equal as the two may look.
    pub changed: Vec<(Arc<Window>, Arc<Window>)>,
    /// Windows that need not notice.
    pub unchanged: usize,
    /// Keys that differ and cannot change while the daemon runs.
    pub refused: Vec<String>,
}

/// Compares two configurations, in the order of the windows' names.
pub fn diff(old: &Config, new: &Config) -> Difference {
    let mut difference = Difference { refused: refused(old, new), ..Difference::default() };
    let by_name = |config: &Config| -> BTreeMap<Arc<str>, Arc<Window>> {
        config.windows.iter().map(|window| (window.name.clone(), window.clone())).collect()
    };
    let mut before = by_name(old);
    for (name, window) in by_name(new) {
        match before.remove(&name) {
            None => difference.added.push(window),
            Some(was) if was == window && old.identity(&was) == new.identity(&window) => {
                difference.unchanged += 1;
            }
            Some(was) => difference.changed.push((was, window)),
        }
    }
    difference.removed = before.into_values().collect();
    difference
}

/// What is opened, bound or handed out once. Other addresses of Graph would make every stored link
/// one to a foreign origin.
fn refused(old: &Config, new: &Config) -> Vec<String> {
    [
        ("store.path", old.store != new.store),
        ("graph.base_url", old.graph.base_url != new.graph.base_url),
        ("graph.login_url", old.graph.login_url != new.graph.login_url),
        ("api.socket", old.api.socket != new.api.socket),
        ("api.socket_group", old.api.socket_group != new.api.socket_group),
        ("api.listen", old.api.listen != new.api.listen),
        ("log.format", old.log.format != new.log.format),
    ]
    .into_iter()
    .filter(|(_, differs)| *differs)
    .map(|(key, _)| key.to_owned())
    .collect()
}
