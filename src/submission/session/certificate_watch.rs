//! The thread that takes a renewed certificate into use, and tells of its end: see `wire/certificate.rs`.

use std::io;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use crate::kit::text::day;
use crate::submission::session::service::SessionResources;
use crate::submission::wire::certificate::{Certificate, Look};

/// How often it looks. A pair is taken at the second look that finds it unchanged, which is within two seconds.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Starts the thread; it ends when there are no resources any more.
///
/// # Errors
/// The system has no thread left.
pub(in crate::submission) fn watch(resources: &Arc<SessionResources>) -> io::Result<()> {
    let resources = Arc::downgrade(resources);
    thread::Builder::new().name("certificate".to_owned()).spawn(move || run(&resources)).map(drop)
}

fn run(resources: &Weak<SessionResources>) {
    loop {
        thread::sleep(LOOK_EVERY);
        let Some(resources) = resources.upgrade() else { return };
        // A reload brings another one.
        if let Some(certificate) = &resources.service().certificate {
            look(certificate, resources.ports.clock.now());
        }
    }
}

fn look(certificate: &Certificate, now: i64) {
    let name = certificate.name();
    let end = |at: Option<i64>| at.map_or_else(|| "nobody knows when".to_owned(), day);
    match certificate.look(now) {
        Look::Same => {}
        Look::Replaced => {
            log::info!(
                "certificate: {name} was renewed and is in use; it holds until {}",
                end(certificate.ends_at())
            );
        }
        Look::Worse(fault) => log::error!(
            "certificate: {name} was changed, and what is there now {fault}; the one of before stays in use while it \
             holds; put the right one there"
        ),
        Look::Broken(error) => {
            log::warn!(
                "certificate: {error}; that was changed a minute ago, and the one of before stays in use"
            );
        }
    }
    match certificate.end_to_tell(now) {
        Some(at) if at <= now => log::error!("certificate: {name} expired on {}; renew it", day(at)),
        Some(at) => log::warn!(
            "certificate: {name} holds until {}, for {} days more; renew it",
            day(at),
            (at - now) / 86_400
        ),
        None => {}
    }
}
