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
    let domain = question.domain.as_str();
    let (keyring, now) = (&settings.delivery.keyring, Clock::system().now());
    let mut findings = config_of(loaded);
    thread::scope(|scope| {
        let reverse = scope.spawn(|| reverse::look_at(names, sending));
        let spf = scope.spawn(|| spf::look_at(names, domain, sending));
        let dmarc = scope.spawn(|| dmarc::look_at(names, domain));
        let dkim = scope.spawn(|| dkim::look_at(names, keyring, domain, now));
        let mx = scope.spawn(|| mx::look_at(names, domain));
        let sts = scope.spawn(|| {
            let until = (now, began + HOSTS_UNTIL);
            mta_sts::look_at(names, resolver, &settings.delivery, domain, until)
        });
        let tlsa = scope.spawn(|| tlsa::look_at(names, domain));
        let port25 = scope.spawn(|| {
            let to = question.to.as_ref()?;
            Some(port25::look_at(names, settings, to, began + HOSTS_UNTIL))
        });
        findings.extend(sending.findings());
        for part in [reverse, spf, dkim] {
            findings.extend(part.join().unwrap_or_default());
        }
        let (dmarc, policy) = dmarc.join().ok().unzip();
        findings.extend(dmarc);
        let signer = keyring.domain_of([domain]);
        findings.extend(signer.map(|signer| alignment::judge(domain, signer, policy.flatten().as_ref())));
        for part in [mx, sts, tlsa] {
            findings.extend(part.join().unwrap_or_default());
        }
        findings.extend(port25.join().ok().flatten().unwrap_or_default());
    });
    if let Some(tls) = &settings.submission.tls {
        findings.extend(certificate::look_at(tls, &settings.hostname));
    }
    Ok(findings)
}
