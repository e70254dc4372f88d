//! SCRAM-SHA-256 (RFC 5802, RFC 7677): keys, proofs and names, and the channel binding to a TLS connection (RFC 9266).
//! Pure.
//!
//! Passwords are used as bytes. For printable ASCII that is what SASLprep (RFC 4013) gives; other text is not
//! normalized.

use std::num::NonZeroU32;

use aws_lc_rs::{constant_time, digest, hmac, pbkdf2};
use rustls::{ConnectionCommon, ProtocolVersion};

pub(crate) const KEY_BYTES: usize = digest::SHA256_OUTPUT_LEN;

/// A value that only the two ends of one TLS connection know (RFC 9266 §2).
pub(crate) type ChannelBinding = [u8; 32];

/// The only type of channel binding here. `tls-unique` does not exist in TLS 1.3, and `tls-server-end-point` binds
/// to a certificate, not to the connection.
pub(crate) const BINDING_TYPE: &str = "tls-exporter";

/// The channel binding of a connection. None before TLS 1.3: it would need an extended master secret (RFC 7627), and
/// rustls does not say whether there is one.
pub(crate) fn channel_binding<Side>(tls: &ConnectionCommon<Side>) -> Option<ChannelBinding> {
    let is_tls13 = tls.protocol_version() == Some(ProtocolVersion::TLSv1_3);
    is_tls13
        .then(|| tls.export_keying_material([0; 32], b"EXPORTER-Channel-Binding", Some(b"")).ok())
        .flatten()
}

/// RFC 7677 §4: fewer iterations make guessing too cheap.
pub(crate) const ITERATIONS_MIN: u32 = 4096;
/// A mistake in a file, or a hostile server, must not make a login take minutes.
pub(crate) const ITERATIONS_MAX: u32 = 1_000_000;

/// The keys of a password with a salt (RFC 5802 §3).
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Keys {
    client: [u8; KEY_BYTES],
    pub(crate) stored: [u8; KEY_BYTES],
    pub(crate) server: [u8; KEY_BYTES],
}

impl Keys {
    /// Slow by design: some 10 ms for 40,000 iterations.
    pub(crate) fn derive(password: &[u8], salt: &[u8], iterations: NonZeroU32) -> Keys {
        let mut salted = [0; KEY_BYTES];
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, salt, password, &mut salted);
        let client = tag(&salted, b"Client Key");
        let mut stored = [0; KEY_BYTES];
        stored.copy_from_slice(digest::digest(&digest::SHA256, &client).as_ref());
        Keys { client, stored, server: tag(&salted, b"Server Key") }
    }

    /// ClientProof, which shows a server that the client has the password:
    /// `ClientKey XOR HMAC(StoredKey, AuthMessage)`.
    pub(crate) fn proof(&self, auth_message: &[u8]) -> [u8; KEY_BYTES] {
        xor(self.client, &tag(&self.stored, auth_message))
    }
}

/// Whether a ClientProof is right: `H(ClientProof XOR HMAC(StoredKey, AuthMessage)) = StoredKey`. In constant time.
pub(crate) fn is_proven(stored_key: &[u8; KEY_BYTES], auth_message: &[u8], proof: &[u8]) -> bool {
    let client_key = xor(tag(stored_key, auth_message), proof);
    let hashed = digest::digest(&digest::SHA256, &client_key);
    let same = constant_time::verify_slices_are_equal(hashed.as_ref(), stored_key).is_ok();
    same && proof.len() == KEY_BYTES
}

/// ServerSignature, which shows a client that the server knows the password: `HMAC(ServerKey, AuthMessage)`.
pub(crate) fn signature(server_key: &[u8; KEY_BYTES], auth_message: &[u8]) -> [u8; KEY_BYTES] {
    tag(server_key, auth_message)
}

fn xor(mut bytes: [u8; KEY_BYTES], with: &[u8]) -> [u8; KEY_BYTES] {
    bytes.iter_mut().zip(with).for_each(|(byte, with)| *byte ^= with);
    bytes
}

fn tag(key: &[u8], data: &[u8]) -> [u8; KEY_BYTES] {
    let mut bytes = [0; KEY_BYTES];
    bytes.copy_from_slice(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), data).as_ref());
    bytes
}

/// RFC 5802 §5.1: in a name "," is written "=2C" and "=" is written "=3D".
pub(crate) fn escaped(name: &str) -> String {
    name.replace('=', "=3D").replace(',', "=2C")
}

/// Reads what [`escaped`] writes; none for other text and for an empty name.
pub(crate) fn unescaped(text: &str) -> Option<String> {
    let mut parts = text.split('=');
    let mut name = parts.next()?.to_owned();
    for part in parts {
        let (decoded, rest) = match part.split_at_checked(2)? {
            ("2C", rest) => (',', rest),
            ("3D", rest) => ('=', rest),
            _ => return None,
        };
        name.push(decoded);
        name.push_str(rest);
    }
    (!name.is_empty()).then_some(name)
}

/// RFC 5802 §7: printable ASCII without the comma.
pub(crate) fn is_nonce(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',')
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    /// RFC 7677 §3: user "user", password "pencil", the proof that its client sends and its server's signature.
    #[test]
    fn the_example_of_rfc_7677() {
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let keys = Keys::derive(b"pencil", &salt, NonZeroU32::new(4096).unwrap());
        let nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let auth_message = format!(
            "n=user,r=rOprNGfwEbeRWgbNEkqO,r={nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r={nonce}"
        );
        let said = auth_message.as_bytes();
        let proof = STANDARD.decode("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=").unwrap();
        assert_eq!(keys.proof(said)[..], proof);
        assert!(is_proven(&keys.stored, said, &proof));
        assert!(!is_proven(&keys.stored, said, &proof[..31]));
        assert!(!is_proven(&keys.stored, b"another", &proof));
        let server = STANDARD.encode(signature(&keys.server, said));
        assert_eq!(server, "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
    }

    #[test]
    fn names_are_escaped_and_read_back() {
        for (name, text) in [("user", "user"), ("a,b=", "a=2Cb=3D"), ("=2C", "=3D2C"), ("jürgen", "jürgen")]
        {
            assert_eq!(escaped(name), text);
            assert_eq!(unescaped(text).as_deref(), Some(name));
        }
        for bent in ["", "us=er", "us=2cer", "=", "=2"] {
            assert_eq!(unescaped(bent), None, "{bent}");
        }
    }
}
