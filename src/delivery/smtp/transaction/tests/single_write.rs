//! Commands and content in one write: when, and what answers mean that come when all has been said.

use crate::delivery::smtp::transaction::tests::*;

fn may() -> Capabilities {
    Capabilities { chunking: true, ..pipelining() }
}

/// A message of this size that may go in one go, to these recipients; "lost" is the end of the connection.
fn run_of(size: u64, to: &[&str], capabilities: &Capabilities, host: &[&str]) -> Run {
    let recipients: Vec<QueuedRecipient> = to.iter().map(|text| recipient(text)).collect();
    let recipients: Vec<&QueuedRecipient> = recipients.iter().collect();
    let sender = parse("a@x");
    let message = Outgoing { size, single_write: true, ..outgoing(&sender, &recipients) };
    let host: Vec<Then<'_>> =
        host.iter().map(|words| if *words == "lost" { Then::Lost } else { Then::Says(words) }).collect();
    run_message(&message, capabilities, &host)
}

#[test]
fn small_content_goes_with_its_commands_where_both_extensions_are_offered() {
    let run =
        run_of(100, &["b@y", "c@y"], &may(), &["250 2.1.0", "250 2.1.5", "250 2.1.5", "250 2.0.0 queued"]);
    assert_eq!(run.writes, ["MAIL FROM:<a@x>;RCPT TO:<b@y>;RCPT TO:<c@y>;<100 LAST>"]);
    assert_eq!(run.states(), [RecipientState::Delivered; 2]);
    assert!(run.usable);
    assert_eq!((run.batch, run.bdat), (PipelineResult::InOrder, ChunkingResult::Taken));
    let data = ["250", "250", "354", "250"];
    for (size, capabilities) in [
        (SINGLE_WRITE_BYTES_MAX + 1, may()),
        (100, pipelining()),
        (100, Capabilities { chunking: true, ..PLAIN() }),
    ] {
        assert_eq!(run_of(size, &["b@y"], &capabilities, &data).writes.last().unwrap(), "<content>");
    }
}

#[test]
fn each_recipient_has_the_answer_that_was_meant_for_it() {
    let to = ["b@y", "c@y", "d@y"];
    let run =
        run_of(100, &to, &may(), &["250 2.1.0", "550 5.1.1 no", "250 2.1.5", "451 4.2.0 later", "250 2.6.0"]);
    assert_eq!(run.states(), [RecipientState::Failed, RecipientState::Delivered, RecipientState::Deferred]);
    // Sent for nobody: whatever is said to the content, RSET clears it away.
    for words in ["503 5.5.1 no recipients", "554 5.5.1 no recipients", "250 2.0.0 well"] {
        let run = run_of(100, &["b@y"], &may(), &["250 2.1.0", "550 5.1.1 no", words]);
        assert_eq!((run.states(), run.usable), (vec![RecipientState::Failed], true), "{words}");
        assert!(!matches!(run.bdat, ChunkingResult::Refused(_)), "{words}");
    }
    let run = run_of(100, &["b@y"], &may(), &["550 5.7.1 not you", "503 MAIL first", "503 RCPT first"]);
    assert_eq!((run.states(), said(&run.results[0]).0), (vec![RecipientState::Failed], Phase::Mail));
}

/// What is said last, all before it taken.
#[test]
fn the_answer_to_the_content_means_what_it_means_behind_the_dot() {
    use RecipientState::{Deferred, Failed, HostTrouble, InDoubt};
    for (words, state, shuns) in [
        ("451 4.3.0 later", Deferred, false),
        ("552 5.3.4 too big", Failed, false),
        ("554 5.7.1 no", Failed, false),
        ("500 5.5.2 what?", HostTrouble, true),
        ("502 5.5.1 what?", HostTrouble, true),
        ("421 4.3.2 closing", HostTrouble, false),
        ("354 go ahead", InDoubt, false),
        ("lost", InDoubt, false),
    ] {
        let run = run_of(100, &["b@y"], &may(), &["250 2.1.0", "250 2.1.5", words]);
        assert_eq!(
            (run.states(), matches!(run.bdat, ChunkingResult::Refused(_))),
            (vec![state], shuns),
            "{words}"
        );
        assert_eq!(said(&run.results[0]).0, Phase::EndOfData, "{words}");
    }
}

/// All of it is at the host: unless it had closed the connection before, it may have taken the message.
#[test]
fn an_end_in_the_middle_leaves_a_doubt_unless_nothing_was_heard_at_all() {
    let run = run_of(100, &["b@y"], &may(), &["lost"]);
    assert_eq!((run.states(), said(&run.results[0]).0), (vec![RecipientState::HostTrouble], Phase::Mail));
    let run = run_of(100, &["b@y"], &may(), &["250 2.1.0", "lost"]);
    assert_eq!(run.states(), [RecipientState::InDoubt]);
    // Silence is no end: a host that keeps its replies back may be at work on the content.
    let (sender, to) = (parse("a@x"), recipient("b@y"));
    let to = [&to];
    let message = Outgoing { single_write: true, ..outgoing(&sender, &to) };
    let capabilities = may();
    let mut transaction = Transaction::new(&message, &capabilities, Profile::FULL, true);
    assert!(matches!(transaction.next(&mut Vec::new()), Next::SingleWrite { bytes: 100 }));
    transaction.content_sent();
    transaction.lost(Stage::of(Phase::Mail), Fault::Lost(None));
    assert_eq!(state(&transaction.finish().results[0]), RecipientState::InDoubt);
    // Written in part.
    let mut transaction = Transaction::new(&message, &capabilities, Profile::FULL, true);
    transaction.next(&mut Vec::new());
    transaction.lost(Stage::of(Phase::Mail), Fault::Lost(None));
    assert_eq!(state(&transaction.finish().results[0]), RecipientState::HostTrouble);
}

/// A host that says a word too many: what RCPT was told comes where the content's answer belongs. Nothing may be
/// held to be delivered by it.
#[test]
fn the_reply_to_rcpt_is_never_taken_for_the_contents() {
    for host in [&["250 2.0.0 too many"][..], &["250 2.1.0", "250 2.1.0", "250 2.1.5"], &["250"]] {
        let run = run_of(100, &["b@y"], &may(), host);
        assert_eq!((run.states(), run.usable), (vec![RecipientState::InDoubt], false), "{host:?}");
        assert!(run.unasked.is_some(), "{host:?}");
    }
    let run = run_of(100, &["b@y"], &may(), &["250 2.1.0 ok", "250 2.1.5 ok", "250 2.6.0 queued"]);
    assert_eq!(run.states(), [RecipientState::Delivered]);
}

/// Replies that fit no command: nobody is refused by one, and nobody knows what became of the content.
#[test]
fn a_muddle_is_a_doubt() {
    let run = run_of(100, &["b@y"], &may(), &["250 2.1.0", "354 what?"]);
    assert_eq!(run.states(), [RecipientState::InDoubt]);
    assert!(matches!(run.batch, PipelineResult::Broken(_)) && !run.usable);
}
