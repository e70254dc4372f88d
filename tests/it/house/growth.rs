//! Every collection that a file keeps is named in docs/security.md, under "What can grow, and how far", with its bound
//! and the test that fills it beyond; or here, where nothing but the operator's own files makes it grow.

use std::collections::BTreeSet;

use super::source::{root, sources};

/// Types that grow, as a field, an alias or a static declares them. (A `Vec` that grows is part of one of these, or
/// is read whole and bounded where it is read.)
const GROWING: [&str; 6] = ["HashMap<", "HashSet<", "BTreeMap<", "BTreeSet<", "VecDeque<", "TtlMap<"];

/// Files whose collections hold what the operator wrote, or last for a call.
const OF_THE_OPERATOR: [&str; 8] = [
    "config/atrn.rs",
    "config/reading.rs",
    "config/settings.rs",
    "kit/bounded.rs",
    "submission/session/service.rs",
    // /etc/hosts.
    "delivery/route/dns.rs",
    // One question to the database.
    "queue/sqlite/due.rs",
    "delivery/report/bounce/returned.rs",
];

/// Whether a line declares a field, a type alias or a static of such a type.
fn declares(line: &str) -> bool {
    let line = line.trim_start();
    let is_code = !line.starts_with("//") && !line.starts_with("let ") && !line.starts_with("use ");
    let is_function = line.contains("fn ") || line.contains("->") || line.contains(": &");
    let named = line.split_once(':').is_some_and(|(name, _)| {
        let name = name.trim_start_matches("pub ").rsplit(' ').next().unwrap_or_default();
        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    });
    let declared = (named && line.ends_with(',')) || line.starts_with("struct ") || line.contains("type ");
    is_code && !is_function && declared && GROWING.iter().any(|kind| line.contains(kind))
}

fn section() -> String {
    let page = std::fs::read_to_string(root().join("docs/security.md")).unwrap();
    let (_, section) = page.split_once("## What can grow, and how far").expect("the section");
    section.split("\n## ").next().unwrap().to_owned()
}

/// The tests that the last column of a row names: what stands behind `cargo test --lib` or `--test it`.
fn tests_of(row: &str) -> Vec<&str> {
    let last = row.trim_end_matches('|').rsplit('|').next().unwrap_or_default();
    last.split('`')
        .filter_map(|code| code.strip_prefix("cargo test --")?.split_once(' '))
        .filter_map(|(kind, test)| {
            let test = if kind == "test" { test.strip_prefix("it ")? } else { test };
            Some(test)
        })
        .collect()
}

/// A test of its own for each bound: a module would go on having tests when that of this bound is gone.
#[test]
fn every_bound_has_a_test_that_exists() {
    let section = section();
    let tests: BTreeSet<String> = ["src", "tests/it"]
        .into_iter()
        .flat_map(sources)
        .flat_map(|source| {
            let names = source.text.split("#[test]\n").skip(1).filter_map(|rest| {
                Some(rest.trim_start().strip_prefix("fn ")?.split('(').next()?.to_owned())
            });
            names.collect::<Vec<_>>()
        })
        .collect();
    let rows: Vec<&str> =
        section.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| what |")).collect();
    assert!(rows.len() >= 30, "{} rows: is the search broken?", rows.len());
    let is_held = |row: &&&str| {
        let named = tests_of(row);
        let is_test = |test: &&str| test.rsplit("::").next().is_some_and(|name| tests.contains(name));
        !named.is_empty() && named.iter().all(is_test)
    };
    let unheld: Vec<&&str> = rows.iter().filter(|row| !is_held(row)).collect();
    assert!(
        unheld.is_empty(),
        "name in the last column the test that fills it beyond its bound: {unheld:#?}"
    );
}

#[test]
fn every_collection_is_in_the_table_of_what_can_grow() {
    let section = section();
    let mut missing = BTreeSet::new();
    let mut found = 0;
    for source in sources("src") {
        let path = source.path.as_str();
        let is_test = source.is_test() || path.starts_with("simulation");
        let (code, _) = source.code_and_tests();
        if is_test || OF_THE_OPERATOR.contains(&path) || !code.lines().any(declares) {
            continue;
        }
        found += 1;
        if !section.contains(&format!("`{path}`")) {
            missing.insert(path.to_owned());
        }
    }
    assert!(found >= 15, "{found} files with collections: is the search broken?");
    assert!(missing.is_empty(), "say in docs/security.md how far these can grow: {missing:#?}");
}
