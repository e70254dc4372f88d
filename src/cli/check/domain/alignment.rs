//! Whether what we sign counts for DMARC: the domain that signs is to be that of From, or of the same organisation
//! where the record is not strict (RFC 7489 §3.1.1). SPF counts where the envelope sender is of the same domain, as it
//! is taken to be here.

use super::super::{Finding, Level};
use super::dmarc::Policy;

const ABOUT: &str = "alignment";

/// `policy` is what holds for the domain, as far as that is known.
pub(super) fn judge(domain: &str, signer: &str, policy: Option<&Policy>) -> Finding {
    let strict = policy.is_some_and(|policy| policy.strict_dkim);
    if signer == domain {
        return Finding::ok(
            ABOUT,
            format!("{domain} signs its own mail, and its envelope sender counts too (SPF)"),
        );
    }
    let below = |name: &str, parent: &str| {
        name.strip_suffix(parent).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    // Without a record nothing says how far the organisation goes.
    let organisation = policy.map(|policy| policy.owner.as_str());
    let same = below(domain, signer)
        || organisation.is_some_and(|owner| below(signer, owner) && below(domain, owner));
    if same && !strict {
        let text =
            format!("mail of {domain} is signed by {signer}, which is of the same organisation: it counts");
        return Finding::ok(ABOUT, text);
    }
    let why = if same { "the DMARC record says adkim=s" } else { "it is another organisation" };
    let text = format!(
        "mail of {domain} is signed by {signer}, which does not count for DMARC: {why}; only SPF does then, and \
         forwarding breaks it; give {domain} a key: `postrider dkim new {domain}`"
    );
    let enforced = policy.is_some_and(|policy| policy.action != "none");
    Finding::new(if enforced { Level::Problem } else { Level::Warning }, ABOUT, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_signs_for_whom() {
        let policy =
            |owner: &str, action, strict_dkim| Policy { owner: owner.to_owned(), action, strict_dkim };
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
            assert_eq!(judge(domain, signer, policy).level, level, "{domain} by {signer}");
        }
    }
}
