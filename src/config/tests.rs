//! The table of keys against what is read, and the reference against the defaults.

use std::collections::BTreeSet;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::defs::{ALIASES, Def, Kind, Preset, REPEATED, all};
use super::*;
use crate::mail::dkim::{Algorithm, Key};

/// A directory with every file that the tests name.
struct Dir(tempfile::TempDir);

impl Dir {
    fn new() -> Dir {
        let dir = Dir(tempfile::tempdir().unwrap());
        for file in ["cert.pem", "key.pem", "ca.pem", "secret"] {
            std::fs::write(dir.0.path().join(file), "secret\n").unwrap();
        }
        for file in ["dkim.pem", "other.pem"] {
            let key = Key::generate(Algorithm::Ed25519Sha256).and_then(|key| key.to_pem());
            let file = dir.0.path().join(file);
            std::fs::write(&file, key.unwrap()).unwrap();
            std::fs::set_permissions(file, Permissions::from_mode(0o600)).unwrap();
        }
        dir
    }

    fn read(&self, text: &str) -> Result<(Settings, Vec<Problem>), Problems> {
        self.read_with(text, &[])
    }

    /// With these variables.
    fn read_with(
        &self,
        text: &str,
        variables: &[(&str, &str)],
    ) -> Result<(Settings, Vec<Problem>), Problems> {
        let environment = Environment::of(variables.iter().map(|(name, text)| (name.into(), text.into())));
        load::read(&self.0.path().join("postrider.toml"), text, &environment, None)
    }

    fn settings(&self, text: &str) -> Settings {
        self.read(text).map(|(settings, _)| settings).unwrap_or_else(|problems| panic!("{text}\n{problems}"))
    }
}

/// A config in which `lines` (of `section`) are at work; TLS and a login are there to be changed.
fn config(section: &str, lines: &[(&str, &str)]) -> String {
    let mut text = String::new();
    let mut table = |name: &str, preset: &[(&str, &str)]| {
        if !name.is_empty() {
            text += &reading::header(name);
            text += "\n";
        }
        let lines = if section == name { lines } else { &[] };
        let kept = preset.iter().filter(|(key, _)| lines.iter().all(|(changed, _)| changed != key));
        for (key, value) in kept.chain(lines) {
            text += &format!("{key} = {value}\n");
        }
    };
    table("", &[("hostname", "'relay.example.com'")]);
    // Rights are for a socket in the file system.
    let unix = section == "listen" && lines.iter().any(|(key, _)| matches!(*key, "mode" | "group"));
    table("listen", if unix { &[("address", "'unix:/nowhere/submit.sock'")] } else { &[] });
    table("tls", &[("certificate", "'cert.pem'"), ("key", "'key.pem'")]);
    // A login has one secret.
    let token = section == "route" && lines.iter().any(|(key, _)| key.starts_with("token_"));
    let secret: &[(&str, &str)] = if token { &[] } else { &[("password_file", "'secret'")] };
    let relay =
        [("relay", "['a.example:25']"), ("tls", "'verify'"), ("username", "'me'"), ("ca_file", "'ca.pem'")];
    table("route", &[&relay, secret].concat());
    // For a domain or for hosts, not for both.
    let whom =
        if section == "destination" && lines.iter().any(|(key, _)| *key == "mx") { "mx" } else { "domain" };
    table("destination", &[(whom, "'a.example'"), ("connections", "3")]);
    // Without users of its own it would be of no use beside a list that lacks it.
    let users: &[(&str, &str)] = if section == "delivery" { &[("users", "['news']")] } else { &[] };
    table("source", &[&[("address", "'192.0.2.6'"), ("hostname", "'out.example'")], users].concat());
    // A delay is for retry alone.
    let other_action = section == "retry.rule" && lines.iter().any(|(key, _)| *key == "action");
    let delay: &[(&str, &str)] = if other_action { &[] } else { &[("delay", "'10m'")] };
    table("retry.rule", &[&[("domain", "'a.example'")], delay].concat());
    // The second has a key for the domain that others' values name.
    for (domain, selector) in [("'example.com'", "'s1'"), ("'other.example'", "'s2'")] {
        table("dkim", &[("domain", domain), ("selector", selector), ("key", "'dkim.pem'")]);
    }
    table("tlsrpt", &[("organization", "'a'"), ("contact", "'b'"), ("from", "'c@d.example'")]);
    // An address and a socket in the file system: rights are for the one, a token for the other.
    table(
        "metrics",
        &[("listen", "['127.0.0.1:9587', 'unix:/nowhere/metrics.sock']"), ("token_file", "'dkim.pem'")],
    );
    for name in ["queue", "users", "limits", "dns", "delivery", "retry", "log", ALIASES] {
        table(name, &[]);
    }
    text
}

/// A value that is good and not the default.
fn another(kind: &Kind) -> String {
    let one = match kind {
        Kind::List(_, item) => return format!("[{}]", another(item)),
        Kind::OrOff(kind) => return another(kind),
        Kind::Text => "'other'",
        Kind::File | Kind::FileOrNone => "'other.pem'",
        Kind::Host => "'other.example'",
        Kind::Flag => "true",
        Kind::Time => "'2030-01-01'",
        Kind::Mailbox => "'other@other.example'",
        Kind::Number(..) => "77",
        Kind::Duration("1h", _) => "'17h'",
        Kind::Duration(..) => "'17s'",
        Kind::Size(..) => "'1MB'",
        Kind::Choice(words) => match words[1] {
            "litestream" => "'litestream'",
            "implicit" => "'implicit'",
            "optional" => "'optional'",
            "hold" => "'hold'",
            "bounce" => "'bounce'",
            "refuse" => "'refuse'",
            "json" => "'json'",
            "relaxed/simple" => "'relaxed/simple'",
            _ => "'encrypt'",
        },
        Kind::Socket => "'192.0.2.7:2525'",
        Kind::Mode => "'0640'",
        Kind::Server(_) => "'192.0.2.7'",
        Kind::Address => "'192.0.2.7'",
        Kind::User => "'other'",
        Kind::Network | Kind::NetworkOrNot => "'192.0.2.0/24'",
        Kind::Pattern => "'*.other.example'",
        Kind::Relay => "'other.example:26'",
        Kind::CodePattern => "'45x'",
        Kind::EnhancedPattern => "'x.7.1'",
        Kind::Command => "['/bin/sh']",
    };
    one.to_owned()
}

#[test]
fn every_key_of_the_table_reaches_the_settings() {
    let dir = Dir::new();
    let show = |text: &str| format!("{:?}", dir.settings(text));
    let plain = show(&config("", &[]));
    // It says what the key must be, and changes nothing.
    let is_check = |name: &str| name == "dkim.algorithm";
    for def in all().filter(|def| !is_check(def.name)) {
        let other = other_than_default(def);
        let changed = show(&config(def.section(), &[(def.key(), &other)]));
        assert_ne!(plain, changed, "{} is accepted and ignored", def.name);
    }
}

/// A value that is not what a config without it has.
fn other_than_default(def: &Def) -> String {
    match def.default {
        Preset::Is("true") => "false".to_owned(),
        _ => another(&def.kind),
    }
}

#[test]
fn every_key_of_the_table_has_a_variable_that_does_the_same_and_goes_before_the_file() {
    let dir = Dir::new();
    let show = |text: &str, variables: &[(&str, &str)]| {
        let read = dir.read_with(text, variables);
        read.map(|(settings, _)| format!("{settings:?}"))
            .unwrap_or_else(|problems| panic!("{text}\n{problems}"))
    };
    // It says what another key must be.
    for def in all().filter(|def| def.name != "dkim.algorithm") {
        let (name, other) = (environment::name_of(def), other_than_default(def));
        // The second [[dkim]] has the same in `config`.
        let second = name.replacen("_1_", "_2_", 1);
        let by_file = config(def.section(), &[(def.key(), &other)]);
        let without = by_file.replace(&format!("{} = {other}\n", def.key()), "");
        let bare = other.replace(['\'', '[', ']'], "");
        // A command of one word is itself.
        for written in [&other, &bare] {
            let variables = [(name.as_str(), written.as_str()), (second.as_str(), written.as_str())];
            let count = if def.section() == "dkim" { 2 } else { 1 };
            for file in [&without, &by_file.replace(&other, &format!("{other} # in the file, too"))] {
                assert_eq!(show(file, &variables[..count]), show(&by_file, &[]), "{name}={written}");
            }
        }
    }
    let file = config("limits", &[("sessions", "7")]);
    let settings = dir.read_with(&file, &[("POSTRIDER_LIMITS_SESSIONS", "8")]).unwrap().0;
    assert_eq!(settings.submission.limits.sessions, 8);
}

#[test]
fn tables_of_the_environment_follow_those_of_the_file() {
    let dir = Dir::new();
    let mut variables: Vec<(String, String)> =
        (1..=11).map(|n| (format!("POSTRIDER_ROUTE_{n}_DOMAIN"), format!("r{n}.example"))).collect();
    variables.push(("POSTRIDER_ROUTE_11_RELAY".to_owned(), "a.example:25, [192.0.2.1]:26".to_owned()));
    variables.push(("POSTRIDER_ALIASES".to_owned(), "{ root = ['ops@example.com'] }".to_owned()));
    variables.push(("POSTRIDER_SERVICE_HOST".to_owned(), "10.0.0.1".to_owned()));
    variables.push(("POSTRIDER_PORT_587_TCP_ADDR".to_owned(), "10.0.0.1".to_owned()));
    variables.push(("POSTRIDER_PORT".to_owned(), "udp://10.0.0.1:587".to_owned()));
    variables.push(("POSTRIDER_SMTP_PORT".to_owned(), "sctp://10.0.0.1:587".to_owned()));
    variables.push(("POSTRIDER_PORT_587_SCTP_PROTO".to_owned(), "sctp".to_owned()));
    variables.push(("POSTRIDER_NAME".to_owned(), "/web/postrider".to_owned()));
    let variables: Vec<(&str, &str)> =
        variables.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let (settings, _) = dir.read_with(&config("", &[]), &variables).unwrap();
    let domains: Vec<String> = settings.routes.0.iter().map(|route| format!("{:?}", route.domain)).collect();
    assert_eq!(domains.len(), 11);
    assert!(domains[9].contains("r10.example") && domains[10].contains("r11.example"), "{domains:?}");
    assert_eq!(settings.routes.0[10].relay.len(), 2);
    assert_eq!(settings.submission.aliases["root"][0].to_string(), "ops@example.com");
}

#[test]
fn what_is_wrong_with_a_variable_is_told_with_its_name() {
    let dir = Dir::new();
    let secret = dir.0.path().join("secret").display().to_string();
    let text = config("", &[("nonsense", "1")]);
    let mut wrong = Vec::new();
    for (name, value, expected) in [
        (
            "POSTRIDER_LIMITS_SESSIONS",
            "many",
            ": limits.sessions: \"many\" is not a number without quotes; write a whole number",
        ),
        ("POSTRIDER_LIMITS_SESSIONS", "0", ": limits.sessions: 0 is "),
        ("POSTRIDER_QUEUE_LIFETIME", "", ": queue.lifetime: \"\" is empty; write a duration"),
        ("POSTRIDER_LISTEN_1_TRUSTED", "10.0.0.0/8,x", ": listen.trusted: \"x\""),
        ("POSTRIDER_LIMITS_SESION", "7", ": unknown variable; did you mean POSTRIDER_LIMITS_SESSIONS?"),
        (
            "POSTRIDER_LISTEN_ADDRESS",
            "[::]:25",
            ": unknown variable; did you mean POSTRIDER_LISTEN_1_ADDRESS?",
        ),
        ("POSTRIDER_ROUTE_01_DOMAIN", "*", ": unknown variable; did you mean POSTRIDER_ROUTE_1_DOMAIN?"),
        ("POSTRIDER_WHATEVER", "", ": unknown variable; each is POSTRIDER_TABLE_KEY"),
        ("POSTRIDER_ROUTE_0_DOMAIN", "*", ": unknown variable; "),
        ("POSTRIDER_ROUTE_4_DOMAIN", "*", ": route.domain: there are 1 [[route]] before it"),
        ("POSTRIDER_HOSTNAME_FILE", "/nonexistent", ": \"/nonexistent\" cannot be read"),
        ("POSTRIDER_TLS_KEY_FILE", &secret, ": its key names a file itself; write POSTRIDER_TLS_KEY"),
        ("POSTRIDER_ALIASES", "root", ": aliases: is not a table"),
    ] {
        let problems = dir.read_with(&text, &[(name, value)]).unwrap_err().to_string();
        let begin = format!("{name}{expected}");
        // Those of the file keep their lines.
        let is_told = problems.lines().any(|line| line.starts_with(&begin));
        if !is_told || !problems.contains("postrider.toml:2: nonsense: unknown key") {
            wrong.push(format!("{name}={value}: {problems}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_variable_may_name_a_file_that_holds_its_value() {
    let dir = Dir::new();
    let file = dir.0.path().join("hostname");
    std::fs::write(&file, "mail.example.net\n").unwrap();
    let file = file.display().to_string();
    let variables = [("POSTRIDER_HOSTNAME_FILE", file.as_str()), ("POSTRIDER_HOSTNAME", "relay.example.com")];
    let (settings, _) = dir.read_with(&config("", &[]), &variables[..1]).unwrap();
    assert_eq!(settings.hostname.as_str(), "mail.example.net");
    let problems = dir.read_with(&config("", &[]), &variables).unwrap_err().to_string();
    assert!(
        problems.contains("POSTRIDER_HOSTNAME: stands beside POSTRIDER_HOSTNAME_FILE; remove one"),
        "{problems}"
    );
    std::fs::set_permissions(&file, Permissions::from_mode(0o666)).unwrap();
    assert!(dir.read_with(&config("", &[]), &variables[..1]).is_err(), "others may write to it");
}

/// None is the name of another, nor that of another's file, nor one that Kubernetes makes.
#[test]
fn the_names_of_variables_are_not_ambiguous() {
    let names: Vec<String> = all().map(environment::name_of).collect();
    let distinct: BTreeSet<&String> = names.iter().collect();
    assert_eq!(distinct.len(), names.len());
    for (def, name) in all().zip(&names) {
        let is_file = distinct.contains(&format!("{name}_FILE"));
        assert!(
            !is_file,
            "{name}_FILE is the variable of another key, so {} cannot come from a file",
            def.name
        );
        assert!(!name.contains("SERVICE_") && !name.contains("_TCP"), "{name} looks like Kubernetes's");
    }
}

#[test]
fn every_key_of_the_table_is_checked_under_its_own_name() {
    let dir = Dir::new();
    for def in all() {
        let problems = dir.read(&config(def.section(), &[(def.key(), "1979-05-27")])).unwrap_err();
        let named = problems.0.iter().find(|problem| problem.key == def.name);
        let problem = named.unwrap_or_else(|| panic!("{} takes a date: {problems}", def.name));
        assert!(problem.text.ends_with(&def.kind.wanted()), "{problem}");
        assert!(problem.text.starts_with("is a date; write "), "{problem}");
    }
}

#[test]
fn names_are_there_once_and_docs_are_sentences() {
    let names: BTreeSet<&str> = all().map(|def| def.name).collect();
    assert_eq!(names.len(), all().count());
    for def in all() {
        assert!(def.doc.ends_with('.'), "{}", def.name);
        assert!(!def.doc.contains("  "), "{}", def.name);
    }
}

/// The reference as printed, with the files that it cannot have.
fn reference_in(dir: &Dir) -> String {
    let add = |name: &str| dir.0.path().join(name).display().to_string();
    reference()
        .replace(
            "#certificate = \"/etc/postrider/tls/fullchain.pem\"",
            &format!("certificate = {:?}", add("cert.pem")),
        )
        .replace("#key = \"/etc/postrider/tls/key.pem\"", &format!("key = {:?}", add("key.pem")))
}

#[test]
fn the_reference_reads_back_as_the_defaults() {
    let dir = Dir::new();
    let empty = format!("[tls]\n{}", "certificate = 'cert.pem'\nkey = 'key.pem'\n");
    assert_eq!(format!("{:?}", dir.settings(&reference_in(&dir))), format!("{:?}", dir.settings(&empty)));
}

#[test]
fn the_examples_of_the_reference_are_good() {
    let dir = Dir::new();
    let another_route = |domain: &str, secret: &str| {
        let relay = "relay = ['smtp.upstream.example:587']";
        format!("[[route]]\ndomain = '{domain}'\n{relay}\nusername = 'me'\n{secret}")
    };
    let uncommented: String = reference_in(&dir)
        .lines()
        .map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line))
        // One [[destination]] is not for a domain and for hosts at once.
        .map(|line| line.replace("mx = ", "connections = 1\n[[destination]]\nmx = "))
        // Those of [metrics].
        .map(|line| line.replace("listen = []", "listen = ['127.0.0.1:9587', 'unix:/nowhere/metrics.sock']"))
        .map(|line| line.replace("mode = \"0640\"", "mode= \"0640\""))
        .map(|line| line.replace("token_file = \"/etc/postrider/metrics-token\"", "token_file= 'other.pem'"))
        // Rights are for a socket in the file system.
        .map(|line| line.replace("mode = ", "[[listen]]\naddress = 'unix:/nowhere/submit.sock'\nmode = "))
        // A login has one secret.
        .map(|line| line.replace("domain = \"*\"", "domain = \"a.example\""))
        .map(|line| line.replace("token_file = ", &another_route("b.example", "token_file = ")))
        .map(|line| line.replace("token_command = ", &another_route("c.example", "token_command = ")))
        .map(|line| line.replace("/usr/local/bin/token", "/bin/sh"))
        .map(|line| line.replace("/etc/postrider/dkim/example.com.s1.pem", "dkim.pem"))
        .map(|line| line.replace("/etc/postrider/upstream-ca.pem", "ca.pem"))
        .map(|line| line.replace("/etc/postrider/root.key", "ca.pem"))
        .map(|line| line.replace("/etc/postrider/upstream.secret", "secret"))
        .map(|line| line.replace("relay = []", "relay = ['smtp.upstream.example:587']") + "\n")
        .collect();
    let settings = dir.settings(&uncommented);
    assert_eq!(settings.hostname.as_str(), "relay.example.com");
    assert_eq!(settings.submission.aliases["root"][0].to_string(), "ops@example.com");
    assert!(settings.routes.0.iter().all(|route| route.login.is_some()));
    for def in all() {
        assert!(uncommented.contains(&format!("\n{} = ", def.key())), "{}", def.name);
    }
}

/// The contract's own numbers, written out.
#[test]
fn the_defaults_are_the_documented_ones() {
    use std::time::Duration;
    let dir = Dir::new();
    let settings = dir.settings("[tls]\ncertificate = 'cert.pem'\nkey = 'key.pem'");
    let (secs, hours) = (Duration::from_secs, |hours: u64| Duration::from_secs(hours * 3600));
    assert_eq!(settings.queue.path, Path::new("/var/lib/postrider/queue.db"));
    assert_eq!(settings.queue.history, hours(7 * 24));
    let submission = &settings.submission;
    assert_eq!(submission.lifetime, hours(5 * 24));
    assert_eq!(submission.users_file, Path::new("/etc/postrider/users"));
    let listen = ListenSettings {
        address: ListenAddress::Ip("[::]:587".parse().unwrap()),
        access: SocketAccess { mode: 0o666, group: None },
        local_users: false,
        tls: ListenTls::Starttls,
        auth_required: true,
        trusted: Vec::new(),
    };
    assert_eq!(submission.listen, [listen]);
    let limits = Limits {
        message_size: 25 << 20,
        recipients: 1000,
        sessions: 500,
        sessions_per_client: 50,
        errors: 10,
        auth_failures: 5,
        received_hops: 50,
        long_lines: LongLines::Accept,
        idle_timeout: secs(300),
        login_timeout: secs(30),
        session_timeout: secs(7200),
        future_release: Some(hours(30 * 24)),
    };
    assert_eq!(submission.limits, limits);
    assert_eq!(settings.dns, DnsSettings { servers: Vec::new(), timeout: secs(5), trust_anchor: None });
    let delivery = &settings.delivery;
    assert_eq!((delivery.port, delivery.workers, delivery.messages_per_connection), (25, 128, 100));
    assert_eq!((delivery.in_doubt, delivery.ca_file.as_ref()), (InDoubt::Retry, None));
    assert_eq!(delivery.eight_bit, EightBit::Send);
    assert_eq!((delivery.attempt_deadline, delivery.connect_timeout), (secs(1200), secs(30)));
    let lifetimes = crate::mail::Lifetimes { messages: 5 * 86_400, bounces: 2 * 86_400 };
    assert_eq!((delivery.reply_timeout, delivery.lifetimes), (secs(300), lifetimes));
    assert_eq!(delivery.delay_warning, Some(hours(4)));
    assert_eq!(delivery.retry_rules, []);
    assert!(delivery.source_addresses.is_empty() && delivery.sources.is_empty());
    assert_eq!(delivery.prohibited_networks, ProhibitedNetworks::default());
    assert_eq!(delivery.listen, [submission.listen[0].address.ip().unwrap()]);
    let scheduler = &settings.scheduler;
    assert_eq!((scheduler.connections_per_destination, scheduler.recipients_per_transaction), (8, 100));
    assert_eq!(scheduler.lifetimes, lifetimes);
    assert_eq!(scheduler.schedule, [60, 300, 900, 1800, 3600, 7200, 14_400].map(secs));
    assert!(settings.routes.0.is_empty());
    assert!(scheduler.destinations.0.is_empty() && delivery.destinations.0.is_empty());
    assert_eq!(delivery.connections_per_destination, 8);
}

#[test]
fn without_a_file_everything_is_local() {
    let certificate = CertificateSettings::SelfSigned { directory: BUILT_IN_DIRECTORY.into() };
    let (settings, warnings) =
        load::read(Path::new("built-in"), BUILT_IN, &Environment::default(), Some(&certificate)).unwrap();
    assert_eq!(warnings, []);
    assert_eq!(settings.queue.path, Path::new("postrider-data/queue.db"));
    assert_eq!(settings.submission.users_file, Path::new("postrider-data/users"));
    assert_eq!(settings.submission.listen[0].address.to_string(), "127.0.0.1:5587");
    assert_eq!(settings.submission.listen[0].tls, ListenTls::Starttls);
    assert_eq!(settings.submission.tls, Some(certificate));
}

#[test]
fn relative_files_count_from_the_config() {
    let dir = Dir::new();
    let settings = dir.settings(&config("queue", &[("path", "'state/queue.db'")]));
    assert_eq!(settings.queue.path, dir.0.path().join("state/queue.db"));
    let Some(CertificateSettings::Files { certificate, .. }) = settings.submission.tls else { panic!() };
    assert_eq!(certificate, dir.0.path().join("cert.pem"));
}

#[test]
fn the_queue_is_found_whatever_else_is_wrong_but_never_guessed() {
    let dir = Dir::new();
    let find =
        |text: &str| partial::queue_path(&dir.0.path().join("postrider.toml"), text, &Environment::default());
    let mut bad = config("queue", &[("path", "'state/queue.db'")]);
    bad.push_str("\n[[route]]\ndomain = '*'\npasword_file = 1\n");
    assert!(dir.read(&bad).is_err());
    assert_eq!(find(&bad).unwrap(), dir.0.path().join("state/queue.db"));
    assert_eq!(find("").unwrap(), Path::new("/var/lib/postrider/queue.db"));
    for in_doubt in ["[queue]\npth = 'x'", "[quue]\npath = 'x'", "[queue]\npath = 1", "[queue"] {
        assert!(find(in_doubt).is_err(), "{in_doubt}");
    }
}

#[test]
fn all_of_an_address_family_in_trusted_is_an_open_relay_however_it_is_written() {
    let dir = Dir::new();
    for open in [
        "0.0.0.0/0",
        "::/0",
        "0.0.0.0/1', '128.0.0.0/1",
        "::/1', '8000::/1",
        "::ffff:0:0/96",
        "::/64', '192.0.2.1",
    ] {
        let problems = dir.read(&config("listen", &[("trusted", &format!("['{open}']"))])).unwrap_err();
        assert_eq!(problems.0.len(), 1, "{problems}");
        assert!(problems.to_string().contains("an open relay"), "{problems}");
    }
    dir.settings(&config("listen", &[("trusted", "['10.0.0.0/8', '2001:db8::/32']")]));
}

#[test]
fn networks_that_are_hardly_meant_are_told() {
    let dir = Dir::new();
    let said = |section: &str, lines: &[(&str, &str)]| match dir.read(&config(section, lines)) {
        Ok((_, warnings)) => {
            let about = warnings.iter().filter(|warning| warning.key.starts_with(section));
            about.map(ToString::to_string).collect::<Vec<_>>().join("\n")
        }
        Err(Problems(problems)) => {
            problems.iter().map(|problem| format!("problem: {problem}")).collect::<Vec<_>>().join("\n")
        }
    };
    let trusted = |address: &str, networks: &str| {
        said("listen", &[("address", &format!("'{address}'")), ("trusted", networks)])
    };
    for (address, networks, expected) in [
        ("[::]:587", "['10.0.0.0/8', '172.16.0.0/12', 'fc00::/7', '127.0.0.1', '::1']", ""),
        ("[::]:587", "['0.0.0.0/1', '128.0.0.0/1']", "problem: "),
        ("[::]:587", "['0.0.0.0/2', '64.0.0.0/2', '128.0.0.0/2']", "trust 75 % of all IPv4 addresses"),
        ("[::]:587", "['2000::/4', '3000::/4']", "trust 100 % of all IPv4 addresses"),
        ("[::]:587", "['2002::/16']", "trust 100 % of all IPv4 addresses"),
        ("[::]:587", "['::ffff:0:0/96']", "0.0.0.0/0 trusts every address"),
        ("[::]:587", "['64.0.0.0/4']", "trust 6 % of all IPv4 addresses, and all of them may send"),
        ("0.0.0.0:587", "['fd00::/8']", "fd00::/8 matches no client of 0.0.0.0:587: it takes IPv4 alone"),
        ("[2001:db8::1]:587", "['10.0.0.0/8']", "it takes IPv6 alone"),
        ("127.0.0.1:587", "['10.0.0.0/8']", "only this machine reaches it"),
        ("127.0.0.1:587", "['127.0.0.0/8']", ""),
        ("[::]:587", "['ff00::/8']", "no client has such an address"),
    ] {
        let said = trusted(address, networks);
        let fits = if expected.is_empty() { said.is_empty() } else { said.contains(expected) };
        assert!(fits, "{address} {networks}: {said}");
    }
    let prohibited = |networks| said("delivery", &[("prohibited_networks", networks)]);
    assert_eq!(prohibited("['!127.0.0.0/8', '10.0.0.0/8', '!10.1.0.0/16']"), "");
    let vain = prohibited("['!10.0.0.0/8']");
    assert!(vain.contains("!10.0.0.0/8 allows what nothing prohibits"), "{vain}");
    assert_eq!(
        said("delivery", &[("prohibited_networks", "['!10.0.0.0/8']"), ("private_networks", "'refuse'")]),
        ""
    );
    let bad = prohibited("['!10.1.0.0/8', '!x']");
    assert!(bad.contains("\"!10.1.0.0/8\" has bits behind its prefix and would mean 10.0.0.0/8"), "{bad}");
    assert!(bad.contains("\"!x\" is not a network"), "{bad}");
}

#[test]
fn warnings_do_not_stop_the_start() {
    let dir = Dir::new();
    let warnings = |section: &str, lines: &[(&str, &str)]| {
        let (_, warnings) = dir.read(&config(section, lines)).unwrap();
        warnings.iter().map(|warning| warning.key.clone()).collect::<Vec<_>>()
    };
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(dir.0.path().join("secret"), private).unwrap();
    assert_eq!(warnings("", &[]), Vec::<String>::new());
    assert_eq!(warnings("listen", &[("tls", "'off'")]), ["listen.tls"]);
    assert_eq!(warnings("listen", &[("tls", "'off'"), ("address", "'127.0.0.1:25'")]), Vec::<String>::new());
    assert_eq!(warnings("listen", &[("auth", "'optional'")]), ["listen.auth"]);
    assert_eq!(warnings("route", &[("tls", "'encrypt'")]), ["route.tls"]);
    assert_eq!(warnings("queue", &[("delay_warning", "'5d'")]), ["queue.delay_warning"]);
    assert_eq!(warnings("retry", &[("schedule", "['6d']")]), ["retry.schedule"]);
    let world = std::os::unix::fs::PermissionsExt::from_mode(0o604);
    std::fs::set_permissions(dir.0.path().join("secret"), world).unwrap();
    assert_eq!(warnings("", &[]), ["route.password_file"]);
}

/// The examples are of OpenSSL's making.
#[test]
fn a_dkim_key_that_others_may_read_is_a_warning_and_one_that_cannot_sign_a_problem() {
    let dir = Dir::new();
    let file = dir.0.path().join("dkim.pem");
    let read = || dir.read(&config("dkim", &[]));
    let good = std::fs::read(&file).unwrap();
    for (mode, is_told) in [(0o600, false), (0o640, false), (0o644, true), (0o604, true)] {
        std::fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
        let (_, warnings) = read().unwrap();
        let of_key = warnings.iter().filter(|warning| warning.key == "dkim.key");
        let warnings: Vec<String> = of_key.map(ToString::to_string).collect();
        // The key stands in two tables.
        assert_eq!(warnings.len(), if is_told { 2 } else { 0 }, "{mode:o}: {warnings:?}");
        let words = format!(
            "{0} can be read by every user of this machine, who can sign as you then; chmod o= {0}",
            file.display()
        );
        assert!(warnings.iter().all(|warning| warning.contains(&words)), "{warnings:?}");
    }
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bad-configs/unusable-dkim-key");
    for (example, words) in [
        ("encrypted.pem", "is encrypted; `openssl pkey -in FILE -out PLAIN-FILE` takes the passphrase off"),
        (
            "encrypted-pkcs1.pem",
            "is encrypted; `openssl pkey -in FILE -out PLAIN-FILE` takes the passphrase off",
        ),
        ("p256.pem", "its kind is not one of DKIM's: RSA or Ed25519"),
        ("p256-sec1.pem", "its kind is not one of DKIM's: RSA or Ed25519"),
        ("ed448.pem", "its kind is not one of DKIM's: RSA or Ed25519"),
        ("x25519.pem", "its kind is not one of DKIM's: RSA or Ed25519"),
        ("rsa1024.pem", "2048 to 8192 bits are needed"),
    ] {
        std::fs::write(&file, std::fs::read(examples.join(example)).unwrap()).unwrap();
        let problems = read().map(drop).unwrap_err().to_string();
        assert!(problems.contains(words), "{example}: {problems}");
    }
    std::fs::write(&file, good).unwrap();
    assert!(read().is_ok());
}

#[test]
fn only_listen_source_route_destination_and_retry_rule_repeat() {
    assert_eq!(REPEATED, ["listen", "source", "route", "destination", "retry.rule", "dkim"]);
    let defaulted = |name: &str| all().any(|def| def.name == name && matches!(def.default, Preset::Is(_)));
    assert!(defaulted("listen.address"), "a [[listen]] may be empty");
}

proptest::proptest! {
    /// Whatever is typed into a config, the answer is settings or problems.
    #[test]
    fn no_config_panics(at in 0usize..6000, cut in 0usize..40, typed in "[\\[\\]{}='\"a-z0-9.,:/*@\\-# \n\u{fc}]{0,12}") {
        let dir = Dir::new();
        let mut text: Vec<char> = reference_in(&dir).chars().collect();
        let start = at.min(text.len());
        let end = (start + cut).min(text.len());
        text.splice(start..end, typed.chars());
        let text: String = text.into_iter().collect();
        if let Err(problems) = dir.read(&text) {
            proptest::prop_assert!(!problems.0.is_empty());
        }
    }
}

#[test]
fn a_working_directory_that_may_not_be_looked_into_has_no_config() {
    use std::io::{Error, ErrorKind};
    let etc = Path::new(super::SEARCH[1]);
    let denied = |path: &Path, denied: &Path| match path == denied {
        true => Err(Error::from(ErrorKind::PermissionDenied)),
        false => Ok(path == etc),
    };
    let here = Path::new(super::SEARCH[0]);
    assert_eq!(super::first_of(|path| denied(path, here)), Some(etc), "the home of somebody else");
    assert_eq!(super::first_of(|path| denied(path, etc)), Some(etc), "reading it tells what is wrong");
    assert_eq!(super::first_of(|_| Ok(false)), None);
}
