//! Every reply that submission sends, by name, each with the RFC it comes from.
//!
//! Replies carry enhanced status codes (RFC 2034, 3463, 5248) but for the greeting, EHLO, 334,
//! 354 and 211 to 221 as those RFCs allow.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::config::size_text;
use crate::mail::address::AddressError;
use crate::mail::reply::first_bytes;
use crate::mail::{Address, Domain, Enhanced, Priority, Reply};
use crate::queue::{AcceptError, Kicked, MessageId};

use crate::submission::syntax::command::{self, SyntaxError};

/// The replies whose text is always the same, and for the tests all of them.
macro_rules! fixed_replies {
    ($($(#[$doc:meta])* $name:ident = $reply:expr;)*) => {
        $($(#[$doc])* pub(super) const $name: Reply = $reply;)*

        #[cfg(test)]
        fn fixed_replies() -> Vec<Reply> {
            vec![$($name),*]
        }
    };
}

fixed_replies! {
    // Sessions.

    /// RFC 5321 §3.8.
    BYE = Reply::new(221, Enhanced(2, 0, 0), "Bye");
    /// RFC 5321 §3.8; the operator stops the relay, or reloads it.
    SHUTTING_DOWN = Reply::new(421, Enhanced(4, 3, 2), "Service shutting down, try again later");
    /// More sessions than `limits.sessions`.
    TOO_MANY_SESSIONS = Reply::new(421, Enhanced(4, 3, 2), "Too many sessions, try again later");
    /// More sessions than `limits.sessions_per_client`.
    TOO_MANY_SESSIONS_FROM_CLIENT =
        Reply::new(421, Enhanced(4, 3, 2), "Too many sessions from your address, try again later");
    /// RFC 5321 §4.5.3.2.7.
    TIMED_OUT = Reply::new(421, Enhanced(4, 4, 2), "Timed out waiting for you");
    /// Longer than `limits.session_timeout`.
    SESSION_TOO_LONG =
        Reply::new(421, Enhanced(4, 4, 2), "Your session has lasted long enough, connect again");
    /// RFC 4954 §6 has no code for it: who logged in, or was trusted, may send no more.
    NO_LONGER_AUTHORIZED =
        Reply::new(421, Enhanced(4, 7, 0), "You may no longer send here: log in again, or ask the operator");
    /// More errors than `limits.errors`.
    TOO_MANY_ERRORS = Reply::new(421, Enhanced(4, 7, 0), "Too many errors");
    /// A line without end.
    LINE_WITHOUT_END = Reply::new(421, Enhanced(4, 7, 0), "Line without end");
    /// RFC 5321 §3.1: no mail is taken from what does not speak SMTP.
    NOT_SMTP = Reply::new(554, Enhanced(5, 5, 2), "This is SMTP, and that was not");

    // Any command.

    /// RFC 5321 §4.1.1.5.
    RESET = Reply::new(250, Enhanced(2, 0, 0), "Ok");
    /// RFC 5321 §4.1.1.9.
    NOOP = Reply::new(250, Enhanced(2, 0, 0), "Ok");
    /// RFC 5321 §4.1.4.
    EHLO_FIRST = Reply::new(503, Enhanced(5, 5, 1), "Say EHLO first");
    /// RFC 4954 §4, RFC 1985 §5.1: not within a mail transaction.
    NOT_IN_TRANSACTION = Reply::new(503, Enhanced(5, 5, 1), "Not within a mail transaction; RSET ends it");
    /// RFC 4954 §6.
    AUTH_REQUIRED = Reply::new(530, Enhanced(5, 7, 0), "Authentication required");
    /// RFC 3207 §4: what is wanted before AUTH.
    STARTTLS_FIRST = Reply::new(530, Enhanced(5, 7, 0), "Say STARTTLS first, then AUTH");
    /// RFC 5321 §4.2.4: not on this service, or not for this client.
    NOT_OFFERED = Reply::new(502, Enhanced(5, 5, 1), "Command not offered here");

    // STARTTLS (RFC 3207 §4).

    TLS_READY = Reply::new(220, Enhanced(2, 0, 0), "Ready to start TLS");
    TLS_ALREADY = Reply::new(503, Enhanced(5, 5, 1), "TLS is already active");
    TLS_UNUSABLE =
        Reply::new(454, Enhanced(4, 7, 0), "TLS not available due to temporary reason, try again later");
    TLS_NOT_OFFERED = Reply::new(502, Enhanced(5, 5, 1), "STARTTLS is not offered here");

    // AUTH (RFC 4954 §4, §6).

    CHALLENGE_EMPTY = Reply::bare(334, "");
    /// `Username:` in base 64.
    CHALLENGE_USERNAME = Reply::bare(334, "VXNlcm5hbWU6");
    /// `Password:` in base 64.
    CHALLENGE_PASSWORD = Reply::bare(334, "UGFzc3dvcmQ6");
    AUTH_OK = Reply::new(235, Enhanced(2, 7, 0), "Authentication succeeded");
    /// The same for a wrong name and a wrong password.
    AUTH_FAILED = Reply::new(535, Enhanced(5, 7, 8), "Authentication failed");
    AUTH_CANCELLED = Reply::new(501, Enhanced(5, 7, 0), "Authentication cancelled");
    AUTH_BAD_BASE64 = Reply::new(501, Enhanced(5, 5, 2), "Not base 64");
    AUTH_BAD_RESPONSE = Reply::new(501, Enhanced(5, 5, 2), "Not a response of this mechanism");
    /// RFC 4954 §4: the line is longer than 12288 bytes.
    AUTH_TOO_LONG = Reply::new(500, Enhanced(5, 5, 6), "Authentication line too long");
    /// RFC 4954 §4: a mechanism in which the server speaks first.
    AUTH_NO_INITIAL_RESPONSE = Reply::new(501, Enhanced(5, 7, 0), "This mechanism has no initial response");
    /// RFC 5802 §6.
    AUTH_DOWNGRADED = Reply::new(
        535,
        Enhanced(5, 7, 8),
        "SCRAM-SHA-256-PLUS was offered and did not reach you: somebody may sit between us",
    );
    /// RFC 4954 §4: the system has no random numbers for a challenge.
    AUTH_NOT_NOW = Reply::new(454, Enhanced(4, 7, 0), "Authentication failed on our side, try again later");
    /// RFC 4954 §4: too many logins are being checked.
    AUTH_BUSY = Reply::new(454, Enhanced(4, 7, 0), "Too many logins at once, try again later");
    AUTH_UNKNOWN_MECHANISM = Reply::new(504, Enhanced(5, 5, 4), "Mechanism not supported");
    AUTH_ALREADY = Reply::new(503, Enhanced(5, 5, 1), "Already authenticated");
    AUTH_NEEDS_TLS = Reply::new(538, Enhanced(5, 7, 11), "Encryption required; say STARTTLS first");
    AUTH_NOT_OFFERED =
        Reply::new(502, Enhanced(5, 5, 1), "AUTH is not offered here: the connection cannot be encrypted");
    /// More failures from this address than `limits.auth_failures`.
    AUTH_TOO_MANY_FAILURES = Reply::new(
        421,
        Enhanced(4, 7, 0),
        "Too many failed authentications from your address, try again later",
    );

    // MAIL.

    /// RFC 5321 §4.1.1.2.
    SENDER_OK = Reply::new(250, Enhanced(2, 1, 0), "Sender ok");
    NESTED_MAIL = Reply::new(503, Enhanced(5, 5, 1), "A mail transaction is open; RSET ends it");
    /// RFC 1870 §6.1.
    TOO_BIG = Reply::new(552, Enhanced(5, 3, 4), "Message too big");
    /// RFC 1870 §6.1: the queue's disk is full, or nearly.
    NO_ROOM = Reply::new(452, Enhanced(4, 3, 1), "Not enough storage in the queue, try again later");
    /// RFC 6409 §6.1: the user's `senders`.
    SENDER_NOT_YOURS = Reply::new(553, Enhanced(5, 7, 1), "You may not send as this address");
    /// RFC 4865 §4: later than EHLO said.
    HELD_TOO_LONG = Reply::new(501, Enhanced(5, 5, 4), "Cannot be held for so long; EHLO says for how long");
    /// RFC 6531 §3.5.
    SENDER_NEEDS_SMTPUTF8 = Reply::new(553, Enhanced(5, 6, 7), "This sender needs the SMTPUTF8 parameter");

    // RCPT.

    /// RFC 5321 §4.1.1.3.
    RECIPIENT_OK = Reply::new(250, Enhanced(2, 1, 5), "Recipient ok");
    MAIL_FIRST = Reply::new(503, Enhanced(5, 5, 1), "Say MAIL first");
    /// RFC 5321 §4.5.3.1.10.
    TOO_MANY_RECIPIENTS =
        Reply::new(452, Enhanced(4, 5, 3), "Too many recipients; send the rest in another transaction");
    NO_SUCH_USER = Reply::new(550, Enhanced(5, 1, 1), "No such user here");
    ALIAS_LOOP = Reply::new(550, Enhanced(5, 4, 6), "This alias leads only to itself");
    /// RFC 6531 §3.5.
    RECIPIENT_NEEDS_SMTPUTF8 =
        Reply::new(553, Enhanced(5, 6, 7), "This recipient needs the SMTPUTF8 parameter of MAIL");

    // DATA.

    /// RFC 5321 §4.1.1.4.
    SEND_CONTENT = Reply::bare(354, "Send the message; end with CR LF . CR LF");
    RCPT_FIRST = Reply::new(503, Enhanced(5, 5, 1), "Say RCPT first");
    /// RFC 2920 §3.1: DATA pipelined behind recipients that were all refused.
    NO_VALID_RECIPIENTS = Reply::new(554, Enhanced(5, 5, 1), "No valid recipients");
    /// RFC 3030 §3: BODY=BINARYMIME.
    BINARY_NEEDS_BDAT = Reply::new(503, Enhanced(5, 5, 1), "BINARYMIME content needs BDAT, not DATA");
    /// RFC 3030 §2: DATA, RCPT and the like once a chunk has come.
    CHUNKS_BEGUN =
        Reply::new(503, Enhanced(5, 5, 1), "Content has begun with BDAT; BDAT goes on, RSET ends it");
    /// RFC 5321 §6.3.
    LOOP = Reply::new(554, Enhanced(5, 4, 6), "Too many Received fields: the message goes round in circles");
    /// RFC 5321 §6.3, by our own Received fields.
    OWN_LOOP = Reply::new(554, Enhanced(5, 4, 6), "The message was here before: it goes round in circles");
    /// RFC 5322 §2.3, RFC 3463 §3.7.
    NUL_IN_CONTENT = Reply::new(
        554,
        Enhanced(5, 6, 0),
        "Content has a NUL, which no text may have: encode it, or send it as BODY=BINARYMIME",
    );
    /// RFC 5322 §2.1.1; the operator's `limits.long_lines`.
    LINE_TOO_LONG = Reply::new(
        554,
        Enhanced(5, 6, 0),
        "Content has a line of more than 998 octets: encode it (quoted-printable or base64)",
    );
    /// RFC 3463 §3.7; `mail/labels.rs`.
    BAD_TAG = Reply::new(
        554,
        Enhanced(5, 6, 0),
        "X-Postrider-Tag is one field of 1 to 64 letters, digits and . _ - + : / @ =",
    );
    HEADER_TOO_BIG = Reply::new(552, Enhanced(5, 3, 4), "Message header too big");
    /// RFC 5321 §4.5.3.2.5: the content came in drips.
    TOO_SLOW = Reply::new(421, Enhanced(4, 4, 2), "Content came too slowly");

    // VRFY and EXPN (RFC 5321 §3.5).

    /// For strangers, whatever they ask for.
    VRFY_NOT_FOR_STRANGERS = Reply::new(502, Enhanced(5, 7, 0), "VRFY needs authentication");
    /// For strangers, whatever they ask for.
    EXPN_NOT_FOR_STRANGERS = Reply::new(502, Enhanced(5, 7, 0), "EXPN needs authentication");
    /// RFC 5321 §3.5.2.
    NO_SUCH_LIST = Reply::new(550, Enhanced(5, 1, 1), "No such list here");
    /// RFC 6531 §3.7.4.2: it could only be shown in UTF-8, and SMTPUTF8 was not said.
    NEEDS_UTF8_REPLY = Reply::new(
        252,
        Enhanced(2, 6, 8),
        "It is here, but can only be named in UTF-8: ask again with SMTPUTF8 at the end",
    );
    /// RFC 5321 §3.5.3.
    CANNOT_VERIFY = Reply::new(
        252,
        Enhanced(2, 5, 2),
        "Cannot verify, but the message will be taken and its delivery tried",
    );
    VRFY_BAD_ADDRESS = Reply::new(553, Enhanced(5, 1, 3), "Not an address");

    // ATRN (RFC 2645 §5.2.1).

    /// The last reply before the roles change.
    REVERSING = Reply::new(250, Enhanced(2, 0, 0), "Ok, now reversing the connection");
    /// A domain is not the user's: no mail at all then.
    ATRN_REFUSED =
        Reply::new(450, Enhanced(4, 7, 1), "ATRN request refused: not all of these domains are yours");
    ATRN_NOT_NOW = Reply::new(451, Enhanced(4, 3, 0), "Unable to process ATRN request now");
    NO_MAIL = Reply::new(453, Enhanced(4, 0, 0), "You have no mail");
    /// Something stands behind it that could be taken for an answer of the server to be.
    ATRN_NOT_LAST = Reply::new(503, Enhanced(5, 5, 1), "Wait for the reply to ATRN before you say more");
}

/// How much of a client's word a reply repeats.
const NAME_BYTES_SHOWN: usize = 128;

// Sessions.

/// RFC 5321 §4.3.1: 220 and who we are.
pub(super) fn greeting(hostname: &Domain) -> Reply {
    Reply::bare(220, "").with_text(format!("{hostname} ESMTP Postrider"))
}

/// RFC 5321 §4.1.1.1, the answer to HELO.
pub(super) fn hello(hostname: &Domain, client: &str) -> Reply {
    // In one line (§4.5.3.1.5), or the rest of a name would read as an extension. Few names have half as many letters.
    let client = first_bytes(client, NAME_BYTES_SHOWN);
    Reply::bare(250, "").with_text(format!("{hostname} greets {client}"))
}

// Any command.

/// How a command is written.
pub(super) fn usage(usage: &str) -> Reply {
    Reply::new(501, Enhanced(5, 5, 4), "").with_text(format!("Syntax: {usage}"))
}

/// What is wrong with a line (RFC 5321 §4.2.4, §4.3.2).
pub(super) fn syntax(error: &SyntaxError) -> Reply {
    const SYNTAX: Enhanced = Enhanced(5, 5, 2);
    const ARGUMENTS: Enhanced = Enhanced(5, 5, 4);
    match error {
        SyntaxError::NotSmtp => NOT_SMTP,
        SyntaxError::Unknown => Reply::new(500, SYNTAX, "Command not known; HELP lists those that are"),
        SyntaxError::TooLong => Reply::new(500, SYNTAX, "Line too long"),
        SyntaxError::Control => Reply::new(500, SYNTAX, "Control characters are not allowed"),
        SyntaxError::BareLf => Reply::new(500, SYNTAX, "Lines end in CR LF; a LF alone ends nothing"),
        SyntaxError::NotUtf8 => Reply::new(500, SYNTAX, "Neither ASCII nor UTF-8"),
        SyntaxError::Usage(written) => usage(written),
        SyntaxError::Sender(error) => address(error, Enhanced(5, 1, 7)),
        SyntaxError::Recipient(error) => address(error, Enhanced(5, 1, 3)),
        SyntaxError::UnknownParameter(keyword) => {
            let keyword = first_bytes(keyword, NAME_BYTES_SHOWN);
            Reply::new(555, ARGUMENTS, "").with_text(format!("Parameter {keyword} is not supported"))
        }
        SyntaxError::BadParameter(name) => {
            Reply::new(501, ARGUMENTS, "").with_text(format!("Parameter {name} has a value it cannot have"))
        }
        SyntaxError::ChunkSize => Reply::new(
            501,
            ARGUMENTS,
            "Syntax: BDAT size [LAST]; without a size its content cannot be skipped",
        ),
        SyntaxError::Retired(instead) => Reply::new(502, Enhanced(5, 5, 1), "")
            .with_text(format!("This command belongs to the past; {instead}")),
    }
}

/// RFC 3463 §3.2: 5.1.7 for a sender, 5.1.3 for a recipient.
fn address(error: &AddressError, enhanced: Enhanced) -> Reply {
    Reply::new(501, enhanced, "").with_text(format!("Bad address: {error}"))
}

// AUTH (RFC 4954 §4, §6).

/// A challenge of any mechanism.
pub(super) fn challenge(text: &str) -> Reply {
    Reply::bare(334, "").with_text(STANDARD.encode(text))
}

// MAIL.

/// RFC 3463 §3.8: the user's `rate`, to MAIL and to RCPT. (Behind a 452 to RCPT some clients would begin another
/// transaction at once, RFC 5321 §4.5.3.1.10.)
pub(super) fn rate_reached(an_hour: u32) -> Reply {
    Reply::new(450, Enhanced(4, 7, 1), "")
        .with_text(format!("Your rate of {an_hour} recipients an hour is reached, try again later"))
}

/// RFC 5321 §4.2.2: too much of the user's mail is in the queue, by the user's `quota`. 4.7.1 (RFC 3463 §3.8), since it
/// is a policy: 4.3.1 would say that our disk is full, 4.2.2 that a recipient's mailbox is.
pub(super) fn quota_reached(quota: u64) -> Reply {
    Reply::new(452, Enhanced(4, 7, 1), "").with_text(format!(
        "Your mail in the queue would exceed your quota of {}, try again later",
        size_text(quota)
    ))
}

/// RFC 6710 §4.1: the sender may not have the priority that it asked for. The text begins with the new one.
pub(super) fn priority_lowered(to: Priority) -> Reply {
    Reply::new(250, Enhanced(2, 3, 6), "")
        .with_text(format!("{to} is the priority it gets; yours may not be higher"))
}

// RCPT.

/// RFC 5321 §3.4: who reads a local name's mail.
pub(super) fn forwarded(mailbox: &Address) -> Reply {
    Reply::new(251, Enhanced(2, 1, 5), "").with_text(format!("User not local; will forward to <{mailbox}>"))
}

// DATA.

/// The message is on disk.
pub(super) fn queued(id: MessageId) -> Reply {
    Reply::new(250, Enhanced(2, 0, 0), "").with_text(format!("Ok: queued as {id}"))
}

/// RFC 3030 §2: a chunk that was not the last.
pub(super) fn chunk_received(bytes: u64) -> Reply {
    Reply::new(250, Enhanced(2, 0, 0), "").with_text(format!("{bytes} octets received"))
}

/// The queue did not take the message; nothing of it is kept.
pub(super) fn not_queued(error: AcceptError) -> Reply {
    match error {
        AcceptError::Full => NO_ROOM,
        AcceptError::Busy => Reply::new(451, Enhanced(4, 3, 0), "The queue is busy, try again later"),
        AcceptError::Failed => Reply::new(451, Enhanced(4, 3, 0), "The queue failed, try again later"),
    }
}

// VRFY and EXPN (RFC 5321 §3.5).

/// What a local name stands for, a mailbox a line (RFC 5321 §3.5.1).
pub(super) fn mailboxes(mailboxes: &[Address]) -> Reply {
    let lines: Vec<String> = mailboxes.iter().map(|mailbox| format!("<{mailbox}>")).collect();
    Reply::new(250, Enhanced(2, 1, 5), "").with_text(lines.join("\n"))
}

// ETRN (RFC 1985 §5.3).

/// 250 to 253: what waits is tried now. 253 says how much; 252 where it is so much that it is done in parts;
/// 250 where all of it was due before. What is suspended is not counted: 251 where nothing else waits.
pub(super) fn kicked(node: &str, kicked: Kicked) -> Reply {
    let (code, text) = match kicked {
        Kicked::Nothing => (251, format!("Ok, no messages waiting for {node}")),
        Kicked::Suspended(waiting) => {
            (251, format!("Ok, no messages waiting for {node} but {waiting} that are suspended"))
        }
        Kicked::UnderWay(_) => (250, format!("Ok, queuing for {node} started")),
        Kicked::Started(waiting) => (253, format!("Ok, {waiting} pending messages for {node} started")),
        Kicked::InParts(_) => (252, format!("Ok, pending messages for {node} started")),
    };
    Reply::new(code, Enhanced(2, 0, 0), "").with_text(text)
}

/// 458: this client asked for the same within the last minute, or for too much.
pub(super) fn kicked_already(node: &str) -> Reply {
    Reply::new(458, Enhanced(4, 7, 1), "")
        .with_text(format!("Unable to queue messages for {node}: asked too often, try again in a minute"))
}

/// 458: the queue cannot be asked now.
pub(super) fn not_kicked(node: &str) -> Reply {
    Reply::new(458, Enhanced(4, 3, 0), "").with_text(format!("Unable to queue messages for {node}"))
}

/// 459: no such node here.
pub(super) fn no_such_lane(node: &str) -> Reply {
    Reply::new(459, Enhanced(4, 5, 4), "").with_text(format!("Node {node} not allowed: no such lane here"))
}

// The commands of operators.

/// What an operator asked for.
pub(super) fn told(text: String) -> Reply {
    Reply::new(250, Enhanced(2, 0, 0), "").with_text(text)
}

/// RFC 5321 §4.2.3: what would be told cannot be read just now.
pub(super) fn cannot_tell(why: &str) -> Reply {
    Reply::new(451, Enhanced(4, 3, 0), "").with_text(format!("Cannot tell now: {why}"))
}

// HELP (RFC 5321 §4.1.1.8).

/// 214 with all commands, or how one is written; 504 for one that is none. Operators are told of theirs.
pub(super) fn help(about: Option<&str>, operator: bool) -> Reply {
    let private: &[(&str, &str)] = if operator { command::OPERATOR_USAGE } else { &[] };
    let Some(about) = about else {
        let names = |usages: &[(&'static str, &str)]| -> String {
            usages.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(" ")
        };
        let mut text = format!("Commands: {}\n", names(command::USAGE));
        if operator {
            text.push_str(&format!("For operators: {}\n", names(private)));
        }
        text.push_str("HELP with a command tells how it is written");
        return Reply::new(214, Enhanced(2, 0, 0), "").with_text(text);
    };
    let usages = command::USAGE.iter().chain(private);
    match usages.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(about)).map(|(_, usage)| *usage) {
        Some(usage) => Reply::new(214, Enhanced(2, 0, 0), usage),
        None => Reply::new(504, Enhanced(5, 5, 4), "No help on that; HELP alone lists the commands"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_class_of_an_enhanced_code_is_that_of_its_reply() {
        let mailbox = crate::mail::address::parse("a@b").unwrap();
        let mut replies = fixed_replies();
        // RFC 2034 §4, RFC 4954 §4: 334 and 354 have none.
        let bare: Vec<Reply> = replies.extract_if(.., |reply| reply.enhanced.is_none()).collect();
        assert!(bare.iter().all(|reply| matches!(reply.code, 334 | 354)), "{bare:?}");
        replies.extend([
            rate_reached(1),
            quota_reached(1),
            queued(MessageId(1)),
            chunk_received(1),
            not_queued(AcceptError::Full),
            not_queued(AcceptError::Busy),
            not_queued(AcceptError::Failed),
            mailboxes(&[mailbox.clone(), mailbox.clone()]),
            forwarded(&mailbox),
            kicked("x", Kicked::Nothing),
            kicked("x", Kicked::UnderWay(2)),
            kicked("x", Kicked::Started(2)),
            kicked("x", Kicked::InParts(2)),
            kicked("x", Kicked::Suspended(2)),
            kicked_already("x"),
            not_kicked("x"),
            no_such_lane("#x"),
            told(String::new()),
            cannot_tell("x"),
            priority_lowered(Priority::NORMAL),
            help(None, false),
            help(Some("mail"), false),
            help(Some("XXXX"), true),
            usage("X"),
            syntax(&SyntaxError::Unknown),
            syntax(&SyntaxError::UnknownParameter("X".into())),
        ]);
        for reply in replies {
            assert_eq!(reply.enhanced.map(|e| u16::from(e.0)), Some(reply.code / 100), "{reply}");
        }
    }
}
