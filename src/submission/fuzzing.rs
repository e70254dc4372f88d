//! What `fuzz/` calls: the readers of hostile bytes in this room. Nothing else uses it.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;

use crate::mail::{Body, Domain, Peer, address};
use crate::queue::MessageId;

use super::auth::Offer;
use super::users::{Directory, Known, LoginSource, PasswordCheck, User, Verifier};
use crate::submission::message::chunk::ChunkReader;
use crate::submission::message::content::DataReader;
use crate::submission::message::header::HeaderReader;
use crate::submission::message::trace::{self, Protocol, Trace};
use crate::submission::protocol::aliases::Aliases;
use crate::submission::protocol::dispatch;
use crate::submission::protocol::policy::{PolicyContext, Tls};
use crate::submission::protocol::state::{Action, State};
use crate::submission::syntax::parse::{self, LINE_BYTES_MAX};

/// Says `lines` to the protocol as a trusted client over TLS: the code of each reply, 0 where the reply
/// would be the world's. No action is carried out but AUTH, of a user `app` whose password is `secret`.
pub fn converse<'a>(lines: impl IntoIterator<Item = &'a [u8]>) -> Vec<u16> {
    let Ok(hostname) = Domain::parse("relay.example") else { return Vec::new() };
    let names = match address::parse("ops@example.com") {
        Ok(ops) => BTreeMap::from([("root".to_owned(), vec![ops])]),
        Err(_) => BTreeMap::new(),
    };
    let context = PolicyContext {
        hostname: &hostname,
        tls: Tls::Active,
        loopback: true,
        trusted: true,
        auth_required: true,
        message_size_max: 1 << 20,
        auth: Offer {
            channel: Some([7; 32]),
            cram_md5: true,
            atrn: true,
            nonce: || Some("nonce".to_owned()),
        },
        recipients_max: 100,
        hold_secs_max: Some(86_400),
        now: 1_795_000_000,
        aliases: Aliases { names: &names, hostname: &hostname },
    };
    let mut state = State::Connected;
    let mut codes = Vec::new();
    for line in lines {
        let line = &line[..line.len().min(LINE_BYTES_MAX)];
        let step = match state {
            State::Authenticating(..) => dispatch::respond(state, line),
            _ => dispatch::step(state, parse::parse(line), &context),
        };
        let step = match step.action {
            Action::Verify(claim) => dispatch::auth_step(step.state, claim.put_to(&App, LoginSource::Known)),
            _ => step,
        };
        codes.push(step.reply.map_or(0, |reply| reply.code));
        state = step.state;
    }
    codes
}

/// One user; nobody has the proof for SCRAM.
struct App;

impl Directory for App {
    fn with_password(&self, name: &str, password: &[u8], _from: LoginSource) -> PasswordCheck {
        let user = (name == "app" && password == b"secret").then(Arc::default);
        user.map_or(PasswordCheck::Wrong, PasswordCheck::Right)
    }
    fn is_available(&self) -> bool {
        true
    }
    fn mark(&self, _name: &str) -> [u8; 32] {
        [0; 32]
    }
    fn with_cram_md5(&self, name: &str, _challenge: &[u8], digest: &[u8; 16]) -> Option<Arc<User>> {
        (name == "app" && digest[0] == 0).then(Arc::default)
    }
    fn with_scram(&self, _name: &str) -> Known {
        let (stored_key, server_key) = ([0; 32], [0; 32]);
        let verifier = Verifier { iterations: NonZeroU32::MIN, salt: vec![0; 16], stored_key, server_key };
        Known { user: None, verifier }
    }
    fn has_atrn(&self) -> bool {
        false
    }
    fn look_again(&self) {}
    fn current(&self, user: &Arc<User>) -> Option<Arc<User>> {
        Some(Arc::clone(user))
    }
    fn has_cram_md5(&self) -> bool {
        true
    }
}

/// Reads DATA's content from `pieces`: what it is, and behind how many bytes it ended, if it did.
pub fn read_data<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<u8>, Option<usize>) {
    let (mut reader, mut out, mut read) = (DataReader::new(), Vec::new(), 0);
    for piece in pieces {
        let fed = reader.feed(piece, &mut out);
        read += fed.consumed;
        if fed.ended {
            return (out, Some(read));
        }
    }
    (out, None)
}

/// Reads BDAT's content from `pieces`.
pub fn read_chunks<'a>(pieces: impl IntoIterator<Item = &'a [u8]>, body: Body) -> Vec<u8> {
    let (mut reader, mut out) = (ChunkReader::new(body), Vec::new());
    pieces.into_iter().for_each(|piece| reader.feed(piece, &mut out));
    reader.finish(&mut out);
    out
}

/// The content with the header fixed, as the queue would have it.
pub fn fix_header(content: &[u8]) -> Option<Vec<u8>> {
    let hostname = Domain::parse("relay.example").ok()?;
    let trace = Trace {
        helo: "client.example",
        client: Peer::Ip([192, 0, 2, 7].into()),
        user: None,
        hostname: &hostname,
        with: Protocol { extended: true, tls: true, authenticated: true, smtputf8: false },
        id: MessageId(1),
        for_only: None,
        at: 0,
    };
    HeaderReader::default().read(content, true).map(|header| trace::fix(content, &header, &trace))
}
