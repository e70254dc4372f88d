//! The sources as text, taken apart just enough for the rules: code without comments and strings, code
//! without tests, functions and their lengths.
//!
//! What it relies on is held by others: `cargo fmt` puts the end of an item at the indentation of its start.

use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

/// A Rust file.
pub struct Source {
    /// Below the folder that was read: `delivery/route/dns.rs`.
    pub path: String,
    pub text: String,
    /// The text with comments, strings and characters blanked; lines stay where they are.
    pub code: String,
}

impl Source {
    pub fn new(path: &str, text: &str) -> Source {
        Source { path: path.to_owned(), text: text.to_owned(), code: blanked(text) }
    }

    /// The module that the file is: `["delivery", "route", "dns"]`; `[]` for `lib.rs`.
    pub fn module(&self) -> Vec<String> {
        let path = self.path.strip_suffix(".rs").unwrap_or(&self.path);
        let path = path.strip_suffix("/mod").unwrap_or(path);
        if path == "lib" { Vec::new() } else { path.split('/').map(str::to_owned).collect() }
    }

    /// Whether the whole file is tests: `tests.rs`, `room_tests.rs`, and what is in a folder `tests`.
    pub fn is_test(&self) -> bool {
        self.module().iter().any(|name| name.ends_with("tests"))
    }

    /// The code without its inline tests, and those tests; the lines of the other part are blank in each.
    pub fn code_and_tests(&self) -> (String, String) {
        let mut code: Vec<&str> = self.code.lines().collect();
        let mut tests = vec![""; code.len()];
        for range in self.inline_tests() {
            tests[range.clone()].copy_from_slice(&code[range.clone()]);
            code[range].fill("");
        }
        (code.join("\n"), tests.join("\n"))
    }

    /// How many lines the file has, its inline tests apart.
    pub fn lines_without_tests(&self) -> usize {
        self.text.lines().count()
            - self.inline_tests().iter().map(|tests| tests.clone().count()).sum::<usize>()
    }

    /// The lines of each inline item that is there for tests only.
    fn inline_tests(&self) -> Vec<RangeInclusive<usize>> {
        let lines: Vec<&str> = self.code.lines().collect();
        let begins =
            |at: &usize| lines[*at].trim() == "#[cfg(test)]" && lines[*at + 1].trim_end().ends_with('{');
        (0..lines.len()).filter(begins).map(|at| at..=end_of_item(&lines, at + 1)).collect()
    }

    /// Each function with a body: its name, the line it starts at (from 1), and how many lines it has.
    pub fn functions(&self) -> Vec<(String, usize, usize)> {
        let lines: Vec<&str> = self.code.lines().collect();
        let starts = lines.iter().enumerate().filter_map(|(at, line)| Some((at, function_name(line)?)));
        let bodies = starts.filter_map(|(at, name)| {
            // A declaration in a trait ends before it opens a body.
            let opening = (at..lines.len()).find(|at| lines[*at].trim_end().ends_with(['{', ';', '}']))?;
            let has_body = lines[opening].trim_end().ends_with('{');
            let end = if has_body { end_of_item(&lines, at) } else { opening };
            Some((name, at + 1, end + 1 - at))
        });
        bodies.collect()
    }
}

/// The last line of the item that starts at line `at`: the first one from there that closes something at the same
/// indentation.
fn end_of_item(lines: &[&str], at: usize) -> usize {
    let indent = lines[at].len() - lines[at].trim_start().len();
    let closes = |line: &str| {
        line.len() > indent && line[..indent].trim().is_empty() && line[indent..].starts_with('}')
    };
    let one_line = lines[at].trim_end().ends_with('}');
    if one_line { at } else { (at + 1..lines.len()).find(|at| closes(lines[*at])).unwrap_or(lines.len() - 1) }
}

/// `name` of a line such as `    pub(crate) const fn name(…`.
fn function_name(line: &str) -> Option<String> {
    let (before, after) = line.split_once("fn ")?;
    let is_modifier = |word: &str| {
        matches!(word, "pub" | "const" | "async" | "unsafe" | "extern") || word.starts_with("pub(")
    };
    let modifiers = before.replace("in crate", "in_crate");
    let name: String = after.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    (modifiers.split_whitespace().all(is_modifier) && !name.is_empty()).then_some(name)
}

/// Comments, strings and characters as spaces.
fn blanked(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let length = comment(&chars[at..]).or_else(|| literal(&chars, at)).unwrap_or(0);
        if length == 0 {
            code.push(chars[at]);
            at += 1;
        }
        for c in &chars[at..(at + length).min(chars.len())] {
            code.push(if *c == '\n' { '\n' } else { ' ' });
        }
        at += length;
    }
    code
}

fn comment(rest: &[char]) -> Option<usize> {
    match rest {
        ['/', '/', ..] => Some(rest.iter().position(|c| *c == '\n').unwrap_or(rest.len())),
        ['/', '*', ..] => {
            Some(rest.windows(2).position(|two| two == ['*', '/']).map_or(rest.len(), |at| at + 2))
        }
        _ => None,
    }
}

/// The length of the string or character that starts here.
fn literal(chars: &[char], at: usize) -> Option<usize> {
    let rest = &chars[at..];
    let in_a_word = at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_');
    match rest {
        ['r', '"' | '#', ..] if !in_a_word || chars[at - 1] == 'b' => {
            let hashes = rest[1..].iter().take_while(|c| **c == '#').count();
            let body = 2 + hashes;
            (rest.get(1 + hashes) == Some(&'"')).then_some(())?;
            let closes = |at: &usize| {
                rest[*at] == '"' && rest[at + 1..].iter().take_while(|c| **c == '#').count() >= hashes
            };
            Some((body..rest.len()).find(closes).map_or(rest.len(), |end| end + 1 + hashes))
        }
        ['"', ..] => {
            let mut end = 1;
            while end < rest.len() && rest[end] != '"' {
                end += if rest[end] == '\\' { 2 } else { 1 };
            }
            Some(end + 1)
        }
        ['\'', '\\', _, ..] => {
            Some(rest[3..].iter().position(|c| *c == '\'').map_or(rest.len(), |at| at + 4))
        }
        // Else it is a lifetime.
        ['\'', _, '\'', ..] => Some(3),
        _ => None,
    }
}

/// The root of the repository.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// All files below a folder of the repository that end in `.extension`, with their paths below it.
pub fn files(folder: &str, extension: &str) -> Vec<(String, String)> {
    fn walk(directory: &Path, below: &Path, extension: &str, found: &mut Vec<(String, String)>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, below, extension, found);
            } else if path.extension().is_some_and(|found| found == extension) {
                let name = path.strip_prefix(below).unwrap().to_str().unwrap().to_owned();
                found.push((name, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    let mut found = Vec::new();
    let below = root().join(folder);
    if below.is_dir() {
        walk(&below, &below, extension, &mut found);
    }
    found.sort();
    found
}

/// The Rust files below a folder of the repository.
pub fn sources(folder: &str) -> Vec<Source> {
    files(folder, "rs").iter().map(|(path, text)| Source::new(path, text)).collect()
}

#[test]
fn comments_strings_and_characters_are_no_code() {
    let text = "a // b \"\nlet c = \"d\\\" // e\"; 'f' '\\'' <'g> r#\"h\" i\"# /* j\nk */ l 'm: loop r";
    let code = blanked(text);
    let words: Vec<&str> = code.split_whitespace().collect();
    assert_eq!(words, ["a", "let", "c", "=", ";", "<'g>", "l", "'m:", "loop", "r"]);
    assert_eq!(code.lines().count(), text.lines().count());
}

#[test]
fn inline_tests_are_cut_and_not_counted() {
    let text =
        "//! x\nfn a() {}\n\n#[cfg(test)]\nmod tests {\n    // A comment.\n\n    fn b() {}\n}\n\nfn c() {}\n";
    let source = Source::new("queue/id.rs", text);
    let (code, tests) = source.code_and_tests();
    assert!(code.contains("fn a") && code.contains("fn c") && !code.contains("fn b"), "{code}");
    assert_eq!(
        tests.trim(),
        "#[cfg(test)]\nmod tests {\n\n\n    fn b() {}\n}".replace("\n\n\n", "\n                 \n\n")
    );
    assert_eq!(source.lines_without_tests(), 5);
    let module = Source::new("queue/id.rs", "#[cfg(test)]\nmod tests;\nfn a() {}\n");
    assert!(module.code_and_tests().0.contains("fn a"));
}

#[test]
fn functions_are_measured_from_their_first_line_to_their_last() {
    let text = "pub(in crate::queue) fn a(\n    b: u8,\n) -> u8 {\n    b\n}\n\ntrait C {\n    fn d(&self);\n    \
                fn e(&self) {\n        f(|| {\n        });\n    }\n}\nfn g() {}\nlet h: fn (u8) = a; // fn i() {\n";
    let functions = Source::new("queue/id.rs", text).functions();
    let of =
        |name: &str| functions.iter().find(|(found, ..)| found == name).map(|(_, at, lines)| (*at, *lines));
    assert_eq!(of("a"), Some((1, 5)));
    assert_eq!(of("d"), Some((8, 1)));
    assert_eq!(of("e"), Some((9, 4)));
    assert_eq!(of("g"), Some((14, 1)));
    assert_eq!(functions.len(), 4);
}
