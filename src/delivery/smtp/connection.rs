//! A connection to one host on which messages are handed over.
//!
//! What is sent and what answers mean is decided in `transaction.rs`; here it is carried out, each stage in its
//! time (`stages.rs`). A small
//! message on a host with PIPELINING takes two writes: the commands, then the content with its dot; where the host
//! offers CHUNKING too and has taken a batch on this connection before, one. `connector.rs` opens connections.
//!
//! # Bugs
//! While content is being written by DATA, nothing is read: a host that refuses it early is heard only once
//! it stops reading or the content is out.

use std::io;
use std::time::{Duration, Instant};

use lettre::transport::smtp::commands::Quit;

use crate::mail::{Enhanced, Phase, Reply};

use crate::delivery::smtp::body::chunks::{Chunk, too_long, too_short};
use crate::delivery::smtp::body::content::Pieces;
use crate::delivery::smtp::body::dot_stuffing::Stuffer;
use crate::delivery::smtp::capabilities::Capabilities;
use crate::delivery::smtp::outgoing::Outgoing;
use crate::delivery::smtp::pipeline::Batch;
use crate::delivery::smtp::reply_class::{Meaning, RecipientResult, TroubleKind, meaning};
use crate::delivery::smtp::timeouts::{SENDING_CONTENT, Stage, words};
use crate::delivery::smtp::transaction::{After, Bdat, Next, Transaction};
use crate::delivery::smtp::wire::{Fault, Timeouts, Wire};

pub use crate::delivery::smtp::body::content::Content;
pub use crate::delivery::smtp::connector::Connector;

/// How long the reply to QUIT is waited for. RFC 5321 §4.1.1.10 wants it waited for; nothing depends on it.
const QUIT_WAIT: Duration = Duration::from_secs(1);
/// Characters of an answer that are kept: several full lines. A row in the database, a line in the log and perhaps
/// a report has them for each recipient and try, and a reply may have 64 KiB, most of them escaped.
pub(in crate::delivery) const WORDS_CHARS_MAX: usize = 4000;
/// How long an answer may take that a host gave before it stopped reading: it is there, or there is none.
const LAST_WORDS_WAIT: Duration = Duration::from_secs(1);

/// Why a connection could not be used for mail; said before any message was tried on it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {reply}", phase.as_str())]
pub struct Trouble {
    /// Where it happened.
    pub phase: Phase,
    /// The host's words, or ours (421 or 451 with 4.4.x) where it had none.
    pub reply: Reply,
    /// TLS at that moment, as in [`Connection::tls`]; none before there was a connection.
    pub tls: Option<String>,
    /// What it means.
    pub kind: TroubleKind,
}

/// An open connection to a host that has greeted us and takes mail.
#[derive(Debug)]
pub struct Connection {
    pub(in crate::delivery) wire: Wire,
    pub(in crate::delivery) capabilities: Capabilities,
    /// For the dialogue in the debug log.
    pub(in crate::delivery) host: String,
    pub(in crate::delivery) tls: String,
    pub(in crate::delivery) reply_timeout: Duration,
    messages: usize,
    after: After,
    /// How the host took the commands of the last transaction.
    pub(in crate::delivery) batch: Batch,
    /// How it took its chunks.
    pub(in crate::delivery) bdat: Bdat,
    /// The last message went in one go.
    pub(in crate::delivery) went_in_one: bool,
    /// One went well, and whoever asked was told.
    took_a_batch: bool,
    out: Vec<u8>,
}

/// Why the content did not go out whole.
enum Unsent {
    /// The host or the network.
    Wire(Fault),
    /// The queue could not give it, or the intent could not be recorded.
    Ours(io::Error),
    /// The host spoke, or went away, before it had the chunk.
    Interrupted,
}

impl Connection {
    pub(in crate::delivery) fn new(wire: Wire, host: String, reply_timeout: Duration) -> Connection {
        Connection {
            wire,
            capabilities: Capabilities::default(),
            host,
            tls: "none".to_owned(),
            reply_timeout,
            messages: 0,
            after: After { usable: true, needs_reset: false },
            batch: Batch::None,
            bdat: Bdat::Unknown,
            went_in_one: false,
            took_a_batch: false,
            out: Vec::new(),
        }
    }

    /// Hands one message over and gives a result for each recipient, in their order.
    ///
    /// `content` is called only once the host wants it; `before_dot` right before the write that holds
    /// the final dot, with the places of the recipients that the host accepted, for whoever has to record
    /// that an answer is about to be in doubt. If either fails, the connection is cut so that the host takes
    /// nothing, and the recipients are deferred. Nothing is waited for past `deadline`.
    pub fn deliver(
        &mut self,
        message: &Outgoing<'_>,
        content: Content<'_, '_>,
        before_dot: &mut dyn FnMut(&[usize]) -> io::Result<()>,
        deadline: Instant,
    ) -> Vec<RecipientResult> {
        self.messages += 1;
        self.went_in_one = false;
        let capabilities = std::mem::take(&mut self.capabilities);
        // The first message shows whether the host takes a batch, and what RSET has to clear away comes before all
        // else. A reply to nothing would be taken for the first, and so the last but one for the answer to the
        // content: where content goes behind 354 that comes to light, here it would not.
        let in_one_go =
            message.in_one_go && self.took_a_batch && !self.after.needs_reset && !self.wire.has_spoken();
        let message = &Outgoing { in_one_go, ..*message };
        let mut pieces = Pieces::new(content);
        let mut header_is_ascii = true;
        let mut unreadable = None;
        if message.smtputf8 && !capabilities.smtputf8 {
            match pieces.first() {
                Ok(piece) => header_is_ascii = is_header_ascii(piece),
                Err(error) => unreadable = Some(error),
            }
        }
        let mut transaction =
            Transaction::new(message, &capabilities, self.after.needs_reset, header_is_ascii);
        if let Some(error) = unreadable {
            transaction.abandon(&our_fault(&error));
        }
        loop {
            self.out.clear();
            match transaction.next(&mut self.out) {
                Next::Done => break,
                Next::Exchange => {
                    let sent = self.send_commands(deadline);
                    self.take_replies(&mut transaction, sent, deadline);
                }
                Next::InOneGo { bytes } => match gather_behind(&mut self.out, bytes, &mut pieces) {
                    Ok(commands) => {
                        self.went_in_one = true;
                        let sent = self.send_batch(commands, deadline);
                        if sent.is_ok() {
                            transaction.content_sent();
                        }
                        self.take_replies(&mut transaction, sent, deadline);
                    }
                    Err(error) => transaction.abandon(&our_fault(&error)),
                },
                // A reply to nothing would be taken for the answer to the content.
                Next::Content | Next::Chunk { .. }
                    if transaction.awaits().is_none() && self.wire.spoke_out_of_turn() =>
                {
                    transaction.lost(&words(&Fault::OutOfTurn, Stage::of(Phase::Data)));
                }
                Next::Content => {
                    let mut before = || before_dot(&transaction.accepted());
                    let sent = self.send_content(&mut pieces, &mut before, deadline);
                    self.settle_content(&mut transaction, sent, deadline);
                }
                Next::Chunk { bytes, last } => {
                    let mut before = || if last { before_dot(&transaction.accepted()) } else { Ok(()) };
                    let answers_due = transaction.awaits().is_some();
                    let chunk = OneChunk { bytes, last, answers_due };
                    let sent = self.send_chunk(chunk, &mut pieces, &mut before, deadline);
                    self.settle_content(&mut transaction, sent, deadline);
                }
            }
        }
        self.batch = transaction.batch();
        self.bdat = transaction.bdat();
        let (results, after) = transaction.finish();
        self.after = after;
        if !after.usable {
            self.wire.close();
        }
        self.capabilities = capabilities;
        results
    }

    /// Whether another message may be handed over on this connection.
    pub fn is_usable(&self) -> bool {
        self.after.usable
    }

    /// Whether the host has closed the connection or spoken since the last message. A few system
    /// calls: for connections that were idle for a while.
    pub fn is_stale(&self) -> bool {
        self.wire.spoke_out_of_turn() || self.wire.is_stale()
    }

    /// Whether a message that requires TLS may be handed over here (RFC 8689 §4.2.1): the certificate holds, and
    /// the host says that it keeps the requirement.
    pub fn keeps_require_tls(&self) -> bool {
        self.is_verified() && self.capabilities.require_tls
    }

    /// Whether the certificate was verified.
    pub fn is_verified(&self) -> bool {
        self.tls.ends_with(" verified")
    }

    /// Recipients of a transaction and transactions on this connection, as the host limits them (RFC 9422).
    pub fn limits(&self) -> (Option<usize>, Option<usize>) {
        (self.capabilities.recipients_max, self.capabilities.mails_max)
    }

    /// Asked after a batch went well: whether it is the first time. Once on each connection is enough to know.
    pub(in crate::delivery) fn is_first_batch(&mut self) -> bool {
        !std::mem::replace(&mut self.took_a_batch, true)
    }

    /// Whether one went well, as far as anybody asked.
    pub(in crate::delivery) fn took_a_batch(&self) -> bool {
        self.took_a_batch
    }

    /// Messages tried on it so far.
    pub fn messages(&self) -> usize {
        self.messages
    }

    /// TLS in use: `none`, or the version, and `verified` where the certificate was: `TLSv1.3 verified`.
    pub fn tls(&self) -> &str {
        &self.tls
    }

    /// Says QUIT and closes.
    pub fn quit(self) {
        Connection::quit_all(vec![self]);
    }

    /// Says QUIT on all and closes them: together, so that many hosts that do not answer cost no more than one.
    pub(in crate::delivery) fn quit_all(mut all: Vec<Connection>) {
        let timeouts = Timeouts { wait: QUIT_WAIT, deadline: Instant::now() + QUIT_WAIT };
        // RFC 5321 §4.1.1.10. Whatever comes of it, the connections are over.
        let quit = Quit.to_string();
        for connection in &mut all {
            let usable = connection.after.usable;
            connection.after.usable = usable && connection.wire.send(quit.as_bytes(), timeouts).is_ok();
        }
        for mut connection in all {
            if connection.after.usable {
                let _ = connection.wire.reply(timeouts);
            }
            connection.wire.close();
        }
    }

    /// Sends one command and reads its reply. `shown` stands in the debug log for what must not be read there.
    pub(in crate::delivery) fn ask(
        &mut self,
        phase: Phase,
        command: &str,
        shown: Option<&str>,
        deadline: Instant,
    ) -> Result<Reply, Fault> {
        if self.wire.spoke_out_of_turn() {
            return Err(Fault::OutOfTurn);
        }
        log::debug!("{} < {}", self.host, shown.unwrap_or(command).trim_end());
        let timeouts = Stage::of(phase).timeouts(self.reply_timeout, deadline);
        self.wire.send(command.as_bytes(), timeouts)?;
        self.hear(phase, deadline)
    }

    /// Reads the reply that the host owes in `phase`.
    pub(in crate::delivery) fn hear(&mut self, phase: Phase, deadline: Instant) -> Result<Reply, Fault> {
        let reply = self.wire.reply(Stage::of(phase).timeouts(self.reply_timeout, deadline))?;
        log::debug!("{} > {reply}", self.host);
        Ok(match phase {
            // What they say is more than an answer to be quoted.
            Phase::Ehlo | Phase::Auth => reply,
            _ => reply.cut(WORDS_CHARS_MAX),
        })
    }

    /// Writes the commands in `out`.
    fn send_commands(&mut self, deadline: Instant) -> Result<(), Fault> {
        self.send_batch(self.out.len(), deadline)
    }

    /// Writes `out`, whose first bytes are `commands`.
    fn send_batch(&mut self, commands: usize, deadline: Instant) -> Result<(), Fault> {
        if self.wire.spoke_out_of_turn() {
            return Err(Fault::OutOfTurn);
        }
        if log::log_enabled!(log::Level::Debug) {
            for line in String::from_utf8_lossy(&self.out[..commands]).lines() {
                log::debug!("{} < {line}", self.host);
            }
        }
        let timeouts = Stage::of(Phase::Mail).timeouts(self.reply_timeout, deadline);
        self.wire.send(&self.out, timeouts)
    }

    /// Feeds the transaction with the replies it waits for. Where the commands could not be `sent`, the
    /// host may still have said why (421).
    fn take_replies(
        &mut self,
        transaction: &mut Transaction<'_>,
        sent: Result<(), Fault>,
        deadline: Instant,
    ) {
        if let Err(fault) = sent {
            match self.last_words(deadline) {
                Some(reply) if meaning(Phase::Mail, reply.code) == Meaning::Closing => {
                    transaction.take(reply)
                }
                _ => transaction.lost(&words(&fault, Stage::of(transaction.awaits().unwrap_or(Phase::Mail)))),
            }
        }
        while let Some(phase) = transaction.awaits() {
            if !transaction.must_hear() && !self.wire.has_spoken() {
                break;
            }
            // Behind the content, a host may keep all its replies until it has looked at that.
            let stage = if transaction.is_all_sent() { Phase::EndOfData } else { phase };
            match self.hear(stage, deadline) {
                Ok(reply) => transaction.take(reply),
                Err(fault @ Fault::Lost(_)) if transaction.is_unheard() => {
                    transaction.gone_before(&words(&fault, Stage::of(phase)));
                }
                Err(fault) => transaction.lost(&words(&fault, Stage::of(phase))),
            }
        }
    }

    /// Takes the reply to the content, or what came of it instead.
    fn settle_content(
        &mut self,
        transaction: &mut Transaction<'_>,
        sent: Result<(), Unsent>,
        deadline: Instant,
    ) {
        match sent {
            Ok(()) => {
                transaction.content_sent();
                self.take_replies(transaction, Ok(()), deadline);
            }
            Err(Unsent::Ours(error)) => transaction.abandon(&our_fault(&error)),
            Err(Unsent::Wire(fault)) => self.settle_cut_off(transaction, &fault, deadline),
            Err(Unsent::Interrupted) => self.settle_cut_off(transaction, &Fault::Lost(None), deadline),
        }
    }

    /// The content did not go out whole: by what the host says to that, or by the `fault` where it says nothing.
    fn settle_cut_off(&mut self, transaction: &mut Transaction<'_>, fault: &Fault, deadline: Instant) {
        match self.last_words(deadline) {
            Some(reply) => transaction.take_early(&reply),
            None => transaction.lost(&words(fault, SENDING_CONTENT)),
        }
    }

    /// What the host said before it stopped listening.
    fn last_words(&mut self, deadline: Instant) -> Option<Reply> {
        let timeouts = Timeouts { wait: LAST_WORDS_WAIT.min(self.reply_timeout), deadline };
        self.wire.reply(timeouts).ok().map(|reply| reply.cut(WORDS_CHARS_MAX))
    }

    fn send_content(
        &mut self,
        pieces: &mut Pieces<'_, '_>,
        before_dot: &mut dyn FnMut() -> io::Result<()>,
        deadline: Instant,
    ) -> Result<(), Unsent> {
        let timeouts = SENDING_CONTENT.timeouts(self.reply_timeout, deadline);
        let Connection { wire, out, .. } = self;
        let mut write = |bytes: &[u8]| wire.send(bytes, timeouts).map_err(Unsent::Wire);
        let mut stuffer = Stuffer::new();
        out.clear();
        while let Some(piece) = pieces.next(u64::MAX).map_err(Unsent::Ours)? {
            stuffer.stuff(piece, out, &mut write)?;
        }
        stuffer.finish(out);
        before_dot().map_err(Unsent::Ours)?;
        write(out)
    }

    /// As `send_content`, one chunk by BDAT.
    fn send_chunk(
        &mut self,
        OneChunk { bytes, last, answers_due }: OneChunk,
        pieces: &mut Pieces<'_, '_>,
        before_end: &mut dyn FnMut() -> io::Result<()>,
        deadline: Instant,
    ) -> Result<(), Unsent> {
        let timeouts = SENDING_CONTENT.timeouts(self.reply_timeout, deadline);
        let Connection { wire, out, host, .. } = self;
        log::debug!("{host} < BDAT {bytes}{}", if last { " LAST" } else { "" });
        out.clear();
        let mut chunk = Chunk::begin(bytes, last, out);
        while chunk.left() > 0 {
            let piece = pieces.next(chunk.left()).map_err(Unsent::Ours)?;
            let piece = piece.ok_or_else(|| Unsent::Ours(too_short()))?;
            let mut write = |bytes: &[u8]| wire.send(bytes, timeouts).map_err(Unsent::Wire);
            chunk.take(piece, out, &mut write, Unsent::Ours)?;
            // Nothing is owed to us before the end of the chunk: a host that takes it for commands, or is gone.
            if !answers_due && chunk.left() > 0 && wire.has_spoken() {
                return Err(Unsent::Interrupted);
            }
        }
        if last && pieces.next(1).map_err(Unsent::Ours)?.is_some() {
            return Err(Unsent::Ours(too_long()));
        }
        before_end().map_err(Unsent::Ours)?;
        wire.send(out, timeouts).map_err(Unsent::Wire)
    }
}

/// All the content, as one chunk behind the commands in `out`. It is small, and gathered before anything is
/// written: a queue that cannot be read has cost the host nothing. Gives how many of the bytes are commands.
fn gather_behind(out: &mut Vec<u8>, bytes: u64, pieces: &mut Pieces<'_, '_>) -> io::Result<usize> {
    let mut chunk = Chunk::begin(bytes, true, out);
    let commands = out.len();
    while chunk.left() > 0 {
        let piece = pieces.next(chunk.left())?.ok_or_else(too_short)?;
        chunk.gather(piece, out);
    }
    if pieces.next(1)?.is_some() { Err(too_long()) } else { Ok(commands) }
}

/// What is to be sent by one BDAT.
struct OneChunk {
    bytes: u64,
    last: bool,
    /// Replies to earlier chunks may come while it is sent.
    answers_due: bool,
}

/// 451 4.3.0: our own mail system is at fault (RFC 3463 §3.4).
fn our_fault(error: &io::Error) -> Reply {
    let text = format!("Postrider could not send the content: {error}");
    Reply::new(451, Enhanced(4, 3, 0), "").with_text(text)
}

/// Whether the header in the first chunk is plain ASCII. A header longer than a chunk is judged by
/// its beginning.
fn is_header_ascii(chunk: &[u8]) -> bool {
    let end = memchr::memmem::find(chunk, b"\r\n\r\n").unwrap_or(chunk.len());
    chunk[..end].is_ascii()
}

#[cfg(test)]
mod tests;
