//! Our relay's config for a shape.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use postrider::mail::dkim::{Algorithm, Key};

use crate::dns;
use crate::peer::{Peer, directory, free_port, postrider_on, start};
use crate::shape::Shape;
use crate::sink::Sink;
use crate::stream::Keys;

/// Started, with a fresh queue on disk. At most `connections` to each destination.
pub(crate) fn postrider(shape: &Shape, keys: &Keys, connections: usize, is_watched: bool) -> Option<Peer> {
    let (directory, sink) = (directory(), shape.sink(keys));
    let mut config = format!("[delivery]\nconnections_per_destination = {connections}\n");
    let path = |name: &str| directory.path().join(name);
    fs::write(path("ca.pem"), &keys.certificate).expect("write the CA");
    let sts = std::env::var("STS").ok();
    match &sts {
        Some(mode) => config.push_str(&by_mx(shape, &sink, mode, &path("ca.pem"))),
        None => config.push_str(&by_route(shape, &sink)),
    }
    config.push_str(&signing(directory.path()));
    let metrics = is_watched.then(free_port);
    config.push_str(
        &metrics.map_or_else(String::new, |port| format!("[metrics]\nlisten = [\"127.0.0.1:{port}\"]\n")),
    );
    let with_policies = |peer: Peer| {
        if let Some(port) = metrics {
            scrape_each_second(port);
        }
        if let Some(mode @ ("testing" | "enforce")) = sts.as_deref() {
            keep_policies(shape, &peer, mode);
        }
        peer
    };
    if !shape.tls {
        return postrider_on(directory, sink, &config).map(with_policies);
    }
    fs::write(path("cert.pem"), &keys.certificate).expect("write the certificate");
    fs::write(path("key.pem"), &keys.key).expect("write the key");
    config.push_str(&format!(
        "[tls]\ncertificate = {:?}\nkey = {:?}\n[users]\nfile = {:?}\n",
        path("cert.pem"),
        path("key.pem"),
        path("users")
    ));
    start(directory, sink, "tls = \"starttls\"\nauth = \"required\"\n", &config, true).map(with_policies)
}

/// As Prometheus would, but that it asks four times a minute. Ends with the relay.
fn scrape_each_second(port: u16) {
    std::thread::spawn(move || {
        while let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) {
            let mut text = String::new();
            let asked = write!(stream, "GET /metrics HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n");
            if asked.and_then(|()| stream.read_to_string(&mut text)).is_ok() {
                assert!(text.contains("postrider_messages_accepted_total "), "{text}");
            }
            std::thread::sleep(Duration::from_secs(1));
        }
    });
}

/// A `[[route]]` for each domain.
fn by_route(shape: &Shape, sink: &Sink) -> String {
    let tls = if shape.tls { "opportunistic" } else { "off" };
    let route = |(domain, address)| {
        let relay = SocketAddr::from((address, sink.address.port()));
        let (ip, port) = (relay.ip(), relay.port());
        format!("[[route]]\ndomain = \"{domain}\"\nrelay = [\"[{ip}]:{port}\"]\ntls = \"{tls}\"\n")
    };
    shape.hosts().map(route).collect()
}

/// The hosts as DNS has them: the rest of `[delivery]`, and `[dns]`.
fn by_mx(shape: &Shape, sink: &Sink, mode: &str, ca: &Path) -> String {
    let has_policies = matches!(mode, "testing" | "enforce");
    let server = dns::start(shape.hosts().collect(), has_policies);
    let (is_on, port) = (mode != "off", sink.address.port());
    format!(
        "port = {port}\ndane = false\nmta_sts = {is_on}\nca_file = {ca:?}\n\
         prohibited_networks = [\"!127.0.0.0/8\"]\n[dns]\nservers = [\"{server}\"]\n"
    )
}

/// Policies as they are once they were fetched.
fn keep_policies(shape: &Shape, peer: &Peer, mode: &str) {
    let directory = peer.directory.as_ref().expect("ours has one").path();
    for (domain, _) in shape.hosts() {
        let host = dns::host(&domain);
        let sql = format!(
            "INSERT INTO mta_sts_policies VALUES ('{domain}', '1', '{mode}', '{host}', 604800, unixepoch(),
                                                  unixepoch() + 604800, unixepoch(), NULL)"
        );
        let mut command = Command::new(env!("CARGO_BIN_EXE_postrider"));
        command.args(["sql", "--write", "-c", &sql, "--config"]).arg(directory.join("postrider.toml"));
        assert!(command.status().expect("postrider sql").success());
    }
    // The relay looks twice a second whether somebody else has written.
    std::thread::sleep(Duration::from_secs(1));
}

/// The keys that `DKIM=rsa,ed25519` asks for, of the domain that the mail is from.
fn signing(directory: &Path) -> String {
    let Ok(wanted) = std::env::var("DKIM") else { return String::new() };
    let key_of = |name: &str| {
        let algorithm = match name {
            "rsa" => Algorithm::RsaSha256,
            "ed25519" => Algorithm::Ed25519Sha256,
            other => panic!("DKIM={other}: rsa, ed25519, or both with a comma"),
        };
        let path = directory.join(format!("{name}.pem"));
        let key = Key::generate(algorithm).expect("make a key");
        fs::write(&path, key.to_pem().expect("a key in PEM")).expect("write a key");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("keep a key");
        format!("[[dkim]]\ndomain = \"sender.test\"\nselector = \"{name}\"\nkey = {path:?}\n")
    };
    wanted.split(',').map(key_of).collect()
}
