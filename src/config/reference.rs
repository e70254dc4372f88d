//! The reference: the table of keys as a config file with every default in it.
//!
//! It can be saved as `postrider.toml` and edited; a test reads it back and compares.

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
    for def in defs::DEFS.iter().filter(|def| def.section().is_empty()) {
        text.push_str(&entry(def, ""));
    }
    for section in defs::sections() {
        // A [[route]] at its defaults would be a route, a [[retry.rule]] a rule; a [[source]] and a
        // [[destination]] say nothing. The other tables are harmless.
        let off = if matches!(section, "source" | "route" | "destination" | "retry.rule") { "#" } else { "" };
        text.push_str(&format!("\n{off}{}\n", header(section)));
        if section == defs::ALIASES {
            comment(&mut text, defs::ALIASES_DOC);
            text.push_str(&format!("#{}\n", defs::ALIASES_EXAMPLE));
        }
        for def in defs::DEFS.iter().filter(|def| def.section() == section) {
            text.push_str(&entry(def, off));
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
    let mut line = String::from("#");
    for word in paragraph.split_whitespace() {
        if line.chars().count() + 1 + word.chars().count() > LINE_CHARS {
            text.push_str(&line);
            text.push('\n');
            line = String::from("#");
        }
        line.push(' ');
        line.push_str(word);
    }
    text.push_str(&line);
    text.push('\n');
}
