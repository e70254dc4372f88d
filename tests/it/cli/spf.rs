//! SPF before another's evaluator: pyspf must come to the same result, record by record.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::process::{Command, Stdio};

use fastrand::Rng;
use serde_json::{Value, json};

use crate::harness::relay::run_to_end;
use crate::harness::skipped::{installed, skipped};
use postrider::delivery::route::lookup::reverse_name;
use postrider::mail::spf::{self, Client, Names};

/// Gives a result and its reason for each case on standard input.
const PYSPF: &str = "
import json, sys, spf
zone = {}
def ask(name, kind, strict=True, timeout=20):
    found = zone.get(name.rstrip('.') + ' ' + kind, [])
    if 'FAIL' in found:
        raise spf.TempError('SERVFAIL')
    form = {'TXT': lambda text: [text.encode()], 'MX': lambda host: (10, host)}.get(kind, lambda data: data)
    return [((name, kind), form(data)) for data in found]
spf.DNSLookup = ask
answers = []
for case in json.load(sys.stdin):
    zone = case['zone']
    answers.append(spf.query(case['ip'], case['sender'], case['helo']).check()[::2])
json.dump(answers, sys.stdout)
";

const CASES: usize = 2000;

/// By `name TYPE`.
type Zone = BTreeMap<String, Vec<String>>;

struct Table<'a>(&'a Zone);

impl Table<'_> {
    fn get(&self, name: &str, kind: &str) -> Result<Vec<String>, String> {
        let found = self.0.get(&format!("{name} {kind}")).cloned().unwrap_or_default();
        if found.iter().any(|data| data == "FAIL") { Err("SERVFAIL".to_owned()) } else { Ok(found) }
    }
}

impl Names for Table<'_> {
    fn txt(&self, name: &str) -> Result<Vec<String>, String> {
        self.get(name, "TXT")
    }
    fn addresses(&self, name: &str, v6: bool) -> Result<Vec<IpAddr>, String> {
        let found = self.get(name, if v6 { "AAAA" } else { "A" })?;
        Ok(found.iter().map(|ip| ip.parse().unwrap()).collect())
    }
    fn mx(&self, name: &str) -> Result<Vec<String>, String> {
        self.get(name, "MX")
    }
    fn reverse(&self, ip: IpAddr) -> Result<Vec<String>, String> {
        self.get(&reverse_name(ip), "PTR")
    }
}

const ADDRESSES: [&str; 4] = ["192.0.2.1", "192.0.2.130", "2001:db8::1", "2001:db8:1::1"];
const NAMES: [&str; 6] = ["a.test", "b.test", "mail.a.test", "c.test", "bad.test", "gone.test"];
/// `*` is a name, `#` a number: pyspf wants unknown modifiers once.
const WORDS: &str = "all a a:* a:*/24 a/25//64 a:*//48 mx mx:* mx:*/24//32 mx/0 ip4:192.0.2.1 ip4:192.0.2.0/25 \
                     ip4:192.0.2.128/25 ip6:2001:db8::1 ip6:2001:db8::/47 ip6:2001:db8:1::/48 include:* include:* \
                     include:* ptr ptr:* exists:* exists:%{ir}.%{v}.* exists:%{l}.* exists:%{d2} exists:%{l1r-}.* \
                     exists:%{h} exists:%{S}.* a:%{o} a:%{d1r}.test x-#=%{d}";
const WRONG: &str = "ipv4:192.0.2.1 ip4:192.0.2.300 ip4:192.0.2.1/33 ip4:192.0.2.1/08 ip4 ip6:2001:db8::g ip6:::/129 a/33 \
                     a//129 mx/24/24 a:localhost a:1.2.3.4 all:x include include: exists: exists:%{x}.test a:%(d).test \
                     a:test% redirect= x=%{y} foo =x -";
/// Words of ten look-ups and more come from here.
const MANY: [&str; 3] = ["a:c.test", "mx:c.test", "exists:c.test"];

fn word(random: &mut Rng) -> String {
    let words = if random.u8(..) < 6 { WRONG } else { WORDS };
    let words: Vec<&str> = words.split_whitespace().collect();
    let sign = ["", "", "+", "-", "~", "?"][random.usize(..6)];
    let word = words[random.usize(..words.len())];
    let sign = if word.contains('=') { "" } else { sign };
    let word = word.replace('*', NAMES[random.usize(..NAMES.len())]);
    format!("{sign}{}", word.replace('#', &random.u32(..).to_string()))
}

fn record(random: &mut Rng) -> String {
    let mut words = vec!["v=spf1".to_owned()];
    words.extend((0..random.usize(..6)).map(|_| word(random)));
    if random.u8(..) < 10 {
        words.extend((0..random.usize(..12)).map(|_| MANY[random.usize(..3)].to_owned()));
    }
    match random.u8(..8) {
        0 => words.push(format!("redirect={}", NAMES[random.usize(..NAMES.len())])),
        1..=4 => words.push("-all".to_owned()),
        _ => {}
    }
    words.join(" ")
}

fn zone(random: &mut Rng) -> Zone {
    let mut zone = Zone::new();
    let mut put = |name: &str, kind: &str, data: String| {
        zone.entry(format!("{name} {kind}")).or_default().push(data);
    };
    for name in &NAMES[..4] {
        for address in ADDRESSES.iter().filter(|_| random.bool()).collect::<Vec<_>>() {
            put(name, if address.contains(':') { "AAAA" } else { "A" }, (*address).to_owned());
        }
        for host in NAMES[..3].iter().filter(|_| random.u8(..3) == 0).collect::<Vec<_>>() {
            put(name, "MX", (*host).to_owned());
        }
        for _ in 0..[1, 1, 1, 1, 1, 1, 0, 2][random.usize(..8)] {
            put(name, "TXT", record(random));
        }
        if random.bool() {
            put(name, "TXT", "some-verification=x".to_owned());
        }
    }
    for kind in ["TXT", "A", "AAAA", "MX"] {
        put("bad.test", kind, "FAIL".to_owned());
    }
    for address in ADDRESSES {
        let name = reverse_name(address.parse().unwrap());
        put(&name, "PTR", NAMES[random.usize(..4)].to_owned());
    }
    for below in ["joe.a.test", "1.2.0.192.in-addr.a.test", "joe%40a.test.b.test"] {
        if random.bool() {
            put(below, "A", "127.0.0.2".to_owned());
        }
    }
    zone
}

/// Where pyspf is not the judge. It counts `redirect=` among the look-ups before it is followed, and where it never is
/// (RFC 7208 §4.6.4 counts what is evaluated), and refuses a record that includes itself before its other terms.
fn is_left_out(zone: &Zone, reason: &str) -> bool {
    let redirects = || zone.values().flatten().any(|text| text.contains("redirect="));
    reason.contains("Too many DNS lookups") && redirects() || reason.contains("trivial recursion")
}

#[test]
fn pyspf_comes_to_the_same_result() {
    let python = || Command::new("/usr/bin/python3");
    if !installed("python3")
        || !python().args(["-c", "import spf"]).stderr(Stdio::null()).status().unwrap().success()
    {
        return skipped("pyspf is not installed");
    }
    let mut random = Rng::with_seed(7208);
    let cases: Vec<(Zone, IpAddr)> =
        (0..CASES).map(|_| (zone(&mut random), ADDRESSES[random.usize(..4)].parse().unwrap())).collect();
    let (sender, helo) = ("joe@a.test", "mail.a.test");
    let case =
        |(zone, ip): &(Zone, IpAddr)| json!({ "zone": zone, "ip": ip, "sender": sender, "helo": helo });
    let input = Value::from(cases.iter().map(case).collect::<Vec<_>>()).to_string();
    let mut command = python();
    command.args(["-c", PYSPF]);
    let output = run_to_end(command, input.as_bytes());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let judged: Vec<(String, String)> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(judged.len(), cases.len());
    let mut seen = BTreeMap::<&str, usize>::new();
    let mut left_out = 0;
    let mut wrong = Vec::new();
    for ((zone, ip), (theirs, reason)) in cases.iter().zip(&judged) {
        if is_left_out(zone, reason) {
            left_out += 1;
            continue;
        }
        *seen.entry(theirs).or_default() += 1;
        let ours = spf::check(&Table(zone), &Client { ip: *ip, sender, helo }, "a.test");
        if ours.result.to_string() != *theirs {
            wrong.push(format!("{ip}: {} ({}), pyspf {theirs} ({reason}): {zone:#?}", ours.result, ours.why));
        }
    }
    assert!(wrong.is_empty(), "{} of {}, the first: {}", wrong.len(), cases.len(), wrong[0]);
    assert!(seen.len() == 7 && seen.values().all(|count| *count > 20), "{seen:?}");
    assert!(left_out < CASES / 20, "{left_out} left out");
}
