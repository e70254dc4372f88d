//! DKIM keys against DNS and the calendar: what would keep receivers from verifying, and mail from leaving.

use std::thread;

use super::Finding;
use crate::config::Settings;
use crate::delivery::route::lookup::{DnsError, Lookup};
use crate::kit::text::{day, utc};
use crate::mail::dkim::{Algorithm, Keyring, Record, SigningKey, record};

const ABOUT: &str = "dkim";
/// An end that is nearer is told.
const SOON_SECS: i64 = 14 * 86_400;
/// Names that are looked up at the same time.
const LOOKUPS_AT_ONCE: usize = 16;
/// RFC 8301 §3.2: verifiers need not take longer ones.
const RSA_BITS_MAX: usize = 4096;

/// All keys of the config.
pub(super) fn look_at(settings: &Settings, lookup: &(dyn Lookup + Sync), now: i64) -> Vec<Finding> {
    let keyring = &settings.delivery.keyring;
    let mut findings: Vec<Finding> =
        keyring.domains().into_iter().filter_map(|domain| coverage(keyring, domain, now)).collect();
    let keys: Vec<&SigningKey> = keyring.keys().iter().collect();
    findings.extend(keys.iter().zip(asked(&keys, lookup)).map(|(key, answer)| judged(key, &answer, now)));
    findings.extend(reports(settings));
    findings
}

/// What DNS says of each key.
pub(in crate::cli) fn asked(
    keys: &[&SigningKey],
    lookup: &(dyn Lookup + Sync),
) -> Vec<Result<Vec<String>, DnsError>> {
    let ask = |key: &SigningKey| lookup.txt(&record::name_of(&key.signer.domain, &key.signer.selector));
    let mut answers = Vec::with_capacity(keys.len());
    for keys in keys.chunks(LOOKUPS_AT_ONCE) {
        thread::scope(|scope| {
            let threads: Vec<_> = keys.iter().map(|key| scope.spawn(move || ask(key))).collect();
            let panicked = |_| Err(DnsError::Temporary("the look-up panicked".to_owned()));
            answers.extend(threads.into_iter().map(|thread| thread.join().unwrap_or_else(panicked)));
        });
    }
    answers
}

/// Whether the domain has always a key in force.
fn coverage(keyring: &Keyring, domain: &str, now: i64) -> Option<Finding> {
    let ends = keyring.runs_out(domain, now)?;
    if ends <= now {
        let text = format!(
            "no key of {domain} is in force: its mail waits; give a [[dkim]] of it another from or until, or make a \
             key (`postrider dkim new {domain}`)"
        );
        return Some(Finding::problem(ABOUT, text));
    }
    (ends - now < SOON_SECS).then(|| {
        let text = format!(
            "from {} on no key of {domain} is in force, and its mail waits; make the next one (`postrider dkim new \
             {domain}`)",
            utc(ends)
        );
        Finding::warning(ABOUT, text)
    })
}

/// A key, by what DNS says of it.
pub(in crate::cli) fn judged(key: &SigningKey, answer: &Result<Vec<String>, DnsError>, now: i64) -> Finding {
    let name = key.name();
    let is_over = key.until.is_some_and(|until| until <= now);
    let kind = kind(key);
    let record = match answer {
        Err(DnsError::Temporary(why)) => {
            return Finding::warning(
                ABOUT,
                format!("{name} ({kind}): its record cannot be looked up: {why}"),
            );
        }
        Err(DnsError::NoSuchDomain | DnsError::NoData) => Err("there is no record".to_owned()),
        Ok(records) => read(key, records),
    };
    let line = record::zone_line(&key.signer.domain, &key.signer.selector, &key.signer.key);
    match record {
        Err(why) if is_over => Finding::ok(ABOUT, format!("{name} ({kind}) is over; {why}")),
        // It signs later, or nothing leaves with it that anybody could verify.
        Err(why) if !key.is_in_force(now) => {
            Finding::warning(ABOUT, format!("{name} ({kind}): {why}; publish before it signs: {line}"))
        }
        Err(why) => Finding::problem(ABOUT, format!("{name} ({kind}): {why}; publish: {line}")),
        Ok(record) if record.flags.iter().any(|flag| flag == "y") => {
            let text = format!(
                "{name} ({kind}): t=y in the record says that the domain is only trying, and receivers may take its \
                 mail for unsigned; publish: {line}"
            );
            Finding::warning(ABOUT, text)
        }
        Ok(_)
            if key.signer.key.algorithm() == Algorithm::RsaSha256 && key.signer.key.bits() > RSA_BITS_MAX =>
        {
            let text = format!(
                "{name} ({kind}): not every receiver verifies keys of more than {RSA_BITS_MAX} bits, nor gets an answer \
                 of DNS that is so long; make one of 2048 bits (`postrider dkim new {}`)",
                key.signer.domain
            );
            Finding::warning(ABOUT, text)
        }
        Ok(_) => Finding::ok(ABOUT, format!("{name} ({kind}): DNS has its record")),
    }
}

/// The one record that verifiers use (RFC 6376 §3.6.2.2).
fn read(key: &SigningKey, records: &[String]) -> Result<Record, String> {
    let [text] = records else {
        return Err(format!(
            "there are {} TXT records, and verifiers may take any; remove all but one",
            records.len()
        ));
    };
    let record = Record::parse(text).map_err(|error| format!("the record is no good: {error}"))?;
    record.judge(&key.signer.key).map(|()| record)
}

/// `rsa 2048, until 2027-06-01`.
pub(in crate::cli) fn kind(key: &SigningKey) -> String {
    let mut text = key.signer.key.algorithm().key_type().to_owned();
    if key.signer.key.algorithm() == Algorithm::RsaSha256 {
        text += &format!(" {}", key.signer.key.bits());
    }
    for (word, at) in [("from", key.from), ("until", key.until)] {
        text += &at.map(|at| format!(", {word} {}", day(at))).unwrap_or_default();
    }
    text
}

/// Bounces and other reports are by `hostname`.
fn reports(settings: &Settings) -> Option<Finding> {
    let (keyring, hostname) = (&settings.delivery.keyring, settings.hostname.as_str());
    let is_unsigned = !keyring.is_empty() && keyring.domain_of([hostname]).is_none();
    is_unsigned.then(|| {
        let text = format!(
            "bounces come from {hostname}, which has no key, nor has a domain above it: they are not signed; name a \
             host of a domain that has one in hostname, or give [delivery] sign_as"
        );
        Finding::warning(ABOUT, text)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::check::Level;
    use crate::mail::dkim::{Canonicalization, Key, Signer};

    const NOW: i64 = 1_800_000_000;
    const DAY: i64 = 86_400;

    fn key(from: Option<i64>, until: Option<i64>) -> SigningKey {
        let signer = Signer {
            domain: "example.com".to_owned(),
            selector: "s1".to_owned(),
            key: Key::generate(Algorithm::Ed25519Sha256).unwrap(),
            canonicalization: (Canonicalization::Relaxed, Canonicalization::Relaxed),
            expires_after: None,
        };
        SigningKey { signer, from, until, skip_signed: false }
    }

    #[test]
    fn each_state_of_dns_is_told_apart_and_the_record_is_there_to_paste() {
        let key = key(None, None);
        let good = record::text_of(&key.signer.key);
        let other = record::text_of(&Key::generate(Algorithm::Ed25519Sha256).unwrap());
        let line = record::zone_line("example.com", "s1", &key.signer.key);
        let huge = format!("v=DKIM1; k=ed25519; n={}; p=AAAA", "x".repeat(4096));
        for (answer, level, words) in [
            (Ok(vec![good.clone()]), Level::Ok, "DNS has its record"),
            (Err(DnsError::NoSuchDomain), Level::Problem, "there is no record"),
            (Err(DnsError::NoData), Level::Problem, "there is no record"),
            (Err(DnsError::Temporary("late".to_owned())), Level::Warning, "cannot be looked up: late"),
            (Ok(vec![good.clone(), "v=spf1 -all".to_owned()]), Level::Problem, "2 TXT records"),
            (Ok(vec!["v=spf1 -all".to_owned()]), Level::Problem, "v= is not DKIM1"),
            (Ok(vec![good.replace("ed25519", "rsa")]), Level::Problem, "k= is rsa"),
            (Ok(vec!["v=DKIM1; k=ed25519; p=".to_owned()]), Level::Problem, "withdrawn"),
            (Ok(vec!["v=DKIM1; k=ed25519; p=A B\\;".to_owned()]), Level::Problem, "p= is damaged"),
            (Ok(vec!["\u{fffd}".repeat(1000)]), Level::Problem, "no list of tags"),
            (Ok(vec![other]), Level::Problem, "another key's"),
            (Ok(vec![huge]), Level::Problem, "another key's"),
            (Ok(vec![good.replace("k=", "t=y; k=")]), Level::Warning, "t=y"),
        ] {
            let finding = judged(&key, &answer, NOW);
            assert_eq!(finding.level, level, "{answer:?}: {}", finding.text);
            assert!(finding.text.contains(words), "{answer:?}: {}", finding.text);
            let is_remedy_there = finding.text.contains(&line);
            assert!(is_remedy_there || !finding.text.contains("publish"), "{}", finding.text);
            assert!(level != Level::Problem || is_remedy_there, "{}", finding.text);
        }
    }

    #[test]
    fn a_key_of_later_is_missed_and_one_that_is_over_is_not() {
        let none = Err(DnsError::NoSuchDomain);
        let level = |from, until| judged(&key(from, until), &none, NOW).level;
        assert_eq!(level(Some(NOW + 1), None), Level::Warning);
        assert_eq!(level(None, Some(NOW)), Level::Ok);
        assert_eq!(level(None, Some(NOW + 1)), Level::Problem);
    }

    #[test]
    fn the_end_of_the_last_key_is_told_two_weeks_before() {
        let level = |keys: Vec<SigningKey>| {
            coverage(&Keyring::new(keys, None), "example.com", NOW).map(|finding| finding.level)
        };
        assert_eq!(level(vec![key(None, None)]), None);
        assert_eq!(level(vec![key(None, Some(NOW + 15 * DAY))]), None);
        assert_eq!(level(vec![key(None, Some(NOW + 13 * DAY))]), Some(Level::Warning));
        assert_eq!(level(vec![key(None, Some(NOW + 13 * DAY)), key(Some(NOW + DAY), None)]), None);
        assert_eq!(level(vec![key(None, Some(NOW))]), Some(Level::Problem));
        assert_eq!(level(vec![key(Some(NOW + DAY), None)]), Some(Level::Problem));
    }
}
