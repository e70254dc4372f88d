//! The meaning of answers over the wire: what becomes of the recipient and of the lane.
//!
//! One relay, and a domain for each cell of a table: what is said, where, and whether the domain has another
//! host that takes everything. All of the table in docs/protocol.md is held by the unit table of
//! `delivery/job/ruling.rs`; here some thirty rows of it are said by hosts. What came of them is what the
//! database says, and what arrived.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use crate::harness::fakemx::{Act, At, Certificate, FakeMx, Script};
use crate::harness::relay::{Config, Db, World, mail};

/// Where the bounces go.
const HOME: Ipv4Addr = Ipv4Addr::new(127, 9, 9, 9);
/// For a busy machine.
const A_WHILE: Duration = Duration::from_secs(120);

/// Where it is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Greeting,
    /// To EHLO; HELO is answered well.
    Ehlo,
    /// To EHLO 502, then this to HELO.
    Helo,
    /// TLS is optional.
    Starttls,
    /// TLS is required.
    StarttlsRequired,
    Mail,
    /// To the first of two recipients; the other is accepted.
    Rcpt,
    /// To the second of two; the first is accepted.
    RcptAfter,
    Data,
    Dot,
}

impl Stage {
    /// The word in `attempts.phase`.
    fn phase(self) -> &'static str {
        match self {
            Stage::Greeting => "greeting",
            Stage::Ehlo | Stage::Helo => "ehlo",
            Stage::Starttls | Stage::StarttlsRequired => "starttls",
            Stage::Mail => "mail",
            Stage::Rcpt | Stage::RcptAfter => "rcpt",
            Stage::Data => "data",
            Stage::Dot => "end_of_data",
        }
    }

    fn script(self, act: Act, certificate: &Certificate) -> Script {
        match self {
            Stage::Greeting => Script::new().on(At::Greeting, act),
            Stage::Ehlo => Script::new().on(At::Ehlo, act),
            Stage::Helo => Script::new().on(At::Ehlo, Act::Say("502 5.5.1 what?")).on(At::Helo, act),
            Stage::Starttls | Stage::StarttlsRequired => Script::new().tls(certificate).on(At::Starttls, act),
            Stage::Mail => Script::new().on(At::Mail, act),
            Stage::Rcpt | Stage::RcptAfter => Script::new().on(At::Rcpt("odd@"), act),
            Stage::Data => Script::new().on(At::Data, act),
            Stage::Dot => Script::new().on(At::Dot, act),
        }
    }
}

/// What is said.
#[derive(Clone)]
struct Said {
    name: String,
    act: Act,
    code: Option<u16>,
    enhanced: &'static str,
    /// As the database must have it.
    stored: String,
}

impl Said {
    fn new(name: &str, bytes: &[u8], code: u16, enhanced: &'static str, stored: &str) -> Said {
        let (name, stored) = (name.to_owned(), stored.to_owned());
        Said { name, act: Act::Raw(bytes.to_vec()), code: Some(code), enhanced, stored }
    }

    fn no_reply(name: &str, act: Act) -> Said {
        Said { name: name.to_owned(), act, code: None, enhanced: "", stored: String::new() }
    }

    fn code(code: u16) -> Said {
        let enhanced = match code / 100 {
            2 => "2.9.9",
            4 => "4.9.9",
            5 => "5.9.9",
            _ => "",
        };
        let stored = format!("{code} {enhanced} words of {code}").replace("  ", " ");
        Said::new(&format!("c{code}"), format!("{stored}\r\n").as_bytes(), code, enhanced, &stored)
    }
}

/// What is said that is no plain code.
fn oddities() -> Vec<Said> {
    let lines = |code: u16, count: usize| -> (Vec<u8>, String) {
        let line = |number: usize| {
            let dash = if number < count { '-' } else { ' ' };
            format!("{code}{dash}line {number}\r\n")
        };
        let stored = (1..=count).map(|number| format!(" line {number}")).collect::<String>();
        ((1..=count).map(line).collect::<String>().into_bytes(), format!("{code}{stored}"))
    };
    let mut said = Vec::new();
    for code in [250, 450, 550] {
        let (bytes, stored) = lines(code, 100);
        said.push(Said::new(&format!("lines{code}"), &bytes, code, "", &stored));
        // Not a word, not even a space.
        let bare = format!("{code}\r\n");
        said.push(Said::new(&format!("bare{code}"), bare.as_bytes(), code, "", bare.trim_end()));
    }
    said.extend([
        Said::new("latin1", b"550 5.1.1 caf\xe9 ferm\xe9\r\n", 550, "5.1.1", "550 5.1.1 caf\\xE9 ferm\\xE9"),
        Said::new("nul", b"450 4.2.1 a\0b\x1b[2J\r\n", 450, "4.2.1", "450 4.2.1 a\\x00b\\x1B[2J"),
        // RFC 2034 §4: the class has to agree with the code; the code counts.
        Said::new("disagrees", b"550 4.7.1 later\r\n", 550, "", "550 4.7.1 later"),
        Said::no_reply("short", Act::Raw(b"25\r\n".to_vec())),
        Said::no_reply("text", Act::Raw(b"hello there\r\n".to_vec())),
        Said::no_reply("changes", Act::Raw(b"250-one\r\n550 two\r\n".to_vec())),
        Said::no_reply("toolong", Act::Raw(lines(550, 101).0)),
        Said::no_reply("closed", Act::Close),
        Said::no_reply("silent", Act::Stall),
    ]);
    said
}

/// A row of the table in docs/protocol.md.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Row {
    /// The mail goes its way: `2xx to the final dot`, `5xx to EHLO: HELO`, `STARTTLS refused, TLS optional`.
    Done,
    /// `4xx to RCPT` (that recipient), `4xx to MAIL, DATA or the dot` (all): retry; lane unchanged.
    Retry,
    /// `5xx to RCPT`, `5xx to MAIL, DATA or the dot`: bounce; lane unchanged.
    Bounce,
    /// `4xx at greeting or EHLO; 421 anywhere; time-out`, `malformed, 1xx, unexpected 3xx, connection lost`,
    /// `STARTTLS refused, TLS required`: next host; none left: retry; backs off.
    NextHost,
    /// `5xx at greeting`, to HELO too: next host; every host said so: bounce; backs off.
    HostRefuses,
    /// `Lost after the dot, before its reply`: in doubt; retry by default; unchanged. What cannot be understood
    /// there is as good as lost.
    InDoubt,
}

/// What is said, by its name, where, and the row that it is.
const TABLE: [(&str, Stage, Row); 36] = [
    // RFC 5321 §3.1, §4.2.1 and RFC 7504: no mail here, or not now.
    ("c554", Stage::Greeting, Row::HostRefuses),
    ("c450", Stage::Greeting, Row::NextHost),
    ("c354", Stage::Greeting, Row::NextHost),
    ("silent", Stage::Greeting, Row::NextHost),
    ("changes", Stage::Greeting, Row::NextHost),
    // RFC 5321 §3.2: HELO for a host that does not know EHLO.
    ("c502", Stage::Ehlo, Row::Done),
    ("c451", Stage::Ehlo, Row::NextHost),
    ("c550", Stage::Helo, Row::HostRefuses),
    ("c421", Stage::Helo, Row::NextHost),
    // RFC 3207 §4.
    ("c454", Stage::Starttls, Row::Done),
    ("c554", Stage::Starttls, Row::Done),
    ("c454", Stage::StarttlsRequired, Row::NextHost),
    ("c501", Stage::StarttlsRequired, Row::NextHost),
    // RFC 5321 §4.2.1: by the first digit, whatever the rest.
    ("c251", Stage::Mail, Row::Done),
    ("c471", Stage::Mail, Row::Retry),
    ("c571", Stage::Mail, Row::Bounce),
    ("bare550", Stage::Mail, Row::Bounce),
    ("c699", Stage::Mail, Row::NextHost),
    ("closed", Stage::Mail, Row::NextHost),
    ("text", Stage::Rcpt, Row::NextHost),
    ("c450", Stage::Rcpt, Row::Retry),
    ("latin1", Stage::Rcpt, Row::Bounce),
    ("disagrees", Stage::RcptAfter, Row::Bounce),
    ("nul", Stage::RcptAfter, Row::Retry),
    // RFC 5321 §3.8: 421 anywhere.
    ("c421", Stage::RcptAfter, Row::NextHost),
    // RFC 5321 §4.3.2: a 2xx to DATA is no success.
    ("c250", Stage::Data, Row::NextHost),
    ("c451", Stage::Data, Row::Retry),
    ("c554", Stage::Data, Row::Bounce),
    ("lines250", Stage::Dot, Row::Done),
    ("lines450", Stage::Dot, Row::Retry),
    ("lines550", Stage::Dot, Row::Bounce),
    ("c421", Stage::Dot, Row::NextHost),
    // RFC 1047: what cannot be understood may have meant yes.
    ("c354", Stage::Dot, Row::InDoubt),
    ("short", Stage::Dot, Row::InDoubt),
    ("toolong", Stage::Dot, Row::InDoubt),
    ("closed", Stage::Dot, Row::InDoubt),
];

struct Cell {
    stage: Stage,
    said: Said,
    row: Row,
    /// The domain has a second host, which takes everything.
    two_hosts: bool,
    number: u16,
}

impl Cell {
    fn name(&self) -> String {
        let hosts = if self.two_hosts { "two" } else { "one" };
        format!("{}-{:?}-{hosts}", self.said.name, self.stage).to_lowercase()
    }

    fn domain(&self) -> String {
        let parent = if self.stage == Stage::StarttlsRequired { "secure.test" } else { "test" };
        format!("{}.{parent}", self.name())
    }

    fn sender(&self) -> String {
        format!("{}@home.test", self.name())
    }

    fn ip(&self, host: u8) -> IpAddr {
        let [high, low] = self.number.to_be_bytes();
        Ipv4Addr::new(127, 10 + host, high, low).into()
    }

    fn mx(&self, host: u8) -> String {
        format!("mx{host}.{}", self.domain())
    }

    fn recipients(&self) -> Vec<String> {
        let locals: &[&str] = match self.stage {
            Stage::Rcpt => &["odd", "good"],
            Stage::RcptAfter => &["good", "odd"],
            _ => &["odd"],
        };
        locals.iter().map(|local| format!("{local}@{}", self.domain())).collect()
    }

    /// What the table makes of this cell for one of its recipients: the row's columns, and the host that takes it.
    fn expected(&self, recipient: &str) -> Expected {
        let good = recipient.starts_with("good@");
        let (mx1, mx2) = (self.mx(1), self.mx(2));
        let taken = |mx: String| {
            Expected::of("delivered", "delivered", "end_of_data", "250 2.0.0 queued", "remote", mx)
        };
        let words = |state, outcome| {
            let by = if self.said.code.is_some() { "remote" } else { "local" };
            Expected::of(state, outcome, self.stage.phase(), &self.said.stored, by, mx1.clone())
        };
        match self.row {
            Row::Done if self.stage == Stage::Dot => words("delivered", "delivered"),
            Row::Done => taken(mx1),
            Row::Retry | Row::Bounce if good => taken(mx1),
            Row::Retry => words("queued", "deferred"),
            Row::Bounce => words("failed", "failed"),
            Row::NextHost | Row::HostRefuses if self.two_hosts => taken(mx2),
            Row::NextHost => words("queued", "deferred"),
            Row::HostRefuses => words("failed", "failed"),
            Row::InDoubt => words("queued", "in_doubt"),
        }
    }

    fn lane_backs_off(&self) -> bool {
        !self.two_hosts && matches!(self.row, Row::NextHost | Row::HostRefuses)
    }
}

/// What there must be of a recipient, or what there is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Expected {
    state: String,
    outcome: String,
    phase: String,
    /// Empty where the words are ours: they are checked on their own.
    reply: String,
    reply_source: String,
    mx: String,
}

impl Expected {
    fn of(state: &str, outcome: &str, phase: &str, reply: &str, reply_source: &str, mx: String) -> Expected {
        let [state, outcome, phase, reply, reply_source] =
            [state, outcome, phase, reply, reply_source].map(str::to_owned);
        Expected { state, outcome, phase, reply, reply_source, mx }
    }
}

fn cells() -> Vec<Cell> {
    let oddities = oddities();
    let said = |name: &str| match name.strip_prefix('c').and_then(|code| code.parse().ok()) {
        Some(code) => Said::code(code),
        None => oddities.iter().find(|said| said.name == name).unwrap().clone(),
    };
    let mut cells = Vec::new();
    for (name, stage, row) in TABLE {
        for two_hosts in [false, true] {
            let number = u16::try_from(cells.len()).unwrap();
            cells.push(Cell { stage, said: said(name), row, two_hosts, number });
        }
    }
    cells
}

/// A row of `attempts`, with what is known of its recipient.
struct Tried {
    came: Expected,
    code: String,
    enhanced: String,
    tls: String,
    tries: i64,
    /// Seconds from the try to the next one.
    wait: Option<i64>,
}

/// By address.
fn tried(db: &Db) -> HashMap<String, Vec<Tried>> {
    let mut statement = db
        .0
        .prepare(
            "SELECT r.address, r.state, a.outcome, a.phase, coalesce(whole.reply, a.reply), a.reply_source, a.mx,
                    CAST(a.code AS TEXT), coalesce(a.enhanced, ''), coalesce(a.tls, ''), r.attempts,
                    r.next_attempt_at - a.at
             FROM attempts a LEFT JOIN replies whole ON whole.id = a.reply_id JOIN (SELECT id, address, state, attempts, next_attempt_at FROM recipients
                                   UNION ALL SELECT recipient_id, address, state, attempts, NULL FROM history) r
                  ON r.id = a.recipient_id",
        )
        .unwrap();
    let rows = statement.query_map([], |row| {
        let text = |at| row.get::<_, String>(at);
        let came = Expected {
            state: text(1)?,
            outcome: text(2)?,
            phase: text(3)?,
            reply: text(4)?,
            reply_source: text(5)?,
            mx: text(6)?,
        };
        let (code, enhanced, tls) = (text(7)?, text(8)?, text(9)?);
        Ok((text(0)?, Tried { came, code, enhanced, tls, tries: row.get(10)?, wait: row.get(11)? }))
    });
    let mut found: HashMap<String, Vec<Tried>> = HashMap::new();
    for row in rows.unwrap() {
        let (address, tried) = row.unwrap();
        found.entry(address).or_default().push(tried);
    }
    found
}

/// What is wrong with the try for one recipient of a cell.
fn wrong_with(cell: &Cell, recipient: &str, tried: Option<&Vec<Tried>>) -> Option<String> {
    let expected = cell.expected(recipient);
    let [one] = tried.map_or(&[][..], Vec::as_slice) else {
        return Some(format!("{} tries on record", tried.map_or(0, Vec::len)));
    };
    let mut came = one.came.clone();
    if expected.reply_source == "local" {
        // RFC 3463 §3.5, §3.6: 4.4.2 the connection, 4.5.0 the protocol.
        let is_ours = came.reply.starts_with("421 4.4.2 ") || came.reply.starts_with("451 4.5.0 ");
        if !is_ours {
            return Some(format!("not our words: {:?}", came.reply));
        }
        came.reply.clear();
    }
    if came != expected {
        return Some(format!("wanted {expected:?}\n       got    {came:?}"));
    }
    let its_own = expected.reply == cell.said.stored;
    if its_own
        && cell.said.code.is_some_and(|code| {
            (one.code.as_str(), one.enhanced.as_str()) != (&code.to_string(), cell.said.enhanced)
        })
    {
        return Some(format!("code {} and enhanced {:?} on record", one.code, one.enhanced));
    }
    if one.tries != 1 {
        return Some(format!("{} attempts counted", one.tries));
    }
    // The schedule's one hour, and its fifth either way; one more second for the clock.
    if one.wait.is_some_and(|wait| !(2880..=4321).contains(&wait)) {
        return Some(format!("next attempt after {:?} s", one.wait));
    }
    let tls = match cell.stage {
        Stage::Starttls | Stage::StarttlsRequired if one.came.phase == "end_of_data" => {
            let refused = cell.said.code != Some(220);
            let in_clear = cell.stage == Stage::Starttls && refused && expected.mx == cell.mx(1);
            Some(if in_clear { "none" } else { "TLSv1.3" })
        }
        _ => None,
    };
    tls.filter(|tls| *tls != one.tls).map(|tls| format!("tls {:?}, wanted {tls:?}", one.tls))
}

/// Starts the hosts of all cells, and the one that takes the bounces.
fn start_hosts(world: &mut World, cells: &[Cell]) -> FakeMx {
    let certificate = Certificate::for_names(&["mx.test"]);
    let mut scripts = HashMap::from([(IpAddr::from(HOME), Script::new())]);
    for cell in cells {
        scripts.insert(cell.ip(1), cell.stage.script(cell.said.act.clone(), &certificate));
        if cell.two_hosts {
            scripts.insert(cell.ip(2), Script::new().tls(&certificate));
        }
    }
    world.zone(|zone| {
        let home = zone.mx("home.test", 10, "mx.home.test").address("mx.home.test", HOME.into());
        cells.iter().fold(home, |zone, cell| {
            let zone = zone.mx(&cell.domain(), 10, &cell.mx(1)).address(&cell.mx(1), cell.ip(1));
            if !cell.two_hosts {
                return zone;
            }
            zone.mx(&cell.domain(), 20, &cell.mx(2)).address(&cell.mx(2), cell.ip(2))
        })
    });
    FakeMx::start_everywhere(world.mx_port, scripts)
}

#[test]
fn what_hosts_say_means_what_the_table_says() {
    let cells = cells();
    let mut world = World::new();
    let hosts = start_hosts(&mut world, &cells);
    let config = Config::new()
        .set("delivery.workers", "64")
        .set("delivery.reply_timeout", "\"4s\"")
        .route("domain = \"*.secure.test\"\ntls = \"encrypt\"");
    let mut relay = world.relay(config);
    let mut client = relay.client();
    for cell in &cells {
        let recipients = cell.recipients();
        let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
        client.submit(&cell.sender(), &recipients, &mail(&cell.name()));
    }
    client.expect("QUIT", "221");
    let backing_off: BTreeSet<String> =
        cells.iter().filter(|cell| cell.lane_backs_off()).map(Cell::domain).collect();
    // Each recipient has been tried once, bounces too. Lanes are written a moment later, and before the end.
    relay.wait_until("every cell to be tried", A_WHILE, |db| {
        (db.number("SELECT count(*) FROM recipients WHERE attempts = 0", []) == 0).then_some(())
    });
    relay.stop();

    let mut wrong = Vec::new();
    let tried = tried(&relay.db());
    for cell in &cells {
        for recipient in cell.recipients() {
            if let Some(what) = wrong_with(cell, &recipient, tried.get(&recipient)) {
                wrong.push(format!("{recipient} ({:?}): {what}", cell.row));
            }
        }
    }
    let lanes: BTreeSet<String> =
        relay.db().rows("SELECT lane FROM backoffs WHERE failures = 1", []).into_iter().collect();
    wrong.extend(lanes.symmetric_difference(&backing_off).map(|lane| format!("lane {lane}")));
    wrong.extend(wrong_arrivals(&cells, &hosts));
    wrong.extend(relay.db().rows("SELECT 'stuck', * FROM stuck", []));
    assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// Mail at the wrong host, twice or not at all; bounces likewise, and whether they quote what was said.
fn wrong_arrivals(cells: &[Cell], hosts: &FakeMx) -> Vec<String> {
    let seen = hosts.seen();
    let mut arrived: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
    let mut bounces: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for message in hosts.messages() {
        let host = seen[message.connection].host.unwrap();
        for rcpt in &message.rcpts {
            let address = rcpt.split(['<', '>']).nth(1).unwrap_or_default().to_owned();
            if host == HOME {
                let text = String::from_utf8_lossy(&message.content).replace("\r\n ", " ");
                bounces.entry(address).or_default().push(text);
            } else {
                arrived.entry(address).or_default().push(host);
            }
        }
    }
    let mut wrong = Vec::new();
    for cell in cells {
        let mut bounced = None;
        for recipient in cell.recipients() {
            let expected = cell.expected(&recipient);
            let came = arrived.remove(&recipient).unwrap_or_default();
            let wanted: &[IpAddr] = match expected.outcome.as_str() {
                "delivered" if expected.mx == cell.mx(2) => &[cell.ip(2)],
                "delivered" => &[cell.ip(1)],
                // A host that says 25 or 354 to the dot may well have taken it: that is the doubt.
                "in_doubt" if came == [cell.ip(1)] => &came,
                _ => &[],
            };
            if came != wanted {
                wrong.push(format!("{recipient} arrived at {came:?}, wanted {wanted:?}"));
            }
            if expected.state == "failed" {
                bounced = Some(expected.reply);
            }
        }
        let bounce = bounces.remove(&cell.sender()).unwrap_or_default();
        let right = match (&bounced, bounce.as_slice()) {
            (None, []) => true,
            (Some(reply), [text]) => {
                let status = cell.said.enhanced.strip_prefix('5').map_or("0.0", |rest| &rest[1..]);
                diagnostic(text).as_ref() == Some(reply)
                    && text.contains(&format!("Status: 5.{status}\r\n"))
                    && text.contains(&format!("Remote-MTA: dns; {}\r\n", cell.mx(1)))
            }
            _ => false,
        };
        if !right {
            wrong.push(format!("{}: bounces for {bounced:?}: {bounce:#?}", cell.name()));
        }
    }
    wrong.extend(arrived.keys().chain(bounces.keys()).map(|address| format!("{address}: nobody's")));
    wrong
}

/// What a bounce says that the host said, on one line: of several each has its code (RFC 3461 §9.2).
fn diagnostic(bounce: &str) -> Option<String> {
    let said = bounce.split("Diagnostic-Code: smtp; ").nth(1)?.lines().next()?;
    let Some((code, _)) = said.split_once('-').filter(|(code, _)| code.len() == 3) else {
        return Some(said.to_owned());
    };
    let on_one_line = said.replace(&format!(" {code}-"), " ").replace(&format!(" {code} "), " ");
    Some(on_one_line.replacen('-', " ", 1))
}
