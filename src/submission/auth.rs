//! AUTH (RFC 4954): the exchanges of PLAIN (RFC 4616) and LOGIN as pure steps, and the count of failures.
//!
//! An exchange ends in [`Credentials`] to be verified or in a refusal; verifying is the shell's.
//! A further mechanism is one more [`Exchange`] variant with its steps in [`begin`] and [`answer`].

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::mail::{Address, Domain, Reply};

use super::replies;
use super::users::User;

/// As EHLO lists them.
pub(super) const MECHANISMS: &str = "PLAIN LOGIN";

/// A name and a password to be verified.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Credentials {
    pub(super) name: String,
    pub(super) password: Vec<u8>,
}

/// Without the password.
impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials({:?}, …)", self.name)
    }
}

/// What is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Exchange {
    /// PLAIN's only response.
    Plain,
    /// LOGIN's first: the name.
    LoginName,
    /// LOGIN's second: the password.
    LoginPassword {
        /// The first.
        name: String,
    },
}

/// What an exchange does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Turn {
    /// Send this, then wait for the next response.
    Challenge(Reply, Exchange),
    /// Everything is said.
    Verify(Credentials),
    /// It ends here.
    Refuse(Reply),
}

/// Begins the exchange of `mechanism` (upper case), with the initial response if there was one.
pub(super) fn begin(mechanism: &str, initial: Option<&str>) -> Turn {
    let (exchange, challenge) = match mechanism {
        "PLAIN" => (Exchange::Plain, replies::CHALLENGE_EMPTY),
        "LOGIN" => (Exchange::LoginName, replies::CHALLENGE_USERNAME),
        _ => return Turn::Refuse(replies::AUTH_UNKNOWN_MECHANISM),
    };
    match initial {
        None => Turn::Challenge(challenge, exchange),
        // RFC 4954 §4: an initial response of zero bytes is written "=".
        Some("=") => respond(exchange, Vec::new()),
        Some(initial) => answer(exchange, initial.as_bytes()),
    }
}

/// Goes on with the client's line.
pub(super) fn answer(exchange: Exchange, line: &[u8]) -> Turn {
    if line == b"*" {
        return Turn::Refuse(replies::AUTH_CANCELLED);
    }
    match STANDARD.decode(line) {
        Ok(response) => respond(exchange, response),
        Err(_) => Turn::Refuse(replies::AUTH_BAD_BASE64),
    }
}

fn respond(exchange: Exchange, response: Vec<u8>) -> Turn {
    match exchange {
        Exchange::Plain => match plain(&response) {
            Some(credentials) => Turn::Verify(credentials),
            None => Turn::Refuse(replies::AUTH_BAD_RESPONSE),
        },
        Exchange::LoginName => match String::from_utf8(response) {
            Ok(name) => Turn::Challenge(replies::CHALLENGE_PASSWORD, Exchange::LoginPassword { name }),
            Err(_) => Turn::Refuse(replies::AUTH_BAD_RESPONSE),
        },
        Exchange::LoginPassword { name } => Turn::Verify(Credentials { name, password: response }),
    }
}

/// `[authzid] NUL authcid NUL password` (RFC 4616 §2); nobody may act for another here.
fn plain(response: &[u8]) -> Option<Credentials> {
    let mut parts = response.split(|byte| *byte == 0);
    let (authzid, authcid, password) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() || !(authzid.is_empty() || authzid == authcid) {
        return None;
    }
    Some(Credentials { name: std::str::from_utf8(authcid).ok()?.to_owned(), password: password.to_owned() })
}

/// Whether `user` may send as `sender`: no patterns mean anybody, and the null sender
/// claims to be nobody. Domains are compared as DNS does, local parts without regard to ASCII
/// case, and nothing else is taken for equal: not a tag, not a look-alike of another script.
pub(super) fn may_send_as(user: &User, sender: Option<&Address>) -> bool {
    let Some(sender) = sender else { return true };
    user.senders.is_empty()
        || user.senders.iter().any(|pattern| {
            let Some((local, domain)) = pattern.rsplit_once('@') else { return false };
            let same_domain = Domain::parse(domain).is_ok_and(|domain| domain == Domain::of(sender));
            same_domain && (local == "*" || local.eq_ignore_ascii_case(sender.user()))
        })
}

/// How long a failure counts.
const FAILURE_WINDOW: Duration = Duration::from_secs(600);
/// Addresses remembered at once.
const FAILURE_ADDRESSES_MAX: usize = 10_000;

/// Failed AUTH of the last ten minutes by client address (IPv6: by /64, which is one customer's).
#[derive(Debug, Default)]
pub(super) struct Failures {
    by_client: Mutex<HashMap<IpAddr, Vec<Instant>>>,
}

impl Failures {
    /// Counts one more failure.
    pub(super) fn record(&self, client: IpAddr, now: Instant) {
        let mut by_client = self.lock();
        if by_client.len() >= FAILURE_ADDRESSES_MAX {
            by_client.retain(|_, times| times.iter().any(|at| now < *at + FAILURE_WINDOW));
        }
        if by_client.len() >= FAILURE_ADDRESSES_MAX {
            // A flood from more addresses than we remember: forget any one of them.
            let any = by_client.keys().next().copied();
            any.map(|any| by_client.remove(&any));
        }
        let times = by_client.entry(network(client)).or_default();
        times.retain(|at| now < *at + FAILURE_WINDOW);
        times.push(now);
    }

    /// How many failures of this client count now.
    pub(super) fn count(&self, client: IpAddr, now: Instant) -> usize {
        let by_client = self.lock();
        let times = by_client.get(&network(client));
        times.map_or(0, |times| times.iter().filter(|at| now < **at + FAILURE_WINDOW).count())
    }

    /// A panic while counting leaves a map that is still a map.
    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, Vec<Instant>>> {
        self.by_client.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn network(client: IpAddr) -> IpAddr {
    match client {
        IpAddr::V4(_) => client,
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !0 << 64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::address;

    fn base64(text: &str) -> String {
        STANDARD.encode(text)
    }

    fn credentials(name: &str, password: &str) -> Turn {
        Turn::Verify(Credentials { name: name.into(), password: password.into() })
    }

    #[test]
    fn plain_comes_at_once_or_after_an_empty_challenge() {
        let response = base64("\0app\0secret");
        assert_eq!(begin("PLAIN", Some(&response)), credentials("app", "secret"));
        assert_eq!(begin("PLAIN", None), Turn::Challenge(replies::CHALLENGE_EMPTY, Exchange::Plain));
        assert_eq!(answer(Exchange::Plain, response.as_bytes()), credentials("app", "secret"));
        assert_eq!(begin("PLAIN", Some(&base64("app\0app\0secret"))), credentials("app", "secret"));
    }

    #[test]
    fn login_asks_for_name_and_password() {
        let Turn::Challenge(_, exchange) = begin("LOGIN", None) else { panic!("no challenge") };
        let Turn::Challenge(_, exchange) = answer(exchange, base64("app").as_bytes()) else {
            panic!("no second challenge")
        };
        assert_eq!(answer(exchange, base64("secret").as_bytes()), credentials("app", "secret"));
        let Turn::Challenge(reply, _) = begin("LOGIN", Some(&base64("app"))) else { panic!("no challenge") };
        assert_eq!(reply, replies::CHALLENGE_PASSWORD);
    }

    #[test]
    fn what_is_no_response_is_refused() {
        let refused = |turn| match turn {
            Turn::Refuse(reply) => reply.to_string(),
            other => panic!("{other:?}"),
        };
        assert!(refused(begin("CRAM-MD5", None)).starts_with("504 5.5.4"));
        assert!(refused(answer(Exchange::Plain, b"*")).starts_with("501"));
        assert!(refused(answer(Exchange::Plain, b"not base64!")).starts_with("501 5.5.2"));
        for text in ["", "app", "\0app", "\0app\0secret\0more", "root\0app\0secret"] {
            let reply = refused(answer(Exchange::Plain, base64(text).as_bytes()));
            assert!(reply.starts_with("501 5.5.2"), "{text:?}: {reply}");
        }
        assert!(refused(begin("PLAIN", Some("="))).starts_with("501 5.5.2"));
    }

    #[test]
    fn a_password_is_never_shown() {
        let shown = format!("{:?}", begin("PLAIN", Some(&base64("\0app\0hunter2"))));
        assert!(!shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn sender_patterns_are_kept_to() {
        let user = |senders: &[&str]| User {
            senders: senders.iter().map(|s| (*s).to_owned()).collect(),
            ..User::default()
        };
        let one = user(&["App@Example.com", "*@news.example"]);
        let may = |user: &User, sender: &str| may_send_as(user, Some(&address::parse(sender).unwrap()));
        for sender in ["app@example.com", "APP@EXAMPLE.COM", "anybody@news.example", "x@NEWS.example."] {
            assert!(may(&one, sender), "{sender}");
        }
        for sender in [
            "app+tag@example.com",
            "аpp@example.com", // Cyrillic а
            "app@example.com.evil.example",
            "app@sub.example.com",
            "x@sub.news.example",
            "\"*\"@example.com",
            "other@example.com",
        ] {
            assert!(!may(&one, sender), "{sender}");
        }
        assert!(may(&user(&[]), "anybody@anywhere.example"));
        assert!(may_send_as(&one, None));
    }

    #[test]
    fn failures_count_by_address_for_ten_minutes() {
        let failures = Failures::default();
        let start = Instant::now();
        let client: IpAddr = "192.0.2.1".parse().unwrap();
        failures.record(client, start);
        failures.record(client, start + Duration::from_secs(300));
        assert_eq!(failures.count(client, start + Duration::from_secs(301)), 2);
        assert_eq!(failures.count(client, start + Duration::from_secs(601)), 1);
        assert_eq!(failures.count("192.0.2.2".parse().unwrap(), start), 0);
        failures.record("2001:db8::1".parse().unwrap(), start);
        assert_eq!(failures.count("2001:db8::2".parse().unwrap(), start), 1);
        assert_eq!(failures.count("2001:db8:0:1::2".parse().unwrap(), start), 0);
    }

    #[test]
    fn a_flood_of_addresses_is_forgotten_and_not_collected() {
        let failures = Failures::default();
        let start = Instant::now();
        for n in 0..FAILURE_ADDRESSES_MAX as u32 + 50 {
            failures.record(IpAddr::V4(n.into()), start);
        }
        assert_eq!(failures.lock().len(), FAILURE_ADDRESSES_MAX);
    }
}
