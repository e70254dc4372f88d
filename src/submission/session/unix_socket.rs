//! Sockets in the file system: made with their rights, removed with their listener, and who is at their other end.
//!
//! A socket that was left there by a process that is gone is replaced; one where somebody listens never is, and
//! neither is a file that is no socket. Rights and group are set before it listens, so nobody connects by others.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::Group;
use socket2::{Domain as Family, SockAddr, Socket, Type};

use crate::config::SocketAccess;
use crate::mail::Peer;

use super::sockets::BACKLOG;

/// Whoever makes a socket has done so long before that.
const TURN_MAX: Duration = Duration::from_secs(2);
const TURN_LOOK: Duration = Duration::from_millis(5);

/// The file of a socket. Dropped, it is removed, unless another one stands there by then.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<SocketFile> {
        Ok(SocketFile { path: path.to_owned(), identity: identity(path)? })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it still stands at its path, where clients look for it. What cannot be looked at is there.
    pub(super) fn is_in_place(&self) -> bool {
        match identity(&self.path) {
            Ok(now) => now == self.identity,
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|now| now == self.identity) {
            // Where it stays, the next start finds that nobody listens.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()))
}

/// Makes a socket that listens at `path`.
///
/// # Errors
/// See [`remedy`]. The path is what it was then.
pub(crate) fn open(path: &Path, access: &SocketAccess) -> io::Result<(Socket, SocketFile)> {
    let group = access.group.as_deref().map(group_id).transpose()?;
    let _turn = turn(path);
    make_way(path)?;
    let socket = Socket::new(Family::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    let file = SocketFile::of(path)?;
    if group.is_some() {
        chown(path, None, group)?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(access.mode))?;
    // Only now: until then connect(2) is refused, whatever the rights.
    socket.listen(BACKLOG)?;
    Ok((socket, file))
}

/// One relay at a time makes or removes sockets in a directory: until it listens, another one would take the socket for
/// one that was left there. Who may not open the directory, or waits too long, goes on without.
fn turn(path: &Path) -> Option<File> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let directory = File::open(directory).ok()?;
    let until = Instant::now() + TURN_MAX;
    loop {
        match directory.try_lock() {
            Ok(()) => return Some(directory),
            Err(TryLockError::WouldBlock) if Instant::now() < until => thread::sleep(TURN_LOOK),
            Err(_) => return None,
        }
    }
}

fn group_id(name: &str) -> io::Result<u32> {
    let group = Group::from_name(name).map_err(io::Error::from)?;
    let unknown = || io::Error::new(io::ErrorKind::InvalidInput, format!("there is no group {name}"));
    group.map(|group| group.gid.as_raw()).ok_or_else(unknown)
}

/// Removes a socket that nobody listens on any more.
fn make_way(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(found) if !found.file_type().is_socket() => return Err(io::ErrorKind::AlreadyExists.into()),
        Ok(_) => {}
    }
    let probe = Socket::new(Family::UNIX, Type::STREAM, None)?;
    // Where many wait for it, connect(2) would wait too.
    probe.set_nonblocking(true)?;
    match probe.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Ok(()) => Err(io::ErrorKind::AddrInUse.into()),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(io::ErrorKind::AddrInUse.into()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(anothers(path)),
        Err(error) => Err(error),
    }
}

/// Left by a run as root, mostly. Whether its owner still listens nobody else can know.
fn anothers(path: &Path) -> io::Error {
    let owner = fs::symlink_metadata(path).map_or(0, |found| found.uid());
    let why = format!(
        "a socket of user {owner} stands there; where nothing of that user's listens, remove it (rm)"
    );
    io::Error::new(io::ErrorKind::AddrInUse, why)
}

/// What to do where a socket cannot be made.
pub(crate) fn remedy(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::AddrInUse => "where another program listens there, stop it, or choose another path",
        io::ErrorKind::AlreadyExists => "what is there is no socket: remove it, or choose another path",
        io::ErrorKind::NotFound => {
            "make its directory (RuntimeDirectory=postrider of the service makes /run/postrider)"
        }
        io::ErrorKind::PermissionDenied => {
            "the relay must be allowed to make files in that directory, and be in the group (SupplementaryGroups=)"
        }
        io::ErrorKind::InvalidInput => "name a group of this machine, or leave group out",
        _ => "choose another path",
    }
}

/// Who connected: the user who called connect(2), as the kernel knows (SO_PEERCRED, unix(7)).
///
/// # Errors
/// The system does not say.
pub(super) fn peer(socket: &Socket) -> io::Result<Peer> {
    Ok(Peer::Unix(rustix::net::sockopt::socket_peercred(socket)?.uid.as_raw()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    fn access(mode: u32) -> SocketAccess {
        SocketAccess { mode, group: None }
    }

    #[test]
    fn a_socket_has_its_rights_and_goes_with_its_listener() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("submit.sock");
        for mode in [0o600, 0o660, 0o666] {
            let (socket, file) = open(&path, &access(mode)).unwrap();
            let found = fs::metadata(&path).unwrap();
            assert_eq!(found.mode() & 0o7777, mode);
            let client = UnixStream::connect(&path).unwrap();
            let (accepted, _) = socket.accept().unwrap();
            // The file is ours, and so is the connection.
            assert_eq!(peer(&accepted).unwrap(), Peer::Unix(found.uid()));
            drop((client, file, socket));
            assert!(!path.exists());
        }
    }

    #[test]
    fn what_was_left_is_replaced_and_what_is_in_use_or_no_socket_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("submit.sock");
        let kind = || open(&path, &access(0o600)).map(drop).map_err(|error| error.kind());
        // Left by a process that was killed.
        drop(UnixListener::bind(&path).unwrap());
        assert_eq!((path.exists(), kind(), path.exists()), (true, Ok(()), false));
        let theirs = UnixListener::bind(&path).unwrap();
        assert_eq!(kind(), Err(io::ErrorKind::AddrInUse));
        // That connection waits, and now no second one may.
        Socket::from(theirs.try_clone().unwrap()).listen(0).unwrap();
        assert_eq!(kind(), Err(io::ErrorKind::AddrInUse));
        drop(theirs);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "mine").unwrap();
        assert_eq!(kind(), Err(io::ErrorKind::AlreadyExists));
        assert_eq!(fs::read(&path).unwrap(), b"mine");
    }

    /// Between bind(2) and listen(2) a socket looks like one that was left there.
    #[test]
    fn while_one_makes_its_socket_another_one_waits() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("submit.sock");
        let first = turn(&path).unwrap();
        let bound = Socket::new(Family::UNIX, Type::STREAM, None).unwrap();
        bound.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        let before = identity(&path).unwrap();
        thread::scope(|scope| {
            let second = scope.spawn(|| open(&path, &access(0o600)).map(drop).map_err(|error| error.kind()));
            thread::sleep(Duration::from_millis(100));
            bound.listen(1).unwrap();
            drop(first);
            assert_eq!(second.join().unwrap(), Err(io::ErrorKind::AddrInUse));
        });
        assert_eq!(identity(&path).unwrap(), before);
    }

    #[test]
    fn a_socket_that_was_removed_or_exchanged_is_not_in_place() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("submit.sock");
        let (_socket, file) = open(&path, &access(0o600)).unwrap();
        assert!(file.is_in_place());
        fs::remove_file(&path).unwrap();
        assert!(!file.is_in_place());
        fs::write(&path, "another").unwrap();
        assert!(!file.is_in_place());
    }

    #[test]
    fn the_socket_of_another_is_not_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("submit.sock");
        let (_socket, file) = open(&path, &access(0o600)).unwrap();
        fs::remove_file(&path).unwrap();
        let _theirs = UnixListener::bind(&path).unwrap();
        drop(file);
        assert!(path.exists());
    }

    #[test]
    fn a_group_that_is_not_there_is_told_and_nothing_is_left() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("submit.sock");
        let access = SocketAccess { mode: 0o660, group: Some("no-such-group".to_owned()) };
        let error = open(&path, &access).unwrap_err();
        assert_eq!((error.kind(), path.exists()), (io::ErrorKind::InvalidInput, false));
    }
}
