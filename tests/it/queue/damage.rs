//! A database that is damaged: said out loud, and recovered as far as it can be read.

use std::net::SocketAddr;
use std::os::unix::fs::FileExt as _;

use crate::harness::fakemx::{FakeMx, SOON, Script};
use crate::harness::relay::{Config, Relay, World, mail, wait_for};
use crate::harness::sender::SENDER;

/// A relay that was stopped with some messages waiting, of several pages each.
fn stopped(world: &mut World) -> (Relay, Vec<String>, SocketAddr) {
    // Nobody listens there: it waits.
    world.zone(|zone| zone.mx("a.test", 10, "mx.a.test"));
    let mx = world.address("mx.a.test");
    let mut relay = world.relay(Config::new());
    let content = [mail("several pages"), "words and words\r\n".repeat(1000).into_bytes()].concat();
    let ids = (0..30).map(|n| relay.submit(SENDER, &[&format!("you{n}@a.test")], &content)).collect();
    relay.stop();
    (relay, ids, mx)
}

/// Spoils every page with content of the messages in this part of the queue.
fn spoil(relay: &Relay, from: f64, to: f64) {
    let database = std::fs::File::options().read(true).write(true).open(relay.path("queue.db")).unwrap();
    let bytes = std::fs::read(relay.path("queue.db")).unwrap();
    // A page of content that does not fit on the page of its row: the number of the next, then words.
    let is_content =
        |page: &[u8]| page[..2] == [0, 0] && page[100..].windows(5).any(|words| words == b"words");
    let pages: Vec<u64> =
        (0..).zip(bytes.chunks(4096)).filter(|(_, page)| is_content(page)).map(|(at, _)| at).collect();
    let part = (pages.len() as f64 * from) as usize..(pages.len() as f64 * to) as usize;
    for page in &pages[part] {
        // An overflow page that leads nowhere.
        database.write_all_at(&[0xff; 4], page * 4096).unwrap();
    }
}

#[test]
fn a_damaged_queue_is_said_so_once_by_whoever_meets_it() {
    let mut world = World::new();
    let (mut relay, _, mx) = stopped(&mut world);
    spoil(&relay, 0.4, 0.6);
    let check = relay.run(&["check"]);
    let said = String::from_utf8(check.stdout).unwrap();
    assert!(!check.status.success() && said.contains("postrider recover --held"), "{said}");
    let _mx = FakeMx::start_at(mx, vec![Script::new()]);
    relay.start_again();
    relay.run_ok(&["queue", "kick", "--all"]);
    wait_for("the damage to be told", SOON, || {
        (!relay.logged(&["ERROR", "IS DAMAGED", "postrider recover"]).is_empty()).then_some(())
    });
    let refused = relay.run(&["recover", "--held"]);
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success() && said.contains("in use by another postrider"), "{said}");
    relay.wait_until("the sound messages to go", SOON, |db| {
        (db.number("SELECT count(*) FROM history WHERE state = 'delivered'", []) > 10).then_some(())
    });
    relay.stop();
    assert_eq!(relay.logged(&["IS DAMAGED"]).len(), 1, "once");
}

#[test]
fn what_can_be_read_is_recovered_and_what_is_missing_is_named() {
    let mut world = World::new();
    let (mut relay, ids, _) = stopped(&mut world);
    spoil(&relay, 0.4, 0.6);
    assert_eq!(relay.run(&["recover"]).status.code(), Some(2), "held or queued has to be said");
    let report = relay.run_ok(&["recover", "--held"]);
    assert!(report.contains("the damaged database is kept as"), "{report}");
    // Each message is there whole, or it is named.
    let named = ids.iter().filter(|id| report.contains(*id)).count() as i64;
    let whole = relay.db().number(
        "SELECT count(*) FROM messages m WHERE size = (SELECT sum(length(data)) FROM content WHERE message_id = m.id)",
        [],
    );
    assert!(whole > 0 && named > 0 && whole + named == ids.len() as i64, "{whole} {named}: {report}");
    assert_eq!(relay.db().number("SELECT count(*) FROM recipients WHERE state = 'queued'", []), 0);
    let checked = String::from_utf8(relay.run(&["check"]).stdout).unwrap();
    assert!(checked.contains("ok       database"), "{checked}");
    relay.start_again();
    assert_eq!(relay.logged(&["ERROR"]), [""; 0]);
}
