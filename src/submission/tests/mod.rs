//! Tests of the room as a whole: the table of commands and states, the golden dialogues, logins, and limits,
//! stopping and reloading. `doubles` stands in for the other rooms, `client` speaks to the listener.

mod client;
mod doubles;
mod golden;
mod login;
mod protocol;
mod room;
