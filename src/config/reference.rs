//! The reference: the table of keys as a config file with every default in it, and as a page of the documentation.
//!
//! The file can be saved as `postrider.toml` and edited; a test reads it back and compares. The page is
//! `docs/configuration.md`; a test compares it with the table.

use super::defs::{self, Preset};
use super::reading::header;

const LINE_CHARS: usize = 98;

/// A commented config file: every key with its doc, what it takes and its default. Keys without
/// a default are shown with an example, commented out.
pub fn reference() -> String {
    let mut text = String::from(
        "# Postrider's configuration: every key with its default. Keys without one are commented out.\n\
         # Remove what you do not change. `postrider check` tells everything that is wrong with a config.\n",
    );
    for def in defs::all().filter(|def| def.section().is_empty()) {
        text.push_str(&entry(def, ""));
    }
    for section in defs::sections() {
        // A [[route]] at its defaults would be a route, a [[retry.rule]] a rule, a [[dkim]] one without a key; a
        // [[source]] and a [[destination]] say nothing. The other tables are harmless.
        let off = if matches!(section, "source" | "route" | "destination" | "retry.rule" | "dkim") {
            "#"
        } else {
            ""
        };
        text.push_str(&format!("\n{off}{}\n", header(section)));
        if section == defs::ALIASES {
            comment(&mut text, defs::ALIASES_DOC);
            text.push_str(&format!("#{}\n", defs::ALIASES_EXAMPLE));
        }
        for def in defs::all().filter(|def| def.section() == section) {
            text.push_str(&entry(def, off));
        }
    }
    text
}

/// The page of the documentation, in Markdown.
pub fn page() -> String {
    let mut text = String::from(
        "# Configuration\n\n\
         Every key of `postrider.toml`. This page is made from the table that the program reads its config with;\n\
         `postrider check --reference` prints the same as a file to edit, and `postrider check` tells everything\n\
         that is wrong with a config. A table in two brackets, such as `[[listen]]`, may stand several times. A list of one needs no brackets: `listen = \"127.0.0.1:9587\"`.\n\n\
         A key can come from the environment, too, and goes before the file then: `POSTRIDER_QUEUE_LIFETIME=3d` is\n\
         `lifetime` of `[queue]`, `POSTRIDER_ROUTE_2_RELAY=smtp.example.com:587` is `relay` of the second `[[route]]`.\n\
         A value is written as here or without the quotes, a list with commas; `POSTRIDER_ALIASES` is an inline table.\n\
         `POSTRIDER_HOSTNAME_FILE` names a file that holds the value, and so for each key that is not a file itself.\n",
    );
    for section in std::iter::once("").chain(defs::sections()) {
        let title =
            if section.is_empty() { "Top level".to_owned() } else { format!("`{}`", header(section)) };
        text.push_str(&format!("\n## {title}\n"));
        if section == defs::ALIASES {
            text.push_str(&format!(
                "\n{}\n\n```toml\n{}\n{}\n```\n",
                defs::ALIASES_DOC,
                header(section),
                defs::ALIASES_EXAMPLE
            ));
        }
        for def in defs::all().filter(|def| def.section() == section) {
            let given = match def.default {
                Preset::Is(value) => format!("Default: `{} = {value}`.", def.key()),
                Preset::Example(value) => format!("Example: `{} = {value}`.", def.key()),
            };
            let wanted = def.kind.wanted();
            text.push_str(&format!("\n### `{}`\n\n", def.name));
            // An asterisk is emphasis in Markdown.
            wrap(&mut text, "", &def.doc.replace('*', "\\*"));
            text.push('\n');
            wrap(&mut text, "", &format!("Takes {}. {given}", wanted.replace('*', "\\*")));
        }
    }
    text
}

fn entry(def: &defs::Def, off: &str) -> String {
    let mut text = String::from("\n");
    comment(&mut text, def.doc);
    comment(&mut text, &format!("Takes {}.", def.kind.wanted()));
    let line = match def.default {
        Preset::Is(value) => format!("{off}{} = {value}\n", def.key()),
        Preset::Example(value) => format!("#{} = {value}\n", def.key()),
    };
    text + &line
}

/// Appends a paragraph as comment lines; settings that are commented out have no space behind
/// their `#`, comments have one.
fn comment(text: &mut String, paragraph: &str) {
    wrap(text, "#", paragraph);
}

/// Appends a paragraph in lines, each behind `mark`.
fn wrap(text: &mut String, mark: &str, paragraph: &str) {
    let mut line = String::from(mark);
    for word in paragraph.split_whitespace() {
        if line.chars().count() + 1 + word.chars().count() > LINE_CHARS {
            text.push_str(&line);
            text.push('\n');
            line = String::from(mark);
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    text.push_str(&line);
    text.push('\n');
}
