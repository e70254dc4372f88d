//! DKIM from end to end: what arrives at a host is verified there, by whichever way it came.

use crate::delivery::bdat::large;
use crate::delivery::dkim::assert_verified;
use crate::harness::dkim::{Keys, judge};
use crate::harness::fakemx::{Act, At, FakeMx, SOON, Script};
use crate::harness::relay::{Config, Relay, World, wait_for};
use crate::harness::sender::{wait_for_attempts, wait_for_end};
use crate::whole::mails::{name, our_mails};
use postrider::mail::dkim::Algorithm;

const AUTHOR: &str = "me@example.com";

/// The names of `two`, in the order in which they sign.
const TWO: [&str; 2] = ["example.com/rsa", "example.com/ed"];

/// RSA and Ed25519 for example.com.
fn two(keys: &mut Keys, config: Config) -> Config {
    let config = config.dkim(&keys.add("example.com", "rsa", Algorithm::RsaSha256));
    config.dkim(&keys.add("example.com", "ed", Algorithm::Ed25519Sha256))
}

fn from(author: &str, body: &[u8]) -> Vec<u8> {
    [format!("From: {author}\r\nTo: you@a.test\r\nSubject:  x \r\n\t y\r\n\r\n").as_bytes(), body].concat()
}

/// What came, in its order, and the signatures that each must have.
fn assert_signed(mx: &FakeMx, keys: &Keys, wanted: &[&[&str]]) {
    let messages = mx.wait_for_messages(wanted.len(), SOON);
    for (at, (message, wanted)) in messages.iter().zip(wanted).enumerate() {
        assert_eq!(keys.verified(&message.content), *wanted, "message {at}");
        let size = format!(" SIZE={}", message.content.len());
        assert!(!message.mail.contains(" SIZE=") || message.mail.contains(&size), "{} {size}", message.mail);
    }
}

fn reload(relay: &Relay, config: &Config, words: &str) {
    let before = relay.logged(&[words]).len();
    relay.write_config(config);
    relay.signal("HUP");
    wait_for(words, SOON, || (relay.logged(&[words]).len() > before).then_some(()));
}

/// DATA, BDAT in one write and in chunks; lines that begin with dots, 8 bits, blanks at the ends; and no last line end,
/// which only binary content may lack.
#[test]
fn both_signatures_hold_by_data_and_by_bdat() {
    let mut keys = Keys::new();
    let mut world = World::new();
    let offers = ["PIPELINING", "SIZE", "8BITMIME", "CHUNKING", "BINARYMIME"];
    let by_bdat = world.host("a.test", Script::new().offering(&offers));
    let by_data = world.host("b.test", Script::new().offering(&["SIZE", "8BITMIME"]));
    let relay = world.relay(two(&mut keys, Config::new()));
    let bodies: [&[u8]; 5] =
        [b"one\r\n", b".\r\n..\r\n.a \t\r\n \r\n\r\n", b"", b"gr\xfc\xdfe\r\n", &large()];
    let mut client = relay.client();
    for (at, body) in bodies.iter().enumerate() {
        let content = from(AUTHOR, body);
        client.expect(&format!("MAIL FROM:<{AUTHOR}> BODY=8BITMIME"), "250");
        for host in ["a.test", "b.test"] {
            client.expect(&format!("RCPT TO:<m{at}@{host}>"), "250");
        }
        client.write(format!("BDAT {} LAST\r\n", content.len()).as_bytes()).unwrap();
        client.write(&content).unwrap();
        assert_eq!(client.reply().unwrap().code, 250);
        for host in ["a.test", "b.test"] {
            wait_for_end(&relay, &format!("m{at}@{host}"), "delivered");
        }
    }
    for mx in [&by_bdat, &by_data] {
        assert_signed(mx, &keys, &[&TWO[..]; 5]);
    }
    let verbs = by_bdat
        .seen()
        .iter()
        .flat_map(|seen| seen.verbs().into_iter().map(str::to_owned).collect::<Vec<_>>())
        .collect::<Vec<_>>();
    assert!(verbs.iter().filter(|verb| *verb == "BDAT").count() > 5, "{verbs:?}");
    assert!(by_data.seen().iter().all(|seen| !seen.verbs().contains(&"BDAT")));

    // Lone CR and LF, NUL and all other bytes.
    let all: Vec<u8> = (0..=255).collect();
    let content = from(AUTHOR, &[b"\r\n.\r\n\n.\n\r.\r", &all.repeat(2000)[..], b"\r"].concat());
    client.expect(&format!("MAIL FROM:<{AUTHOR}> BODY=BINARYMIME"), "250");
    client.expect("RCPT TO:<binary@a.test>", "250");
    client.write(format!("BDAT {} LAST\r\n", content.len()).as_bytes()).unwrap();
    client.write(&content).unwrap();
    assert_eq!(client.reply().unwrap().code, 250);
    let message = &by_bdat.wait_for_messages(6, SOON)[5];
    assert!(message.content.ends_with(&content[content.len() - 512_000..]));
    assert_eq!(keys.verified(&message.content), TWO);
}

#[test]
fn the_author_decides_who_signs_and_others_are_left_unsigned_or_signed_as_the_config_says() {
    let mut keys = Keys::new();
    let mut world = World::new();
    let mx = world.host("a.test", Script::new());
    let config = two(&mut keys, Config::new()).dkim(&keys.add("example.org", "o", Algorithm::Ed25519Sha256));
    let relay = world.relay(config);
    let send = |at: usize, author: &str, sender: &str| {
        let to = format!("m{at}@a.test");
        relay.submit(sender, &[&to], &from(author, b"x\r\n"));
        wait_for_end(&relay, &to, "delivered");
    };
    send(0, "Me <me@news.Example.com>", "me@b.test");
    send(1, "me@b.test", AUTHOR);
    send(2, "me@b.test, me@example.org, me@example.com", "me@b.test");
    send(3, "nobody", AUTHOR);
    assert_signed(&mx, &keys, &[&TWO[..], &[], &["example.org/o"], &TWO]);
    reload(&relay, &relay.config().set("delivery.sign_as", "\"example.org\""), "config reloaded");
    send(4, "me@b.test", "me@b.test");
    send(5, AUTHOR, "me@b.test");
    assert_signed(&mx, &keys, &[&TWO[..], &[], &["example.org/o"], &TWO, &["example.org/o"], &TWO]);
}

/// In the attempts, the log and `queue show`; nothing of an attempt that did not come to it, or of others' mail.
#[test]
fn which_keys_signed_is_told() {
    let mut keys = Keys::new();
    let mut world = World::new();
    let _mx = world.host("a.test", Script::new().first(1, At::Dot, Act::Say("451 4.2.0 later")));
    let _off = world.host("off.test", Script::new().on(At::Greeting, Act::Say("421 4.3.2 off")));
    let config = two(&mut keys, Config::new().retry(&["1s"]));
    let over = keys.add("example.org", "old", Algorithm::Ed25519Sha256);
    let relay = world.relay(config.dkim(&format!("{over}until = \"2026-01-01\"\n")));
    let id = relay.submit(AUTHOR, &["you@a.test"], &from(AUTHOR, b"x\r\n"));
    relay.submit("x@b.test", &["other@a.test"], &from("x@b.test", b"x\r\n"));
    relay.submit(AUTHOR, &["you@off.test"], &from(AUTHOR, b"x\r\n"));
    relay.submit("x@example.org", &["late@a.test"], &from("x@example.org", b"x\r\n"));
    wait_for_end(&relay, "you@a.test", "delivered");
    wait_for_end(&relay, "other@a.test", "delivered");
    let names = TWO.join(",");
    for (address, outcome, signed) in [
        ("you@a.test", "deferred", Some(&*names)),
        ("you@a.test", "delivered", Some(&names)),
        ("other@a.test", "delivered", None),
        ("you@off.test", "deferred", None),
        ("late@a.test", "deferred", None),
    ] {
        let line = format!("{outcome} to=<{address}>");
        let lines = wait_for(&line, SOON, || {
            Some(relay.logged(&[&line])).filter(|lines: &Vec<String>| !lines.is_empty())
        });
        let field = lines[0].split(' ').find_map(|word| word.strip_prefix("dkim="));
        assert_eq!(field, signed, "{}", lines[0]);
        let sql = "SELECT DISTINCT coalesce(dkim, '-') FROM attempts WHERE outcome = ?2 AND recipient_id IN (SELECT id \
                   FROM recipients WHERE address = ?1 UNION SELECT recipient_id FROM history WHERE address = ?1)";
        assert_eq!(relay.db().rows(sql, [address, outcome]), [signed.unwrap_or("-")], "{line}");
    }
    let shown = relay.run_ok(&["queue", "show", &id]);
    let words = format!(", signed by {}", TWO.join(", "));
    assert_eq!(shown.matches(&words).count(), 2, "{shown}");
    for (author, words) in [
        (AUTHOR, &words[2..]),
        ("x@news.example.com", &words[2..]),
        ("x@b.test", "not signed: b.test has no [[dkim]]"),
        ("x@example.org", "would wait: no key of example.org is in force"),
    ] {
        let explained = relay.run_ok(&["explain", "you@a.test", "--from", author]);
        assert!(explained.contains(&format!("\n  DKIM: {words}")), "{explained}");
    }
}

/// An application's signature is left alone and holds as before; ours is added, unless that is not wanted and the other
/// one holds by its record. One that was typed, is of another body or header, or whose record is not there, is none.
#[test]
fn mail_that_is_signed_already_keeps_its_signature() {
    let mut keys = Keys::new();
    let mut world = World::new();
    let mx = world.host("a.test", Script::new());
    let first = world.relay(Config::new().dkim(&keys.add("example.com", "app", Algorithm::RsaSha256)));
    first.submit(AUTHOR, &["m0@a.test"], &from(AUTHOR, b"x\r\n"));
    let signed = mx.wait_for_messages(1, SOON).remove(0).content;
    let ours = keys.add("example.com", "ours", Algorithm::Ed25519Sha256);
    let name = "app._domainkey.example.com";
    let record = keys.records[name].clone();
    let text = String::from_utf8(signed.clone()).unwrap();
    let (begin, end) = text.split_once("\r\n\tb=").unwrap();
    let typed = format!("{begin}\r\n\tb=AAAA{}", &end[4..]);
    let (mail, both) = (text.as_str(), &["example.com/ours", "example.com/app"][..]);
    let cases: [(&str, bool, bool, &str, &[&str]); 6] = [
        ("not wanted", false, true, mail, both),
        ("enough", true, true, mail, &both[1..]),
        ("no record", true, false, mail, both),
        ("typed", true, true, &typed, &both[..1]),
        ("another header", true, true, &text.replacen("Subject:  x", "Subject:  y", 1), &both[..1]),
        ("another body", true, true, &format!("{text}more\r\n"), &both[..1]),
    ];
    for (at, (what, skip, has_record, mail, wanted)) in cases.into_iter().enumerate() {
        let strings: Vec<&[u8]> = record.as_bytes().chunks(255).collect();
        world.zone(|zone| if has_record { zone.forget(name).txt(name, &strings) } else { zone.forget(name) });
        let relay = world.relay(Config::new().dkim(&format!("{ours}skip_signed = {skip}\n")));
        relay.submit(AUTHOR, &["m@a.test"], mail.as_bytes());
        relay.wait_until_empty();
        let came = mx.wait_for_messages(at + 2, SOON).remove(at + 1).content;
        let held = judge(&came, &keys.records).into_iter().filter(|(_, verdict)| verdict.is_ok());
        assert_eq!(held.map(|(name, _)| name).collect::<Vec<_>>(), wanted, "{what}");
    }
}

/// Over all lanes and tries one signature serves: another one would have the time of another second in it.
#[test]
fn a_message_to_fifty_domains_is_signed_once() {
    let mut keys = Keys::new();
    let mut world = World::new();
    let mx = world.host("d0.test", Script::new().first(50, At::Dot, Act::Say("451 4.2.0 later")));
    for at in 1..50 {
        world.zone(|zone| zone.mx(&format!("d{at}.test"), 10, "mx.d0.test"));
    }
    let relay = world.relay(two(&mut keys, Config::new().retry(&["1s"])));
    let recipients: Vec<String> = (0..50).map(|at| format!("you@d{at}.test")).collect();
    let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
    relay.submit(AUTHOR, &recipients, &from(AUTHOR, b"x\r\n"));
    relay.wait_until_empty();
    let messages = mx.messages();
    assert!(messages.len() >= 50, "{}", messages.len());
    let (first, _) = messages[0].content.split_at(messages[0].content.len() - from(AUTHOR, b"x\r\n").len());
    for message in &messages {
        assert_eq!(keys.verified(&message.content), TWO);
        assert!(message.content.starts_with(first), "{}", String::from_utf8_lossy(&message.content));
    }
}

#[test]
fn bounces_and_delay_warnings_are_signed() {
    let mut keys = Keys::new();
    let mut world = World::new();
    let home = world.host("example.com", Script::new());
    let _full = world.host("full.test", Script::new().on(At::Rcpt("@"), Act::Say("452 4.2.2 full")));
    let _no = world.host("no.test", Script::new().on(At::Rcpt("@"), Act::Say("550 5.1.1 nobody")));
    let config = Config::new().retry(&["1s"]).set("queue.delay_warning", "\"1s\"");
    let relay = world.relay(config.dkim(&keys.add("relay.test", "s1", Algorithm::RsaSha256)));
    relay.submit(AUTHOR, &["you@no.test", "you@full.test"], &from(AUTHOR, b"x\r\n"));
    let reports = home.wait_for_messages(2, SOON);
    for report in reports {
        assert!(report.mail.starts_with("MAIL FROM:<>"), "{}", report.mail);
        assert_eq!(keys.verified(&report.content), ["relay.test/s1"]);
    }
}

/// The key is out of its time while the relay runs: its mail waits and nothing of it is sent, the operator is told
/// once, other mail goes, and a new key ends the trouble.
#[test]
fn mail_of_a_domain_whose_keys_are_out_of_their_time_waits_and_is_never_sent_unsigned() {
    let mut keys = Keys::new();
    let mut world = World::new();
    let mx = world.host("a.test", Script::new());
    let old = keys.add("example.com", "old", Algorithm::Ed25519Sha256);
    let config = Config::new().retry(&["1s"]);
    let relay = world.relay(config.dkim(&format!("{old}until = \"2026-01-01\"\n")));
    relay.submit(AUTHOR, &["one@a.test"], &from(AUTHOR, b"x\r\n"));
    relay.submit(AUTHOR, &["two@a.test"], &from("x@news.example.com", b"x\r\n"));
    relay.submit("x@b.test", &["other@a.test"], &from("x@b.test", b"x\r\n"));
    wait_for_end(&relay, "other@a.test", "delivered");
    for address in ["one@a.test", "two@a.test"] {
        wait_for_attempts(&relay, address, "deferred", 2);
        let wanted =
            "451 4.3.5 not sent without a DKIM signature: none of its DKIM keys is in force (example.com)";
        let sql = "SELECT DISTINCT phase, outcome, coalesce(mx, 'none'), reply FROM attempts \
                   JOIN recipients ON recipients.id = recipient_id WHERE address = ?1";
        assert_eq!(relay.db().rows(sql, [address]), [format!("mail|deferred|none|{wanted}")]);
    }
    assert_eq!(mx.seen().len(), 1, "no host is asked for what cannot be signed");
    assert_eq!(mx.messages().len(), 1, "nothing but the other's mail");
    assert_eq!(relay.logged(&["ERROR", "mail of example.com waits"]).len(), 1, "told once");
    let new = keys.add("example.com", "new", Algorithm::Ed25519Sha256);
    let both = relay
        .config()
        .without_tables()
        .dkim(&format!("{old}until = \"2026-01-01\"\n"))
        .dkim(&format!("{new}from = \"2026-01-01\"\n"));
    reload(&relay, &both, "config reloaded");
    relay.run_ok(&["queue", "kick", "--all"]);
    relay.wait_until_empty();
    for message in &mx.wait_for_messages(3, SOON)[1..] {
        assert_eq!(keys.verified(&message.content), ["example.com/new"]);
    }
}

/// A reload with a key that is no good changes nothing: the mail is signed with the key of before.
#[test]
fn a_reload_with_a_bad_key_keeps_the_old_one_and_a_start_with_it_fails() {
    let mut keys = Keys::new();
    let mut world = World::new();
    let mx = world.host("a.test", Script::new());
    let good = keys.add("example.com", "good", Algorithm::Ed25519Sha256);
    let gone = keys.add("example.com", "gone", Algorithm::Ed25519Sha256);
    std::fs::remove_file(keys.file("example.com", "gone")).unwrap();
    let relay = world.relay(Config::new().dkim(&good));
    let bad = relay.config().without_tables().dkim(&gone);
    reload(&relay, &bad, "the new config is not used, the old one stays");
    assert_eq!(relay.logged(&["ERROR", "dkim.key: ", "cannot be read"]).len(), 1);
    relay.submit(AUTHOR, &["you@a.test"], &from(AUTHOR, b"x\r\n"));
    assert_signed(&mx, &keys, &[&["example.com/good"]]);
    let output = relay.run(&["serve"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("dkim.key: ") && said.contains("cannot be read"), "{said}");
}

/// And while the relay runs nobody needs the file of a key.
#[test]
fn a_message_that_waited_while_keys_were_rotated_is_signed_by_the_key_of_now() {
    let mut keys = Keys::new();
    let mut world = World::new();
    let mx = world.host("a.test", Script::new().first(1, At::Dot, Act::Say("451 4.2.0 later")));
    let (old, new) = (
        keys.add("example.com", "old", Algorithm::RsaSha256),
        keys.add("example.com", "new", Algorithm::RsaSha256),
    );
    let relay = world.relay(Config::new().dkim(&old));
    let (old_file, away) = (keys.file("example.com", "old"), keys.file("example.com", "away"));
    std::fs::rename(&old_file, &away).unwrap();
    relay.submit(AUTHOR, &["you@a.test"], &from(AUTHOR, b"x\r\n"));
    wait_for_attempts(&relay, "you@a.test", "deferred", 1);
    std::fs::rename(&away, &old_file).unwrap();
    let rotated = relay
        .config()
        .without_tables()
        .dkim(&format!("{old}until = \"2026-06-01\"\n"))
        .dkim(&format!("{new}from = \"2026-06-01\"\n"));
    reload(&relay, &rotated, "config reloaded");
    relay.run_ok(&["queue", "kick", "--all"]);
    wait_for_end(&relay, "you@a.test", "delivered");
    assert_eq!(keys.verified(&mx.messages().last().unwrap().content), ["example.com/new"]);
}

/// The repository's odd mails and a binary one, as they arrive by DATA and by BDAT: every verifier takes each of their
/// signatures.
#[test]
fn other_verifiers_take_what_arrives() {
    let mut keys = Keys::new();
    let mut world = World::new();
    let by_bdat = world.host(
        "a.test",
        Script::new().offering(&["PIPELINING", "SIZE", "8BITMIME", "CHUNKING", "BINARYMIME"]),
    );
    let by_data = world.host("b.test", Script::new().offering(&["8BITMIME"]));
    let config = two(&mut keys, Config::new()).set("delivery.sign_as", "\"example.com\"");
    let relay = world.relay(config.dkim(&format!(
        "{}canonicalization = \"simple/simple\"\n",
        keys.add("example.com", "simple", Algorithm::RsaSha256)
    )));
    let mails = our_mails();
    let mut client = relay.client();
    for file in &mails {
        let content = std::fs::read(file).unwrap();
        client.submit(
            AUTHOR,
            &[&format!("{}@a.test", name(file)), &format!("{}@b.test", name(file))],
            &content,
        );
    }
    let binary = from(AUTHOR, b"\r\n.\r\n\n.\n\r.\r\0\xff \t\r\nno end\r");
    client.expect(&format!("MAIL FROM:<{AUTHOR}> BODY=BINARYMIME"), "250");
    client.expect("RCPT TO:<binary@a.test>", "250");
    client.write(format!("BDAT {} LAST\r\n", binary.len()).as_bytes()).unwrap();
    client.write(&binary).unwrap();
    assert_eq!(client.reply().unwrap().code, 250);
    relay.wait_until_empty();
    let folder = tempfile::tempdir().unwrap();
    for (mx, way, count) in [(&by_bdat, "bdat", mails.len() + 1), (&by_data, "data", mails.len())] {
        let messages = mx.messages();
        assert_eq!(messages.len(), count);
        for message in messages {
            let name = message.rcpts[0].split(['<', '@']).nth(1).unwrap().to_owned();
            let signed = apart(&message.content);
            assert_eq!(signed.len(), 3, "{name}");
            for (at, mail) in signed.iter().enumerate() {
                let kind = ["rsa", "ed25519", "rsa"][at];
                std::fs::write(folder.path().join(format!("{name}.{way}.{at}.{kind}.eml")), mail).unwrap();
            }
        }
    }
    let records: String = keys.records.iter().map(|(name, text)| format!("{name} {text}\n")).collect();
    std::fs::write(folder.path().join("records"), records).unwrap();
    assert_verified(folder.path());
}

/// The message once for each signature on it, without the other ones: most verifiers stop at the first that holds.
fn apart(mail: &[u8]) -> Vec<Vec<u8>> {
    let text =
        |from: usize| memchr::memmem::find(&mail[from..], b"\r\n").map_or(mail.len(), |end| from + end + 2);
    let (mut fields, mut at) = (Vec::new(), 0);
    while mail[at..].starts_with(b"DKIM-Signature:") {
        let from = at;
        at = text(at);
        while mail[at..].starts_with(b"\t") {
            at = text(at);
        }
        fields.push(&mail[from..at]);
    }
    fields.iter().map(|field| [field, &mail[at..]].concat()).collect()
}
