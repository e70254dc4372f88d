//! The one message that stands for many reports (`[delivery] bounces_per_sender`).
//!
//! It is for people: RFC 3464 §2 has a delivery report be about one message, so this is none. Bounded: the
//! first failures are listed, the rest is counted.

use std::fmt::Write as _;

use lettre::message::SinglePart;

use crate::mail::{Domain, Handling, address};
use crate::queue::{MessageId, PendingReports};

use crate::delivery::report::bounce::Report;
use crate::delivery::report::bounce::charset::{Script, date, folded};
use crate::delivery::report::bounce::envelope;
use crate::delivery::report::bounce::head;
use crate::delivery::report::bounce::parts::plain;
use crate::delivery::report::bounce::writable;

/// Failures that are listed.
pub const LISTED_MAX: usize = 200;
/// How much of an address or reply is shown.
const TEXT_BYTES_MAX: usize = 200;

/// What a summary is about and who writes it.
#[derive(Debug, Clone, Copy)]
pub struct Summary<'a> {
    /// Its own id.
    pub id: MessageId,
    /// Who writes.
    pub hostname: &'a Domain,
    /// Unix seconds.
    pub now: i64,
    /// To whom, and the failures, the first of them listed.
    pub gathered: &'a PendingReports,
}

/// Writes it; none where the sender is no address.
pub fn summary(summary: &Summary<'_>) -> Option<Report> {
    let to = writable(&address::parse(&summary.gathered.return_path).ok()?);
    let subject = format!("Undelivered mail: {} more messages", summary.gathered.messages);
    // RFC 3834 §5: of its own accord, in answer to no single message.
    let head = head(summary.id, summary.hostname, summary.now, &to, &subject, "auto-generated");
    let text: SinglePart = plain(words(summary));
    let mut content = head.to_string().into_bytes();
    content.extend(text.formatted());
    // RFC 8689 §5: as protected as what it tells of.
    let handling = Handling { require_tls: summary.gathered.require_tls, ..Handling::default() };
    Some(Report { envelope: envelope(to, &content, handling), content })
}

/// Plain text with `\n` line ends.
fn words(summary: &Summary<'_>) -> String {
    let gathered = summary.gathered;
    let mut out = format!("This is the mail system at {}.\n\n", summary.hostname);
    paragraph(
        &mut out,
        &format!(
            "So many reports have gone to you that no more were sent one by one. Since {} there was something to \
             tell of {} more messages, {} recipients in all. What has failed or expired is not tried again.",
            date(gathered.first_at),
            gathered.messages,
            gathered.recipients,
        ),
    );
    out.push('\n');
    paragraph(
        &mut out,
        "If you did not send them, somebody does so in your name: please tell the operator of this relay, who \
         finds the reason for each with its queue id.",
    );
    out.push('\n');
    for row in &gathered.listed {
        let shown = |text: &str| Script::Utf8.printable(text, TEXT_BYTES_MAX);
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{} <{}> {}", row.queue_id, shown(&row.address), shown(&row.state));
        if let Some(reply) = &row.reply {
            for line in folded(&shown(reply), 4) {
                let _ = writeln!(out, "    {line}");
            }
        }
    }
    let more = gathered.recipients.saturating_sub(gathered.listed.len() as u64);
    if more > 0 {
        let _ = writeln!(out, "... and {more} recipients more.");
    }
    out
}

fn paragraph(out: &mut String, text: &str) {
    for line in folded(text, 0) {
        let _ = writeln!(out, "{line}");
    }
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

    fn written(gathered: &PendingReports) -> Option<Report> {
        let hostname = Domain::parse("relay.test").unwrap();
        let (id, now) = (MessageId(1_795_000_000_000_001), 1_795_262_400);
        summary(&Summary { id, hostname: &hostname, now, gathered })
    }

    #[test]
    fn a_summary_counts_all_and_lists_some() {
        let listed: Vec<_> = (0..LISTED_MAX as u64).map(row).collect();
        let gathered = PendingReports {
            return_path: "ann@sender.test".to_owned(),
            up_to: 9_900,
            messages: 9_000,
            recipients: 9_900,
            first_at: 1_795_258_800,
            require_tls: true,
            listed,
        };
        let report = written(&gathered).unwrap();
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
        let gathered = PendingReports {
            return_path: "\u{7528}@b\u{fc}cher.test".to_owned(),
            up_to: 1,
            messages: 1,
            recipients: 1,
            first_at: i64::MAX,
            require_tls: false,
            listed: vec![spoilt],
        };
        let report = written(&gathered).unwrap();
        assert!(has_lines(&report.content) && report.envelope.smtputf8);
        let text = String::from_utf8(report.content).unwrap();
        assert!(!text.contains("\nBcc") && !text.contains("\r\n.\r\n") && text.len() < 4096, "{text}");
        assert_eq!(written(&PendingReports { return_path: "nobody".to_owned(), ..gathered }), None);
    }
}
