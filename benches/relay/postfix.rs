//! Debian's Postfix with a config and queue of its own, for the same shape: no service, nothing outside of its
//! directory. Root is needed, since Postfix's processes run as its own user.
//!
//! Its own defaults hold but for what would handicap it: no wait where the queue grows (`in_flow_delay`), as
//! many processes and connections as the sessions and hosts can use, from the first message on, and no limit of
//! connections a client. In TLS it also reuses connections to the sink (`smtp_tls_connection_reuse`, which raises
//! its rate by a third or more) and caches sessions, as Debian's own config has it.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::load::{PASSWORD, USER};
use crate::peer::{Peer, directory, free_port, wait_for_port};
use crate::process::{self, Process};
use crate::shape::Shape;
use crate::stream::{Keys, NAME};

/// Cyrus SASL's tool that writes a users database (Debian: sasl2-bin). Nothing of it runs as a service.
const SASLPASSWD: &str = "/usr/sbin/saslpasswd2";

/// What is told to the reader, since it is not Postfix's default.
pub(crate) fn settings(connections: usize) -> String {
    format!(
        "in_flow_delay=0 default_process_limit=200 default_destination_concurrency_limit={connections} \
         initial_destination_concurrency={connections} smtpd_client_connection_count_limit=0 \
         smtp_tls_connection_reuse=yes"
    )
}

/// Started; none where it is not installed, with the reason printed.
pub(crate) fn postfix(shape: &Shape, keys: &Keys, connections: usize) -> Option<Peer> {
    if !Path::new("/usr/sbin/postfix").exists() || !Path::new("/usr/lib/postfix/sbin/smtpd").exists() {
        println!("{:>16} postfix is not installed, left out", "");
        return None;
    }
    if shape.tls && !Path::new(SASLPASSWD).exists() {
        println!("{:>16} postfix left out: its AUTH needs {SASLPASSWD} (Debian: sasl2-bin)", "");
        return None;
    }
    let (sink, directory, port) = (shape.sink(keys), directory(), free_port());
    let path = |name: &str| directory.path().join(name).display().to_string();
    fs::create_dir(path("queue")).expect("queue directory");
    fs::create_dir(path("data")).expect("data directory");
    // Postfix's own users must reach its queue.
    run(Command::new("chmod").arg("755").arg(directory.path()));
    run(Command::new("chown").arg("postfix").arg(path("data")));
    let mut main_cf = format!(
        "compatibility_level = 3.6\nqueue_directory = {}\ndata_directory = {}\nmaillog_file = {}\n\
         command_directory = /usr/sbin\ndaemon_directory = /usr/lib/postfix/sbin\n\
         mail_owner = postfix\nsetgid_group = postdrop\nmyhostname = {NAME}\nmydestination =\n\
         inet_interfaces = 127.0.0.1\ninet_protocols = ipv4\nmynetworks = 127.0.0.0/8\n\
         alias_maps =\nalias_database =\nlocal_recipient_maps =\nsmtp_host_lookup = native\n\
         maillog_file_prefixes = /\ntransport_maps = texthash:{}\n{}\n",
        path("queue"),
        path("data"),
        path("maillog"),
        path("transport"),
        settings(connections).replace(' ', "\n"),
    );
    let mut transport = String::new();
    for (domain, address) in shape.hosts() {
        let _ = writeln!(transport, "{domain} smtp:[{address}]:{}", sink.address.port());
    }
    fs::write(path("transport"), transport).expect("transport");
    main_cf.push_str(&if shape.tls {
        with_login(directory.path(), keys)
    } else {
        "smtp_tls_security_level = none\nsmtpd_tls_security_level = none\n".to_owned()
    });
    let more = std::env::var("POSTFIX").unwrap_or_default();
    more.split(';').for_each(|setting| set(&mut main_cf, setting.trim()));
    fs::write(path("main.cf"), main_cf).expect("main.cf");
    fs::write(path("master.cf"), master_cf(port)).expect("master.cf");
    if !process::postfix(directory.path(), "start") {
        println!("{:>16} postfix does not start here", "");
        return None;
    }
    let address = wait_for_port(port)?;
    let pid = fs::read_to_string(path("queue/pid/master.pid")).ok()?.trim().parse().ok()?;
    let process = Process::Postfix(pid, directory.path().to_owned());
    Some(Peer { address, sink, process, directory: Some(directory) })
}

/// Puts a setting in the place of one with the same name, for whoever wants to see what another does.
fn set(main_cf: &mut String, setting: &str) {
    let name = |line: &str| line.split('=').next().unwrap_or_default().trim().to_owned();
    let others = main_cf.lines().filter(|line| name(line) != name(setting));
    *main_cf = others.chain([setting]).flat_map(|line| [line, "\n"]).collect();
}

/// STARTTLS on both sides and AUTH against a users database of its own: `main.cf` for that.
fn with_login(directory: &Path, keys: &Keys) -> String {
    let path = |name: &str| directory.join(name).display().to_string();
    fs::write(path("cert.pem"), &keys.certificate).expect("write the certificate");
    fs::write(path("key.pem"), &keys.key).expect("write the key");
    let sasl = format!(
        "pwcheck_method: auxprop\nauxprop_plugin: sasldb\nmech_list: PLAIN\nsasldb_path: {}\n",
        path("sasldb2")
    );
    // Where Debian's Postfix looks first.
    fs::create_dir(path("sasl")).expect("sasl directory");
    fs::write(path("sasl/smtpd.conf"), sasl).expect("smtpd.conf");
    let mut add = Command::new(SASLPASSWD);
    add.args(["-p", "-c", "-u", NAME, "-f", &path("sasldb2"), USER]);
    let password = fs::File::open(write(&path("password"), PASSWORD)).expect("read the password");
    run(add.stdin(Stdio::from(password)));
    run(Command::new("chmod").arg("644").arg(path("sasldb2")));
    format!(
        "smtpd_tls_security_level = may\nsmtpd_tls_auth_only = yes\nsmtpd_tls_cert_file = {}\nsmtpd_tls_key_file = {}\n\
         smtpd_sasl_auth_enable = yes\nsmtpd_sasl_path = smtpd\ncyrus_sasl_config_path = {}\n\
         smtpd_sasl_local_domain = {NAME}\nsmtpd_relay_restrictions = permit_sasl_authenticated, reject\n\
         smtp_tls_security_level = may\nsmtp_tls_session_cache_database = btree:$data_directory/smtp_scache\n",
        path("cert.pem"),
        path("key.pem"),
        path("sasl"),
    )
}

/// The services that a relay needs, with the process limits of Debian's own file.
fn master_cf(port: u16) -> String {
    format!(
        "127.0.0.1:{port} inet n - n - - smtpd\n\
         pickup unix n - n 60 1 pickup\ncleanup unix n - n - 0 cleanup\nqmgr unix n - n 300 1 qmgr\n\
         rewrite unix - - n - - trivial-rewrite\nbounce unix - - n - 0 bounce\ndefer unix - - n - 0 bounce\n\
         trace unix - - n - 0 bounce\nverify unix - - n - 1 verify\nflush unix n - n 1000? 0 flush\n\
         proxymap unix - - n - - proxymap\nsmtp unix - - n - - smtp\nrelay unix - - n - - smtp\n\
         error unix - - n - - error\nretry unix - - n - - error\nanvil unix - - n - 1 anvil\n\
         scache unix - - n - 1 scache\ntlsmgr unix - - n 1000? 1 tlsmgr\ntlsproxy unix - - n - 0 tlsproxy\n\
         postlog unix-dgram n - n - 1 postlogd\n"
    )
}

fn write<'a>(file: &'a str, text: &str) -> &'a str {
    fs::write(file, text).expect("write a file of Postfix's");
    file
}

fn run(command: &mut Command) {
    let status = command.status();
    assert!(status.is_ok_and(|status| status.success()), "{command:?} failed");
}
