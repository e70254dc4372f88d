//! Greeting, EHLO, and what is said before MAIL.

use super::*;

#[test]
fn a_host_that_does_not_know_ehlo_is_greeted_with_helo() {
    let mx = FakeMx::start(Script::new().on(At::Ehlo, Act::Say("502 5.5.1 what?")));
    let mut connection = open(&mx).unwrap();
    assert_eq!(states(&send(&mut connection, &["b@example.net"])), [RecipientState::Delivered]);
    assert_eq!(
        mx.seen()[0].commands[..3],
        ["EHLO relay.example.com", "HELO relay.example.com", "MAIL FROM:<a@example.org>"]
    );
}

#[test]
fn what_is_said_before_mail_is_about_the_host() {
    use Outcome::{Deferred, Failed};
    for (script, phase, kind, words) in [
        (
            Script::new().on(At::Greeting, Act::Say("554 no mail here")),
            Phase::Greeting,
            Failed,
            "554 no mail here",
        ),
        (Script::new().on(At::Greeting, Act::Say("521 no")), Phase::Greeting, Failed, "521 no"),
        (
            Script::new().on(At::Greeting, Act::Say("450 4.3.2 later")),
            Phase::Greeting,
            Deferred,
            "450 4.3.2 later",
        ),
        (Script::new().on(At::Greeting, Act::Say("421 busy")), Phase::Greeting, Deferred, "421 busy"),
        (Script::new().on(At::Greeting, Act::Say("354 odd")), Phase::Greeting, Deferred, "354 odd"),
        (Script::new().on(At::Greeting, Act::Say("699 odd")), Phase::Greeting, Deferred, "699 odd"),
        (
            Script::new().on(At::Greeting, Act::Say("25")),
            Phase::Greeting,
            Deferred,
            "451 4.5.0 malformed reply while waiting for the greeting: \"25\"",
        ),
        (
            Script::new().on(At::Greeting, Act::Close),
            Phase::Greeting,
            Deferred,
            "421 4.4.2 the host closed the connection while waiting for the greeting",
        ),
        (Script::new().on(At::Ehlo, Act::Say("451 later")), Phase::Ehlo, Deferred, "451 later"),
        (
            Script::new().on(At::Ehlo, Act::Say("550 no")).on(At::Helo, Act::Say("550 5.7.1 nor you")),
            Phase::Ehlo,
            Failed,
            "550 5.7.1 nor you",
        ),
        (
            Script::new().on(At::Ehlo, Act::Say("550 no")).on(At::Helo, Act::Say("421 busy")),
            Phase::Ehlo,
            Deferred,
            "421 busy",
        ),
        (
            Script::new().on(At::Greeting, Act::Raw(b"220 hi\r\n220 hi again\r\n".to_vec())),
            Phase::Ehlo,
            Deferred,
            "451 4.5.0 the host spoke out of turn while waiting for the reply to EHLO",
        ),
    ] {
        assert_eq!(trouble_at(script), (phase, kind, words.to_owned()));
    }
}

#[test]
fn a_relay_never_refuses_for_good_before_mail() {
    let mx = FakeMx::start(Script::new().on(At::Greeting, Act::Say("554 no")));
    let relay = Endpoint { relay: true, ..endpoint(&mx, RouteTls::Opportunistic) };
    let trouble = Opener::new(&settings()).open(&relay, soon()).unwrap_err();
    assert_eq!((trouble.phase, trouble.outcome), (Phase::Greeting, Outcome::Deferred));
}

#[test]
fn nobody_listening_is_trouble_while_connecting() {
    let address = FakeMx::start(Script::new()).address; // and gone again
    let nobody = Endpoint { address, ..endpoint(&FakeMx::start(Script::new()), RouteTls::Off) };
    let trouble = Opener::new(&settings()).open(&nobody, soon()).unwrap_err();
    assert_eq!((trouble.phase, trouble.outcome, trouble.tls), (Phase::Connect, Outcome::Deferred, None));
    assert!(
        trouble.reply.to_string().starts_with("421 4.4.1 connection lost while connecting"),
        "{}",
        trouble.reply
    );
}

#[test]
fn source_addresses_take_turns() {
    let mx = FakeMx::start(Script::new());
    let sources = ["127.0.0.3", "::1", "127.0.0.4"].map(|ip| ip.parse().unwrap());
    let connector = Opener::new(&settings());
    let endpoint = Endpoint { sources: sources.into(), ..endpoint(&mx, RouteTls::Off) };
    for _ in 0..3 {
        connector.open(&endpoint, soon()).unwrap().quit();
    }
    let clients: Vec<String> = mx.wait_for_closed(3, SOON).iter().map(|seen| seen.client.clone()).collect();
    assert_eq!(clients, ["127.0.0.3", "127.0.0.4", "127.0.0.3"]);
}
