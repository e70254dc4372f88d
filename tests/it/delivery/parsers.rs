//! Other people's programs read our reports: Python's e-mail package, flufl.bounce (Mailman's) and Perl's Sisimai.
//! Each must find the recipient and tell a failure from a warning, Sisimai the reason too. Skipped where they are
//! not installed.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use crate::harness::client::mail;
use crate::harness::fakemx::{Act, At, SOON, Script};
use crate::harness::relay::{Config, Relay};
use crate::harness::sender::{SENDER, world_with_sender};
use crate::harness::skipped::skipped;

/// What Python's e-mail package reads: `file|final recipient|action|status`, and no defect anywhere.
const EMAIL: &str = r#"
import email, email.policy, sys
for file in sys.argv[1:]:
    report = email.message_from_binary_file(open(file, "rb"), policy=email.policy.default)
    assert report.get_content_type() == "multipart/report" and report["Auto-Submitted"] == "auto-replied"
    for part in report.walk():
        assert not part.defects, (file, part.get_content_type(), part.defects)
    human, status, returned = report.iter_parts()
    assert "queue id" in " ".join(human.get_content().split()), human.get_content()
    assert status.get_content_type() == "message/delivery-status"
    message, recipient = status.get_payload()
    assert message["Reporting-MTA"] == "dns; relay.test" and message["Arrival-Date"]
    kind, address = recipient["Final-Recipient"].split("; ")
    assert kind == ("utf-8" if "\\" in address else "rfc822"), recipient["Final-Recipient"]
    print(file, address, recipient["Action"], recipient["Status"], sep="|")
"#;

/// What flufl.bounce says of each file: `file:temporary addresses:permanent addresses`.
const FLUFL: &str = r#"
import email, sys
from flufl.bounce import all_failures
for file in sys.argv[1:]:
    report = email.message_from_binary_file(open(file, "rb"))
    temporary, permanent = all_failures(report)
    show = lambda found: ",".join(sorted(address.decode() for address in found))
    print(file, show(temporary), show(permanent), sep="|")
"#;

/// What Sisimai says: a line `file|recipient|reason|status|action` for each recipient it finds.
const SISIMAI: &str = r#"
for my $file (@ARGV) {
        my $read = Sisimai->can("rise") || Sisimai->can("make");
    my $found = Sisimai->$read($file, delivered => 1) || [];
    print join("|", $file, $_->recipient->address, $_->reason, $_->deliverystatus, $_->action), "\n" for @$found;
}
"#;

/// A report: whom it is about and what was said of them, and what others are to see in it.
struct Case {
    /// How RCPT names the recipient, and with which parameters.
    recipient: &'static str,
    parameters: &'static str,
    /// Nothing where no host of that domain says anything.
    said: &'static str,
    /// What flufl.bounce is to call it.
    flufl: Bounced,
    /// What Sisimai may call it: its versions differ.
    reasons: &'static [&'static str],
    status: &'static str,
    action: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Bounced {
    Permanent,
    Temporary,
    /// Nothing that ends a subscription.
    Neither,
}

const fn failed(
    recipient: &'static str,
    said: &'static str,
    reasons: &'static [&'static str],
    status: &'static str,
) -> Case {
    let (parameters, flufl, action) = (" NOTIFY=FAILURE", Bounced::Permanent, "failed");
    Case { recipient, parameters, said, flufl, reasons, status, action }
}

const POLICY: &[&str] = &["policyviolation", "securityerror", "rejected", "blocked", "filtered"];

const CASES: &[Case] = &[
    failed("nobody@a.test", "550 5.1.1 <nobody@a.test>: no such user here", &["userunknown"], "5.1.1"),
    failed("lines@a.test", "550-5.1.1 of several lines\r\n550 5.1.1 user unknown", &["userunknown"], "5.1.1"),
    failed("full@a.test", "552 5.2.2 the mailbox is full", &["mailboxfull"], "5.2.2"),
    failed("big@a.test", "552 5.3.4 message size exceeds fixed limit", &["mesgtoobig"], "5.3.4"),
    failed("policy@a.test", "550 5.7.1 refused by our policy", POLICY, "5.7.1"),
    failed("you@nosuch.test", "", &["hostunknown"], "5.1.2"),
    // A null MX.
    failed("you@nomail.test", "", &["notaccept"], "5.1.10"),
    // A host that is never there, until the end of the lifetime.
    failed("late@gone.test", "", &["expired", "networkerror"], "4.4.1"),
    // A domain beyond ASCII stands in its A-labels.
    failed("bob@b\u{fc}cher.test", "550 5.1.1 no such user", &["userunknown"], "5.1.1"),
    // A local part beyond it is more than flufl.bounce and Sisimai understand: they keep silent.
    Case { flufl: Bounced::Neither, ..failed("j\u{f6}rg@a.test", "550 5.1.1 no such user", &[], "5.1.1") },
    Case {
        parameters: " NOTIFY=DELAY",
        flufl: Bounced::Temporary,
        action: "delayed",
        ..failed("slow@a.test", "451 4.3.2 busy, come back later", &["notaccept", "systemerror"], "4.3.2")
    },
    Case {
        parameters: " NOTIFY=SUCCESS",
        flufl: Bounced::Neither,
        action: "relayed",
        ..failed("there@plain.test", "", &["delivered"], "2.0.0")
    },
];

impl Case {
    /// The address as the report's field for programs has it.
    fn shown(&self) -> String {
        self.recipient.replace('\u{f6}', "\\x{F6}").replace("b\u{fc}cher", "xn--bcher-kva")
    }
}

/// The relay that the reports come from, and each case's report in a file.
fn reports() -> (Relay, BTreeMap<String, PathBuf>) {
    let (mut world, home) = world_with_sender();
    let mut script = Script::new().offering(&["PIPELINING", "8BITMIME", "SMTPUTF8", "DSN"]);
    for case in CASES.iter().filter(|case| !case.said.is_empty()) {
        script = script.on(At::Rcpt(case.recipient), Act::Say(case.said));
    }
    let _mx = world.host("a.test", script);
    let books = Script::new().offering(&["SMTPUTF8"]);
    let books = books.on(At::Rcpt("bob@"), Act::Say("550 5.1.1 no such user"));
    let _books = world.host("xn--bcher-kva.test", books);
    let _plain = world.host("plain.test", Script::new().offering(&["PIPELINING"]));
    world.zone(|zone| zone.null_mx("nomail.test"));
    world.closed_mx("gone.test", 10, "mx.gone.test");
    let config = Config::new().retry(&["1s"]);
    let config = config.set("queue.lifetime", "\"4s\"").set("queue.delay_warning", "\"1s\"");
    let relay = world.relay(config);
    let mut client = relay.client();
    for case in CASES {
        client.expect(&format!("MAIL FROM:<{SENDER}> SMTPUTF8"), "250");
        client.expect(&format!("RCPT TO:<{}>{}", case.recipient, case.parameters), "250");
        client.expect("DATA", "354");
        client.write(&mail("for others to read")).unwrap();
        client.expect(".", "250");
    }
    let mut files = BTreeMap::new();
    for message in home.wait_for_messages(CASES.len(), SOON) {
        let text = String::from_utf8_lossy(&message.content).into_owned();
        let about = |case: &&Case| {
            text.contains(&format!("-Recipient: rfc822; {}\r\n", case.shown()))
                || text.contains(&format!("-Recipient: utf-8; {}\r\n", case.shown()))
        };
        let case = CASES.iter().find(about).unwrap_or_else(|| panic!("about nobody:\n{text}"));
        let file = relay.path(&format!("report-{}.eml", files.len()));
        std::fs::write(&file, &message.content).unwrap();
        files.insert(case.recipient.to_owned(), file);
    }
    (relay, files)
}

/// The output of a script, a line each; none where `probe` says that what it needs is missing.
fn run(probe: &[&str], script: &[&str], files: &BTreeMap<String, PathBuf>) -> Option<Vec<String>> {
    let found = Command::new(probe[0]).args(&probe[1..]).output();
    if !found.is_ok_and(|output| output.status.success()) {
        skipped(&format!("{probe:?}: not installed"));
        return None;
    }
    let output = Command::new(probe[0]).args(script).args(files.values()).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{err}\n{out}");
    Some(out.lines().map(str::to_owned).collect())
}

#[test]
fn other_programs_recognise_recipient_and_reason() {
    let (_relay, files) = reports();
    let read = |case: &Case| std::fs::read_to_string(&files[case.recipient]).unwrap();
    let lines_of = |lines: &[String], case: &Case| -> Vec<Vec<String>> {
        let prefix = format!("{}|", files[case.recipient].display());
        let found = lines.iter().filter_map(|line| line.strip_prefix(&prefix));
        found.map(|line| line.split('|').map(str::to_owned).collect()).collect()
    };
    let probe = ["python3", "-c", "import email.policy"];
    if let Some(lines) = run(&probe, &["-c", EMAIL], &files) {
        for case in CASES {
            let expected = [case.shown(), case.action.to_owned(), case.status.to_owned()];
            assert_eq!(lines_of(&lines, case), [expected], "{}", read(case));
        }
    }
    let probe = ["python3", "-c", "import flufl.bounce"];
    if let Some(lines) = run(&probe, &["-c", FLUFL], &files) {
        for case in CASES {
            let expected = match case.flufl {
                Bounced::Permanent => [String::new(), case.shown()],
                Bounced::Temporary => [case.shown(), String::new()],
                Bounced::Neither => [String::new(), String::new()],
            };
            assert_eq!(lines_of(&lines, case), [expected], "{}", read(case));
        }
    }
    let probe = ["perl", "-MSisimai", "-e", "0"];
    if let Some(lines) = run(&probe, &["-MSisimai", "-e", SISIMAI], &files) {
        for case in CASES {
            let found = lines_of(&lines, case);
            if case.reasons.is_empty() {
                assert_eq!(found, [[""; 0]; 0], "{}", read(case));
                continue;
            }
            let [found] = found.as_slice() else { panic!("{found:?}:\n{}", read(case)) };
            let [recipient, reason, status, action] = found.as_slice() else { panic!("{found:?}") };
            assert_eq!(
                [recipient, status, action],
                [&case.shown(), case.status, case.action],
                "{}",
                read(case)
            );
            assert!(case.reasons.contains(&reason.as_str()), "{found:?}:\n{}", read(case));
        }
    }
}
