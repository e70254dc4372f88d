//! CRAM-MD5 (RFC 2195), the server's side: a challenge out, a response in. Pure; what is kept
//! of the password and checks the digest is `sasl/cram_md5.rs`.

/// What a client sends back: its name and the HMAC-MD5 of the challenge under its password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::submission) struct Response {
    pub(super) name: String,
    pub(super) challenge: String,
    pub(super) digest: [u8; 16],
}

/// RFC 2195 §2: in the form of a message id, never the same twice. (The nonce makes it so; the time of day
/// that the RFC puts there as well would add nothing.)
pub(super) fn challenge(nonce: &str, hostname: &str) -> String {
    format!("<{nonce}@{hostname}>")
}

impl Response {
    /// Whose it claims to be.
    pub(in crate::submission) fn name(&self) -> &str {
        &self.name
    }

    /// `name SP digest`, the digest in hexadecimal (lower case in the RFC; upper case is read too).
    pub(super) fn read(response: &[u8], challenge: String) -> Option<Response> {
        let (name, digest) = std::str::from_utf8(response).ok()?.rsplit_once(' ')?;
        let is_hex = digest.bytes().all(|byte| byte.is_ascii_hexdigit());
        let digest = u128::from_str_radix(digest, 16).ok().filter(|_| is_hex && digest.len() == 32)?;
        Some(Response { name: name.to_owned(), challenge, digest: digest.to_be_bytes() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_is_a_name_and_32_hexadecimal_digits() {
        let read = |text: &str| Response::read(text.as_bytes(), String::new());
        let response = read("tim b913a602c7eda7a495b4e6e7334d3890").unwrap();
        assert_eq!(response.name, "tim");
        assert_eq!(response.digest[..4], [0xb9, 0x13, 0xa6, 0x02]);
        assert_eq!(read("tim B913A602C7EDA7A495B4E6E7334D3890").unwrap().digest, response.digest);
        assert_eq!(read("a b b913a602c7eda7a495b4e6e7334d3890").unwrap().name, "a b");
        for bent in [
            "",
            "tim",
            "tim ",
            "tim b913a602c7eda7a495b4e6e7334d389",
            "tim b913a602c7eda7a495b4e6e7334d38900",
            "tim +913a602c7eda7a495b4e6e7334d3890",
            "tim x913a602c7eda7a495b4e6e7334d3890",
            "timb913a602c7eda7a495b4e6e7334d3890",
        ] {
            assert_eq!(read(bent), None, "{bent}");
        }
        assert_eq!(Response::read(b"\xff b913a602c7eda7a495b4e6e7334d3890", String::new()), None);
    }
}
