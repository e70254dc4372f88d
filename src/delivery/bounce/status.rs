//! The part of a report for programs: `message/delivery-status` (RFC 3464 §2), or
//! `message/global-delivery-status` (RFC 6533 §4.1) where the report can hold UTF-8.
//!
//! Everything here is printable when it leaves, and ASCII unless the [`Script`] is UTF-8: foreign text goes
//! through [`Script::printable`], and [`Fields`] folds and bounds it. The fields stand in the order of the
//! grammar (RFC 3464 §2.2 and §2.3).

use crate::mail::{Address, Domain, Enhanced, Outcome, Phase, Reply, Speaker, address, unitext};

use crate::queue::Origin;

use super::{Kind, Notice, Told};

/// Where a line is folded, where its words allow.
const LINE_BYTES: usize = 76;
/// A word longer than this is cut in pieces, so that no line comes near 998 bytes.
const WORD_BYTES_MAX: usize = 500;
/// How much of a reply, name or parameter is quoted.
const VALUE_BYTES_MAX: usize = 4000;
/// How much of all replies together, so that a report about many recipients does not grow past what a host takes.
const REPLIES_BYTES_MAX: usize = 64 * 1024;
/// Of each reply at least this much.
const REPLY_BYTES_MIN: usize = 200;

/// What the characters of a report may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Script {
    /// Fit for any host: what is beyond ASCII is written as `\x{…}` (RFC 6533 §3).
    Ascii,
    /// For a sender whose own address needs SMTPUTF8, and so every host on the way to it.
    Utf8,
}

/// How much of each reply is quoted in a report about so many recipients, in bytes.
pub(super) fn reply_bytes_max(told: usize) -> usize {
    (REPLIES_BYTES_MAX / told.max(1)).clamp(REPLY_BYTES_MIN, VALUE_BYTES_MAX)
}

/// The fields of the message, then a group for each recipient, an empty line before each.
pub(super) fn fields(kind: Kind, script: Script, notice: &Notice<'_>, told: &[&Told<'_>]) -> String {
    let reply_bytes_max = reply_bytes_max(told.len());
    let mut fields = Fields { out: String::new(), script, reply_bytes_max };
    let message = notice.message;
    if let Some(envid) = message.envid.as_deref().map(xtext_decoded).filter(|envid| says_something(envid)) {
        fields.whole("Original-Envelope-Id", &envid);
    }
    fields.folded("Reporting-MTA", &format!("dns; {}", notice.hostname));
    if let Some(from) = received_from(&message.origin) {
        fields.folded("Received-From-MTA", &from);
    }
    fields.folded("Arrival-Date", &date(message.received_at));
    if let Some(release) = message.handling.release {
        fields.folded("Future-Release-Request", &release.asked.to_string());
    }
    if let Some(by) = message.handling.deliver_by {
        fields.folded("Deliver-By-Date", &date(by.at));
    }
    fields.folded("X-Postrider-Queue-ID", &message.id.to_string());
    for told in told {
        fields.out.push_str("\r\n");
        recipient(&mut fields, kind, notice, told);
    }
    fields.out
}

/// RFC 3464 §2.2.4: what the client called itself, its address as a comment.
fn received_from(origin: &Origin) -> Option<String> {
    let client = origin.client?;
    let literal = bracketed(&client.to_string());
    match origin.helo.as_deref().filter(|helo| !helo.is_empty()) {
        Some(helo) => Some(format!("dns; {helo} ({literal})")),
        None => Some(format!("dns; {literal}")),
    }
}

/// RFC 3464 §2.3, in its order.
fn recipient(fields: &mut Fields, kind: Kind, notice: &Notice<'_>, told: &Told<'_>) {
    let script = fields.script;
    let (address, orcpt) = match told.expanded {
        Some(expanded) => (&expanded.alias, &expanded.orcpt),
        None => (&told.recipient.address, &told.recipient.orcpt),
    };
    if let Some(original) = orcpt.as_deref().and_then(|orcpt| script.original_recipient(orcpt)) {
        fields.whole("Original-Recipient", &original);
    }
    fields.whole("Final-Recipient", &script.typed_address(address));
    let action = match (kind, told.outcome) {
        (Kind::Bounce, _) => "failed",
        (Kind::Delay, _) => "delayed",
        (Kind::Success, _) if told.expanded.is_some() => "expanded",
        (Kind::Success, _) => "relayed",
    };
    let said = Said::of(told);
    fields.folded("Action", action);
    fields.folded("Status", &status(kind, notice, told, &said).to_string());
    match said.host {
        Some(host) if said.by == Speaker::Host => {
            fields.folded("Remote-MTA", &format!("dns; {}", bracketed(host)));
            fields.diagnostic("smtp", &said.reply);
        }
        // Where no host answered, the words are ours and no MTA's (RFC 3464 §2.3.5 and §2.3.6).
        _ => fields.diagnostic("x-postrider", &said.reply),
    }
    if let Some(attempt) = told.attempt {
        fields.folded("Last-Attempt-Date", &date(attempt.at));
    }
    fields.folded("Final-Log-ID", &notice.message.id.to_string());
    if kind == Kind::Delay {
        fields.folded("Will-Retry-Until", &date(notice.message.expires_at));
    }
}

/// RFC 2852 §4: where the time that the sender gave is over, that is what happened, whatever stood in the way.
fn status(kind: Kind, notice: &Notice<'_>, told: &Told<'_>, said: &Said<'_>) -> Enhanced {
    let is_over = |at: Option<i64>| at.is_some_and(|at| at <= notice.now);
    let handling = &notice.message.handling;
    match kind {
        Kind::Bounce if told.outcome == Outcome::Expired && is_over(handling.returns_at()) => {
            Enhanced(5, 4, 7)
        }
        Kind::Delay if is_over(handling.notifies_at()) => Enhanced(4, 4, 7),
        _ => said.status(told.outcome),
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
                host: attempt.mx.as_deref().filter(|name| says_something(name)),
                phase: Some(attempt.phase),
                by: attempt.reply.said_by,
            };
        }
        if told.expanded.is_some() {
            let reply = Reply::new(250, Enhanced(2, 0, 0), "the alias was expanded to several addresses");
            return Said { reply, host: None, phase: None, by: Speaker::Postrider };
        }
        let host = told.recipient.last_mx.as_deref().filter(|name| says_something(name));
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

impl Script {
    /// `rfc822; user@example.com`, or RFC 6533 §3: `utf-8-addr-xtext` in ASCII, `utf-8-address` where UTF-8 may
    /// stand. In ASCII a domain alone is not worth a type that few programs know: its A-labels are the same.
    fn typed_address(self, address: &Address) -> String {
        let whole: &str = address.as_ref();
        let text = format!("{}@{}", address.user(), Domain::of(address));
        match self {
            Script::Utf8 if !whole.is_ascii() => format!("utf-8; {whole}"),
            Script::Ascii if !text.is_ascii() => format!("utf-8; {}", unitext::xtext_of(whole)),
            // As it was in the envelope, letter by letter (RFC 3464 §2.3.2).
            _ if whole.is_ascii() => format!("rfc822; {whole}"),
            _ => format!("rfc822; {text}"),
        }
    }

    /// ORCPT as a field: the type, and the address without its encoding (RFC 3461 §4.2, RFC 6533 §3). None where
    /// it is no ORCPT.
    pub(super) fn original_recipient(self, orcpt: &str) -> Option<String> {
        let (kind, address) = orcpt.split_once(';')?;
        let kind_is_atom =
            !kind.is_empty() && kind.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        let address = match (kind.eq_ignore_ascii_case("utf-8"), self) {
            (false, _) => xtext_decoded(address),
            (true, Script::Ascii) => unitext::in_ascii(address),
            // What does not conform is copied as it is.
            (true, Script::Utf8) => unitext::decoded(address)
                .filter(|text| address::parse(text).is_ok())
                .unwrap_or(address.to_owned()),
        };
        (kind_is_atom && says_something(&address)).then(|| format!("{kind}; {address}"))
    }

    /// Text on one line, for foreign words: controls and line ends become spaces, so that no value can begin a
    /// field of its own; what the script has no characters for is escaped.
    pub(super) fn printable(self, text: &str, bytes_max: usize) -> String {
        let mut out = String::new();
        for c in text.chars() {
            match c {
                ' '..='~' => out.push(c),
                _ if c.is_control() => out.push(' '),
                _ if self == Script::Utf8 && !turns_text(c) => out.push(c),
                _ => unitext::push_escaped(&mut out, c),
            }
            if out.len() > bytes_max {
                out.push_str(" ...");
                break;
            }
        }
        out
    }
}

/// Whether anything is left of it in print.
fn says_something(text: &str) -> bool {
    text.chars().any(|c| !c.is_control() && !c.is_whitespace())
}

/// Characters that change the direction of what stands round them: a reply could look like something else.
fn turns_text(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// RFC 3461 §4: `+2B` is `+`. What breaks the grammar stays as it is.
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
    String::from_utf8_lossy(&bytes).into_owned()
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

/// Fields in the making.
struct Fields {
    out: String,
    script: Script,
    reply_bytes_max: usize,
}

impl Fields {
    /// `Name: value`, folded.
    fn folded(&mut self, name: &str, value: &str) {
        let value = self.script.printable(value, VALUE_BYTES_MAX);
        self.lines(name, folded(&value, name.len() + 2));
    }

    /// `Name: value` on one line where that fits: the spaces in an address or an envelope id are the sender's.
    fn whole(&mut self, name: &str, value: &str) {
        let value = self.script.printable(value, VALUE_BYTES_MAX);
        if value.len() > WORD_BYTES_MAX {
            return self.lines(name, folded(&value, name.len() + 2));
        }
        self.lines(name, vec![value]);
    }

    /// RFC 3461 §9.2: every line of a reply with its codes, a dash behind the code of all but the last.
    fn diagnostic(&mut self, kind: &str, reply: &Reply) {
        let mut lines = Vec::new();
        let mut bytes_left = self.reply_bytes_max;
        let mut texts = reply.text.split('\n').filter(|line| !line.is_empty()).peekable();
        let mut first = format!("{kind}; ");
        loop {
            let text = texts.next().unwrap_or_default();
            let is_last = texts.peek().is_none() || text.len() >= bytes_left;
            let dash = if is_last { ' ' } else { '-' };
            let codes = match reply.enhanced {
                Some(enhanced) => format!("{:03}{dash}{enhanced}", reply.code),
                None => format!("{:03}{}", reply.code, if is_last { "" } else { "-" }),
            };
            let gap = if codes.ends_with('-') { "" } else { " " };
            let text = self.script.printable(text, bytes_left);
            bytes_left = bytes_left.saturating_sub(text.len());
            let line = format!("{}{codes}{gap}{text}", std::mem::take(&mut first));
            let used = if lines.is_empty() { "Diagnostic-Code: ".len() } else { 1 };
            lines.extend(folded(&line, used));
            if is_last {
                return self.lines("Diagnostic-Code", lines);
            }
        }
    }

    fn lines(&mut self, name: &str, lines: Vec<String>) {
        self.out.push_str(name);
        self.out.push_str(": ");
        self.out.push_str(&lines.join("\r\n "));
        self.out.push_str("\r\n");
    }
}
