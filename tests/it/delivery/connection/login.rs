//! AUTH at relays.

use super::*;

fn relay(mx: &FakeMx, tls: RouteTls) -> Endpoint {
    static SECRET: LazyLock<PathBuf> = LazyLock::new(|| {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("connection.secret");
        std::fs::write(&path, "secret\n").unwrap();
        path
    });
    let login = Login { username: "me".to_owned(), secret: SecretSource::PasswordFile(SECRET.clone()) };
    Endpoint { login: Some(login), relay: true, ..endpoint(mx, tls) }
}

#[test]
fn a_relay_is_logged_in_to_with_plain_or_login() {
    let certificate = Certificate::for_names(&["mx.example.net"]);
    for (offer, commands) in [
        ("AUTH LOGIN PLAIN", &["AUTH PLAIN AG1lAHNlY3JldA=="][..]),
        ("AUTH=LOGIN", &["AUTH LOGIN", "bWU=", "c2VjcmV0"]),
    ] {
        let mx = FakeMx::start(Script::new().offering(&["PIPELINING", offer]).tls(&certificate));
        let connector = Opener::new(&settings());
        let mut connection = connector.open(&relay(&mx, RouteTls::Opportunistic), soon()).unwrap();
        assert_eq!(states(&send(&mut connection, &["b@b"])), [RecipientState::Delivered]);
        assert_eq!(mx.seen()[0].commands[3..3 + commands.len()], *commands);
    }
}

#[test]
fn a_password_goes_in_the_clear_only_where_tls_is_off() {
    let mx = FakeMx::start(Script::new().offering(&["AUTH PLAIN"]));
    let connector = Opener::new(&settings());
    let trouble = connector.open(&relay(&mx, RouteTls::Opportunistic), soon()).unwrap_err();
    assert_eq!((trouble.phase, trouble.outcome), (Phase::Starttls, Outcome::Deferred));
    connector.open(&relay(&mx, RouteTls::Off), soon()).unwrap().quit();
    let seen = mx.wait_for_closed(2, SOON);
    assert!(!seen[0].verbs().contains(&"AUTH"));
    assert!(seen[1].verbs().contains(&"AUTH"));
}

#[test]
fn a_refused_login_is_never_permanent() {
    for (offers, act, words) in [
        (&["AUTH PLAIN"][..], Act::Say("535 5.7.8 wrong"), "535 5.7.8 wrong"),
        (
            &[],
            Act::Say("235 never asked"),
            "451 4.7.4 the host offers no AUTH; a password needs one of SCRAM-SHA-256, CRAM-MD5, PLAIN, LOGIN",
        ),
    ] {
        let mx = FakeMx::start(Script::new().offering(offers).on(At::Auth, act));
        let trouble = Opener::new(&settings()).open(&relay(&mx, RouteTls::Off), soon()).unwrap_err();
        assert_eq!((trouble.phase, trouble.outcome), (Phase::Auth, Outcome::Deferred));
        assert_eq!(trouble.reply.to_string(), words);
    }
}
