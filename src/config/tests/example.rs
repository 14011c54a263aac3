//! The installed example is the reference: it is valid, complete, and states the actual defaults.

use std::collections::BTreeMap;

use super::ConfigFixture;
use super::network::authority;
use crate::config::AccessLevel;
use crate::config::sections::{SECTIONS, Section};
use crate::config::settings::KEYS;

const EXAMPLE: &str = include_str!("../../../config/calmirror.toml");
const MANUAL: &str = include_str!("../../../docs/configuration.md");

/// Every setting in the example, set or commented out: section, key and value.
fn settings() -> Vec<(String, String, String)> {
    let mut section = String::new();
    let mut settings = Vec::new();
    for line in EXAMPLE.lines() {
        let line = line.strip_prefix('#').unwrap_or(line);
        if let Some(name) = line.strip_prefix('[') {
            let name = name.trim_matches(['[', ']']);
            section = name.split('.').next().unwrap().to_owned();
        } else if let Some((key, value)) = line.split_once(" = ")
            && !line.starts_with(' ')
        {
            settings.push((section.clone(), key.to_owned(), value.to_owned()));
        }
    }
    settings
}

#[test]
fn the_example_is_valid() {
    let fixture = ConfigFixture::with(EXAMPLE);
    let config = fixture.config();
    assert_eq!(config.warnings.len(), 1, "only the warning about having no window");
    assert_eq!(config.sections.store, ConfigFixture::with("").config().sections.store);
}

#[test]
fn the_example_is_valid_with_everything_uncommented() {
    // An account has one credential, a fleet one source, a consumer one key, and a sink one target.
    let others = [
        "client_secret_env",
        "certificate_file",
        "certificate_password_file",
        "federated_token_file",
        "managed_identity",
        "device_code",
        "access_token_file",
        "access_token_command",
        "room_list",
        "members_of",
        "users",
        "calendars_of",
        "uid",
        "url",
        "schema",
        "path",
        "credentials_file",
        "stream",
        "subject",
    ];
    let fixture = ConfigFixture::new();
    let text: String = EXAMPLE
        .lines()
        .filter(|line| {
            let is_other = others.iter().any(|key| line.starts_with(&format!("#{key} = ")));
            // That of a shard is no target of a sink.
            !is_other || line.contains("{ordinal}")
        })
        .filter(|line| !line.contains("team.txt"))
        .map(|line| match line.strip_prefix('#') {
            Some(setting) if !setting.starts_with(' ') => format!("{setting}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    fixture.write("calmirror.toml", &text.replace("/etc/calmirror/", ""));
    for file in ["api.token", "read.token", "lobby.token"] {
        fixture.secret(file, &format!("{file} of a good length"), 0o600);
    }
    fixture.secret("contoso.proxy", "user:word", 0o600);
    for file in ["crm.url", "crm.whsec"] {
        fixture.secret(file, "https://crm.contoso.com", 0o600);
    }
    fixture.write("ca.pem", &authority());
    fixture.write("proxy-ca.pem", &authority());
    fixture.write("rooms.txt", "r1@contoso.com\nr2@contoso.com\n");
    let config = fixture.config();
    let names: Vec<&str> = config.windows.iter().map(|window| &*window.name).collect();
    assert_eq!(names, ["alice", "room-r1@contoso.com", "room-r2@contoso.com"]);
    assert_eq!(config.fleets.len(), 1);
    let [consumer] = &config.consumers[..] else { panic!("{:?}", config.consumers) };
    assert_eq!((&*consumer.name, consumer.level), ("lobby", AccessLevel::Busy));
    let [sink] = &config.sinks[..] else { panic!("{:?}", config.sinks) };
    assert_eq!((&*sink.name, sink.batch.as_secs()), ("crm", 2));
    assert_eq!(config.warnings, []);
}

#[test]
fn the_example_has_exactly_the_known_keys() {
    let settings = settings();
    for section in SECTIONS.iter().copied() {
        for key in section.keys() {
            // Inherited keys are listed under [defaults].
            let inherited = section.own_keys().iter().all(|own| own.name != key.name);
            let there =
                settings.iter().any(|(of, name, _)| of == section.name() && name == key.name);
            assert!(there || inherited, "{}.{}", section.name(), key.name);
        }
    }
    for (section, key, _) in &settings {
        let section = SECTIONS.iter().copied().find(|one| one.name() == section).unwrap();
        assert!(section.check(key).is_ok(), "{}.{key}", section.name());
    }
}

#[test]
fn the_defaults_of_the_example_match_the_code() {
    let stated: BTreeMap<(String, String), String> =
        settings().into_iter().map(|(section, key, value)| ((section, key), value)).collect();
    // The consumer of the example is a display, which sees less than the default.
    let sections = SECTIONS.iter().copied().filter(|section| *section != Section::Consumer);
    for section in sections {
        for key in section.own_keys() {
            if let Some(default) = key.default {
                let stated = &stated[&(section.name().to_owned(), key.name.to_owned())];
                assert_eq!(stated, default, "{}.{}", section.name(), key.name);
            }
        }
    }
}

/// The rows of the manual's tables of keys: section, key and default.
fn manual() -> BTreeMap<(String, String), String> {
    let mut section = String::new();
    let mut rows = BTreeMap::new();
    for line in MANUAL.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            section = title.trim_matches(['`', '[', ']']).to_owned();
        }
        // Some rows have several keys: | `start`, `end` | `"-30d"`, `"+365d"` | … |
        if let ["", keys, defaults, ..] = *line.split('|').map(str::trim).collect::<Vec<_>>()
            && keys.starts_with('`')
        {
            for (key, default) in keys.split(", ").zip(defaults.split(", ")) {
                let key = key.trim_matches('`').to_owned();
                rows.insert((section.clone(), key), default.to_owned());
            }
        }
    }
    rows
}

#[test]
fn the_manual_has_every_key_with_its_default() {
    let rows = manual();
    for section in SECTIONS.iter().copied() {
        for key in section.own_keys() {
            let title = match section {
                Section::Account => "Accounts",
                Section::Consumer => "Consumers",
                Section::Sink => "Sinks",
                _ => section.name(),
            };
            let stated = rows.get(&(title.to_owned(), key.name.to_owned()));
            let what = format!("{}.{}", section.name(), key.name);
            assert!(stated.is_some(), "{what}");
            if let Some(default) = key.default {
                assert_eq!(stated, Some(&format!("`{default}`")), "{what}");
            }
        }
    }
}

#[test]
fn the_manual_says_when_every_setting_of_a_window_takes_effect() {
    let rows: Vec<&str> = MANUAL
        .lines()
        .filter_map(|line| line.strip_prefix("| window: ")?.split('|').next())
        .collect();
    for key in KEYS {
        let named = rows.iter().filter(|row| row.contains(&format!("`{}`", key.name))).count();
        assert_eq!(named, 1, "{}", key.name);
    }
}
