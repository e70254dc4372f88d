//! Recognises a message that was here before: by the Received fields that this relay itself put in front of it, which
//! have our name and one of our queue ids. Pure.
//!
//! To come back is not wrong yet: a list, a forwarder or a mailbox with a redirect may use this relay for what it
//! sends on. What comes back for the recipient that it left for is in a circle, and so is what comes back over and
//! over. The limit of Received fields of all hosts together (`[limits] received_hops`) stays behind this.

use crate::mail::{Address, Domain};
use crate::queue::MessageId;

/// A list behind a forwarder may send a message through here twice more; what has been here three times is in a
/// circle.
const PASSES_MAX: usize = 3;

/// Whether the message with this header goes round through here, for one of `recipients`.
pub(super) fn is_in_a_circle<'a>(
    content: &[u8],
    hostname: &Domain,
    recipients: impl Iterator<Item = &'a Address> + Clone,
) -> bool {
    let mut passes = 0;
    for left_for in own_fields(content, hostname) {
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

/// Our own Received fields: for whom each says that the message was, if it says so.
fn own_fields(content: &[u8], hostname: &Domain) -> Vec<Option<String>> {
    let mut lines = content.split_inclusive(|byte| *byte == b'\n').peekable();
    let mut own = Vec::new();
    while let Some(line) = lines.next() {
        if matches!(line, b"\r\n" | b"\n") {
            break;
        }
        let is_received = line.get(..9).is_some_and(|name| name.eq_ignore_ascii_case(b"Received:"));
        let mut field = line.to_vec();
        while let Some(folded) = lines.next_if(|next| matches!(next.first(), Some(b' ' | b'\t'))) {
            if is_received {
                field.extend_from_slice(folded);
            }
        }
        if is_received && let Some(left_for) = own_field(&String::from_utf8_lossy(&field), hostname) {
            own.push(left_for);
        }
    }
    own
}

/// As `header.rs` writes it: `… by HOSTNAME with … id QUEUEID for <RECIPIENT>; …`. None where it is another host's.
fn own_field(field: &str, hostname: &Domain) -> Option<Option<String>> {
    let words: Vec<&str> = field.split_ascii_whitespace().map(|word| word.trim_end_matches(';')).collect();
    let behind = |word: &str| words.iter().position(|it| *it == word).and_then(|at| words.get(at + 1));
    let by_us = behind("by").is_some_and(|name| name.eq_ignore_ascii_case(hostname.as_str()));
    let our_id = behind("id").is_some_and(|id| id.parse::<MessageId>().is_ok());
    let left_for = || behind("for").and_then(|to| to.strip_prefix('<')?.strip_suffix('>'));
    (by_us && our_id).then(|| left_for().map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::address;

    const OURS: &str = "Received: from a.test ([192.0.2.1])\r\n\tby relay.test with ESMTPSA id 01K6GXFMRQ0";

    fn circles(header: &str, recipients: &[&str]) -> bool {
        let recipients: Vec<Address> =
            recipients.iter().map(|recipient| address::parse(recipient).unwrap()).collect();
        is_in_a_circle(header.as_bytes(), &Domain::parse("relay.test").unwrap(), recipients.iter())
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
            let header = format!("{}Subject: x\r\n\r\n{left}", left.repeat(passes));
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
