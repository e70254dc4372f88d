//! What holds for a client on this listener and connection at this moment: the facts that decisions rest on.

use std::sync::Arc;

use crate::mail::{Domain, Reply};

use crate::submission::auth::Offer;
use crate::submission::protocol::aliases::Aliases;
use crate::submission::replies;
use crate::submission::users::User;

/// What holds on this listener and connection at this moment.
#[derive(Debug, Clone, Copy)]
pub(in crate::submission) struct PolicyContext<'a> {
    /// Our name.
    pub(in crate::submission) hostname: &'a Domain,
    pub(in crate::submission) tls: Tls,
    /// With `Tls::No`: the listener is bound to loopback, so that AUTH in the clear is fine.
    pub(in crate::submission) loopback: bool,
    /// The client's address is in the listener's `trusted`.
    pub(in crate::submission) trusted: bool,
    /// MAIL wants AUTH before it.
    pub(in crate::submission) auth_required: bool,
    /// Which mechanisms AUTH has, where it is offered.
    pub(in crate::submission) auth: Offer,
    /// Bytes.
    pub(in crate::submission) message_size_max: u64,
    pub(in crate::submission) recipients_max: usize,
    /// FUTURERELEASE: how long a message may be held; none where it is not offered.
    pub(in crate::submission) hold_secs_max: Option<i64>,
    /// Unix seconds.
    pub(in crate::submission) now: i64,
    pub(in crate::submission) aliases: Aliases<'a>,
}

/// TLS on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::submission) enum Tls {
    /// In use.
    Active,
    /// To be had with STARTTLS.
    Offered,
    /// To be had on this listener, but the certificate cannot be used just now.
    Unusable,
    /// Not on this listener.
    No,
}

impl PolicyContext<'_> {
    pub(in crate::submission) fn auth_offered(&self) -> bool {
        match self.tls {
            Tls::Active => true,
            Tls::Offered | Tls::Unusable => false,
            Tls::No => self.loopback,
        }
    }

    /// There is a way to authenticate, now or after STARTTLS.
    pub(in crate::submission) fn can_authenticate(&self) -> bool {
        self.tls == Tls::Offered || self.auth_offered()
    }

    /// May have mail relayed, and be told of what there is here.
    pub(in crate::submission) fn is_welcome(&self, user: Option<&Arc<User>>) -> bool {
        self.trusted || user.is_some()
    }

    /// The answer to a stranger who has to authenticate first.
    pub(in crate::submission) fn auth_first(&self) -> Reply {
        if self.tls == Tls::Offered { replies::STARTTLS_FIRST } else { replies::AUTH_REQUIRED }
    }
}
