//! Which policy holds at a destination, and what comes of it: a table of what DNS says and what the host does, each row
//! a domain of its own in a zone that is really signed, delivered to by a whole relay.

mod attacker;
mod dane;
mod explained;
mod forged_chain;
mod postfix;

use std::sync::Arc;
use std::time::Duration;

use hickory_server::proto::rr::RecordType;

use crate::harness::dns_server::Zone;
use crate::harness::dnssec::Signer;
use crate::harness::fakemx::{Certificate, FakeMx, Script};
use crate::harness::relay::{Config, Relay, World};

/// A domain `NAME.test` with the host `mx.NAME.test`.
struct Row {
    name: &'static str,
    /// What DNS says beyond its MX record and the host's address.
    zone: Box<dyn Fn(Zone) -> Zone>,
    host: Script,
    /// A second host, `mx2.NAME.test`, with a worse preference.
    second: Option<Script>,
    /// No MX record: the domain is its own host.
    is_its_own_host: bool,
    expected: Expected,
}

/// What is to come of it.
#[derive(Debug, Clone)]
enum Expected {
    /// Delivered by this policy, with this in the column `tls`.
    Delivered(&'static str, &'static str),
    /// Nothing is delivered, and it waits with these words.
    Waits(&'static str, &'static str),
}

impl Row {
    fn new(name: &'static str, host: Script, expected: Expected) -> Row {
        Row { name, zone: Box::new(|zone| zone), host, second: None, is_its_own_host: false, expected }
    }

    fn zone(self, zone: impl Fn(Zone) -> Zone + 'static) -> Row {
        let before = self.zone;
        Row { zone: Box::new(move |at| zone(before(at))), ..self }
    }

    /// With a TLSA record of the host that means this certificate.
    fn tlsa(self, kind: (u8, u8, u8), certificate: &Certificate) -> Row {
        let (host, data) = (self.host_name(), certificate.tlsa(kind));
        self.zone(move |zone| zone.tlsa(&host, kind, &data))
    }

    fn its_own_host(self) -> Row {
        Row { is_its_own_host: true, ..self }
    }

    fn host_name(&self) -> String {
        if self.is_its_own_host { self.domain() } else { format!("mx.{}.test", self.name) }
    }

    fn domain(&self) -> String {
        format!("{}.test", self.name)
    }
}

/// A relay in a world where all of these are.
struct Table {
    relay: Relay,
    hosts: Vec<(Row, FakeMx, Option<FakeMx>)>,
}

/// The rows with their hosts, which are in the world from now on.
fn settle_in(world: &mut World, rows: Vec<Row>) -> Vec<(Row, FakeMx, Option<FakeMx>)> {
    let mut hosts = Vec::new();
    for row in rows {
        let (domain, host) = (row.domain(), row.host_name());
        let is_alias = row.name.starts_with("alias");
        let address = world.address(&if is_alias { format!("target.{domain}") } else { host.clone() });
        let first = FakeMx::start_at(address, vec![row.host.clone()]);
        let second = row.second.clone().map(|script| world.mx(&domain, 20, &format!("mx2.{domain}"), script));
        world.zone(|zone| {
            let zone = if row.is_its_own_host { zone } else { zone.mx(&domain, 10, &host) };
            (row.zone)(zone)
        });
        hosts.push((row, first, second));
    }
    hosts
}

fn serve(rows: Vec<Row>, signer: &Arc<Signer>) -> Table {
    let mut world = World::signed(signer);
    let hosts = settle_in(&mut world, rows);
    let relay = world.relay(Config::new().set("dns.timeout", "\"30s\""));
    for (row, ..) in &hosts {
        relay.submit(
            "app@sender.test",
            &[&format!("you@{}", row.domain())],
            b"Subject: hello\r\n\r\nhello\r\n",
        );
    }
    let attempted = "SELECT count(DISTINCT recipient_id) FROM attempts";
    relay.wait_until("an attempt for each", Duration::from_secs(120), |db| {
        (db.number(attempted, []) == hosts.len() as i64).then_some(())
    });
    Table { relay, hosts }
}

impl Table {
    /// Every row came out as expected.
    fn check(&self) {
        let mut wrong = Vec::new();
        for (row, first, second) in &self.hosts {
            let attempt = self.relay.db().row(
                "SELECT outcome, tls_policy, coalesce(tls, '-'), reply FROM attempts
                 WHERE recipient_id IN (SELECT id FROM recipients WHERE domain = ?1
                                        UNION SELECT recipient_id FROM history WHERE address = 'you@' || ?1)
                 ORDER BY id DESC LIMIT 1",
                [row.domain()],
            );
            let attempt = attempt.unwrap_or_default();
            let taken = first.messages().len() + second.as_ref().map_or(0, |second| second.messages().len());
            let (is_right, taken_wanted) = match &row.expected {
                Expected::Delivered(policy, tls) => {
                    (attempt.starts_with(&format!("delivered|{policy}|{tls}|")), 1)
                }
                Expected::Waits(policy, words) => {
                    (attempt.starts_with(&format!("deferred|{policy}|")) && attempt.contains(words), 0)
                }
            };
            if !is_right || taken != taken_wanted {
                wrong.push(format!(
                    "{}: {:?} was wanted, not {attempt} and {taken} messages",
                    row.name, row.expected
                ));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}

/// Records of an MX host's TLSA, as the zone names them.
fn tlsa_name(host: &str) -> String {
    format!("_25._tcp.{host}")
}

const TLSA: RecordType = RecordType::TLSA;
