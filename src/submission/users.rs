//! Who may log in: the users file in memory, and passwords checked against it.
//!
//! A wrong name costs the same work as a wrong password, so that nobody learns names by the
//! clock. A right password is remembered for [`REMEMBERED`] (as an HMAC under a secret that
//! never leaves this process), so that an application that connects for each message pays for
//! the hashing once. Only so many hashes run at once, so that a flood of wrong passwords cannot
//! take the processors from the mail. (SCRAM and CRAM-MD5 cost microseconds here and need neither:
//! in SCRAM the client does the hashing.)
//!
//! The file is read again when it changes: a login looks whether it did, so `postrider user add` counts at once.

mod decoy;
mod error;
mod file;
mod user;
mod verifier;

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use crate::config::AtrnDomains;
use crate::kit::bounded::TtlMap;
use crate::sasl::CramMd5;
use aws_lc_rs::{constant_time, hmac, rand};

use decoy::{DecoySecret, Decoys};
pub(super) use error::NAME_CHARS_MAX;
pub use error::UsersError;
pub use file::{add, list, remove};
pub use user::{Attributes, User};
pub(super) use verifier::Verifier;

/// How long a right password is taken without hashing it again.
pub const REMEMBERED: Duration = Duration::from_secs(300);
/// Users whose password is remembered at once.
const REMEMBERED_USERS_MAX: usize = 10_000;
/// How often the file is looked at, at most, where nobody logs in.
const LOOKED_AT_EVERY: Duration = Duration::from_secs(1);

/// The users, ready to be asked by every session.
pub struct Users {
    path: PathBuf,
    table: RwLock<Table>,
    remembered: Mutex<TtlMap<String, Remembered, Instant>>,
    /// Keys the remembered passwords; random, made at start.
    secret: hmac::Key,
    /// Makes decoys where the file has no secret for them; they change with the next start.
    passing: DecoySecret,
    hashing: Turnstile,
    looked_at: Mutex<Option<Instant>>,
}

struct Table {
    users: HashMap<String, Arc<User>>,
    decoys: Decoys,
    has_cram_md5: bool,
    has_atrn: bool,
    version: Option<Version>,
}

/// What a session asks about users.
pub(super) trait Directory: Send + Sync {
    /// The user, if this is the password. May block for a hash.
    fn with_password(&self, name: &str, password: &[u8]) -> Option<Arc<User>>;
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
    /// The user as they are now; none where there is none of that name, or one with another password.
    fn current(&self, user: &Arc<User>) -> Option<Arc<User>>;
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
    /// Reads the file; one that does not exist has no users.
    ///
    /// # Errors
    /// The file cannot be read or a line breaks its form; or the system gives no random numbers.
    pub fn load(path: &Path) -> Result<Users, UsersError> {
        let secret = hmac::Key::generate(hmac::HMAC_SHA256, &rand::SystemRandom::new())
            .map_err(|_| UsersError::Random)?;
        let passing = DecoySecret::new().map_err(|_| UsersError::Random)?;
        // Half of the processors, so that deliveries and other sessions always have the rest.
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Users {
            path: path.to_owned(),
            table: RwLock::new(Table::read(path, &passing)?),
            remembered: Mutex::new(TtlMap::new(REMEMBERED_USERS_MAX, REMEMBERED)),
            secret,
            passing,
            hashing: Turnstile::new((processors / 2).max(1)),
            looked_at: Mutex::new(None),
        })
    }

    /// The user, if name and password are right. Blocks for one hash (some 10 ms, and the wait for its turn)
    /// unless the same password was right within [`REMEMBERED`].
    pub fn verify(&self, name: &str, password: &[u8]) -> Option<Arc<User>> {
        self.verify_at(name, password, Instant::now())
    }

    /// [`Users::verify`] with the time as a parameter.
    fn verify_at(&self, name: &str, password: &[u8], now: Instant) -> Option<Arc<User>> {
        self.look_again();
        let given = self.tag(name, password);
        let user = self.find(name);
        let verifier = match &user {
            Some(user) => user.verifier.clone(),
            None => self.decoy(name),
        };
        if user.is_some() && self.remembers(name, &given, &verifier, now) {
            return user;
        }
        let right = self.hashing.pass(|| verifier.accepts(password));
        let user = user.filter(|_| right)?;
        lock(&self.remembered).insert(name.to_owned(), Remembered { password: given, verifier }, now);
        Some(user)
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
    /// As [`Users::load`]; the users stay what they were.
    pub fn reload(&self) -> Result<(), UsersError> {
        let table = Table::read(&self.path, &self.passing)?;
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = table;
        Ok(())
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

    /// Reads the file again if it changed. A broken one is logged once a change, and the old users stay.
    fn look_again(&self) {
        let version = version(&self.path);
        if self.table.read().unwrap_or_else(PoisonError::into_inner).version == version {
            return;
        }
        if let Err(error) = self.reload() {
            log::error!("{error} (the users of before stay)");
            self.table.write().unwrap_or_else(PoisonError::into_inner).version = version;
        }
    }

    /// The length keeps name and password apart: ("ab", "c") is not ("a", "bc").
    fn tag(&self, name: &str, password: &[u8]) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.secret);
        context.update(&(name.len() as u64).to_be_bytes());
        context.update(name.as_bytes());
        context.update(password);
        context.sign()
    }

    fn remembers(&self, name: &str, given: &hmac::Tag, verifier: &Verifier, now: Instant) -> bool {
        lock(&self.remembered).get(name, now).is_some_and(|known| {
            known.verifier == *verifier
                && constant_time::verify_slices_are_equal(known.password.as_ref(), given.as_ref()).is_ok()
        })
    }
}

impl Directory for Arc<Users> {
    fn with_password(&self, name: &str, password: &[u8]) -> Option<Arc<User>> {
        self.verify(name, password)
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
        let decoys = Decoys::like(
            contents.users.iter().map(|user| &user.verifier),
            contents.decoy_secret.as_ref().unwrap_or(passing),
        );
        let has_atrn = contents.users.iter().any(|user| !user.atrn.is_empty());
        let has_cram_md5 = contents.users.iter().any(|user| user.has_cram_md5());
        let users = contents.users.into_iter().map(|user| (user.name.clone(), user)).collect();
        Ok(Table { users, decoys, has_cram_md5, has_atrn, version })
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

/// Runs a fixed number of hashes at once; the others wait.
struct Turnstile {
    free: Mutex<usize>,
    freed: Condvar,
}

impl Turnstile {
    fn new(places: usize) -> Turnstile {
        Turnstile { free: Mutex::new(places), freed: Condvar::new() }
    }

    fn pass<T>(&self, work: impl FnOnce() -> T) -> T {
        let free = lock(&self.free);
        let mut free = self.freed.wait_while(free, |free| *free == 0).unwrap_or_else(PoisonError::into_inner);
        *free -= 1;
        drop(free);
        // Hashing does not panic; if it ever did, its place would be lost with its session.
        let result = work();
        *lock(&self.free) += 1;
        self.freed.notify_one();
        result
    }
}

#[cfg(test)]
mod tests;
