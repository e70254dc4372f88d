//! Lanes of `[[route]]`s as people see them.

use super::Bench;
use crate::config::{DomainPattern, RelayHost, Route, Routes};
use crate::mail::{Domain, Lifetimes};
use crate::queue::admin::{Admin, Filter};
use crate::queue::rows::BackoffRow;
use crate::queue::shared::now_us;
use crate::queue::tests::sample::ChangeAll as _;

const LIFETIMES: Lifetimes = Lifetimes { messages: 100, bounces: 10 };

fn route(domain: DomainPattern, relay: bool) -> Route {
    let relay = relay.then(|| RelayHost { host: Domain::parse("relay.test").unwrap(), port: 25 });
    Route {
        domain,
        relay: relay.into_iter().collect(),
        tls: None,
        ca_file: None,
        login: None,
        source_addresses: Vec::new(),
    }
}

fn domain(name: &str) -> Domain {
    Domain::parse(name).unwrap()
}

#[test]
fn the_views_find_the_lane_that_the_scheduler_does() {
    let routes = Routes(vec![
        route(DomainPattern::Exactly("own.test".to_owned()), false),
        route(DomainPattern::Exactly("mx.below.test".to_owned()), false),
        route(DomainPattern::Below("below.test".to_owned()), true),
        route(DomainPattern::Exactly("one.test".to_owned()), true),
        route(DomainPattern::Exactly("one.test".to_owned()), false),
    ]);
    let bench = Bench::new();
    let names = [
        "own.test",
        "mx.below.test",
        "a.b.below.test",
        "c.below.test",
        "below.test",
        "xbelow.test",
        "one.test",
    ];
    bench.accept(&names.map(|name| format!("a@{name}")).each_ref().map(String::as_str));
    for routes in [
        routes.clone(),
        Routes(Vec::new()),
        Routes([routes.0, vec![route(DomainPattern::Any, true)]].concat()),
    ] {
        bench.queue.show_config(&routes, LIFETIMES);
        let shown = format!("SELECT count(*) = {} FROM routes", routes.0.len());
        while bench.number(&shown) != 1 {
            std::thread::yield_now();
        }
        for name in names {
            let lane = bench.text(&format!("SELECT lane FROM queue WHERE domain = '{name}'"));
            assert_eq!(lane, *routes.lane(&domain(name)), "{name}");
        }
    }
}

#[test]
fn mail_that_waits_for_a_relay_in_trouble_says_so_and_a_retry_of_its_domain_ends_that() {
    let bench = Bench::new();
    let due = bench.accept(&["a@example.com", "b@example.net"]);
    let exactly = route(DomainPattern::Exactly("example.net".to_owned()), true);
    bench.queue.show_config(&Routes(vec![exactly, route(DomainPattern::Any, true)]), LIFETIMES);
    for lane in ["route:*", "route:example.net"] {
        bench.queue.set_backoff(BackoffRow {
            lane: lane.to_owned(),
            failures: 1,
            backoff_until: now_us() / 1_000_000 + 9999,
            last_reply: format!("535 5.7.8 no ({lane})"),
        });
    }
    while bench.queue.backoffs().unwrap().len() < 2 || bench.number("SELECT count(*) FROM routes") < 2 {
        std::thread::yield_now();
    }
    let admin = Admin::to_write(&bench.path()).unwrap();
    let later = "SELECT datetime(backoff_until, 'unixepoch') FROM backoffs WHERE lane = 'route:*'";
    let line = || admin.list(&Filter::domain(&domain("example.com")), 1);
    let (first, until) = (line().unwrap().remove(0), bench.text(later));
    assert_eq!(
        (first.last_reply.as_deref(), first.lane_reply.as_deref()),
        (None, Some("535 5.7.8 no (route:*)"))
    );
    assert_eq!(first.next_attempt.as_ref(), Some(&until));
    let of_domain = "SELECT next_attempt FROM queue_by_domain WHERE domain = 'example.com'";
    assert_eq!(bench.text(of_domain), until);

    admin.kick(&Filter::domain(&domain("example.com"))).unwrap();
    let left = |queue: &crate::queue::Queue| {
        queue.backoffs().unwrap().into_iter().map(|row| row.lane).collect::<Vec<_>>()
    };
    assert_eq!(left(&bench.queue), ["route:example.net"]);
    assert_eq!(line().unwrap().remove(0).last_reply, None);
    admin.kick(&Filter::message(due[1].fresh.as_ref().unwrap().id)).unwrap();
    assert!(left(&bench.queue).is_empty());
}

#[test]
fn the_lane_of_a_route_that_is_gone_is_in_no_trouble() {
    let bench = Bench::new();
    for lane in ["route:*", "route:old.test", "old.test"] {
        bench.queue.set_backoff(BackoffRow {
            lane: lane.to_owned(),
            failures: 1,
            backoff_until: now_us() / 1_000_000 + 9999,
            last_reply: "421 4.3.2 no".to_owned(),
        });
    }
    while bench.queue.backoffs().unwrap().len() < 3 {
        std::thread::yield_now();
    }
    bench.queue.show_config(&Routes(vec![route(DomainPattern::Any, true)]), LIFETIMES);
    while bench.number("SELECT count(*) FROM routes") < 1 {
        std::thread::yield_now();
    }
    let left: Vec<_> = bench.queue.backoffs().unwrap().into_iter().map(|row| row.lane).collect();
    assert_eq!(left, ["old.test", "route:*"]);
}
