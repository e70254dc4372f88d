//! What RCPT adds, and what it costs when it is said over and over.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::*;
use crate::mail::{Domain, address};
use crate::submission::auth::Offer;
use crate::submission::protocol::aliases::Aliases;
use crate::submission::protocol::policy::Tls;

const MAX: usize = 1000;

struct World {
    names: BTreeMap<String, Vec<Address>>,
    hostname: Domain,
}

impl World {
    /// `team` has two members, `one` has one, `crowd` has 5,000 and `circle` none.
    fn new() -> World {
        let to = |text: &str| address::parse(text).unwrap();
        let names = BTreeMap::from([
            ("team".to_owned(), vec![to("a@x.example"), to("b@x.example")]),
            ("one".to_owned(), vec![to("a@x.example")]),
            ("crowd".to_owned(), (0..5000).map(|n| to(&format!("m{n}@x.example"))).collect()),
            ("circle".to_owned(), vec![to("circle@relay.example")]),
        ]);
        World { names, hostname: Domain::parse("relay.example").unwrap() }
    }

    fn context(&self) -> PolicyContext<'_> {
        PolicyContext {
            hostname: &self.hostname,
            tls: Tls::Active,
            loopback: true,
            trusted: true,
            auth_required: true,
            auth: Offer { channel: None, cram_md5: false, atrn: false, nonce: || None },
            message_size_max: 1000,
            recipients_max: MAX,
            hold_secs_max: None,
            now: 0,
            aliases: Aliases { names: &self.names, hostname: &self.hostname },
        }
    }

    fn add(&self, addressed: &mut Addressed, to: &str, notify: &str, orcpt: Option<&str>) -> u16 {
        let to = match address::parse(to) {
            Ok(address) => ForwardPath::Mailbox(address),
            Err(_) => ForwardPath::Local(to.to_owned()),
        };
        let rcpt = Rcpt { to, notify: Notify::from_word(notify), orcpt: orcpt.map(str::to_owned) };
        addressed.add(rcpt, &self.context()).unwrap_or_else(|reply| reply).code
    }
}

fn open() -> Addressed {
    let sender = Some(address::parse("me@x.example").unwrap());
    Addressed::new(Envelope { sender, ..Envelope::default() })
}

/// The NOTIFY of each recipient, and how many expansions are to be told.
fn asked(addressed: &Addressed) -> (Vec<String>, usize) {
    let recipients = &addressed.envelope().recipients;
    let words = recipients.iter().map(|one| one.notify.map_or_else(String::new, Notify::to_word)).collect();
    (words, recipients.iter().map(|one| one.expanded.len()).sum())
}

#[test]
fn a_list_is_told_of_and_its_members_report_no_success() {
    let world = World::new();
    for (notify, words, told) in [
        ("SUCCESS", ["NEVER", "NEVER"], 1),
        ("SUCCESS,FAILURE", ["FAILURE", "FAILURE"], 1),
        ("NEVER", ["NEVER", "NEVER"], 0),
        ("FAILURE", ["FAILURE", "FAILURE"], 0),
        ("", ["", ""], 0),
    ] {
        let mut addressed = open();
        assert_eq!(world.add(&mut addressed, "team", notify, Some("rfc822;team@x")), 250);
        assert_eq!(asked(&addressed), (words.map(str::to_owned).to_vec(), told), "{notify}");
        assert!(
            addressed.envelope().recipients.iter().all(|one| one.orcpt.as_deref() == Some("rfc822;team@x"))
        );
        let mut one = open();
        assert_eq!(world.add(&mut one, "one", notify, None), 251, "a list of one is only another address");
        assert_eq!(asked(&one), (vec![notify.to_owned()], 0), "{notify}");
        let mut nobody = Addressed::new(Envelope::default());
        world.add(&mut nobody, "team", notify, None);
        assert_eq!(asked(&nobody).1, 0, "the null sender is told nothing");
    }
}

#[test]
fn a_recipient_named_again_has_every_report_asked_for_and_one_copy() {
    let world = World::new();
    // Whatever the way to the mailbox, and in whichever order.
    for ways in [
        ["a@x.example", "a@X.example"],
        ["team", "a@x.example"],
        ["one", "team"],
        ["team", "Team@relay.example"],
    ] {
        for (first, second, expected) in [
            ("NEVER", "FAILURE", "FAILURE"),
            ("FAILURE", "NEVER", "FAILURE"),
            ("NEVER", "", "FAILURE,DELAY"),
            ("", "", ""),
        ] {
            for (one, two) in [(0, 1), (1, 0)] {
                let mut addressed = open();
                assert!(world.add(&mut addressed, ways[one], first, None) < 300);
                assert!(world.add(&mut addressed, ways[two], second, None) < 300);
                let recipients = &addressed.envelope().recipients;
                let named: Vec<_> = recipients.iter().filter(|to| to.address.user() == "a").collect();
                assert_eq!(named.len(), 1, "{ways:?}");
                let word = named[0].notify.map_or_else(String::new, Notify::to_word);
                assert_eq!(word, expected, "{ways:?} {first} {second}");
            }
        }
    }
    let mut other = open();
    for to in ["a@x.example", "A@x.example"] {
        world.add(&mut other, to, "", None);
    }
    assert_eq!(other.envelope().recipients.len(), 2, "the local part is as it is");
}

fn rcpt(to: &str) -> Rcpt {
    let to = address::parse(to).map_or_else(|_| ForwardPath::Local(to.to_owned()), ForwardPath::Mailbox);
    Rcpt { to, notify: None, orcpt: None }
}

/// What a rate counts is what RCPT adds.
#[test]
fn new_recipients_are_counted_before_they_are_added() {
    let world = World::new();
    let mut addressed = open();
    for to in [
        "nobody",
        "circle",
        "one",
        "a@x.example",
        "team",
        "m@x.example",
        "M@X.example",
        "crowd",
        "team",
        "crowd",
    ] {
        let before = addressed.envelope().recipients.len();
        let told = addressed.new_recipients(&rcpt(to), &world.context());
        world.add(&mut addressed, to, "", None);
        assert_eq!(addressed.envelope().recipients.len() - before, told, "{to}");
    }
    let mut empty = open();
    assert_eq!(
        empty.new_recipients(&rcpt("crowd"), &world.context()),
        5000,
        "the first may have more than MAX"
    );
    // Refused, it is not expanded again.
    empty.refuse(&rcpt("crowd"), &replies::rate_reached(1), &world.context());
    let begin = Instant::now();
    (0..1000).for_each(|_| assert_eq!(empty.new_recipients(&rcpt("crowd"), &world.context()), 0));
    assert_eq!(world.add(&mut empty, "crowd", "", None), 450);
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
}

/// Each new ORCPT was one more report, without end.
#[test]
fn expansions_to_be_reported_count_as_recipients() {
    let world = World::new();
    let mut addressed = open();
    let mut codes = BTreeMap::new();
    for number in 0..50_000 {
        let orcpt = format!("rfc822;{number}@{}", "x".repeat(480));
        *codes.entry(world.add(&mut addressed, "team", "SUCCESS", Some(&orcpt))).or_insert(0) += 1;
        // The same again is nothing new.
        assert_eq!(world.add(&mut addressed, "team", "SUCCESS", Some("rfc822;0")), 250);
    }
    assert_eq!(codes, BTreeMap::from([(250, MAX - 3), (452, 50_000 - (MAX - 3))]));
    let told: usize = addressed.envelope().recipients.iter().map(|one| one.expanded.len()).sum();
    assert_eq!(told + addressed.envelope().recipients.len(), MAX);
    assert_eq!(world.add(&mut addressed, "c@x.example", "", None), 452);
    assert_eq!(world.add(&mut addressed, "a@x.example", "", None), 250);
}

/// 40 ms each, when 5,000 members were held against 5,000 recipients each time.
#[test]
fn a_long_alias_named_again_costs_nothing() {
    let world = World::new();
    let mut addressed = open();
    let start = Instant::now();
    for number in 0..100_000 {
        let notify = ["NEVER", "FAILURE", "", "DELAY,FAILURE"][number % 4];
        assert_eq!(world.add(&mut addressed, "crowd", notify, None), 250);
    }
    assert_eq!(addressed.envelope().recipients.len(), 5000);
    // Refused again and again: nor does that.
    let mut full = open();
    world.add(&mut full, "c@x.example", "", None);
    for _ in 0..100_000 {
        assert_eq!(world.add(&mut full, "crowd", "", None), 452);
        assert_eq!(world.add(&mut full, "circle", "", None), 550);
    }
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}
