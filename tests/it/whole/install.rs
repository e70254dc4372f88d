//! README's steps to install the service, one by one, below a folder instead of `/`, and `check` before the first
//! start.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use crate::harness::client::auth_plain;
use crate::harness::relay::{Config, Relay, USER, World, run_to_end};
use crate::harness::skipped::{installed, skipped};

/// The lines of README that install a file.
fn install_lines() -> Vec<String> {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let lines = readme.lines().filter_map(|line| line.strip_prefix("sudo install -"));
    lines.map(|line| format!("install -{}", line.split(" #").next().unwrap_or(line))).collect()
}

#[test]
fn the_files_go_where_they_belong_on_a_debian_without_sysusers_d() {
    let root = tempfile::tempdir().unwrap();
    // As debootstrap leaves them: there is no /etc/sysusers.d.
    for folder in ["usr/local/bin", "etc/systemd/system"] {
        fs::create_dir_all(root.path().join(folder)).unwrap();
    }
    let lines = install_lines();
    assert_eq!(lines.len(), 4, "{lines:?}");
    for line in lines {
        let below = |line: &str, folder: &str| {
            line.replace(&format!(" {folder}"), &format!(" {}{folder}", root.path().display()))
        };
        let here = below(&below(&line, "/etc/"), "/usr/")
            .replace("target/release/postrider", env!("CARGO_BIN_EXE_postrider"));
        // There is no such group here.
        let here = here.replace(" -g postrider", "");
        let mut command = Command::new("sh");
        command.arg("-euc").arg(&here).current_dir(env!("CARGO_MANIFEST_DIR"));
        let output = run_to_end(command, b"");
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    }
    for file in
        ["usr/local/bin/postrider", "etc/systemd/system/postrider.service", "etc/sysusers.d/postrider.conf"]
    {
        assert!(root.path().join(file).is_file(), "{file}");
    }
    assert!(root.path().join("etc/postrider").is_dir());
}

#[test]
fn check_finds_no_problem_before_the_first_start() {
    let world = World::new();
    let mut relay = Relay::prepare(world.configured(Config::new()));
    let queue = relay.path("not-there-yet/queue.db");
    relay.write_config(&relay.config().set("queue.path", format!("{queue:?}")));
    relay.add_user_with(USER, &[]);
    let findings = relay.json(&["check"]);
    let problems: Vec<_> = findings[0]["findings"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|finding| finding["level"] == "problem")
        .collect();
    assert!(problems.is_empty(), "{problems:?}");
    // And it is true: the start creates both.
    relay.spawn();
    relay.wait_until_ready();
    let mut client = relay.client();
    client.expect("NOOP", "250");
    assert!(queue.is_file() && auth_plain(USER).starts_with("AUTH"));
}

#[test]
fn a_home_that_is_closed_to_the_relays_user_has_no_config_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let binary = folder.path().join("postrider");
    fs::copy(env!("CARGO_BIN_EXE_postrider"), &binary).unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let home = folder.path().join("home");
    fs::create_dir(&home).unwrap();
    fs::write(home.join("postrider.toml"), "nonsense").unwrap();
    fs::set_permissions(&home, fs::Permissions::from_mode(0o700)).unwrap();
    if !installed("setpriv") {
        return;
    }
    let mut command = Command::new("sh");
    let script = "cd \"$1\" && exec setpriv --reuid=65534 --clear-groups \"$2\" check --json";
    command.args(["-c", script, "sh"]).arg(&home).arg(&binary);
    let output = run_to_end(command, b"");
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if stderr.contains("setpriv") {
        return skipped("setpriv may not change the user here");
    }
    // What it goes by is /etc/postrider/postrider.toml, or the built-in defaults.
    assert!(!stderr.contains("postrider.toml") || stderr.contains("/etc/"), "{stdout}{stderr}");
    assert!(stdout.contains("\"about\": \"config\""), "{stdout}{stderr}");
}
