//! Whatever a host says, and wherever it breaks off: what holds of every result all the same.
//!
//! The transaction is driven as the connection drives it. A ledger beside it matches replies to what was written
//! by their place alone, and is what the results are held against.

use std::collections::VecDeque;

use proptest::prelude::*;

use crate::delivery::smtp::transaction::tests::*;

/// A reply, or what comes instead.
#[derive(Debug, Clone)]
enum Heard {
    /// What a host says that takes everything.
    Fits,
    Says(u16, &'static str),
    Closed,
    TimedOut,
    Malformed,
}

/// How a write goes.
#[derive(Debug, Clone)]
enum Written {
    Whole,
    /// The host reads no more; what it said before.
    Cut(Option<u16>),
    /// The content cannot be read, or the intent not recorded: of commands alone nothing can go wrong like this.
    Ours,
}

#[derive(Debug, Clone)]
struct Case {
    capabilities: Capabilities,
    profile: Profile,
    /// Of each recipient, whether its address can be written.
    recipients: Vec<bool>,
    size: u64,
    body: Body,
    eight_bit: EightBit,
    needs_reset: bool,
    single_write: bool,
    success_asked: bool,
    heard: Vec<Heard>,
    written: Vec<Written>,
    /// Whether a reply that need not be waited for is there already.
    early: Vec<bool>,
}

const CODES: [u16; 34] = [
    0, 150, 200, 235, 250, 251, 252, 334, 354, 399, 400, 421, 450, 451, 452, 499, 500, 501, 502, 503, 504,
    505, 530, 535, 550, 552, 553, 554, 571, 599, 600, 699, 999, 250,
];
const TEXTS: [&str; 6] =
    ["", "5.1.1 who?", "4.5.3 too many", "5.5.1 bad sequence", "improper command pipelining", "2.0.0 ok"];

fn heard() -> impl Strategy<Value = Heard> {
    let says = (prop::sample::select(&CODES[..]), prop::sample::select(&TEXTS[..]));
    prop_oneof![
        12 => Just(Heard::Fits),
        4 => says.prop_map(|(code, text)| Heard::Says(code, text)),
        1 => Just(Heard::Closed),
        1 => Just(Heard::TimedOut),
        1 => Just(Heard::Malformed),
    ]
}

fn written() -> impl Strategy<Value = Written> {
    let code = prop::option::of(prop::sample::select(&CODES[..]));
    prop_oneof![12 => Just(Written::Whole), 1 => code.prop_map(Written::Cut), 1 => Just(Written::Ours)]
}

fn capabilities() -> impl Strategy<Value = Capabilities> {
    (any::<[bool; 5]>(), prop::option::weighted(0.05, Just(50))).prop_map(
        |([pipelining, chunking, binary_mime, eight_bit, dsn], size_max)| Capabilities {
            pipelining,
            chunking,
            binary_mime,
            eight_bit,
            dsn,
            size_max,
            ..Capabilities::default()
        },
    )
}

fn case() -> impl Strategy<Value = Case> {
    let mostly = || prop::bool::weighted(0.95);
    let recipients = prop_oneof![
        9 => prop::collection::vec(mostly(), 1..6),
        1 => prop::collection::vec(mostly(), 120..270),
    ];
    let size = prop::sample::select(
        &[
            0,
            1,
            100,
            SINGLE_WRITE_BYTES_MAX,
            SINGLE_WRITE_BYTES_MAX + 1,
            CHUNK_BYTES,
            CHUNK_BYTES + 1,
            3 * CHUNK_BYTES + 5,
            9 * CHUNK_BYTES,
        ][..],
    );
    let body =
        prop::sample::select(&[Body::SevenBit, Body::SevenBit, Body::EightBitMime, Body::BinaryMime][..]);
    let message = (recipients, size, body, prop::bool::ANY, any::<[bool; 6]>());
    let host = (
        prop::collection::vec(heard(), 0..12),
        prop::collection::vec(written(), 0..5),
        prop::collection::vec(any::<bool>(), 0..12),
    );
    (capabilities(), message, host).prop_map(
        |(capabilities, (recipients, size, body, bounce, flags), (heard, written, early))| {
            let [needs_reset, single_write, success_asked, pipelining, chunking, may_write] = flags;
            // Mostly all of it.
            let profile = Profile {
                pipelining: pipelining || chunking,
                chunking: chunking || pipelining || may_write,
                single_write: may_write || pipelining,
                ..Profile::FULL
            };
            let eight_bit = if bounce { EightBit::Bounce } else { EightBit::Send };
            Case {
                capabilities,
                profile,
                recipients,
                size,
                body,
                eight_bit,
                needs_reset,
                single_write,
                success_asked,
                heard,
                written,
                early,
            }
        },
    )
}

/// What was written and waits for its reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    Rset,
    Mail,
    Rcpt(usize),
    Data,
    /// The dot alone, for nobody.
    Dot,
    Chunk,
    /// The content and its end.
    Content,
}

/// What happened, by place.
#[derive(Debug, Default)]
struct Ledger {
    waiting: VecDeque<Sent>,
    heard: Vec<(Sent, u16)>,
    /// Bytes of content of which each was written.
    bytes: u64,
    whole: bool,
    /// Some of it, by BDAT, which needs no 354.
    by_bdat: bool,
    /// Of a host that had not read all of it.
    cut: Option<u16>,
    /// The connection broke, or what it said could not be understood.
    broken: bool,
}

impl Ledger {
    fn said(&self, to: Sent) -> Option<u16> {
        self.heard.iter().find(|(sent, _)| *sent == to).map(|(_, code)| *code)
    }

    fn is_yes(&self, to: Sent) -> bool {
        self.said(to).is_some_and(|code| code / 100 == 2)
    }

    /// MAIL and this recipient, by their place.
    fn is_accepted(&self, index: usize) -> bool {
        self.is_yes(Sent::Mail) && self.is_yes(Sent::Rcpt(index))
    }

    /// All of the content, by the reply to it.
    fn is_taken(&self) -> bool {
        self.whole && self.is_yes(Sent::Content)
    }

    fn note_commands(&mut self, bytes: &[u8]) {
        for line in std::str::from_utf8(bytes).unwrap().split_terminator("\r\n") {
            let sent = match line.split([' ', ':']).next().unwrap() {
                "RSET" => Sent::Rset,
                "MAIL" => Sent::Mail,
                "RCPT" => {
                    let number = line.strip_prefix("RCPT TO:<r").unwrap().split('@').next().unwrap();
                    Sent::Rcpt(number.parse().unwrap())
                }
                "DATA" => Sent::Data,
                "." => Sent::Dot,
                other => panic!("{other:?} is no command"),
            };
            self.waiting.push_back(sent);
        }
    }
}

struct Driver<'a, 'm> {
    transaction: Transaction<'m>,
    ledger: Ledger,
    heard: std::slice::Iter<'a, Heard>,
    written: std::slice::Iter<'a, Written>,
    early: std::slice::Iter<'a, bool>,
}

fn say(code: u16, text: &str) -> Reply {
    reply(&format!("{code:03} {text}"))
}

impl Driver<'_, '_> {
    fn lost(&mut self, fault: Fault, phase: Phase) {
        self.ledger.broken = true;
        self.transaction.lost(Stage::of(phase), fault);
    }

    fn take(&mut self, phase: Phase, reply: Reply) {
        let to = self.ledger.waiting.pop_front().expect("a reply to nothing");
        self.ledger.broken |=
            matches!(ReplyClass::of(phase, reply.code), ReplyClass::Closing | ReplyClass::Invalid);
        self.ledger.heard.push((to, reply.code));
        self.transaction.take(reply);
    }

    /// As `Connection::take_replies`.
    fn take_replies(&mut self) {
        while let Some(phase) = self.transaction.awaits() {
            if !self.transaction.must_hear() && !self.early.next().copied().unwrap_or(false) {
                break;
            }
            match self.heard.next().unwrap_or(&Heard::Fits) {
                Heard::Fits => self.take(phase, say(if phase == Phase::Data { 354 } else { 250 }, "fits")),
                Heard::Says(code, text) => self.take(phase, say(*code, text)),
                Heard::Closed if self.transaction.is_unheard() => {
                    self.ledger.broken = true;
                    self.transaction.gone_before(Stage::of(phase), Fault::Lost(None));
                }
                Heard::Closed => self.lost(Fault::Lost(None), phase),
                Heard::TimedOut => self.lost(Fault::TimedOut, phase),
                Heard::Malformed => self.lost(Fault::OutOfTurn, phase),
            }
        }
    }

    /// The host read not all: what it said before, or that it is gone.
    fn cut_off(&mut self, said: Option<u16>, content: bool) {
        let phase = self.transaction.awaits().unwrap_or(if content { Phase::EndOfData } else { Phase::Mail });
        self.ledger.broken = true;
        match said {
            Some(code) if content => {
                self.ledger.cut = Some(code);
                self.transaction.take_early(say(code, ""));
            }
            Some(421) => self.transaction.take(say(421, "")),
            Some(_) => self.lost(Fault::OutOfTurn, phase),
            None => self.lost(Fault::Lost(None), phase),
        }
    }

    fn run(&mut self, size: u64) {
        // Every turn writes something: commands, or a chunk.
        for _ in 0..1000 {
            let mut out = Vec::new();
            let next = self.transaction.next(&mut out);
            if next == Next::Done {
                return;
            }
            let written = self.written.next().unwrap_or(&Written::Whole);
            match next {
                Next::Done => {}
                Next::Exchange | Next::SingleWrite { .. } => {
                    assert!(next != Next::Exchange || !out.is_empty(), "nothing is written");
                    self.ledger.note_commands(&out);
                    match (written, next) {
                        (Written::Cut(said), _) => self.cut_off(*said, false),
                        (Written::Ours, Next::SingleWrite { .. }) => {
                            self.ledger.broken = true;
                            self.transaction.abandon("ours".to_owned());
                        }
                        (_, Next::SingleWrite { bytes }) => {
                            (self.ledger.by_bdat, self.ledger.whole, self.ledger.bytes) =
                                (true, bytes == size, bytes);
                            self.ledger.waiting.push_back(Sent::Content);
                            self.transaction.content_sent();
                        }
                        _ => {}
                    }
                }
                Next::Content | Next::Chunk { .. } => {
                    let (bytes, last) = match next {
                        Next::Chunk { bytes, last } => (bytes, last),
                        _ => (size, true),
                    };
                    let accepted = |sent: &&(Sent, u16)| matches!(sent.0, Sent::Rcpt(_)) && sent.1 / 100 == 2;
                    assert!(self.ledger.heard.iter().any(|sent| accepted(&sent)), "content for nobody");
                    match written {
                        Written::Whole => {
                            self.ledger.bytes += bytes;
                            self.ledger.by_bdat = next != Next::Content;
                            self.ledger.whole = last && self.ledger.bytes == size;
                            self.ledger.waiting.push_back(if last { Sent::Content } else { Sent::Chunk });
                            self.transaction.content_sent();
                        }
                        Written::Cut(said) => self.cut_off(*said, true),
                        Written::Ours => {
                            self.ledger.broken = true;
                            self.transaction.abandon("ours".to_owned());
                        }
                    }
                }
            }
            let commands =
                self.ledger.waiting.iter().filter(|sent| !matches!(sent, Sent::Chunk | Sent::Content));
            let (commands, all) = (commands.count(), self.ledger.waiting.len());
            let piped = self.transaction.may_pipeline();
            assert!(
                commands <= if piped { COMMANDS_IN_FLIGHT_MAX } else { 1 },
                "{commands} commands under way"
            );
            assert!(all - commands <= if piped { CHUNKS_IN_FLIGHT_MAX } else { 1 }, "{all} under way");
            self.take_replies();
        }
        panic!("it does not end");
    }
}

/// The case to its end, and whether every result can be answered for.
fn check(case: &Case) {
    let recipients = case.recipients();
    let recipients: Vec<&QueuedRecipient> = recipients.iter().collect();
    let sender = parse("a@x");
    let message = Outgoing {
        size: case.size,
        body: case.body,
        eight_bit: case.eight_bit,
        single_write: case.single_write && !case.needs_reset,
        ..outgoing(&sender, &recipients)
    };
    let mut driver = Driver {
        transaction: Transaction::new(&message, &case.capabilities, case.profile, case.needs_reset, true),
        ledger: Ledger::default(),
        heard: case.heard.iter(),
        written: case.written.iter(),
        early: case.early.iter(),
    };
    driver.run(case.size);
    let Driver { transaction, ledger, .. } = driver;
    let unheard = transaction.is_unheard();
    let TransactionResult { results, after, chunking: bdat, .. } = transaction.finish();

    assert_eq!(results.len(), recipients.len(), "one result each");
    assert!(ledger.bytes <= case.size);
    let refused_here = Commands::new(&message, &case.capabilities, true).message_refusal().is_some();
    for (index, result) in results.iter().enumerate() {
        case.check_justified(&ledger, index, result, refused_here);
        check_neither_doubled_nor_lost(&ledger, index, result, unheard);
    }
    if matches!(bdat, ChunkingResult::Refused(_) | ChunkingResult::Broken(_)) {
        let left = [RecipientState::HostTrouble, RecipientState::InDoubt];
        let is_left = results.iter().any(|result| left.contains(&state(result)));
        assert!(is_left, "{bdat:?}, and nobody is left to try DATA for: {ledger:?}");
    }
    if after.usable {
        assert!(!ledger.broken, "used again although it broke: {ledger:?}");
        assert!(ledger.waiting.is_empty(), "used again with replies under way: {ledger:?}");
        let over = ledger.is_yes(Sent::Content)
            || ledger.said(Sent::Dot).is_some()
            || case.is_closed_by_refusal(&ledger);
        assert!(after.needs_reset || over || !ledger.is_yes(Sent::Mail), "left open: {ledger:?}");
    }
}

/// What the host has is not sent again, and of what it may have nobody is sure.
fn check_neither_doubled_nor_lost(ledger: &Ledger, index: usize, result: &RecipientResult, unheard: bool) {
    let told = format!("{index}: {result:?}; {ledger:?}");
    let (accepted, came) = (ledger.is_accepted(index), state(result));
    if accepted && ledger.is_taken() {
        let again =
            !matches!(came, RecipientState::Delivered | RecipientState::Relayed | RecipientState::InDoubt);
        assert!(!again, "taken, and tried again: {told}");
    }
    // All is at the host, and it refused nothing: it may have taken it.
    let refused = ledger.heard.iter().any(|(sent, code)| match sent {
        Sent::Content => matches!(code / 100, 4 | 5),
        _ => *code == 421,
    });
    if accepted && ledger.whole && !refused && !unheard {
        let sure =
            matches!(came, RecipientState::Deferred | RecipientState::Failed | RecipientState::HostTrouble);
        assert!(!sure, "sure of what is in doubt: {told}");
    }
}

impl Case {
    fn recipients(&self) -> Vec<QueuedRecipient> {
        let numbered = self.recipients.iter().enumerate();
        let recipients = numbered.map(|(number, good)| {
            let mut one = recipient(&format!("r{number}@y"));
            if !good {
                one.address = Address::new_dangerous("b", "y>\r\nDATA\r\n");
            }
            one.notify = self.success_asked.then_some(Notify { success: true, ..Notify::NEVER });
            one
        });
        recipients.collect()
    }

    /// Whether what was said and sent bears this result out.
    fn check_justified(&self, ledger: &Ledger, index: usize, result: &RecipientResult, refused_here: bool) {
        let told = format!("{index}: {result:?}; {ledger:?}");
        let accepted = ledger.is_accepted(index);
        let (came, reply) = (state(result), said(result).1);
        match came {
            RecipientState::Delivered | RecipientState::Relayed => {
                assert!(accepted && ledger.is_taken(), "falsely delivered: {told}");
                assert!(
                    ledger.by_bdat || ledger.said(Sent::Data) == Some(354),
                    "delivered without 354: {told}"
                );
                assert_eq!(came == RecipientState::Relayed, self.success_asked && !self.capabilities.dsn);
            }
            RecipientState::Failed if reply.reply_source == ReplySource::Local => {
                assert!(refused_here || !self.recipients[index], "refused by us without need: {told}");
            }
            RecipientState::Failed => {
                let about = |sent: Sent| match sent {
                    Sent::Rcpt(other) => other == index,
                    Sent::Rset | Sent::Dot => false,
                    Sent::Mail | Sent::Data | Sent::Chunk | Sent::Content => true,
                };
                let answers = ledger.heard.iter().filter(|(sent, _)| about(*sent)).map(|(_, code)| *code);
                let codes: Vec<u16> = answers.chain(ledger.cut).filter(|code| code / 100 == 5).collect();
                assert!(codes.contains(&reply.code), "failed without a 5xx: {told}");
            }
            RecipientState::InDoubt => assert!(ledger.whole, "in doubt of what was not sent: {told}"),
            RecipientState::NextTransaction => {
                let before = (0..index).any(|before| ledger.is_accepted(before));
                assert!(before, "put off although nobody was accepted: {told}");
                assert!(!accepted, "{told}");
            }
            RecipientState::Deferred | RecipientState::HostTrouble => {}
        }
    }

    /// Behind DATA any reply to the content ends the transaction (RFC 5321 §4.1.1.4); behind BDAT only a yes.
    fn is_closed_by_refusal(&self, ledger: &Ledger) -> bool {
        ledger.said(Sent::Data) == Some(354) && ledger.said(Sent::Content).is_some()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn whatever_a_host_does_every_result_can_be_answered_for(case in case()) {
        check(&case);
    }
}
