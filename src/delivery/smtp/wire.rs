//! The socket of a delivery connection, with or without TLS: bytes out, replies in, both with time-outs.
//!
//! Every wait ends at the stage's time-out or at the attempt's deadline, whichever is earlier. The time-out is for a
//! whole reply, however slowly its bytes arrive. Where the relay stops a wait ends sooner (`stop.rs`).

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, ServerConnection};

use crate::mail::Reply;
use crate::sasl::ChannelBinding;
use crate::sasl::scram::channel_binding;

use crate::delivery::smtp::login::LoginWords;
use crate::delivery::smtp::reply_reader::{Malformed, ReplyReader};
use crate::delivery::smtp::stop::{LOOK_EVERY, Stop};

/// Why a connection is of no more use, or could not be made.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// The stage's time-out.
    TimedOut,
    /// The attempt's deadline.
    Deadline,
    /// The other side closed the connection, or the error of the socket.
    Lost(Option<String>),
    /// The bytes are no reply.
    Malformed(Malformed),
    /// A reply came before its command was sent.
    OutOfTurn,
    /// This machine cannot send from this source address.
    NoSource(IpAddr, String),
    /// TLS failed.
    Tls(rustls::Error),
    /// The relay stops, and waits no longer.
    Stopping,
}

impl Fault {
    pub(in crate::delivery) fn lost(error: io::Error) -> Fault {
        Fault::Lost(Some(error.to_string()))
    }
}

/// How long an operation may take.
#[derive(Debug, Clone, Copy)]
pub(in crate::delivery) struct Timeouts {
    /// The stage's time-out.
    pub(in crate::delivery) wait: Duration,
    /// The attempt's deadline.
    pub(in crate::delivery) deadline: Instant,
}

/// What a host has done without being waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::delivery) enum Look {
    /// Nothing.
    Nothing,
    /// There are bytes of a reply.
    Spoke,
    /// The connection is over.
    Closed,
}

/// One TCP connection to a host, or from a client that turned it round (ATRN).
#[derive(Debug)]
pub(in crate::delivery) struct Wire {
    tcp: TcpStream,
    /// We are the TLS client, but the server on a connection that was turned round.
    tls: Option<Box<rustls::Connection>>,
    replies: ReplyReader,
    /// The time-outs that the socket has now: most reads need no system call to set them.
    read_wait: Option<Duration>,
    write_wait: Option<Duration>,
    stop: Stop,
    /// The host is given the content of a message now.
    content_begun: bool,
}

impl Wire {
    /// For a connection that we opened.
    pub(in crate::delivery) fn opened(tcp: TcpStream) -> Result<Wire, Fault> {
        // Commands are written whole: Nagle's algorithm would only cost round trips.
        tcp.set_nodelay(true).map_err(Fault::lost)?;
        Ok(Wire::of(tcp, None))
    }

    /// For a connection that the other side opened.
    pub(in crate::delivery) fn turned(tcp: TcpStream, tls: Option<Box<ServerConnection>>) -> Wire {
        let tls = tls.map(|tls| Box::new(rustls::Connection::Server(*tls)));
        Wire::of(tcp, tls)
    }

    fn of(tcp: TcpStream, tls: Option<Box<rustls::Connection>>) -> Wire {
        let (replies, stop) = (ReplyReader::default(), Stop::default());
        Wire { tcp, tls, replies, read_wait: None, write_wait: None, stop, content_begun: false }
    }

    /// Waits end with this stop.
    pub(in crate::delivery) fn heed(&mut self, stop: Stop) {
        self.stop = stop;
    }

    /// The first byte of the content follows.
    ///
    /// # Errors
    /// The relay stops, and there is no time for content that was not begun.
    pub(in crate::delivery) fn begin_content(&mut self) -> Result<(), Fault> {
        if !self.content_begun {
            self.stop.check_content()?;
        }
        self.content_begun = true;
        Ok(())
    }

    /// The message is over, and what the host said of it is read.
    pub(in crate::delivery) fn end_content(&mut self) {
        self.content_begun = false;
    }

    /// Whether TLS is in use.
    pub(in crate::delivery) fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// The channel binding of this connection; none without TLS 1.3.
    pub(in crate::delivery) fn channel_binding(&self) -> Option<ChannelBinding> {
        match self.tls.as_deref()? {
            rustls::Connection::Client(tls) => channel_binding(tls),
            rustls::Connection::Server(tls) => channel_binding(tls),
        }
    }

    /// The certificates that the other side showed, its own first; none without TLS.
    pub(in crate::delivery) fn peer_chain(&self) -> Vec<CertificateDer<'static>> {
        let shown = self.tls.as_deref().and_then(|tls| tls.peer_certificates());
        shown.map(|chain| chain.iter().map(|one| one.clone().into_owned()).collect()).unwrap_or_default()
    }

    /// The local address.
    pub(in crate::delivery) fn source(&self) -> Option<IpAddr> {
        self.tcp.local_addr().ok().map(|local| local.ip())
    }

    /// What no reply may repeat from now on.
    pub(in crate::delivery) fn login(&mut self) -> &mut LoginWords {
        self.replies.login()
    }

    /// The text of the challenge that came last.
    pub(in crate::delivery) fn take_challenge(&mut self) -> String {
        self.replies.take_challenge()
    }

    /// The next reply.
    pub(in crate::delivery) fn reply(&mut self, timeouts: Timeouts) -> Result<Reply, Fault> {
        let mut until = None;
        loop {
            if let Some(reply) = self.replies.next().map_err(Fault::Malformed)? {
                return Ok(reply);
            }
            let until = *until.get_or_insert_with(|| Instant::now() + timeouts.wait);
            if self.read_more(until, timeouts)? == 0 {
                return Err(Fault::Lost(None));
            }
        }
    }

    /// The next reply, of what is there to be read: nothing is waited for. None: there is no whole one.
    ///
    /// # Errors
    /// It is no reply.
    pub(in crate::delivery) fn reply_at_hand(&mut self) -> Result<Option<Reply>, Malformed> {
        loop {
            if let Some(reply) = self.replies.next()? {
                return Ok(Some(reply));
            }
            let Wire { tcp, tls, replies, .. } = &mut *self;
            let count = match tls {
                None if is_readable(tcp) => replies.fill(|room| tcp.read(room)),
                None => return Ok(None),
                Some(tls) => match replies.fill(|room| tls.reader().read(room)) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock && is_readable(tcp) => {
                        if !matches!(tls.read_tls(tcp), Ok(1..)) || tls.process_new_packets().is_err() {
                            return Ok(None);
                        }
                        continue;
                    }
                    got => got,
                },
            };
            if !matches!(count, Ok(1..)) {
                return Ok(None);
            }
        }
    }

    /// Whether bytes wait that the host sent before it was asked.
    pub(in crate::delivery) fn spoke_out_of_turn(&self) -> bool {
        self.replies.has_bytes()
    }

    /// Whether there is a reply to read, or the connection is over, without waiting for either. One system call where
    /// there is nothing.
    pub(in crate::delivery) fn look(&mut self) -> Look {
        if self.replies.has_bytes() {
            return Look::Spoke;
        }
        let Wire { tcp, tls, .. } = self;
        let Some(tls) = tls else {
            return match is_readable(tcp).then(|| tcp.peek(&mut [0])) {
                None => Look::Nothing,
                Some(Ok(1..)) => Look::Spoke,
                Some(Ok(0) | Err(_)) => Look::Closed,
            };
        };
        loop {
            // Errors come again at the next read. Bytes may be no reply but a session ticket or a key update.
            match tls.process_new_packets() {
                Ok(state) if state.plaintext_bytes_to_read() > 0 => return Look::Spoke,
                Ok(state) if state.peer_has_closed() => return Look::Closed,
                Ok(_) if !is_readable(tcp) => return Look::Nothing,
                Ok(_) => {}
                Err(_) => return Look::Closed,
            }
            // Bytes are there, so this does not wait.
            match tls.read_tls(tcp) {
                Ok(1..) => {}
                Ok(0) | Err(_) => return Look::Closed,
            }
        }
    }

    /// Writes all of `bytes`. The stage's time-out is for each piece that the host takes.
    pub(in crate::delivery) fn send(&mut self, bytes: &[u8], timeouts: Timeouts) -> Result<(), Fault> {
        self.send_from(bytes, &mut 0, timeouts)
    }

    /// The same from `taken` on, where it also notes how many are on their way, should not all of them be.
    pub(in crate::delivery) fn send_from(
        &mut self,
        bytes: &[u8],
        taken: &mut usize,
        timeouts: Timeouts,
    ) -> Result<(), Fault> {
        while *taken < bytes.len() {
            let rest = &bytes[*taken..];
            match &mut self.tls {
                None => *taken += self.write_tcp(rest, timeouts)?,
                Some(tls) => {
                    *taken += tls.writer().write(rest).map_err(Fault::lost)?;
                    self.flush_tls(timeouts)?;
                }
            }
        }
        Ok(())
    }

    /// The TLS handshake. Bytes that arrived before it are an error, and never read after it (STARTTLS injection,
    /// CVE-2011-0411).
    pub(in crate::delivery) fn start_tls(
        &mut self,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
        timeouts: Timeouts,
    ) -> Result<&ClientConnection, Fault> {
        if self.replies.has_bytes() {
            return Err(Fault::OutOfTurn);
        }
        let tls = ClientConnection::new(config, name).map_err(Fault::Tls)?;
        self.tls = Some(Box::new(rustls::Connection::Client(tls)));
        let until = Instant::now() + timeouts.wait;
        loop {
            self.flush_tls(timeouts)?;
            match &self.tls {
                Some(tls) if tls.is_handshaking() => {}
                _ => break,
            }
            if self.read_tls(until, timeouts)? == 0 {
                return Err(Fault::Lost(None));
            }
        }
        match self.tls.as_deref() {
            Some(rustls::Connection::Client(tls)) => Ok(tls),
            _ => Err(Fault::Lost(None)),
        }
    }

    /// Closes the connection, with a close_notify if that needs no waiting.
    pub(in crate::delivery) fn close(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            // The connection is over either way.
            let _ = self.tcp.set_nonblocking(true).and_then(|()| tls.write_tls(&mut self.tcp));
        }
        let _ = self.tcp.shutdown(std::net::Shutdown::Both);
    }

    /// Reads more bytes into the reply reader; 0: the host closed the connection.
    fn read_more(&mut self, until: Instant, timeouts: Timeouts) -> Result<usize, Fault> {
        loop {
            let Some(tls) = &mut self.tls else {
                self.set_read_wait(until, timeouts)?;
                let Wire { replies, tcp, .. } = self;
                match replies.fill(|room| tcp.read(room)) {
                    Err(error) if is_to_be_repeated(&error) => {
                        self.stop.check(self.content_begun)?;
                        continue;
                    }
                    got => return got.map_err(|error| fault_of(error, timeouts.deadline)),
                }
            };
            match self.replies.fill(|room| tls.reader().read(room)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // Closed without a close_notify: common, and here the same as with one.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                got => return got.map_err(Fault::lost),
            }
            self.read_tls(until, timeouts)?;
            self.flush_tls(timeouts)?;
        }
    }

    /// Reads encrypted bytes from the socket into rustls; 0: the host closed the connection.
    fn read_tls(&mut self, until: Instant, timeouts: Timeouts) -> Result<usize, Fault> {
        loop {
            self.set_read_wait(until, timeouts)?;
            let Some(tls) = &mut self.tls else { return Ok(0) };
            match tls.read_tls(&mut self.tcp) {
                Err(error) if is_to_be_repeated(&error) => self.stop.check(self.content_begun)?,
                Err(error) => return Err(fault_of(error, timeouts.deadline)),
                Ok(count) => {
                    if let Err(error) = tls.process_new_packets() {
                        // Send the alert.
                        let _ = tls.write_tls(&mut self.tcp);
                        return Err(Fault::Tls(error));
                    }
                    return Ok(count);
                }
            }
        }
    }

    fn flush_tls(&mut self, timeouts: Timeouts) -> Result<(), Fault> {
        let mut until = Instant::now() + timeouts.wait;
        while self.tls.as_ref().is_some_and(|tls| tls.wants_write()) {
            self.set_write_wait(until, timeouts)?;
            let Some(tls) = &mut self.tls else { break };
            match tls.write_tls(&mut self.tcp) {
                Ok(0) => return Err(Fault::Lost(None)),
                Ok(_) => until = Instant::now() + timeouts.wait,
                Err(error) if is_to_be_repeated(&error) => self.stop.check(self.content_begun)?,
                Err(error) => return Err(fault_of(error, timeouts.deadline)),
            }
        }
        Ok(())
    }

    fn write_tcp(&mut self, bytes: &[u8], timeouts: Timeouts) -> Result<usize, Fault> {
        let until = Instant::now() + timeouts.wait;
        loop {
            self.set_write_wait(until, timeouts)?;
            match self.tcp.write(bytes) {
                Ok(0) => return Err(Fault::Lost(None)),
                Ok(count) => return Ok(count),
                Err(error) if is_to_be_repeated(&error) => self.stop.check(self.content_begun)?,
                Err(error) => return Err(fault_of(error, timeouts.deadline)),
            }
        }
    }

    fn set_read_wait(&mut self, until: Instant, timeouts: Timeouts) -> Result<(), Fault> {
        self.stop.check_end()?;
        let wait = wait_of(until, timeouts)?;
        if self.read_wait != Some(wait) {
            self.tcp.set_read_timeout(Some(wait)).map_err(Fault::lost)?;
            self.read_wait = Some(wait);
        }
        Ok(())
    }

    /// What fits into the socket's buffer is written in any case: QUIT too, where the relay stops.
    fn set_write_wait(&mut self, until: Instant, timeouts: Timeouts) -> Result<(), Fault> {
        let wait = wait_of(until, timeouts)?;
        if self.write_wait != Some(wait) {
            self.tcp.set_write_timeout(Some(wait)).map_err(Fault::lost)?;
            self.write_wait = Some(wait);
        }
        Ok(())
    }
}

#[cfg(test)]
impl Wire {
    /// Waits until the host has sent something.
    pub(in crate::delivery) fn wait_for_bytes(&self) {
        let _ = self.tcp.peek(&mut [0]);
    }
}

/// How long to wait until the next look at the stop.
fn wait_of(until: Instant, timeouts: Timeouts) -> Result<Duration, Fault> {
    let wait = remaining(until, timeouts.deadline)?;
    // At the first read of a reply a few microseconds of the time-out are gone: not worth a system call.
    let is_whole = timeouts.wait.saturating_sub(wait) < Duration::from_millis(1);
    Ok(if is_whole { timeouts.wait } else { wait }.min(LOOK_EVERY))
}

/// Nothing happened: the wait was interrupted, or it is time to look whether it goes on.
fn is_to_be_repeated(error: &io::Error) -> bool {
    // The kernel's own time-out of a connection is another error (`TimedOut`).
    matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock)
}

/// Whether a read would not wait.
fn is_readable(tcp: &TcpStream) -> bool {
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    // A poll that fails has seen nothing, and the next read will say what is wrong.
    poll(&mut [PollFd::new(tcp, PollFlags::IN)], Some(&at_once)).is_ok_and(|ready| ready > 0)
}

/// The time until the earlier of both.
///
/// # Errors
/// Which of them is over.
pub(in crate::delivery) fn remaining(until: Instant, deadline: Instant) -> Result<Duration, Fault> {
    let now = Instant::now();
    let left = until.min(deadline).saturating_duration_since(now);
    if !left.is_zero() {
        // The kernel counts in microseconds, and 0 means no time-out.
        Ok(left.max(Duration::from_millis(1)))
    } else if deadline <= now {
        Err(Fault::Deadline)
    } else {
        Err(Fault::TimedOut)
    }
}

pub(in crate::delivery) fn fault_of(error: io::Error, deadline: Instant) -> Fault {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut if Instant::now() >= deadline => Fault::Deadline,
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Fault::TimedOut,
        _ => Fault::lost(error),
    }
}
