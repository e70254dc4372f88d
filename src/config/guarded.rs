//! Files that decide what Postrider does: the config, the users file, secrets, certificates, programs, and the state
//! directory of a start without a config.
//!
//! Whoever may write to one of them decides in our name, root's perhaps. So one that everybody may write to is refused,
//! or a group with anybody in it but its owner and root; and so is what lies in the working directory and belongs to
//! somebody else. (With a group for each user and the umask 002, as Debian has it, files are writable for a group of
//! one. ssh takes these there too.) Who is in a group is read from `/etc/passwd` and `/etc/group`: a group that is not
//! there is not known, and what it may write to is refused. A file is judged by the
//! descriptor that it is read through, so nobody can exchange it in between. Who may read a secret is another question:
//! `cross.rs` and `postrider check` warn of that.

use std::fs::{DirBuilder, File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::{OFlags, StatVfsMountFlags};

/// Root; what it owns is trusted by everybody.
const ROOT: u32 = 0;
const WRITABLE_BY_GROUP: u32 = 0o020;
const WRITABLE_BY_ALL: u32 = 0o002;
/// In such a directory nobody can remove or rename what belongs to others.
const STICKY: u32 = 0o1000;

/// The whole file, unless somebody but its owner may write to it.
///
/// # Errors
/// It cannot be read, or must not be relied on; then the error says what to do.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// More is no certificate, and no key.
const SMALL_BYTES_MAX: u64 = 1 << 20;

/// The same of a file that is read again and again while the relay runs: it is a regular one, and small. Nothing here
/// waits for whoever has the other end of a FIFO.
///
/// # Errors
/// As [`read`], and where it is something else.
pub fn read_small(path: &Path) -> io::Result<Vec<u8>> {
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "is no regular file"));
    }
    if let Some(fault) = writable(path, &found) {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, fault));
    }
    let mut bytes = Vec::new();
    file.take(SMALL_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > SMALL_BYTES_MAX {
        true => Err(io::Error::new(io::ErrorKind::FileTooLarge, "is larger than 1 MiB")),
        false => Ok(bytes),
    }
}

/// Opens a file for reading, as [`read`] does.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let file = File::open(path)?;
    match writable(path, &file.metadata()?) {
        None => Ok(file),
        Some(fault) => Err(io::Error::new(io::ErrorKind::PermissionDenied, fault)),
    }
}

/// What is wrong with a file that a key names, with the remedy. None too where it cannot be looked at: whoever opens
/// it says why.
pub fn fault(path: &Path) -> Option<String> {
    writable(path, &std::fs::metadata(path).ok()?)
}

/// The same for a directory in which files are kept. A group may write there: its members are trusted with the queue.
pub(super) fn fault_of_directory(path: &Path) -> Option<String> {
    let mode = std::fs::metadata(path).ok()?.mode();
    let name = path.display();
    (mode & WRITABLE_BY_ALL != 0).then(|| {
        format!(
            "every user of this machine can put files into {name} (mode {:04o}); chmod o-w {name}",
            mode & 0o7777
        )
    })
}

/// A file that was found in the working directory, where nobody named it: it must be ours as well, and a link to it
/// too.
pub(super) fn fault_of_found(path: &Path) -> Option<String> {
    let link = std::fs::symlink_metadata(path).ok()?;
    let file = std::fs::metadata(path).ok()?;
    let name = path.display();
    [link, file].iter().find_map(|found| foreign(found.uid(), our_uid())).map(|uid| {
        format!(
            "belongs to user {uid}, who would decide what is done as you; give --config ./{name} if that is meant, \
             or go to another directory"
        )
    })
}

/// What keeps the state directory of a start without a config from being used, where there is one.
pub(super) fn fault_of_state(path: &Path) -> Option<String> {
    let found = std::fs::symlink_metadata(path).ok()?;
    let name = path.display();
    if found.is_symlink() {
        return Some(format!(
            "./{name} is a link, and state is kept in a directory; remove it, or give --config"
        ));
    }
    if let Some(uid) = foreign(found.uid(), our_uid()) {
        return Some(format!(
            "./{name} belongs to user {uid}; run as that user, go to another directory, or give --config"
        ));
    }
    writable(path, &found)
}

/// Makes the state directory below the working directory, for us alone. Whoever owns the working directory could put
/// another one in its place, so that has to be ours too.
///
/// # Errors
/// Says why it cannot be made or used, and what to do.
pub(super) fn make_state(path: &Path) -> Result<(), String> {
    let here = Path::new(".")
        .metadata()
        .map_err(|error| format!("the working directory cannot be used: {error}"))?;
    if let Some(fault) = exchangeable(here.uid(), here.mode(), our_uid()) {
        return Err(format!("{fault}; go to a directory of your own, or give --config"));
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(format!(
            "cannot create ./{}: {error}; go to a directory that you may write to, or give --config",
            path.display()
        )),
        // What stands there may be new since it was looked at.
        _ => fault_of_state(path).map_or(Ok(()), Err),
    }
}

/// Who else may write there, with the remedy. A terminal or `/dev/null` holds no state that anybody could change.
fn writable(path: &Path, found: &Metadata) -> Option<String> {
    if found.file_type().is_char_device() {
        return None;
    }
    let who = writers(found.mode(), || Accounts::read().others_in(found.gid(), found.uid()))?;
    let name = path.display();
    // What a container has of a secret cannot be changed there, and how it is mounted says its mode.
    let is_read_only =
        rustix::fs::statvfs(path).is_ok_and(|of| of.f_flag.contains(StatVfsMountFlags::RDONLY));
    let remedy = match is_read_only {
        true => "mount it with mode 0440 or 0400 (Kubernetes: defaultMode: 0440 of the volume)".to_owned(),
        false => format!("chmod go-w {name}"),
    };
    Some(format!("{name} can be changed by {who} (mode {:04o}); {remedy}", found.mode() & 0o7777))
}

/// Who but the owner may write, by the mode; `others` of the group, if any.
fn writers(mode: u32, others: impl FnOnce() -> Option<String>) -> Option<String> {
    match mode {
        _ if mode & WRITABLE_BY_ALL != 0 => Some("every user of this machine".to_owned()),
        _ if mode & WRITABLE_BY_GROUP != 0 => others(),
        _ => None,
    }
}

/// The users and groups of this machine: passwd(5), group(5).
#[derive(Default)]
struct Accounts {
    passwd: String,
    group: String,
}

impl Accounts {
    /// What cannot be read has nobody in it, and no group is known then.
    fn read() -> Accounts {
        let text = |path| std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        Accounts {
            passwd: text("/etc/passwd").unwrap_or_default(),
            group: text("/etc/group").unwrap_or_default(),
        }
    }

    /// Who is in a group beside `owner` and root, for people; none where there is nobody.
    fn others_in(&self, gid: u32, owner: u32) -> Option<String> {
        let fields = |line: &'_ str| line.split(':').map(str::to_owned).collect::<Vec<_>>();
        let users: Vec<(String, u32, u32)> = self
            .passwd
            .lines()
            .filter_map(|line| match fields(line).as_slice() {
                [name, _, uid, gid, ..] => Some((name.clone(), uid.parse().ok()?, gid.parse().ok()?)),
                _ => None,
            })
            .collect();
        let mut groups =
            self.group.lines().map(fields).filter(|group| group.get(2) == Some(&gid.to_string())).peekable();
        if groups.peek().is_none() {
            return Some(format!("its group, {gid}, of which /etc/group does not say who is in it"));
        }
        let is_other = |name: &str| {
            let known: Vec<u32> = users.iter().filter(|user| user.0 == name).map(|user| user.1).collect();
            known.is_empty() || known.iter().any(|uid| *uid != owner && *uid != ROOT)
        };
        let by_group = groups.flat_map(|group| group.get(3).cloned().into_iter().collect::<Vec<_>>());
        let listed: Vec<String> =
            by_group.flat_map(|names| names.split(',').map(str::to_owned).collect::<Vec<_>>()).collect();
        let own = users.iter().filter(|user| user.2 == gid).map(|user| user.0.clone());
        let other = own.chain(listed).find(|name| !name.is_empty() && is_other(name))?;
        Some(format!("its group, with {other} in it"))
    }
}

/// The owner, where that is neither root nor we.
fn foreign(owner: u32, us: u32) -> Option<u32> {
    (owner != ROOT && owner != us).then_some(owner)
}

/// Whether somebody else can exchange what is in a directory for something else, by its owner and mode.
fn exchangeable(owner: u32, mode: u32, us: u32) -> Option<String> {
    match foreign(owner, us) {
        Some(uid) => Some(format!("the working directory belongs to user {uid}")),
        None if mode & WRITABLE_BY_ALL != 0 && mode & STICKY == 0 => {
            Some("every user of this machine can rename files in the working directory".to_owned())
        }
        None => None,
    }
}

fn our_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    #[test]
    fn only_the_owner_may_write() {
        for mode in 0..=0o777 {
            for others in [None, Some("its group, with eve in it".to_owned())] {
                let expected = match mode {
                    _ if mode & 0o002 != 0 => Some("every user of this machine".to_owned()),
                    _ if mode & 0o020 != 0 => others.clone(),
                    _ => None,
                };
                assert_eq!(writers(0o100_000 | mode, || others), expected, "{mode:o}");
            }
        }
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        std::fs::write(&file, "text").unwrap();
        for (mode, remedy) in [(0o600, ""), (0o644, ""), (0o602, "chmod go-w "), (0o666, "chmod go-w ")] {
            std::fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
            let said = read(&file).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(said.contains(remedy) && said.is_empty() == remedy.is_empty(), "{mode:o}: {said}");
            assert_eq!(fault(&file).unwrap_or_default(), said);
        }
        assert_eq!(fault(Path::new("/dev/null")), None);
    }

    #[test]
    fn what_is_read_again_and_again_is_a_small_regular_file() {
        let directory = tempfile::tempdir().unwrap();
        let [file, fifo] = ["file", "fifo"].map(|name| directory.path().join(name));
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RWXU).unwrap();
        assert!(read_small(&fifo).unwrap_err().to_string().contains("no regular file"));
        for (bytes, is_read) in [(1 << 20, true), ((1 << 20) + 1, false)] {
            File::create(&file).unwrap().set_len(bytes).unwrap();
            assert_eq!(read_small(&file).is_ok(), is_read, "{bytes}");
        }
        std::fs::set_permissions(&file, Permissions::from_mode(0o602)).unwrap();
        assert!(read_small(&file).unwrap_err().to_string().contains("chmod go-w"));
    }

    /// As ssh decides on Debian.
    #[test]
    fn a_group_of_the_owner_alone_may_write() {
        let accounts = Accounts {
            passwd: "root:x:0:0:root:/root:/bin/sh\nann:x:7:7::/home/ann:/bin/sh\neve:x:8:8::/:/bin/sh\n\
                bob:x:9:100::/:/bin/sh\ntoor:x:0:0::/root:/bin/sh\nbroken line\n"
                .to_owned(),
            group: "root:x:0:\nann:x:7:\neve:x:8:eve,root\nstaff:x:50:ann,eve\nusers:x:100:\nempty:x:60:\n\
                ghosts:x:70:nobody-knows\ntwice:x:80:ann\ntwice-too:x:80:eve\n"
                .to_owned(),
        };
        for (gid, owner, other) in [
            (0, 0, ""),
            (0, 7, ""),
            (7, 7, ""),
            (7, 0, "ann"),
            (7, 8, "ann"),
            (8, 8, ""),
            (50, 7, "eve"),
            (50, 8, "ann"),
            (60, 7, ""),
            (70, 7, "nobody-knows"),
            (80, 7, "eve"),
            (100, 9, ""),
            (100, 7, "bob"),
            (99, 7, "does not say who"),
        ] {
            let said = accounts.others_in(gid, owner).unwrap_or_default();
            assert!(said.contains(other) && said.is_empty() == other.is_empty(), "{gid} {owner}: {said}");
        }
        assert!(Accounts::default().others_in(7, 7).is_some(), "nothing is known");
    }

    #[test]
    fn what_is_found_is_ours_or_roots() {
        for (owner, us, expected) in
            [(0, 0, None), (0, 7, None), (7, 7, None), (7, 0, Some(7)), (8, 7, Some(8))]
        {
            assert_eq!(foreign(owner, us), expected, "{owner} {us}");
        }
        for (owner, mode, us, refused) in [
            (7, 0o755, 7, false),
            (7, 0o775, 7, false),
            (0, 0o1777, 7, false),
            (0, 0o777, 7, true),
            (7, 0o777, 7, true),
            (7, 0o755, 0, true),
            (8, 0o1777, 7, true),
        ] {
            assert_eq!(exchangeable(owner, mode, us).is_some(), refused, "{owner} {mode:o} {us}");
        }
    }

    #[test]
    fn a_state_directory_is_no_link_and_nobody_elses() {
        let directory = tempfile::tempdir().unwrap();
        let (state, link) = (directory.path().join("state"), directory.path().join("link"));
        make_state(&state).unwrap();
        assert_eq!(state.metadata().unwrap().mode() & 0o777, 0o700);
        make_state(&state).unwrap();
        symlink(&state, &link).unwrap();
        assert!(make_state(&link).unwrap_err().contains("is a link"));
        std::fs::set_permissions(&state, Permissions::from_mode(0o707)).unwrap();
        assert!(make_state(&state).unwrap_err().contains("chmod go-w"));
    }
}
