//! Lines that anybody can cause as often as he likes: the first few of a minute are written, the others are counted and
//! told in one line at its end.
//!
//! Who fills the log hides what else is in it, and fills the disk. A line that counts is written by a thread that
//! lives as long as there is something to count, and there is one at most.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// One kind of line.
pub(super) struct Flood {
    window: Duration,
    /// Lines of a window that are written.
    lines_max: u32,
    state: Mutex<State>,
}

struct State {
    began: Option<Instant>,
    written: u32,
    counted: u64,
    /// Of those that are counted.
    last: String,
}

/// What becomes of a line.
#[derive(Debug, PartialEq, Eq)]
enum Decision {
    Write,
    /// The first that is counted; its window ends then.
    CountFrom(Duration),
    Count,
}

impl Flood {
    pub(super) const fn new(window: Duration, lines_max: u32) -> Flood {
        let state = State { began: None, written: 0, counted: 0, last: String::new() };
        Flood { window, lines_max, state: Mutex::new(state) }
    }

    /// Gives `line` to `write`, or counts it; in the end `tell` is given the number and the text of the last line that
    /// were counted.
    pub(super) fn write<L: fmt::Display>(&'static self, line: &L, write: impl Fn(&L), tell: fn(u64, &str)) {
        match self.judge(line, Instant::now()) {
            Decision::Write => write(line),
            Decision::Count => {}
            Decision::CountFrom(left) => {
                let at_the_end = move || {
                    std::thread::sleep(left);
                    let (counted, last) = self.take();
                    tell(counted, &last);
                };
                let thread = std::thread::Builder::new().name("flood".to_owned());
                if thread.spawn(at_the_end).is_err() {
                    // The number is lost; the next window tells of itself.
                    self.take();
                }
            }
        }
    }

    fn judge(&self, line: &impl fmt::Display, now: Instant) -> Decision {
        let mut state = self.lock();
        let since = state.began.map(|began| now.saturating_duration_since(began));
        // What was counted is told before another window begins.
        if state.counted == 0 && since.is_none_or(|since| since >= self.window) {
            state.began = Some(now);
            state.written = 0;
        }
        if state.counted == 0 && state.written < self.lines_max {
            state.written += 1;
            return Decision::Write;
        }
        state.last = line.to_string();
        state.counted += 1;
        if state.counted > 1 {
            return Decision::Count;
        }
        let since = state.began.map_or(Duration::ZERO, |began| now.saturating_duration_since(began));
        Decision::CountFrom(self.window.saturating_sub(since))
    }

    /// How many were counted, and the last of them; the window is over.
    fn take(&self) -> (u64, String) {
        let mut state = self.lock();
        state.began = None;
        (std::mem::take(&mut state.counted), std::mem::take(&mut state.last))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::OnceLock;
    use std::sync::mpsc::{Sender, channel};

    #[test]
    fn the_first_lines_of_a_window_are_written_and_the_rest_counted() {
        let flood = Flood::new(Duration::from_secs(60), 3);
        let begin = Instant::now();
        let at = |secs| begin + Duration::from_secs(secs);
        for second in 0..3 {
            assert_eq!(flood.judge(&"line", at(second)), Decision::Write);
        }
        assert_eq!(flood.judge(&"first", at(10)), Decision::CountFrom(Duration::from_secs(50)));
        for _ in 0..100_000 {
            assert_eq!(flood.judge(&"last", at(59)), Decision::Count);
        }
        // Somebody has to tell of these before a window begins.
        assert_eq!(flood.judge(&"last", at(61)), Decision::Count);
        assert_eq!(flood.take(), (100_002, "last".to_owned()));
        assert_eq!(flood.judge(&"line", at(61)), Decision::Write);
        // A line now and then is always written.
        for minute in 2..20 {
            assert_eq!(flood.judge(&"line", at(60 * minute + 1)), Decision::Write);
        }
    }

    #[test]
    fn what_was_counted_is_told_once() {
        static FLOOD: Flood = Flood::new(Duration::from_millis(200), 2);
        static WRITTEN: OnceLock<Mutex<Sender<String>>> = OnceLock::new();
        let (to, written) = channel();
        WRITTEN.get_or_init(|| Mutex::new(to));
        let write = |line: String| WRITTEN.get().unwrap().lock().unwrap().send(line).unwrap();
        for number in 0..500 {
            FLOOD.write(
                &format!("line {number}"),
                |line| write(line.clone()),
                |counted, last| {
                    WRITTEN.get().unwrap().lock().unwrap().send(format!("{counted} more, {last}")).unwrap();
                },
            );
        }
        let next = || written.recv_timeout(Duration::from_secs(10)).unwrap();
        assert_eq!([next(), next(), next()], ["line 0", "line 1", "498 more, line 499"]);
        assert!(written.try_recv().is_err());
    }
}
