//! A receiving host for many messages: takes everything at once and hands each to a function.
//!
//! [`FakeMx`](crate::harness::fakemx::FakeMx) remembers all that was said to it; this remembers nothing.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What is done with a message: the number of its connection (over all sinks, from 1), its accepted recipients and its
/// content. The answer to the dot, or [`DROP`].
pub type Take = dyn Fn(usize, &[String], &[u8]) -> &'static str + Send + Sync;
/// What is answered to a recipient, or [`HANG`].
pub type Judge = dyn Fn(&str) -> &'static str + Send + Sync;
/// The connection ends there, without an answer.
pub const DROP: &str = "drop";
/// Nothing is answered any more; what the client says is read until it goes.
pub const HANG: &str = "hang";

/// Connections of all sinks so far.
static CONNECTIONS: AtomicUsize = AtomicUsize::new(0);

/// The number of the last connection.
pub fn last_connection() -> usize {
    CONNECTIONS.load(Ordering::SeqCst)
}

/// Listens at `address` until the process ends, one thread a connection. Gives how many are open.
pub fn start(address: SocketAddr, judge: Arc<Judge>, take: Arc<Take>) -> Arc<AtomicUsize> {
    let listener = TcpListener::bind(address).unwrap();
    let open = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&open);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (judge, take, open) = (Arc::clone(&judge), Arc::clone(&take), Arc::clone(&counter));
            let number = CONNECTIONS.fetch_add(1, Ordering::SeqCst) + 1;
            open.fetch_add(1, Ordering::SeqCst);
            std::thread::spawn(move || {
                // A relay that is killed breaks its connections off; that is the end of that connection only.
                let _ = serve(stream, &*judge, &|recipients, content| take(number, recipients, content));
                open.fetch_sub(1, Ordering::SeqCst);
            });
        }
    });
    open
}

type TakeHere<'a> = dyn Fn(&[String], &[u8]) -> &'static str + 'a;

fn serve(stream: TcpStream, judge: &Judge, take: &TakeHere<'_>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut writer = stream.try_clone()?;
    let mut reader = BufReader::with_capacity(64 * 1024, stream);
    let mut replies = b"220 sink.test ESMTP\r\n".to_vec();
    let mut recipients = Vec::new();
    let mut line = Vec::new();
    loop {
        // What came in one piece is answered in one piece (PIPELINING).
        if reader.buffer().is_empty() {
            writer.write_all(&replies)?;
            replies.clear();
        }
        line.clear();
        if reader.read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        let verb = line.get(..4).unwrap_or_default().to_ascii_uppercase();
        let reply = match verb.as_slice() {
            b"EHLO" => "250-sink.test\r\n250-PIPELINING\r\n250-ENHANCEDSTATUSCODES\r\n250 8BITMIME",
            b"MAIL" | b"RSET" => {
                recipients.clear();
                "250 2.1.0 Ok"
            }
            b"RCPT" => {
                let text = String::from_utf8_lossy(&line);
                let address = text.split(['<', '>']).nth(1).unwrap_or_default();
                let verdict = judge(address);
                if verdict.starts_with('2') {
                    recipients.push(address.to_owned());
                }
                verdict
            }
            b"DATA" if recipients.is_empty() => "554 5.5.1 No valid recipients",
            b"DATA" => {
                replies.extend_from_slice(b"354 Go ahead\r\n");
                writer.write_all(&replies)?;
                replies.clear();
                let content = content(&mut reader)?;
                take(&recipients, &content)
            }
            b"QUIT" => {
                replies.extend_from_slice(b"221 2.0.0 Bye\r\n");
                return writer.write_all(&replies);
            }
            _ => "250 2.0.0 Ok",
        };
        match reply {
            DROP => return Ok(()),
            HANG => return std::io::copy(&mut reader, &mut std::io::sink()).map(drop),
            _ => {}
        }
        replies.extend_from_slice(reply.as_bytes());
        replies.extend_from_slice(b"\r\n");
    }
}

/// The content up to the lone dot, dots undone.
fn content(reader: &mut BufReader<TcpStream>) -> std::io::Result<Vec<u8>> {
    let mut content = Vec::new();
    loop {
        let start = content.len();
        if reader.read_until(b'\n', &mut content)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if content[start] == b'.' {
            if &content[start..] == b".\r\n" {
                content.truncate(start);
                return Ok(content);
            }
            content.remove(start);
        }
    }
}
