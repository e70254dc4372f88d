//! How long an operator waits for an answer: of a long history, of the ten questions, and of a long queue.
//!
//! `cargo bench --bench operator`, on the file system of `target/`. Optional arguments: rows of the long history
//! (1,000,000), days over which they came (7), recipients of the long queue (1,000,000). `PARTS=history,ten,queue`
//! picks. Ends with an error where mail takes 50 ms to be found in the long history, a report of 50,000 recipients
//! 200 ms, one of the ten questions (docs/sql.md; 50,000 wait and 50,000 are in history) 200 ms by its command or by
//! its SELECT, or the status page of the long queue 100 ms.

#[allow(dead_code, reason = "what other benches use")]
#[path = "relay/load.rs"]
mod load;
#[allow(dead_code, reason = "the same")]
#[path = "relay/peer.rs"]
mod peer;
#[allow(dead_code, reason = "the same")]
#[path = "relay/process.rs"]
mod process;
#[allow(dead_code, reason = "the same")]
#[path = "relay/sink.rs"]
mod sink;
#[allow(dead_code, reason = "the same")]
#[path = "relay/stream.rs"]
mod stream;
#[path = "../tests/it/harness/ten_questions.rs"]
mod ten_questions;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use postrider::config::QueueSettings;
use postrider::queue::admin::{Admin, Filter, GroupBy, Wanted};
use postrider::queue::{MessageId, Queue};
use rusqlite::{Connection, OpenFlags};

use load::Load;
use sink::Sink;
use ten_questions::{Amounts, Question, ROUTE, fill, questions};

const WAITING: i64 = 50_000;
const DOMAINS: i64 = 500;
/// Domains in which the long queue waits.
const LANES: i64 = 10_000;
const DAY_SECS: i64 = 86_400;
/// How often each is asked: the median counts.
const TIMES: usize = 5;
/// What one of the ten questions may take.
const ANSWER_MS_MAX: u128 = 200;
/// What the status page may take.
const PAGE_MS_MAX: u128 = 100;
/// Past this something stands still.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() {
    let numbers: Vec<i64> = std::env::args().filter_map(|word| word.parse().ok()).collect();
    let number = |at: usize, default| numbers.get(at).copied().unwrap_or(default);
    let (rows, days, waiting) = (number(0, 1_000_000), number(1, 7), number(2, 1_000_000));
    let parts = std::env::var("PARTS").unwrap_or_else(|_| "history,ten,queue".to_owned());
    let now =
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
    let mut asked = Asked::default();
    for part in parts.split(',') {
        match part {
            "history" => ask_history(rows, days, now, &mut asked),
            "ten" => ask_ten(now, &mut asked),
            "queue" => ask_queue(waiting, now, &mut asked),
            other => panic!("PARTS knows history, ten and queue, not {other}"),
        }
    }
    assert!(asked.slow.is_empty(), "too slow: {:?}", asked.slow);
}

/// What was too slow.
#[derive(Default)]
struct Asked {
    slow: Vec<String>,
}

impl Asked {
    /// Asks several times; no time is too long where there is no `most_ms`.
    fn ask(&mut self, what: &str, most_ms: Option<u128>, question: impl FnMut()) {
        let median = median_us(question);
        println!("{:9.2} ms  {what}", median as f64 / 1000.0);
        if most_ms.is_some_and(|most| median > most * 1000) {
            self.slow.push(what.to_owned());
        }
    }
}

/// Where a million recipients are finished.
fn ask_history(rows: i64, days: i64, now: i64, asked: &mut Asked) {
    let directory = peer::directory();
    let path = directory.path().join("queue.db");
    make(&path);
    let amounts = Amounts { waiting: WAITING, domains: DOMAINS, history: rows, days };
    fill(&path, amounts, now).expect("fill the queue");
    println!("{WAITING} wait in {DOMAINS} domains, {rows} are in history, {days} days of it:");

    let admin = Admin::to_read(&path).expect("open the queue");
    let middle = rows / 2;
    let id = MessageId((now - days * DAY_SECS) * 1_000_000 + middle * (days * DAY_SECS * 1_000_000 / rows));
    let found = |wanted: Wanted| {
        let (lines, _) = admin.find(&wanted, 100).expect("find");
        assert!(!lines.is_empty(), "{wanted:?}: nothing");
    };
    let message_id = |id: String| found(Wanted::MessageId(id));
    let subject = |text: String| found(Wanted::Subject(text));
    asked
        .ask("queue find MESSAGE-ID, finished", Some(50), || message_id(format!("{middle:08x}.id@app.test")));
    asked.ask("queue find MESSAGE-ID, waiting", Some(50), || message_id("w77.id@app.test".to_owned()));
    asked.ask("queue find --tag", Some(50), || found(Wanted::Tag("shop/7".to_owned())));
    asked.ask("queue find --subject", Some(50), || subject(format!("your order {middle} ")));
    asked.ask("queue find --subject 'x*'", Some(50), || subject(format!("your order {middle}*")));
    asked.ask("queue find --subject '*x*' (reads all)", None, || subject("*order 77 *".to_owned()));
    asked.ask("queue show, finished", Some(50), || {
        assert!(admin.show(id).expect("show").is_some());
    });
    let traffic = |since: i64, by: Option<GroupBy>| {
        assert!(admin.traffic(since, by, 20).expect("report").total.delivered > 0);
    };
    for (name, by) in
        [("user", GroupBy::User), ("domain", GroupBy::Domain), ("tag", GroupBy::Tag), ("host", GroupBy::Host)]
    {
        // So long as 50,000 recipients take.
        let secs = (days * DAY_SECS * 50_000 / rows).min(DAY_SECS);
        asked.ask(&format!("report of 50,000 recipients by {name}"), Some(ANSWER_MS_MAX), || {
            traffic(now - secs, Some(by))
        });
    }
    let yesterday = now - now.rem_euclid(DAY_SECS) - DAY_SECS;
    asked.ask("report --since yesterday", None, || traffic(yesterday, None));
    asked.ask("report of all by domain", None, || traffic(0, Some(GroupBy::Domain)));
    asked.ask("queue failures", None, || {
        assert!(!admin.failures(&Filter::all()).expect("failures").is_empty());
    });
}

/// Each question of docs/sql.md by its command, and by its SELECT.
fn ask_ten(now: i64, asked: &mut Asked) {
    let directory = peer::directory();
    let directory = directory.path();
    let path = directory.join("questions.db");
    make(&path);
    let ids = fill(&path, Amounts { waiting: WAITING, domains: DOMAINS, history: WAITING, days: 2 }, now);
    let config = directory.join("postrider.toml");
    let listen =
        "address = \"127.0.0.1:2526\"\ntls = \"off\"\nauth = \"optional\"\ntrusted = [\"127.0.0.0/8\"]";
    let text = format!(
        "hostname = \"relay.test\"\n[queue]\npath = {path:?}\n[[listen]]\n{listen}\n[[route]]\n{ROUTE}\n\
         [delivery]\nprohibited_networks = [\"!127.0.0.0/8\"]\n"
    );
    std::fs::write(&config, text).expect("write the config");
    let conn = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY).expect("open the queue");
    println!(
        "\n{WAITING} wait in {DOMAINS} domains, {WAITING} are in history: question | command | its ms | SELECT ms"
    );
    for Question { words, command, select } in questions(&ids.expect("fill the queue")) {
        let by_command = median_us(|| run(&command, &config));
        let by_select = median_us(|| {
            let mut statement = conn.prepare(&select).expect(&select);
            let mut rows = statement.query([]).expect(&select);
            assert!(rows.next().expect(&select).is_some(), "{select}: nothing");
            while rows.next().expect(&select).is_some() {}
        });
        let ms = |us: u128| us as f64 / 1000.0;
        let command = command.join(" ");
        println!("{words} | {command} | {:.1} | {:.1}", ms(by_command), ms(by_select));
        if by_command.max(by_select) > ANSWER_MS_MAX * 1000 {
            asked.slow.push(words);
        }
    }
}

/// Where a million recipients wait: the status page of a relay that takes mail meanwhile, and commands beside it.
fn ask_queue(waiting: i64, now: i64, asked: &mut Asked) {
    let directory = peer::directory();
    let path = directory.path().join("queue.db");
    make(&path);
    fill(&path, Amounts { waiting, domains: LANES, history: WAITING, days: 2 }, now).expect("fill the queue");
    let config = directory.path().join("postrider.toml");
    let (sink, port) = (Sink::start(), peer::free_port());
    let route = format!("[[route]]\ndomain = \"receiver.test\"\n{}", sink.as_relay());
    let text = format!("[metrics]\nlisten = [\"127.0.0.1:{port}\"]\n{route}");
    let relay = peer::postrider_on(directory, sink, &text).expect("the relay starts");
    println!("\n{waiting} wait in {LANES} domains, the relay runs:");
    let mut commits = Vec::new();
    std::thread::scope(|scope| {
        let pages = scope.spawn(|| {
            let began = Instant::now();
            while get(port).contains("is being counted") {
                assert!(began.elapsed() < PATIENCE, "the page is not counted");
                std::thread::sleep(Duration::from_millis(50));
            }
            println!(
                "{:9.2} ms  until the status page has its numbers",
                began.elapsed().as_secs_f64() * 1000.0
            );
            asked.ask("the status page", Some(PAGE_MS_MAX), || drop(get(port)));
        });
        while !pages.is_finished() {
            let began = Instant::now();
            Load::new(relay.address, 1, 1).run();
            commits.push(began.elapsed());
        }
    });
    commits.sort_unstable();
    let ms = |at: usize| commits[at].as_secs_f64() * 1000.0;
    println!("{:9.2} ms  a mail meanwhile, the slowest {:.2}", ms(commits.len() / 2), ms(commits.len() - 1));
    for command in [
        "queue summary",
        "queue list",
        "queue list --domain d7.test",
        "queue oldest",
        "queue oldest --by lane",
        "queue failures",
        "report --since yesterday",
        "top --once",
    ] {
        let words: Vec<&str> = command.split(' ').collect();
        asked.ask(command, None, || run(&words, &config));
    }
}

/// The status page.
fn get(port: u16) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("somebody listens");
    stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("a request");
    let mut page = String::new();
    stream.read_to_string(&mut page).expect("an answer");
    assert!(page.starts_with("HTTP/1.1 200 "), "{page}");
    page
}

/// Runs `postrider`, which has to say something.
fn run(command: &[impl AsRef<std::ffi::OsStr> + std::fmt::Debug], config: &Path) {
    let mut postrider = Command::new(env!("CARGO_BIN_EXE_postrider"));
    let output = postrider.args(command).arg("--config").arg(config).output().expect("postrider");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    assert!(!output.stdout.is_empty(), "{command:?}: nothing");
}

/// Of so many times.
fn median_us(mut ask: impl FnMut()) -> u128 {
    let mut took: Vec<u128> = (0..TIMES)
        .map(|_| {
            let began = Instant::now();
            ask();
            began.elapsed().as_micros()
        })
        .collect();
    took.sort_unstable();
    took[TIMES / 2]
}

/// A queue with nothing in it.
fn make(path: &Path) {
    let settings = QueueSettings {
        path: path.to_owned(),
        history: Duration::from_secs(30 * DAY_SECS as u64),
        litestream: false,
    };
    let (_queue, writer) = Queue::open(&settings, crossbeam_channel::unbounded().0).expect("a queue");
    writer.stop().expect("stopped");
}
