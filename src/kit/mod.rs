//! Tools that several rooms need: memory with a bound, histograms, text for people, and lines of the log. Pure.
//!
//! Nothing else may enter: what belongs to one room stays there.

pub mod bounded;
pub mod event;
pub mod histogram;
pub mod text;
