//! Whether the servers' answers come with what DNSSEC needs, as it was found at the last look.
//!
//! It is looked at when it is first asked for, once an hour, when the servers are others, and at most once a minute
//! when an answer was without its proof. Servers that answer and prove nothing turn DANE off: behind a server that
//! drops signatures each signed domain would look forged, and its mail would be held. Where proofs came before, it
//! takes two looks in a row, so that a lost packet turns nothing off; and there is a look each minute until they come
//! again. No answer at all changes nothing: nobody turns DANE off by being silent.

use std::time::{Duration, Instant};

use super::validated::SelfTest;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(3600);
/// The same, where no answer came.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// What is known.
#[derive(Debug, Default)]
pub(super) struct Validation {
    /// When the last look began, and when the next is due; none: at once.
    looks: Option<(Instant, Instant)>,
    /// Why nothing is validated; none: it is, or nobody knows.
    why_not: Option<String>,
    /// These servers gave proofs at the last look that had an answer.
    worked: bool,
}

impl Validation {
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.looks.is_none_or(|(_, next)| now >= next)
    }

    /// Nothing was heard of these servers.
    pub(super) fn is_new(&self) -> bool {
        self.looks.is_none()
    }

    /// Somebody looks now: nobody else has to.
    pub(super) fn begin(&mut self, now: Instant) {
        self.looks = Some((now, now + LOOK_AGAIN));
    }

    /// An answer was without its proof: perhaps none has one.
    pub(super) fn doubt(&mut self) {
        if let Some((last, next)) = &mut self.looks {
            *next = (*next).min(*last + LOOK_AGAIN);
        }
    }

    pub(super) fn forget(&mut self) {
        (self.looks, self.worked) = (None, false);
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
                (self.why_not, self.worked) = (None, true);
                LOOK_EVERY
            }
            SelfTest::NotProved(why) if self.worked => {
                log::debug!("DNSSEC did not work with {asked}: {why}; looking again");
                self.worked = false;
                LOOK_AGAIN
            }
            SelfTest::NotProved(why) => {
                if !was_off {
                    log::warn!(
                        "DNSSEC does not work with {asked}: {why}. DANE is off until it does; [dns] servers can name \
                         servers that pass signatures on"
                    );
                }
                self.why_not = Some(why);
                LOOK_AGAIN
            }
            SelfTest::NoAnswer(why) => {
                log::debug!("DNSSEC of {asked} is not known: {why}");
                LOOK_AGAIN
            }
        };
        self.looks = Some((now, now + wait));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::DnsSettings;
    use crate::delivery::route::dns::{Resolver, Servers, lock};
    use crate::delivery::route::lookup::Lookup as _;

    #[test]
    fn two_answers_in_a_row_turn_it_off_and_each_minute_brings_a_look_until_it_is_on() {
        let mut known = Validation::default();
        let mut now = Instant::now();
        let not_proved = || SelfTest::NotProved("no signature".to_owned());
        let silent = || SelfTest::NoAnswer("timed out".to_owned());
        assert!(known.is_due(now) && known.is_new());
        for (found, works, wait) in [
            (silent(), true, LOOK_AGAIN),
            // They never gave a proof.
            (not_proved(), false, LOOK_AGAIN),
            (not_proved(), false, LOOK_AGAIN),
            (silent(), false, LOOK_AGAIN),
            (SelfTest::Validates, true, LOOK_EVERY),
            (silent(), true, LOOK_AGAIN),
            (not_proved(), true, LOOK_AGAIN),
            (SelfTest::Validates, true, LOOK_EVERY),
            (not_proved(), true, LOOK_AGAIN),
            (silent(), true, LOOK_AGAIN),
            (not_proved(), false, LOOK_AGAIN),
        ] {
            known.begin(now);
            assert!(!known.is_due(now), "one look at a time");
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

    #[test]
    fn an_answer_without_proof_brings_a_look_and_at_most_one_a_minute() {
        let (mut known, now) = (Validation::default(), Instant::now());
        known.note(SelfTest::Validates, "192.0.2.1:53", now);
        for _ in 0..3 {
            known.doubt();
        }
        assert!(!known.is_due(now + LOOK_AGAIN - Duration::from_secs(1)));
        assert!(known.is_due(now + LOOK_AGAIN));
    }

    /// A server that leaves everybody waiting until it is told to answer, and then proves nothing.
    struct Waiting(std::net::UdpSocket, Resolver);

    impl Waiting {
        fn new() -> Waiting {
            let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            let servers = vec![socket.local_addr().unwrap().into()];
            let settings = DnsSettings { servers, timeout: Duration::from_secs(10), trust_anchor: None };
            Waiting(socket, Resolver::new(&settings).unwrap())
        }

        /// A question came: its bytes, and from where.
        fn question(&self, patience: Duration) -> Option<(Vec<u8>, std::net::SocketAddr)> {
            self.0.set_read_timeout(Some(patience)).unwrap();
            let mut bytes = vec![0; 1500];
            let (length, from) = self.0.recv_from(&mut bytes).ok()?;
            bytes.truncate(length);
            Some((bytes, from))
        }

        /// Answers without anything until it is over.
        fn answer(&self, first: (Vec<u8>, std::net::SocketAddr), is_over: impl Fn() -> bool) {
            let mut next = Some(first);
            while !is_over() {
                if let Some((mut bytes, from)) = next {
                    bytes[2] |= 0x80;
                    self.0.send_to(&bytes, from).unwrap();
                }
                next = self.question(Duration::from_millis(20));
            }
        }
    }

    #[test]
    fn all_wait_for_the_first_look_and_nobody_for_a_later_one() {
        let waiting = Waiting::new();
        let validates = || waiting.1.validates();
        std::thread::scope(|scope| {
            let first = scope.spawn(validates);
            let question = waiting.question(Duration::from_secs(10)).unwrap();
            let (said, heard) = std::sync::mpsc::channel();
            let second = scope.spawn(move || said.send(validates()).unwrap());
            assert!(heard.recv_timeout(Duration::from_millis(200)).is_err(), "nobody knows yet");
            waiting.answer(question, || first.is_finished() && second.is_finished());
            assert!(first.join().unwrap().is_err() && heard.recv().unwrap().is_err());
        });
        // The next look is due. While it lasts, what was known holds.
        lock(&waiting.1.validation).looks = Some((Instant::now(), Instant::now()));
        std::thread::scope(|scope| {
            let looks = scope.spawn(validates);
            let question = waiting.question(Duration::from_secs(10)).unwrap();
            let (said, heard) = std::sync::mpsc::channel();
            let other = scope.spawn(move || said.send(validates()).unwrap());
            let known = heard.recv_timeout(Duration::from_secs(2));
            waiting.answer(question, || looks.is_finished() && other.is_finished());
            assert!(matches!(known, Ok(Err(_))), "{known:?}");
        });
    }

    /// A look that begins with some servers and ends when there are others is not noted for those.
    #[test]
    fn what_a_look_finds_is_noted_of_the_servers_that_were_asked() {
        let (waiting, silent) = (Waiting::new(), std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
        let resolver = &waiting.1;
        std::thread::scope(|scope| {
            let looks = scope.spawn(|| resolver.validates());
            let question = waiting.question(Duration::from_secs(10)).unwrap();
            let now_asked = {
                let _context = resolver.runtime.enter();
                Servers::new(vec![silent.local_addr().unwrap()], Duration::from_secs(2), None).unwrap()
            };
            *lock(&resolver.servers) = Arc::new(now_asked);
            waiting.answer(question, || looks.is_finished());
            assert_eq!(looks.join().unwrap(), Ok(()), "nobody has heard of these");
        });
    }
}
