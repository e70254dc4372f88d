//! Whatever a host says, and wherever it breaks off: what holds of every result all the same.
//!
//! The transaction is driven as the connection drives it. A ledger beside it notes what was written and how the host
//! answered each, and is what the results are held against.
//!
//! Replies that nobody asked for come anywhere between the answers, so that a reply read in the place of one command
//! may be the answer to an earlier one, or to none. The ledger knows which is which; the transaction does not. A host
//! that gives one of them is never believed to have taken what it did not take, whatever its code and its delay. Nor is
//! one that gives several, where each message has a connection of its own. Where it has not, there are several that no
//! client can tell from true answers: those are left out ([`Case::can_be_told`]).

use std::collections::VecDeque;

use proptest::prelude::*;

use crate::delivery::smtp::transaction::answers::is_of_envelope;
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
    single_write: bool,
    success_asked: bool,
    heard: Vec<Heard>,
    /// Replies that nobody asked for.
    surplus: Vec<Surplus>,
    written: Vec<Written>,
    /// Whether a reply that need not be waited for is there already.
    early: Vec<bool>,
}

/// A reply that nobody asked for.
#[derive(Debug, Clone, Copy)]
struct Surplus {
    /// It is given before the answer to the command of this number.
    before: usize,
    /// It is there already when that command is written; otherwise it comes when its answer is waited for.
    early: bool,
    code: u16,
    text: &'static str,
}

fn surplus() -> impl Strategy<Value = Vec<Surplus>> {
    let yes = prop::sample::select(&[250, 250, 250, 221, 354][..]);
    let code = prop_oneof![3 => yes, 1 => prop::sample::select(&CODES[..])];
    let text = prop::sample::select(&["", "2.0.0 ok", "2.1.0 ok", "2.1.5 ok", "5.7.1 no"][..]);
    let one = (0..7_usize, any::<bool>(), code, text).prop_map(|(before, early, code, text)| Surplus {
        before,
        early,
        code,
        text,
    });
    prop_oneof![
        3 => Just(Vec::new()),
        3 => one.clone().prop_map(|one| vec![one]),
        2 => prop::collection::vec(one, 2..6),
    ]
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
        (prop::collection::vec(heard(), 0..12), surplus()),
        prop::collection::vec(written(), 0..5),
        prop::collection::vec(any::<bool>(), 0..12),
    );
    (capabilities(), message, host).prop_map(
        |(capabilities, (recipients, size, body, bounce, flags), ((heard, surplus), written, early))| {
            let [single_write, success_asked, pipelining, chunking, may_write, one_by_one] = flags;
            // Mostly all of it.
            let profile = if one_by_one {
                Profile::ONE_BY_ONE
            } else {
                Profile {
                    pipelining: pipelining || chunking,
                    chunking: chunking || pipelining || may_write,
                    single_write: may_write || pipelining,
                    ..Profile::FULL
                }
            };
            let eight_bit = if bounce { EightBit::Bounce } else { EightBit::Send };
            Case {
                capabilities,
                profile,
                recipients,
                size,
                body,
                eight_bit,
                single_write,
                success_asked,
                heard,
                surplus,
                written,
                early,
            }
        },
    )
}

/// What was written and waits for its reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    Mail,
    Rcpt(usize),
    Data,
    /// The dot alone, for nobody.
    Dot,
    Chunk,
    /// The content and its end.
    Content,
    /// RSET or QUIT.
    Closing,
}

/// What happened, by place.
#[derive(Debug, Default)]
struct Ledger {
    waiting: VecDeque<Sent>,
    /// How the host answered each, in its own mind.
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
    /// The connection broke.
    broken_off: bool,
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

    fn commands(bytes: &[u8]) -> impl Iterator<Item = Sent> {
        std::str::from_utf8(bytes).unwrap().split_terminator("\r\n").map(|line| {
            match line.split([' ', ':']).next().unwrap() {
                "RSET" | "QUIT" => Sent::Closing,
                "MAIL" => Sent::Mail,
                "RCPT" => {
                    let number = line.strip_prefix("RCPT TO:<r").unwrap().split('@').next().unwrap();
                    Sent::Rcpt(number.parse().unwrap())
                }
                "DATA" => Sent::Data,
                "." => Sent::Dot,
                other => panic!("{other:?} is no command"),
            }
        })
    }
}

struct Driver<'a, 'm> {
    transaction: Transaction<'m>,
    ledger: Ledger,
    heard: std::slice::Iter<'a, Heard>,
    surplus: &'a [Surplus],
    /// Commands that the host has seen.
    commands: usize,
    /// On their way to us: the answers, each with its command, and what comes unasked, with whether it is there.
    stream: VecDeque<(Option<Sent>, Heard, bool)>,
    written: std::slice::Iter<'a, Written>,
    early: std::slice::Iter<'a, bool>,
}

fn say(code: u16, text: &str) -> Reply {
    reply(&format!("{code:03} {text}"))
}

impl Driver<'_, '_> {
    fn lost(&mut self, fault: Fault, phase: Phase) {
        (self.ledger.broken, self.ledger.broken_off) = (true, true);
        self.transaction.lost(Stage::of(phase), fault);
    }

    fn take(&mut self, to: Option<Sent>, phase: Phase, reply: Reply) {
        self.ledger.waiting.pop_front().expect("a reply to nothing");
        self.ledger.broken |=
            matches!(ReplyClass::of(phase, reply.code), ReplyClass::Closing | ReplyClass::Invalid);
        if let Some(to) = to {
            self.ledger.heard.push((to, reply.code));
        }
        self.transaction.take(reply);
    }

    /// What comes unasked before the answer to the next command, and is there early or not.
    fn speak_unasked(&mut self, early: bool) {
        for one in self.surplus.iter().filter(|one| one.before == self.commands && one.early == early) {
            self.stream.push_back((None, Heard::Says(one.code, one.text), early));
        }
    }

    /// The host gets a command, and answers it sooner or later.
    fn write(&mut self, sent: Sent) {
        self.ledger.waiting.push_back(sent);
        self.speak_unasked(false);
        self.stream.push_back((Some(sent), self.heard.next().unwrap_or(&Heard::Fits).clone(), false));
        self.commands += 1;
        self.speak_unasked(true);
    }

    /// What is there to be read although no answer is due.
    fn unasked(&mut self) -> Option<Reply> {
        let there = self.stream.front().is_some_and(|(_, _, there)| *there);
        match self.stream.pop_front_if(|_| there) {
            Some((_, Heard::Says(code, text), _)) => Some(say(code, text)),
            _ => None,
        }
    }

    /// As `Handover::take_replies`.
    fn take_replies(&mut self) {
        while let Some(phase) = self.transaction.awaits() {
            if !self.transaction.must_hear() && !self.early.next().copied().unwrap_or(false) {
                break;
            }
            let (to, heard, _) = self.stream.pop_front().expect("no answer on its way");
            match heard {
                Heard::Fits => {
                    let (code, text) = match to {
                        Some(Sent::Data) => (354, "go"),
                        Some(Sent::Mail) => (250, "2.1.0 ok"),
                        Some(Sent::Rcpt(_)) => (250, "2.1.5 ok"),
                        Some(Sent::Closing) if !self.transaction.profile.reuse => (221, "2.0.0 bye"),
                        _ => (250, "2.0.0 ok"),
                    };
                    self.take(to, phase, say(code, text));
                }
                Heard::Says(code, text) => self.take(to, phase, say(code, text)),
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

    /// As `Handover::look_behind`.
    fn look_behind(&mut self) {
        if self.transaction.has_quit().is_some() {
            // Up to the end of the stream.
            let mut behind = Vec::new();
            let ended = loop {
                let Some((to, heard, _)) = self.stream.pop_front() else { break true };
                let reply = match (to, heard) {
                    (_, Heard::Says(code, text)) => say(code, text),
                    (Some(Sent::Closing), Heard::Fits) => say(221, ""),
                    (Some(Sent::Data), Heard::Fits) => say(354, ""),
                    (_, Heard::Fits) => say(250, ""),
                    (_, heard) => {
                        self.ledger.broken_off = matches!(heard, Heard::Closed);
                        break self.ledger.broken_off;
                    }
                };
                // The content's own answer may be one of these.
                self.ledger.heard.extend(to.map(|to| (to, reply.code)));
                behind.push(reply);
            };
            self.transaction.take_behind_quit(behind, ended);
        } else if self.transaction.is_alive()
            && let Some(reply) = self.unasked()
        {
            self.transaction.take_surplus(reply);
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
            Some(code) if self.transaction.counts_replies() => self.transaction.take(say(code, "")),
            Some(_) => self.lost(Fault::OutOfTurn, phase),
            None => self.lost(Fault::Lost(None), phase),
        }
    }

    fn run(&mut self, size: u64) {
        self.speak_unasked(true);
        // Every turn writes something: commands, or a chunk.
        for _ in 0..1000 {
            let mut out = Vec::new();
            let next = self.transaction.next(&mut out);
            if next == Next::Done {
                return self.look_behind();
            }
            let written = self.written.next().unwrap_or(&Written::Whole);
            match next {
                Next::Done => {}
                Next::Exchange | Next::SingleWrite { .. } => self.write_commands(&out, next, written, size),
                Next::Content => self.write_content(size, true, false, written, size),
                Next::Chunk { bytes, last } => self.write_content(bytes, last, true, written, size),
            }
            let is_content = |sent: &&Sent| matches!(sent, Sent::Chunk | Sent::Content);
            let (content, all) =
                (self.ledger.waiting.iter().filter(is_content).count(), self.ledger.waiting.len());
            let piped = self.transaction.may_pipeline();
            let commands = all - content;
            // RSET behind the content is one more.
            assert!(commands <= if piped { COMMANDS_IN_FLIGHT_MAX + 1 } else { 1 }, "{commands} under way");
            assert!(content <= if piped { CHUNKS_IN_FLIGHT_MAX } else { 1 }, "{content} under way");
            self.take_replies();
        }
        panic!("it does not end");
    }

    fn write_commands(&mut self, out: &[u8], next: Next, written: &Written, size: u64) {
        assert!(next != Next::Exchange || !out.is_empty(), "nothing is written");
        if !self.transaction.counts_replies()
            && let Some(reply) = self.unasked()
        {
            self.ledger.broken = true;
            return match ReplyClass::of(Phase::Mail, reply.code) {
                ReplyClass::Closing => self.transaction.take(reply),
                _ => self.transaction.take_surplus(reply),
            };
        }
        for sent in Ledger::commands(out) {
            self.write(sent);
        }
        match (written, next) {
            (Written::Cut(said), _) => self.cut_off(*said, false),
            (Written::Ours, Next::SingleWrite { .. }) => {
                self.ledger.broken = true;
                self.transaction.abandon("ours".to_owned());
            }
            (_, Next::SingleWrite { bytes }) => {
                (self.ledger.by_bdat, self.ledger.whole, self.ledger.bytes) = (true, bytes == size, bytes);
                self.end_content();
            }
            _ => {}
        }
    }

    fn write_content(&mut self, bytes: u64, last: bool, by_bdat: bool, written: &Written, size: u64) {
        let accepted = |sent: &&(Sent, u16)| matches!(sent.0, Sent::Rcpt(_)) && sent.1 / 100 == 2;
        let is_meant = self.surplus.is_empty();
        assert!(!is_meant || self.ledger.heard.iter().any(|sent| accepted(&sent)), "content for nobody");
        if (last || self.ledger.waiting.is_empty())
            && let Some(reply) = self.unasked()
        {
            self.ledger.broken = true;
            return self.transaction.take_early(reply);
        }
        match written {
            Written::Whole => {
                self.ledger.bytes += bytes;
                self.ledger.by_bdat = by_bdat;
                self.ledger.whole = last && self.ledger.bytes == size;
                if last {
                    self.end_content();
                } else {
                    self.write(Sent::Chunk);
                    self.transaction.content_sent();
                }
            }
            Written::Cut(said) => self.cut_off(*said, true),
            Written::Ours => {
                self.ledger.broken = true;
                self.transaction.abandon("ours".to_owned());
            }
        }
    }

    /// The end of the content, and what goes with it.
    fn end_content(&mut self) {
        self.write(Sent::Content);
        let mut behind = Vec::new();
        self.transaction.write_behind_end(&mut behind);
        for sent in Ledger::commands(&behind) {
            self.write(sent);
        }
        self.transaction.content_sent();
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
        single_write: case.single_write,
        ..outgoing(&sender, &recipients)
    };
    let mut driver = Driver {
        transaction: Transaction::new(&message, &case.capabilities, case.profile, true),
        ledger: Ledger::default(),
        heard: case.heard.iter(),
        surplus: &case.surplus,
        commands: 0,
        stream: VecDeque::new(),
        written: case.written.iter(),
        early: case.early.iter(),
    };
    driver.run(case.size);
    let Driver { transaction, mut ledger, stream, .. } = driver;
    let unheard = transaction.is_unheard();
    let TransactionResult { results, is_usable, chunking: bdat, .. } = transaction.finish();
    if !case.surplus.is_empty() {
        // How the host answered what was not waited for any more.
        let rest = stream.iter().filter_map(|(to, heard, _)| Some(((*to)?, heard)));
        ledger.heard.extend(rest.map(|(to, heard)| (to, heard.code(to))));
        return case.check_with_surplus(&ledger, &results);
    }

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
    if is_usable {
        assert!(!ledger.broken, "used again although it broke: {ledger:?}");
        assert!(ledger.waiting.is_empty(), "used again with replies under way: {ledger:?}");
        assert!(ledger.is_yes(Sent::Closing) || ledger.heard.is_empty(), "left open: {ledger:?}");
    }
}

impl Heard {
    /// What the host meant by it.
    fn code(&self, to: Sent) -> u16 {
        match self {
            Heard::Fits if to == Sent::Data => 354,
            Heard::Fits => 250,
            Heard::Says(code, _) => *code,
            Heard::Closed | Heard::TimedOut | Heard::Malformed => 0,
        }
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
                    Sent::Dot | Sent::Closing => false,
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

    /// Whether replies that nobody asked for can be told from answers at all. One always can. Of several, not two that
    /// come behind the end of the content, before its answer, and mean yes; not a second 354, with whatever stands in
    /// the other commands' places; and in a single write not those that look like the answers to all of it. Where each
    /// message has a connection of its own, all others can: by their number.
    fn can_be_told(&self, ledger: &Ledger) -> bool {
        // Whoever breaks off, or says that it will, may have answered before it did.
        let breaks_off = |(_, code): &(Sent, u16)| matches!(code, 0 | 421);
        if ledger.broken_off || ledger.heard.iter().any(breaks_off) {
            return false;
        }
        if self.surplus.len() < 2 {
            return true;
        }
        let one_354 = self.surplus.iter().all(|one| one.code != 354)
            && ledger.heard.iter().all(|(sent, code)| *code != 354 || *sent == Sent::Data);
        let by_number = !self.profile.reuse;
        if by_number || !one_354 {
            return one_354;
        }
        let end = ledger.heard.iter().position(|(sent, _)| *sent == Sent::Content).unwrap_or(usize::MAX);
        let behind_end =
            self.surplus.iter().filter(|one| one.before == end || one.before == end.saturating_add(1));
        let looks_like_envelope = |one: &Surplus| is_of_envelope(&say(one.code, one.text));
        let by_data = ledger.heard.iter().any(|(sent, _)| *sent == Sent::Data);
        behind_end.count() < 2 && (by_data || !self.surplus.iter().any(looks_like_envelope))
    }

    /// What is recorded as delivered was taken, by the host's own answers to each command.
    fn check_with_surplus(&self, ledger: &Ledger, results: &[RecipientResult]) {
        for (index, result) in results.iter().enumerate() {
            let told = format!("{index}: {result:?}; {ledger:?}");
            match state(result) {
                RecipientState::Delivered | RecipientState::Relayed if self.can_be_told(ledger) => {
                    let was_taken = ledger.is_accepted(index) && ledger.is_taken();
                    assert!(was_taken, "falsely delivered: {told}");
                }
                RecipientState::InDoubt => assert!(ledger.whole, "in doubt of what was not sent: {told}"),
                _ => {}
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn whatever_a_host_does_every_result_can_be_answered_for(case in case()) {
        check(&case);
    }
}
