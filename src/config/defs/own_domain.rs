//! Keys of the domains that we answer for: what signs their mail, and what we report to others.

use super::super::kind::{Def, Kind, Preset, def};
use Kind::*;
use Preset::{Example, Is};

/// In the order of the reference.
pub(super) const KEYS: &[Def] = &[
    def(
        "dkim.domain",
        Host,
        Example("\"example.com\""),
        "Mail whose From has an address of this domain is signed (DKIM, RFC 6376), and that of domains below it which \
         have no [[dkim]] of their own. All keys of the domain that are in force sign, each with a signature of its own: \
         one with RSA and one with Ed25519 is usual. Where none of them is in force mail of the domain waits, and \
         is never sent without a signature. See docs/dkim.md.",
    ),
    def(
        "dkim.selector",
        Host,
        Example("\"s1\""),
        "The name of the key: its public half is the TXT record SELECTOR._domainkey.DOMAIN. A new key has a new one.",
    ),
    def(
        "dkim.key",
        File,
        Example("\"/etc/postrider/dkim/example.com.s1.pem\""),
        "The private key in PEM (PKCS#8, or PKCS#1 of RSA), not encrypted; RSA has 2048 bits at least. \
         `postrider dkim new example.com` makes one and prints the record.",
    ),
    def(
        "dkim.algorithm",
        Choice(&["ed25519", "rsa"]),
        Example("\"ed25519\""),
        "What the key must be. Default: what it is.",
    ),
    def(
        "dkim.from",
        Time,
        Example("\"2026-12-01\""),
        "The key signs from then on; its record should be in DNS a day or two before. Default: at once.",
    ),
    def(
        "dkim.until",
        Time,
        Example("\"2027-12-01\""),
        "The key signs until then. Its record has to stay for as long as mail may be on its way: a week. Default: for \
         as long as it stands here.",
    ),
    def(
        "dkim.canonicalization",
        Choice(&["relaxed/relaxed", "relaxed/simple", "simple/relaxed", "simple/simple"]),
        Is("\"relaxed/relaxed\""),
        "How header and body are signed: relaxed, so that white space may change on the way, or as they are.",
    ),
    def(
        "dkim.expires_after",
        OrOff(&Duration("1h", "1000d")),
        Is("\"off\""),
        "A signature holds for so long after the attempt to deliver that it was made for (x=); \"off\": for as long as \
         the record is there.",
    ),
    def(
        "dkim.skip_signed",
        Flag,
        Is("false"),
        "Whether a message that comes with a signature of this domain that holds is left as it is: it is verified with \
         the key in DNS. Otherwise ours is added; the other one stays in any case.",
    ),
    def(
        "tlsrpt.enabled",
        Flag,
        Is("false"),
        "Whether domains that ask for it (TXT at _smtp._tls.DOMAIN) get a report on each day (UTC): how many sessions \
         with their hosts had the TLS that they should have had, and why others had not (TLSRPT, RFC 8460). Needs the \
         three keys below. Sessions are counted in any case: SELECT * FROM tls_sessions. See docs/tls.md.",
    ),
    def(
        "tlsrpt.organization",
        Text,
        Example("\"Example Inc.\""),
        "Who reports: a name for people, in each report.",
    ),
    def(
        "tlsrpt.contact",
        Text,
        Example("\"tls-contact@example.com\""),
        "Whom the domain's operator may ask about a report: a mail address, or what you like; in each report.",
    ),
    def(
        "tlsrpt.from",
        Mailbox,
        Example("\"tls-reports@example.com\""),
        "The From of reports that go by mail. Receivers want them signed by its domain (RFC 8460 §3): give it a \
         [[dkim]]. Bounces of reports go nowhere.",
    ),
];
