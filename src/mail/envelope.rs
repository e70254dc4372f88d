//! Envelopes: the sender, the recipients, and the parameters of MAIL and RCPT that travel with a message.

use super::{Address, Handling, address};

/// The BODY parameter: which bytes the content may have (RFC 6152, RFC 3030).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Body {
    /// Lines of US-ASCII.
    #[default]
    SevenBit,
    /// Lines with any bytes.
    EightBitMime,
    /// Any bytes, no line structure.
    BinaryMime,
}

impl Body {
    /// The value of the BODY parameter, in lower case as in `messages.body`.
    pub fn as_str(self) -> &'static str {
        match self {
            Body::SevenBit => "7bit",
            Body::EightBitMime => "8bitmime",
            Body::BinaryMime => "binarymime",
        }
    }

    /// Reads what [`Body::as_str`] writes; any case.
    pub fn from_word(word: &str) -> Option<Body> {
        [Body::SevenBit, Body::EightBitMime, Body::BinaryMime]
            .into_iter()
            .find(|body| body.as_str().eq_ignore_ascii_case(word))
    }
}

/// How much of the message a bounce returns (RFC 3461 §4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ret {
    /// The whole message.
    Full,
    /// Its header only.
    Hdrs,
}

impl Ret {
    /// The value of the RET parameter.
    pub fn as_str(self) -> &'static str {
        match self {
            Ret::Full => "FULL",
            Ret::Hdrs => "HDRS",
        }
    }

    /// Reads what [`Ret::as_str`] writes; any case.
    pub fn from_word(word: &str) -> Option<Ret> {
        [Ret::Full, Ret::Hdrs].into_iter().find(|ret| ret.as_str().eq_ignore_ascii_case(word))
    }
}

/// The NOTIFY parameter: when the sender wants a report about a recipient (RFC 3461 §4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notify {
    /// On delivery.
    pub success: bool,
    /// On failure.
    pub failure: bool,
    /// On delay.
    pub delay: bool,
}

impl Notify {
    /// No reports at all.
    pub const NEVER: Notify = Notify { success: false, failure: false, delay: false };
    /// For a recipient without NOTIFY: failures and, by local choice, delays.
    pub const DEFAULT: Notify = Notify { success: false, failure: true, delay: true };

    /// The value of the NOTIFY parameter: `NEVER`, or a list such as `FAILURE,DELAY`.
    pub fn to_word(self) -> String {
        let words = [(self.success, "SUCCESS"), (self.failure, "FAILURE"), (self.delay, "DELAY")];
        let list: Vec<&str> = words.iter().filter(|(on, _)| *on).map(|(_, word)| *word).collect();
        if list.is_empty() { "NEVER".to_owned() } else { list.join(",") }
    }

    /// Reads a NOTIFY value; none for other text (`NEVER` cannot be in a list).
    pub fn from_word(value: &str) -> Option<Notify> {
        if value.eq_ignore_ascii_case("NEVER") {
            return Some(Notify::NEVER);
        }
        let mut notify = Notify::NEVER;
        for word in value.split(',') {
            match word.to_ascii_uppercase().as_str() {
                "SUCCESS" => notify.success = true,
                "FAILURE" => notify.failure = true,
                "DELAY" => notify.delay = true,
                _ => return None,
            }
        }
        Some(notify)
    }
}

/// One recipient of an envelope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipient {
    /// The address as in RCPT, with the case of its local part.
    pub address: Address,
    /// The NOTIFY parameter; none where RCPT had none.
    pub notify: Option<Notify>,
    /// The ORCPT parameter as given, `rfc822;user@example.com` (xtext kept; RFC 3461 §4.2).
    pub orcpt: Option<String>,
    /// Aliases that led to this recipient and whose expansion is yet to be reported.
    pub expanded: Vec<Expanded>,
}

/// An alias with several members and NOTIFY=SUCCESS: the report says that the alias was expanded, and nothing of its
/// members' deliveries (RFC 3461 §5.2.7.3 (c)). One of the members carries it until it is reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expanded {
    /// The address in RCPT.
    pub alias: Address,
    /// Its ORCPT.
    pub orcpt: Option<String>,
}

impl Expanded {
    /// The text of `recipients.expanded`: one line for each alias, a tab before its ORCPT. None without an alias.
    pub fn to_text(all: &[Expanded]) -> Option<String> {
        let line = |one: &Expanded| match &one.orcpt {
            Some(orcpt) => format!("{}\t{orcpt}", one.alias),
            None => one.alias.to_string(),
        };
        (!all.is_empty()).then(|| all.iter().map(line).collect::<Vec<_>>().join("\n"))
    }

    /// Reads what [`Expanded::to_text`] writes; other lines are left out.
    pub fn from_text(text: &str) -> Vec<Expanded> {
        let lines =
            text.lines().map(|line| line.split_once('\t').map_or((line, None), |(a, o)| (a, Some(o))));
        lines
            .filter_map(|(alias, orcpt)| {
                let alias = address::parse(alias).ok()?;
                Some(Expanded { alias, orcpt: orcpt.map(str::to_owned) })
            })
            .collect()
    }
}

impl Recipient {
    /// A recipient without parameters.
    pub fn new(address: Address) -> Recipient {
        Recipient { address, notify: None, orcpt: None, expanded: Vec::new() }
    }
}

/// Sender, recipients and the parameters that travel with a message.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Envelope {
    /// The reverse-path; none is the null sender `<>`.
    pub sender: Option<Address>,
    /// The forward-paths; never empty in the queue.
    pub recipients: Vec<Recipient>,
    /// BODY.
    pub body: Body,
    /// SMTPUTF8 (RFC 6531).
    pub smtputf8: bool,
    /// RET.
    pub ret: Option<Ret>,
    /// ENVID, xtext as given (RFC 3461 §4.4).
    pub envid: Option<String>,
    /// MT-PRIORITY, REQUIRETLS, FUTURERELEASE, DELIVERBY.
    pub handling: Handling,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expanded_aliases_read_back() {
        let alias = |text: &str, orcpt: Option<&str>| Expanded {
            alias: address::parse(text).unwrap(),
            orcpt: orcpt.map(str::to_owned),
        };
        let all = [alias("team@a.test", None), alias("\"a b\"@a.test", Some("rfc822;x+20y@b"))];
        let text = Expanded::to_text(&all).unwrap();
        assert_eq!(Expanded::from_text(&text), all);
        assert_eq!(Expanded::from_text(&format!("spoilt\n{text}\n\tx")), all);
        assert_eq!((Expanded::to_text(&[]), Expanded::from_text("")), (None, vec![]));
    }

    #[test]
    fn notify_reads_what_it_writes_and_never_stands_alone() {
        for word in ["NEVER", "SUCCESS", "FAILURE,DELAY", "SUCCESS,FAILURE,DELAY"] {
            assert_eq!(Notify::from_word(word).map(Notify::to_word).as_deref(), Some(word));
        }
        assert_eq!(Notify::from_word("success"), Notify::from_word("SUCCESS"));
        assert_eq!(Notify::from_word("NEVER,DELAY"), None);
        assert_eq!(Notify::from_word(""), None);
    }
}
