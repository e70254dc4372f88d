//! Lists of addresses, as a header has them (RFC 5322 §3.4) and as people write them on a command line: pure.
//!
//! Names, comments and the names of groups are left out. What is inside quotes or a literal stays as it is.

use std::ops::Range;

use crate::mail::{Address, address};

/// Where in a list a character stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Within {
    Text,
    Quotes,
    /// `[…]`, an address literal.
    Literal,
    /// So many comments, one in the other.
    Comment(usize),
    /// `<…>`.
    Brackets,
    /// Quotes within them.
    BracketQuotes,
}

/// What a list holds.
#[derive(Debug, Default)]
pub(super) struct List {
    pub(super) found: Vec<Entry>,
    /// The first thing that is wrong with it, for a person.
    pub(super) wrong: Option<&'static str>,
}

/// An address, or a name that has no domain.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: String,
    /// Where it stands.
    span: Range<usize>,
}

/// What is read of one.
#[derive(Debug, Default)]
struct Piece {
    text: String,
    span: Option<Range<usize>>,
}

impl Piece {
    fn push(&mut self, at: usize, c: char) {
        self.text.push(c);
        if !c.is_whitespace() {
            let begin = self.span.as_ref().map_or(at, |span| span.start);
            self.span = Some(begin..at + c.len_utf8());
        }
    }
}

impl List {
    /// Reads all that can be read. Where quotes, a comment or brackets do not end, nobody knows where they should have:
    /// of the rest, that is an address which has a domain.
    pub(super) fn read(list: &str) -> List {
        let (mut read, open) = List::scan(list, false);
        if let Some(from) = open {
            let (rest, _) = List::scan(&list[from..], true);
            read.found.extend(rest.found.into_iter().filter(|entry| entry.name.contains('@')));
            read.wrong = read.wrong.or(Some("ends within quotes, brackets or a comment"));
        }
        read
    }

    /// In a broken list quotes and comments are plain text. Gives where the entry begins that does not end.
    fn scan(list: &str, broken: bool) -> (List, Option<usize>) {
        let (mut read, mut text, mut address) = (List::default(), Piece::default(), None::<Piece>);
        let (mut within, mut entry) = (Within::Text, 0);
        // A folded line of a header has none left.
        if list.contains(|c: char| c.is_control() && c != '\t') {
            read.wrong = Some("holds a control character");
        }
        let mut characters = list.char_indices();
        while let Some((at, c)) = characters.next() {
            within = match (within, c) {
                (Within::Text, ',' | ';') => {
                    read.take(&mut text, &mut address);
                    entry = at + 1;
                    Within::Text
                }
                // The name of a group.
                (Within::Text, ':') => {
                    text = Piece::default();
                    Within::Text
                }
                (Within::Text, '(') if !broken => Within::Comment(1),
                (Within::Text, '<') => {
                    if address.is_some() {
                        read.wrong = read.wrong.or(Some("holds two addresses without a comma"));
                        read.take(&mut text, &mut address);
                    }
                    address = Some(Piece::default());
                    Within::Brackets
                }
                (Within::Comment(1), ')') => Within::Text,
                (Within::Comment(depth), ')') => Within::Comment(depth - 1),
                (Within::Comment(depth), '(') => Within::Comment(depth + 1),
                (Within::Comment(_), '\\') => {
                    characters.next();
                    within
                }
                (Within::Comment(_), _) => within,
                (Within::Brackets, '>') => Within::Text,
                (_, c) => {
                    let in_brackets = matches!(within, Within::Brackets | Within::BracketQuotes);
                    let kept = if in_brackets { address.get_or_insert_default() } else { &mut text };
                    kept.push(at, c);
                    if c == '\\' && matches!(within, Within::Quotes | Within::BracketQuotes) {
                        characters.next().into_iter().for_each(|(at, c)| kept.push(at, c));
                    }
                    if broken { within } else { within.after(c) }
                }
            };
        }
        if within == Within::Text || broken {
            read.take(&mut text, &mut address);
            return (read, None);
        }
        (read, Some(entry))
    }

    /// What stands between two commas; that may be nothing, or a name of a group alone.
    fn take(&mut self, text: &mut Piece, address: &mut Option<Piece>) {
        let text = std::mem::take(text);
        let in_brackets = address.is_some();
        let Piece { text: name, span } = address.take().unwrap_or(text);
        let name = match name.split_once(':') {
            // RFC 5322 §4.4: a route before it is ignored.
            Some((_, behind)) if in_brackets && name.starts_with('@') => behind.trim(),
            _ => name.trim(),
        };
        match span.filter(|_| !name.is_empty()) {
            Some(span) => self.found.push(Entry { name: name.to_owned(), span }),
            None if in_brackets => self.wrong = self.wrong.or(Some("holds an empty address")),
            None => {}
        }
    }
}

impl Within {
    /// Behind a character that is kept.
    fn after(self, c: char) -> Within {
        match (self, c) {
            (Within::Text, '"') => Within::Quotes,
            (Within::Quotes, '"') | (Within::Literal, ']') => Within::Text,
            (Within::Text, '[') => Within::Literal,
            (Within::Brackets, '"') => Within::BracketQuotes,
            (Within::BracketQuotes, '"') => Within::Brackets,
            _ => self,
        }
    }
}

/// The addresses of a list that somebody typed, and the names that have no domain.
///
/// # Errors
/// What is wrong with it, for a person.
pub(super) fn listed(list: &str) -> Result<Vec<String>, String> {
    let List { found, wrong } = List::read(list);
    match wrong {
        Some(why) => Err(why.to_owned()),
        None => Ok(found.into_iter().map(|entry| entry.name).collect()),
    }
}

/// Whose names those are that have no domain.
#[derive(Debug)]
pub(super) struct Home<'a> {
    /// What the relay calls itself.
    pub(super) hostname: &'a str,
    /// What this machine calls itself, without a domain.
    pub(super) machine: &'a str,
}

impl Home<'_> {
    /// The address, at the relay's host where it has no domain, or one that means this machine.
    ///
    /// # Errors
    /// It is none, for a person.
    pub(super) fn qualified(&self, name: &str) -> Result<Address, String> {
        let whole = match self.local_part(name) {
            Some(local) => format!("{}@{}", &name[..local], self.hostname),
            None => name.to_owned(),
        };
        address::parse(&whole).map_err(|error| format!("{name:?}: {error}"))
    }

    /// How long the local part is, of what is at home.
    fn local_part(&self, name: &str) -> Option<usize> {
        let behind_quotes = if name.starts_with('"') { name.rfind('"').unwrap_or(0) } else { 0 };
        let Some(at) = name[behind_quotes..].find('@').map(|at| behind_quotes + at) else {
            return Some(name.len());
        };
        let here = ["localhost", "localhost.localdomain", self.machine];
        let domain = &name[at + 1..];
        (!domain.is_empty() && here.iter().any(|here| here.eq_ignore_ascii_case(domain))).then_some(at)
    }

    /// A field's value in which every address has its domain; none where all have theirs, or it cannot be read.
    pub(super) fn with_domains(&self, value: &[u8]) -> Option<Vec<u8>> {
        // A character a byte, so that it is the same place in both; which letter it is matters nowhere here.
        let plain = |byte: &u8| match byte {
            b'\r' | b'\n' => ' ',
            byte if byte.is_ascii() => char::from(*byte),
            _ => 'x',
        };
        let list: String = value.iter().map(plain).collect();
        let List { found, wrong: None } = List::read(&list) else { return None };
        let mut whole = value.to_vec();
        for Entry { name, span } in found.iter().rev() {
            // Not what stands in several places, nor words that are no address.
            let is_one =
                list[span.clone()] == **name && !name.starts_with("=?") && self.qualified(name).is_ok();
            if let Some(local) = self.local_part(name).filter(|_| is_one) {
                whole.splice(span.start + local..span.end, format!("@{}", self.hostname).into_bytes());
            }
        }
        (whole != value).then_some(whole)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lists_are_read_as_people_write_them() {
        for (list, expected) in [
            ("a@b.example", &["a@b.example"][..]),
            ("root, alice", &["root", "alice"]),
            ("A. Person <a@b.example>,\t c@d.example", &["a@b.example", "c@d.example"]),
            ("\"Last, First\" <a@b.example>", &["a@b.example"]),
            ("\"x \\\" <no@no.example>, \" <a@b.example>", &["a@b.example"]),
            ("a@b.example (The, (inner) Boss), c@d.example", &["a@b.example", "c@d.example"]),
            (
                "Friends: a@b.example, C <c@d.example>;, e@f.example",
                &["a@b.example", "c@d.example", "e@f.example"],
            ),
            ("undisclosed-recipients:;", &[]),
            ("", &[]),
            (" , ,", &[]),
            ("\"a, b\"@c.example", &["\"a, b\"@c.example"]),
            ("<\"a>b\"@c.example>", &["\"a>b\"@c.example"]),
            ("<@relay.example,@other.example:a@b.example>", &["a@b.example"]),
            ("a@[192.0.2.1], b@[IPv6:2001:db8::1]", &["a@[192.0.2.1]", "b@[IPv6:2001:db8::1]"]),
            ("=?utf-8?Q?J=C3=B6rg?= <j@b.example>", &["j@b.example"]),
        ] {
            assert_eq!(listed(list).unwrap(), expected, "{list:?}");
        }
        for list in
            ["a@b.example\nX: y", "<a@b.example", "\"a", "a (b", "<>", "A <a@b.example> <c@d.example>"]
        {
            assert!(listed(list).is_err(), "{list:?}");
        }
    }

    const HOME: Home<'static> = Home { hostname: "h.example", machine: "box" };

    /// Of a header, all is taken that can be read.
    #[test]
    fn one_bad_part_costs_no_other() {
        for (list, expected) in [
            ("<>, a@b.example", &["a@b.example"][..]),
            ("a@b.example <c@d.example> <e@f.example>", &["c@d.example", "e@f.example"]),
            ("root, O'Hara (x <x@y.example>, z@y.example", &["root", "x@y.example", "z@y.example"]),
            ("\"Last, First <a@b.example>", &["a@b.example"]),
            ("a@b.example, <c@d.example", &["a@b.example", "c@d.example"]),
            ("<a", &[]),
        ] {
            let read = List::read(list);
            assert_eq!(
                read.found.into_iter().map(|entry| entry.name).collect::<Vec<_>>(),
                expected,
                "{list:?}"
            );
            assert!(read.wrong.is_some(), "{list:?}");
        }
    }

    #[test]
    fn a_field_gets_the_domains_that_it_lacks() {
        for (value, expected) in [
            (" root (Cron Daemon)\r\n", Some(" root@h.example (Cron Daemon)\r\n")),
            (" \"(Cron Daemon)\" <root>", Some(" \"(Cron Daemon)\" <root@h.example>")),
            (" root@localhost,\r\n\tme < root@BOX >", Some(" root@h.example,\r\n\tme < root@h.example >")),
            (" J\u{f6}rg <root>, a@b.example", Some(" J\u{f6}rg <root@h.example>, a@b.example")),
            (" all: root, \"a b\";", Some(" all: root@h.example, \"a b\"@h.example;")),
            (" a@b.example", None),
            (" Cron Daemon", None),
            (" ro (x) ot", None),
            (" =?utf-8?Q?x?=", None),
            (" undisclosed-recipients:;", None),
            (" <>, root", None),
            (" root, (x", None),
            (" a@localhost.example, a@box.example", None),
        ] {
            let whole = HOME.with_domains(value.as_bytes()).map(|value| String::from_utf8(value).unwrap());
            assert_eq!(whole.as_deref(), expected, "{value:?}");
        }
    }

    #[test]
    fn a_name_gets_the_domain_of_the_host() {
        for (name, expected) in [
            ("root", "root@h.example"),
            ("a@b.example", "a@b.example"),
            ("\"a@b\"", "\"a@b\"@h.example"),
            ("\"a@b\"@c.example", "\"a@b\"@c.example"),
            ("root@localhost", "root@h.example"),
            ("root@Localhost.LocalDomain", "root@h.example"),
            ("\"a b\"@box", "\"a b\"@h.example"),
            ("root@box.example", "root@box.example"),
        ] {
            assert_eq!(HOME.qualified(name).unwrap().to_string(), expected);
        }
        for name in ["a b", "a@", "@b.example", "a\r\nb", "a>b", ""] {
            assert!(HOME.qualified(name).is_err(), "{name:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever stands in a list: what is found can be written into a command, or is refused.
        #[test]
        fn nothing_breaks_out_of_an_address(list in "[ -~\r\n\u{0}ä]{0,60}") {
            HOME.with_domains(list.as_bytes());
            for Entry { name, .. } in List::read(&list).found {
                if let Ok(address) = HOME.qualified(&name) {
                    let text = address.to_string();
                    prop_assert!(!text.contains(['\r', '\n', '\u{0}']), "{text:?}");
                }
            }
        }
    }
}
