//! Where a route's login gets its secret from: a file, or a program that prints it.

use std::fmt;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::guarded;

/// Bytes of a secret file that are looked at; tokens have two or three thousand.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// `[[route]] password_file`, `token_file` or `token_command`; the secret itself is in none of them.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum SecretSource {
    /// The first line is the password.
    PasswordFile(PathBuf),
    /// The first line is an OAuth 2.0 access token, which somebody else replaces in time.
    TokenFile(PathBuf),
    /// A program and its arguments that prints such a token. Never empty.
    TokenCommand(Vec<String>),
}

impl SecretSource {
    /// Whether the secret is a token, for the mechanisms that take one, and not a password.
    pub fn is_token(&self) -> bool {
        !matches!(self, SecretSource::PasswordFile(_))
    }

    /// The key of the config.
    pub fn key(&self) -> &'static str {
        match self {
            SecretSource::PasswordFile(_) => "password_file",
            SecretSource::TokenFile(_) => "token_file",
            SecretSource::TokenCommand(_) => "token_command",
        }
    }
}

/// The key and the file or program: `token_command /usr/local/bin/token`. The arguments of a command are not
/// shown: there may be secrets among them.
impl fmt::Display for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SecretSource::PasswordFile(path) | SecretSource::TokenFile(path) => {
                write!(f, "{} {}", self.key(), path.display())
            }
            SecretSource::TokenCommand(command) => {
                write!(f, "{} {}", self.key(), command.first().map_or("", String::as_str))
            }
        }
    }
}

/// As it is shown.
impl fmt::Debug for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretSource({self})")
    }
}

/// The first line of a secret's file; none where there is nothing in it, or what no secret holds.
///
/// # Errors
/// Where the file cannot be read, is no text, or may be changed by others.
pub fn first_line(path: &Path) -> io::Result<Option<String>> {
    let mut text = String::new();
    guarded::open(path)?.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
    let line = text.lines().next().unwrap_or_default();
    // NUL ends the parts of PLAIN (RFC 4616 §2).
    Ok((!line.is_empty() && !line.contains('\0')).then(|| line.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_is_the_secret() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let read = |text: &[u8]| {
            std::fs::write(file.path(), text).unwrap();
            first_line(file.path())
        };
        assert_eq!(read(b"pass word \nsecond\n").unwrap().as_deref(), Some("pass word "));
        assert_eq!(read(b"one\r\n").unwrap().as_deref(), Some("one"));
        for empty in [&b""[..], b"\nsecond", b"a\0b\n"] {
            assert_eq!(read(empty).unwrap(), None, "{empty:?}");
        }
        assert!(read(b"\xff\n").is_err());
        assert!(first_line(Path::new("/nonexistent/secret")).is_err());
    }

    #[test]
    fn what_is_shown_names_the_program_and_none_of_its_arguments() {
        let source = SecretSource::TokenCommand(vec!["/bin/token".to_owned(), "--secret=hunter2".to_owned()]);
        assert_eq!(
            format!("{source} {source:?}"),
            "token_command /bin/token SecretSource(token_command /bin/token)"
        );
    }
}
