//! Reports to senders: bounces, delay warnings and delivery reports (delivery status notifications, RFC 3461).
//!
//! Pure: outcomes in, an RFC 3464 message out (`multipart/report`, RFC 6522), in three parts: an explanation for
//! people (`human_part.rs`), the same for programs (`status.rs`), and as much of the original as RET asks for
//! (`returned.rs`). NOTIFY, RET, ENVID and ORCPT are honoured. No report goes to the null sender, so a bounce never
//! causes a bounce.
//!
//! Replies, names and parameters come from hosts that may be hostile: all text is made printable and bounded before
//! it goes into a field or a line. Lines have at most 998 bytes whatever the original holds.
//!
//! # Actions (RFC 3464 §2.3.3)
//! - `failed` and `delayed`.
//! - `relayed`: a host without DSN accepted the message, and SUCCESS was asked for (RFC 3461 §5.2.2) or a trace
//!   (RFC 2852 §4).
//! - `expanded`: SUCCESS was asked for an alias with several members (RFC 3461 §5.2.7.3). Reported with the first
//!   settlement of one of them. An alias with one member is only another address: its parameters go on with the
//!   message (§5.2.7.2).
//! - Never `delivered`: that is for the host that puts mail into mailboxes (§5.2.3).
//!
//! # UTF-8 (RFC 6533)
//! A sender with a non-ASCII local part can only be reached through hosts with SMTPUTF8. Its report uses
//! `message/global-delivery-status`, `message/global` and `message/global-headers` in 8bit, and addresses as they
//! are. Any other sender may be reached through hosts without SMTPUTF8, so its report is ASCII: non-ASCII addresses
//! are written as `utf-8-addr-xtext` (which loses nothing and keeps `message/delivery-status`, which all programs
//! know: §4.4), and a returned UTF-8 header is encoded (§4.5).
//!
//! The message is made with lettre's types, but not with its `Message::builder`: that reads the From field back with a
//! parser that refuses some lawful host names.

mod charset;
#[cfg(test)]
mod grammar;
mod human_part;
mod last_reply;
mod parts;
mod returned;
mod status;
pub mod summary;
#[cfg(test)]
mod tests;

use std::time::{Duration, UNIX_EPOCH};

use lettre::message::header::{
    self, ContentTransferEncoding, Header, HeaderName, HeaderValue, Headers, MIME_VERSION_1_0,
};
use lettre::message::{Mailbox, Mailboxes, MultiPart};

use crate::kit::text::without_controls;
use crate::mail::{
    Address, Attempt, Body, Domain, Envelope, Expanded, Handling, Labels, Notify, Outcome, Recipient,
};
use crate::queue::{MessageId, NewMessage, Origin, QueuedMessage, QueuedRecipient};

use charset::Charset;
use parts::{boundary, content_type, part, plain};

/// How much of the original a report returns at most, in encoded bytes. The caller need not read more of it.
/// Every host takes messages of 64 KiB (RFC 5321 §4.5.3.1.7), and the other parts need room too.
pub const RETURNED_BYTES_MAX: usize = 48 * 1024;

/// What a report is made from.
#[derive(Debug, Clone, Copy)]
pub struct ReportContext<'a> {
    /// The report's own id.
    pub id: MessageId,
    /// The host that reports.
    pub hostname: &'a Domain,
    /// Unix seconds.
    pub now: i64,
    /// The message that is reported on.
    pub message: &'a QueuedMessage,
    /// Until when it is tried, Unix seconds.
    pub ends_at: i64,
    /// The recipients with something to report; [`report`] leaves out those whose NOTIFY does not ask for it.
    pub reported: &'a [ReportedRecipient<'a>],
    /// The message's content: all of it, or its first [`RETURNED_BYTES_MAX`] bytes.
    pub original: &'a [u8],
}

/// One recipient, or one alias, and what happened to it.
#[derive(Debug, Clone, Copy)]
pub struct ReportedRecipient<'a> {
    /// The recipient.
    pub recipient: &'a QueuedRecipient,
    /// The last attempt; none where the recipient expired without one, and its `last_reply` is quoted.
    pub attempt: Option<&'a Attempt>,
    /// What happened: after a deferred attempt it may be `Expired`.
    pub outcome: Outcome,
    /// The report is about this alias, which was expanded to the recipient and to others.
    pub expanded: Option<&'a Expanded>,
}

/// A report, ready for the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// From `<>` to the original's sender, with the parameters that the content needs.
    pub envelope: Envelope,
    /// CR LF line ends, dots not doubled.
    pub content: Vec<u8>,
}

impl Report {
    /// As the queue takes it, received `now`.
    pub(in crate::delivery) fn into_message(self, id: MessageId, now: i64) -> NewMessage {
        NewMessage {
            id,
            envelope: self.envelope,
            origin: Origin::default(),
            labels: Labels::of_own(&self.content),
            received_at: now,
            expires_at: None,
            size: self.content.len() as u64,
            tail: self.content,
            chunks_before: 0,
        }
    }
}

/// The three reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReportKind {
    /// Recipients that will not get the message (outcomes `Failed` and `Expired`).
    Bounce,
    /// Recipients that have not got it yet (outcome `Deferred`), once each: the caller marks them warned.
    Delay,
    /// Recipients whose host accepted the message and sends no reports (outcome `Relayed`), and aliases that were
    /// expanded.
    Success,
}

/// Whether a report of `outcome` is asked for by the recipient's NOTIFY or by the message's trace.
pub fn wanted_of(message: &QueuedMessage, notify: Option<Notify>, outcome: Outcome) -> bool {
    let traced = message.handling.deliver_by.is_some_and(|by| by.trace);
    let trace = traced && outcome == Outcome::Relayed && notify != Some(Notify::NEVER);
    trace || wanted(notify, outcome)
}

/// Whether a recipient's NOTIFY asks for a report of `outcome` (RFC 3461 §4.1).
fn wanted(notify: Option<Notify>, outcome: Outcome) -> bool {
    let notify = notify.unwrap_or(Notify::DEFAULT);
    match outcome {
        Outcome::Delivered | Outcome::Relayed => notify.success,
        Outcome::Failed | Outcome::Expired => notify.failure,
        Outcome::Deferred => notify.delay,
        // Not decided yet.
        Outcome::InDoubt => false,
    }
}

impl ReportKind {
    /// All of them.
    pub const ALL: [ReportKind; 3] = [ReportKind::Bounce, ReportKind::Delay, ReportKind::Success];

    /// The word in the log.
    pub fn name(self) -> &'static str {
        match self {
            ReportKind::Bounce => "bounce",
            ReportKind::Delay => "delay warning",
            ReportKind::Success => "delivery report",
        }
    }

    fn covers(self, outcome: Outcome) -> bool {
        match self {
            ReportKind::Bounce => matches!(outcome, Outcome::Failed | Outcome::Expired),
            ReportKind::Delay => outcome == Outcome::Deferred,
            ReportKind::Success => outcome == Outcome::Relayed,
        }
    }

    fn subject(self) -> &'static str {
        match self {
            ReportKind::Bounce => "Undelivered mail returned to sender",
            ReportKind::Delay => "Delayed mail: not delivered yet, still trying",
            ReportKind::Success => "Delivery report: your mail was passed on",
        }
    }
}

impl<'a> ReportContext<'a> {
    /// The recipients and aliases in a report of this kind.
    pub fn about(&self, kind: ReportKind) -> Vec<&'a ReportedRecipient<'a>> {
        let about = |reported: &&ReportedRecipient<'_>| {
            // An alias is remembered only where its report is wanted.
            let wanted = reported.expanded.is_some()
                || wanted_of(self.message, reported.recipient.notify, reported.outcome);
            kind.covers(reported.outcome) && wanted
        };
        self.reported.iter().filter(about).collect()
    }
}

/// Writes a report of this kind. None for the null sender, and where no recipient asks for it.
pub fn report(kind: ReportKind, context: &ReportContext<'_>) -> Option<Report> {
    let sender = context.message.sender.as_ref()?;
    let reported = context.about(kind);
    if reported.is_empty() {
        return None;
    }
    let to = writable(sender);
    let charset = if to.user().is_ascii() { Charset::Ascii } else { Charset::Utf8 };
    let fields = status::fields(kind, charset, context, &reported);
    // RFC 6533 §4.4: ASCII goes out in the type that all programs know.
    let fields = match fields.is_ascii() {
        true => ("message/delivery-status", ContentTransferEncoding::SevenBit, fields.into_bytes()),
        false => ("message/global-delivery-status", ContentTransferEncoding::EightBit, fields.into_bytes()),
    };
    let mut parts =
        vec![plain(human_part::explanation(kind, context, &reported)), part(fields.0, fields.1, fields.2)];
    parts.extend(returned::original(kind, charset, context));
    let mut body = MultiPart::builder()
        .header(content_type(&format!(
            "multipart/report; report-type=delivery-status; boundary=\"{}\"",
            boundary(context.id, &parts)
        )))
        .build();
    if parts.iter().any(|part| !part.formatted().is_ascii()) {
        // RFC 2045 §6.4: a multipart says so when one of its parts is 8bit.
        body.headers_mut().set(ContentTransferEncoding::EightBit);
    }
    // RFC 3834 §5: "auto-replied" answers a message.
    let head = head(context.id, context.hostname, context.now, &to, kind.subject(), "auto-replied");
    let mut content = head.to_string().into_bytes();
    content.extend(parts.into_iter().fold(body, MultiPart::singlepart).formatted());
    // RFC 8689 §5: a report requires TLS like its message. It is as urgent, too.
    let handling = Handling {
        priority: context.message.handling.priority,
        require_tls: context.message.handling.require_tls,
        ..Handling::default()
    };
    Some(Report { envelope: envelope(to, &content, handling), content })
}

/// The envelope from `<>`, with the parameters that the content needs.
fn envelope(to: Address, content: &[u8], handling: Handling) -> Envelope {
    Envelope {
        sender: None,
        body: if content.is_ascii() { Body::SevenBit } else { Body::EightBitMime },
        smtputf8: !to.to_string().is_ascii(),
        // RFC 3461 §6.1: a report asks for no reports.
        recipients: vec![Recipient { notify: Some(Notify::NEVER), ..Recipient::new(to) }],
        ret: None,
        envid: None,
        handling,
    }
}

/// All header fields but those of the content. RFC 3834 §2: Auto-Submitted keeps vacation programs from answering.
fn head(
    id: MessageId,
    hostname: &Domain,
    now: i64,
    to: &Address,
    subject: &str,
    auto_submitted: &'static str,
) -> Headers {
    let from = Address::new_dangerous("MAILER-DAEMON", hostname.as_str());
    let from = Mailbox::new(Some("Mail Delivery System".to_owned()), from);
    let mut head = Headers::new();
    head.set(header::Date::new(UNIX_EPOCH + Duration::from_secs(charset::writable_time(now))));
    head.set(header::From::from(Mailboxes::from(from)));
    head.set(header::To::from(Mailboxes::from(Mailbox::new(None, to.clone()))));
    head.set(header::Subject::from(subject.to_owned()));
    head.set(header::MessageId::from(format!("<{id}@{hostname}>")));
    head.set(AutoSubmitted(auto_submitted));
    head.set(MIME_VERSION_1_0);
    head
}

/// The sender's address, its domain in A-labels so that only a non-ASCII local part needs SMTPUTF8. Without control
/// characters, which an edited row may hold.
fn writable(address: &Address) -> Address {
    let clean = |text: &str| without_controls(text, usize::MAX);
    Address::new_dangerous(clean(address.user()), clean(Domain::of(address).as_str()))
}

#[derive(Clone)]
struct AutoSubmitted(&'static str);

impl Header for AutoSubmitted {
    fn name() -> HeaderName {
        HeaderName::new_from_ascii_str("Auto-Submitted")
    }

    fn parse(_: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Ok(AutoSubmitted("auto-generated"))
    }

    fn display(&self) -> HeaderValue {
        HeaderValue::new(Self::name(), self.0.to_owned())
    }
}
