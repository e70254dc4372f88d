//! `postrider sendmail`, also called as `sendmail`, `mailq` and `newaliases`: what cron, PHP and git hand mail to.
//!
//! It reads no config and has no rights of its own: any user runs it, and it speaks SMTP to the relay on a socket in
//! the file system, where the kernel says who that is (or on loopback). The exit codes are those of sysexits(3). 0 is
//! said after the relay's 250, which is said after the commit; nothing is queued here, so with the relay down it is
//! 75, and the caller has the message still.

mod addresses;
mod client;
mod exit;
mod message;
mod options;
mod passed_on;

use std::borrow::Cow;
use std::ffi::OsString;
use std::io::{self, Read};
use std::net::Shutdown;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::ExitCode;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::{Uid, User};

use super::log_output;
use super::output::{self, WrongUsage, is_reader_gone, print};
use crate::config::{Problems, SUBMIT};
use crate::mail::Address;
use addresses::Home;
use client::{Client, Envelope, Failure, Target};
use message::Named;
use options::{Mode, Options};

/// Looks at the queue of a config, or acts on it.
type Queue = fn(Option<&Path>, &[&str]) -> anyhow::Result<()>;

/// Whose queue `-bp` and `-q` are about, unless `-C` says otherwise.
const CONFIG: &str = "/etc/postrider/postrider.toml";
/// What is read of standard input where the relay does not say how much it takes.
const INPUT_BYTES_MAX: u64 = 1 << 30;
/// What is read before the relay is asked how much it takes: nearly every message, which so needs one session.
const READ_FIRST: u64 = 1 << 20;

const HELP: &str = "\
usage: sendmail [options] [recipients]

Hands the message on standard input to the relay of this machine.

  -t           recipients are read from To, Cc and Bcc, beside those that are given
  -i           a line with a dot alone does not end the message
  -f ADDRESS   the envelope sender; <> for none
  -F NAME      a name for From, where the message has none
  -N WHEN      reports wanted: never, or success,failure,delay
  -R PART      what reports return: full or hdrs
  -V ID        a mark that reports repeat
  -B TYPE      7BIT or 8BITMIME
  -v           show the dialogue
  -bs          SMTP on standard input and output
  -bp          list the queue (mailq); -q, -qR DOMAIN, -qI ID try now what waits: for whom may read the queue

POSTRIDER_SUBMIT says where the relay listens: unix:/run/postrider/submit.sock (the default), or 127.0.0.1:587.
0: the relay has it on disk. 64 wrong usage, 65 unusable message, 66 no input, 67 a recipient is refused, 69 it is too large,
75 try again later, 77 not allowed, 78 wrong config. Nothing was sent then, unless the text says who has it.
";

/// The arguments behind the name, where the program was called as one of these commands: by its own name, or by the
/// word behind it.
pub(super) fn called(arguments: &[OsString]) -> Option<Vec<OsString>> {
    let name = Path::new(arguments.first()?).file_name()?;
    let before: &[&str] = match name.to_str()? {
        "sendmail" => &[],
        "mailq" => &["-bp"],
        "newaliases" => &["-bi"],
        _ if arguments.get(1)? == "sendmail" => return Some(arguments[2..].to_vec()),
        _ => return None,
    };
    Some(before.iter().map(OsString::from).chain(arguments[1..].iter().cloned()).collect())
}

/// Does what the arguments say, and says how it went.
/// `queue` is `postrider queue`, with the words behind it.
pub(super) fn run(arguments: Vec<OsString>, queue: Queue) -> ExitCode {
    match act(arguments, queue) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { code, text }) => {
            log_output::say(&format!("sendmail: {}", text.replace('\n', " ")));
            ExitCode::from(code)
        }
    }
}

fn act(arguments: Vec<OsString>, queue: Queue) -> Result<(), Failure> {
    let usage = |why| Failure::new(exit::USAGE, why);
    let arguments = texts(&arguments);
    let options = Options::read(&arguments).map_err(usage)?;
    let target =
        || Target::read(std::env::var_os(SUBMIT).map(|text| text.to_string_lossy().into_owned()).as_deref());
    match &options.mode {
        Mode::Send => send(&options, &target()?),
        Mode::Smtp => smtp(&target()?),
        Mode::List => by_words(&options, &["list"], queue),
        Mode::Kick(which) => {
            let which: Vec<&str> = which.iter().map(String::as_str).collect();
            by_words(&options, &[&["kick", "--yes"], &*which].concat(), queue)
        }
        Mode::Aliases => say("aliases are in [aliases] of the relay's config; a reload takes them over\n"),
        Mode::Help => say(HELP),
    }
}

/// The arguments as text. A full name that is not UTF-8 is Latin-1; an address has no other letters, and is refused
/// where it is read.
fn texts(arguments: &[OsString]) -> Vec<String> {
    let of_name =
        |at: usize| at > 0 && arguments[at - 1] == "-F" || arguments[at].as_bytes().starts_with(b"-F");
    let text = |(at, argument): (usize, &OsString)| match argument.to_str() {
        Some(text) => text.to_owned(),
        None if of_name(at) => argument.as_bytes().iter().map(|byte| char::from(*byte)).collect(),
        None => argument.to_string_lossy().into_owned(),
    };
    arguments.iter().enumerate().map(text).collect()
}

fn say(text: &str) -> Result<(), Failure> {
    print(text).or_else(failed)
}

/// What another command says of its failure; a reader who has seen enough is none.
fn failed(error: anyhow::Error) -> Result<(), Failure> {
    let code = match error {
        ref error if is_reader_gone(error) => return Ok(()),
        ref error if error.is::<Problems>() => exit::CONFIG,
        ref error if error.is::<WrongUsage>() => exit::USAGE,
        _ => exit::UNAVAILABLE,
    };
    Err(Failure::new(code, output::whole(&error)))
}

/// The main work: standard input to the relay.
fn send(options: &Options, target: &Target) -> Result<(), Failure> {
    let bad = |why: String| Failure::new(exit::BAD_DATA, why);
    let input = input(target)?;
    let mut content = message::content(&input, options.dot_ends);
    let named = if options.reads_recipients { message::recipients(&content) } else { Named::default() };
    let mut client = Client::greet(target, options.verbose)?;
    let size_max = client.size_max().unwrap_or(INPUT_BYTES_MAX);
    if input.len() as u64 > size_max {
        return Err(too_large(size_max));
    }
    drop(input);

    let (hostname, machine) = (client.hostname.clone(), machine());
    let home = Home { hostname: &hostname, machine: &machine };
    let address = |name: &str| home.qualified(name).map_err(bad);
    let mut recipients =
        options.recipients.iter().map(|name| address(name)).collect::<Result<Vec<_>, _>>()?;
    let mut wrong = named.wrong;
    for name in named.recipients {
        match home.qualified(&name) {
            Ok(recipient) => recipients.push(recipient),
            Err(why) => wrong.push(why),
        }
    }
    if recipients.is_empty() {
        let wrong: String = wrong.iter().map(|why| format!("; {why}")).collect();
        return Err(bad(format!("neither the header nor the command line names a recipient{wrong}")));
    }
    for why in wrong {
        log_output::say(&format!("sendmail: {why}; it goes to the other recipients"));
    }

    let (login, gecos) = caller();
    let own = options.sender.as_deref().unwrap_or(&login);
    let sender = if own.is_empty() { None } else { Some(address(own)?) };
    let author = match &sender {
        Some(sender) => sender.clone(),
        None => address("MAILER-DAEMON")?,
    };
    let full_name = options.full_name.clone().or(gecos.filter(|_| options.sender.is_none()));
    message::without_nul(&mut content);
    let content = message::with_from(message::with_domains(content, &home), &author, full_name.as_deref());
    let envelope = Envelope {
        sender: sender.as_ref(),
        recipients: &without_doubles(recipients),
        body: options.body,
        ret: options.ret,
        envid: options.envid.as_deref(),
        notify: options.notify.as_deref(),
    };
    client.send(&envelope, &content)?;
    client.quit();
    Ok(())
}

/// All of standard input, which no session waits for: a caller may take hours to write. Of one that is long, the relay
/// is asked first how much it takes.
fn input(target: &Target) -> Result<Vec<u8>, Failure> {
    let failed = |error: io::Error| Failure::new(exit::TEMPORARY, format!("standard input: {error}"));
    if is_closed() {
        return Err(Failure::new(exit::NO_INPUT, "standard input is closed; the message is read from there"));
    }
    let mut stdin = io::stdin().lock();
    let mut input = Vec::new();
    (&mut stdin).take(READ_FIRST).read_to_end(&mut input).map_err(failed)?;
    if (input.len() as u64) < READ_FIRST {
        return Ok(input);
    }
    let size_max = Client::greet(target, false).map(|client| {
        let size_max = client.size_max().unwrap_or(INPUT_BYTES_MAX);
        client.quit();
        size_max
    });
    // Read in any case: whoever writes to a pipe that nobody reads dies of it, and never sees why.
    let is_all = read_on(&mut input, stdin, size_max.as_ref().copied().unwrap_or(0)).map_err(failed)?;
    let size_max = size_max?;
    if is_all { Ok(input) } else { Err(too_large(size_max)) }
}

/// Whether it was closed when this program was started. Rust has opened /dev/null in its place by now, to read and to
/// write; `</dev/null` of a shell is to read.
fn is_closed() -> bool {
    let device = |path: &str| std::fs::metadata(path).map(|file| file.rdev());
    let is_null = device("/dev/stdin").and_then(|stdin| Ok(stdin == device("/dev/null")?)).unwrap_or(false);
    let flags = fcntl(io::stdin(), FcntlArg::F_GETFL).map(OFlag::from_bits_truncate);
    is_null && flags.is_ok_and(|flags| flags & OFlag::O_ACCMODE == OFlag::O_RDWR)
}

/// Reads on, up to so many bytes in all; false: it is longer, and then it is read to its end all the same.
fn read_on(bytes: &mut Vec<u8>, mut input: impl Read, bytes_max: u64) -> io::Result<bool> {
    (&mut input).take(bytes_max.saturating_sub(bytes.len() as u64)).read_to_end(bytes)?;
    Ok(io::copy(&mut input, &mut io::sink())? == 0 && bytes.len() as u64 <= bytes_max)
}

fn too_large(size_max: u64) -> Failure {
    let why = format!("the message is larger than the {size_max} bytes that the relay takes");
    Failure::new(exit::UNAVAILABLE, why)
}

/// What this machine calls itself, without a domain.
fn machine() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().split('.').next().unwrap_or_default().to_owned()
}

/// The name of the user who runs this, and what the list of users has as their full name.
fn caller() -> (String, Option<String>) {
    let uid = Uid::current();
    let Some(user) = User::from_uid(uid).ok().flatten() else { return (format!("uid{uid}"), None) };
    let gecos = user.gecos.to_string_lossy();
    let full_name =
        gecos.split(',').next().map(|name| name.trim().to_owned()).filter(|name| !name.is_empty());
    (user.name, full_name)
}

fn without_doubles(recipients: Vec<Address>) -> Vec<Address> {
    let mut seen = std::collections::HashSet::new();
    recipients.into_iter().filter(|recipient| seen.insert(recipient.to_string())).collect()
}

/// `-bs`: the caller speaks with the relay itself.
fn smtp(target: &Target) -> Result<(), Failure> {
    let socket = match client::connect(target) {
        Ok(socket) => socket,
        Err(failure) => {
            say("421 4.3.2 The relay cannot be reached, try again later\r\n")?;
            return Err(failure);
        }
    };
    let failed =
        |error: io::Error| Failure::new(exit::TEMPORARY, format!("the connection to the relay: {error}"));
    // The caller may think for as long as the relay lets it.
    socket.set_read_timeout(None).map_err(failed)?;
    let mut to_relay = socket.try_clone().map_err(failed)?;
    // It is not waited for: when the relay has closed the connection, nothing that is said matters.
    std::thread::spawn(move || {
        let mut ends = passed_on::LineEnds::default();
        let _ = copy(io::stdin().lock(), &mut to_relay, |bytes| ends.mended(bytes));
        let _ = to_relay.shutdown(Shutdown::Write);
    });
    let mut replies = passed_on::Replies::default();
    copy(&socket, io::stdout().lock(), |bytes| {
        replies.hear(bytes);
        bytes.into()
    })
    .map_err(failed)?;
    match replies.is_success() {
        true => Ok(()),
        false => Err(Failure::new(exit::TEMPORARY, "the relay ended the dialogue with a refusal")),
    }
}

/// Hands on what comes as it comes.
fn copy(
    mut from: impl Read,
    mut to: impl io::Write,
    mut changed: impl FnMut(&[u8]) -> Cow<'_, [u8]>,
) -> io::Result<()> {
    let mut buffer = [0; 16 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => {
                to.write_all(&changed(&buffer[..read]))?;
                to.flush()?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// `postrider queue`, for whom may read the queue.
fn by_words(options: &Options, words: &[&str], queue: Queue) -> Result<(), Failure> {
    // A container has its config in the environment.
    let config = options.config.as_deref().or(Some(Path::new(CONFIG)).filter(|path| path.exists()));
    queue(config, words).or_else(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_it_is_called_by_says_what_it_does() {
        let called = |words: &[&str]| {
            let words: Vec<OsString> = words.iter().map(OsString::from).collect();
            called(&words)
                .map(|rest| rest.into_iter().map(|word| word.into_string().unwrap()).collect::<Vec<_>>())
        };
        let words = |words: &[&str]| Some(words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
        assert_eq!(called(&["/usr/sbin/sendmail", "-t", "--", "-x"]), words(&["-t", "--", "-x"]));
        assert_eq!(called(&["postrider", "sendmail", "-h", "3", "root"]), words(&["-h", "3", "root"]));
        assert_eq!(called(&["mailq"]), words(&["-bp"]));
        assert_eq!(called(&["/usr/bin/newaliases", "-v"]), words(&["-bi", "-v"]));
        for other in [&["postrider"][..], &["postrider", "queue", "sendmail"], &["postrider", "check"]] {
            assert_eq!(called(other), None, "{other:?}");
        }
    }

    #[test]
    fn input_is_read_to_its_end_and_kept_up_to_the_limit() {
        for (bytes, is_all) in [(0, true), (5, true), (6, false), (100_000, false)] {
            let mut input = io::Cursor::new(vec![b'a'; bytes]);
            let mut kept = b"first".to_vec();
            assert_eq!(read_on(&mut kept, &mut input, 10).unwrap(), is_all, "{bytes}");
            assert_eq!((input.position(), kept.len()), (bytes as u64, 5 + bytes.min(5)));
        }
        assert!(!read_on(&mut b"first".to_vec(), io::empty(), 4).unwrap());
    }
}
