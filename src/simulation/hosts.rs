//! The hosts of a world, and their replies.

use std::collections::BTreeMap;

use crate::mail::{Domain, Enhanced, Outcome, Reply};
use crate::queue::{LaneHealth, QueuedMessage};

/// How many domains there are, two of them below one name.
pub(super) const DOMAINS: usize = 9;
/// How long a host that never speaks holds a worker.
pub(super) const DEADLINE_SECS: i64 = 300;

/// How a host answers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Host {
    Good,
    Dead,
    /// Refuses the first try of each recipient, as greylisting does.
    Grey,
    Refuses,
    /// Answers at random.
    Fickle,
    /// Often answers that we have too many connections.
    Narrow,
    /// Accepts the connection and never speaks.
    Silent,
}

const KINDS: [Host; 8] =
    [Host::Good, Host::Good, Host::Dead, Host::Grey, Host::Refuses, Host::Fickle, Host::Narrow, Host::Silent];

/// All hosts, by domain.
pub(super) struct Hosts(BTreeMap<Domain, Host>);

pub(super) fn domain(n: usize) -> Domain {
    let below = if n % 4 == 1 { "some.test" } else { "test" };
    Domain::parse(&format!("d{n}.{below}")).unwrap()
}

impl Hosts {
    pub(super) fn new(random: &mut fastrand::Rng) -> Hosts {
        Hosts((0..DOMAINS).map(|n| (domain(n), KINDS[random.usize(..KINDS.len())])).collect())
    }

    /// One host changes: a good one may fall silent, a dead one come back.
    pub(super) fn change(&mut self, random: &mut fastrand::Rng) {
        let which = domain(random.usize(..DOMAINS));
        self.0.insert(which, KINDS[random.usize(..KINDS.len())]);
    }

    /// Whether the hosts of all recipients never speak.
    pub(super) fn are_silent(&self, message: &QueuedMessage) -> bool {
        message.recipients.iter().all(|recipient| self.0[&recipient.domain] == Host::Silent)
    }

    /// Whether the hosts take no more connections from us: the job is requeued.
    pub(super) fn have_no_room(&self, message: &QueuedMessage, random: &mut fastrand::Rng) -> bool {
        let is_narrow = |domain: &Domain| self.0[domain] == Host::Narrow;
        message.recipients.iter().all(|recipient| is_narrow(&recipient.domain)) && random.bool()
    }

    /// The reply for each recipient, and the lane's health after it.
    pub(super) fn answers(
        &self,
        message: &QueuedMessage,
        random: &mut fastrand::Rng,
    ) -> (Vec<(Outcome, Reply)>, LaneHealth) {
        let trouble = LaneHealth::Failing("421 4.4.1 no".to_owned());
        let mut health = LaneHealth::Unchanged;
        let mut said = Vec::new();
        for recipient in &message.recipients {
            let kind = match self.0[&recipient.domain] {
                Host::Fickle => [Host::Good, Host::Dead, Host::Refuses, Host::Fickle][random.usize(..4)],
                Host::Grey if recipient.attempts > 0 => Host::Good,
                kind => kind,
            };
            let outcome = match kind {
                Host::Good | Host::Narrow => Outcome::Delivered,
                Host::Dead | Host::Grey | Host::Silent => Outcome::Deferred,
                Host::Refuses => Outcome::Failed,
                Host::Fickle => Outcome::InDoubt,
            };
            health = match (kind, health) {
                (Host::Dead | Host::Silent, _) => trouble.clone(),
                (Host::Good | Host::Narrow, LaneHealth::Unchanged) => LaneHealth::Healthy,
                (_, health) => health,
            };
            said.push((outcome, Reply::new(450, Enhanced(4, 0, 0), "as scripted")));
        }
        (said, health)
    }
}
