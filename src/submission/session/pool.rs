//! The session pool: a thread for each live session, a bounded number of them, and their end.
//!
//! Threads are started as needed and reused; a panic ends its session and nothing else. The pool
//! counts sessions in all and by client, and knows each one's socket, so that [`Pool::stop`] can
//! wake those that wait for a client between transactions and in the end cut off the rest.

use std::collections::HashMap;
use std::net::{IpAddr, Shutdown, TcpStream};
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};

use crate::config::Limits;
use crate::mail::Reply;

use crate::submission::replies;

/// A TLS handshake with post-quantum key exchange and the verification of a password fit with room to spare.
const STACK_BYTES: usize = 512 << 10;
/// A thread without a session ends after this.
const IDLE_THREAD_LIFETIME: Duration = Duration::from_secs(10);
/// Sessions whose connection was cut off notice within this.
const CUT_OFF_TIME: Duration = Duration::from_secs(2);

type Job = Box<dyn FnOnce() + Send>;

/// All sessions.
pub(in crate::submission) struct Pool {
    census: Mutex<Census>,
    ended: Condvar,
    stopping: Arc<AtomicBool>,
    jobs: Sender<Job>,
    /// Where the threads wait; kept so that the channel lives as long as the pool.
    waiting_jobs: Receiver<Job>,
    /// Threads that wait for a job which nobody has claimed for them yet.
    idle_threads: AtomicUsize,
}

#[derive(Default)]
struct Census {
    live: HashMap<u64, Arc<Presence>>,
    by_client: HashMap<IpAddr, usize>,
    last: u64,
}

/// A session, seen from outside.
pub(in crate::submission) struct Presence {
    client: IpAddr,
    socket: Arc<TcpStream>,
    /// Between transactions, waiting for the client.
    waiting: AtomicBool,
    stopping: Arc<AtomicBool>,
}

impl Presence {
    /// The session waits for its client and has nothing to lose; false where it should end instead.
    pub(in crate::submission) fn wait_begins(&self) -> bool {
        // Sequentially consistent on both sides, as is stop(): either it sees that we wait, or we
        // see that it stops.
        self.waiting.store(true, Ordering::SeqCst);
        !self.stopping.load(Ordering::SeqCst)
    }

    /// The client said something.
    pub(in crate::submission) fn wait_ends(&self) {
        self.waiting.store(false, Ordering::SeqCst);
    }

    /// The relay stops.
    pub(in crate::submission) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }
}

/// A place in the pool; given back when dropped.
pub(in crate::submission) struct Place {
    pool: Arc<Pool>,
    number: u64,
    pub(in crate::submission) presence: Arc<Presence>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut census = self.pool.census();
        census.live.remove(&self.number);
        if let Some(count) = census.by_client.get_mut(&self.presence.client) {
            *count -= 1;
            if *count == 0 {
                census.by_client.remove(&self.presence.client);
            }
        }
        if census.live.is_empty() {
            self.pool.ended.notify_all();
        }
    }
}

impl Pool {
    pub(in crate::submission) fn new() -> Arc<Pool> {
        // As long as there are sessions at most: every job in it has a thread claimed.
        let (jobs, waiting_jobs) = crossbeam_channel::unbounded();
        Arc::new(Pool {
            census: Mutex::default(),
            ended: Condvar::new(),
            stopping: Arc::default(),
            jobs,
            waiting_jobs,
            idle_threads: AtomicUsize::new(0),
        })
    }

    /// Sessions now.
    pub(in crate::submission) fn sessions(&self) -> usize {
        self.census().live.len()
    }

    /// A place for a client's session.
    ///
    /// # Errors
    /// The reply to send it away with.
    pub(in crate::submission) fn admit(
        self: &Arc<Pool>,
        client: IpAddr,
        socket: &Arc<TcpStream>,
        limits: &Limits,
    ) -> Result<Place, Reply> {
        let mut census = self.census();
        if self.stopping.load(Ordering::SeqCst) {
            return Err(replies::SHUTTING_DOWN);
        }
        if census.live.len() >= limits.sessions {
            return Err(replies::TOO_MANY_SESSIONS);
        }
        let of_client = census.by_client.entry(client).or_default();
        if *of_client >= limits.sessions_per_client {
            return Err(replies::TOO_MANY_SESSIONS_FROM_CLIENT);
        }
        *of_client += 1;
        census.last += 1;
        let number = census.last;
        let presence = Arc::new(Presence {
            client,
            socket: Arc::clone(socket),
            waiting: AtomicBool::new(false),
            stopping: Arc::clone(&self.stopping),
        });
        census.live.insert(number, Arc::clone(&presence));
        Ok(Place { pool: Arc::clone(self), number, presence })
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

    /// Ends all sessions: those between transactions now, those within one when it is done, and whatever
    /// is left after `patience` by cutting the connection. Gives how many had to be cut off.
    pub(in crate::submission) fn stop(&self, patience: Duration) -> usize {
        let mut census = self.census();
        self.stopping.store(true, Ordering::SeqCst);
        for session in census.live.values() {
            if session.waiting.load(Ordering::SeqCst) {
                // Its read ends, and it says 421. Fails only where the client is gone already.
                let _ = session.socket.shutdown(Shutdown::Read);
            }
        }
        census = self.wait_for_none(census, patience);
        let cut_off = census.live.len();
        for session in census.live.values() {
            let _ = session.socket.shutdown(Shutdown::Both);
        }
        drop(self.wait_for_none(census, CUT_OFF_TIME));
        cut_off
    }

    fn wait_for_none<'a>(
        &self,
        mut census: MutexGuard<'a, Census>,
        patience: Duration,
    ) -> MutexGuard<'a, Census> {
        let deadline = Instant::now() + patience;
        while !census.live.is_empty() {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { break };
            census = self.ended.wait_timeout(census, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        census
    }

    /// Counting does not panic half-way; should it ever, the counts still serve.
    fn census(&self) -> MutexGuard<'_, Census> {
        self.census.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A panic ends one session: what it held is given back while it unwinds, and the thread goes on.
fn run_guarded(job: Job) {
    if panic::catch_unwind(AssertUnwindSafe(job)).is_err() {
        // The message and the place were printed by the panic hook.
        log::error!("a session ended by a panic; nothing of it was queued: please report this");
    }
}
