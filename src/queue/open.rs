//! Starting and stopping the queue: the writer's thread, and what it shares with everybody else.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::contract::OpenStore;
use super::error::QueueError;
use super::op::Op;
use super::rows::Event;
use super::shared::{Shared, WriterState};
use super::slow::{self, Call};
use super::writer::{Parts, Writer};

/// Operations that wait for the writer at most; beyond, those who ask wait.
const OPS_WAITING_MAX: usize = 1024;
/// How long submission waits for a busy database before it answers 451.
pub(super) const BUSY_PATIENCE: Duration = Duration::from_secs(3);

/// The writer thread, as `serve` holds it.
#[derive(Debug)]
pub struct WriterHandle {
    ops: Sender<Op>,
    failed: Receiver<QueueError>,
    thread: JoinHandle<Result<(), String>>,
}

impl WriterHandle {
    /// Says why, when the writer ended before it was told to; the process is to exit with a failure.
    /// Disconnected without a word: it ended as it was told.
    pub fn failed(&self) -> &Receiver<QueueError> {
        &self.failed
    }

    /// Writes what was handed over, closes the database and frees the queue for another process. What is asked
    /// of the queue afterwards fails.
    ///
    /// # Errors
    /// Not everything could be written.
    pub fn stop(self) -> Result<(), QueueError> {
        // A writer that has ended takes nothing more; joining says why.
        let _ = self.ops.send(Op::Stop);
        match self.thread.join() {
            Ok(result) => result.map_err(QueueError::Writer),
            Err(_) => Err(QueueError::Writer("it panicked".to_owned())),
        }
    }
}

/// Starts the writer of a store; gives where it takes operations from.
pub(super) fn start(
    store: Box<dyn OpenStore>,
    shared: Arc<Shared>,
    busy_patience: Duration,
    events: Sender<Event>,
) -> Result<(Sender<Op>, WriterHandle), QueueError> {
    let (ops, waiting) = bounded(OPS_WAITING_MAX);
    let (report, failed) = bounded(1);
    let parts = Parts { shared, ops: waiting, events, call: Arc::new(Call::default()), busy_patience };
    let thread = std::thread::Builder::new()
        .name("queue-writer".to_owned())
        .spawn(move || run(&*store, parts, &report))
        .map_err(|error| QueueError::Database(format!("the system allows no thread for it: {error}")))?;
    Ok((ops.clone(), WriterHandle { ops, failed, thread }))
}

/// The writer's thread: whatever ends it, everybody hears of it.
fn run(store: &dyn OpenStore, parts: Parts, report: &Sender<QueueError>) -> Result<(), String> {
    let shared = parts.shared.clone();
    let (running, ended) = bounded(0);
    let (call, seen, ops, patience) =
        (parts.call.clone(), shared.clone(), parts.ops.clone(), parts.busy_patience);
    let watch = move || slow::watch(&call, &seen, &ops, patience, &ended);
    if let Err(error) = std::thread::Builder::new().name("queue-watch".to_owned()).spawn(watch) {
        return Err(format!("the system allows no thread for it: {error}"));
    }
    let work = AssertUnwindSafe(|| {
        let store = store.store().map_err(|failure| failure.to_string())?;
        Writer::new(store, parts).run()
    });
    let result = std::panic::catch_unwind(work).unwrap_or_else(|_| Err("it panicked".to_owned()));
    drop(running);
    shared.set_state(WriterState::Dead);
    shared.set_writable(false);
    result.map_err(|why| {
        // Nothing begins any more that could not be written down while this lasts.
        let rescued = store.rescue();
        let error = if rescued.is_some() { QueueError::FilesTaken } else { QueueError::Writer };
        let why = why + &rescued.unwrap_or_default();
        log::error!("queue: the writer stops, nothing more is accepted: {why}");
        // Room for one word, and this is the only one.
        let _ = report.try_send(error(why.clone()));
        why
    })
}
