//! DKIM keys against DNS and the calendar: what would keep receivers from verifying, and mail from leaving.

use std::thread;

use super::finding::txt_line;
use super::{Finding, lines};
use crate::config::Settings;
use crate::delivery::route::lookup::{DnsError, Lookup};
use crate::kit::text::{day, utc};
use crate::mail::dkim::record::{self, zone_line};
use crate::mail::dkim::{Algorithm, Keyring, Record, SigningKey};

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
    let of_keys = keys.iter().zip(asked(&keys, lookup)).map(|(key, answer)| judged(key, &answer, now));
    findings.extend(lines::placed(lookup, of_keys.collect()));
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

/// The same of an answer of DNS. Of a key that is over nothing has to be there.
pub(in crate::cli) fn judged(key: &SigningKey, answer: &Result<Vec<String>, DnsError>, now: i64) -> Finding {
    if key.until.is_some_and(|until| until <= now) {
        return Finding::ok(ABOUT, format!("{} ({}) is over", key.name(), kind(key)));
    }
    let found = match answer {
        Ok(records) => Ok(records.clone()),
        Err(DnsError::NoSuchDomain | DnsError::NoData) => Ok(Vec::new()),
        Err(DnsError::Temporary(why) | DnsError::Bogus(why)) => Err(why.clone()),
    };
    judge(key, found, now)
}

/// A key, by the TXT records of its name; the lines that must go and come are with it.
pub(super) fn judge(key: &SigningKey, found: Result<Vec<String>, String>, now: i64) -> Finding {
    let name = &record::name_of(&key.signer.domain, &key.signer.selector);
    let texts = match found {
        Ok(texts) => texts,
        Err(why) => return Finding::warning(ABOUT, format!("{name} cannot be looked up: {why}")),
    };
    let key_type = key.signer.key.algorithm().key_type();
    let judged = |text: &String| match Record::parse(text) {
        Ok(record) => record.judge(&key.signer.key).map(|()| record),
        Err(error) => Err(error.to_string()),
    };
    let good = texts.iter().find_map(|text| Some((text, judged(text).ok()?)));
    let trouble = match (&good, &texts[..]) {
        (Some((_, record)), [_]) if record.flags.iter().any(|flag| flag == "y") => {
            let text = format!(
                "{name} says t=y: some verifiers treat a domain that tests as one that does not sign"
            );
            let finding = Finding::warning(ABOUT, text).remove(txt_line(name, &texts[0]));
            return finding.add(zone_line(&key.signer.domain, &key.signer.selector, &key.signer.key));
        }
        (Some(_), [_]) if is_too_long(key) => {
            let text = format!(
                "{name}: not every verifier takes an RSA key of more than {RSA_BITS_MAX} bits, nor gets an answer of DNS \
                 that is so long; make one of 2048 (`postrider dkim new {}`)",
                key.signer.domain
            );
            return Finding::warning(ABOUT, text);
        }
        (Some(_), [_]) => return Finding::ok(ABOUT, format!("{name} has our key ({key_type})")),
        (None, []) => "has no record".to_owned(),
        (None, [one]) => judged(one).err().unwrap_or_default(),
        (_, [..]) => "has several records, and verifiers take any one of them (RFC 6376 §3.6.2.2)".to_owned(),
    };
    let finding = match key.from.filter(|from| now < *from) {
        Some(from) => {
            let text = format!("{name}: {trouble}; the key ({key_type}) signs from {} on", day(from));
            Finding::warning(ABOUT, text)
        }
        None => {
            let who = if good.is_some() { "some receivers cannot" } else { "nobody can" };
            let text = format!("{name}: {trouble}; {who} verify what the key ({key_type}) signs");
            Finding::problem(ABOUT, text)
        }
    };
    let kept = good.as_ref().map(|(text, _)| *text);
    let gone = texts.iter().filter(|text| Some(*text) != kept);
    let finding = gone.fold(finding, |finding, text| finding.remove(txt_line(name, text)));
    match kept {
        Some(_) => finding,
        None => finding.add(zone_line(&key.signer.domain, &key.signer.selector, &key.signer.key)),
    }
}

fn is_too_long(key: &SigningKey) -> bool {
    let key = &key.signer.key;
    key.algorithm() == Algorithm::RsaSha256 && key.bits() > RSA_BITS_MAX
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
            (Ok(vec![good.clone()]), Level::Ok, "has our key"),
            (Err(DnsError::NoSuchDomain), Level::Problem, "has no record"),
            (Err(DnsError::NoData), Level::Problem, "has no record"),
            (Err(DnsError::Temporary("late".to_owned())), Level::Warning, "cannot be looked up: late"),
            (Ok(vec!["v=spf1 -all".to_owned()]), Level::Problem, "v= is not DKIM1"),
            (Ok(vec![good.replace("ed25519", "rsa")]), Level::Problem, "k= is rsa"),
            (Ok(vec!["v=DKIM1; k=ed25519; p=".to_owned()]), Level::Problem, "withdrawn"),
            (Ok(vec!["v=DKIM1; k=ed25519; p=A B\\;".to_owned()]), Level::Problem, "p= is damaged"),
            (Ok(vec!["\u{fffd}".repeat(1000)]), Level::Problem, "no list of tags"),
            (Ok(vec![good.replacen("k=", "s=tlsrpt; k=", 1)]), Level::Problem, "s= leaves out email"),
            (Ok(vec![format!("{good}; k=ed25519")]), Level::Problem, "k= stands there twice"),
            (Ok(vec![other.clone()]), Level::Problem, "another key's"),
            (Ok(vec![other, huge]), Level::Problem, "several records"),
            (Ok(vec![good.replacen("k=", "t=y; k=", 1)]), Level::Warning, "t=y"),
        ] {
            let finding = judged(&key, &answer, NOW);
            assert_eq!(finding.level, level, "{answer:?}: {}", finding.text);
            assert!(finding.text.contains(words), "{answer:?}: {}", finding.text);
            assert_eq!(finding.add.contains(&line), level == Level::Problem || words == "t=y", "{finding:?}");
            let records = answer.unwrap_or_default();
            let gone = if finding.add.is_empty() { 0 } else { records.len() };
            assert_eq!(finding.remove.len(), gone, "{finding:?}");
        }
        // Beside the right one the others must go, and nothing has to come.
        let finding = judged(&key, &Ok(vec![good, "v=spf1 -all".to_owned()]), NOW);
        assert_eq!((finding.level, finding.remove.len(), finding.add.len()), (Level::Problem, 1, 0));
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
