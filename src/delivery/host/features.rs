//! How a host is spoken to next, and what an attempt learnt of that: the memory behind `profile.rs`.
//!
//! What is known is read before a conversation and written after it, through the [`Slot`] that the attempt holds.

use crate::config::RouteTls;
use crate::mail::Reply;
use crate::maillog;
use crate::queue::Setting;

use crate::delivery::host::limits::Slot;
use crate::delivery::host::profile::{Feature, HostKnowledge, Lesson};
use crate::delivery::host::settings::lifetime_secs;
use crate::delivery::smtp::endpoint::Endpoint;
use crate::delivery::smtp::profile::{Profile, TlsLevel};

impl Slot {
    /// What is known of the host, for a message on a connection that stands.
    pub(in crate::delivery) fn known(&self) -> HostKnowledge {
        let mut state = self.host.lock();
        let mut known = HostKnowledge { profile: Profile::FULL, pipelining_proved: state.pipelining_proved };
        if !state.settings.is_empty() {
            let now = self.hosts.now();
            known.profile.single_write = state.settings.in_force(Feature::SingleWrite.name(), now).is_none();
            known.profile.reuse = !state.settings.binds_standing(Feature::Reuse.name(), now);
        }
        known
    }

    /// What is known of the host, for a new connection. Where it is time to try a feature again, this is the
    /// connection that does.
    pub(in crate::delivery) fn known_to_open(&self, endpoint: &Endpoint) -> HostKnowledge {
        let mut state = self.host.lock();
        let mut known = HostKnowledge { profile: Profile::FULL, pipelining_proved: state.pipelining_proved };
        if state.settings.is_empty() {
            return known;
        }
        let now = self.hosts.now();
        let mut left_out = |feature: Feature| state.settings.in_force(feature.name(), now);
        let tls = if endpoint.tls == RouteTls::Off { None } else { left_out(Feature::Tls) };
        let tls = match tls {
            Some(Setting::Plaintext) => TlsLevel::Plaintext,
            Some(Setting::NoPostQuantum) => TlsLevel::NoPostQuantum,
            _ => TlsLevel::Full,
        };
        if left_out(Feature::Reuse).is_some() {
            known.profile = Profile { tls, ..Profile::ONE_BY_ONE };
            return known;
        }
        known.profile = Profile {
            tls,
            pipelining: left_out(Feature::Pipelining).is_none(),
            chunking: left_out(Feature::Chunking).is_none(),
            // The first message of a connection never goes in one.
            single_write: true,
            reuse: true,
        };
        known
    }

    /// Takes in what the conversations of an attempt say of the host.
    pub(in crate::delivery) fn remember(&self, lessons: Vec<Lesson>) {
        for lesson in lessons {
            match lesson {
                Lesson::Works(feature) => self.works(feature),
                Lesson::LeaveOut(setting, failure) => self.leave_out(setting, &failure.reply()),
                Lesson::PipeliningProved => self.host.lock().pipelining_proved = true,
                Lesson::PipeliningSuspected => self.host.lock().pipelining_proved = false,
            }
        }
    }

    fn leave_out(&self, setting: Setting, why: &Reply) {
        let (mx, now) = (&self.host.name, self.hosts.now());
        if !self.hosts.make_room_for_settings(&self.host, now) {
            return;
        }
        let mut state = self.host.lock();
        let (row, is_news) = state.settings.found(mx, setting, why, now);
        self.hosts.write(|queue| queue.set_host_setting(row));
        drop(state);
        if is_news {
            maillog::workaround_on(mx, setting, lifetime_secs(setting), why);
        }
    }

    fn works(&self, feature: Feature) {
        let mut state = self.host.lock();
        state.pipelining_proved |= feature == Feature::Pipelining;
        if state.settings.is_empty() {
            return;
        }
        let Some(setting) = state.settings.ended(feature.name(), self.hosts.now()) else { return };
        self.hosts.write(|queue| queue.clear_host_setting(&self.host.name, setting.name()));
        drop(state);
        maillog::workaround_off(&self.host.name, setting);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::delivery::host::hosts::Hosts;
    use crate::delivery::host::hosts::tests::Bench;
    use crate::delivery::smtp::failure::Failure;
    use Feature::{Chunking, Pipelining, Reuse, SingleWrite, Tls};
    use Setting::{NoChunking, NoPipelining, NoPostQuantum, NoReuse, NoSingleWrite, Plaintext};

    fn endpoint(tls: RouteTls) -> Endpoint {
        Endpoint {
            host: "mx.test".to_owned(),
            address: "192.0.2.1:25".parse().unwrap(),
            tls,
            policy: crate::mail::TlsPolicy::None,
            dane: None,
            ca_file: None,
            login: None,
            relay: false,
            preference: 0,
            sources: Arc::default(),
        }
    }

    /// As after a failure of no consequence here.
    fn leave_out(setting: Setting) -> Lesson {
        Lesson::LeaveOut(setting, Failure::NoMoreRecipients)
    }

    #[test]
    fn what_was_learnt_is_what_the_next_connection_goes_by() {
        let bench = Bench::new();
        let slot = bench.slot("mx.test");
        let to_open = |tls| slot.known_to_open(&endpoint(tls));
        assert_eq!(to_open(RouteTls::Opportunistic), HostKnowledge::NOTHING);
        let all = [NoPipelining, NoChunking, NoPostQuantum, NoSingleWrite];
        slot.remember(all.map(leave_out).to_vec());
        let profile =
            Profile { tls: TlsLevel::NoPostQuantum, pipelining: false, chunking: false, ..Profile::FULL };
        assert_eq!(to_open(RouteTls::Opportunistic).profile, profile);
        assert_eq!(to_open(RouteTls::Off).profile, Profile { tls: TlsLevel::Full, ..profile });
        assert!(!slot.known().profile.single_write);
        assert_eq!(bench.slot("mx2.test").known(), HostKnowledge::NOTHING);
        slot.remember(vec![leave_out(Plaintext)]);
        assert_eq!(to_open(RouteTls::Opportunistic).profile.tls, TlsLevel::Plaintext);
        slot.remember(vec![leave_out(NoReuse)]);
        let one_by_one = Profile { tls: TlsLevel::Plaintext, ..Profile::ONE_BY_ONE };
        assert_eq!(to_open(RouteTls::Opportunistic).profile, one_by_one);
        assert!(!slot.known().profile.reuse);
        slot.remember([Tls, Pipelining, Chunking, SingleWrite, Reuse].map(Lesson::Works).to_vec());
        assert_eq!(to_open(RouteTls::Opportunistic).profile, Profile::FULL);
        assert!(slot.known().pipelining_proved, "it took a batch");
        slot.remember(vec![Lesson::PipeliningSuspected]);
        assert!(!slot.known().pipelining_proved, "twice in a row it may be to blame");
        slot.remember(vec![Lesson::PipeliningProved]);
        assert!(to_open(RouteTls::Off).pipelining_proved);
    }

    /// The second message on the connection that tries is the one that shows it.
    #[test]
    fn the_connection_that_tries_reuse_again_carries_a_second_message() {
        let bench = Bench::new();
        let slot = bench.slot("mx.test");
        let to_open = || slot.known_to_open(&endpoint(RouteTls::Opportunistic)).profile.reuse;
        slot.remember(vec![leave_out(NoReuse)]);
        assert!(!to_open() && !slot.known().profile.reuse);
        bench.clock.advance(86_400);
        assert!(to_open(), "this one tries");
        assert!(!to_open(), "the others do not");
        assert!(slot.known().profile.reuse, "its next message");
        slot.remember(vec![Lesson::Works(Reuse)]);
        assert!(to_open() && bench.queue.host_settings().unwrap().is_empty());
    }

    #[test]
    fn what_was_learnt_is_there_for_the_next_process_until_it_works() {
        let bench = Bench::new();
        let slot = bench.slot("mx.test");
        let all = [NoPipelining, NoChunking, Plaintext, NoSingleWrite];
        slot.remember(all.map(leave_out).to_vec());
        let restarted = || {
            bench.queue.barrier().unwrap();
            Bench::slot_of(&Arc::new(Hosts::new(bench.queue.clone(), bench.clock.clone())), "mx.test")
        };
        let known = restarted().known_to_open(&endpoint(RouteTls::Opportunistic)).profile;
        let plaintext = TlsLevel::Plaintext;
        assert_eq!((known.tls, known.pipelining, known.chunking), (plaintext, false, false));
        assert!(!restarted().known().profile.single_write, "a doubt");
        slot.remember([Tls, Pipelining, Chunking, SingleWrite].map(Lesson::Works).to_vec());
        let known = restarted().known_to_open(&endpoint(RouteTls::Opportunistic)).profile;
        assert_eq!(known, Profile::FULL);
        assert!(bench.queue.host_settings().unwrap().is_empty());
    }
}
