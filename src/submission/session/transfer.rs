//! Content on its way from the wire into an intake: DATA's in one go, BDAT's chunk by chunk.
//!
//! Only the pace is judged here: content that comes in drips is not waited for. `message/content.rs` and the size
//! of a chunk say where the content ends, `message/intake.rs` says what becomes of it. Between chunks the message
//! waits in the session. A transaction that ends without its last chunk drops the message, and the queue forgets
//! the pieces that it had.

use std::time::{Duration, Instant};

use crate::mail::{Envelope, Reply};

use crate::submission::message::chunk::ChunkReader;
use crate::submission::message::content::DataReader;
use crate::submission::message::intake::{Intake, Submitted};
use crate::submission::message::trace::Protocol;
use crate::submission::protocol::dispatch;
use crate::submission::protocol::state::State;
use crate::submission::replies;
use crate::submission::session::{End, Flow, Incoming, Session};
use crate::submission::syntax::command::Chunk;
use crate::submission::wire::connection::WireError;

/// The slowest pace of content that is waited for, beyond twice the idle time-out.
const CONTENT_BYTES_PER_SEC_MIN: u64 = 1 << 10;

impl<'a> Session<'a> {
    /// Reads the content behind a 354, queues the message and gives the reply.
    pub(super) fn receive(&mut self, state: &State, envelope: Envelope) -> Result<Reply, End> {
        let mut intake = self.intake(state, envelope);
        let mut reader = DataReader::new();
        let begin = Instant::now();
        loop {
            let input = self.content(begin, intake.received_bytes())?;
            let fed = reader.feed(input, intake.buffer());
            self.wire.consume(fed.consumed);
            intake.advance();
            if fed.ended {
                self.stay()?;
                return Ok(self.finish(intake));
            }
        }
    }

    /// Reads a chunk and answers it; with the last one, or one that is refused, the message is done with.
    pub(super) fn receive_chunk(&mut self, state: State, chunk: Chunk, envelope: Option<Envelope>) -> Flow {
        let incoming = match envelope {
            Some(envelope) => {
                let reader = ChunkReader::new(envelope.body);
                Some(Incoming { intake: self.intake(&state, envelope), reader })
            }
            None => self.scratch.incoming.take(),
        };
        // The protocol sends no envelope only behind a chunk that left a message here.
        let Some(Incoming { mut intake, mut reader }) = incoming else { return Err(End::Lost) };
        let begin = Instant::now();
        let mut left = chunk.bytes;
        while left > 0 {
            let input = self.content(begin, chunk.bytes - left)?;
            let taken = up_to(input, left);
            reader.feed(taken, intake.buffer());
            let taken = taken.len();
            self.wire.consume(taken);
            left -= taken as u64;
            intake.advance();
        }
        if chunk.last {
            self.stay()?;
            let body = reader.finish(intake.buffer());
            intake.set_body(body);
            intake.advance();
            let reply = self.finish(intake);
            self.say(&reply)?;
            Ok(state)
        } else if intake.is_refused() {
            self.say(&intake.finish())?;
            Ok(dispatch::chunk_refused(state))
        } else {
            self.scratch.incoming = Some(Incoming { intake, reader });
            self.say(&replies::chunk_received(chunk.bytes))?;
            Ok(state)
        }
    }

    /// Queues the message, and counts it where it was.
    fn finish(&mut self, intake: Intake<'a>) -> Reply {
        let reply = intake.finish();
        if reply.is_positive()
            && let Some(reservation) = self.scratch.rate_reservation.take()
        {
            reservation.keep();
        }
        reply
    }

    /// Reads so many bytes of content and drops them.
    pub(super) fn skip(&mut self, bytes: u64) -> Result<(), End> {
        let begin = Instant::now();
        let mut left = bytes;
        while left > 0 {
            let taken = up_to(self.content(begin, bytes - left)?, left).len();
            self.wire.consume(taken);
            left -= taken as u64;
        }
        Ok(())
    }

    /// The next bytes of content, of which so many have come since `begin`.
    fn content(&mut self, begin: Instant, bytes: u64) -> Result<&[u8], End> {
        self.stay()?;
        if self.handle.takes_no_content() {
            return Err(self.send_away(&replies::SHUTTING_DOWN));
        }
        let patience = 2 * self.service.limits.idle_timeout;
        let deadline = begin + patience + Duration::from_secs(bytes / CONTENT_BYTES_PER_SEC_MIN);
        match self.wire.wait_for_input(deadline) {
            Ok(()) => Ok(self.wire.input()),
            Err(WireError::TimedOut) if !self.wire.is_over() => Err(self.send_away(&replies::TOO_SLOW)),
            Err(error) => Err(self.no_more_input(error)),
        }
    }

    fn intake(&mut self, state: &State, envelope: Envelope) -> Intake<'a> {
        let client = state.client();
        let user = client.and_then(|client| client.user.as_ref());
        let protocol = Protocol {
            extended: client.is_some_and(|client| client.extended),
            tls: self.wire.is_encrypted(),
            // RFC 3848: by AUTH.
            authenticated: user.is_some() && self.local_user.is_none(),
            smtputf8: envelope.smtputf8,
        };
        let service = self.service;
        let submitted = Submitted {
            envelope,
            user: user.map(|user| user.name.clone()),
            client: self.client,
            helo: client.map(|client| client.name.clone()).unwrap_or_default(),
            protocol,
            hostname: &service.hostname,
            at: self.resources.ports.clock.now(),
            lifetime_secs: service.lifetime.as_secs().try_into().unwrap_or(i64::MAX),
            message_bytes_max: service.limits.message_size,
            hops_max: service.limits.received_hops,
            long_lines: service.limits.long_lines,
            keep_subject: service.keep_subjects,
        };
        Intake::new(&*self.resources.ports.queue, submitted, self.scratch.quota_share.take())
    }
}

/// The first `bytes` of `input`, or all of it.
fn up_to(input: &[u8], bytes: u64) -> &[u8] {
    &input[..usize::try_from(bytes).map_or(input.len(), |bytes| bytes.min(input.len()))]
}
