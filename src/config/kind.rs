//! What a key is, what its value must be, and how that is said to the operator.

use Kind::*;

/// One key.
pub(super) struct Def {
    /// Dotted: `queue.lifetime`, `listen.tls`; a key of the top level has no dot.
    pub(super) name: &'static str,
    /// What its value must be.
    pub(super) kind: Kind,
    /// What holds when it is not given.
    pub(super) default: Preset,
    /// One paragraph for the operator.
    pub(super) doc: &'static str,
}

/// What holds when a key is not given; always written as TOML.
#[derive(Clone, Copy)]
pub(super) enum Preset {
    /// This value.
    Is(&'static str),
    /// Nothing, or something that depends on the machine; this is an example for the reference.
    Example(&'static str),
}

/// Shortens the table of keys to one call a key.
pub(super) const fn def(name: &'static str, kind: Kind, default: Preset, doc: &'static str) -> Def {
    Def { name, kind, default, doc }
}

impl Def {
    /// The table it stands in (`retry.rule` in `retry`); empty for the top level.
    pub(super) fn section(&self) -> &'static str {
        self.name.rsplit_once('.').map_or("", |(section, _)| section)
    }

    /// The name without its table.
    pub(super) fn key(&self) -> &'static str {
        self.name.rsplit_once('.').map_or(self.name, |(_, key)| key)
    }
}

/// What a value must be, with its range as the operator would type it.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    /// Any text but an empty one.
    Text,
    /// A file name; relative ones count from the config file's directory.
    File,
    /// The same, where empty means none.
    FileOrNone,
    /// A domain name or an address literal.
    Host,
    /// A whole number from … to ….
    Number(u64, u64),
    /// A duration from … to ….
    Duration(&'static str, &'static str),
    /// A size from … to ….
    Size(&'static str, &'static str),
    /// One of these words.
    Choice(&'static [&'static str]),
    /// An IP address with a port, or `unix:` and a path.
    Socket,
    /// The rights of a socket in the file system, in octal digits.
    Mode,
    /// The same; the port may be left out and is this one then.
    Server(u16),
    /// An IP address of this machine.
    Address,
    /// The name of a user.
    User,
    /// true or false.
    Flag,
    /// A day (its begin) or a time, in quotes.
    Time,
    /// A mail address.
    Mailbox,
    /// A network, or the address of one machine.
    Network,
    /// The same, with `!` before it where it is taken away.
    NetworkOrNot,
    /// `example.com`, `*.example.com` or `*`.
    Pattern,
    /// `host:port`.
    Relay,
    /// `421`, `4xx`: three digits, x for any.
    CodePattern,
    /// `4.7.1`, `x.7.x`: three numbers, x for any.
    EnhancedPattern,
    /// A list: a program by its whole path, and its arguments.
    Command,
    /// At least so many texts, each of this kind.
    List(usize, &'static Kind),
    /// This, or "off".
    OrOff(&'static Kind),
}

impl Kind {
    /// What to write, to stand after "write …".
    pub(super) fn wanted(&self) -> String {
        match self {
            Text => "some text".to_owned(),
            File => "the name of a file".to_owned(),
            FileOrNone => "the name of a file, or \"\" for none".to_owned(),
            Host => "a host name such as \"relay.example.com\"".to_owned(),
            Number(min, max) => format!("a whole number from {min} to {max}"),
            Duration(min, max) => {
                format!("a duration with a unit, such as \"30s\", \"4h\" or \"5d\", from {min} to {max}")
            }
            Size(min, max) => {
                format!("a size with a unit, such as \"25MiB\" or \"10MB\", from {min} to {max}")
            }
            Choice(words) => {
                let quoted: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
                let (last, others) = quoted.split_last().expect("no choice without words: see DEFS");
                format!("{} or {last}", others.join(", "))
            }
            Socket => {
                "an IP address and port such as \"127.0.0.1:587\" or \"[::]:587\", or a path such as \"unix:/run/postrider/submit.sock\""
                    .to_owned()
            }
            Mode => "the rights of a file in octal digits, such as \"0660\"".to_owned(),
            Server(_) => "an IP address such as \"192.0.2.53\", \"fe80::1%eth0\" or \"[2001:db8::53]:5353\"".to_owned(),
            Flag => "true or false".to_owned(),
            Time => {
                "a day such as \"2026-12-31\", or a time such as \"2026-12-31T06:00:00Z\", UTC unless it says otherwise"
                    .to_owned()
            }
            Address => "an IP address of this machine such as \"192.0.2.10\"".to_owned(),
            User => "the name of a user such as \"newsletter\"".to_owned(),
            Mailbox => "a mail address such as \"tls-reports@example.com\"".to_owned(),
            NetworkOrNot => {
                "a network such as \"10.0.0.0/8\", or \"!127.0.0.0/8\" to allow one".to_owned()
            }
            Network => "a network such as \"10.0.0.0/8\" or \"2001:db8::/32\"".to_owned(),
            Pattern => {
                "a domain such as \"example.com\", \"*.example.com\" for those below it, or \"*\"".to_owned()
            }
            Relay => "a host with a port such as \"smtp.example.com:587\" or \"[192.0.2.1]:25\"".to_owned(),
            CodePattern => "a reply code such as \"421\", or \"4xx\" with x for any digit".to_owned(),
            EnhancedPattern => {
                "an enhanced code such as \"4.7.1\", or \"x.7.x\" with x for any number".to_owned()
            }
            Command => {
                "a list of a program by its whole path and its arguments, such as [\"/usr/local/bin/token\", \"me\"]"
                    .to_owned()
            }
            List(_, item) => format!("a list [item, item, …], each item {}", item.wanted()),
            OrOff(kind) => format!("\"off\" or {}", kind.wanted()),
        }
    }
}
