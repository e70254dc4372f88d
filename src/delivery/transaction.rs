//! A mail transaction as the client sees it: what to send, and what every answer means (RFC 5321 §3.3).
//!
//! Pure: a state machine that is asked for commands and fed with replies; `connection.rs` carries the
//! bytes. All of "what does this answer mean for these recipients" is in this file. Where it was said
//! decides whom it is about: MAIL, DATA and the dot speak of the message, RCPT of the recipient. Only
//! a 5xx is permanent; what is unknown is temporary.
//!
//! With PIPELINING (RFC 2920) MAIL, RCPT… and DATA go out together and every reply is matched to its
//! command; without it they go one by one. RSET clears away what a transaction left open, in front
//! of the next one.
//!
//! Binary content goes by BDAT, and large content does where the host offers it (RFC 3030 §2). The first chunk waits
//! for the replies to RCPT, since nobody wants a megabyte for nobody; then some chunks are under way at once, and
//! the one marked LAST waits until all before it are accepted: until then nothing can be in doubt, and a host that
//! lost one of them cannot take the rest for the message.

use lettre::transport::smtp::commands::{Data, Rset};

use crate::config::EightBit;
use crate::mail::{Address, Body, Enhanced, Handling, Notify, Phase, Reply, Ret};
use crate::queue::QueuedRecipient;

use super::chunking::{CHUNK_BYTES, chunks_before_last, last_chunk_bytes};
use super::commands::Commands;
use super::disorder::{Batch, Disorder};
use super::offers::Offers;

/// Commands that are written before a reply is read. A host may fill its side of the connection
/// with replies that nobody reads yet, so there is an end to it (RFC 2920 §3.1).
const COMMANDS_IN_FLIGHT_MAX: usize = 128;
/// Chunks that are written before the reply to the first of them is read: enough to keep a long line full, little
/// enough to be wasted on a host that refuses.
const CHUNKS_IN_FLIGHT_MAX: usize = 4;

/// What is to be handed over.
#[derive(Debug, Clone, Copy)]
pub struct Outgoing<'a> {
    /// None: the null sender.
    pub sender: Option<&'a Address>,
    /// At least one; the results come in this order.
    pub recipients: &'a [&'a QueuedRecipient],
    /// BODY.
    pub body: Body,
    /// What becomes of 8-bit content at a host that does not offer to take it.
    pub eight_bit: EightBit,
    /// The client gave SMTPUTF8.
    pub smtputf8: bool,
    /// Bytes of content.
    pub size: u64,
    /// RET.
    pub ret: Option<Ret>,
    /// ENVID, xtext as given.
    pub envid: Option<&'a str>,
    /// MT-PRIORITY, REQUIRETLS, DELIVERBY.
    pub handling: Handling,
    /// Unix seconds: what is left of BY counts from here.
    pub now: i64,
}

/// What came of one recipient at one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecipientResult {
    /// Where it was decided.
    pub phase: Phase,
    /// The host's words, or ours where it had none.
    pub reply: Reply,
    /// What they mean.
    pub verdict: Verdict,
}

/// What an answer means for a recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The host took it and is responsible from here on.
    Delivered,
    /// The same, by a host that offers no DSN where a success report was asked for (RFC 3461 §5.2.2), or with a trace
    /// that was asked for (`BY=…;NT`, RFC 2852 §4).
    Relayed,
    /// Try again later.
    Deferred,
    /// Refused for good.
    Failed,
    /// The content was sent whole, and its reply never came or could not be read (RFC 1047).
    InDoubt,
    /// The host takes no more recipients in this transaction: no attempt, goes into the next one
    /// (RFC 5321 §4.5.3.1.10). At least one recipient of this transaction was accepted.
    NextTransaction,
    /// The host is in trouble, and nothing was decided: try the next host.
    HostTrouble,
}

/// What a failure before MAIL means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TroubleKind {
    /// Temporary: try the next host; when none is left, later.
    NextHost,
    /// The host takes no mail at all: permanent if every host of the destination says so.
    HostRefuses,
}

/// What a reply code says, by its first digit and the place where it was said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// 2xx.
    Yes,
    /// 354 to DATA, 334 to AUTH: go on.
    GoOn,
    /// 4xx.
    NotNow,
    /// 5xx.
    Never,
    /// 421, the host closes the connection (RFC 5321 §3.8).
    Closing,
    /// No answer to what was asked: 1xx, an unexpected 3xx, 6xx and above, a 2xx to DATA.
    Nonsense,
}

/// The table: what `code` means as the answer in `phase`.
pub(super) fn meaning(phase: Phase, code: u16) -> Meaning {
    match (phase, code) {
        (_, 421) => Meaning::Closing,
        (Phase::Data, 354) | (Phase::Auth, 334) => Meaning::GoOn,
        // A host that says yes to DATA without having seen the content promises nothing.
        (Phase::Data, 200..=299) => Meaning::Nonsense,
        (_, 200..=299) => Meaning::Yes,
        (_, 400..=499) => Meaning::NotNow,
        (_, 500..=599) => Meaning::Never,
        _ => Meaning::Nonsense,
    }
}

/// What a refusal before MAIL means. `relay`: on a configured relay it is never permanent, since it
/// says that our configuration or the upstream is wrong, not that the mail is.
pub(super) fn host_refusal(phase: Phase, code: u16, relay: bool) -> TroubleKind {
    let greeting = matches!(phase, Phase::Greeting | Phase::Ehlo);
    if greeting && !relay && meaning(phase, code) == Meaning::Never {
        TroubleKind::HostRefuses
    } else {
        TroubleKind::NextHost
    }
}

/// Whether a relay that has let us in wants a login all the same, or a better one (RFC 4954 §6: 530, 534, 535, 538):
/// that is said of us, not of the mail or of a recipient.
pub(super) fn wants_login(phase: Phase, code: u16) -> bool {
    matches!(phase, Phase::Mail | Phase::Rcpt) && matches!(code, 530 | 534 | 535 | 538)
}

/// 552 after an accepted recipient is read as 452 (RFC 5321 §4.5.3.1.10). 452 has other uses too: where
/// an enhanced code says that it is not the number of recipients (4.5.3), it speaks of the recipient.
fn is_too_many_recipients(reply: &Reply) -> bool {
    match reply.code {
        552 => true,
        452 => matches!(reply.enhanced, None | Some(Enhanced(4, 5, 3))),
        _ => false,
    }
}

/// One command, or the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Rset,
    Mail,
    /// The recipient's place in [`Outgoing::recipients`].
    Rcpt(usize),
    Data,
    /// A chunk before the last.
    Chunk,
    /// The content and its final dot, or the chunk marked LAST.
    Dot,
}

impl Step {
    fn phase(self) -> Phase {
        match self {
            // RSET makes room for MAIL.
            Step::Rset | Step::Mail => Phase::Mail,
            Step::Rcpt(_) => Phase::Rcpt,
            Step::Data => Phase::Data,
            Step::Chunk | Step::Dot => Phase::Dot,
        }
    }
}

/// What the connection has to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Write the commands and feed the replies to them.
    Exchange,
    /// Send the content and its dot, call [`Transaction::content_sent`], feed the reply.
    Content,
    /// The same for the next so many bytes, as they are, by BDAT.
    Chunk { bytes: u64, last: bool },
    /// Nothing; every recipient has its result.
    Done,
}

/// How the connection is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct After {
    /// Another transaction may follow on it.
    pub(super) usable: bool,
    /// That one has to begin with RSET.
    pub(super) needs_reset: bool,
    /// The host offers CHUNKING and does not know BDAT, or broke off at the first: DATA will do better.
    pub(super) shuns_bdat: bool,
}

/// One message on its way to one host.
///
/// ```text
/// [RSET] -> MAIL -> RCPT… -> DATA -> dot        steps[..answered] have their reply,
///            |        |        |      |         steps[..sent] are written
///           4xx 5xx: the message; RCPT: the recipient; 421, nonsense, lost: the host
/// ```
///
/// Content that goes by BDAT has no DATA, but chunks; its "dot" is the end of the one marked LAST (RFC 3030 §2).
pub(super) struct Transaction<'a> {
    message: &'a Outgoing<'a>,
    offers: &'a Offers,
    commands: Commands<'a>,
    steps: Vec<Step>,
    sent: usize,
    answered: usize,
    results: Vec<Option<RecipientResult>>,
    /// MAIL was answered with 2xx, and no reply to the dot or to RSET has closed it since.
    open: bool,
    /// Recipients answered with 2xx.
    accepted: usize,
    /// DATA was answered with 354.
    go_ahead: bool,
    /// Commands were written together.
    batched: bool,
    /// What went wrong with them, and where.
    disorder: Option<(Phase, Disorder)>,
    /// A chunk was answered with 2xx.
    chunk_taken: bool,
    shuns_bdat: bool,
    /// The host closes, or cannot be understood any more.
    dead: bool,
}

impl<'a> Transaction<'a> {
    /// A transaction for a host with these offers. `header_is_ascii` is asked only where the message
    /// wants SMTPUTF8 and the host has none. What such a host cannot be given has its result already.
    pub(super) fn new(
        message: &'a Outgoing<'a>,
        offers: &'a Offers,
        needs_reset: bool,
        header_is_ascii: bool,
    ) -> Transaction<'a> {
        let mut transaction = Transaction {
            message,
            offers,
            commands: Commands::new(message, offers, header_is_ascii),
            steps: Vec::with_capacity(message.recipients.len() + 4),
            sent: 0,
            answered: 0,
            results: vec![None; message.recipients.len()],
            open: needs_reset,
            accepted: 0,
            go_ahead: false,
            batched: false,
            disorder: None,
            chunk_taken: false,
            shuns_bdat: false,
            dead: false,
        };
        if let Some(refusal) = transaction.commands.message_refusal() {
            transaction.decide_rest(Phase::Mail, &refusal, Verdict::Failed);
            return transaction;
        }
        transaction.steps.extend(needs_reset.then_some(Step::Rset));
        transaction.steps.push(Step::Mail);
        for index in 0..message.recipients.len() {
            match transaction.commands.recipient_refusal(index) {
                Some(refusal) => transaction.decide(index, Phase::Rcpt, refusal, Verdict::Failed),
                None => transaction.steps.push(Step::Rcpt(index)),
            }
        }
        if transaction.undecided() == 0 {
            transaction.steps.clear();
        } else {
            if transaction.in_chunks() {
                // Bounded by the size of a message.
                let before_last = usize::try_from(chunks_before_last(message.size)).unwrap_or(usize::MAX);
                transaction.steps.extend(std::iter::repeat_n(Step::Chunk, before_last));
            } else {
                transaction.steps.push(Step::Data);
            }
            transaction.steps.push(Step::Dot);
        }
        transaction
    }

    /// Puts what is to be written next into `out` (for content nothing: that is the connection's). All replies to
    /// what was written before have been fed, as far as [`Transaction::must_hear`] them.
    pub(super) fn next(&mut self, out: &mut Vec<u8>) -> Next {
        if self.dead || self.is_muddled() || self.sent == self.steps.len() {
            return Next::Done;
        }
        match self.steps[self.sent] {
            Step::Chunk | Step::Dot if self.in_chunks() && self.accepted == 0 => return Next::Done,
            Step::Chunk => return Next::Chunk { bytes: CHUNK_BYTES, last: false },
            Step::Dot if self.in_chunks() => {
                return Next::Chunk { bytes: last_chunk_bytes(self.message.size), last: true };
            }
            _ => {}
        }
        if self.steps[self.sent] == Step::Dot {
            return match (self.go_ahead, self.accepted) {
                (false, _) => Next::Done,
                // The host waits for content although it took no recipient. RFC 2920 §3.1: send nothing but the dot.
                (true, 0) => {
                    out.extend_from_slice(b".\r\n");
                    self.sent += 1;
                    Next::Exchange
                }
                (true, _) => Next::Content,
            };
        }
        let in_flight_max = if self.offers.pipelining { COMMANDS_IN_FLIGHT_MAX } else { 1 };
        while self.sent - self.answered < in_flight_max {
            let step = self.steps[self.sent];
            let none_left = match step {
                Step::Rset | Step::Mail => false,
                Step::Rcpt(_) => self.undecided() == 0,
                // With RCPTs still in flight it is too early to tell.
                Step::Data => self.sent == self.answered && self.accepted == 0,
                Step::Chunk | Step::Dot => break,
            };
            if none_left {
                self.sent = self.steps.len();
                self.answered = self.sent;
                break;
            }
            self.write(step, out);
            self.sent += 1;
        }
        self.batched |= self.sent - self.answered > 1;
        if self.sent == self.answered { Next::Done } else { Next::Exchange }
    }

    /// The phase of the oldest command without a reply; none where there is none.
    pub(super) fn awaits(&self) -> Option<Phase> {
        let waiting = !self.dead && self.answered < self.sent;
        waiting.then(|| self.steps[self.answered].phase())
    }

    /// Whether a reply that [`Transaction::awaits`] has to be waited for before anything more is written. Behind a chunk
    /// another may go out first; a reply that is there already is fed all the same.
    pub(super) fn must_hear(&self) -> bool {
        let in_flight_max = if self.offers.pipelining { CHUNKS_IN_FLIGHT_MAX } else { 1 };
        let between_chunks = self.steps.get(self.answered) == Some(&Step::Chunk)
            && self.steps.get(self.sent) == Some(&Step::Chunk);
        !between_chunks || self.sent - self.answered >= in_flight_max
    }

    /// The recipients that the dot is about, by their place in [`Outgoing::recipients`]: accepted, undecided yet.
    pub(super) fn accepted(&self) -> Vec<usize> {
        (0..self.results.len()).filter(|index| self.results[*index].is_none()).collect()
    }

    /// The content and its dot, or the chunk, are written, all of them.
    pub(super) fn content_sent(&mut self) {
        self.sent += 1;
    }

    /// The reply to the oldest command without one.
    pub(super) fn take(&mut self, reply: Reply) {
        let Some(&step) = self.steps.get(self.answered) else { return };
        self.answered += 1;
        let phase = step.phase();
        self.look_for_disorder(step, &reply);
        match (step, meaning(phase, reply.code)) {
            (_, Meaning::Closing) => self.host_trouble(phase, &reply),
            (Step::Chunk, _) if self.is_bdat_unknown(&reply) => self.host_trouble(phase, &reply),
            (Step::Dot, Meaning::Nonsense | Meaning::GoOn) => self.lost_after_dot(&reply),
            (_, Meaning::Nonsense) => self.host_trouble(phase, &reply),
            (Step::Rset, Meaning::Yes) => self.open = false,
            // A host that cannot even reset: a fresh connection will do better.
            (Step::Rset, _) => self.host_trouble(phase, &reply),
            (Step::Mail, Meaning::Yes) => self.open = true,
            (Step::Rcpt(index), Meaning::Yes) => self.accept(index),
            (Step::Rcpt(index), refusal) => self.refuse(index, reply, refusal),
            (Step::Data, Meaning::GoOn) => self.go_ahead = true,
            (Step::Chunk, Meaning::Yes) => self.chunk_taken = true,
            // RFC 3030 §2: no further chunk; the replies to those under way say nothing new.
            (Step::Chunk, refusal) => {
                self.steps.truncate(self.sent);
                self.decide_rest(phase, &reply, refusal_verdict(refusal));
            }
            (Step::Dot, Meaning::Yes) => {
                self.open = false;
                self.deliver(&reply);
            }
            (Step::Mail | Step::Data | Step::Dot, refusal) => {
                // RFC 3030 §2: what BDAT leaves behind when it fails is for RSET to clear away.
                self.open &= step == Step::Data || self.in_chunks();
                self.decide_rest(phase, &reply, refusal_verdict(refusal));
            }
        }
    }

    /// No reply will come: the connection is lost, took too long, or sends what is no reply. `ours` says which.
    pub(super) fn lost(&mut self, ours: &Reply) {
        let step = self.steps.get(self.answered).copied().unwrap_or(Step::Dot);
        if step == Step::Dot && self.sent == self.steps.len() && self.accepted > 0 {
            self.lost_after_dot(ours);
            return;
        }
        match Disorder::of_fault(ours) {
            // What breaks while content goes out has other reasons, and who is decided needs nothing more.
            Disorder::Silent(_) if step.phase() == Phase::Dot || self.undecided() == 0 => {}
            disorder => self.note(step.phase(), disorder),
        }
        self.shuns_bdat |= step == Step::Chunk && !self.chunk_taken;
        self.host_trouble(step.phase(), ours);
    }

    /// The content could not be sent whole, through our own fault; the connection has to be cut.
    pub(super) fn abandon(&mut self, ours: &Reply) {
        self.dead = true;
        self.decide_rest(Phase::Dot, ours, Verdict::Deferred);
    }

    /// The host answered before it had the whole content, and reads no more of it.
    pub(super) fn take_early(&mut self, reply: &Reply) {
        self.dead = true;
        let verdict = match meaning(Phase::Dot, reply.code) {
            _ if self.is_bdat_unknown(reply) => Verdict::HostTrouble,
            refusal @ (Meaning::NotNow | Meaning::Never) => refusal_verdict(refusal),
            // It cannot have accepted what it has not seen.
            _ => Verdict::HostTrouble,
        };
        self.decide_rest(Phase::Dot, reply, verdict);
    }

    /// The results, in the recipients' order, and how the connection is left.
    pub(super) fn finish(mut self) -> (Vec<RecipientResult>, After) {
        self.decide_rest(Phase::Mail, &UNDECIDED, Verdict::HostTrouble);
        if self.is_muddled()
            && let Some((phase, disorder)) = self.disorder.take()
        {
            // A reply may have been another's: nobody is refused by one of these.
            self.dead = true;
            self.results.fill(None);
            self.decide_rest(phase, disorder.reply(), Verdict::HostTrouble);
        }
        let Transaction { open: needs_reset, shuns_bdat, .. } = self;
        let after = After { usable: !self.dead, needs_reset, shuns_bdat };
        (self.results.into_iter().flatten().collect(), after)
    }

    /// How the host took commands that were written together.
    pub(super) fn batch(&self) -> Batch {
        match &self.disorder {
            Some((_, disorder)) => Batch::Broken(disorder.clone()),
            None if self.batched && !self.dead => Batch::InOrder,
            None => Batch::None,
        }
    }

    fn look_for_disorder(&mut self, step: Step, reply: &Reply) {
        let in_turn = match step {
            Step::Rset | Step::Mail => true,
            Step::Rcpt(_) => self.open,
            Step::Data => self.accepted > 0,
            Step::Chunk | Step::Dot => return,
        };
        if let Some(disorder) = Disorder::of_reply(step.phase(), in_turn, reply) {
            self.note(step.phase(), disorder);
        }
    }

    /// The first sign stands, and only what was written together can show one.
    fn note(&mut self, phase: Phase, disorder: Disorder) {
        if self.batched {
            self.disorder.get_or_insert((phase, disorder));
        }
    }

    /// Whether replies do not fit the commands.
    fn is_muddled(&self) -> bool {
        matches!(self.disorder, Some((_, Disorder::Said(_) | Disorder::Muddled(_))))
    }

    /// The content goes by BDAT; `Commands` has refused what must and cannot.
    fn in_chunks(&self) -> bool {
        self.message.body == Body::BinaryMime || self.offers.chunking && self.message.size > CHUNK_BYTES
    }

    /// Whether a reply to the first chunk says that BDAT itself is not understood (RFC 5321 §4.2.1: x0z is about
    /// syntax), where DATA is another way. Whether the host read the chunk, or took it for commands, cannot be told:
    /// the connection is of no use any more.
    fn is_bdat_unknown(&mut self, reply: &Reply) -> bool {
        let could_be_data = self.in_chunks() && self.message.body != Body::BinaryMime;
        // Behind a refused chunk, the ones under way are answered with 503.
        let is_first = !self.chunk_taken && self.undecided() > 0;
        self.shuns_bdat |= could_be_data && is_first && matches!(reply.code, 500..=504);
        self.shuns_bdat
    }

    fn undecided(&self) -> usize {
        self.results.iter().filter(|result| result.is_none()).count()
    }

    /// RCPT was answered with 2xx. The recipient waits for the dot, unless MAIL was refused before.
    fn accept(&mut self, index: usize) {
        if self.results[index].is_none() {
            self.accepted += 1;
        }
    }

    fn refuse(&mut self, index: usize, reply: Reply, refusal: Meaning) {
        let verdict = if self.accepted > 0 && is_too_many_recipients(&reply) {
            Verdict::NextTransaction
        } else {
            refusal_verdict(refusal)
        };
        self.decide(index, Phase::Rcpt, reply, verdict);
    }

    /// The dot was answered with 2xx: all that were accepted are done.
    fn deliver(&mut self, reply: &Reply) {
        for index in 0..self.results.len() {
            let notify = self.message.recipients[index].notify;
            let success_asked = notify.is_some_and(|notify| notify.success);
            let traced = self.message.handling.deliver_by.is_some_and(|by| by.trace);
            let relayed = success_asked && !self.offers.dsn || traced && notify != Some(Notify::NEVER);
            let verdict = if relayed { Verdict::Relayed } else { Verdict::Delivered };
            self.decide(index, Phase::Dot, reply.clone(), verdict);
        }
    }

    fn host_trouble(&mut self, phase: Phase, reply: &Reply) {
        self.dead = true;
        self.decide_rest(phase, reply, Verdict::HostTrouble);
    }

    fn lost_after_dot(&mut self, reply: &Reply) {
        self.dead = true;
        self.decide_rest(Phase::Dot, reply, Verdict::InDoubt);
    }

    fn decide_rest(&mut self, phase: Phase, reply: &Reply, verdict: Verdict) {
        for index in 0..self.results.len() {
            if self.results[index].is_none() {
                self.decide(index, phase, reply.clone(), verdict);
            }
        }
    }

    /// The first decision about a recipient stands.
    fn decide(&mut self, index: usize, phase: Phase, reply: Reply, verdict: Verdict) {
        self.results[index].get_or_insert(RecipientResult { phase, reply, verdict });
    }

    fn write(&self, step: Step, out: &mut Vec<u8>) {
        use std::io::Write as _;
        // Writing to a Vec cannot fail.
        let _ = match step {
            Step::Rset => write!(out, "{Rset}"),
            Step::Mail => write!(out, "{}", self.commands.mail()),
            Step::Rcpt(index) => self.commands.rcpt(index).map_or(Ok(()), |rcpt| write!(out, "{rcpt}")),
            Step::Data => write!(out, "{Data}"),
            Step::Chunk | Step::Dot => Ok(()),
        };
    }
}

fn refusal_verdict(refusal: Meaning) -> Verdict {
    if refusal == Meaning::Never { Verdict::Failed } else { Verdict::Deferred }
}

/// Never seen: every way to the end decides. Temporary, should there be one that does not.
const UNDECIDED: Reply = Reply::new(451, Enhanced(4, 3, 0), "the transaction ended without an answer");

#[cfg(test)]
mod tests;
