//! The capabilities of a host: the keywords of its EHLO reply (RFC 5321 §4.1.1.1). Pure.

use crate::mail::Reply;

/// The extensions that delivery uses. A host that only knows HELO has none of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::delivery) struct Capabilities {
    /// PIPELINING (RFC 2920).
    pub(in crate::delivery) pipelining: bool,
    /// SIZE (RFC 1870).
    pub(in crate::delivery) size: bool,
    /// The largest message that the host takes, in bytes; none without a limit.
    pub(in crate::delivery) size_max: Option<u64>,
    /// 8BITMIME (RFC 6152).
    pub(in crate::delivery) eight_bit: bool,
    /// CHUNKING (RFC 3030).
    pub(in crate::delivery) chunking: bool,
    /// BINARYMIME (RFC 3030).
    pub(in crate::delivery) binary_mime: bool,
    /// SMTPUTF8 (RFC 6531).
    pub(in crate::delivery) smtputf8: bool,
    /// DSN (RFC 3461).
    pub(in crate::delivery) dsn: bool,
    /// STARTTLS (RFC 3207).
    pub(in crate::delivery) starttls: bool,
    /// REQUIRETLS (RFC 8689).
    pub(in crate::delivery) require_tls: bool,
    /// MT-PRIORITY (RFC 6710).
    pub(in crate::delivery) mt_priority: bool,
    /// DELIVERBY (RFC 2852): the shortest time that the host accepts, in seconds; 0 where it names none.
    pub(in crate::delivery) deliver_by: Option<i64>,
    /// LIMITS (RFC 9422): recipients of a transaction, and transactions on a connection.
    pub(in crate::delivery) recipients_max: Option<usize>,
    pub(in crate::delivery) mails_max: Option<usize>,
    /// AUTH (RFC 4954): the mechanisms, in upper case.
    pub(in crate::delivery) auth: Vec<String>,
}

impl Capabilities {
    /// Reads the reply to EHLO: a greeting, then one keyword on each line.
    pub(in crate::delivery) fn read(ehlo: &Reply) -> Capabilities {
        let mut capabilities = Capabilities::default();
        for line in ehlo.text.split('\n').skip(1) {
            if let Some(limits) = line.get(..7).filter(|word| word.eq_ignore_ascii_case("LIMITS ")) {
                capabilities.read_limits(&line[limits.len()..]);
                continue;
            }
            // Some hosts still write "AUTH=LOGIN", as it was before RFC 2554.
            let mut words = line.split([' ', '\t', '=']).filter(|word| !word.is_empty());
            let Some(keyword) = words.next() else { continue };
            match keyword.to_ascii_uppercase().as_str() {
                "PIPELINING" => capabilities.pipelining = true,
                "8BITMIME" => capabilities.eight_bit = true,
                "CHUNKING" => capabilities.chunking = true,
                "BINARYMIME" => capabilities.binary_mime = true,
                "SMTPUTF8" => capabilities.smtputf8 = true,
                "DSN" => capabilities.dsn = true,
                "STARTTLS" => capabilities.starttls = true,
                "REQUIRETLS" => capabilities.require_tls = true,
                "MT-PRIORITY" => capabilities.mt_priority = true,
                // RFC 2852 §2: a list of options, of which only the first is defined.
                "DELIVERBY" => {
                    let min = words.next().and_then(|options| options.split(',').next());
                    capabilities.deliver_by = Some(min.and_then(|min| min.parse().ok()).unwrap_or(0));
                }
                "SIZE" => {
                    capabilities.size = true;
                    // RFC 1870 §4: 0 or no number is no limit.
                    capabilities.size_max =
                        words.next().and_then(|max| max.parse().ok()).filter(|max| *max > 0);
                }
                "AUTH" => {
                    let named = words.map(str::to_ascii_uppercase);
                    // "AUTH" and "AUTH=" often name the same mechanisms.
                    let news: Vec<String> = named.filter(|word| !capabilities.auth.contains(word)).collect();
                    capabilities.auth.extend(news);
                }
                _ => {}
            }
        }
        capabilities
    }

    /// RFC 9422 §3: words `NAME=value`. A value that is no number from 1 on must be ignored (§3.1.1).
    fn read_limits(&mut self, limits: &str) {
        for (name, value) in limits.split(' ').filter_map(|word| word.split_once('=')) {
            let value = value.parse().ok().filter(|value| *value > 0);
            match name.to_ascii_uppercase().as_str() {
                "RCPTMAX" => self.recipients_max = value,
                "MAILMAX" => self.mails_max = value,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keywords_are_read_in_any_case_and_from_the_second_line_on() {
        let reply = Reply::bare(
            250,
            "pipelining.example DSN\npipelining\nChunking\nBINARYMIME\nSize 1000\nAUTH=LOGIN\nauth cram-md5 login Plain\nX-ODD thing\n",
        );
        let expected = Capabilities {
            pipelining: true,
            chunking: true,
            binary_mime: true,
            size: true,
            size_max: Some(1000),
            auth: ["LOGIN", "CRAM-MD5", "PLAIN"].map(str::to_owned).to_vec(),
            ..Capabilities::default()
        };
        assert_eq!(Capabilities::read(&reply), expected);
        let reply = Reply::bare(
            250,
            "x\nDELIVERBY 240\nMt-Priority MIXER\nREQUIRETLS\nlimits RCPTMAX=20 MAILMAX=0 X=1",
        );
        let expected = Capabilities {
            deliver_by: Some(240),
            mt_priority: true,
            require_tls: true,
            recipients_max: Some(20),
            ..Capabilities::default()
        };
        assert_eq!(Capabilities::read(&reply), expected);
        assert_eq!(Capabilities::read(&Reply::bare(250, "x\nDELIVERBY")).deliver_by, Some(0));
        for unlimited in ["x\nSIZE", "x\nSIZE 0", "x\nSIZE many"] {
            let capabilities = Capabilities::read(&Reply::bare(250, unlimited));
            assert_eq!((capabilities.size, capabilities.size_max), (true, None), "{unlimited}");
        }
    }
}
