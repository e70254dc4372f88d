//! A full disk, on a real file system of 64 MB: who is refused, what goes on, and that all of it ends by itself.
//!
//! Each test runs again in a mount namespace of its own, with a small tmpfs for the database alone. Where the system
//! allows no such namespace, it is skipped.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::harness::fakemx::{Act, At, FakeMx, SOON, Script};
use crate::harness::log;
use crate::harness::notified::Notified;
use crate::harness::relay::{Config, Relay, World, mail, wait_for};
use crate::harness::sender::{SENDER, world_with_sender};
use crate::harness::skipped::{installed, skipped};

/// Where the small file system is, for a test that runs in its namespace.
const DISK: &str = "TEST_SMALL_DISK";
/// The exit code of the shell where it may not mount.
const NOT_ALLOWED: i32 = 77;
/// Bytes of a message, so that a few hundred fill the disk.
const MESSAGE_BYTES: usize = 100_000;
/// Emptying the queue, with fsyncs that cost nothing and a debug build that does.
const EMPTIED_WITHIN: Duration = Duration::from_secs(60);

/// The directory on the small disk; none in the process that started the one which has it.
pub fn small_disk() -> Option<PathBuf> {
    if let Some(disk) = std::env::var_os(DISK) {
        return Some(disk.into());
    }
    let test = std::thread::current().name().expect("libtest names it").to_owned();
    let mount = tempfile::tempdir().unwrap();
    let script = format!(
        "mount -t tmpfs -o size=64m,mode=700 none \"$0\" || exit {NOT_ALLOWED}; {DISK}=$0 exec \"$@\""
    );
    let run = |namespaces: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(namespaces).args(["--mount", "sh", "-c", &script]).arg(mount.path());
        command.arg(std::env::current_exe().unwrap()).args(["--exact", &test, "--nocapture"]);
        command.stdin(Stdio::null()).output().unwrap()
    };
    if !installed("unshare") {
        return None;
    }
    let mut output = run(&[]);
    // Without root: in a namespace of users too.
    if !output.status.success() && output.stdout.is_empty() {
        output = run(&["--user", "--map-root-user"]);
    }
    if output.stdout.is_empty() {
        skipped(&format!("no mount namespace: {}", String::from_utf8_lossy(&output.stderr).trim()));
        return None;
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
    None
}

/// A relay with its database on the small disk.
pub fn relay_on(disk: &Path, world: &World, config: Config) -> Relay {
    let mut relay = Relay::prepare_with_queue_in(Some(disk), world.configured(config));
    relay.add_user();
    relay.start_again();
    relay
}

/// A reply as long as one is kept, in characters of four bytes.
fn long_reply() -> Act {
    let line = "\u{1f4ee}".repeat(100);
    let lines = format!("451-4.2.2 {line}\r\n").repeat(39) + "451 4.2.2 later";
    Act::Say(Box::leak(lines.into_boxed_str()))
}

/// A host at the address of `mx.a.test` that puts everything off, at length.
fn deferring(world: &mut World) -> FakeMx {
    world.host("a.test", Script::new().on(At::Rcpt("@"), long_reply()))
}

/// The same address takes mail from now on.
fn relent(mx: FakeMx) -> FakeMx {
    let address = mx.address;
    drop(mx);
    FakeMx::start_at(address, vec![Script::new()])
}

fn large(number: usize) -> Vec<u8> {
    let mut content = mail(&format!("number {number}"));
    content.extend(b"0123456789abcdef0123456789abcdef0123456789abcdef\r\n".repeat(MESSAGE_BYTES / 50));
    content
}

/// Submits until there is no room for more; how many were taken.
fn submit_until_refused(relay: &Relay) -> usize {
    let mut client = relay.client();
    for number in 0.. {
        let reply = client.transact(SENDER, "", &[&format!("n{number}@a.test")], &large(number)).unwrap();
        match reply.code {
            250 => {}
            452 => return number,
            _ => panic!("{reply:?}"),
        }
    }
    unreachable!()
}

fn wait_for_tries(relay: &Relay, tries: i64) {
    relay.wait_until(&format!("{tries} tries of each"), EMPTIED_WITHIN, |db| {
        (db.number("SELECT min(attempts) FROM recipients", []) >= tries).then_some(())
    });
}

fn wait_until_mail_is_taken(relay: &Relay) {
    wait_for("mail to be taken again", SOON, || {
        let reply = relay.client().transact(SENDER, "", &["last@a.test"], &mail("last")).unwrap();
        (reply.code == 250).then_some(())
    });
}

/// All is delivered, and the database is whole.
fn assert_all_went_out(relay: &mut Relay, mx: &FakeMx, count: usize) {
    mx.wait_for_messages(count, EMPTIED_WITHIN);
    relay.wait_until_empty();
    relay.stop();
    let db = relay.db();
    assert_eq!(db.rows("SELECT * FROM stuck", []), Vec::<String>::new());
    assert_eq!(db.row("PRAGMA integrity_check", []).as_deref(), Some("ok"));
    let delivered = "SELECT count(*) FROM history WHERE state = 'delivered' AND address LIKE '%@a.test'";
    assert_eq!(db.number(delivered, []), count as i64);
}

/// Takes what is left of the disk, to the last byte.
pub fn fill(disk: &Path) {
    let mut file = File::options().create(true).append(true).open(disk.join("somebody-else")).unwrap();
    while file.write_all(&[1; 4096]).is_ok() {}
    while file.write_all(&[1]).is_ok() {}
}

fn disk_finding(relay: &Relay) -> String {
    let said: serde_json::Value = serde_json::from_slice(&relay.run(&["check", "--json"]).stdout).unwrap();
    let findings = said["findings"].as_array().unwrap();
    let disk = findings.iter().find(|finding| finding["about"] == "disk").unwrap();
    format!("{} {}", disk["level"].as_str().unwrap(), disk["text"].as_str().unwrap())
}

#[test]
fn retries_never_use_up_the_disk_and_all_goes_out_once_the_host_takes_it() {
    let Some(disk) = small_disk() else { return };
    let (mut world, home) = world_with_sender();
    let mx = deferring(&mut world);
    let mut relay = relay_on(&disk, &world, Config::new().retry(&["3s"]));
    assert!(disk_finding(&relay).starts_with("ok "), "{}", disk_finding(&relay));
    let taken = submit_until_refused(&relay);
    assert!(taken > 200, "{taken}");

    wait_for("the operator to hear of it", SOON, || {
        (!relay.logged(&["ERROR", log::MAIL_REFUSED]).is_empty()).then_some(())
    });
    let rows = || relay.db().number("SELECT count(*) FROM attempts", []);
    wait_for_tries(&relay, 2);
    let before = rows();
    wait_for_tries(&relay, 4);
    // Two more tries of each: while the disk is full, they have no rows. It may be so again and again for a moment.
    assert!(rows() - before < taken as i64, "{before} rows became {} for {taken} recipients", rows());
    assert!(relay.logged(&["ERROR", log::MAIL_REFUSED]).len() <= 3);
    assert!(disk_finding(&relay).starts_with("problem new mail is refused"), "{}", disk_finding(&relay));
    let summary = relay.json(&["queue", "summary"]);
    assert!(summary[0]["new_mail_refused"].as_str().is_some(), "{summary:?}");
    assert!(relay.run_ok(&["queue", "summary"]).contains("NEW MAIL IS REFUSED"));

    // What an operator does about it.
    let ids = relay.db().rows("SELECT DISTINCT queue_id FROM queue LIMIT 2", []);
    assert_eq!(relay.run_ok(&["queue", "remove", &ids[0]]), "1 recipient removed\n");
    relay.run_ok(&["queue", "bounce", &ids[1]]);
    home.wait_for_messages(1, SOON);

    let mx = relent(mx);
    mx.wait_for_messages(taken - 2, EMPTIED_WITHIN);
    wait_until_mail_is_taken(&relay);
    let began = relay.logged(&["ERROR", log::MAIL_REFUSED]).len();
    assert_eq!(relay.logged(&["INFO", log::MAIL_ACCEPTED_AGAIN]).len(), began, "each has its end");
    assert!(disk_finding(&relay).starts_with("ok "), "{}", disk_finding(&relay));
    assert_all_went_out(&mut relay, &mx, taken - 2 + 1);
}

#[test]
fn somebody_else_who_fills_the_disk_stops_nothing_for_good() {
    let Some(disk) = small_disk() else { return };
    let (mut world, _home) = world_with_sender();
    let mx = deferring(&mut world);
    let mut relay = relay_on(&disk, &world, Config::new().retry(&["1s"]));
    let mut client = relay.client();
    let count = 60;
    for number in 0..count {
        client.submit(SENDER, &[&format!("n{number}@a.test")], &large(number));
    }
    // Twice: what the first time leaves is the ballast, when it is given up.
    for _ in 0..2 {
        fill(&disk);
        wait_for("the relay to notice", SOON, || {
            (!relay.logged(&["ERROR", log::MAIL_REFUSED]).is_empty()).then_some(())
        });
        assert!(!disk.join("queue.db-ballast").exists() || relay.run(&["queue", "list"]).status.success());
        let reply = relay.client().transact(SENDER, "", &["no@a.test"], &large(0)).unwrap();
        assert_eq!(reply.code, 452, "{reply:?}");
    }
    // Not a byte is left. What an operator does finds room in the log, and a restart changes nothing.
    let ids = relay.db().rows("SELECT DISTINCT queue_id FROM queue LIMIT 1", []);
    assert_eq!(relay.run_ok(&["queue", "remove", &ids[0]]), "1 recipient removed\n");
    relay.stop();
    relay.run_ok(&["queue", "list"]);
    relay.start_again();
    let reply = relay.client().transact(SENDER, "", &["no@a.test"], &large(0)).unwrap();
    assert_eq!(reply.code, 452, "{reply:?}");

    std::fs::remove_file(disk.join("somebody-else")).unwrap();
    wait_until_mail_is_taken(&relay);
    assert!(disk.join("queue.db-ballast").exists());
    let mx = relent(mx);
    assert_all_went_out(&mut relay, &mx, count - 1 + 1);
}

/// What keeps room for outcomes is for outcomes, and for whoever frees room: nobody takes it who only looks.
#[test]
fn who_looks_at_a_full_disk_leaves_the_ballast_alone() {
    let Some(disk) = small_disk() else { return };
    let (mut world, _home) = world_with_sender();
    let _mx = deferring(&mut world);
    let mut relay = relay_on(&disk, &world, Config::new().retry(&["1h"]));
    for number in 0..20 {
        relay.submit(SENDER, &[&format!("n{number}@a.test")], &large(number));
    }
    relay.stop();
    let ballast = disk.join("queue.db-ballast");
    assert!(ballast.exists());
    fill(&disk);
    for command in [&["queue", "list"][..], &["queue", "summary"], &["check"], &["sql", "-c", "SELECT 1"]] {
        let said = relay.run(command);
        let said = String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned();
        assert!(ballast.exists(), "{command:?}: {said}");
    }
    assert_eq!(relay.run_ok(&["queue", "remove", "--all"]), "20 recipients removed\n");
    assert!(!ballast.exists());
}

#[test]
fn a_reader_who_keeps_the_log_from_being_copied_is_named_and_stops_nothing_for_good() {
    let Some(disk) = small_disk() else { return };
    let (mut world, _home) = world_with_sender();
    let mx = deferring(&mut world);
    let mut relay = relay_on(&disk, &world, Config::new().retry(&["1s"]));
    relay.submit(SENDER, &["first@a.test"], &mail("first"));
    let reader = relay.db();
    reader.0.execute_batch("BEGIN").unwrap();
    reader.number("SELECT count(*) FROM recipients", []);
    let taken = submit_until_refused(&relay);
    let named = format!("pid {} (", std::process::id());
    wait_for("the reader to be named", SOON, || {
        (!relay.logged(&["WARN", log::LOG_HAS_GROWN, &named]).is_empty()).then_some(())
    });
    wait_for("check to name it", SOON, || disk_finding(&relay).contains(&named).then_some(()));
    // Retries go on in the log until only what its copy needs is left; then nothing is written, and nothing tried.
    relay.wait_until("retries to stop", EMPTIED_WITHIN, |_| {
        (!relay.logged(&["kept for the checkpoint", &named]).is_empty()).then_some(())
    });
    let reply = relay.client().transact(SENDER, "", &["no@a.test"], &mail("no")).unwrap();
    assert_eq!(reply.code, 452, "{reply:?}");
    reader.0.execute_batch("COMMIT").unwrap();
    let mx = relent(mx);
    wait_until_mail_is_taken(&relay);
    assert_all_went_out(&mut relay, &mx, 1 + taken + 1);
}

/// `strace` that has each write of the relay fail with this error, until it is stopped.
fn have_writes_fail(relay: &Relay, errno: &str) -> Child {
    let inject = format!("inject=pwrite64,fallocate:error={errno}");
    let pid = relay.pid().to_string();
    let mut strace = Command::new("strace");
    strace.args([
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        "-e",
        "trace=pwrite64,fallocate",
        "-e",
        &inject,
        "-p",
        &pid,
    ]);
    strace.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn interrupt(mut strace: Child) {
    let pid = strace.id();
    assert!(Command::new("sh").arg("-c").arg(format!("kill -INT {pid}")).status().unwrap().success());
    strace.wait().unwrap();
}

#[test]
fn a_quota_and_a_file_system_that_becomes_read_only_are_states_that_pass() {
    if !installed("strace") {
        return;
    }
    for (errno, words) in
        [("EDQUOT", "(os error 122)"), ("EROFS", "(os error 30)"), ("ENOSPC", "(os error 28)")]
    {
        let (mut world, _home) = world_with_sender();
        let mx = world.host("a.test", Script::new());
        let mut relay = Relay::prepare(world.configured(Config::new()));
        relay.add_user();
        let notified = Notified::by(&mut relay, &[]);
        relay.wait_until_ready();
        notified.hear("STATUS=takes and delivers mail");
        let strace = have_writes_fail(&relay, errno);
        let mut taken = 0;
        wait_for("a refusal", SOON, || {
            let reply = relay.client().transact(SENDER, "", &["you@a.test"], &mail("x")).unwrap();
            taken += usize::from(reply.code == 250);
            (reply.code == 452).then_some(())
        });
        assert!(!relay.logged(&["ERROR", log::MAIL_REFUSED, words]).is_empty(), "{}", relay.log());
        notified.hear("STATUS=new mail is refused");
        interrupt(strace);
        wait_for("mail to be taken again", SOON, || {
            let reply = relay.client().transact(SENDER, "", &["you@a.test"], &mail("x")).unwrap();
            (reply.code == 250).then_some(())
        });
        notified.hear("STATUS=takes and delivers mail");
        mx.wait_for_messages(taken + 1, SOON);
        relay.stop();
    }
}

#[test]
fn a_backup_that_finds_no_room_is_refused_and_leaves_nothing() {
    let Some(disk) = small_disk() else { return };
    let (mut world, _home) = world_with_sender();
    world.closed_mx("a.test", 10, "mx.a.test");
    let relay = relay_on(&disk, &world, Config::new());
    let content = [mail("large"), b"words and words\r\n".repeat(MESSAGE_BYTES / 17)].concat();
    (0..300).for_each(|n| drop(relay.submit(SENDER, &[&format!("you{n}@a.test")], &content)));
    let beside = disk.join("copy.db");
    let output = relay.run(&["backup", beside.to_str().unwrap()]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.code() == Some(1) && said.contains("finds no room: it takes"),
        "{} {said}",
        output.status
    );
    assert!(!beside.exists() && !disk.join("copy.db.partial").exists());
    relay.run_ok(&["backup", relay.path("elsewhere.db").to_str().unwrap()]);
    assert_eq!(relay.logged(&["ERROR"]), [""; 0]);
}
