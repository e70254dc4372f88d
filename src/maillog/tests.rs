//! Each line as an operator reads it, by calling every function of the mail log once or more.

use super::*;
use crate::kit::event::kept;
use crate::mail::{Enhanced, Envelope, Labels, Recipient, address as parse};
use crate::queue::{Origin, Setting};

/// The lines that this writes.
fn written(by: impl FnOnce()) -> Vec<String> {
    kept::written(|record| format!("{} {}", record.level(), record.args()), by)
}

const ID: MessageId = MessageId(42);

fn to() -> Address {
    parse::parse("you@b.test").unwrap()
}

fn reply() -> Reply {
    Reply::new(550, Enhanced(5, 1, 1), "no\nsuch user")
}

fn tried(outcome: Outcome) -> Attempt {
    Attempt {
        at: 0,
        duration_ms: 12,
        mx: Some("mx.b.test".to_owned()),
        ip: Some([192, 0, 2, 1].into()),
        source: None,
        tls: Some("TLSv1.3".to_owned()),
        tls_policy: TlsPolicy::Dane,
        dkim: Some("a.test/s1".into()),
        phase: Phase::Rcpt,
        reply: reply(),
        outcome,
    }
}

fn message(sender: Option<&str>, user: Option<&str>, client: Option<Peer>) -> NewMessage {
    NewMessage {
        id: ID,
        envelope: Envelope {
            sender: sender.map(|sender| parse::parse(sender).unwrap()),
            recipients: vec![Recipient::new(to())],
            ..Envelope::default()
        },
        origin: Origin { user: user.map(str::to_owned), client, helo: None },
        labels: Labels::default(),
        received_at: 0,
        expires_at: None,
        size: 1234,
        tail: Vec::new(),
        chunks_before: 0,
    }
}

#[test]
fn lines_of_messages() {
    let lines = written(|| {
        accepted(&message(Some("me@a.test"), Some("app"), Some([127, 0, 0, 1].into())));
        accepted(&message(None, None, None));
        let labels = Labels {
            message_id: Some("a b@a.test".to_owned()),
            subject: Some("Hello".to_owned()),
            tag: Some("news".to_owned()),
        };
        accepted(&NewMessage { labels, ..message(None, None, None) });
        attempted(ID, None, &to(), &tried(Outcome::Failed), None);
        attempted(ID, None, &to(), &tried(Outcome::Deferred), Some(300));
        attempted(ID, None, &to(), &tried(Outcome::Deferred), None);
        let nowhere =
            Attempt { tls_policy: TlsPolicy::None, dkim: None, ip: None, ..tried(Outcome::Delivered) };
        attempted(ID, None, &to(), &nowhere, None);
        attempted(ID, None, &to(), &Attempt { mx: None, tls: None, ..tried(Outcome::InDoubt) }, None);
        ruled(ID, &to(), 2, "hold");
        host_trouble(ID, "mx.b.test", "192.0.2.1:25".parse().unwrap(), Phase::Ehlo, &reply());
        unsafe_host(ID, "mx.b.test", TlsPolicy::StsEnforce, &reply());
        expired(ID, &to(), Some("450 4.2.1 later"));
        expired(ID, &to(), None);
        returned(ID, &to(), None);
        report_queued(ID, &NewMessage { id: MessageId(43), ..message(None, None, None) }, "bounce");
        tls_report_queued(ID, "b.test", 1_767_323_045, &[to(), to()]);
        tls_report_posted("b.test", 1_767_323_045, "https://b.test/");
        tls_report_given_up("b.test", 1_767_323_045, "", "no\u{7} answer");
        report_suppressed(ID, &to(), "bounce", 5);
        summary_queued(ID, "you@b.test", 3, 4);
        dead_end(ID, &to(), None);
    });
    assert_eq!(
        lines,
        [
            "INFO 0000000001A: accepted from=<me@a.test> size=1234 nrcpt=1 client=127.0.0.1 user=app",
            "INFO 0000000001A: accepted from=<> size=1234 nrcpt=1 client=local user=-",
            "INFO 0000000001A: accepted from=<> size=1234 nrcpt=1 client=local user=- message-id=<a\\x20b@a.test> tag=news \
             subject=Hello",
            "WARN 0000000001A: failed to=<you@b.test> relay=mx.b.test[192.0.2.1] tls=TLSv1.3 tls_policy=dane \
             dkim=a.test/s1 phase=rcpt ms=12 reply_source=local reply=550 5.1.1 no such user",
            "INFO 0000000001A: deferred to=<you@b.test> relay=mx.b.test[192.0.2.1] tls=TLSv1.3 tls_policy=dane \
             dkim=a.test/s1 phase=rcpt ms=12 next=300s reply_source=local reply=550 5.1.1 no such user",
            "INFO 0000000001A: deferred to=<you@b.test> relay=mx.b.test[192.0.2.1] tls=TLSv1.3 tls_policy=dane \
             dkim=a.test/s1 phase=rcpt ms=12 next=held reply_source=local reply=550 5.1.1 no such user",
            "INFO 0000000001A: delivered to=<you@b.test> relay=mx.b.test tls=TLSv1.3 phase=rcpt ms=12 \
             reply_source=local reply=550 5.1.1 no such user",
            "WARN 0000000001A: in_doubt to=<you@b.test> relay=none tls=none tls_policy=dane dkim=a.test/s1 phase=rcpt \
             ms=12 reply_source=local reply=550 5.1.1 no such user",
            "INFO 0000000001A: [[retry.rule]] 2 says hold to=<you@b.test>",
            "INFO 0000000001A: host mx.b.test[192.0.2.1:25] in trouble phase=ehlo reply=550 5.1.1 no such user",
            "WARN 0000000001A: mx.b.test does not keep its policy sts-enforce, and gets no mail for now: \
             550 5.1.1 no such user",
            "WARN 0000000001A: expired to=<you@b.test> last reply: 450 4.2.1 later",
            "WARN 0000000001A: expired to=<you@b.test> last reply: none",
            "WARN 0000000001A: returned to=<you@b.test> last reply: none",
            "INFO 0000000001A: bounce queued as 0000000001B to=<you@b.test>",
            "INFO 0000000001A: TLS report queued domain=b.test day=2026-01-02 to=<you@b.test> to=<you@b.test>",
            "INFO TLS report posted domain=b.test day=2026-01-02 uri=https://b.test/",
            "WARN TLS report given up domain=b.test day=2026-01-02 uri=none last reply: no\\x07 answer",
            "WARN 0000000001A: bounce to <you@b.test> suppressed (5 this hour), see [delivery] bounces_per_sender",
            "WARN 0000000001A: summary queued to=<you@b.test> messages=3 recipients=4",
            "WARN 0000000001A: mail from <> to <you@b.test> could not be delivered, nobody is told: no answer",
        ]
    );
}

#[test]
fn lines_of_hosts() {
    let lines = written(|| {
        relay_refuses("mx.b.test[192.0.2.1:25]", Phase::Auth, &reply(), "do this");
        relay_takes_mail("mx.b.test[192.0.2.1:25]");
        lane_backs_off("b.test", 60, "450 4.2.1 later");
        lane_recovered("b.test");
        host_limits("mx.b.test", Some(2), None, Some("421 too many"));
        host_limits("mx.b.test", None, Some(30), None);
        workaround_on("mx.b.test", Setting::NoPipelining, 3600, &reply());
        workaround_off("mx.b.test", Setting::Plaintext);
        sts_policy("b.test", "enforce", "7", 1_767_323_045, "mx.b.test");
        sts_failed("b.test", Some(("enforce", 1_767_323_045)), "404");
        sts_failed("b.test", None, "404");
    });
    assert_eq!(
        lines,
        [
            "ERROR relay mx.b.test[192.0.2.1:25] does not take our mail (phase=auth reply_source=local): \
             550 5.1.1 no such user; nothing bounces for this, its mail waits and is tried again; do this, then \
             postrider queue kick --all",
            "INFO relay mx.b.test[192.0.2.1:25] takes our mail again",
            "WARN lane b.test backs off for 60 s: 450 4.2.1 later",
            "INFO lane b.test works again",
            "WARN host mx.b.test throttled: connections=2 messages_per_minute=all: 421 too many",
            "INFO host mx.b.test unthrottled: connections=all messages_per_minute=30",
            "WARN host mx.b.test workaround on: pipelining=off for 3600 s: 550 5.1.1 no such user",
            "INFO host mx.b.test workaround off: tls=plaintext",
            "INFO MTA-STS policy of b.test: mode=enforce id=7 until 2026-01-02 03:04:05 UTC: mx.b.test",
            "WARN MTA-STS policy of b.test not fetched: the last one (mode=enforce) holds until 2026-01-02 03:04:05 \
             UTC: 404",
            "WARN MTA-STS policy of b.test not fetched: its mail goes without one: 404",
        ]
    );
}

#[test]
fn lines_of_clients() {
    let client = Peer::from([192, 0, 2, 9]);
    let lines = written(|| {
        kicked("b.test", 3, "app");
        turned("app", "mx.b.test", [192, 0, 2, 9].into(), "b.test");
        fetched("app", 3);
        turned_away(client, "too many errors");
        login_failed(client, "user \"app\"");
        let all =
            Refused { client, user: Some("app"), verb: "RCPT", sender: Some("me@a.test"), recipient: None };
        refusal(&all, &reply(), |event| event.log());
        refusal(&Refused { user: None, sender: None, recipient: Some("x y"), ..all }, &reply(), |event| {
            event.log()
        });
        failed_handshake(client, &"no", |event| event.log());
    });
    assert_eq!(
        lines,
        [
            "INFO kick b.test: 3 recipients due now, asked by app",
            "INFO atrn: app fetches b.test to mx.b.test[192.0.2.9]",
            "INFO atrn: app was offered 3 messages",
            "WARN client 192.0.2.9: too many errors",
            "WARN client 192.0.2.9: authentication failed for user \"app\"",
            "WARN refused RCPT client=192.0.2.9 user=app from=<me@a.test> to=<> reply=550 5.1.1 no such user",
            "WARN refused RCPT client=192.0.2.9 user=- from=<> to=<x\\x20y> reply=550 5.1.1 no such user",
            "WARN client 192.0.2.9: TLS handshake failed: no",
        ]
    );
}
