//! Logging in at a relay (RFC 4954).
//!
//! The exchanges are pure (`mechanism.rs`, `scram.rs`), and so is the choice of the mechanism after a refusal
//! (`fallback.rs`); secrets come from `secrets.rs`, and what was said is never shown again (`words.rs`). Here they
//! meet the connection.
//!
//! After a host refused the secret, it is fetched again. If it is another one now (a renewed token, a changed
//! password), that one is tried, once. Otherwise the login has failed, which never bounces mail: it waits, and the
//! lane's backoff says when one connection tries again.

mod fallback;
mod mechanism;
mod scram;
mod secrets;
mod token_command;
mod words;

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::config::Login;
use crate::kit::bounded::TtlMap;
use crate::mail::{Phase, Reply};
use crate::sasl;

use crate::delivery::smtp::connection::Connection;
use crate::delivery::smtp::endpoint::Endpoint;
use crate::delivery::smtp::failure::{Failure, LoginFailure};
use crate::delivery::smtp::reply_class::ReplyClass;
use crate::delivery::smtp::timeouts::Stage;
use crate::delivery::smtp::wire::Fault;
use fallback::{AfterRefusal, AuthReply, Candidates};
use mechanism::{AuthContext, AuthError, Exchange, Identity, Mechanism};
use secrets::{Secret, Secrets};

pub(in crate::delivery) use words::LoginWords;

/// Challenges in one exchange; SCRAM has three.
const CHALLENGES_MAX: usize = 4;
/// RFC 5321 §4.5.3.1.4, with CR LF.
const COMMAND_BYTES_MAX: usize = 512;
/// Hosts whose mechanism is remembered.
const REMEMBERED_MAX: usize = 1000;

/// A host's name and port.
type Host = (String, u16);

/// Logs in for all workers.
#[derive(Debug)]
pub(in crate::delivery) struct Logins {
    secrets: Secrets,
    /// Hosts that refused a better mechanism, with the one to try instead and the secret that it was found with.
    remembered: Mutex<TtlMap<Host, (Secret, Mechanism), Instant>>,
}

impl Default for Logins {
    fn default() -> Logins {
        let remembered = TtlMap::new(REMEMBERED_MAX, Duration::MAX);
        Logins { secrets: Secrets::default(), remembered: Mutex::new(remembered) }
    }
}

/// How one exchange ended.
enum ExchangeEnd {
    /// With this reply.
    Replied(Reply),
    /// It was cancelled; another mechanism may work.
    Unusable(Failure),
    /// The peer does not know the password, so nothing more is sent to it.
    Impostor(Failure),
}

impl Logins {
    /// Logs in.
    ///
    /// # Errors
    /// The host's last refusal, or ours where the host did not decide it.
    pub(in crate::delivery) fn log_in(
        &self,
        connection: &mut Connection,
        endpoint: &Endpoint,
        login: &Login,
        deadline: Instant,
    ) -> Result<(), Failure> {
        let secret = self.secrets.get(&login.secret, deadline).map_err(no_secret)?;
        let refused = match self.try_mechanisms(connection, endpoint, login, &secret, deadline) {
            Err(Failure::Refused { reply, .. }) if AuthReply::of(&reply) == AuthReply::CredentialsRefused => {
                reply
            }
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

    /// Tries one secret with one mechanism after the other, as [`Candidates`] gives them.
    fn try_mechanisms(
        &self,
        connection: &mut Connection,
        endpoint: &Endpoint,
        login: &Login,
        secret: &Secret,
        deadline: Instant,
    ) -> Result<(), Failure> {
        connection.wire.login().begin(secret.expose());
        let offered = connection.capabilities.auth.clone();
        // Without TLS only where the operator wrote `tls = "off"`: otherwise a login never goes in the clear.
        let context = AuthContext {
            offered: &offered,
            token: login.secret.is_token(),
            tls: connection.wire.is_tls(),
            channel: connection.wire.channel_binding(),
        };
        let (host, port) = (&endpoint.host, endpoint.address.port());
        let identity = Identity { username: &login.username, secret: secret.expose(), host, port };
        let place = (host.clone(), port);
        let mut candidates = Candidates::new(context.mechanisms(), self.remembered(&place, secret));
        let mut last = none_offered(&context);
        while let Some(mechanism) = candidates.next() {
            let end = exchange(connection, mechanism, identity, &context, deadline)
                .map_err(|fault| Failure::no_reply(Stage::of(Phase::Auth), fault))?;
            last = match end {
                ExchangeEnd::Impostor(failure) => return Err(failure),
                ExchangeEnd::Unusable(failure) => failure,
                ExchangeEnd::Replied(reply) => {
                    let answer = AuthReply::of(&reply);
                    if answer == AuthReply::Accepted {
                        return Ok(());
                    }
                    match candidates.refused(mechanism, answer) {
                        AfterRefusal::Stop => return Err(refusal(reply)),
                        AfterRefusal::TryNext { remember: None } => {}
                        AfterRefusal::TryNext { remember: Some(other) } => {
                            self.remember(place.clone(), secret, other);
                        }
                    }
                    refusal(reply)
                }
            };
            log::debug!("{host}: AUTH {} failed: {}", mechanism.name(), last.reply());
        }
        Err(last)
    }

    fn remembered(&self, host: &Host, secret: &Secret) -> Option<Mechanism> {
        // Nothing panics while this is held.
        let remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        let (of, mechanism) = remembered.get(host, Instant::now())?;
        (of == secret).then_some(*mechanism)
    }

    fn remember(&self, host: Host, secret: &Secret, mechanism: Mechanism) {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        remembered.insert(host, (secret.clone(), mechanism), Instant::now());
    }
}

/// One exchange, from AUTH to its last reply.
fn exchange(
    connection: &mut Connection,
    mechanism: Mechanism,
    identity: Identity<'_>,
    context: &AuthContext<'_>,
    deadline: Instant,
) -> Result<ExchangeEnd, Fault> {
    let Some(nonce) = sasl::nonce() else {
        return Ok(ExchangeEnd::Unusable(ours("the system has no random numbers".to_owned())));
    };
    let mut exchange = Exchange::begin(mechanism, identity, context, nonce);
    let mut reply = send_auth(connection, mechanism, &mut exchange, identity.username, deadline)?;
    let mut challenges = 0;
    while ReplyClass::of(Phase::Auth, reply.code) == ReplyClass::Intermediate {
        challenges += 1;
        let response = match exchange.answer(&connection.wire.take_challenge()) {
            _ if challenges > CHALLENGES_MAX => {
                Err(AuthError::Unusable("the host asks without end".to_owned()))
            }
            response => response,
        };
        match response {
            Ok(response) => {
                let response = STANDARD.encode(&response);
                connection.wire.login().respond(&response, identity.username);
                let line = format!("{response}\r\n");
                reply = connection.ask(Phase::Auth, &line, Some("…"), deadline)?;
            }
            Err(error) => {
                // RFC 4954 §4: the client cancels with "*", and the server says 501.
                connection.ask(Phase::Auth, "*\r\n", None, deadline)?;
                return Ok(match error {
                    AuthError::Unusable(text) => ExchangeEnd::Unusable(ours(text)),
                    AuthError::Impostor(text) => ExchangeEnd::Impostor(ours(text)),
                });
            }
        }
    }
    if reply.is_positive() && !exchange.is_proven() {
        let text = format!("the host says {} without proof that it knows the password (SCRAM)", reply.code);
        return Ok(ExchangeEnd::Impostor(ours(text)));
    }
    if let (false, Some(error)) = (reply.is_positive(), exchange.token_error()) {
        let text = format!("{} (of the token: {})", reply.text, connection.wire.login().checked(error));
        reply = reply.with_text(text);
    }
    Ok(ExchangeEnd::Replied(reply))
}

/// The AUTH command, with the first response if it fits.
fn send_auth(
    connection: &mut Connection,
    mechanism: Mechanism,
    exchange: &mut Exchange,
    username: &str,
    deadline: Instant,
) -> Result<Reply, Fault> {
    let mut command = format!("AUTH {}", mechanism.name());
    let shown = format!("{command} …");
    if let Some(initial) = exchange.initial(COMMAND_BYTES_MAX - command.len() - " \r\n".len()) {
        connection.wire.login().respond(&initial, username);
        command.push(' ');
        command.push_str(&initial);
    }
    command.push_str("\r\n");
    connection.ask(Phase::Auth, &command, Some(&shown), deadline)
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

fn none_offered(context: &AuthContext<'_>) -> Failure {
    let what = if context.token { "a token" } else { "a password" };
    let known: Vec<&str> = context.known().iter().map(|mechanism| mechanism.name()).collect();
    let offers = match context.offered {
        [] => "no AUTH".to_owned(),
        words => format!("AUTH {}", words.join(" ")),
    };
    let text = format!("the host offers {offers}; {what} needs one of {}", known.join(", "));
    Failure::Login(LoginFailure::NoMechanism(text))
}
