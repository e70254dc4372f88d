//! What stands between generator and sink: the binary of this build, another relay, or nothing.

use std::fs;
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::load::{PASSWORD, USER};
use crate::process::Process;
use crate::sink::Sink;

/// A relay that runs, and the sink it delivers to. Ends with this value.
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    pub(crate) sink: Sink,
    pub(crate) process: Process,
    /// Held for its queue and config; on a real disk, since fsync on a tmpfs is free.
    pub(crate) directory: Option<tempfile::TempDir>,
}

/// Our relay in the clear, with these routes, on a directory that may have a queue already.
pub(crate) fn postrider_on(directory: tempfile::TempDir, sink: Sink, routes: &str) -> Option<Peer> {
    let listen = "tls = \"off\"\nauth = \"optional\"\ntrusted = [\"127.0.0.0/8\"]\n";
    start(directory, sink, listen, routes, false)
}

/// `listen` is what the one listener has beside its address, `config` the rest of the file.
pub(crate) fn start(
    directory: tempfile::TempDir,
    sink: Sink,
    listen: &str,
    config: &str,
    with_user: bool,
) -> Option<Peer> {
    let port = free_port();
    let file = directory.path().join("postrider.toml");
    let text = format!(
        "hostname = \"relay.test\"\n[queue]\npath = {:?}\n[[listen]]\naddress = \"127.0.0.1:{port}\"\n{listen}\
         [limits]\nsessions_per_client = 500\n{config}",
        directory.path().join("queue.db"),
    );
    fs::write(&file, text).expect("write the config");
    let command = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_postrider"));
        command.args(arguments).arg("--config").arg(&file).stdout(Stdio::null());
        command
    };
    if with_user {
        let mut add = command(&["user", "add", USER, "--password-stdin"])
            .stdin(Stdio::piped())
            .spawn()
            .expect("user add");
        let mut stdin = add.stdin.take().expect("piped above");
        stdin.write_all(format!("{PASSWORD}\n").as_bytes()).expect("the password is read");
        drop(stdin);
        assert!(add.wait().expect("user add").success());
    }
    // The mail log is part of the work: written, as in production, but to a file.
    let log = fs::File::create(directory.path().join("log")).expect("create the log");
    let process = Process::Ours(command(&["serve"]).stderr(log).spawn().expect("start postrider"));
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let peer = Peer { address, sink, process, directory: Some(directory) };
    wait_for_port(port).map(|_| peer)
}

pub(crate) fn directory() -> tempfile::TempDir {
    let parent = Path::new(env!("CARGO_TARGET_TMPDIR"));
    tempfile::tempdir_in(parent).expect("a directory for the queue")
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}

pub(crate) fn wait_for_port(port: u16) -> Option<SocketAddr> {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(20) {
        if TcpStream::connect(address).is_ok() {
            return Some(address);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    println!("nothing listens on port {port}");
    None
}
