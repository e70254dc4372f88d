//! Tools that several rooms need: memory with a bound, histograms, text for people, lines of the log and their masks.
//! Pure, but for the log.
//!
//! Nothing else may enter: what belongs to one room stays there.

pub mod bounded;
pub mod event;
pub mod histogram;
pub mod mask;
pub mod text;
