//! VRFY and EXPN over `[aliases]` (RFC 5321 §3.5; SMTPUTF8: RFC 6531 §3.7.4.2). Pure.
//!
//! They answer as RCPT would decide. A stranger learns nothing: the answer is the same whatever exists.

use crate::mail::{Address, Reply, address};

use crate::submission::protocol::aliases::Aliases;
use crate::submission::protocol::policy::PolicyContext;
use crate::submission::protocol::state::{State, Transition};
use crate::submission::replies;
use crate::submission::syntax::command::NameQuery;

/// RFC 5321 §3.5.1: the mailbox.
pub(super) fn vrfy(state: State, query: &NameQuery, context: &PolicyContext<'_>) -> Transition {
    answered(state, query, context, replies::VRFY_NOT_FOR_STRANGERS, verify)
}

/// RFC 5321 §3.5.1: the members of a list, each on its own line.
pub(super) fn expn(state: State, query: &NameQuery, context: &PolicyContext<'_>) -> Transition {
    answered(state, query, context, replies::EXPN_NOT_FOR_STRANGERS, expand)
}

fn answered(
    state: State,
    query: &NameQuery,
    context: &PolicyContext<'_>,
    to_strangers: Reply,
    answer: fn(&NameQuery, &Aliases<'_>) -> Reply,
) -> Transition {
    let welcome = context.is_welcome(state.user());
    let reply = if welcome { readable(answer(query, &context.aliases), query) } else { to_strangers };
    Transition::reply(state, reply)
}

/// What a name is.
enum Named {
    Alias(String),
    /// An address that is no alias: it is relayed.
    Mailbox,
    /// A name without a domain that is no alias.
    Nobody,
    NoAddress,
}

fn find(query: &NameQuery, aliases: &Aliases<'_>) -> Named {
    let name = query.name.strip_prefix('<').and_then(|rest| rest.strip_suffix('>')).unwrap_or(&query.name);
    if !name.contains('@') {
        return if aliases.members(name).is_some() { Named::Alias(name.to_owned()) } else { Named::Nobody };
    }
    match address::parse(name) {
        Ok(address) => aliases.alias_of(&address).map_or(Named::Mailbox, Named::Alias),
        Err(_) => Named::NoAddress,
    }
}

fn verify(query: &NameQuery, aliases: &Aliases<'_>) -> Reply {
    match find(query, aliases) {
        Named::Alias(name) => match aliases.expand(&name).as_deref() {
            Some([]) => replies::ALIAS_LOOP,
            Some([mailbox]) => replies::mailboxes(std::slice::from_ref(mailbox)),
            // A list: EXPN names its members, VRFY the list (RFC 5321 §3.5.1).
            Some(_) => {
                let list = Address::new_dangerous(name.to_lowercase(), aliases.hostname.as_str());
                replies::mailboxes(&[list])
            }
            None => replies::NO_SUCH_USER,
        },
        Named::Mailbox => replies::CANNOT_VERIFY,
        Named::Nobody => replies::NO_SUCH_USER,
        Named::NoAddress => replies::VRFY_BAD_ADDRESS,
    }
}

fn expand(query: &NameQuery, aliases: &Aliases<'_>) -> Reply {
    let Named::Alias(name) = find(query, aliases) else { return replies::NO_SUCH_LIST };
    match aliases.expand(&name).as_deref() {
        None => replies::NO_SUCH_LIST,
        Some([]) => replies::ALIAS_LOOP,
        Some(members) => replies::mailboxes(members),
    }
}

/// RFC 6531 §3.7.4.2: a mailbox that is not ASCII is shown only to who said SMTPUTF8.
fn readable(reply: Reply, query: &NameQuery) -> Reply {
    if query.utf8 || reply.text.is_ascii() { reply } else { replies::NEEDS_UTF8_REPLY }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::mail::Domain;

    fn answers(name: &str, utf8: bool) -> (String, String) {
        let to = |list: &[&str]| list.iter().map(|text| address::parse(text).unwrap()).collect::<Vec<_>>();
        let names = BTreeMap::from([
            ("root".to_owned(), to(&["postmaster@relay.example"])),
            ("postmaster".to_owned(), to(&["ops@example.com"])),
            (
                "team".to_owned(),
                to(&["a@example.com", "root@relay.example", "A@EXAMPLE.com", "a@Example.COM"]),
            ),
            ("circle".to_owned(), to(&["circle@relay.example"])),
            ("jürgen".to_owned(), to(&["jürgen@example.com"])),
        ]);
        let hostname = Domain::parse("relay.example").unwrap();
        let aliases = Aliases { names: &names, hostname: &hostname };
        let query = NameQuery { name: name.to_owned(), utf8 };
        let said = |reply: Reply| {
            let reply = readable(reply, &query);
            format!("{} {}: {}", reply.code, reply.enhanced.unwrap(), reply.text)
        };
        (said(verify(&query, &aliases)), said(expand(&query, &aliases)))
    }

    #[test]
    fn names_are_verified_and_lists_expanded() {
        const NO_LIST: &str = "550 5.1.1: No such list here";
        for (name, verified, expanded) in [
            ("ROOT", "250 2.1.5: <ops@example.com>", "250 2.1.5: <ops@example.com>"),
            ("<root@Relay.Example>", "250 2.1.5: <ops@example.com>", "250 2.1.5: <ops@example.com>"),
            (
                "team",
                "250 2.1.5: <team@relay.example>",
                "250 2.1.5: <a@example.com>\n<ops@example.com>\n<A@EXAMPLE.com>",
            ),
            (
                "circle",
                "550 5.4.6: This alias leads only to itself",
                "550 5.4.6: This alias leads only to itself",
            ),
            ("nobody", "550 5.1.1: No such user here", NO_LIST),
            (
                "b@example.net",
                "252 2.5.2: Cannot verify, but the message will be taken and its delivery tried",
                NO_LIST,
            ),
            ("b@", "553 5.1.3: Not an address", NO_LIST),
        ] {
            assert_eq!(answers(name, false), (verified.to_owned(), expanded.to_owned()), "{name}");
        }
    }

    #[test]
    fn what_is_not_ascii_is_shown_to_who_asked_for_it() {
        let (verified, expanded) = answers("Jürgen", false);
        assert!(verified.starts_with("252 2.6.8") && verified == expanded, "{verified}, {expanded}");
        let (verified, expanded) = answers("JÜRGEN", true);
        assert_eq!(verified, "250 2.1.5: <jürgen@example.com>");
        assert_eq!(expanded, verified);
    }
}
