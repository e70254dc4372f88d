//! A small HTTPS server on loopback, for the policies of domains: it says to everybody what a test tells it to.
//!
//! ```text
//! let server = HttpsServer::start(address, &certificate, Page::policy("version: STSv1\nmode: enforce\n…"));
//! … have address fetched …
//! assert_eq!(server.requests(), ["GET /.well-known/mta-sts.txt HTTP/1.1"]);
//! ```

#![allow(dead_code, reason = "a tool box: not every test uses every tool")]

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::harness::fakemx::Certificate;

/// Bytes of a request; a client that says more is not heard.
const REQUEST_BYTES_MAX: usize = 64 << 10;

/// What is answered.
#[derive(Debug, Clone)]
pub enum Page {
    /// These bytes, and the end of the connection.
    Raw(Vec<u8>),
    /// Nothing, not even a handshake.
    Silent,
    /// A handshake, and then nothing.
    SilentInTls,
    /// A byte of the body now and then, without end.
    Slow,
    /// The first of these, and the second again and again, as fast as it goes.
    Endless(String, String),
}

impl Page {
    /// A document of this type.
    pub fn document(status: &str, media_type: &str, body: &str) -> Page {
        let length = body.len();
        Page::Raw(
            format!(
                "HTTP/1.1 {status}\r\nContent-Type: {media_type}\r\nContent-Length: {length}\r\n\
                 Connection: close\r\n\r\n{body}"
            )
            .into_bytes(),
        )
    }

    /// A policy as it should be served.
    pub fn policy(body: &str) -> Page {
        Page::document("200 OK", "text/plain; charset=utf-8", body)
    }

    /// The way to another address.
    pub fn redirect(to: &str) -> Page {
        Page::Raw(format!("HTTP/1.1 301 Moved\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n").into_bytes())
    }
}

struct Shared {
    page: Mutex<Page>,
    tls: Mutex<Arc<ServerConfig>>,
    /// The first line and the body of each.
    requests: Mutex<Vec<(String, Vec<u8>)>>,
    connections: Mutex<Vec<TcpStream>>,
    /// Bytes of endless pages that clients let it send.
    sent: AtomicUsize,
    stopping: AtomicBool,
}

/// A running server; it ends when dropped.
pub struct HttpsServer {
    /// Where it listens.
    pub address: SocketAddr,
    shared: Arc<Shared>,
    listener: Option<JoinHandle<()>>,
}

impl HttpsServer {
    /// Listens there, with this certificate.
    pub fn start(address: SocketAddr, certificate: &Certificate, page: Page) -> HttpsServer {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            page: Mutex::new(page),
            tls: Mutex::new(certificate.config()),
            requests: Mutex::default(),
            connections: Mutex::default(),
            sent: AtomicUsize::new(0),
            stopping: AtomicBool::new(false),
        });
        let listener = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                for tcp in listener.incoming().map_while(Result::ok) {
                    if shared.stopping.load(Ordering::SeqCst) {
                        break;
                    }
                    shared.connections.lock().unwrap().push(tcp.try_clone().unwrap());
                    let shared = Arc::clone(&shared);
                    std::thread::spawn(move || shared.answer(tcp));
                }
            }
        });
        HttpsServer { address, shared, listener: Some(listener) }
    }

    /// Answers with this from now on.
    pub fn serve(&self, page: Page) {
        *self.shared.page.lock().unwrap() = page;
    }

    /// Shows this certificate from now on.
    pub fn show(&self, certificate: &Certificate) {
        *self.shared.tls.lock().unwrap() = certificate.config();
    }

    /// The first lines of the requests so far.
    pub fn requests(&self) -> Vec<String> {
        self.shared.requests.lock().unwrap().iter().map(|(line, _)| line.clone()).collect()
    }

    /// The bodies of the requests so far.
    pub fn bodies(&self) -> Vec<Vec<u8>> {
        self.shared.requests.lock().unwrap().iter().map(|(_, body)| body.clone()).collect()
    }

    /// Bytes of endless pages so far: what clients read, and what is on its way.
    pub fn sent(&self) -> usize {
        self.shared.sent.load(Ordering::SeqCst)
    }

    /// How many connections there were.
    pub fn connections(&self) -> usize {
        self.shared.connections.lock().unwrap().len()
    }
}

impl Drop for HttpsServer {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        for tcp in self.shared.connections.lock().unwrap().iter() {
            let _ = tcp.shutdown(Shutdown::Both);
        }
        let _ = TcpStream::connect(self.address); // wakes accept()
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
    }
}

impl Shared {
    /// A client that goes away, or that does not like the certificate, is no failure of the server.
    fn answer(&self, mut tcp: TcpStream) {
        let page = self.page.lock().unwrap().clone();
        if matches!(page, Page::Silent) {
            let _ = tcp.read_to_end(&mut Vec::new());
            return;
        }
        let tls = ServerConnection::new(Arc::clone(&self.tls.lock().unwrap())).unwrap();
        let mut stream = StreamOwned::new(tls, tcp);
        let Some(request) = read_request(&mut stream) else { return };
        self.requests.lock().unwrap().push(request);
        match page {
            Page::Raw(bytes) => {
                let _ = stream.write_all(&bytes);
                stream.conn.send_close_notify();
                let _ = stream.flush();
            }
            Page::Silent | Page::SilentInTls => {
                let _ = stream.read(&mut [0; 1]);
            }
            Page::Endless(head, piece) => {
                let mut alive = stream.write_all(head.as_bytes()).is_ok();
                while alive && !self.stopping.load(Ordering::SeqCst) {
                    alive = stream.write_all(piece.as_bytes()).is_ok();
                    self.sent.fetch_add(piece.len(), Ordering::SeqCst);
                }
            }
            Page::Slow => {
                let head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 60000\r\n\r\n";
                let mut alive = stream.write_all(head).is_ok();
                while alive && !self.stopping.load(Ordering::SeqCst) {
                    alive = stream.write_all(b"x").and_then(|()| stream.flush()).is_ok();
                    std::thread::sleep(Duration::from_millis(200));
                }
            }
        }
    }
}

/// The first line and the body; none where the client went away.
fn read_request(stream: &mut StreamOwned<ServerConnection, TcpStream>) -> Option<(String, Vec<u8>)> {
    let (mut bytes, mut room) = (Vec::new(), [0; 4096]);
    loop {
        let count = stream.read(&mut room).ok().filter(|count| *count > 0)?;
        bytes.extend_from_slice(&room[..count]);
        let text = String::from_utf8_lossy(&bytes);
        if let Some((head, _)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
            });
            let body = bytes.get(head.len() + 4..)?;
            if body.len() >= length.unwrap_or(0) {
                return Some((head.lines().next()?.to_owned(), body.to_vec()));
            }
        }
        if bytes.len() > REQUEST_BYTES_MAX {
            return None;
        }
    }
}
