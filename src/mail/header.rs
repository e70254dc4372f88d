//! The header of a message, field by field, as it stands (RFC 5322 §2.2).

/// Longer headers are refused. Real ones end far below; the limit is what a session may hold in memory.
pub const HEADER_BYTES_MAX: usize = 1 << 20;
/// How far the end of a header is looked for in a message that was taken: in front stand fields of ours, and behind a
/// line that is no field no end was asked for.
pub const END_LOOKED_FOR_BYTES: usize = HEADER_BYTES_MAX + (64 << 10);

/// A field: its name without blanks behind it, and all of its bytes with the last line end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field<'a> {
    /// As it is written.
    pub name: &'a [u8],
    /// Name, colon, value and folds.
    pub whole: &'a [u8],
}

impl<'a> Field<'a> {
    /// Whether it has this name, in any case.
    pub fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }

    /// What stands behind the colon, folds included.
    pub fn value(&self) -> &'a [u8] {
        let colon = self.whole.iter().position(|byte| *byte == b':').unwrap_or(self.whole.len());
        self.whole.get(colon + 1..).unwrap_or_default()
    }
}

/// The bytes of `content` that are its header, without the empty line; all of them where there is none.
pub fn header_of(content: &[u8]) -> &[u8] {
    if content.starts_with(b"\r\n") {
        return &[];
    }
    memchr::memmem::find(content, b"\r\n\r\n").map_or(content, |end| &content[..end + 2])
}

/// Header and body of a message that was taken, of which more than `END_LOOKED_FOR_BYTES` are here, or all. Where no
/// empty line comes so soon, the header ends where those readers see its end that are strict: before the first line
/// that is no field.
pub fn apart(content: &[u8]) -> (&[u8], &[u8]) {
    let looked_at = &content[..content.len().min(END_LOOKED_FOR_BYTES)];
    let header = header_of(looked_at);
    if header.len() == content.len() {
        return (content, &[]);
    }
    if header.len() == looked_at.len() {
        return content.split_at(fields_bytes(looked_at));
    }
    (header, &content[header.len() + 2..])
}

/// How far there is nothing but whole fields.
fn fields_bytes(header: &[u8]) -> usize {
    let mut at = 0;
    loop {
        let (field, after) = header[at..].split_at(end_of_field(&header[at..]));
        if after.is_empty() || name_of(field).is_none() {
            return at;
        }
        at += field.len();
    }
}

/// The fields of a header in their order. A line that is no field is none.
pub fn fields(header: &[u8]) -> Vec<Field<'_>> {
    let mut fields = Vec::new();
    let mut rest = header;
    while !rest.is_empty() {
        let (whole, after) = rest.split_at(end_of_field(rest));
        rest = after;
        if let Some(name) = name_of(whole) {
            fields.push(Field { name, whole });
        }
    }
    fields
}

/// Behind the line end that no blank follows.
fn end_of_field(header: &[u8]) -> usize {
    let ends = memchr::memmem::find_iter(header, b"\r\n").map(|at| at + 2);
    let is_last = |end: &usize| !matches!(header.get(*end), Some(b' ' | b'\t'));
    ends.into_iter().find(is_last).unwrap_or(header.len())
}

fn name_of(field: &[u8]) -> Option<&[u8]> {
    let colon = memchr::memchr(b':', field)?;
    let name = field[..colon].trim_ascii_end();
    let is_name = !name.is_empty() && name.iter().all(|byte| (33..=126).contains(byte));
    is_name.then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folds_belong_to_their_field_and_what_is_no_field_to_none() {
        let content = b"From: a\r\n b\r\nno field\r\nTo : c\r\n\td\r\n : e\r\n\r\nBody: no\r\n";
        let header = header_of(content);
        let found = fields(header);
        let names: Vec<&[u8]> = found.iter().map(|field| field.name).collect();
        assert_eq!(names, [&b"From"[..], b"To"]);
        assert_eq!(found[1].whole, b"To : c\r\n\td\r\n : e\r\n");
        assert_eq!(found[1].value(), b" c\r\n\td\r\n : e\r\n");
        assert!(found[1].is("to"));
    }

    #[test]
    fn a_header_without_an_end_ends_at_the_first_line_that_is_no_field() {
        let without_end = |first: &str| first.to_owned() + &"To:a\r\n".repeat(END_LOOKED_FOR_BYTES / 6 + 1);
        for (first, header) in
            [("From: a\r\n b\r\nno field\r\nTo: c\r\n", "From: a\r\n b\r\n"), ("no field\r\n", "")]
        {
            let content = without_end(first);
            let (found, body) = apart(content.as_bytes());
            assert_eq!((found, body.len()), (header.as_bytes(), content.len() - header.len()), "{first}");
            // An empty line that comes too late changes nothing.
            let longer = content.clone() + "\r\nbody\r\n";
            assert_eq!(apart(longer.as_bytes()).0, header.as_bytes(), "{first}");
        }
        let content = without_end("From: a\r\n");
        let (header, body) = apart(content.as_bytes());
        assert!(header.ends_with(b"To:a\r\n") && body.starts_with(b"To:a\r\n"), "all are fields");
        assert!(header.len() + 6 >= END_LOOKED_FOR_BYTES && header.len() <= END_LOOKED_FOR_BYTES);
    }

    #[test]
    fn a_header_ends_at_the_empty_line_wherever_it_stands() {
        for (content, header, body) in [
            (&b"\r\nFrom: a\r\n"[..], &b""[..], &b"From: a\r\n"[..]),
            (b"A: b\r\nno field\r\n\r\nc", b"A: b\r\nno field\r\n", b"c"),
            (b"A: b\r\n\r\n", b"A: b\r\n", b""),
            (b"A: b\r\n", b"A: b\r\n", b""),
            (b"\r\n", b"", b""),
            (b"", b"", b""),
        ] {
            assert_eq!(apart(content), (header, body));
        }
        assert_eq!(header_of(b"\r\nFrom: a\r\n"), b"");
        assert_eq!(header_of(b"A: b\r\n\r\nc"), b"A: b\r\n");
        assert_eq!(header_of(b"A: b\r\n"), b"A: b\r\n");
        assert_eq!(fields(b"A: b")[0].whole, b"A: b");
    }
}
