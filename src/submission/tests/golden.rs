//! Plays the dialogues of `tests/golden/` against the real listener, pool and session over loopback
//! sockets, with a queue in memory. Each file is one rule, named by what goes wrong.
//!
//! # Format
//! `#` a comment. `C: ` a line the client sends, `C| ` bytes without CR LF of their own; both know
//! `\r \n \t \0 \\ \xHH`, and `{name*count}` repeats. Neighbouring client lines leave in one write.
//! `S: ` a line the server must send, `…` at its end standing for anything. `* ` a directive:
//!
//! - `listen KEY=VALUE…` before all else: `tls=starttls|off|implicit`, `auth=optional`, `trusted`,
//!   `long_lines=refuse`, `subject=true`, and the limits
//!   `size errors recipients hops idle_ms session_ms auth_failures`;
//! - `starttls`: the client's handshake; `closed`: the server has ended the connection; `reconnect`: another one;
//! - `full`, `room`: the queue has room or not; `fails`, `works`: whether accepting works;
//! - `nothing queued`; `queued from=<…> to=<…>,<…> body=… …` followed by `Q: ` lines, the content behind our
//!   Received field; `kicked … by …`: what the queue was asked to try, and by whom.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::config::{ListenTls, LongLines};
use crate::mail::{Expanded, Notify, Priority, Ret};
use crate::queue::NewMessage;
use crate::submission::Submission;
use crate::submission::tests::client::{Player, tls_client};
use crate::submission::tests::doubles::{MemoryQueue, settings, start};

struct Dialogue {
    queue: Arc<MemoryQueue>,
    submission: Submission,
    player: Player,
    certificates: tempfile::TempDir,
}

fn set_up(listen: &str) -> Dialogue {
    let certificates = tempfile::tempdir().unwrap();
    let mut settings = settings(certificates.path());
    for option in listen.split_whitespace() {
        let (key, value) = option.split_once('=').unwrap_or((option, ""));
        let number = || value.parse().unwrap();
        match (key, value) {
            ("tls", "starttls") => settings.listen[0].tls = ListenTls::Starttls,
            ("tls", "implicit") => settings.listen[0].tls = ListenTls::Implicit,
            ("tls", "off") => settings.listen[0].tls = ListenTls::Off,
            ("auth", "optional") => settings.listen[0].auth_required = false,
            ("trusted", _) => settings.listen[0].trusted = vec!["127.0.0.0/8".parse().unwrap()],
            ("size", _) => settings.limits.message_size = value.parse().unwrap(),
            ("errors", _) => settings.limits.errors = number(),
            ("recipients", _) => settings.limits.recipients = number(),
            ("long_lines", "refuse") => settings.limits.long_lines = LongLines::Refuse,
            ("subject", "true") => settings.keep_subjects = true,
            ("hops", _) => settings.limits.received_hops = number(),
            ("auth_failures", _) => settings.limits.auth_failures = number(),
            ("session_ms", _) => {
                settings.limits.session_timeout = Duration::from_millis(value.parse().unwrap());
            }
            ("idle_ms", _) => settings.limits.idle_timeout = Duration::from_millis(value.parse().unwrap()),
            _ => panic!("unknown option {option}"),
        }
    }
    let queue = Arc::new(MemoryQueue::default());
    let submission = start(&settings, &queue);
    let mut player = Player::connect(submission.addresses()[0]);
    if settings.listen[0].tls == ListenTls::Implicit {
        player.start_tls(tls_client(certificates.path()));
    }
    Dialogue { queue, submission, player, certificates }
}

/// `\r`, `\xHH` and the like, and `{text*count}`.
fn unescape(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match c {
            '\\' => {
                let escape = rest.chars().next().expect("an escape");
                rest = &rest[1..];
                match escape {
                    'r' => out.push(b'\r'),
                    'n' => out.push(b'\n'),
                    't' => out.push(b'\t'),
                    '0' => out.push(0),
                    'x' => {
                        out.push(u8::from_str_radix(&rest[..2], 16).unwrap());
                        rest = &rest[2..];
                    }
                    other => out.push(other as u8),
                }
            }
            '{' => {
                let (repeat, after) = rest.split_once('}').expect("a closing brace");
                let (text, count) = repeat.rsplit_once('*').expect("text*count");
                out.extend(unescape(text).repeat(count.parse().unwrap()));
                rest = after;
            }
            c => out.extend(c.encode_utf8(&mut [0; 4]).bytes()),
        }
    }
    out
}

/// An accepted message as a `queued` directive writes it.
fn shown(message: &NewMessage) -> String {
    let envelope = &message.envelope;
    let to: Vec<String> = envelope.recipients.iter().map(|r| format!("<{}>", r.address)).collect();
    let mut text = format!(
        "queued from=<{}> to={} body={}",
        envelope.sender.as_ref().map_or("", AsRef::as_ref),
        to.join(","),
        envelope.body.as_str()
    );
    let user = message.origin.user.as_deref();
    let (priority, by) = (envelope.handling.priority, envelope.handling.deliver_by);
    let released_at = envelope.handling.released_at(message.received_at);
    let parameters = [
        ("user", user.map(str::to_owned)),
        ("smtputf8", envelope.smtputf8.then(|| "1".to_owned())),
        ("ret", envelope.ret.map(|ret| Ret::as_str(ret).to_owned())),
        ("envid", envelope.envid.clone()),
        ("notify", envelope.recipients.first().and_then(|r| r.notify).map(Notify::to_word)),
        ("orcpt", envelope.recipients.first().and_then(|r| r.orcpt.clone())),
        ("expanded", envelope.recipients.first().and_then(|r| Expanded::to_text(&r.expanded))),
        ("requiretls", envelope.handling.require_tls.then(|| "1".to_owned())),
        ("priority", (priority != Priority::NORMAL).then(|| priority.to_string())),
        ("hold", envelope.handling.release.map(|release| release.asked.to_string())),
        // Seconds from the release.
        ("by", by.map(|by| format!("{};{}", by.at - released_at, by.mode()))),
        ("tag", message.labels.tag.clone()),
        ("subject", message.labels.subject.clone()),
    ];
    for (name, value) in parameters {
        if let Some(value) = value {
            write!(text, " {name}={value}").unwrap();
        }
    }
    text
}

/// The content behind our Received field, as `Q: ` lines.
fn shown_content(content: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(content);
    let mut lines: Vec<&str> = text.split("\r\n").collect();
    assert_eq!(lines.pop(), Some(""), "content ends in CR LF");
    assert!(lines[0].starts_with("Received: from "), "{}", lines[0]);
    let behind =
        lines.iter().skip(1).position(|line| !line.starts_with(['\t', ' '])).map_or(lines.len(), |n| n + 1);
    lines[behind..]
        .iter()
        .map(|line| line.escape_debug().to_string().replace("\\\"", "\"").replace("\\'", "'"))
        .collect()
}

fn matches(expected: &str, found: &str) -> bool {
    match expected.strip_suffix('…') {
        Some(start) => found.starts_with(start),
        None => found == expected,
    }
}

fn play(script: &str) {
    let mut lines =
        script.lines().enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#')).peekable();
    let listen = match lines.peek() {
        Some((_, line)) if line.starts_with("* listen") => lines.next().map_or("", |(_, line)| &line[8..]),
        _ => "",
    };
    let mut dialogue = set_up(listen);
    let mut to_send = Vec::new();
    while let Some((number, line)) = lines.next() {
        let at = format!("line {}: {line}", number + 1);
        let (mark, rest) = line.split_at(2);
        let rest = rest.strip_prefix(' ').unwrap_or(rest);
        match mark {
            "C:" => to_send.extend([unescape(rest).as_slice(), b"\r\n"].concat()),
            "C|" => to_send.extend(unescape(rest)),
            "S:" => {
                let found = dialogue.player.line().unwrap_or_else(|| panic!("{at}\nthe connection ended"));
                assert!(matches(rest, &found), "{at}\nbut it was  S: {found}");
            }
            "* " => {
                let mut content = Vec::new();
                while let Some((_, line)) = lines.next_if(|(_, line)| line.starts_with("Q:")) {
                    content.push(line[2..].strip_prefix(' ').unwrap_or("").to_owned());
                }
                direct(&mut dialogue, rest, &content, &at);
            }
            _ => panic!("{at}\nis no line of a dialogue"),
        }
        let more = matches!(lines.peek(), Some((_, next)) if next.starts_with('C'));
        if !more && !to_send.is_empty() {
            dialogue.player.send(&std::mem::take(&mut to_send));
        }
    }
    assert_eq!(
        dialogue.queue.accepted.lock().unwrap().len(),
        0,
        "messages were queued that the dialogue does not name"
    );
    drop(dialogue.player);
    dialogue.submission.stop(Duration::from_secs(10));
    assert_eq!(dialogue.queue.chunk_bytes(), 0, "chunks without a message are left");
}

fn direct(dialogue: &mut Dialogue, directive: &str, content: &[String], at: &str) {
    let word = directive.split(' ').next().unwrap_or_default();
    match word {
        "starttls" => dialogue.player.start_tls(tls_client(dialogue.certificates.path())),
        "closed" => assert_eq!(dialogue.player.line(), None, "{at}"),
        "reconnect" => dialogue.player = Player::connect(dialogue.submission.addresses()[0]),
        "full" => dialogue.queue.full.store(true, Ordering::SeqCst),
        "room" => dialogue.queue.full.store(false, Ordering::SeqCst),
        "fails" => dialogue.queue.failing.store(true, Ordering::SeqCst),
        "works" => dialogue.queue.failing.store(false, Ordering::SeqCst),
        "nothing" => assert_eq!(dialogue.queue.accepted.lock().unwrap().len(), 0, "{at}"),
        "queued" => {
            let mut accepted = dialogue.queue.accepted.lock().unwrap();
            assert!(!accepted.is_empty(), "{at}\nbut nothing was queued");
            let (message, found) = accepted.remove(0);
            assert_eq!(shown(&message), directive, "{at}");
            if !content.is_empty() {
                let found = shown_content(&found);
                let same =
                    found.len() == content.len() && content.iter().zip(&found).all(|(e, f)| matches(e, f));
                assert!(same, "{at}\nbut the content was\n{}", found.join("\n"));
            }
        }
        "kicked" => {
            let mut kicked = dialogue.queue.kicked.lock().unwrap();
            assert!(!kicked.is_empty(), "{at}\nbut nothing was kicked");
            let (kick, asker) = kicked.remove(0);
            let by = asker.user.unwrap_or_else(|| asker.client.unwrap().to_string());
            assert_eq!(format!("kicked {kick} by {by}"), directive, "{at}");
        }
        _ => panic!("{at}\nis no directive"),
    }
}

#[test]
fn dialogues() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut paths: Vec<_> =
        std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    paths.sort();
    assert!(paths.len() > 30, "dialogues are missing from {}", directory.display());
    let mut failed = Vec::new();
    for path in paths {
        let script = std::fs::read_to_string(&path).unwrap();
        if std::panic::catch_unwind(|| play(&script)).is_err() {
            failed.push(path.file_name().unwrap_or_default().to_string_lossy().into_owned());
        }
    }
    assert!(failed.is_empty(), "these dialogues went wrong (see above): {failed:?}");
}
