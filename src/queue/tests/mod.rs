//! What holds for the queue on any store, and the writer over a scripted one.

mod contract;
pub(in crate::queue) mod sample;
mod writer;
