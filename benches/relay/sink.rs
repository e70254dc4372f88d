//! A receiving host that takes everything and counts: at one address or many, at once or after a delay, in
//! the clear or with STARTTLS. It offers PIPELINING, and CHUNKING where that is wanted.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use rustls::ServerConfig;

use crate::stream::Stream;

/// How it behaves.
#[derive(Clone, Default)]
pub(crate) struct Manner {
    /// Before each write of replies, the greeting included: what a round trip costs whoever waits for it.
    /// Replies to commands that came together leave together.
    pub(crate) delay: Duration,
    /// Offers STARTTLS.
    pub(crate) tls: Option<Arc<ServerConfig>>,
    /// Offers CHUNKING (RFC 3030).
    pub(crate) chunking: bool,
}

/// Runs until the process ends.
pub(crate) struct Sink {
    pub(crate) address: SocketAddr,
    count: Arc<Count>,
}

type Count = (Mutex<usize>, Condvar);

impl Sink {
    /// At one address, at once, in the clear.
    pub(crate) fn start() -> Sink {
        Sink::start_at(&[Ipv4Addr::LOCALHOST], Manner::default())
    }

    /// At each of these, on one port.
    pub(crate) fn start_at(addresses: &[Ipv4Addr], manner: Manner) -> Sink {
        let listeners = listen(addresses);
        let address = listeners[0].local_addr().expect("sink address");
        let count: Arc<Count> = Arc::default();
        for listener in listeners {
            let (counter, manner) = (count.clone(), manner.clone());
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let (counter, manner) = (counter.clone(), manner.clone());
                    // Errors end the connection: the relay sees that and tries again.
                    std::thread::spawn(move || Conversation::new(stream, manner)?.hold(&counter));
                }
            });
        }
        Sink { address, count }
    }

    /// The part of a `[[route]]` that leads here, in the clear.
    pub(crate) fn as_relay(&self) -> String {
        format!("relay = [\"[{}]:{}\"]\ntls = \"off\"\n", self.address.ip(), self.address.port())
    }

    pub(crate) fn count(&self) -> usize {
        *self.count.0.lock().expect("count")
    }

    /// Until so many have arrived in all.
    pub(crate) fn wait_for(&self, wanted: usize, patience: Duration) {
        let (count, changed) = &*self.count;
        let guard = count.lock().expect("count");
        let (count, timeout) =
            changed.wait_timeout_while(guard, patience, |count| *count < wanted).expect("count");
        assert!(!timeout.timed_out(), "only {count} of {wanted} messages arrived in {patience:?}");
    }
}

/// A port that is free at all of these; another program may have it at one of them.
fn listen(addresses: &[Ipv4Addr]) -> Vec<TcpListener> {
    for _ in 0..20 {
        let first = TcpListener::bind((addresses[0], 0)).expect("bind the sink");
        let port = first.local_addr().expect("sink address").port();
        let others = addresses[1..].iter().map(|ip| TcpListener::bind((IpAddr::from(*ip), port)));
        if let Ok(others) = others.collect::<io::Result<Vec<_>>>() {
            return std::iter::once(first).chain(others).collect();
        }
    }
    panic!("no port is free at all of {addresses:?}");
}

struct Conversation {
    reader: BufReader<Stream>,
    manner: Manner,
    line: Vec<u8>,
    out: Vec<u8>,
}

impl Conversation {
    fn new(stream: TcpStream, manner: Manner) -> io::Result<Conversation> {
        stream.set_nodelay(true)?;
        let reader = BufReader::with_capacity(32 * 1024, Stream::Clear(stream));
        let out = b"220 sink.test ESMTP\r\n".to_vec();
        Ok(Conversation { reader, manner, line: Vec::with_capacity(1024), out })
    }

    fn hold(mut self, counter: &Count) -> io::Result<()> {
        loop {
            // Replies to pipelined commands leave together.
            if self.reader.buffer().is_empty() {
                self.flush()?;
            }
            self.read_line()?;
            match self.line.get(..4).map(<[u8]>::to_ascii_uppercase).as_deref() {
                Some(b"EHLO") => {
                    self.out.extend_from_slice(b"250-sink.test\r\n250-PIPELINING\r\n");
                    if self.manner.tls.is_some() {
                        self.out.extend_from_slice(b"250-STARTTLS\r\n");
                    }
                    if self.manner.chunking {
                        self.out.extend_from_slice(b"250-CHUNKING\r\n");
                    }
                    self.out.extend_from_slice(b"250 8BITMIME\r\n");
                }
                Some(b"STAR") => {
                    let Some(config) = self.manner.tls.take() else {
                        return Err(io::ErrorKind::Other.into());
                    };
                    self.out.extend_from_slice(b"220 go\r\n");
                    self.flush()?;
                    let stream = self.reader.into_inner().accept(&config)?;
                    self.reader = BufReader::with_capacity(32 * 1024, stream);
                }
                Some(b"DATA") => {
                    self.out.extend_from_slice(b"354 go\r\n");
                    self.flush()?;
                    while self.line != b".\r\n" {
                        self.read_line()?;
                    }
                    self.took(counter);
                }
                Some(b"BDAT") => {
                    let line = String::from_utf8_lossy(&self.line).into_owned();
                    let mut words = line.split_ascii_whitespace().skip(1);
                    let bytes: u64 =
                        words.next().and_then(|size| size.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
                    if io::copy(&mut (&mut self.reader).take(bytes), &mut io::sink())? < bytes {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    match words.next() {
                        Some(_) => self.took(counter),
                        None => self.out.extend_from_slice(b"250 2.0.0 go on\r\n"),
                    }
                }
                Some(b"QUIT") => {
                    self.out.extend_from_slice(b"221 bye\r\n");
                    return self.flush();
                }
                // With the enhanced codes that most hosts give.
                Some(b"MAIL") => self.out.extend_from_slice(b"250 2.1.0 ok\r\n"),
                Some(b"RCPT") => self.out.extend_from_slice(b"250 2.1.5 ok\r\n"),
                _ => self.out.extend_from_slice(b"250 2.0.0 ok\r\n"),
            }
        }
    }

    fn took(&mut self, counter: &Count) {
        *counter.0.lock().expect("count") += 1;
        counter.1.notify_one();
        self.out.extend_from_slice(b"250 2.0.0 ok\r\n");
    }

    fn read_line(&mut self) -> io::Result<()> {
        self.line.clear();
        match self.reader.read_until(b'\n', &mut self.line)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.out.is_empty() {
            return Ok(());
        }
        if !self.manner.delay.is_zero() {
            std::thread::sleep(self.manner.delay);
        }
        let stream = self.reader.get_mut();
        stream.write_all(&self.out)?;
        self.out.clear();
        stream.flush()
    }
}
