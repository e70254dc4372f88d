//! The log of the unit tests: each test sees the lines of its own thread.

use std::cell::RefCell;
use std::sync::Once;

use log::{LevelFilter, Log, Metadata, Record};

type Render = fn(&Record<'_>) -> String;

thread_local! {
    static RENDER: RefCell<Option<Render>> = const { RefCell::new(None) };
    static WRITTEN: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

struct Kept;

impl Log for Kept {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        if let Some(render) = RENDER.with_borrow(|render| *render) {
            let line = render(record);
            WRITTEN.with_borrow_mut(|written| written.push(line));
        }
    }

    fn flush(&self) {}
}

/// What this logs, as `render` writes it.
pub(crate) fn written(render: Render, by: impl FnOnce()) -> Vec<String> {
    static START: Once = Once::new();
    START.call_once(|| {
        log::set_boxed_logger(Box::new(Kept)).unwrap();
        log::set_max_level(LevelFilter::Info);
    });
    RENDER.set(Some(render));
    by();
    RENDER.set(None);
    WRITTEN.take()
}
