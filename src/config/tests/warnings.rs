//! A valid but probably unintended setting is a warning with file, line, key and remedy, not an
//! error.

use super::{ACCOUNT, ConfigFixture};

/// A window without warnings of its own.
const WINDOW: &str = "[[window]]\naccount = \"contoso\"\nmailbox = \"alice@contoso.com\"\n";

/// The warnings of this text after a valid account and a valid window; it begins at line 9.
fn warnings(text: &str) -> Vec<String> {
    ConfigFixture::with(&format!("{ACCOUNT}{WINDOW}{text}")).warnings()
}

const LONG: &str = "0123456789abcdef0123456789abcdef";

#[test]
fn a_correct_configuration_has_no_warnings() {
    assert_eq!(warnings(""), [""; 0]);
}

#[test]
fn guessable_tokens_are_warned_about_and_not_shown() {
    for (token, length) in
        [("x", "one byte"), ("hunter2", "7 bytes"), ("0123456789abcde", "15 bytes")]
    {
        let fixture = ConfigFixture::with(&format!(
            "{ACCOUNT}{WINDOW}[api]\nlisten = \"127.0.0.1:1\"\ntoken_file = \"t\"\nread_token_file = \"r\"\n"
        ));
        fixture.secret("t", LONG, 0o600);
        fixture.secret("r", &format!("{token}\n"), 0o600);
        let [warning] = &fixture.warnings()[..] else { panic!("{:?}", fixture.warnings()) };
        let place = "calmirror.toml:12: api.read_token_file: the token is ";
        assert!(warning.starts_with(&format!("{place}{length} long")), "{warning}");
        assert!(warning.ends_with("; write a random one: openssl rand -hex 32 > r"), "{warning}");
        assert!(!warning.contains(&format!("{token:?}")), "{warning}");
    }
}

#[test]
fn one_token_for_reading_and_writing_is_warned_about() {
    let fixture = ConfigFixture::with(&format!(
        "{ACCOUNT}{WINDOW}[api]\nlisten = \"[::1]:1\"\ntoken_file = \"t\"\nread_token_file = \"r\"\n"
    ));
    fixture.secret("t", LONG, 0o600);
    fixture.secret("r", &format!("  {LONG}\r\n"), 0o600);
    assert_eq!(
        fixture.warnings(),
        [
            "calmirror.toml:12: api.read_token_file: the same token as in token_file: read-only clients get full access; write a random one: openssl rand -hex 32 > r"
        ]
    );
    fixture.secret("r", &LONG.replace('0', "1"), 0o600);
    assert_eq!(fixture.warnings(), [""; 0]);
}

#[test]
fn a_listener_beyond_loopback_is_warned_about() {
    for (address, warned) in [
        ("127.0.0.1:1", false),
        ("127.9.9.9:1", false),
        ("[::1]:1", false),
        ("0.0.0.0:1", true),
        ("[::]:1", true),
        ("192.0.2.1:1", true),
    ] {
        let fixture = ConfigFixture::with(&format!(
            "{ACCOUNT}{WINDOW}[api]\nlisten = \"{address}\"\ntoken_file = \"t\"\n"
        ));
        fixture.secret("t", LONG, 0o600);
        let warnings = fixture.warnings();
        assert_eq!(warnings.len(), usize::from(warned), "{address}: {warnings:?}");
        if let [warning] = &warnings[..] {
            let place = format!(
                "calmirror.toml:10: api.listen: {address} is reached from other machines, and there is no TLS; listen on 127.0.0.1 "
            );
            assert!(warning.starts_with(&place), "{warning}");
        }
    }
}

#[test]
fn world_writable_files_are_warned_about() {
    let fixture = ConfigFixture::with(&format!(
        "{ACCOUNT}[[window]]\naccount = \"contoso\"\nmailboxes_file = \"rooms\"\n"
    ));
    fixture.secret("rooms", "room@contoso.com\n", 0o666);
    fixture.secret("conf.d/a.toml", "[log]\nlevel = \"info\"\n", 0o646);
    fixture.secret("conf.d/b.toml", "[log]\nlevel = \"info\"\n", 0o664);
    let place = |name: &str| fixture.dir.path().join(name);
    let set = |name: &str, mode: u32| {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(place(name), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    set("calmirror.toml", 0o602);
    set("conf.d", 0o777);
    let can = "every user of this machine can change it (mode";
    assert_eq!(
        fixture.warnings(),
        [
            format!("calmirror.toml: {can} 0602); chmod o-w calmirror.toml"),
            format!("conf.d/a.toml: {can} 0646); chmod o-w conf.d/a.toml"),
            format!("conf.d: {can} 0777); chmod o-w conf.d"),
            format!(
                "calmirror.toml:8: window[rooms].mailboxes_file: rooms: {can} 0666); chmod o-w rooms"
            ),
        ]
    );
}

#[test]
fn a_graph_address_without_a_version_is_warned_about() {
    for (url, warned) in [
        ("http://127.0.0.1:8081/v1.0", false),
        ("http://127.0.0.1:8081/v1.0/", false),
        ("https://graph.example/proxy/beta", false),
        ("http://127.0.0.1:8081", true),
        ("https://graph.example/", true),
    ] {
        let warnings = warnings(&format!("[graph]\nbase_url = \"{url}\"\n"));
        assert_eq!(warnings.len(), usize::from(warned), "{url}: {warnings:?}");
        if let [warning] = &warnings[..] {
            let place = "calmirror.toml:10: graph.base_url: ";
            let bare = url.trim_end_matches('/');
            assert_eq!(
                *warning,
                format!(
                    "{place}{bare} names no version of Graph; write {bare}/v1.0, unless a proxy adds the version"
                )
            );
        }
    }
}

#[test]
fn malformed_ids_are_warned_about() {
    let text = ACCOUNT
        .replace("11111111-1111-1111-1111-111111111111", "calmirror")
        .replace("contoso.com", "contoso");
    assert_eq!(
        ConfigFixture::with(&format!("{text}{WINDOW}")).warnings(),
        [
            "calmirror.toml:2: account.contoso.tenant: neither a GUID nor a domain; write the Directory (tenant) ID, or a domain of the tenant such as contoso.com",
            "calmirror.toml:3: account.contoso.client_id: not a GUID; write the Application (client) ID of the app registration: not its name, and not the ID of a secret",
        ]
    );
}

#[test]
fn mailboxes_that_graph_will_not_find_are_warned_about() {
    for (mailbox, warned) in [
        ("alice@contoso.com", false),
        ("guest_example.org#EXT#@contoso.com", false),
        ("00000000-0000-0000-0000-000000000000", false),
        ("alice", true),
        ("@contoso.com", true),
        ("alice@", true),
        ("a@b@c", true),
        ("Alice.Smith", true),
    ] {
        let text = format!("{ACCOUNT}[[window]]\naccount = \"contoso\"\nmailbox = \"{mailbox}\"\n");
        let warnings = ConfigFixture::with(&text).warnings();
        assert_eq!(warnings.len(), usize::from(warned), "{mailbox}: {warnings:?}");
        if let [warning] = &warnings[..] {
            assert_eq!(
                *warning,
                format!(
                    "calmirror.toml:8: window[{mailbox}].mailbox: {mailbox:?} is neither an address nor a user id; write the user's address (alice@contoso.com) or object id (a GUID)"
                )
            );
        }
    }
}

#[test]
fn warnings_about_a_mailboxes_file_name_only_some_mailboxes() {
    let fixture = ConfigFixture::with(&format!(
        "{ACCOUNT}[[window]]\naccount = \"contoso\"\nmailboxes_file = \"rooms\"\n"
    ));
    let rooms: String = (0..250).map(|number| format!("room{number}\n")).collect();
    fixture.write("rooms", &rooms);
    let warnings = fixture.warnings();
    assert_eq!(warnings.len(), 101);
    assert!(
        warnings[0].starts_with("rooms:1: window[rooms].mailbox: \"room0\""),
        "{}",
        warnings[0]
    );
    assert!(
        warnings[100]
            .starts_with("calmirror.toml:8: window[rooms].mailboxes_file: 150 more lines ")
    );
}
