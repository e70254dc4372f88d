//! Changes that people make: shown before they are made where that is asked for, and asked about where they are many.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::path::Path;

use super::{Look, QueueCommandError, Selection, json_line, record, text};
use crate::cli::output::WrongUsage;
use crate::clock::Clock;
use crate::queue::admin::{Action, Admin, Filter, Selected};
use crate::queue::{AdminStore, MessageId, QueueError};

/// More recipients than this are asked about.
const ASKED_ABOVE: i64 = 100;
/// Lines that `--dry-run` shows.
const SHOWN: u32 = 10;

/// Makes the change, or says what it would be for.
pub(super) fn change(
    path: &Path,
    selection: &Selection,
    action: Action,
    look: Look,
) -> Result<String, QueueCommandError> {
    if selection.dry_run {
        return dry_run(&Admin::to_read(path)?, selection, action, look);
    }
    let admin = Admin::to_write(path)?;
    if !selection.yes {
        let selected = admin.would_change(action, &selection.filter(), 0)?;
        if selected.recipients > ASKED_ABOVE && !is_wanted(action, &selected)? {
            return Err(QueueCommandError::NotWanted);
        }
    }
    let mut recipients = 0;
    for which in selection.each() {
        let changed = act(&*admin, action, &which)?;
        if changed == 0 {
            which.messages.iter().try_for_each(|id| must_be_known(&*admin, *id))?;
        }
        if changed > 0 {
            record(&admin, action.as_str(), which.to_string(), changed);
        }
        recipients += changed;
    }
    // A kick or a release is no resume.
    let suspended = match action {
        Action::Kick | Action::Release => admin.suspended_of(&selection.filter())?,
        Action::Hold | Action::Remove | Action::Bounce => 0,
    };
    if selection.json {
        let (action, suspended) = (action.as_str(), Some(suspended).filter(|count| *count > 0));
        let mut answer = serde_json::json!({ "action": action, "recipients": recipients });
        suspended.into_iter().for_each(|count| answer["suspended"] = count.into());
        return Ok(json_line(&answer));
    }
    let mut answer = format!("{} {}\n", number(recipients as i64, "recipient"), done(action));
    if suspended > 0 {
        answer += &format!("({suspended} of them still suspended: `postrider queue suspensions`)\n");
    }
    Ok(answer)
}

fn act(admin: &dyn AdminStore, action: Action, which: &Filter) -> Result<usize, QueueError> {
    match action {
        Action::Kick => admin.kick(which),
        Action::Hold => admin.hold(which),
        Action::Release => admin.release(which),
        Action::Remove => admin.remove(which),
        Action::Bounce => admin.bounce(which),
    }
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

fn must_be_known(admin: &dyn AdminStore, id: MessageId) -> Result<(), QueueCommandError> {
    match admin.show(id)?.is_some_and(|shown| shown.message.is_some()) {
        true => Ok(()),
        false => Err(QueueCommandError::Unknown(id)),
    }
}

fn dry_run(
    admin: &Admin,
    selection: &Selection,
    action: Action,
    look: Look,
) -> Result<String, QueueCommandError> {
    selection.ids.iter().try_for_each(|id| must_be_known(&**admin, *id))?;
    let selected = admin.would_change(action, &selection.filter(), SHOWN)?;
    if selection.json {
        return Ok(json_line(&selected));
    }
    let mut answer =
        format!("{} would be for {}; nothing was changed\n", action.as_str(), numbers(&selected));
    if !selected.first.is_empty() {
        answer += &text::list(&selected.first, Clock::system().now(), look);
        answer += &super::more(selected.first.len(), selected.recipients);
    }
    Ok(answer)
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
