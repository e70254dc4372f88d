//! A line of the log with its fields: the text line and the JSON object are both made of the same values.
//!
//! The text is a template in which `{name}` stands for the next value. `{name: words $ words}` is left out where there
//! is no value, and written with the value in place of `$` where there is one. An event goes the way of every line,
//! through the crate `log`: the text as the arguments of the record, name, queue id and fields as its key-values
//! (`event`, `queue_id`, then the fields by their names).

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use log::{Level, Record, kv};

use crate::kit::mask;
use crate::kit::text::is_unseen;

/// Whether local parts are masked in what is logged.
static MASKED: AtomicBool = AtomicBool::new(false);

/// Has local parts masked from now on, or not.
pub fn mask_addresses(on: bool) {
    MASKED.store(on, Ordering::Relaxed);
}

/// Whether they are.
pub fn is_masked() -> bool {
    MASKED.load(Ordering::Relaxed)
}

/// What a field holds.
#[derive(Clone, Copy)]
pub enum Value<'a> {
    /// There is no such field, and its part of the text is left out.
    Absent,
    /// Known to be none: this word in the text, `null` in JSON.
    None(&'static str),
    /// A number.
    Number(i64),
    /// A number of seconds, `30s` in the text.
    Secs(i64),
    /// An address; None is the null sender.
    Address(Option<&'a str>),
    /// Several: the part of the text once for each; in JSON with a space between them, which no address has here.
    Addresses(&'a [&'a str]),
    /// A Message-ID of a header, written as an address is, and none.
    HeaderId(&'a str),
    /// Words of our own or that were looked at: names, codes, host names, ids.
    Own(&'a dyn fmt::Display),
    /// What others said, or wrote with addresses in it.
    Foreign(&'a dyn fmt::Display),
}

impl<'a> Value<'a> {
    /// What it holds of them.
    fn addresses(&self) -> &[&'a str] {
        match self {
            Value::Address(Some(address)) => std::slice::from_ref(address),
            Value::Addresses(addresses) => addresses,
            _ => &[],
        }
    }
}

/// As it stands in a text line, without what the template puts around it, and as a string in JSON.
impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Absent => Ok(()),
            Value::None(word) => f.write_str(word),
            Value::Number(number) => number.fmt(f),
            Value::Secs(secs) => write!(f, "{secs}s"),
            Value::Address(address) => Shown(address.unwrap_or_default()).fmt(f),
            Value::HeaderId(id) => Shown(id).fmt(f),
            Value::Addresses(addresses) => addresses.iter().enumerate().try_for_each(|(at, address)| {
                write!(f, "{}{}", if at == 0 { "" } else { " " }, Shown(address))
            }),
            Value::Own(words) | Value::Foreign(words) => words.fmt(f),
        }
    }
}

/// An address as a field of a line: spaces, angle brackets, backslashes and what cannot be seen are bytes in the form
/// `\xNN`.
struct Shown<'a>(&'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_plain = |c: char| !matches!(c, ' ' | '<' | '>' | '\\') && !is_unseen(c);
        if self.0.chars().all(is_plain) {
            return f.write_str(self.0);
        }
        for c in self.0.chars() {
            if is_plain(c) {
                write!(f, "{c}")?;
            } else {
                for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                    write!(f, "\\x{byte:02X}")?;
                }
            }
        }
        Ok(())
    }
}

/// A line of the log.
#[derive(Clone, Copy)]
pub struct Event<'a> {
    /// How much it matters.
    pub level: Level,
    /// The module that writes it, for `RUST_LOG`.
    pub target: &'static str,
    /// Its name in JSON.
    pub name: &'static str,
    /// The message that it is about.
    pub queue_id: Option<&'a dyn fmt::Display>,
    /// The template of its text, without the queue id.
    pub text: &'static str,
    /// The values of its fields, in the order of the template.
    pub values: &'a [Value<'a>],
}

impl Event<'_> {
    /// Writes it to the log, masked where that is asked for.
    pub fn log(&self) {
        self.shown(|event| event.write());
    }

    /// Gives it to `then`, masked where that is asked for.
    pub fn shown(&self, then: impl FnOnce(&Event<'_>)) {
        if is_masked() { self.masked(then) } else { then(self) }
    }

    /// Gives it to `then` without local parts of addresses.
    fn masked(&self, then: impl FnOnce(&Event<'_>)) {
        let known: Vec<&str> = self.values.iter().flat_map(|value| value.addresses()).copied().collect();
        let names = pieces(self.text).filter_map(|(_, field)| Some(field?.name));
        let masked = |(name, value): (&str, &Value<'_>)| match value {
            // Who logged in is no secret unless the name is an address, also where the sender's local part is the same.
            Value::Foreign(words) if matches!(name, "user" | "login") => {
                vec![mask::words(&words.to_string(), &[]).into_owned()]
            }
            Value::Foreign(words) => vec![mask::words(&words.to_string(), &known).into_owned()],
            value => value.addresses().iter().map(|address| mask::address(address)).collect(),
        };
        let words: Vec<Vec<String>> = names.zip(self.values).map(masked).collect();
        let words: Vec<Vec<&str>> = words.iter().map(|of| of.iter().map(String::as_str).collect()).collect();
        let values = self.values.iter().zip(&words).map(|(value, words)| match (value, words.as_slice()) {
            (Value::Foreign(_), [word]) => Value::Own(word),
            (Value::Address(_), [word]) => Value::Address(Some(word)),
            (Value::Addresses(_), words) => Value::Addresses(words),
            (other, _) => *other,
        });
        then(&Event { values: &values.collect::<Vec<_>>(), ..*self });
    }

    /// Writes it to the log as it is.
    pub fn write(&self) {
        debug_assert_eq!(pieces(self.text).filter(|(_, field)| field.is_some()).count(), self.values.len());
        if self.level <= log::max_level() {
            let mut record = Record::builder();
            record.level(self.level).target(self.target).module_path_static(Some(self.target));
            log::logger().log(&record.key_values(self).args(format_args!("{self}")).build());
        }
    }
}

/// The line of text.
impl fmt::Display for Event<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(id) = self.queue_id {
            write!(f, "{id}: ")?;
        }
        let mut values = self.values.iter();
        for (words, field) in pieces(self.text) {
            f.write_str(words)?;
            let Some(Field { before, after, .. }) = field else { continue };
            match values.next().unwrap_or(&Value::Absent) {
                Value::Absent => {}
                Value::Addresses(addresses) => {
                    addresses.iter().try_for_each(|address| write!(f, "{before}{}{after}", Shown(address)))?
                }
                value => {
                    f.write_str(before)?;
                    value.fmt(f)?;
                    f.write_str(after)?;
                }
            }
        }
        Ok(())
    }
}

/// Name, queue id and fields.
impl kv::Source for Event<'_> {
    fn visit<'kvs>(&'kvs self, visitor: &mut dyn kv::VisitSource<'kvs>) -> Result<(), kv::Error> {
        visitor.visit_pair("event".into(), self.name.into())?;
        if let Some(id) = &self.queue_id {
            visitor.visit_pair("queue_id".into(), kv::Value::from_dyn_display(*id))?;
        }
        let names = pieces(self.text).filter_map(|(_, field)| Some(field?.name));
        for (name, value) in names.zip(self.values) {
            let value = match value {
                Value::Absent => continue,
                Value::None(_) => kv::Value::null(),
                Value::Number(number) | Value::Secs(number) => kv::Value::from(number),
                words => kv::Value::from_dyn_display(words),
            };
            visitor.visit_pair(name.into(), value)?;
        }
        Ok(())
    }
}

/// A place in a template.
struct Field {
    name: &'static str,
    before: &'static str,
    after: &'static str,
}

/// A template in pieces: words, and the field that follows them.
fn pieces(template: &'static str) -> impl Iterator<Item = (&'static str, Option<Field>)> {
    let mut rest = template;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let Some((words, behind)) = cut(rest, b'{') else {
            return Some((std::mem::take(&mut rest), None));
        };
        let inside;
        (inside, rest) = cut(behind, b'}').unwrap_or((behind, ""));
        let (name, around) = cut(inside, b':').unwrap_or((inside, "$"));
        let (before, after) = cut(around, b'$').unwrap_or((around, ""));
        Some((words, Some(Field { name, before, after })))
    })
}

/// As `str::split_once`, which is slower where the next one is near.
fn cut(text: &'static str, at: u8) -> Option<(&'static str, &'static str)> {
    let (before, behind) = text.split_at(memchr::memchr(at, text.as_bytes())?);
    Some((before, &behind[1..]))
}

/// What a test logs, for that test.
#[cfg(test)]
pub(crate) mod kept;

#[cfg(test)]
mod tests {
    use super::*;

    fn event<'a>(text: &'static str, values: &'a [Value<'a>]) -> Event<'a> {
        Event { level: Level::Info, target: "here", name: "tried", queue_id: None, text, values }
    }

    #[test]
    fn the_text_is_the_template_with_its_values() {
        let text = "tried {n} to=<{to}> next={next}{tls: tls=$ ok}{also: also=<$>}.";
        let all = [
            Value::Number(-2),
            Value::Address(Some("a@b.test")),
            Value::Secs(30),
            Value::Own(&"TLSv1.3"),
            Value::Addresses(&["c@b.test", "d e@b.test"]),
        ];
        let line = event(text, &all).to_string();
        assert_eq!(
            line,
            "tried -2 to=<a@b.test> next=30s tls=TLSv1.3 ok also=<c@b.test> also=<d\\x20e@b.test>."
        );
        let few =
            [Value::None("none"), Value::Address(None), Value::None("held"), Value::Absent, Value::Absent];
        let line = Event { queue_id: Some(&"ID"), ..event(text, &few) }.to_string();
        assert_eq!(line, "ID: tried none to=<> next=held.");
        assert_eq!(event("no field", &[]).to_string(), "no field");
    }

    #[test]
    fn the_fields_are_named_by_the_template() {
        struct Pairs(Vec<String>);
        impl<'kvs> kv::VisitSource<'kvs> for Pairs {
            fn visit_pair(&mut self, key: kv::Key<'kvs>, value: kv::Value<'kvs>) -> Result<(), kv::Error> {
                self.0.push(format!("{key}={value}"));
                Ok(())
            }
        }
        let values = [Value::Number(7), Value::Absent, Value::Secs(30), Value::None("-")];
        let event = Event { queue_id: Some(&"ID"), ..event("{n}{gone: gone=$} {next} {user}", &values) };
        let mut pairs = Pairs(Vec::new());
        kv::Source::visit(&event, &mut pairs).unwrap();
        assert_eq!(pairs.0, ["event=tried", "queue_id=ID", "n=7", "next=30", "user=None"]);
    }

    #[test]
    fn a_masked_event_has_no_local_part() {
        let values = [
            Value::Address(Some("jane@a.test")),
            Value::Address(None),
            Value::Addresses(&["tom@b.test", "\"odd one\"@b.test"]),
            Value::Foreign(&"550 jane or TOM: ask help@b.test"),
            Value::Own(&"<id@b.test>"),
            Value::Number(1),
        ];
        let all = event("to=<{to}> from=<{from}>{also: also=<$>} reply={reply} id={id} n={n}", &values);
        let mut line = String::new();
        all.masked(|event| line = event.to_string());
        assert_eq!(
            line,
            "to=<***@a.test> from=<> also=<***@b.test> also=<***@b.test> reply=550 *** or ***: ask ***@b.test \
             id=<id@b.test> n=1"
        );
        // Names of users stay, also where a local part is the same.
        let values = [Value::Address(Some("root@a.test")), Value::Foreign(&"root")];
        let jane = [Value::Address(Some("jane@a.test")), Value::Foreign(&"jane@b.test")];
        for (values, expected) in
            [(values, "from=<***@a.test> user=root"), (jane, "from=<***@a.test> user=***@b.test")]
        {
            event("from=<{from}> user={user}", &values).masked(|event| line = event.to_string());
            assert_eq!(line, expected);
        }
    }

    #[test]
    fn no_address_ends_its_field() {
        for (text, expected) in [
            ("a@b.test", "a@b.test"),
            ("a=b+c@b.test", "a=b+c@b.test"),
            (
                "\"a> relay=evil reply=250 ok\"@b.test",
                "\"a\\x3E\\x20relay=evil\\x20reply=250\\x20ok\"@b.test",
            ),
            ("\"a\\\" b\"@b.test", "\"a\\x5C\"\\x20b\"@b.test"),
            ("\"<\"@b.test", "\"\\x3C\"@b.test"),
            ("j\u{f6}rg@b.test", "j\u{f6}rg@b.test"),
            ("a\u{200d}b@b.test", "a\\xE2\\x80\\x8Db@b.test"),
            // A row that a hand wrote may hold anything.
            ("a\n\u{202e}b", "a\\x0A\\xE2\\x80\\xAEb"),
        ] {
            let line = Value::Address(Some(text)).to_string();
            assert_eq!(line, expected);
            assert!(!line.contains([' ', '<', '>']), "{line}");
        }
    }
}
