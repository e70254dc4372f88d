//! Opening a connection: connect, greeting, EHLO, STARTTLS, AUTH, once, in the way that a profile says.
//!
//! What to do where that fails is decided by whoever asks.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use lettre::transport::smtp::commands::{Ehlo, Quit, Starttls};
use lettre::transport::smtp::extension::ClientId;

use crate::config::{DeliverySettings, RouteTls};
use crate::mail::{Phase, Reply, TlsPolicy};

use crate::delivery::smtp::capabilities::Capabilities;
use crate::delivery::smtp::connection::{Connection, OpenFailure};
use crate::delivery::smtp::dial::{self, Dialled};
use crate::delivery::smtp::ehlo_names::EhloNames;
use crate::delivery::smtp::endpoint::Endpoint;
use crate::delivery::smtp::failure::{Failure, TlsFailure};
use crate::delivery::smtp::login::Logins;
use crate::delivery::smtp::profile::{Profile, TlsLevel};
use crate::delivery::smtp::reply_class::ReplyClass;
use crate::delivery::smtp::stop::Stop;
use crate::delivery::smtp::timeouts::Stage;
use crate::delivery::smtp::tls::dane::Mismatch;
use crate::delivery::smtp::tls::{self, ClientHelloKind, Encryption, Proof, RootsError, Trusts};
use crate::delivery::smtp::wire::{Fault, Timeouts, Wire};

/// A handshake that takes longer has failed: some middleboxes swallow a ClientHello they do not
/// like, and another try without it needs its time too.
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
    stop: Stop,
    generation: u64,
}

/// A connection that is ready for MAIL.
#[derive(Debug)]
pub struct Opened {
    /// The connection.
    pub connection: Connection,
    /// What came of TLS on the way.
    pub tls: TlsResult,
}

/// What came of TLS on a connection that stands.
#[derive(Debug, Clone, PartialEq)]
pub enum TlsResult {
    /// It was not to be tried.
    Unused,
    /// The handshake went well.
    InUse,
    /// The host offers none, and the mail may go in the clear.
    NotOffered,
    /// The host refused STARTTLS like this, and the mail may go in the clear.
    Refused(Failure),
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
            stop: Stop::default(),
            generation: 0,
        })
    }

    /// Its connections heed this stop, and bear the number of these settings.
    pub(in crate::delivery) fn begin(&mut self, stop: Stop, generation: u64) {
        (self.stop, self.generation) = (stop, generation);
    }

    /// The relay stops.
    pub(in crate::delivery) fn is_stopping(&self) -> bool {
        self.stop.has_begun()
    }

    /// Connects to `endpoint`, and makes the connection ready for MAIL.
    ///
    /// # Errors
    /// Says where it ended.
    pub fn open(
        &self,
        endpoint: &Endpoint,
        profile: Profile,
        deadline: Instant,
    ) -> Result<Opened, OpenFailure> {
        let wire = self.dial(endpoint.clone(), &mut VecDeque::new(), deadline).wire;
        let wire = wire.map_err(OpenFailure::unconnected)?;
        self.open_on(wire, endpoint, profile, deadline)
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
        dial::dial(first, rest, source, timeouts, &self.stop)
    }

    /// Makes a connection to `endpoint` ready for MAIL, as [`Connector::open`] does.
    pub(in crate::delivery) fn open_on(
        &self,
        wire: Wire,
        endpoint: &Endpoint,
        profile: Profile,
        deadline: Instant,
    ) -> Result<Opened, OpenFailure> {
        let name = self.names.at(wire.source());
        let hello = match (endpoint.tls, profile.tls) {
            (RouteTls::Off, _) => None,
            (_, TlsLevel::Plaintext) if endpoint.may_be_plaintext() => None,
            (_, TlsLevel::NoPostQuantum) => Some(ClientHelloKind::Classical),
            (_, TlsLevel::Full | TlsLevel::Plaintext) => Some(ClientHelloKind::Full),
        };
        let mut connection = Connection::new(wire, endpoint.host.clone(), profile, self.reply_timeout);
        connection.generation = self.generation;
        let mut opening = Opening { connector: self, connection, endpoint, name, deadline };
        match opening.run(hello) {
            Ok(tls) => Ok(Opened { connection: opening.connection, tls }),
            Err(failure) => Err(OpenFailure::of(failure, opening.connection)),
        }
    }

    /// Makes a connection that a host opened and turned round ready for MAIL: its greeting, our EHLO. `tls` is
    /// what it is in already; `endpoint` says who it is, and that of it nothing is to be asked for.
    pub(in crate::delivery) fn welcome(
        &self,
        mut wire: Wire,
        tls: Encryption,
        endpoint: &Endpoint,
        deadline: Instant,
    ) -> Result<Connection, OpenFailure> {
        // Should BDAT break it there is no other connection to go on with.
        let profile = Profile { chunking: false, ..Profile::FULL };
        wire.heed(self.stop.clone());
        let mut connection = Connection::new(wire, endpoint.host.clone(), profile, self.reply_timeout);
        connection.tls = tls;
        let name = self.names.at(None);
        let mut opening = Opening { connector: self, connection, endpoint, name, deadline };
        match opening.run(None) {
            Ok(_) => Ok(opening.connection),
            Err(failure) => Err(OpenFailure::of(failure, opening.connection)),
        }
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
    /// With TLS that begins like this; none: without.
    fn run(&mut self, hello: Option<ClientHelloKind>) -> Result<TlsResult, Failure> {
        let implicit = hello.filter(|_| self.endpoint.tls == RouteTls::Implicit);
        if let Some(hello) = implicit {
            self.handshake(hello)?;
        }
        let greeting = self.connection.hear(Phase::Greeting, self.deadline);
        self.expect_yes(Phase::Greeting, greeting)?;
        self.ehlo()?;
        let tls = match hello {
            None => TlsResult::Unused,
            Some(_) if implicit.is_some() => TlsResult::InUse,
            Some(hello) => self.starttls(hello)?,
        };
        if let Some(login) = &self.endpoint.login {
            let (connector, connection) = (self.connector, &mut self.connection);
            let refusal = connector.logins.log_in(connection, self.endpoint, login, self.deadline).err();
            if let Some(failure) = refusal {
                self.leave(&failure);
                return Err(failure);
            }
        }
        Ok(tls)
    }

    /// EHLO, or HELO for a host that does not know it (RFC 5321 §3.2).
    fn ehlo(&mut self) -> Result<(), Failure> {
        let name = self.name;
        let ehlo = Ehlo::new(ClientId::Domain(name.to_owned())).to_string();
        let answer = self.connection.ask(Phase::Ehlo, &ehlo, None, self.deadline);
        if let Ok(reply) = &answer
            && ReplyClass::of(Phase::Ehlo, reply.code) == ReplyClass::Permanent
        {
            self.connection.capabilities = Arc::default();
            let helo = format!("HELO {name}\r\n");
            let answer = self.connection.ask(Phase::Ehlo, &helo, None, self.deadline);
            return self.expect_yes(Phase::Ehlo, answer).map(drop);
        }
        let reply = self.expect_yes(Phase::Ehlo, answer)?;
        self.connection.capabilities = Arc::new(Capabilities::read(&reply));
        Ok(())
    }

    /// Starts TLS, or says why the mail may go in the clear, and has to.
    fn starttls(&mut self, hello: ClientHelloKind) -> Result<TlsResult, Failure> {
        let optional = self.endpoint.may_be_plaintext();
        if !self.connection.capabilities.starttls {
            return if optional {
                Ok(TlsResult::NotOffered)
            } else {
                Err(Failure::Tls(TlsFailure::NotOffered(self.endpoint.policy)))
            };
        }
        let answer = self.connection.ask(Phase::Starttls, &Starttls.to_string(), None, self.deadline);
        if let Ok(reply) = &answer
            && optional
            && matches!(
                ReplyClass::of(Phase::Starttls, reply.code),
                ReplyClass::Transient | ReplyClass::Permanent
            )
        {
            // RFC 3207 §4: after 454 it is for the client to decide whether it goes on.
            let reply = reply.clone();
            return Ok(TlsResult::Refused(Failure::Refused { phase: Phase::Starttls, reply }));
        }
        self.expect_yes(Phase::Starttls, answer)?;
        self.handshake(hello)?;
        // RFC 3207 §4.2: what the host said before is forgotten.
        self.ehlo()?;
        Ok(TlsResult::InUse)
    }

    fn handshake(&mut self, hello: ClientHelloKind) -> Result<(), Failure> {
        let proof = if self.endpoint.must_verify() { Proof::Required } else { Proof::Recorded };
        let trust = self.connector.trusts.of(self.endpoint.ca_file.as_deref());
        let trust = trust.map_err(|error| Failure::Tls(TlsFailure::Roots(error.to_string())))?;
        let dane = self.endpoint.dane.as_ref();
        // RFC 7672 §8.1: SNI is the TLSA base domain.
        let host = dane.map_or(&self.endpoint.host, |tlsa| &tlsa.base);
        let name = match (tls::peer_name(host), proof) {
            (Some(name), _) => name,
            // Without a name that TLS can carry, the address will do where nothing is proved.
            (None, Proof::Recorded) => self.endpoint.address.ip().into(),
            (None, Proof::Required) => {
                return Err(Failure::Tls(TlsFailure::NoName(self.endpoint.host.clone())));
            }
        };
        let wait = HANDSHAKE_WAIT.min(self.connector.reply_timeout);
        let timeouts = Timeouts { wait, deadline: self.deadline };
        let handshake = match dane {
            Some(tlsa) => trust.by_dane(tlsa, hello),
            None => trust.handshake(proof, hello, &name),
        };
        let config = Arc::clone(&handshake.config);
        let shaken = self.connection.wire.start_tls(config, name.clone(), timeouts);
        let tls = shaken.map_err(|fault| {
            let mismatch = if let Fault::Tls(error) = &fault { Mismatch::in_error(error) } else { None };
            Failure::Tls(mismatch.map_or_else(|| TlsFailure::Handshake(fault), TlsFailure::Dane))
        })?;
        let (encryption, refusal) = trust.describe(&handshake, tls, &name);
        self.connection.tls = encryption;
        let cipher = tls.negotiated_cipher_suite().map(|suite| suite.suite());
        let resumed = match tls.handshake_kind() {
            Some(rustls::HandshakeKind::Resumed) => ", session resumed",
            _ => "",
        };
        let unverified = match &refusal {
            Some(why) => format!(", not verified: {why}"),
            None => String::new(),
        };
        let cipher = cipher.and_then(|cipher| cipher.as_str()).unwrap_or("another cipher");
        let dialogue = &mut self.connection.dialogue;
        dialogue.note(format_args!("TLS: {encryption}, {cipher}{resumed}{unverified}"));
        // For the reports on TLS: nothing is enforced.
        if self.endpoint.policy == TlsPolicy::StsTesting && !encryption.is_verified() {
            self.connection.refusal = refusal.or_else(|| trust.refusal(tls, &name));
        }
        Ok(())
    }

    /// The reply, where it is 2xx.
    fn expect_yes(&mut self, phase: Phase, answer: Result<Reply, Fault>) -> Result<Reply, Failure> {
        let failure = match answer {
            Ok(reply) => match ReplyClass::of(phase, reply.code) {
                ReplyClass::Positive => return Ok(reply),
                ReplyClass::Transient | ReplyClass::Permanent | ReplyClass::Closing => {
                    Failure::Refused { phase, reply }
                }
                ReplyClass::Intermediate | ReplyClass::Invalid => Failure::BadReply { phase, reply },
            },
            Err(fault) => Failure::no_reply(Stage::of(phase), fault),
        };
        self.leave(&failure);
        Err(failure)
    }

    /// Where the host still listens: as RFC 5321 §3.1 wants it, without waiting for the 221.
    fn leave(&mut self, failure: &Failure) {
        if !matches!(failure, Failure::NoReply { .. }) {
            let timeouts = Timeouts { wait: Duration::from_secs(1), deadline: self.deadline };
            let _ = self.connection.wire.send(Quit.to_string().as_bytes(), timeouts);
        }
    }
}
