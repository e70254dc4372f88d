//! Signatures that a message came with (RFC 6376 §6.1): whether one of them holds, so that ours is not needed.
//!
//! Stricter than a receiver has to be: what receivers may read in two ways, or may refuse, does not hold here. Then
//! ours is added, which does no harm. Pure: the record of the key is given.

use std::collections::HashMap;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{ED25519, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::canonical::Canonicalization;
use super::key::Algorithm;
use super::record::Record;
use super::signature::SigningTime;
use crate::mail::address::Domain;
use crate::mail::header::Field;

/// How far a signer's clock may be ahead of ours; OpenDKIM takes as much.
const DRIFT_SECS: i64 = 300;

/// A signature that a message came with.
#[derive(Debug)]
pub struct Earlier {
    /// The tag `d=`: A-labels, lower case.
    pub domain: String,
    /// The tag `s=`: lower case.
    pub selector: String,
    /// How the body was written for its hash.
    pub body: Canonicalization,
    algorithm: Algorithm,
    body_hash: Vec<u8>,
    /// The header as it was signed (RFC 6376 §3.7).
    data: Vec<u8>,
    signature: Vec<u8>,
    made_at: Option<i64>,
    expires: Option<i64>,
    /// `i=` is of a domain below `d=`.
    is_of_subdomain: bool,
}

impl Earlier {
    /// None for another field or another domain's, for one that no verifier can use, for one that leaves a From
    /// unsigned, and for one with `l=`: it covers a part of the body at best. `all` are the fields of the header.
    pub fn read(field: &Field<'_>, domain: &str, all: &[Field<'_>]) -> Option<Earlier> {
        if !field.is("DKIM-Signature") {
            return None;
        }
        let text = String::from_utf8_lossy(field.value());
        let tags = Tags::parse(&text)?;
        let signer = Domain::parse(tags.word("d")?).ok()?;
        let has_dns = |methods: &str| methods.split(':').any(|method| method == "dns/txt");
        if signer.as_str() != domain
            || tags.word("v")? != "1"
            || tags.value("l").is_some()
            || tags.value("q").is_some() && !tags.word("q").is_some_and(has_dns)
        {
            return None;
        }
        let (header, body) = match tags.value("c") {
            None => (Canonicalization::Simple, Canonicalization::Simple),
            Some(_) => canonicalizations(tags.word("c")?)?,
        };
        let algorithm = [Algorithm::RsaSha256, Algorithm::Ed25519Sha256];
        let algorithm = algorithm.into_iter().find(|known| Some(known.as_str()) == tags.word("a"))?;
        Some(Earlier {
            selector: Domain::parse(tags.word("s")?).ok()?.to_string(),
            body,
            algorithm,
            body_hash: tags.base64("bh")?,
            data: signed_data(field, &tags, header, all)?,
            signature: tags.base64("b")?,
            made_at: tags.time("t")?,
            expires: tags.time("x")?,
            is_of_subdomain: is_of_subdomain(&tags, &signer)?,
            domain: signer.to_string(),
        })
    }

    /// Whether it was made for the body with this hash, and neither later than now nor for a time that is over.
    pub fn is_of(&self, body_hash: &[u8; 32], now: SigningTime) -> bool {
        self.body_hash == body_hash
            && self.expires.is_none_or(|expires| now.latest < expires)
            && self.made_at.is_none_or(|made| made <= now.earliest.saturating_add(DRIFT_SECS))
    }

    /// Whether the key of this record made it. A key that its domain only tries proves nothing (`t=y`, RFC 6376
    /// §3.6.1), and one of RSA below 2048 bits too little.
    pub fn is_made_with(&self, record: &Record) -> bool {
        let has_flag = |flag: &str| record.flags.iter().any(|known| known == flag);
        if !record.is_usable_for(self.algorithm) || has_flag("y") || has_flag("s") && self.is_of_subdomain {
            return false;
        }
        let (public, signature) = (&record.public, &self.signature);
        let holds = match self.algorithm {
            Algorithm::RsaSha256 => {
                UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, public).verify(&self.data, signature)
            }
            Algorithm::Ed25519Sha256 => {
                let hash = digest(&SHA256, &self.data);
                UnparsedPublicKey::new(&ED25519, public).verify(hash.as_ref(), signature)
            }
        };
        holds.is_ok()
    }
}

fn canonicalizations(text: &str) -> Option<(Canonicalization, Canonicalization)> {
    let (header, body) = text.split_once('/').unwrap_or((text, "simple"));
    let known = |name: &str| {
        let both = [Canonicalization::Simple, Canonicalization::Relaxed];
        both.into_iter().find(|known| known.as_str() == name)
    };
    Some((known(header)?, known(body)?))
}

/// Whether `i=` names a domain below the signer's. None where it names another one, which no verifier takes.
fn is_of_subdomain(tags: &Tags<'_>, signer: &Domain) -> Option<bool> {
    if tags.value("i").is_none() {
        return Some(false);
    }
    let (_, domain) = tags.word("i")?.rsplit_once('@')?;
    let domain = Domain::parse(domain).ok()?;
    let above = domain.as_str().strip_suffix(signer.as_str())?;
    (above.is_empty() || above.ends_with('.')).then_some(!above.is_empty())
}

/// What was signed: the fields that `h=` names, of several of one name the last first, and the signature's own field
/// without `b=` (RFC 6376 §3.7, §5.4.2). None where a From is not among them.
fn signed_data(
    field: &Field<'_>,
    tags: &Tags<'_>,
    canonicalization: Canonicalization,
    all: &[Field<'_>],
) -> Option<Vec<u8>> {
    let lower = |name: &[u8]| name.to_ascii_lowercase();
    let mut left: HashMap<Vec<u8>, Vec<&Field<'_>>> = HashMap::new();
    for field in all {
        left.entry(lower(field.name)).or_default().push(field);
    }
    let mut data = Vec::new();
    let mut authors = 0;
    for name in tags.value("h")?.split(':').map(str::trim) {
        if name.is_empty()
            || name.contains(char::is_whitespace)
            || name.eq_ignore_ascii_case("DKIM-Signature")
        {
            return None;
        }
        authors += usize::from(name.eq_ignore_ascii_case("From"));
        if let Some(field) = left.get_mut(&lower(name.as_bytes())).and_then(Vec::pop) {
            canonicalization.field(field.whole, &mut data);
        }
    }
    let is_from_signed = authors > 0 && left.get(&b"from"[..]).is_none_or(Vec::is_empty);
    canonicalization.field(&without_signature(field), &mut data);
    data.truncate(data.len() - 2);
    is_from_signed.then_some(data)
}

/// The field with nothing behind `b=`.
fn without_signature(field: &Field<'_>) -> Vec<u8> {
    let value = field.value();
    let mut out = field.whole[..field.whole.len() - value.len()].to_vec();
    for (at, tag) in value.split(|byte| *byte == b';').enumerate() {
        if at > 0 {
            out.push(b';');
        }
        let equals = tag.iter().position(|byte| *byte == b'=').unwrap_or(tag.len());
        let is_signature = tag[..equals].trim_ascii() == b"b";
        let kept = if is_signature { tag.len().min(equals + 1) } else { tag.len() };
        out.extend_from_slice(&tag[..kept]);
    }
    out
}

/// A list of tags (RFC 6376 §3.2), by name; none of them twice.
struct Tags<'t>(Vec<(&'t str, &'t str)>);

impl<'t> Tags<'t> {
    fn parse(text: &'t str) -> Option<Tags<'t>> {
        let tags = text.split(';').map(str::trim).filter(|tag| !tag.is_empty());
        let both =
            |tag: &'t str| tag.split_once('=').map(|(name, value)| (name.trim_end(), value.trim_start()));
        let mut tags: Vec<(&str, &str)> = tags.map(both).collect::<Option<_>>()?;
        tags.sort_unstable();
        tags.windows(2).all(|two| two[0].0 != two[1].0).then_some(Tags(tags))
    }

    fn value(&self, name: &str) -> Option<&'t str> {
        let at = self.0.binary_search_by_key(&name, |(known, _)| known).ok()?;
        Some(self.0[at].1)
    }

    /// A value without blanks in it.
    fn word(&self, name: &str) -> Option<&'t str> {
        self.value(name).filter(|value| !value.is_empty() && !value.contains(char::is_whitespace))
    }

    fn base64(&self, name: &str) -> Option<Vec<u8>> {
        let text: String = self.value(name)?.split_ascii_whitespace().collect();
        STANDARD.decode(text).ok().filter(|bytes| !bytes.is_empty())
    }

    /// Unix seconds, none where the tag is not there. The outer None: it is no time.
    fn time(&self, name: &str) -> Option<Option<i64>> {
        self.value(name).map(|text| text.parse()).transpose().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::dkim::{BodyHash, Key, Signer, record};
    use crate::mail::header::{fields, header_of};

    const NOW: i64 = 1_800_000_000;

    fn signer(algorithm: Algorithm) -> Signer {
        Signer {
            domain: "example.com".to_owned(),
            selector: "s1".to_owned(),
            key: Key::generate(algorithm).unwrap(),
            canonicalization: (Canonicalization::Relaxed, Canonicalization::Relaxed),
            expires_after: None,
        }
    }

    fn record(signer: &Signer) -> Record {
        Record::parse(&record::text_of(&signer.key)).unwrap()
    }

    fn hash(mail: &str, body: Canonicalization) -> [u8; 32] {
        let mut hash = BodyHash::new(body);
        hash.feed(&mail.as_bytes()[header_of(mail.as_bytes()).len() + 2..]);
        hash.finish()
    }

    fn signed(signer: &Signer, mail: &str) -> String {
        let body_hash = hash(mail, signer.canonicalization.1);
        signer.sign(header_of(mail.as_bytes()), &body_hash, NOW).unwrap() + mail
    }

    /// Whether its first signature holds now.
    fn holds(mail: &str, record: &Record) -> bool {
        let all = fields(header_of(mail.as_bytes()));
        let earlier = all.iter().find_map(|field| Earlier::read(field, "example.com", &all));
        earlier.is_some_and(|earlier| {
            earlier.is_of(&hash(mail, earlier.body), NOW.into()) && earlier.is_made_with(record)
        })
    }

    const MAIL: &str = "From: Me <me@example.com>\r\nTo: a@b.test\r\nTo:  c@d.test\r\n\
                        Subject:  a \r\n\t b\r\n\r\nbody  \r\n";

    #[test]
    fn what_we_sign_holds_and_what_was_changed_after_it_does_not() {
        use Canonicalization::{Relaxed, Simple};
        for algorithm in [Algorithm::RsaSha256, Algorithm::Ed25519Sha256] {
            let mut signer = signer(algorithm);
            for pair in [(Relaxed, Relaxed), (Relaxed, Simple), (Simple, Relaxed), (Simple, Simple)] {
                signer.canonicalization = pair;
                let (mail, record) = (signed(&signer, MAIL), record(&signer));
                assert!(holds(&mail, &record), "{mail}");
                for (from, to) in [
                    ("me@example.com>", "you@example.com>"),
                    ("a@b.test", "a@b.test, e@f.test"),
                    ("body", "Body"),
                    ("t=18", "t=17"),
                    ("\r\n\tb=", "\r\n\tb=AAAA"),
                    ("From: Me", "From: me@example.com\r\nFrom: Me"),
                ] {
                    let changed = mail.replacen(from, to, 1);
                    assert_ne!(changed, mail);
                    assert!(!holds(&changed, &record), "{changed}");
                }
                // Fields of others are not ours to judge.
                assert!(holds(&format!("Received: x\r\n{mail}"), &record));
                let respaced = mail.replacen("To: a@b.test", "To:   a@b.test", 1);
                assert_eq!(holds(&respaced, &record), pair.0 == Relaxed, "{respaced}");
            }
        }
    }

    /// Signs the tags that are given, whatever they say; `b=` is the last of them.
    fn by_hand(signer: &Signer, tags: &str, mail: &str) -> String {
        let body_hash = STANDARD.encode(hash(mail, Canonicalization::Relaxed));
        let unsigned = format!("DKIM-Signature: {}; b=", tags.replace("BH", &body_hash));
        let whole = format!("{unsigned}\r\n{mail}");
        let all = fields(header_of(whole.as_bytes()));
        let mut data = Vec::new();
        let text = String::from_utf8_lossy(all[0].value());
        let names = Tags::parse(&text).and_then(|tags| tags.value("h")).unwrap_or_default();
        for name in names.split(':') {
            if let Some(field) = all.iter().skip(1).rfind(|field| field.is(name.trim())) {
                Canonicalization::Relaxed.field(field.whole, &mut data);
            }
        }
        Canonicalization::Relaxed.field(unsigned.as_bytes(), &mut data);
        data.truncate(data.len() - 2);
        format!("{unsigned}{}\r\n{mail}", STANDARD.encode(signer.key.sign(&data).unwrap()))
    }

    #[test]
    fn a_signature_that_holds_by_its_numbers_must_hold_by_its_tags_too() {
        let signer = signer(Algorithm::Ed25519Sha256);
        let (record, mail) = (record(&signer), "From: me@example.com\r\nSubject: x\r\n\r\nbody\r\n");
        let good = "v=1; a=ed25519-sha256; c=relaxed/relaxed; d=example.com; s=s1; h=From:Subject; bh=BH";
        for (from, to, wanted) in [
            ("", "", true),
            ("v=1", " v = 1 ", true),
            ("d=example.com", "d=EXAMPLE.com", true),
            ("h=From:Subject", "h=from :\r\n\t subject", true),
            ("s=s1", "s=s1; i=@example.com", true),
            ("s=s1", "s=s1; i=me@news.example.com", true),
            ("s=s1", "s=s1; q=dns/txt; t=1800000300; x=1800000301", true),
            ("s=s1", "s=s1; t=1800000301", false),
            ("s=s1", "s=s1; x=1800000000", false),
            ("s=s1", "s=s1; x=soon", false),
            ("s=s1", "s=s1; i=@badexample.com", false),
            ("s=s1", "s=s1; i=@example.org", false),
            ("s=s1", "s=s1; q=carrier/pigeon", false),
            ("s=s1", "s=s1; l=6", false),
            ("s=s1", "s=s1; s=s1", false),
            ("s=s1", "s=s1; nothing", false),
            ("s=s1", "s=s 1", false),
            ("v=1", "v=2", false),
            ("v=1; ", "", false),
            ("ed25519-sha256", "rsa-sha256", false),
            ("ed25519-sha256", "ed25519-sha1", false),
            ("relaxed/relaxed", "relaxed/none", false),
            // The body's is simple then, which is the same for this one.
            ("relaxed/relaxed", "relaxed", true),
            ("d=example.com", "d=example.org", false),
            ("h=From:Subject", "h=Subject", false),
            ("h=From:Subject", "h=From:DKIM-Signature", false),
            ("h=From:Subject", "h=Fr om:From", false),
        ] {
            let tags = good.replacen(from, to, 1);
            assert_eq!(holds(&by_hand(&signer, &tags, mail), &record), wanted, "{tags}");
        }
        let typed = format!("DKIM-Signature: {good}; b=eHg=\r\n{mail}");
        assert!(!holds(
            &typed.replace("BH", &STANDARD.encode(hash(mail, Canonicalization::Relaxed))),
            &record
        ));
        assert!(!holds(&format!("X-{}", by_hand(&signer, good, mail)), &record));
    }

    #[test]
    fn the_record_must_allow_it() {
        let (signer, other) = (signer(Algorithm::Ed25519Sha256), signer(Algorithm::Ed25519Sha256));
        let mail = "From: me@example.com\r\n\r\nbody\r\n";
        let tags = "v=1; a=ed25519-sha256; c=relaxed/relaxed; d=example.com; s=s1; h=From; bh=BH";
        let own = by_hand(&signer, tags, mail);
        let below = by_hand(&signer, &format!("{tags}; i=@a.example.com"), mail);
        let public = STANDARD.encode(signer.key.public());
        let holds = |mail: &str, text: &str| holds(mail, &Record::parse(text).unwrap());
        for (text, wanted) in [
            (format!("v=DKIM1; k=ed25519; p={public}"), true),
            (format!("k=ed25519; h=sha1:sha256; s=email; t=x; p={public}"), true),
            (format!("k=ed25519; s=other:*; p={public}"), true),
            (format!("k=ed25519; s=other; p={public}"), false),
            (format!("k=ed25519; h=sha1; p={public}"), false),
            (format!("k=ed25519; t=s:y; p={public}"), false),
            (format!("p={public}"), false),
            ("k=ed25519; p=".to_owned(), false),
            (record::text_of(&other.key), false),
        ] {
            assert_eq!(holds(&own, &text), wanted, "{text}");
        }
        let strict = format!("k=ed25519; t=s; p={public}");
        assert!(holds(&own, &strict) && !holds(&below, &strict));
    }
}
