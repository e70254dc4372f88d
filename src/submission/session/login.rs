//! The logins of a session: which are offered, how a claim is verified, and what becomes of failed ones.

use std::sync::Arc;
use std::time::Instant;

use crate::maillog;
use crate::sasl;

use crate::submission::auth::{Claim, Offer};
use crate::submission::limits::sessions::Authority;
use crate::submission::protocol::dispatch;
use crate::submission::protocol::state::{State, Transition};
use crate::submission::replies;
use crate::submission::session::listener::times;
use crate::submission::session::{End, Session};
use crate::submission::users;

impl Session<'_> {
    /// Puts a claim to the users, unless this client has guessed too often.
    pub(super) fn verify(&mut self, state: State, claim: Claim) -> Result<Transition, End> {
        let failures = self.resources.login_failures.count(self.client, Instant::now());
        if failures >= self.service.limits.auth_failures {
            maillog::turned_away(self.client, "too many failed authentications");
            return Err(self.send_away(&replies::AUTH_TOO_MANY_FAILURES));
        }
        Ok(dispatch::auth_step(state, claim.put_to(&*self.resources.service().users)))
    }

    pub(super) fn login_failed(&mut self, name: String) {
        self.resources.login_failures.record(self.client, Instant::now());
        let shown: String = name.chars().take(users::NAME_CHARS_MAX).collect();
        // Only the name of a user: what was typed instead of one may be a password.
        let whose = match self.service.users.with_scram(&name).user {
            Some(user) => format!("user {:?}", user.name),
            None => "a name that no user has".to_owned(),
        };
        maillog::turned_away(self.client, &format!("authentication failed for {whose}"));
        match &mut self.scratch.failed {
            (last, times) if *last == name => *times += 1,
            // A name that is too long is no user's, and never makes it good.
            failed => *failed = (shown, 1),
        }
    }

    /// A client that fails and then has the password after all did not guess it: one that prefers CRAM-MD5 does so
    /// each time where its user has PLAIN only, and must not be shut out for it.
    pub(super) fn logged_in(&mut self, state: &State) {
        if let Some(user) = state.user() {
            self.handle.set_authority(Authority::User(Arc::clone(user)));
            self.resources.sessions.logged_in(self.handle);
            // Fails only where the client is gone; the next read says so.
            let _ = self.wire.set_times(times(&self.service.limits, true));
        }
        let (name, times) = std::mem::take(&mut self.scratch.failed);
        if times > 0 && state.user().is_some_and(|user| user.name == name) {
            self.resources.login_failures.forgive(self.client, times, Instant::now());
        }
    }

    /// What AUTH may be here and now.
    pub(super) fn auth_offer(&self, state: &State) -> Offer {
        // The users are asked only where the answer can matter.
        let anonymous = state.user().is_none();
        Offer {
            channel: self.scratch.channel,
            cram_md5: anonymous && self.service.users.has_cram_md5(),
            atrn: anonymous && self.service.users.has_atrn(),
            nonce: sasl::nonce,
        }
    }
}
