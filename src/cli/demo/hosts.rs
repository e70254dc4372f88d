//! Small receiving hosts for the demo: each takes mail, puts it off, or refuses it.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// How a host answers RCPT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    /// 250 to everything.
    Accepts,
    /// 451 the first time, 250 afterwards (greylisting).
    Greylists,
    /// 550.
    Refuses,
}

/// A host that listens until the process ends, and the mail it took.
#[derive(Clone, Default)]
pub(super) struct Host {
    mail: Arc<(Mutex<Vec<String>>, Condvar)>,
    /// A recipient was named before.
    seen_before: Arc<AtomicBool>,
}

impl Host {
    /// Listens on `address` under `name`.
    pub(super) fn start(name: &'static str, address: SocketAddr, manner: Manner) -> std::io::Result<Host> {
        let listener = TcpListener::bind(address)?;
        let host = Host::default();
        let serving = host.clone();
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            for stream in listener.incoming().flatten() {
                let serving = serving.clone();
                // An error ends that connection only.
                std::thread::spawn(move || serving.serve(&stream, name, manner));
            }
        })?;
        Ok(host)
    }

    /// Waits until it has taken `count` messages; gives all it has when time is up.
    pub(super) fn wait_for(&self, count: usize, patience: Duration) -> Vec<String> {
        let (mail, changed) = &*self.mail;
        let guard = mail.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = changed.wait_timeout_while(guard, patience, |mail| mail.len() < count);
        waited.unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    fn serve(&self, stream: &TcpStream, name: &str, manner: Manner) -> std::io::Result<()> {
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut writer = stream;
        let mut lines = BufReader::new(stream);
        let mut line = String::new();
        write!(writer, "220 {name} ESMTP\r\n")?;
        loop {
            line.clear();
            if lines.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let verb = line.get(..4).unwrap_or_default().to_ascii_uppercase();
            let reply = match verb.as_str() {
                "EHLO" => format!("250-{name}\r\n250-PIPELINING\r\n250-ENHANCEDSTATUSCODES\r\n250 8BITMIME"),
                "RCPT" => match manner {
                    Manner::Refuses => "550 5.1.1 No such user here".to_owned(),
                    Manner::Greylists if !self.seen_before.swap(true, Ordering::Relaxed) => {
                        "451 4.7.1 Greylisted, please try again in a moment".to_owned()
                    }
                    _ => "250 2.1.5 Recipient ok".to_owned(),
                },
                "DATA" if manner == Manner::Refuses => "554 5.5.1 No valid recipients".to_owned(),
                // Under pipelining DATA follows a refused RCPT at once.
                "DATA" => "354 Go ahead".to_owned(),
                "QUIT" => "221 2.0.0 Bye".to_owned(),
                _ => "250 2.0.0 Ok".to_owned(),
            };
            write!(writer, "{reply}\r\n")?;
            match reply.get(..3) {
                Some("221") => return Ok(()),
                Some("354") => {
                    let content = read_content(&mut lines)?;
                    let (mail, changed) = &*self.mail;
                    if content.is_empty() {
                        write!(writer, "554 5.5.1 No valid recipients\r\n")?;
                        continue;
                    }
                    mail.lock().unwrap_or_else(PoisonError::into_inner).push(content);
                    changed.notify_all();
                    write!(writer, "250 2.0.0 Taken\r\n")?;
                }
                _ => {}
            }
        }
    }
}

/// The content up to the lone dot, dots undoubled.
fn read_content(lines: &mut impl BufRead) -> std::io::Result<String> {
    let mut content = String::new();
    let mut line = Vec::new();
    loop {
        line.clear();
        if lines.read_until(b'\n', &mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        match line.as_slice() {
            b".\r\n" => return Ok(content),
            [b'.', rest @ ..] => content.push_str(&String::from_utf8_lossy(rest)),
            whole => content.push_str(&String::from_utf8_lossy(whole)),
        }
    }
}
