//! For tests: a reader of reports that takes nothing but what the grammar allows, written from RFC 5322, 2046,
//! 3461 §6.3, 3464 §2, 6522 and 6533 §4, and not from what writes them.

use memchr::memmem;

use crate::delivery::report::bounce::Report;
use crate::delivery::report::bounce::returned::has_lines;
use crate::mail::{Body, Notify};

/// Names and unfolded values.
type FieldList = Vec<(String, String)>;

/// A field's name, whether it must stand, and what its value must be.
type Rule = (&'static str, bool, fn(&str) -> bool);

/// RFC 3464 §2.2, in its order; then extensions.
const OF_MESSAGE: &[Rule] = &[
    ("Original-Envelope-Id", false, is_text),
    ("Reporting-MTA", true, is_typed),
    ("Received-From-MTA", false, is_typed),
    ("Arrival-Date", true, is_date),
    ("Future-Release-Request", false, is_text),
    ("Deliver-By-Date", false, is_date),
    ("X-Postrider-Queue-ID", true, is_text),
];

/// RFC 3464 §2.3, in its order.
const OF_RECIPIENT: &[Rule] = &[
    ("Original-Recipient", false, is_typed),
    ("Final-Recipient", true, is_address),
    ("Action", true, is_action),
    ("Status", true, is_status),
    ("Remote-MTA", false, is_typed),
    // RFC 3461 §6.3 wants it of everything that went by SMTP.
    ("Diagnostic-Code", true, is_diagnostic),
    ("Last-Attempt-Date", false, is_date),
    ("Final-Log-ID", true, is_text),
    ("Will-Retry-Until", false, is_date),
];

/// Panics where a report is not lawful; gives the parts' bodies, as they are encoded.
pub(super) fn check(report: &Report, recipients: usize) -> Vec<Vec<u8>> {
    let content = &report.content;
    let envelope = &report.envelope;
    assert_eq!((&envelope.sender, envelope.ret, &envelope.envid), (&None, None, &None));
    assert_eq!(envelope.recipients[0].notify, Some(Notify::NEVER), "RFC 3461 §6.1");
    assert_eq!(envelope.body == Body::EightBitMime, !content.is_ascii());
    assert!(has_lines(content), "lines: {}", String::from_utf8_lossy(content));
    let (header, body) = split(content);
    assert_eq!(envelope.smtputf8, !header.is_ascii(), "SMTPUTF8 where the header needs it");
    let header = fields_of(&header);
    for name in
        ["Date", "From", "To", "Subject", "Message-ID", "Auto-Submitted", "MIME-Version", "Content-Type"]
    {
        assert_eq!(header.iter().filter(|(known, _)| known == name).count(), 1, "{name} in {header:?}");
    }
    // RFC 2045 §6.4.
    assert_eq!(value(&header, "Content-Transfer-Encoding"), (!body.is_ascii()).then_some("8bit"));
    assert_eq!(header.len(), 8 + usize::from(!body.is_ascii()), "{header:?}");
    assert_eq!(value(&header, "Auto-Submitted"), Some("auto-replied"));
    let kind = value(&header, "Content-Type").unwrap();
    assert!(kind.starts_with("multipart/report; report-type=delivery-status; boundary="), "{kind}");
    let boundary = kind.split('"').nth(1).unwrap();
    assert!(boundary.len() <= 70);

    let parts = parts_of(&body, boundary);
    assert!(parts.len() == 2 || parts.len() == 3);
    let mut bodies = Vec::new();
    for (part, kinds) in parts.iter().zip([
        &["text/plain; charset=utf-8"][..],
        &["message/delivery-status", "message/global-delivery-status"],
        &["message/rfc822", "text/rfc822-headers", "message/global", "message/global-headers"],
    ]) {
        let (header, body) = split(part);
        let header = fields_of(&header);
        assert_eq!(header.len(), 2);
        let kind = value(&header, "Content-Type").unwrap();
        assert!(kinds.contains(&kind), "{kind}");
        let encoding = value(&header, "Content-Transfer-Encoding").unwrap();
        assert!(encoding == "8bit" || body.is_ascii());
        match kind {
            // RFC 3464 §2.1, RFC 6533 §6.4.
            "message/delivery-status" => assert_eq!(encoding, "7bit"),
            "message/global-delivery-status" => assert_eq!(encoding, "8bit"),
            // RFC 2046 §5.2.1: never encoded, and with a header in ASCII.
            "message/rfc822" => {
                assert!(matches!(encoding, "7bit" | "8bit") && split(&body).0.is_ascii());
            }
            _ => {}
        }
        // RFC 6533 §4.5: nobody knows whether the hosts on the way to an ASCII address have SMTPUTF8.
        if kind.starts_with("message/global") && !envelope.smtputf8 {
            assert!(matches!(encoding, "quoted-printable" | "base64"), "{kind} as {encoding}");
        }
        bodies.push(body);
    }
    check_status(&bodies[1], recipients);
    bodies
}

/// The second part alone.
fn check_status(body: &[u8], recipients: usize) {
    let groups: Vec<FieldList> = std::str::from_utf8(body)
        .unwrap()
        .trim_end()
        .split("\r\n\r\n")
        .map(|group| fields_of(format!("{group}\r\n").as_bytes()))
        .collect();
    assert_eq!(groups.len(), recipients + 1, "{groups:?}");
    obey(&groups[0], OF_MESSAGE);
    for group in &groups[1..] {
        obey(group, OF_RECIPIENT);
        let is = |name| value(group, name);
        assert_eq!(is("Action") == Some("delayed"), is("Will-Retry-Until").is_some(), "RFC 3464 §2.3.9");
        // RFC 3464 §2.3.6: without one the words are ours.
        let diagnostic = is("Diagnostic-Code").unwrap();
        assert_eq!(is("Remote-MTA").is_some(), diagnostic.starts_with("smtp;"), "{group:?}");
        let (action, status) = (is("Action").unwrap(), is("Status").unwrap());
        assert_eq!(matches!(action, "relayed" | "expanded"), status.starts_with('2'), "{group:?}");
    }
}

/// Every field known, in its place, once, and with a lawful value; the required ones there.
fn obey(group: &FieldList, rules: &[Rule]) {
    let mut from = 0;
    for (name, value) in group {
        let place = rules[from..].iter().position(|(known, ..)| known == name);
        let place = place.unwrap_or_else(|| panic!("{name} is unknown, or not in its place: {group:?}"));
        let skipped = &rules[from..from + place];
        assert!(!skipped.iter().any(|(_, required, _)| *required), "missing before {name}: {group:?}");
        assert!(rules[from + place].2(value), "{name}: {value:?}");
        from += place + 1;
    }
    assert!(!rules[from..].iter().any(|(_, required, _)| *required), "missing at the end: {group:?}");
}

/// `*text`, and something of it.
fn is_text(value: &str) -> bool {
    !value.trim().is_empty() && value.chars().all(|c| !c.is_control())
}

/// `atom ";" *text`.
fn is_typed(value: &str) -> bool {
    value.split_once(';').is_some_and(|(kind, rest)| is_atom(kind) && is_text(rest))
}

fn is_atom(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// RFC 3461 §9.1, RFC 6533 §3.
fn is_address(value: &str) -> bool {
    match value.split_once("; ") {
        Some(("rfc822", address)) => address.is_ascii() && address.contains('@'),
        Some(("utf-8", address)) if address.is_ascii() => is_utf8_addr_xtext(address),
        Some(("utf-8", address)) => address.contains('@') && !address.contains("\\x{"),
        _ => false,
    }
}

/// `1*(QCHAR / EmbeddedUnicodeChar)`.
fn is_utf8_addr_xtext(text: &str) -> bool {
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        rest = match rest.strip_prefix("\\x{") {
            Some(escape) => {
                let Some((hex, after)) = escape.split_once('}') else { return false };
                let upper = hex.bytes().all(|byte| byte.is_ascii_digit() || (b'A'..=b'F').contains(&byte));
                if !upper || !(2..=6).contains(&hex.len()) || (hex.len() > 2 && hex.starts_with('0')) {
                    return false;
                }
                after
            }
            None if ('!'..='~').contains(&c) && !matches!(c, '+' | '=' | '\\') => &rest[1..],
            None => return false,
        };
    }
    !text.is_empty()
}

/// What a relay can say; `delivered` is for mailboxes.
fn is_action(value: &str) -> bool {
    matches!(value, "failed" | "delayed" | "relayed" | "expanded")
}

/// `DIGIT "." 1*3DIGIT "." 1*3DIGIT`, no leading zeros.
fn is_status(value: &str) -> bool {
    let parts: Vec<&str> = value.split('.').collect();
    let number = |part: &&str| {
        (1..=3).contains(&part.len())
            && part.bytes().all(|byte| byte.is_ascii_digit())
            && (part.len() == 1 || !part.starts_with('0'))
    };
    parts.len() == 3 && matches!(parts[0], "2" | "4" | "5") && parts[1..].iter().all(number)
}

/// RFC 3461 §9.2: `*( 3*DIGIT "-" *text ) 3*DIGIT SPACE *text` behind the type; a code alone is met, too.
fn is_diagnostic(value: &str) -> bool {
    let Some((kind, reply)) = value.split_once("; ") else { return false };
    let (code, rest) = reply.split_at_checked(3).unwrap_or_default();
    let code_is_one = code.len() == 3 && code.bytes().all(|byte| byte.is_ascii_digit());
    let goes_on = rest.starts_with('-') && reply.contains(&format!(" {code}"));
    matches!(kind, "smtp" | "x-postrider")
        && code_is_one
        && (rest.is_empty() || rest.starts_with(' ') || goes_on)
}

/// RFC 5322 §3.3 with a numeric zone.
fn is_date(value: &str) -> bool {
    value.ends_with(" +0000") && jiff::fmt::rfc2822::parse(value).is_ok()
}

fn value<'f>(fields: &'f FieldList, name: &str) -> Option<&'f str> {
    fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

/// RFC 2046 §5.1.1.
fn parts_of(body: &[u8], boundary: &str) -> Vec<Vec<u8>> {
    let delimiter = format!("--{boundary}");
    let text = body.strip_prefix(format!("{delimiter}\r\n").as_bytes()).unwrap();
    let text = text.strip_suffix(format!("\r\n{delimiter}--\r\n").as_bytes()).unwrap();
    let mut parts = vec![Vec::new()];
    for line in text.split_inclusive(|&byte| byte == b'\n') {
        if line.starts_with(delimiter.as_bytes()) {
            assert_eq!(line, format!("{delimiter}\r\n").as_bytes());
            parts.push(Vec::new());
        } else {
            parts.last_mut().unwrap().extend_from_slice(line);
        }
    }
    parts
}

/// Header with its last CR LF, and what follows the empty line.
fn split(bytes: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let at = memmem::find(bytes, b"\r\n\r\n").expect("an empty line");
    (bytes[..at + 2].to_vec(), bytes[at + 4..].to_vec())
}

fn fields_of(header: &[u8]) -> FieldList {
    let text = std::str::from_utf8(header).unwrap();
    let mut fields = FieldList::new();
    for line in text.strip_suffix("\r\n").unwrap().split("\r\n") {
        if let Some(more) = line.strip_prefix(' ') {
            assert!(!more.trim().is_empty(), "an empty continuation in {text}");
            let value = &mut fields.last_mut().unwrap().1;
            value.push(' ');
            value.push_str(more);
        } else {
            let (name, value) = line.split_once(": ").unwrap_or_else(|| panic!("no field: {line:?}"));
            assert!(is_atom(name), "{name}");
            fields.push((name.to_owned(), value.to_owned()));
        }
    }
    fields
}
