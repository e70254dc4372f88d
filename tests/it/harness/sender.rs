//! Who submits in most tests, what comes back to it, and what becomes of its mail.

use crate::harness::fakemx::{FakeMx, Message, SOON, Script};
use crate::harness::relay::{Relay, World};

/// Whoever submits; bounces go there.
pub const SENDER: &str = "me@app.test";

/// A world where the sender's own domain takes bounces.
pub fn world_with_sender() -> (World, FakeMx) {
    let mut world = World::new();
    let home = world.host("app.test", Script::new());
    (world, home)
}

pub fn text(message: &Message) -> String {
    String::from_utf8_lossy(&message.content).into_owned()
}

/// The one bounce that must have come to the sender, as text.
pub fn bounce(home: &FakeMx) -> String {
    let messages = home.wait_for_messages(1, SOON);
    assert!(messages[0].mail.starts_with("MAIL FROM:<>"), "{}", messages[0].mail);
    assert!(messages[0].rcpts[0].contains(&format!("<{SENDER}>")), "{:?}", messages[0].rcpts);
    text(&messages[0])
}

/// What every bounce must hold (RFC 3464, RFC 6522).
pub fn assert_report(bounce: &str, recipient: &str, status: &str, quoted: &str) {
    for part in [
        "Content-Type: multipart/report",
        "report-type=",
        "Content-Type: message/delivery-status",
        "Auto-Submitted: auto-replied",
        "Reporting-MTA: dns;",
        &format!("Final-Recipient: rfc822;{}{recipient}", if bounce.contains("rfc822; ") { " " } else { "" }),
        "Action: failed",
        &format!("Status: {status}"),
        quoted,
    ] {
        assert!(unfolded(bounce).contains(part), "no {part:?} in:\n{bounce}");
    }
}

/// Folded header lines on one line, white space as one space.
pub fn unfolded(text: &str) -> String {
    text.replace("\r\n ", " ").replace("\r\n\t", " ").replace("  ", " ")
}

/// Waits until a recipient has ended in this state.
pub fn wait_for_end(relay: &Relay, address: &str, state: &str) {
    relay.wait_until(&format!("{address} to end"), SOON, |db| db.ended(address));
    assert_eq!(relay.db().ended(address).as_deref(), Some(state), "{}", relay.db().dump());
}

/// Waits for so many tries with that outcome.
pub fn wait_for_attempts(relay: &Relay, address: &str, outcome: &str, count: i64) {
    relay.wait_until(&format!("{count} {outcome} tries for {address}"), SOON, |db| {
        (db.attempts(address, outcome) >= count).then_some(())
    });
}

/// Code and enhanced code of each try for a recipient that has ended.
pub fn answers(relay: &Relay, address: &str) -> Vec<String> {
    relay.db().rows(
        "SELECT attempts.code || ' ' || attempts.enhanced FROM attempts JOIN history USING (recipient_id)
         WHERE history.address = ?1",
        [address],
    )
}
