//! Whether what we sign, and the envelope sender, count for DMARC: each domain is to be that of From, or of the same
//! organisation where the record is not strict about it (RFC 7489 §3.1.1, §3.1.2). One of the two is enough; forwarding
//! breaks the second. Where DNS does not say which organisation a domain is of nothing is proposed.

use super::super::finding::txt_line;
use super::super::{Finding, Level};
use super::dmarc::{Holds, Organisation, Policy};

const ABOUT: &str = "alignment";

/// By domain: of From, of the key and of the envelope sender. One that is not known is not there.
pub(super) type Organisations = [(String, Organisation)];

/// How a domain stands to that of From.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Relation {
    Itself,
    SameOrganisation,
    /// The record asks for more than that it is of the same organisation.
    TooFar,
    /// One of them is above the other, and no record says to receivers without a list of public suffixes that it is the
    /// same organisation. This one has none.
    ByListAlone(String),
    Other,
    Unknown(&'static str),
}

impl Relation {
    fn counts(&self) -> bool {
        matches!(self, Relation::Itself | Relation::SameOrganisation | Relation::ByListAlone(_))
    }
}

fn is_at_or_below(name: &str, parent: &str) -> bool {
    name.strip_suffix(parent).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// Labels that are the same at their ends.
fn common_labels(one: &str, other: &str) -> usize {
    one.rsplit('.').zip(other.rsplit('.')).take_while(|(one, other)| one == other).count()
}

fn relation(domain: &str, other: &str, known: (&Holds, &Organisations), strict: bool) -> Relation {
    let (holds, organisations) = known;
    if other == domain {
        return Relation::Itself;
    }
    // Nobody's organisation is a top domain.
    if common_labels(domain, other) < 2 {
        return Relation::Other;
    }
    let of = |domain: &str| organisations.iter().find(|(of, _)| of == domain).map(|(_, found)| found);
    let (Some(own), Some(its)) = (of(domain), of(other)) else {
        return Relation::Unknown("the DMARC records cannot be looked up");
    };
    let upper = if is_at_or_below(domain, other) { other } else { domain };
    let is_above = is_at_or_below(domain, upper) && is_at_or_below(other, upper);
    match holds {
        Holds::Unknown => Relation::Unknown("the DMARC record cannot be had or read"),
        Holds::Policy(_) if own.name == its.name && strict => Relation::TooFar,
        _ if own.name == its.name => Relation::SameOrganisation,
        _ if own.is_said || its.is_said => Relation::Other,
        Holds::Policy(_) if is_above && strict => Relation::TooFar,
        Holds::Policy(_) if is_above => Relation::ByListAlone(upper.to_owned()),
        Holds::Nothing if is_above => Relation::SameOrganisation,
        _ => Relation::Unknown("no DMARC record above both says that they are of one organisation"),
    }
}

/// `signer` is the domain whose keys sign, `sender` that of the envelope sender; `known` what holds for `domain`, and
/// the organisations of all three.
pub(super) fn judge(
    domain: &str,
    signer: Option<&str>,
    sender: &str,
    known: (&Holds, &Organisations),
) -> Vec<Finding> {
    let policy = match known.0 {
        Holds::Policy(policy) => Some(policy),
        Holds::Nothing | Holds::Unknown => None,
    };
    let strict = |of: fn(&Policy) -> bool| policy.is_some_and(of);
    let (strict_dkim, strict_spf) = (strict(|policy| policy.strict_dkim), strict(|policy| policy.strict_spf));
    let by_dkim = signer.map(|signer| (signer, relation(domain, signer, known, strict_dkim)));
    let by_spf = relation(domain, sender, known, strict_spf);
    let enforced = policy.is_some_and(|policy| policy.action != "none");
    let bad = if enforced { Level::Problem } else { Level::Warning };
    let dkim_counts = by_dkim.as_ref().is_some_and(|(_, relation)| relation.counts());
    let signature = by_dkim.map(|(signer, relation)| {
        let rest = match &by_spf {
            Relation::Unknown(_) => "whether the envelope sender does is not known",
            by_spf if by_spf.counts() => "only SPF does then, and forwarding breaks it",
            _ => "nor does the envelope sender",
        };
        of_signature(domain, signer, &relation, bad, (rest, policy))
    });
    let envelope = (sender != domain).then(|| {
        let level = if dkim_counts { Level::Warning } else { bad };
        of_envelope(domain, sender, &by_spf, strict_spf, level, policy)
    });
    signature.into_iter().chain(envelope).collect()
}

/// It counts for some receivers, and with a record of the domain above for all.
fn by_list_alone(what: &str, above: &str) -> Finding {
    let text = format!(
        "{what}: it counts for receivers with a list of public suffixes alone (RFC 7489), since {above} has no DMARC \
         record; with one it does for all (RFC 9989 §4.10.2)"
    );
    Finding::warning(ABOUT, text).add(txt_line(&format!("_dmarc.{above}"), "v=DMARC1; p=none"))
}

fn of_signature(
    domain: &str,
    signer: &str,
    relation: &Relation,
    bad: Level,
    (rest, policy): (&str, Option<&Policy>),
) -> Finding {
    let signed = format!("mail of {domain} is signed by {signer}");
    let why = match relation {
        Relation::Itself => {
            return Finding::ok(ABOUT, format!("{domain} signs its own mail: it counts (DKIM)"));
        }
        Relation::SameOrganisation => {
            let text = format!("{signed}, which is of the same organisation: it counts");
            return Finding::ok(ABOUT, text);
        }
        Relation::ByListAlone(above) => return by_list_alone(&signed, above),
        Relation::Unknown(why) => {
            return Finding::warning(ABOUT, format!("{signed}; whether that counts is not known: {why}"));
        }
        Relation::TooFar => "the DMARC record says adkim=s",
        Relation::Other => "it is another organisation",
    };
    let text = format!(
        "{signed}, which does not count for DMARC: {why}; {rest}; give {domain} a key: `postrider dkim new {domain}`"
    );
    let finding = Finding::new(bad, ABOUT, text);
    match policy.filter(|_| *relation == Relation::TooFar) {
        Some(policy) => policy.relaxed("adkim", finding),
        None => finding,
    }
}

fn of_envelope(
    domain: &str,
    sender: &str,
    relation: &Relation,
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
        Relation::ByListAlone(above) => {
            return by_list_alone(&format!("the envelope sender of mail of {domain} is of {sender}"), above);
        }
        Relation::Unknown(why) => {
            let text = format!(
                "the envelope sender is of {sender}; whether SPF counts for DMARC of {domain} is not known: {why}"
            );
            return Finding::warning(ABOUT, text);
        }
        Relation::TooFar => "the DMARC record says aspf=s (strict)",
        Relation::Other => "it is another organisation",
    };
    let text = format!(
        "the envelope sender is of {sender}, so SPF does not count for DMARC of {domain}: {why}; send with an envelope \
         sender of {domain}"
    );
    let finding = Finding::new(bad, ABOUT, text);
    match policy.filter(|_| *relation == Relation::TooFar) {
        Some(policy) => policy.relaxed("aspf", finding),
        None => finding,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(action: &'static str, strict: bool) -> Holds {
        let text = "v=DMARC1; p=none; adkim=s; aspf=s; rua=mailto:a@example.com".to_owned();
        let owner = "example.com".to_owned();
        Holds::Policy(Policy { owner, action, strict_dkim: strict, strict_spf: strict, text })
    }

    /// Of each domain that of the top two labels, as records there say.
    fn organisations(domains: &[&str]) -> Vec<(String, Organisation)> {
        let top = |domain: &str| {
            let dot = domain.rmatch_indices('.').nth(1).map_or(0, |(at, _)| at + 1);
            Organisation { name: domain[dot..].to_owned(), is_said: false }
        };
        domains.iter().map(|domain| ((*domain).to_owned(), top(domain))).collect()
    }

    #[test]
    fn who_signs_for_whom() {
        let (relaxed, strict) = (policy("none", false), policy("reject", true));
        for (domain, signer, holds, level) in [
            ("example.com", "example.com", &Holds::Nothing, Level::Ok),
            ("example.com", "example.com", &Holds::Unknown, Level::Ok),
            ("example.com", "example.com", &strict, Level::Ok),
            ("news.example.com", "example.com", &relaxed, Level::Ok),
            ("news.example.com", "example.com", &strict, Level::Problem),
            ("news.example.com", "example.com", &Holds::Unknown, Level::Warning),
            ("news.example.com", "shop.example.com", &relaxed, Level::Ok),
            ("example.com", "badexample.com", &relaxed, Level::Warning),
            ("example.com", "other.test", &strict, Level::Problem),
        ] {
            let found = judge(domain, Some(signer), domain, (holds, &organisations(&[domain, signer])));
            assert_eq!((found.len(), found[0].level), (1, level), "{domain} by {signer}");
        }
    }

    #[test]
    fn nothing_is_proposed_where_the_organisation_is_not_known() {
        let reject = policy("reject", false);
        let alone = |domain: &str| Organisation { name: domain.to_owned(), is_said: false };
        let (news, shop, top) = ("news.example.com", "shop.example.com", "example.com");
        let none = Vec::new();
        let apart: Vec<(String, Organisation)> =
            [news, shop, top].into_iter().map(|name| (name.to_owned(), alone(name))).collect();
        let mut said = apart.clone();
        said[0].1.is_said = true;
        for (signer, holds, organisations, level, words) in [
            (shop, &reject, &none, Level::Warning, "is not known: the DMARC records cannot be looked up"),
            (top, &Holds::Unknown, &apart, Level::Warning, "is not known: the DMARC record cannot be had"),
            (shop, &reject, &apart, Level::Warning, "is not known: no DMARC record above both"),
            (shop, &Holds::Nothing, &apart, Level::Warning, "is not known: no DMARC record above both"),
            (top, &Holds::Nothing, &apart, Level::Ok, "same organisation"),
            (top, &reject, &apart, Level::Warning, "since example.com has no DMARC record"),
            (top, &reject, &said, Level::Problem, "it is another organisation"),
            ("other.test", &Holds::Unknown, &none, Level::Warning, "it is another organisation"),
        ] {
            let found = judge(news, Some(signer), news, (holds, organisations));
            assert_eq!((found.len(), found[0].level), (1, level), "{found:?}");
            assert!(found[0].text.contains(words), "{words}: {found:?}");
            let lines: &[&str] = match words.contains("since") {
                true => &[r#"_dmarc.example.com. IN TXT "v=DMARC1; p=none""#],
                false => &[],
            };
            assert_eq!(found[0].add, lines);
            assert_eq!(found[0].remove.len(), 0);
            let says_key = found[0].text.contains("`postrider dkim new");
            assert_eq!(says_key, words.contains("another"), "{found:?}");
        }
    }

    #[test]
    fn another_envelope_sender_counts_or_what_makes_it_count_is_told() {
        let (relaxed, strict) = (policy("none", false), policy("reject", true));
        for (sender, signer, policy, level, words) in [
            ("bounce.example.com", None, &relaxed, Level::Ok, "SPF counts (relaxed)"),
            ("bounce.example.com", None, &Holds::Nothing, Level::Ok, "SPF counts (relaxed)"),
            ("bounce.example.com", None, &strict, Level::Problem, "aspf=s (strict)"),
            ("bounce.example.com", Some("example.com"), &strict, Level::Warning, "aspf=s (strict)"),
            ("provider.test", Some("example.com"), &relaxed, Level::Warning, "another organisation"),
            ("provider.test", Some("provider.test"), &strict, Level::Problem, "another organisation"),
            ("provider.test", None, &strict, Level::Problem, "another organisation"),
        ] {
            let known = organisations(&["example.com", sender, "provider.test"]);
            let found = judge("example.com", signer, sender, (policy, &known));
            let last = found.last().unwrap();
            assert_eq!((last.level, found.len()), (level, 1 + usize::from(signer.is_some())), "{found:?}");
            assert!(last.text.contains(words), "{last:?}");
            let line = r#"_dmarc.example.com. IN TXT "v=DMARC1; p=none; adkim=s; rua=mailto:a@example.com""#;
            let lines: &[&str] = if words.contains("aspf=s") { &[line] } else { &[] };
            assert_eq!(last.add, lines);
        }
        let known = organisations(&["example.com", "provider.test"]);
        let found = judge("example.com", Some("provider.test"), "provider.test", (&strict, &known));
        assert!(found[0].text.contains("nor does the envelope sender"), "{found:?}");
    }
}
