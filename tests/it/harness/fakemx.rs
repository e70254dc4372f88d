//! A scripted receiving host: it says what the test tells it to, and remembers what it was told.
//!
//! ```text
//! let mx = FakeMx::start(Script::new().on(At::Rcpt("bad@"), Act::Say("550 5.1.1 no such user")));
//! … deliver to mx.address …
//! let messages = mx.wait_for_messages(1, SOON);
//! ```
//!
//! Without rules it greets, offers PIPELINING, SIZE, 8BITMIME and DSN, and takes everything. A rule
//! says what happens instead of the ordinary answer at one place of the dialogue; the first rule that
//! fits (and is not used up) holds. Real sockets on port 0, one thread a connection; nothing sleeps but
//! [`Act::Later`].

#![allow(dead_code, reason = "a tool box: not every test uses every tool")]

mod script;
mod session;
mod stolen;
mod stream;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub(crate) use script::{Act, Ask, At, Ca, Certificate, Script};
use session::play;
pub(crate) use stream::Opened;
use stream::Stream;

/// Long enough for anything that should happen at once, even on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A message that the fake answered for with 2xx.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    /// The connection it came on, counted from 0.
    pub(crate) connection: usize,
    /// Whether it came in TLS.
    pub(crate) tls: bool,
    /// The whole MAIL line.
    pub(crate) mail: String,
    /// The whole RCPT lines that were accepted.
    pub(crate) rcpts: Vec<String>,
    /// The content, dots undone, without the final dot.
    pub(crate) content: Vec<u8>,
}

/// What happened on one connection.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    /// The client's IP address.
    pub(crate) client: String,
    /// The address of ours that it connected to.
    pub(crate) host: Option<IpAddr>,
    /// Every command line without its end, in order; challenge answers of AUTH too.
    pub(crate) commands: Vec<String>,
    /// What each read from the socket brought, before TLS is undone; shows what left in one write.
    pub(crate) reads: Vec<usize>,
    /// TLS was established.
    pub(crate) tls: bool,
    /// By resuming a session of an earlier connection.
    pub(crate) resumed: bool,
    /// Bytes of the ClientHello, where the fake looked.
    pub(crate) hello: usize,
    /// Commands came together.
    pub(crate) batched: bool,
    /// What the client wrote between 354 and the reply to the dot, as it came, the final dot too.
    pub(crate) raw_content: Vec<u8>,
    /// The connection is over.
    pub(crate) closed: bool,
}

impl Seen {
    /// The verbs of the commands: `["EHLO", "MAIL", …]`.
    pub(crate) fn verbs(&self) -> Vec<&str> {
        self.commands.iter().map(|line| line.split(' ').next().unwrap_or("")).collect()
    }
}

#[derive(Default)]
struct State {
    seen: Vec<Seen>,
    messages: Vec<Message>,
    /// Of the connections that are open.
    sockets: Vec<Option<TcpStream>>,
    stopping: bool,
    /// Connections in dialogue, those not counted that were sent away; and the most there were.
    open: usize,
    most_open: usize,
    sent_away: usize,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap());
        self.changed.notify_all();
    }

    fn wait_until<T>(&self, limit: Duration, what: &str, done: impl Fn(&State) -> Option<T>) -> T {
        let until = Instant::now() + limit;
        let mut state = self.state.lock().unwrap();
        loop {
            if let Some(result) = done(&state) {
                return result;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let seen = std::mem::take(&mut state.seen);
                drop(state);
                panic!("waited {limit:?} for {what}; seen: {seen:#?}");
            }
            state = self.changed.wait_timeout(state, left).unwrap().0;
        }
    }
}

/// The running host; stops when dropped.
pub(crate) struct FakeMx {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    listener: Option<JoinHandle<()>>,
}

impl FakeMx {
    /// Behaves by `script` on every connection.
    pub(crate) fn start(script: Script) -> FakeMx {
        FakeMx::start_each(vec![script])
    }

    /// Behaves by the first script on the first connection and so on; the last holds for all that follow.
    pub(crate) fn start_each(scripts: Vec<Script>) -> FakeMx {
        FakeMx::start_at("127.0.0.1:0".parse().unwrap(), scripts)
    }

    /// The same, at this address (`127.0.0.2:2525`: hosts that share a port, as MX hosts do).
    pub(crate) fn start_at(address: SocketAddr, scripts: Vec<Script>) -> FakeMx {
        FakeMx::start_choosing(address, move |number, _| scripts[number.min(scripts.len() - 1)].clone())
    }

    /// Many hosts in one: behaves on every loopback address as `scripts` says for it.
    pub(crate) fn start_everywhere(port: u16, scripts: HashMap<IpAddr, Script>) -> FakeMx {
        let choose = move |_, host| match scripts.get(&host) {
            Some(script) => script.clone(),
            None => panic!("nobody is meant to be at {host}"),
        };
        FakeMx::start_choosing((Ipv4Addr::UNSPECIFIED, port).into(), choose)
    }

    /// The script for a connection: by its number, and the address of ours that it came to.
    fn start_choosing(
        address: SocketAddr,
        choose: impl Fn(usize, IpAddr) -> Script + Send + 'static,
    ) -> FakeMx {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let listener = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || accept(&listener, &choose, &shared)
        });
        FakeMx { address, shared, listener: Some(listener) }
    }

    /// No listener: behaves by `script` on this one connection.
    pub(crate) fn turned(opened: Opened, script: Script) -> FakeMx {
        let stream = match opened {
            Opened::Clear(tcp) => Stream { plain: Some(tcp), tls: None, turned: None },
            Opened::Tls(tls) => Stream { plain: None, tls: None, turned: Some(*tls) },
        };
        let shared = Arc::new(Shared::default());
        let tcp = stream.tcp().unwrap().try_clone().unwrap();
        let address = tcp.local_addr().unwrap();
        shared.change(|state| {
            state.sockets.push(Some(tcp));
            state.seen.push(Seen { tls: stream.turned.is_some(), ..Seen::default() });
        });
        let listener = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || play(0, script, shared, stream, false)
        });
        FakeMx { address, shared, listener: Some(listener) }
    }

    /// The messages taken so far, as soon as there are `count` of them. Panics after `limit`.
    pub(crate) fn wait_for_messages(&self, count: usize, limit: Duration) -> Vec<Message> {
        self.shared.wait_until(limit, &format!("{count} messages"), |state| {
            (state.messages.len() >= count).then(|| state.messages.clone())
        })
    }

    /// The messages taken so far.
    pub(crate) fn messages(&self) -> Vec<Message> {
        self.shared.state.lock().unwrap().messages.clone()
    }

    /// What happened on each connection so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.shared.state.lock().unwrap().seen.clone()
    }

    /// The same, as soon as there were `count` connections and all are over. Panics after `limit`.
    pub(crate) fn wait_for_closed(&self, count: usize, limit: Duration) -> Vec<Seen> {
        self.shared.wait_until(limit, &format!("{count} closed connections"), |state| {
            let closed = state.seen.iter().filter(|seen| seen.closed).count();
            (closed >= count && closed == state.seen.len()).then(|| state.seen.clone())
        })
    }

    /// The most connections that were in dialogue at once.
    pub(crate) fn most_open(&self) -> usize {
        self.shared.state.lock().unwrap().most_open
    }

    /// How many connections were too many for [`Script::at_most`].
    pub(crate) fn sent_away(&self) -> usize {
        self.shared.state.lock().unwrap().sent_away
    }

    /// As soon as the fake has seen a command that begins with `start`, on any connection. Panics after `limit`.
    pub(crate) fn wait_for_command(&self, start: &str, limit: Duration) {
        self.shared.wait_until(limit, start, |state| {
            state
                .seen
                .iter()
                .flat_map(|seen| &seen.commands)
                .any(|line| line.starts_with(start))
                .then_some(())
        });
    }
}

impl Drop for FakeMx {
    fn drop(&mut self) {
        self.shared.change(|state| {
            state.stopping = true;
            for socket in state.sockets.iter().flatten() {
                let _ = socket.shutdown(Shutdown::Both);
            }
        });
        let _ = TcpStream::connect(self.address); // wakes accept()
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
    }
}

fn accept(listener: &TcpListener, choose: &dyn Fn(usize, IpAddr) -> Script, shared: &Arc<Shared>) {
    let mut sessions = Vec::new();
    for tcp in listener.incoming() {
        let Ok(tcp) = tcp else { break };
        let Ok(host) = tcp.local_addr().map(|address| address.ip()) else { continue };
        let number = {
            let mut state = shared.state.lock().unwrap();
            if state.stopping {
                break;
            }
            state.sockets.push(Some(tcp.try_clone().unwrap()));
            let client = tcp.peer_addr().map_or_else(|_| String::new(), |peer| peer.ip().to_string());
            state.seen.push(Seen { client, host: Some(host), ..Seen::default() });
            state.seen.len() - 1
        };
        // Outside the lock: it may panic.
        let mut script = choose(number, host);
        let away = {
            let mut state = shared.state.lock().unwrap();
            let away = script.at_most.filter(|(most, _)| state.open >= *most).map(|(_, reply)| reply);
            state.open += usize::from(away.is_none());
            state.sent_away += usize::from(away.is_some());
            state.most_open = state.most_open.max(state.open);
            away
        };
        shared.changed.notify_all();
        if let Some(reply) = away {
            script = script.at_once(At::Greeting, Act::SayAndClose(reply));
        }
        let shared = Arc::clone(shared);
        sessions.push(std::thread::spawn(move || {
            tcp.set_nodelay(true).unwrap();
            let stream = Stream { plain: Some(tcp), tls: None, turned: None };
            play(number, script, shared, stream, away.is_none());
        }));
    }
    for session in sessions {
        session.join().unwrap();
    }
}
