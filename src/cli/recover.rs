//! `postrider recover`: a damaged queue, as far as it can be read, and what is missing.

use std::fmt::Write as _;
use std::path::Path;

use super::output::{json_line, print};
use crate::config;
use crate::kit::text::printable;
use crate::queue::admin::{self, Recovered};

/// `postrider recover`.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    state: State,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// What becomes of the mail that waits. There is no default: what went out in the hours before may be sent again.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct State {
    /// Hold all that waits, to be looked at and released
    #[arg(long)]
    held: bool,
    /// Have it tried at the next start
    #[arg(long)]
    queued: bool,
}

/// Runs `postrider recover`. `config` is `--config`.
///
/// # Errors
/// There is no queue, a relay runs on it, or nothing of it can be read.
pub(super) fn run(config: Option<&Path>, arguments: &Arguments) -> anyhow::Result<()> {
    let path = config::queue_path(config)?;
    let recovered = admin::recover(&path, arguments.state.held)?;
    if arguments.json {
        return print(&json_line(&recovered));
    }
    print(&text(&recovered, &path))
}

fn text(recovered: &Recovered, path: &Path) -> String {
    let mut text = format!(
        "{}: {} messages with {} recipients recovered, {}\nthe damaged database is kept as {}\n\n",
        path.display(),
        recovered.messages,
        recovered.recipients,
        if recovered.held { "held" } else { "queued" },
        recovered.kept,
    );
    for table in &recovered.tables {
        // Writing to a String cannot fail.
        let _ = write!(text, "{:<16} {} rows", table.table, table.rows);
        if table.unusable > 0 {
            let _ = write!(text, ", {} unusable", table.unusable);
        }
        if table.gaps > 0 {
            let _ = write!(text, ", unreadable at {} places", table.gaps);
        }
        text.push('\n');
    }
    if !recovered.problems.is_empty() {
        text.push('\n');
    }
    for problem in &recovered.problems {
        text = text + &printable(problem.as_bytes()) + "\n";
    }
    let next = if recovered.held {
        "`postrider queue release --all` (or by queue id) after the start"
    } else {
        "start it"
    };
    let _ = write!(text, "\nnext: look (`postrider queue list`), then {next}\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_damaged_database_holds_cannot_write_on_the_terminal() {
        let recovered = Recovered {
            messages: 1,
            recipients: 1,
            held: true,
            tables: Vec::new(),
            problems: vec!["from a\u{1b}]0;b\u{7}".to_owned()],
            kept: "queue.db.damaged".to_owned(),
        };
        let text = text(&recovered, Path::new("queue.db"));
        assert!(text.contains("\nfrom a\\x1B]0;b\\x07\n") && !text.contains('\u{1b}'), "{text:?}");
    }
}
