//! The client side of the AUTH mechanisms (RFC 4954): which ones can be used, and the responses to challenges. Pure;
//! `login.rs` sends them.
//!
//! ```text
//! begin -> AUTH NAME [first response] -> challenge: answer -> … -> 235: is_proven
//! ```
//!
//! PLAIN, LOGIN and XOAUTH2 are lettre's; SCRAM is in `scram.rs`, CRAM-MD5's digest in `sasl/`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lettre::transport::smtp::authentication::{Credentials, Mechanism as Simple};

use crate::kit::text::without_controls;
use crate::sasl::{ChannelBinding, CramMd5};

use crate::delivery::smtp::login::scram::{Binding, Scram};

/// A mechanism that Postrider supports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mechanism {
    /// SCRAM-SHA-256-PLUS (RFC 7677, RFC 9266).
    ScramPlus,
    /// SCRAM-SHA-256 (RFC 7677).
    Scram,
    /// PLAIN (RFC 4616).
    Plain,
    /// LOGIN (no standard, widely used).
    Login,
    /// CRAM-MD5 (RFC 2195).
    CramMd5,
    /// XOAUTH2 (by Google, also used by Microsoft and others).
    Xoauth2,
    /// OAUTHBEARER (RFC 7628).
    OauthBearer,
}

use Mechanism::*;

/// With a token. XOAUTH2 first, since all providers that take tokens have it.
const FOR_TOKENS: [Mechanism; 2] = [Xoauth2, OauthBearer];
/// With a password inside TLS. SCRAM shows the host nothing that it could use elsewhere, and makes the host prove that
/// it knows the password. CRAM-MD5 comes last: inside TLS it hides nothing more, it makes the host keep passwords all
/// but readable, and many hosts offer it to all users though it works for some only.
const FOR_PASSWORDS: [Mechanism; 5] = [ScramPlus, Scram, Plain, Login, CramMd5];
/// With a password without TLS, which takes `tls = "off"` in the config: first the mechanisms that do not show it.
const FOR_PASSWORDS_IN_CLEAR: [Mechanism; 4] = [Scram, CramMd5, Plain, Login];

impl Mechanism {
    /// The name in EHLO and AUTH.
    pub(super) fn name(self) -> &'static str {
        match self {
            ScramPlus => "SCRAM-SHA-256-PLUS",
            Scram => "SCRAM-SHA-256",
            Plain => "PLAIN",
            Login => "LOGIN",
            CramMd5 => "CRAM-MD5",
            Xoauth2 => "XOAUTH2",
            OauthBearer => "OAUTHBEARER",
        }
    }

    /// The host gets the password itself, so it can check it against any form in which it keeps passwords.
    pub(super) fn shows_password(self) -> bool {
        matches!(self, Plain | Login)
    }
}

/// What decides which mechanisms can be used: the secret, the connection and the host's offer.
#[derive(Debug, Clone, Copy)]
pub(super) struct AuthContext<'a> {
    /// The mechanisms in the host's EHLO reply, in upper case.
    pub(super) offered: &'a [String],
    /// The secret is a token, not a password.
    pub(super) token: bool,
    /// The connection is in TLS.
    pub(super) tls: bool,
    /// The channel binding, with TLS 1.3.
    pub(super) channel: Option<ChannelBinding>,
}

impl AuthContext<'_> {
    /// The mechanisms that can be used, best first.
    pub(super) fn mechanisms(&self) -> Vec<Mechanism> {
        let mut mechanisms = self.known().to_vec();
        mechanisms.retain(|mechanism| {
            self.offers(*mechanism) && (*mechanism != ScramPlus || self.channel.is_some())
        });
        mechanisms
    }

    /// The mechanisms that the host could offer for this secret and connection, best first.
    pub(super) fn known(&self) -> &'static [Mechanism] {
        match (self.token, self.tls) {
            (true, _) => &FOR_TOKENS,
            (false, true) => &FOR_PASSWORDS,
            (false, false) => &FOR_PASSWORDS_IN_CLEAR,
        }
    }

    fn offers(&self, mechanism: Mechanism) -> bool {
        self.offered.iter().any(|word| word == mechanism.name())
    }

    fn binding(&self, mechanism: Mechanism) -> Binding {
        match (mechanism, self.channel) {
            (ScramPlus, Some(channel)) => Binding::To(channel),
            // RFC 5802 §6: this shows the server if somebody removed -PLUS from its EHLO reply.
            (_, Some(_)) if !self.offers(ScramPlus) => Binding::NotOffered,
            _ => Binding::None,
        }
    }
}

/// The user and the secret; the host and port are for OAUTHBEARER, which repeats them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Identity<'a> {
    pub(super) username: &'a str,
    pub(super) secret: &'a str,
    pub(super) host: &'a str,
    pub(super) port: u16,
}

/// Why an exchange cannot go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum AuthError {
    /// The host's challenge cannot be understood or accepted; another mechanism may work.
    Unusable(String),
    /// The peer does not know the password, or is not the other end of the TLS connection: nothing more is sent.
    Impostor(String),
}

/// One exchange.
pub(super) struct Exchange {
    state: State,
    /// The first response, until the host has used it.
    first: Option<Vec<u8>>,
    /// It was sent with the AUTH command.
    first_is_sent: bool,
}

/// The mechanism, and how far the exchange is.
enum State {
    /// Nothing follows the first response.
    Plain,
    /// The credentials, and how many challenges were answered.
    Login(Credentials, usize),
    CramMd5(String, CramMd5),
    Scram(Box<Scram>),
    /// The response to a challenge that refuses the token, and the text of that challenge.
    Token(&'static [u8], Option<String>),
}

impl Exchange {
    /// Begins an exchange. `nonce` is text that nobody can guess.
    pub(super) fn begin(
        mechanism: Mechanism,
        identity: Identity<'_>,
        context: &AuthContext<'_>,
        nonce: String,
    ) -> Exchange {
        let Identity { username, secret, host, port } = identity;
        let credentials = Credentials::new(username.to_owned(), secret.to_owned());
        // PLAIN and XOAUTH2 always have a response without a challenge.
        let simple = |mechanism: Simple| mechanism.response(&credentials, None).ok().map(String::into_bytes);
        let (state, first) = match mechanism {
            Plain => (State::Plain, simple(Simple::Plain)),
            Xoauth2 => (State::Token(b"", None), simple(Simple::Xoauth2)),
            OauthBearer => {
                // RFC 7628 §3.1: a GS2 header, then key=value pairs that each end with ^A; §3.2.3: an error is
                // acknowledged with a single ^A. The name is escaped as in SCRAM.
                let name = crate::sasl::scram::escaped(username);
                let first =
                    format!("n,a={name},\x01host={host}\x01port={port}\x01auth=Bearer {secret}\x01\x01");
                (State::Token(b"\x01", None), Some(first.into_bytes()))
            }
            Login => (State::Login(credentials, 0), None),
            CramMd5 => {
                (State::CramMd5(username.to_owned(), crate::sasl::CramMd5::of(secret.as_bytes())), None)
            }
            ScramPlus | Scram => {
                let scram = Scram::new(username, secret, context.binding(mechanism), nonce);
                let first = scram.first().into_bytes();
                (State::Scram(Box::new(scram)), Some(first))
            }
        };
        Exchange { state, first, first_is_sent: false }
    }

    /// The first response in base64 for the AUTH command, if the mechanism has one and it fits in `room` bytes. RFC
    /// 4954 §4: a longer one waits for the challenge.
    pub(super) fn initial(&mut self, room: usize) -> Option<String> {
        let first = self.first.as_ref()?;
        let line = if first.is_empty() { "=".to_owned() } else { STANDARD.encode(first) };
        self.first_is_sent = line.len() <= room;
        self.first_is_sent.then_some(line)
    }

    /// The response to a challenge, the text of a 334.
    pub(super) fn answer(&mut self, challenge: &str) -> Result<Vec<u8>, AuthError> {
        let decoded = STANDARD.decode(challenge.trim()).ok();
        if let Some(first) = self.first.take() {
            // Some hosts ignore the initial response and ask for it again, with a challenge that should be empty.
            let asks_for_it =
                decoded.as_ref().is_some_and(Vec::is_empty) || matches!(self.state, State::Plain);
            if !self.first_is_sent || asks_for_it {
                return Ok(first);
            }
        }
        let text = || {
            let text = decoded.as_ref().and_then(|bytes| std::str::from_utf8(bytes).ok());
            text.ok_or_else(|| AuthError::Unusable("the host's challenge is no base 64 of a text".to_owned()))
        };
        match &mut self.state {
            State::Plain => Err(AuthError::Unusable("the host asks for more than PLAIN has".to_owned())),
            State::Login(credentials, turn) => {
                // The challenges of LOGIN are not standardized. Those that lettre does not recognise are answered in
                // order, the name first.
                let asked = text().unwrap_or_default().trim().to_owned();
                let by_turn = if *turn == 0 { "Username" } else { "Password" };
                *turn += 1;
                let response = Simple::Login.response(credentials, Some(&asked));
                let response = response.or_else(|_| Simple::Login.response(credentials, Some(by_turn)));
                response.map(String::into_bytes).map_err(|error| AuthError::Unusable(error.to_string()))
            }
            State::CramMd5(name, key) => {
                let digest = u128::from_be_bytes(key.digest(text()?.as_bytes()));
                Ok(format!("{name} {digest:032x}").into_bytes())
            }
            State::Scram(scram) => scram.answer(text()?).map(String::into_bytes),
            State::Token(acknowledgement, refusal) => {
                *refusal = Some(text().map_or_else(|_| challenge.to_owned(), str::to_owned));
                Ok(acknowledgement.to_vec())
            }
        }
    }

    /// Whether the host has proved that it knows the password, as far as the mechanism lets it.
    pub(super) fn is_proven(&self) -> bool {
        match &self.state {
            State::Scram(scram) => scram.is_proven(),
            _ => true,
        }
    }

    /// The host's reason for refusing a token, shortened.
    pub(super) fn token_error(&self) -> Option<String> {
        let State::Token(_, Some(refusal)) = &self.state else { return None };
        let json: Option<serde_json::Value> = serde_json::from_str(refusal).ok();
        let status = json.as_ref().and_then(|json| match json.get("status")? {
            serde_json::Value::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        });
        Some(without_controls(status.as_ref().unwrap_or(refusal), ERROR_CHARS_MAX))
    }
}

/// How much of a host's reason for refusing a token is quoted.
const ERROR_CHARS_MAX: usize = 100;

#[cfg(test)]
mod tests;
