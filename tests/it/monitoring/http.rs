//! The listener of `[metrics]`: with the config it comes, moves and goes, and it holds up no end.

use std::io::Write as _;
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use crate::harness::fakemx::SOON;
use crate::harness::http_client::{address, get, try_get, watched};
use crate::harness::relay::{Config, Relay, wait_for};

#[test]
fn it_comes_moves_and_goes_with_the_config_and_a_bad_reload_changes_nothing() {
    let [one, other] = [address(), address()];
    let mut relay = Relay::start(Config::new());
    let reload = |config: &Config, line: &str| {
        let before = relay.logged(&[line]).len();
        relay.write_config(config);
        relay.signal("HUP");
        wait_for(line, SOON, || (relay.logged(&[line]).len() > before).then_some(()));
    };
    assert!(try_get(one, "/livez").is_err(), "off");
    reload(&watched(relay.config(), &[one]), "config reloaded");
    assert_eq!((get(one, "/livez").status, get(one, "/livez").body.as_str()), (200, "live\n"));
    let fields = get(one, "/livez").head;
    for field in [
        "Content-Security-Policy: default-src 'none'; ",
        "Cache-Control: no-store\r\n",
        "Connection: close\r\n",
    ] {
        assert!(fields.contains(field), "{field}: {fields}");
    }
    let missing = get(one, "/wp-login.php");
    assert!(missing.status == 404 && missing.body.contains("/livez  "), "{missing:?}");
    reload(&watched(relay.config(), &[other]), "config reloaded");
    assert!(try_get(one, "/livez").is_err() && get(other, "/livez").status == 200);
    // Where a listener for mail cannot be opened, this one stays as it was, too.
    let taken = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let bad = watched(relay.config(), &[one])
        .listener(&format!("address = \"{}\"\ntls = \"off\"", taken.local_addr().unwrap()));
    reload(&bad, "the new config is not used");
    assert!(try_get(one, "/livez").is_err() && get(other, "/livez").status == 200);
    let open = watched(relay.config(), &[]).set("metrics.listen", "[\"0.0.0.0:9587\"]");
    reload(&open, "0.0.0.0:9587 is not loopback");
    assert_eq!(get(other, "/livez").status, 200);
    reload(&relay.config(), "config reloaded");
    assert!(try_get(other, "/livez").is_err());
    relay.stop();
}

#[test]
fn clients_that_never_end_hold_up_no_end() {
    let address = address();
    let mut relay = Relay::start(watched(Config::new(), &[address]));
    assert_eq!(get(address, "/livez").status, 200);
    // Each writes before the next one comes: the seventeenth cuts the first one off.
    let begun = |_| {
        let mut client = TcpStream::connect(address).unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nHost: ").unwrap();
        client
    };
    let _clients: Vec<TcpStream> = (0..20).map(begun).collect();
    assert_eq!(get(address, "/livez").status, 200);
    let began = Instant::now();
    relay.stop_within(SOON);
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
}
