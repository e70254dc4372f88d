//! `postrider demo`: the main job end to end on loopback, with no network and no config.
//!
//! The relay is the one that `serve` starts, on a fresh queue with a self-signed certificate. Round it stand three
//! receiving hosts that behave differently, and a table of their names; lettre's `SmtpTransport` plays the
//! application. What is shown of the queue is what `postrider queue` prints of it. Every step fits a screen of 80
//! columns. At a terminal it waits at the end, so that the status page can be looked at. Nothing is left behind, also
//! where nobody reads to the end (`postrider demo | head`) or somebody presses Ctrl-C.

mod hosts;

use std::io::{IsTerminal as _, stdin, stdout};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Parser;
use ipnet::{IpNet, Ipv4Net};
use lettre::message::{Mailbox, Message, header::ContentType};
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{Certificate, SmtpConnection, Tls, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use lettre::{SmtpTransport, Transport as _};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::clock::Clock;
use crate::config::{
    self, CertificateSettings, ListenAddress, ListenSettings, ListenTls, ProhibitedEntry, ProhibitedNetworks,
    Settings, SocketAccess,
};
use crate::delivery::route::lookup::{DnsError, Lookup, MxRecords};
use crate::queue::admin::{Admin, Filter, Line};
use crate::submission::users;

use super::output;
use super::queue::QueueArgs;
use super::serve::Relay;
use super::table::Look;
use hosts::{Host, Manner};

/// No step of the demo waits longer.
const STEP_MAX: Duration = Duration::from_secs(8);
const USER: &str = "app";
const SENDER: &str = "shop@app.test";
const SENDER_DOMAIN: &str = "app.test";

/// The receiving domains: name, MX host, its address on loopback, how it behaves.
const HOSTS: [(&str, &str, Ipv4Addr, Manner); 3] = [
    ("accept.test", "mx.accept.test", Ipv4Addr::new(127, 0, 0, 2), Manner::Accepts),
    ("grey.test", "mx.grey.test", Ipv4Addr::new(127, 0, 0, 3), Manner::Greylists),
    ("refuse.test", "mx.refuse.test", Ipv4Addr::new(127, 0, 0, 4), Manner::Refuses),
];

/// As `println!`, in a function whose errors end the demo: one is that nobody reads any more.
macro_rules! tell {
    ($($text:tt)*) => { output::print(&(format!($($text)*) + "\n"))? };
}

/// What stands behind `postrider queue`.
#[derive(Debug, Parser)]
struct QueueCommand {
    #[command(flatten)]
    args: QueueArgs,
}

/// Runs the demo; `is_kept` leaves its queue behind.
///
/// # Errors
/// Where a step does not come out as it should; what was expected is said.
pub fn run(is_kept: bool) -> anyhow::Result<()> {
    let began = Instant::now();
    let directory = tempfile::Builder::new().prefix("postrider-demo-").tempdir()?;
    if !is_kept {
        leave_nothing_at_a_signal(directory.path())?;
    }
    let stage = Stage::set(directory.path())?;
    let queue = stage.settings.queue.path.clone();
    let played = stage.play().and_then(|()| stage.wait_for_a_look());
    stage.relay.stop()?;
    played?;
    tell!("Done in {:.1} s.", began.elapsed().as_secs_f64());
    if is_kept {
        let _ = directory.keep();
        tell!("The queue is yours to look into:");
        tell!("  sqlite3 -readonly {} 'SELECT * FROM failures'", queue.display());
    } else {
        tell!("Nothing is left of it; `postrider demo --keep` leaves the queue to look into.");
    }
    tell!("Next: `postrider serve` starts a relay of your own, also without a config file.");
    Ok(())
}

/// Ctrl-C ends it at once, in the middle of a step, too.
fn leave_nothing_at_a_signal(directory: &Path) -> anyhow::Result<()> {
    let directory = directory.to_owned();
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        let Some(signal) = signals.forever().next() else { return };
        // The relay may be making a file there at this moment.
        while directory.exists() && std::fs::remove_dir_all(&directory).is_err() {}
        // As a shell counts it.
        std::process::exit(128 + signal);
    })?;
    Ok(())
}

/// As `prohibited_networks = ["!127.0.0.0/8"]`.
fn loopback_allowed() -> ProhibitedNetworks {
    let loopback = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8));
    ProhibitedNetworks::new(vec![ProhibitedEntry::Take(loopback)], false)
}

/// The names of the demo, instead of DNS.
struct Names;

impl Lookup for Names {
    fn mx(&self, domain: &str) -> Result<MxRecords, DnsError> {
        // Bounces go back to the application's own domain: the host that accepts takes its mail too.
        let host = if domain == SENDER_DOMAIN {
            Some(&HOSTS[0])
        } else {
            HOSTS.iter().find(|host| host.0 == domain)
        };
        let records = |mx: &str| MxRecords { hosts: vec![(10, mx.to_owned())], ..MxRecords::default() };
        host.map(|(_, mx, ..)| records(mx)).ok_or(DnsError::NoSuchDomain)
    }

    fn addresses(&self, hosts: &[&str]) -> Vec<Result<Vec<IpAddr>, DnsError>> {
        let address = |name: &&str| {
            let host = HOSTS.iter().find(|(_, mx, ..)| mx == name);
            host.map(|(_, _, ip, _)| vec![IpAddr::V4(*ip)]).ok_or(DnsError::NoSuchDomain)
        };
        hosts.iter().map(address).collect()
    }

    fn txt(&self, _: &str) -> Result<Vec<String>, DnsError> {
        Err(DnsError::NoSuchDomain)
    }

    fn reverse(&self, _: IpAddr) -> Result<Vec<String>, DnsError> {
        Err(DnsError::NoSuchDomain)
    }
}

/// Everything that plays a part.
struct Stage {
    relay: Relay,
    hosts: Vec<Host>,
    settings: Settings,
    address: SocketAddr,
    password: String,
    certificate: Vec<u8>,
}

impl Stage {
    fn set(directory: &Path) -> anyhow::Result<Stage> {
        let port = free_port_on_all()?;
        let start = |(_, mx, ip, manner)| Host::start(mx, SocketAddr::from((ip, port)), manner);
        let hosts = HOSTS.map(start).into_iter().collect::<Result<Vec<Host>, _>>();
        let hosts = hosts.context("start a receiving host")?;
        let mut settings = config::built_in(directory)?.settings;
        settings.submission.listen = vec![ListenSettings {
            address: SocketAddr::from(([127, 0, 0, 1], 0)).into(),
            access: SocketAccess::default(),
            local_users: false,
            tls: ListenTls::Starttls,
            auth_required: true,
            trusted: Vec::new(),
        }];
        settings.metrics.listen = vec![SocketAddr::from(([127, 0, 0, 1], 0)).into()];
        settings.delivery.port = port;
        // The receiving hosts stand on loopback, where a relay delivers nothing by default.
        settings.delivery.prohibited_networks = loopback_allowed();
        let password = users::random_password()?;
        std::fs::create_dir_all(directory.join(config::BUILT_IN_DIRECTORY))?;
        users::add(&settings.submission.users_file, USER, &password, &users::Attributes::default())?;
        let relay = Relay::start_with(&settings, Clock::system(), Arc::new(Names), Vec::new())?;
        let address = *relay.addresses().first().context("the relay listens nowhere")?;
        let Some(CertificateSettings::SelfSigned { directory }) = &settings.submission.tls else {
            bail!("the built-in settings have no self-signed certificate");
        };
        let (certificate, _) = crate::submission::tls::self_signed_paths(directory);
        let certificate = std::fs::read(certificate)?;
        Ok(Stage { relay, hosts, settings, address, password, certificate })
    }

    fn play(&self) -> anyhow::Result<()> {
        let steps: [fn(&Stage) -> anyhow::Result<()>; 6] = [
            Stage::introduce,
            Stage::submit,
            Stage::show_after_the_first_round,
            Stage::kick,
            Stage::show_the_bounce,
            Stage::show_the_end,
        ];
        for step in steps {
            step(self)?;
            tell!("");
        }
        Ok(())
    }

    fn introduce(&self) -> anyhow::Result<()> {
        tell!("Postrider demo: a real relay on loopback, without network or config.\n");
        tell!("  relay        {} (STARTTLS, AUTH as {USER:?}, self-signed)", self.address);
        tell!("  status page  {}", self.status_page());
        for (domain, mx, ip, manner) in HOSTS {
            let does = match manner {
                Manner::Accepts => "takes everything",
                Manner::Greylists => "says 451 the first time",
                Manner::Refuses => "says 550: no such user",
            };
            tell!("  {domain:<12} MX {mx} at {ip}:{} {does}", self.settings.delivery.port);
        }
        Ok(())
    }

    fn tls(&self) -> anyhow::Result<TlsParameters> {
        let root = Certificate::from_pem(&self.certificate)?;
        Ok(TlsParameters::builder("localhost".to_owned()).add_root_certificate(root).build()?)
    }

    fn credentials(&self) -> Credentials {
        Credentials::new(USER.to_owned(), self.password.clone())
    }

    fn submit(&self) -> anyhow::Result<()> {
        heading("An application submits three messages by SMTP, with STARTTLS and AUTH")?;
        let transport = SmtpTransport::builder_dangerous("127.0.0.1")
            .port(self.address.port())
            .tls(Tls::Required(self.tls()?))
            .credentials(self.credentials())
            .build();
        for (domain, ..) in HOSTS {
            let to = format!("customer@{domain}");
            let message = Message::builder()
                .from(SENDER.parse::<Mailbox>()?)
                .to(to.parse()?)
                .subject(format!("Your order, {domain}"))
                .header(ContentType::TEXT_PLAIN)
                .body("Thank you for your order.\n".to_owned())?;
            let response = transport.send(&message).with_context(|| format!("submit to {to}"))?;
            let text: Vec<&str> = response.message().collect();
            tell!("  to {to:<22} {} {}", response.code(), text.join(" "));
        }
        tell!("  Each 250 came after an fsync: no kill -9 and no power cut loses them now.");
        Ok(())
    }

    fn show_after_the_first_round(&self) -> anyhow::Result<()> {
        heading("A moment later: one is delivered, one was put off, one came back")?;
        self.until("the first round to end", |waiting, finished| {
            finished.len() >= 2 && waiting.iter().all(|line| line.attempts > 0)
        })?;
        self.show(&["list"])?;
        tell!("");
        self.show(&["list", "--state", "delivered"])?;
        tell!("");
        self.show(&["list", "--state", "failed"])
    }

    fn kick(&self) -> anyhow::Result<()> {
        heading("ETRN grey.test: try now what waits for it (RFC 1985)")?;
        let hello = ClientId::Domain("app.test".to_owned());
        let mut connection = SmtpConnection::connect(self.address, Some(STEP_MAX), &hello, None, None)?;
        connection.starttls(&self.tls()?, &hello)?;
        connection.auth(&[Mechanism::Plain], &self.credentials())?;
        let response = connection.command("ETRN grey.test\r\n")?;
        tell!("  C: ETRN grey.test");
        tell!("  S: {} {}", response.code(), response.message().collect::<Vec<_>>().join(" "));
        connection.quit()?;
        if self.hosts[1].wait_for(1, STEP_MAX).is_empty() {
            bail!("grey.test did not get its message after the kick");
        }
        tell!("  grey.test has its message now.");
        Ok(())
    }

    fn show_the_bounce(&self) -> anyhow::Result<()> {
        heading("The bounce that came back to the application (RFC 3464)")?;
        let mail = self.hosts[0].wait_for(2, STEP_MAX);
        let bounce = mail.iter().find(|mail| mail.contains("multipart/report"));
        let Some(bounce) = bounce else { bail!("no bounce arrived at {SENDER}") };
        for line in of_a_bounce(bounce) {
            tell!("  {}", format!("| {line}").trim_end());
        }
        Ok(())
    }

    fn show_the_end(&self) -> anyhow::Result<()> {
        heading("At the end the queue is empty, and what became of all mail is on record")?;
        self.until("the queue to empty", |waiting, _| waiting.is_empty())?;
        self.show(&["list"])?;
        tell!("");
        self.show(&["list", "--state", "delivered"])?;
        tell!("  `postrider queue show ID` tells each try of a message.");
        Ok(())
    }

    fn status_page(&self) -> String {
        let at = self.relay.watched_at();
        at.iter().filter_map(ListenAddress::ip).map(|ip| format!("http://{ip}/")).collect()
    }

    /// The status page goes with the relay.
    fn wait_for_a_look(&self) -> anyhow::Result<()> {
        if stdin().is_terminal() && stdout().is_terminal() {
            tell!("Look at {} in a browser; Enter ends the demo.", self.status_page());
            stdin().read_line(&mut String::new())?;
        }
        Ok(())
    }

    /// What `postrider queue` prints.
    fn show(&self, words: &[&str]) -> anyhow::Result<()> {
        let mut shown = Vec::new();
        let command = QueueCommand::try_parse_from([&["queue"], words].concat())?;
        super::queue::run(&command.args, None, &self.settings.queue.path, &mut shown)?;
        tell!("{}", Look::of_stdout().heading(&format!("$ postrider queue {}", words.join(" "))));
        tell!("{}", String::from_utf8_lossy(&shown).trim_end());
        Ok(())
    }

    fn lines(&self, state: Option<&str>) -> anyhow::Result<Vec<Line>> {
        let filter = Filter { state: state.map(str::to_owned), ..Filter::all() };
        Ok(Admin::to_read(&self.settings.queue.path)?.list(&filter, 100)?)
    }

    fn finished(&self) -> anyhow::Result<Vec<Line>> {
        let mut finished = self.lines(Some("delivered"))?;
        finished.extend(self.lines(Some("failed"))?);
        Ok(finished)
    }

    /// Waits until the queue looks as it should.
    fn until(&self, what: &str, is_so: impl Fn(&[Line], &[Line]) -> bool) -> anyhow::Result<()> {
        let deadline = Instant::now() + STEP_MAX;
        loop {
            if is_so(&self.lines(None)?, &self.finished()?) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                bail!("waited {} s for {what}; see the database", STEP_MAX.as_secs());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn heading(text: &str) -> anyhow::Result<()> {
    tell!("{}", Look::of_stdout().heading(&format!("== {text}")));
    Ok(())
}

/// The lines of a bounce that tell most: of its header, all of the part for people, of the part for programs what
/// became of the recipient.
fn of_a_bounce(bounce: &str) -> Vec<&str> {
    const HEADER: [&str; 4] = ["From:", "To:", "Subject:", "Content-Type:"];
    const FIELDS: [&str; 4] = ["Final-Recipient:", "Status:", "Remote-MTA:", "Diagnostic-Code:"];
    let is_of = |names: &[&str], line: &str| names.iter().any(|name| line.starts_with(name));
    let mut lines = bounce.lines();
    let header = lines.by_ref().take_while(|line| !line.is_empty()).filter(|line| is_of(&HEADER, line));
    let mut told: Vec<&str> = header.collect();
    let mut parts = [Vec::new(), Vec::new()];
    for part in &mut parts {
        lines.by_ref().find(|line| line.is_empty());
        part.extend(lines.by_ref().take_while(|line| !line.starts_with("--")));
    }
    let [text, fields] = &parts;
    told.push("");
    told.extend(text);
    told.extend(fields.iter().filter(|line| is_of(&FIELDS, line)));
    told
}

/// A port that is free on the address of every receiving host.
fn free_port_on_all() -> anyhow::Result<u16> {
    for _ in 0..100 {
        let first = TcpListener::bind((HOSTS[0].2, 0))?;
        let port = first.local_addr()?.port();
        if HOSTS[1..].iter().all(|(_, _, ip, _)| TcpListener::bind((*ip, port)).is_ok()) {
            return Ok(port);
        }
    }
    bail!("no port is free on 127.0.0.2 to 127.0.0.4; the demo needs loopback addresses, which Linux has")
}
