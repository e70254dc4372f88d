//! Three tools that several rooms need: memory with a bound, text for people, and lines of the log. Pure.
//!
//! Nothing else may enter: what belongs to one room stays there.

pub mod bounded;
pub mod event;
pub mod text;
