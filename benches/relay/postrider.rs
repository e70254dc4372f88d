//! Our relay's config for a shape.

use std::fs;
use std::net::SocketAddr;

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
