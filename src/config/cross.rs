//! What no single key can tell: keys that need each other, exclude each other, or name files.
//!
//! A problem is what cannot work or would relay for strangers; a warning is what works and is
//! probably not meant.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use ipnet::IpNet;

use super::guarded;
use super::listen::ListenAddress;
use super::networks::{self, ProhibitedNetworks};
use super::reading::{Reading, Section};
use super::secret::{SecretSource, first_line};
use super::settings::{DomainPattern, ListenSettings, ListenTls, Route, RouteTls};

/// All `[[listen]]`.
pub(super) fn listeners<'t>(reading: &mut Reading<'t>, listen: &[(Section<'t>, ListenSettings)]) {
    for (at, (section, settings)) in listen.iter().enumerate() {
        let addresses: Vec<SocketAddr> = listen.iter().filter_map(|(_, other)| other.address.ip()).collect();
        let meets = |other: &&(Section<'t>, ListenSettings)| {
            collide(&other.1.address, &settings.address, &addresses) && !reading.is_bad(&other.0, "address")
        };
        if !reading.is_bad(section, "address")
            && let Some((earlier, other)) = listen[..at].iter().find(meets)
        {
            let place = reading.place_of(earlier, "address");
            let by = match &other.address {
                same if *same == settings.address => String::new(),
                wider => format!(" with {wider}"),
            };
            let remedy = if settings.local_users { "its path" } else { "its port" };
            let text = format!(
                "{} is listened on already{by} ({place}); remove one or change {remedy}",
                settings.address
            );
            reading.problem(section, "address", text);
        }
        match &settings.address {
            _ if reading.is_bad(section, "address") => {}
            ListenAddress::Ip(address) => network_listener(reading, section, settings, address.ip()),
            ListenAddress::Unix(path) => unix_listener(reading, section, path),
        }
    }
}

/// A listener on a socket in the file system: what is for networks alone, and who could put another one in its place.
fn unix_listener<'t>(reading: &mut Reading<'t>, section: &Section<'t>, path: &Path) {
    for key in ["tls", "auth", "trusted"].into_iter().filter(|key| section.gives(key)) {
        let text = "is of no use with a socket in the file system, where the system says who connects; remove it \
                    (mode and group say who may)";
        reading.problem(section, key, text.to_owned());
    }
    if let Some(fault) = path.parent().and_then(guarded::fault_of_directory) {
        reading.problem(section, "address", fault);
    }
}

fn network_listener<'t>(
    reading: &mut Reading<'t>,
    section: &Section<'t>,
    settings: &ListenSettings,
    ip: IpAddr,
) {
    for key in ["mode", "group"].into_iter().filter(|key| section.gives(key)) {
        let text =
            "is for a socket in the file system, as address = \"unix:/run/postrider/submit.sock\"; remove it";
        reading.problem(section, key, text.to_owned());
    }
    match open_relay(&settings.trusted) {
        Some((what, true)) => {
            let text = format!(
                "{what}, and everybody could send mail through here (an open relay); \
                 list the networks of your own machines"
            );
            reading.problem(section, "trusted", text);
        }
        Some((what, false)) => {
            let text = format!("{what}, and all of them may send mail through here; list your own networks");
            reading.warning(section, "trusted", text);
        }
        None => {}
    }
    for (network, why) in trusted_nobody(settings, ip) {
        let text = format!("{network} matches no client of {}: {why}; remove it", settings.address);
        reading.warning(section, "trusted", text);
    }
    let clear_outside = settings.tls == ListenTls::Off && !ip.is_loopback();
    if clear_outside && settings.trusted.is_empty() {
        let text = "with tls = \"off\" on an address that is not loopback AUTH is not offered, and no network is \
                    trusted, so nobody can send mail here; use tls = \"starttls\" or list networks in trusted";
        reading.warning(section, "tls", text.to_owned());
    } else if clear_outside {
        let text = "\"off\" on an address that is not loopback: AUTH is not offered here, only the trusted networks \
                    can send mail; use tls = \"starttls\" to let users log in";
        reading.warning(section, "tls", text.to_owned());
    }
    if !settings.auth_required && settings.trusted.is_empty() {
        let text = "\"optional\" without trusted networks is the same as \"required\", since nobody relays without a \
                    credential or a trusted network; list your networks in trusted";
        reading.warning(section, "auth", text.to_owned());
    }
}

/// Whether two listeners would want the same connections, which the system refuses. Port 0 is another one each time.
fn collide(one: &ListenAddress, other: &ListenAddress, all: &[SocketAddr]) -> bool {
    let (Some(one), Some(other)) = (one.ip(), other.ip()) else { return one == other };
    let takes = |wide: SocketAddr, ip: IpAddr| match wide.ip() {
        IpAddr::V6(any) if any.is_unspecified() => ip.is_ipv6() || !has_its_ipv4(wide, all.iter().copied()),
        IpAddr::V4(any) if any.is_unspecified() => ip.is_ipv4(),
        _ => wide.ip() == ip,
    };
    one.port() != 0 && one.port() == other.port() && (takes(one, other.ip()) || takes(other, one.ip()))
}

/// Whether `[::]` leaves the connections of IPv4 to another listener: to `0.0.0.0` with the same port.
fn has_its_ipv4(address: SocketAddr, mut all: impl Iterator<Item = SocketAddr>) -> bool {
    let ipv4 = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), address.port());
    address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) && address.port() != 0 && all.any(|other| other == ipv4)
}

/// What in `trusted` lets the world in, or so much of it that it is none of ours: `0.0.0.0/0`, `::/0`, halves and
/// quarters of either, and networks of IPv6 that stand for all of IPv4 (6to4, NAT64). True: half of the world or more.
fn open_relay(trusted: &[IpNet]) -> Option<(String, bool)> {
    let all = IpNet::aggregate(&trusted.to_vec());
    if let Some(wide) = all.into_iter().find(|network| network.prefix_len() == 0) {
        let what = match trusted.contains(&wide) {
            true => format!("{wide} trusts every address"),
            false => format!("the networks together trust every address of {wide}"),
        };
        return Some((what, true));
    }
    let (v4, v6) = networks::shares(trusted);
    let (share, family) = if v4 >= v6 { (v4, "IPv4") } else { (v6, "IPv6") };
    let told = |share: f64| format!("the networks trust {:.0} % of all {family} addresses", share * 100.0);
    match share {
        share if share >= 0.5 => Some((told(share), true)),
        share if share >= WORLD_PART => Some((told(share), false)),
        _ => None,
    }
}

/// From this part of the world's addresses on `trusted` is hardly meant: sixteen networks of the size of 10.0.0.0/8.
const WORLD_PART: f64 = 1.0 / 16.0;

/// The trusted networks that no client of this listener can be in.
fn trusted_nobody(listen: &ListenSettings, ip: IpAddr) -> impl Iterator<Item = (IpNet, &'static str)> {
    let at = ip.to_canonical();
    listen.trusted.iter().filter_map(move |network| {
        let loopback = |ip: IpAddr| ip.is_loopback();
        let why = match network {
            IpNet::V6(_) if at.is_ipv4() => "it takes IPv4 alone",
            IpNet::V4(_) if at.is_ipv6() && !at.is_unspecified() => "it takes IPv6 alone",
            _ if loopback(at) && !loopback(network.addr()) && !network.contains(&at) => {
                "only this machine reaches it"
            }
            _ if network.addr().is_multicast() || *network == IpNet::from(IpAddr::from([0, 0, 0, 0])) => {
                "no client has such an address"
            }
            _ => return None,
        };
        Some((*network, why))
    })
}

/// `[tlsrpt]`: nobody gets a report that does not say who reports.
pub(super) fn tlsrpt<'t>(reading: &mut Reading<'t>, section: &Section<'t>, enabled: bool) {
    let missing: Vec<&str> =
        ["organization", "contact", "from"].into_iter().filter(|key| !section.gives(key)).collect();
    if enabled && !missing.is_empty() {
        let text = format!("true needs {} in [tlsrpt] too; give them", missing.join(", "));
        reading.problem(section, "enabled", text);
    }
}

/// `[delivery] prohibited_networks`.
pub(super) fn prohibited_networks<'t>(
    reading: &mut Reading<'t>,
    section: &Section<'t>,
    networks: &ProhibitedNetworks,
) {
    for network in networks.vain() {
        let text = format!("!{network} allows what nothing prohibits; remove it, or correct it");
        reading.warning(section, "prohibited_networks", text);
    }
}

/// `[tls]` against the listeners.
pub(super) fn certificate<'t>(
    reading: &mut Reading<'t>,
    tls: &Section<'t>,
    listen: &[(Section<'t>, ListenSettings)],
) {
    for (given, missing) in [("certificate", "key"), ("key", "certificate")] {
        if tls.gives(given) && !tls.gives(missing) {
            let text = format!("is missing beside tls.{given}; give both, or neither");
            reading.problem(tls, missing, text);
            return;
        }
    }
    if tls.gives("certificate") {
        return;
    }
    let wants_tls = |(section, settings): &&(Section<'t>, ListenSettings)| {
        settings.tls != ListenTls::Off && !["tls", "address"].iter().any(|key| reading.is_bad(section, key))
    };
    if let Some((section, settings)) = listen.iter().find(wants_tls) {
        let text = format!(
            "the listener on {} needs a certificate; give certificate and key in [tls], \
             or set tls = \"off\" in this [[listen]]",
            settings.address
        );
        reading.problem(section, "tls", text);
    }
}

/// The directory of the queue, where a stranger's links would be followed.
pub(super) fn queue_directory<'t>(reading: &mut Reading<'t>, section: &Section<'t>, path: &Path) {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if let Some(fault) = guarded::fault_of_directory(directory) {
        reading.problem(section, "path", fault);
    }
}

/// A file that a key names. One that may not be looked at is left to who opens it.
pub(super) fn file_exists<'t>(reading: &mut Reading<'t>, section: &Section<'t>, key: &str, path: &Path) {
    let text = match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => format!("{} is a directory; name a file", path.display()),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            format!("{} does not exist; create it or correct the name", path.display())
        }
        _ => match guarded::fault(path) {
            Some(fault) => fault,
            None => return,
        },
    };
    reading.problem(section, key, text);
}

/// Whether a login's secret can be had. A token is made by somebody else, perhaps only after we have started.
pub(super) fn secret<'t>(reading: &mut Reading<'t>, section: &Section<'t>, source: &SecretSource) {
    let key = source.key();
    let (path, what) = match source {
        SecretSource::PasswordFile(path) => (path, "password"),
        SecretSource::TokenFile(path) => (path, "token"),
        SecretSource::TokenCommand(command) => {
            return program(reading, section, key, Path::new(command.first().map_or("", String::as_str)));
        }
    };
    if let Some(fault) = guarded::fault(path) {
        return reading.problem(section, key, fault);
    }
    let name = path.display();
    let missing = match first_line(path) {
        Ok(Some(_)) => None,
        Ok(None) => Some(format!("{name} has no {what}; write it into the first line")),
        Err(error) => Some(format!("{name} cannot be read: {error}; write the {what} into its first line")),
    };
    match missing {
        Some(text) if source.is_token() => {
            reading.warning(section, key, format!("{text} (until then the mail of this route waits)"));
        }
        Some(text) => return reading.problem(section, key, text),
        None => {}
    }
    readable_by_all(reading, section, key, path);
}

/// Warns of a secret that is none.
pub(super) fn readable_by_all<'t>(reading: &mut Reading<'t>, section: &Section<'t>, key: &str, path: &Path) {
    if std::fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o007 != 0) {
        let name = path.display();
        let text = format!("{name} can be read by every user of this machine; chmod o= {name}");
        reading.warning(section, key, text);
    }
}

/// A program that a key names.
fn program<'t>(reading: &mut Reading<'t>, section: &Section<'t>, key: &str, path: &Path) {
    let Ok(metadata) = std::fs::metadata(path) else { return file_exists(reading, section, key, path) };
    if !metadata.is_file() || metadata.permissions().mode() & 0o111 == 0 {
        let text = format!("{} is no program; name one, or make it one with chmod +x", path.display());
        return reading.problem(section, key, text);
    }
    if let Some(fault) = guarded::fault(path) {
        reading.problem(section, key, fault);
    }
}

/// All `[[route]]`.
pub(super) fn routes<'t>(reading: &mut Reading<'t>, routes: &[(Section<'t>, Route)]) {
    for (at, (section, settings)) in routes.iter().enumerate() {
        let covers = |(other, earlier): &&(Section<'t>, Route)| {
            covers(&earlier.domain, &settings.domain) && !reading.is_bad(other, "domain")
        };
        if !reading.is_bad(section, "domain")
            && let Some((earlier, _)) = routes[..at].iter().find(covers)
        {
            let place = reading.place_of(earlier, "domain");
            let text =
                format!("is never used, since the route on {place} matches first; move it up or remove it");
            reading.problem(section, "domain", text);
        }
        if !["relay", "tls"].iter().any(|key| reading.is_bad(section, key)) {
            route(reading, section, settings);
        }
    }
}

/// Whether everything `later` matches is matched by `earlier`.
fn covers(earlier: &DomainPattern, later: &DomainPattern) -> bool {
    match (earlier, later) {
        (DomainPattern::Any, _) => true,
        (DomainPattern::Below(_), DomainPattern::Exactly(name)) => earlier.matches(name),
        (DomainPattern::Below(parent), DomainPattern::Below(below)) => {
            parent == below || earlier.matches(below)
        }
        (DomainPattern::Exactly(one), DomainPattern::Exactly(other)) => one == other,
        _ => false,
    }
}

/// The keys for the secret of a login.
const SECRETS: [&str; 3] = ["password_file", "token_file", "token_command"];

fn route<'t>(reading: &mut Reading<'t>, section: &Section<'t>, route: &Route) {
    if route.tls == Some(RouteTls::Off) && route.ca_file.is_some() {
        reading.problem(
            section,
            "ca_file",
            "is not used with tls = \"off\"; remove one of the two".to_owned(),
        );
    }
    if route.tls == Some(RouteTls::Implicit) && route.relay.is_empty() {
        let text =
            "\"implicit\" needs a relay, since MX hosts do not speak it; name the relay, or use \"verify\"";
        reading.problem(section, "tls", text.to_owned());
    }
    let mut secrets = SECRETS.into_iter().filter(|key| section.gives(key));
    match (section.gives("username"), secrets.next()) {
        (true, None) => {
            let text = "is of no use without password_file, token_file or token_command; give one of them, or remove it";
            reading.problem(section, "username", text.to_owned());
        }
        (false, Some(secret)) => {
            let text = "is of no use without username; give both, or neither";
            reading.problem(section, secret, text.to_owned());
        }
        (true, Some(first)) => {
            for more in secrets {
                let text =
                    format!("stands beside {first}, and a login has one secret; remove one of the two");
                reading.problem(section, more, text);
            }
        }
        (false, None) => {}
    }
    if !section.gives("username") {
        return;
    }
    if route.relay.is_empty() {
        let text = "is of no use without a relay to log in at; name it with relay = [\"host:port\"]";
        reading.problem(section, "username", text.to_owned());
        return;
    }
    // A relay by name is not asked of DNS here: only a literal is known to be on this machine.
    let local = |ip: Option<IpAddr>| ip.is_some_and(|ip| ip.is_loopback());
    if route.relay.iter().all(|relay| local(relay.host.ip()) || relay.host.as_str() == "localhost") {
        return;
    }
    match route.tls.unwrap_or(RouteTls::Opportunistic) {
        RouteTls::Off => {
            let text =
                "would send the login in clear text; use tls = \"verify\" (or \"implicit\" on port 465)";
            reading.problem(section, "tls", text.to_owned());
        }
        RouteTls::Opportunistic | RouteTls::Encrypt => {
            let text = "does not verify whom the login is sent to; use tls = \"verify\" (or \"implicit\" on port 465)";
            reading.warning(section, "tls", text.to_owned());
        }
        RouteTls::Verify | RouteTls::Implicit => {}
    }
}

/// One `[[destination]]`.
pub(super) fn destination<'t>(reading: &mut Reading<'t>, section: &Section<'t>) {
    let (key, text) = match (section.gives("domain"), section.gives("mx")) {
        (true, true) => ("mx", "stands beside domain; write a [[destination]] for each"),
        (false, false) => ("domain", "is missing, and mx too; say for whom these limits are"),
        _ if section.gives("connections") || section.gives("messages_per_minute") => return,
        _ => ("connections", "is missing, and messages_per_minute too; give one of them, or both"),
    };
    reading.problem(section, key, text.to_owned());
}

/// One `[[retry.rule]]`: a delay belongs to `retry`, and to nothing else; a rule without conditions is a slip.
pub(super) fn retry_rule<'t>(reading: &mut Reading<'t>, section: &Section<'t>, action: &str) {
    if reading.is_bad(section, "action") {
        return;
    }
    if action == "retry" && !section.gives("delay") {
        let text = "is missing; say how long to wait, or give action = \"hold\" or \"bounce\"";
        reading.problem(section, "delay", text.to_owned());
    } else if action != "retry" && section.gives("delay") {
        let text = format!("is not used with action = \"{action}\"; remove one of the two");
        reading.problem(section, "delay", text);
    }
    if !["domain", "code", "enhanced", "text"].iter().any(|key| section.gives(key)) {
        let text = format!(
            "\"{action}\" is for every temporary failure, since the rule names no domain, code, \
                            enhanced or text; name what it is for, or domain = \"*\" if it is for all"
        );
        reading.problem(section, "action", text);
    }
}

/// Times that make each other pointless.
pub(super) fn times<'t>(
    reading: &mut Reading<'t>,
    queue: &Section<'t>,
    retry: &Section<'t>,
    lifetime: Duration,
    delay_warning: Option<Duration>,
    schedule: &[Duration],
) {
    if delay_warning.is_some_and(|warning| warning >= lifetime) {
        let text = "is not shorter than queue.lifetime, so it is never sent; shorten it or write \"off\"";
        reading.warning(queue, "delay_warning", text.to_owned());
    }
    if schedule.first().is_some_and(|first| *first >= lifetime) {
        let text = "waits longer than queue.lifetime before the second attempt, so there is none; shorten its first step";
        reading.warning(retry, "schedule", text.to_owned());
    }
}
