//! What was said in failed attempts.

use super::*;
use crate::queue::admin::Filter;

pub(super) fn what_was_said_is_kept_once_for_all_whom_the_attempt_failed_for(site: Site) {
    let due = site.accept(&["a@example.com", "b@example.com", "c@example.com"]);
    let fresh = due[0].fresh.clone().unwrap();
    let settle = |results: &[(usize, NextState)], dialogue: &str| {
        let results = results.iter().map(|(at, next)| (due[*at].recipient, *next)).collect();
        let dialogue = (!dialogue.is_empty()).then(|| dialogue.to_owned());
        site.queue.settle(Settlement { dialogue, ..settlement(&fresh, results) });
        site.settled();
    };
    let said = || -> Vec<String> {
        let lines = site.place.admin().dialogues(fresh.id).unwrap();
        lines.iter().map(|line| format!("{}: {}", line.recipients.join(" "), line.dialogue)).collect()
    };
    settle(&[(0, NextState::Retry(9))], "");
    assert_eq!(said(), [""; 0]);
    settle(
        &[(0, DELIVERED), (1, NextState::Retry(9)), (2, NextState::Hold(HeldBy::InDoubt))],
        "S: 451 4.7.1 later",
    );
    assert_eq!(said(), ["b@example.com c@example.com: S: 451 4.7.1 later"]);
    // The last of each; what goes well changes nothing.
    settle(&[(1, NextState::Retry(9))], "S: 452 4.2.2 full");
    settle(&[(2, DELIVERED)], "");
    let both = ["c@example.com: S: 451 4.7.1 later", "b@example.com: S: 452 4.2.2 full"];
    assert_eq!(said(), both);
    // One that failed before anything was said is told of.
    let later = || -> Vec<Option<String>> {
        site.place.admin().dialogues(fresh.id).unwrap().into_iter().map(|line| line.later).collect()
    };
    assert_eq!(later(), [None, None]);
    settle(&[(1, NextState::Retry(9))], "");
    assert_eq!(said(), both);
    let later = later();
    assert!(later[0].is_none(), "delivered since: {later:?}");
    assert!(later[1].as_ref().is_some_and(|later| later.ends_with("451 4.7.1 come back later")), "{later:?}");
    // Of a message that is finished, as of one that waits.
    settle(&[(1, NextState::Finished(Finished::Failed))], "");
    assert_eq!(said(), both);
    // What is removed takes it along.
    let due = site.accept(&["d@example.com"]);
    let fresh = due[0].fresh.as_ref().unwrap();
    let dialogue = Some("S: 451 4.7.1 later".to_owned());
    let results = vec![(due[0].recipient, NextState::Retry(9))];
    site.queue.settle(Settlement { dialogue, ..settlement(fresh, results) });
    site.settled();
    assert_eq!(site.place.admin().dialogues(fresh.id).unwrap().len(), 1);
    site.place.admin().remove(&Filter::message(fresh.id)).unwrap();
    assert_eq!(site.place.admin().dialogues(fresh.id).unwrap(), []);
    assert_eq!(said(), both, "and nothing else");
    assert_eq!(site.place.admin().dialogues(MessageId(7)).unwrap(), []);
    site.is_well();
}
