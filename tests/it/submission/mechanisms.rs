//! Every AUTH mechanism, spoken by programs that others wrote; the relay's log says which one it was.
//!
//! swaks, curl, msmtp, gsasl, Python's smtplib and aiosmtplib, and nodemailer, each with every mechanism that it
//! and the relay both know; what is not installed is skipped with a notice. (PLAIN and LOGIN of the first ones,
//! and lettre, which knows no other that is offered, are in `whole/clients.rs`.)

use std::process::{Command, Output};

use crate::harness::fakemx::{FakeMx, SOON, Script};
use crate::harness::relay::{Config, Relay, World, run_to_end, wait_for, write_secret};
use crate::harness::skipped::{installed, skipped};

const SENDER: &str = "shop@app.test";
const RECIPIENT: &str = "customer@clients.test";
/// Added with `--cram-md5`.
const CRAM_USER: &str = "old";
/// Added without, on the same relay: CRAM-MD5 is offered and is of no use to it.
const PLAIN_USER: &str = "app";
/// Without what shells eat (`whole/clients.rs` has those), with what SCRAM writes in another way in names.
const PASSWORD: &str = "pass,word=1";

/// A relay that logs its dialogues, and the host that gets what is submitted to it.
struct Stage {
    _world: World,
    mx: FakeMx,
    relay: Relay,
    sent: usize,
    /// Of the log, what is known already.
    read: usize,
}

impl Stage {
    fn new() -> Stage {
        let mut world = World::new();
        let mx = world.host("clients.test", Script::new());
        let mut relay = Relay::prepare(world.configured(Config::new()));
        for arguments in [&[PLAIN_USER][..], &[CRAM_USER, "--cram-md5"], &["a=b,c"]] {
            let command = relay.command(&[&["user", "add", "--password-stdin"], arguments].concat());
            let output = run_to_end(command, PASSWORD.as_bytes());
            assert!(output.status.success(), "{}", said(&output));
        }
        relay.spawn_logging("debug");
        relay.wait_until_ready();
        Stage { _world: world, mx, relay, sent: 0, read: 0 }
    }

    fn ca(&self) -> String {
        self.relay.path("ca.pem").to_str().expect("made by us").to_owned()
    }

    fn port(&self) -> String {
        self.relay.starttls.port().to_string()
    }

    fn mail_file(&self) -> String {
        let file = self.relay.path("mail.eml");
        std::fs::write(&file, format!("From: {SENDER}\nTo: {RECIPIENT}\nSubject: auth\n\nbody\n")).unwrap();
        file.to_str().expect("made by us").to_owned()
    }

    /// The mechanisms of AUTH commands since the last time, each as it was answered in the end.
    fn spoken(&mut self) -> Vec<String> {
        let log = self.relay.log();
        let new = &log[self.read..];
        self.read = log.len();
        let mut spoken = Vec::new();
        for line in new.lines() {
            if let Some((_, command)) = line.split_once(": C: AUTH ") {
                spoken.push(command.trim_end_matches(" …").to_owned());
            }
            for code in ["235", "501", "504", "535"] {
                if let (Some(last), true) = (spoken.last_mut(), line.contains(&format!(": S: {code} "))) {
                    last.push(' ');
                    last.push_str(code);
                }
            }
        }
        spoken
    }

    /// Runs a client that must succeed, with this mechanism and no other, and send a message.
    fn sends(&mut self, client: &str, command: Command, mechanism: &str) {
        let output = run_to_end(command, b"");
        assert!(output.status.success(), "{client}: {}", said(&output));
        self.sent += 1;
        let message = self.mx.wait_for_messages(self.sent, SOON).swap_remove(self.sent - 1);
        assert!(String::from_utf8_lossy(&message.content).contains(" with ESMTPSA "), "{client}");
        // The log's lines are written together, some milliseconds later.
        wait_for("the login's line", SOON, || {
            self.relay.log()[self.read..].contains(": S: 235 ").then_some(())
        });
        assert_eq!(self.spoken(), [format!("{mechanism} 235")], "{client}: {}", said(&output));
        println!("{client}: {mechanism}");
    }
}

fn said(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).join("\n")
}

/// What a program says of itself.
fn output_of(program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(arguments);
    said(&run_to_end(command, b""))
}

/// A module of an interpreter, tried as the tests will use it.
fn has_module(program: &str, arguments: &[&str]) -> bool {
    if !installed(program) {
        return false;
    }
    let mut command = Command::new(program);
    command.args(arguments);
    let found = run_to_end(command, b"").status.success();
    if !found {
        skipped(&format!("{program} {} does not work here", arguments.join(" ")));
    }
    found
}

#[test]
fn swaks_speaks_cram_md5() {
    if !installed("swaks") {
        return;
    }
    if !output_of("swaks", &["--support"]).contains("AUTH CRAM-MD5 supported") {
        skipped("this swaks has no CRAM-MD5 (Digest::MD5 is missing)");
        return;
    }
    let mut stage = Stage::new();
    let mut command = Command::new("swaks");
    command.args(["--server", "localhost", "--port", &stage.port(), "--tls"]);
    command.args(["--tls-verify", "--tls-ca-path", &stage.ca(), "--helo", "app.test"]);
    command.args(["--from", SENDER, "--to", RECIPIENT, "--data", &format!("@{}", stage.mail_file())]);
    command.args(["--auth", "CRAM-MD5", "--auth-user", CRAM_USER, "--auth-password", PASSWORD]);
    stage.sends("swaks", command, "CRAM-MD5");
}

#[test]
fn curl_speaks_cram_md5_and_scram_where_it_was_built_with_it() {
    if !installed("curl") {
        return;
    }
    let mut stage = Stage::new();
    let mut mechanisms = vec!["CRAM-MD5"];
    if output_of("curl", &["--version"]).contains("gsasl") {
        mechanisms.push("SCRAM-SHA-256");
    } else {
        skipped("this curl was built without SCRAM (libgsasl)");
    }
    for mechanism in mechanisms {
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--ssl-reqd", "--cacert", &stage.ca(), "--crlf"]);
        command.args(["--url", &format!("smtp://localhost:{}/app.test", stage.port())]);
        command.args(["--mail-from", SENDER, "--mail-rcpt", RECIPIENT, "--upload-file", &stage.mail_file()]);
        command.args(["--user", &format!("{CRAM_USER}:{PASSWORD}")]);
        command.args(["--login-options", &format!("AUTH={mechanism}")]);
        stage.sends("curl", command, mechanism);
    }
}

#[test]
fn msmtp_speaks_scram_and_cram_md5() {
    if !installed("msmtp") {
        return;
    }
    let mut stage = Stage::new();
    let password = stage.relay.path("msmtp-password");
    write_secret(&password, PASSWORD);
    let knows = output_of("msmtp", &["--version"]);
    let methods = knows.lines().find(|line| line.contains("plain ")).unwrap_or_default().to_owned();
    for mechanism in ["scram-sha-256", "scram-sha-256-plus", "cram-md5"] {
        if !methods.split(' ').any(|method| method == mechanism) {
            skipped(&format!("this msmtp has no {mechanism}"));
            continue;
        }
        let mut command = Command::new("sh");
        command.args(["-c", "mail=$1; shift; exec msmtp \"$@\" < \"$mail\"", "sh", &stage.mail_file()]);
        command.args(["--host=localhost", &format!("--port={}", stage.port()), "--domain=app.test"]);
        command.args(["--tls=on", "--tls-starttls=on", &format!("--tls-trust-file={}", stage.ca())]);
        command.args([&format!("--auth={mechanism}"), &format!("--user={CRAM_USER}")]);
        command.arg(format!("--passwordeval=cat '{}'", password.display()));
        command.args([&format!("--from={SENDER}"), "--", RECIPIENT]);
        stage.sends("msmtp", command, &mechanism.to_uppercase());
    }
}

/// The one of them that knows SCRAM-SHA-256-PLUS with the channel binding of TLS 1.3; it sends no mail.
#[test]
fn gsasl_speaks_every_mechanism() {
    if !installed("gsasl") {
        return;
    }
    let mut stage = Stage::new();
    let login = |stage: &Stage, mechanism: &str, name: &str, password: &str, more: &[&str]| {
        let mut command = Command::new("gsasl");
        command.args(["--smtp", "--verbose", "--starttls", "--x509-ca-file", &stage.ca()]);
        command.args(["--mechanism", mechanism, "--hostname", "localhost"]);
        command.args(["--authentication-id", name, "--authorization-id", "", "--password", password]);
        command.args(more).args(["localhost", &stage.port()]);
        run_to_end(command, b"")
    };
    for mechanism in ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "PLAIN", "LOGIN", "CRAM-MD5"] {
        // Where gsasl can bind it does not go on without.
        let more: &[&str] = if mechanism == "SCRAM-SHA-256" { &["--no-cb"] } else { &[] };
        let output = login(&stage, mechanism, CRAM_USER, PASSWORD, more);
        assert_eq!(stage.spoken(), [format!("{mechanism} 235")], "{}", said(&output));
        println!("gsasl: {mechanism}");
    }
    let output = login(&stage, "SCRAM-SHA-256-PLUS", CRAM_USER, "wrong", &[]);
    assert_eq!(stage.spoken(), ["SCRAM-SHA-256-PLUS 535"], "{}", said(&output));
    let output = login(&stage, "SCRAM-SHA-256-PLUS", "nobody", PASSWORD, &[]);
    assert_eq!(stage.spoken(), ["SCRAM-SHA-256-PLUS 535"], "{}", said(&output));
    // A name that SCRAM has to write in another way.
    let output = login(&stage, "SCRAM-SHA-256-PLUS", "a=b,c", PASSWORD, &[]);
    assert_eq!(stage.spoken(), ["SCRAM-SHA-256-PLUS 235"], "{}", said(&output));
}

#[test]
fn python_smtplib_speaks_cram_md5_and_falls_back_to_plain_as_often_as_it_likes() {
    if !installed("python3") {
        return;
    }
    const SCRIPT: &str = r#"
import smtplib, ssl, sys
port, ca, user, password, sender, recipient, mail = sys.argv[1:]
client = smtplib.SMTP("localhost", int(port), timeout=20)
client.starttls(context=ssl.create_default_context(cafile=ca))
# Its own choice: CRAM-MD5, then PLAIN, then LOGIN.
client.login(user, password)
assert client.sendmail(sender, [recipient], open(mail).read()) == {}
client.quit()
"#;
    let mut stage = Stage::new();
    let command = |stage: &Stage, user: &str| {
        let mut command = Command::new("python3");
        command.args(["-c", SCRIPT, &stage.port(), &stage.ca(), user, PASSWORD, SENDER, RECIPIENT]);
        command.arg(stage.mail_file());
        command
    };
    let first = command(&stage, CRAM_USER);
    stage.sends("smtplib", first, "CRAM-MD5");
    // More often than failures are allowed: each is made good in its session.
    for _ in 0..7 {
        let output = run_to_end(command(&stage, PLAIN_USER), b"");
        assert!(output.status.success(), "{}", said(&output));
        assert_eq!(stage.spoken(), ["CRAM-MD5 535", "PLAIN 235"], "{}", said(&output));
    }
}

#[test]
fn aiosmtplib_speaks_plain_login_and_cram_md5() {
    if !has_module("python3", &["-c", "import aiosmtplib"]) {
        return;
    }
    const SCRIPT: &str = r#"
import asyncio, aiosmtplib, ssl, sys
method, port, ca, user, password, sender, recipient, mail = sys.argv[1:]
async def main():
    context = ssl.create_default_context(cafile=ca)
    client = aiosmtplib.SMTP(hostname="localhost", port=int(port), start_tls=True, tls_context=context, timeout=20)
    await client.connect()
    await client.ehlo()
    assert "cram-md5" in client.server_auth_methods, client.server_auth_methods
    await getattr(client, method)(user, password)
    await client.sendmail(sender, [recipient], open(mail).read())
    await client.quit()
asyncio.run(main())
"#;
    let mut stage = Stage::new();
    for (method, mechanism) in [
        ("auth_plain", "PLAIN"),
        ("auth_login", "LOGIN"),
        ("auth_crammd5", "CRAM-MD5"),
        ("login", "CRAM-MD5"),
    ] {
        let mut command = Command::new("python3");
        command.args(["-c", SCRIPT, method, &stage.port(), &stage.ca(), CRAM_USER, PASSWORD]);
        command.args([SENDER, RECIPIENT, &stage.mail_file()]);
        stage.sends("aiosmtplib", command, mechanism);
    }
}

#[test]
fn nodemailer_speaks_plain_login_and_cram_md5() {
    if !has_module("node", &["-e", "require('nodemailer')"]) {
        return;
    }
    const SCRIPT: &str = r#"
const [authMethod, port, ca, user, pass, from, to] = process.argv.slice(1);
const transport = require("nodemailer").createTransport({
    host: "localhost", port: Number(port), requireTLS: true, auth: { user, pass },
    ...(authMethod === "its own choice" ? {} : { authMethod }),
    tls: { ca: require("fs").readFileSync(ca) },
});
transport.sendMail({ from, to, subject: "auth", text: "body" }).then(
    () => transport.close(),
    (error) => { console.error(error); process.exit(1); },
);
"#;
    let mut stage = Stage::new();
    for (method, mechanism) in
        [("PLAIN", "PLAIN"), ("LOGIN", "LOGIN"), ("CRAM-MD5", "CRAM-MD5"), ("its own choice", "PLAIN")]
    {
        let mut command = Command::new("node");
        command.args([
            "-e",
            SCRIPT,
            method,
            &stage.port(),
            &stage.ca(),
            CRAM_USER,
            PASSWORD,
            SENDER,
            RECIPIENT,
        ]);
        stage.sends("nodemailer", command, mechanism);
    }
}
