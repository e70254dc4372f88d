//! Signs mail (DKIM, RFC 6376) as it is handed over: the fields that go before the content.
//!
//! A signature is made in the attempt that needs it, once its host has answered, and serves all hosts and transactions
//! of that attempt: so it is always by a key that is in force, however long the message waited. It covers what the
//! queue has, which is what goes over the wire: header and line ends were mended before the message was taken; doubled
//! dots are gone before anybody verifies; and a last line without an end has the same hash as one with it (RFC 6376
//! §3.4.3), should anybody on the way end it. Of the content nothing is kept: the body is read once more for its hash.
//!
//! A domain that has keys sends nothing without a signature: where none can be made its mail waits, and the operator is
//! told.

use std::borrow::Cow;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use memchr::memmem;

use crate::clock::Clock;
use crate::mail::Domain;
use crate::mail::dkim::{BodyHash, Canonicalization, Keyring, NoneInForce, SigningTime};
use crate::mail::header::header_of;
use crate::queue::QueuedMessage;

use crate::delivery::smtp::connection::Content;
use crate::delivery::smtp::failure::Failure;

/// An operator is told of the same domain once in so many seconds.
const TELL_EVERY_SECS: i64 = 3600;

/// The keys, and which domains' trouble the operator was told of.
pub struct Signing {
    keyring: Arc<Keyring>,
    /// Each domain that has keys, and when its trouble was told last, in steady seconds.
    told_at: Vec<(String, AtomicI64)>,
}

/// What is put before the content: DKIM-Signature fields with their line ends, none for mail that nobody signs.
#[derive(Debug, Default)]
pub(in crate::delivery) struct Signature {
    pub(in crate::delivery) fields: String,
    /// The keys that made them, as `attempts.dkim` and the log have it.
    pub(in crate::delivery) keys: Option<Arc<str>>,
}

impl Signing {
    /// With these keys.
    pub fn new(keyring: Arc<Keyring>) -> Signing {
        let told_at =
            keyring.domains().into_iter().map(|domain| (domain.to_owned(), AtomicI64::new(i64::MIN)));
        Signing { told_at: told_at.collect(), keyring }
    }

    /// Signs a message with all keys that are its authors' and in force.
    ///
    /// # Errors
    /// It has to be signed and cannot be, or its content cannot be read.
    pub(in crate::delivery) fn sign(
        &self,
        message: &QueuedMessage,
        content: Content<'_, '_>,
        clock: &Clock,
    ) -> Result<Signature, Failure> {
        if self.keyring.is_empty() {
            return Ok(Signature::default());
        }
        let unreadable = |error: io::Error| Failure::Content(error.to_string());
        let begin = with_whole_header(content).map_err(unreadable)?;
        let header = header_of(&begin);
        let sender = message.sender.as_ref().map(|sender| Domain::of(sender).to_string());
        let Some(to_sign) = self.keyring.to_sign(header, sender.as_deref()) else {
            return Ok(Signature::default());
        };
        // Behind the empty line.
        let mut hashes = BodyHashes::of(to_sign.hashed());
        hashes.feed(begin.get(header.len() + 2..).unwrap_or_default());
        while let Some(piece) = content().map_err(unreadable)? {
            hashes.feed(&piece);
        }
        let hashes = hashes.finish();
        let at = SigningTime::between(clock.confirmed(), clock.now());
        let signers = to_sign.signers(|body| hashes.hash(body), at).map_err(|NoneInForce { domain }| {
            self.refuse(&domain, "none of its DKIM keys is in force", clock)
        })?;
        let (mut fields, mut names) = (String::new(), Vec::new());
        for key in signers {
            let hash = hashes.hash(key.signer.canonicalization.1);
            let signed = hash.and_then(|hash| key.signer.sign(header, hash, at));
            let why = || format!("the crypto library could not sign with {}", key.name());
            fields += &signed.ok_or_else(|| self.refuse(&key.signer.domain, &why(), clock))?;
            names.push(key.name());
        }
        let keys = (!names.is_empty()).then(|| names.join(",").into());
        Ok(Signature { fields, keys })
    }

    /// The failure, and a word to the operator where that is not long since said.
    fn refuse(&self, domain: &str, why: &str, clock: &Clock) -> Failure {
        let now = clock.steady();
        let told_at = self.told_at.iter().find(|(told, _)| told == domain).map(|(_, at)| at);
        let is_due = told_at.is_some_and(|at| {
            let last = at.load(Ordering::Relaxed);
            let is_old = now.saturating_sub(last) >= TELL_EVERY_SECS;
            is_old && at.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        });
        if is_due {
            log::error!(
                "mail of {domain} waits, since {why}, and it is not sent without a signature; give it a [[dkim]] that is \
                 in force, reload, then postrider queue kick --all"
            );
        }
        Failure::Unsigned(format!("{why} ({domain})"))
    }
}

/// The beginning of the content, with all of the header and the empty line behind it in one piece.
fn with_whole_header<'c>(content: Content<'_, 'c>) -> io::Result<Cow<'c, [u8]>> {
    let mut begin = content()?.unwrap_or_default();
    let mut looked_at = 0;
    while !begin.starts_with(b"\r\n") && memmem::find(&begin[looked_at..], b"\r\n\r\n").is_none() {
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
    fn of(wanted: impl Iterator<Item = Canonicalization>) -> BodyHashes<BodyHash> {
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
    fn hash(&self, wanted: Canonicalization) -> Option<&[u8; 32]> {
        self.0.iter().find(|(body, _)| *body == wanted).map(|(_, hash)| hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::dkim::{Algorithm, Key, Signer, SigningKey};
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

    fn signing(until: Option<i64>) -> Signing {
        use Canonicalization::{Relaxed, Simple};
        let key = |selector: &str, body| SigningKey {
            signer: Signer {
                domain: "example.com".to_owned(),
                selector: selector.to_owned(),
                key: Key::generate(Algorithm::Ed25519Sha256).unwrap(),
                canonicalization: (Relaxed, body),
                expires_after: None,
            },
            from: None,
            until,
            skip_signed: false,
        };
        Signing::new(Arc::new(Keyring::new(vec![key("s1", Relaxed), key("s2", Simple)], None)))
    }

    fn sign(signing: &Signing, pieces: &[&[u8]]) -> Result<String, Failure> {
        let mut left = pieces.iter();
        let mut content = || Ok(left.next().map(|piece| Cow::Borrowed(*piece)));
        signing.sign(&message(), &mut content, &Clock::by_hand(NOW)).map(|signature| signature.fields)
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
    fn what_nobody_signs_is_left_as_it_is() {
        assert_eq!(sign(&signing(None), &[b"From: a@b.test\r\n\r\n"]).unwrap(), "");
        assert_eq!(sign(&signing(None), &[b"\r\nFrom: a@example.com\r\n"]).unwrap(), "");
        assert_eq!(sign(&signing(None), &[]).unwrap(), "");
        // Without keys not even the content is asked for.
        let mut content = || Err(io::Error::other("asked"));
        let none = Signing::new(Arc::default());
        assert!(none.sign(&message(), &mut content, &Clock::by_hand(NOW)).is_ok());
    }

    #[test]
    fn what_cannot_be_signed_is_no_mail_to_send() {
        let failure = sign(&signing(Some(NOW)), &[b"From: a@example.com\r\n\r\n"]).unwrap_err();
        assert!(matches!(&failure, Failure::Unsigned(why) if why.contains("example.com")), "{failure}");
        let mut content = || Err(io::Error::other("disk on fire"));
        let failure = signing(None).sign(&message(), &mut content, &Clock::by_hand(NOW)).unwrap_err();
        assert!(matches!(failure, Failure::Content(_)), "{failure}");
    }

    #[test]
    fn an_operator_is_told_once_an_hour_whatever_is_done_to_the_clock() {
        let (signing, clock) = (signing(None), Clock::by_hand(NOW));
        let told = || signing.told_at[0].1.load(Ordering::Relaxed);
        let refuse = || drop(signing.refuse("example.com", "of a test", &clock));
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
        let fields = signing.sign(&message(), &mut || Ok(mail.take()), &clock).unwrap().fields;
        assert_eq!(fields.matches(&format!(" t={NOW};")).count(), 2, "{fields}");
    }
}
