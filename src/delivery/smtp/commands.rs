//! MAIL and RCPT for one host: with the parameters and the form of addresses that it supports. A message or recipient
//! that needs more than the host supports is refused here, without asking it.
//!
//! Pure. The commands are lettre's types.

use std::borrow::Cow;

use lettre::transport::smtp::commands::{Mail, Rcpt};
use lettre::transport::smtp::extension::{MailBodyParameter, MailParameter, RcptParameter};

use crate::config::EightBit;
use crate::mail::{Address, Body, Domain, Priority, address, unitext};

use crate::delivery::smtp::capabilities::Capabilities;
use crate::delivery::smtp::failure::Unsendable;
use crate::delivery::smtp::outgoing::Outgoing;

/// The commands of one transaction.
pub(in crate::delivery) struct Commands<'a> {
    message: &'a Outgoing<'a>,
    capabilities: &'a Capabilities,
    header_is_ascii: bool,
    utf8_parameter: bool,
    /// None: the null sender.
    sender: Option<Result<Cow<'a, Address>, Unsendable>>,
    recipients: Vec<Result<Cow<'a, Address>, Unsendable>>,
}

impl<'a> Commands<'a> {
    /// For a host with these capabilities. `header_is_ascii` matters only where a message with SMTPUTF8 goes to
    /// a host without it.
    pub(in crate::delivery) fn new(
        message: &'a Outgoing<'a>,
        capabilities: &'a Capabilities,
        header_is_ascii: bool,
    ) -> Commands<'a> {
        let any_utf8 = message.sender.is_some_and(|sender| !is_ascii(sender))
            || message.recipients.iter().any(|recipient| !is_ascii(&recipient.address));
        let recipients = message.recipients.iter();
        Commands {
            message,
            capabilities,
            header_is_ascii,
            utf8_parameter: capabilities.smtputf8 && (message.smtputf8 || any_utf8),
            sender: message.sender.map(|sender| writable(sender, capabilities.smtputf8, SENDER)),
            recipients: recipients
                .map(|to| writable(&to.address, capabilities.smtputf8, RECIPIENT))
                .collect(),
        }
    }

    /// Why the host cannot take the message, whatever its recipients. As final as a refusal of MAIL: no other host is
    /// asked, since a backup would only pass the message on to the host that cannot take it.
    pub(in crate::delivery) fn message_refusal(&self) -> Option<Unsendable> {
        let (message, capabilities) = (self.message, self.capabilities);
        if let Some(bytes_max) = capabilities.size_max.filter(|max| message.size > *max) {
            return Some(Unsendable::TooBig { bytes: message.size, bytes_max });
        }
        if message.body == Body::BinaryMime && !(capabilities.chunking && capabilities.binary_mime) {
            // RFC 3030 §3: never by DATA, and only to a host with BINARYMIME.
            return Some(Unsendable::NoBinaryMime);
        }
        if message.body == Body::EightBitMime
            && !capabilities.eight_bit
            && message.eight_bit == EightBit::Bounce
        {
            // RFC 6152 §3: convert it, which Postrider never does, or return it.
            return Some(Unsendable::NoEightBitMime);
        }
        if message.smtputf8 && !capabilities.smtputf8 && !self.header_is_ascii {
            return Some(Unsendable::NoSmtpUtf8ForHeader);
        }
        self.late_refusal().or_else(|| self.sender.as_ref()?.as_ref().err().copied())
    }

    /// RFC 2852 §4.1.4: a message that must be returned when its time is over goes only to a host with DELIVERBY, and
    /// only if the time left is enough for that host.
    fn late_refusal(&self) -> Option<Unsendable> {
        let returns_at = self.message.handling.returns_at()?;
        match self.capabilities.deliver_by {
            None => Some(Unsendable::NoDeliverBy),
            Some(min) if returns_at - self.message.now < min.max(1) => Some(Unsendable::TooLate),
            Some(_) => None,
        }
    }

    /// Why the host cannot take this recipient.
    pub(in crate::delivery) fn recipient_refusal(&self, index: usize) -> Option<Unsendable> {
        self.recipients[index].as_ref().err().copied()
    }

    /// MAIL with its parameters. Only where [`Commands::message_refusal`] is none.
    pub(in crate::delivery) fn mail(&self) -> Mail {
        let (message, capabilities) = (self.message, self.capabilities);
        let mut parameters = Vec::new();
        if capabilities.size {
            parameters.push(MailParameter::Size(usize::try_from(message.size).unwrap_or(usize::MAX)));
        }
        // Without 8BITMIME the content goes out as it is, if `eight_bit` says so: nearly all hosts take it.
        if capabilities.eight_bit && message.body == Body::EightBitMime {
            parameters.push(MailParameter::Body(MailBodyParameter::EightBitMime));
        }
        if message.body == Body::BinaryMime {
            let keyword = verbatim("BODY", "BINARYMIME");
            parameters.push(MailParameter::Other { keyword, value: None });
        }
        if self.utf8_parameter {
            parameters.push(MailParameter::SmtpUtfEight);
        }
        let handling = &message.handling;
        if capabilities.require_tls && handling.require_tls {
            parameters.push(word("REQUIRETLS".to_owned()));
        }
        if capabilities.mt_priority && handling.priority != Priority::NORMAL {
            parameters.push(word(verbatim("MT-PRIORITY", &handling.priority.to_string())));
        }
        if let (Some(_), Some(by)) = (capabilities.deliver_by, &handling.deliver_by) {
            // RFC 2852 §4: up to 9 digits.
            let left = by.at.saturating_sub(message.now).clamp(-999_999_999, 999_999_999);
            parameters.push(word(format!("BY={left};{}", by.mode())));
        }
        if capabilities.dsn {
            let ret = message.ret.map(|ret| verbatim("RET", ret.as_str()));
            let envid = message.envid.filter(|envid| is_xtext(envid)).map(|envid| verbatim("ENVID", envid));
            for keyword in ret.into_iter().chain(envid) {
                parameters.push(word(keyword));
            }
        }
        let sender = self.sender.as_ref().and_then(|sender| sender.as_deref().ok()).cloned();
        Mail::new(sender, parameters)
    }

    /// RCPT with its parameters. None where [`Commands::recipient_refusal`] is one.
    pub(in crate::delivery) fn rcpt(&self, index: usize) -> Option<Rcpt> {
        let address = self.recipients[index].as_deref().ok()?.clone();
        let recipient = self.message.recipients[index];
        let mut parameters = Vec::new();
        if self.capabilities.dsn {
            let notify = recipient.notify.map(|notify| verbatim("NOTIFY", &notify.to_word()));
            let orcpt = recipient.orcpt.as_deref().and_then(|orcpt| self.orcpt(orcpt));
            for keyword in notify.into_iter().chain(orcpt.map(|orcpt| verbatim("ORCPT", &orcpt))) {
                parameters.push(RcptParameter::Other { keyword, value: None });
            }
        }
        Some(Rcpt::new(address, parameters))
    }

    /// ORCPT for this host: UTF-8 under SMTPUTF8, otherwise escaped (RFC 6533 §3). None for text from an edited row
    /// that would end the parameter or the command.
    fn orcpt<'o>(&self, orcpt: &'o str) -> Option<Cow<'o, str>> {
        if orcpt.contains(|c: char| c.is_control() || c == ' ') {
            return None;
        }
        Some(if self.utf8_parameter { Cow::Borrowed(orcpt) } else { Cow::Owned(unitext::in_ascii(orcpt)) })
    }
}

fn word(keyword: String) -> MailParameter {
    MailParameter::Other { keyword, value: None }
}

/// `KEYWORD=value` as one word: lettre would encode the value as xtext, and it is xtext already.
fn verbatim(keyword: &str, value: &str) -> String {
    format!("{keyword}={value}")
}

/// Printable ASCII without spaces, which cannot end the command, whatever the row holds.
fn is_xtext(value: &str) -> bool {
    value.bytes().all(|byte| byte.is_ascii_graphic())
}

fn is_ascii(address: &Address) -> bool {
    AsRef::<str>::as_ref(address).is_ascii()
}

/// The address in the form that the host supports. Without SMTPUTF8 a domain is written in A-labels, which are the same
/// domain (RFC 6531 §3.2 leaves that open); a local part cannot be changed.
fn writable<'a>(address: &'a Address, smtputf8: bool, bad: Bad) -> Result<Cow<'a, Address>, Unsendable> {
    // A row that a person edited may hold anything: no address may end its command early.
    if address::parse(address.as_ref()).is_err() {
        return Err(bad.syntax);
    }
    if smtputf8 || is_ascii(address) {
        return Ok(Cow::Borrowed(address));
    }
    if !address.user().is_ascii() {
        return Err(bad.utf8);
    }
    match Domain::parse(address.domain()) {
        Ok(domain) => Ok(Cow::Owned(Address::new_dangerous(address.user(), domain.as_str()))),
        Err(_) => Err(bad.syntax),
    }
}

/// Why an address cannot be sent.
#[derive(Clone, Copy)]
struct Bad {
    syntax: Unsendable,
    utf8: Unsendable,
}

const SENDER: Bad = Bad { syntax: Unsendable::BadSender, utf8: Unsendable::NoSmtpUtf8ForSender };
const RECIPIENT: Bad = Bad { syntax: Unsendable::BadRecipient, utf8: Unsendable::NoSmtpUtf8ForRecipient };
