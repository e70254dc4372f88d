//! Why mail could not be handed over, as data, and the words for it.
//!
//! Pure. What went wrong keeps its type until it is recorded: [`Failure::reply`] is the one place where the codes and
//! texts of our own failures are made. What a failure means for the mail, the host and the lane is `job/ruling.rs`'s.

use std::borrow::Cow;

use crate::mail::{Enhanced, Phase, Reply, TlsPolicy};

use crate::delivery::smtp::timeouts::Stage;
use crate::delivery::smtp::tls::dane::Mismatch;
use crate::delivery::smtp::wire::Fault;

/// Characters of an answer that are kept: several full lines. A row in the database, a line in the log and perhaps
/// a report has them for each recipient and try, and a reply may have 64 KiB, most of them escaped.
pub(in crate::delivery) const WORDS_BYTES_MAX: usize = 4000;

/// Why there is no answer that the mail can be settled by, or what the host refused.
#[derive(Debug, Clone, PartialEq)]
pub enum Failure {
    /// There is no host to try.
    Route(NoRoute),
    /// The message requires TLS (RFC 8689), and that is not to be had.
    RequireTls(RequireTls),
    /// The domain's MTA-STS policy (RFC 8461) is not met.
    Sts(Box<StsRefusal>),
    /// A policy of the domain or its hosts leaves no host to try now.
    NoSafeHost(NoSafeHost),
    /// The TCP connection could not be made.
    Dial(Fault),
    /// TLS could not be started.
    Tls(TlsFailure),
    /// Our side of the login failed, whatever the host would have said.
    Login(LoginFailure),
    /// The host said no, or that it closes the connection.
    Refused {
        /// To what.
        phase: Phase,
        /// Its words.
        reply: Reply,
    },
    /// The host said something that decides nothing: a reply of a class that cannot be the answer (RFC 5321 §4.2.1),
    /// or that fits no command of ours, or that says that it does not know a command it offered.
    BadReply {
        /// To what.
        phase: Phase,
        /// Its words.
        reply: Reply,
    },
    /// No reply came.
    NoReply {
        /// To what.
        phase: Phase,
        /// What was being done meanwhile.
        stage: Stage,
        /// What came instead.
        fault: Fault,
    },
    /// The host lacks something that the message or the recipient cannot do without, so it was not asked.
    Unsendable {
        /// Where it would have been asked.
        phase: Phase,
        /// What is missing.
        why: Unsendable,
    },
    /// The queue could not give the content, or not record the intent to send its end.
    Content(String),
    /// The sender's domain signs its mail (DKIM), and no signature could be made.
    Unsigned(String),
    /// The host puts recipients off to the next transaction, and takes none there.
    NoMoreRecipients,
    /// The host has as much of us as it may, and there is no more time to wait.
    AtLimit,
    /// The attempt's time was over before a host could be asked.
    Deadline,
}

/// Why there is no host to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoRoute {
    /// Of which kind.
    pub why: NoRouteReason,
    /// The particulars.
    pub text: String,
    /// The host it is about, where it is about one.
    pub mx: Option<String>,
}

/// The kinds of [`NoRoute`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoRouteReason {
    /// NXDOMAIN.
    NoSuchDomain,
    /// A null MX (RFC 7505).
    NullMx,
    /// No host of the domain can be used.
    Unroutable,
    /// We are the best host ourselves.
    Loop,
    /// None of those looked at can be used, and there are more.
    NotSeenWhole,
    /// DNS could not be asked, or does not know.
    LookupFailed,
    /// DNSSEC says that what DNS answered is not genuine.
    Bogus,
    /// The configured relay has no address.
    RelayUnknown,
    /// No source address has the family of any of the hosts.
    NoSource,
}

/// A policy leaves no host to try now; another time it may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoSafeHost {
    /// Which.
    pub policy: TlsPolicy,
    /// The host it is about.
    pub host: String,
    /// In words.
    pub text: String,
}

/// Why a message that requires TLS cannot go (RFC 8689 §4.2.1).
#[derive(Debug, Clone, PartialEq)]
pub enum RequireTls {
    /// DNSSEC does not prove the MX records.
    NotSigned,
    /// The route says `tls = "off"`.
    RouteInTheClear,
    /// The host does not offer REQUIRETLS.
    NotOffered,
    /// The connection is not in TLS.
    InTheClear,
    /// TLS failed.
    Tls(TlsFailure),
}

/// Why TLS failed at a host of an MTA-STS policy that is enforced.
#[derive(Debug, Clone, PartialEq)]
pub struct StsRefusal {
    /// Whose policy it is.
    pub domain: String,
    /// Its `id`.
    pub id: String,
    /// The host.
    pub host: String,
    /// What failed there.
    pub why: TlsFailure,
}

/// Why TLS could not be started.
#[derive(Debug, Clone, PartialEq)]
pub enum TlsFailure {
    /// The host offers no STARTTLS, and this policy requires TLS.
    NotOffered(TlsPolicy),
    /// The host's certificate is not the one that its TLSA records mean (RFC 7672).
    Dane(Mismatch),
    /// The handshake.
    Handshake(Fault),
    /// The roots of the route cannot be read.
    Roots(String),
    /// No certificate can hold for this name.
    NoName(String),
}

/// Why our side of a login failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoginFailure {
    /// There is no mechanism that both sides know.
    NoMechanism(String),
    /// There is no secret, the exchange cannot be spoken, or the host gave no proof of itself.
    Other(String),
}

/// What a host lacks, or what is wrong with what we would have to say (RFC 5321, RFC 6531).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsendable {
    /// RFC 1870 §6.1: a client that knows the limit need not try.
    TooBig {
        /// Of the message.
        bytes: u64,
        /// Of the host's SIZE.
        bytes_max: u64,
    },
    /// BINARYMIME content.
    NoBinaryMime,
    /// 8-bit content, where it is to be returned rather than sent all the same.
    NoEightBitMime,
    /// A header that needs SMTPUTF8.
    NoSmtpUtf8ForHeader,
    /// A sender that needs SMTPUTF8.
    NoSmtpUtf8ForSender,
    /// A recipient that needs SMTPUTF8.
    NoSmtpUtf8ForRecipient,
    /// A sender that would break the command.
    BadSender,
    /// A recipient that would break the command.
    BadRecipient,
    /// DELIVERBY with return.
    NoDeliverBy,
    /// The same, and the host needs more time than is left.
    TooLate,
}

impl Failure {
    /// No reply came in this stage.
    pub(in crate::delivery) fn no_reply(stage: Stage, fault: Fault) -> Failure {
        Failure::NoReply { phase: stage.phase, stage, fault }
    }

    /// Where it happened: `attempts.phase`.
    pub fn phase(&self) -> Phase {
        match self {
            Failure::Route(_) | Failure::NoSafeHost(_) | Failure::AtLimit | Failure::Deadline => Phase::Dns,
            Failure::Sts(_) => Phase::Starttls,
            Failure::RequireTls(RequireTls::NotSigned | RequireTls::RouteInTheClear) => Phase::Dns,
            Failure::RequireTls(RequireTls::NotOffered | RequireTls::InTheClear) => Phase::Ehlo,
            Failure::RequireTls(RequireTls::Tls(_)) | Failure::Tls(_) => Phase::Starttls,
            Failure::Dial(_) => Phase::Connect,
            Failure::Login(_) => Phase::Auth,
            Failure::Refused { phase, .. }
            | Failure::BadReply { phase, .. }
            | Failure::NoReply { phase, .. }
            | Failure::Unsendable { phase, .. } => *phase,
            Failure::Content(_) => Phase::EndOfData,
            Failure::Unsigned(_) => Phase::Mail,
            Failure::NoMoreRecipients => Phase::Rcpt,
        }
    }

    /// The relay stops, and the host was waited for no longer.
    pub fn is_stop(&self) -> bool {
        match self {
            Failure::Dial(fault)
            | Failure::NoReply { fault, .. }
            | Failure::Tls(TlsFailure::Handshake(fault))
            | Failure::RequireTls(RequireTls::Tls(TlsFailure::Handshake(fault))) => *fault == Fault::Stopping,
            Failure::Sts(refusal) => refusal.why == TlsFailure::Handshake(Fault::Stopping),
            _ => false,
        }
    }

    /// The host's words, or ours where it had none; no more of them than are kept.
    pub fn reply(&self) -> Reply {
        self.words().cut(WORDS_BYTES_MAX)
    }

    fn words(&self) -> Reply {
        let (code, enhanced, text): (u16, Enhanced, Cow<'static, str>) = match self {
            Failure::Refused { reply, .. } | Failure::BadReply { reply, .. } => return reply.clone(),
            Failure::Route(none) => return none.reply(),
            Failure::RequireTls(why) => return why.reply(),
            Failure::Tls(why) => return why.reply(),
            Failure::Sts(refusal) => return refusal.reply(),
            // RFC 3463 §3.8: other or undefined security status.
            Failure::NoSafeHost(none) => (451, Enhanced(4, 7, 0), none.text.clone().into()),
            Failure::Unsendable { why, .. } => return why.reply(),
            Failure::NoReply { stage, fault, .. } => return fault.reply(*stage),
            Failure::Dial(fault) => return fault.reply(Stage::CONNECTING),
            // RFC 3463 §3.8: security features not supported; other or undefined security status.
            Failure::Login(LoginFailure::NoMechanism(text)) => (451, Enhanced(4, 7, 4), text.clone().into()),
            Failure::Login(LoginFailure::Other(text)) => (451, Enhanced(4, 7, 0), text.clone().into()),
            // RFC 3463 §3.4: our own mail system is at fault.
            Failure::Content(error) => {
                (451, Enhanced(4, 3, 0), format!("Postrider could not send the content: {error}").into())
            }
            // RFC 3463 §3.4: system incorrectly configured.
            Failure::Unsigned(why) => {
                (451, Enhanced(4, 3, 5), format!("not sent without a DKIM signature: {why}").into())
            }
            Failure::NoMoreRecipients => {
                (451, Enhanced(4, 5, 3), "the host took no further recipient of this message".into())
            }
            Failure::AtLimit => {
                (451, Enhanced(4, 4, 5), "the host had no room for more connections or messages".into())
            }
            Failure::Deadline => {
                (451, Enhanced(4, 4, 7), "the attempt's deadline passed before a host could be asked".into())
            }
        };
        Reply::new(code, enhanced, "").with_text(text)
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.phase().as_str(), self.reply())
    }
}

impl NoRoute {
    /// In words.
    pub fn reply(&self) -> Reply {
        let (code, enhanced) = match self.why {
            // RFC 3463 §3.2: bad destination system address.
            NoRouteReason::NoSuchDomain => (550, Enhanced(5, 1, 2)),
            // RFC 7505 §4.1, RFC 7504 §4.
            NoRouteReason::NullMx => (556, Enhanced(5, 1, 10)),
            // RFC 3463 §3.5: unable to route; routing loop detected; directory server failure.
            NoRouteReason::Unroutable => (550, Enhanced(5, 4, 4)),
            NoRouteReason::Loop => (554, Enhanced(5, 4, 6)),
            NoRouteReason::LookupFailed | NoRouteReason::Bogus => (451, Enhanced(4, 4, 3)),
            // Unable to route: the next attempt looks further, or the operator has to repair it.
            NoRouteReason::NotSeenWhole | NoRouteReason::RelayUnknown => (451, Enhanced(4, 4, 4)),
            // RFC 3463 §3.4: system incorrectly configured.
            NoRouteReason::NoSource => (451, Enhanced(4, 3, 5)),
        };
        Reply::new(code, enhanced, "").with_text(self.text.clone())
    }
}

impl RequireTls {
    /// RFC 8689 §4.2.1 and its registration: 5.7.30 where the requirement is not known, 5.7.10 where TLS is not to be
    /// had.
    fn reply(&self) -> Reply {
        const NO_TLS: Reply = Reply::new(550, Enhanced(5, 7, 10), "Encryption needed");
        match self {
            RequireTls::NotSigned => Reply::new(
                550,
                Enhanced(5, 7, 30),
                "REQUIRETLS support required, and the MX records of the domain are not secured by DNSSEC",
            ),
            RequireTls::NotOffered => Reply::new(
                550,
                Enhanced(5, 7, 30),
                "REQUIRETLS support required, and the host does not offer it",
            ),
            RequireTls::RouteInTheClear | RequireTls::InTheClear => NO_TLS,
            RequireTls::Tls(why) => NO_TLS.with_text(format!("{}: {}", NO_TLS.text, why.reply().text)),
        }
    }
}

impl StsRefusal {
    fn reply(&self) -> Reply {
        let StsRefusal { domain, id, host, why } = self;
        let reply = why.reply();
        let text = match why {
            TlsFailure::NotOffered(_) => format!("wants TLS, and {host} offers no STARTTLS"),
            _ => format!("wants TLS with a certificate that holds for {host}: {}", reply.text),
        };
        reply.with_text(format!("the MTA-STS policy of {domain} (mode enforce, id {id}) {text}"))
    }
}

impl TlsFailure {
    fn reply(&self) -> Reply {
        // RFC 3463 §3.8: security features not supported; cryptographic failure.
        const BROKEN: Reply = Reply::new(451, Enhanced(4, 7, 5), "");
        match self {
            TlsFailure::NotOffered(policy) => Reply::new(451, Enhanced(4, 7, 4), "").with_text(format!(
                "the host offers no STARTTLS, and {}",
                match policy {
                    TlsPolicy::Dane => "its TLSA records (DANE) require TLS",
                    TlsPolicy::StsTesting | TlsPolicy::StsEnforce =>
                        "its domain's MTA-STS policy requires TLS",
                    TlsPolicy::RequireTls => "this message requires TLS",
                    TlsPolicy::None | TlsPolicy::Route => "this route must not go in the clear",
                }
            )),
            TlsFailure::Dane(why) => BROKEN.with_text(format!("DANE: {why}")),
            TlsFailure::Handshake(fault) => fault.reply(Stage::of(Phase::Starttls)),
            TlsFailure::Roots(error) => BROKEN.with_text(error.clone()),
            TlsFailure::NoName(host) => {
                BROKEN.with_text(format!("no certificate can hold for the name {host}"))
            }
        }
    }
}

impl Unsendable {
    fn reply(self) -> Reply {
        // RFC 3463 §3.2 to §3.7; RFC 6531 §3.5 and RFC 5248 for 5.6.7 and 5.6.9.
        let (code, enhanced, text) = match self {
            Unsendable::TooBig { bytes, bytes_max } => {
                let text = format!("the message has {bytes} bytes, and the host takes {bytes_max} at most");
                return Reply::new(552, Enhanced(5, 3, 4), "").with_text(text);
            }
            Unsendable::NoBinaryMime => {
                (554, Enhanced(5, 6, 3), "the host has no BINARYMIME and CHUNKING, which the content needs")
            }
            Unsendable::NoEightBitMime => {
                (554, Enhanced(5, 6, 3), "the host has no 8BITMIME, which the content needs")
            }
            Unsendable::NoSmtpUtf8ForHeader => {
                (554, Enhanced(5, 6, 9), "the host has no SMTPUTF8, which the message's header needs")
            }
            Unsendable::NoSmtpUtf8ForSender => {
                (553, Enhanced(5, 6, 7), "the host has no SMTPUTF8, which the sender's address needs")
            }
            Unsendable::NoSmtpUtf8ForRecipient => {
                (553, Enhanced(5, 6, 7), "the host has no SMTPUTF8, which this address needs")
            }
            Unsendable::BadSender => {
                (553, Enhanced(5, 1, 7), "the sender's address cannot be written into a command")
            }
            Unsendable::BadRecipient => {
                (553, Enhanced(5, 1, 3), "the address cannot be written into a command")
            }
            Unsendable::NoDeliverBy => (
                554,
                Enhanced(5, 3, 3),
                "the host has no DELIVERBY, and the sender wants the message back rather than late",
            ),
            Unsendable::TooLate => {
                (554, Enhanced(5, 4, 7), "the host cannot deliver in what is left of the sender's time")
            }
        };
        Reply::new(code, enhanced, text)
    }
}

impl Fault {
    /// In words (RFC 3463 §3.5: 4.4.1 no answer, 4.4.2 bad connection; §3.6: 4.5.0 protocol; §3.8: 4.7.5
    /// cryptographic failure).
    fn reply(&self, stage: Stage) -> Reply {
        let sentence = stage.sentence;
        let broken = if stage.phase == Phase::Connect { Enhanced(4, 4, 1) } else { Enhanced(4, 4, 2) };
        let (code, enhanced, text) = match self {
            Fault::TimedOut => (421, broken, format!("timed out {sentence}")),
            Fault::Deadline => (421, broken, format!("the attempt's deadline passed {sentence}")),
            Fault::Lost(None) => (421, broken, format!("the host closed the connection {sentence}")),
            Fault::Lost(Some(error)) => (421, broken, format!("connection lost {sentence}: {error}")),
            Fault::Malformed(what) => (451, Enhanced(4, 5, 0), format!("malformed reply {sentence}: {what}")),
            // RFC 3463 §3.4: system incorrectly configured.
            Fault::NoSource(from, error) => {
                let text = format!("cannot send from {from}, a source address of this relay: {error}");
                (451, Enhanced(4, 3, 5), text)
            }
            Fault::OutOfTurn => (451, Enhanced(4, 5, 0), format!("the host spoke out of turn {sentence}")),
            Fault::Tls(error) => (451, Enhanced(4, 7, 5), format!("TLS failed {sentence}: {error}")),
            // RFC 3463 §3.4: our own system does not take part for now.
            Fault::Stopping => (451, Enhanced(4, 3, 2), format!("this relay was stopped {sentence}")),
        };
        Reply::new(code, enhanced, "").with_text(text)
    }
}
