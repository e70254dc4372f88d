//! `postrider check --domain`: what receivers will think of mail from this domain, and the exact lines that mend it.
//!
//! Each kind of finding is a file below and decides from what it is told; all look at the same time. Look-ups begin in
//! the first two seconds and take two each, a host has until [`HOSTS_UNTIL`], and QUIT one second: nothing that hangs
//! keeps the answer from coming within five seconds. What could not be asked is a warning, never a problem.

mod alignment;
mod dkim;
mod dmarc;
mod lines;
mod lookups;
mod mta_sts;
mod mx;
mod port25;
mod probes;
mod reverse;
mod sending;
mod spf;
mod tlsa;

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::{Finding, Question, certificate, config_of};
use crate::clock::Clock;
use crate::config::{DnsSettings, Loaded};
use crate::delivery::route::dns::Resolver;
use lookups::InTime;
use sending::Sending;

/// One look-up, all its tries together.
const LOOKUP_WAIT: Duration = Duration::from_secs(2);
/// When the last one begins.
const LOOKUPS_BEGIN_UNTIL: Duration = Duration::from_secs(2);
/// When hosts must have said what they have to say, QUIT apart.
const HOSTS_UNTIL: Duration = Duration::from_millis(3500);

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
            let (finding, policy) = dmarc::look_at(names, domain);
            (placed(vec![finding]), policy)
        });
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
            let to = question.to.as_ref()?;
            Some(port25::look_at(names, settings, to, until))
        });
        findings.extend(sending.findings());
        for part in [reverse, spf, dkim] {
            findings.extend(part.join().unwrap_or_default());
        }
        let (dmarc, policy) = dmarc.join().unwrap_or_default();
        findings.extend(dmarc);
        let aligned = alignment::judge(domain, keyring.domain_of([domain]), sender, policy.as_ref());
        findings.extend(placed(aligned));
        for part in [mx, bounces, sts, tlsa] {
            findings.extend(part.join().unwrap_or_default());
        }
        findings.extend(port25.join().ok().flatten().unwrap_or_default());
    });
    if let Some(tls) = &settings.submission.tls {
        findings.extend(certificate::look_at(tls, &settings.hostname));
    }
    Ok(findings)
}
