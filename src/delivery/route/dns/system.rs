//! Which servers are asked (of `[dns] servers` or resolv.conf(5), at their interfaces), and what hosts(5) says.
//!
//! Both files are looked at again as they change: a relay runs for months, and DHCP, VPN and people write them anew.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice, socket_with};

use crate::config::NameServer;

/// How often a file is looked at, at most.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// The port of a server in resolv.conf.
const DNS_PORT: u16 = 53;

/// A file that is looked at again as it changes.
#[derive(Debug)]
pub(super) struct WatchedFile {
    path: PathBuf,
    looked_at: Option<Instant>,
    stamp: Option<Stamp>,
}

/// What tells a file from the one before: device, inode, times of content and of the inode, length.
type Stamp = (u64, u64, (i64, i64), (i64, i64), u64);

impl WatchedFile {
    pub(super) fn new(path: PathBuf) -> WatchedFile {
        WatchedFile { path, looked_at: None, stamp: None }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The next look takes it for another one.
    pub(super) fn forget(&mut self) {
        self.stamp = None;
    }

    /// Whether it is another one than at the last look; true at the first. `now_please` looks whatever the time.
    pub(super) fn changed(&mut self, now: Instant, now_please: bool) -> bool {
        let first = self.looked_at.is_none();
        let recent = self.looked_at.is_some_and(|at| now.saturating_duration_since(at) < LOOK_EVERY);
        if recent && !now_please {
            return false;
        }
        self.looked_at = Some(now);
        let stamp = fs::metadata(&self.path).ok().map(|file| {
            let (changed, written) = ((file.ctime(), file.ctime_nsec()), (file.mtime(), file.mtime_nsec()));
            (file.dev(), file.ino(), changed, written, file.len())
        });
        let other = stamp != self.stamp;
        self.stamp = stamp;
        first || other
    }
}

/// Where the servers are named.
#[derive(Debug)]
pub(super) enum Listing {
    /// `[dns] servers`.
    Config(Vec<NameServer>),
    /// resolv.conf(5).
    File(WatchedFile),
}

impl Listing {
    /// For people to read.
    pub(super) fn name(&self) -> String {
        match self {
            Listing::Config(_) => "dns.servers".to_owned(),
            Listing::File(file) => file.path.display().to_string(),
        }
    }

    /// What it names now; none where a look is not needed. `now_please` looks whatever the time.
    pub(super) fn look(&mut self, now: Instant, now_please: bool) -> Option<NameServers> {
        match self {
            Listing::Config(servers) => Some(of_config(servers)),
            Listing::File(file) => file.changed(now, now_please).then(|| {
                let found = name_servers(&file.path);
                // The interface of a server may come later, or again with another number.
                let has_interface =
                    |server: &SocketAddr| matches!(server, SocketAddr::V6(v6) if v6.scope_id() != 0);
                if found.complaint.is_some() || found.servers.iter().any(has_interface) {
                    file.forget();
                }
                found
            }),
        }
    }
}

/// Servers in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NameServers {
    pub(super) servers: Vec<SocketAddr>,
    /// What is wrong with them: always where there is none.
    pub(super) complaint: Option<String>,
}

/// Those of the config. One whose interface is not there is left out: without it, the kernel would take any.
fn of_config(listed: &[NameServer]) -> NameServers {
    let (mut servers, mut complaint) = (Vec::new(), None);
    for server in listed {
        match at_interface(server) {
            Ok(server) => servers.push(server),
            Err(why) => complaint = Some(format!("{server}: {why}")),
        }
    }
    NameServers { servers, complaint }
}

/// Those that resolv.conf(5) names. Its time-outs and search domains are ignored.
fn name_servers(path: &Path) -> NameServers {
    let text = match fs::read(path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => return NameServers { servers: Vec::new(), complaint: Some(error.to_string()) },
    };
    let mut listed = NameServers { servers: Vec::new(), complaint: None };
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if words.next() != Some("nameserver") {
            continue;
        }
        let word = words.next().unwrap_or_default();
        let server = NameServer::without_port(word, DNS_PORT).map_err(str::to_owned);
        match server.and_then(|server| at_interface(&server)) {
            Ok(server) => listed.servers.push(server),
            Err(why) => listed.complaint = Some(format!("nameserver {}: {why}", word.escape_default())),
        }
    }
    if listed.servers.is_empty() {
        listed.complaint.get_or_insert_with(|| "no nameserver in it".to_owned());
    }
    listed
}

/// The address as the kernel needs it: with the number of the interface.
fn at_interface(server: &NameServer) -> Result<SocketAddr, String> {
    let (IpAddr::V6(ip), Some(interface)) = (server.ip, &server.interface) else {
        return Ok(SocketAddr::new(server.ip, server.port));
    };
    let number = interface.parse().or_else(|_| number_of(interface));
    let number = number.map_err(|error| match error {
        Errno::NODEV => format!("there is no interface {interface}"),
        error => format!("the interface {interface}: {error}"),
    })?;
    Ok(SocketAddr::V6(SocketAddrV6::new(ip, server.port, 0, number)))
}

/// if_nametoindex(3). The kernel takes any socket for the question.
fn number_of(interface: &str) -> Result<u32, Errno> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    netdevice::name_to_index(socket, interface)
}

/// The names of hosts(5), in lower case, with their addresses.
pub(super) fn hosts(path: &Path) -> io::Result<HashMap<String, Vec<IpAddr>>> {
    let text = String::from_utf8_lossy(&fs::read(path)?).into_owned();
    let mut hosts: HashMap<String, Vec<IpAddr>> = HashMap::new();
    for line in text.lines() {
        let line = line.split_once('#').map_or(line, |(line, _)| line);
        let mut words = line.split_whitespace();
        let Some(ip) = words.next().and_then(|word| word.parse::<IpAddr>().ok()) else { continue };
        for name in words {
            let addresses = hosts.entry(name.trim_end_matches('.').to_ascii_lowercase()).or_default();
            if !addresses.contains(&ip) {
                addresses.push(ip);
            }
        }
    }
    Ok(hosts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn servers_come_in_their_order_with_their_interfaces() {
        let of = |text: &str| {
            let NameServers { servers, complaint } = name_servers(file(text).path());
            let servers: Vec<String> = servers.iter().map(ToString::to_string).collect();
            (servers.join(" "), complaint.unwrap_or_default())
        };
        let all = "# comment\n; comment\nsearch a.test\nnameserver 192.0.2.1\n nameserver\t2001:db8::1  # x\n\
                   options edns0 trust-ad\nnameserver fe80::1%7\n";
        let servers = "192.0.2.1:53 [2001:db8::1]:53 [fe80::1%7]:53".to_owned();
        assert_eq!(of(all), (servers, String::new()));
        let (servers, complaint) = of("nameserver 192.0.2.1\nnameserver nonsense\n");
        assert_eq!(servers, "192.0.2.1:53");
        assert_eq!(complaint, "nameserver nonsense: not an IP address");
        assert_eq!(of("").1, "no nameserver in it");
        for (word, why) in [
            ("fe80::1%nosuch0", "there is no interface nosuch0"),
            ("fe80::1%../../x", "no interface has such a name"),
            ("fe80::1%", "no interface has such a name"),
            ("192.0.2.1%lo", "not an IPv6 address before %"),
            ("ns.test", "not an IP address"),
        ] {
            let (servers, complaint) = of(&format!("nameserver {word}\n"));
            assert_eq!((servers.as_str(), complaint), ("", format!("nameserver {word}: {why}")));
        }
    }

    #[test]
    fn a_server_of_the_config_waits_for_its_interface() {
        // Interface 1 of each namespace is loopback.
        let listed = ["fe80::1%nosuch0", "fe80::2%lo", "192.0.2.1:5353"];
        let mut listing =
            Listing::Config(listed.map(|text| NameServer::parse(text, DNS_PORT).unwrap()).to_vec());
        let NameServers { servers, complaint } = listing.look(Instant::now(), false).unwrap();
        let servers: Vec<String> = servers.iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["[fe80::2%1]:53", "192.0.2.1:5353"]);
        assert_eq!(complaint.as_deref(), Some("[fe80::1%nosuch0]:53: there is no interface nosuch0"));
    }

    #[test]
    fn hosts_have_names_in_any_case_and_several_addresses() {
        let file = file(
            "127.0.0.1 localhost\n# 192.0.2.9 commented.test\n192.0.2.1  Relay.Internal relay # both\n\
             2001:db8::1\trelay.internal.\nnonsense x.test\n192.0.2.1 relay.internal\n",
        );
        let hosts = hosts(file.path()).unwrap();
        let of = |name: &str| {
            let addresses = hosts.get(name)?;
            Some(addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
        };
        assert_eq!(of("relay.internal").as_deref(), Some("192.0.2.1 2001:db8::1"));
        assert_eq!(of("relay").as_deref(), Some("192.0.2.1"));
        assert_eq!([of("commented.test"), of("x.test")], [None, None]);
    }

    #[test]
    fn a_change_is_seen_at_the_next_look_and_no_look_comes_before_its_time() {
        let file = file("one");
        let mut watched = WatchedFile::new(file.path().to_owned());
        let now = Instant::now();
        assert!(watched.changed(now, false), "the first look");
        fs::write(file.path(), "another").unwrap();
        assert!(!watched.changed(now, false), "too early");
        assert!(watched.changed(now + LOOK_EVERY, false));
        assert!(!watched.changed(now + LOOK_EVERY * 2, false), "nothing new");
        // Another file of the same length under the same name, at once where somebody asks for it.
        let other = file_beside(file.path(), "another");
        fs::rename(other, file.path()).unwrap();
        assert!(watched.changed(now + LOOK_EVERY * 2, true));
        fs::remove_file(file.path()).unwrap();
        assert!(watched.changed(now + LOOK_EVERY * 4, false), "gone");
        assert!(!watched.changed(now + LOOK_EVERY * 6, false), "still gone");
    }

    fn file_beside(path: &Path, text: &str) -> PathBuf {
        let other = path.with_extension("new");
        fs::write(&other, text).unwrap();
        other
    }
}
