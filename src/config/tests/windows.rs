//! Windows: inherited settings, names, many windows from one entry, and warnings.

use std::sync::Arc;
use std::time::Duration;

use super::{ACCOUNT, ConfigFixture};
use crate::mirror::window::{BodyFormat, CalendarRef, Completion, Edge};

const WINDOW: &str = "[[window]]\nmailbox = \"a@b\"\naccount = \"contoso\"\n";

#[test]
fn a_window_takes_the_defaults_and_overrides_them() {
    let text = format!(
        "{ACCOUNT}[defaults]\ninterval = \"2m\"\nbody = \"none\"\n{WINDOW}{WINDOW}name = \"b\"\nstart = 2026-01-01\nend = \"+2y\"\ninterval = \"1h 30m\"\njitter = 0\nmove_every = \"1d\"\npage_size = 50\nbody = \"text\"\ntime_zone = \"W. Europe Standard Time\"\nimmutable_ids = true\ncomplete = \"exact\"\naudit = \"off\"\nconfirm_after = \"1s\"\ncalendar = \"AAMk=\"\n"
    );
    let config = ConfigFixture::with(&text).config();
    let [first, second] = config.windows.as_slice() else { panic!("two windows") };
    assert_eq!((&*first.name, &*first.mailbox, &*first.account), ("a@b", "a@b", "contoso"));
    assert_eq!(first.calendar, CalendarRef::Default);
    assert_eq!(second.calendar, CalendarRef::Id("AAMk=".into()));
    let (first, second) = (&first.settings, &second.settings);
    assert_eq!(first.start, Edge::Relative { years: 0, months: 0, days: -30 });
    assert_eq!(first.end, Edge::Relative { years: 0, months: 0, days: 365 });
    assert_eq!((first.interval, first.jitter), (Duration::from_secs(120), 0.2));
    assert_eq!((first.page_size, first.body, &*first.time_zone), (200, BodyFormat::None, "UTC"));
    assert_eq!((first.immutable_ids, first.complete), (false, Completion::Master));
    assert_eq!(first.audit, Some(Duration::from_secs(7 * 24 * 3600)));
    assert_eq!(first.move_every, Duration::from_secs(7 * 24 * 3600));
    assert_eq!(first.confirm_after, Duration::from_secs(600));

    assert_eq!(second.start, Edge::At("2026-01-01T00:00:00Z".parse().unwrap()));
    assert_eq!(second.end, Edge::Relative { years: 2, months: 0, days: 0 });
    assert_eq!((second.interval, second.jitter), (Duration::from_secs(5400), 0.0));
    assert_eq!((second.page_size, second.body), (50, BodyFormat::Text));
    assert_eq!(&*second.time_zone, "W. Europe Standard Time");
    assert_eq!((second.immutable_ids, second.complete), (true, Completion::Exact));
    assert_eq!((second.audit, second.confirm_after), (None, Duration::from_secs(1)));
    assert_eq!(second.move_every, Duration::from_secs(24 * 3600));
}

#[test]
fn iana_zones_are_accepted() {
    for zone in ["UTC", "Europe/Berlin", "America/Argentina/Buenos_Aires", "Tokyo Standard Time"] {
        let text = format!("[defaults]\ntime_zone = \"{zone}\"\n");
        assert_eq!(ConfigFixture::with(&text).faults(), [""; 0], "{zone}");
    }
}

#[test]
fn a_window_without_a_name_is_named_after_its_mailbox() {
    let config =
        ConfigFixture::with(&format!("{ACCOUNT}{WINDOW}calendar = \"X\"\n{WINDOW}")).config();
    let names: Vec<&str> = config.windows.iter().map(|window| &*window.name).collect();
    assert_eq!(names, ["a@b:X", "a@b"]);
}

#[test]
fn me_requires_a_delegated_token() {
    let text = "[account.a]\naccess_token_file = \"contoso.secret\"\n[[window]]\naccount = \"a\"\nmailbox = \"me\"\n";
    let config = ConfigFixture::with(text).config();
    assert_eq!(&*config.windows[0].mailbox, "me");
    assert_eq!(&*config.accounts["a"].tenant, "");
}

const ROOMS: &str = "[[window]]\nmailboxes_file = \"rooms.txt\"\naccount = \"contoso\"\n";

#[test]
fn a_mailboxes_file_has_one_window_per_line() {
    let fixture = ConfigFixture::with(&format!(
        "{ACCOUNT}{ROOMS}name = \"room-{{mailbox}}\"\ninterval = \"9m\"\n"
    ));
    fixture.write(
        "rooms.txt",
        "\u{feff}# Rooms\r\n\r\n  a@b  \r\nc@d # the corner room\ng_x.com#EXT#@t.onmicrosoft.com\n\te@f\t# tab\n",
    );
    let config = fixture.config();
    let names: Vec<&str> = config.windows.iter().map(|window| &*window.name).collect();
    assert_eq!(names, ["room-a@b", "room-c@d", "room-g_x.com#EXT#@t.onmicrosoft.com", "room-e@f"]);
    assert_eq!(&*config.windows[3].mailbox, "e@f");
    assert!(
        config.windows.iter().all(|window| window.settings.interval == Duration::from_secs(540))
    );
    assert!(Arc::ptr_eq(&config.windows[0].account, &config.windows[1].account));
    assert!(Arc::ptr_eq(
        &config.windows[0].settings.time_zone,
        &config.windows[1].settings.time_zone
    ));
}

#[test]
fn faults_of_a_mailboxes_file_name_its_lines() {
    let fixture = ConfigFixture::with(&format!("{ACCOUNT}{ROOMS}{WINDOW}"));
    fixture.write("rooms.txt", "a@b\n\nx,y\na@b\n# ok\n");
    assert_eq!(
        fixture.faults().iter().map(|fault| fixture.plain(fault)).collect::<Vec<_>>(),
        [
            "calmirror.toml:10: window[a@b].mailbox: a second window named \"a@b\"; the first is at rooms.txt:1; give each window a name of its own",
            "rooms.txt:3: window[rooms.txt].mailbox: not a mailbox; write one user id or address, and nothing else",
            "rooms.txt:4: window[rooms.txt].mailbox: a second window named \"a@b\"; the first is at rooms.txt:1; give each window a name of its own",
        ]
    );
    fixture.write("rooms.txt", &"a b\n".repeat(5000));
    let faults = fixture.faults();
    assert_eq!(faults.len(), 101);
    assert_eq!(
        faults[100],
        "rooms.txt:100: window[rooms.txt].mailbox: too many faults; the rest of the file was not read"
    );
}

#[test]
fn a_mailboxes_file_must_exist_and_its_names_must_differ() {
    let fixture = ConfigFixture::with(&format!(
        "{ACCOUNT}{ROOMS}name = \"room\"\n{ROOMS}{ROOMS}mailbox = \"a@b\"\n"
    ));
    assert_eq!(
        fixture.faults(),
        [
            "calmirror.toml:9: window[room].name: all windows would have the same name; put {mailbox} into it",
            "calmirror.toml:11: window[rooms.txt].mailboxes_file: rooms.txt cannot be read: No such file or directory (os error 2); make it a file that the daemon's user may read",
            "calmirror.toml:16: window[a@b].mailbox: set together with mailboxes_file; keep one of the two",
        ]
    );
    let fixture = ConfigFixture::with(&format!("{ACCOUNT}{ROOMS}"));
    fixture.write("rooms.txt", "# no mailboxes yet\n");
    assert_eq!(
        fixture.shown(&fixture.config().warnings)[0],
        "calmirror.toml:7: window[rooms.txt].mailboxes_file: rooms.txt names no mailbox; write an address or id on each line"
    );
}

#[test]
fn unlikely_values_are_warned_about() {
    let fixture = ConfigFixture::with(&format!(
        "{ACCOUNT}[account.idle]\naccess_token_file = \"contoso.secret\"\n{WINDOW}{}end = \"+12y\"\n",
        WINDOW.replace("[[window]]", "[[window]]\nname = \"twice\"")
    ));
    assert_eq!(
        fixture.shown(&fixture.config().warnings),
        [
            "calmirror.toml:15: window[twice].end: the window needs 3 segments of 1825 days; each is read by itself, those far from today less often: would \"+5y\" do?",
            "calmirror.toml:6: account.idle: no window uses it; remove it, or name it in a window or a fleet",
        ]
    );
    let fixture = ConfigFixture::with(&format!(
        "{ACCOUNT}{WINDOW}{}",
        WINDOW.replace("a@b", "A@B").replace("[[window]]", "[[window]]\nname = \"twice\"")
    ));
    assert_eq!(
        fixture.shown(&fixture.config().warnings),
        [
            "calmirror.toml:10: window[twice].name: the windows \"a@b\" and \"twice\" track the same calendar and time; keep one of them, unless they are meant to differ in other settings"
        ]
    );
    let fixture = ConfigFixture::with(&format!(
        "[graph]\nmax_concurrent = 2\n[defaults]\ninterval = \"1s\"\n{ACCOUNT}{ROOMS}"
    ));
    fixture.write("rooms.txt", "a@b\nb@b\n");
    assert_eq!(fixture.shown(&fixture.config().warnings), [""; 0]);
    fixture.write("rooms.txt", "a@b\nb@b\nc@b\n");
    assert_eq!(
        fixture.shown(&fixture.config().warnings),
        [
            "calmirror.toml:2: graph.max_concurrent: 3 windows at their intervals keep about 3 requests in flight, but only 2 are allowed; raise graph.max_concurrent or the intervals"
        ]
    );
    let fixture =
        ConfigFixture::with(&format!("{ACCOUNT}{WINDOW}end = \"2026-11-22T12:00:00Z\"\n"));
    assert_eq!(
        fixture.shown(&fixture.config().warnings),
        [
            "calmirror.toml:9: window[a@b].end: the start moves and the end does not: in 30 days the window is empty; make both relative or neither, or remove the window in time"
        ]
    );
    // A window that became empty as time passed must not stop the others.
    let fixture = ConfigFixture::with(&format!("{ACCOUNT}{WINDOW}end = \"2026-10-01\"\n"));
    assert_eq!(
        fixture.shown(&fixture.config().warnings),
        [
            "calmirror.toml:9: window[a@b].end: the start has moved past the end (2026-10-01T00:00:00Z): the window is empty; move the end, or remove the window"
        ]
    );
    assert_eq!(fixture.config().windows.len(), 1);
    let fixture = ConfigFixture::with(&format!("{ACCOUNT}{WINDOW}end = \"2026-11-24\"\n"));
    assert_eq!(fixture.shown(&fixture.config().warnings), [""; 0]);
    let fixture = ConfigFixture::with("[api]\nsocket = \"off\"\n");
    assert_eq!(
        fixture.shown(&fixture.config().warnings)[0],
        "calmirror.toml:2: api.socket: the daemon would listen nowhere; set api.listen or a socket; otherwise no client can connect"
    );
}

#[test]
fn a_hundred_thousand_mailboxes_are_read() {
    let fixture = ConfigFixture::with(&format!("{ACCOUNT}{ROOMS}"));
    let rooms: String = (0..100_000).map(|room| format!("room{room}@contoso.com\n")).collect();
    fixture.write("rooms.txt", &rooms);
    let config = fixture.config();
    assert_eq!(config.windows.len(), 100_000);
    let last = &config.windows[99_999];
    assert!(Arc::ptr_eq(&last.name, &last.mailbox));
    // Explained once, not a hundred thousand times.
    assert!(config.explained.len() < 100);
}

const GROUP: &str = "group:11111111-2222-3333-4444-555555555555";

fn group_window(mailbox: &str) -> String {
    format!("[[window]]\naccount = \"p\"\nmailbox = \"{mailbox}\"\n")
}

#[test]
fn a_group_calendar_is_read_for_a_person() {
    let person = "[store]\npath = \"store\"\n[account.p]\ntenant = \"t.com\"\nclient_id = \"11111111-1111-1111-1111-111111111111\"\ndevice_code = true\n";
    let with = |windows: &str| ConfigFixture::with(&format!("{ACCOUNT}{person}{windows}"));
    let config = with(&format!("{}calendar = \"default\"\n", group_window(GROUP))).config();
    let [window] = config.windows.as_slice() else { panic!("one window") };
    assert_eq!((&*window.name, &*window.mailbox, window.has_delta()), (GROUP, GROUP, false));
    assert!(config.accounts["p"].reads_groups && !config.accounts["contoso"].reads_groups);
    assert!(!config.warnings.iter().any(|warning| warning.problem.contains("user id")));
    let me = with(&group_window("me")).config();
    assert!(me.windows[0].has_delta() && !me.accounts["p"].reads_groups);

    let fixture = with(
        &[
            format!("{}calendar = \"AAMk=\"\n", group_window(GROUP)),
            group_window("group:board@contoso.com"),
            group_window("group:"),
            group_window(GROUP).replace("\"p\"", "\"contoso\""),
        ]
        .concat(),
    );
    let faults = fixture.faults();
    let said = [
        "a group has only its default calendar, but calendar names another one; remove calendar, or write the mailbox that has that calendar",
        "not the id of a group; write group: and the group's object id (a GUID), not its name or address",
        "not the id of a group; write group: and the group's object id (a GUID), not its name or address",
        "Graph shows group calendars to members of the group only, not to applications; use an account with device_code = true, and sign in as a member of the group",
    ];
    assert_eq!(faults.len(), said.len(), "{faults:?}");
    for (fault, said) in faults.iter().zip(said) {
        assert!(fault.contains(".mailbox: ") && fault.ends_with(said), "{fault}");
    }
}

#[test]
fn groups_may_be_lines_of_a_mailboxes_file() {
    let fixture = ConfigFixture::with(&format!("{ACCOUNT}{ROOMS}"));
    fixture.write("rooms.txt", &format!("a@b\n{GROUP}\n"));
    let faults = fixture.faults();
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(faults[0].starts_with("rooms.txt:2: ") && faults[0].contains("not to applications"));
}
