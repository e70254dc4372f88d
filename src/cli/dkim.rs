//! `postrider dkim`: make a key and the record that publishes it, and show what DNS has of the keys in use.

use std::fmt::Write as _;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, openat, unlinkat};
use serde_json::json;

use super::check::dkim::{asked, judged, kind};
use super::check::{Found, Level, finding, lines};
use super::output::{WrongUsage, json_pretty, print};
use crate::clock::Clock;
use crate::config::{self, BUILT_IN_DIRECTORY};
use crate::delivery::route::dns::Resolver;
use crate::mail::Domain;
use crate::mail::dkim::{Algorithm, Key, Signer, SigningKey, record};

/// Where keys are, beside the config file.
const DIRECTORY: &str = "dkim";
/// Selectors that are tried where none is given: s1, s2 …
const SELECTORS_MAX: usize = 1000;
/// Root, and its group.
const ROOT: u32 = 0;

/// `postrider dkim …`.
#[derive(Debug, clap::Subcommand)]
pub enum Verb {
    /// Make a key for a domain; print the record to publish and the lines for the config
    ///
    /// The private key goes into the directory dkim beside the config file, where the relay may read it and nobody
    /// else. A file that is there is never written to. Nothing is signed until the config names the key.
    New {
        /// The domain of the addresses that mail comes from
        domain: String,
        /// The name of the key in DNS [default: the first of s1, s2, … that has no file]
        #[arg(long)]
        selector: Option<String>,
        /// rsa, which everybody verifies, or ed25519, whose record is short; a domain may have both
        #[arg(long, default_value = "rsa", value_parser = ["rsa", "ed25519"])]
        algorithm: String,
        /// Bits of an RSA key
        #[arg(long, value_parser = ["2048", "3072", "4096"])]
        bits: Option<String>,
    },
    /// Show the keys of the config, their records, and whether DNS has them
    ///
    /// The exit code is 1 where receivers cannot verify with a key that is in use.
    Show {
        /// Of this domain alone
        domain: Option<String>,
        /// One JSON object, for programs
        #[arg(long)]
        json: bool,
    },
}

/// Runs `postrider dkim …`. `config` is `--config`.
///
/// # Errors
/// Says what went wrong and what to do.
pub fn run(config: Option<&Path>, verb: &Verb) -> anyhow::Result<()> {
    match verb {
        Verb::New { domain, selector, algorithm, bits } => {
            let domain = name(domain, "domain")?;
            let key = new_key(algorithm, bits.as_deref())?;
            let selector = selector.as_deref().map(|selector| name(selector, "selector")).transpose()?;
            print(&make(config, &domain, selector.as_ref(), &key)?)
        }
        Verb::Show { domain, json } => show(config, domain.as_deref(), *json),
    }
}

fn name(text: &str, what: &str) -> anyhow::Result<Domain> {
    let name = Domain::parse(text).ok().filter(|name| name.ip().is_none());
    Ok(name.ok_or_else(|| WrongUsage(format!("{text:?} is no {what}; write a name as DNS has it")))?)
}

fn new_key(algorithm: &str, bits: Option<&str>) -> anyhow::Result<Key> {
    let key = match (algorithm, bits) {
        ("ed25519", Some(_)) => bail!(WrongUsage("--bits is for rsa; an ed25519 key has 256".to_owned())),
        ("ed25519", None) => Key::generate(Algorithm::Ed25519Sha256),
        (_, None) => Key::generate(Algorithm::RsaSha256),
        (_, Some(bits)) => Key::generate_rsa(bits.parse().unwrap_or(0)),
    };
    key.context("the system gives no random numbers; try again")
}

/// Makes the file; gives what to do next.
fn make(
    config: Option<&Path>,
    domain: &Domain,
    selector: Option<&Domain>,
    key: &Key,
) -> anyhow::Result<String> {
    let found = config::find(config);
    let beside = match &found {
        Some(file) => file.parent().map(Path::to_owned).unwrap_or_default(),
        None => {
            config::make_built_in_directory().map_err(anyhow::Error::msg)?;
            PathBuf::from(BUILT_IN_DIRECTORY)
        }
    };
    let reader = Reader::of(config, &beside);
    let path = beside.join(DIRECTORY);
    let pem = key.to_pem().context("the key cannot be written as PEM")?;
    let directory = reader.directory(&path).map_err(|error| cannot(&path, &error))?;
    let (selector, file) = write_first_free(&reader, &directory, domain, selector, &pem)?;
    let config_file = found.map_or_else(|| "postrider.toml".to_owned(), |file| file.display().to_string());
    let shown = file.display();
    let mut text = format!("The private key is in {shown}{}.\n\n", reader.words());
    let _ = write!(
        text,
        "1. Publish this record, here as a line of a zone file:\n\n{}\n\n   The form of a DNS provider asks for the name \
         and for the text in one piece:\n\n{}\n{}\n",
        record::zone_line(domain.as_str(), &selector, key),
        record::name_of(domain.as_str(), &selector),
        record::text_of(key),
    );
    let _ = write!(
        text,
        "2. Add this to {config_file}:\n\n[[dkim]]\ndomain = \"{domain}\"\nselector = \"{selector}\"\nkey = {:?}\n\n\
         3. When `postrider dkim show {domain}` finds the record in DNS: systemctl reload postrider\n",
        file.strip_prefix(&beside).unwrap_or(&file),
    );
    Ok(text)
}

/// Writes the key under this selector, or the first of s1, s2 … that has no file. Gives the selector and the file.
fn write_first_free(
    reader: &Reader,
    directory: &Directory,
    domain: &Domain,
    selector: Option<&Domain>,
    pem: &str,
) -> anyhow::Result<(String, PathBuf)> {
    let selectors = match selector {
        Some(selector) => vec![selector.to_string()],
        None => (1..=SELECTORS_MAX).map(|number| format!("s{number}")).collect(),
    };
    let name_of = |selector: &str| format!("{domain}.{selector}.pem");
    for selector in &selectors {
        let name = name_of(selector);
        let file = directory.path.join(&name);
        match reader.write(directory, &name, pem) {
            Ok(()) => return Ok((selector.clone(), file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(cannot(&file, &error)),
        }
    }
    let last = selectors.last().map(|selector| directory.path.join(name_of(selector))).unwrap_or_default();
    bail!("{} is there already, and a key is never overwritten; give another --selector", last.display())
}

fn cannot(path: &Path, error: &io::Error) -> anyhow::Error {
    anyhow::anyhow!("cannot create {}: {error}; run this as root, or as the relay's user", path.display())
}

/// The directory of the keys. It stays the one that was opened, whatever is put in its place: whom root makes a key for
/// may own the one above it.
struct Directory {
    path: PathBuf,
    open: File,
}

/// Who is to read a key beside its maker. Root makes it for whoever the relay runs as; others cannot give it away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reader {
    /// Whoever makes it.
    Us,
    /// A group: that of the config's directory.
    Group(u32),
    /// The user who owns the queue's directory.
    User(u32),
}

impl Reader {
    fn of(config: Option<&Path>, beside: &Path) -> Reader {
        let metadata = |path: &Path| {
            let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
            fs::metadata(path).ok()
        };
        let queue = config::queue_path(config).ok();
        let owner = queue.and_then(|file| metadata(file.parent()?)).map(|queue| queue.uid());
        let maker = rustix::process::geteuid().as_raw();
        Reader::among(maker, metadata(beside).map(|beside| beside.gid()), owner)
    }

    fn among(maker: u32, group: Option<u32>, owner: Option<u32>) -> Reader {
        if maker != ROOT {
            return Reader::Us;
        }
        let group = group.filter(|gid| *gid != ROOT).map(Reader::Group);
        group.or(owner.filter(|uid| *uid != ROOT).map(Reader::User)).unwrap_or(Reader::Us)
    }

    /// The directory, made where there is none.
    fn directory(&self, path: &Path) -> io::Result<Directory> {
        let is_new = match DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
            Err(error) => return Err(error),
        };
        let links = if *self == Reader::Us { OFlags::empty() } else { OFlags::NOFOLLOW };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | links;
        let open = File::from(openat(CWD, path, flags, Mode::empty())?);
        if is_new {
            self.let_in(&open, 0o750, 0o700)?;
        }
        Ok(Directory { path: path.to_owned(), open })
    }

    /// A file that is not there yet. None is left behind that is not whole.
    fn write(&self, directory: &Directory, name: &str, text: &str) -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mut file = File::from(openat(&directory.open, name, flags, Mode::RUSR | Mode::WUSR)?);
        let written = file
            .write_all(text.as_bytes())
            .and_then(|()| self.let_in(&file, 0o640, 0o600))
            .and_then(|()| file.sync_all());
        if written.is_err() {
            let _ = unlinkat(&directory.open, name, AtFlags::empty());
        }
        written
    }

    /// What was made is given to whom it is for.
    fn let_in(&self, made: &File, of_group: u32, of_user: u32) -> io::Result<()> {
        match *self {
            Reader::Us => Ok(()),
            Reader::Group(gid) => {
                fchown(made, None, Some(gid))?;
                made.set_permissions(Permissions::from_mode(of_group))
            }
            Reader::User(uid) => {
                fchown(made, Some(uid), None)?;
                made.set_permissions(Permissions::from_mode(of_user))
            }
        }
    }

    /// What is to be known of it.
    fn words(&self) -> &'static str {
        match self {
            Reader::Us => ", for you alone: run the relay as the same user, or let its user read it",
            Reader::Group(_) | Reader::User(_) => "",
        }
    }
}

fn show(config: Option<&Path>, domain: Option<&str>, as_json: bool) -> anyhow::Result<()> {
    let domain = domain.map(|domain| name(domain, "domain")).transpose()?;
    let settings = config::load(config)?.settings;
    let is_meant =
        |key: &&SigningKey| domain.as_ref().is_none_or(|domain| key.signer.domain == domain.as_str());
    let keys: Vec<&SigningKey> = settings.delivery.keyring.keys().iter().filter(is_meant).collect();
    if keys.is_empty() && !as_json {
        let whose = domain.map_or_else(|| "example.com".to_owned(), |domain| domain.to_string());
        bail!(
            "the config has no [[dkim]] for it; `postrider dkim new {whose}` makes a key and shows what to add"
        );
    }
    let resolver = Resolver::new(&settings.dns).context("cannot start the resolver")?;
    let now = Clock::system().now();
    let answers = asked(&keys, &resolver);
    let findings = keys.iter().zip(&answers).map(|(key, answer)| judged(key, answer, now));
    let findings = lines::placed(&resolver, findings.collect());
    let mut shown = Vec::new();
    let mut text = String::new();
    for (key, finding) in keys.iter().zip(&findings) {
        let Signer { domain, selector, key: private, .. } = &key.signer;
        shown.push(json!({
            "domain": domain,
            "selector": selector,
            "kind": kind(key),
            "in_force": key.is_in_force(now),
            "name": record::name_of(domain, selector),
            "record": record::text_of(private),
            "level": finding.level,
            "dns": finding.text,
        }));
        let state = if key.is_in_force(now) { "signs" } else { "does not sign now" };
        let _ = write!(
            text,
            "{} ({}) {state}\n{}\n{}\n",
            key.name(),
            kind(key),
            record::zone_line(domain, selector, private),
            finding::lines(std::slice::from_ref(finding)),
        );
    }
    match as_json {
        true => print(&json_pretty(&json!({ "keys": shown })))?,
        false => print(&text)?,
    }
    match findings.iter().any(|finding| finding.level == Level::Problem) {
        true => Err(Found.into()),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_makes_keys_for_the_group_of_the_config_else_for_the_owner_of_the_queue_and_others_for_themselves()
    {
        assert_eq!(Reader::among(ROOT, Some(990), Some(991)), Reader::Group(990));
        assert_eq!(Reader::among(ROOT, Some(ROOT), Some(991)), Reader::User(991));
        assert_eq!(Reader::among(ROOT, Some(ROOT), Some(ROOT)), Reader::Us);
        assert_eq!(Reader::among(ROOT, None, None), Reader::Us);
        assert_eq!(Reader::among(1000, Some(990), Some(991)), Reader::Us);
    }

    #[test]
    fn a_key_is_never_written_over_and_only_its_reader_sees_it() {
        let folder = tempfile::tempdir().unwrap();
        let directory = Reader::Us.directory(folder.path()).unwrap();
        let domain = Domain::parse("example.com").unwrap();
        let selector = Domain::parse("s1").unwrap();
        let write = |selector, pem: &str| write_first_free(&Reader::Us, &directory, &domain, selector, pem);
        let (name, file) = write(None, "one").unwrap();
        assert_eq!((name.as_str(), fs::metadata(&file).unwrap().mode() & 0o777), ("s1", 0o600));
        assert_eq!(write(None, "two").unwrap().0, "s2");
        let error = write(Some(&selector), "three").unwrap_err().to_string();
        assert!(error.contains("never overwritten"), "{error}");
        assert_eq!(fs::read_to_string(file).unwrap(), "one");
    }

    /// Whoever owns the directory above could lead root to another one.
    #[test]
    fn no_link_is_followed_by_root() {
        let folder = tempfile::tempdir().unwrap();
        let (path, elsewhere) = (folder.path().join("dkim"), folder.path().join("elsewhere"));
        let reader = Reader::Group(fs::metadata(folder.path()).unwrap().gid());
        fs::create_dir(&elsewhere).unwrap();
        let directory = reader.directory(&path).unwrap();
        fs::rename(&path, folder.path().join("away")).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
        reader.write(&directory, "key.pem", "key").unwrap();
        assert!(reader.directory(&path).is_err());
        assert_eq!(fs::read_dir(elsewhere).unwrap().count(), 0);
        assert_eq!(fs::metadata(folder.path().join("away/key.pem")).unwrap().mode() & 0o777, 0o640);
        assert!(Reader::Us.directory(&path).is_ok());
    }

    /// As root, which alone can give files away.
    #[test]
    fn what_root_makes_the_relay_can_read() {
        let folder = tempfile::tempdir().unwrap();
        if fs::metadata(folder.path()).unwrap().uid() != ROOT {
            // Past the test's captured output, so that whoever runs it sees that nothing was tested.
            let _ = writeln!(
                io::stderr(),
                "skipped: cli::dkim::tests::what_root_makes_the_relay_can_read: not root"
            );
            return;
        }
        for (reader, uid, gid, file_mode, directory_mode) in [
            (Reader::Group(4711), ROOT, Some(4711), 0o640, 0o750),
            (Reader::User(4712), 4712, None, 0o600, 0o700),
        ] {
            let path = folder.path().join(uid.to_string());
            reader.directory(&path).unwrap();
            let directory = reader.directory(&path).unwrap();
            reader.write(&directory, "key.pem", "key").unwrap();
            for (path, mode) in [(&path, directory_mode), (&path.join("key.pem"), file_mode)] {
                let found = fs::metadata(path).unwrap();
                assert_eq!((found.uid(), found.mode() & 0o7777), (uid, mode), "{}", path.display());
                assert!(gid.is_none_or(|gid| found.gid() == gid), "{}", path.display());
            }
        }
    }
}
