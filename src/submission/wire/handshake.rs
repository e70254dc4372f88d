//! TLS handshakes, computed on threads of their own, as many as there are processors.
//!
//! Key exchange and signatures (ML-KEM most of all) want some thirty kilobytes of stack, once; a session
//! that did them itself would hold those pages for as long as it idles, and a thousand idle sessions are
//! what a relay has. Only the computing is done here: a session waits for its client's bytes
//! itself, so that a slow client holds up no other session.

use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use rustls::ServerConnection;

/// Fits the deepest handshake several times over.
const STACK_BYTES: usize = 512 << 10;

/// The threads; they end when this is dropped.
#[derive(Debug)]
pub(in crate::submission) struct Handshakes {
    /// At most one for each session waits.
    jobs: Sender<Job>,
}

struct Job {
    connection: Box<ServerConnection>,
    done: Sender<Done>,
}

type Done = (Box<ServerConnection>, Result<(), rustls::Error>);

impl Handshakes {
    /// # Errors
    /// The system has no thread left.
    pub(in crate::submission) fn start() -> io::Result<Handshakes> {
        let (jobs, waiting) = unbounded();
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            let waiting = waiting.clone();
            let builder = thread::Builder::new().name("handshake".to_owned()).stack_size(STACK_BYTES);
            builder.spawn(move || work(&waiting))?;
        }
        Ok(Handshakes { jobs })
    }

    /// `process_new_packets` of a connection in its handshake.
    ///
    /// # Errors
    /// TLS's; or the computation panicked, and there is no connection any more.
    pub(in crate::submission) fn process(
        &self,
        connection: Box<ServerConnection>,
    ) -> io::Result<(Box<ServerConnection>, Result<(), rustls::Error>)> {
        let (done, result) = bounded(1);
        let gone = |_| io::Error::other("the handshake's thread is gone");
        self.jobs.send(Job { connection, done }).map_err(|_| gone(()))?;
        result.recv().map_err(|_| gone(()))
    }
}

fn work(waiting: &Receiver<Job>) {
    for Job { mut connection, done } in waiting {
        // A panic ends one handshake: its session finds `done` dropped. The hook has printed it.
        let _ = panic::catch_unwind(AssertUnwindSafe(move || {
            let result = connection.process_new_packets().map(|_| ());
            // The session waits for nothing else; it cannot be gone.
            let _ = done.send((connection, result));
        }));
    }
}
