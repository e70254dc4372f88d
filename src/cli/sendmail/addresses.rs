//! Lists of addresses, as a header has them (RFC 5322 §3.4) and as people write them on a command line: pure.
//!
//! Names, comments and the names of groups are left out. What is inside quotes or a literal stays as it is.

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

/// The addresses of a list, and the names that have no domain.
///
/// # Errors
/// What is wrong with it, for a person.
pub(super) fn listed(list: &str) -> Result<Vec<String>, String> {
    // A folded line of a header has none left.
    if list.contains(|c: char| c.is_control() && c != '\t') {
        return Err("holds a control character".to_owned());
    }
    let (mut found, mut text, mut address) = (Vec::new(), String::new(), None::<String>);
    let mut within = Within::Text;
    let mut characters = list.chars();
    while let Some(c) = characters.next() {
        let next = match (within, c) {
            (Within::Text, ',' | ';') => {
                found.extend(one(&mut text, &mut address)?);
                Within::Text
            }
            // The name of a group.
            (Within::Text, ':') => {
                text.clear();
                Within::Text
            }
            (Within::Text, '(') => Within::Comment(1),
            (Within::Text, '<') if address.is_some() => {
                return Err("holds two addresses without a comma".to_owned());
            }
            (Within::Text, '<') => {
                address = Some(String::new());
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
            (within, c) => {
                let kept = if matches!(within, Within::Brackets | Within::BracketQuotes) {
                    address.get_or_insert_default()
                } else {
                    &mut text
                };
                kept.push(c);
                let in_quotes = matches!(within, Within::Quotes | Within::BracketQuotes);
                if c == '\\' && in_quotes {
                    kept.extend(characters.next());
                }
                match (within, c) {
                    (Within::Text, '"') => Within::Quotes,
                    (Within::Quotes, '"') | (Within::Literal, ']') => Within::Text,
                    (Within::Text, '[') => Within::Literal,
                    (Within::Brackets, '"') => Within::BracketQuotes,
                    (Within::BracketQuotes, '"') => Within::Brackets,
                    _ => within,
                }
            }
        };
        within = next;
    }
    if within != Within::Text {
        return Err("ends within quotes, brackets or a comment".to_owned());
    }
    found.extend(one(&mut text, &mut address)?);
    Ok(found)
}

/// What stands between two commas; none where that is nothing, or a name of a group alone.
fn one(text: &mut String, address: &mut Option<String>) -> Result<Option<String>, String> {
    let text = std::mem::take(text);
    let found = match address.take() {
        // RFC 5322 §4.4: a route before it is ignored.
        Some(routed) if routed.starts_with('@') => {
            routed.split_once(':').map(|(_, address)| address.trim().to_owned()).unwrap_or_default()
        }
        Some(address) => address.trim().to_owned(),
        None if text.trim().is_empty() => return Ok(None),
        None => text.trim().to_owned(),
    };
    match found.is_empty() {
        true => Err("holds an empty address".to_owned()),
        false => Ok(Some(found)),
    }
}

/// The address, at this host where it has no domain.
///
/// # Errors
/// It is none, for a person.
pub(super) fn qualified(name: &str, hostname: &str) -> Result<Address, String> {
    let whole = if has_domain(name) { name.to_owned() } else { format!("{name}@{hostname}") };
    address::parse(&whole).map_err(|error| format!("{name:?}: {error}"))
}

/// An `@` outside quotes.
fn has_domain(name: &str) -> bool {
    let behind =
        if name.starts_with('"') { name.rsplit_once('"').map_or("", |(_, behind)| behind) } else { name };
    behind.contains('@')
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

    #[test]
    fn a_name_gets_the_domain_of_the_host() {
        for (name, expected) in [
            ("root", "root@h.example"),
            ("a@b.example", "a@b.example"),
            ("\"a@b\"", "\"a@b\"@h.example"),
            ("\"a@b\"@c.example", "\"a@b\"@c.example"),
        ] {
            assert_eq!(qualified(name, "h.example").unwrap().to_string(), expected);
        }
        for name in ["a b", "a@", "@b.example", "a\r\nb", "a>b", ""] {
            assert!(qualified(name, "h.example").is_err(), "{name:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever stands in a list: what is found can be written into a command, or is refused.
        #[test]
        fn nothing_breaks_out_of_an_address(list in "[ -~\r\n\u{0}ä]{0,60}") {
            for name in listed(&list).unwrap_or_default() {
                if let Ok(address) = qualified(&name, "h.example") {
                    let text = address.to_string();
                    prop_assert!(!text.contains(['\r', '\n', '\u{0}']), "{text:?}");
                }
            }
        }
    }
}
