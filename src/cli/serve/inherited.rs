//! The sockets that systemd opened for us before the process began (sd_listen_fds(3)).

use anyhow::Context as _;
use listenfd::ListenFd;
use socket2::Socket;

/// Takes them out of the environment, so that no child is told of them: to be called before the first thread.
///
/// # Errors
/// One of them listens neither at an IP address nor at a path.
pub(in crate::cli) fn sockets() -> anyhow::Result<Vec<Socket>> {
    let mut inherited = ListenFd::from_env();
    let mut sockets = Vec::new();
    for at in 0..inherited.len() {
        let tcp = inherited.take_tcp_listener(at).map(|socket| socket.map(Socket::from));
        let socket = tcp.or_else(|_| inherited.take_unix_listener(at).map(|socket| socket.map(Socket::from)));
        sockets.extend(socket.context(
            "a socket of systemd (LISTEN_FDS) cannot be used; postrider.socket has ListenStream= with IP addresses and \
             paths only",
        )?);
    }
    Ok(sockets)
}
