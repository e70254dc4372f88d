//! Canonicalization (RFC 6376 §3.4): how header fields and bodies are written for the signature, so that what relays do
//! to white space on the way breaks nothing.
//!
//! A line of a body ends at CR LF alone. A CR or LF by itself is a byte like any other: so the content is sent, and so
//! it has to be signed.

use aws_lc_rs::digest::{Context, SHA256};
use memchr::memchr3;

/// How much of the form of a text counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Canonicalization {
    /// All of it, but for empty lines at the end (RFC 6376 §3.4.1, §3.4.3).
    Simple,
    /// White space may change, and the case of field names (RFC 6376 §3.4.2, §3.4.4).
    Relaxed,
}

impl Canonicalization {
    /// As the tag `c=` has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Canonicalization::Simple => "simple",
            Canonicalization::Relaxed => "relaxed",
        }
    }

    /// Appends a whole field, with its line end, as it is signed. `field` has its last line end or lacks it.
    pub fn field(self, field: &[u8], out: &mut Vec<u8>) {
        match self {
            Canonicalization::Simple => out.extend_from_slice(without_line_end(field)),
            Canonicalization::Relaxed => relaxed_field(without_line_end(field), out),
        }
        out.extend_from_slice(b"\r\n");
    }
}

fn without_line_end(field: &[u8]) -> &[u8] {
    field.strip_suffix(b"\r\n").unwrap_or(field)
}

/// The name in lower case, the value on one line, each run of blanks one space, none at the ends.
fn relaxed_field(field: &[u8], out: &mut Vec<u8>) {
    let colon = field.iter().position(|byte| *byte == b':').unwrap_or(field.len());
    let (name, value) = (&field[..colon], field.get(colon + 1..).unwrap_or_default());
    out.extend(name.trim_ascii_end().iter().map(u8::to_ascii_lowercase));
    out.push(b':');
    let mut blank = false;
    let start = out.len();
    let mut bytes = value.iter().copied().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b' ' | b'\t' => blank = true,
            // A fold: the blank that follows is white space of the value.
            b'\r' if value.get(at + 1) == Some(&b'\n') => drop(bytes.next()),
            byte => {
                if std::mem::take(&mut blank) && out.len() > start {
                    out.push(b' ');
                }
                out.push(byte);
            }
        }
    }
}

/// The hash of a body that comes in pieces (RFC 6376 §3.7).
pub struct BodyHash {
    body: CanonicalBody,
    hashed: Hashed,
}

/// Canonical bytes are hashed in pieces of about this size.
const HASHED_BYTES: usize = 8 << 10;

impl BodyHash {
    /// Of a body of which nothing came yet.
    pub fn new(canonicalization: Canonicalization) -> BodyHash {
        let hashed = Hashed { hash: Context::new(&SHA256), pending: Vec::with_capacity(HASHED_BYTES) };
        BodyHash { body: CanonicalBody::new(canonicalization), hashed }
    }

    /// The next piece of the body, cut anywhere.
    pub fn feed(&mut self, bytes: &[u8]) {
        let BodyHash { body, hashed } = self;
        body.feed(bytes, &mut |canonical| hashed.push(canonical));
    }

    /// The SHA-256 of the whole.
    pub fn finish(self) -> [u8; 32] {
        let BodyHash { mut body, mut hashed } = self;
        body.finish(&mut |canonical| hashed.push(canonical));
        hashed.hash.update(&hashed.pending);
        let mut hash = [0; 32];
        hash.copy_from_slice(hashed.hash.finish().as_ref());
        hash
    }
}

/// Canonical bytes on their way into the hash: words and line ends gathered, no more of them than `HASHED_BYTES`.
struct Hashed {
    hash: Context,
    pending: Vec<u8>,
}

impl Hashed {
    fn push(&mut self, canonical: &[u8]) {
        if self.pending.len() + canonical.len() > HASHED_BYTES {
            self.hash.update(&self.pending);
            self.pending.clear();
        }
        if canonical.len() > HASHED_BYTES {
            self.hash.update(canonical);
        } else {
            self.pending.extend_from_slice(canonical);
        }
    }
}

/// A body on its way to its canonical form. What it holds back is counted, not kept, and handed on in
/// small pieces: memory does not grow with it.
struct CanonicalBody {
    canonicalization: Canonicalization,
    /// The last byte was a CR, and what it is depends on the next.
    cr: bool,
    /// Blanks that matter only if something follows them on their line.
    blank: bool,
    /// Line ends that matter only if a line follows that is not empty.
    line_ends: u64,
    /// Something but empty lines came.
    any: bool,
}

impl CanonicalBody {
    fn new(canonicalization: Canonicalization) -> CanonicalBody {
        CanonicalBody { canonicalization, cr: false, blank: false, line_ends: 0, any: false }
    }

    fn feed(&mut self, mut bytes: &[u8], out: &mut impl FnMut(&[u8])) {
        while let Some((&first, rest)) = bytes.split_first() {
            if std::mem::take(&mut self.cr) {
                if first == b'\n' {
                    (self.line_ends, self.blank) = (self.line_ends + 1, false);
                    bytes = rest;
                    continue;
                }
                self.text(b"\r", out);
            }
            match first {
                b'\r' => (self.cr, bytes) = (true, rest),
                b' ' | b'\t' if self.canonicalization == Canonicalization::Relaxed => {
                    (self.blank, bytes) = (true, rest);
                }
                _ => {
                    let end = self.end_of_text(bytes);
                    self.text(&bytes[..end], out);
                    bytes = &bytes[end..];
                }
            }
        }
    }

    /// How far the bytes are ordinary; at least one is.
    fn end_of_text(&self, bytes: &[u8]) -> usize {
        let end = match self.canonicalization {
            Canonicalization::Simple => memchr::memchr(b'\r', bytes),
            Canonicalization::Relaxed => memchr3(b'\r', b' ', b'\t', bytes),
        };
        end.unwrap_or(bytes.len())
    }

    /// Bytes that stay as they are, behind what was held back for them.
    fn text(&mut self, bytes: &[u8], out: &mut impl FnMut(&[u8])) {
        for _ in 0..std::mem::take(&mut self.line_ends) {
            out(b"\r\n");
        }
        if std::mem::take(&mut self.blank) {
            out(b" ");
        }
        out(bytes);
        self.any = true;
    }

    /// RFC 6376 §3.4.3: a body ends with one line end, an empty one too. §3.4.4: an empty one is empty.
    fn finish(&mut self, out: &mut impl FnMut(&[u8])) {
        if std::mem::take(&mut self.cr) {
            self.text(b"\r", out);
        }
        if self.any || self.canonicalization == Canonicalization::Simple {
            out(b"\r\n");
        }
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::digest::digest;
    use proptest::prelude::*;

    use super::*;

    fn field(canonicalization: Canonicalization, text: &str) -> String {
        let mut out = Vec::new();
        canonicalization.field(text.as_bytes(), &mut out);
        String::from_utf8(out).unwrap()
    }

    fn body(canonicalization: Canonicalization, pieces: &[&[u8]]) -> Vec<u8> {
        let (mut body, mut out) = (CanonicalBody::new(canonicalization), Vec::new());
        let mut push = |canonical: &[u8]| out.extend_from_slice(canonical);
        pieces.iter().for_each(|piece| body.feed(piece, &mut push));
        body.finish(&mut push);
        out
    }

    /// RFC 6376 §3.4.5, first and second example.
    #[test]
    fn the_examples_of_the_rfc() {
        use Canonicalization::{Relaxed, Simple};
        assert_eq!(field(Relaxed, "A: X\r\n"), "a:X\r\n");
        assert_eq!(field(Relaxed, "B : Y\t\r\n\tZ  \r\n"), "b:Y Z\r\n");
        assert_eq!(field(Simple, "B : Y\t\r\n\tZ  \r\n"), "B : Y\t\r\n\tZ  \r\n");
        let text: &[u8] = b" C \r\nD \t E\r\n\r\n\r\n";
        assert_eq!(body(Relaxed, &[text]), b" C\r\nD E\r\n");
        assert_eq!(body(Simple, &[text]), b" C \r\nD \t E\r\n");
    }

    #[test]
    fn empty_bodies_and_bodies_without_a_last_line_end() {
        use Canonicalization::{Relaxed, Simple};
        for empty in [&b""[..], b"\r\n", b"\r\n\r\n\r\n"] {
            assert_eq!(body(Simple, &[empty]), b"\r\n", "{empty:?}");
            assert_eq!(body(Relaxed, &[empty]), b"", "{empty:?}");
        }
        assert_eq!(body(Relaxed, &[b" \t\r\n  \r\n"]), b"");
        for canonicalization in [Simple, Relaxed] {
            assert_eq!(body(canonicalization, &[b"a"]), b"a\r\n");
            assert_eq!(body(canonicalization, &[b"a\rb\nc\r"]), b"a\rb\nc\r\r\n", "lone ones are bytes");
            assert_eq!(body(canonicalization, &[b"\r\n\r\na\r\n\r\n"]), b"\r\n\r\na\r\n");
        }
    }

    #[test]
    fn memory_does_not_grow_with_empty_lines_that_something_follows() {
        for canonicalization in [Canonicalization::Simple, Canonicalization::Relaxed] {
            let lines = b"\r\n".repeat(500_000);
            let mut hash = BodyHash::new(canonicalization);
            lines.chunks(1000).for_each(|piece| hash.feed(piece));
            hash.feed(b"a\r\n");
            let held = hash.hashed.pending.capacity();
            assert!(held <= 2 * HASHED_BYTES, "{held}");
            let whole = digest(&SHA256, &[&lines[..], b"a\r\n"].concat());
            assert_eq!(hash.finish(), whole.as_ref());
        }
    }

    /// The relaxed form, as slowly and as near to the words of RFC 6376 §3.4.4 as can be.
    fn slow_relaxed(body: &[u8]) -> Vec<u8> {
        let mut lines: Vec<Vec<u8>> = Vec::new();
        let mut rest = body;
        while !rest.is_empty() {
            let end = rest.windows(2).position(|pair| pair == b"\r\n");
            let line = &rest[..end.unwrap_or(rest.len())];
            rest = end.map_or(&[][..], |end| &rest[end + 2..]);
            let mut reduced: Vec<u8> = Vec::new();
            for byte in line {
                match byte {
                    b' ' | b'\t' if reduced.last() == Some(&b' ') => {}
                    b' ' | b'\t' => reduced.push(b' '),
                    byte => reduced.push(*byte),
                }
            }
            if reduced.last() == Some(&b' ') {
                reduced.pop();
            }
            lines.push(reduced);
        }
        while lines.last().is_some_and(Vec::is_empty) {
            lines.pop();
        }
        lines.iter().flat_map(|line| [line.as_slice(), b"\r\n"].concat()).collect()
    }

    fn slow_simple(body: &[u8]) -> Vec<u8> {
        let mut text = body.to_vec();
        while text.ends_with(b"\r\n") {
            text.truncate(text.len() - 2);
        }
        text.extend_from_slice(b"\r\n");
        text
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn whatever_the_body_and_wherever_it_is_cut(
            text in prop::collection::vec(prop::sample::select(&b"\r\n\r\n\r\n \t ab\x80"[..]), 0..60),
            cuts in prop::collection::vec(0_usize..60, 0..6),
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|cut| &text[cut[0]..cut[1]]).collect();
            prop_assert_eq!(body(Canonicalization::Relaxed, &pieces), slow_relaxed(&text));
            prop_assert_eq!(body(Canonicalization::Simple, &pieces), slow_simple(&text));
        }

        /// RFC 6376 §3.4.2: its canonical form is canonical.
        #[test]
        fn a_relaxed_field_is_on_one_line_and_stays(value in "[ \t:a-cA]{0,20}(\r\n[ \t][a-c ]{0,9}){0,3}") {
            let once = field(Canonicalization::Relaxed, &format!("Subject :{value}\r\n"));
            prop_assert!(once.starts_with("subject:") && !once[8..].starts_with(' '), "{once:?}");
            prop_assert_eq!(once.matches("\r\n").count(), 1);
            prop_assert!(!once.contains("  ") && !once.contains(" \r\n"), "{once:?}");
            prop_assert_eq!(field(Canonicalization::Relaxed, &once), once.clone());
        }
    }
}
