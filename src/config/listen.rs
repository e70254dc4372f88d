//! Where a `[[listen]]` listens: at an IP address and port, or at a socket in the file system.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// What a socket in the file system is written with.
const UNIX: &str = "unix:";
/// What the system has room for in the address of such a socket (unix(7)), without the NUL behind it.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// `[[listen]] address`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddress {
    /// An address of this machine, or all of them, and a port.
    Ip(SocketAddr),
    /// A socket in the file system, by its whole path.
    Unix(PathBuf),
}

/// Who may connect to a socket in the file system: its rights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketAccess {
    /// As of a file.
    pub mode: u32,
    /// Its group; none: the relay's own.
    pub group: Option<String>,
}

/// Every user of this machine.
impl Default for SocketAccess {
    fn default() -> SocketAccess {
        SocketAccess { mode: 0o666, group: None }
    }
}

impl ListenAddress {
    /// The address and port, where it is one.
    pub fn ip(&self) -> Option<SocketAddr> {
        match self {
            ListenAddress::Ip(address) => Some(*address),
            ListenAddress::Unix(_) => None,
        }
    }

    /// The path of a socket in the file system, where it is one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            ListenAddress::Ip(_) => None,
            ListenAddress::Unix(path) => Some(path),
        }
    }

    /// `unix:` and a path; none where it is something else.
    pub(super) fn parse_unix(text: &str) -> Option<Result<ListenAddress, &'static str>> {
        let path = text.strip_prefix(UNIX)?;
        Some(if !path.starts_with('/') || path.ends_with('/') || path.contains('\0') {
            Err("is not the whole path of a socket")
        } else if path.len() > SOCKET_PATH_BYTES_MAX {
            Err("is longer than the 107 bytes that the system allows")
        } else {
            Ok(ListenAddress::Unix(path.into()))
        })
    }
}

impl From<SocketAddr> for ListenAddress {
    fn from(address: SocketAddr) -> ListenAddress {
        ListenAddress::Ip(address)
    }
}

/// As it is written in the config.
impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenAddress::Ip(address) => address.fmt(f),
            ListenAddress::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}
