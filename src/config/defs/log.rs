//! Keys of what is written down about mail.

use super::super::kind::{Def, Kind, Preset, def};
use Kind::*;
use Preset::Is;

/// In the order of the reference.
pub(super) const KEYS: &[Def] = &[def(
    "log.subject",
    Flag,
    Is("false"),
    "Whether the Subject of messages is kept, 200 characters of it, in the tables messages and history and in the log, \
     so that mail can be found by it (postrider queue find --subject). Subjects are what people write to each other: \
     whoever may read the log or the queue reads them. The Message-ID is always kept.",
)];
