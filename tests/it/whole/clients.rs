//! Real clients submit as applications do: STARTTLS and AUTH, TLS from the first byte, or in the clear from
//! loopback. lettre always; swaks, curl, msmtp and Python's smtplib where they are installed.

use std::process::Command;

use lettre::message::{Mailbox, header::ContentType};
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::{Message, SmtpTransport, Transport as _};

use crate::harness::fakemx::{FakeMx, SOON, Script};
use crate::harness::relay::{Config, PASSWORD, Relay, USER, World, run_to_end, write_secret};
use crate::harness::skipped::installed;

const SENDER: &str = "shop@app.test";
const RECIPIENT: &str = "customer@clients.test";

/// A relay, and the host that gets what is submitted to it.
struct Stage {
    _world: World,
    mx: FakeMx,
    relay: Relay,
    sent: usize,
}

impl Stage {
    fn new() -> Stage {
        let mut world = World::new();
        let mx = world.host("clients.test", Script::new());
        let relay = world.relay(Config::new());
        Stage { _world: world, mx, relay, sent: 0 }
    }

    fn ca(&self) -> String {
        self.relay.path("ca.pem").to_str().expect("made by us").to_owned()
    }

    /// A file with a mail in it.
    fn mail_file(&self, subject: &str) -> String {
        let file = self.relay.path("mail.eml");
        // Line ends as on Unix: turning them into CR LF is the client's work.
        let mail = format!("From: {SENDER}\nTo: {RECIPIENT}\nSubject: {subject}\n\nbody\n.dot\n.\nend\n");
        std::fs::write(&file, mail).unwrap();
        file.to_str().expect("made by us").to_owned()
    }

    /// Runs a client that must succeed; its mail must arrive, whole, from the user who logged in.
    fn run(&mut self, subject: &str, command: Command) {
        let shown = format!("{command:?}");
        let output = run_to_end(command, b"");
        let said = [&output.stdout, &output.stderr]
            .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
            .join("\n");
        assert!(output.status.success(), "{subject}: {shown}: {}\n{said}", output.status);
        let content = self.arrived(subject);
        assert!(content.contains(" with ESMTPSA "), "{content}");
        assert!(content.contains("body\r\n.dot\r\n.\r\nend\r\n"), "{content}");
    }

    /// The content of the next message, which must be this one.
    fn arrived(&mut self, subject: &str) -> String {
        self.sent += 1;
        let message = self.mx.wait_for_messages(self.sent, SOON).swap_remove(self.sent - 1);
        assert!(message.mail.contains(&format!("<{SENDER}>")), "{}", message.mail);
        assert_eq!(message.rcpts.len(), 1);
        assert!(message.rcpts[0].contains(&format!("<{RECIPIENT}>")), "{:?}", message.rcpts);
        let content = String::from_utf8(message.content).unwrap();
        assert!(content.contains(&format!("Subject: {subject}\r\n")), "{content}");
        content
    }
}

fn tls_parameters(stage: &Stage) -> TlsParameters {
    let root = Certificate::from_pem(&std::fs::read(stage.ca()).unwrap()).unwrap();
    TlsParameters::builder("localhost".to_owned()).add_root_certificate(root).build().unwrap()
}

fn send(transport: &SmtpTransport, subject: &str) {
    let message = Message::builder()
        .from(SENDER.parse::<Mailbox>().unwrap())
        .to(RECIPIENT.parse().unwrap())
        .subject(subject)
        .header(ContentType::TEXT_PLAIN)
        .body("body\r\n.dot\r\n.\r\nend\r\n".to_owned())
        .unwrap();
    let response = transport.send(&message).unwrap_or_else(|error| panic!("{subject}: {error}"));
    assert_eq!(response.code().to_string(), "250");
}

#[test]
fn lettre_submits_over_starttls_implicit_tls_and_the_clear() {
    let mut stage = Stage::new();
    let (starttls, implicit) = (stage.relay.starttls.port(), stage.relay.implicit.port());
    let parameters = tls_parameters(&stage);
    let credentials = Credentials::new(USER.to_owned(), PASSWORD.to_owned());
    for (name, port, tls, mechanism) in [
        ("starttls-plain", starttls, Tls::Required(parameters.clone()), Mechanism::Plain),
        ("starttls-login", starttls, Tls::Required(parameters.clone()), Mechanism::Login),
        ("implicit-plain", implicit, Tls::Wrapper(parameters.clone()), Mechanism::Plain),
        ("implicit-login", implicit, Tls::Wrapper(parameters), Mechanism::Login),
    ] {
        let transport = SmtpTransport::builder_dangerous("localhost")
            .port(port)
            .tls(tls)
            .credentials(credentials.clone())
            .authentication(vec![mechanism])
            .build();
        // Twice: lettre keeps the connection.
        for number in ["first", "second"] {
            let subject = format!("lettre-{name}-{number}");
            send(&transport, &subject);
            let content = stage.arrived(&subject);
            assert!(content.contains(" with ESMTPSA "), "{content}");
            assert!(content.contains("body\r\n.dot\r\n.\r\nend\r\n"), "{content}");
        }
    }
    let clear = SmtpTransport::builder_dangerous("127.0.0.1").port(stage.relay.clear.port()).build();
    send(&clear, "lettre-clear");
    assert!(stage.arrived("lettre-clear").contains(" with ESMTP "));
}

#[test]
fn lettre_with_a_wrong_password_or_none_is_refused() {
    let stage = Stage::new();
    let starttls = |credentials: Option<Credentials>| {
        let mut builder = SmtpTransport::builder_dangerous("localhost")
            .port(stage.relay.starttls.port())
            .tls(Tls::Required(tls_parameters(&stage)));
        if let Some(credentials) = credentials {
            builder = builder.credentials(credentials).authentication(vec![Mechanism::Plain]);
        }
        let message = Message::builder()
            .from(SENDER.parse::<Mailbox>().unwrap())
            .to(RECIPIENT.parse().unwrap())
            .body(String::new())
            .unwrap();
        let error = builder.build().send(&message).expect_err("it must be refused");
        error.status().map(|code| code.to_string())
    };
    let wrong = Credentials::new(USER.to_owned(), "wrong".to_owned());
    let nobody = Credentials::new("nobody".to_owned(), PASSWORD.to_owned());
    assert_eq!(starttls(Some(wrong)).as_deref(), Some("535"));
    assert_eq!(starttls(Some(nobody)).as_deref(), Some("535"));
    assert_eq!(starttls(None).as_deref(), Some("530"));
    assert_eq!(stage.relay.db().number("SELECT count(*) FROM messages", []), 0);
}

#[test]
fn swaks_submits_over_starttls_and_implicit_tls() {
    if !installed("swaks") {
        return;
    }
    let mut stage = Stage::new();
    let (starttls, implicit) = (stage.relay.starttls.port(), stage.relay.implicit.port());
    for (port, tls, mechanism) in
        [(starttls, "--tls", "PLAIN"), (starttls, "--tls", "LOGIN"), (implicit, "--tls-on-connect", "PLAIN")]
    {
        let subject = format!("swaks{tls}-{mechanism}");
        let mut command = Command::new("swaks");
        command.args(["--server", "localhost", "--port", &port.to_string(), tls]);
        command.args(["--tls-verify", "--tls-ca-path", &stage.ca()]);
        command.args(["--from", SENDER, "--to", RECIPIENT, "--helo", "app.test"]);
        command.args(["--auth", mechanism, "--auth-user", USER, "--auth-password", PASSWORD]);
        command.args(["--data", &format!("@{}", stage.mail_file(&subject))]);
        stage.run(&subject, command);
    }
}

#[test]
fn curl_submits_over_starttls_and_implicit_tls() {
    if !installed("curl") {
        return;
    }
    let mut stage = Stage::new();
    let (starttls, implicit) = (stage.relay.starttls.port(), stage.relay.implicit.port());
    for (scheme, port, mechanism) in
        [("smtp", starttls, "PLAIN"), ("smtp", starttls, "LOGIN"), ("smtps", implicit, "PLAIN")]
    {
        let subject = format!("curl-{scheme}-{mechanism}");
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--url", &format!("{scheme}://localhost:{port}/app.test")]);
        command.args(["--ssl-reqd", "--cacert", &stage.ca()]);
        command.args(["--mail-from", SENDER, "--mail-rcpt", RECIPIENT]);
        command.args([
            "--user",
            &format!("{USER}:{PASSWORD}"),
            "--login-options",
            &format!("AUTH={mechanism}"),
        ]);
        command.args(["--crlf", "--upload-file", &stage.mail_file(&subject)]);
        stage.run(&subject, command);
    }
}

#[test]
fn msmtp_submits_over_starttls_and_implicit_tls() {
    if !installed("msmtp") {
        return;
    }
    let mut stage = Stage::new();
    let (starttls, implicit) = (stage.relay.starttls.port(), stage.relay.implicit.port());
    // In a file: a command line would show it to everybody.
    let password = stage.relay.path("msmtp-password");
    write_secret(&password, PASSWORD);
    for (port, starttls, mechanism) in
        [(starttls, "on", "plain"), (starttls, "on", "login"), (implicit, "off", "plain")]
    {
        let subject = format!("msmtp-{starttls}-{mechanism}");
        let mut command = Command::new("sh");
        // msmtp reads the mail from its standard input.
        command.args([
            "-c",
            "mail=$1; shift; exec msmtp \"$@\" < \"$mail\"",
            "sh",
            &stage.mail_file(&subject),
        ]);
        command.args(["--host=localhost", &format!("--port={port}"), "--domain=app.test"]);
        command.args(["--tls=on", &format!("--tls-starttls={starttls}")]);
        command.arg(format!("--tls-trust-file={}", stage.ca()));
        command.args([&format!("--auth={mechanism}"), &format!("--user={USER}")]);
        command.arg(format!("--passwordeval=cat '{}'", password.display()));
        command.args([&format!("--from={SENDER}"), "--", RECIPIENT]);
        stage.run(&subject, command);
    }
}

#[test]
fn python_smtplib_submits_over_starttls_and_implicit_tls() {
    if !installed("python3") {
        return;
    }
    const SCRIPT: &str = r#"
import smtplib, ssl, sys
mode, port, ca, user, password, sender, recipient, mail = sys.argv[1:]
context = ssl.create_default_context(cafile=ca)
if mode == "implicit":
    client = smtplib.SMTP_SSL("localhost", int(port), context=context, timeout=20)
else:
    client = smtplib.SMTP("localhost", int(port), timeout=20)
    client.starttls(context=context)
client.ehlo()
assert client.has_extn("auth") and client.has_extn("size"), client.esmtp_features
client.user, client.password = user, password
methods = {"login": client.auth_login, "plain": client.auth_plain}
code, text = client.auth("login" if mode == "login" else "plain", methods["login" if mode == "login" else "plain"])
assert code == 235, (code, text)
refused = client.sendmail(sender, [recipient], open(mail).read())
assert refused == {}, refused
client.quit()
"#;
    let mut stage = Stage::new();
    let (starttls, implicit) = (stage.relay.starttls.port(), stage.relay.implicit.port());
    for (mode, port) in [("plain", starttls), ("login", starttls), ("implicit", implicit)] {
        let subject = format!("smtplib-{mode}");
        let mut command = Command::new("python3");
        command.args(["-c", SCRIPT, mode, &port.to_string(), &stage.ca(), USER, PASSWORD, SENDER, RECIPIENT]);
        command.arg(stage.mail_file(&subject));
        stage.run(&subject, command);
    }
}

/// Postfix's load generator knows no AUTH: it comes from a trusted network, with one connection for all messages
/// of a session (-d) and with one for each.
#[test]
fn smtp_source_submits_from_a_trusted_network() {
    if !installed("smtp-source") {
        return;
    }
    let mut world = World::new();
    let mx = world.host("a.test", Script::new());
    let relay = world.relay(Config::new());
    for (round, option) in ["-d", "-4"].into_iter().enumerate() {
        let mut command = Command::new("smtp-source");
        command.args([option, "-l", "3000", "-m", "20", "-s", "5", "-f", SENDER, "-t", "you@a.test"]);
        let output = command.arg(relay.clear.to_string()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        mx.wait_for_messages(20 * (round + 1), SOON);
    }
    relay.wait_until("40 deliveries on record", SOON, |db| {
        (db.number("SELECT count(*) FROM history WHERE state = 'delivered'", []) == 40).then_some(())
    });
}
