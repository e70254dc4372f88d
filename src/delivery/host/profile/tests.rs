//! Conversations with a host, made up: what is tried next, and what is learnt.

use std::sync::Arc;

use crate::config::{Login, RouteTls, SecretSource};
use crate::mail::{Enhanced, Reply, TlsPolicy};

use crate::delivery::host::profile::*;
use crate::delivery::smtp::timeouts::Stage;

fn endpoint(tls: RouteTls) -> Endpoint {
    Endpoint {
        host: "mx.a.test".to_owned(),
        address: "192.0.2.1:25".parse().unwrap(),
        tls,
        policy: TlsPolicy::None,
        dane: None,
        ca_file: None,
        login: None,
        relay: false,
        preference: 10,
        sources: Arc::default(),
    }
}

fn with_login(tls: RouteTls) -> Endpoint {
    let secret = SecretSource::PasswordFile("/secret".into());
    Endpoint { login: Some(Login { username: "me".to_owned(), secret }), ..endpoint(tls) }
}

fn knowing(tls: TlsLevel) -> HostKnowledge {
    HostKnowledge { profile: Profile { tls, ..Profile::FULL }, ..HostKnowledge::NOTHING }
}

fn handshake(fault: Fault) -> Failure {
    Failure::Tls(TlsFailure::Handshake(fault))
}

fn lost(phase: Phase) -> Failure {
    Failure::no_reply(Stage::of(phase), Fault::Lost(None))
}

fn said(phase: Phase, code: u16) -> Failure {
    let reply = Reply::new(code, Enhanced((code / 100) as u8, 5, 1), "words").from_remote();
    Failure::BadReply { phase, reply }
}

fn well() -> Evidence {
    Evidence::opened(TlsResult::Unused)
}

/// A conversation on a fresh connection in which this went wrong.
fn failed(failure: Failure) -> Evidence {
    Evidence { failure: Some(failure), is_usable: false, ..well() }
}

fn silent_in_a_batch() -> Evidence {
    let sign = PipelineResult::Broken(PipelineFault::NoReply(lost(Phase::Rcpt)));
    Evidence { pipelining: sign, ..failed(lost(Phase::Rcpt)) }
}

fn out_of_sync(code: u16) -> Evidence {
    let failure = said(Phase::Rcpt, code);
    let sign = PipelineResult::Broken(PipelineFault::OutOfSync(failure.clone()));
    Evidence { pipelining: sign, ..failed(failure) }
}

fn reported() -> Evidence {
    let failure = said(Phase::Mail, 503);
    let sign = PipelineResult::Broken(PipelineFault::Reported(failure.clone()));
    Evidence { pipelining: sign, ..failed(failure) }
}

const NO_PIPELINING: Profile = Profile { pipelining: false, ..Profile::FULL };
const NO_CHUNKING: Profile = Profile { chunking: false, ..Profile::FULL };

/// All levels that are tried where every handshake fails.
fn levels(endpoint: &Endpoint, known: TlsLevel) -> Vec<TlsLevel> {
    let known = knowing(known);
    let mut profile = known.profile_for(endpoint);
    let mut levels = vec![profile.tls];
    let evidence = Evidence::unopened(handshake(Fault::Lost(None)));
    while let Some(next) = fallback(&profile, &evidence, endpoint, &known) {
        profile = next;
        levels.push(profile.tls);
    }
    levels
}

#[test]
fn plaintext_is_the_last_level_where_tls_is_optional_and_none_elsewhere() {
    use RouteTls::{Encrypt, Implicit, Opportunistic, Verify};
    use TlsLevel::{Full, NoPostQuantum, Plaintext};
    assert_eq!(levels(&endpoint(Opportunistic), Full), [Full, NoPostQuantum, Plaintext]);
    assert_eq!(levels(&with_login(Opportunistic), Full), [Full, NoPostQuantum], "a password");
    for tls in [Encrypt, Verify, Implicit] {
        assert_eq!(levels(&endpoint(tls), Full), [Full, NoPostQuantum], "{tls:?}");
    }
}

#[test]
fn what_is_known_shortens_the_way_but_never_leads_into_the_clear_where_tls_is_required() {
    use RouteTls::{Encrypt, Implicit, Opportunistic, Verify};
    use TlsLevel::{Full, NoPostQuantum, Plaintext};
    assert_eq!(levels(&endpoint(Opportunistic), NoPostQuantum), [NoPostQuantum, Plaintext]);
    assert_eq!(levels(&endpoint(Opportunistic), Plaintext), [Plaintext]);
    assert_eq!(levels(&with_login(Opportunistic), Plaintext), [Full, NoPostQuantum], "a password");
    for tls in [Encrypt, Verify, Implicit] {
        assert_eq!(levels(&endpoint(tls), NoPostQuantum), [NoPostQuantum], "{tls:?}");
        assert_eq!(levels(&endpoint(tls), Plaintext), [Full, NoPostQuantum], "{tls:?}");
    }
}

#[test]
fn a_handshake_that_a_smaller_hello_would_not_mend_is_not_tried_again() {
    let bad = || Fault::Tls(rustls::Error::InvalidCertificate(rustls::CertificateError::Expired));
    for (fault, tls, again) in [
        (Fault::TimedOut, RouteTls::Verify, true),
        (Fault::Tls(rustls::Error::DecryptError), RouteTls::Verify, true),
        (bad(), RouteTls::Verify, false),
        (bad(), RouteTls::Implicit, false),
        (bad(), RouteTls::Encrypt, true),
        (Fault::OutOfTurn, RouteTls::Opportunistic, true),
        (Fault::OutOfTurn, RouteTls::Encrypt, false),
        (Fault::OutOfTurn, RouteTls::Verify, false),
        (Fault::Deadline, RouteTls::Opportunistic, false),
    ] {
        let evidence = Evidence::unopened(handshake(fault.clone()));
        let next = fallback(&Profile::FULL, &evidence, &endpoint(tls), &HostKnowledge::NOTHING);
        assert_eq!(next.is_some(), again, "{fault:?} with {tls:?}");
    }
    for failure in [
        Failure::Tls(TlsFailure::NotOffered(crate::mail::TlsPolicy::Route)),
        lost(Phase::Starttls),
        Failure::Dial(Fault::TimedOut),
    ] {
        let evidence = Evidence::unopened(failure.clone());
        let next =
            fallback(&Profile::FULL, &evidence, &endpoint(RouteTls::Opportunistic), &HostKnowledge::NOTHING);
        assert_eq!(next, None, "{failure}");
    }
}

/// The next profile after this evidence, on a route without TLS.
fn next(tried: Profile, evidence: &Evidence, known: HostKnowledge) -> Option<Profile> {
    fallback(&tried, evidence, &endpoint(RouteTls::Off), &known)
}

#[test]
fn commands_go_one_by_one_where_a_batch_may_be_to_blame() {
    let proved = HostKnowledge { pipelining_proved: true, ..HostKnowledge::NOTHING };
    for (evidence, known, expected, why) in [
        (reported(), proved, Some(NO_PIPELINING), "its own words"),
        (out_of_sync(503), proved, Some(NO_PIPELINING), "it lost count"),
        (silent_in_a_batch(), HostKnowledge::NOTHING, Some(NO_PIPELINING), "silence may come from it"),
        (silent_in_a_batch(), proved, None, "it took one the last time"),
        (
            Evidence { is_fresh: false, ..silent_in_a_batch() },
            HostKnowledge::NOTHING,
            None,
            "reused: proves nothing",
        ),
        (
            Evidence { failure: None, ..reported() },
            HostKnowledge::NOTHING,
            None,
            "nobody is left to try it for",
        ),
        (failed(lost(Phase::Mail)), HostKnowledge::NOTHING, None, "no batch"),
    ] {
        assert_eq!(next(Profile::FULL, &evidence, known), expected, "{why}");
    }
    assert_eq!(next(NO_PIPELINING, &failed(said(Phase::Rcpt, 503)), HostKnowledge::NOTHING), None);
}

#[test]
fn content_goes_by_data_where_bdat_fails() {
    let refused = ChunkingResult::Refused(said(Phase::EndOfData, 502));
    let broken = ChunkingResult::Broken(lost(Phase::EndOfData));
    for chunking in [refused.clone(), broken] {
        let evidence = Evidence { chunking, ..failed(lost(Phase::EndOfData)) };
        assert_eq!(next(Profile::FULL, &evidence, HostKnowledge::NOTHING), Some(NO_CHUNKING));
        assert_eq!(next(NO_CHUNKING, &evidence, HostKnowledge::NOTHING), None);
        let both = Some(Profile { pipelining: false, ..NO_CHUNKING });
        assert_eq!(
            next(NO_PIPELINING, &evidence, HostKnowledge::NOTHING),
            both,
            "what failed before stays out"
        );
    }
    assert_eq!(next(Profile::FULL, &Evidence { chunking: refused, ..well() }, HostKnowledge::NOTHING), None);
}

fn words(lessons: &[Lesson]) -> Vec<String> {
    let lesson = |lesson: &Lesson| match lesson {
        Lesson::Works(feature) => format!("{feature:?} works"),
        Lesson::LeaveOut(setting, why) => format!("{setting:?}: {}", why.reply().code),
        Lesson::PipeliningProved => "proved".to_owned(),
        Lesson::PipeliningSuspected => "suspected".to_owned(),
    };
    lessons.iter().map(lesson).collect()
}

fn learnt(tried: &[(Profile, Evidence)]) -> Vec<String> {
    words(&learn(tried, &HostKnowledge::NOTHING))
}

#[test]
fn the_tls_level_that_worked_is_learnt_with_why_the_one_above_did_not() {
    use TlsLevel::{Full, NoPostQuantum, Plaintext};
    let at = |tls| Profile { tls, ..Profile::FULL };
    let broken = |tls| (at(tls), Evidence::unopened(handshake(Fault::Lost(None))));
    let stood = |tls, result| (at(tls), Evidence::opened(result));
    let refused = || {
        let reply = Reply::bare(454, "not now").from_remote();
        TlsResult::Refused(Failure::Refused { phase: Phase::Starttls, reply })
    };
    for (tried, expected) in [
        (vec![stood(Full, TlsResult::InUse)], vec!["Tls works"]),
        (vec![stood(Full, TlsResult::NotOffered)], vec!["Tls works"]),
        (vec![stood(Full, refused())], vec!["Plaintext: 454"]),
        (vec![broken(Full), stood(NoPostQuantum, TlsResult::InUse)], vec!["NoPostQuantum: 421"]),
        (vec![broken(Full), stood(NoPostQuantum, TlsResult::NotOffered)], vec![]),
        (
            vec![broken(Full), broken(NoPostQuantum), stood(Plaintext, TlsResult::Unused)],
            vec!["Plaintext: 421"],
        ),
        (
            vec![broken(Full), broken(NoPostQuantum), (at(Plaintext), Evidence::unopened(lost(Phase::Ehlo)))],
            vec![],
        ),
        (vec![stood(NoPostQuantum, TlsResult::InUse)], vec![]),
        (vec![stood(NoPostQuantum, TlsResult::NotOffered)], vec![]),
        (vec![stood(NoPostQuantum, refused())], vec!["Plaintext: 454"]),
        (vec![broken(NoPostQuantum), stood(Plaintext, TlsResult::Unused)], vec!["Plaintext: 421"]),
        (vec![stood(Plaintext, TlsResult::Unused)], vec![]),
        (vec![broken(Full), broken(NoPostQuantum)], vec![]),
    ] {
        assert_eq!(learnt(&tried), expected, "{tried:?}");
    }
}

#[test]
fn a_host_is_remembered_as_unable_to_take_a_batch_by_its_own_words_or_where_the_next_try_goes_well() {
    let full = |evidence| (Profile::FULL, evidence);
    let without = |evidence| (NO_PIPELINING, evidence);
    let in_order = || Evidence { pipelining: PipelineResult::InOrder, ..well() };
    for (tried, expected, why) in [
        (vec![full(in_order())], vec!["Pipelining works"], "it took one"),
        (vec![full(reported())], vec!["NoPipelining: 503"], "its own words, whatever comes after"),
        (
            vec![full(reported()), without(failed(lost(Phase::Mail)))],
            vec!["NoPipelining: 503"],
            "its own words, whatever comes after",
        ),
        (vec![full(silent_in_a_batch()), without(well())], vec!["NoPipelining: 421"], "well without"),
        (vec![full(out_of_sync(500)), without(well())], vec!["NoPipelining: 500"], "well without"),
        (vec![full(silent_in_a_batch()), without(failed(lost(Phase::Mail)))], vec!["proved"], "no better"),
        (
            vec![full(out_of_sync(503)), without(Evidence { refusals: vec![503], ..well() })],
            vec!["proved"],
            "a refusal that comes without a batch too is meant",
        ),
        (
            vec![full(silent_in_a_batch()), without(Evidence::unopened(Failure::Dial(Fault::TimedOut)))],
            vec![],
            "it could not be tried",
        ),
        (
            vec![full(silent_in_a_batch()), without(Evidence { is_usable: false, ..well() })],
            vec!["proved"],
            "it broke without a batch too",
        ),
    ] {
        assert_eq!(learnt(&tried), expected, "{why}");
    }
    let proved = HostKnowledge { pipelining_proved: true, ..HostKnowledge::NOTHING };
    assert_eq!(words(&learn(&[full(silent_in_a_batch())], &proved)), ["suspected"]);
    let reused = Evidence { is_fresh: false, ..silent_in_a_batch() };
    assert_eq!(words(&learn(&[full(reused)], &proved)), [""; 0], "silence on it proves nothing");
}

#[test]
fn bdat_is_left_out_by_the_hosts_own_words_or_where_data_goes_well() {
    let at = |chunking| Evidence { chunking, ..failed(lost(Phase::EndOfData)) };
    let refused = || at(ChunkingResult::Refused(said(Phase::EndOfData, 502)));
    let broken = || at(ChunkingResult::Broken(lost(Phase::EndOfData)));
    let full = |evidence| (Profile::FULL, evidence);
    let by_data = |evidence| (NO_CHUNKING, evidence);
    for (tried, expected) in [
        (vec![full(Evidence { chunking: ChunkingResult::Taken, ..well() })], vec!["Chunking works"]),
        (vec![full(refused())], vec!["NoChunking: 502"]),
        (vec![full(refused()), by_data(failed(lost(Phase::Data)))], vec!["NoChunking: 502"]),
        (vec![full(Evidence { failure: None, ..refused() })], vec![]),
        (vec![full(broken())], vec![]),
        (vec![full(broken()), by_data(well())], vec!["NoChunking: 421"]),
        (vec![full(broken()), by_data(failed(lost(Phase::Data)))], vec![]),
    ] {
        assert_eq!(learnt(&tried), expected, "{tried:?}");
    }
}

#[test]
fn a_doubt_after_a_single_write_is_learnt_at_once() {
    for (single_write, expected) in [
        (SingleWriteResult::InDoubt(lost(Phase::EndOfData)), "NoSingleWrite: 421"),
        (SingleWriteResult::Taken, "SingleWrite works"),
    ] {
        assert_eq!(learnt(&[(Profile::FULL, Evidence { single_write, ..well() })]), [expected]);
    }
}

/// Whatever else the conversation seems to show, it may be the answer to something else.
#[test]
fn a_reply_too_many_has_each_message_go_alone_from_then_on() {
    let unasked = Evidence { unasked: Some(said(Phase::EndOfData, 550)), ..well() };
    let unclear = Evidence { failure: Some(said(Phase::Mail, 250)), ..unasked.clone() };
    let not_first = Evidence { is_fresh: false, ..out_of_sync(250) };
    let endpoint = endpoint(RouteTls::Opportunistic);
    let tls = TlsLevel::NoPostQuantum;
    let tried = Profile { tls, ..Profile::FULL };
    let alone = Profile { tls, ..Profile::ONE_BY_ONE };
    for (evidence, next) in [(&unasked, None), (&unclear, Some(alone)), (&not_first, Some(alone))] {
        assert_eq!(fallback(&tried, evidence, &endpoint, &HostKnowledge::NOTHING), next, "{evidence:?}");
        let lessons = learn(&[(tried, evidence.clone())], &HostKnowledge::NOTHING);
        let learnt = matches!(lessons[..], [Lesson::LeaveOut(Setting::NoReuse, _)]);
        assert!(learnt, "{evidence:?} taught {lessons:?}");
    }
    assert_eq!(fallback(&alone, &unclear, &endpoint, &HostKnowledge::NOTHING), None, "no way is left");
    let second = Evidence { is_fresh: false, pipelining: PipelineResult::InOrder, ..well() };
    let lessons = learn(&[(Profile::FULL, second)], &HostKnowledge::NOTHING);
    assert!(lessons.contains(&Lesson::Works(Feature::Reuse)), "{lessons:?}");
}
