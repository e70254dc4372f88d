//! Holds the house: which room may import which, which crate lives where, and that ARCHITECTURE.md
//! names files that exist.
//!
//! It reads the sources as text. That is coarse (a path inside a string would count) and enough:
//! what it looks for is written plainly or not at all.

use std::fs;
use std::path::{Path, PathBuf};

/// The floors, top first. A room imports from floors below its own, and never from its neighbours.
/// `maillog` stands above `queue`, since its lines are made from the queue's rows; the queue
/// itself tells what happened to the caller and in its tables, not in the mail log.
const FLOORS: &[&[&str]] = &[
    &["main"],
    // Only in tests; it drives scheduler and delivery together, as serve does.
    &["cli", "simulation"],
    &["submission", "scheduler", "delivery"],
    &["maillog"],
    &["queue"],
    &["config", "clock"],
    &["mail", "sasl", "kit"],
];

/// Crates with a home, and the rooms or files (below `src/`) that are it.
const HOMES: &[(&str, &[&str])] = &[
    ("rusqlite", &["queue/"]),
    ("hickory_resolver", &["delivery/route/dns.rs"]),
    ("hickory_server", &["cli/demo_dns.rs"]),
    ("tokio", &["delivery/route/dns.rs", "cli/demo_dns.rs"]),
    ("toml", &["config/"]),
    // For CRAM-MD5 and nothing else.
    ("md5", &["sasl/cram_md5.rs", "submission/auth/tests.rs"]),
    ("idna", &["mail/address.rs"]),
    ("rustix", &["queue/sqlite/space.rs", "delivery/smtp/dial.rs", "delivery/smtp/login/token_command.rs"]),
    ("signal_hook", &["cli/serve.rs"]),
    ("sd_notify", &["cli/serve.rs"]),
    ("clap", &["main.rs", "cli/"]),
    // The library's errors are types; only the binary may say "anyhow".
    ("anyhow", &["main.rs", "cli/"]),
];

struct Source {
    /// Below `src/`: `delivery/route/dns.rs`.
    path: String,
    text: String,
}

impl Source {
    /// The first word of the path: `delivery`, `maillog`.
    fn room(&self) -> &str {
        let first = self.path.split('/').next().unwrap_or_default();
        first.strip_suffix(".rs").unwrap_or(first)
    }

    /// How many modules deep the file is: 1 for `queue/mod.rs`, 2 for `queue/id.rs`.
    fn depth(&self) -> usize {
        let names = self.path.split('/').count();
        if self.path.ends_with("/mod.rs") { names - 1 } else { names }
    }

    /// The text without the lines that are comments: they may link wherever they like.
    fn code(&self) -> String {
        let is_code = |line: &&str| !line.trim_start().starts_with("//");
        self.text.lines().filter(is_code).collect::<Vec<_>>().join("\n")
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn sources() -> Vec<Source> {
    fn walk(directory: &Path, below: &Path, found: &mut Vec<Source>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, below, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(below).unwrap().to_str().unwrap().to_owned();
                found.push(Source { path: name, text: fs::read_to_string(&path).unwrap() });
            }
        }
    }
    let mut found = Vec::new();
    let below = root().join("src");
    walk(&below, &below, &mut found);
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn floor(room: &str) -> Option<usize> {
    FLOORS.iter().position(|rooms| rooms.contains(&room))
}

/// The rooms that a file names, in `use` lines and in paths: through `crate::`, `postrider::`, or as
/// many `super::` as lead to the root. Its own is not among them.
fn imports(source: &Source) -> Vec<String> {
    let code = source.code();
    let mut named = Vec::new();
    for root in ["crate::", "postrider::"] {
        occurrences(&code, root).for_each(|rest| named.extend(first_words(rest)));
    }
    let climb = "super::".repeat(source.depth());
    occurrences(&code, &climb).for_each(|rest| {
        // One `super::` more than the depth is an inline `mod tests` on its way up.
        named.extend(first_words(rest.trim_start_matches("super::")));
    });
    named.retain(|word| floor(word).is_some() && word != source.room());
    named.sort();
    named.dedup();
    named
}

/// What follows each `path` that is not the tail of a longer name.
fn occurrences<'t>(code: &'t str, path: &'t str) -> impl Iterator<Item = &'t str> {
    code.match_indices(path).filter_map(move |(at, _)| {
        let before = code[..at].chars().next_back();
        let whole = before.is_none_or(|before| !before.is_alphanumeric() && before != '_' && before != ':');
        whole.then(|| &code[at + path.len()..])
    })
}

/// `a::b` gives `a`; `{a, b::{c, d}}` gives `a` and `b`.
fn first_words(rest: &str) -> Vec<String> {
    let word = |text: &str| -> String {
        text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
    };
    let Some(group) = rest.strip_prefix('{') else { return vec![word(rest)] };
    let mut words = vec![word(group)];
    let mut depth = 1;
    for (at, byte) in group.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            b',' if depth == 1 => words.push(word(&group[at + 1..])),
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    words
}

/// Whether the code names this crate: as a path, or alone in a `use`.
fn uses_crate(code: &str, name: &str) -> bool {
    occurrences(code, &format!("{name}::")).next().is_some()
        || code
            .lines()
            .any(|line| line.trim().trim_start_matches("pub ").starts_with(&format!("use {name};")))
}

fn complain(what: &str, wrong: &[String]) {
    assert!(wrong.is_empty(), "{what}:\n  {}", wrong.join("\n  "));
}

#[test]
fn imports_point_down_and_never_sideways() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| source.path != "lib.rs") {
        let Some(own) = floor(source.room()) else {
            wrong.push(format!("src/{} is in a room that has no floor yet: give it one here", source.path));
            continue;
        };
        let upward = imports(source).into_iter().filter(|room| floor(room).is_some_and(|other| other <= own));
        wrong.extend(upward.map(|room| format!("src/{} imports {room}", source.path)));
    }
    complain("imports that point up or sideways", &wrong);
}

#[test]
fn each_crate_is_used_at_home_only() {
    let mut wrong = Vec::new();
    for source in sources() {
        let code = source.code();
        let strays = HOMES
            .iter()
            .filter(|(_, homes)| !homes.iter().any(|home| source.path.starts_with(home)))
            .filter(|(name, _)| uses_crate(&code, name));
        wrong.extend(strays.map(|(name, homes)| {
            format!("src/{} uses {name}, which lives in {}", source.path, homes.join(" and "))
        }));
    }
    complain("crates away from home", &wrong);
}

#[test]
fn every_file_opens_with_what_it_is() {
    let silent = sources().into_iter().filter(|source| !source.text.starts_with("//! "));
    complain(
        "files without a //! header",
        &silent.map(|source| format!("src/{}", source.path)).collect::<Vec<_>>(),
    );
}

#[test]
fn architecture_names_only_files_that_exist_and_every_room() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let quoted: Vec<&str> = text.split('`').skip(1).step_by(2).collect();
    let mut wrong = Vec::new();
    for name in quoted.iter().filter(|name| name.ends_with(".rs") || name.ends_with('/')) {
        if !root().join("src").join(name).exists() && !root().join(name).exists() {
            wrong.push(format!("{name} is named and does not exist"));
        }
    }
    for source in sources().iter().filter(|source| source.path != "lib.rs") {
        let room = source.room();
        let (file, folder) = (format!("{room}.rs"), format!("{room}/"));
        if !quoted.iter().any(|name| *name == file || name.starts_with(&folder)) {
            wrong.push(format!("the room {room} is not named"));
        }
    }
    wrong.dedup();
    complain("ARCHITECTURE.md does not tell the truth", &wrong);
}

/// The reader of imports, on what it must not overlook.
#[test]
fn imports_are_found_in_every_form() {
    let named = |path: &str, text: &str| imports(&Source { path: path.to_owned(), text: text.to_owned() });
    assert_eq!(named("queue/id.rs", "use crate::mail::Address;"), ["mail"]);
    assert_eq!(named("queue/id.rs", "use crate::{\n    config::{A, B},\n    mail,\n};"), ["config", "mail"]);
    assert_eq!(named("queue/id.rs", "fn f() -> crate::scheduler::Job;"), ["scheduler"]);
    assert_eq!(named("queue/id.rs", "use super::super::delivery::dns;"), ["delivery"]);
    assert_eq!(named("queue/id.rs", "use super::rows::Job;"), [""; 0]);
    assert_eq!(named("maillog.rs", "use super::{queue, mail};"), ["mail", "queue"]);
    assert_eq!(named("main.rs", "postrider::cli::run()"), ["cli"]);
    assert_eq!(named("queue/mod.rs", "mod tests {\n    use super::super::cli;\n}"), ["cli"]);
    assert_eq!(named("queue/id.rs", "use crate::queue::Job;\n// as crate::cli does"), [""; 0]);
    assert!(uses_crate("use tokio::runtime;", "tokio"));
    assert!(uses_crate("    use tokio;", "tokio"));
    assert!(!uses_crate("use my_tokio::runtime; // tokio", "tokio"));
}
