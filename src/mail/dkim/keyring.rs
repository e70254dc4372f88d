//! The keys of all domains, and which of them sign a message.

use super::signature::{Signer, author_domains, domains_in_from};
use crate::mail::address::Domain;
use crate::mail::header::{Field, fields};

/// A key and the time in which it signs.
#[derive(Debug)]
pub struct SigningKey {
    /// For whom and with what.
    pub signer: Signer,
    /// It signs from then on, Unix seconds; none: from the beginning.
    pub from: Option<i64>,
    /// It signs until then; none: for ever.
    pub until: Option<i64>,
    /// A message that has a signature of this domain already is not signed once more.
    pub skip_signed: bool,
}

impl SigningKey {
    /// Whether it signs at this time.
    pub fn is_in_force(&self, now: i64) -> bool {
        self.from.is_none_or(|from| from <= now) && self.until.is_none_or(|until| now < until)
    }

    /// As a log line has it: `example.com/s1`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.signer.domain, self.signer.selector)
    }
}

/// A domain has keys, and this is the time of none of them: its mail must not go without a signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoneInForce {
    /// The domain.
    pub domain: String,
}

/// All keys.
#[derive(Debug, Default)]
pub struct Keyring {
    keys: Vec<SigningKey>,
    /// Who signs for senders without a key of their own: a domain that has some.
    sign_as: Option<String>,
}

impl Keyring {
    /// These keys, and the domain that signs where no author has one.
    pub fn new(keys: Vec<SigningKey>, sign_as: Option<String>) -> Keyring {
        Keyring { keys, sign_as }
    }

    /// No message is signed.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// All keys, in the order of the config.
    pub fn keys(&self) -> &[SigningKey] {
        &self.keys
    }

    /// The domains that have keys, each once, in the order of the config.
    pub fn domains(&self) -> Vec<&str> {
        let mut domains: Vec<&str> = Vec::new();
        for key in &self.keys {
            if !domains.contains(&key.signer.domain.as_str()) {
                domains.push(&key.signer.domain);
            }
        }
        domains
    }

    /// All keys of a domain.
    pub fn keys_of<'k>(&'k self, domain: &'k str) -> impl Iterator<Item = &'k SigningKey> {
        self.keys.iter().filter(move |key| key.signer.domain == domain)
    }

    /// The keys that sign a message with this header; none of them where it is nobody's who has keys, or signed already
    /// and that is enough. `sender` is the domain of the envelope, which counts where From tells nothing or is
    /// broken.
    ///
    /// # Errors
    /// The domain has keys, and none is in force.
    pub fn signers(
        &self,
        header: &[u8],
        sender: Option<&str>,
        now: i64,
    ) -> Result<Vec<&SigningKey>, NoneInForce> {
        let all = fields(header);
        let authors = author_domains(&all).unwrap_or_else(|| {
            let mut possible = domains_in_from(&all);
            possible.extend(sender.map(str::to_owned));
            possible
        });
        let authors = authors.iter().map(String::as_str);
        let Some(domain) = self.domain_of(authors) else { return Ok(Vec::new()) };
        let in_force = self.in_force(domain, now)?;
        let signed = all.iter().any(|field| signing_domain(field).as_deref() == Some(domain));
        Ok(in_force.into_iter().filter(|key| !(signed && key.skip_signed)).collect())
    }

    /// The keys of this domain, which has some, that sign now.
    ///
    /// # Errors
    /// There is none.
    pub fn in_force(&self, domain: &str, now: i64) -> Result<Vec<&SigningKey>, NoneInForce> {
        let keys = self.keys.iter().filter(|key| key.signer.domain == domain && key.is_in_force(now));
        let keys: Vec<&SigningKey> = keys.collect();
        if keys.is_empty() { Err(NoneInForce { domain: domain.to_owned() }) } else { Ok(keys) }
    }

    /// Who signs for these authors: the first of them that has keys, or the nearest domain above it that has (relaxed
    /// alignment, RFC 7489 §3.1.1); else `sign_as`.
    pub fn domain_of<'k>(&'k self, authors: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
        let has_keys = |domain: &&str| self.keys.iter().any(|key| key.signer.domain == *domain);
        let own = authors.into_iter().find_map(|author| {
            let above = |domain: &&'k str| domain.split_once('.').map(|(_, above)| above);
            std::iter::successors(Some(author), above).find(has_keys)
        });
        own.or(self.sign_as.as_deref())
    }

    /// When a time begins in which no key of the domain is in force: `now` where it has begun; none where there is
    /// always one.
    pub fn runs_out(&self, domain: &str, now: i64) -> Option<i64> {
        let mut at = now;
        // Each round ends with another key, so there are no more rounds than keys.
        loop {
            let ends = self
                .keys_of(domain)
                .filter(|key| key.is_in_force(at))
                .map(|key| key.until.unwrap_or(i64::MAX));
            match ends.max() {
                None => return Some(at),
                Some(i64::MAX) => return None,
                Some(end) => at = end,
            }
        }
    }
}

/// The tag `d=` of a DKIM-Signature.
fn signing_domain(field: &Field<'_>) -> Option<String> {
    if !field.is("DKIM-Signature") {
        return None;
    }
    let text: String = String::from_utf8_lossy(field.value()).split_ascii_whitespace().collect();
    let domain = text.split(';').find_map(|tag| tag.strip_prefix("d="))?;
    Domain::parse(domain).ok().map(|domain| domain.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::dkim::{Algorithm, Canonicalization, Key};

    const NOW: i64 = 1_800_000_000;

    fn key(domain: &str, selector: &str, from: Option<i64>, until: Option<i64>) -> SigningKey {
        let signer = Signer {
            domain: domain.to_owned(),
            selector: selector.to_owned(),
            key: Key::generate(Algorithm::Ed25519Sha256).unwrap(),
            canonicalization: (Canonicalization::Relaxed, Canonicalization::Relaxed),
            expires_after: None,
        };
        SigningKey { signer, from, until, skip_signed: false }
    }

    fn names(keyring: &Keyring, header: &str, sender: Option<&str>) -> Vec<String> {
        let signers = keyring.signers(header.as_bytes(), sender, NOW).unwrap();
        signers.into_iter().map(SigningKey::name).collect()
    }

    #[test]
    fn the_author_s_domain_signs_with_all_its_keys_in_force_and_the_nearest_above_it_otherwise() {
        let keys = vec![
            key("example.com", "rsa", None, None),
            key("news.example.com", "n", None, None),
            key("example.com", "ed", None, None),
            key("example.com", "old", None, Some(NOW)),
            key("example.com", "new", Some(NOW + 1), None),
            key("example.org", "o", None, None),
        ];
        let keyring = Keyring::new(keys, None);
        let own = ["example.com/rsa", "example.com/ed"];
        for (header, sender, wanted) in [
            ("From: a@Example.com\r\n", None, &own[..]),
            ("From: a@relay.example.com\r\n", None, &own),
            ("From: a@x.news.example.com\r\n", None, &["news.example.com/n"]),
            ("From: a@badexample.com\r\n", None, &[]),
            ("From: a@com\r\n", None, &[]),
            // Several authors: the first who has a key.
            ("From: a@b.test, c@example.org, d@example.com\r\n", None, &["example.org/o"]),
            ("From: a@b.test\r\nFrom: c@example.org\r\n", None, &["example.org/o"]),
            // From counts, whatever the envelope says; where it tells nothing the envelope does.
            ("From: a@b.test\r\n", Some("example.org"), &[]),
            ("To: a@b.test\r\n", Some("example.org"), &["example.org/o"]),
            ("From: nobody\r\n", Some("example.org"), &["example.org/o"]),
            ("To: a@b.test\r\n", None, &[]),
            // So does each domain in a From that is broken.
            ("From: Bob \"The Man <bob@example.org>\r\n", Some("bounces.test"), &["example.org/o"]),
            ("From: Smile (: <bob@example.org>\r\n", None, &["example.org/o"]),
            ("From: \"a@b.test\" (: <bob@example.org>\r\n", None, &["example.org/o"]),
            ("From: \"a@b.test\"\r\n", Some("example.org"), &["example.org/o"]),
        ] {
            assert_eq!(names(&keyring, header, sender), wanted, "{header}");
        }
        let Keyring { keys, .. } = keyring;
        let keyring = Keyring::new(keys, Some("example.org".to_owned()));
        assert_eq!(names(&keyring, "From: a@b.test\r\n", None), ["example.org/o"]);
        assert_eq!(names(&keyring, "To: a@b.test\r\n", None), ["example.org/o"]);
        assert_eq!(names(&keyring, "From: a@example.com\r\n", None), own);
    }

    #[test]
    fn a_domain_whose_keys_are_out_of_their_time_has_no_signer_and_is_not_unsigned() {
        let header = b"From: a@example.com\r\n";
        for (from, until) in [(Some(NOW + 1), None), (None, Some(NOW)), (Some(NOW - 9), Some(NOW - 1))] {
            let keys = vec![key("example.com", "s", from, until), key("com", "above", None, None)];
            let keyring = Keyring::new(keys, Some("com".to_owned()));
            let none = keyring.signers(header, None, NOW).unwrap_err();
            assert_eq!(none, NoneInForce { domain: "example.com".to_owned() }, "{from:?} {until:?}");
        }
    }

    #[test]
    fn a_signature_of_the_same_domain_is_enough_where_that_is_wanted() {
        let skips = SigningKey { skip_signed: true, ..key("example.com", "s", None, None) };
        let keyring = Keyring::new(vec![skips], None);
        let with =
            |signature: &str| names(&keyring, &format!("{signature}From: a@example.com\r\n"), None).len();
        assert_eq!(with(""), 1);
        assert_eq!(with("DKIM-Signature: v=1; a=rsa-sha256;\r\n\td = EXAMPLE.com; s=x; b=\r\n"), 0);
        assert_eq!(with("DKIM-Signature: v=1; d=example.org; s=x\r\n"), 1);
        assert_eq!(with("X-DKIM-Signature: v=1; d=example.com; s=x\r\n"), 1);
    }

    #[test]
    fn it_is_known_when_the_last_key_runs_out() {
        let runs_out = |times: &[(Option<i64>, Option<i64>)]| {
            let keys = times.iter().map(|(from, until)| key("a.test", "s", *from, *until)).collect();
            Keyring::new(keys, None).runs_out("a.test", 10)
        };
        assert_eq!(runs_out(&[(None, None)]), None);
        assert_eq!(runs_out(&[(None, Some(20))]), Some(20));
        assert_eq!(runs_out(&[(None, Some(20)), (Some(20), None)]), None);
        assert_eq!(runs_out(&[(None, Some(20)), (Some(21), None)]), Some(20));
        assert_eq!(runs_out(&[(Some(15), Some(30)), (None, Some(20)), (Some(29), Some(40))]), Some(40));
        assert_eq!(runs_out(&[(Some(11), None)]), Some(10));
    }
}
