//! A message on its way into the queue: header fixes, chunks, then `accept`, and only then 250.
//!
//! Content shorter than a chunk stays in one buffer; of longer content a chunk is held in
//! memory, the rest is in the queue already. Until `accept` has said yes none of it is a message:
//! an intake that is dropped has its chunks discarded.

use memchr::memchr;

use crate::config::LongLines;
use crate::mail::header::HEADER_BYTES_MAX;
use crate::mail::{Address, Body, Domain, Envelope, Labels, Peer, Reply};
use crate::maillog::{self, Refused};
use crate::queue::{MessageId, NewMessage, Origin};

use crate::submission::limits::quotas::QuotaShare;
use crate::submission::message::header::{self, HeaderReader};
use crate::submission::message::returns;
use crate::submission::message::trace::{self, Protocol, Trace};
use crate::submission::ports::MessageQueue;
use crate::submission::replies;

/// Bytes of content in one row of the queue.
pub(in crate::submission) const CHUNK_BYTES: usize = 256 << 10;

/// RFC 5322 §2.1.1, without the CR LF.
const LINE_BYTES_MAX: usize = 998;

/// What is known about a message before its content.
#[derive(Debug, Clone)]
pub(in crate::submission) struct Submitted<'a> {
    pub(in crate::submission) envelope: Envelope,
    /// The user, where one authenticated.
    pub(in crate::submission) user: Option<String>,
    pub(in crate::submission) client: Peer,
    pub(in crate::submission) helo: String,
    pub(in crate::submission) protocol: Protocol,
    pub(in crate::submission) hostname: &'a Domain,
    /// Unix seconds.
    pub(in crate::submission) at: i64,
    pub(in crate::submission) lifetime_secs: i64,
    pub(in crate::submission) message_bytes_max: u64,
    pub(in crate::submission) hops_max: usize,
    pub(in crate::submission) long_lines: LongLines,
    /// `[log] subject`.
    pub(in crate::submission) keep_subject: bool,
}

/// A message that is being received.
pub(in crate::submission) struct Intake<'a> {
    queue: &'a dyn MessageQueue,
    submitted: Submitted<'a>,
    id: MessageId,
    /// Content that is not in the queue yet; all of it until the header is fixed.
    buffer: Vec<u8>,
    /// How much of `buffer` was looked at.
    seen: usize,
    header: HeaderReader,
    header_fixed: bool,
    labels: Labels,
    /// Bytes of content as the client sent it.
    received_bytes: u64,
    eight_bit: bool,
    /// Bytes of the line that is not ended yet.
    line_bytes: usize,
    chunks: u32,
    chunk_bytes: u64,
    /// Where its user has a quota; of all that was handed to the queue, and what MAIL announced.
    quota_share: Option<QuotaShare<'a>>,
    /// Why it will not be queued; the rest is read and forgotten.
    refusal: Option<Reply>,
}

impl<'a> Intake<'a> {
    /// A new message, with a new id.
    pub(in crate::submission) fn new(
        queue: &'a dyn MessageQueue,
        submitted: Submitted<'a>,
        quota_share: Option<QuotaShare<'a>>,
    ) -> Intake<'a> {
        Intake {
            queue,
            submitted,
            id: queue.new_message_id(),
            buffer: Vec::with_capacity(8 << 10),
            seen: 0,
            header: HeaderReader::default(),
            header_fixed: false,
            labels: Labels::default(),
            received_bytes: 0,
            eight_bit: false,
            line_bytes: 0,
            chunks: 0,
            chunk_bytes: 0,
            quota_share,
            refusal: None,
        }
    }

    /// Where the reader of the content appends to, at most a chunk at a time; then [`Intake::advance`].
    pub(in crate::submission) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    /// Corrects what MAIL said about the body, where the content turned out to be something else.
    pub(in crate::submission) fn set_body(&mut self, body: Body) {
        self.submitted.envelope.body = body;
    }

    /// Bytes of content so far.
    pub(in crate::submission) fn received_bytes(&self) -> u64 {
        self.received_bytes
    }

    /// It will not be queued; [`Intake::finish`] says why.
    pub(in crate::submission) fn is_refused(&self) -> bool {
        self.refusal.is_some()
    }

    /// Deals with what was appended.
    pub(in crate::submission) fn advance(&mut self) {
        let new = &self.buffer[self.seen..];
        self.received_bytes += new.len() as u64;
        if self.refusal.is_none() {
            self.eight_bit |= !new.is_ascii();
            self.refusal = if self.received_bytes > self.submitted.message_bytes_max {
                Some(replies::TOO_BIG)
            } else if let Some(refusal) = self.unfit_text() {
                Some(refusal)
            } else if self.buffer.len() >= CHUNK_BYTES {
                self.hand_on().err()
            } else {
                None
            };
        }
        if self.refusal.is_some() {
            self.buffer.clear();
        }
        self.seen = self.buffer.len();
    }

    /// What the new bytes have that text must not have. Binary content may hold anything (RFC 3030 §3).
    fn unfit_text(&mut self) -> Option<Reply> {
        if self.submitted.envelope.body == Body::BinaryMime {
            return None;
        }
        let new = &self.buffer[self.seen..];
        // RFC 5322 §2.3, §3.5: between hosts that end texts at it, it hides what stands behind it.
        if memchr(0, new).is_some() {
            return Some(replies::NUL_IN_CONTENT);
        }
        if self.submitted.long_lines == LongLines::Accept {
            return None;
        }
        for piece in new.split_inclusive(|byte| *byte == b'\n') {
            self.line_bytes += piece.len();
            let ended = piece.ends_with(b"\n");
            // The CR LF may still be to come.
            if self.line_bytes > LINE_BYTES_MAX + if ended { 2 } else { 1 } {
                return Some(replies::LINE_TOO_LONG);
            }
            if ended {
                self.line_bytes = 0;
            }
        }
        None
    }

    /// Streams whole chunks to the queue, once the header is fixed.
    fn hand_on(&mut self) -> Result<(), Reply> {
        self.fix_header(false)?;
        self.reserve()?;
        while self.header_fixed && self.buffer.len() >= CHUNK_BYTES {
            let rest = self.buffer.split_off(CHUNK_BYTES);
            let chunk = std::mem::replace(&mut self.buffer, rest);
            let result = self.queue.append_chunk(self.id, self.chunks, chunk);
            // Counted in any case: what failed half-way is discarded too.
            self.chunks += 1;
            self.chunk_bytes += CHUNK_BYTES as u64;
            result.map_err(replies::not_queued)?;
        }
        Ok(())
    }

    /// All that has come so far has its place in the user's quota.
    fn reserve(&mut self) -> Result<(), Reply> {
        let bytes = self.chunk_bytes + self.buffer.len() as u64;
        self.quota_share.as_mut().map_or(Ok(()), |share| share.grow_to(bytes))
    }

    /// Fixes the header, if that is still to do and its end is in sight.
    fn fix_header(&mut self, complete: bool) -> Result<(), Reply> {
        if self.header_fixed {
            return Ok(());
        }
        let header = match self.header.read(&self.buffer, complete) {
            Some(header) if header.bytes > HEADER_BYTES_MAX => return Err(replies::HEADER_TOO_BIG),
            Some(header) => header,
            None if self.buffer.len() > HEADER_BYTES_MAX => return Err(replies::HEADER_TOO_BIG),
            None => return Ok(()),
        };
        if header.hops > self.submitted.hops_max {
            return Err(replies::LOOP);
        }
        let recipients = self.submitted.envelope.recipients.iter().map(|recipient| &recipient.address);
        let own = |id| self.queue.knows(id);
        if header.hops > 0
            && returns::is_in_a_circle(&self.buffer[..header.bytes], self.submitted.hostname, own, recipients)
        {
            return Err(replies::OWN_LOOP);
        }
        let keep_subject = self.submitted.keep_subject;
        self.labels = header::labels(&self.buffer, &header, keep_subject).map_err(|_| replies::BAD_TAG)?;
        let for_only: Option<&Address> = match self.submitted.envelope.recipients.as_slice() {
            [only] => Some(&only.address),
            _ => None,
        };
        let trace = Trace {
            helo: &self.submitted.helo,
            client: self.submitted.client,
            user: self.submitted.user.as_deref(),
            hostname: self.submitted.hostname,
            with: self.submitted.protocol,
            id: self.id,
            for_only,
            at: self.submitted.at,
        };
        if let Some(added) = trace::added_message_id(&header, &trace) {
            self.labels.message_id = Some(added);
        }
        self.buffer = trace::fix(&self.buffer, &header, &trace);
        let handling = &mut self.submitted.envelope.handling;
        // RFC 8689 §5: REQUIRETLS comes before it.
        handling.tls_optional = header.tls_is_optional() && !handling.require_tls;
        self.header_fixed = true;
        Ok(())
    }

    /// The end of the content was seen: queues the message and gives the reply. Before the end, where it
    /// is refused: the refusal.
    pub(in crate::submission) fn finish(mut self) -> Reply {
        if self.refusal.is_none() {
            self.refusal = self.fix_header(true).and_then(|()| self.reserve()).err();
        }
        if let Some(refusal) = self.refusal.take() {
            let Submitted { envelope, client, user, .. } = &self.submitted;
            log_refusal(*client, user.as_deref(), envelope, &refusal);
            return refusal;
        }
        let message = self.message();
        // The log says it once it is true; the content is not needed for that.
        let is_told = log::log_enabled!(log::Level::Warn) || maillog::is_observed();
        let to_log = is_told.then(|| NewMessage {
            tail: Vec::new(),
            envelope: message.envelope.clone(),
            origin: message.origin.clone(),
            labels: message.labels.clone(),
            ..message
        });
        match self.queue.accept(message) {
            Ok(()) => {
                to_log.iter().for_each(maillog::accepted);
                self.chunks = 0;
                replies::queued(self.id)
            }
            Err(error) => {
                let refusal = replies::not_queued(error);
                if let Some(NewMessage { envelope, origin, .. }) = &to_log {
                    log_refusal(self.submitted.client, origin.user.as_deref(), envelope, &refusal);
                }
                refusal
            }
        }
    }

    /// The message, complete; nothing of it is left here.
    fn message(&mut self) -> NewMessage {
        let mut envelope = std::mem::take(&mut self.submitted.envelope);
        // Marked for what it is, whatever MAIL said: many clients send eight bits without BODY=8BITMIME, and
        // others call everything so.
        envelope.body = match envelope.body {
            Body::SevenBit if self.eight_bit => Body::EightBitMime,
            Body::EightBitMime if !self.eight_bit => Body::SevenBit,
            body => body,
        };
        let expires_at = envelope.handling.returns_before(self.submitted.at, self.submitted.lifetime_secs);
        let tail = std::mem::take(&mut self.buffer);
        NewMessage {
            id: self.id,
            envelope,
            origin: Origin {
                user: self.submitted.user.take(),
                client: Some(self.submitted.client),
                helo: Some(std::mem::take(&mut self.submitted.helo)),
            },
            labels: std::mem::take(&mut self.labels),
            received_at: self.submitted.at,
            expires_at,
            size: self.chunk_bytes + tail.len() as u64,
            tail,
            chunks_before: self.chunks,
        }
    }
}

impl Drop for Intake<'_> {
    fn drop(&mut self) {
        if self.chunks > 0 {
            self.queue.discard(self.id);
        }
    }
}

fn log_refusal(client: Peer, user: Option<&str>, envelope: &Envelope, refusal: &Reply) {
    let one = matches!(envelope.recipients.as_slice(), [_]);
    let recipient = envelope.recipients.first().filter(|_| one);
    let refused = Refused {
        client,
        user,
        verb: "content",
        sender: envelope.sender.as_ref().map(AsRef::as_ref),
        recipient: recipient.map(|recipient| recipient.address.as_ref()),
    };
    maillog::refused(&refused, refusal);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::submission::tests::doubles::MemoryQueue;

    fn submitted(hostname: &Domain) -> Submitted<'_> {
        Submitted {
            envelope: Envelope::default(),
            user: None,
            client: "192.0.2.1".parse().unwrap(),
            helo: "a.test".to_owned(),
            protocol: Protocol { extended: true, tls: false, authenticated: false, smtputf8: false },
            hostname,
            at: 0,
            lifetime_secs: 60,
            message_bytes_max: 4 << 20,
            hops_max: 50,
            long_lines: LongLines::Accept,
            keep_subject: false,
        }
    }

    /// As any other refusal of content: with whom it was for.
    #[test]
    fn what_the_queue_does_not_take_is_refused_content() {
        let (queue, hostname) = (MemoryQueue::default(), Domain::parse("relay.test").unwrap());
        queue.failing.store(true, std::sync::atomic::Ordering::SeqCst);
        let address = |text: &str| crate::mail::address::parse(text).unwrap();
        let envelope = Envelope {
            sender: Some(address("app@a.test")),
            recipients: vec![crate::mail::Recipient::new(address("you@b.test"))],
            ..Envelope::default()
        };
        let submitted = Submitted { envelope, user: Some("app".to_owned()), ..submitted(&hostname) };
        let line = |record: &log::Record<'_>| format!("{} {}", record.level(), record.args());
        let lines = crate::kit::event::kept::written(line, || {
            let mut intake = Intake::new(&queue, submitted, None);
            intake.buffer().extend_from_slice(b"Subject: x\r\n\r\nhello\r\n");
            intake.advance();
            assert_eq!(intake.finish().code, 451);
        });
        assert_eq!(lines.len(), 1, "{lines:?}");
        let begin =
            "WARN refused content client=192.0.2.1 user=app from=<app@a.test> to=<you@b.test> reply=451 ";
        assert!(lines[0].starts_with(begin), "{lines:?}");
    }

    /// What is said to content that comes in pieces of this size, and what of it is in the queue.
    fn taken(content: &[u8], piece: usize) -> (u16, Vec<u8>) {
        let (queue, hostname) = (MemoryQueue::default(), Domain::parse("relay.test").unwrap());
        let mut intake = Intake::new(&queue, submitted(&hostname), None);
        for piece in content.chunks(piece) {
            intake.buffer().extend_from_slice(piece);
            intake.advance();
        }
        let reply = intake.finish();
        let accepted = queue.accepted.lock().unwrap().pop();
        (reply.code, accepted.map(|(_, content)| content).unwrap_or_default())
    }

    /// Headers that end on either side of what is held of one, and of the look-ahead behind a broken line.
    #[test]
    fn what_becomes_of_content_does_not_depend_on_its_pieces() {
        let fields =
            |bytes: usize| "X: yyyyyy\r\n".repeat(bytes / 11) + &format!("X: {}\r\n", "y".repeat(bytes % 11));
        let max = HEADER_BYTES_MAX;
        for (header, code) in [
            (fields(max - 5), 250),
            (fields(max - 4), 552),
            (fields(max - 100) + "no field\r\n" + &fields(200), 250),
            (fields(max - 70_000) + "no field\r\n" + &fields(90_000), 250),
            (fields(CHUNK_BYTES) + "no field\r\n" + &fields(60_000) + "Bcc: secret\r\n", 250),
            ("no field\r\n".to_owned() + &fields(70_000) + "Bcc: secret\r\nTo: a\r\n", 250),
            ("x".repeat(max + 1), 552),
            ("From me\r\n".to_owned() + &fields(100), 250),
        ] {
            let (start, content) = (header[..12].to_owned(), header + "\r\nbody\r\n");
            let whole = taken(content.as_bytes(), content.len());
            assert_eq!(whole.0, code, "{start:?} {}", content.len());
            for piece in [16 << 10, (16 << 10) + 1, 60_001, CHUNK_BYTES, CHUNK_BYTES + 3, content.len() - 9] {
                assert!(taken(content.as_bytes(), piece) == whole, "{start:?} {} by {piece}", content.len());
            }
        }
    }
}
