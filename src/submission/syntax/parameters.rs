//! The parameters of MAIL and RCPT (RFC 5321 §4.1.1.11): SIZE, BODY, SMTPUTF8, AUTH, RET, ENVID, HOLDFOR,
//! HOLDUNTIL, BY, MT-PRIORITY, REQUIRETLS, NOTIFY, ORCPT.
//!
//! A further extension is one more arm of [`of_mail`] or [`of_rcpt`] and a field to put it in.
//! A parameter that is not offered is 555, a value that it cannot have 501; each stands once.

use crate::mail::{Body, DeliverBy, Hold, Notify, Priority, Ret, unitext};

use crate::submission::syntax::command::{By, Mail, Rcpt, SyntaxError};

/// RFC 3461 §4.4.
const ENVID_BYTES_MAX: usize = 100;
/// RFC 3461 §4.2.
const ORCPT_BYTES_MAX: usize = 500;

/// Reads the parameters behind MAIL's path into `mail`.
pub(in crate::submission) fn of_mail(text: &str, mut mail: Mail) -> Result<Mail, SyntaxError> {
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
                // RFC 3461 §4.4 wants an identifier; an empty one would come back as a field without a value.
                Some(value) if (1..=ENVID_BYTES_MAX).contains(&value.len()) && is_xtext(value) => {
                    mail.envid = Some(value.to_owned());
                }
                _ => return Err(bad("ENVID")),
            },
            "HOLDFOR" | "HOLDUNTIL" if mail.hold.is_some() => {
                // RFC 4865 §4.
                return Err(SyntaxError::Usage("HOLDFOR or HOLDUNTIL, not both"));
            }
            "HOLDFOR" => mail.hold = Some(value.and_then(hold_for).ok_or(bad("HOLDFOR"))?),
            "HOLDUNTIL" => mail.hold = Some(value.and_then(hold_until).ok_or(bad("HOLDUNTIL"))?),
            "BY" => mail.by = Some(value.and_then(by).ok_or(bad("BY"))?),
            "MT-PRIORITY" => {
                let priority = value.and_then(Priority::from_word);
                mail.priority = Some(priority.ok_or(bad("MT-PRIORITY"))?);
            }
            "REQUIRETLS" => match value {
                None => mail.require_tls = true,
                Some(_) => return Err(bad("REQUIRETLS")),
            },
            _ => return Err(SyntaxError::UnknownParameter(keyword.to_owned())),
        }
        Ok(())
    })?;
    Ok(mail)
}

/// Reads the parameters behind RCPT's path into `rcpt`.
pub(in crate::submission) fn of_rcpt(text: &str, mut rcpt: Rcpt) -> Result<Rcpt, SyntaxError> {
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
pub(in crate::submission) fn size(value: &str) -> Option<u64> {
    let digits = (1..=20).contains(&value.len()) && value.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| value.parse().unwrap_or(u64::MAX))
}

/// RFC 4865 §4: 1 to 9 digits, the first of them not zero.
fn hold_for(value: &str) -> Option<Hold> {
    let digits = (1..=9).contains(&value.len()) && value.bytes().all(|b| b.is_ascii_digit());
    (digits && !value.starts_with('0')).then(|| value.parse().ok().map(Hold::For)).flatten()
}

/// RFC 4865 §4: a date and time of RFC 3339, `2026-11-21T08:00:00Z`; an offset in place of the Z is understood
/// too.
fn hold_until(value: &str) -> Option<Hold> {
    let bytes = value.as_bytes();
    let is = |at: usize, byte: u8| bytes.get(at) == Some(&byte);
    // The parser knows more forms than the RFC allows.
    let shaped = is(4, b'-') && is(7, b'-') && (is(10, b'T') || is(10, b't')) && is(13, b':') && is(16, b':');
    let time = shaped.then(|| value.parse::<jiff::Timestamp>().ok()).flatten()?;
    Some(Hold::Until(time.as_second()))
}

/// RFC 2852 §4: seconds (up to 9 digits, perhaps with a sign), a semicolon, the mode. `R` has no time that is
/// over.
fn by(value: &str) -> Option<By> {
    let (secs, mode) = value.split_once(';')?;
    let (returns, trace) = DeliverBy::read_mode(mode)?;
    let digits = secs.strip_prefix(['+', '-']).unwrap_or(secs);
    let fits = (1..=9).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    let secs: i64 = fits.then(|| secs.parse().ok()).flatten()?;
    (secs > 0 || !returns).then_some(By { secs, returns, trace })
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
        true => unitext::decoded(address).is_some(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::submission::syntax::command::ForwardPath;

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
    fn what_mail_asks_of_its_handling_is_read() {
        let read = mail(" REQUIRETLS MT-PRIORITY=-3 BY=+600;rt HOLDFOR=999999999").unwrap();
        assert!(read.require_tls);
        assert_eq!(read.priority, Priority::new(-3));
        assert_eq!(read.by, Some(By { secs: 600, returns: true, trace: true }));
        assert_eq!(read.hold, Some(Hold::For(999_999_999)));
        assert_eq!(mail(" BY=-30;N").unwrap().by, Some(By { secs: -30, returns: false, trace: false }));
        for time in ["2026-11-21T12:00:00Z", "2026-11-21T13:00:00+01:00", "2026-11-21T12:00:00.25Z"] {
            let read = mail(&format!(" HOLDUNTIL={time}")).unwrap();
            assert_eq!(read.hold, Some(Hold::Until(1_795_262_400)), "{time}");
        }
    }

    #[test]
    fn the_parameters_of_rcpt_are_read() {
        let read = rcpt(" NOTIFY=SUCCESS,DELAY ORCPT=rfc822;Bob+2Bx@Example.com").unwrap();
        assert_eq!(read.notify, Some(Notify { success: true, failure: false, delay: true }));
        assert_eq!(read.orcpt.as_deref(), Some("rfc822;Bob+2Bx@Example.com"));
        for orcpt in ["utf-8;用户@例え.jp", "UTF-8;j\\x{F6}rg\\x{2B}x@a.jp", "utf-8;bob@a.jp"] {
            assert_eq!(rcpt(&format!(" ORCPT={orcpt}")).unwrap().orcpt.as_deref(), Some(orcpt));
        }
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
            (" ENVID", BadParameter("ENVID")),
            (" ENVID=", BadParameter("ENVID")),
            (" ENVID=a+4", BadParameter("ENVID")),
            (" ENVID=a+4g", BadParameter("ENVID")),
            (" HOLDFOR", BadParameter("HOLDFOR")),
            (" HOLDFOR=0", BadParameter("HOLDFOR")),
            (" HOLDFOR=060", BadParameter("HOLDFOR")),
            (" HOLDFOR=-60", BadParameter("HOLDFOR")),
            (" HOLDFOR=1000000000", BadParameter("HOLDFOR")),
            (" HOLDUNTIL", BadParameter("HOLDUNTIL")),
            (" HOLDUNTIL=tomorrow", BadParameter("HOLDUNTIL")),
            (" HOLDUNTIL=2026-11-21", BadParameter("HOLDUNTIL")),
            (" HOLDUNTIL=2026-11-21T08:00:00", BadParameter("HOLDUNTIL")),
            (" HOLDUNTIL=2026-13-21T08:00:00Z", BadParameter("HOLDUNTIL")),
            (" HOLDUNTIL=20261121T080000Z", BadParameter("HOLDUNTIL")),
            (" HOLDFOR=60 HOLDUNTIL=2026-11-21T08:00:00Z", Usage("HOLDFOR or HOLDUNTIL, not both")),
            (" BY", BadParameter("BY")),
            (" BY=600", BadParameter("BY")),
            (" BY=600;", BadParameter("BY")),
            (" BY=600;X", BadParameter("BY")),
            (" BY=600;TR", BadParameter("BY")),
            (" BY=;R", BadParameter("BY")),
            (" BY=0;R", BadParameter("BY")),
            (" BY=-5;R", BadParameter("BY")),
            (" BY=1234567890;N", BadParameter("BY")),
            (" MT-PRIORITY", BadParameter("MT-PRIORITY")),
            (" MT-PRIORITY=10", BadParameter("MT-PRIORITY")),
            (" MT-PRIORITY=-0", BadParameter("MT-PRIORITY")),
            (" MT-PRIORITY=+3", BadParameter("MT-PRIORITY")),
            (" MT-PRIORITY=high", BadParameter("MT-PRIORITY")),
            (" REQUIRETLS=YES", BadParameter("REQUIRETLS")),
            (" XPRIORITY=3", UnknownParameter("XPRIORITY".into())),
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
        for text in [
            " ORCPT=a@b",
            " ORCPT=rfc822;",
            " ORCPT=rfc822;a=b",
            " ORCPT=rfc822;ü@b",
            " ORCPT=;a",
            " ORCPT=utf-8;a+2Bb@c",
            " ORCPT=utf-8;\\x{0A}@c",
        ] {
            assert_eq!(rcpt(text), Err(BadParameter("ORCPT")), "{text}");
        }
        assert_eq!(rcpt(" SIZE=1"), Err(UnknownParameter("SIZE".into())));
    }
}
