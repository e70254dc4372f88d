//! The terminal of `postrider top`: another screen, keys without echo; and as it was, however the command ends.

use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, bounded, never};
use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetwinsize, tcsetattr,
};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGWINCH};

use super::frame::{Line, Style};
use crate::cli::table::Look;

/// The other screen, without a cursor (xterm's 1049; DECTCEM).
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
/// Of a terminal that does not know its size.
const SIZE: (usize, usize) = (80, 24);
/// Ctrl-C and Ctrl-D, which are keys here.
const CTRL_C: u8 = 3;
const CTRL_D: u8 = 4;

/// What somebody did at the terminal, or to the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    Quit,
    Resized,
}

/// A terminal that shows the other screen, until it is dropped.
pub(super) struct Terminal(Arc<Saved>);

/// What it was before.
struct Saved {
    /// None: stdin is no terminal.
    modes: Option<Termios>,
    is_restored: AtomicBool,
}

impl Saved {
    fn restore(&self) {
        if self.is_restored.swap(true, Ordering::SeqCst) {
            return;
        }
        if let Some(modes) = &self.modes {
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, modes);
        }
        let _ = write(LEAVE);
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.0.restore();
    }
}

impl Terminal {
    /// Goes over to the other screen.
    ///
    /// # Errors
    /// The terminal is gone.
    pub(super) fn enter() -> io::Result<Terminal> {
        let modes = tcgetattr(io::stdin()).ok();
        let terminal =
            Terminal(Arc::new(Saved { modes: modes.clone(), is_restored: AtomicBool::new(false) }));
        if let Some(mut raw) = modes {
            // Ctrl-Z would leave the screen as it is, so no key is a signal.
            raw.local_modes -= LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG;
            raw.special_codes[SpecialCodeIndex::VMIN] = 1;
            raw.special_codes[SpecialCodeIndex::VTIME] = 0;
            tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        }
        // What a panic says is to be seen: it is said before anything is dropped.
        let (saved, hook) = (terminal.0.clone(), std::panic::take_hook());
        std::panic::set_hook(Box::new(move |panic| {
            saved.restore();
            hook(panic);
        }));
        write(ENTER)?;
        Ok(terminal)
    }

    /// Writes over what is there, in one piece: nothing flickers.
    ///
    /// # Errors
    /// The terminal is gone.
    pub(super) fn draw(&self, lines: &[Line], look: Look) -> io::Result<()> {
        let lines: Vec<String> = lines.iter().map(|line| painted(line, look) + "\x1b[K").collect();
        write(&format!("\x1b[H{}\x1b[J", lines.join("\r\n")))
    }

    /// Keys and signals that mean something.
    ///
    /// # Errors
    /// The system allows no thread for it.
    pub(super) fn events(&self) -> io::Result<(Receiver<Event>, Receiver<Event>)> {
        let keys = if io::stdin().is_terminal() { keys()? } else { never() };
        Ok((keys, signals()?))
    }
}

pub(super) fn painted(line: &Line, look: Look) -> String {
    match line.style {
        Style::Plain => line.text.clone(),
        Style::Heading => look.heading(&line.text),
        Style::Alarm => look.alarm(&line.text),
    }
}

/// Columns and rows.
pub(super) fn size() -> (usize, usize) {
    let known = tcgetwinsize(io::stdout()).map(|size| (usize::from(size.ws_col), usize::from(size.ws_row)));
    known.ok().filter(|(columns, rows)| *columns > 0 && *rows > 0).unwrap_or(SIZE)
}

fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// A terminal that is gone means the same as `q`.
fn keys() -> io::Result<Receiver<Event>> {
    let (to, keys) = bounded(1);
    std::thread::Builder::new().name("keys".to_owned()).spawn(move || {
        let mut key = [0];
        while let Ok(1) = io::stdin().read(&mut key) {
            if matches!(key[0], b'q' | b'Q' | CTRL_C | CTRL_D) {
                break;
            }
        }
        let _ = to.send(Event::Quit);
    })?;
    Ok(keys)
}

fn signals() -> io::Result<Receiver<Event>> {
    let (to, events) = bounded(8);
    let mut caught = signal_hook::iterator::Signals::new([SIGTERM, SIGINT, SIGHUP, SIGWINCH])?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in caught.forever() {
            let event = if signal == SIGWINCH { Event::Resized } else { Event::Quit };
            if to.send(event).is_err() {
                return;
            }
        }
    })?;
    Ok(events)
}

#[cfg(test)]
mod tests {
    use std::fs::{File, OpenOptions};
    use std::process::Command;

    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

    use super::*;

    const PANICS: &str = "cli::top::terminal::tests::panics_on_the_terminal_that_it_is_given";

    /// By itself, on the terminal of the test below.
    #[test]
    #[ignore = "another test runs it in a process of its own"]
    fn panics_on_the_terminal_that_it_is_given() {
        let _terminal = Terminal::enter().unwrap();
        let modes = tcgetattr(io::stdin()).unwrap().local_modes;
        assert!(!modes.contains(LocalModes::ECHO), "keys are not echoed");
        panic!("on purpose");
    }

    /// Before the panic says anything: on the other screen nobody would read it.
    #[test]
    fn a_panic_leaves_the_terminal_as_it_was_and_is_read_there() {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
        let slave = || OpenOptions::new().read(true).write(true).open(&name).unwrap();
        let kept = slave();
        let before = tcgetattr(&kept).unwrap().local_modes;
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args([PANICS, "--exact", "--ignored", "--nocapture"]);
        let mut child = child.stdin(slave()).stdout(slave()).stderr(slave()).spawn().unwrap();
        let mut master = File::from(master);
        let mut shown = Vec::new();
        let mut part = [0; 4096];
        while !String::from_utf8_lossy(&shown).contains("test result") {
            let count = master.read(&mut part).unwrap();
            shown.extend_from_slice(&part[..count]);
        }
        assert!(!child.wait().unwrap().success());
        let shown = String::from_utf8_lossy(&shown).into_owned();
        let at = |words: &str| shown.find(words).unwrap_or_else(|| panic!("no {words:?} in {shown:?}"));
        assert!(at(ENTER) < at(LEAVE) && at(LEAVE) < at("on purpose"), "{shown:?}");
        assert_eq!(tcgetattr(&kept).unwrap().local_modes, before);
    }
}
