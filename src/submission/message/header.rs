//! Reading a header: what of it is to go (RFC 6409 §8), what a message can be found by, and where it ends. Pure.
//!
//! Removed, with their folded lines: Bcc, Resent-Bcc, Return-Path and X-Postrider-Tag; and what is no part of a message
//! but stands in front of one: a byte order mark, and the separator (`From `, an address, a date: RFC 4155) that a
//! mailbox has there, escaped (`>From `) too. None of it depends on how the content arrives. What is added in front,
//! and how it is all put together: `trace.rs`.
//!
//! The header ends at the empty line (RFC 5322 §2.1), not at a line that is no field: clients write such lines, and a
//! Bcc behind one is as private as before it. A message whose first line is no field is all body, since programs
//! mail plain text; unless a private field and a usual one follow before the first empty line: then the first line is
//! a broken one of a header.

use std::ops::Range;

use memchr::memchr;

use crate::mail::Labels;
use crate::mail::header::HEADER_BYTES_MAX;
use crate::mail::labels::{self, BadTag, TAG_FIELD};

/// What is to be done about a header.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in crate::submission) struct Header {
    /// The message has something in front that is no header: what is added needs an empty line behind it.
    pub(super) all_body: bool,
    pub(super) has_date: bool,
    /// The first Message-ID, the first Subject and the first X-Postrider-Tag, with their folded lines.
    pub(super) labels: [Option<Range<usize>>; 3],
    /// X-Postrider-Tag fields.
    tags: usize,
    /// TLS-Required fields, and whether one says No.
    tls_required: (usize, bool),
    /// Received fields.
    pub(in crate::submission) hops: usize,
    /// It ends there, without the empty line.
    pub(in crate::submission) bytes: usize,
    /// Fields to be left out, in order.
    pub(super) removed: Vec<Range<usize>>,
}

impl Header {
    /// Whether the sender would rather have the message arrive than be protected: RFC 8689 §5. A field that says
    /// something else, or says it twice, says nothing.
    pub(in crate::submission) fn tls_is_optional(&self) -> bool {
        self.tls_required == (1, true)
    }
}

/// Nobody but the sender is to read these.
const PRIVATE: [&[u8]; 4] = [b"Bcc", b"Resent-Bcc", b"Return-Path", TAG_FIELD.as_bytes()];
/// By which a message can be found.
const LABELS: [&[u8]; 3] = [b"Message-ID", b"Subject", TAG_FIELD.as_bytes()];
/// Fields that make a header of lines whose first is none.
const USUAL: [&[u8]; 9] =
    [b"From", b"To", b"Cc", b"Subject", b"Date", b"Message-ID", b"Received", b"Sender", b"MIME-Version"];
const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
/// In UTF-8, as editors put it in front of a text.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// From a line that is no field on the empty line is looked for in lines that end so far: in a text without one, that
/// is no header, it may never come.
const LOOK_AHEAD_BYTES: usize = 64 << 10;

/// Reads the header at the start of content that is still growing, each byte once.
#[derive(Debug, Default)]
pub(in crate::submission) struct HeaderReader {
    header: Header,
    /// Where the next line begins.
    at: usize,
    /// Up to here there is no end of that line.
    searched: usize,
    has_fields: bool,
    /// The line before this one is left out, and so are the folded lines behind it.
    removing: bool,
    /// It is the last of this label, and the folded lines behind it are a part of that.
    labelling: Option<usize>,
    /// Where the first line is that is no field.
    broken_at: Option<usize>,
    /// It is the first line of all.
    begins_broken: bool,
    has_private: bool,
    has_usual: bool,
}

impl HeaderReader {
    /// Reads on in `content` (CR LF line ends), which begins with what was given before. None where the end of the
    /// header is not in sight and `complete` does not say that nothing more follows; otherwise it is not to be called
    /// again.
    pub(in crate::submission) fn read(&mut self, content: &[u8], complete: bool) -> Option<Header> {
        while self.at < content.len() {
            let found = memchr(b'\n', &content[self.searched..]).map(|found| self.searched + found + 1);
            let end = found.unwrap_or(content.len());
            self.searched = end;
            if self.is_in_vain(end) {
                return Some(self.judged());
            }
            if found.is_none() && !complete {
                return None;
            }
            let line = &content[self.at..end];
            if matches!(line, b"\r\n" | b"\n") {
                return Some(self.judged());
            }
            self.line(line);
            self.at = end;
        }
        complete.then(|| self.judged())
    }

    /// Whether a line that ends there, or later, is looked at no more.
    fn is_in_vain(&self, end: usize) -> bool {
        self.broken_at.is_some_and(|from| end > HEADER_BYTES_MAX.min(from + LOOK_AHEAD_BYTES))
    }

    /// A line of the header, or of what stands there.
    fn line(&mut self, line: &[u8]) {
        let bytes = self.at..self.at + line.len();
        if self.at > 0 && matches!(line[0], b' ' | b'\t') {
            if let Some(label) = self.labelling.and_then(|at| self.header.labels[at].as_mut()) {
                label.end = bytes.end;
            }
            if self.removing {
                self.remove(bytes);
            }
            return;
        }
        let mut text = line;
        while let Some(rest) = text.strip_prefix(BYTE_ORDER_MARK) {
            text = rest;
        }
        self.labelling = None;
        let in_front = !self.has_fields && self.broken_at.is_none();
        if in_front && is_separator(text) {
            // If a header follows. It is no part of the message, and behind our
            // Received field it would be the end of the header for whoever reads that strictly.
            self.removing = true;
            return self.remove(bytes);
        }
        self.removing = false;
        let Some(name) = field_name(text) else {
            self.begins_broken |= in_front;
            self.broken_at.get_or_insert(self.at);
            return;
        };
        let is = |field: &[u8]| name.eq_ignore_ascii_case(field);
        self.has_fields = true;
        self.header.has_date |= is(b"Date");
        self.labelling = LABELS.into_iter().position(is).filter(|at| self.header.labels[*at].is_none());
        if let Some(at) = self.labelling {
            self.header.labels[at] = Some(bytes.clone());
        }
        self.header.tags += usize::from(is(TAG_FIELD.as_bytes()));
        self.header.hops += usize::from(is(b"Received"));
        if is(b"TLS-Required") {
            let (count, says_no) = self.header.tls_required;
            self.header.tls_required = (count + 1, says_no || value_of(text).eq_ignore_ascii_case(b"no"));
        }
        self.has_usual |= USUAL.into_iter().any(is);
        self.removing = PRIVATE.into_iter().any(is);
        self.has_private |= self.removing;
        if self.removing {
            self.remove(bytes);
        } else if in_front {
            self.remove(bytes.start..bytes.end - text.len());
        }
    }

    fn remove(&mut self, bytes: Range<usize>) {
        match self.header.removed.last_mut() {
            _ if bytes.is_empty() => {}
            Some(last) if last.end == bytes.start => last.end = bytes.end,
            _ => self.header.removed.push(bytes),
        }
    }

    /// The header, where it was one.
    fn judged(&mut self) -> Header {
        let is_header = if self.begins_broken { self.has_private && self.has_usual } else { self.has_fields };
        if is_header || self.at == 0 {
            return Header { bytes: self.at, ..std::mem::take(&mut self.header) };
        }
        Header { all_body: true, bytes: self.at, ..Header::default() }
    }
}

/// Whether a line divides the messages of a mailbox (RFC 4155 appendix A): an address and a date as asctime(3) writes
/// it; some write the time without seconds, or a zone before or behind the year. A text may begin with `From ` too.
fn is_separator(line: &[u8]) -> bool {
    let escaped = line.strip_prefix(b">").unwrap_or(line);
    let Some(Ok(text)) = escaped.strip_prefix(b"From ").map(str::from_utf8) else { return false };
    let mut words = text.split_ascii_whitespace();
    let mut next = || words.next().unwrap_or_default();
    let (_address, weekday, month, day, time) = (next(), next(), next(), next(), next());
    let is_number = |text: &str, digits: std::ops::RangeInclusive<usize>| {
        digits.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
    };
    let parts = time.split(':').count();
    let years = [next(), next()];
    ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"].contains(&weekday)
        && MONTHS.contains(&month)
        && is_number(day, 1..=2)
        && (2..=3).contains(&parts)
        && time.split(':').all(|part| is_number(part, 2..=2))
        && years.iter().any(|year| is_number(year, 4..=4))
}

/// The name of a field: printable characters before a colon (RFC 5322 §2.2), with the white space between them that
/// its obsolete form allows (§4.5). Beyond ASCII they are no name, but what a client means by them is a field.
fn field_name(line: &[u8]) -> Option<&[u8]> {
    let name = line[..memchr(b':', line)?].trim_ascii_end();
    let is_part = |byte: &u8| byte.is_ascii_graphic() || !byte.is_ascii();
    (!name.is_empty() && name.iter().all(is_part)).then_some(name)
}

/// What stands behind the colon of a field.
fn value_of(line: &[u8]) -> &[u8] {
    memchr(b':', line).map_or(&[], |colon| line[colon + 1..].trim_ascii())
}

/// What a message can be found by. `content` is what its header was read from.
///
/// # Errors
/// Its label is none, or it has several.
pub(in crate::submission) fn labels(
    content: &[u8],
    header: &Header,
    keep_subject: bool,
) -> Result<Labels, BadTag> {
    let [message_id, subject, tag] =
        header.labels.each_ref().map(|label| label.clone().map(|bytes| value_of(&content[bytes])));
    if header.tags > 1 {
        return Err(BadTag);
    }
    Ok(Labels {
        message_id: message_id.and_then(labels::message_id),
        subject: subject.filter(|_| keep_subject).and_then(labels::subject),
        tag: tag.map_or(Ok(None), labels::tag)?,
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::trace::tests::fixed;
    use super::*;

    pub(in crate::submission) fn read(content: &[u8], complete: bool) -> Option<Header> {
        HeaderReader::default().read(content, complete)
    }

    #[test]
    fn bcc_and_return_path_go_with_their_folded_lines() {
        let content = "Bcc: x@y,\r\n\tz@y\r\nDate: x\r\nreturn-path:<a@b>\r\nBCC :\r\n c@d\r\n\
            Message-ID: <m>\r\nBcc-Note: kept\r\n\r\nBcc: body\r\n";
        assert_eq!(fixed(content), "Date: x\r\nMessage-ID: <m>\r\nBcc-Note: kept\r\n\r\nBcc: body\r\n");
        assert_eq!(fixed("Date: x\r\nMessage-ID: <m>\r\nBcc: x"), "Date: x\r\nMessage-ID: <m>\r\n");
    }

    #[test]
    fn odd_headers_pass_unharmed() {
        let with_separator = "From me Sat Jan  1 00:00:00 2000\r\nDate: x\r\nMessage-ID: <m>\r\n\r\nbody\r\n";
        assert_eq!(fixed(with_separator), "Date: x\r\nMessage-ID: <m>\r\n\r\nbody\r\n");
        // Whatever its lines are, the header ends at the empty one, and none of them is lost.
        let eight_bit = "\u{dc}ber: x\r\nDate: x\r\nMessage-ID: <m>\r\nHi John\r\n\r\nbody\r\n";
        assert_eq!(fixed(eight_bit), eight_bit);
        let broken = "Message-ID: <m>\r\nHi John\r\nDate: x\r\n\r\nbody\r\n";
        assert_eq!(fixed(broken), broken, "no second Date");
        let marked = "\u{feff}Date: x\r\nMessage-ID: <m>\r\n\r\n\u{feff}body\r\n";
        assert_eq!(fixed(marked), &marked["\u{feff}".len()..]);
        assert_eq!(fixed("Date: x\r\nMessage-ID: <m>"), "Date: x\r\nMessage-ID: <m>");
    }

    #[test]
    fn only_what_has_an_address_and_a_date_divides_a_mailbox() {
        for (line, expected) in [
            ("From me@a.test Sat Jan  1 00:00:00 2000\r\n", true),
            (">From me Sat Jan  1 00:00:00 2000\r\n", true),
            ("From - Sat Jan 01 00:00:00 2000\r\n", true),
            ("From MAILER-DAEMON Fri Jul  8 12:08 2011", true),
            ("From me@a.test Fri Jul  8 12:08:34 UTC 2011\r\n", true),
            ("From me@a.test Fri Jul  8 12:08:34 2011 +0200\r\n", true),
            ("From me@a.test Fri Jul  8 12:08:34 2011 remote from a\r\n", true),
            ("From \r\n", false),
            ("From here\r\n", false),
            ("From me@a.test\r\n", false),
            ("From Sat Jan  1 00:00:00 2000\r\n", false),
            ("From me@a.test Sat Jan  1\r\n", false),
            ("From me@a.test Sat Jan  1 00:00:00\r\n", false),
            ("From me@a.test Sam Jan  1 00:00:00 2000\r\n", false),
            ("From me@a.test Sat Jan  1 0:0 2000\r\n", false),
            ("from me Sat Jan  1 00:00:00 2000\r\n", false),
            ("From: me Sat Jan  1 00:00:00 2000\r\n", false),
        ] {
            assert_eq!(is_separator(line.as_bytes()), expected, "{line:?}");
        }
    }

    /// What a header may have in front of a private field.
    const BEFORE: [&str; 13] = [
        "",
        "Subject: x\r\n",
        "\u{feff}",
        "\u{feff}Subject: x\r\n",
        "From me Sat Jan  1 00:00:00 2000\r\n",
        ">From me Sat Jan  1 00:00:00 2000\r\n",
        "From me Sat Jan  1 00:00:00 2000\r\n>From me Sat Jan  1 00:00:00 2000\r\n",
        "From here on\r\n",
        "Subject: x\r\nno field\r\n",
        "no field\r\nSubject: x\r\n",
        "Subject: x\r\n>From me\r\n",
        "Subject: x\r\n: no name\r\n two words: y\r\n",
        "\u{dc}ber: x\r\n \r\n",
    ];

    #[test]
    fn what_is_private_goes_whatever_stands_before_it() {
        let rest = "Date: x\r\nMessage-ID: <m>\r\n\r\nBcc: body\r\n";
        for before in BEFORE {
            for field in ["Bcc", "bcc ", "Resent-Bcc", "Return-Path", "\u{feff}Bcc", "X-Postrider-Tag"] {
                for value in [" secret@a.test", "secret@a.test,\r\n\tsecret@b.test", "\r\n secret@c.test"] {
                    let content = format!("{before}{field}:{value}\r\n{rest}");
                    let out = fixed(&content);
                    assert!(!out.contains("secret"), "{content:?} -> {out:?}");
                    assert!(out.ends_with(rest), "{content:?} -> {out:?}");
                    let kept = [
                        "Subject: x\r\n",
                        "no field\r\n",
                        "\u{dc}ber: x\r\n",
                        ": no name\r\n two words: y\r\n",
                    ];
                    for line in kept.iter().filter(|line| before.contains(*line)) {
                        assert!(out.contains(line), "{content:?} -> {out:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_first_field_of_each_kind_is_what_a_message_is_found_by() {
        let found = |content: &str| {
            let header = read(content.as_bytes(), true).unwrap();
            let labels = labels(content.as_bytes(), &header, true).unwrap();
            [labels.message_id, labels.subject, labels.tag].map(Option::unwrap_or_default)
        };
        for before in ["", "Bcc: x\r\n y\r\n", "From me Sat Jan  1 00:00:00 2000\r\n", "\u{feff}X: y\r\n"] {
            let content = format!(
                "{before}message-id :\r\n <a@b.test>\r\nX-Postrider-Tag: t/1\r\nSubject: one\r\n\ttwo\r\nTo: you\r\n \
                 there\r\nSubject: three\r\nMessage-ID: <c@d.test>\r\n\r\nX-Postrider-Tag: body\r\n"
            );
            assert_eq!(found(&content), ["a@b.test", "one two", "t/1"], "{before:?}");
            let out = fixed(&format!("Date: x\r\n{content}"));
            assert!(!out.contains("t/1") && out.contains("X-Postrider-Tag: body"), "{out:?}");
        }
        // A text without a header has neither.
        assert_eq!(found("Hi John\r\nSubject: none\r\n\r\n"), ["", "", ""]);
        let twice = "X-Postrider-Tag: a\r\nX-Postrider-Tag:\r\n\r\n";
        assert_eq!(labels(twice.as_bytes(), &read(twice.as_bytes(), true).unwrap(), false), Err(BadTag));
    }

    #[test]
    fn a_header_reads_the_same_in_any_pieces_and_each_byte_once() {
        for before in BEFORE {
            let content = format!(
                "{before}Bcc: secret\r\n\tfolded\r\nDate: x\r\nMessage-ID: <a\r\n b@c>\r\nX-Postrider-Tag: t\r\n\r\nbody\r\n"
            );
            let whole = read(content.as_bytes(), true).unwrap();
            for size in 1..content.len() {
                let mut reader = HeaderReader::default();
                let mut ends = (size..content.len()).step_by(size);
                let early = ends.find_map(|end| reader.read(&content.as_bytes()[..end], false));
                let header = early.or_else(|| reader.read(content.as_bytes(), true)).unwrap();
                assert_eq!(header, whole, "{content:?} in pieces of {size}");
            }
        }
        // Without an end, a byte at a time: what was searched is not searched again.
        let line = vec![b'x'; 300 << 10];
        let mut reader = HeaderReader::default();
        for end in 1..=LOOK_AHEAD_BYTES {
            assert_eq!(reader.read(&line[..end], false), None);
            assert_eq!(reader.searched, end);
        }
        let fields = b"X: y\r\n".repeat(50_000);
        let mut reader = HeaderReader::default();
        for end in (0..fields.len()).step_by(9) {
            assert_eq!(reader.read(&fields[..end], false), None);
            assert!(end - reader.at < 6 && reader.searched == end);
        }
    }

    #[test]
    fn a_text_without_an_empty_line_is_not_waited_for() {
        let text = [b"Subject: x\r\nno field\r\n".to_vec(), b"text\r\n".repeat(20_000)].concat();
        assert!(read(&text, false).is_some());
        assert!(read(&text[..LOOK_AHEAD_BYTES + "Subject: x\r\n".len()], false).is_none());
        let text = b"text\r\n".repeat(20_000);
        assert!(read(&text, false).unwrap().all_body);
    }

    /// Fields, a line that is none, and lines of any length before and behind the end of the look-ahead.
    #[test]
    fn the_end_of_the_look_ahead_is_the_same_for_any_pieces() {
        let long = |bytes: usize| format!("{}\r\n", "x".repeat(bytes));
        let texts = [
            format!("Subject: x\r\nno field\r\n{}Bcc: secret\r\n\r\n", long(LOOK_AHEAD_BYTES - 60)),
            format!("Subject: x\r\nno field\r\n{}Bcc: secret\r\n\r\nbody", long(LOOK_AHEAD_BYTES - 20)),
            format!("no field\r\nSubject: x\r\n{}Bcc: a\r\n\r\n", long(LOOK_AHEAD_BYTES + 7)),
            format!("no field\r\nSubject: x\r\nBcc: a\r\n{}Date: x\r\n\r\n", long(2 * LOOK_AHEAD_BYTES)),
            format!("no field\r\n{}Date: x\r\nBcc: a\r\n\r\n", "a line\r\n".repeat(LOOK_AHEAD_BYTES / 8 - 3)),
            format!("{}Date: x\r\nBcc: a\r\n\r\n", long(LOOK_AHEAD_BYTES + 9)),
        ];
        for text in texts {
            let (content, start) = (text.as_bytes(), &text[..20]);
            let whole = read(content, true).unwrap();
            // Each position near an end, and many of the others.
            let near = |at: usize| at < 60 || at.abs_diff(LOOK_AHEAD_BYTES) < 80 || content.len() - at < 80;
            for split in (1..content.len()).filter(|at| near(*at) || at % 997 == 0) {
                let mut reader = HeaderReader::default();
                let early = reader.read(&content[..split], false);
                let header = early.or_else(|| reader.read(content, true)).unwrap();
                assert_eq!(header, whole, "{start:?} of {} split at {split}", content.len());
            }
        }
    }

    #[test]
    fn the_end_of_the_header_may_not_be_in_sight() {
        assert_eq!(read(b"Subject: x\r\n fol", false), None);
        assert_eq!(read(b"Subject: x\r\n", false), None);
        assert_eq!(read(b"", false), None);
        assert!(read(b"Subject: x\r\n\r\n", false).is_some());
        assert_eq!(read(b"Subject: x\r\nno field\r\n", false), None);
    }

    #[test]
    fn hops_are_counted() {
        let header = read(b"Received: a\r\n b\r\nReceived: c\r\n\r\nReceived: body\r\n", true).unwrap();
        assert_eq!(header.hops, 2);
    }
}
