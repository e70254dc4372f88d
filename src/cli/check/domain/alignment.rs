//! Whether what we sign, and the envelope sender, count for DMARC: each domain is to be that of From, or of the same
//! organisation where the record is not strict about it (RFC 7489 §3.1.1, §3.1.2). One of the two is enough; forwarding
//! breaks the second.

use super::super::{Finding, Level};
use super::dmarc::Policy;

const ABOUT: &str = "alignment";

/// How a domain stands to that of From.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Relation {
    Itself,
    SameOrganisation,
    /// It would be of the same organisation, and the record asks for more.
    TooFar,
    Other,
}

impl Relation {
    fn counts(self) -> bool {
        matches!(self, Relation::Itself | Relation::SameOrganisation)
    }
}

fn relation(domain: &str, other: &str, policy: Option<&Policy>, strict: bool) -> Relation {
    let below = |name: &str, parent: &str| {
        name.strip_suffix(parent).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    // Without a record nothing says how far the organisation goes.
    let owner = policy.map(|policy| policy.owner.as_str());
    let same = below(domain, other)
        || below(other, domain)
        || owner.is_some_and(|owner| below(other, owner) && below(domain, owner));
    match (other == domain, same, strict) {
        (true, ..) => Relation::Itself,
        (false, true, false) => Relation::SameOrganisation,
        (false, true, true) => Relation::TooFar,
        (false, false, _) => Relation::Other,
    }
}

/// `signer` is the domain whose keys sign, `sender` that of the envelope sender, `policy` what holds for `domain`, as
/// far as that is known.
pub(super) fn judge(
    domain: &str,
    signer: Option<&str>,
    sender: &str,
    policy: Option<&Policy>,
) -> Vec<Finding> {
    let strict = |of: fn(&Policy) -> bool| policy.is_some_and(of);
    let (strict_dkim, strict_spf) = (strict(|policy| policy.strict_dkim), strict(|policy| policy.strict_spf));
    let by_dkim = signer.map(|signer| (signer, relation(domain, signer, policy, strict_dkim)));
    let by_spf = relation(domain, sender, policy, strict_spf);
    let enforced = policy.is_some_and(|policy| policy.action != "none");
    let bad = if enforced { Level::Problem } else { Level::Warning };
    let signature = by_dkim.map(|(signer, relation)| {
        let rest = if by_spf.counts() {
            "only SPF does then, and forwarding breaks it"
        } else {
            "nor does the envelope sender"
        };
        of_signature(domain, signer, relation, bad, (rest, policy))
    });
    let dkim_counts = by_dkim.is_some_and(|(_, relation)| relation.counts());
    let envelope = (sender != domain).then(|| {
        let level = if dkim_counts { Level::Warning } else { bad };
        of_envelope(domain, sender, by_spf, strict_spf, level, policy)
    });
    signature.into_iter().chain(envelope).collect()
}

fn of_signature(
    domain: &str,
    signer: &str,
    relation: Relation,
    bad: Level,
    (rest, policy): (&str, Option<&Policy>),
) -> Finding {
    let why = match relation {
        Relation::Itself => {
            return Finding::ok(ABOUT, format!("{domain} signs its own mail: it counts (DKIM)"));
        }
        Relation::SameOrganisation => {
            let text = format!(
                "mail of {domain} is signed by {signer}, which is of the same organisation: it counts"
            );
            return Finding::ok(ABOUT, text);
        }
        Relation::TooFar => "the DMARC record says adkim=s",
        Relation::Other => "it is another organisation",
    };
    let text = format!(
        "mail of {domain} is signed by {signer}, which does not count for DMARC: {why}; {rest}; give {domain} a key: \
         `postrider dkim new {domain}`"
    );
    let finding = Finding::new(bad, ABOUT, text);
    match policy.filter(|_| relation == Relation::TooFar) {
        Some(policy) => policy.relaxed("adkim", finding),
        None => finding,
    }
}

fn of_envelope(
    domain: &str,
    sender: &str,
    relation: Relation,
    strict: bool,
    bad: Level,
    policy: Option<&Policy>,
) -> Finding {
    let how = if strict { "strict, aspf=s" } else { "relaxed" };
    let why = match relation {
        Relation::Itself | Relation::SameOrganisation => {
            let text = format!(
                "the envelope sender is of {sender}, the same organisation as {domain}: SPF counts ({how})"
            );
            return Finding::ok(ABOUT, text);
        }
        Relation::TooFar => "the DMARC record says aspf=s (strict)",
        Relation::Other => "it is another organisation",
    };
    let text = format!(
        "the envelope sender is of {sender}, so SPF does not count for DMARC of {domain}: {why}; send with an envelope \
         sender of {domain}"
    );
    let finding = Finding::new(bad, ABOUT, text);
    match policy.filter(|_| relation == Relation::TooFar) {
        Some(policy) => policy.relaxed("aspf", finding),
        None => finding,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(owner: &str, action: &'static str, strict: bool) -> Policy {
        let text = "v=DMARC1; p=none; adkim=s; aspf=s; rua=mailto:a@example.com".to_owned();
        Policy { owner: owner.to_owned(), action, strict_dkim: strict, strict_spf: strict, text }
    }

    #[test]
    fn who_signs_for_whom() {
        let relaxed = policy("example.com", "none", false);
        let strict = policy("example.com", "reject", true);
        for (domain, signer, policy, level) in [
            ("example.com", "example.com", None, Level::Ok),
            ("example.com", "example.com", Some(&strict), Level::Ok),
            ("news.example.com", "example.com", None, Level::Ok),
            ("news.example.com", "example.com", Some(&relaxed), Level::Ok),
            ("news.example.com", "example.com", Some(&strict), Level::Problem),
            ("news.example.com", "shop.example.com", Some(&relaxed), Level::Ok),
            ("news.example.com", "shop.example.com", None, Level::Warning),
            ("example.com", "badexample.com", Some(&relaxed), Level::Warning),
            ("example.com", "other.test", Some(&strict), Level::Problem),
        ] {
            let found = judge(domain, Some(signer), domain, policy);
            assert_eq!((found.len(), found[0].level), (1, level), "{domain} by {signer}");
        }
    }

    #[test]
    fn another_envelope_sender_counts_or_what_makes_it_count_is_told() {
        let relaxed = policy("example.com", "none", false);
        let strict = policy("example.com", "reject", true);
        for (sender, signer, policy, level, words) in [
            ("bounce.example.com", None, Some(&relaxed), Level::Ok, "SPF counts (relaxed)"),
            ("bounce.example.com", None, None, Level::Ok, "SPF counts (relaxed)"),
            ("bounce.example.com", None, Some(&strict), Level::Problem, "aspf=s (strict)"),
            ("bounce.example.com", Some("example.com"), Some(&strict), Level::Warning, "aspf=s (strict)"),
            ("provider.test", Some("example.com"), Some(&relaxed), Level::Warning, "another organisation"),
            ("provider.test", Some("provider.test"), Some(&strict), Level::Problem, "another organisation"),
            ("provider.test", None, Some(&strict), Level::Problem, "another organisation"),
        ] {
            let found = judge("example.com", signer, sender, policy);
            let last = found.last().unwrap();
            assert_eq!((last.level, found.len()), (level, 1 + usize::from(signer.is_some())), "{found:?}");
            assert!(last.text.contains(words), "{last:?}");
            let line = r#"_dmarc.example.com. IN TXT "v=DMARC1; p=none; adkim=s; rua=mailto:a@example.com""#;
            let lines: &[&str] = if words.contains("aspf=s") { &[line] } else { &[] };
            assert_eq!(last.add, lines);
        }
        let found = judge("example.com", Some("provider.test"), "provider.test", Some(&strict));
        assert!(found[0].text.contains("nor does the envelope sender"), "{found:?}");
    }
}
