//! What is to be done before a message can go: by what is known of its domain's policy, and by what DNS says. Pure.
//!
//! RFC 8461 §5.1: a policy that is known holds until its time is over, whatever DNS and its server say meanwhile; a
//! new one takes its place only once it has been read. A domain without both goes without a policy.

/// Of a policy that is known and whose time is not over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownPolicy<'a> {
    /// The `id` by which it was found.
    pub id: &'a str,
    /// Seconds that it holds after it was fetched.
    pub max_age: i64,
    /// Unix seconds.
    pub fetched_at: i64,
}

impl KnownPolicy<'_> {
    /// Whether it is time to have it again, long before it ends (RFC 8461 §10.2 suggests once a day), or since a clock
    /// that was ahead wrote when that is.
    pub fn is_stale(&self, now: i64) -> bool {
        self.fetched_at > now || now >= self.fetched_at.saturating_add((self.max_age / 2).min(86_400))
    }
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// There is no policy.
    GoWithout,
    /// What is known holds.
    GoBy,
    /// What is known holds, and is to be fetched again meanwhile.
    GoByAndFetch,
    /// It is fetched before the mail goes.
    FetchFirst,
}

/// `id` is what DNS says now, where it says something; `was_tried`: a fetch ended a moment ago, well or not.
pub fn next_step(known: Option<KnownPolicy<'_>>, id: Option<&str>, was_tried: bool, now: i64) -> Step {
    match (known, id) {
        (None, None) => Step::GoWithout,
        (None, Some(_)) if was_tried => Step::GoWithout,
        (None, Some(_)) => Step::FetchFirst,
        (Some(_), _) if was_tried => Step::GoBy,
        (Some(known), Some(id)) if known.id != id => Step::FetchFirst,
        (Some(known), _) if known.is_stale(now) => Step::GoByAndFetch,
        (Some(_), _) => Step::GoBy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_policy_holds_and_a_new_one_is_fetched_first() {
        let known = Some(KnownPolicy { id: "1", max_age: 604_800, fetched_at: 1000 });
        let (fresh, stale) = (1000 + 86_399, 1000 + 86_400);
        for (known, id, was_tried, now, step) in [
            (None, None, false, fresh, Step::GoWithout),
            (None, None, true, fresh, Step::GoWithout),
            (None, Some("1"), false, fresh, Step::FetchFirst),
            (None, Some("1"), true, fresh, Step::GoWithout),
            (known, Some("1"), false, fresh, Step::GoBy),
            (known, Some("1"), false, stale, Step::GoByAndFetch),
            (known, Some("1"), true, stale, Step::GoBy),
            (known, None, false, fresh, Step::GoBy),
            (known, None, false, 999, Step::GoByAndFetch),
            (known, None, false, stale, Step::GoByAndFetch),
            (known, None, true, stale, Step::GoBy),
            (known, Some("2"), false, fresh, Step::FetchFirst),
            (known, Some("2"), true, fresh, Step::GoBy),
        ] {
            assert_eq!(next_step(known, id, was_tried, now), step, "{known:?} {id:?} {was_tried} {now}");
        }
        let short = KnownPolicy { id: "1", max_age: 100, fetched_at: 1000 };
        assert!(!short.is_stale(1049) && short.is_stale(1050));
    }
}
