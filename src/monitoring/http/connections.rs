//! Connections: how many there may be, how long each may take, and one answer on each.
//!
//! Beyond [`CONNECTIONS_MAX`] the one that has been read from or written to for longest makes room, so that slow
//! clients keep nobody out who is quick; where all are being worked for, the newcomer hears 503.

use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use socket2::Socket;

use super::request::{HEAD_BYTES_MAX, Parsed, Refusal, Request, parse};
use super::response::{Response, Status};

/// Connections at once.
pub(super) const CONNECTIONS_MAX: usize = 16;
/// A request's header is there after this.
const REQUEST_PATIENCE: Duration = Duration::from_secs(5);
/// The client has taken its answer after this.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);
/// Behind an answer the client's end is waited for, so that the system does not throw the answer away with what was
/// never read (RFC 9112 §9.6): so long, and so many bytes.
const END_PATIENCE: Duration = Duration::from_secs(1);
const END_BYTES_MAX: usize = 64 * 1024;

/// Those that there are.
#[derive(Default)]
pub(super) struct Connections {
    table: Mutex<Table>,
    one_less: Condvar,
}

#[derive(Default)]
struct Table {
    last: u64,
    /// In the order in which they came.
    open: Vec<Connection>,
    stopping: bool,
}

struct Connection {
    number: u64,
    socket: Arc<Socket>,
    /// An answer is being worked out.
    is_busy: bool,
}

/// The place of a connection; dropped, there is room for another.
pub(super) struct Place<'c> {
    connections: &'c Connections,
    number: u64,
}

impl Connections {
    fn table(&self) -> MutexGuard<'_, Table> {
        // Each change is one step: nothing is half done behind a poisoned lock.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// None: there is no room.
    pub(super) fn admit(&self, socket: &Arc<Socket>) -> Option<Place<'_>> {
        let mut table = self.table();
        if table.stopping {
            return None;
        }
        if table.open.len() >= CONNECTIONS_MAX {
            let slowest = table.open.iter().position(|connection| !connection.is_busy)?;
            cut(&table.open.remove(slowest).socket);
        }
        table.last += 1;
        let number = table.last;
        table.open.push(Connection { number, socket: Arc::clone(socket), is_busy: false });
        Some(Place { connections: self, number })
    }

    /// Cuts all of them off, and waits so long until their threads have ended.
    pub(super) fn stop(&self, patience: Duration) {
        let mut table = self.table();
        table.stopping = true;
        table.open.iter().for_each(|connection| cut(&connection.socket));
        let _ = self.one_less.wait_timeout_while(table, patience, |table| !table.open.is_empty());
    }
}

/// Whoever reads or writes there is woken up. It may be gone already.
fn cut(socket: &Socket) {
    let _ = socket.shutdown(Shutdown::Both);
}

impl Place<'_> {
    /// False: it was cut off, and nobody waits for an answer.
    #[must_use]
    fn set_busy(&self, is_busy: bool) -> bool {
        let mut table = self.connections.table();
        let found = table.open.iter_mut().find(|connection| connection.number == self.number);
        found.map(|connection| connection.is_busy = is_busy).is_some()
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.connections.table().open.retain(|connection| connection.number != self.number);
        self.connections.one_less.notify_all();
    }
}

/// Reads one request and answers it.
pub(super) fn serve(place: &Place<'_>, socket: &Socket, now: i64, answer: impl FnOnce(&Request) -> Response) {
    // A client that is gone or too slow is nobody's fault.
    let Ok(request) = read(socket, Instant::now() + REQUEST_PATIENCE) else { return };
    let (response, is_head) = match request {
        Ok(request) => {
            if !place.set_busy(true) {
                return;
            }
            let response = answer(&request);
            let _ = place.set_busy(false);
            (response, request.is_head)
        }
        Err(response) => (response, false),
    };
    let bytes = response.bytes(is_head, now);
    if write(socket, &bytes, Instant::now() + ANSWER_PATIENCE).is_ok() {
        end(socket, Instant::now() + END_PATIENCE);
    }
}

/// Says that there is no room. It fits the empty buffer of a socket and never blocks.
pub(super) fn send_away(socket: &Socket, now: i64) {
    let response = Response::text(Status::Unavailable, "too many connections\n").with("Retry-After", "1");
    let _ = socket.set_nonblocking(true);
    let _ = (&*socket).write_all(&response.bytes(false, now));
    let _ = socket.shutdown(Shutdown::Write);
}

fn read(socket: &Socket, until: Instant) -> io::Result<Result<Request, Response>> {
    let (mut head, mut filled) = (vec![0; HEAD_BYTES_MAX], 0);
    loop {
        let count = match remaining(until).and_then(|left| {
            socket.set_read_timeout(Some(left))?;
            (&*socket).read(&mut head[filled..])
        }) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if is_timeout(&error) && filled > 0 => {
                return Ok(Err(Response::text(Status::Timeout, "the request took too long\n")));
            }
            Err(error) => return Err(error),
        };
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        filled += count;
        match parse(&head[..filled]) {
            Parsed::Partial => {}
            Parsed::Whole(request) => return Ok(Ok(request)),
            Parsed::Refused(why) => return Ok(Err(refusal(why))),
        }
    }
}

fn refusal(why: Refusal) -> Response {
    match why {
        Refusal::Malformed => Response::text(Status::BadRequest, "that is no request of HTTP/1.1\n"),
        Refusal::Method => {
            Response::text(Status::MethodNotAllowed, "only GET and HEAD\n").with("Allow", "GET, HEAD")
        }
        Refusal::TooLarge => Response::text(Status::TooLarge, "the request's header is too large\n"),
    }
}

fn write(socket: &Socket, mut bytes: &[u8], until: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        socket.set_write_timeout(Some(remaining(until)?))?;
        match (&*socket).write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Ends our side, and reads what the client still sends.
fn end(socket: &Socket, until: Instant) {
    let _ = socket.shutdown(Shutdown::Write);
    let (mut rest, mut seen) = ([0; 4096], 0);
    while seen < END_BYTES_MAX {
        let count = remaining(until).and_then(|left| {
            socket.set_read_timeout(Some(left))?;
            (&*socket).read(&mut rest)
        });
        match count {
            Ok(count) if count > 0 => seen += count,
            _ => return,
        }
    }
}

/// A time-out of zero would be none at all.
fn remaining(until: Instant) -> io::Result<Duration> {
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Arc<Socket>, Socket) {
        let (one, other) = Socket::pair(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
        (Arc::new(one), other)
    }

    #[test]
    fn the_slowest_makes_room_unless_all_are_worked_for() {
        let connections = Connections::default();
        let pairs: Vec<_> = (0..=CONNECTIONS_MAX).map(|_| pair()).collect();
        let mut places: Vec<_> =
            pairs[..CONNECTIONS_MAX].iter().map(|(socket, _)| connections.admit(socket).unwrap()).collect();
        assert!(places[1..].iter().all(|place| place.set_busy(true)));
        // The first is the only one that is waited for.
        places.push(connections.admit(&pairs[CONNECTIONS_MAX].0).expect("there is room"));
        assert_eq!((&pairs[0].1).read(&mut [0]).unwrap(), 0, "it was cut off");
        assert_eq!(connections.table().open.len(), CONNECTIONS_MAX);
        assert!(!places[0].set_busy(true), "nothing is worked out for it");
        // Its thread ends only now.
        drop(places.remove(0));
        assert_eq!(connections.table().open.len(), CONNECTIONS_MAX);
        assert!(places.iter().all(|place| place.set_busy(true)));
        let (late, _other) = pair();
        assert!(connections.admit(&late).is_none());
        drop(places);
        assert!(connections.admit(&late).is_some());
        connections.stop(Duration::from_secs(9));
        assert!(connections.admit(&late).is_none(), "it stops");
    }

    #[test]
    fn one_answer_and_then_the_end_whatever_was_sent_behind_the_request() {
        let (socket, mut client) = pair();
        client.write_all(&b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n".repeat(3)).unwrap();
        let connections = Connections::default();
        let mut asked = Vec::new();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let place = connections.admit(&socket).unwrap();
                serve(&place, &socket, 0, |request| {
                    asked.push(request.path.clone());
                    Response::text(Status::Ok, "yes")
                });
            });
            let mut said = [0; 4096];
            let mut all = Vec::new();
            while let Ok(count @ 1..) = client.read(&mut said) {
                all.extend_from_slice(&said[..count]);
            }
            drop(client);
            let all = String::from_utf8(all).unwrap();
            assert!(all.matches("HTTP/1.1").count() == 1 && all.ends_with("\r\n\r\nyes"), "{all}");
        });
        assert_eq!(asked, ["/a"]);
    }
}
