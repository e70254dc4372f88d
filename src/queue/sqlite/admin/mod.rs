//! What an operator looks at and changes.

pub(in crate::queue) mod change;
pub(in crate::queue) mod kicks;
pub(in crate::queue) mod look;
