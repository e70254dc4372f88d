//! Every cell of the DANE matrix by Debian's Postfix (`smtp_tls_security_level = dane`) behind Debian's unbound, which
//! validates: what Postrider delivers with a proof, without one, and not at all, is what Postfix does. Where it is not,
//! [`DIFFERENCES`] says why.
//!
//! Postfix asks port 53 of resolv.conf(5), and for the TLSA records of the port that it connects to: it runs in
//! namespaces of its own.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Expected, Row, World, dane, settle_in};
use crate::harness::client::Client;
use crate::harness::dnssec::Signer;
use crate::harness::namespaces::{As, inside};
use crate::harness::relay::wait_for;
use crate::harness::skipped::installed;

/// What Postfix makes of a row where it is not what Postrider makes of it, and why that is meant.
const DIFFERENCES: [(&str, Outcome, &str); 1] = [(
    "ta-common",
    Outcome::Proved,
    "a certificate with a common name and no other name: RFC 9525 §2 has done away with those, no authority of the web \
     may issue one, and mox holds no such name valid either",
)];

/// Postfix 3.7 does not survive it (`panic: mymalloc: requested length 0`).
const LEFT_OUT: &str = "unusable-empty";

const SUBMISSION: u16 = 2525;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Proved,
    NotProved,
    Deferred,
}

fn expected(row: &Row) -> Outcome {
    match row.expected {
        Expected::Delivered(_, "TLSv1.3 verified by DANE") => Outcome::Proved,
        Expected::Delivered(..) => Outcome::NotProved,
        Expected::Waits(..) => Outcome::Deferred,
    }
}

#[test]
fn each_cell_comes_out_as_with_postfix() {
    if !["postfix", "unbound"].into_iter().all(installed) || !inside(As::Root, "true") {
        return;
    }
    let signer = Arc::new(Signer::new(1));
    let mut world = World::signed(&signer);
    world.mx_port = 25;
    let hosts = settle_in(&mut world, dane::rows().into_iter().filter(|row| row.name != LEFT_OUT).collect());
    let folder = tempfile::tempdir().unwrap();
    let mut unbound = unbound(folder.path(), world.dns.address(), &signer);
    let log = postfix(folder.path());
    let mut client = None;
    wait_for("Postfix", Duration::from_secs(20), || {
        client = Client::connect(SocketAddr::from(([127, 0, 0, 1], SUBMISSION))).ok();
        client.is_some().then_some(())
    });
    let recipients: Vec<String> = hosts.iter().map(|(row, ..)| format!("you@{}", row.domain())).collect();
    let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
    let taken = client.unwrap().transact("", "", &recipients, b"Subject: hello\r\n\r\nhello\r\n").unwrap();
    assert_eq!(taken.code, 250, "{}", taken.text);
    let read = || fs::read_to_string(&log).unwrap_or_default();
    let until = Instant::now() + Duration::from_secs(60);
    while outcomes(&read()).len() < hosts.len() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(100));
    }
    unbound.kill().and_then(|()| unbound.wait()).unwrap();
    let (log, mut wrong) = (read(), Vec::new());
    let outcomes = outcomes(&log);
    assert_eq!(outcomes.len(), hosts.len(), "{log}");
    for (row, ..) in &hosts {
        let found = outcomes[&row.domain()];
        let meant = DIFFERENCES.iter().find(|(name, ..)| *name == row.name);
        if found != meant.map_or(expected(row), |(_, outcome, _)| *outcome) {
            let lines = log.lines().filter(|line| line.contains(&row.domain()));
            wrong.push(format!(
                "{}: {:?} by Postrider, and {found:?} by Postfix:\n  {}",
                row.name,
                expected(row),
                lines.collect::<Vec<_>>().join("\n  ")
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for (name, outcome, _) in DIFFERENCES {
        let row = hosts.iter().find(|(row, ..)| row.name == name).expect("a row of the matrix");
        assert_ne!(expected(&row.0), outcome, "{name} is no difference any more");
    }
}

/// By domain, as the log has them.
fn outcomes(log: &str) -> BTreeMap<String, Outcome> {
    let mut found = BTreeMap::new();
    for line in log.lines() {
        let Some((_, rest)) = line.split_once(" to=<you@") else { continue };
        let (domain, rest) = rest.split_once('>').unwrap();
        let host = rest
            .split_once(" relay=")
            .and_then(|(_, rest)| rest.split_once(','))
            .map_or("", |(host, _)| host);
        let outcome = match rest {
            rest if rest.contains(" status=deferred ") => Outcome::Deferred,
            rest if rest.contains(" status=sent ") => {
                let verified = format!("Verified TLS connection established to {host}:");
                if log.contains(&verified) { Outcome::Proved } else { Outcome::NotProved }
            }
            rest => panic!("neither sent nor deferred: {domain}{rest}"),
        };
        found.insert(domain.to_owned(), outcome);
    }
    found
}

/// At port 53; ends with the namespace.
fn unbound(folder: &Path, upstream: SocketAddr, signer: &Signer) -> Child {
    let (anchor, config) = (folder.join("anchor"), folder.join("unbound.conf"));
    fs::write(&anchor, signer.anchor()).unwrap();
    let text = format!(
        "server:\n interface: 127.0.0.1@53\n do-daemonize: no\n use-syslog: no\n chroot: \"\"\n username: \"\"\n \
         directory: \"\"\n pidfile: \"\"\n module-config: \"validator iterator\"\n trust-anchor-file: {}\n \
         do-not-query-localhost: no\n local-zone: \"test.\" nodefault\n trust-anchor-signaling: no\n val-log-level: 2\n\
         remote-control:\n control-enable: no\n\
         forward-zone:\n name: \".\"\n forward-addr: {}@{}\n",
        anchor.display(),
        upstream.ip(),
        upstream.port()
    );
    fs::write(&config, text).unwrap();
    fs::write("/etc/resolv.conf", "nameserver 127.0.0.1\noptions trust-ad\n").unwrap();
    let log = fs::File::create(folder.join("unbound.log")).unwrap();
    let mut command = Command::new("unbound");
    command.arg("-d").arg("-c").arg(&config).stdin(Stdio::null());
    command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
}

/// Its log.
fn postfix(folder: &Path) -> std::path::PathBuf {
    let path = |name: &str| folder.join(name).display().to_string();
    for folder in ["queue", "data"] {
        fs::create_dir(path(folder)).unwrap();
    }
    // Its own users must reach its queue.
    run(Command::new("chmod").arg("755").arg(folder));
    run(Command::new("chown").arg("postfix").arg(path("data")));
    let main_cf = format!(
        "compatibility_level = 3.6\nqueue_directory = {}\ndata_directory = {}\nmaillog_file = {}\n\
         maillog_file_prefixes = /\ncommand_directory = /usr/sbin\ndaemon_directory = /usr/lib/postfix/sbin\n\
         mail_owner = postfix\nsetgid_group = postdrop\nmyhostname = relay.test\nmydestination =\n\
         inet_interfaces = 127.0.0.1\ninet_protocols = ipv4\nmynetworks = 127.0.0.0/8\nalias_maps =\n\
         alias_database =\nlocal_recipient_maps =\nsmtp_dns_support_level = dnssec\n\
         smtp_tls_security_level = dane\nsmtp_tls_loglevel = 1\nsmtp_tls_CAfile =\n",
        path("queue"),
        path("data"),
        path("maillog"),
    );
    let master_cf = format!(
        "127.0.0.1:{SUBMISSION} inet n - n - - smtpd\ncleanup unix n - n - 0 cleanup\n\
         qmgr unix n - n 300 1 qmgr\nrewrite unix - - n - - trivial-rewrite\nbounce unix - - n - 0 bounce\n\
         defer unix - - n - 0 bounce\ntrace unix - - n - 0 bounce\nproxymap unix - - n - - proxymap\n\
         smtp unix - - n - - smtp\nrelay unix - - n - - smtp\nerror unix - - n - - error\n\
         retry unix - - n - - error\nanvil unix - - n - 1 anvil\nscache unix - - n - 1 scache\n\
         tlsmgr unix - - n 1000? 1 tlsmgr\npostlog unix-dgram n - n - 1 postlogd\n"
    );
    fs::write(path("main.cf"), main_cf).unwrap();
    fs::write(path("master.cf"), master_cf).unwrap();
    run(Command::new("postfix").arg("-c").arg(folder).arg("start"));
    folder.join("maillog")
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
