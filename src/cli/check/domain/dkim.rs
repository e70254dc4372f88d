//! The keys that sign mail of the domain, before their records: what verifiers will find.

use std::thread;

use super::super::Finding;
use super::super::finding::txt_line;
use super::lookups::{InTime, or_none};
use crate::delivery::route::lookup::Lookup as _;
use crate::kit::text::day;
use crate::mail::dkim::record::zone_line;
use crate::mail::dkim::{Keyring, Record, SigningKey};

const ABOUT: &str = "dkim";

pub(super) fn look_at(names: &InTime<'_>, keyring: &Keyring, domain: &str, now: i64) -> Vec<Finding> {
    let Some(signer) = keyring.domain_of([domain]) else {
        let text = format!(
            "Postrider does not sign mail of {domain}; unless the application does, make a key: `postrider dkim new \
             {domain}`"
        );
        return vec![Finding::warning(ABOUT, text)];
    };
    let mut findings = Vec::new();
    if keyring.in_force(signer, now).is_err() {
        let text = format!(
            "{signer} has keys and none is in force, so its mail is held; see from and until in [[dkim]], or make one: \
             `postrider dkim new {signer}`"
        );
        findings.push(Finding::problem(ABOUT, text));
    }
    let is_over = |key: &&SigningKey| key.until.is_some_and(|until| until <= now);
    thread::scope(|scope| {
        let keys = keyring.keys_of(signer).filter(|key| !is_over(key));
        let parts: Vec<_> = keys.map(|key| scope.spawn(move || of(names, key, now))).collect();
        findings.extend(parts.into_iter().filter_map(|part| part.join().ok()));
    });
    findings
}

fn of(names: &InTime<'_>, key: &SigningKey, now: i64) -> Finding {
    let name = format!("{}._domainkey.{}", key.signer.selector, key.signer.domain);
    judge(key, &name, or_none(names.txt(&name)), now)
}

fn judge(key: &SigningKey, name: &str, found: Result<Vec<String>, String>, now: i64) -> Finding {
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
            let text = format!("{name}: {trouble}; nobody can verify what the key ({key_type}) signs");
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
