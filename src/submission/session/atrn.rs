//! ATRN carried out (RFC 2645): the connection is given away where mail waits.
//!
//! What the client said before our 250 is never taken for an answer of the server that it becomes: while
//! something is left unread ATRN is refused.

use crate::mail::Domain;

use crate::submission::limits::sessions::Authority;
use crate::submission::ports::{ReversedConnection, WaitingMail};
use crate::submission::protocol::atrn;
use crate::submission::protocol::state::State;
use crate::submission::replies;
use crate::submission::session::{End, Flow, Session};

impl Session<'_> {
    /// Refuses what there is to be refused; a connection is reversed only for mail that waits.
    pub(super) fn reverse(&mut self, state: State, domains: Vec<Domain>) -> Flow {
        let (Some(client), Some(user)) = (state.client(), state.user()) else { return Ok(state) };
        if self.wire.has_input() {
            self.say(&replies::ATRN_NOT_LAST)?;
            return Ok(state);
        }
        let waiting = self.resources.ports.on_demand.look(&user.name, &domains);
        self.say(&atrn::reply_to(waiting))?;
        match waiting {
            WaitingMail::Mail => {
                Err(End::Reversed { name: client.name.clone(), user: user.name.clone(), domains })
            }
            _ => Ok(state),
        }
    }

    pub(super) fn hand_over(self, name: String, user: String, domains: Vec<Domain>) {
        // From here on the scheduler says, for each message, whether the domain is still the user's; a connection cut
        // off behind a final dot would have the message fetched twice.
        self.handle.set_authority(Authority::None);
        // The client is gone already where this fails.
        let (Some(client), Ok((socket, tls))) = (self.client.ip(), self.wire.into_parts()) else { return };
        let Ok(socket) = socket.try_clone() else { return };
        let connection = ReversedConnection { socket: socket.into(), tls, client, name, user, domains };
        self.resources.ports.on_demand.hand_over(connection);
    }
}
