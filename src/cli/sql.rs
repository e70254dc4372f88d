//! `postrider sql`: SQL on the queue, with the SQLite of this program: a prompt, `-c`, or statements from stdin.

mod input;
mod layout;

use std::io::{IsTerminal as _, Read as _, Write as _};
use std::path::Path;

use anyhow::Context as _;
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;
use signal_hook::consts::SIGINT;

use super::output::print;
use super::table::terminal_columns;
use crate::queue::shell::{Ran, Shell};
use input::{Input, Typed};
use layout::{Layout, Mode};

/// `postrider sql`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Run these statements and end
    #[arg(short, long, value_name = "SQL", allow_hyphen_values = true)]
    command: Option<String>,
    /// Allow statements that change the queue; a running relay notices within two seconds
    #[arg(long)]
    write: bool,
    /// How rows are shown; values in a table are cut at 60 characters, and one that is wider than the terminal is shown
    /// a value a line
    #[arg(long, value_enum, default_value_t = Mode::Table)]
    mode: Mode,
}

const HELP: &str = "\
Statements end with ; and may go over several lines. SELECT * FROM queue; shows what waits.
A table that is wider than the terminal is shown a value a line. Ctrl-C stops a statement, Ctrl-D ends.
  .tables          tables and views
  .schema [NAME]   how they are made
  .mode MODE       table, line (a value a line, whole), list (for scripts), csv, json
  .quit
";

/// Runs `postrider sql` on the queue at `path`.
///
/// # Errors
/// There is no queue, or a statement fails (at the prompt it is told there).
pub fn run(arguments: &Arguments, path: &Path) -> anyhow::Result<()> {
    let shell = Shell::open(path, arguments.write)?;
    if let Some(statements) = &arguments.command {
        return execute(&shell, statements, arguments.mode);
    }
    if std::io::stdin().is_terminal() {
        return prompt(&shell, arguments, path);
    }
    let mut statements = String::new();
    std::io::stdin().read_to_string(&mut statements).context("cannot read statements from stdin")?;
    execute(&shell, &statements, arguments.mode)
}

fn execute(shell: &Shell, statements: &str, mode: Mode) -> anyhow::Result<()> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut layout = Layout::new(mode, terminal_columns());
    let ran = shell.run(statements, &mut |ran| layout.tell(&ran, &mut out));
    // The rows before a statement that failed are shown before its error.
    let flushed = out.flush();
    ran?;
    Ok(flushed?)
}

/// Lines until `.quit`, Ctrl-D, or the end of the terminal. Ctrl-C drops what is typed, or stops what runs. The history
/// is this session's alone: statements may name people.
fn prompt(shell: &Shell, arguments: &Arguments, path: &Path) -> anyhow::Result<()> {
    let mut editor = DefaultEditor::new().context("cannot use the terminal")?;
    let may = if arguments.write { "statements may change it" } else { "to look only; --write to change it" };
    print(&format!("{}: {may}. .help shows how.\n", path.display()))?;
    stop_at_interrupt(shell).context("cannot catch Ctrl-C")?;
    let (mut mode, mut input) = (arguments.mode, Input::default());
    loop {
        let lines = match editor.readline(if input.is_empty() { "sql> " } else { "...> " }) {
            Ok(lines) => lines,
            Err(ReadlineError::Interrupted) => {
                input.clear();
                continue;
            }
            Err(ReadlineError::Eof) => return Ok(()),
            Err(error) => return Err(error).context("cannot read from the terminal"),
        };
        // Several where they were pasted.
        for line in lines.split('\n') {
            let (typed, done) = match input.line(line) {
                Typed::Unfinished => continue,
                Typed::Command(typed) => {
                    let done = command(shell, &typed, &mut mode);
                    (typed, done)
                }
                Typed::Statements(typed) => {
                    let done = execute_and_count(shell, &typed, mode).map(|()| true);
                    (typed, done)
                }
            };
            // A line that cannot be remembered is no reason to stop.
            let _ = editor.add_history_entry(typed.trim());
            match done {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(error) => told(&error)?,
            }
        }
    }
}

/// Ctrl-C while a statement runs stops that alone.
fn stop_at_interrupt(shell: &Shell) -> std::io::Result<()> {
    let interrupt = shell.interrupter();
    let mut signals = signal_hook::iterator::Signals::new([SIGINT])?;
    std::thread::Builder::new()
        .name("interrupt".to_owned())
        .spawn(move || signals.forever().for_each(|_| interrupt()))
        .map(drop)
}

/// As `execute`, for the terminal, and says how many rows were changed.
fn execute_and_count(shell: &Shell, statements: &str, mode: Mode) -> anyhow::Result<()> {
    let stdout = std::io::stdout();
    let mut out = std::io::BufWriter::new(stdout.lock());
    let mut layout = Layout::new(mode, terminal_columns());
    let ran = shell.run(statements, &mut |ran| {
        layout.tell(&ran, &mut out)?;
        match ran {
            Ran::Done { changed: 1 } => writeln!(out, "1 row changed"),
            Ran::Done { changed } if changed > 0 => writeln!(out, "{changed} rows changed"),
            _ => Ok(()),
        }
    });
    let flushed = out.flush();
    ran?;
    Ok(flushed?)
}

/// An error at the prompt; the prompt goes on.
fn told(error: &anyhow::Error) -> anyhow::Result<()> {
    print(&format!("error: {error}\n"))
}

/// A command that begins with a dot; false: it was `.quit`.
fn command(shell: &Shell, line: &str, mode: &mut Mode) -> anyhow::Result<bool> {
    let mut words = line.split_whitespace();
    match (words.next().unwrap_or_default(), words.next(), words.next()) {
        (".quit" | ".exit", None, None) => return Ok(false),
        (".help", None, None) => print(HELP)?,
        (".tables", None, None) => execute(
            shell,
            "SELECT name, type FROM sqlite_schema WHERE type IN ('table', 'view') ORDER BY type DESC, name",
            *mode,
        )?,
        (".schema", name, None) => {
            let quoted = name.map(|name| format!("'{}'", name.replace('\'', "''")));
            let filter = quoted.map(|name| format!("AND (name = {name} OR tbl_name = {name})"));
            let filter = filter.unwrap_or_default();
            execute(
                shell,
                &format!("SELECT sql || ';' FROM sqlite_schema WHERE sql IS NOT NULL {filter}"),
                Mode::Text,
            )?;
        }
        (".mode", Some(name), None) => match <Mode as clap::ValueEnum>::from_str(name, true) {
            Ok(wanted) => *mode = wanted,
            Err(_) => print("error: the modes are table, line, list, csv and json\n")?,
        },
        _ => print(&format!("error: {line} is no command; .help shows which there are\n"))?,
    }
    Ok(true)
}
