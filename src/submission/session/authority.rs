//! Who may send is looked at again while sessions last: at each command between transactions, and by a thread that
//! ends, within a second, what sends by a login or a trusted network that is no more.
//!
//! What is looked at is the users file and the settings of the listener as they are now, a reload included. A user
//! that is gone, or has another password, is another user. Other rights (senders, rate, operator) are taken over.
//!
//! The same thread cuts off what was sent away and does not go (`limits/sessions.rs`).

use std::io;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use crate::maillog;

use crate::submission::limits::sessions::Authority;
use crate::submission::protocol::state::State;
use crate::submission::replies;
use crate::submission::session::service::SessionResources;
use crate::submission::session::{End, Session};
use crate::submission::syntax::command::{Command, SyntaxError};

/// How often the thread looks. What it finds has to be over within a second.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Starts the thread; it ends when there are no resources any more.
///
/// # Errors
/// The system has no thread left.
pub(in crate::submission) fn watch(resources: &Arc<SessionResources>) -> io::Result<()> {
    let resources = Arc::downgrade(resources);
    thread::Builder::new().name("authority".to_owned()).spawn(move || run(&resources)).map(drop)
}

fn run(resources: &Weak<SessionResources>) {
    loop {
        thread::sleep(LOOK_EVERY);
        let Some(resources) = resources.upgrade() else { return };
        resources.sessions.cut_off_overdue(Instant::now());
        let service = resources.service();
        service.users.look_again();
        for session in resources.sessions.handles() {
            let holds = match session.authority() {
                Authority::None => true,
                Authority::User(user) => service.users.current(&user).is_some(),
                Authority::Network => session.is_trusted(),
            };
            if !holds {
                session.send_away(replies::NO_LONGER_AUTHORIZED);
            }
        }
    }
}

impl Session<'_> {
    /// The state with its user as the users file has them now; between transactions only, so that a message has the
    /// same rights from its MAIL to its end.
    pub(super) fn with_current_user(
        &mut self,
        state: State,
        command: &Result<Command, SyntaxError>,
    ) -> Result<State, End> {
        let State::Ready(mut client) = state else { return Ok(state) };
        if let Some(name) = &self.local_user {
            let users = &self.resources.service().users;
            if matches!(command, Ok(Command::Mail(_))) {
                users.look_again();
            }
            // Not once the listener is gone.
            client.user = self.handle.is_trusted().then(|| users.local(name));
            return Ok(State::Ready(client));
        }
        let Some(user) = client.user.take() else { return Ok(State::Ready(client)) };
        let service = self.resources.service();
        if matches!(command, Ok(Command::Mail(_))) {
            service.users.look_again();
        }
        match service.users.current(&user) {
            Some(current) => {
                if !Arc::ptr_eq(&current, &user) {
                    self.handle.set_authority(Authority::User(Arc::clone(&current)));
                }
                client.user = Some(current);
                Ok(State::Ready(client))
            }
            None => {
                self.handle.send_away(replies::NO_LONGER_AUTHORIZED);
                Err(self.say_farewell())
            }
        }
    }

    /// What the session sends by, once a command was answered and led to `state`.
    pub(super) fn note_authority(&self, state: &State) {
        if state.user().is_none() || self.local_user.is_some() {
            let by_network = state.in_transaction() && self.handle.is_trusted();
            self.handle.set_authority(if by_network { Authority::Network } else { Authority::None });
        }
    }

    /// Goes on, unless somebody else has ended this session.
    pub(super) fn stay(&mut self) -> Result<(), End> {
        if self.handle.farewell().is_some() { Err(self.say_farewell()) } else { Ok(()) }
    }

    /// The end that somebody else has decided on; there is one.
    pub(super) fn say_farewell(&mut self) -> End {
        let Some(reply) = self.handle.farewell().cloned() else { return End::Lost };
        let who = match self.handle.authority() {
            Authority::User(user) => format!("user {}: ", user.name),
            Authority::None | Authority::Network => String::new(),
        };
        maillog::turned_away(self.client, &format!("{who}{reply}"));
        self.send_away(&reply)
    }
}
