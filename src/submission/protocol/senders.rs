//! Which addresses a user may send from (`user add --senders`, RFC 6409 §6.1). Pure.
//!
//! # Bugs
//! The envelope sender is what is held to this, not the From field of the content.

use crate::mail::{Address, Domain};

use crate::submission::users::User;

/// Whether `user` may send as `sender`: no patterns mean anybody, and the null sender
/// claims to be nobody. Domains are compared as DNS does, local parts without regard to ASCII
/// case, and nothing else is taken for equal: not a tag, not a look-alike of another script.
pub(in crate::submission) fn may_send_as(user: &User, sender: Option<&Address>) -> bool {
    let Some(sender) = sender else { return true };
    user.senders.is_empty()
        || user.senders.iter().any(|pattern| {
            let Some((local, domain)) = pattern.rsplit_once('@') else { return false };
            let same_domain = Domain::parse(domain).is_ok_and(|domain| domain == Domain::of(sender));
            same_domain && (local == "*" || local.eq_ignore_ascii_case(sender.user()))
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::address;

    fn user(senders: &[&str]) -> User {
        User { senders: senders.iter().map(|s| (*s).to_owned()).collect(), ..User::default() }
    }

    fn may(user: &User, sender: &str) -> bool {
        may_send_as(user, Some(&address::parse(sender).unwrap()))
    }

    #[test]
    fn case_makes_no_difference() {
        let app = user(&["App@example.com", "*@news.example"]);
        for sender in ["app@example.com", "APP@EXAMPLE.COM", "anybody@news.example", "x@NEWS.example."] {
            assert!(may(&app, sender), "{sender}");
        }
        assert!(!may(&user(&["straße@example.com"]), "STRASSE@example.com"), "folding is not equality");
        assert!(!may(&user(&["kim@example.com"]), "\u{212a}im@example.com"), "the Kelvin sign folds to k");
    }

    #[test]
    fn a_tag_makes_another_sender() {
        let app = user(&["app@example.com"]);
        for sender in ["app+tag@example.com", "app-tag@example.com", "app.@example.com", "a.pp@example.com"] {
            assert!(address::parse(sender).is_err() || !may(&app, sender), "{sender}");
        }
        assert!(!may(&user(&["app+tag@example.com"]), "app@example.com"));
        assert!(may(&user(&["app+tag@example.com"]), "app+tag@example.com"));
    }

    #[test]
    fn a_look_alike_is_another_sender() {
        let app = user(&["app@example.com", "*@shop.example", "é@example.com"]);
        for sender in [
            "\u{430}pp@example.com",   // Cyrillic а
            "\u{ff41}pp@example.com",  // full width
            "app\u{200b}@example.com", // zero width space
            "app@ex\u{430}mple.com",   // Cyrillic а in the domain
            "x@sh\u{3bf}p.example",    // Greek ο
            "e\u{301}@example.com",    // é decomposed
        ] {
            assert!(address::parse(sender).is_err() || !may(&app, sender), "{sender:?}");
        }
    }

    #[test]
    fn only_the_domain_itself_is_meant() {
        let app = user(&["app@example.com", "*@news.example", "*@xn--bcher-kva.example"]);
        for sender in [
            "app@example.com.evil.example",
            "app@sub.example.com",
            "x@sub.news.example",
            "x@newsexample",
            "\"*\"@example.com",
            "\"app@example.com\"@evil.example",
            "other@example.com",
        ] {
            assert!(!may(&app, sender), "{sender}");
        }
        assert!(may(&app, "x@bücher.example") && may(&app, "x@BÜCHER.example"));
    }

    #[test]
    fn no_patterns_are_no_limit_and_the_null_sender_is_nobody() {
        assert!(may(&user(&[]), "anybody@anywhere.example"));
        assert!(may_send_as(&user(&["app@example.com"]), None));
    }
}
