//! One session: the loop that reads lines, asks `protocol.rs` what they mean and does what it says.
//!
//! Nothing is decided here but time, counts and the end of the connection: bad commands, failed
//! logins, silence, drips, and the relay's own stopping.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use rustls::ServerConnection;

use crate::config::{ListenSettings, ListenTls};
use crate::mail::{Domain, Reply};
use crate::maillog;
use crate::queue::Asker;
use crate::sasl::{self, ChannelBinding};

use super::Service;
use super::aliases::Aliases;
use super::atrn::{OnDemand, Turned, Waiting};
use super::auth::{Claim, Offer};
use super::command::{self, Command, SyntaxError};
use super::etrn::{self, Recent};
use super::failures::Failures;
use super::handshake::Handshakes;
use super::intake::MessageQueue;
use super::pool::Presence;
use super::private::{self, Insight};
use super::protocol::{self, Action, Here, State, Step, Tls};
use super::rates::{Counted, Rates};
use super::replies;
use super::transfer::Incoming;
use super::users;
use super::wire::{Line, Wire, WireError};

/// All that a session works with.
pub(super) struct Session<'a> {
    pub(super) wire: Wire,
    pub(super) client: IpAddr,
    /// What holds for this session from its start to its end, whatever is reloaded meanwhile.
    pub(super) service: &'a Service,
    pub(super) listener: &'a ListenSettings,
    pub(super) queue: &'a dyn MessageQueue,
    pub(super) failures: &'a Failures,
    pub(super) rates: &'a Rates,
    pub(super) kicks: &'a Recent,
    pub(super) insight: &'a dyn Insight,
    pub(super) handshakes: &'a Handshakes,
    pub(super) presence: &'a Presence,
    pub(super) on_demand: &'a dyn OnDemand,
    /// What this session has been through.
    pub(super) course: Course<'a>,
}

/// What changes in the course of a session and is not the protocol's state.
#[derive(Default)]
pub(super) struct Course<'a> {
    /// Made before the 220 to STARTTLS, for the handshake behind it.
    handshake: Option<Box<ServerConnection>>,
    /// Of the TLS connection.
    channel: Option<ChannelBinding>,
    /// The message under way, in its user's rate.
    pub(super) counted: Option<Counted<'a>>,
    /// The name that failed to authenticate last, and how many times in a row.
    failed: (String, u32),
    /// The message that chunks are coming of.
    pub(super) incoming: Option<Incoming<'a>>,
}

/// Why a session ends. The reply that says so was given already.
pub(super) enum End {
    /// QUIT.
    Quit,
    /// We sent the client away; it may not have noticed yet.
    SentAway,
    /// The connection ended by itself.
    Lost,
    /// The client is to be the server from now on.
    Turned(Turning),
}

/// Whose mail is to be handed over, and to whom.
pub(super) struct Turning {
    name: String,
    user: String,
    domains: Vec<Domain>,
}

/// How the session's loop goes on.
pub(super) type Flow = Result<State, End>;

impl<'a> Session<'a> {
    /// Runs to the end of the connection.
    pub(super) fn run(mut self) {
        let end = self.converse();
        // Before the client can see the end and come again.
        self.course.counted = None;
        match end {
            End::Quit => self.wire.close(false),
            End::SentAway => self.wire.close(true),
            End::Lost => {}
            End::Turned(turning) => self.hand_over(turning),
        }
    }

    fn converse(&mut self) -> End {
        let mut encrypted = false;
        if self.listener.tls == ListenTls::Implicit {
            if let Err(end) = self.start_tls() {
                return end;
            }
            encrypted = true;
        }
        if let Err(end) = self.say(&replies::greeting(&self.service.hostname)) {
            return end;
        }
        let mut state = State::Connected;
        let mut errors = Errors::default();
        loop {
            match self.turn(state, &mut encrypted, &mut errors) {
                Ok(next) => state = next,
                Err(end) => return end,
            }
        }
    }

    /// One line and what comes of it.
    fn turn(&mut self, state: State, encrypted: &mut bool, errors: &mut Errors) -> Flow {
        if !state.in_transaction() && !self.presence.wait_begins() {
            return Err(self.send_away(&replies::SHUTTING_DOWN));
        }
        let line = match self.wire.read_line() {
            Ok(line) => line,
            Err(error) => return Err(self.no_more_input(error)),
        };
        self.presence.wait_ends();
        let auth = offer(self.service, self.course.channel, &state);
        let mut here = here(self.service, self.listener, self.client, *encrypted, auth);
        let log = log::log_enabled!(log::Level::Debug);
        let is_response = matches!(state, State::Authenticating(..));
        let mut verb = Verb::Other;
        let step = match line {
            Line::TlsHello => return Err(self.send_away(&replies::NOT_SMTP)),
            Line::Text(line) if is_response => {
                if log {
                    log::debug!("{}: C: (response)", self.client);
                }
                protocol::respond(state, line)
            }
            Line::Text(line) => {
                let command = command::parse(line);
                if log {
                    log_command(self.client, line, &command);
                }
                verb = Verb::of(line);
                if here.tls == Tls::Offered && command == Ok(Command::Starttls) {
                    // Before the 220 is said: behind it there is only a handshake or the end (RFC 3207 §4).
                    match tls_connection(self.service) {
                        Ok(connection) => self.course.handshake = Some(Box::new(connection)),
                        Err(error) => {
                            log::error!("the certificate cannot be used: {error}; mend [tls] and reload");
                            here.tls = Tls::Unusable;
                        }
                    }
                }
                protocol::step(state, command, &here)
            }
            Line::TooLong => protocol::step(state, Err(SyntaxError::TooLong), &here),
            Line::BareLf => protocol::step(state, Err(SyntaxError::BareLf), &here),
        };
        let step = match step.action {
            Action::Reserve(bytes) => self.reserve(step, bytes),
            _ => step,
        };
        if !matches!(step.state, State::Chunks(_)) && !matches!(step.action, Action::ReceiveChunk(..)) {
            self.course.incoming = None;
        }
        let Step { state, reply, action } = step;
        if let Some(reply) = &reply {
            errors.count(verb, reply);
        }
        if errors.bad > self.service.limits.errors {
            maillog::turned_away(self.client, "too many errors");
            return Err(self.send_away(&replies::TOO_MANY_ERRORS));
        }
        let next = self.perform(state, reply, action, encrypted)?;
        if !next.in_transaction() {
            // Whatever is not queued by now does not count.
            self.course.counted = None;
        }
        Ok(next)
    }

    /// MAIL was fine; whether there is room for the message, in the queue and in its user's rate.
    fn reserve(&mut self, step: Step, bytes: u64) -> Step {
        if !self.queue.has_room(bytes) {
            return protocol::no_room(step.state);
        }
        let Some(user) = step.state.client().and_then(|client| client.user.as_ref()) else { return step };
        match self.rates.count(user, Instant::now()) {
            Ok(counted) => {
                self.course.counted = counted;
                step
            }
            Err(too_many) => {
                maillog::turned_away(self.client, &format!("user {}: more messages than may be", user.name));
                protocol::too_many(step.state, too_many)
            }
        }
    }

    fn perform(&mut self, state: State, reply: Option<Reply>, action: Action, encrypted: &mut bool) -> Flow {
        if let Action::Skip(bytes) = action {
            self.skip(bytes)?;
        }
        if let Some(reply) = &reply {
            self.say(reply)?;
        }
        match action {
            Action::Continue | Action::Reserve(_) | Action::Skip(_) => Ok(state),
            Action::Close => Err(match reply {
                Some(reply) if reply.is_positive() => End::Quit,
                _ => {
                    maillog::turned_away(self.client, "what came could not be read as SMTP");
                    End::SentAway
                }
            }),
            Action::StartTls => {
                self.start_tls()?;
                *encrypted = true;
                Ok(state)
            }
            Action::Verify(claim) => self.verify(state, claim, encrypted),
            Action::Welcome => {
                self.welcome(&state);
                Ok(state)
            }
            Action::Failed(name) => {
                self.failed(name);
                Ok(state)
            }
            Action::Receive(envelope) => {
                let reply = self.receive(&state, envelope, *encrypted)?;
                self.say(&reply)?;
                Ok(state)
            }
            Action::ReceiveChunk(chunk, envelope) => self.receive_chunk(state, chunk, envelope, *encrypted),
            Action::Turn(domains) => self.turn_round(state, domains),
            Action::Kick(node) => {
                let user = state.user().map(|user| user.name.clone());
                let asker = Asker { user, client: Some(self.client) };
                let reply = etrn::kick(&node, &asker, self.kicks, self.queue, self.insight);
                self.say(&reply)?;
                Ok(state)
            }
            Action::Ask(question) => {
                let reply = private::told(self.insight.answer(&question));
                self.say(&reply)?;
                Ok(state)
            }
        }
    }

    /// ATRN: whatever there is to be refused is refused here; a connection turns round only for mail that waits.
    fn turn_round(&mut self, state: State, domains: Vec<Domain>) -> Flow {
        let Some((name, user)) = state
            .client()
            .and_then(|client| client.user.as_ref().map(|user| (client.name.clone(), user.name.clone())))
        else {
            return Ok(state);
        };
        if self.wire.has_input() {
            self.say(&replies::ATRN_NOT_LAST)?;
            return Ok(state);
        }
        let waiting = self.on_demand.look(&user, &domains);
        self.say(&waiting.reply())?;
        if waiting == Waiting::Mail { Err(End::Turned(Turning { name, user, domains })) } else { Ok(state) }
    }

    fn hand_over(self, turning: Turning) {
        let Turning { name, user, domains } = turning;
        // The client is gone already where this fails.
        let Ok((socket, tls)) = self.wire.into_parts() else { return };
        let client = self.client;
        self.on_demand.hand_over(Turned { socket, tls, client, name, user, domains });
    }

    fn verify(&mut self, state: State, claim: Claim, encrypted: &mut bool) -> Flow {
        let failures_max = self.service.limits.auth_failures;
        if self.failures.count(self.client, Instant::now()) >= failures_max {
            maillog::turned_away(self.client, "too many failed authentications");
            return Err(self.send_away(&replies::AUTH_TOO_MANY_FAILURES));
        }
        let Step { state, reply, action } = protocol::turn(state, claim.put_to(&*self.service.users));
        self.perform(state, reply, action, encrypted)
    }

    fn failed(&mut self, name: String) {
        self.failures.record(self.client, Instant::now());
        let shown: String = name.chars().take(users::NAME_CHARS_MAX).collect();
        maillog::turned_away(self.client, &format!("authentication failed for {shown:?}"));
        match &mut self.course.failed {
            (last, times) if *last == name => *times += 1,
            // A name that is too long is no user's, and never makes it good.
            failed => *failed = (shown, 1),
        }
    }

    /// Who fails and then has the password after all did not guess it: a client that prefers CRAM-MD5 does so
    /// each time where its user has PLAIN only, and must not be shut out for it.
    fn welcome(&mut self, state: &State) {
        let (name, times) = std::mem::take(&mut self.course.failed);
        let user = state.client().and_then(|client| client.user.as_ref());
        if times > 0 && user.is_some_and(|user| user.name == name) {
            self.failures.forgive(self.client, times);
        }
    }

    fn start_tls(&mut self) -> Result<(), End> {
        let client = self.client;
        let failed = |error: &dyn std::fmt::Display| {
            maillog::turned_away(client, &format!("TLS handshake failed: {error}"));
            End::Lost
        };
        let connection = match self.course.handshake.take() {
            Some(prepared) => prepared,
            None => Box::new(tls_connection(self.service).map_err(|error| failed(&error))?),
        };
        self.wire.start_tls(connection, self.handshakes).map_err(|error| failed(&error))?;
        self.course.channel = self.wire.channel_binding();
        Ok(())
    }

    pub(super) fn say(&mut self, reply: &Reply) -> Result<(), End> {
        log::debug!("{}: S: {reply}", self.client);
        self.wire.reply(reply).map_err(|_| End::Lost)
    }

    /// A last reply before we close.
    pub(super) fn send_away(&mut self, reply: &Reply) -> End {
        match self.say(reply) {
            Ok(()) => End::SentAway,
            Err(end) => end,
        }
    }

    pub(super) fn no_more_input(&mut self, error: WireError) -> End {
        match error {
            WireError::Flood => {
                maillog::turned_away(self.client, "line without end");
                self.send_away(&replies::LINE_WITHOUT_END)
            }
            // The pool ended our reading.
            WireError::Closed if self.presence.is_stopping() => self.send_away(&replies::SHUTTING_DOWN),
            WireError::TimedOut if self.wire.is_over() => {
                maillog::turned_away(self.client, "session too long");
                self.send_away(&replies::SESSION_TOO_LONG)
            }
            WireError::TimedOut => self.send_away(&replies::TIMED_OUT),
            WireError::Closed | WireError::Io(_) => End::Lost,
        }
    }
}

/// What a line was about, as far as counting errors goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Mail,
    Rcpt,
    Data,
    Bdat,
    Other,
}

impl Verb {
    fn of(line: &[u8]) -> Verb {
        let is = |verb: &[u8]| line.get(..4).is_some_and(|head| head.eq_ignore_ascii_case(verb));
        match () {
            () if is(b"MAIL") => Verb::Mail,
            () if is(b"RCPT") => Verb::Rcpt,
            () if is(b"DATA") => Verb::Data,
            () if is(b"BDAT") => Verb::Bdat,
            () => Verb::Other,
        }
    }
}

/// Counts commands that could not be understood, were out of order or not allowed. Not counted is what an
/// honest client meets: a recipient refused, and what it pipelined behind a MAIL or a chunk that was refused.
#[derive(Debug, Default)]
struct Errors {
    bad: usize,
    mail_refused: bool,
}

impl Errors {
    fn count(&mut self, verb: Verb, reply: &Reply) {
        match verb {
            Verb::Mail => self.mail_refused = reply.code >= 400,
            Verb::Rcpt | Verb::Data | Verb::Bdat => {}
            Verb::Other => self.mail_refused = false,
        }
        let counts = match (verb, reply.code) {
            (_, ..=499) => false,
            // RFC 3030 §2: pipelined behind a chunk that was refused, or behind anything else.
            (Verb::Bdat, 503) => false,
            (Verb::Rcpt | Verb::Data, 503) => !self.mail_refused,
            (Verb::Rcpt, 501) | (Verb::Mail | Verb::Rcpt | Verb::Data | Verb::Bdat, 550..=554) => false,
            // Failed authentications have a count of their own.
            (Verb::Other, 535) => false,
            _ => true,
        };
        self.bad += usize::from(counts);
    }
}

fn here<'a>(
    service: &'a Service,
    listener: &'a ListenSettings,
    client: IpAddr,
    encrypted: bool,
    auth: Offer,
) -> Here<'a> {
    Here {
        hostname: &service.hostname,
        tls: match listener.tls {
            _ if encrypted => Tls::Active,
            ListenTls::Starttls => Tls::Offered,
            ListenTls::Implicit | ListenTls::Off => Tls::No,
        },
        loopback: listener.address.ip().to_canonical().is_loopback(),
        trusted: listener.trusted.iter().any(|network| network.contains(&client)),
        auth_required: listener.auth_required,
        auth,
        message_size_max: service.limits.message_size,
        recipients_max: service.limits.recipients,
        hold_secs_max: service.limits.future_release.map(|max| max.as_secs().try_into().unwrap_or(i64::MAX)),
        now: unix_now(),
        aliases: Aliases { names: &service.aliases, hostname: &service.hostname },
    }
}

fn offer(service: &Service, channel: Option<ChannelBinding>, state: &State) -> Offer {
    let anonymous = state.client().is_none_or(|client| client.user.is_none());
    // Asked only where the answer can matter.
    let cram_md5 = anonymous && service.users.has_cram_md5();
    Offer { channel, cram_md5, atrn: anonymous && service.users.has_atrn(), nonce: sasl::nonce }
}

/// The dialogue in the debug log. What follows AUTH stays out of it, and so does a line that is no
/// command: it may be the password of a client that did not wait for our 504.
fn log_command(client: IpAddr, line: &[u8], command: &Result<Command, SyntaxError>) {
    match command {
        Ok(Command::Auth { mechanism, .. }) => log::debug!("{client}: C: AUTH {mechanism} …"),
        Ok(_) => log::debug!("{client}: C: {}", String::from_utf8_lossy(line)),
        Err(error) => log::debug!("{client}: C: ({} bytes: {error:?})", line.len()),
    }
}

/// The server's side of a TLS connection to be.
fn tls_connection(service: &Service) -> Result<ServerConnection, rustls::Error> {
    match &service.tls {
        Some(config) => ServerConnection::new(Arc::clone(config)),
        // A listener with TLS has a certificate: Service::new sees to that.
        None => Err(rustls::Error::General("there is no [tls] certificate".to_owned())),
    }
}

/// Unix seconds.
pub(super) fn unix_now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_secs().try_into().unwrap_or(i64::MAX)
}
