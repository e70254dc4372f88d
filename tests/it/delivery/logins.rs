//! Logging in at relays: every mechanism at a host that verifies, hosts that do not, and secrets that change.
//!
//! The verifying hosts here are written against the RFCs and share no code with Postrider; one more is Postrider
//! itself.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aws_lc_rs::{digest, hmac, pbkdf2};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use postrider::config::{Login, RouteTls, SecretSource};
use postrider::delivery::smtp::connection::Connection;
use postrider::delivery::smtp::endpoint::Endpoint;
use postrider::mail::{Outcome, Phase, TlsPolicy};

use crate::delivery::connection::{NotOpened, Opener, settings};
use crate::harness::fakemx::{Ask, Certificate, FakeMx, SOON, Script, Seen};
use crate::harness::relay::{Config, PASSWORD, Relay, USER, World, mail, write_secret};
use crate::harness::sender::{SENDER, wait_for_end};

const NAME: &str = "me@example.com";
const SECRET: &str = "pass,word=1";

/// Where a login is made, and with what.
struct Stage {
    directory: tempfile::TempDir,
    connector: Opener,
}

impl Stage {
    fn new() -> Stage {
        let stage = Stage { directory: tempfile::tempdir().unwrap(), connector: Opener::new(&settings()) };
        stage.write(SECRET);
        stage
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("secret")
    }

    fn write(&self, secret: &str) {
        std::fs::write(self.file(), format!("{secret}\n")).unwrap();
    }

    fn endpoint(&self, host: &FakeMx, tls: RouteTls, secret: SecretSource) -> Endpoint {
        Endpoint {
            host: "smtp.up.test".to_owned(),
            address: host.address,
            tls,
            policy: TlsPolicy::None,
            dane: None,
            ca_file: None,
            login: Some(Login { username: NAME.to_owned(), secret }),
            relay: true,
            preference: 0,
            sources: Arc::default(),
        }
    }

    fn open(&self, host: &FakeMx, tls: RouteTls, secret: SecretSource) -> Result<Connection, NotOpened> {
        self.connector.open(&self.endpoint(host, tls, secret), Instant::now() + SOON)
    }

    /// With the password in the file.
    fn with_password(&self, host: &FakeMx, tls: RouteTls) -> Result<(), NotOpened> {
        self.open(host, tls, SecretSource::PasswordFile(self.file())).map(Connection::quit)
    }

    /// With the token in the file.
    fn with_token(&self, host: &FakeMx) -> Result<(), NotOpened> {
        self.open(host, RouteTls::Off, SecretSource::TokenFile(self.file())).map(Connection::quit)
    }
}

/// A host that offers these mechanisms and verifies them.
pub(super) fn host(
    mechanisms: &str,
    gate: impl Fn(&str, Ask<'_>) -> String + Send + Sync + 'static,
) -> Script {
    Script::new().offering(&["PIPELINING", &format!("AUTH {mechanisms}")]).gate(gate)
}

pub(super) fn base64(text: impl AsRef<[u8]>) -> String {
    STANDARD.encode(text)
}

pub(super) fn decoded(line: &str) -> String {
    String::from_utf8(STANDARD.decode(line).unwrap()).unwrap()
}

/// The AUTH commands without their responses.
fn spoken(seen: &Seen) -> Vec<&str> {
    let commands = seen.commands.iter().filter_map(|line| line.strip_prefix("AUTH "));
    commands.map(|rest| rest.split(' ').next().unwrap_or_default()).collect()
}

// ---- hosts that verify ---------------------------------------------------------------------------

/// Verifies every mechanism for [`NAME`] and [`SECRET`].
fn doorkeeper(command: &str, ask: Ask<'_>) -> String {
    let mut words = command.split(' ').skip(1);
    let (mechanism, initial) = (words.next().unwrap_or_default(), words.next().map(str::to_owned));
    let right = match mechanism {
        "PLAIN" => initial.or_else(|| ask("")).map(|line| decoded(&line) == format!("\0{NAME}\0{SECRET}")),
        "LOGIN" => {
            let name = ask(&base64("Username:"));
            name.zip(ask(&base64("Password:")))
                .map(|(name, password)| (decoded(&name), decoded(&password)) == (NAME.into(), SECRET.into()))
        }
        "CRAM-MD5" => {
            let challenge = "<1896.697170952@up.test>";
            ask(&base64(challenge)).map(|line| {
                decoded(&line) == format!("{NAME} {}", hmac_md5(SECRET.as_bytes(), challenge.as_bytes()))
            })
        }
        "XOAUTH2" => initial
            .or_else(|| ask(""))
            .map(|line| decoded(&line) == format!("user={NAME}\x01auth=Bearer {SECRET}\x01\x01")),
        "OAUTHBEARER" => initial.or_else(|| ask("")).map(|line| {
            let text = decoded(&line);
            let rest = text.strip_prefix(&format!("n,a={NAME},\x01host=smtp.up.test\x01port=")).unwrap();
            rest.trim_start_matches(|c: char| c.is_ascii_digit())
                == format!("\x01auth=Bearer {SECRET}\x01\x01")
        }),
        "SCRAM-SHA-256" => initial.and_then(|first| scram(&first, ask, |signature| signature)),
        _ => return "504 5.5.4 what?".to_owned(),
    };
    match right {
        Some(true) => "235 2.7.0 welcome".to_owned(),
        _ => "535 5.7.8 no".to_owned(),
    }
}

fn hmac_md5(key: &[u8], data: &[u8]) -> String {
    use md5::{Digest as _, Md5};
    let pad = |with: u8| (0..64).map(|at| key.get(at).unwrap_or(&0) ^ with).collect::<Vec<u8>>();
    let inner = Md5::new().chain_update(pad(0x36)).chain_update(data).finalize();
    let outer = Md5::new().chain_update(pad(0x5c)).chain_update(inner).finalize();
    outer.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// RFC 5802 from the server's side; `bend` may change the signature. None: the client went away.
fn scram(first: &str, ask: Ask<'_>, bend: impl Fn(Vec<u8>) -> Vec<u8>) -> Option<bool> {
    let sign = |key: &[u8], data: &str| {
        hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), data.as_bytes()).as_ref().to_vec()
    };
    let first = decoded(first);
    let bare = first.splitn(3, ',').nth(2).unwrap();
    let (name, nonce) = bare.strip_prefix("n=").unwrap().split_once(",r=").unwrap();
    let (nonce, salt) = (format!("{nonce}3rfcNHYJY1ZVvWVs7j"), b"some salt");
    let challenge = format!("r={nonce},s={},i=4096", base64(salt));
    let last = decoded(&ask(&base64(&challenge))?);
    let (before, proof) = last.split_once(",p=").unwrap();
    assert_eq!(before, format!("c={},r={nonce}", base64(first.strip_suffix(bare).unwrap())));
    let mut salted = [0; 32];
    let iterations = NonZeroU32::new(4096).unwrap();
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, salt, SECRET.as_bytes(), &mut salted);
    let stored = digest::digest(&digest::SHA256, &sign(&salted, "Client Key"));
    let said = format!("{bare},{challenge},{before}");
    let proof = STANDARD.decode(proof).unwrap();
    let key: Vec<u8> =
        proof.iter().zip(sign(stored.as_ref(), &said)).map(|(proof, signed)| proof ^ signed).collect();
    if digest::digest(&digest::SHA256, &key).as_ref() != stored.as_ref() || name != NAME {
        return Some(false);
    }
    let signature = bend(sign(&sign(&salted, "Server Key"), &said));
    if signature.is_empty() {
        return Some(true);
    }
    Some(ask(&base64(format!("v={}", base64(signature))))?.is_empty())
}

#[test]
fn every_mechanism_is_taken_by_a_host_that_verifies_it() {
    let stage = Stage::new();
    for mechanism in ["PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-256"] {
        let up = FakeMx::start(host(mechanism, doorkeeper));
        stage.with_password(&up, RouteTls::Off).unwrap_or_else(|trouble| panic!("{mechanism}: {trouble}"));
        assert_eq!(spoken(&up.wait_for_closed(1, SOON)[0]), [mechanism]);
    }
    for mechanism in ["XOAUTH2", "OAUTHBEARER"] {
        let up = FakeMx::start(host(mechanism, doorkeeper));
        stage.with_token(&up).unwrap_or_else(|trouble| panic!("{mechanism}: {trouble}"));
        assert_eq!(spoken(&up.wait_for_closed(1, SOON)[0]), [mechanism]);
    }
}

#[test]
fn a_password_is_shown_only_where_nothing_better_is_offered() {
    let stage = Stage::new();
    let certificate = Certificate::for_names(&["smtp.up.test"]);
    let choose = |offered: &str, tls| {
        let up = FakeMx::start(host(offered, doorkeeper).tls(&certificate));
        stage.with_password(&up, tls).unwrap();
        spoken(&up.wait_for_closed(1, SOON)[0]).join(" ")
    };
    let all = "CRAM-MD5 LOGIN PLAIN SCRAM-SHA-256 XOAUTH2";
    assert_eq!(choose(all, RouteTls::Encrypt), "SCRAM-SHA-256");
    assert_eq!(choose("CRAM-MD5 LOGIN PLAIN", RouteTls::Encrypt), "PLAIN");
    assert_eq!(choose("CRAM-MD5 LOGIN", RouteTls::Encrypt), "LOGIN");
    assert_eq!(choose("PLAIN CRAM-MD5", RouteTls::Off), "CRAM-MD5");
}

/// RFC 4954 §4: the AUTH command has its 512 bytes.
#[test]
fn a_long_token_waits_for_the_challenge() {
    let stage = Stage::new();
    let token = "t".repeat(2500);
    stage.write(&token);
    let expected = format!("user={NAME}\x01auth=Bearer {token}\x01\x01");
    let gate = move |command: &str, ask: Ask<'_>| {
        assert_eq!(command, "AUTH XOAUTH2");
        assert_eq!(decoded(&ask("").unwrap()), expected);
        "235 2.7.0 welcome".to_owned()
    };
    stage.with_token(&FakeMx::start(host("XOAUTH2", gate))).unwrap();
}

// ---- hosts that are not what they say --------------------------------------------------------------

#[test]
fn a_host_that_does_not_know_the_password_gets_no_mail() {
    type Bend = fn(Vec<u8>) -> Vec<u8>;
    let bends: [(Bend, &str); 3] = [
        (
            |mut signature| {
                signature[0] ^= 1;
                signature
            },
            "451 4.7.0 the host's signature (SCRAM) is wrong: it does not know the password",
        ),
        (
            |_| b"short".to_vec(),
            "451 4.7.0 the host's signature (SCRAM) is wrong: it does not know the password",
        ),
        (|_| Vec::new(), "451 4.7.0 the host says 235 without proof that it knows the password (SCRAM)"),
    ];
    let stage = Stage::new();
    for (bend, words) in bends {
        // PLAIN is offered, too: whoever cannot sign must not get the password by it.
        let gate = move |command: &str, ask: Ask<'_>| match command.split(' ').nth(2) {
            Some(first) if scram(first, ask, bend) == Some(true) => "235 2.7.0 come in".to_owned(),
            _ => "501 5.7.0 cancelled".to_owned(),
        };
        let up = FakeMx::start(host("SCRAM-SHA-256 PLAIN", gate));
        let trouble = stage.with_password(&up, RouteTls::Off).unwrap_err();
        assert_eq!((trouble.phase, trouble.outcome), (Phase::Auth, Outcome::Deferred));
        assert_eq!(trouble.reply.to_string(), words);
        let seen = &up.wait_for_closed(1, SOON)[0];
        assert_eq!(spoken(seen), ["SCRAM-SHA-256"], "{:?}", seen.commands);
        assert_eq!(seen.commands.last().map(String::as_str), Some("QUIT"));
    }
}

// ---- what is refused ---------------------------------------------------------------------------------

/// Says in turns what it is told to, whatever comes.
fn parrot(replies: &'static [&'static str]) -> impl Fn(&str, Ask<'_>) -> String + Send + Sync {
    let turn = AtomicUsize::new(0);
    move |command, ask| {
        let reply = replies[turn.fetch_add(1, Ordering::SeqCst).min(replies.len() - 1)];
        if let (Some(first), true) = (command.strip_prefix("AUTH SCRAM-SHA-256 "), reply.starts_with("535")) {
            // Not before the proof.
            let _ = scram(first, ask, |_| Vec::new());
        }
        reply.to_owned()
    }
}

#[test]
fn a_refused_mechanism_gives_way_to_the_next_and_a_refused_password_does_not() {
    for (offered, replies, tried, end) in [
        // 504 and 538 say nothing of the password.
        ("SCRAM-SHA-256 PLAIN LOGIN", &["504 5.5.4 no", "235 ok"][..], "SCRAM-SHA-256 PLAIN", None),
        ("PLAIN LOGIN", &["504 5.5.4 no", "538 5.7.11 no"], "PLAIN LOGIN", Some("538 5.7.11 no")),
        // Too weak: LOGIN is no stronger, CRAM-MD5 is.
        ("PLAIN LOGIN CRAM-MD5", &["534 5.7.9 weak", "235 ok"], "PLAIN CRAM-MD5", None),
        ("PLAIN LOGIN", &["534 5.7.9 weak"], "PLAIN", Some("534 5.7.9 weak")),
        // Perhaps nothing is kept to check SCRAM by; of PLAIN that cannot be.
        ("SCRAM-SHA-256 PLAIN LOGIN", &["535 5.7.8 no", "235 ok"], "SCRAM-SHA-256 PLAIN", None),
        (
            "SCRAM-SHA-256 PLAIN LOGIN CRAM-MD5",
            &["535 5.7.8 no"],
            "SCRAM-SHA-256 PLAIN",
            Some("535 5.7.8 no"),
        ),
        ("PLAIN LOGIN CRAM-MD5", &["535 5.7.8 no"], "PLAIN", Some("535 5.7.8 no")),
        ("SCRAM-SHA-256", &["535 5.7.8 no"], "SCRAM-SHA-256", Some("535 5.7.8 no")),
        ("SCRAM-SHA-256 PLAIN", &["432 4.7.12 once with PLAIN", "235 ok"], "SCRAM-SHA-256 PLAIN", None),
        ("SCRAM-SHA-256 PLAIN", &["454 4.7.0 not now"], "SCRAM-SHA-256", Some("454 4.7.0 not now")),
        ("SCRAM-SHA-256 PLAIN", &["421 4.7.0 bye"], "SCRAM-SHA-256", Some("421 4.7.0 bye")),
    ] {
        let stage = Stage::new();
        let certificate = Certificate::for_names(&["smtp.up.test"]);
        let up = FakeMx::start(host(offered, parrot(replies)).tls(&certificate));
        let said = stage.with_password(&up, RouteTls::Encrypt).err().map(|trouble| trouble.reply.to_string());
        assert_eq!(said.as_deref(), end, "{offered} {replies:?}");
        assert_eq!(spoken(&up.wait_for_closed(1, SOON)[0]).join(" "), tried, "{offered} {replies:?}");
    }
}

/// Hosts lock accounts after some refused logins: the one that SCRAM costs is not paid for each connection.
#[test]
fn the_mechanism_that_was_refused_is_not_tried_again_with_the_same_password() {
    let stage = Stage::new();
    let certificate = Certificate::for_names(&["smtp.up.test"]);
    let without_scram = |command: &str, ask: Ask<'_>| {
        if let Some(first) = command.strip_prefix("AUTH SCRAM-SHA-256 ") {
            let _ = scram(first, ask, |_| Vec::new());
            return "535 5.7.8 no".to_owned();
        }
        doorkeeper(command, ask)
    };
    let up = FakeMx::start(host("SCRAM-SHA-256 PLAIN", without_scram).tls(&certificate));
    for _ in 0..2 {
        stage.with_password(&up, RouteTls::Encrypt).unwrap();
    }
    stage.write("other");
    stage.with_password(&up, RouteTls::Encrypt).unwrap_err();
    stage.with_password(&up, RouteTls::Encrypt).unwrap_err();
    let seen = up.wait_for_closed(4, SOON);
    assert_eq!(
        seen.iter().map(spoken).collect::<Vec<_>>(),
        [&["SCRAM-SHA-256", "PLAIN"][..], &["PLAIN"], &["SCRAM-SHA-256", "PLAIN"], &["PLAIN"]]
    );
}

#[test]
fn a_password_or_token_that_changed_meanwhile_is_tried_once() {
    for mechanism in ["PLAIN", "XOAUTH2"] {
        let stage = Stage::new();
        stage.write("old");
        let file = stage.file();
        // The right one is written while the old one is being refused, and refused once more in the end.
        let changing = move |command: &str, ask: Ask<'_>| {
            let reply = doorkeeper(command, ask);
            std::fs::write(&file, if reply.starts_with("235") { "older" } else { SECRET }).unwrap();
            reply
        };
        let up = FakeMx::start(host(mechanism, changing));
        let login = || match mechanism {
            "PLAIN" => stage.with_password(&up, RouteTls::Off),
            _ => stage.with_token(&up),
        };
        login().unwrap();
        let seen = up.wait_for_closed(1, SOON);
        assert_eq!(spoken(&seen[0]), [mechanism; 2], "on one connection");
    }
}

/// Google says why in a challenge, and 535 after an empty response.
#[test]
fn an_error_about_a_token_is_acknowledged_and_quoted() {
    let acknowledged = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&acknowledged);
    let gate = move |_: &str, ask: Ask<'_>| {
        let error = r#"{"status":"401","schemes":"bearer","scope":"https://mail.google.com/"}"#;
        seen.lock().unwrap().extend(ask(&base64(error)));
        "535-5.7.8 Username and Password not accepted.\r\n535 5.7.8 Learn more".to_owned()
    };
    let gate = Arc::new(gate);
    for (mechanism, response) in [("XOAUTH2", ""), ("OAUTHBEARER", "AQ==")] {
        let gate = Arc::clone(&gate);
        let up = FakeMx::start(host(mechanism, move |command, ask| gate(command, ask)));
        let trouble = Stage::new().with_token(&up).unwrap_err();
        assert_eq!(
            trouble.reply.to_string(),
            "535 5.7.8 Username and Password not accepted. Learn more (of the token: 401)"
        );
        assert_eq!(std::mem::take(&mut *acknowledged.lock().unwrap()), [response]);
    }
}

#[test]
fn a_token_command_is_run_for_the_first_login_and_after_a_refusal() {
    let stage = Stage::new();
    let counter = stage.directory.path().join("runs");
    // Prints "old", then the right one; and then fails.
    let script = format!(
        "echo run >> \"$0\"; case $(wc -l < \"$0\") in *1) echo old;; *2) echo '{SECRET}'; echo second;; \
         *) echo 'no more tokens' >&2; exit 7;; esac"
    );
    let words = ["/bin/sh", "-c", &script, counter.to_str().unwrap()].map(str::to_owned);
    let login = |host: &FakeMx| {
        stage.open(host, RouteTls::Off, SecretSource::TokenCommand(words.to_vec())).map(Connection::quit)
    };
    let up = FakeMx::start(host("XOAUTH2", doorkeeper));
    login(&up).unwrap();
    login(&up).unwrap();
    let seen = up.wait_for_closed(2, SOON);
    assert_eq!(
        seen.iter().map(|seen| spoken(seen).len()).collect::<Vec<_>>(),
        [2, 1],
        "kept while it is good"
    );
    let closed = FakeMx::start(host("XOAUTH2", parrot(&["535 5.7.8 no"])));
    let trouble = login(&closed).unwrap_err();
    assert_eq!(
        trouble.reply.to_string(),
        "451 4.7.0 no login: token_command /bin/sh ended with exit status: 7: no more tokens (after the host had said \
         535 5.7.8 no)"
    );
    assert_eq!((trouble.phase, trouble.outcome), (Phase::Auth, Outcome::Deferred));
    assert_eq!(spoken(&closed.wait_for_closed(1, SOON)[0]), ["XOAUTH2"]);
}

#[test]
fn without_a_secret_there_is_no_login_and_the_words_say_why() {
    let stage = Stage::new();
    let up = FakeMx::start(host("PLAIN XOAUTH2", doorkeeper));
    let shell =
        |script: &str| SecretSource::TokenCommand(["/bin/sh", "-c", script].map(str::to_owned).to_vec());
    let missing = stage.directory.path().join("missing");
    for (source, words) in [
        (shell("exit 3"), "token_command /bin/sh ended with exit status: 3".to_owned()),
        (shell(":"), "token_command /bin/sh printed nothing on its first line".to_owned()),
        (
            shell("echo two words"),
            "token_command /bin/sh gave what is no token: a token has no spaces and no characters beyond ASCII"
                .to_owned(),
        ),
        (
            SecretSource::PasswordFile(missing.clone()),
            format!("password_file {} cannot be read: No such file or directory (os error 2)", missing.display()),
        ),
    ] {
        let trouble = stage.open(&up, RouteTls::Off, source).unwrap_err();
        assert_eq!(trouble.phase, Phase::Auth);
        assert_eq!(trouble.reply.to_string(), format!("451 4.7.0 no login: {words}"));
    }
    // Whatever it is, it takes no longer than the attempt may.
    let endpoint = stage.endpoint(&up, RouteTls::Off, shell("sleep 600"));
    let trouble = stage.connector.open(&endpoint, Instant::now() + Duration::from_secs(2)).unwrap_err();
    assert!(trouble.reply.text.contains("took longer than 1 s and was killed"), "{}", trouble.reply);
    assert!(up.wait_for_closed(5, SOON).iter().all(|seen| spoken(seen).is_empty()));
}

// ---- Postrider at Postrider ----------------------------------------------------------------------

/// The upstream is Postrider, which verifies with its own code: SCRAM-SHA-256-PLUS, bound to the TLS connection.
#[test]
fn one_relay_logs_in_at_another() {
    let mut world = World::new();
    let mx = world.host("far.test", Script::new());
    let mut up = Relay::prepare(world.configured(Config::new()));
    up.add_user_with(USER, &["--cram-md5"]);
    up.spawn_logging("debug");
    up.wait_until_ready();
    for (address, tls, mechanism) in [
        (up.starttls, "verify", "SCRAM-SHA-256-PLUS"),
        (up.implicit, "implicit", "SCRAM-SHA-256-PLUS"),
        // On loopback Postrider offers AUTH in the clear.
        (up.clear, "off", "SCRAM-SHA-256"),
    ] {
        let secret = up.path("upstream.secret");
        write_secret(&secret, &format!("{PASSWORD}\n"));
        let ca = up.path("ca.pem");
        let ca = if tls == "off" { String::new() } else { format!("ca_file = {ca:?}\n") };
        let route = format!(
            "domain = \"*\"\nrelay = [\"[127.0.0.1]:{}\"]\ntls = \"{tls}\"\n{ca}username = \"{USER}\"\n\
             password_file = {secret:?}",
            address.port()
        );
        let down = world.relay(Config::new().set("hostname", "\"down.test\"").route(&route));
        let to = format!("{tls}@far.test");
        down.submit(SENDER, &[&to], &mail(tls));
        wait_for_end(&down, &to, "delivered");
        wait_for_end(&up, &to, "delivered");
        let log = up.log();
        let last = log.lines().rfind(|line| line.contains(": C: AUTH ")).unwrap_or_default();
        assert!(last.ends_with(&format!("C: AUTH {mechanism} …")), "{tls}: {last}");
        assert!(!down.log().contains(PASSWORD), "no secret in the log");
    }
    mx.wait_for_messages(3, SOON);
}
