//! TLS with hosts whose keys, signatures or certificates cannot be checked: mail is encrypted to them where any
//! certificate will do, and nobody is ever taken for verified by it.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use rustls::SignatureScheme;
use rustls::version::{TLS12, TLS13};

use super::*;
use crate::harness::skipped::{installed, skipped};

const HOST: &str = "mx.example.net";

fn trusting(mx: &FakeMx, file: &tempfile::NamedTempFile, tls: RouteTls) -> Endpoint {
    Endpoint { ca_file: Some(file.path().to_owned()), ..endpoint(mx, tls) }
}

/// A host with somebody else's certificate, for the same name and by a CA that is trusted. Without a check of its
/// signature nothing tells it from the right one.
#[test]
fn a_certificate_without_its_key_is_never_taken_for_verified() {
    let (weak, good) = (Certificate::rsa_1024(&[HOST]), Certificate::for_names(&[HOST]));
    let unreadable = Certificate::unreadable();
    for (version, certificate, scheme, why) in [
        (&TLS12, &weak, SignatureScheme::RSA_PKCS1_SHA256, "RSA 1024"),
        (&TLS12, &weak, SignatureScheme::RSA_PKCS1_SHA1, "RSA 1024"),
        (&TLS13, &weak, SignatureScheme::RSA_PSS_SHA256, "RSA 1024"),
        (&TLS12, &good, SignatureScheme::ECDSA_SHA1_Legacy, "ECDSA_SHA1_Legacy"),
        (&TLS13, &good, SignatureScheme::ECDSA_SHA1_Legacy, "ECDSA_SHA1_Legacy"),
        (&TLS13, &good, SignatureScheme::ED448, "ED448"),
        (&TLS13, &good, SignatureScheme::Unknown(0x081a), "signature scheme 0x081a"),
        (&TLS13, &good, SignatureScheme::RSA_PSS_SHA256, "unknown kind of key"),
        (&TLS12, &unreadable, SignatureScheme::ECDSA_NISTP256_SHA256, "unreadable certificate"),
        (&TLS13, &unreadable, SignatureScheme::ECDSA_NISTP256_SHA256, "unreadable certificate"),
    ] {
        let stolen = certificate.stolen(version, scheme);
        let file = super::tls::ca_file(&stolen);
        let mx = FakeMx::start(Script::new().offering(&["REQUIRETLS"]).tls(&stolen));
        let connector = Opener::new(&settings());
        let version = if version.version == TLS12.version { "TLSv1.2" } else { "TLSv1.3" };
        let words = format!("{version} signature not checked ({why})");
        let levels = [RouteTls::Opportunistic, RouteTls::Encrypt, RouteTls::Encrypt];
        for tls in levels {
            let connection = connector.open(&trusting(&mx, &file, tls), soon()).unwrap();
            assert_eq!(connection.tls().to_string(), words);
            assert!(!connection.tls().is_verified() && !connection.keeps_require_tls(), "{words}");
            connection.quit();
        }
        let seen = mx.wait_for_closed(levels.len(), SOON);
        assert_eq!(seen.len(), levels.len(), "at the first try");
        assert!(seen.iter().all(|seen| seen.tls && !seen.resumed), "{words}: {seen:#?}");
        let trouble = connector.open(&trusting(&mx, &file, RouteTls::Verify), soon()).unwrap_err();
        assert_eq!((trouble.phase, trouble.outcome), (Phase::Starttls, Outcome::Deferred), "{words}");
    }
}

#[test]
fn a_wrong_signature_ends_the_handshake_where_it_can_be_checked() {
    for (version, scheme) in
        [(&TLS12, SignatureScheme::ECDSA_NISTP256_SHA256), (&TLS13, SignatureScheme::ECDSA_NISTP256_SHA256)]
    {
        let stolen = Certificate::for_names(&[HOST]).stolen(version, scheme);
        let file = super::tls::ca_file(&stolen);
        let mx = FakeMx::start(Script::new().tls(&stolen));
        for tls in [RouteTls::Encrypt, RouteTls::Verify] {
            let to = trusting(&mx, &file, tls);
            let trouble = Opener::new(&settings()).open(&to, soon()).unwrap_err();
            let words = trouble.reply.to_string();
            assert!(words.ends_with("invalid peer certificate: BadSignature"), "{words}");
        }
    }
}

/// The right host is verified, before and after somebody stands in its place; what it agreed with that one is not used.
#[test]
fn the_right_host_is_verified_again_behind_a_wrong_one() {
    let right = Certificate::for_names(&[HOST]);
    let wrong = right.stolen(&TLS13, SignatureScheme::ED448);
    let scripts = [&right, &right, &wrong, &right, &right].map(|certificate| Script::new().tls(certificate));
    let file = super::tls::ca_file(&right);
    let mx = FakeMx::start_each(scripts.to_vec());
    let connector = Opener::new(&settings());
    for (turn, (tls, resumed)) in [
        ("TLSv1.3 verified", false),
        ("TLSv1.3 verified", true),
        ("TLSv1.3 signature not checked (ED448)", false),
        ("TLSv1.3 verified", false),
        ("TLSv1.3 verified", true),
    ]
    .into_iter()
    .enumerate()
    {
        let connection = connector.open(&trusting(&mx, &file, RouteTls::Encrypt), soon()).unwrap();
        assert_eq!(connection.tls().to_string(), tls, "turn {turn}");
        connection.quit();
        assert_eq!(mx.wait_for_closed(turn + 1, SOON)[turn].resumed, resumed, "turn {turn}");
    }
}

// ---- OpenSSL, whose keys are real -------------------------------------------------------------------

/// `openssl s_server` behind a host that offers STARTTLS. It says yes to EHLO.
struct OpenSsl {
    address: SocketAddr,
    server: Child,
    _folder: tempfile::TempDir,
}

impl OpenSsl {
    fn start(new_key: &[&str], how: &[&str]) -> Option<OpenSsl> {
        let folder = tempfile::tempdir().unwrap();
        let (key, certificate) = (folder.path().join("key.pem"), folder.path().join("certificate.pem"));
        let mut request = Command::new("openssl");
        request.args(["req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=mx.example.net"]).args(new_key);
        request.arg("-keyout").arg(&key).arg("-out").arg(&certificate);
        if !request.stderr(Stdio::null()).status().unwrap().success() {
            skipped(&format!("this openssl makes no key by {new_key:?}"));
            return None;
        }
        let mut server = Command::new("openssl");
        server.args(["s_server", "-accept", "127.0.0.1:0", "-cipher", "DEFAULT@SECLEVEL=0"]).args(how);
        server.arg("-key").arg(&key).arg("-cert").arg(&certificate);
        let server =
            server.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut server = OpenSsl { address: ([127, 0, 0, 1], 0).into(), server, _folder: folder };
        server.speak();
        Some(server)
    }

    /// Within TLS, by the server's standard input and output; before it, in front of the server.
    fn speak(&mut self) {
        let mut answers = self.server.stdin.take().unwrap();
        let mut lines = BufReader::new(self.server.stdout.take().unwrap()).lines();
        let inner: SocketAddr = loop {
            let line = lines.next().expect("the server says where it listens").unwrap();
            if let Some(address) = line.strip_prefix("ACCEPT ") {
                break address.parse().unwrap();
            }
        };
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok).filter(|line| line.starts_with("EHLO")) {
                if answers.write_all(format!("250 hello {}\r\n", line.len()).as_bytes()).is_err() {
                    break;
                }
            }
        });
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        self.address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                // Whoever breaks off is missed by the test itself.
                let _ = lead(client, inner);
            }
        });
    }
}

impl Drop for OpenSsl {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// The dialogue up to STARTTLS; from there on the bytes go to and fro.
fn lead(mut client: TcpStream, inner: SocketAddr) -> io::Result<()> {
    let mut said = [0; 512];
    for (answer, command) in
        [("220 openssl\r\n", "EHLO"), ("250-openssl\r\n250 STARTTLS\r\n", "STARTTLS"), ("220 go\r\n", "")]
    {
        client.write_all(answer.as_bytes())?;
        if !command.is_empty() {
            let count = client.read(&mut said)?;
            if !said[..count].starts_with(command.as_bytes()) {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
    }
    let server = TcpStream::connect(inner)?;
    let (mut from, mut to) = (client.try_clone()?, server.try_clone()?);
    std::thread::spawn(move || {
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
    let (mut from, mut to) = (server, client);
    io::copy(&mut from, &mut to)?;
    to.shutdown(Shutdown::Both)
}

#[test]
fn hosts_with_weak_keys_and_signatures_get_their_mail_encrypted() {
    if !installed("openssl") {
        return;
    }
    let rsa_1024: &[&str] = &["-newkey", "rsa:1024"];
    let rsa_2048: &[&str] = &["-newkey", "rsa:2048"];
    let version_1: &[&str] = &["-newkey", "rsa:2048", "-config", "/dev/null"];
    let ed448: &[&str] = &["-newkey", "ed448"];
    for (new_key, how, tls) in [
        (rsa_1024, &["-tls1_2"][..], "TLSv1.2 signature not checked (RSA 1024)"),
        (rsa_1024, &["-tls1_3"], "TLSv1.3 signature not checked (RSA 1024)"),
        (rsa_2048, &["-tls1_2", "-sigalgs", "RSA+SHA1"], "TLSv1.2 signature not checked (RSA_PKCS1_SHA1)"),
        (ed448, &["-tls1_3"], "TLSv1.3 signature not checked (ED448)"),
        (rsa_2048, &[], "TLSv1.3"),
        (version_1, &[], "TLSv1.3 signature not checked (unreadable certificate)"),
    ] {
        let Some(host) = OpenSsl::start(new_key, how) else { continue };
        for level in [RouteTls::Opportunistic, RouteTls::Encrypt] {
            let to = Endpoint {
                host: HOST.to_owned(),
                address: host.address,
                tls: level,
                policy: TlsPolicy::None,
                dane: None,
                ca_file: None,
                login: None,
                relay: false,
                preference: 10,
                sources: Arc::default(),
            };
            let connection = Opener::new(&settings()).open(&to, soon()).unwrap();
            assert_eq!(connection.tls().to_string(), tls, "{level:?} {new_key:?} {how:?}");
        }
    }
}
