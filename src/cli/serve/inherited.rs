//! The sockets that systemd opened for us before the process began (sd_listen_fds(3)).

use std::net::TcpListener;

use anyhow::Context as _;
use listenfd::ListenFd;

/// Takes them out of the environment, so that no child is told of them: to be called before the first thread.
///
/// # Errors
/// One of them is no TCP socket.
pub(in crate::cli) fn sockets() -> anyhow::Result<Vec<TcpListener>> {
    let mut inherited = ListenFd::from_env();
    let mut sockets = Vec::new();
    for at in 0..inherited.len() {
        let socket = inherited.take_tcp_listener(at);
        sockets.extend(socket.context(
            "a socket of systemd (LISTEN_FDS) cannot be used; postrider.socket has ListenStream= with IP addresses only",
        )?);
    }
    Ok(sockets)
}
