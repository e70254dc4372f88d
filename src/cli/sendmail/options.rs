//! The arguments of `sendmail`, as programs have written them since 1983: pure.
//!
//! Options are read as getopt(3) does: letters may stand together (`-ti`), an argument stands behind its letter or
//! follows it, and `--` ends them. What other mail servers take and what means nothing here (`-om`, `-odb`, `-X FILE`)
//! is taken and has no effect; `docs/sendmail.md` lists it. What would do something else than was asked is refused.

use std::path::PathBuf;

use super::addresses;

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Mode {
    /// Send the message on standard input.
    Send,
    /// SMTP on standard input and output (`-bs`).
    Smtp,
    /// List the queue (`-bp`, `mailq`).
    List,
    /// Try now what waits (`-q`): the arguments of `queue kick`.
    Kick(Vec<String>),
    /// `newaliases`, `-bi`.
    Aliases,
    /// `--help`
    Help,
}

/// All of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) mode: Mode,
    /// `-f`, `-r`: an address without its brackets; empty: the null sender.
    pub(super) sender: Option<String>,
    /// `-F`.
    pub(super) full_name: Option<String>,
    /// `-t`.
    pub(super) reads_recipients: bool,
    /// A line with a dot alone ends the message: no `-i`.
    pub(super) dot_ends: bool,
    /// `-N`, as RCPT has it.
    pub(super) notify: Option<String>,
    /// `-R`, as MAIL has it.
    pub(super) ret: Option<&'static str>,
    /// `-V`.
    pub(super) envid: Option<String>,
    /// `-B`, as MAIL has it.
    pub(super) body: Option<&'static str>,
    /// `-v`.
    pub(super) verbose: bool,
    /// `-C`.
    pub(super) config: Option<PathBuf>,
    /// Addresses, or names without a domain.
    pub(super) recipients: Vec<String>,
}

/// Letters with an argument. That of `-d` and `-q` may be missing, and never stands apart.
const WITH_ARGUMENT: &str = "ABCFLNORVXbefhopr";
const WITH_ATTACHED: &str = "dq";

/// RFC 3461 §4.4.
const ENVID_CHARS_MAX: usize = 100;

impl Default for Options {
    fn default() -> Options {
        Options {
            mode: Mode::Send,
            sender: None,
            full_name: None,
            reads_recipients: false,
            dot_ends: true,
            notify: None,
            ret: None,
            envid: None,
            body: None,
            verbose: false,
            config: None,
            recipients: Vec::new(),
        }
    }
}

impl Options {
    /// Reads the arguments behind the program's name.
    ///
    /// # Errors
    /// What is wrong with them, for a person.
    pub(super) fn read(arguments: &[String]) -> Result<Options, String> {
        let mut options = Options::default();
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            match argument.strip_prefix('-') {
                Some("-") => {
                    for recipient in arguments.by_ref() {
                        options.add_recipients(recipient)?;
                    }
                }
                Some("-help") => options.mode = Mode::Help,
                None | Some("") => options.add_recipients(argument)?,
                Some(letters) => options.take(letters, &mut arguments)?,
            }
        }
        let is_idle = options.mode == Mode::Send && !options.reads_recipients;
        match is_idle && options.recipients.is_empty() {
            true => Err("no recipients; name some, or give -t to read them from the header".to_owned()),
            false => Ok(options),
        }
    }

    /// The letters of one argument.
    fn take<'a>(
        &mut self,
        letters: &'a str,
        arguments: &mut impl Iterator<Item = &'a String>,
    ) -> Result<(), String> {
        for (at, letter) in letters.char_indices() {
            let attached = &letters[at + letter.len_utf8()..];
            if WITH_ATTACHED.contains(letter) {
                return self.set(letter, attached);
            }
            if WITH_ARGUMENT.contains(letter) {
                let next =
                    if attached.is_empty() { arguments.next().map(String::as_str) } else { Some(attached) };
                return self.set(letter, next.ok_or_else(|| format!("-{letter} has no argument"))?);
            }
            self.set(letter, "")?;
        }
        Ok(())
    }

    /// One option.
    fn set(&mut self, letter: char, argument: &str) -> Result<(), String> {
        match letter {
            'b' => self.mode = mode(argument)?,
            'q' => self.mode = Mode::Kick(kick(argument)?),
            'I' => self.mode = Mode::Aliases,
            'f' | 'r' => self.sender = Some(sender(argument)?),
            'F' => self.full_name = Some(argument.to_owned()),
            't' => self.reads_recipients = true,
            'i' => self.dot_ends = false,
            'N' => self.notify = Some(notify(argument)?),
            'R' => self.ret = Some(one_of(argument, &["FULL", "HDRS"]).ok_or("-R takes full or hdrs")?),
            'V' => self.envid = Some(envid(argument)?),
            'B' => {
                let body = one_of(argument, &["7BIT", "8BITMIME"]);
                self.body = Some(body.ok_or("-B takes 7BIT or 8BITMIME")?);
            }
            'v' => self.verbose = true,
            'C' => self.config = Some(argument.into()),
            'o' if argument == "i" => self.dot_ends = false,
            'O' => match argument.split_once('=') {
                Some((name, value)) if name.eq_ignore_ascii_case("IgnoreDots") => {
                    self.dot_ends = !(value.is_empty() || value.starts_with(['t', 'T', 'y', 'Y', '1']));
                }
                Some((name, value)) if name.eq_ignore_ascii_case("DeliveryMode") => {
                    self.set('o', &format!("d{value}"))?
                }
                _ => {}
            },
            // What others do differently, or do at all.
            'A' | 'E' | 'G' | 'L' | 'U' | 'X' | 'd' | 'e' | 'h' | 'm' | 'n' | 'o' | 'p' | 'x' => {}
            _ => return Err(format!("-{} is no option of sendmail", letter.escape_default())),
        }
        Ok(())
    }

    fn add_recipients(&mut self, argument: &str) -> Result<(), String> {
        self.recipients.extend(listed("recipient", argument)?);
        Ok(())
    }
}

fn mode(argument: &str) -> Result<Mode, String> {
    match argument {
        "m" => Ok(Mode::Send),
        "s" => Ok(Mode::Smtp),
        "p" => Ok(Mode::List),
        "i" => Ok(Mode::Aliases),
        "d" | "D" | "l" => Err(format!("-b{argument}: the relay is a service; postrider serve runs it")),
        "v" | "t" => {
            Err(format!("-b{argument} is not offered; postrider explain ADDRESS shows where its mail goes"))
        }
        _ => Err(format!("-b{} is not offered", argument.escape_default())),
    }
}

/// `-q`, `-qR` and a domain, `-qI` and a queue id. Intervals are for a daemon.
fn kick(argument: &str) -> Result<Vec<String>, String> {
    let words = |words: &[&str]| Ok(words.iter().map(|word| (*word).to_owned()).collect());
    match argument.split_at_checked(1) {
        None => words(&["--all"]),
        Some(("R", domain)) => words(&["--domain", domain.trim_start_matches('@')]),
        Some(("I", id)) => words(&["--", id]),
        _ => Err(format!(
            "-q{} is not offered: the relay tries again by itself; -q has all tried now",
            argument.escape_default()
        )),
    }
}

/// An address in brackets or without, or nobody.
fn sender(argument: &str) -> Result<String, String> {
    if matches!(argument.trim(), "" | "<>") {
        return Ok(String::new());
    }
    let mut found = listed("sender", argument)?;
    match (found.pop(), found.is_empty()) {
        (Some(sender), true) => Ok(sender),
        _ => Err(format!("sender {argument:?}: is not one address")),
    }
}

/// The addresses of an argument. What was not UTF-8 is none.
fn listed(who: &str, argument: &str) -> Result<Vec<String>, String> {
    let found = match argument.contains(char::REPLACEMENT_CHARACTER) {
        true => Err("is not UTF-8".to_owned()),
        false => addresses::listed(argument),
    };
    found.map_err(|why| format!("{who} {argument:?}: {why}"))
}

/// RFC 3461 §4.1: NEVER alone, or any of the others.
fn notify(argument: &str) -> Result<String, String> {
    let wrong = || "-N takes never, or a list of success, failure and delay".to_owned();
    if argument.eq_ignore_ascii_case("never") {
        return Ok("NEVER".to_owned());
    }
    let word = |word: &str| one_of(word.trim(), &["SUCCESS", "FAILURE", "DELAY"]).ok_or_else(wrong);
    let mut words: Vec<&str> = argument.split(',').map(word).collect::<Result<_, _>>()?;
    words.sort_unstable();
    words.dedup();
    Ok(words.join(","))
}

fn envid(argument: &str) -> Result<String, String> {
    let fits = (1..=ENVID_CHARS_MAX).contains(&argument.len())
        && argument.bytes().all(|byte| byte.is_ascii_graphic());
    fits.then(|| argument.to_owned())
        .ok_or_else(|| "-V takes up to 100 visible characters of ASCII".to_owned())
}

fn one_of(argument: &str, words: &[&'static str]) -> Option<&'static str> {
    words.iter().copied().find(|word| word.eq_ignore_ascii_case(argument))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Options, String> {
        Options::read(&line.split_ascii_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    /// Where no dot ends the message.
    fn plain() -> Options {
        Options { dot_ends: false, ..Options::default() }
    }

    fn to(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    /// As callers write them: cron, PHP, git send-email, mutt, mailx.
    #[test]
    fn what_callers_write_is_understood() {
        let cases = [
            // Vixie cron, and Debian's.
            (
                "-FCronDaemon -odi -oem root",
                Options {
                    full_name: Some("CronDaemon".into()),
                    recipients: to(&["root"]),
                    ..Options::default()
                },
            ),
            (
                "-i -FCronDaemon -B8BITMIME -oem alice",
                Options {
                    full_name: Some("CronDaemon".into()),
                    body: Some("8BITMIME"),
                    recipients: to(&["alice"]),
                    ..plain()
                },
            ),
            // PHP's default and what its manual adds.
            ("-t -i", Options { reads_recipients: true, ..plain() }),
            (
                "-t -i -fwebmaster@example.com",
                Options { reads_recipients: true, sender: Some("webmaster@example.com".into()), ..plain() },
            ),
            // git send-email.
            (
                "-i a@example.com b@example.com",
                Options { recipients: to(&["a@example.com", "b@example.com"]), ..plain() },
            ),
            (
                "-f me@example.com -i a@example.com",
                Options {
                    sender: Some("me@example.com".into()),
                    recipients: to(&["a@example.com"]),
                    ..plain()
                },
            ),
            // mutt and mailx.
            (
                "-oem -oi -f me@example.com -- a@example.com",
                Options {
                    sender: Some("me@example.com".into()),
                    recipients: to(&["a@example.com"]),
                    ..plain()
                },
            ),
            (
                "-N failure,delay -R hdrs -V id7 -oi a@b.example",
                Options {
                    notify: Some("DELAY,FAILURE".into()),
                    ret: Some("HDRS"),
                    envid: Some("id7".into()),
                    recipients: to(&["a@b.example"]),
                    ..plain()
                },
            ),
        ];
        for (line, expected) in cases {
            assert_eq!(read(line), Ok(expected), "{line}");
        }
    }

    #[test]
    fn what_the_manual_of_sendmail_has_is_understood() {
        let cases = [
            ("-ti", Options { reads_recipients: true, ..plain() }),
            ("-toi", Options { reads_recipients: true, ..plain() }),
            (
                "-O IgnoreDots=true -OErrorMode=m -o qd -om -v root",
                Options { verbose: true, recipients: to(&["root"]), ..plain() },
            ),
            (
                "-f <> root",
                Options { sender: Some(String::new()), recipients: to(&["root"]), ..Options::default() },
            ),
            (
                "-f<> root",
                Options { sender: Some(String::new()), recipients: to(&["root"]), ..Options::default() },
            ),
            (
                "-A m -Xlog -h 3 -p smtp:host -Ltag -d7 -U -G -n -x -em root",
                Options { recipients: to(&["root"]), ..Options::default() },
            ),
            ("-bm root", Options { recipients: to(&["root"]), ..Options::default() }),
            ("-- -odd@example.com", Options { recipients: to(&["-odd@example.com"]), ..Options::default() }),
            ("-bs", Options { mode: Mode::Smtp, ..Options::default() }),
            (
                "-bp -C /etc/x.toml",
                Options { mode: Mode::List, config: Some("/etc/x.toml".into()), ..Options::default() },
            ),
            ("-bi", Options { mode: Mode::Aliases, ..Options::default() }),
            ("-I", Options { mode: Mode::Aliases, ..Options::default() }),
            ("-q", Options { mode: Mode::Kick(to(&["--all"])), ..Options::default() }),
            (
                "-qRexample.com",
                Options { mode: Mode::Kick(to(&["--domain", "example.com"])), ..Options::default() },
            ),
            ("-qI1", Options { mode: Mode::Kick(to(&["--", "1"])), ..Options::default() }),
        ];
        for (line, expected) in cases {
            assert_eq!(read(line), Ok(expected), "{line}");
        }
    }

    #[test]
    fn what_cannot_be_done_is_refused() {
        for (line, why) in [
            ("", "no recipients"),
            ("-i", "no recipients"),
            ("-f", "-f has no argument"),
            ("-z root", "-z is no option"),
            ("-bd -q30m", "postrider serve"),
            ("-bv root", "postrider explain"),
            ("-q30m", "tries again by itself"),
            ("-N sometimes root", "-N takes"),
            ("-N never,delay root", "-N takes"),
            ("-R some root", "-R takes"),
            ("-B 9BIT root", "-B takes"),
            ("-f a@b,c@d root", "is not one address"),
            ("\"a", "recipient"),
        ] {
            let said = read(line).unwrap_err();
            assert!(said.contains(why), "{line}: {said}");
        }
    }

    /// What a web page or a mail may have put into an argument.
    #[test]
    fn no_argument_becomes_a_command_or_a_field() {
        let read = |arguments: &[&str]| {
            Options::read(&arguments.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
        };
        for hostile in [
            "a@b.example\r\nRCPT TO:<c@d.example>",
            "a@b.example>\nDATA",
            "a@b.example> SIZE=1",
            "\"a\r\n\"@b.example",
            "a\u{0}@b.example",
            "a b@c.example",
            "j\u{fffd}rg@b.example",
        ] {
            for arguments in [&["-f", hostile, "root"][..], &[hostile], &["--", hostile]] {
                let qualified = read(arguments).and_then(|options| {
                    let mut names = options.recipients;
                    names.extend(options.sender);
                    let home = addresses::Home { hostname: "h.example", machine: "" };
                    names.iter().map(|name| home.qualified(name)).collect::<Result<Vec<_>, _>>()
                });
                assert!(qualified.is_err(), "{arguments:?}: {qualified:?}");
            }
        }
        for hostile in ["a b", "a\r\nb", "", "ä"] {
            assert!(read(&["-V", hostile, "root"]).is_err(), "{hostile:?}");
        }
    }
}
