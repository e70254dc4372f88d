//! Tests of the room as a whole: the table of commands and states, the golden dialogues, logins, and limits,
//! stopping and reloading. `doubles` stands in for the other rooms, `client` speaks to the listener,
//! `wire` looks at its bytes.

mod client;
pub(super) mod doubles;
mod golden;
mod login;
mod protocol;
mod room;
mod unix_socket;
mod wire;
