//! The socket under a session, in the clear or in TLS, and until when it may be read and written.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Instant;

use rustls::{ServerConnection, StreamOwned};
use socket2::Socket as SystemSocket;

/// A socket that the pool may shut down from outside.
///
/// The deadline is kept down here because rustls reads and writes until a record is whole: a client that
/// sends a byte of one now and then would never let it return to where deadlines are looked at.
#[derive(Debug)]
pub(in crate::submission) struct Socket {
    pub(in crate::submission) system: Arc<SystemSocket>,
    /// Nothing is begun after it.
    pub(in crate::submission) until: Instant,
}

impl Socket {
    fn check(&self) -> io::Result<()> {
        if Instant::now() > self.until { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
    }
}

impl Read for Socket {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.check()?;
        (&*self.system).read(buf)
    }
}

impl Write for Socket {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.check()?;
        (&*self.system).write(buf)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Where lines are read from: the socket itself, or TLS over it.
pub(in crate::submission) enum Stream {
    Plain(Socket),
    Tls(Box<StreamOwned<ServerConnection, Socket>>),
}

impl Stream {
    /// Reads and writes until then.
    pub(in crate::submission) fn set_deadline(&mut self, until: Instant) {
        match self {
            Stream::Plain(socket) => socket.until = until,
            Stream::Tls(stream) => stream.sock.until = until,
        }
    }

    pub(in crate::submission) fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            let result = match self {
                Stream::Plain(socket) => socket.read(buf),
                Stream::Tls(stream) => stream.read(buf),
            };
            match result {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    pub(in crate::submission) fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Stream::Plain(socket) => socket.write_all(bytes),
            Stream::Tls(stream) => {
                stream.write_all(bytes)?;
                stream.flush()
            }
        }
    }
}
