//! One message over a connection: what `transaction.rs` decides, carried out.
//!
//! A small message on a host with PIPELINING takes two writes: the commands, then the content with its dot; where the
//! host offers CHUNKING too and has taken a batch on this connection before, one.
//!
//! What a host says before it was asked for anything is no answer. So each time before something is written, nothing
//! may be there to be read but the replies that are owed; above all before the end of the content, whose answer decides
//! about the mail, and behind the last reply.

use std::io;
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::mail::{Phase, Reply};

use crate::delivery::smtp::body::chunks::{Chunk, too_long, too_short};
use crate::delivery::smtp::body::content::{Content, Pieces};
use crate::delivery::smtp::body::dot_stuffing::Stuffer;
use crate::delivery::smtp::capabilities::Capabilities;
use crate::delivery::smtp::connection::Connection;
use crate::delivery::smtp::failure::WORDS_BYTES_MAX;
use crate::delivery::smtp::outgoing::Outgoing;
use crate::delivery::smtp::reply_class::ReplyClass;
use crate::delivery::smtp::timeouts::Stage;
use crate::delivery::smtp::transaction::{Next, Transaction, TransactionResult};
use crate::delivery::smtp::wire::{Fault, Look, Timeouts, Wire};

/// How long the end of the stream behind 221 is waited for, and behind anything else that a host says to QUIT.
const QUIT_WAIT: Duration = Duration::from_secs(1);
const ODD_QUIT_WAIT: Duration = Duration::from_secs(10);
/// Replies that are read behind the one to QUIT. A host that says more is not believed.
const BEHIND_QUIT_MAX: usize = 16;
/// How long an answer may take that a host gave before it stopped reading: it is there, or there is none.
const LAST_WORDS_WAIT: Duration = Duration::from_secs(1);

/// A message on its way over a connection.
pub(in crate::delivery) struct Handover<'a, 's, 'c> {
    connection: &'a mut Connection,
    pieces: Pieces<'s, 'c>,
    /// Called right before the write that holds the end of the content.
    before_end: &'a mut dyn FnMut(&[usize]) -> io::Result<()>,
    deadline: Instant,
}

/// Why the content did not go out whole.
enum Unsent {
    /// The host or the network.
    Wire(Fault),
    /// The same, but its end is on the way, and only the command behind that is not.
    BehindEnd,
    /// The queue could not give it, or the intent could not be recorded.
    Ours(io::Error),
}

impl Unsent {
    /// Of a write whose content ends at `end`, and of which so many bytes were taken.
    fn of_end(fault: Fault, taken: usize, end: usize) -> Unsent {
        if taken >= end { Unsent::BehindEnd } else { Unsent::Wire(fault) }
    }
}

impl<'a, 's, 'c> Handover<'a, 's, 'c> {
    /// See [`Connection::deliver`].
    pub(in crate::delivery) fn new(
        connection: &'a mut Connection,
        prefix: &'s [u8],
        content: Content<'s, 'c>,
        before_end: &'a mut dyn FnMut(&[usize]) -> io::Result<()>,
        deadline: Instant,
    ) -> Handover<'a, 's, 'c> {
        Handover { connection, pieces: Pieces::new(prefix, content), before_end, deadline }
    }

    /// From the first command to the last reply.
    pub(in crate::delivery) fn run(
        mut self,
        message: &Outgoing<'_>,
        capabilities: &Capabilities,
    ) -> TransactionResult {
        let profile = self.connection.profile;
        let is_header_ascii = match message.smtputf8 && !capabilities.smtputf8 {
            true => self.pieces.first().map(is_header_ascii),
            false => Ok(true),
        };
        let (is_ascii, unreadable) = match is_header_ascii {
            Ok(is_ascii) => (is_ascii, None),
            Err(error) => (true, Some(error)),
        };
        let mut transaction = Transaction::new(message, capabilities, profile, is_ascii);
        if let Some(error) = unreadable {
            transaction.abandon(error.to_string());
        }
        loop {
            self.connection.out.clear();
            match transaction.next(&mut self.connection.out) {
                Next::Done => {
                    self.look_behind(&mut transaction);
                    return transaction.finish();
                }
                // All that is there, and all that comes, is read before it is decided.
                Next::Exchange if transaction.counts_replies() => {
                    let sent = self.write(self.connection.out.len());
                    self.take_replies(&mut transaction, sent);
                }
                Next::Exchange => {
                    let sent = self.send(self.connection.out.len());
                    self.take_replies(&mut transaction, sent);
                }
                Next::SingleWrite { bytes } => self.write_all_at_once(&mut transaction, bytes),
                Next::Content => self.hand_content_over(&mut transaction, None),
                Next::Chunk { bytes, last } => {
                    self.hand_content_over(&mut transaction, Some((bytes, last)));
                }
            }
        }
    }

    /// The commands in `out`, and behind them all the content as one chunk.
    fn write_all_at_once(&mut self, transaction: &mut Transaction<'_>, bytes: u64) {
        let commands = match gather_behind(&mut self.connection.out, bytes, &mut self.pieces) {
            Ok(commands) => commands,
            Err(error) => return transaction.abandon(error.to_string()),
        };
        let end = self.connection.out.len();
        transaction.write_behind_end(&mut self.connection.out);
        let began = self.connection.wire.begin_content().and_then(|()| silent(&mut self.connection.wire));
        let sent = match began {
            Ok(()) => {
                self.note(0..commands);
                self.note(end..self.connection.out.len());
                self.write_end(end)
            }
            Err(fault) => Err(Unsent::Wire(fault)),
        };
        match sent {
            Err(Unsent::Wire(fault)) => self.take_replies(transaction, Err(fault)),
            // The host has the content.
            _ => {
                transaction.content_sent();
                self.take_replies(transaction, Ok(()));
            }
        }
    }

    /// The content by DATA, or a chunk of it (so many bytes, and whether it is the last), and the reply to that.
    fn hand_content_over(&mut self, transaction: &mut Transaction<'_>, chunk: Option<(u64, bool)>) {
        let answers_due = transaction.awaits().is_some();
        let sent = match chunk {
            None => self.send_content(transaction),
            Some((bytes, last)) => self.send_chunk(transaction, bytes, last, answers_due),
        };
        match sent {
            Ok(()) | Err(Unsent::BehindEnd) => {
                transaction.content_sent();
                self.take_replies(transaction, Ok(()));
            }
            Err(Unsent::Ours(error)) => transaction.abandon(error.to_string()),
            // The content did not go out whole: by what the host says to that, or by the fault where it says nothing.
            Err(Unsent::Wire(fault)) => {
                self.take_due(transaction);
                match self.last_words() {
                    Some(reply) if transaction.is_alive() && transaction.awaits().is_none() => {
                        transaction.take_early(reply);
                    }
                    _ => transaction.lost(Stage::SENDING_CONTENT, fault),
                }
            }
        }
    }

    /// The replies owed to earlier chunks, as far as they are there.
    fn take_due(&mut self, transaction: &mut Transaction<'_>) {
        while transaction.awaits().is_some()
            && let Some(reply) = self.last_words()
        {
            transaction.take(reply);
        }
    }

    /// Writes `out`, whose first bytes are `commands`. All replies to what went before were heard.
    fn send(&mut self, commands: usize) -> Result<(), Fault> {
        silent(&mut self.connection.wire)?;
        self.write(commands)
    }

    fn write(&mut self, commands: usize) -> Result<(), Fault> {
        self.note(0..commands);
        let connection = &mut *self.connection;
        let timeouts = Stage::of(Phase::Mail).timeouts(connection.reply_timeout, self.deadline);
        connection.wire.send(&connection.out, timeouts)
    }

    /// Writes `out`; the content in it ends at `end`.
    fn write_end(&mut self, end: usize) -> Result<(), Unsent> {
        let connection = &mut *self.connection;
        let timeouts = Stage::SENDING_CONTENT.timeouts(connection.reply_timeout, self.deadline);
        let mut taken = 0;
        let sent = connection.wire.send_from(&connection.out, &mut taken, timeouts);
        sent.map_err(|fault| Unsent::of_end(fault, taken, end))
    }

    /// Has commands in `out` noted.
    fn note(&mut self, commands: Range<usize>) {
        let Connection { dialogue, out, .. } = &mut *self.connection;
        String::from_utf8_lossy(&out[commands]).lines().for_each(|line| dialogue.sent(line));
    }

    /// Feeds the transaction with the replies it waits for. Where the commands could not be `sent`, the
    /// host may still have said why (421).
    fn take_replies(&mut self, transaction: &mut Transaction<'_>, sent: Result<(), Fault>) {
        if let Err(fault) = sent {
            match self.last_words() {
                Some(reply) if ReplyClass::of(Phase::Mail, reply.code) == ReplyClass::Closing => {
                    transaction.take(reply);
                }
                Some(reply) if transaction.counts_replies() => transaction.take(reply),
                Some(reply) if fault == Fault::OutOfTurn => transaction.take_surplus(reply),
                _ => transaction.lost(Stage::of(transaction.awaits().unwrap_or(Phase::Mail)), fault),
            }
        }
        while let Some(phase) = transaction.awaits() {
            if !transaction.must_hear() && self.connection.wire.look() == Look::Nothing {
                break;
            }
            let waits_as_for = transaction.waits_as_for().unwrap_or(phase);
            match self.connection.hear(waits_as_for, self.deadline) {
                Ok(reply) => transaction.take(reply),
                Err(fault @ Fault::Lost(_)) if transaction.is_unheard() => {
                    transaction.gone_before(Stage::of(phase), fault);
                }
                Err(fault) => transaction.lost(Stage::of(phase), fault),
            }
        }
    }

    /// All was answered: looks for a reply that is too many.
    fn look_behind(&mut self, transaction: &mut Transaction<'_>) {
        let Connection { wire, dialogue, .. } = &mut *self.connection;
        if let Some(quit) = transaction.has_quit() {
            let deadline = self.deadline.min(Instant::now() + ODD_QUIT_WAIT);
            let (mut code, mut behind) = (quit.code, Vec::new());
            let ended = loop {
                let wait = if matches!(code, 221 | 421) { QUIT_WAIT } else { ODD_QUIT_WAIT };
                match wire.reply(Timeouts { wait, deadline }) {
                    Ok(reply) if behind.len() < BEHIND_QUIT_MAX => {
                        dialogue.heard(&reply);
                        code = reply.code;
                        behind.push(reply.cut(WORDS_BYTES_MAX));
                    }
                    other => break matches!(other, Err(Fault::Lost(_))),
                }
            };
            transaction.take_behind_quit(behind, ended);
        } else if transaction.is_alive() && wire.look() == Look::Spoke {
            match self.last_words() {
                Some(reply) => transaction.take_surplus(reply),
                None => transaction.lost(Stage::of(Phase::EndOfData), Fault::OutOfTurn),
            }
        }
    }

    /// What the host said before it stopped listening.
    fn last_words(&mut self) -> Option<Reply> {
        let wait = LAST_WORDS_WAIT.min(self.connection.reply_timeout);
        let timeouts = Timeouts { wait, deadline: self.deadline };
        let reply = self.connection.wire.reply(timeouts).ok()?.cut(WORDS_BYTES_MAX);
        self.connection.dialogue.heard(&reply);
        Some(reply)
    }

    fn send_content(&mut self, transaction: &Transaction<'_>) -> Result<(), Unsent> {
        let timeouts = Stage::SENDING_CONTENT.timeouts(self.connection.reply_timeout, self.deadline);
        let Connection { wire, out, .. } = &mut *self.connection;
        wire.begin_content().map_err(Unsent::Wire)?;
        let mut stuffer = Stuffer::new();
        out.clear();
        while let Some(piece) = self.pieces.next(u64::MAX).map_err(Unsent::Ours)? {
            silent(wire).map_err(Unsent::Wire)?;
            let mut write = |bytes: &[u8]| wire.send(bytes, timeouts).map_err(Unsent::Wire);
            stuffer.stuff(piece, out, &mut write)?;
        }
        stuffer.finish(out);
        self.connection.dialogue.sent("(the content, and its final dot)");
        self.end(transaction)
    }

    /// What is left in `out`, the end of the content, and what goes behind it.
    fn end(&mut self, transaction: &Transaction<'_>) -> Result<(), Unsent> {
        let end = self.connection.out.len();
        transaction.write_behind_end(&mut self.connection.out);
        (self.before_end)(&transaction.undecided_recipients()).map_err(Unsent::Ours)?;
        silent(&mut self.connection.wire).map_err(Unsent::Wire)?;
        self.note(end..self.connection.out.len());
        self.write_end(end)
    }

    /// As `send_content`, one chunk by BDAT. `answers_due`: replies to earlier ones may come meanwhile.
    fn send_chunk(
        &mut self,
        transaction: &Transaction<'_>,
        bytes: u64,
        last: bool,
        answers_due: bool,
    ) -> Result<(), Unsent> {
        let timeouts = Stage::SENDING_CONTENT.timeouts(self.connection.reply_timeout, self.deadline);
        let Connection { wire, out, dialogue, .. } = &mut *self.connection;
        wire.begin_content().map_err(Unsent::Wire)?;
        dialogue.sent(&format!("BDAT {bytes}{}", if last { " LAST" } else { "" }));
        out.clear();
        let mut chunk = Chunk::begin(bytes, last, out);
        while chunk.left() > 0 {
            // Nothing is owed to us before the end of the chunk: a host that takes it for commands, or is gone.
            if !answers_due && wire.look() != Look::Nothing {
                return Err(Unsent::Wire(Fault::Lost(None)));
            }
            let piece = self.pieces.next(chunk.left()).map_err(Unsent::Ours)?;
            let piece = piece.ok_or_else(|| Unsent::Ours(too_short()))?;
            let mut write = |bytes: &[u8]| wire.send(bytes, timeouts).map_err(Unsent::Wire);
            chunk.take(piece, out, &mut write, Unsent::Ours)?;
        }
        if last {
            if self.pieces.next(1).map_err(Unsent::Ours)?.is_some() {
                return Err(Unsent::Ours(too_long()));
            }
            return self.end(transaction);
        }
        wire.send(out, timeouts).map_err(Unsent::Wire)
    }
}

/// Nothing is there to be read. That a host has closed is found out by whoever reads its answer.
fn silent(wire: &mut Wire) -> Result<(), Fault> {
    if wire.look() == Look::Spoke { Err(Fault::OutOfTurn) } else { Ok(()) }
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

/// Whether the header in the first chunk is plain ASCII. A header longer than a chunk is judged by
/// its beginning.
fn is_header_ascii(chunk: &[u8]) -> bool {
    let end = memchr::memmem::find(chunk, b"\r\n\r\n").unwrap_or(chunk.len());
    chunk[..end].is_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where only the RSET behind it is missing, the host may take the message: that is no failure to send it.
    #[test]
    fn content_is_sent_once_its_end_is_on_the_way() {
        let end = |taken| Unsent::of_end(Fault::TimedOut, taken, 10);
        assert!(matches!(end(9), Unsent::Wire(Fault::TimedOut)));
        assert!(matches!(end(10), Unsent::BehindEnd));
        assert!(matches!(end(14), Unsent::BehindEnd));
    }
}
