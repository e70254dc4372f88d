//! Types that all rooms share: addresses, envelopes, replies, outcomes. No I/O, no clock, no log.

pub mod address;
pub mod dkim;
pub mod envelope;
pub mod handling;
pub mod header;
pub mod labels;
pub mod outcome;
pub mod peer;
pub mod reply;
pub mod reply_reason;
pub mod spf;
pub mod tlsrpt;
pub mod unitext;

pub use address::{Address, Domain, Path};
pub use envelope::{Body, Envelope, Expanded, Notify, Recipient, Ret};
pub use handling::{DeliverBy, Handling, Hold, Lifetimes, Priority, Release};
pub use labels::Labels;
pub use outcome::{Attempt, Outcome, Phase, TlsPolicy};
pub use peer::Peer;
pub use reply::{Enhanced, LOCAL_MARK, Reply, ReplySource, mark_of};
pub use reply_reason::reason;
