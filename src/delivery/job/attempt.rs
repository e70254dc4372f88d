//! One attempt: from recipients to what was said about each, over as many hosts as it takes.
//!
//! The loop over hosts lives here and decides nothing about replies: `transaction` says what each means,
//! `connection` what went wrong with a host. Whoever has no answer when the hosts are used up is
//! deferred with the last host's words, or refused where every host said that it takes no mail.
//!
//! A host that has as much of us as it may (`hosts`) is passed over for one of the same preference; the backup
//! behind it is for when it is down. Where there is none, whoever has no answer is requeued: no attempt,
//! no backoff, another try in a second or so.

mod by_data;
mod lock_step;
mod round;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::mail::{Outcome, Phase};
use crate::maillog;
use crate::queue::{Job, LaneHealth, Queue, QueuedMessage};

use crate::delivery::Setup;
use crate::delivery::host::pool::{Pool, PoolKey, PooledConnection};
use crate::delivery::job::require_tls;
use crate::delivery::route::plan;
use crate::delivery::route::source_addresses::SourceAddresses;
use crate::delivery::smtp::connection::Trouble;
use crate::delivery::smtp::dial::Dialled;
use crate::delivery::smtp::endpoint::Endpoint;
use crate::delivery::smtp::reply_class::TroubleKind;

use round::Round;
pub(in crate::delivery) use round::{Answer, Answers};

/// How long those wait whom a host sent away with "too many connections".
const AT_LIMIT_WAIT: Duration = Duration::from_secs(2);
/// Carries the message to a host of its lane. `now` is in Unix seconds.
pub(in crate::delivery) fn attempt(
    setup: &Setup,
    queue: &Queue,
    pool: &Pool,
    clock: &Clock,
    job: &Job,
    message: &QueuedMessage,
    now: i64,
) -> Answers {
    let settings = &setup.settings;
    let deadline = Instant::now() + settings.attempt_deadline;
    let answers = vec![None; message.recipients.len()];
    let mut round = Round { setup, queue, clock, message, deadline, now, answers };
    if let Err(wait) = pool.hosts.start_in_lane(&job.lane, settings) {
        return round.requeue(wait);
    }

    let domain = &message.recipients[0].domain;
    let user = message.origin.user.as_deref();
    let sources = SourceAddresses::of(user, setup.routes.find(domain), settings);
    // What leaves from other addresses has a turn of its own at a host, and connections of its own.
    let key = PoolKey::new(&job.lane, &sources.addresses);

    // A connection left open by the job before. Should it have died since, nothing is held against the host.
    let strict = require_tls::is_strict(message);
    if !strict && let Some(line) = pool.take(&key) {
        if let Err(wait) = line.start(settings) {
            pool.put(&key, line);
            return round.requeue(wait);
        }
        if round.use_up(line, pool, &key).is_none() {
            return round.finish(None);
        }
    }

    let mut random = |below: usize| fastrand::usize(..below.max(1));
    let mut trace = |step: std::fmt::Arguments<'_>| log::debug!("{}: route: {step}", message.id);
    let plan =
        plan::plan(domain, user, &setup.routes, &setup.settings, &*setup.lookup, &mut random, &mut trace);
    let endpoints = match plan {
        Ok(endpoints) => endpoints,
        Err(none) => {
            let outcome = if none.permanent { Outcome::Failed } else { Outcome::Deferred };
            return round.finish(Some(Answer::ours(outcome, none.reply, none.mx)));
        }
    };

    let endpoints = if strict {
        match require_tls::endpoints(endpoints, domain, &*setup.lookup) {
            Ok(endpoints) => endpoints,
            Err(reply) => {
                let outcome = if reply.code / 100 == 5 { Outcome::Failed } else { Outcome::Deferred };
                return round.finish(Some(Answer::ours(outcome, reply, None)));
            }
        }
    } else {
        endpoints
    };

    let mut last: Option<Answer> = None;
    let mut all_refuse = true;
    let mut full: Option<Full> = None;
    let mut endpoints = VecDeque::from(endpoints);
    while let Some(mut endpoint) = endpoints.pop_front() {
        if full.as_ref().is_some_and(|full| endpoint.preference > full.preference) {
            break;
        }
        if Instant::now() >= deadline {
            all_refuse = false;
            break;
        }
        let enter = || pool.hosts.enter(&endpoint, &key, settings);
        let mut entered = enter();
        // A connection that another lane left open will do: it counts already. One that leaves from elsewhere will
        // not.
        let spare =
            entered.is_err().then(|| if strict { None } else { pool.take_of_host(&endpoint) }).flatten();
        if entered.is_err() && spare.is_none() && pool.make_room(&endpoint) {
            entered = enter();
        }
        let opened = match entered {
            Ok(slot) => {
                let Dialled { endpoint: reached, wire, beside } =
                    setup.connector.dial(endpoint, &mut endpoints, deadline);
                endpoint = reached;
                if let Some((other, trouble)) = beside {
                    last = Some(round.passed_over(&other, trouble));
                    all_refuse = false;
                }
                let opened = wire.and_then(|wire| setup.connector.open_on(wire, &endpoint, deadline));
                match if strict { require_tls::fit(opened) } else { opened } {
                    Ok(connection) => {
                        Ok(PooledConnection { endpoint: endpoint.clone(), connection, slot: Some(slot) })
                    }
                    Err(trouble) => Err((slot, trouble)),
                }
            }
            Err(wait) => match spare {
                Some(line) if line.start(settings).is_ok() => Ok(line),
                spare => {
                    if let Some(line) = spare {
                        pool.put(&key, line);
                    }
                    full = Some(Full { preference: endpoint.preference, wait });
                    continue;
                }
            },
        };
        let (answer, refuses) = match opened {
            Ok(line) => match round.use_up(line, pool, &key) {
                None => return round.finish(None),
                Some(answer) => (answer, false),
            },
            Err((slot, trouble)) => {
                if round.is_at_limit(&slot, trouble.phase, &trouble.reply) {
                    let Trouble { phase, reply, .. } = &trouble;
                    maillog::host_trouble(message.id, &endpoint.host, endpoint.address, *phase, reply);
                    full = Some(Full { preference: endpoint.preference, wait: AT_LIMIT_WAIT });
                    continue;
                }
                slot.refused(&endpoint, trouble.phase, &trouble.reply);
                // Of a relay never, but for what the sender requires: no repair of the route makes up for that.
                let is_unfit = strict && trouble.reply.code / 100 == 5;
                let refuses = trouble.kind == TroubleKind::HostRefuses && (is_unfit || !endpoint.relay);
                let answer = Answer::from_host(
                    &endpoint,
                    Outcome::Deferred,
                    trouble.phase,
                    trouble.reply,
                    trouble.tls,
                );
                (answer, refuses)
            }
        };
        maillog::host_trouble(message.id, &endpoint.host, endpoint.address, answer.phase, &answer.reply);
        all_refuse &= refuses;
        last = Some(answer);
    }
    if let Some(full) = full {
        return round.requeue(full.wait);
    }
    let outcome = if all_refuse { Outcome::Failed } else { Outcome::Deferred };
    round.finish(last.map(|answer| Answer { outcome, ..answer }))
}

/// A host that has as much of us as it may.
struct Full {
    preference: u16,
    wait: Duration,
}

/// Carries the message over one connection that is open already and stays so, whatever comes of it. Nobody is put
/// back: whoever turned the connection round asked for what there is, as fast as it goes.
pub(in crate::delivery) fn hand_over(
    setup: &Setup,
    queue: &Queue,
    clock: &Clock,
    line: &mut PooledConnection,
    message: &QueuedMessage,
    deadline: Instant,
    now: i64,
) -> Answers {
    let answers = vec![None; message.recipients.len()];
    let mut round = Round { setup, queue, clock, message, deadline, now, answers };
    if require_tls::is_strict(message)
        && let Some(reply) = require_tls::turned_unfit(&line.connection)
    {
        let tls = Some(line.connection.tls().to_owned());
        let refusal = Answer::from_host(&line.endpoint, Outcome::Failed, Phase::Ehlo, reply, tls);
        return round.finish(Some(refusal));
    }
    let trouble = round.transact(line);
    round.finish(trouble)
}

/// What a host that could not be used said, for every recipient.
pub(in crate::delivery) fn refused(
    message: &QueuedMessage,
    endpoint: &Endpoint,
    trouble: Trouble,
) -> Answers {
    let health = LaneHealth::Failing(trouble.reply.to_string());
    let answer = Answer::from_host(endpoint, Outcome::Deferred, trouble.phase, trouble.reply, trouble.tls);
    Answers { answers: vec![Some(answer); message.recipients.len()], health }
}
