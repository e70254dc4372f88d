//! The state of an attempt: the answers so far, and what is left to say to those who have none.

use std::cell::OnceCell;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::mail::{Domain, Outcome, Phase, Reply, TlsPolicy};
use crate::maillog;
use crate::queue::{LaneHealth, QueuedMessage};

use crate::delivery::host::pool::{PoolKey, PooledConnection};
use crate::delivery::job::context::{DeliveryContext, Resources};
use crate::delivery::job::require_tls;
use crate::delivery::job::ruling::{Ruling, RulingContext, is_of_policy, rule};
use crate::delivery::job::settle::Begun;
use crate::delivery::job::signing::Signature;
use crate::delivery::job::sts_policy;
use crate::delivery::smtp::endpoint::Endpoint;
use crate::delivery::smtp::failure::{Failure, NoSafeHost};
use crate::delivery::smtp::tls::Encryption;
use crate::delivery::smtp::wire::Fault;
use crate::delivery::sts::policies::StsPolicy;

/// What was said about one recipient, and by whom.
#[derive(Debug, Clone)]
pub(in crate::delivery) struct Answer {
    pub(in crate::delivery) outcome: Outcome,
    pub(in crate::delivery) phase: Phase,
    pub(in crate::delivery) reply: Reply,
    pub(in crate::delivery) place: Place,
}

/// Where an answer was given.
#[derive(Debug, Clone)]
pub(in crate::delivery) struct Place {
    pub(in crate::delivery) mx: Option<String>,
    pub(in crate::delivery) ip: Option<IpAddr>,
    pub(in crate::delivery) tls: Option<Encryption>,
    pub(in crate::delivery) policy: TlsPolicy,
    /// As [`crate::mail::Attempt::dkim`].
    pub(in crate::delivery) dkim: Option<Arc<str>>,
    /// As [`crate::mail::Attempt::source`].
    pub(in crate::delivery) source: Option<IpAddr>,
}

impl Place {
    /// No host was asked.
    pub(in crate::delivery) const NOWHERE: Place =
        Place { mx: None, ip: None, tls: None, policy: TlsPolicy::None, dkim: None, source: None };

    /// At this host, where nothing was sent yet.
    pub(super) fn at(endpoint: &Endpoint, tls: Option<Encryption>) -> Place {
        let (mx, ip) = (Some(endpoint.host.clone()), Some(endpoint.address.ip()));
        Place { mx, ip, tls, policy: endpoint.policy, dkim: None, source: None }
    }
}

impl Answer {
    /// Our own words, where no host was asked.
    #[cfg(test)]
    pub(in crate::delivery) fn ours(outcome: Outcome, reply: Reply) -> Answer {
        Answer { outcome, phase: Phase::Dns, reply, place: Place::NOWHERE }
    }

    /// What a failure puts on record.
    pub(super) fn of(failure: &Failure, outcome: Outcome, place: Place) -> Answer {
        Answer { outcome, phase: failure.phase(), reply: failure.reply(), place }
    }

    /// The host took the message.
    pub(in crate::delivery) fn is_taken(&self) -> bool {
        matches!(self.outcome, Outcome::Delivered | Outcome::Relayed)
    }

    pub(super) fn deferred(failure: &Failure, place: Place) -> Answer {
        Answer::of(failure, Outcome::Deferred, place)
    }
}

/// An answer for each recipient, in order, and what was learnt about the lane. Who has none is requeued.
pub(in crate::delivery) struct Answers {
    pub(in crate::delivery) answers: Vec<Option<Answer>>,
    /// Whose answer is settled already.
    pub(in crate::delivery) settled: Vec<bool>,
    pub(in crate::delivery) health: LaneHealth,
    /// The connection that is good for further mail.
    pub(in crate::delivery) kept: Option<(PoolKey, PooledConnection)>,
}

/// What kept recipients without an answer at a host, or kept hosts from being asked.
#[derive(Debug, Clone)]
pub(super) struct HostFailure {
    pub(super) failure: Failure,
    pub(super) ruling: Ruling,
    pub(super) place: Place,
}

impl HostFailure {
    pub(super) fn new(failure: Failure, ruling: Ruling, place: Place) -> HostFailure {
        HostFailure { failure, ruling, place }
    }
}

/// The state of an attempt.
pub(super) struct AttemptState<'a> {
    pub(super) begun: &'a Begun<'a>,
    pub(super) context: &'a DeliveryContext,
    pub(super) resources: &'a Resources,
    pub(super) message: &'a QueuedMessage,
    /// The sender requires TLS (RFC 8689): whatever connection others opened will not do.
    pub(super) requires_tls: bool,
    /// That, or that TLS is not wanted more than the message: its connections are its own.
    pub(super) stands_alone: bool,
    pub(super) deadline: Instant,
    /// Unix seconds, when the attempt began.
    pub(super) now: i64,
    pub(super) answers: Vec<Option<Answer>>,
    /// Made once it is needed.
    pub(super) signature: OnceCell<Result<Signature, Failure>>,
    /// See [`Answers::settled`].
    settled: Vec<bool>,
    /// See [`Answers::kept`].
    pub(super) kept: Option<(PoolKey, PooledConnection)>,
    /// The MTA-STS policy of the recipients' domain.
    pub(super) sts: Option<Arc<StsPolicy>>,
    /// Its hosts with TLSA records of which none can be used.
    pub(super) unusable_tlsa: Vec<String>,
    /// Hosts that a policy leaves out, until they are counted.
    pub(super) left_out: Vec<NoSafeHost>,
    /// What the last host said, or failed to.
    last: Option<HostFailure>,
    /// Every host so far said that it takes no mail.
    pub(super) all_refuse: bool,
}

impl<'a> AttemptState<'a> {
    pub(super) fn new(begun: &'a Begun<'a>, deadline: Instant) -> AttemptState<'a> {
        let message = &*begun.message;
        let count = message.recipients.len();
        AttemptState {
            begun,
            context: begun.context,
            resources: begun.resources,
            message,
            requires_tls: require_tls::is_required(message),
            stands_alone: require_tls::is_required(message) || message.handling.tls_optional,
            deadline,
            now: begun.at,
            answers: vec![None; count],
            signature: OnceCell::new(),
            settled: vec![false; count],
            kept: None,
            sts: None,
            unusable_tlsa: Vec::new(),
            left_out: Vec::new(),
            last: None,
            all_refuse: true,
        }
    }

    /// The connection, unless it proved less than the policy of the domain wants by now: then it is closed.
    pub(super) fn reusable(&self, pooled: PooledConnection, domain: &Domain) -> Option<PooledConnection> {
        let known = match self.resources.policies.known(domain.as_str()) {
            Ok(known) => known.filter(|_| self.context.settings.mta_sts),
            Err(error) => {
                log::error!("MTA-STS policies cannot be read: {error}");
                pooled.connection.quit();
                return None;
            }
        };
        if sts_policy::may_reuse(&pooled.endpoint, known.as_deref()) {
            return Some(pooled);
        }
        pooled.connection.quit();
        None
    }

    /// Recipients without an answer, by their place in the message.
    pub(super) fn unanswered(&self) -> Vec<usize> {
        (0..self.answers.len()).filter(|at| self.answers[*at].is_none()).collect()
    }

    /// Settles those who have been delivered to and are not settled: before another transaction begins or their
    /// connection is closed, so that a kill repeats two transactions of each connection at most.
    pub(super) fn settle_taken(&mut self) {
        let is_new =
            |at: &usize| !self.settled[*at] && self.answers[*at].as_ref().is_some_and(Answer::is_taken);
        let new: Vec<usize> = (0..self.answers.len()).filter(is_new).collect();
        if new.is_empty() {
            return;
        }
        let taken = new.iter().filter_map(|at| Some((*at, self.answers[*at].clone()?)));
        self.begun.settle(taken, &LaneHealth::Unchanged);
        new.into_iter().for_each(|at| self.settled[at] = true);
    }

    /// The next host is asked after this.
    pub(super) fn hold_against_host(&mut self, failed: HostFailure) {
        self.all_refuse &= failed.ruling.outcome == Outcome::Failed;
        self.last = Some(failed);
    }

    /// An address that could not be connected to while another of its host could, or failed later.
    pub(super) fn pass_over(&mut self, endpoint: &Endpoint, fault: Fault) {
        let failure = Failure::Dial(fault);
        let ruling = rule(&failure, &RulingContext { relay: endpoint.relay, ..RulingContext::default() });
        let failed = HostFailure::new(failure, ruling, Place::at(endpoint, None));
        self.begun.keep_dialogue(endpoint, None, None, Some(failed.failure.reply()));
        maillog::host_trouble(
            self.message.id,
            &endpoint.host,
            endpoint.address,
            Phase::Connect,
            &failed.failure.reply(),
        );
        self.hold_against_host(failed);
    }

    pub(super) fn last_failure(&mut self) -> Option<HostFailure> {
        self.last.take()
    }

    /// Whoever has no answer yet waits a little, and this was no attempt for them.
    pub(super) fn requeue(self, wait: Duration) -> Answers {
        let health = LaneHealth::AtLimit(wait);
        if self.resources.clock.confirmed() < self.message.ends_at(self.context.settings.lifetimes) {
            let AttemptState { answers, settled, kept, .. } = self;
            return Answers { answers, settled, health, kept };
        }
        // Past its lifetime it must not be requeued for ever: a deferral is what ends it.
        let ruling = rule(&Failure::AtLimit, &RulingContext::default());
        let rest = HostFailure::new(Failure::AtLimit, ruling, Place::NOWHERE);
        Answers { health, ..self.finish(Some(rest)) }
    }

    /// Whoever has no answer yet gets `rest`; without it, everybody has one or time ran out.
    pub(super) fn finish(self, rest: Option<HostFailure>) -> Answers {
        let rest = rest.unwrap_or_else(|| {
            let ruling = rule(&Failure::Deadline, &RulingContext::default());
            HostFailure::new(Failure::Deadline, ruling, Place::NOWHERE)
        });
        // A host's refusal is final where every host refuses.
        let outcome = if self.all_refuse { rest.ruling.outcome } else { Outcome::Deferred };
        let (backs_off, is_of_policy) =
            (rest.ruling.backs_off, is_of_policy(&rest.failure, rest.place.policy));
        let rest = Answer::of(&rest.failure, outcome, rest.place);
        let health = if backs_off && self.answers.iter().any(Option::is_none) {
            let reply = rest.reply.marked();
            if is_of_policy { LaneHealth::PolicyNotKept(reply) } else { LaneHealth::Failing(reply) }
        } else if self.answers.iter().flatten().any(Answer::is_taken) {
            LaneHealth::Healthy
        } else {
            LaneHealth::Unchanged
        };
        let AttemptState { answers, settled, kept, .. } = self;
        let answers = answers.into_iter().map(|answer| answer.or_else(|| Some(rest.clone()))).collect();
        Answers { answers, settled, health, kept }
    }
}
