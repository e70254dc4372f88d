//! A connection to one host on which messages are handed over.
//!
//! `connector.rs` opens connections, `handover.rs` carries a message over one, each stage in its time (`timeouts.rs`).

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lettre::transport::smtp::commands::Quit;

use crate::mail::{Phase, Reply};

use crate::delivery::smtp::capabilities::Capabilities;
use crate::delivery::smtp::dialogue::Dialogue;
use crate::delivery::smtp::failure::{Failure, WORDS_BYTES_MAX};
use crate::delivery::smtp::handover::Handover;
use crate::delivery::smtp::outgoing::Outgoing;
use crate::delivery::smtp::pipeline::PipelineResult;
use crate::delivery::smtp::profile::Profile;
use crate::delivery::smtp::reply_class::ReplyClass;
use crate::delivery::smtp::timeouts::Stage;
use crate::delivery::smtp::tls::Encryption;
use crate::delivery::smtp::transaction::{ChunkingResult, RecipientResult, TransactionResult};
use crate::delivery::smtp::wire::{Fault, Look, Timeouts, Wire};

pub use crate::delivery::smtp::body::content::Content;
pub use crate::delivery::smtp::connector::Connector;

/// How long the reply to QUIT is waited for. RFC 5321 §4.1.1.10 wants it waited for; nothing depends on it.
const QUIT_WAIT: Duration = Duration::from_secs(1);
/// Why a connection could not be used for mail; said before any message was tried on it.
#[derive(Debug, thiserror::Error)]
#[error("{failure}")]
pub struct OpenFailure {
    /// What happened.
    pub failure: Failure,
    /// The connection at that moment; none before there was one.
    pub(in crate::delivery) ended: Option<Box<Ended>>,
}

/// What is left of a connection that could not be used.
#[derive(Debug)]
pub(in crate::delivery) struct Ended {
    pub(in crate::delivery) tls: Encryption,
    /// What was said until then.
    pub(in crate::delivery) dialogue: Box<Dialogue>,
}

impl OpenFailure {
    /// There was no connection.
    pub(in crate::delivery) fn unconnected(fault: Fault) -> OpenFailure {
        OpenFailure { failure: Failure::Dial(fault), ended: None }
    }

    /// It ended so.
    pub(in crate::delivery) fn of(failure: Failure, connection: Connection) -> OpenFailure {
        let Connection { tls, dialogue, .. } = connection;
        OpenFailure { failure, ended: Some(Box::new(Ended { tls, dialogue })) }
    }

    /// TLS at that moment; none before there was a connection.
    pub fn tls(&self) -> Option<Encryption> {
        self.ended.as_ref().map(|ended| ended.tls)
    }

    /// What was said until then, likewise.
    pub(in crate::delivery) fn dialogue(&self) -> Option<&Dialogue> {
        self.ended.as_ref().map(|ended| &*ended.dialogue)
    }
}

/// What came of one message on a connection.
#[derive(Debug)]
pub struct Delivery {
    /// In the recipients' order.
    pub results: Vec<RecipientResult>,
    /// How the host took commands that were written together.
    pub pipelining: PipelineResult,
    /// How the host took chunks.
    pub chunking: ChunkingResult,
    /// It went out in a single write.
    pub single_write: bool,
    /// The host gave a reply too many, or none to what closes a transaction.
    pub unasked: Option<Failure>,
}

impl Delivery {
    /// Nothing was said to the host, and all recipients are left with this.
    pub fn unsent(recipients: usize, failure: &Failure) -> Delivery {
        Delivery {
            results: vec![RecipientResult::Failed(failure.clone()); recipients],
            pipelining: PipelineResult::Unused,
            chunking: ChunkingResult::Unknown,
            single_write: false,
            unasked: None,
        }
    }
}

/// An open connection to a host that has greeted us and takes mail.
#[derive(Debug)]
pub struct Connection {
    pub(in crate::delivery) wire: Wire,
    /// What the host said to EHLO.
    pub(in crate::delivery) capabilities: Arc<Capabilities>,
    /// What of that is used.
    pub(in crate::delivery) profile: Profile,
    /// What was said so far.
    pub(in crate::delivery) dialogue: Box<Dialogue>,
    pub(in crate::delivery) tls: Encryption,
    /// What is wrong with the certificate, where a policy that is being tested asks for one that holds.
    pub(in crate::delivery) refusal: Option<rustls::Error>,
    pub(in crate::delivery) reply_timeout: Duration,
    pub(in crate::delivery) opened_at: Instant,
    /// Of the settings that it was opened by.
    pub(in crate::delivery) generation: u64,
    messages: usize,
    is_usable: bool,
    /// By the enhanced codes of the last message's replies, MAIL, RCPT and content cannot be taken for one another.
    tells_apart: bool,
    /// Commands written together went well, and whoever asked was told.
    pipelining_proved: bool,
    pub(in crate::delivery) out: Vec<u8>,
}

impl Connection {
    pub(in crate::delivery) fn new(
        wire: Wire,
        host: String,
        profile: Profile,
        reply_timeout: Duration,
    ) -> Connection {
        Connection {
            wire,
            capabilities: Arc::default(),
            profile,
            dialogue: Box::new(Dialogue::new(host)),
            tls: Encryption::None,
            refusal: None,
            reply_timeout,
            opened_at: Instant::now(),
            generation: 0,
            messages: 0,
            is_usable: true,
            tells_apart: false,
            pipelining_proved: false,
            out: Vec::new(),
        }
    }

    /// Hands one message over.
    ///
    /// `content` is called only once the host wants it, and goes behind the prefix; `before_end` right before the write
    /// that holds the end of the content, with the places of the recipients that the host accepted, for whoever has to
    /// record that an answer is about to be in doubt. If either fails, the connection is cut so that the host takes
    /// nothing. Nothing is waited for past `deadline`.
    pub fn deliver(
        &mut self,
        message: &Outgoing<'_>,
        content: Content<'_, '_>,
        before_end: &mut dyn FnMut(&[usize]) -> io::Result<()>,
        deadline: Instant,
    ) -> Delivery {
        self.messages += 1;
        // The first message shows whether the host takes a batch, and whether its replies can be told from one another
        // where no 354 stands between them.
        let single_write = message.single_write && self.pipelining_proved && self.tells_apart;
        let message = &Outgoing { single_write, ..*message };
        let capabilities = Arc::clone(&self.capabilities);
        let result =
            Handover::new(self, message.prefix, content, before_end, deadline).run(message, &capabilities);
        self.wire.end_content();
        self.is_usable = result.is_usable;
        if !self.is_usable {
            self.wire.close();
        }
        self.tells_apart = result.tells_apart;
        let TransactionResult { results, pipelining, chunking, single_write, unasked, .. } = result;
        Delivery { results, pipelining, chunking, single_write, unasked }
    }

    /// Whether another message may be handed over on this connection.
    pub fn is_usable(&self) -> bool {
        self.is_usable
    }

    /// Looks whether the connection is still good: for one that was idle for a while. Gives no failure where the host
    /// has closed it (RFC 5321 §3.8: 421 says that), but one where it said what nobody asked for. Nothing is waited
    /// for: what half a line would have become is not known, and nobody learns from it.
    ///
    /// # Errors
    /// It is not.
    pub fn look_after_idling(&mut self) -> Result<(), Option<Failure>> {
        match self.wire.look() {
            Look::Nothing => return Ok(()),
            Look::Closed => return Err(None),
            Look::Spoke => {}
        }
        let phase = Phase::Mail;
        Err(match self.wire.reply_at_hand() {
            Ok(Some(reply)) if ReplyClass::of(phase, reply.code) == ReplyClass::Closing => None,
            Ok(Some(reply)) => Some(Failure::BadReply { phase, reply: reply.cut(WORDS_BYTES_MAX) }),
            Ok(None) => None,
            Err(_) => Some(Failure::no_reply(Stage::of(phase), Fault::OutOfTurn)),
        })
    }

    /// Whether a message that requires TLS may be handed over here (RFC 8689 §4.2.1): the certificate holds, and
    /// the host says that it keeps the requirement.
    pub fn keeps_require_tls(&self) -> bool {
        self.tls.is_verified() && self.capabilities.require_tls
    }

    /// Recipients of a transaction and transactions on this connection, as the host limits them (RFC 9422).
    pub fn limits(&self) -> (Option<usize>, Option<usize>) {
        (self.capabilities.recipients_max, self.capabilities.mails_max)
    }

    /// Commands written together went well: whether that is news. Once on each connection is enough to know.
    pub(in crate::delivery) fn prove_pipelining(&mut self) -> bool {
        !std::mem::replace(&mut self.pipelining_proved, true)
    }

    /// Messages tried on it so far.
    pub fn messages(&self) -> usize {
        self.messages
    }

    /// TLS in use.
    pub fn tls(&self) -> Encryption {
        self.tls
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
            let usable = connection.is_usable;
            connection.is_usable = usable && connection.wire.send(quit.as_bytes(), timeouts).is_ok();
        }
        for mut connection in all {
            if connection.is_usable {
                let _ = connection.wire.reply(timeouts);
            }
            connection.wire.close();
        }
    }

    /// Sends one command and reads its reply. `shown` stands for what nobody must read in the log or the dialogue.
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
        self.dialogue.sent(shown.unwrap_or(command).trim_end());
        self.wire.send(command.as_bytes(), Stage::of(phase).timeouts(self.reply_timeout, deadline))?;
        self.hear(phase, deadline)
    }

    /// Reads the reply that the host owes in `phase`.
    pub(in crate::delivery) fn hear(&mut self, phase: Phase, deadline: Instant) -> Result<Reply, Fault> {
        let reply = self.wire.reply(Stage::of(phase).timeouts(self.reply_timeout, deadline))?;
        self.dialogue.heard(&reply);
        Ok(match phase {
            // What they say is more than an answer to be quoted.
            Phase::Ehlo | Phase::Auth => reply,
            _ => reply.cut(WORDS_BYTES_MAX),
        })
    }
}

#[cfg(test)]
mod tests;
