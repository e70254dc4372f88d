//! The state of an attempt: the answers so far, and what each host that is asked adds to them.

use std::borrow::Cow;
use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::config::InDoubt;
use crate::delivery::Setup;
use crate::delivery::host::limits::Slot;
use crate::delivery::host::pool::{Pool, PoolKey, PooledConnection};
use crate::delivery::host::throttle_signal::{ThrottleSignal, throttle_signal};
use crate::delivery::route::source_addresses;
use crate::delivery::smtp::connection::Trouble;
use crate::delivery::smtp::endpoint::Endpoint;
use crate::delivery::smtp::outgoing::Outgoing;
use crate::delivery::smtp::reply_class::{RecipientResult, Verdict, wants_login};
use crate::mail::{Enhanced, Outcome, Phase, Reply};
use crate::maillog;
use crate::queue::{LaneHealth, Queue, QueuedMessage, QueuedRecipient, RecipientId, Setting};

/// What was said about one recipient, and by whom.
#[derive(Debug, Clone)]
pub(in crate::delivery) struct Answer {
    pub(in crate::delivery) outcome: Outcome,
    pub(in crate::delivery) phase: Phase,
    pub(in crate::delivery) reply: Reply,
    pub(in crate::delivery) mx: Option<String>,
    pub(in crate::delivery) ip: Option<IpAddr>,
    pub(in crate::delivery) tls: Option<String>,
}

impl Answer {
    /// An answer given by a host.
    pub(super) fn from_host(
        endpoint: &Endpoint,
        outcome: Outcome,
        phase: Phase,
        reply: Reply,
        tls: Option<String>,
    ) -> Answer {
        let (mx, ip) = (Some(endpoint.host.clone()), Some(endpoint.address.ip()));
        Answer { outcome, phase, reply, mx, ip, tls }
    }

    /// Our own words, where no host was asked.
    pub(in crate::delivery) fn ours(outcome: Outcome, reply: Reply, mx: Option<String>) -> Answer {
        Answer { outcome, phase: Phase::Dns, reply, mx, ip: None, tls: None }
    }
}

/// An answer for each recipient, in order, and what was learnt about the lane. Who has none is requeued.
pub(in crate::delivery) struct Answers {
    pub(in crate::delivery) answers: Vec<Option<Answer>>,
    pub(in crate::delivery) health: LaneHealth,
}

/// The state of an attempt: the answers so far.
pub(super) struct Round<'a> {
    pub(super) setup: &'a Setup,
    pub(super) queue: &'a Queue,
    pub(super) clock: &'a Clock,
    pub(super) message: &'a QueuedMessage,
    pub(super) deadline: Instant,
    /// Unix seconds, when the attempt began.
    pub(super) now: i64,
    pub(super) answers: Vec<Option<Answer>>,
}

impl Round<'_> {
    /// Transactions on a connection of ours, which is then kept for the next job if it is still good. Gives what
    /// the host said, or failed to, when it went wrong.
    pub(super) fn use_up(
        &mut self,
        mut line: PooledConnection,
        pool: &Pool,
        key: &PoolKey,
    ) -> Option<Answer> {
        let trouble = self.transact_with_bdat(&mut line);
        match (&line.slot, &trouble) {
            (Some(slot), Some(answer)) => slot.refused(&line.endpoint, answer.phase, &answer.reply),
            (Some(slot), None) => slot.welcomed(&line.endpoint),
            (None, _) => {}
        }
        let most = self.setup.settings.messages_per_connection;
        // RFC 9422 §3, as below.
        let most = most.min(line.connection.limits().1.unwrap_or(usize::MAX));
        let good = trouble.is_none() && line.connection.is_usable() && line.connection.messages() < most;
        if good && !line.slot.as_ref().is_some_and(|slot| slot.is_wanted(key)) {
            pool.put(key, line);
        } else {
            line.connection.quit();
        }
        trouble
    }

    /// Transactions on one connection until every recipient has its answer. Otherwise gives what the host said, or
    /// failed to, when it went wrong.
    pub(super) fn transact(&mut self, line: &mut PooledConnection) -> Option<Answer> {
        loop {
            let mut open: Vec<usize> =
                (0..self.answers.len()).filter(|at| self.answers[*at].is_none()).collect();
            // RFC 9422 §3: what a host says it will refuse is not tried.
            let (recipients_max, mails_max) = line.connection.limits();
            if open.is_empty() {
                return None;
            }
            open.truncate(recipients_max.unwrap_or(usize::MAX));
            let mut results = self.deliver(line, &open);
            if line.connection.went_in_one {
                self.learn_of_one_go(&line.endpoint.name(), &results);
            }
            for result in results.iter_mut().filter(|_| line.endpoint.relay) {
                if wants_login(result.phase, result.reply.code) {
                    result.verdict = Verdict::HostTrouble;
                }
            }
            let (mut trouble, mut answered) = (None, false);
            for (at, result) in open.into_iter().zip(results) {
                match outcome_of(result.verdict) {
                    Some(outcome) => {
                        answered = true;
                        if matches!(outcome, Outcome::Delivered | Outcome::Relayed)
                            && let Some(slot) = &line.slot
                        {
                            slot.went_well(&self.setup.settings);
                        }
                        self.answers[at] = Some(self.answer(line, outcome, result));
                    }
                    None if result.verdict == Verdict::HostTrouble => {
                        trouble.get_or_insert_with(|| self.answer(line, Outcome::Deferred, result));
                    }
                    // In the next transaction, on this connection if it lives.
                    None => {}
                }
            }
            if let Some(trouble) = trouble {
                if trouble.phase == Phase::EndOfData && !self.recall_dot() {
                    // Nobody else is asked with the doubt on record: the next attempt begins without it.
                    for answer in self.answers.iter_mut().filter(|answer| answer.is_none()) {
                        *answer = Some(trouble.clone());
                    }
                    return None;
                }
                return Some(trouble);
            }
            // RFC 9422 §3, again.
            let is_over = !line.connection.is_usable()
                || mails_max.is_some_and(|most| line.connection.messages() >= most);
            // A host that only ever puts recipients off to the next transaction would keep us until the deadline.
            if !answered || (is_over && self.answers.iter().any(Option::is_none)) {
                let reply =
                    Reply::new(451, Enhanced(4, 5, 3), "the host took no further recipient of this message");
                let result = RecipientResult { phase: Phase::Rcpt, reply, verdict: Verdict::HostTrouble };
                return Some(self.answer(line, Outcome::Deferred, result));
            }
        }
    }

    /// The host refused after the dot (421), and the next one is asked: nothing is in doubt until its own dot.
    /// False: that could not be recorded.
    fn recall_dot(&self) -> bool {
        if self.setup.settings.in_doubt == InDoubt::Retry {
            return true;
        }
        let undecided =
            self.message.recipients.iter().zip(&self.answers).filter(|(_, answer)| answer.is_none());
        let ids: Vec<RecipientId> = undecided.map(|(recipient, _)| recipient.id).collect();
        self.queue.recall_dot(&ids).is_ok()
    }

    fn answer(&self, line: &PooledConnection, outcome: Outcome, result: RecipientResult) -> Answer {
        if outcome == Outcome::Deferred
            && let Some(slot) = &line.slot
        {
            self.hear_throttle_signal(slot, result.phase, &result.reply);
        }
        let tls = Some(line.connection.tls().to_owned());
        Answer::from_host(&line.endpoint, outcome, result.phase, result.reply, tls)
    }

    fn deliver(&self, line: &mut PooledConnection, open: &[usize]) -> Vec<RecipientResult> {
        let message = self.message;
        let recipients: Vec<&QueuedRecipient> = open.iter().map(|at| &message.recipients[*at]).collect();
        let outgoing = Outgoing {
            sender: message.sender.as_ref(),
            recipients: &recipients,
            body: message.body,
            eight_bit: self.setup.settings.eight_bit,
            smtputf8: message.smtputf8,
            size: message.size,
            ret: message.ret,
            envid: message.envid.as_deref(),
            handling: message.handling,
            now: self.now,
            in_one_go: self.may_go_in_one(line),
        };
        let mut before_dot = |accepted: &[usize]| match self.setup.settings.in_doubt {
            InDoubt::Retry => Ok(()),
            // The intent is on disk before the dot is on the wire, so that a crash in between is recognised.
            // Of those whom the host refused there is nothing to be in doubt about.
            InDoubt::Hold | InDoubt::AssumeDelivered => {
                let ids: Vec<RecipientId> = accepted.iter().map(|at| recipients[*at].id).collect();
                self.queue.intend_dot(&ids).map_err(io::Error::other)
            }
        };
        match &message.content {
            Some(content) => {
                let mut whole = Some(Cow::Borrowed(content.bytes.as_slice()));
                let mut next = || Ok(whole.take());
                line.connection.deliver(&outgoing, &mut next, &mut before_dot, self.deadline)
            }
            None => {
                let mut chunks = self.queue.content(message.id);
                let mut next =
                    || chunks.next().transpose().map(|chunk| chunk.map(Cow::Owned)).map_err(io::Error::other);
                line.connection.deliver(&outgoing, &mut next, &mut before_dot, self.deadline)
            }
        }
    }

    /// Not where a doubt has to be recorded first, and not to a host that left one of these in doubt.
    fn may_go_in_one(&self, line: &PooledConnection) -> bool {
        self.setup.settings.in_doubt == InDoubt::Retry
            && line.connection.took_a_batch()
            && self.setup.connector.hosts.recall(&line.endpoint.name(), "single_write").is_none()
    }

    /// A doubt ends it for this host, since what a host swallows like this would be delivered over and over.
    fn learn_of_one_go(&self, host: &str, results: &[RecipientResult]) {
        let hosts = &self.setup.connector.hosts;
        let doubt = results.iter().find(|result| result.verdict == Verdict::InDoubt);
        if let Some(result) = doubt {
            hosts.found(host, Setting::NoSingleWrite, &result.reply);
        } else if results.iter().any(|result| matches!(result.verdict, Verdict::Delivered | Verdict::Relayed))
        {
            hosts.ended(host, "single_write");
        }
    }

    /// An address that could not be connected to while another of its host could, or failed later.
    pub(super) fn passed_over(&self, endpoint: &Endpoint, trouble: Trouble) -> Answer {
        maillog::host_trouble(
            self.message.id,
            &endpoint.host,
            endpoint.address,
            trouble.phase,
            &trouble.reply,
        );
        Answer::from_host(endpoint, Outcome::Deferred, trouble.phase, trouble.reply, trouble.tls)
    }

    /// Whether the host says that we have too many connections there, and we do have others: then this one was
    /// ours to avoid, and the host is well.
    pub(super) fn is_at_limit(&self, slot: &Slot, phase: Phase, reply: &Reply) -> bool {
        match self.hear_throttle_signal(slot, phase, reply) {
            Some((ThrottleSignal::Connections | ThrottleSignal::Unspecified, others)) => others > 0,
            _ => false,
        }
    }

    /// What a reply says that there is too much of, noted, and how many other connections we have at that host.
    fn hear_throttle_signal(
        &self,
        slot: &Slot,
        phase: Phase,
        reply: &Reply,
    ) -> Option<(ThrottleSignal, usize)> {
        let what = throttle_signal(phase, reply)?;
        Some((what, slot.throttled(what, reply)))
    }

    /// Whoever has no answer yet waits a little, and this was no attempt for them.
    pub(super) fn requeue(self, wait: Duration) -> Answers {
        let health = LaneHealth::AtLimit(wait);
        if self.clock.now() < self.message.expires_at {
            return Answers { answers: self.answers, health };
        }
        // Past its lifetime it must not be requeued for ever: a deferral is what ends it.
        let reply =
            Reply::new(451, Enhanced(4, 4, 5), "the host had no room for more connections or messages");
        let rest = Answer::ours(Outcome::Deferred, reply, None);
        Answers { health, ..self.finish(Some(rest)) }
    }

    /// Whoever has no answer yet gets `rest`; without it, everybody has one or time ran out.
    pub(super) fn finish(self, rest: Option<Answer>) -> Answers {
        let without = self.answers.iter().any(Option::is_none);
        let taken = |answer: &Answer| matches!(answer.outcome, Outcome::Delivered | Outcome::Relayed);
        let rest = rest.unwrap_or_else(|| {
            let reply = Reply::new(
                451,
                Enhanced(4, 4, 7),
                "the attempt's deadline passed before a host could be asked",
            );
            Answer::ours(Outcome::Deferred, reply, None)
        });
        // A name that does not exist says nothing of a host; hosts that take no mail at all are left in peace,
        // though what they refused bounces. Source addresses that cannot be used hold up their own mail alone.
        let trouble = (rest.outcome == Outcome::Deferred || rest.phase != Phase::Dns)
            && !source_addresses::is_no_source(&rest.reply);
        let health = if without && trouble {
            LaneHealth::Failing(rest.reply.to_string())
        } else if self.answers.iter().flatten().any(taken) {
            LaneHealth::Healthy
        } else {
            LaneHealth::Unchanged
        };
        let answers = self.answers.into_iter().map(|answer| answer.or_else(|| Some(rest.clone()))).collect();
        Answers { answers, health }
    }
}

/// What a verdict means for the recipient; none where nothing was decided.
fn outcome_of(verdict: Verdict) -> Option<Outcome> {
    match verdict {
        Verdict::Delivered => Some(Outcome::Delivered),
        Verdict::Relayed => Some(Outcome::Relayed),
        Verdict::Deferred => Some(Outcome::Deferred),
        Verdict::Failed => Some(Outcome::Failed),
        Verdict::InDoubt => Some(Outcome::InDoubt),
        Verdict::NextTransaction | Verdict::HostTrouble => None,
    }
}
