//! Keys of the log, and of what is written down about mail.

use super::super::kind::{Def, Kind, Preset, def};
use Kind::*;
use Preset::Is;

/// In the order of the reference.
pub(super) const KEYS: &[Def] = &[
    def(
        "log.format",
        Choice(&["text", "json"]),
        Is("\"text\""),
        "How lines are written: for people, or each as a JSON object with the same fields. See docs/log.md.",
    ),
    def(
        "log.mask_addresses",
        Flag,
        Is("false"),
        "Whether the log hides whom mail is from and to: ***@example.com, also where hosts name them. The queue and its \
         history have the whole addresses all the same.",
    ),
    def(
        "log.subject",
        Flag,
        Is("false"),
        "Whether the Subject of messages is kept, 200 characters of it, in the tables messages and history and in the log, \
     so that mail can be found by it (postrider queue find --subject). Subjects are what people write to each other: \
     whoever may read the log or the queue reads them. The Message-ID is always kept.",
    ),
];
