//! Listeners on sockets in the file system: users of this machine send as who they are, without a password.

use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::config::{ListenAddress, ListenSettings, ListenTls, SocketAccess, SubmissionSettings};
use crate::mail::Peer;
use crate::submission::Submission;
use crate::submission::tests::client::Player;
use crate::submission::tests::doubles::{MemoryQueue, ports, settings, start, verify};
use crate::submission::users::local_users;

/// A relay with a socket, and one listener on loopback.
struct Local {
    queue: Arc<MemoryQueue>,
    submission: Submission,
    settings: SubmissionSettings,
    directory: tempfile::TempDir,
}

fn local(change: impl FnOnce(&mut SubmissionSettings)) -> Local {
    let directory = tempfile::tempdir().unwrap();
    let mut settings = settings(directory.path());
    settings.listen[0].tls = ListenTls::Off;
    settings.listen.push(listener(&directory.path().join("submit.sock"), 0o666));
    change(&mut settings);
    let queue = Arc::new(MemoryQueue::default());
    Local { submission: start(&settings, &queue), queue, settings, directory }
}

fn listener(path: &Path, mode: u32) -> ListenSettings {
    ListenSettings {
        address: ListenAddress::Unix(path.to_owned()),
        access: SocketAccess { mode, group: None },
        local_users: true,
        tls: ListenTls::Off,
        auth_required: true,
        trusted: Vec::new(),
    }
}

impl Local {
    fn path(&self) -> std::path::PathBuf {
        self.directory.path().join("submit.sock")
    }

    fn greeted(&self) -> Player {
        let mut player = Player::connect_unix(&self.path());
        assert!(player.reply().starts_with("220 "));
        player.command("EHLO cron");
        player
    }
}

/// Who runs this test, as the kernel has it.
fn me(local: &Local) -> (Peer, String) {
    let peer = Peer::Unix(std::fs::metadata(local.path()).unwrap().uid());
    (peer, local_users::name_of(peer).unwrap())
}

#[test]
fn a_local_user_sends_without_a_password_and_is_named() {
    let local = local(|_| ());
    let (peer, name) = me(&local);
    let mut player = local.greeted();
    player.send(b"EHLO cron\r\n");
    let mut offered = Vec::new();
    while offered.last().is_none_or(|line: &String| line.starts_with("250-")) {
        offered.extend(player.line());
    }
    assert!(!offered.iter().any(|line| line.contains("AUTH") || line.contains("STARTTLS")), "{offered:?}");
    assert!(player.command("STARTTLS").starts_with("502 "));
    // Who it is was never in question.
    assert!(player.command("AUTH PLAIN AGFwcABzZWNyZXQ=").starts_with("503 "));
    assert!(player.command("MAIL FROM:<me@relay.example>").starts_with("250 "));
    assert!(player.command("RCPT TO:<b@example.net>").starts_with("250 "));
    assert!(player.command("DATA").starts_with("354 "));
    player.send(b"Subject: hello\r\n\r\nhello\r\n.\r\n");
    assert!(player.reply().starts_with("250 2.0.0 "));
    let accepted = local.queue.accepted.lock().unwrap();
    let (message, content) = &accepted[0];
    assert_eq!((message.origin.client, message.origin.user.as_deref()), (Some(peer), Some(&*name)));
    let content = String::from_utf8_lossy(content);
    let received = format!("Received: from cron (unix, user {name})\r\n\tby relay.example with ESMTP id ");
    assert!(content.starts_with(&received), "{content}");
}

/// Whoever has many sessions takes them from nobody else, and other users of the machine are others.
#[test]
fn each_user_of_the_machine_is_a_client_of_its_own() {
    let local = local(|settings| settings.limits.sessions_per_client = 1);
    let _first = local.greeted();
    let mut second = Player::connect_unix(&local.path());
    assert_eq!(second.reply(), "421 4.3.2 Too many sessions from your address, try again later");
    let mut network = Player::connect(local.submission.addresses()[0]);
    assert!(network.reply().starts_with("220 "));
}

#[test]
fn a_reload_takes_the_socket_away_and_with_it_the_right_to_send() {
    let local = local(|_| ());
    let mut idle = local.greeted();
    let mut busy = local.greeted();
    assert!(busy.command("MAIL FROM:<me@relay.example>").starts_with("250 "));
    let mut without = local.settings.clone();
    without.listen.pop();
    local.submission.reload_with(&without, Box::new(verify)).unwrap();
    assert!(!local.path().exists());
    assert!(idle.command("MAIL FROM:<me@relay.example>").starts_with("530 "));
    // Within a transaction the session ends.
    assert!(busy.reply().starts_with("421 "));
}

#[test]
fn a_reload_changes_the_rights_and_sessions_go_on() {
    let local = local(|_| ());
    let mut before = local.greeted();
    let mut changed = local.settings.clone();
    changed.listen[1].access.mode = 0o600;
    local.submission.reload_with(&changed, Box::new(verify)).unwrap();
    assert_eq!(std::fs::metadata(local.path()).unwrap().mode() & 0o777, 0o600);
    assert!(before.command("MAIL FROM:<me@relay.example>").starts_with("250 "));
    assert!(local.greeted().command("MAIL FROM:<me@relay.example>").starts_with("250 "));
    local.submission.stop(Duration::from_secs(1));
    assert!(!local.path().exists());
}

/// Connections wait in it while the relay restarts.
#[test]
fn the_socket_of_systemd_stays_when_the_relay_stops() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("submit.sock");
    let mut settings = settings(directory.path());
    settings.listen = vec![listener(&path, 0o666)];
    let theirs = UnixListener::bind(&path).unwrap();
    let queue = Arc::new(MemoryQueue::default());
    let inherited = vec![theirs.try_clone().unwrap().into()];
    let submission = Submission::start_with(&settings, inherited, Box::new(verify), ports(&queue)).unwrap();
    let mut player = Player::connect_unix(&path);
    assert!(player.reply().starts_with("220 "));
    player.command("EHLO cron");
    assert!(player.command("MAIL FROM:<me@relay.example>").starts_with("250 "));
    submission.stop(Duration::from_secs(1));
    assert!(path.exists());
    // At another path it is nobody's.
    settings.listen = vec![listener(&directory.path().join("other.sock"), 0o666)];
    let inherited = vec![theirs.into()];
    let refused = Submission::start_with(&settings, inherited, Box::new(verify), ports(&queue));
    let error = refused.err().unwrap().to_string();
    assert!(error.starts_with(&format!("systemd listens on unix:{}, which no", path.display())), "{error}");
}
