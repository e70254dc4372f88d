//! A mail transaction as the client sees it: what to send, and what becomes of each recipient (RFC 5321 §3.3).
//!
//! Pure: a state machine that is asked for commands and fed with replies; `connection.rs` carries the
//! bytes. `meaning.rs` has the table of what a reply says; what follows from it for each recipient is here.
//!
//! With PIPELINING (RFC 2920) MAIL, RCPT… and DATA go out together and every reply is matched to its
//! command; without it they go one by one. RSET clears away what a transaction left open, in front
//! of the next one.
//!
//! Binary content goes by BDAT, and large content does where the host offers it (RFC 3030 §2). The first chunk
//! waits for the replies to RCPT, since nobody wants a megabyte for nobody; then some chunks are under way at
//! once, and the one marked LAST waits until all before it are accepted: until then nothing can be in doubt, and a
//! host that lost one of them cannot take the rest for the message.
//!
//! Small content goes in one go where that may be: MAIL, RCPT… and `BDAT … LAST` with the content in one write, so
//! that a message takes a single round trip (by DATA two, since 354 has to be waited for). Then an answer may be
//! in doubt from the start; only a connection that the host had closed before is told from that, by its silence.

use lettre::transport::smtp::commands::{Data, Rset};

use crate::mail::{Body, Enhanced, Notify, Phase, Reply};

use crate::delivery::smtp::body::chunks::{CHUNK_BYTES, chunks_before_last, last_chunk_bytes};
use crate::delivery::smtp::capabilities::Capabilities;
use crate::delivery::smtp::commands::Commands;
use crate::delivery::smtp::outgoing::Outgoing;
use crate::delivery::smtp::pipeline::{Batch, Disorder};
use crate::delivery::smtp::reply_class::{
    Meaning, RecipientResult, Verdict, is_too_many_recipients, meaning, refusal_verdict,
};

/// Commands that are written before a reply is read. A host may fill its side of the connection
/// with replies that nobody reads yet, so there is an end to it (RFC 2920 §3.1).
const COMMANDS_IN_FLIGHT_MAX: usize = 128;
/// Chunks that are written before the reply to the first of them is read: enough to keep a long line full, little
/// enough to be wasted on a host that refuses.
const CHUNKS_IN_FLIGHT_MAX: usize = 4;
/// Content of more bytes waits for the replies to RCPT: where they refuse, it would be sent for nobody.
const ONE_GO_BYTES_MAX: u64 = 64 * 1024;

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
            Step::Chunk | Step::Dot => Phase::EndOfData,
        }
    }
}

/// What the connection has to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::delivery) enum Next {
    /// Write the commands and feed the replies to them.
    Exchange,
    /// Send the content and its dot, call [`Transaction::content_sent`], feed the reply.
    Content,
    /// The same for the next so many bytes, as they are, by BDAT.
    Chunk { bytes: u64, last: bool },
    /// Write the commands and behind them, in the same write, so many bytes of content as the chunk marked LAST,
    /// call [`Transaction::content_sent`], feed the replies to all.
    InOneGo { bytes: u64 },
    /// Nothing; every recipient has its result.
    Done,
}

/// How the connection is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::delivery) struct After {
    /// Another transaction may follow on it.
    pub(in crate::delivery) usable: bool,
    /// That one has to begin with RSET.
    pub(in crate::delivery) needs_reset: bool,
}

/// How the host took BDAT, where DATA would have been another way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::delivery) enum Bdat {
    /// Not used, or nothing was learnt.
    Unknown,
    /// The first chunk was taken.
    Taken,
    /// By its own words it does not know BDAT, though it offers CHUNKING.
    Refused(Reply),
    /// The connection broke, in these words of ours, before it had answered the first chunk.
    Broken(Reply),
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
pub(in crate::delivery) struct Transaction<'a> {
    message: &'a Outgoing<'a>,
    capabilities: &'a Capabilities,
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
    /// All of the content is written, with its end.
    whole: bool,
    /// Commands were written together.
    batched: bool,
    /// What went wrong with them, and where.
    disorder: Option<(Phase, Disorder)>,
    bdat: Bdat,
    /// The host closes, or cannot be understood any more.
    dead: bool,
}

impl<'a> Transaction<'a> {
    /// A transaction for a host with these capabilities. `header_is_ascii` is asked only where the message
    /// wants SMTPUTF8 and the host has none. What such a host cannot be given has its result already.
    pub(in crate::delivery) fn new(
        message: &'a Outgoing<'a>,
        capabilities: &'a Capabilities,
        needs_reset: bool,
        header_is_ascii: bool,
    ) -> Transaction<'a> {
        let mut transaction = Transaction {
            message,
            capabilities,
            commands: Commands::new(message, capabilities, header_is_ascii),
            steps: Vec::with_capacity(message.recipients.len() + 4),
            sent: 0,
            answered: 0,
            results: vec![None; message.recipients.len()],
            open: needs_reset,
            accepted: 0,
            go_ahead: false,
            whole: false,
            batched: false,
            disorder: None,
            bdat: Bdat::Unknown,
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
    pub(in crate::delivery) fn next(&mut self, out: &mut Vec<u8>) -> Next {
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
                // The host waits for content although it took no recipient. RFC 2920 §3.1: send nothing but the
                // dot.
                (true, 0) => {
                    out.extend_from_slice(b".\r\n");
                    self.sent += 1;
                    Next::Exchange
                }
                (true, _) => Next::Content,
            };
        }
        let in_flight_max = if self.capabilities.pipelining { COMMANDS_IN_FLIGHT_MAX } else { 1 };
        while self.sent - self.answered < in_flight_max {
            let step = self.steps[self.sent];
            let none_left = match step {
                Step::Rset | Step::Mail => false,
                Step::Rcpt(_) => self.undecided() == 0,
                // With RCPTs still in flight it is too early to tell.
                Step::Data => self.sent == self.answered && self.accepted == 0,
                Step::Dot if self.in_one_go() => {
                    self.batched = true;
                    return Next::InOneGo { bytes: self.message.size };
                }
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
    pub(in crate::delivery) fn awaits(&self) -> Option<Phase> {
        let waiting = !self.dead && self.answered < self.sent;
        waiting.then(|| self.steps[self.answered].phase())
    }

    /// Whether a reply that [`Transaction::awaits`] has to be waited for before anything more is written. Behind a
    /// chunk another may go out first; a reply that is there already is fed all the same.
    pub(in crate::delivery) fn must_hear(&self) -> bool {
        let in_flight_max = if self.capabilities.pipelining { CHUNKS_IN_FLIGHT_MAX } else { 1 };
        let between_chunks = self.steps.get(self.answered) == Some(&Step::Chunk)
            && self.steps.get(self.sent) == Some(&Step::Chunk);
        !between_chunks || self.sent - self.answered >= in_flight_max
    }

    /// The recipients that the dot is about, by their place in [`Outgoing::recipients`]: accepted, undecided yet.
    pub(in crate::delivery) fn accepted(&self) -> Vec<usize> {
        (0..self.results.len()).filter(|index| self.results[*index].is_none()).collect()
    }

    /// The content and its dot, or the chunk, are written, all of them.
    pub(in crate::delivery) fn content_sent(&mut self) {
        self.whole = self.steps.get(self.sent) == Some(&Step::Dot);
        self.sent += 1;
    }

    /// The reply to the oldest command without one.
    pub(in crate::delivery) fn take(&mut self, reply: Reply) {
        let Some(&step) = self.steps.get(self.answered) else { return };
        self.answered += 1;
        let phase = step.phase();
        self.look_for_disorder(step, &reply);
        match (step, meaning(phase, reply.code)) {
            (_, Meaning::Closing) => self.host_trouble(phase, &reply),
            (Step::Chunk | Step::Dot, _) if self.is_bdat_unknown(&reply) => self.host_trouble(phase, &reply),
            (Step::Dot, Meaning::Nonsense | Meaning::GoOn) => self.lost_after_dot(&reply),
            (_, Meaning::Nonsense) => self.host_trouble(phase, &reply),
            (Step::Rset, Meaning::Yes) => self.open = false,
            // A host that cannot even reset: a fresh connection will do better.
            (Step::Rset, _) => self.host_trouble(phase, &reply),
            (Step::Mail, Meaning::Yes) => self.open = true,
            (Step::Rcpt(index), Meaning::Yes) => self.accept(index),
            (Step::Rcpt(index), refusal) => self.refuse(index, reply, refusal),
            (Step::Data, Meaning::GoOn) => self.go_ahead = true,
            (Step::Chunk, Meaning::Yes) => self.bdat = Bdat::Taken,
            // RFC 3030 §2: no further chunk; the replies to those under way say nothing new.
            (Step::Chunk, refusal) => {
                self.steps.truncate(self.sent);
                self.decide_rest(phase, &reply, refusal_verdict(refusal));
            }
            // With no 354 in between, a reply too many would pass for the content's. One that speaks of an address
            // is not.
            (Step::Dot, Meaning::Yes) if self.in_one_go() && is_of_an_address(&reply) => {
                self.lost_after_dot(&reply);
            }
            (Step::Dot, Meaning::Yes) => {
                self.open = false;
                if self.in_chunks() && self.accepted > 0 {
                    self.bdat = Bdat::Taken;
                }
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
    pub(in crate::delivery) fn lost(&mut self, ours: &Reply) {
        let step = self.steps.get(self.answered).copied().unwrap_or(Step::Dot);
        if self.whole && (step != Step::Dot || self.accepted > 0) {
            self.lost_after_dot(ours);
            return;
        }
        match Disorder::of_fault(ours) {
            // What breaks while content goes out has other reasons, and who is decided needs nothing more.
            Disorder::Silent(_) if step.phase() == Phase::EndOfData || self.undecided() == 0 => {}
            disorder => self.note(step.phase(), disorder),
        }
        // Behind a refused chunk the host has no more to say, and may as well close.
        let is_left = self.undecided() > 0;
        if step == Step::Chunk && self.could_be_data() && self.bdat == Bdat::Unknown && is_left {
            self.bdat = Bdat::Broken(ours.clone());
        }
        self.host_trouble(step.phase(), ours);
    }

    /// Whether there is nothing more to write.
    pub(in crate::delivery) fn is_all_sent(&self) -> bool {
        self.sent == self.steps.len()
    }

    /// Whether nothing was heard of a message that went in one go. Should the connection end now, the host had
    /// closed it before, as hosts do with idle ones: it answers MAIL before it looks at what comes behind.
    pub(in crate::delivery) fn is_unheard(&self) -> bool {
        self.in_one_go() && self.answered == 0 && self.is_all_sent()
    }

    /// The connection was closed before the host read any of this.
    pub(in crate::delivery) fn gone_before(&mut self, ours: &Reply) {
        self.host_trouble(Phase::Mail, ours);
    }

    /// The content could not be sent whole, through our own fault; the connection has to be cut.
    pub(in crate::delivery) fn abandon(&mut self, ours: &Reply) {
        self.dead = true;
        self.decide_rest(Phase::EndOfData, ours, Verdict::Deferred);
    }

    /// The host answered before it had the whole content, and reads no more of it.
    pub(in crate::delivery) fn take_early(&mut self, reply: &Reply) {
        self.dead = true;
        let verdict = match meaning(Phase::EndOfData, reply.code) {
            _ if self.is_bdat_unknown(reply) => Verdict::HostTrouble,
            refusal @ (Meaning::NotNow | Meaning::Never) => refusal_verdict(refusal),
            // It cannot have accepted what it has not seen.
            _ => Verdict::HostTrouble,
        };
        self.decide_rest(Phase::EndOfData, reply, verdict);
    }

    /// How the host took BDAT.
    pub(in crate::delivery) fn bdat(&self) -> Bdat {
        self.bdat.clone()
    }

    /// The results, in the recipients' order, and how the connection is left.
    pub(in crate::delivery) fn finish(mut self) -> (Vec<RecipientResult>, After) {
        self.decide_rest(Phase::Mail, &UNDECIDED, Verdict::HostTrouble);
        if self.is_muddled()
            && let Some((phase, disorder)) = self.disorder.take()
        {
            // A reply may have been another's: nobody is refused by one of these.
            self.dead = true;
            self.results.fill(None);
            // Nor is it known what became of content that went with them.
            let verdict = if self.whole { Verdict::InDoubt } else { Verdict::HostTrouble };
            self.decide_rest(phase, disorder.reply(), verdict);
        }
        let after = After { usable: !self.dead, needs_reset: self.open };
        (self.results.into_iter().flatten().collect(), after)
    }

    /// How the host took commands that were written together.
    pub(in crate::delivery) fn batch(&self) -> Batch {
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
        let large = self.may_chunk() && self.message.size > CHUNK_BYTES;
        self.message.body == Body::BinaryMime || large || self.in_one_go()
    }

    fn may_chunk(&self) -> bool {
        self.capabilities.chunking && !self.capabilities.spare_bdat
    }

    /// Content and commands leave together.
    fn in_one_go(&self) -> bool {
        let may = self.message.in_one_go && self.may_chunk() && self.capabilities.pipelining;
        may && self.message.size <= ONE_GO_BYTES_MAX
    }

    fn could_be_data(&self) -> bool {
        self.message.body != Body::BinaryMime
    }

    /// Whether a reply to the first chunk says that BDAT itself is not understood (RFC 5321 §4.2.1: x0z is about
    /// syntax), where DATA is another way. Whether the host read the chunk, or took it for commands, cannot be
    /// told: the connection is of no use any more.
    fn is_bdat_unknown(&mut self, reply: &Reply) -> bool {
        // Behind a refused chunk, the ones under way are answered with 503.
        let is_first = self.bdat == Bdat::Unknown && self.undecided() > 0;
        let unknown = self.in_chunks() && self.could_be_data() && is_first && matches!(reply.code, 500..=504);
        if unknown {
            self.bdat = Bdat::Refused(reply.clone());
        }
        unknown
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
            let relayed = success_asked && !self.capabilities.dsn || traced && notify != Some(Notify::NEVER);
            let verdict = if relayed { Verdict::Relayed } else { Verdict::Delivered };
            self.decide(index, Phase::EndOfData, reply.clone(), verdict);
        }
    }

    fn host_trouble(&mut self, phase: Phase, reply: &Reply) {
        self.dead = true;
        self.decide_rest(phase, reply, Verdict::HostTrouble);
    }

    fn lost_after_dot(&mut self, reply: &Reply) {
        self.dead = true;
        self.decide_rest(Phase::EndOfData, reply, Verdict::InDoubt);
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

/// 2.1.x (RFC 3463 §3.2), as for MAIL and RCPT.
fn is_of_an_address(reply: &Reply) -> bool {
    matches!(reply.enhanced, Some(Enhanced(2, 1, _)))
}

/// Never seen: every way to the end decides. Temporary, should there be one that does not.
const UNDECIDED: Reply = Reply::new(451, Enhanced(4, 3, 0), "the transaction ended without an answer");

#[cfg(test)]
mod tests;
