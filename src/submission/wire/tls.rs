//! TLS as a server: the certificate and its key, from files or made at the first start.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::ResolvesServerCert;

use crate::config::CertificateSettings;
use crate::mail::Domain;

/// The only protocol that a client may name in the handshake. IANA lists none for SMTP; this is what clients that name
/// one say.
const ALPN: &[u8] = b"smtp";

/// Why there is no TLS. Says which file and what to do.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A PEM file cannot be read or holds something else.
    #[error("{path}: {why} ({remedy})")]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
        /// What to do.
        remedy: &'static str,
    },
    /// Certificate and key cannot be used together.
    #[error(
        "{certificate} and {key}: {why} (the key must belong to the first certificate in the file, the leaf)"
    )]
    Pair {
        /// The certificate file.
        certificate: PathBuf,
        /// The key file.
        key: PathBuf,
        /// What rustls says.
        why: rustls::Error,
    },
    /// TLS itself.
    #[error("TLS: {0}")]
    Config(#[source] rustls::Error),
    /// The self-signed certificate could not be made.
    #[error("making a self-signed certificate for {hostname}: {why}")]
    Making {
        /// The name that the certificate was to be for.
        hostname: String,
        /// What rcgen says.
        why: rcgen::Error,
    },
}

/// The files of certificate and key; self-signed ones for `hostname` are made where they are not there.
///
/// # Errors
/// They cannot be made.
pub(super) fn files(
    settings: &CertificateSettings,
    hostname: &Domain,
) -> Result<(PathBuf, PathBuf), TlsError> {
    match settings {
        CertificateSettings::Files { certificate, key } => Ok((certificate.clone(), key.clone())),
        CertificateSettings::SelfSigned { directory } => {
            let (certificate, key) = self_signed_paths(directory);
            if !(certificate.exists() && key.exists()) {
                make_self_signed(hostname, &certificate, &key)?;
            }
            Ok((certificate, key))
        }
    }
}

/// What handshakes need, with the certificate that is in use at each of them.
///
/// # Errors
/// None is known.
pub fn server_config(certificate: Arc<dyn ResolvesServerCert>) -> Result<Arc<ServerConfig>, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(certificate);
    // Applications that connect for every message resume; without the means for it they do not.
    if let Ok(ticketer) = aws_lc_rs::Ticketer::new() {
        config.ticketer = ticketer;
    }
    config.send_tls13_tickets = 1;
    // RFC 9325 §3.7: a browser that somebody leads here (ALPACA) names another protocol and gets no handshake. Mail
    // clients name none, or this one.
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Arc::new(config))
}

/// Where the self-signed certificate and its key are kept.
pub fn self_signed_paths(directory: &Path) -> (PathBuf, PathBuf) {
    (directory.join("self-signed.pem"), directory.join("self-signed.key"))
}

/// The certificates in what was read of this file.
pub(super) fn chain(
    path: &Path,
    read: &Result<Vec<u8>, String>,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let remedy = "it must hold PEM certificates, the leaf first, that the relay's user may read";
    let bytes = read.as_ref().map_err(|why| file_error(path, why.clone(), remedy))?;
    let chain = CertificateDer::pem_slice_iter(bytes)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| pem_error(path, &error, remedy))?;
    if chain.is_empty() {
        return Err(pem_error(path, &pem::Error::NoItemsFound, remedy));
    }
    Ok(chain)
}

/// The key in what was read of this file.
pub(super) fn private_key(
    path: &Path,
    read: &Result<Vec<u8>, String>,
) -> Result<PrivateKeyDer<'static>, TlsError> {
    let remedy = "it must be a PEM private key that the relay's user may read";
    let bytes = read.as_ref().map_err(|why| file_error(path, why.clone(), remedy))?;
    PrivateKeyDer::from_pem_slice(bytes).map_err(|error| pem_error(path, &error, remedy))
}

fn pem_error(path: &Path, error: &pem::Error, remedy: &'static str) -> TlsError {
    let why = match error {
        pem::Error::NoItemsFound => "holds no such PEM section".to_owned(),
        error => error.to_string(),
    };
    file_error(path, why, remedy)
}

fn file_error(path: &Path, why: String, remedy: &'static str) -> TlsError {
    TlsError::File { path: path.to_owned(), why, remedy }
}

/// Writes a new certificate for `hostname` and this machine's loopback names, its key with mode 0600.
fn make_self_signed(hostname: &Domain, certificate: &Path, key: &Path) -> Result<(), TlsError> {
    let names = [hostname.as_str(), "localhost", "127.0.0.1", "::1"];
    let made = rcgen::generate_simple_self_signed(names.map(str::to_owned))
        .map_err(|why| TlsError::Making { hostname: hostname.to_string(), why })?;
    let write = |path: &Path, mode, text: String| {
        write_atomically(path, mode, text.as_bytes()).map_err(|error| TlsError::File {
            path: path.to_owned(),
            why: error.to_string(),
            remedy: "the relay's user must be able to write there",
        })
    };
    write(key, 0o600, made.signing_key.serialize_pem())?;
    write(certificate, 0o644, made.cert.pem())
}

/// Half a file is never seen under its name.
fn write_atomically(path: &Path, mode: u32, bytes: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let unfinished = path.with_extension("new");
    // A left-over of a start that was cut off; it may have another mode.
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&unfinished)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&unfinished, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::submission::wire::certificate::Certificate;
    use std::os::unix::fs::PermissionsExt as _;

    fn open(settings: &CertificateSettings) -> Result<Certificate, TlsError> {
        Certificate::open(settings, &Domain::parse("relay.example").unwrap(), 0)
    }

    #[test]
    fn a_self_signed_certificate_is_made_once_and_its_key_is_private() {
        let directory = tempfile::tempdir().unwrap();
        let settings = CertificateSettings::SelfSigned { directory: directory.path().to_owned() };
        open(&settings).unwrap();
        let (certificate, key) = self_signed_paths(directory.path());
        let first = fs::read(&certificate).unwrap();
        assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
        open(&settings).unwrap();
        assert_eq!(fs::read(&certificate).unwrap(), first);
        let files = CertificateSettings::Files { certificate, key };
        open(&files).unwrap();
    }

    #[test]
    fn an_error_says_which_file_and_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let self_signed = |name: &str| {
            let directory = path(name);
            fs::create_dir(&directory).unwrap();
            let settings = CertificateSettings::SelfSigned { directory: directory.clone() };
            open(&settings).unwrap();
            self_signed_paths(&directory)
        };
        let ((certificate, key), (_, other_key)) = (self_signed("a"), self_signed("b"));
        fs::write(path("junk"), "junk").unwrap();
        for (certificate, key, expected) in [
            (&path("none"), &key, "none: No such file or directory (os error 2) (it must hold PEM"),
            (&path("junk"), &key, "junk: holds no such PEM section (it must hold PEM certificates"),
            (&certificate, &path("junk"), "junk: holds no such PEM section (it must be a PEM private key"),
            (&key, &key, "self-signed.key: holds no such PEM section"),
            (&certificate, &other_key, "(the key must belong to the first certificate"),
        ] {
            let (certificate, key) = (certificate.clone(), key.clone());
            let settings = CertificateSettings::Files { certificate, key };
            let error = open(&settings).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
