//! On-Demand Mail Relay (RFC 2645) wired: the users file says whose mail is fetched, submission turns connections
//! round, the scheduler gives what waits, delivery hands it over. None of these rooms knows another.
//!
//! A thread looks at the users file every second, so that a domain given to a user (or taken away) counts at once,
//! also while nobody logs in.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use anyhow::Context as _;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::config::AtrnDomains;
use crate::delivery::{self, Workers};
use crate::mail::Domain;
use crate::maillog;
use crate::scheduler::{AtrnClaims, Scheduler};
use crate::submission::users::Users;
use crate::submission::{self, ReversedConnection, WaitingMail};

/// How often the users file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What submission asks when somebody wants to fetch mail.
pub(super) struct OnDemand {
    users: RwLock<Arc<Users>>,
    scheduler: Scheduler,
    workers: Workers,
    /// Dropped, the thread ends.
    running: Mutex<Option<Sender<()>>>,
}

impl OnDemand {
    /// Starts the thread; the scheduler knows the domains of now.
    ///
    /// # Errors
    /// No thread to be had.
    pub(super) fn start(
        users: Arc<Users>,
        scheduler: Scheduler,
        workers: Workers,
    ) -> anyhow::Result<Arc<OnDemand>> {
        let (running, stopped) = bounded(0);
        let told = users.atrn_domains();
        let users = RwLock::new(users);
        let on_demand = Arc::new(OnDemand { users, scheduler, workers, running: Mutex::new(Some(running)) });
        let watching = on_demand.clone();
        std::thread::Builder::new()
            .name("users".to_owned())
            .spawn(move || watching.watch(told, &stopped))
            .context("start the thread that watches the users file")?;
        Ok(on_demand)
    }

    /// After a reload.
    pub(super) fn set_users(&self, users: Arc<Users>) {
        *self.users.write().unwrap_or_else(PoisonError::into_inner) = users;
    }

    /// The thread ends.
    pub(super) fn stop(&self) {
        drop(self.running.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Those in use.
    pub(super) fn users(&self) -> Arc<Users> {
        self.users.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn watch(&self, mut told: AtrnDomains, stopped: &Receiver<()>) {
        while stopped.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
            let domains = self.users().atrn_domains();
            if domains == told {
                continue;
            }
            match self.scheduler.set_atrn(domains.clone()) {
                Ok(()) => {
                    log::info!("mail that waits for ATRN: {}", listed(domains.names()));
                    told = domains;
                }
                Err(error) => log::error!("the queue cannot be read: {error}"),
            }
        }
    }
}

impl submission::OnDemand for OnDemand {
    fn look(&self, user: &str, domains: &[Domain]) -> WaitingMail {
        let theirs = self.users().find(user).is_some_and(|user| {
            domains.iter().all(|domain| user.atrn.iter().any(|own| own == domain.as_str()))
        });
        if !theirs {
            return WaitingMail::NotTheirs;
        }
        if !self.scheduler.gives_mail() {
            return WaitingMail::Unknown;
        }
        match self.scheduler.has_mail(domains) {
            Ok(true) => WaitingMail::Mail,
            Ok(false) => WaitingMail::Nothing,
            Err(error) => {
                log::error!("the queue cannot be read: {error}");
                WaitingMail::Unknown
            }
        }
    }

    fn hand_over(&self, connection: ReversedConnection) {
        let ReversedConnection { socket, tls, client, name, user, domains } = connection;
        maillog::turned(&user, &name, client, &listed(domains.iter().map(Domain::as_str)));
        // The client is gone already where this fails; it will come again.
        let Ok(address) = socket.peer_addr() else { return };
        let address = SocketAddr::new(client, address.port());
        let mut claims = AtrnClaims::of(&domains);
        let mut next = || {
            self.scheduler.fetch(&mut claims).unwrap_or_else(|error| {
                log::error!("the queue cannot be read: {error}");
                None
            })
        };
        self.workers.hand_over(delivery::Turned { tcp: socket, tls, host: name, address, user }, &mut next);
    }
}

fn listed<'d>(domains: impl Iterator<Item = &'d str>) -> String {
    let listed: Vec<&str> = domains.collect();
    if listed.is_empty() { "none".to_owned() } else { listed.join(",") }
}
