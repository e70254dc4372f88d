//! The users file: one user a line, read as a whole, rewritten as a whole.
//!
//! A rewrite keeps every other line as it is, comments too, and replaces the file in one step
//! (temporary file, fsync, rename), so that a reader sees the old file or the new one. Two
//! `postrider user` at once wait for each other on a lock of the directory. A last line without its line end is that of
//! a file that was cut, and none of it is believed.

use std::fs::{File, Permissions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown};
use std::path::Path;
use std::sync::Arc;

use crate::config::guarded;

use super::decoy::DecoySecret;
use super::error::UsersError;
use super::user::{Attributes, Limits, User};

/// Stands at the top of a new file.
const HEADER: &str = "\
# Postrider's users, one a line, written by `postrider user add` and `remove`. Safe to edit; read again at once.
#
#     name SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey [operator] [senders=…] [rate=…] [quota=…] [atrn=…]
#         [etrn=…] [priority=…] [priority-max=…] [cram-md5=…]                         (on the same line)
#
# The second word verifies a password and is not one (RFC 5803). Then, in any order:
#     operator       may use the private commands
#     senders=LIST   may send only as these: addresses and *@domain, separated by commas
#     rate=N/h       may send to so many recipients an hour
#     quota=SIZE     may have so much mail in the queue, such as 2GiB
#     etrn=LIST      may kick the mail of these domains with ETRN, whoever sent it
#     atrn=LIST      may fetch the mail of these domains, separated by commas
#     priority=N     what its mail has that asks for none, -9 to 9 (MT-PRIORITY; 0 otherwise)
#     priority-max=N the highest that it may ask for (otherwise its own priority, at least 0)
#     cram-md5=HEX   may log in with CRAM-MD5; as good as the password for that, so keep the file to yourself
#
# The line that begins with : is what SCRAM's answers to wrong names are made from. Keep it: with another
# one, or none, the answers change and give away which names are wrong.
";

/// Begins the line of the [`DecoySecret`]; no name holds a colon.
const DECOY: &str = ":decoy-secret";

/// All that a users file says.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// In the file's order.
    pub(super) users: Vec<Arc<User>>,
    /// None in a file that was written by hand.
    pub(super) decoy_secret: Option<DecoySecret>,
    /// There is nothing in it, not even a comment.
    pub(super) is_blank: bool,
}

/// Every user of the file, in its order; a file that does not exist has none.
///
/// # Errors
/// The file cannot be read, or a line breaks its form.
pub fn list(path: &Path) -> Result<Vec<Arc<User>>, UsersError> {
    Ok(load(path)?.unwrap_or_default().users)
}

/// The same, with what else is in the file; none: there is none.
pub(super) fn load(path: &Path) -> Result<Option<Contents>, UsersError> {
    read(path)?.map(|text| parse(path, &text)).transpose()
}

/// Adds a user. A new file is for its owner and group alone.
///
/// # Errors
/// The name is taken, something given cannot be stored, or the file cannot be written.
pub fn add(path: &Path, name: &str, password: &str, attributes: &Attributes) -> Result<(), UsersError> {
    let user = User::new(name, password, attributes)?;
    change(path, |there, mut text| {
        if there.users.iter().any(|there| there.name == user.name) {
            return Err(UsersError::Exists(user.name.clone()));
        }
        if text.is_empty() {
            text.push_str(HEADER);
        }
        if there.decoy_secret.is_none() {
            let secret = DecoySecret::new().map_err(|_| UsersError::Random)?;
            text.push_str(&format!("{DECOY} {secret}\n"));
        }
        Ok(text + &user.line() + "\n")
    })
}

/// Whether such a user could be added, whatever the password: for whoever asks for that afterwards.
///
/// # Errors
/// The name is taken, or something given cannot be stored.
pub fn may_add(path: &Path, name: &str, attributes: &Attributes) -> Result<(), UsersError> {
    User::new(name, "any", attributes)?;
    match list(path)?.iter().any(|user| user.name == name) {
        true => Err(UsersError::Exists(name.to_owned())),
        false => Ok(()),
    }
}

/// Gives a user another password; what it may do stays as it is.
///
/// # Errors
/// There is none of that name, the password cannot be stored, or the file cannot be written.
pub fn set_password(path: &Path, name: &str, password: &str) -> Result<(), UsersError> {
    set(path, name, |user| user.with_password(password))
}

/// Gives a user other limits; all else stays as it is.
///
/// # Errors
/// There is none of that name, a limit cannot be stored, or the file cannot be written.
pub fn set_limits(path: &Path, name: &str, limits: &Limits) -> Result<(), UsersError> {
    set(path, name, |user| user.with_limits(limits))
}

/// Puts another line in the place of a user's.
fn set(
    path: &Path,
    name: &str,
    edit: impl FnOnce(&User) -> Result<User, UsersError>,
) -> Result<(), UsersError> {
    change(path, |there, text| {
        let user = there.users.iter().find(|user| user.name == name);
        let user = user.ok_or_else(|| UsersError::Missing(name.to_owned(), path.to_owned()))?;
        let line = edit(user)?.line() + "\n";
        let is_theirs = |line: &str| line.split_ascii_whitespace().next() == Some(name);
        let lines = text.split_inclusive('\n').map(|old| if is_theirs(old) { line.as_str() } else { old });
        Ok(lines.collect())
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
        let left: String = text.split_inclusive('\n').filter(|line| !is_theirs(line)).collect();
        // A blank file is what a relay takes for trouble, and goes on with the users of before.
        Ok(if left.trim_ascii().is_empty() { HEADER.to_owned() } else { left })
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
    let text = read(path)?.unwrap_or_default();
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

fn read(path: &Path) -> Result<Option<String>, UsersError> {
    let text = guarded::read(path)
        .and_then(|bytes| String::from_utf8(bytes).map_err(|_| std::io::Error::other("is not UTF-8")));
    match text {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(UsersError::Io { path: path.to_owned(), verb: "read", source }),
    }
}

fn parse(path: &Path, text: &str) -> Result<Contents, UsersError> {
    let mut contents = Contents { is_blank: text.trim_ascii().is_empty(), ..Contents::default() };
    // A file that was cut, by a full disk or a copy that is not at its end, ends like that: half a line may be a whole
    // one to read, of a user who may do more.
    if !contents.is_blank && !text.ends_with('\n') {
        return Err(UsersError::Cut { path: path.to_owned(), line: text.lines().count() });
    }
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
