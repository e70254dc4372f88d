//! The contract suite: rules that every store must keep, said in the queue's verbs and those of the command line
//! alone.
//!
//! A rule is a function of a [`Site`]; `each_store!` makes it a test for each store. What only one store has (its
//! tables, its locks, its errors) is tested beside that store.

mod dialogues;
mod due;
mod filters;
mod messages;
mod people;
mod reports;
mod tls;

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, unbounded};

use crate::config::QueueSettings;
use crate::mail::address;
use crate::queue::contract::OpenStore;
use crate::queue::open::BUSY_PATIENCE;
use crate::queue::shared::now_us;
use crate::queue::sqlite::{self, Database};
use crate::queue::tests::sample::{self, ChangeAll as _, DELIVERED, settlement};
use crate::queue::*;

const PATIENCE: Duration = Duration::from_secs(20);

/// Where a store under test is kept, from one start to the next.
trait Place {
    fn open(&self) -> Result<Box<dyn OpenStore>, QueueError>;
    /// The command line.
    fn admin(&self) -> Box<dyn AdminStore>;
}

struct Directory(tempfile::TempDir);

impl Place for Directory {
    fn open(&self) -> Result<Box<dyn OpenStore>, QueueError> {
        let path = self.0.path().join("queue.db");
        Ok(Box::new(Database::open(&QueueSettings {
            path,
            history: Duration::from_secs(3600),
            litestream: false,
        })?))
    }

    fn admin(&self) -> Box<dyn AdminStore> {
        Box::new(sqlite::admin::Admin::open(&self.0.path().join("queue.db"), true).unwrap())
    }
}

macro_rules! each_store {
    ($($file:ident: $($rule:ident)*;)*) => {
        mod on_sqlite {
            $($(
                #[test]
                fn $rule() {
                    let place = super::Directory(tempfile::tempdir().unwrap());
                    super::$file::$rule(super::Site::open(Box::new(place)));
                }
            )*)*
        }
    };
}

each_store! {
    messages:
        a_message_goes_from_accept_to_history
        what_was_accepted_is_there_after_a_restart
        ids_only_grow_over_restarts
        only_one_process_has_a_store
        content_arrives_in_chunks_and_leaves_in_chunks
        what_had_not_arrived_whole_is_no_message
        content_that_goes_while_it_is_read_is_an_error_and_not_a_shorter_message
        an_id_used_twice_is_refused_and_spoils_nothing
        a_bounce_commits_with_the_outcome_that_causes_it
        an_intent_to_send_the_dot_outlives_the_process
        a_quota_is_never_exceeded_and_what_is_gone_makes_room
        handling_comes_back_as_it_was_given;
    dialogues:
        what_was_said_is_kept_once_for_all_whom_the_attempt_failed_for;
    due:
        a_page_can_end_inside_one_second
        expired_ones_are_found_and_held_ones_are_not
        a_message_ends_with_the_lifetime_of_now_or_at_a_time_of_its_own
        held_mail_past_its_lifetime_is_walked_a_part_at_a_time_and_hides_nothing
        a_message_for_two_domains_of_one_lane_is_one_message_in_it
        a_kick_forgets_the_backoff_and_says_how_many_wait;
    filters:
        a_filter_selects_what_a_slow_reading_of_each_row_does
        a_change_is_for_what_its_filter_selects
        a_change_is_for_what_was_selected_and_is_still_the_same
        a_kick_ends_the_backoff_of_what_it_kicks_and_of_nothing_else
        a_change_can_end_between_two_parts
        same_reasons_are_one_line_and_the_oldest_comes_first;
    people:
        a_change_from_outside_is_noticed_and_our_own_is_none
        what_came_of_a_recipient_that_was_removed_meanwhile_is_in_history
        an_operator_who_holds_during_an_attempt_is_obeyed
        an_operator_kicks_holds_releases_and_removes_while_the_relay_runs
        what_holds_mail_is_told_apart_and_a_release_of_one_leaves_the_others
        what_operators_changed_is_listed_the_latest_first
        what_waits_is_counted_for_monitoring
        host_settings_outlive_the_process
        what_is_suspended_is_shown_with_what_waits_until_it_is_resumed_or_over
        a_suspension_means_what_its_view_shows_and_no_more_than_its_bound_count;
    reports:
        reports_are_counted_for_the_mailbox_and_survive_a_restart
        what_is_gathered_is_told_of_once_and_what_comes_meanwhile_later;
    tls:
        sessions_are_counted_with_the_settlement_and_survive_a_restart
        a_report_is_planned_once_and_its_mail_is_queued_with_the_note_of_it;
}

/// A queue on its place.
struct Site {
    place: Box<dyn Place>,
    queue: Queue,
    writer: WriterHandle,
    events: Receiver<Event>,
}

impl Site {
    fn open(place: Box<dyn Place>) -> Site {
        let (sender, events) = unbounded();
        let (queue, writer) = Queue::start(place.open().unwrap(), BUSY_PATIENCE, sender).unwrap();
        Site { place, queue, writer, events }
    }

    /// Ends as the process would and starts again.
    fn restart(self) -> Site {
        let Site { place, queue, writer, events } = self;
        writer.stop().unwrap();
        drop((queue, events));
        Site::open(place)
    }

    /// The next event, but for that somebody wrote.
    fn event(&self) -> Event {
        loop {
            match self.events.recv_timeout(PATIENCE).unwrap() {
                Event::ChangedOutside => {}
                event => return event,
            }
        }
    }

    fn accepted(&self) -> Vec<Due> {
        match self.event() {
            Event::Accepted(due) => due,
            other => panic!("{other:?}"),
        }
    }

    fn settled(&self) -> Vec<(RecipientId, Option<i64>)> {
        match self.event() {
            Event::Settled(settled) => settled,
            other => panic!("{other:?}"),
        }
    }

    fn accept(&self, to: &[&str]) -> Vec<Due> {
        self.queue.accept(self.message(to, b"Subject: x\r\n\r\nhello\r\n")).unwrap();
        self.accepted()
    }

    fn message(&self, to: &[&str], content: &[u8]) -> NewMessage {
        sample::message(&self.queue, to, content)
    }

    fn is_well(&self) {
        assert_eq!(self.queue.sweep(0).unwrap(), Sweep::default());
        assert_eq!(self.place.admin().damage().unwrap(), [""; 0]);
    }
}

fn now_secs() -> i64 {
    now_us() / 1_000_000
}

fn ids(due: &[Due]) -> Vec<RecipientId> {
    due.iter().map(|due| due.recipient).collect()
}
