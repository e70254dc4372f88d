//! What is said on a connection: for the debug log, and for the record of an attempt that fails.
//!
//! Each line has its milliseconds since the connection stood. Of the content there is only its length, and what is
//! said to log in is shown as "…" (`login.rs`, `login/words.rs`). Of a connection that carries several messages it has
//! the opening and the message that is on its way. It is written into buffers that the connection keeps, for every
//! message: a delivery that goes well costs the copying of some short lines, and no text is made of it.

use std::fmt::{self, Write as _};
use std::time::Instant;

use crate::kit::text::printable;
use crate::mail::reply::first_bytes;
use crate::mail::{Enhanced, Reply};

/// Bytes of all that is kept of one connection.
pub(in crate::delivery) const CONNECTION_BYTES_MAX: usize = 7 * 1024;
/// Bytes of one line. The longest that a host may say has 512 (RFC 5321 §4.5.3.1.5).
const LINE_BYTES_MAX: usize = 512;
/// Bytes after which the beginning of a part takes no further line, and bytes of its end.
const OPENING: Room = Room { head: 600, tail: 1_400 };
const MESSAGE: Room = Room { head: 1_200, tail: 2_400 };

/// Both sides of a connection, so far.
#[derive(Debug)]
pub(in crate::delivery) struct Dialogue {
    /// For the debug log.
    host: String,
    began: Instant,
    opening: Part,
    message: Part,
    /// Messages before the one that is on its way; none: it is being opened.
    messages_before: Option<usize>,
}

impl Dialogue {
    /// Of a connection to this host, which stands.
    pub(in crate::delivery) fn new(host: String) -> Dialogue {
        let (opening, message) = (Part::of(OPENING), Part::of(MESSAGE));
        Dialogue { host, began: Instant::now(), opening, message, messages_before: None }
    }

    /// When the connection stood.
    pub(in crate::delivery) fn began(&self) -> Instant {
        self.began
    }

    /// What follows is about the next message.
    pub(in crate::delivery) fn begin_message(&mut self) {
        self.message.clear();
        self.messages_before = Some(self.messages_before.map_or(0, |before| before + 1));
    }

    /// We said this.
    pub(in crate::delivery) fn sent(&mut self, line: &str) {
        log::debug!("{} < {line}", self.host);
        self.write("C: ", None, line);
    }

    /// The host said this.
    pub(in crate::delivery) fn heard(&mut self, reply: &Reply) {
        log::debug!("{} > {reply}", self.host);
        let mut lines = reply.text.split('\n').peekable();
        while let Some(line) = lines.next() {
            let dash = if lines.peek().is_some() { '-' } else { ' ' };
            self.write("S: ", Some((reply.code, dash, reply.enhanced)), line);
        }
    }

    /// What happened beside what was said.
    pub(in crate::delivery) fn note(&mut self, what: fmt::Arguments<'_>) {
        // Errors of TLS have names out of the host's certificate.
        self.write("-- ", None, &printable(what.to_string().as_bytes()));
    }

    fn write(&mut self, whose: &str, codes: Option<(u16, char, Option<Enhanced>)>, line: &str) {
        let since = self.began.elapsed().as_millis();
        let part = if self.messages_before.is_none() { &mut self.opening } else { &mut self.message };
        part.write(since, whose, codes, line);
    }

    /// All that is kept of it, in lines.
    pub(in crate::delivery) fn text(&self) -> String {
        let mut text = String::new();
        self.opening.append_to(&mut text);
        if let Some(before @ 1..) = self.messages_before {
            let _ = writeln!(text, "         -- left out: {before} messages that it carried before this one");
        }
        self.message.append_to(&mut text);
        text
    }
}

/// How much of a part is kept.
#[derive(Debug, Clone, Copy)]
struct Room {
    head: usize,
    tail: usize,
}

/// A part of a dialogue: its beginning and its end, and how many lines between them are left out.
#[derive(Debug)]
struct Part {
    room: Room,
    head: String,
    tail: String,
    left_out: usize,
}

impl Part {
    fn of(room: Room) -> Part {
        Part { room, head: String::new(), tail: String::new(), left_out: 0 }
    }

    fn clear(&mut self) {
        self.head.clear();
        self.tail.clear();
        self.left_out = 0;
    }

    fn write(&mut self, since: u128, whose: &str, codes: Option<(u16, char, Option<Enhanced>)>, line: &str) {
        let is_head = self.tail.is_empty() && self.left_out == 0 && self.head.len() < self.room.head;
        let into = if is_head { &mut self.head } else { &mut self.tail };
        if into.capacity() == 0 {
            // What most messages take.
            into.reserve(self.room.head);
        }
        // Writing to a String cannot fail.
        let _ = write!(into, "{since:>7}  ");
        into.push_str(whose);
        if let Some((code, dash, enhanced)) = codes {
            let _ = write!(into, "{code:03}{dash}");
            if let Some(enhanced) = enhanced {
                let _ = write!(into, "{enhanced} ");
            }
        }
        push_shortened(into, line);
        into.push('\n');
        if self.tail.len() > self.room.tail {
            // Half of it at once: each line is moved once at most, however many there are.
            let cut = self.tail.len() - self.room.tail / 2;
            let end = self.tail.as_bytes()[cut..].iter().position(|byte| *byte == b'\n');
            let end = end.map_or(self.tail.len(), |at| cut + at + 1);
            self.left_out += self.tail[..end].lines().count();
            self.tail.drain(..end);
        }
    }

    fn append_to(&self, text: &mut String) {
        text.push_str(&self.head);
        if self.left_out > 0 {
            let _ = writeln!(text, "         -- left out: {} lines", self.left_out);
        }
        text.push_str(&self.tail);
    }
}

/// Without its middle where it is too long.
fn push_shortened(text: &mut String, line: &str) {
    if line.len() <= LINE_BYTES_MAX {
        return text.push_str(line);
    }
    let head = first_bytes(line, 300).len();
    let is_boundary = |at: &usize| line.is_char_boundary(*at);
    let tail = (line.len() - 150..line.len()).find(is_boundary).unwrap_or(line.len());
    let _ = write!(text, "{} [left out: {} bytes] {}", &line[..head], tail - head, &line[tail..]);
}

/// What was said in an attempt, on one connection after the other. Where that is much, only the last ones are kept.
#[derive(Debug, Default)]
pub(in crate::delivery) struct AttemptDialogue {
    connections: Vec<String>,
    left_out: usize,
}

/// Bytes of what is kept of an attempt.
pub(in crate::delivery) const DIALOGUE_BYTES_MAX: usize = 8 * 1024;
/// Of these, for the heading of each connection (names of hosts have 255 bytes) and what is left out.
const HEADING_BYTES_MAX: usize = DIALOGUE_BYTES_MAX - CONNECTION_BYTES_MAX - 100;

impl AttemptDialogue {
    /// What was said on a connection, or that there was none: a heading and lines.
    pub(in crate::delivery) fn add(&mut self, heading: &str, lines: &str) {
        let heading = first_bytes(heading, HEADING_BYTES_MAX);
        self.connections.push(format!("{heading}\n{lines}"));
        let bytes = |all: &[String]| all.iter().map(String::len).sum::<usize>();
        while bytes(&self.connections) > DIALOGUE_BYTES_MAX - 100 && self.connections.len() > 1 {
            self.connections.remove(0);
            self.left_out += 1;
        }
    }

    /// All of it; none where nothing was said.
    pub(in crate::delivery) fn text(self) -> Option<String> {
        if self.connections.is_empty() {
            return None;
        }
        let before = match self.left_out {
            0 => String::new(),
            count => format!("-- left out: {count} earlier connections of this attempt\n"),
        };
        Some(before + &self.connections.concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::Enhanced;

    /// Without the times.
    fn lines(dialogue: &Dialogue) -> Vec<String> {
        dialogue.text().lines().map(|line| line[9..].to_owned()).collect()
    }

    fn opened() -> Dialogue {
        let mut dialogue = Dialogue::new("mx.a.test".to_owned());
        dialogue.heard(&Reply::bare(220, "mx.a.test ESMTP"));
        dialogue.sent("EHLO relay.test");
        dialogue.heard(&Reply::bare(250, "mx.a.test\nPIPELINING"));
        dialogue
    }

    #[test]
    fn of_a_connection_its_opening_and_this_message_are_kept_and_what_is_between_is_said() {
        let mut dialogue = opened();
        let opening =
            ["S: 220 mx.a.test ESMTP", "C: EHLO relay.test", "S: 250-mx.a.test", "S: 250 PIPELINING"];
        assert_eq!(lines(&dialogue), opening);
        for number in 0..3 {
            dialogue.begin_message();
            dialogue.sent(&format!("MAIL FROM:<{number}@b.test>"));
            dialogue.heard(&Reply::new(451, Enhanced(4, 7, 1), "later").from_remote());
        }
        let last = ["-- left out: 2 messages that it carried before this one", "C: MAIL FROM:<2@b.test>"];
        let all = [&opening[..], &last, &["S: 451 4.7.1 later"]].concat();
        assert_eq!(lines(&dialogue), all);
    }

    #[test]
    fn much_is_shortened_in_the_middle_and_it_says_so() {
        let mut dialogue = opened();
        dialogue.begin_message();
        for number in 0..1_000 {
            dialogue.sent(&format!("RCPT TO:<{number}@a.test>"));
        }
        dialogue.heard(&Reply::new(550, Enhanced(5, 7, 1), "").with_text("\u{e9}".repeat(2_000)));
        let text = dialogue.text();
        assert!(text.contains("RCPT TO:<0@a.test>") && text.contains("RCPT TO:<999@a.test>"), "{text}");
        assert!(!text.contains("RCPT TO:<500@a.test>"), "{text}");
        let kept = text.lines().filter(|line| line.contains("RCPT")).count();
        let left_out: Vec<usize> = text
            .lines()
            .filter_map(|line| line.split_once("left out: ")?.1.strip_suffix(" lines")?.parse().ok())
            .collect();
        assert_eq!(left_out, [1_000 - kept]);
        assert!(text.contains("\u{e9} [left out: 3550 bytes] \u{e9}"), "{text}");
        // One message further it is forgotten.
        dialogue.begin_message();
        assert!(!dialogue.text().contains("RCPT"));
    }

    #[test]
    fn what_a_host_puts_into_an_error_makes_no_line() {
        let mut dialogue = Dialogue::new("mx.a.test".to_owned());
        dialogue.note(format_args!("TLS: {}", "a\n      3  S: 250 ok\u{1b}[2J"));
        let text = dialogue.text();
        assert!(text.lines().count() == 1 && text.ends_with("a\\n      3  S: 250 ok\\x1B[2J\n"), "{text:?}");
    }

    #[test]
    fn however_much_is_said_so_much_is_kept_and_no_more() {
        let long = "\u{1f4ee}".repeat(16_000);
        let mut dialogue = Dialogue::new("mx.a.test".to_owned());
        let mut attempt = AttemptDialogue::default();
        for _ in 0..20 {
            for length in [0, 1, 20, 400, 511, 512, 513, 600, 60_000].repeat(20) {
                let line = first_bytes(&long, length);
                dialogue.sent(line);
                dialogue
                    .heard(&Reply::new(250, Enhanced(2, 255, 255), "").with_text(format!("{line}\n{line}")));
                assert!(dialogue.text().len() <= CONNECTION_BYTES_MAX, "{}", dialogue.text().len());
            }
            dialogue.begin_message();
            attempt.add(&long[..60_000], &dialogue.text());
        }
        let text = attempt.text().unwrap();
        assert!(text.len() <= DIALOGUE_BYTES_MAX, "{}", text.len());
        assert!(text.starts_with("-- left out: "), "{text}");
        assert_eq!(AttemptDialogue::default().text(), None);
    }
}
