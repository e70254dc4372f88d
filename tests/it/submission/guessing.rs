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

/// An application server that starts: all its connections log in at once, with a password that nobody has used yet.
#[test]
fn fifty_first_logins_at_once_all_succeed() {
    let config = Config::new().set("limits.auth_failures", "100");
    for config in [Config::new(), config] {
        let (_relay, address) = crowds::relay(config);
        let together = Barrier::new(50);
        let codes: Vec<u16> = std::thread::scope(|scope| {
            let logins: Vec<_> = (0..50)
                .map(|_| {
                    let mut app = client([127, 0, 9, 1], address);
                    let together = &together;
                    scope.spawn(move || {
                        together.wait();
                        app.say(&auth_plain(USER)).unwrap().code
                    })
                })
                .collect();
            logins.into_iter().map(|login| login.join().unwrap()).collect()
        });
        assert!(codes.iter().all(|code| *code == 235), "{codes:?}");
    }
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

/// Behind one address: a neighbour that guesses at all names, also over a restart.
#[test]
fn a_neighbour_cannot_lock_out_a_known_client() {
    let (mut relay, address) = crowds::relay(Config::new());
    let here = [127, 50, 0, 1];
    client(here, address).log_in(USER);
    for n in 0..5 {
        client(here, address).expect(&guess(&format!("name{n}"), "x"), "535");
    }
    client(here, address).expect(&guess("another", "x"), "421");
    client(here, address).log_in(USER);
    relay.wait_until("both on disk", SOON, |db| {
        let rows = "SELECT (SELECT count(*) FROM login_failures) + (SELECT count(*) FROM known_logins)";
        (db.number(rows, []) == 2).then_some(())
    });
    relay.kill();
    relay.start_again();
    wait_for("the listener", SOON, || Client::connect(address).ok());
    client(here, address).expect(&guess("another", "x"), "421");
    client(here, address).log_in(USER);
}

/// What `postrider user failures` says: address, name, effect and count.
fn listed(relay: &Relay) -> Vec<String> {
    let json: serde_json::Value =
        serde_json::from_str(&relay.run_ok(&["user", "failures", "--json"])).unwrap();
    let cell = |row: &serde_json::Value, name: &str| row[name].as_str().unwrap_or("-").to_owned();
    let row = |row: &serde_json::Value| {
        format!("{} {} {} {}", cell(row, "network"), cell(row, "name"), cell(row, "effect"), row["failures"])
    };
    let mut rows: Vec<String> = json["failures"].as_array().unwrap().iter().map(row).collect();
    rows.sort();
    rows
}

fn wait_for_list(relay: &Relay, wanted: &[&str]) {
    wait_for(&format!("{wanted:?} to be listed"), SOON, || (listed(relay) == wanted).then_some(()));
}

#[test]
fn what_is_locked_is_listed_and_lifted_and_outlives_the_relay() {
    let (mut relay, address) = crowds::relay(Config::new());
    assert_eq!(relay.run_ok(&["user", "failures"]), "nobody is refused or slow for failed logins\n");
    let bad = [127, 0, 9, 1];
    for n in 0..5 {
        client(bad, address).expect(&guess("nobody", &n.to_string()), "535");
    }
    for n in 0..10 {
        client([127, 9, n, 1], address).expect(&guess(USER, &n.to_string()), "535");
    }
    let both = ["- app slow 10", "127.0.9.1 - refused 5"];
    wait_for_list(&relay, &both);
    let table = relay.run_ok(&["user", "failures"]);
    assert!(
        table.starts_with("ADDRESS    NAME  EFFECT") && table.contains("127.0.9.1  -     refused"),
        "{table}"
    );
    // A stop in order, and none.
    for end in [Relay::stop, Relay::kill] {
        end(&mut relay);
        relay.start_again();
        wait_for("the listener", SOON, || Client::connect(address).ok());
        client(bad, address).expect(&guess("nobody", "x"), "421");
        assert_eq!(listed(&relay), both);
    }
    let begin = Instant::now();
    assert_eq!(relay.run_ok(&["user", "failures", "--lift", "127.0.9.1"]), "1 lifted\n");
    wait_for("the address to be let in", SOON, || {
        (client(bad, address).say(&guess("nobody", "y")).unwrap().code == 535).then_some(())
    });
    assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
    assert_eq!(relay.run_ok(&["user", "failures", "--lift", USER]), "1 lifted\n");
    wait_for("the name to be quick", SOON, || {
        let begin = Instant::now();
        client([127, 51, 0, 1], address).expect(&guess(USER, "z"), "535");
        (begin.elapsed() < Duration::from_secs(1)).then_some(())
    });
    assert_eq!(listed(&relay), [] as [&str; 0]);
    let nobody = relay.run(&["user", "failures", "--lift", "192.0.2.1"]);
    assert_eq!(nobody.status.code(), Some(1));
    // While no relay runs.
    for n in 0..4 {
        client(bad, address).expect(&guess("nobody", &format!("again {n}")), "535");
    }
    wait_for_list(&relay, &["127.0.9.1 - refused 5"]);
    relay.stop();
    assert_eq!(relay.run_ok(&["user", "failures", "--lift", "all"]), "1 lifted\n");
    relay.start_again();
    wait_for("the listener", SOON, || Client::connect(address).ok());
    client(bad, address).expect(&guess("nobody", "and again"), "535");
    let rows = relay.db().rows("SELECT action, target, count FROM operator_log ORDER BY id", []);
    let lifts: Vec<_> = rows.iter().filter(|row| row.starts_with("user lift")).collect();
    assert_eq!(lifts, ["user lift|127.0.9.1|1", "user lift|app|1", "user lift|all|1"]);
    wait_for("the line of the log", SOON, || {
        (relay.logged(&["audit: user lift 127.0.9.1: count=1 login="]).len() == 1).then_some(())
    });
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
