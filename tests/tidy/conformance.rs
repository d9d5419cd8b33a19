//! The conformance tables name a test for each rule, and the test exists.
//!
//! A row is `| IMG-1 | `crate::module::tests::name`, … |`, `| IMG-2 | does not apply: why |` or, for what is still to be
//! proven, `| IMG-3 | open: what is missing |`. The number of open rows may only shrink.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::path::Path;

use super::{root, sources};

/// A page of rules: its table, the prefix of its ids, their numbers.
struct Page {
    table: &'static str,
    prefix: &'static str,
    numbers: &'static [RangeInclusive<u32>],
    /// How many rows may be open; lower it when one is closed.
    open_max: usize,
}

const PAGES: &[Page] = &[IMAGES, RUNTIME_CLASS, HOOKS, PODS];

const IMAGES: Page = Page {
    table: "docs/conformance/images.md",
    prefix: "IMG-",
    numbers: &[
        1..=16,
        20..=32,
        40..=65,
        70..=80,
        90..=112,
        120..=147,
        151..=151,
        160..=167,
        170..=178,
        180..=191,
        200..=209,
        220..=227,
        230..=247,
        250..=257,
        260..=269,
        300..=310,
        320..=321,
        330..=333,
    ],
    open_max: 0,
};

const RUNTIME_CLASS: Page =
    Page { table: "docs/conformance/runtimeclass.md", prefix: "RTC-", numbers: &[1..=82], open_max: 0 };

const HOOKS: Page = Page { table: "docs/conformance/hooks.md", prefix: "HOOK-", numbers: &[1..=110], open_max: 0 };

const PODS: Page = Page { table: "docs/conformance/hooks.md", prefix: "POD-", numbers: &[1..=74], open_max: 0 };

/// One in so many rules may not apply.
const APPLIES_TO_ALL_BUT_ONE_IN: usize = 20;

/// Rule to cell.
fn rows(page: &Page) -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(root().join(page.table)).unwrap();
    let row = |line: &str| {
        let mut cells = line.strip_prefix('|')?.split('|').map(str::trim);
        let (rule, proof) = (cells.next()?, cells.next()?);
        rule.starts_with(page.prefix).then(|| (rule.to_owned(), proof.to_owned()))
    };
    let mut found = BTreeMap::new();
    for (rule, proof) in text.lines().filter_map(row) {
        assert!(found.insert(rule.clone(), proof).is_none(), "{}: {rule} stands twice", page.table);
    }
    found
}

/// Names of test functions by the package that they stand in.
fn tests() -> BTreeMap<String, BTreeSet<String>> {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for path in sources() {
        let text = std::fs::read_to_string(&path).unwrap();
        let mut is_test = text.contains("proptest! {");
        let always = is_test;
        for line in text.lines().map(str::trim) {
            is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
            let function = line.strip_prefix("async fn ").or_else(|| line.strip_prefix("fn "));
            if let Some(name) = function.and_then(|rest| rest.split('(').next())
                && is_test
            {
                found.entry(package(&path)).or_default().insert(name.to_owned());
                is_test = always;
            }
        }
    }
    found
}

fn package(path: &Path) -> String {
    let mut parts = path.strip_prefix(root()).unwrap().iter().map(|part| part.to_string_lossy().into_owned());
    match parts.next().as_deref() {
        Some("crates") => parts.next().unwrap(),
        Some("xtask") => "xtask".to_owned(),
        _ => "sampan".to_owned(),
    }
}

fn check_proof(page: &Page, rule: &str, proof: &str, tests: &BTreeMap<String, BTreeSet<String>>) {
    let named: Vec<&str> = proof.split('`').skip(1).step_by(2).collect();
    assert!(!named.is_empty(), "{}: {rule} names no test: {proof}", page.table);
    for test in named {
        let package = test.split("::").next().unwrap_or_default();
        let name = test.rsplit("::").next().unwrap_or_default();
        let exists = tests.get(package).is_some_and(|names| names.contains(name));
        assert!(exists, "{}: {rule} names {test}, which does not exist", page.table);
    }
}

#[test]
fn each_rule_has_a_test_that_exists() {
    let tests = tests();
    for page in PAGES {
        let rows = rows(page);
        let wanted: BTreeSet<String> =
            page.numbers.iter().cloned().flatten().map(|number| format!("{}{number}", page.prefix)).collect();
        let listed: BTreeSet<String> = rows.keys().cloned().collect();
        assert_eq!(listed, wanted, "{} lists each rule once and no other", page.table);
        let (mut open, mut without) = (0, 0);
        for (rule, proof) in &rows {
            if proof.starts_with("open: ") {
                open += 1;
            } else if proof.starts_with("does not apply: ") {
                without += 1;
            } else {
                check_proof(page, rule, proof, &tests);
            }
        }
        assert!(open <= page.open_max, "{}: {open} open rules, at most {}", page.table, page.open_max);
        let allowed = rows.len() / APPLIES_TO_ALL_BUT_ONE_IN;
        assert!(without <= allowed, "{}: {without} rules that do not apply, at most {allowed}", page.table);
    }
}
