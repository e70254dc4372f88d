//! What was not tested and why, told at the end of the run: libtest knows no test that skips itself.
//!
//! A `sort` of the system's holds the list. It prints to standard error when this process, and with it the other end
//! of its pipe, has ended: `skipped: TEST: WHY`, each once.

use std::io::Write as _;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

static LIST: Mutex<Option<Child>> = Mutex::new(None);

/// Says that this test leaves something out.
pub fn skipped(why: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a thread");
    let mut list = LIST.lock().unwrap();
    let list = list.get_or_insert_with(|| {
        let mut sort = Command::new("sh");
        sort.args(["-c", "sort -u >&2"]).stdin(Stdio::piped()).spawn().unwrap()
    });
    writeln!(list.stdin.as_ref().expect("piped above"), "skipped: {test}: {why}").unwrap();
}

/// Whether a program is installed; its absence is told.
pub fn installed(program: &str) -> bool {
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(program).is_file()));
    if !found {
        skipped(&format!("{program} is not installed"));
    }
    found
}

/// Whether strace is installed and may trace here; what is in the way is told.
pub fn may_trace() -> bool {
    let traces = || Command::new("strace").args(["-o", "/dev/null", "true"]).stderr(Stdio::null()).status();
    installed("strace")
        && (traces().is_ok_and(|status| status.success()) || {
            skipped("strace may not trace here");
            false
        })
}
