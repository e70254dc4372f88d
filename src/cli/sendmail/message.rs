//! What stood on standard input, made the content of a message: pure.
//!
//! Lines end in CR LF, the dot that ends a message is found, recipients are read from the header, and From is added
//! where there is none. The rest is the relay's: it adds Date, Message-ID and Received, and removes Bcc.

use lettre::message::header::{self, Headers};
use lettre::message::{Mailbox, Mailboxes};

use super::addresses;
use crate::mail::Address;

/// The lines with CR LF at their ends, up to one with a dot alone where that ends the message.
pub(super) fn content(input: &[u8], dot_ends: bool) -> Vec<u8> {
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

/// The recipients that the header names: To, Cc and Bcc; or, where a message is sent once more, Resent-To, Resent-Cc
/// and Resent-Bcc (RFC 5322 §3.6.6).
///
/// # Errors
/// A field that cannot be read, for a person.
pub(super) fn recipients(content: &[u8]) -> Result<Vec<String>, String> {
    let fields = fields(content);
    let of = |names: [&str; 3]| -> Vec<&(String, String)> {
        fields
            .iter()
            .filter(|(name, _)| names.iter().any(|wanted| name.eq_ignore_ascii_case(wanted)))
            .collect()
    };
    let resent = of(["Resent-To", "Resent-Cc", "Resent-Bcc"]);
    let named = if resent.is_empty() { of(["To", "Cc", "Bcc"]) } else { resent };
    let mut found = Vec::new();
    for (name, value) in named {
        found.extend(addresses::listed(value).map_err(|why| format!("{name} {why}"))?);
    }
    Ok(found)
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

/// The fields of the header, with their lines joined.
fn fields(content: &[u8]) -> Vec<(String, String)> {
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in content.split_inclusive(|byte| *byte == b'\n') {
        let text = String::from_utf8_lossy(line.trim_ascii_end());
        match (name_of(line), fields.last_mut()) {
            _ if text.is_empty() => break,
            (_, Some((_, value))) if line.starts_with(b" ") || line.starts_with(b"\t") => {
                value.push_str(&text)
            }
            (Some(name), _) => {
                let value = text.split_once(':').map_or("", |(_, value)| value).to_owned();
                fields.push((name, value));
            }
            // A message whose first line is no field is all body; a later one is a broken field.
            (None, None) => break,
            (None, Some(_)) => {}
        }
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
            assert_eq!(recipients(text.as_bytes()).unwrap(), expected, "{text:?}");
        }
        assert!(recipients(b"To: <a\r\n\r\n").unwrap_err().starts_with("To "));
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
