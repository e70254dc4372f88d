//! The command line: one file a command; here the arguments, the log, and what a failure looks like.
//!
//! An error is one line on stderr that says what is wrong, where, and what to do. The exit code
//! is 0 when all is well, 1 when the command failed, 2 when it was used wrongly or the config is bad.

mod backup;
pub mod check;
pub mod demo;
pub mod dkim;
pub mod explain;
pub mod health;
mod log_escape;
mod log_filter;
mod log_json;
mod log_output;
mod on_demand;
mod operator_queries;
mod output;
pub mod queue;
mod recover;
pub mod report;
mod sendmail;
pub mod serve;
mod since;
pub mod sql;
mod table;
pub mod tlsrpt;
pub mod top;
pub mod user;
mod who;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{CommandFactory as _, Parser, Subcommand};

use crate::config::{self, LogSettings};
use crate::queue::QueueError;
use crate::submission::StartError;

use log_output::FlushAtEnd;
use output::WrongUsage;

/// The exit code where the command was used wrongly or the config is bad (clap's too), and where the files of the queue
/// are not those that they were: systemd does not start what ended so again.
const WRONG_USAGE: u8 = 2;

/// An outbound mail relay with a durable SQLite queue that explains itself.
///
/// Applications hand mail to Postrider on port 587. It answers 250 when the message is on disk,
/// delivers it to the recipients' mail hosts, tries again where that makes sense, and tells the
/// sender what could not be delivered.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true, after_long_help = FIRST_STEPS)]
struct Arguments {
    /// The config file (default: ./postrider.toml, else /etc/postrider/postrider.toml, else built-in)
    ///
    /// Without this option the first of ./postrider.toml and /etc/postrider/postrider.toml that
    /// exists is used. Without any file built-in defaults hold: state in ./postrider-data/, listening on
    /// 127.0.0.1:5587 with a self-signed certificate. `postrider check --reference` prints a
    /// commented config file.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(subcommand)]
    command: Command,
}

const FIRST_STEPS: &str = "\
First steps:
  postrider demo                       see it work, on loopback, with nothing set up
  postrider check --reference          every config key, its default and what it is for
  postrider user add app               who may send mail
  postrider check                      what is still missing
  postrider serve                      run it

Exit code: 0 fine, 1 failed, 2 wrong usage or bad config.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the relay
    ///
    /// Runs until SIGTERM or SIGINT: then no new mail is taken, content on its way has 3 seconds
    /// to get there, and what is left waits in the queue for the next start. SIGHUP reads the config
    /// again; a bad one is logged and the old one stays. RUST_LOG=debug shows the dialogues.
    Serve,
    /// Check config, certificate, users, database and DNS; print what was found
    Check(check::Arguments),
    /// Show the main job end to end on loopback: no config, no network
    ///
    /// Starts a relay on a fresh queue and three small receiving hosts that behave differently, sends real
    /// messages, and shows the queue as it moves.
    Demo {
        /// Leave the queue behind, to be looked into
        #[arg(long)]
        keep: bool,
    },
    /// Look at the queue and act on it, with or without the relay running
    Queue(queue::QueueArgs),
    /// Say what went through since a time: accepted, delivered and how fast, deferred, bounced, and why
    ///
    /// Columns count recipients. ACCEPTED: since that time. DELIVERED, BOUNCED, EXPIRED (returned at the end of their
    /// lifetime) and REMOVED (by an operator): finished since then, whenever they were accepted. WAITING: now.
    /// ACCEPTED, with those that waited already, is the sum of the other five. DEFERRED: those of WAITING that were
    /// tried since then. HALF IN, 95% IN: so long deliveries took, of half of them and of 95 in 100. Bounces and
    /// reports that Postrider wrote itself are in the line '(own reports)' alone.
    Report(report::ReportArgs),
    /// SQL on the queue: a prompt, or -c 'SELECT …'
    ///
    /// To look, also with the relay running; with --write to change it by hand. It is safe beside the relay, which a
    /// sqlite3 older than 3.51.3 is not where it writes.
    Sql(sql::Arguments),
    /// Copy the queue to a file, with or without the relay running
    ///
    /// The copy is of one moment, in one file for its owner alone, and is read through by itself before it gets its
    /// name: FILE is there whole, or not at all. Until then it is FILE.partial. The relay goes on meanwhile.
    Backup(backup::Backup),
    /// Put a backup in the place of the queue, with the relay stopped
    ///
    /// All that waits in it may have been sent since it was made. So it is held, and in doubt, until `postrider queue
    /// release`. No id is given out again. The queue of before is kept beside it.
    Restore(backup::Restore),
    /// Put what can be read of a damaged queue into a fresh one, with the relay stopped
    ///
    /// The fresh database takes the place of the damaged one, which is kept beside it. Prints what was read, and each
    /// message that is not as it was: nothing that is not whole is sent.
    Recover(recover::Arguments),
    /// Hand a message to the relay, as sendmail does: for cron, PHP, git and all that call it
    ///
    /// The same when called as sendmail, mailq or newaliases. `postrider sendmail --help` shows its options.
    #[command(disable_help_flag = true)]
    Sendmail {
        /// Options and recipients
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Say who may log in and send mail
    #[command(subcommand)]
    User(user::Verb),
    /// Make keys that sign mail (DKIM), and show what DNS has of them
    #[command(subcommand)]
    Dkim(dkim::Verb),
    /// Watch the relay: lanes, connections, the rate, what was refused last (q ends it)
    ///
    /// Connections are known where [metrics] listen is set. What was accepted counts Postrider's own reports, too.
    /// Where standard output is no terminal, one screen is printed.
    Top(top::Arguments),
    /// Say whether the relay answers on this machine, for the health check of a container
    ///
    /// Asks each listener for its greeting, within five seconds. Exit code 0: all answer; 1: one does not, or the
    /// config does not say where it is.
    Health(health::Arguments),
    /// Look at the daily reports on TLS to other domains (RFC 8460)
    #[command(subcommand)]
    Tlsrpt(tlsrpt::Verb),
    /// Show how mail for an address would be routed, step by step
    Explain {
        /// The recipient, such as somebody@example.com, a name of [aliases], or a domain
        address: String,
        /// For mail that this user submitted: what [[source]] gives users of its own
        #[arg(long)]
        user: Option<String>,
        /// For mail of this author (its From): which DKIM keys sign it
        #[arg(long, value_name = "ADDRESS")]
        from: Option<String>,
        /// A list of objects
        #[arg(long)]
        json: bool,
    },
}

fn queue_command(config: Option<&Path>, arguments: &queue::QueueArgs) -> anyhow::Result<()> {
    let path = config::queue_path(config)?;
    let mut answer = Vec::new();
    let outcome = queue::run(arguments, config, &path, &mut answer);
    // What was found out before a failure is the reason for it.
    output::print_bytes(&answer)?;
    match outcome {
        Err(queue::QueueCommandError::Usage(usage)) => Err(usage.into()),
        outcome => Ok(outcome?),
    }
}

fn explain_command(
    config: Option<&Path>,
    address: &str,
    of: (Option<&str>, Option<&str>),
    json: bool,
) -> anyhow::Result<()> {
    let settings = config::load(config)?.settings;
    let mut answer = Vec::new();
    let outcome = explain::run(address, of, json, &settings, &mut answer);
    // Where an address cannot be routed the answer says why.
    let printed = output::print_bytes(&answer);
    outcome?;
    printed
}

/// `postrider queue` with these words behind it.
fn queue_by_words(config: Option<&Path>, words: &[&str]) -> anyhow::Result<()> {
    let words = &[&["queue"], words].concat();
    let parsed = Arguments::try_parse_from([&["postrider"], &words[..]].concat());
    let parsed = parsed.map_err(|error| WrongUsage(one_line(&error.to_string(), words)));
    match parsed?.command {
        Command::Queue(arguments) => queue_command(config, &arguments),
        other => Err(WrongUsage(format!("{other:?} is not about the queue")).into()),
    }
}

/// The command line as it is defined: manual pages and completions are made from it.
pub fn command() -> clap::Command {
    Arguments::command()
}

/// Reads the arguments, runs the command and says how it went.
pub fn run() -> ExitCode {
    if let Some(arguments) = sendmail::called(&std::env::args_os().collect::<Vec<_>>()) {
        return sendmail::run(arguments, queue_by_words);
    }
    let Arguments { config, command } = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) if error.use_stderr() && !is_help(&error) => {
            let words: Vec<String> =
                std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            log_output::say(&format!("postrider: {}", one_line(&error.to_string(), &words)));
            return ExitCode::from(WRONG_USAGE);
        }
        Err(help) => help.exit(),
    };
    let config = config.as_deref();
    let _flush_at_end = FlushAtEnd;
    let outcome = match command {
        Command::Serve => serve::inherited::sockets().and_then(|sockets| serve::run(config, sockets)),
        // What happens is told by the demo itself.
        Command::Demo { keep } => log_output::start("off", LogSettings::default())
            .context(log_output::NO_THREAD)
            .and_then(|()| demo::run(keep)),
        Command::Check(arguments) => check::run(config, &arguments),
        Command::Queue(arguments) => queue_command(config, &arguments),
        Command::Report(arguments) => report::run(config, &arguments),
        Command::Sql(arguments) => {
            config::queue_path(config).map_err(Into::into).and_then(|path| sql::run(&arguments, &path))
        }
        Command::Backup(arguments) => backup::back_up(config, &arguments),
        Command::Restore(arguments) => backup::restore(config, &arguments),
        Command::Recover(arguments) => recover::run(config, &arguments),
        // It reads its arguments as they are, where it is called by its name.
        Command::Sendmail { .. } => Err(WrongUsage(
            "sendmail reads no config of the relay's; write it first: postrider sendmail …".to_owned(),
        )
        .into()),
        Command::User(verb) => user::run(config, verb),
        Command::Dkim(verb) => dkim::run(config, &verb),
        Command::Top(arguments) => top::run(config, &arguments),
        Command::Health(arguments) => health::run(config, &arguments),
        Command::Tlsrpt(verb) => tlsrpt::run(config, &verb),
        Command::Explain { address, user, from, json } => {
            explain_command(config, &address, (user.as_deref(), from.as_deref()), json)
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report(&error),
    }
}

/// Help that clap shows because nothing was asked for.
fn is_help(error: &clap::Error) -> bool {
    error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
}

/// What clap says in several lines of these arguments, as every error of this program is said.
fn one_line(text: &str, arguments: &[&str]) -> String {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let said: Vec<&str> = lines.by_ref().take_while(|line| !line.starts_with("Usage:")).collect();
    let (what, tips): (Vec<&str>, Vec<&str>) = said.into_iter().partition(|line| !line.starts_with("tip: "));
    let what = what.join(" ");
    let what = what.strip_prefix("error: ").unwrap_or(&what).trim_end_matches('.');
    // That an option could be meant as a value is never what somebody wants to know here.
    let tips = tips.iter().filter_map(|line| line.strip_prefix("tip: "));
    let tips: Vec<&str> = tips.filter(|tip| !tip.starts_with("to pass ")).collect();
    let asked = asked_of(arguments);
    let unknown = what.strip_prefix("unrecognized subcommand '").and_then(|rest| rest.split('\'').next());
    let remedy = match unknown {
        Some(name) if asked != "postrider" && command().find_subcommand(name).is_some() => {
            format!("`postrider {name}` is a command of its own")
        }
        _ if tips.is_empty() => format!("`{asked} --help` shows how"),
        _ => tips.join(", "),
    };
    format!("{}; {remedy}", what.replace(" For more information, try '--help'", ""))
}

/// The command that these arguments are for: `postrider queue suspend`.
fn asked_of(arguments: &[&str]) -> String {
    let (mut command, mut asked) = (command(), "postrider".to_owned());
    for word in arguments {
        if let Some(found) = command.find_subcommand(word).cloned() {
            asked += &format!(" {}", found.get_name());
            command = found;
        }
    }
    asked
}

/// One line (a bad config: one a problem), and the exit code that goes with it.
fn report(error: &anyhow::Error) -> ExitCode {
    if error.is::<check::Found>() {
        return ExitCode::FAILURE;
    }
    if output::is_reader_gone(error) {
        return ExitCode::SUCCESS;
    }
    if let Some(problems) = error.downcast_ref::<config::Problems>() {
        log_output::say(&problems.to_string());
        return ExitCode::from(WRONG_USAGE);
    }
    log_output::say(&format!("postrider: {}", output::whole(error).replace('\n', " ")));
    let is_wrong_socket =
        matches!(error.downcast_ref(), Some(StartError::NotListed { .. } | StartError::Inherited(_)));
    let needs_a_person = error.downcast_ref().is_some_and(QueueError::needs_a_person);
    if error.is::<WrongUsage>() || is_wrong_socket || needs_a_person {
        ExitCode::from(WRONG_USAGE)
    } else {
        ExitCode::FAILURE
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    #[test]
    fn the_arguments_are_consistent() {
        super::command().debug_assert();
    }

    #[test]
    fn what_clap_says_becomes_one_line() {
        let said = |arguments: &[&str]| {
            let error = super::Arguments::try_parse_from(arguments).unwrap_err();
            super::one_line(&error.to_string(), &arguments[1..])
        };
        let tip = "unrecognized subcommand 'chek'; a similar subcommand exists: 'check'";
        assert_eq!(said(&["postrider", "chek"]), tip);
        let missing = "the following required arguments were not provided: <NAME>; `postrider user add --help` shows how";
        assert_eq!(said(&["postrider", "user", "add"]), missing);
        let limit = said(&["postrider", "queue", "remove", "--limit", "3"]);
        assert_eq!(limit, "unexpected argument '--limit' found; `postrider queue remove --help` shows how");
        let value = "a value is required for '--config <FILE>' but none was supplied; `postrider check --help` shows how";
        assert_eq!(said(&["postrider", "check", "--config"]), value);
        for (arguments, remedy) in [
            (&["suspend", "--tag", ""][..], "; `postrider queue suspend --help` shows how"),
            (&["flush", "--older", "2"], "; `postrider queue kick --help` shows how"),
            (&["report"], "; `postrider report` is a command of its own"),
            (&["list", "--state", "gone"], "; `postrider queue list --help` shows how"),
        ] {
            let said = said(&[&["postrider", "queue"], arguments].concat());
            assert!(said.ends_with(remedy), "{said}");
        }
    }
}
