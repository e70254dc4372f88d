//! Holds the house: which room may import which, which crate lives where, how long files and functions may be,
//! which words are not used, and that ARCHITECTURE.md names files that exist.
//!
//! It reads the sources as text. That is coarse and enough: what it looks for is written plainly or not at all.

mod graph;
mod growth;
pub mod source;

use std::collections::BTreeSet;
use std::fs;

use graph::{Edge, circles, edges};
use source::{files, root, sources};

/// The floors, top first. A room imports from floors below its own, and never from its neighbours.
/// `maillog` stands above `queue`, since its lines are made from the queue's rows; the queue
/// itself tells what happened to the caller and in its tables, not in the mail log.
const FLOORS: &[&[&str]] = &[
    &["main"],
    // Only in tests; it drives scheduler and delivery together, as serve does.
    &["cli", "simulation"],
    &["monitoring"],
    &["submission", "scheduler", "delivery"],
    &["maillog"],
    &["queue"],
    &["config", "clock"],
    &["mail", "sasl"],
    &["kit"],
];

/// Crates with a home, and the rooms or files (below `src/`) that are it.
const HOMES: &[(&str, &[&str])] = &[
    ("rusqlite", &["queue/sqlite/"]),
    ("hickory_resolver", &["delivery/route/dns/"]),
    ("futures_util", &["delivery/route/dns/"]),
    ("tokio", &["delivery/route/dns.rs", "delivery/route/dns/"]),
    ("toml", &["config/"]),
    // For CRAM-MD5 and nothing else.
    ("md5", &["sasl/cram_md5.rs", "submission/auth/tests.rs"]),
    ("idna", &["mail/address.rs"]),
    (
        "rustix",
        &[
            "cli/dkim.rs",
            "config/guarded.rs",
            "queue/sqlite/space/ballast.rs",
            "delivery/smtp/dial/race.rs",
            "delivery/smtp/login/token_command.rs",
            "delivery/smtp/wire.rs",
            "cli/table.rs",
            "cli/top/terminal.rs",
            "cli/who.rs",
            "delivery/route/dns/system.rs",
            "monitoring/http/listener.rs",
            "queue/sqlite/backup.rs",
            "queue/sqlite/files.rs",
            "queue/sqlite/space.rs",
            "submission/session/listener.rs",
            "submission/session/unix_socket.rs",
            "submission/wire/certificate/tests.rs",
        ],
    ),
    ("ureq", &["delivery/https.rs"]),
    ("httparse", &["monitoring/http/request.rs"]),
    ("prometheus_client", &["monitoring/metrics/exposition.rs"]),
    (
        "nix",
        &[
            "queue/sqlite/checkpoints.rs",
            "submission/session/unix_socket.rs",
            "submission/users/local_users.rs",
            "cli/sendmail.rs",
        ],
    ),
    (
        "signal_hook",
        &["cli/demo.rs", "cli/queue/change.rs", "cli/serve.rs", "cli/sql.rs", "cli/top/terminal.rs"],
    ),
    ("sd_notify", &["cli/serve.rs"]),
    ("listenfd", &["cli/serve/inherited.rs"]),
    ("rustyline", &["cli/sql.rs"]),
    ("clap", &["main.rs", "cli/"]),
    // The library's errors are types; only the binary may say "anyhow".
    ("anyhow", &["main.rs", "cli/"]),
];

/// The wings of a room (its folders, and the files beside them by name), top first. A wing imports only from those
/// behind it in the list. The room's own `mod.rs`, which opens it to others, stands above them all.
const WINGS: &[(&str, &[&str])] = &[
    ("delivery", &["fuzzing", "job", "report", "host", "sts", "https", "route", "smtp"]),
    (
        "submission",
        &[
            "fuzzing", "session", "protocol", "message", "auth", "limits", "users", "wire", "replies",
            "syntax", "ports",
        ],
    ),
];

/// Lines that a file may have, its tests apart.
const FILE_LINES_MAX: usize = 600;
/// Lines that a function may have, from its name to the end of its body.
const FUNCTION_LINES_MAX: usize = 70;
/// Where a comment's line ends at the latest. `cargo fmt` holds code to its own width and leaves comments alone.
const COMMENT_WIDTH_MAX: usize = 120;

/// What the field calls things that were called so only here. A word with a capital or an underline is meant as a
/// name in code; all others anywhere, documents and the schema too.
const BANNED: &[(&str, &str)] = &[
    ("berth", "pool key"),
    ("berths", "pool keys"),
    ("bounce_at", "bounce_requested_at"),
    ("dot_at", "in_doubt_since"),
    ("in_one_go", "single_write"),
    ("lock_step", "no_pipelining"),
    ("put_back", "requeue"),
    ("rung", "TLS level"),
    ("said_by", "reply_source"),
    ("unreported", "pending_reports"),
    ("Census", "SessionTable"),
    ("Course", "SessionScratch"),
    ("Disorder", "PipelineFault"),
    ("Door", "ListenerShared"),
    ("Doubtful", "Failing"),
    ("Fate", "NextState"),
    ("Flaw", "AuthError"),
    ("Gathered", "PendingReport"),
    ("GoOn", "Intermediate"),
    ("Insight", "OperatorQueries"),
    ("Leaving", "SourceAddresses"),
    ("Meaning", "ReplyClass"),
    ("Muddled", "OutOfSync"),
    ("NotNow", "Transient"),
    ("Office", "OperatorInfo"),
    ("Patience", "Timeouts"),
    ("Presence", "SessionHandle"),
    ("Rung", "TlsLevel"),
    ("Setup", "DeliveryContext"),
    ("Shares", "WorkerQuota"),
    ("Speaker", "ReplySource"),
    ("Unproved", "Untested"),
    ("Verdict", "ruling"),
];

fn floor(room: &str) -> Option<usize> {
    FLOORS.iter().position(|rooms| rooms.contains(&room))
}

/// Below which folder or file of its room a file is: `smtp`, `limits`; None for the room's own `mod.rs`.
fn wing(path: &str) -> Option<&str> {
    let (_, inside) = path.split_once('/')?;
    let name = inside.split('/').next()?;
    (name != "mod.rs").then(|| name.strip_suffix(".rs").unwrap_or(name))
}

fn room(path: &str) -> &str {
    let first = path.split('/').next().unwrap_or_default();
    first.strip_suffix(".rs").unwrap_or(first)
}

/// Imports of a room on the same floor or above.
fn sideways(edges: &[Edge]) -> Vec<String> {
    let wrong = edges.iter().filter(|edge| room(&edge.from) != room(&edge.to)).filter(|edge| {
        let (Some(from), Some(to)) = (floor(room(&edge.from)), floor(room(&edge.to))) else { return false };
        to <= from
    });
    wrong.map(|edge| format!("src/{} imports src/{}", edge.from, edge.to)).collect()
}

/// Imports within a room of a wing on the same height or above.
fn upward(wings: &[(&str, &[&str])], edges: &[Edge]) -> Vec<String> {
    let mut wrong = Vec::new();
    for (name, order) in wings {
        let height =
            |path: &str| wing(path).map_or(Some(0), |wing| Some(1 + order.iter().position(|w| *w == wing)?));
        for edge in
            edges.iter().filter(|edge| room(&edge.from) == *name && room(&edge.to) == *name && edge.item)
        {
            match (height(&edge.from), height(&edge.to)) {
                (Some(from), Some(to)) if to > from || wing(&edge.from) == wing(&edge.to) => {}
                (Some(_), Some(_)) => {
                    wrong.push(format!("{name}: src/{} imports src/{}", edge.from, edge.to))
                }
                _ => wrong.push(format!("{name}: src/{} or src/{} is not in WINGS", edge.from, edge.to)),
            }
        }
    }
    wrong
}

/// The circles that go through several wings of a room, each as its files. The files beside the wings are one more.
fn circles_across_wings(edges: &[Edge]) -> Vec<String> {
    let paths = edges.iter().flat_map(|edge| [edge.from.as_str(), edge.to.as_str()]);
    let folders: BTreeSet<(&str, Option<&str>)> =
        paths.filter(|path| path.matches('/').count() > 1).map(|path| (room(path), wing(path))).collect();
    let is_across = |circle: &BTreeSet<&str>| {
        let wings = circle.iter().map(|path| {
            let place = (room(path), wing(path));
            if folders.contains(&place) { place } else { (place.0, None) }
        });
        wings.collect::<BTreeSet<_>>().len() > 1
    };
    let circles = circles(edges).into_iter().filter(is_across);
    circles.map(|circle| format!("circle: {}", circle.into_iter().collect::<Vec<_>>().join(" "))).collect()
}

/// Whether the code names this crate: as a path, or alone in a `use`.
fn uses_crate(code: &str, name: &str) -> bool {
    let path = format!("{name}::");
    let is_first = |at: usize| {
        let before = code[..at].chars().next_back();
        before.is_none_or(|before| !before.is_alphanumeric() && before != '_' && before != ':')
    };
    let alone = format!("use {name};");
    code.match_indices(&path).any(|(at, _)| is_first(at))
        || code.lines().any(|line| line.trim().trim_start_matches("pub ").starts_with(&alone))
}

/// The lines with a comment that go on behind the margin.
fn wide_comments(text: &str) -> Vec<usize> {
    let is_wide =
        |line: &str| line.chars().count() > COMMENT_WIDTH_MAX && line.trim_start().starts_with("//");
    text.lines().enumerate().filter(|(_, line)| is_wide(line)).map(|(at, _)| at + 1).collect()
}

/// Where a text has a word as a whole.
fn lines_with(text: &str, word: &str) -> Vec<usize> {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let has = |line: &str| {
        line.match_indices(word)
            .any(|(at, _)| !line[..at].ends_with(is_part) && !line[at + word.len()..].starts_with(is_part))
    };
    text.lines().enumerate().filter(|(_, line)| has(line)).map(|(at, _)| at + 1).collect()
}

fn complain(what: &str, wrong: &[String]) {
    assert!(wrong.is_empty(), "{what}:\n  {}", wrong.join("\n  "));
}

#[test]
fn imports_point_down_and_never_sideways() {
    let sources = sources("src");
    let rooms =
        sources.iter().filter(|source| source.path != "lib.rs" && floor(room(&source.path)).is_none());
    let homeless = rooms.map(|source| format!("src/{} is in a room that has no floor yet", source.path));
    complain(
        "imports that point up or sideways",
        &[homeless.collect(), sideways(&edges(&sources, true))].concat(),
    );
}

#[test]
fn wings_import_only_wings_below_them() {
    complain("imports that point up within a room", &upward(WINGS, &edges(&sources("src"), false)));
}

#[test]
fn no_circle_goes_through_two_wings() {
    complain("circles of files", &circles_across_wings(&edges(&sources("src"), false)));
}

#[test]
fn each_crate_is_used_at_home_only() {
    let mut wrong = Vec::new();
    for source in sources("src") {
        let strays = HOMES
            .iter()
            .filter(|(_, homes)| !homes.iter().any(|home| source.path.starts_with(home)))
            .filter(|(name, _)| uses_crate(&source.code, name));
        wrong.extend(strays.map(|(name, homes)| {
            format!("src/{} uses {name}, which lives in {}", source.path, homes.join(" and "))
        }));
    }
    complain("crates away from home", &wrong);
}

#[test]
fn files_and_functions_can_be_read_at_a_sitting() {
    let mut wrong = Vec::new();
    for folder in ["src", "tests", "benches"] {
        for source in sources(folder) {
            let lines = source.lines_without_tests();
            if lines > FILE_LINES_MAX && !source.is_test() {
                wrong.push(format!(
                    "{folder}/{} has {lines} lines without tests, more than {FILE_LINES_MAX}",
                    source.path
                ));
            }
            let long = source.functions().into_iter().filter(|(_, _, lines)| *lines > FUNCTION_LINES_MAX);
            wrong.extend(long.map(|(name, at, lines)| {
                format!(
                    "{folder}/{}:{at}: {name} has {lines} lines, more than {FUNCTION_LINES_MAX}",
                    source.path
                )
            }));
        }
    }
    complain("too long", &wrong);
}

#[test]
fn comments_end_at_the_margin() {
    let mut wrong = Vec::new();
    for folder in ["src", "tests", "benches", "fuzz"] {
        for (path, text) in files(folder, "rs") {
            wrong.extend(wide_comments(&text).into_iter().map(|line| format!("{folder}/{path}:{line}")));
        }
    }
    complain(&format!("comments wider than {COMMENT_WIDTH_MAX}"), &wrong);
}

#[test]
fn no_word_is_private() {
    let mut texts: Vec<(String, String, String)> = Vec::new();
    for folder in ["src", "tests", "benches", "fuzz"] {
        let sources = sources(folder).into_iter().filter(|source| source.path != "it/house.rs");
        texts.extend(sources.map(|source| (format!("{folder}/{}", source.path), source.text, source.code)));
    }
    let papers = [files("docs", "md"), files("tests/golden", "txt")].concat();
    let top = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "queue-schema.sql"];
    let top =
        top.iter().filter_map(|name| Some(((*name).to_owned(), fs::read_to_string(root().join(name)).ok()?)));
    texts.extend(papers.into_iter().chain(top).map(|(path, text)| (path, text, String::new())));
    let mut wrong = Vec::new();
    for (word, better) in BANNED {
        let in_code = word.contains(|c: char| c.is_uppercase() || c == '_');
        for (path, text, code) in &texts {
            let is_source = path.ends_with(".rs");
            // In prose a capital may begin a sentence; a name stands between backticks there.
            let quoted = format!("`{word}`");
            let word = if !is_source && word.starts_with(char::is_uppercase) { &quoted } else { *word };
            let lines = lines_with(if in_code && is_source { code } else { text }, word);
            wrong.extend(lines.iter().map(|line| format!("{path}:{line}: {word} is called {better}")));
        }
    }
    complain("private words", &wrong);
}

#[test]
fn every_file_opens_with_what_it_is() {
    let silent = sources("src").into_iter().filter(|source| !source.text.starts_with("//! "));
    complain(
        "files without a //! header",
        &silent.map(|source| format!("src/{}", source.path)).collect::<Vec<_>>(),
    );
}

#[test]
fn papers_name_only_files_that_exist_and_architecture_every_room() {
    let read = |name: &str| fs::read_to_string(root().join(name)).unwrap();
    let quoted =
        |text: &str| -> Vec<String> { text.split('`').skip(1).step_by(2).map(str::to_owned).collect() };
    let mut wrong = Vec::new();
    for paper in ["ARCHITECTURE.md", "CONTRIBUTING.md", "docs/security.md"] {
        for name in quoted(&read(paper)) {
            let is_file = name.ends_with(".rs") || name.ends_with('/');
            if is_file && !root().join("src").join(&name).exists() && !root().join(&name).exists() {
                wrong.push(format!("{paper}: {name} is named and does not exist"));
            }
        }
    }
    let architecture = quoted(&read("ARCHITECTURE.md"));
    for source in sources("src").iter().filter(|source| source.path != "lib.rs") {
        let room = room(&source.path);
        let (file, folder) = (format!("{room}.rs"), format!("{room}/"));
        let is_it = |name: &str| name == file || name.starts_with(&folder);
        if !architecture.iter().any(|name| is_it(name.strip_prefix("src/").unwrap_or(name))) {
            wrong.push(format!("ARCHITECTURE.md: the room {room} is not named"));
        }
    }
    wrong.dedup();
    complain("the papers do not tell the truth", &wrong);
}

#[test]
fn what_points_up_sideways_or_round_is_seen() {
    let edge = |from: &str, to: &str| Edge { from: from.to_owned(), to: to.to_owned(), item: true };
    let down = [
        edge("main.rs", "cli/mod.rs"),
        edge("cli/check.rs", "queue/id.rs"),
        edge("queue/id.rs", "mail/mod.rs"),
    ];
    assert_eq!(sideways(&down), [""; 0]);
    let wrong = [edge("queue/id.rs", "maillog.rs"), edge("delivery/job/worker.rs", "scheduler/mod.rs")];
    assert_eq!(sideways(&wrong).len(), 2);

    let wings: &[(&str, &[&str])] = &[("delivery", &["job", "smtp", "words"])];
    let down = [
        edge("delivery/mod.rs", "delivery/job/worker.rs"),
        edge("delivery/job/worker.rs", "delivery/smtp/wire.rs"),
        edge("delivery/smtp/wire.rs", "delivery/words.rs"),
        edge("delivery/smtp/wire.rs", "delivery/smtp/dial.rs"),
        edge("queue/id.rs", "queue/rows.rs"),
    ];
    assert_eq!(upward(wings, &down), [""; 0]);
    let wrong = [
        edge("delivery/smtp/wire.rs", "delivery/job/worker.rs"),
        edge("delivery/words.rs", "delivery/mod.rs"),
        edge("delivery/smtp/wire.rs", "delivery/new.rs"),
    ];
    assert_eq!(upward(wings, &wrong).len(), 3);

    let (to, back) =
        (edge("delivery/smtp/a.rs", "delivery/host/b.rs"), edge("delivery/host/b.rs", "delivery/smtp/a.rs"));
    assert_eq!(circles_across_wings(&[to.clone(), back]), ["circle: delivery/host/b.rs delivery/smtp/a.rs"]);
    let round =
        [to, edge("delivery/host/b.rs", "delivery/mod.rs"), edge("delivery/mod.rs", "delivery/smtp/a.rs")];
    assert_eq!(circles_across_wings(&round).len(), 1, "over the room's own file");
    let inside = [edge("queue/id.rs", "queue/mod.rs"), edge("queue/mod.rs", "queue/id.rs")];
    assert_eq!(circles_across_wings(&inside), [""; 0]);
    let parent =
        [edge("queue/admin.rs", "queue/admin/kicks.rs"), edge("queue/admin/kicks.rs", "queue/admin.rs")];
    assert_eq!(circles_across_wings(&parent), [""; 0]);
}

#[test]
fn crates_words_and_widths_are_seen() {
    assert!(uses_crate("use tokio::runtime;", "tokio"));
    assert!(uses_crate("    use tokio;", "tokio"));
    assert!(!uses_crate("use my_tokio::runtime; a::tokio::b", "tokio"));
    assert_eq!(lines_with("a berth\nberths, un_berth\n`berth`", "berth"), [1, 3]);
    let wide = "/".repeat(COMMENT_WIDTH_MAX + 1);
    assert_eq!(wide_comments(&format!("{wide}\n{}\n    {wide}\nlet x = \"{wide}\";", &wide[1..])), [1, 3]);
}
