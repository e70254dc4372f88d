//! Mail handed over to somebody who came for it: a connection that its client turned round with ATRN (RFC 2645
//! §5.3).
//!
//! From here on it is a connection like any other: greeting, EHLO, transactions, QUIT, and every answer settled as
//! it comes. What breaks in the middle ends the pickup; what was not answered stays in the queue and is due at
//! once. It runs in the thread of whoever calls, one message at a time.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ServerConnection;

use crate::config::RouteTls;
use crate::mail::TlsPolicy;
use crate::maillog;
use crate::queue::Job;

use crate::delivery::host::pool::PooledConnection;
use crate::delivery::job::worker::Way;
use crate::delivery::job::worker::Workers;
use crate::delivery::smtp::endpoint::Endpoint;
use crate::delivery::smtp::tls::Encryption;
use crate::delivery::smtp::wire::Wire;

/// No message is begun later; a client with so much mail comes again.
const PICKUP_MAX: Duration = Duration::from_secs(60 * 60);
/// Messages of one pickup.
const MESSAGES_MAX: usize = 10_000;

/// A connection whose client is the server from now on.
#[derive(Debug)]
pub struct Turned {
    /// The socket.
    pub tcp: TcpStream,
    /// TLS, where it is in use; ours is the server's side.
    pub tls: Option<Box<ServerConnection>>,
    /// What the client called itself: the host that the attempts name.
    pub host: String,
    /// Where it is.
    pub address: SocketAddr,
    /// Who authenticated, for the log.
    pub user: String,
}

impl Workers {
    /// Hands over what `next` gives until it gives nothing more, the client breaks off, or a pickup's time or
    /// number of messages is used up; then says QUIT. Each job ends as those of the workers do.
    pub fn hand_over(&self, turned: Turned, next: &mut dyn FnMut() -> Option<Job>) {
        let context = self.shared.context();
        let deadline = Instant::now() + PICKUP_MAX;
        let tls = turned.tls.as_ref().map(|tls| Encryption::of_version(tls.protocol_version()));
        let tls = tls.unwrap_or(Encryption::None);
        let endpoint = Endpoint {
            host: turned.host,
            address: turned.address,
            // It is in TLS, or it is not: there is no STARTTLS in this direction.
            tls: RouteTls::Off,
            policy: TlsPolicy::None,
            dane: None,
            ca_file: None,
            login: None,
            // Nothing that is said before MAIL is a bounce: it is about the client, who may come again.
            relay: true,
            preference: 0,
            sources: Arc::default(),
        };
        let wire = Wire::turned(turned.tcp, turned.tls);
        let connection = match context.connector.welcome(wire, tls, &endpoint, deadline) {
            Ok(connection) => connection,
            Err(failure) => {
                // Told of one message, so that the queue shows what became of the visit.
                if let Some(job) = next() {
                    let (host, address) = (&endpoint.host, endpoint.address);
                    let (phase, reply) = (failure.failure.phase(), failure.failure.reply());
                    maillog::host_trouble(job.message, host, address, phase, &reply);
                    let way = Way::Refused { endpoint: &endpoint, failure };
                    self.shared.carry_out(&context, &job, way);
                }
                return;
            }
        };
        // Its client opened it: it takes no room of ours at a host.
        let mut pooled = PooledConnection { endpoint, connection, slot: None };
        let mut usable = true;
        let most = pooled.connection.limits().1.unwrap_or(MESSAGES_MAX).min(MESSAGES_MAX);
        for _ in 0..most {
            if !usable || !pooled.connection.is_usable() || Instant::now() >= deadline {
                break;
            }
            let Some(job) = next() else { break };
            let deadline = deadline.min(Instant::now() + context.settings.attempt_deadline);
            let way = Way::Turned { connection: &mut pooled, deadline };
            usable = self.shared.carry_out(&context, &job, way);
        }
        maillog::fetched(&turned.user, pooled.connection.messages());
        pooled.connection.quit();
    }
}
