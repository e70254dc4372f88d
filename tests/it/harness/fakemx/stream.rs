//! The socket under a fake's connection: in the clear, in TLS, or one that it opened itself and turned round.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use rustls::{ClientConnection, ServerConnection, StreamOwned};

use super::SOON;

pub(super) struct Stream {
    pub(super) plain: Option<TcpStream>,
    pub(super) tls: Option<StreamOwned<ServerConnection, TcpStream>>,
    /// A connection that this host opened as a client and turned round.
    pub(super) turned: Option<StreamOwned<ClientConnection, TcpStream>>,
}

/// What a client has in its hands when it turns a connection round (ATRN).
pub(crate) enum Opened {
    Clear(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Stream {
    pub(super) fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        if let Some(turned) = &mut self.turned {
            return turned.read(room);
        }
        match (&mut self.tls, &mut self.plain) {
            (Some(tls), _) => tls.read(room),
            (None, Some(tcp)) => tcp.read(room),
            (None, None) => Ok(0),
        }
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Some(turned) = &mut self.turned {
            return turned.write_all(bytes).and_then(|()| turned.flush());
        }
        match (&mut self.tls, &mut self.plain) {
            (Some(tls), _) => tls.write_all(bytes).and_then(|()| tls.flush()),
            (None, Some(tcp)) => tcp.write_all(bytes),
            (None, None) => Ok(()),
        }
    }

    pub(super) fn tcp(&self) -> Option<&TcpStream> {
        let turned = self.turned.as_ref().map(|turned| &turned.sock);
        turned.or(self.tls.as_ref().map(|tls| &tls.sock)).or(self.plain.as_ref())
    }

    pub(super) fn shutdown(&self) {
        if let Some(tcp) = self.tcp() {
            let _ = tcp.shutdown(Shutdown::Write);
            // What the client has sent and nobody read would turn the close into a reset, which can
            // overtake the last reply.
            let _ = tcp.set_read_timeout(Some(Duration::from_millis(500)));
            let mut reader = tcp;
            let _ = io::copy(&mut reader, &mut io::sink());
        }
    }
}

/// How long the record is that begins what the client sends next; it stays unread.
pub(super) fn first_record(tcp: &TcpStream) -> io::Result<usize> {
    let mut head = [0; 5];
    let until = Instant::now() + SOON;
    loop {
        match tcp.peek(&mut head)? {
            5 => return Ok(usize::from(u16::from_be_bytes([head[3], head[4]]))),
            0 => return Ok(0),
            // The rest is on its way: what was looked at is there still, so that looking again would not wait.
            _ if Instant::now() < until => std::thread::sleep(Duration::from_millis(1)),
            _ => return Err(io::ErrorKind::TimedOut.into()),
        }
    }
}
