//! `postrider queue …`: the queue for people (aligned tables) and programs (`--json`).
//!
//! Works with or without the relay running: the database is all it needs.

mod change;
mod filters;
mod find;
mod suspend;
mod text;

use std::io;
use std::path::Path;

use clap::{ArgGroup, Args, Subcommand};

use filters::Filters;
pub(super) use text::{age, full};

use super::log_output::say;
use super::output::{WrongUsage, json_line};
use super::since;
use super::table::{Look, wrapped};
use super::who::Who;
use crate::clock::Clock;
use crate::queue::admin::{Action, Admin, Change, DialogueLine, Filter, Shown};
use crate::queue::{MessageId, QueueError, Whose};

/// Arguments of `postrider queue`.
#[derive(Debug, Args)]
pub struct QueueArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List what waits (or, with --state, what is finished), one line a recipient
    ///
    /// What waits is listed with the oldest mail first, what is finished with the latest first.
    List {
        #[command(flatten)]
        filters: Filters,
        /// Only recipients in this state; 'finished' for all that is
        #[arg(long, value_parser = filters::state(&filters::STATES))]
        state: Option<String>,
        /// At most this many lines
        #[arg(long, default_value_t = 1000)]
        limit: u32,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Find mail by its Message-ID, Subject or tag, one line a recipient, waiting or finished
    Find(find::FindArgs),
    /// Group what keeps mail from being delivered by the reason in the replies, the most frequent first
    ///
    /// What waits, and what failed in the last day; with --state what is in that state. Addresses, hosts, numbers and
    /// ids in replies stand as "…", so that the same reason is one line.
    Failures {
        #[command(flatten)]
        filters: Filters,
        /// Only recipients in this state
        #[arg(long, value_parser = filters::state(&["queued", "held", "failed", "expired"]))]
        state: Option<String>,
        /// At most this many reasons
        #[arg(long, default_value_t = 20)]
        limit: u32,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// List what has waited longest, one line a message or a lane
    Oldest {
        #[command(flatten)]
        filters: Filters,
        /// What a line is
        #[arg(long, value_parser = ["message", "lane"], default_value = "message")]
        by: String,
        /// At most this many lines
        #[arg(long, default_value_t = 20)]
        limit: u32,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Show one message: envelope, recipients, every attempt, its story, header
    Show {
        /// The queue id, as in the 250 reply and the log
        id: MessageId,
        /// Also the SMTP dialogue, with milliseconds, of each recipient's last failed attempt that has one
        ///
        /// An attempt that failed before any host was asked has none: then the one before it is shown, with a line that
        /// says so. The last 10,000 are kept.
        #[arg(long)]
        dialogue: bool,
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
    /// Try now, whatever the retry schedule says
    #[command(visible_aliases = ["flush", "retry"])]
    Kick(Selection),
    /// Keep from being tried until released
    Hold {
        #[command(flatten)]
        selection: Selection,
        /// Why: shown wherever somebody asks why it is held
        #[arg(long, value_name = "TEXT", value_parser = suspend::reason)]
        reason: Option<String>,
    },
    /// Try held ones again
    ///
    /// --held-by keeps apart what an operator held and what a [[retry.rule]] did.
    Release(Selection),
    /// Take out of the queue; nobody is told
    ///
    /// History says that it was removed; what was said of it (show --dialogue) goes along.
    Remove(Selection),
    /// Return to the sender now, with what was said last
    Bounce(Selection),
    #[command(flatten)]
    Suspended(suspend::SuspendVerb),
    /// List the queue kicks, by ETRN or `queue kick`: who, when, how many recipients; the latest first
    Kicks {
        /// At most this many lines
        #[arg(long, default_value_t = 50)]
        limit: u32,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// List what operators changed: when, who, what, how many; the latest first
    ///
    /// What was done with `postrider queue`, `user` and `restore`; what was changed with SQL is not in it. A client's
    /// ETRN is in `queue kicks`.
    Log {
        /// From when on: 2h, 7d; today, yesterday (from its begin); 2026-11-29, or '2026-11-29 14:00' (all in UTC)
        #[arg(long)]
        since: Option<String>,
        /// At most this many lines
        #[arg(long, default_value_t = 50)]
        limit: u32,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Count what waits, in all and by domain
    #[command(alias = "status")]
    Summary {
        #[command(flatten)]
        filters: Filters,
        /// At most this many domains, destinations and hosts
        #[arg(long, default_value_t = 20)]
        limit: u32,
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
}

/// Queue ids, all, or what several options together select.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("selected").args(["ids", "all"]).args(filters::NAMES).required(true).multiple(true))]
struct Selection {
    /// Queue ids
    #[arg(conflicts_with_all = filters::NAMES)]
    ids: Vec<MessageId>,
    #[command(flatten)]
    filters: Filters,
    /// Only recipients in this state
    #[arg(long, value_parser = filters::state(&["queued", "held"]))]
    state: Option<String>,
    /// All that waits
    #[arg(long, conflicts_with = "ids", conflicts_with_all = filters::NAMES)]
    all: bool,
    /// Change nothing: say for how many it would be, and show the first
    #[arg(long)]
    dry_run: bool,
    /// Do not ask, also where it is for more than 100 recipients
    #[arg(long)]
    yes: bool,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

impl Selection {
    fn filter(&self) -> Filter {
        self.filters.filter(&self.ids, self.state.clone())
    }
}

/// A message, and where that was asked for, what was said of it.
#[derive(serde::Serialize)]
struct ShownWithDialogues {
    #[serde(flatten)]
    shown: Shown,
    #[serde(skip_serializing_if = "Option::is_none")]
    dialogues: Option<Vec<DialogueLine>>,
}

/// Why a `queue` command failed.
#[derive(Debug, thiserror::Error)]
pub enum QueueCommandError {
    /// The queue cannot be used.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// Nothing is known of these messages.
    #[error("not in the queue (any more): {0}; see `postrider queue list`")]
    Unknown(String),
    /// A change ended before its end.
    #[error("{done}, then: {why}")]
    HalfWay {
        /// What was changed.
        done: String,
        /// Why it did not go on.
        why: String,
    },
    /// Nothing is known by this.
    #[error("{0}")]
    NotFound(String),
    /// It was asked for in a way in which it is not done.
    #[error(transparent)]
    Usage(#[from] WrongUsage),
    /// It is not suspended.
    #[error("{0} is not suspended{1}: `postrider queue suspensions` lists what is")]
    NotSuspended(Whose, String),
    /// Nothing is.
    #[error("nothing is suspended")]
    NothingSuspended,
    /// Somebody was asked, and did not want it.
    #[error("nothing was changed")]
    NotWanted,
    /// Standard output is gone.
    #[error("cannot write the answer: {0}")]
    Output(#[from] io::Error),
}

/// Does what `args` say with the queue at `path`, whose `config` this is.
///
/// # Errors
/// One line for standard error; exit code 1.
pub fn run(
    args: &QueueArgs,
    config: Option<&Path>,
    path: &Path,
    out: &mut impl io::Write,
) -> Result<(), QueueCommandError> {
    let (now, look) = (Clock::system().now(), Look::of_stdout());
    let answer = match &args.verb {
        Verb::List { filters, state, limit, json } => {
            list(path, &filters.filter(&[], state.clone()), (*limit, *json), (now, look))?
        }
        Verb::Find(args) => find(args, path, look)?,
        Verb::Show { id, dialogue, json } => show(*id, path, (*dialogue, *json), look)?,
        Verb::Kicks { limit, json } => kicks(path, (*limit, *json), look)?,
        Verb::Log { since, limit, json } => {
            let since = since.as_deref().map_or(Ok(0), |since| since::when(since, now))?;
            operator_log(path, since, (*limit, *json), look)?
        }
        Verb::Failures { filters, state, limit, json } => {
            let mut lines = Admin::to_read(path)?.failures(&filters.filter(&[], state.clone()))?;
            let total = lines.len() as i64;
            lines.truncate(*limit as usize);
            if *json {
                json_lines(&lines, total)
            } else {
                text::failures(&lines, look) + &more(lines.len(), total)
            }
        }
        Verb::Oldest { filters, by, limit, json } => {
            let (admin, filter) = (Admin::to_read(path)?, filters.filter(&[], None));
            let lines = admin.oldest(&filter, by == "lane", *limit)?;
            // Asked for only where it may be more.
            let total = match lines.len() < *limit as usize {
                true => lines.len() as i64,
                false => {
                    let all = admin.select(Action::Remove, &filter, 0)?;
                    if by == "lane" { all.lanes } else { all.messages }
                }
            };
            if *json {
                json_lines(&lines, total)
            } else {
                text::oldest(&lines, look) + &more(lines.len(), total)
            }
        }
        Verb::Summary { filters, limit, json } => {
            let summary = Admin::to_read(path)?.summary_of(&filters.filter(&[], None), *limit)?;
            if *json { json_line(&summary) } else { text::summary(&summary, look) }
        }
        Verb::Suspended(verb) => suspend::run(verb, (config, path), now, look)?,
        Verb::Kick(selection) => return change::change(path, selection, (Action::Kick, None), look, out),
        Verb::Hold { selection, reason } => {
            return change::change(path, selection, (Action::Hold, reason.as_deref()), look, out);
        }
        Verb::Release(selection) => {
            return change::change(path, selection, (Action::Release, None), look, out);
        }
        Verb::Remove(selection) => return change::change(path, selection, (Action::Remove, None), look, out),
        Verb::Bounce(selection) => return change::change(path, selection, (Action::Bounce, None), look, out),
    };
    out.write_all(answer.as_bytes())?;
    Ok(())
}

fn list(
    path: &Path,
    filter: &Filter,
    (limit, json): (u32, bool),
    (now, look): (i64, Look),
) -> Result<String, QueueCommandError> {
    let admin = Admin::to_read(path)?;
    let lines = admin.list(filter, limit)?;
    let is_all = lines.len() < limit as usize;
    let total = if is_all { lines.len() as i64 } else { admin.count(filter)? };
    Ok(if json {
        json_lines(&lines, total)
    } else if lines.is_empty() && *filter == Filter::all() {
        "nothing waits (what is finished: --state delivered, --state failed, …)\n".to_owned()
    } else {
        text::list(&lines, now, look) + &more(lines.len(), total)
    })
}

fn kicks(path: &Path, (limit, json): (u32, bool), look: Look) -> Result<String, QueueCommandError> {
    let (kicks, total) = Admin::to_read(path)?.kicks(limit)?;
    Ok(match json {
        true => json_lines(&kicks, total),
        false => text::kicks(&kicks, look) + &more(kicks.len(), total),
    })
}

fn show(
    id: MessageId,
    path: &Path,
    (dialogue, json): (bool, bool),
    look: Look,
) -> Result<String, QueueCommandError> {
    let admin = Admin::to_read(path)?;
    let shown = admin.show(id)?.ok_or_else(|| QueueCommandError::Unknown(id.to_string()))?;
    let dialogues = dialogue.then(|| admin.dialogues(id)).transpose()?;
    Ok(if json {
        json_line(&ShownWithDialogues { shown, dialogues })
    } else {
        let said = dialogues.map(|lines| text::dialogues(&lines)).unwrap_or_default();
        wrapped(look, &(text::show(&shown, Clock::system().now()) + &said))
    })
}

fn operator_log(
    path: &Path,
    since: i64,
    (limit, json): (u32, bool),
    look: Look,
) -> Result<String, QueueCommandError> {
    let (lines, total) = Admin::to_read(path)?.operator_log(since, limit)?;
    Ok(match json {
        true => json_lines(&lines, total),
        false => text::operator_log(&lines, look) + &more(lines.len(), total),
    })
}

fn find(args: &find::FindArgs, path: &Path, look: Look) -> Result<String, QueueCommandError> {
    let wanted = args.wanted();
    let (lines, total) = Admin::to_read(path)?.find(&wanted, args.limit)?;
    if lines.is_empty() {
        return Err(QueueCommandError::NotFound(find::nothing(&wanted)));
    }
    if args.json {
        return Ok(json_lines(&lines, total));
    }
    let list = text::list(&lines, Clock::system().now(), look) + &more(lines.len(), total);
    Ok(list + "(all of one: `postrider queue show ID`)\n")
}

/// The change is made: that it cannot be put on record is said, and is no failure.
pub(super) fn record(
    admin: &Admin,
    action: &'static str,
    target: String,
    count: usize,
    reason: Option<&str>,
) {
    let (Who { login, uid }, reason) = (Who::runs_this(), reason.map(str::to_owned));
    if let Err(error) = admin.record(&Change { action, target, count, login, uid, reason }) {
        say(&format!("postrider: done, but not on record in operator_log: {error}"));
    }
}

/// Below what a person reads, where not all is shown.
fn more(shown: usize, total: i64) -> String {
    match total - shown as i64 {
        ..1 => String::new(),
        rest => format!("(and {rest} more: {shown} of {total} are shown; --limit says how many)\n"),
    }
}

/// Lines for programs; where not all is shown, the last says so: `{"shown":1000,"total":5012}`.
fn json_lines(values: &[impl serde::Serialize], total: i64) -> String {
    let more = more(values.len(), total);
    let cut = (!more.is_empty()).then(|| {
        say(more.trim_end());
        json_line(&serde_json::json!({ "shown": values.len(), "total": total }))
    });
    values.iter().map(json_line).chain(cut).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        args: QueueArgs,
    }

    fn parse(words: &[&str]) -> Result<QueueArgs, clap::Error> {
        Command::try_parse_from([&["queue"], words].concat()).map(|command| command.args)
    }

    #[test]
    fn a_change_says_what_it_is_for() {
        for bad in [
            &["remove"][..],
            &["remove", "--all", "--domain", "b"],
            &["remove", "nonsense"],
            &["show"],
            &["remove", "01MB1Z4QK3R", "--user", "app"],
            &["remove", "01MB1Z4QK3R", "--all"],
            &["hold", "--older", "2"],
            &["hold", "--domain", "a b"],
            &["kick", "--state", "delivered"],
            &["list", "--state", "nonsense"],
            &["list", "--reply", ""],
            &["kick", "--state", "bounced"],
            &["list", "--held-by", "nobody"],
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
        for good in [
            &["list", "--state", "bounced"][..],
            &["failures", "--state", "queued,held"],
            &["hold", "--all", "--reason", "why"],
            &["release", "--held-by", "rule"],
            &["status"],
            &["remove", "--all"],
            &["kick", "01MB1Z4QK3R", "01MB1Z4QK3S"],
            &["hold", "--domain", "b"],
            &[
                "bounce", "--domain", "*.b", "--user", "", "--older", "2h", "--reply", "50%", "--state",
                "held",
            ],
            &[
                "list", "--tag", "*", "--mx", "mx*", "--lane", "route:*", "--sender", "<>", "--state",
                "finished",
            ],
        ] {
            assert!(parse(good).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn a_queue_that_is_not_there_is_said_so_in_one_line() {
        let args = parse(&["list"]).unwrap();
        let error =
            run(&args, None, Path::new("/nonexistent/queue.db"), &mut Vec::new()).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/queue.db") && error.contains("postrider serve"), "{error}");
        assert!(!error.contains('\n'));
    }
}
