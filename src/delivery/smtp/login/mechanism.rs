//! The client's side of every AUTH mechanism (RFC 4954): which to take, and what to answer. Pure; `login.rs`
//! carries the lines.
//!
//! ```text
//! begin -> AUTH NAME [first response] -> challenge: answer -> … -> 235: is_proven
//! ```
//!
//! PLAIN, LOGIN and XOAUTH2 are lettre's; SCRAM is in `scram.rs`, CRAM-MD5's digest in `sasl/`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lettre::transport::smtp::authentication::{Credentials, Mechanism as Simple};

use crate::sasl::{ChannelBinding, CramMd5};

use crate::delivery::smtp::login::scram::{Binding, Scram};

/// A mechanism that we can speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mechanism {
    /// SCRAM-SHA-256-PLUS (RFC 7677, RFC 9266).
    ScramPlus,
    /// SCRAM-SHA-256 (RFC 7677).
    Scram,
    /// PLAIN (RFC 4616).
    Plain,
    /// LOGIN (nowhere standardised, widely asked for).
    Login,
    /// CRAM-MD5 (RFC 2195).
    CramMd5,
    /// XOAUTH2 (Google's; Microsoft and others took it over).
    Xoauth2,
    /// OAUTHBEARER (RFC 7628).
    OauthBearer,
}

use Mechanism::*;

/// With a token. XOAUTH2 first, since every provider that takes tokens has it.
const FOR_TOKENS: [Mechanism; 2] = [Xoauth2, OauthBearer];
/// With a password inside TLS. SCRAM shows the host nothing that it could use elsewhere, and makes it prove that
/// it knows us. CRAM-MD5 comes last: it hides nothing that TLS does not, makes the host keep passwords as good as
/// readable, and is often offered to all where it works for some.
const FOR_PASSWORDS: [Mechanism; 5] = [ScramPlus, Scram, Plain, Login, CramMd5];
/// With a password in the clear, where the operator wrote `tls = "off"`: first what does not show it.
const FOR_PASSWORDS_IN_CLEAR: [Mechanism; 4] = [Scram, CramMd5, Plain, Login];

impl Mechanism {
    /// As EHLO and AUTH call it.
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

    /// The host sees the password, and can hold it against whatever it has kept of it.
    pub(super) fn shows_password(self) -> bool {
        matches!(self, Plain | Login)
    }
}

/// What a login is to be made with, and over what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Circumstances<'a> {
    /// The words behind AUTH in the host's EHLO reply, in upper case.
    pub(super) offered: &'a [String],
    /// A token, not a password.
    pub(super) token: bool,
    /// The connection is in TLS.
    pub(super) tls: bool,
    /// Of a connection in TLS 1.3.
    pub(super) channel: Option<ChannelBinding>,
}

impl Circumstances<'_> {
    /// The mechanisms that can be used, the best first.
    pub(super) fn mechanisms(&self) -> Vec<Mechanism> {
        let mut mechanisms = self.known().to_vec();
        mechanisms.retain(|mechanism| {
            self.offers(*mechanism) && (*mechanism != ScramPlus || self.channel.is_some())
        });
        mechanisms
    }

    /// Those that there are, for a message about none being offered.
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
            // RFC 5802 §6: where somebody took -PLUS out of the EHLO reply, the server finds out by this.
            (_, Some(_)) if !self.offers(ScramPlus) => Binding::NotOffered,
            _ => Binding::None,
        }
    }
}

/// Who we are, with the secret; and whom we speak to, for the mechanism that repeats it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Identity<'a> {
    pub(super) username: &'a str,
    pub(super) secret: &'a str,
    pub(super) host: &'a str,
    pub(super) port: u16,
}

/// Why an exchange cannot go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Flaw {
    /// The host's side of it cannot be understood or accepted; another mechanism may do.
    Unusable(String),
    /// Whoever answers does not know the password, or is not at the other end of our connection: say no more.
    Impostor(String),
}

/// One exchange under way.
pub(super) struct Exchange {
    kind: Kind,
    /// The first response, until the host has heard it.
    first: Option<Vec<u8>>,
    /// It stood in the AUTH command.
    first_is_sent: bool,
}

enum Kind {
    /// Nothing follows the first response.
    Plain,
    /// The credentials, and how many challenges were answered.
    Login(Credentials, usize),
    CramMd5(String, CramMd5),
    Scram(Box<Scram>),
    /// What to say when the host refuses the token by a challenge, and what it said there.
    Token(&'static [u8], Option<String>),
}

impl Exchange {
    /// Begins one. `nonce` is text that nobody can guess.
    pub(super) fn begin(
        mechanism: Mechanism,
        identity: Identity<'_>,
        circumstances: &Circumstances<'_>,
        nonce: String,
    ) -> Exchange {
        let Identity { username, secret, host, port } = identity;
        let credentials = Credentials::new(username.to_owned(), secret.to_owned());
        // Without a challenge both always have a response.
        let simple = |mechanism: Simple| mechanism.response(&credentials, None).ok().map(String::into_bytes);
        let (kind, first) = match mechanism {
            Plain => (Kind::Plain, simple(Simple::Plain)),
            Xoauth2 => (Kind::Token(b"", None), simple(Simple::Xoauth2)),
            OauthBearer => {
                // RFC 7628 §3.1: a GS2 header, then key=value pairs, each with ^A behind it; and §3.2.3: the
                // error is acknowledged with a lone ^A. Commas in the name are written as SCRAM does.
                let name = crate::sasl::scram::escaped(username);
                let first =
                    format!("n,a={name},\x01host={host}\x01port={port}\x01auth=Bearer {secret}\x01\x01");
                (Kind::Token(b"\x01", None), Some(first.into_bytes()))
            }
            Login => (Kind::Login(credentials, 0), None),
            CramMd5 => {
                (Kind::CramMd5(username.to_owned(), crate::sasl::CramMd5::of(secret.as_bytes())), None)
            }
            ScramPlus | Scram => {
                let scram = Scram::new(username, secret, circumstances.binding(mechanism), nonce);
                let first = scram.first().into_bytes();
                (Kind::Scram(Box::new(scram)), Some(first))
            }
        };
        Exchange { kind, first, first_is_sent: false }
    }

    /// The first response for the AUTH command, where the mechanism has one and it fits there.
    ///
    /// RFC 4954 §4: a command line has 512 bytes (RFC 5321 §4.5.3.1.4); what is longer waits for the challenge.
    pub(super) fn initial(&mut self, room: usize) -> Option<String> {
        let first = self.first.as_ref()?;
        let line = if first.is_empty() { "=".to_owned() } else { STANDARD.encode(first) };
        self.first_is_sent = line.len() <= room;
        self.first_is_sent.then_some(line)
    }

    /// The response to a challenge (the text of a 334 as it came).
    pub(super) fn answer(&mut self, challenge: &str) -> Result<Vec<u8>, Flaw> {
        let decoded = STANDARD.decode(challenge.trim()).ok();
        if let Some(first) = self.first.take() {
            // Some hosts pass the initial response over and ask for it. What they ask with should be empty.
            let asks_for_it = decoded.as_ref().is_some_and(Vec::is_empty) || matches!(self.kind, Kind::Plain);
            if !self.first_is_sent || asks_for_it {
                return Ok(first);
            }
        }
        let text = || {
            let text = decoded.as_ref().and_then(|bytes| std::str::from_utf8(bytes).ok());
            text.ok_or_else(|| Flaw::Unusable("the host's challenge is no base 64 of a text".to_owned()))
        };
        match &mut self.kind {
            Kind::Plain => Err(Flaw::Unusable("the host asks for more than PLAIN has".to_owned())),
            Kind::Login(credentials, turn) => {
                // LOGIN's challenges are whatever the host's author thought of: what lettre does not recognise is
                // answered by its turn, the name first.
                let asked = text().unwrap_or_default().trim().to_owned();
                let by_turn = if *turn == 0 { "Username" } else { "Password" };
                *turn += 1;
                let response = Simple::Login.response(credentials, Some(&asked));
                let response = response.or_else(|_| Simple::Login.response(credentials, Some(by_turn)));
                response.map(String::into_bytes).map_err(|error| Flaw::Unusable(error.to_string()))
            }
            Kind::CramMd5(name, key) => {
                let digest = u128::from_be_bytes(key.digest(text()?.as_bytes()));
                Ok(format!("{name} {digest:032x}").into_bytes())
            }
            Kind::Scram(scram) => scram.answer(text()?).map(String::into_bytes),
            Kind::Token(acknowledgement, refusal) => {
                *refusal = Some(text().map_or_else(|_| challenge.to_owned(), str::to_owned));
                Ok(acknowledgement.to_vec())
            }
        }
    }

    /// Whether a host that says 235 has shown all that the mechanism lets it show.
    pub(super) fn is_proven(&self) -> bool {
        match &self.kind {
            Kind::Scram(scram) => scram.is_proven(),
            _ => true,
        }
    }

    /// What the host said of a token that it did not take, short.
    pub(super) fn token_error(&self) -> Option<String> {
        let Kind::Token(_, Some(refusal)) = &self.kind else { return None };
        let json: Option<serde_json::Value> = serde_json::from_str(refusal).ok();
        let status = json.as_ref().and_then(|json| match json.get("status")? {
            serde_json::Value::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        });
        let printable = |c: &char| !c.is_control();
        Some(
            status
                .unwrap_or_else(|| refusal.clone())
                .chars()
                .filter(printable)
                .take(ERROR_CHARS_MAX)
                .collect(),
        )
    }
}

/// Of what a host says about a token.
const ERROR_CHARS_MAX: usize = 100;

#[cfg(test)]
mod tests;
