//! Puts the windows of fleets into a configuration.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::Listings;
use crate::api::WindowOrigins;
use crate::config::Config;

/// What became of the windows of all fleets.
#[derive(Debug, Default)]
pub(in crate::daemon) struct PlacedWindows {
    /// Those in force.
    pub(super) origins: Arc<WindowOrigins>,
    /// Those left out because other windows have their names; by fleet.
    pub(super) refused: BTreeMap<Arc<str>, Vec<RefusedWindow>>,
}

/// A window of a fleet whose name another window has. It got its name when that was free.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct RefusedWindow {
    /// The member's address.
    pub(super) member: Arc<str>,
    /// The name of the window.
    pub(super) name: Arc<str>,
}

/// A configuration with the windows of its fleets, as far as this shard has them.
pub(in crate::daemon) fn extended(base: &Config, listings: &Listings) -> (Config, PlacedWindows) {
    let mut config = base.clone();
    let (mut origins, mut all) = (WindowOrigins::new(), PlacedWindows::default());
    for spec in &base.fleets {
        let Some(listing) = listings.get(&spec.name) else { continue };
        let refused = config.extend(listing.windows(spec));
        let refused: HashSet<Arc<str>> = refused.into_iter().map(|window| window.name).collect();
        for member in listing.members.values() {
            for window in &member.windows {
                let name = window.name.clone();
                if refused.contains(&name) {
                    let member = member.mailbox.address.clone();
                    let of_fleet = all.refused.entry(spec.name.clone()).or_default();
                    of_fleet.push(RefusedWindow { member, name });
                } else {
                    origins.insert(name, (spec.name.clone(), member.mailbox.place.clone()));
                }
            }
        }
    }
    config.divide();
    all.origins = Arc::new(origins);
    (config, all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::tests::config;
    use crate::mirror::fleet::{
        FleetListing, FleetMember, FleetSpec, FleetWindow, ListedMailbox, Place,
    };
    use crate::mirror::window::CalendarRef;
    use crate::tests::fleet_spec;

    /// A listing with one member and its window.
    fn listing(name: &str, window: &str) -> Arc<FleetListing> {
        let mut member = FleetMember::new(ListedMailbox {
            id: name.into(),
            address: format!("{name}@contoso.com").into(),
            name: name.into(),
            place: Some(Arc::new(Place { capacity: Some(8), ..Place::default() })),
        });
        let calendar = CalendarRef::Default;
        member.windows.push(FleetWindow { name: window.into(), calendar });
        let members = [(name.into(), member)].into();
        Arc::new(FleetListing { members, ..FleetListing::default() })
    }

    /// A configuration with these windows and fleets.
    fn base(windows: &[(&str, &str)], fleets: &[&str]) -> Config {
        let directory = tempfile::tempdir().unwrap();
        let mut base = config(directory.path(), "store", windows);
        let fleet = |name: &&str| Arc::new(FleetSpec { name: (*name).into(), ..fleet_spec() });
        base.fleets = fleets.iter().map(fleet).collect();
        base
    }

    #[test]
    fn only_windows_in_force_have_a_fleet_and_the_others_are_refused() {
        let listings =
            [("a".into(), listing("ann", "ann")), ("b".into(), listing("bob", "taken"))].into();
        let (config, windows) = extended(&base(&[("taken", "1h")], &["a", "b"]), &listings);
        let names: Vec<&str> = config.windows.iter().map(|window| &*window.name).collect();
        assert_eq!(names, ["taken", "ann"]);
        assert_eq!(windows.origins.len(), 1);
        let (fleet, place) = &windows.origins["ann"];
        assert_eq!((&**fleet, place.as_ref().unwrap().capacity), ("a", Some(8)));
        let refused = RefusedWindow { member: "bob@contoso.com".into(), name: "taken".into() };
        assert_eq!(windows.refused, BTreeMap::from([("b".into(), vec![refused])]));
        // Of two fleets the first one has the name.
        let listings =
            [("a".into(), listing("ann", "same")), ("b".into(), listing("bob", "same"))].into();
        let (config, windows) = extended(&base(&[], &["a", "b"]), &listings);
        assert_eq!(&*config.windows[0].mailbox, "ann@contoso.com");
        assert_eq!(&*windows.origins["same"].0, "a");
        assert_eq!(windows.refused["b"].len(), 1);
    }
}
