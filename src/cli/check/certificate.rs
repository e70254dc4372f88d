//! The certificate and its key, as `serve` will use them: whether they can be read, belong
//! together, hold now and for the hostname, and until when.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, Error, RootCertStore};

use super::Finding;
use crate::config::CertificateSettings;
use crate::kit::text;
use crate::mail::Domain;
use crate::submission::certificate::{ENDS_SOON_SECS, ends_at};

const ABOUT: &str = "certificate";

/// Looks at `[tls]`.
pub(in crate::cli) fn look_at(tls: &CertificateSettings, hostname: &Domain) -> Vec<Finding> {
    match tls {
        CertificateSettings::SelfSigned { directory } => {
            let text = format!("self-signed, made at the first start and kept in ./{}/", directory.display());
            vec![Finding::ok(ABOUT, text)]
        }
        CertificateSettings::Files { certificate, key } => {
            let mut findings =
                files(certificate, key, hostname).unwrap_or_else(|what| vec![Finding::problem(ABOUT, what)]);
            let mode = std::fs::metadata(key).map_or(0, |metadata| metadata.permissions().mode());
            if mode & 0o007 != 0 {
                let name = key.display();
                let text = format!("{name} can be read by every user of this machine; chmod o= {name}");
                findings.push(Finding::warning(ABOUT, text));
            }
            findings
        }
    }
}

/// What a client that verifies would use.
fn verifier(provider: Arc<CryptoProvider>) -> Result<Arc<WebPkiServerVerifier>, String> {
    let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|error| error.to_string())
}

fn files(certificate: &Path, key: &Path, hostname: &Domain) -> Result<Vec<Finding>, String> {
    let name = certificate.display();
    // To open another kind of file could take for ever.
    let is_other = |path: &&Path| path.metadata().is_ok_and(|found| !found.is_file());
    if let Some(other) = [certificate, key].into_iter().find(is_other) {
        return Err(format!("{} is no regular file; tls.certificate and tls.key must be", other.display()));
    }
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .map_err(|error| format!("{name} cannot be read: {error}; tls.certificate must be PEM"))?;
    let Some((leaf, issuers)) = chain.split_first() else {
        return Err(format!("{name} holds no certificate; tls.certificate must be PEM, the leaf first"));
    };
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| {
        format!("{} cannot be read: {error}; tls.key must be a PEM private key", key.display())
    })?;
    let provider = aws_lc_rs::default_provider();
    CertifiedKey::from_der(chain.clone(), private, &provider).map_err(|error| match error {
        Error::InconsistentKeys(_) => not_the_key(&chain, certificate, key, &provider),
        error => format!("{name} and {} cannot be used: {error}", key.display()),
    })?;
    let provider = Arc::new(provider);
    let mut findings = judge(leaf, issuers, hostname, Arc::clone(&provider), UnixTime::now())
        .map_err(|error| format!("{name} cannot be judged: {error}"))?;
    findings.extend(out_of_order(leaf, issuers, &provider).map(|text| Finding::warning(ABOUT, text)));
    Ok(findings.into_iter().map(|f| Finding { text: format!("{name} {}", f.text), ..f }).collect())
}

/// The first certificate of the file is not that of the key; another one may be.
fn not_the_key(
    chain: &[CertificateDer<'static>],
    certificate: &Path,
    key: &Path,
    provider: &CryptoProvider,
) -> String {
    let (name, key_name) = (certificate.display(), key.display());
    let belongs = |one: &CertificateDer<'static>| {
        let private = PrivateKeyDer::from_pem_file(key).ok();
        private.is_some_and(|private| CertifiedKey::from_der(vec![one.clone()], private, provider).is_ok())
    };
    match chain.iter().position(belongs) {
        Some(at) => format!(
            "{name} has its certificates in the wrong order: that of {key_name} is number {} of {}; put it first, and \
             behind each the one that signed it",
            at + 1,
            chain.len()
        ),
        None => format!("{key_name} is not the key of {name}; give the pair that was issued together"),
    }
}

/// RFC 8446 §4.4.2: each certificate should be signed by the next. Many clients sort them out, some do not.
fn out_of_order(
    leaf: &CertificateDer<'_>,
    issuers: &[CertificateDer<'_>],
    provider: &Arc<CryptoProvider>,
) -> Option<String> {
    let unsigned = (0..issuers.len()).find(|&at| {
        let mut roots = RootCertStore::empty();
        // Whether the leaf leads to this one, by those before it. What cannot be a root signs nothing.
        if roots.add(issuers[at].clone().into_owned()).is_err() {
            return true;
        }
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider)).build();
        let any_name = ServerName::from(std::net::IpAddr::from([127, 0, 0, 1]));
        let verified = verifier
            .map(|it| it.verify_server_cert(leaf, &issuers[..at], &any_name, &[], UnixTime::now()).err());
        matches!(
            verified,
            Ok(Some(Error::InvalidCertificate(
                CertificateError::UnknownIssuer | CertificateError::BadSignature
            )))
        )
    })?;
    Some(format!(
        "has its certificates in the wrong order: number {} did not sign the one before it; put the server's own first, \
         and behind each the one that signed it",
        unsigned + 2
    ))
}

/// What a client that verifies would think of the certificate at `now`.
fn judge(
    leaf: &CertificateDer<'_>,
    issuers: &[CertificateDer<'_>],
    hostname: &Domain,
    provider: Arc<CryptoProvider>,
    now: UnixTime,
) -> Result<Vec<Finding>, String> {
    let verifier = verifier(provider)?;
    let server = hostname.ip().map_or_else(
        || ServerName::try_from(hostname.as_str().to_owned()).ok(),
        |ip| Some(ServerName::from(ip)),
    );
    // Dates do not depend on the name: any will do where the hostname is none that TLS knows.
    let asked = server.clone().unwrap_or(ServerName::from(std::net::IpAddr::from([127, 0, 0, 1])));
    let verify = |at| verifier.verify_server_cert(leaf, issuers, &asked, &[], at).map(drop);
    let until = ends_at(leaf);
    let ends = until.map_or_else(|| "it is not known when".to_owned(), text::day);
    let mut findings = Vec::new();
    match verify(now) {
        Err(Error::InvalidCertificate(
            CertificateError::ExpiredContext { .. } | CertificateError::Expired,
        )) => {
            findings.push(Finding::problem(ABOUT, format!("expired on {ends}; renew it")));
        }
        Err(Error::InvalidCertificate(CertificateError::NotValidYetContext { not_before, .. })) => {
            let text = format!("is not valid before {}; check the clock, or wait", day(not_before));
            findings.push(Finding::problem(ABOUT, text));
        }
        _ => findings.push(match until.map(|until| until.saturating_sub_unsigned(now.as_secs()) / 86_400) {
            Some(days) if days < ENDS_SOON_SECS / 86_400 => {
                Finding::warning(ABOUT, format!("holds until {ends}, for {days} days more; renew it"))
            }
            _ => Finding::ok(ABOUT, format!("holds until {ends}")),
        }),
    }
    if let Some(trouble) = trouble_with_name(leaf, server.as_ref(), hostname) {
        findings.push(Finding::warning(ABOUT, trouble));
    }
    Ok(findings)
}

fn trouble_with_name(
    leaf: &CertificateDer<'_>,
    server: Option<&ServerName<'_>>,
    hostname: &Domain,
) -> Option<String> {
    let parsed = rustls::server::ParsedCertificate::try_from(leaf).ok()?;
    let holds = server.is_some_and(|server| rustls::client::verify_server_name(&parsed, server).is_ok());
    (!holds).then(|| {
        format!("does not hold for {hostname}; clients that verify and connect by that name will refuse it")
    })
}

fn day(at: UnixTime) -> String {
    text::day(i64::try_from(at.as_secs()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cli::check::Level;

    const NAME: &str = "relay.example.com";

    struct Pair {
        dir: tempfile::TempDir,
        leaf: CertificateDer<'static>,
    }

    /// A self-signed certificate for [`NAME`] in files, that holds from 2020 to the end of 2029.
    fn pair() -> Pair {
        let mut params = rcgen::CertificateParams::new(vec![NAME.to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2030, 1, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("cert.pem"), certificate.pem()).unwrap();
        std::fs::write(dir.path().join("key.pem"), key.serialize_pem()).unwrap();
        std::fs::set_permissions(dir.path().join("key.pem"), std::fs::Permissions::from_mode(0o600)).unwrap();
        Pair { dir, leaf: certificate.der().clone() }
    }

    fn at(pair: &Pair, date: &str, hostname: &str) -> Vec<(Level, String)> {
        let timestamp: jiff::Timestamp = format!("{date}T00:00:00Z").parse().unwrap();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(timestamp.as_second() as u64));
        let provider = Arc::new(aws_lc_rs::default_provider());
        let findings = judge(&pair.leaf, &[], &Domain::parse(hostname).unwrap(), provider, now).unwrap();
        findings.into_iter().map(|finding| (finding.level, finding.text)).collect()
    }

    #[test]
    fn the_end_of_a_certificate_is_told_in_time() {
        let pair = pair();
        let one = |level, text: &str| vec![(level, text.to_owned())];
        assert_eq!(at(&pair, "2026-01-01", NAME), one(Level::Ok, "holds until 2030-01-01"));
        let soon = "holds until 2030-01-01, for 13 days more; renew it";
        assert_eq!(at(&pair, "2029-12-19", NAME), one(Level::Warning, soon));
        assert_eq!(at(&pair, "2030-01-02", NAME), one(Level::Problem, "expired on 2030-01-01; renew it"));
        let early = "is not valid before 2020-01-01; check the clock, or wait";
        assert_eq!(at(&pair, "2019-12-31", NAME), one(Level::Problem, early));
    }

    #[test]
    fn another_hostname_is_a_warning() {
        let findings = at(&pair(), "2026-01-01", "other.example.com");
        assert_eq!(findings[1].0, Level::Warning);
        assert!(findings[1].1.starts_with("does not hold for other.example.com"), "{findings:?}");
    }

    #[test]
    fn files_that_do_not_fit_are_told() {
        let (one, other) = (pair(), pair());
        let look = |certificate: &Path, key: &Path| {
            let settings = CertificateSettings::Files { certificate: certificate.into(), key: key.into() };
            look_at(&settings, &Domain::parse(NAME).unwrap()).remove(0)
        };
        let (certificate, key) = (one.dir.path().join("cert.pem"), one.dir.path().join("key.pem"));
        assert_eq!(look(&certificate, &key).level, Level::Ok);
        let strange = look(&certificate, &other.dir.path().join("key.pem"));
        assert!(strange.text.contains("is not the key of"), "{strange:?}");
        assert_eq!(strange.level, Level::Problem);
        for (certificate, key, text) in [
            (&key, &key, "holds no certificate"),
            (&certificate, &certificate, "tls.key must be a PEM private key"),
            (&one.dir.path().join("none"), &key, "cannot be read"),
        ] {
            let finding = look(certificate, key);
            assert!(finding.text.contains(text) && finding.level == Level::Problem, "{finding:?}");
        }
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
        let settings = CertificateSettings::Files { certificate, key };
        let findings = look_at(&settings, &Domain::parse(NAME).unwrap());
        assert!(findings[1].text.contains("can be read by every user"), "{findings:?}");
    }
}
