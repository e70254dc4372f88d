//! One session: the loop that reads lines, asks `protocol.rs` what they mean and does what it says.
//!
//! Nothing is decided here but time, counts and the end of the connection: bad commands, failed
//! logins, silence, drips, and the relay's own stopping.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::config::{ListenSettings, ListenTls};
use crate::mail::{Envelope, Reply};
use crate::maillog;
use crate::queue::Asker;

use super::Service;
use super::aliases::Aliases;
use super::auth::{Credentials, Failures};
use super::command::{self, Command, SyntaxError};
use super::content::DataReader;
use super::etrn::{self, Recent};
use super::header::Protocol;
use super::intake::{Intake, MessageQueue, Submitted};
use super::pool::Presence;
use super::private::{self, Insight};
use super::protocol::{self, Action, Here, State, Step, Tls};
use super::replies;
use super::wire::{Line, Wire, WireError};

/// The slowest pace of content that is waited for, beyond twice the idle time-out.
const CONTENT_BYTES_PER_SEC_MIN: u64 = 1 << 10;

/// All that a session works with.
pub(super) struct Session<'a> {
    pub(super) wire: Wire,
    pub(super) client: IpAddr,
    /// What holds for this session from its start to its end, whatever is reloaded meanwhile.
    pub(super) service: &'a Service,
    pub(super) listener: &'a ListenSettings,
    pub(super) queue: &'a dyn MessageQueue,
    pub(super) failures: &'a Failures,
    pub(super) kicks: &'a Recent,
    pub(super) insight: &'a dyn Insight,
    pub(super) presence: &'a Presence,
}

/// Why a session ends. The reply that says so was given already.
enum End {
    /// QUIT.
    Quit,
    /// We sent the client away; it may not have noticed yet.
    SentAway,
    /// The connection ended by itself.
    Lost,
}

/// How the session's loop goes on.
type Flow = Result<State, End>;

impl Session<'_> {
    /// Runs to the end of the connection.
    pub(super) fn run(mut self) {
        let end = self.converse();
        match end {
            End::Quit => self.wire.close(false),
            End::SentAway => self.wire.close(true),
            End::Lost => {}
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
        let here = here(self.service, self.listener, self.client, *encrypted);
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
                protocol::step(state, command, &here)
            }
            Line::TooLong => protocol::step(state, Err(SyntaxError::TooLong), &here),
            Line::BareLf => protocol::step(state, Err(SyntaxError::BareLf), &here),
        };
        let step = match step.action {
            Action::Reserve(bytes) if !self.queue.has_room(bytes) => protocol::no_room(step.state),
            _ => step,
        };
        let Step { state, reply, action } = step;
        if let Some(reply) = &reply {
            errors.count(verb, reply);
        }
        if errors.bad > self.service.limits.errors {
            maillog::turned_away(self.client, "too many errors");
            return Err(self.send_away(&replies::TOO_MANY_ERRORS));
        }
        self.perform(state, reply, action, encrypted)
    }

    fn perform(&mut self, state: State, reply: Option<Reply>, action: Action, encrypted: &mut bool) -> Flow {
        if let Some(reply) = &reply {
            self.say(reply)?;
        }
        match action {
            Action::Continue | Action::Reserve(_) => Ok(state),
            Action::Close => Err(match reply {
                Some(reply) if reply.is_positive() => End::Quit,
                _ => {
                    maillog::turned_away(self.client, "not SMTP");
                    End::SentAway
                }
            }),
            Action::StartTls => {
                self.start_tls()?;
                *encrypted = true;
                Ok(state)
            }
            Action::Verify(credentials) => self.verify(state, &credentials),
            Action::Receive(envelope) => {
                let reply = self.receive(&state, envelope, *encrypted)?;
                self.say(&reply)?;
                Ok(state)
            }
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

    fn answer(&mut self, step: Step) -> Flow {
        if let Some(reply) = &step.reply {
            self.say(reply)?;
        }
        Ok(step.state)
    }

    fn verify(&mut self, state: State, credentials: &Credentials) -> Flow {
        let failures_max = self.service.limits.auth_failures;
        if self.failures.count(self.client, Instant::now()) >= failures_max {
            maillog::turned_away(self.client, "too many failed authentications");
            return Err(self.send_away(&replies::AUTH_TOO_MANY_FAILURES));
        }
        let user = (self.service.verify)(&credentials.name, &credentials.password);
        if user.is_none() {
            self.failures.record(self.client, Instant::now());
            let why = format!("authentication failed for {:?}", credentials.name);
            maillog::turned_away(self.client, &why);
        }
        self.answer(protocol::verified(state, user))
    }

    /// Reads the content behind a 354, queues the message and gives the reply.
    fn receive(&mut self, state: &State, envelope: Envelope, encrypted: bool) -> Result<Reply, End> {
        let client = state.client();
        let user = client.and_then(|client| client.user.as_ref());
        let protocol = Protocol {
            extended: client.is_some_and(|client| client.extended),
            tls: encrypted,
            authenticated: user.is_some(),
            smtputf8: envelope.smtputf8,
        };
        let submitted = Submitted {
            envelope,
            user: user.map(|user| user.name.clone()),
            client: self.client,
            helo: client.map(|client| client.name.clone()).unwrap_or_default(),
            protocol,
            hostname: &self.service.hostname,
            at: unix_now(),
            lifetime_secs: self.service.lifetime.as_secs().try_into().unwrap_or(i64::MAX),
            message_bytes_max: self.service.limits.message_size,
            hops_max: self.service.limits.received_hops,
        };
        let mut intake = Intake::new(self.queue, submitted);
        let mut reader = DataReader::new();
        let begin = Instant::now() + 2 * self.service.limits.idle_timeout;
        loop {
            let allowed = Duration::from_secs(intake.received_bytes() / CONTENT_BYTES_PER_SEC_MIN);
            let input = match self.wire.input(begin + allowed) {
                Ok(input) => input,
                Err(WireError::TimedOut) => return Err(self.send_away(&replies::TOO_SLOW)),
                Err(error) => return Err(self.no_more_input(error)),
            };
            let fed = reader.feed(input, intake.buffer());
            self.wire.consume(fed.consumed);
            intake.advance();
            if fed.ended {
                return Ok(intake.finish());
            }
        }
    }

    fn start_tls(&mut self) -> Result<(), End> {
        // A listener with TLS has a certificate: Service::new sees to that.
        let Some(config) = &self.service.tls else { return Err(End::Lost) };
        self.wire.start_tls(Arc::clone(config)).map_err(|error| {
            maillog::turned_away(self.client, &format!("TLS handshake failed: {error}"));
            End::Lost
        })
    }

    fn say(&mut self, reply: &Reply) -> Result<(), End> {
        log::debug!("{}: S: {reply}", self.client);
        self.wire.reply(reply).map_err(|_| End::Lost)
    }

    /// A last reply before we close.
    fn send_away(&mut self, reply: &Reply) -> End {
        match self.say(reply) {
            Ok(()) => End::SentAway,
            Err(end) => end,
        }
    }

    fn no_more_input(&mut self, error: WireError) -> End {
        match error {
            WireError::Flood => {
                maillog::turned_away(self.client, "line without end");
                self.send_away(&replies::LINE_WITHOUT_END)
            }
            // The pool ended our reading.
            WireError::Closed if self.presence.is_stopping() => self.send_away(&replies::SHUTTING_DOWN),
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
    Other,
}

impl Verb {
    fn of(line: &[u8]) -> Verb {
        let is = |verb: &[u8]| line.get(..4).is_some_and(|head| head.eq_ignore_ascii_case(verb));
        match () {
            () if is(b"MAIL") => Verb::Mail,
            () if is(b"RCPT") => Verb::Rcpt,
            () if is(b"DATA") => Verb::Data,
            () => Verb::Other,
        }
    }
}

/// Counts commands that could not be understood, were out of order or not allowed. Not counted is what an
/// honest client meets: a recipient refused, and what it pipelined behind a MAIL that was refused.
#[derive(Debug, Default)]
struct Errors {
    bad: usize,
    mail_refused: bool,
}

impl Errors {
    fn count(&mut self, verb: Verb, reply: &Reply) {
        match verb {
            Verb::Mail => self.mail_refused = reply.code >= 400,
            Verb::Rcpt | Verb::Data => {}
            Verb::Other => self.mail_refused = false,
        }
        let counts = match (verb, reply.code) {
            (_, ..=499) => false,
            (Verb::Rcpt | Verb::Data, 503) => !self.mail_refused,
            (Verb::Rcpt, 501) | (Verb::Mail | Verb::Rcpt | Verb::Data, 550..=554) => false,
            // Failed authentications have a count of their own.
            (Verb::Other, 535) => false,
            _ => true,
        };
        self.bad += usize::from(counts);
    }
}

fn here<'a>(service: &'a Service, listener: &'a ListenSettings, client: IpAddr, encrypted: bool) -> Here<'a> {
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

/// Unix seconds.
fn unix_now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_secs().try_into().unwrap_or(i64::MAX)
}
