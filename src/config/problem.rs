//! What is wrong with a config file: where, which key, what, and what to do about it.

use std::fmt;
use std::path::{Path, PathBuf};

/// One problem, or one warning. Shown as `file:line: key: what is wrong; what to do`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file, as it was named.
    pub file: PathBuf,
    /// Counted from 1; none where the file as a whole is meant.
    pub line: Option<usize>,
    /// Dotted, such as `queue.lifetime`; empty where no key is meant.
    pub key: String,
    /// What is wrong, a semicolon, what to do.
    pub text: String,
}

impl Problem {
    /// A problem of the whole file.
    pub(super) fn of_file(file: &Path, text: String) -> Problem {
        Problem { file: file.to_owned(), line: None, key: String::new(), text }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, "{line}:")?;
        }
        if !self.key.is_empty() {
            write!(f, " {}:", self.key)?;
        }
        write!(f, " {}", self.text)
    }
}

/// Every problem of a config, in the order of its lines; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, problem) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
