//! The delivery connection against a scripted host: what goes over the wire, and what comes of it.

use std::borrow::Cow;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use postrider::config::{DeliverySettings, EightBit, InDoubt, Login, RouteTls, SecretSource};
use postrider::delivery::connection::{Connection, Connector, Trouble};
use postrider::delivery::meaning::{RecipientResult, TroubleKind, Verdict};
use postrider::delivery::route::Endpoint;
use postrider::delivery::transaction::Outgoing;
use postrider::mail::{Address, Body, Domain, Handling, Notify, Phase, Ret, Speaker, address};
use postrider::queue::{QueuedRecipient, RecipientId};

use crate::fakemx::{Act, At, Certificate, FakeMx, SOON, Script};

/// Settings under which nothing but a test's own time-outs ends anything.
pub(crate) fn settings() -> DeliverySettings {
    DeliverySettings {
        hostname: Domain::parse("relay.example.com").unwrap(),
        port: 25,
        workers: 1,
        messages_per_connection: 100,
        connections_per_destination: 8,
        destinations: Arc::default(),
        in_doubt: InDoubt::Retry,
        eight_bit: EightBit::Send,
        attempt_deadline: SOON,
        source_addresses: Vec::new(),
        sources: Vec::new(),
        prohibited_networks: Vec::new(),
        connect_timeout: SOON,
        reply_timeout: SOON,
        ca_file: None,
        bounce_lifetime: SOON,
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

fn open(mx: &FakeMx) -> Result<Connection, Trouble> {
    Connector::new(&settings()).unwrap().open(&endpoint(mx, RouteTls::Opportunistic), soon())
}

fn parse(address: &str) -> Address {
    address::parse(address).unwrap()
}

fn recipient(address: &str) -> QueuedRecipient {
    let address = parse(address);
    QueuedRecipient {
        id: RecipientId(1),
        domain: Domain::of(&address),
        address,
        attempts: 0,
        notify: None,
        orcpt: None,
        expanded: Vec::new(),
        last_reply: None,
        last_mx: None,
        last_said_by: Speaker::Postrider,
        warned_at: None,
        to_bounce: false,
    }
}

fn outgoing<'a>(sender: &'a Address, recipients: &'a [&'a QueuedRecipient], content: &[u8]) -> Outgoing<'a> {
    Outgoing {
        sender: Some(sender),
        recipients,
        body: Body::SevenBit,
        eight_bit: EightBit::Send,
        smtputf8: false,
        size: content.len() as u64,
        ret: None,
        envid: None,
        handling: Handling::default(),
        now: 0,
        in_one_go: true,
    }
}

/// Hands over `content` in chunks of 4 MiB or less.
fn deliver(connection: &mut Connection, message: &Outgoing<'_>, content: &[u8]) -> Vec<RecipientResult> {
    let mut chunks = content.chunks(4 << 20);
    let mut next = || Ok(chunks.next().map(Cow::Borrowed));
    connection.deliver(message, &mut next, &mut |_: &[usize]| Ok(()), soon())
}

/// A small message from a@example.org to these.
fn send(connection: &mut Connection, to: &[&str]) -> Vec<RecipientResult> {
    let recipients: Vec<QueuedRecipient> = to.iter().map(|address| recipient(address)).collect();
    let recipients: Vec<&QueuedRecipient> = recipients.iter().collect();
    let content = b"Subject: hi\r\n\r\nhello\r\n";
    deliver(connection, &outgoing(&parse("a@example.org"), &recipients, content), content)
}

fn verdicts(results: &[RecipientResult]) -> Vec<Verdict> {
    results.iter().map(|result| result.verdict).collect()
}

/// Phase, verdict and reply of the only result.
fn only(results: &[RecipientResult]) -> (Phase, Verdict, String) {
    assert_eq!(results.len(), 1);
    (results[0].phase, results[0].verdict, results[0].reply.to_string())
}

/// One small message to one recipient at a host that behaves like this.
fn send_one(script: Script) -> (Phase, Verdict, String) {
    let mx = FakeMx::start(script);
    let mut connection = open(&mx).unwrap();
    only(&send(&mut connection, &["b@example.net"]))
}

fn trouble_at(script: Script) -> (Phase, TroubleKind, String) {
    let trouble = open(&FakeMx::start(script)).unwrap_err();
    (trouble.phase, trouble.kind, trouble.reply.to_string())
}

// ---- the ordinary way -------------------------------------------------------------------------

#[test]
fn a_small_message_takes_two_writes_and_the_connection_is_used_again() {
    let mx = FakeMx::start(Script::new());
    let mut connection = open(&mx).unwrap();
    for _ in 0..2 {
        let results = send(&mut connection, &["b@example.net", "c@example.net"]);
        assert_eq!(verdicts(&results), [Verdict::Delivered; 2]);
        assert_eq!(results[1].reply.to_string(), "250 2.0.0 queued");
        assert!(connection.is_usable() && !connection.is_stale());
    }
    assert_eq!((connection.messages(), connection.tls()), (2, "none"));
    connection.quit();
    let seen = &mx.wait_for_closed(1, SOON)[0];
    assert_eq!(
        seen.verbs(),
        ["EHLO", "MAIL", "RCPT", "RCPT", "DATA", "MAIL", "RCPT", "RCPT", "DATA", "QUIT"]
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
    assert_eq!(verdicts(&send(&mut connection, &["b@example.net"])), [Verdict::Delivered]);
    connection.quit();
    let seen = &mx.wait_for_closed(1, SOON)[0];
    assert_eq!(seen.reads.len(), 6, "EHLO MAIL RCPT DATA content QUIT: {:?}", seen.reads);
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
            assert_eq!(verdicts(&results), [Verdict::Delivered]);
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
    assert_eq!(only(&deliver(&mut open(&mx).unwrap(), &message, b"x\r\n")).1, Verdict::Delivered);
    assert_eq!(
        mx.seen()[0].commands[1..3],
        [
            "MAIL FROM:<a@example.org> SIZE=3 BODY=8BITMIME RET=HDRS ENVID=QQ+3D1",
            "RCPT TO:<b@example.net> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;b+2Bx@example.net",
        ]
    );

    let mx = FakeMx::start(Script::new().offering(&["PIPELINING"]));
    assert_eq!(only(&deliver(&mut open(&mx).unwrap(), &message, b"x\r\n")).1, Verdict::Relayed);
    assert_eq!(mx.seen()[0].commands[1..3], ["MAIL FROM:<a@example.org>", "RCPT TO:<b@example.net>"]);
}

// ---- greeting and EHLO ------------------------------------------------------------------------

#[test]
fn a_host_that_does_not_know_ehlo_is_greeted_with_helo() {
    let mx = FakeMx::start(Script::new().on(At::Ehlo, Act::Say("502 5.5.1 what?")));
    let mut connection = open(&mx).unwrap();
    assert_eq!(verdicts(&send(&mut connection, &["b@example.net"])), [Verdict::Delivered]);
    assert_eq!(
        mx.seen()[0].commands[..3],
        ["EHLO relay.example.com", "HELO relay.example.com", "MAIL FROM:<a@example.org>"]
    );
}

#[test]
fn what_is_said_before_mail_is_about_the_host() {
    use TroubleKind::{HostRefuses, NextHost};
    for (script, phase, kind, words) in [
        (
            Script::new().on(At::Greeting, Act::Say("554 no mail here")),
            Phase::Greeting,
            HostRefuses,
            "554 no mail here",
        ),
        (Script::new().on(At::Greeting, Act::Say("521 no")), Phase::Greeting, HostRefuses, "521 no"),
        (
            Script::new().on(At::Greeting, Act::Say("450 4.3.2 later")),
            Phase::Greeting,
            NextHost,
            "450 4.3.2 later",
        ),
        (Script::new().on(At::Greeting, Act::Say("421 busy")), Phase::Greeting, NextHost, "421 busy"),
        (Script::new().on(At::Greeting, Act::Say("354 odd")), Phase::Greeting, NextHost, "354 odd"),
        (Script::new().on(At::Greeting, Act::Say("699 odd")), Phase::Greeting, NextHost, "699 odd"),
        (
            Script::new().on(At::Greeting, Act::Say("25")),
            Phase::Greeting,
            NextHost,
            "451 4.5.0 malformed reply while waiting for the greeting: \"25\"",
        ),
        (
            Script::new().on(At::Greeting, Act::Close),
            Phase::Greeting,
            NextHost,
            "421 4.4.2 the host closed the connection while waiting for the greeting",
        ),
        (Script::new().on(At::Ehlo, Act::Say("451 later")), Phase::Ehlo, NextHost, "451 later"),
        (
            Script::new().on(At::Ehlo, Act::Say("550 no")).on(At::Helo, Act::Say("550 5.7.1 nor you")),
            Phase::Ehlo,
            HostRefuses,
            "550 5.7.1 nor you",
        ),
        (
            Script::new().on(At::Ehlo, Act::Say("550 no")).on(At::Helo, Act::Say("421 busy")),
            Phase::Ehlo,
            NextHost,
            "421 busy",
        ),
        (
            Script::new().on(At::Greeting, Act::Raw(b"220 hi\r\n220 hi again\r\n".to_vec())),
            Phase::Ehlo,
            NextHost,
            "451 4.5.0 the host spoke out of turn while waiting for the reply to EHLO",
        ),
    ] {
        assert_eq!(trouble_at(script), (phase, kind, words.to_owned()));
    }
}

#[test]
fn a_relay_never_refuses_for_good_before_mail() {
    let mx = FakeMx::start(Script::new().on(At::Greeting, Act::Say("554 no")));
    let relay = Endpoint { relay: true, ..endpoint(&mx, RouteTls::Opportunistic) };
    let trouble = Connector::new(&settings()).unwrap().open(&relay, soon()).unwrap_err();
    assert_eq!((trouble.phase, trouble.kind), (Phase::Greeting, TroubleKind::NextHost));
}

#[test]
fn nobody_listening_is_trouble_while_connecting() {
    let address = FakeMx::start(Script::new()).address; // and gone again
    let nobody = Endpoint { address, ..endpoint(&FakeMx::start(Script::new()), RouteTls::Off) };
    let trouble = Connector::new(&settings()).unwrap().open(&nobody, soon()).unwrap_err();
    assert_eq!((trouble.phase, trouble.kind, trouble.tls), (Phase::Connect, TroubleKind::NextHost, None));
    assert!(
        trouble.reply.to_string().starts_with("421 4.4.1 connection lost while connecting"),
        "{}",
        trouble.reply
    );
}

#[test]
fn source_addresses_take_turns() {
    let mx = FakeMx::start(Script::new());
    let sources = ["127.0.0.3", "::1", "127.0.0.4"].map(|ip| ip.parse().unwrap());
    let connector = Connector::new(&settings()).unwrap();
    let endpoint = Endpoint { sources: sources.into(), ..endpoint(&mx, RouteTls::Off) };
    for _ in 0..3 {
        connector.open(&endpoint, soon()).unwrap().quit();
    }
    let clients: Vec<String> = mx.wait_for_closed(3, SOON).iter().map(|seen| seen.client.clone()).collect();
    assert_eq!(clients, ["127.0.0.3", "127.0.0.4", "127.0.0.3"]);
}

// ---- answers in the transaction ---------------------------------------------------------------

#[test]
fn every_recipient_gets_its_own_answer() {
    for offers in [&["PIPELINING"][..], &[]] {
        let script = Script::new()
            .offering(offers)
            .on(At::Rcpt("<gone@"), Act::Say("550-5.1.1 no such\r\n550 5.1.1 user"))
            .on(At::Rcpt("<grey@"), Act::Say("451 4.7.1 later"))
            .on(At::Rcpt("<odd@"), Act::Say("571 odd"));
        let mx = FakeMx::start(script);
        let mut connection = open(&mx).unwrap();
        let results = send(&mut connection, &["ok@b", "gone@b", "grey@b", "odd@b", "fine@b"]);
        use Verdict::{Deferred, Delivered, Failed};
        assert_eq!(verdicts(&results), [Delivered, Failed, Deferred, Failed, Delivered]);
        assert_eq!(results[1].reply.to_string(), "550 5.1.1 no such user");
        assert_eq!((results[1].phase, results[0].phase), (Phase::Rcpt, Phase::Dot));
        assert_eq!(mx.messages()[0].rcpts, ["RCPT TO:<ok@b>", "RCPT TO:<fine@b>"]);
        assert!(connection.is_usable());
    }
}

#[test]
fn a_transaction_left_open_is_reset_before_the_next() {
    for offers in [&["PIPELINING"][..], &[]] {
        let script = Script::new().offering(offers).on(At::Rcpt("<gone@"), Act::Say("550 5.1.1 no"));
        let mx = FakeMx::start(script);
        let mut connection = open(&mx).unwrap();
        assert_eq!(verdicts(&send(&mut connection, &["gone@b"])), [Verdict::Failed]);
        assert!(connection.is_usable());
        assert_eq!(verdicts(&send(&mut connection, &["ok@b"])), [Verdict::Delivered]);
        assert!(mx.seen()[0].verbs().ends_with(&["RSET", "MAIL", "RCPT", "DATA"]));
    }
}

#[test]
fn a_host_that_wants_content_for_nobody_gets_the_dot_alone() {
    let script = Script::new()
        .on(At::Rcpt("b@"), Act::Say("550 5.1.1 no"))
        .on(At::Data, Act::Say("354 go"))
        .on(At::Dot, Act::Say("554 5.5.1 nobody"));
    let mx = FakeMx::start(script);
    let mut connection = open(&mx).unwrap();
    assert_eq!(
        only(&send(&mut connection, &["b@b"])),
        (Phase::Rcpt, Verdict::Failed, "550 5.1.1 no".to_owned())
    );
    assert!(connection.is_usable());
    assert_eq!(mx.seen()[0].raw_content, b".\r\n");
}

#[test]
fn too_many_recipients_go_into_the_next_transaction() {
    use Verdict::{Delivered, Failed, NextTransaction};
    let script = Script::new()
        .on(At::Rcpt("<c@"), Act::Say("552 5.5.3 too many"))
        .on(At::Rcpt("<d@"), Act::Say("452 4.5.3 too many"));
    let mx = FakeMx::start(script);
    let results = send(&mut open(&mx).unwrap(), &["b@b", "c@b", "d@b"]);
    assert_eq!(verdicts(&results), [Delivered, NextTransaction, NextTransaction]);

    let mx = FakeMx::start(Script::new().on(At::Rcpt("<c@"), Act::Say("552 5.2.2 full")));
    assert_eq!(verdicts(&send(&mut open(&mx).unwrap(), &["c@b", "b@b"])), [Failed, Delivered]);
}

#[test]
fn each_place_has_its_meaning() {
    use Phase::{Data, Dot, Mail};
    use Verdict::{Deferred, Failed, HostTrouble, InDoubt};
    for (at, phase, says) in [
        (
            At::Mail,
            Mail,
            [("451 a", Deferred), ("550 b", Failed), ("421 c", HostTrouble), ("354 d", HostTrouble)],
        ),
        (
            At::Rcpt("b@"),
            Phase::Rcpt,
            [("450 a", Deferred), ("571 b", Failed), ("421 c", HostTrouble), ("150 d", HostTrouble)],
        ),
        (
            At::Data,
            Data,
            [("451 a", Deferred), ("554 b", Failed), ("421 c", HostTrouble), ("250 d", HostTrouble)],
        ),
        (At::Dot, Dot, [("452 a", Deferred), ("552 b", Failed), ("421 c", HostTrouble), ("354 d", InDoubt)]),
    ] {
        for (words, verdict) in says {
            let outcome = send_one(Script::new().on(at, Act::Say(words)));
            assert_eq!(outcome, (phase, verdict, words.to_owned()), "{at:?}");
        }
    }
}

#[test]
fn a_connection_lost_before_the_whole_content_decides_nothing() {
    for (at, phase) in [(At::Mail, Phase::Mail), (At::Rcpt("b@"), Phase::Rcpt), (At::Data, Phase::Data)] {
        let (lost_in, verdict, words) = send_one(Script::new().on(at, Act::Close));
        assert_eq!((lost_in, verdict), (phase, Verdict::HostTrouble), "{at:?}");
        assert!(words.starts_with("421 4.4.2 the host closed the connection while waiting"), "{words}");
    }
    let mx = FakeMx::start(Script::new().on(At::Content(1000), Act::Reset));
    let (sender, to) = (parse("a@example.org"), recipient("b@example.net"));
    let content = b"0123456789\r\n".repeat(4 << 20);
    let mut connection = open(&mx).unwrap();
    let results =
        deliver(&mut connection, &outgoing(&sender, &[&to], &content[..40_000_008]), &content[..40_000_008]);
    assert_eq!((results[0].phase, results[0].verdict), (Phase::Dot, Verdict::HostTrouble));
    assert!(!connection.is_usable());
}

#[test]
fn an_answer_lost_after_the_dot_is_in_doubt() {
    for act in [Act::Close, Act::Reset, Act::Say("huh"), Act::Say("150 one moment")] {
        let (phase, verdict, _) = send_one(Script::new().on(At::Dot, act.clone()));
        assert_eq!((phase, verdict), (Phase::Dot, Verdict::InDoubt), "{act:?}");
    }
}

#[test]
fn a_refusal_in_the_middle_of_the_content_is_heard() {
    let script = Script::new().on(At::Content(1000), Act::SayAndClose("552 5.3.4 too big"));
    assert_eq!(send_one_big(script), (Phase::Dot, Verdict::Failed, "552 5.3.4 too big".to_owned()));
}

/// A message larger than the socket buffers.
fn send_one_big(script: Script) -> (Phase, Verdict, String) {
    let mx = FakeMx::start(script);
    let (sender, to) = (parse("a@example.org"), recipient("b@example.net"));
    let content = b"0123456789\r\n".repeat(1 << 20);
    only(&deliver(&mut open(&mx).unwrap(), &outgoing(&sender, &[&to], &content), &content))
}

#[test]
fn replies_of_all_shapes_are_read() {
    let lines = |count: usize| [b"250-x\r\n".repeat(count - 1), b"250 2.0.0 done\r\n".to_vec()].concat();
    for (raw, verdict, words) in [
        (b"250\r\n".to_vec(), Verdict::Delivered, "250"),
        (b"250 caf\xe9 \0\n".to_vec(), Verdict::Delivered, "250 caf\\xE9 \\x00"),
        (b"550-5.7.1 one\r\n550 5.7.1 two\r\n".to_vec(), Verdict::Failed, "550 5.7.1 one two"),
        (b"471 odd\r\n".to_vec(), Verdict::Deferred, "471 odd"),
        (b"699 odd\r\n".to_vec(), Verdict::InDoubt, "699 odd"),
    ] {
        let outcome = send_one(Script::new().on(At::Dot, Act::Raw(raw)));
        assert_eq!(outcome, (Phase::Dot, verdict, words.to_owned()));
    }
    assert_eq!(send_one(Script::new().on(At::Dot, Act::Raw(lines(100)))).1, Verdict::Delivered);
    let (_, verdict, words) = send_one(Script::new().on(At::Dot, Act::Raw(lines(101))));
    assert_eq!(verdict, Verdict::InDoubt);
    assert!(words.ends_with("longer than 100 lines or 64 KiB"), "{words}");
}

#[test]
fn a_message_over_the_hosts_size_fails_without_being_tried() {
    let mx = FakeMx::start(Script::new().offering(&["SIZE 10"]));
    let mut connection = open(&mx).unwrap();
    let (phase, verdict, words) = only(&send(&mut connection, &["b@b"]));
    assert_eq!((phase, verdict), (Phase::Mail, Verdict::Failed));
    assert_eq!(words, "552 5.3.4 the message has 22 bytes, and the host takes 10 at most");
    connection.quit();
    assert_eq!(mx.wait_for_closed(1, SOON)[0].verbs(), ["EHLO", "QUIT"]);
}

#[test]
fn content_that_cannot_be_read_defers_and_sends_no_dot() {
    for content_fails in [true, false] {
        let mx = FakeMx::start(Script::new());
        let mut connection = open(&mx).unwrap();
        let (sender, to) = (parse("a@example.org"), recipient("b@example.net"));
        let mut chunks = 0;
        let mut content = || {
            chunks += 1;
            match (chunks, content_fails) {
                (1, _) => Ok(Some(Cow::Borrowed(&b"x\r\n"[..]))),
                (_, true) => Err(io::Error::other("disk on fire")),
                (_, false) => Ok(None),
            }
        };
        let mut before_dot =
            |_: &[usize]| if content_fails { Ok(()) } else { Err(io::Error::other("disk on fire")) };
        let to = [&to];
        let message = outgoing(&sender, &to, b"x\r\n");
        let outcome = only(&connection.deliver(&message, &mut content, &mut before_dot, soon()));
        let words = "451 4.3.0 Postrider could not send the content: disk on fire".to_owned();
        assert_eq!(outcome, (Phase::Dot, Verdict::Deferred, words));
        assert!(!connection.is_usable());
        let seen = &mx.wait_for_closed(1, SOON)[0];
        assert!(!seen.raw_content.ends_with(b".\r\n"));
        assert!(mx.messages().is_empty());
    }
}

// ---- time -------------------------------------------------------------------------------------

#[test]
fn a_silent_host_is_given_up_after_the_stages_time_out() {
    for (at, phase, verdict) in [
        (At::Mail, Phase::Mail, Verdict::HostTrouble),
        (At::Data, Phase::Data, Verdict::HostTrouble),
        (At::Dot, Phase::Dot, Verdict::InDoubt),
    ] {
        let mx = FakeMx::start(Script::new().on(at, Act::Stall));
        let connector = Connector::new(&impatient()).unwrap();
        let mut connection = connector.open(&endpoint(&mx, RouteTls::Off), soon()).unwrap();
        let outcome = only(&send(&mut connection, &["b@b"]));
        assert_eq!((outcome.0, outcome.1), (phase, verdict));
        assert!(outcome.2.starts_with("421 4.4.2 timed out while waiting for the reply to"), "{}", outcome.2);
    }
    let mx = FakeMx::start(Script::new().on(At::Greeting, Act::Stall));
    let trouble =
        Connector::new(&impatient()).unwrap().open(&endpoint(&mx, RouteTls::Off), soon()).unwrap_err();
    assert_eq!(trouble.reply.to_string(), "421 4.4.2 timed out while waiting for the greeting");
}

#[test]
fn the_stages_time_out_holds_for_the_whole_reply_and_the_deadline_for_all() {
    let drip = || FakeMx::start(Script::new().on(At::Greeting, Act::Drip(Duration::from_millis(20))));
    let mx = drip();
    let began = Instant::now();
    let trouble =
        Connector::new(&impatient()).unwrap().open(&endpoint(&mx, RouteTls::Off), soon()).unwrap_err();
    assert_eq!(trouble.reply.to_string(), "421 4.4.2 timed out while waiting for the greeting");
    let mx = drip();
    let deadline = Instant::now() + Duration::from_millis(150);
    let trouble =
        Connector::new(&settings()).unwrap().open(&endpoint(&mx, RouteTls::Off), deadline).unwrap_err();
    assert_eq!(
        trouble.reply.to_string(),
        "421 4.4.2 the attempt's deadline passed while waiting for the greeting"
    );
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_host_that_stops_reading_is_given_up() {
    let mx = FakeMx::start(Script::new().on(At::Content(1000), Act::Asleep));
    let connector = Connector::new(&impatient()).unwrap();
    let mut connection = connector.open(&endpoint(&mx, RouteTls::Off), soon()).unwrap();
    let (sender, to) = (parse("a@example.org"), recipient("b@example.net"));
    let content = b"0123456789\r\n".repeat(2 << 20);
    let outcome = only(&deliver(&mut connection, &outgoing(&sender, &[&to], &content), &content));
    let words = "421 4.4.2 timed out while sending the content".to_owned();
    assert_eq!(outcome, (Phase::Dot, Verdict::HostTrouble, words));
}

#[test]
fn a_connection_that_the_host_closed_meanwhile_is_stale() {
    let mx = FakeMx::start(Script::new().on(At::Dot, Act::SayAndClose("250 2.0.0 queued, bye")));
    let mut connection = open(&mx).unwrap();
    assert_eq!(verdicts(&send(&mut connection, &["b@b"])), [Verdict::Delivered]);
    let until = soon();
    while !connection.is_stale() {
        assert!(Instant::now() < until, "the close never showed");
        std::thread::yield_now();
    }
    let (phase, verdict, _) = only(&send(&mut connection, &["b@b"]));
    assert_eq!((phase, verdict), (Phase::Mail, Verdict::HostTrouble));
}

// ---- TLS --------------------------------------------------------------------------------------

/// The CA in a file, for `ca_file`.
fn ca_file(certificate: &Certificate) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(certificate.ca_pem.as_bytes()).unwrap();
    file
}

#[test]
fn starttls_is_used_where_offered_and_any_certificate_will_do() {
    let certificate = Certificate::for_names(&["other.example"]);
    let mx = FakeMx::start(Script::new().tls(&certificate));
    let mut connection = open(&mx).unwrap();
    assert_eq!(connection.tls(), "TLSv1.3");
    assert_eq!(verdicts(&send(&mut connection, &["b@b"])), [Verdict::Delivered]);
    assert!(mx.messages()[0].tls);
    assert_eq!(mx.seen()[0].verbs()[..3], ["EHLO", "STARTTLS", "EHLO"]);
    connection.quit();
}

#[test]
fn whether_the_certificate_held_is_recorded() {
    let certificate = Certificate::for_names(&["mx.example.net"]);
    let file = ca_file(&certificate);
    let mx = FakeMx::start(Script::new().tls(&certificate));
    let connector =
        Connector::new(&DeliverySettings { ca_file: Some(file.path().to_owned()), ..settings() }).unwrap();
    for _ in 0..2 {
        // The second time the session is resumed.
        let connection = connector.open(&endpoint(&mx, RouteTls::Opportunistic), soon()).unwrap();
        assert_eq!(connection.tls(), "TLSv1.3 verified");
        connection.quit();
    }
}

/// Whether each of the host's handshakes so far resumed a session, once all `count` connections are over.
fn resumed(mx: &FakeMx, count: usize) -> Vec<bool> {
    mx.wait_for_closed(count, SOON).iter().map(|seen| seen.resumed).collect()
}

#[test]
fn a_second_connection_resumes_the_session_of_the_first() {
    let names = ["mx.example.net"];
    for (certificate, version) in
        [(Certificate::for_names(&names), "TLSv1.3"), (Certificate::tls12(&names), "TLSv1.2")]
    {
        let mx = FakeMx::start(Script::new().tls(&certificate));
        let connector = Connector::new(&settings()).unwrap();
        for _ in 0..3 {
            let connection = connector.open(&endpoint(&mx, RouteTls::Opportunistic), soon()).unwrap();
            assert_eq!(connection.tls(), version);
            connection.quit();
        }
        assert_eq!(resumed(&mx, 3), [false, true, true], "{version}");
        let other_name = Endpoint { host: "mx2.example.net".to_owned(), ..endpoint(&mx, RouteTls::Encrypt) };
        connector.open(&other_name, soon()).unwrap().quit();
        assert!(!resumed(&mx, 4)[3], "another host's session");
    }
}

/// A session that began where any certificate would do must never stand in for one that was verified: whoever sits
/// between needs only one opportunistic connection to plant it.
#[test]
fn a_session_never_stands_in_for_more_proof_than_it_began_with() {
    let names = ["mx.example.net"];
    for certificate in [Certificate::for_names(&names), Certificate::tls12(&names)] {
        let file = ca_file(&certificate);
        let mx = FakeMx::start(Script::new().tls(&certificate));
        let connector = Connector::new(&settings()).unwrap();
        let trusting = |tls| Endpoint { ca_file: Some(file.path().to_owned()), ..endpoint(&mx, tls) };
        // The same roots; then those of the world, to which this certificate is a stranger's.
        for (turn, (to, expected)) in [
            (trusting(RouteTls::Opportunistic), Ok(false)),
            (trusting(RouteTls::Verify), Ok(false)),
            (trusting(RouteTls::Verify), Ok(true)),
            (trusting(RouteTls::Encrypt), Ok(true)),
            (endpoint(&mx, RouteTls::Opportunistic), Ok(false)),
            (endpoint(&mx, RouteTls::Opportunistic), Ok(true)),
            (endpoint(&mx, RouteTls::Verify), Err("UnknownIssuer")),
        ]
        .into_iter()
        .enumerate()
        {
            match (connector.open(&to, soon()), expected) {
                (Ok(connection), Ok(expected)) => {
                    connection.quit();
                    assert_eq!(resumed(&mx, turn + 1)[turn], expected, "turn {turn}");
                }
                (Err(trouble), Err(why)) => {
                    assert!(trouble.reply.to_string().ends_with(why), "{}", trouble.reply);
                }
                (opened, expected) => panic!("turn {turn}: {opened:?} and not {expected:?}"),
            }
        }
    }
}

#[test]
fn verify_wants_a_certificate_that_holds_for_the_host() {
    let certificate = Certificate::for_names(&["mx.example.net", "127.0.0.1"]);
    let file = ca_file(&certificate);
    let mx = FakeMx::start(Script::new().tls(&certificate));
    let connector = Connector::new(&settings()).unwrap();
    let with_ca = Endpoint { ca_file: Some(file.path().to_owned()), ..endpoint(&mx, RouteTls::Verify) };
    for host in ["mx.example.net", "[127.0.0.1]"] {
        let right = Endpoint { host: host.to_owned(), ..with_ca.clone() };
        assert_eq!(connector.open(&right, soon()).unwrap().tls(), "TLSv1.3 verified");
    }

    let wrong_name = Endpoint { host: "mx.example.com".to_owned(), ..with_ca.clone() };
    let no_such_file = Endpoint { ca_file: Some("/nonexistent/ca.pem".into()), ..with_ca };
    for (endpoint, words) in [
        (
            endpoint(&mx, RouteTls::Verify),
            "451 4.7.5 TLS failed while starting TLS: invalid peer certificate: UnknownIssuer",
        ),
        (
            wrong_name,
            "451 4.7.5 TLS failed while starting TLS: invalid peer certificate: certificate not valid for name",
        ),
        (no_such_file, "451 4.7.5 ca_file /nonexistent/ca.pem: No such file"),
    ] {
        let before = mx.seen().len();
        let trouble = connector.open(&endpoint, soon()).unwrap_err();
        assert_eq!((trouble.phase, trouble.kind), (Phase::Starttls, TroubleKind::NextHost));
        assert!(trouble.reply.to_string().starts_with(words), "{}", trouble.reply);
        assert_eq!(mx.seen().len(), before + 1, "a smaller ClientHello does not help");
    }
}

#[test]
fn implicit_tls_begins_with_the_first_byte() {
    let certificate = Certificate::for_names(&["mx.example.net"]);
    let file = ca_file(&certificate);
    let mx = FakeMx::start(Script::new().implicit_tls(&certificate));
    let endpoint = Endpoint { ca_file: Some(file.path().to_owned()), ..endpoint(&mx, RouteTls::Implicit) };
    let mut connection = Connector::new(&settings()).unwrap().open(&endpoint, soon()).unwrap();
    assert_eq!(connection.tls(), "TLSv1.3 verified");
    assert_eq!(verdicts(&send(&mut connection, &["b@b"])), [Verdict::Delivered]);
    assert_eq!(mx.seen()[0].verbs(), ["EHLO", "MAIL", "RCPT", "DATA"]);
}

#[test]
fn a_refused_starttls_is_followed_by_mail_in_the_clear_only_where_tls_is_optional() {
    let certificate = Certificate::for_names(&["mx.example.net"]);
    let mx = FakeMx::start(Script::new().tls(&certificate).on(At::Starttls, Act::Say("454 4.7.0 not now")));
    let connector = Connector::new(&settings()).unwrap();
    let mut connection = connector.open(&endpoint(&mx, RouteTls::Opportunistic), soon()).unwrap();
    assert_eq!(connection.tls(), "none");
    assert_eq!(verdicts(&send(&mut connection, &["b@b"])), [Verdict::Delivered]);
    connector.open(&endpoint(&mx, RouteTls::Opportunistic), soon()).unwrap().quit();
    for tls in [RouteTls::Encrypt, RouteTls::Verify] {
        let trouble = connector.open(&endpoint(&mx, tls), soon()).unwrap_err();
        assert_eq!(trouble.reply.to_string(), "454 4.7.0 not now");
        assert_eq!((trouble.phase, trouble.kind), (Phase::Starttls, TroubleKind::NextHost));
    }
    connection.quit();
    let seen = mx.wait_for_closed(4, SOON);
    assert_eq!(seen[0].verbs(), ["EHLO", "STARTTLS", "MAIL", "RCPT", "DATA", "QUIT"]);
    assert_eq!(seen[1].verbs(), ["EHLO", "QUIT"], "the host is remembered");
    assert_eq!(seen[2].verbs(), ["EHLO", "STARTTLS", "QUIT"], "but not where TLS is required");
}

#[test]
fn a_host_without_starttls_gets_no_mail_where_tls_is_required() {
    let mx = FakeMx::start(Script::new());
    let connector = Connector::new(&settings()).unwrap();
    let trouble = connector.open(&endpoint(&mx, RouteTls::Encrypt), soon()).unwrap_err();
    assert_eq!((trouble.phase, trouble.kind), (Phase::Starttls, TroubleKind::NextHost));
    assert!(
        trouble.reply.to_string().starts_with("451 4.7.4 the host offers no STARTTLS"),
        "{}",
        trouble.reply
    );
}

#[test]
fn a_broken_handshake_leads_down_the_ladder_and_is_remembered() {
    for act in [Act::Close, Act::Reset, Act::Raw(b"220 what is this?\r\n".to_vec()), Act::Stall] {
        let certificate = Certificate::for_names(&["mx.example.net"]);
        let mx = FakeMx::start(Script::new().tls(&certificate).on(At::Handshake, act));
        let connector = Connector::new(&impatient()).unwrap();
        for _ in 0..2 {
            let connection = connector.open(&endpoint(&mx, RouteTls::Opportunistic), soon()).unwrap();
            assert_eq!(connection.tls(), "none");
            connection.quit();
        }
        let verbs: Vec<Vec<String>> = mx
            .wait_for_closed(4, SOON)
            .iter()
            .map(|s| s.verbs().iter().map(|v| v.to_string()).collect())
            .collect();
        assert_eq!(verbs[0], ["EHLO", "STARTTLS"], "the full ClientHello");
        assert_eq!(verbs[1], ["EHLO", "STARTTLS"], "the smaller one");
        assert_eq!(verbs[2], ["EHLO", "QUIT"], "in the clear");
        assert_eq!(verbs[3], ["EHLO", "QUIT"], "remembered");
        let trouble = connector.open(&endpoint(&mx, RouteTls::Encrypt), soon()).unwrap_err();
        assert_eq!((trouble.phase, trouble.kind), (Phase::Starttls, TroubleKind::NextHost));
        assert_eq!(mx.seen().len(), 6, "never in the clear where TLS is required");
    }
}

#[test]
fn a_host_that_chokes_on_the_full_hello_gets_the_smaller_one() {
    let certificate = Certificate::classical(&["mx.example.net"]);
    let mx = FakeMx::start(Script::new().tls(&certificate).first(1, At::Handshake, Act::Close));
    let connector = Connector::new(&settings()).unwrap();
    for _ in 0..2 {
        let connection = connector.open(&endpoint(&mx, RouteTls::Encrypt), soon()).unwrap();
        assert_eq!(connection.tls(), "TLSv1.3");
        connection.quit();
    }
    assert_eq!(mx.wait_for_closed(3, SOON).len(), 3);
}

/// CVE-2011-0411, on the client's side: somebody between puts the answers to what comes within TLS behind the 220
/// in the clear, and the client believes a host it has verified said them: offers without AUTH SCRAM, say, or that a
/// message was taken.
#[test]
fn replies_injected_before_the_handshake_are_never_read_after_it() {
    let certificate = Certificate::for_names(&["mx.example.net"]);
    let injected = b"220 go ahead\r\n250-mx.example.net\r\n250 AUTH PLAIN\r\n".to_vec();
    let mx = FakeMx::start(Script::new().tls(&certificate).on(At::Starttls, Act::Raw(injected)));
    for tls in [RouteTls::Opportunistic, RouteTls::Encrypt] {
        let trouble = Connector::new(&settings()).unwrap().open(&endpoint(&mx, tls), soon()).unwrap_err();
        assert_eq!((trouble.phase, trouble.kind), (Phase::Starttls, TroubleKind::NextHost));
        assert_eq!(trouble.reply.to_string(), "451 4.5.0 the host spoke out of turn while starting TLS");
    }
    let seen = mx.wait_for_closed(2, SOON);
    assert_eq!(seen.len(), 2, "no second try, and none in the clear: that is what somebody between may want");
    assert!(seen.iter().all(|seen| seen.verbs() == ["EHLO", "STARTTLS"] && !seen.tls), "{seen:#?}");
}

// ---- AUTH -------------------------------------------------------------------------------------

fn relay(mx: &FakeMx, tls: RouteTls) -> Endpoint {
    static SECRET: LazyLock<PathBuf> = LazyLock::new(|| {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("connection.secret");
        std::fs::write(&path, "secret\n").unwrap();
        path
    });
    let login = Login { username: "me".to_owned(), secret: SecretSource::PasswordFile(SECRET.clone()) };
    Endpoint { login: Some(login), relay: true, ..endpoint(mx, tls) }
}

#[test]
fn a_relay_is_logged_in_to_with_plain_or_login() {
    let certificate = Certificate::for_names(&["mx.example.net"]);
    for (offer, commands) in [
        ("AUTH LOGIN PLAIN", &["AUTH PLAIN AG1lAHNlY3JldA=="][..]),
        ("AUTH=LOGIN", &["AUTH LOGIN", "bWU=", "c2VjcmV0"]),
    ] {
        let mx = FakeMx::start(Script::new().offering(&["PIPELINING", offer]).tls(&certificate));
        let connector = Connector::new(&settings()).unwrap();
        let mut connection = connector.open(&relay(&mx, RouteTls::Opportunistic), soon()).unwrap();
        assert_eq!(verdicts(&send(&mut connection, &["b@b"])), [Verdict::Delivered]);
        assert_eq!(mx.seen()[0].commands[3..3 + commands.len()], *commands);
    }
}

#[test]
fn a_password_goes_in_the_clear_only_where_tls_is_off() {
    let mx = FakeMx::start(Script::new().offering(&["AUTH PLAIN"]));
    let connector = Connector::new(&settings()).unwrap();
    let trouble = connector.open(&relay(&mx, RouteTls::Opportunistic), soon()).unwrap_err();
    assert_eq!((trouble.phase, trouble.kind), (Phase::Starttls, TroubleKind::NextHost));
    connector.open(&relay(&mx, RouteTls::Off), soon()).unwrap().quit();
    let seen = mx.wait_for_closed(2, SOON);
    assert!(!seen[0].verbs().contains(&"AUTH"));
    assert!(seen[1].verbs().contains(&"AUTH"));
}

#[test]
fn a_refused_login_is_never_permanent() {
    for (offers, act, words) in [
        (&["AUTH PLAIN"][..], Act::Say("535 5.7.8 wrong"), "535 5.7.8 wrong"),
        (
            &[],
            Act::Say("235 never asked"),
            "451 4.7.4 the host offers no AUTH; a password needs one of SCRAM-SHA-256, CRAM-MD5, PLAIN, LOGIN",
        ),
    ] {
        let mx = FakeMx::start(Script::new().offering(offers).on(At::Auth, act));
        let trouble =
            Connector::new(&settings()).unwrap().open(&relay(&mx, RouteTls::Off), soon()).unwrap_err();
        assert_eq!((trouble.phase, trouble.kind), (Phase::Auth, TroubleKind::NextHost));
        assert_eq!(trouble.reply.to_string(), words);
    }
}

// ---- BDAT -------------------------------------------------------------------------------------

#[test]
fn binary_content_goes_as_it_is_and_a_small_one_takes_two_writes() {
    let mx = FakeMx::start(Script::new().offering(&["PIPELINING", "CHUNKING", "BINARYMIME"]));
    let mut connection = open(&mx).unwrap();
    let big = [b"Subject: big\r\n\r\n".to_vec(), (0..=255).collect::<Vec<u8>>().repeat(8192)].concat();
    for content in [&b"Subject: hi\r\n\r\n.\r\n\n.\n\0\r"[..], &big] {
        let (sender, to) = (parse("a@example.org"), recipient("b@example.net"));
        let to = [&to];
        let message = Outgoing { body: Body::BinaryMime, ..outgoing(&sender, &to, content) };
        let results = deliver(&mut connection, &message, content);
        assert_eq!(only(&results), (Phase::Dot, Verdict::Delivered, "250 2.0.0 queued".to_owned()));
    }
    connection.quit();
    let messages = mx.messages();
    assert_eq!(messages[0].mail, "MAIL FROM:<a@example.org> BODY=BINARYMIME");
    assert_eq!(messages[0].content, b"Subject: hi\r\n\r\n.\r\n\n.\n\0\r");
    assert!(messages[1].content == big, "{} bytes", messages[1].content.len());
    let seen = &mx.wait_for_closed(1, SOON)[0];
    // The big one has three chunks, of 1 MiB at most.
    assert_eq!(
        seen.verbs(),
        ["EHLO", "MAIL", "RCPT", "BDAT", "MAIL", "RCPT", "BDAT", "BDAT", "BDAT", "QUIT"]
    );
    // EHLO, the commands, the chunk.
    assert_eq!(seen.reads[2], "BDAT 23 LAST\r\n".len() + 23, "{:?}", &seen.reads[..4]);
}

/// The host was promised a size. What is other than that must not be made up for with the next commands.
#[test]
fn binary_content_of_another_size_than_was_said_cuts_the_connection() {
    for (said, verdict) in [(10, Verdict::Deferred), (100, Verdict::Deferred)] {
        let mx = FakeMx::start(Script::new().offering(&["CHUNKING", "BINARYMIME"]));
        let mut connection = open(&mx).unwrap();
        let (sender, to) = (parse("a@example.org"), recipient("b@example.net"));
        let to = [&to];
        let content = b"Subject: hi\r\n\r\nhello\r\n";
        let message = Outgoing { body: Body::BinaryMime, size: said, ..outgoing(&sender, &to, content) };
        let results = deliver(&mut connection, &message, content);
        assert_eq!(results[0].verdict, verdict);
        assert!(results[0].reply.to_string().starts_with("451 4.3.0 "), "{}", results[0].reply);
        assert!(!connection.is_usable());
        mx.wait_for_closed(1, SOON);
        assert!(mx.messages().is_empty());
    }
}
