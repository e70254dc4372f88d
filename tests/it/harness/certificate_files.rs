//! The files of a relay that are made for it: certificate, key, secrets.

use std::io::Write as _;
use std::path::Path;

/// A CA of its own.
pub struct Authority {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    pem: String,
}

/// A certificate for `localhost` with its key, in PEM.
pub struct Issued {
    pub certificate: String,
    pub key: String,
    pub der: Vec<u8>,
}

impl Authority {
    pub fn new() -> Authority {
        let ca_key = rcgen::KeyPair::generate().unwrap();
        let mut ca = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
        ca.distinguished_name.push(rcgen::DnType::CommonName, "Postrider test CA");
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        ca.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::CrlSign];
        let pem = ca.self_signed(&ca_key).unwrap().pem();
        Authority { issuer: rcgen::Issuer::new(ca, ca_key), pem }
    }

    pub fn pem(&self) -> &str {
        &self.pem
    }

    pub fn issue(&self) -> Issued {
        let key = rcgen::KeyPair::generate().unwrap();
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut leaf = rcgen::CertificateParams::new(names).unwrap();
        leaf.distinguished_name.push(rcgen::DnType::CommonName, "localhost");
        // OpenSSL in strict mode (Python 3.13) wants these.
        leaf.use_authority_key_identifier_extension = true;
        leaf.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
        let leaf = leaf.signed_by(&key, &self.issuer).unwrap();
        Issued { certificate: leaf.pem(), key: key.serialize_pem(), der: leaf.der().to_vec() }
    }
}

impl Issued {
    /// As the files of a relay.
    pub fn write(&self, folder: &Path) {
        std::fs::write(folder.join("cert.pem"), &self.certificate).unwrap();
        write_secret(&folder.join("key.pem"), &self.key);
    }
}

/// Writes a certificate and key for `localhost`, and the CA that vouches for it, as PEM files.
pub fn write(folder: &Path) {
    let authority = Authority::new();
    std::fs::write(folder.join("ca.pem"), authority.pem()).unwrap();
    authority.issue().write(folder);
}

/// Writes a file that only its owner may read.
pub fn write_secret(file: &Path, text: &str) {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut file =
        std::fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(file).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}
