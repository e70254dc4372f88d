//! `postrider check --against-queue`: what a reload would change, told before it, and what the reload then did.

use crate::harness::fakemx::{Act, At, SOON, Script};
use crate::harness::relay::{Config, World, mail};
use crate::harness::sender::SENDER;

#[test]
fn a_reload_does_what_was_told_before() {
    let mut world = World::new();
    let _mx = world.host("a.test", Script::new().on(At::Rcpt("@"), Act::Say("451 4.7.1 later")));
    let relay = world.relay(Config::new());
    relay.submit(SENDER, &["you@a.test", "she@a.test"], &mail("waits"));
    relay.wait_until("both to be put off", SOON, |db| {
        (db.number("SELECT count(*) FROM recipients WHERE attempts = 1", []) == 2).then_some(())
    });
    assert!(relay.run_ok(&["check", "--against-queue"]).contains("a reload changes nothing"));
    // The message is three hours old.
    relay.db_for_writing().execute("UPDATE messages SET received_at = received_at - 10800", []);
    let shorter = relay.config().set("queue.lifetime", "\"2h\"");
    relay.write_config(&shorter.route("domain = \"*\"\nrelay = [\"up.test:2525\"]"));
    let told = relay.run_ok(&["check", "--against-queue"]);
    assert!(
        told.contains("2 recipients of 1 domain would go to up.test:2525, now to their MX hosts"),
        "{told}"
    );
    assert!(
        told.contains("lifetime would be 2h, now ") && told.contains("2 recipients would expire"),
        "{told}"
    );
    let found = relay.json(&["check", "--against-queue"]);
    assert_eq!(found[0]["findings"].as_array().unwrap().len(), 2);
    assert_eq!(relay.db().number("SELECT count(*) FROM recipients", []), 2, "nothing is done yet");
    relay.signal("HUP");
    relay.wait_until("both to expire", SOON, |db| {
        (db.number("SELECT count(*) FROM history WHERE state = 'expired'", []) == 2).then_some(())
    });
    assert!(relay.run_ok(&["check", "--against-queue"]).contains("a reload changes nothing"));
}
