//! A relay whose config is the environment alone, as in a container.

use std::fs;
use std::process::{Command, Stdio};

use crate::harness::fakemx::SOON;
use crate::harness::namespaces::{As, inside};
use crate::harness::relay::{free_port, run_to_end, wait_for};

#[test]
fn a_relay_runs_without_a_file_and_its_commands_find_it() {
    let folder = tempfile::tempdir().unwrap();
    let address = format!("127.0.0.1:{}", free_port());
    let queue = folder.path().join("queue.db").display().to_string();
    let command = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_postrider"));
        command.args(arguments).current_dir(folder.path()).env_remove("NOTIFY_SOCKET");
        command.env("POSTRIDER_HOSTNAME", "relay.example.com").env("POSTRIDER_LISTEN_1_TLS", "off");
        command.env("POSTRIDER_LISTEN_1_ADDRESS", &address).env("POSTRIDER_QUEUE_PATH", &queue);
        command.env("POSTRIDER_USERS_FILE", folder.path().join("users"));
        command
    };
    let log = fs::File::create(folder.path().join("log")).unwrap();
    let mut relay = command(&["serve"]).stdin(Stdio::null()).stderr(log).spawn().unwrap();
    wait_for("health", SOON, || run_to_end(command(&["health"]), b"").status.success().then_some(()));
    let listed = run_to_end(command(&["queue", "list", "--json"]), b"");
    assert!(listed.status.success() && fs::exists(&queue).unwrap());
    // Also by the names that programs know, where no file is.
    if !fs::exists("/etc/postrider/postrider.toml").unwrap() {
        let mailq = run_to_end(command(&["sendmail", "-bp"]), b"");
        assert!(mailq.status.success(), "{}", String::from_utf8_lossy(&mailq.stderr));
    }
    relay.kill().unwrap();
    relay.wait().unwrap();
    assert!(!fs::exists(folder.path().join("postrider-data")).unwrap(), "as without a config");
    let log = fs::read_to_string(folder.path().join("log")).unwrap();
    assert!(log.contains("started, config: 5 variables of the environment"), "{log}");

    let mut wrong = command(&["check"]);
    wrong.env("POSTRIDER_LIMITS_SESSIONS", "none");
    let output = run_to_end(wrong, b"");
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.starts_with(
            "POSTRIDER_LIMITS_SESSIONS: limits.sessions: \"none\" is not a number without quotes; write "
        ),
        "{said}"
    );
}

/// A secret of a container: its mode cannot be changed there, and is that of the mount.
#[test]
fn a_secret_on_a_mount_to_read_is_told_how_to_mount_it() {
    let setup = "mount -t tmpfs none /mnt && echo relay.test >/mnt/name && chmod 666 /mnt/name && mount -o remount,ro /mnt";
    if !inside(As::AnyUser, setup) {
        return;
    }
    let mut check = Command::new(env!("CARGO_BIN_EXE_postrider"));
    check.arg("check").current_dir("/").env("POSTRIDER_HOSTNAME_FILE", "/mnt/name");
    let output = run_to_end(check, b"");
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("defaultMode: 0440") && !said.contains("chmod"), "{said}");
}
