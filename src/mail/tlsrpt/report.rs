//! What a report says (RFC 8460 §4.4): the sessions of one day with the hosts of one domain, as JSON.
//!
//! Sessions are grouped by policy: MTA-STS (`sts`) and "none" are the domain's own; DANE (`tlsa`) is each host's (RFC
//! 8460 §1.1: the policy domain is the TLSA base domain). Texts that came from hosts are cut when they are counted.

use std::collections::BTreeMap;
use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Serialize;

use crate::kit::text::{day, utc};
use crate::mail::tlsrpt::{DAY_SECS, ResultType};

/// `tls_results.result` of a session that came to what it should.
pub const SUCCESS: &str = "success";

/// Who reports, and on what.
#[derive(Debug, Clone, Copy)]
pub struct Head<'a> {
    /// `[tlsrpt] organization`.
    pub organization: &'a str,
    /// `[tlsrpt] contact`.
    pub contact: &'a str,
    /// The host that reports.
    pub hostname: &'a str,
    /// The policy domain: the recipients', or a smarthost's name.
    pub domain: &'a str,
    /// When the day began, Unix seconds.
    pub day: i64,
}

/// Sessions of one kind: a row of `tls_results`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Counted {
    /// As `attempts.tls_policy` has it.
    pub policy: String,
    /// The host.
    pub mx: String,
    /// Its address; empty for sessions that went well.
    pub ip: String,
    /// Ours; empty likewise.
    pub source: String,
    /// [`SUCCESS`], or a [`ResultType`] as text.
    pub result: String,
    /// How many.
    pub sessions: u64,
    /// What failed, of the last of them; may be empty.
    pub reason: String,
    /// The policy itself in lines, as it was last; may be empty.
    pub policy_text: String,
    /// The name that has the TLSA records; empty where none is known.
    pub tlsa_base: String,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Document<'a> {
    organization_name: &'a str,
    date_range: DateRange,
    contact_info: &'a str,
    report_id: String,
    policies: Vec<Entry<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct DateRange {
    start_datetime: String,
    end_datetime: String,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Entry<'a> {
    policy: Policy<'a>,
    summary: Summary,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    failure_details: Vec<Failure<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Policy<'a> {
    policy_type: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    policy_string: Vec<&'a str>,
    policy_domain: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    mx_host: Vec<&'a str>,
}

#[derive(Serialize, Default)]
#[serde(rename_all = "kebab-case")]
struct Summary {
    total_successful_session_count: u64,
    total_failure_session_count: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Failure<'a> {
    result_type: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    sending_mta_ip: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    receiving_mx_hostname: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    receiving_ip: &'a str,
    failed_session_count: u64,
    #[serde(skip_serializing_if = "str::is_empty")]
    failure_reason_code: &'a str,
}

impl Head<'_> {
    /// One for each day and domain, the same at each try. It is a msg-id without its brackets (RFC 8460 §5.3).
    pub fn report_id(&self) -> String {
        format!("{}.{}@{}", day(self.day), self.domain, self.hostname)
    }

    /// The last second of the day.
    pub fn end(&self) -> i64 {
        self.day + DAY_SECS - 1
    }

    /// The name of the file (RFC 8460 §5.1).
    pub fn file_name(&self) -> String {
        format!("{}!{}!{}!{}.json.gz", self.hostname, self.domain, self.day, self.end())
    }
}

/// `policy-type`, of a policy and a result as the table has them. What went wrong with the policy of MTA-STS or with
/// DNSSEC itself is about that policy, though none was in force.
fn policy_type(policy: &str, result: &str) -> &'static str {
    match policy {
        "dane" => "tlsa",
        "sts-testing" | "sts-enforce" => "sts",
        _ if result.starts_with("sts-") => "sts",
        _ if result == ResultType::DnssecInvalid.as_str() => "tlsa",
        _ => "no-policy-found",
    }
}

/// The report as JSON.
pub fn json(head: &Head<'_>, rows: &[Counted]) -> String {
    let mut groups: BTreeMap<(&str, &str), Vec<&Counted>> = BTreeMap::new();
    for row in rows {
        let kind = policy_type(&row.policy, &row.result);
        // RFC 8460 §1.1. Where there were no records the host is what was asked about; sessions that were counted
        // together have none.
        let tlsa = [&row.tlsa_base, &row.mx].into_iter().find(|name| kind == "tlsa" && !name.is_empty());
        let domain = tlsa.map_or(head.domain, String::as_str);
        groups.entry((kind, domain)).or_default().push(row);
    }
    let policies = groups.into_iter().map(|((_, domain), rows)| entry(domain, &rows)).collect();
    let document = Document {
        organization_name: head.organization,
        date_range: DateRange { start_datetime: rfc3339(head.day), end_datetime: rfc3339(head.end()) },
        contact_info: head.contact,
        report_id: head.report_id(),
        policies,
    };
    // Strings and numbers are all that is in it.
    serde_json::to_string_pretty(&document).unwrap_or_default()
}

/// RFC 3339 §5.6.
fn rfc3339(unix_secs: i64) -> String {
    utc(unix_secs).replace(' ', "T") + "Z"
}

fn entry<'a>(domain: &'a str, rows: &[&'a Counted]) -> Entry<'a> {
    let kind = rows.first().map_or("no-policy-found", |row| policy_type(&row.policy, &row.result));
    let text = rows.iter().map(|row| row.policy_text.as_str()).find(|text| !text.is_empty());
    let lines: Vec<&str> = text.unwrap_or_default().lines().filter(|line| !line.is_empty()).collect();
    // RFC 8461 §3.2.
    let pattern = |line: &&'a str| Some(line.split_once(':').filter(|(key, _)| *key == "mx")?.1.trim());
    let mx_host = match kind {
        "sts" => lines.iter().filter_map(pattern).collect(),
        _ => Vec::new(),
    };
    let mut summary = Summary::default();
    let mut failure_details = Vec::new();
    for row in rows {
        if row.result == SUCCESS {
            summary.total_successful_session_count += row.sessions;
            continue;
        }
        summary.total_failure_session_count += row.sessions;
        failure_details.push(Failure {
            result_type: &row.result,
            sending_mta_ip: &row.source,
            receiving_mx_hostname: &row.mx,
            receiving_ip: &row.ip,
            failed_session_count: row.sessions,
            failure_reason_code: &row.reason,
        });
    }
    let policy = Policy { policy_type: kind, policy_string: lines, policy_domain: domain, mx_host };
    Entry { policy, summary, failure_details }
}

/// In gzip (RFC 8460 §5.2, `application/tlsrpt+gzip`).
pub fn gzip(json: &str) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    // Writing to memory cannot fail.
    let _ = gzip.write_all(json.as_bytes());
    gzip.finish().unwrap_or_default()
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Read as _;

    use super::*;

    pub(in super::super) const HEAD: Head<'_> = Head {
        organization: "Company-X",
        contact: "sts-reporting@company-x.example",
        hostname: "relay.company-x.example",
        domain: "company-y.example",
        day: 1_459_468_800,
    };

    fn row(policy: &str, mx: &str, result: &str, sessions: u64) -> Counted {
        let (ip, source) = if result == SUCCESS { ("", "") } else { ("203.0.113.56", "2001:db8:abcd:12::1") };
        let owned = |text: &str| text.to_owned();
        Counted {
            policy: owned(policy),
            mx: owned(mx),
            ip: owned(ip),
            source: owned(source),
            result: owned(result),
            sessions,
            ..Counted::default()
        }
    }

    pub(in super::super) fn rows() -> Vec<Counted> {
        let sts = "version: STSv1\r\nmode: testing\r\nmx: *.mail.company-y.example\r\nmax_age: 86400\r\n"
            .to_owned();
        let tlsa = "3 1 1 0b9fa5a59eed715c26c1020c711b4f6ec42d58b0015e14337a39dad301c5afc3".to_owned();
        vec![
            Counted { policy_text: sts, ..row("sts-testing", "mx1.mail.company-y.example", SUCCESS, 5326) },
            row("sts-testing", "mx1.mail.company-y.example", "certificate-expired", 100),
            Counted {
                reason: "454 4.7.0 \"no\"".to_owned(),
                ..row("sts-testing", "mx2.mail.company-y.example", "starttls-not-supported", 200)
            },
            row("none", "mx3.company-y.example", SUCCESS, 1),
            row("requiretls", "mx3.company-y.example", "certificate-not-trusted", 2),
            row("none", "", "sts-policy-fetch-error", 3),
            Counted { policy_text: tlsa, ..row("dane", "mx4.company-y.example", SUCCESS, 7) },
            row("dane", "mx5.company-y.example", "validation-failure", 4),
            // An alias of one that is there already.
            Counted {
                tlsa_base: "mx4.company-y.example".to_owned(),
                ..row("dane", "alias.company-y.example", "certificate-expired", 5)
            },
            row("dane", "", "certificate-expired", 6),
            row("none", "", "dnssec-invalid", 8),
        ]
    }

    /// `tests/golden/tls-report.json` is what reports look like; a schema in Python reads it too.
    #[test]
    fn a_report_is_written_as_rfc_8460_has_it() {
        let golden = include_str!("../../../tests/golden/tls-report.json");
        assert_eq!(json(&HEAD, &rows()) + "\n", golden);
    }

    #[test]
    fn gzip_is_read_back() {
        let text = json(&HEAD, &rows());
        let mut read = String::new();
        let zipped = gzip(&text);
        flate2::read::GzDecoder::new(&*zipped).read_to_string(&mut read).unwrap();
        assert_eq!(read, text);
    }

    #[test]
    fn the_names_of_a_report_are_the_same_at_each_try() {
        assert_eq!(HEAD.report_id(), "2016-04-01.company-y.example@relay.company-x.example");
        assert_eq!(
            HEAD.file_name(),
            "relay.company-x.example!company-y.example!1459468800!1459555199.json.gz"
        );
    }
}
