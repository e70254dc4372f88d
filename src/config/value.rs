//! One value: TOML in, a typed value out, or what is wrong with it and what to write instead.
//!
//! Pure; no file is opened here. The range of a value comes with its [`Kind`] from the table of
//! keys, so that a message can never disagree with the check.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use toml::de::DeValue;

use super::defs::Kind;
use super::settings::{DomainPattern, RelayHost};
use crate::mail::Domain;

/// What is wrong with a value, ready to stand behind its key.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    /// What is wrong; what to do.
    pub(super) text: String,
    /// Where in the file, if that is not where the value itself begins (an item of a list).
    pub(super) span: Option<Range<usize>>,
}

/// The value, or everything that is wrong with it.
pub(super) type Read<T> = Result<T, Vec<Wrong>>;

fn wrong<T>(what: impl std::fmt::Display, kind: &Kind) -> Read<T> {
    Err(vec![Wrong { text: format!("{what}; write {}", kind.wanted()), span: None }])
}

/// Text in quotes; never empty unless the kind allows it.
fn text<'v>(kind: &Kind, value: &'v DeValue<'_>) -> Read<&'v str> {
    match value.as_str() {
        Some("") if !matches!(kind, Kind::FileOrNone) => wrong("is empty", kind),
        Some(text) => Ok(text),
        None => wrong(format_args!("is {}", a_type(value)), kind),
    }
}

/// Every item of a list read by `item`.
fn list<T>(kind: &Kind, value: &DeValue<'_>, item: impl Fn(&str) -> Result<T, String>) -> Read<Vec<T>> {
    let Some(array) = value.as_array() else {
        return wrong(format_args!("is {}", a_type(value)), kind);
    };
    let (mut read, mut wrongs) = (Vec::new(), Vec::new());
    for element in array.iter() {
        let result = match element.get_ref().as_str() {
            Some(text) => item(text),
            None => Err(format!("holds {}", a_type(element.get_ref()))),
        };
        match result {
            Ok(one) => read.push(one),
            Err(text) => wrongs
                .push(Wrong { text: format!("{text}; write {}", kind.wanted()), span: Some(element.span()) }),
        }
    }
    if wrongs.is_empty() { Ok(read) } else { Err(wrongs) }
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
pub(super) fn plain(kind: &Kind, value: &DeValue<'_>) -> Read<String> {
    text(kind, value).map(str::to_owned)
}

/// [`Kind::File`].
pub(super) fn file(kind: &Kind, value: &DeValue<'_>) -> Read<PathBuf> {
    text(kind, value).map(PathBuf::from)
}

/// [`Kind::FileOrNone`].
pub(super) fn file_or_none(kind: &Kind, value: &DeValue<'_>) -> Read<Option<PathBuf>> {
    text(kind, value).map(|text| (!text.is_empty()).then(|| PathBuf::from(text)))
}

/// [`Kind::Host`].
pub(super) fn host(kind: &Kind, value: &DeValue<'_>) -> Read<Domain> {
    let text = text(kind, value)?;
    Domain::parse(text).or_else(|_| wrong(format_args!("\"{text}\" is not a host name"), kind))
}

/// [`Kind::Number`].
pub(super) fn number(kind: &Kind, value: &DeValue<'_>) -> Read<u64> {
    let Kind::Number(min, max) = *kind else { return wrong("is read as a number", kind) };
    let Some(digits) = value.as_integer() else {
        return wrong(format_args!("is {}", a_type(value)), kind);
    };
    match u64::from_str_radix(digits.as_str(), digits.radix()) {
        Ok(number) if (min..=max).contains(&number) => Ok(number),
        _ => wrong(format_args!("{} is out of range", digits.as_str()), kind),
    }
}

/// [`Kind::NumberOrOff`].
pub(super) fn number_or_off(kind: &Kind, value: &DeValue<'_>) -> Read<Option<u64>> {
    let Kind::NumberOrOff(min, max) = *kind else { return wrong("is read as a number", kind) };
    if value.as_str() == Some("off") {
        return Ok(None);
    }
    let Some(digits) = value.as_integer() else {
        return match value.as_str() {
            Some(text) => {
                wrong(format_args!("\"{text}\" is neither \"off\" nor a number without quotes"), kind)
            }
            None => wrong(format_args!("is {}", a_type(value)), kind),
        };
    };
    match u64::from_str_radix(digits.as_str(), digits.radix()) {
        Ok(number) if (min..=max).contains(&number) => Ok(Some(number)),
        _ => wrong(format_args!("{} is out of range", digits.as_str()), kind),
    }
}

/// [`Kind::Duration`].
pub(super) fn duration(kind: &Kind, value: &DeValue<'_>) -> Read<Duration> {
    let text = text(kind, value)?;
    in_range(kind, text).or_else(|what| wrong(what, kind))
}

/// [`Kind::DurationOrOff`].
pub(super) fn duration_or_off(kind: &Kind, value: &DeValue<'_>) -> Read<Option<Duration>> {
    match text(kind, value)? {
        "off" => Ok(None),
        text => in_range(kind, text).map(Some).or_else(|what| wrong(what, kind)),
    }
}

/// [`Kind::Durations`].
pub(super) fn durations(kind: &Kind, value: &DeValue<'_>) -> Read<Vec<Duration>> {
    let durations = list(kind, value, |text| in_range(kind, text))?;
    if durations.is_empty() { wrong("is empty", kind) } else { Ok(durations) }
}

fn in_range(kind: &Kind, text: &str) -> Result<Duration, String> {
    let (Kind::Duration(min, max) | Kind::DurationOrOff(min, max) | Kind::Durations(min, max)) = *kind else {
        return Err("is read as a duration".to_owned());
    };
    let duration = parse_duration(text)?;
    if (parse_duration(min)?..=parse_duration(max)?).contains(&duration) {
        Ok(duration)
    } else {
        Err(format!("\"{text}\" is out of range"))
    }
}

/// A day is 24 hours and a week 7 of them; months and years have no fixed length and are refused.
fn parse_duration(text: &str) -> Result<Duration, String> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("\"{text}\" has no unit"));
    }
    let span = jiff::Span::from_str(text).map_err(|_| format!("\"{text}\" is not a duration"))?;
    let signed = span
        .to_duration(jiff::SpanRelativeTo::days_are_24_hours())
        .map_err(|_| format!("\"{text}\" has no fixed length"))?;
    Duration::try_from(signed).map_err(|_| format!("\"{text}\" is negative"))
}

/// [`Kind::Size`], in bytes.
pub(super) fn size(kind: &Kind, value: &DeValue<'_>) -> Read<u64> {
    let text = text(kind, value)?;
    let Kind::Size(min, max) = *kind else { return wrong("is read as a size", kind) };
    let result = (|| {
        let size = parse_size(text)?;
        if (parse_size(min)?..=parse_size(max)?).contains(&size) {
            Ok(size)
        } else {
            Err(format!("\"{text}\" is out of range"))
        }
    })();
    result.or_else(|what: String| wrong(what, kind))
}

/// Powers of 1000 for kB, MB, GB, of 1024 for KiB, MiB, GiB.
fn parse_size(text: &str) -> Result<u64, String> {
    let unit_at =
        text.find(|c: char| !c.is_ascii_digit()).ok_or_else(|| format!("\"{text}\" has no unit"))?;
    let (digits, unit) = text.split_at(unit_at);
    let factor: u64 = match unit.trim_start() {
        "B" => 1,
        "kB" | "KB" => 1000,
        "KiB" => 1 << 10,
        "MB" => 1_000_000,
        "MiB" => 1 << 20,
        "GB" => 1_000_000_000,
        "GiB" => 1 << 30,
        _ => return Err(format!("\"{text}\" is not a size")),
    };
    let number: u64 = digits.parse().map_err(|_| format!("\"{text}\" is not a size"))?;
    number.checked_mul(factor).ok_or_else(|| format!("\"{text}\" is out of range"))
}

/// [`Kind::Choice`]: the word.
pub(super) fn choice(kind: &Kind, value: &DeValue<'_>) -> Read<&'static str> {
    let text = text(kind, value)?;
    let Kind::Choice(words) = *kind else { return wrong("is read as a choice", kind) };
    match words.iter().find(|word| **word == text) {
        Some(word) => Ok(word),
        None => wrong(format_args!("\"{text}\" is none of its values"), kind),
    }
}

/// [`Kind::Socket`].
pub(super) fn socket(kind: &Kind, value: &DeValue<'_>) -> Read<SocketAddr> {
    let text = text(kind, value)?;
    text.parse().or_else(|_| {
        let what = match text.parse::<IpAddr>() {
            Ok(_) => format!("\"{text}\" has no port"),
            Err(_) => format!("\"{text}\" is not an IP address with a port"),
        };
        wrong(what, kind)
    })
}

/// [`Kind::Sockets`].
pub(super) fn sockets(kind: &Kind, value: &DeValue<'_>) -> Read<Vec<SocketAddr>> {
    let Kind::Sockets(port) = *kind else { return wrong("is read as addresses", kind) };
    list(kind, value, |text| {
        let bare = text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, port));
        bare.or_else(|_| text.parse()).map_err(|_| format!("\"{text}\" is not an IP address with a port"))
    })
}

/// [`Kind::Address`].
pub(super) fn address(kind: &Kind, value: &DeValue<'_>) -> Read<IpAddr> {
    let text = text(kind, value)?;
    one_address(text).or_else(|what| wrong(what, kind))
}

/// [`Kind::Addresses`].
pub(super) fn addresses(kind: &Kind, value: &DeValue<'_>) -> Read<Vec<IpAddr>> {
    list(kind, value, one_address)
}

/// An address that a connection can leave from. `::ffff:192.0.2.1` is 192.0.2.1: sockets know it by that.
fn one_address(text: &str) -> Result<IpAddr, String> {
    let ip: IpAddr = text.parse().map_err(|_| format!("\"{text}\" is not an IP address"))?;
    let ip = ip.to_canonical();
    if ip.is_unspecified() || ip.is_multicast() || ip == IpAddr::from([255, 255, 255, 255]) {
        return Err(format!("\"{text}\" is not the address of one machine"));
    }
    Ok(ip)
}

/// [`Kind::Users`].
pub(super) fn users(kind: &Kind, value: &DeValue<'_>) -> Read<Vec<String>> {
    let name = |text: &str| {
        if text.is_empty() { Err("holds an empty text".to_owned()) } else { Ok(text.to_owned()) }
    };
    let users = list(kind, value, name)?;
    if users.is_empty() { wrong("is empty", kind) } else { Ok(users) }
}

/// [`Kind::Networks`]. A bare address is the network of that address alone. Bits behind the
/// prefix are refused: whoever writes 10.1.2.3/8 did not mean sixteen million hosts.
pub(super) fn networks(kind: &Kind, value: &DeValue<'_>) -> Read<Vec<IpNet>> {
    list(kind, value, |text| {
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(IpNet::from(ip));
        }
        let network: IpNet = text.parse().map_err(|_| format!("\"{text}\" is not a network"))?;
        if network.addr() == network.network() {
            Ok(network)
        } else {
            Err(format!("\"{text}\" has bits behind its prefix and would mean {}", network.trunc()))
        }
    })
}

/// [`Kind::Pattern`].
pub(super) fn pattern(kind: &Kind, value: &DeValue<'_>) -> Read<DomainPattern> {
    let text = text(kind, value)?;
    let domain = |name: &str| Domain::parse(name).map(|domain| domain.as_str().to_owned());
    let read = match text.strip_prefix("*.") {
        _ if text == "*" => Ok(DomainPattern::Any),
        // Nothing is below an address literal.
        Some(parent) if !parent.starts_with('[') => domain(parent).map(DomainPattern::Below),
        Some(_) => return wrong(format_args!("\"{text}\" is not a domain"), kind),
        None => domain(text).map(DomainPattern::Exactly),
    };
    read.or_else(|_| wrong(format_args!("\"{text}\" is not a domain"), kind))
}

/// [`Kind::CodePattern`].
pub(super) fn code_pattern(kind: &Kind, value: &DeValue<'_>) -> Read<[Option<u8>; 3]> {
    let text = text(kind, value)?;
    let digit = |byte: &u8| match byte {
        b'0'..=b'9' => Some(Some(byte - b'0')),
        b'x' | b'X' => Some(None),
        _ => None,
    };
    let digits: Option<Vec<Option<u8>>> = text.as_bytes().iter().map(digit).collect();
    match digits.and_then(|digits| digits.try_into().ok()) {
        Some(pattern) => Ok(pattern),
        None => wrong(format_args!("\"{text}\" is not a reply code"), kind),
    }
}

/// [`Kind::EnhancedPattern`].
pub(super) fn enhanced_pattern(kind: &Kind, value: &DeValue<'_>) -> Read<[Option<u16>; 3]> {
    let text = text(kind, value)?;
    let number = |part: &str| match part {
        "x" | "X" => Some(None),
        // RFC 3463 §2: at most three digits.
        _ if part.len() <= 3 && part.bytes().all(|byte| byte.is_ascii_digit()) => part.parse().ok().map(Some),
        _ => None,
    };
    let numbers: Option<Vec<Option<u16>>> = text.split('.').map(number).collect();
    match numbers.and_then(|numbers| numbers.try_into().ok()) {
        Some(pattern) => Ok(pattern),
        None => wrong(format_args!("\"{text}\" is not an enhanced code"), kind),
    }
}

/// [`Kind::Command`]. A program by its name alone would be another one under another PATH.
pub(super) fn command(kind: &Kind, value: &DeValue<'_>) -> Read<Vec<String>> {
    let word = |text: &str| match text.contains('\0') {
        true => Err("holds a NUL".to_owned()),
        false => Ok(text.to_owned()),
    };
    let words = list(kind, value, word)?;
    match words.first() {
        None => wrong("is empty", kind),
        Some(program) if !program.starts_with('/') => {
            wrong(format_args!("\"{program}\" is not the whole path of a program"), kind)
        }
        Some(_) => Ok(words),
    }
}

/// [`Kind::Relays`].
pub(super) fn relays(kind: &Kind, value: &DeValue<'_>) -> Read<Vec<RelayHost>> {
    list(kind, value, relay)
}

fn relay(text: &str) -> Result<RelayHost, String> {
    let bracket_end = text.rfind(']').map_or(0, |at| at + 1);
    let (host, port) = match text[bracket_end..].rsplit_once(':') {
        Some((name_end, port)) => (&text[..bracket_end + name_end.len()], port),
        None => return Err(format!("\"{text}\" has no port")),
    };
    let port: u16 = match port.parse() {
        // parse() would take "+25".
        Ok(port @ 1..) if !text.ends_with(&format!("+{port}")) => port,
        _ => return Err(format!("\"{text}\" has a port that is not between 1 and 65535")),
    };
    if host.parse::<IpAddr>().is_ok() {
        // Without brackets RFC 5321 §4.1.3 has no address here, and DNS would be asked for a name of digits.
        return Err(format!("\"{text}\" is an address without brackets"));
    }
    let bare_v6 =
        host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).filter(|ip| ip.contains(':'));
    let domain = match bare_v6 {
        Some(ip) if ip.parse::<IpAddr>().is_ok() => Domain::parse(&format!("[IPv6:{ip}]")),
        _ => Domain::parse(host),
    };
    let host = domain.map_err(|_| format!("\"{text}\" does not begin with a host name"))?;
    Ok(RelayHost { host, port })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAYS: Kind = Kind::Duration("1s", "100d");
    const SIZE: Kind = Kind::Size("64KiB", "1GiB");

    fn string(text: &str) -> DeValue<'_> {
        DeValue::String(text.into())
    }

    fn what<T: std::fmt::Debug>(read: Read<T>) -> String {
        read.unwrap_err().remove(0).text.split(';').next().unwrap_or_default().to_owned()
    }

    #[test]
    fn durations_need_a_unit_and_a_fixed_length() {
        for (text, secs) in [("5d", 432_000), ("4h", 14_400), ("30s", 30), ("1h30m", 5400), ("2w", 1_209_600)]
        {
            assert_eq!(duration(&DAYS, &string(text)), Ok(Duration::from_secs(secs)), "{text}");
        }
        for (text, error) in [
            ("5", "\"5\" has no unit"),
            ("", "is empty"),
            ("soon", "\"soon\" is not a duration"),
            ("-5d", "\"-5d\" is negative"),
            ("1 month", "\"1 month\" has no fixed length"),
            ("0s", "\"0s\" is out of range"),
            ("101d", "\"101d\" is out of range"),
            ("99999999999999999999d", "\"99999999999999999999d\" is not a duration"),
        ] {
            assert_eq!(what(duration(&DAYS, &string(text))), error, "{text}");
        }
        assert_eq!(duration_or_off(&Kind::DurationOrOff("1s", "1d"), &string("off")), Ok(None));
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
            ("[2001:db8::1]:25", "[IPv6:2001:db8::1]", 25),
            ("[IPv6:2001:DB8::1]:26", "[IPv6:2001:db8::1]", 26),
        ] {
            let read = relay(text).unwrap();
            assert_eq!((read.host.as_str(), read.port), (host, port), "{text}");
        }
        for bad in [
            "smtp.example",
            "smtp.example:",
            "smtp.example:0",
            "smtp.example:65536",
            "smtp.example:+25",
            ":25",
            "1.2.3.4:25",
            "2001:db8::1:25",
            "[2001:db8::1]",
            "[1.2.3]:25",
            "a b:25",
            "[]:25",
            "]:25",
            "",
        ] {
            assert!(relay(bad).is_err(), "{bad}");
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
        let array = DeValue::parse("['10.0.0.0/8', '192.0.2.1', '2001:db8::/32']").unwrap();
        let read: Vec<String> =
            networks(&Kind::Networks, array.get_ref()).unwrap().iter().map(IpNet::to_string).collect();
        assert_eq!(read, ["10.0.0.0/8", "192.0.2.1/32", "2001:db8::/32"]);
        let array = DeValue::parse("['10.1.0.0/8', 'x', 7]").unwrap();
        let wrongs = networks(&Kind::Networks, array.get_ref()).unwrap_err();
        assert_eq!(wrongs.len(), 3, "every bad item is told: {wrongs:?}");
        assert!(wrongs[0].text.contains("would mean 10.0.0.0/8"), "{wrongs:?}");
    }
}
