//! The queue for people: looks and changes from outside, with or without the relay running.
//!
//! A connection of its own, as any other process has; a relay that runs notices within two seconds.

use std::ops::Deref;
use std::path::Path;

use super::contract::AdminStore;
use super::error::QueueError;
use super::sqlite::admin::Admin as Sqlite;

pub use super::admin_rows::{
    Change, DiskRoom, DomainLine, End, Envelope, FailureLine, FinishedMessage, HostLine, KickLine, LaneLine,
    Line, LoginFailureLine, OldestLine, Recovered, RecoveredTable, Selected, Shown, ShownLabels,
    ShownRecipient, StoryLine, Summary, Try,
};
pub use super::filter::{Action, Filter, Pattern};
pub use super::overview_rows::{DomainWaiting, FailureGroup, MinuteCount, PolicyCount};
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
