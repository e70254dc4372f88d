//! The bytes of a command line read into a [`Command`] (RFC 5321 §4.1). Pure, and the only reader of them.
//!
//! Whether the command is allowed now is not asked here: `protocol` decides that.

use crate::kit::text::is_unseen;
use crate::mail::Path;
use crate::mail::address::{self, AddressError};

use crate::submission::syntax::arguments;
use crate::submission::syntax::command::{Chunk, Command, ForwardPath, Mail, Rcpt, SyntaxError};
use crate::submission::syntax::parameters;

/// The longest line of a SASL exchange without its CR LF (RFC 4954 §4), and so of all lines.
pub(in crate::submission) const LINE_BYTES_MAX: usize = 12_286;
/// RFC 5321 §4.5.3.1.4, without CR LF.
const COMMAND_BYTES_MAX: usize = 510;
/// The same for MAIL and RCPT with the room that extensions ask for: SIZE 26 (RFC 1870), BODY 17
/// (RFC 6152), SMTPUTF8 10 (RFC 6531), AUTH 500 (RFC 4954), DSN 500 (RFC 3461), FUTURERELEASE 34 (RFC 4865),
/// BY 17 (RFC 2852), MT-PRIORITY 15 (RFC 6710), REQUIRETLS 11 (RFC 8689) and those to come.
const PATH_COMMAND_BYTES_MAX: usize = 2_046;

/// `STARTTLS` is the longest verb.
const VERB_BYTES_MAX: usize = 8;

/// Reads a line without its CR LF.
///
/// # Errors
/// What is wrong with it; the session's state is not touched then.
pub(in crate::submission) fn parse(line: &[u8]) -> Result<Command, SyntaxError> {
    if line.iter().any(u8::is_ascii_control) {
        return Err(SyntaxError::Control);
    }
    let text = std::str::from_utf8(line).map_err(|_| SyntaxError::NotUtf8)?;
    // RFC 5321 §4.1.1: white space before the end of the line is to be tolerated.
    let text = text.trim_end_matches(' ');
    let (verb, arguments) = text.split_once(' ').unwrap_or((text, ""));
    let mut upper = [0u8; VERB_BYTES_MAX];
    let Some(upper) = upper.get_mut(..verb.len()) else { return Err(SyntaxError::Unknown) };
    upper.copy_from_slice(verb.as_bytes());
    upper.make_ascii_uppercase();
    if line.len() > bytes_max(upper) {
        return Err(SyntaxError::TooLong);
    }
    match &*upper {
        b"EHLO" => client_name(arguments, "EHLO domain").map(Command::Ehlo),
        b"HELO" => client_name(arguments, "HELO domain").map(Command::Helo),
        b"MAIL" => mail(arguments).map(Command::Mail),
        b"RCPT" => rcpt(arguments).map(Command::Rcpt),
        b"DATA" => without_arguments(Command::Data, arguments, "DATA"),
        b"BDAT" => bdat(arguments).map(Command::Bdat),
        b"RSET" => without_arguments(Command::Rset, arguments, "RSET"),
        b"QUIT" => without_arguments(Command::Quit, arguments, "QUIT"),
        b"STARTTLS" => without_arguments(Command::Starttls, arguments, "STARTTLS"),
        b"NOOP" => Ok(Command::Noop),
        b"HELP" => Ok(Command::Help((!arguments.is_empty()).then(|| arguments.to_owned()))),
        b"VRFY" => arguments::name_query(arguments, "VRFY name-or-address").map(Command::Vrfy),
        b"EXPN" => arguments::name_query(arguments, "EXPN list").map(Command::Expn),
        b"ETRN" => arguments::etrn(arguments).map(Command::Etrn),
        b"ATRN" => arguments::atrn(arguments).map(Command::Atrn),
        b"AUTH" => auth(arguments),
        b"SEND" | b"SOML" | b"SAML" => Err(SyntaxError::Retired("use MAIL (RFC 5321 appendix F.6)")),
        b"TURN" => Err(SyntaxError::Retired("use ATRN after AUTH (RFC 2645)")),
        b"RELAY" => Err(SyntaxError::Retired("use AUTH, then MAIL and RCPT")),
        b"TLS" => Err(SyntaxError::Retired("use STARTTLS (RFC 3207)")),
        b"XADR" | b"XSTA" | b"XCIR" | b"XGEN" => {
            Ok(Command::Operator(arguments::operator(&verb.to_ascii_uppercase(), arguments)))
        }
        b"GET" | b"POST" | b"HEAD" | b"PUT" | b"DELETE" | b"OPTIONS" | b"CONNECT" | b"PATCH" | b"TRACE" => {
            Err(SyntaxError::NotSmtp)
        }
        _ => Err(SyntaxError::Unknown),
    }
}

/// The longest line of a command.
fn bytes_max(verb: &[u8]) -> usize {
    match verb {
        b"AUTH" => LINE_BYTES_MAX,
        b"MAIL" | b"RCPT" => PATH_COMMAND_BYTES_MAX,
        _ => COMMAND_BYTES_MAX,
    }
}

fn without_arguments(command: Command, arguments: &str, usage: &'static str) -> Result<Command, SyntaxError> {
    if arguments.is_empty() { Ok(command) } else { Err(SyntaxError::Usage(usage)) }
}

/// The argument of HELO and EHLO. Any one printable word is taken: clients send what their
/// machine calls itself, and refusing them for it helps nobody. It is proof of nothing.
fn client_name(arguments: &str, usage: &'static str) -> Result<String, SyntaxError> {
    let name = arguments.trim_start_matches(' ');
    let fits = !name.is_empty() && name.len() <= address::DOMAIN_BYTES_MAX;
    if fits && !name.contains(|c: char| c == ' ' || is_unseen(c)) {
        Ok(name.to_owned())
    } else {
        Err(SyntaxError::Usage(usage))
    }
}

/// What follows `FROM:` or `TO:`. Spaces after the colon are tolerated: many clients send one.
fn after_keyword<'a>(arguments: &'a str, keyword: &str) -> Option<&'a str> {
    let arguments = arguments.trim_start_matches(' ');
    let (head, rest) = arguments.split_at_checked(keyword.len())?;
    head.eq_ignore_ascii_case(keyword).then(|| rest.trim_start_matches(' '))
}

fn mail(arguments: &str) -> Result<Mail, SyntaxError> {
    let path = after_keyword(arguments, "FROM:").ok_or(SyntaxError::Usage("MAIL FROM:<address>"))?;
    let (path, rest) = address::parse_path(path).map_err(SyntaxError::Sender)?;
    let sender = match path {
        Path::Null => None,
        Path::Postmaster => return Err(SyntaxError::Sender(AddressError::NoDomain)),
        Path::Mailbox(address) => Some(address),
    };
    parameters::of_mail(rest, Mail { sender, ..Mail::default() })
}

fn rcpt(arguments: &str) -> Result<Rcpt, SyntaxError> {
    let path = after_keyword(arguments, "TO:").ok_or(SyntaxError::Usage("RCPT TO:<address>"))?;
    let (to, rest) = match address::parse_path(path) {
        Ok((Path::Mailbox(address), rest)) => (ForwardPath::Mailbox(address), rest),
        Ok((Path::Postmaster, rest)) => (ForwardPath::Local("postmaster".to_owned()), rest),
        Ok((Path::Null, _)) => return Err(SyntaxError::Recipient(AddressError::Local)),
        Err(AddressError::NoDomain) => {
            local_path(path).ok_or(SyntaxError::Recipient(AddressError::NoDomain))?
        }
        Err(error) => return Err(SyntaxError::Recipient(error)),
    };
    parameters::of_rcpt(rest, Rcpt { to, notify: None, orcpt: None })
}

/// `<root>`: a local name, for cron mail and the like.
fn local_path(path: &str) -> Option<(ForwardPath, &str)> {
    let (name, rest) = path.strip_prefix('<')?.split_once('>')?;
    is_local_name(name).then(|| (ForwardPath::Local(name.to_ascii_lowercase()), rest))
}

/// The names that `[aliases]` may have.
fn is_local_name(name: &str) -> bool {
    (1..=address::LOCAL_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._+-".contains(&b))
}

/// A size that fits no message still says how much follows; the protocol refuses it, having skipped that.
fn bdat(arguments: &str) -> Result<Chunk, SyntaxError> {
    let mut words = arguments.split(' ').filter(|word| !word.is_empty());
    let bytes = words.next().and_then(parameters::size).ok_or(SyntaxError::ChunkSize)?;
    match (words.next(), words.next()) {
        (None, None) => Ok(Chunk { bytes, last: false }),
        (Some(last), None) if last.eq_ignore_ascii_case("LAST") => Ok(Chunk { bytes, last: true }),
        _ => Err(SyntaxError::ChunkSize),
    }
}

fn auth(arguments: &str) -> Result<Command, SyntaxError> {
    let mut words = arguments.split(' ').filter(|word| !word.is_empty());
    match (words.next(), words.next(), words.next()) {
        (Some(mechanism), initial, None) => Ok(Command::Auth {
            mechanism: mechanism.to_ascii_uppercase(),
            initial: initial.map(str::to_owned),
        }),
        _ => Err(SyntaxError::Usage("AUTH mechanism [initial-response]")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::Address;
    use crate::submission::syntax::command::{ETRN_USAGE, NameQuery, OperatorCommand};

    fn read(line: &str) -> Result<Command, SyntaxError> {
        parse(line.as_bytes())
    }

    fn mailbox(text: &str) -> Address {
        address::parse(text).unwrap()
    }

    #[test]
    fn commands_are_read_in_any_case_with_spaces_at_the_end() {
        assert_eq!(read("ehlo client.example  "), Ok(Command::Ehlo("client.example".into())));
        assert_eq!(read("HeLo [192.0.2.1]"), Ok(Command::Helo("[192.0.2.1]".into())));
        assert_eq!(read("quit "), Ok(Command::Quit));
        assert_eq!(read("noop whatever it is"), Ok(Command::Noop));
        assert_eq!(read("HELP mail"), Ok(Command::Help(Some("mail".into()))));
        let auth = Command::Auth { mechanism: "PLAIN".into(), initial: Some("AGEAYg==".into()) };
        assert_eq!(read("auth plain AGEAYg=="), Ok(auth));
        let asked = |name: &str, utf8| NameQuery { name: name.into(), utf8 };
        assert_eq!(read("VRFY john doe SMTPUTF8"), Ok(Command::Vrfy(asked("john doe", true))));
        assert_eq!(read("expn team"), Ok(Command::Expn(asked("team", false))));
        assert_eq!(
            read("xsta  route:*"),
            Ok(Command::Operator(OperatorCommand::Xsta(Some("route:*".into()))))
        );
        assert_eq!(read("XGEN now"), Ok(Command::Operator(OperatorCommand::Misused("XGEN"))));
        assert_eq!(read("XADR"), Ok(Command::Operator(OperatorCommand::Misused("XADR address"))));
    }

    #[test]
    fn paths_are_read_with_and_without_a_space_after_the_colon() {
        for line in ["MAIL FROM:<a@b.example>", "mail from: <a@b.example>", "MAIL  FROM:<a@b.example> "] {
            let mail = Mail { sender: Some(mailbox("a@b.example")), ..Mail::default() };
            assert_eq!(read(line), Ok(Command::Mail(mail)), "{line}");
        }
        assert_eq!(read("MAIL FROM:<>"), Ok(Command::Mail(Mail::default())));
        let to = |to| Ok(Command::Rcpt(Rcpt { to, notify: None, orcpt: None }));
        assert_eq!(read("RCPT TO:<a@b>"), to(ForwardPath::Mailbox(mailbox("a@b"))));
        assert_eq!(read("RCPT TO:<Postmaster>"), to(ForwardPath::Local("postmaster".into())));
        assert_eq!(read("RCPT TO: <Root>"), to(ForwardPath::Local("root".into())));
    }

    #[test]
    fn what_is_wrong_with_a_line_is_named() {
        use SyntaxError::*;
        for (line, error) in [
            ("", Unknown),
            ("HALLO", Unknown),
            ("STARTTLSX", Unknown),
            ("EHLO", Usage("EHLO domain")),
            ("EHLO a b", Usage("EHLO domain")),
            ("DATA now", Usage("DATA")),
            ("MAIL", Usage("MAIL FROM:<address>")),
            ("MAIL FROM <a@b>", Usage("MAIL FROM:<address>")),
            ("MAIL TO:<a@b>", Usage("MAIL FROM:<address>")),
            ("MAIL FROM:a@b", Sender(AddressError::Brackets)),
            ("MAIL FROM:<a>", Sender(AddressError::NoDomain)),
            ("MAIL FROM:<postmaster>", Sender(AddressError::NoDomain)),
            ("RCPT TO:<>", Recipient(AddressError::Local)),
            ("RCPT TO:<a b>", Recipient(AddressError::NoDomain)),
            ("RCPT TO:<a@b>x", Recipient(AddressError::Brackets)),
            ("RCPT TO:\"a@b\"", Recipient(AddressError::Brackets)),
            ("VRFY", Usage("VRFY name-or-address")),
            ("ETRN", Usage(ETRN_USAGE)),
            ("ETRN @", Usage(ETRN_USAGE)),
            ("ETRN a b", Usage(ETRN_USAGE)),
            ("AUTH", Usage("AUTH mechanism [initial-response]")),
            ("AUTH PLAIN a b", Usage("AUTH mechanism [initial-response]")),
            ("GET / HTTP/1.1", NotSmtp),
            ("TLS", Retired("use STARTTLS (RFC 3207)")),
            ("BDAT", ChunkSize),
            ("BDAT LAST", ChunkSize),
            ("BDAT -1", ChunkSize),
            ("BDAT +1", ChunkSize),
            ("BDAT 0x10", ChunkSize),
            ("BDAT 5 FIRST", ChunkSize),
            ("BDAT 5 LAST LAST", ChunkSize),
            ("BDAT 111111111111111111111", ChunkSize),
            ("NOOP\0", Control),
            ("NOOP\rNOOP", Control),
            ("EHLO\tx", Control),
        ] {
            assert_eq!(read(line), Err(error), "{line:?}");
        }
        assert_eq!(parse(b"VRFY \xff"), Err(NotUtf8));
    }

    #[test]
    fn bdat_reads_a_size_and_last() {
        let bdat = |bytes, last| Ok(Command::Bdat(Chunk { bytes, last }));
        assert_eq!(read("BDAT 67"), bdat(67, false));
        assert_eq!(read("bdat 0 last"), bdat(0, true));
        assert_eq!(read("BDAT 007  LAST "), bdat(7, true));
        assert_eq!(read("BDAT 99999999999999999999"), bdat(u64::MAX, false));
    }

    #[test]
    fn each_command_has_its_own_longest_line() {
        let padded = |head: &str, bytes: usize| format!("{head}{}", "x".repeat(bytes - head.len()));
        assert!(read(&padded("NOOP ", COMMAND_BYTES_MAX)).is_ok());
        assert_eq!(read(&padded("NOOP ", COMMAND_BYTES_MAX + 1)), Err(SyntaxError::TooLong));
        assert!(read(&padded("AUTH PLAIN ", LINE_BYTES_MAX)).is_ok());
        assert_eq!(read(&padded("AUTH PLAIN ", LINE_BYTES_MAX + 1)), Err(SyntaxError::TooLong));
        let line = padded("MAIL FROM:<a@b> X", PATH_COMMAND_BYTES_MAX + 1);
        assert_eq!(read(&line), Err(SyntaxError::TooLong));
    }
}
