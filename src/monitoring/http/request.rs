//! A request as it comes, read into what is asked for; pure (RFC 9110, RFC 9112).
//!
//! GET and HEAD are known, and nothing has a body: a connection is closed behind its first answer, so whatever follows
//! a request's header is never read as another one.

use std::net::IpAddr;

/// Bytes of a request's header at most; browsers and Prometheus send less than one thousand.
pub(super) const HEAD_BYTES_MAX: usize = 8 * 1024;
/// Fields of a header at most.
const FIELDS_MAX: usize = 64;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// It begins with `/`, and is as it was sent: nothing is decoded.
    pub path: String,
    /// Without the body, please.
    pub is_head: bool,
    /// Whom the client believes to ask, with a port perhaps.
    pub(super) host: Option<String>,
    /// `Accept`.
    pub accept: Option<String>,
    /// `Authorization`.
    pub(super) authorization: Option<String>,
}

/// What became of the bytes so far.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    /// The header is not over yet.
    Partial,
    /// It is.
    Whole(Request),
    /// It is none, or none that is answered.
    Refused(Refusal),
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// 400.
    Malformed,
    /// 405.
    Method,
    /// 431 (RFC 6585 §5).
    TooLarge,
}

/// Reads the header, as far as it has come.
pub(super) fn parse(bytes: &[u8]) -> Parsed {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut head = httparse::Request::new(&mut fields);
    match head.parse(bytes) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) if bytes.len() < HEAD_BYTES_MAX => return Parsed::Partial,
        Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
            return Parsed::Refused(Refusal::TooLarge);
        }
        Err(_) => return Parsed::Refused(Refusal::Malformed),
    }
    let is_head = match head.method {
        Some("GET") => false,
        Some("HEAD") => true,
        _ => return Parsed::Refused(Refusal::Method),
    };
    let mut hosts = fields_named(head.headers, "host");
    let host = hosts.next();
    // RFC 9112 §3.2: exactly one, and in HTTP/1.0 perhaps none.
    if hosts.next().is_some() || (host.is_none() && head.version == Some(1)) {
        return Parsed::Refused(Refusal::Malformed);
    }
    let accept: Vec<String> = fields_named(head.headers, "accept").collect();
    let authorization = fields_named(head.headers, "authorization").next();
    let target = head.path.unwrap_or_default();
    // RFC 9112 §3.2.2: as proxies are asked.
    let absolute = (!target.starts_with('/')).then(|| target.split_once("://")).flatten();
    let (host, target) = match absolute {
        Some((_, rest)) => match rest.split_once('/') {
            Some((host, _)) => (Some(host.to_owned()), &rest[host.len()..]),
            None => (Some(rest.to_owned()), "/"),
        },
        None => (host, target),
    };
    let path = target.split(['?', '#']).next().unwrap_or_default();
    if !path.starts_with('/') {
        return Parsed::Refused(Refusal::Malformed);
    }
    let accept = (!accept.is_empty()).then(|| accept.join(","));
    Parsed::Whole(Request { path: path.to_owned(), is_head, host, accept, authorization })
}

/// The values of a field; one that is no text is none.
fn fields_named<'a>(
    fields: &'a [httparse::Header<'a>],
    name: &'a str,
) -> impl Iterator<Item = String> + use<'a> {
    let named = fields.iter().filter(move |field| field.name.eq_ignore_ascii_case(name));
    named.map(|field| String::from_utf8_lossy(field.value).trim().to_owned())
}

impl Request {
    /// Whether the client knows this machine by its address, or as its own. A page of a stranger that leads its own
    /// name to 127.0.0.1 (DNS rebinding) has the browser send that name.
    pub(super) fn is_for_this_machine(&self) -> bool {
        let Some(host) = &self.host else { return true };
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => host,
        };
        let literal = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
        let name = name.to_ascii_lowercase();
        literal.parse::<IpAddr>().is_ok() || name == "localhost" || name.ends_with(".localhost")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(text: &str) -> Request {
        match parse(text.as_bytes()) {
            Parsed::Whole(request) => request,
            other => panic!("{text:?}: {other:?}"),
        }
    }

    #[test]
    fn a_request_is_read_and_what_is_behind_it_is_not() {
        let request =
            whole("GET /message/1K6?x=1 HTTP/1.1\r\nHost: localhost:9587\r\nA: b\r\n\r\nGET /more HTTP/1.1");
        assert_eq!((request.path.as_str(), request.is_head), ("/message/1K6", false));
        assert!(whole("HEAD / HTTP/1.0\r\n\r\n").is_head);
        assert_eq!(whole("GET http://evil.test/livez HTTP/1.1\r\nHost: localhost\r\n\r\n").path, "/livez");
        assert!(!whole("GET http://evil.test HTTP/1.1\r\nHost: localhost\r\n\r\n").is_for_this_machine());
        let query = whole("GET /?x=http://localhost/livez HTTP/1.1\r\nHost: evil.test\r\n\r\n");
        assert!(query.path == "/" && !query.is_for_this_machine(), "{query:?}");
        for part in ["", "G", "GET / HTTP/1.1", "GET / HTTP/1.1\r\nHost: a\r\n"] {
            assert_eq!(parse(part.as_bytes()), Parsed::Partial, "{part:?}");
        }
    }

    #[test]
    fn what_is_no_request_is_refused() {
        for (text, why) in [
            ("GET / HTTP/1.1\r\n\r\n", Refusal::Malformed),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", Refusal::Malformed),
            ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", Refusal::Malformed),
            ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", Refusal::Malformed),
            ("GET / HTTP/1.1\r\nA: b\0\r\nHost: a\r\n\r\n", Refusal::Malformed),
            ("GET etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n", Refusal::Malformed),
            ("\x16\x03\x01\x02\x00\x01\x00", Refusal::Malformed),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", Refusal::Method),
            ("get / HTTP/1.1\r\nHost: a\r\n\r\n", Refusal::Method),
            ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", Refusal::Method),
        ] {
            assert_eq!(parse(text.as_bytes()), Parsed::Refused(why), "{text:?}");
        }
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(FIELDS_MAX + 1));
        assert_eq!(parse(many.as_bytes()), Parsed::Refused(Refusal::TooLarge));
        let long = format!("GET / HTTP/1.1\r\nA: {}", "x".repeat(HEAD_BYTES_MAX));
        assert_eq!(parse(long.as_bytes()), Parsed::Refused(Refusal::TooLarge));
    }

    #[test]
    fn this_machine_has_its_addresses_and_no_other_name() {
        let asked = |host: &str| whole(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        for host in
            ["127.0.0.1", "127.0.0.1:9587", "[::1]:9587", "[::1]", "LocalHost:80", "a.localhost", "10.1.2.3"]
        {
            assert!(asked(host).is_for_this_machine(), "{host}");
        }
        for host in
            ["evil.test", "evil.test:9587", "127.0.0.1.evil.test", "localhost.evil.test", ":80", "xlocalhost"]
        {
            assert!(!asked(host).is_for_this_machine(), "{host}");
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn no_bytes_are_too_odd(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
            let _ = parse(&bytes);
            let _ = parse(&[b"GET / HTTP/1.1\r\nHost: ", &bytes[..], b"\r\n\r\n"].concat());
        }
    }
}
