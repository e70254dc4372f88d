//! Runs what README.md, CONTRIBUTING.md and docs/ show, and the statements in `queue-schema.sql`: a command, a config
//! or a statement that does not work is a failure here.
//!
//! The info string of a fenced block says what is done with it. Each block stands alone.
//!
//! - `sh`: run as one script, in which every command must succeed. `console`: the lines behind `$ ` are.
//! - `toml`: a config by itself; the binary must load it. Absolute paths in it are replaced by files made for that,
//!   and it gets a `[tls]` where it has none.
//! - `sql`: each statement runs on a queue with sample rows, and is rolled back.
//! - One of [`OTHERS`]: for people only.
//!
//! A comment `<!-- not run: needs root -->` on the line above the fence says why a script is not run; its form is
//! checked then, its `postrider` commands must parse, and what it names of this repository must exist. Code in
//! prose is checked as far: `postrider …`, `SELECT …`, `[section] key`.
//!
//! Scripts run in a folder of their own with `postrider.toml` and the queue, without a relay; `/etc/postrider/` and
//! `/var/lib/postrider/` mean that folder, `sudo` is left out, and the passwords that are asked for are given. In the
//! queue [`QUEUE_ID`] waits for you@example.org; example.com, example.net and example.org have a host in the DNS.

mod manual;
mod reader;
mod roff;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

use reader::{Block, Document, console_commands, simple_commands, statements};

use crate::harness::db::Db;
use crate::harness::fakemx::{Act, At, FakeMx, SOON, Script};
use crate::harness::relay::{Config, HOSTNAME, Relay, World, mail, run_to_end, write_secret};
use crate::harness::skipped::installed;
use crate::house::source::files;
use postrider::mail::dkim::{Algorithm, Key};

/// The queue id that documents use.
const QUEUE_ID: &str = "1K6XQ3V8T4D";
/// Info strings of blocks that are not ours to run.
const OTHERS: &[&str] = &["text", "python", "rust", "js", "php", "ini", "json", "yaml"];

/// A document's name and what was read of it.
fn documents() -> Vec<(String, Document)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<PathBuf> =
        docs.filter(|path| path.extension().is_some_and(|found| found == "md")).collect();
    paths.extend(["README.md", "CONTRIBUTING.md"].map(|name| root.join(name)));
    paths.sort();
    let name = |path: &Path| path.strip_prefix(root).unwrap().display().to_string();
    paths.iter().map(|path| (name(path), reader::read(&fs::read_to_string(path).unwrap()))).collect()
}

/// Checks each block of a kind; all that fail are told together.
fn check_blocks(kinds: &[&str], check: impl Fn(&Block) -> Result<(), String>) {
    let documents = documents();
    let mut checked = 0;
    let mut wrong = Vec::new();
    for (name, document) in &documents {
        for block in document.blocks.iter().filter(|block| kinds.contains(&block.info.as_str())) {
            checked += 1;
            wrong.extend(check(block).err().map(|error| format!("{name}:{}: {error}", block.line)));
        }
    }
    assert!(checked > 0, "no block of {kinds:?}");
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

// ---- the stage -----------------------------------------------------------------------------------

/// A queue in which a bit of everything has happened.
struct Sample {
    world: World,
    _hosts: Vec<FakeMx>,
    relay: Relay,
    queue_id: String,
}

static SAMPLE: LazyLock<Sample> = LazyLock::new(|| {
    let mut world = World::new();
    let hosts = vec![
        world.host("example.org", Script::new().on(At::Rcpt("@"), Act::Say("450 4.7.1 greylisted"))),
        world.host("example.com", Script::new().on(At::Rcpt("nobody@"), Act::Say("550 5.1.1 no such user"))),
    ];
    world.closed_mx("example.net", 10, "mx.example.net");
    let own = world.new_ip();
    world.zone(|zone| zone.address(HOSTNAME, own));
    let mut relay = world.relay(Config::new());
    let sender = "app@example.com";
    let queue_id = relay.submit(sender, &["you@example.org"], &mail("waits"));
    for recipient in ["you@example.net", "you@example.com", "nobody@example.com"] {
        relay.submit(sender, &[recipient], &mail("sample"));
    }
    relay.wait_until("every mail to have been tried", SOON, |db| {
        let tries = "SELECT count(DISTINCT recipient_id) FROM attempts WHERE outcome = ?";
        let told = db.number("SELECT count(*) FROM history WHERE sender = ''", []);
        let all = db.number(tries, ["deferred"]) == 2 && db.number(tries, ["failed"]) == 1 && told == 1;
        (all && db.number("SELECT count(*) FROM backoffs", []) == 1).then_some(())
    });
    relay.run_ok(&["queue", "kick", "--domain", "example.org"]);
    relay.wait_until("the kick", SOON, |db| (db.attempts("you@example.org", "deferred") == 2).then_some(()));
    relay.stop();
    Sample { world, _hosts: hosts, relay, queue_id }
});

/// A relay that does not run, with a copy of the sample queue and nobody in its users file.
fn stage() -> Relay {
    let relay = Relay::prepare(SAMPLE.world.configured(Config::new()));
    fs::copy(SAMPLE.relay.path("queue.db"), relay.path("queue.db")).unwrap();
    let bin = relay.path("bin");
    fs::create_dir(&bin).unwrap();
    let program = |name: &str, text: &str| {
        fs::write(bin.join(name), format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    };
    let binary = env!("CARGO_BIN_EXE_postrider");
    program(
        "postrider",
        &format!(
            "case \" $* \" in\n*--password-stdin*) ;;\n*\" user add \"*|*\" user passwd \"*) echo secret | {binary} \"$@\" \
             --password-stdin; exit ;;\nesac\nexec {binary} \"$@\""
        ),
    );
    program("sudo", "[ \"$1\" = -u ] && shift 2\nexec \"$@\"");
    relay
}

/// The text of a block as it is used on a stage.
fn on_stage(text: &str, folder: &Path) -> String {
    let folder = format!("{}/", folder.display());
    let text = text.replace(QUEUE_ID, &SAMPLE.queue_id).replace("/tmp/", &folder);
    text.replace("/var/lib/postrider/", &folder).replace("/etc/postrider/", &folder)
}

/// What a command that failed said.
fn success(output: &Output) -> Result<(), String> {
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("{}: {}", output.status, said.trim())) }
}

// ---- scripts -------------------------------------------------------------------------------------

fn script_of(block: &Block) -> String {
    if block.info == "console" { console_commands(&block.text) } else { block.text.clone() }
}

fn run_script(script: &str) -> Result<(), String> {
    if script.contains("sqlite3") && !installed("sqlite3") {
        return Ok(());
    }
    let relay = stage();
    let folder = relay.path("");
    let path = format!("{}:{}", relay.path("bin").display(), std::env::var("PATH").unwrap());
    let mut command = Command::new("sh");
    command.arg("-euc").arg(on_stage(script, &folder)).current_dir(&folder).env("PATH", path);
    success(&run_to_end(command, b""))
}

/// What can be said of a script that is not run.
fn check_script(script: &str) -> Result<(), String> {
    let mut command = Command::new("sh");
    command.arg("-n");
    success(&run_to_end(command, script.as_bytes()))?;
    simple_commands(script).iter().try_for_each(|words| check_command(words))
}

/// A command by its words: ours must parse, and what it names of this repository must be there.
fn check_command(words: &[String]) -> Result<(), String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let line = words.join(" ");
    match words[0].as_str() {
        "postrider" => parses(&words[1..])?,
        "cargo" => {
            let named = words.iter().zip(&words[1..]).filter_map(|(option, name)| {
                Some((option.strip_prefix("--").filter(|option| ["bench", "test"].contains(option))?, name))
            });
            for (option, name) in named {
                let folder = root.join(if option == "bench" { "benches" } else { "tests" });
                if !folder.join(format!("{name}.rs")).exists() && !folder.join(name).join("main.rs").exists()
                {
                    return Err(format!("{line}: there is no {option} {name}"));
                }
            }
        }
        _ => {}
    }
    let ours = [".ci/", "benches/", "docs/", "fuzz/", "packaging/", "src/", "systemd/", "tests/"];
    let is_missing = |word: &&String| {
        let path = word.strip_prefix("./").unwrap_or(word);
        ours.iter().any(|folder| path.starts_with(folder)) && !root.join(path).exists()
    };
    match words.iter().find(is_missing) {
        Some(missing) => Err(format!("{line}: there is no {missing}")),
        None => Ok(()),
    }
}

/// Whether the binary understands such arguments. It reads them in order, and stops at `--help`.
fn parses(arguments: &[String]) -> Result<(), String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_postrider"));
    command.args(arguments).arg("--help");
    success(&run_to_end(command, b""))
}

#[test]
fn every_block_says_what_it_is() {
    let mut wrong = Vec::new();
    for (name, document) in documents() {
        wrong.extend(document.wrong.iter().map(|error| format!("{name}:{error}")));
        for block in &document.blocks {
            let is_known = ["sh", "console", "toml", "sql"].contains(&block.info.as_str());
            if !is_known && !OTHERS.contains(&block.info.as_str()) {
                wrong.push(format!("{name}:{}: a block of {:?}", block.line, block.info));
            }
            if block.not_run.is_some() && !["sh", "console"].contains(&block.info.as_str()) {
                wrong.push(format!("{name}:{}: only a script may be marked as not run", block.line));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn every_script_runs_or_is_well_formed() {
    check_blocks(&["sh", "console"], |block| match block.not_run {
        None => run_script(&script_of(block)),
        Some(_) => check_script(&script_of(block)),
    });
}

#[test]
fn a_wrong_script_is_told() {
    let told = |script: &str, what: &str| {
        let error = run_script(script).expect_err(script);
        assert!(error.contains(what), "{script}: {error}");
    };
    told("postrider queue kick --domian example.org", "--domian");
    told("postrider queue show 1K6XQ3V8T4E", "1K6XQ3V8T4E");
    told("postrider queue list\npostrider user remove nobody\npostrider queue list", "nobody");
    if installed("sqlite3") {
        told(
            "sudo -u postrider sqlite3 -readonly /var/lib/postrider/queue.db 'SELECT adress FROM recipients'",
            "adress",
        );
    }
    let told = |script: &str, what: &str| {
        let error = check_script(script).expect_err(script);
        assert!(error.contains(what), "{script}: {error}");
    };
    told("sudo postrider user add app --rates 5/h", "--rates");
    told("postrider queue list --state lost | head", "lost");
    told("if true; then", "end of file");
    told("cargo bench --bench relays", "no bench relays");
    told("install -m 644 systemd/postrider.unit /etc/", "systemd/postrider.unit");
    assert_eq!(check_script("sudo -u postrider postrider queue show 1K6XQ3V8T4D"), Ok(()));
}

// ---- configs -------------------------------------------------------------------------------------

/// Has the binary load a config made of this.
fn load_config(text: &str) -> Result<(), String> {
    let relay = stage();
    fs::write(relay.path("secret"), "a secret of some length\n").unwrap();
    fs::set_permissions(relay.path("secret"), fs::Permissions::from_mode(0o600)).unwrap();
    let key = Key::generate(Algorithm::Ed25519Sha256).and_then(|key| key.to_pem());
    write_secret(&relay.path("dkim.pem"), &key.unwrap());
    let made: Vec<String> = text.lines().map(|line| with_made_files(line, &relay)).collect();
    let tls =
        format!("[tls]\ncertificate = {:?}\nkey = {:?}\n", relay.path("cert.pem"), relay.path("key.pem"));
    let tls = if text.contains("[tls]") { "" } else { &tls };
    let file = relay.path("shown.toml");
    fs::write(&file, format!("{}\n{tls}", made.join("\n"))).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_postrider"));
    command.args(["user", "list", "--config"]).arg(file);
    success(&run_to_end(command, b""))
}

/// A line with its absolute paths replaced by files that exist and fit its key.
fn with_made_files(line: &str, relay: &Relay) -> String {
    let Some((before, rest)) = line.split_once("\"/") else { return line.to_owned() };
    let Some((path, behind)) = rest.split_once('"') else { return line.to_owned() };
    let key = line.split([' ', '=']).next().unwrap_or_default();
    let file = match key {
        "key" if path.contains("dkim") => relay.path("dkim.pem"),
        "certificate" => relay.path("cert.pem"),
        "key" => relay.path("key.pem"),
        "ca_file" => relay.path("ca.pem"),
        "token_command" => relay.path("bin/postrider"),
        "password_file" | "token_file" => relay.path("secret"),
        _ => relay.path(path.rsplit('/').next().unwrap_or_default()),
    };
    format!("{before}{file:?}{behind}")
}

#[test]
fn every_config_loads() {
    check_blocks(&["toml"], |block| load_config(&block.text));
}

#[test]
fn a_wrong_config_is_told() {
    assert_eq!(load_config("[limits]\nsessions = 10\n"), Ok(()));
    for (text, what) in [
        ("[limits]\nsesions = 10\n", "sesions"),
        ("[[route]]\ndomain = \"*\"\nrelay = [\"a.example\"]\ntls = \"verified\"\n", "verified"),
        ("[queue]\nlifetime = 5\n", "lifetime"),
    ] {
        let error = load_config(text).expect_err(text);
        assert!(error.contains(what), "{text}: {error}");
    }
}

// ---- statements ----------------------------------------------------------------------------------

/// Runs each statement, in one transaction that is rolled back.
fn run_statements(sql: &str) -> Result<(), String> {
    let relay = stage();
    let Db(mut db) = relay.db_for_writing();
    let transaction = db.transaction().unwrap();
    for statement in statements(&on_stage(sql, &relay.path(""))) {
        let run = || -> Result<(), rusqlite::Error> {
            let mut statement = transaction.prepare(&statement)?;
            let mut rows = statement.query([])?;
            while rows.next()?.is_some() {}
            Ok(())
        };
        run().map_err(|error| format!("{statement}: {error}"))?;
    }
    transaction.rollback().map_err(|error| error.to_string())
}

#[test]
fn every_statement_runs() {
    check_blocks(&["sql"], |block| run_statements(&block.text));
}

#[test]
fn every_statement_in_the_schemas_comments_runs() {
    let schema = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("queue-schema.sql")).unwrap();
    let comments: Vec<&str> =
        schema.lines().filter_map(|line| line.trim_start().strip_prefix("--")).collect();
    let statements: Vec<&str> = comments.iter().filter(|line| line.contains("SELECT ")).copied().collect();
    assert!(statements.len() > 5, "{statements:?}");
    let mut wrong = Vec::new();
    for line in statements {
        let sql = &line[line.find("SELECT ").expect("found above")..];
        let Some((sql, _)) = sql.split_once(';').filter(|(sql, _)| !sql.contains('…')) else { continue };
        wrong.extend(run_statements(sql).err());
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn a_wrong_statement_is_told() {
    assert_eq!(run_statements("SELECT * FROM queue; UPDATE recipients SET state = 'held';"), Ok(()));
    for (sql, what) in [
        ("SELECT recipent FROM queue;", "recipent"),
        ("DELETE FROM kicks;\nSELECT * FROM lanes;", "lanes"),
        ("UPDATE recipients SET state = 'holding';", "CHECK"),
        ("SELEC 1;", "syntax"),
    ] {
        let error = run_statements(sql).expect_err(sql);
        assert!(error.contains(what), "{sql}: {error}");
    }
}

// ---- code in prose -------------------------------------------------------------------------------

/// The keys that there are, as `[section] key`; those above all sections as ` key`.
static KEYS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let mut command = Command::new(env!("CARGO_BIN_EXE_postrider"));
    command.args(["check", "--reference"]);
    let reference = String::from_utf8(run_to_end(command, b"").stdout).unwrap();
    let mut section = "";
    let mut keys = Vec::new();
    for line in reference.lines().map(|line| line.trim_start_matches('#')) {
        if line.starts_with('[') {
            section = line;
            keys.push(line.to_owned());
        } else if let Some((key, _)) = line.split_once(" = ").filter(|(key, _)| !key.contains(' ')) {
            keys.push(format!("{section} {key}"));
        }
    }
    keys
});

/// Code in prose, as far as it is ours.
fn check_inline(code: &str) -> Result<(), String> {
    if ["SELECT ", "UPDATE ", "DELETE "].iter().any(|verb| code.starts_with(verb)) {
        return if code.contains('…') { Ok(()) } else { run_statements(code) };
    }
    // A capital behind it: a line of the log.
    if code
        .strip_prefix("postrider ")
        .is_some_and(|rest| !rest.starts_with(char::is_uppercase) && !rest.contains('…'))
    {
        return simple_commands(&alternatives(code)).iter().try_for_each(|words| check_command(words));
    }
    let key = code.split(" = ").next().unwrap_or_default();
    // `[aliases]` has names of the operator's.
    if code.starts_with('[')
        && code.contains(']')
        && code != "[aliases]"
        && !KEYS.iter().any(|known| known == key)
    {
        return Err(format!("{code}: there is no such key"));
    }
    Ok(())
}

/// `a b|c d`, as people write it, as two commands.
fn alternatives(code: &str) -> String {
    let Some(word) = code.split(' ').find(|word| word.len() > 1 && word.contains('|')) else {
        return code.to_owned();
    };
    word.split('|').map(|one| code.replace(word, one) + "\n").collect()
}

#[test]
fn code_in_prose_is_right() {
    let mut wrong = Vec::new();
    for (name, document) in documents() {
        let of =
            |(line, code): &(usize, String)| Some(format!("{name}:{line}: {}", check_inline(code).err()?));
        wrong.extend(document.inline.iter().filter_map(of));
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn wrong_code_in_prose_is_told() {
    for right in [
        "postrider queue kick|hold --all",
        "postrider user add NAME --rate 5/h",
        "SELECT * FROM stuck",
        "[queue] lifetime",
        "[[retry.rule]] code = \"5xx\"",
        "[[route]]",
        "hostname",
    ] {
        assert_eq!(check_inline(right), Ok(()), "{right}");
    }
    for wrong in [
        "postrider queue kick|held --all",
        "postrider qeue list",
        "SELECT * FROM lanes",
        "[queue] live_time",
        "[[router]]",
    ] {
        assert!(check_inline(wrong).is_err(), "{wrong}");
    }
}

// ---- the log -------------------------------------------------------------------------------------

/// The longest piece between the placeholders of each line that this source writes to the log (debug apart).
fn logged(source: &str) -> Vec<String> {
    let code = source.split("#[cfg(test)]").next().unwrap_or_default();
    let calls = ["log::info!(", "log::warn!(", "log::error!(", "log::log!("];
    let literals = calls.iter().flat_map(|call| code.split(call).skip(1)).filter_map(|rest| {
        let (before, text) = rest.split_once('"')?;
        let is_first = ["", "level,"].contains(&before.trim());
        is_first.then(|| text.split('"').next().unwrap_or_default())
    });
    // An event has its template as `text`, or behind level and name.
    let texts = code.split("text: \"").skip(1).filter_map(|rest| rest.split_once('"'));
    let texts = texts.filter(|(_, behind)| behind.starts_with([',', ' '])).map(|(text, _)| text);
    let parts: Vec<&str> = code.split('"').collect();
    let has_level =
        |before: &str| ["Info,", "Warn,", "Error,", "level,"].iter().any(|level| before.ends_with(level));
    let is_name = |name: &str| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    let named = parts
        .windows(4)
        .filter(|four| has_level(four[0].trim_end()) && is_name(four[1]) && four[2].trim() == ",");
    let literals = literals.chain(texts).chain(named.map(|four| four[3]));
    let joined = literals.map(|text| text.lines().map(str::trim_start).collect::<String>().replace('\\', ""));
    joined
        .map(|text| {
            let pieces = text.split('{').map(|piece| piece.split_once('}').map_or(piece, |(_, after)| after));
            pieces.map(str::trim).max_by_key(|piece| piece.len()).unwrap_or_default().to_owned()
        })
        .collect()
}

#[test]
fn every_line_of_the_log_is_explained() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/log.md")).unwrap();
    let page = page.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut lines = 0;
    let mut missing = Vec::new();
    for (path, text) in files("src", "rs") {
        for piece in logged(&text) {
            lines += 1;
            if !page.contains(&piece) {
                missing.push(format!("src/{path}: {piece:?}"));
            }
        }
    }
    assert!(lines > 40, "only {lines} lines were found");
    assert!(missing.is_empty(), "not in docs/log.md:\n{}", missing.join("\n"));
}

#[test]
fn what_is_logged_is_found() {
    let source = "log::warn!(\n  \"{id}: late by {secs} s, \\\n   as ever\"); log::error!(\"{error}\"); log::debug!(\"no\");\n\
                  log::log!(level, \"to=<{to}> x\");\nline(Warn, \"late\",\n  \"late {by: by=$}, alas\", &[]);\n\
                  Event { name: \"on_time\", text: \"on time {as}\" }\n#[cfg(test)]\nmod tests { log::info!(\"not this\") }";
    assert_eq!(logged(source), ["s, as ever", "", "to=<", "on time", ", alas"]);
}
