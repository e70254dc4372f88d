//! The queue for people.
