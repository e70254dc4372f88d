//! Large content by BDAT: which chunks go out when, and what every answer to each of them means.

use crate::delivery::smtp::transaction::tests::*;

const MIB: u64 = CHUNK_BYTES;
/// Three full chunks and one of 5 bytes.
const SIZE: u64 = 3 * MIB + 5;
const CHUNKS: usize = 4;
/// BDAT is for content that has no other way.
const SPARED: Profile = Profile { chunking: false, ..Profile::FULL };

fn chunking(pipelining: bool) -> Capabilities {
    Capabilities { chunking: true, pipelining, ..Capabilities::default() }
}

/// One recipient, content of this size, replies in turn; "lost" is the end of the connection.
fn run_sized(size: u64, capabilities: &Capabilities, host: &[&str]) -> Run {
    run_at(Profile::FULL, size, capabilities, host)
}

fn run_at(profile: Profile, size: u64, capabilities: &Capabilities, host: &[&str]) -> Run {
    let (sender, to) = (parse("a@x"), recipient("b@y"));
    let to = [&to];
    let message = Outgoing { size, ..outgoing(&sender, &to) };
    let host: Vec<Then<'_>> =
        host.iter().map(|words| if *words == "lost" { Then::Lost } else { Then::Says(words) }).collect();
    run_with(&message, capabilities, profile, &host)
}

#[test]
fn only_what_is_larger_than_a_chunk_goes_by_bdat_and_only_where_it_is_offered() {
    let by_bdat = |size, capabilities: &Capabilities, host: &[&str]| {
        let run = run_sized(size, capabilities, host);
        assert_eq!(run.states(), [RecipientState::Delivered]);
        run.writes.last().unwrap() != "<content>"
    };
    for pipelining in [true, false] {
        let data = ["250", "250", "354", "250"];
        assert!(!by_bdat(MIB, &chunking(pipelining), &data));
        assert!(!by_bdat(SIZE, &Capabilities { pipelining, ..PLAIN() }, &data));
        let spared = run_at(SPARED, SIZE, &chunking(pipelining), &data);
        assert_eq!(spared.writes.last().unwrap(), "<content>");
        assert!(by_bdat(MIB + 1, &chunking(pipelining), &["250", "250", "250", "250"]));
    }
}

#[test]
fn chunks_follow_the_replies_to_rcpt_and_the_last_the_replies_to_all_before_it() {
    let ok = ["250"; 2 + CHUNKS];
    let piped = run_sized(SIZE, &chunking(true), &ok);
    assert_eq!(
        piped.writes,
        ["MAIL FROM:<a@x>;RCPT TO:<b@y>;", "<1048576>", "<1048576>", "<1048576>", "<5 LAST>"]
    );
    let one_by_one = run_sized(SIZE, &chunking(false), &ok);
    assert_eq!(one_by_one.writes.len(), piped.writes.len() + 1, "MAIL and RCPT in a write each");
    for run in [piped, one_by_one] {
        assert_eq!(run.states(), [RecipientState::Delivered]);
        assert!(!run.usable, "QUIT is behind it");
    }
}

/// How many chunks are under way, as the connection would write them to a host that answers nothing before it
/// must.
#[test]
fn only_so_many_chunks_are_under_way_and_one_without_pipelining() {
    let (sender, to) = (parse("a@x"), recipient("b@y"));
    let to = [&to];
    let message = Outgoing { size: 7 * MIB, ..outgoing(&sender, &to) };
    for (capabilities, window, before_last) in [(chunking(true), 4, 2), (chunking(false), 1, 5)] {
        let mut transaction = Transaction::new(&message, &capabilities, Profile::FULL, true);
        while !matches!(transaction.next(&mut Vec::new()), Next::Chunk { .. }) {
            transaction.take(reply("250"));
            if transaction.awaits().is_some() {
                transaction.take(reply("250"));
            }
        }
        let mut under_way = 0;
        let mut send_all = |transaction: &mut Transaction<'_>| {
            while !transaction.must_hear() || transaction.awaits().is_none() {
                match transaction.next(&mut Vec::new()) {
                    Next::Chunk { last: false, .. } => transaction.content_sent(),
                    next => return next,
                }
                under_way += 1;
            }
            Next::Exchange
        };
        assert_eq!(send_all(&mut transaction), Next::Exchange);
        for _ in 0..before_last {
            transaction.take(reply("250"));
            assert_eq!(send_all(&mut transaction), Next::Exchange);
        }
        for _ in 0..window {
            assert!(transaction.awaits().is_some() && transaction.must_hear(), "LAST waits for all");
            transaction.take(reply("250"));
        }
        assert_eq!(transaction.next(&mut Vec::new()), Next::Chunk { bytes: MIB, last: true });
        assert_eq!(under_way, 6);
    }
}

#[test]
fn no_chunk_is_sent_for_nobody() {
    for pipelining in [true, false] {
        let run = run_sized(SIZE, &chunking(pipelining), &["250", "550 5.1.1 no"]);
        assert!(!run.writes.iter().any(|write| write.starts_with('<')), "{:?}", run.writes);
        assert_eq!(run.states(), [RecipientState::Failed]);
    }
}

/// What the host says to the chunk, the chunks before it taken; those under way behind it are refused as RFC 3030
/// §2 has it.
fn told_at_chunk(number: usize, words: &str, pipelining: bool) -> Run {
    let mut host = vec!["250", "250"];
    host.extend(["250"].repeat(number - 1));
    host.push(words);
    let is_reply = words != "lost";
    let code = words.split(' ').next().and_then(|code| code.parse().ok()).unwrap_or(0);
    let goes_on = is_reply
        && matches!(ReplyClass::of(Phase::EndOfData, code), ReplyClass::Transient | ReplyClass::Permanent);
    let unknown = number == 1 && (500..=504).contains(&code);
    if pipelining && goes_on && !unknown && number < CHUNKS {
        host.extend(["503 5.5.1 a chunk was refused"].repeat(CHUNKS - 1 - number));
    }
    run_sized(SIZE, &chunking(pipelining), &host)
}

#[test]
fn what_is_said_to_a_chunk_is_the_messages_answer_and_in_doubt_only_behind_the_last() {
    use RecipientState::{Deferred, Failed, HostTrouble, InDoubt};
    for pipelining in [true, false] {
        for number in 1..=CHUNKS {
            let last = number == CHUNKS;
            let doubt = if last { InDoubt } else { HostTrouble };
            // DATA is tried where the first chunk shows that BDAT is not known; later on the host means the
            // message.
            let unknown = if number == 1 { HostTrouble } else { Failed };
            for (words, state) in [
                ("451 4.3.0 later", Deferred),
                ("452 4.3.1 full", Deferred),
                ("499 odd", Deferred),
                ("552 5.3.4 too big", Failed),
                ("554 5.7.1 no", Failed),
                ("571 odd", Failed),
                ("505 odd", Failed),
                ("500 5.5.2 what?", unknown),
                ("501 5.5.4 what?", unknown),
                ("502 5.5.1 what?", unknown),
                ("503 5.5.1 what?", unknown),
                ("504 5.5.4 what?", unknown),
                ("421 4.3.2 closing", HostTrouble),
                ("150 one moment", doubt),
                ("354 go ahead", doubt),
                ("699 odd", doubt),
                ("lost", doubt),
            ] {
                let run = told_at_chunk(number, words, pipelining);
                let case = format!("{words:?} to chunk {number}, pipelining {pipelining}: {:?}", run.writes);
                assert_eq!(run.states(), [state], "{case}");
                assert_eq!(said(&run.results[0]).0, Phase::EndOfData, "{case}");
                let decided = matches!(state, Deferred | Failed);
                assert!(run.unasked.is_none() || !decided, "{case}");
                if words != "lost" {
                    assert_eq!(
                        said(&run.results[0]).1,
                        reply(words),
                        "what is said behind it changes nothing: {case}"
                    );
                }
                let unknown = words.starts_with("50") && !words.starts_with("505");
                let bdat = match number {
                    1 if unknown => {
                        let failure = Failure::BadReply { phase: Phase::EndOfData, reply: reply(words) };
                        ChunkingResult::Refused(failure)
                    }
                    1 if words == "lost" => {
                        let (phase, stage) = (Phase::EndOfData, Stage::of(Phase::Mail));
                        ChunkingResult::Broken(Failure::NoReply { phase, stage, fault: Fault::Lost(None) })
                    }
                    1 => ChunkingResult::Unknown,
                    _ => ChunkingResult::Taken,
                };
                assert_eq!(run.bdat, bdat, "{case}");
                let sent = run.writes.iter().filter(|write| write.starts_with("<1")).count();
                let most = if pipelining { CHUNKS - 1 } else { number.min(CHUNKS - 1) };
                assert!(sent <= most, "{case}");
                let last_sent = run.writes.iter().any(|write| write.ends_with("LAST>"));
                assert_eq!(last_sent, last, "{case}");
            }
        }
    }
}

#[test]
fn a_chunk_cut_off_in_the_middle_decides_nothing_unless_the_host_says_so() {
    let (sender, to, capabilities) = (parse("a@x"), recipient("b@y"), chunking(true));
    let to = [&to];
    let message = Outgoing { size: SIZE, ..outgoing(&sender, &to) };
    // At the beginning of the chunk of this number.
    let before_chunk = |number: usize| {
        let mut transaction = Transaction::new(&message, &capabilities, Profile::FULL, true);
        transaction.next(&mut Vec::new());
        transaction.take(reply("250"));
        transaction.take(reply("250"));
        for _ in 1..number {
            assert!(matches!(transaction.next(&mut Vec::new()), Next::Chunk { last: false, .. }));
            transaction.content_sent();
            transaction.take(reply("250"));
        }
        assert!(matches!(transaction.next(&mut Vec::new()), Next::Chunk { .. }));
        transaction
    };
    for number in 1..=CHUNKS {
        let mut transaction = before_chunk(number);
        transaction.lost(Stage::of(Phase::Mail), Fault::Lost(None));
        let TransactionResult { results, chunking, .. } = transaction.finish();
        assert_eq!(matches!(chunking, ChunkingResult::Broken(_)), number == 1, "{number}");
        assert_eq!(state(&results[0]), RecipientState::HostTrouble, "{number}");
        for (words, first, later) in [
            ("552 5.3.4 big", RecipientState::Failed, RecipientState::Failed),
            ("451 4.3.0 later", RecipientState::Deferred, RecipientState::Deferred),
            ("502 5.5.1 what?", RecipientState::HostTrouble, RecipientState::Failed),
            ("250 ok", RecipientState::HostTrouble, RecipientState::HostTrouble),
        ] {
            let mut transaction = before_chunk(number);
            transaction.take_early(reply(words));
            let TransactionResult { results, is_usable, .. } = transaction.finish();
            assert_eq!(state(&results[0]), if number == 1 { first } else { later }, "{words} in {number}");
            assert!(!is_usable);
        }
    }
}

#[test]
fn binary_content_has_no_other_way_and_keeps_the_hosts_answer() {
    let (sender, to) = (parse("a@x"), recipient("b@y"));
    let to = [&to];
    let message = Outgoing { body: Body::BinaryMime, size: SIZE, ..outgoing(&sender, &to) };
    let capabilities = Capabilities { binary_mime: true, ..chunking(false) };
    let host = ["250", "250", "502 5.5.1 what?"].map(Then::Says);
    let run = run_message(&message, &capabilities, &host);
    assert_eq!((run.states(), run.bdat), (vec![RecipientState::Failed], ChunkingResult::Unknown));
    let run = run_with(&message, &capabilities, SPARED, &["250"; 2 + CHUNKS].map(Then::Says));
    assert_eq!(run.states(), [RecipientState::Delivered]);
}
