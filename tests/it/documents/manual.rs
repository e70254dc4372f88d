//! The manual pages and the completions in `packaging/`: made from the command line's own definition, from the table of
//! config keys and from `queue-schema.sql`, so that they cannot say anything else.
//!
//! With `WRITE_PAGE` in the environment the tests write them. The crates that make them are of the tests alone: the
//! binary carries none of it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap_complete::Shell;
use clap_mangen::Man;

use super::roff::{Page, escaped, folded};
use crate::harness::skipped::installed;

/// What `man` shows at the foot of each page; changed with the version.
const DATE: &str = "2026-11-30";
const MANUAL: &str = "Postrider";

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging").join(name)
}

/// Compares what is made with what is in the folder, file by file.
fn hold(name: &str, made: &BTreeMap<String, String>) {
    let folder = folder(name);
    if std::env::var_os("WRITE_PAGE").is_some() {
        fs::create_dir_all(&folder).unwrap();
        made.iter().for_each(|(file, text)| fs::write(folder.join(file), text).unwrap());
    }
    let there = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let foreign: Vec<String> = there.filter(|file| !made.contains_key(file)).collect();
    let is_old = |(file, text): &(&String, &String)| {
        fs::read_to_string(folder.join(file)).unwrap_or_default() != **text
    };
    let old: Vec<&String> = made.iter().filter(is_old).map(|(file, _)| file).collect();
    assert!(
        old.is_empty() && foreign.is_empty(),
        "packaging/{name}: not as the program has it {old:?}, of nothing {foreign:?}: \
         WRITE_PAGE=1 cargo test --test it manual:: writes them; remove those of nothing"
    );
}

fn page(name: &str, section: u8, about: &str) -> Page {
    Page::new(name, section, DATE, MANUAL, about)
}

// ---- postrider(1) --------------------------------------------------------------------------------

/// An empty line as a request.
fn spaced(line: &str) -> &str {
    if line.is_empty() { ".sp" } else { line }
}

/// What clap_mangen makes of a part of a page, without the lines that only a whole page has.
fn part(render: impl Fn(&mut dyn io::Write) -> io::Result<()>) -> String {
    let mut bytes = Vec::new();
    render(&mut bytes).unwrap();
    let text = String::from_utf8(bytes).unwrap();
    let is_text =
        |line: &&str| !line.starts_with(".ie ") && !line.starts_with(".el ") && !line.starts_with(".SH ");
    let text = text.replace("\\*(Aq", "\\(aq");
    folded(&text.trim_end().lines().filter(is_text).map(spaced).collect::<Vec<_>>())
}

fn is_shown(command: &clap::Command) -> bool {
    !command.is_hide_set() && command.get_name() != "help"
}

/// `postrider queue list`.
fn full_name(command: &clap::Command) -> &str {
    command.get_bin_name().unwrap_or(command.get_name())
}

/// A verb of a command, within its page: options that every command has are told once.
fn verb(page: &mut Page, command: &clap::Command) {
    let once = |argument: clap::Arg| {
        let is_general = ["config", "help"].contains(&argument.get_id().as_str());
        argument.hide(is_general)
    };
    let man = Man::new(command.clone().mut_args(once));
    page.macro_line(&format!(".SS {}", escaped(full_name(command))));
    page.raw(&part(|out| man.render_synopsis_section(out)));
    page.macro_line(".PP");
    page.raw(&part(|out| man.render_description_section(out)));
    page.raw(&part(|out| man.render_options_section(out)));
}

/// The page of a command: `postrider-queue.1`.
fn command_page(command: &clap::Command) -> (String, String) {
    let name = full_name(command).replace(' ', "-");
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let mut page = page(&name, 1, &about);
    let man = Man::new(command.clone());
    page.section("SYNOPSIS");
    page.raw(&part(|out| man.render_synopsis_section(out)));
    page.section("DESCRIPTION");
    page.raw(&part(|out| man.render_description_section(out)));
    page.section("OPTIONS");
    page.raw(&part(|out| man.render_options_section(out)));
    let is_top = name == "postrider";
    let verbs: Vec<&clap::Command> = command.get_subcommands().filter(|verb| is_shown(verb)).collect();
    if !verbs.is_empty() {
        page.section("COMMANDS");
    }
    for one in verbs {
        if is_top {
            let name = full_name(one).replace(' ', "-");
            page.item(&format!("\\fB{}\\fR(1)", escaped(&name)));
            page.text(&one.get_about().map(ToString::to_string).unwrap_or_default());
        } else {
            verb(&mut page, one);
        }
    }
    if let Some(more) = command.get_after_long_help() {
        page.section("FIRST STEPS");
        page.verbatim(more.to_string().lines().skip(1));
    }
    if is_top {
        files(&mut page);
        page.see_also(&["postrider.toml(5)", "postrider-queue.db(5)"]);
    } else {
        page.see_also(&["postrider(1)", "postrider.toml(5)", "postrider-queue.db(5)"]);
    }
    (format!("{name}.1"), page.finish())
}

/// The places that the service uses.
fn files(page: &mut Page) {
    page.section("FILES");
    for (path, about) in [
        ("/etc/postrider/postrider.toml", "The config, postrider.toml(5)."),
        ("/etc/postrider/users", "Who may log in; written by postrider-user(1)."),
        ("/var/lib/postrider/queue.db", "The queue, postrider-queue.db(5)."),
    ] {
        page.item(&format!("\\fI{}\\fR", escaped(path)));
        page.text(about);
    }
}

fn command_line() -> clap::Command {
    let mut command = postrider::cli::command();
    // Names them all in full: `postrider queue list`.
    command.build();
    command
}

fn command_pages() -> Vec<(String, String)> {
    let top = command_line();
    let commands = top.get_subcommands().filter(|command| is_shown(command));
    std::iter::once(&top).chain(commands).map(command_page).collect()
}

// ---- postrider.toml(5) ---------------------------------------------------------------------------

/// From the page in Markdown that is made of the table of keys.
fn config_page() -> (String, String) {
    let mut page = page("postrider.toml", 5, "configuration of the mail relay postrider");
    page.section("DESCRIPTION");
    let markdown = postrider::config::page().replace("\\*", "*");
    let paragraphs = markdown.split("\n\n").skip(1).map(str::trim).filter(|paragraph| !paragraph.is_empty());
    for paragraph in paragraphs {
        if let Some(title) = paragraph.strip_prefix("## ") {
            page.section(&title.replace('`', "").replace("Top level", "TOP LEVEL"));
        } else if let Some(key) = paragraph.strip_prefix("### ") {
            page.item(&format!("\\fB{}\\fR", escaped(key.trim_matches('`'))));
        } else if let Some(code) = paragraph.strip_prefix("```toml\n") {
            page.verbatim(code.lines().filter(|line| *line != "```"));
        } else if paragraph.starts_with("Takes ") {
            page.macro_line(".br");
            page.text(paragraph);
        } else {
            page.text(paragraph);
        }
    }
    page.section("ENVIRONMENT");
    page.text("RUST_LOG says how much is logged: RUST_LOG=debug shows the dialogues.");
    page.see_also(&["postrider(1)", "postrider-check(1)", "postrider-queue.db(5)"]);
    ("postrider.toml.5".to_owned(), page.finish())
}

// ---- postrider-queue.db(5) -----------------------------------------------------------------------

/// From the comments of the schema, and of the views the columns that SQLite finds in them.
fn queue_page() -> (String, String) {
    let schema = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("queue-schema.sql")).unwrap();
    let database = rusqlite::Connection::open_in_memory().unwrap();
    database.execute_batch(&schema).unwrap();
    let mut page = page("postrider-queue.db", 5, "the queue of the mail relay postrider, a SQLite database");
    page.section("DESCRIPTION");
    let (head, rest) = schema.split_once("\n\n").unwrap();
    comments(&mut page, head);
    let (tables, views): (Vec<&str>, Vec<&str>) =
        rest.split("\n\n").partition(|paragraph| paragraph.contains("\nCREATE TABLE "));
    page.section("TABLES");
    for table in tables {
        object(&mut page, table, "CREATE TABLE ");
        columns(&mut page, table);
    }
    page.section("VIEWS");
    for view in views {
        let name = object(&mut page, view, "CREATE VIEW ");
        let select = database.prepare(&format!("SELECT * FROM {name}")).unwrap();
        page.macro_line(".PP");
        page.text(&format!("Columns: {}.", select.column_names().collect::<Vec<_>>().join(", ")));
    }
    page.see_also(&[
        "postrider(1)",
        "postrider-queue(1)",
        "postrider-sql(1)",
        "postrider.toml(5)",
        "sqlite3(1)",
    ]);
    ("postrider-queue.db.5".to_owned(), page.finish())
}

/// Comment lines as paragraphs; those that are indented as they stand.
fn comments(page: &mut Page, text: &str) {
    let mut paragraph = String::new();
    let mut code: Vec<&str> = Vec::new();
    let lines = text.lines().map_while(|line| line.strip_prefix("--"));
    for line in lines.chain([""]) {
        let is_code = line.starts_with("     ");
        if (is_code || line.is_empty()) && !paragraph.is_empty() {
            page.text(&paragraph);
            paragraph.clear();
        }
        if !is_code && !code.is_empty() {
            page.verbatim(std::mem::take(&mut code));
        }
        match is_code {
            true => code.push(line),
            false if line.is_empty() => page.macro_line(".PP"),
            false => paragraph.push_str(line),
        }
    }
}

/// The heading and the comment of a table or view. Returns its name.
fn object<'t>(page: &mut Page, text: &'t str, create: &str) -> &'t str {
    let (comment, statement) = text.split_once(create).unwrap();
    let name = statement.split(' ').next().unwrap();
    page.macro_line(&format!(".SS {}", escaped(name)));
    comments(page, comment.trim_end());
    name
}

/// The columns of a table, each with the comment behind it.
fn columns(page: &mut Page, table: &str) {
    let (_, statement) = table.split_once(" (\n").unwrap();
    let (columns, _) = statement.split_once("\n)").unwrap();
    let mut comment = String::new();
    for line in columns.lines().map(str::trim) {
        let (column, more) = line.split_once("--").unwrap_or((line, ""));
        if column.is_empty() {
            comment.push_str(more);
            continue;
        }
        page.text(&std::mem::take(&mut comment));
        let mut words = column.split_whitespace().map(|word| word.trim_end_matches(','));
        let (name, kind) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        // Constraints stand behind the columns.
        if name == name.to_uppercase() {
            return;
        }
        page.item(&format!("\\fB{}\\fR {kind}", escaped(name)));
        comment.push_str(more);
    }
    page.text(&comment);
}

// ---- the tests -----------------------------------------------------------------------------------

#[test]
fn the_manual_pages_are_as_the_program_has_it() {
    let mut pages: BTreeMap<String, String> = command_pages().into_iter().collect();
    pages.extend([config_page(), queue_page()]);
    hold("man", &pages);
}

#[test]
fn the_completions_are_as_the_program_has_it() {
    let script = |shell: Shell| {
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut postrider::cli::command(), "postrider", &mut text);
        String::from_utf8(text).unwrap()
    };
    let made = [("postrider.bash", Shell::Bash), ("_postrider", Shell::Zsh), ("postrider.fish", Shell::Fish)]
        .map(|(file, shell)| (file.to_owned(), script(shell)));
    hold("completions", &made.into());
}

#[test]
fn mandoc_finds_nothing_wrong_with_the_manual_pages() {
    if !installed("mandoc") {
        return;
    }
    let mut pages: Vec<PathBuf> =
        fs::read_dir(folder("man")).unwrap().map(|entry| entry.unwrap().path()).collect();
    pages.sort();
    let lint = |pages: &[PathBuf]| {
        let output = Command::new("mandoc").args(["-Tlint", "-Wall"]).args(pages).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert_eq!(lint(&pages), "");
    let bad = tempfile::NamedTempFile::new().unwrap();
    fs::write(bad.path(), ".TH bad 1\n.SH NAME\nbad\n").unwrap();
    assert!(lint(&[bad.path().to_owned()]).contains("WARNING"), "mandoc warns of a page without a date");
}

/// Each shell that is here completes a command and an option of it.
#[test]
fn shells_take_the_completions() {
    let bash = "source packaging/completions/postrider.bash
        COMP_WORDS=(postrider queue ki) COMP_CWORD=2
        _postrider postrider ki queue; echo \"${COMPREPLY[*]}\"";
    let fish = "source packaging/completions/postrider.fish; complete -C 'postrider queue ki'";
    let zsh = "autoload -U compinit && compinit -D -u; source packaging/completions/_postrider; whence -w _postrider";
    for (shell, script, expected) in
        [("bash", bash, "kick"), ("fish", fish, "kick"), ("zsh", zsh, "function")]
    {
        if !installed(shell) {
            continue;
        }
        let output = Command::new(shell)
            .args(["-c", script])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .unwrap();
        let (said, complained) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(said.contains(expected) && complained.is_empty(), "{shell}: {said}{complained}");
    }
}
