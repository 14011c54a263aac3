//! Groups: which windows and fleets belong to them, and what a reload compares.

use super::{ACCOUNT, ConfigFixture};
use crate::config::{Config, ConfigDiff, diff};

/// A window, the windows of a file and a fleet, each with the rest of its entry.
fn text(window: &str, file: &str, fleet: &str) -> String {
    let account = "account = \"contoso\"";
    format!(
        "{ACCOUNT}[[window]]\nname = \"alice\"\n{account}\nmailbox = \"alice@contoso.com\"\n{window}\n\
         [[window]]\nname = \"room-{{mailbox}}\"\n{account}\nmailboxes_file = \"rooms\"\n{file}\n\
         [[fleet]]\nname = \"sales\"\n{account}\nrooms = true\n{fleet}\n"
    )
}

fn fixture(window: &str, file: &str, fleet: &str) -> ConfigFixture {
    let fixture = ConfigFixture::with(&text(window, file, fleet));
    fixture.write("rooms", "r1@contoso.com\nr2@contoso.com\n");
    fixture
}

/// Every group with its windows and its fleets.
fn groups(config: &Config) -> Vec<(&str, Vec<&str>, Vec<&str>)> {
    let groups = config.groups.iter().map(|(name, group)| {
        let windows = group.windows.iter().map(|window| &**window).collect();
        (&**name, windows, group.fleets.iter().map(|fleet| &**fleet).collect())
    });
    groups.collect()
}

#[test]
fn windows_and_fleets_name_their_groups_and_a_fleet_is_one() {
    let plain = fixture("", "", "").config();
    assert_eq!(groups(&plain), [("sales", vec![], vec!["sales"])]);
    let fixture = fixture(
        "groups = [\"berlin\", \"sales\"]",
        "groups = [\"berlin\"]",
        "groups = [\"berlin\", \"people\", \"people\"]",
    );
    let config = fixture.config();
    assert_eq!(fixture.shown(&config.warnings), [""; 0]);
    let rooms = ["room-r1@contoso.com", "room-r2@contoso.com"];
    assert_eq!(
        groups(&config),
        [
            ("berlin", vec!["alice", rooms[0], rooms[1]], vec!["sales"]),
            ("people", vec![], vec!["sales"]),
            ("sales", vec!["alice"], vec!["sales"]),
        ]
    );
    let explained = |key: &str| config.explained.iter().any(|one| one.key == key);
    assert!(explained("window[alice].groups") && explained("fleet[sales].groups"));
}

#[test]
fn a_group_has_a_plain_name() {
    let remedy = "use 1 to 200 letters, digits, `-` and `_`";
    assert_eq!(
        fixture("groups = [\"berlin\", \"a b\"]", "groups = \"berlin\"", "groups = [\"\"]").faults(),
        [
            format!("calmirror.toml:10: window[alice].groups: not a name for a group: \"a b\"; {remedy}"),
            "calmirror.toml:15: window[room-{mailbox}].groups: not a list of strings; write it like [\"one\", \"another\"]".to_owned(),
            format!("calmirror.toml:20: fleet[sales].groups: not a name for a group: \"\"; {remedy}"),
        ]
    );
}

#[test]
fn a_reload_says_that_groups_differ_and_touches_no_window() {
    let fixture = fixture("", "", "");
    let config = |window: &str, file: &str, fleet: &str| -> Config {
        fixture.write("calmirror.toml", &text(window, file, fleet));
        fixture.config()
    };
    let plain = config("", "", "");
    let changed =
        ConfigDiff { unchanged: 3, settings: vec!["groups".to_owned()], ..ConfigDiff::default() };
    let berlin = "groups = [\"berlin\"]";
    let one = config(berlin, "", "");
    for other in [
        &one,
        &config("", berlin, ""),
        &config("", "", berlin),
        &config("groups = [\"sales\"]", "", ""),
    ] {
        assert_eq!(diff(&plain, other), changed);
        assert_eq!(diff(other, &plain), changed);
    }
    assert_eq!(diff(&one, &config("groups = [\"bonn\"]", "", "")), changed);
    // A fleet that is new is a group that is new, and is listed as a fleet.
    let named = |groups: &str| config("", "", groups);
    for (groups, differ) in [("", false), ("groups = [\"sales\"]", false), (berlin, true)] {
        assert_eq!(diff(&plain, &named(groups)).is_empty(), !differ, "{groups}");
        let mut without = plain.clone();
        without.fleets.clear();
        without.groups.clear();
        let difference = diff(&without, &named(groups));
        assert_eq!(difference.fleets, ["sales".into()]);
        assert_eq!(difference.settings, changed.settings[usize::from(!differ)..]);
    }
}
