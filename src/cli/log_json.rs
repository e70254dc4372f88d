//! A line of the log as one JSON object.
//!
//! `time` (RFC 3339, UTC, milliseconds), `level`, then `event`, `queue_id` and `fields` of a line that has them, or
//! `target`, the module, of one that has no name; last `message`, which is the line of text. Whatever the world sends,
//! it is one line of ASCII controls escaped by JSON and of characters that can be seen.

use std::io::{self, Write};

use jiff::Timestamp;
use log::{Record, kv};

use crate::kit::text::printable;

/// Writes a record, which has its text as it is shown.
pub(super) fn write(out: &mut impl Write, at: Timestamp, record: &Record<'_>) -> io::Result<()> {
    let mut line = Vec::with_capacity(1024);
    write!(line, "{{\"time\":\"{at:.3}\",\"level\":\"{}\"", record.level())?;
    let mut members = Members { line, fields: false };
    if record.key_values().get("event".into()).is_none() {
        members.string("target", record.target());
    }
    // Nothing fails in here.
    let _ = record.key_values().visit(&mut members);
    if members.fields {
        members.line.push(b'}');
    }
    members.string("message", &record.args().to_string());
    members.line.extend_from_slice(b"}\n");
    out.write_all(&members.line)
}

struct Members {
    line: Vec<u8>,
    /// `fields` is open.
    fields: bool,
}

impl Members {
    fn name(&mut self, name: &str) {
        if self.line.last() != Some(&b'{') {
            self.line.push(b',');
        }
        self.text(name);
        self.line.push(b':');
    }

    fn string(&mut self, name: &str, text: &str) {
        self.name(name);
        self.text(text);
    }

    fn text(&mut self, text: &str) {
        // Writing a str to a Vec cannot fail.
        let _ = serde_json::to_writer(&mut self.line, &*printable(text.as_bytes()));
    }
}

impl<'kvs> kv::VisitSource<'kvs> for Members {
    fn visit_pair(&mut self, key: kv::Key<'kvs>, value: kv::Value<'kvs>) -> Result<(), kv::Error> {
        if !self.fields && !matches!(key.as_str(), "event" | "queue_id") {
            self.name("fields");
            self.line.push(b'{');
            self.fields = true;
        }
        self.name(key.as_str());
        value.visit(self)
    }
}

impl<'v> kv::VisitValue<'v> for &mut Members {
    fn visit_any(&mut self, value: kv::Value<'_>) -> Result<(), kv::Error> {
        self.text(&value.to_string());
        Ok(())
    }

    fn visit_null(&mut self) -> Result<(), kv::Error> {
        self.line.extend_from_slice(b"null");
        Ok(())
    }

    fn visit_i64(&mut self, number: i64) -> Result<(), kv::Error> {
        write!(self.line, "{number}")?;
        Ok(())
    }

    fn visit_str(&mut self, text: &str) -> Result<(), kv::Error> {
        self.text(text);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
