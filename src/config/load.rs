//! From the text of a config file to [`Settings`], or to every problem it has.
//!
//! Each key is asked for once, by the name it has in `defs.rs`, and handed to the room that uses
//! it. Files named in a config are looked for here (a missing one is a problem of the config);
//! `password_file` and `token_file` are read, to see whether there is something in them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::defs::ALIASES;
use super::environment::Environment;
use super::listen::SocketAccess;
use super::networks::ProhibitedNetworks;
use super::problem::{Problem, Problems};
use super::reading::{Reading, Section};
use super::secret::SecretSource;
use super::settings::*;
use super::twice::Twice;
use super::{cross, dkim, metrics, sources, value};
use crate::mail::{Address, Domain, Lifetimes, address};

/// Reads `source`, the text of `file`, and the environment. `certificate` stands in for `[tls]` (the start without
/// a config file).
///
/// # Errors
/// Every problem, in the order of the lines.
pub(super) fn read(
    file: &Path,
    source: &str,
    environment: &Environment,
    certificate: Option<&CertificateSettings>,
) -> Result<(Settings, Vec<Problem>), Problems> {
    let mut reading = Reading::new(file, source, environment);
    let table = table(&mut reading, source, environment);
    let settings = table.as_ref().map(|table| settings(&mut reading, table.get_ref(), certificate));
    let Reading { mut problems, mut warnings, .. } = reading;
    let in_file_order = |problem: &Problem| problem.line;
    problems.sort_by_key(in_file_order);
    warnings.sort_by_key(in_file_order);
    match settings {
        Some(settings) if problems.is_empty() => Ok((settings, warnings)),
        _ => Err(Problems(problems)),
    }
}

/// With the variables in it; none where it is no TOML.
pub(super) fn table<'t>(
    reading: &mut Reading<'t>,
    source: &'t str,
    environment: &'t Environment,
) -> Option<Spanned<DeTable<'t>>> {
    let (mut table, errors) = DeTable::parse_recoverable(source);
    let duplicate = |error: &toml::de::Error| {
        error
            .span()
            .filter(|_| error.message() == "duplicate key")
            .map(|span| Twice::of(source, table.get_ref(), span))
    };
    let is_list_twice = errors.iter().filter_map(duplicate).any(|twice| twice.is_list());
    for error in &errors {
        let at = error.span().map_or(0, |span| span.start);
        match duplicate(error) {
            // The keys of the second table are told too, as if they stood in the first.
            Some(Twice { header: None, .. }) if is_list_twice => {}
            Some(twice) => {
                let text = twice.text(|at| reading.line(at));
                reading.problem_at(at, &twice.key, text);
            }
            None => {
                let text = format!("TOML syntax: {}; correct it, the rest is checked then", error.message());
                reading.problem_at(at, "", text);
            }
        }
    }
    for (at, key, text) in environment.put_into(table.get_mut(), source.len()) {
        reading.problem_at(at, &key, text);
    }
    // Half a file would have problems that the whole one has not.
    errors.is_empty().then_some(table)
}

fn settings<'t>(
    reading: &mut Reading<'t>,
    table: &'t DeTable<'t>,
    certificate: Option<&CertificateSettings>,
) -> Settings {
    let root = Section::root(table);
    reading.known_tables(&root);
    let hostname = hostname(reading, &root);

    let queue = reading.section(&root, "queue");
    let queue_settings = queue_of(reading, &queue);

    let listen = listeners(reading, &root);
    cross::listeners(reading, &listen);
    let addresses: Vec<_> = listen.iter().map(|(_, settings)| settings.address.clone()).collect();
    let tls = match certificate {
        Some(certificate) => Some(certificate.clone()),
        None => tls_files(reading, &root, &listen),
    };

    let routes = routes(reading, &root);
    cross::routes(reading, &routes);
    let route_sources: Vec<_> =
        routes.iter().map(|(section, route)| (*section, route.source_addresses.clone())).collect();
    let routes = Arc::new(Routes(routes.into_iter().map(|(_, route)| route).collect()));

    let destinations = Arc::new(destinations(reading, &root));

    let retry = reading.section(&root, "retry");
    let retry_rules = retry_rules(reading, &retry);
    let schedule = reading.get(&retry, "schedule", value::list(value::duration));
    let submission = submission(reading, &root, &queue, &hostname, listen, tls);
    let delivery_section = reading.section(&root, "delivery");
    let mut delivery = delivery(reading, &delivery_section, &queue, &hostname, &destinations, retry_rules);
    delivery.lifetimes.messages = secs(submission.lifetime);
    let listed = [&[(delivery_section, delivery.source_addresses.clone())], &*route_sources].concat();
    delivery.tlsrpt = tlsrpt(reading, &root);
    delivery.listen = submission.listen.iter().filter_map(|listen| listen.address.ip()).collect();
    delivery.sources = sources::read(reading, &root, &listed);
    delivery.keyring = Arc::new(dkim::read(reading, &root, &delivery_section));
    cross::times(reading, &queue, &retry, submission.lifetime, delivery.delay_warning, &schedule);
    Settings {
        queue: queue_settings,
        submission,
        dns: dns(reading, &root),
        scheduler: SchedulerSettings {
            workers: delivery.workers,
            connections_per_destination: delivery.connections_per_destination,
            recipients_per_transaction: count(reading, &delivery_section, "recipients_per_transaction"),
            schedule,
            longest_rule_delay: delivery
                .retry_rules
                .iter()
                .filter_map(RetryRule::delay)
                .max()
                .unwrap_or_default(),
            lifetimes: delivery.lifetimes,
            routes: routes.clone(),
            destinations,
        },
        delivery,
        routes,
        hostname,
        log: log(reading, &root),
        metrics: metrics::read(reading, &root, &addresses),
    }
}

fn queue_of<'t>(reading: &mut Reading<'t>, queue: &Section<'t>) -> QueueSettings {
    let path = reading.get(queue, "path", value::file);
    let path = reading.beside_config(path);
    cross::queue_directory(reading, queue, &path);
    QueueSettings {
        path,
        history: reading.get(queue, "history", value::duration),
        litestream: reading.get(queue, "checkpoints", value::choice) == "litestream",
    }
}

fn log<'t>(reading: &mut Reading<'t>, root: &Section<'t>) -> LogSettings {
    let section = reading.section(root, "log");
    LogSettings {
        json: reading.get(&section, "format", value::choice) == "json",
        mask_addresses: reading.get(&section, "mask_addresses", value::flag),
    }
}

/// A [`Kind::Number`](super::defs::Kind::Number) that counts things in memory.
fn count<'t>(reading: &mut Reading<'t>, section: &Section<'t>, key: &str) -> usize {
    let number = reading.get(section, key, value::number);
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn secs(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

fn hostname<'t>(reading: &mut Reading<'t>, root: &Section<'t>) -> Domain {
    if root.gives("hostname") {
        let given = reading.given(root, "hostname", value::host);
        return given.unwrap_or_else(local_name);
    }
    let name = hostname::get().ok().and_then(|name| name.into_string().ok()).unwrap_or_default();
    Domain::parse(&name).unwrap_or_else(|_| {
        let text = format!(
            "the machine's name \"{name}\" is not a host name; give hostname = \"relay.example.com\""
        );
        reading.problem(root, "hostname", text);
        local_name()
    })
}

/// Stands in for a name that could not be had; the config is refused then.
fn local_name() -> Domain {
    Domain::parse("localhost").expect("a label")
}

pub(super) fn listeners<'t>(
    reading: &mut Reading<'t>,
    root: &Section<'t>,
) -> Vec<(Section<'t>, ListenSettings)> {
    let Some(mut sections) = reading.sections(root, "listen") else { return Vec::new() };
    if sections.is_empty() {
        sections.push(Section::absent("listen"));
    }
    sections
        .into_iter()
        .map(|section| {
            let address = reading.get(&section, "address", value::socket);
            let local_users = address.path().is_some();
            let settings = ListenSettings {
                address,
                access: SocketAccess {
                    mode: reading
                        .given(&section, "mode", value::mode)
                        .unwrap_or(SocketAccess::default().mode),
                    group: reading.given(&section, "group", value::plain),
                },
                local_users,
                tls: match reading.get(&section, "tls", value::choice) {
                    // Nobody can listen in.
                    _ if local_users => ListenTls::Off,
                    "implicit" => ListenTls::Implicit,
                    "off" => ListenTls::Off,
                    _ => ListenTls::Starttls,
                },
                auth_required: reading.get(&section, "auth", value::choice) == "required",
                trusted: reading.get(&section, "trusted", value::list(value::network)),
            };
            (section, settings)
        })
        .collect()
}

fn tls_files<'t>(
    reading: &mut Reading<'t>,
    root: &Section<'t>,
    listen: &[(Section<'t>, ListenSettings)],
) -> Option<CertificateSettings> {
    let section = reading.section(root, "tls");
    let mut file = |key| {
        let path = reading.given(&section, key, value::file)?;
        let path = reading.beside_config(path);
        cross::file_exists(reading, &section, key, &path);
        Some(path)
    };
    let (certificate, key) = (file("certificate"), file("key"));
    cross::certificate(reading, &section, listen);
    Some(CertificateSettings::Files { certificate: certificate?, key: key? })
}

fn submission<'t>(
    reading: &mut Reading<'t>,
    root: &Section<'t>,
    queue: &Section<'t>,
    hostname: &Domain,
    listen: Vec<(Section<'t>, ListenSettings)>,
    tls: Option<CertificateSettings>,
) -> SubmissionSettings {
    let users = reading.section(root, "users");
    let users_file = reading.get(&users, "file", value::file);
    let limits = reading.section(root, "limits");
    let log = reading.section(root, "log");
    SubmissionSettings {
        hostname: hostname.clone(),
        listen: listen.into_iter().map(|(_, settings)| settings).collect(),
        tls,
        users_file: reading.beside_config(users_file),
        aliases: aliases(reading, root),
        limits: Limits {
            message_size: reading.get(&limits, "message_size", value::size),
            recipients: count(reading, &limits, "recipients"),
            sessions: count(reading, &limits, "sessions"),
            sessions_per_client: count(reading, &limits, "sessions_per_client"),
            errors: count(reading, &limits, "errors"),
            auth_failures: count(reading, &limits, "auth_failures"),
            received_hops: count(reading, &limits, "received_hops"),
            long_lines: match reading.get(&limits, "long_lines", value::choice) {
                "refuse" => LongLines::Refuse,
                _ => LongLines::Accept,
            },
            idle_timeout: reading.get(&limits, "idle_timeout", value::duration),
            login_timeout: reading.get(&limits, "login_timeout", value::duration),
            session_timeout: reading.get(&limits, "session_timeout", value::duration),
            future_release: reading.get(&limits, "future_release", value::or_off(value::duration)),
        },
        lifetime: reading.get(queue, "lifetime", value::duration),
        keep_subjects: reading.get(&log, "subject", value::flag),
    }
}

/// Names in lower case: local parts of aliases are compared so.
fn aliases<'t>(reading: &mut Reading<'t>, root: &Section<'t>) -> BTreeMap<String, Vec<Address>> {
    let section = reading.section(root, ALIASES);
    let mut aliases = BTreeMap::new();
    for (name, at, value) in section.entries() {
        let key = format!("{ALIASES}.{name}");
        if address::parse(&format!("{name}@localhost")).is_err() {
            reading.problem_at(
                at,
                &key,
                "is not a local name; write the part of an address before its @".to_owned(),
            );
        }
        match addresses(value) {
            Err(what) => {
                let text = format!("{what}; write a list of addresses such as [\"ops@example.com\"]");
                reading.problem_at(at, &key, text);
            }
            Ok(addresses) => {
                if aliases.insert(name.to_lowercase(), addresses).is_some() {
                    // The order of `entries` is not that of the file.
                    let same =
                        section.entries().filter(|(other, ..)| other.to_lowercase() == name.to_lowercase());
                    let places: Vec<usize> = same.map(|(_, at, _)| at).collect();
                    let (first, last) = (places.iter().min().copied(), places.iter().max().copied());
                    let text = format!(
                        "is there twice, first on {} (upper and lower case are the same here); remove one",
                        reading.named(first.unwrap_or(at))
                    );
                    reading.problem_at(last.unwrap_or(at), &key, text);
                }
            }
        }
    }
    aliases
}

fn addresses(value: &DeValue<'_>) -> Result<Vec<Address>, String> {
    let array = value.as_array().ok_or("is not a list")?;
    if array.is_empty() {
        return Err("is empty".to_owned());
    }
    let parse = |item: &DeValue<'_>| {
        let text = item.as_str().ok_or("holds what is not a text")?;
        address::parse(text).map_err(|error| format!("\"{text}\" is not an address ({error})"))
    };
    array.iter().map(|item| parse(item.get_ref())).collect()
}

fn dns<'t>(reading: &mut Reading<'t>, root: &Section<'t>) -> DnsSettings {
    let section = reading.section(root, "dns");
    let servers = reading.given(&section, "servers", value::list(value::server)).unwrap_or_default();
    let timeout = reading.get(&section, "timeout", value::duration);
    let trust_anchor =
        reading.given(&section, "trust_anchor", value::file).map(|path| reading.beside_config(path));
    if let Some(path) = &trust_anchor {
        cross::file_exists(reading, &section, "trust_anchor", path);
    }
    DnsSettings { servers, timeout, trust_anchor }
}

fn delivery<'t>(
    reading: &mut Reading<'t>,
    section: &Section<'t>,
    queue: &Section<'t>,
    hostname: &Domain,
    destinations: &Arc<Destinations>,
    retry_rules: Vec<RetryRule>,
) -> DeliverySettings {
    let ca_file =
        reading.get(section, "ca_file", value::file_or_none).map(|path| reading.beside_config(path));
    if let Some(path) = &ca_file {
        cross::file_exists(reading, section, "ca_file", path);
    }
    let port = reading.get(section, "port", value::number);
    DeliverySettings {
        hostname: hostname.clone(),
        port: u16::try_from(port).unwrap_or(u16::MAX),
        https_port: u16::try_from(reading.get(section, "https_port", value::number)).unwrap_or(u16::MAX),
        mta_sts: reading.get(section, "mta_sts", value::flag),
        dane: reading.get(section, "dane", value::flag),
        workers: count(reading, section, "workers"),
        connections_per_destination: count(reading, section, "connections_per_destination"),
        destinations: destinations.clone(),
        messages_per_connection: count(reading, section, "messages_per_connection"),
        in_doubt: match reading.get(section, "in_doubt", value::choice) {
            "hold" => InDoubt::Hold,
            "assume-delivered" => InDoubt::AssumeDelivered,
            _ => InDoubt::Retry,
        },
        eight_bit: match reading.get(section, "eight_bit", value::choice) {
            "bounce" => EightBit::Bounce,
            _ => EightBit::Send,
        },
        attempt_deadline: reading.get(section, "attempt_deadline", value::duration),
        source_addresses: reading.get(section, "source_addresses", value::list(value::address)),
        // They are read once the rest is known.
        sources: Vec::new(),
        keyring: Arc::default(),
        prohibited_networks: prohibited_networks(reading, section),
        // They are read before.
        listen: Vec::new(),
        connect_timeout: reading.get(section, "connect_timeout", value::duration),
        reply_timeout: reading.get(section, "reply_timeout", value::duration),
        ca_file,
        lifetimes: {
            let bounces = secs(reading.get(queue, "bounce_lifetime", value::duration));
            // That of messages is read with `submission`.
            Lifetimes { messages: bounces, bounces }
        },
        delay_warning: reading.get(queue, "delay_warning", value::or_off(value::duration)),
        bounces_per_sender: reading
            .get(section, "bounces_per_sender", value::or_off(value::number))
            .map(|limit| usize::try_from(limit).unwrap_or(usize::MAX)),
        retry_rules,
        // It has a table of its own.
        tlsrpt: TlsrptSettings::default(),
    }
}

fn tlsrpt<'t>(reading: &mut Reading<'t>, root: &Section<'t>) -> TlsrptSettings {
    let section = reading.section(root, "tlsrpt");
    let settings = TlsrptSettings {
        enabled: reading.get(&section, "enabled", value::flag),
        organization: reading.given(&section, "organization", value::plain),
        contact: reading.given(&section, "contact", value::plain),
        from: reading.given(&section, "from", value::mailbox),
    };
    cross::tlsrpt(reading, &section, settings.enabled);
    settings
}

fn prohibited_networks<'t>(reading: &mut Reading<'t>, section: &Section<'t>) -> ProhibitedNetworks {
    let entries = reading.get(section, "prohibited_networks", value::list(value::network_or_not));
    let private = reading.get(section, "private_networks", value::choice) == "refuse";
    let networks = ProhibitedNetworks::new(entries, private);
    cross::prohibited_networks(reading, section, &networks);
    networks
}

fn retry_rules<'t>(reading: &mut Reading<'t>, retry: &Section<'t>) -> Vec<RetryRule> {
    let sections = reading.sections(retry, "rule").unwrap_or_default();
    sections.into_iter().map(|section| retry_rule(reading, &section)).collect()
}

fn retry_rule<'t>(reading: &mut Reading<'t>, section: &Section<'t>) -> RetryRule {
    let action = reading.get(section, "action", value::choice);
    let delay = reading.given(section, "delay", value::duration);
    cross::retry_rule(reading, section, action);
    let text = reading.given(section, "text", value::plain).unwrap_or_default();
    let pieces = text.split('*').filter(|piece| !piece.is_empty());
    RetryRule {
        domain: reading.get(section, "domain", value::pattern),
        code: reading.given(section, "code", value::code_pattern),
        enhanced: reading.given(section, "enhanced", value::enhanced_pattern),
        text: pieces.map(str::to_lowercase).collect(),
        action: match (action, delay) {
            ("hold", _) => RuleAction::Hold,
            ("bounce", _) => RuleAction::Bounce,
            // Without a delay it is refused: see cross.rs.
            (_, delay) => RuleAction::Retry(delay.unwrap_or_default()),
        },
    }
}

fn destinations<'t>(reading: &mut Reading<'t>, root: &Section<'t>) -> Destinations {
    let sections = reading.sections(root, "destination").unwrap_or_default();
    Destinations(sections.iter().filter_map(|section| destination(reading, section)).collect())
}

/// One `[[destination]]`; none where it does not say for whom it is, or says so badly.
fn destination<'t>(reading: &mut Reading<'t>, section: &Section<'t>) -> Option<Destination> {
    let domain = reading.given(section, "domain", value::pattern);
    let mx = reading.given(section, "mx", value::pattern);
    let connections = reading.given(section, "connections", value::number);
    let per_minute = reading.given(section, "messages_per_minute", value::number);
    cross::destination(reading, section);
    Some(Destination {
        scope: domain.map(LimitScope::Domain).or(mx.map(LimitScope::Mx))?,
        connections: connections.map(|number| usize::try_from(number).unwrap_or(usize::MAX)),
        messages_per_minute: per_minute.map(|number| u32::try_from(number).unwrap_or(u32::MAX)),
    })
}

fn routes<'t>(reading: &mut Reading<'t>, root: &Section<'t>) -> Vec<(Section<'t>, Route)> {
    let sections = reading.sections(root, "route").unwrap_or_default();
    sections.into_iter().map(|section| (section, route(reading, &section))).collect()
}

fn route<'t>(reading: &mut Reading<'t>, section: &Section<'t>) -> Route {
    let ca_file = reading.given(section, "ca_file", value::file).map(|path| reading.beside_config(path));
    if let Some(path) = &ca_file {
        cross::file_exists(reading, section, "ca_file", path);
    }
    let username = reading.given(section, "username", value::plain);
    Route {
        domain: reading.get(section, "domain", value::pattern),
        relay: reading.get(section, "relay", value::list(value::relay)),
        tls: reading.given(section, "tls", value::choice).map(|word| match word {
            "off" => RouteTls::Off,
            "encrypt" => RouteTls::Encrypt,
            "verify" => RouteTls::Verify,
            "implicit" => RouteTls::Implicit,
            _ => RouteTls::Opportunistic,
        }),
        ca_file,
        login: username.zip(secret(reading, section)).map(|(username, secret)| Login { username, secret }),
        source_addresses: reading.get(section, "source_addresses", value::list(value::address)),
    }
}

/// Where the secret of a login comes from; one of the three keys, see `cross.rs`.
fn secret<'t>(reading: &mut Reading<'t>, section: &Section<'t>) -> Option<SecretSource> {
    let mut file = |key| {
        let path = reading.given(section, key, value::file)?;
        Some(reading.beside_config(path))
    };
    let sources = [
        file("password_file").map(SecretSource::PasswordFile),
        file("token_file").map(SecretSource::TokenFile),
        reading.given(section, "token_command", value::command).map(SecretSource::TokenCommand),
    ];
    let sources: Vec<SecretSource> = sources.into_iter().flatten().collect();
    sources.iter().for_each(|source| cross::secret(reading, section, source));
    sources.into_iter().next()
}
