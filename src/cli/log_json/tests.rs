//! Whatever the world sends, each line of the mail log is an object, and says the same as the line of text: the
//! template in the source, filled with the fields of the object, is the text.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;
use serde_json::{Map, Value};

use super::*;
use crate::cli::log_escape;
use crate::kit::event::kept;
use crate::mail::{
    Address, Attempt, Enhanced, Envelope, Labels, Outcome, Peer, Phase, Recipient, Reply, TlsPolicy, address,
};
use crate::maillog;
use crate::queue::{MessageId, NewMessage, Origin, Setting, Suspension, Whose};

/// Where the templates stand.
const SOURCE: &str = include_str!("../../maillog.rs");
/// Where the text has a word for none.
const NONE: [&str; 6] = ["-", "none", "all", "held", "local", "no answer"];

/// Names of events with the templates of their lines, in the order of the source.
fn templates() -> Vec<(String, String)> {
    let parts: Vec<&str> = SOURCE.split('"').collect();
    let called = parts.windows(4).filter(|four| {
        ["Info,", "Warn,", "Error,", "level,"].iter().any(|level| four[0].trim_end().ends_with(level))
            && four[2].trim() == ","
    });
    let literal = parts.windows(4).filter(|four| four[0].ends_with("name: ") && four[2].ends_with("text: "));
    let joined = |text: &str| text.split("\\\n").map(str::trim_start).collect::<String>();
    called.chain(literal).map(|four| (four[1].to_owned(), joined(four[3]))).collect()
}

/// Whether a text is this template with these fields.
fn is_filled(template: &str, fields: &Map<String, Value>, text: &str) -> bool {
    let Some((words, behind)) = template.split_once('{') else { return template == text };
    let Some(text) = text.strip_prefix(words) else { return false };
    let (place, template) = behind.split_once('}').unwrap();
    let (name, around) = place.split_once(':').unwrap_or((place, "$"));
    let goes_on = |value: &str| {
        let rest = text.strip_prefix(around.replace('$', value).as_str());
        rest.is_some_and(|rest| is_filled(template, fields, rest))
    };
    match fields.get(name) {
        None => is_filled(template, fields, text),
        Some(Value::Null) => NONE.iter().any(|word| goes_on(word)),
        Some(Value::Number(number)) => goes_on(&number.to_string()) || goes_on(&format!("{number}s")),
        Some(Value::String(value)) => {
            let several: String = value.split(' ').map(|one| around.replace('$', one)).collect();
            goes_on(value)
                || text.strip_prefix(several.as_str()).is_some_and(|rest| is_filled(template, fields, rest))
        }
        Some(_) => false,
    }
}

/// Checks a line of text and its object; gives the event's name.
fn check(line: &str) -> String {
    let (text, json) = line.split_once('\n').unwrap();
    assert!(json.ends_with("}\n") && json.matches('\n').count() == 1 && !json.contains('\r'), "{json:?}");
    let object: Map<String, Value> = serde_json::from_str(json).unwrap();
    let name = object["event"].as_str().unwrap();
    assert_eq!(object["time"], "1970-01-01T00:00:00.000Z");
    assert!(["INFO", "WARN", "ERROR"].contains(&object["level"].as_str().unwrap()), "{json}");
    assert_eq!(object["message"].as_str().unwrap(), text);
    let text = match object.get("queue_id") {
        Some(id) => text.strip_prefix(&format!("{}: ", id.as_str().unwrap())).unwrap(),
        None => text,
    };
    let fields = object["fields"].as_object().unwrap();
    let of_it = templates().into_iter().filter(|(known, _)| known == name);
    assert!(of_it.clone().any(|(_, template)| is_filled(&template, fields, text)), "{text:?}\n{json}");
    name.to_owned()
}

/// What came from somewhere.
#[derive(Debug, Clone)]
struct World {
    words: Vec<String>,
    number: u32,
    outcome: Outcome,
    policy: TlsPolicy,
    setting: Setting,
    to: Address,
    ip: IpAddr,
    some: bool,
}

fn world() -> impl Strategy<Value = World> {
    let word = prop_oneof![any::<String>(), "[\\PC\"\\\\{}$\n\r\t\u{202e}\u{2028}]{0,40}", "[a-z]{1,9}"];
    let address = prop_oneof![
        Just("you@b.test"),
        Just("\"a> \\\" {x} b\"@b.test"),
        Just("j\u{f6}rg+\u{4f8b}@[192.0.2.1]")
    ];
    let outcome = prop_oneof![
        Just(Outcome::Delivered),
        Just(Outcome::Relayed),
        Just(Outcome::Deferred),
        Just(Outcome::Failed),
        Just(Outcome::Expired),
        Just(Outcome::InDoubt)
    ];
    let policy = prop_oneof![Just(TlsPolicy::None), Just(TlsPolicy::Dane), Just(TlsPolicy::StsEnforce)];
    let setting = prop_oneof![
        Just(Setting::Plaintext),
        Just(Setting::NoReuse),
        any::<u32>().prop_map(Setting::MessagesPerMinute)
    ];
    let (ip, words) = (any::<IpAddr>(), prop::collection::vec(word, 6));
    (words, any::<u32>(), outcome, policy, setting, address, ip, any::<bool>()).prop_map(
        |(words, number, outcome, policy, setting, to, ip, some)| World {
            words,
            number,
            outcome,
            policy,
            setting,
            to: address::parse(to).unwrap(),
            ip,
            some,
        },
    )
}

impl World {
    fn suspension(&self) -> Suspension {
        let [a, b, c] = [0, 1, 2].map(|at| self.words[at].clone());
        let whose = if self.some { Whose::User(a) } else { Whose::Tag(a) };
        let until = self.maybe(self.number.into());
        Suspension { whose, since: 0, until, reason: self.maybe(b), login: c }
    }

    fn maybe<T>(&self, value: T) -> Option<T> {
        self.some.then_some(value)
    }

    fn reply(&self) -> Reply {
        let enhanced = self.maybe(Enhanced(5, 7, 1));
        Reply { enhanced, ..Reply::bare(550, "").with_text(self.words[0].clone()) }
    }

    fn message(&self) -> NewMessage {
        let client = if self.number.is_multiple_of(2) { Peer::Ip(self.ip) } else { Peer::Unix(self.number) };
        NewMessage {
            id: MessageId(i64::from(self.number)),
            envelope: Envelope {
                sender: self.maybe(self.to.clone()),
                recipients: vec![Recipient::new(self.to.clone())],
                ..Envelope::default()
            },
            origin: Origin {
                user: self.maybe(self.words[1].clone()),
                client: self.maybe(client),
                helo: None,
            },
            labels: Labels {
                message_id: self.maybe(self.words[2].clone()),
                subject: self.maybe(self.words[3].clone()),
                tag: self.maybe(self.words[4].clone()),
            },
            received_at: 0,
            expires_at: None,
            size: u64::from(self.number),
            tail: Vec::new(),
            chunks_before: 0,
        }
    }

    fn attempt(&self) -> Attempt {
        Attempt {
            at: 0,
            duration_ms: u64::from(self.number),
            mx: self.maybe(self.words[1].clone()),
            ip: self.maybe(self.ip),
            source: None,
            tls: self.maybe(self.words[2].clone()),
            tls_policy: self.policy,
            dkim: self.maybe(self.words[3].as_str().into()),
            phase: Phase::Rcpt,
            reply: self.reply(),
            outcome: self.outcome,
        }
    }

    /// Every line of the mail log about it, but those that tell of a flood.
    fn log(&self) {
        let (id, to, reply) = (MessageId(i64::from(self.number)), &self.to, &self.reply());
        let [a, b, c, ..] = self.words.as_slice() else { unreachable!() };
        let said = self.maybe(c.as_str());
        let secs = i64::from(self.number);
        let count = self.number as usize;
        maillog::accepted(&self.message());
        maillog::attempted(id, None, to, &self.attempt(), self.maybe(secs));
        maillog::refused_by_policy(&self.attempt(), count, secs as u64, b);
        maillog::ruled(id, to, count, a);
        maillog::host_trouble(id, a, SocketAddr::new(self.ip, 25), Phase::Ehlo, reply);
        maillog::unsafe_host(id, a, self.policy, reply);
        maillog::expired(id, to, said);
        maillog::returned(id, to, said);
        maillog::report_queued(id, &self.message(), a);
        maillog::tls_report_queued(id, a, secs, &vec![to.clone(); count % 3 + 1]);
        maillog::tls_report_posted(a, secs, b);
        maillog::tls_report_given_up(a, secs, if self.some { "" } else { b }, c);
        maillog::report_suppressed(id, to, a, count);
        maillog::summary_queued(id, a, secs as u64, secs as u64);
        maillog::dead_end(id, to, said);
        maillog::relay_refuses(a, Phase::Auth, reply, b);
        maillog::relay_takes_mail(a);
        maillog::lane_backs_off(a, secs, b);
        maillog::lane_recovered(a);
        let suspension = self.suspension();
        maillog::suspended(&suspension);
        maillog::resumed(&suspension, secs);
        maillog::host_limits(a, self.maybe(count), self.maybe(self.number), Some(b));
        maillog::host_limits(a, self.maybe(count), self.maybe(self.number), None);
        maillog::workaround_on(a, self.setting, secs, reply);
        maillog::workaround_off(a, self.setting);
        maillog::sts_policy(a, b, c, secs, b);
        maillog::sts_failed(a, self.maybe((b, secs)), c);
        maillog::kicked(a, count, b);
        maillog::turned(a, b, self.ip, c);
        maillog::fetched(a, count);
        maillog::turned_away(Peer::Ip(self.ip), a);
        let who = maillog::Refused {
            client: Peer::Ip(self.ip),
            user: said,
            verb: a,
            sender: Some(b),
            recipient: said,
        };
        maillog::refusal(&who, reply, |event| event.log());
        maillog::failed_handshake(Peer::Ip(self.ip), a, |event| event.log());
    }
}

fn lines(by: impl FnOnce()) -> Vec<String> {
    let render = |record: &Record<'_>| {
        let mut line = Vec::new();
        log_escape::shown(record, |record| {
            line.extend_from_slice(format!("{}\n", record.args()).as_bytes());
            write(&mut line, Timestamp::UNIX_EPOCH, record).unwrap();
        });
        String::from_utf8(line).unwrap()
    };
    kept::written(render, by)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn text_and_object_say_the_same(world in world()) {
        lines(|| world.log()).iter().for_each(|line| drop(check(line)));
    }

    #[test]
    fn a_line_of_any_room_is_an_object(text in any::<String>()) {
        let lines = lines(|| log::warn!(queue_id:% = text; "said {text}"));
        let (shown, json) = lines[0].split_once('\n').unwrap();
        let object: Map<String, Value> = serde_json::from_str(json).unwrap();
        prop_assert_eq!(object.keys().collect::<Vec<_>>(), ["level", "message", "queue_id", "target", "time"]);
        prop_assert_eq!(object["message"].as_str().unwrap(), shown);
        prop_assert_eq!(object["target"].as_str().unwrap(), module_path!());
        prop_assert_eq!(json.matches('\n').count(), 1);
    }
}

/// No event is left out above: the few that tell of floods apart.
#[test]
fn every_event_is_among_them() {
    let world = World {
        words: ["a", "b", "c", "d", "e", "f"].map(str::to_owned).to_vec(),
        number: 2,
        outcome: Outcome::Deferred,
        policy: TlsPolicy::None,
        setting: Setting::NoReuse,
        to: address::parse("you@b.test").unwrap(),
        ip: [192, 0, 2, 1].into(),
        some: true,
    };
    let seen: BTreeSet<String> = lines(|| world.log()).iter().map(|line| check(line)).collect();
    let named: BTreeSet<String> = templates().into_iter().map(|(name, _)| name).collect();
    let missing: Vec<&String> = named.difference(&seen).filter(|name| !name.ends_with("_more")).collect();
    assert!(missing.is_empty() && named.len() > 25, "{missing:?}");
}
