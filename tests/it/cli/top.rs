//! `postrider top`: one screen where nobody looks, a live one on a terminal, and a terminal that is as it was before.

use std::process::Command;

use crate::harness::fakemx::{Act, At, SOON, Script};
use crate::harness::http_client::{address, watched};
use crate::harness::relay::{Config, World, mail, run_to_end, wait_for};
use crate::harness::sender::SENDER;
use crate::harness::skipped::installed;

/// What a host says: it would clear the screen and name the window.
const HOSTILE: &str = "451 4.7.1 \u{1b}[2J\u{1b}]0;mine\u{7} not now";

/// Runs `top` on a terminal of its own, shrinks that, and ends `top` by a key or a signal. Says what was written, then
/// how it ended and whether the terminal is as it was.
const ON_A_TERMINAL: &str = r#"
import fcntl, os, pty, select, signal, struct, sys, termios, time
end, words, arguments = sys.argv[1], sys.argv[2].encode(), sys.argv[3:]
master, slave = pty.openpty()
def size(rows, columns):
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
size(24, 80)
before = termios.tcgetattr(slave)
pid = os.fork()
if pid == 0:
    os.setsid()
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    for fd in range(3):
        os.dup2(slave, fd)
    os.environ["TERM"] = "xterm"
    os.execv(arguments[0], arguments)
out = b""
def read_until(wanted, begin):
    global out
    until = time.time() + 20
    while wanted not in out[begin:] and time.time() < until:
        if select.select([master], [], [], 0.2)[0]:
            out += os.read(master, 65536)
    assert wanted in out[begin:], (wanted, out)
read_until(words, 0)
read_until(b"\x1b[J", out.rindex(words))
raw = termios.tcgetattr(slave)[3]
shrunk = len(out)
size(10, 40)
read_until(b"\x1b[J", shrunk)
if end.startswith("SIG"):
    os.kill(pid, getattr(signal, end))
else:
    os.write(master, end.encode())
until = time.time() + 20
ended = 0
while ended == 0 and time.time() < until:
    ended, status = os.waitpid(pid, os.WNOHANG)
    if select.select([master], [], [], 0.05)[0]:
        out += os.read(master, 65536)
assert ended == pid, "it goes on"
after = termios.tcgetattr(slave)
sys.stdout.buffer.write(out)
print("\nEND code", os.waitstatus_to_exitcode(status), "raw", not raw & termios.ECHO, "restored", before == after,
      "shrunk", shrunk)
"#;

#[test]
fn one_screen_is_printed_where_nobody_looks_with_and_without_a_relay() {
    let mut world = World::new();
    let _mx = world.host("a.test", Script::new().on(At::Rcpt("@"), Act::Say(HOSTILE)));
    let at = address();
    let mut relay = world.relay(watched(Config::new(), &[at]));
    relay.submit(SENDER, &["you@a.test"], &mail("waits"));
    relay.wait_until("the attempt", SOON, |db| (db.attempts("you@a.test", "deferred") == 1).then_some(()));
    let screen = relay.run_ok(&["top"]);
    for words in [
        "relay running - ",
        "waiting 1 recipients of 1 messages",
        "connections: ",
        " to hosts, 0 of clients",
        "LANE",
        "a.test",
        "REFUSED BY",
        "451 4.7.1 \\x1B[2J",
    ] {
        assert!(screen.contains(words), "{words}: {screen}");
    }
    assert!(!screen.contains('\u{1b}'), "{screen:?}");
    // The relay that runs listens there, but this config does not say where.
    relay.write_config(&relay.config().unset("metrics.listen"));
    let screen = relay.run_ok(&["top", "--once"]);
    assert!(screen.contains("relay running") && screen.contains("[metrics] listen is not set"), "{screen}");
    relay.stop();
    let screen = relay.run_ok(&["top"]);
    assert!(screen.contains("relay not running") && screen.contains("waiting 1 recipients of 1"), "{screen}");
    assert_eq!(relay.run(&["top", "--interval", "0"]).status.code(), Some(2));
}

#[test]
fn a_lane_shows_how_many_connections_it_has_at_this_moment() {
    let mut world = World::new();
    let mx = world.host("a.test", Script::new().on(At::Mail, Act::Stall));
    let mut relay = world.relay(watched(Config::new(), &[address()]));
    relay.submit(SENDER, &["you@a.test"], &mail("is under way"));
    mx.wait_for_command("MAIL", SOON);
    wait_for("top to tell of it", SOON, || {
        let screen = relay.run_ok(&["top"]);
        (screen.contains("connections: 1 to hosts") && screen.contains(" 1/")).then_some(())
    });
    relay.kill();
}

#[test]
fn the_terminal_is_as_it_was_however_top_ends() {
    if !installed("python3") {
        return;
    }
    let mut world = World::new();
    let _mx = world.host("a.test", Script::new().on(At::Rcpt("@"), Act::Say(HOSTILE)));
    let mut relay = world.relay(Config::new());
    relay.submit(SENDER, &["you@a.test"], &mail("waits"));
    relay.wait_until("the attempt", SOON, |db| (db.attempts("you@a.test", "deferred") == 1).then_some(()));
    let top = relay.command(&["top", "--interval", "1"]);
    for end in ["q", "\u{3}", "SIGTERM", "SIGINT", "SIGHUP"] {
        let mut python = Command::new("python3");
        python.args(["-c", ON_A_TERMINAL, end, "a.test"]).arg(top.get_program()).args(top.get_args());
        if let Some(directory) = top.get_current_dir() {
            python.current_dir(directory);
        }
        let output = run_to_end(python, b"");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let (screens, verdict) = said
            .rsplit_once("\nEND code 0 raw True restored True shrunk ")
            .unwrap_or_else(|| panic!("{end:?}: {said:?} {}", String::from_utf8_lossy(&output.stderr)));
        assert!(screens.starts_with("\u{1b}[?1049h\u{1b}[?25l\u{1b}[H"), "{end:?}: {screens:?}");
        assert!(screens.ends_with("\u{1b}[?25h\u{1b}[?1049l"), "{end:?}: {screens:?}");
        // Each screen is written over the one before: nothing is cleared first, and no host says what is written.
        assert!(!screens.contains("\u{1b}[2J") && !screens.contains('\u{7}'), "{end:?}: {screens:?}");
        assert!(screens.contains("\\x1B[2J"), "{end:?}: {screens:?}");
        let small = &said.as_bytes()[verdict.trim().parse::<usize>().unwrap()..];
        let small = String::from_utf8_lossy(small);
        let small = small.split("\u{1b}[J").next().unwrap();
        assert!(small.matches("\r\n").count() < 10 && !small.contains("HELD"), "{end:?}: {small:?}");
    }
    relay.stop();
}
