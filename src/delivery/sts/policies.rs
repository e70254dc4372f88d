//! The policies that are known, and the threads that fetch them.
//!
//! What was fetched is a row of the table `mta_sts_policies`; memory has those used last, and reads the table again
//! when somebody else has written to it. A worker never waits for a fetch: mail whose domain has a policy that is not
//! known yet is requeued for a moment and for `FETCH_WAIT` at most, and goes by what is known then. There is one
//! fetch of a domain at a time, by one of `FETCHES_MAX` threads, and none for `FAILED_FOR` after one that failed and
//! for `FETCHED_FOR` after any other, whatever its `max_age` and the `id` in DNS say.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::kit::bounded::TtlMap;
use crate::kit::text::without_controls;
use crate::mail::TlsPolicy;
use crate::mail::tlsrpt::{ResultType, day_of};
use crate::maillog;
use crate::queue::{Queue, QueueError, StsPolicyNote, StsPolicyRow, TlsSession};

use crate::delivery::https::{Https, HttpsError};
use crate::delivery::route::lookup::Lookup;
use crate::delivery::sts::fetch::{FetchError, fetch};
use crate::delivery::sts::policy::{MAX_AGE_MAX, Mode, Policy};
use crate::delivery::sts::record;
use crate::delivery::sts::step::{KnownPolicy, Step, next_step};

/// How long mail waits for the first policy of its domain, or for a changed one.
const FETCH_WAIT: Duration = Duration::from_secs(10);
/// After so long it asks again.
const ASK_AGAIN: Duration = Duration::from_millis(200);
/// Threads that fetch; a server that says nothing has one for a minute.
const FETCHES_MAX: usize = 32;
/// Domains that wait for a thread.
const WAITING_MAX: usize = 1000;
/// A fetch that failed is not tried again for so long.
const FAILED_FOR: Duration = Duration::from_secs(300);
/// One that did not is not repeated for so long: the mail of a domain whose policy lasts no time, or has a new id each
/// time, would wait for ever.
const FETCHED_FOR: Duration = Duration::from_secs(5);
/// Domains of which it is remembered that a fetch failed, and of which that it did not.
const FETCHES_REMEMBERED: usize = 10_000;
/// Policies that memory has; one may have 16 KB.
const KNOWN_MAX: usize = 1000;
/// Domains of which memory knows that the table has none.
const WITHOUT_MAX: usize = 10_000;
/// A policy that no mail went by for so long is not fetched again before its end.
const UNUSED_SECS: i64 = 30 * 86_400;
/// How often policies are looked for that are to be fetched again, and how many are at a time.
const REFRESH_EVERY: Duration = Duration::from_secs(60);
const REFRESHED_AT_ONCE: usize = 8;
/// Characters of the reason of a failure; a certificate may name thousands of hosts.
const REASON_CHARS_MAX: usize = 400;
/// A fetch thread's stack, as a worker's.
const STACK_BYTES: usize = 512 * 1024;

/// A policy that holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StsPolicy {
    /// Of these recipients.
    pub domain: String,
    /// The `id` by which it was found.
    pub id: String,
    /// What it says.
    pub policy: Policy,
    /// Unix seconds.
    pub fetched_at: i64,
    /// When it ends, unless it is fetched again.
    pub expires_at: i64,
    /// When mail went by it last, to a day.
    pub used_at: i64,
}

impl StsPolicy {
    /// A row of the table; none where somebody wrote something into it that is no policy.
    pub fn of_row(row: StsPolicyRow) -> Option<StsPolicy> {
        let mx = row.mx.split_ascii_whitespace().map(str::to_ascii_lowercase).collect();
        let policy = Policy { mode: Mode::parse(&row.mode)?, max_age: row.max_age.clamp(0, MAX_AGE_MAX), mx };
        let StsPolicyRow { domain, id, fetched_at, expires_at, used_at, .. } = row;
        Some(StsPolicy { domain, id, policy, fetched_at, expires_at, used_at })
    }

    fn row(&self) -> StsPolicyRow {
        StsPolicyRow {
            domain: self.domain.clone(),
            id: self.id.clone(),
            mode: self.policy.mode.to_string(),
            mx: self.policy.mx.join(" "),
            max_age: self.policy.max_age,
            fetched_at: self.fetched_at,
            expires_at: self.expires_at,
            used_at: self.used_at,
            last_error: None,
        }
    }

    /// What decides whether it is fetched again.
    pub fn known(&self) -> KnownPolicy<'_> {
        KnownPolicy { id: &self.id, max_age: self.policy.max_age, fetched_at: self.fetched_at }
    }
}

/// What is found of a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::delivery) enum StsFinding {
    /// No policy holds.
    None,
    /// This one.
    Policy(Arc<StsPolicy>),
    /// It is being fetched: ask again after this.
    Wait(Duration),
}

/// All that is known; a clone is another handle to the same.
#[derive(Clone)]
pub(in crate::delivery) struct Policies(Arc<Shared>);

struct Shared {
    queue: Queue,
    clock: Clock,
    state: Mutex<State>,
}

struct State {
    table: Table,
    /// Domains that are fetched, or wait for a thread, and since when.
    fetched_since: HashMap<String, Instant>,
    waiting: VecDeque<Fetch>,
    threads: usize,
    failed: TtlMap<String, (), Instant>,
    /// When policies were looked for that are to be fetched again.
    looked_at: Option<Instant>,
}

/// What the table says of domains, as far as memory has it.
struct Table {
    policies: TtlMap<String, Arc<StsPolicy>, Instant>,
    without: TtlMap<String, (), Instant>,
    /// Fetched a moment ago.
    fetched: TtlMap<String, (), Instant>,
    /// Of other writers than this process: those that are in here.
    outside_changes: u64,
    /// Rows that this process wrote. Who reads one meanwhile has what was before.
    writes: u64,
}

impl Table {
    fn new(outside_changes: u64) -> Table {
        let (policies, without) =
            (TtlMap::new(KNOWN_MAX, Duration::MAX), TtlMap::new(WITHOUT_MAX, Duration::MAX));
        let fetched = TtlMap::new(FETCHES_REMEMBERED, FETCHED_FOR);
        Table { policies, without, fetched, outside_changes, writes: 0 }
    }

    /// None: it is to be read.
    fn get(&self, domain: &str) -> Option<Option<Arc<StsPolicy>>> {
        let now = Instant::now();
        let policy = self.policies.get(domain, now).cloned();
        policy.map(Some).or_else(|| self.without.get(domain, now).map(|()| None))
    }

    fn insert(&mut self, domain: &str, policy: Option<Arc<StsPolicy>>) {
        let (domain, now) = (domain.to_owned(), Instant::now());
        match policy {
            Some(policy) => {
                self.without.remove(&domain, now);
                self.policies.insert(domain, policy, now);
            }
            None => {
                self.policies.remove(&domain, now);
                self.without.insert(domain, (), now);
            }
        }
    }

    /// What this process has written.
    fn wrote(&mut self, domain: &str, policy: Option<Arc<StsPolicy>>) {
        self.writes += 1;
        self.insert(domain, policy);
    }
}

/// A fetch that is to be made.
struct Fetch {
    domain: String,
    /// What DNS says; none: it is asked before.
    id: Option<String>,
    https: Arc<Https>,
}

impl Policies {
    pub(in crate::delivery) fn new(queue: Queue, clock: Clock) -> Policies {
        let state = State {
            table: Table::new(queue.outside_changes()),
            fetched_since: HashMap::new(),
            waiting: VecDeque::new(),
            threads: 0,
            failed: TtlMap::new(FETCHES_REMEMBERED, FAILED_FOR),
            looked_at: None,
        };
        Policies(Arc::new(Shared { queue, clock, state: Mutex::new(state) }))
    }

    /// The policy by which mail to this domain goes now. Asks DNS, and no HTTPS server: see [`StsFinding::Wait`].
    pub(in crate::delivery) fn find(&self, domain: &str, https: &Arc<Https>) -> StsFinding {
        // Before the look at what is known, which then has what that fetch brought.
        let was_tried = self.0.lock().was_tried(domain);
        let known = match self.known(domain) {
            Ok(known) => known,
            // Without the table nobody could say that there is no policy, and nothing else goes on either.
            Err(error) => {
                log::error!("MTA-STS policies cannot be read: {error}");
                return StsFinding::Wait(Duration::from_secs(1));
            }
        };
        let id = id_now(https.lookup(), domain);
        let step = next_step(known.as_deref().map(StsPolicy::known), id.as_deref(), was_tried, self.0.now());
        let fetch = || Fetch { domain: domain.to_owned(), id, https: Arc::clone(https) };
        match (step, known) {
            (Step::FetchFirst, known) => match self.0.fetch(fetch()) {
                Some(wait) => StsFinding::Wait(wait),
                None => self.go_by(known),
            },
            (Step::GoByAndFetch, known) => {
                self.0.fetch(fetch());
                self.go_by(known)
            }
            (Step::GoBy | Step::GoWithout, known) => self.go_by(known),
        }
    }

    /// The policy that is known and holds, without a question to anybody else.
    pub(in crate::delivery) fn known(&self, domain: &str) -> Result<Option<Arc<StsPolicy>>, QueueError> {
        let outside_changes = self.0.queue.outside_changes();
        let (known, writes) = {
            let table = &mut self.0.lock().table;
            if table.outside_changes != outside_changes {
                *table = Table { writes: table.writes, ..Table::new(outside_changes) };
            }
            (table.get(domain), table.writes)
        };
        let known = match known {
            Some(known) => known,
            // Nobody waits for the disk who has no need of it.
            None => {
                let read = self.0.queue.sts_policy(domain)?.and_then(StsPolicy::of_row).map(Arc::new);
                let table = &mut self.0.lock().table;
                if (table.outside_changes, table.writes) == (outside_changes, writes) {
                    table.insert(domain, read.clone());
                }
                read
            }
        };
        Ok(known.filter(|known| known.expires_at > self.0.now()))
    }

    fn go_by(&self, known: Option<Arc<StsPolicy>>) -> StsFinding {
        let Some(known) = known else { return StsFinding::None };
        let now = self.0.now();
        if now.saturating_sub(known.used_at) >= 86_400 {
            self.0.queue.note_sts_policy(&known.domain, StsPolicyNote::Used(now));
            let used = StsPolicy { used_at: now, ..StsPolicy::clone(&known) };
            self.0.lock().table.wrote(&known.domain, Some(Arc::new(used)));
        }
        StsFinding::Policy(known)
    }

    /// Has policies that are in use fetched again before their end. For every second: it looks at first, and once a
    /// minute from then on.
    pub(in crate::delivery) fn refresh(&self, https: &Arc<Https>) {
        {
            let mut state = self.0.lock();
            if state.looked_at.is_some_and(|at| at.elapsed() < REFRESH_EVERY) {
                return;
            }
            state.looked_at = Some(Instant::now());
        }
        let now = self.0.now();
        let used_since = now.saturating_sub(UNUSED_SECS);
        // More than are fetched: some of them may have been tried a moment ago.
        match self.0.queue.sts_policies_due(now, used_since, 100) {
            Ok(due) => {
                let is_due = |domain: &String| !self.0.lock().was_tried(domain);
                for domain in due.into_iter().filter(is_due).take(REFRESHED_AT_ONCE) {
                    self.0.fetch(Fetch { domain, id: None, https: Arc::clone(https) });
                }
            }
            Err(error) => log::error!("MTA-STS policies cannot be read: {error}"),
        }
    }
}

impl State {
    /// Whether a fetch ended a moment ago.
    fn was_tried(&self, domain: &str) -> bool {
        let now = Instant::now();
        self.failed.get(domain, now).is_some() || self.table.fetched.get(domain, now).is_some()
    }
}

impl Shared {
    /// What is inside is whole whenever the lock is free.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// By the clock that no jump ends a policy early with.
    fn now(&self) -> i64 {
        self.clock.confirmed()
    }

    /// Has it fetched, unless that is being done; how long mail is to wait for it. None: it has waited long enough, or
    /// there is no room for one more.
    fn fetch(self: &Arc<Self>, fetch: Fetch) -> Option<Duration> {
        let mut state = self.lock();
        if let Some(since) = state.fetched_since.get(&fetch.domain) {
            return (since.elapsed() < FETCH_WAIT).then_some(ASK_AGAIN);
        }
        if state.was_tried(&fetch.domain) {
            // Since it was looked at: what that fetch brought is known by now.
            return Some(ASK_AGAIN);
        }
        if state.fetched_since.len() >= FETCHES_MAX + WAITING_MAX {
            return None;
        }
        state.fetched_since.insert(fetch.domain.clone(), Instant::now());
        if state.threads >= FETCHES_MAX {
            state.waiting.push_back(fetch);
            return Some(ASK_AGAIN);
        }
        state.threads += 1;
        drop(state);
        // The thread keeps nothing of ours alive while it waits for a server: a stop does not wait for it.
        let (weak, domain, id) = (Arc::downgrade(self), fetch.domain.clone(), fetch.id.clone());
        let thread = std::thread::Builder::new().name("mta-sts".to_owned()).stack_size(STACK_BYTES);
        if let Err(error) = thread.spawn(move || run(&weak, fetch)) {
            self.lock().threads -= 1;
            self.done(&domain, id, Err(FetchError::NotAsked(error.to_string())));
        }
        Some(ASK_AGAIN)
    }

    /// A fetch that failed counts as a session that failed (RFC 8460 §4.3.2.1).
    fn count_failure(&self, domain: &str, error: &FetchError, now: i64) {
        let result = match error {
            FetchError::NoAnswer(HttpsError::Tls(_)) => ResultType::StsWebpkiInvalid,
            FetchError::NoAnswer(_) | FetchError::Status(_) => ResultType::StsPolicyFetchError,
            FetchError::MediaType(_) | FetchError::Invalid(_) => ResultType::StsPolicyInvalid,
            // Our own trouble.
            FetchError::NotAsked(_) => return,
        };
        self.queue.count_tls_sessions(vec![TlsSession {
            day: day_of(now),
            domain: domain.to_owned(),
            policy: TlsPolicy::None,
            mx: String::new(),
            ip: None,
            source: None,
            failed: Some(result),
            reason: without_controls(&error.to_string(), REASON_CHARS_MAX),
            policy_text: String::new(),
            tlsa_base: String::new(),
            own_message: None,
        }]);
    }

    /// Keeps what came of a fetch.
    fn done(&self, domain: &str, id: Option<String>, fetched: Result<Policy, FetchError>) {
        let now = self.now();
        if let Err(error) = &fetched {
            self.count_failure(domain, error, now);
        }
        let before = match self.queue.sts_policy(domain) {
            Ok(row) => row.and_then(StsPolicy::of_row).filter(|known| known.expires_at > now),
            Err(_) => None,
        };
        // A clock that was ahead wrote this one: it holds as long as if it had been fetched now, and not for years.
        let before = before.map(|known| {
            let is_ahead = known.fetched_at > now;
            let fetched_at = known.fetched_at.min(now);
            let expires_at =
                if is_ahead { now.saturating_add(known.policy.max_age) } else { known.expires_at };
            let known = StsPolicy { fetched_at, expires_at, used_at: known.used_at.min(now), ..known };
            if is_ahead {
                self.queue.set_sts_policy(known.row());
            }
            known
        });
        // Where DNS says nothing of it any more it stays what it was.
        let id = id.or_else(|| before.as_ref().map(|known| known.id.clone())).unwrap_or_default();
        let has_failed = fetched.is_err();
        let kept = match fetched {
            Ok(policy) => {
                let expires_at = now.saturating_add(policy.max_age);
                let used_at = before.as_ref().map_or(now, |known| known.used_at);
                let domain = domain.to_owned();
                let new = StsPolicy { domain, id, policy, fetched_at: now, expires_at, used_at };
                if before.as_ref().is_none_or(|known| (&known.policy, &known.id) != (&new.policy, &new.id)) {
                    let hosts = new.policy.mx.join(" ");
                    maillog::sts_policy(&new.domain, new.policy.mode.as_str(), &new.id, expires_at, &hosts);
                }
                self.queue.set_sts_policy(new.row());
                Some(new)
            }
            Err(error) => {
                let why = without_controls(&error.to_string(), REASON_CHARS_MAX);
                let holds = before.as_ref().map(|known| (known.policy.mode.as_str(), known.expires_at));
                maillog::sts_failed(domain, holds, &why);
                self.queue.note_sts_policy(domain, StsPolicyNote::Failed { at: now, why });
                before
            }
        };
        // Once it is on disk, so that whoever reads the table finds what memory has.
        let _ = self.queue.barrier();
        let mut state = self.lock();
        state.table.wrote(domain, kept.map(Arc::new));
        let tried = if has_failed { &mut state.failed } else { &mut state.table.fetched };
        tried.insert(domain.to_owned(), (), Instant::now());
        state.fetched_since.remove(domain);
    }

    /// After a panic: nothing waits for it any more, and it is tried again as after any failure.
    fn give_up(&self, domain: &str) {
        log::error!("the MTA-STS policy of {domain} was not fetched: a panic (a bug: please report)");
        let mut state = self.lock();
        state.failed.insert(domain.to_owned(), (), Instant::now());
        state.fetched_since.remove(domain);
    }
}

/// What DNS says of the policy's version, where it says something that can be read.
fn id_now(lookup: &dyn Lookup, domain: &str) -> Option<String> {
    let texts = lookup.txt(&record::name_of(domain)).ok()?;
    record::id(&texts).ok()
}

/// Fetches, and then what waits, until nothing does.
fn run(shared: &Weak<Shared>, mut fetch: Fetch) {
    loop {
        let Fetch { domain, id, https } = fetch;
        let ended = catch_unwind(AssertUnwindSafe(|| {
            // Before the document: a new one under an old id is fetched once more, an old one under a new id stays.
            let id = id.or_else(|| id_now(https.lookup(), &domain));
            let fetched = self::fetch(&https, &domain);
            if let Some(shared) = shared.upgrade() {
                shared.done(&domain, id, fetched);
            }
        }));
        let Some(shared) = shared.upgrade() else { return };
        if ended.is_err() {
            shared.give_up(&domain);
        }
        let mut state = shared.lock();
        match state.waiting.pop_front() {
            Some(next) => fetch = next,
            None => {
                state.threads -= 1;
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use crossbeam_channel::{Receiver, unbounded};

    use super::*;
    use crate::config::{self, QueueSettings};
    use crate::delivery::route::lookup::{DnsError, MxRecords};

    /// Every domain has a TXT record; addresses are answered (with none) once a test lets them be.
    struct Names(Receiver<()>);

    impl Lookup for Names {
        fn mx(&self, _: &str) -> Result<MxRecords, DnsError> {
            Err(DnsError::NoData)
        }

        fn addresses(&self, hosts: &[&str]) -> Vec<Result<Vec<IpAddr>, DnsError>> {
            let _ = self.0.recv();
            hosts.iter().map(|_| Err(DnsError::NoData)).collect()
        }

        fn reverse(&self, _: IpAddr) -> Result<Vec<String>, DnsError> {
            Err(DnsError::NoSuchDomain)
        }

        fn txt(&self, _: &str) -> Result<Vec<String>, DnsError> {
            Ok(vec!["v=STSv1; id=1".to_owned()])
        }
    }

    struct Bench {
        policies: Policies,
        queue: Queue,
        clock: Clock,
        https: Arc<Https>,
        _folder: tempfile::TempDir,
    }

    impl Bench {
        /// With lookups that are answered once there is something in `answers`, or nobody holds its other end.
        fn new(answers: Receiver<()>) -> Bench {
            let folder = tempfile::tempdir().unwrap();
            let settings = config::built_in(folder.path()).unwrap().settings.delivery;
            let queue = QueueSettings {
                path: folder.path().join("queue.db"),
                history: Duration::from_secs(60),
                litestream: false,
            };
            let (events, _) = unbounded();
            let (queue, writer) = Queue::open(&queue, events).unwrap();
            // It goes on as long as the queue does.
            std::mem::forget(writer);
            let clock = Clock::by_hand(100_000_000);
            let policies = Policies::new(queue.clone(), clock.clone());
            let https = Arc::new(Https::new(&settings, Arc::new(Names(answers))).unwrap());
            Bench { policies, queue, clock, https, _folder: folder }
        }

        fn row(&self, domain: &str, fetched_at: i64) -> StsPolicyRow {
            StsPolicyRow {
                domain: domain.to_owned(),
                id: "1".to_owned(),
                mode: "enforce".to_owned(),
                mx: "mx.a.test".to_owned(),
                max_age: 604_800,
                fetched_at,
                expires_at: fetched_at + 604_800,
                used_at: fetched_at,
                last_error: None,
            }
        }

        fn wait_until(&self, done: impl Fn(&State) -> bool) {
            while !done(&self.policies.0.lock()) {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }

    #[test]
    fn no_more_is_fetched_or_remembered_at_once_than_may_be() {
        let (release, answers) = unbounded();
        let bench = Bench::new(answers);
        let find = |number: usize| bench.policies.find(&format!("{number}.test"), &bench.https);
        let all = FETCHES_MAX + WAITING_MAX;
        for number in 0..all {
            assert_eq!(find(number), StsFinding::Wait(ASK_AGAIN));
        }
        for number in all..all + 500 {
            assert_eq!(find(number), StsFinding::None, "there is no room, and no mail waits for it");
        }
        assert_eq!(find(0), StsFinding::Wait(ASK_AGAIN), "it is fetched already");
        {
            let mut state = bench.policies.0.lock();
            assert_eq!((state.threads, state.waiting.len()), (FETCHES_MAX, WAITING_MAX));
            assert_eq!(state.fetched_since.len(), all);
            let table = &mut state.table;
            assert!(table.policies.count(Instant::now()) <= KNOWN_MAX);
            assert!(table.without.count(Instant::now()) <= WITHOUT_MAX);
            // They have waited for long.
            let long_ago = Instant::now().checked_sub(FETCH_WAIT).unwrap();
            state.fetched_since.values_mut().for_each(|since| *since = long_ago);
        }
        assert_eq!(find(0), StsFinding::None, "mail goes on, and the fetch too");
        drop(release);
        bench.wait_until(|state| state.threads == 0);
        assert_eq!(find(all - 1), StsFinding::None, "not at once again");
        let mut state = bench.policies.0.lock();
        assert!(state.fetched_since.is_empty() && state.waiting.is_empty());
        assert_eq!(state.failed.count(Instant::now()), all);
        for number in 0..2 * FETCHES_REMEMBERED {
            state.failed.insert(format!("more{number}.test"), (), Instant::now());
        }
        assert!(state.failed.count(Instant::now()) <= FETCHES_REMEMBERED);
    }

    #[test]
    fn policies_in_use_are_fetched_again_without_mail() {
        let (release, answers) = unbounded::<()>();
        drop(release);
        let bench = Bench::new(answers);
        let now = bench.clock.now();
        bench.queue.set_sts_policy(bench.row("old.test", now - 86_400));
        bench.queue.set_sts_policy(bench.row("new.test", now - 86_399));
        bench.queue.set_sts_policy(StsPolicyRow { used_at: 0, ..bench.row("unused.test", now - 86_400) });
        bench.queue.barrier().unwrap();
        let look = || {
            bench.policies.refresh(&bench.https);
            bench.wait_until(|state| state.threads == 0);
        };
        let a_minute_later = || {
            let mut state = bench.policies.0.lock();
            state.looked_at = state.looked_at.and_then(|at| at.checked_sub(REFRESH_EVERY));
            drop(state);
            look();
        };
        look();
        let error = |domain: &str| bench.queue.sts_policy(domain).unwrap().unwrap().last_error;
        let why = "mta-sts.old.test: no such records".to_owned();
        assert_eq!(error("old.test"), Some(why), "tried, and what there was is kept");
        assert_eq!((error("new.test"), error("unused.test")), (None, None));
        assert!(bench.policies.known("old.test").unwrap().is_some());
        bench.queue.set_sts_policy(bench.row("old.test", now - 86_400));
        bench.queue.barrier().unwrap();
        a_minute_later();
        assert_eq!(error("old.test"), None, "and not at once again");
        bench.clock.advance(1);
        look();
        assert_eq!(error("new.test"), None, "nobody looks again for a minute");
        a_minute_later();
        assert!(error("new.test").is_some());
    }

    #[test]
    fn a_policy_that_a_clock_ahead_wrote_holds_no_longer_than_one_of_now() {
        let (release, answers) = unbounded::<()>();
        drop(release);
        let bench = Bench::new(answers);
        let now = bench.clock.now();
        bench.queue.set_sts_policy(bench.row("a.test", now + 400 * 86_400));
        bench.queue.barrier().unwrap();
        bench.policies.refresh(&bench.https);
        bench.wait_until(|state| state.threads == 0);
        let row = bench.queue.sts_policy("a.test").unwrap().unwrap();
        assert_eq!((row.fetched_at, row.expires_at, row.used_at), (now, now + 604_800, now));
        assert!(row.last_error.is_some());
        assert_eq!(
            bench.policies.known("a.test").unwrap().map(|known| known.expires_at),
            Some(now + 604_800)
        );
    }

    #[test]
    fn a_policy_holds_until_its_end_and_mail_notes_its_use() {
        let (_release, answers) = unbounded();
        let bench = Bench::new(answers);
        let now = bench.clock.now();
        bench.queue.set_sts_policy(bench.row("a.test", now));
        bench.queue.barrier().unwrap();
        let find = || match bench.policies.find("a.test", &bench.https) {
            StsFinding::Policy(policy) => Some(policy.expires_at),
            _ => None,
        };
        let used_at = || {
            bench.queue.barrier().unwrap();
            bench.queue.sts_policy("a.test").unwrap().unwrap().used_at
        };
        assert_eq!((find(), used_at()), (Some(now + 604_800), now));
        bench.clock.advance(86_400);
        assert_eq!((find(), used_at()), (Some(now + 604_800), now + 86_400));
        bench.clock.advance(604_800 - 86_400 - 1);
        assert!(bench.policies.known("a.test").unwrap().is_some());
        bench.clock.advance(1);
        assert!(bench.policies.known("a.test").unwrap().is_none());
        // DNS has another id than this one, which was fetched a moment ago.
        bench
            .queue
            .set_sts_policy(StsPolicyRow { id: "0".to_owned(), ..bench.row("b.test", bench.clock.now()) });
        bench.queue.barrier().unwrap();
        bench.policies.0.lock().table.fetched.insert("b.test".to_owned(), (), Instant::now());
        let found = bench.policies.find("b.test", &bench.https);
        assert!(matches!(found, StsFinding::Policy(_)), "its mail does not wait for ever: {found:?}");
        bench.policies.0.lock().table.fetched.remove("b.test", Instant::now());
        assert_eq!(bench.policies.find("b.test", &bench.https), StsFinding::Wait(ASK_AGAIN));
        // What a hand wrote that is no policy is none.
        let odd = StsPolicyRow { mode: "maybe".to_owned(), ..bench.row("odd.test", now) };
        assert_eq!(StsPolicy::of_row(odd), None);
    }
}
