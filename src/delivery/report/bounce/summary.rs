//! The summary: one message in place of the many reports that exceed `[delivery] bounces_per_sender`.
//!
//! Plain text for people: a delivery status notification is about one message (RFC 3464 §2), so this is none. The
//! first failures are listed, the others counted.

use std::fmt::Write as _;

use lettre::message::SinglePart;

use crate::kit::text::date_field;
use crate::mail::{Domain, Handling, address};
use crate::queue::{MessageId, PendingReports};

use crate::delivery::report::bounce::charset::{Charset, folded};
use crate::delivery::report::bounce::human_part::paragraph;
use crate::delivery::report::bounce::parts::plain;
use crate::delivery::report::bounce::{Report, envelope, head, writable};

/// Failures that are listed.
pub const LISTED_MAX: usize = 200;
/// How much of an address or reply is shown.
const TEXT_BYTES_MAX: usize = 200;

/// What a summary is made from.
#[derive(Debug, Clone, Copy)]
pub struct Summary<'a> {
    /// Its own id.
    pub id: MessageId,
    /// The host that reports.
    pub hostname: &'a Domain,
    /// Unix seconds.
    pub now: i64,
    /// The sender that it goes to, and the failures; the first [`LISTED_MAX`] of them are listed.
    pub pending: &'a PendingReports,
}

/// Writes a summary; none where the sender is no address.
pub fn summary(summary: &Summary<'_>) -> Option<Report> {
    let to = writable(&address::parse(&summary.pending.return_path).ok()?);
    let subject = format!("Undelivered mail: {} more messages", summary.pending.messages);
    // RFC 3834 §5: "auto-generated" answers no single message.
    let head = head(summary.id, summary.hostname, summary.now, &to, &subject, "auto-generated");
    let text: SinglePart = plain(words(summary));
    let mut content = head.to_string().into_bytes();
    content.extend(text.formatted());
    // RFC 8689 §5: it requires TLS if one of the messages did.
    let handling = Handling { require_tls: summary.pending.require_tls, ..Handling::default() };
    Some(Report { envelope: envelope(to, &content, handling), content })
}

/// Plain text with `\n` line ends.
fn words(summary: &Summary<'_>) -> String {
    let pending = summary.pending;
    let mut out = format!("This is the mail system at {}.\n\n", summary.hostname);
    paragraph(
        &mut out,
        "",
        &format!(
            "So many reports have gone to you that no more were sent one by one. Since {} there was something to \
             tell of {} more messages, {} recipients in all. What has failed or expired is not tried again.",
            date_field(pending.first_at),
            pending.messages,
            pending.recipients,
        ),
    );
    out.push('\n');
    paragraph(
        &mut out,
        "",
        "If you did not send them, somebody does so in your name: please tell the operator of this relay, who \
         finds the reason for each with its queue id.",
    );
    out.push('\n');
    for row in &pending.listed {
        let shown = |text: &str| Charset::Utf8.printable(text, TEXT_BYTES_MAX);
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{} <{}> {}", row.queue_id, shown(&row.address), shown(&row.state));
        if let Some(reply) = &row.reply {
            for line in folded(&shown(reply), 4) {
                let _ = writeln!(out, "    {line}");
            }
        }
    }
    let more = pending.recipients.saturating_sub(pending.listed.len() as u64);
    if more > 0 {
        let _ = writeln!(out, "... and {more} recipients more.");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::report::bounce::returned::has_lines;
    use crate::mail::Notify;
    use crate::queue::PendingReportRow;

    fn row(number: u64) -> PendingReportRow {
        PendingReportRow {
            queue_id: MessageId(1_795_000_000_000_000 + number as i64).to_string(),
            address: format!("user{number}@a.test"),
            state: "failed".to_owned(),
            reply: Some("550 5.1.1 no such user".to_owned()),
        }
    }

    fn written(pending: &PendingReports) -> Option<Report> {
        let hostname = Domain::parse("relay.test").unwrap();
        let (id, now) = (MessageId(1_795_000_000_000_001), 1_795_262_400);
        summary(&Summary { id, hostname: &hostname, now, pending })
    }

    #[test]
    fn a_summary_counts_all_and_lists_some() {
        let listed: Vec<_> = (0..LISTED_MAX as u64).map(row).collect();
        let pending = PendingReports {
            return_path: "ann@sender.test".to_owned(),
            up_to: 9_900,
            messages: 9_000,
            recipients: 9_900,
            first_at: 1_795_258_800,
            require_tls: true,
            listed,
        };
        let report = written(&pending).unwrap();
        let text = String::from_utf8(report.content.clone()).unwrap();
        assert!(has_lines(&report.content) && text.len() < 32 * 1024, "{}", text.len());
        for part in [
            "To: ann@sender.test\r\nSubject: Undelivered mail: 9000 more messages\r\n",
            "Auto-Submitted: auto-generated\r\n",
            "\r\n\r\nThis is the mail system at relay.test.\r\n",
            "11:00:00 +0000 there was something to tell of 9000 more\r\nmessages, 9900 recipients in all.",
            "\r\n1K0HC0NYC00 <user0@a.test> failed\r\n    550 5.1.1 no such user\r\n",
            "\r\n... and 9700 recipients more.\r\n",
        ] {
            assert!(text.contains(part), "no {part:?} in\n{text}");
        }
        assert_eq!(report.envelope.sender, None);
        assert_eq!(report.envelope.recipients[0].notify, Some(Notify::NEVER));
        assert!(report.envelope.handling.require_tls);
    }

    #[test]
    fn hostile_words_stay_words() {
        let spoilt = PendingReportRow {
            address: "x\r\nBcc: y@\u{202e}z".to_owned(),
            reply: Some("550 \r\n.\r\n\u{fc}".repeat(1000)),
            ..row(1)
        };
        let pending = PendingReports {
            return_path: "\u{7528}@b\u{fc}cher.test".to_owned(),
            up_to: 1,
            messages: 1,
            recipients: 1,
            first_at: i64::MAX,
            require_tls: false,
            listed: vec![spoilt],
        };
        let report = written(&pending).unwrap();
        assert!(has_lines(&report.content) && report.envelope.smtputf8);
        let text = String::from_utf8(report.content).unwrap();
        assert!(!text.contains("\nBcc") && !text.contains("\r\n.\r\n") && text.len() < 4096, "{text}");
        assert_eq!(written(&PendingReports { return_path: "nobody".to_owned(), ..pending }), None);
    }
}
