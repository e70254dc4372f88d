//! ETRN (RFC 1985): whose mail is tried now, for whom, and how often a client may ask.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::mail::{Domain, Reply};
use crate::maillog;
use crate::queue::{Asker, Kick};

use crate::submission::message::intake::MessageQueue;
use crate::submission::protocol::operator_commands::Insight;
use crate::submission::protocol::state::{Action, Here, State, Step};
use crate::submission::replies;
use crate::submission::syntax::command::SyntaxError;

/// How it is written.
pub(in crate::submission) const USAGE: &str = "ETRN host | @domain | #lane";
/// Of `#lane`: a lane is `route:` and a pattern at most. Our replies repeat it.
const LANE_BYTES_MAX: usize = 300;
/// How soon a client may ask again for the same.
const AGAIN_AFTER: Duration = Duration::from_secs(60);
/// For how many different nodes a client may ask in that time.
const NODES_PER_CLIENT_MAX: usize = 60;
/// Clients remembered at once.
const CLIENTS_MAX: usize = 10_000;

/// Whom an ETRN is for (RFC 1985 §5.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::submission) enum Node {
    /// `host` or `@domain`.
    Kick(Kick),
    /// `#lane`: "a name that only this host would know", here a lane's (`XSTA` lists them).
    Lane(String),
}

impl std::fmt::Display for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Node::Kick(kick) => kick.fmt(f),
            Node::Lane(lane) => write!(f, "#{lane}"),
        }
    }
}

/// Reads the argument (RFC 1985 §5.1).
pub(in crate::submission) fn parse(arguments: &str) -> Result<Node, SyntaxError> {
    let usage = SyntaxError::Usage(USAGE);
    let node = arguments.trim_start_matches(' ');
    let domain = |text: &str| Domain::parse(text).map_err(|_| usage.clone());
    match node.as_bytes().first() {
        Some(b'#') if (2..=LANE_BYTES_MAX).contains(&node.len()) && !node.contains(' ') => {
            Ok(Node::Lane(node[1..].to_owned()))
        }
        Some(b'@') => Ok(Node::Kick(Kick::DomainAndBelow(domain(&node[1..])?))),
        _ => Ok(Node::Kick(Kick::Domain(domain(node)?))),
    }
}

/// RFC 1985 §5.1: after EHLO, not within a transaction; and not for strangers.
pub(in crate::submission) fn etrn(state: State, node: Node, here: &Here<'_>) -> Step {
    let reply = match &state {
        State::Connected => replies::EHLO_FIRST,
        state if state.in_transaction() => replies::NOT_IN_TRANSACTION,
        state if !here.is_welcome(state.user()) => here.auth_first(),
        _ => return Step { state, reply: None, action: Action::Kick(node) },
    };
    Step::reply(state, reply)
}

/// Kicks, and gives the reply.
pub(in crate::submission) fn kick(
    node: &Node,
    asker: &Asker,
    recent: &Recent,
    queue: &dyn MessageQueue,
    insight: &dyn Insight,
) -> Reply {
    let name = node.to_string();
    let who = asker.user.clone().or_else(|| asker.client.map(|ip| ip.to_string())).unwrap_or_default();
    let kick = match node {
        Node::Kick(kick) => kick.clone(),
        Node::Lane(lane) => match insight.domains_of_lane(lane) {
            Ok(Some(domains)) => Kick::Lane(lane.clone(), domains),
            Ok(None) => return replies::no_such_lane(&name),
            Err(_) => return replies::not_kicked(&name),
        },
    };
    if !recent.allows(&who, &name, Instant::now()) {
        return replies::kicked_already(&name);
    }
    match queue.kick(&kick, asker) {
        Ok(kicked) => {
            maillog::kicked(&name, kicked.waiting(), &who);
            replies::kicked(&name, kicked)
        }
        Err(_) => {
            // It may be asked again at once: nothing was done.
            recent.forget(&who, &name);
            replies::not_kicked(&name)
        }
    }
}

/// Who asked for what within the last minute.
#[derive(Debug, Default)]
pub(in crate::submission) struct Recent {
    by_client: Mutex<HashMap<String, HashMap<String, Instant>>>,
}

impl Recent {
    /// Whether `client` may ask for `node` now; if so, this counts.
    fn allows(&self, client: &str, node: &str, now: Instant) -> bool {
        let fresh = |at: &Instant| now < *at + AGAIN_AFTER;
        let mut by_client = self.by_client.lock().unwrap_or_else(PoisonError::into_inner);
        if by_client.len() >= CLIENTS_MAX && !by_client.contains_key(client) {
            by_client.retain(|_, nodes| nodes.values().any(fresh));
            if by_client.len() >= CLIENTS_MAX {
                // Each of them is a user, or an address in a trusted network: forget any one.
                let any = by_client.keys().next().cloned();
                any.map(|any| by_client.remove(&any));
            }
        }
        let nodes = by_client.entry(client.to_owned()).or_default();
        nodes.retain(|_, at| fresh(at));
        if nodes.contains_key(node) || nodes.len() >= NODES_PER_CLIENT_MAX {
            return false;
        }
        nodes.insert(node.to_owned(), now);
        true
    }

    fn forget(&self, client: &str, node: &str) {
        let mut by_client = self.by_client.lock().unwrap_or_else(PoisonError::into_inner);
        by_client.get_mut(client).map(|nodes| nodes.remove(node));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_domain_and_lane_are_told_apart() {
        let domain = Domain::parse("example.com").unwrap();
        assert_eq!(parse("Example.com"), Ok(Node::Kick(Kick::Domain(domain.clone()))));
        assert_eq!(parse("@example.com"), Ok(Node::Kick(Kick::DomainAndBelow(domain))));
        assert_eq!(parse("#news"), Ok(Node::Lane("news".into())));
    }

    #[test]
    fn a_client_asks_once_a_minute_for_the_same_and_others_are_unaffected() {
        let recent = Recent::default();
        let start = Instant::now();
        let after = |secs| start + Duration::from_secs(secs);
        assert!(recent.allows("app", "example.com", start));
        assert!(!recent.allows("app", "example.com", after(59)));
        assert!(recent.allows("app", "@example.com", after(59)));
        assert!(recent.allows("news", "example.com", after(59)));
        assert!(recent.allows("app", "example.com", after(60)));
        recent.forget("app", "example.com");
        assert!(recent.allows("app", "example.com", after(61)));
    }

    #[test]
    fn what_is_remembered_has_a_bound() {
        let recent = Recent::default();
        let start = Instant::now();
        for n in 0..NODES_PER_CLIENT_MAX {
            assert!(recent.allows("app", &format!("d{n}.example"), start));
        }
        assert!(!recent.allows("app", "one-more.example", start));
        for n in 0..CLIENTS_MAX + 50 {
            assert!(recent.allows(&format!("client{n}"), "example.com", start));
        }
        assert_eq!(recent.by_client.lock().unwrap().len(), CLIENTS_MAX);
    }
}
