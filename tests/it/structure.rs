//! The shape of the source: unique type names, short functions, no import cycles, and a page about
//! it whose names exist.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// The most lines of a function, from `fn` to its closing brace.
const MAX_FUNCTION_LINES: usize = 80;

/// The most lines of unit tests in the file that they test; `FILE/tests.rs` has longer ones.
const MAX_INNER_TESTS: usize = 150;
/// The most lines of a file of tests; `FILE/tests/` has the parts of a longer one.
const MAX_TESTS: usize = 500;

/// The Rust files below a directory of the repository.
pub(crate) fn rust_files(directory: &str) -> Vec<PathBuf> {
    let mut directories = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(directory)];
    let mut found = Vec::new();
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found
}

/// Module paths (`store::record`) with their source, without comments and unit tests.
fn sources() -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found: BTreeMap<String, String> = BTreeMap::new();
    for path in rust_files("src") {
        let module = path.strip_prefix(&root).unwrap().with_extension("");
        let mut names: Vec<&str> = module.iter().filter_map(OsStr::to_str).collect();
        if names.contains(&"tests") {
            continue;
        }
        names.pop_if(|name| ["mod", "lib", "main"].contains(name));
        let text = code(&std::fs::read_to_string(&path).unwrap());
        found.entry(names.join("::")).or_default().push_str(&text);
    }
    assert!(found.len() > 150, "only {} source files found", found.len());
    found
}

/// The lines of a file up to its unit tests, comments removed.
fn code(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let is_test_module = |at: usize| {
        lines[at] == "#[cfg(test)]"
            && lines[at + 1..]
                .iter()
                .find(|line| !line.starts_with("#["))
                .is_some_and(|line| line.starts_with("mod ") && line.ends_with('{'))
    };
    let end = (0..lines.len()).find(|at| is_test_module(*at)).unwrap_or(lines.len());
    let stripped = lines[..end].iter().map(|line| line.split("//").next().unwrap_or_default());
    stripped.fold(String::new(), |text, line| text + line + "\n")
}

/// A line without visibility.
fn without_visibility(line: &str) -> &str {
    let line = line.trim_start();
    match line.strip_prefix("pub") {
        Some(rest) if rest.starts_with('(') => rest.split_once(") ").map_or(rest, |(_, rest)| rest),
        Some(rest) if rest.starts_with(' ') => &rest[1..],
        _ => line,
    }
}

fn identifier(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// The names of the types that a file declares, in macros and in modules of tests too, but not in
/// functions.
fn types(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    // Whether the indented lines belong to a module or to a macro call.
    let mut in_items = false;
    for line in text.lines().map(|line| line.split("//").next().unwrap_or_default().trim_end()) {
        let indent = line.len() - line.trim_start().len();
        let line = without_visibility(line);
        if indent == 0 && line.ends_with('{') {
            in_items = line.starts_with("mod ") || line.ends_with("! {");
        }
        if indent == 0 || indent == 4 && in_items {
            let kinds = ["struct ", "enum ", "trait ", "type ", "union "];
            let name = kinds.iter().find_map(|kind| line.strip_prefix(kind)).map(identifier);
            found.extend(name.filter(|name| !name.is_empty()));
        }
    }
    found
}

#[test]
fn no_two_types_share_a_name() {
    let mut owners: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for path in [rust_files("src"), rust_files("tests")].concat() {
        for name in types(&std::fs::read_to_string(&path).unwrap()) {
            owners.entry(name).or_default().push(path.display().to_string());
        }
    }
    assert!(owners.len() > 500, "only {} types found", owners.len());
    assert!(owners.contains_key("SegmentMode"), "types in macros are not found");
    assert!(owners.contains_key("WorkerFixture"), "types of tests are not found");
    let shared: Vec<_> = owners.iter().filter(|(_, owners)| owners.len() > 1).collect();
    assert!(shared.is_empty(), "several types have the same name: {shared:#?}");
}

/// The names that a module defines: functions, types, constants, modules and variants; and the
/// types that it implements something for.
fn defined_names(text: &str) -> BTreeSet<String> {
    let keywords = ["fn", "struct", "enum", "trait", "type", "const", "static", "mod"];
    let mut names = BTreeSet::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
        let definitions = words.windows(2).filter(|pair| keywords.contains(&pair[0]));
        names.extend(definitions.map(|pair| pair[1].to_owned()));
        let variant = identifier(line.trim_start());
        let rest = line.trim_start()[variant.len()..].trim_start();
        if variant.starts_with(char::is_uppercase) && rest.starts_with([',', '(', '{', '=']) {
            names.insert(variant);
        }
        if line.starts_with("impl") {
            names.extend(words.into_iter().map(str::to_owned));
        }
    }
    names
}

#[test]
fn names_in_the_architecture_page_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("docs/ARCHITECTURE.md")).unwrap();
    let files = rust_files("src");
    let modules: Vec<_> = sources().values().map(|text| defined_names(text)).collect();
    let table = page.find("## Where to look").unwrap();
    let (mut at, mut checked, mut missing) = (0, 0, Vec::new());
    for (number, text) in page.split('`').enumerate() {
        let in_table = at > table;
        at += text.len() + 1;
        let is_name = text.chars().all(|c| c.is_alphanumeric() || "_:".contains(c));
        let exists = if number % 2 == 0 || text.contains(char::is_whitespace) {
            continue;
        } else if text.ends_with(".rs") {
            root.join(text).exists() || files.iter().any(|file| file.ends_with(text))
        } else if is_name && (in_table || text.contains("::")) {
            modules.iter().any(|names| text.split("::").all(|name| names.contains(name)))
        } else {
            continue;
        };
        checked += 1;
        if !exists {
            missing.push(text);
        }
    }
    assert!(checked > 100, "only {checked} names found");
    assert!(missing.is_empty(), "named by docs/ARCHITECTURE.md and not in src: {missing:#?}");
}

/// The rooms that run everything: none of their files is without state or decisions.
#[test]
fn every_file_of_the_tasks_has_unit_tests() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut tested, mut missing) = (0, Vec::new());
    for path in rust_files("src") {
        let module = path.strip_prefix(&root).unwrap().with_extension("");
        let names: Vec<&str> = module.iter().filter_map(OsStr::to_str).collect();
        let is_task = ["worker", "supervisor", "daemon", "reload"].contains(&names[0]);
        if !is_task || names.contains(&"tests") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        if text.contains("#[cfg(test)]\nmod tests") {
            tested += 1;
        } else {
            missing.push(module);
        }
    }
    assert!(tested > 25, "only {tested} files found");
    assert!(missing.is_empty(), "files without unit tests: {missing:?}");
}

#[test]
fn no_function_is_longer_than_a_screen() {
    let mut long = Vec::new();
    for (module, text) in sources() {
        let lines: Vec<&str> = text.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let Some((head, rest)) = line.split_once("fn ") else { continue };
            if !head.split_whitespace().all(|word| {
                word.starts_with("pub") || ["const", "async", "unsafe", "in"].contains(&word)
            }) {
                continue;
            }
            let indent = &line[..line.len() - line.trim_start().len()];
            let end = format!("{indent}}}");
            let is_end = |line: &&str| **line == end || line.ends_with(';') && !line.contains('{');
            let body = &lines[at..];
            let is_short = line.ends_with('}');
            let length = body.iter().position(is_end).unwrap_or(0) + 1;
            let opens = body.iter().take(length).any(|line| line.ends_with('{'));
            let length = if opens {
                body.iter().position(|line| **line == end).unwrap_or(0) + 1
            } else {
                length
            };
            if !is_short && length > MAX_FUNCTION_LINES {
                long.push(format!("{module}::{} has {length} lines", identifier(rest)));
            }
        }
    }
    assert!(long.is_empty(), "{long:#?}");
}

#[test]
fn unit_tests_have_one_layout() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut faults = Vec::new();
    for path in [rust_files("src"), rust_files("tests")].concat() {
        let path = path.strip_prefix(root).unwrap();
        let file = path.display();
        let text = std::fs::read_to_string(root.join(path)).unwrap();
        let lines = text.lines().count();
        // Only what the library's tests and those of the whole share is elsewhere.
        let is_elsewhere =
            |line: &str| line.trim_start().starts_with("#[path") && !line.contains("/support/");
        if text.lines().any(is_elsewhere) {
            faults.push(format!("{file} has a path attribute"));
        }
        if path.ends_with("tests/mod.rs") {
            faults.push(format!("{file} belongs into a tests.rs"));
        }
        let is_test = path.iter().any(|name| name == "tests" || name == "tests.rs");
        if is_test && lines > MAX_TESTS {
            faults.push(format!("{file} has {lines} lines"));
        }
        let inner =
            text.split_once("\nmod tests {\n").map_or(0, |(_, tests)| tests.lines().count());
        if inner > MAX_INNER_TESTS + 1 {
            faults.push(format!("{file} has {inner} lines of unit tests"));
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

/// The paths of a `use` tree, `a::{b, c::d}` as `a::b` and `a::c::d`.
fn leaves(tree: &str) -> Vec<String> {
    let Some((prefix, rest)) = tree.split_once('{') else { return vec![tree.to_owned()] };
    let (mut depth, mut part, mut found) = (1, String::new(), Vec::new());
    let mut finish = |part: &mut String| {
        let part = std::mem::take(part);
        if !part.is_empty() {
            found.extend(leaves(&format!("{prefix}{part}")));
        }
    };
    for c in rest.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => {
                finish(&mut part);
                continue;
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
        part.push(c);
    }
    finish(&mut part);
    found
}

/// The absolute path that a path in `module` means, if it is one of this crate.
fn resolve(module: &str, path: &str, known: &BTreeMap<String, String>) -> Option<String> {
    if let Some(rest) = path.strip_prefix("crate::") {
        return Some(rest.to_owned());
    }
    let (mut base, mut rest) = (module.to_owned(), path);
    if let Some(own) = path.strip_prefix("self::") {
        return Some(format!("{base}::{own}"));
    }
    while let Some(above) = rest.strip_prefix("super::") {
        base = base.rsplit_once("::").map_or(String::new(), |(base, _)| base.to_owned());
        rest = above;
    }
    let first = rest.split("::").next().unwrap_or_default();
    let absolute = if base.is_empty() { rest.to_owned() } else { format!("{base}::{rest}") };
    let child = if base.is_empty() { first.to_owned() } else { format!("{base}::{first}") };
    (rest != path || known.contains_key(&child)).then_some(absolute)
}

/// The names that a module takes from others by `use` or by a path, each with whether `pub use`
/// passes it on.
fn imports(module: &str, known: &BTreeMap<String, String>) -> Vec<(String, bool)> {
    let mut found = Vec::new();
    for statement in known[module].split(';') {
        let line = statement.rsplit('\n').find(|line| without_visibility(line).starts_with("use "));
        let Some(start) = line else { continue };
        let from = statement.rfind(start).unwrap_or_default();
        let tree: String = without_visibility(&statement[from..])["use ".len()..]
            .replace(" as ", "#")
            .split_whitespace()
            .collect();
        for leaf in leaves(&tree) {
            let path = leaf.split('#').next().unwrap_or_default();
            if let Some(path) = resolve(module, path, known) {
                found.push((path, start.trim_start().starts_with("pub")));
            }
        }
    }
    let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let paths = known[module].split(|c| !is_path(c)).map(|path| path.trim_end_matches(':'));
    for path in paths.filter(|path| path.starts_with("crate::") || path.starts_with("super::")) {
        found.extend(resolve(module, path, known).map(|path| (path, false)));
    }
    found
}

/// The module that defines what a path names, re-exports followed.
fn owner(
    path: &str,
    known: &BTreeMap<String, String>,
    exports: &BTreeMap<String, String>,
    depth: u8,
) -> Option<String> {
    let mut module = path;
    while !known.contains_key(module) {
        if let Some(target) = exports.get(module).filter(|_| depth < 8) {
            return owner(&format!("{target}{}", &path[module.len()..]), known, exports, depth + 1);
        }
        module = module.rsplit_once("::")?.0;
    }
    Some(module.to_owned())
}

fn is_within(inner: &str, outer: &str) -> bool {
    inner == outer || inner.strip_prefix(outer).is_some_and(|rest| rest.starts_with("::"))
}

/// Whether imports lead from one module to another.
fn leads(edges: &BTreeMap<String, BTreeSet<String>>, from: &str, to: &str) -> bool {
    let mut seen = BTreeSet::new();
    let mut next = vec![from];
    while let Some(module) = next.pop() {
        for target in edges.get(module).into_iter().flatten() {
            if target == to {
                return true;
            }
            if seen.insert(target) {
                next.push(target);
            }
        }
    }
    false
}

/// A module and its own submodules count as one room: they may name each other.
#[test]
fn imports_between_files_have_no_cycles() {
    let known = sources();
    let mut exports = BTreeMap::new();
    for module in known.keys() {
        for (path, passed_on) in imports(module, &known) {
            let name = path.rsplit("::").next().unwrap_or_default();
            if passed_on {
                exports.insert(format!("{module}::{name}"), path);
            }
        }
    }
    let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for module in known.keys() {
        for (path, _) in imports(module, &known) {
            if let Some(target) = owner(&path, &known, &exports, 0)
                && !is_within(&target, module)
                && !is_within(module, &target)
            {
                edges.entry(module.clone()).or_default().insert(target);
            }
        }
    }
    let count: usize = edges.values().map(BTreeSet::len).sum();
    assert!(count > 300, "only {count} imports found");
    let cycles: Vec<&String> =
        edges.keys().filter(|module| leads(&edges, module, module)).collect();
    assert!(cycles.is_empty(), "modules that import each other in a circle: {cycles:#?}");
}
