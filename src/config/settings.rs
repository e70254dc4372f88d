//! The checked settings, one struct a room. What was typed is read in `defs.rs` and `load.rs`;
//! nothing here is optional that a room needs, and nothing here is text that still has to be understood.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::listen::{ListenAddress, SocketAccess};
use super::name_server::NameServer;
use super::networks::ProhibitedNetworks;
use super::secret::SecretSource;
use crate::mail::dkim::Keyring;
use crate::mail::{Address, Domain, Lifetimes};

/// Everything a config file says, checked.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Banner, EHLO, Received.
    pub hostname: Domain,
    /// The queue room.
    pub queue: QueueSettings,
    /// The submission room.
    pub submission: SubmissionSettings,
    /// Name lookups.
    pub dns: DnsSettings,
    /// The delivery room.
    pub delivery: DeliverySettings,
    /// The scheduler room.
    pub scheduler: SchedulerSettings,
    /// `[[route]]`, in order.
    pub routes: Arc<Routes>,
    /// `[log]`.
    pub log: LogSettings,
    /// The monitoring room.
    pub metrics: MetricsSettings,
}

/// `[metrics]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MetricsSettings {
    /// Where HTTP is answered; empty: nowhere.
    pub listen: Vec<ListenAddress>,
    /// Who may connect to those that are sockets in the file system.
    pub access: SocketAccess,
    /// The token that is asked for at the others; none: they are loopback.
    pub token_file: Option<PathBuf>,
}

/// `[log]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogSettings {
    /// Each line is a JSON object.
    pub json: bool,
    /// Local parts of addresses are masked.
    pub mask_addresses: bool,
}

/// `[queue]`, the part that the queue itself needs.
#[derive(Debug, Clone)]
pub struct QueueSettings {
    /// The database file.
    pub path: PathBuf,
    /// How long finished recipients stay in `history`.
    pub history: Duration,
    /// Litestream makes the checkpoints.
    pub litestream: bool,
}

/// Accepting mail.
#[derive(Debug, Clone)]
pub struct SubmissionSettings {
    /// Banner and Received.
    pub hostname: Domain,
    /// `[[listen]]`.
    pub listen: Vec<ListenSettings>,
    /// `[tls]`; none where no listener uses TLS.
    pub tls: Option<CertificateSettings>,
    /// `[users] file`.
    pub users_file: PathBuf,
    /// `[aliases]`: local names (lower case, without domain) and where they lead.
    pub aliases: BTreeMap<String, Vec<Address>>,
    /// `[limits]`.
    pub limits: Limits,
    /// `[queue] lifetime`.
    pub lifetime: Duration,
    /// `[log] subject`.
    pub keep_subjects: bool,
}

/// One `[[listen]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenSettings {
    /// Where.
    pub address: ListenAddress,
    /// Who may connect, where that is a socket in the file system.
    pub access: SocketAccess,
    /// Whoever connects may send, as the user of this machine who they are: it is a socket in the file system.
    pub local_users: bool,
    /// When TLS begins.
    pub tls: ListenTls,
    /// Whether MAIL wants AUTH before it (outside `trusted`).
    pub auth_required: bool,
    /// Networks that may relay without AUTH here.
    pub trusted: Vec<IpNet>,
}

/// `[[listen]] tls`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenTls {
    /// Offered; AUTH only after it.
    Starttls,
    /// From the first byte (RFC 8314).
    Implicit,
    /// None; AUTH offered only where the listener is bound to loopback.
    Off,
}

/// Where the certificate comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CertificateSettings {
    /// `[tls] certificate` and `key`, PEM.
    Files {
        /// Leaf first, then its chain.
        certificate: PathBuf,
        /// The private key.
        key: PathBuf,
    },
    /// Without a config file: self-signed, made at first start and kept in this directory.
    SelfSigned {
        /// The state directory.
        directory: PathBuf,
    },
}

/// `[limits]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of content.
    pub message_size: u64,
    /// Recipients of a transaction.
    pub recipients: usize,
    /// Sessions at once.
    pub sessions: usize,
    /// Sessions at once from one address.
    pub sessions_per_client: usize,
    /// Bad commands before 421.
    pub errors: usize,
    /// Failed AUTH per client address and 10 minutes before 421.
    pub auth_failures: usize,
    /// Received fields before 554 5.4.6.
    pub received_hops: usize,
    /// Lines of content over 998 octets.
    pub long_lines: LongLines,
    /// A silent client is dropped after this.
    pub idle_timeout: Duration,
    /// The same for a handshake, and before a login.
    pub login_timeout: Duration,
    /// A session ends after this, whatever it does.
    pub session_timeout: Duration,
    /// How long a message may be held (FUTURERELEASE); none: not offered.
    pub future_release: Option<Duration>,
}

/// `limits.long_lines`: what becomes of a message with a line that RFC 5322 §2.1.1 does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LongLines {
    /// It is taken, and goes on as it is.
    Accept,
    /// 554.
    Refuse,
}

/// `[dns]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsSettings {
    /// Empty: the system's resolv.conf.
    pub servers: Vec<NameServer>,
    /// For one question, all its tries together.
    pub timeout: Duration,
    /// DNSKEY records that are trusted instead of the root's.
    pub trust_anchor: Option<PathBuf>,
}

/// `[delivery]`, and what of `[queue]` concerns it.
#[derive(Debug, Clone)]
pub struct DeliverySettings {
    /// EHLO and the From of bounces.
    pub hostname: Domain,
    /// The port of MX hosts.
    pub port: u16,
    /// The port of HTTPS servers with MTA-STS policies.
    pub https_port: u16,
    /// Whether MTA-STS policies are looked for.
    pub mta_sts: bool,
    /// Whether TLSA records of hosts are looked for.
    pub dane: bool,
    /// Threads at most.
    pub workers: usize,
    /// Messages on one connection.
    pub messages_per_connection: usize,
    /// Connections at once to one host.
    pub connections_per_destination: usize,
    /// `[[destination]]`.
    pub destinations: Arc<Destinations>,
    /// What a lost answer after the dot means.
    pub in_doubt: InDoubt,
    /// What becomes of 8-bit content where it is not offered to take it.
    pub eight_bit: EightBit,
    /// Absolute, for one attempt.
    pub attempt_deadline: Duration,
    /// Local addresses to send from; empty: the system chooses.
    pub source_addresses: Vec<IpAddr>,
    /// `[[source]]`, in order.
    pub sources: Vec<Source>,
    /// `[[dkim]]` and `sign_as`.
    pub keyring: Arc<Keyring>,
    /// Never deliver to these by MX.
    pub prohibited_networks: ProhibitedNetworks,
    /// Where `[[listen]]` listens: what leads there would come back.
    pub listen: Vec<SocketAddr>,
    /// For one address.
    pub connect_timeout: Duration,
    /// For every stage but the dot, which has twice this (RFC 5321 §4.5.3.2).
    pub reply_timeout: Duration,
    /// PEM roots beside webpki-roots.
    pub ca_file: Option<PathBuf>,
    /// `[queue] lifetime` and `bounce_lifetime`.
    pub lifetimes: Lifetimes,
    /// When a sender is told of a delay; none: never.
    pub delay_warning: Option<Duration>,
    /// Reports to one sender in an hour; none: as many as there are.
    pub bounces_per_sender: Option<usize>,
    /// `[[retry.rule]]`, in order.
    pub retry_rules: Vec<RetryRule>,
    /// `[tlsrpt]`.
    pub tlsrpt: TlsrptSettings,
}

/// `[tlsrpt]`. Where it is enabled all the others are given.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TlsrptSettings {
    /// Reports are sent.
    pub enabled: bool,
    /// Who reports.
    pub organization: Option<String>,
    /// Whom to ask.
    pub contact: Option<String>,
    /// The From of mail.
    pub from: Option<Address>,
}

/// One `[[source]]`: a local address with a name or users of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The address; no other source has it.
    pub address: IpAddr,
    /// EHLO on connections from here; none: `hostname`.
    pub hostname: Option<Domain>,
    /// Their mail leaves from here, and no other does; empty: whoever's addresses it is among.
    pub users: Vec<String>,
}

/// One `[[retry.rule]]`: what becomes of failed attempts that all of its conditions fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryRule {
    /// The recipient's domain.
    pub domain: DomainPattern,
    /// The reply code, three digits; none of them stands for any.
    pub code: Option<[Option<u8>; 3]>,
    /// The enhanced code; a number left out stands for any.
    pub enhanced: Option<[Option<u16>; 3]>,
    /// Pieces of the reply's text in their order, in lower case; never an empty one.
    pub text: Vec<String>,
    /// What becomes of the recipient.
    pub action: RuleAction,
}

impl RetryRule {
    /// Its `delay`; none where it does not have things tried again.
    pub fn delay(&self) -> Option<Duration> {
        match self.action {
            RuleAction::Retry(delay) => Some(delay),
            RuleAction::Hold | RuleAction::Bounce => None,
        }
    }
}

/// `[[retry.rule]] action`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuleAction {
    /// Try again after this.
    Retry(Duration),
    /// Wait for the operator.
    Hold,
    /// Return it to the sender.
    Bounce,
}

/// `[delivery] in_doubt`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InDoubt {
    /// Try again: perhaps twice, never lost.
    Retry,
    /// Wait for the operator.
    Hold,
    /// Call it delivered.
    AssumeDelivered,
}

/// `[delivery] eight_bit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EightBit {
    /// It goes out all the same.
    Send,
    /// It is returned.
    Bounce,
}

/// When to try, and how much at once.
#[derive(Debug, Clone)]
pub struct SchedulerSettings {
    /// Delivery threads at most.
    pub workers: usize,
    /// Transactions at once in one lane.
    pub connections_per_destination: usize,
    /// Recipients of one transaction.
    pub recipients_per_transaction: usize,
    /// `[retry] schedule`; the last repeats.
    pub schedule: Vec<Duration>,
    /// The longest `delay` of a `[[retry.rule]]`.
    pub longest_rule_delay: Duration,
    /// `[queue] lifetime` and `bounce_lifetime`.
    pub lifetimes: Lifetimes,
    /// What forms the lanes.
    pub routes: Arc<Routes>,
    /// `[[destination]]`.
    pub destinations: Arc<Destinations>,
}

/// `[[destination]]` in order; the first match holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Destinations(pub Vec<Destination>);

/// One `[[destination]]`: the operator's own limits for a lane or a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// What it limits.
    pub scope: LimitScope,
    /// Connections at once.
    pub connections: Option<usize>,
    /// Messages (transactions) a minute.
    pub messages_per_minute: Option<u32>,
}

/// Which lanes or hosts a `[[destination]]` limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LimitScope {
    /// Each lane of these domains.
    Domain(DomainPattern),
    /// Each MX host or relay with such a name.
    Mx(DomainPattern),
}

impl Destinations {
    /// The limits of a lane, by its name.
    pub fn of_lane(&self, lane: &str) -> Option<&Destination> {
        self.0.iter().find(|destination| match &destination.scope {
            // A route's lane is named after the pattern of the route.
            LimitScope::Domain(pattern) => match lane.strip_prefix(Route::LANE_PREFIX) {
                Some(route) => *pattern == DomainPattern::Any || pattern.to_string() == route,
                None => pattern.matches(lane),
            },
            LimitScope::Mx(_) => false,
        })
    }

    /// The limits of a host, by its name.
    pub fn of_mx(&self, host: &str) -> Option<&Destination> {
        let is_meant = |scope: &LimitScope| matches!(scope, LimitScope::Mx(pattern) if pattern.matches(host));
        self.0.iter().find(|destination| is_meant(&destination.scope))
    }
}

/// `[[route]]` in order; the first match wins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Routes(pub Vec<Route>);

/// One `[[route]]`: mail for `domain` goes to `relay` instead of its MX hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Which recipient domains.
    pub domain: DomainPattern,
    /// Tried in order; empty: by MX (a route that only sets `tls`).
    pub relay: Vec<RelayHost>,
    /// What TLS must be; none: what the domain's own policy says (DANE), else STARTTLS where offered.
    pub tls: Option<RouteTls>,
    /// PEM roots instead of the built-in ones.
    pub ca_file: Option<PathBuf>,
    /// AUTH at the relay.
    pub login: Option<Login>,
    /// Local addresses to send from; empty: those of `[delivery]`.
    pub source_addresses: Vec<IpAddr>,
}

impl Route {
    /// What the names of such lanes begin with.
    pub const LANE_PREFIX: &str = "route:";

    /// The lane of its mail, whatever the domain; none where a domain keeps its own, since there is no relay.
    pub fn lane(&self) -> Option<String> {
        (!self.relay.is_empty()).then(|| format!("{}{}", Route::LANE_PREFIX, self.domain))
    }

    /// Its smarthosts, for people; none where mail goes by MX.
    pub fn relays(&self) -> Option<String> {
        let named: Vec<String> = self.relay.iter().map(|to| format!("{}:{}", to.host, to.port)).collect();
        (!named.is_empty()).then(|| named.join(" "))
    }
}

/// A host of `[[route]] relay`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayHost {
    /// A name, or an address literal in brackets.
    pub host: Domain,
    /// Its port.
    pub port: u16,
}

/// `username`, and where its secret is to be had: a secret changes, and is fetched when it is needed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Login {
    /// `username`.
    pub username: String,
    /// `password_file`, `token_file` or `token_command`.
    pub secret: SecretSource,
}

/// `[[route]] tls`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteTls {
    /// Never STARTTLS.
    Off,
    /// STARTTLS where offered, unverified is fine.
    Opportunistic,
    /// STARTTLS or nothing; unverified is fine.
    Encrypt,
    /// STARTTLS with a certificate that holds for the host.
    Verify,
    /// TLS from the first byte, verified.
    Implicit,
}

/// `*`, `*.example.com` or `example.com`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DomainPattern {
    /// Every domain.
    Any,
    /// Every domain below this one, not itself.
    Below(String),
    /// This one.
    Exactly(String),
}

impl DomainPattern {
    /// Whether `domain` (in [`Domain`]'s form) is meant.
    pub fn matches(&self, domain: &str) -> bool {
        match self {
            DomainPattern::Any => true,
            DomainPattern::Exactly(name) => name == domain,
            DomainPattern::Below(parent) => {
                domain.strip_suffix(parent.as_str()).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
            }
        }
    }
}

impl std::fmt::Display for DomainPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DomainPattern::Any => f.write_str("*"),
            DomainPattern::Below(parent) => write!(f, "*.{parent}"),
            DomainPattern::Exactly(name) => f.write_str(name),
        }
    }
}

impl Routes {
    /// Whether there may be destinations whose own policy counts: not where each `[[route]]` up to one for `*` says
    /// where its mail goes, or how TLS is to be.
    pub fn leave_some_to_policies(&self) -> bool {
        let is_decided = |route: &Route| !route.relay.is_empty() || route.tls.is_some();
        let last = self.0.iter().position(|route| route.domain == DomainPattern::Any);
        last.is_none_or(|last| !self.0[..=last].iter().all(is_decided))
    }

    /// The first route that matches.
    pub fn find(&self, domain: &Domain) -> Option<&Route> {
        self.0.iter().find(|route| route.domain.matches(domain.as_str()))
    }

    /// The name of the lane that mail for `domain` waits in: `route:` and the pattern where a
    /// route with relays matches, the domain itself otherwise.
    pub fn lane(&self, domain: &Domain) -> Arc<str> {
        self.find(domain).and_then(Route::lane).map_or_else(|| domain.as_str().into(), Arc::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_count_where_some_mail_goes_by_mx_and_nobody_said_how() {
        let route = |domain: &str, relay: bool, tls| Route {
            domain: if domain == "*" {
                DomainPattern::Any
            } else {
                DomainPattern::Exactly(domain.to_owned())
            },
            relay: if relay {
                vec![RelayHost { host: Domain::parse("up.test").unwrap(), port: 25 }]
            } else {
                Vec::new()
            },
            tls,
            ca_file: None,
            login: None,
            source_addresses: Vec::new(),
        };
        let verify = Some(RouteTls::Verify);
        for (routes, counts) in [
            (vec![], true),
            (vec![route("a.test", true, None)], true),
            (vec![route("*", true, None)], false),
            (vec![route("*", false, verify)], false),
            (vec![route("*", false, None)], true),
            (vec![route("a.test", false, None), route("*", true, None)], true),
            (vec![route("a.test", false, verify), route("*", true, None)], false),
            (vec![route("*", true, None), route("a.test", false, None)], false),
        ] {
            assert_eq!(Routes(routes.clone()).leave_some_to_policies(), counts, "{routes:?}");
        }
    }

    #[test]
    fn a_pattern_below_a_domain_does_not_match_the_domain_or_a_look_alike() {
        let below = DomainPattern::Below("example.com".to_owned());
        assert!(below.matches("a.example.com"));
        assert!(below.matches("a.b.example.com"));
        assert!(!below.matches("example.com"));
        assert!(!below.matches("notexample.com"));
        assert!(!below.matches(".example.com"));
    }

    #[test]
    fn limits_are_found_by_lane_or_by_host_and_the_first_match_holds() {
        let given = |scope, connections| Destination {
            scope,
            connections: Some(connections),
            messages_per_minute: None,
        };
        let below = |name: &str| DomainPattern::Below(name.to_owned());
        let exactly = |name: &str| DomainPattern::Exactly(name.to_owned());
        let destinations = Destinations(vec![
            given(LimitScope::Domain(exactly("a.test")), 1),
            given(LimitScope::Domain(below("test")), 2),
            given(LimitScope::Mx(below("test")), 3),
            given(LimitScope::Domain(DomainPattern::Any), 4),
        ]);
        let lane = |name| destinations.of_lane(name).and_then(|given| given.connections);
        let mx = |name| destinations.of_mx(name).and_then(|given| given.connections);
        assert_eq!([lane("a.test"), lane("b.test"), lane("b.example")], [Some(1), Some(2), Some(4)]);
        assert_eq!(
            [lane("route:*.test"), lane("route:b.test"), lane("route:*")],
            [Some(2), Some(4), Some(4)]
        );
        assert_eq!([mx("mx.a.test"), mx("mx.example")], [Some(3), None]);
    }
}
