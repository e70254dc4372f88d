//! The logins of a session: which are offered, how a claim is verified, and what becomes of failed ones.

use std::sync::Arc;

use crate::maillog;
use crate::sasl;

use crate::submission::auth::{AuthStep, Claim, Credentials, Exchange, Offer};
use crate::submission::limits::login_failures::{Begin, Login};
use crate::submission::limits::networks;
use crate::submission::limits::sessions::Authority;
use crate::submission::protocol::dispatch;
use crate::submission::protocol::state::{Action, State, Transition};
use crate::submission::replies;
use crate::submission::session::listener::times;
use crate::submission::session::{End, Session};
use crate::submission::users::{self, LoginSource};

impl Session<'_> {
    /// Puts a claim to the users, unless this client has guessed too often.
    pub(super) fn verify(&mut self, state: State, claim: Claim) -> Result<Transition, End> {
        let service = self.resources.service();
        let users = &*service.users;
        if !users.is_available() {
            // Nobody can tell who is right, so nobody was wrong.
            return Ok(dispatch::auth_step(state, AuthStep::Refuse(replies::AUTH_NOT_NOW)));
        }
        let begun = match &claim {
            Claim::Password(credentials) => {
                let Credentials { name, password } = credentials;
                // What is kept of a wrong password holds for as long as the user has the same one.
                let secret = [&users.mark(name)[..], password].concat();
                self.begin(name, Some(&secret))?
            }
            Claim::CramMd5(response) => self.begin(response.name(), None)?,
            // The proof comes with the next line, and is what is checked: see `respond`.
            Claim::Scram(first) => match self.resources.login_failures.is_too_many(
                self.address(),
                first.name(),
                self.service.limits.auth_failures,
            ) {
                true => return Err(self.too_many_failures()),
                false => None,
            },
        };
        if let Some(step) = begun {
            return Ok(dispatch::auth_step(state, step));
        }
        let from = match claim.name() {
            name if self.resources.login_failures.is_known(self.address(), name) => LoginSource::Known,
            _ => LoginSource::Network(networks::around(self.address())),
        };
        let transition = dispatch::auth_step(state, claim.put_to(users, from));
        Ok(self.checked(transition))
    }

    /// A line within an exchange. The last one of SCRAM has the proof, and is checked like a password.
    pub(super) fn respond(&mut self, state: State, line: &[u8]) -> Result<Transition, End> {
        if let State::Authenticating(client, Exchange::ScramLast(last)) = &state {
            let name = last.name().to_owned();
            if let Some(step) = self.begin(&name, None)? {
                return Ok(dispatch::auth_step(State::Ready(client.clone()), step));
            }
        }
        let transition = dispatch::respond(state, line);
        Ok(self.checked(transition))
    }

    /// Reserves a check, and waits where this name is guessed at. The step that ends the exchange, where nothing is
    /// to be checked.
    fn begin(&mut self, name: &str, secret: Option<&[u8]>) -> Result<Option<AuthStep>, End> {
        let login = Login { client: self.address(), name, secret };
        match self.resources.login_failures.begin(login, self.service.limits.auth_failures) {
            Begin::Check(permit, delay) => {
                self.handle.pause(delay);
                self.scratch.permit = Some(permit);
                self.stay().map(|()| None)
            }
            Begin::WrongAgain => Ok(Some(AuthStep::Failed(name.to_owned()))),
            Begin::TooMany => Err(self.too_many_failures()),
            Begin::Busy => Ok(Some(AuthStep::Refuse(replies::AUTH_BUSY))),
        }
    }

    /// The check is over; a failure keeps its place until it is counted.
    fn checked(&mut self, transition: Transition) -> Transition {
        if !matches!(transition.action, Action::LoginFailed(_)) {
            self.scratch.permit = None;
        }
        transition
    }

    fn too_many_failures(&mut self) -> End {
        maillog::turned_away(self.client, "too many failed authentications");
        self.send_away(&replies::AUTH_TOO_MANY_FAILURES)
    }

    pub(super) fn login_failed(&mut self, name: String) {
        // Without a permit it is the secret of before: it counts once.
        let Some(permit) = self.scratch.permit.take() else { return };
        let shown: String = name.chars().take(users::NAME_CHARS_MAX).collect();
        // Only the name of a user: what was typed instead of one may be a password.
        let user = self.service.users.with_scram(&name).user;
        permit.failed(user.as_ref().map(|user| &*user.name));
        let whose = match user {
            Some(user) => format!("user {:?}", user.name),
            None => "a name that no user has".to_owned(),
        };
        maillog::login_failed(self.client, &whose);
        match &mut self.scratch.failed {
            (last, times) if *last == name => *times += 1,
            // A name that is too long is no user's, and never makes it good.
            failed => *failed = (shown, 1),
        }
    }

    /// A client that fails and then has the password after all did not guess it: one that prefers CRAM-MD5 does so
    /// each time where its user has PLAIN only, and must not be shut out for it.
    pub(super) fn logged_in(&mut self, state: &State) {
        let Some(user) = state.user() else { return };
        self.handle.set_authority(Authority::User(Arc::clone(user)));
        self.resources.sessions.logged_in(self.handle);
        // Fails only where the client is gone; the next read says so.
        let _ = self.wire.set_times(times(&self.service.limits, true));
        let (name, times) = std::mem::take(&mut self.scratch.failed);
        let forgiven = if name == user.name { times } else { 0 };
        self.resources.login_failures.succeeded(self.address(), &user.name, forgiven);
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
