//! The certificate of the listeners with its key: as it was read last, and read again when the files change.
//!
//! Whoever renews a certificate replaces two files, one after the other, in place or by symbolic links (certbot). So a
//! new pair is taken once both files stood still from one look to the next, can be read and fit together. Until then
//! the pair in use stays: a handshake gets the one or the other, and never half of one. And it stays while it holds and
//! the new one does not: a renewal that went wrong (the file of another host, an old backup) is told, and costs no
//! client.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use rustls::client::danger::ServerCertVerifier as _;
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, Error, RootCertStore};

use super::tls::{self, TlsError};
use crate::config::{CertificateSettings, guarded};
use crate::mail::Domain;

/// Files that cannot be used for so long are told of: a renewal takes less.
const BROKEN_TOLD_AFTER_SECS: i64 = 60;
/// The end is told from so long before it: ACME clients renew a month before.
pub const ENDS_SOON_SECS: i64 = 14 * DAY_SECS;
const DAY_SECS: i64 = 86_400;
/// Later than any certificate can hold (they end in the year 9999 at the latest).
const AFTER_ALL_TIME: Duration = Duration::from_secs(1 << 40);

/// What handshakes use.
pub struct Certificate {
    files: Files,
    /// What clients that verify ask for; none where the hostname is no name for TLS.
    server: Option<ServerName<'static>>,
    in_use: RwLock<Arc<CertifiedKey>>,
    watched: Mutex<Watched>,
}

#[derive(Debug, Clone)]
struct Files {
    certificate: PathBuf,
    key: PathBuf,
}

/// What both files hold, or why that cannot be read. Times of change tell too little: two within some milliseconds are
/// one.
type Found = [Result<Vec<u8>, String>; 2];

struct Watched {
    /// What the pair in use was read from.
    loaded: Found,
    /// At the last look.
    seen: Found,
    /// Unix seconds.
    broken_since: Option<i64>,
    broken_told: bool,
    /// Of what stands in the files now.
    worse_told: bool,
    /// When the end was told last, in Unix seconds.
    end_told_at: Option<i64>,
}

/// What a look at the files found.
#[derive(Debug)]
pub enum Look {
    /// Nothing to tell.
    Same,
    /// Another pair is in use.
    Replaced,
    /// For a minute they could not be used; said once.
    Broken(TlsError),
    /// There is another pair, and the one in use is better; what is wrong with it, said once.
    Worse(String),
}

impl Certificate {
    /// Reads the pair of the settings, or makes one for `hostname`; at `now` (Unix seconds).
    ///
    /// # Errors
    /// Names the file and the remedy.
    pub fn open(
        settings: &CertificateSettings,
        hostname: &Domain,
        now: i64,
    ) -> Result<Certificate, TlsError> {
        let (certificate, key) = tls::files(settings, hostname)?;
        Certificate::read(&certificate, &key, hostname, now)
    }

    /// Whether it is the one that these settings want.
    pub fn is_of(&self, settings: &CertificateSettings, hostname: &Domain) -> bool {
        let wanted = tls::files(settings, hostname);
        wanted.is_ok_and(|(certificate, key)| {
            (&self.files.certificate, &self.files.key) == (&certificate, &key)
        }) && self.server == server_name(hostname)
    }

    /// Takes at once what is in the files now, unless it is worse, for whoever reloads.
    ///
    /// # Errors
    /// It cannot be used; the one in use stays.
    pub fn read_again(&self, now: i64) -> Result<(), TlsError> {
        let found = self.files.found();
        let pair = self.files.pair(&found)?;
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        if found != watched.loaded && self.fault_of(&pair, now).is_none() {
            watched.mended();
            (watched.loaded, watched.end_told_at) = (found, Some(now));
            *self.write() = pair;
        }
        Ok(())
    }

    /// Reads a pair.
    ///
    /// # Errors
    /// Names the file and the remedy.
    fn read(certificate: &Path, key: &Path, hostname: &Domain, now: i64) -> Result<Certificate, TlsError> {
        let files = Files { certificate: certificate.to_owned(), key: key.to_owned() };
        let found = files.found();
        let in_use = files.pair(&found)?;
        Ok(Certificate {
            files,
            server: server_name(hostname),
            in_use: RwLock::new(in_use),
            watched: Mutex::new(Watched {
                loaded: found.clone(),
                seen: found,
                broken_since: None,
                broken_told: false,
                worse_told: false,
                // Whoever starts with it looks at it then.
                end_told_at: Some(now),
            }),
        })
    }

    /// Looks whether there is another pair, and takes it: at the second look that finds it so.
    pub fn look(&self, now: i64) -> Look {
        let found = self.files.found();
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let stood_still = found == watched.seen;
        watched.seen = found.clone();
        if found == watched.loaded {
            watched.mended();
            return Look::Same;
        }
        let since = *watched.broken_since.get_or_insert(now);
        if !stood_still {
            watched.worse_told = false;
            return Look::Same;
        }
        match self.files.pair(&found) {
            Ok(pair) => {
                if let Some(fault) = self.fault_of(&pair, now) {
                    let was_told = std::mem::replace(&mut watched.worse_told, true);
                    return if was_told { Look::Same } else { Look::Worse(fault) };
                }
                watched.loaded = found;
                watched.mended();
                let before = std::mem::replace(&mut *self.write(), Arc::clone(&pair));
                if before.cert == pair.cert {
                    return Look::Same;
                }
                watched.end_told_at = None;
                Look::Replaced
            }
            Err(error) if now - since >= BROKEN_TOLD_AFTER_SECS && !watched.broken_told => {
                watched.broken_told = true;
                Look::Broken(error)
            }
            Err(_) => Look::Same,
        }
    }

    /// Until when the one in use holds, in Unix seconds; None where that cannot be known.
    pub fn ends_at(&self) -> Option<i64> {
        let in_use = self.in_use();
        ends_at(in_use.cert.first()?)
    }

    /// Its end, where it is to be told at `now`: once a day, from 14 days before.
    pub fn end_to_tell(&self, now: i64) -> Option<i64> {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        if watched.end_told_at.is_some_and(|told_at| (0..DAY_SECS).contains(&(now - told_at))) {
            return None;
        }
        watched.end_told_at = Some(now);
        self.ends_at().filter(|end| end - now < ENDS_SOON_SECS)
    }

    /// The name of the file, for people.
    pub fn name(&self) -> std::path::Display<'_> {
        self.files.certificate.display()
    }

    /// What a client would find wrong with a pair, and not with the one in use.
    fn fault_of(&self, pair: &CertifiedKey, now: i64) -> Option<String> {
        let in_use = self.in_use();
        let (before, new) = (in_use.cert.first()?, pair.cert.first()?);
        // None is worse than one that is over.
        if fault_of_dates(before, now).is_some() {
            return None;
        }
        if let Some(why) = fault_of_dates(new, now) {
            return Some(why.to_owned());
        }
        let server = self.server.as_ref()?;
        (is_for(before, server) && !is_for(new, server)).then(|| format!("is not for {}", server.to_str()))
    }

    fn in_use(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.in_use.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Arc<CertifiedKey>> {
        self.in_use.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watched {
    fn mended(&mut self) {
        self.broken_since = None;
        self.broken_told = false;
        self.worse_told = false;
    }
}

/// Without the key.
impl std::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.files.fmt(f)
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.in_use())
    }
}

impl Files {
    fn found(&self) -> Found {
        [&self.certificate, &self.key]
            .map(|file| guarded::read_small(file).map_err(|error| error.to_string()))
    }

    /// The pair, which fits together.
    fn pair(&self, [certificate, key]: &Found) -> Result<Arc<CertifiedKey>, TlsError> {
        let chain = tls::chain(&self.certificate, certificate)?;
        let key = tls::private_key(&self.key, key)?;
        let pair = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider());
        let Files { certificate, key } = self.clone();
        pair.map(Arc::new).map_err(|why| TlsError::Pair { certificate, key, why })
    }
}

/// Until when a certificate holds, in Unix seconds. A verifier looks at the dates first, so one that asks after all
/// time is told.
pub fn ends_at(leaf: &CertificateDer<'_>) -> Option<i64> {
    match judged_at(leaf, AFTER_ALL_TIME)? {
        CertificateError::ExpiredContext { not_after, .. } => i64::try_from(not_after.as_secs()).ok(),
        _ => None,
    }
}

/// What a verifier that trusts nobody says of it first.
fn judged_at(leaf: &CertificateDer<'_>, at: Duration) -> Option<CertificateError> {
    let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().ok()?;
    let any_name = ServerName::from(std::net::IpAddr::from([127, 0, 0, 1]));
    match verifier.verify_server_cert(leaf, &[], &any_name, &[], UnixTime::since_unix_epoch(at)) {
        Err(Error::InvalidCertificate(error)) => Some(error),
        _ => None,
    }
}

fn fault_of_dates(leaf: &CertificateDer<'_>, now: i64) -> Option<&'static str> {
    match judged_at(leaf, Duration::from_secs(u64::try_from(now).unwrap_or(0)))? {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => Some("has expired"),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            Some("is not valid yet")
        }
        _ => None,
    }
}

fn is_for(leaf: &CertificateDer<'_>, server: &ServerName<'_>) -> bool {
    ParsedCertificate::try_from(leaf).is_ok_and(|leaf| verify_server_name(&leaf, server).is_ok())
}

fn server_name(hostname: &Domain) -> Option<ServerName<'static>> {
    match hostname.ip() {
        Some(ip) => Some(ServerName::from(ip)),
        None => ServerName::try_from(hostname.as_str().to_owned()).ok(),
    }
}

#[cfg(test)]
mod tests;
