//! SIGTERM and restarts: who hears what, how long it takes, and that nobody is refused where systemd holds the
//! sockets.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::harness::dns_server::Fault;
use crate::harness::fakemx::{Act, At, FakeMx, SOON, Script};
use crate::harness::relay::{Client, Config, Relay, World, mail, wait_for};
use crate::harness::sender::SENDER;

/// What SIGTERM may take, whoever is silent.
const STOP_MAX: Duration = Duration::from_secs(5);
const SHUTTING_DOWN: u16 = 421;

/// SIGTERM, and the time until the process has ended.
fn stop_timed(relay: &mut Relay) -> Duration {
    let began = Instant::now();
    relay.stop_within(STOP_MAX);
    began.elapsed()
}

#[test]
fn silent_clients_hear_421_and_the_relay_ends_soon() {
    let mut relay = World::new().relay(Config::new());
    let mut clients: Vec<(&str, Client)> = Vec::new();
    let mut add = |what: &'static str, lines: &[&str]| {
        let mut client = relay.client();
        lines.iter().for_each(|line| client.write(format!("{line}\r\n").as_bytes()).unwrap());
        lines.iter().for_each(|_| drop(client.reply().unwrap()));
        clients.push((what, client));
    };
    let (mail, rcpt) = (format!("MAIL FROM:<{SENDER}>"), "RCPT TO:<you@a.test>");
    add("between transactions", &[]);
    add("behind MAIL", &[&mail]);
    add("behind RCPT", &[&mail, rcpt]);
    add("behind DATA", &[&mail, rcpt, "DATA"]);
    // The player puts the last two bytes behind it.
    add("between chunks", &[&mail, rcpt, "BDAT 4\r\nab"]);
    add("within a chunk", &[&mail, rcpt, "BDAT 4\r\nab"]);
    clients[5].1.write(b"BDAT 100\r\nhalf").unwrap();
    // Hellos that never come to an end.
    let handshakes = [relay.starttls, relay.implicit].map(|address| TcpStream::connect(address).unwrap());
    let mut greeting = [0; 4];
    (&handshakes[0]).read_exact(&mut greeting).unwrap();
    (&handshakes[0]).write_all(b"STARTTLS\r\n").unwrap();

    let took = stop_timed(&mut relay);
    for (what, mut client) in clients {
        let reply = client.reply().unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(reply.code, SHUTTING_DOWN, "{what}");
        assert!(client.is_closed(), "{what}");
    }
    println!("stopped within {took:?}");
    assert_eq!(relay.logged(&["handshake"]), [""; 0], "nobody's fault");
}

/// A script that never answers at one place.
fn silent_at(at: At) -> Script {
    Script::new().on(at, Act::Stall)
}

#[test]
fn hosts_that_are_silent_before_the_content_are_not_waited_for_and_cost_no_attempt() {
    let mut world = World::new();
    let places = [
        (At::Greeting, ""),
        (At::Ehlo, "EHLO"),
        (At::Mail, "MAIL"),
        (At::Rcpt("you@"), "RCPT"),
        (At::Data, "DATA"),
    ];
    let hosts: Vec<(FakeMx, &str)> = places
        .into_iter()
        .enumerate()
        .map(|(number, (at, last))| (world.host(&format!("silent{number}.test"), silent_at(at)), last))
        .collect();
    let mut relay = world.relay(Config::new());
    let recipients: Vec<String> = (0..hosts.len()).map(|number| format!("you@silent{number}.test")).collect();
    relay.submit(SENDER, &recipients.iter().map(String::as_str).collect::<Vec<_>>(), &mail("wait"));
    for (host, last) in &hosts {
        match *last {
            "" => wait_for("a connection", SOON, || (!host.seen().is_empty()).then_some(())),
            last => host.wait_for_command(last, SOON),
        }
    }
    let took = stop_timed(&mut relay);
    assert!(took < Duration::from_secs(3), "{took:?}");
    let db = relay.db();
    let due = "SELECT count(*) FROM recipients WHERE state = 'queued' AND attempts = 0 AND next_attempt_at <= unixepoch()";
    assert_eq!(db.number(due, []), hosts.len() as i64, "{}", db.dump());
    assert_eq!(db.number("SELECT count(*) FROM attempts", []), 0, "{}", db.dump());
    assert_eq!(db.number("SELECT count(*) FROM backoffs", []), 0, "{}", db.dump());
    assert_eq!(db.number("SELECT count(*) FROM host_settings", []), 0, "{}", db.dump());
}

#[test]
fn a_host_that_has_the_content_gets_a_moment_and_is_in_doubt_only_without_an_answer() {
    let mut world = World::new();
    let slow = Act::Later(Duration::from_millis(1500), Box::new(Act::Say("250 2.0.0 taken")));
    let slow = world.host("slow.test", Script::new().on(At::Dot, slow));
    let never = world.host("never.test", silent_at(At::Dot));
    world.zone(|zone| zone.fault("nameless.test", Fault::Silent));
    let mut relay = world.relay(Config::new().set("dns.timeout", "\"30s\""));
    relay.submit(SENDER, &["you@nameless.test"], &mail("waits for DNS"));
    relay.submit(SENDER, &["you@slow.test"], &mail("slow"));
    relay.submit(SENDER, &["you@never.test"], &mail("never"));
    slow.wait_for_command("DATA", SOON);
    never.wait_for_command("DATA", SOON);
    stop_timed(&mut relay);
    let db = relay.db();
    assert_eq!(db.ended("you@slow.test").as_deref(), Some("delivered"), "{}", db.dump());
    assert_eq!(db.attempts("you@never.test", "in_doubt"), 1, "{}", db.dump());
    assert_eq!(db.number("SELECT count(*) FROM recipients WHERE attempts = 0", []), 1, "{}", db.dump());
}

// ---- socket activation ----------------------------------------------------------------------------------

/// The relay's `serve` with these sockets as systemd hands them over: as descriptors from 3 on, and the process id
/// in the environment. The shell moves them there.
fn activated(relay: &Relay, sockets: [&TcpListener; 2]) -> Command {
    let serve = relay.command(&["serve"]);
    let mut command = Command::new("sh");
    command
        .args(["-c", "LISTEN_PID=$$ LISTEN_FDS=2 exec \"$@\" 3<&0 4>&1 </dev/null >/dev/null", "sh"])
        .arg(serve.get_program())
        .args(serve.get_args())
        .env_remove("RUST_LOG")
        .env_remove("NOTIFY_SOCKET")
        .current_dir(relay.path(""));
    let [first, second] = sockets.map(|socket| OwnedFd::from(socket.try_clone().unwrap()));
    command.stdin(Stdio::from(first)).stdout(Stdio::from(second));
    command
}

#[test]
fn no_connection_is_refused_while_the_relay_restarts_behind_a_socket_of_systemd() {
    let mut world = World::new();
    let _mx = world.host("a.test", Script::new());
    let mut relay = Relay::prepare(world.configured(Config::new()));
    let sockets = [relay.clear, relay.starttls].map(|address| TcpListener::bind(address).unwrap());
    let (stop, taken) = (AtomicBool::new(false), AtomicU64::new(0));
    let address = relay.clear;
    std::thread::scope(|scope| {
        let submitters: Vec<_> =
            (0..4).map(|_| scope.spawn(|| submit_until(&stop, address, &taken))).collect();
        let stopper = StopOnDrop(&stop);
        for _ in 0..4 {
            let log = std::fs::File::options().create(true).append(true).open(relay.path("log")).unwrap();
            let mut command = activated(&relay, [&sockets[0], &sockets[1]]);
            relay.spawn_command(command.stderr(log));
            let before = taken.load(Ordering::Relaxed);
            wait_for("mail to be taken", SOON, || {
                (taken.load(Ordering::Relaxed) > before + 50).then_some(())
            });
            stop_timed(&mut relay);
        }
        drop(stopper);
        // Who waits for the next start hears no more of it.
        drop(sockets);
        submitters.into_iter().for_each(|submitter| submitter.join().unwrap());
    });
    let acknowledged = i64::try_from(taken.load(Ordering::Relaxed)).unwrap();
    let db = relay.db();
    let known = "SELECT (SELECT count(*) FROM recipients) + (SELECT count(*) FROM history)";
    assert!(db.number(known, []) >= acknowledged, "{} of {acknowledged}", db.number(known, []));
    assert!(relay.logged(&["is not among the sockets of systemd", &relay.implicit.to_string()]).len() == 4);
}

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Submits on one connection after the other. The relay may say 421; refused is nobody.
fn submit_until(stop: &AtomicBool, address: SocketAddr, taken: &AtomicU64) {
    while !stop.load(Ordering::SeqCst) {
        let mut client = match Client::connect(address) {
            Ok(client) => client,
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => panic!("refused"),
            Err(_) => continue,
        };
        for _ in 0..5 {
            let hello = client.say("EHLO app.test");
            let sent = hello.and_then(|_| client.transact(SENDER, "", &["you@a.test"], &mail("hello")));
            match sent {
                Ok(reply) if reply.code == 250 => drop(taken.fetch_add(1, Ordering::Relaxed)),
                Ok(reply) => {
                    assert_eq!(reply.code, SHUTTING_DOWN, "{}", reply.text);
                    break;
                }
                Err(_) => break,
            }
        }
    }
}

/// Whoever connects there would wait for ever.
#[test]
fn a_reload_takes_no_listener_from_a_socket_of_systemd() {
    let mut relay = Relay::prepare(World::new().configured(Config::new()));
    let sockets = [relay.clear, relay.starttls].map(|address| TcpListener::bind(address).unwrap());
    let log = std::fs::File::create(relay.path("log")).unwrap();
    let mut command = activated(&relay, [&sockets[0], &sockets[1]]);
    relay.spawn_command(command.stderr(log));
    // The sockets are open before the process is.
    relay.client().expect("NOOP", "250");
    let (file, address) = (relay.path("postrider.toml"), relay.clear.to_string());
    let elsewhere = std::fs::read_to_string(&file).unwrap().replace(&address, "127.0.0.1:0");
    std::fs::write(&file, elsewhere).unwrap();
    relay.signal("HUP");
    let said = format!("systemd listens on {address}, which no [[listen]] has");
    wait_for("the line", SOON, || (relay.logged(&["the old one stays", &said]).len() == 1).then_some(()));
    relay.client().expect("NOOP", "250");
}

#[test]
fn a_socket_that_no_listener_has_is_one_clear_line_and_exit_code_2() {
    let relay = Relay::prepare(World::new().configured(Config::new()));
    let stray = TcpListener::bind("127.0.0.1:0").unwrap();
    let output = run_to_end_of(activated(&relay, [&stray, &stray]));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    let said =
        format!("postrider: systemd listens on {}, which no [[listen]] has", stray.local_addr().unwrap());
    assert!(stderr.contains(&said), "{stderr}");
}

/// Its end, at most [`SOON`] from now. Its stdin is one of the sockets.
fn run_to_end_of(mut command: Command) -> std::process::Output {
    let child = command.stderr(Stdio::piped()).spawn().unwrap();
    let id = child.id();
    let (done, is_done) = crossbeam_channel::bounded::<()>(0);
    let watchdog = std::thread::spawn(move || {
        if is_done.recv_timeout(SOON) == Err(crossbeam_channel::RecvTimeoutError::Timeout) {
            let _ = Command::new("sh").arg("-c").arg(format!("kill -KILL {id}")).status();
        }
    });
    let output = child.wait_with_output().unwrap();
    drop(done);
    watchdog.join().unwrap();
    output
}
