//! Two tools that several rooms need: memory with a bound, and text for people. Pure.
//!
//! Nothing else may enter: what belongs to one room stays there.

pub mod bounded;
pub mod text;
