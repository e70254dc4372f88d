//! What `check` says of one thing, and how it is printed: a line, and below it what to change.

use std::fmt::Write as _;

use serde::Serialize;

use crate::cli::output::json_pretty;
use crate::kit::text::printable;

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(in crate::cli) struct Finding {
    pub(in crate::cli) level: Level,
    /// What was looked at.
    pub(super) about: &'static str,
    pub(in crate::cli) text: String,
    /// Lines of the zone file that must go.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) remove: Vec<String>,
    /// Lines of the zone file that mend it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) add: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::cli) enum Level {
    Ok,
    Warning,
    Problem,
}

impl Finding {
    pub(super) fn new(level: Level, about: &'static str, text: String) -> Finding {
        Finding { level, about, text, remove: Vec::new(), add: Vec::new() }
    }

    pub(super) fn ok(about: &'static str, text: String) -> Finding {
        Finding::new(Level::Ok, about, text)
    }

    pub(super) fn warning(about: &'static str, text: String) -> Finding {
        Finding::new(Level::Warning, about, text)
    }

    pub(super) fn problem(about: &'static str, text: String) -> Finding {
        Finding::new(Level::Problem, about, text)
    }

    /// With a line of the zone file that mends it.
    pub(super) fn add(mut self, line: String) -> Finding {
        self.add.push(line);
        self
    }

    /// With a line of the zone file that must go.
    pub(super) fn remove(mut self, line: String) -> Finding {
        self.remove.push(line);
        self
    }
}

/// `{"ok": …, "findings": […]}`.
pub(super) fn json(findings: &[Finding]) -> String {
    let good = findings.iter().all(|finding| finding.level != Level::Problem);
    json_pretty(&serde_json::json!({ "ok": good, "findings": findings }))
}

/// For a person.
pub(in crate::cli) fn lines(findings: &[Finding]) -> String {
    let mut text = String::new();
    for Finding { level, about, text: what, remove, add } in findings {
        let level = match level {
            Level::Ok => "ok",
            Level::Warning => "warning",
            Level::Problem => "problem",
        };
        // Others wrote what DNS and hosts say. Writing to a String cannot fail.
        let _ = writeln!(text, "{level:<8} {about}: {}", printable(what.as_bytes()));
        for (word, lines) in [("remove", remove), ("add", add)] {
            for line in lines {
                let _ = writeln!(text, "         {word:<6} {}", printable(line.as_bytes()));
            }
        }
    }
    text
}

/// A line of a zone file.
pub(super) fn zone_line(name: &str, kind: &str, data: &str) -> String {
    format!("{name}. IN {kind} {data}")
}

/// The line of an MX record; `.` as host is that of a null MX (RFC 7505).
pub(super) fn mx_line(name: &str, preference: u16, host: &str) -> String {
    let end = if host == "." { "" } else { "." };
    zone_line(name, "MX", &format!("{preference} {host}{end}"))
}

/// The line of a TXT record, in strings of at most 255 bytes (RFC 1035 §3.3).
pub(super) fn txt_line(name: &str, text: &str) -> String {
    const STRING_BYTES_MAX: usize = 255;
    let mut strings = vec![String::new()];
    let mut bytes = 0;
    for byte in text.bytes() {
        if bytes == STRING_BYTES_MAX {
            strings.push(String::new());
            bytes = 0;
        }
        bytes += 1;
        let string = strings.last_mut().expect("there is always one");
        match byte {
            b'"' | b'\\' => string.extend(['\\', char::from(byte)]),
            b' '..=b'~' => string.push(char::from(byte)),
            // RFC 1035 §5.1.
            byte => string.push_str(&format!("\\{byte:03}")),
        }
    }
    let quoted: Vec<String> = strings.iter().map(|string| format!("\"{string}\"")).collect();
    zone_line(name, "TXT", &quoted.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_must_change_stands_below_and_nothing_unseen_is_printed() {
        let good = Finding::ok("mx", "a\u{202e}b".to_owned());
        let bad = Finding::problem("spf", "no".to_owned())
            .add(txt_line("a.test", "v=spf1 -all"))
            .remove(txt_line("a.test", "\u{fc}\"\\"));
        let text = "ok       mx: a\\xE2\\x80\\xAEb\n\
                    problem  spf: no\n         remove a.test. IN TXT \"\\195\\188\\\"\\\\\"\n         add    \
                    a.test. IN TXT \"v=spf1 -all\"\n";
        assert_eq!(lines(&[good.clone(), bad.clone()]), text);
        let read: serde_json::Value = serde_json::from_str(&json(&[good, bad])).unwrap();
        assert_eq!(read["ok"], false);
        assert_eq!(read["findings"][0].get("add"), None);
        assert_eq!(read["findings"][1]["add"][0], "a.test. IN TXT \"v=spf1 -all\"");
    }

    #[test]
    fn a_long_text_is_cut_into_strings() {
        let line = txt_line("a.test", &"x".repeat(600));
        let strings: Vec<usize> = line.split('"').skip(1).step_by(2).map(str::len).collect();
        assert_eq!(strings, [255, 255, 90]);
    }
}
