//! The owner's two reference documents, row by row: every command, every reply code, and which code may answer
//! which command.
//!
//! `reference/commands.txt` has the commands, `reference/responses.txt` the command-response table. Each row is
//! played against a relay that runs, or says why this service has no honest occasion for it; that is
//! checked, too: such a code is in none of our replies. What was said in all of that, and every
//! cell of the table of commands and states, must be allowed by the tables here.

use std::collections::BTreeSet;
use std::path::Path;

use crate::harness::dialogue::Theatre;
use crate::harness::fakemx::SOON;
use crate::harness::relay::{Config, PASSWORD, Relay, World, run_to_end};

const COMMANDS: &str = include_str!("reference/commands.txt");
const RESPONSES: &str = include_str!("reference/responses.txt");

/// Codes that no server says, or not this one, with the reason. All other codes of the document's table must
/// answer something in `responses.txt` or [`BEYOND`].
const NEVER: &[(u16, &str)] = &[
    (101, "no reply of a server: what a client shows that reached none"),
    (211, "as for HELP"),
    (422, "in no standard; the recipient's mailbox is not here"),
    (431, "in no standard; a crowded domain is the queue's affair, and the sender's not"),
    (441, "in no standard; a host that does not answer is found after the mail was taken"),
    (442, "in no standard; who lost the connection cannot be told so on it"),
    (446, "in no standard; a loop is for good: 554 5.4.6"),
    (455, "a parameter is either supported, or 555"),
    (471, "in no standard; this relay filters nothing"),
    (510, "in no standard; a bad address is 501 5.1.3 or 553"),
    (512, "in no standard; the DNS is asked after the mail was taken"),
    (523, "in no standard; too big is 552 5.3.4"),
    (541, "in no standard; this relay filters nothing"),
    (551, "as for RCPT TO"),
];

/// The codes of the document's table, in its order.
const CODES: &[u16] = &[
    101, 211, 214, 220, 221, 235, 250, 251, 252, 334, 354, 421, 422, 431, 441, 442, 446, 450, 451, 452, 454,
    455, 471, 500, 501, 502, 503, 504, 510, 512, 523, 530, 535, 538, 541, 550, 551, 552, 553, 554, 555,
];

/// What is sent where the document's table has no cell for it, and which standard says so.
const BEYOND: &[(&str, &[u16], &str)] = &[
    ("any", &[554], "RFC 5321 §3.1: somebody's bytes that are not mail get one 554 and a closed connection"),
    ("STARTTLS", &[502, 503], "RFC 5321 §4.2.4: not on this listener, or TLS is active already"),
    ("AUTH", &[502, 503, 504], "RFC 4954 §4: not here, not now, not this mechanism"),
    ("AUTH", &[454], "RFC 4954 §6: the system gives no random numbers for a challenge"),
    ("MAIL", &[530], "RFC 4954 §6: authenticate first"),
    ("RCPT", &[530], "RFC 4954 §6: looked at once more, should MAIL ever let a stranger by"),
    ("MAIL", &[450], "RFC 3463 §3.8: the user has sent as much within the hour as may be"),
    ("ETRN", &[250, 251, 252, 253, 458, 459, 503, 530], "RFC 1985 §5.3"),
    (
        "ATRN",
        &[250, 450, 451, 453, 502, 503, 530],
        "RFC 2645 §5.2.1; §5.1: after AUTH, not within a transaction",
    ),
    ("BDAT", &[250, 421, 451, 452, 501, 503, 552, 554], "RFC 3030 §2: as DATA, chunk by chunk"),
    ("XADR", &[250, 451, 502, 550, 553], "private: by agreement"),
    ("XSTA", &[250, 451, 502], "private: by agreement"),
    ("XCIR", &[250, 451, 502], "private: by agreement"),
    ("XGEN", &[250, 451, 502], "private: by agreement"),
    ("SEND", &[502], "RFC 5321 §4.2.4"),
    ("SOML", &[502], "RFC 5321 §4.2.4"),
    ("SAML", &[502], "RFC 5321 §4.2.4"),
    ("TURN", &[502], "RFC 5321 §4.2.4"),
    ("RELAY", &[502], "RFC 5321 §4.2.4"),
    ("TLS", &[502], "RFC 5321 §4.2.4"),
];

/// A relay with names, users and limits for the rows; one message waits for `waiting.test`, and one
/// for whoever fetches the mail of `fetched.test`.
fn relay() -> (World, Relay) {
    let mut world = World::new();
    world.closed_mx("waiting.test", 10, "mx.waiting.test");
    let config = Config::new()
        .set("limits.recipients", "3")
        .set("limits.errors", "1000")
        .set("aliases.user2", "[\"user2@client.net\"]")
        .set("aliases.mail-list", "[\"user1@client.net\", \"user2@relay.test\", \"user3@client.net\"]")
        .set("aliases.\"müller\"", "[\"müller@client.net\"]");
    let relay = world.relay(config);
    for (name, option) in [
        ("op", &["--operator"][..]),
        ("news", &["--senders", "news@client.net"]),
        ("customer", &["--atrn", "client.com", "--atrn", "fetched.test"]),
    ] {
        let arguments = [&["user", "add", name, "--password-stdin"], option].concat();
        let added = run_to_end(relay.command(&arguments), PASSWORD.as_bytes());
        assert!(added.status.success(), "{name}: {}", String::from_utf8_lossy(&added.stderr));
    }
    relay.submit("test@client.net", &["user@waiting.test"], b"Subject: x\r\n\r\nx\r\n");
    relay.wait_until("the first try", SOON, |db| db.row("SELECT 1 FROM recipients WHERE attempts = 1", []));
    let fetched = "SELECT 1 FROM backoffs WHERE lane = 'atrn:fetched.test'";
    relay.wait_until("mail for fetched.test to wait for ATRN", SOON, |db| db.row(fetched, []));
    relay.submit("test@client.net", &["user@fetched.test"], b"Subject: x\r\n\r\nx\r\n");
    (world, relay)
}

/// How a cell of the command-response table holds.
#[derive(Debug, PartialEq, Eq)]
enum Proof {
    /// This dialogue; its last reply is the cell's.
    Played(String),
    /// A dialogue of `tests/golden/`, with the line that it must hold.
    Golden(String, String),
    /// Never sent, and why.
    Never(String),
}

/// A cell of the command-response table.
struct Cell {
    /// `any`, `connect`, or a verb.
    verb: String,
    code: u16,
    proof: Proof,
}

/// The parts of a file that begin with `== `, each with its name.
fn rows(text: &str) -> Vec<(&str, &str)> {
    text.split("\n== ").skip(1).map(|row| row.split_once('\n').unwrap_or((row, ""))).collect()
}

fn cells() -> Vec<Cell> {
    let cell = |(name, body): (&str, &str)| {
        let (command, code) = name.rsplit_once(' ').unwrap();
        let body = body.trim();
        let proof = match (body.strip_prefix("never: "), body.strip_prefix("golden ")) {
            (Some(why), _) => Proof::Never(why.to_owned()),
            (_, Some(golden)) => {
                let (file, line) = golden.split_once(": ").unwrap();
                Proof::Golden(file.to_owned(), line.to_owned())
            }
            _ => Proof::Played(body.to_owned()),
        };
        Cell { verb: verb(command).to_owned(), code: code.parse().unwrap(), proof }
    };
    rows(RESPONSES).into_iter().map(cell).collect()
}

/// `MAIL FROM` is said with the verb MAIL.
fn verb(command: &str) -> &str {
    command.split(' ').next().unwrap_or_default()
}

/// What may answer what, by the document's table and by [`BEYOND`].
struct Allowed(Vec<(String, u16)>);

impl Allowed {
    fn new() -> Allowed {
        let sent = |cell: &Cell| !matches!(cell.proof, Proof::Never(_));
        let mut allowed: Vec<(String, u16)> =
            cells().into_iter().filter(sent).map(|cell| (cell.verb, cell.code)).collect();
        for (verb, codes, _) in BEYOND {
            allowed.extend(codes.iter().map(|code| ((*verb).to_owned(), *code)));
        }
        Allowed(allowed)
    }

    fn may_answer(&self, said: &str, code: u16) -> bool {
        let names = |verb: &str| verb == said || (verb == "any" && said != "connect");
        self.0.iter().any(|(verb, of)| names(verb) && *of == code)
    }

    fn codes(&self) -> BTreeSet<u16> {
        self.0.iter().map(|(_, code)| *code).collect()
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every code in a `Reply::new(…)` or `Reply::bare(…)` of submission, and in its tests' doubles none.
fn codes_in_our_replies() -> BTreeSet<u16> {
    let source = std::fs::read_to_string(root().join("src/submission/replies.rs")).unwrap();
    let source = source.split("#[cfg(test)]\nmod tests").next().unwrap();
    let digits = |at: usize| source.get(at..at + 3).and_then(|digits| digits.parse::<u16>().ok());
    let mut codes: BTreeSet<u16> = ["Reply::new(", "Reply::bare("]
        .iter()
        .flat_map(|call| source.match_indices(call).map(|(at, call)| at + call.len()))
        .filter_map(|at| digits(at + source[at..].len() - source[at..].trim_start().len()))
        .collect();
    // Those chosen by a match: `=> (251, format!(`.
    codes.extend(source.match_indices("=> (").filter_map(|(at, arrow)| digits(at + arrow.len())));
    codes
}

fn complain(wrong: &[String]) {
    assert!(wrong.is_empty(), "{} rows do not hold:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn every_row_of_both_documents() {
    let (_world, relay) = relay();
    let theatre = Theatre::new(&relay);
    let mut wrong = Vec::new();
    let commands = rows(COMMANDS);
    assert_eq!(commands.len(), 40, "a row was lost");
    for (row, dialogue) in commands {
        if let Err(why) = theatre.play(dialogue) {
            wrong.push(format!("document {row}: {why}"));
        }
    }
    let cells = cells();
    assert_eq!(cells.len(), 67, "a cell was lost");
    for Cell { verb, code, proof } in cells {
        match proof {
            Proof::Played(dialogue) => match theatre.play(&dialogue) {
                Ok((said, found)) if found == code && (verb == "any" || verb == said) => {}
                Ok(other) => wrong.push(format!("{verb} {code}: the dialogue ends with {other:?}")),
                Err(why) => wrong.push(format!("{verb} {code}: {why}")),
            },
            Proof::Golden(file, reply) => {
                let golden = std::fs::read_to_string(root().join("tests/golden").join(&file)).unwrap();
                if !golden.lines().any(|line| line.starts_with(&reply)) || !reply.contains(&code.to_string())
                {
                    wrong.push(format!("{verb} {code}: no such reply as {reply} in {file}"));
                }
            }
            Proof::Never(_) => {}
        }
    }
    // And nothing else was ever said.
    let allowed = Allowed::new();
    for (said, code) in theatre.answers() {
        // Words that are no command.
        let known = allowed.0.iter().any(|(verb, _)| *verb == said) || matches!(code, 500 | 554);
        if !known || !allowed.may_answer(&said, code) {
            wrong.push(format!("{code} answered {said}, which no table allows"));
        }
    }
    complain(&wrong);
}

#[test]
fn every_code_of_the_table_is_sent_or_has_a_reason_not_to_be() {
    let ours = codes_in_our_replies();
    assert!(ours.len() > 25, "the reader of replies.rs is blind: {ours:?}");
    let sent = Allowed::new().codes();
    let mut wrong = Vec::new();
    for code in CODES {
        let never = NEVER.iter().any(|(of, _)| of == code);
        match (sent.contains(code), never, ours.contains(code)) {
            (true, false, true) | (false, true, false) => {}
            (said, never, written) => {
                wrong.push(format!("{code}: sent {said}, never {never}, in replies.rs {written}"))
            }
        }
    }
    wrong.extend(ours.difference(&sent).map(|code| format!("{code} is in replies.rs and in no table here")));
    wrong.extend(
        sent.difference(&ours).map(|code| format!("{code} is in a table here and not in replies.rs")),
    );
    complain(&wrong);
}

/// The table of commands and states, which a unit test holds true, knows every state and client.
#[test]
fn no_state_answers_with_a_code_that_the_tables_do_not_allow() {
    let source = std::fs::read_to_string(root().join("src/submission/tests/protocol.rs")).unwrap();
    let (_, table) = source.split_once("const TABLE").unwrap();
    let (table, _) = table.split_once("\n\";").unwrap();
    let allowed = Allowed::new();
    let mut seen = 0;
    let mut wrong = Vec::new();
    for line in table.lines() {
        let mut cells = line.split('|').map(str::trim);
        let Some(command) = cells.next().filter(|command| !command.is_empty()) else { continue };
        for cell in cells {
            let mut words = cell.split(' ');
            let Some(code) = words.next().and_then(|code| code.parse::<u16>().ok()) else { continue };
            seen += 1;
            if !allowed.may_answer(verb(command), code) {
                wrong.push(format!("{command}: {code}"));
            }
            // RFC 2034 §4: the class of the enhanced code is that of the code.
            if let Some(enhanced) = words.next().filter(|word| word.contains('.'))
                && !enhanced.starts_with(&cell[..1])
            {
                wrong.push(format!("{command}: {cell}"));
            }
        }
    }
    assert!(seen > 450, "the reader of the table is blind: {seen} cells");
    wrong.sort();
    wrong.dedup();
    complain(&wrong);
}

#[test]
fn both_example_sessions_are_golden_dialogues() {
    for (file, lines) in [
        ("reference-session-successful.txt", &["C: VRFY Maverick", "S: 550 ", "S: 354 ", "S: 221 "][..]),
        ("reference-session-aborted.txt", &["S: 550 ", "C: RSET", "S: 221 "]),
    ] {
        let golden = std::fs::read_to_string(root().join("tests/golden").join(file)).unwrap();
        let mut rest = golden.lines();
        for wanted in lines {
            assert!(rest.any(|line| line.starts_with(wanted)), "{file}: {wanted}");
        }
    }
}
