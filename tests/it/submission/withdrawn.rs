//! Who may send no more: the session that is open hears it, wherever it is, and nothing of it is queued.

use std::io::Read as _;
use std::time::{Duration, Instant};

use crate::harness::fakemx::SOON;
use crate::harness::relay::{Client, Config, Relay, World, wait_for};
use crate::harness::sender::SENDER;

use super::abuse::{RECIPIENT, begin, recipients};

const NAME: &str = "leaver";
/// What is promised is a second; the rest is for a machine that is busy with other tests.
const AT_ONCE: Duration = Duration::from_secs(3);

/// Where a session can be.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Place {
    Ready,
    Mail,
    Rcpt,
    /// Within the content, and silent.
    Data,
    /// Within the content, which goes on and on.
    Streaming,
    /// Between two chunks.
    Chunks,
    /// Within one.
    Chunk,
}

const PLACES: [Place; 7] =
    [Place::Ready, Place::Mail, Place::Rcpt, Place::Data, Place::Streaming, Place::Chunks, Place::Chunk];

impl Place {
    fn go(self, client: &mut Client) {
        match self {
            Place::Ready => {}
            Place::Mail => drop(client.expect(&format!("MAIL FROM:<{SENDER}>"), "250")),
            _ => begin(client),
        }
        match self {
            Place::Data | Place::Streaming => {
                client.expect("DATA", "354");
                client.write(b"Subject: half\r\n\r\n").unwrap();
            }
            Place::Chunks => {
                client.write(b"BDAT 9\r\nSubject:\n").unwrap();
                assert_eq!(client.reply().unwrap().code, 250);
            }
            Place::Chunk => client.write(b"BDAT 90 LAST\r\nSubject:\n").unwrap(),
            Place::Ready | Place::Mail | Place::Rcpt => {}
        }
    }
}

/// Waits for the 421, sending on where it should.
fn hear_the_end(client: &mut Client, place: Place) {
    let start = Instant::now();
    if place == Place::Streaming {
        client.stream().set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let mut first = [0; 1];
        while client.stream().read(&mut first).is_err() {
            assert!(start.elapsed() < AT_ONCE, "it goes on taking content");
            let _ = client.write(b"and more\r\n");
        }
        assert_eq!(&first, b"4");
        return;
    }
    let reply = client.reply().unwrap_or_else(|error| panic!("{place:?}: {error}"));
    assert_eq!((reply.code, &reply.text[..6]), (421, "4.7.0 "), "{place:?}");
    assert!(start.elapsed() < AT_ONCE, "{place:?}: {:?}", start.elapsed());
    assert!(client.is_closed(), "{place:?}");
}

fn logged_in(relay: &Relay, place: Place) -> Client {
    let mut client = relay.client();
    client.log_in(NAME);
    client.submit(SENDER, &[RECIPIENT], b"Subject: before\r\n\r\n");
    place.go(&mut client);
    client
}

#[test]
fn a_removed_user_is_sent_away_wherever_its_session_is() {
    let relay = World::new().relay(Config::new());
    let another_password = |relay: &Relay| {
        let file = relay.path("users");
        let text = std::fs::read_to_string(&file).unwrap();
        let (mine, others): (Vec<_>, Vec<_>) =
            text.lines().partition(|line| line.starts_with(&format!("{NAME} ")));
        let app = others.iter().find(|line| line.starts_with("app ")).unwrap();
        let verifier = app.split(' ').nth(1).unwrap();
        assert_eq!(mine.len(), 1);
        std::fs::write(relay.path("new"), format!("{}\n{NAME} {verifier}\n", others.join("\n"))).unwrap();
        std::fs::rename(relay.path("new"), file).unwrap();
    };
    for withdraw in [&|relay: &Relay| drop(relay.run_ok(&["user", "remove", NAME])), &another_password]
        as [&dyn Fn(&Relay); 2]
    {
        let _ = relay.run(&["user", "remove", NAME]);
        relay.add_user_with(NAME, &[]);
        let mut clients: Vec<_> = PLACES.iter().map(|place| (logged_in(&relay, *place), *place)).collect();
        let mut other = relay.client();
        other.log_in("app");
        let before = recipients(&relay);
        withdraw(&relay);
        for (client, place) in &mut clients {
            hear_the_end(client, *place);
        }
        assert_eq!(recipients(&relay), before, "nothing that was under way is queued");
        other.submit(SENDER, &[RECIPIENT], b"Subject: others go on\r\n\r\n");
    }
    assert!(!relay.logged(&["user leaver: 421 4.7.0"]).is_empty());
}

/// At the next MAIL at once, without waiting for the thread that looks.
#[test]
fn mail_looks_at_the_users_file_itself_and_takes_over_what_changed() {
    let relay = World::new().relay(Config::new());
    relay.add_user_with(NAME, &[]);
    let mut client = logged_in(&relay, Place::Ready);
    let file = relay.path("users");
    let text = std::fs::read_to_string(&file).unwrap();
    let narrow = |line: &str| match line.starts_with(NAME) {
        true => format!("{line} senders=other@app.test\n"),
        false => format!("{line}\n"),
    };
    std::fs::write(relay.path("new"), text.lines().map(narrow).collect::<String>()).unwrap();
    std::fs::rename(relay.path("new"), file).unwrap();
    client.expect(&format!("MAIL FROM:<{SENDER}>"), "553 5.7.1");
    client.expect("MAIL FROM:<other@app.test>", "250");
}

#[test]
fn a_network_that_is_no_longer_trusted_is_sent_away_from_its_transaction() {
    let relay = World::new().relay(Config::new());
    let mut clients: Vec<_> = PLACES
        .iter()
        .map(|place| {
            let mut client = relay.client();
            place.go(&mut client);
            (client, *place)
        })
        .collect();
    let config = std::fs::read_to_string(relay.path("postrider.toml")).unwrap();
    let config = config.replace("trusted = [\"127.0.0.0/8\"]", "trusted = [\"192.0.2.0/24\"]");
    std::fs::write(relay.path("postrider.toml"), config).unwrap();
    relay.signal("HUP");
    wait_for("the reload", SOON, || relay.log().contains(crate::harness::log::RELOADED).then_some(()));
    for (client, place) in &mut clients {
        match place {
            Place::Ready => drop(client.expect(&format!("MAIL FROM:<{SENDER}>"), "530 5.7.0")),
            _ => hear_the_end(client, *place),
        }
    }
    assert_eq!(recipients(&relay), 0);
}
