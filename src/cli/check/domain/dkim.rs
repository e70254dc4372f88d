//! The keys that sign mail of the domain, before their records: what verifiers will find.

use std::thread;

use super::super::Finding;
use super::super::dkim::judge;
use super::joined;
use super::lookups::{InTime, or_none};
use crate::delivery::route::lookup::Lookup as _;
use crate::mail::dkim::{Keyring, SigningKey, record};

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
            "{signer} has keys and none is in force, so its mail waits; see from and until in [[dkim]], or make one: \
             `postrider dkim new {signer}`"
        );
        findings.push(Finding::problem(ABOUT, text));
    }
    let is_over = |key: &&SigningKey| key.until.is_some_and(|until| until <= now);
    thread::scope(|scope| {
        let keys = keyring.keys_of(signer).filter(|key| !is_over(key));
        let parts: Vec<_> = keys.map(|key| scope.spawn(move || of(names, key, now))).collect();
        findings.extend(parts.into_iter().map(joined));
    });
    findings
}

fn of(names: &InTime<'_>, key: &SigningKey, now: i64) -> Finding {
    let name = record::name_of(&key.signer.domain, &key.signer.selector);
    judge(key, or_none(names.txt(&name)), now)
}
