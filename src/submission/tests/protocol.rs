//! Every command in every state, for a stranger in the clear and under TLS, an authenticated client, a
//! trusted one and an operator: the table is written out, each cell with code, enhanced code, action and next
//! state. The first section holds for everybody; those behind it have the rows that differ for one client.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::mail::{Address, Body, Domain, Envelope, Recipient, address};
use crate::submission::auth::{AuthStep, Exchange, Offer};
use crate::submission::protocol::aliases::Aliases;
use crate::submission::protocol::dispatch::{auth_step, no_room, respond, step};
use crate::submission::protocol::policy::{PolicyContext, Tls};
use crate::submission::protocol::recipients::Addressed;
use crate::submission::protocol::state::{Action, Client, OpenMail, State, Transition};
use crate::submission::replies;
use crate::submission::syntax::command::{Chunk, Command, SyntaxError};
use crate::submission::syntax::parse;
use crate::submission::users::User;

/// On a listener with STARTTLS; with `auth = "optional"` the cells are the same. A stranger comes into no transaction:
/// those cells say that even there it would reach nobody.
const TABLE: &str = "
everybody
                        | Connected              | Ready                           | Mail                            | Refused                         | Recipients
EHLO c.example          | 250 -> Ready           | 250                             | 250 -> Ready                    | 250 -> Ready                    | 250 -> Ready
HELO c.example          | 250 -> Ready           | 250                             | 250 -> Ready                    | 250 -> Ready                    | 250 -> Ready
MAIL FROM:<a@b.example> | 503 5.5.1              | 250 2.1.0 reserve -> Mail       | 503 5.5.1                       | 503 5.5.1                       | 503 5.5.1
MAIL FROM:<> SIZE=1001  | 503 5.5.1              | 552 5.3.4                       | 503 5.5.1                       | 503 5.5.1                       | 503 5.5.1
RCPT TO:<b@example.net> | 503 5.5.1              | 503 5.5.1                       | 250 2.1.5 -> Recipients         | 250 2.1.5 -> Recipients         | 250 2.1.5
RCPT TO:<root>          | 503 5.5.1              | 503 5.5.1                       | 251 2.1.5 -> Recipients         | 251 2.1.5 -> Recipients         | 251 2.1.5
RCPT TO:<nobody>        | 503 5.5.1              | 503 5.5.1                       | 550 5.1.1 -> Refused            | 550 5.1.1                       | 550 5.1.1
DATA                    | 503 5.5.1              | 503 5.5.1                       | 503 5.5.1                       | 554 5.5.1                       | 354 receive -> Ready
RSET                    | 250 2.0.0              | 250 2.0.0                       | 250 2.0.0 -> Ready              | 250 2.0.0 -> Ready              | 250 2.0.0 -> Ready
NOOP                    | 250 2.0.0              | 250 2.0.0                       | 250 2.0.0                       | 250 2.0.0                       | 250 2.0.0
HELP                    | 214 2.0.0              | 214 2.0.0                       | 214 2.0.0                       | 214 2.0.0                       | 214 2.0.0
HELP XYZZY              | 504 5.5.4              | 504 5.5.4                       | 504 5.5.4                       | 504 5.5.4                       | 504 5.5.4
VRFY root               | 502 5.7.0              | 502 5.7.0                       | 502 5.7.0                       | 502 5.7.0                       | 502 5.7.0
VRFY b@example.net      | 502 5.7.0              | 502 5.7.0                       | 502 5.7.0                       | 502 5.7.0                       | 502 5.7.0
VRFY nobody             | 502 5.7.0              | 502 5.7.0                       | 502 5.7.0                       | 502 5.7.0                       | 502 5.7.0
EXPN root               | 502 5.7.0              | 502 5.7.0                       | 502 5.7.0                       | 502 5.7.0                       | 502 5.7.0
EXPN nobody             | 502 5.7.0              | 502 5.7.0                       | 502 5.7.0                       | 502 5.7.0                       | 502 5.7.0
ETRN example.net        | 503 5.5.1              | kick                            | 503 5.5.1                       | 503 5.5.1                       | 503 5.5.1
ETRN @example.net       | 503 5.5.1              | kick                            | 503 5.5.1                       | 503 5.5.1                       | 503 5.5.1
ETRN #lane              | 503 5.5.1              | kick                            | 503 5.5.1                       | 503 5.5.1                       | 503 5.5.1
ETRN -bad-              | 501 5.5.4              | 501 5.5.4                       | 501 5.5.4                       | 501 5.5.4                       | 501 5.5.4
ATRN                    | 503 5.5.1              | 530 5.7.0                       | 503 5.5.1                       | 503 5.5.1                       | 503 5.5.1
ATRN d.example          | 503 5.5.1              | 530 5.7.0                       | 503 5.5.1                       | 503 5.5.1                       | 503 5.5.1
ATRN d.example,x.example| 503 5.5.1              | 530 5.7.0                       | 503 5.5.1                       | 503 5.5.1                       | 503 5.5.1
ATRN d.example,         | 501 5.5.4              | 501 5.5.4                       | 501 5.5.4                       | 501 5.5.4                       | 501 5.5.4
STARTTLS                | 503 5.5.1              | 503 5.5.1                       | 503 5.5.1                       | 503 5.5.1                       | 503 5.5.1
AUTH PLAIN              | 503 5.5.1              | 538 5.7.11                      | 503 5.5.1                       | 503 5.5.1                       | 503 5.5.1
AUTH PLAIN AGEAYg==     | 503 5.5.1              | 538 5.7.11                      | 503 5.5.1                       | 503 5.5.1                       | 503 5.5.1
AUTH XYZZY              | 503 5.5.1              | 538 5.7.11                      | 503 5.5.1                       | 503 5.5.1                       | 503 5.5.1
QUIT                    | 221 2.0.0 close        | 221 2.0.0 close                 | 221 2.0.0 close                 | 221 2.0.0 close                 | 221 2.0.0 close
XADR b@example.net      | 502 5.5.1              | 502 5.5.1                       | 502 5.5.1                       | 502 5.5.1                       | 502 5.5.1
XADR                    | 502 5.5.1              | 502 5.5.1                       | 502 5.5.1                       | 502 5.5.1                       | 502 5.5.1
XSTA                    | 502 5.5.1              | 502 5.5.1                       | 502 5.5.1                       | 502 5.5.1                       | 502 5.5.1
XCIR a.example          | 502 5.5.1              | 502 5.5.1                       | 502 5.5.1                       | 502 5.5.1                       | 502 5.5.1
XGEN                    | 502 5.5.1              | 502 5.5.1                       | 502 5.5.1                       | 502 5.5.1                       | 502 5.5.1
SEND FROM:<a@b>         | 502 5.5.1              | 502 5.5.1                       | 502 5.5.1                       | 502 5.5.1                       | 502 5.5.1
SOML FROM:<a@b>         | 502 5.5.1              | 502 5.5.1                       | 502 5.5.1                       | 502 5.5.1                       | 502 5.5.1
SAML FROM:<a@b>         | 502 5.5.1              | 502 5.5.1                       | 502 5.5.1                       | 502 5.5.1                       | 502 5.5.1
TURN                    | 502 5.5.1              | 502 5.5.1                       | 502 5.5.1                       | 502 5.5.1                       | 502 5.5.1
RELAY                   | 502 5.5.1              | 502 5.5.1                       | 502 5.5.1                       | 502 5.5.1                       | 502 5.5.1
TLS                     | 502 5.5.1              | 502 5.5.1                       | 502 5.5.1                       | 502 5.5.1                       | 502 5.5.1
BDAT 1 LAST             | 503 5.5.1 skip         | 503 5.5.1 skip                  | 503 5.5.1 skip                  | 554 5.5.1 skip                  | chunk -> Ready
XYZZY                   | 500 5.5.2              | 500 5.5.2                       | 500 5.5.2                       | 500 5.5.2                       | 500 5.5.2
DATA now                | 501 5.5.4              | 501 5.5.4                       | 501 5.5.4                       | 501 5.5.4                       | 501 5.5.4
GET / HTTP/1.1          | 554 5.5.2 close        | 554 5.5.2 close                 | 554 5.5.2 close                 | 554 5.5.2 close                 | 554 5.5.2 close

clear
MAIL FROM:<a@b.example> | 503 5.5.1              | 530 5.7.0                       | 503 5.5.1                       | 503 5.5.1                       | 503 5.5.1
MAIL FROM:<> SIZE=1001  | 503 5.5.1              | 530 5.7.0                       | 503 5.5.1                       | 503 5.5.1                       | 503 5.5.1
RCPT TO:<b@example.net> | 503 5.5.1              | 503 5.5.1                       | 530 5.7.0 -> Refused            | 530 5.7.0                       | 530 5.7.0
RCPT TO:<root>          | 503 5.5.1              | 503 5.5.1                       | 530 5.7.0 -> Refused            | 530 5.7.0                       | 530 5.7.0
RCPT TO:<nobody>        | 503 5.5.1              | 503 5.5.1                       | 530 5.7.0 -> Refused            | 530 5.7.0                       | 530 5.7.0
ETRN example.net        | 503 5.5.1              | 530 5.7.0                       | 503 5.5.1                       | 503 5.5.1                       | 503 5.5.1
ETRN @example.net       | 503 5.5.1              | 530 5.7.0                       | 503 5.5.1                       | 503 5.5.1                       | 503 5.5.1
ETRN #lane              | 503 5.5.1              | 530 5.7.0                       | 503 5.5.1                       | 503 5.5.1                       | 503 5.5.1
STARTTLS                | 220 2.0.0 starttls     | 220 2.0.0 starttls -> Connected | 220 2.0.0 starttls -> Connected | 220 2.0.0 starttls -> Connected | 220 2.0.0 starttls -> Connected

tls
MAIL FROM:<a@b.example> | 503 5.5.1              | 530 5.7.0                       | 503 5.5.1                       | 503 5.5.1                       | 503 5.5.1
MAIL FROM:<> SIZE=1001  | 503 5.5.1              | 530 5.7.0                       | 503 5.5.1                       | 503 5.5.1                       | 503 5.5.1
RCPT TO:<b@example.net> | 503 5.5.1              | 503 5.5.1                       | 530 5.7.0 -> Refused            | 530 5.7.0                       | 530 5.7.0
RCPT TO:<root>          | 503 5.5.1              | 503 5.5.1                       | 530 5.7.0 -> Refused            | 530 5.7.0                       | 530 5.7.0
RCPT TO:<nobody>        | 503 5.5.1              | 503 5.5.1                       | 530 5.7.0 -> Refused            | 530 5.7.0                       | 530 5.7.0
ETRN example.net        | 503 5.5.1              | 530 5.7.0                       | 503 5.5.1                       | 503 5.5.1                       | 503 5.5.1
ETRN @example.net       | 503 5.5.1              | 530 5.7.0                       | 503 5.5.1                       | 503 5.5.1                       | 503 5.5.1
ETRN #lane              | 503 5.5.1              | 530 5.7.0                       | 503 5.5.1                       | 503 5.5.1                       | 503 5.5.1
AUTH PLAIN              | 503 5.5.1              | 334 -> Authenticating           | 503 5.5.1                       | 503 5.5.1                       | 503 5.5.1
AUTH PLAIN AGEAYg==     | 503 5.5.1              | verify                          | 503 5.5.1                       | 503 5.5.1                       | 503 5.5.1
AUTH XYZZY              | 503 5.5.1              | 504 5.5.4                       | 503 5.5.1                       | 503 5.5.1                       | 503 5.5.1

authenticated
VRFY root               | 502 5.7.0              | 250 2.1.5                       | 250 2.1.5                       | 250 2.1.5                       | 250 2.1.5
VRFY b@example.net      | 502 5.7.0              | 252 2.5.2                       | 252 2.5.2                       | 252 2.5.2                       | 252 2.5.2
VRFY nobody             | 502 5.7.0              | 550 5.1.1                       | 550 5.1.1                       | 550 5.1.1                       | 550 5.1.1
EXPN root               | 502 5.7.0              | 250 2.1.5                       | 250 2.1.5                       | 250 2.1.5                       | 250 2.1.5
EXPN nobody             | 502 5.7.0              | 550 5.1.1                       | 550 5.1.1                       | 550 5.1.1                       | 550 5.1.1
ATRN                    | 503 5.5.1              | reverse                         | 503 5.5.1                       | 503 5.5.1                       | 503 5.5.1
ATRN d.example          | 503 5.5.1              | reverse                         | 503 5.5.1                       | 503 5.5.1                       | 503 5.5.1
ATRN d.example,x.example| 503 5.5.1              | 450 4.7.1                       | 503 5.5.1                       | 503 5.5.1                       | 503 5.5.1
AUTH PLAIN              | 503 5.5.1              | 503 5.5.1                       | 503 5.5.1                       | 503 5.5.1                       | 503 5.5.1
AUTH PLAIN AGEAYg==     | 503 5.5.1              | 503 5.5.1                       | 503 5.5.1                       | 503 5.5.1                       | 503 5.5.1
AUTH XYZZY              | 503 5.5.1              | 503 5.5.1                       | 503 5.5.1                       | 503 5.5.1                       | 503 5.5.1

trusted
VRFY root               | 250 2.1.5              | 250 2.1.5                       | 250 2.1.5                       | 250 2.1.5                       | 250 2.1.5
VRFY b@example.net      | 252 2.5.2              | 252 2.5.2                       | 252 2.5.2                       | 252 2.5.2                       | 252 2.5.2
VRFY nobody             | 550 5.1.1              | 550 5.1.1                       | 550 5.1.1                       | 550 5.1.1                       | 550 5.1.1
EXPN root               | 250 2.1.5              | 250 2.1.5                       | 250 2.1.5                       | 250 2.1.5                       | 250 2.1.5
EXPN nobody             | 550 5.1.1              | 550 5.1.1                       | 550 5.1.1                       | 550 5.1.1                       | 550 5.1.1
STARTTLS                | 220 2.0.0 starttls     | 220 2.0.0 starttls -> Connected | 220 2.0.0 starttls -> Connected | 220 2.0.0 starttls -> Connected | 220 2.0.0 starttls -> Connected

operator
VRFY root               | 502 5.7.0              | 250 2.1.5                       | 250 2.1.5                       | 250 2.1.5                       | 250 2.1.5
VRFY b@example.net      | 502 5.7.0              | 252 2.5.2                       | 252 2.5.2                       | 252 2.5.2                       | 252 2.5.2
VRFY nobody             | 502 5.7.0              | 550 5.1.1                       | 550 5.1.1                       | 550 5.1.1                       | 550 5.1.1
EXPN root               | 502 5.7.0              | 250 2.1.5                       | 250 2.1.5                       | 250 2.1.5                       | 250 2.1.5
EXPN nobody             | 502 5.7.0              | 550 5.1.1                       | 550 5.1.1                       | 550 5.1.1                       | 550 5.1.1
ATRN                    | 503 5.5.1              | 502 5.5.1                       | 503 5.5.1                       | 503 5.5.1                       | 503 5.5.1
ATRN d.example          | 503 5.5.1              | 502 5.5.1                       | 503 5.5.1                       | 503 5.5.1                       | 503 5.5.1
ATRN d.example,x.example| 503 5.5.1              | 502 5.5.1                       | 503 5.5.1                       | 503 5.5.1                       | 503 5.5.1
AUTH PLAIN              | 503 5.5.1              | 503 5.5.1                       | 503 5.5.1                       | 503 5.5.1                       | 503 5.5.1
AUTH PLAIN AGEAYg==     | 503 5.5.1              | 503 5.5.1                       | 503 5.5.1                       | 503 5.5.1                       | 503 5.5.1
AUTH XYZZY              | 503 5.5.1              | 503 5.5.1                       | 503 5.5.1                       | 503 5.5.1                       | 503 5.5.1
XADR b@example.net      | 502 5.5.1              | ask                             | ask                             | ask                             | ask
XADR                    | 502 5.5.1              | 501 5.5.4                       | 501 5.5.4                       | 501 5.5.4                       | 501 5.5.4
XSTA                    | 502 5.5.1              | ask                             | ask                             | ask                             | ask
XCIR a.example          | 502 5.5.1              | ask                             | ask                             | ask                             | ask
XGEN                    | 502 5.5.1              | ask                             | ask                             | ask                             | ask
";

/// As the table's headings name them.
#[derive(Clone, Copy)]
enum Who {
    Clear,
    Tls,
    Authenticated,
    Trusted,
    Operator,
}

struct World {
    hostname: Domain,
    names: BTreeMap<String, Vec<Address>>,
}

impl World {
    fn new() -> World {
        let to = |text: &str| vec![address::parse(text).unwrap()];
        World {
            hostname: Domain::parse("relay.example").unwrap(),
            names: BTreeMap::from([("root".to_owned(), to("ops@example.com"))]),
        }
    }

    fn context(&self, who: Who) -> PolicyContext<'_> {
        PolicyContext {
            hostname: &self.hostname,
            tls: match who {
                Who::Clear | Who::Trusted => Tls::Offered,
                Who::Tls | Who::Authenticated | Who::Operator => Tls::Active,
            },
            loopback: false,
            trusted: matches!(who, Who::Trusted),
            auth_required: true,
            auth: Offer { channel: None, cram_md5: false, atrn: false, nonce: || Some("nonce".to_owned()) },
            message_size_max: 1000,
            recipients_max: 2,
            hold_secs_max: Some(86_400),
            now: 1_795_262_400,
            aliases: Aliases { names: &self.names, hostname: &self.hostname },
        }
    }
}

fn client(who: Who) -> Client {
    let user = match who {
        Who::Authenticated => {
            let atrn = vec!["d.example".to_owned(), "e.example".to_owned()];
            Some(Arc::new(User { atrn, ..User::default() }))
        }
        Who::Operator => Some(Arc::new(User { operator: true, ..User::default() })),
        Who::Clear | Who::Tls | Who::Trusted => None,
    };
    Client { name: "c.example".into(), extended: true, user }
}

fn states(who: Who) -> Vec<State> {
    let open = |refused| OpenMail { addressed: Addressed::new(Envelope::default()), refused };
    let recipients = vec![Recipient::new(address::parse("x@example.org").unwrap())];
    vec![
        State::Connected,
        State::Ready(client(who)),
        State::Mail(client(who), open(false)),
        State::Mail(client(who), open(true)),
        State::Recipients(client(who), Addressed::new(Envelope { recipients, ..Envelope::default() })),
    ]
}

fn name(state: &State) -> &'static str {
    match state {
        State::Connected => "Connected",
        State::Ready(_) => "Ready",
        State::Authenticating(..) => "Authenticating",
        State::Mail(_, open) if open.refused => "Refused",
        State::Mail(..) => "Mail",
        State::Recipients(..) => "Recipients",
        State::Chunks(_) => "Chunks",
    }
}

/// A cell: the reply's codes, the action where there is one, the next state where it is another.
fn cell(before: &State, step: &Transition) -> String {
    let mut parts = Vec::new();
    if let Some(reply) = &step.reply {
        parts.push(reply.code.to_string());
        parts.extend(reply.enhanced.map(|enhanced| enhanced.to_string()));
    }
    let action = match step.action {
        Action::Continue => None,
        Action::Close => Some("close"),
        Action::StartTls => Some("starttls"),
        Action::Reserve(_) => Some("reserve"),
        Action::Count(..) => Some("count"),
        Action::Verify(_) => Some("verify"),
        Action::LoggedIn => Some("logged in"),
        Action::LoginFailed(_) => Some("login failed"),
        Action::Receive(_) => Some("receive"),
        Action::ReceiveChunk(..) => Some("chunk"),
        Action::Skip(_) => Some("skip"),
        Action::Kick(_) => Some("kick"),
        Action::Ask(_) => Some("ask"),
        Action::Reverse(_) => Some("reverse"),
    };
    parts.extend(action.map(str::to_owned));
    if name(before) != name(&step.state) {
        parts.push(format!("-> {}", name(&step.state)));
    }
    parts.join(" ")
}

/// The rows of a section of the table by their command, each without it.
fn section(heading: &str) -> BTreeMap<&'static str, Vec<&'static str>> {
    let lines = TABLE.lines().skip_while(|line| *line != heading).skip(1);
    let rows = lines.take_while(|line| !line.is_empty()).map(|line| {
        let mut cells = line.split('|').map(str::trim);
        (cells.next().unwrap(), cells.collect())
    });
    rows.collect()
}

#[test]
fn every_command_in_every_state() {
    let world = World::new();
    let mut everybody = section("everybody");
    let columns = everybody.remove("").unwrap();
    assert!(everybody.len() > 40, "the reader of the table is blind");
    let mut wrong = Vec::new();
    for (heading, who) in [
        ("clear", Who::Clear),
        ("tls", Who::Tls),
        ("authenticated", Who::Authenticated),
        ("trusted", Who::Trusted),
        ("operator", Who::Operator),
    ] {
        assert_eq!(states(who).iter().map(name).collect::<Vec<_>>(), columns);
        let overrides = section(heading);
        for (auth_required, (command, cells)) in
            [true, false].into_iter().flat_map(|auth| everybody.iter().map(move |row| (auth, row)))
        {
            let context = PolicyContext { auth_required, ..world.context(who) };
            let expected = overrides.get(command).unwrap_or(cells);
            let found: Vec<String> = states(who)
                .into_iter()
                .map(|state| cell(&state, &step(state.clone(), parse::parse(command.as_bytes()), &context)))
                .collect();
            if found != *expected {
                wrong.push(format!("{heading}: {command:23} | {}", found.join(" | ")));
            }
        }
        let idle = overrides
            .iter()
            .filter(|(command, cells)| everybody.get(*command).is_none_or(|all| all == *cells));
        wrong.extend(idle.map(|(command, _)| format!("{heading}: {command} overrides nothing")));
    }
    assert!(wrong.is_empty(), "these rows are now\n{}", wrong.join("\n"));
}

fn ready(user: Option<&str>) -> State {
    let user = user.map(|name| Arc::new(User { name: name.into(), ..User::default() }));
    State::Ready(Client { name: "c.example".into(), extended: true, user })
}

#[test]
fn within_an_auth_exchange_every_line_is_a_response() {
    let exchange = || State::Authenticating(client(Who::Tls), Exchange::Plain);
    for (line, expected) in [
        ("QUIT", "501 5.5.2 -> Ready"),
        ("NOOP", "501 5.5.2 -> Ready"),
        ("*", "501 5.7.0 -> Ready"),
        ("", "501 5.5.2 -> Ready"),
        ("AGEAYg==", "verify -> Ready"),
    ] {
        assert_eq!(cell(&exchange(), &respond(exchange(), line.as_bytes())), expected, "{line}");
    }
    let world = World::new();
    for (error, expected) in
        [(SyntaxError::TooLong, "500 5.5.6 -> Ready"), (SyntaxError::BareLf, "500 5.5.2 -> Ready")]
    {
        let step = step(exchange(), Err(error), &world.context(Who::Tls));
        assert_eq!(cell(&exchange(), &step), expected);
    }
}

#[test]
fn a_login_is_kept_by_ehlo_and_lost_by_starttls() {
    let world = World::new();
    let app = Arc::new(User { name: "app".into(), ..User::default() });
    let Transition { state, reply, .. } = auth_step(ready(None), AuthStep::LoggedIn(app));
    assert_eq!((state.clone(), reply), (ready(Some("app")), Some(replies::AUTH_OK)));
    let again = step(state.clone(), parse::parse(b"EHLO c.example"), &world.context(Who::Tls));
    assert_eq!(again.state, ready(Some("app")));
    let starttls = step(state, Ok(Command::Starttls), &world.context(Who::Clear));
    assert_eq!(starttls.state, State::Connected);
    let failed = auth_step(ready(None), AuthStep::Failed("app".into()));
    assert_eq!((failed.state, failed.reply), (ready(None), Some(replies::AUTH_FAILED)));
    assert_eq!(failed.action, Action::LoginFailed("app".into()));
}

#[test]
fn without_room_the_transaction_does_not_begin() {
    let world = World::new();
    let mail = step(ready(Some("app")), parse::parse(b"MAIL FROM:<> SIZE=9"), &world.context(Who::Tls));
    assert_eq!(mail.action, Action::Reserve(9));
    let refused = no_room(mail.state);
    assert_eq!((refused.state, refused.reply), (ready(Some("app")), Some(replies::NO_ROOM)));
}

#[test]
fn extensions_are_offered_only_to_those_they_are_granted_to() {
    let world = World::new();
    let offered = |tls, trusted, auth_required, user, hold_secs_max| {
        let context =
            PolicyContext { tls, trusted, auth_required, hold_secs_max, ..world.context(Who::Clear) };
        let text = step(ready(user), parse::parse(b"EHLO x"), &context).reply.unwrap().text;
        assert!(text.lines().any(|line| line == "LIMITS RCPTMAX=2"), "{text}");
        assert!(text.lines().any(|line| line == "DELIVERBY"), "{text}");
        let extra = ["FUTURERELEASE 60 2026-11-21T12:01:00Z", "MT-PRIORITY", "REQUIRETLS"];
        let shown = extra.map(|word| text.lines().any(|line| line == word));
        // Each is refused as unknown exactly where it is not shown.
        let asked = ["HOLDFOR=60", "MT-PRIORITY=-1", "REQUIRETLS"];
        let welcome = context.is_welcome(user.map(|_| Arc::new(User::default())).as_ref());
        for (parameter, shown) in asked.into_iter().zip(shown).filter(|_| welcome) {
            let line = format!("MAIL FROM:<> {parameter}");
            let code = step(ready(user), parse::parse(line.as_bytes()), &context).reply.unwrap().code;
            assert_eq!(code, if shown { 250 } else { 555 }, "{line}");
        }
        shown
    };
    use Tls::{Active, No, Offered};
    assert_eq!(offered(Offered, false, true, None, Some(60)), [true, true, false], "AUTH comes before MAIL");
    assert_eq!(offered(Active, false, true, None, Some(60)), [true, true, true]);
    assert_eq!(offered(Active, false, true, Some("app"), Some(60)), [true, true, true]);
    assert_eq!(offered(Active, false, true, Some("app"), None), [false, true, true], "switched off");
    assert_eq!(
        offered(No, false, false, None, Some(60)),
        [false, false, false],
        "a stranger where trusted clients are expected"
    );
    assert_eq!(offered(No, true, false, None, Some(60)), [true, true, false]);
    assert_eq!(offered(No, false, false, Some("app"), Some(60)), [true, true, false]);
}

#[test]
fn ehlo_names_what_holds_now_and_nothing_else() {
    let world = World::new();
    let offered = |tls, loopback, trusted, user| {
        let context = PolicyContext { tls, loopback, trusted, ..world.context(Who::Clear) };
        let text = step(ready(user), parse::parse(b"EHLO x"), &context).reply.unwrap().text;
        let extra = ["ETRN", "VRFY", "EXPN", "ATRN", "STARTTLS", "AUTH SCRAM-SHA-256 PLAIN LOGIN"];
        extra.into_iter().filter(|word| text.lines().any(|line| line == *word)).collect::<Vec<_>>()
    };
    assert_eq!(offered(Tls::Offered, false, false, None), ["STARTTLS"]);
    assert_eq!(offered(Tls::Offered, true, true, None), ["ETRN", "VRFY", "EXPN", "STARTTLS"]);
    assert_eq!(offered(Tls::Active, false, false, None), ["AUTH SCRAM-SHA-256 PLAIN LOGIN"]);
    assert_eq!(offered(Tls::Active, false, false, Some("app")), ["ETRN", "VRFY", "EXPN"]);
    assert_eq!(offered(Tls::No, true, false, None), ["AUTH SCRAM-SHA-256 PLAIN LOGIN"]);
    assert_eq!(offered(Tls::No, false, false, None), [""; 0]);
}

/// RFC 3030 §2 for what is said between two chunks.
#[test]
fn between_chunks() {
    let world = World::new();
    for (command, expected) in [
        ("EHLO c.example", "250 -> Ready"),
        ("HELO c.example", "250 -> Ready"),
        ("MAIL FROM:<a@b.example>", "503 5.5.1"),
        ("RCPT TO:<b@example.net>", "503 5.5.1"),
        ("DATA", "503 5.5.1"),
        ("BDAT 1", "chunk"),
        ("BDAT 1 LAST", "chunk -> Ready"),
        ("BDAT 0 LAST", "chunk -> Ready"),
        ("BDAT", "501 5.5.4 close"),
        ("BDAT x LAST", "501 5.5.4 close"),
        ("RSET", "250 2.0.0 -> Ready"),
        ("NOOP", "250 2.0.0"),
        ("HELP", "214 2.0.0"),
        ("VRFY root", "250 2.1.5"),
        ("ETRN example.net", "503 5.5.1"),
        ("AUTH PLAIN", "503 5.5.1"),
        ("STARTTLS", "503 5.5.1"),
        ("QUIT", "221 2.0.0 close"),
        ("XYZZY", "500 5.5.2"),
    ] {
        let state = State::Chunks(client(Who::Authenticated));
        let step = step(state.clone(), parse::parse(command.as_bytes()), &world.context(Who::Authenticated));
        assert_eq!(cell(&state, &step), expected, "{command}");
    }
    let starttls = step(State::Chunks(client(Who::Clear)), Ok(Command::Starttls), &world.context(Who::Clear));
    assert_eq!(starttls.state, State::Connected);
}

#[test]
fn binarymime_needs_bdat_and_the_envelope_goes_with_the_first_chunk() {
    let world = World::new();
    let recipients = vec![Recipient::new(address::parse("x@example.org").unwrap())];
    let envelope = Envelope { recipients, body: Body::BinaryMime, ..Envelope::default() };
    let state = State::Recipients(client(Who::Tls), Addressed::new(envelope.clone()));
    let data = step(state.clone(), Ok(Command::Data), &world.context(Who::Tls));
    assert_eq!((data.state, data.reply), (state.clone(), Some(replies::BINARY_NEEDS_BDAT)));
    let first = step(state, parse::parse(b"BDAT 5"), &world.context(Who::Tls));
    assert_eq!(first.action, Action::ReceiveChunk(Chunk { bytes: 5, last: false }, Some(envelope)));
    let next = step(first.state, parse::parse(b"BDAT 0 LAST"), &world.context(Who::Tls));
    assert_eq!(next.action, Action::ReceiveChunk(Chunk { bytes: 0, last: true }, None));
}

#[test]
fn who_has_domains_may_reverse_the_connection_for_them() {
    let world = World::new();
    let with = |atrn: &[&str]| {
        let atrn = atrn.iter().map(|&domain| domain.to_owned()).collect();
        let user = Some(Arc::new(User { atrn, ..User::default() }));
        State::Ready(Client { name: "c.example".into(), extended: true, user })
    };
    let say = |state: State, line: &str, context: &PolicyContext<'_>| {
        step(state, parse::parse(line.as_bytes()), context)
    };
    let reverse =
        |names: &[&str]| Action::Reverse(names.iter().map(|name| Domain::parse(name).unwrap()).collect());
    let context = world.context(Who::Tls);
    for (line, expected) in [
        ("ATRN", reverse(&["a.example", "b.example"])),
        ("atrn B.example", reverse(&["b.example"])),
        ("ATRN b.example,a.example,B.EXAMPLE", reverse(&["a.example", "b.example"])),
    ] {
        let step = say(with(&["b.example", "a.example"]), line, &context);
        assert_eq!((step.reply, step.action), (None, expected), "{line}");
    }
    let codes = |step: Transition| cell(&step.state.clone(), &step);
    // Below a domain is another domain.
    assert_eq!(codes(say(with(&["a.example"]), "ATRN x.a.example", &context)), "450 4.7.1");
    // Not offered: to a user without domains, and where nobody can authenticate.
    assert_eq!(codes(say(with(&[]), "ATRN a.example", &context)), "502 5.5.1");
    let no_tls = PolicyContext { tls: Tls::No, ..world.context(Who::Trusted) };
    assert_eq!(codes(say(ready(None), "ATRN a.example", &no_tls)), "502 5.5.1");
    // Before AUTH its clients look for it, too.
    let before = PolicyContext { auth: Offer { atrn: true, ..context.auth }, ..world.context(Who::Tls) };
    let text = say(ready(None), "EHLO x", &before).reply.unwrap().text;
    assert!(text.lines().any(|line| line == "ATRN"), "{text}");
    let shown = |state| say(state, "EHLO x", &context).reply.unwrap().text.lines().any(|line| line == "ATRN");
    assert!(shown(with(&["a.example"])) && !shown(with(&[])) && !shown(ready(None)));
}
