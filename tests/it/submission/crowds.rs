//! Many sessions at once, and sessions that wait for nothing: who takes places from whom, and for how long.
//!
//! 127.0.0.1 is this machine, and has a place of its own; other addresses of 127.0.0.0/8 are strangers here.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::harness::fakemx::SOON;
use crate::harness::relay::{Client, Config, Relay, USER, World, free_port, wait_for};

use super::abuse::shake_hands;

const SESSIONS: usize = 40;

/// A relay with a listener that trusts nobody and lets users log in in the clear.
pub(super) fn relay(config: Config) -> (Relay, SocketAddr) {
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let relay = World::new().relay(config.listener(&format!("address = \"{address}\"\ntls = \"off\"")));
    wait_for("the listener", SOON, || TcpStream::connect(address).ok());
    (relay, address)
}

/// Each of these opens sessions by turns, and stays, until `count` were tried.
fn crowd(sources: &[[u8; 4]], address: SocketAddr, count: usize) -> Vec<Client> {
    let tries = sources.iter().cycle().take(count);
    tries.filter_map(|source| Client::connect_from(*source, address).ok()).collect()
}

#[test]
fn no_crowd_without_a_login_keeps_others_out() {
    let config = Config::new().set("limits.sessions", SESSIONS.to_string());
    let (relay, address) = relay(config);
    // Ten addresses of one network, ten of ten networks, and one alone.
    let near: Vec<[u8; 4]> = (1..=10).map(|n| [127, 0, 9, n]).collect();
    let far: Vec<[u8; 4]> = (1..=10).map(|n| [127, 7, n, 1]).collect();
    for sources in [&near[..], &far[..], &[[127, 0, 9, 1]]] {
        let mut users = Vec::new();
        let crowd = crowd(sources, address, 2 * SESSIONS);
        assert!(crowd.len() >= SESSIONS / 2, "the crowd is none: {}", crowd.len());
        // Newcomers that log in, one after the other, each from an address of its own.
        for n in 1..=5 {
            let mut user = Client::connect_from([127, 1, n, 1], address)
                .unwrap_or_else(|error| panic!("{sources:?}: {n}: {error}"));
            user.expect("EHLO app.test", "250");
            user.log_in(USER);
            users.push(user);
        }
        let mut here = Client::connect(address).expect("this machine");
        here.expect("EHLO here.test", "250");
        let mut trusted = Client::connect_from([127, 0, 9, 1], relay.clear).expect("a trusted client");
        trusted.expect("EHLO trusted.test", "250");
        // Whoever logged in stays, however the crowd goes on.
        let more = self::crowd(sources, address, SESSIONS);
        for known in users.iter_mut().chain([&mut here, &mut trusted]) {
            known.expect("NOOP", "250");
        }
        drop((crowd, more));
    }
}

#[test]
fn one_address_has_its_own_limit() {
    let config = Config::new().set("limits.sessions_per_client", "3");
    let (_relay, address) = relay(config);
    assert_eq!(crowd(&[[127, 0, 9, 1]], address, 10).len(), 3);
}

#[test]
fn who_has_not_logged_in_has_little_time_and_who_has_is_waited_for() {
    let config = Config::new().set("limits.login_timeout", "\"500ms\"");
    let (relay, address) = relay(config);
    let mut user = Client::connect(address).unwrap();
    user.expect("EHLO app.test", "250");
    user.log_in(USER);
    let mut tls_user = shake_hands(&relay, TcpStream::connect(relay.implicit).unwrap());
    tls_user
        .write_all(format!("EHLO app.test\r\n{}\r\n", crate::harness::client::auth_plain(USER)).as_bytes())
        .unwrap();
    let mut trusted = relay.client();
    let begin = Instant::now();
    let over = |client: &mut Client| {
        let reply = client.reply().unwrap();
        assert_eq!((reply.code, &reply.text[..6]), (421, "4.4.2 "));
        assert!(client.is_closed());
        begin.elapsed()
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let silent = over(&mut Client::connect(address).unwrap());
            assert!((Duration::from_millis(400)..Duration::from_secs(5)).contains(&silent), "{silent:?}");
        });
        // Saying something now and then helps no longer than four times that.
        scope.spawn(|| {
            let mut talker = Client::connect(address).unwrap();
            while let Ok(reply) = talker.say("NOOP")
                && reply.code == 250
            {
                assert!(begin.elapsed() < SOON, "it has endless patience");
                std::thread::sleep(Duration::from_millis(100));
            }
            assert!(begin.elapsed() > Duration::from_millis(1500), "{:?}", begin.elapsed());
        });
        // A handshake that does not go on.
        scope.spawn(|| {
            let mut half = TcpStream::connect(relay.implicit).unwrap();
            half.set_read_timeout(Some(SOON)).unwrap();
            half.write_all(&[0x16, 3, 1, 2, 0]).unwrap();
            let closed = std::io::Read::read(&mut half, &mut [0; 1]);
            assert!(
                matches!(closed, Ok(0)) || closed.is_err_and(|e| e.kind() != std::io::ErrorKind::WouldBlock)
            );
            assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
        });
    });
    assert!(begin.elapsed() > Duration::from_millis(1500));
    user.expect("NOOP", "250");
    trusted.expect("NOOP", "250");
    tls_user.write_all(b"QUIT\r\n").unwrap();
    let mut said = String::new();
    let _ = std::io::Read::read_to_string(&mut tls_user, &mut said);
    assert!(said.ends_with("221 2.0.0 Bye\r\n"), "{said}");
}
