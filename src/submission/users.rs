//! Who may log in: the users file in memory, and passwords checked against it.
//!
//! A wrong name costs the same work as a wrong password, so that nobody learns names by the
//! clock. A right password is remembered for [`REMEMBERED`] (as an HMAC under a secret that
//! never leaves this process), so that an application that connects for each message pays for
//! the hashing once. Only so many hashes run at once, in fair turns (`hashing.rs`), so that a flood of wrong passwords
//! cannot take the processors from the mail. (SCRAM and CRAM-MD5 cost microseconds here and need neither:
//! in SCRAM the client does the hashing.)
//!
//! The file is read again when it changes: a login looks whether it did, so `postrider user add` counts at once. A
//! file that is gone, empty, broken or cannot be read is no list of users but trouble: the users of before stay, and
//! one ERROR says so. Where there were none before, nobody can be told right from wrong (`Directory::is_available`).
//! What is being written in place is not taken for a shorter list: see `SETTLED_AFTER`; nor is a file that was cut.

mod decoy;
mod error;
mod file;
mod hashing;
pub(super) mod local_users;
mod user;
mod verifier;

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use crate::config::AtrnDomains;
use crate::kit::bounded::TtlMap;
use crate::sasl::CramMd5;
use aws_lc_rs::{constant_time, hmac, rand};

use decoy::{DecoySecret, Decoys};
pub(super) use error::NAME_CHARS_MAX;
pub use error::UsersError;
pub use file::{add, list, may_add, remove, set_limits, set_password};
use hashing::Hashing;
pub(super) use hashing::LoginSource;
pub use user::{Attributes, Limits, User};
pub(super) use verifier::Verifier;

/// How long a right password is taken without hashing it again.
pub const REMEMBERED: Duration = Duration::from_secs(300);
/// Users whose password is remembered at once.
const REMEMBERED_USERS_MAX: usize = 10_000;
/// How often the file is looked at, at most, where nobody logs in.
const LOOKED_AT_EVERY: Duration = Duration::from_secs(1);
/// A file that is written in place and lacks users is believed when nothing was written to it for so long: half of it
/// may be on its way. (`postrider user` replaces the file as a whole, which counts at once.)
const SETTLED_AFTER: Duration = Duration::from_millis(500);

/// The users, ready to be asked by every session.
pub struct Users {
    path: PathBuf,
    table: RwLock<Table>,
    remembered: Mutex<TtlMap<String, Remembered, Instant>>,
    /// Keys the remembered passwords; random, made at start.
    secret: hmac::Key,
    /// Makes decoys where the file has no secret for them; they change with the next start.
    passing: DecoySecret,
    hashing: Hashing,
    looked_at: Mutex<Option<Instant>>,
    trouble: Mutex<Trouble>,
}

/// What was wrong with the file when it was last read.
#[derive(Default)]
struct Trouble {
    /// Which file that was, and when: it is not read again and again.
    seen: Option<(Option<Version>, Instant)>,
    /// What the log says about it.
    said: Option<String>,
}

#[derive(Clone)]
struct Table {
    users: HashMap<String, Arc<User>>,
    decoys: Decoys,
    has_cram_md5: bool,
    has_atrn: bool,
    /// There was a file with something in it.
    available: bool,
    version: Option<Version>,
}

/// What a session asks about users.
pub(super) trait Directory: Send + Sync {
    /// Whether this is the password. May block for a hash, in the line where it belongs.
    fn with_password(&self, name: &str, password: &[u8], from: LoginSource) -> PasswordCheck;
    /// Whether there is a list of users; otherwise nobody is right or wrong.
    fn is_available(&self) -> bool;
    /// Differs for a name whenever its password was set.
    fn mark(&self, name: &str) -> [u8; 32];
    /// The user, if this is the digest of `challenge` under the password.
    fn with_cram_md5(&self, name: &str, challenge: &[u8], digest: &[u8; 16]) -> Option<Arc<User>>;
    /// What a proof of this name is held against, there being such a user or not.
    fn with_scram(&self, name: &str) -> Known;
    /// At least one user can use CRAM-MD5.
    fn has_cram_md5(&self) -> bool;
    /// Whether anybody may fetch mail with ATRN.
    fn has_atrn(&self) -> bool;
    /// Reads the file again if it changed.
    fn look_again(&self);
    /// The user of this machine of that name.
    fn local(&self, name: &str) -> Arc<User> {
        Arc::new(local_users::rights(name, None))
    }
    /// The user as they are now; none where there is none of that name, or one with another password.
    fn current(&self, user: &Arc<User>) -> Option<Arc<User>>;
}

/// What came of a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PasswordCheck {
    Right(Arc<User>),
    Wrong,
    /// Too many wait for the same; it was not looked at.
    Busy,
}

/// A name as SCRAM sees it.
#[derive(Debug, Clone)]
pub(super) struct Known {
    /// None: there is no such user, and the verifier is a decoy.
    pub(super) user: Option<Arc<User>>,
    /// For a name always the same, so that two questions tell nothing.
    pub(super) verifier: Verifier,
}

/// Differs whenever the file was replaced or written: device-local inode, size, time of change.
type Version = (u64, u64, i64, i64);

/// A password that was right.
struct Remembered {
    password: hmac::Tag,
    /// The verifier it was right for; another one now, and it counts no more.
    verifier: Verifier,
}

impl Users {
    /// Reads the file. One that does not exist yet is looked for again.
    ///
    /// # Errors
    /// The file cannot be read or a line breaks its form; or the system gives no random numbers.
    pub fn load(path: &Path) -> Result<Users, UsersError> {
        let passing = DecoySecret::new().map_err(|_| UsersError::Random)?;
        let table = Table::read(path, &passing)?;
        Ok(Users { passing, ..Users::with_table(path, table)? })
    }

    fn with_table(path: &Path, table: Table) -> Result<Users, UsersError> {
        let secret = hmac::Key::generate(hmac::HMAC_SHA256, &rand::SystemRandom::new())
            .map_err(|_| UsersError::Random)?;
        // Half of the processors, so that deliveries and other sessions always have the rest; but never one alone,
        // behind which all wait.
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Users {
            path: path.to_owned(),
            table: RwLock::new(table),
            trouble: Mutex::default(),
            remembered: Mutex::new(TtlMap::new(REMEMBERED_USERS_MAX, REMEMBERED)),
            secret,
            passing: DecoySecret::new().map_err(|_| UsersError::Random)?,
            hashing: Hashing::new((processors / 2).max(2)),
            looked_at: Mutex::new(None),
        })
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The user, if this is the password; for whoever asks alone.
    pub fn verify(&self, name: &str, password: &[u8]) -> Option<Arc<User>> {
        match self.verify_at(name, password, LoginSource::Known, Instant::now()) {
            PasswordCheck::Right(user) => Some(user),
            PasswordCheck::Wrong | PasswordCheck::Busy => None,
        }
    }

    /// Whether name and password are right. Blocks for one hash (some 10 ms, and the wait for its turn) unless the
    /// same password was right within [`REMEMBERED`]. `now`: a parameter for the tests.
    fn verify_at(&self, name: &str, password: &[u8], from: LoginSource, now: Instant) -> PasswordCheck {
        self.look_again();
        let given = self.tag(name, password);
        let user = self.find(name);
        let verifier = match &user {
            Some(user) => user.verifier.clone(),
            None => self.decoy(name),
        };
        let is_known = |now| user.is_some() && self.remembers(name, &given, &verifier, now);
        let right = if is_known(now) {
            true
        } else {
            // Asked again when its turn has come: others may have had the same password meanwhile.
            let known = || is_known(now).then_some(true);
            let hash = || {
                let right = verifier.accepts(password);
                if right && user.is_some() {
                    self.remember(name, given, &verifier, now);
                }
                right
            };
            match self.hashing.run(from, known, hash) {
                Some(right) => right,
                None => return PasswordCheck::Busy,
            }
        };
        match user.clone().filter(|_| right) {
            Some(user) => PasswordCheck::Right(user),
            None => PasswordCheck::Wrong,
        }
    }

    /// The user of that name.
    pub fn find(&self, name: &str) -> Option<Arc<User>> {
        self.table.read().unwrap_or_else(PoisonError::into_inner).users.get(name).cloned()
    }

    /// The domains whose mail is fetched, as the file has them now. Looks at it each time, and leaves alone when
    /// [`Users::verify`] does: who was just added may log in at once.
    pub fn atrn_domains(&self) -> AtrnDomains {
        self.look_again();
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        atrn_domains_of(table.users.values())
    }

    fn decoy(&self, name: &str) -> Verifier {
        self.table.read().unwrap_or_else(PoisonError::into_inner).decoys.verifier(name)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.table.read().unwrap_or_else(PoisonError::into_inner).users.len()
    }

    /// Reads the file again, whether it changed or not (SIGHUP).
    ///
    /// # Errors
    /// As [`Users::load`], and where the file is gone or empty now; the users stay what they were.
    pub fn reload(&self) -> Result<(), UsersError> {
        let version = version(&self.path);
        match self.read_again() {
            Ok(table) => {
                self.take(table);
                Ok(())
            }
            Err(error) => {
                // Whoever asked is told; the log need not be told again by the next who looks.
                let seen = Some((version, Instant::now()));
                *lock(&self.trouble) = Trouble { seen, said: Some(error.to_string()) };
                Err(error)
            }
        }
    }

    /// The users of another file (SIGHUP). Where that is no list of users, the second is why, and those of now go on
    /// until it changes.
    ///
    /// # Errors
    /// The system gives no random numbers.
    pub fn moved_to(&self, path: &Path) -> Result<(Users, Option<UsersError>), UsersError> {
        let before = self.table.read().unwrap_or_else(PoisonError::into_inner).clone();
        let moved = Users::with_table(path, Table { version: None, ..before })?;
        let trouble = moved.reload().err();
        Ok((moved, trouble))
    }

    /// The file as it is now, unless that is no list of users.
    fn read_again(&self) -> Result<Table, UsersError> {
        let table = Table::read(&self.path, &self.passing)?;
        let was_available = self.table.read().unwrap_or_else(PoisonError::into_inner).available;
        match (was_available && !table.available, table.version) {
            (true, None) => Err(UsersError::Gone(self.path.clone())),
            (true, Some(_)) => Err(UsersError::Empty(self.path.clone())),
            (false, _) => Ok(table),
        }
    }

    fn take(&self, table: Table) {
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = table;
        let mut trouble = lock(&self.trouble);
        trouble.seen = None;
        if trouble.said.take().is_some() {
            log::info!("users file {}: can be read again", self.path.display());
        }
    }

    /// [`Users::look_again`] now and then: for every line that anybody sends.
    fn glance(&self, now: Instant) {
        {
            let mut looked_at = lock(&self.looked_at);
            if looked_at.is_some_and(|at| now.saturating_duration_since(at) < LOOKED_AT_EVERY) {
                return;
            }
            *looked_at = Some(now);
        }
        self.look_again();
    }

    /// Reads the file again if it changed. What is wrong with it is logged once, and the old users stay.
    fn look_again(&self) {
        let now = Instant::now();
        let version = version(&self.path);
        if self.table.read().unwrap_or_else(PoisonError::into_inner).version == version {
            return;
        }
        let is_recent = |at: Instant| now.saturating_duration_since(at) < LOOKED_AT_EVERY;
        if lock(&self.trouble).seen.is_some_and(|(seen, at)| seen == version && is_recent(at)) {
            return;
        }
        match self.read_again() {
            Ok(table) if self.may_be_half_written(&table) => {}
            Ok(table) => self.take(table),
            Err(error) => {
                let text = error.to_string();
                let mut trouble = lock(&self.trouble);
                trouble.seen = Some((version, now));
                if trouble.said.as_ref() != Some(&text) {
                    log::error!("{text} (the users of before stay)");
                    trouble.said = Some(text);
                }
            }
        }
    }

    /// The same file as before, written a moment ago, with users missing.
    fn may_be_half_written(&self, new: &Table) -> bool {
        let old = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let (Some((old_inode, ..)), Some((inode, ..))) = (old.version, new.version) else { return false };
        let written = std::fs::metadata(&self.path).and_then(|metadata| metadata.modified());
        let is_young = written.is_ok_and(|at| at.elapsed().is_ok_and(|age| age < SETTLED_AFTER));
        inode == old_inode && is_young && old.users.keys().any(|name| !new.users.contains_key(name))
    }

    /// The length keeps name and password apart: ("ab", "c") is not ("a", "bc").
    fn tag(&self, name: &str, password: &[u8]) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.secret);
        context.update(&(name.len() as u64).to_be_bytes());
        context.update(name.as_bytes());
        context.update(password);
        context.sign()
    }

    /// Before anybody else has a turn, so that whoever waits with the same password finds it.
    fn remember(&self, name: &str, password: hmac::Tag, verifier: &Verifier, now: Instant) {
        let right = Remembered { password, verifier: verifier.clone() };
        lock(&self.remembered).insert(name.to_owned(), right, now);
    }

    fn remembers(&self, name: &str, given: &hmac::Tag, verifier: &Verifier, now: Instant) -> bool {
        lock(&self.remembered).get(name, now).is_some_and(|known| {
            known.verifier == *verifier
                && constant_time::verify_slices_are_equal(known.password.as_ref(), given.as_ref()).is_ok()
        })
    }
}

impl Directory for Arc<Users> {
    fn with_password(&self, name: &str, password: &[u8], from: LoginSource) -> PasswordCheck {
        self.verify_at(name, password, from, Instant::now())
    }

    fn is_available(&self) -> bool {
        self.look_again();
        let available = self.table.read().unwrap_or_else(PoisonError::into_inner).available;
        let mut trouble = lock(&self.trouble);
        if !available && trouble.said.is_none() {
            let text = UsersError::Nobody(self.path.clone()).to_string();
            log::error!("{text} (logins are answered 454 until then)");
            trouble.said = Some(text);
        }
        available
    }

    fn mark(&self, name: &str) -> [u8; 32] {
        self.find(name).map_or([0; 32], |user| user.verifier.stored_key)
    }

    fn with_cram_md5(&self, name: &str, challenge: &[u8], digest: &[u8; 16]) -> Option<Arc<User>> {
        self.look_again();
        let user = self.find(name);
        let nobody = CramMd5::default();
        let secret = user.as_ref().and_then(|user| user.cram_md5.as_ref());
        let right = secret.unwrap_or(&nobody).accepts(challenge, digest);
        user.filter(|user| right && user.has_cram_md5())
    }

    fn with_scram(&self, name: &str) -> Known {
        self.look_again();
        let decoy = self.decoy(name);
        let user = self.find(name);
        let verifier = user.as_ref().map_or(decoy, |user| user.verifier.clone());
        Known { user, verifier }
    }

    fn local(&self, name: &str) -> Arc<User> {
        Arc::new(local_users::rights(name, self.find(name).as_deref()))
    }

    fn has_atrn(&self) -> bool {
        self.glance(Instant::now());
        self.table.read().unwrap_or_else(PoisonError::into_inner).has_atrn
    }

    fn look_again(&self) {
        Users::look_again(self);
    }

    fn current(&self, user: &Arc<User>) -> Option<Arc<User>> {
        self.find(&user.name).filter(|now| now.verifier == user.verifier)
    }

    fn has_cram_md5(&self) -> bool {
        self.glance(Instant::now());
        self.table.read().unwrap_or_else(PoisonError::into_inner).has_cram_md5
    }
}

impl Table {
    fn read(path: &Path, passing: &DecoySecret) -> Result<Table, UsersError> {
        // The version first: a change in between is then seen as one the next time.
        let version = version(path);
        let contents = file::load(path)?;
        let available = contents.as_ref().is_some_and(|contents| !contents.is_blank);
        let contents = contents.unwrap_or_default();
        let decoys = Decoys::like(
            contents.users.iter().map(|user| &user.verifier),
            contents.decoy_secret.as_ref().unwrap_or(passing),
        );
        let has_atrn = contents.users.iter().any(|user| !user.atrn.is_empty());
        let has_cram_md5 = contents.users.iter().any(|user| user.has_cram_md5());
        let users = contents.users.into_iter().map(|user| (user.name.clone(), user)).collect();
        Ok(Table { users, decoys, has_cram_md5, has_atrn, available, version })
    }
}

fn version(path: &Path) -> Option<Version> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.ino(), metadata.size(), metadata.ctime(), metadata.ctime_nsec()))
}

/// The domains whose mail is fetched by these users.
pub fn atrn_domains_of<'u>(users: impl IntoIterator<Item = &'u Arc<User>>) -> AtrnDomains {
    let mut domains = AtrnDomains::default();
    for user in users {
        user.atrn.iter().for_each(|domain| domains.add(domain, &user.name));
    }
    domains
}

/// A random password for a new user: 20 characters, 100 bits.
///
/// # Errors
/// The system gives no random numbers.
pub fn random_password() -> Result<String, UsersError> {
    verifier::random_password().map_err(|_| UsersError::Random)
}

/// Names and verifiers belong in no log.
impl std::fmt::Debug for Users {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Users({})", self.path.display())
    }
}

/// A panic elsewhere leaves these maps whole: every change is one call.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
