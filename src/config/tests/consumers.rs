//! Consumers: how each is recognised, what it may read, and what a reload compares.

use super::faults::check;
use super::{ACCOUNT, ConfigFixture};
use crate::config::sections::Section;
use crate::config::{AccessLevel, Config, ConfigDiff, ConsumerConfig, ConsumerKey, diff};
use crate::mirror::name_pattern::NamePattern;

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// Two windows without warnings of their own.
const WINDOWS: &str = "[[window]]\naccount = \"contoso\"\nname = \"room-1\"\nmailbox = \"r1@contoso.com\"\n[[window]]\naccount = \"contoso\"\nname = \"room-2\"\nmailbox = \"r2@contoso.com\"\n";

/// A configuration with this text after a valid account and two windows; it begins at line 14. The
/// files `a.token`, `b.token` and `c.token` have tokens.
fn fixture(text: &str) -> ConfigFixture {
    let fixture = ConfigFixture::with(&format!("{ACCOUNT}{WINDOWS}{text}"));
    for (name, digit) in [("a.token", "0"), ("b.token", "1"), ("c.token", "2")] {
        fixture.secret(name, &TOKEN.replace('0', digit), 0o600);
    }
    fixture
}

/// The faults of one consumer; its own lines begin at line 15.
#[track_caller]
fn check_consumer(text: &str, expected: &[&str]) {
    assert_eq!(fixture(&format!("[consumer.lobby]\n{text}\n")).faults(), expected, "of\n{text}");
}

fn patterns(texts: &[&str]) -> Option<Vec<NamePattern>> {
    Some(texts.iter().map(|text| NamePattern::new(text)).collect())
}

#[test]
fn a_consumer_has_a_key_and_may_read_everything_unless_it_is_limited() {
    let fixture = fixture(
        "[consumer.wall]\nuid = 1001\n[consumer.lobby]\ntoken_file = \"a.token\"\nwindows = [\"room-2\", \"room-*\", \"room-2\"]\nlevel = \"busy\"\nwrite = true\norigins = [\"https://board.contoso.com\", \"http://[::1]:8080\"]\n",
    );
    let config = fixture.config();
    assert_eq!(fixture.shown(&config.warnings), [""; 0]);
    let lobby = ConsumerConfig {
        name: "lobby".into(),
        key: ConsumerKey::TokenFile(fixture.dir.path().join("a.token")),
        windows: patterns(&["room-*", "room-2"]),
        level: AccessLevel::Busy,
        write: true,
        origins: ["https://board.contoso.com", "http://[::1]:8080"].map(str::to_owned).into(),
    };
    let wall = ConsumerConfig {
        name: "wall".into(),
        key: ConsumerKey::Uid(1001),
        windows: None,
        level: AccessLevel::All,
        write: false,
        origins: Vec::new(),
    };
    assert_eq!(config.consumers, [lobby, wall]);
    assert!(AccessLevel::Busy < AccessLevel::Times && AccessLevel::Times < AccessLevel::All);
    let explained = |key: &str| {
        let one = config.explained.iter().find(|one| one.key == key).unwrap();
        format!("{} ({})", one.value, fixture.plain(&one.origin))
    };
    assert_eq!(explained("consumer.lobby.level"), "busy (calmirror.toml:19)");
    assert_eq!(explained("consumer.wall.level"), "all (default)");
    assert_eq!(explained("consumer.wall.uid"), "1001 (calmirror.toml:15)");
}

#[test]
fn consumers_are_merged_from_files_and_the_environment() {
    let fixture = fixture("[consumer.lobby]\ntoken_file = \"a.token\"\nlevel = \"busy\"\n")
        .set("CALMIRROR__CONSUMER__LOBBY__LEVEL", "times")
        .set("CALMIRROR__CONSUMER__LOBBY__WINDOWS", "room-1, room-2")
        .set("CALMIRROR__CONSUMER__WALL__UID", "7");
    fixture.write("conf.d/a.toml", "[consumer.lobby]\nwrite = true\n");
    let config = fixture.config();
    let [lobby, wall] = &config.consumers[..] else { panic!("{:?}", config.consumers) };
    assert_eq!((lobby.level, lobby.write), (AccessLevel::Times, true));
    assert_eq!(lobby.windows, patterns(&["room-1", "room-2"]));
    assert_eq!(wall.key, ConsumerKey::Uid(7));
    let fixture = fixture
        .set("CALMIRROR__CONSUMER__LOBBY", "x")
        .set("CALMIRROR__CONSUMER__A.B__UID", "7")
        .set("CALMIRROR__CONSUMER__WALL__UIDS", "7");
    assert_eq!(
        fixture.faults(),
        [
            "CALMIRROR__CONSUMER__A.B__UID: not a name for a consumer; use 1 to 200 letters, digits, `-` and `_`",
            "CALMIRROR__CONSUMER__LOBBY: not a key; write CALMIRROR__CONSUMER__NAME__KEY",
            "CALMIRROR__CONSUMER__WALL__UIDS: unknown key; did you mean `uid`?",
        ]
    );
}

#[test]
fn a_consumer_is_a_table_with_a_plain_name() {
    check(
        "consumer = 1\n",
        &[
            "calmirror.toml:1: consumer: not a list of consumers; open each with a line [consumer.NAME]",
        ],
    );
    check(
        "[consumer]\nuid = 1\n",
        &["calmirror.toml:2: consumer.uid: not a consumer; open each with a line [consumer.NAME]"],
    );
    check(
        "[consumer.\"a b\"]\nuid = 1\n",
        &[
            "calmirror.toml:1: consumer.a b: not a name for a consumer; use 1 to 200 letters, digits, `-` and `_`",
        ],
    );
}

#[test]
fn a_consumer_has_exactly_one_key() {
    check_consumer(
        "",
        &[
            "calmirror.toml:14: consumer.lobby: no token and no uid; write exactly one of token_file, uid",
        ],
    );
    check_consumer(
        "token_file = \"a.token\"\nuid = 1",
        &[
            "calmirror.toml:16: consumer.lobby.uid: set together with token_file; keep exactly one of token_file, uid",
        ],
    );
    // A mistyped key is one fault.
    check_consumer(
        "tokn_file = \"a.token\"",
        &["calmirror.toml:15: consumer.lobby.tokn_file: unknown key; did you mean `token_file`?"],
    );
    check_consumer(
        "token = \"0123456789abcdef\"",
        &[
            "calmirror.toml:15: consumer.lobby.token: secrets do not belong in the configuration; put it into a file of mode 0600 and name that with token_file",
        ],
    );
    for (uid, fault) in [
        ("-1", "-1 is out of bounds; write 0 to 4294967294, without quotes"),
        ("4294967295", "4294967295 is out of bounds; write 0 to 4294967294, without quotes"),
        ("\"root\"", "not a whole number; write 0 to 4294967294, without quotes"),
    ] {
        let fault = format!("calmirror.toml:15: consumer.lobby.uid: {fault}");
        check_consumer(&format!("uid = {uid}"), &[&fault]);
    }
    check_consumer(
        "token_file = \"x.token\"",
        &[
            "calmirror.toml:15: consumer.lobby.token_file: x.token cannot be read: No such file or directory (os error 2); write the secret into that file, with mode 0600",
        ],
    );
    let fixture = fixture("[consumer.lobby]\ntoken_file = \"a.token\"\n");
    fixture.secret("a.token", TOKEN, 0o640);
    assert_eq!(
        fixture.faults(),
        [
            "calmirror.toml:15: consumer.lobby.token_file: a.token can be read by others (mode 0640); chmod 0600 a.token"
        ]
    );
    fixture.secret("a.token", "hunter2", 0o600);
    assert_eq!(
        fixture.warnings(),
        [
            "calmirror.toml:15: consumer.lobby.token_file: the token is 7 bytes long and can be guessed; write a random one: openssl rand -hex 32 > a.token"
        ]
    );
}

#[test]
fn two_consumers_with_one_key_are_a_fault_at_the_second() {
    let two = fixture(
        "[consumer.a]\ntoken_file = \"a.token\"\n[consumer.b]\ntoken_file = \"b.token\"\n[consumer.c]\nuid = 7\n[consumer.d]\nuid = 7\n[consumer.e]\ntoken_file = \"a.token\"\n",
    );
    two.secret("b.token", &format!(" {TOKEN}\r\n"), 0o600);
    let remedy = "name a file with a token of its own: openssl rand -hex 32 makes one";
    assert_eq!(
        two.faults(),
        [
            format!(
                "calmirror.toml:17: consumer.b.token_file: the same token as in consumer.a.token_file; {remedy}"
            ),
            "calmirror.toml:21: consumer.d.uid: the same user as in consumer.c.uid; write each user into one consumer only".to_owned(),
            format!(
                "calmirror.toml:23: consumer.e.token_file: the same token as in consumer.a.token_file; {remedy}"
            ),
        ]
    );
    let api = fixture(
        "[consumer.a]\ntoken_file = \"a.token\"\n[consumer.b]\ntoken_file = \"b.token\"\n[api]\ntoken_file = \"c.token\"\nread_token_file = \"b.token\"\n",
    );
    api.secret("c.token", TOKEN, 0o600);
    assert_eq!(
        api.faults(),
        [
            format!(
                "calmirror.toml:15: consumer.a.token_file: the same token as in api.token_file; {remedy}"
            ),
            format!(
                "calmirror.toml:17: consumer.b.token_file: the same token as in api.read_token_file; {remedy}"
            ),
        ]
    );
}

#[test]
fn a_consumer_has_windows_and_a_level() {
    let key = "token_file = \"a.token\"";
    let names = "write the names of windows, or patterns such as \"room-*\"";
    for (line, fault) in [
        ("windows = []", "no windows; write names or patterns, or remove the line for all windows"),
        (
            "windows = [\"room-1\", \"\"]",
            &format!(
                "the window's name is empty, \".\" or \"..\", or has spaces at its ends; {names}"
            ),
        ),
        (
            "windows = [\"a/*\"]",
            &format!("the window's name has a \"/\" or a control character; {names}"),
        ),
        ("windows = \"room-1\"", "not a list of strings; write it like [\"one\", \"another\"]"),
        ("level = \"time\"", "unknown value \"time\"; did you mean `times`?"),
        ("level = \"none\"", "unknown value \"none\"; write one of busy, times, all"),
        ("write = \"yes\"", "neither true nor false; write true or false, without quotes"),
    ] {
        let name = line.split(' ').next().unwrap();
        let fault = format!("calmirror.toml:16: consumer.lobby.{name}: {fault}");
        check_consumer(&format!("{key}\n{line}"), &[&fault]);
    }
    for (list, windows) in
        [("[\"*\"]", None), ("[\"room-1\", \"**\"]", None), ("[\"room-1\"]", patterns(&["room-1"]))]
    {
        let config = fixture(&format!("[consumer.lobby]\n{key}\nwindows = {list}\n")).config();
        assert_eq!(config.consumers[0].windows, windows, "{list}");
    }
}

#[test]
fn names_that_no_window_has_are_warned_about() {
    let text =
        "[consumer.lobby]\nuid = 7\nwindows = [\"room-1\", \"room-3\", \"room-*\", \"desk-*\"]\n";
    let place = "calmirror.toml:16: consumer.lobby.windows:";
    let remedy = "write the names of windows, or patterns such as \"room-*\"";
    assert_eq!(
        fixture(text).warnings(),
        [
            format!("{place} no window has a name like \"desk-*\"; {remedy}"),
            format!("{place} no window is named \"room-3\"; {remedy}"),
        ]
    );
    // The windows of fleets are not known yet.
    let fleet = "[[fleet]]\nname = \"desks\"\naccount = \"contoso\"\nrooms = true\n";
    assert_eq!(fixture(&format!("{text}{fleet}")).warnings(), [""; 0]);
    let unused = ConfigFixture::with("[consumer.lobby]\nuid = 7\nwindows = [\"room-*\"]\n");
    assert_eq!(unused.warnings().len(), 1, "{:?}", unused.warnings());
}

#[test]
fn an_origin_is_exactly_what_browsers_send() {
    let general = "write scheme, host and port, such as \"https://board.contoso.com\"";
    let each = "write each origin, such as \"https://board.contoso.com\"";
    let sent = |origin: &str| format!("write it as browsers send it: {origin:?}");
    for (origin, fault) in [
        ("*", format!("\"*\" is not one origin; {each}")),
        ("null", format!("\"null\" is not one origin; {each}")),
        ("https://*.b", format!("\"https://*.b\" is not one origin; {each}")),
        ("", format!("not an origin: \"\"; {general}")),
        ("board.b", format!("not an origin: \"board.b\"; {general}")),
        ("file:///index.html", format!("not an origin: \"file:///index.html\"; {general}")),
        ("ftp://b", format!("not an origin: \"ftp://b\"; {general}")),
        ("https://é.b", format!("not an origin: \"https://é.b\"; {general}")),
        ("https://a,b", format!("not an origin: \"https://a,b\"; {general}")),
        ("https://b/", format!("not an origin: \"https://b/\"; {}", sent("https://b"))),
        ("https://b/x?y", format!("not an origin: \"https://b/x?y\"; {}", sent("https://b"))),
        ("https://B:1", format!("not an origin: \"https://B:1\"; {}", sent("https://b:1"))),
        ("HTTPS://b", format!("not an origin: \"HTTPS://b\"; {}", sent("https://b"))),
        ("https://b:443", format!("not an origin: \"https://b:443\"; {}", sent("https://b"))),
        ("http://b:80", format!("not an origin: \"http://b:80\"; {}", sent("http://b"))),
        ("https://me:word@b", format!("not an origin: \"b\"; {}", sent("https://b"))),
    ] {
        let fault = format!("calmirror.toml:16: consumer.lobby.origins: {fault}");
        check_consumer(&format!("uid = 7\norigins = [\"http://a\", {origin:?}]"), &[&fault]);
    }
    for origin in ["https://b", "http://b:443", "https://b:8443", "http://127.0.0.1:8080"] {
        check_consumer(&format!("uid = 7\norigins = [{origin:?}]"), &[]);
    }
}

#[test]
fn a_listener_needs_any_token() {
    let listen = "[api]\nlisten = \"127.0.0.1:1\"\n";
    let missing = [
        "calmirror.toml:15: api.listen: a TCP address without a token; name a file with a token in token_file, in read_token_file or in a [consumer.NAME]: over TCP every request needs one",
    ];
    for (rest, faults) in [
        ("", &missing[..]),
        ("[consumer.lobby]\nuid = 7\n", &missing),
        ("token_file = \"a.token\"\n", &[]),
        ("read_token_file = \"a.token\"\n", &[]),
        ("[consumer.lobby]\ntoken_file = \"a.token\"\n", &[]),
    ] {
        assert_eq!(fixture(&format!("{listen}{rest}")).faults(), faults, "{rest}");
    }
}

#[test]
fn a_reload_names_the_consumers_that_differ() {
    let fixture = fixture("");
    let load = |text: &str| -> Config {
        fixture.write("calmirror.toml", &format!("{ACCOUNT}{WINDOWS}{text}"));
        fixture.config()
    };
    let config = |lines: &[&str]| load(&format!("[consumer.lobby]\n{}\n", lines.join("\n")));
    let key = "uid = 7";
    let plain = config(&[key]);
    assert_eq!(
        diff(&plain, &config(&[key, "level = \"all\""])),
        ConfigDiff { unchanged: 2, ..ConfigDiff::default() }
    );
    let cases = [
        "windows = [\"room-1\"]",
        "level = \"busy\"",
        "write = true",
        "origins = [\"https://board.contoso.com\"]",
    ];
    for own in Section::Consumer.own_keys() {
        let begins = format!("{} = ", own.name);
        let is_key = ["token_file", "uid"].contains(&own.name);
        assert!(is_key || cases.iter().any(|case| case.starts_with(&begins)), "{}", own.name);
    }
    let changed = ConfigDiff {
        unchanged: 2,
        settings: vec!["consumer.lobby".to_owned()],
        ..ConfigDiff::default()
    };
    let mut others: Vec<Config> = cases.iter().map(|case| config(&[key, case])).collect();
    others.push(config(&["uid = 8"]));
    others.push(config(&["token_file = \"a.token\""]));
    others.push(load(""));
    for other in &others {
        for difference in [diff(&plain, other), diff(other, &plain)] {
            assert_eq!(difference, changed);
            assert!(!difference.is_empty());
        }
    }
    // The order of the windows' names means nothing.
    let [one, two] = [["room-1", "room-2"], ["room-2", "room-1"]]
        .map(|names| config(&[key, &format!("windows = {names:?}")]));
    assert!(diff(&one, &two).is_empty());
}
