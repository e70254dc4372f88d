//! What every command shares: how it prints, and how it says that it was used wrongly.

use std::io::{self, Write as _};

use serde::Serialize;

use crate::kit::text::is_unseen;
use crate::queue::shell::ShellError;

/// The command was used in a way that its arguments' types cannot tell. Exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct WrongUsage(pub(crate) String);

/// A value as one line of JSON, for programs.
pub(crate) fn json_line(value: &impl Serialize) -> String {
    // Structs of strings and numbers always have a JSON form.
    seen_json(&serde_json::to_string(value).unwrap_or_default()) + "\n"
}

/// The same over several lines, for both.
pub(crate) fn json_pretty(value: &impl Serialize) -> String {
    seen_json(&serde_json::to_string_pretty(value).unwrap_or_default()) + "\n"
}

/// JSON in which every character can be seen: those that cannot are escaped, as JSON itself has it (RFC 8259 §7). They
/// stand within strings, since nothing else in JSON is beyond ASCII.
pub(crate) fn seen_json(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        // Line ends between values are those of the JSON.
        if c.is_ascii() || !is_unseen(c) {
            out.push(c);
        } else {
            out.extend(c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")));
        }
    }
    out
}

/// Prints to stdout. A reader that has gone away is an error, not a panic.
///
/// # Errors
/// As the system says.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    print_bytes(text.as_bytes())
}

/// The same of bytes.
///
/// # Errors
/// As the system says.
pub(crate) fn print_bytes(bytes: &[u8]) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    Ok(out.flush()?)
}

/// Whether it failed since nobody reads any more: `postrider queue list | head` has seen enough.
pub(crate) fn is_reader_gone(error: &anyhow::Error) -> bool {
    let gone = |error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe;
    let of_shell = |error: &ShellError| matches!(error, ShellError::Output(error) if gone(error));
    error.downcast_ref().is_some_and(gone) || error.downcast_ref().is_some_and(of_shell)
}

/// An error with its causes. Many errors name their cause themselves, with what to do behind it.
pub(super) fn whole(error: &anyhow::Error) -> String {
    let mut said = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !said.contains(&cause) {
            said.push_str(&format!(": {cause}"));
        }
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_with_what_cannot_be_seen_says_the_same_and_shows_it() {
        let value = serde_json::json!({ "a\u{202e}b": ["\u{e0041}\n\u{7f}", "j\u{f6}rg"] });
        let text = seen_json(&serde_json::to_string_pretty(&value).unwrap());
        assert!(
            text.contains("a\\u202eb") && text.contains("\\udb40\\udc41") && text.contains("j\u{f6}rg"),
            "{text}"
        );
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }
}
