//! A host has us on a block list: the operator is told once and what to do, and each recipient's refusal is kept.

use crate::harness::fakemx::{Act, At, SOON, Script};
use crate::harness::http_client::{address, get, watched};
use crate::harness::relay::{Config, World, mail};
use crate::harness::sender::{SENDER, wait_for_end};

const REFUSAL: &str = "550 5.7.1 Service unavailable; client [192.0.2.1] blocked using zen.spamhaus.org; \
                       https://check.spamhaus.org/query/192.0.2.1";
const SENDERS: usize = 60;
const RECIPIENTS: usize = 2_500;
const OF_A_MESSAGE: usize = 25;

#[test]
fn a_block_list_that_hits_2500_recipients_of_60_senders_is_one_error_and_a_few_warnings() {
    let mut world = World::new();
    let _mx = world.host("a.test", Script::new().on(At::Rcpt("@"), Act::Say(REFUSAL)));
    let at = address();
    // Their senders are told in one summary each.
    let relay = world.relay(watched(Config::new(), &[at]).set("delivery.bounces_per_sender", "1"));
    let mut client = relay.client();
    for message in 0..RECIPIENTS / OF_A_MESSAGE {
        let to = (0..OF_A_MESSAGE).map(|number| format!("r{message}x{number}@a.test")).collect::<Vec<_>>();
        let to: Vec<&str> = to.iter().map(String::as_str).collect();
        client.submit(&format!("sender{}@app.test", message % SENDERS), &to, &mail("hello"));
    }
    let all = RECIPIENTS as i64;
    relay.wait_until("every recipient to be refused", 6 * SOON, |db| {
        let refused =
            db.number("SELECT count(*) FROM history WHERE state = 'failed' AND address LIKE '%@a.test'", []);
        (refused == all).then_some(())
    });
    let errors = relay.logged(&["ERROR"]);
    assert_eq!(errors.len(), 1, "{errors:?}");
    for words in [
        "host mx.a.test[127.0.0.",
        "] refuses our mail by policy (sent from 127.0.0.1): ",
        " senders so far within an hour: 550 5.7.1 Service",
        "client [192.0.2.1] blocked using zen.spamhaus.org",
        "have our address taken off the list zen.spamhaus.org (https://check.spamhaus.org/query/192.0.2.1)",
        "postrider check --domain app.test",
        "postrider queue list --state failed --mx mx.a.test",
    ] {
        assert!(errors[0].contains(words), "{words}: {errors:?}");
    }
    let warnings = relay.logged(&["WARN", "failed to=<r"]).len();
    assert!((3..=20).contains(&warnings), "{warnings}");
    // Each has its line, counts, and is found by the command that the line names.
    assert_eq!(relay.logged(&["failed to=<r"]).len() as i64, all);
    let page = get(at, "/metrics").body;
    let counted = format!("postrider_attempts_total{{outcome=\"failed\",phase=\"rcpt\"}} {all}");
    assert!(page.contains(&counted), "{page}");
    assert!(page.contains(&format!("\npostrider_policy_refusals_total {all}\n")), "{page}");
    let listed = relay.json(&["queue", "list", "--state", "failed", "--mx", "mx.a.test", "--limit", "10000"]);
    assert_eq!(listed.len() as i64, all);
}

#[test]
fn one_recipient_refused_by_policy_is_its_own_warning_as_ever() {
    let mut world = World::new();
    let _mx = world.host("a.test", Script::new().on(At::Rcpt("@"), Act::Say(REFUSAL)));
    let relay = world.relay(Config::new());
    relay.submit(SENDER, &["you@a.test"], &mail("hello"));
    wait_for_end(&relay, "you@a.test", "failed");
    assert_eq!(relay.logged(&["WARN", "failed to=<you@a.test>", "zen.spamhaus.org"]).len(), 1);
    assert_eq!(relay.logged(&["ERROR"]), [""; 0]);
}
