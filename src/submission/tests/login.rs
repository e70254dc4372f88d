//! Logins over loopback sockets and TLS, against a real users file: channel binding, counts of failures, rates.

use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::submission::Submission;
use crate::submission::tests::client::{Player, tls_client, tls_client_of};
use crate::submission::tests::doubles::{MemoryQueue, ports, settings};
use crate::submission::users::{self, Attributes, Directory as _, Users};

struct Room {
    directory: tempfile::TempDir,
    users: Arc<Users>,
    submission: Submission,
}

/// Users `app`, `old` (with CRAM-MD5) and `slow` (one recipient an hour), all with the password `secret`.
fn room() -> Room {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("users");
    for (name, cram_md5, rate) in [("app", false, None), ("old", true, None), ("slow", false, Some("1/h"))] {
        let rate = rate.map(str::to_owned);
        users::add(&path, name, "secret", &Attributes { cram_md5, rate, ..Attributes::default() }).unwrap();
    }
    let users = Arc::new(Users::load(&path).unwrap());
    let settings = settings(directory.path());
    let ports = ports(&Arc::new(MemoryQueue::default()));
    let submission =
        Submission::start_with(&settings, Vec::new(), Box::new(Arc::clone(&users)), ports).unwrap();
    Room { directory, users, submission }
}

impl Room {
    fn certificates(&self) -> &Path {
        self.directory.path()
    }

    /// A client in TLS that has said EHLO, and the AUTH line of the answer.
    fn client_from(&self, source: [u8; 4], config: Arc<rustls::ClientConfig>) -> (Player, String) {
        let mut player = Player::connect_from(source, self.submission.addresses()[0]);
        player.reply();
        player.command("EHLO client.example");
        assert!(player.command("STARTTLS").starts_with("220 "));
        player.start_tls(config);
        player.send(b"EHLO client.example\r\n");
        let mut auth = String::new();
        loop {
            let line = player.line().unwrap();
            if let Some(mechanisms) = line.get(4..).and_then(|line| line.strip_prefix("AUTH ")) {
                auth = mechanisms.to_owned();
            }
            if line.as_bytes()[3] == b' ' {
                return (player, auth);
            }
        }
    }

    fn client(&self) -> Player {
        self.client_from([127, 0, 0, 1], tls_client(self.certificates())).0
    }

    /// A login with SCRAM-SHA-256-PLUS of somebody who has the password; the last reply.
    fn scram_plus(&self, player: &mut Player, binding: [u8; 32]) -> String {
        let first = "n=app,r=abc";
        let header = "p=tls-exporter,,";
        let said = player
            .command(&format!("AUTH SCRAM-SHA-256-PLUS {}", STANDARD.encode(format!("{header}{first}"))));
        let challenge =
            String::from_utf8(STANDARD.decode(said.strip_prefix("334 ").unwrap()).unwrap()).unwrap();
        let nonce = challenge.split(',').next().unwrap();
        let before = format!("c={},{nonce}", STANDARD.encode([header.as_bytes(), &binding].concat()));
        let auth_message = format!("{first},{challenge},{before}");
        let verifier = self.users.with_scram("app").verifier;
        let proof = STANDARD.encode(verifier.proof(b"secret", auth_message.as_bytes()));
        let reply = player.command(&STANDARD.encode(format!("{before},p={proof}")));
        match reply.strip_prefix("334 ") {
            Some(signature) => {
                let expected = STANDARD.encode(verifier.signature(auth_message.as_bytes()));
                assert_eq!(STANDARD.decode(signature).unwrap(), format!("v={expected}").as_bytes());
                player.command("")
            }
            None => reply,
        }
    }
}

fn plain(name: &str, password: &str) -> String {
    format!("AUTH PLAIN {}", STANDARD.encode(format!("\0{name}\0{password}")))
}

/// AUTH CRAM-MD5 with a digest that is wrong for everybody.
fn wrong_cram_md5(player: &mut Player, name: &str) -> String {
    assert!(player.command("AUTH CRAM-MD5").starts_with("334 "));
    player.command(&STANDARD.encode(format!("{name} 00000000000000000000000000000000")))
}

#[test]
fn scram_plus_holds_for_its_own_connection_only() {
    let room = room();
    let mut player = room.client();
    let binding = player.channel_binding();
    assert_eq!(room.scram_plus(&mut player, binding), "235 2.7.0 Authentication succeeded");
    // Somebody between who has a TLS connection with each side passes the messages on.
    let mut other = room.client();
    assert_ne!(other.channel_binding(), binding);
    assert_eq!(room.scram_plus(&mut other, binding), "535 5.7.8 Authentication failed");
}

#[test]
fn scram_plus_is_offered_in_tls_1_3_and_not_in_1_2() {
    let room = room();
    let offered =
        |version| room.client_from([127, 0, 0, 1], tls_client_of(room.certificates(), &[version])).1;
    let all = "SCRAM-SHA-256-PLUS SCRAM-SHA-256 PLAIN LOGIN CRAM-MD5";
    assert_eq!(offered(&rustls::version::TLS13), all);
    assert_eq!(offered(&rustls::version::TLS12), all.trim_start_matches("SCRAM-SHA-256-PLUS "));
}

#[test]
fn who_guesses_is_sent_away_and_nobody_else() {
    let room = room();
    let config = tls_client(room.certificates());
    let mut player = room.client();
    for guess in 0..5 {
        // The limit is one for all mechanisms and sessions.
        let reply = match guess % 3 {
            0 => player.command(&plain("app", &format!("wrong {guess}"))),
            1 => wrong_cram_md5(&mut player, "old"),
            _ => room.scram_plus(&mut room.client(), [0; 32]),
        };
        assert_eq!(reply, "535 5.7.8 Authentication failed");
    }
    for mut player in [player, room.client()] {
        assert!(player.command(&plain("app", "secret")).starts_with("421 4.7.0 Too many failed auth"));
        assert_eq!(player.line(), None);
    }
    let first = STANDARD.encode("n,,n=app,r=abc");
    let reply = room.client().command(&format!("AUTH SCRAM-SHA-256 {first}"));
    assert!(reply.starts_with("421 4.7.0"), "{reply}");
    let (mut other, _) = room.client_from([127, 0, 0, 2], config);
    assert!(other.command(&plain("app", "secret")).starts_with("235 "));
}

/// smtplib and others try CRAM-MD5 first, as long as it is offered, and then PLAIN.
#[test]
fn a_failure_that_the_same_session_makes_good_is_no_guess() {
    let room = room();
    for _ in 0..10 {
        let mut player = room.client();
        assert!(wrong_cram_md5(&mut player, "app").starts_with("535 "));
        assert!(player.command(&plain("app", "secret")).starts_with("235 "));
    }
    // To know one password makes guesses at another user's no better.
    let mut replies = Vec::new();
    for n in 0..6 {
        let mut player = room.client();
        replies.push(player.command(&plain("old", &format!("guess {n}"))));
        player.send(format!("{}\r\n", plain("app", "secret")).as_bytes());
        player.line();
    }
    assert!(replies[4].starts_with("535 ") && replies[5].starts_with("421 "), "{replies:?}");
}

#[test]
fn a_rate_is_one_for_all_sessions_of_a_user() {
    let room = room();
    let mut clients = [room.client(), room.client()];
    for client in &mut clients {
        assert!(client.command(&plain("slow", "secret")).starts_with("235 "));
    }
    let [one, other] = &mut clients;
    for client in [&mut *one, &mut *other] {
        assert!(client.command("MAIL FROM:<a@b.example>").starts_with("250 "));
    }
    assert!(one.command("RCPT TO:<c@d.example>").starts_with("250 "));
    let refused = other.command("RCPT TO:<c@d.example>");
    assert_eq!(refused, "450 4.7.1 Your rate of 1 recipients an hour is reached, try again later");
    // A client that vanishes gives back what it had not used.
    one.send(b"QUIT\r\n");
    while one.line().is_some() {}
    assert!(other.command("RCPT TO:<c@d.example>").starts_with("250 "));
}
