//! Failed logins: a client that guesses passwords is sent away, one that guesses from many addresses is slowed down,
//! and whoever has the password gets in.
//!
//! - By client (an IPv4 address, an IPv6 /64): `[limits] auth_failures` in ten minutes, then no more is checked. A
//!   check is reserved before it begins, so that many at once are no more than one after the other.
//! - By the network round it (/24, /48): ten times as many. Who has logged in from an address before goes on.
//! - By name: from so many wrong secrets on, logins of that name wait a while, up to eight seconds, but for clients
//!   that have logged in by it before. They wait and are not refused: nobody can lock an owner out of a name.
//!
//! One wrong secret tried over and over counts once (PLAIN and LOGIN; of SCRAM and CRAM-MD5 nobody can tell): an
//! application with an old password is not shut out for it, and learns nothing by it.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::{hmac, rand};

use crate::kit::bounded::{TtlMap, Window};

use super::networks;

/// How long a failure counts.
const FAILURE_WINDOW: Duration = Duration::from_secs(600);
/// Clients, networks and names remembered at once; each costs a KiB at most. In a flood from more, the oldest are
/// forgotten.
const REMEMBERED_MAX: usize = 10_000;
/// A network's limit, in limits of a client.
const AROUND_FACTOR: usize = 10;
/// Wrong secrets of one client that are recognised again.
const SECRETS_MAX: usize = 16;
/// From so many wrong secrets for one name on, others than its owner wait.
const NAME_FAILURES_MAX: usize = 10;
/// The longest that they wait.
const NAME_DELAY_MAX: Duration = Duration::from_secs(8);
/// How long it is remembered that somebody logged in from somewhere.
const KNOWN_FOR: Duration = Duration::from_secs(30 * 86_400);
/// How long a login waits for others of its client to be checked.
const PATIENCE: Duration = Duration::from_secs(10);

/// Failed logins of the last ten minutes.
pub(in crate::submission) struct LoginFailures {
    counts: Mutex<Counts>,
    /// A check ended.
    ended: Condvar,
    /// Keys what is kept of wrong secrets; random, made at start.
    key: hmac::Key,
}

struct Counts {
    clients: TtlMap<IpAddr, Client, Instant>,
    around: TtlMap<IpAddr, Counted, Instant>,
    names: TtlMap<String, Window<Instant>, Instant>,
    /// Who has logged in from where.
    known: TtlMap<(IpAddr, String), (), Instant>,
}

struct Client {
    counted: Counted,
    /// What is kept of its last wrong secrets.
    wrong: VecDeque<Vec<u8>>,
}

/// Failures, and checks that may become some.
struct Counted {
    failures: Window<Instant>,
    under_way: usize,
}

impl Counted {
    fn new() -> Counted {
        Counted { failures: Window::new(FAILURE_WINDOW), under_way: 0 }
    }
}

/// A login that is to be checked.
#[derive(Debug, Clone, Copy)]
pub(in crate::submission) struct Login<'a> {
    pub(in crate::submission) client: IpAddr,
    pub(in crate::submission) name: &'a str,
    /// The password, where it is known.
    pub(in crate::submission) secret: Option<&'a [u8]>,
}

/// What is to be done about a login.
pub(in crate::submission) enum Begin<'a> {
    /// It is checked after this long; the place is held until the permit is dropped.
    Check(Permit<'a>, Duration),
    /// The client tried the same before, and it was wrong.
    WrongAgain,
    /// There were too many failures.
    TooMany,
    /// Others of the client are being checked, and it took too long.
    Busy,
}

/// What is decided at once; waiting is left to the caller.
#[derive(Debug, PartialEq, Eq)]
enum Decision {
    Check(Duration),
    WrongAgain,
    TooMany,
    Wait,
}

/// The place of one check. A failure is counted with [`Permit::failed`].
pub(in crate::submission) struct Permit<'a> {
    failures: &'a LoginFailures,
    client: IpAddr,
    name: String,
    secret: Option<Vec<u8>>,
}

impl LoginFailures {
    /// # Errors
    /// The system gives no random numbers.
    pub(in crate::submission) fn new() -> Result<LoginFailures, aws_lc_rs::error::Unspecified> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &rand::SystemRandom::new())?;
        Ok(LoginFailures {
            counts: Mutex::new(Counts {
                clients: TtlMap::new(REMEMBERED_MAX, FAILURE_WINDOW),
                around: TtlMap::new(REMEMBERED_MAX, FAILURE_WINDOW),
                names: TtlMap::new(REMEMBERED_MAX, FAILURE_WINDOW),
                known: TtlMap::new(REMEMBERED_MAX, KNOWN_FOR),
            }),
            ended: Condvar::new(),
            key,
        })
    }

    /// Reserves the check of a login, waiting for others of the same client. `limit` is `[limits] auth_failures`.
    pub(in crate::submission) fn begin(&self, login: Login<'_>, limit: usize) -> Begin<'_> {
        let secret = login.secret.map(|secret| self.tag(login.name, secret));
        let deadline = Instant::now() + PATIENCE;
        let mut counts = self.lock();
        loop {
            let now = Instant::now();
            match counts.begin(login, secret.as_deref(), limit, now) {
                Decision::Check(delay) => {
                    let (client, name) = (login.client, login.name.to_owned());
                    return Begin::Check(Permit { failures: self, client, name, secret }, delay);
                }
                Decision::WrongAgain => return Begin::WrongAgain,
                Decision::TooMany => return Begin::TooMany,
                Decision::Wait if now >= deadline => return Begin::Busy,
                Decision::Wait => {
                    let waited = self.ended.wait_timeout(counts, deadline - now);
                    counts = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
    }

    /// Whether nothing more of this client is checked, by this name.
    pub(in crate::submission) fn is_too_many(&self, client: IpAddr, name: &str, limit: usize) -> bool {
        self.lock().is_too_many(client, name, limit, Instant::now())
    }

    /// Whether somebody logged in by this name from there before.
    pub(in crate::submission) fn is_known(&self, client: IpAddr, name: &str) -> bool {
        self.lock().is_known(client, name, Instant::now())
    }

    /// A login succeeded, and so many failures of this client before it were no guesses.
    pub(in crate::submission) fn succeeded(&self, client: IpAddr, name: &str, forgiven: u32) {
        self.lock().succeeded(client, name, forgiven, Instant::now());
    }

    /// The length keeps name and secret apart: ("ab", "c") is not ("a", "bc").
    fn tag(&self, name: &str, secret: &[u8]) -> Vec<u8> {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(&(name.len() as u64).to_be_bytes());
        context.update(name.as_bytes());
        context.update(secret);
        context.sign().as_ref().to_vec()
    }

    /// A panic while counting leaves maps that are still maps.
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Permit<'_> {
    /// The login was wrong.
    pub(in crate::submission) fn failed(self) {
        let mut counts = self.failures.lock();
        counts.failed(self.client, &self.name, self.secret.as_deref(), Instant::now());
        // Dropped behind the count: nobody sees the place free and the failure not counted yet.
        drop(counts);
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.failures.lock().ended(self.client, Instant::now());
        self.failures.ended.notify_all();
    }
}

impl Counts {
    fn begin(&mut self, login: Login<'_>, secret: Option<&[u8]>, limit: usize, now: Instant) -> Decision {
        let Login { client, name, .. } = login;
        if self.is_too_many(client, name, limit, now) {
            return Decision::TooMany;
        }
        let (near, round) = (networks::client(client), networks::around(client));
        let known = self.is_known(client, name, now);
        let new = || Client { counted: Counted::new(), wrong: VecDeque::new() };
        let entry = self.clients.renew(near, now, new);
        if secret.is_some_and(|secret| entry.wrong.iter().any(|wrong| wrong == secret)) {
            return Decision::WrongAgain;
        }
        let around = self.around.renew(round, now, Counted::new);
        let is_full =
            |counted: &mut Counted, limit: usize| counted.failures.count(now) + counted.under_way >= limit;
        if is_full(&mut entry.counted, limit) || !known && is_full(around, AROUND_FACTOR * limit) {
            return Decision::Wait;
        }
        entry.counted.under_way += 1;
        around.under_way += 1;
        Decision::Check(if known { Duration::ZERO } else { self.delay(name, now) })
    }

    fn is_too_many(&mut self, client: IpAddr, name: &str, limit: usize, now: Instant) -> bool {
        let (near, round) = (networks::client(client), networks::around(client));
        let of_client = self.clients.get_mut(&near, now).map_or(0, |entry| entry.counted.failures.count(now));
        let of_network = self.around.get_mut(&round, now).map_or(0, |entry| entry.failures.count(now));
        of_client >= limit || of_network >= AROUND_FACTOR * limit && !self.is_known(client, name, now)
    }

    fn is_known(&self, client: IpAddr, name: &str, now: Instant) -> bool {
        self.known.get(&(networks::client(client), name.to_owned()), now).is_some()
    }

    /// A second from the first limit on, and twice as long with each doubling of the failures.
    fn delay(&mut self, name: &str, now: Instant) -> Duration {
        let failures = self.names.get_mut(name, now).map_or(0, |window| window.count(now));
        match (failures / NAME_FAILURES_MAX).checked_ilog2() {
            None => Duration::ZERO,
            Some(doublings) => Duration::from_secs(1 << doublings.min(16)).min(NAME_DELAY_MAX),
        }
    }

    fn failed(&mut self, client: IpAddr, name: &str, secret: Option<&[u8]>, now: Instant) {
        let (near, round) = (networks::client(client), networks::around(client));
        if let Some(entry) = self.clients.get_mut(&near, now) {
            entry.counted.failures.add(now);
            if let Some(secret) = secret {
                entry.wrong.truncate(SECRETS_MAX - 1);
                entry.wrong.push_front(secret.to_owned());
            }
        }
        if let Some(entry) = self.around.get_mut(&round, now) {
            entry.failures.add(now);
        }
        self.names.renew(name.to_owned(), now, || Window::new(FAILURE_WINDOW)).add(now);
    }

    fn ended(&mut self, client: IpAddr, now: Instant) {
        let (near, round) = (networks::client(client), networks::around(client));
        if let Some(entry) = self.clients.get_mut(&near, now) {
            entry.counted.under_way = entry.counted.under_way.saturating_sub(1);
        }
        if let Some(entry) = self.around.get_mut(&round, now) {
            entry.under_way = entry.under_way.saturating_sub(1);
        }
    }

    fn succeeded(&mut self, client: IpAddr, name: &str, forgiven: u32, now: Instant) {
        let (near, round) = (networks::client(client), networks::around(client));
        self.known.insert((near, name.to_owned()), (), now);
        if forgiven == 0 {
            return;
        }
        if let Some(entry) = self.clients.get_mut(&near, now) {
            entry.counted.failures.take_back(forgiven);
        }
        if let Some(entry) = self.around.get_mut(&round, now) {
            entry.failures.take_back(forgiven);
        }
        if let Some(window) = self.names.get_mut(name, now) {
            window.take_back(forgiven);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 5;

    fn failures() -> LoginFailures {
        LoginFailures::new().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// Tries a secret that is wrong; what came of it.
    fn guess(counts: &mut Counts, client: &str, name: &str, secret: &str, now: Instant) -> Decision {
        let login = Login { client: ip(client), name, secret: None };
        let decision = counts.begin(login, Some(secret.as_bytes()), LIMIT, now);
        if matches!(decision, Decision::Check(_)) {
            counts.failed(ip(client), name, Some(secret.as_bytes()), now);
            counts.ended(ip(client), now);
        }
        decision
    }

    #[test]
    fn failures_count_by_client_for_ten_minutes() {
        let (failures, start) = (failures(), Instant::now());
        let mut counts = failures.lock();
        for (n, secs) in [0, 0, 300, 300, 300].into_iter().enumerate() {
            let at = start + Duration::from_secs(secs);
            assert_eq!(
                guess(&mut counts, "192.0.2.1", "app", &n.to_string(), at),
                Decision::Check(Duration::ZERO)
            );
        }
        let at = |secs| start + Duration::from_secs(secs);
        assert_eq!(guess(&mut counts, "192.0.2.1", "other", "x", at(301)), Decision::TooMany);
        assert_eq!(guess(&mut counts, "::ffff:192.0.2.1", "other", "x", at(301)), Decision::TooMany);
        assert!(matches!(guess(&mut counts, "192.0.2.2", "app", "x", at(301)), Decision::Check(_)));
        assert!(matches!(guess(&mut counts, "192.0.2.1", "app", "x", at(620)), Decision::Check(_)));
    }

    #[test]
    fn an_ipv6_customer_has_one_count_and_a_48_has_ten_times_as_many() {
        let (failures, now) = (failures(), Instant::now());
        let mut counts = failures.lock();
        let checked = |counts: &mut Counts, net: usize| {
            let client = |n: usize| format!("2001:db8:1:{net:x}::{n:x}");
            (0..20)
                .filter(|n| {
                    matches!(
                        guess(counts, &client(*n), &format!("u{net}"), &n.to_string(), now),
                        Decision::Check(_)
                    )
                })
                .count()
        };
        let all: usize = (0..200).map(|net| checked(&mut counts, net)).sum();
        assert_eq!(all, LIMIT * AROUND_FACTOR, "5 for each of ten /64, and none for the others");
        assert!(matches!(guess(&mut counts, "2001:db8:2::1", "app", "x", now), Decision::Check(_)));
        // Who has logged in from there before is not shut out for what others of the network do.
        counts.succeeded(ip("2001:db8:1:ffff::1"), "app", 0, now);
        assert!(matches!(guess(&mut counts, "2001:db8:1:ffff::2", "app", "x", now), Decision::Check(_)));
        assert_eq!(guess(&mut counts, "2001:db8:1:ffff::2", "other", "x", now), Decision::TooMany);
    }

    #[test]
    fn one_wrong_secret_counts_once_for_a_client() {
        let (failures, now) = (failures(), Instant::now());
        let mut counts = failures.lock();
        assert!(matches!(guess(&mut counts, "192.0.2.1", "app", "old", now), Decision::Check(_)));
        for _ in 0..100 {
            assert_eq!(guess(&mut counts, "192.0.2.1", "app", "old", now), Decision::WrongAgain);
        }
        for n in 0..4 {
            assert!(matches!(
                guess(&mut counts, "192.0.2.1", "app", &n.to_string(), now),
                Decision::Check(_)
            ));
        }
        assert_eq!(guess(&mut counts, "192.0.2.1", "app", "old", now), Decision::TooMany);
    }

    #[test]
    fn a_name_that_is_guessed_at_from_everywhere_is_slow_but_not_for_its_owner() {
        let (failures, now) = (failures(), Instant::now());
        let mut counts = failures.lock();
        counts.succeeded(ip("198.51.100.1"), "app", 0, now);
        let mut delays = Vec::new();
        for n in 0..100 {
            match guess(&mut counts, &format!("10.{n}.0.1"), "app", &n.to_string(), now) {
                Decision::Check(delay) => delays.push(delay.as_secs()),
                other => panic!("{other:?}"),
            }
        }
        let first = |secs| delays.iter().position(|delay| *delay == secs);
        assert_eq!([1, 2, 4, 8].map(first), [Some(10), Some(20), Some(40), Some(80)]);
        let login = |client| Login { client: ip(client), name: "app", secret: None };
        assert_eq!(counts.begin(login("198.51.100.1"), None, LIMIT, now), Decision::Check(Duration::ZERO));
        // From an address that is new the owner waits as all do, and is checked.
        assert_eq!(counts.begin(login("198.51.100.9"), None, LIMIT, now), Decision::Check(NAME_DELAY_MAX));
        let other = Login { client: ip("10.1.0.1"), name: "other", secret: None };
        assert_eq!(counts.begin(other, None, LIMIT, now), Decision::Check(Duration::ZERO));
    }

    #[test]
    fn fifty_guesses_at_once_are_no_more_than_five_one_after_the_other() {
        let (failures, checked) = (failures(), std::sync::atomic::AtomicUsize::new(0));
        let barrier = std::sync::Barrier::new(50);
        std::thread::scope(|scope| {
            for n in 0..50 {
                let (failures, checked, barrier) = (&failures, &checked, &barrier);
                scope.spawn(move || {
                    let secret = format!("guess {n}");
                    let login =
                        Login { client: ip("192.0.2.1"), name: "app", secret: Some(secret.as_bytes()) };
                    barrier.wait();
                    if let Begin::Check(permit, _) = failures.begin(login, LIMIT) {
                        checked.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                        std::thread::sleep(Duration::from_millis(5));
                        permit.failed();
                    }
                });
            }
        });
        assert_eq!(checked.into_inner(), LIMIT);
    }

    #[test]
    fn right_logins_at_once_all_get_in_and_a_forgiven_failure_is_none() {
        let failures = failures();
        std::thread::scope(|scope| {
            for _ in 0..50 {
                let failures = &failures;
                scope.spawn(move || {
                    let login = Login { client: ip("192.0.2.1"), name: "app", secret: Some(b"right") };
                    let Begin::Check(permit, _) = failures.begin(login, LIMIT) else { panic!("refused") };
                    drop(permit);
                    failures.succeeded(ip("192.0.2.1"), "app", 0);
                });
            }
        });
        let now = Instant::now();
        for n in 0..100 {
            assert!(matches!(
                guess(&mut failures.lock(), "192.0.2.1", "app", &n.to_string(), now),
                Decision::Check(_)
            ));
            failures.succeeded(ip("192.0.2.1"), "app", 1);
        }
    }

    #[test]
    fn a_flood_of_addresses_and_names_is_forgotten_and_not_collected() {
        let (failures, now) = (failures(), Instant::now());
        let mut counts = failures.lock();
        for n in 0..REMEMBERED_MAX as u32 + 50 {
            guess(&mut counts, &IpAddr::V4((n << 8).into()).to_string(), &n.to_string(), "x", now);
            counts.succeeded(IpAddr::V4((n << 8).into()), &n.to_string(), 0, now);
        }
        let Counts { clients, around, names, known } = &mut *counts;
        let held = [clients.count(now), around.count(now), names.count(now), known.count(now)];
        assert!(held.iter().all(|count| *count <= REMEMBERED_MAX), "{held:?}");
    }
}
