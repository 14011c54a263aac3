//! One configuration for several processes.

use super::faults::check;
use super::{ACCOUNT, ConfigFixture};
use crate::config::{Config, diff};

/// The configuration of a shard with these windows.
fn config(of: &str, windows: impl Iterator<Item = u32>) -> Config {
    let mut text = format!("[shard]\nof = \"{of}\"\n[graph]\nmax_concurrent = 100\n{ACCOUNT}");
    for n in windows {
        text += &format!(
            "[[window]]\nname = \"p{n}\"\naccount = \"contoso\"\nmailbox = \"p{n}@contoso.com\"\n"
        );
    }
    let mut config = ConfigFixture::with(&text).config();
    config.divide();
    config
}

#[test]
fn every_window_has_one_owner_that_all_shards_know() {
    let shards: Vec<Config> =
        (0..3).map(|ordinal| config(&format!("{ordinal}/3"), 0..60)).collect();
    for n in 0..60 {
        let name = format!("p{n}");
        let has = |shard: &&Config| shard.windows.iter().any(|window| *window.name == *name);
        let owners: Vec<u32> = (0..3).filter(|at| has(&&shards[*at as usize])).collect();
        let [owner] = owners[..] else { panic!("{name} is owned by {owners:?}") };
        for (ordinal, shard) in (0..).zip(&shards) {
            let known = shard.elsewhere.get(&*name).copied();
            assert_eq!(known, (ordinal != owner).then_some(owner), "{name} in shard {ordinal}");
        }
    }
    for shard in &shards {
        assert!(shard.windows.len() > 10);
        assert_eq!((shard.all_windows(), shard.max_concurrent()), (60, 33));
    }
    let alone = config("0/1", 0..60);
    assert_eq!((alone.windows.len(), alone.elsewhere.len(), alone.max_concurrent()), (60, 0, 100));
}

/// Only a quarter of a truncated file is this shard's, and less than 20 windows.
#[test]
fn drops_are_those_of_all_shards() {
    let (old, new) = (config("0/4", 0..60), config("0/4", 0..20));
    let difference = diff(&old, &new);
    assert!(difference.removed.len() < 20);
    assert_eq!(difference.drops_besides(None), 40);
    // Windows that move are not dropped. A reload cannot change the count, but who owns what.
    let new = config("1/4", 0..60);
    let difference = diff(&old, &new);
    assert_eq!(difference.moved, old.windows.len());
    assert_eq!(difference.drops_besides(None), 0);
    assert_eq!(difference.refused, ["shard.of"]);
}

#[test]
fn what_several_processes_cannot_have_is_refused() {
    let sink = "[sink.db]\ntype = \"postgres\"\nurl = \"postgres://db/calendars\"\n";
    check(
        &format!("[shard]\nof = \"0/2\"\n{sink}"),
        &[
            "calmirror.toml:4: sink.db.type: several shards cannot write one schema; let the shards publish to one stream with type = \"nats\", and fill the database from there",
        ],
    );
    check(
        "[shard]\nurl = \"http://calmirror-{ordinal}:8380\"\n",
        &[
            "calmirror.toml:2: shard.url: there is only one process; write of = \"ORDINAL/COUNT\", or remove url",
        ],
    );
    check(
        "[shard]\nof = \"3/3\"\n",
        &[
            "calmirror.toml:2: shard.of: the ordinal 3 is outside the count; 3 shards have the ordinals 0 to 2",
        ],
    );
}

#[test]
fn shards_without_addresses_are_a_warning() {
    let window = "[[window]]\naccount = \"contoso\"\nmailbox = \"a@contoso.com\"\n";
    let warnings_of =
        |shard: &str| ConfigFixture::with(&format!("[shard]\n{shard}{ACCOUNT}{window}")).warnings();
    let warnings = warnings_of("of = \"0/2\"\n");
    let start = "calmirror.toml:2: shard.of: the other shards have no address; set url, like ";
    assert!(warnings.len() == 1 && warnings[0].starts_with(start), "{warnings:?}");
    for quiet in ["of = \"0/1\"\n", "of = \"0/2\"\nurl = \"http://calmirror-{ordinal}:8380\"\n"] {
        assert_eq!(warnings_of(quiet), [""; 0], "{quiet}");
    }
}
