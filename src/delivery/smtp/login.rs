//! Logging in at a relay (RFC 4954): which secret, which mechanism, and what a refusal means.
//!
//! The exchanges themselves are pure (`mechanism.rs`, `scram.rs`); where secrets come from is in `secrets.rs`.
//! Here is the loop between them and the connection.
//!
//! A host counts refused logins and locks accounts, so a secret that was refused is not tried over and over. On
//! one connection it goes so:
//!
//! - A mechanism that the host does not have or want (504, 534 and kin), or cannot be spoken, proves nothing about
//!   the secret: the next one is tried. After "too weak" (534) only one that is stronger.
//! - 535 to SCRAM or CRAM-MD5 may mean that the host keeps nothing to check them by: PLAIN or LOGIN is tried once,
//!   where offered, and for as long as the secret is the same that host is not asked for the other again.
//! - 535 otherwise: the secret is fetched again. Only where it is another one now (a token that was renewed, a
//!   password that was changed), that one is tried, once. Otherwise the relay is in trouble, which never bounces
//!   anything: its mail waits, and the lane's backoff says when one connection tries again.

mod mechanism;
mod scram;
mod secrets;
mod token_command;

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::config::Login;
use crate::mail::{Enhanced, Phase, Reply};
use crate::sasl;

use crate::delivery::smtp::connection::Connection;
use crate::delivery::smtp::endpoint::Endpoint;
use crate::delivery::smtp::failure::{Failure, LoginFailure};
use crate::delivery::smtp::reply_class::ReplyClass;
use crate::delivery::smtp::timeouts::Stage;
use crate::delivery::smtp::wire::Fault;
use mechanism::{Circumstances, Exchange, Flaw, Identity, Mechanism};
use secrets::{Secret, Secrets};

/// Challenges of one exchange; SCRAM has three.
const CHALLENGES_MAX: usize = 4;
/// RFC 5321 §4.5.3.1.4, with its CR LF.
const COMMAND_BYTES_MAX: usize = 512;
/// Hosts whose mechanism is remembered; past it, all are forgotten and learnt again.
const LEARNT_MAX: usize = 1000;

/// Logs in for all workers.
#[derive(Debug, Default)]
pub(in crate::delivery) struct Logins {
    secrets: Secrets,
    /// Where another mechanism than the best was right, or the last left to try: by host and port, with the secret
    /// it was found with.
    learnt: Mutex<HashMap<(String, u16), (Secret, Mechanism)>>,
}

/// How one exchange ended.
enum Ended {
    /// With this reply.
    Answered(Reply),
    /// It could not be brought to an end; another may.
    Unusable(Failure),
    /// With somebody to whom nothing more is to be said.
    Impostor(Failure),
}

/// What a reply at the end of an exchange says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Welcome,
    /// Of this mechanism; `weak`: a stronger one would do.
    NotThisOne {
        weak: bool,
    },
    /// Wrong name or wrong secret, as far as this mechanism can tell.
    Wrong,
    /// Something else: there is no use in more tries.
    Trouble,
}

fn verdict(reply: &Reply) -> Verdict {
    match (reply.code, reply.enhanced) {
        (code, _) if ReplyClass::of(Phase::Auth, code) == ReplyClass::Positive => Verdict::Welcome,
        // 432 (RFC 4954 §4.7): log in with PLAIN once, so that what this mechanism needs can be made.
        (432 | 535, _) | (_, Some(Enhanced(5, 7, 8))) => Verdict::Wrong,
        // RFC 5248 §2.4: 5.7.9, authentication mechanism too weak.
        (534, _) | (_, Some(Enhanced(5, 7, 9))) => Verdict::NotThisOne { weak: true },
        (500..=502 | 504 | 538, _) => Verdict::NotThisOne { weak: false },
        _ => Verdict::Trouble,
    }
}

impl Logins {
    /// Logs in.
    ///
    /// # Errors
    /// With the host's last word, or ours where it was not the host that failed.
    pub(in crate::delivery) fn log_in(
        &self,
        connection: &mut Connection,
        endpoint: &Endpoint,
        login: &Login,
        deadline: Instant,
    ) -> Result<(), Failure> {
        let secret = self.secrets.get(&login.secret, deadline).map_err(no_secret)?;
        let refused = match self.try_mechanisms(connection, endpoint, login, &secret, deadline) {
            Err(Failure::Refused { reply, .. }) if verdict(&reply) == Verdict::Wrong => reply,
            ended => return ended,
        };
        match self.secrets.renew(&login.secret, &secret, deadline) {
            Ok(Some(fresh)) => {
                log::debug!("{}: refused, and {} has another one now", endpoint.host, login.secret);
                self.try_mechanisms(connection, endpoint, login, &fresh, deadline)
            }
            Ok(None) => Err(refusal(refused)),
            Err(text) => Err(no_secret(format!("{text} (after the host had said {refused})"))),
        }
    }

    /// One secret, with one mechanism after the other where that is of use.
    fn try_mechanisms(
        &self,
        connection: &mut Connection,
        endpoint: &Endpoint,
        login: &Login,
        secret: &Secret,
        deadline: Instant,
    ) -> Result<(), Failure> {
        let offered = connection.capabilities.auth.clone();
        // `tls = "off"` was written by the operator; everywhere else a login never goes in the clear.
        let tls = connection.wire.is_tls();
        let channel = connection.wire.channel_binding();
        let circumstances = Circumstances { offered: &offered, token: login.secret.is_token(), tls, channel };
        let mut left = circumstances.mechanisms();
        let place = (endpoint.host.clone(), endpoint.address.port());
        if let Some(known) = self.learnt(&place, secret)
            && let Some(at) = left.iter().position(|mechanism| *mechanism == known)
        {
            left.drain(..at);
        }
        let mut last = none_offered(&circumstances);
        let mut fell_back = false;
        while !left.is_empty() {
            let mechanism = left.remove(0);
            let identity = Identity {
                username: &login.username,
                secret: secret.expose(),
                host: &endpoint.host,
                port: endpoint.address.port(),
            };
            let ended = exchange(connection, mechanism, identity, &circumstances, deadline)
                .map_err(|fault| Failure::no_reply(Stage::of(Phase::Auth), fault))?;
            last = match ended {
                Ended::Impostor(failure) => return Err(failure),
                Ended::Unusable(failure) => failure,
                Ended::Answered(reply) => {
                    match verdict(&reply) {
                        Verdict::Welcome => return Ok(()),
                        Verdict::NotThisOne { weak: true } if mechanism.shows_password() => {
                            left.retain(|other| !other.shows_password());
                        }
                        Verdict::NotThisOne { .. } => {}
                        Verdict::Wrong if !fell_back && !mechanism.shows_password() => {
                            left.retain(|other| other.shows_password());
                            left.truncate(1);
                            fell_back = true;
                            if let Some(other) = left.first() {
                                self.learn(place.clone(), secret, *other);
                            }
                        }
                        Verdict::Wrong | Verdict::Trouble => return Err(refusal(reply)),
                    }
                    refusal(reply)
                }
            };
            log::debug!("{}: AUTH {} did not do: {}", endpoint.host, mechanism.name(), last.reply());
        }
        Err(last)
    }

    fn learnt(&self, place: &(String, u16), secret: &Secret) -> Option<Mechanism> {
        // Nothing panics while this is held.
        let learnt = self.learnt.lock().unwrap_or_else(PoisonError::into_inner);
        let (of, mechanism) = learnt.get(place)?;
        (of == secret).then_some(*mechanism)
    }

    fn learn(&self, place: (String, u16), secret: &Secret, mechanism: Mechanism) {
        let mut learnt = self.learnt.lock().unwrap_or_else(PoisonError::into_inner);
        if learnt.len() >= LEARNT_MAX {
            learnt.clear();
        }
        learnt.insert(place, (secret.clone(), mechanism));
    }
}

/// One exchange from AUTH to its end.
fn exchange(
    connection: &mut Connection,
    mechanism: Mechanism,
    identity: Identity<'_>,
    circumstances: &Circumstances<'_>,
    deadline: Instant,
) -> Result<Ended, Fault> {
    let Some(nonce) = sasl::nonce() else {
        return Ok(Ended::Unusable(ours("the system has no random numbers".to_owned())));
    };
    let mut exchange = Exchange::begin(mechanism, identity, circumstances, nonce);
    let mut command = format!("AUTH {}", mechanism.name());
    let shown = format!("{command} …");
    if let Some(initial) = exchange.initial(COMMAND_BYTES_MAX - command.len() - " \r\n".len()) {
        command.push(' ');
        command.push_str(&initial);
    }
    command.push_str("\r\n");
    let mut reply = connection.ask(Phase::Auth, &command, Some(&shown), deadline)?;
    let mut turn = 0;
    while ReplyClass::of(Phase::Auth, reply.code) == ReplyClass::Intermediate {
        turn += 1;
        let flaw = match exchange.answer(&reply.text) {
            _ if turn > CHALLENGES_MAX => Flaw::Unusable("the host asks without end".to_owned()),
            Ok(response) => {
                let line = format!("{}\r\n", STANDARD.encode(&response));
                reply = connection.ask(Phase::Auth, &line, Some("…"), deadline)?;
                continue;
            }
            Err(flaw) => flaw,
        };
        // RFC 4954 §4: the client cancels with "*", and the server says 501.
        connection.ask(Phase::Auth, "*\r\n", None, deadline)?;
        return Ok(match flaw {
            Flaw::Unusable(text) => Ended::Unusable(ours(text)),
            Flaw::Impostor(text) => Ended::Impostor(ours(text)),
        });
    }
    if verdict(&reply) == Verdict::Welcome && !exchange.is_proven() {
        let text = format!("the host says {} without proof that it knows the password (SCRAM)", reply.code);
        return Ok(Ended::Impostor(ours(text)));
    }
    if let (false, Some(error)) = (reply.is_positive(), exchange.token_error()) {
        let text = format!("{} (of the token: {error})", reply.text);
        reply = reply.with_text(text);
    }
    Ok(Ended::Answered(reply))
}

fn refusal(reply: Reply) -> Failure {
    Failure::Refused { phase: Phase::Auth, reply }
}

fn ours(text: String) -> Failure {
    Failure::Login(LoginFailure::Other(text))
}

fn no_secret(text: String) -> Failure {
    ours(format!("no login: {text}"))
}

fn none_offered(circumstances: &Circumstances<'_>) -> Failure {
    let what = if circumstances.token { "a token" } else { "a password" };
    let known: Vec<&str> = circumstances.known().iter().map(|mechanism| mechanism.name()).collect();
    let offers = match circumstances.offered {
        [] => "no AUTH".to_owned(),
        words => format!("AUTH {}", words.join(" ")),
    };
    let text = format!("the host offers {offers}; {what} needs one of {}", known.join(", "));
    Failure::Login(LoginFailure::NoMechanism(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_about_the_mechanism_the_secret_or_neither() {
        for (code, enhanced, expected) in [
            (235, Some(Enhanced(2, 7, 0)), Verdict::Welcome),
            (535, Some(Enhanced(5, 7, 8)), Verdict::Wrong),
            (535, None, Verdict::Wrong),
            (550, Some(Enhanced(5, 7, 8)), Verdict::Wrong),
            (432, Some(Enhanced(4, 7, 12)), Verdict::Wrong),
            (534, Some(Enhanced(5, 7, 9)), Verdict::NotThisOne { weak: true }),
            (504, Some(Enhanced(5, 5, 4)), Verdict::NotThisOne { weak: false }),
            (501, None, Verdict::NotThisOne { weak: false }),
            (454, Some(Enhanced(4, 7, 0)), Verdict::Trouble),
            (421, None, Verdict::Trouble),
            (530, Some(Enhanced(5, 7, 0)), Verdict::Trouble),
            (550, None, Verdict::Trouble),
            (354, None, Verdict::Trouble),
        ] {
            let reply = Reply { code, enhanced, ..Reply::bare(code, "") };
            assert_eq!(verdict(&reply), expected, "{reply}");
        }
    }
}
