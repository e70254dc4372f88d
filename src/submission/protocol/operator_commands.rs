//! The private commands of operators: XADR, XSTA, XCIR and XGEN. Pure; everybody else hears 502, whatever they
//! ask.
//!
//! What they tell is not submission's to know: an [`Insight`] is handed in by whoever starts the room. What comes
//! back is made fit for a reply: ASCII without control characters, lines and their number bounded.

use crate::mail::{Address, Domain, Reply, address};

use crate::submission::protocol::state::{Action, Here, State, Step};
use crate::submission::replies;

/// Lines of an answer at most; the last says how many are left out.
const LINES_MAX: usize = 50;
/// RFC 5321 §4.5.3.1.5: a reply line is at most 512 bytes, with its codes and CR LF.
const LINE_BYTES_MAX: usize = 490;

/// Tells of the rooms that submission does not know.
pub trait Insight: Send + Sync {
    /// Answers an operator in lines for a person.
    ///
    /// # Errors
    /// Why it cannot be answered now, for a person too.
    fn answer(&self, question: &Question) -> Result<Vec<String>, String>;

    /// The domains whose mail waits in this lane; none where there is no such lane.
    ///
    /// # Errors
    /// Why that cannot be told now.
    fn domains_of_lane(&self, lane: &str) -> Result<Option<Vec<Domain>>, String>;
}

/// What an operator asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// How each of these would be routed now.
    Route(Vec<Address>),
    /// What waits, in each lane or in this one.
    Waiting(Option<String>),
    /// How the lanes are, or this one.
    Lanes(Option<String>),
    /// What is running: version and config.
    Generation,
}

/// A private command as it stood on its line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::submission) enum Private {
    /// With an address or a local name.
    Xadr(String),
    Xsta(Option<String>),
    Xcir(Option<String>),
    Xgen,
    /// Arguments that do not fit; how it is written. No syntax error yet: strangers hear 502.
    Misused(&'static str),
}

/// Each private command with how it is written, for HELP to operators and for 501.
pub(in crate::submission) const USAGE: &[(&str, &str)] =
    &[("XADR", "XADR address"), ("XSTA", "XSTA [lane]"), ("XCIR", "XCIR [lane]"), ("XGEN", "XGEN")];

/// Reads the arguments of `verb`, one of [`USAGE`].
pub(in crate::submission) fn parse(verb: &str, arguments: &str) -> Private {
    let words: Vec<&str> = arguments.split(' ').filter(|word| !word.is_empty()).collect();
    let lane = || words.first().map(|lane| (*lane).to_owned());
    match (verb, words.as_slice()) {
        ("XADR", [address]) => Private::Xadr((*address).to_owned()),
        ("XSTA", [] | [_]) => Private::Xsta(lane()),
        ("XCIR", [] | [_]) => Private::Xcir(lane()),
        ("XGEN", []) => Private::Xgen,
        _ => {
            Private::Misused(USAGE.iter().find(|(name, _)| *name == verb).map_or("HELP", |(_, usage)| usage))
        }
    }
}

pub(in crate::submission) fn private(state: State, command: Private, here: &Here<'_>) -> Step {
    if !state.user().is_some_and(|user| user.operator) {
        return Step::reply(state, replies::NOT_OFFERED);
    }
    let question = match command {
        Private::Xadr(name) => match recipients(&name, here) {
            Ok(addresses) => Question::Route(addresses),
            Err(reply) => return Step::reply(state, reply),
        },
        Private::Xsta(lane) => Question::Waiting(lane),
        Private::Xcir(lane) => Question::Lanes(lane),
        Private::Xgen => Question::Generation,
        Private::Misused(usage) => return Step::reply(state, replies::usage(usage)),
    };
    Step { state, reply: None, action: Action::Ask(question) }
}

/// Where a RCPT for `name` would lead.
fn recipients(name: &str, here: &Here<'_>) -> Result<Vec<Address>, Reply> {
    let name = name.strip_prefix('<').and_then(|rest| rest.strip_suffix('>')).unwrap_or(name);
    let alias = if name.contains('@') {
        let address = address::parse(name).map_err(|_| replies::VRFY_BAD_ADDRESS)?;
        match here.aliases.alias_of(&address) {
            Some(alias) => alias,
            None => return Ok(vec![address]),
        }
    } else {
        name.to_owned()
    };
    let members = here.aliases.expand(&alias).ok_or(replies::NO_SUCH_USER)?;
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
