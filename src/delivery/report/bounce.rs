//! What the sender is told: bounces, delay warnings and delivery reports.
//!
//! Pure: outcomes in, an RFC 3464 message out (`multipart/report`, RFC 6522), in three parts: an
//! explanation for people (`human_part.rs`) that quotes the reply in the words of who gave it, the same for programs
//! (`status.rs`), and what RET asks for of the original (`returned.rs`). NOTIFY, RET, ENVID and ORCPT are honoured
//! (RFC 3461). Nothing is ever written to the null sender, so a bounce is never answered with one.
//!
//! Replies, names and parameters come from hosts that may be hostile: whatever goes into a field
//! or a line is first made printable, and bounded. Lines are at most 998 bytes whatever the original holds.
//!
//! # Which reports there are
//! `failed` and `delayed`; `relayed` where a host without DSN took what SUCCESS was asked for (RFC 3461
//! §5.2.2), or a trace was (RFC 2852 §4); `expanded` where SUCCESS was asked for of an alias with several
//! members (§5.2.7.3), with the first settlement of one of them. Never `delivered`: that is for whoever puts
//! mail into mailboxes (§5.2.3), and a host with DSN is asked to say so itself. An alias with one member is
//! only another address: its parameters go on with the message (§5.2.7.2).
//!
//! # UTF-8 (RFC 6533)
//! A sender whose local part is beyond ASCII is reached only through hosts with SMTPUTF8: the report is
//! `message/global-delivery-status`, `message/global` and `message/global-headers` in 8bit, addresses as they
//! are. To every other sender a report must pass any host, and nobody knows which: it is ASCII throughout,
//! addresses beyond it in `utf-8-addr-xtext` (which loses nothing, and leaves `message/delivery-status`,
//! that all programs know: §4.4), and a returned header in UTF-8 is encoded (§4.5). So no report is lost
//! for want of SMTPUTF8 unless its own address needs it.
//!
//! lettre's types make the message, but not its `Message::builder`, which reads the From field back with a
//! parser that refuses some lawful host names; a `MultiPart` carries all the fields just as well.

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

use crate::mail::{Address, Attempt, Body, Domain, Envelope, Expanded, Handling, Notify, Outcome, Recipient};
use crate::queue::{MessageId, NewMessage, Origin, QueuedMessage, QueuedRecipient};

use charset::Script;
use parts::{boundary, content_type, part, plain};

/// How much of the original a report returns at most, as it is encoded. The caller need not read more of it.
/// Every host takes messages of 64 KiB (RFC 5321 §4.5.3.1.7), and there must be room for what is said of it.
pub const RETURNED_BYTES_MAX: usize = 48 * 1024;
/// What a report is about and who writes it.
#[derive(Debug, Clone, Copy)]
pub struct Notice<'a> {
    /// The report's own id.
    pub id: MessageId,
    /// Who writes.
    pub hostname: &'a Domain,
    /// Unix seconds.
    pub now: i64,
    /// The message that is reported on.
    pub message: &'a QueuedMessage,
    /// Its recipients that something happened to; those whose NOTIFY does not ask for it are left out.
    pub told: &'a [Told<'a>],
    /// The message's content: all of it, or its first [`RETURNED_BYTES_MAX`] bytes.
    pub original: &'a [u8],
}

/// What happened to one recipient.
#[derive(Debug, Clone, Copy)]
pub struct Told<'a> {
    /// The recipient.
    pub recipient: &'a QueuedRecipient,
    /// The last try; none where it expired without one, when its `last_reply` is quoted.
    pub attempt: Option<&'a Attempt>,
    /// What it means now: an attempt that was deferred may mean `Expired`.
    pub outcome: Outcome,
    /// Not the recipient is told of but this alias, which led to it and to others.
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
    /// As the queue takes it: written `now`, given up after `lifetime`.
    pub(in crate::delivery) fn into_message(self, id: MessageId, now: i64, lifetime: Duration) -> NewMessage {
        NewMessage {
            id,
            envelope: self.envelope,
            origin: Origin::default(),
            received_at: now,
            expires_at: now + i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX / 2),
            size: self.content.len() as u64,
            tail: self.content,
            chunks_before: 0,
        }
    }
}

/// Which of the three reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Who did not get the message (outcomes `Failed` and `Expired`).
    Bounce,
    /// Who has not got it yet (outcome `Deferred`), told once: the caller marks them warned.
    Delay,
    /// Whose host took it and will say no more (outcome `Relayed`), and aliases that were expanded, where SUCCESS
    /// was asked for.
    Success,
}

/// Whether a report of `outcome` is asked for by a recipient's NOTIFY, or by the message's trace.
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
        // Nobody knows yet.
        Outcome::InDoubt => false,
    }
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 3] = [Kind::Bounce, Kind::Delay, Kind::Success];

    /// What the log calls it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Bounce => "bounce",
            Kind::Delay => "delay warning",
            Kind::Success => "delivery report",
        }
    }

    fn covers(self, outcome: Outcome) -> bool {
        match self {
            Kind::Bounce => matches!(outcome, Outcome::Failed | Outcome::Expired),
            Kind::Delay => outcome == Outcome::Deferred,
            Kind::Success => outcome == Outcome::Relayed,
        }
    }

    fn subject(self) -> &'static str {
        match self {
            Kind::Bounce => "Undelivered mail returned to sender",
            Kind::Delay => "Delayed mail: not delivered yet, still trying",
            Kind::Success => "Delivery report: your mail was passed on",
        }
    }
}

impl<'a> Notice<'a> {
    /// Those that a report of this kind is about.
    pub fn about(&self, kind: Kind) -> Vec<&'a Told<'a>> {
        let about = |told: &&Told<'_>| {
            // That it was wanted is why the alias is remembered.
            let wanted =
                told.expanded.is_some() || wanted_of(self.message, told.recipient.notify, told.outcome);
            kind.covers(told.outcome) && wanted
        };
        self.told.iter().filter(about).collect()
    }
}

/// Writes a report of this kind. None where nobody is to be told: a null sender, or no recipient that asks for it.
pub fn report(kind: Kind, notice: &Notice<'_>) -> Option<Report> {
    let sender = notice.message.sender.as_ref()?;
    let told = notice.about(kind);
    if told.is_empty() {
        return None;
    }
    let to = writable(sender);
    let script = if to.user().is_ascii() { Script::Ascii } else { Script::Utf8 };
    let fields = status::fields(kind, script, notice, &told);
    // RFC 6533 §4.4: what is ASCII is better said in the type that everybody knows.
    let fields = match fields.is_ascii() {
        true => ("message/delivery-status", ContentTransferEncoding::SevenBit, fields.into_bytes()),
        false => ("message/global-delivery-status", ContentTransferEncoding::EightBit, fields.into_bytes()),
    };
    let mut parts =
        vec![plain(human_part::explanation(kind, notice, &told)), part(fields.0, fields.1, fields.2)];
    parts.extend(returned::original(kind, script, notice));
    let mut body = MultiPart::builder()
        .header(content_type(&format!(
            "multipart/report; report-type=delivery-status; boundary=\"{}\"",
            boundary(notice.id, &parts)
        )))
        .build();
    if parts.iter().any(|part| !part.formatted().is_ascii()) {
        // RFC 2045 §6.4: a multipart says so when one of its parts is 8bit.
        body.headers_mut().set(ContentTransferEncoding::EightBit);
    }
    // RFC 3834 §5: in answer to a message.
    let head = head(notice.id, notice.hostname, notice.now, &to, kind.subject(), "auto-replied");
    let mut content = head.to_string().into_bytes();
    content.extend(parts.into_iter().fold(body, MultiPart::singlepart).formatted());
    // RFC 8689 §5: what protected the message protects the report of it. As urgent as the message.
    let handling = Handling {
        priority: notice.message.handling.priority,
        require_tls: notice.message.handling.require_tls,
        ..Handling::default()
    };
    Some(Report { envelope: envelope(to, &content, handling), content })
}

/// From `<>`, with the parameters that the content needs.
fn envelope(to: Address, content: &[u8], handling: Handling) -> Envelope {
    Envelope {
        sender: None,
        body: if content.is_ascii() { Body::SevenBit } else { Body::EightBitMime },
        smtputf8: !to.to_string().is_ascii(),
        // RFC 3461 §6.1: reports ask for none themselves.
        recipients: vec![Recipient { notify: Some(Notify::NEVER), ..Recipient::new(to) }],
        ret: None,
        envid: None,
        handling,
    }
}

/// All header fields but those of the content. RFC 3834 §2: nobody's vacation program answers this.
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

/// The sender's address, its domain in A-labels so that SMTPUTF8 is needed only for a local part beyond ASCII.
/// A row that a person edited may hold anything: control characters never reach a field.
fn writable(address: &Address) -> Address {
    let clean = |text: &str| text.chars().filter(|c| !c.is_control()).collect::<String>();
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
