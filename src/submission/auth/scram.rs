//! SCRAM-SHA-256 and SCRAM-SHA-256-PLUS (RFC 5802, RFC 7677), the server's side: messages in, messages
//! and a verdict out. Pure; the arithmetic of keys is `sasl/scram.rs`.
//!
//! ```text
//! C: n,,n=user,r=CLIENT                      First::read
//! S: r=CLIENTSERVER,s=SALT,i=ITERATIONS      First::challenge
//! C: c=biws,r=CLIENTSERVER,p=PROOF           Last::judge
//! S: v=SIGNATURE
//! ```
//!
//! With -PLUS, `c=` also holds what both sides know of their TLS connection (RFC 9266): an attacker
//! between two TLS connections cannot pass the proof on. A client that says "you offered no -PLUS"
//! where it was offered was lied to by somebody between, and is refused (RFC 5802 §6).

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::sasl::ChannelBinding;
use crate::sasl::scram::{BINDING_TYPE, is_nonce, unescaped};
use crate::submission::users::{Known, User, Verifier};

/// Before the client's first message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::submission) struct Start {
    /// The mechanism is SCRAM-SHA-256-PLUS.
    pub(super) plus: bool,
    /// With it -PLUS is offered on this connection.
    pub(super) channel: Option<ChannelBinding>,
    /// Our part of the nonce.
    pub(super) nonce: String,
}

/// The client's first message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::submission) struct First {
    pub(super) name: String,
    /// What `c=` must hold in the end.
    bound: Vec<u8>,
    bare: String,
    nonce: String,
}

/// What the client's last message is judged by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::submission) struct Last {
    pub(super) name: String,
    bound: Vec<u8>,
    nonce: String,
    /// `client-first-message-bare "," server-first-message`.
    said: String,
    user: Option<Arc<User>>,
    verifier: Verifier,
}

/// Why a first message is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FirstMessageError {
    /// Not in the form of RFC 5802 §7, or asks for what is not supported.
    Malformed,
    /// It says that -PLUS was not offered, and it was.
    Downgraded,
}

/// What the last message proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ProofCheck {
    /// This user has the password; the message that proves us to the client.
    Right(Arc<User>, String),
    /// Nothing.
    Wrong,
    /// It is no such message.
    Malformed,
}

impl First {
    /// Whose it claims to be.
    pub(in crate::submission) fn name(&self) -> &str {
        &self.name
    }

    /// Reads `client-first-message`.
    pub(super) fn read(message: &[u8], start: Start) -> Result<First, FirstMessageError> {
        let text = std::str::from_utf8(message).map_err(|_| FirstMessageError::Malformed)?;
        let (flag, rest) = text.split_once(',').ok_or(FirstMessageError::Malformed)?;
        let (authzid, bare) = rest.split_once(',').ok_or(FirstMessageError::Malformed)?;
        let binding = match (flag, start.plus, start.channel) {
            ("n", false, _) | ("y", false, None) => Vec::new(),
            ("y", false, Some(_)) => return Err(FirstMessageError::Downgraded),
            (flag, true, Some(channel)) if flag.strip_prefix("p=") == Some(BINDING_TYPE) => channel.to_vec(),
            _ => return Err(FirstMessageError::Malformed),
        };
        let mut attributes = bare.split(',');
        // "m=" would come here: an extension that we had to know (RFC 5802 §5.1).
        let name = attributes.next().and_then(|text| unescaped(text.strip_prefix("n=")?));
        let nonce = attributes.next().and_then(|text| text.strip_prefix("r=")).filter(|text| is_nonce(text));
        let (Some(name), Some(nonce)) = (name, nonce) else { return Err(FirstMessageError::Malformed) };
        let same = authzid.strip_prefix("a=").and_then(unescaped).is_some_and(|authzid| authzid == name);
        // "a=" alone is no authzid in the grammar, and what gsasl sends for none.
        if !(matches!(authzid, "" | "a=") || same) {
            // Nobody may act for another here.
            return Err(FirstMessageError::Malformed);
        }
        let header = &text[..text.len() - bare.len()];
        Ok(First {
            bound: [header.as_bytes(), &binding].concat(),
            nonce: format!("{nonce}{}", start.nonce),
            bare: bare.to_owned(),
            name,
        })
    }

    /// `server-first-message`, and what goes on with its answer.
    pub(super) fn challenge(self, known: Known) -> (String, Last) {
        let Known { user, verifier } = known;
        let salt = STANDARD.encode(&verifier.salt);
        let challenge = format!("r={},s={salt},i={}", self.nonce, verifier.iterations);
        let said = format!("{},{challenge}", self.bare);
        (challenge, Last { name: self.name, bound: self.bound, nonce: self.nonce, said, user, verifier })
    }
}

impl Last {
    /// Whose it claims to be.
    pub(in crate::submission) fn name(&self) -> &str {
        &self.name
    }

    /// Reads `client-final-message` and holds its proof against the verifier. The same work for
    /// everybody, whether there is such a user or not.
    pub(super) fn judge(self, message: &[u8]) -> ProofCheck {
        let read = || {
            let (before, proof) = std::str::from_utf8(message).ok()?.rsplit_once(",p=")?;
            let mut attributes = before.split(',');
            let bound = STANDARD.decode(attributes.next()?.strip_prefix("c=")?).ok()?;
            let nonce = attributes.next()?.strip_prefix("r=")?;
            Some((before, bound, nonce, STANDARD.decode(proof).ok()?))
        };
        let Some((before, bound, nonce, proof)) = read() else { return ProofCheck::Malformed };
        let auth_message = format!("{},{before}", self.said);
        let proven = self.verifier.is_proven(auth_message.as_bytes(), &proof);
        let same_conversation = bound == self.bound && nonce == self.nonce;
        match self.user {
            Some(user) if proven && same_conversation => {
                let signature = STANDARD.encode(self.verifier.signature(auth_message.as_bytes()));
                ProofCheck::Right(user, format!("v={signature}"))
            }
            _ => ProofCheck::Wrong,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERIFIER: &str = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";
    const FIRST: &[u8] = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
    const OUR_NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    const LAST: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";

    fn start(plus: bool, channel: Option<ChannelBinding>) -> Start {
        Start { plus, channel, nonce: OUR_NONCE.to_owned() }
    }

    fn known() -> Known {
        let user = User { name: "user".into(), ..User::default() };
        Known { user: Some(Arc::new(user)), verifier: VERIFIER.parse().unwrap() }
    }

    fn last() -> Last {
        First::read(FIRST, start(false, None)).unwrap().challenge(known()).1
    }

    /// RFC 7677 §3, every message of it.
    #[test]
    fn the_example_of_rfc_7677() {
        let first = First::read(FIRST, start(false, None)).unwrap();
        assert_eq!(first.name, "user");
        let (challenge, last) = first.challenge(known());
        assert_eq!(
            challenge,
            "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
        );
        let ProofCheck::Right(user, message) = last.judge(LAST.as_bytes()) else { panic!("not right") };
        assert_eq!(user.name, "user");
        assert_eq!(message, "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
    }

    #[test]
    fn what_proves_nothing_is_wrong() {
        let proof = LAST.rsplit_once("p=").unwrap().1;
        for message in [
            LAST.replace("p=dH", "p=dI"),
            LAST.replace("p=dHzb", "p="),
            LAST.replace(proof, &STANDARD.encode([0; 32])),
            LAST.replace(proof, ""),
            // Another gs2 header than the first message had: "y,,", and "p=tls-exporter,,".
            LAST.replace("biws", "eSws"),
            LAST.replace("biws", "cD10bHMtZXhwb3J0ZXIsLA=="),
            LAST.replace("biws", ""),
            // Another nonce, or the client's own alone.
            LAST.replace("k0,", "k1,"),
            LAST.replace(OUR_NONCE, ""),
            // The proof does not cover this.
            LAST.replace(",p=", ",x=more,p="),
        ] {
            assert_ne!(message, LAST);
            assert_eq!(last().judge(message.as_bytes()), ProofCheck::Wrong, "{message}");
        }
        let nobody = Known { user: None, ..known() };
        let (_, last) = First::read(FIRST, start(false, None)).unwrap().challenge(nobody);
        assert_eq!(last.judge(LAST.as_bytes()), ProofCheck::Wrong, "the right proof of nobody");
    }

    #[test]
    fn what_is_no_message_is_malformed() {
        for message in [
            "",
            "*",
            "c=biws",
            "p=AAAA",
            "c=biws,p=AAAA",
            "r=x,c=biws,p=AAAA",
            "c=biws,r=x,p=A",
            "c=b,r=x,p=",
        ] {
            assert_eq!(last().judge(message.as_bytes()), ProofCheck::Malformed, "{message}");
        }
        assert_eq!(last().judge(b"c=biws,r=\xff,p=AAAA"), ProofCheck::Malformed);
        for message in [
            "",
            "n",
            "n,",
            "n,,",
            "n,,n=user",
            "n,,r=abc,n=user",
            "n,,n=,r=abc",
            "n,,n=user,r=",
            "n,,n=user,r=a b",
            "n,,n=us=er,r=abc",
            "n,,n=us=2cer,r=abc",
            "n,,m=must,n=user,r=abc",
            "n,a=other,n=user,r=abc",
            "n,user,n=user,r=abc",
            "x,,n=user,r=abc",
            "p=tls-exporter,,n=user,r=abc",
        ] {
            let read = First::read(message.as_bytes(), start(false, None));
            assert_eq!(read, Err(FirstMessageError::Malformed), "{message}");
        }
        for message in ["n,,n=user,r=abc", "y,,n=user,r=abc", "p=tls-unique,,n=user,r=abc"] {
            let read = First::read(message.as_bytes(), start(true, Some([1; 32])));
            assert_eq!(read, Err(FirstMessageError::Malformed), "with -PLUS: {message}");
        }
    }

    #[test]
    fn names_are_unescaped_and_extensions_passed_over() {
        let first = First::read(b"n,a=a=2Cb=3D,n=a=2Cb=3D,r=abc,x=more", start(false, None)).unwrap();
        assert_eq!(first.name, "a,b=");
    }

    /// RFC 5802 §6: a client that could bind and was told that we could not.
    #[test]
    fn a_client_that_was_told_of_no_plus_where_it_was_offered_is_refused() {
        let y = b"y,,n=user,r=abc";
        assert_eq!(First::read(y, start(false, Some([1; 32]))), Err(FirstMessageError::Downgraded));
        assert!(First::read(y, start(false, None)).is_ok());
        assert!(First::read(b"n,,n=user,r=abc", start(false, Some([1; 32]))).is_ok(), "it cannot bind");
    }

    #[test]
    fn with_plus_the_proof_holds_for_one_connection() {
        let message = b"p=tls-exporter,,n=user,r=abc";
        let judge = |bound: &[u8]| {
            let first = First::read(message, start(true, Some([7; 32]))).unwrap();
            let (challenge, last) = first.challenge(known());
            let said = format!("n=user,r=abc,{challenge}");
            let bound = STANDARD.encode([b"p=tls-exporter,,", bound].concat());
            let before = format!("c={bound},r=abc{OUR_NONCE}");
            let proof = known().verifier.proof(b"pencil", format!("{said},{before}").as_bytes());
            last.judge(format!("{before},p={}", STANDARD.encode(proof)).as_bytes())
        };
        assert!(matches!(judge(&[7; 32]), ProofCheck::Right(..)));
        assert_eq!(judge(&[8; 32]), ProofCheck::Wrong, "made for another connection");
        assert_eq!(judge(&[]), ProofCheck::Wrong);
    }
}
