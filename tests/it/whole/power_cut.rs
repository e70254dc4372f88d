//! A power cut at any moment: what was not synced is lost, or torn, and what was acknowledged is there all the same.
//!
//! SIGKILL leaves what was written in the kernel's cache; a power cut does not. So strace records what the relay
//! writes, truncates, names and syncs while it works, is killed and stops, and when it says 250. Then the power is cut
//! at random moments of that record: the disk keeps all that was synced, and of the rest whatever the seed says. The
//! queue that is left is opened and must be whole, with each message that had been acknowledged.
//! `POWER_CUT_SEED` and `POWER_CUTS` (how many) can be set.

mod disk;
mod record;

use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rusqlite::OpenFlags;

use crate::harness::fakemx::{Act, At, SOON, Script};
use crate::harness::relay::{Client, Config, Db, Relay, World, notice, wait_for};
use crate::harness::skipped::{may_trace, skipped};
use disk::Disk;
use record::Event;

/// Who submits at the same time.
const SUBMITTERS: usize = 6;
/// Messages that are acknowledged, or the cuts prove little.
const ENOUGH: usize = 100;
/// Lives of the relay in one record; each ends another way.
const LIVES: usize = 4;
/// How long it works in each.
const LIFE: Duration = Duration::from_millis(700);
/// The relay itself starts on one image of so many; the test's own SQLite is quicker.
const STARTED_EVERY: usize = 50;
/// Every so manieth message is longer than one chunk of the queue (256 KiB).
const LONG_EVERY: usize = 30;

#[test]
fn a_power_cut_loses_nothing_that_was_acknowledged() {
    if !may_trace() {
        return;
    }
    let cuts = setting("POWER_CUTS").unwrap_or(100) as usize;
    let began = Instant::now();
    let events = a_busy_while();
    let recorded = began.elapsed();
    let mut random = seeded();
    let moments = (0..cuts).map(|_| moment(&events, &mut random)).collect();
    let outcome = cut_at(&events, moments, &mut random);
    notice(&format!(
        "{cuts} power cuts: {outcome}; recorded in {:.1} s, cut in {:.1} s",
        recorded.as_secs_f64(),
        (began.elapsed() - recorded).as_secs_f64(),
    ));
}

/// The write-ahead log is copied into the database at 64 MiB, while mail goes on, and then written from its start.
/// The record of that takes half a gigabyte: only where `POWER_CUTS_OF_A_LONG_LOG` says how often to cut.
#[test]
fn a_power_cut_while_a_long_log_is_copied_loses_nothing() {
    let Some(cuts) = setting("POWER_CUTS_OF_A_LONG_LOG") else {
        return skipped("POWER_CUTS_OF_A_LONG_LOG is not set");
    };
    if !may_trace() {
        return;
    }
    let events = a_long_log();
    let is_copied = |event: &Event| matches!(event, Event::Write { name, .. } if name == "queue.db");
    // Before it the schema was made; those few pages are not it.
    let schema = events.iter().position(|event| matches!(event, Event::Acknowledged(_))).unwrap();
    let first = schema + events[schema..].iter().position(is_copied).expect("the log is copied");
    let last = events.iter().rposition(is_copied).unwrap();
    let mut random = seeded();
    let moments = (0..cuts).map(|_| random.usize(first..=events.len().min(last + 500))).collect();
    let outcome = cut_at(&events, moments, &mut random);
    notice(&format!("{cuts} power cuts while the log is copied: {outcome}"));
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|error| panic!("{name}: {error}")))
}

fn seeded() -> fastrand::Rng {
    let seed = setting("POWER_CUT_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("POWER_CUT_SEED={seed}");
    fastrand::Rng::with_seed(seed)
}

/// Cuts the power at these moments, numbers of events; each time the queue must be whole. What to say of it.
fn cut_at(events: &[Event], mut moments: Vec<usize>, random: &mut fastrand::Rng) -> String {
    let acknowledged = events.iter().filter(|event| matches!(event, Event::Acknowledged(_))).count();
    let syncs = events.iter().filter(|event| matches!(event, Event::Sync(_))).count();
    assert!(acknowledged >= ENOUGH, "too little happened: {acknowledged} acknowledged");
    moments.sort_unstable();
    let cuts = moments.len();
    let mut disk = Disk::default();
    let (mut happened, mut unsynced, mut promised) = (0, 0, HashSet::new());
    for (cut, moment) in moments.into_iter().enumerate() {
        for event in &events[happened..moment] {
            match event {
                Event::Acknowledged(id) => drop(promised.insert(id.clone())),
                event => disk.happens(event),
            }
        }
        happened = moment;
        unsynced += usize::from(disk.has_unsynced());
        let folder = tempfile::Builder::new().prefix("postrider-cut-").tempdir().unwrap();
        disk.cut(folder.path(), random);
        if cut % STARTED_EVERY == STARTED_EVERY - 1 {
            starts(folder.path());
        }
        is_whole(folder.path(), &promised, &format!("cut {cut} at event {moment} of {}", events.len()));
    }
    assert!(unsynced > cuts / 4, "only {unsynced} of {cuts} cuts had anything to lose");
    format!(
        "{acknowledged} acknowledged, 0 lost; {} events, {syncs} syncs; {unsynced} cuts had something unsynced",
        events.len()
    )
}

/// Any moment; every other time that right behind a 250, when the promise is youngest.
fn moment(events: &[Event], random: &mut fastrand::Rng) -> usize {
    let any = random.usize(0..=events.len());
    let next = events[any..].iter().position(|event| matches!(event, Event::Acknowledged(_)));
    match next {
        Some(next) if random.bool() => any + next + 1,
        _ => any,
    }
}

/// What a relay does to its disk that takes, delivers, defers and bounces, is killed, stops and starts again.
fn a_busy_while() -> Vec<Event> {
    let mut world = World::new();
    let greylists = Script::new().first(40, At::Rcpt("you"), Act::Say("451 4.7.1 later"));
    let _hosts = [
        world.host("takes.test", Script::new()),
        world.host("defers.test", greylists),
        world.host("refuses.test", Script::new().on(At::Rcpt("you"), Act::Say("550 5.1.1 no such user"))),
        world.host("app.test", Script::new()),
    ];
    let config = Config::new().retry(&["1s"]).set("limits.sessions_per_client", "100");
    let mut relay = Relay::prepare(world.configured(config));
    let mut events = Vec::new();
    for life in 0..LIVES {
        let trace = relay.path(&format!("trace-{life}"));
        relay.spawn_under_strace(&record::strace(&trace).each_ref().map(String::as_str));
        relay.wait_until_ready();
        submit_for(&relay, LIFE, ENOUGH / LIVES + 1);
        if life % 2 == 0 {
            relay.kill();
        } else {
            relay.stop();
        }
        events.extend(recorded(&trace, &relay));
    }
    events
}

/// The same of one that takes more than the write-ahead log is to hold, and goes on.
fn a_long_log() -> Vec<Event> {
    let mut world = World::new();
    let _hosts =
        ["takes.test", "defers.test", "refuses.test"].map(|domain| world.host(domain, Script::new()));
    let config = Config::new().set("limits.sessions_per_client", "100");
    let mut relay = Relay::prepare(world.configured(config));
    let trace = relay.path("trace");
    relay.spawn_under_strace(&record::strace(&trace).each_ref().map(String::as_str));
    relay.wait_until_ready();
    let content = format!("Subject: large\r\n\r\n{}", "sixty characters or so of it\r\n".repeat(800_000));
    for _ in 0..3 {
        submit_patiently(&mut relay.client(), "you@takes.test", content.as_bytes());
    }
    submit_for(&relay, 2 * LIFE, ENOUGH + 1);
    relay.kill();
    recorded(&trace, &relay)
}

/// What strace recorded. It may still write when the relay is gone: its record ends with the end of every thread.
fn recorded(trace: &Path, relay: &Relay) -> Vec<Event> {
    wait_for("strace to end its record", SOON, || record::is_complete(trace).then_some(()));
    record::read(trace, &relay.path("queue.db"))
}

/// Submits all the time, over a few connections: so long, and so many messages at least.
fn submit_for(relay: &Relay, time: Duration, at_least: usize) {
    let (stop, taken) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for submitter in 0..SUBMITTERS {
            let (stop, taken, address) = (&stop, &taken, relay.clear);
            scope.spawn(move || {
                let mut client = Client::connect(address).unwrap();
                client.expect("EHLO app.test", "250");
                for number in submitter.. {
                    if stop.load(Ordering::SeqCst) {
                        break;
                    }
                    let domain = ["takes.test", "defers.test", "refuses.test", "takes.test"][number % 4];
                    let lines = if number % LONG_EVERY == 0 { 5_000 } else { 20 };
                    let content = format!(
                        "Subject: {number}\r\n\r\n{}",
                        "sixty characters or so of it\r\n".repeat(lines)
                    );
                    submit_patiently(&mut client, &format!("you@{domain}"), content.as_bytes());
                    taken.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        let began = Instant::now();
        let lacks = |taken: usize| taken < at_least && began.elapsed() < SOON;
        while began.elapsed() < time || lacks(taken.load(Ordering::SeqCst)) {
            std::thread::sleep(Duration::from_millis(10));
        }
        stop.store(true, Ordering::SeqCst);
    });
}

/// Submits a message again as long as it hears 451: under strace a slow disk may not answer in the time that the relay
/// gives it, and a client is then right to come again.
fn submit_patiently(client: &mut Client, recipient: &str, content: &[u8]) {
    wait_for("a message to be taken", SOON, || {
        let reply = client.transact("me@app.test", "", &[recipient], content).unwrap();
        assert!(matches!(reply.code, 250 | 451), "{}", reply.text);
        (reply.code == 250).then_some(())
    });
}

/// The queue in this folder is whole and has all that was promised, in the queue or finished.
fn is_whole(folder: &Path, promised: &HashSet<String>, what: &str) {
    let path = folder.join("queue.db");
    if !path.exists() {
        assert!(promised.is_empty(), "{what}: there is no database");
        return;
    }
    let db = Db::open(&path, OpenFlags::SQLITE_OPEN_READ_WRITE);
    assert_eq!(db.row("PRAGMA integrity_check", []).as_deref(), Some("ok"), "{what}");
    let has_schema = db.number("SELECT count(*) FROM sqlite_schema WHERE name = 'stuck'", []) == 1;
    if !has_schema {
        assert!(promised.is_empty(), "{what}: there is no schema");
        return;
    }
    assert_eq!(db.rows("SELECT * FROM stuck", []), Vec::<String>::new(), "{what}");
    let there = db.rows("SELECT queue_id FROM messages UNION SELECT queue_id FROM history", []);
    let there: HashSet<String> = there.into_iter().collect();
    let lost: Vec<&String> = promised.difference(&there).collect();
    assert!(lost.is_empty(), "{what}: acknowledged and lost: {lost:?}");
}

/// The relay itself starts on this folder's queue, and stops.
fn starts(folder: &Path) {
    let mut relay = Relay::prepare(Config::new());
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        std::fs::copy(entry.path(), relay.path(&entry.file_name().to_string_lossy())).unwrap();
    }
    relay.start_again();
    relay.stop();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        std::fs::remove_file(entry.path()).unwrap();
    }
    std::fs::copy(relay.path("queue.db"), folder.join("queue.db")).unwrap();
}
