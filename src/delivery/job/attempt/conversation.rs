//! All that is said to one host in an attempt: over one connection, or, where the host fails at TLS, pipelining or
//! BDAT, over another without that feature.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::time::Instant;

use crate::config::InDoubt;
use crate::mail::{Outcome, Phase, TlsPolicy};
use crate::queue::{Origin, QueuedRecipient, RecipientId, TlsSession};

use crate::delivery::host::limits::Slot;
use crate::delivery::host::pool::{PoolKey, PooledConnection};
use crate::delivery::host::profile::{Evidence, HostKnowledge, SingleWriteResult, fallback, learn};
use crate::delivery::job::attempt::state::{Answer, AttemptState, HostFailure, Place};
use crate::delivery::job::require_tls;
use crate::delivery::job::ruling::{NextStep, Ruling, RulingContext, rule};
use crate::delivery::job::signing::Signature;
use crate::delivery::job::sts_policy;
use crate::delivery::job::tls_session::{self, Failed};
use crate::delivery::smtp::connection::{Connection, Content, Delivery, OpenFailure};
use crate::delivery::smtp::connector::{Opened, TlsResult};
use crate::delivery::smtp::endpoint::Endpoint;
use crate::delivery::smtp::failure::{Failure, RequireTls};
use crate::delivery::smtp::outgoing::Outgoing;
use crate::delivery::smtp::pipeline::PipelineResult;
use crate::delivery::smtp::profile::Profile;
use crate::delivery::smtp::tls::Encryption;
use crate::delivery::smtp::transaction::RecipientResult;
use crate::delivery::smtp::wire::{Fault, Wire};

/// What a conversation begins with.
pub(super) enum Start {
    /// A connection that stood already.
    Standing(Connection),
    /// The first byte of a new one, or why it could not be made.
    Dialled(Result<Wire, Fault>),
}

impl AttemptState<'_> {
    /// Asks the host to take the message for all who have no answer; the connection is kept for the next job if it
    /// is still good. Gives what the host said, or failed to, when it went wrong.
    pub(super) fn converse(
        &mut self,
        key: &PoolKey,
        endpoint: &Endpoint,
        slot: Option<Slot>,
        start: Start,
    ) -> Option<HostFailure> {
        let known = slot.as_ref().map_or(HostKnowledge::NOTHING, |slot| match &start {
            Start::Standing(_) => slot.known(),
            Start::Dialled(Ok(_)) => slot.known_to_open(endpoint),
            // A dead address shows nothing of a feature that it is time to try again: another one is to try it.
            Start::Dialled(Err(_)) => HostKnowledge::NOTHING,
        });
        let profile = match &start {
            Start::Standing(connection) => {
                let Profile { single_write, reuse, .. } = known.profile;
                Profile { single_write, reuse, ..connection.profile }
            }
            Start::Dialled(_) => known.profile_for(endpoint),
        };
        let (tried, failed, connection) = self.try_profiles(endpoint, slot.as_ref(), &known, profile, start);
        // What we break off shows nothing of the host.
        if let Some(slot) = &slot
            && !self.context.connector.is_stopping()
        {
            slot.remember(learn(&tried, &known));
        }
        let failed = failed.map(|failed| self.judge(endpoint, slot.as_ref(), failed));
        if let Some(slot) = &slot {
            note_alert(slot, endpoint, failed.as_ref());
        }
        if let Some(connection) = connection {
            let pooled = PooledConnection { endpoint: endpoint.clone(), connection, slot };
            self.keep_or_quit(key, pooled, failed.is_none());
        }
        failed
    }

    /// Conversations from this profile down, each without what the one before failed at, as long as leaving
    /// more out may help; and one more for as long as the host takes some of the recipients each time and no more on
    /// that connection. Gives what each came to, the failure that stands, and the last connection.
    fn try_profiles(
        &mut self,
        endpoint: &Endpoint,
        slot: Option<&Slot>,
        known: &HostKnowledge,
        mut profile: Profile,
        start: Start,
    ) -> (Vec<(Profile, Evidence)>, Option<HostFailure>, Option<Connection>) {
        let (mut start, mut tried, mut standing) = (Some(start), Vec::new(), None);
        loop {
            let before = self.unanswered().len();
            let (mut evidence, mut failed, connection) =
                self.converse_once(endpoint, slot, profile, start.take());
            let took_some = self.unanswered().len() < before;
            if took_some && self.goes_on(endpoint, slot, &mut failed, connection.as_ref()) {
                evidence.failure = None;
                tried.push((profile, evidence));
                leave(connection);
                continue;
            }
            standing = which_stands(standing, failed);
            let next = fallback(&profile, &evidence, endpoint, known);
            tried.push((profile, evidence));
            let Some(next) = next else { return (tried, standing, connection) };
            leave(connection);
            if let Some(HostFailure { failure, .. }) = &standing {
                log::debug!("{}: {failure}; trying again with {next:?}", endpoint.name());
            }
            profile = next;
        }
    }

    /// Whether those who are left have another connection to the host at once: it took others, and then the connection
    /// was over. A host may take one recipient at a time, or one message a connection (RFC 9422 §3 calls that RCPTMAX
    /// and MAILMAX; others just close). Each such connection answers one recipient at least. Where the host's rate is
    /// used up, the failure says so.
    fn goes_on(
        &self,
        endpoint: &Endpoint,
        slot: Option<&Slot>,
        failed: &mut Option<HostFailure>,
        connection: Option<&Connection>,
    ) -> bool {
        let Some(HostFailure { failure, ruling, .. }) = failed else { return false };
        let was_used = connection.is_some_and(|connection| connection.messages() > 1);
        let is_over = match failure {
            Failure::NoMoreRecipients => true,
            Failure::NoReply { phase: Phase::Mail, fault: Fault::Lost(_), .. } => was_used,
            Failure::Refused { phase: Phase::Mail, reply } => was_used && reply.code == 421,
            _ => false,
        };
        if !is_over || Instant::now() >= self.deadline {
            return false;
        }
        let counted = slot.map_or(Ok(()), |slot| slot.count_message(endpoint, &self.context.settings));
        if let Err(wait) = counted {
            (ruling.next, ruling.backs_off) = (NextStep::Requeue(wait), false);
        }
        counted.is_ok()
    }

    /// One conversation at this profile: over the connection that stands, or a new one.
    fn converse_once(
        &mut self,
        endpoint: &Endpoint,
        slot: Option<&Slot>,
        profile: Profile,
        start: Option<Start>,
    ) -> (Evidence, Option<HostFailure>, Option<Connection>) {
        let (connector, deadline) = (&self.context.connector, self.deadline);
        let is_first = start.is_some();
        let start = start.unwrap_or_else(|| {
            Start::Dialled(connector.dial(endpoint.clone(), &mut VecDeque::new(), deadline).wire)
        });
        let mut source = None;
        let opened = match start {
            Start::Standing(connection) => Ok(Opened { connection, tls: TlsResult::Unused }),
            Start::Dialled(Ok(wire)) => {
                source = wire.source();
                let opened = connector.open_on(wire, endpoint, profile, deadline);
                self.note_tls(endpoint, source, &opened, is_first);
                opened
            }
            Start::Dialled(Err(fault)) => Err(OpenFailure::unconnected(fault)),
        };
        let Opened { mut connection, tls } = match opened {
            Ok(opened) if self.requires_tls && !opened.connection.keeps_require_tls() => {
                let encryption = opened.connection.tls();
                let failure = Failure::RequireTls(RequireTls::NotOffered);
                self.begun.keep_dialogue(
                    endpoint,
                    source,
                    Some(&opened.connection.dialogue),
                    Some(failure.reply()),
                );
                opened.connection.quit();
                let evidence = Evidence { tls: opened.tls, ..Evidence::unopened(failure.clone()) };
                return (evidence, Some(provisional(failure, endpoint, Some(encryption), source)), None);
            }
            Ok(opened) => opened,
            Err(unopened) => {
                let tls = unopened.tls();
                self.begun.keep_dialogue(
                    endpoint,
                    source,
                    unopened.dialogue(),
                    Some(unopened.failure.reply()),
                );
                let failure = unopened.failure;
                let evidence = Evidence::unopened(failure.clone());
                return (evidence, Some(provisional(failure, endpoint, tls, source)), None);
            }
        };
        connection.profile = profile;
        let (evidence, failed) = self.talk(&mut connection, endpoint, slot);
        (Evidence { tls, ..evidence }, failed, Some(connection))
    }

    /// A session of which something is known about TLS, for the reports on it. `is_first`: of this attempt at this
    /// host.
    fn note_tls(
        &self,
        endpoint: &Endpoint,
        source: Option<IpAddr>,
        opened: &Result<Opened, OpenFailure>,
        is_first: bool,
    ) {
        let policies = self.policies_of(endpoint);
        let outcome = match opened {
            Ok(opened) => tls_session::of_opened(endpoint, opened, policies, is_first),
            Err(OpenFailure { failure, .. }) => tls_session::of_failure(failure).map(Err),
        };
        let domain = tls_session::policy_domain(endpoint, &self.message.recipients[0].domain);
        let (Some(outcome), Some(domain)) = (outcome, domain) else { return };
        let session = TlsSession {
            policy: tls_session::policy(endpoint, policies),
            mx: endpoint.host.clone(),
            ip: Some(endpoint.address.ip()),
            source,
            policy_text: tls_session::policy_text(endpoint, policies),
            tlsa_base: endpoint.dane.as_ref().map(|tlsa| tlsa.base.clone()).unwrap_or_default(),
            ..self.tls_session(domain, outcome.err())
        };
        self.begun.note_tls(session);
    }

    fn policies_of(&self, endpoint: &Endpoint) -> tls_session::Policies<'_> {
        let unusable_tlsa = !endpoint.relay && self.unusable_tlsa.contains(&endpoint.host);
        tls_session::Policies { sts: self.sts.as_deref(), unusable_tlsa }
    }

    /// A policy that left no host to try.
    pub(super) fn note_no_host(&self, failure: &Failure) {
        if let Some((policy, mx, failed)) = tls_session::of_plan(failure) {
            self.note_without_session(policy, mx.unwrap_or_default().to_owned(), failed);
        }
    }

    /// Hosts that would have been asked before this one, were it not for a policy.
    pub(super) fn note_left_out(&mut self) {
        for none in std::mem::take(&mut self.left_out) {
            let failed = tls_session::of_left_out(&none);
            self.note_without_session(none.policy, none.host, failed);
        }
    }

    fn note_without_session(&self, policy: TlsPolicy, mx: String, failed: Failed) {
        let domain = self.message.recipients[0].domain.as_str().to_owned();
        let policy_text = tls_session::sts_text(policy, self.sts.as_deref()).unwrap_or_default();
        let session = self.tls_session(domain, Some(failed));
        self.begun.note_tls(TlsSession { policy, mx, policy_text, ..session });
    }

    fn tls_session(&self, domain: String, failed: Option<Failed>) -> TlsSession {
        let is_own = self.message.sender.is_none() && self.message.origin == Origin::default();
        TlsSession {
            // It counts when it is written.
            day: 0,
            domain,
            policy: TlsPolicy::None,
            mx: String::new(),
            ip: None,
            source: None,
            failed: failed.as_ref().map(|failed| failed.result),
            reason: failed.map(|failed| failed.reason).unwrap_or_default(),
            policy_text: String::new(),
            tlsa_base: String::new(),
            own_message: is_own.then_some(self.message.id),
        }
    }

    /// The final ruling on a failure before MAIL; later ones were ruled on in `take_results`.
    fn judge(&self, endpoint: &Endpoint, slot: Option<&Slot>, failed: HostFailure) -> HostFailure {
        if failed.failure.phase() >= Phase::Mail {
            return failed;
        }
        let failure = if self.requires_tls {
            require_tls::insist(failed.failure)
        } else {
            sts_policy::with_policy(failed.failure, endpoint, self.sts.as_deref())
        };
        let ruling = self.rule_and_note_throttle(endpoint, slot, &failure, false);
        HostFailure { failure, ruling, ..failed }
    }

    /// What a failure at this host means. Where the host says that it has too much of us, its limit is
    /// lowered. Each recipient with the same reply is ruled on, which is harmless: a signal within
    /// `ONE_SIGNAL_SECS` of the one before (`host/adaptive.rs`) lowers nothing.
    fn rule_and_note_throttle(
        &self,
        endpoint: &Endpoint,
        slot: Option<&Slot>,
        failure: &Failure,
        in_doubt: bool,
    ) -> Ruling {
        let context = RulingContext { relay: endpoint.relay, in_doubt, has_others: false };
        let ruling = rule(failure, &context);
        let (Some(signal), Some(slot)) = (ruling.throttle, slot) else { return ruling };
        let others = slot.throttled(signal, &failure.reply());
        rule(failure, &RulingContext { has_others: others > 0, ..context })
    }

    /// A connection that is done with: kept for the next job if it is still good, once this one is settled.
    fn keep_or_quit(&mut self, key: &PoolKey, pooled: PooledConnection, went_well: bool) {
        let most = self.context.settings.messages_per_connection;
        // RFC 9422 §3, as below.
        let most = most.min(pooled.connection.limits().1.unwrap_or(usize::MAX));
        let Connection { profile, .. } = &pooled.connection;
        // Other mail is not to count as sent by this one's requirement, or to go where only this one may.
        let good = went_well
            && !self.stands_alone
            && profile.reuse
            && pooled.connection.is_usable()
            && pooled.connection.messages() < most;
        if good && !pooled.slot.as_ref().is_some_and(|slot| slot.is_wanted(key)) {
            self.kept = Some((key.clone(), pooled));
            return;
        }
        // Before another has its slot.
        self.settle_taken();
        pooled.connection.quit();
    }

    /// Transactions on one connection until every recipient has its answer; otherwise gives what the host said, or
    /// failed to, when it went wrong.
    pub(super) fn talk(
        &mut self,
        connection: &mut Connection,
        endpoint: &Endpoint,
        slot: Option<&Slot>,
    ) -> (Evidence, Option<HostFailure>) {
        connection.dialogue.begin_message();
        let mut evidence = Evidence::opened(TlsResult::Unused);
        let failed = loop {
            let mut remaining = self.unanswered();
            let before = remaining.len();
            if before == 0 {
                break None;
            }
            // RFC 9422 §3: what a host says it will refuse is not tried.
            let (recipients_max, mails_max) = connection.limits();
            remaining.truncate(recipients_max.unwrap_or(usize::MAX));
            self.settle_taken();
            let delivery = self.deliver(connection, &remaining);
            // Of all but the last transaction this is overwritten: the first that goes wrong is the last one
            // here, and what goes well is seen again.
            (evidence.pipelining, evidence.chunking) = (delivery.pipelining, delivery.chunking);
            evidence.unasked = delivery.unasked.or(evidence.unasked);
            if delivery.single_write {
                evidence.single_write = learn_single_write(&delivery.results);
            }
            let dkim = self.signature.get().and_then(|made| made.as_ref().ok()?.keys.clone());
            let source = connection.wire.source();
            let place = Place { dkim, source, ..Place::at(endpoint, Some(connection.tls())) };
            let failed = self.take_results(endpoint, slot, &place, &remaining, delivery.results);
            if failed.is_some() {
                break failed;
            }
            let left = self.unanswered().len();
            // RFC 9422 §3, again.
            let is_over =
                !connection.is_usable() || mails_max.is_some_and(|most| connection.messages() >= most);
            // A host that only ever puts recipients off to the next transaction would keep us until the deadline.
            if left == before || is_over && left > 0 {
                let failure = Failure::NoMoreRecipients;
                let ruling = self.rule_and_note_throttle(endpoint, slot, &failure, false);
                break Some(HostFailure::new(failure, ruling, place));
            }
        };
        let failed = failed.and_then(|failed| self.recall_or_defer(failed));
        self.keep_dialogue_of_failure(connection, endpoint, failed.as_ref());
        (self.complete(evidence, connection, failed.as_ref()), failed)
    }

    /// Keeps what was said where it did not go well.
    fn keep_dialogue_of_failure(
        &self,
        connection: &Connection,
        endpoint: &Endpoint,
        failed: Option<&HostFailure>,
    ) {
        let mut not_taken = self.answers.iter().flatten().filter(|answer| !answer.is_taken());
        let reply = match failed {
            Some(failed) => Some(failed.failure.reply()),
            None => not_taken.next_back().map(|answer| answer.reply.clone()),
        };
        if reply.is_some() {
            self.begun.keep_dialogue(endpoint, connection.wire.source(), Some(&connection.dialogue), reply);
        }
    }

    /// The evidence with what is known only once the last transaction is over.
    fn complete(
        &self,
        evidence: Evidence,
        connection: &mut Connection,
        failed: Option<&HostFailure>,
    ) -> Evidence {
        // That it takes commands together is news once on each connection.
        let is_in_order = evidence.pipelining == PipelineResult::InOrder;
        let is_old_news = is_in_order && (failed.is_some() || !connection.prove_pipelining());
        let refusals = self.answers.iter().flatten().map(|answer| answer.reply.code);
        Evidence {
            pipelining: if is_old_news { PipelineResult::Unused } else { evidence.pipelining },
            is_fresh: connection.messages() <= 1,
            is_usable: connection.is_usable(),
            refusals: refusals.filter(|code| *code >= 400).collect(),
            failure: failed.map(|failed| failed.failure.clone()),
            ..evidence
        }
    }

    /// Gives the failure back where the next host may be asked.
    fn recall_or_defer(&mut self, failed: HostFailure) -> Option<HostFailure> {
        if failed.failure.phase() != Phase::EndOfData || self.recall_dot() {
            return Some(failed);
        }
        // The intent could not be taken back, so no other host may be asked: a crash would read as doubt.
        // They are deferred.
        let answer = Answer::deferred(&failed.failure, failed.place);
        for unanswered in self.answers.iter_mut().filter(|answer| answer.is_none()) {
            *unanswered = Some(answer.clone());
        }
        None
    }

    /// Notes who was answered. Gives what stands in the way of the others' answers.
    fn take_results(
        &mut self,
        endpoint: &Endpoint,
        slot: Option<&Slot>,
        place: &Place,
        remaining: &[usize],
        results: Vec<RecipientResult>,
    ) -> Option<HostFailure> {
        let mut failed = None;
        for (at, result) in remaining.iter().zip(results) {
            let (failure, in_doubt) = match result {
                RecipientResult::Accepted { reply, relayed } => {
                    if let Some(slot) = slot {
                        slot.went_well(&self.context.settings);
                    }
                    let outcome = if relayed { Outcome::Relayed } else { Outcome::Delivered };
                    let (phase, place) = (Phase::EndOfData, place.clone());
                    self.answers[*at] = Some(Answer { outcome, phase, reply, place });
                    continue;
                }
                // On this connection if it lives.
                RecipientResult::NextTransaction => continue,
                RecipientResult::Failed(failure) => (failure, false),
                RecipientResult::InDoubt(failure) => (failure, true),
            };
            let ruling = self.rule_and_note_throttle(endpoint, slot, &failure, in_doubt);
            match ruling.next {
                NextStep::Stop => {
                    self.answers[*at] = Some(Answer::of(&failure, ruling.outcome, place.clone()));
                }
                NextStep::NextHost | NextStep::Requeue(_) => {
                    failed.get_or_insert_with(|| HostFailure::new(failure, ruling, place.clone()));
                }
            }
        }
        failed
    }

    fn deliver(&self, connection: &mut Connection, remaining: &[usize]) -> Delivery {
        let (message, settings) = (self.message, &self.context.settings);
        let signature = match self.signature() {
            Ok(signature) => signature,
            Err(failure) => return Delivery::unsent(remaining.len(), &failure),
        };
        let recipients: Vec<&QueuedRecipient> = remaining.iter().map(|at| &message.recipients[*at]).collect();
        let outgoing = Outgoing {
            sender: message.sender.as_ref(),
            recipients: &recipients,
            body: message.body,
            eight_bit: settings.eight_bit,
            smtputf8: message.smtputf8,
            prefix: signature.fields.as_bytes(),
            size: message.size + signature.fields.len() as u64,
            ret: message.ret,
            envid: message.envid.as_deref(),
            handling: message.handling,
            now: self.now,
            // Not where a doubt has to be recorded first.
            single_write: settings.in_doubt == InDoubt::Retry,
        };
        let mut before_end = |accepted: &[usize]| match settings.in_doubt {
            InDoubt::Retry => Ok(()),
            // The intent is on disk before the end is on the wire, so that a crash in between is recognised.
            // Of those whom the host refused there is nothing to be in doubt about.
            InDoubt::Hold | InDoubt::AssumeDelivered => {
                let ids: Vec<RecipientId> = accepted.iter().map(|at| recipients[*at].id).collect();
                self.resources.queue.intend_dot(&ids).map_err(io::Error::other)
            }
        };
        self.with_content(|content| connection.deliver(&outgoing, content, &mut before_end, self.deadline))
    }

    /// Whether the message can be signed if it has to be: otherwise no host is asked to wait for it.
    pub(super) fn check_signable(&self) -> Result<(), Failure> {
        let clock = &self.resources.clock;
        self.with_content(|content| self.context.signing.check(self.message, content, clock))
    }

    /// The signature for the message, made when it is needed first: none is made for a host that does not answer.
    fn signature(&self) -> Result<&Signature, Failure> {
        let clock = &self.resources.clock;
        let texts = |name: &str| self.context.lookup.txt(name);
        let sign = |content: Content<'_, '_>| self.context.signing.sign(self.message, content, &texts, clock);
        self.signature.get_or_init(|| self.with_content(sign)).as_ref().map_err(Failure::clone)
    }

    /// The content from its beginning: from memory, or as the queue gives it.
    fn with_content<T>(&self, then: impl FnOnce(Content<'_, '_>) -> T) -> T {
        match &self.message.content {
            Some(content) => {
                let mut whole = Some(Cow::Borrowed(content.bytes.as_slice()));
                then(&mut || Ok(whole.take()))
            }
            None => {
                let mut chunks = self.resources.queue.content(self.message.id);
                then(&mut || {
                    chunks.next().transpose().map(|chunk| chunk.map(Cow::Owned)).map_err(io::Error::other)
                })
            }
        }
    }

    /// The host refused after the end of the content (421), and the next one is asked: nothing is in doubt until the
    /// end is sent to that one. False: that could not be recorded.
    fn recall_dot(&self) -> bool {
        if self.context.settings.in_doubt == InDoubt::Retry {
            return true;
        }
        let unanswered = self.unanswered().into_iter().map(|at| self.message.recipients[at].id);
        let ids: Vec<RecipientId> = unanswered.collect();
        self.resources.queue.recall_dot(&ids).is_ok()
    }
}

/// A connection that is over for us, and perhaps not for the host (RFC 5321 §4.1.1.10).
fn leave(connection: Option<Connection>) {
    if let Some(connection) = connection {
        connection.quit();
    }
}

/// Which of the failures of two conversations in a row stands: the later, but whoever was told something by
/// the host is not left with the failure to connect once more.
fn which_stands(before: Option<HostFailure>, now: Option<HostFailure>) -> Option<HostFailure> {
    let reached_mail = |failed: &HostFailure| failed.failure.phase() >= Phase::Mail;
    match (before, now) {
        (Some(before), Some(now)) if reached_mail(&before) && !reached_mail(&now) => Some(before),
        (_, now) => now,
    }
}

/// Tells the operator of a relay that does not come right by itself, and that it did once all have their
/// answers.
fn note_alert(slot: &Slot, endpoint: &Endpoint, failed: Option<&HostFailure>) {
    match failed {
        Some(HostFailure { failure, ruling, .. }) if ruling.alert => slot.raise_alert(endpoint, failure),
        Some(_) => {}
        None => slot.clear_alert(endpoint),
    }
}

/// A provisional ruling, without the throttle; `judge` makes the final one.
fn provisional(
    failure: Failure,
    endpoint: &Endpoint,
    tls: Option<Encryption>,
    source: Option<IpAddr>,
) -> HostFailure {
    let ruling = rule(&failure, &RulingContext { relay: endpoint.relay, ..RulingContext::default() });
    HostFailure::new(failure, ruling, Place { source, ..Place::at(endpoint, tls) })
}

fn learn_single_write(results: &[RecipientResult]) -> SingleWriteResult {
    let doubt = results.iter().find_map(|result| match result {
        RecipientResult::InDoubt(failure) => Some(failure.clone()),
        _ => None,
    });
    let is_taken = |result: &RecipientResult| matches!(result, RecipientResult::Accepted { .. });
    match doubt {
        Some(failure) => SingleWriteResult::InDoubt(failure),
        None if results.iter().any(is_taken) => SingleWriteResult::Taken,
        None => SingleWriteResult::Unknown,
    }
}
