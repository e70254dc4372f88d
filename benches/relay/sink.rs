//! A receiving host that takes everything and counts.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// Runs until the process ends.
pub(crate) struct Sink {
    pub(crate) address: SocketAddr,
    count: Arc<(Mutex<usize>, Condvar)>,
}

impl Sink {
    pub(crate) fn start() -> Sink {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind the sink");
        let address = listener.local_addr().expect("sink address");
        let count: Arc<(Mutex<usize>, Condvar)> = Arc::default();
        let counter = count.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let counter = counter.clone();
                std::thread::spawn(move || serve(&stream, &counter));
            }
        });
        Sink { address, count }
    }

    /// The part of a `[[route]]` that leads here.
    pub(crate) fn as_relay(&self) -> String {
        format!("relay = [\"[127.0.0.1]:{}\"]\ntls = \"off\"\n", self.address.port())
    }

    pub(crate) fn count(&self) -> usize {
        *self.count.0.lock().expect("count")
    }

    /// Until so many have arrived in all.
    pub(crate) fn wait_for(&self, wanted: usize, patience: Duration) {
        let (count, changed) = &*self.count;
        let guard = count.lock().expect("count");
        let (count, timeout) =
            changed.wait_timeout_while(guard, patience, |count| *count < wanted).expect("count");
        assert!(!timeout.timed_out(), "only {count} of {wanted} messages arrived in {patience:?}");
    }
}

/// Errors end the connection: the relay sees that and tries again.
fn serve(stream: &TcpStream, counter: &(Mutex<usize>, Condvar)) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut writer = stream;
    let mut reader = BufReader::with_capacity(32 * 1024, stream);
    let mut line = Vec::with_capacity(1024);
    let mut out: Vec<u8> = b"220 sink.test ESMTP\r\n".to_vec();
    loop {
        // Replies to pipelined commands leave together.
        if reader.buffer().is_empty() && !out.is_empty() {
            writer.write_all(&out).ok()?;
            out.clear();
        }
        line.clear();
        if reader.read_until(b'\n', &mut line).ok()? == 0 {
            return None;
        }
        match line.get(..4).map(<[u8]>::to_ascii_uppercase).as_deref() {
            Some(b"EHLO") => out.extend_from_slice(b"250-sink.test\r\n250-PIPELINING\r\n250 8BITMIME\r\n"),
            Some(b"DATA") => {
                out.extend_from_slice(b"354 go\r\n");
                writer.write_all(&out).ok()?;
                out.clear();
                loop {
                    line.clear();
                    if reader.read_until(b'\n', &mut line).ok()? == 0 {
                        return None;
                    }
                    if line == b".\r\n" {
                        break;
                    }
                }
                *counter.0.lock().expect("count") += 1;
                counter.1.notify_one();
                out.extend_from_slice(b"250 2.0.0 ok\r\n");
            }
            Some(b"QUIT") => {
                out.extend_from_slice(b"221 bye\r\n");
                writer.write_all(&out).ok()?;
                return None;
            }
            _ => out.extend_from_slice(b"250 ok\r\n"),
        }
    }
}
