//! What is in the packages: the Debian ones by `packaging/files` and `packaging/links`, the RPM by `Cargo.toml` and its
//! scripts.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

fn tree(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// From, to, mode.
type Entry = (String, String, String);

fn debian() -> Vec<Entry> {
    let text = fs::read_to_string(tree("packaging/files")).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines
        .map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let [from, to, mode] = fields[..] else { panic!("{line}") };
            (from.to_owned(), format!("/{to}"), mode.to_owned())
        })
        .collect()
}

fn rpm() -> BTreeSet<Entry> {
    let text = fs::read_to_string(tree("Cargo.toml")).unwrap();
    let field = |line: &str, name: &str| {
        let value = line.split(&format!("{name} = \"")).nth(1)?.split('"').next()?;
        Some(value.to_owned())
    };
    let entry = |line: &str| Some((field(line, "source")?, field(line, "dest")?, field(line, "mode")?));
    text.lines().filter(|line| line.starts_with("    { source = ")).filter_map(entry).collect()
}

/// The same file as the RPM has it.
fn in_rpm((from, to, mode): &Entry) -> Vec<Entry> {
    let entry = |from: &str, to: &str| (from.to_owned(), to.to_owned(), mode.clone());
    match from.as_str() {
        "postrider" | "postrider.toml" => vec![entry(&format!("target/rpm/{from}"), to)],
        "packaging/man/" => ["1", "5"]
            .map(|section| entry(&format!("packaging/man/*.{section}"), &format!("{to}man{section}/")))
            .into(),
        // It would take the folder for a file.
        "docs/" => vec![entry("docs/*.md", to)],
        folder if folder.ends_with('/') => vec![entry(&format!("{folder}*"), to)],
        _ => vec![entry(from, &to.replace("zsh/vendor-completions", "zsh/site-functions"))],
    }
}

#[test]
fn the_rpm_has_the_files_of_the_debian_package() {
    let mut debian: BTreeSet<Entry> = debian().iter().flat_map(in_rpm).collect();
    // Debian has the text of it elsewhere.
    debian.insert(["LICENSE", "/usr/share/licenses/postrider/LICENSE", "644"].map(str::to_owned).into());
    assert_eq!(debian, rpm());
}

#[test]
fn everything_that_belongs_into_a_package_is_in_it() {
    let listed: BTreeSet<String> = debian().into_iter().map(|(from, ..)| from).collect();
    for from in listed.iter().filter(|from| !["postrider", "postrider.toml"].contains(&from.as_str())) {
        assert!(tree(from).exists(), "packaging/files: {from}");
    }
    for folder in ["systemd", "packaging/completions"] {
        for file in fs::read_dir(tree(folder)).unwrap() {
            let name = format!("{folder}/{}", file.unwrap().file_name().display());
            assert!(listed.contains(&name), "packaging/files: without {name}");
        }
    }
}

/// The names that programs know a mail server by: links in Debian, alternatives in the RPM.
#[test]
fn sendmail_has_the_same_names_in_both() {
    let links = fs::read_to_string(tree("packaging/links")).unwrap();
    let links: BTreeSet<String> = links
        .lines()
        .filter(|line| !line.starts_with('#') && !line.contains("/man/"))
        .map(|line| format!("/{}", line.split_whitespace().next().unwrap()))
        .collect();
    let script = fs::read_to_string(tree("packaging/rpm.d/post")).unwrap();
    let words: Vec<&str> = script.split_whitespace().collect();
    let alternatives = words.windows(2).filter(|pair| ["--install", "--slave"].contains(&pair[0]));
    assert_eq!(links, alternatives.map(|pair| pair[1].to_owned()).collect());
}
