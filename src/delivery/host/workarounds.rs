//! What hosts get wrong and how we go round it, remembered by host: the table `workarounds`, in memory.
//!
//! A workaround holds until its time is over. Then one connection tries the usual way, the others go on as before:
//! if it works the workaround is forgotten, if not it is found again. What people change in the table holds from
//! the next connection on, as soon as the queue notices that they did.
//!
//! # Bugs
//! What was found in the moment in which somebody else writes to the database may be missed here, though not in
//! the table: it is found once more.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::clock::Clock;
use crate::mail::Reply;
use crate::maillog;
use crate::queue::{Queue, WORKAROUNDS_MAX, Workaround, WorkaroundRow};

/// What the columns `what` say.
pub(in crate::delivery) const TLS: &str = "tls";
pub(in crate::delivery) const PIPELINING: &str = "pipelining";
pub(in crate::delivery) const BDAT: &str = "bdat";

/// How long the connection that tries the usual way may take to find out: two handshakes that hang, and some more.
const TRIAL_SECS: i64 = 180;
/// Hosts whose way with PIPELINING is known in memory.
const ABOVE_SUSPICION_MAX: usize = 10_000;
/// How long a host gets nothing in one go after it left a doubt once: what it swallows like this would be
/// delivered over and over. It costs a round trip a message.
const DOUBTED_SECS: i64 = 86_400;
/// Hosts that left a doubt, in memory.
const DOUBTED_MAX: usize = 10_000;

/// How long a workaround holds.
fn lifetime_secs(workaround: Workaround) -> i64 {
    match workaround {
        // Somebody who breaks one handshake on purpose must not read along for long; and a host that was merely in
        // trouble is soon back. An hour, since each new trial may cost the two minutes of two handshakes that
        // hang.
        Workaround::Clear => 3600,
        // Software and middleboxes are mended over days. Nothing is read by others meanwhile, or slow.
        Workaround::Classical | Workaround::LockStep | Workaround::Data => 86_400,
    }
}

/// What is known of hosts; all connectors of the relay share one.
#[derive(Debug)]
pub(in crate::delivery) struct Workarounds {
    clock: Clock,
    /// None: what is learnt ends with this value.
    queue: Option<Queue>,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    hosts: HashMap<String, Host>,
    /// Hosts that took commands together last time, or did no better without: if a connection breaks there, it is
    /// not for that.
    above_suspicion: HashSet<String>,
    /// Hosts that left a message in doubt that went in one go, and until when they get none.
    doubted: HashMap<String, i64>,
    /// The queue's count when `hosts` was read.
    outside_changes: u64,
}

#[derive(Debug, Default)]
struct Host {
    tls: Option<WorkaroundRow>,
    pipelining: Option<WorkaroundRow>,
    bdat: Option<WorkaroundRow>,
}

impl Host {
    fn of(&mut self, what: &str) -> &mut Option<WorkaroundRow> {
        match what {
            TLS => &mut self.tls,
            BDAT => &mut self.bdat,
            _ => &mut self.pipelining,
        }
    }

    fn rows(&self) -> impl Iterator<Item = &WorkaroundRow> {
        self.tls.iter().chain(&self.pipelining).chain(&self.bdat)
    }
}

impl Workarounds {
    /// Those of the table, and those that are to come into it.
    pub(in crate::delivery) fn of(queue: Queue, clock: Clock) -> Workarounds {
        let workarounds = Workarounds { clock, queue: Some(queue), known: Mutex::default() };
        if let Some(queue) = &workarounds.queue {
            workarounds.read(queue, &mut workarounds.lock());
        }
        workarounds
    }

    /// None yet, and none that outlive this value.
    pub(in crate::delivery) fn in_memory() -> Workarounds {
        Workarounds { clock: Clock::System, queue: None, known: Mutex::default() }
    }

    /// How to go round what this host gets wrong. None too for the one connection that is to try the usual way
    /// again.
    pub(in crate::delivery) fn recall(&self, host: &str, what: &str) -> Option<Workaround> {
        let mut known = self.known();
        let row = known.hosts.get_mut(host)?.of(what).as_mut()?;
        let now = self.clock.now();
        if row.retry_at > now {
            return Some(row.workaround);
        }
        row.retry_at = now + TRIAL_SECS;
        log::debug!("{host}: {what}: tried without its workaround again");
        None
    }

    /// The usual way failed like this, and this one worked.
    pub(in crate::delivery) fn found(&self, host: &str, workaround: Workaround, why: &Reply) {
        let mut known = self.known();
        let now = self.clock.now();
        if known.hosts.len() >= WORKAROUNDS_MAX && !known.hosts.contains_key(host) {
            // Those that nobody has sent to since.
            known.hosts.retain(|_, host| host.rows().any(|row| row.retry_at > now));
            if known.hosts.len() >= WORKAROUNDS_MAX {
                return;
            }
        }
        let what = workaround.words().0;
        let place = known.hosts.entry(host.to_owned()).or_default().of(what);
        let before = place.take().filter(|row| row.workaround == workaround);
        let secs = lifetime_secs(workaround);
        let row = WorkaroundRow {
            mx: host.to_owned(),
            workaround,
            last_reply: Some(why.to_string()),
            found_at: before.as_ref().map_or(now, |row| row.found_at),
            retry_at: now + secs,
        };
        *place = Some(row.clone());
        drop(known);
        if let Some(queue) = &self.queue {
            queue.remember_workaround(row);
        }
        if before.is_none() {
            maillog::workaround_found(host, workaround, secs, why);
        }
    }

    /// The usual way works. What somebody wrote into the table for longer than we would have stays.
    pub(in crate::delivery) fn ended(&self, host: &str, what: &'static str) {
        let mut known = self.known();
        let Some(at_host) = known.hosts.get_mut(host) else { return };
        let now = self.clock.now();
        let ours = |row: &mut WorkaroundRow| row.retry_at <= now + lifetime_secs(row.workaround);
        let Some(row) = at_host.of(what).take_if(ours) else { return };
        if at_host.rows().next().is_none() {
            known.hosts.remove(host);
        }
        drop(known);
        maillog::workaround_ended(host, row.workaround);
        if let Some(queue) = &self.queue {
            queue.forget_workaround(host, what);
        }
    }

    /// The host is not to blame for what broke in a batch: it took one, or does no better without.
    pub(in crate::delivery) fn trust(&self, host: &str) {
        let mut known = self.known();
        if known.above_suspicion.contains(host) {
            return;
        }
        if known.above_suspicion.len() >= ABOVE_SUSPICION_MAX {
            known.above_suspicion.clear();
        }
        known.above_suspicion.insert(host.to_owned());
    }

    /// A connection broke in a batch: whether that may be for the batch. Twice in a row it may, whatever went well
    /// before.
    pub(in crate::delivery) fn suspect(&self, host: &str) -> bool {
        !self.known().above_suspicion.remove(host)
    }

    /// A message that went to the host in one go is in doubt.
    pub(in crate::delivery) fn doubt(&self, host: &str) {
        let mut known = self.lock();
        if known.doubted.len() >= DOUBTED_MAX {
            known.doubted.clear();
        }
        known.doubted.insert(host.to_owned(), self.clock.now() + DOUBTED_SECS);
    }

    /// Whether the host is to get nothing in one go.
    pub(in crate::delivery) fn is_doubted(&self, host: &str) -> bool {
        let mut known = self.lock();
        let Some(until) = known.doubted.get(host) else { return false };
        let holds = *until > self.clock.now();
        if !holds {
            known.doubted.remove(host);
        }
        holds
    }

    /// What is known, read again if somebody else has written since.
    fn known(&self) -> MutexGuard<'_, Known> {
        let mut known = self.lock();
        if let Some(queue) = &self.queue
            && queue.outside_changes() != known.outside_changes
        {
            self.read(queue, &mut known);
        }
        known
    }

    fn read(&self, queue: &Queue, known: &mut Known) {
        known.outside_changes = queue.outside_changes();
        match queue.workarounds() {
            Ok(rows) => {
                known.hosts.clear();
                for row in rows {
                    let what = row.workaround.words().0;
                    let place = known.hosts.entry(row.mx.clone()).or_default().of(what);
                    *place = Some(row);
                }
            }
            // What is in memory goes on; at worst it is learnt again.
            Err(error) => log::error!("the workarounds cannot be read: {error}"),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // Nothing panics while this is held, and what is half done is learnt again.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Workaround::{Classical, Clear, Data, LockStep};

    const BROKEN: Reply = Reply::bare(421, "broken");

    fn at_time(now: i64) -> Workarounds {
        Workarounds { clock: Clock::by_hand(now), ..Workarounds::in_memory() }
    }

    #[test]
    fn a_workaround_holds_for_its_time_and_then_one_connection_tries_without() {
        for (workaround, what, secs) in [
            (Clear, TLS, 3600),
            (Classical, TLS, 86_400),
            (LockStep, PIPELINING, 86_400),
            (Data, BDAT, 86_400),
        ] {
            let workarounds = at_time(1000);
            assert_eq!(workarounds.recall("mx.test", what), None);
            workarounds.found("mx.test", workaround, &BROKEN);
            workarounds.clock.advance(secs - 1);
            assert_eq!(workarounds.recall("mx.test", what), Some(workaround));
            assert_eq!(workarounds.recall("mx2.test", what), None);
            workarounds.clock.advance(1);
            assert_eq!(workarounds.recall("mx.test", what), None, "the one that tries");
            assert_eq!(workarounds.recall("mx.test", what), Some(workaround), "the others");
            // It never came back to say.
            workarounds.clock.advance(TRIAL_SECS);
            assert_eq!(workarounds.recall("mx.test", what), None);
            workarounds.found("mx.test", workaround, &BROKEN);
            workarounds.clock.advance(secs - 1);
            assert_eq!(workarounds.recall("mx.test", what), Some(workaround), "renewed");
            let found_at = workarounds.known().hosts["mx.test"].rows().next().unwrap().found_at;
            assert_eq!(found_at, 1000, "known since then");
            workarounds.ended("mx.test", what);
            assert_eq!(workarounds.recall("mx.test", what), None);
            assert!(workarounds.known().hosts.is_empty());
        }
    }

    #[test]
    fn a_host_can_need_one_of_each_kind_and_the_later_of_a_kind_counts() {
        let workarounds = at_time(0);
        for workaround in [Classical, LockStep, Data, Clear] {
            workarounds.found("mx.test", workaround, &BROKEN);
        }
        assert_eq!(workarounds.recall("mx.test", TLS), Some(Clear));
        workarounds.ended("mx.test", TLS);
        assert_eq!(workarounds.recall("mx.test", PIPELINING), Some(LockStep));
        assert_eq!(workarounds.recall("mx.test", BDAT), Some(Data));
    }

    #[test]
    fn memory_is_bounded_and_those_nobody_needs_make_room() {
        let workarounds = at_time(0);
        for number in 0..=WORKAROUNDS_MAX {
            workarounds.found(&format!("mx{number}.test"), Clear, &BROKEN);
            workarounds.trust(&format!("mx{number}.test"));
        }
        let size = || workarounds.known().hosts.len();
        assert_eq!(size(), WORKAROUNDS_MAX);
        assert!(workarounds.known().above_suspicion.len() <= ABOVE_SUSPICION_MAX);
        workarounds.clock.advance(3600);
        workarounds.found("late.test", Clear, &BROKEN);
        assert_eq!(size(), 1);
    }

    #[test]
    fn a_host_that_left_a_doubt_gets_nothing_in_one_go_for_a_day() {
        let workarounds = at_time(0);
        assert!(!workarounds.is_doubted("mx.test"));
        workarounds.doubt("mx.test");
        workarounds.clock.advance(DOUBTED_SECS - 1);
        assert!(workarounds.is_doubted("mx.test") && !workarounds.is_doubted("mx2.test"));
        workarounds.clock.advance(1);
        assert!(!workarounds.is_doubted("mx.test"));
        (0..=DOUBTED_MAX).for_each(|number| workarounds.doubt(&format!("mx{number}.test")));
        assert!(workarounds.known().doubted.len() <= DOUBTED_MAX);
    }

    #[test]
    fn a_host_that_took_a_batch_is_suspected_only_the_second_time() {
        let workarounds = at_time(0);
        assert!(workarounds.suspect("mx.test"), "nothing is known of it");
        workarounds.trust("mx.test");
        assert_eq!((workarounds.suspect("mx.test"), workarounds.suspect("mx.test")), (false, true));
    }
}
