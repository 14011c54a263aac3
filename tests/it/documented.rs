//! `docs/graph.md` names tests that exist.

use std::collections::BTreeSet;
use std::path::Path;

/// Collects the names of all functions in the Rust files below a directory.
fn functions(directory: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            functions(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let names = text.lines().filter_map(|line| line.split_once("fn ")).map(|(_, rest)| {
                rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default()
            });
            found.extend(names.map(str::to_owned));
        }
    }
}

#[test]
fn every_test_that_the_table_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut known = BTreeSet::new();
    functions(&root.join("src"), &mut known);
    functions(&root.join("tests"), &mut known);
    let text = std::fs::read_to_string(root.join("docs/graph.md")).unwrap();
    let mut named = BTreeSet::new();
    for row in text.lines().filter(|line| line.starts_with('|')) {
        let proof = row.trim_end_matches('|').rsplit('|').next().unwrap_or_default();
        // Names in code style; other code spans are not names of tests.
        let names = proof.split('`').skip(1).step_by(2).filter(|name| name.contains('_'));
        named.extend(names.map(str::to_owned));
    }
    assert!(named.len() > 60, "the table names {} tests", named.len());
    let missing: Vec<&String> = named.difference(&known).collect();
    assert!(missing.is_empty(), "docs/graph.md names tests that do not exist: {missing:?}");
}
