//! The DKIM-Signature field (RFC 6376 §3.5): which fields of a message it covers, and how it is made.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::canonical::Canonicalization;
use super::key::Key;
use crate::mail::address::Domain;
use crate::mail::header::{Field, fields};

/// Fields that are signed where they are there, each as often as it is there (RFC 6376 §5.4.1, and those that make
/// people click). From is signed once more than it is there, so that nobody can add another. Received and Return-Path
/// change under way and are never signed; List-Id only where it is the domain's own.
const SIGNED: [&str; 24] = [
    "From",
    "To",
    "Cc",
    "Subject",
    "Date",
    "Message-ID",
    "Reply-To",
    "In-Reply-To",
    "References",
    "MIME-Version",
    "Content-Type",
    "List-Unsubscribe",
    "List-Unsubscribe-Post",
    "List-Help",
    "List-Subscribe",
    "List-Post",
    "List-Owner",
    "List-Archive",
    "List-Id",
    "Resent-Date",
    "Resent-From",
    "Resent-To",
    "Resent-Cc",
    "Sender",
];
/// So many fields of one name are signed at most, the last ones: RFC 5322 §3.6 allows one of most names, and hosts
/// refuse long headers, so that `h=` must not grow with what a client sends.
const FIELDS_OF_A_NAME_MAX: usize = 20;
/// The longest line of the field, without its line end (RFC 5322 §2.1.1 asks for 78).
const COLUMNS: usize = 76;

/// When a signature is made, Unix seconds: one moment, or, while the system's clock is doubted, one of two. What is
/// made by it holds at both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SigningTime {
    pub(super) earliest: i64,
    pub(super) latest: i64,
}

impl SigningTime {
    /// Between these two, whichever is the first.
    pub fn between(one: i64, other: i64) -> SigningTime {
        SigningTime { earliest: one.min(other), latest: one.max(other) }
    }

    /// Whether it may lie within this time, which has a begin, an end, both or neither.
    pub fn is_within(self, from: Option<i64>, until: Option<i64>) -> bool {
        from.is_none_or(|from| from <= self.latest) && until.is_none_or(|until| self.earliest < until)
    }

    /// Whether what was made at this time may serve at `later`, which is at most so many seconds after it by both.
    pub fn may_serve(self, later: SigningTime, secs: i64) -> bool {
        let is_soon = |made: i64, at: i64| (0..=secs).contains(&at.saturating_sub(made));
        is_soon(self.earliest, later.earliest) && is_soon(self.latest, later.latest)
    }
}

impl From<i64> for SigningTime {
    fn from(now: i64) -> SigningTime {
        SigningTime { earliest: now, latest: now }
    }
}

/// Signs for one domain with one key.
#[derive(Debug)]
pub struct Signer {
    /// The tag `d=`: A-labels, lower case.
    pub domain: String,
    /// The tag `s=`.
    pub selector: String,
    /// With what.
    pub key: Key,
    /// Of the header and of the body.
    pub canonicalization: (Canonicalization, Canonicalization),
    /// Seconds after which the signature no longer holds (`x=`); none: it holds as long as the key is published.
    pub expires_after: Option<u32>,
}

impl Signer {
    /// The field for a message with this header and the hash of its body, to be put before the header. None where the
    /// crypto library fails.
    pub fn sign(&self, header: &[u8], body_hash: &[u8; 32], at: impl Into<SigningTime>) -> Option<String> {
        let all = fields(header);
        let covered = self.covered(&all);
        let unsigned = self.unsigned(&covered, body_hash, at.into());
        let mut data = Vec::with_capacity(header.len() + unsigned.len());
        for field in covered.iter().filter_map(|(_, field)| *field) {
            self.canonicalization.0.field(field.whole, &mut data);
        }
        // The field itself comes last, without the signature and without a line end (RFC 6376 §3.7).
        self.canonicalization.0.field(unsigned.as_bytes(), &mut data);
        data.truncate(data.len() - 2);
        let mut field = Folded { text: unsigned, column: "\tb=".len() };
        field.push_cut(&STANDARD.encode(self.key.sign(&data)?));
        Some(field.text + "\r\n")
    }

    /// The names of `h=` in their order, each with the field that it stands for. Of several fields of one name the
    /// last comes first (RFC 6376 §5.4.2).
    fn covered<'n, 'h>(&self, all: &[Field<'h>]) -> Vec<(&'n str, Option<Field<'h>>)> {
        let mut covered = Vec::new();
        for name in SIGNED {
            let found = all.iter().rev().filter(|field| field.is(name));
            // A verifier counts from the last one upward, so the first that is not signed ends it.
            let found = found.take_while(|field| name != "List-Id" || self.is_own_list(field));
            let before = covered.len();
            covered.extend(found.take(FIELDS_OF_A_NAME_MAX).map(|field| (name, Some(*field))));
            // Beyond the bound the name would stand for a field that is there.
            if name == "From" && covered.len() - before < FIELDS_OF_A_NAME_MAX {
                covered.push((name, None));
            }
        }
        covered
    }

    /// Whether a List-Id ends in our domain (RFC 2919 §2).
    fn is_own_list(&self, field: &Field<'_>) -> bool {
        let value = String::from_utf8_lossy(field.value()).trim_end().to_ascii_lowercase();
        let Some(id) = value.strip_suffix('>').and_then(|value| value.rsplit_once('<')).map(|(_, id)| id)
        else {
            return false;
        };
        id.strip_suffix(&self.domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    }

    /// The field up to and with `b=`.
    fn unsigned(
        &self,
        covered: &[(&str, Option<Field<'_>>)],
        body_hash: &[u8; 32],
        time: SigningTime,
    ) -> String {
        let (header, body) = self.canonicalization;
        let mut field = Folded { text: "DKIM-Signature: v=1;".to_owned(), column: 0 };
        field.column = field.text.len();
        field.push(&format!(" a={};", self.key.algorithm().as_str()));
        field.push(&format!(" c={}/{};", header.as_str(), body.as_str()));
        field.push(&format!(" d={};", self.domain));
        field.push(&format!(" s={};", self.selector));
        // Receivers refuse one of the future (RFC 6376 §3.5) and one that is over.
        field.push(&format!(" t={};", time.earliest));
        if let Some(secs) = self.expires_after {
            field.push(&format!(" x={};", time.latest.saturating_add(secs.into())));
        }
        let names = covered.len();
        for (at, (name, _)) in covered.iter().enumerate() {
            let before: Cow<'_, str> = if at == 0 { " h=".into() } else { "".into() };
            let behind = if at + 1 == names { ";" } else { ":" };
            field.push(&format!("{before}{name}{behind}"));
        }
        field.push(&format!(" bh={};", STANDARD.encode(body_hash)));
        field.text + "\r\n\tb="
    }
}

/// A field that is folded before what would not fit.
struct Folded {
    text: String,
    column: usize,
}

impl Folded {
    /// Adds what may stand at the start of a line.
    fn push(&mut self, piece: &str) {
        if self.column + piece.len() > COLUMNS {
            self.text.push_str("\r\n\t");
            self.column = 1;
            self.text.push_str(piece.trim_start());
            self.column += piece.trim_start().len();
        } else {
            self.text.push_str(piece);
            self.column += piece.len();
        }
    }

    /// Adds what may be cut anywhere.
    fn push_cut(&mut self, mut text: &str) {
        while !text.is_empty() {
            if self.column >= COLUMNS {
                self.text.push_str("\r\n\t");
                self.column = 1;
            }
            let (now, later) = text.split_at(text.len().min(COLUMNS - self.column));
            self.text.push_str(now);
            self.column += now.len();
            text = later;
        }
    }
}

/// The domains of the authors, in their order: of all mailboxes in all From fields. Receivers compare the first
/// (RFC 7489 §3.1). None where that cannot be told: From tells nothing, or is broken.
pub fn author_domains(all: &[Field<'_>]) -> Option<Vec<String>> {
    let mut domains = Vec::new();
    for from in all.iter().filter(|field| field.is("From")) {
        for address in addresses(&String::from_utf8_lossy(from.value()))? {
            domains.push(domain_of(&address)?);
        }
    }
    (!domains.is_empty()).then_some(domains)
}

/// For a From that is broken: all that stands behind an `@` and could be a domain, in quotes and comments too, as far
/// as it could be one. Receivers that mend such a field show one of them as the author's. Of a name that is none (an
/// empty label, a hyphen in front) the nearest one above it that is.
pub fn domains_in_from(all: &[Field<'_>]) -> Vec<String> {
    let ends = |c: char| !c.is_alphanumeric() && !"-._".contains(c);
    let mut domains = Vec::new();
    for from in all.iter().filter(|field| field.is("From")) {
        let text = String::from_utf8_lossy(from.value());
        let words: Vec<&str> = text.split_whitespace().collect();
        let apart = words.join(" ");
        let together = joined(&apart);
        let is_other = together.split(' ').count() + apart.matches("@ ").count() < words.len();
        for text in std::iter::once(apart).chain(is_other.then_some(together)) {
            let behind = text.split('@').skip(1).filter_map(|rest| rest.trim_start().split(ends).next());
            domains.extend(behind.filter_map(domain_or_above));
        }
    }
    domains
}

fn domain_or_above(name: &str) -> Option<String> {
    let mut name = name.trim_end_matches('.');
    loop {
        if let Ok(domain) = Domain::parse(name) {
            return Some(domain.to_string());
        }
        (_, name) = name.split_once('.').filter(|(_, above)| above.contains('.'))?;
    }
}

/// Of what stands behind the last `@`; dots at its end are somebody's full stops.
fn domain_of(address: &str) -> Option<String> {
    let (_, domain) = address.rsplit_once('@')?;
    Domain::parse(domain.trim_end_matches('.')).ok().map(|domain| domain.to_string())
}

/// The addresses in a list of mailboxes (RFC 5322 §3.4): of each what stands in angle brackets, else all that is
/// neither comment nor quoted. The local part may be quoted. None where the list is broken: readers mend it in
/// different ways, and see different authors.
fn addresses(list: &str) -> Option<Vec<String>> {
    let (mut found, mut mailbox) = (Vec::new(), Mailbox::default());
    let (mut comments, mut quoted, mut escaped) = (0_u32, false, false);
    for c in list.chars() {
        if std::mem::take(&mut escaped) {
            continue;
        }
        match c {
            '\\' if quoted || comments > 0 => escaped = true,
            '"' if comments == 0 => {
                quoted = !quoted;
                if quoted {
                    mailbox.push(c)?;
                }
            }
            _ if quoted => {}
            '(' => comments += 1,
            ')' => {
                comments = comments.checked_sub(1)?;
                mailbox.gap = true;
            }
            _ if comments > 0 => {}
            '<' => mailbox.open()?,
            '>' if mailbox.brackets == Brackets::Open => mailbox.brackets = Brackets::Closed,
            ':' => mailbox.colon()?,
            // The end of a mailbox; of a route inside brackets it is none.
            ',' | ';' if mailbox.brackets != Brackets::Open => {
                found.extend(std::mem::take(&mut mailbox).addresses()?);
            }
            c if c.is_whitespace() => mailbox.gap = true,
            c => mailbox.push(c)?,
        }
    }
    found.extend(mailbox.addresses()?);
    (!quoted && comments == 0).then_some(found)
}

/// A mailbox as far as it is read. Each step gives None where it makes the mailbox a broken one.
#[derive(Default)]
struct Mailbox {
    /// What may be the address; a quoted string is one quote in it, and what stands between words one blank.
    text: String,
    brackets: Brackets,
    /// A blank or a comment came, and nothing behind it.
    gap: bool,
}

#[derive(Default, PartialEq)]
enum Brackets {
    #[default]
    None,
    Open,
    Closed,
}

impl Mailbox {
    fn push(&mut self, c: char) -> Option<()> {
        if std::mem::take(&mut self.gap) && !self.text.is_empty() {
            self.text.push(' ');
        }
        self.text.push(c);
        (self.brackets != Brackets::Closed).then_some(())
    }

    /// What came is a name.
    fn open(&mut self) -> Option<()> {
        let is_name = self.brackets == Brackets::None && !self.text.contains('@');
        *self = Mailbox { brackets: Brackets::Open, ..Mailbox::default() };
        is_name.then_some(())
    }

    /// What came is a group's name, or, inside brackets, a route: `@a,@b` (RFC 5322 §4.4).
    fn colon(&mut self) -> Option<()> {
        let is_hop = |hop: &str| hop.trim_start().strip_prefix('@').is_some_and(|name| !name.contains('@'));
        let is_over = match self.brackets {
            Brackets::None => !self.text.contains('@'),
            Brackets::Open => self.text.split(',').all(is_hop),
            Brackets::Closed => false,
        };
        self.text.clear();
        is_over.then_some(())
    }

    /// The address, if it has one. Blanks may stand beside its dots (RFC 5322 §4.4), but some read no further than the
    /// first: then both readings.
    fn addresses(self) -> Option<Vec<String>> {
        let whole = joined(&self.text);
        match whole.matches('@').count() {
            _ if self.brackets == Brackets::Open => None,
            0 => Some(Vec::new()),
            1 if !whole.contains(' ') => {
                let (_, domain) = self.text.split_once('@')?;
                let short = domain.trim_start().split_once(' ').map(|(short, _)| format!("@{short}"));
                Some(std::iter::once(whole).chain(short).collect())
            }
            _ => None,
        }
    }
}

/// Without the blanks beside dots and at signs.
fn joined(text: &str) -> String {
    [(" .", "."), (". ", "."), (" @", "@"), ("@ ", "@")]
        .iter()
        .fold(text.to_owned(), |text, (apart, together)| text.replace(apart, together))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::mail::dkim::key::Algorithm;

    fn signer(algorithm: Algorithm) -> Signer {
        Signer {
            domain: "example.com".to_owned(),
            selector: "s1".to_owned(),
            key: Key::generate(algorithm).unwrap(),
            canonicalization: (Canonicalization::Relaxed, Canonicalization::Relaxed),
            expires_after: None,
        }
    }

    fn names(signer: &Signer, header: &str) -> Vec<String> {
        let field = signer.sign(header.as_bytes(), &[0; 32], 1_700_000_000).unwrap();
        let tags: String = field.split_ascii_whitespace().collect();
        let list = tags.split(';').find_map(|tag| tag.strip_prefix("h=")).unwrap();
        list.split(':').map(str::to_owned).collect()
    }

    #[test]
    fn what_people_read_is_signed_and_what_changes_on_the_way_is_not() {
        let header = "Received: x\r\nReturn-Path: <a@b>\r\nfrom: a@example.com\r\nTo: b\r\nTo: c\r\n\
             X-Mailer: m\r\nList-Id: <l.example.org>\r\nSUBJECT: s\r\n";
        let signer = signer(Algorithm::Ed25519Sha256);
        assert_eq!(names(&signer, header), ["From", "From", "To", "To", "Subject"]);
        for (own, is_own) in
            [("<l.example.com>", true), ("A list <example.com>", true), ("<lexample.com>", false)]
        {
            let header = format!("From: a@example.com\r\nList-Id: {own}\r\n");
            assert_eq!(names(&signer, &header).contains(&"List-Id".to_owned()), is_own, "{own}");
        }
        assert_eq!(names(&signer, "Subject: s\r\n"), ["From", "Subject"], "nobody can add one");
    }

    #[test]
    fn a_signature_does_not_grow_with_the_fields_of_one_name() {
        let signer = signer(Algorithm::Ed25519Sha256);
        let header = |count| "From: a@example.com\r\n".repeat(count) + &"To: b\r\n".repeat(10_000);
        for (count, from) in [(1, 2), (19, 20), (20, 20), (500, 20)] {
            let names = names(&signer, &header(count));
            let of = |wanted: &str| names.iter().filter(|name| *name == wanted).count();
            assert_eq!((of("From"), of("To")), (from, FIELDS_OF_A_NAME_MAX), "{count}");
        }
    }

    /// RFC 6376 §5.4.2: of several fields of one name a verifier takes the last ones.
    #[test]
    fn of_several_list_ids_those_below_another_s_are_signed() {
        let signer = signer(Algorithm::Ed25519Sha256);
        let (own, other) = ("List-Id: <l.example.com>\r\n", "List-Id: <other.example.org>\r\n");
        for (lists, signed) in [
            (vec![own, other], 0),
            (vec![other, own], 1),
            (vec![own, other, own, own], 2),
            (vec![own, own], 2),
        ] {
            let header = format!("From: a@example.com\r\n{}", lists.concat());
            let names = names(&signer, &header);
            assert_eq!(names.iter().filter(|name| *name == "List-Id").count(), signed, "{header}");
        }
    }

    #[test]
    fn the_field_is_folded_and_each_line_is_short() {
        for algorithm in [Algorithm::RsaSha256, Algorithm::Ed25519Sha256] {
            let signer = Signer { expires_after: Some(3600), ..signer(algorithm) };
            let header: String = SIGNED.iter().map(|name| format!("{name}: <x.example.com>\r\n")).collect();
            let field = signer.sign(header.as_bytes(), &[7; 32], 1_700_000_000).unwrap();
            assert!(field.ends_with("\r\n") && field.contains(" x=1700003600;"), "{field}");
            for (at, line) in field.trim_end().split("\r\n").enumerate() {
                assert!(line.len() <= 78, "{line}");
                assert!(at == 0 || line.starts_with('\t'), "{line}");
            }
        }
    }

    #[test]
    fn while_the_clock_is_doubted_a_signature_is_neither_of_the_future_nor_over() {
        let signer = Signer { expires_after: Some(3600), ..signer(Algorithm::Ed25519Sha256) };
        for (one, other) in [(1_700_000_000, 1_700_999_999), (1_700_999_999, 1_700_000_000)] {
            let field =
                signer.sign(b"From: a@example.com\r\n", &[0; 32], SigningTime::between(one, other)).unwrap();
            let tags: String = field.split_ascii_whitespace().collect();
            assert!(tags.contains(";t=1700000000;x=1701003599;"), "{field}");
        }
    }

    #[test]
    fn the_authors_are_the_mailboxes_of_from() {
        let table = [
            ("a@Example.COM", &["example.com"][..]),
            ("\"x@y.test\" <a@example.com>", &["example.com"]),
            ("(b@c.test) a@example.com (d)", &["example.com"]),
            ("A <a@example.com>, B <b@example.org>", &["example.com", "example.org"]),
            ("a@example.com, b@example.org", &["example.com", "example.org"]),
            ("nobody, b@example.org", &["example.org"]),
            ("Group: a@example.com, b@example.org;", &["example.com", "example.org"]),
            (
                "A: a@example.com;, B <b@example.org> (x@y.test), c@d.test",
                &["example.com", "example.org", "d.test"],
            ),
            ("<@route.test,@other.test:a@example.com>", &["example.com"]),
            ("\"quoted \\\" <z@z.test>\" <\"a@b\"@example.com>", &["example.com"]),
            ("Müller <a@bücher.example>", &["xn--bcher-kva.example"]),
            ("=?utf-8?q?x=40y.test?= <a@example.com>", &["example.com"]),
            ("\r\n\t<a@example.com>", &["example.com"]),
            ("a@example.com.", &["example.com"]),
            // Blanks beside dots: both readings.
            ("a (c) @ example (d)\r\n . com (e)", &["example.com", "example"]),
            ("The Boss <a@example.com. Bob>", &["example.com.bob", "example.com"]),
            ("a@example.com...", &["example.com"]),
            ("a . b @ example.com", &["example.com"]),
            ("<\"a b\"@example.com>, nobody here", &["example.com"]),
            ("<mailto@example.com>; Bob > <b@example.org>", &["example.com", "example.org"]),
        ];
        for (from, domains) in table {
            let header = format!("To: b@b.test\r\nFrom: {from}\r\n");
            assert_eq!(author_domains(&fields(header.as_bytes())).unwrap(), domains, "{from}");
        }
        let header = b"From: a@example.com\r\nTo: b\r\nfrom: b@example.org\r\n";
        assert_eq!(author_domains(&fields(header)).unwrap(), ["example.com", "example.org"]);
    }

    #[test]
    fn a_from_that_is_broken_names_nobody_for_sure_and_all_its_domains_are_known() {
        let table = [
            ("Bob \"The Man <bob@example.com>", &["example.com"][..]),
            ("Smile (: <bob@example.com>", &["example.com"]),
            ("\"Bob\\\" <bob@example.com>", &["example.com"]),
            ("\"a@b.test\" \"<bob@example.com>", &["b.test", "example.com"]),
            ("\"bob@example.com\"", &["example.com"]),
            ("(bob@example.com)", &["example.com"]),
            ("bob@example.com>", &["example.com"]),
            ("bob@ex ample.com> , a@b.test", &["ex", "b.test"]),
            ("a@b.test, <bob@example..com>", &["b.test"]),
            ("\"\r\n\t<bob@\r\n example.com>", &["example.com"]),
            ("a@x..news.example.com", &["news.example.com"]),
            ("a@example.com!", &["example.com"]),
            ("a@example.com=, <b@-x.example.org", &["example.com", "example.org"]),
            ("a@example.com\0", &["example.com"]),
            ("a@exämple_.bücher.example", &["xn--bcher-kva.example"]),
            // Words behind an address, or more than one address in one mailbox.
            ("bob@example.com Bob Smith", &["example.com"]),
            ("bob@example.com\tBob", &["example.com"]),
            ("bob@example.com=Bob", &["example.com"]),
            ("bob@example.com. Bob Smith", &["example.com", "example.com.bob"]),
            ("bob @ example .com Smith", &["example", "example.com"]),
            ("bob@example.com \"Bob\"", &["example.com"]),
            ("bob@example.com (c) Bob", &["example.com"]),
            ("<bob@example.com Bob>", &["example.com"]),
            ("<bob@example.com> Bob", &["example.com"]),
            ("bob@example.com jim@b.test", &["example.com", "b.test"]),
            ("bob@example.com / jim@b.test", &["example.com", "b.test"]),
            ("bob@example.com/jim@b.test", &["example.com", "b.test"]),
            ("bob@example.com <jim@b.test>", &["example.com", "b.test"]),
            ("<jim@b.test> bob@example.com", &["b.test", "example.com"]),
            ("bob@example.com: jim@b.test;", &["example.com", "b.test"]),
            ("bob@example.com@b.test", &["example.com", "b.test"]),
            ("<@b.test,bob@example.com:jim@b.test>", &["b.test", "example.com", "b.test"]),
            ("<bob@example.com,jim@b.test>", &["example.com", "b.test"]),
            ("A <a@example.com> <b@example.org>", &["example.com", "example.org"]),
            // Brackets and comments without an end or a begin.
            ("A <a@example.com, B <b@b.test>", &["example.com", "b.test"]),
            ("A <a@example.com", &["example.com"]),
            ("<A <a@example.com>", &["example.com"]),
            ("a@example.com) <b@b.test>", &["example.com", "b.test"]),
            ("nobody", &[]),
            ("@", &[]),
            ("", &[]),
        ];
        for (from, domains) in table {
            let header = format!("To: c@c.test\r\nFrom: {from}\r\n");
            let all = fields(header.as_bytes());
            assert_eq!((author_domains(&all), domains_in_from(&all)), (None, owned(domains)), "{from}");
        }
        let all = fields(b"To: c@c.test\r\n");
        assert_eq!((author_domains(&all), domains_in_from(&all)), (None, Vec::new()));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(5000) })]
        /// However a From without quotes and comments is broken: an address in it is not lost.
        #[test]
        fn a_domain_behind_an_at_sign_is_signed_for(from in "(a@b|b@a[.]b|<|>|,| |:|[ab@.;\\t\\[/-]){0,8}") {
            let header = format!("From: {from}\r\n");
            let all = fields(header.as_bytes());
            let found = author_domains(&all).unwrap_or_else(|| domains_in_from(&all));
            for (at, _) in from.match_indices('@').filter(|(at, _)| from[..*at].ends_with(['a', 'b'])) {
                let rest = &from[at + 1..];
                let end = rest.find(|c: char| !matches!(c, 'a' | 'b' | '.' | '-')).unwrap_or(rest.len());
                let domain = domain_of(&format!("@{}", &rest[..end]));
                prop_assert!(domain.is_none_or(|domain| found.contains(&domain)), "{from:?}: {found:?}");
            }
        }

        #[test]
        fn no_header_is_too_odd_to_be_read(
            header in prop::collection::vec(prop::sample::select(&b"From:\r\n\r\n \t\"()<>\\\\@,;.a\x80"[..]), 0..80),
        ) {
            let (header, body) = crate::mail::header::apart(&header);
            let all = fields(header);
            prop_assert!(all.iter().map(|field| field.whole.len()).sum::<usize>() <= header.len());
            let signer = Signer { domain: "a".to_owned(), ..signer(Algorithm::Ed25519Sha256) };
            prop_assert!(signer.sign(header, &[0; 32], 0).is_some(), "{body:?}");
            let _ = (author_domains(&all), domains_in_from(&all));
        }
    }

    fn owned(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }
}
