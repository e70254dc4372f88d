//! `postrider health`: whether the relay answers on this machine, for the health check of a container.
//!
//! Each listener of the config is asked as a client asks it: connect, TLS where it is from the first byte, 220, QUIT.
//! Of the config it needs only `[[listen]]`, and with `--ready` `[metrics]` and `[queue] path`: what is wrong elsewhere
//! does not make a relay that runs unhealthy. The exit code is 0 or 1, as Docker wants it.
//!
//! With `--ready` the relay itself is asked, at the first address of `[metrics] listen`. Where there is none, or nobody
//! listens there, all that shows from outside is whether the disk has room.

use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use lettre::transport::smtp::client::{SmtpConnection, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use socket2::{SockAddr, Socket, Type};

use super::output::print;
use crate::config::{self, ListenAddress, ListenTls};
use crate::kit::text::printable;
use crate::queue::admin::{Admin, DiskRoom};

/// For each step. Docker's own time for a check is 30 s.
const PATIENCE: Duration = Duration::from_secs(5);
/// Of what the relay says of itself.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// `postrider health`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Fail as well while no message could be committed (see [metrics] listen; without it: no room on the disk)
    #[arg(long)]
    ready: bool,
}

/// Runs `postrider health`. `config` is `--config`.
///
/// # Errors
/// A listener does not answer, or the config does not say where it is.
pub fn run(config: Option<&Path>, arguments: &Arguments) -> anyhow::Result<()> {
    // Not as a bad config is told: 2 means something else to Docker.
    let listeners = config::listeners(config).map_err(|problems| anyhow::anyhow!("{problems}"))?;
    for listen in &listeners {
        let greeted = match (&listen.address, listen.tls) {
            (ListenAddress::Ip(address), ListenTls::Implicit) => greeted_over_tls(reachable(*address)),
            (ListenAddress::Ip(address), ListenTls::Starttls | ListenTls::Off) => {
                connect(&reachable(*address).into()).map_err(Into::into).and_then(greeted)
            }
            (ListenAddress::Unix(path), _) => SockAddr::unix(path)
                .and_then(|address| connect(&address))
                .map_err(Into::into)
                .and_then(greeted),
        };
        greeted.with_context(|| format!("{} does not answer; look at the relay's log", listen.address))?;
    }
    if arguments.ready && !asked_itself(config)? {
        let path = config::queue_path(config).map_err(|problems| anyhow::anyhow!("{problems}"))?;
        if let DiskRoom::Full(why) = Admin::to_read(&path)?.disk_room()? {
            bail!("new mail is refused (452): {why}");
        }
    }
    match listeners.len() {
        1 => print("ok: the listener answers\n"),
        several => print(&format!("ok: {several} listeners answer\n")),
    }
}

/// What the relay says of itself.
pub(super) struct Answer {
    address: ListenAddress,
    pub(super) status: u16,
    pub(super) body: String,
}

/// Asks the relay whether it is ready; false: it listens nowhere for that.
fn asked_itself(config: Option<&Path>) -> anyhow::Result<bool> {
    let Some(answer) = ask(config, "/readyz")? else { return Ok(false) };
    match answer.status {
        200 => Ok(true),
        503 => bail!("{}", printable(answer.body.trim().as_bytes())),
        status => bail!("{} says {status}", answer.address),
    }
}

/// Asks at the first address of `[metrics] listen`; none: it listens nowhere.
pub(super) fn ask(config: Option<&Path>, path: &str) -> anyhow::Result<Option<Answer>> {
    let settings = config::metrics(config).map_err(|problems| anyhow::anyhow!("{problems}"))?;
    let Some(address) = settings.listen.first() else { return Ok(None) };
    let answer = match address {
        ListenAddress::Ip(ip) => {
            let token = settings.token_file.as_deref().map(config::first_line).transpose()?.flatten();
            connect(&reachable(*ip).into()).map(|stream| get(stream, path, token.as_deref()))
        }
        ListenAddress::Unix(socket) => {
            SockAddr::unix(socket).and_then(|address| connect(&address)).map(|stream| get(stream, path, None))
        }
    };
    // The relay that runs may have been started with another config.
    let Ok(answer) = answer else { return Ok(None) };
    let answer = answer.with_context(|| format!("{address} does not answer; look at the relay's log"))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let Some(status) = head.split(' ').nth(1).and_then(|status| status.parse().ok()) else {
        bail!("{address} says {:?}", head.lines().next().unwrap_or_default())
    };
    Ok(Some(Answer { address: address.clone(), status, body: body.to_owned() }))
}

/// RFC 9112; the connection is closed behind the answer.
fn get(mut stream: impl Read + Write, path: &str, token: Option<&str>) -> io::Result<String> {
    let token = token.map_or_else(String::new, |token| format!("Authorization: Bearer {token}\r\n"));
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n{token}\r\n")?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer)?;
    Ok(answer)
}

/// Where this machine reaches what listens on all its addresses.
fn reachable(address: SocketAddr) -> SocketAddr {
    loopback_of(address, || UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok())
}

/// `[::]` is IPv4 as well, and that alone where the machine has no IPv6, as in many networks of containers.
fn loopback_of(address: SocketAddr, has_ipv6: impl FnOnce() -> bool) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V6(ip) if ip.is_unspecified() && has_ipv6() => Ipv6Addr::LOCALHOST.into(),
        ip if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// Connects, with a time for each step. A socket in the file system, too, waits for ever where its listener takes
/// nobody, unless a time to write was set before (unix(7)).
fn connect(address: &SockAddr) -> io::Result<Socket> {
    let socket = Socket::new(address.domain(), Type::STREAM, None)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    match address.is_unix() {
        true => socket.connect(address)?,
        false => socket.connect_timeout(address, PATIENCE)?,
    }
    Ok(socket)
}

/// RFC 5321 §3.1: 220 is the only good greeting. 421 is that of a relay that has too much to do, which is alive.
fn greeted(stream: impl Read + Write) -> anyhow::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line)?;
    if !line.starts_with("220") && !line.starts_with("421") {
        bail!("it said {:?}", line.trim_end());
    }
    // It has answered; how it takes the leave is no matter.
    let _ = stream.get_mut().write_all(b"QUIT\r\n");
    Ok(())
}

/// The same in TLS. Whether its certificate is good is another question (`postrider check`).
fn greeted_over_tls(address: SocketAddr) -> anyhow::Result<()> {
    let tls = TlsParameters::builder(address.ip().to_string())
        .dangerous_accept_invalid_certs(true)
        .dangerous_accept_invalid_hostnames(true)
        .build()?;
    let client = ClientId::default();
    match SmtpConnection::connect(address, Some(PATIENCE), &client, Some(&tls), None) {
        Ok(mut connection) => drop(connection.quit()),
        // A relay that has too much to do closes the connection before TLS, when nothing was said yet.
        Err(_) if connect(&address.into()).is_ok_and(|mut stream| matches!(stream.read(&mut [0]), Ok(0))) => {
        }
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_addresses_are_reached_over_loopback() {
        for (listens, has_ipv6, reached) in [
            ("0.0.0.0:587", true, "127.0.0.1:587"),
            ("[::]:25", true, "[::1]:25"),
            ("[::]:25", false, "127.0.0.1:25"),
            ("[2001:db8::1]:25", false, "[2001:db8::1]:25"),
            ("192.0.2.1:587", true, "192.0.2.1:587"),
        ] {
            assert_eq!(loopback_of(listens.parse().unwrap(), || has_ipv6).to_string(), reached);
        }
    }
}
