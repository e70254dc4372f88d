//! The files of the queue, taken away from a relay that runs, and a disk that does not answer it.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::harness::client::Client;
use crate::harness::fakemx::SOON;
use crate::harness::relay::{Config, Relay, World, mail, wait_for};
use crate::harness::sender::SENDER;
use crate::harness::skipped::installed;

/// What is acknowledged after that went into a file that is gone.
const NOTICED_WITHIN: Duration = Duration::from_secs(1);

#[test]
fn a_queue_that_is_removed_ends_the_relay_before_it_acknowledges_more() {
    let world = World::new();
    let mut relay = world.relay(Config::new());
    relay.submit(SENDER, &["you@a.test"], &mail("before"));
    for name in ["queue.db", "queue.db-wal", "queue.db-shm"] {
        std::fs::remove_file(relay.path(name)).unwrap();
    }
    let removed = Instant::now();
    let mut acknowledged = removed;
    // Without a pause, until nobody listens any more.
    wait_for("the relay to refuse", SOON, || {
        let mut client = match Client::connect(relay.clear) {
            Ok(client) => client,
            Err(_) => return Some(()),
        };
        let _ = client.say("EHLO app.test");
        if client.transact(SENDER, "", &["you@a.test"], &mail("after")).is_ok_and(|reply| reply.code == 250) {
            acknowledged = Instant::now();
        }
        None
    });
    assert!(acknowledged - removed < NOTICED_WITHIN, "{:?}", acknowledged - removed);
    // By which systemd does not start it again.
    assert_eq!(relay.wait_for_exit(SOON).code(), Some(2));
    let [line] = &relay.logged(&["ERROR", "queue.db is gone"])[..] else {
        panic!("one line: {}", relay.log())
    };
    assert!(line.contains("the database that was in use is removed"), "{line}");
}

/// What systemd would make of a queue that a restore script moved away: an empty one, that takes in the log.
#[test]
fn a_start_beside_the_log_of_a_lost_queue_is_refused() {
    let world = World::new();
    let mut relay = world.relay(Config::new());
    assert_eq!(relay.logged(&["WARN", "a new one was made, and is empty"]).len(), 1);
    let id = relay.submit(SENDER, &["you@a.test"], &mail("in the log"));
    relay.kill();
    std::fs::rename(relay.path("queue.db"), relay.path("moved.db")).unwrap();
    for _ in 0..2 {
        relay.spawn();
        assert_eq!(relay.wait_for_exit(SOON).code(), Some(2), "{}", relay.log());
        assert!(!relay.path("queue.db").exists());
    }
    assert_eq!(relay.logged(&["queue.db is not there, but its log", "put the database back"]).len(), 2);
    std::fs::rename(relay.path("moved.db"), relay.path("queue.db")).unwrap();
    relay.start_again();
    // It waits, or has gone out by now.
    let sql = "SELECT count(*) FROM (SELECT queue_id FROM messages UNION SELECT queue_id FROM history) WHERE queue_id = ?1";
    assert_eq!(relay.db().number(sql, [&id]), 1);
    assert_eq!(relay.logged(&["a new one was made"]).len(), 1);
}

/// Who reads of an unclean end looks for damage.
#[test]
fn a_start_that_fails_for_an_address_leaves_no_unclean_end() {
    let world = World::new();
    let mut relay = Relay::prepare(world.configured(Config::new()));
    let taken = std::net::TcpListener::bind(relay.implicit).unwrap();
    relay.spawn();
    assert_eq!(relay.wait_for_exit(SOON).code(), Some(1), "{}", relay.log());
    assert_eq!(relay.path("queue.db-wal").metadata().map_or(0, |log| log.len()), 0);
    drop(taken);
    relay.start_again();
    assert_eq!(relay.logged(&["unclean end"]), [""; 0]);
}

/// Puts strace on a relay that runs, with this injection.
pub fn attach(relay: &Relay, inject: &str) -> Child {
    let pid = relay.pid().to_string();
    let mut strace = Command::new("strace");
    strace.args(["-f", "-p", &pid, "-e", "trace=fsync,fdatasync", "-e", inject, "-o", "/dev/null"]);
    let mut strace = strace.stderr(Stdio::piped()).spawn().unwrap();
    // It says so when it is attached.
    let mut said = BufReader::new(strace.stderr.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    assert!(line.contains("attached"), "{line}");
    // It tells of each thread that begins, and would end at a pipe that nobody reads: the calls would go on then.
    std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
    strace
}

/// A disk that takes its time: an fsync of 5 s, which is what the test has to wait for.
#[test]
fn a_disk_that_does_not_answer_is_told_of_and_clients_hear_451() {
    if !installed("strace") {
        return;
    }
    let world = World::new();
    let mut relay = world.relay(Config::new());
    let mut strace = attach(&relay, "inject=fsync,fdatasync:delay_enter=5000000:when=1");
    std::thread::scope(|scope| {
        let began = Instant::now();
        let first = scope.spawn(|| relay.submit(SENDER, &["you@a.test"], &mail("in the store's hands")));
        wait_for("the log to tell of it", SOON, || {
            (!relay.logged(&["WARN", "has not answered"]).is_empty()).then_some(())
        });
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
        let reply = relay.client().transact(SENDER, "", &["you@a.test"], &mail("waits")).unwrap();
        assert_eq!(reply.code, 451, "{}", reply.text);
        assert!(began.elapsed() < Duration::from_millis(4800), "{:?}", began.elapsed());
        first.join().unwrap();
        wait_for("mail to be taken again", SOON, || {
            let reply = relay.client().transact(SENDER, "", &["you@a.test"], &mail("after")).unwrap();
            (reply.code == 250).then_some(())
        });
    });
    assert_eq!(relay.logged(&["ERROR", "new mail is refused"]).len(), 1);
    assert_eq!(relay.logged(&["WARN", "the disk answered after"]).len(), 1);
    relay.stop();
    strace.wait().unwrap();
}

/// `serve` under strace, which notes these calls with the names of files; waits until it has ended.
fn traced(relay: &Relay, options: &[&str]) -> (ExitStatus, String) {
    let (serve, trace) = (relay.command(&["serve"]), relay.path("trace"));
    let log = File::options().create(true).append(true).open(relay.path("log")).unwrap();
    let _ = std::fs::remove_file(&trace);
    let mut strace = Command::new("strace");
    strace.args(["-f", "-y", "-e", "trace=pwrite64,fsync,fdatasync,listen,ftruncate"]).args(options);
    strace.arg("-o").arg(&trace).arg(serve.get_program()).args(serve.get_args());
    let mut strace = strace.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
    let traced = || std::fs::read_to_string(&trace).unwrap_or_default();
    // It listens last. Then it is stopped, by its own id: the first word of a line.
    let status = wait_for("the relay to start or to end", SOON, || {
        if traced().matches("listen(").count() == 3 {
            let pid = traced().split_whitespace().next().unwrap().to_owned();
            Command::new("kill").args(["-KILL", &pid]).status().unwrap();
            return Some(strace.wait().unwrap());
        }
        strace.try_wait().unwrap()
    });
    (status, traced())
}

/// After a failed fsync the kernel may drop what it shows to readers: what the next start reads is written again and
/// synced before the first client is let in.
#[test]
fn a_start_after_a_failed_fsync_writes_the_log_again_before_it_listens() {
    if !installed("strace") {
        return;
    }
    let world = World::new();
    let mut relay = world.relay(Config::new());
    relay.submit(SENDER, &["you@a.test"], &mail("on the disk, as the kernel says"));
    let mut strace = attach(&relay, "inject=fsync,fdatasync:error=EIO:when=1");
    let reply = relay.client().transact(SENDER, "", &["you@a.test"], &mail("is not"));
    assert!(reply.map_or(true, |reply| reply.code == 451));
    assert_eq!(relay.wait_for_exit(SOON).code(), Some(1));
    strace.wait().unwrap();
    let bytes = relay.path("queue.db-wal").metadata().unwrap().len();
    assert!(bytes > 0);

    let (_, trace) = traced(&relay, &[]);
    let before = &trace[..trace.find("listen(").unwrap()];
    let of_log = |line: &&str| line.contains("queue.db-wal>");
    let mut from_start: Vec<&str> = before.lines().filter(of_log).collect();
    // The first write to the log is that of its first byte.
    let first = from_start.iter().position(|line| line.contains("pwrite64(")).unwrap();
    from_start.drain(..first);
    let length = |line: &str| -> u64 { line.rsplit_once("= ").unwrap().1.trim().parse().unwrap() };
    let (mut at, mut lines) = (0, from_start.iter());
    while at < bytes {
        let line = lines.next().expect("a write of all of it");
        assert!(line.contains("pwrite64(") && line.contains(&format!(", {at})")), "{line}");
        at += length(line);
    }
    let line = lines.next().unwrap();
    assert!(line.contains("sync(") && line.ends_with("= 0"), "{line}");
    assert_eq!(relay.logged(&["recovered after an unclean end", &format!("({bytes} bytes of log")]).len(), 1);
}

#[test]
fn a_damaged_log_is_told_of_and_kept() {
    let world = World::new();
    let mut relay = world.relay(Config::new());
    for n in 0..6 {
        relay.submit(SENDER, &["you@a.test"], &mail(&format!("number {n}")));
    }
    relay.kill();
    let (log, name) = (relay.path("queue.db-wal"), "queue.db-wal.damaged-");
    let mut bytes = std::fs::read(&log).unwrap();
    // One bit in the middle of the third frame.
    let at = 32 + 2 * (24 + 4096) + 2000;
    bytes[at] ^= 1;
    std::fs::write(&log, &bytes).unwrap();
    relay.start_again();
    let [line] = &relay.logged(&["ERROR", "is damaged", "cannot be used"])[..] else {
        panic!("{}", relay.log())
    };
    let kept = line.split_whitespace().find(|word| word.contains(name)).unwrap().trim_end_matches(';');
    assert_eq!(std::fs::read(kept).unwrap(), bytes);
    // The starts that follow find nothing any more, whatever the end was.
    for _ in 0..2 {
        relay.submit(SENDER, &["you@a.test"], &mail("after"));
        relay.kill();
        relay.start_again();
    }
    relay.stop();
    relay.start_again();
    assert_eq!(relay.logged(&["ERROR", "is damaged"]).len(), 1);
}

/// The first start, with each of its fsyncs failing in turn: it starts with all of it on the disk, or it says that it
/// does not; and what it leaves is no obstacle to the next.
#[test]
fn a_first_start_whose_fsync_fails_fails_or_makes_up_for_it() {
    if !installed("strace") {
        return;
    }
    let world = World::new();
    let mut failed = 0;
    for n in 1.. {
        let mut relay = Relay::prepare(world.configured(Config::new()));
        relay.add_user();
        let inject = format!("inject=fsync,fdatasync:error=EIO:when={n}");
        let (status, trace) = traced(&relay, &["-e", &inject]);
        let Some(at) = trace.find("(INJECTED)") else { break };
        failed += 1;
        if trace.contains("listen(") && !trace[..at].contains("listen(") {
            let synced =
                |line: &&str| line.contains("sync(") && !line.contains("queue.db") && line.ends_with("= 0");
            let directory = trace[..at].lines().last().is_some_and(|line| !line.contains("queue.db"));
            assert!(directory, "started although the fsync of a file failed: {trace}");
            assert!(trace[at..].lines().any(|line| synced(&line)), "the directory is not synced: {trace}");
        } else {
            assert_eq!(status.code(), Some(1), "{n}: {trace}");
        }
        let log = relay.log();
        relay.start_again();
        let mode = relay.db().rows("PRAGMA journal_mode", []);
        assert_eq!(mode, ["wal"], "{n}: {log}");
        relay.stop();
    }
    assert!(failed >= 5, "{failed}");
}

/// A directory that its user may not read, and file systems that know no fsync of one: all of the file system is synced
/// instead. Where the fsync fails, the start does, and names the error.
#[test]
fn a_directory_that_cannot_be_synced_alone_is_no_obstacle_to_a_start() {
    if !installed("strace") {
        return;
    }
    let world = World::new();
    for (inject, starts) in [
        ("inject=fsync:error=EINVAL", true),
        ("inject=fsync:error=EOPNOTSUPP", true),
        ("inject=openat:error=EACCES", true),
        ("inject=fsync:error=EIO", false),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let mut relay = Relay::prepare_with_queue_in(Some(directory.path()), world.configured(Config::new()));
        relay.add_user();
        // Of the directory alone.
        let only = directory.path().to_str().unwrap().to_owned();
        relay.spawn_under_strace(&["-P", &only, "-e", "trace=openat,fsync", "-e", inject, "-o", "/dev/null"]);
        if starts {
            relay.wait_until_ready();
            relay.submit(SENDER, &["you@a.test"], &mail("taken"));
            relay.stop();
        } else {
            assert_eq!(relay.wait_for_exit(SOON).code(), Some(1), "{inject}");
            let log = relay.log();
            assert!(log.contains(&format!("{only}: ")) && log.contains("os error 5"), "{log}");
        }
    }
}

/// A backup, or somebody at a prompt: for a moment, and for good.
#[test]
fn who_holds_the_database_at_the_start_is_waited_for_and_named() {
    let world = World::new();
    let mut relay = world.relay(Config::new());
    relay.stop();
    let other = relay.db_for_writing();
    other.0.execute_batch("BEGIN IMMEDIATE").unwrap();
    relay.spawn();
    std::thread::sleep(Duration::from_millis(1500));
    assert!(relay.is_running(), "{}", relay.log());
    other.0.execute_batch("ROLLBACK").unwrap();
    relay.wait_until_ready();
    relay.stop();

    let other = relay.db_for_writing();
    other.0.execute_batch("BEGIN IMMEDIATE").unwrap();
    relay.spawn();
    assert_eq!(relay.wait_for_exit(SOON).code(), Some(1));
    let log = relay.log();
    let holder = format!("held by somebody's open transaction: pid {} (", std::process::id());
    assert!(log.contains(&holder), "{log}");
}
