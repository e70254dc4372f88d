//! The log's way to stderr: through a buffer and a thread of its own.
//!
//! Stderr may be a pipe that nobody reads. Whoever logs never waits for that: a line goes into the buffer, or is
//! dropped where the buffer is full, and the thread writes. Lines come out in the order in which they were logged.
//! How many are missing, and where, is said as soon as writing works again. Lines of some milliseconds go out together.
//! At the end of the process the buffer is emptied, for a bounded time. The hook for panics logs too, so that a panic
//! waits for stderr no more than the rest.

use std::io::{ErrorKind, IsTerminal as _, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use env_logger::{Builder, Env, Logger, Target, WriteStyle};
use log::{Level, Log as _, Record};

use super::log_escape;

/// Lines that wait to be written, in bytes; as many again may be on their way.
const WAITING_BYTES_MAX: usize = 512 << 10;
/// How long the thread waits for more lines before it writes, so that a busy relay wakes it a few times a second and
/// not for each line.
const GATHERING: Duration = Duration::from_millis(5);
/// How long the end of the process waits for the last lines to be written.
const FLUSH_MAX: Duration = Duration::from_secs(1);
/// How long the thread waits where stderr does not block and has no room.
const NO_ROOM_PAUSE: Duration = Duration::from_millis(20);

/// The one of this process, once the log was started.
static OUTPUT: OnceLock<Arc<Output>> = OnceLock::new();

/// What waits to be written.
#[derive(Default)]
struct Output {
    state: Mutex<State>,
    changed: Condvar,
    /// Lines that were dropped or could not be written since the start.
    lost: AtomicU64,
}

#[derive(Default)]
struct State {
    waiting: Vec<u8>,
    /// Lines since the last one in `waiting` that found no room. Until the thread has taken both, no other line is
    /// let in: it would stand before the note that says what is missing.
    dropped: u64,
    /// The thread has taken lines that are not written yet.
    writing: bool,
    /// Who waits until all is written.
    flushing: u32,
}

impl State {
    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.dropped == 0
    }

    /// There is no time to wait for more lines.
    fn is_urgent(&self) -> bool {
        self.flushing > 0 || self.dropped > 0 || self.waiting.len() > WAITING_BYTES_MAX / 2
    }
}

impl Output {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Never waits.
    fn put(&self, line: &[u8]) {
        let mut state = self.lock();
        let (was_idle, was_urgent) = (state.is_idle(), state.is_urgent());
        if state.dropped > 0 || state.waiting.len() + line.len() > WAITING_BYTES_MAX {
            // A line too long for an empty buffer leaves nothing else that the thread could wake for.
            state.dropped += 1;
            self.lost.fetch_add(1, Ordering::Relaxed);
        } else {
            state.waiting.extend_from_slice(line);
        }
        let wakes = was_idle || (state.is_urgent() && !was_urgent);
        drop(state);
        if wakes {
            self.changed.notify_all();
        }
    }

    /// Waits until all is written, at most so long.
    fn flush(&self, patience: Duration) {
        let busy = |state: &mut State| state.writing || !state.is_idle();
        let mut state = self.lock();
        state.flushing += 1;
        self.changed.notify_all();
        let waited = self.changed.wait_timeout_while(state, patience, busy);
        waited.unwrap_or_else(PoisonError::into_inner).0.flushing -= 1;
    }

    /// The thread: writes what comes, for ever. `note` makes the line that says how many are missing.
    fn write_to(&self, mut sink: impl Write, note: impl Fn(u64) -> Vec<u8>) {
        let mut batch = Vec::new();
        // Dropped, and not told yet since writing failed.
        let mut untold = 0;
        loop {
            let mut state = self.lock();
            state.writing = false;
            self.changed.notify_all();
            state = self
                .changed
                .wait_while(state, |state| state.is_idle())
                .unwrap_or_else(PoisonError::into_inner);
            state = self
                .changed
                .wait_timeout_while(state, GATHERING, |state| !state.is_urgent())
                .unwrap_or_else(PoisonError::into_inner)
                .0;
            state.writing = true;
            batch.clear();
            std::mem::swap(&mut batch, &mut state.waiting);
            untold += std::mem::take(&mut state.dropped);
            drop(state);
            let lines = batch.iter().filter(|byte| **byte == b'\n').count() as u64;
            if untold > 0 {
                batch.extend(note(untold));
            }
            match write_all(&mut sink, &batch) {
                Ok(()) => untold = 0,
                // Nobody has it open any more, or its disk is full: there is nowhere else to say so.
                Err(_) => {
                    untold += lines;
                    self.lost.fetch_add(lines, Ordering::Relaxed);
                }
            }
        }
    }
}

/// As `Write::write_all`, and where a descriptor that does not block has no room it waits for some.
fn write_all(sink: &mut impl Write, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        match sink.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(NO_ROOM_PAUSE),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Where the logger writes: each call is a whole line.
struct Lines(Arc<Output>);

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        self.0.put(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Collects what a logger writes.
#[derive(Clone, Default)]
struct Collected(Arc<Mutex<Vec<u8>>>);

impl Write for Collected {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Starts the log. `RUST_LOG` says what is shown, else `level`. Under systemd the journal knows the time, and is told
/// the level in its own way (sd-daemon(3)).
///
/// # Errors
/// The system has no thread left.
pub(super) fn start(level: &str) -> std::io::Result<()> {
    let output = OUTPUT.get_or_init(Arc::default);
    let collected = Collected::default();
    let notes = builder(level, collected.clone()).build();
    let (writing, note) = (Arc::clone(output), move |dropped| note(&notes, &collected, dropped));
    let thread = std::thread::Builder::new().name("log".to_owned());
    thread.spawn(move || writing.write_to(std::io::stderr(), note))?;
    log_escape::init(builder(level, Lines(Arc::clone(output))).build());
    std::panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// The line that says how many are missing, formatted as the others are.
fn note(logger: &Logger, collected: &Collected, dropped: u64) -> Vec<u8> {
    let said = format_args!("{dropped} lines of the log were dropped here: nobody read stderr fast enough");
    logger.log(&Record::builder().level(Level::Error).target("postrider").args(said).build());
    std::mem::take(&mut *collected.0.lock().unwrap_or_else(PoisonError::into_inner))
}

fn builder(level: &str, sink: impl Write + Send + 'static) -> Builder {
    let mut log = Builder::from_env(Env::default().default_filter_or(level));
    log.target(Target::Pipe(Box::new(sink)));
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        log.format(|out, record| {
            let priority = match record.level() {
                Level::Error => 3,
                Level::Warn => 4,
                Level::Info => 6,
                Level::Debug | Level::Trace => 7,
            };
            writeln!(out, "<{priority}>{}", record.args())
        });
    } else {
        log.format_target(false);
        // What env_logger would find out by itself of a stderr of its own (https://no-color.org).
        let is_plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|terminal| terminal == "dumb");
        if std::env::var_os("RUST_LOG_STYLE").is_none() && !is_plain && std::io::stderr().is_terminal() {
            log.write_style(WriteStyle::Always);
        }
    }
    log
}

/// Logs a panic: std's own hook would wait for stderr.
fn log_panic(info: &std::panic::PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let place = info.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
    let (name, payload) = (thread.name().unwrap_or("without a name"), info.payload());
    let words = payload.downcast_ref::<&str>().copied();
    let words = words.or_else(|| payload.downcast_ref().map(String::as_str)).unwrap_or("no words");
    log::error!("thread {name} panicked at {place}: {words}");
    let backtrace = std::backtrace::Backtrace::capture();
    if backtrace.status() == std::backtrace::BacktraceStatus::Captured {
        backtrace.to_string().lines().for_each(|line| log::error!("{line}"));
    }
}

/// Says something on stderr that is no line of the log: behind those that wait where there is a log.
pub(super) fn say(text: &str) {
    match OUTPUT.get() {
        Some(output) => output.put(format!("{text}\n").as_bytes()),
        // `eprintln!` panics where nobody reads any more (`postrider queue list 2>&1 | head`), and nobody is left to
        // hear of it.
        None => {
            let _ = writeln!(std::io::stderr(), "{text}");
        }
    }
}

/// Waits, for a bounded time, until all that was logged is written: for whoever ends the process.
pub(super) fn flush() {
    if let Some(output) = OUTPUT.get() {
        output.flush(FLUSH_MAX);
    }
}

/// How many lines found no way out since the start.
pub(super) fn dropped() -> u64 {
    OUTPUT.get().map_or(0, |output| output.lost.load(Ordering::Relaxed))
}

/// Flushes when dropped, also where the main thread panics.
pub(super) struct FlushAtEnd;

impl Drop for FlushAtEnd {
    fn drop(&mut self) {
        flush();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// A sink that takes a write when it is let.
    struct Gate {
        open: Receiver<std::io::Result<()>>,
        taken: Sender<String>,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.open.recv().unwrap_or(Ok(()))?;
            let _ = self.taken.send(String::from_utf8(bytes.to_vec()).unwrap());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn gated() -> (Arc<Output>, Sender<std::io::Result<()>>, Receiver<String>) {
        let output = Arc::new(Output::default());
        let ((open, opened), (taken, written)) = (channel(), channel());
        let writing = Arc::clone(&output);
        let note = |dropped| format!("{dropped} dropped\n").into_bytes();
        std::thread::spawn(move || writing.write_to(Gate { open: opened, taken }, note));
        (output, open, written)
    }

    /// Logs the first line and returns when the thread is stuck with it.
    fn stuck(output: &Output) {
        output.put(b"first\n");
        while !output.lock().writing {
            std::thread::yield_now();
        }
    }

    #[test]
    fn what_finds_no_room_is_counted_where_it_is_missing_and_the_order_stays() {
        let (output, open, written) = gated();
        stuck(&output);
        let long = [b"x".repeat(WAITING_BYTES_MAX - 100), b"\n".to_vec()].concat();
        output.put(&long);
        output.put(&b"y".repeat(200));
        // There would be room for it, but not before the note.
        output.put(b"short\n");
        open.send(Ok(())).unwrap();
        assert_eq!(written.recv().unwrap(), "first\n");
        open.send(Ok(())).unwrap();
        let second = written.recv().unwrap();
        assert!(second.starts_with("xx") && second.ends_with("x\n2 dropped\n"), "{:?}", second.len());
        assert_eq!(output.lost.load(Ordering::Relaxed), 2);
        output.put(b"last\n");
        open.send(Ok(())).unwrap();
        assert_eq!(written.recv().unwrap(), "last\n");
    }

    #[test]
    fn a_line_that_never_finds_room_is_counted_and_the_next_ones_come() {
        let (output, open, written) = gated();
        let next = || written.recv_timeout(Duration::from_secs(5)).expect("the log goes on");
        let too_long = b"x".repeat(WAITING_BYTES_MAX + 1);
        (0..10).for_each(|_| open.send(Ok(())).unwrap());
        output.put(&too_long);
        assert_eq!(next(), "1 dropped\n");
        output.flush(Duration::from_secs(5));
        output.put(b"next\n");
        assert_eq!(next(), "next\n");

        let (output, open, written) = gated();
        let next = || written.recv_timeout(Duration::from_secs(5)).expect("the log goes on");
        stuck(&output);
        output.put(&too_long);
        (0..10).for_each(|_| open.send(Ok(())).unwrap());
        assert_eq!((next(), next()), ("first\n".to_owned(), "1 dropped\n".to_owned()));
    }

    #[test]
    fn lines_that_could_not_be_written_are_counted_too() {
        let (output, open, written) = gated();
        stuck(&output);
        open.send(Err(ErrorKind::BrokenPipe.into())).unwrap();
        output.flush(FLUSH_MAX);
        output.put(b"second\n");
        open.send(Err(ErrorKind::WouldBlock.into())).unwrap();
        open.send(Ok(())).unwrap();
        assert_eq!(written.recv().unwrap(), "second\n1 dropped\n");
        assert_eq!(output.lost.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn flushing_waits_for_what_is_on_its_way_and_not_for_ever() {
        let (output, open, written) = gated();
        stuck(&output);
        output.flush(Duration::from_millis(1));
        open.send(Ok(())).unwrap();
        output.flush(Duration::from_secs(20));
        assert_eq!(written.try_recv().unwrap(), "first\n");
    }
}
