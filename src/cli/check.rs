//! `postrider check`: what keeps the relay from working, and what will surprise its operator.
//!
//! A bad config is told as every command tells it (stderr, exit code 2). With a good one each
//! thing the relay depends on is looked at and gets a line: ok, warning or problem. Nothing is
//! changed, and nothing is created.
//!
//! With `--against-queue` it is the mail that waits (`check/against_queue.rs`).
//!
//! With `--domain` it is the domain that is looked at, as the world's mail hosts do (`check/domain.rs`).

mod against_queue;
pub(super) mod certificate;
pub(super) mod dkim;
mod domain;
pub(super) mod finding;
pub(super) mod lines;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;

use super::output::{WrongUsage, print};
use super::queue::full;
use super::user;
use crate::clock::Clock;
use crate::config::{self, BUILT_IN_DIRECTORY, Loaded, Problems, Settings, size_text};
use crate::delivery::route::dns::Resolver;
use crate::delivery::route::lookup::{DnsError, Lookup as _};
use crate::delivery::route::source_addresses;
use crate::mail::{Address, Domain, address};
use crate::queue::admin::{Admin, DiskRoom};
use crate::submission::users;

use finding::json;
pub(super) use finding::{Finding, Level};

/// Of a quota that is nearly reached.
const FULL_PERCENT: u128 = 90;

/// `postrider check`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Print a commented config file with every key and its default, and check nothing
    #[arg(long, conflicts_with = "json")]
    reference: bool,
    /// One JSON object, for programs
    #[arg(long)]
    json: bool,
    /// Look at what a reload with this config would change for the mail that waits, instead of at this machine
    ///
    /// Where it would go, and what would expire. Compared with the routes and lifetimes that the relay uses, or used
    /// last, as it wrote them into the queue. Exit code 0: compared, whatever would change (a warning each); 1: it
    /// cannot be compared; 2: the config is bad.
    #[arg(long, conflicts_with_all = ["reference", "domain"])]
    against_queue: bool,
    /// Look at what the world's mail hosts look at in mail from this domain, instead of at this machine
    ///
    /// Reverse names, SPF, DKIM, DMARC, MX, certificate; each with the exact DNS line to add. Takes less than five
    /// seconds, whoever does not answer.
    #[arg(long, value_name = "DOMAIN", conflicts_with = "reference")]
    domain: Option<String>,
    /// The domain of the envelope sender (MAIL FROM), where it is another than that of From
    #[arg(long, value_name = "DOMAIN", requires = "domain")]
    sender_domain: Option<String>,
    /// Connect to the hosts of this address too, as mail would; nothing is sent
    #[arg(long, value_name = "ADDRESS", requires = "domain")]
    to: Option<String>,
    /// The address that the world sees, where that is not one of this machine (NAT); may be given several times
    #[arg(long, value_name = "IP", requires = "domain")]
    address: Vec<IpAddr>,
}

impl Arguments {
    /// What `--domain` asks for; none without.
    fn question(&self) -> anyhow::Result<Option<Question>> {
        let Some(text) = &self.domain else { return Ok(None) };
        let parsed = |option: &str, text: &str| {
            let domain = Domain::parse(text).ok().filter(|domain| domain.ip().is_none());
            let wrong = || WrongUsage(format!("{text:?} is not a domain; such as {option} example.com"));
            domain.ok_or_else(wrong)
        };
        let domain = parsed("--domain", text)?;
        let sender = self.sender_domain.as_ref().map(|text| parsed("--sender-domain", text)).transpose()?;
        let to = self.to.as_deref().map(address::parse).transpose();
        let to = to.map_err(|error| WrongUsage(format!("--to: {error}; such as --to you@example.org")));
        Ok(Some(Question {
            sender: sender.unwrap_or_else(|| domain.clone()),
            domain,
            to: to?,
            outside: self.address.iter().map(outside).collect::<Result<_, _>>()?,
        }))
    }
}

/// An address that the world can see, as it is written there.
fn outside(ip: &IpAddr) -> Result<IpAddr, WrongUsage> {
    match domain::is_private(*ip) {
        true => Err(WrongUsage(format!(
            "--address: {ip} is private, the world sees another one; such as --address 192.0.2.10"
        ))),
        false => Ok(ip.to_canonical()),
    }
}

/// `check --domain`.
struct Question {
    /// Of From.
    domain: Domain,
    /// Of the envelope sender, mostly the same.
    sender: Domain,
    to: Option<Address>,
    /// The addresses that the world sees.
    outside: Vec<IpAddr>,
}

/// Problems were found and are printed: exit code 1 without a word more.
#[derive(Debug, thiserror::Error)]
#[error("problems were found")]
pub(crate) struct Found;

/// Runs `postrider check`. `config` is `--config`.
///
/// # Errors
/// A bad config, or that problems were found.
pub fn run(config: Option<&Path>, arguments: &Arguments) -> anyhow::Result<()> {
    if arguments.reference {
        return print(&config::reference());
    }
    let question = arguments.question()?;
    let loaded = match config::load(config) {
        Ok(loaded) => loaded,
        Err(problems) => {
            // The problems are the outcome, also where nobody reads them.
            let _ = arguments.json.then(|| print(&json(&findings_of(&problems))));
            return Err(problems.into());
        }
    };
    let findings = match &question {
        Some(question) => domain::look_at(&loaded, question).context("cannot look anything up")?,
        None if arguments.against_queue => against_queue::look_at(&loaded.settings),
        None => look_at(&loaded),
    };
    let printed = print(&if arguments.json { json(&findings) } else { finding::lines(&findings) });
    match findings.iter().any(|finding| finding.level == Level::Problem) {
        true => Err(Found.into()),
        false => printed,
    }
}

fn findings_of(problems: &Problems) -> Vec<Finding> {
    problems.0.iter().map(|problem| Finding::problem("config", problem.to_string())).collect()
}

fn look_at(loaded: &Loaded) -> Vec<Finding> {
    let settings = &loaded.settings;
    let mut findings = config_of(loaded);
    findings.push(hostname(&settings.hostname.to_string()));
    if let Some(tls) = &settings.submission.tls {
        findings.extend(certificate::look_at(tls, &settings.hostname));
    }
    findings.extend(users_of(settings));
    findings.extend(sources_of(settings));
    findings.extend(postmaster(settings));
    findings.push(database(settings));
    findings.extend(disk(settings));
    findings.extend(name_servers(settings));
    findings.extend(dnssec(settings));
    findings.extend(relays(settings));
    findings.extend(dkim_keys(settings));
    findings.push(descriptors(settings));
    findings
}

fn config_of(loaded: &Loaded) -> Vec<Finding> {
    let file = match loaded.is_built_in() {
        false => Finding::ok("config", loaded.origin()),
        true => {
            Finding::ok("config", format!("no file, built-in defaults: state in ./{BUILT_IN_DIRECTORY}/"))
        }
    };
    let warnings = loaded.warnings.iter().map(|warning| Finding::warning("config", warning.to_string()));
    std::iter::once(file).chain(warnings).collect()
}

/// What we call ourselves.
fn hostname(name: &str) -> Finding {
    let about = "hostname";
    if is_in_dns(name) {
        return Finding::ok(about, name.to_owned());
    }
    let (what, wanted) = match name.starts_with('[') {
        true => ("is an address", "relay".to_owned()),
        false => ("has no domain", name.to_owned()),
    };
    let text = format!(
        "{name} {what}, and many hosts refuse mail from such a name; give hostname = \"{wanted}.example.com\" as it is in \
         DNS"
    );
    Finding::warning(about, text)
}

/// Whether records of a name that we call ourselves can be in the DNS of the world.
fn is_in_dns(name: &str) -> bool {
    name.contains('.') && !name.starts_with('[')
}

/// Where it was lost, those who are in it are held to nothing on the sockets of this machine.
pub(super) fn users_missing(settings: &Settings) -> Option<String> {
    let path = &settings.submission.users_file;
    let has_socket = settings.submission.listen.iter().any(|listen| listen.address.path().is_some());
    let is_missing = matches!(path.metadata(), Err(error) if error.kind() == std::io::ErrorKind::NotFound);
    (has_socket && is_missing).then(|| {
        let name = path.display();
        format!(
            "{name} does not exist: on unix: listeners every user of this machine may send as anybody, without rate or \
             quota; put it back, or make an empty one where that is meant (touch {name})"
        )
    })
}

fn users_of(settings: &Settings) -> Vec<Finding> {
    let about = "users";
    let path = &settings.submission.users_file;
    let name = path.display();
    let users = match users::list(path) {
        Ok(users) => users,
        Err(error) => return vec![Finding::problem(about, error.to_string())],
    };
    let has_socket = settings.submission.listen.iter().any(|listen| listen.address.path().is_some());
    let trusts = has_socket || settings.submission.listen.iter().any(|listen| !listen.trusted.is_empty());
    let mut findings = vec![match users.len() {
        0 if !trusts => {
            let text = format!(
                "none in {name}, and no network is trusted: nobody can send mail; `postrider user add NAME`"
            );
            Finding::warning(about, text)
        }
        count => Finding::ok(about, format!("{count} in {name}")),
    }];
    findings.extend(users_missing(settings).map(|text| Finding::warning(about, text)));
    let mode = std::fs::metadata(path).map_or(0, |metadata| metadata.permissions().mode());
    if mode & 0o007 != 0 {
        let harm = match users.iter().find(|user| user.has_cram_md5()) {
            Some(user) => format!("log in as {} with CRAM-MD5", user.name),
            None => "guess passwords".to_owned(),
        };
        let text =
            format!("{name} can be read by every user of this machine, who can {harm} then; chmod o= {name}");
        findings.push(Finding::warning(about, text));
    }
    findings.extend(full_quotas(settings, &users));
    findings
}

/// Users who have nearly as much in the queue as they may: their next messages are refused.
fn full_quotas(settings: &Settings, users: &[Arc<users::User>]) -> Vec<Finding> {
    let limited: Vec<(&str, u64)> =
        users.iter().filter_map(|user| Some((user.name.as_str(), user.quota?.get()))).collect();
    let queued = if limited.is_empty() { None } else { user::queued(&settings.queue.path) };
    let queued = queued.unwrap_or_default();
    let full = limited.into_iter().filter_map(|(name, quota)| {
        let share = u128::from(*queued.get(name)?) * 100 / u128::from(quota);
        (share >= FULL_PERCENT).then(|| {
            let text = format!(
                "{name} has used {share} % of its quota of {}: its mail is refused (452) beyond it; see why it waits \
                 (`postrider queue summary`), or `postrider user set {name} --quota SIZE`",
                size_text(quota)
            );
            Finding::warning("users", text)
        })
    });
    full.collect()
}

/// The addresses that mail is to leave from, and the users for whom some are kept.
fn sources_of(settings: &Settings) -> Vec<Finding> {
    let about = "sources";
    let unusable =
        source_addresses::unusable(&settings.delivery, &settings.routes).into_iter().map(|(ip, error)| {
            Finding::problem(
                about,
                format!("nothing can be sent from {ip}: {error}; {}", source_addresses::REMEDY),
            )
        });
    let mut findings: Vec<Finding> = unusable.collect();
    // A file that cannot be read has its finding already.
    let known = users::list(&settings.submission.users_file).unwrap_or_default();
    let named: BTreeSet<&String> =
        settings.delivery.sources.iter().flat_map(|source| &source.users).collect();
    for name in named.into_iter().filter(|name| known.iter().all(|user| user.name != **name)) {
        let text =
            format!("[[source]] names the user {name}, who does not exist; `postrider user add {name}`");
        findings.push(Finding::warning(about, text));
    }
    findings
}

fn database(settings: &Settings) -> Finding {
    let about = "database";
    let path = &settings.queue.path;
    let name = path.display();
    match path.try_exists() {
        Ok(true) => match Admin::to_read(path).and_then(|queue| Ok((queue.damage()?, queue.summary(0)?))) {
            Ok((damage, all)) => match damage.first() {
                Some(damage) => Finding::problem(
                    about,
                    format!(
                        "{name} is damaged: {damage}; stop the relay, `postrider recover --held` puts what can be \
                         read into a fresh queue"
                    ),
                ),
                None => Finding::ok(
                    about,
                    format!("{name}: {} messages, {} recipients wait", all.messages, all.recipients),
                ),
            },
            Err(error) => Finding::problem(about, error.to_string()),
        },
        Ok(false) => {
            let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            let text = match directory.filter(|directory| !directory.is_dir()) {
                // systemd makes it for the unit (StateDirectory=), and `serve` where its user may.
                Some(directory) => format!(
                    "{name} does not exist yet; the first start creates it, and {} as well",
                    directory.display()
                ),
                None => format!("{name} does not exist yet; the first start creates it"),
            };
            Finding::ok(about, text)
        }
        Err(error) => Finding::problem(about, format!("{name}: {error}; run as the relay's user")),
    }
}

/// Where there is a database that can be read.
fn disk(settings: &Settings) -> Option<Finding> {
    let queue = Admin::to_read(&settings.queue.path).ok()?;
    let (room, fill) = (queue.disk_room().ok()?, queue.fill().ok()?);
    Some(match room {
        DiskRoom::Enough => {
            let text = fill.map_or_else(|| "there is room for new mail".to_owned(), |fill| full(&fill));
            Finding::ok("disk", text)
        }
        DiskRoom::NoBallast(why) => Finding::warning("disk", why),
        DiskRoom::Full(why) => Finding::problem("disk", format!("new mail is refused (452): {why}")),
    })
}

/// RFC 5321 §4.5.1: postmaster is a mailbox wherever mail for us is taken.
fn postmaster(settings: &Settings) -> Option<Finding> {
    let aliases = &settings.submission.aliases;
    let is_missing = !aliases.is_empty() && !aliases.contains_key("postmaster");
    is_missing.then(|| {
        let text = "there is no postmaster, who must have mail where others do (RFC 5321 §4.5.1); add \
                    postmaster = [\"you@example.com\"] to [aliases]";
        Finding::warning("aliases", text.to_owned())
    })
}

/// The hosts of `[[route]] relay`, asked for as deliveries do.
fn relays(settings: &Settings) -> Vec<Finding> {
    let about = "relays";
    let Ok(resolver) = Resolver::new(&settings.dns) else { return Vec::new() };
    let named =
        settings.routes.0.iter().flat_map(|route| &route.relay).filter(|relay| relay.host.ip().is_none());
    let names: BTreeSet<&str> = named.map(|relay| relay.host.as_str()).collect();
    let names: Vec<&str> = names.into_iter().collect();
    let answers = names.iter().zip(resolver.relay_addresses(&names));
    let finding = |(name, answer): (&&str, Result<Vec<IpAddr>, DnsError>)| match answer {
        Ok(addresses) if !addresses.is_empty() => {
            let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            Finding::ok(about, format!("{name} is {}", addresses.join(", ")))
        }
        Ok(_) | Err(DnsError::NoSuchDomain | DnsError::NoData) => Finding::problem(
            about,
            format!("{name} has no address: all mail of its [[route]] waits; correct the name in relay"),
        ),
        Err(DnsError::Temporary(why) | DnsError::Bogus(why)) => {
            Finding::warning(about, format!("{name} cannot be looked up: {why}"))
        }
    };
    answers.map(finding).collect()
}

/// Keys, their records and their times.
fn dkim_keys(settings: &Settings) -> Vec<Finding> {
    // Where there is no resolver that has its finding already.
    let Ok(resolver) = Resolver::new(&settings.dns) else { return Vec::new() };
    dkim::look_at(settings, &resolver, Clock::system().now())
}

/// Any answer will do, also that there is no such name: it says that somebody answers. Then whether the world finds
/// what we call ourselves.
fn name_servers(settings: &Settings) -> Vec<Finding> {
    let about = "dns";
    let resolver = match Resolver::new(&settings.dns) {
        Ok(resolver) => resolver,
        Err(error) => {
            return vec![Finding::problem(about, format!("cannot ask: {error}; set [dns] servers"))];
        }
    };
    let servers: Vec<String> = resolver.servers().iter().map(ToString::to_string).collect();
    let servers = servers.join(", ");
    let name = settings.hostname.as_str();
    match resolver.mx(name) {
        Err(DnsError::Temporary(why) | DnsError::Bogus(why)) => vec![Finding::problem(
            about,
            format!("{servers}: {why}; mail by MX waits until this works; mend it or set [dns] servers"),
        )],
        Ok(_) | Err(DnsError::NoSuchDomain | DnsError::NoData) => {
            let answers = Finding::ok(about, format!("{servers} answers"));
            let is_missing = is_in_dns(name)
                && matches!(resolver.addresses(name), Err(DnsError::NoSuchDomain | DnsError::NoData));
            let missing = is_missing.then(|| {
                let text = format!(
                    "{name} has no address in DNS, and many hosts refuse mail from such a name; give it one, or another \
                     hostname"
                );
                Finding::warning("hostname", text)
            });
            std::iter::once(answers).chain(missing).collect()
        }
    }
}

/// Whether DANE can work; none where it is not wanted.
fn dnssec(settings: &Settings) -> Option<Finding> {
    let is_wanted = settings.delivery.dane && settings.routes.leave_some_to_policies();
    let resolver = is_wanted.then(|| Resolver::new(&settings.dns).ok()).flatten()?;
    Some(match resolver.validates() {
        Ok(()) => Finding::ok("dnssec", "answers come with signatures: DANE is on".to_owned()),
        Err(why) => Finding::warning(
            "dnssec",
            format!(
                "{why}: DANE is off; let [dns] servers name servers that pass DNSSEC on (unbound on this machine), or set \
                 [delivery] dane = false"
            ),
        ),
    })
}

/// Descriptors that the relay may need at once: two for each session and worker (the connection, and the
/// database), and some for the listeners, the log, the database and connections that are kept.
pub(crate) fn descriptors_wanted(settings: &Settings) -> u64 {
    2 * (settings.submission.limits.sessions + settings.delivery.workers) as u64 + 512
}

fn descriptors(settings: &Settings) -> Finding {
    let about = "descriptors";
    let wanted = descriptors_wanted(settings);
    match rlimit::getrlimit(rlimit::Resource::NOFILE) {
        Ok((_, hard)) if hard >= wanted => {
            Finding::ok(about, format!("{wanted} may be needed, {hard} are allowed"))
        }
        Ok((_, hard)) => {
            let text = format!(
                "{wanted} may be needed, only {hard} are allowed; raise LimitNOFILE, or lower limits.sessions or delivery.workers"
            );
            Finding::warning(about, text)
        }
        Err(error) => Finding::warning(about, format!("the limit cannot be read: {error}")),
    }
}
