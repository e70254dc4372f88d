//! What a relay tells systemd (`sd_notify`).

use std::os::unix::net::UnixDatagram;

use crate::harness::fakemx::SOON;
use crate::harness::relay::Relay;

/// The end that systemd has.
pub struct Notified(UnixDatagram);

impl Notified {
    /// Starts a prepared relay that tells it, with more in its environment.
    pub fn by(relay: &mut Relay, environment: &[(&str, &str)]) -> Notified {
        let path = relay.path("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        let path = path.display().to_string();
        relay.spawn_with(&[&[("NOTIFY_SOCKET", path.as_str())], environment].concat());
        Notified(socket)
    }

    /// The lines of the next message.
    pub fn next(&self) -> Vec<String> {
        let mut said = [0; 1024];
        let length = self.0.recv(&mut said).expect("it is told in time");
        String::from_utf8_lossy(&said[..length]).lines().map(str::to_owned).collect()
    }

    /// Waits for a line that begins so.
    pub fn hear(&self, begin: &str) {
        while !self.next().iter().any(|line| line.starts_with(begin)) {}
    }
}
