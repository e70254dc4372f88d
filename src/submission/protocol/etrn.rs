//! ETRN (RFC 1985): who may ask. Pure; `session/etrn.rs` carries it out.

use crate::submission::protocol::policy::PolicyContext;
use crate::submission::protocol::state::{Action, State, Transition};
use crate::submission::replies;
use crate::submission::syntax::command::Node;

/// RFC 1985 §5.1: after EHLO, not within a transaction; and not for strangers.
pub(in crate::submission) fn etrn(state: State, node: Node, context: &PolicyContext<'_>) -> Transition {
    let reply = match &state {
        State::Connected => replies::EHLO_FIRST,
        state if state.in_transaction() => replies::NOT_IN_TRANSACTION,
        state if !context.is_welcome(state.user()) => context.auth_first(),
        _ => return Transition { state, reply: None, action: Action::Kick(node) },
    };
    Transition::reply(state, reply)
}
