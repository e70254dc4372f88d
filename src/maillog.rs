//! The mail log: the closed set of lines an operator reads, each with its queue id.
//!
//! Levels: error: the operator must act; warn: Postrider refused or gave up; info: what happens to each message;
//! debug: the SMTP dialogue, without secrets. Every line about a message is made here.
//!
//! Fields are `name=value` with a space between them. An address stands in angle brackets and is written by `Shown`,
//! so that no quoted local part can end its field and begin another. What was said by others comes last.

mod flood;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::kit::text::{day, is_unseen, printable, utc};
use crate::mail::{Address, Attempt, Outcome, Peer, Phase, Reply, TlsPolicy};
use crate::queue::{MessageId, NewMessage, Setting};

use flood::Flood;

/// An address as a field of a line: spaces, angle brackets, backslashes and what cannot be seen are bytes in the form
/// `\xNN`. None is the null sender.
struct Shown<'a>(Option<&'a str>);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.unwrap_or_default().chars() {
            if matches!(c, ' ' | '<' | '>' | '\\') || is_unseen(c) {
                for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                    write!(f, "\\x{byte:02X}")?;
                }
            } else {
                write!(f, "{c}")?;
            }
        }
        Ok(())
    }
}

fn shown(address: &Address) -> Shown<'_> {
    Shown(Some(address.as_ref()))
}

/// A message is on disk; the 250 follows.
pub fn accepted(message: &NewMessage) {
    let (origin, labels) = (&message.origin, &message.labels);
    let field = |name: &str, value: Option<String>| {
        value.map_or_else(String::new, |value| format!(" {name}={value}"))
    };
    log::info!(
        "{}: accepted from=<{}> size={} nrcpt={} client={} user={}{}{}{}",
        message.id,
        Shown(message.envelope.sender.as_ref().map(AsRef::as_ref)),
        message.size,
        message.envelope.recipients.len(),
        origin.client.map_or_else(|| "local".to_owned(), |client| client.to_string()),
        origin.user.as_deref().unwrap_or("-"),
        field("message-id", labels.message_id.as_deref().map(|id| format!("<{}>", Shown(Some(id))))),
        field("tag", labels.tag.clone()),
        // What somebody wrote comes last.
        field("subject", labels.subject.clone()),
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
    let policy = match attempt.tls_policy {
        TlsPolicy::None => String::new(),
        policy => format!(" tls_policy={}", policy.as_str()),
    };
    let dkim = attempt.dkim.as_deref().map_or_else(String::new, |keys| format!(" dkim={keys}"));
    log::log!(
        level,
        "{id}: {} to=<{}> relay={host} tls={}{policy}{dkim} phase={} ms={}{next} reply_source={} reply={}",
        attempt.outcome.as_str(),
        shown(recipient),
        attempt.tls.as_deref().unwrap_or("none"),
        attempt.phase.as_str(),
        attempt.duration_ms,
        attempt.reply.reply_source.as_str(),
        attempt.reply,
    );
}

/// A `[[retry.rule]]` decided about a recipient. `number` counts from 1, in the order of the config.
pub fn ruled(id: MessageId, recipient: &Address, number: usize, action: &str) {
    log::info!("{id}: [[retry.rule]] {number} says {action} to=<{}>", shown(recipient));
}

/// A host could not be used in an attempt, which goes on to the next host or defers the recipients.
pub fn host_trouble(id: MessageId, host: &str, address: SocketAddr, phase: Phase, reply: &Reply) {
    log::info!("{id}: host {host}[{address}] in trouble phase={} reply={reply}", phase.as_str());
}

/// A host did not prove what a policy of its own or of its domain requires, and gets no mail for now.
pub fn unsafe_host(id: MessageId, host: &str, policy: TlsPolicy, reply: &Reply) {
    log::warn!(
        "{id}: {host} does not keep its policy {}, and gets no mail for now: {reply}",
        policy.as_str()
    );
}

/// A recipient's lifetime ended before its next attempt.
pub fn expired(id: MessageId, recipient: &Address, last_reply: Option<&str>) {
    log::warn!("{id}: expired to=<{}> last reply: {}", shown(recipient), last_reply.unwrap_or("none"));
}

/// A recipient was returned to the sender, as an operator asked (`postrider queue bounce`).
pub fn returned(id: MessageId, recipient: &Address, last_reply: Option<&str>) {
    log::warn!("{id}: returned to=<{}> last reply: {}", shown(recipient), last_reply.unwrap_or("none"));
}

/// A report (`kind`: bounce, delay warning or delivery report) was queued together with the outcome that caused it.
pub fn report_queued(id: MessageId, report: &NewMessage, kind: &str) {
    let to = report.envelope.recipients.first().map(|recipient| &recipient.address);
    log::info!("{id}: {kind} queued as {} to=<{}>", report.id, Shown(to.map(AsRef::as_ref)));
}

/// A report on TLS (RFC 8460) was queued: about this domain, on the day that began then.
pub fn tls_report_queued(id: MessageId, domain: &str, began: i64, to: &[Address]) {
    let to: Vec<String> = to.iter().map(|address| format!("to=<{}>", shown(address))).collect();
    log::info!("{id}: TLS report queued domain={domain} day={} {}", day(began), to.join(" "));
}

/// The same, and a web server took it.
pub fn tls_report_posted(domain: &str, began: i64, uri: &str) {
    log::info!("TLS report posted domain={domain} day={} uri={uri}", day(began));
}

/// The same, and it is not tried again. `rua` is empty where the domain could not be asked.
pub fn tls_report_given_up(domain: &str, began: i64, rua: &str, why: &str) {
    let uri = if rua.is_empty() { "none" } else { rua };
    log::warn!(
        "TLS report given up domain={domain} day={} uri={uri} last reply: {}",
        day(began),
        printable(why.as_bytes())
    );
}

/// A report was not written: the sender got as many in the last hour as `[delivery] bounces_per_sender` allows.
pub fn report_suppressed(id: MessageId, sender: &Address, kind: &str, this_hour: usize) {
    log::warn!(
        "{id}: {kind} to <{}> suppressed ({this_hour} this hour), see [delivery] bounces_per_sender",
        shown(sender)
    );
}

/// One summary lists all reports to a sender that were suppressed.
pub fn summary_queued(id: MessageId, sender: &str, messages: u64, recipients: u64) {
    log::warn!(
        "{id}: summary queued to=<{}> messages={messages} recipients={recipients}",
        Shown(Some(sender))
    );
}

/// Mail from the null sender could not be delivered, and nobody can be told (RFC 5321 §4.5.5).
pub fn dead_end(id: MessageId, recipient: &Address, last_reply: Option<&str>) {
    log::warn!(
        "{id}: mail from <> to <{}> could not be delivered, nobody is told: {}",
        shown(recipient),
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

/// A domain has a policy, or another one than before; `until` in Unix seconds.
pub fn sts_policy(domain: &str, mode: &str, id: &str, until: i64, hosts: &str) {
    log::info!("MTA-STS policy of {domain}: mode={mode} id={id} until {} UTC: {hosts}", utc(until));
}

/// A domain's policy could not be fetched; `holds` is the mode of the one before, and until when it is good.
pub fn sts_failed(domain: &str, holds: Option<(&str, i64)>, why: &str) {
    match holds {
        Some((mode, until)) => log::warn!(
            "MTA-STS policy of {domain} not fetched: the last one (mode={mode}) holds until {} UTC: {why}",
            utc(until)
        ),
        None => log::warn!("MTA-STS policy of {domain} not fetched: its mail goes without one: {why}"),
    }
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
pub fn turned_away(client: Peer, why: &str) {
    log::warn!("client {client}: {why}");
}

/// A command of a transaction, or the content, was refused. Of a flood of refusals few lines are written.
pub fn refused(refused: &Refused<'_>, reply: &Reply) {
    static FLOOD: Flood = Flood::new(Duration::from_secs(60), 30);
    let Refused { client, user, verb, sender, recipient } = refused;
    let line = format!(
        "refused {verb} client={client} user={} from=<{}> to=<{}> reply={reply}",
        user.unwrap_or("-"),
        Shown(*sender),
        Shown(*recipient),
    );
    FLOOD.write(
        line,
        |line| log::warn!("{line}"),
        |counted, last| format!("{counted} more commands were refused within a minute, the last one: {last}"),
    );
}

/// What was refused, and to whom.
pub struct Refused<'a> {
    /// Who asked.
    pub client: Peer,
    /// As whom it has logged in.
    pub user: Option<&'a str>,
    /// `MAIL`, `RCPT`, `DATA`, `BDAT` or `content`.
    pub verb: &'a str,
    /// None: not told, or the null sender.
    pub sender: Option<&'a str>,
    /// None: not told, or several.
    pub recipient: Option<&'a str>,
}

/// Handshakes that failed: of a flood of them, which costs its senders little, few lines are written.
pub fn handshake_failed(client: Peer, why: &dyn fmt::Display) {
    static FLOOD: Flood = Flood::new(Duration::from_secs(60), 5);
    let line = format!("client {client}: TLS handshake failed: {why}");
    FLOOD.write(
        line,
        |line| log::warn!("{line}"),
        |counted, last| format!("{counted} more TLS handshakes failed within a minute, the last one: {last}"),
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::address;

    #[test]
    fn no_address_ends_its_field() {
        for (text, expected) in [
            ("a@b.test", "a@b.test"),
            ("a=b+c@b.test", "a=b+c@b.test"),
            (
                "\"a> relay=evil reply=250 ok\"@b.test",
                "\"a\\x3E\\x20relay=evil\\x20reply=250\\x20ok\"@b.test",
            ),
            ("\"a\\\" b\"@b.test", "\"a\\x5C\"\\x20b\"@b.test"),
            ("\"<\"@b.test", "\"\\x3C\"@b.test"),
            ("j\u{f6}rg@b.test", "j\u{f6}rg@b.test"),
            ("a\u{200d}b@b.test", "a\\xE2\\x80\\x8Db@b.test"),
        ] {
            let line = shown(&address::parse(text).unwrap()).to_string();
            assert_eq!(line, expected);
            assert!(!line.contains([' ', '<', '>']), "{line}");
        }
        // A row that a hand wrote may hold anything.
        assert_eq!(Shown(Some("a\n\u{202e}b")).to_string(), "a\\x0A\\xE2\\x80\\xAEb");
        assert_eq!(Shown(None).to_string(), "");
    }
}
