//! Listeners on sockets in the file system: programs of this machine send without a password, as the user who they
//! are. What is asked of one session is in `src/submission/tests/unix_socket.rs`.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::harness::fakemx::{SOON, Script};
use crate::harness::relay::{Config, Relay, World, wait_for};

/// A socket's place, and the config that listens there.
pub fn with_socket(config: Config) -> (tempfile::TempDir, PathBuf, Config) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("submit.sock");
    let config = config.listener(&format!("address = \"unix:{}\"", path.display()));
    (folder, path, config)
}

/// Who runs the tests: name and number.
pub fn me() -> (String, u32) {
    let name = String::from_utf8(Command::new("id").arg("-un").output().unwrap().stdout).unwrap();
    (name.trim().to_owned(), std::fs::metadata("/proc/self").unwrap().uid())
}

/// Says the lines of a transaction, and gives the last reply.
fn say(path: &Path, lines: &[&str]) -> String {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut reply = || {
        let mut line = String::new();
        while line.as_bytes().get(3) != Some(&b' ') {
            line.clear();
            assert!(reader.read_line(&mut line).unwrap() > 0, "closed");
        }
        line.trim_end().to_owned()
    };
    let mut last = reply();
    for line in [&["EHLO cron"], lines].concat() {
        stream.write_all(format!("{line}\r\n").as_bytes()).unwrap();
        last = reply();
    }
    last
}

fn message(sender: &str) -> [String; 4] {
    [
        format!("MAIL FROM:<{sender}>"),
        "RCPT TO:<you@a.test>".to_owned(),
        "DATA".to_owned(),
        "Subject: hello\r\n\r\nhello\r\n.".to_owned(),
    ]
}

fn send(path: &Path, sender: &str) -> String {
    say(path, &message(sender).each_ref().map(String::as_str))
}

#[test]
fn a_user_of_this_machine_is_named_everywhere_and_has_the_rights_of_that_name() {
    let mut world = World::new();
    let mx = world.host("a.test", Script::new());
    let (_folder, path, config) = with_socket(Config::new());
    let mut relay = Relay::prepare(world.configured(config));
    let (name, uid) = me();
    relay.add_user_with(&name, &["--senders", "*@app.test", "--operator"]);
    relay.start_again();

    assert!(send(&path, "me@app.test").starts_with("250 2.0.0 "));
    assert!(say(&path, &["MAIL FROM:<me@other.test>"]).starts_with("553 "));
    let refused = relay.logged(&["refused MAIL", &format!("client=unix:{uid} user={name}")]);
    assert_eq!(refused.len(), 1, "{}", relay.log());
    // To be an operator takes a login.
    assert!(say(&path, &["XGEN"]).starts_with("502 "));

    let content = String::from_utf8(mx.wait_for_messages(1, SOON).remove(0).content).unwrap();
    let received = format!("Received: from cron (unix, user {name})\r\n\tby relay.test with ESMTP id ");
    assert!(content.contains(&received), "{content}");
    assert_eq!(relay.logged(&["accepted", &format!("client=unix:{uid} user={name}")]).len(), 1);
    let who = relay.wait_until("history", SOON, |db| db.row("SELECT user, client FROM history", []));
    assert_eq!(who, format!("{name}|unix:{uid}"));
    let listening = format!("listening on unix:{}", path.display());
    assert_eq!(relay.logged(&[&listening]).len(), 1);
    assert_eq!(relay.run_ok(&["health"]), "ok: 4 listeners answer\n");
}

#[test]
fn what_a_killed_relay_left_is_replaced_and_one_in_use_never() {
    let world = World::new();
    let (folder, path, config) = with_socket(Config::new());
    let mut relay = Relay::prepare(world.configured(config.clone()));
    relay.add_user();
    relay.start_again();
    relay.kill();
    assert!(path.exists());
    relay.start_again();
    assert!(send(&path, "me@app.test").starts_with("250 "));
    // Another relay with the same socket does not start, and takes nothing away.
    let other = Relay::prepare(world.configured(config));
    let output = other.run(&["serve"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("another program listens there"), "{said}");
    assert!(send(&path, "me@app.test").starts_with("250 "));
    relay.stop();
    assert!(!path.exists() && folder.path().exists());
}

/// A clean-up of /run takes the file, and everything else goes on.
#[test]
fn a_socket_that_was_removed_is_made_again_by_a_reload() {
    let world = World::new();
    let (_folder, path, config) = with_socket(Config::new());
    let mut relay = Relay::prepare(world.configured(config));
    std::fs::remove_file(relay.path("users")).unwrap_or_default();
    relay.start_again();
    // With nobody's senders on record.
    assert_eq!(relay.logged(&["WARN", "users: ", "does not exist", "may send as anybody"]).len(), 1);
    std::fs::remove_file(&path).unwrap();
    relay.signal("HUP");
    wait_for("the socket to be there again", SOON, || UnixStream::connect(&path).ok());
    assert!(send(&path, "me@app.test").starts_with("250 "));
    relay.stop();
    assert!(!path.exists());
}

/// systemd hands it over, and keeps it while the relay restarts.
#[test]
fn a_socket_of_systemd_in_the_file_system_is_taken_over() {
    let world = World::new();
    let (_folder, path, config) = with_socket(Config::new());
    let mut relay = Relay::prepare(world.configured(config));
    relay.add_user();
    let theirs = UnixListener::bind(&path).unwrap();
    for _ in 0..2 {
        let serve = relay.command(&["serve"]);
        let mut command = Command::new("sh");
        command
            .args(["-c", "LISTEN_PID=$$ LISTEN_FDS=1 exec \"$@\" 3<&0 </dev/null", "sh"])
            .arg(serve.get_program())
            .args(serve.get_args())
            .env_remove("RUST_LOG")
            .env_remove("NOTIFY_SOCKET")
            .current_dir(relay.path(""));
        let log = File::options().create(true).append(true).open(relay.path("log")).unwrap();
        command
            .stdin(Stdio::from(OwnedFd::from(theirs.try_clone().unwrap())))
            .stdout(Stdio::null())
            .stderr(log);
        relay.spawn_command(&mut command);
        assert!(send(&path, "me@app.test").starts_with("250 "));
        relay.stop();
        assert!(path.exists());
    }
    wait_for("the log", SOON, || (relay.logged(&["accepted"]).len() == 2).then_some(()));
}
