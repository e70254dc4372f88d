//! What stands between generator and sink: Postrider, Postfix, or nothing.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::sink::Sink;

/// A relay that runs, and the sink it delivers to. Ends with this value.
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    pub(crate) sink: Sink,
    process: Process,
    /// Held for its queue and config; on a real disk, since fsync on a tmpfs is free.
    directory: Option<tempfile::TempDir>,
}

enum Process {
    Ours(Child),
    /// The pid of Postfix's master; its children do the work.
    Postfix(u32),
    None,
}

impl Peer {
    pub(crate) fn sink_alone() -> Peer {
        let sink = Sink::start();
        Peer { address: sink.address, sink, process: Process::None, directory: None }
    }

    /// CPU time used so far, children included.
    pub(crate) fn cpu_ms(&self) -> f64 {
        match &self.process {
            Process::None => 0.0,
            Process::Ours(child) => cpu_ms(child.id(), false),
            Process::Postfix(master) => {
                cpu_ms(*master, true)
                    + children(*master).into_iter().map(|pid| cpu_ms(pid, false)).sum::<f64>()
            }
        }
    }

    /// Highest resident memory; for Postfix the sum over the processes that live now.
    pub(crate) fn peak_mib(&self) -> f64 {
        match &self.process {
            Process::None => 0.0,
            Process::Ours(child) => peak_mib(child.id()),
            Process::Postfix(master) => {
                peak_mib(*master) + children(*master).into_iter().map(peak_mib).sum::<f64>()
            }
        }
    }
}

impl Peer {
    /// Resident memory now, of our own relay.
    pub(crate) fn resident_mib(&self) -> f64 {
        match &self.process {
            Process::Ours(child) => mib(child.id(), "VmRSS:"),
            Process::Postfix(_) | Process::None => 0.0,
        }
    }

    /// The database of our own relay.
    pub(crate) fn database(&self) -> Option<std::path::PathBuf> {
        self.directory.as_ref().map(|directory| directory.path().join("queue.db"))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        match &mut self.process {
            Process::Ours(child) => {
                let _ = child.kill();
                let _ = child.wait();
            }
            Process::Postfix(_) => {
                if let Some(directory) = &self.directory {
                    postfix_command(directory.path(), "stop");
                }
            }
            Process::None => {}
        }
    }
}

/// The binary of this build with a config of its own, a fresh queue on disk.
pub(crate) fn postrider() -> Option<Peer> {
    let sink = Sink::start();
    let route = format!("[[route]]\ndomain = \"*\"\n{}", sink.as_relay());
    postrider_on(directory(), sink, &route)
}

/// The same with a queue that is there already, and with other routes.
pub(crate) fn postrider_on(directory: tempfile::TempDir, sink: Sink, routes: &str) -> Option<Peer> {
    let port = free_port();
    let config = directory.path().join("postrider.toml");
    let text = format!(
        "hostname = \"relay.test\"\n\
         [queue]\npath = \"{}\"\n\
         [[listen]]\naddress = \"127.0.0.1:{port}\"\ntls = \"off\"\nauth = \"optional\"\ntrusted = [\"127.0.0.0/8\"]\n\
         [limits]\nsessions_per_client = 500\n\
         {routes}",
        directory.path().join("queue.db").display(),
    );
    fs::write(&config, text).expect("write the config");
    let mut command = Command::new(env!("CARGO_BIN_EXE_postrider"));
    command.arg("serve").arg("--config").arg(&config).stdout(Stdio::null());
    // The mail log is part of the work: written, as in production, but to a file.
    let log = fs::File::create(directory.path().join("log")).expect("create the log");
    let child = command.stderr(log).spawn().expect("start postrider");
    let process = Process::Ours(child);
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let peer = Peer { address, sink, process, directory: Some(directory) };
    wait_for_port(port).map(|_| peer)
}

/// Debian's Postfix with a config and queue of its own that relays to the sink.
pub(crate) fn postfix() -> Option<Peer> {
    if !Path::new("/usr/sbin/postfix").exists() || !Path::new("/usr/lib/postfix/sbin/smtpd").exists() {
        return None;
    }
    let (sink, directory, port) = (Sink::start(), directory(), free_port());
    let (queue, data) = (directory.path().join("queue"), directory.path().join("data"));
    fs::create_dir(&queue).expect("queue directory");
    fs::create_dir(&data).expect("data directory");
    // Postfix's own users must reach its queue.
    run("chmod", &["755", &directory.path().display().to_string()]);
    run("chown", &["postfix", &data.display().to_string()]);
    let main_cf = format!(
        "compatibility_level = 3.6\nqueue_directory = {}\ndata_directory = {}\n\
         command_directory = /usr/sbin\ndaemon_directory = /usr/lib/postfix/sbin\n\
         mail_owner = postfix\nsetgid_group = postdrop\nmyhostname = relay.test\nmydestination =\n\
         inet_interfaces = 127.0.0.1\ninet_protocols = ipv4\nmynetworks = 127.0.0.0/8\n\
         relayhost = [127.0.0.1]:{}\nsmtp_tls_security_level = none\nsmtpd_tls_security_level = none\n\
         alias_maps =\nalias_database =\nlocal_recipient_maps =\nsmtp_host_lookup = native\n\
         default_process_limit = 200\ndefault_destination_concurrency_limit = 20\n\
         smtpd_client_connection_count_limit = 0\nmaillog_file = {}\nmaillog_file_prefixes = /\n\
         in_flow_delay = 0\n",
        queue.display(),
        data.display(),
        sink.address.port(),
        directory.path().join("maillog").display(),
    );
    fs::write(directory.path().join("main.cf"), main_cf).expect("main.cf");
    let master_cf = format!(
        "127.0.0.1:{port} inet n - n - - smtpd\n\
         pickup unix n - n 60 1 pickup\ncleanup unix n - n - 0 cleanup\nqmgr unix n - n 300 1 qmgr\n\
         rewrite unix - - n - - trivial-rewrite\nbounce unix - - n - 0 bounce\ndefer unix - - n - 0 bounce\n\
         trace unix - - n - 0 bounce\nverify unix - - n - 1 verify\nflush unix n - n 1000? 0 flush\n\
         proxymap unix - - n - - proxymap\nsmtp unix - - n - - smtp\nrelay unix - - n - - smtp\n\
         error unix - - n - - error\nretry unix - - n - - error\nanvil unix - - n - 1 anvil\n\
         scache unix - - n - 1 scache\ntlsmgr unix - - n 1000? 1 tlsmgr\npostlog unix-dgram n - n - 1 postlogd\n"
    );
    fs::write(directory.path().join("master.cf"), master_cf).expect("master.cf");
    if !postfix_command(directory.path(), "start") {
        println!("postfix does not start here");
        return None;
    }
    let address = wait_for_port(port)?;
    let pid = fs::read_to_string(queue.join("pid/master.pid")).ok()?.trim().parse().ok()?;
    Some(Peer { address, sink, process: Process::Postfix(pid), directory: Some(directory) })
}

fn postfix_command(config: &Path, verb: &str) -> bool {
    let output = Command::new("/usr/sbin/postfix").arg("-c").arg(config).arg(verb).output();
    match output {
        Ok(output) if output.status.success() => true,
        Ok(output) => {
            eprintln!("postfix {verb}: {}", String::from_utf8_lossy(&output.stderr).trim());
            false
        }
        Err(error) => {
            eprintln!("postfix {verb}: {error}");
            false
        }
    }
}

fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status();
    assert!(status.is_ok_and(|status| status.success()), "{program} {arguments:?} failed");
}

pub(crate) fn directory() -> tempfile::TempDir {
    let parent = Path::new(env!("CARGO_TARGET_TMPDIR"));
    tempfile::tempdir_in(parent).expect("a directory for the queue")
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}

fn wait_for_port(port: u16) -> Option<SocketAddr> {
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

/// User and system time of a process, its dead children's too where asked (proc(5): ticks of 10 ms).
fn cpu_ms(pid: u32, with_dead_children: bool) -> f64 {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return 0.0 };
    // The name in parentheses may hold anything; the numbers follow it.
    let numbers: Vec<f64> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .map(|word| word.parse().unwrap_or(0.0))
        .collect();
    let fields = if with_dead_children { 10..14 } else { 10..12 };
    numbers.get(fields).map_or(0.0, |ticks| ticks.iter().sum::<f64>() * 10.0)
}

fn peak_mib(pid: u32) -> f64 {
    mib(pid, "VmHWM:")
}

/// A line of proc(5)'s `status`.
fn mib(pid: u32, name: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap_or(0.0) / 1024.0
}

fn children(of: u32) -> Vec<u32> {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    all.filter_map(|entry| entry.file_name().to_string_lossy().parse().ok())
        .filter(|pid: &u32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let parent =
                stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)?.parse().ok());
            parent == Some(of)
        })
        .collect()
}
