//! TLS: which certificates will do, which sessions are resumed, and the way down the ladder.

use super::*;

/// The CA in a file, for `ca_file`.
pub(super) fn ca_file(certificate: &Certificate) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(certificate.ca_pem.as_bytes()).unwrap();
    file
}

#[test]
fn starttls_is_used_where_offered_and_any_certificate_will_do() {
    let certificate = Certificate::for_names(&["other.example"]);
    let mx = FakeMx::start(Script::new().tls(&certificate));
    let mut connection = open(&mx).unwrap();
    assert_eq!(connection.tls().to_string(), "TLSv1.3");
    assert_eq!(states(&send(&mut connection, &["b@b"])), [RecipientState::Delivered]);
    assert!(mx.messages()[0].tls);
    assert_eq!(mx.seen()[0].verbs()[..3], ["EHLO", "STARTTLS", "EHLO"]);
    connection.quit();
}

#[test]
fn whether_the_certificate_held_is_recorded() {
    let certificate = Certificate::for_names(&["mx.example.net"]);
    let file = ca_file(&certificate);
    let mx = FakeMx::start(Script::new().tls(&certificate));
    let connector = Opener::new(&DeliverySettings { ca_file: Some(file.path().to_owned()), ..settings() });
    for _ in 0..2 {
        // The second time the session is resumed.
        let connection = connector.open(&endpoint(&mx, RouteTls::Opportunistic), soon()).unwrap();
        assert_eq!(connection.tls().to_string(), "TLSv1.3 verified");
        connection.quit();
    }
}

/// Whether each of the host's handshakes so far resumed a session, once all `count` connections are over.
fn resumed(mx: &FakeMx, count: usize) -> Vec<bool> {
    mx.wait_for_closed(count, SOON).iter().map(|seen| seen.resumed).collect()
}

#[test]
fn a_second_connection_resumes_the_session_of_the_first() {
    let names = ["mx.example.net"];
    for (certificate, version) in
        [(Certificate::for_names(&names), "TLSv1.3"), (Certificate::tls12(&names), "TLSv1.2")]
    {
        let mx = FakeMx::start(Script::new().tls(&certificate));
        let connector = Opener::new(&settings());
        for _ in 0..3 {
            let connection = connector.open(&endpoint(&mx, RouteTls::Opportunistic), soon()).unwrap();
            assert_eq!(connection.tls().to_string(), version);
            connection.quit();
        }
        assert_eq!(resumed(&mx, 3), [false, true, true], "{version}");
        let other_name = Endpoint { host: "mx2.example.net".to_owned(), ..endpoint(&mx, RouteTls::Encrypt) };
        connector.open(&other_name, soon()).unwrap().quit();
        assert!(!resumed(&mx, 4)[3], "another host's session");
    }
}

/// A session that began where any certificate would do must never stand in for one that was verified: whoever sits
/// between needs only one opportunistic connection to plant it.
#[test]
fn a_session_never_stands_in_for_more_proof_than_it_began_with() {
    let names = ["mx.example.net"];
    for certificate in [Certificate::for_names(&names), Certificate::tls12(&names)] {
        let file = ca_file(&certificate);
        let mx = FakeMx::start(Script::new().tls(&certificate));
        let connector = Opener::new(&settings());
        let trusting = |tls| Endpoint { ca_file: Some(file.path().to_owned()), ..endpoint(&mx, tls) };
        // The same roots; then those of the world, to which this certificate is a stranger's.
        for (turn, (to, expected)) in [
            (trusting(RouteTls::Opportunistic), Ok(false)),
            (trusting(RouteTls::Verify), Ok(false)),
            (trusting(RouteTls::Verify), Ok(true)),
            (trusting(RouteTls::Encrypt), Ok(true)),
            (endpoint(&mx, RouteTls::Opportunistic), Ok(false)),
            (endpoint(&mx, RouteTls::Opportunistic), Ok(true)),
            (endpoint(&mx, RouteTls::Verify), Err("UnknownIssuer")),
        ]
        .into_iter()
        .enumerate()
        {
            match (connector.open(&to, soon()), expected) {
                (Ok(connection), Ok(expected)) => {
                    connection.quit();
                    assert_eq!(resumed(&mx, turn + 1)[turn], expected, "turn {turn}");
                }
                (Err(trouble), Err(why)) => {
                    assert!(trouble.reply.to_string().ends_with(why), "{}", trouble.reply);
                }
                (opened, expected) => panic!("turn {turn}: {opened:?} and not {expected:?}"),
            }
        }
    }
}

#[test]
fn verify_wants_a_certificate_that_holds_for_the_host() {
    let certificate = Certificate::for_names(&["mx.example.net", "127.0.0.1"]);
    let file = ca_file(&certificate);
    let mx = FakeMx::start(Script::new().tls(&certificate));
    let connector = Opener::new(&settings());
    let with_ca = Endpoint { ca_file: Some(file.path().to_owned()), ..endpoint(&mx, RouteTls::Verify) };
    for host in ["mx.example.net", "[127.0.0.1]"] {
        let right = Endpoint { host: host.to_owned(), ..with_ca.clone() };
        assert_eq!(connector.open(&right, soon()).unwrap().tls().to_string(), "TLSv1.3 verified");
    }

    let wrong_name = Endpoint { host: "mx.example.com".to_owned(), ..with_ca.clone() };
    let no_such_file = Endpoint { ca_file: Some("/nonexistent/ca.pem".into()), ..with_ca };
    for (endpoint, words) in [
        (
            endpoint(&mx, RouteTls::Verify),
            "451 4.7.5 TLS failed while starting TLS: invalid peer certificate: UnknownIssuer",
        ),
        (
            wrong_name,
            "451 4.7.5 TLS failed while starting TLS: invalid peer certificate: certificate not valid for name",
        ),
        (no_such_file, "451 4.7.5 ca_file /nonexistent/ca.pem: No such file"),
    ] {
        let before = mx.seen().len();
        let trouble = connector.open(&endpoint, soon()).unwrap_err();
        assert_eq!((trouble.phase, trouble.outcome), (Phase::Starttls, Outcome::Deferred));
        assert!(trouble.reply.to_string().starts_with(words), "{}", trouble.reply);
        assert_eq!(mx.seen().len(), before + 1, "a smaller ClientHello does not help");
    }
}

#[test]
fn implicit_tls_begins_with_the_first_byte() {
    let certificate = Certificate::for_names(&["mx.example.net"]);
    let file = ca_file(&certificate);
    let mx = FakeMx::start(Script::new().implicit_tls(&certificate));
    let endpoint = Endpoint { ca_file: Some(file.path().to_owned()), ..endpoint(&mx, RouteTls::Implicit) };
    let mut connection = Opener::new(&settings()).open(&endpoint, soon()).unwrap();
    assert_eq!(connection.tls().to_string(), "TLSv1.3 verified");
    assert_eq!(states(&send(&mut connection, &["b@b"])), [RecipientState::Delivered]);
    assert_eq!(mx.seen()[0].verbs(), ["EHLO", "MAIL", "RCPT", "DATA", "RSET"]);
}

#[test]
fn a_refused_starttls_is_followed_by_mail_in_the_clear_only_where_tls_is_optional() {
    let certificate = Certificate::for_names(&["mx.example.net"]);
    let mx = FakeMx::start(Script::new().tls(&certificate).on(At::Starttls, Act::Say("454 4.7.0 not now")));
    let connector = Opener::new(&settings());
    let mut connection = connector.open(&endpoint(&mx, RouteTls::Opportunistic), soon()).unwrap();
    assert_eq!(connection.tls().to_string(), "none");
    assert_eq!(states(&send(&mut connection, &["b@b"])), [RecipientState::Delivered]);
    connector.open(&endpoint(&mx, RouteTls::Opportunistic), soon()).unwrap().quit();
    for tls in [RouteTls::Encrypt, RouteTls::Verify] {
        let trouble = connector.open(&endpoint(&mx, tls), soon()).unwrap_err();
        assert_eq!(trouble.reply.to_string(), "454 4.7.0 not now");
        assert_eq!((trouble.phase, trouble.outcome), (Phase::Starttls, Outcome::Deferred));
    }
    connection.quit();
    let seen = mx.wait_for_closed(4, SOON);
    assert_eq!(seen[0].verbs(), ["EHLO", "STARTTLS", "MAIL", "RCPT", "DATA", "RSET", "QUIT"]);
    assert_eq!(seen[1].verbs(), ["EHLO", "QUIT"], "the host is remembered");
    assert_eq!(seen[2].verbs(), ["EHLO", "STARTTLS", "QUIT"], "but not where TLS is required");
}

#[test]
fn a_host_without_starttls_gets_no_mail_where_tls_is_required() {
    let mx = FakeMx::start(Script::new());
    let connector = Opener::new(&settings());
    let trouble = connector.open(&endpoint(&mx, RouteTls::Encrypt), soon()).unwrap_err();
    assert_eq!((trouble.phase, trouble.outcome), (Phase::Starttls, Outcome::Deferred));
    assert!(
        trouble.reply.to_string().starts_with("451 4.7.4 the host offers no STARTTLS"),
        "{}",
        trouble.reply
    );
}

#[test]
fn a_broken_handshake_leads_down_the_ladder_and_is_remembered() {
    for act in [Act::Close, Act::Reset, Act::Raw(b"220 what is this?\r\n".to_vec()), Act::Stall] {
        let certificate = Certificate::for_names(&["mx.example.net"]);
        let mx = FakeMx::start(Script::new().tls(&certificate).on(At::Handshake, act));
        let connector = Opener::new(&impatient());
        for _ in 0..2 {
            let connection = connector.open(&endpoint(&mx, RouteTls::Opportunistic), soon()).unwrap();
            assert_eq!(connection.tls().to_string(), "none");
            connection.quit();
        }
        let verbs: Vec<Vec<String>> = mx
            .wait_for_closed(4, SOON)
            .iter()
            .map(|s| s.verbs().iter().map(|v| v.to_string()).collect())
            .collect();
        assert_eq!(verbs[0], ["EHLO", "STARTTLS"], "the full ClientHello");
        assert_eq!(verbs[1], ["EHLO", "STARTTLS"], "the smaller one");
        assert_eq!(verbs[2], ["EHLO", "QUIT"], "in the clear");
        assert_eq!(verbs[3], ["EHLO", "QUIT"], "remembered");
        let trouble = connector.open(&endpoint(&mx, RouteTls::Encrypt), soon()).unwrap_err();
        assert_eq!((trouble.phase, trouble.outcome), (Phase::Starttls, Outcome::Deferred));
        assert_eq!(mx.seen().len(), 6, "never in the clear where TLS is required");
    }
}

#[test]
fn a_host_that_chokes_on_the_full_hello_gets_the_smaller_one() {
    let certificate = Certificate::classical(&["mx.example.net"]);
    let mx = FakeMx::start(Script::new().tls(&certificate).first(1, At::Handshake, Act::Close));
    let connector = Opener::new(&settings());
    for _ in 0..2 {
        let connection = connector.open(&endpoint(&mx, RouteTls::Encrypt), soon()).unwrap();
        assert_eq!(connection.tls().to_string(), "TLSv1.3");
        connection.quit();
    }
    assert_eq!(mx.wait_for_closed(3, SOON).len(), 3);
}

/// CVE-2011-0411, on the client's side: somebody between puts the answers to what comes within TLS behind the 220
/// in the clear, and the client believes a host it has verified said them: offers without AUTH SCRAM, say, or that
/// a message was taken.
#[test]
fn replies_injected_before_the_handshake_are_never_read_after_it() {
    let certificate = Certificate::for_names(&["mx.example.net"]);
    let injected = b"220 go ahead\r\n250-mx.example.net\r\n250 AUTH PLAIN\r\n".to_vec();
    let mx = FakeMx::start(Script::new().tls(&certificate).on(At::Starttls, Act::Raw(injected)));
    for tls in [RouteTls::Verify, RouteTls::Encrypt] {
        let trouble = Opener::new(&settings()).open(&endpoint(&mx, tls), soon()).unwrap_err();
        assert_eq!((trouble.phase, trouble.outcome), (Phase::Starttls, Outcome::Deferred));
        assert_eq!(trouble.reply.to_string(), "451 4.5.0 the host spoke out of turn while starting TLS");
    }
    let seen = mx.wait_for_closed(2, SOON);
    assert_eq!(seen.len(), 2, "no second try, and none in the clear: that is what somebody between may want");
    assert!(seen.iter().all(|seen| seen.verbs() == ["EHLO", "STARTTLS"] && !seen.tls), "{seen:#?}");
}
