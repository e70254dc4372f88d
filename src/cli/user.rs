//! `postrider user`: add, remove and list who may log in, and let in again whom failed logins keep out.
//!
//! The password is asked for twice on the terminal, or read from one line of stdin; it is never
//! an argument, which every user of the machine could read.

use std::io::{BufRead as _, IsTerminal as _, Read as _};
use std::num::{NonZeroU32, NonZeroU64};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde::Serialize;

use super::log_output::say;
use super::output::{WrongUsage, json_pretty, print};
use crate::config::{self, size_text};
use crate::mail::Priority;
use crate::queue::BytesByUser;
use crate::queue::admin::Admin;
use crate::submission::counted_for;
use crate::submission::users::{self, Attributes, Limits, User};

/// No password is longer; what follows on a longer line is not waited for.
const LINE_BYTES_MAX: u64 = 4096;

/// `postrider user …`.
#[derive(Debug, clap::Subcommand)]
pub enum Verb {
    /// Add a user; the password is asked for, or read with --password-stdin
    ///
    /// Only a verifier of the password is stored (SCRAM-SHA-256, RFC 5803), in the file that [users]
    /// file names. A running relay knows the user within a second.
    Add(Add),
    /// Give a user another password; what it may do stays as it is
    Passwd {
        /// The user's name
        name: String,
        /// Read the password from one line of stdin instead of asking for it
        #[arg(long)]
        password_stdin: bool,
    },
    /// Change a user's limits; its password and what else it may do stay as they are
    ///
    /// A limit that is not named stays, too. A running relay goes by it within a second, for messages that begin then.
    Set {
        /// The user's name
        name: String,
        /// So many recipients an hour at most: 100/h, or off
        #[arg(long, value_name = "N/h", required_unless_present = "quota")]
        rate: Option<String>,
        /// So much mail in the queue at most: 2GiB, or off
        #[arg(long, value_name = "SIZE")]
        quota: Option<String>,
    },
    /// Remove a user; a running relay refuses it within a second
    Remove {
        /// The user's name
        name: String,
    },
    /// List the users
    List {
        /// One JSON object, for programs
        #[arg(long)]
        json: bool,
    },
    /// List whom failed logins keep out or make slow; with --lift, let them in again
    ///
    /// REFUSED: no login from this address or network is checked until then (421); users that have logged in from the
    /// address before are. SLOW: logins by this name are checked after up to eight seconds, but for clients that have
    /// logged in by it before; with an address: those of such a client, after failures of its own. Names that no user
    /// has are not listed. Works with or without the relay running.
    Failures(Failures),
}

/// `postrider user failures`.
#[derive(Debug, clap::Args)]
pub struct Failures {
    /// Let these in again: a user's name, an address (with the networks round it), a network as listed, or all
    ///
    /// A running relay heeds it within a second.
    #[arg(long, value_name = "NAME|ADDRESS|all")]
    lift: Option<String>,
    /// One JSON object, for programs
    #[arg(long, conflicts_with = "lift")]
    json: bool,
}

/// `postrider user add`.
#[derive(Debug, clap::Args)]
pub struct Add {
    /// The name to log in with: up to 64 printable ASCII characters, no spaces, no colon
    name: String,
    /// Read the password from one line of stdin instead of asking for it
    #[arg(long)]
    password_stdin: bool,
    /// Allow the private commands: XADR, XSTA, XCIR and XGEN
    #[arg(long)]
    operator: bool,
    /// Allow only these senders: an address, or *@example.com; may be given several times
    ///
    /// Without this option the user may send as anybody. Upper and lower case are the same;
    /// app+tag@example.com is another sender than app@example.com.
    #[arg(long, value_name = "PATTERN")]
    senders: Vec<String>,
    /// Take mail to at most so many recipients an hour: 100/h
    ///
    /// More are answered 450 at RCPT, or at MAIL where none is left, and may be tried again later. What is not
    /// queued in the end does not count.
    #[arg(long, value_name = "N/h")]
    rate: Option<String>,
    /// Let at most so much of the user's mail be in the queue at once: 2GiB
    ///
    /// All that waits counts, mail that is held or is for later (HOLDFOR) too. What is over is answered 452 and may be
    /// tried again later.
    #[arg(long, value_name = "SIZE")]
    quota: Option<String>,
    /// Let the user fetch the mail of this domain with ATRN; may be given several times
    ///
    /// Mail for it then waits until the user comes for it (RFC 2645, On-Demand Mail Relay), and is not
    /// delivered to its mail hosts any more.
    #[arg(long, value_name = "DOMAIN")]
    atrn: Vec<String>,
    /// Let the user kick all mail for this domain with ETRN; may be given several times
    ///
    /// What it sent itself, and mail for its --atrn domains, a user may kick without this option; operators may kick
    /// everything.
    #[arg(long, value_name = "DOMAIN")]
    etrn: Vec<String>,
    /// The priority of the user's mail that asks for none, -9 to 9 (MT-PRIORITY, RFC 6710); higher goes first
    #[arg(long, value_name = "N", value_parser = priority, allow_negative_numbers = true)]
    priority: Option<Priority>,
    /// The highest priority that the user's mail may ask for; otherwise --priority, or 0
    #[arg(long, value_name = "N", value_parser = priority, allow_negative_numbers = true)]
    priority_max: Option<Priority>,
    /// Allow CRAM-MD5; needs a secret in the users file that is as good as the password
    ///
    /// For clients that know nothing better. Whoever reads the users file can then log in as this
    /// user with CRAM-MD5, here and wherever else the password is used, and can guess the password at the
    /// speed of MD5; without this option they can do neither. Clients see CRAM-MD5 offered as soon as
    /// one user has it; those that prefer it to PLAIN are refused for users who have not, and must
    /// try PLAIN themselves. SCRAM-SHA-256 needs no option and costs nothing of this.
    #[arg(long)]
    cram_md5: bool,
}

/// Runs `postrider user …`. `config` is `--config`.
///
/// # Errors
/// A bad config, a name or password that cannot be, or a file that cannot be read or written.
pub fn run(config: Option<&Path>, verb: Verb) -> anyhow::Result<()> {
    match verb {
        Verb::Add(arguments) => {
            let (file, queue) = files(config, true)?;
            let name = arguments.name.clone();
            add(&file, arguments)?;
            record(&queue, "user add", name.clone(), 1);
            print(&format!("user {name} added to {}\n", file.display()))
        }
        Verb::Passwd { name, password_stdin } => {
            let (file, queue) = files(config, false)?;
            passwd(&file, &name, password_stdin)?;
            record(&queue, "user passwd", name.clone(), 1);
            print(&format!("user {name} has another password in {}\n", file.display()))
        }
        Verb::Set { name, rate, quota } => {
            let (file, queue) = files(config, false)?;
            users::set_limits(&file, &name, &Limits { rate, quota })?;
            record(&queue, "user set", name.clone(), 1);
            print(&format!("user {name} has other limits in {}\n", file.display()))
        }
        Verb::Remove { name } => {
            let (file, queue) = files(config, false)?;
            users::remove(&file, &name)?;
            record(&queue, "user remove", name.clone(), 1);
            print(&format!("user {name} removed from {}\n", file.display()))
        }
        Verb::List { json } => {
            let (file, queue) = files(config, false)?;
            list(&file, &queue, json)
        }
        Verb::Failures(Failures { lift: Some(whom), .. }) => {
            let (_, queue) = files(config, false)?;
            lift(&queue, &whom)
        }
        Verb::Failures(Failures { lift: None, json }) => {
            let (_, queue) = files(config, false)?;
            failures(&queue, json)
        }
    }
}

fn failures(queue: &Path, json: bool) -> anyhow::Result<()> {
    let found = Admin::to_read(queue)?.login_failures()?;
    if json {
        return print(&json_pretty(&serde_json::json!({ "failures": found })));
    }
    if found.is_empty() {
        return print("nobody is refused or slow for failed logins\n");
    }
    let cell = |one: &Option<String>| one.clone().unwrap_or_else(|| "-".to_owned());
    let rows = found.iter().map(|line| {
        vec![
            cell(&line.network),
            cell(&line.name),
            line.effect.clone(),
            line.failures.to_string(),
            line.since.clone(),
            line.until.clone(),
        ]
    });
    let head = ["ADDRESS", "NAME", "EFFECT", "FAILURES", "SINCE (UTC)", "UNTIL (UTC)"];
    print(&super::table::table(super::table::Look::of_stdout(), &head, rows.collect()))
}

/// Of an address also the network round it: whoever calls wants the user to get in.
fn lift(queue: &Path, whom: &str) -> anyhow::Result<()> {
    let admin = Admin::to_write(queue)?;
    let lifted = match whom {
        "all" => admin.lift(None)?,
        _ => {
            let mut of = counted_for(whom);
            of.push(whom.to_owned());
            admin.lift(Some(&of))?
        }
    };
    if lifted == 0 && whom != "all" {
        bail!("no failed logins count for {whom}: see `postrider user failures`");
    }
    if lifted > 0 {
        super::queue::record(&admin, "user lift", whom.to_owned(), lifted, None);
    }
    print(&format!("{lifted} lifted\n"))
}

/// Puts the change on record, where there is a queue already.
fn record(queue: &Path, action: &'static str, name: String, count: usize) {
    if !queue.exists() {
        return;
    }
    match Admin::to_write(queue) {
        Ok(admin) => super::queue::record(&admin, action, name, count, None),
        Err(error) => say(&format!("postrider: done, but not on record in operator_log: {error}")),
    }
}

/// Where the users are, and the queue; with built-in defaults the directory is made when it is first needed.
fn files(config: Option<&Path>, create: bool) -> anyhow::Result<(PathBuf, PathBuf)> {
    let loaded = config::load(config)?;
    if create && loaded.is_built_in() {
        config::make_built_in_directory().map_err(anyhow::Error::msg)?;
    }
    Ok((loaded.settings.submission.users_file, loaded.settings.queue.path))
}

fn add(file: &Path, arguments: Add) -> anyhow::Result<()> {
    let Add {
        name,
        password_stdin,
        operator,
        senders,
        rate,
        quota,
        atrn,
        etrn,
        priority,
        priority_max,
        cram_md5,
    } = arguments;
    let attributes =
        Attributes { operator, senders, atrn, etrn, rate, quota, priority, priority_max, cram_md5 };
    // Said before anybody types a password.
    users::may_add(file, &name, &attributes)?;
    let password = if password_stdin { password_of_stdin()? } else { ask_password(&name)? };
    users::add(file, &name, &password, &attributes)?;
    if !password.is_ascii() {
        say("postrider: the password is not ASCII; a program that writes the same letters in other bytes \
             (composed or decomposed) cannot log in with it");
    }
    if cram_md5 {
        say(&format!(
            "postrider: {} now holds a secret that is as good as {name}'s password for CRAM-MD5: whoever reads \
             the file can log in with it; keep it from everybody but the relay",
            file.display()
        ));
    }
    Ok(())
}

fn passwd(file: &Path, name: &str, password_stdin: bool) -> anyhow::Result<()> {
    if users::list(file)?.iter().all(|user| user.name != name) {
        // As above.
        return Err(users::UsersError::Missing(name.to_owned(), file.to_owned()).into());
    }
    let password = if password_stdin { password_of_stdin()? } else { ask_password(name)? };
    Ok(users::set_password(file, name, &password)?)
}

fn priority(text: &str) -> Result<Priority, String> {
    Priority::from_word(text).ok_or_else(|| "a priority is a whole number from -9 to 9".to_owned())
}

/// One line, without its line end.
fn password_of_stdin() -> anyhow::Result<String> {
    let mut line = String::new();
    let mut stdin = std::io::stdin().lock().take(LINE_BYTES_MAX);
    stdin
        .read_line(&mut line)
        .context("cannot read the password from stdin; give it as one line of UTF-8")?;
    let line = line.strip_suffix('\n').unwrap_or(&line);
    Ok(line.strip_suffix('\r').unwrap_or(line).to_owned())
}

fn ask_password(name: &str) -> anyhow::Result<String> {
    if !std::io::stdin().is_terminal() {
        let text =
            "there is no terminal to ask for the password on; give it as one line with --password-stdin";
        return Err(WrongUsage(text.to_owned()).into());
    }
    let ask = |prompt: &str| {
        rpassword::prompt_password(prompt).context("cannot read the password from the terminal")
    };
    let password = ask(&format!("Password for {name}: "))?;
    if ask("Once more: ")? != password {
        bail!("the two passwords differ; nothing was changed, try again");
    }
    Ok(password)
}

/// What a program may read of a user; never its verifier.
#[derive(Serialize)]
struct Shown<'a> {
    name: &'a str,
    operator: bool,
    senders: &'a [String],
    rate_per_hour: Option<NonZeroU32>,
    quota_bytes: Option<NonZeroU64>,
    /// Of those with a quota, where there is a queue that can be read.
    queued_bytes: Option<u64>,
    atrn: &'a [String],
    etrn: &'a [String],
    cram_md5: bool,
    /// Of mail that asks for none, and the highest that may be asked for.
    priority: i8,
    priority_max: i8,
}

fn list(file: &Path, queue: &Path, json: bool) -> anyhow::Result<()> {
    let users = users::list(file)?;
    let has_quota = users.iter().any(|user| user.quota.is_some());
    let queued = if has_quota { queued(queue) } else { None };
    let shown: Vec<Shown<'_>> = users.iter().map(|user| Shown::of(user, queued.as_ref())).collect();
    if json {
        return print(&json_pretty(&serde_json::json!({ "file": file, "users": shown })));
    }
    if shown.is_empty() {
        say(&format!(
            "postrider: there are no users in {}; `postrider user add NAME` adds one",
            file.display()
        ));
    }
    print(&shown.iter().map(Shown::line).collect::<String>())
}

/// How much each user has queued; none where the queue cannot be read, or is not there yet.
pub(super) fn queued(queue: &Path) -> Option<BytesByUser> {
    Admin::to_read(queue).and_then(|admin| admin.bytes_by_user()).ok()
}

impl Shown<'_> {
    fn of<'u>(user: &'u User, queued: Option<&BytesByUser>) -> Shown<'u> {
        let of_user = |queued: &BytesByUser| queued.get(&user.name).copied().unwrap_or(0);
        let (priority, priority_max) = user.priorities();
        Shown {
            name: &user.name,
            operator: user.operator,
            senders: &user.senders,
            rate_per_hour: user.rate,
            quota_bytes: user.quota,
            queued_bytes: user.quota.and(queued).map(of_user),
            atrn: &user.atrn,
            etrn: &user.etrn,
            cram_md5: user.has_cram_md5(),
            priority: priority.value(),
            priority_max: priority_max.value(),
        }
    }

    fn line(&self) -> String {
        let mut line = self.name.to_owned();
        for (attribute, has) in [("operator", self.operator), ("cram-md5", self.cram_md5)] {
            if has {
                line.push_str("  ");
                line.push_str(attribute);
            }
        }
        if let Some(rate) = self.rate_per_hour {
            line.push_str(&format!("  rate {rate}/h"));
        }
        if let Some(quota) = self.quota_bytes {
            line.push_str(&format!("  quota {}", size_text(quota.get())));
            let share = |bytes: u64| u128::from(bytes) * 100 / u128::from(quota.get());
            line.extend(self.queued_bytes.map(|bytes| format!(" ({} % used)", share(bytes))));
        }
        for (attribute, list) in [("senders", self.senders), ("atrn", self.atrn), ("etrn", self.etrn)] {
            if !list.is_empty() {
                line.push_str(&format!("  {attribute} {}", list.join(", ")));
            }
        }
        if (self.priority, self.priority_max) != (0, 0) {
            line.push_str(&format!("  priority {} (at most {})", self.priority, self.priority_max));
        }
        line + "\n"
    }
}
