//! The files of a relay that are made for it: certificate, key, secrets.

use std::io::Write as _;
use std::path::Path;

/// Writes a certificate and key for `localhost`, and the CA that vouches for it, as PEM files.
pub fn write(folder: &Path) {
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
    ca.distinguished_name.push(rcgen::DnType::CommonName, "Postrider test CA");
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    ca.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::CrlSign];
    std::fs::write(folder.join("ca.pem"), ca.self_signed(&ca_key).unwrap().pem()).unwrap();
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let mut leaf = rcgen::CertificateParams::new(names).unwrap();
    leaf.distinguished_name.push(rcgen::DnType::CommonName, "localhost");
    // OpenSSL in strict mode (Python 3.13) wants these.
    leaf.use_authority_key_identifier_extension = true;
    leaf.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let leaf = leaf.signed_by(&key, &issuer).unwrap();
    std::fs::write(folder.join("cert.pem"), leaf.pem()).unwrap();
    write_secret(&folder.join("key.pem"), &key.serialize_pem());
}

/// Writes a file that only its owner may read.
pub fn write_secret(file: &Path, text: &str) {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut file =
        std::fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(file).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}
