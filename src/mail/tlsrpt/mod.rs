//! TLS reports (RFC 8460): who asks for them, what is in them, and the mail that carries one.
//!
//! Pure: rows that were counted in, JSON, gzip and a message out. `delivery/job/tls_session.rs` says what is counted,
//! `delivery/report/tls_reports.rs` sends.

pub mod message;
pub mod record;
pub mod report;

/// Seconds of a day: reports are for whole days in UTC (RFC 8460 §4.1).
pub const DAY_SECS: i64 = 86_400;

/// Of a report in gzip (RFC 8460 §6.4).
pub const MEDIA_TYPE: &str = "application/tlsrpt+gzip";

/// When the day of this Unix second began.
pub fn day_of(unix_secs: i64) -> i64 {
    unix_secs.div_euclid(DAY_SECS).saturating_mul(DAY_SECS)
}

/// Why a session failed to come to the TLS that it should have had (RFC 8460 §4.3). `dane-required` is what a sender
/// gives who demands DANE of a destination: nothing in our config does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ResultType {
    /// The host has no STARTTLS, or refuses it.
    StarttlsNotSupported,
    /// The certificate is another host's.
    CertificateHostMismatch,
    /// Its time is over, or has not begun.
    CertificateExpired,
    /// Nobody who is trusted vouches for it.
    CertificateNotTrusted,
    /// All else about TLS.
    ValidationFailure,
    /// The TLSA records cannot be used.
    TlsaInvalid,
    /// DNSSEC says that an answer is not genuine.
    DnssecInvalid,
    /// The policy of MTA-STS cannot be fetched.
    StsPolicyFetchError,
    /// It is no policy.
    StsPolicyInvalid,
    /// The certificate of the web server that has it does not hold.
    StsWebpkiInvalid,
}

impl ResultType {
    /// As reports and the table `tls_results` have it.
    pub fn as_str(self) -> &'static str {
        match self {
            ResultType::StarttlsNotSupported => "starttls-not-supported",
            ResultType::CertificateHostMismatch => "certificate-host-mismatch",
            ResultType::CertificateExpired => "certificate-expired",
            ResultType::CertificateNotTrusted => "certificate-not-trusted",
            ResultType::ValidationFailure => "validation-failure",
            ResultType::TlsaInvalid => "tlsa-invalid",
            ResultType::DnssecInvalid => "dnssec-invalid",
            ResultType::StsPolicyFetchError => "sts-policy-fetch-error",
            ResultType::StsPolicyInvalid => "sts-policy-invalid",
            ResultType::StsWebpkiInvalid => "sts-webpki-invalid",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_begins_at_midnight_utc() {
        assert_eq!(day_of(1_795_910_400), 1_795_910_400);
        assert_eq!(day_of(1_795_910_400 + DAY_SECS - 1), 1_795_910_400);
        assert_eq!(day_of(-1), -DAY_SECS);
    }
}
