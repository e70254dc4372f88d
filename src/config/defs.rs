//! The table of all config keys: one place per key for its name, kind, range, default and doc.
//!
//! What [`load`](super::load) accepts, what the reference prints and what the error messages say
//! all come from here; nothing about a single key is written anywhere else. Checks that need two
//! keys are in `cross.rs`.

pub(super) use super::kind::{Def, Kind, Preset};

/// A table whose keys the operator chooses, so that no [`Def`] names them: local name = list of
/// addresses.
pub(super) const ALIASES: &str = "aliases";
/// What the reference says about it.
pub(super) const ALIASES_DOC: &str = "Local names and where their mail goes, for VRFY, EXPN and cron \
mail: name = list of addresses.";
/// What the reference shows of it.
pub(super) const ALIASES_EXAMPLE: &str = "root = [\"ops@example.com\"]";

/// The tables of the file that may stand several times, written `[[listen]]`.
pub(super) const REPEATED: [&str; 6] = ["listen", "source", "route", "destination", "retry.rule", "dkim"];

use Kind::*;
use Preset::{Example, Is};

use super::kind::def;

/// Every key, in the order of the reference.
pub(super) const DEFS: &[Def] = &[
    def(
        "hostname",
        Host,
        Example("\"relay.example.com\""),
        "The name in the banner, EHLO and Received. It should resolve to this machine, and the machine's \
         address back to it; many hosts refuse mail otherwise. Default: the machine's name.",
    ),
    def(
        "queue.path",
        File,
        Is("\"/var/lib/postrider/queue.db\""),
        "The database. Its directory must be writable, on a local disk, and have room for every message \
         that waits.",
    ),
    def(
        "queue.lifetime",
        Duration("1s", "100d"),
        Is("\"5d\""),
        "How long a message is tried before it bounces (RFC 5321 §4.5.4.1 asks for 4 to 5 days).",
    ),
    def(
        "queue.bounce_lifetime",
        Duration("1s", "100d"),
        Is("\"2d\""),
        "The same for bounces themselves; one that cannot be delivered by then is dropped and logged.",
    ),
    def(
        "queue.delay_warning",
        OrOff(&Duration("1s", "100d")),
        Is("\"4h\""),
        "The sender is told once that a message is delayed when it has waited so long; \"off\" for never.",
    ),
    def(
        "queue.history",
        Duration("1s", "3650d"),
        Is("\"7d\""),
        "How long finished deliveries and their attempts stay in the database to be asked about.",
    ),
    def(
        "listen.address",
        Socket,
        Is("\"[::]:587\""),
        "Where to listen: address and port. [::] takes IPv4 too, unless there is a [[listen]] for 0.0.0.0 with the same port. Several [[listen]] are allowed; a file \
         with none has one with these defaults.",
    ),
    def(
        "listen.tls",
        Choice(&["starttls", "implicit", "off"]),
        Is("\"starttls\""),
        "starttls: TLS is offered, and AUTH only after it (port 587). implicit: TLS from the first byte \
         (RFC 8314, port 465). off: no TLS; AUTH is then offered only if the address is loopback.",
    ),
    def(
        "listen.auth",
        Choice(&["required", "optional"]),
        Is("\"required\""),
        "Nobody sends without a credential or from outside a trusted network, whatever stands here: not to an alias \
         either; MAIL is answered 530. optional is for a listener of trusted clients, which need no login: \
         FUTURERELEASE and MT-PRIORITY are then shown only to clients that may send, and not, as with required, \
         to all since all are to log in.",
    ),
    def(
        "listen.trusted",
        List(0, &Network),
        Is("[]"),
        "Networks that may relay without AUTH here. Keep it narrow: whatever can send from such an address \
         can send mail in your name.",
    ),
    def(
        "tls.certificate",
        File,
        Example("\"/etc/postrider/tls/fullchain.pem\""),
        "The certificate shown to clients: PEM, the leaf first, then its chain. Needed unless every listener \
         has tls = \"off\".",
    ),
    def("tls.key", File, Example("\"/etc/postrider/tls/key.pem\""), "Its private key: PEM."),
    def(
        "users.file",
        File,
        Is("\"/etc/postrider/users\""),
        "Who may log in: written by `postrider user`, holds verifiers and no passwords. Without it logins are answered \
         454. A running relay keeps its users while the file is gone, empty or broken, and says so in the log.",
    ),
    def("limits.message_size", Size("64KiB", "1GiB"), Is("\"25MiB\""), "Bytes of one message (RFC 1870)."),
    def(
        "limits.recipients",
        Number(1, 100_000),
        Is("1000"),
        "Recipients of one transaction; RFC 5321 §4.5.3.1.8 asks for at least 100.",
    ),
    def(
        "limits.sessions",
        Number(1, 100_000),
        Is("500"),
        "Sessions at once; one more is answered 421. Clients that have not logged in fill three quarters of them \
         at most, they and users seven eighths: trusted clients and this machine always find room. Where their part is \
         full, a newcomer that has not logged in takes the place of one from the network with most of them.",
    ),
    def(
        "limits.sessions_per_client",
        Number(1, 100_000),
        Is("50"),
        "Sessions at once from one address (IPv6: one /64; in a trusted network one address).",
    ),
    def("limits.errors", Number(1, 10_000), Is("10"), "Bad commands in one session before 421."),
    def(
        "limits.auth_failures",
        Number(1, 10_000),
        Is("5"),
        "Failed logins from one client address (IPv6: /64) in 10 minutes before it is answered 421; a whole network \
         (/24, IPv6: /48) has ten times as many. One wrong password tried over and over counts once. A user that has \
         logged in from there before is checked all the same. `postrider user failures` lists and lifts it.",
    ),
    def(
        "limits.received_hops",
        Number(1, 1000),
        Is("50"),
        "A message with more Received fields than this is in a loop and is refused (RFC 5321 §6.3).",
    ),
    def(
        "limits.long_lines",
        Choice(&["accept", "refuse"]),
        Is("\"accept\""),
        "What becomes of a message with a line of more than 998 octets, which RFC 5322 §2.1.1 does not allow. \
         accept: it is taken and goes on as it came, never folded or cut; some hosts refuse it (and then it comes back) \
         or break the line. refuse: 554 5.6.0. Content sent as BODY=BINARYMIME may have lines of any length.",
    ),
    def(
        "limits.idle_timeout",
        Duration("100ms", "1d"),
        Is("\"5m\""),
        "A client that is silent for so long is dropped (RFC 5321 §4.5.3.2.7).",
    ),
    def(
        "limits.login_timeout",
        Duration("100ms", "5m"),
        Is("\"30s\""),
        "The same for a TLS handshake, and for whoever has not logged in and is not trusted; four times as long for \
         all of the time until a login. Places are scarce, and nobody needs minutes for a login.",
    ),
    def(
        "limits.session_timeout",
        Duration("100ms", "7d"),
        Is("\"2h\""),
        "A session ends after so long, whatever its client does: nobody holds a place for ever with a byte now \
         and then. A message of the largest size must fit in.",
    ),
    def(
        "limits.future_release",
        OrOff(&Duration("1s", "3650d")),
        Is("\"30d\""),
        "How long a client may have a message held before its delivery begins (HOLDFOR and HOLDUNTIL of \
         FUTURERELEASE, RFC 4865); the lifetime counts from then. \"off\": not offered.",
    ),
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
    def(
        "route.domain",
        Pattern,
        Is("\"*\""),
        "Whose mail this route is for: a recipient domain, \"*.example.com\" for every domain below one \
         (itself not), or \"*\" for all. The first [[route]] that matches wins; without one mail goes by MX.",
    ),
    def(
        "route.relay",
        List(0, &Relay),
        Is("[]"),
        "Hosts that take this mail instead of the domain's MX hosts, tried in order; no MX lookup. \
         \"host:port\", or \"[192.0.2.1]:25\" for an address. A name is looked up in /etc/hosts, then in DNS. Empty: by \
         MX all the same.",
    ),
    def(
        "route.tls",
        Choice(&["off", "opportunistic", "encrypt", "verify", "implicit"]),
        Example("\"verify\""),
        "Not given: as a policy of the destination says (docs/tls.md), otherwise opportunistic. A value is used instead of \
         such a policy. off: never. opportunistic: STARTTLS where offered, any certificate. encrypt: STARTTLS or no \
         delivery, any certificate, of any kind of key. verify: the certificate must hold for the host. implicit: TLS from the \
         first byte, verified (port 465).",
    ),
    def(
        "route.ca_file",
        File,
        Example("\"/etc/postrider/upstream-ca.pem\""),
        "The roots to verify with (PEM) instead of the built-in ones.",
    ),
    def(
        "route.username",
        Text,
        Example("\"me\""),
        "Log in at the relay as this user; needs password_file, token_file or token_command.",
    ),
    def(
        "route.password_file",
        File,
        Example("\"/etc/postrider/upstream.secret\""),
        "The first line of this file is the password. Keep it readable for Postrider alone. It is read again for \
         each connection, so a new password counts at once.",
    ),
    def(
        "route.token_file",
        File,
        Example("\"/run/postrider/upstream.token\""),
        "Instead of a password: the first line of this file is an OAuth 2.0 access token (XOAUTH2, OAUTHBEARER), \
         which another program replaces before it expires. Read again for each connection.",
    ),
    def(
        "route.token_command",
        Command,
        Example("[\"/usr/local/bin/token\", \"me@example.com\"]"),
        "Instead of a password: a program that prints an OAuth 2.0 access token on the first line of its standard \
         output, with its arguments; no shell. It has 30 seconds, of the environment PATH, HOME, LANG and TZ, and \
         runs when there is no token yet or the relay refuses the last one.",
    ),
    def(
        "route.source_addresses",
        List(0, &Address),
        Is("[]"),
        "Addresses of this machine that connections of this route leave from, instead of \
         delivery.source_addresses.",
    ),
    def(
        "destination.domain",
        Pattern,
        Example("\"example.com\""),
        "Whose mail these limits are for: a recipient domain, \"*.example.com\" for each domain below one, or \
         \"*\" for each; for the mail of a [[route]] with relays, what that route says in domain. Either this or \
         mx; the first [[destination]] that matches holds.",
    ),
    def(
        "destination.mx",
        Pattern,
        Example("\"*.mx.example.net\""),
        "Which hosts these limits are for, whatever domains they serve: the name of an MX host or a relay, \
         \"*.example.net\" for each host below a domain, or \"*\" for each. Either this or domain.",
    ),
    def(
        "destination.connections",
        Number(1, 1000),
        Example("2"),
        "Connections at once to each of them, instead of delivery.connections_per_destination and of what was \
         learnt from a host that said we send too much.",
    ),
    def(
        "destination.messages_per_minute",
        Number(1, 1_000_000),
        Example("60"),
        "Messages a minute to each of them, instead of what was learnt from a host that said we send too much; \
         one for many recipients counts once a transaction. Default: as fast as it goes.",
    ),
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

/// The key of that dotted name.
pub(super) fn find(name: &str) -> Option<&'static Def> {
    DEFS.iter().find(|def| def.name == name)
}

/// The tables, in the order of the reference.
pub(super) fn sections() -> Vec<&'static str> {
    let mut sections: Vec<&str> = Vec::new();
    for section in DEFS.iter().map(Def::section).filter(|section| !section.is_empty()) {
        if !sections.contains(&section) {
            sections.push(section);
        }
    }
    sections.push(ALIASES);
    sections
}
