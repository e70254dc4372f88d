//! AUTH (RFC 4954): the exchanges of all mechanisms as pure steps, base 64 and all.
//!
//! PLAIN (RFC 4616) and LOGIN are here, SCRAM and CRAM-MD5 in files of their own. What only the users file can
//! answer is a [`Claim`]; the session puts it to a [`Directory`] and goes on with the [`AuthStep`] that comes of it.
//!
//! # Bugs
//! CRAM-MD5 is offered to every client as soon as one user has it. A client that prefers CRAM-MD5 fails where its
//! user has none, before it tries another mechanism (`session/login.rs` forgives that failure).

mod cram_md5;
mod scram;

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::mail::{Domain, Reply};
use crate::sasl::ChannelBinding;

use super::replies;
use super::users::{Directory, LoginSource, PasswordCheck, User};

/// What decides which mechanisms there are on a connection at this moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Offer {
    /// Of a TLS connection that has one: SCRAM-SHA-256-PLUS can be had.
    pub(super) channel: Option<ChannelBinding>,
    /// At least one user can use CRAM-MD5.
    pub(super) cram_md5: bool,
    /// At least one user may fetch mail with ATRN once authenticated.
    pub(super) atrn: bool,
    /// Makes a random text, new each time; none where the system has no random numbers.
    pub(super) nonce: fn() -> Option<String>,
}

/// Each mechanism and whether it can be had; the order is that of the EHLO reply.
impl Offer {
    fn all(&self) -> [(&'static str, bool); 5] {
        [
            ("SCRAM-SHA-256-PLUS", self.channel.is_some()),
            ("SCRAM-SHA-256", true),
            ("PLAIN", true),
            ("LOGIN", true),
            ("CRAM-MD5", self.cram_md5),
        ]
    }

    /// As EHLO lists them.
    pub(super) fn mechanisms(&self) -> String {
        let offered = self.all().into_iter().filter(|(_, offered)| *offered);
        offered.map(|(name, _)| name).collect::<Vec<_>>().join(" ")
    }

    fn has(&self, mechanism: &str) -> bool {
        self.all().contains(&(mechanism, true))
    }
}

/// A name and a password to be verified.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Credentials {
    pub(super) name: String,
    pub(super) password: Vec<u8>,
}

/// Without the password.
impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials({:?}, …)", self.name)
    }
}

/// What is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Exchange {
    /// PLAIN's only response.
    Plain,
    /// LOGIN's first: the name.
    LoginName,
    /// LOGIN's second: the password.
    LoginPassword {
        /// The first.
        name: String,
    },
    /// CRAM-MD5's only response.
    CramMd5 {
        /// The challenge that it answers.
        challenge: String,
    },
    /// SCRAM's first message.
    ScramFirst(scram::Start),
    /// SCRAM's last message.
    ScramLast(Box<scram::Last>),
    /// SCRAM's end: the client has seen our proof and says nothing more (RFC 4954 §4).
    ScramEnd(Arc<User>),
}

/// Who a client claims to be, and with what proof; only the users file knows what is true of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// PLAIN, LOGIN: whether this is the password.
    Password(Credentials),
    /// CRAM-MD5: whether this is the digest.
    CramMd5(cram_md5::Response),
    /// SCRAM: what this name's proof is to be held against.
    Scram(scram::First),
}

/// What an exchange does next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum AuthStep {
    /// Send this, then wait for the next response.
    Challenge(Reply, Exchange),
    /// Ask the users; [`Claim::put_to`] goes on.
    Verify(Claim),
    /// It ends: this user has proven to be who they say.
    LoggedIn(Arc<User>),
    /// It ends: wrong name or wrong proof. Whose name it was.
    Failed(String),
    /// It ends here, and nothing was guessed.
    Refuse(Reply),
}

/// Begins the exchange of `mechanism` (upper case), with the initial response if there was one.
pub(super) fn begin(mechanism: &str, initial: Option<&str>, offer: &Offer, hostname: &Domain) -> AuthStep {
    if !offer.has(mechanism) {
        return AuthStep::Refuse(replies::AUTH_UNKNOWN_MECHANISM);
    }
    let (exchange, challenge) = match mechanism {
        "PLAIN" => (Exchange::Plain, replies::CHALLENGE_EMPTY),
        "LOGIN" => (Exchange::LoginName, replies::CHALLENGE_USERNAME),
        _ => {
            let Some(nonce) = (offer.nonce)() else { return AuthStep::Refuse(replies::AUTH_NOT_NOW) };
            if mechanism == "CRAM-MD5" {
                let challenge = cram_md5::challenge(&nonce, hostname.as_str());
                let reply = replies::challenge(&challenge);
                (Exchange::CramMd5 { challenge }, reply)
            } else {
                let plus = mechanism == "SCRAM-SHA-256-PLUS";
                let start = scram::Start { plus, channel: offer.channel, nonce };
                (Exchange::ScramFirst(start), replies::CHALLENGE_EMPTY)
            }
        }
    };
    match initial {
        None => AuthStep::Challenge(challenge, exchange),
        // RFC 4954 §4: the server speaks first.
        Some(_) if matches!(exchange, Exchange::CramMd5 { .. }) => {
            AuthStep::Refuse(replies::AUTH_NO_INITIAL_RESPONSE)
        }
        // RFC 4954 §4: an initial response of zero bytes is written "=".
        Some("=") => respond(exchange, Vec::new()),
        Some(initial) => answer(exchange, initial.as_bytes()),
    }
}

/// Goes on with the client's line.
pub(super) fn answer(exchange: Exchange, line: &[u8]) -> AuthStep {
    if line == b"*" {
        return AuthStep::Refuse(replies::AUTH_CANCELLED);
    }
    match STANDARD.decode(line) {
        Ok(response) => respond(exchange, response),
        Err(_) => AuthStep::Refuse(replies::AUTH_BAD_BASE64),
    }
}

fn respond(exchange: Exchange, response: Vec<u8>) -> AuthStep {
    let step = match exchange {
        Exchange::Plain => plain(&response).map(|credentials| AuthStep::Verify(Claim::Password(credentials))),
        Exchange::LoginName => String::from_utf8(response)
            .ok()
            .map(|name| AuthStep::Challenge(replies::CHALLENGE_PASSWORD, Exchange::LoginPassword { name })),
        Exchange::LoginPassword { name } => {
            Some(AuthStep::Verify(Claim::Password(Credentials { name, password: response })))
        }
        Exchange::CramMd5 { challenge } => cram_md5::Response::read(&response, challenge)
            .map(|response| AuthStep::Verify(Claim::CramMd5(response))),
        Exchange::ScramFirst(start) => match scram::First::read(&response, start) {
            Ok(first) => Some(AuthStep::Verify(Claim::Scram(first))),
            Err(scram::FirstMessageError::Malformed) => None,
            Err(scram::FirstMessageError::Downgraded) => Some(AuthStep::Refuse(replies::AUTH_DOWNGRADED)),
        },
        Exchange::ScramLast(last) => {
            let name = last.name.clone();
            match last.judge(&response) {
                scram::ProofCheck::Right(user, proof) => {
                    Some(AuthStep::Challenge(replies::challenge(&proof), Exchange::ScramEnd(user)))
                }
                scram::ProofCheck::Wrong => Some(AuthStep::Failed(name)),
                scram::ProofCheck::Malformed => None,
            }
        }
        Exchange::ScramEnd(user) => response.is_empty().then_some(AuthStep::LoggedIn(user)),
    };
    step.unwrap_or(AuthStep::Refuse(replies::AUTH_BAD_RESPONSE))
}

impl Claim {
    /// Whose it claims to be.
    pub(super) fn name(&self) -> &str {
        match self {
            Claim::Password(credentials) => &credentials.name,
            Claim::CramMd5(response) => response.name(),
            Claim::Scram(first) => first.name(),
        }
    }

    /// Asks `users` and says how the exchange goes on. A password may take 10 ms, and waits for its turn.
    pub(super) fn put_to(self, users: &dyn Directory, from: LoginSource) -> AuthStep {
        let judged = |name, user: Option<Arc<User>>| user.map_or(AuthStep::Failed(name), AuthStep::LoggedIn);
        match self {
            Claim::Password(Credentials { name, password }) => {
                match users.with_password(&name, &password, from) {
                    PasswordCheck::Right(user) => AuthStep::LoggedIn(user),
                    PasswordCheck::Wrong => AuthStep::Failed(name),
                    PasswordCheck::Busy => AuthStep::Refuse(replies::AUTH_BUSY),
                }
            }
            Claim::CramMd5(cram_md5::Response { name, challenge, digest }) => {
                let user = users.with_cram_md5(&name, challenge.as_bytes(), &digest);
                judged(name, user)
            }
            Claim::Scram(first) => {
                let known = users.with_scram(&first.name);
                let (challenge, last) = first.challenge(known);
                AuthStep::Challenge(replies::challenge(&challenge), Exchange::ScramLast(Box::new(last)))
            }
        }
    }
}

/// `[authzid] NUL authcid NUL password` (RFC 4616 §2); acting for another user is refused.
fn plain(response: &[u8]) -> Option<Credentials> {
    let mut parts = response.split(|byte| *byte == 0);
    let (authzid, authcid, password) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() || !(authzid.is_empty() || authzid == authcid) {
        return None;
    }
    Some(Credentials { name: std::str::from_utf8(authcid).ok()?.to_owned(), password: password.to_owned() })
}

#[cfg(test)]
mod tests;
