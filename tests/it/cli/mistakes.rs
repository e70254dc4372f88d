//! The likely mistakes: of a certificate, a relay's name, a user, an alias; and what `check`, `serve` and the log say
//! of each. Those of the config's own text are in `tests/bad-configs`.

use std::net::TcpStream;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};

use crate::harness::fakemx::SOON;
use crate::harness::relay::{Config, HOSTNAME, Relay, World, run_to_end, wait_for, write_secret};

/// A chain in PEM, its own certificate first, then two that signed; and the key.
struct Chain {
    certificates: Vec<String>,
    key: String,
}

fn authority(name: &str) -> (CertificateParams, KeyPair) {
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    (params, KeyPair::generate().unwrap())
}

/// A certificate for `name` that holds between these years.
fn chain(name: &str, from: i32, to: i32) -> Chain {
    let (root, root_key) = authority("Root of mistakes");
    let root_pem = root.self_signed(&root_key).unwrap().pem();
    let root = Issuer::new(root, root_key);
    let (middle, middle_key) = authority("Middle of mistakes");
    let middle_pem = middle.signed_by(&middle_key, &root).unwrap().pem();
    let middle = Issuer::new(middle, middle_key);
    let key = KeyPair::generate().unwrap();
    let mut leaf = CertificateParams::new(vec![name.to_owned()]).unwrap();
    (leaf.not_before, leaf.not_after) = (date_time_ymd(from, 1, 1), date_time_ymd(to, 1, 1));
    let leaf_pem = leaf.signed_by(&key, &middle).unwrap().pem();
    Chain { certificates: vec![leaf_pem, middle_pem, root_pem], key: key.serialize_pem() }
}

/// What `check` says of certificates, one `level text` a line.
fn checked(relay: &Relay) -> Vec<String> {
    let output = relay.run(&["check", "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let of_certificate =
        json["findings"].as_array().unwrap().iter().filter(|one| one["about"] == "certificate");
    let line = |one: &serde_json::Value| {
        format!("{} {}", one["level"].as_str().unwrap(), one["text"].as_str().unwrap())
    };
    of_certificate.map(line).collect()
}

#[test]
fn a_certificate_that_clients_will_refuse_is_told_by_check_at_the_start_and_at_a_reload() {
    let good = chain(HOSTNAME, 2020, 2090);
    let other_key = KeyPair::generate().unwrap().serialize_pem();
    let [leaf, middle, root] = &good.certificates[..] else { unreachable!("three were made") };
    let of = |chain: Chain| (chain.certificates.concat(), chain.key);
    let ordered = |order: &[&String]| (order.iter().map(|pem| pem.as_str()).collect(), good.key.clone());
    // Files, level, words; whether the relay starts.
    let table: Vec<((String, String), &str, &str, bool)> = vec![
        (ordered(&[leaf, middle, root]), "ok", "holds until 2090-01-01", true),
        (of(chain(HOSTNAME, 2010, 2020)), "problem", "expired on 2020-01-01; renew it", true),
        (of(chain(HOSTNAME, 2080, 2090)), "problem", "is not valid before 2080-01-01; check the clock", true),
        (of(chain("other.test", 2020, 2090)), "warning", "does not hold for relay.test; clients", true),
        (
            ordered(&[leaf, root, middle]),
            "warning",
            "wrong order: number 2 did not sign the one before it",
            true,
        ),
        (ordered(&[middle, leaf, root]), "problem", "is number 2 of 3; put it first", false),
        ((good.certificates.concat(), other_key), "problem", "is not the key of", false),
    ];
    let world = World::new();
    let mut relay = Relay::prepare(world.configured(Config::new()));
    relay.add_user();
    let mut seen = 0;
    for (place, ((certificate, key), level, words, starts)) in table.into_iter().enumerate() {
        std::fs::write(relay.path("cert.pem"), certificate).unwrap();
        write_secret(&relay.path("key.pem"), &key);
        let found = checked(&relay);
        let told = found.iter().filter(|line| line.starts_with(level) && line.contains(words)).count();
        assert_eq!(told, 1, "{words}: {found:?}");
        let worse = found.iter().filter(|line| !line.starts_with("ok ")).count();
        assert_eq!(worse, usize::from(level != "ok"), "{words}: {found:?}");
        // The first starts it, the others reload it; what cannot be used is tried by a start too.
        if place == 0 {
            relay.start_again();
            assert!(relay.logged(&["certificate:"]).is_empty(), "{}", relay.log());
            continue;
        }
        relay.signal("HUP");
        let log_level = if level == "warning" { "WARN" } else { "ERROR" };
        let logged = || {
            let lines = relay.logged(&["certificate:", words, log_level]);
            (!lines.is_empty()).then_some(lines.len())
        };
        wait_for(words, SOON, logged);
        let end = if starts { "config reloaded" } else { "the new config is not used" };
        seen += 1;
        wait_for(end, SOON, || {
            let ends =
                ["config reloaded", "the new config is not used"].map(|end| relay.logged(&[end]).len());
            (ends.iter().sum::<usize>() == seen && !relay.logged(&[end]).is_empty()).then_some(())
        });
    }
    relay.stop();
    let refused = relay.run(&["serve"]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("certificate:") && said.contains("is not the key of"), "{said}");
    assert!(said.lines().last().unwrap().starts_with("postrider: "), "{said}");
    // An expired one is no reason not to start: mail goes on.
    let old = chain(HOSTNAME, 2010, 2020);
    std::fs::write(relay.path("cert.pem"), old.certificates.concat()).unwrap();
    write_secret(&relay.path("key.pem"), &old.key);
    relay.start_again();
    assert_eq!(relay.logged(&["ERROR", "certificate:", "expired on"]).len(), 2, "{}", relay.log());
}

#[test]
fn a_relay_that_does_not_exist_is_a_problem_of_check() {
    let mut world = World::new();
    world.zone(|zone| {
        let zone = zone.address("smtp.up.test", "192.0.2.1".parse().unwrap());
        zone.mx("only-mx.test", 10, "mx.only-mx.test")
    });
    for (relay_name, level, words) in [
        ("smtp.up.test:587", "ok", "smtp.up.test is 192.0.2.1"),
        (
            "smpt.up.test:587",
            "problem",
            "smpt.up.test has no address: all mail of its [[route]] waits; correct",
        ),
        ("only-mx.test:587", "problem", "only-mx.test has no address"),
    ] {
        let config =
            Config::new().route(&format!("domain = \"*\"\nrelay = [\"{relay_name}\", \"[192.0.2.7]:25\"]"));
        let relay = Relay::prepare(world.configured(config));
        relay.add_user();
        let output = relay.run(&["check"]);
        let said = String::from_utf8_lossy(&output.stdout);
        let lines: Vec<&str> = said.lines().filter(|line| line.contains(" relays: ")).collect();
        assert!(lines.len() == 1 && lines[0].starts_with(level) && lines[0].contains(words), "{lines:?}");
        assert_eq!(output.status.code(), Some(i32::from(level == "problem")), "{said}");
    }
}

/// Nobody is asked for a password (here: told that there is no terminal) for what is refused all the same.
#[test]
fn a_user_is_refused_before_anybody_is_asked_for_a_password() {
    let world = World::new();
    let relay = Relay::prepare(world.configured(Config::new()));
    relay.add_user_with("there", &[]);
    for (arguments, words) in [
        (&["add", "a b"][..], "\"a b\" cannot be a user's name"),
        (&["add", "there"], "user there exists already"),
        (&["add", "new", "--senders", "x"], "\"x\" is not a sender"),
        (&["add", "new", "--rate", "10"], "\"10\" is not a rate"),
        (&["add", "new", "--atrn", "a b"], "\"a b\" is not a domain"),
        (&["add", "new", "--etrn", "a b"], "\"a b\" is not a domain"),
        (&["passwd", "nobody"], "nobody"),
    ] {
        let output = relay.run(&[&["user"], arguments].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.starts_with("postrider: ") && said.contains(words), "{arguments:?}: {said}");
        assert!(!said.contains("terminal") && output.status.code() == Some(1), "{arguments:?}: {said}");
    }
    for arguments in [["add", "new"], ["passwd", "there"]] {
        let output = relay.run(&["user", arguments[0], arguments[1]]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("terminal") && output.status.code() == Some(2), "{arguments:?}: {said}");
    }
}

#[test]
fn another_password_leaves_a_user_what_it_may() {
    let world = World::new();
    let mut relay = Relay::prepare(world.configured(Config::new()));
    relay.add_user_with("app", &["--operator", "--cram-md5", "--rate", "7/h", "--senders", "*@app.test"]);
    relay.spawn();
    relay.wait_until_ready();
    let before = relay.run_ok(&["user", "list"]);
    let output = run_to_end(relay.command(&["user", "passwd", "app", "--password-stdin"]), b"another\n");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(relay.run_ok(&["user", "list"]), before);
    let users = postrider::submission::users::Users::load(&relay.path("users")).unwrap();
    assert!(users.verify("app", b"another").is_some() && users.verify("app", b"pass word/$1").is_none());
    let audit = || relay.logged(&["audit: user passwd app"]).into_iter().next();
    wait_for("the line of the relay's log", SOON, audit);
    let row = "SELECT action || ' ' || target FROM operator_log ORDER BY id DESC LIMIT 1";
    assert_eq!(relay.db().row(row, []).as_deref(), Some("user passwd app"));
    let empty = run_to_end(relay.command(&["user", "passwd", "app", "--password-stdin"]), b"\n");
    assert!(String::from_utf8_lossy(&empty.stderr).contains("the password is empty"), "{empty:?}");
    assert!(users.verify("app", b"another").is_some(), "it is the same as before");
}

#[test]
fn a_missing_postmaster_is_told_where_mail_for_us_is_taken() {
    let world = World::new();
    for (aliases, told) in
        [(None, false), (Some("root"), true), (Some("postmaster"), false), (Some("PostMaster"), false)]
    {
        let config = Config::new();
        let config = match aliases {
            Some(name) => config.set(&format!("aliases.{name}"), "[\"ops@a.test\"]"),
            None => config,
        };
        let relay = Relay::prepare(world.configured(config));
        let said = String::from_utf8(relay.run(&["check"]).stdout).unwrap();
        let found = said.lines().filter(|line| line.contains("postmaster")).collect::<Vec<_>>();
        assert_eq!(!found.is_empty(), told, "{said}");
        let remedy = "add postmaster = [\"you@example.com\"] to [aliases]";
        assert!(
            found.iter().all(|line| line.starts_with("warning  aliases: ") && line.ends_with(remedy)),
            "{said}"
        );
    }
}

/// A monitor that looks whether a port is open is nobody to warn of: it closes, or resets, without a word.
#[test]
fn a_look_at_an_open_port_is_no_line_of_the_log() {
    let world = World::new();
    let relay = world.relay(Config::new());
    for address in [relay.implicit, relay.starttls, relay.clear] {
        let closed = TcpStream::connect(address).unwrap();
        drop(closed);
        let reset = TcpStream::connect(address).unwrap();
        let now = socket2::SockRef::from(&reset);
        now.set_linger(Some(Duration::ZERO)).unwrap();
        drop(reset);
        let ended = TcpStream::connect(address).unwrap();
        ended.shutdown(std::net::Shutdown::Write).unwrap();
        let _ = std::io::copy(&mut &ended, &mut std::io::sink());
    }
    // Something else than TLS is told, and by then the others are over.
    let mut strange = TcpStream::connect(relay.implicit).unwrap();
    std::io::Write::write_all(&mut strange, b"EHLO me\r\n").unwrap();
    wait_for("the line of the strange one", SOON, || {
        relay.logged(&["TLS handshake failed"]).into_iter().next()
    });
    let mut warned = relay.logged(&["WARN"]);
    warned.retain(|line| !line.contains(" certificate: ") && !line.contains("a new one was made"));
    assert_eq!(warned.len(), 1, "{warned:#?}");
}

/// Port 465's way of TLS at port 587: the client sees its own library's words only, so the log must say it.
#[test]
fn tls_from_the_first_byte_where_it_begins_with_starttls_is_told() {
    let world = World::new();
    let relay = world.relay(Config::new());
    let mut client = TcpStream::connect(relay.starttls).unwrap();
    std::io::Write::write_all(&mut client, &[0x16, 3, 1, 2, 0]).unwrap();
    let line = wait_for("the line of it", SOON, || {
        relay.logged(&["TLS handshake failed", "begins with STARTTLS"]).into_iter().next()
    });
    assert!(line.contains("client 127.0.0.1"), "{line}");
}
