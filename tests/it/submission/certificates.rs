//! A certificate that is renewed while clients come: each handshake gets the old pair or the new one, whole, and within
//! two seconds all get the new one.

use std::collections::BTreeSet;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use crate::harness::certificate_files::{Authority, Issued, write_secret};
use crate::harness::fakemx::SOON;
use crate::harness::http_client::{address, get, watched};
use crate::harness::relay::{Config, Relay, World, wait_for};

/// From the last write to the first handshake with the new pair, and no longer.
const IN_USE_WITHIN: Duration = Duration::from_secs(2);

/// Clients that trust the authority, verify, and remember no session.
fn clients(authority: &Authority) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

/// A whole handshake; the certificate that the relay showed.
fn shown(address: SocketAddr, clients: &Arc<ClientConfig>) -> Result<Vec<u8>, String> {
    let name = ServerName::try_from("localhost").unwrap();
    let mut connection = ClientConnection::new(Arc::clone(clients), name).unwrap();
    let mut socket = TcpStream::connect(address).map_err(|error| error.to_string())?;
    socket.set_read_timeout(Some(SOON)).unwrap();
    while connection.is_handshaking() {
        connection.complete_io(&mut socket).map_err(|error| error.to_string())?;
    }
    Ok(connection.peer_certificates().unwrap()[0].to_vec())
}

/// One way to renew; it returns when both files are there.
type Renewal = fn(&Path, &Issued);

fn certificate_first(folder: &Path, new: &Issued) {
    replace(&folder.join("cert.pem"), &new.certificate);
    thread::sleep(Duration::from_millis(1200));
    replace(&folder.join("key.pem"), &new.key);
}

fn key_first(folder: &Path, new: &Issued) {
    replace(&folder.join("key.pem"), &new.key);
    thread::sleep(Duration::from_millis(1200));
    replace(&folder.join("cert.pem"), &new.certificate);
}

fn half_written(folder: &Path, new: &Issued) {
    fs::write(folder.join("cert.pem"), &new.certificate[..300]).unwrap();
    thread::sleep(Duration::from_millis(1200));
    write_secret(&folder.join("key.pem"), &new.key[..60]);
    thread::sleep(Duration::from_millis(1200));
    fs::write(folder.join("cert.pem"), &new.certificate).unwrap();
    write_secret(&folder.join("key.pem"), &new.key);
}

fn gone_for_a_second(folder: &Path, new: &Issued) {
    fs::remove_file(folder.join("cert.pem")).unwrap();
    fs::remove_file(folder.join("key.pem")).unwrap();
    thread::sleep(Duration::from_millis(1200));
    write_secret(&folder.join("key.pem"), &new.key);
    fs::write(folder.join("cert.pem"), &new.certificate).unwrap();
}

/// As certbot does: files of the new number beside the old ones, then the links.
fn by_links(folder: &Path, new: &Issued) {
    fs::write(folder.join("cert2.pem"), &new.certificate).unwrap();
    write_secret(&folder.join("key2.pem"), &new.key);
    for (name, to) in [("key.pem", "key2.pem"), ("cert.pem", "cert2.pem")] {
        symlink(to, folder.join("link")).unwrap();
        fs::rename(folder.join("link"), folder.join(name)).unwrap();
    }
}

fn replace(file: &Path, text: &str) {
    let new = file.with_extension("new");
    write_secret(&new, text);
    fs::rename(new, file).unwrap();
}

fn renewed(relay: &Relay) -> usize {
    relay.logged(&["certificate: ", "was renewed and is in use; it holds until 4096-01-01"]).len()
}

#[test]
fn a_renewed_pair_is_in_use_within_two_seconds_and_no_handshake_fails() {
    let authority = Authority::new();
    let clients = clients(&authority);
    let world = World::new();
    let mut relay = Relay::prepare(world.configured(Config::new()));
    let folder = relay.path("");
    let first = authority.issue();
    first.write(&folder);
    relay.spawn();
    relay.wait_until_ready();
    let address = relay.implicit;
    let seen = Arc::new(Mutex::new(BTreeSet::new()));
    let stop = Arc::new(AtomicBool::new(false));
    let load: Vec<_> = (0..3)
        .map(|_| {
            let (clients, seen, stop) = (Arc::clone(&clients), Arc::clone(&seen), Arc::clone(&stop));
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let shown = shown(address, &clients);
                    seen.lock().unwrap().insert(shown);
                    thread::sleep(Duration::from_millis(5));
                }
            })
        })
        .collect();
    let (mut before, mut old) = (first.der.clone(), first.der.clone());
    let ways: [Renewal; 5] = [certificate_first, key_first, half_written, gone_for_a_second, by_links];
    for (number, renew) in ways.into_iter().enumerate() {
        let new = authority.issue();
        renew(&folder, &new);
        wait_for("the new pair", IN_USE_WITHIN, || (shown(address, &clients).ok()? == new.der).then_some(()));
        let seen = std::mem::take(&mut *seen.lock().unwrap());
        // One that was just over when the last renewal was looked at may have come to it since.
        let allowed = BTreeSet::from([Ok(before), Ok(old.clone()), Ok(new.der.clone())]);
        let strange: Vec<_> = seen.difference(&allowed).collect();
        assert!(strange.is_empty(), "renewal {number}: {strange:?}");
        assert!(seen.contains(&Ok(old.clone())), "renewal {number}: clients came all the while");
        wait_for("its line", SOON, || (renewed(&relay) == number + 1).then_some(()));
        (before, old) = (old, new.der);
    }
    stop.store(true, Ordering::Relaxed);
    load.into_iter().for_each(|thread| thread.join().unwrap());
    relay.stop();
    assert!(relay.logged(&["a minute ago"]).is_empty());
}

/// The one in the file is not what clients are shown, and an alert must look at what they are.
#[test]
fn the_metric_is_of_the_pair_in_use_while_the_files_are_broken() {
    let at = address();
    let relay = Relay::start(watched(Config::new(), &[at]));
    let end = || {
        let scrape = get(at, "/metrics").body;
        let line = scrape.lines().find(|line| line.starts_with("postrider_certificate_not_after_timestamp"));
        line.map(str::to_owned)
    };
    let before = end();
    assert!(before.is_some());
    fs::write(relay.path("cert.pem"), "half of a renewal").unwrap();
    assert_eq!(end(), before);
}
