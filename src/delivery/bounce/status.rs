//! The part of a report for programs: `message/delivery-status` (RFC 3464 §2).
//!
//! Everything here is printable ASCII when it leaves: foreign text goes through [`printable`], and
//! [`field`] folds and bounds it.

use std::fmt::Write as _;

use crate::mail::{Address, Domain, Enhanced, Outcome, Phase, Reply, Speaker};

use super::{Kind, Notice, Told};

/// Where a line is folded, where its words allow.
const LINE_BYTES: usize = 76;
/// A word longer than this is cut in pieces, so that no line comes near 998 bytes.
const WORD_BYTES_MAX: usize = 500;
/// How much of a reply, name or parameter is quoted.
const VALUE_BYTES_MAX: usize = 4000;

/// The fields of the message, then a group for each recipient, an empty line before each.
pub(super) fn fields(kind: Kind, notice: &Notice<'_>, told: &[&Told<'_>]) -> Vec<u8> {
    let mut out = String::new();
    let message = notice.message;
    field(&mut out, "Reporting-MTA", &format!("dns; {}", notice.hostname));
    if let Some(envid) = message.envid.as_deref().map(xtext_decoded).filter(|envid| !envid.trim().is_empty())
    {
        field(&mut out, "Original-Envelope-Id", &envid);
    }
    field(&mut out, "Arrival-Date", &date(message.received_at));
    if let Some(release) = message.handling.release {
        field(&mut out, "Future-Release-Request", &release.asked.to_string());
    }
    if let Some(by) = message.handling.deliver_by {
        field(&mut out, "Deliver-By-Date", &date(by.at));
    }
    field(&mut out, "X-Postrider-Queue-ID", &message.id.to_string());
    for told in told {
        out.push_str("\r\n");
        recipient(&mut out, kind, notice, told);
    }
    out.into_bytes()
}

/// RFC 3464 §2.3, in its order.
fn recipient(out: &mut String, kind: Kind, notice: &Notice<'_>, told: &Told<'_>) {
    if let Some(original) = told.recipient.orcpt.as_deref().and_then(original_recipient) {
        field(out, "Original-Recipient", &original);
    }
    field(out, "Final-Recipient", &typed_address(&told.recipient.address));
    let action = match (kind, told.outcome) {
        (Kind::Bounce, _) => "failed",
        (Kind::Delay, _) => "delayed",
        (Kind::Success, Outcome::Relayed) => "relayed",
        (Kind::Success, _) => "delivered",
    };
    let said = Said::of(told);
    field(out, "Action", action);
    // RFC 2852 §4.1.3: what ended is the time that the sender gave, whatever stood in the way.
    let late = told.outcome == Outcome::Expired
        && notice.message.handling.returns_at().is_some_and(|at| at <= notice.now);
    let status = if late { Enhanced(5, 4, 7) } else { said.status(told.outcome) };
    field(out, "Status", &status.to_string());
    match said.host {
        Some(host) if said.by == Speaker::Host => {
            field(out, "Remote-MTA", &format!("dns; {}", bracketed(host)));
            field(out, "Diagnostic-Code", &format!("smtp; {}", said.reply));
        }
        // Where no host answered, the words are ours and no MTA's (RFC 3464 §2.3.5 and §2.3.6).
        _ => field(out, "Diagnostic-Code", &format!("x-postrider; {}", said.reply)),
    }
    if let Some(attempt) = told.attempt {
        field(out, "Last-Attempt-Date", &date(attempt.at));
    }
    if kind == Kind::Delay {
        field(out, "Will-Retry-Until", &date(notice.message.expires_at));
    }
}

/// What was said last about a recipient, from its last try or, where there is none at hand, from its row.
pub(super) struct Said<'a> {
    pub(super) reply: Reply,
    pub(super) host: Option<&'a str>,
    pub(super) phase: Option<Phase>,
    /// Whose words the reply is: only a host's are quoted as such.
    pub(super) by: Speaker,
}

impl<'a> Said<'a> {
    pub(super) fn of(told: &Told<'a>) -> Said<'a> {
        if let Some(attempt) = told.attempt {
            return Said {
                reply: attempt.reply.clone(),
                host: attempt.mx.as_deref(),
                phase: Some(attempt.phase),
                by: attempt.reply.said_by,
            };
        }
        let host = told.recipient.last_mx.as_deref();
        let reply = match told.recipient.last_reply.as_deref() {
            Some(line) => parsed(line),
            None => Reply::new(451, Enhanced(4, 4, 7), "the message waited too long"),
        };
        Said { reply, host, phase: None, by: told.recipient.last_said_by }
    }

    /// The status code, of the class that the outcome has (RFC 3463 §2, RFC 3464 §2.3.4). What expired keeps the
    /// status of its trouble (RFC 3463 §3.5 prefers that to 4.4.7).
    pub(super) fn status(&self, outcome: Outcome) -> Enhanced {
        let Enhanced(class, subject, detail) = self.reply.enhanced.unwrap_or(Enhanced(0, 0, 0));
        match outcome {
            Outcome::Failed => Enhanced(5, subject, detail),
            Outcome::Expired if class == 5 => Enhanced(5, subject, detail),
            Outcome::Expired | Outcome::Deferred | Outcome::InDoubt => Enhanced(4, subject, detail),
            Outcome::Delivered | Outcome::Relayed => Enhanced(2, subject, detail),
        }
    }
}

/// Reads what [`Reply`]'s `Display` wrote into a row.
fn parsed(line: &str) -> Reply {
    let code = line.get(..3).and_then(|digits| digits.parse::<u16>().ok());
    let Some(code) = code else {
        return Reply::bare(451, "").with_text(line.to_owned());
    };
    let text = line[3..].trim_start();
    match Enhanced::split(code, text) {
        Some((enhanced, rest)) => Reply::new(code, enhanced, "").with_text(rest.to_owned()),
        None => Reply::bare(code, "").with_text(text.to_owned()),
    }
}

/// `rfc822; user@example.com`, or the form of RFC 6533 §3 that fits into ASCII.
fn typed_address(address: &Address) -> String {
    let text = format!("{}@{}", address.user(), Domain::of(address));
    if text.is_ascii() {
        format!("rfc822; {text}")
    } else {
        format!("utf-8; {}", utf8_addr_xtext(address.as_ref()))
    }
}

/// ORCPT as a field: the type, and the address without its xtext (RFC 3461 §4.2). None where it is no ORCPT.
fn original_recipient(orcpt: &str) -> Option<String> {
    let (kind, address) = orcpt.split_once(';')?;
    let kind_is_atom =
        !kind.is_empty() && kind.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let address = xtext_decoded(address);
    (kind_is_atom && !address.trim().is_empty()).then(|| format!("{kind}; {address}"))
}

/// RFC 6533 §3, `utf-8-addr-xtext`.
fn utf8_addr_xtext(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '!'..='~' if !matches!(c, '+' | '=' | '\\') => out.push(c),
            // Writing to a String cannot fail.
            _ => drop(write!(out, "\\x{{{:02X}}}", u32::from(c))),
        }
    }
    out
}

/// RFC 3461 §4: `+2B` is `+`. What is beyond ASCII then is shown as RFC 6533 §3 does, and what breaks the grammar as it is.
fn xtext_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let digit = |at: usize| after.get(at).and_then(|&digit| char::from(digit).to_digit(16));
        match (byte, digit(0), digit(1)) {
            (b'+', Some(high), Some(low)) => {
                // Two hexadecimal digits are below 256.
                bytes.push((high * 16 + low) as u8);
                rest = &after[2..];
            }
            _ => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    let decoded = String::from_utf8_lossy(&bytes);
    decoded
        .chars()
        .map(|c| if c.is_ascii() { c.to_string() } else { utf8_addr_xtext(c.encode_utf8(&mut [0; 4])) })
        .collect()
}

/// RFC 5321 §4.1.3: an address in place of a name stands in brackets.
pub(super) fn bracketed(host: &str) -> String {
    match host.parse::<std::net::IpAddr>() {
        Ok(std::net::IpAddr::V4(v4)) => format!("[{v4}]"),
        Ok(std::net::IpAddr::V6(v6)) => format!("[IPv6:{v6}]"),
        Err(_) => host.to_owned(),
    }
}

/// RFC 5322 §3.3, in UTC.
pub(super) fn date(unix_secs: i64) -> String {
    let time = jiff::Timestamp::from_second(writable_time(unix_secs) as i64).unwrap_or_default();
    jiff::fmt::rfc2822::to_string(&time.to_zoned(jiff::tz::TimeZone::UTC)).unwrap_or_default()
}

/// A time that a date field can say: 1970 to 9999.
pub(super) fn writable_time(unix_secs: i64) -> u64 {
    const END_OF_9999: i64 = 253_402_300_799;
    unix_secs.clamp(0, END_OF_9999).unsigned_abs()
}

/// Printable ASCII on one line, for foreign text: controls and line ends become spaces, so that no value can
/// begin a field of its own; what is beyond ASCII is escaped. Bounded.
pub(super) fn printable(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            ' '..='~' => out.push(c),
            _ if c.is_control() => out.push(' '),
            _ => out.extend(c.escape_unicode()),
        }
        if out.len() > VALUE_BYTES_MAX {
            out.push_str(" ...");
            break;
        }
    }
    out
}

/// Words of `text` on lines of about [`LINE_BYTES`]; never an empty line.
pub(super) fn folded(text: &str, first_line_used: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut used = first_line_used;
    let pieces = text.split_ascii_whitespace().flat_map(|word| {
        // ASCII after `printable`, or whole characters.
        let mut rest = word;
        std::iter::from_fn(move || {
            let end = rest
                .char_indices()
                .map(|(at, c)| at + c.len_utf8())
                .take_while(|&end| end <= WORD_BYTES_MAX)
                .last()?;
            let (piece, after) = rest.split_at(end);
            rest = after;
            Some(piece)
        })
    });
    for piece in pieces {
        let line_is_new = lines.last().is_none_or(String::is_empty);
        if !line_is_new && used + 1 + piece.len() > LINE_BYTES {
            lines.push(String::new());
            used = 1;
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
                used += 1;
            }
            line.push_str(piece);
            used += piece.len();
        }
    }
    lines
}

/// `Name: value`, folded.
fn field(out: &mut String, name: &str, value: &str) {
    let lines = folded(&printable(value), name.len() + 2);
    out.push_str(name);
    out.push_str(": ");
    out.push_str(&lines.join("\r\n "));
    out.push_str("\r\n");
}
