//! Config: from typed text to checked settings, one struct a room.

pub mod settings;

pub use settings::*;
