//! Whether the servers' answers come with what DNSSEC needs, as it was found at the last look.
//!
//! It is looked at when it is first asked for, once an hour, and when the servers are others. An answer that nothing
//! proves turns DANE off: behind a server that drops signatures each signed domain would look forged, and its mail
//! would be held. No answer changes nothing: nobody turns DANE off by being silent.

use std::time::{Duration, Instant};

use super::validated::SelfTest;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(3600);
/// The same, where no answer came.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// What is known.
#[derive(Debug, Default)]
pub(super) struct Validation {
    /// When the next look is due; none: at once.
    next: Option<Instant>,
    /// Why nothing is validated; none: it is, or nobody knows.
    why_not: Option<String>,
}

impl Validation {
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.next.is_none_or(|next| now >= next)
    }

    pub(super) fn forget(&mut self) {
        self.next = None;
    }

    pub(super) fn result(&self) -> Result<(), String> {
        self.why_not.clone().map_or(Ok(()), Err)
    }

    /// Notes what a look came to, and logs what changed. `asked` are the servers.
    pub(super) fn note(&mut self, found: SelfTest, asked: &str, now: Instant) {
        let was_off = self.why_not.is_some();
        let wait = match found {
            SelfTest::Validates => {
                if was_off {
                    log::info!("DNSSEC works again with {asked}: DANE is on");
                }
                self.why_not = None;
                LOOK_EVERY
            }
            SelfTest::NotProved(why) => {
                if self.why_not.as_ref() != Some(&why) {
                    log::warn!(
                        "DNSSEC does not work with {asked}: {why}. DANE is off until it does; [dns] servers can name \
                         servers that pass signatures on"
                    );
                }
                self.why_not = Some(why);
                LOOK_EVERY
            }
            SelfTest::NoAnswer(why) => {
                log::debug!("DNSSEC of {asked} is not known: {why}");
                LOOK_AGAIN
            }
        };
        self.next = Some(now + wait);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_answer_turns_it_off_and_each_hour_brings_another_look() {
        let mut known = Validation::default();
        let mut now = Instant::now();
        let not_proved = || SelfTest::NotProved("no signature".to_owned());
        let silent = || SelfTest::NoAnswer("timed out".to_owned());
        assert!(known.is_due(now));
        for (found, works, wait) in [
            (silent(), true, LOOK_AGAIN),
            (SelfTest::Validates, true, LOOK_EVERY),
            (silent(), true, LOOK_AGAIN),
            (not_proved(), false, LOOK_EVERY),
            (silent(), false, LOOK_AGAIN),
            (SelfTest::Validates, true, LOOK_EVERY),
        ] {
            known.note(found.clone(), "192.0.2.1:53", now);
            assert_eq!(known.result().is_ok(), works, "{found:?}");
            assert!(
                !known.is_due(now + wait - Duration::from_secs(1)) && known.is_due(now + wait),
                "{found:?}"
            );
            now += wait;
        }
        known.forget();
        assert!(known.is_due(now));
    }
}
