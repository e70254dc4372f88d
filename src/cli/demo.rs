//! `postrider demo`: the main job end to end on loopback, with no network and no config.
//!
//! The relay is the one that `serve` starts, on a fresh queue with a self-signed certificate. Round it stand three
//! receiving hosts that behave differently, and a table of their names; lettre's `SmtpTransport` plays the
//! application.
//! What is shown of the queue is what `sqlite3` would show: it is read with the same statements.

mod hosts;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use ipnet::{IpNet, Ipv4Net};
use lettre::message::{Mailbox, Message, header::ContentType};
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{Certificate, SmtpConnection, Tls, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use lettre::{SmtpTransport, Transport as _};

use crate::clock::Clock;
use crate::config::{
    self, CertificateSettings, ListenSettings, ListenTls, ProhibitedEntry, ProhibitedNetworks, Settings,
    SocketAccess,
};
use crate::delivery::route::lookup::{DnsError, Lookup, MxRecords};
use crate::queue::admin::{Admin, Filter, Line, ShownRecipient};
use crate::submission::users;

use super::output;
use super::serve::Relay;
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

/// As `println!`, by [`output::tell`].
macro_rules! tell {
    ($($text:tt)*) => { output::tell(&format!($($text)*)) };
}

/// Runs the demo.
///
/// # Errors
/// Where a step does not come out as it should; what was expected is said.
pub fn run() -> anyhow::Result<()> {
    let began = Instant::now();
    let directory = tempfile::Builder::new().prefix("postrider-demo-").tempdir()?.keep();
    let stage = Stage::set(&directory)?;
    tell!("Postrider demo: a real relay on loopback; no network, no config. It takes a few seconds.\n");
    stage.introduce();
    stage.submit()?;
    stage.show_after_the_first_round()?;
    stage.kick()?;
    stage.show_the_bounce()?;
    stage.show_the_end()?;
    let stage_queue = stage.settings.queue.path.clone();
    stage.relay.stop()?;
    tell!("\nDone in {:.1} s. The database is yours to look into:", began.elapsed().as_secs_f64());
    tell!("    sqlite3 -readonly {} 'SELECT * FROM failures'", stage_queue.display());
    tell!("\nNext: `postrider serve` starts a relay of your own, also without a config file.");
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

    fn introduce(&self) {
        tell!("  relay        {} (STARTTLS, AUTH as {USER:?}, self-signed certificate)", self.address);
        for (domain, mx, ip, manner) in HOSTS {
            let does = match manner {
                Manner::Accepts => "takes everything",
                Manner::Greylists => "says 451 the first time, then takes it",
                Manner::Refuses => "says 550: no such user",
            };
            tell!("  {domain:<12} MX {mx} at {ip}:{} {does}", self.settings.delivery.port);
        }
    }

    fn tls(&self) -> anyhow::Result<TlsParameters> {
        let root = Certificate::from_pem(&self.certificate)?;
        Ok(TlsParameters::builder("localhost".to_owned()).add_root_certificate(root).build()?)
    }

    fn credentials(&self) -> Credentials {
        Credentials::new(USER.to_owned(), self.password.clone())
    }

    fn submit(&self) -> anyhow::Result<()> {
        heading("An application submits three messages (lettre's SmtpTransport, STARTTLS, AUTH)");
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
        tell!("  Each 250 came after an fsync: from here on no kill -9 and no power cut loses the message.");
        Ok(())
    }

    fn show_after_the_first_round(&self) -> anyhow::Result<()> {
        heading("A moment later: one is delivered, one was put off, one came back");
        self.until("the first round to end", |waiting, finished| {
            finished.len() >= 2 && waiting.iter().all(|line| line.attempts > 0)
        })?;
        self.show_queue()?;
        tell!("\n  $ sqlite3 -readonly queue.db \"SELECT address, state, reply FROM history\"");
        for line in self.finished()? {
            tell!("  {}|{}|{}", line.recipient, line.state, line.last_reply.unwrap_or_default());
        }
        Ok(())
    }

    fn kick(&self) -> anyhow::Result<()> {
        heading("ETRN grey.test: try now what waits for it (RFC 1985)");
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
        heading("The bounce that came back to the application (RFC 3464)");
        let mail = self.hosts[0].wait_for(2, STEP_MAX);
        let bounce = mail.iter().find(|mail| mail.contains("multipart/report"));
        let Some(bounce) = bounce else { bail!("no bounce arrived at {SENDER}") };
        let told = bounce.lines().take_while(|line| !line.starts_with("Content-Type: text/rfc822-headers"));
        told.for_each(|line| tell!("  | {line}"));
        Ok(())
    }

    fn show_the_end(&self) -> anyhow::Result<()> {
        heading("At the end the queue is empty, and every try is on record");
        self.until("the queue to empty", |waiting, _| waiting.is_empty())?;
        self.show_queue()?;
        tell!(
            "\n  $ sqlite3 -readonly queue.db \"SELECT address, phase, outcome, a.reply FROM attempts a JOIN history USING (recipient_id)\""
        );
        let queue = Admin::to_read(&self.settings.queue.path)?;
        for line in self.finished()? {
            let shown = queue.show(line.queue_id.parse()?)?.context("a finished message is not shown")?;
            for ShownRecipient { line, tries } in &shown.recipients {
                let to = &line.recipient;
                tries.iter().for_each(|t| tell!("  {to}|{}|{}|{}", t.phase, t.outcome, t.reply));
            }
        }
        Ok(())
    }

    fn show_queue(&self) -> anyhow::Result<()> {
        tell!(
            "  $ sqlite3 -readonly queue.db \"SELECT recipient, state, attempts, next_attempt, last_reply FROM queue\""
        );
        let waiting = self.lines(None)?;
        for line in &waiting {
            let next = line.next_attempt.as_deref().unwrap_or_default();
            let reply = line.last_reply.as_deref().unwrap_or_default();
            tell!("  {}|{}|{}|{next}|{reply}", line.recipient, line.state, line.attempts);
        }
        if waiting.is_empty() {
            tell!("  (no rows)");
        }
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

fn heading(text: &str) {
    tell!("\n== {text}");
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
