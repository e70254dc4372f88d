//! Addresses: the grammar of RFC 5321 §4.1.2 and RFC 6531 §3.3, and the form in which domains are compared.
//!
//! The type is lettre's [`Address`]. The parser is Postrider's own: lettre's refuses some quoted local parts, and does
//! not say why. An address that [`parse`] accepts has no control character, and no space or angle bracket outside
//! quotes, so it can be written into a command as it is.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

pub use lettre::Address;

use crate::kit::text::is_unseen;

/// RFC 5321 §4.5.3.1.1.
pub const LOCAL_BYTES_MAX: usize = 64;
/// RFC 5321 §4.5.3.1.2.
pub const DOMAIN_BYTES_MAX: usize = 255;

/// The text between the angle brackets of MAIL and RCPT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Path {
    /// `<>`, the null sender.
    Null,
    /// `<Postmaster>` without a domain (RFC 5321 §4.5.1).
    Postmaster,
    /// A mailbox. A source route before it is dropped (RFC 5321 §4.1.1.3).
    Mailbox(Address),
}

/// Why an address is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Not in angle brackets, or followed by text without a space.
    #[error("the address must stand in angle brackets")]
    Brackets,
    /// No `@`.
    #[error("the address has no domain")]
    NoDomain,
    /// The part before the `@` breaks the grammar.
    #[error("the local part is not valid")]
    Local,
    /// The part after the `@` breaks the grammar.
    #[error("the domain is not valid")]
    Domain,
    /// Longer than RFC 5321 §4.5.3.1 allows.
    #[error("the address is too long")]
    TooLong,
}

/// Reads `local@domain`.
///
/// # Errors
/// Says which part breaks the grammar.
pub fn parse(text: &str) -> Result<Address, AddressError> {
    let (local, domain) = text.rsplit_once('@').ok_or(AddressError::NoDomain)?;
    // Neither a domain nor an address literal has an '@', but a quoted local part may: the last one divides.
    if local.len() > LOCAL_BYTES_MAX || domain.len() > DOMAIN_BYTES_MAX {
        return Err(AddressError::TooLong);
    }
    if !is_local_part(local) {
        return Err(AddressError::Local);
    }
    // IDNA drops some of these before it looks at the rest. Of joiners it judges the place (RFC 5892 appendix A).
    if domain.contains(|c| is_unseen(c) && !is_joiner(c)) {
        return Err(AddressError::Domain);
    }
    Domain::parse(domain)?;
    Ok(Address::new_dangerous(local, domain))
}

/// Reads the path of MAIL or RCPT at the start of `text`; gives it with the rest (the parameters, with their leading
/// space).
///
/// # Errors
/// As [`parse`]; `Brackets` where the path is not in angle brackets.
pub fn parse_path(text: &str) -> Result<(Path, &str), AddressError> {
    let inner = text.strip_prefix('<').ok_or(AddressError::Brackets)?;
    let end = closing_bracket(inner).ok_or(AddressError::Brackets)?;
    let (path, rest) = (&inner[..end], &inner[end + 1..]);
    if !rest.is_empty() && !rest.starts_with(' ') {
        return Err(AddressError::Brackets);
    }
    let path = match path {
        "" => Path::Null,
        bare if bare.eq_ignore_ascii_case("postmaster") => Path::Postmaster,
        _ => Path::Mailbox(parse(without_source_route(path)?)?),
    };
    Ok((path, rest))
}

/// The place of the first `>` outside quotes.
fn closing_bracket(text: &str) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'>' if !quoted => return Some(at),
            b'<' if !quoted => return None,
            _ => {}
        }
    }
    None
}

/// Drops a source route `@a.example,@b.example:` (RFC 5321 §4.1.1.3: accepted and ignored).
fn without_source_route(path: &str) -> Result<&str, AddressError> {
    if !path.starts_with('@') {
        return Ok(path);
    }
    let (route, mailbox) = path.split_once(':').ok_or(AddressError::Domain)?;
    for hop in route.split(',') {
        Domain::parse(hop.strip_prefix('@').ok_or(AddressError::Domain)?)?;
    }
    Ok(mailbox)
}

/// Dot-string or quoted string, UTF-8 beyond ASCII allowed (RFC 6531 §3.3).
fn is_local_part(local: &str) -> bool {
    if let Some(quoted) = local.strip_prefix('"') {
        let Some(content) = quoted.strip_suffix('"') else { return false };
        let mut escaped = false;
        for c in content.chars() {
            let printable = (' '..='~').contains(&c) || is_beyond_ascii(c);
            match c {
                _ if !printable => return false,
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '"' => return false,
                _ => {}
            }
        }
        return !escaped;
    }
    local.split('.').all(|atom| !atom.is_empty() && atom.chars().all(is_atext))
}

fn is_atext(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c) || is_beyond_ascii(c)
}

/// Not ASCII and to be seen: an address that reads as another one is nobody's. Joiners are part of how some scripts are
/// written (RFC 5892 appendix A).
fn is_beyond_ascii(c: char) -> bool {
    !c.is_ascii() && (!is_unseen(c) || is_joiner(c))
}

/// ZERO WIDTH NON-JOINER and ZERO WIDTH JOINER.
fn is_joiner(c: char) -> bool {
    matches!(c, '\u{200c}' | '\u{200d}')
}

/// The address in lower case, to count mail of one mailbox. Not for sending: local parts are case-sensitive (RFC 5321
/// §2.4).
pub fn folded(address: &Address) -> String {
    format!("{}@{}", address.user().to_lowercase(), Domain::of(address))
}

/// A domain in the form in which it is compared and looked up: lower case, A-labels, no final dot; or an address
/// literal in brackets.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Domain(Arc<str>);

impl Domain {
    /// Reads a domain name (U-labels become A-labels) or an address literal.
    ///
    /// # Errors
    /// [`AddressError::Domain`] where it is neither.
    pub fn parse(text: &str) -> Result<Domain, AddressError> {
        if let Some(literal) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            return match literal_ip(literal) {
                Some(IpAddr::V4(v4)) => Ok(Domain(format!("[{v4}]").into())),
                Some(IpAddr::V6(v6)) => Ok(Domain(format!("[IPv6:{v6}]").into())),
                None => Err(AddressError::Domain),
            };
        }
        let ascii = if text.is_ascii() {
            text.to_ascii_lowercase()
        } else {
            idna::domain_to_ascii_strict(text).map_err(|_| AddressError::Domain)?
        };
        let name = ascii.strip_suffix('.').unwrap_or(&ascii);
        let fits = !name.is_empty() && name.len() <= DOMAIN_BYTES_MAX;
        if fits && name.split('.').all(is_label) {
            Ok(Domain(name.into()))
        } else {
            Err(AddressError::Domain)
        }
    }

    /// The domain of an address.
    pub fn of(address: &Address) -> Domain {
        // Domain::parse accepts the domain of every address that parse() made. A row that a person edited may hold
        // anything: it is looked up as it is, and fails there.
        Domain::parse(address.domain())
            .unwrap_or_else(|_| Domain(address.domain().to_ascii_lowercase().into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The address, where the domain is an address literal.
    pub fn ip(&self) -> Option<IpAddr> {
        literal_ip(self.0.strip_prefix('[')?.strip_suffix(']')?)
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// RFC 5321 §4.1.3: `192.0.2.1` or `IPv6:2001:db8::1`.
fn literal_ip(literal: &str) -> Option<IpAddr> {
    match literal.get(..5) {
        Some(tag) if tag.eq_ignore_ascii_case("ipv6:") => {
            literal[5..].parse::<Ipv6Addr>().ok().map(IpAddr::V6)
        }
        _ => literal.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
    }
}

/// Letters, digits, and hyphens inside; underscores too, since hosts with such names receive mail.
fn is_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_the_grammar_are_read() {
        for text in [
            "a@b",
            "first.last@example.com",
            "o'brien+tag@Example.COM",
            "\"with space\"@example.com",
            "\"a\\\"b@c\"@example.com",
            "user@[192.0.2.1]",
            "user@[IPv6:2001:db8::1]",
            "用户@例え.jp",
            "u@xn--r8jz45g.jp",
        ] {
            assert_eq!(parse(text).map(|a| a.to_string()).as_deref(), Ok(text), "{text}");
        }
    }

    #[test]
    fn addresses_outside_the_grammar_are_refused() {
        use AddressError::*;
        for (text, error) in [
            ("nobody", NoDomain),
            ("@example.com", Local),
            ("a@", Domain),
            (".a@b", Local),
            ("a.@b", Local),
            ("a..b@c", Local),
            ("a b@c", Local),
            ("a\r\nb@c", Local),
            ("a\0@c", Local),
            ("a@b@c", Local),
            ("\"a@c", Local),
            ("\"a\\\"@c", Local),
            ("\"a\"b\"@c", Local),
            ("\"a\nb\"@c", Local),
            ("a@-b.example", Domain),
            ("a@b..c", Domain),
            ("a@b c", Domain),
            ("a@[300.1.1.1]", Domain),
            ("a@[2001:db8::1]", Domain),
            ("a@[192.0.2.1", Domain),
            ("a\u{85}@b", Local),
        ] {
            assert_eq!(parse(text), Err(error), "{text:?}");
        }
        assert_eq!(parse(&format!("{}@b", "x".repeat(65))), Err(TooLong));
        assert_eq!(parse(&format!("a@{}.b", "x".repeat(254))), Err(TooLong));
    }

    #[test]
    fn a_path_ends_at_its_own_bracket() {
        let mailbox = |text: &str| Path::Mailbox(parse(text).unwrap());
        assert_eq!(parse_path("<>"), Ok((Path::Null, "")));
        assert_eq!(parse_path("<PostMaster> X"), Ok((Path::Postmaster, " X")));
        assert_eq!(parse_path("<a@b> SIZE=1"), Ok((mailbox("a@b"), " SIZE=1")));
        assert_eq!(parse_path("<\"a>b\"@c>"), Ok((mailbox("\"a>b\"@c"), "")));
        assert_eq!(parse_path("<@x,@y.z:a@b>"), Ok((mailbox("a@b"), "")));
        for bad in ["a@b", "<a@b", "<a@b>>", "<a@b>x", "<<a@b>>", " <a@b>"] {
            assert_eq!(parse_path(bad), Err(AddressError::Brackets), "{bad}");
        }
        assert_eq!(parse_path("<@x:>"), Err(AddressError::NoDomain));
        assert_eq!(parse_path("<@x a@b>"), Err(AddressError::Domain));
    }

    #[test]
    fn a_mailbox_is_one_however_it_is_written() {
        let of = |text: &str| folded(&parse(text).unwrap());
        assert_eq!(of("Ann@Sender.TEST"), of("ann@sender.test"));
        assert_eq!(of("J\u{d6}RG@b\u{fc}cher.test"), of("j\u{f6}rg@xn--bcher-kva.test"));
        assert_ne!(of("ann@sender.test"), of("ann+x@sender.test"));
    }

    #[test]
    fn domains_are_compared_in_one_form() {
        let form = |text: &str| Domain::parse(text).map(|d| d.to_string());
        assert_eq!(form("Example.COM."), Ok("example.com".to_owned()));
        assert_eq!(form("BÜCHER.example"), Ok("xn--bcher-kva.example".to_owned()));
        assert_eq!(form("[IPv6:2001:DB8:0::1]"), Ok("[IPv6:2001:db8::1]".to_owned()));
        assert_eq!(Domain::parse("[192.0.2.7]").unwrap().ip(), Some("192.0.2.7".parse().unwrap()));
        assert_eq!(Domain::parse("192.0.2.7").unwrap().ip(), None);
        // Joiners belong to some words (RFC 5892 appendix A), which are others without them.
        let (persian, sinhala) = (
            "\u{646}\u{627}\u{645}\u{647}\u{200c}\u{627}\u{6cc}.test",
            "\u{dc1}\u{dca}\u{200d}\u{dbb}\u{dd3}.test",
        );
        assert_eq!(form(persian), Ok("xn--mgba3gch31f060k.test".to_owned()));
        assert_eq!(form(sinhala), Ok("xn--10cl1a0b660p.test".to_owned()));
        for word in [persian, sinhala] {
            assert_ne!(form(word), form(&word.replace(['\u{200c}', '\u{200d}'], "")));
            let address = parse(&format!("{}@{word}", word.trim_end_matches(".test"))).unwrap();
            assert_eq!(Domain::of(&address).as_str(), form(word).unwrap());
            assert_eq!(folded(&address), format!("{}@{}", address.user(), form(word).unwrap()));
        }
        for misplaced in
            ["a\u{200d}b.test", "\u{200c}a.test", "a\u{200c}.test", "\u{646}\u{200d}\u{627}.test"]
        {
            assert_eq!(parse(&format!("u@{misplaced}")), Err(AddressError::Domain), "{misplaced:?}");
        }
        // A full-width dot is a dot to IDNA: the result is an ordinary domain, never a trick.
        assert_eq!(form("a\u{ff0e}b"), Ok("a.b".to_owned()));
    }
}
