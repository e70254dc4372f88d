//! MAIL and RCPT as one host can be given them: the parameters for what it offers, addresses in the
//! form it takes, and the refusal of what it cannot take at all, found out without asking it.
//!
//! Pure. The commands are lettre's; parameters that are xtext already are written as they are.

use std::borrow::Cow;

use lettre::transport::smtp::commands::{Mail, Rcpt};
use lettre::transport::smtp::extension::{MailBodyParameter, MailParameter, RcptParameter};

use crate::config::EightBit;
use crate::mail::{Address, Body, Domain, Enhanced, Priority, Reply, address, unitext};

use crate::delivery::smtp::capabilities::Capabilities;
use crate::delivery::smtp::outgoing::Outgoing;

/// The commands of one transaction.
pub(in crate::delivery) struct Commands<'a> {
    message: &'a Outgoing<'a>,
    capabilities: &'a Capabilities,
    header_is_ascii: bool,
    utf8_parameter: bool,
    /// None: the null sender.
    sender: Option<Result<Cow<'a, Address>, Reply>>,
    recipients: Vec<Result<Cow<'a, Address>, Reply>>,
}

impl<'a> Commands<'a> {
    /// For a host with these capabilities. `header_is_ascii` matters only where the message wants SMTPUTF8
    /// and the host has none.
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
            sender: message.sender.map(|sender| writable(sender, capabilities.smtputf8, &BAD_SENDER)),
            recipients: recipients
                .map(|to| writable(&to.address, capabilities.smtputf8, &BAD_RECIPIENT))
                .collect(),
        }
    }

    /// Why the host cannot take the message, whoever its recipients are. It is as final as if the host had said so
    /// at MAIL: no other is asked, since a backup would only hand the message to the host that cannot take it.
    pub(in crate::delivery) fn message_refusal(&self) -> Option<Reply> {
        let (message, capabilities) = (self.message, self.capabilities);
        if let Some(max) = capabilities.size_max.filter(|max| message.size > *max) {
            // RFC 1870 §6.1: a client that knows the limit need not try.
            let text = format!("the message has {} bytes, and the host takes {max} at most", message.size);
            return Some(TOO_BIG.with_text(text));
        }
        if message.body == Body::BinaryMime && !(capabilities.chunking && capabilities.binary_mime) {
            return Some(BINARY); // RFC 3030 §3: never through DATA, and not to a host that would not know it.
        }
        if message.body == Body::EightBitMime
            && !capabilities.eight_bit
            && message.eight_bit == EightBit::Bounce
        {
            return Some(EIGHT_BIT); // RFC 6152 §3: convert it, which we never do, or return it.
        }
        if message.smtputf8 && !capabilities.smtputf8 && !self.header_is_ascii {
            return Some(UTF8_HEADER);
        }
        self.late_refusal().or_else(|| self.sender.as_ref()?.as_ref().err().cloned())
    }

    /// RFC 2852 §4.1.4: what has to be returned when its time is over goes only to a host that promises to do so,
    /// and that has enough time.
    fn late_refusal(&self) -> Option<Reply> {
        let returns_at = self.message.handling.returns_at()?;
        match self.capabilities.deliver_by {
            None => Some(NO_DELIVERBY),
            Some(min) if returns_at - self.message.now < min.max(1) => Some(TOO_LATE),
            Some(_) => None,
        }
    }

    /// Why the host cannot be told of this recipient.
    pub(in crate::delivery) fn recipient_refusal(&self, index: usize) -> Option<Reply> {
        self.recipients[index].as_ref().err().cloned()
    }

    /// MAIL with its parameters; [`Commands::message_refusal`] had none to say.
    pub(in crate::delivery) fn mail(&self) -> Mail {
        let (message, capabilities) = (self.message, self.capabilities);
        let mut parameters = Vec::new();
        if capabilities.size {
            parameters.push(MailParameter::Size(usize::try_from(message.size).unwrap_or(usize::MAX)));
        }
        // Without the offer the content goes out as it is where `eight_bit` says so: that is what works.
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

    /// RCPT with its parameters; none where [`Commands::recipient_refusal`] has one.
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

    /// ORCPT may hold UTF-8 only under SMTPUTF8, and says the same in ASCII (RFC 6533 §3). None where a hand in
    /// the database made it something that would end the command line.
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

/// Printable ASCII without space: cannot end the command line, whatever the database holds.
fn is_xtext(value: &str) -> bool {
    value.bytes().all(|byte| byte.is_ascii_graphic())
}

fn is_ascii(address: &Address) -> bool {
    AsRef::<str>::as_ref(address).is_ascii()
}

/// The address as this host can be given it. Where it has no SMTPUTF8, a domain becomes its A-labels
/// (RFC 6531 §3.2 leaves that open, and it is the same domain); a local part cannot be changed.
fn writable<'a>(address: &'a Address, smtputf8: bool, bad: &Refusals) -> Result<Cow<'a, Address>, Reply> {
    // The queue is a file that people edit: nothing may reach the wire that ends the address early.
    if address::parse(address.as_ref()).is_err() {
        return Err(bad.syntax.clone());
    }
    if smtputf8 || is_ascii(address) {
        return Ok(Cow::Borrowed(address));
    }
    if !address.user().is_ascii() {
        return Err(bad.utf8.clone());
    }
    match Domain::parse(address.domain()) {
        Ok(domain) => Ok(Cow::Owned(Address::new_dangerous(address.user(), domain.as_str()))),
        Err(_) => Err(bad.syntax.clone()),
    }
}

/// Our words for an address that cannot be sent.
struct Refusals {
    syntax: Reply,
    utf8: Reply,
}

// RFC 3463 §3.2 for the syntax; RFC 6531 §3.5 and RFC 5248 for 5.6.7 and 5.6.9.
const BAD_SENDER: Refusals = Refusals {
    syntax: Reply::new(553, Enhanced(5, 1, 7), "the sender's address cannot be written into a command"),
    utf8: Reply::new(553, Enhanced(5, 6, 7), "the host has no SMTPUTF8, which the sender's address needs"),
};
const BAD_RECIPIENT: Refusals = Refusals {
    syntax: Reply::new(553, Enhanced(5, 1, 3), "the address cannot be written into a command"),
    utf8: Reply::new(553, Enhanced(5, 6, 7), "the host has no SMTPUTF8, which this address needs"),
};
const UTF8_HEADER: Reply =
    Reply::new(554, Enhanced(5, 6, 9), "the host has no SMTPUTF8, which the message's header needs");
const BINARY: Reply =
    Reply::new(554, Enhanced(5, 6, 3), "the host has no BINARYMIME and CHUNKING, which the content needs");
const EIGHT_BIT: Reply =
    Reply::new(554, Enhanced(5, 6, 3), "the host has no 8BITMIME, which the content needs");
/// RFC 3463 §3.4, §3.5.
const NO_DELIVERBY: Reply = Reply::new(
    554,
    Enhanced(5, 3, 3),
    "the host has no DELIVERBY, and the sender wants the message back rather than late",
);
const TOO_LATE: Reply =
    Reply::new(554, Enhanced(5, 4, 7), "the host cannot deliver in what is left of the sender's time");
const TOO_BIG: Reply = Reply::new(552, Enhanced(5, 3, 4), "the message is larger than the host takes");
