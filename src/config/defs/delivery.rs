//! Keys of how mail goes out, and is tried again: DNS, `[delivery]`, source addresses, retry.

use super::super::kind::{Def, Kind, Preset, def};
use Kind::*;
use Preset::{Example, Is};

/// In the order of the reference.
pub(super) const KEYS: &[Def] = &[
    def(
        "dns.servers",
        List(0, &Server(53)),
        Example("[\"127.0.0.1:53\"]"),
        "Whom to ask for MX and addresses; port 53 where none is given. A link-local address has its interface behind \
         it (\"fe80::1%eth0\"), which may come later. Default: the system's resolv.conf, which is looked at again as it \
         changes.",
    ),
    def(
        "dns.trust_anchor",
        File,
        Example("\"/etc/postrider/root.key\""),
        "DNSKEY records, as in a zone file, to prove DNS answers with in the place of the root's keys that are built in: \
         for a network with a root of its own.",
    ),
    def("dns.timeout", Duration("100ms", "1m"), Is("\"5s\""), "For one question, all its tries together."),
    def("delivery.port", Number(1, 65_535), Is("25"), "The port of MX hosts."),
    def("delivery.https_port", Number(1, 65_535), Is("443"), "The port for MTA-STS policies."),
    def(
        "delivery.mta_sts",
        Flag,
        Is("true"),
        "Whether MTA-STS policies (RFC 8461) are looked for and enforced. No effect where a [[route]] names relays, or has tls of its own.",
    ),
    def(
        "delivery.dane",
        Flag,
        Is("true"),
        "Mail to a host with TLSA records that DNSSEC proves (DANE, RFC 7672) goes there only over TLS with a certificate \
         that they name; it waits where there is none. Needs DNS servers that pass DNSSEC signatures on, and is off \
         where they do not. No effect where a [[route]] names relays, or has tls of its own.",
    ),
    def(
        "delivery.workers",
        Number(1, 10_000),
        Is("128"),
        "Delivery threads at most; they are started as they are needed.",
    ),
    def(
        "delivery.connections_per_destination",
        Number(1, 1000),
        Is("8"),
        "Connections at once to one destination (a recipient domain, or a route's relay), and to one MX host, \
         however many domains it serves. A host that says we send too much is given fewer for a while; [[destination]] \
         sets another limit.",
    ),
    def(
        "delivery.recipients_per_transaction",
        Number(1, 10_000),
        Is("100"),
        "Recipients of one message given to a host at once; RFC 5321 §4.5.3.1.8 promises room for 100.",
    ),
    def(
        "delivery.messages_per_connection",
        Number(1, 100_000),
        Is("100"),
        "After so many messages a connection is closed, so that a host with many addresses shares the load.",
    ),
    def(
        "delivery.in_doubt",
        Choice(&["retry", "hold", "assume-delivered"]),
        Is("\"retry\""),
        "When the connection breaks between the end of the message and its answer, nobody knows whether it \
         was taken (RFC 1047). retry: perhaps twice, never lost. hold: wait for the operator. \
         assume-delivered: perhaps lost, never twice.",
    ),
    def(
        "delivery.eight_bit",
        Choice(&["send", "bounce"]),
        Is("\"send\""),
        "What becomes of 8-bit content at a host that does not offer 8BITMIME (RFC 6152). send: it goes as it is, \
         which nearly always works. bounce: it is returned to the sender (5.6.3). It is never converted.",
    ),
    def(
        "delivery.bounces_per_sender",
        OrOff(&Number(1, 1_000_000)),
        Is("100"),
        "Bounces, delay warnings and delivery reports to one sender in an hour. Beyond that its failures are \
         gathered (table pending_reports), and one summary tells of them an hour after the first: a mailbox whose \
         address is forged is not flooded. A person reads no hundred bounces an hour; raise it, or \"off\", \
         where a program reads the bounces of mass mail.",
    ),
    def(
        "delivery.attempt_deadline",
        Duration("100ms", "1d"),
        Is("\"20m\""),
        "One attempt ends after this, whatever its stages add up to.",
    ),
    def(
        "delivery.source_addresses",
        List(0, &Address),
        Is("[]"),
        "Addresses of this machine to send from, by turns. Hosts that have no address of the same family (IPv4, \
         IPv6) as one of these are not tried. Default: the system chooses.",
    ),
    def(
        "delivery.prohibited_networks",
        List(0, &NetworkOrNot),
        Is("[]"),
        "Mail by MX, or to an address literal, is never delivered to hosts in these, so that a stranger's MX record \
         cannot point at what listens here. They come beside a base list: 0.0.0.0/8, 127.0.0.0/8, 169.254.0.0/16, \
         224.0.0.0/4, 240.0.0.0/4, ::1, fe80::/10, ff00::/8. \"!127.0.0.0/8\" allows a network again, whatever else \
         prohibits it. IPv6 forms of an IPv4 address (mapped, NAT64, 6to4, Teredo, ISATAP) count as that address. \
         The relays of a [[route]] may stand anywhere.",
    ),
    def(
        "delivery.private_networks",
        Choice(&["allow", "refuse"]),
        Is("\"allow\""),
        "Whether mail by MX goes to hosts in private networks: 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, \
         100.64.0.0/10, fc00::/7, fec0::/10. allow: inside a company the MX of its own domain is such a host. refuse: \
         such mail bounces; choose it where no mail host of yours has a private address, so that a stranger's MX \
         record cannot point into your network. \"!10.1.0.0/16\" in prohibited_networks makes an exception.",
    ),
    def(
        "delivery.connect_timeout",
        Duration("100ms", "1h"),
        Is("\"30s\""),
        "For the connection to one address.",
    ),
    def(
        "delivery.reply_timeout",
        Duration("100ms", "1h"),
        Is("\"5m\""),
        "For the reply to each command; the reply to the final dot may take twice as long (RFC 5321 \
         §4.5.3.2).",
    ),
    def(
        "delivery.sign_as",
        Host,
        Example("\"example.com\""),
        "The domain whose [[dkim]] keys sign mail of authors that have none of their own. It shows who answers for the \
         mail, but receivers that compare it with From (DMARC) want the author's own domain. Default: such mail is not \
         signed.",
    ),
    def(
        "delivery.ca_file",
        FileOrNone,
        Is("\"\""),
        "More roots to trust (PEM), beside the built-in ones; \"\" for none.",
    ),
    def(
        "source.address",
        Address,
        Example("\"192.0.2.10\""),
        "An address of this machine that connections leave from.",
    ),
    def(
        "source.hostname",
        Host,
        Example("\"out10.example.com\""),
        "The name in EHLO on connections from this address. It should resolve to the address, and the address \
         back to it. Default: hostname.",
    ),
    def(
        "source.users",
        List(1, &User),
        Example("[\"newsletter\"]"),
        "Mail that these users submitted leaves from here, and no other does. A user may have several addresses, \
         which take turns; one of each family reaches every host. This goes before source_addresses of a route \
         and of [delivery].",
    ),
    def(
        "retry.schedule",
        List(1, &Duration("1s", "30d")),
        Is("[\"1m\", \"5m\", \"15m\", \"30m\", \"1h\", \"2h\", \"4h\"]"),
        "How long to wait after the first, second … failed attempt; the last repeats until the lifetime is \
         over. Each is varied by up to 20 %, so that messages that failed together do not return together.",
    ),
    def(
        "retry.rule.domain",
        Pattern,
        Is("\"*\""),
        "Whose answers this rule is about: a recipient domain, \"*.example.com\" or \"*\". A rule applies to \
         a failed attempt that everything it names fits; the first [[retry.rule]] that does wins. One that names \
         only a domain is about temporary failures, the others about permanent ones too.",
    ),
    def(
        "retry.rule.code",
        CodePattern,
        Example("\"4xx\""),
        "The reply code, x for any digit. Where a host gave no answer, our own words have a code too: 421 for a \
         connection that broke or took too long, 451 for one that could not be used.",
    ),
    def(
        "retry.rule.enhanced",
        EnhancedPattern,
        Example("\"x.7.1\""),
        "The enhanced code (RFC 3463), x for any number.",
    ),
    def(
        "retry.rule.text",
        Text,
        Example("\"try again in * minutes\""),
        "Words that stand in the reply's text, * for whatever is between; upper and lower case are the same.",
    ),
    def(
        "retry.rule.action",
        Choice(&["retry", "hold", "bounce"]),
        Is("\"retry\""),
        "retry: try again after delay, a permanent failure too. hold: wait for the operator (postrider queue \
         release). bounce: return it to the sender now.",
    ),
    def(
        "retry.rule.delay",
        Duration("1s", "30d"),
        Example("\"10m\""),
        "For retry: how long to wait instead of what schedule says, each time, varied by up to 20 %. The backoff \
         of a destination in trouble stays as schedule says.",
    ),
];
