//! From answers to a settlement: what becomes of each recipient, and whom to tell.
//!
//! Everything a job causes is one settlement and so one transaction on disk: outcomes, next tries, history
//! and the bounce that follows from them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::config::{DeliverySettings, InDoubt, RuleAction, atrn};
use crate::mail::{Attempt, Enhanced, Notify, Outcome, Phase, Reply};
use crate::maillog;
use crate::queue::{
    Finished, Job, LaneHealth, NextState, Queue, QueuedMessage, QueuedRecipient, RecipientId, Settled,
    Settlement,
};

use crate::delivery::Setup;
use crate::delivery::job::attempt::{Answer, Answers};
use crate::delivery::job::retry_rules;
use crate::delivery::report::compose::{self, Reports};
use crate::delivery::report::report_limit::ReportLimits;

/// What the jobs' source hears.
pub(in crate::delivery) struct Done {
    pub(in crate::delivery) health: LaneHealth,
    /// Recipients of the job that no settlement names: finished or held by somebody else meanwhile, or requeued.
    pub(in crate::delivery) unsettled: Vec<RecipientId>,
}

/// One job: read the message, try it with `attempt` (which hears the time, Unix seconds), settle it.
pub(in crate::delivery) fn carry_out(
    setup: &Setup,
    queue: &Queue,
    report_limits: &ReportLimits,
    clock: &Clock,
    job: &Job,
    attempt: impl FnOnce(&QueuedMessage, i64) -> Answers,
) -> Done {
    let message = match load(queue, job) {
        Ok(Some(message)) => message,
        Ok(None) => return Done { health: LaneHealth::Unchanged, unsettled: ids_of(job) },
        Err(error) => {
            log::error!("{}: cannot be read from the queue: {error}", job.message);
            return Done { health: LaneHealth::Unchanged, unsettled: ids_of(job) };
        }
    };
    let (began, at) = (Instant::now(), clock.now());
    // Not delivered any more once it is to be returned (RFC 2852 §4).
    let is_late = message.handling.returns_at().is_some_and(|by| by <= at);
    let (mut results, health) = if job.expired || is_late {
        (expire(job, at, &message), LaneHealth::Unchanged)
    } else {
        let answers = attempt(&message, at);
        let duration_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let (now, spread) = (clock.now(), fastrand::f64());
        let fetched = atrn::domain_of_lane(&job.lane).is_some();
        let broke_off = fetched && matches!(answers.health, LaneHealth::Failing(_));
        let settings = &setup.settings;
        let decide = Decide { job, now, at, duration_ms, spread, settings, fetched, broke_off };
        (decide.all(&message, answers.answers), answers.health)
    };
    let now = clock.now();
    let reports = compose::compose(&setup.settings, queue, report_limits, now, &message, &mut results);
    let settled = |id: &RecipientId| results.iter().any(|result| result.recipient == *id);
    let unsettled = ids_of(job).into_iter().filter(|id| !settled(id)).collect();
    if results.is_empty() {
        return Done { health, unsettled };
    }
    let Reports { written, pending_reports, expanded_told } = reports;
    queue.settle(Settlement { message, at: now, results, notices: written, pending_reports, expanded_told });
    Done { health, unsettled }
}

fn ids_of(job: &Job) -> Vec<RecipientId> {
    job.recipients.iter().map(|(recipient, _)| *recipient).collect()
}

/// The message with the job's recipients: from memory while it is fresh, otherwise from the database.
fn load(queue: &Queue, job: &Job) -> Result<Option<Arc<QueuedMessage>>, crate::queue::QueueError> {
    match &job.fresh {
        Some(fresh) if fresh.recipients.len() == job.recipients.len() => Ok(Some(fresh.clone())),
        Some(fresh) => {
            // Its recipients are divided over several lanes or transactions: this job has a part of them.
            let mut part = QueuedMessage::clone(fresh);
            part.recipients.retain(|recipient| job.recipients.iter().any(|(id, _)| *id == recipient.id));
            Ok(Some(Arc::new(part)))
        }
        None => {
            let message = queue.fetch(job.message, &ids_of(job))?;
            Ok(message.and_then(|mut message| {
                // An operator wants it returned, and the scheduler has not heard of it yet: it will come as
                // expired.
                message.recipients.retain(|recipient| job.expired || !recipient.to_bounce);
                (!message.recipients.is_empty()).then(|| Arc::new(message))
            }))
        }
    }
}

/// What answers mean for the rows.
struct Decide<'a> {
    job: &'a Job,
    now: i64,
    at: i64,
    duration_ms: u64,
    /// In 0..1: where in the range of ±20 % a rule's delay falls.
    spread: f64,
    settings: &'a DeliverySettings,
    /// By somebody who came for it (ATRN) …
    fetched: bool,
    /// … and went away in the middle.
    broke_off: bool,
}

impl Decide<'_> {
    fn all(&self, message: &QueuedMessage, answers: Vec<Option<Answer>>) -> Vec<Settled> {
        let pairs = message.recipients.iter().zip(answers);
        pairs.filter_map(|(recipient, answer)| Some(self.one(message, recipient, answer?))).collect()
    }

    fn one(&self, message: &QueuedMessage, recipient: &QueuedRecipient, mut answer: Answer) -> Settled {
        let ruled = self.ruled(message, recipient, &mut answer);
        let next_state = ruled.unwrap_or_else(|| self.next_state(message, recipient, &mut answer));
        let (next_secs, warned) = match next_state {
            NextState::Retry(next) => (Some(next - self.now), self.is_due_a_warning(message, recipient)),
            _ => (None, false),
        };
        let attempt = Attempt {
            at: self.at,
            duration_ms: self.duration_ms,
            mx: answer.mx,
            ip: answer.ip,
            tls: answer.tls,
            phase: answer.phase,
            reply: answer.reply,
            outcome: answer.outcome,
        };
        maillog::attempted(message.id, &recipient.address, &attempt, next_secs);
        Settled { recipient: recipient.id, attempt: Some(attempt), next_state, warned }
    }

    /// What a `[[retry.rule]]` makes of a failure, where one has a say; a delay past the lifetime has none.
    fn ruled(
        &self,
        message: &QueuedMessage,
        recipient: &QueuedRecipient,
        answer: &mut Answer,
    ) -> Option<NextState> {
        let permanent = match answer.outcome {
            Outcome::Failed => true,
            // Who fetches mail and breaks off has said nothing of it: it is there when they come again.
            Outcome::Deferred if !self.broke_off => false,
            _ => return None,
        };
        let rules = &self.settings.retry_rules;
        let (number, action) = retry_rules::first_match(rules, &recipient.domain, &answer.reply, permanent)?;
        let (outcome, next_state, word) = match action {
            RuleAction::Retry(_) if self.now >= message.expires_at => return None,
            RuleAction::Retry(delay) => {
                let wait = delay.mul_f64(0.8 + 0.4 * self.spread);
                (Outcome::Deferred, self.retry_after(message, wait), "retry")
            }
            RuleAction::Hold => (Outcome::Deferred, NextState::Hold, "hold"),
            RuleAction::Bounce => (Outcome::Failed, NextState::Finished(Finished::Failed), "bounce"),
        };
        answer.outcome = outcome;
        maillog::ruled(message.id, &recipient.address, number, word);
        Some(next_state)
    }

    fn retry_after(&self, message: &QueuedMessage, wait: Duration) -> NextState {
        let next = self.now + i64::try_from(wait.as_secs()).unwrap_or(i64::MAX / 2).max(1);
        // There is a try when the sender wants to be told (RFC 2852), and the last one is at the end of the
        // lifetime, not somewhere before it.
        let notifies_at = message.handling.notifies_at().filter(|at| *at > self.now);
        let next = next.min(notifies_at.unwrap_or(i64::MAX));
        NextState::Retry(next.min(message.expires_at.max(self.now + 1)))
    }

    /// What becomes of a recipient; a deferral past the lifetime turns into `expired` here.
    fn next_state(
        &self,
        message: &QueuedMessage,
        recipient: &QueuedRecipient,
        answer: &mut Answer,
    ) -> NextState {
        match answer.outcome {
            Outcome::Delivered => NextState::Finished(Finished::Delivered),
            Outcome::Relayed => NextState::Finished(Finished::Relayed),
            Outcome::Failed => NextState::Finished(Finished::Failed),
            Outcome::InDoubt if self.settings.in_doubt == InDoubt::Hold => NextState::Hold,
            Outcome::InDoubt if self.settings.in_doubt == InDoubt::AssumeDelivered => {
                NextState::Finished(Finished::Delivered)
            }
            Outcome::Deferred | Outcome::InDoubt | Outcome::Expired if self.now >= message.expires_at => {
                answer.outcome = Outcome::Expired;
                NextState::Finished(Finished::Expired)
            }
            Outcome::Deferred | Outcome::InDoubt | Outcome::Expired => {
                let planned = self.job.recipients.iter().find(|(id, _)| *id == recipient.id);
                let wait = match answer.outcome {
                    // They come again when they like, and there is no host to be spared.
                    Outcome::InDoubt if self.fetched => Duration::ZERO,
                    _ if self.broke_off => Duration::ZERO,
                    _ => planned.map_or(Duration::from_secs(60), |(_, wait)| *wait),
                };
                self.retry_after(message, wait)
            }
        }
    }

    fn is_due_a_warning(&self, message: &QueuedMessage, recipient: &QueuedRecipient) -> bool {
        let released_at = message.handling.released_at(message.received_at);
        let is_delayed = self.settings.delay_warning.is_some_and(|after| {
            self.now - released_at >= i64::try_from(after.as_secs()).unwrap_or(i64::MAX)
        });
        // RFC 2852 §4.1.2: the time of BY=…;N is over.
        let is_late = message.handling.notifies_at().is_some_and(|by| by <= self.now);
        (is_delayed || is_late)
            && recipient.warned_at.is_none()
            && message.sender.is_some()
            && recipient.notify.unwrap_or(Notify::DEFAULT).delay
    }
}

/// For the simulation: what a scripted host's answers mean, by the code that decides it for real ones.
#[cfg(test)]
pub(crate) fn decide(
    job: &Job,
    message: &QueuedMessage,
    settings: &DeliverySettings,
    now: i64,
    said: Vec<(Outcome, Reply)>,
) -> Vec<Settled> {
    if job.expired {
        return expire(job, now, message);
    }
    let answers = said.into_iter().map(|(outcome, reply)| Some(Answer::ours(outcome, reply, None))).collect();
    let (fetched, broke_off) = (false, false);
    Decide { job, now, at: now, duration_ms: 0, spread: 0.5, settings, fetched, broke_off }
        .all(message, answers)
}

/// Recipients past their lifetime, and those that an operator wants returned, without a further try.
fn expire(job: &Job, at: i64, message: &QueuedMessage) -> Vec<Settled> {
    let expired = message.recipients.iter().map(|recipient| {
        let lane = atrn::domain_of_lane(&job.lane).filter(|_| job.expired && !recipient.to_bounce);
        let attempt = match (lane, &recipient.last_reply) {
            (Some(domain), None) => Some(never_fetched(domain, at)),
            _ => None,
        };
        let reply = attempt.as_ref().map(|attempt| attempt.reply.to_string());
        let last_reply = reply.as_deref().or(recipient.last_reply.as_deref());
        let how = if recipient.to_bounce {
            maillog::returned(message.id, &recipient.address, last_reply);
            Finished::Failed
        } else {
            maillog::expired(message.id, &recipient.address, last_reply);
            Finished::Expired
        };
        Settled { recipient: recipient.id, attempt, next_state: NextState::Finished(how), warned: false }
    });
    expired.collect()
}

/// Where mail waits for ATRN, that nobody came is all there is to tell. 4.4.7: delivery time expired (RFC 3463
/// §3.5).
fn never_fetched(domain: &str, at: i64) -> Attempt {
    let text =
        format!("mail for {domain} waits here to be fetched with ATRN (RFC 2645), and nobody fetched it");
    let reply = Reply::new(451, Enhanced(4, 4, 7), "").with_text(text);
    let (phase, outcome) = (Phase::Connect, Outcome::Expired);
    Attempt { at, duration_ms: 0, mx: None, ip: None, tls: None, phase, reply, outcome }
}

/// Recipients whose final dot was about to be sent when the last process ended, settled as `[delivery] in_doubt`
/// says. To be called before the first attempt; what it does is on disk when it returns.
///
/// # Errors
/// Where the queue cannot be read or written.
pub fn settle_doubts(queue: &Queue, policy: InDoubt, now: i64) -> Result<(), crate::queue::QueueError> {
    let next_state = match policy {
        // They are due: that is all there is to it.
        InDoubt::Retry => return Ok(()),
        InDoubt::Hold => NextState::Hold,
        InDoubt::AssumeDelivered => NextState::Finished(Finished::Delivered),
    };
    for (id, recipients) in queue.in_doubt()? {
        let Some(message) = queue.fetch(id, &recipients)? else { continue };
        let reply = Reply::new(451, Enhanced(4, 4, 2), "the relay ended between the final dot and its reply");
        let results = message.recipients.iter().map(|recipient| {
            let attempt = Attempt {
                at: now,
                duration_ms: 0,
                mx: None,
                ip: None,
                tls: None,
                phase: Phase::EndOfData,
                reply: reply.clone(),
                outcome: Outcome::InDoubt,
            };
            maillog::attempted(id, &recipient.address, &attempt, None);
            Settled { recipient: recipient.id, attempt: Some(attempt), next_state, warned: false }
        });
        let results = results.collect();
        let message = Arc::new(message);
        let (notices, pending_reports) = (Vec::new(), Vec::new());
        queue.settle(Settlement {
            message,
            at: now,
            results,
            notices,
            pending_reports,
            expanded_told: false,
        });
    }
    // Groups are written in order: when this empty one is on disk, so are they.
    queue.intend_dot(&[]).map_err(|error| crate::queue::QueueError::Writer(error.to_string()))
}
