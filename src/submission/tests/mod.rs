//! Tests of the room as a whole.

mod golden;
mod login;
mod protocol;
mod room;
