//! Answers that are kept: each for its TTL, all together within [`CACHE_BYTES_MAX`]. Pure.
//!
//! A failure that took long is kept for [`FAILURE_TTL`] (RFC 2308 §7 and RFC 9520 §3.2 allow five minutes): a dead name
//! among a domain's hosts would cost every attempt of every message the whole `[dns] timeout`.
//!
//! What is counted is what an answer takes in memory, with its name. One answer has at most [`MX_KEPT_MAX`] hosts,
//! [`ADDRESSES_KEPT_MAX`] addresses, [`TXT_BYTES_MAX`] of text or [`NAMES_KEPT_MAX`] names, whatever a domain puts into
//! DNS. Where there is no room for one more, those that are over make it, and then those that were not asked for the
//! longest.

use std::collections::HashMap;
use std::mem::size_of;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::delivery::route::lookup::{DnsError, MxRecords, TlsaAnswer};
use crate::delivery::smtp::tls::dane::TlsaRecord;

/// MX records kept of one domain, the best.
pub(super) const MX_KEPT_MAX: usize = 100;
/// Addresses kept of one host and family.
pub(super) const ADDRESSES_KEPT_MAX: usize = 64;
/// Text of one name. A name with more has no answer: nobody could say which of its records to leave out.
pub(super) const TXT_BYTES_MAX: usize = 32 << 10;
/// Names kept of one address.
pub(super) const NAMES_KEPT_MAX: usize = 20;
/// TLSA records kept of one host.
pub(super) const TLSA_KEPT_MAX: usize = 32;
/// All answers together.
pub(super) const CACHE_BYTES_MAX: usize = 16 << 20;
/// The longest that an answer is kept, whatever its TTL says.
const TTL_MAX: Duration = Duration::from_secs(24 * 3600);
/// RFC 2308 §5 finds one to three hours sensible; mail to a domain that was just repaired should not wait longer.
const NEGATIVE_TTL_MAX: Duration = Duration::from_secs(3600);
/// A failure that took long. Shorter than any sensible wait between two tries of a message.
pub(super) const FAILURE_TTL: Duration = Duration::from_secs(15);
/// What the map itself takes for an entry, with room to grow.
const ENTRY_BYTES: usize = 2 * (size_of::<Question>() + size_of::<Entry>());

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Mx,
    /// MX records with what DNSSEC says of them.
    MxWithProof,
    V4,
    V6,
    Txt,
    Ptr,
    /// Where CNAME records lead to.
    Alias,
    /// MX records whose signatures are not wrong.
    MxValidated,
    /// Addresses whose signatures are not wrong.
    V4Validated,
    V6Validated,
    /// TLSA records of a host's port 25.
    Tlsa,
}

/// A name in lower case, and what is asked about it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Question {
    pub(super) name: String,
    pub(super) kind: Kind,
}

impl Question {
    pub(super) fn new(name: &str, kind: Kind) -> Question {
        Question { name: name.to_ascii_lowercase(), kind }
    }
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    Mx(MxRecords),
    Addresses(Vec<IpAddr>),
    Tlsa(TlsaAnswer),
    Texts(Vec<String>),
    Names(Vec<String>),
}

/// An answer, or why there is none.
pub(super) type Answer = Result<Found, DnsError>;

/// All that is kept.
#[derive(Debug, Default)]
pub(super) struct Cache {
    entries: HashMap<Question, Entry>,
    bytes: usize,
    /// Questions so far: the order in which entries make room.
    uses: u64,
}

#[derive(Debug)]
struct Entry {
    answer: Answer,
    until: Instant,
    bytes: usize,
    used: u64,
}

impl Cache {
    pub(super) fn get(&mut self, question: &Question, now: Instant) -> Option<Answer> {
        self.uses += 1;
        let entry = self.entries.get_mut(question).filter(|entry| now < entry.until)?;
        entry.used = self.uses;
        Some(entry.answer.clone())
    }

    /// Keeps an answer for `ttl`, and no longer than answers of its kind.
    pub(super) fn insert(&mut self, question: Question, answer: &Answer, ttl: Duration, now: Instant) {
        let ttl = match answer {
            Ok(Found::Tlsa(TlsaAnswer::Absent | TlsaAnswer::Insecure(_))) => ttl.min(NEGATIVE_TTL_MAX),
            Ok(_) => ttl.min(TTL_MAX),
            Err(DnsError::NoData | DnsError::NoSuchDomain) => ttl.min(NEGATIVE_TTL_MAX),
            Err(DnsError::Temporary(_) | DnsError::Bogus(_)) => ttl.min(FAILURE_TTL),
        };
        if ttl.is_zero() {
            return;
        }
        if let Some(old) = self.entries.remove(&question) {
            self.bytes -= old.bytes;
        }
        let mut answer = answer.clone();
        if let Ok(found) = &mut answer {
            found.shrink();
        }
        let bytes =
            ENTRY_BYTES + question.name.capacity() + answer.as_ref().map_or_else(bytes_of, Found::bytes);
        self.make_room(bytes, now);
        self.bytes += bytes;
        self.uses += 1;
        self.entries.insert(question, Entry { answer, until: now + ttl, bytes, used: self.uses });
    }

    pub(super) fn clear(&mut self) {
        *self = Cache::default();
    }

    /// An eighth of the room at a time, so that a flood of new names does not pay for each.
    fn make_room(&mut self, bytes: usize, now: Instant) {
        if self.bytes + bytes <= CACHE_BYTES_MAX {
            return;
        }
        self.entries.retain(|_, entry| now < entry.until);
        let mut by_use: Vec<(u64, usize)> =
            self.entries.values().map(|entry| (entry.used, entry.bytes)).collect();
        by_use.sort_unstable();
        self.bytes = by_use.iter().map(|(_, bytes)| bytes).sum();
        let goal = (CACHE_BYTES_MAX - CACHE_BYTES_MAX / 8).saturating_sub(bytes);
        let mut last_to_go = None;
        for (used, bytes) in by_use {
            if self.bytes <= goal {
                break;
            }
            self.bytes -= bytes;
            last_to_go = Some(used);
        }
        if let Some(last_to_go) = last_to_go {
            self.entries.retain(|_, entry| entry.used > last_to_go);
        }
        // The table itself stays as large as it once was otherwise.
        self.entries.shrink_to_fit();
    }
}

fn bytes_of(error: &DnsError) -> usize {
    match error {
        DnsError::Temporary(why) | DnsError::Bogus(why) => why.capacity(),
        DnsError::NoSuchDomain | DnsError::NoData => 0,
    }
}

impl Found {
    /// No spare room: what is counted is what is taken.
    fn shrink(&mut self) {
        match self {
            Found::Mx(records) => {
                records.hosts.iter_mut().for_each(|(_, host)| host.shrink_to_fit());
                records.hosts.shrink_to_fit();
            }
            Found::Addresses(addresses) => addresses.shrink_to_fit(),
            Found::Tlsa(TlsaAnswer::Records { base, records }) => {
                base.shrink_to_fit();
                records.iter_mut().for_each(|record| record.data.shrink_to_fit());
                records.shrink_to_fit();
            }
            Found::Tlsa(_) => {}
            Found::Texts(texts) | Found::Names(texts) => {
                texts.iter_mut().for_each(String::shrink_to_fit);
                texts.shrink_to_fit();
            }
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Found::Mx(records) => {
                let of_hosts =
                    records.hosts.iter().map(|(_, host)| size_of::<(u16, String)>() + host.capacity());
                records.owner.as_ref().map_or(0, String::capacity) + of_hosts.sum::<usize>()
            }
            Found::Addresses(addresses) => addresses.capacity() * size_of::<IpAddr>(),
            Found::Tlsa(TlsaAnswer::Records { base, records }) => {
                let of_data = records.iter().map(|record| size_of::<TlsaRecord>() + record.data.capacity());
                base.capacity() + of_data.sum::<usize>()
            }
            Found::Tlsa(_) => 0,
            Found::Texts(texts) | Found::Names(texts) => {
                texts.iter().map(|text| size_of::<String>() + text.capacity()).sum()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn addresses(count: u32) -> Answer {
        Ok(Found::Addresses((0..count).map(|n| IpAddr::from(n.to_be_bytes())).collect()))
    }

    fn of(name: &str) -> Question {
        Question::new(name, Kind::V4)
    }

    #[test]
    fn an_answer_is_kept_for_its_ttl_and_its_kind() {
        let now = Instant::now();
        let mut cache = Cache::default();
        cache.insert(of("A.test"), &addresses(1), HOUR, now);
        assert_eq!(cache.get(&of("a.TEST"), now + HOUR / 2), Some(addresses(1)));
        assert_eq!(cache.get(&of("a.test"), now + HOUR), None);
        assert_eq!(cache.get(&Question::new("a.test", Kind::V6), now), None);
        cache.insert(of("long.test"), &addresses(1), HOUR * 1000, now);
        assert_eq!(cache.get(&of("long.test"), now + TTL_MAX), None);
        let failed = || DnsError::Temporary("no answer".to_owned());
        for (error, most) in [
            (DnsError::NoData, NEGATIVE_TTL_MAX),
            (DnsError::NoSuchDomain, NEGATIVE_TTL_MAX),
            (failed(), FAILURE_TTL),
        ] {
            cache.insert(of("b.test"), &Err(error.clone()), HOUR * 1000, now);
            assert_eq!(cache.get(&of("b.test"), now + most / 2), Some(Err(error)));
            assert_eq!(cache.get(&of("b.test"), now + most), None);
            cache.clear();
        }
        // That there is no DANE is such an answer too.
        for none in [TlsaAnswer::Absent, TlsaAnswer::Insecure("nothing is")] {
            let answer = Ok(Found::Tlsa(none));
            cache.insert(of("b.test"), &answer, HOUR * 1000, now);
            assert_eq!(cache.get(&of("b.test"), now + NEGATIVE_TTL_MAX / 2), Some(answer));
            assert_eq!(cache.get(&of("b.test"), now + NEGATIVE_TTL_MAX), None);
        }
        cache.insert(of("zero.test"), &addresses(1), Duration::ZERO, now);
        cache.insert(of("zero.test"), &Err(failed()), Duration::ZERO, now);
        assert_eq!(cache.get(&of("zero.test"), now), None);
    }

    #[test]
    fn its_bytes_are_counted_and_bounded_whatever_is_put_in() {
        let now = Instant::now();
        let mut cache = Cache::default();
        let long = "x".repeat(1000);
        let largest = MxRecords {
            hosts: (0..MX_KEPT_MAX).map(|n| (1, format!("{n}{long}"))).collect(),
            ..MxRecords::default()
        };
        for number in 0..200_000_u32 {
            let answer = match number % 4 {
                0 if number % 100 == 0 => Ok(Found::Mx(largest.clone())),
                0 => Err(DnsError::NoSuchDomain),
                2 if number % 100 == 2 => Ok(Found::Texts(vec![long.clone(); TXT_BYTES_MAX / 1000])),
                1 if number % 50 == 1 => Err(DnsError::Temporary(long.clone())),
                3 if number % 100 == 3 => Ok(Found::Tlsa(TlsaAnswer::Records {
                    base: long.clone(),
                    records: vec![
                        TlsaRecord { usage: 3, selector: 0, matching: 0, data: vec![7; 2000] };
                        TLSA_KEPT_MAX
                    ],
                })),
                _ => addresses(ADDRESSES_KEPT_MAX as u32),
            };
            cache.insert(of(&format!("{number}.test")), &answer, HOUR, now);
            assert!(cache.bytes <= CACHE_BYTES_MAX);
        }
        let counted: usize = cache.entries.values().map(|entry| entry.bytes).sum();
        assert_eq!(cache.bytes, counted);
        let taken: usize = cache
            .entries
            .iter()
            .map(|(question, entry)| {
                question.name.capacity() + entry.answer.as_ref().map_or_else(bytes_of, Found::bytes)
            })
            .sum::<usize>()
            + cache.entries.capacity() * (size_of::<Question>() + size_of::<Entry>() + 1);
        assert!(taken <= CACHE_BYTES_MAX + CACHE_BYTES_MAX / 4, "{taken} bytes are taken");
        assert!(counted > CACHE_BYTES_MAX / 2, "and it is used: {counted}");
    }

    #[test]
    fn what_was_asked_for_last_stays() {
        let now = Instant::now();
        let mut cache = Cache::default();
        cache.insert(of("busy.test"), &addresses(1), HOUR, now);
        for number in 0..100_000 {
            cache.insert(of(&format!("{number}.test")), &addresses(64), HOUR, now);
            assert!(cache.get(&of("busy.test"), now).is_some(), "after {number}");
        }
        assert!(cache.get(&of("0.test"), now).is_none());
    }
}
