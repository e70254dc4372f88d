//! Which recipients a list shows and a change is for: a description that knows no database. Each store translates it
//! into its own terms (`sqlite/filter.rs`), texts as bound values.
//!
//! `*` in a text stands for anything, also for nothing; every other character stands for itself. Case does not matter
//! in ASCII: domains have none, and of local parts nobody means it. Users and tags are names that somebody gave: there
//! it does. What is not there (the user of a bounce) is the empty text.

use std::fmt;

use crate::mail::Domain;

use super::id::MessageId;

/// Bytes of a pattern at most: databases bound theirs too.
const PATTERN_BYTES_MAX: usize = 1_000;

/// A text in which `*` stands for anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    /// Any text.
    ///
    /// # Errors
    /// It is too long.
    pub fn parse(text: &str) -> Result<Pattern, String> {
        if text.len() > PATTERN_BYTES_MAX {
            return Err(format!("longer than {PATTERN_BYTES_MAX} bytes"));
        }
        Ok(Pattern(text.to_owned()))
    }

    /// A domain as the queue has it: lower case, labels in A-label form.
    ///
    /// # Errors
    /// No domain can match it.
    pub fn domain(text: &str) -> Result<Pattern, String> {
        if !text.contains('*') {
            let domain = Domain::parse(text).map_err(|error| error.to_string())?;
            return Pattern::parse(domain.as_str());
        }
        let label = |label: &str| match (label.is_ascii(), label.contains('*')) {
            (true, _) => Ok(label.to_ascii_lowercase()),
            (false, false) => {
                let domain = Domain::parse(label).map_err(|error| error.to_string())?;
                Ok(domain.as_str().to_owned())
            }
            (false, true) => Err(format!("write {label:?} in its ASCII form (xn--…)")),
        };
        let labels: Result<Vec<String>, String> = text.split('.').map(label).collect();
        Pattern::parse(&labels?.join("."))
    }

    /// This text somewhere in a longer one.
    ///
    /// # Errors
    /// It is empty, or too long.
    pub fn within(text: &str) -> Result<Pattern, String> {
        if text.is_empty() {
            return Err("everything contains the empty text".to_owned());
        }
        Pattern::parse(&format!("*{text}*"))
    }

    /// The only text that it matches; none where there are more.
    pub fn exact(&self) -> Option<&str> {
        (!self.0.contains('*')).then_some(self.0.as_str())
    }

    /// As it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The same for SQL's `GLOB`, to which case matters.
    pub fn glob(&self) -> String {
        self.0.replace('[', "[[]").replace('?', "[?]")
    }

    /// The same for SQL's `LIKE … ESCAPE '\'`.
    pub fn like(&self) -> String {
        let mut like = String::with_capacity(self.0.len());
        for c in self.0.chars() {
            match c {
                '*' => like.push('%'),
                '%' | '_' | '\\' => like.extend(['\\', c]),
                _ => like.push(c),
            }
        }
        like
    }
}

/// What a recipient must be to be selected: all of this. Nothing of it: all that waits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of one of these messages; none: of any.
    pub messages: Vec<MessageId>,
    /// Who authenticated; empty: nobody.
    pub user: Option<Pattern>,
    /// Envelope sender; empty: the null sender.
    pub sender: Option<Pattern>,
    /// Its address.
    pub recipient: Option<Pattern>,
    /// Its domain, as [`Pattern::domain`] gives it.
    pub domain: Option<Pattern>,
    /// The host that was asked last.
    pub mx: Option<Pattern>,
    /// Its lane, as the view `queue` shows it.
    pub lane: Option<Pattern>,
    /// The last reply; of one that waits and has none, that of its lane, which backs off.
    pub reply: Option<Pattern>,
    /// Its message came so many seconds ago or earlier.
    pub older_secs: Option<i64>,
    /// The label that the application gave its message.
    pub tag: Option<Pattern>,
    /// `queued` or `held`; of what is finished, its state or `finished` for all; none: all that waits.
    pub state: Option<String>,
    /// What holds it: one of [`super::held::HELD_BY`].
    pub held_by: Option<String>,
}

impl Filter {
    /// Recipients of one message.
    pub fn message(id: MessageId) -> Filter {
        Filter { messages: vec![id], ..Filter::default() }
    }

    /// Recipients of one domain.
    pub fn domain(domain: &Domain) -> Filter {
        Filter { domain: Some(Pattern(domain.as_str().to_owned())), ..Filter::default() }
    }

    /// All that waits.
    pub fn all() -> Filter {
        Filter::default()
    }

    /// Whether it is about history rather than about what waits.
    pub fn is_of_finished(&self) -> bool {
        !matches!(self.state.as_deref(), None | Some("queued" | "held"))
    }

    /// Of a filter on record (its `Display`) what can still be said of a message later, and whether that is all of it:
    /// not its state, age, lane, last host and last reply at that time.
    pub(super) fn recorded(text: &str) -> (Filter, bool) {
        let (mut filter, mut is_whole, mut rest) = (Filter::default(), true, text);
        while let Some((name, behind)) = rest.split_once('=') {
            let (value, behind) = recorded_value(behind);
            rest = behind.trim_start();
            let part = match name {
                "user" => &mut filter.user,
                "sender" => &mut filter.sender,
                "recipient" => &mut filter.recipient,
                "domain" => &mut filter.domain,
                "tag" => &mut filter.tag,
                _ => {
                    is_whole = false;
                    continue;
                }
            };
            *part = value.map(Pattern);
            is_whole &= part.is_some();
        }
        (filter, is_whole)
    }

    /// What was said, in words that go behind `queue list`.
    fn words(&self) -> Vec<(&'static str, String)> {
        let Filter { messages, user, sender, recipient, domain, mx, lane, reply, older_secs, tag, .. } = self;
        let patterns = [
            ("user", user),
            ("sender", sender),
            ("recipient", recipient),
            ("domain", domain),
            ("mx", mx),
            ("lane", lane),
            ("reply", reply),
            ("tag", tag),
        ];
        let patterns =
            patterns.into_iter().filter_map(|(name, pattern)| Some((name, pattern.as_ref()?.0.clone())));
        let ids = messages.iter().map(MessageId::to_string).collect::<Vec<_>>().join(",");
        let ids = (!ids.is_empty()).then_some(("id", ids));
        let older = older_secs.map(|secs| ("older", format!("{secs}s")));
        ids.into_iter()
            .chain(patterns)
            .chain(older)
            .chain(self.state.clone().map(|state| ("state", state)))
            .chain(self.held_by.clone().map(|by| ("held-by", by)))
            .collect()
    }
}

/// A value as `Display` writes it, and what stands behind it. None: it has characters that were written otherwise.
fn recorded_value(text: &str) -> (Option<String>, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let (value, rest) = text.split_once(' ').unwrap_or((text, ""));
        return (Some(value.to_owned()), rest);
    };
    let (mut value, mut letters) = (Some(String::new()), quoted.char_indices());
    while let Some((at, letter)) = letters.next() {
        let letter = match letter {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => letters.next().map(|(_, letter)| letter).filter(|letter| matches!(letter, '"' | '\\')),
            letter => Some(letter),
        };
        value = value.zip(letter).map(|(value, letter)| value + letter.encode_utf8(&mut [0; 4]));
    }
    (None, "")
}

/// What an operator can have done with what a filter selects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Due now, without the backoff of its lane (of a route's too), and a row in `kicks`. What its sender has held
    /// until a later time (RFC 4865) stays held; to send it sooner, hold it and then release it.
    Kick,
    /// Not tried until released.
    Hold,
    /// Held ones are tried again, now; whoever says so has no doubt.
    Release,
    /// Taken out, to `history` as `removed`; nobody is told. One that is being delivered at this moment may still
    /// arrive, and then history says so.
    Remove,
    /// Returned to the sender, held ones too: by the relay that runs, or the next that starts, which alone can write
    /// the bounce. One that is being delivered at this moment may still arrive.
    Bounce,
}

impl Action {
    /// As the command line, the log and `operator_log` have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Action::Kick => "kick",
            Action::Hold => "hold",
            Action::Release => "release",
            Action::Remove => "remove",
            Action::Bounce => "bounce",
        }
    }
}

/// As the log and the table `operator_log` have it: a queue id, a domain, `all`, or what was asked for.
impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = self.words();
        match words.as_slice() {
            [] => f.write_str("all"),
            [("id", value)] => f.write_str(value),
            [("domain", value)] if !value.contains('*') => f.write_str(value),
            _ => {
                let word =
                    |(name, value): &(&str, String)| match value.is_empty() || value.contains([' ', '"']) {
                        true => format!("{name}={value:?}"),
                        false => format!("{name}={value}"),
                    };
                f.write_str(&words.iter().map(word).collect::<Vec<_>>().join(" "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_on_record_is_read_as_it_was_meant() {
        let pattern = |text: &str| Some(Pattern::parse(text).unwrap());
        for (filter, is_whole) in [
            (Filter { user: pattern("app"), sender: pattern(""), ..Filter::default() }, true),
            (Filter { user: pattern("a b\"\\c"), tag: pattern("x*"), ..Filter::default() }, true),
            (Filter { domain: pattern("*.test"), recipient: pattern("y=z@b"), ..Filter::default() }, true),
            (Filter { user: pattern("app"), reply: pattern("user=other 4.7.1"), ..Filter::default() }, false),
            (Filter { user: pattern("app"), older_secs: Some(60), ..Filter::default() }, false),
            (Filter { state: Some("held".to_owned()), ..Filter::default() }, false),
        ] {
            let (recorded, whole) = Filter::recorded(&filter.to_string());
            let kept = Filter { reply: None, older_secs: None, state: None, ..filter.clone() };
            assert_eq!((recorded, whole), (kept, is_whole), "{filter}");
        }
        let odd = Filter { user: pattern("a \n"), ..Filter::default() };
        assert_eq!(Filter::recorded(&odd.to_string()), (Filter::default(), false));
        assert!(!Filter::recorded("user=\"").1);
    }

    #[test]
    fn what_sql_reads_as_a_wildcard_stands_for_itself() {
        for (text, like) in
            [("*.example", "%.example"), ("50%_off\\", "50\\%\\_off\\\\"), ("", ""), ("**", "%%")]
        {
            assert_eq!(Pattern::parse(text).unwrap().like(), like, "{text}");
        }
        assert!(Pattern::parse(&"a".repeat(PATTERN_BYTES_MAX + 1)).is_err());
        assert!(Pattern::within("").is_err());
    }

    #[test]
    fn what_glob_reads_as_a_wildcard_stands_for_itself() {
        for (text, glob) in [("a?b*", "a[?]b*"), ("[a-z]", "[[]a-z]"), ("", "")] {
            assert_eq!(Pattern::parse(text).unwrap().glob(), glob, "{text}");
        }
    }

    #[test]
    fn a_domain_is_looked_for_as_the_queue_has_it() {
        for (text, wanted) in [
            ("Example.COM.", Ok("example.com")),
            ("B\u{fc}cher.example", Ok("xn--bcher-kva.example")),
            ("*.B\u{fc}cher.example", Ok("*.xn--bcher-kva.example")),
            ("*", Ok("*")),
            ("a.*.Test", Ok("a.*.test")),
            ("b\u{fc}*.example", Err(())),
            ("no domain", Err(())),
        ] {
            let found = Pattern::domain(text);
            assert_eq!(found.as_ref().map(Pattern::as_str).map_err(|_| ()), wanted, "{text}: {found:?}");
        }
    }

    #[test]
    fn a_filter_is_named_as_it_was_asked_for() {
        let text = |text: &str| Some(Pattern::parse(text).unwrap());
        let id = MessageId(1);
        for (filter, wanted) in [
            (Filter::all(), "all".to_owned()),
            (Filter::message(id), id.to_string()),
            (Filter { domain: text("a.test"), ..Filter::all() }, "a.test".to_owned()),
            (Filter { domain: text("*.test"), ..Filter::all() }, "domain=*.test".to_owned()),
            (
                Filter { user: text(""), reply: text("*not now*"), older_secs: Some(60), ..Filter::all() },
                "user=\"\" reply=\"*not now*\" older=60s".to_owned(),
            ),
        ] {
            assert_eq!(filter.to_string(), wanted);
        }
    }
}
