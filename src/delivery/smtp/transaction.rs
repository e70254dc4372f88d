//! A mail transaction as the client sees it: what to send, and what becomes of each recipient (RFC 5321 §3.3).
//!
//! Pure: a state machine that is asked for commands and fed with replies; `handover.rs` carries the bytes.
//! `reply_class.rs` has what a code says, `job/ruling.rs` what a failure means; who was refused, and what is not known
//! of whom, is found out here.
//!
//! With PIPELINING (RFC 2920) MAIL, RCPT… and DATA go out together and every reply is matched to its
//! command; without it they go one by one.
//!
//! A reply says nothing of which command it answers: replies are matched by their number alone, and a host that gives
//! one too many would have all later ones taken for answers to something else. So each transaction is closed with a
//! command whose answer is known, RSET (2xx), or QUIT where no other message follows on the connection (221, and the
//! end of the stream: then there were as many replies as commands). With PIPELINING it goes in the same write as the
//! end of the content. Had one reply been too many, the answer to the content would stand there, and anything but a
//! 2xx shows that. More of them betray themselves before: DATA is answered with 354, which nothing else is; a single
//! write is for hosts whose enhanced codes tell MAIL and RCPT from the content; content in several chunks ends with
//! QUIT; and what is there to be read although nothing was asked stops a transaction wherever it stands
//! (`handover.rs`).
//!
//! Binary content goes by BDAT, and large content does where the host offers it (RFC 3030 §2). The first chunk
//! waits for the replies to RCPT, since nobody wants a megabyte for nobody; then some chunks are under way at
//! once, and the one marked LAST waits until all before it are accepted: until then nothing can be in doubt, and a
//! host that lost one of them cannot take the rest for the message.
//!
//! Small content goes out in a single write where that may be: MAIL, RCPT… and `BDAT … LAST` with the
//! content, so that a message takes a single round trip (by DATA two, since 354 has to be waited for). With a
//! single write, losing the connection means doubt, unless no reply at all came: then the host had closed it
//! before.

mod answers;
mod result;

use std::collections::VecDeque;

use lettre::transport::smtp::commands::{Data, Quit, Rset};

use crate::mail::{Body, Notify, Phase, Reply};

use crate::delivery::smtp::body::chunks::{CHUNK_BYTES, chunks_before_last, last_chunk_bytes};
use crate::delivery::smtp::capabilities::Capabilities;
use crate::delivery::smtp::commands::Commands;
use crate::delivery::smtp::failure::{Failure, Unsendable};
use crate::delivery::smtp::outgoing::Outgoing;
use crate::delivery::smtp::pipeline::{PipelineFault, PipelineResult};
use crate::delivery::smtp::profile::Profile;
use crate::delivery::smtp::reply_class::is_too_many_recipients;
use crate::delivery::smtp::timeouts::Stage;
use crate::delivery::smtp::wire::Fault;

pub(in crate::delivery) use result::TransactionResult;
pub use result::{ChunkingResult, RecipientResult};

/// Commands that are written before a reply is read. A host may fill its side of the connection
/// with replies that nobody reads yet, so there is an end to it (RFC 2920 §3.1).
const COMMANDS_IN_FLIGHT_MAX: usize = 128;
/// Chunks that are written before the reply to the first of them is read: enough to keep a long line full, little
/// enough to be wasted on a host that refuses.
const CHUNKS_IN_FLIGHT_MAX: usize = 4;
/// Content of more bytes waits for the replies to RCPT: where they refuse, it would be sent for nobody.
const SINGLE_WRITE_BYTES_MAX: u64 = 64 * 1024;

/// One command, or a part of the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Mail,
    /// The recipient's place in [`Outgoing::recipients`].
    Rcpt(usize),
    Data,
    /// A chunk before the last.
    Chunk,
    /// The content and its final dot, or the chunk marked LAST.
    End,
    /// Behind all else: its answer shows whether those before it were the answers to their commands.
    Rset,
    /// The same, where no other message follows on the connection.
    Quit,
}

impl Step {
    fn phase(self) -> Phase {
        match self {
            // RSET makes room for MAIL.
            Step::Mail | Step::Rset | Step::Quit => Phase::Mail,
            Step::Rcpt(_) => Phase::Rcpt,
            Step::Data => Phase::Data,
            Step::Chunk | Step::End => Phase::EndOfData,
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
    SingleWrite { bytes: u64 },
    /// Nothing; every recipient has its result.
    Done,
}

/// One message on its way to one host.
///
/// ```text
/// MAIL -> RCPT… -> DATA -> content -> RSET or QUIT    `plan` is to be written, `in_flight` waits for its reply
///   |       |        |        |
///  4xx 5xx: the message; RCPT: the recipient; 421, nonsense, lost: the host
/// ```
///
/// Content that goes by BDAT has no DATA, but chunks; its end is that of the one marked LAST (RFC 3030 §2).
pub(in crate::delivery) struct Transaction<'a> {
    message: &'a Outgoing<'a>,
    capabilities: &'a Capabilities,
    profile: Profile,
    commands: Commands<'a>,
    plan: VecDeque<Step>,
    in_flight: VecDeque<Step>,
    results: Vec<Option<RecipientResult>>,
    /// MAIL was answered with 2xx.
    mail_accepted: bool,
    /// RSET or QUIT is still to be sent.
    is_open: bool,
    /// Recipients answered with 2xx.
    accepted_count: usize,
    /// All of the content is written, with its end.
    whole: bool,
    /// How commands that were written together were taken so far.
    pipelining: PipelineResult,
    chunking: ChunkingResult,
    /// A reply too many, or one that came before its command: the answers may be those of other commands.
    surplus: Option<Failure>,
    /// What QUIT was answered.
    quit_reply: Option<Reply>,
    /// The content was answered and the command behind it was not.
    unclosed: Option<Failure>,
    /// By their enhanced codes the answers to MAIL, RCPT and the content cannot be taken for one another.
    tells_apart: bool,
    /// The host closes, or cannot be understood any more.
    dead: bool,
}

impl<'a> Transaction<'a> {
    /// A transaction with a host of these capabilities. `header_is_ascii` is asked only where the message
    /// wants SMTPUTF8 and the host has none. What such a host cannot be given has its result already.
    pub(in crate::delivery) fn new(
        message: &'a Outgoing<'a>,
        capabilities: &'a Capabilities,
        profile: Profile,
        header_is_ascii: bool,
    ) -> Transaction<'a> {
        let mut transaction = Transaction {
            message,
            capabilities,
            profile,
            commands: Commands::new(message, capabilities, header_is_ascii),
            plan: VecDeque::with_capacity(message.recipients.len() + 4),
            in_flight: VecDeque::new(),
            results: vec![None; message.recipients.len()],
            mail_accepted: false,
            is_open: false,
            accepted_count: 0,
            whole: false,
            pipelining: PipelineResult::Unused,
            chunking: ChunkingResult::Unknown,
            surplus: None,
            quit_reply: None,
            unclosed: None,
            tells_apart: true,
            dead: false,
        };
        transaction.make_plan();
        transaction
    }

    fn make_plan(&mut self) {
        if let Some(why) = self.commands.message_refusal() {
            return self.decide_rest(failed(unsendable(Phase::Mail, why)));
        }
        self.plan.push_back(Step::Mail);
        for index in 0..self.message.recipients.len() {
            match self.commands.recipient_refusal(index) {
                Some(why) => self.decide(index, failed(unsendable(Phase::Rcpt, why))),
                None => self.plan.push_back(Step::Rcpt(index)),
            }
        }
        if self.undecided() == 0 {
            return self.plan.clear();
        }
        if self.in_chunks() {
            // Bounded by the size of a message.
            let before_last = usize::try_from(chunks_before_last(self.message.size)).unwrap_or(usize::MAX);
            self.plan.extend(std::iter::repeat_n(Step::Chunk, before_last));
        } else {
            self.plan.push_back(Step::Data);
        }
        self.plan.push_back(Step::End);
    }

    /// What closes the transaction. Where chunks are answered alike, and no 354 comes before them, only the number of
    /// all replies shows that the last one was answered.
    fn closing(&self) -> Step {
        let by_number = !self.profile.reuse || self.in_chunks() && !self.in_single_write();
        if by_number { Step::Quit } else { Step::Rset }
    }

    /// Puts what is to be written next into `out` (for content nothing: that is the connection's). All replies to
    /// what was written before have been fed, as far as [`Transaction::must_hear`] them.
    pub(in crate::delivery) fn next(&mut self, out: &mut Vec<u8>) -> Next {
        if self.dead || self.is_out_of_sync() {
            return Next::Done;
        }
        let Some(&step) = self.plan.front() else { return self.close(out) };
        match step {
            Step::Chunk | Step::End if self.accepted_count > 0 => self.next_content(step),
            // RFC 3030 §2: there is nobody to send it to, and nothing that the host waits for.
            Step::Chunk | Step::End if self.in_chunks() => self.close(out),
            // The host waits for content although it took no recipient. RFC 2920 §3.1: send nothing but the dot.
            Step::Chunk | Step::End => {
                out.extend_from_slice(b".\r\n");
                self.send(step);
                Next::Exchange
            }
            _ => self.next_commands(out),
        }
    }

    /// The command that closes the transaction, where it did not go with the content.
    fn close(&mut self, out: &mut Vec<u8>) -> Next {
        self.plan.clear();
        if !std::mem::take(&mut self.is_open) {
            return Next::Done;
        }
        let step = self.closing();
        self.write(step, out);
        self.in_flight.push_back(step);
        Next::Exchange
    }

    /// What goes out in the same write, behind the end of the content.
    pub(in crate::delivery) fn write_behind_end(&self, out: &mut Vec<u8>) {
        if self.may_pipeline() {
            self.write(self.closing(), out);
        }
    }

    fn next_content(&self, step: Step) -> Next {
        match (self.in_chunks(), step) {
            (false, _) => Next::Content,
            (true, Step::Chunk) => Next::Chunk { bytes: CHUNK_BYTES, last: false },
            (true, _) => Next::Chunk { bytes: last_chunk_bytes(self.message.size), last: true },
        }
    }

    /// As many commands as may be under way.
    fn next_commands(&mut self, out: &mut Vec<u8>) -> Next {
        let in_flight_max = if self.may_pipeline() { COMMANDS_IN_FLIGHT_MAX } else { 1 };
        while self.in_flight.len() < in_flight_max
            && let Some(&step) = self.plan.front()
        {
            let is_pointless = match step {
                Step::Mail | Step::Rset | Step::Quit => false,
                Step::Rcpt(_) => self.undecided() == 0,
                // With RCPTs still in flight it is too early to tell.
                Step::Data => self.in_flight.is_empty() && self.accepted_count == 0,
                Step::End if self.in_single_write() => {
                    // In order until shown otherwise.
                    self.pipelining = PipelineResult::InOrder;
                    return Next::SingleWrite { bytes: self.message.size };
                }
                Step::Chunk | Step::End => break,
            };
            if is_pointless {
                self.plan.clear();
                break;
            }
            self.write(step, out);
            self.send(step);
        }
        if self.in_flight.len() > 1 {
            // In order until shown otherwise.
            self.pipelining = PipelineResult::InOrder;
        }
        if self.in_flight.is_empty() { self.close(out) } else { Next::Exchange }
    }

    fn send(&mut self, step: Step) {
        self.is_open |= step == Step::Mail;
        self.plan.pop_front();
        self.in_flight.push_back(step);
    }

    /// The phase of the oldest command without a reply; none where there is none.
    pub(in crate::delivery) fn awaits(&self) -> Option<Phase> {
        self.in_flight.front().filter(|_| !self.dead).map(|step| step.phase())
    }

    /// In which phase's time the oldest reply is waited for. Behind the content, a host may keep all its replies until
    /// it has looked at that. RSET and QUIT have a command's time: RFC 5321 §4.5.3.2 gives a longer one to nothing but
    /// the content (§4.5.3.2.6).
    pub(in crate::delivery) fn waits_as_for(&self) -> Option<Phase> {
        let phase = self.awaits()?;
        let is_closing = matches!(self.in_flight.front(), Some(Step::Rset | Step::Quit));
        Some(if self.whole && !is_closing { Phase::EndOfData } else { phase })
    }

    /// Whether a reply that [`Transaction::awaits`] has to be waited for before anything more is written. Behind a
    /// chunk another may go out first; a reply that is there already is fed all the same.
    pub(in crate::delivery) fn must_hear(&self) -> bool {
        let in_flight_max = if self.may_pipeline() { CHUNKS_IN_FLIGHT_MAX } else { 1 };
        let is_chunk = |step: Option<&Step>| step == Some(&Step::Chunk);
        let between_chunks = is_chunk(self.in_flight.front()) && is_chunk(self.plan.front());
        !between_chunks || self.in_flight.len() >= in_flight_max
    }

    /// The recipients without a result, by their place in [`Outgoing::recipients`]. Before the end of the
    /// content these are the ones that were accepted, for whom it is, or in a single write may be.
    pub(in crate::delivery) fn undecided_recipients(&self) -> Vec<usize> {
        (0..self.results.len()).filter(|index| self.results[*index].is_none()).collect()
    }

    /// The content and its end, or the chunk, are written, all of them.
    pub(in crate::delivery) fn content_sent(&mut self) {
        if let Some(&step) = self.plan.front() {
            self.whole = step == Step::End;
            self.send(step);
        }
        if self.whole && self.may_pipeline() && std::mem::take(&mut self.is_open) {
            self.in_flight.push_back(self.closing());
        }
    }

    /// The end of it, once there is nothing more to write or to hear.
    pub(in crate::delivery) fn finish(mut self) -> TransactionResult {
        // Every way to the end decides. Should one not: nothing was said.
        self.decide_rest(failed(Failure::no_reply(Stage::of(Phase::Mail), Fault::Lost(None))));
        let out_of_sync = match &self.pipelining {
            PipelineResult::Broken(sign) if self.is_out_of_sync() => Some(sign.failure()),
            _ => self.surplus.as_ref(),
        };
        if let Some(failure) = out_of_sync.cloned() {
            // A reply may have been another's: nobody is refused by one of these. Nor is it known what became of
            // content that went with them.
            self.dead = true;
            let result =
                if self.whole { RecipientResult::InDoubt(failure) } else { RecipientResult::Failed(failure) };
            self.results.fill(Some(result));
        }
        let single_write = self.whole && self.in_single_write();
        let pipelining = match self.pipelining {
            PipelineResult::InOrder if self.dead => PipelineResult::Unused,
            known => known,
        };
        TransactionResult {
            single_write,
            results: self.results.into_iter().flatten().collect(),
            is_usable: !self.dead,
            tells_apart: self.tells_apart && self.accepted_count > 0,
            unasked: self.surplus.or(self.unclosed),
            pipelining,
            chunking: self.chunking,
        }
    }

    fn look_for_pipeline_fault(&mut self, step: Step, reply: &Reply) {
        let in_turn = match step {
            Step::Mail => true,
            Step::Rcpt(_) => self.mail_accepted,
            Step::Data => self.accepted_count > 0,
            Step::Chunk | Step::End | Step::Rset | Step::Quit => return,
        };
        if let Some(sign) = PipelineFault::of_reply(step.phase(), in_turn, reply) {
            self.note(sign);
        }
    }

    /// The first sign stands, and only what was written together can show one.
    fn note(&mut self, sign: PipelineFault) {
        if self.pipelining == PipelineResult::InOrder {
            self.pipelining = PipelineResult::Broken(sign);
        }
    }

    /// Whether replies do not fit the commands.
    fn is_out_of_sync(&self) -> bool {
        if self.surplus.is_some() {
            return true;
        }
        let PipelineResult::Broken(sign) = &self.pipelining else { return false };
        matches!(sign, PipelineFault::Reported(_) | PipelineFault::OutOfSync(_))
    }

    fn may_pipeline(&self) -> bool {
        self.capabilities.pipelining && self.profile.pipelining
    }

    fn may_chunk(&self) -> bool {
        self.capabilities.chunking && self.profile.chunking
    }

    /// The content goes by BDAT; `Commands` has refused what must and cannot.
    fn in_chunks(&self) -> bool {
        let large = self.may_chunk() && self.message.size > CHUNK_BYTES;
        self.message.body == Body::BinaryMime || large || self.in_single_write()
    }

    /// Content and commands leave together.
    fn in_single_write(&self) -> bool {
        let may = self.message.single_write && self.profile.single_write;
        may && self.may_chunk() && self.may_pipeline() && self.message.size <= SINGLE_WRITE_BYTES_MAX
    }

    fn could_be_data(&self) -> bool {
        self.message.body != Body::BinaryMime
    }

    /// Whether a reply to the first chunk says that BDAT itself is not understood (RFC 5321 §4.2.1: x0z is about
    /// syntax), where DATA is another way. Whether the host read the chunk, or took it for commands, cannot be
    /// told: the connection is of no use any more.
    fn is_bdat_unknown(&mut self, reply: &Reply) -> bool {
        // Behind a refused chunk, the ones under way are answered with 503.
        let is_first = self.chunking == ChunkingResult::Unknown && self.undecided() > 0;
        let unknown = self.in_chunks() && self.could_be_data() && is_first && matches!(reply.code, 500..=504);
        if unknown {
            let failure = Failure::BadReply { phase: Phase::EndOfData, reply: reply.clone() };
            self.chunking = ChunkingResult::Refused(failure);
        }
        unknown
    }

    fn undecided(&self) -> usize {
        self.results.iter().filter(|result| result.is_none()).count()
    }

    /// RCPT was refused.
    fn refuse(&mut self, index: usize, reply: Reply) {
        let result = if self.accepted_count > 0 && is_too_many_recipients(&reply) {
            RecipientResult::NextTransaction
        } else {
            failed(Failure::Refused { phase: Phase::Rcpt, reply })
        };
        self.decide(index, result);
    }

    /// The content was answered with 2xx: all that were accepted are done.
    fn deliver(&mut self, reply: &Reply) {
        for index in 0..self.results.len() {
            let notify = self.message.recipients[index].notify;
            let success_asked = notify.is_some_and(|notify| notify.success);
            let traced = self.message.handling.deliver_by.is_some_and(|by| by.trace);
            let relayed = success_asked && !self.capabilities.dsn || traced && notify != Some(Notify::NEVER);
            self.decide(index, RecipientResult::Accepted { reply: reply.clone(), relayed });
        }
    }

    fn host_failed(&mut self, failure: Failure) {
        self.dead = true;
        self.decide_rest(failed(failure));
    }

    fn lost_after_end(&mut self, failure: Failure) {
        self.dead = true;
        self.decide_rest(RecipientResult::InDoubt(failure));
    }

    fn decide_rest(&mut self, result: RecipientResult) {
        for undecided in self.results.iter_mut().filter(|result| result.is_none()) {
            *undecided = Some(result.clone());
        }
    }

    /// The first decision about a recipient stands.
    fn decide(&mut self, index: usize, result: RecipientResult) {
        self.results[index].get_or_insert(result);
    }

    fn write(&self, step: Step, out: &mut Vec<u8>) {
        use std::io::Write as _;
        // Writing to a Vec cannot fail.
        let _ = match step {
            Step::Rset => write!(out, "{Rset}"),
            Step::Mail => write!(out, "{}", self.commands.mail()),
            Step::Rcpt(index) => self.commands.rcpt(index).map_or(Ok(()), |rcpt| write!(out, "{rcpt}")),
            Step::Data => write!(out, "{Data}"),
            Step::Chunk | Step::End => Ok(()),
            Step::Quit => write!(out, "{Quit}"),
        };
    }
}

fn failed(failure: Failure) -> RecipientResult {
    RecipientResult::Failed(failure)
}

fn unsendable(phase: Phase, why: Unsendable) -> Failure {
    Failure::Unsendable { phase, why }
}

#[cfg(test)]
mod tests;
