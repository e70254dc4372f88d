//! What DNSSEC comes to behind the resolvers that people have: unbound and BIND's named, validating and not, and
//! dnsmasq before them. The zones are signed by BIND's own tools as registries sign theirs (`resolvers/zones.sh`).
//! Mail for what is signed is held to its proof, mail for what is not signed goes, and a broken chain holds it.
//!
//! Most domains are not signed, and most of those are in a zone like `com`: NSEC3 with opt-out, whose denial says no
//! more than that the name *may* be a zone without signatures (RFC 5155 §6). If that were not taken, their mail would
//! be held.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::delivery::connection::settings;
use crate::harness::namespaces::{As, inside};
use crate::harness::relay::wait_for;
use crate::harness::skipped::installed;
use postrider::config::{DnsSettings, Routes};
use postrider::delivery::route::dns::Resolver;
use postrider::delivery::route::lookup::{DnsError, Lookup as _};
use postrider::delivery::route::plan::{PlanRequest, plan};
use postrider::mail::Domain;

const PROGRAMS: [&str; 5] = ["named", "dnssec-signzone", "dnssec-keygen", "unbound", "dnsmasq"];

/// named listens only at addresses that an interface has: the servers' in `zones.sh`, and the resolvers'.
const ADDRESSES: &str =
    "for host in 1.1 1.2 1.3 3.1 3.2 3.3 3.4 3.5 3.6; do ip addr add 127.0.$host/8 dev lo; done";

/// Each at 127.0.3.N, from N = 1.
const RESOLVERS: [Kind; 6] = [
    Kind::Unbound { validates: true },
    Kind::Unbound { validates: false },
    Kind::Named { validates: true },
    Kind::Named { validates: false },
    Kind::Dnsmasq { before: 1 },
    Kind::Dnsmasq { before: 4 },
];

#[derive(Debug, Clone, Copy)]
enum Kind {
    Unbound { validates: bool },
    Named { validates: bool },
    Dnsmasq { before: usize },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// Mail goes, with the certificate that the TLSA record means.
    Dane,
    /// The MX records are proved, and their host is not in a signed zone: mail goes.
    ProvedMx,
    /// Mail goes as it does without DNSSEC.
    NotSigned,
    /// Mail waits.
    Held,
    /// Mail bounces: there is no such domain.
    NoDomain,
}

/// What each resolver's answers come to.
fn expected() -> Vec<(String, Outcome)> {
    let mut rows = Vec::new();
    for top in ["com", "org", "net", "de", "uk", "co.uk", "jp", "co.jp", "info"] {
        // Nothing in an unsigned top-level domain is signed.
        let signed = |outcome| if top == "info" { Outcome::NotSigned } else { outcome };
        rows.push((format!("signed.{top}"), signed(Outcome::Dane)));
        rows.push((format!("bogus.{top}"), signed(Outcome::Held)));
        rows.extend((1..=3).map(|n| (format!("unsigned{n}.{top}"), Outcome::NotSigned)));
        rows.push((format!("nowhere.{top}"), Outcome::NoDomain));
    }
    let others = [
        ("only.gov.uk", Outcome::NotSigned),
        ("island.com", Outcome::NotSigned),
        ("a.b.wild.org", Outcome::Dane),
        ("a.b.wild.net", Outcome::Dane),
        ("safe.aliases.com", Outcome::Dane),
        ("open.aliases.com", Outcome::NotSigned),
        ("bogus.aliases.com", Outcome::Held),
        ("safe.aliases.info", Outcome::NotSigned),
        ("toopen.com", Outcome::ProvedMx),
        ("tosafe.com", Outcome::NotSigned),
        ("nowhere.signed.com", Outcome::NoDomain),
        ("nowhere.signed.org", Outcome::NoDomain),
        ("nowhere.unsigned1.com", Outcome::NoDomain),
        ("nowhere", Outcome::NoDomain),
        // SHA-1, and keys of 1024 bits.
        ("old.com", Outcome::Dane),
        ("short.com", Outcome::Dane),
        ("long.com", Outcome::Dane),
        // RFC 4035 §5.2: by an algorithm that is not known here (Ed448).
        ("rare.com", Outcome::NotSigned),
    ];
    rows.extend(others.map(|(domain, outcome)| (domain.to_owned(), outcome)));
    rows
}

#[test]
fn signed_mail_is_proved_and_unsigned_mail_goes_whatever_resolver_is_asked() {
    if ![&PROGRAMS[..], &["ip"]].concat().into_iter().all(installed) || !inside(As::Root, ADDRESSES) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/delivery/resolvers/zones.sh");
    let made = Command::new("sh").arg(script).arg(folder).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let mut running = vec![start(folder, "authority", "named", &["-g", "-c", "authority.conf"])];
    running.extend((1..).zip(RESOLVERS).map(|(number, kind)| resolver(folder, number, kind)));
    let wrong: Vec<String> = std::thread::scope(|scope| {
        let asked: Vec<_> = (1..)
            .zip(RESOLVERS)
            .map(|(number, kind)| scope.spawn(move || wrong_of(folder, number, kind)))
            .collect();
        asked.into_iter().flat_map(|asked| asked.join().unwrap()).collect()
    });
    for child in &mut running {
        child.kill().and_then(|()| child.wait()).unwrap();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The rows that do not come out as they should.
fn wrong_of(folder: &Path, number: usize, kind: Kind) -> Vec<String> {
    let dns = DnsSettings {
        servers: vec![format!("127.0.3.{number}:53").parse::<std::net::SocketAddr>().unwrap().into()],
        timeout: Duration::from_secs(20),
        trust_anchor: Some(folder.join("anchor")),
    };
    let resolver = Resolver::new(&dns).unwrap();
    wait_for(&format!("{kind:?}"), Duration::from_secs(30), || resolver.mx("signed.com").ok());
    assert_eq!(resolver.validates(), Ok(()), "{kind:?}");
    let found =
        expected().into_iter().map(|(domain, outcome)| (outcome_of(&domain, &resolver), domain, outcome));
    let wrong = found.filter(|((found, _), _, outcome)| found != outcome);
    wrong
        .map(|(found, domain, outcome)| format!("{domain} by {kind:?}: {found:?}, not {outcome:?}"))
        .collect()
}

fn outcome_of(domain: &str, resolver: &Resolver) -> (Outcome, String) {
    let mut steps = String::new();
    let parsed = Domain::parse(domain).unwrap();
    let request = PlanRequest { domain: &parsed, user: None, attempts: 0, with_proof: false, dane: true };
    let mut settings = settings();
    settings.dane = true;
    let planned = plan(&request, &Routes::default(), &settings, resolver, &|_| 0, &mut |step| {
        steps += &format!("{step}; ");
    });
    let outcome = match planned {
        Ok(plan) if !plan.dane.is_empty() => Outcome::Dane,
        Ok(_) if steps.contains("are proved by DNSSEC") => Outcome::ProvedMx,
        Ok(_) => Outcome::NotSigned,
        Err(failure) => {
            steps += &format!("{failure:?}");
            let no_domain = resolver.mx(domain) == Err(DnsError::NoSuchDomain);
            if no_domain { Outcome::NoDomain } else { Outcome::Held }
        }
    };
    (outcome, steps)
}

fn start(folder: &Path, name: &str, program: &str, arguments: &[&str]) -> Child {
    let log = fs::File::create(folder.join(format!("{name}.log"))).unwrap();
    let mut command = Command::new(program);
    command.args(arguments).current_dir(folder).stdin(Stdio::null());
    command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
}

fn resolver(folder: &Path, number: usize, kind: Kind) -> Child {
    let name = format!("resolver{number}");
    let config = format!("{name}.conf");
    let path = |file: &str| folder.join(file).display().to_string();
    let write = |text: String| fs::write(folder.join(&config), text).unwrap();
    match kind {
        Kind::Unbound { validates } => {
            let modules = if validates { "validator iterator" } else { "iterator" };
            write(format!(
                "server:\n interface: 127.0.3.{number}@53\n do-daemonize: no\n use-syslog: no\n chroot: \"\"\n \
                 username: \"\"\n directory: \"\"\n pidfile: \"\"\n module-config: \"{modules}\"\n \
                 trust-anchor-file: {}\n root-hints: {}\n do-not-query-localhost: no\n do-ip6: no\n \
                 trust-anchor-signaling: no\nremote-control:\n control-enable: no\n",
                path("anchor"),
                path("hints"),
            ));
            start(folder, &name, "unbound", &["-d", "-c", &config])
        }
        Kind::Named { validates } => {
            fs::create_dir(folder.join(&name)).unwrap();
            let anchor = fs::read_to_string(folder.join("anchor")).unwrap();
            let (_, key) = anchor.trim().split_once(" 257 3 8 ").expect("a key of RSA and SHA-256");
            let validation = if validates { "yes" } else { "no" };
            write(format!(
                "options {{ directory \"{}\"; recursion yes; allow-recursion {{ any; }}; pid-file none; \
                 session-keyfile none; dnssec-validation {validation}; listen-on {{ 127.0.3.{number}; }}; \
                 listen-on-v6 {{ none; }}; }};\ncontrols {{ }};\nzone \".\" {{ type hint; file \"{}\"; }};\n\
                 trust-anchors {{ . static-key 257 3 8 \"{key}\"; }};\n",
                path(&name),
                path("hints"),
            ));
            start(folder, &name, "named", &["-g", "-c", &config])
        }
        Kind::Dnsmasq { before } => {
            let (listen, server) =
                (format!("--listen-address=127.0.3.{number}"), format!("--server=127.0.3.{before}"));
            let fixed = "--keep-in-foreground --conf-file=/dev/null --user=root --pid-file= --no-resolv --no-hosts \
                         --bind-interfaces";
            let arguments: Vec<&str> =
                fixed.split_whitespace().chain([listen.as_str(), server.as_str()]).collect();
            start(folder, &name, "dnsmasq", &arguments)
        }
    }
}
