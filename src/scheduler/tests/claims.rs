//! Mail that is fetched: no turns, and nobody gets it twice.

use super::reader::queue_with_newsletters;
use super::*;
use crate::queue::QueueError;
use crate::scheduler::atrn_claims::AtrnClaims;

#[test]
fn mail_that_is_fetched_gets_no_turn_and_takes_no_memory() {
    let mut lanes = lanes_without("a.test");
    lanes.add(due(1, 1, "a.test"), 0);
    lanes.add(due(2, 1, "b.test"), 0);
    assert_eq!(lanes.next(0).map(|job| ids(&job)), Some(vec![2]));
    assert!(lanes.next(0).is_none());
    assert_eq!(lanes.waiting(), 0);
    assert!(lanes.accounts_for(&due(1, 1, "a.test")), "the database holds it");
    // It expires as all mail does, in its own lane.
    lanes.add_expired(vec![due(1, 1, "a.test")], 5);
    let expired = lanes.next(0).unwrap();
    assert_eq!((&*expired.lane, expired.expired), ("atrn:a.test", true));
    lanes.check();
}

#[test]
fn a_claim_takes_recipients_of_one_message_and_domain_once() {
    let mut lanes = lanes_without("a.test");
    let rows = || -> VecDeque<Due> {
        let same = (0..5).map(|n| due(n, 1, "a.test"));
        same.chain([due(9, 1, "b.test"), due(10, 2, "a.test")]).collect()
    };
    let (mut first, mut second) = (rows(), rows());
    let one = lanes.claim(&mut first).unwrap();
    assert_eq!((&*one.lane, ids(&one)), ("atrn:a.test", vec![0, 1, 2]));
    // Somebody else at the same time gets the rest, and the first who comes back nothing of it.
    assert_eq!(ids(&lanes.claim(&mut second).unwrap()), [3, 4]);
    assert_eq!(ids(&lanes.claim(&mut second).unwrap()), [10]);
    assert!(lanes.claim(&mut second).is_none());
    assert!(lanes.claim(&mut first).is_none());
    // What was given back may be claimed again. There is no backing off from who comes by himself.
    lanes.settled([RecipientId(0)]);
    assert!(lanes.finished(&one, &failing(), &[RecipientId(1)], 0).is_none());
    assert_eq!(ids(&lanes.claim(&mut rows()).unwrap()), [0, 1]);
    lanes.check();
}

#[test]
fn who_fetches_looks_through_so_many_pages_and_the_next_one_is_offered_what_was_given_back() {
    let folder = tempfile::tempdir().unwrap();
    let (queue, events) = queue_with_newsletters(folder.path(), 2_500);
    let (scheduler, thread) = Scheduler::start(settings(), queue, events, Clock::system()).unwrap();
    let mut domains = AtrnDomains::default();
    domains.add("big.test", "customer");
    scheduler.set_atrn(domains).unwrap();
    let domains = [Domain::parse("big.test").unwrap()];
    let begin = || AtrnClaims::of(&domains);
    let mut first = begin();
    let jobs: Vec<Job> = std::iter::from_fn(|| scheduler.fetch(&mut first).unwrap()).collect();
    assert_eq!(jobs.iter().map(|job| ids(job).len()).sum::<usize>(), 2_502);
    // Three pages in which all is claimed.
    let refused = scheduler.read_ahead(&mut begin(), 2).unwrap_err();
    assert!(matches!(refused, QueueError::SuspendedBeyondReach), "{refused}");
    let mut second = begin();
    assert!(!scheduler.read_ahead(&mut second, 4).unwrap());
    assert!(!scheduler.has_mail(&domains).unwrap());
    scheduler.finished(&jobs[0], &failing(), &ids_of(&jobs[0]));
    // Behind their backs; not behind that of who comes next.
    assert!(
        scheduler.fetch(&mut first).unwrap().is_none() && scheduler.fetch(&mut second).unwrap().is_none()
    );
    assert!(scheduler.has_mail(&domains).unwrap());
    let again = scheduler.fetch(&mut begin()).unwrap().unwrap();
    assert_eq!(ids(&again), ids(&jobs[0]));
    scheduler.stop();
    thread.join().unwrap();
}

#[test]
fn a_domain_that_is_fetched_from_now_on_leaves_its_lane() {
    let mut lanes = lanes();
    for n in 0..3 {
        lanes.add(due(n, n, "a.test"), 0);
    }
    let under_way = lanes.next(0).unwrap();
    let mut domains = AtrnDomains::default();
    domains.add("a.test", "customer");
    assert_eq!(lanes.set_atrn(domains), AtrnDomains::default());
    assert!(lanes.next(0).is_none());
    assert_eq!(lanes.refills(9, 0), [], "nothing is read for it");
    assert!(!lanes.may_claim(&due(0, 0, "a.test")), "what is under way ends where it is");
    assert!(lanes.may_claim(&due(1, 1, "a.test")));
    lanes.finished(&under_way, &failing(), &[RecipientId(0)], 0);
    assert_eq!(lanes.refills(9, 9_999), []);
    // And back.
    lanes.set_atrn(AtrnDomains::default());
    assert!(!lanes.may_claim(&due(1, 1, "a.test")));
    lanes.check();
}
