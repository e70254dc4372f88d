//! Exchanges of every mechanism, against a real users file: `app` with CRAM-MD5 and `plain` without, both
//! with the password `secret`.

use super::*;
use crate::submission::users::{self, Attributes, Users};

struct Fixture {
    _directory: tempfile::TempDir,
    users: Arc<Users>,
    hostname: Domain,
}

/// The nonce of [`offer`].
const NONCE: &str = "AAAAAAAAAAAAAAAAAAAAAAAA";

fn offer(channel: Option<ChannelBinding>) -> Offer {
    Offer { channel, cram_md5: true, atrn: false, nonce: || Some(NONCE.to_owned()) }
}

impl Fixture {
    fn new() -> Fixture {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("users");
        for (name, cram_md5) in [("app", true), ("plain", false)] {
            users::add(&path, name, "secret", &Attributes { cram_md5, ..Attributes::default() }).unwrap();
        }
        let users = Arc::new(Users::load(&path).unwrap());
        Fixture { _directory: directory, users, hostname: Domain::parse("relay.example").unwrap() }
    }

    fn begin(&self, mechanism: &str, initial: Option<&str>, channel: Option<ChannelBinding>) -> AuthStep {
        let step = begin(mechanism, initial, &offer(channel), &self.hostname);
        self.settle(step)
    }

    fn answer(&self, exchange: Exchange, response: &str) -> AuthStep {
        self.settle(answer(exchange, base64(response).as_bytes()))
    }

    /// Asks the users where they have to be asked.
    fn settle(&self, step: AuthStep) -> AuthStep {
        match step {
            AuthStep::Verify(claim) => claim.put_to(&self.users, LoginSource::Known),
            step => step,
        }
    }

    /// A whole SCRAM exchange of a client that has this password; how it ended.
    fn scram(&self, header: &str, name: &str, password: &str, channel: Option<ChannelBinding>) -> AuthStep {
        let plus = header.starts_with("p=");
        let mechanism = if plus { "SCRAM-SHA-256-PLUS" } else { "SCRAM-SHA-256" };
        let bare = format!("n={name},r=client");
        let first = base64(&format!("{header}{bare}"));
        let (challenge, exchange) = match self.begin(mechanism, Some(&first), channel) {
            AuthStep::Challenge(reply, exchange) => (text(&reply), exchange),
            step => return step,
        };
        let nonce = format!("client{NONCE}");
        assert!(challenge.starts_with(&format!("r={nonce},s=")), "{challenge}");
        let bound = match channel {
            Some(channel) if plus => [header.as_bytes(), &channel].concat(),
            _ => header.as_bytes().to_vec(),
        };
        let last = format!("c={},r={nonce}", STANDARD.encode(bound));
        let auth_message = format!("{bare},{challenge},{last}");
        let verifier = self.users.with_scram(name).verifier;
        let proof = STANDARD.encode(verifier.proof(password.as_bytes(), auth_message.as_bytes()));
        match self.answer(exchange, &format!("{last},p={proof}")) {
            AuthStep::Challenge(reply, exchange) => {
                let signature = STANDARD.encode(verifier.signature(auth_message.as_bytes()));
                assert_eq!(text(&reply), format!("v={signature}"), "the server proves itself too");
                self.answer(exchange, "")
            }
            step => step,
        }
    }

    fn cram_md5(&self, name: &str, password: &str) -> AuthStep {
        let AuthStep::Challenge(reply, exchange) = self.begin("CRAM-MD5", None, None) else {
            panic!("no challenge")
        };
        let challenge = text(&reply);
        assert_eq!(challenge, format!("<{NONCE}@relay.example>"));
        let digest = hmac_md5(password.as_bytes(), challenge.as_bytes());
        self.answer(exchange, &format!("{name} {digest}"))
    }
}

fn hmac_md5(key: &[u8], data: &[u8]) -> String {
    use md5::{Digest as _, Md5};
    let pad = |with: u8| (0..64).map(|at| key.get(at).unwrap_or(&0) ^ with).collect::<Vec<u8>>();
    let inner = Md5::new().chain_update(pad(0x36)).chain_update(data).finalize();
    let outer = Md5::new().chain_update(pad(0x5c)).chain_update(inner).finalize();
    outer.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn base64(text: &str) -> String {
    STANDARD.encode(text)
}

/// What a challenge says.
fn text(reply: &Reply) -> String {
    assert_eq!(reply.code, 334);
    String::from_utf8(STANDARD.decode(&*reply.text).unwrap()).unwrap()
}

fn who(step: AuthStep) -> Result<String, AuthStep> {
    match step {
        AuthStep::LoggedIn(user) => Ok(user.name.clone()),
        step => Err(step),
    }
}

fn refused(step: AuthStep) -> String {
    match step {
        AuthStep::Refuse(reply) => reply.to_string(),
        other => panic!("{other:?}"),
    }
}

fn wrong(name: &str) -> Result<String, AuthStep> {
    Err(AuthStep::Failed(name.to_owned()))
}

#[test]
fn plain_comes_at_once_or_after_an_empty_challenge() {
    let stage = Fixture::new();
    let response = base64("\0app\0secret");
    assert_eq!(who(stage.begin("PLAIN", Some(&response), None)), Ok("app".into()));
    assert_eq!(
        stage.begin("PLAIN", None, None),
        AuthStep::Challenge(replies::CHALLENGE_EMPTY, Exchange::Plain)
    );
    assert_eq!(who(stage.answer(Exchange::Plain, "\0app\0secret")), Ok("app".into()));
    assert_eq!(who(stage.answer(Exchange::Plain, "app\0app\0secret")), Ok("app".into()));
    assert_eq!(who(stage.answer(Exchange::Plain, "\0app\0wrong")), wrong("app"));
    assert_eq!(who(stage.answer(Exchange::Plain, "\0nobody\0secret")), wrong("nobody"));
}

#[test]
fn login_asks_for_name_and_password() {
    let stage = Fixture::new();
    let login = |initial: Option<&str>, password: &str| {
        let mut step = stage.begin("LOGIN", initial, None);
        if initial.is_none() {
            let AuthStep::Challenge(_, exchange) = step else { panic!("no challenge") };
            step = stage.answer(exchange, "app");
        }
        let AuthStep::Challenge(reply, exchange) = step else { panic!("no second challenge") };
        assert_eq!(reply, replies::CHALLENGE_PASSWORD);
        who(stage.answer(exchange, password))
    };
    assert_eq!(login(None, "secret"), Ok("app".into()));
    assert_eq!(login(Some(&base64("app")), "secret"), Ok("app".into()));
    assert_eq!(login(None, "Secret"), wrong("app"));
}

#[test]
fn cram_md5_takes_a_digest_of_who_may() {
    let stage = Fixture::new();
    assert_eq!(who(stage.cram_md5("app", "secret")), Ok("app".into()));
    assert_eq!(who(stage.cram_md5("app", "Secret")), wrong("app"));
    assert_eq!(who(stage.cram_md5("plain", "secret")), wrong("plain"), "added without --cram-md5");
    assert_eq!(who(stage.cram_md5("nobody", "secret")), wrong("nobody"));
    let initial = refused(stage.begin("CRAM-MD5", Some(&base64("app x")), None));
    assert!(initial.starts_with("501 5.7.0"), "RFC 4954 section 4: {initial}");
    let none = Offer { cram_md5: false, ..offer(None) };
    assert!(refused(begin("CRAM-MD5", None, &none, &stage.hostname)).starts_with("504 5.5.4"));
}

#[test]
fn scram_proves_both_to_each_other() {
    let stage = Fixture::new();
    for name in ["app", "plain"] {
        assert_eq!(who(stage.scram("n,,", name, "secret", None)), Ok(name.into()));
    }
    assert_eq!(who(stage.scram("y,,", "app", "secret", None)), Ok("app".into()));
    for header in ["n,a=app,", "n,a=,"] {
        assert_eq!(who(stage.scram(header, "app", "secret", None)), Ok("app".into()), "{header}");
    }
    assert_eq!(who(stage.scram("n,,", "app", "Secret", None)), wrong("app"));
    assert_eq!(who(stage.scram("n,,", "nobody", "secret", None)), wrong("nobody"));
    let AuthStep::Challenge(reply, exchange) = stage.begin("SCRAM-SHA-256", None, None) else {
        panic!("no challenge")
    };
    assert_eq!(text(&reply), "");
    let first = stage.answer(exchange, "n,,n=app,r=abc");
    assert!(matches!(first, AuthStep::Challenge(_, Exchange::ScramLast(_))));
}

#[test]
fn scram_plus_is_bound_to_the_connection_and_cannot_be_talked_away() {
    let stage = Fixture::new();
    let channel = Some([7; 32]);
    assert_eq!(who(stage.scram("p=tls-exporter,,", "app", "secret", channel)), Ok("app".into()));
    assert_eq!(who(stage.scram("n,,", "app", "secret", channel)), Ok("app".into()), "it cannot bind");
    let downgraded = refused(stage.scram("y,,", "app", "secret", channel));
    assert!(downgraded.starts_with("535 5.7.8 SCRAM-SHA-256-PLUS was offered"), "{downgraded}");
    let not_offered = refused(stage.begin("SCRAM-SHA-256-PLUS", None, None));
    assert!(not_offered.starts_with("504"), "{not_offered}");
}

#[test]
fn after_the_servers_proof_the_client_has_nothing_to_say() {
    let end = || Exchange::ScramEnd(Arc::new(User::default()));
    assert!(matches!(answer(end(), b""), AuthStep::LoggedIn(_)));
    assert!(refused(answer(end(), b"AAAA")).starts_with("501 5.5.2"));
    assert!(refused(answer(end(), b"*")).starts_with("501 5.7.0"), "it does not believe us");
}

#[test]
fn the_challenge_of_a_wrong_name_looks_like_any_and_stays_the_same() {
    let stage = Fixture::new();
    let challenge = |name: &str| {
        let first = base64(&format!("n,,n={name},r=abc"));
        match stage.begin("SCRAM-SHA-256", Some(&first), None) {
            AuthStep::Challenge(reply, _) => text(&reply),
            step => panic!("{step:?}"),
        }
    };
    assert_eq!(challenge("nobody"), challenge("nobody"));
    assert_ne!(challenge("nobody"), challenge("nobody2"));
    assert_eq!(challenge("app"), challenge("app"));
    let (real, decoy) = (challenge("app"), challenge("nobody"));
    let iterations = |challenge: &str| challenge.rsplit_once(",i=").unwrap().1.to_owned();
    assert_eq!((real.len(), iterations(&real)), (decoy.len(), iterations(&decoy)));
}

#[test]
fn what_is_no_response_is_refused() {
    let stage = Fixture::new();
    assert!(refused(stage.begin("XOAUTH2", None, None)).starts_with("504 5.5.4"));
    assert!(refused(stage.begin("SCRAM-SHA-1", None, None)).starts_with("504 5.5.4"));
    let exchanges = || {
        let challenge = "<x@y>".to_owned();
        let start = |mechanism| match stage.begin(mechanism, None, Some([0; 32])) {
            AuthStep::Challenge(_, exchange) => exchange,
            step => panic!("{step:?}"),
        };
        [
            Exchange::Plain,
            Exchange::CramMd5 { challenge },
            start("SCRAM-SHA-256"),
            start("SCRAM-SHA-256-PLUS"),
        ]
    };
    for exchange in exchanges() {
        assert!(refused(answer(exchange.clone(), b"*")).starts_with("501 5.7.0"), "{exchange:?}");
        assert!(refused(answer(exchange.clone(), b"not base64!")).starts_with("501 5.5.2"), "{exchange:?}");
        for text in ["", "app", "\0app", "\0app\0secret\0more", "root\0app\0secret", "n,,n=app"] {
            let reply = refused(stage.answer(exchange.clone(), text));
            assert!(reply.starts_with("501 5.5.2"), "{exchange:?} {text:?}: {reply}");
        }
    }
    for mechanism in ["PLAIN", "SCRAM-SHA-256"] {
        assert!(refused(stage.begin(mechanism, Some("="), None)).starts_with("501 5.5.2"));
    }
    let no_random = Offer { nonce: || None, ..offer(None) };
    let reply = refused(begin("SCRAM-SHA-256", None, &no_random, &stage.hostname));
    assert!(reply.starts_with("454 4.7.0"), "{reply}");
}

#[test]
fn mechanisms_are_offered_where_they_can_be_had() {
    assert_eq!(offer(Some([0; 32])).mechanisms(), "SCRAM-SHA-256-PLUS SCRAM-SHA-256 PLAIN LOGIN CRAM-MD5");
    let least = Offer { cram_md5: false, ..offer(None) };
    assert_eq!(least.mechanisms(), "SCRAM-SHA-256 PLAIN LOGIN");
}

#[test]
fn a_secret_is_never_shown() {
    let stage = Fixture::new();
    let asked = begin("PLAIN", Some(&base64("\0app\0hunter2")), &offer(None), &stage.hostname);
    assert!(!format!("{asked:?}").contains("hunter2"), "{asked:?}");
    let user = stage.users.find("app").unwrap();
    let line = format!("{user:?}");
    assert!(line.contains("Verifier(…)") && line.contains("CramMd5(…)"), "{line}");
}
