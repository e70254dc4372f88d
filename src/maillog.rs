//! The mail log: the closed set of lines an operator reads, each with its queue id.
//!
//! Levels: error: the operator must act; warn: Postrider refused or gave up; info: what happens to each message;
//! debug: the SMTP dialogue, without secrets. Every line about a message is made here.

use std::net::{IpAddr, SocketAddr};

use crate::mail::{Address, Attempt, Outcome, Phase, Reply};
use crate::queue::{MessageId, NewMessage, Setting};

/// The null sender is shown as `<>`.
fn sender_text(sender: Option<&Address>) -> &str {
    sender.map_or("<>", AsRef::as_ref)
}

/// A message is on disk; the 250 follows.
pub fn accepted(message: &NewMessage) {
    let origin = &message.origin;
    log::info!(
        "{}: accepted from=<{}> size={} nrcpt={} client={} user={}",
        message.id,
        message.envelope.sender.as_ref().map_or("", AsRef::as_ref),
        message.size,
        message.envelope.recipients.len(),
        origin.client.map_or_else(|| "local".to_owned(), |ip| ip.to_string()),
        origin.user.as_deref().unwrap_or("-"),
    );
}

/// An attempt ended. `next_secs`: seconds until the next one; none where there is none, or where the recipient is held.
pub fn attempted(id: MessageId, recipient: &Address, attempt: &Attempt, next_secs: Option<i64>) {
    let level = match attempt.outcome {
        Outcome::Delivered | Outcome::Relayed | Outcome::Deferred => log::Level::Info,
        Outcome::Failed | Outcome::Expired | Outcome::InDoubt => log::Level::Warn,
    };
    if !log::log_enabled!(level) {
        return;
    }
    let host = match (&attempt.mx, attempt.ip) {
        (Some(mx), Some(ip)) => format!("{mx}[{ip}]"),
        (Some(mx), None) => mx.clone(),
        _ => "none".to_owned(),
    };
    let next = match next_secs {
        Some(secs) => format!(" next={secs}s"),
        None if attempt.outcome == Outcome::Deferred => " next=held".to_owned(),
        None => String::new(),
    };
    log::log!(
        level,
        "{id}: {} to=<{recipient}> relay={host} tls={} phase={} ms={}{next} reply_source={} reply={}",
        attempt.outcome.as_str(),
        attempt.tls.as_deref().unwrap_or("none"),
        attempt.phase.as_str(),
        attempt.duration_ms,
        attempt.reply.reply_source.as_str(),
        attempt.reply,
    );
}

/// A `[[retry.rule]]` decided about a recipient. `number` counts from 1, in the order of the config.
pub fn ruled(id: MessageId, recipient: &Address, number: usize, action: &str) {
    log::info!("{id}: [[retry.rule]] {number} says {action} to=<{recipient}>");
}

/// A host could not be used in an attempt, which goes on to the next host or defers the recipients.
pub fn host_trouble(id: MessageId, host: &str, address: SocketAddr, phase: Phase, reply: &Reply) {
    log::info!("{id}: host {host}[{address}] in trouble phase={} reply={reply}", phase.as_str());
}

/// A recipient's lifetime ended before its next attempt.
pub fn expired(id: MessageId, recipient: &Address, last_reply: Option<&str>) {
    log::warn!("{id}: expired to=<{recipient}> last reply: {}", last_reply.unwrap_or("none"));
}

/// A recipient was returned to the sender, as an operator asked (`postrider queue bounce`).
pub fn returned(id: MessageId, recipient: &Address, last_reply: Option<&str>) {
    log::warn!("{id}: returned to=<{recipient}> last reply: {}", last_reply.unwrap_or("none"));
}

/// A report (`kind`: bounce, delay warning or delivery report) was queued together with the outcome that caused it.
pub fn report_queued(id: MessageId, report: &NewMessage, kind: &str) {
    let to = report.envelope.recipients.first().map(|recipient| &recipient.address);
    log::info!("{id}: {kind} queued as {} to=<{}>", report.id, sender_text(to));
}

/// A report was not written: the sender got as many in the last hour as `[delivery] bounces_per_sender` allows.
pub fn report_suppressed(id: MessageId, sender: &Address, kind: &str, this_hour: usize) {
    log::warn!(
        "{id}: {kind} to <{sender}> suppressed ({this_hour} this hour), see [delivery] bounces_per_sender"
    );
}

/// One summary lists all reports to a sender that were suppressed.
pub fn summary_queued(id: MessageId, sender: &str, messages: u64, recipients: u64) {
    log::warn!("{id}: summary queued to=<{sender}> messages={messages} recipients={recipients}");
}

/// Mail from the null sender could not be delivered, and nobody can be told (RFC 5321 §4.5.5).
pub fn dead_end(id: MessageId, recipient: &Address, last_reply: Option<&str>) {
    log::warn!(
        "{id}: mail from <> to <{recipient}> could not be delivered, nobody is told: {}",
        last_reply.unwrap_or("no answer")
    );
}

/// A relay refuses our mail, and `remedy` says what may help. Not for each attempt: see
/// `delivery/host/relay_alerts.rs`.
pub fn relay_refuses(relay: &str, phase: Phase, reply: &Reply, remedy: &str) {
    log::error!(
        "relay {relay} does not take our mail (phase={} reply_source={}): {reply}; nothing bounces for this, its mail waits \
         and is tried again; {remedy}, then postrider queue kick --all",
        phase.as_str(),
        reply.reply_source.as_str()
    );
}

/// A relay that refused our mail takes it again.
pub fn relay_takes_mail(relay: &str) {
    log::info!("relay {relay} takes our mail again");
}

/// A destination failed, so its lane waits.
pub fn lane_backs_off(lane: &str, secs: i64, why: &str) {
    log::warn!("lane {lane} backs off for {secs} s: {why}");
}

/// A destination works again.
pub fn lane_recovered(lane: &str) {
    log::info!("lane {lane} works again");
}

/// A host said that it has too much of us and is given less, or more again since; none of both: as the config says.
pub fn host_limits(host: &str, connections: Option<usize>, per_minute: Option<u32>, signal: Option<&str>) {
    let connections = connections.map_or_else(|| "all".to_owned(), |limit| limit.to_string());
    let per_minute = per_minute.map_or_else(|| "all".to_owned(), |limit| limit.to_string());
    match signal {
        Some(reply) => log::warn!(
            "host {host} throttled: connections={connections} messages_per_minute={per_minute}: {reply}"
        ),
        None => {
            log::info!("host {host} unthrottled: connections={connections} messages_per_minute={per_minute}")
        }
    }
}

/// A host fails at a feature, which is left out there for so many seconds.
pub fn workaround_on(host: &str, setting: Setting, secs: i64, why: &Reply) {
    log::warn!("host {host} workaround on: {}={} for {secs} s: {why}", setting.name(), setting.value());
}

/// The feature works there again.
pub fn workaround_off(host: &str, setting: Setting) {
    log::info!("host {host} workaround off: {}={}", setting.name(), setting.value());
}

/// ETRN or the command line asked for attempts now.
pub fn kicked(what: &str, recipients: usize, by: &str) {
    log::info!("kick {what}: {recipients} recipients due now, asked by {by}");
}

/// A user turned the connection round to fetch the mail of these domains (ATRN).
pub fn turned(user: &str, host: &str, client: IpAddr, domains: &str) {
    log::info!("atrn: {user} fetches {domains} to {host}[{client}]");
}

/// The end of an ATRN transfer; each message has a line of its own.
pub fn fetched(user: &str, messages: usize) {
    log::info!("atrn: {user} was offered {messages} messages");
}

/// A client was disconnected, or refused before it could begin.
pub fn turned_away(client: IpAddr, why: &str) {
    log::warn!("client {client}: {why}");
}
