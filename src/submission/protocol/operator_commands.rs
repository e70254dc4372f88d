//! The commands of operators: XADR, XSTA, XCIR and XGEN. Pure. Everybody else hears 502, whatever they ask.
//!
//! The answers come from [`OperatorQueries`](crate::submission::ports::OperatorQueries). They are made fit for a
//! reply here: ASCII without control characters, and a bound on lines and their number.

use crate::mail::{Address, Reply, address};

use crate::submission::ports::OperatorQuery;
use crate::submission::protocol::policy::PolicyContext;
use crate::submission::protocol::state::{Action, State, Transition};
use crate::submission::replies;
use crate::submission::syntax::command::OperatorCommand;

/// Lines of an answer at most; the last says how many are left out.
const LINES_MAX: usize = 50;
/// RFC 5321 §4.5.3.1.5: a reply line is at most 512 bytes, with its codes and CR LF.
const LINE_BYTES_MAX: usize = 490;

pub(in crate::submission) fn operator(
    state: State,
    command: OperatorCommand,
    context: &PolicyContext<'_>,
) -> Transition {
    if !state.user().is_some_and(|user| user.operator) {
        return Transition::reply(state, replies::NOT_OFFERED);
    }
    let query = match command {
        OperatorCommand::Xadr(name) => match recipients(&name, context) {
            Ok(addresses) => OperatorQuery::Route(addresses),
            Err(reply) => return Transition::reply(state, reply),
        },
        OperatorCommand::Xsta(lane) => OperatorQuery::Waiting(lane),
        OperatorCommand::Xcir(lane) => OperatorQuery::Lanes(lane),
        OperatorCommand::Xgen => OperatorQuery::Generation,
        OperatorCommand::Misused(usage) => return Transition::reply(state, replies::usage(usage)),
    };
    Transition { state, reply: None, action: Action::Ask(query) }
}

/// Where a RCPT for `name` would lead.
fn recipients(name: &str, context: &PolicyContext<'_>) -> Result<Vec<Address>, Reply> {
    let name = name.strip_prefix('<').and_then(|rest| rest.strip_suffix('>')).unwrap_or(name);
    let alias = if name.contains('@') {
        let address = address::parse(name).map_err(|_| replies::VRFY_BAD_ADDRESS)?;
        match context.aliases.alias_of(&address) {
            Some(alias) => alias,
            None => return Ok(vec![address]),
        }
    } else {
        name.to_owned()
    };
    let members = context.aliases.expand(&alias).ok_or(replies::NO_SUCH_USER)?;
    if members.is_empty() { Err(replies::ALIAS_LOOP) } else { Ok(members) }
}

/// The reply with an answer.
pub(in crate::submission) fn told(answer: Result<Vec<String>, String>) -> Reply {
    let lines = match answer {
        Ok(lines) => lines,
        Err(why) => return replies::cannot_tell(&fit(&why)),
    };
    let shown = if lines.len() > LINES_MAX { LINES_MAX - 1 } else { lines.len() };
    let mut text: Vec<String> = lines.iter().take(shown).map(|line| fit(line)).collect();
    if shown < lines.len() {
        text.push(format!("and {} more", lines.len() - shown));
    }
    replies::told(text.join("\n"))
}

/// What hosts, the DNS and people wrote is shown so that it is one line of ASCII.
fn fit(line: &str) -> String {
    let mut shown = String::with_capacity(line.len());
    for c in line.chars() {
        let printable = c == ' ' || c.is_ascii_graphic();
        let bytes = if printable { 1 } else { c.escape_default().len() };
        if shown.len() + bytes > LINE_BYTES_MAX {
            shown.push_str("...");
            break;
        }
        if printable { shown.push(c) } else { shown.extend(c.escape_default()) }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_bounded_and_says_how_much_is_left_out() {
        let lines = |count| Ok((0..count).map(|n| format!("lane {n}")).collect());
        let shown = |count| told(lines(count)).text.lines().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(shown(50).len(), 50);
        let cut = shown(1000);
        assert_eq!(cut.len(), 50);
        assert_eq!(cut[48..], ["lane 48", "and 951 more"]);
    }

    #[test]
    fn nothing_that_was_said_breaks_a_reply() {
        let reply = told(Ok(vec![format!("a\r\n250 b\u{e9}\u{9b}{}", "ä".repeat(1000))]));
        assert!(reply.text.starts_with("a\\r\\n250 b\\u{e9}\\u{9b}\\u{e4}") && reply.text.ends_with("..."));
        let mut bytes = Vec::new();
        reply.write_to(&mut bytes);
        assert!(bytes.len() <= 512 && bytes.is_ascii(), "{} bytes", bytes.len());
        let reply = told(Err("no\nway".to_owned()));
        assert_eq!((reply.code, reply.text.lines().count()), (451, 1));
    }
}
