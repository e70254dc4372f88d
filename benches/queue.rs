//! How fast the queue alone is: messages accepted and settled a second, every accept after an fsync.
//!
//! `cargo bench --bench queue`, on the file system of `target/`. Optional arguments: sessions (20),
//! seconds (5), recipients that wait beside them, deferred, in 1,000 domains (0).

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, unbounded};
use postrider::config::QueueSettings;
use postrider::mail::{Attempt, Enhanced, Envelope, Labels, Outcome, Phase, Recipient, Reply, address};
use postrider::queue::{Event, Finished, NewMessage, NextState, Origin, Queue, Settled, Settlement};

const CONTENT_BYTES: usize = 4096;

fn main() {
    let numbers: Vec<u64> = std::env::args().filter_map(|word| word.parse().ok()).collect();
    let number = |at: usize, default| numbers.get(at).copied().unwrap_or(default);
    let (sessions, secs, waiting) = (number(0, 20), number(1, 5), number(2, 0));
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory under target/");
    let settings = QueueSettings {
        path: directory.path().join("queue.db"),
        history: Duration::from_secs(7 * 86400),
        litestream: false,
    };
    let (sender, events) = unbounded();
    let (queue, writer) = Queue::open(&settings, sender).expect("a queue");
    if waiting > 0 {
        fill(&queue, &events, &settings.path, waiting);
    }

    let (accepted, ended) = (AtomicU64::new(0), AtomicBool::new(false));
    let (before, start) = (Usage::now(), Instant::now());
    let settled = std::thread::scope(|scope| {
        for session in 0..sessions {
            let (queue, accepted, ended) = (&queue, &accepted, &ended);
            scope.spawn(move || {
                while !ended.load(Relaxed) {
                    queue.accept(message(queue, &[&format!("user@d{session}.example")])).expect("accepted");
                    accepted.fetch_add(1, Relaxed);
                }
            });
        }
        let settler = scope.spawn(|| settle(&queue, &events, &accepted, &ended));
        std::thread::sleep(Duration::from_secs(secs));
        ended.store(true, Relaxed);
        settler.join().expect("no panic")
    });
    let took = start.elapsed().as_secs_f64();
    let used = Usage::now();
    let each = |amount: f64| amount / settled as f64;
    println!(
        "{sessions} sessions, {CONTENT_BYTES} bytes, {waiting} others waiting: {settled} in {took:.1} s"
    );
    println!("{:.0} accept+settle pairs/s", settled as f64 / took);
    println!(
        "{:.1} us CPU each, of these {:.1} the writer's",
        each(used.cpu_us - before.cpu_us),
        each(used.writer_us - before.writer_us)
    );
    println!(
        "{:.1} KiB written each, {} MiB resident",
        each(used.written - before.written) / 1024.0,
        used.resident_mib
    );
    let start = Instant::now();
    writer.stop().expect("stopped");
    println!("stopped in {} ms", start.elapsed().as_millis());
}

fn now() -> i64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}

fn message(queue: &Queue, to: &[&str]) -> NewMessage {
    let recipient = |to: &&str| Recipient::new(address::parse(to).expect("an address"));
    NewMessage {
        id: queue.new_message_id(),
        envelope: Envelope {
            sender: Some(address::parse("app@example.org").expect("an address")),
            recipients: to.iter().map(recipient).collect(),
            ..Envelope::default()
        },
        origin: Origin {
            user: Some("app".to_owned()),
            client: Some([127, 0, 0, 1].into()),
            helo: Some("app".to_owned()),
        },
        labels: Labels {
            message_id: Some(format!("{:016x}.{:x}@app.example.org", fastrand::u64(..), now())),
            ..Labels::default()
        },
        received_at: now(),
        expires_at: None,
        size: CONTENT_BYTES as u64,
        tail: vec![b'x'; CONTENT_BYTES],
        chunks_before: 0,
    }
}

/// Stands for the scheduler and its workers: everything accepted is delivered at once.
fn settle(queue: &Queue, events: &Receiver<Event>, accepted: &AtomicU64, ended: &AtomicBool) -> u64 {
    let mut settled = 0;
    while !ended.load(Relaxed) || settled < accepted.load(Relaxed) {
        match events.recv_timeout(Duration::from_millis(100)) {
            Ok(Event::Accepted(due)) => {
                for due in due {
                    let attempt = Attempt {
                        at: now(),
                        duration_ms: 3,
                        mx: Some("mx.example.com".to_owned()),
                        ip: Some([192, 0, 2, 1].into()),
                        tls: Some("TLSv1.3 verified".to_owned()),
                        tls_policy: postrider::mail::TlsPolicy::None,
                        dkim: None,
                        source: Some([192, 0, 2, 25].into()),
                        phase: Phase::EndOfData,
                        reply: Reply::new(250, Enhanced(2, 0, 0), "queued as 4FZ2QK1b9Jz"),
                        outcome: Outcome::Delivered,
                    };
                    queue.settle(Settlement {
                        message: due.fresh.expect("fresh"),
                        at: now(),
                        results: vec![Settled {
                            recipient: due.recipient,
                            attempt: Some(attempt),
                            next_state: NextState::Finished(Finished::Delivered),
                            warned: false,
                        }],
                        reports: vec![],
                        pending_reports: vec![],
                        expanded_told: false,
                        tls_sessions: vec![],
                        dialogue: None,
                    });
                }
            }
            Ok(Event::Settled(done)) => settled += done.len() as u64,
            _ => {}
        }
    }
    settled
}

/// Messages of 100 recipients each that are due tomorrow.
fn fill(queue: &Queue, events: &Receiver<Event>, path: &Path, waiting: u64) {
    let start = Instant::now();
    for first in (0..waiting).step_by(100) {
        let to: Vec<String> = (first..first + 100).map(|n| format!("u{n}@w{}.example", n % 1000)).collect();
        queue.accept(message(queue, &to.iter().map(String::as_str).collect::<Vec<_>>())).expect("accepted");
        while events.try_recv().is_ok() {}
    }
    let somebody = rusqlite::Connection::open(path).expect("the queue");
    somebody
        .execute("UPDATE recipients SET next_attempt_at = next_attempt_at + 86400", [])
        .expect("an update");
    println!("{waiting} others queued in {:.1} s", start.elapsed().as_secs_f32());
    let first = Instant::now();
    let due = queue.due(0.into(), i64::MAX, 1000).expect("read").len();
    println!("the first {due} read in {:.1} ms", first.elapsed().as_secs_f32() * 1000.0);
}

/// What this process has used so far; Linux.
struct Usage {
    cpu_us: f64,
    writer_us: f64,
    written: f64,
    resident_mib: u64,
}

impl Usage {
    fn now() -> Usage {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| -> u64 {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
        };
        let (mut cpu_us, mut writer_us) = (0.0, 0.0);
        for task in std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
            let stat = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            let us = stat.split(' ').next().and_then(|ns| ns.parse().ok()).map_or(0.0, |ns: f64| ns / 1000.0);
            cpu_us += us;
            let name = std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
            writer_us += if name.trim() == "queue-writer" { us } else { 0.0 };
        }
        // Threads that have ended count in the process only: the clock ticks of user and system time.
        let stat = read("/proc/self/stat");
        let ticks: u64 = stat
            .rsplit_once(')')
            .map(|(_, rest)| {
                rest.split_whitespace().skip(11).take(2).filter_map(|word| word.parse::<u64>().ok()).sum()
            })
            .unwrap_or(0);
        Usage {
            cpu_us: cpu_us.max(ticks as f64 * 10_000.0),
            writer_us,
            written: field(&read("/proc/self/io"), "wchar:") as f64,
            resident_mib: field(&read("/proc/self/status"), "VmRSS:") / 1024,
        }
    }
}
