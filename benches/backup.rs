//! What `postrider backup` costs the relay beside it: how long an accept takes meanwhile, and how long the write-ahead
//! log grows.
//!
//! `cargo bench --bench backup`, on the file system of `target/`. Optional arguments: MiB of mail that waits (1,024),
//! sessions (20).

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::unbounded;
use postrider::config::QueueSettings;
use postrider::mail::{Envelope, Labels, Recipient, address};
use postrider::queue::{NewMessage, Origin, Queue};

/// Of a message that waits, and of one that comes meanwhile.
const WAITING_BYTES: usize = 32 << 10;
const NEW_BYTES: usize = 4 << 10;

fn main() {
    let numbers: Vec<u64> = std::env::args().filter_map(|word| word.parse().ok()).collect();
    let number = |at: usize, default| numbers.get(at).copied().unwrap_or(default);
    let (mib, sessions) = (number(0, 1024), number(1, 20));
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory under target/");
    let path = directory.path().join("queue.db");
    let settings = QueueSettings { path: path.clone(), history: Duration::from_secs(7 * 86400) };
    let (sender, events) = unbounded();
    let (queue, writer) = Queue::open(&settings, sender).expect("a queue");
    std::thread::spawn(move || events.iter().for_each(drop));

    let left = AtomicU64::new((mib << 20) / WAITING_BYTES as u64);
    std::thread::scope(|scope| {
        for _ in 0..64 {
            scope.spawn(|| {
                let take = || left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok();
                while take() {
                    accept(&queue, WAITING_BYTES);
                }
            });
        }
    });
    let database = path.metadata().map_or(0, |file| file.len());
    println!("{} MiB of database, {sessions} sessions with {NEW_BYTES} bytes a message", database >> 20);

    let ended = AtomicBool::new(false);
    measured("alone", &queue, &path, sessions, &ended, || std::thread::sleep(Duration::from_secs(10)));
    for round in 1..=3 {
        let copy = directory.path().join(format!("copy-{round}.db"));
        measured("beside a backup", &queue, &path, sessions, &ended, || back_up(&path, &copy));
        std::fs::remove_file(copy).expect("it was made");
    }
    writer.stop().expect("stopped");
}

fn back_up(path: &Path, copy: &Path) {
    let config = path.with_file_name("postrider.toml");
    std::fs::write(&config, format!("[queue]\npath = {path:?}\n")).expect("written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_postrider"));
    let status = command.arg("backup").arg(copy).arg("--config").arg(config).status().expect("started");
    assert!(status.success());
}

/// What accepts take while `work` goes on.
fn measured(name: &str, queue: &Queue, path: &Path, sessions: u64, ended: &AtomicBool, work: impl FnOnce()) {
    ended.store(false, Relaxed);
    let (start, log) = (Instant::now(), PathBuf::from(format!("{}-wal", path.display())));
    let (times, longest_log) = (Mutex::new(Vec::new()), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..sessions {
            scope.spawn(|| {
                let mut own = Vec::new();
                while !ended.load(Relaxed) {
                    let begin = Instant::now();
                    accept(queue, NEW_BYTES);
                    own.push(begin.elapsed());
                    longest_log.fetch_max(log.metadata().map_or(0, |file| file.len()), Relaxed);
                }
                times.lock().expect("no panic").extend(own);
            });
        }
        work();
        ended.store(true, Relaxed);
    });
    let took = start.elapsed().as_secs_f64();
    let mut times = times.into_inner().expect("no panic");
    times.sort_unstable();
    let ms = |per_mille: usize| times[(times.len() - 1) * per_mille / 1000].as_secs_f64() * 1000.0;
    println!(
        "{name}: {took:.1} s, {:.0} accepts a second; median {:.1} ms, 99 % {:.1} ms, longest {:.1} ms; log {} MiB",
        times.len() as f64 / took,
        ms(500),
        ms(990),
        ms(1000),
        longest_log.load(Relaxed) >> 20
    );
}

fn accept(queue: &Queue, bytes: usize) {
    let recipient = Recipient::new(address::parse("user@d.example").expect("an address"));
    let message = NewMessage {
        id: queue.new_message_id(),
        envelope: Envelope {
            sender: Some(address::parse("app@example.org").expect("an address")),
            recipients: vec![recipient],
            ..Envelope::default()
        },
        origin: Origin::default(),
        received_at: SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |now| now.as_secs() as i64),
        expires_at: None,
        size: bytes as u64,
        tail: vec![b'x'; bytes],
        chunks_before: 0,
        labels: Labels::default(),
    };
    queue.accept(message).expect("accepted");
}
