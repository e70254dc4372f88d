//! A test that runs again in namespaces of its own, for networks and mounts: with links that it makes there, and with a
//! resolv.conf(5) that is its own to write. Where the system allows no such namespaces, the test is skipped.

use std::process::{Command, Stdio};

use crate::harness::skipped::{installed, skipped};

/// Set in the namespaces.
const INSIDE: &str = "TEST_INSIDE";
/// The exit code of the shell where it may not do what it has to.
const NOT_ALLOWED: i32 = 77;

/// Who may be the one inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum As {
    /// Whoever runs the tests, as the only user there is.
    AnyUser,
    /// The system's root, with all users of the system.
    Root,
}

/// Whether this is the process in the namespaces, where `setup` succeeded in a shell; the other one has started it and
/// waited for it. Loopback is up there, and whatever was started there ends with the test.
pub fn inside(who: As, setup: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    if ![installed("unshare"), installed("ip")].into_iter().all(|is_there| is_there) {
        return false;
    }
    if who == As::Root && !rustix::process::geteuid().is_root() {
        skipped("this needs root");
        return false;
    }
    let test = std::thread::current().name().expect("libtest names it").to_owned();
    let resolv_conf = tempfile::NamedTempFile::new().unwrap();
    let script = format!(
        "{{ ip link set lo up && mount --make-rprivate / && echo nothing >\"$0\" && mount --bind \"$0\" /etc/resolv.conf \
         && {setup}; }} || exit {NOT_ALLOWED}; {INSIDE}=1 \"$@\""
    );
    let run = |namespaces: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(namespaces).args([
            "--net",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
        ]);
        command.args(["sh", "-c", &script]).arg(resolv_conf.path());
        command.arg(std::env::current_exe().unwrap()).args(["--exact", &test, "--nocapture"]);
        command.stdin(Stdio::null()).output().unwrap()
    };
    let mut output = run(&[]);
    if who == As::AnyUser && !output.status.success() && output.stdout.is_empty() {
        output = run(&["--user", "--map-root-user"]);
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.stdout.is_empty() || output.status.code() == Some(NOT_ALLOWED) {
        skipped(&format!("no namespaces of its own: {}", text(&output.stderr).trim()));
        return false;
    }
    assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
    false
}
