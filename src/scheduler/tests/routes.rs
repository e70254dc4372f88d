//! What it costs to read a backlog for the lanes of many routes: rows read, for each row that goes out.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Bound;

use super::*;
use crate::mail::tlsrpt;
use crate::queue::gauge_rows::{AgeCounts, CountFrom, DiskUse, DomainCount, SmallCounts};
use crate::queue::rows::{Fetched, LaneCount, PendingReports};
use crate::queue::{
    Asker, BytesByUser, DueCursor, DueDomains, Expired, ExpiryCursor, HostSetting, Kickable, LoginRows, Over,
    Place, QueueError, Reads, StsPolicyRow, Suspension, Sweep, TlsReportDue,
};

/// Rows in memory, which counts those that it gives.
#[derive(Debug, Default)]
pub(super) struct Counted {
    pub(super) rows: RefCell<BTreeMap<DueCursor, Due>>,
    pub(super) given: RefCell<usize>,
    pub(super) suspensions: RefCell<Vec<Suspension>>,
}

impl Counted {
    fn give(&self, found: Vec<Due>) -> Result<Vec<Due>, QueueError> {
        *self.given.borrow_mut() += found.len();
        Ok(found)
    }

    fn pick_by_place(
        &self,
        limit: usize,
        after: Option<Place>,
        is_wanted: impl Fn(&Due) -> bool,
    ) -> Result<Vec<Due>, QueueError> {
        let rows = self.rows.borrow();
        let is_behind = |due: &Due| after.is_none_or(|after| due.place() > after);
        let mut found: Vec<&Due> = rows.values().filter(|due| is_wanted(due) && is_behind(due)).collect();
        found.sort_unstable_by_key(|due| due.place());
        self.give(found.into_iter().take(limit).cloned().collect())
    }
}

impl Reads for Counted {
    fn due(&self, after: DueCursor, until: i64, limit: usize) -> Result<Vec<Due>, QueueError> {
        let rows = self.rows.borrow();
        let behind = rows.range((Bound::Excluded(after), Bound::Unbounded));
        self.give(
            behind.map(|(_, due)| due).take_while(|due| due.due_at <= until).take(limit).cloned().collect(),
        )
    }
    fn due_in_domain(
        &self,
        domain: &Domain,
        after: Option<Place>,
        until: i64,
        limit: usize,
    ) -> Result<Vec<Due>, QueueError> {
        self.pick_by_place(limit, after, |due| due.domain == *domain && due.due_at <= until)
    }
    fn suspensions(&self, _: i64) -> Result<Vec<Suspension>, QueueError> {
        Ok(self.suspensions.borrow().clone())
    }
    fn urgent(&self, after: Option<Place>, until: i64, limit: usize) -> Result<Vec<Due>, QueueError> {
        self.pick_by_place(limit, after, |due| due.priority > Priority::NORMAL && due.due_at <= until)
    }
    fn due_domains(&self, after: &str, until: i64, max: usize) -> Result<DueDomains, QueueError> {
        let mut oldest = BTreeMap::new();
        for due in
            self.rows.borrow().values().filter(|due| due.domain.as_str() > after && due.due_at <= until)
        {
            oldest.entry(due.domain.clone()).or_insert(due.due_at);
        }
        let due: Vec<(Domain, i64)> = oldest.into_iter().take(max).collect();
        let last = due.last().filter(|_| due.len() == max).map(|(domain, _)| domain.to_string());
        Ok(DueDomains { due, searched: last })
    }
    fn kickable(&self, _: &Kick, _: &Asker, _: i64) -> Result<Kickable, QueueError> {
        Ok(Kickable::default())
    }
    fn next_due_after(&self, _: i64) -> Result<Option<i64>, QueueError> {
        Ok(None)
    }
    fn expired(&self, after: ExpiryCursor, over: &Over, limit: usize) -> Result<Expired, QueueError> {
        // Where something is over, all of it is; the cursor counts.
        let ExpiryCursor::Returned(from) = after else {
            return Ok(Expired { due: Vec::new(), searched: None });
        };
        let rows = self.rows.borrow();
        let is_over = |due: &&Due| over.deadline > 0 && due.recipient.0 > from;
        let due: Vec<Due> = rows.values().filter(is_over).take(limit).cloned().collect();
        let searched = due.last().map(|last| ExpiryCursor::Returned(last.recipient.0));
        Ok(Expired { due, searched })
    }
    fn backoffs(&self) -> Result<Vec<BackoffRow>, QueueError> {
        Ok(Vec::new())
    }

    // The reader asks for nothing else.

    fn has_room(&self, _: u64) -> bool {
        unreachable!()
    }
    fn lock_holder(&self) -> Option<String> {
        None
    }
    fn why_no_room(&self) -> Option<String> {
        unreachable!()
    }
    fn in_doubt(&self) -> Result<Vec<(MessageId, Vec<RecipientId>)>, QueueError> {
        unreachable!()
    }
    fn message(&self, _: MessageId, _: &[RecipientId]) -> Result<Fetched, QueueError> {
        unreachable!()
    }
    fn knows(&self, _: MessageId) -> Result<bool, QueueError> {
        unreachable!()
    }
    fn size(&self, _: MessageId) -> Result<Option<u64>, QueueError> {
        unreachable!()
    }
    fn chunk(&self, _: MessageId, _: u32) -> Result<Option<Vec<u8>>, QueueError> {
        unreachable!()
    }
    fn sts_policy(&self, _: &str) -> Result<Option<StsPolicyRow>, QueueError> {
        Ok(None)
    }
    fn sts_policies_due(&self, _: i64, _: i64, _: usize) -> Result<Vec<String>, QueueError> {
        Ok(Vec::new())
    }
    fn host_settings(&self) -> Result<Vec<HostSetting>, QueueError> {
        unreachable!()
    }
    fn logins(&self) -> Result<LoginRows, QueueError> {
        unreachable!()
    }
    fn reports_since(&self, _: &str, _: i64, _: usize) -> Result<Vec<i64>, QueueError> {
        unreachable!()
    }
    fn pending_report_senders(&self, _: i64, _: i64, _: usize) -> Result<Vec<String>, QueueError> {
        unreachable!()
    }
    fn pending_reports(&self, _: &str, _: usize) -> Result<Option<PendingReports>, QueueError> {
        unreachable!()
    }
    fn tls_reports_due(&self, _: i64, _: usize) -> Result<Vec<TlsReportDue>, QueueError> {
        unreachable!()
    }
    fn tls_results(&self, _: i64, _: &str) -> Result<Vec<tlsrpt::report::Counted>, QueueError> {
        unreachable!()
    }
    fn bytes_by_user(&self) -> Result<BytesByUser, QueueError> {
        unreachable!()
    }
    fn domains(&self) -> Result<Vec<Domain>, QueueError> {
        unreachable!()
    }
    fn waiting_by_lane(&self, _: &dyn Fn(&Domain) -> Arc<str>) -> Result<Vec<LaneCount>, QueueError> {
        unreachable!()
    }
    fn count_by_age(&self, _: CountFrom, _: i64) -> Result<(AgeCounts, Option<CountFrom>), QueueError> {
        unreachable!()
    }
    fn count_by_domain(&self, _: &str, _: i64, _: usize) -> Result<Vec<DomainCount>, QueueError> {
        unreachable!()
    }
    fn small_counts(&self, _: i64) -> Result<SmallCounts, QueueError> {
        unreachable!()
    }
    fn disk_use(&self) -> Option<DiskUse> {
        unreachable!()
    }
    fn look_for_damage(&self) -> Result<usize, QueueError> {
        unreachable!()
    }
    fn stuck(&self, _: MessageId) -> Result<(Sweep, Option<MessageId>), QueueError> {
        unreachable!()
    }
}

const LANES: usize = 200;
const ROWS_OF_EACH: usize = 20;

/// Rows read for each that goes out, until all are gone: `ROWS_OF_EACH` for each domain, which come due in turns, read
/// in portions in which not all of them fit.
fn read_for_each(pattern: impl Fn(usize) -> DomainPattern) -> usize {
    let route = |lane| Route { domain: pattern(lane), ..relay_for_all() };
    let routes = Arc::new(Routes((0..LANES).map(route).collect()));
    let lanes = Mutex::new(Lanes::new(SchedulerSettings { routes, ..settings() }, 1));
    let queue = Counted::default();
    for number in 0..LANES * ROWS_OF_EACH {
        let id = 1 + number as i64;
        let row = Due { due_at: id, ..due(id, id, &format!("mail.d{}.test", number % LANES)) };
        queue.rows.borrow_mut().insert(row.cursor(), row);
    }
    let now = 1_000_000;
    let mut reader = Reader::new(Portions { page: 50, pages: 20, refills: 50, domains: 2_000 }, at(now));
    for _ in 0..100_000 {
        let over = Over { deadline: 0, bounces_from: 0, messages_from: 0 };
        reader.look(&queue, &lanes, &|| {}, at(now), &over).unwrap();
        while let Some(job) = { lanes.lock().unwrap().next(now) } {
            let gone: Vec<RecipientId> = job.recipient_ids().collect();
            queue.rows.borrow_mut().retain(|_, due| !gone.contains(&due.recipient));
            let mut lanes = lanes.lock().unwrap();
            lanes.finished(&job, &LaneHealth::Healthy, &[], now);
            lanes.settled(gone);
        }
        if queue.rows.borrow().is_empty() {
            return queue.given.borrow().div_ceil(LANES * ROWS_OF_EACH);
        }
    }
    panic!("{} rows are left", queue.rows.borrow().len());
}

/// Each lane read all that was due, to find its own in it.
#[test]
fn a_thousand_routes_do_not_read_each_other_s_rows() {
    let name = |lane| format!("mail.d{lane}.test");
    let by_mx = read_for_each(|_| DomainPattern::Exactly("unused.test".to_owned()));
    let of_one = read_for_each(|lane| DomainPattern::Exactly(name(lane)));
    let of_many = read_for_each(|lane| DomainPattern::Below(format!("d{lane}.test")));
    let all = read_for_each(|_| DomainPattern::Any);
    assert!(by_mx <= 3 && of_one <= 3 && of_many <= 10 && all <= 3, "{by_mx} {of_one} {of_many} {all}");
}

/// After an outage of a week all of a queue may be over at once.
#[test]
fn what_is_over_is_not_read_faster_than_it_is_returned() {
    let lanes = Mutex::new(super::lanes());
    let queue = Counted::default();
    let row = |id| Due { due_at: i64::MAX - 20_000 + id, ..due(id, id, "a.test") };
    for row in (1..=20_000).map(row) {
        queue.rows.borrow_mut().insert(row.cursor(), row);
    }
    let mut reader = Reader::new(Portions::default(), at(0));
    let over = Over { deadline: 1, bounces_from: 0, messages_from: 0 };
    let mut returned = 0;
    for look in 0..200 {
        reader.look(&queue, &lanes, &|| {}, at(look), &over).unwrap();
        let mut lanes = lanes.lock().unwrap();
        assert!(lanes.expired_waiting() <= 6_000, "{}", lanes.expired_waiting());
        // From the tenth look on they are taken.
        for _ in 0..if look < 10 { 0 } else { 700 } {
            let Some(job) = lanes.next(look) else { break };
            returned += job.recipients.len();
            let gone: Vec<RecipientId> = job.recipient_ids().collect();
            gone.iter().for_each(|id| drop(queue.rows.borrow_mut().remove(&row(id.0).cursor())));
            lanes.finished(&job, &LaneHealth::Unchanged, &[], look);
            lanes.settled(gone);
        }
    }
    assert_eq!(returned, 20_000);
}

/// For the routes with a pattern: rows of all of them are in memory until the walk ends.
#[test]
fn a_look_for_many_routes_holds_no_more_rows_than_may_be() {
    let all = Portions::default();
    assert_eq!(all.page * all.pages, 20_000);
    let route = |lane| Route { domain: DomainPattern::Below(format!("d{lane}.test")), ..relay_for_all() };
    let routes = Arc::new(Routes((0..20).map(route).collect()));
    let lanes = Mutex::new(Lanes::new(SchedulerSettings { routes, ..settings() }, 1));
    let queue = Counted::default();
    for id in 1..=4_000i64 {
        let priority = Priority::clamped(id % 2);
        let row = Due { priority, ..due(id, id, &format!("mail.d{}.test", id / 2 % 20)) };
        if id <= 40 {
            lanes.lock().unwrap().add(row.clone(), 0);
        }
        queue.rows.borrow_mut().insert(row.cursor(), row);
    }
    lanes.lock().unwrap().forget_waiting();
    let refills = lanes.lock().unwrap().refills(50, 0);
    assert_eq!(refills.len(), 20);
    let portions = Portions { page: 10, pages: 20, ..all };
    let urgent = Urgent::default().read(&queue, &lanes, portions, 1_000).unwrap();
    let parts = rows_of_lanes(&queue, &lanes, portions, &refills, urgent, 1_000).unwrap();
    let held: usize = parts.iter().map(|(found, _)| found.len()).sum();
    // The urgent ones, and as many again of all.
    assert!((200..=400).contains(&held) && *queue.given.borrow() <= 400, "{held}");
}
