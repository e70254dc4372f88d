//! ATRN (RFC 2645, On-Demand Mail Relay): whether a client may have its connection reversed, and for which domains.
//! Pure; `session/atrn.rs` carries it out.

use crate::mail::{Domain, Reply};

use crate::submission::ports::WaitingMail;
use crate::submission::protocol::policy::PolicyContext;
use crate::submission::protocol::state::{Action, State, Transition};
use crate::submission::replies;

/// RFC 2645 §5.2: after AUTH, not within a transaction, for domains that are the user's.
pub(in crate::submission) fn step(
    state: State,
    mut domains: Vec<Domain>,
    context: &PolicyContext<'_>,
) -> Transition {
    let client = match state {
        State::Ready(client) => client,
        State::Connected => return Transition::reply(state, replies::EHLO_FIRST),
        state => return Transition::reply(state, replies::NOT_IN_TRANSACTION),
    };
    let reply = match &client.user {
        None if context.can_authenticate() => context.auth_first(),
        None => replies::NOT_OFFERED,
        Some(user) if user.atrn.is_empty() => replies::NOT_OFFERED,
        Some(user) => {
            if domains.is_empty() {
                domains.extend(user.atrn.iter().filter_map(|name| Domain::parse(name).ok()));
            }
            if domains.iter().all(|domain| user.atrn.iter().any(|own| own == domain.as_str())) {
                domains.sort();
                domains.dedup();
                return Transition {
                    state: State::Ready(client),
                    reply: None,
                    action: Action::Reverse(domains),
                };
            }
            replies::ATRN_REFUSED
        }
    };
    Transition::reply(State::Ready(client), reply)
}

/// What the client is told.
pub(in crate::submission) fn reply_to(waiting: WaitingMail) -> Reply {
    match waiting {
        WaitingMail::Mail => replies::REVERSING,
        WaitingMail::Nothing => replies::NO_MAIL,
        WaitingMail::NotTheirs => replies::ATRN_REFUSED,
        WaitingMail::Unknown => replies::ATRN_NOT_NOW,
    }
}
