//! Source addresses: the local addresses that a message's connections may leave from.
//!
//! Those of the user who submitted it (`[[source]] users`), else the route's, else those of `[delivery]`; without any
//! the system chooses. Mail with other source addresses never uses the same connection (`host/pool.rs`).

use std::io;
use std::net::{IpAddr, UdpSocket};
use std::sync::Arc;

use crate::config::{DeliverySettings, Route, Routes};

/// The source addresses of one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::delivery) struct SourceAddresses {
    /// Connections leave from them by turns. Empty: the system chooses.
    pub(in crate::delivery) addresses: Arc<[IpAddr]>,
    /// The config key that names them.
    pub(in crate::delivery) config_key: &'static str,
}

impl SourceAddresses {
    /// For mail that `user` submitted (none: from a trusted network, or our own report) and that uses `route`.
    pub(in crate::delivery) fn of(
        user: Option<&str>,
        route: Option<&Route>,
        settings: &DeliverySettings,
    ) -> SourceAddresses {
        let is_theirs = |users: &[String]| user.is_some_and(|user| users.iter().any(|name| name == user));
        let theirs = settings.sources.iter().filter(|source| is_theirs(&source.users));
        let theirs: Vec<IpAddr> = theirs.map(|source| source.address).collect();
        let routes = route.map_or(&[][..], |route| &route.source_addresses);
        let (addresses, config_key) = match (&theirs[..], routes) {
            ([], []) => (&settings.source_addresses[..], "delivery.source_addresses"),
            ([], routes) => (routes, "route.source_addresses"),
            (theirs, _) => (theirs, "source.users"),
        };
        // Mostly empty, which allocates nothing.
        let addresses = if addresses.is_empty() { Arc::default() } else { addresses.into() };
        SourceAddresses { addresses, config_key }
    }

    /// Whether a connection to `remote` can leave from one of them.
    pub(in crate::delivery) fn reaches(&self, remote: IpAddr) -> bool {
        self.addresses.is_empty() || self.addresses.iter().any(|source| source.is_ipv4() == remote.is_ipv4())
    }
}

/// All that the config names.
pub fn all(settings: &DeliverySettings, routes: &Routes) -> impl Iterator<Item = IpAddr> {
    let given = settings.sources.iter().map(|source| source.address);
    let of_routes = routes.0.iter().flat_map(|route| route.source_addresses.iter().copied());
    settings.source_addresses.iter().copied().chain(of_routes).chain(given)
}

/// What an operator can do about an [`unusable`] address.
pub const REMEDY: &str = "give this machine the address, or correct source_addresses and [[source]]";

/// The configured source addresses that this machine cannot send from now, each once, with the system's error. Sends
/// nothing.
pub fn unusable(settings: &DeliverySettings, routes: &Routes) -> Vec<(IpAddr, io::Error)> {
    let mut addresses: Vec<IpAddr> = all(settings, routes).collect();
    addresses.sort_unstable();
    addresses.dedup();
    let bound = |ip: IpAddr| UdpSocket::bind((ip, 0)).err().map(|error| (ip, error));
    addresses.into_iter().filter_map(bound).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, DomainPattern, Source};
    use crate::delivery::smtp::ehlo_names::EhloNames;

    fn settings(listed: &[&str], sources: &[(&str, Option<&str>, &[&str])]) -> DeliverySettings {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("postrider.toml");
        std::fs::write(&file, "hostname = 'relay.test'\n[[listen]]\ntls = 'off'\n").unwrap();
        let mut settings = config::load(Some(&file)).unwrap().settings.delivery;
        settings.source_addresses = ips(listed);
        settings.sources = sources
            .iter()
            .map(|(address, hostname, users)| Source {
                address: address.parse().unwrap(),
                hostname: hostname.map(|name| crate::mail::Domain::parse(name).unwrap()),
                users: users.iter().map(|user| (*user).to_owned()).collect(),
            })
            .collect();
        settings
    }

    fn ips(ips: &[&str]) -> Vec<IpAddr> {
        ips.iter().map(|ip| ip.parse().unwrap()).collect()
    }

    fn route(sources: &[&str]) -> Route {
        Route {
            domain: DomainPattern::Any,
            relay: Vec::new(),
            tls: None,
            ca_file: None,
            login: None,
            source_addresses: ips(sources),
        }
    }

    #[test]
    fn the_users_addresses_come_before_the_routes_and_those_before_all_others() {
        let sources: &[(&str, Option<&str>, &[&str])] = &[
            ("192.0.2.10", None, &["news", "shop"]),
            ("2001:db8::10", None, &["news"]),
            ("192.0.2.1", Some("out1.test"), &[]),
        ];
        let settings = settings(&["192.0.2.1"], sources);
        let (own, plain) = (route(&["192.0.2.2"]), route(&[]));
        let sources_of = |user, route| SourceAddresses::of(user, route, &settings).addresses.to_vec();
        assert_eq!(sources_of(Some("news"), Some(&own)), ips(&["192.0.2.10", "2001:db8::10"]));
        assert_eq!(sources_of(Some("shop"), None), ips(&["192.0.2.10"]));
        assert_eq!(sources_of(Some("app"), Some(&own)), ips(&["192.0.2.2"]));
        assert_eq!(sources_of(None, Some(&own)), ips(&["192.0.2.2"]));
        assert_eq!(sources_of(Some("app"), Some(&plain)), ips(&["192.0.2.1"]));
        // Nobody's mail is not the mail of a user without a name.
        assert_eq!(sources_of(None, None), ips(&["192.0.2.1"]));
    }

    #[test]
    fn a_source_reaches_its_own_family_and_the_system_either() {
        let reaches = |sources: &[&str], remote: &str| {
            SourceAddresses { addresses: ips(sources).into(), config_key: "" }
                .reaches(remote.parse().unwrap())
        };
        assert!(reaches(&[], "198.51.100.1") && reaches(&[], "2001:db8::1"));
        assert!(reaches(&["192.0.2.1"], "198.51.100.1") && !reaches(&["192.0.2.1"], "2001:db8::1"));
        assert!(reaches(&["192.0.2.1", "2001:db8::9"], "2001:db8::1"));
    }

    #[test]
    fn each_address_goes_by_its_own_name_or_the_common_one() {
        let settings =
            settings(&[], &[("192.0.2.10", Some("out10.test"), &[]), ("192.0.2.11", None, &["a"])]);
        let names = EhloNames::new(&settings);
        let at = |ip: &str| names.at(Some(ip.parse().unwrap())).to_owned();
        assert_eq!(
            [at("192.0.2.10"), at("192.0.2.11"), at("192.0.2.12")],
            ["out10.test", "relay.test", "relay.test"]
        );
        assert_eq!(names.at(None), "relay.test");
    }

    #[test]
    fn addresses_that_this_machine_does_not_have_are_told_once() {
        // 203.0.113.0/24 is TEST-NET-3: hardly anybody has addresses of it.
        let (one, other) = ("203.0.113.201", "203.0.113.202");
        let settings = settings(&["127.0.0.1", one], &[(one, None, &["a"])]);
        let routes = Routes(vec![route(&["127.0.0.2", other])]);
        let unusable: Vec<IpAddr> = unusable(&settings, &routes).into_iter().map(|(ip, _)| ip).collect();
        assert_eq!(unusable, ips(&[one, other]));
    }
}
