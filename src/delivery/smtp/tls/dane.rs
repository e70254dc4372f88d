//! DANE for SMTP (RFC 7672): which TLSA records can be used, and the verifier that holds a certificate against them.
//!
//! Usage 3 (DANE-EE) is the host's own certificate or key: names and dates in it do not count (RFC 7672 §3.1.1). Usage
//! 2 (DANE-TA) is an authority's: the chain from the host's certificate to it must hold, and so must its names and
//! dates (§3.1.2). Usages 0 and 1 say nothing in SMTP (§3.1.3). Of the digests of one kind of record only the strongest
//! counts (RFC 7671 §9). That the host has the key of its certificate is checked as ever.
//!
//! # Bugs
//! The names of a certificate are those of its subjectAltName; a common name alone, which RFC 7672 §3.2.2 lets count
//! where there is none, does not.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, SHA512, digest};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, Der, ServerName, TrustAnchor, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, SignatureScheme};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

/// With how many authorities a host's chain is tried. A host chooses the certificates that it sends and the records
/// that they match; each try may cost a hundred signature checks.
const ANCHORS_MAX: usize = 16;

/// A TLSA record as it stands in DNS (RFC 6698 §2.1).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TlsaRecord {
    /// Certificate usage.
    pub usage: u8,
    /// Selector: 0 the certificate, 1 its public key.
    pub selector: u8,
    /// Matching type: 0 as it is, 1 its SHA-256, 2 its SHA-512.
    pub matching: u8,
    /// What is compared.
    pub data: Vec<u8>,
}

impl TlsaRecord {
    /// `3 1 1` of this certificate, which a new one with the same key leaves as it is (RFC 7671 §5.1).
    ///
    /// None of what is no certificate.
    pub fn of_key(certificate: &CertificateDer<'_>) -> Option<TlsaRecord> {
        let key = EndEntityCert::try_from(certificate).ok()?.subject_public_key_info();
        let data = digest(&SHA256, &key).as_ref().to_vec();
        Some(TlsaRecord { usage: 3, selector: 1, matching: 1, data })
    }

    /// All of it, as in a zone file.
    pub fn zone_data(&self) -> String {
        let data: String = self.data.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{} {} {} {data}", self.usage, self.selector, self.matching)
    }

    /// Whether a client can do anything with it (RFC 7672 §3.1, RFC 7671 §4).
    fn is_usable(&self) -> bool {
        let is_known = matches!(self.usage, 2 | 3) && matches!(self.selector, 0 | 1);
        is_known
            && match self.matching {
                0 => !self.data.is_empty(),
                1 => self.data.len() == 32,
                2 => self.data.len() == 64,
                _ => false,
            }
    }

    /// Whether this certificate is the one that is meant, whatever the usage.
    fn matches(&self, certificate: &CertificateDer<'_>) -> bool {
        let key;
        let selected: &[u8] = match self.selector {
            0 => certificate,
            _ => {
                let Ok(parsed) = EndEntityCert::try_from(certificate) else { return false };
                key = parsed.subject_public_key_info();
                &key
            }
        };
        match self.matching {
            0 => selected == self.data,
            1 => digest(&SHA256, selected).as_ref() == self.data,
            _ => digest(&SHA512, selected).as_ref() == self.data,
        }
    }
}

impl fmt::Display for TlsaRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} ", self.usage, self.selector, self.matching)?;
        self.data.iter().take(8).try_for_each(|byte| write!(f, "{byte:02x}"))?;
        if self.data.len() > 8 { f.write_str("…") } else { Ok(()) }
    }
}

/// What a host must prove. Two are equal where the same is to be proved: mail of either may go over one connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tlsa {
    /// The TLSA base domain, which goes into SNI (RFC 7672 §8.1).
    pub base: String,
    /// Names of which a certificate under usage 2 must have one; none where there is no such record.
    pub names: Vec<String>,
    /// The records that count, in an order of their own: DNS servers turn theirs round.
    records: Vec<TlsaRecord>,
}

impl Tlsa {
    /// Of these records; none where not one of them can be used.
    pub fn new(base: String, mut names: Vec<String>, mut records: Vec<TlsaRecord>) -> Option<Tlsa> {
        records.retain(TlsaRecord::is_usable);
        let strong: Vec<(u8, u8)> = records
            .iter()
            .filter(|record| record.matching == 2)
            .map(|record| (record.usage, record.selector))
            .collect();
        // RFC 7671 §9: a weaker digest is no way round a stronger one.
        records.retain(|record| record.matching != 1 || !strong.contains(&(record.usage, record.selector)));
        records.sort();
        if records.iter().all(|record| record.usage != 2) {
            names.clear();
        }
        (!records.is_empty()).then_some(Tlsa { base, names, records })
    }

    /// Those that count.
    pub fn records(&self) -> &[TlsaRecord] {
        &self.records
    }

    /// # Errors
    /// None of the records holds for this chain.
    pub fn check(
        &self,
        host: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Mismatch> {
        if self.records.iter().any(|record| record.usage == 3 && record.matches(host)) {
            return Ok(());
        }
        let mut worst = Mismatch::NoneMatches;
        for anchor in self.anchors(host, chain) {
            match self.leads_to(&anchor, host, chain, now) {
                Ok(()) => return Ok(()),
                Err(why) => worst = why,
            }
        }
        Err(worst)
    }

    /// The authorities that the records mean, each once.
    fn anchors<'a>(
        &'a self,
        host: &'a CertificateDer<'a>,
        chain: &'a [CertificateDer<'a>],
    ) -> Vec<TrustAnchor<'a>> {
        let mut found: Vec<TrustAnchor<'a>> = Vec::new();
        for anchor in self
            .records
            .iter()
            .filter(|record| record.usage == 2)
            .flat_map(|record| anchors(record, host, chain))
        {
            let is_same = |other: &TrustAnchor<'_>| {
                (&other.subject, &other.subject_public_key_info)
                    == (&anchor.subject, &anchor.subject_public_key_info)
            };
            if !found.iter().any(is_same) {
                found.push(anchor);
            }
            if found.len() == ANCHORS_MAX {
                break;
            }
        }
        found
    }

    /// Whether the host's certificate holds for one of its names, by a chain that ends at this authority.
    fn leads_to(
        &self,
        anchor: &TrustAnchor<'_>,
        host: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Mismatch> {
        let words = |error: webpki::Error| match error {
            webpki::Error::CertExpired { .. } | webpki::Error::CertNotValidYet { .. } => {
                Mismatch::OutOfDate(error.to_string())
            }
            _ => Mismatch::Chain(error.to_string()),
        };
        let parsed = EndEntityCert::try_from(host).map_err(words)?;
        let algorithms = default_provider().signature_verification_algorithms.all;
        let (anchors, usage) = (std::slice::from_ref(anchor), KeyUsage::server_auth());
        parsed.verify_for_usage(algorithms, anchors, chain, now, usage, None, None).map_err(words)?;
        let holds_for = |name: &String| {
            ServerName::try_from(name.as_str())
                .is_ok_and(|name| parsed.verify_is_valid_for_subject_name(&name).is_ok())
        };
        if self.names.iter().any(holds_for) { Ok(()) } else { Err(Mismatch::Name(self.names.join(", "))) }
    }
}

/// The authorities that a record of usage 2 means: of the chain that the host sends, or, where the record has a whole
/// certificate or key, of the record itself (RFC 7671 §5.2.1, §5.2.2).
fn anchors<'a>(
    record: &'a TlsaRecord,
    host: &'a CertificateDer<'a>,
    chain: &'a [CertificateDer<'a>],
) -> Vec<TrustAnchor<'a>> {
    let sent = chain.iter().filter(|certificate| record.matches(certificate));
    let mut found: Vec<TrustAnchor<'a>> = sent.filter_map(|one| anchor_from_trusted_cert(one).ok()).collect();
    if record.matching == 0 && record.selector == 0 {
        let whole = CertificateDer::from(record.data.as_slice());
        found.extend(anchor_from_trusted_cert(&whole).ok().map(|anchor| anchor.to_owned()));
    }
    if record.matching == 0
        && record.selector == 1
        && let Some(key) = inside_sequence(&record.data)
    {
        // Whoever issued one of these is meant to have this key; the signature shows whether that is so.
        let issuers = chain
            .iter()
            .chain([host])
            .filter_map(|certificate| Some(EndEntityCert::try_from(certificate).ok()?.issuer().to_vec()));
        found.extend(issuers.map(|issuer| TrustAnchor {
            subject: Der::from(issuer),
            subject_public_key_info: Der::from_slice(key),
            name_constraints: None,
        }));
    }
    found
}

/// The content of a DER SEQUENCE that is all of this.
fn inside_sequence(der: &[u8]) -> Option<&[u8]> {
    let (&[tag, short], rest) = der.split_first_chunk::<2>()?;
    let (length, rest) = match short {
        0..=0x7f => (usize::from(short), rest),
        0x81 => (usize::from(*rest.first()?), rest.get(1..)?),
        0x82 => {
            let (bytes, rest) = rest.split_first_chunk::<2>()?;
            (usize::from(u16::from_be_bytes(*bytes)), rest)
        }
        _ => return None,
    };
    (tag == 0x30 && rest.len() == length).then_some(rest)
}

/// Why a certificate is not the one that the TLSA records mean.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// It is another one.
    #[error("the host's certificate matches none of its TLSA records")]
    NoneMatches,
    /// The authority is the right one, and the chain to it does not hold.
    #[error("the host's certificate does not hold under the authority of its TLSA records: {0}")]
    Chain(String),
    /// The same for now: a certificate of it has expired, or begins later.
    #[error("the host's certificate does not hold under the authority of its TLSA records: {0}")]
    OutOfDate(String),
    /// All is well but the name.
    #[error("the host's certificate is for none of the names {0}")]
    Name(String),
}

impl Mismatch {
    /// What is in an error of the handshake, where it is one of these.
    pub(in crate::delivery) fn in_error(error: &Error) -> Option<Mismatch> {
        match error {
            Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) => {
                inner.downcast_ref::<Mismatch>().cloned()
            }
            _ => None,
        }
    }
}

/// Holds the certificate of one host against its TLSA records.
#[derive(Debug)]
pub(super) struct ByTlsa {
    pub(super) tlsa: Arc<Tlsa>,
    /// For signatures of the handshake.
    pub(super) checks: Arc<WebPkiServerVerifier>,
}

impl ServerCertVerifier for ByTlsa {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self.tlsa.check(end_entity, intermediates, now) {
            Ok(()) => Ok(ServerCertVerified::assertion()),
            Err(why) => Err(CertificateError::Other(OtherError(Arc::new(why))).into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.checks.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.checks.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.checks.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(usage: u8, selector: u8, matching: u8, bytes: usize) -> TlsaRecord {
        TlsaRecord { usage, selector, matching, data: vec![7; bytes] }
    }

    /// Usage, selector and matching type of those that count; empty: none does.
    fn counted(records: Vec<TlsaRecord>) -> Vec<(u8, u8, u8)> {
        let tlsa = Tlsa::new("mx.test".to_owned(), Vec::new(), records);
        let of = |record: &TlsaRecord| (record.usage, record.selector, record.matching);
        tlsa.map_or_else(Vec::new, |tlsa| tlsa.records().iter().map(of).collect())
    }

    #[test]
    fn of_all_records_those_count_that_smtp_knows() {
        for (unusable, why) in [
            (record(0, 1, 1, 32), "RFC 7672 §3.1.3"),
            (record(1, 1, 1, 32), "RFC 7672 §3.1.3"),
            (record(4, 1, 1, 32), "no such usage"),
            (record(3, 2, 1, 32), "no such selector"),
            (record(3, 1, 3, 32), "no such digest"),
            (record(3, 1, 1, 31), "too short for SHA-256"),
            (record(3, 1, 2, 32), "too short for SHA-512"),
            (record(3, 0, 0, 0), "nothing"),
        ] {
            assert_eq!(counted(vec![unusable.clone()]), [], "{why}");
            assert_eq!(counted(vec![unusable, record(3, 1, 1, 32)]), [(3, 1, 1)], "{why}");
        }
        // RFC 7671 §9, of each usage and selector by itself.
        let all = vec![
            record(3, 1, 1, 32),
            record(3, 1, 2, 64),
            record(3, 0, 1, 32),
            record(2, 1, 1, 32),
            record(3, 1, 0, 9),
        ];
        assert_eq!(counted(all), [(2, 1, 1), (3, 0, 1), (3, 1, 0), (3, 1, 2)]);
    }

    /// Domains of one host share its connections.
    #[test]
    fn what_two_domains_want_of_a_host_is_the_same_where_the_same_proves_it() {
        let of = |domain: &str, records: &[TlsaRecord]| {
            let names = vec!["mx.test".to_owned(), domain.to_owned()];
            Tlsa::new("mx.test".to_owned(), names, records.to_vec())
        };
        let (own, old) = (record(3, 1, 1, 32), record(3, 0, 1, 32));
        let by_authority = record(2, 1, 1, 32);
        assert_eq!(of("a.test", &[own.clone(), old.clone()]), of("b.test", &[old, own.clone()]));
        assert_ne!(of("a.test", &[own.clone(), by_authority.clone()]), of("b.test", &[own, by_authority]));
    }

    fn authority(number: usize) -> CertificateDer<'static> {
        let mut params = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, format!("CA {number}"));
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().into()
    }

    #[test]
    fn an_authority_is_tried_once_and_no_more_than_so_many_are() {
        let chain: Vec<CertificateDer<'_>> = (0..ANCHORS_MAX + 4).map(authority).collect();
        let means =
            |selector, matching, data: &[u8]| TlsaRecord { usage: 2, selector, matching, data: data.into() };
        let key_of =
            |ca: &CertificateDer<'_>| EndEntityCert::try_from(ca).unwrap().subject_public_key_info().to_vec();
        let tried = |chain: &[CertificateDer<'_>], records| {
            let tlsa = Tlsa::new("mx.test".to_owned(), vec!["mx.test".to_owned()], records).unwrap();
            tlsa.anchors(&chain[0], chain).len()
        };
        let all = |chain: &[CertificateDer<'_>]| chain.iter().map(|ca| means(0, 0, ca)).collect();
        assert_eq!(tried(&chain[..3], all(&chain[..3])), 3);
        assert_eq!(tried(&chain, all(&chain)), ANCHORS_MAX);
        let ca = &chain[0];
        let again = vec![
            means(0, 0, ca),
            means(0, 1, digest(&SHA256, ca).as_ref()),
            means(1, 1, digest(&SHA256, &key_of(ca)).as_ref()),
            means(1, 0, &key_of(ca)),
        ];
        assert_eq!(tried(&vec![ca.clone(); 180], again), 1);
        assert_eq!(
            tried(&chain, vec![means(1, 0, &key_of(ca))]),
            ANCHORS_MAX,
            "each issuer is tried with it"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn whatever_a_zone_or_a_host_sends_matches_nothing(
            usage in 0..5_u8, selector in 0..3_u8, matching in 0..4_u8,
            data in prop::collection::vec(any::<u8>(), 0..80),
            chain in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..4),
        ) {
            let record = TlsaRecord { usage, selector, matching, data };
            let chain: Vec<CertificateDer<'_>> = chain.into_iter().map(CertificateDer::from).collect();
            let Some(tlsa) = Tlsa::new("mx.test".to_owned(), vec!["mx.test".to_owned()], vec![record]) else { return Ok(()) };
            let is_itself = tlsa.records[0].data == *chain[0];
            prop_assert!(is_itself || tlsa.check(&chain[0], &chain[1..], UnixTime::now()).is_err());
        }
    }
}
