//! What holds for the queue on any store.

mod contract;
