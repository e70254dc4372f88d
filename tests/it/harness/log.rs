//! The words by which the tests know lines of the log, where no key tells them apart.

pub const LANE_BACKS_OFF: &str = " backs off for ";
pub const HOST_IN_TROUBLE: &str = " in trouble ";
pub const RELOADED: &str = "config reloaded";
pub const NOT_RELOADED: &str = "the new config is not used";
pub const RELAY_TAKES_MAIL: &str = "takes our mail again";
pub const NO_SOURCE: &str = "nothing can be sent from ";
pub const SUPPRESSED: &str = " suppressed ";
pub const DATABASE_BUSY: &str = "database is locked";
pub const MAIL_REFUSED: &str = "new mail is refused (452)";
pub const MAIL_ACCEPTED_AGAIN: &str = "new mail is accepted again";
pub const LOG_HAS_GROWN: &str = "the write-ahead log has grown";
pub const WORKAROUND_ON: &str = " workaround on: ";
pub const WORKAROUND_OFF: &str = " workaround off: ";
