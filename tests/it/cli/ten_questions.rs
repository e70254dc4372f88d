//! The ten questions of an operator: what a command answers, its SELECT of docs/sql.md answers too.

use std::time::{Duration, SystemTime};

use postrider::config::QueueSettings;
use postrider::queue::Queue;
use serde_json::Value;

use crate::harness::relay::{Config, Relay};
use crate::harness::ten_questions::{Amounts, Question, ROUTE, fill, questions};

const AMOUNTS: Amounts = Amounts { waiting: 500, domains: 20, history: 500, days: 2 };

/// What both say of one question.
struct Answers {
    said: Vec<Value>,
    /// Each a row, its columns joined by `|`.
    rows: Vec<String>,
}

/// Text, a number, or nothing, as SQL shows it.
fn word(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// These fields of an object, as a row.
fn row(of: &Value, names: &[&str]) -> String {
    names.iter().map(|name| word(&of[*name])).collect::<Vec<_>>().join("|")
}

fn stage() -> (Relay, Vec<Question>) {
    let relay = Relay::prepare(Config::new().route(ROUTE));
    let path = relay.path("queue.db");
    let settings =
        QueueSettings { path: path.clone(), history: Duration::from_secs(30 * 86_400), litestream: false };
    let (_queue, writer) = Queue::open(&settings, crossbeam_channel::unbounded().0).unwrap();
    writer.stop().unwrap();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let ids = fill(&path, AMOUNTS, now as i64).unwrap();
    (relay, questions(&ids))
}

#[test]
fn each_has_a_command_and_a_select_that_say_the_same() {
    let (relay, asked) = stage();
    assert_eq!(asked.len(), 10, "{asked:?}");
    let answers: Vec<Answers> = asked
        .iter()
        .map(|question| {
            let command: Vec<&str> = question.command.iter().map(String::as_str).collect();
            let answers = Answers { said: relay.json(&command), rows: relay.db().rows(&question.select, []) };
            assert!(!answers.said.is_empty() && !answers.rows.is_empty(), "{}?", question.words);
            answers
        })
        .collect();
    let [why, when, who_said, left, who_sent, stuck, would, changed, full, refused] = &answers[..] else {
        panic!("{asked:?}")
    };
    of_one_message(why, who_said, left, who_sent);
    of_many(when, stuck, refused);
    of_all(would, changed, full);
}

fn of_one_message(why: &Answers, who_said: &Answers, left: &Answers, who_sent: &Answers) {
    let one = &why.said[0]["recipients"][0];
    let fields = ["recipient", "state", "next_attempt", "reply_source", "last_reply", "lane_reply"];
    assert_eq!(why.rows, [row(one, &fields) + "|"]);
    assert!(why.rows[0].contains("|451 4.7.1 7 later|421 4.3.2 d7.test is busy|"), "{:?}", why.rows);

    let one = &who_said.said[0]["recipients"][0];
    let tried = &one["tries"][0];
    let first = format!("{}|{}|", word(&tried["at"]), word(&one["recipient"]));
    let told = row(tried, &["outcome", "mx", "ip", "phase", "reply_source", "reply"]);
    let dialogue = who_said.said[0]["dialogues"][0]["dialogue"].as_str().unwrap();
    assert_eq!(who_said.rows, [format!("{first}{told}|{dialogue}")]);

    let one = &left.said[0]["recipients"][0];
    let fields = ["recipient", "state", "finished", "last_mx", "tls", "source_address", "last_reply"];
    assert_eq!(left.rows, [row(one, &fields)]);
    assert!(left.rows[0].contains("|TLSv1.3 verified|192.0.2.25|"), "{:?}", left.rows);

    let fields = ["sender", "user", "client", "helo", "received"];
    assert_eq!(who_sent.rows, [row(&who_sent.said[0]["message"], &fields)]);
    assert!(who_sent.rows[0].starts_with("app@sender.test|app|192.0.2.7|app.test|"), "{:?}", who_sent.rows);
}

fn of_many(when: &Answers, stuck: &Answers, refused: &Answers) {
    let said: Vec<String> =
        when.said.iter().map(|line| row(line, &["queue_id", "recipient", "next_attempt"])).collect();
    assert_eq!((when.rows.len(), &when.rows), ((AMOUNTS.waiting / AMOUNTS.domains) as usize, &said));

    // A line a message there, a row a recipient here; each message has one.
    let ids: Vec<String> = stuck.said.iter().map(|line| word(&line["of"])).collect();
    let rows: Vec<&str> = stuck.rows.iter().map(|row| row.split('|').next().unwrap()).collect();
    assert_eq!(rows, ids[..20], "{:?}", stuck.said[0]);

    let said: Vec<String> = refused
        .said
        .iter()
        .map(|line| {
            let codes = word(&line["reason"]);
            let codes: Vec<&str> = codes.split(' ').take(2).collect();
            format!("{}|{}", row(line, &["recipients", "reply_source"]), codes.join(" "))
        })
        .collect();
    let rows: Vec<&str> = refused.rows.iter().map(|row| row.rsplit_once('|').unwrap().0).collect();
    assert_eq!(rows, said);
    assert_eq!(rows[0], "500|remote|451 4.7.1");
}

fn of_all(would: &Answers, changed: &Answers, full: &Answers) {
    let said = if would.said[0].is_array() { &would.said[0][0] } else { &would.said[0] };
    let columns: Vec<&str> = would.rows[0].split('|').collect();
    let [lane, relay, failures, until, reply, suspended] = columns[..] else { panic!("{columns:?}") };
    assert_eq!((lane, relay, suspended), ("route:d7.test", "[127.0.0.1]:2525", ""));
    assert_eq!((&said["lane"], &said["endpoints"][0]["address"]), (&lane.into(), &"127.0.0.1:2525".into()));
    let words = word(&said["backs_off"]);
    assert!(failures == "3" && words.contains(until) && words.contains(reply), "{words}: {columns:?}");

    let total = &changed.said[0]["total"];
    let said = [("delivered", "delivered"), ("failed", "bounced"), ("deferred", "deferred")]
        .map(|(state, name)| format!("{state}|{}", total[name]));
    assert_eq!(changed.rows, said);
    assert!(changed.rows.iter().all(|row| !row.ends_with("|0")), "{said:?}");

    let (said, fill) = (&full.said[0], &full.said[0]["fill"]);
    let counted = row(said, &["messages", "recipients", "bytes"]);
    let pages = row(fill, &["database_bytes", "database_free_bytes"]);
    assert_eq!(full.rows, [format!("{counted}|{pages}|")]);
    let [free, all, reserve] =
        ["disk_free_bytes", "disk_bytes", "reserve_bytes"].map(|name| fill[name].as_u64());
    assert!(reserve > Some(0) && reserve < all && free <= all, "{fill}");
}
