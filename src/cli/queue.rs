//! `postrider queue …`: the queue for people (aligned tables) and programs (`--json`).
//!
//! Works with or without the relay running: the database is all it needs.

mod find;
mod text;

use std::io;
use std::path::Path;

use clap::{Args, Subcommand};

pub(super) use text::{age, table};

use super::log_output::say;
use super::output::seen_json;
use super::who::Who;
use crate::clock::Clock;
use crate::mail::Domain;
use crate::queue::admin::{Admin, Change, Filter, Which};
use crate::queue::{AdminStore, MessageId, QueueError};

/// Arguments of `postrider queue`.
#[derive(Debug, Args)]
pub struct QueueArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List what waits (or, with --state, what is finished), one line a recipient
    List {
        /// Only recipients of this domain
        #[arg(long, value_parser = domain)]
        domain: Option<Domain>,
        /// Only messages of this envelope sender ('' for bounces)
        #[arg(long)]
        sender: Option<String>,
        /// Only recipients in this state
        #[arg(long, value_parser = ["queued", "held", "delivered", "relayed", "failed", "expired", "removed"])]
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
    /// Show one message: envelope, recipients, every attempt, its story, header
    Show {
        /// The queue id, as in the 250 reply and the log
        id: MessageId,
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
    /// Try now, whatever the retry schedule says
    #[command(visible_aliases = ["flush", "retry"])]
    Kick(Selection),
    /// Keep from being tried until released
    Hold(Selection),
    /// Try held ones again
    Release(Selection),
    /// Take out of the queue; nobody is told
    Remove(Selection),
    /// Return to the sender now, with what was said last
    Bounce(Selection),
    /// List the queue kicks, by ETRN or `queue kick`: who, when, how many recipients; the latest first
    Kicks {
        /// At most this many lines
        #[arg(long, default_value_t = 50)]
        limit: u32,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Count what waits, in all and by domain
    Summary {
        /// At most this many domains, destinations and hosts
        #[arg(long, default_value_t = 20)]
        limit: u32,
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Selection {
    /// Queue ids
    ids: Vec<MessageId>,
    /// All that waits for this domain
    #[arg(long, value_parser = domain)]
    domain: Option<Domain>,
    /// All that waits
    #[arg(long)]
    all: bool,
}

impl Selection {
    fn each(&self) -> Vec<Which> {
        match &self.domain {
            Some(domain) => vec![Which::Domain(domain.clone())],
            None if self.all => vec![Which::All],
            None => self.ids.iter().copied().map(Which::Message).collect(),
        }
    }
}

fn domain(text: &str) -> Result<Domain, String> {
    Domain::parse(text).map_err(|error| error.to_string())
}

/// Why a `queue` command failed.
#[derive(Debug, thiserror::Error)]
pub enum QueueCommandError {
    /// The queue cannot be used.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// Nothing is known of this message.
    #[error("{0} is not in the queue (any more): see `postrider queue list`")]
    Unknown(MessageId),
    /// Nothing is known by this.
    #[error("{0}")]
    NotFound(String),
    /// Standard output is gone.
    #[error("cannot write the answer: {0}")]
    Output(#[from] io::Error),
}

/// Does what `args` say with the queue at `path`.
///
/// # Errors
/// One line for standard error; exit code 1.
pub fn run(args: &QueueArgs, path: &Path, out: &mut impl io::Write) -> Result<(), QueueCommandError> {
    let answer = match &args.verb {
        Verb::List { domain, sender, state, limit, json } => {
            let filter = Filter {
                domain: domain.clone(),
                sender: sender.clone(),
                state: state.clone(),
                limit: limit.saturating_add(1),
            };
            let mut lines = Admin::to_read(path)?.list(&filter)?;
            let cut = cut(&mut lines, *limit);
            if *json {
                note(cut);
                json_lines(&lines)
            } else if lines.is_empty() && state.is_none() {
                "nothing waits (what is finished: --state delivered, --state failed, …)\n".to_owned()
            } else {
                text::list(&lines, Clock::system().now()) + &line(cut)
            }
        }
        Verb::Find(args) => find(args, path)?,
        Verb::Show { id, json } => {
            let shown = Admin::to_read(path)?.show(*id)?.ok_or(QueueCommandError::Unknown(*id))?;
            if *json { json_line(&shown) } else { text::show(&shown, Clock::system().now()) }
        }
        Verb::Kicks { limit, json } => {
            let mut kicks = Admin::to_read(path)?.kicks(limit.saturating_add(1))?;
            let cut = cut(&mut kicks, *limit);
            if *json {
                note(cut);
                json_lines(&kicks)
            } else {
                text::kicks(&kicks) + &line(cut)
            }
        }
        Verb::Summary { limit, json } => {
            let summary = Admin::to_read(path)?.summary(*limit)?;
            if *json { json_line(&summary) } else { text::summary(&summary) }
        }
        Verb::Kick(selection) => change(path, selection, ("kick", AdminStore::kick), "due now")?,
        Verb::Hold(selection) => change(path, selection, ("hold", AdminStore::hold), "held")?,
        Verb::Release(selection) => change(path, selection, ("release", AdminStore::release), "released")?,
        Verb::Remove(selection) => change(path, selection, ("remove", AdminStore::remove), "removed")?,
        Verb::Bounce(selection) => change(path, selection, ("bounce", AdminStore::bounce), "to be returned")?,
    };
    out.write_all(answer.as_bytes())?;
    Ok(())
}

fn find(args: &find::FindArgs, path: &Path) -> Result<String, QueueCommandError> {
    let wanted = args.wanted();
    let mut lines = Admin::to_read(path)?.find(&wanted, args.limit.saturating_add(1))?;
    if lines.is_empty() {
        return Err(QueueCommandError::NotFound(find::nothing(&wanted)));
    }
    let cut = cut(&mut lines, args.limit);
    if args.json {
        note(cut);
        return Ok(json_lines(&lines));
    }
    Ok(text::list(&lines, Clock::system().now()) + &line(cut) + "(all of one: `postrider queue show ID`)\n")
}

type Changing = fn(&(dyn AdminStore + 'static), &Which) -> Result<usize, QueueError>;

/// The change is made: that it cannot be put on record is said, and is no failure.
pub(super) fn record(admin: &Admin, action: &'static str, target: String, count: usize) {
    let Who { login, uid } = Who::runs_this();
    if let Err(error) = admin.record(&Change { action, target, count, login, uid }) {
        say(&format!("postrider: done, but not on record in operator_log: {error}"));
    }
}

/// Leaves `limit` lines, and says so where there were more.
fn cut<T>(lines: &mut Vec<T>, limit: u32) -> Option<String> {
    let is_more = lines.len() as u64 > u64::from(limit);
    lines.truncate(limit as usize);
    is_more.then(|| format!("(the first {limit}; more with --limit)"))
}

/// Below what a person reads.
fn line(cut: Option<String>) -> String {
    cut.map(|words| words + "\n").unwrap_or_default()
}

/// Beside what a program reads.
fn note(cut: Option<String>) {
    cut.into_iter().for_each(|words| say(&words));
}

fn change(
    path: &Path,
    selection: &Selection,
    (action, verb): (&'static str, Changing),
    done: &str,
) -> Result<String, QueueCommandError> {
    let admin = Admin::to_write(path)?;
    let mut recipients = 0;
    for which in selection.each() {
        let changed = verb(&*admin, &which)?;
        if let (Which::Message(id), 0) = (&which, changed)
            && admin.show(*id)?.is_none_or(|shown| shown.message.is_none())
        {
            return Err(QueueCommandError::Unknown(*id));
        }
        if changed > 0 {
            record(&admin, action, which.to_string(), changed);
        }
        recipients += changed;
    }
    Ok(format!("{recipients} recipient{} {done}\n", if recipients == 1 { "" } else { "s" }))
}

fn json_line(value: &impl serde::Serialize) -> String {
    // Structs of strings and numbers always have a JSON form.
    seen_json(&serde_json::to_string(value).unwrap_or_default()) + "\n"
}

fn json_lines(values: &[impl serde::Serialize]) -> String {
    values.iter().map(json_line).collect()
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
        for bad in
            [&["remove"][..], &["remove", "--all", "--domain", "b"], &["remove", "nonsense"], &["show"]]
        {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
        for good in
            [&["remove", "--all"][..], &["kick", "01MB1Z4QK3R", "01MB1Z4QK3S"], &["hold", "--domain", "b"]]
        {
            assert!(parse(good).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn a_queue_that_is_not_there_is_said_so_in_one_line() {
        let args = parse(&["list"]).unwrap();
        let error = run(&args, Path::new("/nonexistent/queue.db"), &mut Vec::new()).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/queue.db") && error.contains("postrider serve"), "{error}");
        assert!(!error.contains('\n'));
    }
}
