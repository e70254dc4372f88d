//! The command line as a person uses it: users, check, wrong usage, exit codes.

use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use assert_cmd::Command;
use assert_cmd::cargo::cargo_bin_cmd;
use tempfile::TempDir;

use crate::harness::relay::{Config, Relay, World};

struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Ran {
    fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {}", self.stdout))
    }
}

/// Whether `check` says something of that level about that, which names this.
fn has_found(json: &serde_json::Value, level: &str, about: &str, named: &str) -> bool {
    json["findings"].as_array().unwrap().iter().any(|finding| {
        let names = finding["text"].as_str().is_some_and(|text| text.contains(named));
        finding["level"] == level && finding["about"] == about && names
    })
}

fn postrider(directory: &Path) -> Command {
    let mut command = cargo_bin_cmd!("postrider");
    command.current_dir(directory);
    command
}

fn run(directory: &Path, arguments: &[&str], stdin: &str) -> Ran {
    let output = postrider(directory).args(arguments).write_stdin(stdin).output().unwrap();
    Ran {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A directory with a good config: two listeners, a certificate that holds for the hostname.
fn good() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let name = "relay.example.com";
    let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
    let write = |file: &str, text: &str| {
        std::fs::write(dir.path().join(file), text).unwrap();
        std::fs::set_permissions(dir.path().join(file), std::fs::Permissions::from_mode(0o600)).unwrap();
    };
    write("cert.pem", &made.cert.pem());
    write("key.pem", &made.signing_key.serialize_pem());
    write(
        "postrider.toml",
        "hostname = 'relay.example.com'\n\
         [queue]\npath = 'queue.db'\n\
         [[listen]]\naddress = '127.0.0.1:2525'\n\
         [tls]\ncertificate = 'cert.pem'\nkey = 'key.pem'\n\
         [users]\nfile = 'users'\n\
         [limits]\nsessions = 10\n\
         [delivery]\nworkers = 4\ndane = false\n",
    );
    dir
}

#[test]
fn a_user_is_added_listed_and_removed() {
    let dir = good();
    let path = dir.path();
    let added = run(
        path,
        &["user", "add", "app", "--password-stdin", "--senders", "*@Example.com"],
        "secret\nmore\n",
    );
    assert_eq!((added.code, added.stderr.as_str()), (Some(0), ""), "{}", added.stdout);
    let users = postrider::submission::users::Users::load(&path.join("users")).unwrap();
    assert!(users.verify("app", b"secret").is_some(), "the first line, without its end, is the password");

    let json = run(path, &["user", "list", "--json"], "").json();
    assert_eq!(json["users"][0]["name"], "app");
    assert_eq!(json["users"][0]["senders"][0], "*@example.com");
    assert!(!json.to_string().contains("SCRAM"), "a list shows no verifier");

    let again = run(path, &["user", "add", "app", "--password-stdin"], "other\n");
    assert_eq!(again.code, Some(1));
    assert!(again.stderr.starts_with("postrider: user app exists already; "), "{}", again.stderr);

    assert_eq!(run(path, &["user", "remove", "app"], "").code, Some(0));
    let twice = run(path, &["user", "remove", "app"], "");
    assert_eq!((twice.code, twice.stdout.as_str()), (Some(1), ""));
    assert_eq!(run(path, &["user", "list"], "").stdout, "");
}

#[test]
fn what_a_user_may_is_listed_and_cram_md5_says_what_it_costs() {
    let dir = good();
    let path = dir.path();
    let all = ["--operator", "--rate", "100/h", "--cram-md5", "--senders", "*@a.example"];
    let added = run(path, &[&["user", "add", "app", "--password-stdin"], &all[..]].concat(), "secret\n");
    assert_eq!((added.code, added.stderr.lines().count()), (Some(0), 1), "a warning: {}", added.stderr);
    run(path, &["user", "add", "plain", "--password-stdin"], "secret\n");
    let listed = run(path, &["user", "list"], "").stdout;
    assert_eq!(listed, "app  operator  cram-md5  rate 100/h  senders *@a.example\nplain\n");
    let json = run(path, &["user", "list", "--json"], "").json();
    let (app, plain) = (&json["users"][0], &json["users"][1]);
    assert_eq!(
        (&app["operator"], &app["cram_md5"], &app["rate_per_hour"]),
        (&true.into(), &true.into(), &100.into())
    );
    assert_eq!((&plain["operator"], &plain["cram_md5"]), (&false.into(), &false.into()));
    assert!(plain["rate_per_hour"].is_null());
    let help = run(path, &["user", "add", "--help"], "").stdout;
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(help.contains("as good as the password") && help.contains("at the speed of MD5"), "{help}");
}

#[test]
fn what_cannot_be_a_user_is_one_line_and_writes_nothing() {
    let dir = good();
    for (arguments, stdin, code, said) in [
        (&["a b", "--password-stdin"] as &[_], "secret\n", 1, "\"a b\" cannot be a user's name; use 1 to 64"),
        (&["app", "--password-stdin"], "\n", 1, "the password is empty; "),
        (&["app", "--password-stdin"], "", 1, "the password is empty; "),
        (&["app"], "secret\n", 2, "there is no terminal to ask for the password on; "),
        (&["app", "--password-stdin", "--senders", "x"], "secret\n", 1, "\"x\" is not a sender; "),
        (&["app", "--password-stdin", "--atrn", "a b"], "secret\n", 1, "\"a b\" is not a domain; "),
        (&["app", "--password-stdin", "--rate", "10"], "secret\n", 1, "\"10\" is not a rate; "),
    ] {
        let ran = run(dir.path(), &[&["user", "add"], arguments].concat(), stdin);
        assert_eq!(ran.code, Some(code), "{}", ran.stderr);
        assert!(ran.stderr.starts_with(&format!("postrider: {said}")), "{}", ran.stderr);
        assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
        assert!(!dir.path().join("users").exists());
    }
}

#[test]
fn without_a_config_the_state_is_local_and_private() {
    let dir = tempfile::tempdir().unwrap();
    if Path::new("/etc/postrider/postrider.toml").exists() {
        return;
    }
    let checked = run(dir.path(), &["check"], "");
    assert_eq!(checked.code, Some(0), "{}", checked.stdout);
    assert!(!dir.path().join("postrider-data").exists(), "check creates nothing");
    let json = run(dir.path(), &["check", "--json"], "").json();
    assert!(has_found(&json, "warning", "users", "postrider user add"), "{json}");
    let added = run(dir.path(), &["user", "add", "app", "--password-stdin"], "secret\n");
    assert_eq!(added.code, Some(0), "{}", added.stderr);
    let mode = |file: &str| std::fs::metadata(dir.path().join(file)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("postrider-data"), 0o700);
    assert_eq!(mode("postrider-data/users"), 0o640);
}

#[test]
fn a_good_config_is_told_line_by_line() {
    let dir = good();
    run(dir.path(), &["user", "add", "app", "--password-stdin"], "secret\n");
    let checked = run(dir.path(), &["check"], "");
    assert_eq!((checked.code, checked.stderr.as_str()), (Some(0), ""), "{}", checked.stdout);
    for line in [
        "ok       config: ",
        "ok       hostname: ",
        "ok       certificate: cert.pem holds until ",
        "ok       users: 1 in",
    ] {
        assert!(checked.stdout.contains(line), "{line}: {}", checked.stdout);
    }
    // Whether the world knows relay.example.com depends on the world.
    let all_but_dns = checked.stdout.lines().filter(|line| !line.contains("has no address in DNS"));
    let said = all_but_dns.collect::<Vec<_>>().join("\n");
    assert!(!said.contains("warning") && !said.contains("problem"), "{said}");
    let json = run(dir.path(), &["check", "--json"], "").json();
    assert_eq!(json["ok"], true);
    assert_eq!(json["findings"][0]["level"], "ok");
}

/// The name of the banner, EHLO and Received.
#[test]
fn a_hostname_that_the_world_does_not_find_is_told() {
    let mut world = World::new();
    let relay = Relay::prepare(world.configured(Config::new()));
    let missing = "warning  hostname: relay.test has no address in DNS";
    let checked = || String::from_utf8(relay.run(&["check"]).stdout).unwrap();
    assert!(checked().contains(missing), "{}", checked());
    world.zone(|zone| zone.address("relay.test", Ipv4Addr::LOCALHOST.into()));
    assert!(!checked().contains(missing), "{}", checked());
}

#[test]
fn a_problem_outside_the_config_is_exit_code_1() {
    let (dir, other) = (good(), good());
    std::fs::copy(other.path().join("key.pem"), dir.path().join("key.pem")).unwrap();
    std::fs::write(dir.path().join("users"), "app secret\n").unwrap();
    let checked = run(dir.path(), &["check", "--json"], "");
    assert_eq!((checked.code, checked.stderr.as_str()), (Some(1), ""));
    let json = checked.json();
    assert!(has_found(&json, "problem", "certificate", "key.pem"), "{json}");
    assert!(has_found(&json, "problem", "users", "users:1: "), "{json}");
}

#[test]
fn a_bad_config_can_be_read_by_a_program_too() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("postrider.toml"), "colour = 1\n").unwrap();
    let checked = run(dir.path(), &["check", "--json"], "");
    assert_eq!(checked.code, Some(2));
    let json = checked.json();
    assert_eq!(json["ok"], false);
    assert_eq!(json["findings"][0]["level"], "problem");
}

#[test]
fn config_may_stand_before_or_after_the_command() {
    let dir = good();
    std::fs::rename(dir.path().join("postrider.toml"), dir.path().join("other.toml")).unwrap();
    for arguments in [
        &["--config", "other.toml", "check"] as &[&str],
        &["check", "--config", "other.toml"],
        &["--config=other.toml", "user", "list"],
        &["user", "--config", "other.toml", "list"],
        &["user", "list", "--config", "other.toml"],
    ] {
        let ran = run(dir.path(), arguments, "");
        assert_eq!(ran.code, Some(0), "{arguments:?}: {}", ran.stderr);
        let shown = ran.stdout + &ran.stderr;
        assert!(
            shown.contains("other.toml") || shown.contains("no users in users"),
            "{arguments:?}: {shown}"
        );
    }
    let missing = run(dir.path(), &["--config", "none.toml", "check"], "");
    assert_eq!(missing.code, Some(2));
    assert!(missing.stderr.starts_with("none.toml: cannot be read: "), "{}", missing.stderr);
}

#[test]
fn wrong_usage_is_one_line_and_exit_code_2() {
    let dir = tempfile::tempdir().unwrap();
    for (arguments, said) in [
        (
            &["chek"] as &[&str],
            "postrider: unrecognized subcommand 'chek'; a similar subcommand exists: 'check'\n",
        ),
        (
            &["user", "remove"],
            "postrider: the following required arguments were not provided: <NAME>; `postrider user remove --help` shows how\n",
        ),
        (
            &["check", "--jsn"],
            "postrider: unexpected argument '--jsn' found; a similar argument exists: '--json'\n",
        ),
    ] {
        let ran = run(dir.path(), arguments, "");
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(2), said));
    }
    assert_eq!(run(dir.path(), &[], "").code, Some(2));
    assert_eq!(run(dir.path(), &["--help"], "").code, Some(0));
    assert_eq!(run(dir.path(), &["--version"], "").code, Some(0));
}

#[test]
fn the_printed_reference_is_a_config() {
    let dir = good();
    let reference = run(dir.path(), &["check", "--reference"], "");
    assert_eq!(reference.code, Some(0));
    let tls = "#certificate = \"/etc/postrider/tls/fullchain.pem\"";
    assert!(reference.stdout.contains(tls));
    let key = "#key = \"/etc/postrider/tls/key.pem\"";
    let text = reference.stdout.replace(tls, "certificate = 'cert.pem'").replace(key, "key = 'key.pem'");
    std::fs::write(dir.path().join("postrider.toml"), text).unwrap();
    let listed = run(dir.path(), &["user", "list"], "");
    assert_eq!(listed.code, Some(0), "{}", listed.stderr);
}
