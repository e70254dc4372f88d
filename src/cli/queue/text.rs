//! What `postrider queue` prints for people: aligned tables, times in UTC.
//!
//! What hosts and clients said is printed with its control characters escaped, so that no reply can write on
//! the operator's terminal.

use std::fmt::Write as _;

use super::{more, suspend};
use crate::cli::table::{Look, table};
use crate::kit::text::{printable, utc};
use crate::mail::mark_of;
use crate::queue::admin::{
    DialogueLine, End, Envelope, FailureLine, Fill, FinishedMessage, HeldCount, KickLine, Line, OldestLine,
    OperatorLine, Shown, ShownLabels, ShownRecipient, StoryLine, Summary, Try,
};

/// What has been due for longer waits for something: a turn, a slot, or the relay to be started.
const LATE_SECS: i64 = 10;

/// Recipients that are named where a dialogue was for many.
const RECIPIENTS_NAMED: usize = 5;

/// `now`: Unix seconds.
pub(super) fn list(lines: &[Line], now: i64, look: Look) -> String {
    if lines.is_empty() {
        return "nothing\n".to_owned();
    }
    // What `find` finds is both: each has its own columns.
    let (finished, waiting): (Vec<&Line>, Vec<&Line>) =
        lines.iter().partition(|line| line.finished.is_some());
    let waiting = if waiting.is_empty() { String::new() } else { list_of_waiting(&waiting, now, look) };
    waiting + &if finished.is_empty() { String::new() } else { list_of_finished(&finished, look) }
}

/// When each is tried next, and why it was not delivered yet.
fn list_of_waiting(lines: &[&Line], now: i64, look: Look) -> String {
    let rows = lines.iter().map(|line| {
        vec![
            line.queue_id.clone(),
            age(line.age),
            line.size.to_string(),
            line.state.clone(),
            line.attempts.to_string(),
            line.next_attempt.as_deref().map_or_else(|| "-".to_owned(), |next| next_in(next, now)),
            format!("<{}>", line.sender),
            line.recipient.clone(),
            reply_words(line),
        ]
    });
    let head = ["ID", "AGE", "SIZE", "STATE", "TRIES", "NEXT", "SENDER", "RECIPIENT", "LAST REPLY"];
    let mut text = table(look, &head, rows.collect());
    let late = utc(now - LATE_SECS);
    if lines.iter().any(|line| line.next_attempt.as_ref().is_some_and(|next| *next < late)) {
        text += "(some are due but waiting for a free connection: `postrider queue summary` shows the limits of hosts, \
                 `postrider explain ADDRESS` those of one address)\n";
    }
    if lines.iter().any(|line| line.next_attempt.as_deref() == Some("suspended")) {
        text += "(some are suspended: `postrider queue suspensions` says until when and why)\n";
    }
    text
}

/// When each was finished, and which host said the last word.
fn list_of_finished(lines: &[&Line], look: Look) -> String {
    let rows = lines.iter().map(|line| {
        vec![
            line.queue_id.clone(),
            or_dash(&line.finished),
            age(line.age),
            line.size.to_string(),
            line.state.clone(),
            line.attempts.to_string(),
            format!("<{}>", line.sender),
            line.recipient.clone(),
            or_dash(&line.last_mx),
            reply_words(line),
        ]
    });
    let head = [
        "ID",
        "FINISHED (UTC)",
        "TOOK",
        "SIZE",
        "STATE",
        "TRIES",
        "SENDER",
        "RECIPIENT",
        "HOST",
        "LAST REPLY",
    ];
    table(look, &head, rows.collect())
}

/// What is known of a message that is all finished.
fn finished(message: &FinishedMessage) -> [(&'static str, String); 5] {
    [
        ("sender", format!("<{}>", message.sender)),
        ("user", or_dash(&message.user)),
        ("client", or_dash(&message.client)),
        ("received", format!("{} UTC", message.received)),
        ("size", format!("{} bytes", message.size)),
    ]
}

/// What was said of it, or else of its destination.
fn reply_words(line: &Line) -> String {
    let said = match (&line.last_reply, &line.lane_reply) {
        (Some(reply), _) => format!("{}{reply}", mark_of(line.reply_source.as_deref().unwrap_or_default())),
        (None, Some(reply)) => format!("(its destination) {reply}"),
        (None, None) => String::new(),
    };
    line.held().map_or(said.clone(), |held| format!("({held}) {said}").trim_end().to_owned())
}

/// `now`: Unix seconds.
pub(super) fn show(shown: &Shown, now: i64) -> String {
    let (now, mut text) = (utc(now), format!("message {}\n", shown.queue_id));
    let mut field = |name: &str, value: &str| {
        let _ = writeln!(text, "  {name:<10} {}", printable(value.as_bytes()));
    };
    match &shown.message {
        Some(message) => {
            field("sender", &format!("<{}>", message.sender));
            field("user", message.user.as_deref().unwrap_or("-"));
            field("client", message.client.as_deref().unwrap_or("-"));
            field("helo", message.helo.as_deref().unwrap_or("-"));
            field("received", &format!("{} UTC", message.received));
            field("expires", &format!("{} UTC", or_dash(&message.expires)));
            field("size", &format!("{} bytes, {}", message.size, message.body));
            if message.priority != 0 {
                field("priority", &message.priority.to_string());
            }
            if let Some(demand) = tls_demand(message) {
                field("tls", demand);
            }
            if let Some(release) = &message.release {
                field("release", &format!("{release} UTC"));
            }
            if let Some(by) = &message.deliver_by {
                let mode = message.deliver_by_mode.as_deref().unwrap_or_default();
                field("deliver by", &format!("{by} UTC, {}", deliver_by_words(mode)));
            }
        }
        None => field("state", "finished"),
    }
    if let Some(message) = &shown.finished {
        finished(message).iter().for_each(|(name, value)| field(name, value));
    }
    let labels = shown.message.as_ref().map(|message| &message.labels);
    if let Some(labels) = labels.or(shown.finished.as_ref().map(|message| &message.labels)) {
        label_fields(labels).for_each(|(name, value)| field(name, &value));
    }
    shown.recipients.iter().for_each(|one| text += &recipient(one, &now));
    text += &story(&shown.story);
    if let Some(header) = &shown.header {
        text += "header\n";
        for line in header.lines() {
            // What folds a line may be a tab (RFC 5322 §2.2.2).
            let _ = writeln!(text, "  {}", printable(line.replace('\t', " ").as_bytes()));
        }
    }
    text
}

/// A recipient with its tries.
fn recipient(ShownRecipient { line, end, suspended, tries }: &ShownRecipient, now: &str) -> String {
    let mut text = String::new();
    let next = line.next_attempt.as_deref().map_or_else(String::new, |next| next_words(next, line, now));
    let _ = writeln!(text, "recipient {}: {}{next}", printable(line.recipient.as_bytes()), line.state);
    if let Some(end) = end {
        let _ = writeln!(text, "  {}", end_words(end));
    }
    for one in suspended {
        let _ = writeln!(text, "  suspended: {}", printable(one.words().as_bytes()));
    }
    if let Some(reply) = &line.last_reply {
        let whose = mark_of(line.reply_source.as_deref().unwrap_or_default());
        let _ = writeln!(text, "  last reply: {whose}{}", printable(reply.as_bytes()));
    }
    if let Some(reply) = &line.lane_reply {
        let _ = writeln!(text, "  its destination: {}", printable(reply.as_bytes()));
    }
    let rows = tries.iter().map(|one| {
        let host = one.mx.as_deref().unwrap_or("-");
        let ip = one.ip.as_ref().map_or_else(String::new, |ip| format!("[{ip}]"));
        vec![
            format!("  {}", one.at),
            format!("{} ms", one.duration_ms),
            format!("{host}{ip}"),
            tls_words(one) + &dkim_words(one),
            one.phase.clone(),
            one.outcome.clone(),
            if one.reply_source == "remote" { one.reply.clone() } else { format!("(local) {}", one.reply) },
        ]
    });
    text += &table(Look::default(), &[], rows.collect());
    text
}

/// What it can be found by.
fn label_fields(labels: &ShownLabels) -> impl Iterator<Item = (&'static str, String)> {
    let id = labels.header_message_id.as_ref().map(|id| format!("<{id}>"));
    [("message-id", id), ("subject", labels.subject.clone()), ("tag", labels.tag.clone())]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
}

/// When it was finished, by whom, and how it left.
fn end_words(end: &End) -> String {
    let mut words = format!("finished {} UTC", end.finished);
    if end.finished_by.as_deref() == Some("operator") {
        words += " by an operator";
    }
    for (name, value) in [("from", &end.source_address), ("tls", &end.tls)] {
        if let Some(value) = value {
            let _ = write!(words, ", {name} {}", printable(value.as_bytes()));
        }
    }
    words
}

/// What happened, in order of time.
fn story(lines: &[StoryLine]) -> String {
    let rows = lines.iter().map(|line| {
        let whom = line.recipient.clone().unwrap_or_default();
        vec![format!("  {}", line.at), line.what.clone(), whom, line.words.clone()]
    });
    format!("what happened (UTC)\n{}", table(Look::default(), &[], rows.collect()))
}

/// What was said in the last failed attempts.
pub(super) fn dialogues(lines: &[DialogueLine]) -> String {
    if lines.is_empty() {
        return "dialogue: none is kept of a failed attempt\n".to_owned();
    }
    let mut text = String::new();
    for DialogueLine { at, recipients, dialogue, later } in lines {
        let whom = recipients.iter().take(RECIPIENTS_NAMED).map(|one| printable(one.as_bytes()));
        let whom = whom.collect::<Vec<_>>().join(", ");
        let more = match recipients.len().saturating_sub(RECIPIENTS_NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let which = if later.is_some() { "an earlier" } else { "the last" };
        let _ = writeln!(text, "dialogue of {which} failed attempt, {at} UTC, for {whom}{more}");
        if let Some(later) = later {
            let _ = writeln!(text, "  (the last failed without one: {})", printable(later.as_bytes()));
        }
        for line in dialogue.lines() {
            let _ = writeln!(text, "  {}", printable(line.as_bytes()));
        }
    }
    text
}

/// What the sender wants of TLS.
fn tls_demand(message: &Envelope) -> Option<&'static str> {
    match (message.require_tls, message.tls_optional) {
        (true, _) => Some("required all the way (REQUIRETLS)"),
        (false, true) => Some("no policy of a destination stops it (TLS-Required: No)"),
        (false, false) => None,
    }
}

/// What TLS was, and which policy asked for it.
fn tls_words(one: &Try) -> String {
    let tls = one.tls.as_deref().unwrap_or("-");
    match one.tls_policy.as_str() {
        "none" => format!("tls {tls}"),
        policy => format!("tls {tls} (policy {policy})"),
    }
}

/// Whose signatures it had.
fn dkim_words(one: &Try) -> String {
    let keys = one.dkim.as_deref().map(|keys| keys.replace(',', ", "));
    keys.map_or_else(String::new, |keys| format!(", signed by {}", printable(keys.as_bytes())))
}

/// When it goes, and what it waits for where that time has come.
fn next_words(next: &str, line: &Line, now: &str) -> String {
    match next {
        "held" => format!(
            "; {}; not tried until `postrider queue release`",
            printable(line.held().unwrap_or_default().as_bytes())
        ),
        "bounce" => ", to be returned to the sender".to_owned(),
        "ATRN" => ", until it is fetched".to_owned(),
        "suspended" => ", suspended".to_owned(),
        due if due <= now => {
            let address = printable(line.recipient.as_bytes());
            format!(
                ", due since {due} UTC but waiting for a free connection; `postrider explain {address}` shows the limit"
            )
        }
        later => format!(", next try {later} UTC"),
    }
}

/// RFC 2852 §4: what happens when the time is over.
fn deliver_by_words(mode: &str) -> &'static str {
    match mode {
        "R" => "or return it",
        "RT" => "or return it; each hop reports",
        "NT" => "or tell the sender; each hop reports",
        _ => "or tell the sender",
    }
}

/// How many wait, and for what.
fn counts(summary: &Summary) -> String {
    let Summary { messages, bytes, recipients, held, due, backing_off, to_fetch, suspended, .. } = summary;
    let mut text = format!(
        "{messages} messages ({bytes} bytes), {recipients} recipients: {due} due, {held} held{}, {} later",
        HeldCount::all_words(&summary.held_by),
        recipients - due - held - backing_off - to_fetch - suspended
    );
    for (count, words) in [
        (backing_off, "where the destination backs off"),
        (to_fetch, "to be fetched"),
        (suspended, "suspended"),
    ] {
        if *count > 0 {
            let _ = write!(text, ", {count} {words}");
        }
    }
    text + "\n"
}

/// How full database and disk are.
pub(in crate::cli) fn full(fill: &Fill) -> String {
    format!(
        "database {}, disk {} of {} free; new mail is refused below {}",
        size(fill.database_bytes),
        size(fill.disk_free_bytes),
        size(fill.disk_bytes),
        size(fill.reserve_bytes)
    )
}

/// `0.9 MiB`, `37.0 GiB`.
fn size(bytes: u64) -> String {
    let (unit, name) = if bytes < 1 << 30 { (1_u64 << 20, "MiB") } else { (1 << 30, "GiB") };
    format!("{:.1} {name}", bytes as f64 / unit as f64)
}

pub(super) fn summary(summary: &Summary, look: Look) -> String {
    let Summary { domains, hosts, lanes, kicks_last_hour, new_mail_refused, fill, .. } = summary;
    let mut text = counts(summary);
    if let Some(fill) = fill {
        let _ = writeln!(text, "{}", full(fill));
    }
    if let Some(why) = new_mail_refused {
        let words = format!("NEW MAIL IS REFUSED (452): {}", printable(why.as_bytes()));
        let _ = writeln!(text, "{}", look.alarm(&words));
    }
    if !summary.suspensions.is_empty() {
        text += &suspend::list(&summary.suspensions, look);
        text += &more(summary.suspensions.len(), summary.suspensions_total);
    }
    if !domains.is_empty() {
        let rows = domains.iter().map(|line| {
            let counts = [
                line.total,
                line.under_5m,
                line.under_1h,
                line.under_6h,
                line.under_1d,
                line.older,
                line.held,
            ];
            let next = or_dash(&line.next_attempt);
            std::iter::once(line.domain.clone())
                .chain(counts.map(|count| count.to_string()))
                .chain([next])
                .collect()
        });
        let head = ["DOMAIN", "TOTAL", "<5m", "<1h", "<6h", "<1d", "OLDER", "HELD", "NEXT (UTC)"];
        text += &table(look, &head, rows.collect());
        text += &more(domains.len(), summary.domains_total);
    }
    if !lanes.is_empty() {
        let rows = lanes.iter().map(|line| {
            vec![line.lane.clone(), line.failures.to_string(), line.until.clone(), line.last_reply.clone()]
        });
        text += "destinations that are backing off:\n";
        text += &table(look, &["LANE", "FAILURES", "UNTIL (UTC)", "SAID"], rows.collect());
        text += &more(lanes.len(), summary.lanes_total);
    }
    if !hosts.is_empty() {
        let rows = hosts.iter().map(|line| {
            let which = format!("{}={}", line.setting, line.value);
            let reply = line.last_reply.clone().unwrap_or_default();
            vec![line.mx.clone(), which, or_dash(&line.changed), or_dash(&line.retry), reply]
        });
        text += "hosts with limits, or with which a feature does not work, for now:\n";
        text += &table(look, &["HOST", "SETTING", "SINCE (UTC)", "UNTIL (UTC)", "SAID"], rows.collect());
        text += &more(hosts.len(), summary.hosts_total);
    }
    if *kicks_last_hour > 0 {
        let plural = if *kicks_last_hour == 1 { "" } else { "s" };
        let _ = writeln!(
            text,
            "{kicks_last_hour} kick{plural} in the last hour; `postrider queue kicks` shows them"
        );
    }
    text
}

pub(super) fn failures(lines: &[FailureLine], look: Look) -> String {
    if lines.is_empty() {
        return "nothing\n".to_owned();
    }
    let rows = lines.iter().map(|line| {
        let local = if line.reply_source == "local" { "(local) " } else { "" };
        let counts = [line.recipients, line.waiting, line.failed, line.hosts as i64, line.senders as i64];
        let words = [line.queue_id.clone(), format!("{local}{}", line.reason)];
        counts.iter().map(i64::to_string).chain(words).collect()
    });
    let head = ["RECIPIENTS", "WAITING", "FAILED", "HOSTS", "SENDERS", "EXAMPLE", "REASON"];
    table(look, &head, rows.collect())
}

pub(super) fn oldest(lines: &[OldestLine], look: Look) -> String {
    if lines.is_empty() {
        return "nothing\n".to_owned();
    }
    let is_by_lane = lines.iter().all(|line| line.sender.is_none());
    let are_suspended = lines.iter().any(|line| line.suspended > 0);
    let rows = lines.iter().map(|line| {
        let sender = line.sender.iter().map(|sender| format!("<{sender}>"));
        let of = [line.of.clone(), age(line.age), line.recipients.to_string()];
        let suspended = Some(line.suspended.to_string()).filter(|_| are_suspended);
        of.into_iter()
            .chain(suspended)
            .chain(sender)
            .chain([line.last_reply.clone().unwrap_or_default()])
            .collect()
    });
    let mut head = match is_by_lane {
        true => vec!["LANE", "OLDEST", "RECIPIENTS", "LAST REPLY"],
        false => vec!["ID", "AGE", "RECIPIENTS", "SENDER", "LAST REPLY"],
    };
    if are_suspended {
        head.insert(3, "SUSPENDED");
    }
    table(look, &head, rows.collect())
}

pub(super) fn kicks(kicks: &[KickLine], look: Look) -> String {
    if kicks.is_empty() {
        return "none\n".to_owned();
    }
    let rows = kicks.iter().map(|kick| {
        let client = kick.client.clone().unwrap_or_else(|| "queue kick".to_owned());
        let who = or_dash(if kick.user.is_some() { &kick.user } else { &kick.login });
        vec![kick.at.clone(), kick.node.clone(), kick.recipients.to_string(), who, client]
    });
    table(look, &["AT (UTC)", "FOR", "RECIPIENTS", "BY", "CLIENT"], rows.collect())
}

pub(super) fn operator_log(lines: &[OperatorLine], look: Look) -> String {
    if lines.is_empty() {
        return "nothing was changed\n".to_owned();
    }
    let rows = lines.iter().map(|line| {
        let so_far = if line.is_under_way { " so far" } else { "" };
        vec![
            line.at.clone(),
            format!("{} (uid {})", line.login, line.uid),
            line.action.clone(),
            format!("{}{so_far}", line.count),
            line.target.clone(),
            or_dash(&line.reason),
        ]
    });
    table(look, &["AT (UTC)", "BY", "DID", "COUNT", "FOR", "REASON"], rows.collect())
}

fn or_dash(text: &Option<String>) -> String {
    text.clone().unwrap_or_else(|| "-".to_owned())
}

/// When it goes, from now; what is no time stays.
fn next_in(next: &str, now: i64) -> String {
    let time = next.parse::<jiff::civil::DateTime>().and_then(|time| time.to_zoned(jiff::tz::TimeZone::UTC));
    match time.map(|time| time.timestamp().as_second() - now) {
        Ok(secs @ 1..) => format!("in {}", age(secs)),
        Ok(_) => "now".to_owned(),
        Err(_) => next.to_owned(),
    }
}

/// `59s`, `59m`, `23h`, `5d`.
pub(in crate::cli) fn age(secs: i64) -> String {
    match secs {
        ..60 => format!("{}s", secs.max(0)),
        60..3600 => format!("{}m", secs / 60),
        3600..86400 => format!("{}h", secs / 3600),
        _ => format!("{}d", secs / 86400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recipient_says_when_it_goes_or_what_it_waits_for() {
        let line = Line {
            queue_id: "01MB1Z4QK3R".to_owned(),
            sender: String::new(),
            recipient: "you@a.test".to_owned(),
            state: "queued".to_owned(),
            attempts: 0,
            next_attempt: None,
            last_reply: None,
            lane_reply: None,
            last_mx: None,
            reply_source: None,
            received: String::new(),
            age: 0,
            finished: None,
            size: 0,
            held_by: None,
            held_reason: None,
            id: 0,
        };
        let words = |next| next_words(next, &line, "2026-01-01 00:00:00");
        assert_eq!(words("2026-01-01 00:00:01"), ", next try 2026-01-01 00:00:01 UTC");
        assert!(
            words("2026-01-01 00:00:00")
                .contains("due since 2026-01-01 00:00:00 UTC but waiting for a free connection; `postrider explain you@a.test`")
        );
        let held = Line {
            held_by: Some("operator".to_owned()),
            held_reason: Some("ann: full".to_owned()),
            ..line.clone()
        };
        assert_eq!(
            next_words("held", &held, ""),
            "; held by ann: full; not tried until `postrider queue release`"
        );
        let listed = |next: &str| {
            list(
                &[Line { next_attempt: Some(next.to_owned()), ..line.clone() }],
                1_767_300_000,
                Look::default(),
            )
        };
        assert!(listed("2026-01-01 00:00:00").contains("some are due"));
        for later in ["9999-01-01 00:00:00", "held", "ATRN", "bounce"] {
            assert!(!listed(later).contains("some are due"), "{later}");
        }
        for (next, wanted) in [
            ("2026-01-01 20:40:00", "now"),
            ("2026-01-01 20:39:59", "now"),
            ("2026-01-01 20:40:01", "in 1s"),
            ("2026-01-02 08:40:00", "in 12h"),
            ("ATRN", "ATRN"),
        ] {
            assert_eq!(next_in(next, 1_767_300_000), wanted, "{next}");
        }
    }

    /// RFC 5322 §2.2.2: a tab may fold a line.
    #[test]
    fn a_folded_line_of_the_header_goes_on_behind_a_blank() {
        let header = Some("Received: from a.test\n\tby b.test\nSubject: \x1b[2J".to_owned());
        let (queue_id, story) = ("01MB1Z4QK3R".to_owned(), Vec::new());
        let shown = Shown { queue_id, message: None, finished: None, recipients: Vec::new(), story, header };
        let text = show(&shown, 0);
        assert!(text.ends_with("  Received: from a.test\n   by b.test\n  Subject: \\x1B[2J\n"), "{text}");
    }

    #[test]
    fn it_is_told_how_full_it_is() {
        let mib = 1 << 20;
        let fill = Fill {
            database_bytes: mib * 9 / 10,
            database_free_bytes: 0,
            disk_free_bytes: 37_888 * mib,
            disk_bytes: 100 * 1024 * mib,
            reserve_bytes: 64 * mib,
        };
        let told = "database 0.9 MiB, disk 37.0 GiB of 100.0 GiB free; new mail is refused below 64.0 MiB";
        assert_eq!(full(&fill), told);
    }
}
