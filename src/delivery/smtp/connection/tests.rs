//! The connection with a socket to this machine, where what a host says has to be there before something is done.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use crate::config::EightBit;
use crate::delivery::smtp::body::chunks::CHUNK_BYTES;
use crate::delivery::smtp::connection::*;
use crate::mail::{Body, Domain, Handling, ReplySource, address};
use crate::queue::{QueuedRecipient, RecipientId};

const SOON: Duration = Duration::from_secs(20);

fn recipient() -> QueuedRecipient {
    let address = address::parse("you@a.test").unwrap();
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
        last_reply_source: ReplySource::Local,
        warned_at: None,
        to_bounce: false,
    }
}

/// A small message that may go in a single write.
fn outgoing<'a>(recipients: &'a [&'a QueuedRecipient]) -> Outgoing<'a> {
    Outgoing {
        sender: None,
        recipients,
        body: Body::SevenBit,
        eight_bit: EightBit::Send,
        smtputf8: false,
        prefix: b"",
        size: 4,
        ret: None,
        envid: None,
        handling: Handling::default(),
        now: 0,
        single_write: true,
    }
}

/// A connection that has taken a batch, and the host's end of it.
fn connected() -> (Connection, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let tcp = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (host, _) = listener.accept().unwrap();
    let mut connection =
        Connection::new(Wire::opened(tcp).unwrap(), "mx.a.test".to_owned(), Profile::FULL, SOON);
    connection.capabilities =
        Arc::new(Capabilities { pipelining: true, chunking: true, ..Capabilities::default() });
    connection.prove_pipelining();
    connection.tells_apart = true;
    (connection, host)
}

/// Delivers a small message that may go in a single write; its result, and what the host had read by then.
fn deliver(mut connection: Connection, mut host: TcpStream) -> (RecipientResult, String) {
    let one = recipient();
    let to = [&one];
    let message = outgoing(&to);
    let mut content = Some(&b"ab\r\n"[..]);
    let mut content = || Ok(content.take().map(Into::into));
    let deadline = Instant::now() + SOON;
    let mut results = connection.deliver(&message, &mut content, &mut |_| Ok(()), deadline).results;
    drop(connection);
    let mut read = Vec::new();
    // Replies that nobody read reset the connection; what came before that is there.
    let _ = host.read_to_end(&mut read);
    (results.remove(0), String::from_utf8(read).unwrap())
}

#[test]
fn nothing_is_said_to_a_host_that_spoke_unasked() {
    let (connection, mut host) = connected();
    host.write_all(b"250 2.0.0 queued, as I said\r\n").unwrap();
    connection.wire.wait_for_bytes();
    let (result, read) = deliver(connection, host);
    assert!(matches!(result, RecipientResult::Failed(Failure::BadReply { .. })), "{result:?} {read}");
    assert_eq!(read, "");
}

#[test]
fn a_reply_too_many_that_was_read_with_the_last_leaves_no_doubt_of_what_was_not_sent() {
    let (mut connection, mut host) = connected();
    host.write_all(b"250 2.0.0 queued\r\n250 2.0.0 as I said\r\n").unwrap();
    connection.hear(Phase::EndOfData, Instant::now() + SOON).unwrap();
    let (result, read) = deliver(connection, host);
    assert!(matches!(result, RecipientResult::Failed(Failure::BadReply { .. })), "{result:?}");
    assert_eq!(read, "");
}

/// The host takes the first chunk, refuses the second while it comes, and is gone. Its refusal is the second of its
/// answers, whoever reads them late.
#[test]
fn of_content_that_broke_off_what_is_owed_is_taken_before_what_was_said_early() {
    let (mut connection, mut host) = connected();
    let size = 3 * CHUNK_BYTES + 10;
    let host = std::thread::spawn(move || {
        let mut read = Vec::new();
        let mut room = vec![0; 1 << 16];
        let mut until = |wanted: &[u8], host: &mut TcpStream| {
            while memchr::memmem::find(&read, wanted).is_none() {
                let count = host.read(&mut room).unwrap();
                read.extend_from_slice(&room[..count]);
            }
        };
        until(b"RCPT", &mut host);
        host.write_all(b"250 ok\r\n250 ok\r\n").unwrap();
        // The second of two that are under way.
        until(format!("xBDAT {CHUNK_BYTES}\r\n").as_bytes(), &mut host);
        host.write_all(b"250 ok\r\n552 5.3.4 too much\r\n").unwrap();
        // What it leaves unread resets the connection.
    });
    let one = recipient();
    let to = [&one];
    let message = Outgoing { size, ..outgoing(&to) };
    let (mut left, mut host) = (size as usize, Some(host));
    let mut content = || {
        // In the middle of the second chunk, so that the rest of it cannot be written.
        if left <= size as usize - CHUNK_BYTES as usize - (1 << 19)
            && let Some(host) = host.take()
        {
            host.join().unwrap();
        }
        let piece = left.min(1 << 18);
        left -= piece;
        Ok((piece > 0).then(|| vec![b'x'; piece].into()))
    };
    let deadline = Instant::now() + SOON;
    let mut results = connection.deliver(&message, &mut content, &mut |_| Ok(()), deadline).results;
    assert!(host.is_none(), "it was asked for the second chunk");
    let result = results.remove(0);
    assert!(
        matches!(&result, RecipientResult::Failed(Failure::Refused { reply, .. }) if reply.code == 552),
        "{result:?}"
    );
}

#[test]
fn many_hosts_that_do_not_answer_quit_cost_no_more_than_one() {
    let (connections, hosts): (Vec<_>, Vec<_>) = (0..8).map(|_| connected()).unzip();
    let began = Instant::now();
    Connection::quit_all(connections);
    assert!(began.elapsed() < QUIT_WAIT * 4, "{:?}", began.elapsed());
    for mut host in hosts {
        let mut read = String::new();
        host.read_to_string(&mut read).unwrap();
        assert_eq!(read, "QUIT\r\n");
    }
}
