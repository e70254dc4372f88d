//! The thread that has failed logins written, and heeds whom an operator lets in again: see `limits/lockouts.rs`.
//!
//! A thread of its own: it waits for the disk, which no login and no session does.

use std::io;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use crate::submission::limits::lockouts::Now;
use crate::submission::session::service::SessionResources;

/// How often it looks. The queue notices within half a second what somebody wrote; together that is under a second.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Takes over what the last process left, and starts the thread; it ends when there are no resources any more.
///
/// # Errors
/// The system has no thread left.
pub(in crate::submission) fn watch(resources: &Arc<SessionResources>) -> io::Result<()> {
    let SessionResources { lockouts, login_failures, ports, .. } = &**resources;
    lockouts.restore(login_failures, &*ports.queue, now(resources));
    let resources = Arc::downgrade(resources);
    thread::Builder::new().name("lockouts".to_owned()).spawn(move || run(&resources)).map(drop)
}

fn run(resources: &Weak<SessionResources>) {
    loop {
        thread::sleep(LOOK_EVERY);
        let Some(resources) = resources.upgrade() else { return };
        let SessionResources { lockouts, login_failures, ports, .. } = &*resources;
        let limit = resources.service().limits.auth_failures;
        lockouts.step(login_failures, &*ports.queue, limit, now(&resources));
    }
}

/// The relay stops: the last second of it is written, too.
pub(in crate::submission) fn finish(resources: &SessionResources) {
    let SessionResources { lockouts, login_failures, ports, .. } = resources;
    let limit = resources.service().limits.auth_failures;
    lockouts.finish(login_failures, &*ports.queue, limit, now(resources));
}

fn now(resources: &SessionResources) -> Now {
    Now { unix: resources.ports.clock.now(), instant: Instant::now() }
}
