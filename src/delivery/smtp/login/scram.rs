//! The client side of SCRAM-SHA-256 and SCRAM-SHA-256-PLUS (RFC 5802, RFC 7677): messages in, messages out. Pure; the
//! keys are computed in `sasl/scram.rs`.
//!
//! ```text
//! C: n,,n=user,r=CLIENT                      first
//! S: r=CLIENTSERVER,s=SALT,i=ITERATIONS      answer
//! C: c=biws,r=CLIENTSERVER,p=PROOF
//! S: v=SIGNATURE                             answer
//! C: (nothing)
//! ```
//!
//! The signature is checked: a host that cannot make it does not know the password, and gets no mail.

use std::num::NonZeroU32;

use aws_lc_rs::constant_time;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::sasl::ChannelBinding;
use crate::sasl::scram::{
    BINDING_TYPE, ITERATIONS_MAX, ITERATIONS_MIN, KEY_BYTES, Keys, escaped, is_nonce, signature,
};

use crate::delivery::smtp::login::mechanism::AuthError;

/// Whether the exchange is bound to its TLS connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Binding {
    /// Bound to this connection (-PLUS).
    To(ChannelBinding),
    /// Not bound, because the host did not offer it.
    NotOffered,
    /// Not bound, because the connection has no channel binding.
    None,
}

/// One exchange.
pub(super) struct Scram {
    password: String,
    /// The GS2 header; in `c=` it is followed by the channel binding.
    header: String,
    channel: Option<ChannelBinding>,
    bare: String,
    nonce: String,
    state: State,
}

/// ```text
/// Begun --server-first--> Proved --v= right--> Satisfied
///                           \--e=--> (the host is about to refuse)
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Begun,
    /// Our proof was sent, and the host must answer with this signature.
    Proved([u8; KEY_BYTES]),
    /// The host did.
    Satisfied,
}

impl Scram {
    pub(super) fn new(username: &str, password: &str, binding: Binding, nonce: String) -> Scram {
        let (header, channel) = match binding {
            Binding::To(channel) => (format!("p={BINDING_TYPE},,"), Some(channel)),
            Binding::NotOffered => ("y,,".to_owned(), None),
            Binding::None => ("n,,".to_owned(), None),
        };
        let bare = format!("n={},r={nonce}", escaped(username));
        Scram { password: password.to_owned(), header, channel, bare, nonce, state: State::Begun }
    }

    /// `client-first-message`.
    pub(super) fn first(&self) -> String {
        format!("{}{}", self.header, self.bare)
    }

    /// The response to a server message.
    pub(super) fn answer(&mut self, message: &str) -> Result<String, AuthError> {
        match self.state {
            State::Begun => self.prove(message),
            // RFC 5802 §7: the server's reason for refusing; the reply that refuses follows.
            State::Proved(_) if message.starts_with("e=") => Ok(String::new()),
            State::Proved(expected) => {
                let said = message.strip_prefix("v=").and_then(|rest| rest.split(',').next());
                let said = said.and_then(|said| STANDARD.decode(said).ok()).unwrap_or_default();
                if constant_time::verify_slices_are_equal(&said, &expected).is_err() {
                    let text = "the host's signature (SCRAM) is wrong: it does not know the password";
                    return Err(AuthError::Impostor(text.to_owned()));
                }
                self.state = State::Satisfied;
                Ok(String::new())
            }
            State::Satisfied => Err(AuthError::Unusable("the host asks for more than SCRAM has".to_owned())),
        }
    }

    /// Whether the host has shown that it knows the password.
    pub(super) fn is_proven(&self) -> bool {
        self.state == State::Satisfied
    }

    /// `server-first-message` in, `client-final-message` out.
    fn prove(&mut self, message: &str) -> Result<String, AuthError> {
        let mut attributes = message.split(',');
        let mut attribute = |name| attributes.next().and_then(|text| text.strip_prefix(name));
        // RFC 5802 §5.1: "m=" before these is a mandatory extension that we do not know.
        let parts = (attribute("r="), attribute("s="), attribute("i="));
        let (Some(nonce), Some(salt), Some(iterations)) = parts else {
            return Err(AuthError::Unusable("the host's first message (SCRAM) cannot be read".to_owned()));
        };
        let more = nonce.strip_prefix(self.nonce.as_str());
        if !more.is_some_and(is_nonce) {
            return Err(AuthError::Impostor("the host answers (SCRAM) what was not asked".to_owned()));
        }
        let salt = STANDARD.decode(salt).ok().filter(|salt| !salt.is_empty());
        let iterations = iterations.parse::<u32>().ok().and_then(NonZeroU32::new);
        let (Some(salt), Some(iterations)) = (salt, iterations) else {
            return Err(AuthError::Unusable(
                "the host's salt or iterations (SCRAM) cannot be read".to_owned(),
            ));
        };
        if !(ITERATIONS_MIN..=ITERATIONS_MAX).contains(&iterations.get()) {
            return Err(AuthError::Unusable(format!(
                "the host wants {iterations} iterations (SCRAM), not {ITERATIONS_MIN} to {ITERATIONS_MAX}"
            )));
        }
        let bound =
            [self.header.as_bytes(), self.channel.as_ref().map_or(&[], <[u8; 32]>::as_slice)].concat();
        let before_proof = format!("c={},r={nonce}", STANDARD.encode(bound));
        let auth_message = format!("{},{message},{before_proof}", self.bare);
        let keys = Keys::derive(self.password.as_bytes(), &salt, iterations);
        let proof = STANDARD.encode(keys.proof(auth_message.as_bytes()));
        self.state = State::Proved(signature(&keys.server, auth_message.as_bytes()));
        Ok(format!("{before_proof},p={proof}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONCE: &str = "rOprNGfwEbeRWgbNEkqO";
    const SERVER_FIRST: &str =
        "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
    const SERVER_LAST: &str = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

    fn scram(binding: Binding) -> Scram {
        Scram::new("user", "pencil", binding, NONCE.to_owned())
    }

    /// RFC 7677 §3, every message of it.
    #[test]
    fn the_example_of_rfc_7677() {
        let mut scram = scram(Binding::None);
        assert_eq!(scram.first(), "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        assert_eq!(
            scram.answer(SERVER_FIRST).unwrap(),
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
             p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        );
        assert!(!scram.is_proven(), "235 at this place would prove nothing");
        assert_eq!(scram.answer(SERVER_LAST).unwrap(), "");
        assert!(scram.is_proven());
        assert!(matches!(scram.answer(SERVER_LAST), Err(AuthError::Unusable(_))));
    }

    #[test]
    fn a_host_that_cannot_sign_is_an_impostor() {
        for message in [
            "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G5=",
            "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95A==",
            "v=",
            "",
            "x=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
        ] {
            let mut scram = scram(Binding::None);
            scram.answer(SERVER_FIRST).unwrap();
            assert!(matches!(scram.answer(message), Err(AuthError::Impostor(_))), "{message}");
            assert!(!scram.is_proven());
        }
        let mut refused = scram(Binding::None);
        refused.answer(SERVER_FIRST).unwrap();
        assert_eq!(refused.answer("e=invalid-proof").unwrap(), "", "the 535 follows");
        assert!(!refused.is_proven());
    }

    #[test]
    fn an_answer_with_another_nonce_is_no_answer_to_us() {
        for nonce in ["", "rOprNGfwEbeRWgbNEkqO", "rOprNGfwEbeRWgbNEkqX%hvY", "rOprNGfwEbeRWgbNEkqO a"] {
            let message = SERVER_FIRST.replace("rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0", nonce);
            assert!(matches!(scram(Binding::None).answer(&message), Err(AuthError::Impostor(_))), "{nonce}");
        }
    }

    #[test]
    fn what_cannot_be_computed_with_is_unusable() {
        for message in [
            "",
            "r=x",
            "m=must,r=rOprNGfwEbeRWgbNEkqOx,s=AAAA,i=4096",
            "r=rOprNGfwEbeRWgbNEkqOx,s=,i=4096",
            "r=rOprNGfwEbeRWgbNEkqOx,s=*,i=4096",
            "r=rOprNGfwEbeRWgbNEkqOx,s=AAAA,i=",
            "r=rOprNGfwEbeRWgbNEkqOx,s=AAAA,i=0",
            "r=rOprNGfwEbeRWgbNEkqOx,s=AAAA,i=-1",
            "r=rOprNGfwEbeRWgbNEkqOx,s=AAAA,i=4095",
            "r=rOprNGfwEbeRWgbNEkqOx,s=AAAA,i=1000001",
        ] {
            assert!(matches!(scram(Binding::None).answer(message), Err(AuthError::Unusable(_))), "{message}");
        }
        let extended = format!("{SERVER_FIRST},x=more");
        assert!(scram(Binding::None).answer(&extended).is_ok(), "unknown extensions behind are ignored");
    }

    #[test]
    fn the_header_says_how_the_exchange_is_bound() {
        let last = |binding| {
            let mut scram = scram(binding);
            let first = scram.first();
            let last = scram.answer(SERVER_FIRST).unwrap();
            let bound = last.strip_prefix("c=").and_then(|rest| rest.split(',').next()).unwrap().to_owned();
            (first.split("n=").next().unwrap().to_owned(), STANDARD.decode(bound).unwrap())
        };
        assert_eq!(last(Binding::NotOffered), ("y,,".to_owned(), b"y,,".to_vec()));
        let bound = [&b"p=tls-exporter,,"[..], &[7; 32]].concat();
        assert_eq!(last(Binding::To([7; 32])), ("p=tls-exporter,,".to_owned(), bound));
    }

    #[test]
    fn names_are_escaped() {
        let scram = Scram::new("a,b=", "", Binding::None, "abc".to_owned());
        assert_eq!(scram.first(), "n,,n=a=2Cb=3D,r=abc");
    }
}
