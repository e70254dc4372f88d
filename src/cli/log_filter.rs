//! What `RUST_LOG` asks for: `debug`, `off`, `postrider=debug`, `info,postrider::delivery=debug`.
//!
//! It is what programs in Rust understand by it (env_logger). What is not understood is left out and told: a level
//! with a slip of the pen would be a module of that name, and nothing would be logged.

use std::str::FromStr as _;

use log::LevelFilter;

/// The crates that log.
const CRATES: [&str; 5] = ["postrider", "rustls", "ureq", "ureq_proto", "rustyline"];

/// What is understood of `RUST_LOG`, else `default`; and what is said of the rest.
pub(super) fn read(asked: &str, default: &str) -> (String, Vec<String>) {
    let (parts, search) = asked.split_once('/').map_or((asked, None), |(parts, text)| (parts, Some(text)));
    let parts = parts.split(',').map(str::trim).filter(|part| !part.is_empty());
    let (good, bad): (Vec<&str>, Vec<&str>) = parts.partition(|part| is_understood(part));
    let said = |part: &&str| {
        format!(
            "RUST_LOG: {part:?} is not understood and left out; write off, error, warn, info, debug or trace, or \
             MODULE=LEVEL such as postrider::delivery=debug"
        )
    };
    let mut filter = if good.is_empty() { default.to_owned() } else { good.join(",") };
    let mut told: Vec<String> = bad.iter().map(said).collect();
    match search {
        Some(search) if search.contains('/') => {
            told.push(format!("RUST_LOG: there is no / in lines to look for; {search:?} is left out"));
        }
        Some(search) => filter.push_str(&format!("/{search}")),
        None => {}
    }
    (filter, told)
}

fn is_understood(part: &str) -> bool {
    let (name, level) = part.split_once('=').map_or((part, None), |(name, level)| (name, Some(level)));
    let of_crate = name.split("::").next().is_some_and(|name| CRATES.contains(&name));
    match level {
        Some(level) => of_crate && LevelFilter::from_str(level.trim()).is_ok(),
        None => of_crate || LevelFilter::from_str(part).is_ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_understood_counts_and_the_rest_is_told() {
        for (asked, filter, told) in [
            ("", "info", &[][..]),
            ("debug", "debug", &[]),
            ("WARN", "WARN", &[]),
            ("off", "off", &[]),
            ("postrider=debug", "postrider=debug", &[]),
            ("postrider", "postrider", &[]),
            (
                "info, postrider::delivery=trace,rustls=debug",
                "info,postrider::delivery=trace,rustls=debug",
                &[],
            ),
            ("debgu", "info", &["debgu"]),
            ("postrdier=debug", "info", &["postrdier=debug"]),
            ("warn,postrider=loud,postrider=debug=2", "warn", &["postrider=loud", "postrider=debug=2"]),
            ("debug/example.org", "debug/example.org", &[]),
            ("debug/a/b", "debug", &["a/b"]),
        ] {
            let (read, complaints) = read(asked, "info");
            assert_eq!(read, filter, "{asked}");
            assert_eq!(complaints.len(), told.len(), "{asked}: {complaints:?}");
            assert!(complaints.iter().zip(told).all(|(line, part)| line.contains(&format!("{part:?}"))));
        }
    }
}
