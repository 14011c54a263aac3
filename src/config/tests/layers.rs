//! Layers: the file, `conf.d`, the environment; origins of values; the effects of a reload.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::{ACCOUNT, ConfigFixture};
use crate::config::sections::Section;
use crate::config::sources::DEFAULT_FILE;
use crate::config::{
    ConfigDiff, Diagnostics, LogFormat, ReloadEffect, Sources, StoreConfig, ValueOrigin, diff,
};
use crate::mirror::account::Credential;

#[test]
fn the_file_is_taken_from_the_command_line_then_the_environment() {
    let named = BTreeMap::from([("CALMIRROR_CONFIG".to_owned(), "/b".to_owned())]);
    let empty = BTreeMap::from([("CALMIRROR_CONFIG".to_owned(), String::new())]);
    assert_eq!(Sources::find(Some(Path::new("/a")), named.clone()).file, PathBuf::from("/a"));
    assert_eq!(Sources::find(None, named).file, PathBuf::from("/b"));
    assert_eq!(Sources::find(None, empty).file, PathBuf::from(DEFAULT_FILE));
    assert_eq!(Sources::find(None, BTreeMap::new()).file, PathBuf::from(DEFAULT_FILE));
}

#[test]
fn an_empty_file_is_all_defaults() {
    let fixture = ConfigFixture::with("");
    let config = fixture.config();
    assert_eq!(config.sections.store.path, Path::new("/var/lib/calmirror"));
    assert_eq!(config.sections.graph.base_url, "https://graph.microsoft.com/v1.0");
    assert_eq!(config.sections.graph.login_url, "https://login.microsoftonline.com");
    assert_eq!(config.sections.graph.scope, "https://graph.microsoft.com/.default");
    assert_eq!(
        (config.sections.graph.max_concurrent, config.sections.graph.max_concurrent_per_mailbox),
        (256, 3)
    );
    assert_eq!(config.sections.graph.request_timeout, Duration::from_secs(100));
    assert_eq!(config.sections.api.socket.as_deref(), Some(Path::new("/run/calmirror/api.sock")));
    assert_eq!((config.sections.api.listen, config.sections.api.mask_private), (None, false));
    assert_eq!(config.sections.feed.retention, Duration::from_secs(30 * 24 * 3600));
    assert_eq!(
        (config.sections.log.level.as_str(), config.sections.log.format),
        ("info", LogFormat::Auto)
    );
    assert!(config.accounts.is_empty() && config.windows.is_empty());
    assert_eq!(
        fixture.shown(&config.warnings),
        ["window: there is no window; write a [[window]] or a [[fleet]], or nothing is mirrored"]
    );
}

#[test]
fn each_cloud_has_its_addresses_and_scope() {
    for (cloud, base, login) in [
        ("global", "https://graph.microsoft.com", "https://login.microsoftonline.com"),
        ("us-gov-l4", "https://graph.microsoft.us", "https://login.microsoftonline.us"),
        ("us-gov-l5", "https://dod-graph.microsoft.us", "https://login.microsoftonline.us"),
        (
            "china",
            "https://microsoftgraph.chinacloudapi.cn",
            "https://login.partner.microsoftonline.cn",
        ),
    ] {
        let graph =
            ConfigFixture::with(&format!("[graph]\ncloud = \"{cloud}\"\n")).config().sections.graph;
        assert_eq!(graph.base_url, format!("{base}/v1.0"));
        assert_eq!(graph.login_url, login);
        assert_eq!(graph.scope, format!("{base}/.default"));
    }
    let graph = ConfigFixture::with(
        "[graph]\nbase_url = \"http://127.0.0.1:8081/v1.0/\"\nlogin_url = \"http://localhost:8081/\"\n",
    )
    .config()
    .sections.graph;
    assert_eq!(graph.base_url, "http://127.0.0.1:8081/v1.0");
    assert_eq!(graph.login_url, "http://localhost:8081");
    assert_eq!(graph.scope, "http://127.0.0.1:8081/.default");
}

#[test]
fn conf_d_merges_tables_and_appends_windows_in_name_order() {
    let window = |name: &str| {
        format!("[[window]]\nname = \"{name}\"\nmailbox = \"{name}@b\"\naccount = \"contoso\"\n")
    };
    let fixture = ConfigFixture::with(&format!(
        "[graph]\nmax_concurrent = 1\nmax_concurrent_per_mailbox = 1\n{ACCOUNT}{}",
        window("z")
    ));
    fixture.write("conf.d/20.toml", &format!("[graph]\nmax_concurrent = 20\n{}", window("b")));
    fixture.write("conf.d/10.toml", &format!("[graph]\nmax_concurrent = 10\n{}", window("c")));
    fixture.write("conf.d/10.toml~", "not TOML");
    fixture.write("conf.d/.hidden.toml", "not TOML");
    // Relative paths are resolved per file.
    fixture
        .write("conf.d/30.toml", "[account.contoso]\nclient_secret_file = \"../contoso.secret\"\n");
    let config = fixture.config();
    assert_eq!(
        (config.sections.graph.max_concurrent, config.sections.graph.max_concurrent_per_mailbox),
        (20, 1)
    );
    let names: Vec<&str> = config.windows.iter().map(|window| &*window.name).collect();
    assert_eq!(names, ["z", "c", "b"]);
    let secret = fixture.dir.path().join("conf.d/../contoso.secret");
    assert_eq!(config.accounts["contoso"].credential, Credential::SecretFile(secret));
    assert_eq!(&*config.accounts["contoso"].tenant, "contoso.com");
}

#[test]
fn the_environment_overrides_files_and_contains_only_strings() {
    let fixture = ConfigFixture::with(&format!("[graph]\nmax_concurrent = 1\n{ACCOUNT}"))
        .set("CALMIRROR__GRAPH__MAX_CONCURRENT", "77")
        .set("CALMIRROR__API__MASK_PRIVATE", "true")
        .set("CALMIRROR__API__HOSTS", "Mirror.example.org, other")
        .set("CALMIRROR__DEFAULTS__JITTER", "0.5")
        .set("CALMIRROR__STORE__PATH", "relative")
        .set("CALMIRROR__LOG__LEVEL", "")
        .set("CALMIRROR__ACCOUNT__CONTOSO__TENANT", "12345")
        .set("CALMIRROR__ACCOUNT__SOLO__ACCESS_TOKEN_FILE", "/nowhere")
        .set("CALMIRROR_TOKEN", "not a setting")
        .set("CALMIRROR_PORT", "not a setting");
    assert_eq!(
        fixture.faults(),
        [
            "CALMIRROR__ACCOUNT__SOLO__ACCESS_TOKEN_FILE: /nowhere cannot be read: No such file or directory (os error 2); write the secret into that file, with mode 0600"
        ]
    );
    let config = fixture.set("CALMIRROR__ACCOUNT__SOLO__ACCESS_TOKEN_FILE", "").config();
    assert_eq!(config.sections.graph.max_concurrent, 77);
    assert!(config.sections.api.mask_private);
    assert_eq!(config.sections.api.hosts, ["mirror.example.org", "other"]);
    assert_eq!(
        ConfigFixture::with("[api]\nhosts = [\"Mirror.Example.org\"]").config().sections.api.hosts,
        ["mirror.example.org"]
    );
    assert_eq!(config.sections.store.path, Path::new("relative"));
    assert_eq!(config.sections.log.level, "info");
    assert_eq!(&*config.accounts["contoso"].tenant, "12345");
}

#[test]
fn unknown_variables_are_faults() {
    let fixture = ConfigFixture::with("")
        .set("CALMIRROR__STORE__PAHT", "/x")
        .set("CALMIRROR__STROE__PATH", "/x")
        .set("CALMIRROR__STORE", "/x")
        .set("CALMIRROR__WINDOW__0__NAME", "x")
        .set("CALMIRROR__ACCOUNT__X__TENENT", "x")
        .set("CALMIRROR__GRAPH__MAX_CONCURRENT", "many")
        .set("CALMIRROR__API__MASK_PRIVATE", "maybe");
    assert_eq!(
        fixture.faults(),
        [
            "CALMIRROR__ACCOUNT__X__TENENT: unknown key; did you mean `tenant`?",
            "CALMIRROR__STORE: not a key; write CALMIRROR__SECTION__KEY",
            "CALMIRROR__STORE__PAHT: unknown key; did you mean `path`?",
            "CALMIRROR__STROE__PATH: unknown section; did you mean `store`?",
            "CALMIRROR__WINDOW__0__NAME: windows cannot be set in the environment; write them into a file, or name one with mailboxes_file there",
            "CALMIRROR__GRAPH__MAX_CONCURRENT: not a whole number; write 1 to 100000, without quotes",
            "CALMIRROR__API__MASK_PRIVATE: neither true nor false; write true or false, without quotes",
        ]
    );
}

#[test]
fn every_effective_value_is_explained() {
    let fixture = ConfigFixture::with(&format!(
        "{ACCOUNT}[[window]]\nmailbox = \"a@b\"\naccount = \"contoso\"\ninterval = \"1m\"\n"
    ))
    .set("CALMIRROR__FEED__RETENTION", "5d");
    fixture.write("conf.d/a.toml", "[graph]\nmax_concurrent = 9\n");
    let config = fixture.config();
    let find = |key: &str| {
        let one = config.explained.iter().find(|one| one.key == key).unwrap();
        format!("{} ({})", one.value, fixture.plain(&one.origin))
    };
    assert_eq!(find("graph.max_concurrent"), "9 (conf.d/a.toml:2)");
    assert_eq!(find("graph.max_concurrent_per_mailbox"), "3 (default)");
    assert_eq!(find("feed.retention"), "5d (environment CALMIRROR__FEED__RETENTION)");
    assert_eq!(find("account.contoso.client_secret_file"), "contoso.secret (calmirror.toml:4)");
    assert_eq!(find("defaults.jitter"), "0.2 (default)");
    assert_eq!(find("window[a@b].interval"), "1m (calmirror.toml:9)");
    // Keys that a window does not set itself are explained once, with the defaults.
    assert!(config.explained.iter().all(|one| one.key != "window[a@b].jitter"));
    assert!(config.explained.iter().filter(|one| one.origin == ValueOrigin::Default).count() > 15);
}

#[test]
fn a_reload_compares_windows_by_name() {
    let window = |name: &str, rest: &str| {
        format!(
            "[[window]]\nname = \"{name}\"\nmailbox = \"{name}@b\"\naccount = \"contoso\"\n{rest}\n"
        )
    };
    let fixture = ConfigFixture::with(&format!(
        "{ACCOUNT}{}{}{}",
        window("same", ""),
        window("gone", ""),
        window("other", "")
    ));
    let old = fixture.config();
    fixture.write(
        "calmirror.toml",
        &format!(
            "[store]\npath = \"/else\"\n[log]\nlevel = \"debug\"\n{ACCOUNT}{}{}{}",
            window("new", ""),
            window("other", "interval = \"9m\""),
            window("same", "")
        ),
    );
    let new = fixture.config();
    let difference = diff(&old, &new);
    let names = |windows: &[Arc<crate::mirror::window::Window>]| -> Vec<String> {
        windows.iter().map(|window| window.name.to_string()).collect()
    };
    assert_eq!(names(&difference.added), ["new"]);
    assert_eq!(names(&difference.removed), ["gone"]);
    let [changed] = difference.changed.as_slice() else { panic!("{:?}", difference.changed) };
    assert_eq!((&*changed.old.name, changed.effect), ("other", ReloadEffect::Retimed));
    assert_eq!(changed.keys, ["interval"]);
    assert_eq!(
        (changed.old.settings.interval.as_secs(), changed.new.settings.interval.as_secs()),
        (300, 540)
    );
    assert_eq!(difference.unchanged, 1);
    assert_eq!(difference.refused, ["store.path"]);
    assert_eq!(difference.settings, ["log.level"]);
    assert_eq!(difference.drops_besides(None), 1);
    assert_eq!(diff(&new, &new), ConfigDiff { unchanged: 3, ..ConfigDiff::default() });
    let mut shared = new.clone();
    shared.windows = new.windows.iter().map(|window| Arc::new((**window).clone())).collect();
    shared.share_windows(&old);
    let kept = |window: &&Arc<_>| old.windows.iter().any(|known| Arc::ptr_eq(known, window));
    let kept: Vec<&str> = shared.windows.iter().filter(kept).map(|window| &*window.name).collect();
    assert_eq!((kept, &shared.windows), (vec!["same"], &new.windows));

    // Another tenant is another stream of ids, although no window names the tenant.
    let moved = fixture.set("CALMIRROR__ACCOUNT__CONTOSO__TENANT", "fabrikam.com").config();
    let difference = diff(&new, &moved);
    assert_eq!(
        (difference.changed.len(), difference.unchanged, difference.drops_besides(None)),
        (3, 0, 3)
    );
    for changed in &difference.changed {
        assert_eq!((changed.effect, &*changed.keys), (ReloadEffect::Replaced, &["tenant"][..]));
    }
    assert_eq!(difference.accounts, ["contoso".into()]);
    let window = &moved.windows[0];
    assert_eq!(&*moved.identity(window).tenant, "fabrikam.com");
}

#[test]
fn a_change_of_the_cloud_is_refused_even_if_its_addresses_are_not_used() {
    let graph =
        |keys: &[&str]| ConfigFixture::with(&format!("[graph]\n{}\n", keys.join("\n"))).config();
    let cloud = "cloud = \"china\"";
    let base = "base_url = \"http://127.0.0.1:1/v1.0\"";
    let login = "login_url = \"http://127.0.0.1:1\"";
    for (old, new, refused) in [
        (&[][..], &["cloud = \"global\""][..], &[][..]),
        (&[], &[cloud], &["graph.cloud"]),
        (&[login], &[login, cloud], &["graph.cloud"]),
        (&[base], &[base, cloud], &["graph.cloud"]),
        (&[base, login], &[base, login, cloud], &["graph.cloud"]),
        (&[], &[base], &["graph.base_url"]),
        (&[base], &[cloud], &["graph.cloud", "graph.base_url"]),
        (&[base], &[base, login], &[]),
    ] {
        for (old, new) in [(old, new), (new, old)] {
            assert_eq!(diff(&graph(old), &graph(new)).refused, refused, "{old:?} to {new:?}");
        }
    }
}

#[test]
fn each_key_of_a_window_has_its_reload_effect() {
    let config = |rest: &str| {
        let window = "[[window]]\nname = \"a\"\nmailbox = \"a@b\"\naccount = \"contoso\"\n";
        ConfigFixture::with(&format!("{ACCOUNT}{window}{rest}\n")).config()
    };
    let plain = config("");
    let cases = [
        ("interval = \"9m\"", ReloadEffect::Retimed),
        ("jitter = 0.5", ReloadEffect::Retimed),
        ("page_size = 7", ReloadEffect::Retimed),
        ("audit = \"off\"", ReloadEffect::Retimed),
        ("confirm_after = \"9m\"", ReloadEffect::Retimed),
        ("move_every = \"9d\"", ReloadEffect::Retimed),
        ("start = \"-7d\"", ReloadEffect::Resynced),
        ("end = \"+7d\"", ReloadEffect::Resynced),
        ("body = \"text\"", ReloadEffect::Resynced),
        ("time_zone = \"Europe/Berlin\"", ReloadEffect::Resynced),
        ("complete = \"exact\"", ReloadEffect::Resynced),
        ("calendar = \"c\"", ReloadEffect::Replaced),
        ("immutable_ids = true", ReloadEffect::Replaced),
        ("interval = \"9m\"\nbody = \"text\"", ReloadEffect::Resynced),
        ("body = \"text\"\ncalendar = \"c\"", ReloadEffect::Replaced),
    ];
    for key in Section::Defaults.keys() {
        let begins = format!("{} = ", key.name);
        assert!(cases.iter().any(|(line, _)| line.starts_with(&begins)), "{} is missing", key.name);
    }
    for (line, effect) in cases {
        let difference = diff(&plain, &config(line));
        let keys: Vec<&str> = line.lines().filter_map(|line| line.split(' ').next()).collect();
        let [changed] = difference.changed.as_slice() else { panic!("{line}: {difference:?}") };
        assert_eq!(changed.effect, effect, "{line}");
        assert!(keys.iter().all(|key| changed.keys.contains(key)), "{line}: {:?}", changed.keys);
        assert_eq!(changed.keys.len(), keys.len(), "{line}");
        assert_eq!(
            (difference.unchanged, difference.added.len(), difference.removed.len()),
            (0, 0, 0)
        );
    }
}

#[test]
fn the_store_is_read_without_the_rest_of_the_configuration() {
    let find = |main: &str| {
        let fixture = ConfigFixture::with(main).set("CALMIRROR__STORE__CACHE", "32MiB");
        let file = fixture.dir.path().join("calmirror.toml");
        let sources = Sources::find(Some(&file), fixture.environment.clone());
        StoreConfig::find(&sources).map_err(|Diagnostics(faults)| fixture.shown(&faults).join("\n"))
    };
    let other = "[account.contoso]\nclient_secret_file = \"/no/such\"\n[api]\nsoket = 7\n";
    let found = find(&format!("{other}[store]\npath = \"/data\"\n")).unwrap();
    assert_eq!((&*found.path, found.cache), (Path::new("/data"), 32 << 20));
    for (main, part) in [
        ("[store]\npath = 7\n", "store.path"),
        ("[store]\npaht = \"/data\"\n", "store.paht"),
        ("[store\n", "calmirror.toml"),
    ] {
        let faults = find(main).unwrap_err();
        assert!(faults.contains(part), "{main}: {faults}");
    }
    let nowhere = Sources::find(Some(Path::new("/no/such")), BTreeMap::new());
    assert!(StoreConfig::find(&nowhere).is_err());
}
