//! `postrider check --domain`: what receivers will think of mail from this domain, and the exact lines that mend it.
//!
//! Each kind of finding is a file below and decides from what it is told; all look at the same time. Look-ups begin in
//! the first two seconds and take two each, a host has until [`HOSTS_UNTIL`], and QUIT one second: nothing that hangs
//! keeps the answer from coming within five seconds. What could not be asked is a warning, never a problem.

mod alignment;
mod dkim;
mod dmarc;
mod lookups;
mod mta_sts;
mod mx;
mod port25;
mod probes;
mod reverse;
mod sending;
mod spf;
mod tlsa;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};
use std::{io, panic};

use super::{Finding, Question, certificate, config_of, lines};
use crate::clock::Clock;
use crate::config::{DnsSettings, Loaded};
use crate::delivery::route::dns::Resolver;
use dmarc::Holds;
use lookups::InTime;
use sending::Sending;
pub(super) use sending::is_private;

/// One look-up, all its tries together.
const LOOKUP_WAIT: Duration = Duration::from_secs(2);
/// When the last one begins.
const LOOKUPS_BEGIN_UNTIL: Duration = Duration::from_secs(2);
/// When hosts must have said what they have to say, QUIT apart.
const HOSTS_UNTIL: Duration = Duration::from_millis(3500);

/// What the part of a part found; its panic is one of the whole.
fn joined<T>(part: ScopedJoinHandle<'_, T>) -> T {
    part.join().unwrap_or_else(|panic| panic::resume_unwind(panic))
}

/// What a part found. Its panic is a finding: one that is missing must not look like nothing to find.
fn told(about: &'static str, part: ScopedJoinHandle<'_, Vec<Finding>>) -> Vec<Finding> {
    part.join().unwrap_or_else(|_| vec![stopped(about)])
}

fn stopped(about: &'static str) -> Finding {
    Finding::problem(about, "nothing is known of it: Postrider has a fault here; please report it".to_owned())
}

/// Looks at everything at the same time; the findings in the order in which they are best mended.
///
/// # Errors
/// When the system gives no thread for look-ups.
pub(super) fn look_at(loaded: &Loaded, question: &Question) -> io::Result<Vec<Finding>> {
    let began = Instant::now();
    let settings = &loaded.settings;
    let timeout = settings.dns.timeout.min(LOOKUP_WAIT);
    let resolver = &Arc::new(Resolver::new(&DnsSettings { timeout, ..settings.dns.clone() })?);
    let names = &InTime::new(resolver, began + LOOKUPS_BEGIN_UNTIL);
    let sending = &Sending::of(settings, question);
    let (domain, sender) = (question.domain.as_str(), question.sender.as_str());
    let (keyring, now) = (&settings.delivery.keyring, Clock::system().now());
    let until = began + HOSTS_UNTIL;
    let delivery = &settings.delivery;
    let mut findings = config_of(loaded);
    thread::scope(|scope| {
        let placed = |found: Vec<Finding>| lines::placed(names, found);
        let reverse = scope.spawn(move || placed(reverse::look_at(names, sending)));
        let spf = scope.spawn(move || placed(spf::look_at(names, sender, sending)));
        let dmarc = scope.spawn(move || {
            let (findings, holds, organisation) = dmarc::look_at(names, domain);
            (placed(findings), holds, organisation)
        });
        let signer = keyring.domain_of([domain]);
        let others: BTreeSet<&str> =
            signer.into_iter().chain([sender]).filter(|other| *other != domain).collect();
        let others: Vec<_> = others
            .into_iter()
            .map(|other| (other, scope.spawn(move || dmarc::organisation_of(names, other))))
            .collect();
        let dkim = scope.spawn(move || placed(dkim::look_at(names, keyring, domain, now)));
        // Answers come to the one, and bounces to the other.
        let mx = scope.spawn(move || placed(mx::look_at(names, domain)));
        let bounces = scope.spawn(move || match sender == domain {
            true => Vec::new(),
            false => placed(mx::look_at(names, sender)),
        });
        let sts = scope.spawn(move || mta_sts::look_at(names, resolver, delivery, domain, (now, until)));
        let tlsa = scope.spawn(move || tlsa::look_at(names, delivery, domain, until));
        let port25 = scope.spawn(move || {
            let to = question.to.as_ref();
            to.map(|to| port25::look_at(names, settings, to, until)).unwrap_or_default()
        });
        findings.extend(sending.findings());
        for (about, part) in [("reverse name", reverse), ("spf", spf), ("dkim", dkim)] {
            findings.extend(told(about, part));
        }
        let unknown = |_| (vec![stopped("dmarc")], Holds::Unknown, None);
        let (dmarc, holds, own) = dmarc.join().unwrap_or_else(unknown);
        findings.extend(dmarc);
        let mut organisations: Vec<_> = own.map(|own| (domain.to_owned(), own)).into_iter().collect();
        for (other, part) in others {
            organisations.extend(part.join().ok().flatten().map(|found| (other.to_owned(), found)));
        }
        findings.extend(placed(alignment::judge(domain, signer, sender, (&holds, &organisations))));
        for (about, part) in
            [("mx", mx), ("mx", bounces), ("mta-sts", sts), ("tlsa", tlsa), ("hosts", port25)]
        {
            findings.extend(told(about, part));
        }
    });
    if let Some(tls) = &settings.submission.tls {
        findings.extend(certificate::look_at(tls, &settings.hostname));
    }
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    #[test]
    fn a_part_that_panics_is_a_problem() {
        let found = thread::scope(|scope| {
            let inner = || thread::scope(|scope| joined(scope.spawn(|| panic!("of the test"))));
            told("mx", scope.spawn(inner))
        });
        assert_eq!((found.len(), found[0].level, found[0].about), (1, Level::Problem, "mx"));
    }
}
