//! What EHLO offers at this moment, and what of the handling that MAIL asks for is granted: pure.
//!
//! FUTURERELEASE (RFC 4865) and MT-PRIORITY (RFC 6710) are for clients that may relay. They are shown on listeners
//! where every client has to authenticate, also before AUTH, since most clients do not say EHLO again after it;
//! on other listeners they are shown to clients that have authenticated or are trusted. REQUIRETLS (RFC 8689) exists
//! only in TLS.

use std::sync::Arc;

use crate::mail::handling::rfc3339;
use crate::mail::{DeliverBy, Handling, Hold, Priority, Release, Reply};

use crate::submission::protocol::policy::{PolicyContext, Tls};
use crate::submission::replies;
use crate::submission::syntax::command::{Mail, SyntaxError};
use crate::submission::users::User;

/// The lines of the EHLO reply behind its first.
pub(in crate::submission) fn offered(user: Option<&Arc<User>>, context: &PolicyContext<'_>) -> Vec<String> {
    let welcome = context.is_welcome(user);
    let holding = context.hold_secs_max.filter(|_| may_ask(user, context));
    let when = |holds: bool, line: &str| holds.then(|| line.to_owned());
    [
        when(true, "PIPELINING"),
        Some(format!("SIZE {}", context.message_size_max)),
        when(true, "8BITMIME"),
        when(true, "SMTPUTF8"),
        when(true, "DSN"),
        when(true, "ENHANCEDSTATUSCODES"),
        when(true, "CHUNKING"),
        when(true, "BINARYMIME"),
        when(true, "DELIVERBY"),
        // RFC 9422 §3. There is no limit of transactions in a session, and so no MAILMAX.
        Some(format!("LIMITS RCPTMAX={}", context.recipients_max)),
        // RFC 4865 §4 (4): both limits.
        holding.map(|secs| format!("FUTURERELEASE {secs} {}", rfc3339(context.now.saturating_add(secs)))),
        when(may_ask(user, context), "MT-PRIORITY"),
        when(context.tls == Tls::Active, "REQUIRETLS"),
        when(welcome, "ETRN"),
        when(welcome, "VRFY"),
        when(welcome, "EXPN"),
        // RFC 2645 §5: before AUTH too, since clients look for it there; it is 530 until then.
        when(user.map_or(context.auth_offered() && context.auth.atrn, |user| !user.atrn.is_empty()), "ATRN"),
        when(context.tls == Tls::Offered, "STARTTLS"),
        (context.auth_offered() && user.is_none()).then(|| format!("AUTH {}", context.auth.mechanisms())),
        when(true, "HELP"),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Whether FUTURERELEASE and MT-PRIORITY are for this client.
fn may_ask(user: Option<&Arc<User>>, context: &PolicyContext<'_>) -> bool {
    context.auth_required || context.is_welcome(user)
}

/// The handling that MAIL asks for, as far as it is granted, and the reply that says so.
///
/// # Errors
/// 555 for a parameter that is not offered to this client now, 501 for a time beyond the limit.
pub(in crate::submission) fn granted(
    mail: &Mail,
    user: Option<&Arc<User>>,
    context: &PolicyContext<'_>,
) -> Result<(Handling, Reply), Reply> {
    if mail.require_tls && context.tls != Tls::Active {
        return Err(not_offered("REQUIRETLS"));
    }
    if mail.priority.is_some() && !may_ask(user, context) {
        return Err(not_offered("MT-PRIORITY"));
    }
    let release = mail.hold.map(|hold| release(hold, user, context)).transpose()?;
    // The time of BY, like the lifetime, begins with the release.
    let from = release.map_or(context.now, |release| release.at.max(context.now));
    let deliver_by = mail.by.map(|by| DeliverBy {
        at: from.saturating_add(by.secs),
        returns: by.returns,
        trace: by.trace,
    });
    let (default, ceiling) = user.map_or((Priority::NORMAL, Priority::NORMAL), |user| user.priorities());
    let priority = mail.priority.unwrap_or(default).min(ceiling);
    let reply = match mail.priority {
        Some(asked) if asked > ceiling => replies::priority_lowered(ceiling),
        _ => replies::SENDER_OK,
    };
    Ok((
        Handling { priority, require_tls: mail.require_tls, release, deliver_by, ..Handling::default() },
        reply,
    ))
}

/// RFC 4865 §4: not beyond what EHLO said. A time that is over releases at once.
fn release(asked: Hold, user: Option<&Arc<User>>, context: &PolicyContext<'_>) -> Result<Release, Reply> {
    let parameter = match asked {
        Hold::For(_) => "HOLDFOR",
        Hold::Until(_) => "HOLDUNTIL",
    };
    let secs_max =
        context.hold_secs_max.filter(|_| may_ask(user, context)).ok_or_else(|| not_offered(parameter))?;
    let at = match asked {
        Hold::For(secs) => context.now.saturating_add(i64::from(secs)),
        Hold::Until(at) => at,
    };
    if at > context.now.saturating_add(secs_max) {
        Err(replies::HELD_TOO_LONG)
    } else {
        Ok(Release { at, asked })
    }
}

fn not_offered(keyword: &str) -> Reply {
    replies::syntax(&SyntaxError::UnknownParameter(keyword.to_owned()))
}
