//! A mail server's end of the milter protocol (version 6), as much as it takes to have a filter judge mail: one message
//! after the other on one connection, header fields and body byte for byte.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use postrider::mail::header::{fields, header_of};

/// SMFIP_HDR_LEADSPC: the blank behind a field's colon is part of its value, both ways.
const LEADING_BLANK: u32 = 0x0010_0000;
/// All that a filter may want to do to a message.
const ACTIONS: u32 = 0x1ff;
/// The body in pieces of at most this size (MILTER_CHUNK_SIZE).
const PIECE_BYTES: usize = 65_535;

/// A connection to a filter.
pub struct Milter(UnixStream);

impl Milter {
    /// For mail that comes from a stranger's host.
    pub fn greet(stream: UnixStream) -> Milter {
        let mut milter = Milter(stream);
        let options = [6, ACTIONS, LEADING_BLANK].map(u32::to_be_bytes).concat();
        let agreed = milter.ask(b'O', &options);
        assert_eq!(agreed[9..13], LEADING_BLANK.to_be_bytes(), "{agreed:?}");
        milter.ask(b'C', b"mx.test\x004\x00\x19192.0.2.1\x00");
        milter.ask(b'H', b"mx.test\x00");
        milter
    }

    /// What it would add to the header of this message, each as its name and value in one.
    pub fn added(&mut self, mail: &[u8]) -> Vec<String> {
        self.ask(b'M', b"<me@example.com>\x00");
        self.ask(b'R', b"<you@example.org>\x00");
        let header = header_of(mail);
        for field in fields(header) {
            let value = field.value().strip_suffix(b"\r\n").unwrap_or(field.value());
            // A mail server on Unix has no CR before the line end of a fold.
            let value = String::from_utf8_lossy(value).replace("\r\n", "\n");
            self.ask(b'L', &[field.name, b"\x00", value.as_bytes(), b"\x00"].concat());
        }
        self.ask(b'N', b"");
        for piece in mail.get(header.len() + 2..).unwrap_or_default().chunks(PIECE_BYTES) {
            self.ask(b'B', piece);
        }
        self.say(b'E', b"");
        let mut added = Vec::new();
        loop {
            let answer = self.answer();
            match answer[0] {
                b'h' => added.push(String::from_utf8_lossy(&answer[1..]).replace('\0', " ")),
                // Behind where it is to stand.
                b'i' => added.push(String::from_utf8_lossy(&answer[5..]).replace('\0', " ")),
                _ => return added,
            }
        }
    }

    fn ask(&mut self, command: u8, data: &[u8]) -> Vec<u8> {
        self.say(command, data);
        self.answer()
    }

    fn say(&mut self, command: u8, data: &[u8]) {
        let size = u32::try_from(data.len() + 1).unwrap().to_be_bytes();
        self.0.write_all(&[&size, &[command][..], data].concat()).unwrap();
    }

    fn answer(&mut self) -> Vec<u8> {
        let mut size = [0; 4];
        self.0.read_exact(&mut size).unwrap();
        let mut answer = vec![0; u32::from_be_bytes(size) as usize];
        self.0.read_exact(&mut answer).unwrap();
        answer
    }
}
