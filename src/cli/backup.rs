//! `postrider backup` and `postrider restore`: a copy of the queue in one file, and back.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::output::{json_line, print};
use super::queue::record;
use crate::config;
use crate::queue::admin::{self, Admin, Copied, HowToRestore, Restored};

/// `postrider backup`.
#[derive(Debug, clap::Args)]
pub(super) struct Backup {
    /// The file to write; it must not exist yet
    file: PathBuf,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// `postrider restore`.
#[derive(Debug, clap::Args)]
pub(super) struct Restore {
    /// The backup
    file: PathBuf,
    /// Also where mail waits in the queue that is there; it is kept beside the restored one
    #[arg(long)]
    replace: bool,
    /// Hold nothing: the relay was stopped before the backup was made, and did not run since
    ///
    /// For a move to another machine. What waits is tried at the start. Where the relay did run since, all that it
    /// has sent is sent again.
    #[arg(long)]
    queued: bool,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// Runs `postrider backup`. `config` is `--config`.
///
/// # Errors
/// There is no queue, the file exists already, or the disk has no room for it.
pub(super) fn back_up(config: Option<&Path>, Backup { file, json }: &Backup) -> anyhow::Result<()> {
    let path = config::queue_path(config)?;
    let copied = admin::back_up(&path, file)?;
    if *json {
        return print(&json_line(&copied));
    }
    let megabytes = copied.bytes as f64 / 1e6;
    let first = format!("{}: {}; {megabytes:.1} MB, read through\n", file.display(), contents(&copied));
    print(&(first + &not_whole(&copied)))
}

/// Runs `postrider restore`.
///
/// # Errors
/// The backup is none or damaged, a relay runs, or mail waits in the queue that is there.
pub(super) fn restore(config: Option<&Path>, arguments: &Restore) -> anyhow::Result<()> {
    let path = config::queue_path(config)?;
    let how = HowToRestore { replace: arguments.replace, as_it_was: arguments.queued };
    let restored = admin::restore(&path, &arguments.file, how)?;
    let recipients = usize::try_from(restored.copied.recipients).unwrap_or_default();
    record(&Admin::to_write(&path)?, "restore", arguments.file.display().to_string(), recipients, None);
    match arguments.json {
        true => print(&json_line(&restored)),
        false => print(&text(&restored, &path)),
    }
}

fn contents(copied: &Copied) -> String {
    let Copied { messages, recipients, held, history, .. } = copied;
    format!("{messages} messages with {recipients} recipients ({held} held), {history} finished")
}

fn not_whole(copied: &Copied) -> String {
    match copied.not_whole {
        0 => String::new(),
        count => format!("{count} messages in it are not whole, as they were before\n"),
    }
}

fn text(restored: &Restored, path: &Path) -> String {
    let mut text = format!("{}: {} restored\n", path.display(), contents(&restored.copied));
    text += &not_whole(&restored.copied);
    for foreign in &restored.left_out {
        let _ = writeln!(text, "left out, since it is not Postrider's: {foreign}");
    }
    // Writing to a String cannot fail.
    if let Some(kept) = &restored.kept {
        let _ = writeln!(text, "the queue of before is kept as {kept}");
    }
    if restored.suspensions > 0 {
        let _ = writeln!(
            text,
            "suspensions of the backup that are in force again: {} (`postrider queue suspensions`)",
            restored.suspensions
        );
    }
    if restored.as_it_was {
        return text + "\nnext: start the relay; what waits is tried at once\n";
    }
    if restored.pending_reports > 0 {
        let _ = writeln!(
            text,
            "{} failures are to be reported to their senders, an hour after the start, and may have been; to drop \
             that: postrider sql --write -c 'DELETE FROM pending_reports'",
            restored.pending_reports
        );
    }
    text + "all that waits is held and in doubt: it may have been sent since the backup was made\n\n\
            next: start the relay, look (`postrider queue list`), then `postrider queue release --all`\n\
            (or by queue id, or --domain), and `postrider queue remove` what has gone out already\n"
}
