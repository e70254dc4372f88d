//! Opening a connection: connect, greeting, EHLO, STARTTLS, AUTH.
//!
//! A host that fails at TLS is led down a ladder (`ladder.rs`), each step on a fresh connection, and the step that
//! worked is remembered (`host/hosts.rs`), so that the next message does not climb down again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use lettre::transport::smtp::commands::{Ehlo, Quit, Starttls};
use lettre::transport::smtp::extension::ClientId;

use crate::clock::Clock;
use crate::config::{DeliverySettings, RouteTls};
use crate::mail::{Enhanced, Phase, Reply};

use crate::delivery::host::hosts::Hosts;
use crate::delivery::host::ladder::{Ladder, Learnt, Reached, Rung};
use crate::delivery::smtp::capabilities::Capabilities;
use crate::delivery::smtp::connection::{Connection, Trouble, WORDS_CHARS_MAX};
use crate::delivery::smtp::dial::{self, Dialled};
use crate::delivery::smtp::ehlo_names::EhloNames;
use crate::delivery::smtp::endpoint::Endpoint;
use crate::delivery::smtp::login::Logins;
use crate::delivery::smtp::reply_class::{Meaning, host_refusal, meaning};
use crate::delivery::smtp::timeouts::{Stage, words};
use crate::delivery::smtp::tls::{self, Hello, Proof, RootsError, Trusts};
use crate::delivery::smtp::wire::{Fault, Timeouts, Wire};

/// A handshake that takes longer has failed: some middleboxes swallow a ClientHello they do not
/// like, and the next step of the ladder needs its time too.
const HANDSHAKE_WAIT: Duration = Duration::from_secs(60);

/// Opens connections for all workers.
#[derive(Debug)]
pub struct Connector {
    names: EhloNames,
    connect_timeout: Duration,
    reply_timeout: Duration,
    next_source: AtomicUsize,
    trusts: Trusts,
    logins: Logins,
    pub(in crate::delivery) hosts: Arc<Hosts>,
}

/// Why a step of the ladder failed.
enum Failure {
    /// The handshake: the next step may do.
    Handshake(Trouble),
    /// Something that a smaller ClientHello does not change.
    Host(Trouble),
}

impl Connector {
    /// Reads the roots; the TLS configurations of routes are made when first used.
    ///
    /// # Errors
    /// Where `[delivery] ca_file` cannot be used.
    pub fn new(settings: &DeliverySettings) -> Result<Connector, RootsError> {
        Ok(Connector {
            names: EhloNames::new(settings),
            connect_timeout: settings.connect_timeout,
            reply_timeout: settings.reply_timeout,
            next_source: AtomicUsize::new(0),
            trusts: Trusts::new(settings.ca_file.as_deref())?,
            logins: Logins::default(),
            hosts: Arc::new(Hosts::in_memory(Clock::System)),
        })
    }

    /// From now on it knows of hosts what all know, and they what it finds.
    pub(in crate::delivery) fn share(&mut self, hosts: Arc<Hosts>) {
        self.hosts = hosts;
    }

    /// Opens a connection that is ready for MAIL.
    ///
    /// # Errors
    /// [`Trouble`] says where it ended, in whose words, and whether it means more than "try the next host".
    pub fn open(&self, endpoint: &Endpoint, deadline: Instant) -> Result<Connection, Trouble> {
        self.open_on(self.connect(endpoint, deadline)?, endpoint, deadline)
    }

    /// Connects to `first`, or to the other family's address of its host in `rest`: see [`dial::dial`].
    pub(in crate::delivery) fn dial(
        &self,
        first: Endpoint,
        rest: &mut VecDeque<Endpoint>,
        deadline: Instant,
    ) -> Dialled {
        // One turn for both: the addresses of either family come round alike.
        let turn = self.next_source.fetch_add(1, Ordering::Relaxed);
        let source = |endpoint: &Endpoint| {
            let count = endpoint.usable_sources().count();
            turn.checked_rem(count).and_then(|at| endpoint.usable_sources().nth(at))
        };
        let timeouts = Timeouts { wait: self.connect_timeout, deadline };
        dial::dial(first, rest, source, timeouts)
    }

    fn connect(&self, endpoint: &Endpoint, deadline: Instant) -> Result<Wire, Trouble> {
        self.dial(endpoint.clone(), &mut VecDeque::new(), deadline).wire
    }

    /// Makes a connection to `endpoint` ready for MAIL, as [`Connector::open`] does.
    pub(in crate::delivery) fn open_on(
        &self,
        wire: Wire,
        endpoint: &Endpoint,
        deadline: Instant,
    ) -> Result<Connection, Trouble> {
        let mut wire = Some(wire);
        let host = endpoint.name();
        let known = match endpoint.tls {
            RouteTls::Off => None,
            _ => self.hosts.recall(&host, "tls"),
        };
        let mut ladder = Ladder::new(endpoint.tls, endpoint.login.is_some(), known);
        loop {
            let fresh = match wire.take() {
                Some(wire) => wire,
                None => self.connect(endpoint, deadline)?,
            };
            let trouble = match self.open_at(fresh, ladder.rung(), endpoint, ladder.is_optional(), deadline) {
                Ok((mut connection, reached)) => {
                    match ladder.learnt(&reached) {
                        Learnt::Nothing => {}
                        Learnt::AllWell => self.hosts.ended(&host, "tls"),
                        Learnt::Needs(setting, why) => self.hosts.found(&host, setting, why),
                    }
                    if self.hosts.recall(&host, "pipelining").is_some() {
                        connection.capabilities.pipelining = false;
                    }
                    if connection.capabilities.chunking {
                        connection.capabilities.spare_bdat = self.hosts.recall(&host, "chunking").is_some();
                    }
                    return Ok(connection);
                }
                Err(Failure::Host(trouble)) => return Err(trouble),
                Err(Failure::Handshake(trouble)) => trouble,
            };
            if !ladder.descend(&trouble.reply) {
                return Err(trouble);
            }
            log::debug!("{}: {trouble}; trying again at {:?}", endpoint.host, ladder.rung());
        }
    }

    /// Makes a connection that a host opened and turned round ready for MAIL: its greeting, our EHLO. `tls` is
    /// what it is in already; `endpoint` says who it is, and that of it nothing is to be asked for.
    pub(in crate::delivery) fn welcome(
        &self,
        wire: Wire,
        tls: &str,
        endpoint: &Endpoint,
        deadline: Instant,
    ) -> Result<Connection, Trouble> {
        let mut connection = Connection::new(wire, endpoint.host.clone(), self.reply_timeout);
        tls.clone_into(&mut connection.tls);
        let name = self.names.at(None);
        let mut opening = Opening { connector: self, connection, endpoint, name, deadline };
        match opening.run(Rung::Clear, false) {
            Ok(_) => {
                // Should BDAT break it there is no other connection to go on with.
                opening.connection.capabilities.spare_bdat = true;
                Ok(opening.connection)
            }
            Err(Failure::Handshake(trouble) | Failure::Host(trouble)) => Err(trouble),
        }
    }

    /// One connection at this step, and how far it came: a refused STARTTLS leaves it in the clear.
    fn open_at(
        &self,
        wire: Wire,
        rung: Rung,
        endpoint: &Endpoint,
        optional: bool,
        deadline: Instant,
    ) -> Result<(Connection, Reached), Failure> {
        let name = self.names.at(wire.source());
        let connection = Connection::new(wire, endpoint.host.clone(), self.reply_timeout);
        let mut opening = Opening { connector: self, connection, endpoint, name, deadline };
        let reached = opening.run(rung, optional)?;
        Ok((opening.connection, reached))
    }
}

/// A connection on its way to being ready.
struct Opening<'a> {
    connector: &'a Connector,
    connection: Connection,
    endpoint: &'a Endpoint,
    /// What we call ourselves.
    name: &'a str,
    deadline: Instant,
}

impl Opening<'_> {
    fn run(&mut self, rung: Rung, optional: bool) -> Result<Reached, Failure> {
        let mut reached = Reached::Clear;
        if let (RouteTls::Implicit, Rung::Tls(hello)) = (self.endpoint.tls, rung) {
            self.handshake(hello)?;
            reached = Reached::Tls(hello);
        }
        let greeting = self.connection.hear(Phase::Greeting, self.deadline);
        self.expect_yes(Phase::Greeting, greeting)?;
        self.ehlo()?;
        if let (true, Rung::Tls(hello)) = (self.endpoint.tls != RouteTls::Implicit, rung) {
            reached = match self.starttls(optional)? {
                None => {
                    self.handshake(hello)?;
                    // RFC 3207 §4.2: what the host said before is forgotten.
                    self.ehlo()?;
                    Reached::Tls(hello)
                }
                Some(in_the_clear) => in_the_clear,
            };
        }
        if let Some(login) = &self.endpoint.login {
            let (connector, connection) = (self.connector, &mut self.connection);
            let answer = connector.logins.log_in(connection, self.endpoint, login, self.deadline);
            self.expect_yes(Phase::Auth, answer)?;
        }
        Ok(reached)
    }

    /// EHLO, or HELO for a host that does not know it (RFC 5321 §3.2).
    fn ehlo(&mut self) -> Result<(), Failure> {
        let name = self.name;
        let ehlo = Ehlo::new(ClientId::Domain(name.to_owned())).to_string();
        let answer = self.connection.ask(Phase::Ehlo, &ehlo, None, self.deadline);
        if let Ok(reply) = &answer
            && meaning(Phase::Ehlo, reply.code) == Meaning::Never
        {
            self.connection.capabilities = Capabilities::default();
            let helo = format!("HELO {name}\r\n");
            let answer = self.connection.ask(Phase::Ehlo, &helo, None, self.deadline);
            return self.expect_yes(Phase::Ehlo, answer).map(drop);
        }
        let reply = self.expect_yes(Phase::Ehlo, answer)?;
        self.connection.capabilities = Capabilities::read(&reply);
        Ok(())
    }

    /// None where the host is ready for the handshake; otherwise the mail may go in the clear, and has to.
    fn starttls(&mut self, optional: bool) -> Result<Option<Reached>, Failure> {
        match (self.connection.capabilities.starttls, optional) {
            (true, _) => {}
            (false, true) => return Ok(Some(Reached::NotOffered)),
            (false, false) => return Err(self.our_trouble(Phase::Starttls, &NO_STARTTLS)),
        }
        let answer = self.connection.ask(Phase::Starttls, &Starttls.to_string(), None, self.deadline);
        if let Ok(reply) = &answer
            && optional
            && matches!(meaning(Phase::Starttls, reply.code), Meaning::NotNow | Meaning::Never)
        {
            // RFC 3207 §4: after 454 it is for the client to decide whether it goes on.
            return Ok(Some(Reached::Refused(reply.clone())));
        }
        self.expect_yes(Phase::Starttls, answer).map(|_| None)
    }

    fn handshake(&mut self, hello: Hello) -> Result<(), Failure> {
        let proof = match self.endpoint.tls {
            RouteTls::Verify | RouteTls::Implicit => Proof::Required,
            RouteTls::Off | RouteTls::Opportunistic | RouteTls::Encrypt => Proof::Recorded,
        };
        let trust = self.connector.trusts.of(self.endpoint.ca_file.as_deref());
        let trust =
            trust.map_err(|error| self.our_trouble(Phase::Starttls, &tls_words(error.to_string())))?;
        let name = match (tls::peer_name(&self.endpoint.host), proof) {
            (Some(name), _) => name,
            // Without a name that TLS can carry, the address will do where nothing is proved.
            (None, Proof::Recorded) => self.endpoint.address.ip().into(),
            (None, Proof::Required) => {
                let text = format!("no certificate can hold for the name {}", self.endpoint.host);
                return Err(self.our_trouble(Phase::Starttls, &tls_words(text)));
            }
        };
        let wait = HANDSHAKE_WAIT.min(self.connector.reply_timeout);
        let timeouts = Timeouts { wait, deadline: self.deadline };
        let shaken = self.connection.wire.start_tls(trust.config(proof, hello), name.clone(), timeouts);
        match shaken {
            Ok(tls) => {
                self.connection.tls = trust.describe(tls, &name);
                if tls.handshake_kind() == Some(rustls::HandshakeKind::Resumed) {
                    log::debug!("{}: TLS session resumed", self.endpoint.host);
                }
                Ok(())
            }
            Err(fault) => {
                let trouble = self.trouble(Phase::Starttls, words(&fault, Stage::of(Phase::Starttls)));
                let is_final = match fault {
                    // Somebody who injects replies gets no second connection to do it on.
                    Fault::OutOfTurn | Fault::Deadline => true,
                    // A certificate that does not hold will not hold with a smaller ClientHello.
                    Fault::Tls(rustls::Error::InvalidCertificate(_)) => proof == Proof::Required,
                    _ => false,
                };
                Err(if is_final { Failure::Host(trouble) } else { Failure::Handshake(trouble) })
            }
        }
    }

    /// The reply, where it is 2xx; otherwise what it means for this host.
    fn expect_yes(&mut self, phase: Phase, answer: Result<Reply, Fault>) -> Result<Reply, Failure> {
        match answer {
            Ok(reply) if meaning(phase, reply.code) == Meaning::Yes => Ok(reply),
            Ok(reply) => {
                // The host still listens: leave as RFC 5321 §3.1 wants it, without waiting for the 221.
                let timeouts = Timeouts { wait: Duration::from_secs(1), deadline: self.deadline };
                let _ = self.connection.wire.send(Quit.to_string().as_bytes(), timeouts);
                Err(Failure::Host(self.trouble(phase, reply)))
            }
            Err(fault) => Err(Failure::Host(self.trouble(phase, words(&fault, Stage::of(phase))))),
        }
    }

    fn trouble(&self, phase: Phase, reply: Reply) -> Trouble {
        let kind = host_refusal(phase, reply.code, self.endpoint.relay);
        let reply = reply.cut(WORDS_CHARS_MAX);
        Trouble { phase, reply, tls: Some(self.connection.tls.clone()), kind }
    }

    fn our_trouble(&self, phase: Phase, ours: &Reply) -> Failure {
        Failure::Host(self.trouble(phase, ours.clone()))
    }
}

/// RFC 3463 §3.8: 4.7.4, security features not supported.
const NO_STARTTLS: Reply = Reply::new(
    451,
    Enhanced(4, 7, 4),
    "the host offers no STARTTLS, and this route must not go in the clear",
);

fn tls_words(text: String) -> Reply {
    Reply::new(451, Enhanced(4, 7, 5), "").with_text(text)
}
