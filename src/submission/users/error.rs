//! The errors of the users file, in words for the person who runs `postrider user`.

use std::path::PathBuf;

use crate::mail::Priority;

/// A name is for people to read in the log and for `AUTH` to carry.
pub(in crate::submission) const NAME_CHARS_MAX: usize = 64;
/// More than any mechanism carries in a line (RFC 4954 §4).
pub(super) const PASSWORD_BYTES_MAX: usize = 1024;

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
    /// Its last line has no end.
    #[error(
        "{}:{line}: the last line has no line end, as in a file that was cut or is being written; write it whole, with a \
         line end behind its last line", path.display()
    )]
    Cut {
        /// Which file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
    },
    /// It was there before.
    #[error("users file {}: is gone; put it back", .0.display())]
    Gone(PathBuf),
    /// There was something in it before.
    #[error("users file {}: is empty; put its users back, or a comment where there are to be none", .0.display())]
    Empty(PathBuf),
    /// There is none, and there was none.
    #[error("users file {}: there is none, or nothing in it; run `postrider user add`", .0.display())]
    Nobody(PathBuf),
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
    Domain(String),
    /// Not a rate.
    #[error("\"{0}\" is not a rate; write recipients an hour such as 100/h")]
    Rate(String),
    /// Not a quota.
    #[error("\"{0}\" is not a quota; write a size such as 2GiB")]
    Quota(String),
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
