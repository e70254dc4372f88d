//! One value: TOML in, a typed value out, or what is wrong with it and what to write instead.
//!
//! Pure; no file is opened here. The range of a value comes with its [`Kind`] from the table of
//! keys, so that a message can never disagree with the check.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use toml::de::DeValue;

use super::defs::Kind;
use super::listen::ListenAddress;
use super::name_server::NameServer;
use super::networks::{self, ProhibitedEntry};
use super::settings::{DomainPattern, RelayHost};
use crate::mail::{Address, Domain, address};

/// What is wrong with a value, ready to stand between its key and what to write instead.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) text: String,
    /// Where in the file an item of a list is that this is about.
    pub(super) span: Option<Range<usize>>,
}

/// The value, or everything that is wrong with it.
pub(super) type Read<T> = Result<T, Vec<Wrong>>;

fn wrong<T>(what: impl Into<String>) -> Read<T> {
    Err(vec![Wrong { text: what.into(), span: None }])
}

/// Text in quotes, not empty.
fn text<'v>(value: &'v DeValue<'_>) -> Read<&'v str> {
    match value.as_str() {
        Some("") => wrong("\"\" is empty"),
        Some(text) => Ok(text),
        None => wrong(format!("is {}", a_type(value))),
    }
}

/// [`Kind::List`], every item read by `item`. A text stands for a list of that one item.
pub(super) fn list<T>(
    item: fn(&Kind, &DeValue<'_>) -> Read<T>,
) -> impl Fn(&Kind, &DeValue<'_>) -> Read<Vec<T>> {
    move |kind, value| {
        let Kind::List(min, item_kind) = *kind else { return wrong("is read as a list") };
        if matches!(value, DeValue::String(_)) {
            return item(item_kind, value).map(|one| vec![one]);
        }
        let Some(array) = value.as_array() else { return wrong(format!("is {}", a_type(value))) };
        let (mut read, mut wrongs) = (Vec::new(), Vec::new());
        for element in array.iter() {
            let result = match element.get_ref() {
                text @ DeValue::String(_) => item(item_kind, text),
                other => wrong(format!("an item is {}", a_type(other))),
            };
            match result {
                Ok(one) => read.push(one),
                Err(here) => {
                    wrongs.extend(here.into_iter().map(|wrong| Wrong { span: Some(element.span()), ..wrong }))
                }
            }
        }
        match wrongs.is_empty() {
            false => Err(wrongs),
            true if read.len() < min => wrong("is empty"),
            true => Ok(read),
        }
    }
}

/// [`Kind::OrOff`]: none, or what `other` reads.
pub(super) fn or_off<T>(
    other: fn(&Kind, &DeValue<'_>) -> Read<T>,
) -> impl Fn(&Kind, &DeValue<'_>) -> Read<Option<T>> {
    move |kind, value| match (*kind, value.as_str()) {
        (Kind::OrOff(_), Some("off")) => Ok(None),
        (Kind::OrOff(kind), _) => other(kind, value).map(Some),
        _ => wrong("is read as \"off\" or something else"),
    }
}

/// How a person calls the type of a value.
fn a_type(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a number without quotes",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// [`Kind::Text`].
pub(super) fn plain(_: &Kind, value: &DeValue<'_>) -> Read<String> {
    text(value).map(str::to_owned)
}

/// [`Kind::File`].
pub(super) fn file(_: &Kind, value: &DeValue<'_>) -> Read<PathBuf> {
    text(value).map(PathBuf::from)
}

/// [`Kind::FileOrNone`].
pub(super) fn file_or_none(kind: &Kind, value: &DeValue<'_>) -> Read<Option<PathBuf>> {
    if value.as_str() == Some("") { Ok(None) } else { file(kind, value).map(Some) }
}

/// [`Kind::Host`].
pub(super) fn host(_: &Kind, value: &DeValue<'_>) -> Read<Domain> {
    let text = text(value)?;
    Domain::parse(text).or_else(|_| wrong(format!("\"{text}\" is not a host name")))
}

/// [`Kind::Number`].
pub(super) fn number(kind: &Kind, value: &DeValue<'_>) -> Read<u64> {
    let Kind::Number(min, max) = *kind else { return wrong("is read as a number") };
    let Some(digits) = value.as_integer() else {
        return match value.as_str() {
            Some(text) => wrong(format!("\"{text}\" is not a number without quotes")),
            None => wrong(format!("is {}", a_type(value))),
        };
    };
    match u64::from_str_radix(digits.as_str(), digits.radix()) {
        Ok(number) if (min..=max).contains(&number) => Ok(number),
        _ => wrong(format!("{} is out of range", digits.as_str())),
    }
}

/// [`Kind::Duration`].
pub(super) fn duration(kind: &Kind, value: &DeValue<'_>) -> Read<Duration> {
    let text = text(value)?;
    let Kind::Duration(min, max) = *kind else { return wrong("is read as a duration") };
    let duration = parse_duration(text)?;
    match (parse_duration(min)?..=parse_duration(max)?).contains(&duration) {
        true => Ok(duration),
        false => wrong(format!("\"{text}\" is out of range")),
    }
}

/// A day is 24 hours and a week 7 of them; months and years have no fixed length and are refused.
fn parse_duration(text: &str) -> Read<Duration> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return wrong(format!("\"{text}\" has no unit"));
    }
    let span = jiff::Span::from_str(text).or_else(|_| wrong(format!("\"{text}\" is not a duration")))?;
    let signed = span
        .to_duration(jiff::SpanRelativeTo::days_are_24_hours())
        .or_else(|_| wrong(format!("\"{text}\" has no fixed length")))?;
    Duration::try_from(signed).or_else(|_| wrong(format!("\"{text}\" is negative")))
}

/// [`Kind::Size`], in bytes.
pub(super) fn size(kind: &Kind, value: &DeValue<'_>) -> Read<u64> {
    let text = text(value)?;
    let Kind::Size(min, max) = *kind else { return wrong("is read as a size") };
    let size = parse_size(text)?;
    match (parse_size(min)?..=parse_size(max)?).contains(&size) {
        true => Ok(size),
        false => wrong(format!("\"{text}\" is out of range")),
    }
}

/// A duration as it is written: `90s`, `2h`, `3d`; also outside the config.
///
/// # Errors
/// Why it is none.
pub fn duration_of(text: &str) -> Result<Duration, String> {
    let words = |wrong: Vec<Wrong>| wrong.into_iter().map(|wrong| wrong.text).collect::<Vec<_>>().join("; ");
    parse_duration(text).map_err(words)
}

/// A size as it is written, in bytes; also outside the config.
pub fn size_of(text: &str) -> Option<u64> {
    parse_size(text).ok()
}

/// A size in the largest unit that shows it exactly; [`size_of`] reads it.
pub fn size_text(bytes: u64) -> String {
    let units = [
        ("GiB", 1 << 30),
        ("GB", 1_000_000_000),
        ("MiB", 1 << 20),
        ("MB", 1_000_000),
        ("KiB", 1 << 10),
        ("kB", 1000),
    ];
    match units.into_iter().find(|(_, unit)| bytes > 0 && bytes.is_multiple_of(*unit)) {
        Some((name, unit)) => format!("{}{name}", bytes / unit),
        None => format!("{bytes}B"),
    }
}

/// Powers of 1000 for kB, MB, GB, of 1024 for KiB, MiB, GiB.
fn parse_size(text: &str) -> Read<u64> {
    let Some(unit_at) = text.find(|c: char| !c.is_ascii_digit()) else {
        return wrong(format!("\"{text}\" has no unit"));
    };
    let (digits, unit) = text.split_at(unit_at);
    let factor: u64 = match unit.trim_start() {
        "B" => 1,
        "kB" | "KB" => 1000,
        "KiB" => 1 << 10,
        "MB" => 1_000_000,
        "MiB" => 1 << 20,
        "GB" => 1_000_000_000,
        "GiB" => 1 << 30,
        _ => return wrong(format!("\"{text}\" is not a size")),
    };
    let number: u64 = digits.parse().or_else(|_| wrong(format!("\"{text}\" is not a size")))?;
    number.checked_mul(factor).map_or_else(|| wrong(format!("\"{text}\" is out of range")), Ok)
}

/// [`Kind::Choice`]: the word.
pub(super) fn choice(kind: &Kind, value: &DeValue<'_>) -> Read<&'static str> {
    let text = text(value)?;
    let Kind::Choice(words) = *kind else { return wrong("is read as a choice") };
    match words.iter().find(|word| **word == text) {
        Some(word) => Ok(word),
        None => wrong(format!("\"{text}\" is none of its values")),
    }
}

/// [`Kind::Socket`].
pub(super) fn socket(_: &Kind, value: &DeValue<'_>) -> Read<ListenAddress> {
    let text = text(value)?;
    if let Some(unix) = ListenAddress::parse_unix(text) {
        return unix.or_else(|why| wrong(format!("\"{text}\" {why}")));
    }
    text.parse().map(ListenAddress::Ip).or_else(|_| {
        let what = match text.parse::<IpAddr>() {
            Ok(_) => format!("\"{text}\" has no port"),
            Err(_) => format!("\"{text}\" is not an IP address with a port"),
        };
        wrong(what)
    })
}

/// [`Kind::Mode`].
pub(super) fn mode(_: &Kind, value: &DeValue<'_>) -> Read<u32> {
    let text = text(value)?;
    let octal = (3..=4).contains(&text.len()) && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    match u32::from_str_radix(text, 8) {
        Ok(mode) if octal && mode <= 0o777 => Ok(mode),
        _ => wrong(format!("\"{text}\" is not the rights of a file")),
    }
}

/// [`Kind::Server`].
pub(super) fn server(kind: &Kind, value: &DeValue<'_>) -> Read<NameServer> {
    let text = text(value)?;
    let Kind::Server(port) = *kind else { return wrong("is read as an address") };
    NameServer::parse(text, port).or_else(|why| wrong(format!("\"{text}\": {why}")))
}

/// [`Kind::Flag`].
pub(super) fn flag(_: &Kind, value: &DeValue<'_>) -> Read<bool> {
    match value.as_bool() {
        Some(flag) => Ok(flag),
        None => match value.as_str() {
            Some(text) => wrong(format!("\"{text}\" is a text")),
            None => wrong(format!("is {}", a_type(value))),
        },
    }
}

/// [`Kind::Time`], in Unix seconds.
pub(super) fn time(_: &Kind, value: &DeValue<'_>) -> Read<i64> {
    let text = text(value)?;
    let day = jiff::civil::Date::from_str(text).ok().map(|day| day.at(0, 0, 0, 0));
    let civil = day.or_else(|| jiff::civil::DateTime::from_str(text).ok());
    let in_utc = || civil.and_then(|time| jiff::tz::TimeZone::UTC.to_timestamp(time).ok());
    match jiff::Timestamp::from_str(text).ok().or_else(in_utc) {
        Some(time) => Ok(time.as_second()),
        None => wrong(format!("\"{text}\" is no day and no time")),
    }
}

/// [`Kind::Mailbox`], one that any host can carry.
pub(super) fn mailbox(_: &Kind, value: &DeValue<'_>) -> Read<Address> {
    let text = text(value)?;
    match address::parse(text) {
        Ok(address) if text.is_ascii() => Ok(address),
        Ok(_) => wrong(format!("\"{text}\" is not ASCII")),
        Err(_) => wrong(format!("\"{text}\" is not a mail address")),
    }
}

/// [`Kind::Address`], one that a connection can leave from. `::ffff:192.0.2.1` is 192.0.2.1: sockets know it by
/// that.
pub(super) fn address(_: &Kind, value: &DeValue<'_>) -> Read<IpAddr> {
    let text = text(value)?;
    let ip: IpAddr = text.parse().or_else(|_| wrong(format!("\"{text}\" is not an IP address")))?;
    let ip = ip.to_canonical();
    if ip.is_unspecified() || ip.is_multicast() || ip == IpAddr::from([255, 255, 255, 255]) {
        return wrong(format!("\"{text}\" is not the address of one machine"));
    }
    Ok(ip)
}

/// [`Kind::Network`]. A bare address is the network of that address alone, and a mapped one (`::ffff:10.0.0.0/104`)
/// the IPv4 network: addresses are compared in their plain form. Bits behind the prefix are refused: whoever writes
/// 10.1.2.3/8 did not mean sixteen million hosts.
pub(super) fn network(_: &Kind, value: &DeValue<'_>) -> Read<IpNet> {
    let text = text(value)?;
    network_in(text, text)
}

/// [`Kind::NetworkOrNot`].
pub(super) fn network_or_not(_: &Kind, value: &DeValue<'_>) -> Read<ProhibitedEntry> {
    let text = text(value)?;
    match text.strip_prefix('!') {
        Some(network) => network_in(text, network).map(ProhibitedEntry::Take),
        None => network_in(text, text).map(ProhibitedEntry::Add),
    }
}

/// `network`, which stands in `text`.
fn network_in(text: &str, network: &str) -> Read<IpNet> {
    if let Ok(ip) = network.parse::<IpAddr>() {
        return Ok(IpNet::from(ip.to_canonical()));
    }
    let network: IpNet = network.parse().or_else(|_| wrong(format!("\"{text}\" is not a network")))?;
    match network.addr() == network.network() {
        true => Ok(networks::canonical(network)),
        false => wrong(format!("\"{text}\" has bits behind its prefix and would mean {}", network.trunc())),
    }
}

/// [`Kind::Pattern`].
pub(super) fn pattern(_: &Kind, value: &DeValue<'_>) -> Read<DomainPattern> {
    let text = text(value)?;
    let domain = |name: &str| Domain::parse(name).map(|domain| domain.as_str().to_owned());
    let read = match text.strip_prefix("*.") {
        _ if text == "*" => Ok(DomainPattern::Any),
        // Nothing is below an address literal.
        Some(parent) if !parent.starts_with('[') => domain(parent).map(DomainPattern::Below),
        Some(_) => return wrong(format!("\"{text}\" is not a domain")),
        None => domain(text).map(DomainPattern::Exactly),
    };
    read.or_else(|_| wrong(format!("\"{text}\" is not a domain")))
}

/// [`Kind::CodePattern`].
pub(super) fn code_pattern(_: &Kind, value: &DeValue<'_>) -> Read<[Option<u8>; 3]> {
    let text = text(value)?;
    let digit = |byte: &u8| match byte {
        b'0'..=b'9' => Some(Some(byte - b'0')),
        b'x' | b'X' => Some(None),
        _ => None,
    };
    let digits: Option<Vec<Option<u8>>> = text.as_bytes().iter().map(digit).collect();
    match digits.and_then(|digits| digits.try_into().ok()) {
        Some(pattern) => Ok(pattern),
        None => wrong(format!("\"{text}\" is not a reply code")),
    }
}

/// [`Kind::EnhancedPattern`].
pub(super) fn enhanced_pattern(_: &Kind, value: &DeValue<'_>) -> Read<[Option<u16>; 3]> {
    let text = text(value)?;
    let number = |part: &str| match part {
        "x" | "X" => Some(None),
        // RFC 3463 §2: at most three digits.
        _ if part.len() <= 3 && part.bytes().all(|byte| byte.is_ascii_digit()) => part.parse().ok().map(Some),
        _ => None,
    };
    let numbers: Option<Vec<Option<u16>>> = text.split('.').map(number).collect();
    match numbers.and_then(|numbers| numbers.try_into().ok()) {
        Some(pattern) => Ok(pattern),
        None => wrong(format!("\"{text}\" is not an enhanced code")),
    }
}

/// [`Kind::Command`]. A program by its name alone would be another one under another PATH.
pub(super) fn command(_: &Kind, value: &DeValue<'_>) -> Read<Vec<String>> {
    // One text could be a whole line for a shell.
    if value.is_str() {
        return wrong(format!("is {}", a_type(value)));
    }
    let words = list(|_, word| match word.as_str().unwrap_or_default() {
        word if word.contains('\0') => wrong("holds a NUL"),
        word => Ok(word.to_owned()),
    })(&Kind::List(1, &Kind::Text), value)?;
    match words[0].starts_with('/') {
        true => Ok(words),
        false => wrong(format!("\"{}\" is not the whole path of a program", words[0])),
    }
}

/// [`Kind::Relay`].
pub(super) fn relay(_: &Kind, value: &DeValue<'_>) -> Read<RelayHost> {
    let text = text(value)?;
    let bracket_end = text.rfind(']').map_or(0, |at| at + 1);
    let (host, port) = match text[bracket_end..].rsplit_once(':') {
        Some((name_end, port)) => (&text[..bracket_end + name_end.len()], port),
        None => return wrong(format!("\"{text}\" has no port")),
    };
    let port: u16 = match port.parse() {
        // parse() would take "+25".
        Ok(port @ 1..) if !text.ends_with(&format!("+{port}")) => port,
        _ => return wrong(format!("\"{text}\" has a port that is not between 1 and 65535")),
    };
    // RFC 5321 §4.1.3 has brackets round an address: without them DNS would be asked for a name of digits.
    if host.parse::<Ipv4Addr>().is_ok() {
        let host = Domain::parse(&format!("[{host}]"));
        return host.map_or_else(
            |_| wrong(format!("\"{text}\" is no address")),
            |host| Ok(RelayHost { host, port }),
        );
    }
    if host.parse::<IpAddr>().is_ok() {
        return wrong(format!("\"{text}\" is an address without brackets"));
    }
    let bare_v6 =
        host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).filter(|ip| ip.contains(':'));
    let domain = match bare_v6 {
        Some(ip) if ip.parse::<IpAddr>().is_ok() => Domain::parse(&format!("[IPv6:{ip}]")),
        _ => Domain::parse(host),
    };
    let host = domain.or_else(|_| wrong(format!("\"{text}\" does not begin with a host name")))?;
    Ok(RelayHost { host, port })
}

#[cfg(test)]
mod tests {
    use toml::Spanned;

    use super::*;

    const DAYS: Kind = Kind::Duration("1s", "100d");
    const SIZE: Kind = Kind::Size("64KiB", "1GiB");

    fn string(text: &str) -> DeValue<'_> {
        DeValue::String(text.into())
    }

    fn what<T: std::fmt::Debug>(read: Read<T>) -> String {
        read.unwrap_err().remove(0).text
    }

    #[test]
    fn durations_need_a_unit_and_a_fixed_length() {
        for (text, secs) in [("5d", 432_000), ("4h", 14_400), ("30s", 30), ("1h30m", 5400), ("2w", 1_209_600)]
        {
            assert_eq!(duration(&DAYS, &string(text)), Ok(Duration::from_secs(secs)), "{text}");
        }
        for (text, error) in [
            ("5", "\"5\" has no unit"),
            ("", "\"\" is empty"),
            ("soon", "\"soon\" is not a duration"),
            ("-5d", "\"-5d\" is negative"),
            ("1 month", "\"1 month\" has no fixed length"),
            ("0s", "\"0s\" is out of range"),
            ("101d", "\"101d\" is out of range"),
            ("99999999999999999999d", "\"99999999999999999999d\" is not a duration"),
        ] {
            assert_eq!(what(duration(&DAYS, &string(text))), error, "{text}");
        }
        assert_eq!(or_off(duration)(&Kind::OrOff(&DAYS), &string("off")), Ok(None));
    }

    #[test]
    fn a_size_is_shown_as_it_is_read() {
        for (bytes, text) in [
            (0, "0B"),
            (1, "1B"),
            (1_023, "1023B"),
            (1_024, "1KiB"),
            (64_000, "64kB"),
            (1_500_000, "1500kB"),
            (3 << 30, "3GiB"),
            (2_000_000_000, "2GB"),
            (u64::MAX, "18446744073709551615B"),
        ] {
            assert_eq!((size_text(bytes).as_str(), size_of(text)), (text, Some(bytes)));
        }
        assert_eq!((size_of("2 GiB"), size_of("2"), size_of("much")), (Some(2 << 30), None, None));
    }

    #[test]
    fn sizes_need_a_unit() {
        for (text, bytes) in
            [("25MiB", 25 << 20), ("10MB", 10_000_000), ("1 GiB", 1 << 30), ("65536B", 65536)]
        {
            assert_eq!(size(&SIZE, &string(text)), Ok(bytes), "{text}");
        }
        for (text, error) in [
            ("25", "\"25\" has no unit"),
            ("25M", "\"25M\" is not a size"),
            ("MB", "\"MB\" is not a size"),
            ("1.5GB", "\"1.5GB\" is not a size"),
            ("1KiB", "\"1KiB\" is out of range"),
            ("99999999999999GiB", "\"99999999999999GiB\" is out of range"),
        ] {
            assert_eq!(what(size(&SIZE, &string(text))), error, "{text}");
        }
    }

    #[test]
    fn relays_are_names_or_bracketed_addresses_with_a_port() {
        for (text, host, port) in [
            ("smtp.Upstream.example:587", "smtp.upstream.example", 587),
            ("localhost:25", "localhost", 25),
            ("[192.0.2.1]:25", "[192.0.2.1]", 25),
            ("192.0.2.1:25", "[192.0.2.1]", 25),
            ("[2001:db8::1]:25", "[IPv6:2001:db8::1]", 25),
            ("[IPv6:2001:DB8::1]:26", "[IPv6:2001:db8::1]", 26),
        ] {
            let read = relay(&Kind::Relay, &string(text)).unwrap();
            assert_eq!((read.host.as_str(), read.port), (host, port), "{text}");
        }
        for bad in [
            "smtp.example",
            "smtp.example:",
            "smtp.example:0",
            "smtp.example:65536",
            "smtp.example:+25",
            ":25",
            "1.2.3:25x",
            "2001:db8::1:25",
            "[2001:db8::1]",
            "[1.2.3]:25",
            "a b:25",
            "[]:25",
            "]:25",
            "",
        ] {
            assert!(relay(&Kind::Relay, &string(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn codes_have_three_places_and_x_in_any_of_them() {
        let code = |text| code_pattern(&Kind::CodePattern, &string(text));
        assert_eq!(code("421"), Ok([Some(4), Some(2), Some(1)]));
        assert_eq!(code("4xX"), Ok([Some(4), None, None]));
        for bad in ["", "42", "4210", "4*1", "4.7.1", "٤٢١"] {
            assert!(code(bad).is_err(), "{bad}");
        }
        let enhanced = |text| enhanced_pattern(&Kind::EnhancedPattern, &string(text));
        assert_eq!(enhanced("4.7.123"), Ok([Some(4), Some(7), Some(123)]));
        assert_eq!(enhanced("x.7.x"), Ok([None, Some(7), None]));
        for bad in ["", "4.7", "4.7.1.1", "4.7.1234", "4..1", "4.+7.1", "450"] {
            assert!(enhanced(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn patterns_and_networks_are_exact() {
        let pattern = |text| pattern(&Kind::Pattern, &string(text));
        assert_eq!(pattern("*"), Ok(DomainPattern::Any));
        assert_eq!(pattern("*.Example.COM"), Ok(DomainPattern::Below("example.com".to_owned())));
        assert_eq!(pattern("bücher.example"), Ok(DomainPattern::Exactly("xn--bcher-kva.example".to_owned())));
        for bad in ["", "*.", "**", "*example.com", "a.*.b", "*.*", "*.[192.0.2.1]"] {
            assert!(pattern(bad).is_err(), "{bad}");
        }
        let networks =
            |array: &Spanned<DeValue<'_>>| list(network)(&Kind::List(0, &Kind::Network), array.get_ref());
        let array = DeValue::parse("['10.0.0.0/8', '192.0.2.1', '2001:db8::/32']").unwrap();
        let read: Vec<String> = networks(&array).unwrap().iter().map(IpNet::to_string).collect();
        assert_eq!(read, ["10.0.0.0/8", "192.0.2.1/32", "2001:db8::/32"]);
        let array = DeValue::parse("['10.1.0.0/8', 'x', 7]").unwrap();
        let wrongs = networks(&array).unwrap_err();
        assert_eq!(wrongs.len(), 3, "every bad item is told: {wrongs:?}");
        assert!(wrongs[0].text.contains("would mean 10.0.0.0/8"), "{wrongs:?}");
    }

    #[test]
    fn an_argument_of_a_command_may_be_empty() {
        let array = DeValue::parse("['/bin/x', '']").unwrap();
        assert_eq!(command(&Kind::Command, array.get_ref()), Ok(vec!["/bin/x".to_owned(), String::new()]));
    }
}
