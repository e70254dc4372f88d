//! What is left out at a host that fails at it: the next try within an attempt, and what is remembered of it.
//!
//! Pure. Whoever speaks to a host reads the [`HostKnowledge`] of it, speaks with
//! [`HostKnowledge::profile_for`], and goes on with the [`fallback`] where that failed. What all these
//! conversations together say of the host are the [`Lesson`]s.
//!
//! What a host refuses in its own words is learnt at once. Connections break for many reasons: from a broken one is
//! learnt only what the next one confirms, by going well without.

use crate::mail::Phase;
use crate::queue::Setting;

use crate::delivery::smtp::connector::TlsResult;
use crate::delivery::smtp::endpoint::Endpoint;
use crate::delivery::smtp::failure::{Failure, TlsFailure};
use crate::delivery::smtp::pipeline::{PipelineFault, PipelineResult};
use crate::delivery::smtp::profile::{Profile, TlsLevel};
use crate::delivery::smtp::transaction::ChunkingResult;
use crate::delivery::smtp::wire::Fault;

/// What is known of a host before it is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostKnowledge {
    /// How it is best spoken to.
    pub profile: Profile,
    /// Pipelining worked last time, or leaving it out did not help: one broken connection is not blamed on
    /// it, a second is.
    pub pipelining_proved: bool,
}

impl HostKnowledge {
    /// Of a host that was never spoken to, or has no record (ATRN).
    pub const NOTHING: HostKnowledge = HostKnowledge { profile: Profile::FULL, pipelining_proved: false };

    /// How this endpoint is spoken to. What was learnt on a route that may go in the clear does not bind one that
    /// must not.
    pub fn profile_for(&self, endpoint: &Endpoint) -> Profile {
        match self.profile.tls {
            TlsLevel::Plaintext if !endpoint.may_be_plaintext() => {
                Profile { tls: TlsLevel::Full, ..self.profile }
            }
            _ => self.profile,
        }
    }
}

/// What one conversation came to, from the first byte of its connection or of a job on it.
#[derive(Debug, Clone)]
pub struct Evidence {
    /// What came of TLS; `Unused` on a connection that stood already.
    pub tls: TlsResult,
    /// How commands written together were taken.
    pub pipelining: PipelineResult,
    /// How chunks were taken.
    pub chunking: ChunkingResult,
    /// What came of single writes.
    pub single_write: SingleWriteResult,
    /// The host gave a reply too many, or none to what closes a transaction.
    pub unasked: Option<Failure>,
    /// No message had gone over the connection before. A host may close between two messages.
    pub is_fresh: bool,
    /// The connection may be used again.
    pub is_usable: bool,
    /// The codes of all refusals that recipients have as their answers.
    pub refusals: Vec<u16>,
    /// What kept recipients without an answer; none: all have one.
    pub failure: Option<Failure>,
}

/// What came of commands and content in a single write.
#[derive(Debug, Clone, PartialEq)]
pub enum SingleWriteResult {
    /// Nothing went so, or nothing was learnt.
    Unknown,
    /// A message was taken.
    Taken,
    /// A message is in doubt. What a host swallows like this would be delivered over and over.
    InDoubt(Failure),
}

impl Evidence {
    /// Of a connection that stands, and nothing else.
    pub fn opened(tls: TlsResult) -> Evidence {
        Evidence {
            tls,
            pipelining: PipelineResult::Unused,
            chunking: ChunkingResult::Unknown,
            single_write: SingleWriteResult::Unknown,
            unasked: None,
            is_fresh: true,
            is_usable: true,
            refusals: Vec::new(),
            failure: None,
        }
    }

    /// Of a conversation that ended before a message could be tried.
    pub fn unopened(failure: Failure) -> Evidence {
        Evidence { failure: Some(failure), is_usable: false, ..Evidence::opened(TlsResult::Unused) }
    }

    /// Why a message had better have a connection of its own: a reply was seen to be too many. Where the first message
    /// of a connection went in order, it is no batch and no host's habit that later replies do not fit.
    fn surplus(&self) -> Option<&Failure> {
        let later = match (&self.pipelining, &self.failure) {
            _ if self.is_fresh => None,
            (PipelineResult::Broken(PipelineFault::OutOfSync(failure)), _) => Some(failure),
            (_, Some(failure @ Failure::BadReply { phase: Phase::Mail | Phase::Rcpt | Phase::Data, .. })) => {
                Some(failure)
            }
            _ => None,
        };
        self.unasked.as_ref().or(later)
    }
}

/// What may be left out at a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Feature {
    /// The post-quantum key share, or TLS as a whole.
    Tls,
    /// Commands together.
    Pipelining,
    /// BDAT.
    Chunking,
    /// Commands and content together.
    SingleWrite,
    /// Several messages over one connection.
    Reuse,
}

impl Feature {
    /// The column `setting` of `host_settings`.
    pub fn name(self) -> &'static str {
        match self {
            Feature::Tls => "tls",
            Feature::Pipelining => "pipelining",
            Feature::Chunking => "chunking",
            Feature::SingleWrite => "single_write",
            Feature::Reuse => "reuse",
        }
    }
}

/// What was learnt of a host.
#[derive(Debug, Clone, PartialEq)]
pub enum Lesson {
    /// The feature works: nothing of it is to be left out.
    Works(Feature),
    /// From now on this is left out, since it failed like this.
    LeaveOut(Setting, Failure),
    /// Pipelining is not to blame should a connection break.
    PipeliningProved,
    /// The next time it may be.
    PipeliningSuspected,
}

/// How to try once more, on a fresh connection, what failed like this; none where that would not help.
pub fn fallback(
    tried: &Profile,
    evidence: &Evidence,
    endpoint: &Endpoint,
    known: &HostKnowledge,
) -> Option<Profile> {
    // Where all have their answers nobody is left to try it for.
    let failure = evidence.failure.as_ref()?;
    if let Failure::Tls(TlsFailure::Handshake(fault)) = failure {
        let tls = less_tls(tried.tls, fault, endpoint)?;
        return Some(Profile { tls, ..*tried });
    }
    if evidence.surplus().is_some() && tried.reuse {
        return Some(Profile { tls: tried.tls, ..Profile::ONE_BY_ONE });
    }
    if let PipelineResult::Broken(sign) = &evidence.pipelining
        && tried.pipelining
        && (is_certain(sign) || is_suspicious(evidence, known))
    {
        return Some(Profile { pipelining: false, ..*tried });
    }
    let failed = matches!(evidence.chunking, ChunkingResult::Refused(_) | ChunkingResult::Broken(_));
    (failed && tried.chunking).then_some(Profile { chunking: false, ..*tried })
}

/// The next step down: the full ClientHello, a smaller one, and then, where nothing requires TLS, no TLS at all.
fn less_tls(tried: TlsLevel, fault: &Fault, endpoint: &Endpoint) -> Option<TlsLevel> {
    match fault {
        // Somebody who injects replies gets no second connection to do it on, where TLS is required. Where it is not,
        // whoever can do that can as well take STARTTLS out of the offer, and a host that sends garbage would never get
        // its mail.
        Fault::OutOfTurn if !endpoint.may_be_plaintext() => return None,
        Fault::Deadline | Fault::Stopping => return None,
        // A certificate that does not hold will not hold with a smaller ClientHello.
        Fault::Tls(rustls::Error::InvalidCertificate(_)) if endpoint.must_verify() => return None,
        _ => {}
    }
    match tried {
        TlsLevel::Full => Some(TlsLevel::NoPostQuantum),
        TlsLevel::NoPostQuantum if endpoint.may_be_plaintext() => Some(TlsLevel::Plaintext),
        TlsLevel::NoPostQuantum | TlsLevel::Plaintext => None,
    }
}

fn is_certain(sign: &PipelineFault) -> bool {
    matches!(sign, PipelineFault::Reported(_) | PipelineFault::OutOfSync(_))
}

/// Whether silence may come from commands that were written together.
fn is_suspicious(evidence: &Evidence, known: &HostKnowledge) -> bool {
    evidence.is_fresh && !known.pipelining_proved
}

/// What the conversations of one attempt with a host, in their order, say of it.
pub fn learn(tried: &[(Profile, Evidence)], known: &HostKnowledge) -> Vec<Lesson> {
    let mut lessons = Vec::new();
    lessons.extend(learn_tls(tried));
    for (at, (profile, evidence)) in tried.iter().enumerate() {
        let later = &tried[at + 1..];
        if let Some(why) = evidence.surplus() {
            // Nothing else is certain of such a conversation.
            lessons.push(Lesson::LeaveOut(Setting::NoReuse, why.clone()));
            continue;
        }
        if profile.reuse && !evidence.is_fresh && evidence.failure.is_none() {
            lessons.push(Lesson::Works(Feature::Reuse));
        }
        lessons.extend(learn_pipelining(evidence, later, known));
        lessons.extend(learn_chunking(evidence, later));
        match &evidence.single_write {
            SingleWriteResult::Unknown => {}
            SingleWriteResult::Taken => lessons.push(Lesson::Works(Feature::SingleWrite)),
            SingleWriteResult::InDoubt(why) => {
                lessons.push(Lesson::LeaveOut(Setting::NoSingleWrite, why.clone()));
            }
        }
    }
    lessons
}

/// Finds the first connection that got as far as MAIL, and blames the TLS failures before it.
fn learn_tls(tried: &[(Profile, Evidence)]) -> Option<Lesson> {
    let mut failed: Option<&Failure> = None;
    for (profile, evidence) in tried {
        if let Some(failure @ Failure::Tls(TlsFailure::Handshake(_))) = &evidence.failure {
            failed = Some(failure);
            continue;
        }
        let leave_out = |setting, failure: &Failure| Some(Lesson::LeaveOut(setting, failure.clone()));
        return match (&evidence.tls, failed) {
            (TlsResult::InUse, _) if profile.tls == TlsLevel::Full => Some(Lesson::Works(Feature::Tls)),
            (TlsResult::InUse, Some(why)) => leave_out(Setting::NoPostQuantum, why),
            (TlsResult::Refused(why), _) => leave_out(Setting::Plaintext, why),
            (TlsResult::Unused, Some(why)) if reached_mail(evidence) => leave_out(Setting::Plaintext, why),
            (TlsResult::NotOffered, None) if profile.tls == TlsLevel::Full => {
                Some(Lesson::Works(Feature::Tls))
            }
            // It stood already, so nothing was seen of its beginning.
            (TlsResult::Unused, None) if reached_mail(evidence) => continue,
            _ => None,
        };
    }
    None
}

/// What a connection on which commands were written together says of that, by how a retry without went:
///
/// | the retry | lesson |
/// |---|---|
/// | went well | the host cannot do it: leave it out |
/// | went wrong too, or had the same refusal | it was not pipelining: proved |
/// | none got as far as MAIL | nothing, but that silence at a host that was trusted makes it suspected |
///
/// Two need no retry: all went well, or the host itself said that it does not like it.
fn learn_pipelining(
    evidence: &Evidence,
    later_tries: &[(Profile, Evidence)],
    known: &HostKnowledge,
) -> Option<Lesson> {
    let fault = match &evidence.pipelining {
        PipelineResult::InOrder if evidence.failure.is_none() => {
            return Some(Lesson::Works(Feature::Pipelining));
        }
        PipelineResult::Broken(fault) if evidence.failure.is_some() => fault,
        _ => return None,
    };
    let leave_out = Lesson::LeaveOut(Setting::NoPipelining, fault.failure().clone());
    if let PipelineFault::Reported(_) = fault {
        return Some(leave_out);
    }
    let without = |(profile, retry): &&(Profile, Evidence)| !profile.pipelining && reached_mail(retry);
    if let Some((_, retry)) = later_tries.iter().find(without) {
        // A refusal that comes without pipelining too is meant.
        let is_meant = retry.refusals.contains(&fault.failure().reply().code);
        let went_well = retry.failure.is_none() && retry.is_usable && !is_meant;
        return Some(if went_well { leave_out } else { Lesson::PipeliningProved });
    }
    let is_silence = matches!(fault, PipelineFault::NoReply(_));
    let was_trusted = is_silence && evidence.is_fresh && known.pipelining_proved;
    was_trusted.then_some(Lesson::PipeliningSuspected)
}

fn learn_chunking(evidence: &Evidence, later: &[(Profile, Evidence)]) -> Option<Lesson> {
    let went_well_without =
        || later.iter().any(|(profile, again)| !profile.chunking && again.failure.is_none());
    let failure = match &evidence.chunking {
        ChunkingResult::Taken => return Some(Lesson::Works(Feature::Chunking)),
        ChunkingResult::Refused(failure) if evidence.failure.is_some() => failure,
        ChunkingResult::Broken(failure) if went_well_without() => failure,
        ChunkingResult::Unknown | ChunkingResult::Refused(_) | ChunkingResult::Broken(_) => return None,
    };
    Some(Lesson::LeaveOut(Setting::NoChunking, failure.clone()))
}

/// Whether a message could be tried.
fn reached_mail(evidence: &Evidence) -> bool {
    evidence.failure.as_ref().is_none_or(|failure| failure.phase() >= Phase::Mail)
}

#[cfg(test)]
mod tests;
