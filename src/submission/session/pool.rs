//! The session pool: a thread for each live session, and what a panic in one of them ends.
//!
//! Threads are started as needed and reused; a panic ends its session and nothing else. How many sessions there
//! may be is `limits/sessions.rs`'s to say.

use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};

/// A TLS handshake with post-quantum key exchange and the verification of a password fit with room to spare.
const STACK_BYTES: usize = 512 << 10;
/// A thread without a session ends after this.
const IDLE_THREAD_LIFETIME: Duration = Duration::from_secs(10);

type Job = Box<dyn FnOnce() + Send>;

/// The threads.
pub(in crate::submission) struct Pool {
    jobs: Sender<Job>,
    /// Where the threads wait; kept so that the channel lives as long as the pool.
    waiting_jobs: Receiver<Job>,
    /// Threads that wait for a job which nobody has claimed for them yet.
    idle_threads: AtomicUsize,
}

impl Pool {
    /// Without a thread so far.
    pub(in crate::submission) fn new() -> Arc<Pool> {
        // As long as there are sessions at most: every job in it has a thread claimed.
        let (jobs, waiting_jobs) = crossbeam_channel::unbounded();
        Arc::new(Pool { jobs, waiting_jobs, idle_threads: AtomicUsize::new(0) })
    }

    /// Runs `job` on a thread that waits, or on a new one.
    ///
    /// # Errors
    /// The system has no thread left; the job was dropped.
    pub(in crate::submission) fn run(self: &Arc<Pool>, job: Job) -> std::io::Result<()> {
        if self.claim_idle_thread() {
            // Cannot fail: we hold the receiving end too.
            let _ = self.jobs.send(job);
            return Ok(());
        }
        let waiting_jobs = self.waiting_jobs.clone();
        let pool = Arc::downgrade(self);
        thread::Builder::new().name("session".to_owned()).stack_size(STACK_BYTES).spawn(move || {
            run_guarded(job);
            loop {
                match pool.upgrade() {
                    Some(pool) => pool.idle_threads.fetch_add(1, Ordering::SeqCst),
                    None => return,
                };
                let next = waiting_jobs.recv_timeout(IDLE_THREAD_LIFETIME).ok().or_else(|| {
                    // Nobody claimed us: end. Somebody did: the job is on its way.
                    let unclaimed = pool.upgrade().is_none_or(|pool| pool.claim_idle_thread());
                    if unclaimed { None } else { waiting_jobs.recv().ok() }
                });
                match next {
                    Some(job) => run_guarded(job),
                    None => return,
                }
            }
        })?;
        Ok(())
    }

    fn claim_idle_thread(&self) -> bool {
        self.idle_threads.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |idle| idle.checked_sub(1)).is_ok()
    }
}

/// A panic ends one session: what it held is given back while it unwinds, and the thread goes on.
fn run_guarded(job: Job) {
    if panic::catch_unwind(AssertUnwindSafe(job)).is_err() {
        // The message and the place were printed by the panic hook.
        log::error!("a session ended by a panic; nothing of it was queued: please report this");
    }
}
