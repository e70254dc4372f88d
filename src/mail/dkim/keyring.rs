//! The keys of all domains, and which of them sign a message.

use super::canonical::Canonicalization;
use super::signature::{Signer, SigningTime, author_domains, domains_in_from};
use super::verify::Earlier;
use crate::mail::header::fields;

/// Signatures that a message came with, of which so many are looked at.
const EARLIER_MAX: usize = 4;

/// A key and the time in which it signs.
#[derive(Debug)]
pub struct SigningKey {
    /// For whom and with what.
    pub signer: Signer,
    /// It signs from then on, Unix seconds; none: from the beginning.
    pub from: Option<i64>,
    /// It signs until then; none: for ever.
    pub until: Option<i64>,
    /// A message that came with a signature of this domain that holds is not signed once more.
    pub skip_signed: bool,
}

impl SigningKey {
    /// Whether it signs at this time; while the clock is doubted, by either time, so that one of the keys is right.
    pub fn is_in_force(&self, at: impl Into<SigningTime>) -> bool {
        at.into().is_within(self.from, self.until)
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

    /// Who signs a message with this header; none where it is nobody's who has keys. `sender` is the domain of the
    /// envelope, which counts where From tells nothing or is broken.
    pub fn to_sign(&self, header: &[u8], sender: Option<&str>) -> Option<ToSign<'_>> {
        let all = fields(header);
        let authors = author_domains(&all).unwrap_or_else(|| {
            let mut possible = domains_in_from(&all);
            possible.extend(sender.map(str::to_owned));
            possible
        });
        let domain = self.domain_of(authors.iter().map(String::as_str))?.to_owned();
        let keys: Vec<&SigningKey> = self.keys.iter().filter(|key| key.signer.domain == domain).collect();
        let earlier = if keys.iter().any(|key| key.skip_signed) {
            let read = all.iter().filter_map(|field| Earlier::read(field, &domain, &all));
            read.take(EARLIER_MAX).collect()
        } else {
            Vec::new()
        };
        Some(ToSign { domain, keys, earlier })
    }

    /// The keys of this domain, which has some, that sign now.
    ///
    /// # Errors
    /// There is none.
    pub fn in_force(
        &self,
        domain: &str,
        at: impl Into<SigningTime>,
    ) -> Result<Vec<&SigningKey>, NoneInForce> {
        in_force(domain, self.keys.iter().filter(|key| key.signer.domain == domain), at.into())
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

/// A message that a domain with keys answers for.
#[derive(Debug)]
pub struct ToSign<'k> {
    domain: String,
    /// All of the domain.
    keys: Vec<&'k SigningKey>,
    /// Signatures of the domain that the message came with, where one may be enough.
    earlier: Vec<Earlier>,
}

impl<'k> ToSign<'k> {
    /// The ways in which `signers` and its keys need the body's hash; one may be named twice.
    pub fn hashed(&self) -> impl Iterator<Item = Canonicalization> {
        let of_keys = self.keys.iter().map(|key| key.signer.canonicalization.1);
        of_keys.chain(self.earlier.iter().map(|earlier| earlier.body))
    }

    /// The signatures that may be enough, should they hold.
    pub fn earlier(&self) -> &[Earlier] {
        &self.earlier
    }

    /// The keys that sign. `is_signed`: one of [`ToSign::earlier`] holds; where that is enough for all keys, none does,
    /// whether or not one is in force.
    ///
    /// # Errors
    /// None of those that have to sign is in force.
    pub fn signers(&self, is_signed: bool, at: SigningTime) -> Result<Vec<&'k SigningKey>, NoneInForce> {
        if is_signed && self.keys.iter().all(|key| key.skip_signed) {
            return Ok(Vec::new());
        }
        let mut keys = in_force(&self.domain, self.keys.iter().copied(), at)?;
        keys.retain(|key| !(is_signed && key.skip_signed));
        Ok(keys)
    }
}

fn in_force<'k>(
    domain: &str,
    keys: impl Iterator<Item = &'k SigningKey>,
    at: SigningTime,
) -> Result<Vec<&'k SigningKey>, NoneInForce> {
    let keys: Vec<&SigningKey> = keys.filter(|key| key.is_in_force(at)).collect();
    if keys.is_empty() { Err(NoneInForce { domain: domain.to_owned() }) } else { Ok(keys) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::dkim::{Algorithm, Key};

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

    fn signers<'k>(
        keyring: &'k Keyring,
        header: &str,
        sender: Option<&str>,
    ) -> Result<Vec<&'k SigningKey>, NoneInForce> {
        let to_sign = keyring.to_sign(header.as_bytes(), sender);
        to_sign.map_or(Ok(Vec::new()), |to_sign| to_sign.signers(false, NOW.into()))
    }

    fn names(keyring: &Keyring, header: &str, sender: Option<&str>) -> Vec<String> {
        signers(keyring, header, sender).unwrap().into_iter().map(SigningKey::name).collect()
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
            ("From: a@example.org A Word\r\n", None, &["example.org/o"]),
            ("From: a@example.org / c@b.test\r\n", None, &["example.org/o"]),
            ("From: A <a@example.org, C <c@b.test>\r\n", None, &["example.org/o"]),
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
        for (from, until) in [(Some(NOW + 1), None), (None, Some(NOW)), (Some(NOW - 9), Some(NOW - 1))] {
            let keys = vec![key("example.com", "s", from, until), key("com", "above", None, None)];
            let keyring = Keyring::new(keys, Some("com".to_owned()));
            let none = signers(&keyring, "From: a@example.com\r\n", None).unwrap_err();
            assert_eq!(none, NoneInForce { domain: "example.com".to_owned() }, "{from:?} {until:?}");
        }
    }

    #[test]
    fn while_the_clock_is_doubted_the_keys_of_both_times_sign() {
        let (before, after) = (Some(NOW - 10), Some(NOW + 10));
        for (from, until, signs) in [
            (None, before, false),
            (None, Some(NOW - 9), true),
            (Some(NOW - 5), Some(NOW + 5), true),
            (after, None, true),
            (Some(NOW + 11), None, false),
        ] {
            let key = key("example.com", "s", from, until);
            assert_eq!(
                key.is_in_force(SigningTime::between(NOW - 10, NOW + 10)),
                signs,
                "{from:?} {until:?}"
            );
        }
    }

    #[test]
    fn signatures_of_the_domain_are_looked_at_where_that_is_wanted_and_only_so_many() {
        let skips = |skip_signed| SigningKey { skip_signed, ..key("example.com", "s", None, None) };
        let signed = "DKIM-Signature: v=1; a=rsa-sha256; d=example.com; s=x; h=from; bh=eHg=; b=eHg=\r\n";
        let other = signed.replace("d=example.com", "d=example.org");
        for (skip, fields, wanted) in [
            (false, signed.to_owned(), 0),
            (true, signed.to_owned(), 1),
            (true, other, 0),
            (true, signed.repeat(1000), EARLIER_MAX),
        ] {
            let keyring = Keyring::new(vec![skips(skip)], None);
            let to_sign =
                keyring.to_sign(format!("{fields}From: a@example.com\r\n").as_bytes(), None).unwrap();
            assert_eq!(to_sign.earlier().len(), wanted, "{skip}");
        }
    }

    #[test]
    fn what_is_signed_and_not_to_be_signed_again_needs_no_key_in_force() {
        let skips = |until| SigningKey { skip_signed: true, ..key("example.com", "s", None, until) };
        let signers = |keys, is_signed| {
            let keyring = Keyring::new(keys, None);
            let to_sign = keyring.to_sign(b"From: a@example.com\r\n", None).unwrap();
            let names = |keys: Vec<&SigningKey>| keys.into_iter().map(SigningKey::name).collect::<Vec<_>>();
            to_sign.signers(is_signed, NOW.into()).map(names).ok()
        };
        assert_eq!(signers(vec![skips(Some(NOW))], true), Some(Vec::new()));
        assert_eq!(signers(vec![skips(Some(NOW))], false), None);
        // Where another key signs in any case, it must be in force.
        let other = |until| key("example.com", "t", None, until);
        assert_eq!(signers(vec![skips(Some(NOW)), other(Some(NOW))], true), None);
        assert_eq!(signers(vec![skips(None), other(None)], true), Some(vec!["example.com/t".to_owned()]));
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
