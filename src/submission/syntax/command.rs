//! The commands of SMTP as they stood on their line (RFC 5321 §4.1), and what may be wrong with a line.
//!
//! No value here holds a control character, and all text is UTF-8.

use crate::mail::address::AddressError;
use crate::mail::{Address, Body, Domain, Hold, Notify, Priority, Ret};
use crate::queue::Kick;

/// A command as it stood on its line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::submission) enum Command {
    /// With what the client calls itself.
    Helo(String),
    /// With what the client calls itself.
    Ehlo(String),
    Mail(Mail),
    Rcpt(Rcpt),
    Data,
    Bdat(Chunk),
    Rset,
    Noop,
    /// With the command it asks about.
    Help(Option<String>),
    /// With the name or address it asks about.
    Vrfy(NameQuery),
    /// With the list it asks about.
    Expn(NameQuery),
    Etrn(Node),
    /// With the domains that are named.
    Atrn(Vec<Domain>),
    Operator(OperatorCommand),
    Starttls,
    Auth {
        /// Upper case.
        mechanism: String,
        /// The initial response, still in base 64.
        initial: Option<String>,
    },
    Quit,
}

/// MAIL.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in crate::submission) struct Mail {
    /// None: the null sender.
    pub(in crate::submission) sender: Option<Address>,
    /// SIZE, bytes.
    pub(in crate::submission) size: Option<u64>,
    pub(in crate::submission) body: Body,
    pub(in crate::submission) smtputf8: bool,
    pub(in crate::submission) ret: Option<Ret>,
    /// ENVID, xtext.
    pub(in crate::submission) envid: Option<String>,
    /// HOLDFOR or HOLDUNTIL.
    pub(in crate::submission) hold: Option<Hold>,
    pub(in crate::submission) by: Option<By>,
    /// MT-PRIORITY.
    pub(in crate::submission) priority: Option<Priority>,
    pub(in crate::submission) require_tls: bool,
}

/// BY (RFC 2852 §4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::submission) struct By {
    /// Seconds from now; positive in mode `R`.
    pub(in crate::submission) secs: i64,
    /// `R`, not `N`.
    pub(in crate::submission) returns: bool,
    /// `T`.
    pub(in crate::submission) trace: bool,
}

/// RCPT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::submission) struct Rcpt {
    pub(in crate::submission) to: ForwardPath,
    pub(in crate::submission) notify: Option<Notify>,
    /// ORCPT as given, xtext.
    pub(in crate::submission) orcpt: Option<String>,
}

/// BDAT (RFC 3030 §2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::submission) struct Chunk {
    /// Bytes of content that follow the command's line.
    pub(in crate::submission) bytes: u64,
    /// LAST: the message is complete with them.
    pub(in crate::submission) last: bool,
}

/// Who a RCPT is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::submission) enum ForwardPath {
    /// A name without a domain, lower case; `<Postmaster>` is one (RFC 5321 §4.5.1).
    Local(String),
    Mailbox(Address),
}

/// Why a line is no command; `replies::syntax` says it to the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::submission) enum SyntaxError {
    /// A browser's request: no mail client at all.
    NotSmtp,
    /// No such command.
    Unknown,
    /// Longer than this command may be.
    TooLong,
    /// A bare CR, NUL or another control character.
    Control,
    /// A LF without its CR.
    BareLf,
    /// Bytes that are not UTF-8.
    NotUtf8,
    /// The arguments do not fit; how it is written.
    Usage(&'static str),
    /// The address of MAIL.
    Sender(AddressError),
    /// The address of RCPT.
    Recipient(AddressError),
    /// No such parameter here.
    UnknownParameter(String),
    /// A value that this parameter cannot have, or the parameter twice.
    BadParameter(&'static str),
    /// BDAT without a size that can be read: where its content ends and commands go on cannot be told.
    ChunkSize,
    /// A command of the past; what to use instead.
    Retired(&'static str),
}

/// The argument of VRFY and of EXPN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::submission) struct NameQuery {
    /// A local name or an address, with or without brackets; never empty.
    pub(in crate::submission) name: String,
    /// SMTPUTF8: the answer may be UTF-8.
    pub(in crate::submission) utf8: bool,
}

/// What an ETRN asks for (RFC 1985 §5.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::submission) enum Node {
    /// `host` or `@domain`.
    Kick(Kick),
    /// `#lane`: "a name that only this host would know", here a lane's (`XSTA` lists them).
    Lane(String),
}

impl std::fmt::Display for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Node::Kick(kick) => kick.fmt(f),
            Node::Lane(lane) => write!(f, "#{lane}"),
        }
    }
}

/// A private command as it stood on its line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::submission) enum OperatorCommand {
    /// With an address or a local name.
    Xadr(String),
    Xsta(Option<String>),
    Xcir(Option<String>),
    Xgen,
    /// Arguments that do not fit; how it is written. No syntax error yet: strangers hear 502.
    Misused(&'static str),
}

/// Each command with how it is written, for HELP and for 501.
pub(in crate::submission) const USAGE: &[(&str, &str)] = &[
    ("HELO", "HELO domain"),
    ("EHLO", "EHLO domain"),
    (
        "MAIL",
        "MAIL FROM:<address> [SIZE=n] [BODY=7BIT|8BITMIME|BINARYMIME] [SMTPUTF8] [RET=FULL|HDRS] [ENVID=id]\n\
         [HOLDFOR=seconds|HOLDUNTIL=time] [BY=seconds;R|N[T]] [MT-PRIORITY=-9...9] [REQUIRETLS]",
    ),
    ("RCPT", "RCPT TO:<address> [NOTIFY=NEVER|SUCCESS,FAILURE,DELAY] [ORCPT=type;address]"),
    ("DATA", "DATA"),
    ("BDAT", "BDAT size [LAST]"),
    ("RSET", "RSET"),
    ("NOOP", "NOOP [text]"),
    ("QUIT", "QUIT"),
    ("HELP", "HELP [command]"),
    ("VRFY", "VRFY name-or-address [SMTPUTF8]"),
    ("EXPN", "EXPN list [SMTPUTF8]"),
    ("ETRN", ETRN_USAGE),
    ("ATRN", ATRN_USAGE),
    ("STARTTLS", "STARTTLS"),
    ("AUTH", "AUTH mechanism [initial-response]"),
];

/// Each command of operators with how it is written, for HELP to operators and for 501.
pub(in crate::submission) const OPERATOR_USAGE: &[(&str, &str)] =
    &[("XADR", "XADR address"), ("XSTA", "XSTA [lane]"), ("XCIR", "XCIR [lane]"), ("XGEN", "XGEN")];

/// How ETRN is written.
pub(in crate::submission) const ETRN_USAGE: &str = "ETRN host | @domain | #lane";
/// How ATRN is written.
pub(in crate::submission) const ATRN_USAGE: &str = "ATRN [domain,domain…]";
