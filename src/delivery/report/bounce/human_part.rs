//! The part of a report for people: what happened, the reply and its source, and what to do.

use std::fmt::Write as _;

use crate::kit::text::{date_field, is_unseen};
use crate::mail::{Enhanced, Outcome, Phase, ReplySource};

use crate::delivery::report::bounce::charset::{Charset, bracketed, folded};
use crate::delivery::report::bounce::last_reply::LastReply;
use crate::delivery::report::bounce::status::reply_bytes_max;
use crate::delivery::report::bounce::{ReportContext, ReportKind, ReportedRecipient};

/// Lines of one reply that are quoted.
const QUOTED_LINES_MAX: usize = 20;
/// How much of a host's name is shown.
const NAME_BYTES_MAX: usize = 500;

/// Plain text in UTF-8 with `\n` line ends, 76 columns where the words allow.
pub(super) fn explanation(
    kind: ReportKind,
    context: &ReportContext<'_>,
    reported: &[&ReportedRecipient<'_>],
) -> String {
    let mut out = String::new();
    paragraph(&mut out, "", &format!("This is the mail system at {}.", context.hostname));
    out.push('\n');
    paragraph(&mut out, "", opening(kind));
    out.push('\n');
    let message = context.message;
    let accepted = format!(
        "It was accepted here on {} with the queue id {}.",
        date_field(message.received_at),
        message.id
    );
    paragraph(&mut out, "", &accepted);
    if kind == ReportKind::Delay {
        let until =
            format!("We keep trying until {}. You need not send it again.", date_field(context.ends_at));
        paragraph(&mut out, "", &until);
    }
    let reply_bytes_max = reply_bytes_max(reported.len());
    for reported in reported {
        out.push('\n');
        recipient(&mut out, reported, reply_bytes_max);
    }
    out
}

fn opening(kind: ReportKind) -> &'static str {
    match kind {
        ReportKind::Bounce => {
            "Your message could not be delivered to the addresses below. We have stopped trying. \
             The reason stands with each address."
        }
        ReportKind::Delay => {
            "Your message has not been delivered to the addresses below yet. This is a warning only. \
             The reason stands with each address."
        }
        ReportKind::Success => {
            "As you asked, we tell you what became of your message to the addresses below."
        }
    }
}

fn recipient(out: &mut String, reported: &ReportedRecipient<'_>, reply_bytes_max: usize) {
    let last_reply = LastReply::of(reported);
    if let Some(expanded) = reported.expanded {
        let _ = writeln!(out, "<{}>", expanded.alias.to_string().replace(is_unseen, " "));
        return paragraph(
            out,
            "    ",
            "This name stands for several addresses. The message goes on to each of them.",
        );
    }
    let address = reported.recipient.address.to_string();
    // Writing to a String cannot fail.
    let _ = writeln!(out, "<{}>", address.replace(is_unseen, " "));
    for sentence in meaning(reported.outcome, last_reply.status(reported.outcome), last_reply.source) {
        paragraph(out, "    ", sentence);
    }
    let host = last_reply.host.map(|name| match reported.attempt.and_then(|attempt| attempt.ip) {
        Some(ip) if bracketed(name) == name => format!("{name} [{ip}]"),
        _ => bracketed(name),
    });
    let who = match (host, last_reply.phase) {
        (Some(host), Some(phase)) if last_reply.source == ReplySource::Remote => {
            format!("{host}, {}:", stage(phase))
        }
        (Some(host), None) if last_reply.source == ReplySource::Remote => format!("{host}:"),
        (Some(host), Some(Phase::Connect)) => format!("This relay, when it tried to connect to {host}:"),
        (Some(host), Some(phase)) => format!("This relay about {host}, {}:", stage(phase)),
        (Some(host), None) => format!("This relay about {host}:"),
        (None, Some(Phase::Dns)) => "This relay, when it looked for the receiving host:".to_owned(),
        (None, _) => "This relay:".to_owned(),
    };
    paragraph(out, "    ", &Charset::Ascii.printable(&who, NAME_BYTES_MAX));
    out.push('\n');
    let reply = &last_reply.reply;
    let codes = match reply.enhanced {
        Some(enhanced) => format!("{:03} {enhanced}", reply.code),
        None => format!("{:03}", reply.code),
    };
    let mut bytes_left = reply_bytes_max;
    for line in reply.text.split('\n').take(QUOTED_LINES_MAX) {
        let line = Charset::Utf8.printable(line, bytes_left);
        paragraph(out, "        ", &format!("{codes} {line}"));
        bytes_left = bytes_left.saturating_sub(line.len());
        if bytes_left == 0 {
            break;
        }
    }
}

/// What the reply answered.
fn stage(phase: Phase) -> &'static str {
    match phase {
        Phase::Dns => "when we looked for it",
        Phase::Connect => "when we connected",
        Phase::Greeting => "when it was to greet us",
        Phase::Ehlo => "in answer to our greeting (EHLO)",
        Phase::Starttls => "when encryption was to begin (STARTTLS)",
        Phase::Auth => "when we logged in (AUTH)",
        Phase::Mail => "in answer to the sender's address (MAIL FROM)",
        Phase::Rcpt => "in answer to this address (RCPT TO)",
        Phase::Data => "when the message was to be sent (DATA)",
        Phase::EndOfData => "after the message was sent (end of DATA)",
    }
}

/// The outcome and the status code (RFC 3463 §3) in plain words: first what happened, then what to do.
fn meaning(outcome: Outcome, status: Enhanced, by: ReplySource) -> Vec<&'static str> {
    let ours = by == ReplySource::Local;
    let happened = match outcome {
        Outcome::Delivered | Outcome::Relayed => {
            return vec![
                "The next host has taken it. That host sends no reports, so this is the last you hear of it.",
            ];
        }
        // The text quoted below says what the message waited for; perhaps there was no attempt.
        Outcome::Expired if (status.1, status.2) == (4, 7) => None,
        Outcome::Expired if (status.1, status.2) == (3, 2) && ours => None,
        Outcome::Expired => Some("We tried again and again, until the time for it was over."),
        Outcome::Failed | Outcome::Deferred | Outcome::InDoubt => None,
    };
    let reason = match (status.1, status.2) {
        (1, 1 | 3 | 6) => "The receiving host does not know this address. Check how it is spelled.",
        (1, 2) => "There is no such mail domain. Check how the part after the @ is spelled.",
        (1, 10) => "This domain takes no mail at all.",
        (1, 7 | 8) => "The receiving host does not accept your own address as a sender.",
        (2, 1) => "This mailbox is closed.",
        (2, 2) => "This mailbox is full. The recipient has to make room.",
        (2, 3) | (3, 4) => "The message is larger than the receiving host accepts. Send less, or a link.",
        (3, 0) if ours && outcome == Outcome::Failed => "The operator of this relay returned it.",
        (3, 2) if ours && outcome == Outcome::Expired => {
            "The operator of this relay had stopped such mail for a time. It waited here, and was not sent."
        }
        (4, 3) => "The domain could not be looked up.",
        (4, 4) => "No way to deliver to this domain was found. Check how the part after the @ is spelled.",
        (4, 6) => {
            "Mail to this address goes round in a circle. The operators of the domain have to repair that."
        }
        (4, 7) => "It waited here until the time for it was over.",
        (4, _) => "The receiving host could not be reached, or the connection to it broke.",
        (6, _) => "The receiving host does not accept this kind of content.",
        (7, _) if ours => {
            "No connection to the receiving host could be made that is as secure as it must be."
        }
        (7, _) => {
            "The receiving host does not accept this message, by a rule of its own that it explains below."
        }
        _ if outcome == Outcome::Deferred => "The receiving host did not accept it for the time being.",
        _ => "The receiving host did not accept it.",
    };
    happened.into_iter().chain([reason]).collect()
}

/// `text` in lines with `indent` before each.
pub(super) fn paragraph(out: &mut String, indent: &str, text: &str) {
    for line in folded(text, indent.len()) {
        let _ = writeln!(out, "{indent}{line}");
    }
}
