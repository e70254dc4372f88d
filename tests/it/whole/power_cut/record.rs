//! What strace wrote about a relay, read into what happened to the files of its queue.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::path::Path;

/// What happened, in the order in which it was over; files by their names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    Created(String),
    Write {
        name: String,
        at: usize,
        data: Vec<u8>,
    },
    Truncate {
        name: String,
        length: usize,
    },
    Sync(String),
    Unlink(String),
    /// The folder was synced: the names in it last.
    SyncFolder,
    /// A reply with this queue id began to leave.
    Acknowledged(String),
}

/// strace's arguments for a record of all that [`read`] understands.
pub(super) fn strace(file: &Path) -> [String; 7] {
    let calls = "openat,pwrite64,write,ftruncate,fallocate,fsync,fdatasync,unlink,rename,sendto";
    let file = file.to_str().unwrap();
    ["-y", "-xx", "-s", "1000000", "-o", file, &format!("--trace={calls}")].map(str::to_owned)
}

/// Whether the record ends with the end of the process.
pub(super) fn is_complete(file: &Path) -> bool {
    let mut end = String::new();
    let mut file = std::fs::File::open(file).unwrap();
    let length = file.metadata().unwrap().len();
    file.seek(SeekFrom::Start(length.saturating_sub(40))).unwrap();
    file.read_to_string(&mut end).is_ok() && end.ends_with("+++\n")
}

/// The events of a record that are about the queue whose database is this file.
pub(super) fn read(file: &Path, database: &Path) -> Vec<Event> {
    let mut reader = Reader {
        folder: database.parent().unwrap().to_str().unwrap().to_owned(),
        database: database.file_name().unwrap().to_str().unwrap().to_owned(),
        unfinished: HashMap::new(),
        events: Vec::new(),
    };
    for line in BufReader::new(std::fs::File::open(file).unwrap()).lines() {
        reader.line(&line.unwrap());
    }
    reader.events
}

struct Reader {
    folder: String,
    database: String,
    /// Calls that have begun, by thread.
    unfinished: HashMap<String, String>,
    events: Vec<Event>,
}

impl Reader {
    /// `THREAD call(arguments) = result`, or one half of it where another thread came between.
    fn line(&mut self, line: &str) {
        let (thread, rest) = line.split_once(' ').expect("a thread and a call");
        let rest = rest.trim_start();
        if let Some(begun) = rest.strip_suffix(" <unfinished ...>") {
            self.begins(begun);
            self.unfinished.insert(thread.to_owned(), begun.to_owned());
        } else if rest.starts_with("<... ") {
            let end = rest.split_once(" resumed>").expect("the end of a call").1;
            let begun = self.unfinished.remove(thread).expect("a call that had begun");
            self.ends(&(begun + end));
        } else if !rest.starts_with("+++") && !rest.starts_with("---") {
            self.begins(rest);
            self.ends(rest);
        }
    }

    /// A reply counts from the moment it may leave.
    fn begins(&mut self, call: &str) {
        if let Some(arguments) = call.strip_prefix("sendto(") {
            let said = String::from_utf8_lossy(&bytes(quoted(arguments))).into_owned();
            if let Some(id) = acknowledged(&said) {
                self.events.push(Event::Acknowledged(id.to_owned()));
            }
        }
    }

    /// What is done counts from the moment it is over.
    fn ends(&mut self, call: &str) {
        let Some((name, rest)) = call.split_once('(') else { panic!("no call: {call}") };
        let Some((arguments, result)) = rest.rsplit_once(" = ") else { panic!("no result: {call}") };
        let arguments = arguments.trim_end().strip_suffix(')').unwrap_or(arguments);
        // Refused, or the process was killed in it: then it has not happened, as far as anybody was told.
        if result.starts_with('-') || result.starts_with('?') {
            return;
        }
        let number = |nth: usize| -> usize {
            let number = arguments.rsplit(", ").nth(nth).and_then(|number| number.trim().parse().ok());
            number.unwrap_or_else(|| panic!("no number: {call:.200}"))
        };
        match name {
            "openat" if arguments.contains("O_CREAT") => {
                if let Some(file) = self.file(&path(quoted(arguments))) {
                    self.events.push(Event::Created(file));
                }
            }
            "pwrite64" => {
                if let Some(name) = self.open_file(arguments) {
                    let mut data = bytes(quoted(arguments));
                    data.truncate(result.parse().expect("how many bytes were written"));
                    self.events.push(Event::Write { name, at: number(0), data });
                }
            }
            "ftruncate" => {
                if let Some(name) = self.open_file(arguments) {
                    self.events.push(Event::Truncate { name, length: number(0) });
                }
            }
            "fsync" | "fdatasync" => {
                if path(descriptor(arguments)) == self.folder {
                    self.events.push(Event::SyncFolder);
                } else if let Some(name) = self.open_file(arguments) {
                    self.events.push(Event::Sync(name));
                }
            }
            "unlink" => {
                if let Some(file) = self.file(&path(quoted(arguments))) {
                    self.events.push(Event::Unlink(file));
                }
            }
            "write" | "fallocate" | "rename" => {
                let touches = self.open_file(arguments).or_else(|| self.file(&path(quoted(arguments))));
                assert_eq!(touches, None, "not understood: {call:.200}");
            }
            _ => {}
        }
    }

    fn open_file(&self, arguments: &str) -> Option<String> {
        self.file(&path(descriptor(arguments)))
    }

    /// The name of a file that makes up the database; the shared memory is no part of it, nor is the lock.
    fn file(&self, path: &str) -> Option<String> {
        let name = path.strip_prefix(&self.folder)?.strip_prefix('/')?;
        let suffix = name.strip_prefix(&self.database)?;
        ["", "-wal", "-journal"].contains(&suffix).then(|| name.to_owned())
    }
}

/// The queue id of `250 2.0.0 … ID`, the answer to the end of a message.
fn acknowledged(said: &str) -> Option<&str> {
    let id = said.strip_prefix("250 2.")?.strip_suffix("\r\n")?.split_whitespace().last()?;
    let is_id = id.len() == 11 && id.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit());
    is_id.then_some(id)
}

/// What stands between the first quotes.
fn quoted(arguments: &str) -> &str {
    arguments.split('"').nth(1).unwrap_or("")
}

/// What `-y` says of the descriptor, which is the first argument.
fn descriptor(arguments: &str) -> &str {
    let described = arguments.split_once('<').map_or("", |(_, described)| described);
    described.split_once('>').map_or("", |(described, _)| described)
}

fn path(hex: &str) -> String {
    String::from_utf8_lossy(&bytes(hex)).into_owned()
}

/// `\x00\x1f…` as bytes; empty where it is written another way.
fn bytes(hex: &str) -> Vec<u8> {
    let digit = |byte: u8| (byte as char).to_digit(16).unwrap_or(0) as u8;
    hex.as_bytes().chunks_exact(4).map(|code| digit(code[2]) << 4 | digit(code[3])).collect()
}

#[test]
fn halves_of_a_call_belong_together() {
    let folder = tempfile::tempdir().unwrap();
    let hex = |text: &str| text.bytes().map(|byte| format!("\\x{byte:02x}")).collect::<String>();
    let (wal, reply) = (hex("/q/queue.db-wal"), hex("250 2.0.0 Queued as 0ABCDEFGH12\r\n"));
    let text = format!(
        "1 pwrite64(9<{wal}>, \"{}\", 2, 8 <unfinished ...>\n2 sendto(4<{}>, \"{reply}\", 33, 0, NULL, 0) = 33\n\
         1 <... pwrite64 resumed>) = 2\n1 fsync(9<{wal}>) = -1 EIO (Input/output error) (INJECTED)\n1 +++ exited with 0 +++\n",
        hex("ab"),
        hex("socket:[1]"),
    );
    std::fs::write(folder.path().join("trace"), text).unwrap();
    let events = read(&folder.path().join("trace"), Path::new("/q/queue.db"));
    let written = Event::Write { name: "queue.db-wal".to_owned(), at: 8, data: b"ab".to_vec() };
    assert_eq!(events, [Event::Acknowledged("0ABCDEFGH12".to_owned()), written]);
    assert!(is_complete(&folder.path().join("trace")));
}
