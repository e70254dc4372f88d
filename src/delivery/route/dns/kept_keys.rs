//! Answers to questions for keys (DS and DNSKEY), kept for the next proof: most of a proof's questions are for the keys
//! of the root and of the top-level domain, which are the same for all domains below.
//!
//! Only answers of a proof that held are kept, as the server gave them: each proof verifies their signatures anew. They
//! last as long as their TTL (RFC 4035 §4.5), ten minutes at most, and those above a name go where its proof fails.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hickory_resolver::proto::op::{DnsResponse, Query};
use hickory_resolver::proto::rr::{Name, RecordType};

use crate::kit::bounded::TtlMap;

/// Answers: each zone takes two.
const ANSWERS_MAX: usize = 1000;
/// Of one answer on the wire. The root's keys take 1.1 KB while one is replaced.
const ANSWER_BYTES_MAX: usize = 4 << 10;
/// In one answer, with their signatures: small ones take more memory than bytes on the wire.
const RECORDS_MAX: usize = 32;
const KEPT_MAX: Duration = Duration::from_secs(600);

/// The keys of zones, of one set of servers.
pub(super) struct KeptKeys(Mutex<TtlMap<Query, Kept, Instant>>);

struct Kept {
    answer: DnsResponse,
    until: Instant,
}

impl Default for KeptKeys {
    fn default() -> KeptKeys {
        KeptKeys(Mutex::new(TtlMap::new(ANSWERS_MAX, KEPT_MAX)))
    }
}

impl KeptKeys {
    pub(super) fn get(&self, query: &Query, now: Instant) -> Option<DnsResponse> {
        self.lock().get(query, now).filter(|kept| now < kept.until).map(|kept| kept.answer.clone())
    }

    /// Keeps an answer that was heard just now. Once it is known it lasts no longer for being heard again.
    pub(super) fn keep(&self, query: Query, answer: &DnsResponse, now: Instant) {
        let ttl = answer.answers.iter().map(|record| record.ttl).min().unwrap_or(0);
        let records = answer.answers.len() + answer.authorities.len();
        let fits = ttl > 0 && records <= RECORDS_MAX && answer.as_buffer().len() <= ANSWER_BYTES_MAX;
        if is_of_keys(query.query_type()) && fits && self.get(&query, now).is_none() {
            let until = now + Duration::from_secs(ttl.into()).min(KEPT_MAX);
            self.lock().insert(query, Kept { answer: answer.clone(), until }, now);
        }
    }

    /// Drops the keys of the zones that a name may be in.
    pub(super) fn forget_above(&self, name: &Name, now: Instant) {
        for zone in (0..=name.iter().len()).map(|labels| name.trim_to(labels)) {
            for kind in [RecordType::DS, RecordType::DNSKEY] {
                self.lock().remove(&Query::query(zone.clone(), kind), now);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, TtlMap<Query, Kept, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether this type of record tells of keys.
pub(super) fn is_of_keys(kind: RecordType) -> bool {
    matches!(kind, RecordType::DS | RecordType::DNSKEY)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_resolver::proto::op::{Message, MessageType, OpCode};
    use hickory_resolver::proto::rr::rdata::TXT;
    use hickory_resolver::proto::rr::{RData, Record};

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn keys_of(zone: &str) -> Query {
        Query::query(name(zone), RecordType::DNSKEY)
    }

    fn answer(zone: &str, ttl: u32) -> DnsResponse {
        answer_of(zone, ttl, 1, 100)
    }

    /// An answer with so many records of so many bytes.
    fn answer_of(zone: &str, ttl: u32, records: usize, bytes: usize) -> DnsResponse {
        let mut message = Message::new(1, MessageType::Response, OpCode::Query);
        for _ in 0..records {
            let text = RData::TXT(TXT::new(vec!["x".repeat(bytes)]));
            message.answers.push(Record::from_rdata(name(zone), ttl, text));
        }
        DnsResponse::from_message(message).unwrap()
    }

    #[test]
    fn keys_last_as_long_as_their_ttl_and_ten_minutes_at_most() {
        for (ttl, kept) in [(0, 0), (60, 60), (600, 600), (86_400, 600)] {
            let (keys, now) = (KeptKeys::default(), Instant::now());
            keys.keep(keys_of("test."), &answer("test.", ttl), now);
            // Being heard of again makes them no younger.
            let later = now + Duration::from_secs(kept / 2);
            keys.keep(keys_of("test."), &answer("test.", ttl), later);
            let is_kept = |secs| keys.get(&keys_of("test."), now + Duration::from_secs(secs)).is_some();
            assert_eq!((kept > 0 && is_kept(kept - 1), is_kept(kept)), (kept > 0, false), "{ttl}");
        }
    }

    #[test]
    fn only_keys_are_kept_and_those_above_a_name_can_be_dropped() {
        let (keys, now) = (KeptKeys::default(), Instant::now());
        let others = Query::query(name("test."), RecordType::TXT);
        keys.keep(others.clone(), &answer("test.", 60), now);
        assert!(keys.get(&others, now).is_none());
        for zone in [".", "test.", "a.test.", "b.test."] {
            keys.keep(keys_of(zone), &answer(zone, 60), now);
        }
        keys.forget_above(&name("mx.a.test."), now);
        let left = [".", "test.", "a.test.", "b.test."].map(|zone| keys.get(&keys_of(zone), now).is_some());
        assert_eq!(left, [false, false, false, true]);
    }

    #[test]
    fn what_is_kept_is_bounded_in_number_and_size() {
        let (keys, now) = (KeptKeys::default(), Instant::now());
        let large = answer_of(".", 60, RECORDS_MAX, ANSWER_BYTES_MAX / RECORDS_MAX);
        for too_much in [large, answer_of(".", 60, RECORDS_MAX + 1, 4)] {
            keys.keep(keys_of("."), &too_much, now);
            assert!(keys.get(&keys_of("."), now).is_none());
        }
        keys.keep(keys_of("."), &answer_of(".", 60, RECORDS_MAX, 4), now);
        assert!(keys.get(&keys_of("."), now).is_some());
        for zone in 0..3 * ANSWERS_MAX {
            keys.keep(keys_of(&format!("z{zone}.")), &answer("z.", 60), now);
        }
        assert!(keys.lock().count(now) <= ANSWERS_MAX);
    }
}
