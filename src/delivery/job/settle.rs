//! Writes what came of a job, and whom to tell.
//!
//! A settlement is one transaction on disk: outcomes, next tries, history and the bounce that follows from them. A job
//! has one, and one more for each mail transaction that took recipients before its last: what is delivered and not
//! recorded is delivered again by the next process, should this one be killed.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use crate::config::{InDoubt, atrn};
use crate::kit::text::utc;
use crate::mail::tlsrpt::day_of;
use crate::mail::{Attempt, Enhanced, Outcome, Phase, Reply, ReplySource, TlsPolicy};
use crate::maillog;
use crate::queue::{
    Finished, HeldBy, Job, LaneHealth, NextState, Queue, QueueError, QueuedMessage, RecipientId, Settled,
    Settlement, TlsSession,
};

use crate::delivery::job::attempt::{Answer, Answers};
use crate::delivery::job::context::{DeliveryContext, Resources};
use crate::delivery::job::outcome::{Circumstances, expire};
use crate::delivery::report::compose::{self, Reports};
use crate::delivery::smtp::dialogue::{AttemptDialogue, Dialogue};
use crate::delivery::smtp::endpoint::Endpoint;

/// Bytes of the reply of ours that ends what is kept of a connection.
const ENDING_BYTES_MAX: usize = 500;

/// What the jobs' source hears.
pub(in crate::delivery) struct Done {
    pub(in crate::delivery) health: LaneHealth,
    /// Recipients of the job that no settlement names: finished or held by somebody else meanwhile, or requeued.
    pub(in crate::delivery) unsettled: Vec<RecipientId>,
}

/// A job whose attempt is to begin.
pub(in crate::delivery) struct Begun<'a> {
    pub(in crate::delivery) context: &'a DeliveryContext,
    pub(in crate::delivery) resources: &'a Resources,
    pub(in crate::delivery) job: &'a Job,
    pub(in crate::delivery) message: Arc<QueuedMessage>,
    /// Unix seconds.
    pub(in crate::delivery) at: i64,
    /// The same by the clock that counts for the end of mail.
    confirmed: i64,
    began: Instant,
    /// Sessions with hosts that no settlement has counted yet.
    tls_sessions: RefCell<Vec<TlsSession>>,
    /// What was said where something failed.
    dialogue: RefCell<AttemptDialogue>,
}

impl<'a> Begun<'a> {
    /// Reads the message; none where nobody of the job waits any more, or it cannot be read.
    pub(in crate::delivery) fn begin(
        context: &'a DeliveryContext,
        resources: &'a Resources,
        job: &'a Job,
    ) -> Option<Begun<'a>> {
        let message = load(&resources.queue, job).unwrap_or_else(|error| {
            log::error!(queue_id:% = job.message; "{}: cannot be read from the queue: {error}", job.message);
            None
        })?;
        let clock = &resources.clock;
        let (at, confirmed, began) = (clock.now(), clock.confirmed(), Instant::now());
        let (tls_sessions, dialogue) = Default::default();
        Some(Begun { context, resources, job, message, at, confirmed, began, tls_sessions, dialogue })
    }

    /// Whether it bounces without a further try. Nothing is delivered once it is to be returned (RFC 2852 §4).
    pub(in crate::delivery) fn is_expired(&self) -> bool {
        self.job.expired || self.message.handling.returns_at().is_some_and(|by| by <= self.confirmed)
    }

    /// There was a session with a host: it is counted with the next settlement.
    pub(in crate::delivery) fn note_tls(&self, session: TlsSession) {
        self.tls_sessions.borrow_mut().push(session);
    }

    /// What was said to a host, which did not go well, is kept with the next failure that is settled: also where there
    /// was no connection. `reply`: how it ended.
    pub(in crate::delivery) fn keep_dialogue(
        &self,
        endpoint: &Endpoint,
        source: Option<IpAddr>,
        dialogue: Option<&Dialogue>,
        reply: Option<Reply>,
    ) {
        let mut heading =
            format!("{} [{}]:{}", endpoint.host, endpoint.address.ip(), endpoint.address.port());
        if let Some(source) = source {
            let _ = write!(heading, " from {source}");
        }
        match dialogue {
            Some(dialogue) => {
                let secs = i64::try_from(dialogue.began().elapsed().as_secs()).unwrap_or(0);
                let _ = write!(heading, ", connected at {} UTC", utc(self.resources.clock.now() - secs));
            }
            None => heading.push_str(", not connected"),
        }
        let mut lines = dialogue.map(Dialogue::text).unwrap_or_default();
        // What the host said stands there.
        if let Some(reply) = reply.filter(|reply| reply.reply_source == ReplySource::Local) {
            let _ = writeln!(lines, "         -- {}", reply.cut(ENDING_BYTES_MAX));
        }
        self.dialogue.borrow_mut().add(&heading, &lines);
    }

    /// Those that are not counted yet. They count for the day on which they are written, since the reports of a day are
    /// made soon after its end.
    fn take_tls_sessions(&self) -> Vec<TlsSession> {
        let day = day_of(self.resources.clock.confirmed());
        let mut sessions = self.tls_sessions.take();
        sessions.iter_mut().for_each(|session| session.day = day);
        sessions
    }

    /// Settles the recipients with these answers, by their place in the message.
    pub(in crate::delivery) fn settle(
        &self,
        answers: impl IntoIterator<Item = (usize, Answer)>,
        health: &LaneHealth,
    ) {
        let fetched = atrn::domain_of_lane(&self.job.lane).is_some();
        let circumstances = Circumstances {
            job: self.job,
            settings: &self.context.settings,
            at: self.at,
            duration_ms: u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX),
            now: self.resources.clock.now(),
            confirmed: self.resources.clock.confirmed(),
            spread: fastrand::f64(),
            fetched,
            broke_off: fetched && matches!(health, LaneHealth::Failing(_)),
        };
        let mut results = Vec::new();
        for (at, answer) in answers {
            let recipient = &self.message.recipients[at];
            let decision = circumstances.decide(&self.message, recipient, answer);
            if let Some((number, action)) = decision.rule {
                maillog::ruled(self.message.id, &recipient.address, number, action);
            }
            if let Some(attempt) = &decision.settled.attempt {
                let (id, sender) = (self.message.id, self.message.sender.as_ref());
                maillog::attempted(id, sender, &recipient.address, attempt, decision.next_secs);
            }
            results.push(decision.settled);
        }
        self.write(results)
    }

    /// Settles who is not settled yet, and gives the connection back.
    pub(in crate::delivery) fn finish(self, answers: Answers) -> Done {
        let Answers { answers, settled, health, kept } = answers;
        let asked = answers.into_iter().zip(&settled).enumerate();
        let mut named: Vec<RecipientId> = Vec::with_capacity(settled.len());
        let rest: Vec<(usize, Answer)> = asked
            .filter_map(|(at, (answer, settled))| {
                if answer.is_some() || *settled {
                    named.push(self.message.recipients[at].id);
                }
                answer.filter(|_| !settled).map(|answer| (at, answer))
            })
            .collect();
        self.settle(rest, &health);
        // Of an attempt that decided nothing.
        if !self.tls_sessions.borrow().is_empty() {
            self.resources.queue.count_tls_sessions(self.take_tls_sessions());
        }
        if let Some((key, pooled)) = kept {
            self.resources.pool.put(&key, pooled);
        }
        let unsettled = self.job.recipient_ids().filter(|id| !named.contains(id)).collect();
        Done { health, unsettled }
    }

    /// Bounces the job without a further try.
    pub(in crate::delivery) fn expire(self) -> Done {
        let results = expire(self.job, self.at, &self.message);
        for (recipient, result) in self.message.recipients.iter().zip(&results) {
            if let Some(attempt) = &result.attempt {
                let (id, sender) = (self.message.id, self.message.sender.as_ref());
                maillog::attempted(id, sender, &recipient.address, attempt, None);
                continue;
            }
            let told = if recipient.to_bounce { maillog::returned } else { maillog::expired };
            told(self.message.id, &recipient.address, recipient.last_reply.as_deref());
        }
        let settled: Vec<RecipientId> = results.iter().map(|result| result.recipient).collect();
        self.write(results);
        let unsettled = self.job.recipient_ids().filter(|id| !settled.contains(id)).collect();
        Done { health: LaneHealth::Unchanged, unsettled }
    }

    fn write(&self, mut results: Vec<Settled>) {
        if results.is_empty() {
            return;
        }
        let Resources { queue, report_limits, clock, .. } = self.resources;
        let (at, message) = (clock.now(), self.message.clone());
        let settings = &self.context.settings;
        let reports = compose::compose(settings, queue, report_limits, at, &message, &mut results);
        let Reports { written: reports, pending_reports, expanded_told } = reports;
        // What is delivered and not recorded is delivered again by the next process, should this one be killed. So
        // neither this thread nor its connection runs ahead: both have the next message once this one is on disk.
        let tls_sessions = self.take_tls_sessions();
        let is_failure = |settled: &Settled| settled.attempt.as_ref().is_some_and(Attempt::is_failure);
        let dialogue = results.iter().any(is_failure).then(|| self.dialogue.take().text()).flatten();
        queue
            .settle(Settlement {
                message,
                at,
                results,
                reports,
                pending_reports,
                expanded_told,
                tls_sessions,
                dialogue,
            })
            .wait();
    }
}

/// The recipients of a job.
pub(in crate::delivery) fn ids_of(job: &Job) -> Vec<RecipientId> {
    job.recipient_ids().collect()
}

/// The message with the job's recipients: from memory while it is fresh, otherwise from the database.
fn load(queue: &Queue, job: &Job) -> Result<Option<Arc<QueuedMessage>>, QueueError> {
    match &job.fresh {
        Some(fresh) if fresh.recipients.len() == job.recipients.len() => Ok(Some(fresh.clone())),
        Some(fresh) => {
            // Its recipients are divided over several lanes or transactions: this job has a part of them.
            let mut part = QueuedMessage::clone(fresh);
            part.recipients.retain(|recipient| job.recipient_ids().any(|id| id == recipient.id));
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

/// Recipients whose final dot was about to be sent when the last process ended, settled as `[delivery] in_doubt`
/// says. To be called before the first attempt; what it does is on disk when it returns.
///
/// # Errors
/// Where the queue cannot be read or written.
pub fn settle_doubts(queue: &Queue, policy: InDoubt, now: i64) -> Result<(), QueueError> {
    let next_state = match policy {
        // They are due: that is all there is to it.
        InDoubt::Retry => return Ok(()),
        InDoubt::Hold => NextState::Hold(HeldBy::InDoubt),
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
                tls_policy: TlsPolicy::None,
                dkim: None,
                source: None,
                phase: Phase::EndOfData,
                reply: reply.clone(),
                outcome: Outcome::InDoubt,
            };
            maillog::attempted(id, message.sender.as_ref(), &recipient.address, &attempt, None);
            Settled { recipient: recipient.id, attempt: Some(attempt), next_state, warned: false }
        });
        let results = results.collect();
        let message = Arc::new(message);
        let (reports, pending_reports) = (Vec::new(), Vec::new());
        let _ = queue.settle(Settlement {
            message,
            at: now,
            results,
            reports,
            pending_reports,
            expanded_told: false,
            tls_sessions: Vec::new(),
            dialogue: None,
        });
    }
    queue.barrier().map_err(|error| QueueError::Writer(error.to_string()))
}
