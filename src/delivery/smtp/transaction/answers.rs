//! What each answer, and each end without one, decides in a transaction; and which answers cannot be believed.

use crate::mail::{Phase, Reply};

use crate::delivery::smtp::failure::Failure;
use crate::delivery::smtp::pipeline::{PipelineFault, PipelineResult};
use crate::delivery::smtp::reply_class::{ReplyClass, subject};
use crate::delivery::smtp::timeouts::Stage;
use crate::delivery::smtp::transaction::{ChunkingResult, Step, Transaction, failed};
use crate::delivery::smtp::wire::Fault;

impl Transaction<'_> {
    /// The reply to the oldest command without one.
    pub(in crate::delivery) fn take(&mut self, reply: Reply) {
        let Some(step) = self.in_flight.pop_front() else { return };
        let phase = step.phase();
        self.look_for_pipeline_fault(step, &reply);
        match (step, ReplyClass::of(phase, reply.code)) {
            (Step::Rset, ReplyClass::Positive) => {}
            (Step::Quit, ReplyClass::Positive) if reply.code == 221 || !self.must_hear_221() => {
                (self.dead, self.quit_reply) = (true, Some(reply))
            }
            // RFC 5321 §3.8: hosts end a connection like this that had messages enough. What was answered holds.
            (Step::Rset, ReplyClass::Closing) => self.dead = true,
            (Step::Quit, ReplyClass::Closing) if self.counts_replies() => {
                (self.dead, self.quit_reply) = (true, Some(reply));
            }
            // It may be the answer to the command before, whatever the code: "503 bad sequence" may be meant for a dot.
            (Step::Rset | Step::Quit, _) => self.note_surplus(self.unexpected(reply)),
            (_, ReplyClass::Closing) => self.host_failed(Failure::Refused { phase, reply }),
            (Step::Chunk | Step::End, _) if self.is_bdat_unknown(&reply) => {
                self.host_failed(Failure::BadReply { phase, reply });
            }
            (Step::End, class) => self.take_end(class, reply),
            (_, ReplyClass::Invalid) => self.host_failed(Failure::BadReply { phase, reply }),
            (Step::Mail | Step::Rcpt(_), ReplyClass::Positive)
                if self.in_single_write() && !is_of_envelope(&reply) =>
            {
                self.take_surplus(reply);
            }
            (Step::Mail, ReplyClass::Positive) => {
                self.mail_accepted = true;
                self.tells_apart &= is_of_envelope(&reply);
            }
            // MAIL may have been refused before.
            (Step::Rcpt(index), ReplyClass::Positive) => {
                self.accepted_count += usize::from(self.results[index].is_none());
                self.tells_apart &= is_of_envelope(&reply);
            }
            (Step::Rcpt(index), _) => self.refuse(index, reply),
            // 354: the content is next.
            (Step::Data, ReplyClass::Intermediate) => {}
            (Step::Chunk, ReplyClass::Positive) => self.chunking = ChunkingResult::Taken,
            // RFC 3030 §2: no further chunk; the replies to those under way say nothing new.
            (Step::Data | Step::Chunk, _) => {
                self.plan.clear();
                self.decide_rest(failed(Failure::Refused { phase, reply }));
            }
            (Step::Mail, _) => self.decide_rest(failed(Failure::Refused { phase, reply })),
        }
    }

    /// A reply that nobody asked for, or in the place of another. Which of them were meant for what is not known.
    pub(in crate::delivery) fn take_surplus(&mut self, reply: Reply) {
        // RFC 5321 §3.8: a host may say this unasked.
        match ReplyClass::of(Phase::Mail, reply.code) {
            ReplyClass::Closing if self.awaits().is_none() => self.dead = true,
            _ => self.note_surplus(self.unexpected(reply)),
        }
    }

    /// Whether nothing but 221 will do. Where no 354 shows which answer is the content's, a host is believed without it
    /// only if it was so each time.
    fn must_hear_221(&self) -> bool {
        self.in_chunks() && self.profile.reuse
    }

    /// Whether all replies from the content's on are counted: QUIT closes the connection, the content had its 354, and
    /// nothing was left out before that. A reply too many can only stand behind 354 then.
    pub(in crate::delivery) fn counts_replies(&self) -> bool {
        self.whole && !self.profile.reuse && !self.in_chunks()
    }

    /// QUIT was answered, and this came behind it, up to the end of the stream or (not `ended`) to silence or to what
    /// is no reply. 221 (RFC 5321 §4.1.1.10) is the answer to nothing but QUIT; another 2xx may be that to the content,
    /// so the end has to follow. Where all of them are 2xx, the content's own is one of them, whichever it is.
    pub(in crate::delivery) fn take_behind_quit(&mut self, behind: Vec<Reply>, ended: bool) {
        let Some(quit) = self.quit_reply.take() else { return };
        let is_last = matches!(behind.last().unwrap_or(&quit).code, 221 | 421);
        let is_complete = ended || is_last;
        let is_positive = |reply: &Reply| ReplyClass::of(Phase::Mail, reply.code) == ReplyClass::Positive;
        match behind.iter().find(|reply| !is_positive(reply)).or(behind.first()) {
            Some(odd) => {
                let failure = self.unexpected(odd.clone());
                if is_complete && self.counts_replies() && is_positive(odd) {
                    self.unclosed = Some(failure);
                } else {
                    self.note_surplus(failure);
                }
            }
            None if !is_complete => self.note_surplus(self.unexpected(quit)),
            None => {}
        }
    }

    /// Whether QUIT was answered, and nothing but the end of the stream may follow.
    pub(in crate::delivery) fn has_quit(&self) -> Option<&Reply> {
        self.quit_reply.as_ref()
    }

    /// Whether nothing has gone wrong with the connection so far.
    pub(in crate::delivery) fn is_alive(&self) -> bool {
        !self.dead
    }

    fn unexpected(&self, reply: Reply) -> Failure {
        Failure::BadReply { phase: if self.whole { Phase::EndOfData } else { Phase::Mail }, reply }
    }

    fn note_surplus(&mut self, failure: Failure) {
        self.dead = true;
        self.surplus.get_or_insert(failure);
    }

    /// The reply to the content.
    fn take_end(&mut self, class: ReplyClass, reply: Reply) {
        let phase = Phase::EndOfData;
        match class {
            // With no 354 in between, a reply too many would pass for the content's. One that speaks of an address
            // is not.
            ReplyClass::Positive if self.in_single_write() && !is_of_content(&reply) => {
                self.take_surplus(reply)
            }
            ReplyClass::Positive => {
                if self.in_chunks() && self.accepted_count > 0 {
                    self.chunking = ChunkingResult::Taken;
                }
                self.tells_apart &= is_of_content(&reply);
                self.deliver(&reply);
            }
            ReplyClass::Transient | ReplyClass::Permanent | ReplyClass::Closing => {
                self.decide_rest(failed(Failure::Refused { phase, reply }));
            }
            ReplyClass::Intermediate | ReplyClass::Invalid => {
                self.lost_after_end(Failure::BadReply { phase, reply });
            }
        }
    }

    /// No reply will come: the connection is lost, took too long, or sends what is no reply.
    pub(in crate::delivery) fn lost(&mut self, stage: Stage, fault: Fault) {
        let step = self.in_flight.front().or(self.plan.front()).copied().unwrap_or(Step::End);
        let no_reply = |phase: Phase| Failure::NoReply { phase, stage, fault: fault.clone() };
        let is_speech = matches!(fault, Fault::OutOfTurn | Fault::Malformed(_));
        if matches!(step, Step::Rset | Step::Quit) {
            self.dead = true;
            // A host that closes behind its answer, as hosts do that take one message, has given it.
            match fault {
                // A line without a code answers nothing.
                _ if is_speech && self.counts_replies() => {
                    self.unclosed = Some(no_reply(Phase::EndOfData));
                }
                _ if is_speech => self.note_surplus(no_reply(Phase::EndOfData)),
                _ if step == Step::Quit && self.must_hear_221() => {
                    self.note_surplus(no_reply(Phase::EndOfData));
                }
                Fault::TimedOut if self.whole => self.unclosed = Some(no_reply(Phase::EndOfData)),
                _ => {}
            }
            return;
        }
        if is_speech && self.pipelining != PipelineResult::InOrder {
            self.note_surplus(no_reply(step.phase()));
        }
        if self.is_in_doubt(step) {
            return self.lost_after_end(no_reply(Phase::EndOfData));
        }
        let failure = no_reply(step.phase());
        match PipelineFault::of_fault(&fault, failure.clone()) {
            // A break during content, or with all recipients decided, says nothing of pipelining.
            PipelineFault::NoReply(_) if step.phase() == Phase::EndOfData || self.undecided() == 0 => {}
            sign => self.note(sign),
        }
        // Behind a refused chunk the host has no more to say, and may as well close.
        let is_left = self.undecided() > 0;
        let is_first = self.chunking == ChunkingResult::Unknown;
        if step == Step::Chunk && self.could_be_data() && is_first && is_left {
            self.chunking = ChunkingResult::Broken(failure.clone());
        }
        self.host_failed(failure);
    }

    /// Whether the host may have taken the message, where no reply comes to this step, the oldest without
    /// one: it was sent the whole content, and was not heard to refuse every recipient.
    fn is_in_doubt(&self, step: Step) -> bool {
        self.whole && (step != Step::End || self.accepted_count > 0)
    }

    /// Whether nothing was heard of a message that went in a single write. Should the connection end now, the host
    /// had closed it before, as hosts do with idle ones: it answers MAIL before it looks at what comes behind.
    pub(in crate::delivery) fn is_unheard(&self) -> bool {
        // What goes in a single write begins with MAIL.
        self.in_single_write() && self.whole && self.in_flight.front() == Some(&Step::Mail)
    }

    /// The connection was closed before the host read any of this.
    pub(in crate::delivery) fn gone_before(&mut self, stage: Stage, fault: Fault) {
        self.host_failed(Failure::NoReply { phase: Phase::Mail, stage, fault });
    }

    /// The content could not be sent whole, through our own fault; the connection has to be cut.
    pub(in crate::delivery) fn abandon(&mut self, error: String) {
        self.dead = true;
        self.decide_rest(failed(Failure::Content(error)));
    }

    /// The host answered before it had the whole content, and reads no more of it.
    pub(in crate::delivery) fn take_early(&mut self, reply: Reply) {
        let phase = Phase::EndOfData;
        match ReplyClass::of(phase, reply.code) {
            _ if self.is_bdat_unknown(&reply) => self.host_failed(Failure::BadReply { phase, reply }),
            ReplyClass::Transient | ReplyClass::Permanent | ReplyClass::Closing => {
                self.host_failed(Failure::Refused { phase, reply });
            }
            // It cannot have accepted what it has not seen.
            ReplyClass::Positive | ReplyClass::Intermediate | ReplyClass::Invalid => {
                self.note_surplus(Failure::BadReply { phase, reply });
            }
        }
    }
}

/// x.1.x or x.5.x (RFC 3463 §3.2, §3.6): of an address, or of the protocol. The answers to MAIL and RCPT.
pub(super) fn is_of_envelope(reply: &Reply) -> bool {
    matches!(subject(reply), Some(1 | 5))
}

/// Any other enhanced code: the answer to content.
fn is_of_content(reply: &Reply) -> bool {
    matches!(subject(reply), Some(subject) if !matches!(subject, 1 | 5))
}
