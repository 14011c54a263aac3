//! `docs/graph.md`, `docs/authentication.md` and `docs/fleets.md` name tests that exist, and the lists of the
//! documents, of the page and of `openapi.json` are complete.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use calmirror::mirror::failure::ErrorKind;
use calmirror::mirror::status::{ResyncReason, WindowState};

use crate::structure::rust_files;

/// The names of all functions in Rust files.
fn functions(files: Vec<PathBuf>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for path in files {
        let text = std::fs::read_to_string(path).unwrap();
        let names = text.lines().filter_map(|line| line.split_once("fn ")).map(|(_, rest)| {
            rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default()
        });
        found.extend(names.map(str::to_owned));
    }
    found
}

/// The names of tests in the last columns of the tables of a document.
fn named_tests(document: &str) -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(document);
    let text = std::fs::read_to_string(path).unwrap();
    let mut named = BTreeSet::new();
    for row in text.lines().filter(|line| line.starts_with('|')) {
        let proof = row.trim_end_matches('|').rsplit('|').next().unwrap_or_default();
        // Names in code style; other code spans are files, or not names of tests.
        let names = proof.split('`').skip(1).step_by(2);
        let names = names.filter(|name| name.contains('_') && !name.contains('/'));
        named.extend(names.map(str::to_owned));
    }
    named
}

#[test]
fn every_test_named_in_a_document_exists() {
    let known = functions([rust_files("src"), rust_files("tests")].concat());
    let documents = [("docs/graph.md", 60), ("docs/authentication.md", 8), ("docs/fleets.md", 6)];
    for (document, least) in documents {
        let named = named_tests(document);
        assert!(named.len() > least, "{document} names {} tests", named.len());
        let missing: Vec<&String> = named.difference(&known).collect();
        assert!(missing.is_empty(), "{document} names tests that do not exist: {missing:?}");
    }
}

#[test]
fn every_list_has_each_state_kind_and_reason() {
    let states = WindowState::ALL.map(WindowState::as_str);
    // Incomplete rounds have a state, and no error of their own to look up.
    let kinds = ErrorKind::all().filter(|kind| *kind != ErrorKind::Incomplete);
    let kinds: Vec<&str> = kinds.map(ErrorKind::as_str).collect();
    let reasons = ResyncReason::ALL.map(ResyncReason::as_str);
    // The rounds of snapshot mode are no resyncs to the readers of the API.
    let shown = ResyncReason::resyncs().filter(|reason| *reason != ResyncReason::Snapshot);
    let shown: Vec<&str> = shown.map(ResyncReason::as_str).collect();
    // The file, the text before the list and after it, the form of an element, the elements.
    let lists: [(&str, &str, &str, &str, &[&str]); 11] = [
        ("docs/operations.md", "| state | means", "\n\n", "`_`", &states),
        ("docs/operations.md", "| kind | cause", "\n\n", "| `_` |", &kinds),
        ("docs/api.md", "| `state` | ", "\n", "`_`", &states),
        ("docs/api.md", "| `resyncs`, `last_resync`", "\n", "`_`", &shown),
        ("src/api/openapi.json", "\"name\": \"state\"", "}", "_", &states),
        ("src/api/openapi.json", "\"State\": {", "]", "\"_\"", &states),
        ("src/api/openapi.json", "\"unhealthy\",", "]", "\"_\"", &states),
        ("src/api/openapi.json", "\"unhealthy\": {", "\"clock\"", "\"_\": {", &states),
        ("src/api/page/words.js", "export const STATES", "};", "\n  _: ", &states),
        ("src/api/page/words.js", "const REMEDIES", "};", "\n  _: ", &states),
        ("src/api/page/words.js", "const REASONS", "};", "\n  _: ", &reasons),
    ];
    let mut missing = Vec::new();
    for (file, from, to, form, words) in lists {
        let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file));
        let text = text.unwrap();
        let (_, list) = text.split_once(from).unwrap_or_else(|| panic!("{file} has no {from}"));
        let list = list.split(to).next().unwrap_or_default();
        let lacks = |word: &&&str| !list.contains(&form.replace('_', word));
        missing.extend(words.iter().filter(lacks).map(|word| format!("{file}, {from}: {word}")));
    }
    assert!(missing.is_empty(), "lists that lack an element: {missing:#?}");
}
