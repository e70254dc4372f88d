//! The queue for people: looks and changes from outside, with or without the relay running.
//!
//! A connection of its own, as any other process has; a relay that runs notices within two seconds.

use std::ops::Deref;
use std::path::Path;

use super::contract::AdminStore;
use super::error::QueueError;
use super::sqlite::admin::Admin as Sqlite;

pub use super::admin_rows::{
    Change, Changed, ConfigInUse, DialogueLine, DiskRoom, DomainLine, End, Envelope, FailureLine,
    FinishedMessage, HostLine, KickLine, LaneLine, Line, LoginFailureLine, OldestLine, Order, RouteInUse,
    Selected, Shown, ShownLabels, ShownRecipient, StoryLine, Summary, Try,
};
pub use super::copy_rows::{Copied, HowToRestore, Recovered, RecoveredTable, Restored};
pub use super::filter::{Action, Filter, Pattern};
pub use super::gauge_rows::Fill;
pub use super::overview_rows::{DomainWaiting, FailureGroup, MinuteCount, PolicyCount, Refusal, TlsFailure};
pub use super::suspension::{Suspended, SuspendedBy, SuspensionLine};
pub use super::traffic_rows::{GroupBy, Reason, Traffic, TrafficLine, Wanted};

/// An operator's connection: what it looks at and changes is in [`AdminStore`].
#[derive(Debug)]
pub struct Admin(Box<dyn AdminStore>);

impl Admin {
    /// To look only.
    ///
    /// # Errors
    /// There is no queue here, or this user may not read it.
    pub fn to_read(path: &Path) -> Result<Admin, QueueError> {
        Ok(Admin(Box::new(Sqlite::open(path, false)?)))
    }

    /// To change.
    ///
    /// # Errors
    /// There is no queue here, or this user may not write it.
    pub fn to_write(path: &Path) -> Result<Admin, QueueError> {
        Ok(Admin(Box::new(Sqlite::open(path, true)?)))
    }
}

impl Deref for Admin {
    type Target = dyn AdminStore;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

/// Puts what can be read of the damaged database at `path` into a fresh one, which takes its place; the damaged one is
/// kept beside it. `held`: what waits is not tried until released. No relay may run on it.
///
/// # Errors
/// There is no queue here, a relay runs on it, or nothing of it can be read.
pub fn recover(path: &Path, held: bool) -> Result<Recovered, QueueError> {
    super::sqlite::recover(path, held)
}

/// Writes a copy of the queue at `path` to the new file `to`, with or without a relay that runs, and has the copy
/// read itself through. The file has its name once it is whole and on the disk.
///
/// # Errors
/// There is no queue here, the file exists already, or the disk has no room for it.
pub fn back_up(path: &Path, to: &Path) -> Result<Copied, QueueError> {
    super::sqlite::back_up(path, to)
}

/// Puts the backup `from` in the place of the queue at `path`, which is kept beside it. No relay may run on it. All
/// that waits is held and in doubt, unless `how` says that nothing can have been sent since.
///
/// # Errors
/// The backup is damaged or none, a relay runs, or mail waits in the queue that is there.
pub fn restore(path: &Path, from: &Path, how: HowToRestore) -> Result<Restored, QueueError> {
    super::sqlite::restore(path, from, how)
}
