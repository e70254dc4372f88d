//! The evaluator over a table of names.

use std::collections::BTreeMap;

use super::*;

/// Names and their records, a line each: `name TYPE data`; `FAIL` as data: it cannot be looked up.
struct Table(BTreeMap<(String, &'static str), Vec<String>>);

impl Table {
    fn new(lines: &str) -> Table {
        let mut table = BTreeMap::<_, Vec<String>>::new();
        for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let (name, rest) = line.split_once(' ').unwrap();
            let (kind, data) = rest.split_once(' ').unwrap();
            let kind = ["TXT", "A", "AAAA", "MX", "PTR"].into_iter().find(|known| *known == kind).unwrap();
            table.entry((name.to_owned(), kind)).or_default().push(data.to_owned());
        }
        Table(table)
    }

    fn get(&self, name: &str, kind: &'static str) -> Result<Vec<String>, String> {
        let found = self.0.get(&(name.to_owned(), kind)).cloned().unwrap_or_default();
        if found.iter().any(|data| data == "FAIL") { Err("SERVFAIL".to_owned()) } else { Ok(found) }
    }
}

impl Names for Table {
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
        self.get(&ip.to_string(), "PTR")
    }
}

const ZONE: &str = "
    a.test A 192.0.2.1
    a.test AAAA 2001:db8::1
    b.test A 198.51.100.7
    broken.test A FAIL
    mx.test MX a.test
    mx.test MX b.test
    many.test MX h0.test
    many.test MX h1.test
    many.test MX h2.test
    many.test MX h3.test
    many.test MX h4.test
    many.test MX h5.test
    many.test MX h6.test
    many.test MX h7.test
    many.test MX h8.test
    many.test MX h9.test
    many.test MX h10.test
    192.0.2.1 PTR a.test
    192.0.2.1 PTR mail.c.test
    mail.c.test A 192.0.2.1
    yes.test TXT v=spf1 ip4:192.0.2.0/24 -all
    no.test TXT v=spf1 ip4:203.0.113.0/24 -all
    two.test TXT v=spf1 -all
    two.test TXT v=spf1 +all
    silent.test TXT FAIL
    loop.test TXT v=spf1 include:loop.test -all
    ring.test TXT v=spf1 redirect=ring.test
    other.test TXT google-site-verification=x
    1.2.0.192.in-addr._spf.me.test A 127.0.0.2
    joe.me.test A 127.0.0.2
    me.test A 192.0.2.1
    me.test MX a.test
";

/// The result for 192.0.2.1 and for 2001:db8::1, if `me.test` had this record.
fn both(record: &str) -> (String, String) {
    let table = Table::new(ZONE);
    let of = |ip: &str| {
        let client = Client { ip: ip.parse().unwrap(), sender: "joe@me.test", helo: "a.test" };
        check_with(&table, &client, "me.test", record).result.to_string()
    };
    (of("192.0.2.1"), of("2001:db8::1"))
}

#[test]
fn each_mechanism_matches_what_it_says() {
    for (record, v4, v6) in [
        ("v=spf1", "neutral", "neutral"),
        ("v=spf1 -all", "fail", "fail"),
        ("V=SPF1  ~ALL ", "softfail", "softfail"),
        ("v=spf1 ?all", "neutral", "neutral"),
        ("v=spf1 ip4:192.0.2.1 -all", "pass", "fail"),
        ("v=spf1 ip4:192.0.2.0/24 ~all", "pass", "softfail"),
        ("v=spf1 -ip4:192.0.2.0/31 +all", "fail", "pass"),
        ("v=spf1 ip6:2001:db8::/32 -all", "fail", "pass"),
        ("v=spf1 a -all", "pass", "fail"),
        ("v=spf1 a:a.test -all", "pass", "pass"),
        ("v=spf1 a:a.test/0//0 -all", "pass", "pass"),
        ("v=spf1 a:b.test/0 -all", "pass", "fail"),
        ("v=spf1 mx -all", "pass", "pass"),
        ("v=spf1 mx:mx.test//64 -all", "pass", "pass"),
        ("v=spf1 ptr:c.test -all", "pass", "fail"),
        ("v=spf1 ptr -all", "fail", "fail"),
        ("v=spf1 exists:%{ir}.%{v}._spf.%{d2} -all", "pass", "fail"),
        ("v=spf1 exists:%{l}.%{o} -all", "pass", "pass"),
        ("v=spf1 include:yes.test -all", "pass", "fail"),
        ("v=spf1 include:no.test ?all", "neutral", "neutral"),
        ("v=spf1 redirect=yes.test", "pass", "fail"),
        ("v=spf1 ~all redirect=yes.test", "softfail", "softfail"),
        ("v=spf1 x-any=%{d} exp=why.%{d} a -all", "pass", "fail"),
    ] {
        assert_eq!(both(record), (v4.to_owned(), v6.to_owned()), "{record}");
    }
}

#[test]
fn broken_records_and_broken_names_are_told_apart() {
    for (record, result) in [
        ("v=spf1 ipv4:192.0.2.1 -all", "permerror"),
        ("v=spf1 +all bogus", "permerror"),
        ("v=spf1 a:192.0.2.1 -all", "permerror"),
        ("v=spf1 ip4:192.0.2.256 -all", "permerror"),
        ("v=spf1 ip4:192.0.2.1/33 -all", "permerror"),
        ("v=spf1 ip4:192.0.2.1/01 -all", "permerror"),
        ("v=spf1 ip6:::/129 -all", "permerror"),
        ("v=spf1 a/24/64 -all", "permerror"),
        ("v=spf1 include -all", "permerror"),
        ("v=spf1 a:localhost -all", "permerror"),
        ("v=spf1 exists:%{x}.test -all", "permerror"),
        ("v=spf1 exists:%{d0}.test -all", "permerror"),
        ("v=spf1 exists:%a.test -all", "permerror"),
        ("v=spf1 a:m\u{fc}ller.test -all", "permerror"),
        ("v=spf1 redirect=yes.test redirect=yes.test", "permerror"),
        ("v=spf1 include:none.test -all", "permerror"),
        ("v=spf1 include:other.test -all", "permerror"),
        ("v=spf1 include:two.test -all", "permerror"),
        ("v=spf1 redirect=none.test", "permerror"),
        ("v=spf1 include:loop.test -all", "permerror"),
        ("v=spf1 redirect=ring.test", "permerror"),
        ("v=spf1 mx:many.test -all", "permerror"),
        ("v=spf1 a:x1.test a:x2.test a:x3.test a -all", "permerror"),
        ("v=spf1 a:x1.test a:x2.test a -all", "pass"),
        ("v=spf1 include:silent.test -all", "temperror"),
        ("v=spf1 a:broken.test -all", "temperror"),
        ("v=spf1 a a:broken.test -all", "pass"),
    ] {
        assert_eq!(both(record).0, result, "{record}");
    }
}

#[test]
fn ten_terms_with_look_ups_and_no_more() {
    let of = |count: usize| both(&format!("v=spf1{} a -all", " a:b.test".repeat(count))).0;
    assert_eq!((of(9).as_str(), of(10).as_str()), ("pass", "permerror"));
}

#[test]
fn what_decided_is_said() {
    let table = Table::new(ZONE);
    let client = Client { ip: [192, 0, 2, 1].into(), sender: "joe@me.test", helo: "a.test" };
    let why = |record: &str| check_with(&table, &client, "me.test", record).why;
    assert_eq!(why("v=spf1 mx -all"), "\"mx\" of me.test");
    let included = "\"include:yes.test\" of me.test, by \"ip4:192.0.2.0/24\" of yes.test";
    assert_eq!(why("v=spf1 include:yes.test -all"), included);
    let wrong = "me.test: \"ip:192.0.2.1\" cannot be read: there is no such mechanism";
    assert_eq!(why("v=spf1 ip:192.0.2.1"), wrong);
    assert_eq!(why("v=spf1 include:two.test"), "two.test has several v=spf1 records");
    assert_eq!(check(&table, &client, "two.test").result, SpfResult::PermError);
    assert_eq!(check(&table, &client, "other.test").result, SpfResult::None);
    assert_eq!(check(&table, &client, "silent.test").result, SpfResult::TempError);
}

/// The examples of RFC 7208 §7.4.
#[test]
fn macros_expand_as_the_rfc_says() {
    let expand = |ip: &str, text: &str| {
        let table = Table::new("");
        let sender = "strong-bad@email.example.com";
        let client = Client { ip: ip.parse().unwrap(), sender, helo: "mx.example.com" };
        let mut evaluation = Evaluation::new(&table, &client);
        let text = MacroString::parse_domain(text).unwrap();
        evaluation.expand(&text, "email.example.com").ok().unwrap()
    };
    for (text, expanded) in [
        ("%{s}", "strong-bad@email.example.com"),
        ("%{d4}", "email.example.com"),
        ("%{d2}", "example.com"),
        ("%{d1}", "com"),
        ("%{dr}", "com.example.email"),
        ("%{d2r}", "example.email"),
        ("%{l-}", "strong.bad"),
        ("%{lr-}", "bad.strong"),
        ("%{l1r-}", "strong"),
        ("%{ir}.%{v}._spf.%{d2}", "3.2.0.192.in-addr._spf.example.com"),
        ("%{lr-}.lp.%{ir}.%{v}._spf.%{d2}", "bad.strong.lp.3.2.0.192.in-addr._spf.example.com"),
        ("%{p}.trusted-domains.example.net.", "unknown.trusted-domains.example.net"),
        ("%{S}.%%a%-.test", "strong-bad%40email.example.com.%a%20.test"),
    ] {
        assert_eq!(expand("192.0.2.3", text), expanded.to_ascii_lowercase(), "{text}");
    }
    let v6 = "1.0.b.c.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6._spf.example.com";
    assert_eq!(expand("2001:db8::cb01", "%{ir}.%{v}._spf.%{d2}"), v6);
}
