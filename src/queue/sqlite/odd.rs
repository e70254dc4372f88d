//! Reading values that a person may have written: whatever stands in a column, a reader goes on.
//!
//! The tables refuse what they cannot hold, so this is for rows of a database whose checks were turned off. A number is
//! read where it stands for one; what stands for nothing is left out by whoever reads, or held (`message.rs`), or
//! found by the sweep.

use rusqlite::types::{FromSqlError, ValueRef};
use rusqlite::{Error, Result, Row};

/// A whole number: one with a fraction is rounded down, and text is read.
pub(super) fn int(row: &Row<'_>, at: usize) -> Result<Option<i64>> {
    Ok(match row.get_ref(at)? {
        ValueRef::Integer(number) => Some(number),
        // Saturates; no number is none.
        ValueRef::Real(number) => (!number.is_nan()).then(|| number.floor() as i64),
        ValueRef::Text(text) => str::from_utf8(text).ok().and_then(|text| text.trim().parse().ok()),
        ValueRef::Null | ValueRef::Blob(_) => None,
    })
}

/// A number that counts, 0 where there is none.
pub(super) fn count(row: &Row<'_>, at: usize) -> Result<u32> {
    Ok(u32::try_from(int(row, at)?.unwrap_or(0).max(0)).unwrap_or(u32::MAX))
}

/// Text, whatever it is; none where there is nothing.
pub(super) fn text(row: &Row<'_>, at: usize) -> Result<Option<String>> {
    Ok(match row.get_ref(at)? {
        ValueRef::Null => None,
        ValueRef::Integer(number) => Some(number.to_string()),
        ValueRef::Real(number) => Some(number.to_string()),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
    })
}

/// A column as what its reader wants: 0, empty or false where nothing stands for it.
pub(super) fn get<T: Odd>(row: &Row<'_>, at: usize) -> Result<T> {
    T::read(row, at)
}

/// What [`get`] gives.
pub(super) trait Odd: Sized {
    fn read(row: &Row<'_>, at: usize) -> Result<Self>;
}

impl Odd for Option<String> {
    fn read(row: &Row<'_>, at: usize) -> Result<Self> {
        text(row, at)
    }
}

impl Odd for String {
    fn read(row: &Row<'_>, at: usize) -> Result<Self> {
        Ok(text(row, at)?.unwrap_or_default())
    }
}

impl Odd for i64 {
    fn read(row: &Row<'_>, at: usize) -> Result<Self> {
        Ok(int(row, at)?.unwrap_or_default())
    }
}

impl Odd for u32 {
    fn read(row: &Row<'_>, at: usize) -> Result<Self> {
        count(row, at)
    }
}

impl Odd for bool {
    fn read(row: &Row<'_>, at: usize) -> Result<Self> {
        Ok(int(row, at)?.unwrap_or_default() != 0)
    }
}

/// Whether a row is to blame, and not the database.
pub(super) fn is_odd(error: &Error) -> bool {
    matches!(
        error,
        Error::InvalidColumnType(..)
            | Error::IntegralValueOutOfRange(..)
            | Error::FromSqlConversionFailure(..)
            | Error::Utf8Error(..)
    )
}

/// What `read` gives; the inner error says why the row is to blame.
pub(super) fn unless_odd<T>(read: impl FnOnce() -> Result<T>) -> Result<std::result::Result<T, String>> {
    match read() {
        Ok(found) => Ok(Ok(found)),
        Err(error) if is_odd(&error) => Ok(Err(error.to_string())),
        Err(error) => Err(error),
    }
}

/// A value that is no such thing, by the name of its column.
pub(super) fn odd_value(row: &Row<'_>, name: &str, error: FromSqlError) -> Error {
    let at = row.as_ref().column_index(name).unwrap_or_default();
    let kind = row.get_ref(at).map_or(rusqlite::types::Type::Null, |value| value.data_type());
    match error {
        FromSqlError::InvalidType => Error::InvalidColumnType(at, name.to_owned(), kind),
        other => Error::FromSqlConversionFailure(at, kind, Box::new(other)),
    }
}
