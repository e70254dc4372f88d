//! The connection: lines in, replies out, in the clear or over TLS.
//!
//! Replies are written only before a read that may block, so that those of pipelined commands
//! leave in one write (RFC 2920 §3.2). Reads and writes have time-outs, and so has the session; a line is at most
//! [`LINE_BYTES_MAX`] long and never ends at a bare LF. What was read ahead of a TLS handshake is
//! dropped (RFC 3207 §6, CVE-2011-0411).

use std::io::{self, Read};
use std::net::Shutdown;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use memchr::memchr;
use rustls::{ServerConnection, StreamOwned};
use socket2::Socket as SystemSocket;

use crate::mail::Reply;
use crate::sasl::{ChannelBinding, scram};

use crate::submission::syntax::parse::LINE_BYTES_MAX;
use crate::submission::wire::handshake::Handshakes;
use crate::submission::wire::stream::{Socket, Stream};

/// One read of content, and room for the longest line.
const INPUT_BYTES: usize = 16 << 10;
/// One read of commands: what an idle session holds.
const INPUT_BYTES_IDLE: usize = 2 << 10;
/// Replies of pipelined commands are held back up to this.
const OUTPUT_BYTES_MAX: usize = 16 << 10;
/// A line longer than this ends the session.
const LINE_FLOOD_BYTES: usize = 1 << 20;
/// The first byte of a TLS handshake record (RFC 8446 §5.1), and a control character in SMTP.
const TLS_HANDSHAKE_BYTE: u8 = 0x16;
/// How long a client may take to read what we send.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long, and for how many bytes, we go on reading from a client that we have sent away.
const LINGER: (Duration, usize) = (Duration::from_secs(1), 256 << 10);
/// How often we look for more, where reading does not wait any more.
const UNHEARD_PAUSE: Duration = Duration::from_millis(20);

/// Whether a connection that we end is read from for a moment longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::submission) enum Linger {
    /// The client said QUIT.
    No,
    /// It may still be sending, and our last reply would be lost with a reset.
    Yes,
    /// The same, where we have ended our own reading: an end of input is then not the client's.
    Unheard,
}

/// A line of input.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::submission) enum InputLine<'a> {
    /// Without its CR LF.
    Text(&'a [u8]),
    /// Longer than [`LINE_BYTES_MAX`]; read to its end.
    TooLong,
    /// A LF without CR was in it. Nothing up to the next CR LF is a line.
    BareLf,
    /// The client began a TLS handshake in the clear.
    TlsHello,
}

/// Why there is no more input.
#[derive(Debug, thiserror::Error)]
pub(in crate::submission) enum WireError {
    /// The client is gone.
    #[error("connection closed")]
    Closed,
    /// The client went before it said a word of its TLS handshake.
    #[error("connection closed without a word")]
    NothingSaid,
    /// The client is silent, or does not read.
    #[error("timed out")]
    TimedOut,
    /// A line without end.
    #[error("line without end")]
    Flood,
    /// The network or TLS.
    #[error("{0}")]
    Io(#[source] io::Error),
}

impl From<io::Error> for WireError {
    fn from(error: io::Error) -> WireError {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => WireError::TimedOut,
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe => WireError::Closed,
            _ => WireError::Io(error),
        }
    }
}

/// A connection with its buffers.
pub(in crate::submission) struct Wire {
    stream: Stream,
    socket: Arc<SystemSocket>,
    /// All of it is room to read into, [`INPUT_BYTES_IDLE`] or [`INPUT_BYTES`].
    input: Vec<u8>,
    /// What was read and not used yet is `input[start..end]`.
    start: usize,
    end: usize,
    output: Vec<u8>,
    /// A bare LF was met, and no CR LF since.
    tainted: bool,
    idle: Duration,
    handshake: Duration,
    begin: Instant,
    /// Nothing is read after it.
    session_end: Instant,
}

/// What a connection may take.
#[derive(Debug, Clone, Copy)]
pub(in crate::submission) struct Times {
    /// For every read.
    pub(in crate::submission) idle: Duration,
    /// For a TLS handshake.
    pub(in crate::submission) handshake: Duration,
    /// For all together, from the beginning on.
    pub(in crate::submission) lifetime: Duration,
}

impl Wire {
    /// In the clear; the socket is blocking.
    ///
    /// # Errors
    /// The socket's options could not be set: it is gone.
    pub(in crate::submission) fn new(socket: Arc<SystemSocket>, times: Times) -> io::Result<Wire> {
        let Times { idle, handshake, lifetime } = times;
        let begin = Instant::now();
        let session_end = begin + lifetime;
        // A socket in the file system has no such option, and needs none.
        let _ = socket.set_tcp_nodelay(true);
        socket.set_read_timeout(Some(idle))?;
        socket.set_write_timeout(Some(idle.min(WRITE_TIMEOUT)))?;
        Ok(Wire {
            stream: Stream::Plain(Socket { system: Arc::clone(&socket), until: session_end }),
            socket,
            input: vec![0; INPUT_BYTES_IDLE],
            start: 0,
            end: 0,
            output: Vec::new(),
            tainted: false,
            idle,
            handshake,
            begin,
            session_end,
        })
    }

    /// Other times from now on.
    ///
    /// # Errors
    /// The socket's options could not be set: it is gone.
    pub(in crate::submission) fn set_times(&mut self, times: Times) -> io::Result<()> {
        (self.idle, self.handshake) = (times.idle, times.handshake);
        self.session_end = self.begin + times.lifetime;
        self.socket.set_read_timeout(Some(times.idle))?;
        self.socket.set_write_timeout(Some(times.idle.min(WRITE_TIMEOUT)))
    }

    /// Puts a reply behind those that wait to be written.
    ///
    /// # Errors
    /// Of writing, where too much waits already.
    pub(in crate::submission) fn reply(&mut self, reply: &Reply) -> Result<(), WireError> {
        reply.write_to(&mut self.output);
        if self.output.len() > OUTPUT_BYTES_MAX { self.flush() } else { Ok(()) }
    }

    /// Writes all replies that wait.
    ///
    /// # Errors
    /// `TimedOut` where the client does not read.
    pub(in crate::submission) fn flush(&mut self) -> Result<(), WireError> {
        if !self.output.is_empty() {
            self.stream.set_deadline(Instant::now() + self.idle.min(WRITE_TIMEOUT));
            self.stream.write_all(&self.output)?;
            // Most replies are short; what a flood of them took is given back.
            self.output.clear();
            self.output.shrink_to(INPUT_BYTES_IDLE);
        }
        Ok(())
    }

    /// The next line, whole, within the idle time-out from now: a byte now and then does not extend it.
    ///
    /// # Errors
    /// There is none.
    pub(in crate::submission) fn read_line(&mut self) -> Result<InputLine<'_>, WireError> {
        if self.start == self.end && self.input.len() > INPUT_BYTES_IDLE {
            self.input.truncate(INPUT_BYTES_IDLE);
            self.input.shrink_to_fit();
            (self.start, self.end) = (0, 0);
        }
        let deadline = Instant::now() + self.idle;
        let mut searched = 0;
        let mut discarded = 0;
        loop {
            let pending = &self.input[self.start..self.end];
            if pending.first() == Some(&TLS_HANDSHAKE_BYTE) && !self.is_encrypted() {
                return Ok(InputLine::TlsHello);
            }
            let Some(found) = memchr(b'\n', &pending[searched..]) else {
                searched = pending.len();
                if searched > LINE_BYTES_MAX + 1 {
                    // Too long already: of it only the last byte matters, which may be the CR of its end.
                    discarded += searched - 1;
                    if discarded > LINE_FLOOD_BYTES {
                        return Err(WireError::Flood);
                    }
                    self.start = self.end - 1;
                    searched = 1;
                }
                self.fill(deadline)?;
                continue;
            };
            let end = searched + found;
            if end == 0 || pending[end - 1] != b'\r' {
                // A LF that ends nothing. Should nothing follow it, its sender waits for an answer.
                self.tainted = true;
                searched = end + 1;
                if searched == pending.len() {
                    self.start = self.end;
                    return Ok(InputLine::BareLf);
                }
                continue;
            }
            let line = self.start..self.start + end - 1;
            self.start += end + 1;
            return Ok(if std::mem::take(&mut self.tainted) {
                InputLine::BareLf
            } else if discarded > 0 || line.len() > LINE_BYTES_MAX {
                InputLine::TooLong
            } else {
                InputLine::Text(&self.input[line])
            });
        }
    }

    /// Reads where nothing is left of what was read; then there is [`Wire::input`].
    ///
    /// # Errors
    /// `TimedOut` past `deadline` or the idle time-out.
    pub(in crate::submission) fn wait_for_input(&mut self, deadline: Instant) -> Result<(), WireError> {
        if self.start < self.end {
            return Ok(());
        }
        self.input.resize(INPUT_BYTES, 0);
        self.fill(deadline)
    }

    /// In TLS, its handshake done.
    pub(in crate::submission) fn is_encrypted(&self) -> bool {
        matches!(self.stream, Stream::Tls(_))
    }

    /// The session has lasted as long as a session may.
    pub(in crate::submission) fn is_over(&self) -> bool {
        Instant::now() > self.session_end
    }

    /// What was read and not used yet. Then [`Wire::consume`].
    pub(in crate::submission) fn input(&self) -> &[u8] {
        &self.input[self.start..self.end]
    }

    /// So many bytes of [`Wire::input`] are used.
    pub(in crate::submission) fn consume(&mut self, bytes: usize) {
        self.start += bytes;
    }

    /// Reads once, after writing what waits; at least one byte comes.
    fn fill(&mut self, deadline: Instant) -> Result<(), WireError> {
        self.flush()?;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.start == 0 && self.end == self.input.len() {
            // Never past INPUT_BYTES: read_line makes room before a line is so long.
            self.input.resize(INPUT_BYTES, 0);
        } else if self.end == self.input.len() {
            self.input.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let deadline = deadline.min(self.session_end);
        self.stream.set_deadline(deadline);
        let read = self.stream.read(&mut self.input[self.end..])?;
        if read == 0 {
            return Err(WireError::Closed);
        }
        self.end += read;
        if Instant::now() > deadline { Err(WireError::TimedOut) } else { Ok(()) }
    }

    /// Whether the client has said more than was read as lines. What is still in the network cannot be seen.
    pub(in crate::submission) fn has_input(&mut self) -> bool {
        self.start < self.end
            || match &mut self.stream {
                Stream::Plain(_) => false,
                Stream::Tls(stream) => {
                    let state = stream.conn.process_new_packets();
                    state.map_or(true, |state| state.plaintext_bytes_to_read() > 0)
                }
            }
    }

    /// Writes what waits and gives the connection away.
    ///
    /// # Errors
    /// It could not be written: there is nothing to give away.
    pub(in crate::submission) fn into_parts(
        mut self,
    ) -> Result<(Arc<SystemSocket>, Option<Box<ServerConnection>>), WireError> {
        self.flush()?;
        let tls = match self.stream {
            Stream::Plain(_) => None,
            Stream::Tls(stream) => Some(Box::new(stream.into_parts().0)),
        };
        Ok((self.socket, tls))
    }

    /// Does the server's side of a TLS handshake, within its own time in all. What was read
    /// before is dropped: it came in the clear, and anybody may have written it.
    ///
    /// # Errors
    /// There is no connection to go on with then.
    pub(in crate::submission) fn start_tls(
        &mut self,
        mut connection: Box<ServerConnection>,
        handshakes: &Handshakes,
    ) -> Result<(), WireError> {
        self.flush()?;
        (self.start, self.end, self.tainted) = (0, 0, false);
        let deadline = self.session_end.min(Instant::now() + self.handshake);
        self.socket.set_read_timeout(Some(self.handshake))?;
        let mut socket = Socket { system: Arc::clone(&self.socket), until: deadline };
        let mut heard = false;
        while connection.is_handshaking() {
            if connection.wants_write() {
                connection.write_tls(&mut socket)?;
                continue;
            }
            match connection.read_tls(&mut socket).map_err(WireError::from) {
                Ok(0) | Err(WireError::Closed) if !heard => return Err(WireError::NothingSaid),
                Ok(0) => return Err(WireError::Closed),
                read => read?,
            };
            heard = true;
            let processed;
            (connection, processed) = handshakes.process(connection)?;
            if let Err(error) = processed {
                // The alert tells the client why, behind what was to be sent anyway; the connection is over.
                while connection.wants_write()
                    && connection.write_tls(&mut socket).is_ok_and(|written| written > 0)
                {}
                return Err(WireError::Io(io::Error::other(error)));
            }
            if Instant::now() > deadline {
                return Err(WireError::TimedOut);
            }
        }
        while connection.wants_write() {
            connection.write_tls(&mut socket)?;
        }
        self.socket.set_read_timeout(Some(self.idle))?;
        self.stream = Stream::Tls(Box::new(StreamOwned::new(*connection, socket)));
        Ok(())
    }

    /// The channel binding of this connection; none without TLS 1.3.
    pub(in crate::submission) fn channel_binding(&self) -> Option<ChannelBinding> {
        let Stream::Tls(stream) = &self.stream else { return None };
        scram::channel_binding(&*stream.conn)
    }

    /// Writes what waits and ends the connection. Where the client may still be sending it is listened to
    /// for a moment: closing on unread bytes would reset the connection and take our last reply with it.
    pub(in crate::submission) fn close(mut self, linger: Linger) {
        // Errors change nothing any more: the client is gone then.
        let _ = self.flush();
        if let Stream::Tls(stream) = &mut self.stream {
            stream.conn.send_close_notify();
            let _ = stream.conn.complete_io(&mut stream.sock);
        }
        let _ = self.socket.shutdown(Shutdown::Write);
        if linger != Linger::No && self.socket.set_read_timeout(Some(LINGER.0)).is_ok() {
            let deadline = Instant::now() + LINGER.0;
            let mut left = LINGER.1;
            while left > 0 && Instant::now() < deadline {
                match (&*self.socket).read(&mut self.input) {
                    Ok(read) if read > 0 => left = left.saturating_sub(read),
                    Ok(_) if linger == Linger::Unheard => thread::sleep(UNHEARD_PAUSE),
                    _ => break,
                }
            }
        }
    }
}
