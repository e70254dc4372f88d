//! `postrider top`: a live view of the relay in the terminal. `frame.rs` makes the lines, `terminal.rs` has the
//! terminal.
//!
//! The queue is counted as for the status page (`monitoring/page/snapshot.rs`), from a connection that only reads. What
//! only the process knows is asked of it at `/live`, where `[metrics] listen` is. Nothing is changed.

mod frame;
mod terminal;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use crossbeam_channel::{Receiver, Sender, bounded, select};

use super::health;
use super::output::print;
use super::table::Look;
use crate::clock::Clock;
use crate::config::{self, Settings, atrn};
use crate::monitoring::page::Counter;
use crate::queue::admin::Admin;
use frame::{Relay, View, frame};
use terminal::{Event, Terminal, painted};

/// `postrider top`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Print one screen and end, as it is where nobody looks (a pipe, a file)
    #[arg(long)]
    once: bool,
    /// Look again after so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
    interval: u64,
}

/// Runs `postrider top`. `config` is `--config`.
///
/// # Errors
/// There is no queue, or the terminal is gone.
pub fn run(config: Option<&Path>, arguments: &Arguments) -> anyhow::Result<()> {
    let settings = config::load(config)?.settings;
    // That there is none is said before the screen is cleared.
    Admin::to_read(&settings.queue.path)?;
    let mut looker = Looker::new(config, settings);
    let look = Look::of_stdout();
    if arguments.once || !std::io::IsTerminal::is_terminal(&std::io::stdout()) {
        let view = looker.look();
        if let (Some(error), None) = (&view.error, &view.snapshot) {
            anyhow::bail!("{error}");
        }
        let (columns, rows) = terminal::size();
        let lines = frame(&view, columns, rows);
        return print(&lines.iter().map(|line| painted(line, look) + "\n").collect::<String>());
    }
    let (to, views) = bounded(1);
    let first = looker.view();
    let interval = Duration::from_secs(arguments.interval);
    let terminal = Terminal::enter()?;
    std::thread::Builder::new().name("looks".to_owned()).spawn(move || looker.go_on(&to, interval))?;
    show(&terminal, first, &views, look)?;
    Ok(())
}

/// Until somebody quits.
fn show(terminal: &Terminal, mut view: View, views: &Receiver<View>, look: Look) -> std::io::Result<()> {
    let (keys, signals) = terminal.events()?;
    loop {
        let (columns, rows) = terminal::size();
        terminal.draw(&frame(&view, columns, rows), look)?;
        let event = select! {
            recv(keys) -> event => event.unwrap_or(Event::Quit),
            recv(signals) -> event => event.unwrap_or(Event::Quit),
            recv(views) -> newer => match newer {
                Ok(newer) => {
                    view = newer;
                    continue;
                }
                // It panicked, and has said why.
                Err(_) => Event::Quit,
            },
        };
        if event == Event::Quit {
            return Ok(());
        }
    }
}

/// Who looks at queue and relay, and what it keeps from one look to the next.
struct Looker {
    config: Option<PathBuf>,
    settings: Settings,
    counter: Counter,
    has_counted: bool,
    clock: Clock,
}

impl Looker {
    fn new(config: Option<&Path>, settings: Settings) -> Looker {
        let config = config.map(Path::to_owned);
        Looker { config, settings, counter: Counter::default(), has_counted: false, clock: Clock::system() }
    }

    /// Sends a view for each look, until nobody wants it.
    fn go_on(mut self, to: &Sender<View>, interval: Duration) {
        while to.send(self.look()).is_ok() {
            std::thread::sleep(interval);
        }
    }

    fn look(&mut self) -> View {
        let counted = self.count();
        self.has_counted |= counted.is_ok();
        View { error: counted.err().map(|error| error.to_string()), ..self.view() }
    }

    fn count(&mut self) -> Result<(), crate::queue::QueueError> {
        let admin = Admin::to_read(&self.settings.queue.path)?;
        // What is fetched has a lane of its own, which only the users file would tell.
        let backoffs: HashSet<String> = admin.backoffs()?.into_iter().map(|row| row.lane).collect();
        let routes = &self.settings.routes;
        let lane_of = |domain: &crate::mail::Domain| -> Arc<str> {
            let fetched = atrn::lane(domain.as_str());
            match backoffs.contains(&*fetched) {
                true => (*fetched).into(),
                false => routes.lane(domain),
            }
        };
        self.counter.round(&admin, lane_of, self.clock.now())
    }

    /// Of what was counted last.
    fn view(&self) -> View {
        View {
            hostname: self.settings.hostname.as_str().to_owned(),
            relay: self.relay(),
            snapshot: self.has_counted.then(|| self.counter.snapshot().clone()),
            error: None,
            now: self.clock.now(),
        }
    }

    fn relay(&self) -> Relay {
        let runs = Admin::to_read(&self.settings.queue.path).is_ok_and(|admin| admin.in_use_by().is_some());
        let said = match health::ask(self.config.as_deref(), "/live") {
            Ok(Some(answer)) if answer.status == 200 => {
                serde_json::from_str(&answer.body).map_err(|e| e.to_string())
            }
            Ok(Some(answer)) => Err(format!("[metrics] listen says {}", answer.status)),
            Ok(None) if self.settings.metrics.listen.is_empty() => {
                Err("[metrics] listen is not set".to_owned())
            }
            Ok(None) => Err("nobody answers at [metrics] listen".to_owned()),
            Err(error) => Err(format!("{error:#}")),
        };
        match said {
            Ok(live) => Relay::Answers(live),
            Err(why) if runs => Relay::Running(why),
            Err(_) => Relay::NotRunning,
        }
    }
}
