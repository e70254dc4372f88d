//! Large messages by BDAT where the host offers CHUNKING (RFC 3030 §2), from end to end: what goes over the wire,
//! what the database says of refusals in the middle, of doubt, and of hosts that offer what they cannot do.

use crate::harness::fakemx::{Act, At, Certificate, FakeMx, SOON, Script, Seen};
use crate::harness::relay::{Config, Relay, World, mail, wait_for};
use crate::harness::sender::{SENDER, wait_for_attempts, wait_for_end};

const CHUNK: usize = 1 << 20;
const MAILBOX: &str = "you@a.test";

/// Three full chunks and a bit, lines that begin with dots among them.
pub(crate) fn large() -> Vec<u8> {
    let lines = [&b"..\r\n.\r\n.dotted\r\n"[..], &[b'x'; 900], b"\r\n"].concat();
    [mail("large"), lines.repeat(3 * CHUNK / lines.len() + 1)].concat()
}

/// Takes commands in a batch, and chunks.
pub(crate) fn chunking() -> Script {
    Script::new().offering(&["PIPELINING", "SIZE", "8BITMIME", "CHUNKING"])
}

/// The BDAT commands of a connection, without their verb.
fn chunks(seen: &Seen) -> Vec<&str> {
    seen.commands.iter().filter_map(|line| line.strip_prefix("BDAT ")).collect()
}

/// With this host for `a.test`.
pub(crate) fn world_with(script: Script) -> (World, FakeMx) {
    let mut world = World::new();
    let mx = world.host("a.test", script);
    (world, mx)
}

/// The only try so far.
fn attempt(relay: &Relay) -> String {
    let rows = relay.db().rows("SELECT phase, outcome, reply FROM attempts", []);
    assert_eq!(rows.len(), 1, "{rows:?}");
    rows[0].clone()
}

#[test]
fn a_large_message_goes_in_chunks_and_a_small_one_does_not() {
    let certificate = Certificate::for_names(&["mx.a.test"]);
    let one_by_one = Script::new().offering(&["CHUNKING"]);
    for (script, tls) in [(chunking(), false), (chunking().tls(&certificate), true), (one_by_one, false)] {
        let (world, mx) = world_with(script);
        // On one that took a batch before, the small one would go with its commands (`single_write.rs`).
        let relay = world.relay(Config::new().set("delivery.messages_per_connection", "1"));
        let content = large();
        relay.submit(SENDER, &[MAILBOX], &content);
        let arrived = mx.wait_for_messages(1, SOON).remove(0);
        assert!(arrived.content.ends_with(&content), "{} bytes arrived", arrived.content.len());
        assert_eq!((arrived.tls, mx.seen()[0].verbs().contains(&"DATA")), (tls, false));
        let full = CHUNK.to_string();
        let last = format!("{} LAST", arrived.content.len() - 3 * CHUNK);
        assert_eq!(chunks(&mx.seen()[0]), [&full[..], &full, &full, &last]);
        wait_for_end(&relay, MAILBOX, "delivered");
        relay.submit(SENDER, &[MAILBOX], &mail("small"));
        mx.wait_for_messages(2, SOON);
        let verbs: Vec<String> =
            mx.seen().iter().flat_map(Seen::verbs).map(str::to_owned).filter(|verb| verb == "DATA").collect();
        assert_eq!(verbs.len(), 1);
    }
}

/// RFC 3030 §2: no chunk behind a refused one; what the host said is the message's answer. QUIT is behind it, by which
/// the host's replies are counted.
#[test]
fn a_refused_chunk_is_the_messages_answer_and_the_last_of_its_connection() {
    for (number, words, outcome) in [
        (1, "552 5.3.4 too big", "failed"),
        (2, "552 5.3.4 too big", "failed"),
        (3, "452 4.3.1 full", "deferred"),
    ] {
        let (mut world, mx) = world_with(chunking().on(At::Chunk(number), Act::Say(words)));
        let _home = world.host("app.test", Script::new());
        let relay = world.relay(Config::new());
        let mut client = relay.client();
        client.submit(SENDER, &[MAILBOX], &large());
        wait_for_attempts(&relay, MAILBOX, outcome, 1);
        client.submit(SENDER, &["next@a.test"], &mail("next"));
        mx.wait_for_messages(1, SOON);
        let seen = mx.wait_for_closed(1, SOON).remove(0);
        assert!(!chunks(&seen).iter().any(|chunk| chunk.contains("LAST")), "{:?}", seen.commands);
        let verbs = seen.verbs();
        assert_eq!(verbs[verbs.len() - 2..], ["BDAT", "QUIT"], "{verbs:?}");
        let row = relay.db().row("SELECT phase, outcome, reply FROM attempts ORDER BY id", []).unwrap();
        assert_eq!(row, format!("end_of_data|{outcome}|{words}"));
    }
}

#[test]
fn a_connection_lost_between_chunks_is_tried_again_and_behind_the_last_is_in_doubt() {
    for (at, state, attempt_row) in [
        (At::Chunk(2), "queued", "end_of_data|deferred|421 4.4.2 "),
        (At::Dot, "held", "end_of_data|in_doubt|421 4.4.2 "),
    ] {
        let (world, mx) = world_with(chunking().on(at, Act::Close));
        let relay = world.relay(Config::new().set("delivery.in_doubt", "\"hold\""));
        relay.submit(SENDER, &[MAILBOX], &large());
        let row = relay
            .wait_until("the attempt", SOON, |db| db.row("SELECT phase, outcome, reply FROM attempts", []));
        assert!(row.starts_with(attempt_row), "{row}");
        assert_eq!(relay.db().row("SELECT state FROM recipients", []).unwrap(), state);
        assert_eq!(mx.seen().len(), 1);
    }
}

/// The intent is on disk before the chunk marked LAST can be complete, and not before it is its turn.
#[test]
fn the_intent_is_recorded_before_the_last_chunk() {
    for (at, recorded) in [(At::Chunk(3), 0), (At::Dot, 1)] {
        let (world, mx) = world_with(chunking().on(at, Act::Stall));
        let relay = world.relay(Config::new().set("delivery.in_doubt", "\"hold\""));
        relay.submit(SENDER, &[MAILBOX], &large());
        let wanted = if recorded == 1 { 4 } else { 3 };
        wait_for("the chunks", SOON, || (chunks(&mx.seen().first().cloned()?).len() == wanted).then_some(()));
        let intents = "SELECT count(*) FROM recipients WHERE in_doubt_since IS NOT NULL";
        assert_eq!(relay.db().number(intents, []), recorded);
    }
}

/// Something on the way lets CHUNKING through and stops BDAT: the content is taken for commands, or never answered
/// for. The same attempt delivers by DATA, and the host is spared from then on.
#[test]
fn a_host_that_offers_chunking_and_fails_at_bdat_gets_the_message_by_data_in_the_same_attempt() {
    for (at, act) in [
        (At::Bdat, Act::Say("500 5.5.2 what?")),
        (At::Bdat, Act::Say("502 5.5.1 not here")),
        (At::Bdat, Act::Close),
        (At::Bdat, Act::Reset),
        (At::Chunk(1), Act::Say("503 5.5.1 out of order")),
        (At::Chunk(1), Act::Close),
    ] {
        let (world, mx) = world_with(chunking().on(at, act.clone()));
        let relay = world.relay(Config::new());
        let content = large();
        let mut client = relay.client();
        for _ in 0..2 {
            client.submit(SENDER, &[MAILBOX], &content);
            relay.wait_until_empty();
        }
        let messages = mx.messages();
        assert_eq!(messages.len(), 2, "{act:?}");
        assert!(messages.iter().all(|message| message.content.ends_with(&content)), "{act:?}");
        assert_eq!(relay.db().attempts(MAILBOX, "delivered"), 2);
        assert_eq!(relay.db().number("SELECT count(*) FROM attempts", []), 2, "{act:?}: one attempt each");
        let seen = mx.seen();
        assert!(!chunks(&seen[0]).is_empty(), "{act:?}");
        assert!(seen[1..].iter().all(|seen| chunks(seen).is_empty()), "{act:?}: the host is remembered");
        let row = relay.db().row("SELECT mx, setting, value, retry_at - changed_at FROM host_settings", []);
        assert_eq!(row.as_deref(), Some("mx.a.test|chunking|off|86400"), "{act:?}");
    }
}

/// After a day, or when somebody says so, one message tries BDAT again.
#[test]
fn a_host_that_learnt_bdat_gets_it_again() {
    let mut world = World::new();
    world.zone(|zone| zone.mx("a.test", 10, "mx.a.test"));
    let broken = chunking().on(At::Bdat, Act::Say("502 5.5.1 not here"));
    let mx = FakeMx::start_at(world.address("mx.a.test"), vec![broken.clone(), broken, chunking()]);
    let relay = world.relay(Config::new().set("delivery.messages_per_connection", "1"));
    relay.submit(SENDER, &[MAILBOX], &large());
    relay.wait_until("the row", SOON, |db| db.row("SELECT 1 FROM host_settings", []));
    relay.wait_until_empty();
    relay.db_for_writing().execute("UPDATE host_settings SET retry_at = unixepoch()", []);
    wait_for("BDAT to be tried again, and the row to go", SOON, || {
        relay.submit(SENDER, &[MAILBOX], &large());
        relay.wait_until_empty();
        relay.db().row("SELECT 1 FROM host_settings", []).is_none().then_some(())
    });
    assert!(mx.seen()[2..].iter().any(|seen| chunks(seen).len() == 4), "{:?}", chunks(&mx.seen()[2]));
}

/// A host in trouble at BDAT is no host that does not know BDAT.
#[test]
fn a_closing_host_is_left_in_peace() {
    let (world, mx) = world_with(chunking().on(At::Chunk(1), Act::SayAndClose("421 4.3.2 shutting down")));
    let relay = world.relay(Config::new());
    relay.submit(SENDER, &[MAILBOX], &large());
    wait_for_attempts(&relay, MAILBOX, "deferred", 1);
    assert_eq!(attempt(&relay), "end_of_data|deferred|421 4.3.2 shutting down");
    assert_eq!(mx.seen().len(), 1);
}
