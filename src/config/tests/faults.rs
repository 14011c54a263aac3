//! Errors have file, line, key and remedy, and are all reported at once.

use proptest::prelude::*;

use super::{ACCOUNT, ConfigFixture};
use crate::config::sections::SECTIONS;

/// Loads the text and compares every error.
#[track_caller]
pub(super) fn check(text: &str, expected: &[&str]) {
    assert_eq!(ConfigFixture::with(text).faults(), expected, "of\n{text}");
}

/// The same, after a valid account; the text begins at line 6.
#[track_caller]
fn check_window(text: &str, expected: &[&str]) {
    check(&format!("{ACCOUNT}{text}"), expected);
}

#[test]
fn unknown_keys_and_sections_suggest_the_nearest_name() {
    check(
        "[store]\npaht = 1\n",
        &["calmirror.toml:2: store.paht: unknown key; did you mean `path`?"],
    );
    check(
        "[graph]\nmax_concurent = 1\nzzz = 2\n",
        &[
            "calmirror.toml:2: graph.max_concurent: unknown key; did you mean `max_concurrent`?",
            "calmirror.toml:3: graph.zzz: unknown key; the keys here are cloud, base_url, login_url, max_concurrent, max_concurrent_per_mailbox, request_timeout, ca_file",
        ],
    );
    check(
        "[grpah]\n[windows]\n",
        &[
            "calmirror.toml:1: grpah: unknown section; did you mean `graph`?",
            "calmirror.toml:2: windows: unknown section; did you mean `window`?",
        ],
    );
    check(
        "interval = \"5m\"\n[graph]\nretention = \"3d\"\n",
        &[
            "calmirror.toml:1: interval: unknown section; it belongs under [defaults]",
            "calmirror.toml:3: graph.retention: unknown key; it belongs under [feed]",
        ],
    );
}

#[test]
fn structural_errors_are_explained() {
    check(
        "store = 1\naccount = 2\nwindow = 3\n",
        &[
            "calmirror.toml:1: store: not a section; open it with a line [store]",
            "calmirror.toml:2: account: not a list of accounts; open each with a line [account.NAME]",
            "calmirror.toml:3: window: not a list of windows; open each with a line [[window]]",
        ],
    );
    check(
        "[window]\nname = \"a\"\n",
        &["calmirror.toml:1: window: not a list of windows; open each with a line [[window]]"],
    );
    check(
        "window = [1]\n[account]\nx = 1\n[store.path]\n",
        &[
            "calmirror.toml:1: window: not a window; open each with a line [[window]]",
            "calmirror.toml:3: account.x: not an account; open each with a line [account.NAME]",
            "calmirror.toml:4: store.path: a list or a table, not a single value; write one value",
        ],
    );
    check(
        "[account.\"a/b\"]\ntenant = \"t\"\n",
        &[
            "calmirror.toml:1: account.a/b: not a name for an account; use 1 to 200 letters, digits, `-` and `_`",
        ],
    );
}

#[test]
fn every_line_that_is_not_toml_is_reported() {
    let faults = ConfigFixture::with(
        "[store]\npath = /var/lib\n[graph]\ncloud = \"china\"\ncloud = \"global\"\n",
    )
    .faults();
    assert!(faults[0].starts_with("calmirror.toml:2: not TOML: "), "{faults:?}");
    assert!(faults[1].starts_with("calmirror.toml:5: not TOML: duplicate key"), "{faults:?}");
    assert_eq!(faults.len(), 2, "{faults:?}");
}

#[test]
fn values_are_checked_for_type_and_bounds() {
    for (setting, fault) in [
        ("store.path = 5", "not a string; put it in quotes"),
        ("store.path = \" \"", "empty; write a value, or remove the line"),
        ("graph.max_concurrent = 0", "0 is out of bounds; write 1 to 100000, without quotes"),
        ("graph.max_concurrent = \"9\"", "not a whole number; write 1 to 100000, without quotes"),
        (
            "graph.max_concurrent = 99999999999999999999",
            "the number is too large; write a smaller one",
        ),
        (
            "graph.max_concurrent_per_mailbox = 5",
            "5 is out of bounds; write 1 to 4, without quotes",
        ),
        ("graph.request_timeout = \"2h\"", "too long; write at most 1h"),
        (
            "graph.request_timeout = 100",
            "a duration without a unit; write it with its unit, in quotes, such as \"100s\"",
        ),
        ("graph.cloud = \"chnia\"", "unknown value \"chnia\"; did you mean `china`?"),
        (
            "graph.base_url = \"http://example.com/v1.0\"",
            "plain http to another machine; use https; http is only for loopback, such as http://127.0.0.1:8081",
        ),
        (
            "graph.login_url = \"https://me:pass@example.com\"",
            "an address with a user or a password in it; write scheme, host, port and path only",
        ),
        (
            "api.mask_private = \"yes\"",
            "neither true nor false; write true or false, without quotes",
        ),
        (
            "api.listen = \"8380\"",
            "not an address and port; write it like \"127.0.0.1:8380\" or \"[::1]:8380\"",
        ),
        (
            "api.listen = \"127.0.0.1:8380\"",
            "a TCP address without a token; name a file with a token in token_file, in read_token_file or in a [consumer.NAME]: over TCP every request needs one",
        ),
        (
            "api.hosts = \"mirror.example.org\"",
            "not a list of strings; write it like [\"one\", \"another\"]",
        ),
        (
            "api.hosts = [\"mirror.example.org:8380\"]",
            "not a host name: \"mirror.example.org:8380\"; write it as clients do, without scheme and port: \"mirror.example.org\"",
        ),
        (
            "api.hosts = [\"mirror.example.org\", \"\"]",
            "not a host name: \"\"; write it as clients do, without scheme and port: \"mirror.example.org\"",
        ),
        (
            "api.listen = [\"127.0.0.1:1\"]",
            "a list or a table, not a single value; write one value",
        ),
        ("feed.retention = \"30m\"", "too short; write at least 1h"),
        (
            "feed.retention = \"30 dogs\"",
            "not a duration: \"30 dogs\"; write it like \"90s\", \"5m\", \"1h 30m\" or \"7d\"",
        ),
        ("feed.retention = \"9000000000000s\"", "too long; stay within ten years"),
        ("log.level = \"inof\"", "unknown level \"inof\"; did you mean `info`?"),
        (
            "log.level = \"a=b=c\"",
            "neither a level nor directives: \"a=b=c\"; write a level, or directives such as \"info,calmirror::graph=debug\"",
        ),
        ("log.format = \"xml\"", "unknown value \"xml\"; write one of auto, text, json, journald"),
        ("defaults.interval = \"999ms\"", "too short; write at least 1s"),
        ("defaults.jitter = 1.1", "not a fraction; write 0.0 to 1.0, without quotes"),
        ("defaults.jitter = nan", "not a fraction; write 0.0 to 1.0, without quotes"),
        (
            "defaults.start = \"yesterday\"",
            "not a time: \"yesterday\"; write 2026-01-31, 2026-01-31T08:00:00Z (with Z or an offset), now, -120d or +2y",
        ),
        (
            "defaults.end = \"+5m\"",
            "not a distance: \"5m\"; write a number and d, w, mo or y (days, weeks, months, years), such as -120d or +1y6mo",
        ),
        ("defaults.move_every = \"5m\"", "too short; write at least 1h"),
        ("defaults.page_size = 1001", "1001 is out of bounds; write 1 to 1000, without quotes"),
        ("defaults.body = \"htm\"", "unknown value \"htm\"; did you mean `html`?"),
        (
            "defaults.time_zone = \"Europe/Atlantis\"",
            "unknown time zone \"Europe/Atlantis\"; write an IANA name such as \"Europe/Berlin\", or a Windows one such as \"W. Europe Standard Time\"",
        ),
        ("defaults.complete = \"all\"", "unknown value \"all\"; write one of master, exact"),
        (
            "defaults.audit = \"never\"",
            "not a duration: \"never\"; write it like \"90s\", \"5m\", \"1h 30m\" or \"7d\"",
        ),
        ("defaults.confirm_after = \"0s\"", "too short; write at least 1s"),
    ] {
        let (key, value) = setting.split_once(" = ").unwrap();
        let (section, name) = key.split_once('.').unwrap();
        check(
            &format!("[{section}]\n{name} = {value}"),
            &[&format!("calmirror.toml:2: {key}: {fault}")],
        );
    }
}

#[test]
fn a_socket_path_must_fit_the_system() {
    let socket = |bytes: usize| format!("[api]\nsocket = \"/{}\"\n", "s".repeat(bytes - 1));
    check(&socket(103), &[]);
    check(
        &socket(104),
        &[
            "calmirror.toml:2: api.socket: a socket's path has at most 103 bytes; choose a shorter one",
        ],
    );
}

#[test]
fn the_read_token_and_the_write_token_must_differ() {
    check(
        "[api]\ntoken_file = \"contoso.secret\"\nread_token_file = \"contoso.secret\"\n",
        &[
            "calmirror.toml:3: api.read_token_file: the same file as token_file; name another file: read-only clients must not hold the token for full access",
        ],
    );
}

#[test]
fn probes_have_an_address_of_their_own() {
    for (listen, probes) in [
        ("127.0.0.1:8380", "127.0.0.1:8380"),
        ("127.0.0.1:8380", "0.0.0.0:8380"),
        ("[::]:8380", "127.0.0.1:8380"),
    ] {
        check(
            &format!(
                "[api]\nlisten = \"{listen}\"\nprobe_listen = \"{probes}\"\ntoken_file = \"contoso.secret\"\n"
            ),
            &[
                "calmirror.toml:3: api.probe_listen: the same address as listen; write another port: there every request needs a token",
            ],
        );
    }
}

#[test]
fn windows_name_an_account_and_a_mailbox() {
    check(
        "[[window]]\nmailbox = \"a@b\"\naccount = \"x\"\n",
        &[
            "calmirror.toml:3: window[a@b].account: unknown account \"x\"; write an [account.NAME] first",
        ],
    );
    check_window(
        "[[window]]\n[[window]]\nmailbox = \"a@b\"\naccount = \"contosso\"\n[[window]]\nmailbxo = \"a@b\"\naccount = \"contoso\"\n",
        &[
            "calmirror.toml:6: window[1].mailbox: missing; write the user's id or address, or name a mailboxes_file",
            "calmirror.toml:6: window[1].account: missing; write one of contoso",
            "calmirror.toml:9: window[a@b].account: unknown account \"contosso\"; did you mean `contoso`?",
            "calmirror.toml:11: window[3].mailbxo: unknown key; did you mean `mailbox`?",
        ],
    );
    check_window(
        "[[window]]\naccount = \"contoso\"\n[[window]]\naccount = \"contoso\"\nmailbox = \"me\"\n[[window]]\naccount = \"contoso\"\nmailbox = \"a b\"\n",
        &[
            "calmirror.toml:6: window[1].mailbox: missing; write the user's id or address, or name a mailboxes_file",
            "calmirror.toml:10: window[me].mailbox: an application without a user has no \"me\"; write a user id or address, or use an account that signs in as a user",
            "calmirror.toml:13: window[a b].mailbox: not a mailbox; write one user id or address, and nothing else",
        ],
    );
    // The error is reported for the account, not for the windows that name it.
    check(
        "[account.a]\ntenant = \"t\"\nclient_id = 5\naccess_token_file = \"contoso.secret\"\n[[window]]\nmailbox = \"a@b\"\naccount = \"a\"\n",
        &["calmirror.toml:3: account.a.client_id: not a string; put it in quotes"],
    );
}

#[test]
fn window_names_are_unique_and_valid_in_urls() {
    let named = |name: &str| {
        format!("[[window]]\nname = \"{name}\"\nmailbox = \"a@b\"\naccount = \"contoso\"\n")
    };
    check_window(
        &(named("x") + &named("x")),
        &[
            "calmirror.toml:11: window[x].name: a second window named \"x\"; the first is at calmirror.toml:7; give each window a name of its own",
        ],
    );
    let remedy = "write 1 to 200 characters, without \"/\" and control characters";
    for (name, problem) in [
        ("a/b", "the window's name has a \"/\" or a control character"),
        ("a\\u0007", "the window's name has a \"/\" or a control character"),
        ("..", "the window's name is empty, \".\" or \"..\", or has spaces at its ends"),
        (" a", "the window's name is empty, \".\" or \"..\", or has spaces at its ends"),
        (&"é".repeat(201), "the window's name is longer than 200"),
    ] {
        let faults = ConfigFixture::with(&format!("{ACCOUNT}{}", named(name))).faults();
        assert!(faults[0].starts_with("calmirror.toml:7: window["), "{faults:?}");
        assert!(faults[0].ends_with(&format!("].name: {problem}; {remedy}")), "{faults:?}");
        assert_eq!(faults.len(), 1);
    }
    assert_eq!(
        ConfigFixture::with(&format!("{ACCOUNT}{}", named(&"é".repeat(200))))
            .config()
            .windows
            .len(),
        1
    );
    // A default name is checked too.
    let text = format!(
        "[[window]]\nmailbox = \"a@b\"\ncalendar = \"{}\"\naccount = \"contoso\"\n",
        "c".repeat(200)
    );
    check_window(
        &text,
        &[&format!(
            "calmirror.toml:7: window[a@b].mailbox: the window's name is longer than 200; {remedy}"
        )],
    );
}

#[test]
fn a_window_ends_after_it_starts() {
    let window = "[[window]]\nmailbox = \"a@b\"\naccount = \"contoso\"\n";
    check_window(
        &format!("{window}start = \"2026-01-02\"\nend = \"2026-01-02\"\n"),
        &[
            "calmirror.toml:10: window[a@b].end: the window does not end (2026-01-02T00:00:00Z) after it starts (2026-01-02T00:00:00Z); move one of start and end, or remove the window",
        ],
    );
    check_window(
        &format!("{window}start = \"2027-01-01\"\nend = \"+10d\"\n"),
        &[
            "calmirror.toml:10: window[a@b].end: the window does not end (2026-12-02T00:00:00Z) after it starts (2027-01-01T00:00:00Z) as of today; move one of start and end, or remove the window",
        ],
    );
    assert_eq!(
        ConfigFixture::with(&format!("{ACCOUNT}{window}end = \"2026-10-24\"\n"))
            .config()
            .windows
            .len(),
        1
    );
    // An invalid edge does not also cause an error about its position.
    check_window(
        &format!("{window}start = \"2025-1-1\"\nend = \"2026-01-01\"\n"),
        &[
            "calmirror.toml:9: window[a@b].start: not a time: \"2025-1-1\"; write 2026-01-31, 2026-01-31T08:00:00Z (with Z or an offset), now, -120d or +2y",
        ],
    );
    check_window(
        &format!("[defaults]\nstart = \"2025-1-1\"\n{window}end = \"2026-01-01\"\n"),
        &[
            "calmirror.toml:7: defaults.start: not a time: \"2025-1-1\"; write 2026-01-31, 2026-01-31T08:00:00Z (with Z or an offset), now, -120d or +2y",
        ],
    );
    check_window(
        &format!("{window}start = \"1700-01-01\"\nend = \"2100-01-01\"\n"),
        &[
            "calmirror.toml:10: window[a@b].end: the window is 146097 days long; stay below 116800 days",
        ],
    );
}

#[test]
fn every_fault_of_every_file_is_reported_at_once_and_in_order() {
    let fixture = ConfigFixture::with("[log]\nformat = \"x\"\nlevel = \"y\"\n[stroe]\n")
        .set("CALMIRROR__FEED__RETENTION", "x");
    fixture.write("conf.d/a.toml", "\n[graph]\nmax_concurrent = -1\n");
    let faults = fixture.faults();
    let places: Vec<&str> = faults.iter().filter_map(|fault| fault.split(": ").next()).collect();
    assert_eq!(
        places,
        [
            "CALMIRROR__FEED__RETENTION",
            "calmirror.toml:2",
            "calmirror.toml:3",
            "calmirror.toml:4",
            "conf.d/a.toml:3"
        ]
    );
}

#[test]
fn a_file_that_cannot_be_read_is_one_fault() {
    assert_eq!(
        ConfigFixture::new().faults(),
        [
            "calmirror.toml: cannot be read: No such file or directory (os error 2); write one, or name another with --config or $CALMIRROR_CONFIG"
        ]
    );
    let fixture = ConfigFixture::new();
    std::fs::write(fixture.dir.path().join("calmirror.toml"), b"[store]\npath = \"\xff\"\n")
        .unwrap();
    assert_eq!(fixture.faults(), ["calmirror.toml: not UTF-8 text; save the file as UTF-8"]);
    let fixture = ConfigFixture::with("");
    std::fs::create_dir_all(fixture.dir.path().join("conf.d/a.toml")).unwrap();
    assert_eq!(
        fixture.faults(),
        [
            "conf.d/a.toml: cannot be read: Is a directory (os error 21); make it a file that the daemon's user may read"
        ]
    );
}

/// Any key of any section, with any string or number as its value.
fn any_setting() -> impl Strategy<Value = String> {
    let keys: Vec<String> = SECTIONS
        .iter()
        .flat_map(|section| {
            let header = section.header().replace("NAME", "x");
            section.keys().map(move |key| format!("{header}\n{} = ", key.name))
        })
        .collect();
    let value = prop_oneof![
        any::<String>().prop_map(|text| toml::Value::String(text).to_string()),
        "[-+]?[0-9]{1,20} ?(d|w|mo|y|s|h|ms|[a-z])?".prop_map(|text| format!("{text:?}")),
        "(https?|x)://[a-z0-9.:@\\[\\]/?#]{0,20}".prop_map(|text| format!("{text:?}")),
        any::<i64>().prop_map(|number| number.to_string()),
        any::<f64>().prop_map(|number| toml::Value::Float(number).to_string()),
    ];
    (proptest::sample::select(keys), value).prop_map(|(key, value)| format!("{key}{value}\n"))
}

proptest! {
    /// Any text gives a configuration, or errors with a location and a remedy.
    #[test]
    fn no_input_stops_the_reader(setting in any_setting()) {
        if let Err(faults) = ConfigFixture::with(&setting).load() {
            prop_assert!(!faults.0.is_empty());
            for fault in faults.0 {
                prop_assert!(fault.file.is_some() && fault.line.is_some());
                prop_assert!(!fault.problem.is_empty() && !fault.remedy.is_empty());
            }
        }
    }
}
