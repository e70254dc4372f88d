//! A listener: one address, one thread that accepts, a thread for each connection.
//!
//! The thread waits for connections and for the listener's end with poll(2).

use std::io::{self, PipeReader, PipeWriter};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use socket2::{Domain as Family, Socket, Type};

use crate::config::{ListenAddress, SocketAccess};
use crate::submission::unix_socket::{self, SocketFile};

use super::access::ReachedFrom;
use super::{Shared, connections};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 64;
/// What accepting waits where the system is out of descriptors, or of something else.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What distinguishes one listener from another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bound {
    pub(super) address: ListenAddress,
    /// Of one in the file system.
    pub(super) access: SocketAccess,
}

/// An address that is listened on.
pub(super) struct Listener {
    bound: Bound,
    local: ListenAddress,
    /// Of a socket in the file system; goes with the listener.
    _file: Option<SocketFile>,
    /// Dropped, the thread ends.
    running: PipeWriter,
    thread: JoinHandle<()>,
}

impl Listener {
    /// Opens it and begins to accept.
    pub(super) fn start(bound: Bound, shared: &Arc<Shared>) -> io::Result<Listener> {
        let (socket, file) = match &bound.address {
            ListenAddress::Ip(address) => {
                let socket = Socket::new(Family::for_address(*address), Type::STREAM, None)?;
                // A restart must not wait for connections of the last run to be forgotten.
                socket.set_reuse_address(true)?;
                socket.bind(&(*address).into())?;
                socket.listen(BACKLOG)?;
                (socket, None)
            }
            ListenAddress::Unix(path) => {
                let (socket, file) = unix_socket::open(path, &bound.access)?;
                (socket, Some(file))
            }
        };
        // Port 0 became another one.
        let local = socket.local_addr()?.as_socket();
        let local = local.map_or_else(|| bound.address.clone(), ListenAddress::Ip);
        // Somebody else may take the connection that poll(2) told of.
        socket.set_nonblocking(true)?;
        let (ended, running) = io::pipe()?;
        let (shared, reached) = (Arc::clone(shared), ReachedFrom::of(&bound.address));
        let thread = thread::Builder::new()
            .name("monitoring".to_owned())
            .spawn(move || accept_all(&socket, &ended, reached, &shared))?;
        Ok(Listener { bound, local, _file: file, running, thread })
    }

    /// As the settings have it.
    pub(super) fn bound(&self) -> &Bound {
        &self.bound
    }

    /// As the system has it.
    pub(super) fn local_address(&self) -> ListenAddress {
        self.local.clone()
    }

    /// Accepts no more, and closes the socket. Connections that were accepted go on.
    pub(super) fn stop(self) {
        drop(self.running);
        // A panic there was logged; there is nothing else to be done about it.
        let _ = self.thread.join();
    }
}

fn accept_all(socket: &Socket, ended: &PipeReader, reached: ReachedFrom, shared: &Arc<Shared>) {
    while wait(socket, ended) {
        match socket.accept() {
            Ok((connection, _)) => open(connection, reached, shared),
            // It went away meanwhile.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionAborted | io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) => {}
            Err(error) => {
                log::error!("accepting connections: {error} (raise LimitNOFILE if descriptors ran out)");
                thread::sleep(ACCEPT_PAUSE);
            }
        }
    }
}

/// Waits for a connection; false: the listener ends.
fn wait(socket: &Socket, ended: &PipeReader) -> bool {
    let mut watched = [PollFd::new(socket, PollFlags::IN), PollFd::new(ended, PollFlags::IN)];
    match poll(&mut watched, None) {
        Ok(_) | Err(Errno::INTR) => watched[1].revents().is_empty(),
        Err(error) => {
            log::error!("waiting for connections: {error}");
            thread::sleep(ACCEPT_PAUSE);
            true
        }
    }
}

/// Gives the connection a thread, or sends it away.
fn open(connection: Socket, reached: ReachedFrom, shared: &Arc<Shared>) {
    let connection = Arc::new(connection);
    let (socket, own) = (Arc::clone(&connection), Arc::clone(shared));
    let (admitted, is_admitted) = crossbeam_channel::bounded(1);
    let work = move || {
        let place = own.connections.admit(&socket);
        let _ = admitted.send(place.is_some());
        if let Some(place) = place {
            connections::serve(&place, &socket, own.clock.now(), |request| own.answer(request, reached));
        }
    };
    let started = thread::Builder::new().name("monitoring".to_owned()).spawn(work).is_ok();
    if !(started && is_admitted.recv() == Ok(true)) {
        connections::send_away(&connection, shared.clock.now());
    }
}
