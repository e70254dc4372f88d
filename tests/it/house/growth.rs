//! Every collection that a file keeps is named in docs/security.md, under "What can grow, and how far", with its bound;
//! or here, where nothing but the operator's own files makes it grow.

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

#[test]
fn every_collection_is_in_the_table_of_what_can_grow() {
    let page = std::fs::read_to_string(root().join("docs/security.md")).unwrap();
    let (_, section) = page.split_once("## What can grow, and how far").expect("the section");
    let section = section.split("\n## ").next().unwrap();
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
