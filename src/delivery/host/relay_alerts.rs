//! Relays that do not let us in: said loudly, once, and not for each message that waits for it.
//!
//! What a relay refuses before it takes mail (our login, our certificate check, us) is about the configuration or
//! the relay, and nothing bounces for it. So somebody has to hear of it before the lifetime of the mail is over.

use std::time::{Duration, Instant};

use crate::mail::{Enhanced, Phase, Reply, ReplySource};
use crate::maillog;

use crate::delivery::host::limits::Slot;
use crate::delivery::smtp::endpoint::Endpoint;
use crate::delivery::smtp::reply_class;

/// The same refusal is told again after this.
const TOLD_FOR: Duration = Duration::from_secs(60 * 60);

/// What the operator was told of a relay. The codes stand for the words, which hosts like to make different each
/// time.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Alert {
    told_at: Instant,
    codes: (Phase, u16, Option<Enhanced>),
}

impl Slot {
    /// The host could not be used: tells the operator where it is a relay and somebody has to do something.
    pub(in crate::delivery) fn refused(&self, endpoint: &Endpoint, phase: Phase, reply: &Reply) {
        if !endpoint.relay || !needs_somebody(phase, reply) {
            return;
        }
        let codes = (phase, reply.code, reply.enhanced);
        let is_told = |alert: &Alert| alert.codes == codes && alert.told_at.elapsed() < TOLD_FOR;
        let mut state = self.host.lock();
        if state.alert.as_ref().is_some_and(is_told) {
            return;
        }
        state.alert = Some(Alert { told_at: Instant::now(), codes });
        drop(state);
        let relay = format!("{}[{}]", endpoint.host, endpoint.address);
        maillog::relay_refuses(&relay, phase, reply, &remedy(endpoint, phase));
    }

    /// It took a message, or said something about one.
    pub(in crate::delivery) fn welcomed(&self, endpoint: &Endpoint) {
        let alert = self.host.lock().alert.take();
        if alert.is_some() {
            maillog::relay_takes_mail(&format!("{}[{}]", endpoint.host, endpoint.address));
        }
    }
}

/// Whether this goes away by itself only by luck. A connection that fails or breaks may well.
fn needs_somebody(phase: Phase, reply: &Reply) -> bool {
    let security = matches!(reply.enhanced, Some(Enhanced(_, 7, _)));
    match reply.reply_source {
        // Ours: no secret, no mechanism, no proof, a certificate that does not hold (RFC 3463 §3.8).
        ReplySource::Local => security && matches!(phase, Phase::Starttls | Phase::Auth),
        ReplySource::Remote if phase == Phase::Auth => reply.code != 421,
        ReplySource::Remote => {
            phase < Phase::Auth && reply.code / 100 == 5 || reply_class::wants_login(phase, reply.code)
        }
    }
}

fn remedy(endpoint: &Endpoint, phase: Phase) -> String {
    match (&endpoint.login, phase) {
        (Some(login), Phase::Auth) => {
            format!(
                "see to username \"{}\" and {} (no restart needed for the latter)",
                login.username, login.secret
            )
        }
        (None, Phase::Mail | Phase::Rcpt) => "give its [[route]] username and password_file".to_owned(),
        (_, Phase::Starttls) => "see to tls and ca_file of its [[route]]".to_owned(),
        _ => "ask those who run it".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_has_to_repair_is_told_from_what_passes() {
        let host = |code, enhanced| Reply { enhanced, ..Reply::bare(code, "") }.from_remote();
        let ours = |code, enhanced| Reply::new(code, enhanced, "");
        for (phase, reply, loud) in [
            (Phase::Greeting, host(554, None), true),
            (Phase::Greeting, host(450, None), false),
            (Phase::Greeting, host(421, None), false),
            (Phase::Auth, host(535, None), true),
            (Phase::Auth, host(454, Some(Enhanced(4, 7, 0))), true),
            (Phase::Auth, host(421, None), false),
            (Phase::Auth, ours(451, Enhanced(4, 7, 0)), true),
            (Phase::Auth, ours(421, Enhanced(4, 4, 2)), false),
            (Phase::Starttls, ours(451, Enhanced(4, 7, 5)), true),
            (Phase::Connect, ours(421, Enhanced(4, 4, 1)), false),
            (Phase::Mail, host(530, None), true),
            (Phase::Rcpt, host(530, None), true),
            (Phase::Mail, host(550, None), false),
            (Phase::EndOfData, host(554, None), false),
        ] {
            assert_eq!(needs_somebody(phase, &reply), loud, "{phase:?} {reply}");
        }
    }
}
