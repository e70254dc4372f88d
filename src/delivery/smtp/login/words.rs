//! What was said on a connection to log in, so that no host's reply brings it to anybody's eyes.
//!
//! Hosts quote commands that they do not know, and a line in echo mode says all of them again. Replies go to the log,
//! the queue, a bounce: so each passes here where it is read (`reply_reader.rs`), from the first AUTH on until the
//! connection ends, also the one that is no reply. One that repeats anything loses its text, but not its codes. What
//! it must not repeat: the secret, its base 64 (at each of the three places of a byte), each response as it was sent,
//! and the last word of a response, which is what a proof or digest is. A repetition is eight characters in a row,
//! line ends and blanks left out, in any case of letters; or all of what is shorter.

use std::borrow::Cow;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use memchr::memmem;

use crate::kit::text::printable;

/// Stands for the text of a reply that repeats anything.
const LEFT_OUT: &str = "(the host repeated the login; its words are left out)";
/// So many characters in a row are a repetition.
const RUN: usize = 8;
/// In base 64, fewer characters than these say too little, and occur in every text.
const BASE64_MIN: usize = 4;
/// Runs that are remembered: those of two tokens of 64 KiB. Past them every reply loses its text.
const RUNS_MAX: usize = 1 << 19;

/// All that was said to log in.
#[derive(Default)]
pub(in crate::delivery) struct LoginWords {
    has_begun: bool,
    /// Sorted.
    runs: Vec<[u8; RUN]>,
    /// What is shorter than a run.
    short: Vec<Vec<u8>>,
}

impl LoginWords {
    /// A login begins with this secret.
    pub(in crate::delivery) fn begin(&mut self, secret: &str) {
        self.has_begun = true;
        self.add(secret.as_bytes());
        for place in 0..3 {
            // What a byte before or behind it has a share in is of no use.
            let encoded = STANDARD_NO_PAD.encode([&[0; 2][..place], secret.as_bytes()].concat());
            let begin = [0, 2, 3][place].min(encoded.len());
            let end = encoded.len() - usize::from(!(place + secret.len()).is_multiple_of(3));
            self.add_base64(&encoded[begin..end.max(begin)]);
        }
        self.runs.sort_unstable();
        self.runs.dedup();
    }

    /// This line of base 64 is about to be sent. The name of the user is no secret.
    pub(in crate::delivery) fn respond(&mut self, line: &str, username: &str) {
        self.has_begun = true;
        self.add_base64(line);
        let response = STANDARD.decode(line).unwrap_or_default();
        let last = response.rsplit(|byte| matches!(byte, 0 | 1 | b' ' | b',')).find(|word| !word.is_empty());
        if let Some(word) = last.filter(|word| *word != username.as_bytes()) {
            self.add(word);
        }
        self.runs.sort_unstable();
        self.runs.dedup();
    }

    /// Whether anything was said.
    pub(in crate::delivery) fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// The text of a reply, as it may be shown.
    pub(in crate::delivery) fn checked<'t>(&self, text: impl Into<Cow<'t, str>>) -> Cow<'t, str> {
        let text = text.into();
        if self.are_in(&text) { LEFT_OUT.into() } else { text }
    }

    fn are_in(&self, text: &str) -> bool {
        let text = squeezed(text);
        let is_known = |run: &[u8]| self.runs.binary_search_by(|known| known.as_slice().cmp(run)).is_ok();
        self.runs.len() > RUNS_MAX
            || text.windows(RUN).any(is_known)
            || self.short.iter().any(|short| memmem::find(&text, short).is_some())
    }

    fn add_base64(&mut self, text: &str) {
        if text.len() >= BASE64_MIN {
            self.add(text.as_bytes());
        }
    }

    fn add(&mut self, said: &[u8]) {
        // As replies are read.
        let said = squeezed(&printable(said));
        match said.len() {
            0 => {}
            1..RUN => self.short.push(said),
            _ if self.runs.len() > RUNS_MAX => {}
            _ => self.runs.extend(said.windows(RUN).filter_map(|run| <[u8; RUN]>::try_from(run).ok())),
        }
    }
}

/// Shows nothing, for logs.
impl fmt::Debug for LoginWords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LoginWords(…)")
    }
}

/// Without line ends, blanks and tabs (which are shown as `\x09`), in small letters, and of both alphabets of base 64
/// (RFC 4648 §5) the first.
fn squeezed(text: &str) -> Vec<u8> {
    let text = text.to_lowercase().replace("\\x09", "");
    let bytes = text.bytes().filter(|byte| !byte.is_ascii_whitespace());
    bytes
        .map(|byte| match byte {
            b'-' => b'+',
            b'_' => b'/',
            other => other,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::mechanism::{AuthContext, Exchange, Identity, Mechanism};
    use super::*;
    use crate::delivery::smtp::reply_reader::{Malformed, ReplyReader};

    const ALL: [Mechanism; 6] = [
        Mechanism::Plain,
        Mechanism::Login,
        Mechanism::CramMd5,
        Mechanism::Scram,
        Mechanism::Xoauth2,
        Mechanism::OauthBearer,
    ];

    /// The lines of a login, as `login.rs` sends them.
    fn said(mechanism: Mechanism, secret: &str, username: &str) -> Vec<String> {
        let identity = Identity { username, secret, host: "mx.a.test", port: 587 };
        let context = AuthContext { offered: &[], token: false, tls: false, channel: None };
        let mut exchange = Exchange::begin(mechanism, identity, &context, "rOprNGfwEbeRWgbNEkqO".to_owned());
        let first = exchange.initial(4_000);
        let challenges = match mechanism {
            Mechanism::Login => vec!["Username:", "Password:"],
            Mechanism::CramMd5 => vec!["<1896.697170952@up.test>"],
            Mechanism::Scram => vec!["r=rOprNGfwEbeRWgbNEkqOmore,s=c2FsdCBzYWx0,i=4096"],
            _ => vec![],
        };
        let answers = challenges
            .iter()
            .map(|challenge| STANDARD.encode(exchange.answer(&STANDARD.encode(challenge)).unwrap()));
        first.into_iter().chain(answers).collect()
    }

    fn words(secret: &str, username: &str, lines: &[String]) -> LoginWords {
        let mut words = LoginWords::default();
        words.begin(secret);
        lines.iter().for_each(|line| words.respond(line, username));
        words
    }

    /// What a reader with these words says of the bytes: texts and why they are no reply.
    fn read(words: LoginWords, bytes: &[u8]) -> String {
        let mut reader = ReplyReader::default();
        *reader.login() = words;
        let mut said = String::new();
        for piece in bytes.chunks(1_000) {
            let filled = reader.fill(|room| -> Result<usize, ()> {
                room[..piece.len()].copy_from_slice(piece);
                Ok(piece.len())
            });
            assert_eq!(filled, Ok(piece.len()));
            loop {
                match reader.next() {
                    Ok(Some(reply)) => said += &reply.text,
                    Ok(None) => break,
                    Err(Malformed::Line(line)) => return said + &line,
                    Err(_) => return said,
                }
            }
        }
        said
    }

    /// How a host says again what it heard: in one line or many, as a reply or as it is.
    fn echo(text: &str, width: usize, form: usize) -> Vec<u8> {
        let pieces: Vec<char> = text.chars().collect();
        let pieces: Vec<String> = pieces.chunks(width).map(|piece| piece.iter().collect()).collect();
        match form {
            0 => format!("535 5.7.8 bad \"{text}\"\r\n").into_bytes(),
            1 => format!("535-bad\r\n535-{}\r\n535 end\r\n", pieces.join("\r\n535-")).into_bytes(),
            2 => format!("535 {}\r\n", pieces.join(" \t")).to_uppercase().into_bytes(),
            3 => format!("{text}\r\n").into_bytes(),
            4 => format!("535-bad\r\n5{text}\r\n").into_bytes(),
            _ => format!("535 {}\r\n", text.replace('+', "-").replace('/', "_")).into_bytes(),
        }
    }

    /// By no code of above.
    fn bare(text: &str) -> String {
        let text = text.replace("\\x09", "").to_lowercase();
        text.split_whitespace().collect::<String>().replace('-', "+").replace('_', "/")
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(120) })]

        #[test]
        fn no_run_of_what_was_said_is_in_what_a_host_says(
            secret in "[!-~]{1,60}|[ -~é]{3,20}[a-z]",
            username in "[a-z]{1,9}(@example\\.com)?",
            mechanism in prop::sample::select(&ALL[..]),
            (place, begin, length) in (0..3_usize, any::<prop::sample::Index>(), 8..80_usize),
            (width, form, which) in (1..90_usize, 0..6_usize, any::<prop::sample::Index>()),
        ) {
            let lines = said(mechanism, &secret, &username);
            let mut forms = lines.clone();
            let inner = STANDARD_NO_PAD.encode([&b"zz"[..place], secret.as_bytes()].concat());
            forms.extend([secret.clone(), inner[[0, 2, 3][place]..inner.len() - 1].to_owned()]);
            forms.retain(|form| bare(form).len() >= RUN);
            prop_assume!(!forms.is_empty());
            let whole: Vec<char> = forms[which.index(forms.len())].chars().collect();
            let begin = begin.index(whole.len());
            let part: String = whole[begin..whole.len().min(begin + length)].iter().collect();
            prop_assume!(bare(&part).len() >= RUN);
            let heard = read(words(&secret, &username, &lines), &echo(&part, width, form));
            let (heard, part) = (bare(&heard.replace(LEFT_OUT, "")), bare(&part));
            let runs: Vec<&str> = part.char_indices().filter_map(|(at, _)| part.get(at..at + RUN)).collect();
            let shown = runs.iter().find(|run| heard.contains(**run));
            prop_assert_eq!(shown, None, "{} in {}", part, heard);
        }
    }

    #[test]
    fn what_hosts_say_of_their_own_is_shown_and_a_challenge_is_not() {
        for mechanism in ALL {
            let lines = said(mechanism, "correct horse", "me@example.com");
            for text in [
                "5.7.8 Username and Password not accepted. For more: https://support.example/?p=BadCredentials",
                "authentication failed: generic failure (me@example.com)",
                "AUTH PLAIN, XOAUTH2, OAUTHBEARER and SCRAM-SHA-256 are not known at mx.a.test",
                "ok queued as 4XyZ1234ABCD",
            ] {
                let words = words("correct horse", "me@example.com", &lines);
                assert_eq!(words.checked(text), text, "{mechanism:?}");
            }
            let words = words("correct horse", "me@example.com", &lines);
            assert_eq!(read(words, b"334 cj1rb,cz1zYWx0\r\n"), "…");
        }
        // Whole, where it is short; nothing where nothing was said.
        let short = words("geheim", "me", &[]);
        assert_eq!(short.checked("no GEH eim here"), LEFT_OUT);
        assert_eq!(short.checked("no gehei"), "no gehei");
        assert_eq!(read(LoginWords::default(), b"334 cj1rb,cz1zYWx0\r\n"), "cj1rb,cz1zYWx0");
    }

    #[test]
    fn of_more_than_can_be_remembered_every_reply_loses_its_text() {
        let mut state = 1_u64;
        let mut words = LoginWords::default();
        for _ in 0..40 {
            let response: Vec<u8> = std::iter::repeat_with(|| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 56) as u8
            })
            .take(12_000)
            .collect();
            words.respond(&STANDARD.encode(response), "me");
        }
        assert!(words.runs.len() > RUNS_MAX && words.runs.len() < RUNS_MAX * 2, "{}", words.runs.len());
        assert_eq!(words.checked("any"), LEFT_OUT);
    }
}
