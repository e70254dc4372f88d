//! Whether a message could be committed now, and if not, why: one decision and one set of words for `/readyz`, for
//! `postrider health --ready` and for systemd's status.
//!
//! What is known without a look (the relay stops, the disk is full, the writer has told that it cannot write) is not
//! enough: a lock that somebody holds, or a disk that does not answer, shows only when something is written. So whoever
//! asks has an empty commit made, at most one a second and never two at once. Where nobody asks, none is made, unless
//! the last one failed: then it is tried until it succeeds.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::queue::{AcceptError, Probe, Queue};

use super::MonitoringContext;
use super::http::{Request, Response, Status};

/// What is said while all is well.
pub const READY: &str = "takes and delivers mail";
/// So long the answer to a commit holds for those who ask.
const FRESH: Duration = Duration::from_secs(1);
/// A commit that takes longer is no good sign.
const SLOW: Duration = Duration::from_secs(1);
/// Who asks hears by then what is known.
const PATIENCE: Duration = Duration::from_millis(1500);
/// How often it is looked whether the commit is done.
const TICK: Duration = Duration::from_millis(5);

/// What the decision is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Facts {
    /// SIGTERM has come.
    pub(crate) stopping: bool,
    /// Why the queue says that it takes no mail.
    pub(crate) refused: Option<String>,
    /// Of the last commit.
    pub(crate) commit: Commit,
    /// Who else holds the database's lock.
    pub(crate) lock_holder: Option<String>,
}

/// How an empty commit went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Commit {
    /// Well, or there was none.
    Done,
    /// It lasts, for so long by now.
    Lasts(Duration),
    /// Not at all.
    Failed(AcceptError),
}

/// Why no message could be committed, in words.
pub(crate) fn decide(facts: &Facts) -> Result<(), String> {
    let Facts { stopping, refused, commit, lock_holder } = facts;
    if *stopping {
        return Err("stopping: no new mail is taken".to_owned());
    }
    // What lasts for a moment is somebody's short change, or our own commit.
    let in_trouble = match commit {
        Commit::Done => false,
        Commit::Lasts(time) => *time >= SLOW,
        Commit::Failed(_) => true,
    };
    if let Some(holder) = lock_holder.as_ref().filter(|_| in_trouble) {
        return Err(format!("new mail is refused: another process holds the queue's lock: {holder}"));
    }
    match (refused, commit) {
        (_, Commit::Lasts(time)) if *time >= SLOW => {
            Err(format!("new mail waits: the disk has not answered for {} s", time.as_secs()))
        }
        (Some(why), _) => Err(format!("new mail is refused: {why}")),
        (None, Commit::Failed(error)) => Err(format!("new mail is refused: {error}")),
        (None, Commit::Done | Commit::Lasts(_)) => Ok(()),
    }
}

/// Keeps what is known.
pub struct Readiness {
    queue: Queue,
    stopping: AtomicBool,
    commits: Mutex<Commits>,
}

#[derive(Default)]
struct Commits {
    /// One that is not answered yet, and since when.
    pending: Option<(Probe, Instant)>,
    /// What came of the last one, and when.
    last: Option<(Result<(), AcceptError>, Instant)>,
}

impl Commits {
    /// Takes the answer, if it is there.
    fn collect(&mut self) {
        if let Some(answer) = self.pending.as_ref().and_then(|(probe, _)| probe.answer()) {
            self.pending = None;
            self.last = Some((answer, Instant::now()));
        }
    }

    fn begin(&mut self, queue: &Queue) {
        if self.pending.is_none() {
            self.pending = Some((queue.probe(), Instant::now()));
            self.collect();
        }
    }

    fn is_fresh(&self) -> bool {
        self.last.as_ref().is_some_and(|(_, at)| at.elapsed() < FRESH)
    }

    /// The last one failed a while ago: however often somebody looks, there is one a second.
    fn is_due(&self) -> bool {
        matches!(self.last, Some((Err(_), _))) && !self.is_fresh()
    }

    fn state(&self) -> Commit {
        match (&self.pending, &self.last) {
            (Some((_, since)), last) if since.elapsed() >= SLOW || !matches!(last, Some((Err(_), _))) => {
                Commit::Lasts(since.elapsed())
            }
            (_, Some((Err(error), _))) => Commit::Failed(*error),
            _ => Commit::Done,
        }
    }
}

impl Readiness {
    /// Of a queue that has just been opened.
    pub fn new(queue: Queue) -> Readiness {
        Readiness { queue, stopping: AtomicBool::new(false), commits: Mutex::default() }
    }

    /// From now on nothing is taken any more.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Has a commit made, unless one is fresh, and decides by it.
    ///
    /// # Errors
    /// Why no message could be committed now.
    pub fn ask(&self) -> Result<(), String> {
        let until = Instant::now() + PATIENCE;
        loop {
            let mut commits = self.commits();
            commits.collect();
            if commits.is_fresh() || Instant::now() >= until {
                return self.decide(&commits);
            }
            commits.begin(&self.queue);
            drop(commits);
            std::thread::sleep(TICK);
        }
    }

    /// By what is known; after a commit that failed another one is tried, at most once a second.
    ///
    /// # Errors
    /// As [`Readiness::ask`].
    pub fn known(&self) -> Result<(), String> {
        let mut commits = self.commits();
        commits.collect();
        if commits.is_due() {
            commits.begin(&self.queue);
        }
        self.decide(&commits)
    }

    fn decide(&self, commits: &Commits) -> Result<(), String> {
        let commit = commits.state();
        let lock_holder = if commit == Commit::Done { None } else { self.queue.lock_holder() };
        let stopping = self.stopping.load(Ordering::Relaxed);
        decide(&Facts { stopping, refused: self.queue.why_refused(), commit, lock_holder })
    }

    fn commits(&self) -> MutexGuard<'_, Commits> {
        // Each change is one step: nothing is half done behind a poisoned lock.
        self.commits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `/readyz`.
pub(super) fn ready(context: &MonitoringContext, _: &Request) -> Response {
    match context.readiness.ask() {
        Ok(()) => Response::text(Status::Ok, format!("{READY}\n")),
        Err(why) => Response::text(Status::Unavailable, format!("{why}\n")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_commit_that_failed_there_is_another_one_once_a_second() {
        let last = |answer, ago| Commits { pending: None, last: Some((answer, Instant::now() - ago)) };
        assert!(!last(Err(AcceptError::Busy), Duration::ZERO).is_due(), "whoever reloads the page");
        assert!(last(Err(AcceptError::Busy), FRESH).is_due());
        assert!(!last(Ok(()), FRESH).is_due() && !Commits::default().is_due());
    }

    #[test]
    fn each_reason_has_its_words_and_the_nearest_cause_goes_first() {
        let well = Facts { stopping: false, refused: None, commit: Commit::Done, lock_holder: None };
        let said = |facts: Facts| decide(&facts).err().unwrap_or_default();
        let held = Some("pid 7 (sqlite3)".to_owned());
        let full = Some("the disk is full: 1 MB of 9 are left".to_owned());
        let lasts = |secs| Commit::Lasts(Duration::from_secs(secs));
        for (facts, words) in [
            (well.clone(), ""),
            // Our own commit, or somebody's who is quick, is nobody's fault.
            (Facts { lock_holder: held.clone(), ..well.clone() }, ""),
            (Facts { commit: lasts(0), lock_holder: held.clone(), ..well.clone() }, ""),
            (
                Facts { commit: lasts(2), lock_holder: held.clone(), ..well.clone() },
                "new mail is refused: another ",
            ),
            (Facts { commit: lasts(7), ..well.clone() }, "new mail waits: the disk has not answered for 7 s"),
            (
                Facts { refused: Some("the queue is busy".to_owned()), commit: lasts(7), ..well.clone() },
                "new mail waits: the disk has not answered for 7 s",
            ),
            (
                Facts { refused: full.clone(), ..well.clone() },
                "new mail is refused: the disk is full: 1 MB of 9",
            ),
            (
                Facts { commit: Commit::Failed(AcceptError::Busy), ..well.clone() },
                "new mail is refused: the queue is busy",
            ),
            (
                Facts {
                    refused: Some("the queue is busy".to_owned()),
                    commit: Commit::Failed(AcceptError::Busy),
                    lock_holder: held.clone(),
                    ..well.clone()
                },
                "new mail is refused: another process holds the queue's lock: pid 7 (sqlite3)",
            ),
            (Facts { stopping: true, refused: full, lock_holder: held, ..well }, "stopping: "),
        ] {
            let found = said(facts.clone());
            assert!(found.starts_with(words) && found.is_empty() == words.is_empty(), "{facts:?}: {found}");
        }
    }
}
