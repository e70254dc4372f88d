//! Passwords and tokens for logins: fetched when they are needed, and again when a host refuses them.
//!
//! A file is read for each login, so a change counts at once. A token from `token_command` is kept until a host refuses
//! it. The command runs once at a time; threads that wait for it share its result.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::config::{SecretSource, first_line};

use crate::delivery::smtp::login::token_command;

/// How long a `token_command` may run.
const COMMAND_WAIT: Duration = Duration::from_secs(30);

/// A password or a token.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Secret(Arc<str>);

impl Secret {
    pub(super) fn expose(&self) -> &str {
        &self.0
    }
}

/// Shows nothing, for logs.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// A secret, or why there is none.
type Fetched = Result<Secret, String>;

/// All secrets in use.
#[derive(Debug, Default)]
pub(super) struct Secrets {
    /// By command; at most one for each route.
    commands: Mutex<HashMap<Vec<String>, Arc<Mutex<Printed>>>>,
}

/// The results of one command.
#[derive(Debug, Default)]
struct Printed {
    /// The token, until it is refused.
    token: Option<Secret>,
    /// When the last run ended, and its result.
    last: Option<(Instant, Fetched)>,
}

impl Secrets {
    /// The secret to log in with.
    ///
    /// # Errors
    /// Says why there is none, for the operator to read.
    pub(super) fn get(&self, source: &SecretSource, deadline: Instant) -> Fetched {
        match source {
            SecretSource::TokenCommand(command) => self.printed(command, None, deadline),
            _ => read(source),
        }
    }

    /// The secret after `refused` was refused; none where it has not changed.
    ///
    /// # Errors
    /// As [`Secrets::get`].
    pub(super) fn renew(
        &self,
        source: &SecretSource,
        refused: &Secret,
        deadline: Instant,
    ) -> Result<Option<Secret>, String> {
        let fetched = match source {
            SecretSource::TokenCommand(command) => self.printed(command, Some(refused), deadline),
            _ => read(source),
        };
        fetched.map(|secret| (secret != *refused).then_some(secret))
    }

    fn printed(&self, command: &[String], refused: Option<&Secret>, deadline: Instant) -> Fetched {
        let asked_at = Instant::now();
        let state = {
            // Nothing panics while this is held.
            let mut commands = self.commands.lock().unwrap_or_else(PoisonError::into_inner);
            commands.entry(command.to_vec()).or_default().clone()
        };
        // Held while the command runs, for a limited time: other threads wait for its result.
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(token) = state.token.as_ref().filter(|token| Some(*token) != refused) {
            return Ok(token.clone());
        }
        if let Some((ended_at, fetched)) = &state.last
            && *ended_at >= asked_at
        {
            return fetched.clone();
        }
        let wait = COMMAND_WAIT.min(deadline.saturating_duration_since(Instant::now()));
        let printed = token_command::run(command, wait).and_then(|line| token(line.trim()));
        let program = command.first().map_or("", String::as_str);
        let fetched = printed.map_err(|text| format!("token_command {program} {text}"));
        // The next login must not begin with a token that was refused already.
        state.token = fetched.as_ref().ok().filter(|token| Some(*token) != refused).cloned();
        state.last = Some((Instant::now(), fetched.clone()));
        fetched
    }
}

fn read(source: &SecretSource) -> Fetched {
    let (path, what) = match source {
        SecretSource::PasswordFile(path) => (path, "password"),
        SecretSource::TokenFile(path) => (path, "token"),
        SecretSource::TokenCommand(_) => return Err(format!("{source} is no file")),
    };
    let line = match first_line(path) {
        Ok(Some(line)) => line,
        Ok(None) => return Err(format!("{source} has no {what} in its first line")),
        Err(error) => return Err(format!("{source} cannot be read: {error}")),
    };
    if source.is_token() {
        return token(line.trim()).map_err(|text| format!("{source} {text}"));
    }
    Ok(Secret(line.into()))
}

/// RFC 6750 §2.1: printable ASCII without spaces, so no ^A, which separates the fields of XOAUTH2.
fn token(text: &str) -> Fetched {
    if text.is_empty() {
        return Err("gave no token".to_owned());
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("gave what is no token: a token has no spaces and no characters beyond ASCII".to_owned());
    }
    Ok(Secret(text.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    /// A command that appends to a file, and prints what a shell script says.
    fn command(directory: &tempfile::TempDir, script: &str) -> (SecretSource, PathBuf) {
        let runs = directory.path().join("runs");
        let script = format!("echo run >> \"$0\"; {script}");
        let words = ["/bin/sh", "-c", &script, runs.to_str().unwrap()].map(str::to_owned);
        (SecretSource::TokenCommand(words.to_vec()), runs)
    }

    fn runs(path: &PathBuf) -> usize {
        std::fs::read_to_string(path).unwrap_or_default().lines().count()
    }

    #[test]
    fn files_are_read_each_time() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (password, token) = (
            SecretSource::PasswordFile(file.path().to_owned()),
            SecretSource::TokenFile(file.path().to_owned()),
        );
        let secrets = Secrets::default();
        std::fs::write(file.path(), " old one \n").unwrap();
        let old = secrets.get(&password, soon()).unwrap();
        assert_eq!(old.expose(), " old one ", "a password may begin with a space");
        assert!(secrets.get(&token, soon()).unwrap_err().ends_with("no characters beyond ASCII"));
        assert_eq!(secrets.renew(&password, &old, soon()), Ok(None));
        std::fs::write(file.path(), " new \n").unwrap();
        assert_eq!(secrets.get(&token, soon()).unwrap().expose(), "new");
        assert_eq!(secrets.renew(&password, &old, soon()).unwrap().unwrap().expose(), " new ");
        std::fs::write(file.path(), "").unwrap();
        let error = secrets.get(&token, soon()).unwrap_err();
        assert_eq!(error, format!("token_file {} has no token in its first line", file.path().display()));
        assert_eq!(format!("{old:?}"), "Secret(…)");
    }

    #[test]
    fn what_a_command_printed_is_kept_until_it_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let (source, counted) = command(&directory, "wc -l < \"$0\" | tr -d ' '; echo second line");
        let secrets = Secrets::default();
        let first = secrets.get(&source, soon()).unwrap();
        assert_eq!((first.expose(), secrets.get(&source, soon()).unwrap().expose()), ("1", "1"));
        assert_eq!(runs(&counted), 1);
        assert_eq!(secrets.renew(&source, &first, soon()).unwrap().unwrap().expose(), "2");
        // Somebody else was refused the first one, too: there is another already.
        assert_eq!(secrets.renew(&source, &first, soon()).unwrap().unwrap().expose(), "2");
        assert_eq!(runs(&counted), 2);
    }

    #[test]
    fn a_command_that_prints_a_refused_token_again_is_asked_before_the_next_login() {
        let directory = tempfile::tempdir().unwrap();
        let (source, counted) = command(&directory, "echo same");
        let secrets = Secrets::default();
        let refused = secrets.get(&source, soon()).unwrap();
        assert_eq!(secrets.renew(&source, &refused, soon()), Ok(None));
        assert_eq!(secrets.get(&source, soon()).unwrap().expose(), "same");
        assert_eq!(runs(&counted), 3);
    }

    #[test]
    fn who_waits_for_a_command_takes_what_comes_of_it() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("fifo");
        let made = std::process::Command::new("mkfifo").arg(&fifo).status().unwrap();
        assert!(made.success());
        let (source, counted) = command(&directory, &format!("cat {}; exit 3", fifo.display()));
        let secrets = Secrets::default();
        std::thread::scope(|scope| {
            let waiting: Vec<_> =
                (0..4).map(|_| scope.spawn(|| secrets.get(&source, soon()).unwrap_err())).collect();
            // The map holds one handle, and each of them: then all have asked.
            let all_ask = || {
                let commands = secrets.commands.lock().unwrap();
                commands.values().any(|state| Arc::strong_count(state) == 5)
            };
            while !all_ask() {
                std::thread::yield_now();
            }
            // Opens once the command reads; it ends when this is closed.
            drop(std::fs::File::options().write(true).open(&fifo).unwrap());
            for thread in waiting {
                let error = thread.join().unwrap();
                assert!(error.starts_with("token_command /bin/sh ended with exit status: 3"), "{error}");
            }
        });
        assert_eq!(runs(&counted), 1);
    }
}
