//! Which file uses which: every path in the code followed to the file that defines what it names, through
//! `use`, renames, and what a module passes on (`pub use`).

use std::collections::{BTreeMap, BTreeSet};

use super::source::Source;

/// A use of one file by another.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Clone)]
pub struct Edge {
    pub from: String,
    pub to: String,
    /// Something is used that `to` defines; else it is a module that is only named.
    pub item: bool,
}

type Path = Vec<String>;

/// A module: its file, and the names that its `use` lines bring in.
struct Module {
    file: String,
    names: BTreeMap<String, Path>,
    /// Every path it mentions, those of its `use` lines included.
    paths: Vec<Path>,
}

/// The uses between files, each once; those in inline tests where `with_tests`. A file that a path merely leads
/// through, as a `mod.rs`, is not used by it.
pub fn edges(sources: &[Source], with_tests: bool) -> Vec<Edge> {
    let mut modules: BTreeMap<Path, Module> = BTreeMap::new();
    let mut add = |module: Path, source: &Source, code: &str| {
        let (uses, paths) = read(code);
        let names = uses.iter().filter(|(name, _)| name != "*").cloned().collect();
        let paths = uses.into_iter().map(|(_, path)| path).chain(paths).collect();
        modules.insert(module, Module { file: source.path.clone(), names, paths });
    };
    for source in sources.iter().filter(|source| with_tests || !source.is_test()) {
        let (code, tests) = source.code_and_tests();
        if with_tests && !tests.trim().is_empty() {
            let inline = [source.module(), vec!["tests".to_owned()]].concat();
            add(inline, source, &tests);
        }
        add(source.module(), source, &code);
    }
    let mut edges = BTreeSet::new();
    for (at, module) in &modules {
        for path in &module.paths {
            if let Some((to, item)) = file_of(&modules, at, path, 0).filter(|(to, _)| *to != module.file) {
                edges.insert(Edge { from: module.file.clone(), to, item });
            }
        }
    }
    edges.into_iter().collect()
}

/// The file that defines what `path`, written in the module `at`, names, and true; or the module that it names,
/// and false. None: another crate's.
fn file_of(
    modules: &BTreeMap<Path, Module>,
    at: &Path,
    path: &[String],
    depth: usize,
) -> Option<(String, bool)> {
    // A name that is passed on in a circle would not compile.
    if depth > 10 {
        return None;
    }
    let (mut module, mut rest) = (at.clone(), path);
    match rest.first()?.as_str() {
        "crate" | "postrider" => {
            module.clear();
            rest = &rest[1..];
        }
        "self" => rest = &rest[1..],
        "super" => {
            while rest.first().is_some_and(|word| word == "super") {
                module.pop()?;
                rest = &rest[1..];
            }
        }
        first if !modules.contains_key(&[at.as_slice(), &rest[..1]].concat()) => {
            let path = [modules.get(at)?.names.get(first)?.as_slice(), &rest[1..]].concat();
            return file_of(modules, at, &path, depth + 1);
        }
        _ => {}
    }
    while let Some((next, behind)) = rest.split_first() {
        let child = [module.as_slice(), std::slice::from_ref(next)].concat();
        if !modules.contains_key(&child) {
            break;
        }
        (module, rest) = (child, behind);
    }
    let here = modules.get(&module)?;
    let passed_on = rest.first().and_then(|next| here.names.get(next)).and_then(|path| {
        let path = [path.as_slice(), &rest[1..]].concat();
        file_of(modules, &module, &path, depth + 1)
    });
    passed_on.or(Some((here.file.clone(), !rest.is_empty())))
}

/// What the `use` lines of a file bring in, by name, and all other paths.
fn read(code: &str) -> (Vec<(String, Path)>, Vec<Path>) {
    let tokens = tokens(code);
    let (mut uses, mut paths) = (Vec::new(), Vec::new());
    let mut at = 0;
    while at < tokens.len() {
        if tokens[at] == "use" {
            let end = tokens[at..]
                .iter()
                .position(|token| *token == ";")
                .map_or(tokens.len(), |length| at + length);
            use_tree(&tokens[at + 1..end], &[], &mut uses);
            at = end;
        } else if is_word(tokens[at]) {
            let mut path = vec![tokens[at].to_owned()];
            while at + 2 < tokens.len() && tokens[at + 1] == "::" && is_word(tokens[at + 2]) {
                at += 2;
                path.push(tokens[at].to_owned());
            }
            if path.len() > 1 {
                paths.push(path);
            }
        }
        at += 1;
    }
    (uses, paths)
}

/// `a::{b, c::D as E, self, *}`.
fn use_tree(tokens: &[&str], before: &[String], found: &mut Vec<(String, Path)>) {
    let mut path = before.to_vec();
    let mut at = 0;
    while at < tokens.len() {
        match tokens[at] {
            "{" => {
                let inside = &tokens[at + 1..tokens.len() - 1];
                let mut depth = 0;
                let parts = inside.split(|token| {
                    depth += i32::from(*token == "{") - i32::from(*token == "}");
                    depth == 0 && *token == ","
                });
                parts.filter(|part| !part.is_empty()).for_each(|part| use_tree(part, &path, found));
                return;
            }
            "as" => {
                found.push((tokens[at + 1].to_owned(), path));
                return;
            }
            "*" => {
                // Whatever it brings is taken for the module's own.
                path.push("*".to_owned());
                found.push(("*".to_owned(), path));
                return;
            }
            "self" if !path.is_empty() => {}
            "::" => {}
            word => path.push(word.to_owned()),
        }
        at += 1;
    }
    found.extend(path.last().cloned().map(|name| (name, path)));
}

fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Words, `::`, and every other character by itself.
fn tokens(code: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = code.trim_start();
    while let Some(first) = rest.chars().next() {
        let is_part = |c: char| c.is_alphanumeric() || c == '_';
        let length = if is_part(first) {
            rest.find(|c| !is_part(c)).unwrap_or(rest.len())
        } else if rest.starts_with("::") {
            2
        } else {
            first.len_utf8()
        };
        tokens.push(&rest[..length]);
        rest = rest[length..].trim_start();
    }
    tokens
}

/// The groups of files that use one another in a circle.
pub fn circles(edges: &[Edge]) -> Vec<BTreeSet<&str>> {
    let mut used: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    edges.iter().filter(|edge| edge.item).for_each(|edge| used.entry(&edge.from).or_default().push(&edge.to));
    let reach: BTreeMap<&str, BTreeSet<&str>> =
        used.keys().map(|from| (*from, reachable(&used, from))).collect();
    let mut circles: Vec<BTreeSet<&str>> = reach
        .iter()
        .filter(|(from, to)| to.contains(*from))
        .map(|(from, to)| {
            to.iter().filter(|to| reach.get(*to).is_some_and(|back| back.contains(from))).copied().collect()
        })
        .collect();
    circles.sort();
    circles.dedup();
    circles
}

fn reachable<'a>(used: &BTreeMap<&'a str, Vec<&'a str>>, from: &str) -> BTreeSet<&'a str> {
    let mut found = BTreeSet::new();
    let mut open: Vec<&str> = used.get(from).cloned().unwrap_or_default();
    while let Some(next) = open.pop() {
        if found.insert(next) {
            open.extend(used.get(next).into_iter().flatten());
        }
    }
    found
}

mod tests {
    use super::*;

    fn uses(files: &[(&str, &str)]) -> Vec<String> {
        let sources: Vec<Source> = files.iter().map(|(path, text)| Source::new(path, text)).collect();
        let shown = |edge: &Edge| match edge.item {
            true => format!("{} {}", edge.from, edge.to),
            false => format!("{} ({})", edge.from, edge.to),
        };
        edges(&sources, true).iter().map(shown).collect()
    }

    /// What one file that says `text` uses of a small house.
    fn used_by(path: &str, text: &str) -> Vec<String> {
        let others = [
            ("lib.rs", "pub mod mail;"),
            (
                "mail/mod.rs",
                "mod address;\nmod phase;\npub use address::Address;\npub use phase::*;\npub struct Body;",
            ),
            ("mail/address.rs", "pub struct Address;"),
            ("mail/phase.rs", ""),
            ("queue/mod.rs", "pub mod rows;\npub struct Queue;"),
            ("queue/rows.rs", "pub struct Job;"),
        ];
        let files: Vec<(&str, &str)> =
            others.into_iter().filter(|(other, _)| *other != path).chain([(path, text)]).collect();
        uses(&files)
            .iter()
            .filter_map(|edge| edge.strip_prefix(&format!("{path} ")))
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn a_path_is_followed_to_the_file_that_defines() {
        let used = |text: &str| used_by("queue/id.rs", text).join(" ");
        assert_eq!(used("use crate::mail::Address;"), "mail/address.rs");
        assert_eq!(used("use crate::mail::{Body, address::Address as A};"), "mail/address.rs mail/mod.rs");
        assert_eq!(
            used("use crate::mail::{\n    self,\n};\nfn f() -> mail::Address {}"),
            "mail/address.rs (mail/mod.rs)"
        );
        assert_eq!(used("use crate::mail as post;\nfn f() -> post::Body {}"), "(mail/mod.rs) mail/mod.rs");
        assert_eq!(used("use crate::mail;"), "(mail/mod.rs)");
        assert_eq!(used("fn f() -> super::rows::Job {}"), "queue/rows.rs");
        assert_eq!(used("use super::*;"), "queue/mod.rs");
        assert_eq!(used("use super::super::mail::Phase;"), "mail/mod.rs");
        assert_eq!(used("fn f() -> Vec<postrider::queue::Queue> {}"), "queue/mod.rs");
        assert_eq!(
            used(
                "use rustls;\nuse std::mem;\nfn f() { mem::take(rustls::x()); let s = \"crate::mail::Body\"; }"
            ),
            ""
        );
        assert_eq!(used("// crate::mail::Body\nuse super::Queue;"), "queue/mod.rs");
        let test = "#[cfg(test)]\nmod tests {\n    use super::super::Queue;\n    use super::super::super::mail::Body;\n}";
        assert_eq!(used(test), "mail/mod.rs queue/mod.rs");
        assert_eq!(used_by("main.rs", "fn main() { postrider::queue::run() }").join(" "), "queue/mod.rs");
        assert_eq!(used_by("queue/mod.rs", "mod rows;\nfn f() -> rows::Job {}").join(" "), "queue/rows.rs");
    }

    #[test]
    fn circles_are_found_and_trees_are_not() {
        let edge = |from: &str, to: &str| Edge { from: from.to_owned(), to: to.to_owned(), item: true };
        let tree = [edge("a", "b"), edge("a", "c"), edge("b", "c")];
        assert_eq!(circles(&tree), Vec::<BTreeSet<&str>>::new());
        let circle =
            [edge("a", "b"), edge("b", "c"), edge("c", "b"), edge("c", "d"), edge("e", "f"), edge("f", "e")];
        assert_eq!(circles(&circle), [BTreeSet::from(["b", "c"]), BTreeSet::from(["e", "f"])]);
    }
}
