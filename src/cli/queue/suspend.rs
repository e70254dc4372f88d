//! `postrider queue suspend`, `resume` and `suspensions`.

use std::path::Path;

use clap::{ArgGroup, Args, Subcommand};

use super::change::number;
use super::{Look, QueueCommandError, json_line, json_lines, record};
use crate::cli::output::WrongUsage;
use crate::cli::table::table;
use crate::cli::who::Who;
use crate::config::{self, duration_of};
use crate::kit::text::{printable, utc};
use crate::mail::labels::{self, TAG_CHARS_MAX};
use crate::queue::admin::{Admin, SuspensionLine};
use crate::queue::{Suspension, Whose};
use crate::submission::users;

/// Where what is refused is explained.
const HELP: &str = "see `postrider queue suspend --help`";

/// Characters of a reason.
const REASON_CHARS_MAX: usize = 200;

#[derive(Debug, Subcommand)]
pub(super) enum SuspendVerb {
    /// Have what waits and what comes for a domain, of a user or with a tag wait until resumed
    ///
    /// No attempt is made for it, whatever is kicked, by ETRN or by ATRN; one that is under way ends as it ends. Its
    /// lifetime goes on. What is suspended already gets the new end and reason. A domain can be a pattern; a user and a
    /// tag are named in full.
    Suspend(SuspendArgs),
    /// Have what is suspended go on
    Resume(ResumeArgs),
    /// List what is suspended, and how much waits behind each
    Suspensions {
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
}

/// `now`: Unix seconds.
pub(super) fn run(
    verb: &SuspendVerb,
    (config, path): (Option<&Path>, &Path),
    now: i64,
    look: Look,
) -> Result<String, QueueCommandError> {
    match verb {
        SuspendVerb::Suspend(args) => suspend(&Admin::to_write(path)?, config, args, now),
        SuspendVerb::Resume(args) => resume(&Admin::to_write(path)?, args),
        SuspendVerb::Suspensions { json } => {
            let rows = Admin::to_read(path)?.suspensions()?;
            Ok(if *json { json_lines(&rows, rows.len() as i64) } else { list(&rows, look) })
        }
    }
}

/// Whose mail is meant: one of these.
#[derive(Debug, Args)]
#[group(skip)]
struct WhoseArgs {
    /// Mail for this domain ('*.example.com' for all below it, '*' for all)
    #[arg(long, value_parser = Whose::domain)]
    domain: Option<Whose>,
    /// Mail that this user submitted
    #[arg(long, value_parser = user)]
    user: Option<Whose>,
    /// Mail with this tag
    #[arg(long, value_parser = tag)]
    tag: Option<Whose>,
}

impl WhoseArgs {
    fn whose(&self) -> Option<&Whose> {
        self.domain.as_ref().or(self.user.as_ref()).or(self.tag.as_ref())
    }
}

/// Arguments of `queue suspend`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("whose").args(["domain", "user", "tag"]).required(true))]
pub(super) struct SuspendArgs {
    #[command(flatten)]
    whose: WhoseArgs,
    /// Only for so long, such as 30m, 2h or 3d; then it goes on by itself
    #[arg(long = "for", value_name = "TIME", value_parser = seconds)]
    secs: Option<i64>,
    /// Why: shown wherever somebody asks what mail waits for
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    reason: Option<String>,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// Arguments of `queue resume`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("whose").args(["domain", "user", "tag", "all"]).required(true))]
pub(super) struct ResumeArgs {
    #[command(flatten)]
    whose: WhoseArgs,
    /// All that is suspended
    #[arg(long)]
    all: bool,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

fn user(text: &str) -> Result<Whose, String> {
    Whose::from_words("user", text).ok_or_else(|| "name a user".to_owned())
}

fn tag(text: &str) -> Result<Whose, String> {
    Whose::from_words("tag", text).ok_or_else(|| "name a tag".to_owned())
}

/// Filters take a pattern, and who types one here, or a tag that no message can have, would believe that the mail
/// stands still. What somebody wrote to the table by hand can be resumed all the same.
fn must_be_possible(whose: &Whose) -> Result<(), WrongUsage> {
    let (kind, name) = (whose.kind(), whose.value());
    let why = match whose {
        Whose::Domain(_) => return Ok(()),
        Whose::User(_) | Whose::Tag(_) if name.contains('*') => {
            "* is no pattern here: give the whole name, once for each".to_owned()
        }
        Whose::Tag(_) if labels::tag(name.as_bytes()) != Ok(Some(name.to_owned())) => {
            format!(
                "no message can have this tag: at most {TAG_CHARS_MAX} ASCII letters, digits and ._-+:/@="
            )
        }
        Whose::User(_) | Whose::Tag(_) => return Ok(()),
    };
    Err(WrongUsage(format!("--{kind} {}: {why}; {HELP}", printable(name.as_bytes()))))
}

fn seconds(text: &str) -> Result<i64, String> {
    match duration_of(text)?.as_secs() {
        0 => Err("a second at least".to_owned()),
        secs => Ok(i64::try_from(secs).unwrap_or(i64::MAX)),
    }
}

pub(super) fn reason(text: &str) -> Result<String, String> {
    let is_line = !text.trim().is_empty() && text.chars().all(|char| !char.is_control());
    match is_line && text.chars().count() <= REASON_CHARS_MAX {
        true => Ok(text.to_owned()),
        false => Err(format!("one line of at most {REASON_CHARS_MAX} characters")),
    }
}

/// Where nothing of a user waits that nobody has heard of, that is said: it may be a typing error.
fn is_unknown(admin: &Admin, config: Option<&Path>, whose: &Whose) -> Result<bool, QueueCommandError> {
    let Whose::User(name) = whose else { return Ok(false) };
    // Who may not read the users file asks the queue alone.
    let users =
        config::load(config).ok().and_then(|loaded| users::list(&loaded.settings.submission.users_file).ok());
    let is_listed = users.is_some_and(|users| users.iter().any(|user| user.name == *name));
    Ok(!is_listed && !admin.knows_user(name)?)
}

fn suspend(
    admin: &Admin,
    config: Option<&Path>,
    args: &SuspendArgs,
    now: i64,
) -> Result<String, QueueCommandError> {
    let Some(whose) = args.whose.whose().cloned() else { return Ok(String::new()) };
    must_be_possible(&whose)?;
    let row = Suspension {
        whose,
        since: now,
        until: args.secs.map(|secs| now.saturating_add(secs)),
        reason: args.reason.clone(),
        login: Who::runs_this().login,
    };
    let done = admin.suspend(&row)?;
    let count = usize::try_from(done.recipients).unwrap_or(0);
    record(admin, "suspend", row.whose.to_string(), count, row.reason.as_deref());
    // What was done is said in any case.
    let is_unknown = done.recipients == 0 && is_unknown(admin, config, &row.whose).unwrap_or(false);
    if args.json {
        return Ok(json_line(&serde_json::json!({
            "recipients": done.recipients, "expires": done.expires_at.map(utc), "replaced": done.replaced,
            "unknown": is_unknown
        })));
    }
    let until = match row.until {
        Some(until) => format!("until {} UTC", utc(until)),
        None => "until `postrider queue resume`".to_owned(),
    };
    let again = if done.replaced { "; it was suspended before, and this takes its place" } else { "" };
    let waits = if done.recipients == 1 { "waits" } else { "wait" };
    let expires = match done.expires_at {
        Some(at) => format!(", and the first of it expires {} UTC", utc(at)),
        None => String::new(),
    };
    let whose = row.whose.to_string();
    let whose = printable(whose.as_bytes());
    let unknown = match is_unknown {
        true => {
            format!("(no {whose} is known: the users file, what waits and history have none of this name)\n")
        }
        false => String::new(),
    };
    Ok(format!(
        "{whose} is suspended {until}{again}; {} {waits} behind it{expires}\n{unknown}",
        number(done.recipients, "recipient")
    ))
}

fn resume(admin: &Admin, args: &ResumeArgs) -> Result<String, QueueCommandError> {
    let whose = args.whose.whose();
    let resumed = match whose {
        Some(whose) => vec![whose.clone()],
        None => admin.suspended_now()?.into_iter().map(|row| row.whose).collect(),
    };
    let count = admin.resume(whose)?;
    if count == 0 {
        let Some(whose) = whose else { return Err(QueueCommandError::NothingSuspended) };
        // A pattern, perhaps, that covers the domain.
        let others = admin.suspended_now()?;
        let other = others.iter().find(|row| row.whose.covers(whose.value(), None, None));
        let other = other.filter(|_| whose.kind() == "domain");
        let but = other.map_or_else(String::new, |row| format!(" by this name, but {} is", row.whose));
        return Err(QueueCommandError::NotSuspended(whose.clone(), but));
    }
    // Each by itself, so that a message's story has what it waited behind, and nothing else.
    resumed.iter().for_each(|one| record(admin, "resume", one.to_string(), 1, None));
    if args.json {
        return Ok(json_line(&serde_json::json!({ "action": "resume", "suspensions": count })));
    }
    Ok(match whose {
        Some(whose) => format!("{} is resumed\n", printable(whose.to_string().as_bytes())),
        None => format!("{} resumed\n", number(count as i64, "suspension")),
    })
}

pub(super) fn list(rows: &[SuspensionLine], look: Look) -> String {
    if rows.is_empty() {
        return "nothing is suspended\n".to_owned();
    }
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let rows = rows.iter().map(|row| {
        vec![
            row.kind.to_owned(),
            row.value.clone(),
            row.recipients.to_string(),
            or_dash(&row.since),
            row.until.clone().unwrap_or_else(|| "until resumed".to_owned()),
            or_dash(&row.expires),
            row.login.clone(),
            or_dash(&row.reason),
        ]
    });
    let head =
        ["SUSPENDED", "VALUE", "RECIPIENTS", "SINCE (UTC)", "UNTIL (UTC)", "EXPIRES (UTC)", "BY", "REASON"];
    table(look, &head, rows.collect())
}
