//! A DNS server on a link-local address, named with its interface, in resolv.conf and in `[dns] servers`.
//!
//! The test runs again in namespaces of its own, for networks and for mounts, where it makes two links with the same
//! addresses. Where the system allows no such namespace, it is skipped.

use std::fs;
use std::net::{SocketAddr, SocketAddrV6};
use std::process::Command;

use crate::harness::dns_server::{DnsServer, Zone};
use crate::harness::namespaces::{As, inside};
use crate::harness::relay::run_to_end;

/// Two links, each between two interfaces that have the same address on both; the server is on the second, which the
/// kernel would not choose by itself. The relay's side there is named as a VLAN is.
const LINKS: &str = "\
    ip link add wrong0 type veth peer name wrong1 && ip link add link0.7 type veth peer name far0 \
    && for link in wrong0 wrong1 link0.7 far0; do ip link set $link up || exit 77; done \
    && ip -6 addr add fe80::53/64 dev wrong1 nodad && ip -6 addr add fe80::53/64 dev far0 nodad \
    && ip -6 addr add fe80::1/64 dev wrong0 nodad && ip -6 addr add fe80::1/64 dev link0.7 nodad";

/// What the program says of the route of `you@a.test` with this config, and its log.
fn explained(config: &str) -> (String, String) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("postrider.toml"), config).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_postrider"));
    command.args(["--config", "postrider.toml", "explain", "you@a.test"]).current_dir(folder.path());
    let output = run_to_end(command, b"");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

fn at(interface: &str, port: u16) -> SocketAddr {
    let number = rustix::net::netdevice::name_to_index(
        std::net::UdpSocket::bind("[::1]:0").expect("lo is up"),
        interface,
    );
    SocketAddrV6::new("fe80::53".parse().unwrap(), port, 0, number.unwrap()).into()
}

#[test]
fn a_link_local_server_is_asked_on_the_interface_that_is_named() {
    if !inside(As::AnyUser, LINKS) {
        return;
    }
    let zone =
        || Zone::new().mx("a.test", 10, "right.test").address("right.test", "192.0.2.1".parse().unwrap());
    let standard = DnsServer::start_at(at("far0", 53), zone()).unwrap();
    let other = DnsServer::start_at(at("far0", 5353), zone()).unwrap();
    let _wrong = DnsServer::start_at(at("wrong1", 53), Zone::new().null_mx("a.test")).unwrap();

    let listen = "hostname = \"relay.test\"\n[[listen]]\naddress = \"127.0.0.1:2525\"\ntls = \"off\"\n";
    let servers = |server: &str| format!("{listen}[dns]\ntimeout = \"5s\"\nservers = [\"{server}\"]\n");
    let number = at("link0.7", 53).to_string();
    for server in ["fe80::53%link0.7", "[fe80::53%link0.7]:53", &number] {
        let (said, log) = explained(&servers(server));
        assert!(said.contains("right.test") && said.contains("192.0.2.1"), "{server}: {said}{log}");
    }
    assert!(other.asked().is_empty());
    let (said, log) = explained(&servers("[fe80::53%link0.7]:5353"));
    assert!(said.contains("right.test") && !other.asked().is_empty(), "{said}{log}");

    let before = standard.asked().len();
    fs::write("/etc/resolv.conf", "nameserver fe80::53%link0.7\n").unwrap();
    let (said, log) = explained(listen);
    assert!(said.contains("right.test") && standard.asked().len() > before, "{said}{log}");

    // An interface that is not there is said, and is no reason not to start.
    let (said, log) = explained(&servers("fe80::53%nosuch0"));
    assert!(said.contains("the DNS server could not be asked"), "{said}{log}");
}
