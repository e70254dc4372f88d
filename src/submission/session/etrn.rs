//! ETRN carried out (RFC 1985): what waits is tried now.

use std::time::Instant;

use crate::mail::Reply;
use crate::maillog;
use crate::queue::{Asker, Kick, KickScope};

use crate::submission::protocol::state::State;
use crate::submission::replies;
use crate::submission::session::Session;
use crate::submission::syntax::command::Node;

impl Session<'_> {
    /// Kicks, and gives the reply.
    pub(super) fn kick(&self, state: &State, node: &Node) -> Reply {
        let ports = &self.resources.ports;
        let name = node.to_string();
        let kick = match node {
            Node::Kick(kick) => kick.clone(),
            Node::Lane(lane) => match ports.operator_queries.domains_of_lane(lane) {
                Ok(Some(domains)) => Kick::Lane(lane.clone(), domains),
                Ok(None) => return replies::no_such_lane(&name),
                Err(_) => return replies::not_kicked(&name),
            },
        };
        let is_operator = state.user().is_some_and(|user| user.operator);
        let scope = match state.user() {
            Some(user) if user.operator => KickScope::All,
            Some(user) => KickScope::Own([&user.etrn[..], &user.atrn].concat()),
            None => KickScope::Own(Vec::new()),
        };
        let user = state.user().map(|user| user.name.clone());
        let asker = Asker { user, client: Some(self.client), scope };
        let who = asker.user.clone().unwrap_or_else(|| self.client.to_string());
        let (requests, now) = (&self.resources.etrn_requests, Instant::now());
        if !requests.allows(&who, &name, is_operator, now) {
            return replies::kicked_already(&name);
        }
        match ports.queue.kick(&kick, &asker) {
            Ok(kicked) => {
                maillog::kicked(&name, kicked.waiting(), &who);
                replies::kicked(&name, kicked)
            }
            Err(_) => {
                requests.forget(&who, &name, now);
                replies::not_kicked(&name)
            }
        }
    }
}
