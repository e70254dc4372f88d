//! Relays that do not let us in: said loudly, once, and not for each message that waits for it.
//!
//! What a relay refuses before it takes mail (our login, our certificate check, us) is about the configuration or
//! the relay, and nothing bounces for it. So somebody has to hear of it before the lifetime of the mail is over.

use std::time::{Duration, Instant};

use crate::mail::{Enhanced, Phase};
use crate::maillog;

use crate::delivery::host::limits::Slot;
use crate::delivery::smtp::endpoint::Endpoint;
use crate::delivery::smtp::failure::Failure;

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
    /// The host could not be used, and that does not go away by itself: tells the operator where it is a relay.
    pub(in crate::delivery) fn raise_alert(&self, endpoint: &Endpoint, failure: &Failure) {
        if !endpoint.relay {
            return;
        }
        let (phase, reply) = (failure.phase(), failure.reply());
        let codes = (phase, reply.code, reply.enhanced);
        let is_told = |alert: &Alert| alert.codes == codes && alert.told_at.elapsed() < TOLD_FOR;
        let mut state = self.host.lock();
        if state.alert.as_ref().is_some_and(is_told) {
            return;
        }
        state.alert = Some(Alert { told_at: Instant::now(), codes });
        drop(state);
        let relay = format!("{}[{}]", endpoint.host, endpoint.address);
        maillog::relay_refuses(&relay, phase, &reply, &remedy(endpoint, phase));
    }

    /// It took a message, or said something about one.
    pub(in crate::delivery) fn clear_alert(&self, endpoint: &Endpoint) {
        let alert = self.host.lock().alert.take();
        if alert.is_some() {
            maillog::relay_takes_mail(&format!("{}[{}]", endpoint.host, endpoint.address));
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
