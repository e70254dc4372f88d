//! The delivery connection against a scripted host: what goes over the wire, and what comes of it.

mod answers;
mod login;
mod opening;
mod tls;
mod unchecked;

use std::borrow::Cow;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use postrider::config::{
    DeliverySettings, EightBit, InDoubt, Login, ProhibitedEntry, ProhibitedNetworks, RouteTls, SecretSource,
};
use postrider::delivery::host::profile::{Evidence, Feature, HostKnowledge, Lesson, fallback, learn};
use postrider::delivery::job::ruling::{NextStep, RulingContext, rule};
use postrider::delivery::smtp::connection::{Connection, Connector};
use postrider::delivery::smtp::endpoint::Endpoint;
use postrider::delivery::smtp::outgoing::Outgoing;
use postrider::delivery::smtp::profile::TlsLevel;
use postrider::delivery::smtp::tls::Encryption;
use postrider::delivery::smtp::transaction::RecipientResult;
use postrider::mail::{
    Address, Body, Domain, Handling, Lifetimes, Notify, Outcome, Phase, Recipient, Reply, Ret, TlsPolicy,
    address,
};
use postrider::queue::{QueuedRecipient, RecipientId, Setting};

use crate::harness::fakemx::{Act, At, Certificate, FakeMx, SOON, Script};

/// Nothing is prohibited that may be allowed.
fn anywhere() -> ProhibitedNetworks {
    let all = ["0.0.0.0/0", "::/0"].map(|network| ProhibitedEntry::Take(network.parse().unwrap()));
    ProhibitedNetworks::new(all.to_vec(), false)
}

/// Settings under which nothing but a test's own time-outs ends anything.
pub(crate) fn settings() -> DeliverySettings {
    DeliverySettings {
        tlsrpt: Default::default(),
        hostname: Domain::parse("relay.example.com").unwrap(),
        port: 25,
        https_port: 443,
        mta_sts: false,
        dane: false,
        workers: 1,
        messages_per_connection: 100,
        connections_per_destination: 8,
        destinations: Arc::default(),
        in_doubt: InDoubt::Retry,
        eight_bit: EightBit::Send,
        attempt_deadline: SOON,
        source_addresses: Vec::new(),
        sources: Vec::new(),
        keyring: Default::default(),
        prohibited_networks: anywhere(),
        listen: Vec::new(),
        connect_timeout: SOON,
        reply_timeout: SOON,
        ca_file: None,
        lifetimes: Lifetimes { messages: 0, bounces: 0 },
        delay_warning: None,
        bounces_per_sender: None,
        retry_rules: Vec::new(),
    }
}

/// Settings under which a silent host costs a test little time.
fn impatient() -> DeliverySettings {
    DeliverySettings { reply_timeout: Duration::from_millis(150), ..settings() }
}

fn endpoint(mx: &FakeMx, tls: RouteTls) -> Endpoint {
    Endpoint {
        host: "mx.example.net".to_owned(),
        address: mx.address,
        tls,
        policy: TlsPolicy::None,
        dane: None,
        ca_file: None,
        login: None,
        relay: false,
        preference: 10,
        sources: Arc::default(),
    }
}

fn soon() -> Instant {
    Instant::now() + SOON
}

/// Opens connections as an attempt does: without what the host fails at, which is remembered of all hosts alike.
pub(crate) struct Opener {
    connector: Connector,
    known: Mutex<HostKnowledge>,
}

/// Why there is no connection, and what that means for the mail.
#[derive(Debug)]
pub(crate) struct NotOpened {
    pub(crate) phase: Phase,
    pub(crate) reply: Reply,
    pub(crate) tls: Option<Encryption>,
    pub(crate) outcome: Outcome,
}

impl std::fmt::Display for NotOpened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.phase.as_str(), self.reply)
    }
}

impl Opener {
    pub(crate) fn new(settings: &DeliverySettings) -> Opener {
        Opener { connector: Connector::new(settings).unwrap(), known: Mutex::new(HostKnowledge::NOTHING) }
    }

    pub(crate) fn open(&self, endpoint: &Endpoint, deadline: Instant) -> Result<Connection, NotOpened> {
        let mut known = self.known.lock().unwrap();
        let (mut profile, mut tried) = (known.profile_for(endpoint), Vec::new());
        let opened = loop {
            let opened = self.connector.open(endpoint, profile, deadline);
            let evidence = match &opened {
                Ok(opened) => Evidence::opened(opened.tls.clone()),
                Err(not) => Evidence::unopened(not.failure.clone()),
            };
            let next = fallback(&profile, &evidence, endpoint, &known);
            tried.push((profile, evidence));
            match next {
                Some(next) => profile = next,
                None => break opened,
            }
        };
        for lesson in learn(&tried, &known) {
            match lesson {
                Lesson::LeaveOut(Setting::NoPostQuantum, _) => known.profile.tls = TlsLevel::NoPostQuantum,
                Lesson::LeaveOut(Setting::Plaintext, _) => known.profile.tls = TlsLevel::Plaintext,
                Lesson::Works(Feature::Tls) => known.profile = HostKnowledge::NOTHING.profile,
                other => panic!("{other:?} from opening alone"),
            }
        }
        opened.map(|opened| opened.connection).map_err(|not| {
            let context = RulingContext { relay: endpoint.relay, ..RulingContext::default() };
            let outcome = rule(&not.failure, &context).outcome;
            NotOpened { phase: not.failure.phase(), reply: not.failure.reply(), tls: not.tls(), outcome }
        })
    }
}

fn open(mx: &FakeMx) -> Result<Connection, NotOpened> {
    Opener::new(&settings()).open(&endpoint(mx, RouteTls::Opportunistic), soon())
}

/// What came of one recipient at one host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RecipientState {
    Delivered,
    Relayed,
    Deferred,
    Failed,
    InDoubt,
    NextTransaction,
    HostTrouble,
}

/// By the table in docs/protocol.md.
fn state(result: &RecipientResult) -> RecipientState {
    let (failure, in_doubt) = match result {
        RecipientResult::Accepted { relayed: false, .. } => return RecipientState::Delivered,
        RecipientResult::Accepted { relayed: true, .. } => return RecipientState::Relayed,
        RecipientResult::NextTransaction => return RecipientState::NextTransaction,
        RecipientResult::Failed(failure) => (failure, false),
        RecipientResult::InDoubt(failure) => (failure, true),
    };
    let ruling = rule(failure, &RulingContext { in_doubt, ..RulingContext::default() });
    match (ruling.next, ruling.outcome) {
        (NextStep::NextHost | NextStep::Requeue(_), _) => RecipientState::HostTrouble,
        (NextStep::Stop, Outcome::Failed) => RecipientState::Failed,
        (NextStep::Stop, Outcome::InDoubt) => RecipientState::InDoubt,
        (NextStep::Stop, _) => RecipientState::Deferred,
    }
}

/// Where it was decided, and in which words.
fn said(result: &RecipientResult) -> (Phase, Reply) {
    match result {
        RecipientResult::Accepted { reply, .. } => (Phase::EndOfData, reply.clone()),
        RecipientResult::Failed(failure) | RecipientResult::InDoubt(failure) => {
            (failure.phase(), failure.reply())
        }
        RecipientResult::NextTransaction => panic!("nothing was decided"),
    }
}

fn parse(address: &str) -> Address {
    address::parse(address).unwrap()
}

fn recipient(address: &str) -> QueuedRecipient {
    QueuedRecipient::new(RecipientId(1), Recipient::new(parse(address)))
}

fn outgoing<'a>(sender: &'a Address, recipients: &'a [&'a QueuedRecipient], content: &[u8]) -> Outgoing<'a> {
    Outgoing {
        sender: Some(sender),
        recipients,
        body: Body::SevenBit,
        eight_bit: EightBit::Send,
        smtputf8: false,
        prefix: b"",
        size: content.len() as u64,
        ret: None,
        envid: None,
        handling: Handling::default(),
        now: 0,
        single_write: true,
    }
}

/// Hands over `content` in chunks of 4 MiB or less.
fn deliver(connection: &mut Connection, message: &Outgoing<'_>, content: &[u8]) -> Vec<RecipientResult> {
    let mut chunks = content.chunks(4 << 20);
    let mut next = || Ok(chunks.next().map(Cow::Borrowed));
    connection.deliver(message, &mut next, &mut |_: &[usize]| Ok(()), soon()).results
}

/// A small message from a@example.org to these.
fn send(connection: &mut Connection, to: &[&str]) -> Vec<RecipientResult> {
    let recipients: Vec<QueuedRecipient> = to.iter().map(|address| recipient(address)).collect();
    let recipients: Vec<&QueuedRecipient> = recipients.iter().collect();
    let content = b"Subject: hi\r\n\r\nhello\r\n";
    deliver(connection, &outgoing(&parse("a@example.org"), &recipients, content), content)
}

fn states(results: &[RecipientResult]) -> Vec<RecipientState> {
    results.iter().map(state).collect()
}

/// Phase, state and reply of the only result.
fn only(results: &[RecipientResult]) -> (Phase, RecipientState, String) {
    assert_eq!(results.len(), 1);
    let (phase, reply) = said(&results[0]);
    (phase, state(&results[0]), reply.to_string())
}

/// One small message to one recipient at a host that behaves like this.
fn send_one(script: Script) -> (Phase, RecipientState, String) {
    let mx = FakeMx::start(script);
    let mut connection = open(&mx).unwrap();
    only(&send(&mut connection, &["b@example.net"]))
}

fn trouble_at(script: Script) -> (Phase, Outcome, String) {
    let trouble = open(&FakeMx::start(script)).unwrap_err();
    (trouble.phase, trouble.outcome, trouble.reply.to_string())
}

// ---- the ordinary way -----------------------------------------------------------------------------

#[test]
fn a_small_message_takes_two_writes_and_the_connection_is_used_again() {
    let mx = FakeMx::start(Script::new());
    let mut connection = open(&mx).unwrap();
    for _ in 0..2 {
        let results = send(&mut connection, &["b@example.net", "c@example.net"]);
        assert_eq!(states(&results), [RecipientState::Delivered; 2]);
        assert_eq!(said(&results[1]).1.to_string(), "250 2.0.0 queued");
        assert!(connection.is_usable() && connection.look_after_idling().is_ok());
    }
    assert_eq!((connection.messages(), connection.tls()), (2, Encryption::None));
    connection.quit();
    let seen = &mx.wait_for_closed(1, SOON)[0];
    assert_eq!(
        seen.verbs(),
        ["EHLO", "MAIL", "RCPT", "RCPT", "DATA", "RSET", "MAIL", "RCPT", "RCPT", "DATA", "RSET", "QUIT"]
    );
    assert_eq!(seen.commands[0], "EHLO relay.example.com");
    assert_eq!(seen.reads.len(), 1 + 2 + 2 + 1, "EHLO, two writes a message, QUIT: {:?}", seen.reads);
    let message = &mx.messages()[1];
    assert_eq!(message.mail, "MAIL FROM:<a@example.org> SIZE=22");
    assert_eq!(message.content, b"Subject: hi\r\n\r\nhello\r\n");
}

#[test]
fn without_pipelining_every_command_waits_for_its_reply() {
    let mx = FakeMx::start(Script::new().offering(&[]));
    let mut connection = open(&mx).unwrap();
    assert_eq!(states(&send(&mut connection, &["b@example.net"])), [RecipientState::Delivered]);
    connection.quit();
    let seen = &mx.wait_for_closed(1, SOON)[0];
    assert_eq!(seen.reads.len(), 7, "EHLO MAIL RCPT DATA content RSET QUIT: {:?}", seen.reads);
    assert_eq!(mx.messages()[0].mail, "MAIL FROM:<a@example.org>");
}

#[test]
fn content_arrives_byte_for_byte() {
    let big =
        [b"..\r\n.\r\n".to_vec(), [vec![b'x'; 700], b"\r\n.y\r\n".to_vec()].concat().repeat(9000)].concat();
    for content in [
        &b""[..],
        b".\r\n",
        b"..\r\n...\r\n.a\r\nb.\r\n",
        b"H: caf\xe9\r\n\r\n\0\x80\xff\r\n",
        b"\r\n\r\n.\r\n\r\n",
        &big,
    ] {
        for script in [Script::new(), Script::new().tls(&Certificate::for_names(&["mx.example.net"]))] {
            let mx = FakeMx::start(script);
            let (sender, to) = (parse("a@example.org"), recipient("b@example.net"));
            let results = deliver(&mut open(&mx).unwrap(), &outgoing(&sender, &[&to], content), content);
            assert_eq!(states(&results), [RecipientState::Delivered]);
            assert!(mx.messages()[0].content == content, "{} bytes differ", content.len());
        }
    }
}

#[test]
fn a_missing_final_line_end_is_added() {
    let mx = FakeMx::start(Script::new());
    let (sender, to) = (parse("a@example.org"), recipient("b@example.net"));
    deliver(&mut open(&mx).unwrap(), &outgoing(&sender, &[&to], b"x\r\n.y"), b"x\r\n.y");
    assert_eq!(mx.messages()[0].content, b"x\r\n.y\r\n");
    assert_eq!(mx.seen()[0].raw_content, b"x\r\n..y\r\n.\r\n");
}

#[test]
fn dsn_parameters_travel_as_they_were_given() {
    let mx = FakeMx::start(Script::new());
    let sender = parse("a@example.org");
    let mut to = recipient("b@example.net");
    to.notify = Notify::from_word("SUCCESS,DELAY");
    to.orcpt = Some("rfc822;b+2Bx@example.net".to_owned());
    let to = [&to];
    let message = Outgoing {
        ret: Some(Ret::Hdrs),
        envid: Some("QQ+3D1"),
        body: Body::EightBitMime,
        ..outgoing(&sender, &to, b"x\r\n")
    };
    assert_eq!(only(&deliver(&mut open(&mx).unwrap(), &message, b"x\r\n")).1, RecipientState::Delivered);
    assert_eq!(
        mx.seen()[0].commands[1..3],
        [
            "MAIL FROM:<a@example.org> SIZE=3 BODY=8BITMIME RET=HDRS ENVID=QQ+3D1",
            "RCPT TO:<b@example.net> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;b+2Bx@example.net",
        ]
    );

    let mx = FakeMx::start(Script::new().offering(&["PIPELINING"]));
    assert_eq!(only(&deliver(&mut open(&mx).unwrap(), &message, b"x\r\n")).1, RecipientState::Relayed);
    assert_eq!(mx.seen()[0].commands[1..3], ["MAIL FROM:<a@example.org>", "RCPT TO:<b@example.net>"]);
}

// ---- time -----------------------------------------------------------------------------------------

#[test]
fn a_silent_host_is_given_up_after_the_stages_time_out() {
    for (at, phase, state) in [
        (At::Mail, Phase::Mail, RecipientState::HostTrouble),
        (At::Data, Phase::Data, RecipientState::HostTrouble),
        (At::Dot, Phase::EndOfData, RecipientState::InDoubt),
    ] {
        let mx = FakeMx::start(Script::new().on(at, Act::Stall));
        let connector = Opener::new(&impatient());
        let mut connection = connector.open(&endpoint(&mx, RouteTls::Off), soon()).unwrap();
        let outcome = only(&send(&mut connection, &["b@b"]));
        assert_eq!((outcome.0, outcome.1), (phase, state));
        assert!(outcome.2.starts_with("421 4.4.2 timed out while waiting for the reply to"), "{}", outcome.2);
    }
    let mx = FakeMx::start(Script::new().on(At::Greeting, Act::Stall));
    let trouble = Opener::new(&impatient()).open(&endpoint(&mx, RouteTls::Off), soon()).unwrap_err();
    assert_eq!(trouble.reply.to_string(), "421 4.4.2 timed out while waiting for the greeting");
}

#[test]
fn the_stages_time_out_holds_for_the_whole_reply_and_the_deadline_for_all() {
    let drip = || FakeMx::start(Script::new().on(At::Greeting, Act::Drip(Duration::from_millis(20))));
    let mx = drip();
    let began = Instant::now();
    let trouble = Opener::new(&impatient()).open(&endpoint(&mx, RouteTls::Off), soon()).unwrap_err();
    assert_eq!(trouble.reply.to_string(), "421 4.4.2 timed out while waiting for the greeting");
    let mx = drip();
    let deadline = Instant::now() + Duration::from_millis(150);
    let trouble = Opener::new(&settings()).open(&endpoint(&mx, RouteTls::Off), deadline).unwrap_err();
    assert_eq!(
        trouble.reply.to_string(),
        "421 4.4.2 the attempt's deadline passed while waiting for the greeting"
    );
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_host_that_stops_reading_is_given_up() {
    let mx = FakeMx::start(Script::new().on(At::Content(1000), Act::Asleep));
    let connector = Opener::new(&impatient());
    let mut connection = connector.open(&endpoint(&mx, RouteTls::Off), soon()).unwrap();
    let (sender, to) = (parse("a@example.org"), recipient("b@example.net"));
    let content = b"0123456789\r\n".repeat(2 << 20);
    let outcome = only(&deliver(&mut connection, &outgoing(&sender, &[&to], &content), &content));
    let words = "421 4.4.2 timed out while sending the content".to_owned();
    assert_eq!(outcome, (Phase::EndOfData, RecipientState::HostTrouble, words));
}

#[test]
fn a_connection_that_the_host_closed_meanwhile_is_stale() {
    let mx = FakeMx::start(Script::new().on(At::Dot, Act::SayAndClose("250 2.0.0 queued, bye")));
    let mut connection = open(&mx).unwrap();
    assert_eq!(states(&send(&mut connection, &["b@b"])), [RecipientState::Delivered]);
    let until = soon();
    while connection.look_after_idling().is_ok() {
        assert!(Instant::now() < until, "the close never showed");
        std::thread::yield_now();
    }
    let (phase, state, _) = only(&send(&mut connection, &["b@b"]));
    assert_eq!((phase, state), (Phase::Mail, RecipientState::HostTrouble));
}

/// A host that says something between two messages: what it has said by then decides, and nobody waits for the rest.
/// At a stop all idle connections are looked at, one after the other.
#[test]
fn an_idle_connection_is_looked_at_without_waiting() {
    let tls = Certificate::for_names(&["mx.example.net"]);
    for (words, is_held_against_it) in [
        ("4", false),
        ("421-4.4.2 too\r\n421 4.4.2 la", false),
        ("421 4.4.2 too late\r\n", false),
        ("250 2.0.0 queued\r\n", true),
        ("what?\r\n", true),
    ] {
        let later = Act::Later(Duration::from_millis(20), Box::new(Act::Raw(words.into())));
        let act = Act::Then(vec![Act::Say("250 2.0.0 reset"), later]);
        for script in [Script::new(), Script::new().tls(&tls)] {
            let mx = FakeMx::start(script.on(At::Rset, act.clone()));
            let mut connection = open(&mx).unwrap();
            assert_eq!(states(&send(&mut connection, &["b@b"])), [RecipientState::Delivered]);
            let until = soon();
            let (failure, took) = loop {
                let began = Instant::now();
                match connection.look_after_idling() {
                    Ok(()) => assert!(Instant::now() < until, "the words never came"),
                    Err(failure) => break (failure, began.elapsed()),
                }
                std::thread::yield_now();
            };
            assert_eq!(failure.is_some(), is_held_against_it, "{words:?}");
            assert!(took < Duration::from_millis(500), "{words:?}: {took:?}");
        }
    }
}

// ---- BDAT -----------------------------------------------------------------------------------------

#[test]
fn binary_content_goes_as_it_is_and_a_small_one_takes_two_writes() {
    let mx = FakeMx::start(Script::new().offering(&["PIPELINING", "CHUNKING", "BINARYMIME"]));
    let big = [b"Subject: big\r\n\r\n".to_vec(), (0..=255).collect::<Vec<u8>>().repeat(8192)].concat();
    for content in [&b"Subject: hi\r\n\r\n.\r\n\n.\n\0\r"[..], &big] {
        let mut connection = open(&mx).unwrap();
        let (sender, to) = (parse("a@example.org"), recipient("b@example.net"));
        let to = [&to];
        let message = Outgoing { body: Body::BinaryMime, ..outgoing(&sender, &to, content) };
        let results = deliver(&mut connection, &message, content);
        assert_eq!(
            only(&results),
            (Phase::EndOfData, RecipientState::Delivered, "250 2.0.0 queued".to_owned())
        );
        assert!(!connection.is_usable(), "QUIT was behind it");
    }
    let messages = mx.messages();
    assert_eq!(messages[0].mail, "MAIL FROM:<a@example.org> BODY=BINARYMIME");
    assert_eq!(messages[0].content, b"Subject: hi\r\n\r\n.\r\n\n.\n\0\r");
    assert!(messages[1].content == big, "{} bytes", messages[1].content.len());
    let seen = mx.wait_for_closed(2, SOON);
    assert_eq!(seen[0].verbs(), ["EHLO", "MAIL", "RCPT", "BDAT", "QUIT"]);
    // The big one has three chunks, of 1 MiB at most.
    assert_eq!(seen[1].verbs(), ["EHLO", "MAIL", "RCPT", "BDAT", "BDAT", "BDAT", "QUIT"]);
    // EHLO, the commands, the chunk with QUIT.
    let chunk = "BDAT 23 LAST\r\n".len() + 23 + "QUIT\r\n".len();
    assert_eq!(seen[0].reads[2..], [chunk], "{:?}", seen[0].reads);
}

/// The host was promised a size. What is other than that must not be made up for with the next commands.
#[test]
fn binary_content_of_another_size_than_was_said_cuts_the_connection() {
    for (size, expected) in [(10, RecipientState::Deferred), (100, RecipientState::Deferred)] {
        let mx = FakeMx::start(Script::new().offering(&["CHUNKING", "BINARYMIME"]));
        let mut connection = open(&mx).unwrap();
        let (sender, to) = (parse("a@example.org"), recipient("b@example.net"));
        let to = [&to];
        let content = b"Subject: hi\r\n\r\nhello\r\n";
        let message = Outgoing { body: Body::BinaryMime, size, ..outgoing(&sender, &to, content) };
        let results = deliver(&mut connection, &message, content);
        assert_eq!(state(&results[0]), expected);
        assert!(said(&results[0]).1.to_string().starts_with("451 4.3.0 "), "{}", said(&results[0]).1);
        assert!(!connection.is_usable());
        mx.wait_for_closed(1, SOON);
        assert!(mx.messages().is_empty());
    }
}
