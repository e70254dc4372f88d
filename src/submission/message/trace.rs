//! Writing the trace field of RFC 5321 §4.4, and the other fields that RFC 6409 §8 has us add: pure.
//!
//! Added, in front: Received, and Date and Message-ID where they are missing. What `header.rs` found to be no part of
//! the message is left out. Nothing else is touched.

use std::net::IpAddr;

use crate::kit::text::date_field;
use crate::mail::{Address, Domain, Peer};
use crate::queue::MessageId;

use super::header::Header;

/// What the Received field says.
#[derive(Debug, Clone)]
pub(in crate::submission) struct Trace<'a> {
    /// What the client called itself.
    pub(in crate::submission) helo: &'a str,
    /// Where it is.
    pub(in crate::submission) client: Peer,
    /// Who that is, at a socket in the file system; else it is not told.
    pub(in crate::submission) user: Option<&'a str>,
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

/// The Message-ID that [`fix`] adds.
pub(in crate::submission) fn added_message_id(header: &Header, trace: &Trace<'_>) -> Option<String> {
    header.labels[0].is_none().then(|| format!("{}@{}", trace.id, trace.hostname.as_str()))
}

/// `content` with the fixes that [`super::header::HeaderReader::read`] found to be needed.
pub(in crate::submission) fn fix(content: &[u8], header: &Header, trace: &Trace<'_>) -> Vec<u8> {
    let date = date_field(trace.at);
    let mut out = Vec::with_capacity(content.len() + 512);
    push_received(&mut out, trace, &date);
    if let Some(id) = added_message_id(header, trace) {
        push(&mut out, &["Message-ID: <", &id, ">\r\n"]);
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
        Peer::Ip(IpAddr::V4(v4)) => format!("[{v4}]"),
        Peer::Ip(IpAddr::V6(v6)) => format!("[IPv6:{v6}]"),
        Peer::Unix(uid) => format!("unix, user {}", trace.user.unwrap_or(&uid.to_string())),
    };
    // What is no domain could be anything: a comment, a second clause. It is not repeated.
    let helo = Domain::parse(trace.helo);
    let named = if trace.client.ip().is_some() { &address } else { "localhost" };
    let helo = helo.as_ref().map_or(named, Domain::as_str);
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
pub(super) mod tests {
    use super::super::header::tests::read;
    use super::*;
    use crate::mail::address;

    fn fixed_for(content: &str, for_only: Option<&Address>) -> String {
        let hostname = Domain::parse("relay.example").unwrap();
        let trace = Trace {
            helo: "client.example",
            client: "192.0.2.7".parse().unwrap(),
            user: Some("app"),
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
    pub(in crate::submission) fn fixed(content: &str) -> String {
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
    fn a_message_without_header_keeps_its_body() {
        let added = [MESSAGE_ID, DATE].concat();
        for (content, between) in [
            ("", ""),
            ("\r\nbody\r\n", ""),
            ("Hello there\r\nDate: not one\r\n", "\r\n"),
            (" folded\r\nDate: not one\r\n", "\r\n"),
            (": no name\r\n", "\r\n"),
            ("two words: x\r\n", "\r\n"),
            ("From here on it is text\r\nand no header\r\n", "\r\n"),
            ("From here\r\n\r\n", "\r\n"),
            ("From here", "\r\n"),
            ("From here\r\nSubject: follows\r\n", "\r\n"),
            ("From me on Sat Jan  1 00:00:00 2000\r\nSubject: follows\r\n", "\r\n"),
            (">From here\r\nBcc is a word\r\n", "\r\n"),
            ("Hello there\r\nBcc: not one\r\n\r\nTo: nobody\r\n", "\r\n"),
            ("\u{feff}Hello there\r\nTo: nobody\r\n", "\r\n"),
        ] {
            assert_eq!(fixed(content), [&added, between, content].concat(), "{content:?}");
        }
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
                user: None,
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
