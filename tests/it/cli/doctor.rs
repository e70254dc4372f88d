//! `postrider check --domain` before a real DNS server: what is found in good and broken zones, and that each line it
//! tells to add mends what it found.

mod envelope;
mod organisation;
mod tls;

use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use hickory_server::proto::rr::RecordType;
use serde_json::Value;

use postrider::mail::dkim::Algorithm;

use crate::harness::certificate_files::write_secret;
use crate::harness::dkim::Keys;
use crate::harness::dns_server::{Fault, Zone};
use crate::harness::fakemx::{Act, At, Certificate, Script};
use crate::harness::relay::{Config, Relay, World};

/// Longer than anything that hangs may keep the answer.
const ALL_WITHIN: Duration = Duration::from_secs(5);

/// A domain with nothing to find. `MAILHOST` in a line stands for the host that only the operator knows.
const GOOD: &str = r#"
10.2.0.192.in-addr.arpa. IN PTR relay.example.com.
0.1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa. IN PTR relay.example.com.
relay.example.com. IN A 192.0.2.10
relay.example.com. IN AAAA 2001:db8::10
relay.example.com. IN TXT "v=spf1 ip4:192.0.2.10 ip6:2001:db8::10 -all"
example.com. IN MX 10 MAILHOST.
MAILHOST. IN A 192.0.2.20
example.com. IN TXT "v=spf1 ip4:192.0.2.10 ip6:2001:db8::10 ~all"
example.com. IN TXT "some-verification=1"
_dmarc.example.com. IN TXT "v=DMARC1; p=none"
s1._domainkey.example.com. IN TXT "v=DKIM1; k=ed25519; p=Wp1AQ3ZHSdJpJxBdyq2K6yipsRjW2HbK+VydODMLHAk="
"#;
/// The key of that record.
const KEY: &str = include_str!("../../bad-configs/unusable-dkim-key/good.pem");

fn lines(text: &str) -> Vec<String> {
    text.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect()
}

/// Reads lines as they stand in a zone file, which is how they are told.
fn zone(lines: &[String]) -> Zone {
    lines.iter().fold(Zone::new(), |zone, line| {
        let line = line.replace("MAILHOST", "mail.example.com");
        let (name, rest) = line.split_once(". IN ").unwrap_or_else(|| panic!("no line of a zone: {line}"));
        let (kind, data) = rest.split_once(' ').unwrap();
        let host = |name: &str| name.strip_suffix('.').expect("absolute").to_owned();
        match kind {
            "A" | "AAAA" => zone.address(name, data.parse().unwrap()),
            "PTR" => zone.ptr(name, &host(data)),
            "CNAME" => zone.cname(name, &host(data)),
            "TLSA" => {
                let fields: Vec<&str> = data.split(' ').collect();
                let number = |at: usize| fields[at].parse().unwrap();
                let bytes = (0..fields[3].len()).step_by(2);
                let bytes: Vec<u8> =
                    bytes.map(|at| u8::from_str_radix(&fields[3][at..at + 2], 16).unwrap()).collect();
                let host = name.strip_prefix("_25._tcp.").expect("of port 25");
                zone.tlsa(host, (number(0), number(1), number(2)), &bytes)
            }
            "MX" if data == "0 ." => zone.null_mx(name),
            "MX" => {
                let (preference, target) = data.split_once(' ').unwrap();
                zone.mx(name, preference.parse().unwrap(), &host(target))
            }
            "TXT" => {
                let strings = strings(data);
                zone.txt(name, &strings.iter().map(Vec::as_slice).collect::<Vec<_>>())
            }
            _ => panic!("{line}"),
        }
    })
}

/// The strings of a TXT record (RFC 1035 §5.1).
fn strings(data: &str) -> Vec<Vec<u8>> {
    let mut strings = Vec::new();
    let mut bytes = data.bytes().peekable();
    while bytes.find(|byte| *byte == b'"').is_some() {
        let mut string = Vec::new();
        loop {
            match bytes.next().expect("a string ends") {
                b'"' => break,
                b'\\' if bytes.peek().unwrap().is_ascii_digit() => {
                    let digits: String = bytes.by_ref().take(3).map(char::from).collect();
                    string.push(digits.parse().unwrap());
                }
                b'\\' => string.push(bytes.next().unwrap()),
                byte => string.push(byte),
            }
        }
        assert!(string.len() <= 255, "{data}");
        strings.push(string);
    }
    strings
}

const SPF: &str = r#"example.com. IN TXT "v=spf1"#;
const DMARC: &str = "_dmarc.example.com.";

struct Doctor {
    world: World,
    relay: Relay,
}

impl Doctor {
    fn new(config: Config) -> Doctor {
        Doctor::in_world(World::new(), config)
    }

    fn in_world(world: World, config: Config) -> Doctor {
        let config = config.set("hostname", "\"relay.example.com\"");
        let relay = Relay::prepare(world.configured(config));
        Doctor { world, relay }
    }

    /// With two addresses that the world can see, and a key.
    fn with_sources() -> Doctor {
        let sources = "[\"192.0.2.10\", \"2001:db8::10\"]";
        let doctor = Doctor::new(Config::new().set("delivery.source_addresses", sources));
        let key = doctor.relay.path("s1.pem");
        write_secret(&key, KEY);
        let dkim = format!("domain = \"example.com\"\nselector = \"s1\"\nkey = {key:?}");
        doctor.relay.write_config(&doctor.relay.config().dkim(&dkim));
        doctor
    }

    /// What is found, the certificate of the tests apart; and the exit code.
    fn ask(&self, arguments: &[&str]) -> (Vec<Value>, Option<i32>) {
        let began = Instant::now();
        let arguments = [&["check", "--json", "--domain"], arguments].concat();
        let output = self.relay.run(&arguments);
        assert!(began.elapsed() < ALL_WITHIN, "{arguments:?} took {:?}", began.elapsed());
        let text = String::from_utf8(output.stdout).unwrap();
        let json: Value = serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("{error}: {text}{}", String::from_utf8_lossy(&output.stderr)));
        let findings = json["findings"].as_array().unwrap().clone();
        let any_problem = findings.iter().any(|finding| finding["level"] == "problem");
        assert_eq!(output.status.code(), Some(i32::from(any_problem)), "{text}");
        assert_eq!(json["ok"], !any_problem);
        (findings.into_iter().filter(|one| one["about"] != "certificate").collect(), output.status.code())
    }

    /// What is not ok.
    fn found(&self, zone: Zone) -> Vec<Value> {
        self.world.dns.serve(zone);
        let findings = self.ask(&["example.com"]).0;
        findings.into_iter().filter(|one| one["level"] != "ok").collect()
    }
}

fn texts(finding: &Value, key: &str) -> Vec<String> {
    let lines = finding.get(key).and_then(Value::as_array);
    lines.into_iter().flatten().map(|line| line.as_str().unwrap().to_owned()).collect()
}

/// What `cases.txt` has: lines of [`GOOD`] that begin so are gone, lines come. What is found, and what is told to be
/// removed and added.
#[derive(Clone, Default)]
struct Case {
    title: String,
    gone: Vec<String>,
    come: Vec<String>,
    level: String,
    about: String,
    words: String,
    remove: Vec<String>,
    add: Vec<String>,
}

fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for line in include_str!("doctor/cases.txt").lines().filter(|line| !line.is_empty()) {
        let (key, value) = line.split_once(' ').unwrap();
        if key == "#" {
            cases.push(Case { title: value.to_owned(), ..Case::default() });
            continue;
        }
        let case = cases.last_mut().expect("a title comes first");
        let list = match key {
            "gone" => &mut case.gone,
            "come" => &mut case.come,
            "remove" => &mut case.remove,
            "add" => &mut case.add,
            _ => {
                let (level, rest) = value.split_once(' ').unwrap();
                let (about, words) = rest.split_once(": ").unwrap();
                (case.level, case.about, case.words) = (level.to_owned(), about.to_owned(), words.to_owned());
                continue;
            }
        };
        list.push(value.to_owned());
    }
    cases
}

#[test]
fn each_fault_is_found_and_the_lines_that_are_told_mend_it() {
    let doctor = Doctor::with_sources();
    assert_eq!(doctor.found(zone(&lines(GOOD))), [] as [Value; 0]);
    let cases = cases();
    assert!(cases.len() > 20);
    let is_seen = |case: &Case| catch_unwind(AssertUnwindSafe(|| examine(&doctor, case.clone()))).is_ok();
    let missed: Vec<&str> =
        cases.iter().filter(|case| !is_seen(case)).map(|case| case.title.as_str()).collect();
    assert_eq!(missed, [] as [&str; 0]);
}

fn examine(doctor: &Doctor, case: Case) {
    let Case { title, gone, come, level, about, words, mut remove, add } = case;
    let mut broken = lines(GOOD);
    broken.retain(|line| !gone.iter().any(|gone| line.starts_with(gone)));
    broken.extend(come);
    doctor.world.dns.serve(zone(&broken));
    let (findings, _) = doctor.ask(&["example.com"]);
    let of_level = |one: &&Value| one["about"] == about && one["level"] == level;
    let is_it = |one: &&Value| of_level(one) && one["text"].as_str().unwrap().contains(&words);
    assert_eq!(findings.iter().filter(is_it).count(), 1, "{title}: {findings:#?}");
    let found = doctor.found(zone(&broken));
    if level == "ok" {
        assert_eq!(found, [] as [Value; 0], "{title}");
        return;
    }
    let [finding] = &found[..] else { panic!("{title}: {found:#?}") };
    let mut told = texts(finding, "remove");
    told.sort();
    remove.sort();
    assert_eq!((&told, &texts(finding, "add")), (&remove, &add), "{title}");
    if remove.is_empty() && add.is_empty() {
        return;
    }
    // A remedy is one if nothing is found after it.
    let before = broken.len();
    broken.retain(|line| !remove.contains(line));
    assert_eq!(broken.len(), before - remove.len(), "{title}: what is to be removed is there");
    broken.extend(add);
    assert_eq!(doctor.found(zone(&broken)), [] as [Value; 0], "{title}, mended");
}

#[test]
fn what_cannot_be_asked_is_a_warning_and_proposes_nothing() {
    let doctor = Doctor::with_sources();
    for (name, fault, about) in [
        ("10.2.0.192.in-addr.arpa", Fault::Servfail, "reverse name"),
        ("relay.example.com", Fault::Servfail, "reverse name"),
        ("relay.example.com", Fault::ServfailFor(RecordType::AAAA), "reverse name"),
        ("example.com", Fault::Refused, "spf"),
        ("example.com", Fault::OwnAlias, "spf"),
        ("_dmarc.example.com", Fault::OtherType, "dmarc"),
        ("_dmarc.example.com", Fault::Silent, "dmarc"),
        ("mail.example.com", Fault::Referral, "mx"),
    ] {
        let found = doctor.found(zone(&lines(GOOD)).fault(name, fault));
        assert!(found.iter().any(|one| one["about"] == about), "{name} {fault:?}: {found:#?}");
        for one in found {
            let mended = [texts(&one, "add"), texts(&one, "remove")].concat();
            assert_eq!((&one["level"], mended.len()), (&"warning".into(), 0), "{name} {fault:?}: {one}");
        }
    }
}

/// 4 KB of text, bytes that are no text, aliases in a ring, and records of others.
#[test]
fn hostile_dns_gives_findings_and_nothing_worse() {
    let doctor = Doctor::with_sources();
    let good = || zone(&lines(GOOD));
    let long = [b'a'; 255];
    let odd: &[&[u8]] = &[b"v=spf1 \x1b[31m\xff\0\r\n\xe2\x80\xae -all"];
    let text = |zone: Zone| {
        doctor.world.dns.serve(zone);
        let output = doctor.relay.run(&["check", "--domain", "example.com"]);
        String::from_utf8(output.stdout).unwrap()
    };
    let bare = || {
        let mut lines = lines(GOOD);
        lines.retain(|line| !line.starts_with(SPF) && !line.starts_with(DMARC));
        zone(&lines)
    };
    let said = text(bare().txt("example.com", odd).txt("_dmarc.example.com", odd));
    assert!(said.contains("problem  spf: example.com: 192.0.2.10 permerror"), "{said}");
    assert!(said.chars().all(|c| c == '\n' || !c.is_control()) && !said.contains('\u{202e}'), "{said}");
    let said = text(
        good().txt("example.com", &[long.as_slice(); 16]).txt("_dmarc.example.com", &[long.as_slice(); 16]),
    );
    assert!(!said.contains("problem"), "others' text is none of ours: {said}");
    let said = text(
        bare()
            .cname("_dmarc.example.com", "_dmarc2.example.com")
            .cname("_dmarc2.example.com", "_dmarc.example.com"),
    );
    assert!(said.contains("warning  dmarc: _dmarc.example.com cannot be looked up"), "{said}");
    let mut crowd = good();
    for number in 0..300 {
        crowd = crowd
            .ptr("10.2.0.192.in-addr.arpa", &format!("h{number}.test"))
            .mx("example.com", 20, &format!("h{number}.test"))
            .txt("_dmarc.example.com", &[b"v=DMARC1; p=none"]);
    }
    let said = text(crowd);
    assert!(said.contains("_dmarc.example.com has several records"), "{said}");
}

#[test]
fn keys_that_rotate_are_looked_at_in_their_time() {
    let doctor = Doctor::new(Config::new());
    let mut keys = Keys::new();
    let lines_of = |keys: &mut Keys, selector: &str, more: &str| {
        keys.add("example.com", selector, Algorithm::RsaSha256) + more
    };
    let config = doctor.relay.config();
    let (old, now) = (lines_of(&mut keys, "old", "until = \"2020-01-01\""), lines_of(&mut keys, "now", ""));
    let next = lines_of(&mut keys, "next", "from = \"2999-01-01\"");
    let told = |domain: &str| -> Vec<Value> {
        let findings = doctor.ask(&[domain]).0;
        findings
            .into_iter()
            .filter(|one| ["dkim", "alignment"].contains(&one["about"].as_str().unwrap()))
            .collect()
    };
    doctor.relay.write_config(&config.clone().dkim(&old).dkim(&now).dkim(&next));
    let found = told("example.com");
    let [signs, later, aligned] = &found[..] else { panic!("{found:#?}") };
    assert_eq!((&signs["level"], &later["level"]), (&"problem".into(), &"warning".into()), "{found:#?}");
    assert!(later["text"].as_str().unwrap().contains("signs from 2999-01-01 on"), "{later}");
    assert_eq!(aligned["level"], "ok");
    let add = [texts(signs, "add"), texts(later, "add")].concat();
    assert!(add[0].matches("\" \"").count() == 1, "RSA of 2048 bits takes two strings: {}", add[0]);
    doctor.world.dns.serve(zone(&add));
    let levels: Vec<Value> = told("example.com").into_iter().map(|one| one["level"].clone()).collect();
    assert_eq!(levels, ["ok", "ok", "ok"]);

    let reject = r#"_dmarc.other.test. IN TXT "v=DMARC1; p=reject""#;
    doctor.world.dns.serve(zone(&[add.clone(), lines(reject)].concat()));
    doctor.relay.write_config(&config.clone().dkim(&now).set("delivery.sign_as", "\"example.com\""));
    let found = told("other.test");
    assert!(found.len() == 2 && found[1]["level"] == "problem", "{found:#?}");
    assert!(found[1]["text"].as_str().unwrap().contains("`postrider dkim new other.test`"), "{found:#?}");
    assert_eq!(told("news.example.com")[1]["level"], "ok", "the domain above signs for it");

    doctor.relay.write_config(&config.clone().dkim(&old));
    let found = told("example.com");
    assert!(found[0]["text"].as_str().unwrap().contains("none is in force"), "{found:#?}");
    doctor.relay.write_config(&config);
    let found = told("example.com");
    assert!(found.len() == 1 && found[0]["level"] == "warning", "{found:#?}");
    assert!(found[0]["text"].as_str().unwrap().contains("`postrider dkim new example.com`"), "{found:#?}");
}

#[test]
fn the_record_of_a_domain_above_holds_below_it() {
    let doctor = Doctor::with_sources();
    let mut below = lines(GOOD);
    below.extend(lines(
        r#"news.example.com. IN MX 10 MAILHOST.
           news.example.com. IN TXT "v=spf1 ip4:192.0.2.10 ip6:2001:db8::10 -all"
           _dmarc.com. IN TXT "v=DMARC1; p=reject""#,
    ));
    doctor.world.dns.serve(zone(&below));
    let of = |domain: &str| {
        let findings = doctor.ask(&[domain]).0;
        let one = findings.iter().find(|one| one["about"] == "dmarc").unwrap();
        one["text"].as_str().unwrap().to_owned()
    };
    assert!(of("news.example.com").contains("_dmarc.example.com holds for it and says none"));
    assert!(of("Example.COM").contains("_dmarc.example.com says p=none"));
    assert!(
        of("other.com").contains("other.com has no record;"),
        "nobody's mail is under the policy of a registry"
    );
}

#[test]
fn a_silent_name_server_takes_less_than_five_seconds() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut doctor = Doctor::with_sources();
    let address = silent.local_addr().unwrap();
    let config =
        doctor.relay.config().set("dns.servers", format!("[\"{address}\"]")).set("dns.timeout", "\"30s\"");
    doctor.relay.write_config(&config);
    let (findings, code) = doctor.ask(&["example.com", "--to", "you@a.test"]);
    assert_eq!(code, Some(1), "nobody can be reached without DNS: {findings:#?}");
    let told = findings.iter().filter(|one| one["about"] == "tlsa").count();
    assert_eq!(told, 0, "whether there is a signature is not known: {findings:#?}");
    for about in ["reverse name", "spf", "dmarc", "mx"] {
        let levels: Vec<&Value> =
            findings.iter().filter(|one| one["about"] == about).map(|one| &one["level"]).collect();
        assert!(
            !levels.is_empty() && levels.iter().all(|level| *level == "warning"),
            "{about}: {findings:#?}"
        );
    }
    // A server that answers late, again and again.
    doctor.relay.write_config(&doctor.relay.config());
    doctor.world.zone(|_| {
        let slow = zone(&lines(GOOD)).txt("slow.test", &[b"v=spf1 include:s0.test -all"]);
        (0..10).fold(slow, |zone, number| {
            let (name, text) =
                (format!("s{number}.test"), format!("v=spf1 include:s{}.test -all", number + 1));
            zone.txt(&name, &[text.as_bytes()]).fault(&name, Fault::Late)
        })
    });
    let (findings, _) = doctor.ask(&["slow.test"]);
    let is_late =
        |one: &&Value| one["about"] == "spf" && one["text"].as_str().unwrap().contains("no time left");
    assert_eq!(findings.iter().filter(is_late).count(), 1, "{findings:#?}");
}

/// A port that answers nothing, not even that it is closed.
fn black_hole(address: SocketAddr) -> (socket2::Socket, Vec<TcpStream>) {
    use socket2::{Domain, Socket, Type};
    let listener = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    listener.set_reuse_address(true).unwrap();
    listener.bind(&address.into()).unwrap();
    listener.listen(0).unwrap();
    let probe = || TcpStream::connect_timeout(&address, Duration::from_millis(100)).ok();
    let filled: Vec<TcpStream> = std::iter::from_fn(probe).take(16).collect();
    assert!(filled.len() < 16, "its queue never fills");
    (listener, filled)
}

#[test]
fn hosts_are_asked_up_to_quit_and_none_gets_mail() {
    let mut doctor = Doctor::new(Config::new());
    let world = &mut doctor.world;
    let good =
        world.mx("a.test", 10, "mx1.a.test", Script::new().tls(&Certificate::for_names(&["mx1.a.test"])));
    let refusing = world.mx(
        "a.test",
        20,
        "mx2.a.test",
        Script::new().on(At::Greeting, Act::Say("554 5.7.1 blocked using zen.example")),
    );
    let plain = world.mx("a.test", 30, "mx3.a.test", Script::new().on(At::Quit, Act::Stall));
    let hole = world.address("mx4.a.test");
    world.zone(|zone| zone.mx("a.test", 40, "mx4.a.test"));
    let _hole = black_hole(hole);
    let stalling = world.mx("a.test", 50, "mx5.a.test", Script::new().on(At::Ehlo, Act::Stall));
    let of_hosts = |doctor: &Doctor, to: &str| -> Vec<String> {
        let findings = doctor.ask(&["example.com", "--to", to]).0;
        let hosts = findings.iter().filter(|one| one["about"] == "hosts");
        hosts
            .map(|one| format!("{} {}", one["level"].as_str().unwrap(), one["text"].as_str().unwrap()))
            .collect()
    };
    let said = of_hosts(&doctor, "you@a.test");
    for (number, words) in [
        ("ok mx1", "lets us in: TLSv1.3"),
        ("warning mx2", "554 5.7.1 blocked using zen.example"),
        ("warning mx3", "offers no TLS"),
        ("warning mx4", "timed out while connecting"),
        ("warning mx5", "timed out while waiting for the reply to EHLO"),
    ] {
        let lines: Vec<&String> = said.iter().filter(|line| line.starts_with(number)).collect();
        assert!(lines.len() == 1 && lines[0].contains(words), "{number} {words}: {said:#?}");
    }
    assert_eq!(said.len(), 5, "{said:#?}");
    for host in [&good, &refusing, &plain, &stalling] {
        let seen = host.seen();
        assert_eq!(seen.len(), 1);
        let verbs = seen[0].verbs();
        let allowed = ["EHLO", "STARTTLS", "QUIT"];
        assert!(verbs.iter().all(|verb| allowed.contains(verb)), "{verbs:?}");
    }
    assert_eq!(good.seen()[0].verbs(), ["EHLO", "STARTTLS", "EHLO", "QUIT"]);

    let hole = doctor.world.address("mx.b.test");
    doctor.world.zone(|zone| zone.mx("b.test", 10, "mx.b.test"));
    let _second = black_hole(hole);
    let said = of_hosts(&doctor, "you@b.test");
    assert!(said.len() == 2 && said.iter().all(|line| line.starts_with("problem ")), "{said:#?}");
    assert!(said[1].contains("none can be reached on port"), "{said:#?}");
    let elsewhere = doctor.relay.config().set("delivery.source_addresses", "[\"192.0.2.10\"]");
    doctor.relay.write_config(&elsewhere);
    let said = of_hosts(&doctor, "you@b.test");
    assert!(said.len() == 1 && said[0].contains("192.0.2.10"), "no hoster's fault: {said:#?}");
    doctor.relay.write_config(&doctor.relay.config());
    let said = of_hosts(&doctor, "you@nosuch.test");
    assert!(said.len() == 1 && said[0].contains("cannot be routed: 550 5.1.2"), "{said:#?}");
}

#[test]
fn where_mail_leaves_is_said_and_what_is_hidden_by_nat() {
    let doctor = Doctor::new(Config::new().set("delivery.source_addresses", "[\"10.0.0.5\"]"));
    doctor.world.dns.serve(zone(&lines(GOOD)));
    let sending = |arguments: &[&str]| -> Vec<String> {
        let findings = doctor.ask(&[&["example.com"], arguments].concat()).0;
        let line =
            |one: &Value| format!("{} {}", one["level"].as_str().unwrap(), one["text"].as_str().unwrap());
        findings
            .iter()
            .filter(|one| ["sending", "reverse name", "spf"].contains(&one["about"].as_str().unwrap()))
            .map(line)
            .collect()
    };
    let said = sending(&[]);
    assert!(
        said.len() == 1 && said[0].starts_with("warning mail leaves from 10.0.0.5, which is private"),
        "{said:#?}"
    );
    let said = sending(&["--address", "192.0.2.10", "--address", "2001:db8::10"]);
    assert!(said.len() == 6 && said.iter().all(|line| line.starts_with("ok ")), "{said:#?}");
    // An address is what the world sees of it, however it is written.
    let mapped = sending(&["--address", "::ffff:192.0.2.10"]);
    assert!(mapped.len() == 4 && mapped.iter().all(|line| line.starts_with("ok ")), "{mapped:#?}");
    assert!(mapped[0].starts_with("ok from 192.0.2.10 as"), "{mapped:#?}");
    let v6_alone = doctor.relay.config().set("delivery.source_addresses", "[\"2001:db8::10\"]");
    let config = doctor.relay.config();
    doctor.relay.write_config(&v6_alone);
    let is_told =
        |said: &[String]| said.iter().any(|line| line.starts_with("warning mail leaves from IPv6 alone"));
    assert!(is_told(&sending(&[])));
    assert!(!is_told(&sending(&["--address", "2001:db8::10"])), "the config says nothing of what is outside");
    let both = config.clone().set("delivery.source_addresses", "[\"192.0.2.10\", \"2001:db8::10\"]");
    doctor.relay.write_config(&both);
    assert!(!is_told(&sending(&[])));
    doctor.relay.write_config(&config);
    // Mail of others than this user leaves from wherever the system likes.
    let for_users = doctor.relay.config().unset("delivery.source_addresses");
    let source = "address = \"192.0.2.10\"\nhostname = \"out10.example.com\"\nusers = [\"news\"]";
    doctor.relay.write_config(&for_users.source(source));
    let said = sending(&[]);
    assert!(said.iter().any(|line| line.starts_with("ok from 192.0.2.10 as out10.example.com")), "{said:#?}");
    let others = |line: &&String| line.contains("192.0.2.10") || line.contains("out10.example.com");
    assert!(said.iter().any(|line| !others(&line)), "{said:#?}");
    let relayed = doctor.relay.config().route("domain = \"*\"\nrelay = [\"smtp.provider.test:587\"]");
    doctor.relay.write_config(&relayed);
    let said = sending(&[]);
    assert!(said[0].contains("mail leaves through smtp.provider.test") && said.len() == 2, "{said:#?}");
    assert!(said[1].contains("must let through what smtp.provider.test sends from"), "{said:#?}");
}

#[test]
fn without_a_config_the_address_of_the_machine_is_looked_at_and_a_wrong_question_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_postrider"));
        let output = command.current_dir(folder.path()).args(arguments).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    for (arguments, words) in [
        (&["check", "--domain", "a b"] as &[&str], "\"a b\" is not a domain"),
        (&["check", "--domain", "[192.0.2.1]"], "is not a domain"),
        (&["check", "--domain", "a.test", "--to", "you"], "--to: the address has no domain"),
        (&["check", "--to", "you@a.test"], "--domain"),
        (&["check", "--domain", "a.test", "--sender-domain", "a b"], "--sender-domain example.com"),
        (&["check", "--domain", "a.test", "--address", "here"], "invalid IP address"),
        (&["check", "--domain", "a.test", "--address", "10.0.0.1"], "10.0.0.1 is private"),
        (&["check", "--domain", "a.test", "--address", "::ffff:10.0.0.1"], "is private"),
    ] {
        let (code, _, stderr) = run(arguments);
        assert!(
            code == Some(2) && stderr.contains(words) && stderr.lines().count() == 1,
            "{arguments:?}: {stderr}"
        );
    }
    let (_, said, stderr) = run(&["check", "--domain", "invalid.invalid"]);
    assert!(said.starts_with("ok       config: no file, built-in defaults"), "{said}{stderr}");
    assert!(said.contains(" sending: ") && said.contains("invalid.invalid"), "{said}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is created");
}

#[test]
fn a_person_reads_what_is_wrong_and_below_it_what_to_change() {
    let doctor = Doctor::with_sources();
    let mut broken = lines(GOOD);
    broken.retain(|line| !line.starts_with("10.2.0.192") && !line.starts_with(DMARC));
    doctor.world.dns.serve(zone(&broken));
    let output = doctor.relay.run(&["check", "--domain", "example.com"]);
    let said = String::from_utf8(output.stdout).unwrap();
    let told: Vec<&str> = said
        .lines()
        .filter(|line| !["config:", "certificate:"].iter().any(|word| line.contains(word)))
        .collect();
    let golden = r#"
ok       sending: from 192.0.2.10 as relay.example.com: of the config
ok       sending: from 2001:db8::10 as relay.example.com: of the config
problem  reverse name: 192.0.2.10 has none, and many hosts refuse mail then; whoever gives you the address sets it (a hoster's panel)
         add    10.2.0.192.in-addr.arpa. IN PTR relay.example.com.
ok       reverse name: 2001:db8::10 is relay.example.com, and relay.example.com is 2001:db8::10
ok       spf: example.com: 192.0.2.10 pass ("ip4:192.0.2.10" of example.com); 2001:db8::10 pass ("ip6:2001:db8::10" of example.com)
ok       spf: relay.example.com: 192.0.2.10 pass ("ip4:192.0.2.10" of relay.example.com); 2001:db8::10 pass ("ip6:2001:db8::10" of relay.example.com) (counts for bounces, which have no sender)
ok       dkim: s1._domainkey.example.com has our key (ed25519)
warning  dmarc: example.com has no record; Gmail, Yahoo and Microsoft want one of whoever sends much, p=none is enough
         add    _dmarc.example.com. IN TXT "v=DMARC1; p=none"
ok       alignment: example.com signs its own mail: it counts (DKIM)
ok       mx: bounces go to mail.example.com
"#;
    assert_eq!(told.join("\n"), golden.trim());
}
