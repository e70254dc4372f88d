//! What stood on standard input, made the content of a message: pure.
//!
//! Lines end in CR LF, the dot that ends a message is found, recipients are read from the header, names in it get their
//! domain, and From is added where there is none. The rest is the relay's: it adds Date, Message-ID and Received, and
//! removes Bcc.

use std::ops::Range;

use lettre::message::header::{self, Headers};
use lettre::message::{Mailbox, Mailboxes};

use super::addresses::{Home, List};
use crate::mail::Address;

/// The lines with CR LF at their ends, up to one with a dot alone where that ends the message.
pub(super) fn content(input: &[u8], dot_ends: bool) -> Vec<u8> {
    // A byte order mark, which programs of Windows write, would be part of the first field's name.
    let input = input.strip_prefix(b"\xef\xbb\xbf").unwrap_or(input);
    let mut content = Vec::with_capacity(input.len() + input.len() / 32);
    for line in input.split_inclusive(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if dot_ends && line == b"." {
            break;
        }
        content.extend_from_slice(line);
        content.extend_from_slice(b"\r\n");
    }
    // The separator of a mailbox; what stands behind it is the header.
    let separated = content.starts_with(b"From ") || content.starts_with(b">From ");
    if let (true, Some(end)) = (separated, content.iter().position(|byte| *byte == b'\n'))
        && name_of(&content[end + 1..]).is_some()
    {
        content.drain(..=end);
    }
    content
}

/// What the header names.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) recipients: Vec<String>,
    /// Of fields that cannot be read whole, for a person.
    pub(super) wrong: Vec<String>,
}

/// The recipients: To, Cc and Bcc; or, where a message is sent once more, Resent-To, Resent-Cc and Resent-Bcc (RFC 5322
/// §3.6.6).
pub(super) fn recipients(content: &[u8]) -> Named {
    let fields = fields(content);
    let of = |names: [&str; 3]| -> Vec<&(String, Range<usize>)> {
        fields.iter().filter(|(name, _)| is_one_of(name, &names)).collect()
    };
    let resent = of(["Resent-To", "Resent-Cc", "Resent-Bcc"]);
    let mut named = Named::default();
    for (name, value) in if resent.is_empty() { of(["To", "Cc", "Bcc"]) } else { resent } {
        let value = String::from_utf8_lossy(&content[value.clone()]).replace("\r\n", "");
        let list = List::read(&value);
        named.recipients.extend(list.found.into_iter().map(|entry| entry.name));
        named.wrong.extend(list.wrong.map(|why| format!("{name} {why}")));
    }
    named
}

/// The content as it can be sent: without NUL, which no mail may have and much output of programs has.
pub(super) fn without_nul(content: &mut [u8]) {
    content.iter_mut().filter(|byte| **byte == 0).for_each(|byte| *byte = b' ');
}

/// The content with a domain at each address of its header. As cron writes it, From is `root`, and no other host takes
/// that (RFC 5322 §3.4.1).
pub(super) fn with_domains(content: Vec<u8>, home: &Home<'_>) -> Vec<u8> {
    const NAMES: [&str; 10] = [
        "From",
        "Sender",
        "Reply-To",
        "To",
        "Cc",
        "Resent-From",
        "Resent-Sender",
        "Resent-Reply-To",
        "Resent-To",
        "Resent-Cc",
    ];
    let fields = fields(&content);
    let values = fields.into_iter().filter(|(name, _)| is_one_of(name, &NAMES)).map(|(_, value)| value);
    let changed: Vec<_> =
        values.filter_map(|value| Some((value.clone(), home.with_domains(&content[value])?))).collect();
    let mut whole = content;
    for (place, value) in changed.into_iter().rev() {
        whole.splice(place, value);
    }
    whole
}

fn is_one_of(name: &str, names: &[&str]) -> bool {
    names.iter().any(|wanted| name.eq_ignore_ascii_case(wanted))
}

/// The content with a From, if it has none.
pub(super) fn with_from(content: Vec<u8>, sender: &Address, full_name: Option<&str>) -> Vec<u8> {
    let fields = fields(&content);
    if fields.iter().any(|(name, _)| name.eq_ignore_ascii_case("From")) {
        return content;
    }
    let name =
        full_name.map(|name| name.replace(char::is_control, " ")).filter(|name| !name.trim().is_empty());
    let mut headers = Headers::new();
    headers.set(header::From::from(Mailboxes::from(Mailbox::new(name, sender.clone()))));
    let mut whole = headers.to_string().into_bytes();
    if fields.is_empty() && !content.starts_with(b"\r\n") {
        // All of it is body.
        whole.extend_from_slice(b"\r\n");
    }
    whole.extend_from_slice(&content);
    whole
}

/// The fields of the header: names, and where their values stand with all of their lines. A line that is no field has
/// no name.
fn fields(content: &[u8]) -> Vec<(String, Range<usize>)> {
    let mut fields: Vec<(String, Range<usize>)> = Vec::new();
    let mut begin = 0;
    for line in content.split_inclusive(|byte| *byte == b'\n') {
        let end = begin + line.len();
        match (name_of(line), fields.last_mut()) {
            _ if line.trim_ascii_end().is_empty() => break,
            (_, Some((_, value))) if line.starts_with(b" ") || line.starts_with(b"\t") => value.end = end,
            (Some(name), _) => {
                let colon = line.iter().position(|byte| *byte == b':').unwrap_or_default();
                fields.push((name, begin + colon + 1..end));
            }
            // A message whose first line is no field is all body; a later one is a broken field.
            (None, None) => break,
            (None, Some(_)) => fields.push((String::new(), begin..end)),
        }
        begin = end;
    }
    fields
}

/// The name of the field that begins here (RFC 5322 §2.2, §4.5).
fn name_of(line: &[u8]) -> Option<String> {
    let name = line[..line.iter().position(|byte| matches!(byte, b':' | b'\n'))?].trim_ascii_end();
    let is_field = line.get(name.len()..)?.trim_ascii_start().starts_with(b":");
    let fits = is_field && !name.is_empty() && name.iter().all(|byte| byte.is_ascii_graphic());
    fits.then(|| String::from_utf8_lossy(name).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::address;

    #[test]
    fn lines_end_in_cr_lf_and_a_dot_ends_them_where_it_may() {
        for (input, with_dot, without) in [
            ("a\nb\n", "a\r\nb\r\n", "a\r\nb\r\n"),
            ("a\r\nb\r\n", "a\r\nb\r\n", "a\r\nb\r\n"),
            ("a\nb", "a\r\nb\r\n", "a\r\nb\r\n"),
            ("a\n.\nb\n", "a\r\n", "a\r\n.\r\nb\r\n"),
            ("a\n.", "a\r\n", "a\r\n.\r\n"),
            ("a\n..\n.b\n", "a\r\n..\r\n.b\r\n", "a\r\n..\r\n.b\r\n"),
            ("", "", ""),
            (
                "From me Mon Nov 30 01:00:00 2026\nSubject: a\n\nb\n",
                "Subject: a\r\n\r\nb\r\n",
                "Subject: a\r\n\r\nb\r\n",
            ),
            ("From me\nto you\n", "From me\r\nto you\r\n", "From me\r\nto you\r\n"),
        ] {
            assert_eq!(String::from_utf8(content(input.as_bytes(), true)).unwrap(), with_dot, "{input:?}");
            assert_eq!(String::from_utf8(content(input.as_bytes(), false)).unwrap(), without, "{input:?}");
        }
    }

    #[test]
    fn the_header_names_the_recipients() {
        for (text, expected) in [
            (
                "To: a\r\nCc: b@c.example\r\nBcc: d,\r\n e\r\nSubject: To: x\r\n\r\nTo: y\r\n",
                &["a", "b@c.example", "d", "e"][..],
            ),
            ("TO : a\r\nto: b\r\n\r\n", &["a", "b"]),
            ("To: a\r\nResent-To: b\r\nResent-Bcc: c\r\n\r\n", &["b", "c"]),
            ("To: undisclosed-recipients:;\r\nBcc: a\r\n\r\n", &["a"]),
            ("no field\r\nTo: a\r\n\r\n", &[]),
            ("To: a\r\nno field\r\nBcc: b\r\n\r\n", &["a", "b"]),
            ("\r\nTo: a\r\n", &[]),
        ] {
            let expected = Named {
                recipients: expected.iter().map(|name| (*name).to_owned()).collect(),
                ..Named::default()
            };
            assert_eq!(recipients(text.as_bytes()), expected, "{text:?}");
        }
        let bad = recipients(b"To: <a\r\nCc: b@c.example\r\n\r\n");
        assert_eq!(bad.recipients, ["b@c.example"]);
        assert!(bad.wrong[0].starts_with("To ends within"), "{bad:?}");
    }

    /// As Debian's cron and cronie write it.
    #[test]
    fn the_header_of_this_machine_can_be_sent_elsewhere() {
        let home = Home { hostname: "h.example", machine: "box" };
        let whole = |text: &str| String::from_utf8(with_domains(text.as_bytes().to_vec(), &home)).unwrap();
        assert_eq!(
            whole("From: root (Cron Daemon)\r\nSubject: root\r\nX: y\r\nto:\r\n root\r\n\r\nTo: root\r\n"),
            "From: root@h.example (Cron Daemon)\r\nSubject: root\r\nX: y\r\nto:\r\n root@h.example\r\n\r\nTo: root\r\n"
        );
        assert_eq!(
            whole(
                "Resent-From: \"(Cron Daemon)\" <root>\r\nbroken\r\n root\r\nCc: a@b.example, root@box\r\n"
            ),
            "Resent-From: \"(Cron Daemon)\" <root@h.example>\r\nbroken\r\n root\r\nCc: a@b.example, root@h.example\r\n"
        );
        for same in ["hello: root", "From root\r\nTo: root\r\n", ""] {
            assert_eq!(whole(same), same);
        }
    }

    #[test]
    fn what_programs_print_can_be_sent() {
        let mut content = content(b"\xef\xbb\xbfTo: a\n\na\0b\n", true);
        assert_eq!(recipients(&content).recipients, ["a"]);
        without_nul(&mut content);
        assert_eq!(content, b"To: a\r\n\r\na b\r\n");
    }

    #[test]
    fn from_is_added_where_there_is_none() {
        let me = address::parse("me@h.example").unwrap();
        let added = |content: &str, name: Option<&str>| {
            String::from_utf8(with_from(content.as_bytes().to_vec(), &me, name)).unwrap()
        };
        let kept = "Subject: a\r\nfrom: b\r\n\r\nc\r\n";
        assert_eq!(added(kept, Some("Me")), kept);
        assert_eq!(added("Subject: a\r\n\r\nc\r\n", None), "From: me@h.example\r\nSubject: a\r\n\r\nc\r\n");
        assert_eq!(added("hello\r\n", Some("Me")), "From: Me <me@h.example>\r\n\r\nhello\r\n");
        assert_eq!(added("\r\nhello\r\n", None), "From: me@h.example\r\n\r\nhello\r\n");
        assert_eq!(
            added("\r\n", Some("Last, First")),
            "From: =?utf-8?b?TGFzdCwgRmlyc3Q=?= <me@h.example>\r\n\r\n"
        );
        let hostile = added("\r\n", Some("Me\r\nBcc: you@b.example"));
        assert_eq!(hostile.lines().count(), 2, "{hostile:?}");
        assert!(added("\r\n", Some("Jörg")).starts_with("From: =?utf-8?b?SsO2cmc=?= <me@h.example>\r\n"));
    }
}
