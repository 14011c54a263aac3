//! Sizes have units and bounds.

use super::{ACCOUNT, ConfigFixture};

/// A window without warnings of its own.
const WINDOW: &str = "[[window]]\naccount = \"contoso\"\nmailbox = \"alice@contoso.com\"\n";

#[test]
fn a_size_has_a_unit_and_a_minimum() {
    let unit = "write it with its unit, in quotes, such as \"128MiB\"";
    for (written, fault) in [
        ("134217728", &format!("a size without a unit; {unit}")),
        ("\"128\"", &format!("not a size: \"128\"; {unit}")),
        ("\"lots\"", &format!("not a size: \"lots\"; {unit}")),
        ("\"1023KiB\"", &"too small; write at least 1.0 MiB".to_owned()),
    ] {
        let fixture = ConfigFixture::with(&format!("[store]\ncache = {written}"));
        assert_eq!(fixture.faults(), [format!("calmirror.toml:2: store.cache: {fault}")]);
    }
}

#[test]
fn a_cache_that_is_larger_than_the_memory_is_warned_about() {
    let warnings = |cache: &str| {
        let store = format!("[store]\ncache = \"{cache}\"\n");
        ConfigFixture::with(&format!("{ACCOUNT}{WINDOW}{store}")).warnings()
    };
    assert_eq!(warnings("16MiB"), [""; 0]);
    let [warning] = &warnings("1PiB")[..] else { panic!() };
    let place = "calmirror.toml:10: store.cache: 1073741824 MiB are more than the memory of ";
    let memory = warning.strip_prefix(place).and_then(|rest| rest.split(' ').next());
    assert!(memory.is_some_and(|mib| mib.parse::<u64>().is_ok_and(|mib| mib > 0)), "{warning}");
}
