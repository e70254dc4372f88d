//! The record by which a domain asks for reports: TXT at `_smtp._tls.DOMAIN` (RFC 8460 §3).
//!
//! Who cannot be understood asks for nothing. What is taken of a record is bounded; unknown fields are for others.

use crate::mail::{Address, address};

/// Destinations of one domain that get a report. A list of strangers is no reason to send a hundred.
pub const DESTINATIONS_MAX: usize = 4;
/// Bytes of one of them.
const URI_BYTES_MAX: usize = 1000;

/// Where a report is to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// `mailto:`.
    Mail(Address),
    /// `https:`, as the record has it.
    Https(String),
}

impl Destination {
    /// As `tls_reports.rua` has it. Of `https:` [`Destination::read`] reads it again.
    pub fn uri(&self) -> String {
        match self {
            Destination::Mail(address) => format!("mailto:{address}"),
            Destination::Https(uri) => uri.clone(),
        }
    }

    /// One URI of a `rua`; none where it leads nowhere.
    pub fn read(uri: &str) -> Option<Destination> {
        let (scheme, rest) = uri.split_once(':')?;
        let is_plain = uri.len() <= URI_BYTES_MAX && uri.bytes().all(|byte| byte.is_ascii_graphic());
        if !is_plain {
            return None;
        }
        match scheme.to_ascii_lowercase().as_str() {
            // An exclamation mark is written %21 in a URI here; bare, it is the size limit that DMARC has (RFC 7489
            // §6.2), which is no business of TLS reports. RFC 6068: what follows `?` are header fields.
            "mailto" => {
                let to = rest.split(['?', '!']).next().unwrap_or_default();
                let address = address::parse(&unescaped(to)?).ok()?;
                address.to_string().is_ascii().then_some(Destination::Mail(address))
            }
            "https" => {
                let host = rest.strip_prefix("//")?.split(['/', '?', '#']).next().unwrap_or_default();
                // A login in a URI is none that we were given.
                let is_host = !host.is_empty() && !host.starts_with(':') && !host.contains('@');
                is_host.then(|| Destination::Https(uri.to_owned()))
            }
            _ => None,
        }
    }
}

/// Why a domain gets no report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAsked {
    /// There is no record of this version.
    #[error("no TXT record begins with v=TLSRPTv1;")]
    NoRecord,
    /// RFC 8460 §3: then nobody can tell which is meant.
    #[error("there are several TXT records that begin with v=TLSRPTv1;")]
    Several,
    /// It has no rua, or none that reports can go to.
    #[error("the record has no rua with a mailto: or https: that can be used")]
    NoDestination,
}

/// Reads the TXT records of `_smtp._tls.DOMAIN`, of each the strings joined.
///
/// # Errors
/// Why the domain gets no report.
pub fn read(texts: &[String]) -> Result<Vec<Destination>, NotAsked> {
    let mut records = texts.iter().filter_map(|text| fields_of(text));
    let fields = records.next().ok_or(NotAsked::NoRecord)?;
    if records.next().is_some() {
        return Err(NotAsked::Several);
    }
    let rua = fields.split(';').find_map(|field| {
        let (name, value) = field.trim_matches(WSP).split_once('=')?;
        (name.trim_end_matches(WSP) == "rua").then_some(value)
    });
    let mut found: Vec<Destination> = Vec::new();
    for uri in rua.unwrap_or_default().split(',') {
        match Destination::read(uri.trim_matches(WSP)) {
            Some(destination) if !found.contains(&destination) => found.push(destination),
            _ => {}
        }
        if found.len() == DESTINATIONS_MAX {
            break;
        }
    }
    if found.is_empty() { Err(NotAsked::NoDestination) } else { Ok(found) }
}

const WSP: [char; 2] = [' ', '\t'];

/// What follows the version (RFC 8460 §3: `tlsrpt-version *WSP ";"`), which is written in capitals as it stands.
fn fields_of(text: &str) -> Option<&str> {
    text.strip_prefix("v=TLSRPTv1")?.trim_start_matches(WSP).strip_prefix(';')
}

/// Without the `%xx` of a URI; none where one is broken.
fn unescaped(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let (byte, after) = match first {
            b'%' => {
                let digits = after.get(..2).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))?;
                (u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?, &after[2..])
            }
            byte => (*byte, after),
        };
        bytes.push(byte);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn uris(texts: &[&str]) -> Result<Vec<String>, NotAsked> {
        let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
        read(&texts).map(|found| found.iter().map(Destination::uri).collect())
    }

    #[test]
    fn what_a_record_asks_for() {
        for (text, asked) in [
            ("v=TLSRPTv1;rua=mailto:reports@example.com", &["mailto:reports@example.com"][..]),
            (
                "v=TLSRPTv1; rua=https://reporting.example.com/v1/tlsrpt",
                &["https://reporting.example.com/v1/tlsrpt"],
            ),
            (
                "v=TLSRPTv1 ;\trua=mailto:a@b.test , https://c.test:8443/x?y=1#z ;",
                &["mailto:a@b.test", "https://c.test:8443/x?y=1#z"],
            ),
            // Unknown fields and schemes are for others.
            (
                "v=TLSRPTv1; ruf=mailto:x@y.test; rua=ftp://a.test,mailto:a@b.test; new=1",
                &["mailto:a@b.test"],
            ),
            // DMARC's size limit; header fields; what is escaped.
            ("v=TLSRPTv1; rua=mailto:a@b.test!10m", &["mailto:a@b.test"]),
            ("v=TLSRPTv1; rua=MailTo:a%2Bb%21@b.test?subject=x", &["mailto:a+b!@b.test"]),
            // The same one twice.
            ("v=TLSRPTv1; rua=mailto:a@b.test,mailto:a@b.test", &["mailto:a@b.test"]),
        ] {
            assert_eq!(
                uris(&[text]).as_deref(),
                Ok(asked.iter().map(|uri| (*uri).to_owned()).collect::<Vec<_>>().as_slice()),
                "{text}"
            );
        }
        let other = "v=spf1 -all";
        assert_eq!(uris(&[other, "v=TLSRPTv1; rua=mailto:a@b.test"]).unwrap().len(), 1);
    }

    #[test]
    fn what_asks_for_nothing() {
        for (texts, why) in [
            (&[][..], NotAsked::NoRecord),
            (&["v=spf1 -all"], NotAsked::NoRecord),
            (&["v=TLSRPTv1"], NotAsked::NoRecord),
            (&["v=tlsrptv1; rua=mailto:a@b.test"], NotAsked::NoRecord),
            (&[" v=TLSRPTv1; rua=mailto:a@b.test"], NotAsked::NoRecord),
            (&["v=TLSRPTv12; rua=mailto:a@b.test"], NotAsked::NoRecord),
            (&["v=TLSRPTv1; rua=mailto:a@b.test", "v=TLSRPTv1;"], NotAsked::Several),
            (&["v=TLSRPTv1;"], NotAsked::NoDestination),
            (&["v=TLSRPTv1; rua="], NotAsked::NoDestination),
            (
                &["v=TLSRPTv1; rua=mailto:, mailto:nobody, mailto:a@b.test%0D%0ABcc:x@y.test"],
                NotAsked::NoDestination,
            ),
            (
                &[
                    "v=TLSRPTv1; rua=mailto:a%2@b.test,mailto:a%+1@b.test,mailto:%ff@b.test,mailto:j%C3%B6rg@b.test",
                ],
                NotAsked::NoDestination,
            ),
            (
                &["v=TLSRPTv1; rua=http://a.test/,https:///x,https://,https:a.test,https://u:p@a.test/"],
                NotAsked::NoDestination,
            ),
        ] {
            assert_eq!(uris(texts), Err(why), "{texts:?}");
        }
        let long = format!("v=TLSRPTv1; rua=https://a.test/{}", "x".repeat(1000));
        assert_eq!(uris(&[&long]), Err(NotAsked::NoDestination));
    }

    #[test]
    fn a_long_list_gets_only_so_many_reports() {
        let list: Vec<String> = (0..200).map(|number| format!("mailto:a{number}@b.test")).collect();
        let record = format!("v=TLSRPTv1; rua={}", list.join(","));
        assert_eq!(uris(&[&record]).unwrap(), list[..DESTINATIONS_MAX]);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        /// Whatever stands there: what is found can be written down and read again, and breaks no line.
        #[test]
        fn what_is_found_reads_back(rest in "[ -~\t\r\n%!,;:@=/a-z]{0,80}") {
            if let Ok(found) = read(&[format!("v=TLSRPTv1;rua=mailto:{rest}"), rest.clone()]) {
                prop_assert!(found.len() <= DESTINATIONS_MAX);
                for destination in found {
                    let uri = destination.uri();
                    prop_assert!(!uri.contains(['\r', '\n']));
                    if let Destination::Https(_) = destination {
                        prop_assert_eq!(Destination::read(&uri), Some(destination));
                    }
                }
            }
        }
    }
}
