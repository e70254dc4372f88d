//! A listener: one address, one thread that accepts and hands connections to the pool.

use std::io::{self, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use socket2::{Domain as Family, SockRef, Socket, Type};

use crate::config::{Limits, ListenSettings, ListenTls};
use crate::mail::Reply;
use crate::maillog;

use crate::submission::limits::sessions::CurrentSettings;
use crate::submission::replies;
use crate::submission::session::service::{SessionResources, StartError};
use crate::submission::session::{Session, SessionScratch};
use crate::submission::wire::connection::{Times, Wire};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;
/// What accepting waits where the system is out of descriptors, or of something else.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// So many times `[limits] login_timeout` a client has in all until it has logged in.
const LOGIN_STEPS: u32 = 4;

/// An address that is listened on.
pub(in crate::submission) struct Listener {
    configured: SocketAddr,
    local: SocketAddr,
    shared: Arc<ListenerShared>,
    thread: JoinHandle<()>,
}

/// What the accepting thread shares with who started it.
struct ListenerShared {
    socket: TcpListener,
    settings: CurrentSettings,
    closing: AtomicBool,
}

/// Opens the socket; `[::]` takes IPv4 too.
pub(in crate::submission) fn bind(listen: &ListenSettings) -> Result<TcpListener, StartError> {
    let open = || -> io::Result<TcpListener> {
        let socket = Socket::new(Family::for_address(listen.address), Type::STREAM, None)?;
        if listen.address.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        // A restart must not wait for connections of the last run to be forgotten.
        socket.set_reuse_address(true)?;
        socket.bind(&listen.address.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    open().map_err(|source| StartError::Listen {
        address: listen.address,
        remedy: match source.kind() {
            io::ErrorKind::AddrInUse => "another program listens there: stop it, or choose another port",
            io::ErrorKind::PermissionDenied => {
                "ports below 1024 need CAP_NET_BIND_SERVICE: grant it, or choose a higher port"
            }
            io::ErrorKind::AddrNotAvailable => "this machine does not have that address",
            _ => "choose another address",
        },
        source,
    })
}

impl Listener {
    /// Starts to accept on a bound socket.
    pub(in crate::submission) fn start(
        listen: &ListenSettings,
        socket: TcpListener,
        resources: &Arc<SessionResources>,
    ) -> Result<Listener, StartError> {
        let failed = |source| StartError::Listen {
            address: listen.address,
            source,
            remedy: "the system is out of threads or memory",
        };
        let local = socket.local_addr().map_err(failed)?;
        let shared = Arc::new(ListenerShared {
            socket,
            settings: Arc::new(RwLock::new(Arc::new(listen.clone()))),
            closing: AtomicBool::new(false),
        });
        let (thread_shared, thread_resources) = (Arc::clone(&shared), Arc::clone(resources));
        let thread = thread::Builder::new()
            .name("listener".to_owned())
            .spawn(move || thread_shared.accept_all(&thread_resources))
            .map_err(failed)?;
        Ok(Listener { configured: listen.address, local, shared, thread })
    }

    /// As the settings have it.
    pub(in crate::submission) fn configured_address(&self) -> SocketAddr {
        self.configured
    }

    /// As the system has it.
    pub(in crate::submission) fn local_address(&self) -> SocketAddr {
        self.local
    }

    /// Other settings: for connections from now on, and `trusted` for all.
    pub(in crate::submission) fn set(&self, listen: &ListenSettings) {
        *self.shared.settings.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(listen.clone());
    }

    /// No longer configured: closes the socket, and trusts nobody any more.
    pub(in crate::submission) fn retire(self) {
        let settings = self.shared.settings.read().unwrap_or_else(PoisonError::into_inner).clone();
        self.set(&ListenSettings { trusted: Vec::new(), ..(*settings).clone() });
        self.stop();
    }

    /// Closes the socket. Connections that were accepted go on.
    pub(in crate::submission) fn stop(self) {
        self.shared.closing.store(true, Ordering::SeqCst);
        // Ends accept() on Linux; elsewhere a connection of our own does.
        if SockRef::from(&self.shared.socket).shutdown(Shutdown::Both).is_err() {
            let mut address = self.local;
            if address.ip().is_unspecified() {
                address.set_ip(if address.is_ipv6() {
                    IpAddr::V6(std::net::Ipv6Addr::LOCALHOST)
                } else {
                    IpAddr::V4(std::net::Ipv4Addr::LOCALHOST)
                });
            }
            let _ = TcpStream::connect_timeout(&address, Duration::from_secs(1));
        }
        // A panic there was printed; there is nothing else to be done about it.
        let _ = self.thread.join();
    }
}

impl ListenerShared {
    fn accept_all(&self, resources: &Arc<SessionResources>) {
        loop {
            let accepted = self.socket.accept();
            if self.closing.load(Ordering::SeqCst) {
                return;
            }
            match accepted {
                Ok((socket, peer)) => {
                    open_session(resources, &self.settings, socket, peer.ip().to_canonical());
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    log::error!("accepting connections: {error} (raise LimitNOFILE if descriptors ran out)");
                    thread::sleep(ACCEPT_PAUSE);
                }
            }
        }
    }
}

/// Gives the connection a session, or sends it away.
fn open_session(
    resources: &Arc<SessionResources>,
    settings: &CurrentSettings,
    socket: TcpStream,
    client: IpAddr,
) {
    let service = resources.service();
    let listener = settings.read().unwrap_or_else(PoisonError::into_inner).clone();
    let socket = Arc::new(socket);
    let slot = match resources.sessions.admit(client, &socket, settings, &service.limits) {
        Ok(slot) => slot,
        Err(reply) => return send_away(&socket, client, &listener, &reply),
    };
    let (session_resources, session_socket, session_listener) =
        (Arc::clone(resources), Arc::clone(&socket), Arc::clone(&listener));
    let job = move || {
        // The client is gone already where this fails.
        let times = times(&service.limits, slot.handle.is_trusted());
        let Ok(wire) = Wire::new(session_socket, times) else { return };
        Session {
            wire,
            client,
            service: &service,
            listener: &session_listener,
            resources: &session_resources,
            handle: &slot.handle,
            scratch: SessionScratch::default(),
        }
        .run();
    };
    if let Err(error) = resources.pool.run(Box::new(job)) {
        log::error!("starting a session thread: {error} (lower [limits] sessions, or raise TasksMax)");
        send_away(&socket, client, &listener, &replies::TOO_MANY_SESSIONS);
    }
}

/// What a client's connection may take before it has logged in, and what it may once it is known.
pub(in crate::submission) fn times(limits: &Limits, is_known: bool) -> Times {
    let handshake = limits.idle_timeout.min(limits.login_timeout);
    if is_known {
        return Times { idle: limits.idle_timeout, handshake, lifetime: limits.session_timeout };
    }
    Times {
        idle: limits.idle_timeout.min(limits.login_timeout),
        handshake,
        lifetime: limits.session_timeout.min(LOGIN_STEPS * limits.login_timeout),
    }
}

/// One reply, without a session for it. In the clear it fits the socket's empty buffer and never blocks.
fn send_away(socket: &TcpStream, client: IpAddr, listener: &ListenSettings, reply: &Reply) {
    maillog::turned_away(client, &reply.to_string());
    if listener.tls == ListenTls::Implicit {
        return;
    }
    let mut bytes = Vec::new();
    reply.write_to(&mut bytes);
    let mut socket = socket;
    // Errors change nothing: it is going away.
    let _ = socket.set_nonblocking(true);
    let _ = socket.write_all(&bytes);
    let _ = socket.shutdown(Shutdown::Write);
}
