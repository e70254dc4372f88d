//! What holds in whatever order things happen.

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Add(u8, i8),
    Next,
    Finish(u8, u8),
    Forget,
    Pass(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0u8..12, -2i8..3).prop_map(|(domain, priority)| Step::Add(domain, priority)),
        4 => Just(Step::Next),
        4 => (any::<u8>(), 0u8..3).prop_map(|(which, health)| Step::Finish(which, health)),
        1 => Just(Step::Forget),
        2 => (1u8..200).prop_map(Step::Pass),
    ];
    proptest::collection::vec(step, 1..200)
}

proptest! {
    /// Whatever happens in whatever order: limits hold, no recipient is in two jobs, no lane that backs off
    /// gets a turn, and the running sums are right.
    #[test]
    fn invariants_hold_in_any_order(steps in steps()) {
        let mut lanes = lanes();
        let (mut now, mut next_id) = (0i64, 0i64);
        let mut flying: Vec<Job> = Vec::new();
        let mut backing_off: HashMap<String, i64> = HashMap::new();
        for step in steps {
            match step {
                Step::Add(domain, priority) => {
                    next_id += 1;
                    let due = due(next_id, next_id / 2, &format!("d{domain}.test"));
                    lanes.add(Due { priority: Priority::clamped(priority.into()), ..due }, now);
                }
                Step::Next => if let Some(job) = lanes.next(now) {
                    prop_assert!(backing_off.get(&*job.lane).is_none_or(|until| *until <= now));
                    let overlap = flying.iter().flat_map(ids).any(|id| ids(&job).contains(&id));
                    prop_assert!(!overlap);
                    flying.push(job);
                    prop_assert!(flying.len() <= 24);
                    for job in &flying {
                        prop_assert!(flying.iter().filter(|other| other.lane == job.lane).count() <= 2);
                    }
                },
                Step::Finish(which, health) if !flying.is_empty() => {
                    let job = flying.swap_remove(which as usize % flying.len());
                    let health = [LaneHealth::Healthy, LaneHealth::Unchanged, failing()][health as usize].clone();
                    if let Some(LaneChange::BacksOff(row)) = lanes.finished(&job, &health, &[], now) {
                        backing_off.insert(row.lane, row.backoff_until);
                    } else if health == LaneHealth::Healthy {
                        backing_off.remove(&*job.lane);
                    }
                    lanes.settled(job.recipient_ids());
                }
                Step::Finish(..) => {}
                Step::Forget => lanes.forget_waiting(),
                Step::Pass(secs) => {
                    now += i64::from(secs);
                    lanes.wake(now);
                    // The database has nothing more than what was forgotten here.
                    for refill in lanes.refills(9, now) {
                        lanes.refilled(&refill, Vec::new(), None, now);
                    }
                }
            }
            lanes.check();
        }
    }
}
