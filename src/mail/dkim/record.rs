//! The TXT record that publishes a key (RFC 6376 §3.6.1, RFC 8463 §4): written for an operator to paste, and read to be
//! compared with the key.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::key::{Algorithm, Key};

/// Bytes of one string of a TXT record (RFC 1035 §3.3).
const STRING_BYTES_MAX: usize = 255;

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// `k=`, "rsa" where it is missing.
    pub key_type: String,
    /// `h=`: the hashes that may be used; none: any.
    pub hashes: Option<Vec<String>>,
    /// `s=`: for what; none: anything. Mail is "email".
    pub services: Option<Vec<String>>,
    /// `t=`: "y" for a domain that is trying, "s" for addresses of just this domain.
    pub flags: Vec<String>,
    /// `p=`, empty where the key was withdrawn.
    pub public: Vec<u8>,
}

/// Why a TXT record is no key for a verifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// RFC 6376 §3.2.
    #[error("it is no list of tags (v=DKIM1; k=…; p=…)")]
    Tags,
    /// RFC 6376 §3.6.1: the tag must come first and have this value.
    #[error("its v= is not DKIM1, or does not come first")]
    Version,
    /// RFC 6376 §3.2: then nothing of the list counts.
    #[error("its {0}= stands there twice")]
    Twice(String),
    /// No `p=`.
    #[error("it has no p=")]
    NoKey,
    /// `p=` is no base64; pasting often breaks it.
    #[error("its p= is damaged")]
    Damaged,
}

impl Record {
    /// Reads the strings of a TXT record, put together.
    ///
    /// # Errors
    /// What keeps a verifier from using it.
    pub fn parse(text: &str) -> Result<Record, RecordError> {
        let mut record = Record {
            key_type: "rsa".to_owned(),
            hashes: None,
            services: None,
            flags: Vec::new(),
            public: Vec::new(),
        };
        let mut has_key = false;
        let mut seen = BTreeSet::new();
        for (at, tag) in text.split(';').map(str::trim).enumerate().filter(|(_, tag)| !tag.is_empty()) {
            let (name, value) = tag.split_once('=').ok_or(RecordError::Tags)?;
            let (name, value) = (name.trim(), value.trim());
            if !seen.insert(name) {
                return Err(RecordError::Twice(name.to_owned()));
            }
            let list = || value.split(':').map(|item| item.trim().to_ascii_lowercase()).collect();
            match name {
                "v" if at > 0 || value != "DKIM1" => return Err(RecordError::Version),
                "k" => record.key_type = value.to_ascii_lowercase(),
                "h" => record.hashes = Some(list()),
                "s" => record.services = Some(list()),
                "t" => record.flags = list(),
                "p" => {
                    let base64: String = value.split_ascii_whitespace().collect();
                    record.public = STANDARD.decode(base64).map_err(|_| RecordError::Damaged)?;
                    has_key = true;
                }
                _ => {}
            }
        }
        if has_key { Ok(record) } else { Err(RecordError::NoKey) }
    }

    /// Whether it has a key for signatures of mail by this algorithm.
    pub fn is_usable_for(&self, algorithm: Algorithm) -> bool {
        let has = |list: &Option<Vec<String>>, wanted: &[&str]| {
            list.as_ref().is_none_or(|list| list.iter().any(|item| wanted.contains(&item.as_str())))
        };
        !self.public.is_empty()
            && self.key_type == algorithm.key_type()
            && has(&self.hashes, &["sha256"])
            && has(&self.services, &["*", "email"])
    }

    /// Whether a signature by `key` holds by this record; if not, why.
    ///
    /// # Errors
    /// In words for the operator.
    pub fn judge(&self, key: &Key) -> Result<(), String> {
        if self.public.is_empty() {
            return Err("the key is withdrawn (an empty p=)".to_owned());
        }
        let wanted = key.algorithm().key_type();
        if self.key_type != wanted {
            return Err(format!("k= is {}, the key is {wanted}", self.key_type));
        }
        if self.hashes.as_ref().is_some_and(|hashes| !hashes.iter().any(|hash| hash == "sha256")) {
            return Err("h= leaves out sha256".to_owned());
        }
        if self.services.as_ref().is_some_and(|services| !services.iter().any(|s| s == "*" || s == "email")) {
            return Err("s= leaves out email".to_owned());
        }
        if self.public != key.public() {
            return Err("p= is another key's".to_owned());
        }
        Ok(())
    }
}

/// The record of a key.
pub fn text_of(key: &Key) -> String {
    format!("v=DKIM1; k={}; p={}", key.algorithm().key_type(), STANDARD.encode(key.public()))
}

/// The name under which verifiers look for it (RFC 6376 §3.6.2.1).
pub fn name_of(domain: &str, selector: &str) -> String {
    format!("{selector}._domainkey.{domain}")
}

/// The record as a line of a zone file, in strings of at most 255 bytes.
pub fn zone_line(domain: &str, selector: &str, key: &Key) -> String {
    let text = text_of(key);
    let strings: Vec<String> = (0..text.len())
        .step_by(STRING_BYTES_MAX)
        .map(|at| format!("\"{}\"", &text[at..text.len().min(at + STRING_BYTES_MAX)]))
        .collect();
    format!("{}. IN TXT {}", name_of(domain, selector), strings.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::dkim::key::Algorithm;

    #[test]
    fn the_record_of_a_key_is_read_and_holds_for_it_alone() {
        for algorithm in [Algorithm::RsaSha256, Algorithm::Ed25519Sha256] {
            let (key, other) = (Key::generate(algorithm).unwrap(), Key::generate(algorithm).unwrap());
            let record = Record::parse(&text_of(&key)).unwrap();
            assert_eq!(record.judge(&key), Ok(()));
            assert!(record.judge(&other).unwrap_err().contains("another key"));
            let line = zone_line("example.com", "s1", &key);
            assert!(line.starts_with("s1._domainkey.example.com. IN TXT \"v=DKIM1; k="), "{line}");
            let strings: Vec<&str> = line.split('"').skip(1).step_by(2).collect();
            assert!(strings.iter().all(|string| string.len() <= 255), "{line}");
            assert_eq!(strings.concat(), text_of(&key));
        }
    }

    #[test]
    fn what_verifiers_do_not_take_is_told_apart() {
        let key = Key::generate(Algorithm::Ed25519Sha256).unwrap();
        let public = STANDARD.encode(key.public());
        let good = |text: String| Record::parse(&text).unwrap().judge(&key);
        assert_eq!(good(format!(" v = DKIM1 ; k=ed25519; t=y:s; n=note; p= {public} ;")), Ok(()));
        assert!(good(format!("p={public}")).unwrap_err().contains("k= is rsa"));
        assert!(good(format!("k=ed25519; h=sha1; p={public}")).unwrap_err().contains("sha256"));
        assert!(good(format!("k=ed25519; s=tlsrpt; p={public}")).unwrap_err().contains("email"));
        assert!(good("v=DKIM1; k=ed25519; p=".to_owned()).unwrap_err().contains("withdrawn"));
        let bad = |text: &str| Record::parse(text).unwrap_err();
        assert_eq!(bad("v=DKIM2; p="), RecordError::Version);
        assert_eq!(bad("k=rsa; v=DKIM1; p="), RecordError::Version);
        assert_eq!(bad("v=spf1 -all"), RecordError::Version);
        assert_eq!(bad("hello"), RecordError::Tags);
        assert_eq!(bad("v=DKIM1; k=rsa"), RecordError::NoKey);
        for (text, tag) in [("k=rsa; p=; k=ed25519", "k"), ("p=AAAA; p=", "p"), ("x=1; p=; x =1", "x")] {
            assert_eq!(bad(text), RecordError::Twice(tag.to_owned()), "{text}");
        }
        assert_eq!(bad("v=DKIM1; p=a\\;b"), RecordError::Damaged);
        assert_eq!(bad("v=DKIM1; p=%%%"), RecordError::Damaged);
    }
}
