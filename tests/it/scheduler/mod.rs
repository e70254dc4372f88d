//! When what goes, and how much of it at a time.

mod limits;
mod recorded;
mod retries;
