//! Fleets: their members' source, the names of their windows, and what a reload compares.

use std::sync::Arc;
use std::time::Duration;

use super::faults::check;
use super::{ACCOUNT, ConfigFixture};
use crate::config::sections::Section;
use crate::config::{ConfigDiff, diff};
use crate::mirror::fleet::{CalendarSelection, FleetSource};
use crate::mirror::window::{BodyFormat, Window};

/// A fleet of a valid account; its own lines begin at line 9.
fn fleet(rest: &str) -> String {
    format!("{ACCOUNT}[[fleet]]\nname = \"f\"\naccount = \"contoso\"\n{rest}\n")
}

/// The faults of a fleet.
#[track_caller]
fn check_fleet(rest: &str, expected: &[&str]) {
    check(&fleet(rest), expected);
}

const LIST: &str = "write one of rooms, room_list, members_of, users, calendars_of, mailboxes_file";

#[test]
fn each_form_has_its_source_and_its_defaults() {
    let group = "00000000-0000-0000-0000-000000000007";
    let (one, each) = ("{mailbox}", "{mailbox}:{calendar}");
    let (default, all) = (CalendarSelection::Default, CalendarSelection::All);
    for (line, source, calendars, window_name) in [
        ("rooms = true", FleetSource::Rooms, &default, one),
        ("room_list = \"l@b\"", FleetSource::RoomList("l@b".into()), &default, one),
        ("members_of = \"g@b\"", FleetSource::Members("g@b".into()), &default, one),
        (&format!("members_of = \"{group}\""), FleetSource::Members(group.into()), &default, one),
        ("users = \" mail ne null \"", FleetSource::Users("mail ne null".into()), &default, one),
        ("calendars_of = \"a@b\"", FleetSource::Mailbox("a@b".into()), &all, each),
    ] {
        let fixture = ConfigFixture::with(&fleet(line));
        let config = fixture.config();
        assert_eq!(fixture.shown(&config.warnings), [""; 0], "{line}");
        let [fleet] = &config.fleets[..] else { panic!("{line}") };
        assert_eq!((&*fleet.name, &*fleet.account), ("f", "contoso"));
        assert_eq!((&fleet.source, &fleet.calendars), (&source, calendars), "{line}");
        assert_eq!(&*fleet.window_name, window_name, "{line}");
        assert_eq!(fleet.relist_every, Duration::from_secs(3600));
        assert!(config.windows.is_empty());
    }
    let fixture = ConfigFixture::with(&fleet("mailboxes_file = \"team.txt\""));
    fixture.write("team.txt", "a@b # Alice\n");
    assert_eq!(fixture.warnings(), [""; 0]);
    let file = FleetSource::File(fixture.dir.path().join("team.txt"));
    assert_eq!(fixture.config().fleets[0].source, file);
}

#[test]
fn a_fleet_takes_the_defaults_and_overrides_them() {
    let text = fleet(
        "rooms = true\nbody = \"none\"\nrelist_every = \"1m\"\ncalendars = [\" Team \", \"B\"]\nwindow_name = \"{fleet}-{id}-{calendar}\"",
    );
    let config =
        ConfigFixture::with(&format!("[defaults]\ninterval = \"2m\"\nbody = \"text\"\n{text}"))
            .config();
    let fleet = &config.fleets[0];
    let interval = Duration::from_secs(120);
    assert_eq!((fleet.settings.interval, fleet.settings.body), (interval, BodyFormat::None));
    assert_eq!(fleet.relist_every, Duration::from_secs(60));
    let named = CalendarSelection::Named(["Team".to_owned(), "B".to_owned()].into());
    assert_eq!(fleet.calendars, named);
    assert_eq!(&*fleet.window_name, "{fleet}-{id}-{calendar}");
    let explained = |key: &str| config.explained.iter().any(|one| one.key == key);
    assert!(explained("fleet[f].relist_every") && !explained("fleet[f].interval"));
}

#[test]
fn a_fleet_has_a_name_an_account_and_one_source() {
    check_fleet("", &[&format!("calmirror.toml:6: fleet[f]: nothing to list; {LIST}")]);
    check_fleet(
        "rooms = true\nusers = \"mail ne null\"",
        &[
            "calmirror.toml:10: fleet[f].users: set together with rooms; keep exactly one of rooms, room_list, members_of, users, calendars_of, mailboxes_file",
        ],
    );
    check_fleet(
        "rooms = false",
        &["calmirror.toml:9: fleet[f].rooms: false; write true, or remove the line"],
    );
    check(
        &format!("{ACCOUNT}[[fleet]]\nrooms = true\n"),
        &[
            "calmirror.toml:6: fleet[1].name: missing; give the fleet a name of its own",
            "calmirror.toml:6: fleet[1].account: missing; write one of contoso",
        ],
    );
    // A mistyped key is one fault.
    check(
        &format!("{ACCOUNT}[[fleet]]\nname = \"f\"\nacount = \"contoso\"\nroms = true\n"),
        &[
            "calmirror.toml:8: fleet[f].acount: unknown key; did you mean `account`?",
            "calmirror.toml:9: fleet[f].roms: unknown key; did you mean `rooms`?",
        ],
    );
    for name in ["a b", "a/b", "é", &"x".repeat(201)] {
        let text = fleet("rooms = true").replace("\"f\"", &format!("{name:?}"));
        check(
            &text,
            &[&format!(
                "calmirror.toml:7: fleet[{name}].name: not a name for a fleet; use 1 to 200 letters, digits, `-` and `_`"
            )],
        );
    }
    check(
        &fleet("rooms = true").replace("\"contoso\"", "\"contosso\""),
        &[
            "calmirror.toml:8: fleet[f].account: unknown account \"contosso\"; did you mean `contoso`?",
        ],
    );
    // The error is reported for the account, not for the fleets that name it.
    check(
        &fleet("calendars_of = \"me\"").replace("\"contoso.com\"", "5"),
        &["calmirror.toml:2: account.contoso.tenant: not a string; put it in quotes"],
    );
}

#[test]
fn values_of_a_fleet_are_checked() {
    let known = "the placeholders are {mailbox}, {id}, {name}, {calendar}, {fleet}";
    let same = "all members would have windows of the same name; put";
    let calendar =
        "all calendars of a mailbox would have windows of the same name; put {calendar} into it";
    let kinds = "write \"default\", \"all\" or a list of names, like [\"Team\"]";
    for (key, value, more, fault) in [
        ("relist_every", "\"999ms\"", "", "too short; write at least 1s"),
        ("window_name", "\"room\"", "", &format!("{same} {{mailbox}}, {{id}} or {{name}} into it")),
        (
            "window_name",
            "\"{fleet}{calendar}\"",
            "",
            &format!("{same} {{mailbox}}, {{id}} or {{name}} into it"),
        ),
        ("window_name", "\"{mailbx}\"", "", &format!("unknown placeholder {{mailbx}}; {known}")),
        ("window_name", "\"{}{id}\"", "", &format!("unknown placeholder {{}}; {known}")),
        ("window_name", "\"{id}{name\"", "", &format!("a placeholder without its }}; {known}")),
        ("window_name", "\"{id}\"", "calendars = \"all\"\n", calendar),
        ("window_name", "\"{id}\"", "calendars = [\"A\", \"B\"]\n", calendar),
        (
            "window_name",
            "\"a/{id}\"",
            "",
            "the window's name has a \"/\" or a control character; write up to 200 characters, without \"/\" and control characters",
        ),
        ("calendars", "\"Team\"", "", &format!("not a selection of calendars; {kinds}")),
        ("calendars", "7", "", &format!("not a selection of calendars; {kinds}")),
        ("calendars", "[]", "", &format!("a list with an empty name, or without names; {kinds}")),
        (
            "calendars",
            "[\"A\", \" \"]",
            "",
            &format!("a list with an empty name, or without names; {kinds}"),
        ),
        (
            "start",
            "\"2027-12-01\"",
            "end = \"2027-01-01\"\n",
            "the window does not end (2027-01-01T00:00:00Z) after it starts (2027-12-01T00:00:00Z); move one of start and end, or remove the window",
        ),
    ] {
        let line = if key == "start" { 10 } else { 9 + more.lines().count() };
        let at = if key == "start" { "end" } else { key };
        let more = if key == "start" {
            format!("{key} = {value}\n{more}rooms = true")
        } else {
            format!("{more}{key} = {value}\nrooms = true")
        };
        check_fleet(&more, &[&format!("calmirror.toml:{line}: fleet[f].{at}: {fault}")]);
    }
    for (source, fault) in [
        ("room_list = \"a b\"", "not a room list; write one id or address, and nothing else"),
        ("members_of = \"a/b\"", "not a group; write one id or address, and nothing else"),
        ("members_of = true", "not a string; put it in quotes"),
        (
            "users = \"$filter=mail ne null\"",
            "not an OData filter; write only the condition, such as \"accountEnabled eq true\"",
        ),
        ("calendars_of = \"a,b\"", "not a mailbox; write one user id or address, and nothing else"),
    ] {
        let key = source.split(' ').next().unwrap();
        check_fleet(source, &[&format!("calmirror.toml:9: fleet[f].{key}: {fault}")]);
    }
}

#[test]
fn names_must_tell_the_members_of_the_source_apart() {
    let accepted = |source: &str, template: &str| {
        let fixture =
            ConfigFixture::with(&fleet(&format!("{source}\nwindow_name = \"{template}\"")));
        fixture.write("team.txt", "a@b\n");
        fixture.load().is_ok()
    };
    for (source, template, works) in [
        ("rooms = true", "{name}", true),
        ("rooms = true", "room-{id}", true),
        // A file has no display names.
        ("mailboxes_file = \"team.txt\"", "{name}", false),
        ("mailboxes_file = \"team.txt\"", "{id}", true),
        // One mailbox needs no name in it.
        ("calendars_of = \"a@b\"", "alice-{calendar}", true),
        ("calendars_of = \"a@b\"", "{mailbox}", false),
        ("calendars_of = \"a@b\"\ncalendars = \"default\"", "alice", true),
        ("rooms = true\ncalendars = [\"Team\"]", "{mailbox}", true),
    ] {
        assert_eq!(accepted(source, template), works, "{source} {template}");
    }
}

#[test]
fn me_requires_an_account_that_may_be_a_user() {
    check_fleet(
        "calendars_of = \"me\"",
        &[
            "calmirror.toml:9: fleet[f].calendars_of: an application without a user has no \"me\"; write a user id or address, or use an account that signs in as a user",
        ],
    );
    let text = "[account.a]\naccess_token_file = \"contoso.secret\"\n[[fleet]]\nname = \"mine\"\naccount = \"a\"\n";
    let fixture = ConfigFixture::with(&format!("{text}calendars_of = \"me\"\n"));
    assert_eq!(fixture.config().fleets[0].source, FleetSource::Mailbox("me".into()));
    assert_eq!(fixture.warnings(), [""; 0]);
    // Delegated permissions exist for the other forms too.
    for source in ["rooms = true", "members_of = \"g@b\"", "users = \"mail ne null\""] {
        assert_eq!(ConfigFixture::with(&format!("{text}{source}\n")).faults(), [""; 0]);
    }
}

#[test]
fn unlikely_values_of_a_fleet_are_warned_about() {
    for (rest, key, warning) in [
        (
            "members_of = \"Sales\"",
            "members_of",
            "\"Sales\" is neither an address nor the id of a group; write the group's object id (a GUID) or address, not its name",
        ),
        (
            "room_list = \"Berlin\"",
            "room_list",
            "\"Berlin\" is not an address; write the address of the room list",
        ),
        (
            "calendars_of = \"alice\"",
            "calendars_of",
            "\"alice\" is neither an address nor a user id; write the user's address (alice@contoso.com) or object id (a GUID)",
        ),
        (
            "calendars = [\"Team\", \"default\"]\nrooms = true",
            "calendars",
            "\"default\" in a list is the name of a calendar; write calendars = \"default\"",
        ),
        (
            "end = \"+12y\"\nrooms = true",
            "end",
            "the window needs 3 segments of 1825 days; each is read by itself, those far from today less often: would \"+5y\" do?",
        ),
        (
            "mailboxes_file = \"none.txt\"",
            "mailboxes_file",
            "none.txt cannot be read: No such file or directory (os error 2); make it a file that the daemon's user may read",
        ),
    ] {
        let expected = [format!("calmirror.toml:9: fleet[f].{key}: {warning}")];
        assert_eq!(ConfigFixture::with(&fleet(rest)).warnings(), expected);
    }
}

#[test]
fn wrong_lines_of_a_fleets_file_do_not_prevent_a_start() {
    let fixture = ConfigFixture::with(&fleet("mailboxes_file = \"team.txt\""));
    fixture.secret("team.txt", "\u{feff}# Team\na@b\nx,y\nme\nalice # \n", 0o602);
    let key = "fleet[f].mailboxes_file";
    assert_eq!(
        fixture.warnings(),
        [
            format!(
                "calmirror.toml:9: {key}: team.txt: every user of this machine can change it (mode 0602); chmod o-w team.txt"
            ),
            format!(
                "team.txt:3: {key}: not a mailbox; write one user id or address, and nothing else"
            ),
            format!(
                "team.txt:4: {key}: an application without a user has no \"me\"; write a user id or address, or use an account that signs in as a user"
            ),
            format!(
                "team.txt:5: {key}: \"alice\" is neither an address nor a user id; write the user's address (alice@contoso.com) or object id (a GUID)"
            ),
        ]
    );
    fixture.secret("team.txt", &"a b\n".repeat(5000), 0o600);
    assert_eq!(fixture.warnings().len(), 100);
    fixture.secret("team.txt", "# nobody yet\n", 0o600);
    let empty = "team.txt names no mailbox; write an address or id on each line";
    assert_eq!(fixture.warnings(), [format!("calmirror.toml:9: {key}: {empty}")]);
}

#[test]
fn fleets_of_all_files_are_appended_and_have_names_of_their_own() {
    let entry =
        |name: &str| format!("[[fleet]]\nname = \"{name}\"\naccount = \"contoso\"\nrooms = true\n");
    let fixture = ConfigFixture::with(&format!("{ACCOUNT}{}", entry("z")));
    fixture.write("conf.d/20.toml", &entry("b"));
    fixture.write("conf.d/10.toml", &entry("c"));
    let names: Vec<_> = fixture.config().fleets.iter().map(|one| one.name.to_string()).collect();
    assert_eq!(names, ["z", "c", "b"]);
    fixture.write("conf.d/20.toml", &entry("z"));
    assert_eq!(
        fixture.faults(),
        [
            "conf.d/20.toml:2: fleet[z].name: a second fleet named \"z\"; the first is at calmirror.toml:7; give each fleet a name of its own"
        ]
    );
    check(
        "fleet = 3\n",
        &["calmirror.toml:1: fleet: not a list of fleets; open each with a line [[fleet]]"],
    );
    check(
        "fleet = [1]\n",
        &["calmirror.toml:1: fleet: not a fleet; open each with a line [[fleet]]"],
    );
    let set = ConfigFixture::with("").set("CALMIRROR__FLEET__0__NAME", "x");
    assert_eq!(
        set.faults(),
        [
            "CALMIRROR__FLEET__0__NAME: fleets cannot be set in the environment; write them into a file"
        ]
    );
}

#[test]
fn an_account_of_a_fleet_is_used() {
    let idle = "[account.idle]\naccess_token_file = \"contoso.secret\"\n";
    assert_eq!(
        ConfigFixture::with(&(fleet("rooms = true") + idle)).warnings(),
        [
            "calmirror.toml:10: account.idle: no window uses it; remove it, or name it in a window or a fleet"
        ]
    );
}

#[test]
fn a_reload_names_the_fleets_that_differ() {
    let fixture = ConfigFixture::new();
    let load = |text: &str| {
        fixture.write("calmirror.toml", text);
        fixture.config()
    };
    let config = |rest: &str| load(&fleet(rest));
    let plain = config("rooms = true");
    assert_eq!(diff(&plain, &config("rooms = true")), ConfigDiff::default());
    assert!(diff(&plain, &plain).is_empty());
    let cases = [
        "room_list = \"l@b\"",
        "members_of = \"g@b\"",
        "users = \"mail ne null\"",
        "calendars_of = \"a@b\"",
        "mailboxes_file = \"team.txt\"",
        "rooms = true\ncalendars = \"all\"",
        "rooms = true\nwindow_name = \"{id}\"",
        "rooms = true\nrelist_every = \"2h\"",
        "rooms = true\ninterval = \"9m\"",
        "rooms = true\nbody = \"none\"",
    ];
    for key in Section::Fleet.own_keys() {
        let begins = format!("{} = ", key.name);
        let there = cases.iter().any(|case| case.lines().any(|line| line.starts_with(&begins)));
        assert!(
            there || ["name", "account", "groups"].contains(&key.name),
            "{} is missing",
            key.name
        );
    }
    let fleets = vec!["f".into()];
    let changed = ConfigDiff { fleets, ..ConfigDiff::default() };
    let mut others: Vec<_> = cases.into_iter().map(config).collect();
    // It inherits what [defaults] says.
    let text = "[defaults]\npage_size = 7\n".to_owned() + &fleet("rooms = true");
    others.push(load(&text));
    for other in &others {
        assert_eq!(diff(&plain, other), changed);
        assert!(!diff(other, &plain).is_empty());
    }
    // The name, and the order.
    let second = fleet("rooms = true").replace("\"f\"", "\"g\"").replace(ACCOUNT, "");
    let (first, account) = (fleet("rooms = true").replace(ACCOUNT, ""), ACCOUNT);
    let both = load(&format!("{account}{first}{second}"));
    let turned = load(&format!("{account}{second}{first}"));
    assert!(diff(&both, &turned).is_empty());
    assert_eq!(diff(&plain, &both).fleets, ["g".into()]);
    assert_eq!(diff(&both, &plain).fleets, ["g".into()]);
}

#[test]
fn windows_of_fleets_are_compared_like_windows_of_the_configuration() {
    let window = "[[window]]\nname = \"alice\"\naccount = \"contoso\"\nmailbox = \"a@b\"\n";
    let fixture = ConfigFixture::with(&(fleet("rooms = true") + window));
    let config = fixture.config();
    let member = |name: &str| Window { name: name.into(), ..(*config.windows[0]).clone() };
    let members = |names: &[&str]| {
        let mut extended = fixture.config();
        let refused = extended.extend(names.iter().map(|name| member(name)));
        let refused: Vec<_> = refused.iter().map(|window| window.name.to_string()).collect();
        (extended, refused)
    };
    let (old, refused) = members(&["r1", "alice", "r2", "r1"]);
    assert_eq!(refused, ["alice", "r1"]);
    assert_eq!(old.windows.len(), 3);
    assert!(old.window_names().contains("r2") && !old.window_names().contains("r3"));
    assert_eq!(&*old.identity(&old.windows[2]).tenant, "contoso.com");
    assert_eq!(members(&[]).0.windows, config.windows);
    let (mut new, _) = members(&["r2", "r3"]);
    new.share_windows(&old);
    assert!(Arc::ptr_eq(&new.windows[1], &old.windows[2]));
    let difference = diff(&old, &new);
    let names = |windows: &[Arc<Window>]| -> Vec<String> {
        windows.iter().map(|window| window.name.to_string()).collect()
    };
    assert_eq!(names(&difference.added), ["r3"]);
    assert_eq!(names(&difference.removed), ["r1"]);
    assert_eq!((difference.unchanged, difference.drops_besides(None)), (2, 1));
    assert_eq!(difference.fleets, []);
}
