//! `[[retry.rule]]`: what the operator knows better than the table of answers (pure).
//!
//! A rule sees what failed for one recipient: whose domain, and what was said. The first that fits says how
//! long to wait, or that the recipient is held or bounced. One that names nothing but a domain leaves permanent
//! failures alone: "try example.com every ten minutes" is not meant for addresses that do not exist there.

use crate::config::{RetryRule, RuleAction};
use crate::mail::{Domain, Reply};

/// The first rule that fits, counted from 1 as a person does, and what it wants. `permanent`: it would bounce.
pub(in crate::delivery) fn first_match(
    rules: &[RetryRule],
    domain: &Domain,
    reply: &Reply,
    permanent: bool,
) -> Option<(usize, RuleAction)> {
    if rules.is_empty() {
        return None;
    }
    let text = reply.text.replace('\n', " ").to_lowercase();
    let fits = |rule: &RetryRule| {
        let names_words = rule.code.is_some() || rule.enhanced.is_some() || !rule.text.is_empty();
        (names_words || !permanent)
            && rule.domain.matches(domain.as_str())
            && rule.code.is_none_or(|code| fits_code(code, reply.code))
            && rule.enhanced.is_none_or(|pattern| fits_enhanced(pattern, reply))
            && fits_text(&rule.text, &text)
    };
    let at = rules.iter().position(fits)?;
    Some((at + 1, rules[at].action))
}

fn fits_code(pattern: [Option<u8>; 3], code: u16) -> bool {
    let digits = [code / 100, code / 10 % 10, code % 10];
    pattern.iter().zip(digits).all(|(wanted, digit)| wanted.is_none_or(|wanted| u16::from(wanted) == digit))
}

/// A reply without an enhanced code fits none, `x.x.x` included.
fn fits_enhanced(pattern: [Option<u16>; 3], reply: &Reply) -> bool {
    reply.enhanced.is_some_and(|enhanced| {
        let numbers = [u16::from(enhanced.0), enhanced.1, enhanced.2];
        pattern.iter().zip(numbers).all(|(wanted, number)| wanted.is_none_or(|wanted| wanted == number))
    })
}

/// Whether the pieces stand in the text, in their order. Both are in lower case.
fn fits_text(pieces: &[String], text: &str) -> bool {
    let mut rest = Some(text);
    for piece in pieces {
        rest = rest.and_then(|text| text.find(piece.as_str()).map(|at| &text[at + piece.len()..]));
    }
    rest.is_some()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::DomainPattern;
    use crate::mail::Enhanced;

    const ANY: RetryRule = RetryRule {
        domain: DomainPattern::Any,
        code: None,
        enhanced: None,
        text: Vec::new(),
        action: RuleAction::Hold,
    };

    fn text(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    fn greylisted() -> Reply {
        Reply::new(450, Enhanced(4, 7, 1), "Greylisted:\nplease try again in 300 Seconds").from_remote()
    }

    fn fits(rule: &RetryRule, reply: &Reply) -> bool {
        let domain = Domain::parse("mail.example.com").unwrap();
        first_match(std::slice::from_ref(rule), &domain, reply, reply.code >= 500).is_some()
    }

    #[test]
    fn a_rule_fits_where_everything_that_it_names_does() {
        let digits = |code: [u8; 3]| Some(code.map(Some));
        for (rule, wanted) in [
            (ANY, true),
            (RetryRule { domain: DomainPattern::Below("example.com".to_owned()), ..ANY }, true),
            (RetryRule { domain: DomainPattern::Exactly("example.com".to_owned()), ..ANY }, false),
            (RetryRule { code: digits([4, 5, 0]), ..ANY }, true),
            (RetryRule { code: Some([Some(4), None, None]), ..ANY }, true),
            (RetryRule { code: digits([4, 5, 1]), ..ANY }, false),
            (RetryRule { enhanced: Some([Some(4), Some(7), Some(1)]), ..ANY }, true),
            (RetryRule { enhanced: Some([None, Some(7), None]), ..ANY }, true),
            (RetryRule { enhanced: Some([Some(4), Some(7), Some(0)]), ..ANY }, false),
            (RetryRule { text: text(&["greylist"]), ..ANY }, true),
            // Over the end of a line, and in whatever case it was said.
            (RetryRule { text: text(&["listed: please", " seconds"]), ..ANY }, true),
            (RetryRule { text: text(&["seconds", "try again"]), ..ANY }, false),
            (RetryRule { text: text(&["seconds", "seconds"]), ..ANY }, false),
            (RetryRule { text: text(&["greylist"]), code: digits([4, 2, 1]), ..ANY }, false),
        ] {
            assert_eq!(fits(&rule, &greylisted()), wanted, "{rule:?}");
        }
        let bare = Reply::bare(450, "greylisted");
        assert!(
            !fits(&RetryRule { enhanced: Some([None, None, None]), ..ANY }, &bare),
            "it has no enhanced code"
        );
    }

    #[test]
    fn a_rule_that_names_only_a_domain_leaves_permanent_failures_alone() {
        let unknown = Reply::new(550, Enhanced(5, 1, 1), "no such user").from_remote();
        assert!(!fits(&ANY, &unknown));
        assert!(fits(&RetryRule { code: Some([Some(5), None, None]), ..ANY }, &unknown));
        assert!(fits(&RetryRule { text: text(&["no such"]), ..ANY }, &unknown));
        assert!(fits(&RetryRule { enhanced: Some([Some(5), Some(1), None]), ..ANY }, &unknown));
    }

    #[test]
    fn the_first_rule_that_fits_wins() {
        let wait = RuleAction::Retry(Duration::from_secs(600));
        let rules = [
            RetryRule { text: text(&["blocked"]), ..ANY },
            RetryRule { action: wait, ..ANY },
            RetryRule { action: RuleAction::Bounce, ..ANY },
        ];
        let domain = Domain::parse("example.com").unwrap();
        assert_eq!(first_match(&rules, &domain, &greylisted(), false), Some((2, wait)));
        assert_eq!(first_match(&[], &domain, &greylisted(), false), None);
    }
}
