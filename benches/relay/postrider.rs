//! Our relay's config for a shape.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use postrider::mail::dkim::{Algorithm, Key};

use crate::peer::{Peer, directory, postrider_on, start};
use crate::shape::Shape;
use crate::stream::Keys;

/// Started, with a fresh queue on disk. At most `connections` to each destination.
pub(crate) fn postrider(shape: &Shape, keys: &Keys, connections: usize) -> Option<Peer> {
    let (directory, sink) = (directory(), shape.sink(keys));
    let mut config = format!("[delivery]\nconnections_per_destination = {connections}\n");
    let tls = if shape.tls { "opportunistic" } else { "off" };
    for (domain, address) in shape.hosts() {
        let relay = SocketAddr::from((address, sink.address.port()));
        let (ip, port) = (relay.ip(), relay.port());
        let route =
            format!("[[route]]\ndomain = \"{domain}\"\nrelay = [\"[{ip}]:{port}\"]\ntls = \"{tls}\"\n");
        config.push_str(&route);
    }
    config.push_str(&signing(directory.path()));
    if !shape.tls {
        return postrider_on(directory, sink, &config);
    }
    let path = |name: &str| directory.path().join(name);
    fs::write(path("cert.pem"), &keys.certificate).expect("write the certificate");
    fs::write(path("key.pem"), &keys.key).expect("write the key");
    config.push_str(&format!(
        "[tls]\ncertificate = {:?}\nkey = {:?}\n[users]\nfile = {:?}\n",
        path("cert.pem"),
        path("key.pem"),
        path("users")
    ));
    start(directory, sink, "tls = \"starttls\"\nauth = \"required\"\n", &config, true)
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
