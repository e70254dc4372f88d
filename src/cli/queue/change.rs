//! Changes that people make: shown before they are made where that is asked for, and asked about where they are many.
//! What was shown is what is changed.

use std::io::{self, BufRead as _, IsTerminal as _, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use super::{Look, QueueCommandError, Selection, json_line, text};
use crate::cli::output::WrongUsage;
use crate::cli::who::Who;
use crate::clock::Clock;
use crate::queue::admin::{Action, Admin, Filter, Order, Selected};

/// More recipients than this are asked about.
const ASKED_ABOVE: i64 = 100;
/// Lines that `--dry-run` shows.
const SHOWN: u32 = 10;
/// As a shell has it of a program that Ctrl-C ended.
const INTERRUPTED: i32 = 130;

/// Makes the change, or says what it would be for.
pub(super) fn change(
    path: &Path,
    selection: &Selection,
    (action, reason): (Action, Option<&str>),
    look: Look,
    out: &mut impl Write,
) -> Result<(), QueueCommandError> {
    let filter = selection.filter();
    if selection.dry_run {
        let admin = Admin::to_read(path)?;
        let selected = admin.select(action, &filter, SHOWN)?;
        let unknown = unknown(&admin, &filter, &selected)?;
        out.write_all(dry_run(&selected, selection.json, action, look).as_bytes())?;
        return unknown.map_or(Ok(()), Err);
    }
    let admin = Admin::to_write(path)?;
    let selected = admin.select(action, &filter, 0)?;
    if !selection.yes && selected.recipients > ASKED_ABOVE && !is_wanted(action, &selected)? {
        return Err(QueueCommandError::NotWanted);
    }
    let unknown = match unknown(&admin, &filter, &selected)? {
        Some(unknown) if selected.ids.is_empty() => return Err(unknown),
        unknown => unknown,
    };
    let made = make(&admin, action, (&filter, reason), &selected)?;
    // A kick or a release is no resume. Of those that were looked at: afterwards the filter may select others. What was
    // changed is said in any case.
    let suspended = match action {
        Action::Kick | Action::Release => admin.suspended_of(&selected.ids[..made.looked_at]).unwrap_or(0),
        Action::Hold | Action::Remove | Action::Bounce => 0,
    };
    if selection.json {
        let mut answer = serde_json::json!({
            "action": action.as_str(), "recipients": made.recipients, "left": made.left
        });
        if matches!(action, Action::Kick | Action::Release) {
            answer["suspended"] = suspended.into();
        }
        out.write_all(json_line(&answer).as_bytes())?;
    } else if made.why.is_none() {
        let mut answer = format!("{}{}\n", made.text(action), made.of_the_others());
        if suspended > 0 {
            answer += &format!(
                "({suspended} of them still suspended, and tried when resumed: `postrider queue suspensions`)\n"
            );
        }
        out.write_all(answer.as_bytes())?;
    }
    let done = format!("{} of {}", made.text(action), selected.recipients);
    match made.why {
        Some(why) => Err(QueueCommandError::HalfWay { done, why }),
        None => unknown.map_or(Ok(()), Err),
    }
}

/// What came of a change.
#[derive(Default)]
struct Made {
    recipients: usize,
    /// Those that were looked at: the first of those that were selected.
    looked_at: usize,
    /// Those that were selected, and then were not as they had been.
    left: usize,
    /// Why it ended before its end.
    why: Option<String>,
}

impl Made {
    fn text(&self, action: Action) -> String {
        format!("{} {}", number(self.recipients as i64, "recipient"), done(action))
    }

    fn of_the_others(&self) -> String {
        match self.left {
            0 => String::new(),
            left => format!(" ({} had changed meanwhile, and were left alone)", number(left as i64, "other")),
        }
    }
}

/// What goes on record by itself: each message that was named, or all that was selected. Ctrl-C ends it after the part
/// that is being written; a second one ends the program.
fn make(
    admin: &Admin,
    action: Action,
    (filter, reason): (&Filter, Option<&str>),
    selected: &Selected,
) -> Result<Made, QueueCommandError> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        flag::register_conditional_shutdown(signal, INTERRUPTED, interrupted.clone())?;
        flag::register(signal, interrupted.clone())?;
    }
    let each: Vec<_> = match filter.messages.is_empty() {
        true => vec![(filter.clone(), &*selected.ids)],
        false => selected
            .ids
            .chunk_by(|a, b| a.0 == b.0)
            .map(|of_one| (Filter { messages: vec![of_one[0].0], ..filter.clone() }, of_one))
            .collect(),
    };
    let (mut made, Who { login, uid }) = (Made::default(), Who::runs_this());
    for (which, these) in &each {
        let order = Order { action, which, these, login: &login, uid, reason };
        let changed = admin.change(&order, &|| !interrupted.load(Ordering::Relaxed));
        made.recipients += changed.recipients;
        made.looked_at += changed.looked_at;
        made.left += changed.looked_at - changed.recipients;
        let is_cut = changed.looked_at < these.len();
        made.why = changed
            .failed
            .map(|error| error.to_string())
            .or_else(|| is_cut.then(|| "interrupted".to_owned()));
        if made.why.is_some() {
            break;
        }
    }
    Ok(made)
}

/// Says which of the messages that were named are not there.
fn unknown(
    admin: &Admin,
    filter: &Filter,
    selected: &Selected,
) -> Result<Option<QueueCommandError>, QueueCommandError> {
    let mut unknown: Vec<String> = Vec::new();
    for id in &filter.messages {
        let is_selected = selected.ids.binary_search_by_key(id, |(message, _)| *message).is_ok();
        if !is_selected && admin.count(&Filter::message(*id))? == 0 {
            unknown.push(id.to_string());
        }
    }
    Ok((!unknown.is_empty()).then(|| QueueCommandError::Unknown(unknown.join(", "))))
}

fn done(action: Action) -> &'static str {
    match action {
        Action::Kick => "due now",
        Action::Hold => "held",
        Action::Release => "released",
        Action::Remove => "removed",
        Action::Bounce => "to be returned",
    }
}

fn dry_run(selected: &Selected, json: bool, action: Action, look: Look) -> String {
    if json {
        return json_line(selected);
    }
    let mut answer = format!("{} would be for {}; nothing was changed\n", action.as_str(), numbers(selected));
    if !selected.first.is_empty() {
        answer += &text::list(&selected.first, Clock::system().now(), look);
        answer += &super::more(selected.first.len(), selected.recipients);
    }
    answer
}

/// Whether somebody at a terminal says so.
fn is_wanted(action: Action, selected: &Selected) -> Result<bool, QueueCommandError> {
    let what = format!("{} {}", action.as_str(), numbers(selected));
    let (stdin, mut stderr) = (io::stdin(), io::stderr());
    if !(stdin.is_terminal() && stderr.is_terminal()) {
        return Err(WrongUsage(format!(
            "this would {what}; add --yes for more than {ASKED_ABOVE} where nobody can be asked (--dry-run shows them)"
        ))
        .into());
    }
    write!(stderr, "{what}? [y/N] ")?;
    stderr.flush()?;
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

fn numbers(selected: &Selected) -> String {
    let Selected { recipients, messages, lanes, .. } = *selected;
    format!(
        "{} of {} in {}",
        number(recipients, "recipient"),
        number(messages, "message"),
        number(lanes, "lane")
    )
}

pub(super) fn number(number: i64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}
