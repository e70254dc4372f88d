//! The logins of a session: which are offered, how a claim is verified, and what becomes of failed ones.

use std::time::Instant;

use crate::maillog;
use crate::sasl::{self, ChannelBinding};

use crate::submission::Service;
use crate::submission::auth::{Claim, Offer};
use crate::submission::protocol::state::{self, State, Step};
use crate::submission::replies;
use crate::submission::session::conversation::{Flow, Session};
use crate::submission::users;

impl Session<'_> {
    pub(in crate::submission) fn verify(&mut self, state: State, claim: Claim, encrypted: &mut bool) -> Flow {
        let failures_max = self.service.limits.auth_failures;
        if self.failures.count(self.client, Instant::now()) >= failures_max {
            maillog::turned_away(self.client, "too many failed authentications");
            return Err(self.send_away(&replies::AUTH_TOO_MANY_FAILURES));
        }
        let Step { state, reply, action } = state::turn(state, claim.put_to(&*self.service.users));
        self.perform(state, reply, action, encrypted)
    }

    pub(in crate::submission) fn failed(&mut self, name: String) {
        self.failures.record(self.client, Instant::now());
        let shown: String = name.chars().take(users::NAME_CHARS_MAX).collect();
        maillog::turned_away(self.client, &format!("authentication failed for {shown:?}"));
        match &mut self.course.failed {
            (last, times) if *last == name => *times += 1,
            // A name that is too long is no user's, and never makes it good.
            failed => *failed = (shown, 1),
        }
    }

    /// Who fails and then has the password after all did not guess it: a client that prefers CRAM-MD5 does so
    /// each time where its user has PLAIN only, and must not be shut out for it.
    pub(in crate::submission) fn welcome(&mut self, state: &State) {
        let (name, times) = std::mem::take(&mut self.course.failed);
        let user = state.client().and_then(|client| client.user.as_ref());
        if times > 0 && user.is_some_and(|user| user.name == name) {
            self.failures.forgive(self.client, times);
        }
    }
}

/// What AUTH may be here and now.
pub(in crate::submission) fn offer(
    service: &Service,
    channel: Option<ChannelBinding>,
    state: &State,
) -> Offer {
    let anonymous = state.client().is_none_or(|client| client.user.is_none());
    // Asked only where the answer can matter.
    let cram_md5 = anonymous && service.users.has_cram_md5();
    Offer { channel, cram_md5, atrn: anonymous && service.users.has_atrn(), nonce: sasl::nonce }
}
