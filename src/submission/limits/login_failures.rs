//! Failed logins: a client that guesses passwords is sent away, one that guesses from many addresses is slowed down,
//! and whoever has the password gets in.
//!
//! - By client (an IPv4 address, an IPv6 /64): `[limits] auth_failures` in ten minutes, then no more is checked. A
//!   check is reserved before it begins, so that many at once are no more than one after the other.
//! - By the network round it (/24, /48): ten times as many.
//! - By name: from so many wrong secrets on, logins of that name wait a while, up to eight seconds. They wait and are
//!   not refused: nobody can lock an owner out of a name.
//! - Who has logged in by a name from a client before is known there by that name, and none of these is for him: others
//!   behind the same address, or in the same /64, may do what they like. A known login has a count of its own; beyond
//!   the limit it is checked all the same, one at a time and after a while, as a name that is guessed at.
//!
//! One wrong secret tried over and over counts once (PLAIN and LOGIN; of SCRAM and CRAM-MD5 nobody can tell): an
//! application with an old password is not shut out for it, and learns nothing by it.
//!
//! A name is as long as a client likes, and may be a password typed in the wrong place: what is kept of it is a hash.
//! The names of users are kept beside it, for people to read (`lockouts.rs`).

use std::collections::VecDeque;
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::{hmac, rand};

use crate::kit::bounded::{TtlMap, Window};

use super::networks::{self, Place};

/// How long a failure counts: as long as this, and a slot longer at most.
const FAILURE_WINDOW: Duration = Duration::from_secs(600);
const WINDOW_SLOTS: u32 = 12;
/// The two together.
pub(super) const FAILURES_LAST: Duration = Duration::from_secs(650);
/// How long a count is kept from when it was last written: longer than any failure of it counts.
const COUNTS_KEPT: Duration = Duration::from_secs(800);
/// Clients, networks, names and known logins remembered at once. In a flood from more, the oldest are forgotten.
const REMEMBERED_MAX: usize = 10_000;
/// A network's limit, in limits of a client.
const AROUND_FACTOR: usize = 10;
/// Wrong secrets of one client that are recognised again.
const SECRETS_MAX: usize = 16;
/// From so many wrong secrets for one name on, others than its owner wait.
const NAME_FAILURES_MAX: usize = 10;
/// The longest that they wait.
const DELAY_MAX: Duration = Duration::from_secs(8);
/// How long it is remembered that somebody logged in from somewhere.
const KNOWN_FOR: Duration = Duration::from_secs(30 * 86_400);
/// How exactly it is written down when that was, so that not every login is written.
const KNOWN_TO: Duration = Duration::from_secs(86_400);
/// How long a login waits for others of its client to be checked.
const PATIENCE: Duration = Duration::from_secs(10);

/// Failed logins of the last ten minutes.
pub(in crate::submission) struct LoginFailures {
    counts: Mutex<Counts>,
    /// A check ended.
    ended: Condvar,
    /// Keys what is kept of wrong secrets; random, made at start.
    key: hmac::Key,
    /// The same for names.
    hashing: RandomState,
}

/// What is kept of a wrong secret: half of a digest (RFC 2104 §5).
type Tag = [u8; 16];

struct Counts {
    clients: TtlMap<IpAddr, Client, Instant>,
    around: TtlMap<IpAddr, Counted, Instant>,
    names: TtlMap<u64, Named, Instant>,
    /// Who has logged in from where.
    known: TtlMap<(IpAddr, u64), Known, Instant>,
    /// Counts that came to be others so far.
    changes: u64,
}

struct Client {
    counted: Counted,
    /// What is kept of its last wrong secrets.
    wrong: VecDeque<Tag>,
}

struct Named {
    failures: Window<Instant>,
    /// A user's.
    name: Option<Box<str>>,
}

struct Known {
    counted: Counted,
    name: Box<str>,
    /// The last login, as it is written down: to a day.
    noted: Instant,
}

impl Known {
    fn new(name: &str, noted: Instant) -> Known {
        Known { counted: Counted::new(), name: name.into(), noted }
    }
}

/// Failures, and checks that may become some.
struct Counted {
    failures: Window<Instant>,
    under_way: usize,
}

fn window() -> Window<Instant> {
    Window::in_slots(FAILURE_WINDOW, WINDOW_SLOTS)
}

impl Counted {
    fn new() -> Counted {
        Counted { failures: window(), under_way: 0 }
    }

    fn is_full(&mut self, limit: usize, now: Instant) -> bool {
        self.failures.count(now) + self.under_way >= limit
    }

    fn ended(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
    }
}

impl Client {
    fn new() -> Client {
        Client { counted: Counted::new(), wrong: VecDeque::new() }
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

/// What is counted for a login.
#[derive(Debug, Clone, Copy)]
struct Keys {
    client: IpAddr,
    around: IpAddr,
    name: u64,
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
    Check { delay: Duration, known: bool },
    WrongAgain,
    TooMany,
    Wait,
}

/// The place of one check. A failure is counted with [`Permit::failed`].
pub(in crate::submission) struct Permit<'a> {
    failures: &'a LoginFailures,
    keys: Keys,
    /// It has a count of its own.
    known: bool,
    secret: Option<Tag>,
}

/// A client or a network that is refused, a name that is slow for all that are not known by it, or a known login that
/// is slow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::submission) struct Lockout {
    pub(in crate::submission) whom: Whom,
    pub(in crate::submission) failures: u32,
    /// How long ago the first of these was.
    pub(in crate::submission) age: Duration,
    /// How long it still lasts.
    pub(in crate::submission) left: Duration,
}

/// What people are shown, and what outlives the process.
pub(in crate::submission) struct Snapshot {
    pub(in crate::submission) lockouts: Vec<Lockout>,
    /// Who logged in by which name from where, and how long ago.
    pub(in crate::submission) known: Vec<(Place, Box<str>, Duration)>,
    /// How often anything of it has changed so far.
    pub(in crate::submission) changes: u64,
}

/// Whom it is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(in crate::submission) enum Whom {
    Place(Place),
    Name(Box<str>),
    /// By this name from this client.
    Login(Place, Box<str>),
}

impl LoginFailures {
    /// # Errors
    /// The system gives no random numbers.
    pub(in crate::submission) fn new() -> Result<LoginFailures, aws_lc_rs::error::Unspecified> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &rand::SystemRandom::new())?;
        Ok(LoginFailures {
            counts: Mutex::new(Counts {
                clients: TtlMap::new(REMEMBERED_MAX, COUNTS_KEPT),
                around: TtlMap::new(REMEMBERED_MAX, COUNTS_KEPT),
                names: TtlMap::new(REMEMBERED_MAX, COUNTS_KEPT),
                known: TtlMap::new(REMEMBERED_MAX, KNOWN_FOR),
                changes: 0,
            }),
            ended: Condvar::new(),
            key,
            hashing: RandomState::new(),
        })
    }

    /// Reserves the check of a login, waiting for others of the same client. `limit` is `[limits] auth_failures`.
    pub(in crate::submission) fn begin(&self, login: Login<'_>, limit: usize) -> Begin<'_> {
        let keys = self.keys(login.client, login.name);
        let secret = login.secret.map(|secret| self.tag(login.name, secret));
        let deadline = Instant::now() + PATIENCE;
        let mut counts = self.lock();
        loop {
            let now = Instant::now();
            match counts.begin(keys, secret.as_ref(), limit, now) {
                Decision::Check { delay, known } => {
                    return Begin::Check(Permit { failures: self, keys, known, secret }, delay);
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
        self.lock().is_too_many(self.keys(client, name), limit, Instant::now())
    }

    /// Whether somebody logged in by this name from there before.
    pub(in crate::submission) fn is_known(&self, client: IpAddr, name: &str) -> bool {
        self.lock().is_known(self.keys(client, name), Instant::now())
    }

    /// A user logged in, and so many failures of this client before it were no guesses.
    pub(in crate::submission) fn succeeded(&self, client: IpAddr, user: &str, forgiven: u32) {
        self.lock().succeeded(self.keys(client, user), user, forgiven, Instant::now());
    }

    /// Who is locked out, slow or known now.
    pub(in crate::submission) fn snapshot(&self, limit: usize, now: Instant) -> Snapshot {
        let mut counts = self.lock();
        let known = counts.known.iter_mut(now).map(|((ip, _), known)| {
            let age = now.saturating_duration_since(known.noted);
            (Place::Client(*ip), known.name.clone(), age)
        });
        let known = known.collect();
        Snapshot { known, lockouts: counts.lockouts(limit, now), changes: counts.changes }
    }

    /// How often anything of the snapshot has changed so far.
    pub(in crate::submission) fn changes(&self) -> u64 {
        self.lock().changes
    }

    /// Somebody's failures count no more.
    pub(in crate::submission) fn lift(&self, whom: &Whom, now: Instant) {
        self.lock().set(whom, self.hash_of(whom), now, window());
        self.ended.notify_all();
    }

    /// Nobody has logged in by this name from there.
    pub(in crate::submission) fn forget(&self, place: Place, name: &str, now: Instant) {
        let (Place::Client(ip) | Place::Around(ip)) = place;
        let mut counts = self.lock();
        counts.changes += 1;
        counts.known.remove(&(ip, self.hashing.hash_one(name)), now);
    }

    /// Somebody did, so long ago.
    pub(in crate::submission) fn restore_known(&self, place: Place, name: &str, age: Duration, now: Instant) {
        let (Place::Client(ip) | Place::Around(ip)) = place;
        let noted = now.checked_sub(age).unwrap_or(now);
        let mut counts = self.lock();
        counts.known.insert((ip, self.hashing.hash_one(name)), Known::new(name, noted), noted);
    }

    /// As it was when the last process ended.
    pub(in crate::submission) fn restore(&self, lockout: &Lockout, now: Instant) {
        // All of them as one, so that they end when the last process would have let him in. Where the machine is
        // younger than that they count a little longer.
        let began = now.checked_sub(FAILURES_LAST.saturating_sub(lockout.left)).unwrap_or(now);
        let failures = window().counting(lockout.failures, began);
        self.lock().set(&lockout.whom, self.hash_of(&lockout.whom), now, failures);
    }

    fn keys(&self, client: IpAddr, name: &str) -> Keys {
        Keys {
            client: networks::client(client),
            around: networks::around(client),
            name: self.hashing.hash_one(name),
        }
    }

    fn hash_of(&self, whom: &Whom) -> u64 {
        match whom {
            Whom::Place(_) => 0,
            Whom::Name(name) | Whom::Login(_, name) => self.hashing.hash_one(&**name),
        }
    }

    /// The length keeps name and secret apart: ("ab", "c") is not ("a", "bc").
    fn tag(&self, name: &str, secret: &[u8]) -> Tag {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(&(name.len() as u64).to_be_bytes());
        context.update(name.as_bytes());
        context.update(secret);
        let mut tag = Tag::default();
        tag.iter_mut().zip(context.sign().as_ref()).for_each(|(to, from)| *to = *from);
        tag
    }

    /// A panic while counting leaves maps that are still maps.
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Permit<'_> {
    /// The login was wrong. `user`: the name, where a user has it.
    pub(in crate::submission) fn failed(self, user: Option<&str>) {
        let mut counts = self.failures.lock();
        counts.failed(self.keys, user, self.secret, Instant::now());
        // Dropped behind the count: nobody sees the place free and the failure not counted yet.
        drop(counts);
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.failures.lock().ended(self.keys, self.known, Instant::now());
        self.failures.ended.notify_all();
    }
}

impl Counts {
    fn begin(&mut self, keys: Keys, secret: Option<&Tag>, limit: usize, now: Instant) -> Decision {
        if self.is_too_many(keys, limit, now) {
            return Decision::TooMany;
        }
        let is_wrong = |client: &mut Client| secret.is_some_and(|secret| client.wrong.contains(secret));
        if self.clients.get_mut(&keys.client, now).is_some_and(is_wrong) {
            return Decision::WrongAgain;
        }
        if let Some(Known { counted, .. }) = self.known.get_mut(&(keys.client, keys.name), now) {
            let failures = counted.failures.count(now);
            // Beyond the limit one at a time, and slower and slower, but never refused.
            if counted.under_way >= limit.saturating_sub(failures).max(1) {
                return Decision::Wait;
            }
            counted.under_way += 1;
            return Decision::Check { delay: delay(failures, limit), known: true };
        }
        let client = &mut self.clients.renew(keys.client, now, Client::new).counted;
        let around = self.around.renew(keys.around, now, Counted::new);
        if client.is_full(limit, now) || around.is_full(AROUND_FACTOR * limit, now) {
            return Decision::Wait;
        }
        client.under_way += 1;
        around.under_way += 1;
        let of_name = self.names.get_mut(&keys.name, now).map_or(0, |named| named.failures.count(now));
        Decision::Check { delay: delay(of_name, NAME_FAILURES_MAX), known: false }
    }

    fn is_too_many(&mut self, keys: Keys, limit: usize, now: Instant) -> bool {
        let of_client =
            self.clients.get_mut(&keys.client, now).map_or(0, |entry| entry.counted.failures.count(now));
        let of_network = self.around.get_mut(&keys.around, now).map_or(0, |entry| entry.failures.count(now));
        (of_client >= limit || of_network >= AROUND_FACTOR * limit) && !self.is_known(keys, now)
    }

    fn is_known(&self, keys: Keys, now: Instant) -> bool {
        self.known.get(&(keys.client, keys.name), now).is_some()
    }

    fn failed(&mut self, keys: Keys, user: Option<&str>, secret: Option<Tag>, now: Instant) {
        self.changes += 1;
        let client = self.clients.renew(keys.client, now, Client::new);
        client.counted.failures.add(now);
        if let Some(secret) = secret {
            client.wrong.truncate(SECRETS_MAX - 1);
            client.wrong.push_front(secret);
        }
        self.around.renew(keys.around, now, Counted::new).failures.add(now);
        let named = self.names.renew(keys.name, now, || Named { failures: window(), name: None });
        named.failures.add(now);
        named.name = user.map(Box::from);
        if let Some(known) = self.known.get_mut(&(keys.client, keys.name), now) {
            known.counted.failures.add(now);
        }
    }

    fn ended(&mut self, keys: Keys, known: bool, now: Instant) {
        if known {
            let known = self.known.get_mut(&(keys.client, keys.name), now);
            return known.into_iter().for_each(|known| known.counted.ended());
        }
        if let Some(entry) = self.clients.get_mut(&keys.client, now) {
            entry.counted.ended();
        }
        if let Some(entry) = self.around.get_mut(&keys.around, now) {
            entry.ended();
        }
    }

    fn succeeded(&mut self, keys: Keys, user: &str, forgiven: u32, now: Instant) {
        let mut is_new = false;
        let new = || {
            is_new = true;
            Known::new(user, now)
        };
        let known = self.known.renew((keys.client, keys.name), now, new);
        if is_new || now.saturating_duration_since(known.noted) >= KNOWN_TO {
            known.noted = now;
            self.changes += 1;
        }
        if forgiven == 0 {
            return;
        }
        self.changes += 1;
        known.counted.failures.take_back(forgiven);
        if let Some(entry) = self.clients.get_mut(&keys.client, now) {
            entry.counted.failures.take_back(forgiven);
        }
        if let Some(entry) = self.around.get_mut(&keys.around, now) {
            entry.failures.take_back(forgiven);
        }
        if let Some(named) = self.names.get_mut(&keys.name, now) {
            named.failures.take_back(forgiven);
        }
    }

    fn lockouts(&mut self, limit: usize, now: Instant) -> Vec<Lockout> {
        let lockout = |whom: &dyn Fn() -> Option<Whom>, failures: &mut Window<Instant>, limit: usize| {
            let count = failures.count(now);
            let whom = (count >= limit).then(whom)??;
            let age = failures.first(now).unwrap_or_default();
            let left = failures.below_after(limit, now);
            Some(Lockout { whom, failures: u32::try_from(count).unwrap_or(u32::MAX), age, left })
        };
        let clients = self.clients.iter_mut(now).filter_map(|(ip, entry)| {
            lockout(&|| Some(Whom::Place(Place::Client(*ip))), &mut entry.counted.failures, limit)
        });
        let around = self.around.iter_mut(now).filter_map(|(ip, entry)| {
            let whom = || Some(Whom::Place(Place::Around(*ip)));
            lockout(&whom, &mut entry.failures, AROUND_FACTOR * limit)
        });
        let names = self.names.iter_mut(now).filter_map(|(_, entry)| {
            lockout(&|| entry.name.clone().map(Whom::Name), &mut entry.failures, NAME_FAILURES_MAX)
        });
        let known = self.known.iter_mut(now).filter_map(|((ip, _), entry)| {
            let whom = || Some(Whom::Login(Place::Client(*ip), entry.name.clone()));
            lockout(&whom, &mut entry.counted.failures, limit)
        });
        clients.chain(around).chain(names).chain(known).collect()
    }

    /// Has `failures` count for somebody, in the place of those that do.
    fn set(&mut self, whom: &Whom, name: u64, now: Instant, failures: Window<Instant>) {
        self.changes += 1;
        match whom {
            Whom::Place(Place::Client(ip)) => {
                self.clients.renew(*ip, now, Client::new).counted.failures = failures;
            }
            Whom::Place(Place::Around(ip)) => {
                self.around.renew(*ip, now, Counted::new).failures = failures;
            }
            Whom::Name(shown) => {
                let new = || Named { failures: window(), name: None };
                let named = self.names.renew(name, now, new);
                (named.failures, named.name) = (failures, Some(shown.clone()));
            }
            Whom::Login(Place::Client(ip) | Place::Around(ip), shown) => {
                self.known.renew((*ip, name), now, || Known::new(shown, now)).counted.failures = failures;
            }
        }
    }
}

/// A second from the first limit on, and twice as long with each doubling of the failures.
fn delay(failures: usize, limit: usize) -> Duration {
    match (failures / limit.max(1)).checked_ilog2() {
        None => Duration::ZERO,
        Some(doublings) => Duration::from_secs(1 << doublings.min(16)).min(DELAY_MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 5;

    impl Counts {
        /// Of memory, with all that hangs on the entries.
        fn bytes(&self) -> usize {
            let of_client = |client: &Client| {
                client.counted.failures.bytes() + client.wrong.capacity() * size_of::<Tag>()
            };
            let of_named =
                |named: &Named| named.failures.bytes() + named.name.as_ref().map_or(0, |name| name.len());
            self.clients.bytes(of_client)
                + self.around.bytes(|counted| counted.failures.bytes())
                + self.names.bytes(of_named)
                + self.known.bytes(|known| known.counted.failures.bytes() + known.name.len())
        }
    }

    fn failures() -> LoginFailures {
        LoginFailures::new().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// Tries a secret that is wrong; what came of it.
    fn guess(failures: &LoginFailures, client: &str, name: &str, secret: &str, now: Instant) -> Decision {
        let (keys, tag) = (failures.keys(ip(client), name), failures.tag(name, secret.as_bytes()));
        let mut counts = failures.lock();
        let decision = counts.begin(keys, Some(&tag), LIMIT, now);
        if let Decision::Check { known, .. } = decision {
            counts.failed(keys, Some(name), Some(tag), now);
            counts.ended(keys, known, now);
        }
        decision
    }

    fn is_checked(decision: &Decision) -> bool {
        matches!(decision, Decision::Check { .. })
    }

    fn delay_of(decision: Decision) -> u64 {
        match decision {
            Decision::Check { delay, .. } => delay.as_secs(),
            other => panic!("{other:?}"),
        }
    }

    fn logged_in(failures: &LoginFailures, client: &str, name: &str, now: Instant) {
        failures.lock().succeeded(failures.keys(ip(client), name), name, 0, now);
    }

    #[test]
    fn failures_count_by_client_for_ten_minutes() {
        let (failures, start) = (failures(), Instant::now());
        let at = |secs| start + Duration::from_secs(secs);
        let checked =
            |client, name, secret: &str, secs| is_checked(&guess(&failures, client, name, secret, at(secs)));
        for (n, secs) in [0, 0, 300, 300, 300].into_iter().enumerate() {
            assert!(checked("192.0.2.1", "app", &n.to_string(), secs));
        }
        assert!(!checked("192.0.2.1", "other", "x", 301));
        assert!(!checked("::ffff:192.0.2.1", "other", "x", 301));
        assert!(checked("192.0.2.2", "app", "x", 301));
        assert!(!checked("192.0.2.1", "app", "x", 599) && checked("192.0.2.1", "app", "x", 650));
    }

    #[test]
    fn an_ipv6_customer_has_one_count_and_a_48_has_ten_times_as_many() {
        let (failures, now) = (failures(), Instant::now());
        let checked = |net: usize| {
            let guess = |n: usize| {
                let client = format!("2001:db8:1:{net:x}::{n:x}");
                guess(&failures, &client, &format!("u{net}"), &n.to_string(), now)
            };
            (0..20).filter(|n| is_checked(&guess(*n))).count()
        };
        let all: usize = (0..200).map(checked).sum();
        assert_eq!(all, LIMIT * AROUND_FACTOR, "5 for each of ten /64, and none for the others");
        assert!(is_checked(&guess(&failures, "2001:db8:2::1", "app", "x", now)));
        // Who has logged in from there before is not shut out for what others of the network do.
        logged_in(&failures, "2001:db8:1:ffff::1", "app", now);
        assert!(is_checked(&guess(&failures, "2001:db8:1:ffff::2", "app", "x", now)));
        assert_eq!(guess(&failures, "2001:db8:1:ffff::2", "other", "x", now), Decision::TooMany);
    }

    /// Behind one address, and in one /64: others may guess what they like, at his name too.
    #[test]
    fn a_neighbour_cannot_lock_out_who_is_known() {
        for (owner, neighbour) in [("192.0.2.1", "192.0.2.1"), ("2001:db8:1:2::1", "2001:db8:1:2::bad")] {
            let (failures, now) = (failures(), Instant::now());
            logged_in(&failures, owner, "app", now);
            for n in 0..200 {
                guess(&failures, neighbour, &format!("name {}", n % 20), &n.to_string(), now);
            }
            assert_eq!(guess(&failures, neighbour, "other", "x", now), Decision::TooMany);
            assert!(
                failures.is_too_many(ip(owner), "other", LIMIT)
                    && !failures.is_too_many(ip(owner), "app", LIMIT)
            );
            assert_eq!(delay_of(guess(&failures, owner, "app", "typo", now)), 0);
            // At the known name: five as fast as anybody, then one at a time and slower, and never none.
            let delays: Vec<u64> =
                (0..100).map(|n| delay_of(guess(&failures, neighbour, "app", &n.to_string(), now))).collect();
            let first = |secs| delays.iter().position(|delay| *delay == secs);
            assert_eq!([1, 2, 4, 8].map(first), [Some(4), Some(9), Some(19), Some(39)]);
            let keys = failures.keys(ip(owner), "app");
            let mut counts = failures.lock();
            assert_eq!(
                counts.begin(keys, None, LIMIT, now),
                Decision::Check { delay: DELAY_MAX, known: true }
            );
            assert_eq!(counts.begin(keys, None, LIMIT, now), Decision::Wait, "one at a time");
            counts.ended(keys, true, now);
            assert!(is_checked(&counts.begin(keys, None, LIMIT, now)));
        }
    }

    #[test]
    fn one_wrong_secret_counts_once_for_a_client() {
        for known in [false, true] {
            let (failures, now) = (failures(), Instant::now());
            if known {
                logged_in(&failures, "192.0.2.1", "app", now);
            }
            assert!(is_checked(&guess(&failures, "192.0.2.1", "app", "old", now)));
            for _ in 0..100 {
                assert_eq!(guess(&failures, "192.0.2.1", "app", "old", now), Decision::WrongAgain);
            }
            for n in 0..4 {
                assert!(is_checked(&guess(&failures, "192.0.2.1", "app", &n.to_string(), now)));
            }
            let again = guess(&failures, "192.0.2.1", "app", "old", now);
            assert_eq!(again, if known { Decision::WrongAgain } else { Decision::TooMany });
        }
    }

    #[test]
    fn a_name_that_is_guessed_at_from_everywhere_is_slow_but_not_for_its_owner() {
        let (failures, now) = (failures(), Instant::now());
        logged_in(&failures, "198.51.100.1", "app", now);
        let delays: Vec<u64> = (0..100)
            .map(|n| delay_of(guess(&failures, &format!("10.{n}.0.1"), "app", &n.to_string(), now)))
            .collect();
        let first = |secs| delays.iter().position(|delay| *delay == secs);
        assert_eq!([1, 2, 4, 8].map(first), [Some(10), Some(20), Some(40), Some(80)]);
        assert_eq!(delay_of(guess(&failures, "198.51.100.1", "app", "x", now)), 0);
        // From an address that is new the owner waits as all do, and is checked.
        assert_eq!(delay_of(guess(&failures, "198.51.100.9", "app", "x", now)), DELAY_MAX.as_secs());
        assert_eq!(delay_of(guess(&failures, "10.1.0.1", "other", "x", now)), 0);
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
                        permit.failed(Some("app"));
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
            assert_eq!(delay_of(guess(&failures, "192.0.2.1", "app", &n.to_string(), now)), 0);
            failures.succeeded(ip("192.0.2.1"), "app", 1);
        }
    }

    /// All four maps full of the largest entries that anybody can make: the bytes that docs/security.md names.
    #[test]
    fn a_flood_of_addresses_and_names_is_forgotten_and_takes_no_more_than_is_said() {
        let (failures, start) = (failures(), Instant::now());
        let long = "x".repeat(10_000);
        for n in 0..REMEMBERED_MAX as u32 + 50 {
            let client = IpAddr::V6(std::net::Ipv6Addr::from_bits(u128::from(n) << 80));
            let name = format!("{n:064}");
            let mut counts = failures.lock();
            counts.succeeded(failures.keys(client, &name), &name, 0, start);
            for slot in 0..=WINDOW_SLOTS {
                let now = start + FAILURE_WINDOW / WINDOW_SLOTS * slot;
                for secret in 0..3 {
                    let tag = failures.tag(&name, &[secret, slot as u8]);
                    counts.failed(failures.keys(client, &name), Some(&name), Some(tag), now);
                }
            }
        }
        // And names of any length, which no user has.
        for n in 0..100 {
            let client = IpAddr::V4((n << 8).into());
            failures.lock().failed(
                failures.keys(client, &format!("{n}{long}")),
                None,
                None,
                start + FAILURE_WINDOW,
            );
        }
        let mut counts = failures.lock();
        let now = start + FAILURE_WINDOW;
        let Counts { clients, around, names, known, .. } = &mut *counts;
        let held = [clients.count(now), around.count(now), names.count(now), known.count(now)];
        assert!(
            held.iter().all(|count| (REMEMBERED_MAX * 7 / 8..=REMEMBERED_MAX).contains(count)),
            "{held:?}"
        );
        let bytes = counts.bytes();
        println!("{bytes} bytes");
        assert!((20 << 20..30_000_000).contains(&bytes), "{bytes}: is docs/security.md right?");
    }

    #[test]
    fn what_is_locked_is_listed_lifted_and_taken_over() {
        let (failures, start) = (failures(), Instant::now());
        let at = |secs| start + Duration::from_secs(secs);
        logged_in(&failures, "192.0.2.1", "app", start);
        for n in 0..12 {
            guess(&failures, "2001:db8:1:2::1", "nobody", &n.to_string(), at(10));
            guess(&failures, "192.0.2.1", "app", &n.to_string(), at(20));
            guess(&failures, &format!("198.51.{n}.1"), "app", "x", at(60));
        }
        let listed = |failures: &LoginFailures, secs| {
            let shown = |one: Lockout| {
                (format!("{:?}", one.whom), one.failures, one.age.as_secs(), one.left.as_secs())
            };
            let mut all: Vec<_> =
                failures.snapshot(LIMIT, at(secs)).lockouts.into_iter().map(shown).collect();
            all.sort();
            all
        };
        let client = "Place(Client(2001:db8:1:2::))";
        let wanted = [
            ("Login(Client(192.0.2.1), \"app\")", 12, 80, 570),
            ("Name(\"app\")", 24, 80, 570),
            ("Place(Client(192.0.2.1))", 12, 80, 570),
            (client, 5, 90, 560),
        ];
        let wanted = wanted.map(|(whom, failures, age, left)| (whom.to_owned(), failures, age, left));
        assert_eq!(listed(&failures, 100), wanted);
        // The next process: they end when they would have ended.
        let next = self::failures();
        let snapshot = failures.snapshot(LIMIT, at(100));
        for (place, name, age) in &snapshot.known {
            assert_eq!((place.to_string().as_str(), &**name, age.as_secs()), ("192.0.2.1", "app", 100));
            next.restore_known(*place, name, *age, at(100));
        }
        snapshot.lockouts.iter().for_each(|lockout| next.restore(lockout, at(100)));
        let ends = |all: Vec<(String, u32, u64, u64)>| {
            all.into_iter().map(|(whom, failures, _, left)| (whom, failures, left)).collect::<Vec<_>>()
        };
        assert_eq!(ends(listed(&next, 100)), ends(wanted.to_vec()));
        assert_eq!(guess(&next, "2001:db8:1:2::1", "app", "x", at(659)), Decision::TooMany);
        assert!(is_checked(&guess(&next, "2001:db8:1:2::1", "app", "x", at(660))));
        assert_eq!(delay_of(guess(&next, "192.0.2.1", "app", "y", at(101))), 2, "known, and slow");
        for lockout in snapshot.lockouts {
            failures.lift(&lockout.whom, at(100));
        }
        assert_eq!(listed(&failures, 100), []);
        assert_eq!(delay_of(guess(&failures, "2001:db8:1:2::1", "app", "x", at(100))), 0);
    }
}
