//! Groups: names under which readers find several windows and fleets at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::diagnostic::Issue;
use super::entry::plain_name;
use super::reader::TableReader;

/// The members of a group. Windows that belong to no group cost nothing here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WindowGroup {
    /// The windows of the `[[window]]` entries that name the group, by name.
    pub windows: BTreeSet<Arc<str>>,
    /// The fleets that name the group, with the windows that each has at the time. A fleet belongs
    /// to the group of its own name.
    pub fleets: BTreeSet<Arc<str>>,
}

/// Groups by name.
pub(super) type WindowGroups = BTreeMap<Arc<str>, WindowGroup>;

/// The names of the groups of an entry.
pub(super) fn names(reader: &mut TableReader<'_>) -> Vec<Arc<str>> {
    let name = |name: &str| match plain_name(name, "a group") {
        Ok(()) => Ok(name.into()),
        Err(Issue { problem, remedy }) => Err(Issue::new(format!("{problem}: {name:?}"), remedy)),
    };
    let names = reader.read("groups", |written| written.texts()?.into_iter().map(name).collect());
    names.unwrap_or_default()
}

/// Whether two configurations put different entries into groups. That a fleet is a group by itself is
/// no difference: the fleet is one already.
pub(super) fn differ(old: &WindowGroups, new: &WindowGroups) -> bool {
    fn written(
        groups: &WindowGroups,
    ) -> impl Iterator<Item = (&str, &BTreeSet<Arc<str>>, Vec<&str>)> {
        let named = groups.iter().map(|(name, group)| {
            let fleets = group.fleets.iter().filter(|fleet| *fleet != name);
            (&**name, &group.windows, fleets.map(|fleet| &**fleet).collect::<Vec<_>>())
        });
        named.filter(|(_, windows, fleets)| !windows.is_empty() || !fleets.is_empty())
    }
    !written(old).eq(written(new))
}
