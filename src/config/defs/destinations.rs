//! Keys of where mail goes: `[[route]]` and `[[destination]]`.

use super::super::kind::{Def, Kind, Preset, def};
use Kind::*;
use Preset::{Example, Is};

/// In the order of the reference.
pub(super) const KEYS: &[Def] = &[
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
];
