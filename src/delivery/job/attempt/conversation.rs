//! All that is said to one host in an attempt: over one connection, or, where the host fails at TLS, pipelining or
//! BDAT, over another without that feature.

use std::borrow::Cow;
use std::io;

use crate::config::InDoubt;
use crate::mail::{Outcome, Phase};
use crate::queue::{QueuedRecipient, RecipientId};

use crate::delivery::host::limits::Slot;
use crate::delivery::host::pool::{PoolKey, PooledConnection};
use crate::delivery::host::profile::{Evidence, Known, SingleWriteResult, fallback, learn};
use crate::delivery::job::attempt::state::{Answer, AttemptState, Place, Setback};
use crate::delivery::job::require_tls;
use crate::delivery::job::ruling::{Context, Next, Ruling, rule};
use crate::delivery::smtp::connection::{Connection, Delivery, OpenFailure};
use crate::delivery::smtp::connector::{Opened, TlsResult};
use crate::delivery::smtp::endpoint::Endpoint;
use crate::delivery::smtp::failure::{Failure, RequireTls};
use crate::delivery::smtp::outgoing::Outgoing;
use crate::delivery::smtp::pipeline::PipelineResult;
use crate::delivery::smtp::profile::Profile;
use crate::delivery::smtp::tls::Encryption;
use crate::delivery::smtp::transaction::{ChunkingResult, RecipientResult};
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
    ) -> Option<Setback> {
        let (known, mut profile, mut start) = match start {
            Start::Standing(connection) => {
                let known = slot.as_ref().map_or(Known::NOTHING, Slot::known);
                let single_write = known.profile.single_write;
                (known, Profile { single_write, ..connection.profile }, Some(Start::Standing(connection)))
            }
            dialled => {
                let known = slot.as_ref().map_or(Known::NOTHING, |slot| slot.known_to_open(endpoint));
                (known, known.profile_for(endpoint), Some(dialled))
            }
        };
        let (mut tried, mut left): (Vec<(Profile, Evidence)>, Option<Setback>) = (Vec::new(), None);
        let connection = loop {
            let (evidence, setback, connection) =
                self.converse_once(endpoint, slot.as_ref(), profile, start.take());
            // Whoever was told something by the host is not left with the failure to connect once more.
            left = match (left, setback) {
                (Some(before), Some(now))
                    if now.failure.phase() < Phase::Mail && before.failure.phase() >= Phase::Mail =>
                {
                    Some(before)
                }
                (_, setback) => setback,
            };
            let next = fallback(&profile, &evidence, endpoint, &known);
            tried.push((profile, evidence));
            match next {
                Some(next) => {
                    if let Some(Setback { failure, .. }) = &left {
                        log::debug!("{}: {failure}; trying again with {next:?}", endpoint.name());
                    }
                    profile = next;
                }
                None => break connection,
            }
        };
        if let Some(slot) = &slot {
            slot.remember(learn(&tried, &known));
        }
        let setback = left.map(|setback| self.judge(endpoint, slot.as_ref(), setback));
        match (&setback, &slot) {
            (Some(Setback { failure, ruling, .. }), Some(slot)) if ruling.alert => {
                slot.raise_alert(endpoint, failure);
            }
            (None, Some(slot)) => slot.clear_alert(endpoint),
            _ => {}
        }
        if let Some(connection) = connection {
            let pooled = PooledConnection { endpoint: endpoint.clone(), connection, slot };
            self.keep_or_quit(key, pooled, setback.is_none());
        }
        setback
    }

    /// One conversation at this profile: over the connection that stands, or a new one.
    fn converse_once(
        &mut self,
        endpoint: &Endpoint,
        slot: Option<&Slot>,
        profile: Profile,
        start: Option<Start>,
    ) -> (Evidence, Option<Setback>, Option<Connection>) {
        let (connector, deadline) = (&self.context.connector, self.deadline);
        let opened = match start {
            Some(Start::Standing(connection)) => Ok(Opened { connection, tls: TlsResult::Unused }),
            Some(Start::Dialled(Ok(wire))) => connector.open_on(wire, endpoint, profile, deadline),
            Some(Start::Dialled(Err(fault))) => Err(OpenFailure { failure: Failure::Dial(fault), tls: None }),
            None => connector.open(endpoint, profile, deadline),
        };
        let Opened { mut connection, tls } = match opened {
            Ok(opened) if self.strict && !opened.connection.keeps_require_tls() => {
                let encryption = opened.connection.tls();
                opened.connection.quit();
                let failure = Failure::RequireTls(RequireTls::NotOffered);
                let evidence = Evidence { tls: opened.tls, ..Evidence::unopened(failure.clone()) };
                return (evidence, Some(setback(failure, endpoint, Some(encryption))), None);
            }
            Ok(opened) => opened,
            Err(OpenFailure { failure, tls }) => {
                let evidence = Evidence::unopened(failure.clone());
                return (evidence, Some(setback(failure, endpoint, tls)), None);
            }
        };
        connection.profile = profile;
        let (evidence, setback) = self.talk(&mut connection, endpoint, slot);
        (Evidence { tls, ..evidence }, setback, Some(connection))
    }

    /// What is left of a conversation that failed means this. Whoever has to hear of it does.
    fn judge(&self, endpoint: &Endpoint, slot: Option<&Slot>, setback: Setback) -> Setback {
        if setback.failure.phase() >= Phase::Mail {
            return setback;
        }
        let failure = if self.strict { require_tls::insist(setback.failure) } else { setback.failure };
        let ruling = self.rule(endpoint, slot, &failure, false);
        Setback { failure, ruling, ..setback }
    }

    /// What a failure at this host means. A host that has too much of us is noted.
    fn rule(&self, endpoint: &Endpoint, slot: Option<&Slot>, failure: &Failure, in_doubt: bool) -> Ruling {
        let context = Context { relay: endpoint.relay, in_doubt, has_others: false };
        let ruling = rule(failure, &context);
        let (Some(signal), Some(slot)) = (ruling.throttle, slot) else { return ruling };
        let others = slot.throttled(signal, &failure.reply());
        rule(failure, &Context { has_others: others > 0, ..context })
    }

    /// A connection that is done with: kept for the next job if it is still good.
    fn keep_or_quit(&self, key: &PoolKey, pooled: PooledConnection, went_well: bool) {
        let most = self.context.settings.messages_per_connection;
        // RFC 9422 §3, as below.
        let most = most.min(pooled.connection.limits().1.unwrap_or(usize::MAX));
        let good = went_well && pooled.connection.is_usable() && pooled.connection.messages() < most;
        if good && !pooled.slot.as_ref().is_some_and(|slot| slot.is_wanted(key)) {
            self.resources.pool.put(key, pooled);
        } else {
            pooled.connection.quit();
        }
    }

    /// Transactions on one connection until every recipient has its answer; otherwise gives what the host said, or
    /// failed to, when it went wrong.
    pub(super) fn talk(
        &mut self,
        connection: &mut Connection,
        endpoint: &Endpoint,
        slot: Option<&Slot>,
    ) -> (Evidence, Option<Setback>) {
        let (mut pipelining, mut chunking) = (PipelineResult::Unused, ChunkingResult::Unknown);
        let mut single_write = SingleWriteResult::Unknown;
        let mut setback = loop {
            let mut open = self.unanswered();
            if open.is_empty() {
                break None;
            }
            // RFC 9422 §3: what a host says it will refuse is not tried.
            let (recipients_max, mails_max) = connection.limits();
            open.truncate(recipients_max.unwrap_or(usize::MAX));
            let delivery = self.deliver(connection, &open);
            (pipelining, chunking) = (delivery.pipelining, delivery.chunking);
            if delivery.single_write {
                single_write = learn_single_write(&delivery.results);
            }
            let place = Place::at(endpoint, Some(connection.tls()));
            let before = self.unanswered().len();
            let setback = self.take_results(endpoint, slot, &place, &open, delivery.results);
            if setback.is_some() {
                break setback;
            }
            let left = self.unanswered().len();
            // RFC 9422 §3, again.
            let is_over =
                !connection.is_usable() || mails_max.is_some_and(|most| connection.messages() >= most);
            // A host that only ever puts recipients off to the next transaction would keep us until the deadline.
            if left == before || is_over && left > 0 {
                let failure = Failure::NoMoreRecipients;
                let ruling = self.rule(endpoint, slot, &failure, false);
                break Some(Setback::new(failure, ruling, place));
            }
        };
        if let Some(failed) = &setback
            && failed.failure.phase() == Phase::EndOfData
            && !self.recall_dot()
        {
            // Nobody else is asked with the doubt on record: the next attempt begins without it.
            let answer = Answer::deferred(&failed.failure, failed.place.clone());
            for unanswered in self.answers.iter_mut().filter(|answer| answer.is_none()) {
                *unanswered = Some(answer.clone());
            }
            setback = None;
        }
        // That it takes commands together is news once on each connection.
        if pipelining == PipelineResult::InOrder && (setback.is_some() || !connection.prove_pipelining()) {
            pipelining = PipelineResult::Unused;
        }
        let refusals = self.answers.iter().flatten().map(|answer| answer.reply.code);
        let evidence = Evidence {
            tls: TlsResult::Unused,
            pipelining,
            chunking,
            single_write,
            is_fresh: connection.messages() <= 1,
            is_usable: connection.is_usable(),
            refusals: refusals.filter(|code| *code >= 400).collect(),
            failure: setback.as_ref().map(|setback| setback.failure.clone()),
        };
        (evidence, setback)
    }

    /// Notes who was answered. Gives what stands in the way of the others' answers.
    fn take_results(
        &mut self,
        endpoint: &Endpoint,
        slot: Option<&Slot>,
        place: &Place,
        open: &[usize],
        results: Vec<RecipientResult>,
    ) -> Option<Setback> {
        let mut setback = None;
        for (at, result) in open.iter().zip(results) {
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
            let ruling = self.rule(endpoint, slot, &failure, in_doubt);
            match ruling.next {
                Next::Stop => {
                    self.answers[*at] = Some(Answer::of(&failure, ruling.outcome, place.clone()));
                }
                Next::NextHost | Next::Requeue(_) => {
                    setback.get_or_insert_with(|| Setback::new(failure, ruling, place.clone()));
                }
            }
        }
        setback
    }

    fn deliver(&self, connection: &mut Connection, open: &[usize]) -> Delivery {
        let (message, settings) = (self.message, &self.context.settings);
        let recipients: Vec<&QueuedRecipient> = open.iter().map(|at| &message.recipients[*at]).collect();
        let outgoing = Outgoing {
            sender: message.sender.as_ref(),
            recipients: &recipients,
            body: message.body,
            eight_bit: settings.eight_bit,
            smtputf8: message.smtputf8,
            size: message.size,
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
        match &message.content {
            Some(content) => {
                let mut whole = Some(Cow::Borrowed(content.bytes.as_slice()));
                let mut next = || Ok(whole.take());
                connection.deliver(&outgoing, &mut next, &mut before_end, self.deadline)
            }
            None => {
                let mut chunks = self.resources.queue.content(message.id);
                let mut next =
                    || chunks.next().transpose().map(|chunk| chunk.map(Cow::Owned)).map_err(io::Error::other);
                connection.deliver(&outgoing, &mut next, &mut before_end, self.deadline)
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

/// Before anything is known of what it means.
fn setback(failure: Failure, endpoint: &Endpoint, tls: Option<Encryption>) -> Setback {
    let ruling = rule(&failure, &Context { relay: endpoint.relay, ..Context::default() });
    Setback::new(failure, ruling, Place::at(endpoint, tls))
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
