//! A call of the store that does not come back: an fsync of many seconds, on a disk that fails or has too much to do.
//!
//! The writer's thread is inside that call and can tell nobody, so a thread of its own looks at it. After a second it
//! says so; after the time that a busy database is waited for, it refuses what can come again and has not reached the
//! store yet, as the writer does with a busy database. What is in the store's hands already is answered when the call
//! ends: whether it will be on disk is not known before, and who hears 451 would send it a second time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::error::AcceptError;
use super::op::Op;
use super::shared::{Shared, WriterState};

/// A call that takes longer is told of.
const SLOW: Duration = Duration::from_secs(1);
/// How often it is looked for.
const TICK: Duration = Duration::from_millis(250);

/// The call that the writer is in.
#[derive(Default)]
pub(super) struct Call(Mutex<State>);

#[derive(Default)]
struct State {
    began: Option<Instant>,
    told: bool,
    refused: bool,
    /// Taken from the channel while the call lasted, in order: what cannot be refused.
    kept: Vec<Op>,
}

impl Call {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does `act`, which [`Call::look`] can see meanwhile.
    pub(super) fn time<T>(&self, shared: &Shared, act: impl FnOnce() -> T) -> T {
        self.state().began = Some(Instant::now());
        let done = act();
        let mut state = self.state();
        let began = state.began.take();
        if std::mem::take(&mut state.told) {
            let secs = began.map_or(0.0, |began| began.elapsed().as_secs_f32());
            log::warn!("queue: the disk answered after {secs:.1} s");
        }
        if std::mem::take(&mut state.refused) {
            shared.set_state(WriterState::Good);
            shared.set_writable(true);
        }
        done
    }

    /// What was taken from the channel meanwhile comes before what is in there now.
    pub(super) fn take_kept(&self) -> Vec<Op> {
        std::mem::take(&mut self.state().kept)
    }

    pub(super) fn has_kept(&self) -> bool {
        !self.state().kept.is_empty()
    }

    /// Sees to those who wait while a call lasts.
    pub(super) fn look(&self, shared: &Shared, ops: &Receiver<Op>, busy_patience: Duration) {
        let mut state = self.state();
        let Some(lasts) = state.began.map(|began| began.elapsed()) else { return };
        if lasts >= SLOW && !std::mem::replace(&mut state.told, true) {
            log::warn!("queue: the disk has not answered for {:.1} s (fsync)", lasts.as_secs_f32());
        }
        if lasts < busy_patience {
            return;
        }
        // A stall has its own state, and its own words.
        if shared.state() == WriterState::Good {
            log::error!("queue: the disk does not answer: new mail is refused until it does");
            state.refused = true;
            shared.set_state(WriterState::Busy);
            shared.set_writable(false);
        }
        for op in ops.try_iter() {
            if op.can_be_refused() {
                shared.count_refused(AcceptError::Busy);
                op.refuse(AcceptError::Busy);
            } else {
                state.kept.push(op);
            }
        }
    }
}

/// Looks until the other end of `ended` is gone. Then the writer is, and whoever still asks is told so: the channel
/// keeps what was put into it in the moment when its last receiver went, and its caller would wait for ever.
pub(super) fn watch(
    call: &Arc<Call>,
    shared: &Shared,
    ops: &Receiver<Op>,
    busy_patience: Duration,
    ended: &Receiver<()>,
) {
    while ended.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
        call.look(shared, ops, busy_patience);
    }
    ops.iter().for_each(|op| op.refuse(AcceptError::Failed));
}
