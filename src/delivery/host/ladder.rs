//! The TLS ladder: the full ClientHello, a smaller one, and then, where nothing requires TLS, no TLS at all.
//!
//! Pure: which step is next, where the ladder begins at a host of which something is known, and what is to be
//! remembered once a connection stands. Each step is taken on a fresh connection to the same host.
//!
//! Where TLS is required, or a password is to be sent, the clear is not on the ladder, whatever is remembered.

use crate::config::RouteTls;
use crate::mail::Reply;
use crate::queue::Setting;

use crate::delivery::smtp::tls::Hello;

/// A step of the ladder, from the top.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::delivery) enum Rung {
    Tls(Hello),
    Clear,
}

/// How far a connection came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::delivery) enum Reached {
    /// The handshake.
    Tls(Hello),
    /// In the clear, since the host refused STARTTLS in these words.
    Refused(Reply),
    /// In the clear, since the host offers no TLS.
    NotOffered,
    /// In the clear, since nothing else was asked for.
    Clear,
}

/// What a connection that stands says about its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::delivery) enum Learnt<'a> {
    /// Nothing that was not known.
    Nothing,
    /// There is nothing to go round.
    AllWell,
    /// This is needed, for this reason.
    Needs(Setting, &'a Reply),
}

/// The way down to one host.
#[derive(Debug)]
pub(in crate::delivery) struct Ladder {
    rung: Rung,
    /// Whether mail may go in the clear where TLS fails.
    optional: bool,
    /// Where it began, and why each step since then failed.
    began: Rung,
    failed: Option<Reply>,
}

impl Ladder {
    /// For a route with this `tls`, to a host of which this is `known`.
    pub(in crate::delivery) fn new(tls: RouteTls, with_login: bool, known: Option<Setting>) -> Ladder {
        let optional = tls == RouteTls::Opportunistic && !with_login;
        let began = match (tls, known) {
            (RouteTls::Off, _) => Rung::Clear,
            (_, Some(Setting::NoPostQuantum)) => Rung::Tls(Hello::Classical),
            // What was learnt on a route that may go in the clear does not bind one that must not.
            (_, Some(Setting::Plaintext)) if optional => Rung::Clear,
            _ => Rung::Tls(Hello::Full),
        };
        Ladder { rung: began, optional, began, failed: None }
    }

    /// The step to take.
    pub(in crate::delivery) fn rung(&self) -> Rung {
        self.rung
    }

    /// Whether mail may go in the clear where TLS fails.
    pub(in crate::delivery) fn is_optional(&self) -> bool {
        self.optional
    }

    /// The handshake failed like this. False: that was the last step.
    pub(in crate::delivery) fn descend(&mut self, why: &Reply) -> bool {
        let next = match self.rung {
            Rung::Tls(Hello::Full) => Rung::Tls(Hello::Classical),
            Rung::Tls(Hello::Classical) if self.optional => Rung::Clear,
            _ => return false,
        };
        self.rung = next;
        self.failed = Some(why.clone());
        true
    }

    /// What is to be remembered of a host with which this was reached.
    pub(in crate::delivery) fn learnt<'a>(&'a self, reached: &'a Reached) -> Learnt<'a> {
        match (reached, &self.failed) {
            (Reached::Tls(Hello::Full), _) => Learnt::AllWell,
            (Reached::Tls(Hello::Classical), Some(why)) => Learnt::Needs(Setting::NoPostQuantum, why),
            (Reached::Clear, Some(why)) => Learnt::Needs(Setting::Plaintext, why),
            (Reached::Refused(why), _) => Learnt::Needs(Setting::Plaintext, why),
            (Reached::NotOffered, None) if self.began == Rung::Tls(Hello::Full) => Learnt::AllWell,
            _ => Learnt::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: Rung = Rung::Tls(Hello::Full);
    const CLASSICAL: Rung = Rung::Tls(Hello::Classical);

    fn why(text: &'static str) -> Reply {
        Reply::bare(451, text)
    }

    /// All steps that are taken where every handshake fails.
    fn steps(tls: RouteTls, with_login: bool, known: Option<Setting>) -> Vec<Rung> {
        let mut ladder = Ladder::new(tls, with_login, known);
        let mut steps = vec![ladder.rung()];
        while ladder.descend(&why("broken")) {
            steps.push(ladder.rung());
        }
        steps
    }

    #[test]
    fn the_clear_is_the_last_step_where_tls_is_optional_and_no_step_elsewhere() {
        use RouteTls::{Encrypt, Implicit, Off, Opportunistic, Verify};
        assert_eq!(steps(Opportunistic, false, None), [FULL, CLASSICAL, Rung::Clear]);
        assert_eq!(steps(Opportunistic, true, None), [FULL, CLASSICAL], "a password");
        for tls in [Encrypt, Verify, Implicit] {
            assert_eq!(steps(tls, false, None), [FULL, CLASSICAL], "{tls:?}");
        }
        assert_eq!(steps(Off, false, None), [Rung::Clear]);
    }

    #[test]
    fn what_is_known_shortens_the_way_but_never_leads_into_the_clear_where_tls_is_required() {
        use RouteTls::{Encrypt, Implicit, Off, Opportunistic, Verify};
        let (classical, clear) = (Some(Setting::NoPostQuantum), Some(Setting::Plaintext));
        assert_eq!(steps(Opportunistic, false, classical), [CLASSICAL, Rung::Clear]);
        assert_eq!(steps(Opportunistic, false, clear), [Rung::Clear]);
        assert_eq!(steps(Opportunistic, true, clear), [FULL, CLASSICAL], "a password");
        for tls in [Encrypt, Verify, Implicit] {
            assert_eq!(steps(tls, false, classical), [CLASSICAL], "{tls:?}");
            assert_eq!(steps(tls, false, clear), [FULL, CLASSICAL], "{tls:?}");
        }
        assert_eq!(steps(Off, false, classical), [Rung::Clear]);
    }

    #[test]
    fn what_is_remembered_is_the_step_that_worked_and_why_the_one_above_did_not() {
        let learnt = |known, failures: usize, reached: Reached| {
            let mut ladder = Ladder::new(RouteTls::Opportunistic, false, known);
            (0..failures).for_each(|_| assert!(ladder.descend(&why("broken"))));
            match ladder.learnt(&reached) {
                Learnt::Nothing => "nothing".to_owned(),
                Learnt::AllWell => "all well".to_owned(),
                Learnt::Needs(setting, why) => format!("{setting:?}: {why}"),
            }
        };
        let refused = || Reached::Refused(why("not now"));
        let (classical, clear) = (Some(Setting::NoPostQuantum), Some(Setting::Plaintext));
        for (known, failures, reached, expected) in [
            (None, 0, Reached::Tls(Hello::Full), "all well"),
            (None, 0, Reached::NotOffered, "all well"),
            (None, 0, refused(), "Plaintext: 451 not now"),
            (None, 1, Reached::Tls(Hello::Classical), "NoPostQuantum: 451 broken"),
            (None, 1, Reached::NotOffered, "nothing"),
            (None, 2, Reached::Clear, "Plaintext: 451 broken"),
            (classical, 0, Reached::Tls(Hello::Classical), "nothing"),
            (classical, 0, Reached::NotOffered, "nothing"),
            (classical, 0, refused(), "Plaintext: 451 not now"),
            (classical, 1, Reached::Clear, "Plaintext: 451 broken"),
            (clear, 0, Reached::Clear, "nothing"),
        ] {
            assert_eq!(
                learnt(known, failures, reached.clone()),
                expected,
                "{known:?} {failures} {reached:?}"
            );
        }
        let off = Ladder::new(RouteTls::Off, false, None);
        assert_eq!(off.learnt(&Reached::Clear), Learnt::Nothing);
    }
}
