//! `postrider sql`: looking and changing beside a relay that runs, and its prompt at a terminal.

use std::io::{Read as _, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Instant;

use crossbeam_channel::Receiver;

use crate::harness::fakemx::{Act, At, SOON, Script};
use crate::harness::relay::{Config, Relay, World, mail, run_to_end};
use crate::harness::sender::SENDER;
use crate::harness::skipped::installed;

#[test]
fn it_looks_and_changes_only_where_it_is_asked_to() {
    let mut world = World::new();
    let _mx = world.host("a.test", Script::new().on(At::Rcpt("@"), Act::Say("450 4.7.1 \x1b[2J wait")));
    let relay = world.relay(Config::new());
    let id = relay.submit(SENDER, &["you@a.test"], &mail("waits"));
    relay.wait_until("a try", SOON, |db| (db.attempts("you@a.test", "deferred") == 1).then_some(()));

    let table = relay.run_ok(&["sql", "-c", "SELECT queue_id, recipient, state FROM queue"]);
    let dashes = "-".repeat(11);
    assert_eq!(
        table,
        format!("queue_id     recipient   state\n{dashes}  ----------  ------\n{id}  you@a.test  queued\n")
    );
    // As the statements of docs/monitoring.md begin.
    assert_eq!(relay.run_ok(&["sql", "--mode", "list", "-c", "-- one\nSELECT 1"]), "1\n");
    if installed("script") {
        let look = relay.command(&["sql", "-c", "SELECT * FROM queue"]);
        let words = std::iter::once(look.get_program()).chain(look.get_args());
        let words = words.map(|word| format!("'{}'", word.to_str().unwrap())).collect::<Vec<_>>().join(" ");
        let mut terminal = Command::new("script");
        terminal.args(["-q", "-e", "-c", &format!("stty columns 80; {words}"), "/dev/null"]);
        let shown = String::from_utf8(run_to_end(terminal, b"").stdout).unwrap();
        assert!(shown.contains("recipient = you@a.test\r\n"), "too wide for a table: {shown}");
    }
    let reply = relay.run_ok(&["sql", "--mode", "list", "-c", "SELECT last_reply FROM recipients"]);
    assert!(reply.contains("wait") && !reply.contains('\x1b'), "{reply:?}");

    let hold = "UPDATE recipients SET state = 'held'";
    let refused = relay.run(&["sql", "-c", hold]);
    let stderr = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("readonly") && stderr.contains("--write"), "{stderr}");
    relay.run_ok(&["sql", "--write", "-c", hold]);
    assert_eq!(relay.db().rows("SELECT state FROM recipients", []), ["held"]);
    let wrong = relay.run(&["sql", "--write", "-c", "UPDATE recipients SET state = 'gone'"]);
    assert_eq!(wrong.status.code(), Some(1));

    // A script on stdin, several statements.
    let output =
        run_to_end(relay.command(&["sql", "--mode", "json"]), b"SELECT 1 AS one; SELECT 2 AS two;\n");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "{\"one\":1}\n{\"two\":2}\n");
}

/// The log is longer than the 1,000 pages at which SQLite checkpoints by itself.
#[test]
fn it_leaves_checkpoints_to_the_relay() {
    let mut world = World::new();
    let _mx = world.host("a.test", Script::new());
    let relay = world.relay(Config::new());
    relay.submit(SENDER, &["you@a.test"], &mail("once"));
    relay.wait_until_empty();
    let before = std::fs::read(relay.path("queue.db")).unwrap();
    let many = "CREATE TABLE filler (bytes BLOB); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n \
                WHERE i < 1500) INSERT INTO filler SELECT randomblob(4000) FROM n; DROP TABLE filler;";
    relay.run_ok(&["sql", "--write", "-c", many]);
    let log = std::fs::metadata(relay.path("queue.db-wal")).unwrap().len();
    assert!(log > 1500 * 4096, "the log has {log} bytes");
    assert_eq!(std::fs::read(relay.path("queue.db")).unwrap(), before, "the database was written to");
}

// ---- the prompt ----------------------------------------------------------------------------------------

/// `postrider sql` at a terminal of 40 columns, which script(1) makes.
struct Terminal {
    script: Child,
    keys: ChildStdin,
    shown: Receiver<Vec<u8>>,
    unread: String,
}

impl Terminal {
    fn start(relay: &Relay, arguments: &str) -> Terminal {
        let binary = env!("CARGO_BIN_EXE_postrider");
        let prompt = format!("stty cols 40 rows 20; exec {binary} sql {arguments} --config postrider.toml");
        let mut script = Command::new("script")
            .args(["--quiet", "--return", "--flush", "--command", &prompt, "/dev/null"])
            .env("TERM", "xterm")
            .env("SHELL", "/bin/sh")
            .current_dir(relay.path(""))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (to, shown) = crossbeam_channel::unbounded();
        let mut output = script.stdout.take().unwrap();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(length @ 1..) = output.read(&mut bytes) {
                let _ = to.send(bytes[..length].to_vec());
            }
        });
        let keys = script.stdin.take().unwrap();
        Terminal { script, keys, shown, unread: String::new() }
    }

    /// Types, and waits until all of `answers` were shown, one behind the other.
    fn types(&mut self, keys: &str, answers: &[&str]) {
        self.keys.write_all(keys.as_bytes()).unwrap();
        for answer in answers {
            let end = Instant::now() + SOON;
            let at = loop {
                if let Some(at) = self.unread.find(answer) {
                    break at;
                }
                match self.shown.recv_deadline(end) {
                    Ok(bytes) => self.unread.push_str(&String::from_utf8_lossy(&bytes)),
                    Err(error) => panic!("{keys:?}: {answer:?}: {error} behind {:?}", self.unread),
                }
            };
            self.unread.drain(..at + answer.len());
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.script.kill();
        let _ = self.script.wait();
    }
}

const CTRL_C: &str = "\x03";
const CTRL_D: &str = "\x04";
const UP: &str = "\x1b[A";

#[test]
fn the_prompt_edits_remembers_pastes_and_outlives_what_is_stopped() {
    if !installed("script") {
        return;
    }
    let mut world = World::new();
    let _mx = world.host("a.test", Script::new().on(At::Rcpt("@"), Act::Say("450 4.7.1 wait")));
    let relay = world.relay(Config::new());
    relay.submit(SENDER, &["you@a.test"], &mail("waits"));
    relay.wait_until("a try", SOON, |db| (db.attempts("you@a.test", "deferred") == 1).then_some(()));
    let mut terminal = Terminal::start(&relay, "--write");
    terminal.types("", &["statements may change it", "sql> "]);
    // As README shows statements: with a comment behind them.
    terminal.types("SELECT 40 + 1 AS n; -- a sum\r", &["n\r\n--\r\n41\r\n", "sql> "]);
    terminal.types("SELECT '日本語' AS a,\r", &["...> "]);
    terminal.types("'x' AS b;\r", &["a       b\r\n------  -\r\n日本語  x\r\n", "sql> "]);
    // Pasted lines come at once, between the marks of a terminal.
    let pasted = "SELECT 50 + 1 AS n;\n.mode list\nSELECT 60\n + 1, 'pasted'; -- and a comment";
    terminal
        .types(&format!("\x1b[200~{pasted}\x1b[201~\r"), &["n\r\n--\r\n51\r\n", "61|pasted\r\n", "sql> "]);
    terminal.types(&format!("{UP}\r"), &["\n61|pasted\r\n", "sql> "]);
    terminal.types(&format!("nonsense{CTRL_C}"), &["sql> "]);
    terminal.types("SELECT nonsense;\r", &["error: no such column: nonsense\r\n", "sql> "]);
    // Rows without end, until somebody stops them.
    let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT 'row', i FROM n;\r";
    terminal.types(endless, &["\nrow|9\r\n"]);
    terminal.types(CTRL_C, &["error: interrupted\r\n", "sql> "]);
    terminal.types(".mode table\r", &["sql> "]);
    terminal.types(
        "SELECT recipient, state, queue_id, last_reply FROM queue;\r",
        &[
            " recipient = you@a.test\r\n",
            "     state = queued\r\n",
            "last_reply = 450 4.7.1 wait\r\n",
            "sql> ",
        ],
    );
    terminal.types("UPDATE recipients SET state = 'held';\r", &["\n1 row changed\r\n", "sql> "]);
    assert_eq!(relay.db().rows("SELECT state FROM recipients", []), ["held"]);
    terminal.types(CTRL_D, &[]);
    assert!(terminal.script.wait().unwrap().success());
}
