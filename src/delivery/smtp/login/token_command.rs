//! Runs the program that prints a token: without a shell, with little environment, limited in time and output.
//!
//! The program has its own process group, which is killed as a whole when the time is over. Processes that it leaves
//! behind when it ends by itself are left alone, and not waited for.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::kit::text::printable;

/// The environment variables that the program gets: enough to find other programs, its files and its language.
const ENVIRONMENT: [&str; 4] = ["PATH", "HOME", "LANG", "TZ"];
/// Bytes of standard output, and of standard error, that are kept; the rest is read and dropped.
const OUTPUT_BYTES_MAX: usize = 64 * 1024;
/// Characters of the last line of standard error that an error quotes.
const QUOTED_CHARS_MAX: usize = 200;
/// A word of letters and digits that is as long as this is taken for a secret; short words are language.
const SECRET_CHARS_MIN: usize = 16;
/// How often to check whether a program has ended, once its output is closed.
const TICK: Duration = Duration::from_millis(5);
/// The same while its output is open. A process that the program left behind may keep it open.
const SLOW_TICK: Duration = Duration::from_millis(50);

/// The first line that `command` (a program and its arguments) prints on its standard output.
///
/// # Errors
/// Continues the name of the program: `ended with exit status: 1: no such user`.
pub(super) fn run(command: &[String], limit: Duration) -> Result<String, String> {
    let Some((program, arguments)) = command.split_first() else { return Err("is missing".to_owned()) };
    let until = Instant::now() + limit;
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(ENVIRONMENT.into_iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(|error| format!("cannot be run: {error}"))?;
    let mut out = Output::of(child.stdout.take());
    let mut err = Output::of(child.stderr.take());
    let ended = wait(&mut child, &mut out, &mut err, until);
    if !matches!(ended, Ok(Some(_))) {
        // Not waited for yet, so its process id is not used again.
        let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
        let _ = child.wait();
    }
    match ended {
        Err(error) => Err(format!("cannot be waited for: {error}")),
        Ok(None) => Err(format!("took longer than {} s and was killed{}", limit.as_secs(), err.quoted())),
        Ok(Some(status)) if !status.success() => Err(format!("ended with {status}{}", err.quoted())),
        Ok(Some(_)) => match String::from_utf8_lossy(&out.bytes).lines().next() {
            Some(line) if !line.trim().is_empty() => Ok(line.to_owned()),
            _ => Err(format!("printed nothing on its first line{}", err.quoted())),
        },
    }
}

/// Reads the program's output until it ends; none where it has not ended by `until`.
fn wait(
    child: &mut Child,
    out: &mut Output<impl Read + AsFd>,
    err: &mut Output<impl Read + AsFd>,
    until: Instant,
) -> io::Result<Option<ExitStatus>> {
    loop {
        let ended = child.try_wait()?;
        // Read after `try_wait`: the last output of an ended program is in the pipes.
        out.read()?;
        err.read()?;
        let left = until.saturating_duration_since(Instant::now());
        if ended.is_some() || left.is_zero() {
            return Ok(ended);
        }
        let is_open = out.pipe.is_some() || err.pipe.is_some();
        let tick = left.min(if is_open { SLOW_TICK } else { TICK });
        let pipes = [out.pipe.as_ref().map(AsFd::as_fd), err.pipe.as_ref().map(AsFd::as_fd)];
        let mut watched: Vec<PollFd<'_>> =
            pipes.into_iter().flatten().map(|pipe| PollFd::from_borrowed_fd(pipe, PollFlags::IN)).collect();
        let tick = Timespec { tv_sec: 0, tv_nsec: tick.subsec_nanos().into() };
        match poll(&mut watched, Some(&tick)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// One of the program's outputs.
struct Output<P> {
    /// None once it is closed.
    pipe: Option<P>,
    bytes: Vec<u8>,
    /// The pipe does not block.
    ready: bool,
}

impl<P: Read + AsFd> Output<P> {
    fn of(pipe: Option<P>) -> Output<P> {
        Output { pipe, bytes: Vec::new(), ready: false }
    }

    /// Reads what there is, without waiting.
    fn read(&mut self) -> io::Result<()> {
        let Some(pipe) = &mut self.pipe else { return Ok(()) };
        if !self.ready {
            rustix::io::ioctl_fionbio(&*pipe, true)?;
            self.ready = true;
        }
        let mut room = [0; 4096];
        loop {
            match pipe.read(&mut room) {
                Ok(0) => {
                    self.pipe = None;
                    return Ok(());
                }
                Ok(count) => {
                    let kept = count.min(OUTPUT_BYTES_MAX - self.bytes.len());
                    self.bytes.extend_from_slice(&room[..kept]);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The last line, for the end of an error.
    fn quoted(&self) -> String {
        let text = String::from_utf8_lossy(&self.bytes);
        let last = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default().trim();
        let last: String =
            printable(without_secrets(last).as_bytes()).chars().take(QUOTED_CHARS_MAX).collect();
        if last.is_empty() { last } else { format!(": {last}") }
    }
}

/// The text with every word hidden that could be a token, a secret or a part of one: the error goes to the log, to the
/// table `attempts` and to whoever may read them. Programs like to quote what they were given.
fn without_secrets(text: &str) -> String {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "_-+~".contains(c);
    let mut out = String::new();
    let mut rest = text;
    while !rest.is_empty() {
        let word = &rest[..rest.find(|c| !is_part(c)).unwrap_or(rest.len())];
        let has = |kind: fn(&u8) -> bool| word.bytes().any(|byte| kind(&byte));
        if word.len() >= SECRET_CHARS_MIN && has(u8::is_ascii_digit) && has(u8::is_ascii_alphabetic) {
            out.push_str("[hidden]");
        } else {
            out.push_str(word);
        }
        rest = &rest[word.len()..];
        let between = &rest[..rest.find(is_part).unwrap_or(rest.len())];
        out.push_str(between);
        rest = &rest[between.len()..];
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    fn shell(script: &str, limit: Duration) -> Result<String, String> {
        run(&["/bin/sh", "-c", script].map(str::to_owned), limit)
    }

    #[test]
    fn the_first_line_is_taken_and_the_rest_dropped() {
        assert_eq!(shell("echo token; echo more; echo words >&2", LONG), Ok("token".to_owned()));
        assert_eq!(shell("printf token", LONG), Ok("token".to_owned()));
        // More than a pipe holds, and more than is kept.
        assert_eq!(
            shell("echo token; yes | head -c 1000000; yes | head -c 1000000 >&2", LONG),
            Ok("token".to_owned())
        );
    }

    #[test]
    fn a_program_that_fails_is_quoted() {
        for (script, words) in [
            (
                "echo no use; echo >&2 one; echo >&2 'no such user'; echo >&2; exit 4",
                "ended with exit status: 4: no such user",
            ),
            ("kill -9 $$", "ended with signal: 9 (SIGKILL)"),
            ("printf 'a\\342\\200\\256b' >&2; exit 1", "ended with exit status: 1: a\\xE2\\x80\\xAEb"),
            (
                "echo 'bad refresh_token=1//0gAbCdEfGhIjKlMnOpQr-s, see /usr/lib/oauth2/refresh.d' >&2; exit 1",
                "ended with exit status: 1: bad refresh_token=1//[hidden], see /usr/lib/oauth2/refresh.d",
            ),
            (
                "echo 'eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.c2lnbmF0dXJlMQAAAA' >&2; exit 1",
                "ended with exit status: 1: [hidden].[hidden].[hidden]",
            ),
            ("exit 0", "printed nothing on its first line"),
            ("echo; echo token; echo hint >&2", "printed nothing on its first line: hint"),
            ("printf 'a\\033[31mb' >&2; exit 1", "ended with exit status: 1: a\\x1B[31mb"),
        ] {
            assert_eq!(shell(script, LONG), Err(words.to_owned()), "{script}");
        }
        let missing = run(&["/nonexistent/token".to_owned()], LONG).unwrap_err();
        assert!(missing.starts_with("cannot be run: No such file"), "{missing}");
    }

    #[test]
    fn one_that_hangs_is_killed_with_all_that_it_started() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("pid");
        // A child of it that would outlive it; the program waits for it.
        let script = format!("sleep 600 & echo $! > {}; echo waiting >&2; wait", file.display());
        let began = Instant::now();
        let error = shell(&script, Duration::from_secs(1)).unwrap_err();
        assert_eq!(error, "took longer than 1 s and was killed: waiting");
        assert!(began.elapsed() < LONG);
        let pid = std::fs::read_to_string(file).unwrap();
        let gone = |_: &()| {
            !std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()))
                // A zombie has ended; whoever inherited it has not looked yet.
                .is_ok_and(|stat| !stat.contains(") Z "))
        };
        let mut tries = std::iter::repeat_n((), 1000).inspect(|()| std::thread::sleep(TICK));
        assert!(tries.any(|try_| gone(&try_)), "the child still runs");
    }

    #[test]
    fn what_it_leaves_behind_is_not_waited_for() {
        let began = Instant::now();
        assert_eq!(shell("sleep 30 & echo token", LONG), Ok("token".to_owned()));
        assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    }

    #[test]
    fn it_gets_little_of_our_environment() {
        let names = run(&["/usr/bin/env".to_owned()], LONG).unwrap();
        let name = names.split('=').next().unwrap();
        assert!(ENVIRONMENT.contains(&name), "{names}");
        let all = shell("env | cut -d= -f1 | sort | tr '\\n' ' '", LONG).unwrap();
        let strange =
            |name: &&str| !ENVIRONMENT.contains(name) && !["PWD", "OLDPWD", "SHLVL", "_"].contains(name);
        assert_eq!(all.split(' ').filter(|name| !name.is_empty()).find(strange), None, "{all}");
    }

    #[test]
    fn of_each_output_no_more_is_kept_than_may_be() {
        let mut child = Command::new("/bin/sh")
            .args(["-c", "yes | head -c 1000000; yes | head -c 1000000 >&2"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (mut out, mut err) = (Output::of(child.stdout.take()), Output::of(child.stderr.take()));
        let ended = wait(&mut child, &mut out, &mut err, Instant::now() + LONG).unwrap();
        assert!(ended.is_some_and(|status| status.success()));
        for kept in [&out.bytes, &err.bytes] {
            assert_eq!(kept.len(), OUTPUT_BYTES_MAX);
            assert!(kept.capacity() <= 2 * OUTPUT_BYTES_MAX);
        }
    }
}
