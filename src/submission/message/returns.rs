//! Recognises a message that was here before: by the Received fields that this relay itself put in front of it. They
//! have our name and the id of a message that the queue knows, waiting or in its history: several relays may have one
//! name, and each has ids of its own. Pure.
//!
//! To come back is not wrong yet: a list, a forwarder or a mailbox with a redirect may use this relay for what it
//! sends on. What comes back for the recipient that it left for is in a circle, and so is what comes back over and
//! over. The limit of Received fields of all hosts together (`[limits] received_hops`) stays behind this.

use crate::mail::{Address, Domain};
use crate::queue::MessageId;

/// A list behind a forwarder may send a message through here twice more; what has been here three times is in a
/// circle.
const PASSES_MAX: usize = 3;

/// Whether the message with this header goes round through here, for one of `recipients`. `is_own`: the queue knows
/// that id.
pub(super) fn is_in_a_circle<'a>(
    header: &[u8],
    hostname: &Domain,
    is_own: impl Fn(MessageId) -> bool,
    recipients: impl Iterator<Item = &'a Address> + Clone,
) -> bool {
    let mut passes = 0;
    for OwnField { left_for, .. } in own_fields(header, hostname).filter(|field| is_own(field.id)) {
        passes += 1;
        let same = |recipient: &Address| {
            left_for.as_deref().is_some_and(|left| left.eq_ignore_ascii_case(recipient.as_ref()))
        };
        if passes >= PASSES_MAX || recipients.clone().any(same) {
            return true;
        }
    }
    false
}

/// A Received field as this relay writes it.
struct OwnField {
    id: MessageId,
    /// For whom the message was, if it says so.
    left_for: Option<String>,
}

/// Ours is shorter, whatever the names in it; of a longer one only the begin is looked at.
const OWN_FIELD_BYTES_MAX: usize = 2 << 10;

/// The Received fields that look like ours.
fn own_fields(header: &[u8], hostname: &Domain) -> impl Iterator<Item = OwnField> {
    let mut lines = header.split_inclusive(|byte| *byte == b'\n').peekable();
    std::iter::from_fn(move || {
        let line = lines.next()?;
        let is_received = line.get(..9).is_some_and(|name| name.eq_ignore_ascii_case(b"Received:"));
        let mut field = Vec::new();
        let mut add = |line: &[u8]| {
            let room = if is_received { OWN_FIELD_BYTES_MAX - field.len() } else { 0 };
            field.extend_from_slice(&line[..line.len().min(room)]);
        };
        add(line);
        while let Some(folded) = lines.next_if(|next| matches!(next.first(), Some(b' ' | b'\t'))) {
            add(folded);
        }
        Some(own_field(&String::from_utf8_lossy(&field), hostname))
    })
    .flatten()
}

/// As `header.rs` writes it: `… by HOSTNAME with … id QUEUEID for <RECIPIENT>; …`. None where it is another host's.
fn own_field(field: &str, hostname: &Domain) -> Option<OwnField> {
    let words: Vec<&str> = field.split_ascii_whitespace().map(|word| word.trim_end_matches(';')).collect();
    let behind = |word: &str| words.iter().position(|it| *it == word).and_then(|at| words.get(at + 1));
    let by_us = behind("by").is_some_and(|name| name.eq_ignore_ascii_case(hostname.as_str()));
    let id = behind("id").filter(|_| by_us)?.parse().ok()?;
    let left_for = behind("for").and_then(|to| to.strip_prefix('<')?.strip_suffix('>'));
    Some(OwnField { id, left_for: left_for.map(str::to_owned) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::address;

    const OURS: &str = "Received: from a.test ([192.0.2.1])\r\n\tby relay.test with ESMTPSA id 01K6GXFMRQ0";

    fn circles(header: &str, recipients: &[&str]) -> bool {
        let recipients: Vec<Address> =
            recipients.iter().map(|recipient| address::parse(recipient).unwrap()).collect();
        let is_own = |id: MessageId| id.to_string() == "01K6GXFMRQ0";
        is_in_a_circle(header.as_bytes(), &Domain::parse("relay.test").unwrap(), is_own, recipients.iter())
    }

    /// Two that have one name, as behind one address or cloned, hand each other what they cannot send themselves.
    #[test]
    fn a_field_of_another_relay_of_our_name_is_none_of_ours() {
        let theirs = OURS.replace("01K6GXFMRQ0", "01K6GXFMRQ1");
        let header = format!("{theirs}\r\n\tfor <you@a.test>; Wed, 18 Nov 2026 11:06:40 +0000\r\n").repeat(5);
        assert!(!circles(&header, &["you@a.test"]));
    }

    /// However long a field is, and however many words are in it.
    #[test]
    fn a_field_is_looked_at_as_far_as_ours_could_reach() {
        let hostname = Domain::parse("relay.test").unwrap();
        for long in ["a ".repeat(1 << 19), "a\r\n ".repeat(1 << 18), "a".repeat(1 << 20)] {
            let field = format!("Received: {long} by relay.test id 01K6GXFMRQ0 for <you@a.test>\r\n");
            assert!(own_fields(field.as_bytes(), &hostname).next().is_none());
        }
        let name = format!("{0}.{0}.{0}.{1}", "n".repeat(63), "n".repeat(61));
        let hostname = Domain::parse(&name).unwrap();
        let user = "\"".to_owned() + &"u".repeat(62) + "\"";
        let longest = format!(
            "Received: from {name} ([IPv6:2001:db8:1111:2222:3333:4444:5555:6666])\r\n\tby {name} with UTF8SMTPSA \
             id 01K6GXFMRQ0\r\n\tfor <{user}@{name}>; Wed, 18 Nov 2026 11:06:40 +0000\r\n"
        );
        let field = own_fields(longest.as_bytes(), &hostname).next().unwrap();
        assert_eq!(field.left_for.unwrap(), format!("{user}@{name}"));
    }

    #[test]
    fn what_comes_back_for_the_same_recipient_is_in_a_circle() {
        let left =
            format!("Subject: x\r\n{OURS}\r\n\tfor <you@a.test>; Wed, 18 Nov 2026 11:06:40 +0000\r\n\r\n");
        assert!(circles(&left, &["you@a.test"]));
        assert!(circles(&left, &["me@b.test", "You@A.test"]));
        assert!(!circles(&left, &["list-member@b.test"]), "a list sends it on");
        assert!(circles(
            &left.to_uppercase().replace("BY", "by").replace(" ID ", " id ").replace("FOR", "for"),
            &["you@a.test"]
        ));
    }

    #[test]
    fn what_comes_back_over_and_over_is_in_a_circle_whoever_it_is_for() {
        let left = format!("{OURS}; Wed, 18 Nov 2026 11:06:40 +0000\r\n");
        for (passes, circle) in [(0, false), (1, false), (2, false), (3, true), (9, true)] {
            let header = format!("{}Subject: x\r\n", left.repeat(passes));
            assert_eq!(circles(&header, &["you@a.test"]), circle, "{passes} times");
        }
    }

    #[test]
    fn fields_of_other_hosts_and_look_alikes_are_none_of_ours() {
        let date = "; Wed, 18 Nov 2026 11:06:40 +0000\r\n";
        for field in [
            OURS.replace("by relay.test", "by other.test"),
            OURS.replace("by relay.test", "by relay.test.evil.test"),
            OURS.replace("01K6GXFMRQ0", "4bXyZ12Jzz9Q"),
            OURS.replace("Received:", "X-Received:"),
            OURS.replace("Received:", "Subject:"),
        ] {
            let header = format!("{}\r\n\r\n", format!("{field} for <you@a.test>{date}").repeat(5));
            assert!(!circles(&header, &["you@a.test"]), "{field}");
        }
        assert!(!circles("", &["you@a.test"]));
    }
}
