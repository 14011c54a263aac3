//! Where the daemon and its token are found.

use super::*;

#[test]
fn valid_addresses_are_parsed_and_others_refused() {
    for (text, place) in [
        ("/run/x.sock", Some(Endpoint::Socket("/run/x.sock".into()))),
        ("unix:///run/x.sock", Some(Endpoint::Socket("/run/x.sock".into()))),
        ("x.sock", Some(Endpoint::Socket("x.sock".into()))),
        ("http://localhost:8380", Some(Endpoint::Tcp("localhost:8380".into()))),
        ("http://localhost:8380/", Some(Endpoint::Tcp("localhost:8380".into()))),
        ("http://[::1]:8380", Some(Endpoint::Tcp("[::1]:8380".into()))),
        ("http://mirror", Some(Endpoint::Tcp("mirror:80".into()))),
        ("localhost:8380", Some(Endpoint::Tcp("localhost:8380".into()))),
        ("127.0.0.1:8380", Some(Endpoint::Tcp("127.0.0.1:8380".into()))),
        ("[::1]:8380", Some(Endpoint::Tcp("[::1]:8380".into()))),
        ("mirror-1.example.org:80", Some(Endpoint::Tcp("mirror-1.example.org:80".into()))),
        ("./localhost:8380", Some(Endpoint::Socket("./localhost:8380".into()))),
        ("/run/x:8380", Some(Endpoint::Socket("/run/x:8380".into()))),
        ("unix://x:8380", Some(Endpoint::Socket("x:8380".into()))),
        ("localhost:http", Some(Endpoint::Socket("localhost:http".into()))),
        ("::1:8380", Some(Endpoint::Socket("::1:8380".into()))),
        ("http://me@mirror:1", None),
        ("http://mirror:1/v1", None),
        ("https://mirror", None),
    ] {
        assert_eq!(parse(text).ok(), place, "{text}");
    }
}

/// The address and the token found.
fn found(
    api: Option<&str>,
    config: &Path,
    environment: &BTreeMap<String, String>,
) -> (Endpoint, Option<String>) {
    let ClientTarget { endpoint: place, token, .. } = find(api, Some(config), environment).unwrap();
    (place, token)
}

#[test]
fn the_environment_overrides_the_configured_endpoint() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("calmirror.toml");
    let token = directory.path().join("token");
    fs::write(&token, "s3cret\n").unwrap();
    let text = format!("[api]\nsocket = '/a.sock'\ntoken_file = '{}'\n", token.display());
    fs::write(&file, text).unwrap();
    let mut environment = BTreeMap::new();
    let socket = |path: &str| Endpoint::Socket(path.into());

    assert_eq!(found(None, &file, &environment), (socket("/a.sock"), None));

    fs::create_dir(directory.path().join("conf.d")).unwrap();
    fs::write(directory.path().join("conf.d/x.toml"), "[api]\nsocket='/b.sock'").unwrap();
    assert_eq!(found(None, &file, &environment).0, socket("/b.sock"));

    let (_, secret) = found(Some("http://localhost:1"), &file, &environment);
    assert_eq!(secret.as_deref(), Some("s3cret"));

    // The client ignores files that the daemon ignores, and tolerates files it cannot parse.
    let hidden = "[api]\nsocket='/hidden.sock'";
    fs::write(directory.path().join("conf.d/.z.toml"), hidden).unwrap();
    fs::write(directory.path().join("conf.d/z.toml~"), hidden).unwrap();
    fs::write(directory.path().join("conf.d/z.toml"), "]").unwrap();
    fs::write(directory.path().join("conf.d/w.toml"), "[graph]\ncloud='?'\nx=1\n[?]").unwrap();
    assert_eq!(found(None, &file, &environment).0, socket("/b.sock"));

    fs::write(directory.path().join("conf.d/y.toml"), "[api]\nsocket='rel.sock'").unwrap();
    let relative = directory.path().join("conf.d/rel.sock");
    assert_eq!(found(None, &file, &environment).0, Endpoint::Socket(relative.clone()));

    // An empty variable counts as unset.
    for name in ["CALMIRROR__API__SOCKET", "CALMIRROR_TOKEN", "CALMIRROR_API", "CALMIRROR_CONFIG"] {
        environment.insert(name.into(), String::new());
    }
    let (place, secret) = found(None, &file, &environment);
    assert_eq!((place, secret), (Endpoint::Socket(relative), None));
    let (_, secret) = found(Some("http://localhost:1"), &file, &environment);
    assert_eq!(secret.as_deref(), Some("s3cret"));
    let default = find(None, None, &environment).unwrap().endpoint;
    assert_eq!(default, find(None, None, &BTreeMap::new()).unwrap().endpoint);
    environment.insert("CALMIRROR_CONFIG".into(), file.display().to_string());
    environment.insert("CALMIRROR_API".into(), "/d.sock".into());
    assert_eq!(find(None, None, &environment).unwrap().endpoint, socket("/d.sock"));
    assert_eq!(found(Some("/e.sock"), &file, &environment).0, socket("/e.sock"));
    environment.remove("CALMIRROR_API");

    environment.insert("CALMIRROR__api__Socket".into(), "/c.sock".into());
    environment.insert("CALMIRROR_TOKEN".into(), "other".into());
    assert_eq!(find(None, None, &environment).unwrap().endpoint, socket("/c.sock"));
    let (_, secret) = found(Some("http://localhost:1"), &file, &environment);
    assert_eq!(secret.as_deref(), Some("other"));

    environment.remove("CALMIRROR__api__Socket");
    environment.insert("CALMIRROR__API__SOCKET".into(), "off".into());
    let nowhere = find(None, Some(&file), &environment).unwrap_err();
    assert_eq!(nowhere.exit, UNAVAILABLE);
    for (listen, reached) in [
        ("127.0.0.1:8380", "127.0.0.1:8380"),
        ("0.0.0.0:8380", "127.0.0.1:8380"),
        ("[::]:8380", "[::1]:8380"),
        ("192.0.2.1:1", "192.0.2.1:1"),
    ] {
        environment.insert("CALMIRROR__API__LISTEN".into(), listen.into());
        let (place, secret) = found(None, &file, &environment);
        assert_eq!(place, Endpoint::Tcp(reached.into()), "no socket");
        assert_eq!(secret.as_deref(), Some("other"));
    }
    environment.clear();
    let text = format!(
        "[api]\nsocket = 'off'\nlisten = '127.0.0.1:9'\ntoken_file = '{}'\n",
        token.display()
    );
    let off = directory.path().join("off/calmirror.toml");
    fs::create_dir(off.parent().unwrap()).unwrap();
    fs::write(&off, text).unwrap();
    let there = (Endpoint::Tcp("127.0.0.1:9".into()), Some("s3cret".into()));
    assert_eq!(found(None, &off, &environment), there);
}

#[test]
fn an_unreadable_configuration_does_not_fall_back_to_the_default_socket_silently() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("calmirror.toml");
    fs::create_dir(directory.path().join("conf.d")).unwrap();
    let other = directory.path().join("conf.d/x.toml");
    let environment: BTreeMap<String, String> =
        [("CALMIRROR_CONFIG".into(), file.display().to_string())].into();
    let usual = Endpoint::Socket("/run/calmirror/api.sock".into());
    // The text of the main file and of the other, what is said, and whether the main file is
    // what cannot be used.
    for (main, more, said, of_main) in [
        (None, "", Some("calmirror.toml: cannot be read: No such file"), true),
        (Some("[api"), "", Some("calmirror.toml:1: not TOML: "), true),
        (Some("[api]\nsocket = 7"), "", Some("calmirror.toml:2: api.socket: "), true),
        (Some("[api]\nsokcet = '/a.sock'"), "", Some("calmirror.toml:2: api.sokcet: "), true),
        (Some("[api]"), "]", Some("conf.d/x.toml:1: not TOML: "), false),
        (Some("[api]\nsocket = '/run/calmirror/api.sock'"), "]", None, false),
        (Some("[graph]\ncloud = 7\nx = 1\n[y]"), "", None, false),
    ] {
        fs::remove_file(&file).ok();
        if let Some(main) = main {
            fs::write(&file, main).unwrap();
        }
        fs::write(&other, more).unwrap();
        let target = find(None, None, &environment).unwrap();
        assert_eq!(target.endpoint, usual, "{main:?}");
        let warning = target.unusable.map(|fault| fault.to_string()).unwrap_or_default();
        assert!(warning.contains(said.unwrap_or_default()), "{main:?}: {warning}");
        let end = said.map_or("", |_| "; asking the daemon at /run/calmirror/api.sock");
        assert!(warning.ends_with(end) && warning.is_empty() == said.is_none(), "{warning}");
        // A file that was named for this command is not passed over.
        match find(None, Some(&file), &environment) {
            Ok(_) => assert!(!of_main, "{main:?}"),
            Err(refused) => assert!(of_main && refused.exit == CONFIGURATION, "{refused}"),
        }
        // With an address no configuration is needed.
        let api = find(Some("/b.sock"), Some(&file), &environment).unwrap();
        assert_eq!((api.endpoint, api.unusable), (Endpoint::Socket("/b.sock".into()), None));
    }
    let environment = [("CALMIRROR__API__SOKCET".into(), "/a.sock".into())].into();
    let warned = find(None, None, &environment).unwrap().unusable.unwrap();
    assert!(warned.to_string().starts_with("CALMIRROR__API__SOKCET: "), "{warned}");
    assert_eq!(find(None, None, &BTreeMap::new()).unwrap().unusable, None);
}

#[test]
fn a_token_file_is_for_the_configured_daemon_alone() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("calmirror.toml");
    fs::write(directory.path().join("token"), "s3cret\n").unwrap();
    let mut environment = BTreeMap::new();
    for listen in ["192.0.2.1:8380", "0.0.0.0:8380"] {
        let text = format!("[api]\nlisten = '{listen}'\ntoken_file = 'token'\n");
        fs::write(&file, text).unwrap();
        for (authority, near, configured) in [
            ("192.0.2.1:8380", false, listen == "192.0.2.1:8380"),
            ("192.0.2.1:8381", false, false),
            ("192.0.2.2:8380", false, false),
            ("mirror.example:8380", false, false),
            ("localhost.example:8380", false, false),
            ("127.0.0.1.example:8380", false, false),
            ("localhost:1", true, false),
            ("127.0.0.2:1", true, false),
            ("[::1]:1", true, false),
            ("[2001:db8::1]:8380", false, false),
        ] {
            let api = format!("http://{authority}");
            environment.clear();
            let ClientTarget { token, exposed, .. } =
                find(Some(&api), Some(&file), &environment).unwrap();
            let shown = near || configured;
            assert_eq!(token.as_deref(), shown.then_some("s3cret"), "{listen} {authority}");
            assert!(!exposed, "the variable is not set");
            // The variable's token is sent anywhere, and is reported as exposed.
            environment.insert("CALMIRROR_TOKEN".into(), "other".into());
            let ClientTarget { token, exposed, .. } =
                find(Some(&api), Some(&file), &environment).unwrap();
            assert_eq!((token.as_deref(), exposed), (Some("other"), !near), "{authority}");
        }
    }
}
