//! From answers to what becomes of each recipient. Pure.
//!
//! The answer decides, then a `[[retry.rule]]` where one has a say, then what `[delivery] in_doubt` and the message's
//! lifetime make of it.

use std::time::Duration;

use crate::config::{DeliverySettings, InDoubt, RuleAction, atrn};
use crate::mail::{Attempt, Enhanced, Notify, Outcome, Phase, Reply, TlsPolicy};
use crate::queue::{Finished, HeldBy, Job, NextState, QueuedMessage, QueuedRecipient, Settled};

use crate::delivery::job::attempt::Answer;
use crate::delivery::job::retry_rules;

/// Under which circumstances answers were given.
pub(in crate::delivery) struct Circumstances<'a> {
    pub(in crate::delivery) job: &'a Job,
    pub(in crate::delivery) settings: &'a DeliverySettings,
    /// When the attempt began, Unix seconds.
    pub(in crate::delivery) at: i64,
    pub(in crate::delivery) duration_ms: u64,
    /// When it ended.
    pub(in crate::delivery) now: i64,
    /// The same by the clock that counts for the end of mail.
    pub(in crate::delivery) confirmed: i64,
    /// In 0..1: where in the range of ±20 % a rule's delay falls.
    pub(in crate::delivery) spread: f64,
    /// By somebody who came for it (ATRN) …
    pub(in crate::delivery) fetched: bool,
    /// … and went away in the middle.
    pub(in crate::delivery) broke_off: bool,
}

/// What becomes of one recipient, and by which rule.
pub(in crate::delivery) struct Decision {
    pub(in crate::delivery) settled: Settled,
    /// Seconds to the next try.
    pub(in crate::delivery) next_secs: Option<i64>,
    /// The `[[retry.rule]]` that had a say, counted from 1, and what it wants.
    pub(in crate::delivery) rule: Option<(usize, &'static str)>,
}

impl Circumstances<'_> {
    /// What becomes of this recipient after this answer.
    pub(in crate::delivery) fn decide(
        &self,
        message: &QueuedMessage,
        recipient: &QueuedRecipient,
        answer: Answer,
    ) -> Decision {
        let (outcome, next_state, rule) = match self.ruled(message, recipient, &answer) {
            Some((outcome, next_state, rule)) => (outcome, next_state, Some(rule)),
            None => {
                let (outcome, next_state) = self.next_state(message, recipient, answer.outcome);
                (outcome, next_state, None)
            }
        };
        let (next_secs, warned) = match next_state {
            NextState::Retry(next) => (Some(next - self.now), self.is_due_a_warning(message, recipient)),
            _ => (None, false),
        };
        let attempt = Attempt {
            at: self.at,
            duration_ms: self.duration_ms,
            mx: answer.place.mx,
            ip: answer.place.ip,
            tls: answer.place.tls.map(|tls| tls.to_string()),
            tls_policy: answer.place.policy,
            dkim: answer.place.dkim,
            source: answer.place.source,
            phase: answer.phase,
            reply: answer.reply,
            outcome,
        };
        let settled = Settled { recipient: recipient.id, attempt: Some(attempt), next_state, warned };
        Decision { settled, next_secs, rule }
    }

    /// What a `[[retry.rule]]` makes of a failure, where one has a say; a delay past the lifetime has none.
    fn ruled(
        &self,
        message: &QueuedMessage,
        recipient: &QueuedRecipient,
        answer: &Answer,
    ) -> Option<(Outcome, NextState, (usize, &'static str))> {
        let permanent = match answer.outcome {
            Outcome::Failed => true,
            // Who fetches mail and breaks off has said nothing of it: it is there when they come again.
            Outcome::Deferred if !self.broke_off => false,
            _ => return None,
        };
        let rules = &self.settings.retry_rules;
        let (number, action) = retry_rules::first_match(rules, &recipient.domain, &answer.reply, permanent)?;
        let (outcome, next_state, word) = match action {
            RuleAction::Retry(_) if self.is_over(message) => return None,
            RuleAction::Retry(delay) => {
                let wait = delay.mul_f64(0.8 + 0.4 * self.spread);
                (Outcome::Deferred, self.retry_after(message, wait), "retry")
            }
            RuleAction::Hold => (Outcome::Deferred, NextState::Hold(HeldBy::Rule(number)), "hold"),
            RuleAction::Bounce => (Outcome::Failed, NextState::Finished(Finished::Failed), "bounce"),
        };
        Some((outcome, next_state, (number, word)))
    }

    fn retry_after(&self, message: &QueuedMessage, wait: Duration) -> NextState {
        let next = self.now + i64::try_from(wait.as_secs()).unwrap_or(i64::MAX / 2).max(1);
        // There is a try when the sender wants to be told (RFC 2852), and the last one is at the end of the
        // lifetime, not somewhere before it.
        let notifies_at = message.handling.notifies_at().filter(|at| *at > self.now);
        let next = next.min(notifies_at.unwrap_or(i64::MAX));
        NextState::Retry(next.min(message.ends_at(self.settings.lifetimes).max(self.now + 1)))
    }

    fn is_over(&self, message: &QueuedMessage) -> bool {
        self.confirmed >= message.ends_at(self.settings.lifetimes)
    }

    /// What becomes of a recipient; a deferral past the lifetime turns into `expired` here.
    fn next_state(
        &self,
        message: &QueuedMessage,
        recipient: &QueuedRecipient,
        outcome: Outcome,
    ) -> (Outcome, NextState) {
        let next_state = match outcome {
            Outcome::Delivered => NextState::Finished(Finished::Delivered),
            Outcome::Relayed => NextState::Finished(Finished::Relayed),
            Outcome::Failed => NextState::Finished(Finished::Failed),
            Outcome::InDoubt if self.settings.in_doubt == InDoubt::Hold => NextState::Hold(HeldBy::InDoubt),
            Outcome::InDoubt if self.settings.in_doubt == InDoubt::AssumeDelivered => {
                NextState::Finished(Finished::Delivered)
            }
            Outcome::Deferred | Outcome::InDoubt | Outcome::Expired if self.is_over(message) => {
                return (Outcome::Expired, NextState::Finished(Finished::Expired));
            }
            Outcome::Deferred | Outcome::InDoubt | Outcome::Expired => {
                let planned = self.job.recipients.iter().find(|planned| planned.id == recipient.id);
                let wait = match outcome {
                    // They come again when they like, and there is no host to be spared.
                    Outcome::InDoubt if self.fetched => Duration::ZERO,
                    _ if self.broke_off => Duration::ZERO,
                    _ => planned.map_or(Duration::from_secs(60), |planned| planned.retry_wait),
                };
                self.retry_after(message, wait)
            }
        };
        (outcome, next_state)
    }

    fn is_due_a_warning(&self, message: &QueuedMessage, recipient: &QueuedRecipient) -> bool {
        let released_at = message.handling.released_at(message.received_at);
        let is_delayed = self.settings.delay_warning.is_some_and(|after| {
            self.confirmed - released_at >= i64::try_from(after.as_secs()).unwrap_or(i64::MAX)
        });
        // RFC 2852 §4.1.2: the time of BY=…;N is over.
        let is_late = message.handling.notifies_at().is_some_and(|by| by <= self.confirmed);
        (is_delayed || is_late)
            && recipient.warned_at.is_none()
            && message.sender.is_some()
            && recipient.notify.unwrap_or(Notify::DEFAULT).delay
    }
}

/// Recipients past their lifetime, and those that an operator wants returned, without a further try.
pub(in crate::delivery) fn expire(job: &Job, at: i64, message: &QueuedMessage) -> Vec<Settled> {
    let expired = message.recipients.iter().map(|recipient| {
        let lane = atrn::domain_of_lane(&job.lane).filter(|_| job.expired && !recipient.to_bounce);
        let is_suspended = job.recipients.iter().any(|one| one.id == recipient.id && one.suspended);
        let attempt = match (lane, &recipient.last_reply) {
            (_, Some(_)) => None,
            (_, None) if is_suspended && !recipient.to_bounce => Some(never_tried(at, suspended())),
            (Some(domain), None) => Some(never_tried(at, never_fetched(domain))),
            (None, None) => None,
        };
        let how = if recipient.to_bounce { Finished::Failed } else { Finished::Expired };
        Settled { recipient: recipient.id, attempt, next_state: NextState::Finished(how), warned: false }
    });
    expired.collect()
}

/// Where mail waits for ATRN, that nobody came is all there is to tell. 4.4.7: delivery time expired (RFC 3463
/// §3.5).
fn never_fetched(domain: &str) -> Reply {
    let text =
        format!("mail for {domain} waits here to be fetched with ATRN (RFC 2645), and nobody fetched it");
    Reply::new(451, Enhanced(4, 4, 7), "").with_text(text)
}

/// 4.3.2: the system takes no messages (RFC 3463 §3.4); it was ours, and nothing else is known.
fn suspended() -> Reply {
    let text = "suspended by the operator of this relay until its lifetime was over; it was not tried";
    Reply::new(451, Enhanced(4, 3, 2), "").with_text(text.to_owned())
}

fn never_tried(at: i64, reply: Reply) -> Attempt {
    let (phase, outcome, tls_policy) = (Phase::Connect, Outcome::Expired, TlsPolicy::None);
    Attempt {
        at,
        duration_ms: 0,
        mx: None,
        ip: None,
        tls: None,
        tls_policy,
        dkim: None,
        source: None,
        phase,
        reply,
        outcome,
    }
}

/// For the simulation: what a scripted host's answers mean, by the code that decides it for real ones.
#[cfg(test)]
pub(crate) fn decide(
    job: &Job,
    message: &QueuedMessage,
    settings: &DeliverySettings,
    (now, confirmed): (i64, i64),
    said: Vec<(Outcome, Reply)>,
) -> Vec<Settled> {
    if job.expired {
        return expire(job, now, message);
    }
    let (fetched, broke_off) = (false, false);
    let circumstances = Circumstances {
        job,
        settings,
        at: now,
        duration_ms: 0,
        now,
        confirmed,
        spread: 0.5,
        fetched,
        broke_off,
    };
    let pairs = message.recipients.iter().zip(said);
    let settled = pairs.map(|(recipient, (outcome, reply))| {
        circumstances.decide(message, recipient, Answer::ours(outcome, reply)).settled
    });
    settled.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::mail::{DeliverBy, Handling, Lifetimes, Recipient, address};
    use crate::queue::{MessageId, Origin, RecipientId};

    const NOW: i64 = 1_795_262_400;
    const DAY: i64 = 86_400;

    fn settings() -> DeliverySettings {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("postrider.toml");
        std::fs::write(&path, "[[listen]]\naddress = \"127.0.0.1:587\"\ntls = \"off\"\n").unwrap();
        config::load(Some(&path)).unwrap().settings.delivery
    }

    /// One that came so many seconds ago.
    fn message(age: i64, handling: Handling) -> QueuedMessage {
        let new = Recipient::new(address::parse("you@a.test").unwrap());
        QueuedMessage {
            id: MessageId(1),
            sender: Some(address::parse("me@b.test").unwrap()),
            origin: Origin::default(),
            received_at: NOW - age,
            expires_at: None,
            size: 3,
            body: crate::mail::Body::SevenBit,
            smtputf8: false,
            ret: None,
            envid: None,
            handling,
            recipients: vec![QueuedRecipient::new(RecipientId(2), new)],
            content: None,
        }
    }

    /// What becomes of its recipient when its host says 451.
    fn deferred(message: &QueuedMessage, settings: &DeliverySettings, now: i64, confirmed: i64) -> Settled {
        let recipients = vec![crate::queue::JobRecipient {
            id: RecipientId(2),
            retry_wait: Duration::from_secs(60),
            suspended: false,
        }];
        let job = Job { lane: "a.test".into(), message: message.id, recipients, fresh: None, expired: false };
        let said = vec![(Outcome::Deferred, Reply::new(451, Enhanced(4, 7, 1), "later"))];
        decide(&job, message, settings, (now, confirmed), said).remove(0)
    }

    #[test]
    fn a_clock_that_is_not_confirmed_ends_nothing_and_warns_nobody() {
        let (settings, ahead) = (settings(), NOW + 14 * DAY);
        let by = |returns| Some(DeliverBy { at: NOW + DAY, returns, trace: false });
        for handling in [
            Handling::default(),
            Handling { deliver_by: by(true), ..Handling::default() },
            Handling { deliver_by: by(false), ..Handling::default() },
        ] {
            let message = message(3600, handling);
            let doubted = deferred(&message, &settings, ahead, NOW);
            assert!(matches!(doubted.next_state, NextState::Retry(_)), "{handling:?}: {doubted:?}");
            assert!(!doubted.warned, "{handling:?}");
            let confirmed = deferred(&message, &settings, ahead, ahead);
            assert_eq!(confirmed.next_state, NextState::Finished(Finished::Expired), "{handling:?}");
        }
    }

    #[test]
    fn the_lifetime_of_now_counts_and_not_the_one_at_acceptance() {
        let mut settings = settings();
        let message = message(3600, Handling::default());
        let mut state = |messages: i64| {
            settings.lifetimes = Lifetimes { messages, ..settings.lifetimes };
            deferred(&message, &settings, NOW, NOW).next_state
        };
        assert_eq!(state(3600), NextState::Finished(Finished::Expired));
        assert_eq!(state(3630), NextState::Retry(NOW + 30), "the last try is at its end");
        assert_eq!(state(DAY), NextState::Retry(NOW + 60));
    }
}
