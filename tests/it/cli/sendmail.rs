//! `postrider sendmail`: what callers write and what comes of it; hostile arguments; the exit codes; and the programs
//! that call it, where they are installed.

use std::io::{BufRead as _, BufReader};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::harness::fakemx::{FakeMx, SOON, Script};
use crate::harness::http_client::{address, get, watched};
use crate::harness::relay::{Config, HOSTNAME, Relay, World, run_to_end, wait_for};
use crate::harness::skipped::{installed, skipped};
use crate::submission::unix_socket::{me, with_socket};

/// A relay with a socket, the host of `a.test`, and that of names without a domain.
struct Stage {
    _world: World,
    mx: FakeMx,
    own: FakeMx,
    relay: Relay,
    folder: tempfile::TempDir,
    socket: PathBuf,
}

impl Stage {
    fn new(config: Config) -> Stage {
        let mut world = World::new();
        let mx = world.host("a.test", Script::new());
        let own = world.host(HOSTNAME, Script::new());
        // Its mail waits.
        world.closed_mx("closed.test", 10, "mx.closed.test");
        let (folder, socket, config) = with_socket(config.set("aliases.root", "[\"ops@a.test\"]"));
        let relay = world.relay(config);
        for name in ["sendmail", "mailq", "newaliases"] {
            symlink(env!("CARGO_BIN_EXE_postrider"), folder.path().join(name)).unwrap();
        }
        Stage { _world: world, mx, own, relay, folder, socket }
    }

    /// The program by its name, as callers find it.
    fn program(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, name: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.program(name));
        command.args(arguments).envs(self.environment());
        command
    }

    fn environment(&self) -> [(&'static str, String); 1] {
        [("POSTRIDER_SUBMIT", format!("unix:{}", self.socket.display()))]
    }

    fn sendmail(&self, arguments: &[&str], input: &str) -> Output {
        run_to_end(self.command("sendmail", arguments), input.as_bytes())
    }

    fn accepted(&self) -> usize {
        self.relay.logged(&["accepted"]).len()
    }
}

fn said(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes)).concat()
}

/// Arguments, input, recipients, sender; what the content has, and what it has not.
type Sent<'a> = (&'a [&'a str], &'a str, &'a [&'a str], &'a str, &'a [&'a str], &'a [&'a str]);

/// The sender where none is given: the user who runs it.
const OWN: &str = "OWN";

const SENT: &[Sent<'static>] = &[
    (
        &["a@a.test"],
        "Subject: 1\n\nhello\n",
        &["a@a.test"],
        OWN,
        &["From: ", "\r\n\r\nhello\r\n", "Message-ID: ", "Date: "],
        &[],
    ),
    (&["root"], "hello\n", &["ops@a.test"], OWN, &["From: ", "\r\n\r\nhello\r\n"], &[]),
    (
        &["-t"],
        "To: A <a@a.test>,\n b@a.test\nCc: \"C, C\" <c@a.test>\nBcc: d@a.test\nSubject: 3\n\n3\n",
        &["a@a.test", "b@a.test", "c@a.test", "d@a.test"],
        OWN,
        &["To: A <a@a.test>"],
        &["Bcc", "d@a.test"],
    ),
    (
        &["-t", "-i", "-fweb@a.test", "b@a.test"],
        "To: a@a.test\nFrom: me@a.test\n\n4\n",
        &["a@a.test", "b@a.test"],
        "web@a.test",
        &["From: me@a.test\r\n"],
        &["From: web"],
    ),
    (
        &["-f", "<>", "a@a.test"],
        "Subject: 5\n\n5\n",
        &["a@a.test"],
        "",
        &["From: MAILER-DAEMON@relay.test\r\n"],
        &[],
    ),
    (
        &["-FCronDaemon", "-odi", "-oem", "a@a.test"],
        "Subject: 6\n\n6\n",
        &["a@a.test"],
        OWN,
        &["From: CronDaemon <"],
        &[],
    ),
    (&["a@a.test"], "Subject: 7\n\none\n.\ntwo\n", &["a@a.test"], OWN, &["one\r\n"], &["two"]),
    (
        &["-i", "a@a.test"],
        "Subject: 8\n\none\n.\n..\n.two\n",
        &["a@a.test"],
        OWN,
        &["one\r\n.\r\n..\r\n.two\r\n"],
        &[],
    ),
    (&["-toi"], "To: a@a.test\n\none\n.\ntwo\n", &["a@a.test"], OWN, &["one\r\n.\r\ntwo\r\n"], &[]),
    (
        &["-oi", "a@a.test", "a@a.test"],
        "Subject: 10\r\n\r\nx\r\n",
        &["a@a.test"],
        OWN,
        &["\r\n\r\nx\r\n"],
        &["\r\r"],
    ),
    (
        &["-f", "me", "-B8BITMIME", "a@a.test"],
        "Subject: ä\n\nö\n",
        &["a@a.test"],
        "me@relay.test",
        &["Subject: ä\r\n", "ö\r\n"],
        &[],
    ),
    (
        &["-O", "IgnoreDots=true", "-OErrorMode=m", "-G", "-U", "a@a.test"],
        "Subject: 12\n\n.\nx\n",
        &["a@a.test"],
        OWN,
        &[".\r\nx\r\n"],
        &[],
    ),
    (
        &["a@a.test"],
        "From me@b.test Mon Nov 30 01:00:00 2026\nSubject: 13\n\nx\n",
        &["a@a.test"],
        OWN,
        &["\r\nSubject: 13\r\n"],
        &["From me"],
    ),
    (&["--", "-a@a.test"], "Subject: 14\n\nx\n", &["-a@a.test"], OWN, &[], &[]),
    (&["a@a.test"], "", &["a@a.test"], OWN, &["From: "], &[]),
    // What programs print, and what mdadm and smartd write to.
    (&["a@a.test"], "Subject: 16\n\na\0b\n", &["a@a.test"], OWN, &["\r\n\r\na b\r\n"], &[]),
    (
        &["root@localhost"],
        "From: root@localhost\nSender: root@localhost.localdomain\n\n17\n",
        &["ops@a.test"],
        OWN,
        &["From: root@relay.test\r\n", "Sender: root@relay.test\r\n"],
        &["localhost\r", "localdomain\r"],
    ),
    (&["-t"], "\u{feff}To: a@a.test\n\n18\n", &["a@a.test"], OWN, &["To: a@a.test\r\n"], &[]),
];

#[test]
fn what_is_handed_over_arrives_as_the_options_say() {
    let stage = Stage::new(Config::new());
    let (name, _) = me();
    let own = format!("{name}@{HOSTNAME}");
    for (at, (arguments, input, recipients, sender, has, has_not)) in SENT.iter().enumerate() {
        let sender = if *sender == OWN { &own } else { *sender };
        let output = stage.sendmail(arguments, input);
        assert!(output.status.success() && said(&output).is_empty(), "{arguments:?}: {}", said(&output));
        let message = stage.mx.wait_for_messages(at + 1, SOON).swap_remove(at);
        assert!(message.mail.contains(&format!("FROM:<{sender}>")), "{arguments:?}: {}", message.mail);
        let mut to: Vec<&str> =
            message.rcpts.iter().map(|rcpt| rcpt.split(['<', '>']).nth(1).unwrap()).collect();
        to.sort_unstable();
        assert_eq!(to, *recipients, "{arguments:?}");
        let content = String::from_utf8(message.content).unwrap();
        assert!(content.contains(&format!("(unix, user {name})")), "{content}");
        assert!(has.iter().all(|text| content.contains(text)), "{arguments:?}: {has:?}: {content}");
        assert!(!has_not.iter().any(|text| content.contains(text)), "{arguments:?}: {has_not:?}: {content}");
    }
    // A name that is no alias has the domain of the host.
    assert!(stage.sendmail(&["nobody"], "Subject: x\n\nx\n").status.success());
    let message = stage.own.wait_for_messages(1, SOON).remove(0);
    assert!(message.rcpts[0].contains("<nobody@relay.test>"), "{:?}", message.rcpts);
}

#[test]
fn what_reports_are_wanted_reaches_the_relay() {
    let stage = Stage::new(Config::new());
    let asked = ["-N", "failure,delay", "-R", "hdrs", "-V", "id+7", "-v", "a@a.test"];
    let output = stage.sendmail(&asked, "Subject: x\n\nx\n");
    let dialogue = said(&output);
    assert!(output.status.success(), "{dialogue}");
    for line in [" RET=HDRS ENVID=id+2B7\n", "C: RCPT TO:<a@a.test> NOTIFY=DELAY,FAILURE\n", "S: 250 2.0.0 "]
    {
        assert!(dialogue.contains(line), "{dialogue}");
    }
}

/// What is refused says so by its number, and nothing of it is sent.
#[test]
fn the_exit_code_says_what_to_do() {
    let config = Config::new()
        .set("limits.message_size", "\"64KiB\"")
        .set("aliases.circle", "[\"circle@relay.test\"]");
    let mut stage = Stage::new(config);
    let hello = "Subject: x\n\nhello\n";
    let large = format!("Subject: x\n\n{}", "0123456789\n".repeat(8 << 10));
    let cases: &[(&[&str], &str, i32, &str)] = &[
        (&[], hello, 64, "no recipients"),
        (&["-z", "root"], hello, 64, "-z is no option"),
        (&["-bd"], "", 64, "postrider serve"),
        (&["-t"], hello, 65, "names a recipient"),
        (&["-t"], "To: <a\n\nx\n", 65, "To ends within"),
        (&["a b@a.test"], hello, 65, "local part"),
        (&["circle", "a@a.test"], hello, 67, "<circle@relay.test>: 5"),
        (&["a@a.test"], &large, 69, "larger than the 65536 bytes"),
    ];
    for (arguments, input, code, why) in cases {
        let output = stage.sendmail(arguments, input);
        assert_eq!(output.status.code(), Some(*code), "{arguments:?}: {}", said(&output));
        assert!(said(&output).starts_with("sendmail: ") && said(&output).contains(why), "{}", said(&output));
    }
    // A user who may send as another only.
    let (name, _) = me();
    stage.relay.add_user_with(&name, &["--senders", "app@a.test"]);
    assert_eq!(stage.sendmail(&["a@a.test"], hello).status.code(), Some(77));
    assert!(stage.sendmail(&["-fapp@a.test", "a@a.test"], hello).status.success());
    assert_eq!(stage.accepted(), 1);
    // The relay is down: later. Whoever writes is heard to the end, and dies of no pipe.
    stage.relay.stop();
    let output = stage.sendmail(&["a@a.test"], &large);
    assert_eq!(output.status.code(), Some(75), "{}", said(&output));
    assert!(said(&output).contains("the relay cannot be reached"), "{}", said(&output));
    let output = run_to_end(stage.command("sendmail", &["-bs"]), b"QUIT\r\n");
    assert_eq!((output.status.code(), output.stdout.starts_with(b"421 4.3.2 ")), (Some(75), true));
    // Nobody but this machine is spoken to.
    let mut command = stage.command("sendmail", &["a@a.test"]);
    command.env("POSTRIDER_SUBMIT", "192.0.2.1:25");
    assert_eq!(run_to_end(command, hello.as_bytes()).status.code(), Some(78));
}

#[test]
fn nothing_hostile_becomes_a_command_or_another_recipient() {
    let stage = Stage::new(Config::new());
    let two = "a@a.test\r\nRCPT TO:<b@a.test>";
    let hello = "Subject: x\n\nx\n";
    for arguments in [
        &["-f", "me@a.test>\r\nRSET\r\nMAIL FROM:<you@a.test", "a@a.test"][..],
        &["-f", "me@a.test\nX: y", "a@a.test"],
        &["-f", "me@a.test> SIZE=1", "a@a.test"],
        &[two],
        &["--", two],
        &["-V", "a\r\nRCPT TO:<b@a.test>", "a@a.test"],
        &["-N", "never\r\nRSET", "a@a.test"],
        &["-fme@a.test", "-X", "/tmp/x", "a@a.test>\n"],
    ] {
        let output = stage.sendmail(arguments, hello);
        assert!(matches!(output.status.code(), Some(64 | 65)), "{arguments:?}: {}", said(&output));
    }
    // A header cannot name what an address cannot hold.
    let output = stage.sendmail(&["-t"], "To: \"a\0\"@a.test\n\nx\n");
    assert_eq!(output.status.code(), Some(65), "{}", said(&output));
    assert_eq!(stage.accepted(), 0);
    // A name stays in its field, a log file that is asked for is not written, and content is no command.
    let log = stage.folder.path().join("x.log");
    let arguments = ["-X", log.to_str().unwrap(), "-F", "Me\r\nBcc: b@a.test", "-i", "a@a.test"];
    assert!(stage.sendmail(&arguments, "Subject: x\n\n.\nRCPT TO:<b@a.test>\n").status.success());
    let message = stage.mx.wait_for_messages(1, SOON).remove(0);
    let content = String::from_utf8(message.content).unwrap();
    assert_eq!(message.rcpts.len(), 1, "{content}");
    assert!(content.contains("\r\n.\r\nRCPT TO:<b@a.test>\r\n") && !content.contains("\r\nBcc"), "{content}");
    assert!(!log.exists());
}

/// More than the relay takes at once go in several transactions, all or none as far as that can be known.
#[test]
fn recipients_beyond_the_limit_go_in_further_transactions() {
    let stage = Stage::new(
        Config::new().set("limits.recipients", "3").set("aliases.circle", "[\"circle@relay.test\"]"),
    );
    let long: Vec<String> = (0..8).map(|n| format!("{n}@a.test")).collect();
    let many: Vec<&str> = long.iter().map(String::as_str).collect();
    let output = stage.sendmail(&[&many[..], &["circle"]].concat(), "Subject: x\n\nx\n");
    assert_eq!((output.status.code(), stage.accepted()), (Some(67), 0), "{}", said(&output));
    let output = stage.sendmail(&many, "Subject: x\n\nx\n");
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(stage.relay.logged(&["accepted", "nrcpt=3"]).len(), 2, "{}", stage.relay.log());
    assert_eq!(stage.accepted(), 3);
}

/// cron and PHP try nothing again.
#[test]
fn a_burst_finds_its_turn_and_one_message_takes_one_session() {
    let at = address();
    let config = watched(Config::new(), &[at]).set("limits.sessions_per_client", "1");
    let stage = Stage::new(config);
    let other = std::os::unix::net::UnixStream::connect(&stage.socket).unwrap();
    let count = |name: &str| {
        let page = get(at, "/metrics").body;
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u32>().ok());
        line.unwrap_or_else(|| panic!("{name}: {page}"))
    };
    // It has begun when it is greeted.
    BufReader::new(&other).read_line(&mut String::new()).unwrap();
    let before = count("postrider_sessions_total ");
    std::thread::scope(|scope| {
        for _ in 0..5 {
            scope.spawn(|| {
                let output = stage.sendmail(&["a@a.test"], "Subject: x\n\nx\n");
                assert!(output.status.success() && said(&output).is_empty(), "{}", said(&output));
            });
        }
        let sent_away = || stage.relay.logged(&["Too many sessions"]).len() >= 5;
        wait_for("five to be sent away", SOON, || sent_away().then_some(()));
        assert_eq!(stage.accepted(), 0);
        drop(other);
    });
    assert_eq!(stage.accepted(), 5);
    // None to ask the relay for its limits.
    assert_eq!(count("postrider_sessions_total "), before + 5);
}

/// The other recipients have it, and whoever sent it is told.
#[test]
fn one_bad_part_of_a_header_costs_no_other_recipient() {
    let stage = Stage::new(Config::new());
    let header = "To: <>, O'Hara (x <x@a.test>\nCc: a b@a.test, c@a.test\n\nx\n";
    let output = stage.sendmail(&["-t"], header);
    assert!(output.status.success(), "{}", said(&output));
    for why in ["sendmail: To holds an empty address; it goes to the other recipients", "\"a b@a.test\": "] {
        assert!(said(&output).contains(why), "{}", said(&output));
    }
    let message = stage.mx.wait_for_messages(1, SOON).remove(0);
    assert_eq!(message.rcpts.len(), 2, "{:?}", message.rcpts);
    // A full name in Latin-1.
    let mut command = stage.command("sendmail", &["-F"]);
    command.arg(std::ffi::OsStr::from_bytes(b"J\xf6rg")).arg("a@a.test");
    assert!(run_to_end(command, b"Subject: x\n\nx\n").status.success());
    let message = stage.mx.wait_for_messages(2, SOON).remove(1);
    let content = String::from_utf8_lossy(&message.content);
    // The same letters in UTF-8.
    assert!(content.contains("\nFrom: =?utf-8?b?SsO2cmc=?= <root@relay.test>\r\n"), "{content}");
}

#[test]
fn smtp_by_hand_ends_its_lines_in_lf_and_hears_how_it_ended() {
    let stage = Stage::new(Config::new());
    let lines = "HELO me\nMAIL FROM:<me@a.test>\nRCPT TO:<a@a.test>\nDATA\nSubject: x\n\nx\n.\nQUIT\n";
    let output = run_to_end(stage.command("sendmail", &["-bs"]), lines.as_bytes());
    assert!(output.status.success() && said(&output).contains("\n250 2.0.0 "), "{}", said(&output));
    assert_eq!(stage.accepted(), 1);
    // The relay closed the connection, and nothing was sent.
    let output = run_to_end(stage.command("sendmail", &["-bs"]), b"HELO me\r\nMAIL FROM:<me@a.test>\n");
    assert_eq!(output.status.code(), Some(75), "{}", said(&output));
}

#[test]
fn no_input_is_no_message() {
    let stage = Stage::new(Config::new());
    for (script, code) in [("\"$1\" a@a.test <&-", 66), ("\"$1\" a@a.test </dev/null", 0)] {
        let mut command = shell(script, &stage.program("sendmail"));
        command.envs(stage.environment());
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{script}: {}", said(&output));
    }
    assert_eq!(stage.accepted(), 1);
}

#[test]
fn mailq_newaliases_and_smtp_are_there_by_their_names() {
    let stage = Stage::new(Config::new().set("aliases.later", "[\"a@closed.test\"]"));
    let smtp = b"EHLO me\r\nMAIL FROM:<me@a.test>\r\nRCPT TO:<later>\r\nDATA\r\nSubject: x\r\n\r\nx\r\n.\r\nQUIT\r\n";
    let output = run_to_end(stage.command("sendmail", &["-bs"]), smtp);
    assert!(output.status.success() && said(&output).contains("\n250 2.0.0 "), "{}", said(&output));
    let config = stage.relay.path("postrider.toml");
    let config = config.to_str().unwrap();
    for arguments in [&["-C", config][..], &["-v", "-C", config]] {
        let output = run_to_end(stage.command("mailq", arguments), b"");
        assert!(output.status.success() && said(&output).contains("a@closed.test"), "{}", said(&output));
    }
    for arguments in [&["-q"][..], &["-qRclosed.test"], &["-bp"]] {
        let output = stage.sendmail(&[arguments, &["-C", config]].concat(), "");
        assert!(output.status.success(), "{arguments:?}: {}", said(&output));
    }
    assert_eq!(stage.sendmail(&["-qRno domain", "-C", config], "").status.code(), Some(64));
    assert_eq!(stage.sendmail(&["-bp", "-C", "/nowhere/x.toml"], "").status.code(), Some(78));
    // What the system says is said once.
    let folder = stage.folder.path().join("none.toml");
    std::fs::write(&folder, "[queue]\npath = \"/nowhere/queue.db\"\n").unwrap();
    let output = stage.sendmail(&["-bp", "-C", folder.to_str().unwrap()], "");
    assert_eq!(said(&output).matches("(os error").count(), 1, "{}", said(&output));
    let output = run_to_end(stage.command("newaliases", &[]), b"");
    assert!(output.status.success() && said(&output).contains("[aliases]"), "{}", said(&output));
    let mut command = Command::new(env!("CARGO_BIN_EXE_postrider"));
    command.args(["sendmail", "--help"]);
    assert!(said(&run_to_end(command, b"")).starts_with("usage: sendmail"));
}

/// Over loopback, for a listener that trusts it.
#[test]
fn loopback_will_do_where_there_is_no_socket() {
    let stage = Stage::new(Config::new());
    let mut command = stage.command("sendmail", &["a@a.test"]);
    command.env("POSTRIDER_SUBMIT", stage.relay.clear.to_string());
    assert!(run_to_end(command, b"Subject: x\n\nx\n").status.success());
    // Where a login is wanted it has none.
    let mut command = stage.command("sendmail", &["a@a.test"]);
    command.env("POSTRIDER_SUBMIT", stage.relay.starttls.to_string());
    assert_eq!(run_to_end(command, b"Subject: x\n\nx\n").status.code(), Some(77));
}

// ---- programs that call it --------------------------------------------------------------------------------

/// Runs a caller that must succeed; its mail must arrive.
fn called(stage: &Stage, mut command: Command, input: &str, has: &[&str]) {
    let sent = stage.mx.messages().len();
    command.envs(stage.environment()).current_dir(stage.folder.path()).env("HOME", stage.folder.path());
    let output = run_to_end(command, input.as_bytes());
    assert!(output.status.success(), "{}: {}", output.status, said(&output));
    let message = stage.mx.wait_for_messages(sent + 1, SOON).swap_remove(sent);
    let content = String::from_utf8(message.content).unwrap();
    assert!(has.iter().all(|text| content.contains(text)), "{has:?}: {content}");
}

fn shell(script: &str, sendmail: &Path) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh"]).arg(sendmail);
    command
}

/// As cron(8) of Debian and cronie call it.
#[test]
fn cron_mails_what_a_job_says() {
    let stage = Stage::new(Config::new());
    let mail = "From: root (Cron Daemon)\nTo: root\nSubject: Cron <root@host> echo hello\nContent-Type: text/plain; charset=UTF-8\nX-Cron-Env: <SHELL=/bin/sh>\n\nhello\n.\nend\n";
    for arguments in ["-i -FCronDaemon -B8BITMIME -oem root", "-FCronDaemon -i -odi -oem -oi -t -f root"] {
        let job = shell(&format!("exec \"$1\" {arguments}"), &stage.program("sendmail"));
        called(
            &stage,
            job,
            mail,
            &[
                "Subject: Cron <root@host>",
                "\r\n\r\nhello\r\n.\r\nend\r\n",
                "From: root@relay.test (Cron Daemon)\r\n",
                "To: root@relay.test\r\n",
            ],
        );
    }
}

#[test]
fn git_send_email_hands_patches_over() {
    let program = Path::new("/usr/lib/git-core/git-send-email");
    if !installed("git") || !program.is_file() {
        return skipped("git-send-email is not installed");
    }
    let stage = Stage::new(Config::new());
    let patch = stage.folder.path().join("0001-a.patch");
    let text = "From 0123456789012345678901234567890123456789 Mon Sep 17 00:00:00 2001\nFrom: Me <me@a.test>\nDate: Mon, 30 Nov 2026 01:00:00 +0000\nSubject: [PATCH] a\n\nb\n---\n.\n";
    std::fs::write(&patch, text).unwrap();
    let mut command = Command::new(program);
    let server = format!("--sendmail-cmd={}", stage.program("sendmail").display());
    command.args([&server, "--from=me@a.test", "--to=a@a.test", "--cc=B <b@a.test>", "--confirm=never"]);
    command.args(["--suppress-cc=all", "--no-validate"]).arg(&patch);
    command.env("GIT_CONFIG_NOSYSTEM", "1");
    for who in ["AUTHOR", "COMMITTER"] {
        command.env(format!("GIT_{who}_NAME"), "Me").env(format!("GIT_{who}_EMAIL"), "me@a.test");
    }
    called(&stage, command, "", &["Subject: [PATCH] a\r\n", "---\r\n.\r\n"]);
}

#[test]
fn php_mail_hands_over() {
    if !installed("php") {
        return;
    }
    let stage = Stage::new(Config::new());
    let path = format!("sendmail_path={} -t -i", stage.program("sendmail").display());
    let script = "exit(mail('a@a.test', 'hello', \"one\\n.\\ntwo\", \"From: shop@a.test\\r\\nBcc: b@a.test\", '-fshop@a.test') ? 0 : 1);";
    let mut command = Command::new("php");
    command.args(["-n", "-d", &path, "-r", script]);
    called(&stage, command, "", &["Subject: hello\r\n", "one\r\n.\r\ntwo\r\n", "From: shop@a.test\r\n"]);
    assert_eq!(stage.mx.messages()[0].rcpts.len(), 2);
}

#[test]
fn mailx_and_mutt_hand_over() {
    let stage = Stage::new(Config::new());
    let sendmail = stage.program("sendmail");
    if installed("s-nail") {
        let mut command = Command::new("s-nail");
        command.args(["-:/", "-Sv15-compat", "-S", &format!("mta={}", sendmail.display())]);
        command.args(["-s", "hello", "-r", "me@a.test", "a@a.test"]);
        called(&stage, command, "one\n.\ntwo\n", &["Subject: hello\r\n"]);
    }
    if installed("mutt") {
        let mut command = Command::new("mutt");
        command.args([
            "-n",
            "-F",
            "/dev/null",
            "-e",
            &format!("set sendmail=\"{} -oem -oi\"", sendmail.display()),
        ]);
        command.args(["-e", "set copy=no", "-s", "hello", "--", "a@a.test"]);
        called(&stage, command, "one\n.\ntwo\n", &["Subject: hello\r\n", "one\r\n.\r\ntwo\r\n"]);
    }
}
