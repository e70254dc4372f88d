//! Signs mail (DKIM, RFC 6376) as it is handed over: the fields that go before the content.
//!
//! A signature is made in the attempt that needs it, once its host has answered, and serves all hosts and transactions
//! of that attempt: so it is always by a key that is in force, however long the message waited. It covers what the
//! queue has, which is what goes over the wire: header and line ends were mended before the message was taken; doubled
//! dots are gone before anybody verifies; and a last line without an end has the same hash as one with it (RFC 6376
//! §3.4.3), should anybody on the way end it. Of the content nothing is kept: the body is read once more for its hash.
//!
//! A message to many lanes is signed once (`signature_cache.rs`). One that came with a signature of its own is left
//! alone where `skip_signed` wants that and the signature holds by the key in its record, or by one of ours that is in
//! force.
//!
//! A domain that has keys sends nothing without a signature: where none can be made its mail waits, and the operator is
//! told.

use std::borrow::Cow;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use aws_lc_rs::digest::{Context, SHA256};
use memchr::memmem;

use crate::clock::Clock;
use crate::mail::Domain;
use crate::mail::dkim::{
    BodyHash, Canonicalization, Earlier, Keyring, NoneInForce, Record, SigningKey, SigningTime, ToSign,
    record,
};
use crate::mail::header::{END_LOOKED_FOR_BYTES, apart};
use crate::queue::QueuedMessage;

use crate::delivery::job::signature_cache::{SignatureCache, SignedId};
use crate::delivery::route::lookup::DnsError;
use crate::delivery::smtp::connection::Content;
use crate::delivery::smtp::failure::Failure;

/// An operator is told of the same domain once in so many seconds.
const TELL_EVERY_SECS: i64 = 3600;

/// The keys, and which domains' trouble the operator was told of.
pub struct Signing {
    keyring: Arc<Keyring>,
    /// Each domain that has keys, and when its trouble was told last, in steady seconds.
    told_at: Vec<(String, AtomicI64)>,
    cache: SignatureCache,
}

/// The TXT records of a name.
pub(in crate::delivery) type Texts<'t> = &'t dyn Fn(&str) -> Result<Vec<String>, DnsError>;

/// What is put before the content: DKIM-Signature fields with their line ends, none for mail that nobody signs.
#[derive(Debug, Default)]
pub(in crate::delivery) struct Signature {
    pub(in crate::delivery) fields: Arc<str>,
    /// The keys that made them, as `attempts.dkim` and the log have it.
    pub(in crate::delivery) keys: Option<Arc<str>>,
}

impl Signing {
    /// With these keys.
    pub fn new(keyring: Arc<Keyring>) -> Signing {
        let told_at =
            keyring.domains().into_iter().map(|domain| (domain.to_owned(), AtomicI64::new(i64::MIN)));
        Signing { told_at: told_at.collect(), keyring, cache: SignatureCache::default() }
    }

    /// Whether a message that has to be signed can be, as far as its header tells: one that came with a signature may
    /// need none. It is asked before any host is.
    ///
    /// # Errors
    /// As of `sign`.
    pub(in crate::delivery) fn check(
        &self,
        message: &QueuedMessage,
        content: Content<'_, '_>,
        clock: &Clock,
    ) -> Result<(), Failure> {
        let at = SigningTime::between(clock.confirmed(), clock.now());
        // Nothing is read where it could change nothing.
        if self.keyring.keys().iter().all(|key| key.is_in_force(at)) {
            return Ok(());
        }
        let begin = with_whole_header(content).map_err(unreadable)?;
        match self.to_sign(message, apart(&begin).0) {
            Some(to_sign) if to_sign.earlier().is_empty() => {
                to_sign.signers(false, at).map(drop).map_err(|none| self.no_key(&none, clock))
            }
            _ => Ok(()),
        }
    }

    fn to_sign(&self, message: &QueuedMessage, header: &[u8]) -> Option<ToSign<'_>> {
        let sender = message.sender.as_ref().map(|sender| Domain::of(sender).to_string());
        self.keyring.to_sign(header, sender.as_deref())
    }

    /// Signs a message with all keys that are its authors' and in force.
    ///
    /// # Errors
    /// It has to be signed and cannot be, or its content cannot be read.
    pub(in crate::delivery) fn sign(
        &self,
        message: &QueuedMessage,
        content: Content<'_, '_>,
        texts: Texts<'_>,
        clock: &Clock,
    ) -> Result<Signature, Failure> {
        if self.keyring.is_empty() {
            return Ok(Signature::default());
        }
        let begin = with_whole_header(content).map_err(unreadable)?;
        let (header, body) = apart(&begin);
        let Some(to_sign) = self.to_sign(message, header) else { return Ok(Signature::default()) };
        let mut hashes = BodyHashes::begin(to_sign.hashed());
        hashes.feed(body);
        while let Some(piece) = content().map_err(unreadable)? {
            hashes.feed(&piece);
        }
        let hashes = hashes.finish();
        let at = SigningTime::between(clock.confirmed(), clock.now());
        let is_signed = to_sign.earlier().iter().any(|earlier| {
            let is_of = hashes.hash(earlier.body).is_some_and(|hash| earlier.is_of(hash, at));
            is_of && self.record_of(earlier, texts, at).is_some_and(|record| earlier.is_made_with(&record))
        });
        let signers = to_sign.signers(is_signed, at).map_err(|none| self.no_key(&none, clock))?;
        if signers.is_empty() {
            return Ok(Signature::default());
        }
        let names: Vec<String> = signers.iter().map(|key| key.name()).collect();
        let names = names.join(",");
        let id = id_of(&names, signers.iter().filter_map(|key| hashes.of(key)), header);
        let make = || {
            let mut fields = String::new();
            for key in signers {
                let signed = hashes.of(key).and_then(|hash| key.signer.sign(header, hash, at));
                let why = || format!("the crypto library could not sign with {}", key.name());
                let remedy = "it is tried again, with each retry of the mail";
                fields += &signed.ok_or_else(|| self.refuse(&key.signer.domain, &why(), remedy, clock))?;
            }
            Ok(fields)
        };
        let fields = self.cache.find_or_make(id, clock.steady(), at, make)?;
        Ok(Signature { fields, keys: Some(names.into()) })
    }

    /// The key that should have made a signature: one of ours that is in force, else what DNS has. None where that
    /// cannot be told.
    fn record_of(&self, earlier: &Earlier, texts: Texts<'_>, at: SigningTime) -> Option<Record> {
        let mut own = self.keyring.keys_of(&earlier.domain);
        if let Some(key) = own.find(|key| key.signer.selector == earlier.selector && key.is_in_force(at)) {
            return Record::parse(&record::text_of(&key.signer.key)).ok();
        }
        match &*texts(&record::name_of(&earlier.domain, &earlier.selector)).ok()? {
            [text] => Record::parse(text).ok(),
            // Receivers take any of them (RFC 6376 §3.6.2.2).
            _ => None,
        }
    }

    fn no_key(&self, NoneInForce { domain }: &NoneInForce, clock: &Clock) -> Failure {
        let remedy = "give it a [[dkim]] that is in force, reload, then postrider queue kick --all";
        self.refuse(domain, "none of its DKIM keys is in force", remedy, clock)
    }

    /// The failure, and a word to the operator where that is not long since said.
    fn refuse(&self, domain: &str, why: &str, remedy: &str, clock: &Clock) -> Failure {
        let now = clock.steady();
        let told_at = self.told_at.iter().find(|(told, _)| told == domain).map(|(_, at)| at);
        let is_due = told_at.is_some_and(|at| {
            let last = at.load(Ordering::Relaxed);
            let is_old = now.saturating_sub(last) >= TELL_EVERY_SECS;
            is_old && at.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        });
        if is_due {
            log::error!(
                "mail of {domain} waits, since {why}, and it is not sent without a signature; {remedy}"
            );
        }
        Failure::Unsigned(format!("{why} ({domain})"))
    }
}

fn unreadable(error: io::Error) -> Failure {
    Failure::Content(error.to_string())
}

/// Of what is signed, and with which keys.
fn id_of<'h>(names: &str, hashes: impl Iterator<Item = &'h [u8; 32]>, header: &[u8]) -> SignedId {
    let mut context = Context::new(&SHA256);
    context.update(names.as_bytes());
    context.update(&[0]);
    // As many as there are names.
    hashes.for_each(|hash| context.update(hash));
    context.update(header);
    let mut id = SignedId::default();
    id.copy_from_slice(context.finish().as_ref());
    id
}

/// The beginning of the content, with all of the header and the empty line behind it in one piece; where the header has
/// no end in sight, as much as it is looked for.
fn with_whole_header<'c>(content: Content<'_, 'c>) -> io::Result<Cow<'c, [u8]>> {
    let mut begin = content()?.unwrap_or_default();
    let mut looked_at = 0;
    while begin.len() <= END_LOOKED_FOR_BYTES
        && !begin.starts_with(b"\r\n")
        && memmem::find(&begin[looked_at..], b"\r\n\r\n").is_none()
    {
        // The end may lie across two pieces.
        looked_at = begin.len().saturating_sub(3);
        let Some(more) = content()? else { break };
        begin.to_mut().extend_from_slice(&more);
    }
    Ok(begin)
}

/// The hashes of one body, in each way in which some signature has it.
struct BodyHashes<H>(Vec<(Canonicalization, H)>);

impl BodyHashes<BodyHash> {
    fn begin(wanted: impl Iterator<Item = Canonicalization>) -> BodyHashes<BodyHash> {
        let mut hashes: Vec<(Canonicalization, BodyHash)> = Vec::new();
        for body in wanted {
            if hashes.iter().all(|(known, _)| *known != body) {
                hashes.push((body, BodyHash::new(body)));
            }
        }
        BodyHashes(hashes)
    }

    fn feed(&mut self, piece: &[u8]) {
        self.0.iter_mut().for_each(|(_, hash)| hash.feed(piece));
    }

    fn finish(self) -> BodyHashes<[u8; 32]> {
        BodyHashes(self.0.into_iter().map(|(body, hash)| (body, hash.finish())).collect())
    }
}

impl BodyHashes<[u8; 32]> {
    fn of(&self, key: &SigningKey) -> Option<&[u8; 32]> {
        self.hash(key.signer.canonicalization.1)
    }

    fn hash(&self, wanted: Canonicalization) -> Option<&[u8; 32]> {
        self.0.iter().find(|(body, _)| *body == wanted).map(|(_, hash)| hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::dkim::{Algorithm, Key, Signer};
    use crate::queue::{MessageId, Origin};

    const NOW: i64 = 1_800_000_000;

    fn message() -> QueuedMessage {
        QueuedMessage {
            id: MessageId(1),
            sender: None,
            origin: Origin::default(),
            received_at: NOW,
            expires_at: None,
            size: 3,
            body: crate::mail::Body::SevenBit,
            smtputf8: false,
            ret: None,
            envid: None,
            handling: crate::mail::Handling::default(),
            recipients: Vec::new(),
            content: None,
        }
    }

    fn key(selector: &str, body: Canonicalization) -> SigningKey {
        let signer = Signer {
            domain: "example.com".to_owned(),
            selector: selector.to_owned(),
            key: Key::generate(Algorithm::Ed25519Sha256).unwrap(),
            canonicalization: (Canonicalization::Relaxed, body),
            expires_after: None,
        };
        SigningKey { signer, from: None, until: None, skip_signed: false }
    }

    fn signing_with(keys: Vec<SigningKey>) -> Signing {
        Signing::new(Arc::new(Keyring::new(keys, None)))
    }

    fn signing(until: Option<i64>) -> Signing {
        let keys = [key("s1", Canonicalization::Relaxed), key("s2", Canonicalization::Simple)];
        signing_with(keys.into_iter().map(|key| SigningKey { until, ..key }).collect())
    }

    fn sign(signing: &Signing, pieces: &[&[u8]]) -> Result<String, Failure> {
        let mut left = pieces.iter();
        let mut content = || Ok(left.next().map(|piece| Cow::Borrowed(*piece)));
        sign_at(signing, &mut content, &Clock::by_hand(NOW))
    }

    fn sign_at(signing: &Signing, content: Content<'_, '_>, clock: &Clock) -> Result<String, Failure> {
        let signature = signing.sign(&message(), content, &|_| Err(DnsError::NoData), clock)?;
        Ok(signature.fields.to_string())
    }

    #[test]
    fn a_signature_does_not_depend_on_the_pieces_in_which_the_content_comes() {
        let signing = signing(None);
        for mail in [
            &b"From: a@example.com\r\nTo: b\r\n\r\nbody \r\n.\r\n\r\n"[..],
            b"From: a@example.com\r\n\r\n",
            b"From: a@example.com\r\n",
            b"From: a@example.com",
            b"From: a@example.com\r\n\r\nno end",
        ] {
            let whole = sign(&signing, &[mail]).unwrap();
            assert_eq!(whole.matches("DKIM-Signature: ").count(), 2, "{whole}");
            assert!(whole.ends_with("\r\n"));
            for size in 1..mail.len() {
                let pieces: Vec<&[u8]> = mail.chunks(size).collect();
                assert_eq!(sign(&signing, &pieces).unwrap(), whole, "{size}");
            }
        }
    }

    #[test]
    fn a_header_without_an_end_is_neither_held_nor_signed_whole() {
        let mail = [&b"From: a@example.com\r\nno field\r\n"[..], &b"To:a\r\n".repeat(500_000)].concat();
        let signing = signing(None);
        let whole = sign(&signing, &[&mail]).unwrap();
        assert!(whole.len() < 1000 && whole.contains(" h=From:From;"), "{}", whole.len());
        for size in [4096, 256 << 10, END_LOOKED_FOR_BYTES, END_LOOKED_FOR_BYTES + 1] {
            let pieces: Vec<&[u8]> = mail.chunks(size).collect();
            assert_eq!(sign(&signing, &pieces).unwrap(), whole, "{size}");
            let mut left = pieces.iter();
            let begin =
                with_whole_header(&mut || Ok(left.next().map(|piece| Cow::Borrowed(*piece)))).unwrap();
            assert!(begin.len() <= END_LOOKED_FOR_BYTES + size, "{size}: {}", begin.len());
        }
    }

    #[test]
    fn what_nobody_signs_is_left_as_it_is() {
        assert_eq!(sign(&signing(None), &[b"From: a@b.test\r\n\r\n"]).unwrap(), "");
        assert_eq!(sign(&signing(None), &[b"\r\nFrom: a@example.com\r\n"]).unwrap(), "");
        assert_eq!(sign(&signing(None), &[]).unwrap(), "");
        // Without keys not even the content is asked for.
        let mut content = || Err(io::Error::other("asked"));
        let none = Signing::new(Arc::default());
        assert!(sign_at(&none, &mut content, &Clock::by_hand(NOW)).is_ok());
    }

    #[test]
    fn what_cannot_be_signed_is_no_mail_to_send() {
        let failure = sign(&signing(Some(NOW)), &[b"From: a@example.com\r\n\r\n"]).unwrap_err();
        assert!(matches!(&failure, Failure::Unsigned(why) if why.contains("example.com")), "{failure}");
        let mut content = || Err(io::Error::other("disk on fire"));
        let failure = sign_at(&signing(None), &mut content, &Clock::by_hand(NOW)).unwrap_err();
        assert!(matches!(failure, Failure::Content(_)), "{failure}");
    }

    /// Before a host is asked, by the header alone.
    #[test]
    fn it_is_known_from_the_header_that_no_key_is_in_force() {
        let check = |signing: &Signing, header: &[u8]| {
            let mut content = Some(Cow::Borrowed(header));
            signing.check(&message(), &mut || Ok(content.take()), &Clock::by_hand(NOW))
        };
        let (over, own) = (signing(Some(NOW)), b"From: a@example.com\r\n\r\n");
        assert!(matches!(check(&over, own), Err(Failure::Unsigned(_))));
        assert_eq!(check(&over, b"From: a@b.test\r\n\r\n"), Ok(()));
        assert_eq!(check(&signing(None), own), Ok(()));
        // What came signed may need no key, but that takes its body.
        let skips =
            SigningKey { skip_signed: true, until: Some(NOW), ..key("s1", Canonicalization::Relaxed) };
        let signed = sign(&signing(None), &[own]).unwrap();
        assert_eq!(check(&signing_with(vec![skips]), &[signed.as_bytes(), own].concat()), Ok(()));
    }

    #[test]
    fn an_operator_is_told_once_an_hour_whatever_is_done_to_the_clock() {
        let (signing, clock) = (signing(None), Clock::by_hand(NOW));
        let told = || signing.told_at[0].1.load(Ordering::Relaxed);
        let refuse = || drop(signing.refuse("example.com", "of a test", "end it", &clock));
        refuse();
        assert_eq!(told(), NOW);
        clock.step(-1_000_000);
        clock.advance(TELL_EVERY_SECS - 1);
        refuse();
        assert_eq!(told(), NOW);
        clock.advance(1);
        refuse();
        assert_eq!(told(), NOW + TELL_EVERY_SECS);
    }

    /// A clock that jumped ahead makes no signature of the future, and mail does not wait for its keys' sake.
    #[test]
    fn a_time_that_is_doubted_is_not_the_time_of_a_signature() {
        let (signing, clock) = (signing(Some(NOW + 9)), Clock::by_hand(NOW));
        clock.step(14 * 86_400);
        let mut mail = Some(Cow::Borrowed(&b"From: a@example.com\r\n\r\n"[..]));
        let fields = sign_at(&signing, &mut || Ok(mail.take()), &clock).unwrap();
        assert_eq!(fields.matches(&format!(" t={NOW};")).count(), 2, "{fields}");
    }

    #[test]
    fn mail_that_comes_with_a_signature_that_holds_is_left_as_it_is_where_that_is_wanted() {
        let (first, mail) = (signing(None), "From: a@example.com\r\nSubject: x\r\n\r\nbody\r\n");
        let signed = sign(&first, &[mail.as_bytes()]).unwrap() + mail;
        let own =
            || signing_with(vec![SigningKey { skip_signed: true, ..key("own", Canonicalization::Relaxed) }]);
        let text = record::text_of(&first.keyring.keys()[0].signer.key);
        let asked = AtomicI64::new(0);
        let is_signed = |signing: &Signing, mail: &str, texts: Texts<'_>| {
            let mut content = Some(Cow::Borrowed(mail.as_bytes()));
            let counted = |name: &str| {
                assert!(name.ends_with("._domainkey.example.com"), "{name}");
                asked.fetch_add(1, Ordering::Relaxed);
                texts(name)
            };
            let clock = Clock::by_hand(NOW);
            signing.sign(&message(), &mut || Ok(content.take()), &counted, &clock).unwrap().keys.is_some()
        };
        let of_first = |name: &str| {
            if name.starts_with("s1.") { Ok(vec![text.clone()]) } else { Err(DnsError::NoSuchDomain) }
        };
        assert!(!is_signed(&own(), &signed, &of_first));
        assert!(asked.swap(0, Ordering::Relaxed) >= 1);
        let with_other = record::text_of(&key("other", Canonicalization::Relaxed).signer.key);
        let refusals: [(&str, Texts<'_>); 5] = [
            ("nobody answers", &|_| Err(DnsError::Temporary("SERVFAIL".to_owned()))),
            ("no record", &|_| Err(DnsError::NoSuchDomain)),
            ("another key's", &|_| Ok(vec![with_other.clone()])),
            ("two records", &|_| Ok(vec![text.clone(), with_other.clone()])),
            ("no key", &|_| Ok(vec!["v=spf1 -all".to_owned()])),
        ];
        for (why, texts) in refusals {
            assert!(is_signed(&own(), &signed, texts), "{why}");
        }
        // What was changed is not asked for: its body tells.
        asked.store(0, Ordering::Relaxed);
        assert!(is_signed(&own(), &format!("{signed}more\r\n"), &of_first));
        assert_eq!(asked.swap(0, Ordering::Relaxed), 0);
        assert!(is_signed(&own(), &signed.replacen("Subject: x", "Subject: y", 1), &of_first));
        assert!(is_signed(&own(), mail, &of_first));
    }

    #[test]
    fn a_key_of_our_own_that_is_in_force_needs_no_record_to_be_known() {
        let skips = |until| SigningKey { skip_signed: true, until, ..key("s1", Canonicalization::Relaxed) };
        let signing = signing_with(vec![skips(None)]);
        let mail = "From: a@example.com\r\n\r\nbody\r\n";
        let signed = sign(&signing, &[mail.as_bytes()]).unwrap() + mail;
        assert_eq!(sign(&signing, &[signed.as_bytes()]).unwrap(), "");
        // It names our selector, and is not ours.
        let other = signing_with(vec![skips(None)]);
        assert_ne!(sign(&other, &[signed.as_bytes()]).unwrap(), "");
        // Of a key whose time is over the record counts.
        assert!(sign(&signing_with(vec![skips(Some(NOW))]), &[signed.as_bytes()]).is_err());
    }

    #[test]
    fn a_message_is_signed_once_in_a_while_and_anew_after_it_or_once_anything_differs() {
        let (signing, clock) = (signing(None), Clock::by_hand(NOW));
        let sign = |mail: &str| {
            let mut content = Some(Cow::Borrowed(mail.as_bytes()));
            sign_at(&signing, &mut || Ok(content.take()), &clock).unwrap()
        };
        let mail = "From: a@example.com\r\nSubject: x\r\n\r\nbody\r\n";
        let first = sign(mail);
        clock.advance(60);
        assert_eq!(sign(mail), first, "not made again: it has the time of then");
        for other in [
            mail.replace("body", "Body"),
            mail.replace("Subject: x", "Subject: y"),
            mail.replace("\r\nSubject", "\r\nX-Other: z\r\nSubject"),
        ] {
            assert!(sign(&other).contains(&format!(" t={};", NOW + 60)), "{other}");
        }
        clock.advance(241);
        assert!(sign(mail).contains(&format!(" t={};", NOW + 301)));
    }
}
