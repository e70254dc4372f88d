//! Who may ask: at an IP address whoever knows the token, or on loopback without one whoever asks this machine by its
//! own name; at a socket in the file system whoever may connect there.

use std::io;
use std::path::Path;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{Digest, SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::config::{ListenAddress, TOKEN_BYTES_MIN, first_line};

use super::request::Request;
use super::response::{Response, Status};

/// From where a listener is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReachedFrom {
    /// A socket in the file system, which says who may connect.
    FileSystem,
    /// This machine.
    Loopback,
    /// Other machines.
    Elsewhere,
}

impl ReachedFrom {
    pub(super) fn of(address: &ListenAddress) -> ReachedFrom {
        match address {
            ListenAddress::Unix(_) => ReachedFrom::FileSystem,
            ListenAddress::Ip(ip) if ip.ip().is_loopback() => ReachedFrom::Loopback,
            ListenAddress::Ip(_) => ReachedFrom::Elsewhere,
        }
    }
}

/// The token, as its digest: two of them take the same time to compare, whatever their tokens' lengths.
#[derive(Clone)]
pub(super) struct Token(Digest);

impl Token {
    /// From the first line of a file.
    ///
    /// # Errors
    /// It cannot be read, or holds none.
    pub(super) fn read(path: &Path) -> io::Result<Token> {
        let token = first_line(path)?
            .map(|line| line.trim().to_owned())
            .filter(|token| token.len() >= TOKEN_BYTES_MIN);
        let none = || io::Error::new(io::ErrorKind::InvalidData, "it has no token in its first line");
        token.map(|token| Token(digest(&SHA256, token.as_bytes()))).ok_or_else(none)
    }

    fn is(&self, given: &[u8]) -> bool {
        verify_slices_are_equal(self.0.as_ref(), digest(&SHA256, given).as_ref()).is_ok()
    }
}

/// None: the answer may be given.
pub(super) fn refusal(request: &Request, reached: ReachedFrom, token: Option<&Token>) -> Option<Response> {
    match token {
        _ if reached == ReachedFrom::FileSystem => None,
        Some(token) if given(request).is_some_and(|given| token.is(&given)) => None,
        // Without a token nothing listens there any more: this connection is older than the reload that closed it.
        None if reached == ReachedFrom::Elsewhere => Some(unauthorized()),
        Some(_) => Some(unauthorized()),
        None if request.is_for_this_machine() => None,
        None => Some(Response::text(
            Status::Misdirected,
            "without [metrics] token_file this answers to localhost and to IP addresses, not to other names\n",
        )),
    }
}

fn unauthorized() -> Response {
    Response::text(Status::Unauthorized, "the token in [metrics] token_file is asked for\n")
        .with("WWW-Authenticate", "Bearer realm=\"postrider\"")
        // For people: a browser asks for a name and a password, and the password is the token.
        .with("WWW-Authenticate", "Basic realm=\"postrider\", charset=\"UTF-8\"")
}

/// RFC 6750 §2.1, or the password of RFC 7617.
fn given(request: &Request) -> Option<Vec<u8>> {
    let (scheme, rest) = request.authorization.as_ref()?.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(rest.trim().as_bytes().to_owned());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = STANDARD.decode(rest.trim()).ok()?;
    let colon = decoded.iter().position(|byte| *byte == b':')?;
    Some(decoded[colon + 1..].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef";

    fn asked(host: &str, authorization: Option<&str>) -> Request {
        Request {
            path: "/".to_owned(),
            is_head: false,
            host: Some(host.to_owned()),
            accept: None,
            authorization: authorization.map(str::to_owned),
        }
    }

    #[test]
    fn a_token_opens_and_nothing_like_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        // A blank behind it is seen by nobody, and no client sends it.
        std::fs::write(file.path(), format!("{TOKEN} \n")).unwrap();
        let token = Token::read(file.path()).unwrap();
        let opens = |field: &str| {
            refusal(&asked("any.test", Some(field)), ReachedFrom::Elsewhere, Some(&token)).is_none()
        };
        let basic = |text: &str| format!("Basic {}", STANDARD.encode(text));
        for field in [format!("Bearer {TOKEN}"), format!("bEARER  {TOKEN} "), basic(&format!("me:{TOKEN}"))] {
            assert!(opens(&field), "{field}");
        }
        for field in [
            TOKEN.to_owned(),
            "Bearer".to_owned(),
            "Bearer ".to_owned(),
            format!("Bearer {TOKEN}0"),
            format!("Bearer {}", &TOKEN[1..]),
            format!("Digest {TOKEN}"),
            basic(TOKEN),
            basic(&format!("{TOKEN}:")),
            "Basic %%%".to_owned(),
        ] {
            assert!(!opens(&field), "{field}");
        }
        assert!(
            refusal(&asked("127.0.0.1", None), ReachedFrom::Loopback, Some(&token)).is_some(),
            "from loopback too"
        );
        assert!(
            refusal(&asked("any.test", None), ReachedFrom::FileSystem, Some(&token)).is_none(),
            "the file system says who may"
        );
        std::fs::write(file.path(), "short\n").unwrap();
        assert!(Token::read(file.path()).is_err());
    }

    #[test]
    fn without_a_token_no_other_name_leads_here() {
        let is_refused = |host: &str, reached| refusal(&asked(host, None), reached, None).is_some();
        assert!(!is_refused("localhost:9587", ReachedFrom::Loopback));
        assert!(is_refused("evil.test", ReachedFrom::Loopback));
        assert!(!is_refused("evil.test", ReachedFrom::FileSystem));
        assert!(is_refused("localhost:9587", ReachedFrom::Elsewhere), "a token is gone, a connection is not");
    }
}
