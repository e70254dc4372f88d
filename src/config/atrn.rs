//! The domains whose mail waits for ATRN (RFC 2645): who may fetch it, and the name of its lane.
//!
//! They stand in the users file; whoever asks where mail waits (scheduler, `explain`) is handed them as they are
//! now. A domain that somebody fetches is never looked up, whatever `[[route]]` says of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What the names of such lanes begin with.
const ATRN_PREFIX: &str = "atrn:";

/// Domains in [`crate::mail::Domain`]'s form, each with the users who may fetch its mail.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AtrnDomains(BTreeMap<String, BTreeSet<String>>);

impl AtrnDomains {
    /// One more who may fetch the mail of `domain`.
    pub fn add(&mut self, domain: &str, user: &str) {
        self.0.entry(domain.to_owned()).or_default().insert(user.to_owned());
    }

    /// Mail for `domain` waits to be fetched.
    pub fn contains(&self, domain: &str) -> bool {
        self.0.contains_key(domain)
    }

    /// All domains.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// What a person is told of mail for `domain`: `waits for ATRN by customer`.
    pub fn notice(&self, domain: &str) -> String {
        let users: Vec<&str> = self.0.get(domain).into_iter().flatten().map(String::as_str).collect();
        format!("waits for ATRN by {}", users.join(", "))
    }
}

/// The lane of mail for `domain`, where it is fetched.
pub fn lane(domain: &str) -> Arc<str> {
    format!("{ATRN_PREFIX}{domain}").into()
}

/// The domain of such a lane; none for other lanes.
pub fn domain_of_lane(lane: &str) -> Option<&str> {
    lane.strip_prefix(ATRN_PREFIX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_domain_may_have_several_users_and_its_lane_leads_back_to_it() {
        let mut domains = AtrnDomains::default();
        for user in ["night", "day", "night"] {
            domains.add("a.example", user);
        }
        assert_eq!(domains.notice("a.example"), "waits for ATRN by day, night");
        assert!(domains.contains("a.example") && !domains.contains("b.a.example"));
        assert_eq!(domain_of_lane(&lane("a.example")), Some("a.example"));
        assert_eq!(domain_of_lane("route:*"), None);
    }
}
