//! The mail that carries a report (RFC 8460 §5.3): `multipart/report` with a word for people and the report in gzip.
//!
//! ASCII with short lines: every host takes it. `TLS-Required: No` (RFC 8689 §5), since a report on broken TLS has to
//! arrive over broken TLS (RFC 8460 §3). From the null sender, so that nothing ever bounces.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::kit::text::{date_field, day, without_controls};
use crate::mail::Address;
use crate::mail::tlsrpt::report::Head;

/// Characters of a line of base64 (RFC 2045 §6.8).
const LINE_CHARS: usize = 76;

/// Who writes to whom.
#[derive(Debug, Clone, Copy)]
pub struct Letter<'a> {
    /// `[tlsrpt] from`; its domain is the one that signs.
    pub from: &'a Address,
    /// Who asked for it; ASCII.
    pub to: &'a [Address],
    /// The queue id.
    pub id: &'a str,
    /// Unix seconds.
    pub now: i64,
}

/// The content: CR LF line ends, dots not doubled.
pub fn compose(letter: &Letter<'_>, head: &Head<'_>, gzip: &[u8]) -> Vec<u8> {
    let Letter { from, to, id, now } = letter;
    let (hostname, domain) = (head.hostname, head.domain);
    let to: Vec<String> = to.iter().map(|address| without_controls(address.as_ref(), usize::MAX)).collect();
    let file = head.file_name();
    // "=_" occurs in no base64, and in none of our own words (RFC 2045 §6.7).
    let boundary = format!("=_{id}");
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write!(
        text,
        "Date: {date}\r\n\
         From: {from}\r\n\
         To: {to}\r\n\
         Subject: Report Domain: {domain}\r\n Submitter: {hostname}\r\n Report-ID: <{report_id}>\r\n\
         Message-ID: <{id}@{hostname}>\r\n\
         TLS-Report-Domain: {domain}\r\n\
         TLS-Report-Submitter: {hostname}\r\n\
         TLS-Required: No\r\n\
         Auto-Submitted: auto-generated\r\n\
         MIME-Version: 1.0\r\n\
         Content-Type: multipart/report; report-type=\"tlsrpt\";\r\n boundary=\"{boundary}\"\r\n\
         \r\n\
         --{boundary}\r\n\
         Content-Type: text/plain; charset=us-ascii\r\n\
         \r\n\
         This is a report on TLS between {hostname} and the mail\r\n\
         hosts of {domain} on {day} (UTC).\r\n\
         Programs read the attached file (RFC 8460).\r\n\
         \r\n\
         --{boundary}\r\n\
         Content-Type: application/tlsrpt+gzip; name=\"{file}\"\r\n\
         Content-Transfer-Encoding: base64\r\n\
         Content-Disposition: attachment; filename=\"{file}\"\r\n\
         \r\n",
        date = date_field(*now),
        to = to.join(",\r\n "),
        report_id = head.report_id(),
        day = day(head.day),
    );
    let encoded = STANDARD.encode(gzip);
    for line in encoded.as_bytes().chunks(LINE_CHARS) {
        text.push_str(&String::from_utf8_lossy(line));
        text.push_str("\r\n");
    }
    let _ = write!(text, "\r\n--{boundary}--\r\n");
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::address;
    use crate::mail::tlsrpt::report::tests::{HEAD, rows};
    use crate::mail::tlsrpt::report::{gzip, json};

    #[test]
    fn the_mail_has_the_fields_of_rfc_8460_and_short_lines() {
        let from = address::parse("tls-reports@company-x.example").unwrap();
        let to = ["a@company-y.example", "b@c.test"].map(|to| address::parse(to).unwrap());
        let letter = Letter { from: &from, to: &to, id: "1K0HC0NYC00", now: 1_459_560_000 };
        let content = compose(&letter, &HEAD, &gzip(&json(&HEAD, &rows())));
        let text = String::from_utf8(content).unwrap();
        assert!(
            text.is_ascii()
                && text.split("\r\n").all(|line| line.len() < 200 && !line.contains(['\r', '\n']))
        );
        for part in [
            "To: a@company-y.example,\r\n b@c.test\r\n",
            "\r\nSubject: Report Domain: company-y.example\r\n Submitter: relay.company-x.example\r\n Report-ID: \
             <2016-04-01.company-y.example@relay.company-x.example>\r\n",
            "\r\nTLS-Report-Domain: company-y.example\r\nTLS-Report-Submitter: relay.company-x.example\r\n\
             TLS-Required: No\r\n",
            "; report-type=\"tlsrpt\";",
            "filename=\"relay.company-x.example!company-y.example!1459468800!1459555199.json.gz\"\r\n\r\nH4sI",
        ] {
            assert!(text.contains(part), "no {part:?} in\n{text}");
        }
        assert!(text.ends_with("\r\n--=_1K0HC0NYC00--\r\n"), "{text}");
    }
}
