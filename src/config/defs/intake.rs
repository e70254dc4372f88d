//! Keys of how mail comes in, and where it waits: the name of the relay, the queue, listeners, users, limits.

use super::super::kind::{Def, Kind, Preset, def};
use Kind::*;
use Preset::{Example, Is};

/// In the order of the reference.
pub(super) const KEYS: &[Def] = &[
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
        "queue.checkpoints",
        Choice(&["postrider", "litestream"]),
        Is("\"postrider\""),
        "Who copies the write-ahead log into the database. postrider: the relay, and nobody else while it runs. \
         litestream: Litestream, which replicates the queue beside the running relay; the relay does it only where \
         nobody has for 1 GiB of log, or where the disk is nearly full. Then let nothing but Litestream (with SQLite \
         3.51.3 or newer: 0.5.17 has it) and postrider itself write to the queue.",
    ),
    def(
        "listen.address",
        Socket,
        Is("\"[::]:587\""),
        "Where to listen: address and port. [::] takes IPv4 too, unless there is a [[listen]] for 0.0.0.0 with the same port. Or a socket in the file system, \"unix:/run/postrider/submit.sock\", for programs of this machine: \
         whoever may connect there (see mode) sends as the user who they are, without a password. Several [[listen]] are allowed; a file with none has one with these defaults.",
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
        "listen.mode",
        Mode,
        Example("\"0660\""),
        "Who may connect to a socket in the file system: its rights. Default: \"0666\", every user of this machine.",
    ),
    def("listen.group", Text, Example("\"mail\""), "The group of such a socket. Default: the relay's own."),
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
];
