//! The mail log: the closed set of lines an operator reads, each with its queue id.
//!
//! Levels: error: the operator must act; warn: Postrider refused or gave up; info: what happens to each message;
//! debug: the SMTP dialogue, without secrets. Every line about a message is made here.
//!
//! Each line is an event (`kit/event.rs`): its name, the template of its text and the values of its fields, from which
//! text and JSON are made. In the text fields are `name=value` with a space between them, and addresses stand in angle
//! brackets. What was said by others comes last.

mod flood;
mod observer;
mod policy_refusals;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use log::Level::{self, Error, Info, Warn};

use crate::kit::event::{Event, Value};
use crate::kit::text::{day, printable, utc};
use crate::mail::{Address, Attempt, Outcome, Peer, Phase, Reply, TlsPolicy};
use crate::queue::{MessageId, NewMessage, Setting, Suspension};

use Value::{Absent, Addresses, Foreign, Number, Own, Secs};
use flood::Flood;
use observer::observe;
use policy_refusals::PolicyRefusals;

pub use observer::{Observer, Seen, is_observed, observe_no_more, observe_with};

/// A line about no message in particular.
fn line(level: Level, name: &'static str, text: &'static str, values: &[Value<'_>]) {
    Event { level, target: module_path!(), name, queue_id: None, text, values }.log();
}

/// A line about a message.
fn line_of(id: MessageId, level: Level, name: &'static str, text: &'static str, values: &[Value<'_>]) {
    Event { level, target: module_path!(), name, queue_id: Some(&id), text, values }.log();
}

fn address(address: &Address) -> Value<'_> {
    Value::Address(Some(address.as_ref()))
}

/// What others said, or this word of ours.
fn said_or<'a>(said: Option<&'a &'a str>, word: &'static str) -> Value<'a> {
    said.map_or(Value::None(word), |said| Foreign(said))
}

/// A limit; None: as the config says.
fn limit(limit: Option<i64>) -> Value<'static> {
    limit.map_or(Value::None("all"), Number)
}

/// A message is on disk; the 250 follows.
pub fn accepted(message: &NewMessage) {
    let NewMessage { id, origin, labels, envelope, size, .. } = message;
    observe(&Seen::Accepted { recipients: envelope.recipients.len(), bytes: *size });
    line_of(
        *id,
        Info,
        "accepted",
        "accepted from=<{from}> size={size} nrcpt={nrcpt} client={client} user={user}{message_id: message-id=<$>}\
         {tag: tag=$}{subject: subject=$}",
        &[
            Value::Address(envelope.sender.as_ref().map(AsRef::as_ref)),
            Number(*size as i64),
            Number(envelope.recipients.len() as i64),
            origin.client.as_ref().map_or(Value::None("local"), |client| Own(client)),
            origin.user.as_ref().map_or(Value::None("-"), |user| Foreign(user)),
            labels.message_id.as_deref().map_or(Absent, Value::HeaderId),
            labels.tag.as_ref().map_or(Absent, |tag| Foreign(tag)),
            labels.subject.as_ref().map_or(Absent, |subject| Foreign(subject)),
        ],
    );
}

/// An attempt ended. `next_secs`: seconds until the next one; none where there is none, or where the recipient is held.
pub fn attempted(
    id: MessageId,
    sender: Option<&Address>,
    recipient: &Address,
    attempt: &Attempt,
    next_secs: Option<i64>,
) {
    static REFUSALS: LazyLock<PolicyRefusals> = LazyLock::new(PolicyRefusals::new);
    observe(&Seen::Attempted { recipient, attempt });
    let judged = REFUSALS.judge(sender.map_or("", AsRef::as_ref), attempt, Instant::now());
    if judged.is_by_policy {
        observe(&Seen::RefusedByPolicy);
    }
    if let Some((senders, recipients)) = judged.alert {
        let remedy = policy_refusals::remedy(attempt, sender.map(|sender| sender.domain()));
        refused_by_policy(attempt, senders, recipients, &remedy);
    }
    let Attempt { outcome, mx, ip, tls, tls_policy, dkim, phase, duration_ms, reply, .. } = attempt;
    let policy = tls_policy.as_str();
    let level = match outcome {
        Outcome::Delivered | Outcome::Relayed | Outcome::Deferred => Info,
        // One of many of which the operator was told.
        _ if judged.is_told => Info,
        Outcome::Failed | Outcome::Expired | Outcome::InDoubt => Warn,
    };
    line_of(
        id,
        level,
        "attempt",
        "{outcome} to=<{to}> relay={mx}{ip:[$]} tls={tls}{tls_policy: tls_policy=$}{dkim: dkim=$} phase={phase} ms={ms}\
         {next: next=$} reply_source={reply_source} reply={reply}",
        &[
            Own(&outcome.as_str()),
            address(recipient),
            mx.as_ref().map_or(Value::None("none"), |mx| Own(mx)),
            ip.as_ref().filter(|_| mx.is_some()).map_or(Absent, |ip| Own(ip)),
            tls.as_ref().map_or(Value::None("none"), |tls| Own(tls)),
            if *tls_policy == TlsPolicy::None { Absent } else { Own(&policy) },
            dkim.as_ref().map_or(Absent, |keys| Own(keys)),
            Own(&phase.as_str()),
            Number(*duration_ms as i64),
            match next_secs {
                Some(secs) => Secs(secs),
                None if *outcome == Outcome::Deferred => Value::None("held"),
                None => Absent,
            },
            Own(&reply.reply_source.as_str()),
            Foreign(reply),
        ],
    );
}

/// A host does not take our mail by a block list or another policy: so many recipients of so many senders so far.
pub fn refused_by_policy(attempt: &Attempt, senders: usize, recipients: u64, remedy: &str) {
    let Attempt { mx, ip, source, reply, .. } = attempt;
    line(
        Error,
        "refused_by_policy",
        "host {mx}{ip:[$]} refuses our mail by policy{source_address: (sent from $)}: {recipients} recipients of {senders} \
         senders so far within an hour: {reply}; {remedy}",
        &[
            mx.as_ref().map_or(Value::None("none"), |mx| Own(mx)),
            ip.as_ref().map_or(Absent, |ip| Own(ip)),
            source.as_ref().map_or(Absent, |source| Own(source)),
            Number(recipients as i64),
            Number(senders as i64),
            Foreign(reply),
            Foreign(&remedy),
        ],
    );
}

/// A `[[retry.rule]]` decided about a recipient. `number` counts from 1, in the order of the config.
pub fn ruled(id: MessageId, recipient: &Address, number: usize, action: &str) {
    line_of(
        id,
        Info,
        "retry_rule",
        "[[retry.rule]] {rule} says {action} to=<{to}>",
        &[Number(number as i64), Own(&action), address(recipient)],
    );
}

/// A host could not be used in an attempt, which goes on to the next host or defers the recipients.
pub fn host_trouble(id: MessageId, host: &str, address: SocketAddr, phase: Phase, reply: &Reply) {
    line_of(
        id,
        Info,
        "host_trouble",
        "host {mx}[{address}] in trouble phase={phase} reply={reply}",
        &[Own(&host), Own(&address), Own(&phase.as_str()), Foreign(reply)],
    );
}

/// A host did not prove what a policy of its own or of its domain requires, and gets no mail for now.
pub fn unsafe_host(id: MessageId, host: &str, policy: TlsPolicy, reply: &Reply) {
    line_of(
        id,
        Warn,
        "unsafe_host",
        "{mx} does not keep its policy {tls_policy}, and gets no mail for now: {reply}",
        &[Own(&host), Own(&policy.as_str()), Foreign(reply)],
    );
}

/// A recipient's lifetime ended before its next attempt.
pub fn expired(id: MessageId, recipient: &Address, last_reply: Option<&str>) {
    observe(&Seen::Expired { recipient, last_reply });
    let reply = said_or(last_reply.as_ref(), "none");
    line_of(id, Warn, "expired", "expired to=<{to}> last reply: {reply}", &[address(recipient), reply]);
}

/// A recipient was returned to the sender, as an operator asked (`postrider queue bounce`).
pub fn returned(id: MessageId, recipient: &Address, last_reply: Option<&str>) {
    observe(&Seen::Returned);
    let reply = said_or(last_reply.as_ref(), "none");
    line_of(id, Warn, "returned", "returned to=<{to}> last reply: {reply}", &[address(recipient), reply]);
}

/// A report (`kind`: bounce, delay warning or delivery report) was queued together with the outcome that caused it.
pub fn report_queued(id: MessageId, report: &NewMessage, kind: &str) {
    observe(&Seen::Reported(kind));
    let to = report.envelope.recipients.first().map(|recipient| recipient.address.as_ref());
    line_of(
        id,
        Info,
        "report_queued",
        "{kind} queued as {report_id} to=<{to}>",
        &[Own(&kind), Own(&report.id), Value::Address(to)],
    );
}

/// A report on TLS (RFC 8460) was queued: about this domain, on the day that began then.
pub fn tls_report_queued(id: MessageId, domain: &str, began: i64, to: &[Address]) {
    let to: Vec<&str> = to.iter().map(AsRef::as_ref).collect();
    line_of(
        id,
        Info,
        "tls_report_queued",
        "TLS report queued domain={domain} day={day}{to: to=<$>}",
        &[Own(&domain), Own(&day(began)), Addresses(&to)],
    );
}

/// The same, and a web server took it.
pub fn tls_report_posted(domain: &str, began: i64, uri: &str) {
    line(
        Info,
        "tls_report_posted",
        "TLS report posted domain={domain} day={day} uri={uri}",
        &[Own(&domain), Own(&day(began)), Foreign(&uri)],
    );
}

/// The same, and it is not tried again. `rua` is empty where the domain could not be asked.
pub fn tls_report_given_up(domain: &str, began: i64, rua: &str, why: &str) {
    let uri = if rua.is_empty() { Value::None("none") } else { Foreign(&rua) };
    line(
        Warn,
        "tls_report_given_up",
        "TLS report given up domain={domain} day={day} uri={uri} last reply: {reply}",
        &[Own(&domain), Own(&day(began)), uri, Foreign(&printable(why.as_bytes()))],
    );
}

/// A report was not written: the sender got as many in the last hour as `[delivery] bounces_per_sender` allows.
pub fn report_suppressed(id: MessageId, sender: &Address, kind: &str, this_hour: usize) {
    line_of(
        id,
        Warn,
        "report_suppressed",
        "{kind} to <{to}> suppressed ({this_hour} this hour), see [delivery] bounces_per_sender",
        &[Own(&kind), address(sender), Number(this_hour as i64)],
    );
}

/// One summary lists all reports to a sender that were suppressed.
pub fn summary_queued(id: MessageId, sender: &str, messages: u64, recipients: u64) {
    line_of(
        id,
        Warn,
        "summary_queued",
        "summary queued to=<{to}> messages={messages} recipients={recipients}",
        &[Value::Address(Some(sender)), Number(messages as i64), Number(recipients as i64)],
    );
}

/// Mail from the null sender could not be delivered, and nobody can be told (RFC 5321 §4.5.5).
pub fn dead_end(id: MessageId, recipient: &Address, last_reply: Option<&str>) {
    line_of(
        id,
        Warn,
        "dead_end",
        "mail from <> to <{to}> could not be delivered, nobody is told: {reply}",
        &[address(recipient), said_or(last_reply.as_ref(), "no answer")],
    );
}

/// A relay refuses our mail, and `remedy` says what may help. Not for each attempt: see
/// `delivery/host/relay_alerts.rs`.
pub fn relay_refuses(relay: &str, phase: Phase, reply: &Reply, remedy: &str) {
    line(
        Error,
        "relay_refuses",
        "relay {relay} does not take our mail (phase={phase} reply_source={reply_source}): {reply}; nothing bounces for \
         this, its mail waits and is tried again; {remedy}, then postrider queue kick --all",
        &[
            Own(&relay),
            Own(&phase.as_str()),
            Own(&reply.reply_source.as_str()),
            Foreign(reply),
            Foreign(&remedy),
        ],
    );
}

/// A relay that refused our mail takes it again.
pub fn relay_takes_mail(relay: &str) {
    line(Info, "relay_takes_mail", "relay {relay} takes our mail again", &[Own(&relay)]);
}

/// A destination failed, so its lane waits.
pub fn lane_backs_off(lane: &str, secs: i64, why: &str) {
    line(
        Warn,
        "lane_backs_off",
        "lane {lane} backs off for {secs} s: {reply}",
        &[Own(&lane), Number(secs), Foreign(&why)],
    );
}

/// A destination works again.
pub fn lane_recovered(lane: &str) {
    line(Info, "lane_recovered", "lane {lane} works again", &[Own(&lane)]);
}

/// What waits and what comes for a domain, of a user or with a tag is not tried until it is resumed.
pub fn suspended(row: &Suspension) {
    let Suspension { whose, until, reason, login, .. } = row;
    // A field without a space.
    let until = until.map(|until| utc(until).replace(' ', "T") + "Z");
    line(
        Info,
        "suspended",
        "suspended {kind} {value}: until={until} login={login}: {reason}",
        &[
            Own(&whose.kind()),
            Foreign(&whose.value()),
            until.as_ref().map_or(Value::None("none"), |until| Own(until)),
            Foreign(login),
            said_or(reason.as_deref().as_ref(), "-"),
        ],
    );
}

/// It goes on: somebody resumed it, or its time is over.
pub fn resumed(row: &Suspension, now: i64) {
    let why = if row.is_on(now) { "by an operator" } else { "its time is over" };
    line(
        Info,
        "resumed",
        "resumed {kind} {value}: {why}",
        &[Own(&row.whose.kind()), Foreign(&row.whose.value()), Own(&why)],
    );
}

/// A host said that it has too much of us and is given less, or more again since; none of both: as the config says.
pub fn host_limits(host: &str, connections: Option<usize>, per_minute: Option<u32>, signal: Option<&str>) {
    let (connections, per_minute) =
        (limit(connections.map(|count| count as i64)), limit(per_minute.map(i64::from)));
    match signal {
        Some(reply) => line(
            Warn,
            "host_throttled",
            "host {mx} throttled: connections={connections} messages_per_minute={messages_per_minute}: {reply}",
            &[Own(&host), connections, per_minute, Foreign(&reply)],
        ),
        None => line(
            Info,
            "host_unthrottled",
            "host {mx} unthrottled: connections={connections} messages_per_minute={messages_per_minute}",
            &[Own(&host), connections, per_minute],
        ),
    }
}

/// A host fails at a feature, which is left out there for so many seconds.
pub fn workaround_on(host: &str, setting: Setting, secs: i64, why: &Reply) {
    line(
        Warn,
        "workaround_on",
        "host {mx} workaround on: {setting}={value} for {secs} s: {reply}",
        &[Own(&host), Own(&setting.name()), Own(&setting.value()), Number(secs), Foreign(why)],
    );
}

/// The feature works there again.
pub fn workaround_off(host: &str, setting: Setting) {
    line(
        Info,
        "workaround_off",
        "host {mx} workaround off: {setting}={value}",
        &[Own(&host), Own(&setting.name()), Own(&setting.value())],
    );
}

/// A domain has a policy, or another one than before; `until` in Unix seconds.
pub fn sts_policy(domain: &str, mode: &str, id: &str, until: i64, hosts: &str) {
    line(
        Info,
        "sts_policy",
        "MTA-STS policy of {domain}: mode={mode} id={id} until {until} UTC: {hosts}",
        &[Own(&domain), Own(&mode), Own(&id), Own(&utc(until)), Own(&hosts)],
    );
}

/// A domain's policy could not be fetched; `holds` is the mode of the one before, and until when it is good.
pub fn sts_failed(domain: &str, holds: Option<(&str, i64)>, why: &str) {
    match holds {
        Some((mode, until)) => line(
            Warn,
            "sts_not_fetched",
            "MTA-STS policy of {domain} not fetched: the last one (mode={mode}) holds until {until} UTC: {reply}",
            &[Own(&domain), Own(&mode), Own(&utc(until)), Foreign(&why)],
        ),
        None => line(
            Warn,
            "sts_not_fetched",
            "MTA-STS policy of {domain} not fetched: its mail goes without one: {reply}",
            &[Own(&domain), Foreign(&why)],
        ),
    }
}

/// ETRN or the command line asked for attempts now.
pub fn kicked(what: &str, recipients: usize, by: &str) {
    line(
        Info,
        "kick",
        "kick {target}: {recipients} recipients due now, asked by {by}",
        &[Foreign(&what), Number(recipients as i64), Foreign(&by)],
    );
}

/// A user turned the connection round to fetch the mail of these domains (ATRN).
pub fn turned(user: &str, host: &str, client: IpAddr, domains: &str) {
    line(
        Info,
        "atrn",
        "atrn: {user} fetches {domains} to {mx}[{client}]",
        &[Foreign(&user), Own(&domains), Own(&host), Own(&client)],
    );
}

/// The end of an ATRN transfer; each message has a line of its own.
pub fn fetched(user: &str, messages: usize) {
    line(
        Info,
        "atrn_end",
        "atrn: {user} was offered {messages} messages",
        &[Foreign(&user), Number(messages as i64)],
    );
}

/// A client was disconnected, or refused before it could begin.
pub fn turned_away(client: Peer, why: &str) {
    observe(&Seen::TurnedAway);
    of_client(client, why);
}

/// A client could not log in, as a user or by a name that nobody has.
pub fn login_failed(client: Peer, whose: &str) {
    observe(&Seen::LoginFailed);
    of_client(client, &format!("authentication failed for {whose}"));
}

fn of_client(client: Peer, why: &str) {
    line(Warn, "turned_away", "client {client}: {why}", &[Own(&client), Foreign(&why)]);
}

/// A command of a transaction, or the content, was refused. Of a flood of refusals few lines are written.
pub fn refused(refused: &Refused<'_>, reply: &Reply) {
    static FLOOD: Flood = Flood::new(Duration::from_secs(60), 30);
    observe(&Seen::Refused(reply));
    let tell = |counted, last: &str| {
        line(
            Warn,
            "refused_more",
            "{count} more commands were refused within a minute, the last one: {last}",
            &[Number(counted as i64), Foreign(&last)],
        );
    };
    refusal(refused, reply, |event| event.shown(|event| FLOOD.write(event, Event::write, tell)));
}

/// Gives the line to `then`.
pub(crate) fn refusal(refused: &Refused<'_>, reply: &Reply, then: impl FnOnce(&Event<'_>)) {
    let Refused { client, user, verb, sender, recipient } = refused;
    let event = Event {
        level: Warn,
        target: module_path!(),
        name: "refused",
        queue_id: None,
        text: "refused {verb} client={client} user={user} from=<{from}> to=<{to}> reply={reply}",
        values: &[
            Own(verb),
            Own(client),
            said_or(user.as_ref(), "-"),
            Value::Address(*sender),
            Value::Address(*recipient),
            Foreign(reply),
        ],
    };
    then(&event);
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
    observe(&Seen::HandshakeFailed);
    let tell = |counted, last: &str| {
        line(
            Warn,
            "handshakes_failed_more",
            "{count} more TLS handshakes failed within a minute, the last one: {last}",
            &[Number(counted as i64), Foreign(&last)],
        );
    };
    failed_handshake(client, why, |event| event.shown(|event| FLOOD.write(event, Event::write, tell)));
}

/// Gives the line to `then`.
pub(crate) fn failed_handshake(client: Peer, why: &dyn fmt::Display, then: impl FnOnce(&Event<'_>)) {
    then(&Event {
        level: Warn,
        target: module_path!(),
        name: "handshake_failed",
        queue_id: None,
        text: "client {client}: TLS handshake failed: {why}",
        values: &[Own(&client), Foreign(&why)],
    });
}

#[cfg(test)]
mod tests;
