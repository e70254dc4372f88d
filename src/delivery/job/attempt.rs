//! One attempt: from recipients to what was said about each, over as many hosts as it takes.
//!
//! The loop over hosts lives here and decides nothing about failures: `ruling.rs` says what each means, and
//! `attempt/conversation.rs` how a host is spoken to that fails at something. Whoever has no answer when the hosts are
//! used up is deferred with the last host's words, or refused where every host said that it takes no mail.
//!
//! A host that has as much of us as it may (`host/limits.rs`) is passed over for one of the same preference; the
//! backup behind it is for when it is down. Where there is none, whoever has no answer is requeued: no attempt,
//! no backoff, another try in a second or so.

mod conversation;
mod state;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::mail::{Domain, TlsPolicy};
use crate::maillog;
use crate::queue::{LaneHealth, QueuedMessage};

use crate::delivery::host::limits::Slot;
use crate::delivery::host::pool::{PoolKey, PooledConnection};
use crate::delivery::job::context::{DeliveryContext, Resources};
use crate::delivery::job::require_tls;
use crate::delivery::job::ruling::{NextStep, rule};
use crate::delivery::job::settle::Begun;
use crate::delivery::job::sts_policy;
use crate::delivery::job::tls_policy::{self, Demands};
use crate::delivery::route::plan::{self, DaneFinding, Plan, PlanRequest};
use crate::delivery::route::source_addresses::SourceAddresses;
use crate::delivery::smtp::connection::OpenFailure;
use crate::delivery::smtp::dial::Dialled;
use crate::delivery::smtp::endpoint::Endpoint;
use crate::delivery::smtp::failure::Failure;
use crate::delivery::smtp::wire::Fault;
use crate::delivery::sts::policies::{StsFinding, StsPolicy};

use conversation::Start;
pub(in crate::delivery) use state::{Answer, Answers};
use state::{AttemptState, HostFailure, Place};

/// Carries the message to a host of its lane.
pub(in crate::delivery) fn attempt(begun: &Begun<'_>) -> Answers {
    let Begun { context, resources, job, message, .. } = begun;
    let settings = &context.settings;
    let deadline = Instant::now() + settings.attempt_deadline;
    let mut state = AttemptState::new(begun, deadline);
    if let Err(failure) = state.check_signable() {
        let ruling = rule(&failure, &Default::default());
        return state.finish(Some(HostFailure::new(failure, ruling, Place::NOWHERE)));
    }
    let pool = &resources.pool;
    if let Err(wait) = pool.hosts.count_in_lane(&job.lane, settings) {
        return state.requeue(wait);
    }
    let domain = &message.recipients[0].domain;
    let user = message.origin.user.as_deref();
    let sources = SourceAddresses::of(user, context.routes.find(domain), settings);
    // What leaves from other addresses has a turn of its own at a host, and connections of its own.
    let key = PoolKey::new(&job.lane, &sources.addresses);

    // A connection left open by the job before. Should it have died since, nothing is held against the host.
    // Not for mail with REQUIRETLS: other mail may have opened it without a proof of whom it leads to. Nor for mail
    // with TLS-Required: No, which would count as protected.
    // Nor where it proved less than the domain's policy wants by now.
    if !state.stands_alone
        && let Some(pooled) = pool.take(&key)
        && let Some(pooled) = state.reusable(pooled, domain)
    {
        if let Err(wait) = pooled.count_message(settings) {
            pool.put(&key, pooled);
            return state.requeue(wait);
        }
        let PooledConnection { endpoint, connection, slot } = pooled;
        if state.converse(&key, &endpoint, slot, Start::Standing(connection)).is_none() {
            return state.finish(None);
        }
        if context.connector.is_stopping() {
            return state.requeue(Duration::ZERO);
        }
    }
    // RFC 8689 §5: TLS-Required: No sets the policy aside.
    let sts =
        if message.handling.tls_optional { StsFinding::None } else { sts_of(context, resources, domain) };
    state.sts = match sts {
        StsFinding::None => None,
        StsFinding::Policy(policy) => Some(policy),
        StsFinding::Wait(wait) => return state.requeue(wait),
    };
    match planned(context, message, state.sts.as_deref()) {
        Ok(Plan { endpoints, whole, dane, left_out, .. }) => {
            // What nobody was asked for cannot be final.
            state.all_refuse = whole;
            let is_unusable = |(host, finding)| (finding == DaneFinding::Unusable).then_some(host);
            state.unusable_tlsa = dane.into_iter().filter_map(is_unusable).collect();
            state.left_out = left_out;
            ask_hosts(state, &key, endpoints.into())
        }
        Err(failure) => {
            state.note_no_host(&failure);
            let ruling = rule(&failure, &Default::default());
            if let Failure::NoSafeHost(none) = &failure {
                maillog::unsafe_host(message.id, &none.host, none.policy, &failure.reply());
            }
            let place = nowhere(&failure);
            state.finish(Some(HostFailure::new(failure, ruling, place)))
        }
    }
}

/// Where an attempt ended that asked no host.
fn nowhere(failure: &Failure) -> Place {
    let (mx, policy) = match failure {
        Failure::Route(none) => (none.mx.clone(), TlsPolicy::None),
        Failure::NoSafeHost(none) => (Some(none.host.clone()), none.policy),
        Failure::RequireTls(_) => (None, TlsPolicy::RequireTls),
        _ => (None, TlsPolicy::None),
    };
    Place { mx, policy, ..Place::NOWHERE }
}

/// The MTA-STS policy by which mail to a domain goes. The operator's `[[route]]`, where it has relays or says what TLS
/// must be, and an address literal have none.
fn sts_of(context: &DeliveryContext, resources: &Resources, domain: &Domain) -> StsFinding {
    if !sts_policy::has_sts(&context.settings, &context.routes, domain) {
        return StsFinding::None;
    }
    resources.policies.find(domain.as_str(), &context.https)
}

/// Whom to try, best first.
fn planned(
    context: &DeliveryContext,
    message: &QueuedMessage,
    sts: Option<&StsPolicy>,
) -> Result<Plan, Failure> {
    let DeliveryContext { settings, routes, lookup, .. } = context;
    let request = PlanRequest {
        domain: &message.recipients[0].domain,
        user: message.origin.user.as_deref(),
        attempts: message.recipients.iter().map(|recipient| recipient.attempts).max().unwrap_or(0),
        with_proof: require_tls::is_required(message),
        dane: !message.handling.tls_optional,
    };
    let mut trace = |step: std::fmt::Arguments<'_>| log::debug!("{}: route: {step}", message.id);
    let rank = plan::rank_of(message.id.0);
    let plan =
        plan::plan(&request, routes, settings, &**lookup, &rank, &mut trace).map_err(Failure::Route)?;
    tls_policy::decide(plan, &Demands { domain: request.domain, sts, require_tls: request.with_proof })
}

/// One host after the other, until every recipient has its answer or none is left.
fn ask_hosts(mut state: AttemptState<'_>, key: &PoolKey, mut endpoints: VecDeque<Endpoint>) -> Answers {
    // Of a host that is at its limit: its preference, and how long to wait for it.
    let mut at_limit: Option<(u16, Duration)> = None;
    while let Some(endpoint) = endpoints.pop_front() {
        if state.context.connector.is_stopping() {
            return state.requeue(Duration::ZERO);
        }
        let preference = endpoint.preference;
        if at_limit.is_some_and(|(full, _)| preference > full) {
            break;
        }
        if Instant::now() >= state.deadline {
            // Not every host was asked, so nothing is final.
            state.all_refuse = false;
            break;
        }
        match ask_host(&mut state, key, endpoint, &mut endpoints) {
            Asked::Answered => return state.finish(None),
            Asked::Failed(failed) => state.hold_against_host(*failed),
            Asked::AtLimit(wait) => at_limit = Some((preference, wait)),
        }
    }
    if let Some((_, wait)) = at_limit {
        return state.requeue(wait);
    }
    let last = state.last_failure();
    state.finish(last)
}

/// What came of one host.
enum Asked {
    /// Every recipient has its answer.
    Answered,
    /// Not all.
    Failed(Box<HostFailure>),
    /// It has no room for us before this is over.
    AtLimit(Duration),
}

/// One host. `rest` may have the other address to try at the same time.
fn ask_host(
    state: &mut AttemptState<'_>,
    key: &PoolKey,
    endpoint: Endpoint,
    rest: &mut VecDeque<Endpoint>,
) -> Asked {
    let (endpoint, slot, start) = match acquire(state, key, endpoint, rest) {
        Ok(acquired) => acquired,
        Err(wait) => return Asked::AtLimit(wait),
    };
    let Some(failed) = state.converse(key, &endpoint, slot, start) else { return Asked::Answered };
    if !failed.failure.is_stop() {
        let (phase, reply) = (failed.failure.phase(), failed.failure.reply());
        maillog::host_trouble(state.message.id, &endpoint.host, endpoint.address, phase, &reply);
        if matches!(failed.failure, Failure::Tls(_) | Failure::Sts(_))
            && endpoint.policy.is_required_by_destination()
        {
            maillog::unsafe_host(state.message.id, &endpoint.host, endpoint.policy, &reply);
        }
    }
    match failed.ruling.next {
        NextStep::Requeue(wait) => Asked::AtLimit(wait),
        NextStep::Stop | NextStep::NextHost => Asked::Failed(Box::new(failed)),
    }
}

/// A new connection, or one that another lane left open, with one message of the host's rate counted.
///
/// # Errors
/// How long to wait for the host, which is at its limit.
fn acquire(
    state: &mut AttemptState<'_>,
    key: &PoolKey,
    endpoint: Endpoint,
    rest: &mut VecDeque<Endpoint>,
) -> Result<(Endpoint, Option<Slot>, Start), Duration> {
    let (pool, settings) = (&state.resources.pool, &state.context.settings);
    let mut entered = pool.hosts.enter(&endpoint, key, settings);
    // A connection that another lane left open will do: it counts already. One that leaves from elsewhere
    // will not, and none will for mail that stands alone, as above.
    let may_share = entered.is_err() && !state.stands_alone;
    let spare = may_share.then(|| pool.take_of_host(&endpoint)).flatten();
    if entered.is_err() && spare.is_none() && pool.make_room(&endpoint) {
        entered = pool.hosts.enter(&endpoint, key, settings);
    }
    let wait = match entered {
        Err(wait) => wait,
        Ok(slot) => {
            // Now, and not each time that the mail is requeued.
            state.note_left_out();
            let Dialled { endpoint, wire, beside } =
                state.context.connector.dial(endpoint, rest, state.deadline);
            if let Some((other, fault)) = beside
                && fault != Fault::Stopping
            {
                state.pass_over(&other, fault);
            }
            return Ok((endpoint, Some(slot), Start::Dialled(wire)));
        }
    };
    let Some(spare) = spare else { return Err(wait) };
    if spare.count_message(settings).is_err() {
        pool.put(key, spare);
        return Err(wait);
    }
    Ok((spare.endpoint, spare.slot, Start::Standing(spare.connection)))
}

/// Carries the message over a connection that was turned round (ATRN), and stays open whatever comes of it.
/// Nobody is requeued: whoever turned the connection round asked for what there is, as fast as it goes.
pub(in crate::delivery) fn attempt_on_reversed(
    begun: &Begun<'_>,
    reversed: &mut PooledConnection,
    deadline: Instant,
) -> Answers {
    let mut state = AttemptState::new(begun, deadline);
    let PooledConnection { endpoint, connection, slot } = reversed;
    let unfit = if state.requires_tls { require_tls::turned_unfit(connection) } else { None };
    let failed = match unfit {
        Some(why) => {
            let failure = Failure::RequireTls(why);
            let ruling = rule(&failure, &Default::default());
            state.all_refuse = true;
            Some(HostFailure::new(failure, ruling, Place::at(endpoint, Some(connection.tls()))))
        }
        None => state.talk(connection, endpoint, slot.as_ref()).1,
    };
    if failed.as_ref().is_some_and(|failed| failed.failure.is_stop()) {
        return state.requeue(Duration::ZERO);
    }
    state.finish(failed)
}

/// What a host that could not be used said, for every recipient.
pub(in crate::delivery) fn refused(begun: &Begun<'_>, endpoint: &Endpoint, unopened: OpenFailure) -> Answers {
    let (failure, tls) = (&unopened.failure, unopened.tls());
    begun.keep_dialogue(endpoint, None, unopened.dialogue(), Some(failure.reply()));
    let health = LaneHealth::Failing(failure.reply().marked());
    let answer = Answer::deferred(failure, Place::at(endpoint, tls));
    let count = begun.message.recipients.len();
    Answers { answers: vec![Some(answer); count], settled: vec![false; count], health, kept: None }
}
