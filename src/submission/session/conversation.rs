//! One session: the loop that reads lines, asks `protocol.rs` what they mean and does what it says.
//!
//! Nothing is decided here but time and the end of the connection: too many bad commands (`errors.rs` counts
//! them), silence, drips, and the relay's own stopping. Content is `transfer.rs`'s to bring in, logins are
//! `login.rs`'s to verify, and a connection that turns round is `atrn.rs`'s to hand over.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use rustls::ServerConnection;

use crate::config::{ListenSettings, ListenTls};
use crate::mail::Reply;
use crate::maillog;
use crate::queue::Asker;
use crate::sasl::ChannelBinding;

use crate::submission::Service;
use crate::submission::auth::Offer;
use crate::submission::limits::errors::{Errors, Verb};
use crate::submission::limits::failures::Failures;
use crate::submission::limits::rates::{Counted, Rates};
use crate::submission::message::intake::MessageQueue;
use crate::submission::protocol::aliases::Aliases;
use crate::submission::protocol::atrn::{OnDemand, Turning};
use crate::submission::protocol::etrn::{self, Recent};
use crate::submission::protocol::operator_commands::{self, Insight};
use crate::submission::protocol::state::{self, Action, Here, State, Step, Tls};
use crate::submission::replies;
use crate::submission::session::login::offer;
use crate::submission::session::pool::Presence;
use crate::submission::session::transfer::Incoming;
use crate::submission::syntax::command::{self, Command, SyntaxError};
use crate::submission::wire::connection::{Line, Wire, WireError};
use crate::submission::wire::handshake::Handshakes;

/// All that a session works with.
pub(in crate::submission) struct Session<'a> {
    pub(in crate::submission) wire: Wire,
    pub(in crate::submission) client: IpAddr,
    /// What holds for this session from its start to its end, whatever is reloaded meanwhile.
    pub(in crate::submission) service: &'a Service,
    pub(in crate::submission) listener: &'a ListenSettings,
    pub(in crate::submission) queue: &'a dyn MessageQueue,
    pub(in crate::submission) failures: &'a Failures,
    pub(in crate::submission) rates: &'a Rates,
    pub(in crate::submission) kicks: &'a Recent,
    pub(in crate::submission) insight: &'a dyn Insight,
    pub(in crate::submission) handshakes: &'a Handshakes,
    pub(in crate::submission) presence: &'a Presence,
    pub(in crate::submission) on_demand: &'a dyn OnDemand,
    /// What this session has been through.
    pub(in crate::submission) course: Course<'a>,
}

/// What changes in the course of a session and is not the protocol's state.
#[derive(Default)]
pub(in crate::submission) struct Course<'a> {
    /// Made before the 220 to STARTTLS, for the handshake behind it.
    handshake: Option<Box<ServerConnection>>,
    /// Of the TLS connection.
    channel: Option<ChannelBinding>,
    /// The message under way, in its user's rate.
    pub(in crate::submission) counted: Option<Counted<'a>>,
    /// The name that failed to authenticate last, and how many times in a row.
    pub(in crate::submission) failed: (String, u32),
    /// The message that chunks are coming of.
    pub(in crate::submission) incoming: Option<Incoming<'a>>,
}

/// Why a session ends. The reply that says so was given already.
pub(in crate::submission) enum End {
    /// QUIT.
    Quit,
    /// We sent the client away; it may not have noticed yet.
    SentAway,
    /// The connection ended by itself.
    Lost,
    /// The client is to be the server from now on.
    Turned(Turning),
}

/// How the session's loop goes on.
pub(in crate::submission) type Flow = Result<State, End>;

impl<'a> Session<'a> {
    /// Runs to the end of the connection.
    pub(in crate::submission) fn run(mut self) {
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
                state::respond(state, line)
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
                state::step(state, command, &here)
            }
            Line::TooLong => state::step(state, Err(SyntaxError::TooLong), &here),
            Line::BareLf => state::step(state, Err(SyntaxError::BareLf), &here),
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
            return state::no_room(step.state);
        }
        let Some(user) = step.state.client().and_then(|client| client.user.as_ref()) else { return step };
        match self.rates.count(user, Instant::now()) {
            Ok(counted) => {
                self.course.counted = counted;
                step
            }
            Err(too_many) => {
                maillog::turned_away(self.client, &format!("user {}: more messages than may be", user.name));
                state::too_many(step.state, too_many)
            }
        }
    }

    pub(in crate::submission) fn perform(
        &mut self,
        state: State,
        reply: Option<Reply>,
        action: Action,
        encrypted: &mut bool,
    ) -> Flow {
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
                let reply = operator_commands::told(self.insight.answer(&question));
                self.say(&reply)?;
                Ok(state)
            }
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

    pub(in crate::submission) fn say(&mut self, reply: &Reply) -> Result<(), End> {
        log::debug!("{}: S: {reply}", self.client);
        self.wire.reply(reply).map_err(|_| End::Lost)
    }

    /// A last reply before we close.
    pub(in crate::submission) fn send_away(&mut self, reply: &Reply) -> End {
        match self.say(reply) {
            Ok(()) => End::SentAway,
            Err(end) => end,
        }
    }

    pub(in crate::submission) fn no_more_input(&mut self, error: WireError) -> End {
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
pub(in crate::submission) fn unix_now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_secs().try_into().unwrap_or(i64::MAX)
}
