//! What statements that a person writes tell, whatever the store.

/// What a statement tells, in this order.
#[derive(Debug)]
pub enum Ran<'a> {
    /// The names of its columns; not told where it has none.
    Columns(&'a [String]),
    /// A row.
    Row(&'a [Cell<'a>]),
    /// Its end.
    Done {
        /// The rows that it inserted, changed or deleted.
        changed: u64,
    },
}

/// A value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Cell<'a> {
    /// NULL.
    Null,
    /// A whole number.
    Integer(i64),
    /// A floating-point number.
    Real(f64),
    /// Text, or bytes; either may be no UTF-8.
    Bytes(&'a [u8]),
}

/// Why statements were not carried out to the end.
#[derive(Debug, thiserror::Error)]
pub enum ShellError {
    /// What the store says of a statement.
    #[error("{0}")]
    Statement(String),
    /// What it told could not be written.
    #[error(transparent)]
    Output(std::io::Error),
}
