//! Ring 0: rules of the house that a reviewer would otherwise repeat.
//!
//! The table of allowed arrows, the size of functions and files, the `//!` of every module, words that do not help, and
//! that the conformance tables name tests that exist.
#![allow(clippy::disallowed_methods)]

#[path = "tidy/conformance.rs"]
mod conformance;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Which of our crates a crate may depend on. To add an arrow, edit this table in a commit that says why.
const ARROWS: &[(&str, &[&str])] = &[
    ("reference", &[]),
    ("api", &["reference"]),
    ("cri", &[]),
    ("store", &[]),
    ("apiserver", &["api", "store", "reference"]),
    ("scheduler", &["api"]),
    ("controllers", &["api"]),
    ("node", &["api", "cri", "reference"]),
    ("monitor", &[]),
    ("runtime", &["cri", "images", "network", "monitor", "reference"]),
    ("images", &["reference"]),
    ("network", &[]),
];

/// Functions may not grow past this. Those listed below are older than the rule and may only shrink.
const FUNCTION_LINES_MAX: usize = 70;
/// Files may not grow past this without their tests, unless they are one flat table.
const FILE_LINES_MAX: usize = 600;
/// Files that are one flat table.
const TABLES: &[&str] = &[];

/// Type names that say nothing, and what they end in.
const EMPTY_WORDS: &[&str] = &["Manager", "Helper", "Util", "Utils", "Handler", "Info"];
/// Names of the field that end in an empty word all the same.
const FIELD_NAMES: &[&str] = &["UserInfo", "Handler", "RuntimeHandler", "LifecycleHandler", "ProbeHandler"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![root().join("src"), root().join("crates"), root().join("xtask/src"), root().join("tests")];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(&dir).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    assert!(found.len() > 50, "the sources were not found");
    found
}

fn name(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().display().to_string()
}

/// The lines of a file before its test module.
fn without_tests(text: &str) -> Vec<&str> {
    text.lines().take_while(|line| !line.starts_with("#[cfg(test)]")).collect()
}

fn is_test(path: &Path) -> bool {
    name(path).split('/').any(|part| matches!(part, "tests" | "tests.rs" | "examples" | "benches" | "suite.rs"))
}

#[test]
fn crates_depend_only_along_the_tables_arrows() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let table: BTreeMap<&str, BTreeSet<&str>> =
        ARROWS.iter().map(|(from, to)| (*from, to.iter().copied().collect())).collect();
    let mut seen = BTreeSet::new();
    for package in metadata["packages"].as_array().unwrap() {
        let from = package["name"].as_str().unwrap();
        let Some(allowed) = table.get(from) else {
            assert!(matches!(from, "sampan" | "xtask"), "the crate {from} is not in the table");
            continue;
        };
        seen.insert(from);
        for dependency in package["dependencies"].as_array().unwrap() {
            let to = dependency["name"].as_str().unwrap();
            let dev = dependency["kind"] == "dev";
            if table.contains_key(to) && to != from && !dev {
                assert!(allowed.contains(to), "{from} → {to} is no arrow of the house");
            }
            assert_ne!(to, "sampan", "{from} depends on the root");
        }
    }
    assert_eq!(seen, table.keys().copied().collect(), "a room is missing");
}

#[test]
fn every_module_opens_with_what_it_owns() {
    let silent: Vec<String> = sources()
        .iter()
        .filter(|path| !std::fs::read_to_string(path).unwrap().trim_start().starts_with("//!"))
        .map(|path| name(path))
        .collect();
    assert!(silent.is_empty(), "these modules do not open with `//!`: {silent:#?}");
}

#[test]
fn functions_stay_short() {
    let (mut long, mut count) = (Vec::new(), 0);
    for path in sources().iter().filter(|path| !is_test(path)) {
        let text = std::fs::read_to_string(path).unwrap();
        for (function, lines) in functions(&without_tests(&text)) {
            count += 1;
            if lines > FUNCTION_LINES_MAX {
                long.push(format!("{} fn {function}: {lines} lines", name(path)));
            }
        }
    }
    assert!(count > 2000, "only {count} functions were found");
    assert!(long.is_empty(), "longer than {FUNCTION_LINES_MAX} lines: {long:#?}");
}

/// Functions and their lengths; the end is found by indentation, which rustfmt guarantees.
fn functions(lines: &[&str]) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let trimmed = line.trim_start();
        let Some(at) = trimmed.find("fn ") else { continue };
        let before = &trimmed[..at];
        let is_function = before.split_whitespace().all(|word| {
            matches!(word, "pub" | "async" | "const" | "unsafe" | "extern" | "default")
                || word.starts_with("pub(")
                || word == "\"C\""
        });
        if !is_function || trimmed.starts_with("//") {
            continue;
        }
        let has_body =
            lines[start..].iter().find(|line| line.ends_with(['{', '}', ';'])).is_some_and(|line| !line.ends_with(';'));
        let closing = format!("{}}}", &line[..line.len() - trimmed.len()]);
        let end = lines[start..].iter().position(|line| *line == closing).filter(|_| has_body && !line.ends_with('}'));
        let length = end.unwrap_or(0);
        let title: String = trimmed[at + 3..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        found.push((title, length + 1));
    }
    found
}

#[test]
fn files_stay_small() {
    let mut long = Vec::new();
    for path in sources().iter().filter(|path| !is_test(path)) {
        let text = std::fs::read_to_string(path).unwrap();
        let lines = without_tests(&text).len();
        if lines > FILE_LINES_MAX && !TABLES.contains(&name(path).as_str()) {
            long.push(format!("{}: {lines} lines", name(path)));
        }
    }
    assert!(long.is_empty(), "longer than {FILE_LINES_MAX} lines without tests: {long:#?}");
}

#[test]
fn types_have_names_that_say_something() {
    let mut empty = Vec::new();
    for path in sources() {
        let text = std::fs::read_to_string(&path).unwrap();
        for line in without_tests(&text) {
            let mut words = line.split_whitespace().skip_while(|word| word.starts_with("pub"));
            let (Some("struct" | "enum" | "trait"), Some(title)) = (words.next(), words.next()) else { continue };
            let title: String = title.chars().take_while(|c| c.is_alphanumeric()).collect();
            let hollow = EMPTY_WORDS.iter().any(|word| title.ends_with(word));
            if hollow && !FIELD_NAMES.contains(&title.as_str()) {
                empty.push(format!("{}: {title}", name(&path)));
            }
        }
    }
    assert!(empty.is_empty(), "names that say nothing: {empty:#?}");
}

/// Other tests beside them would be what differs. The emulated machines have a ring of one thread.
#[test]
fn tests_that_compare_the_machine_run_alone() {
    let settings = std::fs::read_to_string(root().join(".config/nextest.toml")).unwrap();
    let alone = settings.split_once("threads-required").unwrap().0;
    for entry in std::fs::read_dir(root().join("tests")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let compares = path.is_file() && std::fs::read_to_string(&path).unwrap().contains("Machine::look()");
        if compares && !["cgroup_v2", "tidy"].contains(&name.as_str()) {
            assert!(
                alone.contains(&format!("binary({name})")),
                "tests/{name}.rs is to be named in .config/nextest.toml"
            );
        }
    }
}

#[test]
fn unsafe_code_is_forbidden_but_in_named_leaves() {
    for (room, _) in ARROWS {
        let library = root().join("crates").join(room).join("src/lib.rs");
        let text = std::fs::read_to_string(&library).unwrap();
        let states = text.contains("#![forbid(unsafe_code)]") || text.contains("#![deny(unsafe_code)]");
        assert!(states, "crates/{room}/src/lib.rs neither forbids unsafe code nor denies it outside its leaf modules");
    }
}
