//! Files that somebody else may write to, and directories that belong to somebody else, are refused before anything
//! in them counts.

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::Path;
use std::process::Output;

use assert_cmd::cargo::cargo_bin_cmd;

use crate::harness::relay::{Config, Relay, write_secret};
use crate::harness::skipped::skipped;

/// Somebody else, when these tests run as root.
const STRANGER: u32 = 54_321;

fn run(directory: &Path, arguments: &[&str]) -> Output {
    let limit = std::time::Duration::from_secs(20);
    cargo_bin_cmd!("postrider").args(arguments).current_dir(directory).timeout(limit).output().unwrap()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

#[test]
fn no_file_that_others_may_write_to_is_used() {
    let files = ["postrider.toml", "users", "cert.pem", "key.pem", "ca.pem", "secret", "token", "program"];
    let relay = Relay::prepare(Config::new());
    relay.add_user_with("app", &[]);
    for (name, text) in
        [("secret", "password\n"), ("token", "token\n"), ("program", "#!/bin/sh\necho token\n")]
    {
        write_secret(&relay.path(name), text);
    }
    let path = |name: &str| format!("{:?}", relay.path(name));
    let route = |domain: &str, secret: &str| {
        format!("domain = '{domain}'\nrelay = ['[127.0.0.1]:1']\nusername = 'me'\n{secret}\n")
    };
    let config = relay
        .config()
        .route(&(route("a.test", &format!("password_file = {}", path("secret"))) + "tls = 'verify'"))
        .route(&route("b.test", &format!("token_file = {}\nca_file = {}", path("token"), path("ca.pem"))))
        .route(&route("c.test", &format!("token_command = [{}]", path("program"))));
    relay.write_config(&config);
    let check = || relay.command(&["check"]).output().unwrap();
    set_mode(&relay.path("program"), 0o755);
    assert_ne!(check().status.code(), Some(2), "{}", said(&check()));
    let is_root = relay.path("users").metadata().unwrap().uid() == 0;
    if !is_root {
        skipped("a group that somebody else is in needs root");
    }
    for name in files {
        let usual = relay.path(name).metadata().unwrap().mode() & 0o777;
        for (added, who) in [(0o020, "by its group"), (0o002, "by every user of this machine")] {
            if added == 0o020 && !is_root {
                continue;
            }
            if added == 0o020 {
                // With a umask of 002 a file is writable for a group of one.
                set_mode(&relay.path(name), usual | added);
                assert_ne!(check().status.code(), Some(2), "{name}: {}", said(&check()));
                chown(relay.path(name), None, Some(STRANGER)).unwrap();
            }
            set_mode(&relay.path(name), usual | added);
            let output = check();
            let remedy = format!("chmod go-w {}", relay.path(name).display());
            let text = said(&output);
            assert!(!output.status.success(), "{name}: {text}");
            assert!(text.contains(who) && text.contains(&remedy), "{name}: {text}");
        }
        if is_root {
            chown(relay.path(name), None, Some(0)).unwrap();
        }
        set_mode(&relay.path(name), usual);
    }
    assert_ne!(check().status.code(), Some(2), "{}", said(&check()));
}

#[test]
fn a_queue_that_everybody_can_put_files_beside_is_refused() {
    let relay = Relay::prepare(Config::new());
    set_mode(relay.path("users").parent().unwrap(), 0o777);
    let config = relay.path("postrider.toml").display().to_string();
    let output = run(Path::new("."), &["serve", "--config", &config]);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(said(&output).contains("chmod o-w"), "{}", said(&output));
}

#[test]
fn the_state_of_a_start_without_config_is_no_link_and_nobody_elses() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let added = run(here, &["user", "add", "app", "--password-stdin"]);
    assert!(here.join("postrider-data").is_dir(), "{}", said(&added));
    assert_eq!(here.join("postrider-data").metadata().unwrap().mode() & 0o777, 0o700);
    std::fs::rename(here.join("postrider-data"), here.join("elsewhere")).unwrap();
    symlink("elsewhere", here.join("postrider-data")).unwrap();
    for arguments in [&["serve"][..], &["queue", "list"], &["user", "list"]] {
        let output = run(here, arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", said(&output));
        assert!(said(&output).contains("is a link"), "{}", said(&output));
    }
    assert!(!here.join("elsewhere/queue.db").exists() && !here.join("elsewhere/self-signed.key").exists());
}

#[test]
fn what_a_stranger_left_in_the_working_directory_is_not_obeyed() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    if folder.path().metadata().unwrap().uid() != 0 {
        return skipped("a foreign owner needs root");
    }
    // A config: refused where it was found, obeyed where it was named.
    let config = here.join("postrider.toml");
    std::fs::write(&config, "[queue]\npath = 'theirs.db'\n").unwrap();
    set_mode(&config, 0o644);
    chown(&config, Some(STRANGER), None).unwrap();
    for arguments in [&["serve"][..], &["check"], &["queue", "list"], &["user", "list"]] {
        let output = run(here, arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", said(&output));
        assert!(said(&output).contains("belongs to user 54321"), "{}", said(&output));
    }
    let named = said(&run(here, &["queue", "list", "--config", "./postrider.toml"]));
    assert!(named.contains("theirs.db"), "{named}");
    std::fs::remove_file(&config).unwrap();

    // A directory for the state, with links to where root may write.
    let (state, target) = (here.join("postrider-data"), here.join("target"));
    std::fs::create_dir(&state).unwrap();
    symlink(&target, state.join("users")).unwrap();
    symlink(&target, state.join("queue.db.lock")).unwrap();
    chown(&state, Some(STRANGER), None).unwrap();
    let output = run(here, &["serve"]);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    assert!(said(&output).contains("belongs to user 54321") && !target.exists(), "{}", said(&output));
    std::fs::remove_dir_all(&state).unwrap();

    // A working directory in which he could exchange ours for his.
    chown(here, Some(STRANGER), None).unwrap();
    let output = run(here, &["serve"]);
    assert!(!output.status.success() && !state.exists(), "{}", said(&output));
    assert!(said(&output).contains("the working directory belongs to user 54321"), "{}", said(&output));
}
