//! Where mail may go: `[delivery] prohibited_networks` and `private_networks`, compared in every form that an address
//! can be written in. Pure.
//!
//! An IPv6 address may stand for an IPv4 one: mapped (`::ffff:10.0.0.1`), through NAT64 (RFC 6052, RFC 8215), 6to4 (RFC
//! 3056), Teredo (RFC 4380), ISATAP (RFC 5214), and two older ways. A packet to it may end at the IPv4 address, so what
//! holds for that one holds for it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use ipnet::{IpNet, Ipv4Net};

/// Where no mail host of the world stands: this machine, its link, and addresses that are not of one host.
const BASE: [&str; 9] = [
    "0.0.0.0/8",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "::/128",
    "::1/128",
    "fe80::/10",
    "ff00::/8",
];
/// Networks of a company's own: RFC 1918, RFC 6598, RFC 4193, and the site-local addresses before that.
const PRIVATE: [&str; 6] =
    ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7", "fec0::/10"];

static BASE_NETWORKS: LazyLock<Vec<IpNet>> = LazyLock::new(|| parsed(&BASE));
static PRIVATE_NETWORKS: LazyLock<Vec<IpNet>> = LazyLock::new(|| parsed(&PRIVATE));

fn parsed(networks: &[&str]) -> Vec<IpNet> {
    networks.iter().filter_map(|network| network.parse().ok()).collect()
}

/// An entry of `prohibited_networks`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProhibitedEntry {
    /// `10.0.0.0/8`: prohibited beside the base list.
    Add(IpNet),
    /// `!127.0.0.0/8`: allowed, whatever else says otherwise.
    Take(IpNet),
}

/// Where mail is never delivered to by MX.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProhibitedNetworks {
    entries: Vec<ProhibitedEntry>,
    private: bool,
}

impl ProhibitedNetworks {
    /// The base list with these entries; `private`: private networks too.
    pub fn new(entries: Vec<ProhibitedEntry>, private: bool) -> ProhibitedNetworks {
        ProhibitedNetworks { entries, private }
    }

    /// What is prohibited about an address, to be told to the operator; none where mail may go there.
    pub fn reason(&self, ip: IpAddr) -> Option<String> {
        forms(ip).into_iter().find_map(|form| self.reason_of_form(form))
    }

    fn reason_of_form(&self, ip: IpAddr) -> Option<String> {
        // Never a host, whatever the config says; `::` would be this machine.
        if ip.is_unspecified() || ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST) {
            return Some("not the address of a host".to_owned());
        }
        let is_taken = |entry: &ProhibitedEntry| matches!(entry, ProhibitedEntry::Take(network) if network.contains(&ip));
        if self.entries.iter().any(is_taken) {
            return None;
        }
        let added = self.entries.iter().filter_map(|entry| match entry {
            ProhibitedEntry::Add(network) => Some(network),
            ProhibitedEntry::Take(_) => None,
        });
        if let Some(network) = added.chain(BASE_NETWORKS.iter()).find(|network| network.contains(&ip)) {
            return Some(format!("prohibited_networks has {network}"));
        }
        let private = PRIVATE_NETWORKS.iter().find(|network| self.private && network.contains(&ip));
        private.map(|network| format!("private_networks = \"refuse\", and {network} is private"))
    }

    /// The entries with `!` that take nothing away.
    pub(super) fn vain(&self) -> Vec<IpNet> {
        let added = self.entries.iter().filter_map(|entry| match entry {
            ProhibitedEntry::Add(network) => Some(*network),
            ProhibitedEntry::Take(_) => None,
        });
        let private = PRIVATE_NETWORKS.iter().copied().filter(|_| self.private);
        let prohibited: Vec<IpNet> = added.chain(BASE_NETWORKS.iter().copied()).chain(private).collect();
        let is_vain =
            |taken: &IpNet| !prohibited.iter().any(|one| one.contains(taken) || taken.contains(one));
        let taken = self.entries.iter().filter_map(|entry| match entry {
            ProhibitedEntry::Take(network) => Some(*network),
            ProhibitedEntry::Add(_) => None,
        });
        taken.filter(is_vain).collect()
    }
}

/// The address in its plain form, and the IPv4 addresses that it may stand for.
pub fn forms(ip: IpAddr) -> Vec<IpAddr> {
    let ip = ip.to_canonical();
    let mut forms = vec![ip];
    if let IpAddr::V6(v6) = ip {
        forms.extend(embedded(v6).into_iter().map(IpAddr::V4));
    }
    forms
}

fn embedded(ip: Ipv6Addr) -> Vec<Ipv4Addr> {
    let bytes = ip.octets();
    let at = |places: [usize; 4]| Ipv4Addr::from(places.map(|place| bytes[place]));
    let last = at([12, 13, 14, 15]);
    let starts = |prefix: &[u8]| bytes.starts_with(prefix);
    match bytes {
        // RFC 6052 §2.1, and RFC 8215 in the two places that its lengths put the address in.
        _ if starts(&[0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0]) => vec![last],
        _ if starts(&[0, 0x64, 0xff, 0x9b, 0, 1]) => {
            [last, at([6, 7, 9, 10])].into_iter().filter(|v4| !v4.is_unspecified()).collect()
        }
        // RFC 3056 §2.
        _ if starts(&[0x20, 0x02]) => vec![at([2, 3, 4, 5])],
        // RFC 4380 §4: the server, and the client with its bits turned round.
        _ if starts(&[0x20, 0x01, 0, 0]) => {
            vec![at([4, 5, 6, 7]), Ipv4Addr::from([12, 13, 14, 15].map(|place| !bytes[place]))]
        }
        // RFC 4291 §2.5.5.1 (IPv4-compatible), RFC 2765 §2.1 (IPv4-translated).
        _ if starts(&[0; 12]) && last.to_bits() > 1 => vec![last],
        _ if starts(&[0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0]) => vec![last],
        // RFC 5214 §6.1, below any prefix.
        [_, _, _, _, _, _, _, _, 0 | 2, 0, 0x5e, 0xfe, ..] => vec![last],
        _ => Vec::new(),
    }
}

/// A network of mapped addresses (`::ffff:10.0.0.0/104`) as the IPv4 network that it is: addresses are compared in
/// their plain form.
pub(super) fn canonical(network: IpNet) -> IpNet {
    let IpNet::V6(v6) = network else { return network };
    match (v6.addr().to_ipv4_mapped(), v6.prefix_len().checked_sub(96)) {
        (Some(v4), Some(prefix)) => Ipv4Net::new(v4, prefix).map_or(network, IpNet::V4),
        _ => network,
    }
}

/// The parts of the world's IPv4 and IPv6 addresses (2000::/3) that these networks have, from 0 to 1.
pub(super) fn shares(networks: &[IpNet]) -> (f64, f64) {
    let as_v4 = |network: &IpNet| match network {
        IpNet::V4(v4) => Some(*v4),
        IpNet::V6(v6) => stands_for(*v6),
    };
    let v4: Vec<Ipv4Net> = networks.iter().filter_map(as_v4).collect();
    let v4: f64 = Ipv4Net::aggregate(&v4).iter().map(|net| 0.5_f64.powi(net.prefix_len().into())).sum();
    let v6: Vec<ipnet::Ipv6Net> = networks
        .iter()
        .filter_map(|network| if let IpNet::V6(v6) = network { Some(*v6) } else { None })
        .collect();
    let global = |net: &ipnet::Ipv6Net| {
        let in_it = net.addr().octets()[0] >> 5 == 1 || net.prefix_len() < 3 && net.contains(&GLOBAL);
        if in_it { 0.5_f64.powi(i32::from(net.prefix_len().max(3)) - 3) } else { 0.0 }
    };
    let v6: f64 = ipnet::Ipv6Net::aggregate(&v6).iter().map(global).sum();
    (v4, v6)
}

/// In 2000::/3.
const GLOBAL: Ipv6Addr = Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0);

/// The IPv4 network that this one gives an IPv6 form of: mapped, 6to4 or NAT64.
fn stands_for(network: ipnet::Ipv6Net) -> Option<Ipv4Net> {
    const FORMS: [(Ipv6Addr, u8); 3] = [
        (Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96),
        (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16),
        (Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96),
    ];
    FORMS.into_iter().find_map(|(prefix, length)| {
        if network.contains(&prefix) && network.prefix_len() <= length {
            return Some(Ipv4Net::default());
        }
        let form = ipnet::Ipv6Net::new(prefix, length).ok()?;
        if !form.contains(&network) {
            return None;
        }
        let bits = (network.addr().to_bits() << length >> 96) as u32;
        Ipv4Net::new(Ipv4Addr::from_bits(bits), (network.prefix_len() - length).min(32)).ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prohibited(entries: &[&str], private: bool) -> ProhibitedNetworks {
        let entry = |text: &&str| match text.strip_prefix('!') {
            Some(network) => ProhibitedEntry::Take(network.parse().unwrap()),
            None => ProhibitedEntry::Add(text.parse().unwrap()),
        };
        ProhibitedNetworks::new(entries.iter().map(entry).collect(), private)
    }

    fn is(networks: &ProhibitedNetworks, ip: &str) -> bool {
        networks.reason(ip.parse().unwrap()).is_some()
    }

    /// Every IPv6 form of an IPv4 address.
    fn disguises(v4: Ipv4Addr) -> Vec<String> {
        let [a, b, c, d] = v4.octets();
        vec![
            format!("{v4}"),
            format!("::ffff:{v4}"),
            format!("::{v4}"),
            format!("::ffff:0:{v4}"),
            format!("64:ff9b::{v4}"),
            format!("64:ff9b:1::{v4}"),
            format!("64:ff9b:1:{a:02x}{b:02x}:{c:x}:{d:02x}00::"),
            format!("2002:{a:02x}{b:02x}:{c:02x}{d:02x}::1"),
            format!("2001:0:{a:02x}{b:02x}:{c:02x}{d:02x}:0:0:3fff:fdfe"),
            format!("2001:0:c633:6401:0:0:{:02x}{:02x}:{:02x}{:02x}", !a, !b, !c, !d),
            format!("2001:db8:1:2:0:5efe:{v4}"),
            format!("2001:db8:1:2:200:5efe:{v4}"),
        ]
    }

    #[test]
    fn a_prohibited_address_is_prohibited_in_every_form() {
        let base = prohibited(&[], false);
        let more = prohibited(&["198.51.100.0/24"], true);
        for ip in ["127.0.0.1", "127.255.1.2", "0.1.2.3", "169.254.169.254", "224.0.0.1", "255.255.255.255"] {
            for form in disguises(ip.parse().unwrap()) {
                assert!(is(&base, &form), "{form}, a form of {ip}");
            }
        }
        for ip in ["198.51.100.7", "10.1.2.3", "172.31.0.1", "192.168.1.1", "100.127.0.1"] {
            for form in disguises(ip.parse().unwrap()) {
                assert!(is(&more, &form), "{form}, a form of {ip}");
                assert!(!is(&base, &form), "{form}, a form of {ip}");
            }
        }
        for ip in ["::", "::1", "fe80::1", "febf::1", "ff02::1", "240.0.0.1", "0.0.0.0"] {
            assert!(is(&base, ip), "{ip}");
        }
        for ip in ["fd00::1", "fec0::1"] {
            assert!(is(&more, ip) && !is(&base, ip), "{ip}");
        }
        for ip in
            ["192.0.2.1", "203.0.113.1", "2001:db8::1", "2a00::1", "172.32.0.1", "100.128.0.1", "11.0.0.1"]
        {
            assert!(!is(&more, ip), "{ip}");
        }
    }

    #[test]
    fn what_is_set_adds_to_the_base_and_only_an_exclamation_mark_takes_away() {
        let added = prohibited(&["198.51.100.0/24"], false);
        assert!(is(&added, "198.51.100.1") && is(&added, "127.0.0.1"));
        let taken = prohibited(&["!127.0.0.0/8"], false);
        for form in disguises("127.0.0.1".parse().unwrap()) {
            assert!(!is(&taken, &form), "{form}");
        }
        assert!(is(&taken, "::1") && is(&taken, "169.254.1.1"));
        let hole = prohibited(&["10.0.0.0/8", "!10.1.0.0/16"], true);
        assert!(is(&hole, "10.2.0.1") && !is(&hole, "10.1.0.1"));
        // No host has these, whatever is taken away.
        let all = prohibited(&["!0.0.0.0/0", "!::/0"], true);
        assert!(is(&all, "0.0.0.0") && is(&all, "::") && is(&all, "224.0.0.1") && is(&all, "ff02::1"));
        assert!(!is(&all, "127.0.0.1") && !is(&all, "10.0.0.1"));
    }

    #[test]
    fn an_entry_that_takes_nothing_away_is_found() {
        let vain = |entries, private| {
            let vain = prohibited(entries, private).vain();
            vain.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(vain(&["!127.0.0.1/32", "!10.0.0.0/8"], false), ["10.0.0.0/8"]);
        assert!(vain(&["!10.0.0.0/8"], true).is_empty());
        assert!(vain(&["!0.0.0.0/0"], false).is_empty());
        assert_eq!(
            vain(&["198.51.100.0/24", "!198.51.100.1/32", "!198.51.101.0/24"], false),
            ["198.51.101.0/24"]
        );
    }

    #[test]
    fn mapped_networks_are_ipv4_networks() {
        let canonical = |text: &str| canonical(text.parse().unwrap()).to_string();
        assert_eq!(canonical("::ffff:10.0.0.0/104"), "10.0.0.0/8");
        assert_eq!(canonical("::ffff:0:0/96"), "0.0.0.0/0");
        for other in ["::/0", "::ffff:0:0/95", "2001:db8::/32", "10.0.0.0/8"] {
            let same: IpNet = other.parse().unwrap();
            assert_eq!(canonical(other), same.to_string());
        }
    }

    #[test]
    fn the_part_of_the_world_is_counted_whatever_pieces_it_comes_in() {
        let of = |texts: &[&str]| {
            let networks: Vec<IpNet> = texts.iter().map(|text| text.parse().unwrap()).collect();
            shares(&networks)
        };
        assert_eq!(of(&[]), (0.0, 0.0));
        assert_eq!(of(&["0.0.0.0/1", "128.0.0.0/1"]), (1.0, 0.0));
        assert_eq!(of(&["0.0.0.0/2", "64.0.0.0/2", "128.0.0.0/2", "10.0.0.0/8"]), (0.75, 0.0));
        assert_eq!(of(&["::/0"]), (1.0, 1.0));
        assert_eq!(of(&["2000::/4", "3000::/4"]), (1.0, 1.0), "6to4 is in it, which is all of IPv4");
        assert_eq!(of(&["2002::/16"]).0, 1.0);
        assert_eq!(of(&["2002:8000::/17"]).0, 0.5);
        assert_eq!(of(&["64:ff9b::/96"]), (1.0, 0.0));
        let (v4, v6) = of(&["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", "2001:db8::/32"]);
        assert!(v4 < 0.01 && v6 < 0.01, "{v4} {v6}");
    }
}
