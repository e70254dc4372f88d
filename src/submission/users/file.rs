//! The users file: one user a line, read as a whole, rewritten as a whole.
//!
//! A rewrite keeps every other line as it is, comments too, and replaces the file in one step
//! (temporary file, fsync, rename), so that a reader sees the old file or the new one. Two
//! `postrider user` at once wait for each other on a lock of the directory.

use std::fs::{File, Permissions};
use std::io::{ErrorKind, Write as _};
use std::num::NonZeroU32;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::decoy::DecoySecret;
use super::verifier::Verifier;
use crate::mail::{Domain, Priority, address};
use crate::sasl::CramMd5;

/// Stands at the top of a new file.
const HEADER: &str = "\
# Postrider's users, one a line, written by `postrider user add` and `remove`. Safe to edit; read again at once.
#
#     name SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey [operator] [senders=…] [rate=…] [atrn=…]
#         [priority=…] [priority-max=…] [cram-md5=…]                                  (on the same line)
#
# The second word verifies a password and is not one (RFC 5803). Then, in any order:
#     operator       may use the private commands
#     senders=LIST   may send only as these: addresses and *@domain, separated by commas
#     rate=N/h       may send so many messages an hour
#     atrn=LIST      may fetch the mail of these domains, separated by commas
#     priority=N     what its mail has that asks for none, -9 to 9 (MT-PRIORITY; 0 otherwise)
#     priority-max=N the highest that it may ask for (otherwise its own priority, at least 0)
#     cram-md5=HEX   may log in with CRAM-MD5; as good as the password for that, so keep the file to yourself
#
# The line that begins with : is what SCRAM's answers to wrong names are made from. Keep it: with another
# one, or none, the answers change and give away which names are wrong.
";

/// A name is for people to read in the log and for `AUTH` to carry.
pub(in crate::submission) const NAME_CHARS_MAX: usize = 64;
/// Begins the line of the [`DecoySecret`]; no name holds a colon.
const DECOY: &str = ":decoy-secret";
/// More than any mechanism carries in a line (RFC 4954 §4).
const PASSWORD_BYTES_MAX: usize = 1024;

/// Why the users file cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum UsersError {
    /// The file system said no.
    #[error("users file {}: cannot {verb}: {source}; run as a user who may, or correct [users] file", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What was tried: read, write.
        verb: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// A line breaks the form of the file.
    #[error("{}:{line}: {what}; correct the line, or remove it and run `postrider user add`", path.display())]
    Line {
        /// Which file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        what: String,
    },
    /// Not a name.
    #[error(
        "\"{0}\" cannot be a user's name; use 1 to {NAME_CHARS_MAX} printable ASCII characters, \
         no spaces, no colon, no # at the start"
    )]
    Name(String),
    /// Not a password.
    #[error(
        "the password {0}; give one of 1 to {PASSWORD_BYTES_MAX} bytes of UTF-8 without control characters"
    )]
    Password(&'static str),
    /// Not a sender pattern.
    #[error(
        "\"{0}\" is not a sender; write an address such as app@example.com, or *@example.com for all of a domain"
    )]
    Sender(String),
    /// Not a domain.
    #[error("\"{0}\" is not a domain; write one such as example.com")]
    Atrn(String),
    /// Not a rate.
    #[error("\"{0}\" is not a rate; write messages an hour such as 100/h")]
    Rate(String),
    /// The default is above the ceiling.
    #[error("the priority {0} is above the highest that the user may ask for, {1}; raise --priority-max")]
    Priority(Priority, Priority),
    /// There already.
    #[error("user {0} exists already; `postrider user remove {0}` first, or choose another name")]
    Exists(String),
    /// Not there.
    #[error("there is no user {0} in {path}; `postrider user list` shows who there is", path = .1.display())]
    Missing(String, PathBuf),
    /// The system gives no random numbers.
    #[error("the system gives no random numbers for a salt; try again")]
    Random,
}

/// A user of the file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct User {
    /// As given to AUTH; compared as it is.
    pub name: String,
    /// May use the private commands.
    pub operator: bool,
    /// Addresses and `*@domain`, domains in [`Domain`]'s form; empty: any sender.
    pub senders: Vec<String>,
    /// Domains whose mail waits for this user's ATRN (RFC 2645), in [`Domain`]'s form.
    pub atrn: Vec<String>,
    /// Messages an hour at most; none: any number.
    pub rate: Option<NonZeroU32>,
    /// MT-PRIORITY of mail that asks for none.
    pub priority: Option<Priority>,
    /// The highest MT-PRIORITY that its mail may ask for.
    pub priority_max: Option<Priority>,
    pub(crate) verifier: Verifier,
    /// Where CRAM-MD5 is allowed.
    pub(crate) cram_md5: Option<CramMd5>,
}

/// What a user may do beside logging in.
#[derive(Debug, Clone, Default)]
pub struct Attributes {
    /// As in [`User`].
    pub operator: bool,
    /// As typed: addresses and `*@domain`.
    pub senders: Vec<String>,
    /// As typed: domains.
    pub atrn: Vec<String>,
    /// As typed: `N/h`.
    pub rate: Option<String>,
    /// As in [`User`].
    pub priority: Option<Priority>,
    /// As in [`User`].
    pub priority_max: Option<Priority>,
    /// Store what CRAM-MD5 needs, which is as good as the password for CRAM-MD5.
    pub cram_md5: bool,
}

impl User {
    /// May log in with CRAM-MD5.
    pub fn has_cram_md5(&self) -> bool {
        self.cram_md5.is_some()
    }

    /// The priority of mail that asks for none, and the highest that may be asked for. Who was given no ceiling may
    /// step back and not push forward.
    pub(crate) fn priorities(&self) -> (Priority, Priority) {
        let default = self.priority.unwrap_or_default();
        (default, self.priority_max.unwrap_or_else(|| default.max(Priority::NORMAL)))
    }

    fn line(&self) -> String {
        let mut line = format!("{} {}", self.name, self.verifier);
        if self.operator {
            line.push_str(" operator");
        }
        for (attribute, list) in [("senders", &self.senders), ("atrn", &self.atrn)] {
            if !list.is_empty() {
                line.push_str(&format!(" {attribute}={}", list.join(",")));
            }
        }
        for (attribute, value) in [("priority", self.priority), ("priority-max", self.priority_max)] {
            line.extend(value.map(|value| format!(" {attribute}={value}")));
        }
        if let Some(rate) = self.rate {
            line.push_str(&format!(" rate={rate}/h"));
        }
        if let Some(secret) = &self.cram_md5 {
            line.push_str(&format!(" cram-md5={secret}"));
        }
        line
    }

    fn read(line: &str) -> Result<User, String> {
        let mut words = line.split_ascii_whitespace();
        let name = words.next().filter(|name| is_name(name)).ok_or("does not begin with a user's name")?;
        let verifier = words.next().unwrap_or_default().parse()?;
        let mut user = User { name: name.to_owned(), verifier, ..User::default() };
        for word in words {
            match word.split_once('=') {
                None if word == "operator" => user.operator = true,
                Some(("senders", list)) => {
                    user.senders = read_list(list, sender).map_err(|error| error.to_string())?;
                }
                Some(("atrn", list)) => {
                    user.atrn = read_list(list, atrn).map_err(|error| error.to_string())?;
                }
                Some(("rate", text)) => user.rate = Some(rate(text).map_err(|error| error.to_string())?),
                Some(("cram-md5", text)) => user.cram_md5 = Some(text.parse()?),
                Some(("priority", value)) => user.priority = Some(priority(value)?),
                Some(("priority-max", value)) => user.priority_max = Some(priority(value)?),
                _ => return Err(format!("unknown attribute \"{word}\"")),
            }
        }
        match user.priorities() {
            (default, ceiling) if default > ceiling => {
                Err(format!("priority={default} is above priority-max={ceiling}"))
            }
            _ => Ok(user),
        }
    }
}

fn priority(value: &str) -> Result<Priority, String> {
    Priority::from_word(value).ok_or_else(|| format!("\"{value}\" is not a priority from -9 to 9"))
}

/// All that a users file says.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// In the file's order.
    pub(super) users: Vec<Arc<User>>,
    /// None in a file that was written by hand.
    pub(super) decoy_secret: Option<DecoySecret>,
}

/// Every user of the file, in its order; a file that does not exist has none.
///
/// # Errors
/// The file cannot be read, or a line breaks its form.
pub fn list(path: &Path) -> Result<Vec<Arc<User>>, UsersError> {
    Ok(load(path)?.users)
}

/// The same, with what else is in the file.
pub(super) fn load(path: &Path) -> Result<Contents, UsersError> {
    parse(path, &read(path)?)
}

/// Adds a user. A new file is for its owner and group alone.
///
/// # Errors
/// The name is taken, something given cannot be stored, or the file cannot be written.
pub fn add(path: &Path, name: &str, password: &str, attributes: &Attributes) -> Result<(), UsersError> {
    if !is_name(name) {
        return Err(UsersError::Name(name.to_owned()));
    }
    let user = User {
        name: name.to_owned(),
        operator: attributes.operator,
        senders: attributes.senders.iter().map(|text| sender(text)).collect::<Result<_, _>>()?,
        atrn: attributes.atrn.iter().map(|text| atrn(text)).collect::<Result<_, _>>()?,
        rate: attributes.rate.as_deref().map(rate).transpose()?,
        priority: attributes.priority,
        priority_max: attributes.priority_max,
        verifier: Verifier::of(check_password(password)?).map_err(|_| UsersError::Random)?,
        cram_md5: attributes.cram_md5.then(|| CramMd5::of(password.as_bytes())),
    };
    if let (default, ceiling) = user.priorities()
        && default > ceiling
    {
        return Err(UsersError::Priority(default, ceiling));
    }
    change(path, |there, mut text| {
        if there.users.iter().any(|there| there.name == user.name) {
            return Err(UsersError::Exists(user.name.clone()));
        }
        if text.is_empty() {
            text.push_str(HEADER);
        } else if !text.ends_with('\n') {
            text.push('\n');
        }
        if there.decoy_secret.is_none() {
            let secret = DecoySecret::new().map_err(|_| UsersError::Random)?;
            text.push_str(&format!("{DECOY} {secret}\n"));
        }
        Ok(text + &user.line() + "\n")
    })
}

/// Removes a user.
///
/// # Errors
/// There is none of that name, or the file cannot be written.
pub fn remove(path: &Path, name: &str) -> Result<(), UsersError> {
    let is_theirs = |line: &str| line.split_ascii_whitespace().next() == Some(name);
    change(path, |there, text| {
        if !there.users.iter().any(|there| there.name == name) {
            return Err(UsersError::Missing(name.to_owned(), path.to_owned()));
        }
        Ok(text.split_inclusive('\n').filter(|line| !is_theirs(line)).collect())
    })
}

/// Reads the file, lets `edit` make the new text of it, and puts that in its place.
fn change(
    path: &Path,
    edit: impl FnOnce(&Contents, String) -> Result<String, UsersError>,
) -> Result<(), UsersError> {
    let fail = |source| UsersError::Io { path: path.to_owned(), verb: "write", source };
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let lock = File::open(directory).map_err(fail)?;
    lock.lock().map_err(fail)?;
    let text = read(path)?;
    let there = parse(path, &text)?;
    replace(path, directory, &edit(&there, text)?).map_err(fail)?;
    // The rename is durable when the directory is.
    lock.sync_all().map_err(fail)
}

/// Puts `text` in the place of the file. Owner, group and mode stay what they were: the relay
/// must be able to read what root rewrote.
fn replace(path: &Path, directory: &Path, text: &str) -> std::io::Result<()> {
    let mut file = tempfile::Builder::new().prefix(".users-").tempfile_in(directory)?;
    let mode = match std::fs::metadata(path) {
        Ok(old) => {
            let new = file.as_file().metadata()?;
            if (old.uid(), old.gid()) != (new.uid(), new.gid()) {
                fchown(file.as_file(), Some(old.uid()), Some(old.gid()))?;
            }
            old.mode() & 0o777
        }
        Err(_) => 0o640,
    };
    file.as_file().set_permissions(Permissions::from_mode(mode))?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    // A link is followed, so that it goes on pointing at the file.
    let target = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    file.persist(target)?;
    Ok(())
}

fn read(path: &Path) -> Result<String, UsersError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
        Err(source) => Err(UsersError::Io { path: path.to_owned(), verb: "read", source }),
    }
}

fn parse(path: &Path, text: &str) -> Result<Contents, UsersError> {
    let mut contents = Contents::default();
    let mut names = std::collections::HashSet::new();
    for (at, line) in text.lines().enumerate() {
        if line.trim_ascii().is_empty() || line.starts_with('#') {
            continue;
        }
        let broken = |what| UsersError::Line { path: path.to_owned(), line: at + 1, what };
        if let Some(secret) = line.strip_prefix(DECOY) {
            contents.decoy_secret = Some(secret.trim_ascii().parse().map_err(broken)?);
            continue;
        }
        let user = User::read(line).and_then(|user| match names.insert(user.name.clone()) {
            true => Ok(user),
            false => Err(format!("user {} is there twice", user.name)),
        });
        match user {
            Ok(user) => contents.users.push(Arc::new(user)),
            Err(what) => return Err(broken(what)),
        }
    }
    Ok(contents)
}

fn is_name(name: &str) -> bool {
    (1..=NAME_CHARS_MAX).contains(&name.len())
        && !name.starts_with('#')
        && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':')
}

fn check_password(password: &str) -> Result<&[u8], UsersError> {
    let what = match password {
        "" => "is empty",
        _ if password.len() > PASSWORD_BYTES_MAX => "is too long",
        // RFC 4013 §2.3 prohibits them, and no client sends them.
        _ if password.chars().any(char::is_control) => "holds a control character",
        _ => return Ok(password.as_bytes()),
    };
    Err(UsersError::Password(what))
}

fn read_list(list: &str, item: fn(&str) -> Result<String, UsersError>) -> Result<Vec<String>, UsersError> {
    list.split(',').map(item).collect()
}

/// `local@domain` or `*@domain`, with the domain in the form it is compared in.
fn sender(text: &str) -> Result<String, UsersError> {
    let read = || {
        let (local, domain) = text.rsplit_once('@')?;
        let domain = Domain::parse(domain).ok()?;
        // A quoted local part could hold what separates here.
        let fits = !text.contains(|c: char| c == ',' || c.is_whitespace()) && address::parse(text).is_ok();
        fits.then(|| format!("{local}@{domain}"))
    };
    read().ok_or_else(|| UsersError::Sender(text.to_owned()))
}

fn atrn(text: &str) -> Result<String, UsersError> {
    match Domain::parse(text) {
        Ok(domain) if domain.ip().is_none() => Ok(domain.to_string()),
        _ => Err(UsersError::Atrn(text.to_owned())),
    }
}

/// `N/h`.
fn rate(text: &str) -> Result<NonZeroU32, UsersError> {
    let number = text.strip_suffix("/h").filter(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
    number.and_then(|number| number.parse().ok()).ok_or_else(|| UsersError::Rate(text.to_owned()))
}
