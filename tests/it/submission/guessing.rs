//! Logins that fail: guesses at once and from many places, a secret that is wrong over and over, a users file that is
//! no list for a moment; and the honest logins beside them.

use std::net::SocketAddr;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::harness::client::auth_plain;
use crate::harness::fakemx::SOON;
use crate::harness::relay::{Client, Config, Relay, USER, wait_for};

use super::crowds;

fn guess(name: &str, password: &str) -> String {
    format!("AUTH PLAIN {}", STANDARD.encode(format!("\0{name}\0{password}")))
}

fn client(source: [u8; 4], address: SocketAddr) -> Client {
    let mut client = Client::connect_from(source, address).unwrap();
    client.expect("EHLO app.test", "250");
    client
}

#[test]
fn fifty_guesses_at_once_are_five_and_an_honest_login_beside_them_does_not_wait() {
    let (relay, address) = crowds::relay(Config::new());
    let barrier = Barrier::new(51);
    let mut codes: Vec<u16> = Vec::new();
    std::thread::scope(|scope| {
        let guesses: Vec<_> = (0..50)
            .map(|n| {
                let mut guesser = client([127, 0, 9, 1], address);
                let barrier = &barrier;
                scope.spawn(move || {
                    barrier.wait();
                    guesser.say(&guess(USER, &format!("guess {n}"))).unwrap().code
                })
            })
            .collect();
        let mut honest = client([127, 0, 10, 1], address);
        barrier.wait();
        let begin = Instant::now();
        honest.log_in(USER);
        assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
        codes.extend(guesses.into_iter().map(|guess| guess.join().unwrap()));
    });
    let of = |code: u16| codes.iter().filter(|&&other| other == code).count();
    assert_eq!((of(535), of(421)), (5, 45), "{codes:?}");
    assert_eq!(relay.logged(&["authentication failed for"]).len(), 5);
}

#[test]
fn a_wrong_secret_that_is_repeated_shuts_nobody_out() {
    let (relay, address) = crowds::relay(Config::new());
    for _ in 0..20 {
        client([127, 0, 9, 1], address).expect(&guess(USER, "the old one"), "535 5.7.8");
    }
    client([127, 0, 9, 1], address).log_in(USER);
    assert_eq!(relay.logged(&["authentication failed for"]).len(), 1);
    // Should the old one become the right one, it is.
    let output = crate::harness::relay::run_to_end(
        relay.command(&["user", "add", "other", "--password-stdin"]),
        b"the old one",
    );
    assert!(output.status.success());
    client([127, 0, 9, 1], address).expect(&guess("other", "the old one"), "235");
}

/// A name that is guessed at from many networks: who never logged in waits, who did does not.
#[test]
fn a_name_under_attack_is_slow_for_strangers_alone() {
    let (_relay, address) = crowds::relay(Config::new());
    client([127, 50, 0, 1], address).log_in(USER);
    for n in 0..10 {
        client([127, 9, n, 1], address).expect(&guess(USER, &n.to_string()), "535");
    }
    let time = |source, command: &str, code: &str| {
        let begin = Instant::now();
        client(source, address).expect(command, code);
        begin.elapsed()
    };
    let stranger = time([127, 9, 77, 1], &guess(USER, "next"), "535");
    assert!(stranger >= Duration::from_secs(1), "{stranger:?}");
    // The owner from a new place waits as long, and gets in.
    let new_place = time([127, 51, 0, 1], &auth_plain(USER), "235");
    assert!(new_place >= Duration::from_secs(1), "{new_place:?}");
    for known in [[127, 50, 0, 1], [127, 51, 0, 1]] {
        let owner = time(known, &auth_plain(USER), "235");
        assert!(owner < Duration::from_millis(900), "{owner:?}");
    }
}

fn errors(relay: &Relay) -> Vec<String> {
    relay.logged(&["ERROR", "users file"])
}

#[test]
fn a_users_file_that_is_gone_for_a_moment_shuts_nobody_out() {
    let (mut relay, address) = crowds::relay(Config::new());
    let (file, aside) = (relay.path("users"), relay.path("aside"));
    std::fs::rename(&file, &aside).unwrap();
    for _ in 0..10 {
        client([127, 0, 9, 1], address).log_in(USER);
    }
    // The config is another file: what is new in it counts all the same.
    relay.write_config(&relay.config().set("limits.message_size", "\"1MiB\""));
    relay.signal("HUP");
    wait_for("the reload", SOON, || relay.log().contains(crate::harness::log::RELOADED).then_some(()));
    let mut user = client([127, 0, 9, 1], address);
    user.log_in(USER);
    user.expect("MAIL FROM:<a@b.test> SIZE=1048577", "552");
    assert_eq!(errors(&relay).len(), 2, "one of the file, one of the reload: {:?}", errors(&relay));
    std::fs::rename(&aside, &file).unwrap();
    wait_for("the file to be read", SOON, || {
        (!relay.logged(&["users file", "can be read again"]).is_empty()).then_some(())
    });
    // Without a list from before nobody is right or wrong, and nobody is counted.
    std::fs::rename(&file, &aside).unwrap();
    relay.stop();
    relay.start_again();
    wait_for("the listener", SOON, || Client::connect(address).ok());
    for _ in 0..10 {
        client([127, 0, 9, 1], address).expect(&auth_plain(USER), "454 4.7.0");
        client([127, 0, 9, 1], address).expect(&guess(USER, "wrong"), "454 4.7.0");
    }
    std::fs::rename(&aside, &file).unwrap();
    client([127, 0, 9, 1], address).log_in(USER);
}
