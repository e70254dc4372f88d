//! Every rule of the planning, with a table instead of DNS.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::config::{DomainPattern, EightBit, InDoubt, Login, ProhibitedNetworks, RouteTls, SecretSource};
use crate::delivery::route::plan::*;
use crate::mail::Lifetimes;

type Mx = Result<MxRecords, DnsError>;

/// A table instead of DNS; what is not in it does not exist.
#[derive(Default)]
struct Table {
    mx: HashMap<&'static str, Mx>,
    addresses: HashMap<String, Result<Vec<IpAddr>, DnsError>>,
    /// What is proved of addresses, where DNSSEC works.
    proved: Option<HashMap<String, Result<Vec<IpAddr>, DnsError>>>,
    asked: RefCell<Vec<String>>,
}

impl Table {
    fn mx(mut self, domain: &'static str, records: &[(u16, &str)]) -> Table {
        let records = records.iter().map(|(preference, host)| (*preference, (*host).to_owned())).collect();
        self.mx.insert(domain, Ok(MxRecords { hosts: records, ..MxRecords::default() }));
        self
    }

    fn no_mx(mut self, domain: &'static str) -> Table {
        self.mx.insert(domain, Err(DnsError::NoData));
        self
    }

    fn at(mut self, host: &str, addresses: &[&str]) -> Table {
        let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
        self.addresses.insert(host.to_owned(), Ok(addresses));
        self
    }

    fn broken(mut self, name: &'static str) -> Table {
        self.mx.insert(name, Err(DnsError::Temporary("SERVFAIL".to_owned())));
        self.addresses.insert(name.to_owned(), Err(DnsError::Temporary("SERVFAIL".to_owned())));
        self
    }
}

impl Lookup for Table {
    fn mx(&self, domain: &str) -> Mx {
        self.asked.borrow_mut().push(format!("MX {domain}"));
        self.mx.get(domain).cloned().unwrap_or(Err(DnsError::NoSuchDomain))
    }

    fn addresses(&self, hosts: &[&str]) -> Vec<Result<Vec<IpAddr>, DnsError>> {
        hosts
            .iter()
            .map(|host| {
                self.asked.borrow_mut().push((*host).to_owned());
                self.addresses.get(*host).cloned().unwrap_or(Err(DnsError::NoSuchDomain))
            })
            .collect()
    }

    fn mx_validated(&self, domain: &str) -> Mx {
        self.mx(domain).map(|records| MxRecords { proved: true, ..records })
    }

    fn validates(&self) -> Result<(), String> {
        self.proved.as_ref().map(|_| ()).ok_or_else(|| "no DNSSEC here".to_owned())
    }

    fn addresses_validated(&self, hosts: &[&str]) -> Vec<Result<Vec<IpAddr>, DnsError>> {
        self.asked.borrow_mut().push(format!("proof of {}", hosts.join(" ")));
        hosts.iter().map(|host| self.proved.as_ref().unwrap()[*host].clone()).collect()
    }

    fn txt(&self, _: &str) -> Result<Vec<String>, DnsError> {
        Err(DnsError::NoSuchDomain)
    }

    fn reverse(&self, _: IpAddr) -> Result<Vec<String>, DnsError> {
        Err(DnsError::NoSuchDomain)
    }
}

fn settings() -> DeliverySettings {
    DeliverySettings {
        tlsrpt: Default::default(),
        hostname: Domain::parse("relay.test").unwrap(),
        port: 25,
        https_port: 443,
        mta_sts: true,
        dane: false,
        workers: 1,
        messages_per_connection: 1,
        connections_per_destination: 1,
        destinations: Arc::default(),
        in_doubt: InDoubt::Retry,
        eight_bit: EightBit::Send,
        attempt_deadline: Duration::ZERO,
        source_addresses: ["192.0.2.99", "2001:db8::99"].map(|ip| ip.parse().unwrap()).to_vec(),
        sources: Vec::new(),
        keyring: Default::default(),
        prohibited_networks: ProhibitedNetworks::default(),
        listen: vec!["0.0.0.0:2500".parse().unwrap(), "192.0.2.50:25".parse().unwrap()],
        connect_timeout: Duration::ZERO,
        reply_timeout: Duration::ZERO,
        ca_file: None,
        lifetimes: Lifetimes { messages: 0, bounces: 0 },
        delay_warning: None,
        bounces_per_sender: None,
        retry_rules: Vec::new(),
    }
}

fn route(relay: &[(&str, u16)], tls: RouteTls) -> Routes {
    let relay =
        relay.iter().map(|&(host, port)| RelayHost { host: Domain::parse(host).unwrap(), port }).collect();
    let login =
        Some(Login { username: "me".to_owned(), secret: SecretSource::PasswordFile("/secret".into()) });
    let ca_file = Some("ca.pem".into());
    Routes(vec![Route {
        domain: DomainPattern::Any,
        relay,
        tls: Some(tls),
        ca_file,
        login,
        source_addresses: Vec::new(),
    }])
}

/// All of the same rank: the order stays as it was.
const KEEP: &Rank<'static> = &|_| 0;

fn planned(domain: &str, routes: &Routes, table: &Table) -> Result<Vec<Endpoint>, NoRoute> {
    in_attempt(0, domain, routes, table).map(|plan| plan.endpoints)
}

/// The plan after so many attempts.
fn in_attempt(attempts: u32, domain: &str, routes: &Routes, table: &Table) -> Result<Plan, NoRoute> {
    let domain = Domain::parse(domain).unwrap();
    let request = PlanRequest { domain: &domain, user: None, attempts, with_proof: false, dane: false };
    plan(&request, routes, &settings(), table, KEEP, &mut |_| {})
}

/// `host address` for each endpoint of a plan without routes.
fn by_mx(domain: &str, table: &Table) -> Vec<String> {
    let endpoints = planned(domain, &Routes::default(), table).unwrap();
    endpoints.iter().map(|endpoint| format!("{} {}", endpoint.host, endpoint.address.ip())).collect()
}

/// `code enhanced permanent host`.
fn refusal(domain: &str, table: &Table) -> String {
    shown(planned(domain, &Routes::default(), table))
}

fn shown(answer: Result<Vec<Endpoint>, NoRoute>) -> String {
    let no = answer.unwrap_err();
    let reply = no.reply();
    let enhanced = reply.enhanced.unwrap();
    assert_eq!(u16::from(enhanced.0), reply.code / 100);
    format!("{} {enhanced} {}", reply.code, no.mx.as_deref().unwrap_or("-"))
}

#[test]
fn mx_hosts_come_in_the_order_of_preference() {
    let table = Table::default()
        .mx("a.test", &[(30, "c.test"), (10, "a1.test"), (20, "b.test")])
        .at("a1.test", &["198.51.100.1"])
        .at("b.test", &["198.51.100.2"])
        .at("c.test", &["198.51.100.3"]);
    assert_eq!(
        by_mx("a.test", &table),
        ["a1.test 198.51.100.1", "b.test 198.51.100.2", "c.test 198.51.100.3"]
    );
}

#[test]
fn equal_preferences_are_tried_in_random_order() {
    let table = Table::default()
        .mx("a.test", &[(10, "one.test"), (10, "two.test"), (10, "three.test"), (5, "first.test")])
        .at("one.test", &["198.51.100.1"])
        .at("two.test", &["198.51.100.2"])
        .at("three.test", &["198.51.100.3"])
        .at("first.test", &["198.51.100.4"]);
    let mut orders = std::collections::BTreeSet::new();
    let domain = Domain::parse("a.test").unwrap();
    for message in 0..200 {
        let request =
            PlanRequest { domain: &domain, user: None, attempts: 0, with_proof: false, dane: false };
        let rank = rank_of(message);
        let plan = plan(&request, &Routes::default(), &settings(), &table, &rank, &mut |_| {}).unwrap();
        let hosts: Vec<String> = plan.endpoints.into_iter().map(|endpoint| endpoint.host).collect();
        assert_eq!(hosts[0], "first.test");
        orders.insert(hosts);
    }
    assert_eq!(orders.len(), 6, "all orders of three");
}

#[test]
fn a_domain_without_mx_is_its_own_mail_host() {
    let table = Table::default().no_mx("a.test").at("a.test", &["198.51.100.1"]);
    assert_eq!(by_mx("a.test", &table), ["a.test 198.51.100.1"]);
}

#[test]
fn an_address_where_mx_exist_is_never_asked_for() {
    // RFC 5321 §5.1: with MX records present the domain's own addresses do not count.
    let table = Table::default().mx("a.test", &[(10, "gone.test")]).at("a.test", &["198.51.100.1"]);
    assert_eq!(refusal("a.test", &table), "550 5.4.4 gone.test");
    assert_eq!(*table.asked.borrow(), ["MX a.test", "gone.test"]);
}

#[test]
fn what_dns_says_on_purpose_is_permanent() {
    let table = Table::default()
        .mx("null.test", &[(0, ".")])
        .no_mx("noaddress.test")
        .mx("text.test", &[(10, "192.0.2.1"), (20, "bad name.test"), (30, ".")])
        .mx("loopback.test", &[(10, "localhost")])
        .at("localhost", &["127.0.0.1", "::1"]);
    assert_eq!(refusal("nosuch.test", &table), "550 5.1.2 -");
    assert_eq!(refusal("null.test", &table), "556 5.1.10 -");
    assert_eq!(refusal("noaddress.test", &table), "550 5.1.2 -");
    assert_eq!(refusal("text.test", &table), "550 5.4.4 192.0.2.1");
    assert_eq!(refusal("loopback.test", &table), "550 5.4.4 localhost");
    let mut table = table;
    table.addresses.insert("noaddress.test".to_owned(), Err(DnsError::NoData));
    assert_eq!(refusal("noaddress.test", &table), "550 5.4.4 noaddress.test");
}

#[test]
fn a_broken_resolver_bounces_nothing() {
    let table = Table::default()
        .broken("broken.test")
        .mx("half.test", &[(10, "nosuch.test"), (20, "broken.test"), (30, "localhost")])
        .at("localhost", &["127.0.0.1"])
        .no_mx("noanswer.test");
    let mut table = table;
    table.addresses.insert("noanswer.test".to_owned(), Err(DnsError::Temporary("time-out".to_owned())));
    assert_eq!(refusal("broken.test", &table), "451 4.4.3 -");
    assert_eq!(refusal("half.test", &table), "451 4.4.3 broken.test");
    assert_eq!(refusal("noanswer.test", &table), "451 4.4.3 noanswer.test");
}

#[test]
fn hosts_that_do_not_resolve_are_passed_over() {
    let table = Table::default()
        .mx("a.test", &[(5, "192.0.2.1"), (10, "nosuch.test"), (20, "broken.test"), (30, "good.test")])
        .broken("broken.test")
        .at("good.test", &["198.51.100.1"]);
    assert_eq!(by_mx("a.test", &table), ["good.test 198.51.100.1"]);
}

#[test]
fn our_own_name_or_address_cuts_the_list() {
    let table = Table::default()
        .mx("better.test", &[(5, "good.test"), (10, "Relay.TEST"), (10, "peer.test"), (20, "worse.test")])
        .mx("best.test", &[(10, "relay.test"), (20, "good.test")])
        .mx("address.test", &[(5, "good.test"), (10, "alias.test"), (20, "worse.test")])
        .mx("only.test", &[(10, "alias.test")])
        .no_mx("relay.test")
        .at("relay.test", &["198.51.100.7"])
        .at("good.test", &["198.51.100.1"])
        .at("alias.test", &["192.0.2.99"])
        .at("peer.test", &["198.51.100.2"])
        .at("worse.test", &["198.51.100.3"]);
    assert_eq!(by_mx("better.test", &table), ["good.test 198.51.100.1"]);
    assert_eq!(by_mx("address.test", &table), ["good.test 198.51.100.1"]);
    assert_eq!(refusal("best.test", &table), "554 5.4.6 -");
    assert_eq!(refusal("only.test", &table), "554 5.4.6 -");
    assert_eq!(refusal("relay.test", &table), "554 5.4.6 -");
    assert_eq!(refusal("[192.0.2.99]", &table), "554 5.4.6 -");
}

#[test]
fn prohibited_addresses_are_left_out_in_every_disguise() {
    let table = Table::default().mx("a.test", &[(10, "mixed.test")]).at(
        "mixed.test",
        &[
            "127.0.0.1",
            "::ffff:127.0.0.2",
            "64:ff9b::127.0.0.3",
            "2002:7f00:4::1",
            "fe80::1",
            "169.254.169.254",
            "::1",
            "::",
            "0.0.0.0",
            "224.0.0.1",
            "198.51.100.1",
        ],
    );
    assert_eq!(by_mx("a.test", &table), ["mixed.test 198.51.100.1"]);
    assert_eq!(refusal("[127.0.0.1]", &table), "550 5.4.4 -");
    assert_eq!(refusal("[IPv6:::1]", &table), "550 5.4.4 -");
    assert_eq!(refusal("[IPv6:::ffff:127.0.0.1]", &table), "550 5.4.4 -");
}

#[test]
fn an_address_literal_is_tried_without_a_lookup() {
    let table = Table::default();
    assert_eq!(by_mx("[198.51.100.1]", &table), ["198.51.100.1 198.51.100.1"]);
    assert_eq!(by_mx("[IPv6:2001:db8::1]", &table), ["2001:db8::1 2001:db8::1"]);
    assert!(table.asked.borrow().is_empty());
}

#[test]
fn both_families_are_within_an_attempt() {
    let v6: Vec<String> = (1..=20).map(|n| format!("2001:db8::{n}")).collect();
    let v6: Vec<&str> = v6.iter().map(String::as_str).collect();
    let table = Table::default()
        .mx("a.test", &[(10, "six.test"), (20, "four.test")])
        .at("six.test", &v6)
        .at("four.test", &["198.51.100.1", "198.51.100.2"])
        .mx("b.test", &[(10, "dual.test")])
        .at("dual.test", &["198.51.100.1", "198.51.100.2", "2001:db8::1"]);
    let plan = by_mx("a.test", &table);
    assert_eq!(plan.len(), ADDRESSES_MAX);
    assert!(plan[..8].iter().all(|line| line.starts_with("six.test 2001:")), "{plan:?}");
    assert_eq!(plan[8..], ["four.test 198.51.100.1", "four.test 198.51.100.2"]);
    assert_eq!(
        by_mx("b.test", &table),
        ["dual.test 2001:db8::1", "dual.test 198.51.100.1", "dual.test 198.51.100.2"]
    );
}

#[test]
fn an_attempt_is_bounded_whatever_dns_says() {
    let hosts: Vec<String> = (0..100).map(|n| format!("mx{n}.test")).collect();
    let records: Vec<(u16, &str)> = hosts.iter().map(|host| (10, host.as_str())).collect();
    let mut table = Table::default().mx("a.test", &records);
    for host in &hosts {
        table = table.at(host, &["198.51.100.1", "198.51.100.2", "198.51.100.3", "2001:db8::1"]);
    }
    let plan = planned("a.test", &Routes::default(), &table).unwrap();
    assert_eq!(plan.len(), ADDRESSES_MAX);
    assert_eq!(table.asked.borrow().len(), 1 + MX_LOOKUPS_MAX);
    let names: std::collections::BTreeSet<&str> =
        plan.iter().map(|endpoint| endpoint.host.as_str()).collect();
    assert_eq!(names.len(), MX_HOSTS_MAX, "every host has its share");
    assert!(plan.iter().any(|endpoint| endpoint.address.is_ipv6()));
}

#[test]
fn a_host_named_twice_is_tried_once() {
    let table =
        Table::default().mx("a.test", &[(10, "mx.test"), (20, "MX.test")]).at("mx.test", &["198.51.100.1"]);
    assert_eq!(by_mx("a.test", &table), ["mx.test 198.51.100.1"]);
}

#[test]
fn a_relay_comes_before_everything_and_may_stand_anywhere() {
    let table = Table::default().at("up.test", &["198.51.100.1"]);
    let routes = route(&[("up.test", 587), ("[127.0.0.1]", 2525)], RouteTls::Verify);
    for domain in ["a.test", "nosuch.test", "[127.0.0.1]", "relay.test"] {
        let plan = planned(domain, &routes, &table).unwrap();
        let tried: Vec<String> = plan.iter().map(|e| format!("{} {}", e.host, e.address)).collect();
        assert_eq!(tried, ["up.test 198.51.100.1:587", "127.0.0.1 127.0.0.1:2525"]);
        for endpoint in plan {
            assert!(endpoint.relay && endpoint.tls == RouteTls::Verify);
            assert_eq!(endpoint.login.unwrap().username, "me");
            assert_eq!(endpoint.ca_file, Some("ca.pem".into()));
        }
    }
    assert!(!table.asked.borrow().iter().any(|name| name.starts_with("MX")));
}

#[test]
fn nothing_dns_says_of_a_relay_is_permanent() {
    let table = Table::default().broken("broken.test");
    let refusal =
        |relay: &[(&str, u16)]| shown(planned("a.test", &route(relay, RouteTls::Opportunistic), &table));
    assert_eq!(refusal(&[("nosuch.test", 25)]), "451 4.4.4 nosuch.test");
    assert_eq!(refusal(&[("nosuch.test", 25), ("broken.test", 25)]), "451 4.4.3 broken.test");
}

#[test]
fn a_route_without_relay_only_says_how() {
    let table = Table::default().mx("a.test", &[(10, "mx.test")]).at("mx.test", &["198.51.100.1"]);
    let plan = planned("a.test", &route(&[], RouteTls::Encrypt), &table).unwrap();
    assert_eq!((plan.len(), plan[0].host.as_str(), plan[0].tls), (1, "mx.test", RouteTls::Encrypt));
    assert!(!plan[0].relay);
    // The password is for relays: an MX host must never see it.
    assert_eq!(plan[0].login, None);
}

/// A plan for mail that `user` submitted, with these addresses to leave from.
fn planned_from(sources: &[&str], user: Option<&str>, table: &Table) -> (Result<Plan, NoRoute>, String) {
    let source_addresses = sources.iter().map(|ip| ip.parse().unwrap()).collect();
    let source = |address: &str, name: &str| crate::config::Source {
        address: address.parse().unwrap(),
        hostname: Some(Domain::parse(name).unwrap()),
        users: vec!["news".to_owned()],
    };
    let sources = vec![source("2001:db8::10", "out10.test")];
    let settings = DeliverySettings { source_addresses, sources, ..settings() };
    let mut steps = String::new();
    let domain = Domain::parse("a.test").unwrap();
    let request = PlanRequest { domain: &domain, user, attempts: 0, with_proof: false, dane: false };
    let planned = plan(&request, &Routes::default(), &settings, table, KEEP, &mut |step| {
        steps.push_str(&format!("{step}\n"));
    });
    (planned, steps)
}

#[test]
fn addresses_that_no_source_address_reaches_are_left_out() {
    let table = Table::default()
        .mx("a.test", &[(10, "six.test"), (20, "dual.test"), (30, "four.test")])
        .at("six.test", &["2001:db8::1"])
        .at("dual.test", &["2001:db8::2", "198.51.100.2"])
        .at("four.test", &["198.51.100.3", "198.51.100.4", "198.51.100.5", "198.51.100.6"]);
    let ips = |sources: &[&str], user| {
        let (planned, _) = planned_from(sources, user, &table);
        let endpoints = planned.unwrap().endpoints;
        endpoints.iter().map(|endpoint| endpoint.address.ip().to_string()).collect::<Vec<_>>()
    };
    // What is left out takes no place of the ten.
    let four = ["198.51.100.2", "198.51.100.3", "198.51.100.4", "198.51.100.5", "198.51.100.6"];
    assert_eq!(ips(&["192.0.2.1"], None), four);
    assert_eq!(ips(&["192.0.2.1"], Some("news")), ["2001:db8::1", "2001:db8::2"]);
    assert_eq!(ips(&["192.0.2.1", "2001:db8::9"], None).len(), 7);
    assert_eq!(ips(&[], None).len(), 7, "the system chooses");
    let (planned, steps) = planned_from(&["192.0.2.1"], Some("news"), &table);
    assert!(
        planned
            .unwrap()
            .endpoints
            .iter()
            .all(|endpoint| *endpoint.sources == ["2001:db8::10".parse::<IpAddr>().unwrap()])
    );
    assert!(steps.contains("leaves from 2001:db8::10: source.users\n"), "{steps}");
    assert!(steps.contains("198.51.100.2 left out: no source address of its family\n"), "{steps}");
}

/// What nobody could be asked for bounces no mail, however the others refuse it.
#[test]
fn a_host_that_no_source_address_reaches_keeps_a_plan_from_being_whole() {
    let table = Table::default()
        .mx("a.test", &[(10, "four.test"), (20, "six.test")])
        .at("four.test", &["198.51.100.3"])
        .at("six.test", &["2001:db8::1"]);
    let whole = |sources: &[&str]| planned_from(sources, None, &table).0.unwrap().whole;
    assert!(!whole(&["192.0.2.1"]) && !whole(&["2001:db8::9"]));
    assert!(whole(&["192.0.2.1", "2001:db8::9"]) && whole(&[]));
    let dual =
        Table::default().mx("a.test", &[(10, "dual.test")]).at("dual.test", &["2001:db8::1", "198.51.100.3"]);
    assert!(
        planned_from(&["192.0.2.1"], None, &dual).0.unwrap().whole,
        "the host was asked, at one of its addresses"
    );
}

#[test]
fn where_no_source_address_reaches_anybody_mail_waits_for_the_operator() {
    let table = Table::default().mx("a.test", &[(10, "four.test")]).at("four.test", &["198.51.100.3"]);
    let no = planned_from(&["192.0.2.1"], Some("news"), &table).0.unwrap_err();
    assert_eq!(
        no.reply().to_string(),
        "451 4.3.5 no source address of the family of four.test (198.51.100.3): mail leaves from 2001:db8::10"
    );
    assert_eq!(
        (no.mx.as_deref(), no.reply().reply_source),
        (Some("four.test"), crate::mail::ReplySource::Local)
    );
}

#[test]
fn the_names_and_addresses_of_sources_are_our_own() {
    let table = Table::default()
        .mx("a.test", &[(5, "good.test"), (10, "out10.test"), (20, "worse.test")])
        .at("good.test", &["198.51.100.1"]);
    let planned = planned_from(&[], None, &table).0.unwrap().endpoints;
    assert_eq!(planned.iter().map(|endpoint| &*endpoint.host).collect::<Vec<_>>(), ["good.test"]);
    let table = Table::default()
        .mx("a.test", &[(5, "good.test"), (10, "alias.test"), (20, "worse.test")])
        .at("good.test", &["198.51.100.1"])
        .at("alias.test", &["2001:db8::10"])
        .at("worse.test", &["198.51.100.2"]);
    let planned = planned_from(&["192.0.2.1"], None, &table).0.unwrap().endpoints;
    assert_eq!(planned.iter().map(|endpoint| &*endpoint.host).collect::<Vec<_>>(), ["good.test"]);
}

// ---- lists with more hosts than an attempt has room for --------------------------------------------

/// `a.test` with these hosts, each worse than the one before, and those of them that have an address.
fn listed(hosts: &[String], good: impl Fn(usize) -> bool) -> Table {
    let records: Vec<(u16, &str)> = (10..).zip(hosts.iter().map(String::as_str)).collect();
    let mut table = Table::default().mx("a.test", &records);
    for (at, host) in hosts.iter().enumerate().filter(|(at, _)| good(*at)) {
        table = table.at(host, &[&format!("198.51.100.{at}")]);
    }
    table
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("mx{n:03}.test")).collect()
}

/// The hosts of a plan, each once.
fn hosts_of(plan: &Plan) -> Vec<&str> {
    let mut hosts: Vec<&str> = plan.endpoints.iter().map(|endpoint| endpoint.host.as_str()).collect();
    hosts.dedup();
    hosts
}

#[test]
fn hosts_that_cannot_be_used_take_no_place_of_those_that_can() {
    let hosts = names(8);
    type Spoil = fn(Table, &str) -> Table;
    let kinds: [(&str, Spoil); 4] = [
        ("without a name in DNS", |table, _| table),
        ("prohibited", |table, host| table.at(host, &["127.0.0.1"])),
        ("of a broken server", |mut table, host| {
            table.addresses.insert(host.to_owned(), Err(DnsError::Temporary("SERVFAIL".to_owned())));
            table
        }),
        ("without addresses", |mut table, host| {
            table.addresses.insert(host.to_owned(), Err(DnsError::NoData));
            table
        }),
    ];
    for (kind, spoil) in kinds {
        let mut table = listed(&hosts, |at| at > 5);
        for host in &hosts[..6] {
            table = spoil(table, host);
        }
        assert_eq!(by_mx("a.test", &table), ["mx006.test 198.51.100.6", "mx007.test 198.51.100.7"], "{kind}");
    }
    // Nor do hosts that no source address reaches.
    let mut table = listed(&hosts, |at| at > 5);
    for host in &hosts[..6] {
        table = table.at(host, &["2001:db8::1"]);
    }
    let (planned, _) = planned_from(&["192.0.2.1"], None, &table);
    let planned: Vec<String> = planned.unwrap().endpoints.into_iter().map(|endpoint| endpoint.host).collect();
    assert_eq!(planned, ["mx006.test", "mx007.test"]);
}

#[test]
fn every_usable_host_is_reached_within_the_retries() {
    for count in [1, 5, 6, 7, 10, 20, 21, 35, 60, 100] {
        let hosts = names(count);
        for every in [1, 2, 3, 7] {
            let is_good = |at: usize| at.is_multiple_of(every);
            let table = listed(&hosts, is_good);
            let good = (0..count).filter(|at| is_good(*at)).count();
            // Of the hosts beside the best an attempt takes four.
            let attempts = 1 + u32::try_from(count.saturating_sub(1).div_ceil(MX_HOSTS_MAX - 1)).unwrap();
            let mut reached = std::collections::BTreeSet::new();
            for attempt in 0..attempts {
                let plan = in_attempt(attempt, "a.test", &Routes::default(), &table).unwrap();
                let hosts = hosts_of(&plan);
                assert!(hosts.len() <= MX_HOSTS_MAX && hosts.is_sorted(), "{count} {every}: {hosts:?}");
                if attempt == 1 && good > MX_HOSTS_MAX {
                    assert!(hosts.iter().any(|host| !reached.contains(*host)), "{count} {every}: {hosts:?}");
                }
                reached.extend(hosts.into_iter().map(str::to_owned));
            }
            assert_eq!(reached.len(), good, "{count} hosts, one in {every} good");
        }
    }
}

#[test]
fn every_address_of_a_host_is_reached_within_the_retries() {
    let v4: Vec<String> = (1..=33).map(|n| format!("198.51.100.{n}")).collect();
    let v6: Vec<String> = (1..=12).map(|n| format!("2001:db8::{n}")).collect();
    let all: Vec<&str> = v4.iter().chain(&v6).map(String::as_str).collect();
    let table = Table::default().mx("a.test", &[(10, "mx.test")]).at("mx.test", &all);
    let mut reached = std::collections::BTreeSet::new();
    for attempt in 0..5 {
        let plan = in_attempt(attempt, "a.test", &Routes::default(), &table).unwrap();
        assert_eq!(plan.endpoints.len(), ADDRESSES_MAX);
        reached.extend(plan.endpoints.into_iter().map(|endpoint| endpoint.address.ip()));
    }
    assert_eq!(reached.len(), all.len());
}

#[test]
fn a_plan_is_whole_where_every_host_that_may_take_the_mail_is_in_it() {
    let whole = |table: &Table| in_attempt(0, "a.test", &Routes::default(), table).map(|plan| plan.whole);
    let of = |count: usize| listed(&names(count), |_| true);
    assert!(whole(&of(5)).unwrap());
    assert!(!whole(&of(6)).unwrap(), "more than have room");
    assert!(whole(&listed(&names(12), |at| at < 5)).unwrap(), "the others are gone for good");
    let unsure = of(2).mx("a.test", &[(10, "mx000.test"), (20, "broken.test")]).broken("broken.test");
    assert!(!whole(&unsure).unwrap(), "the second may be there tomorrow");
    let mut cut = of(2);
    cut.mx.get_mut("a.test").unwrap().as_mut().unwrap().cut = true;
    assert!(!whole(&cut).unwrap());
}

#[test]
fn only_a_list_that_was_seen_whole_bounces_mail() {
    let gone = |count| listed(&names(count), |_| false);
    assert_eq!(refusal("a.test", &gone(MX_LOOKUPS_MAX)), "550 5.4.4 mx000.test");
    assert_eq!(refusal("a.test", &gone(MX_LOOKUPS_MAX + 1)), "451 4.4.4 -");
    let mut cut = gone(2);
    cut.mx.get_mut("a.test").unwrap().as_mut().unwrap().cut = true;
    assert_eq!(refusal("a.test", &cut), "451 4.4.4 -");
    // A better host than ourselves that cannot be looked up now may be there tomorrow; a worse one is nothing to us.
    let better = Table::default()
        .mx("a.test", &[(5, "broken.test"), (10, "alias.test"), (20, "worse.test")])
        .broken("broken.test")
        .at("alias.test", &["192.0.2.99"])
        .at("worse.test", &["198.51.100.1"]);
    assert_eq!(refusal("a.test", &better), "451 4.4.3 broken.test");
    let worse = Table::default()
        .mx("a.test", &[(10, "alias.test"), (20, "broken.test")])
        .broken("broken.test")
        .at("alias.test", &["192.0.2.99"]);
    assert_eq!(refusal("a.test", &worse), "554 5.4.6 -");
    // NXDOMAIN for a name that has MX records is a server's mistake, and no reason to forget its other hosts.
    let odd = Table::default()
        .mx("a.test", &[(10, "a.test"), (20, "good.test")])
        .at("good.test", &["198.51.100.1"]);
    assert_eq!(by_mx("a.test", &odd), ["good.test 198.51.100.1"]);
}

#[test]
fn relays_beyond_the_tenth_have_their_turn() {
    let names: Vec<String> = (1..=13).map(|n| format!("up{n:02}.test")).collect();
    let relays: Vec<(&str, u16)> = names.iter().map(|name| (name.as_str(), 25)).collect();
    let routes = route(&relays, RouteTls::Verify);
    let mut table = Table::default();
    for (at, name) in names.iter().enumerate() {
        table = table.at(name, &[&format!("198.51.100.{at}")]);
    }
    let first = in_attempt(0, "a.test", &routes, &table).unwrap();
    assert_eq!(hosts_of(&first), names[..10]);
    let second = in_attempt(1, "a.test", &routes, &table).unwrap();
    let expected: Vec<&str> =
        [0].into_iter().chain(1..7).chain(10..13).map(|at| names[at].as_str()).collect();
    assert_eq!(hosts_of(&second), expected);
}

#[test]
fn a_host_where_this_relay_listens_is_this_relay() {
    // Whatever it is called, and whatever other addresses it has.
    let table = Table::default()
        .mx("a.test", &[(5, "good.test"), (10, "other-name.test"), (20, "worse.test")])
        .mx("only.test", &[(10, "other-name.test")])
        .at("other-name.test", &["198.51.100.9", "192.0.2.50"])
        .at("good.test", &["198.51.100.1"])
        .at("worse.test", &["198.51.100.2"]);
    assert_eq!(by_mx("a.test", &table), ["good.test 198.51.100.1"]);
    assert_eq!(refusal("only.test", &table), "554 5.4.6 -");
    assert_eq!(refusal("[192.0.2.50]", &table), "554 5.4.6 -");
    assert_eq!(refusal("[IPv6:::ffff:192.0.2.50]", &table), "554 5.4.6 -");
    // A route may lead to this machine, but not to this relay; that is the operator's to repair, and bounces nothing.
    let routes = route(&[("[127.0.0.1]", 2500), ("[127.0.0.1]", 2526)], RouteTls::Opportunistic);
    let plan = planned("a.test", &routes, &table).unwrap();
    assert_eq!(plan.iter().map(|one| one.address.to_string()).collect::<Vec<_>>(), ["127.0.0.1:2526"]);
    let routes = route(&[("[127.0.0.1]", 2500)], RouteTls::Opportunistic);
    assert_eq!(shown(planned("a.test", &routes, &table)), "451 4.4.4 [127.0.0.1]");
}

/// Of a domain with DNSSEC. Somebody who answers for the DNS could have the mail returned: what would end it is asked
/// for once more with its proof, of all hosts at once.
#[test]
fn what_would_end_mail_of_a_signed_domain_has_to_be_proved() {
    let at = |ip: &str| Ok(vec![ip.parse().unwrap()]);
    let bogus = || Err(DnsError::Bogus("its signatures are wrong".to_owned()));
    let planned = |said: [Result<Vec<IpAddr>, DnsError>; 2], proved: [Result<Vec<IpAddr>, DnsError>; 2]| {
        let mut table = Table::default().mx("a.test", &[(10, "one.test"), (20, "two.test")]);
        let named = |two: [Result<Vec<IpAddr>, DnsError>; 2]| {
            ["one.test", "two.test"].map(str::to_owned).into_iter().zip(two).collect::<HashMap<_, _>>()
        };
        (table.addresses, table.proved) = (named(said), Some(named(proved)));
        let domain = Domain::parse("a.test").unwrap();
        let request = PlanRequest { domain: &domain, user: None, attempts: 0, with_proof: false, dane: true };
        let settings = DeliverySettings { dane: true, ..settings() };
        let plan = plan(&request, &Routes::default(), &settings, &table, KEEP, &mut |_| {});
        let asked: Vec<String> =
            table.asked.borrow().iter().filter(|asked| asked.starts_with("proof")).cloned().collect();
        let to = match plan {
            Ok(plan) => {
                plan.endpoints.iter().map(|to| to.address.ip().to_string()).collect::<Vec<_>>().join(" ")
            }
            Err(why) => shown(Err(why)),
        };
        (to, asked.join("; "))
    };
    let told = |to: &str, asked: &str| (to.to_owned(), asked.to_owned());
    let both = "proof of one.test two.test";
    let (good, other) = (|| at("198.51.100.1"), || at("198.51.100.2"));
    // Prohibited, and an address of this relay: both are other addresses in truth.
    assert_eq!(
        planned([at("127.0.0.1"), at("192.0.2.99")], [good(), other()]),
        told("198.51.100.1 198.51.100.2", both)
    );
    // Not known in truth: it waits.
    for said in [at("127.0.0.1"), at("::ffff:127.0.0.1"), at("192.0.2.99"), Err(DnsError::NoSuchDomain)] {
        let (to, asked) = planned([said.clone(), Err(DnsError::NoData)], [bogus(), bogus()]);
        assert!(to.starts_with("451 4.") && asked == both, "{said:?}: {to}, {asked}");
    }
    // As it is said: mail is returned.
    let (nowhere, own) = (at("127.0.0.1"), at("192.0.2.99"));
    assert!(planned([nowhere.clone(), nowhere.clone()], [nowhere.clone(), nowhere]).0.starts_with("550 5."));
    assert!(planned([own.clone(), own.clone()], [own.clone(), own]).0.contains(" 5.4.6 "));
    // Nobody asks for the proof of a host that mail can go to.
    assert_eq!(planned([good(), other()], [bogus(), bogus()]), told("198.51.100.1 198.51.100.2", ""));
}
