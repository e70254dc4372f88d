//! Commands that nobody listens to any more (`postrider queue list | head`): they end quietly, with the exit code of
//! what they did, and do it whole. A disk that is full is no such reader.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::harness::fakemx::{Act, At, FakeMx, SOON, Script};
use crate::harness::relay::{Config, Relay, World, mail, run_to_end, wait_for, write_secret};
use crate::harness::sender::SENDER;
use crate::harness::skipped::skipped;

/// Every command that prints, in an order in which all of them succeed; `ID` is a message that waits, and the words
/// behind `<` are given on stdin.
const COMMANDS: &[&str] = &[
    "check",
    "check --json",
    "check --against-queue",
    "check --against-queue --json",
    "check --reference",
    "demo",
    "dkim new example.com --algorithm ed25519",
    "dkim show --json",
    "explain you@a.test",
    "explain you@a.test --json",
    "queue list",
    "queue list --json",
    "queue list --limit 1",
    "queue find ID@relay.test",
    "queue find ID@relay.test --json",
    "report --by domain",
    "report --since yesterday --json",
    "queue show ID",
    "queue show ID --json",
    "queue show ID --dialogue",
    "queue show ID --dialogue --json",
    "queue kick --all",
    "queue hold --all",
    "queue release --all",
    "queue failures",
    "queue failures --json",
    "queue oldest",
    "queue oldest --by lane --json",
    "queue suspend --tag news",
    "queue suspend --user app --for 2h --reason why --json",
    "queue suspensions",
    "queue suspensions --json",
    "queue resume --tag news",
    "queue resume --all --json",
    "queue kicks",
    "queue kicks --json",
    "queue log",
    "queue log --since 2h --json",
    "queue summary",
    "queue summary --json",
    "queue bounce ID",
    "queue remove ID",
    "sql --mode csv < SELECT a.* FROM recipients a, recipients b, recipients c",
    "tlsrpt show a.test",
    "top",
    "top --once",
    "user add new --password-stdin < secret",
    "user passwd new --password-stdin < other",
    "user set new --rate 7/h",
    "user list",
    "user list --json",
    "user failures",
    "user failures --json",
    "user failures --lift all",
    "user remove new",
    "backup copy.db",
    "backup other.db --json",
    "restore copy.db --replace",
    "restore copy.db --replace --json",
    "recover --held",
    "--help",
    "--version",
    "queue --help",
    "queue list --help",
    "user --help",
];

/// A stopped relay in whose queue two messages wait; the queue id of the first.
fn stopped() -> (World, FakeMx, Relay, String) {
    let mut world = World::new();
    let mx = world.host("a.test", Script::new().on(At::Rcpt("@"), Act::Say("451 4.7.1 later")));
    let mut relay = world.relay(Config::new());
    let ids = ["you@a.test", "she@a.test"].map(|to| relay.submit(SENDER, &[to], &mail("waits")));
    relay.wait_until("both to be put off", SOON, |db| {
        (db.number("SELECT count(*) FROM recipients WHERE attempts = 1", []) == 2).then_some(())
    });
    relay.stop();
    let [id, _] = ids;
    (world, mx, relay, id)
}

/// The writing end of a pipe that nobody reads.
fn unread() -> OwnedFd {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

/// Runs a line of [`COMMANDS`] with its stdout or stderr elsewhere.
fn run(relay: &Relay, line: &str, id: &str, redirect: impl FnOnce(&mut Command)) -> Output {
    let (words, stdin) = line.split_once(" < ").unwrap_or((line, ""));
    let words: Vec<String> = words.split(' ').map(|word| word.replace("ID", id)).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut command = relay.command(&words);
    command.env("TMPDIR", relay.path(""));
    redirect(&mut command);
    let file = relay.path("stdin");
    std::fs::write(&file, stdin).unwrap();
    let child = command.stdin(File::open(file).unwrap()).spawn().unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn every_command_ends_quietly_and_well_when_its_reader_has_gone() {
    let (_world, _mx, relay, id) = stopped();
    let mut wrong = String::new();
    for line in COMMANDS.iter() {
        let output = run(&relay, line, &id, |command| {
            command.stdout(unread()).stderr(Stdio::piped());
        });
        if output.status.code() != Some(0) || !output.stderr.is_empty() {
            wrong += &format!("{line}: {}: {}\n", output.status, String::from_utf8_lossy(&output.stderr));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    // What they did is on record all the same.
    let actions =
        relay.run_ok(&["sql", "--mode", "list", "-c", "SELECT action FROM operator_log ORDER BY id"]);
    // The second restore put back what was on record before the first.
    let done = [
        "kick",
        "hold",
        "release",
        "suspend",
        "suspend",
        "resume",
        "resume",
        "bounce",
        "remove",
        "user add",
        "user passwd",
        "user set",
        "user remove",
        "restore",
    ];
    assert_eq!(actions.lines().collect::<Vec<_>>(), done);
}

#[test]
fn every_command_says_that_a_full_disk_takes_no_answer() {
    let (_world, _mx, relay, id) = stopped();
    let mut wrong = String::new();
    for line in COMMANDS.iter().filter(|line| !line.contains("--help")) {
        let output = run(&relay, line, &id, |command| {
            command.stdout(File::options().write(true).open("/dev/full").unwrap()).stderr(Stdio::piped());
        });
        let said = String::from_utf8_lossy(&output.stderr);
        let is_told = said.contains("No space left on device") && said.lines().count() == 1;
        if *line != "--version" && (output.status.code() != Some(1) || !is_told) {
            wrong += &format!("{line}: {}: {said}\n", output.status);
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// The exit code is of what was done, also where it cannot be told.
#[test]
fn a_failure_stays_one_when_nobody_reads_of_it() {
    let (_world, _mx, relay, id) = stopped();
    let plain = relay.config();
    for (line, code) in [
        ("chek", 2),
        ("queue show", 2),
        ("queue show 01K6GXFMRQ0", 1),
        ("queue remove 01K6GXFMRQ0", 1),
        ("queue list --limit 1 --json", 0),
        ("user passwd nobody", 1),
        ("user add new", 2),
        ("explain nobody", 1),
        ("explain you@gone.test", 1),
        ("explain you@gone.test --json", 1),
        ("sql < SELECT 1; SELECT nonsense;", 1),
        ("check", 1),
        ("check --json", 1),
        ("check --domain a.test", 1),
        ("check --domain a.test --json", 1),
        ("serve", 1),
    ] {
        match line {
            // The users file cannot be read, which is a problem of no config.
            "check" => std::fs::write(relay.path("users"), "app secret\n").unwrap(),
            _ => relay.write_config(&plain),
        }
        let all_gone = run(&relay, line, &id, |command| {
            command.stdout(unread()).stderr(unread());
        });
        assert_eq!(all_gone.status.code(), Some(code), "{line}");
    }
    write_secret(&relay.path("postrider.toml"), "colour = 1\n");
    for line in ["check", "check --json", "queue list", "user list", "serve"] {
        let all_gone = run(&relay, line, &id, |command| {
            command.stdout(unread()).stderr(unread());
        });
        // Who looks after the queue is not kept from it by an unknown key.
        assert_eq!(all_gone.status.code(), Some(2), "{line}");
    }
}

#[test]
fn an_address_that_cannot_be_routed_is_explained() {
    let (_world, _mx, relay, _) = stopped();
    let output = relay.run(&["explain", "you@gone.test"]);
    let (said, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(said.starts_with("you@gone.test\n") && said.contains("does not exist"), "{said}\n{error}");
}

/// The table above has every command that the help names.
#[test]
fn no_command_is_missing_here() {
    let folder = tempfile::tempdir().unwrap();
    for of in [&[][..], &["queue"], &["user"]] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_postrider"));
        command.args(of).arg("--help").current_dir(folder.path());
        let help = String::from_utf8(run_to_end(command, b"").stdout).unwrap();
        let (_, commands) = help.split_once("Commands:\n").expect("a list of commands");
        let names = commands.lines().take_while(|line| !line.is_empty());
        let names: Vec<&str> = names
            .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
            .filter_map(|line| line.split_whitespace().next())
            .collect();
        assert!(names.len() > 4, "{help}");
        // These need a relay that runs.
        let elsewhere = ["help", "serve", "health", "sendmail"];
        for name in names.into_iter().filter(|name| !elsewhere.contains(name)) {
            let line = [of, &[name]].concat().join(" ");
            assert!(COMMANDS.iter().any(|known| known.starts_with(&line)), "{line} is not in the table");
        }
    }
}

/// The start without a config file prints a password; that nobody reads it does not end the relay.
#[test]
fn a_first_start_goes_on_when_nobody_reads_its_password() {
    let folder = tempfile::tempdir().unwrap();
    if std::net::TcpListener::bind("127.0.0.1:5587").is_err()
        || Path::new("/etc/postrider/postrider.toml").exists()
    {
        return skipped("127.0.0.1:5587 is in use, or this machine has a config");
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_postrider"));
    command.arg("serve").env_remove("RUST_LOG").env_remove("NOTIFY_SOCKET").current_dir(folder.path());
    let mut relay = command.stdin(Stdio::null()).stdout(unread()).stderr(Stdio::piped()).spawn().unwrap();
    let said = BufReader::new(relay.stderr.take().expect("piped above")).lines().map_while(Result::ok);
    let told = said.into_iter().find(|line| line.contains("postrider user passwd app"));
    let still_runs = relay.try_wait().unwrap().is_none();
    let client = std::net::TcpStream::connect("127.0.0.1:5587");
    let _ = relay.kill();
    let _ = relay.wait();
    assert!(told.is_some_and(|line| line.contains("WARN")) && still_runs && client.is_ok());
}

/// As a person sees it: `postrider demo | head`. It cleans up all the same.
#[test]
fn the_demo_may_be_cut_short_at_any_line() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_postrider"));
    command.arg("demo").env("TMPDIR", folder.path()).env_remove("RUST_LOG").current_dir(folder.path());
    let mut demo = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(demo.stdout.take().expect("piped above")).lines();
    assert!(lines.by_ref().take(3).all(|line| line.is_ok()));
    drop(lines);
    let ended = wait_for("the demo to end", SOON.max(Duration::from_secs(20)), || demo.try_wait().unwrap());
    let said = std::io::read_to_string(demo.stderr.take().expect("piped above")).unwrap();
    assert!(ended.success() && said.is_empty(), "{ended}: {said}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// Ctrl-C in the middle of it.
#[test]
fn a_demo_that_is_interrupted_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_postrider"));
    command.arg("demo").env("TMPDIR", folder.path()).env_remove("RUST_LOG").current_dir(folder.path());
    let mut demo = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(demo.stdout.take().expect("piped above")).lines();
    assert!(lines.any(|line| line.unwrap().starts_with("== A moment later")));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    let pid = i32::try_from(demo.id()).unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let ended = wait_for("the demo to end", SOON, || demo.try_wait().unwrap());
    assert_eq!(ended.code(), Some(130));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
