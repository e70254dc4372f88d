//! The parameters of MAIL and RCPT (RFC 5321 §4.1.1.11): SIZE, BODY, SMTPUTF8, AUTH, RET, ENVID, NOTIFY, ORCPT.
//!
//! A further extension is one more arm of [`of_mail`] or [`of_rcpt`] and a field to put it in.
//! A parameter that is not offered is 555, a value that it cannot have 501; each stands once.

use crate::mail::{Body, Notify, Ret};

use super::command::{Mail, Rcpt, SyntaxError};

/// RFC 3461 §4.4.
const ENVID_BYTES_MAX: usize = 100;
/// RFC 3461 §4.2.
const ORCPT_BYTES_MAX: usize = 500;

/// Reads the parameters behind MAIL's path into `mail`.
pub(super) fn of_mail(text: &str, mut mail: Mail) -> Result<Mail, SyntaxError> {
    for_each(text, |keyword, value| {
        let bad = |name| SyntaxError::BadParameter(name);
        match keyword {
            "SIZE" => mail.size = Some(value.and_then(size).ok_or(bad("SIZE"))?),
            "BODY" => mail.body = value.and_then(Body::from_word).ok_or(bad("BODY"))?,
            "SMTPUTF8" => match value {
                None => mail.smtputf8 = true,
                Some(_) => return Err(bad("SMTPUTF8")),
            },
            // RFC 4954 §5: who first submitted it. Not passed on: nobody that trusts it is in sight.
            "AUTH" => match value {
                Some(value) if value == "<>" || is_xtext(value) => {}
                _ => return Err(bad("AUTH")),
            },
            "RET" => mail.ret = Some(value.and_then(Ret::from_word).ok_or(bad("RET"))?),
            "ENVID" => match value {
                Some(value) if value.len() <= ENVID_BYTES_MAX && is_xtext(value) => {
                    mail.envid = Some(value.to_owned());
                }
                _ => return Err(bad("ENVID")),
            },
            _ => return Err(SyntaxError::UnknownParameter(keyword.to_owned())),
        }
        Ok(())
    })?;
    Ok(mail)
}

/// Reads the parameters behind RCPT's path into `rcpt`.
pub(super) fn of_rcpt(text: &str, mut rcpt: Rcpt) -> Result<Rcpt, SyntaxError> {
    for_each(text, |keyword, value| {
        match keyword {
            "NOTIFY" => {
                let notify = value.and_then(Notify::from_word);
                rcpt.notify = Some(notify.ok_or(SyntaxError::BadParameter("NOTIFY"))?);
            }
            "ORCPT" => match value {
                Some(value) if is_orcpt(value) => rcpt.orcpt = Some(value.to_owned()),
                _ => return Err(SyntaxError::BadParameter("ORCPT")),
            },
            _ => return Err(SyntaxError::UnknownParameter(keyword.to_owned())),
        }
        Ok(())
    })?;
    Ok(rcpt)
}

/// Gives each `KEYWORD[=value]` of `text`, the keyword in upper case, to `take`.
fn for_each(
    text: &str,
    mut take: impl FnMut(&str, Option<&str>) -> Result<(), SyntaxError>,
) -> Result<(), SyntaxError> {
    let words = || text.split(' ').filter(|word| !word.is_empty());
    let keyword_of = |word: &'_ str| word.split('=').next().unwrap_or_default().to_ascii_uppercase();
    for (place, word) in words().enumerate() {
        let keyword = keyword_of(word);
        if !is_keyword(&keyword) {
            return Err(SyntaxError::Usage("parameters are KEYWORD or KEYWORD=value"));
        }
        if words().take(place).any(|earlier| keyword_of(earlier) == keyword) {
            return Err(SyntaxError::Usage("each parameter stands once"));
        }
        take(&keyword, word.split_once('=').map(|(_, value)| value))?;
    }
    Ok(())
}

/// `esmtp-keyword` of RFC 5321 §4.1.2.
fn is_keyword(word: &str) -> bool {
    word.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric)
        && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// RFC 1870 §3: 1 to 20 digits; what exceeds 64 bits exceeds every limit too. BDAT's size is read alike.
pub(super) fn size(value: &str) -> Option<u64> {
    let digits = (1..=20).contains(&value.len()) && value.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| value.parse().unwrap_or(u64::MAX))
}

/// RFC 3461 §4: printable ASCII but `+` and `=`, or `+` and two upper-case hexadecimal digits.
///
/// An encoded control character is refused though the grammar has it: decoded into a
/// bounce's header it would be a line of the sender's own making.
fn is_xtext(text: &str) -> bool {
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = match first {
            b'+' => {
                let [high @ (b'0'..=b'9' | b'A'..=b'F'), low @ (b'0'..=b'9' | b'A'..=b'F'), after @ ..] =
                    after
                else {
                    return false;
                };
                if *high < b'2' || (*high == b'7' && *low == b'F') {
                    return false;
                }
                after
            }
            b'=' => return false,
            b'!'..=b'~' => after,
            _ => return false,
        };
    }
    true
}

/// `addr-type ";" xtext` (RFC 3461 §4.2); of type `utf-8` with UTF-8 in it (RFC 6533 §3).
fn is_orcpt(value: &str) -> bool {
    let Some((kind, address)) = value.split_once(';') else { return false };
    if !is_keyword(kind) || address.is_empty() || value.len() > ORCPT_BYTES_MAX {
        return false;
    }
    match kind.eq_ignore_ascii_case("utf-8") {
        false => is_xtext(address),
        // utf-8-addr-xtext writes other characters as \x{HEX}: printable in any case.
        true => address.chars().all(|c| c != ' ' && !c.is_control()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::submission::command::ForwardPath;

    fn mail(text: &str) -> Result<Mail, SyntaxError> {
        of_mail(text, Mail::default())
    }

    fn rcpt(text: &str) -> Result<Rcpt, SyntaxError> {
        of_rcpt(text, Rcpt { to: ForwardPath::Local("x".into()), notify: None, orcpt: None })
    }

    #[test]
    fn the_parameters_of_mail_are_read() {
        let read = mail(" SIZE=1000 body=8bitmime SMTPUTF8 AUTH=<> RET=hdrs ENVID=QQ+2B314159").unwrap();
        assert_eq!(read.size, Some(1000));
        assert_eq!(read.body, Body::EightBitMime);
        assert!(read.smtputf8);
        assert_eq!(read.ret, Some(Ret::Hdrs));
        assert_eq!(read.envid.as_deref(), Some("QQ+2B314159"));
        assert_eq!(mail(" SIZE=99999999999999999999").unwrap().size, Some(u64::MAX));
        assert_eq!(mail(" BODY=BinaryMime").unwrap().body, Body::BinaryMime);
        assert_eq!(mail(""), Ok(Mail::default()));
    }

    #[test]
    fn the_parameters_of_rcpt_are_read() {
        let read = rcpt(" NOTIFY=SUCCESS,DELAY ORCPT=rfc822;Bob+2Bx@Example.com").unwrap();
        assert_eq!(read.notify, Some(Notify { success: true, failure: false, delay: true }));
        assert_eq!(read.orcpt.as_deref(), Some("rfc822;Bob+2Bx@Example.com"));
        assert!(rcpt(" ORCPT=utf-8;用户@例え.jp").is_ok());
    }

    #[test]
    fn bad_values_are_501_and_unknown_parameters_555() {
        use SyntaxError::*;
        for (text, error) in [
            (" SIZE", BadParameter("SIZE")),
            (" SIZE=", BadParameter("SIZE")),
            (" SIZE=-1", BadParameter("SIZE")),
            (" SIZE=1x", BadParameter("SIZE")),
            (" SIZE=111111111111111111111", BadParameter("SIZE")),
            (" BODY=BINARY", BadParameter("BODY")),
            (" BODY", BadParameter("BODY")),
            (" SMTPUTF8=YES", BadParameter("SMTPUTF8")),
            (" AUTH=a=b", BadParameter("AUTH")),
            (" RET=SOME", BadParameter("RET")),
            (" ENVID=a+0D+0Ab", BadParameter("ENVID")),
            (" ENVID=a+4", BadParameter("ENVID")),
            (" ENVID=a+4g", BadParameter("ENVID")),
            (" MT-PRIORITY=3", UnknownParameter("MT-PRIORITY".into())),
            (" NOTIFY=NEVER", UnknownParameter("NOTIFY".into())),
            (" SIZE=1 SIZE=2", Usage("each parameter stands once")),
            (" =x", Usage("parameters are KEYWORD or KEYWORD=value")),
            (" -x", Usage("parameters are KEYWORD or KEYWORD=value")),
        ] {
            assert_eq!(mail(text), Err(error), "{text}");
        }
        assert_eq!(mail(&format!(" ENVID={}", "x".repeat(101))), Err(BadParameter("ENVID")));
        for text in [" NOTIFY=NEVER,DELAY", " NOTIFY=", " NOTIFY"] {
            assert_eq!(rcpt(text), Err(BadParameter("NOTIFY")), "{text}");
        }
        for text in [" ORCPT=a@b", " ORCPT=rfc822;", " ORCPT=rfc822;a=b", " ORCPT=rfc822;ü@b", " ORCPT=;a"] {
            assert_eq!(rcpt(text), Err(BadParameter("ORCPT")), "{text}");
        }
        assert_eq!(rcpt(" SIZE=1"), Err(UnknownParameter("SIZE".into())));
    }
}
