//! The transaction without a socket: commands asked for, replies fed, results looked at.

mod any_host;
mod bdat;
mod parameters;
mod single_write;

use crate::config::EightBit;
use crate::delivery::smtp::reply_class::ReplyClass;
use crate::delivery::smtp::transaction::*;
use crate::mail::{
    Address, DeliverBy, Enhanced, Handling, Notify, Priority, Recipient, ReplySource, Ret, address,
};
use crate::queue::{QueuedRecipient, RecipientId};

fn parse(text: &str) -> Address {
    address::parse(text).unwrap()
}

fn recipient(text: &str) -> QueuedRecipient {
    QueuedRecipient::new(RecipientId(1), Recipient::new(parse(text)))
}

fn reply(words: &str) -> Reply {
    let (code, text) = words.split_once(' ').unwrap_or((words, ""));
    let code = code.parse().unwrap();
    match Enhanced::split(code, text) {
        Some((enhanced, rest)) => Reply::new(code, enhanced, "").with_text(rest.to_owned()).from_remote(),
        None => Reply::bare(code, "").with_text(text.to_owned()).from_remote(),
    }
}

const PLAIN: fn() -> Capabilities = Capabilities::default;

fn pipelining() -> Capabilities {
    Capabilities { pipelining: true, ..Capabilities::default() }
}

/// What happens on the host's side.
#[derive(Clone, Copy)]
enum Then<'a> {
    /// The next reply.
    Says(&'a str),
    /// The connection is lost.
    Lost,
}

/// Runs a transaction to its end: what was written, and how it came out.
struct Run {
    /// A string for each write; the content is `<content>`.
    writes: Vec<String>,
    results: Vec<RecipientResult>,
    usable: bool,
    unasked: Option<Failure>,
    batch: PipelineResult,
    bdat: ChunkingResult,
}

/// What came of one recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RecipientState {
    Delivered,
    Relayed,
    Deferred,
    Failed,
    InDoubt,
    NextTransaction,
    HostTrouble,
}

fn state(result: &RecipientResult) -> RecipientState {
    match result {
        RecipientResult::Accepted { relayed: false, .. } => RecipientState::Delivered,
        RecipientResult::Accepted { relayed: true, .. } => RecipientState::Relayed,
        RecipientResult::NextTransaction => RecipientState::NextTransaction,
        RecipientResult::InDoubt(_) => RecipientState::InDoubt,
        RecipientResult::Failed(Failure::Refused { phase, reply }) => {
            match ReplyClass::of(*phase, reply.code) {
                ReplyClass::Transient => RecipientState::Deferred,
                ReplyClass::Permanent => RecipientState::Failed,
                _ => RecipientState::HostTrouble,
            }
        }
        RecipientResult::Failed(Failure::Unsendable { .. }) => RecipientState::Failed,
        RecipientResult::Failed(Failure::Content(_)) => RecipientState::Deferred,
        RecipientResult::Failed(_) => RecipientState::HostTrouble,
    }
}

/// Where it was decided, and in which words.
fn said(result: &RecipientResult) -> (Phase, Reply) {
    match result {
        RecipientResult::Accepted { reply, .. } => (Phase::EndOfData, reply.clone()),
        RecipientResult::Failed(failure) | RecipientResult::InDoubt(failure) => {
            (failure.phase(), failure.reply())
        }
        RecipientResult::NextTransaction => (Phase::Rcpt, Reply::bare(0, "")),
    }
}

impl Run {
    fn states(&self) -> Vec<RecipientState> {
        self.results.iter().map(state).collect()
    }
}

fn run_message(message: &Outgoing<'_>, capabilities: &Capabilities, host: &[Then<'_>]) -> Run {
    run_with(message, capabilities, Profile::FULL, host)
}

/// The same, with these features.
fn run_with(message: &Outgoing<'_>, capabilities: &Capabilities, profile: Profile, host: &[Then<'_>]) -> Run {
    let mut transaction = Transaction::new(message, capabilities, profile, true);
    let mut host = host.iter();
    let mut writes = Vec::new();
    loop {
        let mut out = Vec::new();
        match transaction.next(&mut out) {
            Next::Done => break,
            Next::Exchange => match &out[..] {
                b"RSET\r\n" | b"QUIT\r\n" => {}
                _ => writes.push(String::from_utf8(out).unwrap().replace("\r\n", ";")),
            },
            Next::SingleWrite { bytes } => {
                let commands = String::from_utf8(out).unwrap().replace("\r\n", ";");
                writes.push(format!("{commands}<{bytes} LAST>"));
                transaction.content_sent();
            }
            Next::Content => {
                writes.push("<content>".to_owned());
                transaction.content_sent();
            }
            Next::Chunk { bytes, last } => {
                writes.push(format!("<{bytes}{}>", if last { " LAST" } else { "" }));
                transaction.content_sent();
            }
        }
        while transaction.awaits().is_some() && transaction.must_hear() {
            let closing = match transaction.in_flight.front() {
                Some(Step::Rset) => Some(&Then::Says("250 2.0.0 reset")),
                Some(Step::Quit) => Some(&Then::Says("221 2.0.0 bye")),
                _ => None,
            };
            let then = host.next().or(closing);
            match then.expect("the transaction waits for a reply that the test does not give") {
                Then::Says(words) => transaction.take(reply(words)),
                Then::Lost if transaction.is_unheard() => {
                    transaction.gone_before(Stage::of(Phase::Mail), Fault::Lost(None));
                }
                Then::Lost => transaction.lost(Stage::of(Phase::Mail), Fault::Lost(None)),
            }
        }
    }
    let left: Vec<&str> =
        host.map(|then| if let Then::Says(words) = then { words } else { "lost" }).collect();
    assert!(left.is_empty(), "replies left over after {writes:?}: {left:?}");
    let TransactionResult { results, is_usable, unasked, pipelining, chunking, .. } = transaction.finish();
    assert_eq!(results.len(), message.recipients.len());
    Run { writes, results, usable: is_usable, unasked, batch: pipelining, bdat: chunking }
}

fn run(to: &[&str], capabilities: &Capabilities, host: &[&str]) -> Run {
    let recipients: Vec<QueuedRecipient> = to.iter().map(|text| recipient(text)).collect();
    let recipients: Vec<&QueuedRecipient> = recipients.iter().collect();
    let sender = parse("a@x");
    let host: Vec<Then<'_>> =
        host.iter().map(|words| if *words == "lost" { Then::Lost } else { Then::Says(words) }).collect();
    run_message(&outgoing(&sender, &recipients), capabilities, &host)
}

fn outgoing<'a>(sender: &'a Address, recipients: &'a [&'a QueuedRecipient]) -> Outgoing<'a> {
    Outgoing {
        sender: Some(sender),
        recipients,
        body: Body::SevenBit,
        eight_bit: EightBit::Send,
        smtputf8: false,
        prefix: b"",
        size: 100,
        ret: None,
        envid: None,
        handling: Handling::default(),
        now: 0,
        single_write: false,
    }
}

/// What becomes of the only recipient when the host says `words` at `phase` and the ordinary before it.
fn told_at(phase: Phase, words: &str, capabilities: &Capabilities) -> (RecipientState, bool) {
    let mut host = match phase {
        Phase::Mail => vec![words],
        Phase::Rcpt => vec!["250", words],
        Phase::Data => vec!["250", "250", words],
        _ => vec!["250", "250", "354", words],
    };
    // What a pipelined host goes on to say.
    let dies = matches!(ReplyClass::of(phase, reply(words).code), ReplyClass::Closing | ReplyClass::Invalid);
    if capabilities.pipelining && !dies {
        match phase {
            Phase::Mail => host.extend(["503 5.5.1 MAIL first", "503 5.5.1 MAIL first"]),
            Phase::Rcpt => host.push("554 5.5.1 no valid recipients"),
            _ => {}
        }
    }
    let run = run(&["b@y"], capabilities, &host);
    (state(&run.results[0]), run.usable)
}

#[test]
fn what_a_refusal_does_to_a_recipient_is_the_same_with_and_without_pipelining() {
    use RecipientState::{Deferred, Failed, HostTrouble, InDoubt};
    for capabilities in [PLAIN(), pipelining()] {
        for phase in [Phase::Mail, Phase::Rcpt, Phase::Data, Phase::EndOfData] {
            for (words, state, usable) in [
                ("422 4.2.2 full", Deferred, true),
                ("431 a", Deferred, true),
                ("441 a", Deferred, true),
                ("442 a", Deferred, true),
                ("446 a", Deferred, true),
                ("471 a", Deferred, true),
                ("450 a", Deferred, true),
                ("452 4.3.1 disk", Deferred, true),
                ("499 a", Deferred, true),
                ("500 5.7.1 a", Failed, true),
                ("510 a", Failed, true),
                ("512 a", Failed, true),
                ("523 a", Failed, true),
                ("541 a", Failed, true),
                ("550 5.1.1 a", Failed, true),
                ("552 5.2.2 full", Failed, true),
                ("571 a", Failed, true),
                ("599 a", Failed, true),
                ("421 a", HostTrouble, false),
                ("421 4.7.0 a", HostTrouble, false),
                ("101 a", HostTrouble, false),
                ("399 a", HostTrouble, false),
                ("699 a", HostTrouble, false),
                ("000 a", HostTrouble, false),
            ] {
                // Nonsense in answer to a whole message may have meant yes.
                let nonsense = usable || words.starts_with("421");
                let expected = if phase == Phase::EndOfData && !nonsense { InDoubt } else { state };
                assert_eq!(told_at(phase, words, &capabilities), (expected, usable), "{words} at {phase:?}");
            }
        }
        assert_eq!(
            told_at(Phase::Data, "250 a", &capabilities),
            (HostTrouble, false),
            "yes to DATA is no success"
        );
        assert_eq!(told_at(Phase::EndOfData, "251 a", &capabilities), (RecipientState::Delivered, true));
    }
}

/// What a host answers that cannot take a batch, command after command until the transaction asks no more.
#[test]
fn replies_that_do_not_fit_a_batch_decide_nothing_and_no_content_follows() {
    for host in [
        &["250", "503 5.5.1 bad sequence", "503 5.5.1 RCPT first"][..],
        &["250", "500 what?", "554 5.5.1 no valid recipients"],
        &["250", "250", "503 5.5.1 bad sequence"],
        &["250", "354 go"],
        &["503 5.5.0 improper use of SMTP command pipelining", "503 5.5.1 a", "503 5.5.1 a"],
        &["250", "250", "421 4.7.0 no pipelining, please"],
    ] {
        let run = run(&["b@y"], &pipelining(), host);
        assert_eq!((run.states(), run.usable), (vec![RecipientState::HostTrouble], false), "{host:?}");
        assert!(
            matches!(
                run.batch,
                PipelineResult::Broken(PipelineFault::OutOfSync(_) | PipelineFault::Reported(_))
            ),
            "{host:?}"
        );
    }
    // One of them among good ones: whose it was cannot be told.
    let run = run(&["b@y", "c@y"], &pipelining(), &["250", "250", "503 5.5.1 bad sequence", "354 go"]);
    assert_eq!(run.states(), [RecipientState::HostTrouble; 2]);
    assert_eq!(run.writes.len(), 1, "content after all: {:?}", run.writes);
}

#[test]
fn what_goes_wrong_without_a_batch_or_after_it_is_no_sign() {
    for (capabilities, host, batch) in [
        (PLAIN(), &["250", "503 5.5.1 bad sequence"][..], PipelineResult::Unused),
        (PLAIN(), &["250", "lost"], PipelineResult::Unused),
        (pipelining(), &["250", "250", "421 4.3.2 closing"], PipelineResult::Unused),
        (pipelining(), &["250", "250", "354", "lost"], PipelineResult::Unused),
        (pipelining(), &["250", "550 5.1.1 no", "503 5.5.1 RCPT first"], PipelineResult::InOrder),
        (pipelining(), &["250", "550 5.1.1 no", "354 go", "554 nobody"], PipelineResult::InOrder),
        (pipelining(), &["250", "250", "354", "250 2.0.0 ok"], PipelineResult::InOrder),
    ] {
        assert_eq!(run(&["b@y"], &capabilities, host).batch, batch, "{host:?}");
    }
    let lost = run(&["b@y", "c@y"], &pipelining(), &["250", "550 5.1.1 no", "lost"]);
    assert!(matches!(lost.batch, PipelineResult::Broken(PipelineFault::NoReply(_))));
    assert_eq!(
        lost.states(),
        [RecipientState::Failed, RecipientState::HostTrouble],
        "what was answered holds"
    );
    let nobody_left = run(&["b@y"], &pipelining(), &["250", "550 5.1.1 no", "lost"]);
    assert_eq!(nobody_left.batch, PipelineResult::Unused);
}

#[test]
fn with_pipelining_the_commands_go_out_together() {
    let run = run(&["b@y", "c@y"], &pipelining(), &["250", "250", "251 forwarded", "354", "250 2.0.0 ok"]);
    assert_eq!(run.writes, ["MAIL FROM:<a@x>;RCPT TO:<b@y>;RCPT TO:<c@y>;DATA;", "<content>"]);
    assert_eq!(run.states(), [RecipientState::Delivered; 2]);
    assert_eq!(said(&run.results[1]).1, reply("250 2.0.0 ok"));
    assert!(run.usable);
}

#[test]
fn without_pipelining_nothing_is_sent_that_the_last_reply_made_pointless() {
    let all = run(&["b@y", "c@y"], &PLAIN(), &["250", "550 no", "250", "354", "250"]);
    assert_eq!(all.writes, ["MAIL FROM:<a@x>;", "RCPT TO:<b@y>;", "RCPT TO:<c@y>;", "DATA;", "<content>"]);
    assert_eq!(all.states(), [RecipientState::Failed, RecipientState::Delivered]);
    assert_eq!(run(&["b@y"], &PLAIN(), &["550 no"]).writes, ["MAIL FROM:<a@x>;"]);
    let none = run(&["b@y"], &PLAIN(), &["250", "550 no"]);
    assert_eq!(none.writes, ["MAIL FROM:<a@x>;", "RCPT TO:<b@y>;"]);
    assert!(none.usable);
}

#[test]
fn many_recipients_are_pipelined_in_bounded_writes() {
    let to: Vec<String> = (0..300).map(|number| format!("r{number}@y")).collect();
    let to: Vec<&str> = to.iter().map(String::as_str).collect();
    let host = [&["250"; 301][..], &["354", "250"]].concat();
    let run = run(&to, &pipelining(), &host);
    let commands: Vec<usize> = run.writes.iter().map(|write| write.matches(';').count()).collect();
    assert_eq!(commands, [128, 128, 46, 0]);
    assert_eq!(run.states(), [RecipientState::Delivered; 300]);
}

/// What is written last, with the end of the content where the host takes commands together.
fn written_last(capabilities: &Capabilities, profile: Profile, size: u64, host: &[&str]) -> (String, String) {
    let (sender, to) = (parse("a@x"), recipient("b@y"));
    let to = [&to];
    let message = Outgoing { size, ..outgoing(&sender, &to) };
    let mut transaction = Transaction::new(&message, capabilities, profile, true);
    let (mut behind, mut last, mut host) = (Vec::new(), Vec::new(), host.iter());
    loop {
        let mut out = Vec::new();
        match transaction.next(&mut out) {
            Next::Done => break,
            Next::Exchange => last = out,
            Next::Content | Next::Chunk { last: true, .. } => {
                transaction.write_behind_end(&mut behind);
                transaction.content_sent();
            }
            Next::Chunk { .. } | Next::SingleWrite { .. } => transaction.content_sent(),
        }
        while transaction.awaits().is_some() && transaction.must_hear() {
            transaction.take(reply(host.next().unwrap_or(&"250")));
        }
    }
    (String::from_utf8(behind).unwrap(), String::from_utf8(last).unwrap())
}

#[test]
fn every_transaction_is_closed_and_with_quit_where_it_is_the_last_on_its_connection() {
    const DATA: [&str; 4] = ["250", "250", "354", "250"];
    const LARGE: u64 = 2 * CHUNK_BYTES;
    let chunking = Capabilities { chunking: true, ..pipelining() };
    let one_by_one = Profile::ONE_BY_ONE;
    for (capabilities, profile, size, host, behind, last) in [
        (pipelining(), Profile::FULL, 100, &DATA[..], "RSET\r\n", None),
        (PLAIN(), Profile::FULL, 100, &DATA, "", Some("RSET\r\n")),
        (pipelining(), one_by_one, 100, &DATA, "", Some("QUIT\r\n")),
        (chunking.clone(), one_by_one, LARGE, &DATA, "", Some("QUIT\r\n")),
        (chunking, Profile::FULL, LARGE, &["250"; 4], "QUIT\r\n", None),
        (pipelining(), Profile::FULL, 100, &["250", "550", "554"], "", Some("RSET\r\n")),
        (PLAIN(), Profile::FULL, 100, &["550"], "", Some("RSET\r\n")),
        (PLAIN(), one_by_one, 100, &["550"], "", Some("QUIT\r\n")),
        (PLAIN(), Profile::FULL, 100, &["421"], "", Some("MAIL FROM:<a@x>\r\n")),
    ] {
        let told = written_last(&capabilities, profile, size, host);
        assert_eq!(told.0, behind, "{host:?}");
        assert!(last.is_none_or(|last| told.1 == last), "{host:?} {told:?}");
    }
}

/// By their number the replies up to the content's were those to its commands. The answer to RSET shows whether that is
/// so, and what it may have been before.
#[test]
fn what_is_said_to_rset_shows_whether_the_answer_before_was_the_contents() {
    use RecipientState::{Deferred, Delivered, Failed, InDoubt};
    for capabilities in [PLAIN(), pipelining()] {
        for (content, rset, expected, usable) in [
            ("250 ok", "250 reset", Delivered, true),
            ("250 ok", "550 5.7.1 spam", InDoubt, false),
            ("250 ok", "451 4.7.1 later", InDoubt, false),
            ("250 ok", "354 go", InDoubt, false),
            ("250 ok", "500 5.5.1 bad sequence", InDoubt, false),
            ("250 ok", "502 what?", InDoubt, false),
            ("550 5.7.1 spam", "250 reset", Failed, true),
            ("451 later", "250 reset", Deferred, true),
            ("550 5.7.1 spam", "503 what?", InDoubt, false),
            // A host that has had enough of this connection, or closes it behind its answer.
            ("250 ok", "421 4.7.0 enough", Delivered, false),
            ("250 ok", "lost", Delivered, false),
        ] {
            let run = run(&["b@y"], &capabilities, &["250", "250", "354", content, rset]);
            assert_eq!((run.states(), run.usable), (vec![expected], usable), "{content}, {rset}");
            assert_eq!(run.unasked.is_some(), expected == InDoubt, "{content}, {rset}");
        }
    }
    // Without content nothing can be in doubt; but nobody is refused by a reply that may be another's.
    let run = run(&["b@y", "c@y"], &pipelining(), &["250", "250", "250", "550 5.1.1 who?", "354 go"]);
    assert_eq!((run.states(), run.usable), (vec![RecipientState::HostTrouble; 2], false));
}

/// Each command in its own time: behind the content only its answer has a longer one (RFC 5321 §4.5.3.2.6).
#[test]
fn the_answer_to_rset_is_not_waited_for_as_long_as_that_to_the_content() {
    let (sender, to, capabilities) = (parse("a@x"), recipient("b@y"), pipelining());
    let to = [&to];
    let message = outgoing(&sender, &to);
    let mut transaction = Transaction::new(&message, &capabilities, Profile::FULL, true);
    assert_eq!(transaction.next(&mut Vec::new()), Next::Exchange);
    let mut waits = Vec::new();
    for words in ["250", "250", "354 go"] {
        waits.extend(transaction.waits_as_for());
        transaction.take(reply(words));
    }
    assert_eq!(transaction.next(&mut Vec::new()), Next::Content);
    transaction.content_sent();
    for words in ["250 ok", "250 reset"] {
        waits.extend(transaction.waits_as_for());
        transaction.take(reply(words));
    }
    assert_eq!(waits, [Phase::Mail, Phase::Rcpt, Phase::Data, Phase::EndOfData, Phase::Mail]);
}

/// Where each message has a connection of its own the replies are counted from the content's to the last one.
#[test]
fn with_quit_the_content_is_taken_where_all_replies_from_its_own_on_are_2xx() {
    use RecipientState::{Delivered, Failed, HostTrouble, InDoubt};
    let told = |before: &[&str], quit: Result<&str, Fault>, behind: &[&str], ended: bool| {
        let (sender, to, capabilities) = (parse("a@x"), recipient("b@y"), PLAIN());
        let to = [&to];
        let message = outgoing(&sender, &to);
        let mut transaction = Transaction::new(&message, &capabilities, Profile::ONE_BY_ONE, true);
        let mut before = before.iter();
        while transaction.in_flight.front() != Some(&Step::Quit) {
            if transaction.next(&mut Vec::new()) == Next::Content {
                transaction.content_sent();
            }
            if transaction.in_flight.front() != Some(&Step::Quit) {
                transaction.take(reply(before.next().unwrap()));
            }
        }
        match quit {
            Ok(words) => transaction.take(reply(words)),
            Err(fault) => transaction.lost(Stage::of(Phase::Mail), fault),
        }
        if transaction.has_quit().is_some() {
            transaction.take_behind_quit(behind.iter().map(|words| reply(words)).collect(), ended);
        }
        let TransactionResult { results, is_usable, unasked, .. } = transaction.finish();
        assert!(!is_usable);
        (state(&results[0]), unasked.is_some())
    };
    let taken = &["250", "250", "354", "250 ok"][..];
    let lost = || Err(Fault::Lost(None));
    for (quit, behind, ended, expected) in [
        (Ok("221 bye"), &[][..], true, (Delivered, false)),
        (Ok("221 bye"), &[], false, (Delivered, false)),
        (Ok("421 enough"), &[], true, (Delivered, false)),
        (Ok("421 enough"), &["550 no"], true, (InDoubt, true)),
        (lost(), &[], true, (Delivered, false)),
        (Err(Fault::OutOfTurn), &[], true, (Delivered, true)),
        (Ok("250 ok"), &[], true, (Delivered, false)),
        (Ok("250 ok"), &[], false, (InDoubt, true)),
        (Ok("250 ok"), &["221 bye"], false, (Delivered, true)),
        (Ok("250 ok"), &["250 ok", "221 bye"], true, (Delivered, true)),
        (Ok("221 bye"), &["250 ok"], true, (Delivered, true)),
        (Ok("221 bye"), &["250 ok"], false, (InDoubt, true)),
        (Ok("250 ok"), &["550 no", "221 bye"], true, (InDoubt, true)),
        (Ok("221 bye"), &["550 no"], true, (InDoubt, true)),
        (Ok("550 no"), &[], true, (InDoubt, true)),
    ] {
        let told = told(taken, quit.clone(), behind, ended);
        assert_eq!(told, expected, "{quit:?}, {behind:?}, ended: {ended}");
    }
    // Without content, a refusal may be another command's.
    let refused = &["250", "550 who?"][..];
    assert_eq!(told(refused, Ok("221 bye"), &[], true), (Failed, false));
    assert_eq!(told(refused, Ok("250 ok"), &["221 bye"], true), (HostTrouble, true));
    assert_eq!(told(refused, Ok("421 enough"), &[], true), (HostTrouble, true));
}

#[test]
fn data_accepted_for_nobody_is_ended_with_the_dot_alone() {
    // RFC 2920 §3.1. What the host says to it changes nothing, not even a yes.
    for last in ["250 took nothing", "554 nobody", "451 later"] {
        let run = run(&["b@y"], &pipelining(), &["250", "550 no", "354 go", last]);
        assert_eq!(run.writes[1..], [".;"]);
        assert_eq!((run.states(), run.usable), (vec![RecipientState::Failed], true), "{last}");
    }
    let run = run(&["b@y"], &pipelining(), &["451 later", "503 a", "354 go", "250"]);
    assert_eq!(run.states(), [RecipientState::Deferred]);
}

#[test]
fn a_refused_mail_stands_whatever_the_pipelined_replies_after_it_say() {
    let run = run(&["b@y"], &pipelining(), &["550 5.7.1 no", "250 ok", "354 go", "250 taken"]);
    assert_eq!((run.states(), said(&run.results[0]).0), (vec![RecipientState::Failed], Phase::Mail));
    assert_eq!(run.writes[1..], [".;"], "no content for a message that was refused");
}

#[test]
fn a_closing_host_keeps_what_it_decided_before() {
    use RecipientState::{Failed, HostTrouble};
    let run = run(&["b@y", "c@y", "d@y", "e@y"], &pipelining(), &["250", "250", "550 no", "421 busy"]);
    assert_eq!(run.states(), [HostTrouble, Failed, HostTrouble, HostTrouble]);
    assert_eq!((&said(&run.results[0]).1, said(&run.results[0]).0), (&reply("421 busy"), Phase::Rcpt));
    assert!(!run.usable);
}

#[test]
fn only_the_number_of_recipients_sends_them_into_the_next_transaction() {
    use RecipientState::{Deferred, Delivered, Failed, NextTransaction};
    for (says, state) in [
        ("552 5.5.3 too many", NextTransaction),
        ("552", NextTransaction),
        ("452", NextTransaction),
        ("452 4.5.3 too many", NextTransaction),
        ("452 4.2.2 mailbox full", Deferred),
        ("451", Deferred),
        ("550", Failed),
    ] {
        let second = run(&["b@y", "c@y"], &pipelining(), &["250", "250", says, "354", "250"]);
        assert_eq!(second.states(), [Delivered, state], "{says}");
    }
    let first = run(&["b@y", "c@y"], &pipelining(), &["250", "552 5.2.2 full", "250", "354", "250"]);
    assert_eq!(first.states(), [Failed, Delivered]);
}

#[test]
fn a_lost_connection_is_in_doubt_only_once_all_was_sent() {
    for (host, expected, phase) in [
        (&["lost"][..], RecipientState::HostTrouble, Phase::Mail),
        (&["250", "lost"], RecipientState::HostTrouble, Phase::Rcpt),
        (&["250", "250", "lost"], RecipientState::HostTrouble, Phase::Data),
        (&["250", "250", "354", "lost"], RecipientState::InDoubt, Phase::EndOfData),
    ] {
        let run = run(&["b@y"], &pipelining(), host);
        assert_eq!((state(&run.results[0]), said(&run.results[0]).0, run.usable), (expected, phase, false));
    }
    let (sender, to, capabilities) = (parse("a@x"), recipient("b@y"), pipelining());
    let to = [&to];
    let message = outgoing(&sender, &to);
    let mut transaction = Transaction::new(&message, &capabilities, Profile::FULL, true);
    transaction.next(&mut Vec::new());
    for words in ["250", "250", "354"] {
        transaction.take(reply(words));
    }
    transaction.lost(Stage::of(Phase::Mail), Fault::Lost(None));
    let cut_off = &transaction.finish().results[0];
    assert_eq!(
        (state(cut_off), said(cut_off).0),
        (RecipientState::HostTrouble, Phase::EndOfData),
        "lost within the content"
    );
    for (early, expected) in [
        ("552 5.3.4 big", RecipientState::Failed),
        ("451 a", RecipientState::Deferred),
        ("421 a", RecipientState::HostTrouble),
        ("250 a", RecipientState::HostTrouble),
    ] {
        let mut transaction = Transaction::new(&message, &capabilities, Profile::FULL, true);
        transaction.next(&mut Vec::new());
        for words in ["250", "250", "354"] {
            transaction.take(reply(words));
        }
        assert_eq!(transaction.next(&mut Vec::new()), Next::Content);
        transaction.take_early(reply(early));
        assert_eq!(state(&transaction.finish().results[0]), expected, "{early} before the content's end");
    }
}
