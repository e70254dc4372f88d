//! `postrider explain` against a real DNS server in this process.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::harness::dns_server::{DnsServer, Fault, Zone};
use postrider::cli::explain;
use postrider::config::*;
use postrider::mail::{Domain, Lifetimes, address};

use crate::delivery::connection;

fn settings(server: &DnsServer, routes: Vec<Route>) -> Settings {
    let hostname = Domain::parse("relay.test").unwrap();
    let routes = Arc::new(Routes(routes));
    Settings {
        hostname: hostname.clone(),
        queue: QueueSettings { path: "queue.db".into(), history: Duration::ZERO, litestream: false },
        submission: SubmissionSettings {
            hostname: hostname.clone(),
            listen: Vec::new(),
            tls: None,
            users_file: "users".into(),
            aliases: BTreeMap::from([("root".to_owned(), vec![address::parse("bob@a.test").unwrap()])]),
            limits: Limits {
                message_size: 0,
                recipients: 0,
                sessions: 0,
                sessions_per_client: 0,
                errors: 0,
                auth_failures: 0,
                received_hops: 0,
                long_lines: LongLines::Accept,
                idle_timeout: Duration::ZERO,
                login_timeout: Duration::ZERO,
                session_timeout: Duration::ZERO,
                future_release: None,
            },
            lifetime: Duration::ZERO,
            keep_subjects: false,
        },
        dns: DnsSettings {
            servers: vec![server.address().into()],
            timeout: Duration::from_secs(10),
            trust_anchor: None,
        },
        delivery: DeliverySettings {
            hostname,
            prohibited_networks: ProhibitedNetworks::default(),
            ..connection::settings()
        },
        scheduler: SchedulerSettings {
            workers: 1,
            connections_per_destination: 1,
            recipients_per_transaction: 1,
            schedule: vec![Duration::from_secs(60)],
            longest_rule_delay: Duration::ZERO,
            lifetimes: Lifetimes { messages: 0, bounces: 0 },
            destinations: Arc::default(),
            routes: Arc::clone(&routes),
        },
        routes,
        log: LogSettings::default(),
        metrics: MetricsSettings::default(),
    }
}

fn run(recipient: &str, json: bool, settings: &Settings) -> String {
    let mut out = Vec::new();
    // An address that cannot be routed makes the command fail, after it has said why.
    let _ = explain::run(recipient, (None, None), json, settings, &mut out);
    String::from_utf8(out).unwrap()
}

fn server() -> DnsServer {
    let zone = Zone::new()
        .mx("a.test", 10, "mx1.a.test")
        .mx("a.test", 20, "mx2.a.test")
        .address("mx1.a.test", "192.0.2.1".parse().unwrap())
        .address("mx1.a.test", "127.0.0.1".parse().unwrap())
        .fault("mx2.a.test", Fault::Servfail)
        .null_mx("none.test")
        .address("up.test", "192.0.2.9".parse().unwrap());
    DnsServer::start(zone).unwrap()
}

#[test]
fn every_step_is_told() {
    let server = server();
    let settings = settings(&server, Vec::new());
    let expected = "bob@a.test\n  \
        no [[route]] matches a.test\n  \
        MX of a.test: 10 mx1.a.test, 20 mx2.a.test\n  \
        mx1.a.test: 127.0.0.1, 192.0.2.1\n  \
        mx2.a.test: the DNS server answered SERVFAIL\n  \
        127.0.0.1 left out: prohibited_networks has 127.0.0.0/8\n  \
        try 1: mx1.a.test at 192.0.2.1:25, tls opportunistic\n  \
        lane: a.test\n";
    assert_eq!(run("bob@a.test", false, &settings), expected);
    assert_eq!(run("Root", false, &settings), expected, "an alias");
    assert_eq!(
        run("bob@none.test", false, &settings),
        "bob@none.test\n  no [[route]] matches none.test\n  none.test has a null MX\n  \
         would bounce at once: 556 5.1.10 none.test accepts no mail (null MX)\n  lane: none.test\n"
    );
    assert!(explain::run("nobody", (None, None), false, &settings, &mut Vec::new()).is_err());
}

#[test]
fn a_relay_is_told_and_its_password_is_not() {
    let server = server();
    let route = Route {
        domain: DomainPattern::Any,
        relay: vec![RelayHost { host: Domain::parse("up.test").unwrap(), port: 587 }],
        tls: Some(RouteTls::Verify),
        ca_file: None,
        login: Some(Login {
            username: "me".to_owned(),
            secret: SecretSource::TokenCommand(["/bin/token", "hunter2"].map(str::to_owned).to_vec()),
        }),
        source_addresses: Vec::new(),
    };
    let settings = settings(&server, vec![route]);
    let text = run("bob@a.test", false, &settings);
    assert!(text.contains("try 1: up.test at 192.0.2.9:587, tls verify, relay, with login\n"), "{text}");
    assert!(text.ends_with("lane: route:*\n"), "{text}");
    let json = run("bob@a.test", true, &settings);
    assert!(json.contains("\"address\": \"192.0.2.9:587\""), "{json}");
    assert!(!text.contains("hunter2") && !json.contains("hunter2"));
}
