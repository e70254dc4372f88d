//! What is suspended: rows of the table `suspensions`, and whether they mean a recipient.
//!
//! A suspension is no hold: nothing is written to the recipients that wait behind it. Whoever starts attempts asks
//! [`Suspensions`], which costs a few look-ups however many there are.

use std::collections::HashMap;
use std::fmt;

use serde::Serialize;

use crate::clock::STEP_SECS;
use crate::config::DomainPattern;
use crate::mail::Domain;

use super::rows::Due;

/// Suspensions in force at once; the table takes no more.
pub const SUSPENSIONS_MAX: usize = 1_000;

/// What a message can be suspended by, beside the domains of its recipients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submitted {
    /// `messages.user`.
    pub user: Option<String>,
    /// `messages.tag`.
    pub tag: Option<String>,
}

impl Submitted {
    /// None where there is neither.
    pub fn new(user: Option<String>, tag: Option<String>) -> Option<Submitted> {
        (user.is_some() || tag.is_some()).then_some(Submitted { user, tag })
    }
}

/// Whose mail is suspended. Ordered as a list shows it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Whose {
    /// That for a domain, as the column has it: `example.com`, `*.example.com` (those below it) or `*`.
    Domain(String),
    /// That of a user.
    User(String),
    /// That with a tag.
    Tag(String),
}

impl Whose {
    /// That for a domain; also `*.example.com` and `*`.
    ///
    /// # Errors
    /// It is no domain, in words.
    pub fn domain(text: &str) -> Result<Whose, String> {
        let (prefix, name) = match text.strip_prefix("*.") {
            Some(parent) => ("*.", parent),
            None if text == "*" => return Ok(Whose::Domain("*".to_owned())),
            None => ("", text),
        };
        let domain = Domain::parse(name).map_err(|error| error.to_string())?;
        Ok(Whose::Domain(format!("{prefix}{domain}")))
    }

    /// What the columns say; none where they say nothing that is known.
    pub fn from_words(kind: &str, value: &str) -> Option<Whose> {
        match kind {
            // Only as the relay writes it: of two rows for one domain each could end the other.
            "domain" => Whose::domain(value).ok().filter(|whose| whose.value() == value),
            "user" => Some(Whose::User(value.to_owned())),
            "tag" => Some(Whose::Tag(value.to_owned())),
            _ => None,
        }
        .filter(|_| !value.is_empty())
    }

    /// The column `kind`.
    pub fn kind(&self) -> &'static str {
        match self {
            Whose::Domain(_) => "domain",
            Whose::User(_) => "user",
            Whose::Tag(_) => "tag",
        }
    }

    /// The column `value`.
    pub fn value(&self) -> &str {
        let (Whose::Domain(value) | Whose::User(value) | Whose::Tag(value)) = self;
        value
    }

    fn pattern(&self) -> Option<DomainPattern> {
        let Whose::Domain(value) = self else { return None };
        Some(match value.strip_prefix("*.") {
            Some(parent) => DomainPattern::Below(parent.to_owned()),
            None if value == "*" => DomainPattern::Any,
            None => DomainPattern::Exactly(value.clone()),
        })
    }

    /// Whether mail for this domain, of this user or with this tag is meant.
    pub fn covers(&self, domain: &str, user: Option<&str>, tag: Option<&str>) -> bool {
        match self {
            Whose::Domain(_) => self.pattern().is_some_and(|pattern| pattern.matches(domain)),
            Whose::User(name) => user == Some(name),
            Whose::Tag(name) => tag == Some(name),
        }
    }
}

/// `domain example.com`.
impl fmt::Display for Whose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind(), self.value())
    }
}

/// A row of `suspensions`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suspension {
    /// The columns `kind` and `value`.
    pub whose: Whose,
    /// Unix seconds.
    pub since: i64,
    /// Unix seconds; none: until somebody resumes it.
    pub until: Option<i64>,
    /// Why.
    pub reason: Option<String>,
    /// Who did it.
    pub login: String,
}

impl Suspension {
    /// As it is at `now`. One that was made by a clock that was ahead lasts as long as it was to last.
    pub fn seen_at(mut self, now: i64) -> Suspension {
        let ahead = self.since.saturating_sub(now);
        if ahead > STEP_SECS {
            self.since = now;
            self.until = self.until.map(|until| until.saturating_sub(ahead));
        }
        self
    }

    /// Whether it still counts.
    pub fn is_on(&self, now: i64) -> bool {
        self.until.is_none_or(|until| until > now)
    }
}

/// Those that count now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Suspensions {
    rows: HashMap<Whose, Suspension>,
    /// When the first of them is over.
    next_end: Option<i64>,
}

impl Suspensions {
    /// Those of these rows that count now.
    pub fn on(rows: Vec<Suspension>, now: i64) -> Suspensions {
        let rows = rows.into_iter().filter(|row| row.is_on(now)).take(SUSPENSIONS_MAX);
        let rows: HashMap<Whose, Suspension> = rows.map(|row| (row.whose.clone(), row)).collect();
        let next_end = rows.values().filter_map(|row| row.until).min();
        Suspensions { rows, next_end }
    }

    /// Whether one of them is over.
    pub fn has_ended(&self, now: i64) -> bool {
        self.next_end.is_some_and(|end| end <= now)
    }

    /// Those of `self` that are not in `other` as they are here, in their order.
    pub fn not_in(&self, other: &Suspensions) -> Vec<Suspension> {
        let is_other = |row: &&Suspension| other.rows.get(&row.whose) != Some(row);
        let mut rows: Vec<Suspension> = self.rows.values().filter(is_other).cloned().collect();
        rows.sort_by(|one, other| one.whose.cmp(&other.whose));
        rows
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Whether this is suspended, for whatever reason.
    pub fn has(&self, whose: &Whose) -> bool {
        self.rows.contains_key(whose)
    }

    /// Those that mean all mail for the domain.
    fn of_domain(&self, domain: &str) -> impl Iterator<Item = &Suspension> {
        let below = domain.match_indices('.').map(|(at, _)| format!("*{}", &domain[at..]));
        below
            .chain([domain.to_owned(), "*".to_owned()])
            .filter_map(|name| self.rows.get(&Whose::Domain(name)))
    }

    /// Those that mean mail for the domain, of this user, with this tag.
    pub fn that_cover(
        &self,
        domain: &str,
        user: Option<&str>,
        tag: Option<&str>,
    ) -> impl Iterator<Item = &Suspension> {
        let by = |name: Option<&str>, whose: fn(String) -> Whose| {
            name.and_then(|name| self.rows.get(&whose(name.to_owned())))
        };
        by(user, Whose::User).into_iter().chain(by(tag, Whose::Tag)).chain(self.of_domain(domain))
    }

    /// Whether all mail for the domain is suspended.
    pub fn cover_domain(&self, domain: &str) -> bool {
        !self.is_empty() && self.of_domain(domain).next().is_some()
    }

    /// Whether this recipient waits behind one of them.
    pub fn cover(&self, due: &Due) -> bool {
        if self.is_empty() {
            return false;
        }
        let by = due.submitted.as_deref();
        let (user, tag) = (by.and_then(|by| by.user.as_deref()), by.and_then(|by| by.tag.as_deref()));
        self.that_cover(due.domain.as_str(), user, tag).next().is_some()
    }
}

/// A row of `suspensions`, for people.
#[derive(Debug, Clone, Serialize)]
pub struct SuspensionLine {
    /// `domain`, `user` or `tag`.
    pub kind: &'static str,
    /// Which.
    pub value: String,
    /// UTC.
    pub since: Option<String>,
    /// UTC; none: until somebody resumes it.
    pub until: Option<String>,
    /// Why.
    pub reason: Option<String>,
    /// Who did it.
    pub login: String,
    /// How many recipients wait behind it.
    pub recipients: i64,
    /// When the first of these is past its lifetime and goes back to its sender, UTC.
    pub expires: Option<String>,
}

/// A suspension that a recipient waits behind.
#[derive(Debug, Clone, Serialize)]
pub struct SuspendedBy {
    /// `domain`, `user` or `tag`.
    pub kind: String,
    /// Which.
    pub value: String,
    /// UTC; none: until somebody resumes it.
    pub until: Option<String>,
    /// Why.
    pub reason: Option<String>,
    /// Who did it.
    pub login: String,
}

impl SuspendedBy {
    /// For people: `tag bulk until … by ann: wrong text`.
    pub fn words(&self) -> String {
        let SuspendedBy { kind, value, until, .. } = self;
        let until = until.as_ref().map_or_else(|| "resumed".to_owned(), |until| format!("{until} UTC"));
        format!("{kind} {value} until {until}{}", by_and_why(&self.login, self.reason.as_deref()))
    }
}

/// ` by ann: wrong text`, as far as it is known.
pub fn by_and_why(login: &str, reason: Option<&str>) -> String {
    let by = if login.is_empty() { String::new() } else { format!(" by {login}") };
    by + &reason.map_or_else(String::new, |reason| format!(": {reason}"))
}

impl From<&SuspensionLine> for SuspendedBy {
    fn from(line: &SuspensionLine) -> SuspendedBy {
        let SuspensionLine { kind, value, until, reason, login, .. } = line.clone();
        SuspendedBy { kind: kind.to_owned(), value, until, reason, login }
    }
}

/// What came of suspending something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Suspended {
    /// How many recipients wait behind it.
    pub recipients: i64,
    /// When the first of these is past its lifetime, Unix seconds.
    pub expires_at: Option<i64>,
    /// The same was suspended before; this took its place.
    pub replaced: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(whose: Whose, until: Option<i64>) -> Suspension {
        Suspension { whose, since: 1, until, reason: None, login: String::new() }
    }

    fn by(user: &str, tag: &str) -> Submitted {
        let name = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        Submitted { user: name(user), tag: name(tag) }
    }

    #[test]
    fn a_domain_is_meant_with_what_is_below_it_where_the_pattern_says_so() {
        let cases: [(&str, &[&str], &[&str]); 4] = [
            ("example.com", &["example.com"], &["a.example.com", "example.org", "xample.com"]),
            ("*.example.com", &["a.example.com", "b.a.example.com"], &["example.com", "notexample.com"]),
            ("*", &["example.com", "com"], &[]),
            ("Bücher.Example", &["xn--bcher-kva.example"], &["example"]),
        ];
        for (pattern, meant, others) in cases {
            let whose = Whose::domain(pattern).unwrap();
            let suspensions = Suspensions::on(vec![row(whose.clone(), None)], 5);
            for (domains, is_meant) in [(meant, true), (others, false)] {
                for domain in domains {
                    assert_eq!(suspensions.cover_domain(domain), is_meant, "{pattern} {domain}");
                    assert_eq!(whose.covers(domain, None, None), is_meant, "{pattern} {domain}");
                }
            }
        }
        for bad in ["", "a b", "*.", "a.*", "*a.test"] {
            assert!(Whose::domain(bad).is_err(), "{bad:?}");
        }
        for (written, is_read) in [
            ("[IPv6:2001:db8::1]", true),
            ("[192.0.2.1]", true),
            ("*.a.test", true),
            ("[ipv6:2001:db8::1]", false),
            ("a.test.", false),
            ("A.test", false),
        ] {
            assert_eq!(Whose::from_words("domain", written).is_some(), is_read, "{written}");
        }
    }

    #[test]
    fn a_user_and_a_tag_are_meant_as_they_are_written() {
        let rows = vec![row(Whose::User("app".to_owned()), None), row(Whose::Tag("bulk".to_owned()), None)];
        let suspensions = Suspensions::on(rows, 5);
        for (submitted, wanted) in [
            (by("app", ""), 1),
            (by("other", "bulk"), 1),
            (by("app", "bulk"), 2),
            (by("bulk", "app"), 0),
            (by("App", "Bulk"), 0),
        ] {
            let (user, tag) = (submitted.user.as_deref(), submitted.tag.as_deref());
            assert_eq!(suspensions.that_cover("a.test", user, tag).count(), wanted, "{submitted:?}");
        }
        assert!(suspensions.that_cover("app", None, None).next().is_none());
        assert!(!suspensions.cover_domain("bulk"));
        assert!(Whose::from_words("user", "").is_none() && Whose::from_words("lane", "a").is_none());
    }

    #[test]
    fn one_made_by_a_clock_that_was_ahead_lasts_as_long_as_it_was_to_last() {
        let made = |since, until| Suspension { since, ..row(Whose::Tag("x".to_owned()), until) };
        assert_eq!(made(9_000, Some(16_200)).seen_at(1_000), made(1_000, Some(8_200)));
        assert_eq!(made(9_000, None).seen_at(1_000), made(1_000, None));
        assert_eq!(made(1_060, Some(8_000)).seen_at(1_000), made(1_060, Some(8_000)));
    }

    #[test]
    fn one_that_is_over_counts_no_more_and_no_more_than_the_bound_do() {
        let (app, bulk) = (Whose::User("app".to_owned()), Whose::Tag("bulk".to_owned()));
        let rows = vec![row(app.clone(), Some(10)), row(bulk.clone(), None)];
        let at_5 = Suspensions::on(rows.clone(), 5);
        assert!(at_5.has(&app) && !at_5.has_ended(9) && at_5.has_ended(10));
        let at_10 = Suspensions::on(rows, 10);
        assert!(!at_10.has(&app) && at_10.has(&bulk) && !at_10.has_ended(i64::MAX));
        assert_eq!(at_5.not_in(&at_10), [row(app.clone(), Some(10))]);
        // Another end of the same is something else.
        let later = Suspensions::on(vec![row(app.clone(), Some(20))], 5);
        assert_eq!(later.not_in(&at_5), [row(app, Some(20))]);
        let many = (0..=SUSPENSIONS_MAX).map(|n| row(Whose::User(n.to_string()), None)).collect();
        let many = Suspensions::on(many, 5);
        assert!(many.has(&Whose::User("0".to_owned())));
        assert!(!many.has(&Whose::User(SUSPENSIONS_MAX.to_string())));
    }
}
