//! The policy of a domain (RFC 8461 §3.2) and the hosts that it allows (§4.1). Pure.
//!
//! Lines end with LF or CR LF. Unknown keys are ignored, and of one that stands several times the first counts (but
//! `mx`). Everything else that does not fit is no policy: half a list of hosts would hold mail for the other half.

use std::fmt;

/// Bytes of a policy (RFC 8461 §3.3 suggests them).
pub const BYTES_MAX: usize = 64 << 10;
/// The longest lifetime (§3.2): a year. What is longer counts as this.
pub const MAX_AGE_MAX: i64 = 31_557_600;
/// Bytes of all `mx` patterns together, with a space between: what is kept of a domain in the database.
pub const MX_BYTES_MAX: usize = 16 << 10;

/// What a sender does where a host does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// No mail goes there.
    Enforce,
    /// Mail goes there, and the domain is told (RFC 8460).
    Testing,
    /// As if there were no policy.
    None,
}

impl Mode {
    /// As in the policy, in the table and in words.
    pub fn as_str(self) -> &'static str {
        match self {
            Mode::Enforce => "enforce",
            Mode::Testing => "testing",
            Mode::None => "none",
        }
    }

    /// The mode of this name.
    pub fn parse(text: &str) -> Option<Mode> {
        [Mode::Enforce, Mode::Testing, Mode::None].into_iter().find(|mode| mode.as_str() == text)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// What is done where a host does not fit.
    pub mode: Mode,
    /// Seconds that it holds after it was fetched.
    pub max_age: i64,
    /// The hosts: names in lower case, `*.` in front stands for one label.
    pub mx: Vec<String>,
}

/// Why a text is no policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// See [`BYTES_MAX`].
    #[error("it has more than {} KiB", BYTES_MAX >> 10)]
    TooLong,
    /// Bytes that are no text.
    #[error("it is not UTF-8")]
    NotText,
    /// A line that is no `key: value`, or a CR without an LF.
    #[error("line {0} is not \"key: value\"")]
    BadLine(usize),
    /// Without it, or with a value that is none.
    #[error("it has no usable {0}")]
    Missing(&'static str),
    /// A `mx` that is no host's name.
    #[error("line {0}: its mx is not the name of a host, nor *. and a domain")]
    BadMx(usize),
    /// See [`MX_BYTES_MAX`].
    #[error("its list of hosts has more than {} KiB", MX_BYTES_MAX >> 10)]
    TooManyHosts,
}

/// As RFC 8461 §3.2 writes it.
impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "version: STSv1\nmode: {}", self.mode)?;
        self.mx.iter().try_for_each(|mx| writeln!(f, "mx: {mx}"))?;
        writeln!(f, "max_age: {}", self.max_age)
    }
}

impl Policy {
    /// Reads what a server gave.
    ///
    /// # Errors
    /// It is no policy.
    pub fn parse(body: &[u8]) -> Result<Policy, PolicyError> {
        if body.len() > BYTES_MAX {
            return Err(PolicyError::TooLong);
        }
        let text = std::str::from_utf8(body).map_err(|_| PolicyError::NotText)?;
        let (mut version, mut mode, mut max_age, mut mx) = (None, None, None, Vec::new());
        for (at, line) in text.split('\n').enumerate() {
            let line = line.strip_suffix('\r').unwrap_or(line).trim_end_matches([' ', '\t']);
            if line.is_empty() {
                continue;
            }
            let bad = || PolicyError::BadLine(at + 1);
            let (key, value) = line.split_once(':').ok_or_else(bad)?;
            let value = value.trim_start_matches([' ', '\t']);
            let is_key = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
            if key.is_empty() || !key.bytes().all(is_key) || value.contains(char::is_control) {
                return Err(bad());
            }
            match key {
                "version" => version = version.or(Some(value)),
                "mode" => mode = mode.or(Some(value)),
                "max_age" => max_age = max_age.or(Some(value)),
                "mx" => mx.push(pattern(value).ok_or(PolicyError::BadMx(at + 1))?),
                _ => {}
            }
        }
        version.filter(|version| *version == "STSv1").ok_or(PolicyError::Missing("version"))?;
        let mode = mode.and_then(Mode::parse).ok_or(PolicyError::Missing("mode"))?;
        // RFC 8461 §3.2: up to ten digits.
        let is_number = |text: &&str| text.len() <= 10 && text.bytes().all(|byte| byte.is_ascii_digit());
        let max_age = max_age.filter(is_number).and_then(|text| text.parse::<i64>().ok());
        let max_age = max_age.ok_or(PolicyError::Missing("max_age"))?.min(MAX_AGE_MAX);
        if mx.is_empty() && mode != Mode::None {
            return Err(PolicyError::Missing("mx"));
        }
        if mx.iter().map(|one| one.len() + 1).sum::<usize>() > MX_BYTES_MAX {
            return Err(PolicyError::TooManyHosts);
        }
        Ok(Policy { mode, max_age, mx })
    }

    /// The pattern that allows mail to go to this host.
    pub fn allows(&self, host: &str) -> Option<&str> {
        self.mx.iter().map(String::as_str).find(|pattern| matches(pattern, host))
    }
}

/// A pattern in lower case, without the last dot; none for what cannot be one.
fn pattern(text: &str) -> Option<String> {
    let name = text.strip_prefix("*.").unwrap_or(text);
    let name = name.strip_suffix('.').unwrap_or(name);
    let is_label = |label: &str| {
        let is_part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        (1..=63).contains(&label.len()) && label.bytes().all(is_part)
    };
    let wildcard = if text.starts_with("*.") { "*." } else { "" };
    (name.len() <= 253 && name.split('.').all(is_label))
        .then(|| format!("{wildcard}{}", name.to_ascii_lowercase()))
}

/// RFC 8461 §4.1: `*.` stands for one label, the first, as in certificates (RFC 6125 §6.4.3).
fn matches(pattern: &str, host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    match pattern.strip_prefix("*.") {
        Some(domain) => host
            .split_once('.')
            .is_some_and(|(label, rest)| !label.is_empty() && rest.eq_ignore_ascii_case(domain)),
        None => host.eq_ignore_ascii_case(pattern),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Policy, String> {
        Policy::parse(text.as_bytes()).map_err(|error| error.to_string())
    }

    fn policy(mode: Mode, max_age: i64, mx: &[&str]) -> Result<Policy, String> {
        Ok(Policy { mode, max_age, mx: mx.iter().map(|one| (*one).to_owned()).collect() })
    }

    #[test]
    fn what_is_a_policy_is_read() {
        let plain = "version: STSv1\nmode: enforce\nmx: mail.a.test\nmx: *.b.test\nmax_age: 604800\n";
        let read = policy(Mode::Enforce, 604_800, &["mail.a.test", "*.b.test"]);
        for text in [
            plain,
            &plain.replace('\n', "\r\n"),
            plain.trim_end(),
            &plain.replace(": ", ":"),
            &plain.replace(": ", ": \t "),
            &plain.replace('\n', " \t\r\n\r\n"),
            &format!("{plain}key_of.later-1: whatever: \u{fc}\nmode: none\nmax_age: 1\nversion: STSv2\n"),
            &plain.replace("mail.a.test", "Mail.A.test."),
            "mx: mail.a.test\nmax_age: 604800\nmx: *.b.test\nmode: enforce\nversion: STSv1",
        ] {
            assert_eq!(parsed(text), read, "{text:?}");
        }
        let of_age = |age: &str| parsed(&plain.replace("604800", age)).map(|policy| policy.max_age);
        assert_eq!(of_age("0"), Ok(0));
        assert_eq!(of_age("31557600"), Ok(MAX_AGE_MAX));
        assert_eq!(of_age("9999999999"), Ok(MAX_AGE_MAX));
        let none = "version: STSv1\nmode: none\nmax_age: 86400";
        assert_eq!(parsed(none), policy(Mode::None, 86_400, &[]));
        let testing = "version: STSv1\nmode: testing\nmx: a.test\nmax_age: 1";
        assert_eq!(parsed(testing), policy(Mode::Testing, 1, &["a.test"]));
        let mut long = plain.to_owned();
        long.extend(std::iter::repeat_n("x: y\n", (BYTES_MAX - plain.len()) / 5));
        assert_eq!(parsed(&long), read, "nearly 64 KB of unknown keys");
    }

    #[test]
    fn what_is_no_policy_says_why() {
        let plain = "version: STSv1\nmode: enforce\nmx: a.test\nmax_age: 60\n";
        let without =
            |key: &str| plain.lines().filter(|line| !line.starts_with(key)).collect::<Vec<_>>().join("\n");
        let bad_age = "it has no usable max_age";
        let hosts: String = (0..1000).map(|n| format!("mx: host{n}.of.a.long.domain.test\n")).collect();
        for (text, why) in [
            ("", "it has no usable version"),
            ("<html>not found</html>\n", "line 1 is not \"key: value\""),
            (&without("version"), "it has no usable version"),
            (&without("mode"), "it has no usable mode"),
            (&without("mx"), "it has no usable mx"),
            (&without("max_age"), bad_age),
            (&plain.replace("STSv1", "STSv2"), "it has no usable version"),
            (&plain.replace("STSv1", "stsv1"), "it has no usable version"),
            (&plain.replace("enforce", "report"), "it has no usable mode"),
            (&plain.replace("60", "-1"), bad_age),
            (&plain.replace("60", "1h"), bad_age),
            (&plain.replace("60", ""), bad_age),
            (&plain.replace("60", "10000000000"), bad_age),
            (&plain.replace('\n', "\r"), "line 1 is not \"key: value\""),
            (&plain.replace("a.test", "a.test\rmx: b.test"), "line 3 is not \"key: value\""),
            (&plain.replace("mode:", "mode"), "line 2 is not \"key: value\""),
            (&plain.replace("mode:", ": "), "line 2 is not \"key: value\""),
            (&plain.replace("a.test", "a.test\0"), "line 3 is not \"key: value\""),
            (&plain.replace("a.test", "*"), "line 3: its mx is not the name of a host, nor *. and a domain"),
            (
                &plain.replace("a.test", "*.*.test"),
                "line 3: its mx is not the name of a host, nor *. and a domain",
            ),
            (
                &plain.replace("a.test", "mx*.test"),
                "line 3: its mx is not the name of a host, nor *. and a domain",
            ),
            (
                &plain.replace("a.test", "a.test, b.test"),
                "line 3: its mx is not the name of a host, nor *. and a domain",
            ),
            (
                &plain.replace("a.test", ".test"),
                "line 3: its mx is not the name of a host, nor *. and a domain",
            ),
            (
                &plain.replace("a.test", "m\u{fc}.test"),
                "line 3: its mx is not the name of a host, nor *. and a domain",
            ),
            (&plain.replace("a.test", ""), "line 3: its mx is not the name of a host, nor *. and a domain"),
            (&format!("{plain}{hosts}"), "its list of hosts has more than 16 KiB"),
            (&format!("{plain}{}", "x: y\n".repeat(BYTES_MAX / 5)), "it has more than 64 KiB"),
        ] {
            assert_eq!(parsed(text), Err(why.to_owned()), "{:?}", &text[..text.len().min(200)]);
        }
        assert_eq!(Policy::parse(b"version: STSv1\n\xff: x"), Err(PolicyError::NotText));
        assert_eq!(Policy::parse(&vec![0; BYTES_MAX + 1]), Err(PolicyError::TooLong));
    }

    #[test]
    fn a_wildcard_stands_for_one_label() {
        let policy = Policy {
            mode: Mode::Enforce,
            max_age: 1,
            mx: ["mail.a.test", "*.b.test"].map(str::to_owned).to_vec(),
        };
        for (host, pattern) in [
            ("mail.a.test", Some("mail.a.test")),
            ("MAIL.A.TEST.", Some("mail.a.test")),
            ("x.b.test", Some("*.b.test")),
            ("X.B.test", Some("*.b.test")),
            ("a.test", None),
            ("x.mail.a.test", None),
            ("b.test", None),
            (".b.test", None),
            ("x.y.b.test", None),
            ("xb.test", None),
            ("x.b.test.evil", None),
            ("192.0.2.1", None),
            ("", None),
        ] {
            assert_eq!(policy.allows(host), pattern, "{host}");
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig { failure_persistence: None, ..Default::default() })]
        /// Whatever a server sends is read without a panic, and what is read means what is written again.
        #[test]
        fn any_bytes_are_read(body in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400)) {
            let _ = Policy::parse(&body);
        }

        #[test]
        fn lines_of_a_policy_in_any_order_are_read_or_refused(
            lines in proptest::collection::vec(
                proptest::sample::select(vec![
                    "version: STSv1", "version:", "mode: enforce", "mode: none", "mode: x", "mx: a.test", "mx: *.b.test",
                    "mx: *", "max_age: 1", "max_age: x", "x: y", "", "\r", "x", ": ",
                ]), 0..9),
        ) {
            if let Ok(policy) = Policy::parse(lines.join("\n").as_bytes()) {
                proptest::prop_assert_eq!(Policy::parse(policy.to_string().as_bytes()), Ok(policy));
            }
        }

        /// One place of a policy is broken: it is another policy that can be written and read, or none.
        #[test]
        fn a_policy_with_a_broken_place_is_a_policy_or_none(
            at in 0usize..90, gone in 0usize..4, put in "[ -~\r\n\t\u{0}\u{fc}]{0,3}",
        ) {
            let mut text = "version: STSv1\r\nmode: enforce\nmx: mail.a.test\nmx: *.b.test\nmax_age: 604800\r\n".to_owned();
            let at = at.min(text.len());
            text.replace_range(at..(at + gone).min(text.len()), &put);
            if let Ok(policy) = Policy::parse(text.as_bytes()) {
                proptest::prop_assert!(policy.mode == Mode::None || !policy.mx.is_empty());
                proptest::prop_assert!((0..=MAX_AGE_MAX).contains(&policy.max_age));
                proptest::prop_assert_eq!(Policy::parse(policy.to_string().as_bytes()), Ok(policy));
            }
        }
    }
}
