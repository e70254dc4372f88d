//! `/readyz`, systemd's status and `postrider health --ready`: each way in which no message could be committed, in the
//! same words, and that it passes.

use std::time::{Duration, Instant};

use crate::harness::fakemx::SOON;
use crate::harness::http_client::{Answer, address, get, watched};
use crate::harness::notified::Notified;
use crate::harness::relay::{Config, Relay, World, mail, wait_for};
use crate::harness::sender::{SENDER, world_with_sender};
use crate::harness::skipped::installed;
use crate::queue::files::attach;
use crate::queue::full_disk::{fill, relay_on, small_disk};

const READY: &str = "takes and delivers mail";

/// Until it is so; gives the words.
fn wait_for_status(status: u16, ask: impl Fn() -> Answer) -> String {
    wait_for(&format!("/readyz to be {status}"), SOON, || {
        let answer = ask();
        (answer.status == status).then(|| answer.body.trim_end().to_owned())
    })
}

/// What `health --ready` says, and whether it is content.
fn health(relay: &Relay) -> (bool, String) {
    let output = relay.run(&["health", "--ready"]);
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    (output.status.success(), String::from_utf8(said).unwrap())
}

#[test]
fn a_lock_that_another_process_holds_is_told_in_the_same_words_everywhere_and_passes() {
    let at = address();
    let mut relay = Relay::prepare(watched(Config::new(), &[at]));
    relay.add_user();
    let notified = Notified::by(&mut relay, &[]);
    relay.wait_until_ready();
    let hear = |words: &str| notified.hear(&format!("STATUS={words}"));
    hear(READY);
    assert_eq!(wait_for_status(200, || get(at, "/readyz")), READY);
    assert_eq!(health(&relay), (true, "ok: 3 listeners answer\n".to_owned()));
    let other = relay.db_for_writing();
    other.0.execute_batch("BEGIN IMMEDIATE").unwrap();
    let began = Instant::now();
    let words = wait_for_status(503, || get(at, "/readyz"));
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let holder = format!("pid {} (", std::process::id());
    assert!(
        words.starts_with(&format!("new mail is refused: another process holds the queue's lock: {holder}")),
        "{words}"
    );
    hear(&words);
    assert_eq!(health(&relay), (false, format!("postrider: {words}\n")));
    assert_eq!(get(at, "/livez").status, 200, "a restart would not help");
    other.0.execute_batch("ROLLBACK").unwrap();
    // Nobody asks for it.
    hear(READY);
    assert_eq!(wait_for_status(200, || get(at, "/readyz")), READY);
    relay.stop();
}

#[test]
fn a_full_disk_is_not_ready_until_there_is_room() {
    let Some(disk) = small_disk() else { return };
    let (world, _home) = world_with_sender();
    let at = address();
    let mut relay = relay_on(&disk, &world, watched(Config::new(), &[at]));
    assert_eq!(wait_for_status(200, || get(at, "/readyz")), READY);
    fill(&disk);
    let words = wait_for_status(503, || get(at, "/readyz"));
    assert!(words.starts_with("new mail is refused: ") && words.contains("disk"), "{words}");
    std::fs::remove_file(disk.join("somebody-else")).unwrap();
    assert_eq!(wait_for_status(200, || get(at, "/readyz")), READY);
    relay.stop();
}

/// An fsync of 5 s; see `queue::files` for why there are several rounds.
#[test]
fn a_disk_that_does_not_answer_is_not_ready_until_it_does() {
    if !installed("strace") {
        return;
    }
    let round = || {
        let at = address();
        let world = World::new();
        let mut relay = world.relay(watched(Config::new(), &[at]));
        let mut strace = attach(&relay, "inject=fsync,fdatasync:delay_enter=5000000:when=1");
        let began = Instant::now();
        let first = get(at, "/readyz");
        let took = began.elapsed();
        let again = wait_for_status(200, || get(at, "/readyz"));
        relay.stop();
        strace.wait().unwrap();
        // Otherwise the call was let go before its time.
        (first.status == 503).then_some((first.body, took, again))
    };
    let (words, took, again) = std::iter::repeat_with(round).take(8).flatten().next().expect("it is held");
    assert!(words.starts_with("new mail waits: the disk has not answered for 1 s"), "{words}");
    assert!(took < Duration::from_secs(4), "whoever asks is not held, too: {took:?}");
    assert_eq!(again, READY);
}

#[test]
fn a_relay_that_stops_is_not_ready() {
    let at = address();
    let mut relay = Relay::start(watched(Config::new(), &[at]));
    // Content on its way holds up the end for two seconds.
    let mut client = relay.client();
    client.write(format!("MAIL FROM:<{SENDER}>\r\nRCPT TO:<you@a.test>\r\nDATA\r\n").as_bytes()).unwrap();
    (0..3).for_each(|_| drop(client.reply().unwrap()));
    client.write(&mail("half")[..20]).unwrap();
    relay.signal("TERM");
    let words = wait_for_status(503, || get(at, "/readyz"));
    assert_eq!(words, "stopping: no new mail is taken");
    relay.wait_for_exit(SOON);
}
