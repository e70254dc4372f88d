//! The last thing before a line of the log is written: whatever is in it, it stays one line in which every character
//! can be seen. `maillog.rs` and the rooms escape what they know to be foreign; this holds for all that they, and the
//! libraries, forgot.

use std::fmt::Write as _;

use log::{Log, Metadata, Record};

use crate::kit::text::printable;

/// Makes this the log of the process.
///
/// # Panics
/// Where there is one already: it is called once.
pub(super) fn init(logger: env_logger::Logger) {
    log::set_max_level(logger.filter());
    log::set_boxed_logger(Box::new(Escaping(logger))).expect("the log is set once");
}

struct Escaping<L>(L);

impl<L: Log> Log for Escaping<L> {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.0.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        // Longer than most lines.
        let mut text = String::with_capacity(512);
        // Writing to a String cannot fail.
        let _ = text.write_fmt(*record.args());
        let text = printable(text.as_bytes());
        let mut shown = Record::builder();
        shown.metadata(record.metadata().clone()).module_path(record.module_path());
        let fields = record.key_values();
        shown.key_values(&fields);
        self.0.log(&shown.file(record.file()).line(record.line()).args(format_args!("{text}")).build());
    }

    fn flush(&self) {
        self.0.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Lines(Mutex<Vec<String>>);

    impl Log for Lines {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }
        fn log(&self, record: &Record<'_>) {
            self.0.lock().unwrap().push(format!("{} {}", record.level(), record.args()));
        }
        fn flush(&self) {}
    }

    #[test]
    fn a_line_is_one_line_whatever_is_in_it() {
        let log = Escaping(Lines::default());
        for text in ["plain", "a\nERROR forged", "\u{1b}[2J\u{202e}x"] {
            log.log(&Record::builder().level(log::Level::Warn).args(format_args!("{text}")).build());
        }
        let lines = log.0.0.into_inner().unwrap();
        assert_eq!(lines, ["WARN plain", "WARN a\\nERROR forged", "WARN \\x1B[2J\\xE2\\x80\\xAEx"]);
    }
}
