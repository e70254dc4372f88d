//! The header fixes of RFC 6409 §8 and the trace field of RFC 5321 §4.4: pure.
//!
//! Added, in front: Received, and Date and Message-ID where they are missing. Removed: Bcc and
//! Return-Path with their folded lines, and the separator (`From `, a date) that a mailbox has in front
//! of a message. Nothing else is touched; whatever follows the header stays
//! byte for byte, and a message whose first line is no header field is all body.

use std::net::IpAddr;
use std::ops::Range;

use memchr::memchr;

use crate::kit::text::date_field;
use crate::mail::{Address, Domain};
use crate::queue::MessageId;

/// Longer headers are refused. Real ones end far below; the limit is what a session may hold in memory.
pub(in crate::submission) const HEADER_BYTES_MAX: usize = 1 << 20;

/// What the Received field says.
#[derive(Debug, Clone)]
pub(in crate::submission) struct Trace<'a> {
    /// What the client called itself.
    pub(in crate::submission) helo: &'a str,
    /// Where it is.
    pub(in crate::submission) client: IpAddr,
    /// Our name.
    pub(in crate::submission) hostname: &'a Domain,
    /// How it was submitted.
    pub(in crate::submission) with: Protocol,
    pub(in crate::submission) id: MessageId,
    /// The recipient, where there is only one: others must not learn of each other.
    pub(in crate::submission) for_only: Option<&'a Address>,
    /// Unix seconds.
    pub(in crate::submission) at: i64,
}

/// The `with` of a Received field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::submission) struct Protocol {
    /// EHLO, not HELO.
    pub(in crate::submission) extended: bool,
    pub(in crate::submission) tls: bool,
    pub(in crate::submission) authenticated: bool,
    pub(in crate::submission) smtputf8: bool,
}

impl Protocol {
    /// RFC 3848, RFC 6531 §4.3.
    fn as_str(self) -> &'static str {
        match (self.smtputf8, self.extended, self.tls, self.authenticated) {
            (true, _, false, false) => "UTF8SMTP",
            (true, _, false, true) => "UTF8SMTPA",
            (true, _, true, false) => "UTF8SMTPS",
            (true, _, true, true) => "UTF8SMTPSA",
            (false, false, false, false) => "SMTP",
            (false, _, false, false) => "ESMTP",
            (false, _, false, true) => "ESMTPA",
            (false, _, true, false) => "ESMTPS",
            (false, _, true, true) => "ESMTPSA",
        }
    }
}

/// Where the header ends, and what is to be done about it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in crate::submission) struct Header {
    /// The message has something in front that is no header: what is added needs an empty line behind it.
    all_body: bool,
    has_date: bool,
    has_message_id: bool,
    /// Received fields.
    pub(in crate::submission) hops: usize,
    /// Fields to be left out, in order.
    removed: Vec<Range<usize>>,
}

/// Reads the header at the start of `content` (CR LF line ends). None where its end is not in
/// sight and `complete` does not say that nothing more follows.
pub(in crate::submission) fn read(content: &[u8], complete: bool) -> Option<Header> {
    let mut header = Header::default();
    let mut has_fields = false;
    let mut removing = false;
    let mut at = 0;
    while at < content.len() {
        let end = match memchr(b'\n', &content[at..]) {
            Some(found) => at + found + 1,
            None if complete => content.len(),
            None => return None,
        };
        let line = &content[at..end];
        let folded = matches!(line[0], b' ' | b'\t') && at > 0;
        if at == 0 && line.starts_with(b"From ") {
            // A mailbox's separator, if a header follows. It is no part of the message, and behind our
            // Received field it would be the end of the header for whoever reads that strictly.
            removing = true;
        } else if !folded {
            let Some(name) = field_name(line) else {
                if !has_fields {
                    header.removed.clear();
                    header.all_body = at > 0 || line != b"\r\n";
                }
                return Some(header);
            };
            has_fields = true;
            let is = |field: &str| name.eq_ignore_ascii_case(field.as_bytes());
            removing = is("Bcc") || is("Return-Path");
            header.has_date |= is("Date");
            header.has_message_id |= is("Message-ID");
            header.hops += usize::from(is("Received"));
        }
        if removing {
            match header.removed.last_mut() {
                Some(last) if last.end == at => last.end = end,
                _ => header.removed.push(at..end),
            }
        }
        at = end;
    }
    if !has_fields && !content.is_empty() {
        header.removed.clear();
        header.all_body = true;
    }
    complete.then_some(header)
}

/// The name of a field: printable ASCII before a colon (RFC 5322 §2.2), with the white space
/// between them that its obsolete form allows (§4.5).
fn field_name(line: &[u8]) -> Option<&[u8]> {
    let name = line[..memchr(b':', line)?].trim_ascii_end();
    (!name.is_empty() && name.iter().all(u8::is_ascii_graphic)).then_some(name)
}

/// `content` with the fixes that [`read`] found to be needed.
pub(in crate::submission) fn fix(content: &[u8], header: &Header, trace: &Trace<'_>) -> Vec<u8> {
    let date = date_field(trace.at);
    let mut out = Vec::with_capacity(content.len() + 512);
    push_received(&mut out, trace, &date);
    if !header.has_message_id {
        push(&mut out, &["Message-ID: <", &trace.id.to_string(), "@", trace.hostname.as_str(), ">\r\n"]);
    }
    if !header.has_date {
        push(&mut out, &["Date: ", &date, "\r\n"]);
    }
    if header.all_body {
        out.extend_from_slice(b"\r\n");
    }
    let mut kept_from = 0;
    for removed in &header.removed {
        out.extend_from_slice(&content[kept_from..removed.start]);
        kept_from = removed.end;
    }
    out.extend_from_slice(&content[kept_from..]);
    out
}

/// RFC 5321 §4.4: `from` says what the client called itself and where it really is.
fn push_received(out: &mut Vec<u8>, trace: &Trace<'_>, date: &str) {
    let address = match trace.client {
        IpAddr::V4(v4) => format!("[{v4}]"),
        IpAddr::V6(v6) => format!("[IPv6:{v6}]"),
    };
    // What is no domain could be anything: a comment, a second clause. It is not repeated.
    let helo = Domain::parse(trace.helo);
    let helo = helo.as_ref().map_or(address.as_str(), Domain::as_str);
    push(out, &["Received: from ", helo, " (", &address, ")\r\n\tby ", trace.hostname.as_str()]);
    push(out, &[" with ", trace.with.as_str(), " id ", &trace.id.to_string()]);
    // In ASCII or not at all: our own field must not be what makes the header need SMTPUTF8 (RFC 6531 §3.7.3).
    if let Some(recipient) = trace.for_only.filter(|recipient| recipient.user().is_ascii()) {
        let (domain, a_labels) = (recipient.domain(), Domain::of(recipient));
        let domain = if domain.is_ascii() { domain } else { a_labels.as_str() };
        push(out, &["\r\n\tfor <", recipient.user(), "@", domain, ">"]);
    }
    push(out, &["; ", date, "\r\n"]);
}

fn push(out: &mut Vec<u8>, parts: &[&str]) {
    for part in parts {
        out.extend_from_slice(part.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::address;

    fn fixed_for(content: &str, for_only: Option<&Address>) -> String {
        let hostname = Domain::parse("relay.example").unwrap();
        let trace = Trace {
            helo: "client.example",
            client: "192.0.2.7".parse().unwrap(),
            hostname: &hostname,
            with: Protocol { extended: true, tls: true, authenticated: true, smtputf8: false },
            id: MessageId(1_795_000_000_000_000),
            for_only,
            at: 1_795_000_000,
        };
        let header = read(content.as_bytes(), true).unwrap();
        String::from_utf8(fix(content.as_bytes(), &header, &trace)).unwrap()
    }

    const RECEIVED: &str = "Received: from client.example ([192.0.2.7])\r\n\tby relay.example \
        with ESMTPSA id 01K6GXFMRQ0; Wed, 18 Nov 2026 11:06:40 +0000\r\n";
    const MESSAGE_ID: &str = "Message-ID: <01K6GXFMRQ0@relay.example>\r\n";
    const DATE: &str = "Date: Wed, 18 Nov 2026 11:06:40 +0000\r\n";

    /// What stands behind our Received field.
    fn fixed(content: &str) -> String {
        let id = MessageId(1_795_000_000_000_000).to_string();
        let received = RECEIVED.replace("01K6GXFMRQ0", &id);
        let text = fixed_for(content, None);
        let rest = text.strip_prefix(received.as_str()).unwrap_or_else(|| panic!("{text}"));
        rest.replace(&id, "01K6GXFMRQ0")
    }

    #[test]
    fn a_complete_header_gets_only_the_trace_field() {
        let content = "From: a@b\r\ndate: x\r\nMESSAGE-ID : <x@y>\r\nSubject: a\r\n b\r\n\r\nDate: body\r\n";
        assert_eq!(fixed(content), content);
    }

    #[test]
    fn date_and_message_id_are_added_where_missing() {
        assert_eq!(fixed("Subject: x\r\n\r\nbody"), [MESSAGE_ID, DATE, "Subject: x\r\n\r\nbody"].concat());
        assert_eq!(
            fixed("Date: x\r\n\r\nMessage-ID: y"),
            [MESSAGE_ID, "Date: x\r\n\r\nMessage-ID: y"].concat()
        );
    }

    #[test]
    fn bcc_and_return_path_go_with_their_folded_lines() {
        let content = "Bcc: x@y,\r\n\tz@y\r\nDate: x\r\nreturn-path:<a@b>\r\nBCC :\r\n c@d\r\n\
            Message-ID: <m>\r\nBcc-Note: kept\r\n\r\nBcc: body\r\n";
        assert_eq!(fixed(content), "Date: x\r\nMessage-ID: <m>\r\nBcc-Note: kept\r\n\r\nBcc: body\r\n");
        assert_eq!(fixed("Date: x\r\nMessage-ID: <m>\r\nBcc: x"), "Date: x\r\nMessage-ID: <m>\r\n");
    }

    #[test]
    fn a_message_without_header_keeps_its_body() {
        let added = [MESSAGE_ID, DATE].concat();
        for (content, between) in [
            ("", ""),
            ("\r\nbody\r\n", ""),
            ("Hello there\r\nDate: not one\r\n", "\r\n"),
            (" folded\r\nDate: not one\r\n", "\r\n"),
            ("\u{fc}ber: x\r\n", "\r\n"),
            (": no name\r\n", "\r\n"),
            ("two words: x\r\n", "\r\n"),
            ("From here on it is text\r\nand no header\r\n", "\r\n"),
            ("From here\r\n\r\n", "\r\n"),
            ("From here", "\r\n"),
        ] {
            assert_eq!(fixed(content), [&added, between, content].concat(), "{content:?}");
        }
    }

    #[test]
    fn odd_headers_pass_unharmed() {
        let with_separator = "From me Sat Jan  1 00:00:00 2000\r\nDate: x\r\nMessage-ID: <m>\r\n\r\nbody\r\n";
        assert_eq!(fixed(with_separator), "Date: x\r\nMessage-ID: <m>\r\n\r\nbody\r\n");
        // Without an empty line the body begins where the fields end, and what is there stays.
        let unseparated = "Date: x\r\nMessage-ID: <m>\r\nHi John\r\nBcc: in the body\r\n";
        assert_eq!(fixed(unseparated), unseparated);
        assert_eq!(fixed("Date: x\r\nMessage-ID: <m>"), "Date: x\r\nMessage-ID: <m>");
    }

    #[test]
    fn the_only_recipient_is_named() {
        let recipient = address::parse("a@b.example").unwrap();
        let text = fixed_for("\r\n", Some(&recipient));
        assert!(text.contains("\r\n\tfor <a@b.example>; Wed, 18 Nov"), "{text}");
    }

    #[test]
    fn our_own_field_is_always_ascii() {
        let for_one = |to: &str| fixed_for("\r\n", Some(&address::parse(to).unwrap()));
        assert!(for_one("a@bücher.example").contains("\r\n\tfor <a@xn--bcher-kva.example>; "));
        assert!(for_one("ä@bücher.example").is_ascii() && !for_one("ä@bücher.example").contains("for <"));
    }

    #[test]
    fn a_client_cannot_write_into_the_trace_field() {
        let hostname = Domain::parse("relay.example").unwrap();
        for helo in ["x(comment", "a;b", "with\u{fc}\u{2028}", "()"] {
            let trace = Trace {
                helo,
                client: "2001:db8::1".parse().unwrap(),
                hostname: &hostname,
                with: Protocol { extended: false, tls: false, authenticated: false, smtputf8: false },
                id: MessageId(1),
                for_only: None,
                at: 0,
            };
            let text = String::from_utf8(fix(b"", &Header::default(), &trace)).unwrap();
            let expected =
                "Received: from [IPv6:2001:db8::1] ([IPv6:2001:db8::1])\r\n\tby relay.example with SMTP ";
            assert!(text.starts_with(expected), "{text}");
        }
    }

    #[test]
    fn the_end_of_the_header_may_not_be_in_sight() {
        assert_eq!(read(b"Subject: x\r\n fol", false), None);
        assert_eq!(read(b"Subject: x\r\n", false), None);
        assert_eq!(read(b"", false), None);
        assert!(read(b"Subject: x\r\n\r\n", false).is_some());
        assert!(read(b"Subject: x\r\nno field\r\n", false).is_some());
    }

    #[test]
    fn hops_are_counted() {
        let header = read(b"Received: a\r\n b\r\nReceived: c\r\n\r\nReceived: body\r\n", true).unwrap();
        assert_eq!(header.hops, 2);
    }

    #[test]
    fn each_way_in_has_its_keyword() {
        let with = |extended, tls, authenticated, smtputf8| {
            Protocol { extended, tls, authenticated, smtputf8 }.as_str()
        };
        assert_eq!(with(false, false, false, false), "SMTP");
        assert_eq!(with(true, false, false, false), "ESMTP");
        assert_eq!(with(true, true, false, false), "ESMTPS");
        assert_eq!(with(true, false, true, false), "ESMTPA");
        assert_eq!(with(true, true, true, false), "ESMTPSA");
        assert_eq!(with(true, true, true, true), "UTF8SMTPSA");
    }
}
