//! Which addresses the world sees mail come from: those of `--address`, of the config, or the one that the kernel would
//! leave from. A private one is nobody's outside: behind NAT the operator has to say which one it becomes.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

use super::super::{Finding, Level, Question, hostname};
use crate::config::{RelayHost, Route, Settings};
use crate::delivery::route::source_addresses;
use crate::delivery::smtp::ehlo_names::EhloNames;
use crate::mail::Domain;

const ABOUT: &str = "sending";
/// Where an address is known from that says nothing of the others.
const OF_OPTION: &str = "of --address";

/// Where mail leaves.
pub(super) enum Sending {
    /// From addresses of ours.
    Direct {
        /// Those that the world sees, each once.
        sources: Vec<Source>,
        /// Of this machine, and private.
        hidden: Vec<IpAddr>,
    },
    /// Through somebody else's host, whose addresses are not ours to know.
    Relay(RelayHost),
}

/// An address that the world sees, and what we call ourselves there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) ip: IpAddr,
    pub(super) ehlo: String,
    /// How it is known, for the operator.
    origin: &'static str,
}

impl Sending {
    /// Of mail to the address asked about, else of mail to anybody.
    pub(super) fn of(settings: &Settings, question: &Question) -> Sending {
        let is_for_all = |route: &&Route| route.domain == crate::config::DomainPattern::Any;
        let route = match &question.to {
            Some(to) => settings.routes.find(&Domain::of(to)),
            None => settings.routes.0.iter().find(is_for_all),
        };
        if let Some(relay) = route.and_then(|route| route.relay.first()) {
            return Sending::Relay(relay.clone());
        }
        let names = EhloNames::new(&settings.delivery);
        let source = |origin| {
            let names = &names;
            move |ip: IpAddr| Source { ip, ehlo: names.at(Some(ip)).to_owned(), origin }
        };
        let configured: Vec<IpAddr> = source_addresses::all(&settings.delivery, &settings.routes).collect();
        let mut own: Vec<Source> = configured.into_iter().map(source("of the config")).collect();
        // What is named for users or routes leaves the rest of the mail to the system.
        if settings.delivery.source_addresses.is_empty() {
            own.extend(chosen_by_kernel().map(source("the address that this machine leaves from")));
        }
        let (hidden, mut sources): (Vec<Source>, Vec<Source>) =
            own.into_iter().partition(|source| is_private(source.ip));
        if !question.outside.is_empty() {
            sources = question.outside.iter().copied().map(source(OF_OPTION)).collect();
        }
        sources.sort_by_key(|source| source.ip);
        sources.dedup_by_key(|source| source.ip);
        let hidden = if question.outside.is_empty() { hidden } else { Vec::new() };
        Sending::Direct { sources, hidden: hidden.into_iter().map(|source| source.ip).collect() }
    }

    /// The addresses that the world sees.
    pub(super) fn sources(&self) -> &[Source] {
        match self {
            Sending::Direct { sources, .. } => sources,
            Sending::Relay(_) => &[],
        }
    }

    pub(super) fn findings(&self) -> Vec<Finding> {
        let (sources, hidden) = match self {
            Sending::Direct { sources, hidden } => (sources, hidden),
            Sending::Relay(relay) => {
                let text = format!(
                    "mail leaves through {}: reverse names are its operator's, who also says what SPF must have \
                     (mostly an include:)",
                    relay.host
                );
                return vec![Finding::ok(ABOUT, text)];
            }
        };
        let seen = sources.iter().map(|source| {
            Finding::ok(ABOUT, format!("from {} as {}: {}", source.ip, source.ehlo, source.origin))
        });
        let private = hidden.iter().map(|ip| {
            let text = format!(
                "mail leaves from {ip}, which is private: the world sees another address (NAT); run this with \
                 --address and that one"
            );
            Finding::warning(ABOUT, text)
        });
        let mut findings: Vec<Finding> = seen.chain(private).collect();
        let names: BTreeSet<&str> = sources.iter().map(|source| source.ehlo.as_str()).collect();
        findings.extend(names.into_iter().map(hostname).filter(|finding| finding.level != Level::Ok));
        let is_v6 = |source: &Source| source.ip.is_ipv6() && source.origin != OF_OPTION;
        if !sources.is_empty() && hidden.is_empty() && sources.iter().all(is_v6) {
            let text = "mail leaves from IPv6 alone, and many mail hosts have only IPv4: what is for them waits; give this \
                        machine an IPv4 address, and name it in source_addresses where that is given";
            findings.push(Finding::warning(ABOUT, text.to_owned()));
        }
        if findings.is_empty() {
            let text = "this machine has no way to the world now: no address to look at; run this where mail \
                        leaves, or with --address";
            findings.push(Finding::warning(ABOUT, text.to_owned()));
        }
        findings
    }
}

/// The address of either family that a connection to the world would leave from. A connected UDP socket sends nothing;
/// the addresses are for documentation (RFC 5737, RFC 3849) and go where all others go.
fn chosen_by_kernel() -> impl Iterator<Item = IpAddr> {
    let v4: (IpAddr, IpAddr) = (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(192, 0, 2, 1).into());
    let v6: (IpAddr, IpAddr) =
        (Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into());
    [v4, v6].into_iter().filter_map(|(any, world)| {
        let socket = UdpSocket::bind((any, 0)).ok()?;
        socket.connect((world, 25)).ok()?;
        Some(socket.local_addr().ok()?.ip())
    })
}

/// Nobody outside has it: private networks, carriers' NAT, link-local, loopback.
pub(in crate::cli::check) fn is_private(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            let shared = a == 100 && (64..128).contains(&b);
            v4.is_private() || v4.is_loopback() || v4.is_link_local() || v4.is_unspecified() || shared
        }
        IpAddr::V6(v6) => {
            v6.is_loopback() || v6.is_unspecified() || v6.is_unicast_link_local() || v6.is_unique_local()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_addresses_are_known() {
        for (text, private) in [
            ("10.0.0.1", true),
            ("192.168.1.1", true),
            ("172.31.0.1", true),
            ("172.32.0.1", false),
            ("100.64.0.1", true),
            ("100.128.0.1", false),
            ("127.0.0.1", true),
            ("169.254.1.1", true),
            ("::ffff:10.0.0.1", true),
            ("192.0.2.1", false),
            ("fd00::1", true),
            ("fe80::1", true),
            ("::1", true),
            ("2001:db8::1", false),
        ] {
            assert_eq!(is_private(text.parse().unwrap()), private, "{text}");
        }
    }
}
