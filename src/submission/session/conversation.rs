//! The loop of a session: it reads lines, asks `protocol` what they mean and does what it says.
//!
//! Only time and the end of the connection are decided here: too many bad commands, silence, drips, and the
//! stopping of the relay.

use std::sync::Arc;
use std::time::Instant;

use rustls::ServerConnection;

use crate::config::ListenTls;
use crate::mail::{Peer, Reply};
use crate::maillog::{self, Refused};

use crate::submission::limits::bad_commands::{BadCommands, Verb};
use crate::submission::limits::quotas::QuotaShare;
use crate::submission::protocol::aliases::Aliases;
use crate::submission::protocol::policy::{PolicyContext, Tls};
use crate::submission::protocol::state::{Action, State, Transition};
use crate::submission::protocol::{dispatch, operator_commands};
use crate::submission::replies;
use crate::submission::session::service::Service;
use crate::submission::session::{End, Flow, Session};
use crate::submission::syntax::command::{Command, Rcpt, SyntaxError};
use crate::submission::syntax::parse;
use crate::submission::wire::connection::{InputLine, Linger, WireError};

/// Of an address that was refused, so much is logged.
const ADDRESS_CHARS_LOGGED: usize = 320;

/// A line of the client's, read.
enum Heard {
    /// With the address as it is written, of MAIL and RCPT.
    Command(Verb, Result<Command, SyntaxError>, Option<String>),
    /// Within an AUTH exchange.
    Response(Vec<u8>),
}

impl<'a> Session<'a> {
    /// Runs to the end of the connection.
    pub(super) fn run(mut self) {
        let Err(end) = self.converse();
        // A message that was not queued gives back what it reserved before the client can see the end and come again.
        (self.scratch.rate_reservation, self.scratch.quota_share, self.scratch.incoming) = (None, None, None);
        match end {
            End::Quit => self.wire.close(Linger::No),
            End::SentAway if self.handle.farewell().is_some() => self.wire.close(Linger::Unheard),
            End::SentAway => self.wire.close(Linger::Yes),
            End::Lost => {}
            End::Reversed { name, user, domains } => self.hand_over(name, user, domains),
        }
    }

    fn converse(&mut self) -> Result<std::convert::Infallible, End> {
        if self.listener.tls == ListenTls::Implicit {
            self.start_tls()?;
        }
        self.say(&replies::greeting(&self.service.hostname))?;
        let mut state = State::Connected;
        let mut bad_commands = BadCommands::default();
        loop {
            let heard = self.hear(&state)?;
            state = self.answer(state, heard, &mut bad_commands)?;
        }
    }

    /// Reads the next line. Where the relay stops there is none, within a transaction neither (RFC 5321 §3.8).
    fn hear(&mut self, state: &State) -> Result<Heard, End> {
        if !self.handle.wait_begins() {
            return Err(self.send_away(&replies::SHUTTING_DOWN));
        }
        let line = match self.wire.read_line() {
            Ok(line) => line,
            Err(error) => return Err(self.no_more_input(error)),
        };
        self.handle.wait_ends();
        if self.handle.farewell().is_some() {
            return Err(self.say_farewell());
        }
        Ok(match line {
            InputLine::TlsHello => {
                let why = "TLS from the first byte, where it begins with STARTTLS; a client set to STARTTLS, or a [[listen]] with tls = \"implicit\", would do";
                maillog::handshake_failed(self.client, &why);
                return Err(self.send_away(&replies::NOT_SMTP));
            }
            InputLine::Text(line) if matches!(state, State::Authenticating(..)) => {
                log::debug!("{}: C: (response)", self.client);
                Heard::Response(line.to_vec())
            }
            InputLine::Text(line) => {
                let command = parse::parse(line);
                log_command(self.client, line, &command);
                let verb = Verb::of(line);
                Heard::Command(verb, command, written_address(verb, line))
            }
            InputLine::TooLong => Heard::Command(Verb::Other, Err(SyntaxError::TooLong), None),
            InputLine::BareLf => Heard::Command(Verb::Other, Err(SyntaxError::BareLf), None),
        })
    }

    /// Decides what comes of a line, and does it.
    fn answer(&mut self, state: State, heard: Heard, bad_commands: &mut BadCommands) -> Flow {
        let (verb, address, transition) = match heard {
            Heard::Response(line) => (Verb::Other, None, self.respond(state, &line)?),
            Heard::Command(verb, command, address) => {
                let state = self.with_current_user(state, &command)?;
                let mut context = self.policy(&state);
                if context.tls == Tls::Offered && command == Ok(Command::Starttls) {
                    context.tls = self.prepare_tls();
                }
                (verb, address, dispatch::step(state, command, &context))
            }
        };
        let transition = self.resolve(transition)?;
        let in_chunks = matches!(transition.state, State::Chunks(_));
        if !in_chunks && !matches!(transition.action, Action::ReceiveChunk(..)) {
            self.scratch.incoming = None;
        }
        if let Some(reply) = &transition.reply {
            bad_commands.count(verb, reply);
            self.log_refusal(verb, address.as_deref(), &transition.state, reply);
        }
        if bad_commands.so_far > self.service.limits.errors {
            maillog::turned_away(self.client, "too many errors");
            return Err(self.send_away(&replies::TOO_MANY_ERRORS));
        }
        let next = self.perform(transition)?;
        self.note_authority(&next);
        if !next.in_transaction() {
            // A message that is not queued by now does not count: what it reserved is given back.
            self.scratch.rate_reservation = None;
            self.scratch.quota_share = None;
        }
        Ok(next)
    }

    /// What follows a refused command in a batch (503) is not told.
    fn log_refusal(&self, verb: Verb, address: Option<&str>, state: &State, reply: &Reply) {
        let Some(name) = verb.name().filter(|_| reply.code >= 400 && reply.code != 503) else { return };
        let sender = state.envelope().and_then(|envelope| envelope.sender.as_ref()).map(AsRef::as_ref);
        let (sender, recipient) = if verb == Verb::Mail { (address, None) } else { (sender, address) };
        let user = state.user().map(|user| user.name.as_str());
        maillog::refused(&Refused { client: self.client, user, verb: name, sender, recipient }, reply);
    }

    /// Where a decision waits for an answer of the queue or the users file: the transition with that answer.
    fn resolve(&mut self, transition: Transition) -> Result<Transition, End> {
        match transition.action {
            Action::Reserve(bytes) => Ok(self.reserve(transition, bytes)),
            Action::Count(recipients, rcpt) => Ok(self.count(transition.state, recipients, *rcpt)),
            Action::Verify(claim) => self.verify(transition.state, claim),
            _ => Ok(transition),
        }
    }

    /// MAIL was fine; whether there is room for the message, in the queue and in its user's quota and rate.
    fn reserve(&mut self, transition: Transition, bytes: u64) -> Transition {
        if !self.resources.ports.queue.has_room(bytes) {
            return dispatch::no_room(transition.state);
        }
        let Some(user) = transition.state.user() else { return transition };
        let mut share = QuotaShare::of(&*self.resources.ports.queue, user);
        // One byte at least: a quota that is full is told before the content comes.
        if let Some(Err(reply)) = share.as_mut().map(|share| share.grow_to(bytes.max(1))) {
            return dispatch::no_room_in_quota(transition.state, reply);
        }
        self.scratch.quota_share = share;
        match self.resources.rates.check(user, Instant::now()) {
            Ok(()) => transition,
            Err(too_many) => dispatch::too_many(transition.state, too_many),
        }
    }

    /// RCPT was fine; whether its recipients are within their user's rate.
    fn count(&mut self, state: State, recipients: usize, rcpt: Rcpt) -> Transition {
        let reservation = &mut self.scratch.rate_reservation;
        let counted = state
            .user()
            .map_or(Ok(()), |user| self.resources.rates.count(user, recipients, Instant::now(), reservation));
        match counted {
            Ok(()) => {
                let context = self.policy(&state);
                dispatch::counted(state, rcpt, &context)
            }
            Err(too_many) => {
                let context = self.policy(&state);
                dispatch::not_counted(state, &rcpt, too_many, &context)
            }
        }
    }

    /// Sends the reply and does what the transition says.
    fn perform(&mut self, transition: Transition) -> Flow {
        let Transition { state, reply, action } = transition;
        if let Action::Skip(bytes) = action {
            self.skip(bytes)?;
        }
        if let Some(reply) = &reply {
            self.say(reply)?;
        }
        match action {
            Action::Continue
            | Action::Reserve(_)
            | Action::Count(..)
            | Action::Verify(_)
            | Action::Skip(_) => {}
            Action::Close => return Err(self.closed(reply.as_ref())),
            Action::StartTls => self.start_tls()?,
            Action::LoggedIn => self.logged_in(&state),
            Action::LoginFailed(name) => self.login_failed(name),
            Action::Receive(envelope) => {
                let reply = self.receive(&state, envelope)?;
                self.say(&reply)?;
            }
            Action::ReceiveChunk(chunk, envelope) => return self.receive_chunk(state, chunk, envelope),
            Action::Reverse(domains) => return self.reverse(state, domains),
            Action::Kick(node) => {
                let reply = self.kick(&state, &node);
                self.say(&reply)?;
            }
            Action::Ask(query) => {
                let answer = self.resources.ports.operator_queries.answer(&query);
                self.say(&operator_commands::told(answer))?;
            }
        }
        Ok(state)
    }

    fn closed(&self, reply: Option<&Reply>) -> End {
        if reply.is_some_and(Reply::is_positive) {
            return End::Quit;
        }
        maillog::turned_away(self.client, "what came could not be read as SMTP");
        End::SentAway
    }

    /// Makes the connection for STARTTLS before the 220 is said: behind it there is only a handshake or the end
    /// (RFC 3207 §4).
    fn prepare_tls(&mut self) -> Tls {
        match tls_connection(self.service) {
            Ok(connection) => {
                self.scratch.handshake = Some(Box::new(connection));
                Tls::Offered
            }
            Err(error) => {
                log::error!("the certificate cannot be used: {error}; mend [tls] and reload");
                Tls::Unusable
            }
        }
    }

    fn start_tls(&mut self) -> Result<(), End> {
        let (client, handle) = (self.client, self.handle);
        let failed = |error: &dyn std::fmt::Display| {
            if !handle.is_stopping() {
                maillog::handshake_failed(client, error);
            }
            End::Lost
        };
        let connection = match self.scratch.handshake.take() {
            Some(prepared) => prepared,
            None => Box::new(tls_connection(self.service).map_err(|error| failed(&error))?),
        };
        if !handle.wait_begins() {
            return Err(End::Lost);
        }
        let begun = self.wire.start_tls(connection, &self.resources.handshakes);
        handle.wait_ends();
        match begun {
            Ok(()) => {}
            // Somebody looks whether the port is open.
            Err(WireError::NothingSaid) => {
                log::debug!("{client}: closed without a TLS handshake");
                return Err(End::Lost);
            }
            Err(error) => return Err(failed(&error)),
        }
        self.scratch.channel = self.wire.channel_binding();
        Ok(())
    }

    /// What holds here and now.
    fn policy(&self, state: &State) -> PolicyContext<'a> {
        let (service, listener) = (self.service, self.listener);
        let limits = &service.limits;
        PolicyContext {
            hostname: &service.hostname,
            tls: match listener.tls {
                _ if self.wire.is_encrypted() => Tls::Active,
                ListenTls::Starttls => Tls::Offered,
                ListenTls::Implicit | ListenTls::Off => Tls::No,
            },
            loopback: listener.address.ip().is_some_and(|at| at.ip().to_canonical().is_loopback()),
            trusted: self.handle.is_trusted(),
            auth_required: listener.auth_required,
            auth: self.auth_offer(state),
            message_size_max: limits.message_size,
            recipients_max: limits.recipients,
            hold_secs_max: limits.future_release.map(|max| max.as_secs().try_into().unwrap_or(i64::MAX)),
            now: self.resources.ports.clock.now(),
            aliases: Aliases { names: &service.aliases, hostname: &service.hostname },
        }
    }
}

/// Of MAIL and RCPT what stands in angle brackets, whether or not it is an address.
fn written_address(verb: Verb, line: &[u8]) -> Option<String> {
    if !matches!(verb, Verb::Mail | Verb::Rcpt) {
        return None;
    }
    let text = String::from_utf8_lossy(line);
    let written =
        text.split_once('<').map_or(&text[4..], |(_, behind)| behind.split('>').next().unwrap_or(""));
    Some(written.chars().take(ADDRESS_CHARS_LOGGED).collect())
}

/// The dialogue in the debug log. What follows AUTH stays out of it, and so does a line that is no
/// command: it may be the password of a client that did not wait for our 504.
fn log_command(client: Peer, line: &[u8], command: &Result<Command, SyntaxError>) {
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
